"""Jobs that a filter means for a verb: previews for people, and batches for operations. Both are made of one text."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.jobs.job_filter import Filter
from pgqueue.queries.base import Query, Row, Statements, fill, first_value
from pgqueue.queries.filters import DEAD_FITS, JOB_FITS, LIVE_FITS, parameters
from pgqueue.queries.jobs.list import MOST_LOOKED, unseen_of
from pgqueue.queries.jobs.ties import ALONE, FREE, OPEN
from pgqueue.queries.operations import Operation
from pgqueue.queries.phase import PHASE

MOST_PREVIEWED = 10_000
WINDOW = 20_000  # jobs that one statement looks at

# Only jobs that were there when the operation began: a job that fails once more is not brought back again and again,
# and a task that enqueues itself does not keep an operation going for ever. A preview has no beginning.
_BEGUN: LiteralString = "(%(started_at)s::timestamptz is null or {moment} <= %(started_at)s::timestamptz)"
_ENQUEUED: LiteralString = fill(_BEGUN, moment="j.created_at::timestamptz")
_FAILED: LiteralString = fill(_BEGUN, moment="j.failed_at")
_FINISHED: LiteralString = fill(_BEGUN, moment="j.finished_at")

# A job that waits for a time or for its turn, and for nothing else.
_WAITS: LiteralString = "(j.state = 'pending' or j.state = 'blocked' and j.waits_for in ('turn', 'pause'))"


class Place(NamedTuple):
    """A table in which a verb finds jobs, and which of its jobs it takes. `words`: what a preview shows of them;
    `counted`: which of those that are to come back their workflow has counted."""

    table: LiteralString
    takes: LiteralString
    phase: LiteralString
    words: LiteralString
    counted: LiteralString = ""


def _live(takes: LiteralString) -> Place:
    return Place("job_live", f"{_ENQUEUED} and {takes} and {LIVE_FITS}", PHASE, "null::text")


_DEAD: LiteralString = "coalesce(j.error ->> 'type'::text, j.reason)"
_DEAD_LETTERS = Place("dead_letter", f"{_FAILED} and {DEAD_FITS}", "'failed'", _DEAD, f"not {OPEN}")
FAILED_JOBS: LiteralString = f"{_FAILED} and {JOB_FITS}"
CANCELLED_JOBS: LiteralString = f"{_FINISHED} and j.state = 'cancelled' and {JOB_FITS}"

# Where each kind of operation looks, place after place.
PLACES: dict[str, tuple[Place, ...]] = {
    "redrive": (_DEAD_LETTERS,),
    "discard": (_DEAD_LETTERS,),
    "cancel": (_live("(j.state <> 'running' or j.cancel_requested_at is null)"),),
    "edit": (_live("j.state in ('pending', 'blocked')"),),
    "promote": (
        _live(f"""{_WAITS} and (j.run_at::timestamptz > now()
         or %(priority)s::int is not null and j.priority::smallint <> %(priority)s::int
         and (j.lane < 0::bigint) is not true)"""),
    ),
    "retry": (
        _live(f"{_WAITS} and j.attempt > 0 and j.run_at::timestamptz > now()"),
        Place("dead_letter", FAILED_JOBS, "'failed'", _DEAD, f"not {OPEN}"),
        Place("job_finished", CANCELLED_JOBS, "'cancelled'", "j.reason", f"not {ALONE}"),
    ),
}

# Read the jobs that a verb would take, up to `limit`, from the lowest id on that is looked at (`unseen` finds it), so
# that about `looked` jobs lie above. By primary key. The bound stands beneath the filter: beside it, a filter that
# nothing fits read ten million jobs before anybody was asked, or all that are pending by another index.
# `stored` are the arguments, where a verb skips jobs whose tasks refuse them: another statement would be another trip.
_PREVIEW: LiteralString = """
select j.id, j.task::text, j.queue::text, {phase}, j.created_at::timestamptz, {words}, {stored} from (
    select * from {s}.{table} w
    where w.id >= %(unseen_below)s::bigint and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
    order by w.id limit %(looked)s::int) as j
