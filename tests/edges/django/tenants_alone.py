"""A project with django-tenants, in a process of its own: `tenants_alone.py DSN DIRECTORY`.

Two tenants and the public schema each enqueue a note; a worker writes each where it belongs.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

FILES = {
    "customers/models.py": """
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin

class Client(TenantMixin):
    name = models.CharField(max_length=100)
    auto_create_schema = True
    auto_drop_schema = True

class Domain(DomainMixin): ...
""",
    "notes/models.py": """
from django.db import models

class Note(models.Model):
    text = models.TextField()
""",
    "notes/tasks.py": """
from django.db import connection
from pgqueue.django import task

@task(max_attempts=2, retry=[0.01], takes_context=True)
def write(context, text):
    from notes.models import Note
    assert connection.tenant.name == text, (connection.tenant, text)
    with context.job.transaction(using="default"):
        Note.objects.create(text=text)
        if context.attempt == 1 and text == "one":
            raise ConnectionError("in the tenant")

@task
def where():
    with connection.cursor() as cursor:
        cursor.execute("select current_schema()")
        return cursor.fetchone()[0]

@task
async def drifts(): ...
""",
}


def configure(dsn: str, directory: Path) -> None:
    """Write the apps of the project, and make its settings."""
    for name, code in FILES.items():
        file = directory / name
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        (file.parent / "migrations").mkdir(exist_ok=True)
        (file.parent / "migrations" / "__init__.py").touch()
        file.write_text(code)
    sys.path.insert(0, str(directory))
    parts = conninfo_to_dict(dsn)
    database = {
        "ENGINE": "django_tenants.postgresql_backend", "NAME": parts.pop("dbname"), "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""), "HOST": parts.pop("host", ""), "PORT": parts.pop("port", ""),
        "OPTIONS": parts,
    }  # fmt: skip
    shared = ["django_tenants", "customers", "django.contrib.contenttypes", "django.contrib.auth", "pgqueue.django"]
    settings.configure(
        DATABASES={"default": database},
        DATABASE_ROUTERS=["django_tenants.routers.TenantSyncRouter"],
        SECRET_KEY="of the tests",
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        SHARED_APPS=shared,
        TENANT_APPS=["django.contrib.contenttypes", "notes"],
        INSTALLED_APPS=[*shared, "notes"],
        TENANT_MODEL="customers.Client",
        TENANT_DOMAIN_MODEL="customers.Domain",
        TASKS={"default": {"BACKEND": "pgqueue.django.PgqueueBackend"}},
    )
    django.setup()


def main(dsn: str, directory: Path) -> None:
    """Enqueue in each tenant, work, and look where each note is."""
    configure(dsn, directory)
    import psycopg
    from django.core.management import call_command
    from django.db import connection, transaction
    from django_tenants.utils import schema_context, tenant_context

    from pgqueue.django.interface import InvalidTask, TaskResultDoesNotExist, task_backends
    from tests.conftest import scalar, work

    call_command("makemigrations", "customers", "notes", verbosity=0)
    call_command("migrate_schemas", verbosity=0)
    from customers.models import Client
    from notes import tasks
    from notes.models import Note

    tenants = [Client.objects.create(schema_name=name, name=name) for name in ("one", "two", "gone")]
    results: dict[str, Any] = {"public": tasks.where.enqueue()}
    for tenant in tenants:
        with tenant_context(tenant), transaction.atomic():
            results[tenant.name] = tasks.write.enqueue(tenant.name)
            results[f"where {tenant.name}"] = tasks.where.enqueue()
    refused = False
    with schema_context("one"):
        assert tasks.write.get_result(results["one"].id) == results["one"]
        for strange in ("two", "public"):
            try:
                tasks.write.get_result(results[strange].id)
            except TaskResultDoesNotExist:
                continue
            raise AssertionError(f"the job of {strange} is seen in one")
        try:
            tasks.drifts.enqueue()
        except InvalidTask:
            refused = True
        assert refused, "an async task would lose its tenant"
    tasks.drifts.enqueue()
    connection.set_schema_to_public()
    tenants.pop().delete()
    app = task_backends["default"].app
    with psycopg.connect(dsn, autocommit=True) as conn:
        asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live"), queues=("default",)))
        headers = "select array_agg(headers ->> 'tenant' order by id) from pgqueue.job where task = 'notes.tasks.where'"
        assert scalar(conn, headers) == [None, "one", "two", "gone"]
        schemas = "select json_agg(schemaname) from pg_tables where tablename = 'job_live'"
        assert scalar(conn, schemas) == ["pgqueue"]
    found = {name: result.refresh() or (result.status, result.attempts) for name, result in results.items()}
    assert found == {
        "public": ("SUCCESSFUL", 1), "one": ("SUCCESSFUL", 2), "where one": ("SUCCESSFUL", 1),
        "two": ("SUCCESSFUL", 1), "where two": ("SUCCESSFUL", 1), "gone": ("FAILED", 1), "where gone": ("FAILED", 1),
    }, found  # fmt: skip
    assert [results[name].return_value for name in ("public", "where one", "where two")] == ["public", "one", "two"]
    assert "no tenant has the schema 'gone' any more" in str(app.get(int(results["gone"].id)).error)
    for tenant in tenants:
        with tenant_context(tenant):
            assert [note.text for note in Note.objects.all()] == [tenant.name]
    sys.stdout.write("all where they belong\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
