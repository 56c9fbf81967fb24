"""Operations in progress: each batch in a transaction of its own, by whichever process comes to it."""

import builtins
from collections.abc import Mapping, Sequence
from typing import Any

from pgqueue.client.app_parts import AppParts
from pgqueue.client.settings import check_optional_count
from pgqueue.client.steps import OWN_CONNECTION, StepRunner, Steps, Transaction, verb
from pgqueue.config import check_queue
from pgqueue.errors import CannotOpen, InvalidOption, UnknownJob, UnknownKey
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.queries.dead import Batch, Candidate
from pgqueue.queries.operations import Operation
from pgqueue.tasks.versions import NewerVersion, UnknownParameters
from pgqueue.timing import DELAY, Bounds, check_duration

BATCH = 500
RATE = Bounds(0.001, 100_000, timedeltas=False)  # jobs a second


class Operations:
    """The verbs on operations: `app.operations`. Each has an async twin with an `a`."""

    def __init__(self, app: AppParts) -> None:
        self._app = app
        self._runner = StepRunner(app, OWN_CONNECTION)

    @verb
    def list(self, limit: int = 20) -> Steps[builtins.list[Operation]]:
        """Return the newest operations."""
        found: builtins.list[Operation] = yield self._app.queries.operations.list(limit)
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
        if (yield self._app.queries.operations.stop(operation_id)) is None:
            found = yield from _found(self._app, operation_id)
            raise InvalidOption(f"operation {operation_id} does not run: it {_state(found)}")
        return (yield from _found(self._app, operation_id))

    astop = stop.twin

    @verb
    def resume(self, operation_id: int) -> Steps[Operation]:
        """Let a stopped operation go on, and finish it."""
        yield self._app.queries.operations.resume(operation_id)
        return (yield from finish(self._app, operation_id))

    aresume = resume.twin


def finish(app: AppParts, operation: int) -> Steps[Operation]:
    """Work on an operation until it has ended or was stopped; return how it is then."""
    while (yield from next_batch(app, operation)) is not None:
        pass
    return (yield from _found(app, operation))


def next_batch(app: AppParts, operation: int) -> Steps[int | None]:
    """Do a batch of an operation in a transaction of its own; return its id if it has more to do."""
    more: int | None = yield Transaction(_lock_and_work(app, operation))
    return more


def _lock_and_work(app: AppParts, operation: int) -> Steps[int | None]:
    locked: Operation | None = yield app.queries.operations.lock(operation)
    return None if locked is None else (yield from work_on(app, locked))


def _found(app: AppParts, operation: int) -> Steps[Operation]:
    found: Sequence[Operation] = yield app.queries.operations.list(1, operation)
    if not found:
        raise UnknownJob(f"there is no operation {operation}")
    return found[0]


def _state(operation: Operation) -> str:
    return "has ended" if operation.ended_at else "is stopped" if operation.stopped_at else "runs"


def work_on(app: AppParts, operation: Operation) -> Steps[int | None]:
    """Do a batch of an operation that this transaction has locked; return its id if it has more to do."""
    queries = app.queries.dead
    try:
        chosen, options = _read_filter(operation), _read_options(operation)
    except InvalidOption as error:
        yield app.queries.operations.fail(operation.id, str(error))
        return None
    limit = options.get("limit")
    size = BATCH if limit is None else min(BATCH, limit - operation.done)
    batch: Batch = yield queries.next_batch(operation, chosen, size)
    done = 0
    good = [one.id for one in batch.candidates if operation.kind == "discard" or _takes(app, one)]
    if good and operation.kind == "redrive":
        reason = f"redriven by {operation.actor} (operation {operation.id})"
        done = yield queries.redrive(operation.id, good, reason, options)
    elif good:
        reason = f"discarded by {operation.actor} (operation {operation.id}): {options.get('reason', '')}"
        done = yield queries.discard(good, reason)
    reached = None if limit is not None and operation.done + done >= limit else batch.reached
    yield app.queries.operations.move(operation.id, done, len(batch.candidates) - len(good), reached)
    return None if reached is None else operation.id


def _read_filter(operation: Operation) -> DeadFilter:
    """Return the filter of an operation. Raises InvalidOption for one that fits all, or that cannot be read."""
    chosen = DeadFilter.of_json(operation.filter)
    if chosen.fits_all:
        raise InvalidOption("the filter of the operation is empty, and would take every dead letter")
    return chosen


def _read_options(operation: Operation) -> Mapping[str, Any]:
    """Return the options of an operation. Raises InvalidOption for those that SQL has written wrongly."""
    options = operation.options
    for name in ("rate", "delay"):
        if name in options:
            check_duration(name, options[name], RATE if name == "rate" else DELAY)
    for name in ("attempts", "limit"):
        check_optional_count(name, options.get(name))
    if "queue" in options:
        check_queue(options["queue"])
    return options


def _takes(app: AppParts, candidate: Candidate) -> bool:
    """Whether the task of this app takes the arguments; true where only another release or app can tell."""
    spec = app.tasks.get(candidate.task)
    if spec is None:
        return True
    try:
        spec.arguments(candidate)
    except (NewerVersion, UnknownParameters, UnknownKey, CannotOpen):
        return True  # a worker that knows it takes it
    except Exception:  # noqa: BLE001 - a user's own validators and upcasters may raise anything
        return False
    return True