where {takes} order by j.id limit %(limit)s::int"""

# Lock the next jobs that a verb takes. `reached` is the last id looked at, null at the end of the table. SKIP LOCKED:
# a job that an open transaction holds (an application that forgot to commit, a worker that resolves it now) must not
# hold up all others; its id comes back as `locked`, and the operation looks at it again before it ends. A job that
# somebody has changed meanwhile is among those, too, and then no longer fits. The operation's row is locked before, so
# one process at a time is here.
# A batch that is to come back takes jobs of workflows as _APART says.
# By primary key. The inner select walks over at most `window` jobs and stops at the last one that is wanted: filter and
# limit stand outside of it. With the limit beside the filter, a filter that fits nothing reads the whole table at once.
_NEXT_BATCH: LiteralString = """
with fitting as materialized (
    select j.id from (
        select * from {s}.{table} w
        where w.id > %(after)s::bigint and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
        order by w.id limit %(window)s::int
    ) as j
    where {takes} order by j.id limit %(limit)s::int
){and_free}, found as materialized (
    select j.id, j.task::text, j.args::text, j.headers::text from {s}.{table} j
    where j.id = any(array(select id from {chosen})) and {takes} order by j.id for update skip locked
){and_more}, seen as (
    select count(*) as found, max(id) as last_found from fitting
), looked as (
    select count(*) as jobs, max(near.id) as last_id from (
        select w.id from {s}.{table} w
        where w.id > %(after)s::bigint and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
        and (select seen.found from seen) < %(limit)s::int
        order by w.id limit %(window)s::int
    ) as near
)
select case when seen.found = %(limit)s::int then seen.last_found
            when looked.jobs < %(window)s::int then null else looked.last_id end,
       array(select id from fitting except select t.id from {taken} as t),
       t.id, t.task, t.args, t.headers
