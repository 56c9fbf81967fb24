"""Pruning: what has ended and is older than retention keeps it goes. The verbs `app.pruning`, and what workers do."""

import builtins
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.steps import OWN_CONNECTION, StepRunner, Steps, Transaction, verb
from pgqueue.jobs.retention import Age, RetentionRule, check_rule
from pgqueue.queries import Queries
from pgqueue.queries.base import statement_timeout
from pgqueue.queries.partitions import PartitionState, empty_defaults
from pgqueue.queries.retention import OldPartition, Rule, Sweep

BATCH = 500
WORKFLOWS = 10  # whose edges are deleted by one statement
SHORTEST, STEP = 60.0, 1.25  # seconds that counted jobs are kept at least, and how their age grows
REST = 0.02  # seconds between two batches
PATIENCE = 600.0  # seconds that reading an old partition may take
SAMPLED = 100.0  # pages of a partition that are read to estimate what would go
PAGE = 8192


@dataclass(frozen=True, slots=True)
class Pruned:
    """What is pruned of one table or partition: `rows` and `bytes`, which are estimates where `estimated`.

    `how`: its rows are deleted, or it is emptied as a whole (then its space is free at once), or dropped.
    """

    name: str
    how: str
    rows: int
    bytes: int | None
    estimated: bool = False


class Pruning:
    """The verbs on retention: `app.pruning`. Each has an async twin with an `a`."""

    def __init__(self, app: AppParts) -> None:
        self._app = app
        self._runner = StepRunner(app, OWN_CONNECTION)

    @verb
    def rules(self) -> Steps[builtins.list[Rule]]:
        """Return how long is kept what has ended: the rules that hold, and who made each."""
        found: list[Rule] = yield self._app.queries.retention.rules()
        return found

    arules = rules.twin

    @verb
    def set(self, name: str, age: Age, queue: str = "*", task: str = "*", by: str | None = None) -> Steps[None]:
        """Set how long is kept what `name` says, such as "succeeded"; it wins over what the code declares.

        Raises InvalidOption for what is no age, no name of a rule, or no queue or task.
        """
        yield self._app.queries.retention.set_rule(check_rule(name, age, queue, task), who(by))

    aset = set.twin  # noqa: A003  # the verb above

    @verb
    def unset(self, name: str, queue: str = "*", task: str = "*") -> Steps[bool]:
        """Take a rule that `set` made away: what the code declares holds again, or the default. False: none was."""
        check_rule(name, None, queue, task)
        there: bool = yield self._app.queries.retention.unset_rule(name, queue, task)
        return there

    aunset = unset.twin

    @verb
    def preview(self) -> Steps[builtins.list[Pruned]]:
        """Return what `run` would prune now. Jobs that are deleted one by one are estimated from a sample."""
        return (yield from _preview(self._app.queries))

    apreview = preview.twin

    @verb
    def run(self) -> Steps[builtins.list[Pruned]]:
        """Prune what is old; return what went. What somebody's transaction holds is left for the next time."""
        done: list[Pruned] = []
        yield from prune(self._app.queries, done.append, _always)
        return done

    arun = run.twin

    @verb
    def repair(self) -> Steps[builtins.list[PartitionState]]:
        """Empty the default partitions of the histories, and make missing partitions; return how each history is then.

        Rows move a day at a time, and readers see each once. What somebody's transaction holds is left: try again.
        """
        return (yield from repair(self._app.queries))

    arepair = repair.twin


def repair(queries: Queries) -> Steps[list[PartitionState]]:
    """Empty default partitions and make missing ones; return what is still wrong."""
    partitions = queries.partitions
    yield from (*empty_defaults(partitions), partitions.make())
    states: list[PartitionState] = yield partitions.states()
    return states


def shortened(queries: Queries, rules: Sequence[RetentionRule]) -> Steps[list[RetentionRule]]:
    """Return rules with the ages that they have by the number of jobs that have ended lately, where they count those.

    The ages grow in steps of a quarter: whoever sweeps begins anew when a rule changes, and so does it seldom.
    """
    counting = [rule for rule in rules if rule.most is not None]
    if not counting:
        return list(rules)
    reaches: list[float | None] = yield queries.activity.reaches(counting)
    found = dict(zip(counting, reaches, strict=True))
    return [replace(rule, seconds=_shorter(rule.seconds, found.get(rule))) for rule in rules]


def _shorter(age: float | None, reach: float | None) -> float | None:
    if age is None or reach is None:
        return age
    return min(age, math.ceil(SHORTEST * STEP ** math.ceil(math.log(max(reach, SHORTEST) / SHORTEST, STEP))))


