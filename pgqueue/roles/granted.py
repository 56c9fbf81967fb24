"""What each role may do to each object of the schema: the one table from which everything else about roles is made.

An object that stands here for no role belongs to NOBODY, or the test of the matrix fails with its name. Partitions are
reached through their table: nothing is granted on them. Nothing is granted to PUBLIC.

A privilege is written as in GRANT, with columns where the whole table would be too much: `select (id, queue), insert`.
"""

import re
from collections.abc import Iterator, Mapping

from pgqueue.queries.roles import Grant, Kind

# Each role's name after the prefix, and what it is for.
ROLES = {
    "owner": "owns the schema and all in it; pgqueue migrate and maintain() act as it",
    "producer": "enqueues jobs, and sees neither them nor their results",
    "worker": "runs jobs, and does all that their tasks may do with pgqueue",
    "scheduler": "fires schedules",
    "operator": "reads everything; pauses, cancels, edits, redrives, discards, manages schedules",
    "web": "reads jobs with their results, waits for them, cancels them, and drops results",
    "reader": "reads the views that show neither arguments nor results nor messages of errors",
    "metrics": "reads counts, rates and sizes",
}

# Objects that only the owner touches, beside partitions: what triggers and functions with the owner's rights call.
NOBODY = frozenset({"function schedule_forget_ahead", "function held_for_long", "function undo_next"})

_JOB = (
    "id, task, queue, priority, args, tags, headers, run_at, created_at, max_attempts, history, unique_key, "
    "unique_live, expires_at, lane, state, waits_for, waits_on, ties, gate_id, workflow_id"
)
_VIEWS = (
    "job_status", "attempt_status", "job_history", "operation_status", "schedule_tick", "schedule_status",
    "dead_group", "queue_load", "queue_rate", "task_health", "worker_health", "partition_status", "retention",
    "old_partition", "migration", "retry_load", "parked_load", "waiting_load", "dead_load", "lock_status", "paused",
    "workflows", "workflow_load", "letter_load", "step_status", "undo_status", "call_status",
    "event_status", "subscription_status",
)  # fmt: skip
_COUNTS = (
    "dead_group", "queue_load", "queue_rate", "task_health", "worker_health", "partition_status", "schedule_status",
    "operation_status", "retention", "old_partition", "migration", "retry_load", "parked_load", "waiting_load",
    "dead_load", "paused", "workflow_load", "letter_load",
)  # fmt: skip

_Grants = Mapping[str, str]

