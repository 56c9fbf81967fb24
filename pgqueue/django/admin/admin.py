"""Jobs, dead letters and schedules, for `admin.site.urls`."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest

from pgqueue.client.recording import RecordedStep, recorded
from pgqueue.dashboard.filters import Asked, dead_filter, job_filter, read_id
from pgqueue.dashboard.formats import brief
from pgqueue.dashboard.redaction import without_secrets
from pgqueue.django.admin.lists import Chosen, QueueFilter, Rows, StateFilter, TaskFilter, of_texts
from pgqueue.django.admin.models import DeadLetter, Job, Schedule
from pgqueue.django.admin.pages import LISTED, EnginePage, ReasonForm, as_text, ids_of, reason_of
from pgqueue.django.admin.sight import VIA, Sight, sight_of
from pgqueue.errors import NotFound, PgqueueError
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import Job as FoundJob
from pgqueue.jobs.job import JobState
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.listed import ListedJobs
from pgqueue.printable import printable
from pgqueue.queries.operations import Operation

SCHEDULE_STATES = ("active", "paused", "disabled", "over", "broken")
MOST_SCHEDULES = 1000
NOT_SHOWN = "You may not see it."


class _JobPage(EnginePage):
    """Jobs and dead letters: the columns and the parts of one."""

    room = "jobs"
    action_form = ReasonForm
    search_fields = ("id", "task")
    search_help_text = "The id of a job, or the name of a task, with * for any characters."
    fields = (
        "id", "task", "queue", "priority", "state", "attempts", "run_at", "created_at", "finished_at", "tags",
        "arguments", "headers", "result", "error", "notes",
    )  # fmt: skip
    readonly_fields = fields

    @admin.display(description="attempt")
    def attempts(self, row: Any) -> str:
        """Return how many attempts of how many."""
        return f"{row.found.attempt}/{row.found.max_attempts}"

    def tags(self, row: Any) -> str:
        """Return the tags."""
        return printable(", ".join(row.found.tags))

    def arguments(self, row: Any) -> Any:
        """Return the arguments, as the dashboard shows them."""
        return self._shown(row, "args", row.found.args) if row.sight.access.shows("arguments") else NOT_SHOWN

    def headers(self, row: Any) -> Any:
        """Return the headers that are the caller's."""
        own = {name: value for name, value in row.found.headers.items() if not name.startswith("$")}
        return self._shown(row, "headers", own)

    def result(self, row: Any) -> Any:
        """Return what the task has returned."""
        return self._shown(row, "result", row.found.result) if row.sight.access.shows("results") else NOT_SHOWN

    def error(self, row: Any) -> Any:
        """Return the last error, with its traceback."""
        error = row.found.error or next(reversed(row.found.errors), None)
        if error is None:
            return None
        if not row.sight.access.shows("tracebacks"):
            return printable(error.type)
        return as_text(error.traceback or f"{error.type}: {error.message}")

    def notes(self, row: Any) -> Any:
        """Return the notes on a dead letter."""
        return as_text("\n".join(f"{note.by}: {note.text}" for note in row.found.notes)) if row.found.notes else None

    def _shown(self, row: Any, part: str, value: Any) -> Any:
        return None if value is None else as_text(row.sight.redaction.shown(row.found, part, value))

    def found(self, sight: Sight, key: str) -> FoundJob | None:
        """Return a job with its attempts."""
        with sight.looking() as conn:
            try:
                return sight.app.using(conn).get(read_id(key))
            except NotFound:
                return None


