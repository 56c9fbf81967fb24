"""`pgqueue status` on any backlog: counts stop at a bound and are marked if they do."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from pgqueue import App, db
from pgqueue.cli import cli
from pgqueue.cli.status import facts, queue_cells, read_status
from pgqueue.cli.verdict import Limits, judge
from pgqueue.jobs.flow import Flow
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_rule, add_worker, insert_job, insert_metered

JOBS = """
insert into pgqueue.job_live (task, queue, priority, run_at, attempt)
select 't', 'mail', i % 3, now() - make_interval(secs => 60 + i), 0 from generate_series(1, 9) as i union all
select 't', 'mail', i % 2, now() + interval '1 day', i % 2 from generate_series(1, 4) as i union all
select 't', 'bulk', -1, now() - interval '1 s', 1 from generate_series(1, 3) as i;
insert into pgqueue.job_live (task, queue, state, waits_for)
select 'unknown' || i % 2, 'mail', 'blocked', 'task' from generate_series(1, 5) as i;
insert into pgqueue.dead_letter (id, task, queue, reason, failed_at)
select -i, 't', 'old', 'error', now() - make_interval(mins => 20 * i) from generate_series(0, 6) as i;
insert into pgqueue.job_finished (id, task, queue, state, finished_at)
select -i, 't', 'mail', case when i % 2 = 0 then 'succeeded' else 'cancelled' end, now() - make_interval(mins => 9 * i)
from generate_series(0, 9) as i"""
PHASES = ("pending", "scheduled", "retrying", "running", "blocked", "dead")


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def filled(conn: Conn) -> Conn:
    """A database with jobs of each kind in several queues."""
    conn.execute(JOBS)
    worker = add_worker(conn)
    conn.execute(
        "insert into pgqueue.job_live (task, queue, state, worker_id, claimed_at, attempt, lease)"
        " select 't', 'mail', 'running', %s, now(), 1, 1 from generate_series(1, 2)", [worker])  # fmt: skip
    return conn


def counts(conn: Conn, most: int | None) -> dict[str, tuple[tuple[int, ...], list[str]]]:
    """Return the count of each phase, and the phases that hold more, by queue."""
    found = db.run(conn, QUERIES.jobs.count(most))
    return {q.queue: (tuple(getattr(q, phase) for phase in PHASES), q.at_least) for q in found}


@pytest.mark.parametrize("most", [None, 10_000, 9])
def test_what_is_within_bounds_is_counted_exactly(filled: Conn, most: int | None) -> None:
    assert counts(filled, most) == {
        "bulk": ((0, 0, 3, 0, 0, 0), []),
        "mail": ((9, 2, 2, 2, 5, 0), []),
        "old": ((0, 0, 0, 0, 0, 7), []),
    }


def test_what_is_beyond_says_so(filled: Conn) -> None:
    found = counts(filled, 3)
    assert found["mail"] == ((4, 2, 2, 2, 4, 0), ["pending", "scheduled", "blocked", "dead"])
    assert found["bulk"] == ((0, 0, 3, 0, 0, 0), ["blocked", "dead"])


def test_jobs_that_wait_for_another_attempt_are_counted_also_behind_all_others(filled: Conn) -> None:
    filled.execute(
        "insert into pgqueue.job_live (task, queue, run_at, attempt)"
        " select 't', 'mail', now() + interval '2 days', 1 from generate_series(1, 3) union all"
        " select 't', 'mail', now() - interval '1 s', 1 from generate_series(1, 2)"
    )
    phases, at_least = counts(filled, 5)["mail"]
    assert phases == (4, 1, 7, 2, 5, 0)  # six due ones were counted, two of which have run before
    assert [phase for phase in at_least if phase != "dead"] == ["pending", "scheduled"]


def test_of_many_queues_fewer_jobs_of_each_are_counted(conn: Conn) -> None:
    conn.execute(
        "insert into pgqueue.job_live (task, queue) select 't', 'q' || q"
        " from generate_series(1, 500) as q, generate_series(1, 3 + 117 * (q % 2)) as n"
    )
    found = counts(conn, 10_000)
    assert (found["q2"], found["q1"]) == (((3, 0, 0, 0, 0, 0), []), ((100, 0, 0, 0, 0, 0), ["pending"]))
    assert counts(conn, None)["q1"] == ((120, 0, 0, 0, 0, 0), [])


def test_the_oldest_due_job_is_found_in_whichever_lane(filled: Conn) -> None:
    filled.execute(
        "update pgqueue.job_live set run_at = now() - interval '1 hour' where queue = 'mail' and priority = 0"
    )
    (mail,) = [q for q in db.run(filled, QUERIES.jobs.count(1)) if q.queue == "mail"]
    assert mail.oldest_due_seconds is not None
    assert 3600 <= mail.oldest_due_seconds < 3700


def test_queues_and_priorities_are_all_found(conn: Conn) -> None:
    lanes = "select 't', 'q' || q, p from generate_series(1, 12) as q, generate_series(-100, 100, 40) as p"
    conn.execute(f"insert into pgqueue.job_live (task, queue, priority) {lanes}")
    assert {queue: phases[0] for queue, (phases, _) in counts(conn, 100).items()} == {f"q{q}": 6 for q in range(1, 13)}


@pytest.mark.parametrize(("most", "jobs"), [(None, 3), (2, 3), (1, 2)])
def test_jobs_of_unknown_tasks_are_counted_task_by_task(filled: Conn, most: int | None, jobs: int) -> None:
    found = db.run(filled, QUERIES.jobs.count_parked(most))
    assert [(u.task, u.queue) for u in found] == [("unknown0", "mail"), ("unknown1", "mail")]
    assert (found[1].jobs, found[1].at_least) == (jobs, most is not None and jobs > most)


def test_what_ended_within_the_hour_is_counted_by_state(filled: Conn) -> None:
    ended = db.run(filled, QUERIES.jobs.count_finished(100))
    assert {e.state: (e.jobs, e.at_least) for e in ended} == {
        "succeeded": (4, False), "cancelled": (3, False), "failed": (3, False),
    }  # fmt: skip
    few = db.run(filled, QUERIES.jobs.count_finished(2))
    assert all(e.at_least for e in few)


def test_the_command_marks_what_it_did_not_count_to_the_end(
    dsn: str, filled: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.cli.status.MOST_COUNTED", 3)

    def status(*options: str) -> str:
        result = CliRunner().invoke(cli, ["status", "--dsn", dsn, *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    (mail,) = [q for q in json.loads(status("--json"))["queues"] if q["queue"] == "mail"]
    assert (mail["pending"], "pending" in mail["at_least"]) == (4, True)
    exact: dict[str, Any] = json.loads(status("--json", "--exact"))
    (mail,) = [q for q in exact["queues"] if q["queue"] == "mail"]
    assert (mail["pending"], mail["at_least"]) == (9, [])
    assert exact["finished_last_hour"] == {"cancelled": 3, "failed": 3, "succeeded": 4}
    assert scalar(filled, "select count(*) from pgqueue.job_live") == 23
    assert "3+" in status()


def test_a_worker_that_does_not_beat_is_shown_as_silent_and_serves_no_queue(dsn: str, filled: Conn) -> None:
    def seen() -> tuple[list[str], list[int], list[bool]]:
        result = CliRunner().invoke(cli, ["status", "--dsn", dsn, "--json"])
        found = json.loads(result.stdout)
        mail = [q["workers"] for q in found["queues"] if q["queue"] == "mail"]
        return [w["status"] for w in found["workers"]], mail, [u["known_to_a_worker"] for u in found["unknown_tasks"]]

    filled.execute("update pgqueue.worker set queues = '{mail}', tasks = '{unknown0,unknown1}'")
    assert seen() == (["alive"], [1], [True, True])
    filled.execute("update pgqueue.worker set heartbeat_at = now() - make_interval(secs => lease_seconds + 1)")
    assert seen() == (["silent"], [0], [False, False])  # nobody is there to declare it lost
    filled.execute("update pgqueue.worker set lost_at = now()")
    assert seen() == (["lost"], [0], [False, False])


def _verdict(dsn: str, queue: str, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["status", "--dsn", dsn, "--exit-code", "-Q", queue, *options])
    return result.exit_code, result.stdout.strip()


@pytest.mark.parametrize("queue", ["mial", "tenan-1", "mail2", "tenant", "tenantx1", "_ail"])
def test_a_queue_that_nobody_knows_is_wrong(dsn: str, conn: Conn, queue: str) -> None:
    add_worker(conn)
    conn.execute("update pgqueue.worker set queues = '{mail,tenant-*,tenant_*}'")
    assert _verdict(dsn, queue) == (1, f"queue {queue}: no worker serves it, and it holds no job")


@pytest.mark.parametrize("queue", ["mail", "tenant-1", "tenant-", "a.tenant.b"])
@pytest.mark.parametrize("how", ["quiet_at = null", "quiet_at = now()", "stopping = true"])
def test_a_queue_that_a_living_worker_serves_is_known_also_while_it_is_empty(
    dsn: str, conn: Conn, queue: str, how: str
) -> None:
    add_worker(conn)
    conn.execute(b"update pgqueue.worker set queues = '{mail,tenant-*,*.tenant.*}', " + how.encode())
    assert _verdict(dsn, queue) == (0, "ok")


@pytest.mark.parametrize("how", ["lost_at = now()", "heartbeat_at = now() - make_interval(secs => lease_seconds + 1)"])
def test_a_queue_whose_workers_are_gone_is_known_by_its_jobs_alone(dsn: str, filled: Conn, how: str) -> None:
    filled.execute("delete from pgqueue.job_live where queue = 'bulk'")
    filled.execute(b"update pgqueue.worker set queues = '{old,gone}', " + how.encode())
    assert _verdict(dsn, "old") == (0, "ok")  # it holds dead letters
    assert _verdict(dsn, "gone") == (1, "queue gone: no worker serves it, and it holds no job")
    assert _verdict(dsn, "bulk") == (1, "queue bulk: no worker serves it, and it holds no job")


def test_metered_jobs_have_a_column_and_need_a_worker_as_others_do(app: App, conn: Conn) -> None:
    insert_metered(conn, Flow(("sync/acme",)), queue="mail")
    found = read_status(app, 100)
    (mail,) = found.queues
    assert (mail.turn, mail.workers) == (1, 0)
    assert queue_cells(found, mail) | {"ended/s": "0"} == {
        "queue": "mail", "pending": "0", "scheduled": "0", "sleeping": "0", "waiting": "0", "retrying": "0",
        "turn": "1", "running": "0", "blocked": "0", "dead": "0", "waits": "",
        "ended/s": "0", "drained in": "never", "workers": "NONE",
    }  # fmt: skip
    assert judge(found.queues, [], [], Limits()).reasons == ["queue mail: no worker takes its due jobs"]


def test_a_queue_in_which_jobs_wait_for_limits_alone_says_so_and_which_limits(app: App, conn: Conn) -> None:
    add_worker(conn)
    full = add_rule(conn, "sync", "acme", max_running=1, running=1)
    paced = add_rule(conn, "geocode", rate_count=10, rate_seconds=60)
    for bucket in (full, full, paced):
        insert_metered(conn, Flow((bucket,)))
    found = read_status(app, 100)
    (queue,) = found.queues
    assert queue_cells(found, queue)["drained in"] == "turns"
    assert [line for line in facts(found) if line.startswith("limit")] == [
        "limit geocode: 1 wait; rate-limited, 10 in 60s",
        "limit sync/acme: 2 wait; full, 1 of 1 run",
    ]
    insert_job(conn)  # it waits for nobody's turn, and no job ends
    found = read_status(app, 100)
    (queue,) = found.queues
    assert queue_cells(found, queue)["drained in"] == "never"


@pytest.mark.parametrize(
    ("held", "waited_for", "line"),
    [
        (0, 0, None),
        (1, 0, "1 lock is held: pgqueue locks list"),
        (1, 1, "1 lock is held, 1 is waited for: pgqueue locks list"),
        (3, 2, "3 locks are held, 2 are waited for: pgqueue locks list"),
    ],
)
def test_locks_that_are_held_have_a_line(app: App, conn: Conn, held: int, waited_for: int, line: str | None) -> None:
    add_locks(conn, 2, "-1 h")
    add_locks(conn, held, "1 h", waited_for)
    found = read_status(app, 100)
    assert [fact for fact in facts(found) if "lock" in fact] == ([] if line is None else [line])
    assert (found.locks.held, found.locks.waited_for, found.locks.at_least) == (held, waited_for, False)


def test_locks_are_counted_to_a_bound_and_with_exact_to_the_end(
    dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.cli.status.MOST_COUNTED", 3)
    add_locks(conn, 5, "1 h", 5)

    def status(*options: str) -> str:
        return CliRunner().invoke(cli, ["status", "--dsn", dsn, *options]).stdout

    assert "3+ locks are held, 3+ are waited for: pgqueue locks list" in status()
    assert "5 locks are held, 5 are waited for: pgqueue locks list" in status("--exact")
    assert json.loads(status("--json"))["locks"] == {"held": 4, "waited_for": 4, "at_least": True}
    assert json.loads(status("--json", "--exact"))["locks"] == {"held": 5, "waited_for": 5, "at_least": False}


def add_locks(conn: Conn, count: int, expires_in: str, waited_for: int = 0) -> None:
    """Hold so many locks, the first ones of which somebody waits for."""
    conn.execute(
        "insert into pgqueue.named_lock (key, owner, token, holder, expires_at, waited_until)"
        " select %s || ' ' || i, gen_random_uuid(), i, 'h', now() + %s::interval,"
        " now() + case when i <= %s then interval '1 min' else '-1 min' end from generate_series(1, %s) as i",
        [expires_in, expires_in, waited_for, count],
    )


def test_a_queue_of_which_all_was_not_counted_may_hold_jobs(
    dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute(
        "insert into pgqueue.dead_letter (id, task, queue, reason, failed_at)"
        " select i, 't', case when i = 5 then 'old' else 'new' end, 'error', now() - make_interval(days => i)"
        " from generate_series(1, 5) as i"
    )
    monkeypatch.setattr("pgqueue.cli.status.MOST_COUNTED", 3)
    told = "queue old: no worker serves it, and it holds no job that was counted (--exact counts all)"
    assert _verdict(dsn, "old") == (1, told)
    assert _verdict(dsn, "old", "--exact") == (0, "ok")
    assert _verdict(dsn, "mial", "--exact") == (1, "queue mial: no worker serves it, and it holds no job")


@pytest.mark.parametrize("options", [[], ["--exit-code"]])
def test_status_of_a_pattern_is_refused(dsn: str, conn: Conn, options: list[str]) -> None:
    add_worker(conn)
    conn.execute("update pgqueue.worker set queues = '{tenant-*}'")
    result = CliRunner().invoke(cli, ["status", "--dsn", dsn, "-Q", "tenant-*", *options])
    assert getattr(result.exception, "exit_code", None) == 2
    assert "name one queue" in str(result.exception)
