"""Queues that nobody serves, processes that are gone or hang, schedules that do not tick, dead letters."""

import json
from typing import Any

from pgqueue import App
from pgqueue.jobs.flow import Flow
from tests.conftest import scalar
from tests.doctor.looks import found, provoked
from tests.harness import Conn, add_worker, insert_job, insert_metered


def alter(conn: Conn, **columns: Any) -> None:
    """Change columns of all processes, each to an expression."""
    changes = ", ".join(f"{name} = {value}" for name, value in columns.items())
    conn.execute(f"update pgqueue.worker set {changes}".encode())


def test_a_queue_with_due_jobs_that_nobody_serves_is_found(app: App, conn: Conn) -> None:
    ago = scalar(conn, "select now() - interval '5 minutes'")
    insert_job(conn, queue="mail", run_at=ago)
    finding = provoked(app, "queue-without-worker")
    assert finding.what.startswith("queue mail: 1 jobs are due, the oldest for 30")
    assert finding.remedy == "pgqueue work -A … -Q mail"
    add_worker(conn)
    assert found(app, "queue-without-worker") != []  # it serves another queue
    alter(conn, queues="'{ma*}'")
    assert found(app, "queue-without-worker") == []
    alter(conn, heartbeat_at="now() - interval '1 hour'")
    assert found(app, "queue-without-worker") != []


def test_metered_jobs_need_a_worker_as_others_do(app: App, conn: Conn) -> None:
    insert_metered(conn, Flow(("sync/acme",)), queue="mail", run_at=scalar(conn, "select now() - interval '5 minutes'"))
    assert provoked(app, "queue-without-worker").what.startswith("queue mail: 1 jobs are due, the oldest for 30")


def test_a_paused_queue_and_jobs_that_came_just_now_need_nobody(app: App, conn: Conn) -> None:
    insert_job(conn, queue="fresh")
    insert_job(conn, queue="paused", run_at=scalar(conn, "select now() - interval '5 minutes'"))
    conn.execute("insert into pgqueue.queue (name, paused_at) values ('paused', now())")
    assert found(app, "queue-without-worker") == []


def test_parked_jobs_that_no_living_worker_knows_are_found(app: App, conn: Conn) -> None:
    insert_job(conn, task="unknown", state="blocked", waits_for="task")
    assert provoked(app, "task-without-worker").what == (
        "1 jobs in queue default wait for a worker that knows task unknown"
    )
    add_worker(conn)
    alter(conn, tasks="'{unknown}'")
    assert found(app, "task-without-worker") == []


def test_releases_that_work_beside_each_other_for_an_hour_are_found(app: App, conn: Conn) -> None:
    for _ in range(3):
        add_worker(conn)
    assert found(app, "releases-mixed", mixed_seconds=0) == []
    alter(conn, started_at="now() - interval '3 hours'")
    conn.execute(
        "update pgqueue.worker set version = '1', started_at = now() - interval '2 hours'"
        " where id = (select id from pgqueue.worker limit 1)"
    )
    finding = provoked(app, "releases-mixed")
    assert finding.what == "workers of 2 releases work: 2 with 0, 1 with 1"
    assert finding.since is not None
    conn.execute("update pgqueue.worker set started_at = now() - interval '50 minutes' where version = '1'")
    assert found(app, "releases-mixed") == []  # a deployment may take an hour


def test_a_process_that_is_lost_or_silent_is_found(app: App, conn: Conn) -> None:
    add_worker(conn)
    assert found(app, "worker-lost") == []
    alter(conn, heartbeat_at="now() - interval '31 seconds'")
    assert provoked(app, "worker-lost").what == "worker h:1 has not beaten for its whole lease"
    alter(conn, lost_at="now()", death="'was killed by SIGKILL'")
    finding = provoked(app, "worker-lost")
    assert finding.what == "worker h:1 was killed by SIGKILL"
    assert finding.since is not None


def duties(conn: Conn, **ages: float | None) -> None:
    conn.execute("update pgqueue.worker set duties = %s::jsonb", [json.dumps(ages)])


