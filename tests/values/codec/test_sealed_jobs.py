"""Sealed jobs: database, log and events hold nothing in the clear; keys that rotate, are missing, or are wrong."""

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgqueue
from pgqueue import App, Context, ResultMissing, Unique
from pgqueue.codecs import AESGCM, Codec
from pgqueue.events import Event
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import drain, eventually, scalar, work
from tests.harness import Conn, insert_job, new_job
from tests.values.codec.leaks import K1, K2, SECRET, Make, dump, leaky_tasks, run_leaky_tasks


def test_nothing_in_the_database_the_log_or_events_is_in_the_clear(
    sealing: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    heard: list[Event] = []
    sealing.on(Event)(heard.append)
    jobs = run_leaky_tasks(sealing, conn)
    dumped = dump(conn)
    assert SECRET not in dumped
    assert SECRET not in caplog.text
    assert SECRET not in repr(heard)
    assert {type(event).__name__ for event in heard} >= {
        "JobDeadLettered",
        "JobRetried",
        "JobSucceeded",
        "JobCancelled",
    }
    ends = {name: sealing.get(job).state for name, job in jobs.items()}
    assert [name for name, state in ends.items() if state != "succeeded"] == ["dies", "cancels", "fails"]
    assert len(re.findall(r"k2:[\w+/]{20,}", dumped)) > 30
    assert scalar(conn, "select count(*) from pgqueue.job where task <> 'narrow' and not args ? '$codec'") == 0


def test_no_statement_has_an_unsealed_parameter(sealing: App, conn: Conn) -> None:
    size = "select size from pg_stat_file('log', true)"
    before = scalar(conn, size)
    if before is None:
        pytest.skip("this server's log is not where the embedded one has it")
    conn.execute(f"alter database {conn.info.dbname} set log_statement = 'all'".encode())
    run_leaky_tasks(sealing, conn)
    enqueue_under_conditions(sealing)
    logged = scalar(conn, "select pg_read_file('log', %s, 1 << 28)", before)
    assert SECRET not in logged
    assert len(re.findall(r"k2:[\w+/]{20,}", logged)) > 30


def enqueue_under_conditions(app: App) -> None:
    """Send the secret in calls that find their keys taken, and in schedules made and edited at run time."""

    @app.task(name="keyed")
    def keyed(word: str) -> None: ...

    for _ in range(2):
        keyed.using(idempotency_key="k").enqueue(SECRET)
        keyed.using(idempotency_key=["a", "b"]).enqueue_many([{"word": SECRET}] * 2)
        for on_conflict in ("skip", "replace"):
            unique = Unique(on_conflict=on_conflict, window=60)  # type: ignore[arg-type]  # one of these
            keyed.using(unique=unique).enqueue(SECRET)
            keyed.using(unique=unique).enqueue_many([{"word": SECRET}])
        app.using(idempotency_key="n").enqueue("elsewhere", {"word": SECRET})
    app.schedules.create("made", keyed, 60.0, args={"word": SECRET})
    app.schedules.edit("made", args={"word": SECRET + "!"})
    app.schedules.run("made")


def test_without_a_codec_all_that_is_found(make: Make, conn: Conn) -> None:
    run_leaky_tasks(make(), conn)
    found = dump(conn)
    for kind in ("args", "result", "error", "reason"):
        table, word = {
            "args": ("job_live", SECRET), "result": ("job_finished", SECRET),
            "error": ("dead_letter", f"no {SECRET}"), "reason": ("transition", f"not yet: {SECRET}"),
        }[kind]  # fmt: skip
        assert word in found, table


def test_who_has_the_codec_reads_what_it_was(sealing: App, conn: Conn) -> None:
    jobs = run_leaky_tasks(sealing, conn)
    get = {name: sealing.get(job) for name, job in jobs.items()}
    assert {tuple(job.args.items()) for job in get.values()} == {(("word", SECRET),)}
    assert get["returns"].result == {"word": SECRET}
    assert [get[name].result for name in ("returns_async", "child", "retries", "completes")] == [SECRET] * 4
    assert [(e.type, e.message) for e in get["retries"].errors] == [("LookupError", SECRET)]
    assert f"LookupError: {SECRET}" in (get["retries"].errors[0].traceback or "")
    assert [(e.type, e.message) for e in get["child"].errors] == [("ValueError", SECRET)]
    died = get["dies"].error
    assert died is not None
    assert (died.type, died.message) == ("RuntimeError", f"no {SECRET}")
    assert f"KeyError: '{SECRET}'" in (died.traceback or "")
    assert get["cancels"].reason == f"unwanted: {SECRET}"
    assert get["snoozes"].attempts[0].reason == f"not yet: {SECRET}"
    assert get["fails"].error is not None
    assert get["fails"].error.message == f"bad: {SECRET}"
    assert get["asks_again"].errors[0].message == SECRET


def test_others_see_that_it_is_sealed(sealing: App, make: Make, conn: Conn) -> None:
    jobs = run_leaky_tasks(sealing, conn)
    for other in (make(), make(AESGCM({"k3": K1})), make(AESGCM({"k2": K1}))):
        for job in map(other.get, jobs.values()):
            assert list(job.args) == ["$codec"]
            assert job.args["$codec"].startswith("k2:")
            assert job.result is None or list(job.result) == ["$codec"]
            assert SECRET not in repr(job)
        died = other.get(jobs["dies"]).error
        assert died is not None
        assert (died.type, died.traceback) == ("RuntimeError", None)
        assert died.message.startswith("$codec:k2:")


def test_what_is_enqueued_is_returned_in_the_clear(sealing: App, dsn: str, conn: Conn) -> None:
    tasks = leaky_tasks(sealing)
    with psycopg.connect(dsn) as borrowed:
        assert tasks["returns"].using(borrowed).enqueue(word=SECRET).args == {"word": SECRET}
    assert scalar(conn, "select args ->> '$codec' from pgqueue.job_live").startswith("k2:")


def test_the_note_of_the_progress_is_sealed_while_the_job_runs(sealing: App, make: Make, conn: Conn) -> None:
    go = asyncio.Event()

    @sealing.task
    async def slow(ctx: Context) -> None:
        ctx.progress(1, 2, SECRET)
        await go.wait()

    async def watch() -> None:
        job = slow.enqueue()
        worker = asyncio.create_task(work(sealing, go.is_set))
        await eventually(lambda: scalar(conn, "select progress from pgqueue.job_live"))
        assert SECRET not in dump(conn)
        assert sealing.get(job.id).progress == {"done": 1, "total": 2, "note": SECRET}
        assert make().get(job.id).progress["note"].startswith("$codec:k2:")  # type: ignore[index]
        go.set()
        await worker

    asyncio.run(watch())


def test_old_keys_open_and_the_current_one_seals(make: Make, conn: Conn) -> None:
    before, both = make(AESGCM({"k1": K1})), make(AESGCM({"k1": K1, "k2": K2}, current="k2"))
    old, new = (leaky_tasks(app)["returns"].enqueue(word=SECRET) for app in (before, both))
    assert [row[0] for row in conn.execute("select left(args ->> '$codec', 3) from pgqueue.job order by id")] == [
        "k1:", "k2:",
    ]  # fmt: skip
    drain(both, conn)
    assert both.get(old.id).result == both.get(new.id).result == {"word": SECRET}
    assert before.get(old.id).args == {"word": SECRET}
    assert list(before.get(old.id).result) == ["$codec"]


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("thread", None), ("loop", AESGCM({"k1": K1})), ("process", AESGCM({"k1": K1}))],
    ids=["no codec", "no key", "no key in a child"],
)
def test_a_worker_without_the_key_gives_the_job_back_uncharged(
    sealing: App, make: Make, conn: Conn, codec: Codec | None, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def register(app: App) -> pgqueue.Task[..., Any]:
        if kind == "loop":

            async def on_loop(word: str) -> str:
                return word

            return app.task(name="t", max_attempts=1)(on_loop)
        return app.task(name="t", max_attempts=1, isolation=kind)(lambda word: word)

    job = register(sealing).enqueue(word=SECRET)
    poor = make(codec)
    register(poor)
    given_back = "select count(*) from pgqueue.transition where from_state = 'running' and to_state = 'pending'"
    asyncio.run(work(poor, lambda: scalar(conn, given_back) == 1))
    waiting = sealing.get(job.id)
    assert (waiting.state, waiting.attempt) == ("pending", 0)
    assert 20 < scalar(conn, "select extract(epoch from run_at - now())::int from pgqueue.job_live") <= 30
    assert [(e.type, a.reason) for a in waiting.attempts if (e := a.error)] == [("pgqueue.UnknownKey", "sealed")]
    assert ("'k2'" if codec else "no codec") in waiting.errors[0].message
    assert "a key that is not here" in caplog.text
    conn.execute("update pgqueue.job_live set run_at = now()")
    drain(sealing, conn)
    assert (sealing.get(job.id).state, sealing.get(job.id).result) == ("succeeded", SECRET)


def test_what_was_moved_or_altered_is_tried_again_and_then_a_dead_letter(sealing: App, conn: Conn) -> None:
    ran: list[str] = []
    sealing.task(name="pay", retry=[0.01], max_attempts=2)(lambda word: ran.append(word))
    other = leaky_tasks(sealing)["returns"].enqueue(word=SECRET)
    sealed = scalar(conn, "select args ->> '$codec' from pgqueue.job_live where id = %s", other.id)
    middle = len(sealed) // 2
    altered = sealed[:middle] + ("A" if sealed[middle] != "A" else "B") + sealed[middle + 1 :]
    jobs = [
        insert_job(conn, task="pay", max_attempts=2, args=json.dumps({"$codec": sealed})),
        insert_job(conn, task="pay", max_attempts=2, args=json.dumps({"$codec": altered})),
        insert_job(conn, task="pay", max_attempts=2, args=json.dumps({"$codec": "k2:no base64"})),
        insert_job(conn, task="pay", max_attempts=2, args=json.dumps({"$codec": "k2:"})),
    ]
    drain(sealing, conn)
    assert ran == []
    for job in map(sealing.get, jobs):
        assert (job.state, job.reason, job.attempt) == ("failed", "exhausted", 2)
        assert [error.type for error in job.errors] == ["pgqueue.CannotOpen"] * 2
        assert "it was altered or moved" in job.errors[0].message


def test_a_job_that_was_sealed_under_a_former_name_opens_under_it(make: Make, conn: Conn) -> None:
    codec = AESGCM({"k1": K1})
    job = make(codec).enqueue("mail.receipt", {"word": SECRET}).id
    after = make(codec)
    after.task(name="send", aliases=["mail.receipt"])(lambda word: word)
    drain(after, conn)
    assert after.get(job).result == SECRET


def test_a_result_does_not_open_as_arguments(sealing: App, conn: Conn) -> None:
    tasks = leaky_tasks(sealing)
    job = tasks["returns"].enqueue(word="x")
    drain(sealing, conn)
    result = scalar(conn, "select result from pgqueue.job where id = %s", job.id)
    moved = insert_job(conn, task="returns", args=json.dumps(result))
    assert list(sealing.get(moved).args) == ["$codec"]


def test_jobs_from_before_the_codec_run_as_ever(make: Make, sealing: App, conn: Conn) -> None:
    job = leaky_tasks(make())["returns"].enqueue(word="x")
    leaky_tasks(sealing)
    drain(sealing, conn)
    assert (sealing.get(job.id).args, sealing.get(job.id).result) == ({"word": "x"}, {"word": "x"})


SHOP = f"""
import pgqueue
app = pgqueue.App(codec=pgqueue.codecs.AESGCM({{"k2": bytes.fromhex("{K2.hex()}")}}))

@app.task(name="dies", max_attempts=1)
def dies(word: str) -> None:
    raise RuntimeError("no " + word)
"""


def test_a_wait_without_the_key_says_so_and_does_not_return_what_is_sealed(
    sealing: App, make: Make, conn: Conn
) -> None:
    job = leaky_tasks(sealing)["returns"].enqueue(SECRET)
    drain(sealing, conn)
    assert sealing.wait(job.id) == {"word": SECRET}
    for other in (make(None), make(AESGCM({"k3": K1}))):
        with pytest.raises(ResultMissing, match=r"is sealed \(key k2\), and this app cannot open it"):
            other.wait(job.id)


def test_the_command_line_opens_with_the_app_and_shows_it_sealed_without(
    sealing: App, conn: Conn, dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    leaky_tasks(sealing)
    job = sealing.enqueue("dies", {"word": SECRET})
    drain(sealing, conn)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}

    def said(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pgqueue", *args], cwd=tmp_path, text=True, capture_output=True, check=True,
            env=environ | {"PGQUEUE_DSN": dsn, "COLUMNS": "200"},
        )  # fmt: skip
        return done.stdout

    shown, sealed = said("jobs", "show", str(job.id), "-A", "shop:app"), said("jobs", "show", str(job.id))
    assert f'{{"word": "{SECRET}"}}' in shown
    assert f"RuntimeError: no {SECRET}" in shown
    assert SECRET not in sealed
    assert "RuntimeError: sealed (key k2)" in sealed
    assert sealed.count("sealed (key k2)") >= 3
    assert "k2:" not in sealed
    assert json.loads(said("dead", "list", "--json"))[0]["args"]["$codec"].startswith("k2:")
    assert json.loads(said("dead", "list", "--json", "-A", "shop:app"))[0]["args"] == {"word": SECRET}


def test_results_that_are_arguments_of_other_jobs_are_opened_for_them(sealing: App, conn: Conn) -> None:
    got: list[object] = []
    sealing.task(name="t")(lambda n: {"secret": n})
    sealing.task(name="child")(lambda one, x: got.append((one, x)))
    nodes = [new_job(args='{"n": 7}'), new_job("child", args='{"x": 1}')]
    sealing.workflows.enqueue(Graph(nodes, [0, 0], [Edge(0, 1, argument="one")], [Group("w")]))
    drain(sealing, conn)
    assert got == [({"secret": 7}, 1)]
    assert "secret" not in str(conn.execute("select result from pgqueue.job_finished").fetchall())
