"""Statements for tests of users' apps: those of production under a clock that travels, and a few of their own."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from psycopg.sql import Composable

from pgqueue.codecs import Codec
from pgqueue.jobs.job import ClaimedJob, Job
from pgqueue.queries import Queries
from pgqueue.queries.base import Query, Templates, fill, first_value, nothing
from pgqueue.queries.jobs.claim import MOVE_PICKED, claimed_jobs
from pgqueue.queries.jobs.parts import NOT_PAUSED, PAUSED
from pgqueue.queries.jobs.read import JOB, JobReadQueries
from pgqueue.queries.jobs.turns import PAUSED as RULE_PAUSED
from pgqueue.queries.jobs.turns import WAITS
from pgqueue.queries.phase import PHASE
from pgqueue.queries.schedules import ScheduleQueries
from pgqueue.queries.schedules.fire import CLOCK

_CLOCKS = re.compile(r"\b(now|statement_timestamp|clock_timestamp)\(\)")

# A row that was there before this transaction. Rows of this transaction and of its savepoints, also those from before
# the fixture was set up, carry a transaction id that is not older than the transaction's own.
_FOREIGN: LiteralString = "xmin::text::bigint < (pg_current_xact_id()::text::bigint & 4294967295)"

# What commit() and rollback() do on a connection whose transaction the test rolls back in the end.
BEGIN: LiteralString = "savepoint pgqueue_test"
COMMIT: LiteralString = "release savepoint pgqueue_test; savepoint pgqueue_test"
UNDO: LiteralString = "rollback to savepoint pgqueue_test"

# Find the newest foreign job. The statement walks each table backwards from its highest id.
NEWEST_FOREIGN: LiteralString = fill(
    """
select greatest(0, (select id from {s}.job_live where {foreign} order by id desc limit 1),
                (select id from {s}.job_finished where {foreign} order by id desc limit 1),
                (select id from {s}.dead_letter where {foreign} order by id desc limit 1))""",
    foreign=_FOREIGN,
)

# Whether a job belongs to a workflow. By primary keys, in any partition: tests have few.
IN_WORKFLOW: LiteralString = "select j.workflow_id is not null from {s}.job j where j.id = %(id)s::bigint"

# Count the foreign jobs that wait in these queues: a test that ran them would lock them, and do their work.
COUNT_FOREIGN: LiteralString = fill(
    """
select count(*) from {s}.job_live
where state in ('pending', 'blocked') and id <= %(newest)s and queue::text = any(%(queues)s::text[]) and {foreign}""",
    foreign=_FOREIGN,
)

LIST_QUEUES: LiteralString = "select distinct queue from {s}.job_live order by queue"

LIST_AFTER: LiteralString = fill("select {job}, null from {s}.job j where j.id > %(after)s order by j.id", job=JOB)

# Claim one job by its id, due or not: what a worker's CLAIM does, but for how it finds the row. A metered job is
# claimed whatever its rules say, and counts nowhere: jobs of a test run one at a time.
CLAIM_ONE: LiteralString = fill(
    """
with picked as materialized (
    select j.id, j.state from {s}.job_live j where j.id = %(id)s and (j.state = 'pending' or {waits}) for update
), {move_picked}""",
    waits=WAITS,
    move_picked=MOVE_PICKED,
)

# The jobs that wait for a time or for their turn in these queues, but for those that a pause holds, of whatever: of the
# queue, the task, a rule or a key. Of a lane in order only the first.
_WAITING: LiteralString = fill(
    """{s}.job_live j
where (j.state = 'pending' or {waits}) and j.queue::text = any(%(queues)s::text[])
and not exists (select from {s}.queue q where q.name = j.queue::text and {queue_paused})
and {not_paused}
and not exists (
    select from jsonb_array_elements_text(j.headers::jsonb -> '$flow'::text -> 'buckets'::text) as b(name)
    left join {s}.limit_rule r on r.name = split_part(b.name, '/', 1)
    left join {s}.limit_key k on k.rule = split_part(b.name, '/', 1) and strpos(b.name, '/') > 0
        and k.key = substr(b.name, strpos(b.name, '/') + 1)
    where {rule_paused} or {key_paused})
and (coalesce(j.lane >= 0::bigint, true) or not exists (
    select from {s}.job_live o where o.state = 'blocked' and o.waits_for = 'turn' and o.queue::text = j.queue::text
    and o.lane = j.lane and (o.priority::smallint > j.priority::smallint
                             or o.priority::smallint = j.priority::smallint and o.id < j.id)))
and (j.expires_at is null or j.expires_at > now() or j.attempt > 0)""",
    waits=WAITS,
    queue_paused=PAUSED,
    not_paused=NOT_PAUSED,
    rule_paused=fill(RULE_PAUSED, p="r"),
    key_paused=fill(RULE_PAUSED, p="k"),
)

# The next due jobs of these queues, plain and metered ones in one line: by queue, priority, run_at and id.
NEXT_JOBS: LiteralString = fill(
    """
select j.id, j.lane is not null from {waiting} and j.run_at::timestamptz <= now()
order by array_position(%(queues)s::text[], j.queue::text), j.priority desc, j.run_at, j.id limit %(at_most)s::int""",
    waiting=_WAITING,
)

# In how many seconds the next metered job of these queues is due, as NEXT_DUE tells of plain ones.
NEXT_TURN: LiteralString = fill(
    """
