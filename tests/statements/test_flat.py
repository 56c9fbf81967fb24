"""Statements that duties or single jobs run cost the same however many jobs wait, have run, or have failed.

Every statement is run under EXPLAIN ANALYZE: it may examine a bounded number of rows of the tables that grow, and touch
a bounded number of pages. Also with statistics from when the tables were empty, with either kind of plan, and with
planner settings that forbid some kinds of node.
"""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue import db
from pgqueue.jobs.event import NewEvent
from pgqueue.jobs.job import Job, JobState
from pgqueue.jobs.keys import key_hashes
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.jobs.step import NewStep
from pgqueue.process.heartbeat import describe_process
from pgqueue.queries import Query
from pgqueue.queries.jobs.change import Edit, EditedJob
from pgqueue.queries.pauses import PauseSettings
from pgqueue.queries.retention import Sweep
from pgqueue.queries.steps import Swept
from pgqueue.queries.turns.claim import Line
from pgqueue.queries.turns.full import FullLane
from pgqueue.queries.workflows.gone import CallPlace, Place
from pgqueue.schedules.plan import Every
from pgqueue.schedules.schedule import Schedule
from pgqueue.schedules.ticks import ScheduleState, TickRecord
from pgqueue.tasks.rules import Rules
from tests.conftest import Databases, scalar
from tests.harness import QUERIES, Conn, claimed, every_statement, new_job
from tests.statements.doctor import FLAT as DOCTOR_FLAT
from tests.statements.doctor import NOT_FLAT
from tests.statements.test_explain import Node, buffers, explain, nodes

GROWING = (
    "job_live", "job_finished", "transition", "dead_letter", "schedule_fire", "idempotency_key", "result_expiry",
    "workflow", "gate", "dependency", "step", "signal", "awaited_event", "undo", "call",
    "published_event", "subscription",
)  # fmt: skip
MOST_ROWS, MOST_PAGES = 1500, 3000
WORKER = uuid.UUID(int=1)
NOW = datetime.now(UTC)
ROOMS = {"q0": 10, "q1": 10, "q2": 10, "none": 10}
LANES = {(f"q{i}", p): (NOW - timedelta(minutes=30), 1000) for i in range(3) for p in range(3)}
BATCH = [(claimed(i, 1), PLAIN_SUCCESS if i % 2 else Resolution("retry", "error", 1.0)) for i in range(1, 41)]
TIED = [(claimed(-1_000_000 - i, 1, ties=3), ends) for i, (_, ends) in enumerate(BATCH[:20], 1)]  # five children each
COUNTED = [(claimed(-1_000_100 - i, 1, ties=2), PLAIN_SUCCESS) for i in range(1, 21)]
LINES = [Line(lane, 0, f'["r/{lane}"]', 5) for lane in range(10)]
SHARES = [Line(lane, 0, "[]", 2) for lane in range(10, 20)]
KEYED = new_job(queue="q0", conditions=Rules(key="k5").conditions("t", dict, {}, None))
ALONE = new_job(queue="q0", conditions=Rules(unique_key="k5").conditions("t", dict, {}, None))
KEYS = key_hashes("t", ["k5", "new"])
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
SWEEP = Sweep("job_finished_1", TODAY, TODAY + timedelta(days=1), timedelta(hours=1), False, 0, 1, "hash")
SCHEDULE = Schedule("s1", Every(60), new_job(queue="q0"))

