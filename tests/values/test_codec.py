"""Encryption: nothing in the clear in the database, the log or events; keys that rotate, are missing, or are wrong."""

import asyncio
import json
import logging
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgqueue
from pgqueue import App, CannotOpen, ConfigError, Context, ResultMissing, UnknownKey
from pgqueue.codecs import AESGCM, Codec
from pgqueue.db.link import Link
from pgqueue.events import Event, WorkerStarted
from pgqueue.scheduler import SchedulerSettings, Ticker, declare
from tests.conftest import drain, eventually, scalar, work
from tests.harness import Conn, insert_job

SECRET = "correct horse battery staple"
K1, K2 = secrets.token_bytes(32), secrets.token_bytes(32)
Make = Callable[..., App]


@pytest.fixture
def make(dsn: str) -> Iterator[Make]:
    """Make apps on the test's database."""
    apps: list[App] = []

    def make(codec: Codec | None = None) -> App:
        apps.append(App(dsn, codec=codec))
        return apps[-1]

    yield make
    for app in apps:
        app.close()


@pytest.fixture
def sealing(make: Make) -> App:
    """An app that seals with k2 and opens with k1, too."""
    return make(AESGCM({"k2": K2, "k1": K1}, current="k2"))


def dump(conn: Conn) -> str:
    """Every row of every table of the schema, as text."""
    tables = conn.execute(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = 'pgqueue'"
    ).fetchall()
    assert len(tables) > 20
    return "\n".join(
        str(row[0]) for (table,) in tables for row in conn.execute(f"select t::text from {table} as t".encode())
    )


def everything(app: App) -> dict[str, pgqueue.Task[..., Any]]:
    """Tasks that let a secret out in every way there is."""

    @app.task(name="returns")
    def returns(word: str) -> dict[str, str]:
        return {"word": word}

    @app.task(name="returns_async")
    async def returns_async(word: str) -> str:
        return word

    @app.task(name="child", isolation="process", retry=[0.01])
    def child(ctx: Context, word: str) -> str:
        ctx.progress(1, 2, word)
        if ctx.attempt == 1:
            raise ValueError(word)
        return word

    @app.task(name="retries", retry=[0.01])
    def retries(ctx: Context, word: str) -> str:
        if ctx.attempt == 1:
            raise LookupError(word)
        return word

    @app.task(name="dies", max_attempts=1)
    def dies(word: str) -> None:
        try:
            raise KeyError(word)
        except KeyError as error:
            raise RuntimeError("no " + word) from error

    @app.task(name="snoozes")
    def snoozes(ctx: Context, word: str) -> None:
        if not os.environ.pop("PGQUEUE_TEST_SNOOZED", None):
            return
        raise pgqueue.Snooze(0.01, f"not yet: {word}")

    @app.task(name="cancels")
    def cancels(word: str) -> None:
        raise pgqueue.Cancel(f"unwanted: {word}")

    @app.task(name="fails")
    def fails(word: str) -> None:
        raise pgqueue.Fail(f"bad: {word}")

    @app.task(name="asks_again", max_attempts=2)
    async def asks_again(ctx: Context, word: str) -> None:
        if ctx.attempt == 1:
            raise pgqueue.Retry(word, delay=0.01)

    @app.task(name="completes")
    def completes(ctx: Context, word: str) -> None:
        with ctx.transaction(result=word):
            pass

    @app.task(name="narrow")
    def narrow(n: int) -> None: ...

    tasks = [returns, returns_async, child, retries, dies, snoozes, cancels, fails, asks_again, completes]
    return {task.name: task for task in tasks}


async def fire_schedule(app: App, conn: Conn, task: pgqueue.Task[..., Any]) -> None:
    """Declare a schedule with a secret, twice, and fire it."""
    app.schedules._declared.clear()
    app.schedule(3600, name="secretive", args={"word": SECRET})(task)
    link = Link(app.database, "test")
    await declare(app, link)
    await declare(app, link)
    conn.execute("update pgqueue.schedule set next_tick = '2026-01-01Z'")
    assert await Ticker(app, link, SchedulerSettings()).fire() == 1
    await link.close()