from seen cross join looked left join {taken} as t on true order by t.id"""

# Jobs that are to come back, and their workflows. A job that its workflow has counted comes back with that or not at
# all, so it is not locked: its workflow is. Where somebody else has that, the job is left, and found again: of two who
# have dead letters of one workflow one brings it back, and the other waits for nothing. The naive form, to lock the
# dead letters, lets each hold what the other needs: neither may wait, so both leave the workflow, or both wait.
# A callback comes back alone, by its own row, and shares its workflow with others that do, as in BESIDE. What a
# workflow that runs has counted is taken as it is, and skipped. By primary keys.
_APART: LiteralString = """, tied as materialized (
    select j.id, j.workflow_id, {counted} as counted from {s}.{table} j
    where j.id = any(array(select id from fitting)) and j.workflow_id is not null
), ended as materialized (
    select w.id from {s}.workflow w
    where w.id = any(array(select workflow_id from tied where counted)) and w.state <> 'running'
    order by w.id for update skip locked
), beside as materialized (
    select w.id from {s}.workflow w where w.id = any(array(select workflow_id from tied where not counted))
    order by w.id for key share skip locked
), elsewhere as materialized (
    select t.id from tied t join {s}.workflow w on w.id = any(array[t.workflow_id])
    where case when t.counted then w.state <> 'running' and w.id not in (select id from ended)
               else w.id not in (select id from beside) end
), alone as materialized (
    select id from fitting except select id from elsewhere except select id from tied where counted
)"""
_TOGETHER: LiteralString = """, taken as materialized (
    select * from found
    union all
    select j.id, j.task::text, j.args::text, j.headers::text from {s}.{table} j
    where j.id = any(array(select id from tied where counted except select id from elsewhere)) and {takes}
)"""


def _of(template: LiteralString, place: Place, **parts: LiteralString) -> LiteralString:
    return fill(template, table=place.table, takes=place.takes, **parts)


WITH_ARGUMENTS = ("redrive", "retry")  # kinds that skip jobs whose tasks refuse their arguments


def _stored(kind: str) -> LiteralString:
    return "j.args::text, j.headers::text" if kind in WITH_ARGUMENTS else "null::text, null::text"


PREVIEWS = {
    kind: [_of(_PREVIEW, place, phase=place.phase, words=place.words, stored=_stored(kind)) for place in places]
    for kind, places in PLACES.items()
}
UNSEENS = {kind: [unseen_of(place.table) for place in places] for kind, places in PLACES.items()}


def _parts(kind: str, place: Place) -> dict[str, LiteralString]:
    """Return what a batch locks beside the rows of its jobs, and which of them it takes."""
    if kind == "cancel":  # with their children, for those move when they end
        return {"and_free": fill(", {free}", free=fill(FREE, own="fitting")), "chosen": "free"} | _AS_FOUND
    if kind in WITH_ARGUMENTS and place.counted:
        apart, together = fill(_APART, table=place.table, counted=place.counted), _of(_TOGETHER, place)
        return {"and_free": apart, "chosen": "alone", "and_more": together, "taken": "taken"}
    return {"and_free": "", "chosen": "fitting"} | _AS_FOUND


_AS_FOUND: dict[str, LiteralString] = {"and_more": "", "taken": "found"}
NEXT_BATCHES = {
    kind: [_of(_NEXT_BATCH, place, **_parts(kind, place)) for place in places] for kind, places in PLACES.items()
}


class Chosen(NamedTuple):
    """A job as a preview shows it. `words`: the class of its error or the reason of its end, if it has one."""

    id: int
    task: str
    queue: str
    phase: str
    created_at: datetime
    words: str | None


class Preview(list[Chosen]):
    """The jobs that a verb would take now, the lowest id first, and at which jobs nobody looked.

    Not all jobs with ids below `unseen_below` were looked at, nor all from `unseen_from` on. Each is None where nothing
    was left out there.
    """

    def __init__(self, jobs: Iterable[Chosen], unseen_below: int | None = None, unseen_from: int | None = None) -> None:
        super().__init__(jobs)
        self.unseen_below, self.unseen_from = unseen_below, unseen_from

    @property
    def notice(self) -> str | None:
        """The sentence that says so, None if all jobs were looked at."""
        unseen = [] if self.unseen_below is None else [f"below {self.unseen_below}"]
        unseen += [] if self.unseen_from is None else [f"from {self.unseen_from} on"]
        if not unseen:
            return None
        return (
            f"jobs with ids {' and '.join(unseen)} were not all looked at, and more of them may fit:"
            " the operation itself looks at all, the lowest ids first"
        )


class Page(NamedTuple):
    """How many jobs a preview returns at most, and below which id it looks at none."""

    limit: int = MOST_PREVIEWED + 1
    unseen_below: int | None = None


class Candidate(NamedTuple):
    """A job of a batch, with its arguments as they are stored."""

    id: int
    task: str
    args: str
    headers: str


class Fitting(NamedTuple):
    """A job that fits, as a preview shows it; `stored`: as it is stored, for a verb that looks at arguments."""

    shown: Chosen
    stored: Candidate | None


class Batch(NamedTuple):
    """The next jobs of an operation. `reached` is None at the end of the table; `locked` are held by others."""

    reached: int | None
    locked: list[int]
    candidates: list[Candidate]

    def without(self, held: Collection[int]) -> "Batch":
        """Return the batch without jobs that could not be changed, because of what others hold."""
        left = [job for job in self.candidates if job.id not in held]
        return Batch(self.reached, sorted({*self.locked, *held}), left)


class ChosenQueries(Statements):
    """Jobs that a filter means for a verb."""

    def unseen(self, kind: str, place: int) -> Query[int | None]:
        """Tell below which id a preview of this place does not look; None if it looks at all jobs."""
        return Query(self._sql(UNSEENS[kind][place]), first_value, {"before": None, "looked": MOST_LOOKED})

    def preview(
        self, kind: str, place: int, chosen: Filter, page: Page, priority: int | None = None
    ) -> Query[list[Fitting]]:
        """Read the jobs of one place that a verb would take, of those that are looked at."""
        params = parameters(chosen) | {"limit": page.limit, "started_at": None}
        params["unseen_below"] = page.unseen_below or 0
        params["looked"] = MOST_LOOKED if chosen.ids is None else len(chosen.ids)
        if kind == "promote":
            params["priority"] = priority
        return Query(self._sql(PREVIEWS[kind][place]), lambda rows: [_fitting(row) for row in rows], params)

    def next_batch(
        self, operation: Operation, chosen: Filter, place: int, limit: int, only: Sequence[int] | None = None
    ) -> Query[Batch]:
        """Lock the next jobs of an operation at a place: after those it has reached, or `only` these."""
        params = parameters(chosen) | {"started_at": operation.started_at, "limit": limit, "window": WINDOW}
        params["after"] = operation.reached if only is None else 0
        if only is not None:
            params["ids"] = list(only)
        if operation.kind == "promote":
            params["priority"] = operation.options.get("priority")
        return Query(self._sql(NEXT_BATCHES[operation.kind][place]), _batch, params)


def _fitting(row: Row) -> Fitting:
    shown = Chosen(*row[:6])
    return Fitting(shown, None if row[6] is None else Candidate(shown.id, shown.task, *row[6:]))


def _batch(rows: Sequence[Row]) -> Batch:
    reached, locked = rows[0][:2]
    return Batch(reached, sorted(locked), [Candidate(*row[2:]) for row in rows if row[2] is not None])
