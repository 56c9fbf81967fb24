"""What is checked of the turns of metered jobs: each check returns the violations that a log of moves proves.

The numbers are those of the project's list for flow control (FL). The moves of a bucket are logged while its row is
locked, so the order of the log is the order in which they were made.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pgqueue.jobs.flow import Flow

from .violation import Violation

TERMINAL = ("succeeded", "failed", "cancelled")
IN_FLIGHT = timedelta(seconds=2)  # how long a claim may take: what was there before it began, it has seen
PROMPT = timedelta(milliseconds=50)  # between the moment for which a rate admits a claim, and its log
NEVER = datetime.max.replace(tzinfo=UTC)
PAGES = 30  # of a claim of plain jobs that finds none: beside any number of metered jobs it touches about a dozen
REASONS = ("skipped: ", "replaced by a newer job: ")


@dataclass(frozen=True)
class Move:
    """One line of the log of a job."""

    at: datetime
    job: int
    source: str | None
    target: str
    reason: str | None = None
    due: datetime | None = None  # its run_at afterwards, where that is known

    @property
    def starts(self) -> bool:
        """Whether the job begins to run."""
        return self.target == "running" and self.source != "running"

    @property
    def leaves(self) -> bool:
        """Whether the job does not run any more."""
        return self.source == "running" and self.target != "running"

    @property
    def ends(self) -> bool:
        """Whether the job ends for good."""
        return self.target in TERMINAL


@dataclass(frozen=True)
class Term:
    """How many jobs of each bucket of a rule may run, None for any number; in force from `since` to `until`."""

    since: datetime
    until: datetime
    most: int | None


@dataclass(frozen=True)
class Drift:
    """A counter that differed in a snapshot from what ran, or a bucket that had no or several rows."""

    at: datetime
    bucket: str
    ran: int
    counted: int
    rows: int


@dataclass(frozen=True)
class Stop:
    """A pause of `kind` (queue, task, limit or key), for certain in force from `since` to `until`."""

    kind: str
    name: str
    since: datetime
    until: datetime

    def holds(self, flow: Flow) -> bool:
        """Whether it is about jobs of a flow; all are of one queue and one task."""
        if self.kind == "limit":
            return any(bucket.split("/", 1)[0] == self.name for bucket in flow.buckets)
        return self.kind != "key" or self.name in flow.buckets


@dataclass(frozen=True)
class Look:
    """A claim of plain jobs that was explained: how many pages it touched while so many metered jobs waited."""

    waiting: int
    pages: int


@dataclass
class Turns:
    """The evidence about metered jobs.

    `known`: when it was certain that a job was committed. `begun`: jobs, and from when to when the statement ran that
    claimed each. `unsaid`: jobs that had waited for a second, and what held each back and was not told. `probes`:
    breakers half open of which several jobs ran.
    """

    flows: Mapping[int, Flow]
    moves: Sequence[Move]  # in order
    terms: Mapping[str, Sequence[Term]] = field(default_factory=dict)
    rates: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    known: Mapping[int, datetime] = field(default_factory=dict)
    due: Mapping[int, datetime] = field(default_factory=dict)  # run_at of jobs as they were enqueued
    attempts: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # attempt and lease at the end
    shut: frozenset[str] = frozenset()  # buckets that never had room
    drifts: Sequence[Drift] = ()
    counters: Mapping[str, int] = field(default_factory=dict)  # at the end
    reconciled: Sequence[str] = ()
    stops: Sequence[Stop] = ()
    begun: Sequence[tuple[int, datetime, datetime]] = ()
    looks: Sequence[Look] = ()
    unsaid: Sequence[tuple[int, str]] = ()
    probes: Sequence[tuple[datetime, str, int]] = ()

    def terms_of(self, bucket: str, since: datetime, until: datetime) -> list[int | None]:
        """Return the limits of a bucket that were in force at any time between two moments; none without a rule."""
        rule = bucket.split("/", 1)[0]
        return [term.most for term in self.terms.get(rule, ()) if term.since <= until and term.until >= since]


def within_limits(turns: Turns) -> Iterator[Violation]:
    """FL1: of each bucket no more run than the greatest limit allows that was in force since its oldest claim."""
    running: dict[str, dict[int, datetime]] = defaultdict(dict)
    for move in turns.moves:
        for bucket in turns.flows[move.job].buckets:
            if move.leaves:
                running[bucket].pop(move.job, None)
            elif move.starts:
                running[bucket][move.job] = move.at
                found = turns.terms_of(bucket, min(running[bucket].values()) - IN_FLIGHT, move.at)
                limits = [limit for limit in found if limit is not None]
                if limits and len(limits) == len(found) and len(running[bucket]) > max(limits):
                    jobs = sorted(running[bucket])
                    yield Violation("FL1", f"{bucket}: jobs {jobs} ran at {move.at.isoformat()}, limit {max(limits)}")


def counters(turns: Turns) -> Iterator[Violation]:
    """FL2: in each snapshot a counter is the number of jobs that run, a bucket has one row, and at the end 0 run."""
    for drift in turns.drifts:
        told = f"the counter of {drift.bucket} said {drift.counted} in {drift.rows} rows, and {drift.ran} ran"
        yield Violation("FL2", f"{told}, at {drift.at.isoformat()}")
    for bucket, count in turns.counters.items():
        if count:
            yield Violation("FL2", f"the counter of {bucket} says {count} at the end")
    for line in turns.reconciled:
        yield Violation("FL2", f"a worker found a counter that was wrong: {line}")


def rates(turns: Turns) -> Iterator[Violation]:
    """FL3: no window of a rate's seconds has more starts than its number."""
    starts: dict[str, list[datetime]] = defaultdict(list)
    for move in turns.moves:
        if move.starts:
            for bucket in turns.flows[move.job].buckets:
                if bucket.split("/", 1)[0] in turns.rates:
                    starts[bucket].append(move.at)
    for bucket, moments in starts.items():
        count, seconds = turns.rates[bucket.split("/", 1)[0]]
        for first, last in zip(moments, moments[count:], strict=False):
            if last - first < timedelta(seconds=seconds) - PROMPT:
                yield Violation("FL3", f"{bucket}: {count + 1} starts in {last - first} from {first.isoformat()} on")


