"""The backend for Django's tasks."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils import timezone

from pgqueue.app import App
from pgqueue.django.database import E002, REMEDY, not_postgres
from pgqueue.django.interface import (
    BaseTaskBackend,
    InvalidTask,
    TaskResultDoesNotExist,
    normalize_json,
    task_enqueued,
)
from pgqueue.django.registry import known_tasks
from pgqueue.django.results import RUN_AFTER, result_of
from pgqueue.django.task_class import PgqueueTask
from pgqueue.django.tenants import TENANT, current_tenant
from pgqueue.errors import PgqueueError, UnknownJob
from pgqueue.tasks.call_shape import POSITIONAL, CallShape


class PgqueueBackend(BaseTaskBackend):
    """`TASKS = {"default": {"BACKEND": "pgqueue.django.PgqueueBackend"}}`: Django's tasks are jobs of pgqueue.

    A job belongs to the transaction of Django's connection to the database of OPTIONS["database"]: inside
    `transaction.atomic()` it exists if and only if that commits, and `transaction.on_commit` is not needed.
    OPTIONS["app"] names the app; without it there is one of its own, with the rest of OPTIONS (docs/django.md).
    """

    task_class = PgqueueTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self.known = known_tasks(alias, self.options)

    @property
    def app(self) -> App:
        """The app whose jobs the tasks are, for its other verbs and for tests. Made when first asked for."""
        return self.known.app

    def validate_task(self, task: Any) -> None:
        """Raise InvalidTask for a task that cannot run here; learn of one that can."""
        super().validate_task(task)
        self.known.add(task)

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Insert a job in the transaction that is open, or at once, and return its result, which is READY.

        Raises TypeError for arguments that JSON does not have or that the function does not take, InvalidTask for an
        async task that cannot enter the tenant which is active here, and NotMigrated.
        """
        self.validate_task(task)
        shape = CallShape.of(task.func, int(task.takes_context))
        stored, positional = shape.stored(tuple(normalize_json(list(args))), normalize_json(dict(kwargs)))
        headers = {POSITIONAL: str(positional)} if positional else {}
        if (tenant := current_tenant()) is not None:
            _check_enters(task)
            headers[TENANT] = tenant
        registered, options = self.known.registered(task), dict(getattr(task, "call_options", {}))
        if task.run_after is not None:
            run_after = task.run_after if timezone.is_aware(task.run_after) else timezone.make_aware(task.run_after)
            headers[RUN_AFTER], options["run_at"] = run_after.isoformat(), run_after
        given = {"queue": task.queue_name, "priority": task.priority}  # of jobs in order the priority cannot be given
        options |= {name: value for name, value in given.items() if value != getattr(registered.spec, name)}
        if headers:
            options["headers"] = headers
        job = registered.using(connections[self.known.database], **options).enqueue(**stored)
        result = result_of(job, self.known.get(task.module_path), self.alias)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Return the result of a job. Raises TaskResultDoesNotExist: there is no such job, its history is no longer
        kept, or its task is none of this backend's."""
        if not str(result_id).isdecimal() or len(str(result_id)) > 18:
            raise TaskResultDoesNotExist(result_id)
        try:
            job = self.app.using(connections[self.known.database]).get(int(result_id))
        except UnknownJob:
            raise TaskResultDoesNotExist(result_id) from None
        task, tenant = self.known.get(job.task), current_tenant()
        if task is None or tenant not in (None, job.headers.get(TENANT)):
            raise TaskResultDoesNotExist(result_id)
        return result_of(job, task, self.alias)

    def check(self, **_: Any) -> list[Any]:
        """Return what Django's `check` is to say of the settings and tasks, without a look into the database."""
        return list(self._problems())

    def _problems(self) -> Iterator[Any]:
        where, database = f'TASKS["{self.alias}"]', self.known.database
        if database not in connections:
            yield checks.Error(
                f"{where} names the database {database!r}, which DATABASES does not have.",
                hint='Name one in OPTIONS["database"].',
                id="pgqueue.E001",
            )
            return
        if problem := not_postgres(database):
            yield checks.Error(f"{where}: {problem}.", hint=f'To mend it, {REMEDY} in OPTIONS["database"].', id=E002)
            return
        if not apps.is_installed("pgqueue.django"):
            yield checks.Warning(
                f"{where} has no tables and no `manage.py pgqueue`: INSTALLED_APPS lacks pgqueue.django.",
                hint='Add "pgqueue.django" to INSTALLED_APPS, or run `pgqueue migrate` and `pgqueue work` yourself.',
                id="pgqueue.W001",
            )
        try:
            self.app  # noqa: B018 - registers the tasks
        except (PgqueueError, ImproperlyConfigured, TypeError) as error:
            yield checks.Error(f"{where}: {error}", id="pgqueue.E003")


def _check_enters(task: Any) -> None:
    """Refuse an `async def` that cannot know its tenant: Django's connections belong to threads, and all async tasks of
    a worker run in one."""
    if inspect.iscoroutinefunction(task.func) and not task.takes_context:
        raise InvalidTask(
            f"{task.module_path} is async, so no worker can activate its tenant for it: make it a def, or give it "
            'takes_context=True and enter context.job.header("tenant") where it uses the database'
        )
