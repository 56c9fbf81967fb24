"""Operations in progress: each batch in a transaction of its own, by whichever process comes to it."""

import builtins
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.bulk import KINDS, Acted, Kind, Work, check_filter, check_options, read_filter, read_options, takes
from pgqueue.client.operation_hooks import BRINGING_BACK, hooked
from pgqueue.client.previewing import previewed
from pgqueue.client.settings import check_limit
from pgqueue.client.steps import OWN_CONNECTION, Ask, StepRunner, Steps, Transaction, verb
from pgqueue.config import check_name
from pgqueue.errors import InvalidOption, UnknownJob
from pgqueue.jobs.job_filter import Filter
from pgqueue.queries.base import sleep
from pgqueue.queries.chosen import Batch, Preview
from pgqueue.queries.operations import Moved, Operation

BATCH = 500
END = 2**63 - 1  # as `reached`: nothing is left in this place but jobs that others hold
MOST_LOCKED = 10_000  # ids that an operation remembers; before it passes by more, it waits for some of these
MOST_AT_ONCE = 10_000  # jobs that one transaction of a caller changes: it holds their rows until its end
PAUSE = 0.2  # seconds between looks at jobs that others hold
PATIENCE = 10.0  # seconds for which the client waits for them; then a worker looks again every half minute

Watcher = Callable[[Operation], object]


class OperationOptions(TypedDict, total=False):
    """Options of a verb on many jobs. `limit`: how many at most, the lowest ids first. `by`: who acts; the default is
    the user of this process. `via`: through what. `on_batch`: called after each batch, with how far the operation is.
    """

    limit: int | None
    by: str | None
    via: str
    on_batch: Watcher | None


class ReviveOptions(OperationOptions, total=False):
    """Options of a verb that brings jobs back. `within`: the only queues of which jobs may come back. A job whose
    workflow would bring back others, too, is skipped."""

    within: Collection[str] | None


class Operations:
    """The verbs on operations: `app.operations`. Each has an async twin with an `a`."""

    def __init__(self, app: AppParts) -> None:
        self._app = app
        self._runner = StepRunner(app, OWN_CONNECTION)

    @verb
    def list(self, limit: int = 20) -> Steps[builtins.list[Operation]]:
        """Return the newest operations."""
        found: builtins.list[Operation] = yield self._app.queries.operations.list(check_limit(limit))
        return found

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def get(self, operation_id: int) -> Steps[Operation]:
        """Return an operation. Raises UnknownJob."""
        return (yield from _found(self._app, operation_id))

    aget = get.twin

    @verb
    def stop(self, operation_id: int) -> Steps[Operation]:
        """Stop an operation after its present batch. What it has done stays done."""
        if (yield self._app.queries.operations.stop(_possible(operation_id))) is None:
            found = yield from _found(self._app, operation_id)
            how = "is stopped" if found.state == "stopped" else "has ended"
            raise InvalidOption(f"operation {operation_id} does not run: it {how}")
        return (yield from _found(self._app, operation_id))

    astop = stop.twin

    @verb
    def resume(self, operation_id: int, *, on_batch: Watcher | None = None) -> Steps[Operation]:
        """Let a stopped operation go on, or one whose client is gone, and finish it."""
        check_watcher(on_batch)
        yield self._app.queries.operations.resume(_possible(operation_id))
        return (yield from finish(self._app, operation_id, on_batch))

    aresume = resume.twin


class OperationVerbs:
    """What verbs on many jobs have in common: they write down what they are to do, and then do it in batches."""

    def __init__(self, app: AppParts, conn: object = OWN_CONNECTION) -> None:
        self._app = app
        self._runner = StepRunner(app, conn)

    def _previewed(self, kind: str, chosen: Filter, limit: int, options: Mapping[str, Any]) -> Steps[Preview]:
        """Read the jobs that a verb would take."""
        if not self._runner.borrows:  # a setting of the transaction, and the caller's would keep it
            yield self._app.queries.jobs.prefer_indexes()
        return (yield from previewed(self._app, kind, chosen, limit, options))

    def _operate(
        self, kind: str, chosen: Filter, how: Mapping[str, Any], options: OperationOptions
    ) -> Steps[Operation]:
        """Insert the row of an operation and work on it: in batches that commit, or in the caller's transaction."""
        steps, hooks = self._begin_and_work(kind, chosen, how, options), self._app.operation_hooks
        return (yield from hooked(hooks, steps) if hooks and kind in BRINGING_BACK else steps)

    def _begin_and_work(
        self, kind: str, chosen: Filter, how: Mapping[str, Any], options: OperationOptions
    ) -> Steps[Operation]:
        check_filter(kind, chosen)
        given = check_options({**how, "limit": options.get("limit")})
        actor, via = who(options.get("by")), check_name("via", options.get("via", "python"))
        check_watcher(options.get("on_batch"))
        begin = self._app.queries.operations.begin(kind, chosen, given, actor, via)
        if not self._runner.borrows or (yield Ask.AUTOCOMMITS):
            operation: int = yield begin
            return (yield from finish(self._app, operation, options.get("on_batch")))
        check_at_once(kind, given.get("limit"))
        return (yield from _within(self._app, (yield begin), options.get("on_batch")))


def check_watcher(on_batch: object) -> None:
    """Raise InvalidOption unless it is None or can be called: the first batch has committed when it is."""
    if on_batch is not None and not callable(on_batch):
        raise InvalidOption(f"on_batch={on_batch!r:.100} cannot be used: give a function of an operation")