@admin.register(Job)
class JobPage(_JobPage):
    """All jobs, the newest first."""

    list_display = ("id", "task", "queue", "state", "attempts", "priority", "run_at", "created_at", "finished_at")
    list_filter = (StateFilter, QueueFilter, TaskFilter)
    actions = ("cancel", "retry", "run_now")

    def page(self, request: HttpRequest, asked: Asked, after: str | None) -> Rows:
        """Return the newest jobs that fit, as the dashboard lists them."""
        sight = sight_of(request)
        chosen, before = job_filter(asked), None if after is None else read_id(after)
        with sight.looking() as conn:
            listed: ListedJobs = sight.app.jobs.using(conn).list(chosen, LISTED, before)
        last = listed[-1].id if len(listed) == LISTED else listed.unseen_below
        return Rows([Job.of(job) for job in listed], last, listed.notice)

    def row(self, sight: Sight, key: str) -> Any:
        """Return one job."""
        found = self.found(sight, key)
        return None if found is None else Job.of(found)

    @admin.action(permissions=["change"], description="Cancel, with the reason if one is given")
    def cancel(self, request: HttpRequest, chosen: Chosen) -> None:
        """Cancel the jobs: those that wait end, those that run are asked to stop."""
        reason = reason_of(request) or None
        self._operate(request, "cancel", chosen, lambda sight: partial(sight.app.jobs.cancel, reason=reason))

    @admin.action(permissions=["change"], description="Retry now: waiting for an attempt, failed or cancelled")
    def retry(self, request: HttpRequest, chosen: Chosen) -> None:
        """Let the jobs run again."""
        self._operate(request, "retry", chosen, lambda sight: sight.app.jobs.retry)

    @admin.action(permissions=["change"], description="Run now: scheduled for later")
    def run_now(self, request: HttpRequest, chosen: Chosen) -> None:
        """Make the jobs due."""
        self._operate(request, "promote", chosen, lambda sight: sight.app.jobs.promote)

    def _operate(
        self, request: HttpRequest, verb: str, chosen: Chosen, of: Callable[[Sight], Callable[..., Operation]]
    ) -> None:
        ids = ids_of(chosen)
        if ids:
            self.act(request, verb, lambda sight: [sight.operate(of(sight), JobFilter(ids=ids))])


@admin.register(DeadLetter)
class DeadLetterPage(_JobPage):
    """Dead letters, the newest first."""

    list_display = ("id", "task", "queue", "attempts", "failure", "group", "finished_at")
    list_filter = (QueueFilter, TaskFilter)
    actions = ("redrive", "redrive_groups", "discard")

    @admin.display(description="error")
    def failure(self, row: Any) -> str:
        """Return the error in one line."""
        error = row.found.error
        if error is None or not row.sight.access.shows("tracebacks"):
            return printable(error.type if error is not None else row.found.reason or "")
        return printable(brief(f"{error.type}: {error.message}"))

    def group(self, row: Any) -> str:
        """Return what errors of one cause have in common."""
        return printable(row.group or "")

    def page(self, request: HttpRequest, asked: Asked, after: str | None) -> Rows:
        """Return the newest dead letters that fit."""
        sight = sight_of(request)
        chosen, before = dead_filter(asked), None if after is None else read_id(after)
        with sight.looking() as conn:
            letters = sight.app.dead.using(conn)
            listed = letters.list(chosen, LISTED, before)
        groups = sight.read(sight.app.queries.dead.groups_of([job.id for job in listed]))
        rows = [DeadLetter.of(job, groups.get(job.id)) for job in listed]
        for row in rows:
            row.sight = sight
        return Rows(rows, listed[-1].id if len(listed) == LISTED else None)

    def row(self, sight: Sight, key: str) -> Any:
        """Return one dead letter."""
        found = self.found(sight, key)
        return DeadLetter.of(found) if found is not None and found.state is JobState.FAILED else None

    @admin.action(permissions=["change"], description="Redrive")
    def redrive(self, request: HttpRequest, chosen: Chosen) -> None:
        """Bring the dead letters back."""
        self.act(request, "redrive", lambda sight: [sight.operate(sight.app.dead.redrive, _letters(chosen))])

    @admin.action(permissions=["change"], description="Redrive all dead letters of their groups")
    def redrive_groups(self, request: HttpRequest, chosen: Chosen) -> None:
        """Bring back whatever has failed of the same cause, also what no page shows."""

        def do(sight: Sight) -> Sequence[Operation | None]:
            found = sight.read(sight.app.queries.dead.groups_of(ids_of(chosen)))
            return [
                sight.operate(sight.app.dead.redrive, DeadFilter(group=group)) for group in sorted(set(found.values()))
            ]

        self.act(request, "redrive", do)

    @admin.action(permissions=["change"], description="Discard, with the reason")
    def discard(self, request: HttpRequest, chosen: Chosen) -> None:
        """End the dead letters as cancelled jobs."""
        reason = reason_of(request)

        def do(sight: Sight) -> Sequence[Operation | None]:
            return [sight.operate(sight.app.dead.discard, _letters(chosen), reason=reason)]

        self.act(request, "discard", do)