# A job and its first transition; a workflow is jobs with rows that say how they depend on each other. A key or a unique
# key is looked up, and where its job is over or waits, taken or replaced: that reads no argument, but `replace` writes
# those of a job that waits.
_ENQUEUE: _Grants = {
    "sequence job_id": "usage",
    "job_live": f"insert ({_JOB}), "
    "select (id, queue, priority, run_at, created_at, state, attempt, lease, history, unique_key, expires_at, lane, "
    "waits_for, gate_id), "
    "update (args, headers, tags, queue, priority, run_at, max_attempts, expires_at, unique_key, lane)",
    "transition": "insert",
    "idempotency_key": "select, insert, update, delete",
    "workflow": "select, insert, update",
    "gate": "select, insert, update",
    "dependency": "insert",
    "worker": "select (waiting, queues, kind, host, pid, version, knows, lost_at, heartbeat_at, lease_seconds)",
    "function enqueue": "execute",
    "function change_flow": "execute",
}
# What is added to a workflow that runs may wait for jobs that are there, and tells itself what became of these.
_ADD: _Grants = {"dependency": "select, update (late)"}
# A process writes its row, and looks first whether the schema is there.
_PROCESS: _Grants = {
    "worker": "select, insert, update, delete",
    "queue": "select",
    "task_control": "select",
    "job_live": "select",
    "activity": "select",
    "setting": "select",
    "migration": "select",
    "compat": "select",
    "partition_status": "select",
    "worker_health": "select",
    "workflows": "select",
    "function maintain": "execute",
}
# Who ends jobs moves what depends on them.
_CANCEL: _Grants = {
    "job_live": "select, update (cancel_requested_at, waits_on, state, waits_for, run_at), delete",
    "workflow": "select, update",
    "gate": "select, update",
    "dependency": "select",
    "worker": "select (waiting, queues)",
    "job_finished": "insert",
    "transition": "insert",
    "waiter": "select",
    "call": "select, update (ended, seen)",
    "function compensate": "execute",
}
_WAIT: _Grants = {
    "job": "select",
    "attempt": "select",
    "job_live": "select",
    "transition": "select",
    "waiter": "select, insert, update",
    "migration": "select",
}
# Who drops a result sees whether a workflow or a caller may want it.
_DROP: _Grants = {
    "job_finished": "select, update (result, reason)",
    "result_expiry": "select, insert, update, delete",
    "workflow": "select",
    "job_live": "select",
    "call": "select",
    "step": "select",
}
_PRUNE: _Grants = {
    "setting": "select, insert, update, delete",
    "pruned": "select, insert, update, delete",
    "retention": "select",
    "old_partition": "select",
    "job_finished": "select, delete, update (reason)",
    "dead_letter": "select, delete, update (reason)",
    "transition": "select, delete",
    "schedule_fire": "select, delete, update (reason)",
    "operation": "select, delete, update (error)",
    "workflow": "select, update, delete",
    "gate": "select, delete",
    "dependency": "select, delete",
    "call": "select",
    "step": "select",
    "function empty_partition": "execute",
    "function drop_partition": "execute",
}
# A process that starts writes the rules of its app's code.
_DECLARE: _Grants = {"limit_rule": "select, insert, update"}
# An event is a row and jobs; whoever publishes reads which tasks get it.
_PUBLISH: _Grants = {
    "sequence event_id": "usage",
    "published_event": "insert",
    "subscription": "select",
    "subscription_pattern": "select",
    "sequence signal_id": "usage",
    "awaited_topic": "select",
    "awaited_event": "insert (name, key, data, at, published_id), select (id)",
    "function publish": "execute",
    "function event_flow": "execute",
}
# A process declares which tasks get events, and a task may replay some.
_SUBSCRIBE: _Grants = {
    "subscription": "select, insert, update",
    "subscription_pattern": "select, insert, delete",
    "subscription_release": "select, insert, update, delete",
    "subscription_status": "select",
    "published_event": "select, update (delivered)",
}
# What runs is counted by whoever begins and ends jobs, a rescue among them.
_COUNT: _Grants = {
    "limit_key": "select, insert, update",
    "limit_bucket": "select, insert, delete",
    "limit_use": "select, insert, update, delete",
    "limit_freed": "select, insert, update, delete",
}
# What `why` reads beside jobs.
_WHY: _Grants = dict.fromkeys(
    ("queue", "worker", "limit_rule", "limit_key", "limit_use", "limit_freed", "step", "call"), "select"
)
# A signal or an event is a row that its sender inserts.
_SIGNAL: _Grants = {
    "sequence signal_id": "usage",
    "signal": "insert (job_id, name, data, at), select (id)",
    "awaited_event": "insert (name, key, data, at), select (id)",
    "function signal": "execute",
    "function signal_event": "execute",
}
# A named lock is a row that its holder inserts, renews and deletes, and that others read.
_LOCK: _Grants = {"sequence lock_token": "usage", "named_lock": "select, insert, update, delete"}
_SCHEDULES = (
    "schedule_create", "schedule_edit", "schedule_pause", "schedule_resume", "schedule_run", "schedule_delete",
    "schedule_preview", "schedule_wake", "schedule_check", "schedule_found",
)  # fmt: skip
_READ: _Grants = dict.fromkeys(_VIEWS, "select")

