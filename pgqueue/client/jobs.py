"""Jobs as operators use them in bulk: by a filter listed, previewed, cancelled, retried, promoted, edited."""

import builtins
from collections.abc import Collection, Mapping
from typing import Any, Unpack

from pgqueue.client.bulk import check_filter, check_kind, check_options, sealed_changes
from pgqueue.client.changes import EditOptions, check_edit
from pgqueue.client.operations import OperationOptions, OperationVerbs, ReviveOptions
from pgqueue.client.settings import check_before, check_limit
from pgqueue.client.steps import Steps, Transaction, verb
from pgqueue.errors import InvalidOption
from pgqueue.jobs.job import Job
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.listed import ListedJobs
from pgqueue.queries.chosen import MOST_PREVIEWED, Preview
from pgqueue.queries.operations import Operation


class CancelOptions(OperationOptions, total=False):
    """Options of a cancellation in bulk. `reason`: what the history says, instead of who did it."""

    reason: str | None


class PromoteOptions(OperationOptions, total=False):
    """Options of a promotion in bulk. `priority`: what the jobs get instead of their own."""

    priority: int | None


class BulkEditOptions(OperationOptions, EditOptions, total=False):
    """Options of an edit in bulk."""


class Jobs(OperationVerbs):
    """The verbs on many jobs: `app.jobs`. Each has an async twin with an `a`. Those on one job are the app's own.

    A verb inserts a row into `pgqueue.operation` first, which says what it is to do. Then it works through the jobs in
    batches, each in a transaction of its own. If this process dies, a worker goes on within a minute: nothing is lost
    or done twice. Which jobs fit is decided when it comes to them; jobs enqueued after it began are left alone.
    """

    def using(self, conn: object) -> "Jobs":
        """Bind a connection to borrow: what these verbs do takes effect with the rest of its transaction, or not at
        all. There each verb needs a `limit`, and leaves jobs that another transaction holds."""
        return Jobs(self._app, conn)

    @verb
    def list(self, chosen: JobFilter, limit: int = 100, before: int | None = None) -> Steps[ListedJobs]:
        """Return the newest jobs that fit, without their attempts; `before`: with ids below this one.

        It looks at the newest 200,000 jobs, and at all of a state that has fewer than 10,000. Where it found fewer than
        `limit` and did not look at the rest, `unseen_below` of the list says below which id, and `notice` says it in
        words.
        """
        check_kind(chosen, JobFilter)
        listed = self._listed(chosen, check_limit(limit), check_before(before))
        found: ListedJobs = yield Transaction(listed)
        return found

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def preview(
        self,
        kind: str,
        chosen: JobFilter,
        limit: int = MOST_PREVIEWED + 1,
        *,
        priority: int | None = None,
        within: Collection[str] | None = None,
    ) -> Steps[Preview]:
        """Return the jobs that a verb (`cancel`, `retry`, `promote` or `edit`) would take now, up to `limit`. A retry
        `within` some queues takes no job with whose workflow others would come back.

        It looks at the newest 200,000 jobs: that have not ended, for `retry` also of the dead letters and of those that
        have ended. It finds out of the first `limit` that fit, or 1,000 of each, whether a retry skips them.
        `unseen_below` and `unseen_from` of the preview say below and from which id not all were looked at, and `notice`
        says it in words. The verb itself looks at all.
        """
        if kind not in ("cancel", "retry", "promote", "edit"):
            raise InvalidOption(f"kind={kind!r:.100} cannot be previewed: give cancel, retry, promote or edit")
        check_filter(kind, chosen)
        check_limit(limit)
        options = check_options({"priority": priority, "within": within})
        found: Preview = yield Transaction(self._previewed(kind, chosen, limit, options))
        return found

    apreview = preview.twin

    @verb
    def cancel(self, chosen: JobFilter, **options: Unpack[CancelOptions]) -> Steps[Operation]:
        """Cancel jobs: those that wait end, and the workers of those that run are asked to stop them.

        Raises InvalidOption for a filter that fits all: say JobFilter(task="*").
        """
        return (yield from self._operate("cancel", chosen, {"reason": options.get("reason")}, options))

    acancel = cancel.twin

    @verb
    def retry(self, chosen: JobFilter, **options: Unpack[ReviveOptions]) -> Steps[Operation]:
        """Let jobs run again now: those that wait for their next attempt, and dead letters. Cancelled jobs come back
        only where the filter says so, by state="cancelled" or by ids.

        Dead letters and cancelled jobs whose arguments the task of this app no longer takes are skipped.
        """
        return (yield from self._operate("retry", chosen, {"within": options.get("within")}, options))

    aretry = retry.twin

    @verb
    def promote(self, chosen: JobFilter, **options: Unpack[PromoteOptions]) -> Steps[Operation]:
        """Make jobs due now that wait for a later time, with another priority if one is given."""
        return (yield from self._operate("promote", chosen, {"priority": options.get("priority")}, options))

    apromote = promote.twin

    @verb
    def edit(
        self, chosen: JobFilter, changes: Mapping[str, Any] | None = None, **options: Unpack[BulkEditOptions]
    ) -> Steps[Operation]:
        """Change arguments, queue, priority or run time of jobs that wait; the log keeps what they were.

        Jobs whose task here would not take the arguments are skipped, as are those whose arguments are sealed with a
        key that is not here.
        """
        how = check_edit(changes, options)
        if changes:
            how["set"] = sealed_changes(self._app, changes)
        return (yield from self._operate("edit", chosen, how, options))

    aedit = edit.twin

    def _listed(self, chosen: JobFilter, limit: int, before: int | None) -> Steps[ListedJobs]:
        if not self._runner.borrows:  # a setting of the transaction, and the caller's would keep it
            yield self._app.queries.jobs.prefer_indexes()
        found: builtins.list[Job] = yield self._app.queries.jobs.list(chosen, before, limit)
        if len(found) == limit or chosen.ids is not None:
            return ListedJobs(found)
        return ListedJobs(found, (yield self._app.queries.jobs.unseen(chosen, before)))