def in_order(turns: Turns) -> Iterator[Violation]:
    """FL4: a job of an ordered lane does not begin while one before it waits, runs, or is tried again."""
    waiting: dict[int, list[int]] = defaultdict(list)
    for job, flow in sorted(turns.flows.items()):
        if flow.order is not None:
            waiting[flow.lane].append(job)
    begun: set[int] = set()
    for move in turns.moves:
        flow = turns.flows[move.job]
        if flow.order is None:
            continue
        line = waiting[flow.lane]
        if move.source in TERMINAL and move.job not in line:
            insort(line, move.job)  # somebody has brought it back
            begun.discard(move.job)
        if move.starts:
            for job in line[: bisect_left(line, move.job)]:
                known = turns.known.get(job)
                if job in begun or (known is not None and known < move.at - IN_FLIGHT):
                    told = f"job {move.job} began at {move.at.isoformat()} before job {job}"
                    yield Violation("FL4", f"{flow.order}: {told}")
            begun.add(move.job)
        if move.ends and move.job in line:
            line.remove(move.job)


def refused(turns: Turns) -> Iterator[Violation]:
    """FL8: a job that a limit refuses spends no attempt and leaves no trace in the log."""
    starts = Counter(move.job for move in turns.moves if move.starts)
    for move in turns.moves:
        if move.source == "blocked" and not move.starts and not move.ends and move.target != "blocked":
            yield Violation("FL8", f"job {move.job} moved from blocked to {move.target}")
    for job, (attempt, lease) in turns.attempts.items():
        if lease != starts[job] or attempt > starts[job]:
            yield Violation("FL8", f"job {job} has attempt {attempt} and lease {lease}, and began {starts[job]} times")
    for job, flow in turns.flows.items():
        if turns.shut.intersection(flow.buckets) and starts[job]:
            yield Violation("FL8", f"job {job} began, though its bucket has no room")


