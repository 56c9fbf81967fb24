"""Alert rules and the dashboard, as `promtool` sees them: it is in Debian's package `prometheus`."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

import pgqueue
from pgqueue import App
from pgqueue.metrics import METRICS, registry_of
from pgqueue.metrics.grafana import dashboard
from pgqueue.metrics.process import ProcessMetrics
from pgqueue.metrics.rules import RULES, rules
from pgqueue.process.counters import LoopLag
from pgqueue.worker import Worker
from tests.conftest import drain
from tests.edges.test_metrics import backlog
from tests.harness import Conn

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: apt install prometheus")
NAMES = {metric.name for metric in METRICS}
Q = '{queue="q"}'
T = '{queue="q",task="t"}'


# Partitions are of days, and an operator thinks in them.
DAYS = 'pgqueue_partition_days_ahead use base unit "seconds" instead of "days"'


def promtool(directory: Path, *arguments: str) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def finished(outcome: str, values: str) -> dict[str, str]:
    return {f'pgqueue_jobs_finished_total{{queue="q",task="t",outcome="{outcome}"}}': values}


def queue(oldest: str, paused: str = "0x60", due: str = "5x60", slots: str = "4x60") -> dict[str, str]:
    return {
        f"pgqueue_queue_oldest_due_seconds{Q}": oldest,
        f"pgqueue_queue_paused{Q}": paused,
        'pgqueue_queue_jobs{queue="q",state="due"}': due,
        f"pgqueue_queue_slots{Q}": slots,
    }


# For each alert: series that fire with the labels and the summary they have after an hour, and series that do not fire.
# A series is a value a minute: `0+10x60` grows by ten for an hour.
LAST = "60m"
FIRES: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "PgqueueQueueStuck": (
        queue("400x60") | finished("succeeded", "5x60"),
        {"queue": "q"},
        "Queue q: the oldest due job waits 6m 40s, and nothing ends.",
    ),
    "PgqueueQueueSlow": (queue("90x60"), {"queue": "q"}, "Queue q: the oldest due job waits 1m 30s."),
    "PgqueueNoWorkers": (
        queue("10x60", slots="0x60"),
        {"queue": "q"},
        "Queue q: 5 jobs are due, and no living worker serves it.",
    ),
    "PgqueueWorkersGone": (
        {'pgqueue_workers{kind="worker",status="lost",version="1"}': "2x60"},
        {},
        "2 workers do not beat any more: others take their jobs.",
    ),
    "PgqueueDeadLettersRise": (
        {f"pgqueue_dead_letters{T}": "_x50 3x10"},
        {"queue": "q", "task": "t"},
        "Task t: 3 new dead letters within 15 minutes: pgqueue dead groups.",
    ),
    "PgqueueFailureShare": (
        finished("failed", "0+1x60") | finished("succeeded", "0+9x60"),
        {"queue": "q", "task": "t"},
        "Task t: 10% of its attempts fail.",
    ),
    "PgqueueScheduleLate": (
        {'pgqueue_schedule_lag_seconds{schedule="s"}': "120x60"},
        {"schedule": "s"},
        "Schedule s is 2m 0s late: does a scheduler run?",
    ),
    "PgqueuePartitionsRunOut": (
        {'pgqueue_partition_days_ahead{table="transition"}': "1x60"},
        {"table": "transition"},
        "transition has partitions for 1 more days: pgqueue migrate makes them.",
    ),
    "PgqueueDefaultPartitionGrows": (
        {'pgqueue_default_partition_bytes{table="transition"}': "0+1048576x60"},
        {"table": "transition"},
        "The default partition of transition grew by 60MiB: pgqueue repair partitions.",
    ),
    "PgqueueSnapshotPinned": (
        {"pgqueue_oldest_snapshot_seconds": "1200x60"},
        {},
        "A transaction holds a snapshot for 20m 0s: dead rows stay, and claims slow down.",
    ),
    "PgqueueNotifyQueue": (
        {"pgqueue_notify_queue_ratio": "0.5x60"},
        {},
        "The server's queue of notifications is 50% full: some listener does not read.",
    ),
    "PgqueueMixedVersions": (
        {
            'pgqueue_workers{kind="worker",status="alive",version="1"}': "2x60",
            'pgqueue_workers{kind="worker",status="alive",version="2"}': "1x60",
        },
        {},
        "2 versions of pgqueue run beside each other.",
    ),
    "PgqueueUnknownTask": (
        {'pgqueue_unknown_task_jobs{task="unknown",version="2"}': "7x60"},
        {"task": "unknown", "version": "2"},
        "7 jobs wait for a worker that knows task unknown in version 2.",
    ),
    "PgqueueWorkflowHeld": (
        {'pgqueue_workflows{state="held"}': "2x60"},
        {"state": "held"},
        "2 workflows wait until somebody redrives or discards a dead letter: pgqueue workflows list.",
    ),
    "PgqueueWorkflowUnsettled": (
        {"pgqueue_workflow_unsettled_seconds": "90x60"},
        {},
        "A workflow ended 1m 30s ago, and nobody tells what waits for it: does a worker run?",
    ),
    "PgqueueLettersUndelivered": (
        {'pgqueue_letter_oldest_seconds{kind="signal"}': "90x60"},
        {"kind": "signal"},
        "The oldest signal waits 1m 30s to be delivered: does a worker run?",
    ),
    "PgqueueSchemaBehind": (
        {'pgqueue_schema_info{revision="0017",head="0019"}': "1x60"},
        {"revision": "0017", "head": "0019"},
        "The schema is at 0017, and the code knows 0019: pgqueue migrate.",
    ),
    "PgqueueExporterDown": (
        {"pgqueue_up": "0x60"},
        {},
        "Nothing is known of the queues: the exporter, or its database, is away.",
    ),
}
QUIET: list[tuple[str, dict[str, str]]] = [
    ("PgqueueQueueStuck", queue("400x60") | finished("succeeded", "0+5x60")),  # deep, but it moves
    ("PgqueueQueueStuck", queue("400x60", paused="1x60")),
    ("PgqueueQueueStuck", queue("0x60", due="0x60")),  # jobs for later do not age
    ("PgqueueQueueSlow", queue("30x60")),
    ("PgqueueQueueSlow", queue("0x58 90x2")),  # not for long yet
    ("PgqueueNoWorkers", queue("10x60")),
    ("PgqueueNoWorkers", queue("10x60", due="0x60", slots="0x60")),
    ("PgqueueWorkersGone", {'pgqueue_workers{kind="worker",status="alive",version="1"}': "2x60"}),
    ("PgqueueDeadLettersRise", {f"pgqueue_dead_letters{T}": "7x60"}),
    ("PgqueueDeadLettersRise", {f"pgqueue_dead_letters{T}": "7-0.1x60"}),  # redriven
    ("PgqueueFailureShare", finished("failed", "0+1x60") | finished("succeeded", "0+99x60")),
    ("PgqueueScheduleLate", {'pgqueue_schedule_lag_seconds{schedule="s"}': "30x60"}),
    ("PgqueuePartitionsRunOut", {'pgqueue_partition_days_ahead{table="transition"}': "7x60"}),
    ("PgqueueDefaultPartitionGrows", {'pgqueue_default_partition_bytes{table="transition"}': "8192x60"}),
    ("PgqueueSnapshotPinned", {"pgqueue_oldest_snapshot_seconds": "60x60"}),
    ("PgqueueNotifyQueue", {"pgqueue_notify_queue_ratio": "0.1x60"}),
    ("PgqueueMixedVersions", {'pgqueue_workers{kind="worker",status="alive",version="1"}': "2x60"}),
    (
        "PgqueueMixedVersions",
        {
            'pgqueue_workers{kind="worker",status="alive",version="1"}': "2x60",
            'pgqueue_workers{kind="worker",status="lost",version="2"}': "1x60",
        },
    ),
    ("PgqueueUnknownTask", {'pgqueue_unknown_task_jobs{task="unknown",version="2"}': "0x60"}),
    ("PgqueueWorkflowHeld", {'pgqueue_workflows{state="held"}': "0x60", 'pgqueue_workflows{state="open"}': "3x60"}),
    ("PgqueueWorkflowUnsettled", {"pgqueue_workflow_unsettled_seconds": "0x58 90x2"}),
    ("PgqueueLettersUndelivered", {'pgqueue_letter_oldest_seconds{kind="event"}': "5x60"}),
    ("PgqueueSchemaBehind", {'pgqueue_schema_info{revision="0019",head="0019"}': "1x60"}),
    ("PgqueueExporterDown", {"pgqueue_up": "1x60"}),
]


def case(alert: str, series: dict[str, str], expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": LAST, "alertname": alert, "exp_alerts": expected}],
    }


@needs_promtool
def test_each_alert_fires_where_it_should_and_nowhere_else(tmp_path: Path) -> None:
    severities = {rule.name: rule.severity for rule in RULES}
    assert set(FIRES) == {name for name, _ in QUIET} == set(severities)
    cases = [
        case(
            alert,
            series
            if alert != "PgqueueMixedVersions"
            else {name: f"{v.partition('x')[0]}x90" for name, v in series.items()},
            [{"exp_labels": labels | {"severity": severities[alert]}, "exp_annotations": {"summary": summary}}],
        )
        for alert, (series, labels, summary) in FIRES.items()
    ]
    cases += [case(alert, series, []) for alert, series in QUIET]
    for one in cases:
        if one["alert_rule_test"][0]["alertname"] == "PgqueueMixedVersions":
            one["alert_rule_test"][0]["eval_time"] = "80m"
    (tmp_path / "rules.yml").write_text(rules())
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": cases}))
    promtool(tmp_path, "check", "rules", "rules.yml")
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", "tests.yml")


@needs_promtool
def test_each_expression_of_the_dashboard_is_one_of_prometheus(tmp_path: Path) -> None:
    lines = ["groups:", "  - name: dashboard", "    rules:"]
    for number, expression in enumerate(expressions()):
        text = expression.replace("$__rate_interval", "5m").replace("$queue", ".*")
        lines += [f"      - record: panel:expression:{number}", f"        expr: {json.dumps(text)}"]
    (tmp_path / "dashboard.yml").write_text("\n".join(lines) + "\n")
    assert f"{len(expressions())} rules found" in promtool(tmp_path, "check", "rules", "dashboard.yml")


def expressions() -> list[str]:
    panels = json.loads(dashboard())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@needs_promtool
def test_real_scrapes_of_both_sources_have_no_fault_that_promtool_knows(app: App, conn: Conn, tmp_path: Path) -> None:
    for text in scrapes(app, conn):
        assert PROMTOOL is not None
        command = [PROMTOOL, "check", "metrics"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.stdout == ""
        assert set(done.stderr.splitlines()) <= {DAYS}


def scrapes(app: App, conn: Conn) -> tuple[str, str]:
    """A scrape of a worker that has run jobs, and one of the exporter."""
    with backlog(app, conn):
        ran: list[str] = []

        async def scenario() -> None:
            app.task(name="ran")(lambda: ran.append("x"))
            await app.aenqueue("ran")
            registry = CollectorRegistry()
            worker = Worker(app)
            registry.register(ProcessMetrics(worker.reading, LoopLag()))
            running = asyncio.create_task(worker.run())
            while "ran" not in (text := (await asyncio.to_thread(generate_latest, registry)).decode()):
                assert not running.done()
                await asyncio.sleep(0.01)
            worker.stop()
            await running
            ran.append(text)

        asyncio.run(scenario())
        return ran[-1], generate_latest(registry_of(app)).decode()


def test_every_metric_of_the_rules_and_the_dashboard_is_declared() -> None:
    used = set(re.findall(r"pgqueue_\w+", rules() + " ".join(expressions())))
    assert {re.sub(r"_bucket$", "", name) for name in used} <= NAMES
    assert len(used) > 20


def test_every_declared_metric_has_a_line_in_the_docs_that_says_the_same() -> None:
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(pgqueue_\w+)` \| (\w+) \| ([\w, ]*?) ?\| (.+?) \|$", page, re.MULTILINE)
    assert rows == [(m.name, m.kind, ", ".join(m.labels), m.help) for m in METRICS]


def test_every_alert_has_a_line_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    assert re.findall(r"^\| `(Pgqueue\w+)` \|", page, re.MULTILINE) == [rule.name for rule in RULES]


def test_the_dashboard_has_each_panel_once_and_nothing_of_one_installation() -> None:
    board = json.loads(dashboard())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {"${datasource}"}


def test_the_samples_of_the_docs_run(app: App, conn: Conn) -> None:
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    samples = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"app": app, "pgqueue": pgqueue}
    for sample in samples:
        exec(sample, names)

    @app.task(name="t", max_attempts=2, retry=0)
    def t() -> None:
        raise KeyError("x")

    t.enqueue()
    drain(app, conn)
    assert [(task, type(error)) for task, error in names["reported"]] == [("t", KeyError)]
