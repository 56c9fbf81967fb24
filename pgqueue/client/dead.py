"""Dead letters as operators use them: seen in groups, brought back, edited, discarded."""

import builtins
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypedDict, Unpack

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.operations import RATE, finish
from pgqueue.client.settings import check_optional_count
from pgqueue.client.steps import OWN_CONNECTION, StepRunner, Steps, all_or_nothing, verb
from pgqueue.config import check_queue
from pgqueue.errors import CannotOpen, InvalidArguments, InvalidOption, UnknownJob, UnknownKey
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import Job
from pgqueue.queries.dead import Candidate, DeadGroup, DeadLetter, DeadQueries
from pgqueue.queries.operations import Operation
from pgqueue.tasks.sealing import open_args, seal_args
from pgqueue.timing import DELAY, check_duration, check_optional_duration


class OperationOptions(TypedDict, total=False):
    """Options of a verb on many dead letters. `limit`: how many at most, the lowest ids first. `by`: who acts; the
    default is the user of this process. `via`: through what."""

    limit: int | None
    by: str | None
    via: str


class RedriveOptions(OperationOptions, total=False):
    """Options of a redrive. `rate`: how many jobs become due a second. `attempts`: how often each may run, instead of
    what it had. `delay`: seconds until the first is due. `queue`: where they go instead of their own."""

    rate: float | None
    attempts: int | None
    delay: float | timedelta | None
    queue: str | None


class DeadLetters:
    """The verbs on dead letters: `app.dead`. Each has an async twin with an `a`.

    A verb on many dead letters inserts a row into `pgqueue.operation` first, which says what it is to do. Then it works
    through them in batches, each in a transaction of its own. If this process dies, a worker goes on within a minute:
    nothing is lost or done twice.
    """

    def __init__(self, app: AppParts) -> None:
        self._app = app
        self._runner = StepRunner(app, OWN_CONNECTION)

    @property
    def _queries(self) -> DeadQueries:
        return self._app.queries.dead

    @verb
    def groups(self, limit: int = 100) -> Steps[builtins.list[DeadGroup]]:
        """Return dead letters by the fingerprint of their error, the latest failure first."""
        found: builtins.list[DeadGroup] = yield self._queries.groups(limit)
        return found

    agroups = groups.twin

    @verb
    def list(self, chosen: DeadFilter, limit: int = 100, before: int | None = None) -> Steps[builtins.list[Job]]:
        """Return the newest dead letters that fit."""
        found: builtins.list[Job] = yield self._queries.list(chosen, before, limit)
        return found

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def preview(self, chosen: DeadFilter, limit: int = 10_001) -> Steps[builtins.list[DeadLetter]]:
        """Return the dead letters that `redrive` or `discard` would take now, the lowest id first, up to `limit`."""
        found: builtins.list[DeadLetter] = yield self._queries.preview(chosen, limit)
        return found

    apreview = preview.twin

    @verb
    def redrive(self, chosen: DeadFilter, **options: Unpack[RedriveOptions]) -> Steps[Operation]:
        """Bring dead letters back as pending jobs, with their ids, their history and all their attempts.

        Those whose arguments the task of this app no longer takes are skipped, and stay dead letters. Raises
        InvalidOption for a filter that fits all: say DeadFilter(task="*").
        """
        rate, queue = options.get("rate"), options.get("queue")
        how = {
            "rate": None if rate is None else check_duration("rate", rate, RATE),
            "attempts": check_optional_count("attempts", options.get("attempts")),
            "delay": check_optional_duration("delay", options.get("delay"), DELAY),
            "queue": None if queue is None else check_queue(queue),
            "limit": check_optional_count("limit", options.get("limit")),
        }
        return (yield from self._operate("redrive", chosen, how, options))

    aredrive = redrive.twin

    @verb
    def discard(self, chosen: DeadFilter, *, reason: str, **options: Unpack[OperationOptions]) -> Steps[Operation]:
        """End dead letters as cancelled jobs, with a reason; they stay in the history as long as others."""
        if not reason.strip():
            raise InvalidOption("discard without a reason: say why nobody will want these jobs any more")
        how = {"reason": reason, "limit": check_optional_count("limit", options.get("limit"))}
        return (yield from self._operate("discard", chosen, how, options))

    adiscard = discard.twin

    @verb
    @all_or_nothing
    def edit(self, job_id: int, changes: Mapping[str, Any], *, by: str | None = None) -> Steps[Job]:
        """Change arguments of a dead letter; the log keeps what they were. It stays a dead letter: `redrive` it.

        Raises UnknownJob if there is no dead letter with this id, InvalidArguments if the task would not take them,
        UnknownKey or CannotOpen if they are sealed and this app cannot open them.
        """
        found: Candidate | None = yield self._queries.lock_dead(job_id)
        if found is None:
            raise UnknownJob(f"there is no dead letter {job_id}")
        args = json.loads(open_args(self._app.queries.jobs.codec, found.task, found.args)) | dict(changes)
        changed = found._replace(args=json.dumps(args))
        spec = self._app.tasks.get(found.task)
        if spec is not None:
            try:
                spec.arguments(changed)
            except (UnknownKey, CannotOpen):
                raise
            except Exception as error:  # noqa: BLE001 - a user's own validators and upcasters may raise anything
                raise InvalidArguments(found.task, [str(error)]) from None
        codec = self._app.queries.jobs.codec
        text = changed.args if codec is None else seal_args(codec, found.task, changed.args)
        yield self._queries.edit(job_id, text, f"edited by {who(by)}")
        job: Job = yield self._app.queries.jobs.get(job_id)
        return job

    aedit = edit.twin

    def _operate(
        self, kind: str, chosen: DeadFilter, how: Mapping[str, Any], options: OperationOptions
    ) -> Steps[Operation]:
        if chosen.fits_all:
            raise InvalidOption(f"{kind} without a filter would take every dead letter: if you mean that, say task='*'")
        given = {name: value for name, value in how.items() if value is not None}
        actor, via = who(options.get("by")), options.get("via", "python")
        operation: int = yield self._app.queries.operations.begin(kind, chosen, given, actor, via)
        return (yield from finish(self._app, operation))
