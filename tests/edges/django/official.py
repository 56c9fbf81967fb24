"""Django's own tests of tasks, run against the backend: `python -m tests.edges.django.official django-6.1.3.tar.gz`.

It unpacks `tests/tasks` of Django's source distribution, of the version that is installed, into a directory of its own,
and runs its classes as subclasses with a database and with `TASKS` of pgqueue. NOT_APPLICABLE has the tests that it
leaves out; docs/django.md says why.
"""

import asyncio
import sys
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from pgqueue.db import embedded

NOT_APPLICABLE = {
    "TaskTestCase": (
        "test_using_correct_backend", "test_get_backend", "test_get_missing_result", "test_refresh_result",
    ),
    "DummyBackendTestCase": (
        "test_using_correct_backend", "test_get_missing_result", "test_refresh_result", "test_refresh_result_async",
        "test_validate_on_enqueue", "test_validate_on_aenqueue",
    ),
    "ImmediateBackendTestCase": (
        "test_using_correct_backend", "test_cannot_get_result", "test_cannot_refresh_result",
        "test_cannot_pass_run_after", "test_throws_keyboard_interrupt", "test_validate_on_enqueue",
        "test_validate_on_aenqueue",
    ),
}  # fmt: skip
EMPTY = "truncate pgqueue.job_live, pgqueue.transition, pgqueue.job_finished, pgqueue.dead_letter"


def main(archive: str) -> int:
    """Run them all; return how many have not passed."""
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                _, _, inner = member.name.partition("/tests/")
                if member.isfile() and inner.startswith("tasks/"):
                    target = Path(directory, inner)
                    target.parent.mkdir(exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
        sys.path.insert(0, directory)
        server = embedded.start(str(Path(directory, "postgres")))
        return _run(server.dsn)


def _run(dsn: str) -> int:
    import django
    from django.conf import settings

    parts = conninfo_to_dict(dsn)
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    database = {names[name]: value for name, value in parts.items() if name in names}
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **database}},
        USE_TZ=True,
        SECRET_KEY="of the tests",
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "pgqueue.django"],
        TASKS={"default": _ours("PgqueueBackend") | {"BACKEND": "pgqueue.django.PgqueueBackend"}},
    )
    django.setup()
    from django.test.runner import DiscoverRunner

    sys.modules["official"] = sys.modules[__name__]  # under this name Django finds the backends and the classes
    return int(DiscoverRunner(interactive=False).run_tests(["official"]))


def _ours(name: str) -> dict[str, Any]:
    return {"BACKEND": f"official.{name}", "QUEUES": [], "OPTIONS": {"max_attempts": 1}}


def __getattr__(name: str) -> Any:
    """Make the backends when Django asks for them, and the test classes when its runner does."""
    if name in ("Inspectable", "Immediately"):
        return globals().setdefault(name, _backends()[name])
    raise AttributeError(name)


def _backends() -> dict[str, Any]:
    import psycopg

    from pgqueue.django.backend import PgqueueBackend

    class Inspectable(PgqueueBackend):
        """With what Django's tests ask of its dummy backend."""

        @property
        def results(self) -> list[Any]:
            with psycopg.connect(self.app.dsn) as conn:
                ids = [str(id_) for (id_,) in conn.execute("select id from pgqueue.job order by id")]
            return _in_thread(lambda: [self.get_result(id_) for id_ in ids])

        def clear(self) -> None:
            with psycopg.connect(self.app.dsn) as conn:
                conn.execute(EMPTY)

    class Immediately(PgqueueBackend):
        """With a worker that runs each task before its result is returned."""

        def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
            result = super().enqueue(task, args, kwargs)
            _in_thread(lambda: asyncio.run(_work(self.app)))
            return self.get_result(result.id)

    return {"Inspectable": Inspectable, "Immediately": Immediately}


def _in_thread(call: Any) -> Any:
    from django.db import connections

    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(call())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answers[0]


async def _work(app: Any) -> None:
    import psycopg

    from tests.conftest import scalar, work

    with psycopg.connect(app.dsn, autocommit=True) as conn:
        await work(
            app, lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live"), queues=("default", "queue_1")
        )


def load_tests(loader: Any, _tests: Any, _pattern: Any) -> Any:
    """Return Django's classes as those of a database."""
    import unittest

    from django.db import connection
    from django.test import TransactionTestCase, override_settings
    from tasks import test_dummy_backend, test_immediate_backend, test_tasks

    class Emptied(TransactionTestCase):
        def setUp(self) -> None:
            with connection.cursor() as cursor:
                cursor.execute(EMPTY)
                cursor.execute("select setval(pg_get_serial_sequence('pgqueue.job_live', 'id'), 1000)")

    immediate = {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend", "QUEUES": []}
    inspected = _ours("Inspectable")
    several = {
        "default": inspected | {"QUEUES": ["default", "queue_1"]}, "immediate": immediate,
        "missing": {"BACKEND": "does.not.exist"},
    }  # fmt: skip
    suite = unittest.TestSuite()
    for theirs, tasks in (
        (test_tasks.TaskTestCase, several),
        (test_dummy_backend.DummyBackendTestCase, {"default": inspected}),
        (test_immediate_backend.ImmediateBackendTestCase, {"default": _ours("Immediately")}),
    ):
        left_out = NOT_APPLICABLE[theirs.__name__]
        body = {n: v for n, v in vars(theirs).items() if n.startswith("test_") and n not in left_out}
        made = override_settings(TASKS=tasks, USE_TZ=True)(type(theirs.__name__, (Emptied,), body))
        suite.addTests(loader.loadTestsFromTestCase(made))
    return suite


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
