"""The metrics of pgqueue: names, labels and what they mean, all of them here alone.

Each number has one source: a process says what it did, the exporter what the database holds. An exporter in every
worker would multiply the same gauge by the number of workers. No label has more values than an app has queues, tasks
and schedules: ids, hosts, messages and classes of errors are none.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Source: TypeAlias = Literal["process", "exporter"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Its name is as a scrape has it, but for the `_bucket`, `_sum` and `_count` of histograms."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    source: Source
    help: str


def _of(source: Source, kind: Kind, *metrics: tuple[str, tuple[str, ...], str]) -> tuple[Metric, ...]:
    return tuple(Metric(f"pgqueue_{name}", kind, labels, source, text) for name, labels, text in metrics)


JOBS = ("queue", "task")
METRICS = (
    *_of(
        "process",
        "counter",
        (
            "jobs_finished_total",
            (*JOBS, "outcome"),
            "Attempts that ended, by outcome; and jobs that ended unrun: expired, skipped, cancelled with a workflow.",
        ),
        ("jobs_rescued_total", (), "Jobs that this worker took from workers that had died."),
        ("stale_writes_total", (), "Outcomes that were refused because the lease of the job was lost."),
        ("heartbeat_failures_total", (), "Heartbeats that did not get through."),
        ("loop_blocked_seconds_total", (), "Time for which the event loop did not turn; sampled four times a second."),
    ),
    *_of(
        "process",
        "histogram",
        ("job_run_seconds", JOBS, "Time to run of attempts; of very many at once, every eighth for eight."),
        ("job_wait_seconds", JOBS, "Time from when an attempt was due until it began."),
        ("claim_seconds", (), "Time of a statement that claims jobs."),
        ("resolve_seconds", (), "Time of a statement that writes outcomes."),
    ),
    *_of(
        "process",
        "gauge",
        ("worker_slots", (), "How many jobs this worker runs at a time."),
        ("worker_slots_busy", (), "How many jobs it runs now."),
    ),
    *_of(
        "exporter",
        "gauge",
        ("up", (), "Whether the database could be read, 1 or 0."),
        ("build_info", ("version",), "The version of pgqueue that exports this; always 1."),
        (
            "schema_info",
            ("revision", "head"),
            "The migration of the schema, and the newest that is known; always 1.",
        ),
        (
            "queue_jobs",
            ("queue", "state"),
            "Jobs that are due, wait for their turn, scheduled (or asleep), retrying, running or parked; to a bound.",
        ),
        ("queue_jobs_capped", ("queue", "state"), "Whether there are more such jobs than were counted, 1 or 0."),
        (
            "queue_waiting_jobs",
            ("queue", "state"),
            "Jobs that wait for others of their workflow (for_jobs), or are asleep (sleeping, waiting); to a bound.",
        ),
        (
            "queue_waiting_jobs_capped",
            ("queue", "state"),
            "Whether there are more than were counted, 1 or 0.",
        ),
        ("workflows", ("state",), "Workflows that live, of the oldest 10,000: running, open, held or stopping."),
        ("workflows_capped", (), "Whether more workflows and groups live than were looked at, 1 or 0."),
        ("workflow_oldest_seconds", (), "How long the oldest workflow lives that has not ended; 0 without one."),
        (
            "workflow_unsettled_seconds",
            (),
            "How long a workflow or group has ended without those that wait for it being told; 0 without one.",
        ),
        ("letters", ("kind",), "Signals, events and ends of calls that are still to be delivered, up to 10,000."),
        (
            "letter_oldest_seconds",
            ("kind",),
            "How long the oldest signal or event waits for delivery; 0 without one.",
        ),
        ("queue_oldest_due_seconds", ("queue",), "How long the oldest job that may be claimed is due; 0 without one."),
        ("queue_paused", ("queue",), "Whether the queue is paused, 1 or 0."),
        ("task_paused", ("task",), "Whether the task is paused: 1; absent where it is not."),
        ("queue_slots", ("queue",), "Slots of the living workers that serve the queue."),
        ("dead_letters", JOBS, "Dead letters, of the newest 10,000."),
        ("locks_held", (), "Named locks that are held, up to 10,000."),
        ("locks_waited_for", (), "Held locks for which somebody waits, or has within a minute, up to 10,000."),
        ("workers", ("kind", "status", "version"), "Workers and schedulers."),
        ("schedule_lag_seconds", ("schedule",), "How long the tick of a schedule is overdue; 0 if none is."),
        ("schedule_last_fire_timestamp_seconds", ("schedule",), "The last tick, if it fired, in seconds since 1970."),
        ("unknown_task_jobs", ("task", "version"), "Jobs that wait for a worker that knows their task and version."),
        (
            "oldest_snapshot_seconds",
            (),
            "Age of the oldest snapshot; absent where the role cannot see those of others.",
        ),
        ("table_dead_rows", ("table",), "Dead rows, as the statistics have them."),
        ("table_bytes", ("table",), "Size with indexes and TOAST; of a history, of all its partitions."),
        ("partition_days_ahead", ("table",), "For how many days after today a history has partitions."),
        ("default_partition_bytes", ("table",), "Size of the default partition of a history."),
        ("notify_queue_ratio", (), "How full the server's queue of notifications is, 0 to 1."),
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
# Upper bounds of the histograms of runs and waits, in seconds.
JOB_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