def full_buckets(turns: Turns) -> Iterator[Violation]:
    """FL9: a job that is skipped or replaced has not begun, its bucket was full, and a newer one waits or has begun.

    A newer one that has begun was the newest that waited when the statement began, which then waited for the bucket.
    """
    running: dict[str, set[int]] = defaultdict(set)
    waiting: dict[int, dict[int, datetime]] = defaultdict(dict)  # of each lane, and when they are due
    begun: dict[int, list[tuple[datetime, int, datetime]]] = defaultdict(list)  # and when they began
    for move in turns.moves:
        flow, lane = turns.flows[move.job], waiting[turns.flows[move.job].lane]
        for bucket in flow.buckets:
            if move.starts:
                running[bucket].add(move.job)
            elif move.leaves or move.ends:
                running[bucket].discard(move.job)
        mine = lane.get(move.job, turns.due[move.job]), move.job
        if move.starts or move.ends:
            lane.pop(move.job, None)
        elif move.source in (None, "blocked"):
            lane[move.job] = move.due or mine[0]
        else:
            lane[move.job] = NEVER  # it has come back: whether it is newer depends on when it is due
        if move.starts:
            begun[flow.lane].append((*mine, move.at))
        if not (move.target == "cancelled" and (move.reason or "").startswith(REASONS)):
            continue
        if move.source != "blocked":
            yield Violation("FL9", f"job {move.job} was {move.source} and is {move.reason}")
        bucket = str(move.reason).split(": ", 1)[1].removesuffix(" is full")
        most = [term for term in turns.terms_of(bucket, move.at - IN_FLIGHT, move.at) if term is not None]
        if not most or len(running[bucket]) < min(most):
            yield Violation("FL9", f"job {move.job} is {move.reason}, and {len(running[bucket])} ran")
        newer = any((due, job) > mine for job, due in lane.items())
        ran = any((due, job) > mine and at > move.at - IN_FLIGHT for due, job, at in begun[flow.lane])
        if str(move.reason).startswith("replaced") and mine[0] != NEVER and not newer and not ran:
            yield Violation("FL9", f"job {move.job} is {move.reason}, and none is newer")


def apart(turns: Turns) -> Iterator[Violation]:
    """FL6: how many pages a claim of plain jobs touches does not depend on how many metered jobs wait."""
    for look in turns.looks:
        if look.pages > PAGES:
            yield Violation(
                "FL6", f"a claim of plain jobs touched {look.pages} pages beside {look.waiting} metered ones"
            )


def paused(turns: Turns) -> Iterator[Violation]:
    """FL7: no statement claims a job that began after a pause of its queue, task, limit or key was committed."""
    for job, began, done in turns.begun:
        for stop in turns.stops:
            if stop.since < began and done < stop.until and stop.holds(turns.flows[job]):
                yield Violation("FL7", f"job {job} was claimed from {began.isoformat()} on: {stop}")


def said(turns: Turns) -> Iterator[Violation]:
    """FL10: of each job that waits it can be told what holds it back."""
    for job, what in turns.unsaid:
        yield Violation("FL10", f"job {job} waits, and is not told that this holds it back: {what}")


def half_open(turns: Turns) -> Iterator[Violation]:
    """FL12: a breaker that is half open lets one job run at a time."""
    for at, bucket, count in turns.probes:
        yield Violation("FL12", f"{count} jobs of {bucket}, which is half open, ran at {at.isoformat()}")


CHECKS = (within_limits, counters, rates, in_order, refused, full_buckets, apart, paused, said, half_open)


def check_turns(turns: Turns) -> list[Violation]:
    """Return every violation that the evidence proves."""
    return [violation for check in CHECKS for violation in check(turns)]


AUDIT = """
with ran as (
    select b.name, count(*)::int as jobs from pgqueue.job_live j
    cross join lateral jsonb_array_elements_text(j.headers -> '$flow' -> 'buckets') as b(name)
    where j.state = 'running' group by b.name
), counted as (
    select b.name, count(u.name)::int as lines, coalesce(sum(u.taken - f.freed), 0)::int as jobs
    from pgqueue.limit_bucket b left join pgqueue.limit_use u on u.name = b.name
    left join pgqueue.limit_freed f on f.name = b.name group by b.name
)
select clock_timestamp(), coalesce(r.name, c.name), coalesce(r.jobs, 0), coalesce(c.jobs, 0), coalesce(c.lines, 0)
from ran r full join counted c on c.name = r.name
where coalesce(r.jobs, 0) <> coalesce(c.jobs, 0) or c.lines is distinct from 1"""

# Buckets whose breaker has opened, and was not closed by a success since, with the jobs of each that run and began when
# its cooldown was over.
HALF_OPEN = """
select clock_timestamp(), f.name, (
    select count(*)::int from pgqueue.job_live j
    where j.state = 'running' and j.claimed_at >= f.closed_until and j.headers -> '$flow' -> 'buckets' ? f.name)
from pgqueue.limit_freed f join pgqueue.limit_rule r on r.name = f.rule
where f.opened > 0 and r.breaker_failures is not null"""