# Statements of duties, on connections that prefer an index (`connect_duty`).
DUTIES: dict[str, Query[Any]] = {
    "jobs.claim": QUERIES.jobs.claim(WORKER, ROOMS, 10),
    "jobs.claim_beyond": QUERIES.jobs.claim_beyond(WORKER, ROOMS, 10, LANES),
    "jobs.claim_oldest": QUERIES.jobs.claim_oldest(WORKER, ROOMS, 10, 60.0),
    "jobs.adopt": QUERIES.jobs.adopt(WORKER, ROOMS, ["unknown1", "other"], 10),
    "jobs.parked_labels": QUERIES.jobs.parked_labels(["unknown1", "other"]),
    "jobs.next_due": QUERIES.jobs.next_due(list(ROOMS)),
    "jobs.resolve": QUERIES.jobs.resolve(BATCH),
    "jobs.resolve successes": QUERIES.jobs.resolve([(job, PLAIN_SUCCESS) for job, _ in BATCH]),
    "jobs.resolve metered": QUERIES.jobs.resolve(
        [(claimed(i, 1, lane=1), ends) for (_, ends), i in zip(BATCH, range(40), strict=True)]
    ),
    "jobs.resolve metered successes": QUERIES.jobs.resolve([(claimed(i, 1, lane=1), PLAIN_SUCCESS) for i in range(40)]),
    "jobs.resolve_tied": QUERIES.jobs.resolve_tied(TIED),
    "jobs.resolve_tied metered": QUERIES.jobs.resolve_tied(
        [(claimed(i, 1, lane=1, ties=3), ends) for (_, ends), i in zip(BATCH, range(40), strict=True)]
    ),
    "jobs.succeed_counted": QUERIES.jobs.succeed_counted(COUNTED),
    "jobs.succeed_counted one": QUERIES.jobs.succeed_counted(COUNTED[:1]),
    "jobs.lock_unlocked_ties": QUERIES.jobs.lock_unlocked_ties([job.id for job, _ in TIED]),
    "workflows.look": QUERIES.workflows.look(),
    "workflows.cascade": QUERIES.workflows.cascade(50),
    "workflows.stop": QUERIES.workflows.stop(50),
    "workflows.settle": QUERIES.workflows.settle(50),
    "workflows.tell_late": QUERIES.workflows.tell_late(50),
    "workflows.mark_late": QUERIES.workflows.mark_late(50),
    "workflows.doom_stuck": QUERIES.workflows.doom_stuck(WORKER, 100, Place()),
    "workflows.end_hollow": QUERIES.workflows.end_hollow(WORKER, 100, None),
    "workflows.tell_gone": QUERIES.workflows.tell_gone(WORKER, 100, CallPlace()),
    "workflows.inputs": QUERIES.workflows.inputs([job for job, _ in TIED]),
    "workflows.prune": QUERIES.workflows.prune(10),
    "turns.claim": QUERIES.turns.claim(WORKER, "q0", LINES, room=20, slots=20),
    "turns.claim shares": QUERIES.turns.claim(WORKER, "q0", SHARES, room=20, slots=20),
    "turns.claim lane": QUERIES.turns.claim(WORKER, "q0", LINES[1:2], room=20, slots=20),
    "turns.claim first": QUERIES.turns.claim(WORKER, "q0", [Line(-1, 0, '["r/1"]', 5)], room=20, slots=20),
    "turns.look": QUERIES.turns.look([(queue, -(2**63)) for queue in ROOMS], 100),
    "turns.tell_of_room": QUERIES.turns.tell_of_room(WORKER, list(ROOMS)),
    "turns.make_buckets": QUERIES.turns.make_buckets(["r/1", "r/new"]),
    "turns.drop_idle_buckets": QUERIES.turns.drop_idle_buckets(100),
    "turns.find_drift": QUERIES.turns.find_drift(100),
    "turns.cancel_behind": QUERIES.turns.cancel_behind(FullLane("q0", 0, 0, "r/0", "skip"), 50),
    "turns.cancel_holders": QUERIES.turns.cancel_holders(FullLane("q0", 0, 0, "r/0", "cancel_running")),
    "turns.lock_bucket": QUERIES.turns.lock_bucket("r/1"),
    "turns.reconcile": QUERIES.turns.reconcile("r/1"),
    "jobs.lock_unlocked": QUERIES.jobs.lock_unlocked([1, 2]),
    "jobs.release_strays": QUERIES.jobs.release_strays(WORKER, [1, 2]),
    "jobs.rescue": QUERIES.jobs.rescue(WORKER, 5, {"t": 1}, 10),
    "jobs.enqueue_dead_letter_tasks": QUERIES.jobs.enqueue_dead_letter_tasks([1, 2], {"t": {"task": "u"}}),
    "jobs.cancel_requests": QUERIES.jobs.cancel_requests(WORKER, [1, 2]),
    "jobs.note_progress": QUERIES.jobs.note_progress([(job, "{}") for job, _ in BATCH]),
    "steps.record": QUERIES.steps.record([(job, NewStep("new", "value")) for job, _ in BATCH]),
    "steps.record marked": QUERIES.steps.record([(claimed(i, 1, attempt=2), NewStep("n", "value")) for i in range(40)]),
    "steps.load": QUERIES.steps.load(list(range(1, 41))),
    "steps.put_to_sleep": QUERIES.steps.put_to_sleep([(job, NOW) for job, _ in BATCH]),
    "steps.compensate": QUERIES.steps.compensate([job for job, _ in BATCH]),
    "steps.undo_ended": QUERIES.steps.undo_ended([1, 2, 5000]),
    "calls.collect": QUERIES.calls.collect([(job, "called") for job, _ in BATCH[:20]]),
    "calls.call_off": QUERIES.calls.call_off(20),
    "signals.incomplete_topics": QUERIES.signals.incomplete_topics(),
    "steps.sweep": QUERIES.steps.sweep(Swept(), 50),
    "signals.deliver": QUERIES.signals.deliver(50),
    "signals.take": QUERIES.signals.take([(job, "s") for job, _ in BATCH]),
    "operations.find_abandoned": QUERIES.operations.find_abandoned(["redrive"], 30.0),
    "workers.set_waiting": QUERIES.workers.set_waiting(WORKER, True),
    "workers.set_stopping": QUERIES.workers.set_stopping(WORKER),
    "workers.declare_lost": QUERIES.workers.declare_lost(),
    "workers.delete_lost": QUERIES.workers.delete_lost(),
    "pauses.tasks": QUERIES.pauses.tasks(),
    "pauses.bring_back": QUERIES.pauses.bring_back(["t"], 10),
    "schedules.lock_due": QUERIES.schedules.lock_due(10),
    "schedules.recorded_ticks": QUERIES.schedules.recorded_ticks([("s1", NOW)]),
    "schedules.record_ticks": QUERIES.schedules.record_ticks(
        [TickRecord("s1", NOW, "missed", "why")], [(ScheduleState(SCHEDULE, NOW, NOW), 1.0)]
    ),
    "schedules.unfinished_jobs": QUERIES.schedules.unfinished_jobs([1, 2]),
    "schedules.queued_ticks": QUERIES.schedules.queued_ticks(["s1"]),
    "schedules.record_errors": QUERIES.schedules.record_errors([("s1", "why", False)]),
    "schedules.find_changed": QUERIES.schedules.find_changed([SCHEDULE]),
    "schedules.is_newest_release": QUERIES.schedules.is_newest_release(WORKER),
    "schedules.register_release": QUERIES.schedules.register_release(WORKER, "shop:app", "r1", ["s1"]),
    "schedules.unregister_release": QUERIES.schedules.unregister_release(WORKER),
    "schedules.disable_dropped": QUERIES.schedules.disable_dropped("shop:app"),
    "schedules.count_declared": QUERIES.schedules.count_declared("shop:app"),
    "schedules.next_due": QUERIES.schedules.next_due(),
    "schedules.try_lock": QUERIES.schedules.try_lock(["s1"]),
    "schedules.existing": QUERIES.schedules.existing(["s1"]),
    "schedules.lock_stale_previews": QUERIES.schedules.lock_stale_previews(10),
    "schedules.read": QUERIES.schedules.read(["s1"]),
    "schedules.save_previews": QUERIES.schedules.save_previews({"s1": None}, NOW),
    "schedules.declare": QUERIES.schedules.declare([(SCHEDULE, NOW)]),
    "jobs.enqueue": QUERIES.jobs.enqueue([new_job(queue="q0")] * 5),  # of a scheduler
    "jobs.enqueue_conditionally": QUERIES.jobs.enqueue_conditionally([KEYED, ALONE]),
    "schedules.clock": QUERIES.schedules.clock(),
    "jobs.find_queues": QUERIES.jobs.find_queues("", 100, ["t"]),
    "jobs.expire": QUERIES.jobs.expire(100),
    "jobs.prune_keys": QUERIES.jobs.prune_keys(3),
    "retention.sweep": QUERIES.retention.sweep(SWEEP, 8),  # it reads each row of so many pages twice
    "retention.prune_dead": QUERIES.retention.prune_dead(100, None),
    "retention.prune_ticks": QUERIES.retention.prune_ticks(100),
    "waits.announce_ended": QUERIES.waits.announce_ended([1, 2, 5000]),
    "waits.announce_missed": QUERIES.waits.announce_missed(),
    "jobs.set_result_expiry": QUERIES.jobs.set_result_expiry({1: 60.0}),
    # Of a smaller batch: before 17 Postgres probes each index anew for each id, also where it may not prune partitions.
    "jobs.drop_expired_results": QUERIES.jobs.drop_expired_results(50),
    "jobs.expire_result": QUERIES.jobs.expire_result(1),
    "jobs.drop_result": QUERIES.jobs.drop_result(1),
}
A_JOB = Job(5000, "t", "q0", 0, JobState.PENDING, "pending", {}, (), NOW, NOW, 0, 3)
# Statements on ordinary connections: of the heartbeat, of callers, and of `pgqueue status`.
OTHERS: dict[str, Query[Any]] = {
    "workers.register": QUERIES.workers.register(describe_process("worker", 30, ["q0"], ["t"], 8)),
    "schema.check": QUERIES.schema.check(),
    "workers.watch": QUERIES.workers.watch(QUERIES.workers.heartbeat(WORKER), ["default"]),
    "workers.heartbeat": QUERIES.workers.heartbeat(WORKER),
    "workers.unregister": QUERIES.workers.unregister(WORKER),
    "workers.record_deaths": QUERIES.workers.record_deaths({WORKER: "was killed by SIGKILL"}),
    "jobs.enqueue_one": QUERIES.jobs.enqueue_one(new_job(queue="q0")),
    "jobs.enqueue_one_keyed": QUERIES.jobs.enqueue_one_keyed(KEYED),
    "jobs.resolve borrowed": QUERIES.jobs.resolve([(claimed(1, 1), PLAIN_SUCCESS)]),  # by `ctx.transaction()`
    "jobs.enqueue_many": QUERIES.jobs.enqueue_many(new_job(queue="q0"), "[{},{},{}]"),
    "jobs.enqueue_many_keyed": QUERIES.jobs.enqueue_many_keyed(KEYED, "[{},{}]", KEYS, "[{},{}]"),
    "jobs.take_expired_keys": QUERIES.jobs.take_expired_keys(KEYS),
    "steps.record borrowed": QUERIES.steps.record([(claimed(1, 1), NewStep("new", "value"))]),
    "steps.compensate_running": QUERIES.steps.compensate_running(claimed(1, 1), NewStep("compensate", "value")),
    "calls.record": QUERIES.calls.record(claimed(1, 1), NewStep("call", "call", "null"), [5000], [0]),
    "steps.forget": QUERIES.steps.forget(5000, "s"),
    "steps.open_waits": QUERIES.steps.open_waits(5000),
    "why.steps": QUERIES.why.steps(5000, 10),
    "why.step_values": QUERIES.why.step_values(5000, 10),
    "signals.send": QUERIES.signals.send(5000, "go", "1"),
    "signals.send_event": QUERIES.signals.send_event("payment", "7", "1"),
    "waits.register": QUERIES.waits.register([1, 5000], True),
    "waits.read_snapshots": QUERIES.waits.read_snapshots([1, 5000], [False, True]),
    "waits.read_jobs": QUERIES.waits.read_jobs([1, 5000]),
    "jobs.find_key_holders": QUERIES.jobs.find_key_holders([KEYED]),
    "jobs.find_key_holder": QUERIES.jobs.find_key_holder(str(KEYED.conditions and KEYED.conditions.key_hash)),
    "jobs.find_unique_holders": QUERIES.jobs.find_unique_holders([ALONE]),
    "jobs.replace": QUERIES.jobs.replace([5000], [ALONE]),
    "jobs.free_expired_keys": QUERIES.jobs.free_expired_keys([KEYED]),
    "jobs.free_expired_unique_keys": QUERIES.jobs.free_expired_unique_keys([ALONE]),
    "jobs.give_back_keys": QUERIES.jobs.give_back_keys([1], [KEYED]),
    "jobs.depth": QUERIES.jobs.depth("q0", 1000),
    "jobs.prefer_indexes": QUERIES.jobs.prefer_indexes(),
    "jobs.get": QUERIES.jobs.get(5000),
    "jobs.cancel": QUERIES.jobs.cancel([5000], "why"),
    "jobs.retry_waiting": QUERIES.jobs.retry_waiting([5000], "why"),
    "jobs.promote": QUERIES.jobs.promote([5000], "why", 5),
    "jobs.restore": QUERIES.jobs.restore([5000], "why"),
    "jobs.read_ended": QUERIES.jobs.read_ended(5000),
    "jobs.lock_waiting": QUERIES.jobs.lock_waiting(5000),
    "jobs.edit_waiting": QUERIES.jobs.edit_waiting({5000: EditedJob("{}")}, "why", Edit(priority=5)),
    "why.waits": QUERIES.why.waits(5000),
    "why.ahead": QUERIES.why.ahead(A_JOB, 50),
    "workflows.find_older": QUERIES.workflows.find_older(),
    "why.parents": QUERIES.why.parents(-2_000_001),
    "why.skipped_for": QUERIES.why.skipped_for(-2_000_001, -2_000_000),
    "jobs.rule_of_queue": QUERIES.jobs.rule_of_queue("default"),
    "why.buckets": QUERIES.why.buckets(["r", "r/k"]),
    "why.place": QUERIES.why.place(A_JOB, 5, 50),
    "why.runs_at": QUERIES.why.runs_at(5000, WORKER),
    "jobs.count": QUERIES.jobs.count(50),
    "jobs.count_turns": QUERIES.jobs.count_turns(50),
    "jobs.count_waiting": QUERIES.jobs.count_waiting(50),
    "jobs.count_finished": QUERIES.jobs.count_finished(50),
    "workers.list": QUERIES.workers.list(),
    "pauses.list": QUERIES.pauses.list(),
    "pauses.of": QUERIES.pauses.of("q0", "t"),
    "pauses.pause_tasks": QUERIES.pauses.pause_tasks(["t"], PauseSettings(None, 60.0, "deploy", "alice")),
    "pauses.resume_tasks": QUERIES.pauses.resume_tasks(["t"], "alice"),
    "pauses.pause_limit": QUERIES.pauses.pause_limit("stripe", None, PauseSettings(None, 60.0, "deploy", "alice")),
    "pauses.resume_limit": QUERIES.pauses.resume_limit("stripe", None, "alice"),
    "pauses.find_limit": QUERIES.pauses.find_limit("stripe"),
    "pauses.left": QUERIES.pauses.left(["t"]),
    "jobs.count_dead": QUERIES.jobs.count_dead(50),
    "operations.list_open": QUERIES.operations.list_open(10),
    "queues.pause": QUERIES.queues.pause(["q0", "q1"], None, 60.0, "deploy", "alice"),
    "queues.resume": QUERIES.queues.resume(["q0", "q1"], "alice"),
    "workers.request": QUERIES.workers.request([WORKER], "quiet", "alice"),
    "workers.set_queues": QUERIES.workers.set_queues(WORKER, ["q*", "q0"]),
    "workers.locate": QUERIES.workers.locate([WORKER]),
    "workers.ping": QUERIES.workers.ping([WORKER]),
    "workers.beats": QUERIES.workers.beats([WORKER]),
    "activity.rates": QUERIES.activity.rates(50),
    "activity.due_turns": QUERIES.activity.due_turns(50),
    "jobs.count_parked": QUERIES.jobs.count_parked(50),
    "schedules.list": QUERIES.schedules.list(),
    "schedules.lock": QUERIES.schedules.lock("s1"),
    "schedules.declaration": QUERIES.schedules.declaration("s1"),
    "events.publish": QUERIES.events.publish([NewEvent("order.1.paid", "{}"), NewEvent("none", "{}")]),
    "events.replay": QUERIES.events.replay(1, 5000, NOW - timedelta(hours=1), NOW, 100),
    "events.get": QUERIES.events.get(5000),
    "events.awaiting": QUERIES.events.awaiting("payment", "k50"),
}
STATUS = {
    "jobs.count", "jobs.count_turns", "jobs.count_waiting", "jobs.count_finished", "workers.list", "jobs.count_parked",
    "schedules.list", "activity.rates", "activity.due_turns",
}  # fmt: skip
FLAT = DUTIES | OTHERS | DOCTOR_FLAT
SCHEDULE_VERBS = (
    "create", "redefine", "pause", "resume", "delete", "wake_schedulers", "list_ticks",
)  # fmt: skip
# Statements that are not tested here, and why.
EXEMPT = {
    "jobs.enqueue_many_metered": "inserts what it was given, as jobs.enqueue_many does: test_explain_metered",
    "doctor.write_plainly": "reads nothing",
    "signals.complete_topics": "once in the life of a topic: reads the events of a week",
    "workflows.enqueue": "inserts what it was given: test_graphs",
    **dict.fromkeys(
        [f"workflows.{verb}" for verb in ("add", "add_many", "replace")], "inserts what it was given: test_adding"
    ),
    **dict.fromkeys(
        [f"workflows.{verb}" for verb in ("enter", "enter_replaced", "look_at_group", "lock_group", "mark_late_of")],
        "by primary key",
    ),
    **dict.fromkeys(["workflows.share_open", "workflows.close_open"], "reads nothing"),
    "workflows.check_parents": "reads of one workflow what is before the new edges, as far as it has not ended",
    "workflows.seal": "the gates that came while one workflow was open",
    **dict.fromkeys(
        [
            f"workflows.{verb}"
            for verb in ("lock_for_retry", "lock_free_for_retry", "counted", "elsewhere", "revive", "jobs", "edges")
        ],
        "asked by hand, of one workflow: by the ids that its gates name",
    ),
    "workflows.lock_letters": "the dead letters of one workflow that is to come back: by their index",
    **dict.fromkeys(["workflows.request_stop", "workflows.state", "workflows.of_job"], "by primary key"),
    **dict.fromkeys(["workflows.get", "workflows.list"], "asked by hand: counts up to a bound"),
    "workflows.results_members": "after the last page of one group: adds up its gates, by gate_workflow",
    "workflows.results_page": "a page of one group, where a task asks for it: test_results_page",
    "workflows.groups": "asked by hand: the groups of one workflow",
    "workflows.errors": "asked by hand: dead letters of one workflow, up to a bound, by their index",
    "jobs.change_flows": "one batch of an edit: by primary key",
    "jobs.is_held": "once a block on a task's own connection: by primary key",
    **dict.fromkeys(
        [f"limits.{verb}" for verb in ("declare", "names", "set_rule", "set_key", "reset_rule", "reset_key")],
        "a table with a row for each rule, and one for each exception",
    ),
    "limits.list": "asked by hand: a bounded number of lanes, jobs and keys",
    "pauses.set_aside": "walks as a full scan of claims does, only while a task is paused, a twentieth of the time",
    "activity.record": "inserts what it was given, a row a task, queue and outcome",
    **dict.fromkeys(
        [
            "operations.begin",
            "operations.lock",
            "operations.move",
            "operations.fail",
            "operations.record",
            "operations.recorded",
            "operations.counted",
            "operations.put_off",
            "operations.stop",
            "operations.resume",
            "operations.list",
            "dead.lock_dead",
            "dead.edit",
            "dead.annotate",
            "dead.redrive",
            "dead.discard",
        ],
        "asked by hand, of one operation or one batch: by primary key",
    ),
    **dict.fromkeys(
        [
            f"metrics.{name}"
            for name in (
                "queues",
                "waiting",
                "workflows",
                "letters",
                "locks",
                "workers",
                "dead",
                "parked",
                "schedules",
                "snapshot",
                "tables",
                "partitions",
                "revision",
            )
        ],
        "one exporter, every ten seconds: test_metrics_reads",
    ),
    **dict.fromkeys(
        [
            f"dashboard.{name}"
            for name in (
                "look",
                "signs",
                "activity",
                "day_so_far",
                "tasks_of_queue",
                "days_of_failures",
                "days_kept",
                "waits",
                "ties",
                "announced",
                "indexes",
                "tasks",
                "failures",
            )
        ],
        "one reader while somebody looks, bounded by a statement_timeout: test_dashboard_reads",
    ),
    "chosen.next_batch": "asked by hand: a window of the primary key",
    **dict.fromkeys(["chosen.preview", "chosen.unseen"], "asked by hand: 200,000 jobs at most, see test_explain"),
    "workflows.comes_back": "asked by hand: workflows of what a preview has found, by the ids of their gates",
    "dead.list": "asked by hand: walks along the primary key until it has found enough",
    "dead.groups": "asked by hand: reads all dead letters",
    "dead.groups_of": "asked by hand: the dead letters of one page, by primary key",
    "workers.known_tasks": "asked by hand: a table with a row for each process",
    "jobs.mark_transaction": "reads no table",
    "jobs.read_mark": "reads no table",
    "workers.unlisten": "reads no table",
    "workers.listen": "no plan",
    "waits.listen": "no plan",
    "locks.listen": "no plan",
    **dict.fromkeys(
        ["locks.acquire", "locks.renew", "locks.release", "locks.break_", "locks.list"],
        "a table with a row for each held lock: test_locks",
    ),
    "jobs.begin": "no plan",
    "jobs.rescuable": "asked only when a rescue has failed: walks along the primary key to rows that run",
    "schema.validate": "a block of DDL that `pgqueue migrate` runs",
    "partitions.make": "a block of DDL; looks into no table but a default partition below 16 MB",
    "partitions.split_default": "a block of DDL; reads a default partition below 16 MB, if it is not empty",
    "partitions.guard_default": "a block of DDL; reads a default partition beyond 16 MB",
    "partitions.clear_default": "a block of DDL; reads a default partition beyond 16 MB",
    "partitions.bound_default": "a block of DDL; reads a default partition beyond 16 MB",
    "partitions.outgrow_default": "a block of DDL; reads a default partition beyond 16 MB",
    "partitions.states": "reads the catalogue",
    **dict.fromkeys(
        [f"names.{name}" for name in ("queues", "tasks", "schedules", "workers")],
        "asked by hand, within 0.8 seconds: small tables, and a thousand hops along job_live_ready",
    ),
    "queues.left": "asked by hand: counts due jobs up to 10,000, and what runs",
    "partitions.delegated": "reads the catalogue",
    "partitions.maintain": "one step of DDL; reads a default partition below 16 MB, if it is not empty",
    **dict.fromkeys(
        [
            f"roles.{verb}"
            for verb in ("find_prefix", "existing", "privileges", "make", "own", "grant", "take", "take_all")
        ],
        "`pgqueue migrate` asks it of the catalogue, or changes that",
    ),
    "queues.list": "reads at most 10,000 jobs of a lane: test_fleet_views",
    **dict.fromkeys(
        ["retention.allowed", "retention.old_partitions", "retention.sweeps", "retention.forget"],
        "reads the catalogue, and tables with a few rows",
    ),
    **dict.fromkeys(
        ["retention.declare", "retention.set_rule", "retention.unset_rule", "retention.rules", "retention.take_turn"],
        "tables with a few rows",
    ),
    **dict.fromkeys(
        ["retention.empty_partition", "retention.drop_partition"],
        "functions of DDL; reads a partition that goes, and what it keeps of it",
    ),
    "activity.reaches": "walks back as far as so many jobs have ended, over 50,000 rows of a rule; once a minute",
    "retention.sample": "asked by hand: a sample of a partition",
    "retention.count_old": "asked by hand: counts what would go",
    "retention.prune_operations": "a table with a row for each request of an operator",
    "retention.rest": "reads no table",
    **NOT_FLAT,
    "schema.settings": "reads no table",
    "schema.set_settings": "reads no table",
    "schema.lock_migrations": "reads no table",
    "schema.has_version": "reads the catalogue",
    "schema.index_states": "reads the catalogue, before a migration builds an index",
    "schema.installed": "reads the catalogue",
    "schema.version": "a table of one row",
    **dict.fromkeys(
        [f"schedules.{verb}" for verb in SCHEDULE_VERBS],
        "asked by hand, or once when a scheduler starts: one schedule and its ticks",
    ),
    **dict.fromkeys(
        ["workflows.find_stuck", "workflows.find_hollow"],
        "asked by hand, by `doctor`: the first thousand, as workflows.doom_stuck and workflows.end_hollow",
    ),
    "events.list": "asked by hand: 10,000 events at most",
    **dict.fromkeys(["events.clock", "events.publishers"], "reads no table"),
    **dict.fromkeys(
        [
            f"events.{verb}"
            for verb in (
                "declare",
                "rename",
                "subscriptions",
                "disable",
                "enable",
                "disable_left",
                "register_release",
                "is_newest_release",
                "unregister_release",
            )
        ],
        "tables with a row for each task that gets events, and for each process that declares some",
    ),
    **dict.fromkeys(["jobs.list", "jobs.unseen"], "asked by hand: 200,000 jobs at most, see test_explain"),
}
LIVE = """
insert into pgqueue.job_live (task, queue, priority, run_at)
select 't', 'q' || i % 3, i % 7, now() - make_interval(secs => i / 100.0) from generate_series(1, {size}) as i
union all
select 't', 'q' || i % 3, i % 7, now() + interval '1 day' from generate_series(1, {size} / 2) as i;
insert into pgqueue.job_live (task, queue, unique_key, unique_live, expires_at)
select 't', 'q0', sha256(convert_to('t' || chr(10) || 'k' || i, 'UTF8')), true, now() + make_interval(secs => i - 1000)
from generate_series(1, {size} / 20) as i;
insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds, lost_at)
select ('00000000-0000-0000-0000-00000000000' || i)::uuid, 'worker', 'h', 1, '0', '{{q0}}', '{{t}}', 8, 30,
       case when i = 2 then now() end from generate_series(1, 3) as i;
insert into pgqueue.job_live (task, queue, state, attempt, lease, worker_id, claimed_at)
select 't', 'q0', 'running', 1, 1, w.id, now() from pgqueue.worker w, generate_series(1, 20);
insert into pgqueue.job_live (task, queue, state, waits_for)
select 'unknown' || i % 2, 'q0', 'blocked', 'task' from generate_series(1, {size} / 20) as i;
insert into pgqueue.schedule (name, task, queue, every_seconds, next_tick)
select 's' || i, 't', 'q0', 60, now() + make_interval(secs => i) from generate_series(-5, 20) as i;
insert into pgqueue.step (job_id, name, kind, done, waits, wait_key, attempt, lease)
select i, 's', 'event', false, 'payment', 'k' || i, 1, 1 from generate_series(1, {size}) as i
union all select i, 'v', 'value', true, null, null, 1, 1 from generate_series(1, {size}) as i
union all select i, 'go', 'signal', false, 'go', null, 1, 1 from generate_series(1, {size}) as i;
insert into pgqueue.signal (job_id, name, data, seen)
select i, 'other', '1', i > 20 from generate_series(1, {size}) as i;
insert into pgqueue.awaited_event (name, key, data, seen)
select 'payment', 'k' || i, '1', i > 20 from generate_series(1, {size}) as i;
insert into pgqueue.step (job_id, name, kind, done, value, attempt, lease)
select n, 'called', 'call', false, 'null', 1, 1 from generate_series(1, 3000) n;
insert into pgqueue.call (child_id, job_id, step, number, place, ended, seen)
select 100000 + t.job_id * 5 + p, t.job_id, t.name, t.number, p, t.job_id % 2 = 0, t.job_id > 20
from pgqueue.step t, generate_series(0, 4) p where t.kind = 'call';
insert into pgqueue.unwanted_call (child_id) select n from generate_series(1, 3000) n;
insert into pgqueue.undo (job_id, number, lease, step, call, undo_job_id)
select i, i, 1, 's', '{{}}', i + 1000000 from generate_series(1, {size}) as i;
insert into pgqueue.limit_rule (name, max_running) values ('r', 3);
insert into pgqueue.limit_bucket select 'r/' || i from generate_series(0, 9) as i;
insert into pgqueue.limit_use (name, version, rule, taken)
select 'r/' || i, 5, 'r', case i when 0 then 5 else 2 end from generate_series(0, 9) as i;
insert into pgqueue.limit_freed (name, version, rule, freed)
select 'r/' || i, 5, 'r', 2 from generate_series(0, 9) as i;
insert into pgqueue.job_live (task, queue, state, waits_for, lane, headers, run_at)
select 't', 'q0', 'blocked', 'turn', lane,
       jsonb_build_object('$flow', jsonb_build_object('lane', lane, 'buckets', jsonb_build_array('r/' || lane))),
       now() - make_interval(secs => i / 100.0)
from generate_series(1, {size} / 5) as i, lateral (select case when i % 4 > 0 then 0 else i / 4 % 10 end) as l(lane);
insert into pgqueue.workflow (id, root_id, name, open_gates, state, settled, ended_at, stop_reason)
select -i, -i, 'w', (i % 2)::int, case i % 2 when 1 then 'running' else 'succeeded' end, i % 2 = 0 and i > 100,
       case i % 2 when 0 then now() end, case when i < 100 and i % 2 = 1 then 'why' end
from generate_series(1, {size} / 20) as i;
insert into pgqueue.gate (id, workflow_id, members, remaining, first_id, last_id)
select -i, -i, 60, 60, -9, -1 from generate_series(1, {size} / 20) as i;
insert into pgqueue.job_live (id, task, queue, state, attempt, lease, worker_id, claimed_at, ties, gate_id, workflow_id)
select -1000000 - i, 't', 'q0', 'running', 1, 1, '00000000-0000-0000-0000-000000000001', now(), 3, -1 - i % 9,
       -1 - i % 9
from generate_series(1, 40) as i;
insert into pgqueue.job_live (id, task, queue, state, attempt, lease, worker_id, claimed_at, ties, gate_id, workflow_id)
select -1000100 - i, 't', 'q0', 'running', 1, 1, '00000000-0000-0000-0000-000000000003', now(), 2, -1 - i % 9,
       -1 - i % 9
from generate_series(1, 20) as i;
insert into pgqueue.job_live (id, task, queue, state, waits_for, waits_on, ties, gate_id, workflow_id,
                              cancel_requested_at)
select -2000000 - i, 't', 'q0', 'blocked', 'jobs', 1, 3, -1 - i % ({size} / 20), -1 - i % ({size} / 20),
       case i % 10 when 0 then now() end
from generate_series(1, {size} / 20) as i;
insert into pgqueue.dependency (parent_id, child_id, ord, workflow_id)
select case when i <= 200 then -1000000 - i % 40 else -3000000 - i end, -2000000 - i, i, -1
from generate_series(1, {size} / 20) as i;
insert into pgqueue.dependency (parent_id, child_id, ord, workflow_id, late)
select case when i <= 100 then -1000000 - i % 40 else -i end, -2000000 - i, 0, -1, true
from generate_series(1, 120) as i"""
HISTORY = """
insert into pgqueue.job_finished (id, task, queue, state, finished_at)
select -i, 't', 'q0', 'succeeded', now() - make_interval(secs => i / 100.0) from generate_series(1, {size}) as i;
insert into pgqueue.transition (job_id, from_state, to_state, at)
select -i, 'running', 'succeeded', now() - make_interval(secs => i / 100.0) from generate_series(1, {size}) as i;
insert into pgqueue.dead_letter (id, task, queue, reason, failed_at)
select -i, 't', 'q' || i % 3, 'error', now() - make_interval(secs => i) from generate_series(1, {size} / 20) as i;
insert into pgqueue.idempotency_key (key, job_id, created_at, expires_at)
select encode(substr(sha256(convert_to('t' || chr(10) || 'k' || i, 'UTF8')), 1, 16), 'hex')::uuid, -i,
       now() - interval '1 day', now() + make_interval(secs => i - 1000) from generate_series(1, {size}) as i;
insert into pgqueue.waiter select -i, now() + interval '1 minute' from generate_series(1, 500) as i;
insert into pgqueue.result_expiry (job_id, finished_at, expires_at)
select -i, now() - make_interval(secs => i / 100.0), now() + make_interval(secs => i - 1000)
from generate_series(1, {size}) as i;
insert into pgqueue.published_event (id, at, topic, data)
select i, now() - make_interval(secs => ({size} - i) / 100.0), 'order.' || i % 9, '{{}}'
from generate_series(1, {size}) as i;
insert into pgqueue.subscription (task, patterns, expressions, queue, priority, max_attempts, tags, headers, history,
                                  takes, declared)
select 's' || i, array['order.' || i || '.*'], array['^[.]order[.]' || i || '$'], 'q0', 0, 1, '{{}}', '{{}}', true,
       '{{}}', '{{}}' from generate_series(1, 2000) as i;
insert into pgqueue.subscription_pattern (anchor, subscription_id, pattern, expression)
select '^order.' || i, i, 'order.' || i || '.*', '^[.]order[.]' || i || '[.]' from generate_series(1, 2000) as i;
insert into pgqueue.schedule_fire (schedule, tick, outcome, reason)
select 's1', now() - make_interval(secs => 60 * i), 'missed', 'why' from generate_series(1, {size} / 20) as i"""