def let_everything_out(app: App, conn: Conn) -> dict[str, int]:
    """Run each of the tasks with the secret, and the same as bulk and by a schedule; return the jobs by task."""
    os.environ["PGQUEUE_TEST_SNOOZED"] = "1"
    tasks = everything(app)
    jobs = {name: task.enqueue(word=SECRET).id for name, task in tasks.items()}
    tasks["returns"].enqueue_many([{"word": SECRET}, {"word": SECRET}])
    asyncio.run(app.aclose())
    app.enqueue("elsewhere", {"word": SECRET})
    insert_job(conn, task="narrow", args=json.dumps({"n": "x"}))
    asyncio.run(fire_schedule(app, conn, tasks["returns"]))
    drain(app, conn, concurrency=4)
    return jobs


def test_nothing_in_the_database_the_log_or_events_is_in_the_clear(
    sealing: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    heard: list[Event] = []
    sealing.on(Event)(heard.append)
    jobs = let_everything_out(sealing, conn)
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


def test_without_a_codec_all_that_is_found(make: Make, conn: Conn) -> None:
    let_everything_out(make(), conn)
    found = dump(conn)
    for kind in ("args", "result", "error", "reason"):
        table, word = {
            "args": ("job_live", SECRET), "result": ("job_finished", SECRET),
            "error": ("dead_letter", f"no {SECRET}"), "reason": ("transition", f"not yet: {SECRET}"),
        }[kind]  # fmt: skip
        assert word in found, table


def test_who_has_the_codec_reads_what_it_was(sealing: App, conn: Conn) -> None:
    jobs = let_everything_out(sealing, conn)
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
    jobs = let_everything_out(sealing, conn)
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
    tasks = everything(sealing)
    with psycopg.connect(dsn) as lent:
        assert tasks["returns"].using(lent).enqueue(word=SECRET).args == {"word": SECRET}
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
    old, new = (everything(app)["returns"].enqueue(word=SECRET) for app in (before, both))
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
    other = everything(sealing)["returns"].enqueue(word=SECRET)
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
    tasks = everything(sealing)
    job = tasks["returns"].enqueue(word="x")
    drain(sealing, conn)
    result = scalar(conn, "select result from pgqueue.job where id = %s", job.id)
    moved = insert_job(conn, task="returns", args=json.dumps(result))
    assert list(sealing.get(moved).args) == ["$codec"]


def test_jobs_from_before_the_codec_run_as_ever(make: Make, sealing: App, conn: Conn) -> None:
    job = everything(make())["returns"].enqueue(word="x")
    everything(sealing)
    drain(sealing, conn)
    assert (sealing.get(job.id).args, sealing.get(job.id).result) == ({"word": "x"}, {"word": "x"})


class Grumpy:
    """A codec that quotes what it was given when it fails."""

    def __init__(self) -> None:
        self.broken = False

    def seal(self, plain: bytes, about: bytes) -> str:
        if self.broken:
            raise ValueError(f"cannot seal {plain!r}")
        return f"x{plain.hex()}.{about.hex()}"

    def open(self, sealed: str, about: bytes) -> bytes:
        plain, of = sealed[1:].split(".")
        if self.broken or bytes.fromhex(of) != about:
            raise ValueError(f"cannot open {bytes.fromhex(plain)!r}")
        return bytes.fromhex(plain)


def test_a_codec_of_ones_own(make: Make, conn: Conn) -> None:
    app = make(Grumpy())
    jobs = let_everything_out(app, conn)
    assert SECRET not in dump(conn)
    assert app.get(jobs["retries"]).result == SECRET
    assert app.get(jobs["dies"]).errors[0].message == f"no {SECRET}"


@pytest.mark.parametrize("name", ["returns", "dies", "cancels"])
def test_a_codec_that_fails_loses_the_words_but_not_the_outcome(make: Make, conn: Conn, name: str) -> None:
    codec = Grumpy()
    app = make(codec)
    everything(app)

    @app.middleware
    async def breaks(ctx: Context, call_next: Any) -> None:
        await call_next()
        codec.broken = True

    job = app.enqueue(name, {"word": SECRET})
    drain(app, conn)
    codec.broken = False
    ended = app.get(job.id)
    assert ended.state == {"returns": "succeeded", "dies": "failed", "cancels": "cancelled"}[name]
    error = ended.attempts[0].error
    assert error is not None
    assert (error.type, error.message) == (
        "pgqueue.CannotSeal",
        "the codec raised ValueError: the result or error is not kept",
    )
    assert SECRET not in dump(conn)


def test_a_codec_that_fails_to_open_says_nothing_of_what_it_quotes(make: Make, conn: Conn) -> None:
    app = make(codec := Grumpy())
    app.task(name="t", max_attempts=2, retry=[0.01])(lambda word: word)
    job = app.enqueue("t", {"word": SECRET})
    app.on(WorkerStarted)(lambda _: setattr(codec, "broken", True))
    drain(app, conn)
    codec.broken = False
    assert next((error.type, error.message) for error in app.get(job.id).errors) == (
        "pgqueue.CannotOpen",
        "Grumpy.open() raised ValueError",
    )
    assert SECRET not in dump(conn)


@pytest.mark.parametrize("sealed", [b"x", "two words", "", "ü", "a\nb"], ids=repr)
def test_a_codec_that_gives_no_plain_text_is_refused_before_anything_is_written(
    make: Make, conn: Conn, sealed: Any
) -> None:
    class Odd(Grumpy):
        def seal(self, plain: bytes, about: bytes) -> str:
            return sealed  # type: ignore[no-any-return]

    with pytest.raises(ConfigError, match=r"Odd\.seal\(\) gave no text of printable ASCII"):
        make(Odd()).enqueue("t", {"word": SECRET})
    assert scalar(conn, "select count(*) from pgqueue.job") == 0


@pytest.mark.parametrize(
    ("keys", "current", "said"),
    [
        ({}, None, "current=None is none of the keys (none)"),
        ({"a": K1, "b": K2}, None, "current=None is none of the keys (a, b)"),
        ({"a": K1}, "b", "current='b' is none of the keys (a)"),
        ({"a": K1[:5]}, None, "key 'a' cannot be used: give 16, 24 or 32 random bytes"),
        ({"a": "x" * 32}, None, "key 'a' cannot be used"),
        ({"a:b": K1}, None, "key id 'a:b' cannot be used"),
        ({"": K1}, None, "key id '' cannot be used"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_and_not_shown(keys: Any, current: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        AESGCM(keys, current)
    assert not any(str(key) in str(refused.value) for key in keys.values())


def test_keys_are_not_shown() -> None:
    assert repr(AESGCM({"k1": K1, "k2": K2}, "k2")) == "AESGCM(keys k1, k2; current k2)"
    assert repr(K1) not in repr(vars(AESGCM({"k1": K1})))


@pytest.mark.parametrize("codec", [5, "k1", object(), {"k1": K1}], ids=lambda codec: type(codec).__name__)
def test_what_is_no_codec_is_refused(codec: Any) -> None:
    with pytest.raises(ConfigError, match=r"give an object with seal\(\) and open\(\)"):
        App("unused", codec=codec)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    with pytest.raises(ConfigError, match=r"pip install 'pgqueue\[crypto\]'"):
        AESGCM({"k1": K1})


@settings(max_examples=50, deadline=None, database=None)
@given(st.binary(), st.binary(), st.binary())
def test_what_was_sealed_opens_and_only_about_the_same_thing(plain: bytes, about: bytes, other: bytes) -> None:
    codec = AESGCM({"k1": K1, "k2": K2}, "k1")
    sealed = codec.seal(plain, about)
    assert re.fullmatch(r"k1:[A-Za-z0-9+/=]+", sealed)
    assert codec.seal(plain, about) != sealed
    assert codec.open(sealed, about) == plain
    if about != other:
        with pytest.raises(CannotOpen):
            codec.open(sealed, other)
    with pytest.raises(CannotOpen):
        codec.open("k2" + sealed[2:], about)
    with pytest.raises(UnknownKey, match=r"key 'k3', which is not here \(there are: k1, k2\)"):
        codec.open("k3" + sealed[2:], about)


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
    job = everything(sealing)["returns"].enqueue(SECRET)
    drain(sealing, conn)
    assert sealing.wait(job.id) == {"word": SECRET}
    for other in (make(None), make(AESGCM({"k3": K1}))):
        with pytest.raises(ResultMissing, match=r"is sealed \(key k2\), and this app cannot open it"):
            other.wait(job.id)


def test_the_command_line_opens_with_the_app_and_shows_it_sealed_without(
    sealing: App, conn: Conn, dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    everything(sealing)
    job = sealing.enqueue("dies", {"word": SECRET})
    drain(sealing, conn)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}

    def said(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pgqueue", *args], cwd=tmp_path, env=environ | {"PGQUEUE_DSN": dsn}, text=True,
            capture_output=True, check=True,
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
