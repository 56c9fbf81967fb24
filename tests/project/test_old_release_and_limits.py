"""Metered jobs beside processes of the last release, which know nothing of limits: nothing exceeded, nothing lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgqueue import db
from pgqueue.jobs.lifecycle import Resolution
from tests.conftest import scalar
from tests.harness import QUERIES, add_worker, wait_for
from tests.project.releases import ROOT, unpacked
from tests.project.test_releases import SHOP, Conn, enqueue, run, worker
from tests.statements.test_turn_claims import EXCESS, FAILED
from tests.statements.turns import claim_turns, keyed, rule, running

FLOW = keyed("r/a")
INSERT = """
insert into pgqueue.job_live (task, queue, args, headers, state, waits_for, lane, max_attempts)
select 't', 'default', jsonb_build_object('n', n), %s, 'blocked', 'turn', %s, 3 from generate_series(1, %s) as n
returning id"""
METERED = "select count(*) from pgqueue.job where headers ? '$flow'"


@pytest.fixture(scope="module")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("release"))


@pytest.fixture
def conn(dsn: str, tmp_path: Path) -> Iterator[Conn]:
    """A connection to a schema of this release, with a rule for one job at a time; and a shop."""
    (tmp_path / "shop.py").write_text(SHOP)
    with psycopg.connect(dsn, autocommit=True) as conn:
        rule(conn, "r", max_running=1)
        yield conn


def metered(conn: Conn, jobs: int) -> list[int]:
    """Insert jobs that the rule concerns, of the shop's task."""
    db.run(conn, QUERIES.turns.make_buckets(list(FLOW.buckets)))
    return [job for (job,) in conn.execute(INSERT, (json.dumps({"$flow": FLOW.header()}), FLOW.lane, jobs))]


def held_by_a_dead_worker(conn: Conn) -> tuple[int, int]:
    """Let a worker of this release die that runs a plain and a metered job; returns their ids."""
    (limited,) = metered(conn, 1)
    dead = add_worker(conn)
    claim_turns(conn, [FLOW], worker=dead)
    enqueue(conn, 1, 1)
    (plain,) = db.run(conn, QUERIES.jobs.claim(dead, {"default": 1}, 1))
    conn.execute("update pgqueue.worker set lost_at = now() where id = %s", (dead,))
    return plain.id, limited


def state(conn: Conn, job: int) -> str:
    found: str = scalar(conn, "select state from pgqueue.job where id = %s", job)
    return found


def test_an_old_worker_claims_no_metered_job_and_new_ones_exceed_nothing_beside_it(
    conn: Conn, dsn: str, last_release: Path, tmp_path: Path
) -> None:
    ids = metered(conn, 20)
    with worker(last_release, dsn, tmp_path, "old"):
        enqueue(conn, 1, 100)
        wait_for(lambda: scalar(conn, "select count(*) from pgqueue.job_finished") == 100, "the plain jobs to end")
        assert scalar(conn, f"{METERED} and state = 'blocked' and attempt = 0") == len(ids)
        old = scalar(conn, "select id from pgqueue.worker")
        with worker(ROOT, dsn, tmp_path, "new 1"), worker(ROOT, dsn, tmp_path, "new 2"):
            enqueue(conn, 1, 100)
            wait_for(lambda: scalar(conn, "select count(*) from pgqueue.job_live") == 0, "all jobs to end")
    assert scalar(conn, f"{METERED} and state = 'succeeded' and worker_id <> %s", old) == len(ids)
    assert dict(conn.execute(EXCESS).fetchall()) == {"r/a": 1}
    assert running(conn, "r/a") == 0


def test_a_metered_job_of_a_dead_worker_is_left_by_an_old_rescuer_and_rescued_by_a_new_one(
    conn: Conn, dsn: str, last_release: Path, tmp_path: Path
) -> None:
    plain, limited = held_by_a_dead_worker(conn)
    with worker(last_release, dsn, tmp_path, "old") as (_, log):
        wait_for(lambda: state(conn, plain) == "succeeded", "the old worker to rescue the plain job and run it")
        wait_for(lambda: "job_live_state" in log.read_text(), "the old worker to be refused the metered one")
        assert (state(conn, limited), running(conn, "r/a")) == ("running", 1)
        with worker(ROOT, dsn, tmp_path, "new"):
            wait_for(lambda: state(conn, limited) == "succeeded", "a new worker to rescue it and run it")
    assert running(conn, "r/a") == 0
    assert scalar(conn, "select crash_count from pgqueue.job where id = %s", limited) == 1


def dead_letter(conn: Conn) -> int:
    """A dead letter of a metered job."""
    (job,) = metered(conn, 1)
    (claimed,) = claim_turns(conn, [FLOW], worker=add_worker(conn))
    db.run(conn, QUERIES.jobs.resolve([(claimed, Resolution("dead_letter", "rejected", error=FAILED.error))]))
    return job


def test_an_old_redrive_of_a_metered_job_is_refused_and_a_new_one_brings_it_back(
    conn: Conn, dsn: str, last_release: Path, tmp_path: Path
) -> None:
    job = dead_letter(conn)
    redrive = ["dead", "redrive", "--id", str(job), "--yes"]
    refused = run(last_release, dsn, tmp_path, *redrive)
    assert refused.returncode != 0
    assert "job_live_state" in refused.stdout + refused.stderr
    assert state(conn, job) == "failed"
    done = run(ROOT, dsn, tmp_path, *redrive)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (state(conn, job), running(conn, "r/a")) == ("blocked", 0)


def test_an_old_cancel_ends_a_metered_job_that_waits(conn: Conn, dsn: str, last_release: Path, tmp_path: Path) -> None:
    (job,) = metered(conn, 1)
    done = run(last_release, dsn, tmp_path, "jobs", "cancel", str(job))
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(conn, job) == "cancelled"
