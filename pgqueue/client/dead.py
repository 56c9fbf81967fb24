"""Dead letters as operators use them: seen in groups, brought back, edited, annotated, discarded."""

import builtins
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Unpack

from pgqueue.client.actor import who
from pgqueue.client.bulk import check_changes, check_kind, check_options, check_reason, check_text, edited
from pgqueue.client.operations import OperationOptions, OperationVerbs, ReviveOptions
from pgqueue.client.settings import check_before, check_limit
from pgqueue.client.steps import Steps, Transaction, all_or_nothing, verb
from pgqueue.client.waiting import possible_id
from pgqueue.errors import InvalidOption, UnknownJob
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import Job
from pgqueue.queries.chosen import MOST_PREVIEWED, Candidate, Preview
from pgqueue.queries.dead import DeadGroup, DeadQueries
from pgqueue.queries.operations import Operation


class RedriveOptions(ReviveOptions, total=False):
    """Options of a redrive. `rate`: how many jobs become due a second. `attempts`: how often each may run, instead of
    what it had. `delay`: seconds until the first is due. `queue`: where they go instead of their own."""

    rate: float | None
    attempts: int | None
    delay: float | timedelta | None
    queue: str | None


class DeadLetters(OperationVerbs):
    """The verbs on dead letters: `app.dead`. Each has an async twin with an `a`.

    A verb on many dead letters inserts a row into `pgqueue.operation` first, which says what it is to do. Then it works
    through them in batches, each in a transaction of its own. If this process dies, a worker goes on within a minute:
    nothing is lost or done twice.
    """

    def using(self, conn: object) -> "DeadLetters":
        """Bind a connection to borrow: what these verbs do takes effect with the rest of its transaction, or not at
        all. There a verb on many dead letters needs a `limit`, and leaves those that another transaction holds."""
        return DeadLetters(self._app, conn)

    @property
    def _queries(self) -> DeadQueries:
        return self._app.queries.dead

    @verb
    def groups(self, limit: int = 100) -> Steps[builtins.list[DeadGroup]]:
        """Return dead letters by the fingerprint of their error, the latest failure first."""
        found: builtins.list[DeadGroup] = yield self._queries.groups(check_limit(limit))
        return found

    agroups = groups.twin

    @verb
    def list(self, chosen: DeadFilter, limit: int = 100, before: int | None = None) -> Steps[builtins.list[Job]]:
        """Return the newest dead letters that fit."""
        check_kind(chosen, DeadFilter)
        page = check_before(before), check_limit(limit)
        found: builtins.list[Job] = yield self._queries.list(chosen, *page)
        return found

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def preview(
        self,
        chosen: DeadFilter,
        limit: int = MOST_PREVIEWED + 1,
        *,
        kind: str = "redrive",
        within: Collection[str] | None = None,
    ) -> Steps[Preview]:
        """Return the dead letters that a verb, `redrive` or `discard`, would take now, the lowest id first, up to
        `limit`; without those that a redrive would skip, `within` some queues if these are given.

        It looks at the newest 200,000, and finds out of the first `limit` that fit, or 1,000, whether a redrive skips
        them. `unseen_below` and `unseen_from` of the preview say below and from which id it did not look, and `notice`
        says it in words. The verb itself looks at all.
        """
        check_kind(chosen, DeadFilter)
        if kind not in ("redrive", "discard"):
            raise InvalidOption(f"kind={kind!r:.100} cannot be previewed: give redrive or discard")
        options = check_options({"within": within})
        found: Preview = yield Transaction(self._previewed(kind, chosen, check_limit(limit), options))
        return found

    apreview = preview.twin

    @verb
    def redrive(self, chosen: DeadFilter, **options: Unpack[RedriveOptions]) -> Steps[Operation]:
        """Bring dead letters back as pending jobs, with their ids, their history and all their attempts.

        Those whose arguments the task of this app no longer takes are skipped, and stay dead letters. One of a workflow
        comes back with its workflow, as `app.workflows.retry` does, and is skipped while that runs. Raises
        InvalidOption for a filter that fits all: say DeadFilter(task="*").
        """
        how = {name: options.get(name) for name in ("rate", "attempts", "delay", "queue", "within")}
        return (yield from self._operate("redrive", chosen, how, options))

    aredrive = redrive.twin

    @verb
    def discard(self, chosen: DeadFilter, *, reason: str, **options: Unpack[OperationOptions]) -> Steps[Operation]:
        """End dead letters as cancelled jobs, with a reason; they stay in the history as long as others."""
        if not check_reason(reason).strip():
            raise InvalidOption("discard without a reason: say why nobody will want these jobs any more")
        return (yield from self._operate("discard", chosen, {"reason": reason}, options))

    adiscard = discard.twin

    @verb
    @all_or_nothing
    def edit(self, job_id: int, changes: Mapping[str, Any], *, by: str | None = None) -> Steps[Job]:
        """Change arguments of a dead letter; the log keeps what they were. It stays a dead letter: `redrive` it.

        Raises UnknownJob if there is no dead letter with this id, InvalidArguments if the task would not take them,
        UnknownKey or CannotOpen if they are sealed and this app cannot open them.
        """
        check_changes(changes)
        found: Candidate | None = yield self._queries.lock_dead(possible_id(job_id))
        if found is None:
            raise UnknownJob(f"there is no dead letter {job_id}")
        yield self._queries.edit(job_id, edited(self._app, found, changes), f"edited by {who(by)}")
        job: Job = yield self._app.queries.jobs.get(job_id)
        return job

    aedit = edit.twin

    @verb
    @all_or_nothing
    def annotate(self, job_id: int, text: str, *, by: str | None = None) -> Steps[Job]:
        """Put a note on a dead letter, for whoever looks at it next: `Job.notes` and `pgqueue dead show` have it.

        The newest 20 notes stay as long as the dead letter does, and go with the job when it is redriven or discarded.
        They are not encrypted. Raises UnknownJob if there is no dead letter with this id, InvalidOption unless the note
        has 1 to 1000 characters that Postgres can store.
        """
        annotated: int = yield self._queries.annotate(possible_id(job_id), check_text("text", text), who(by))
        if not annotated:
            raise UnknownJob(f"there is no dead letter {job_id}")
        job: Job = yield self._app.queries.jobs.get(job_id)
        return job

    aannotate = annotate.twin