def _possible(operation: object) -> int:
    """Return a number that Postgres can look for. Raises InvalidOption for what is none, UnknownJob for others."""
    if type(operation) is not int:
        raise InvalidOption(f"operation id {operation!r:.100} cannot be used: give a whole number")
    if abs(operation) > END:
        raise UnknownJob(f"there is no operation {operation}")
    return operation


def check_at_once(kind: str, limit: int | None) -> None:
    """Raise InvalidOption unless it is a limit that an open transaction may have."""
    if limit is None or limit > MOST_AT_ONCE:
        raise InvalidOption(
            f"{kind} in an open transaction needs limit=1 to {MOST_AT_ONCE}: the rows stay locked until that ends"
        )


def _within(app: AppParts, operation: int, on_batch: Watcher | None) -> Steps[Operation]:
    """Do all of an operation in the open transaction. Jobs that another transaction holds are skipped for good."""
    while True:
        locked: Operation | None = yield app.queries.operations.lock(operation)
        if locked is None:
            return (yield from _found(app, operation))
        now = (yield from work_on(app, locked, leave_locked=True)).operation
        if on_batch is not None:
            on_batch(now)


def finish(app: AppParts, operation: int, on_batch: Watcher | None = None) -> Steps[Operation]:
    """Work on an operation until it has ended or was stopped, or only jobs are left that open transactions hold for
    longer than PATIENCE; return how it is then."""
    waited = 0.0
    while (batch := (yield from next_batch(app, operation))) is not None:
        if on_batch is not None:
            on_batch(batch.operation)
        if not batch.is_stuck:
            waited = 0.0
        elif waited >= PATIENCE:
            break
        else:
            yield sleep(PAUSE)
            waited += PAUSE
    return (yield from _found(app, operation))


class DoneBatch(NamedTuple):
    """An operation after a batch. `is_stuck`: others hold all the jobs that it came to."""

    operation: Operation
    is_stuck: bool


def next_batch(app: AppParts, operation: int) -> Steps[DoneBatch | None]:
    """Do a batch of an operation in a transaction of its own; None if it has ended or is stopped."""
    done: DoneBatch | None = yield Transaction(_lock_and_work(app, operation))
    return done


def _lock_and_work(app: AppParts, operation: int) -> Steps[DoneBatch | None]:
    locked: Operation | None = yield app.queries.operations.lock(operation)
    return None if locked is None else (yield from work_on(app, locked))


def _found(app: AppParts, operation: int) -> Steps[Operation]:
    found: Sequence[Operation] = yield app.queries.operations.list(1, _possible(operation))
    if not found:
        raise UnknownJob(f"there is no operation {operation}")
    return found[0]


def work_on(app: AppParts, operation: Operation, *, leave_locked: bool = False) -> Steps[DoneBatch]:
    """Do a batch of an operation that this transaction has locked; return how it is then.

    `leave_locked`: do not come back to jobs that others hold.
    """
    kind = KINDS.get(operation.kind)
    if kind is None:
        raise InvalidOption(f"operation {operation.id} is a {operation.kind}: this release of pgqueue has no such kind")
    try:
        chosen, options = read_filter(operation), read_options(operation)
    except InvalidOption as error:
        yield app.queries.operations.fail(operation.id, str(error))
        return DoneBatch((yield from _found(app, operation.id)), is_stuck=False)
    limit = options.get("limit")
    size = BATCH if limit is None else min(BATCH, limit - operation.done)
    places = kind.places(chosen)
    again = operation.locked[:size] if _comes_back(operation) else None
    batch: Batch = yield app.queries.chosen.next_batch(operation, chosen, places[operation.place], size, again)
    done, held = yield from _act(app, kind, Work(operation, options, places[operation.place], batch.candidates))
    batch = batch.without(held)
    moved = _moved(operation, len(places), batch, done, again)
    if leave_locked:
        moved = moved._replace(locked=(), skipped=moved.skipped + len(moved.locked))
        moved = _arrived(moved, len(places))
    if limit is not None and operation.done + done >= limit:
        moved = moved._replace(ended=True)
    now: Operation = yield app.queries.operations.move(operation.id, moved)
    return DoneBatch(now, is_stuck=again is not None and len(batch.locked) == len(again))


def _comes_back(operation: Operation) -> bool:
    """Whether the next batch is of jobs that others held before."""
    return bool(operation.locked) and (operation.reached == END or len(operation.locked) >= MOST_LOCKED)


def _act(app: AppParts, kind: Kind, work: Work) -> Steps[Acted]:
    good = [job for job in work.jobs if not kind.checks_arguments or takes(app, job)]
    return (yield from kind.act(app, work._replace(jobs=good))) if good else Acted(0)


def _moved(operation: Operation, places: int, batch: Batch, done: int, again: Sequence[int] | None) -> Moved:
    """Return where an operation is after a batch."""
    skipped = len(batch.candidates) - done
    if again is None:
        reached, before = END if batch.reached is None else batch.reached, operation.locked
    else:
        reached, before = operation.reached, operation.locked[len(again) :]
    return _arrived(Moved(done, skipped, operation.place, reached, [*before, *batch.locked], ended=False), places)


def _arrived(moved: Moved, places: int) -> Moved:
    """Go on to the next place, or end, where nothing is left in this one."""
    if moved.reached != END or moved.locked:
        return moved
    if moved.place + 1 < places:
        return moved._replace(place=moved.place + 1, reached=0)
    return moved._replace(ended=True)