Size = int
SIZES = [pytest.param(100_000, id="100k"), pytest.param(1_000_000, id="1M", marks=pytest.mark.stress)]


@pytest.fixture(scope="module", params=SIZES)
def made(server_dsn: str, template: str, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Databases: with nothing in them, and with much, under statistics of when it was empty, and under true ones."""
    databases = Databases(server_dsn)
    stale = databases.make(template)
    with psycopg.connect(stale, autocommit=True) as conn:
        for table in (
            "job_live",
            "dead_letter",
            "schedule_fire",
            "worker",
            "schedule",
            "idempotency_key",
            "result_expiry",
            "workflow",
            "gate",
            "dependency",
            "subscription",
            "subscription_pattern",
        ):
            conn.execute(f"alter table pgqueue.{table} set (autovacuum_enabled = off)")
        conn.execute("analyze")
        for statements in (LIVE, HISTORY):
            conn.execute(statements.format(size=request.param))
    analysed = databases.make(str(conninfo_to_dict(stale)["dbname"]))
    with psycopg.connect(analysed, autocommit=True) as conn:
        conn.execute("analyze")
    yield {"empty": databases.make(template), "stale": stale, "analysed": analysed}
    databases.drop_all()


@pytest.fixture(params=["empty", "stale", "analysed"])
def tx(made: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Conn]:
    """A connection to one of these databases, in a transaction that is rolled back."""
    with psycopg.connect(made[request.param]) as conn:
        yield conn
        conn.rollback()


def examined(plan: Node) -> float:
    """Return how many rows of the growing tables were read, also those that were filtered out."""
    dropped = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    return sum(
        (node["Actual Rows"] + sum(node.get(name, 0) for name in dropped)) * node["Actual Loops"]
        for node in nodes(plan)
        if "Scan" in node["Node Type"] and node.get("Relation Name", "").startswith(GROWING)
    )


def too_much(plan: Node) -> str:
    """Return the cost if it is out of bounds, else nothing."""
    rows, pages = examined(plan), buffers(plan)
    return "" if rows <= MOST_ROWS and pages <= MOST_PAGES else f"{rows:.0f} rows, {pages} pages"


def look(conn: Conn, name: str, *, generic: bool, forbidden: str = "") -> Node:
    """Explain a statement on the kind of connection it runs on, and undo its effects."""
    with conn.transaction(force_rollback=True):
        for setting in ("enable_seqscan", "jit") if name in DUTIES else ():
            conn.execute(f"set local {setting} = off")
        if name in STATUS:
            db.run(conn, QUERIES.jobs.prefer_indexes())
        if forbidden:
            conn.execute(f"set local {forbidden} = off")
        plan = explain(conn, FLAT[name], generic=generic)
    conn.execute("deallocate all")
    return plan


def test_every_statement_is_looked_at_or_exempt_for_a_reason() -> None:
    assert every_statement() == {name.partition(" ")[0] for name in FLAT} | EXEMPT.keys()


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_what_a_statement_reads_is_bounded(tx: Conn, generic: bool) -> None:
    assert {name: cost for name in FLAT if (cost := too_much(look(tx, name, generic=generic)))} == {}


FORBIDDEN = [
    "enable_seqscan", "enable_bitmapscan", "enable_indexonlyscan", "enable_hashjoin",
    "enable_mergejoin", "enable_hashagg", "enable_material", "enable_sort", "enable_incremental_sort",
    "enable_memoize", "enable_partition_pruning",
]  # fmt: skip
PRICED = {("enable_indexonlyscan", "schedules.record_ticks")}  # reads all ticks then, though the key alone would do
# Without these no row can be found by its key: the promises hold, but the cost is unbounded.
CRIPPLING = ["enable_indexscan", "enable_nestloop"]


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("forbidden", FORBIDDEN)
def test_what_a_duty_reads_is_bounded_whatever_the_planner_may_not_do(
    made: dict[str, str], forbidden: str, generic: bool
) -> None:
    for statistics in ("stale", "analysed"):
        with psycopg.connect(made[statistics]) as conn:
            asked = [name for name in DUTIES if (forbidden, name) not in PRICED]
            looks = {name: too_much(look(conn, name, generic=generic, forbidden=forbidden)) for name in asked}
            assert {name: cost for name, cost in looks.items() if cost} == {}
            conn.rollback()


@pytest.mark.parametrize("name", ["jobs.claim", "jobs.claim_beyond", "jobs.adopt"])
@pytest.mark.parametrize("forbidden", [*FORBIDDEN, *CRIPPLING])
def test_a_claim_never_takes_more_than_its_limit(made: dict[str, str], forbidden: str, name: str) -> None:
    running = "select count(*) from pgqueue.job_live where worker_id = %s"
    for statistics in ("stale", "analysed"):
        for generic in (False, True):
            with psycopg.connect(made[statistics]) as conn:
                before = scalar(conn, running, WORKER)
                conn.execute(f"set local {forbidden} = off")
                plan = explain(conn, DUTIES[name], generic=generic)
                assert plan["Actual Rows"] == scalar(conn, running, WORKER) - before == 10
                conn.rollback()
