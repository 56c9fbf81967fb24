"""The twenty questions of docs/sql.md, asked by a reader of a database in which each has an answer that is known."""

import itertools
import re
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from pgqueue import migrate
from pgqueue.jobs.flow import Flow
from tests.conftest import Databases, scalar
from tests.harness import ROOT, Conn, add_rule, insert_metered
from tests.project.test_roles import drop_roles, unused_prefix

PAGE = (ROOT / "docs" / "sql.md").read_text()
QUESTIONS = dict(re.findall(r"^(\d+)\\\. [^`]*?(?:`\w+`[^`]*?)*\n\n```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
WORKERS = [uuid.UUID(int=n) for n in range(1, 4)]

FILLED = """
insert into pgqueue.queue (name, paused_at, paused_by, paused_reason) values ('paused', now(), 'alice', 'a leak');
insert into pgqueue.worker (id, kind, host, pid, version, release, queues, tasks, slots, lease_seconds, heartbeat_at)
values ('{w1}', 'worker', 'here', 1, '1', 'r1', '{{default}}', '{{t}}', 8, 30, now()),
       ('{w2}', 'worker', 'gone', 2, '1', 'r0', '{{default}}', '{{t}}', 8, 30, now() - interval '1 hour');
insert into pgqueue.job_live (id, task, queue, run_at)
values (1, 't', 'default', now() - interval '90 s'), (2, 't', 'default', now()),
       (3, 't', 'default', now() + interval '1 h'), (4, 't', 'alone', now() - interval '10 s'),
       (5, 't', 'paused', now());
insert into pgqueue.job_live (id, task, queue, state, waits_for) values (6, 'unheard of', 'default', 'blocked', 'task');
insert into pgqueue.job_live (id, task, queue, state, attempt, lease, worker_id, claimed_at)
values (7, 'long', 'default', 'running', 1, 1, '{w1}', now() - interval '20 min'),
       (8, 't', 'default', 'running', 1, 1, '{w1}', now());
insert into pgqueue.activity
    (at, worker_id, task, queue, outcome, jobs, run_seconds, wait_seconds, run_counts, wait_counts)
values (now(), '{w1}', 't', 'default', 'succeeded', 95, 9.5, 95, '[34:34]={{95}}', '[40:40]={{95}}'),
       (now(), '{w1}', 't', 'default', 'retried', 1, 0.1, 1, '[34:34]={{1}}', '[40:40]={{1}}'),
       (now(), '{w1}', 'weak', 'default', 'failed', 3, 6, 3, '[42:42]={{3}}', '[50:50]={{3}}'),
       (now(), '{w1}', 'weak', 'default', 'succeeded', 1, 2, 1, '[42:42]={{1}}', '[50:50]={{1}}'),
       (now(), '{w1}', 'hopeless', 'default', 'failed', 2, 1, 1, '[34:34]={{2}}', '[40:40]={{2}}');
insert into pgqueue.dead_letter (id, task, queue, attempt, failed_at, reason, error, fingerprint)
select n, 'weak', 'default', 3, now() - interval '2 days', 'exhausted', '{{"type": "TimeoutError"}}', 'aa'
from generate_series(11, 13) as n;
insert into pgqueue.dead_letter (id, task, queue, attempt, failed_at, reason, error, fingerprint)
values (4711, 'hopeless', 'default', 2, now() - interval '1 min', 'rejected', '{{"type": "KeyError"}}', 'bb');
insert into pgqueue.transition (job_id, at, from_state, to_state, attempt, lease, worker_id, reason, error)
values (4711, now() - interval '9 min', null, 'pending', 0, 0, null, null, null),
       (4711, now() - interval '8 min', 'pending', 'running', 1, 1, '{w1}', null, null),
       (4711, now() - interval '7 min', 'running', 'pending', 1, 1, '{w1}', 'error', '{{"type": "ValueError"}}'),
       (4711, now() - interval '2 min', 'pending', 'running', 2, 2, '{w1}', null, null),
       (4711, now() - interval '1 min', 'running', 'failed', 2, 2, '{w1}', 'rejected', '{{"type": "KeyError"}}');
insert into pgqueue.schedule (name, task, queue, every_seconds, next_tick, paused_at)
values ('nightly', 't', 'q', 60, now() + interval '1 min', null), ('stopped', 't', 'q', 60, now(), now()),
       ('late', 't', 'q', 60, now() - interval '10 min', null);
insert into pgqueue.schedule_fire (schedule, tick, outcome, reason, job_id)
values ('nightly', '2026-01-01', 'fired', null, 1), ('nightly', '2026-01-02', 'missed', 'too late', null),
       ('nightly', '2026-01-03', 'skipped', 'the job before runs', null), ('late', '2026-01-01', 'missed', 'x', null);
"""


@pytest.fixture(scope="module")
def reader(server_dsn: str, template: str) -> Iterator[Conn]:
    """A connection that may do what a reader may, to a database with something of everything."""
    databases = Databases(server_dsn)
    dsn = databases.make(template)
    with psycopg.connect(dsn, autocommit=True) as conn:
        prefix = unused_prefix(conn)
        migrate.apply_roles(dsn, prefix=prefix)
        conn.execute(FILLED.format(w1=WORKERS[0], w2=WORKERS[1]).encode())
        conn.execute("analyze")
        conn.execute(sql.SQL("set role {}").format(sql.Identifier(f"{prefix}_reader")))
        yield conn
    databases.drop_all()
    drop_roles(server_dsn, prefix)


def asked(conn: Conn, number: int) -> list[dict[str, Any]]:
    """The answer to a question, as rows by the names of columns."""
    return conn.cursor(row_factory=dict_row).execute(QUESTIONS[str(number)].encode()).fetchall()


def column(rows: list[dict[str, Any]], *names: str) -> list[Any]:
    return [row[names[0]] if len(names) == 1 else tuple(row[name] for name in names) for row in rows]


def test_there_are_twenty_questions_and_one_for_operators() -> None:
    assert list(QUESTIONS) == [str(n) for n in range(1, 22)]


def test_the_question_about_keys_that_wait_is_refused_to_readers(reader: Conn) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        asked(reader, 21)


def test_the_question_about_keys_that_wait(conn: Conn) -> None:
    add_rule(conn, "sync", "acme", max_running=2, running=2)
    for key in ("acme", "acme", "other"):
        insert_metered(conn, Flow((f"sync/{key}",)))
    rows = asked(conn, 21)
    assert column(rows, "rule", "key", "waiting", "running", "max_running") == [
        ("sync", "acme", 2, 2, 2),
        ("sync", "other", 1, 0, 2),
    ]


def test_questions_about_queues(reader: Conn) -> None:
    waiting = asked(reader, 1)
    assert column(waiting, "queue", "due") == [("default", 2), ("alone", 1), ("paused", 1)]
    assert 90 <= waiting[0]["oldest_due_seconds"] < 900
    assert asked(reader, 2) == [{"queue": "alone", "due": 1}]
    (paused,) = asked(reader, 3)
    assert (paused["queue"], paused["paused_by"], paused["paused_reason"]) == ("paused", "alice", "a leak")
    assert asked(reader, 4) == [{"busy": 2, "slots": 8}]
    assert asked(reader, 5) == [{"queue": "default", "ended": 102}]
    drained = {row["queue"]: row["seconds_to_drain"] for row in asked(reader, 6)}
    assert drained.keys() == {"default", "alone", "paused"}
    assert float(drained["default"]) == pytest.approx(2 / (102 / 300))
    assert drained["alone"] is None


def test_questions_about_tasks(reader: Conn) -> None:
    assert column(asked(reader, 7), "task", "runs", "failed") == [("hopeless", 2, 2), ("weak", 4, 3)]
    (slow,) = asked(reader, 8)
    assert slow["task"] == "weak"
    assert slow["run_p95"] == pytest.approx(2**20.75 / 1e6)
    assert slow["wait_p95"] == pytest.approx(2**24.75 / 1e6)
    assert column(asked(reader, 9), "task", "runs", "last_success") == [("hopeless", 2, None)]


def test_questions_about_dead_letters(reader: Conn) -> None:
    causes = asked(reader, 10)
    assert column(causes, "error", "jobs", "tasks", "fingerprint") == [
        ("TimeoutError", 3, ["weak"], "aa"),
        ("KeyError", 1, ["hopeless"], "bb"),
    ]
    assert column(asked(reader, 11), "error") == ["KeyError"]
    assert column(asked(reader, 12), "id", "attempt", "reason", "error_class") == [(4711, 2, "rejected", "KeyError")]


def test_questions_about_one_job(reader: Conn) -> None:
    runs = asked(reader, 13)
    assert column(runs, "attempt", "to_state", "reason", "error_class") == [
        (1, "pending", "error", "ValueError"),
        (2, "failed", "rejected", "KeyError"),
    ]
    assert all(row["ended_at"] > row["started_at"] for row in runs)
    states = [None, "pending", "running", "pending", "running", "failed"]
    assert column(asked(reader, 14), "from_state", "to_state") == list(itertools.pairwise(states))


def test_questions_about_what_runs_and_what_cannot(reader: Conn) -> None:
    assert column(asked(reader, 15), "id", "task", "host", "pid") == [(7, "long", "here", 1)]
    assert asked(reader, 16) == [{"task": "unheard of", "jobs": 1}]
    gone = {(row["release"], row["processes"], row["gone"]) for row in asked(reader, 17)}
    assert gone == {("r1", 1, 0), ("r0", 1, 1)}


def test_questions_about_schedules(reader: Conn) -> None:
    assert {(row["name"], row["state"]) for row in asked(reader, 18)} == {("stopped", "paused"), ("late", "active")}
    assert column(asked(reader, 19), "outcome", "reason") == [
        ("skipped", "the job before runs"),
        ("missed", "too late"),
    ]


def test_the_question_about_partitions(reader: Conn) -> None:
    rows = {row["history"]: row for row in asked(reader, 20)}
    assert rows.keys() == {"activity", "job_finished", "published_event", "transition"}
    assert all(6 <= row["days_ahead"] <= 8 and row["size"] for row in rows.values())


def test_a_reader_is_refused_what_jobs_carry(reader: Conn) -> None:
    for table in ("job", "attempt", "job_live", "job_finished", "dead_letter", "transition", "operation", "schedule"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(f"select from pgqueue.{table}".encode())
    assert scalar(reader, "select count(*) from pgqueue.job_status") == 12


@pytest.mark.parametrize(("number", "index"), [(12, "dead_letter_failed_at"), (13, "job_id_idx"), (14, "job_id_idx")])
def test_a_question_with_an_index_uses_it(reader: Conn, number: int, index: str) -> None:
    with reader.transaction(force_rollback=True):
        reader.execute("set local enable_seqscan = off")
        plan = reader.execute(f"explain {QUESTIONS[str(number)]}".encode()).fetchall()
    lines = "\n".join(line for (line,) in plan)
    assert index in lines
    if number == 12:
        assert "job_finished" not in lines
        assert "job_live" not in lines
