"""pgqueue's tables by `manage.py migrate`."""

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test import override_settings

from pgqueue import App, NotMigrated, migrate
from tests.conftest import scalar
from tests.django_site import django_on

OURS = {"default": {"BACKEND": "pgqueue.django.PgqueueBackend", "OPTIONS": {}}}
TABLES = "select to_regclass('pgqueue.job_live') is not null"


@pytest.fixture
def site(empty_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with django_on(empty_dsn), psycopg.connect(empty_dsn, autocommit=True) as conn:
        yield conn


def test_migrate_makes_the_tables_and_leaves_nothing_to_migrate(site: Any, empty_dsn: str) -> None:
    with override_settings(TASKS=OURS):
        call_command("migrate", verbosity=0)
        assert migrate.current(empty_dsn) == migrate.head()
        call_command("makemigrations", "--check", "--dry-run", verbosity=0)
        assert scalar(site, "select count(*) from auth_permission where codename = 'reveal_job'") == 1


def test_migrate_brings_older_tables_up_to_date(site: Any, empty_dsn: str) -> None:
    older = migrate.script(until=migrate.versions()[-3]).encode()
    site.execute(older)
    with override_settings(TASKS=OURS):
        call_command("migrate", verbosity=0)
        assert migrate.current(empty_dsn) == migrate.head()
        site.execute("drop schema pgqueue cascade")
        site.execute(older)
        call_command("migrate", verbosity=0)  # Django knows its one migration already
        assert migrate.current(empty_dsn) == migrate.head()


def test_a_flush_makes_no_tables(site: Any) -> None:
    with override_settings(TASKS=OURS):
        call_command("migrate", verbosity=0)
        site.execute("drop schema pgqueue cascade")
        call_command("flush", "--no-input", verbosity=0)
        assert not scalar(site, TABLES)


def test_where_nothing_names_the_database_no_tables_are_made(site: Any, empty_dsn: str) -> None:
    with override_settings(TASKS={"default": {"BACKEND": "django_tasks.backends.dummy.DummyBackend"}}):
        call_command("migrate", verbosity=0)
    assert not scalar(site, TABLES)
    with override_settings(PGQUEUE={"app": App(empty_dsn, schema="jobs"), "database": "default"}):
        call_command("migrate", verbosity=0)
    assert (migrate.current(empty_dsn, "jobs"), scalar(site, TABLES)) == (migrate.head(), False)


def test_without_tables_a_verb_on_django_s_connection_names_its_command(site: Any, empty_dsn: str) -> None:
    app = App(empty_dsn)
    for given, command in (({"app": app, "database": "default"}, "python manage.py migrate"), ({}, "pgqueue migrate")):
        with override_settings(TASKS={}, PGQUEUE=given):
            for verb in (lambda: app.using(connection).enqueue("t"), lambda: app.using(connection).get(1)):
                with pytest.raises(NotMigrated, match=f"run `{command}`$"), transaction.atomic():
                    verb()
    with pytest.raises(NotMigrated, match="run `pgqueue migrate`"):
        app.enqueue("t")
    app.close()


def test_the_command_passes_on_what_it_gets(
    site: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgqueue.django.management.commands.pgqueue import Command

    monkeypatch.setenv("PGQUEUE_APP", "")
    monkeypatch.delenv("PGQUEUE_APP")
    with pytest.raises(SystemExit) as ended:
        Command().run_from_argv(["manage.py", "pgqueue", "--settings", "x", "--version", "--pythonpath=/x"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("pgqueue ")
    assert os.environ["PGQUEUE_APP"] == "pgqueue.django.site:app"