select extract(epoch from min(j.run_at::timestamptz) - clock_timestamp())::float8
from {waiting} and j.lane is not null""",
    waiting=_WAITING,
)

# Set the times of one attempt by the test's clock, in columns that took them from the real clock or from the beginning
# of the transaction.
STAMP: LiteralString = """
with moved as (
    update {s}.transition set at = at + %(offset)s
    where %(offset)s <> interval '0' and job_id = %(id)s and lease = %(lease)s
), dead_lettered as (
    update {s}.dead_letter set failed_at = clock_timestamp() where id = %(id)s
)
update {s}.job_finished set finished_at = clock_timestamp() where id = %(id)s"""


class TravellingTemplates(Templates):
    """Templates whose clock is `offset` ahead of the database's, and goes on within a transaction.

    In production each statement of a worker is a transaction of its own. Here they share one, so `now()`, which is the
    beginning of the transaction, becomes the beginning of the statement. Nothing in production knows of this class.
    """

    def __init__(self, schema: str, offset: timedelta) -> None:
        super().__init__(schema)
        self._offset = offset

    def render(self, template: LiteralString, **parts: Composable) -> bytes:
        """Return a template with its names and the test's clock put in."""
        return super().render(self._travelled(template), **parts)

    def _travelled(self, template: LiteralString) -> LiteralString:
        ahead = f" + interval '{self._offset.total_seconds():.6f} seconds'" if self._offset else ""

        def clock(found: re.Match[str]) -> str:
            name = "statement_timestamp" if found[1] == "now" else found[1]
            return f"({name}(){ahead})"

        if self._offset:  # the view reads the real clock
            template = template.replace("j.phase", f"({PHASE})")
        return _CLOCKS.sub(clock, template)


class TravellingQueries(Queries):
    """All statements under a clock that travels, and those that only tests need."""

    def __init__(self, schema: str, offset: timedelta = timedelta(0), codec: Codec | None = None) -> None:
        templates = TravellingTemplates(schema, offset)
        super().__init__(schema, codec, templates=templates)
        self.offset = offset
        self.schedules = TravellingSchedules(templates, codec)
        self.test = TestQueries(templates, codec, offset)


class TravellingSchedules(ScheduleQueries):
    """Statements about schedules, under the test's clock."""

    def clock(self) -> Query[datetime]:
        """Read the test's clock."""
        return Query(self._sql(CLOCK), first_value)


class TestQueries(JobReadQueries):
    """Statements that only tests need."""

    __test__ = False

    def __init__(self, templates: Templates, codec: Codec | None, offset: timedelta) -> None:
        super().__init__(templates, codec)
        self._offset = offset

    def savepoint(self, number: int) -> Query[None]:
        """Set a savepoint where a job begins. The transaction goes back there if the job has left it aborted."""
        return Query(b"savepoint pgqueue_job_%d" % number, nothing)

    def roll_back(self, number: int) -> Query[None]:
        """Go back to the savepoint of a job."""
        return Query(b"rollback to savepoint pgqueue_job_%d" % number, nothing)

    def release(self, number: int) -> Query[None]:
        """Release the savepoint of a job.

        This fails if the task has ended that savepoint. The second savepoint is for that case; otherwise both go.
        """
        return Query(b"savepoint pgqueue_guard; release savepoint pgqueue_job_%d" % number, nothing)

    def recover(self) -> Query[None]:
        """Go on after a `release` that failed."""
        return Query(b"rollback to savepoint pgqueue_guard; release savepoint pgqueue_guard", nothing)

    def newest_foreign(self) -> Query[int]:
        """Find the highest id of a job that was there before this transaction."""
        return Query(self._sql(NEWEST_FOREIGN), first_value)

    def in_workflow(self, job: int) -> Query[bool]:
        """Whether a job belongs to a workflow."""
        return Query(self._sql(IN_WORKFLOW), first_value, {"id": job})

    def count_foreign(self, newest: int, queues: Sequence[str]) -> Query[int]:
        """Count the jobs in these queues that were there before this transaction."""
        return Query(self._sql(COUNT_FOREIGN), first_value, {"newest": newest, "queues": list(queues)})

    def list_queues(self) -> Query[list[str]]:
        """List the queues that hold jobs."""
        return Query(self._sql(LIST_QUEUES), lambda rows: [row[0] for row in rows])

    def list_after(self, job_id: int) -> Query[list[Job]]:
        """List jobs with a higher id, oldest first, without their attempts."""
        return Query(self._sql(LIST_AFTER), lambda rows: [self._job(row) for row in rows], {"after": job_id})

    def claim_one(self, worker: UUID, job_id: int) -> Query[list[ClaimedJob]]:
        """Claim one job, if it is pending or waits for its turn."""
        params = {"worker": worker, "id": job_id}
        return Query(self._sql(CLAIM_ONE), lambda rows: claimed_jobs(rows, worker), params)

    def next_jobs(self, queues: Sequence[str], at_most: int) -> Query[list[tuple[int, bool]]]:
        """Find the next due jobs: their ids, and whether they are metered."""
        params = {"queues": list(queues), "at_most": at_most}
        return Query(self._sql(NEXT_JOBS), lambda rows: [(row[0], row[1]) for row in rows], params)

    def next_turn(self, queues: Sequence[str]) -> Query[float | None]:
        """Tell in how many seconds the next metered job is due; None if none waits."""
        return Query(self._sql(NEXT_TURN), first_value, {"queues": list(queues)})

    def stamp(self, job: ClaimedJob) -> Query[None]:
        """Set the times of an attempt by the test's clock."""
        return Query(self._sql(STAMP), nothing, {"id": job.id, "lease": job.lease, "offset": self._offset})
