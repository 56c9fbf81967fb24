"""A dashboard for Grafana, made from the declared metrics: `pgqueue observability grafana`."""

import json
from dataclasses import dataclass
from typing import Any

RATE = "$__rate_interval"
FAILING = ', outcome=~"retried|failed"'
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: a title, a unit of Grafana's, and expressions with their legends."""

    title: str
    unit: str
    targets: tuple[tuple[str, str], ...]
    kind: str = "timeseries"


def _percentiles(metric: str, by: str) -> tuple[tuple[str, str], ...]:
    selector = f'{metric}_bucket{{queue=~"$queue"}}' if by else f"{metric}_bucket"
    labels = f"le, {by}" if by else "le"
    return tuple(
        (
            f"histogram_quantile({share}, sum by ({labels}) (rate({selector}[{RATE}])))",
            f"p{share * 100:g}" + (f" {{{{{by}}}}}" if by else ""),
        )
        for share in (0.5, 0.95)
    )


def _ended(by: str, more: str = "") -> str:
    return f'sum by ({by}) (rate(pgqueue_jobs_finished_total{{queue=~"$queue"{more}}}[{RATE}]))'


PANELS = (
    Panel(
        "Oldest due job",
        "s",
        (('max by (queue) (pgqueue_queue_oldest_due_seconds{queue=~"$queue"})', "{{queue}}"),),
    ),
    Panel(
        "Jobs",
        "short",
        (('sum by (queue, state) (pgqueue_queue_jobs{queue=~"$queue"})', "{{queue}} {{state}}"),),
    ),
    Panel(
        "Attempts ended",
        "ops",
        ((_ended("outcome"), "{{outcome}}"),),
    ),
    Panel(
        "Share that fails",
        "percentunit",
        (
            (
                _ended("task", FAILING) + " / " + _ended("task"),
                "{{task}}",
            ),
        ),
    ),
    Panel("Time to run", "s", _percentiles("pgqueue_job_run_seconds", "task")),
    Panel("Time to wait", "s", _percentiles("pgqueue_job_wait_seconds", "queue")),
    Panel(
        "Slots",
        "short",
        (("sum(pgqueue_worker_slots_busy)", "busy"), ("sum(pgqueue_worker_slots)", "all")),
    ),
    Panel("Dead letters", "short", (('sum by (task) (pgqueue_dead_letters{queue=~"$queue"})', "{{task}}"),)),
    Panel(
        "Workers and schedulers",
        "short",
        (("sum by (kind, status, version) (pgqueue_workers)", "{{kind}} {{status}} {{version}}"),),
    ),
    Panel("Schedules: lag", "s", (("max by (schedule) (pgqueue_schedule_lag_seconds)", "{{schedule}}"),)),
    Panel(
        "Jobs that wait for others, or are asleep",
        "short",
        (('sum by (queue, state) (pgqueue_queue_waiting_jobs{queue=~"$queue"})', "{{queue}} {{state}}"),),
    ),
    Panel("Workflows", "short", (("sum by (state) (pgqueue_workflows)", "{{state}}"),)),
    Panel(
        "Named locks",
        "short",
        (("max(pgqueue_locks_held)", "held"), ("max(pgqueue_locks_waited_for)", "waited for")),
    ),
    Panel("Claims", "s", _percentiles("pgqueue_claim_seconds", "")),
    Panel("Writing outcomes", "s", _percentiles("pgqueue_resolve_seconds", "")),
    Panel(
        "Trouble",
        "ops",
        (
            (f"sum(rate(pgqueue_jobs_rescued_total[{RATE}]))", "rescued"),
            (f"sum(rate(pgqueue_stale_writes_total[{RATE}]))", "stale writes"),
            (f"sum(rate(pgqueue_heartbeat_failures_total[{RATE}]))", "failed heartbeats"),
            (f"sum(rate(pgqueue_loop_blocked_seconds_total[{RATE}]))", "blocked loop, s/s"),
        ),
    ),
    Panel("Oldest snapshot", "s", (("max(pgqueue_oldest_snapshot_seconds)", "oldest"),)),
    Panel("Sizes", "bytes", (("max by (table) (pgqueue_table_bytes)", "{{table}}"),)),
    Panel("Dead rows", "short", (("max by (table) (pgqueue_table_dead_rows)", "{{table}}"),)),
    Panel("Partitions ahead", "d", (("min by (table) (pgqueue_partition_days_ahead)", "{{table}}"),)),
    Panel("Database can be read", "short", (("max(pgqueue_up)", "up"),), kind="stat"),
)


def dashboard() -> str:
    """Return the dashboard as the JSON that Grafana imports."""
    return json.dumps(_dashboard(), indent=2) + "\n"


def _dashboard() -> dict[str, Any]:
    return {
        "title": "pgqueue",
        "uid": "pgqueue",
        "tags": ["pgqueue"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_data_source(), _queue()]},
        "annotations": {"list": []},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}


def _queue() -> dict[str, Any]:
    query = "label_values(pgqueue_queue_jobs, queue)"
    return {
        "name": "queue",
        "label": "Queue",
        "type": "query",
        "datasource": DATA_SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "queue"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATA_SOURCE,
        "gridPos": {"x": number % 2 * 12, "y": number // 2 * 8, "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + at), "datasource": DATA_SOURCE, "expr": expression, "legendFormat": legend}
            for at, (expression, legend) in enumerate(panel.targets)
        ],
    }
