"""Alert rules for Prometheus, made from the declared metrics: `pgqueue observability rules`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

FAILED = 'sum by (queue, task) (rate(pgqueue_jobs_finished_total{outcome=~"retried|failed"}[10m]))'
ENDED = 'sum by (queue, task) (rate(pgqueue_jobs_finished_total{outcome=~"succeeded|retried|failed"}[10m]))'
DEAD = "sum by (queue, task) (pgqueue_dead_letters)"
# A series that has begun lately has no past: it counts as 0 then.
DEAD_BEFORE = f"(sum by (queue, task) (pgqueue_dead_letters offset 15m) or {DEAD} * 0)"


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert. `wait`: for how long the expression must hold. `summary` may name labels as Prometheus does."""

    name: str
    expression: str
    wait: str
    severity: str
    summary: str


RULES = (
    Rule(
        "PgqueueQueueStuck",
        "pgqueue_queue_oldest_due_seconds > 300 and pgqueue_queue_paused == 0 "
        "unless on (queue) sum by (queue) (increase(pgqueue_jobs_finished_total[5m])) > 0",
        "5m",
        "critical",
        "Queue {{ $labels.queue }}: the oldest due job waits {{ $value | humanizeDuration }}, and nothing ends.",
    ),
    Rule(
        "PgqueueQueueSlow",
        "pgqueue_queue_oldest_due_seconds > 60 and pgqueue_queue_paused == 0",
        "5m",
        "warning",
        "Queue {{ $labels.queue }}: the oldest due job waits {{ $value | humanizeDuration }}.",
    ),
    Rule(
        "PgqueueNoWorkers",
        'sum by (queue) (pgqueue_queue_jobs{state=~"due|turn"}) > 0 and sum by (queue) (pgqueue_queue_slots) == 0 '
        "and sum by (queue) (pgqueue_queue_paused) == 0",
        "2m",
        "critical",
        "Queue {{ $labels.queue }}: {{ $value }} jobs are due, and no living worker serves it.",
    ),
    Rule(
        "PgqueueWorkersGone",
        'sum(pgqueue_workers{kind="worker", status=~"lost|silent"}) > 0',
        "2m",
        "warning",
        "{{ $value }} workers do not beat any more: others take their jobs.",
    ),
    Rule(
        "PgqueueDeadLettersRise",
        f"{DEAD} - {DEAD_BEFORE} > 0",
        "0m",
        "warning",
        "Task {{ $labels.task }}: {{ $value }} new dead letters within 15 minutes: pgqueue dead groups.",
    ),
    Rule(
        "PgqueueFailureShare",
        f"{FAILED} / {ENDED} > 0.05",
        "10m",
        "warning",
        "Task {{ $labels.task }}: {{ $value | humanizePercentage }} of its attempts fail.",
    ),
    Rule(
        "PgqueueScheduleLate",
        "pgqueue_schedule_lag_seconds > 60",
        "1m",
        "critical",
        "Schedule {{ $labels.schedule }} is {{ $value | humanizeDuration }} late: does a scheduler run?",
    ),
    Rule(
        "PgqueuePartitionsRunOut",
        "pgqueue_partition_days_ahead < 2",
        "10m",
        "critical",
        "{{ $labels.table }} has partitions for {{ $value }} more days: pgqueue migrate makes them.",
    ),
    Rule(
        "PgqueueDefaultPartitionGrows",
        "delta(pgqueue_default_partition_bytes[1h]) > 1048576",
        "0m",
        "warning",
        "The default partition of {{ $labels.table }} grew by {{ $value | humanize1024 }}B: pgqueue repair partitions.",
    ),
    Rule(
        "PgqueueSnapshotPinned",
        "pgqueue_oldest_snapshot_seconds > 600",
        "1m",
        "warning",
        "A transaction holds a snapshot for {{ $value | humanizeDuration }}: dead rows stay, and claims slow down.",
    ),
    Rule(
        "PgqueueNotifyQueue",
        "pgqueue_notify_queue_ratio > 0.25",
        "1m",
        "critical",
        "The server's queue of notifications is {{ $value | humanizePercentage }} full: some listener does not read.",
    ),
    Rule(
        "PgqueueMixedVersions",
        'count(count by (version) (pgqueue_workers{status!~"lost|silent"} > 0)) > 1',
        "1h",
        "warning",
        "{{ $value }} versions of pgqueue run beside each other.",
    ),
    Rule(
        "PgqueueUnknownTask",
        "pgqueue_unknown_task_jobs > 0",
        "10m",
        "warning",
        "{{ $value }} jobs wait for a worker that knows task {{ $labels.task }} in version {{ $labels.version }}.",
    ),
    Rule(
        "PgqueueWorkflowHeld",
        'pgqueue_workflows{state="held"} > 0',
        "15m",
        "warning",
        "{{ $value }} workflows wait until somebody redrives or discards a dead letter: pgqueue workflows list.",
    ),
    Rule(
        "PgqueueWorkflowUnsettled",
        "pgqueue_workflow_unsettled_seconds > 60",
        "2m",
        "critical",
        "A workflow ended {{ $value | humanizeDuration }} ago, and nobody tells what waits for it: does a worker run?",
    ),
    Rule(
        "PgqueueLettersUndelivered",
        "pgqueue_letter_oldest_seconds > 60",
        "2m",
        "critical",
        "The oldest {{ $labels.kind }} waits {{ $value | humanizeDuration }} to be delivered: does a worker run?",
    ),
    # The label is overwritten with the other one: a series for which both are the same meets itself, and is dropped.
    Rule(
        "PgqueueSchemaBehind",
        'pgqueue_schema_info unless label_replace(pgqueue_schema_info, "head", "$1", "revision", "(.*)")',
        "15m",
        "warning",
        "The schema is at {{ $labels.revision }}, and the code knows {{ $labels.head }}: pgqueue migrate.",
    ),
    Rule(
        "PgqueueExporterDown",
        "pgqueue_up == 0 or absent(pgqueue_up)",
        "2m",
        "critical",
        "Nothing is known of the queues: the exporter, or its database, is away.",
    ),
)


def rules() -> str:
    """Return the rules as a file of Prometheus. A text in JSON is one in YAML, too."""
    return "".join(line + "\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield "# Made by `pgqueue observability rules`. Thresholds are starting points."
    yield from ("groups:", "  - name: pgqueue", "    rules:")
    for rule in RULES:
        yield f"      - alert: {rule.name}"
        yield f"        expr: {json.dumps(rule.expression)}"
        yield f"        for: {rule.wait}"
        yield "        labels:"
        yield f"          severity: {rule.severity}"
        yield "        annotations:"
        yield f"          summary: {json.dumps(rule.summary)}"