_TABLE: Mapping[str, tuple[_Grants, ...]] = {
    "producer": (_ENQUEUE, _PUBLISH, _SIGNAL, _LOCK),
    "worker": (
        _ENQUEUE,
        _ADD,
        _PUBLISH,
        _SUBSCRIBE,
        _PROCESS,
        _CANCEL,
        _WAIT,
        _PRUNE,
        _DECLARE,
        _COUNT,
        _SIGNAL,
        _LOCK,
        {
            "sequence step_number": "usage",
            "step": "select, insert, update, delete",
            "call": "select, insert, update, delete",
            "unwanted_call": "select, update, delete",
            "signal": "select, insert, update, delete",
            "awaited_event": "select, insert, update, delete",
            "awaited_topic": "select, insert, update",
            "undo": "select, delete",
            "function undo_ended": "execute",
            "job_live": "select, insert, update, delete",
            "job_finished": "select, insert, update (result, reason)",
            "dead_letter": "select, insert, update, delete",
            "transition": "select, insert",
            "activity": "select, insert",
            "task_control": "select, update (updated_at)",
            "operation": "select, insert, update",
            "result_expiry": "select, insert, update, delete",
            "waiter": "select, insert, update, delete",
        },
    ),
    "scheduler": (
        _ENQUEUE,
        _PUBLISH,
        _SUBSCRIBE,
        _PROCESS,
        _CANCEL,
        {
            "schedule": "select, insert, update, delete",
            "schedule_ahead": "select, insert, update, delete",
            "schedule_fire": "select, insert, update",
            "schedule_release": "select, insert, update, delete",
            "schedule_status": "select",
            "operation": "insert, select (id), update (done, ended_at, error)",
            **{f"function {name}": "execute" for name in _SCHEDULES},
        },
    ),
    "operator": (
        _READ,
        _ENQUEUE,
        _ADD,
        _PUBLISH,
        _SUBSCRIBE,
        _CANCEL,
        _WAIT,
        _PRUNE,
        _DROP,
        _SIGNAL,
        {
            "step": "select, delete",
            "signal": "select (id, at, seen)",
            "awaited_event": "select (id, at, seen)",
            "job_live": "select, insert, update, delete",
            "job_finished": "select, insert, delete",
            "dead_letter": "select, insert, update, delete",
            "transition": "select, insert",
            "activity": "select",
            "operation": "select, insert, update",
            "queue": "select, insert, update, delete",
            "task_control": "select, insert, update, delete",
            "worker": "select, update",
            "limit_rule": "select, insert, update, delete",
            "limit_key": "select, insert, update, delete",
            "limit_bucket": "select, insert, delete",
            "limit_use": "select, insert, update, delete",
            "limit_freed": "select, insert, update, delete",
            "limits": "select",
            "idempotency_key": "select, insert, update, delete",
            "named_lock": "select, delete",
            "schedule": "select, insert, update, delete",
            "schedule_ahead": "select, insert, update, delete",
            "schedule_fire": "select, insert, update",
            "schedule_release": "select",
            "function redrive": "execute",
            **{f"function {name}": "execute" for name in _SCHEDULES},
        },
    ),
    "web": (_READ, _CANCEL, _WAIT, _WHY, _DROP),
    "reader": (_READ,),
    "metrics": (dict.fromkeys(_COUNTS, "select"), {"named_lock": "select (expires_at, waited_until)"}),
}


def granted() -> frozenset[Grant]:
    """Return each privilege of each role, whose names stand without the prefix. The owner has its own."""
    found = {grant for role, parts in _TABLE.items() for grants in parts for grant in _grants(role, grants)}
    whole = {grant for grant in found if not grant.column}
    return frozenset(grant for grant in found if grant in whole or grant._replace(column="") not in whole)


def _grants(role: str, grants: _Grants) -> Iterator[Grant]:
    yield Grant(role, "schema", "", "", "usage")
    for thing, privileges in grants.items():
        kind, name = _kind_and_name(thing)
        for privilege, columns in re.findall(r"(\w+)(?: \(([^)]*)\))?", privileges):
            for column in columns.split(", "):
                yield Grant(role, kind, name, column, privilege)


def _kind_and_name(thing: str) -> tuple[Kind, str]:
    if thing.startswith("function "):
        return "function", thing.removeprefix("function ")
    if thing.startswith("sequence "):
        return "sequence", thing.removeprefix("sequence ")
    return "table", thing