def test_a_duty_that_has_not_worked_for_hours_is_found(app: App, conn: Conn) -> None:
    add_worker(conn)
    duties(conn, claim=0.1, partitions=3700.0, rescue=None)
    assert found(app, "duty-stuck") == []
    duties(conn, claim=0.1, partitions=9000.0)
    finding = provoked(app, "duty-stuck")
    assert finding.what == "partitions of worker h:1 has not worked for 9000 s"
    assert finding.since is not None


def test_a_blocked_event_loop_is_found_and_compared_with_the_lease(app: App, conn: Conn) -> None:
    add_worker(conn)
    duties(conn, watchdog=7.0)
    assert found(app, "event-loop-blocked") == []
    duties(conn, watchdog=20.0)
    assert "for 20 s at its last heartbeat, shorter than its lease of 30 s" in provoked(app, "event-loop-blocked").what
    duties(conn, watchdog=45.0)
    finding = provoked(app, "event-loop-blocked")
    assert "longer than its lease of 30 s" in finding.what
    assert finding.remedy == "pgqueue work --lease 180 …"


def add_schedule(conn: Conn, name: str, tick: str = "now() + interval '1 hour'") -> None:
    conn.execute(
        "insert into pgqueue.schedule (name, task, queue, every_seconds, next_tick)"
        f" values ('{name}', 't', 'default', 60, {tick})".encode()
    )


def test_schedules_need_a_scheduler_and_better_two(app: App, conn: Conn) -> None:
    assert found(app, "scheduler-missing") == []
    add_schedule(conn, "s")
    add_worker(conn)
    assert provoked(app, "scheduler-missing").remedy == "pgqueue schedule -A …"
    alter(conn, kind="'scheduler'")
    assert found(app, "scheduler-missing") == []
    assert provoked(app, "scheduler-alone").what == "scheduler h:1 is the only scheduler"
    add_worker(conn)
    alter(conn, kind="'scheduler'")
    assert found(app, "scheduler-alone") == []
    conn.execute("update pgqueue.schedule set next_tick = null")  # it is over
    alter(conn, lost_at="now()")
    assert found(app, "scheduler-missing") == []


def test_schedules_that_are_broken_or_late_are_found_by_name(app: App, conn: Conn) -> None:
    add_schedule(conn, "good")
    add_schedule(conn, "paused", "now() - interval '1 hour'")
    conn.execute("update pgqueue.schedule set paused_at = now() where name = 'paused'")
    add_schedule(conn, "late", "now() - interval '5 minutes'")
    add_schedule(conn, "broken")
    conn.execute("update pgqueue.schedule set error = 'no such timezone' where name = 'broken'")
    assert provoked(app, "schedule-broken").what == "schedule broken: no such timezone"
    late = provoked(app, "schedule-late")
    assert late.what.startswith("schedule late is late by 30")
    assert late.since == scalar(conn, "select next_tick from pgqueue.schedule where name = 'late'")


def test_dead_letters_that_are_many_or_become_more_are_found(app: App, conn: Conn) -> None:
    dead = (
        "insert into pgqueue.dead_letter (id, task, queue, reason, failed_at)"
        " select -i, 't', 'q', 'x', now() - %s::interval from generate_series(%s::int, %s::int) as i"
    )
    conn.execute(dead.encode(), ("2 hours", 1, 10_000))
    assert found(app, "dead-letters-many") == found(app, "dead-letters-growing") == []
    conn.execute(dead.encode(), ("1 minute", 10_001, 10_101))
    assert provoked(app, "dead-letters-many").what == "there are more than 10000 dead letters"
    assert provoked(app, "dead-letters-growing").what == "101 jobs failed for good within the last hour"


def test_a_remedy_can_be_pasted_whatever_a_name_holds(app: App, conn: Conn) -> None:
    """SQL may write any name, and whoever pastes the remedy is an operator with a shell."""
    ago = scalar(conn, "select now() - interval '5 minutes'")
    insert_job(conn, queue="mail; rm -rf ~", run_at=ago)
    insert_job(conn, task="$(reboot)", state="blocked", waits_for="task")
    (queue,), (task,) = found(app, "queue-without-worker"), found(app, "task-without-worker")
    assert queue.remedy == "pgqueue work -A … -Q 'mail; rm -rf ~'"
    assert task.remedy == "pgqueue jobs list --state blocked --task '$(reboot)'"