@admin.register(Schedule)
class SchedulePage(EnginePage):
    """Schedules, by name."""

    room = "schedules"
    list_display = ("name", "task", "plan", "timezone", "state", "next_tick", "last_tick")
    list_filter = (of_texts("state", SCHEDULE_STATES),)
    search_fields = ("task",)
    search_help_text = "The name of a task."
    fields = (*list_display, "arguments", "paused", "last_job", "error")
    readonly_fields = fields
    actions = ("pause", "resume", "run_now")

    def arguments(self, row: Any) -> Any:
        """Return the arguments of its jobs, as the dashboard shows them."""
        if not row.sight.access.shows("arguments"):
            return NOT_SHOWN
        return None if row.args is None else as_text(without_secrets(json.loads(row.args)))

    def paused(self, row: Any) -> str | None:
        """Return who has paused it, and until when."""
        found = row.found
        if found.paused_at is None:
            return None
        until = "until somebody resumes it" if found.paused_until is None else f"until {found.paused_until}"
        return printable(f"by {found.paused_by or 'somebody'} at {found.paused_at}, {until}")

    @admin.display(description="job of the last tick")
    def last_job(self, row: Any) -> int | None:
        """Return the job of the last tick."""
        last: int | None = row.found.last_job_id
        return last

    def error(self, row: Any) -> str | None:
        """Return why it is broken."""
        return None if row.found.error is None else printable(row.found.error)

    def page(self, request: HttpRequest, asked: Asked, after: str | None) -> Rows:
        """Return the schedules that fit, in the order of their names."""
        sight = sight_of(request)
        found = sight.read(sight.app.queries.schedules.list(None, after, MOST_SCHEDULES))
        state, task = asked("state"), asked("task") or asked("id")
        rows = [Schedule.of(each) for each in found if state in (None, each.state) and task in (None, each.task)]
        return Rows(rows, found[-1].name if len(found) == MOST_SCHEDULES else None)

    def row(self, sight: Sight, key: str) -> Any:
        """Return one schedule."""
        with sight.looking() as conn:
            client = sight.app.schedules.using(conn)
            try:
                row = Schedule.of(client.get(key))
            except NotFound:
                return None
            try:
                row.args = client.definition(key).job.args
            except PgqueueError:  # the row says why it is broken
                row.args = None
        return row

    @admin.action(permissions=["change"], description="Pause")
    def pause(self, request: HttpRequest, chosen: Chosen) -> None:
        """Pause the schedules until somebody resumes them."""
        self._each(request, "pause", chosen, lambda sight, name: sight.app.schedules.pause(name, by=sight.access.who))

    @admin.action(permissions=["change"], description="Resume")
    def resume(self, request: HttpRequest, chosen: Chosen) -> None:
        """Resume the schedules."""
        self._each(request, "resume", chosen, lambda sight, name: sight.app.schedules.resume(name))

    @admin.action(permissions=["change"], description="Run now")
    def run_now(self, request: HttpRequest, chosen: Chosen) -> None:
        """Fire the schedules now."""
        self._each(request, "run", chosen, lambda sight, name: sight.app.schedules.run(name, by=sight.access.who))

    def _each(self, request: HttpRequest, verb: str, chosen: Chosen, do: Callable[[Sight, str], object]) -> None:
        """Do it to each schedule, and leave the row of an operation for each."""

        def all_of_them(sight: Sight) -> Sequence[Operation | None]:
            for name in chosen.keys:
                step = RecordedStep(verb, {"schedule": name}, {}, sight.access.who, VIA)
                recorded(sight.app, step, partial(do, sight, name))
                self.message_user(request, f"{verb}: {printable(name)}", messages.SUCCESS)
            return ()

        self.act(request, verb, all_of_them)


def _letters(chosen: Chosen) -> DeadFilter:
    return DeadFilter(ids=ids_of(chosen))