def prune(queries: Queries, note: Callable[[Pruned], object], goes_on: Callable[[], bool]) -> Steps[bool]:
    """Prune what is old, each batch in a transaction of its own, while `goes_on()`; return whether all of it is done.

    What somebody's transaction holds is left. Any number of processes may call it: they take turns.
    """
    allowed: bool = yield queries.retention.allowed()
    whole = True
    if allowed:
        whole = yield from _retire(queries, note, goes_on)
    swept = yield from _sweep(queries, note, goes_on, whole=allowed)
    yield from _prune_dead(queries, note, goes_on)
    for table, query in (
        ("schedule_fire", queries.retention.prune_ticks(BATCH)),
        ("operation", queries.retention.prune_operations(BATCH)),
        ("workflow", queries.workflows.prune(WORKFLOWS)),
    ):
        rows = 0
        while goes_on() and (gone := (yield query)):
            rows += gone
            yield queries.retention.rest(REST)
        if rows:
            note(Pruned(table, "deleted", rows, None))
    yield queries.retention.forget()
    return whole and swept


def _retire(queries: Queries, note: Callable[[Pruned], object], goes_on: Callable[[], bool]) -> Steps[bool]:
    """Empty old partitions, then drop those that are empty; return whether none of them is left for the next time."""
    whole = True
    for part in (yield queries.retention.old_partitions()):
        if part.heap_bytes and part.due and goes_on():
            emptied: bool = yield Transaction(_empty(queries, part))
            whole = whole and emptied
            if emptied:
                note(Pruned(part.name, "emptied", part.rows, part.bytes, estimated=True))
    busy: set[str] = set()
    for part in (yield queries.retention.old_partitions()):
        if part.heap_bytes == 0 and part.history not in busy and goes_on():
            if (yield queries.retention.drop_partition(part.name)):
                note(Pruned(part.name, "dropped", 0, part.bytes))
                yield queries.retention.rest(REST)
            else:
                busy.add(part.history)  # the locks of its parent are tried for once
    return whole and not busy


def _empty(queries: Queries, part: OldPartition) -> Steps[bool]:
    yield statement_timeout(PATIENCE)
    emptied: bool = yield queries.retention.empty_partition(part.name)
    return emptied


def _sweep(
    queries: Queries, note: Callable[[Pruned], object], goes_on: Callable[[], bool], *, whole: bool
) -> Steps[bool]:
    """Delete the jobs whose rule is shorter than that of their partition; return whether it could be done."""
    done = True
    for found in (yield queries.retention.sweeps(whole)):
        sweep: Sweep = found
        rows, more = 0, True
        while more and sweep.block < sweep.blocks and goes_on():
            gone, mine, more = yield queries.retention.sweep(sweep)
            rows, done = rows + gone, done and mine
            sweep = sweep.next_range
            if gone:
                yield queries.retention.rest(REST)
        if rows:
            note(Pruned(sweep.name, "deleted", rows, None))
    return done


def _prune_dead(queries: Queries, note: Callable[[Pruned], object], goes_on: Callable[[], bool]) -> Steps[None]:
    rows, after = 0, None
    while goes_on():
        gone, failed_at, last = yield queries.retention.prune_dead(BATCH, after)
        rows += gone
        if failed_at is None:
            break
        after = (failed_at, last)
        yield queries.retention.rest(REST)
    if rows:
        note(Pruned("dead_letter", "deleted", rows, None))


def _preview(queries: Queries) -> Steps[list[Pruned]]:
    allowed: bool = yield queries.retention.allowed()
    found: list[Pruned] = []
    if allowed:
        found += [_whole(part) for part in (yield queries.retention.old_partitions())]
    sweeps: list[Sweep] = yield queries.retention.sweeps(allowed)
    for sweep in {sweep.name: sweep for sweep in sweeps}.values():
        percent = min(100.0, 100.0 * SAMPLED / sweep.blocks)
        seen, old = yield queries.retention.sample(sweep, percent)
        if old:
            rows = round(old * 100 / percent)
            found.append(Pruned(sweep.name, "deleted", rows, sweep.blocks * PAGE * old // seen, percent < 100))
    found += _counted((yield queries.retention.count_old()))
    return found


def _whole(part: OldPartition) -> Pruned:
    how = "emptied" if part.heap_bytes else "dropped"
    return Pruned(part.name, how, part.rows if part.heap_bytes else 0, part.bytes, estimated=part.heap_bytes > 0)


def _counted(counts: list[tuple[str, int]]) -> Iterator[Pruned]:
    return (Pruned(table, "deleted", rows, None) for table, rows in counts if rows)


def _always() -> bool:
    return True
