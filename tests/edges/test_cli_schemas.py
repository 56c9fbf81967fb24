"""`migrate`, `status` and `doctor` of several schemas, by name and by pattern."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgqueue import App, migrate
from pgqueue.metrics.schemas import SchemasMetrics
from tests.conftest import Databases
from tests.edges.test_cli import SHOP, Shell


@pytest.fixture(scope="module")
def migrated(server_dsn: str, template: str) -> Iterator[str]:
    """A database with pgqueue, tenant_a and tenant_b, and with a schema of a stranger."""
    databases = Databases(server_dsn)
    dsn = databases.make(template)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create schema tenant_stranger; create table tenant_stranger.job_live (id int)")
    for schema in ("tenant_a", "tenant_b"):
        migrate.upgrade(dsn, schema)
    yield dsn
    databases.drop_all()


@pytest.fixture
def shell(tmp_path: Path, migrated: str) -> Shell:
    (tmp_path / "shop.py").write_text(SHOP)
    return Shell(tmp_path, migrated)


def test_migrate_goes_through_schemas_by_name_and_pattern_and_through_each_once(shell: Shell) -> None:
    done = shell("migrate", "--schema", "tenant_*", "--schema", "shop_new", "--schema", "tenant_a")
    assert done.returncode == 0, done.stderr
    lines = [line.partition(":")[0] for line in done.stderr.splitlines() if line.startswith("schema")]
    assert lines == ["schema shop_new", "schema tenant_a", "schema tenant_b"]
    assert "(new)" in done.stderr.splitlines()[0]
    assert shell("migrate", "--check", "--schema", "tenant_*", "--schema", "shop_new").returncode == 0
    missing = shell("migrate", "--check", "--schema", "nowhere", "--schema", "tenant_a")
    assert missing.returncode == 78
    assert "schema tenant_a" in missing.stderr


def test_a_pattern_without_a_schema_is_an_error_that_says_what_to_do(shell: Shell) -> None:
    done = shell("migrate", "--schema", "shard_*")
    assert done.returncode == 1
    assert "no schema with pgqueue's tables matches shard_*: name those to be made in full" in done.stderr
    bad = shell("status", "--schema", "Tenant *")
    assert bad.returncode == 78
    assert "'Tenant *'" in bad.stderr


def test_status_has_a_section_for_each_schema_and_its_exit_status_is_the_worst(shell: Shell) -> None:
    job = shell.data("enqueue", "greet", '{"who": "you"}', "-A", "shop:app", "--schema", "tenant_b")["id"]
    assert shell.data("jobs", "show", str(job), "--schema", "tenant_b")["task"] == "greet"
    every = shell.data("status", "--schema", "tenant_*")
    assert {name: [q["pending"] for q in one["queues"]] for name, one in every.items()} == {
        "tenant_a": [], "tenant_b": [1]
    }  # fmt: skip
    text = shell("status", "--schema", "tenant_*").stdout
    assert text.index("schema tenant_a") < text.index("schema tenant_b") < text.index("default")
    well = shell("status", "--schema", "tenant_a", "--schema", "tenant_b", "--exit-code")
    assert well.returncode == 1
    assert "no worker takes its due jobs" in well.stdout
    down = shell("status", "--schema", "tenant_a", "--schema", "nowhere", "--json")
    assert down.returncode == 78
    answer = json.loads(down.stdout)
    assert answer["tenant_a"]["queues"] == []
    assert "pgqueue migrate" in answer["nowhere"]["error"]


def test_doctor_examines_each_schema(shell: Shell) -> None:
    found = shell("doctor", "--schema", "tenant_a", "--schema", "nowhere", "--only", "schema-missing", "--json")
    assert found.returncode == 1
    findings = {name: [one["id"] for one in report["findings"]] for name, report in json.loads(found.stdout).items()}
    assert findings == {"tenant_a": [], "nowhere": ["schema-missing"]}


def test_metrics_of_several_schemas_name_the_schema(migrated: str) -> None:
    app = App(migrated)
    for _ in range(2):
        app.on("tenant_a").enqueue("elsewhere")
    found = SchemasMetrics(lambda: [app.on(name) for name in ("tenant_a", "pgqueue", "nowhere")], migrate.head())
    samples = [sample for family in found.collect() for sample in family.samples]
    up = {sample.labels["schema"]: sample.value for sample in samples if sample.name == "pgqueue_up"}
    assert up == {"tenant_a": 1.0, "pgqueue": 1.0, "nowhere": 0.0}
    due = [s for s in samples if s.name == "pgqueue_queue_jobs" and s.labels["state"] == "due" and s.value]
    assert [(sample.labels["schema"], sample.labels["queue"]) for sample in due] == [("tenant_a", "default")]
    app.close()


def test_one_schema_of_an_app_is_that_of_the_option(shell: Shell) -> None:
    shell.data("enqueue", "greet", '{"who": "you"}', "-A", "shop:app", "--queue", "mine")
    queues = {
        place: [queue["queue"] for queue in shell.data("status", "-A", "shop:app", *place)["queues"]]
        for place in ((), ("--schema", "tenant_a"))
    }
    assert "mine" in queues[()]
    assert "mine" not in queues["--schema", "tenant_a"]
