"""Rows of the lists, as Django's admin and its permissions know them.

The tables are pgqueue's own, so nothing here makes, migrates or queries one: the engine's statements read each row.
"""

from typing import Any

from django.db import models

from pgqueue.django.models import TablelessModel
from pgqueue.jobs.job import Job as FoundJob
from pgqueue.printable import printable
from pgqueue.queries.schedules.read import ScheduleStatus

VIEW_AND_CHANGE = ("view", "change")


class JobRow(TablelessModel):
    """What jobs and dead letters have in common."""

    id = models.BigAutoField(primary_key=True)
    task = models.TextField()
    queue = models.TextField()
    priority = models.SmallIntegerField()
    state = models.TextField()
    run_at = models.DateTimeField("due")
    created_at = models.DateTimeField("enqueued")
    finished_at = models.DateTimeField("ended", null=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.pk} {self.task}"

    @classmethod
    def of(cls, found: FoundJob, group: str | None = None) -> Any:
        """Return a job as a row: its state is the phase, as people see it. `group`: that of a dead letter."""
        row = cls(
            id=found.id, task=printable(found.task), queue=printable(found.queue), priority=found.priority,
            state=found.phase, run_at=found.run_at, created_at=found.created_at, finished_at=found.finished_at,
        )  # fmt: skip
        row.found, row.group = found, group
        return row


class Job(JobRow):
    """A job, whatever its state."""

    class Meta:
        managed = False
        default_permissions = VIEW_AND_CHANGE


class DeadLetter(JobRow):
    """A job that has failed for good."""

    class Meta:
        managed = False
        default_permissions = VIEW_AND_CHANGE


class Schedule(TablelessModel):
    """A schedule. Its name is its key."""

    name = models.TextField(primary_key=True)
    task = models.TextField()
    plan = models.TextField()
    timezone = models.TextField()
    state = models.TextField()
    next_tick = models.DateTimeField(null=True)
    last_tick = models.DateTimeField(null=True)

    class Meta:
        managed = False
        default_permissions = VIEW_AND_CHANGE

    def __str__(self) -> str:
        return printable(self.name)

    @classmethod
    def of(cls, found: ScheduleStatus) -> Any:
        """Return a schedule as a row."""
        texts = {name: printable(getattr(found, name)) for name in ("task", "plan", "timezone", "state")}
        row = cls(name=found.name, next_tick=found.next_tick, last_tick=found.last_tick, **texts)
        row.found = found
        return row
