"""Every statement is accepted by Postgres; claims take jobs in the promised order and never exceed their limits."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from pgqueue import db
from pgqueue.db.connection import as_sent
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.event import NewEvent
from pgqueue.jobs.job import Job, JobState, NewJob
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.keys import Unique, key_hashes
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.jobs.retention import RetentionRule
from pgqueue.jobs.step import NewStep
from pgqueue.jobs.tally import Count
from pgqueue.process.heartbeat import describe_process
from pgqueue.queries import Queries, Query
from pgqueue.queries.chosen import PLACES, Page
from pgqueue.queries.dashboard import Span as DashboardSpan
from pgqueue.queries.jobs.change import Edit, EditedJob
from pgqueue.queries.jobs.claim import Portion
from pgqueue.queries.jobs.list import LISTS
from pgqueue.queries.locks import Wanted
from pgqueue.queries.operations import Moved, Operation
from pgqueue.queries.pauses import PauseSettings
from pgqueue.queries.retention import Sweep
from pgqueue.queries.roles import Grant
from pgqueue.queries.schema import MigrationSettings
from pgqueue.queries.steps import Swept
from pgqueue.queries.ties import TieKeys
from pgqueue.queries.turns.claim import Line
from pgqueue.queries.turns.full import FullLane
from pgqueue.schedules.cron import Cron
from pgqueue.schedules.in_words import Upcoming
from pgqueue.schedules.plan import Every
from pgqueue.schedules.schedule import Schedule
from pgqueue.schedules.ticks import ScheduleState, TickRecord
from pgqueue.tasks.rules import Rules
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_worker, claimed, every_statement, insert_job, new_job
from tests.statements import doctor, graph_samples, metered

WORKER = UUID("00000000-0000-0000-0000-000000000001")
TICK = datetime(2026, 1, 1, tzinfo=UTC)
JOB = NewJob("t", "{}", "q", 0, 3)
KEYED = NewJob("t", "{}", "q", 0, 3, conditions=Rules(key="k", expires=60.0).conditions("t", dict, {}, None))
ALONE = NewJob(
    "t", "{}", "q", 0, 3, conditions=Rules(unique=Unique(window=60, while_="live")).conditions("t", dict, {}, None)
)
UNIQUE = NewJob("t", "{}", "q", 0, 3, conditions=Rules(unique_key="k").conditions("t", dict, {}, None))
PLANS = [Schedule("s", Every(60), JOB), Schedule("c", Cron("@daily"), JOB)]
TICKS = [TickRecord("s", TICK, "missed", "why"), TickRecord("c", TICK, "fired", None, 1)]
STEP = NewStep("charge", "value", "[1]")
WAIT = NewStep("payment#2", "event", seconds=60.0, waits="payment", key="7")
OUTCOMES = [
    (claimed(3, 1), Resolution("succeed", result="[1]")),
    (claimed(4, 1), Resolution("retry", "error", 1.0, error=ErrorInfo("E", "m"))),
]
METERED_OUTCOMES = [
    (claimed(3, 1, lane=5), Resolution("succeed", result="[1]")),
    (claimed(4, 1, lane=5), Resolution("snooze", "rate limited", 1.0, refund=True, closes=("r/a",))),
]
FULL_LANE = FullLane("default", 5, 0, "r/a", "skip")
LINES = [Line(5, 0, '["r/a"]', 2), Line(-6, 3, '["o/a"]', 1, TICK, 7)]
SHARES = [Line(5, 0, "[]", 1), Line(6, 0, "[]", 2, TICK, 7)]
COUNTS = [(("t", "q", "retry"), Count(2, 0.5, 0.1, [0, 1, 0, 1], [2])), (("u", "q", "expire"), Count(1))]
COMMON: dict[str, Any] = {
    "task": "t*", "queue": "q", "tag": "a", "since": TICK, "until": TICK, "args": {"tenant": 7}, "ids": [1, 2]
}  # fmt: skip
CHOSEN = DeadFilter(error="E", group="0", **COMMON)
JOBS = JobFilter(**COMMON)
A_JOB = Job(7, "t", "q", 0, JobState.PENDING, "pending", {}, (), TICK, TICK, 0, 3)
OPERATION = Operation(1, "redrive", {}, {}, "alice", "test", TICK, None, None, 0, 0, 0, None)
SUBSCRIPTION = """
{"task": "t", "patterns": ["order.*"], "expressions": ["^x$"], "queue": "q", "priority": 0, "max_attempts": 3,
 "tags": [], "headers": {}, "history": true, "ttl": null, "takes": ["a"], "whole_as": "e",
 "rules": [{"kind": "order", "rule": "t#order", "key_of": "$key"}],
 "matching": [{"anchor": "^order", "pattern": "order.*", "expression": "^x$"}]}"""
EVENTS = [NewEvent("order.paid", '{"a": 1}', "k"), NewEvent("order.paid", "{}")]
COUNTING = RetentionRule("cancelled", "tenant-*", "*", 3600.0, 100)
RULE, FOREVER = RetentionRule("succeeded", "*", "audit.*", 3600.0), RetentionRule("ticks", "*", "*", None)
SWEEP = Sweep("job_finished_20260101", TICK, TICK + timedelta(days=1), timedelta(hours=1), False, 0, 10, "hash")
GRANTS = [Grant("pg_monitor", "table", "job_live", column, "select") for column in ("id", "queue")]
FRONTIER = {("default", 0): (TICK, 1), ("bulk", 5): (TICK, 7)}
SAMPLES: dict[str, Callable[[Queries], Query[Any]]] = {
    "jobs.enqueue_one": lambda q: q.jobs.enqueue_one(new_job(tags=("a", 'b"'), delay=1.0)),
    "events.publish": lambda q: q.events.publish(EVENTS, '{"h": "v"}'),
    "events.replay": lambda q: q.events.replay(1, 0, "-infinity", TICK, 100),
    "events.publishers": lambda q: q.events.publishers(),
    "events.list": lambda q: q.events.list("^x$", "k", TICK, 7, 10),
    "events.get": lambda q: q.events.get(1),
    "events.awaiting": lambda q: q.events.awaiting("order.paid", "42"),
    "events.clock": lambda q: q.events.clock(),
    "events.rename": lambda q: q.events.rename('[{"task": "t", "alias": "u"}]'),
    "events.declare": lambda q: q.events.declare("shop", [SUBSCRIPTION]),
    "events.register_release": lambda q: q.events.register_release(WORKER, "shop", "r", ["t"], TICK),
    "events.is_newest_release": lambda q: q.events.is_newest_release(WORKER),
    "events.unregister_release": lambda q: q.events.unregister_release(WORKER),
    "events.disable_left": lambda q: q.events.disable_left("shop"),
    "events.disable": lambda q: q.events.disable("t", "alice"),
    "events.enable": lambda q: q.events.enable("t"),
    "events.subscriptions": lambda q: q.events.subscriptions("t"),
    "jobs.enqueue_many": lambda q: q.jobs.enqueue_many(new_job(run_at=TICK), '[{"a": 1}, {}]'),
    "jobs.enqueue_many_keyed": lambda q: q.jobs.enqueue_many_keyed(
        KEYED, '[{"a": 1}, {}]', [*key_hashes("t", ["k"]), None], "[{}, {}]"
    ),
    "jobs.take_expired_keys": lambda q: q.jobs.take_expired_keys(key_hashes("t", ["k"])),
    "jobs.enqueue": lambda q: q.jobs.enqueue([new_job(tags=("a", 'b"')), new_job(delay=1.0), new_job(run_at=TICK)]),
    "jobs.enqueue_one_keyed": lambda q: q.jobs.enqueue_one_keyed(KEYED, read_committed_only=True),
    "jobs.enqueue_conditionally unique": lambda q: q.jobs.enqueue_conditionally([UNIQUE], read_committed_only=True),
    "jobs.enqueue_conditionally in window": lambda q: q.jobs.enqueue_conditionally([KEYED, ALONE]),
    "jobs.find_key_holders": lambda q: q.jobs.find_key_holders([KEYED, ALONE]),
    "jobs.find_key_holder": lambda q: q.jobs.find_key_holder(str(KEYED.conditions and KEYED.conditions.key_hash)),
    "jobs.find_unique_holders": lambda q: q.jobs.find_unique_holders([ALONE]),
    "jobs.replace": lambda q: q.jobs.replace([1], [ALONE]),
    "jobs.free_expired_keys": lambda q: q.jobs.free_expired_keys([KEYED, ALONE]),
    "jobs.free_expired_unique_keys": lambda q: q.jobs.free_expired_unique_keys([ALONE]),
    "jobs.give_back_keys": lambda q: q.jobs.give_back_keys([1, 2], [KEYED, ALONE]),
    "jobs.depth exact": lambda q: q.jobs.depth("default", 1000),
    "jobs.depth sampled": lambda q: q.jobs.depth("default", 100_000),
    "jobs.begin": lambda q: q.jobs.begin(),
    "jobs.expire": lambda q: q.jobs.expire(10, TICK),
    "jobs.prune_keys": lambda q: q.jobs.prune_keys(3),
    "jobs.claim": lambda q: q.jobs.claim(WORKER, {"default": 2, "bulk": 1}, 3),
    "jobs.claim_beyond": lambda q: q.jobs.claim_beyond(WORKER, {"default": 2, "bulk": 1}, 3, FRONTIER),
    "jobs.claim_oldest": lambda q: q.jobs.claim_oldest(WORKER, {"default": 2, "bulk": 1}, 3, 60.0),
    "jobs.adopt": lambda q: q.jobs.adopt(WORKER, {"default": 2, "bulk": 1}, ["t"], 3),
    "jobs.parked_labels": lambda q: q.jobs.parked_labels(["t", "u"]),
    "jobs.next_due": lambda q: q.jobs.next_due(["default", "bulk"]),
    "jobs.resolve mixed": lambda q: q.jobs.resolve(OUTCOMES),
    "jobs.resolve successes": lambda q: q.jobs.resolve([(claimed(3, 1), PLAIN_SUCCESS)]),
    "jobs.resolve metered": lambda q: q.jobs.resolve(METERED_OUTCOMES),
    "jobs.resolve metered successes": lambda q: q.jobs.resolve([(claimed(3, 1, lane=5), PLAIN_SUCCESS)]),
    "turns.claim": lambda q: q.turns.claim(WORKER, "default", LINES, room=3, slots=2),
    "turns.claim shares": lambda q: q.turns.claim(WORKER, "default", SHARES, room=3, slots=2),
    "turns.claim lane": lambda q: q.turns.claim(WORKER, "default", LINES[:1], room=3, slots=2),
    "turns.claim first": lambda q: q.turns.claim(WORKER, "default", LINES[1:], room=3, slots=2),
    "turns.look": lambda q: q.turns.look([("default", -5), ("bulk", 5)], 10),
    "turns.tell_of_room": lambda q: q.turns.tell_of_room(WORKER, ["default", "bulk"]),
    "turns.make_buckets": lambda q: q.turns.make_buckets(["r/a", "r"]),
    "turns.drop_idle_buckets": lambda q: q.turns.drop_idle_buckets(10),
    "turns.find_drift": lambda q: q.turns.find_drift(10),
    "turns.cancel_behind": lambda q: q.turns.cancel_behind(FULL_LANE, 10),
    "turns.cancel_holders": lambda q: q.turns.cancel_holders(FULL_LANE),
    "turns.lock_bucket": lambda q: q.turns.lock_bucket("r/a"),
    "turns.reconcile": lambda q: q.turns.reconcile("r/a"),
    "jobs.lock_unlocked": lambda q: q.jobs.lock_unlocked([1, 2]),
    "jobs.cancel": lambda q: q.jobs.cancel([1, 2], "not wanted"),
    "jobs.retry_waiting": lambda q: q.jobs.retry_waiting([1, 2], "why"),
    "jobs.promote": lambda q: q.jobs.promote([1, 2], "why", 5),
    "jobs.restore": lambda q: q.jobs.restore([1, 2], "why"),
    "jobs.read_ended": lambda q: q.jobs.read_ended(1),
    "jobs.lock_waiting": lambda q: q.jobs.lock_waiting(1),
    "jobs.edit_waiting": lambda q: q.jobs.edit_waiting(
        {1: EditedJob("{}", "null"), 2: EditedJob()}, "why", Edit("q", 5, TICK, 1.0)
    ),
    "why.waits": lambda q: q.why.waits(1),
    "why.ahead": lambda q: q.why.ahead(A_JOB),
    "activity.due_turns": lambda q: q.activity.due_turns(10),
    "jobs.rule_of_queue": lambda q: q.jobs.rule_of_queue("default"),
    "why.buckets": lambda q: q.why.buckets(["r", "r/k"]),
    "why.place": lambda q: q.why.place(A_JOB, -5),
    "why.runs_at": lambda q: q.why.runs_at(1, WORKER),
    "jobs.cancel_requests": lambda q: q.jobs.cancel_requests(WORKER, [1, 2]),
    "jobs.release_strays": lambda q: q.jobs.release_strays(WORKER, [1]),
    "jobs.rescue": lambda q: q.jobs.rescue(WORKER, 5, {"t": 1}, 10),
    "jobs.rescuable": lambda q: q.jobs.rescuable(10),
    "jobs.enqueue_dead_letter_tasks": lambda q: q.jobs.enqueue_dead_letter_tasks(
        [901, 1], {"t": metered.TARGET, "v": None}
    ),
    "jobs.note_progress": lambda q: q.jobs.note_progress([(claimed(3, 1), "{}")]),
    "workers.register": lambda q: q.workers.register(describe_process("worker", 30, ["default"], ["t"], 8)),
    "workers.watch": lambda q: q.workers.watch(q.workers.heartbeat(WORKER, {"claim": 0.1}), ["default", "bulk"]),
    "workers.heartbeat": lambda q: q.workers.heartbeat(WORKER, {"claim": 0.5, "listen": None}),
    "workers.request": lambda q: q.workers.request([WORKER], "quiet", "alice"),
    "workers.ping": lambda q: q.workers.ping([WORKER]),
    "workers.beats": lambda q: q.workers.beats([WORKER]),
    "workers.known_tasks": lambda q: q.workers.known_tasks(),
    "workers.set_waiting": lambda q: q.workers.set_waiting(WORKER, True),
    "workers.set_stopping": lambda q: q.workers.set_stopping(WORKER),
    "workers.unregister": lambda q: q.workers.unregister(WORKER),
    "workers.record_deaths": lambda q: q.workers.record_deaths({WORKER: "was killed by SIGKILL"}),
    "workers.declare_lost": lambda q: q.workers.declare_lost(),
    "workers.delete_lost": lambda q: q.workers.delete_lost(),
    "schema.check": lambda q: q.schema.check(),
    "schema.index_states": lambda q: q.schema.index_states("transition", "transition_job"),
    "jobs.mark_transaction": lambda q: q.jobs.mark_transaction("m"),
    "jobs.is_held": lambda q: q.jobs.is_held(claimed(1, 1)),
    "jobs.read_mark": lambda q: q.jobs.read_mark(),
    "workers.unlisten": lambda q: q.workers.unlisten(),
    "workers.listen": lambda q: q.workers.listen(),
    "schedules.clock": lambda q: q.schedules.clock(),
    "schedules.declare": lambda q: q.schedules.declare([(plan, TICK) for plan in PLANS]),
    "schedules.lock_due": lambda q: q.schedules.lock_due(10),
    "schedules.recorded_ticks": lambda q: q.schedules.recorded_ticks([("s", TICK)]),
    "schedules.record_ticks": lambda q: q.schedules.record_ticks(
        TICKS, [(ScheduleState(plan, TICK, TICK), 1.0) for plan in PLANS]
    ),
    "schedules.lock": lambda q: q.schedules.lock("s"),
    "schedules.try_lock": lambda q: q.schedules.try_lock(["s"]),
    "schedules.existing": lambda q: q.schedules.existing(["s"]),
    "schedules.read": lambda q: q.schedules.read(["s"]),
    "schedules.lock_stale_previews": lambda q: q.schedules.lock_stale_previews(10),
    "schedules.save_previews": lambda q: q.schedules.save_previews({"s": [Upcoming(TICK, "soon")] * 20}, TICK),
    "schedules.unfinished_jobs": lambda q: q.schedules.unfinished_jobs([1, 2]),
    "schedules.queued_ticks": lambda q: q.schedules.queued_ticks(["s", "c"]),
    "schedules.record_errors": lambda q: q.schedules.record_errors([("s", "why", False), ("c", "why", True)]),
    "schedules.find_changed": lambda q: q.schedules.find_changed(PLANS),
    "schedules.create": lambda q: q.schedules.create(PLANS[0], TICK, "me"),
    "schedules.redefine": lambda q: q.schedules.redefine(PLANS[0], TICK, TICK, "me"),
    "schedules.declaration": lambda q: q.schedules.declaration("s"),
    "schedules.pause": lambda q: q.schedules.pause("s", TICK.replace(year=2100), "me", "once"),
    "schedules.resume": lambda q: q.schedules.resume("s", "all(3)"),
    "schedules.delete": lambda q: q.schedules.delete("s"),
    "schedules.wake_schedulers": lambda q: q.schedules.wake_schedulers(),
    "schedules.register_release": lambda q: q.schedules.register_release(WORKER, "shop:app", "r1", ["s"]),
    "schedules.is_newest_release": lambda q: q.schedules.is_newest_release(WORKER),
    "schedules.disable_dropped": lambda q: q.schedules.disable_dropped("shop:app"),
    "schedules.count_declared": lambda q: q.schedules.count_declared("shop:app"),
    "schedules.unregister_release": lambda q: q.schedules.unregister_release(WORKER),
    "schedules.list_ticks": lambda q: q.schedules.list_ticks("s"),
    "schedules.next_due": lambda q: q.schedules.next_due(),
    "schema.has_version": lambda q: q.schema.has_version(),
    "schema.installed": lambda q: q.schema.installed(),
    "schema.version": lambda q: q.schema.version(),
    "schema.validate": lambda q: q.schema.validate(),
    "schema.settings": lambda q: q.schema.settings(),
    "schema.set_settings": lambda q: q.schema.set_settings(MigrationSettings()),
    "schema.lock_migrations": lambda q: q.schema.lock_migrations(),
    "partitions.make": lambda q: q.partitions.make(),
    "partitions.split_default": lambda q: q.partitions.split_default(),
    "partitions.guard_default": lambda q: q.partitions.guard_default(),
    "partitions.clear_default": lambda q: q.partitions.clear_default(),
    "partitions.bound_default": lambda q: q.partitions.bound_default(),
    "partitions.outgrow_default": lambda q: q.partitions.outgrow_default(),
    "partitions.states": lambda q: q.partitions.states(),
    "partitions.delegated": lambda q: q.partitions.delegated(),
    "partitions.maintain": lambda q: q.partitions.maintain(),
    "roles.find_prefix": lambda q: q.roles.find_prefix(),
    "roles.existing": lambda q: q.roles.existing(["a", "b"]),
    "roles.privileges": lambda q: q.roles.privileges(["a", "b"]),
    "roles.make": lambda q: q.roles.make("pg_monitor", "sample"),
    "roles.own": lambda q: q.roles.own("pg_monitor"),
    "roles.grant": lambda q: q.roles.grant(GRANTS),
    "roles.take": lambda q: q.roles.take(GRANTS),
    "roles.take_all": lambda q: q.roles.take_all(["pg_monitor"]),
    "jobs.get": lambda q: q.jobs.get(1),
    "jobs.list": lambda q: q.jobs.list(JOBS, 1000, 10),
    "jobs.unseen": lambda q: q.jobs.unseen(JOBS, 1000),
    **{
        f"jobs.unseen {state}": lambda q, state=state: q.jobs.unseen(replace(JOBS, state=state), 1000)
        for state in LISTS
    },
    **{
        f"jobs.list {state}": lambda q, state=state: q.jobs.list(replace(JOBS, state=state), 1000, 10)
        for state in LISTS
    },
    "jobs.prefer_indexes": lambda q: q.jobs.prefer_indexes(),
    "jobs.count": lambda q: q.jobs.count(),
    "jobs.count_turns": lambda q: q.jobs.count_turns(),
    "jobs.count_waiting": lambda q: q.jobs.count_waiting(),
    "jobs.count_finished": lambda q: q.jobs.count_finished(),
    "activity.record": lambda q: q.activity.record(WORKER, COUNTS),
    "activity.rates": lambda q: q.activity.rates(100),
    **{
        f"chosen.preview {kind} {place}": lambda q, kind=kind, place=place: q.chosen.preview(
            kind, place, CHOSEN if kind in ("redrive", "discard") else JOBS, Page()
        )
        for kind, places in PLACES.items()
        for place in range(len(places))
    },
    **{
        f"chosen.unseen {kind} {place}": lambda q, kind=kind, place=place: q.chosen.unseen(kind, place)
        for kind, places in PLACES.items()
        for place in range(len(places))
    },
    **{
        f"chosen.next_batch {kind} {place}": lambda q, kind=kind, place=place: q.chosen.next_batch(
            replace(OPERATION, kind=kind), CHOSEN if kind in ("redrive", "discard") else JOBS, place, 10
        )
        for kind, places in PLACES.items()
        for place in range(len(places))
    },
    "dead.groups": lambda q: q.dead.groups(10),
    "dead.list": lambda q: q.dead.list(CHOSEN, None, 10),
    "dead.groups_of": lambda q: q.dead.groups_of([1, 2]),
    "dead.redrive": lambda q: q.dead.redrive(1, [1, 2], "why", {"rate": 2.0, "attempts": 3, "delay": 1.0}),
    "dead.discard": lambda q: q.dead.discard([1, 2], "why"),
    "dead.lock_dead": lambda q: q.dead.lock_dead(1),
    "dead.edit": lambda q: q.dead.edit(1, EditedJob("{}", None), "why"),
    "dead.annotate": lambda q: q.dead.annotate(1, "known", "alice"),
    "operations.begin": lambda q: q.operations.begin("redrive", CHOSEN, {}, "alice", "test"),
    "operations.record": lambda q: q.operations.record("pause", {"queue": "email"}, {}, "alice", "test"),
    "operations.recorded": lambda q: q.operations.recorded(1),
    "operations.counted": lambda q: q.operations.counted(1, 7, 2),
    "operations.lock": lambda q: q.operations.lock(1),
    "operations.find_abandoned": lambda q: q.operations.find_abandoned(["redrive"], 30.0),
    "operations.move": lambda q: q.operations.move(1, Moved(2, 3, 0, 4, [5], ended=False)),
    "operations.put_off": lambda q: q.operations.put_off(1),
    "operations.fail": lambda q: q.operations.fail(1, "why"),
    "operations.stop": lambda q: q.operations.stop(1),
    "operations.resume": lambda q: q.operations.resume(1),
    "operations.list": lambda q: q.operations.list(10),
    "names.queues": lambda q: q.names.queues("de"),
    "names.tasks": lambda q: q.names.tasks(""),
    "names.schedules": lambda q: q.names.schedules("s"),
    "names.workers": lambda q: q.names.workers("0"),
    "queues.list": lambda q: q.queues.list(),
    "queues.pause": lambda q: q.queues.pause(["default", "bulk"], None, 60.0, "deploy", "alice"),
    "queues.pause until": lambda q: q.queues.pause(["default"], TICK.replace(year=2100), None, None, "alice"),
    "queues.resume": lambda q: q.queues.resume(["default", "bulk"], "alice"),
    "pauses.list": lambda q: q.pauses.list(),
    "pauses.of": lambda q: q.pauses.of("default", "t"),
    "pauses.pause_tasks": lambda q: q.pauses.pause_tasks(["t", "u"], PauseSettings(None, 60.0, "deploy", "alice")),
    "pauses.pause_tasks until": lambda q: q.pauses.pause_tasks(
        ["t"], PauseSettings(TICK.replace(year=2100), None, None, "alice")
    ),
    "pauses.find_limit": lambda q: q.pauses.find_limit("stripe"),
    "pauses.pause_limit": lambda q: q.pauses.pause_limit("stripe", None, PauseSettings(None, 60.0, "deploy", "alice")),
    "pauses.pause_limit key": lambda q: q.pauses.pause_limit("sync", "acme", PauseSettings(None, None, None, "alice")),
    "pauses.resume_limit": lambda q: q.pauses.resume_limit("stripe", None, "alice"),
    "pauses.resume_limit key": lambda q: q.pauses.resume_limit("sync", "acme", "alice"),
    "pauses.resume_tasks": lambda q: q.pauses.resume_tasks(["t"], "alice"),
    "pauses.tasks": lambda q: q.pauses.tasks(),
    "pauses.set_aside": lambda q: q.pauses.set_aside(["default", "bulk"], 1000, 4000),
    "pauses.bring_back": lambda q: q.pauses.bring_back(["t", "u"], 1000),
    "pauses.left": lambda q: q.pauses.left(["t"]),
    "jobs.count_dead": lambda q: q.jobs.count_dead(),
    "operations.list_open": lambda q: q.operations.list_open(10),
    "queues.left": lambda q: q.queues.left("default"),
    "workers.list": lambda q: q.workers.list(),
    "workers.set_queues": lambda q: q.workers.set_queues(WORKER, ["tenant-*", "tenant-1"]),
    "jobs.find_queues": lambda q: q.jobs.find_queues("", 100, ["t"]),
    "workers.locate": lambda q: q.workers.locate([WORKER]),
    "jobs.count_parked": lambda q: q.jobs.count_parked(),
    "schedules.list": lambda q: q.schedules.list(),
    "retention.declare": lambda q: q.retention.declare("shop:app", [RULE, FOREVER]),
    "activity.reaches": lambda q: q.activity.reaches([COUNTING, COUNTING]),
    "retention.set_rule": lambda q: q.retention.set_rule(RULE, "me"),
    "retention.unset_rule": lambda q: q.retention.unset_rule("succeeded", "*", "audit.*"),
    "retention.rules": lambda q: q.retention.rules(),
    "retention.take_turn": lambda q: q.retention.take_turn(20.0),
    "retention.allowed": lambda q: q.retention.allowed(),
    "retention.old_partitions": lambda q: q.retention.old_partitions(),
    "retention.empty_partition": lambda q: q.retention.empty_partition("transition_20250101"),
    "retention.drop_partition": lambda q: q.retention.drop_partition("transition_20250101"),
    "retention.sweeps": lambda q: q.retention.sweeps(False),
    "retention.sweep": lambda q: q.retention.sweep(SWEEP),
    "retention.sample": lambda q: q.retention.sample(SWEEP, 50.0),
    "retention.count_old": lambda q: q.retention.count_old(),
    "retention.prune_dead": lambda q: q.retention.prune_dead(10, (TICK, 7)),
    "retention.prune_ticks": lambda q: q.retention.prune_ticks(10),
    "retention.prune_operations": lambda q: q.retention.prune_operations(10),
    "retention.forget": lambda q: q.retention.forget(),
    "retention.rest": lambda q: q.retention.rest(0.0),
    "steps.record": lambda q: q.steps.record([(claimed(3, 1), STEP), (claimed(4, 1), replace(WAIT, kind="signal"))]),
    "steps.record one": lambda q: q.steps.record([(claimed(3, 1), replace(WAIT, kind="signal"))]),
    "steps.record marked": lambda q: q.steps.record([(claimed(3, 1, attempt=2), WAIT)]),
    "steps.load": lambda q: q.steps.load([3, 4]),
    "steps.put_to_sleep": lambda q: q.steps.put_to_sleep([(claimed(3, 1), TICK), (claimed(4, 1), None)]),
    "steps.compensate": lambda q: q.steps.compensate([claimed(3, 1)]),
    "steps.compensate_running": lambda q: q.steps.compensate_running(claimed(3, 1), STEP),
    "steps.undo_ended": lambda q: q.steps.undo_ended([3]),
    "steps.forget": lambda q: q.steps.forget(3, "charge"),
    "steps.open_waits": lambda q: q.steps.open_waits(3),
    "why.steps": lambda q: q.why.steps(3, 10),
    "why.step_values": lambda q: q.why.step_values(3, 10),
    "steps.sweep": lambda q: q.steps.sweep(Swept(), 200),
    "signals.send": lambda q: q.signals.send(3, "approved", "true"),
    "signals.send_event": lambda q: q.signals.send_event("payment", "7", "true"),
    "signals.deliver": lambda q: q.signals.deliver(500),
    "signals.incomplete_topics": lambda q: q.signals.incomplete_topics(),
    "signals.complete_topics": lambda q: q.signals.complete_topics(["payment"]),
    "calls.record": lambda q: q.calls.record(claimed(3, 1), replace(STEP, kind="call", value="null"), [4], [0]),
    "calls.collect": lambda q: q.calls.collect([(claimed(3, 1), "thumb"), (claimed(4, 1), "thumbs#2")]),
    "calls.call_off": lambda q: q.calls.call_off(500),
    "signals.take": lambda q: q.signals.take([(claimed(3, 1), "approved"), (claimed(4, 1), "payment#2")]),
    "locks.listen": lambda q: q.locks.listen(),
    "locks.acquire": lambda q: q.locks.acquire(Wanted("k", WORKER, 60.0, "me", 1, waits=True, sweeps=True)),
    "locks.renew": lambda q: q.locks.renew([(WORKER, "k", 60.0), (UUID(int=2), "l", 1.0)]),
    "locks.release": lambda q: q.locks.release("k", WORKER),
    "locks.break_": lambda q: q.locks.break_("k", 7),
    "locks.list": lambda q: q.locks.list(),
    "waits.listen": lambda q: q.waits.listen(),
    "waits.register": lambda q: q.waits.register([2, 1, 1], True),
    "waits.read_snapshots": lambda q: q.waits.read_snapshots([1, 2], [True, False]),
    "waits.read_jobs": lambda q: q.waits.read_jobs([1, 2]),
    "waits.announce_ended": lambda q: q.waits.announce_ended([1, 2]),
    "waits.announce_missed": lambda q: q.waits.announce_missed(),
    "jobs.set_result_expiry": lambda q: q.jobs.set_result_expiry({1: 60.0}),
    "jobs.expire_result": lambda q: q.jobs.expire_result(1),
    "jobs.drop_result": lambda q: q.jobs.drop_result(1),
    "jobs.drop_expired_results": lambda q: q.jobs.drop_expired_results(10),
    "metrics.queues": lambda q: q.metrics.queues(),
    "metrics.waiting": lambda q: q.metrics.waiting(),
    "metrics.workflows": lambda q: q.metrics.workflows(),
    "metrics.letters": lambda q: q.metrics.letters(),
    "metrics.locks": lambda q: q.metrics.locks(10_000),
    "metrics.workers": lambda q: q.metrics.workers(),
    "metrics.dead": lambda q: q.metrics.dead(),
    "metrics.parked": lambda q: q.metrics.parked(),
    "metrics.schedules": lambda q: q.metrics.schedules(),
    "metrics.snapshot": lambda q: q.metrics.snapshot(),
    "metrics.tables": lambda q: q.metrics.tables(),
    "metrics.partitions": lambda q: q.metrics.partitions(),
    "metrics.revision": lambda q: q.metrics.revision(),
    "dashboard.look": lambda q: q.dashboard.look(2.0),
    "dashboard.signs": lambda q: q.dashboard.signs(),
    "dashboard.activity": lambda q: q.dashboard.activity(DashboardSpan(60, 60), queue="default"),
    "dashboard.waits": lambda q: q.dashboard.waits(DashboardSpan(300, 36)),
    "dashboard.announced": lambda q: q.dashboard.announced(),
    "dashboard.indexes": lambda q: q.dashboard.indexes(20),
    "dashboard.ties": lambda q: q.dashboard.ties(TieKeys(7, "0" * 32, "0" * 31 + "1")),
    "dashboard.day_so_far": lambda q: q.dashboard.day_so_far(1),
    "dashboard.tasks_of_queue": lambda q: q.dashboard.tasks_of_queue("default", 10),
    "dashboard.days_of_failures": lambda q: q.dashboard.days_of_failures(),
    "dashboard.days_kept": lambda q: q.dashboard.days_kept(),
    "dashboard.tasks": lambda q: q.dashboard.tasks(10),
    "dashboard.failures": lambda q: q.dashboard.failures(10),
    **doctor.SAMPLES,
    **metered.SAMPLES,
    **graph_samples.SAMPLES,
}


def fill(conn: Conn) -> None:
    """Rows for every statement to read: jobs in each table, a worker, schedules with ticks."""
    worker = add_worker(conn, beat_seconds_ago=60)
    db.run(conn, QUERIES.jobs.enqueue([new_job(), new_job(queue="bulk"), new_job(), new_job()]))
    now = scalar(conn, "select now()")
    insert_job(conn, state="running", lease=1, attempt=1, worker_id=worker, claimed_at=now)
    insert_job(conn, state="blocked", waits_for="task")
    conn.execute("insert into pgqueue.job_finished (id, task, queue, state) values (900, 't', 'default', 'succeeded')")
    conn.execute("insert into pgqueue.dead_letter (id, task, queue, reason) values (901, 't', 'default', 'why')")
    db.run(conn, QUERIES.schedules.declare([(plan, TICK - timedelta(days=1)) for plan in PLANS]))
    conn.execute("insert into pgqueue.schedule_fire values ('s', '2025-01-01', 'missed')")
    conn.execute(
        "insert into pgqueue.named_lock (key, owner, token, holder, expires_at) values"
        " ('k', %s, 7, 'me', now() + interval '1 h'), ('old', %s, 1, 'me', now() - interval '1 day')",
        (WORKER, WORKER),
    )


def test_no_statement_is_without_a_sample() -> None:
    assert every_statement() == {name.partition(" ")[0] for name in SAMPLES}


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_statement_runs_with_an_empty_search_path_and_its_rows_can_be_read(tx: Conn, name: str, filled: bool) -> None:
    if filled:
        fill(tx)
    db.run(tx, SAMPLES[name](QUERIES))


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_statement_can_be_prepared(tx: Conn, name: str) -> None:
    query = SAMPLES[name](QUERIES)
    tx.execute(query.sql, query.params or None, prepare=True, binary=True if query.params else None)
    assert scalar(tx, "select count(*) from pg_prepared_statements") == 1


@pytest.mark.parametrize("schema", ["pgqueue", "s" * 48])
@pytest.mark.parametrize("name", SAMPLES)
def test_psycopg_takes_no_placeholders_apart_anew_at_each_call(name: str, schema: str) -> None:
    """It caches statements of at most 4,096 bytes. Longer ones get numbers, which do not tell a format."""
    query = SAMPLES[name](Queries(schema))
    text, params = as_sent(query)
    assert len(text) <= 4096 or isinstance(params, list) or not query.params


def claim(conn: Conn, rooms: dict[str, int], room: int) -> list[int]:
    return [job.id for job in db.run(conn, QUERIES.jobs.claim(WORKER, rooms, room))]


def test_a_claim_takes_queues_in_the_order_given(tx: Conn) -> None:
    last, first = insert_job(tx, queue="a", priority=100), insert_job(tx, queue="b", priority=-100)
    assert claim(tx, {"b": 5, "a": 5}, 5) == [first, last]


def test_within_a_queue_a_claim_takes_priority_then_run_at_then_id(tx: Conn) -> None:
    early = scalar(tx, "select now() - interval '1 hour'")
    late = scalar(tx, "select now() - interval '1 minute'")
    columns: list[dict[str, Any]] = [
        {"priority": -5, "run_at": early},
        {"priority": 7, "run_at": late},
        {"priority": 0, "run_at": early},
        {"priority": 7, "run_at": early},
        {"priority": 7, "run_at": early},
        {"priority": 100, "run_at": late},
    ]
    jobs = [insert_job(tx, **c) for c in columns]
    assert claim(tx, {"default": 10}, 10) == [jobs[5], jobs[3], jobs[4], jobs[1], jobs[2], jobs[0]]


def test_a_claim_that_is_cut_short_takes_the_first_in_order(tx: Conn) -> None:
    jobs = {priority: insert_job(tx, priority=priority) for priority in (0, 50, -3, 9, 100)}
    assert claim(tx, {"default": 3}, 3) == [jobs[100], jobs[50], jobs[9]]


def test_each_queue_gives_at_most_its_own_room(tx: Conn) -> None:
    db.run(tx, QUERIES.jobs.enqueue([new_job(queue=queue, run_at=TICK) for queue in ("a", "b") for _ in range(5)]))
    taken = db.run(tx, QUERIES.jobs.claim(WORKER, {"a": 2, "b": 3}, 10))
    assert [job.queue for job in taken] == ["a", "a", "b", "b", "b"]


def test_the_room_of_a_queue_is_shared_by_its_priorities(tx: Conn) -> None:
    db.run(tx, QUERIES.jobs.enqueue([new_job(priority=p, run_at=TICK) for p in (1, 2, 3) for _ in range(5)]))
    assert [job.priority for job in db.run(tx, QUERIES.jobs.claim(WORKER, {"default": 7}, 10))] == [3] * 5 + [2] * 2


def test_a_paused_queue_gives_nothing_and_holds_up_no_other(tx: Conn) -> None:
    insert_job(tx, queue="a")
    job = insert_job(tx, queue="b")
    tx.execute("insert into pgqueue.queue (name, paused_at) values ('a', now())")
    assert claim(tx, {"a": 5, "b": 5}, 5) == [job]


def test_a_paused_queue_has_no_next_due_time(tx: Conn) -> None:
    insert_job(tx)
    tx.execute("insert into pgqueue.queue (name, paused_at) values ('default', now())")
    assert db.run(tx, QUERIES.jobs.next_due(["default"])).seconds is None


def test_a_paused_queue_gives_no_parked_jobs(tx: Conn) -> None:
    insert_job(tx, state="blocked", waits_for="task")
    tx.execute("insert into pgqueue.queue (name, paused_at) values ('default', now())")
    assert db.run(tx, QUERIES.jobs.adopt(WORKER, {"default": 9}, ["t"], 5)) == []


def test_jobs_of_the_future_are_not_claimed_and_hide_no_due_ones(tx: Conn) -> None:
    insert_job(tx, priority=100, run_at=scalar(tx, "select now() + interval '1 second'"))
    due = insert_job(tx, priority=-100)
    assert claim(tx, {"default": 5}, 5) == [due]


def test_jobs_of_queues_that_are_not_named_are_not_claimed(tx: Conn) -> None:
    insert_job(tx, queue="other")
    assert claim(tx, {"default": 5}, 5) == []


def test_next_due_is_the_earliest_of_all_queues_and_priorities(tx: Conn) -> None:
    for seconds, queue, priority in [(900, "a", 50), (300, "a", -50), (600, "b", 0)]:
        insert_job(tx, queue=queue, priority=priority, run_at=datetime.now(UTC) + timedelta(seconds=seconds))
    due = db.run(tx, QUERIES.jobs.next_due(["a", "b"])).seconds
    assert due is not None
    assert 250 < due <= 301


def test_next_due_is_nothing_when_no_job_is_pending(tx: Conn) -> None:
    assert db.run(tx, QUERIES.jobs.next_due(["default"])).seconds is None


def oldest(conn: Conn, rooms: dict[str, int], room: int, max_wait: float = 60) -> list[int]:
    return [job.id for job in db.run(conn, QUERIES.jobs.claim_oldest(WORKER, rooms, room, max_wait))]


def test_a_claim_of_the_oldest_takes_lanes_by_the_age_of_their_first_job(tx: Conn) -> None:
    def due(ago: int, **columns: Any) -> int:
        return insert_job(tx, run_at=scalar(tx, f"select now() - interval '{ago} s'"), **columns)

    due(10, queue="a", priority=9)  # has not waited long enough
    a_low, a_later = due(300, queue="a", priority=-5), due(200, queue="a", priority=-5)
    due(250, queue="a", priority=1)  # its turn comes when it is the oldest of its queue
    b, c = due(400, queue="b"), due(100, queue="c", priority=100)
    due(500, queue="d")
    rooms = {"c": 9, "b": 9, "a": 9}
    with tx.transaction(force_rollback=True):
        assert oldest(tx, rooms, 9) == [b, a_low, a_later, c]
    with tx.transaction(force_rollback=True):
        assert oldest(tx, rooms, 2) == [b, a_low]
    with tx.transaction(force_rollback=True):
        assert oldest(tx, {"a": 1, "b": 1}, 9) == [b, a_low]
    assert oldest(tx, rooms, 9, max_wait=600) == []


def test_a_claim_of_the_oldest_takes_none_of_the_future_none_that_expired_and_none_of_a_paused_queue(
    tx: Conn,
) -> None:
    expired = scalar(tx, "select now() - interval '90 s'")
    run_at = scalar(tx, "select now() - interval '99 s'")
    insert_job(tx, queue="a", run_at=scalar(tx, "select now() + interval '1 s'"))
    insert_job(tx, queue="b", run_at=run_at, expires_at=expired)
    insert_job(tx, queue="c", run_at=run_at)
    tx.execute("insert into pgqueue.queue (name, paused_at) values ('c', now())")
    assert oldest(tx, {"a": 9, "b": 9, "c": 9}, 9, max_wait=1) == []


def test_a_second_portion_takes_what_the_others_have_left_and_no_row_twice(tx: Conn) -> None:
    a, b = ([insert_job(tx, queue=queue) for _ in range(many)] for queue, many in (("a", 9), ("b", 1)))
    portions = [Portion("a", 2, 0), Portion("b", 4, 0), Portion("a", 9, 2), Portion("b", 9, 4)]
    taken = db.run(tx, QUERIES.jobs.claim(WORKER, portions, 6))
    assert [job.id for job in taken] == [*a[:5], *b]


def test_a_claim_charges_the_attempt_raises_the_lease_and_names_the_worker(tx: Conn) -> None:
    job = insert_job(tx, attempt=2, lease=9)
    claim(tx, {"default": 5}, 5)
    row = tx.execute("select attempt, lease, worker_id, claimed_at = now() from pgqueue.job_live where id = %s", (job,))
    assert row.fetchone() == (3, 10, WORKER, True)


def test_adopt_takes_only_tasks_and_queues_that_are_known(tx: Conn) -> None:
    known = insert_job(tx, state="blocked", waits_for="task")
    insert_job(tx, state="blocked", waits_for="task", task="other")
    insert_job(tx, state="blocked", waits_for="task", queue="other")
    assert [job.id for job in db.run(tx, QUERIES.jobs.adopt(WORKER, {"default": 9}, ["t"], 5))] == [known]


def test_each_queue_gives_at_most_its_own_room_of_parked_jobs(tx: Conn) -> None:
    for queue in ("a", "b"):
        for _ in range(5):
            insert_job(tx, queue=queue, state="blocked", waits_for="task")
    adopted = db.run(tx, QUERIES.jobs.adopt(WORKER, {"a": 2, "b": 3}, ["t"], 10))
    assert [job.queue for job in adopted] == ["a", "a", "b", "b", "b"]


SETTINGS = ["hashagg", "sort", "hashjoin", "mergejoin", "indexscan", "bitmapscan", "material", "nestloop", "seqscan"]
COMBINATIONS = [c for size in range(len(SETTINGS) + 1) for c in itertools.combinations(SETTINGS, size)]


def under_each_combination(conn: Conn, call: Callable[[], int], expected: int) -> None:
    for off in COMBINATIONS:
        with conn.transaction(force_rollback=True):
            conn.execute("set local jit = off")  # a disabled plan has a huge cost, so JIT would compile it each time
            conn.execute(f"set local plan_cache_mode = {'force_generic_plan' if len(off) % 2 else 'force_custom_plan'}")
            for setting in off:
                conn.execute(f"set local enable_{setting} = off")
            assert call() == expected, off


def test_a_claim_takes_exactly_its_room_whatever_plan_is_chosen(tx: Conn) -> None:
    jobs = [new_job(queue=q, priority=p, run_at=TICK) for q in ("a", "b", "c") for p in (0, 5) for _ in range(20)]
    db.run(tx, QUERIES.jobs.enqueue(jobs))
    under_each_combination(tx, lambda: len(claim(tx, {"a": 3, "b": 2, "c": 9}, 7)), 7)


def test_a_claim_beyond_takes_exactly_its_room_whatever_plan_is_chosen(tx: Conn) -> None:
    jobs = [new_job(queue=q, priority=p, run_at=TICK) for q in ("a", "b", "c") for p in (0, 5) for _ in range(20)]
    db.run(tx, QUERIES.jobs.enqueue(jobs))
    frontier = {(q, p): (TICK, 0) for q in ("a", "b", "c") for p in (0, 5)}
    query = QUERIES.jobs.claim_beyond(WORKER, {"a": 3, "b": 2, "c": 9}, 7, frontier)
    under_each_combination(tx, lambda: len(db.run(tx, query)), 7)


def test_adopt_takes_exactly_its_room_whatever_plan_is_chosen(tx: Conn) -> None:
    for _ in range(40):
        insert_job(tx, state="blocked", waits_for="task", task=f"t{_ % 2}")
    query = QUERIES.jobs.adopt(WORKER, {"default": 9}, ["t0", "t1"], 7)
    under_each_combination(tx, lambda: len(db.run(tx, query)), 7)


def test_rescue_takes_exactly_its_room_whatever_plan_is_chosen(tx: Conn) -> None:
    for _ in range(20):
        insert_job(tx, state="running", worker_id=uuid4(), claimed_at=TICK, attempt=1)
    under_each_combination(tx, lambda: len(db.run(tx, QUERIES.jobs.rescue(WORKER, at_most=7))), 7)
