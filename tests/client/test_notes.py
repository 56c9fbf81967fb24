"""Notes on dead letters: kept with the dead letter, in order, and in the way of nothing else that reads headers."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgqueue import App, Context, DeadFilter, InvalidOption, UnknownJob, db
from pgqueue.queries.dead import MOST_NOTES
from tests.client.test_dead import add_dead, ids
from tests.conftest import drain, scalar
from tests.harness import QUERIES, Conn, InThread, insert_job, wait_blocked

LOG = "select from_state, to_state, attempt, lease, reason, error from pgqueue.transition"
NOTES = "select headers -> '$notes' from pgqueue.job where id = 1"
WRITTEN = (
    "select md5(array[(select array_agg(j::text order by id)::text from pgqueue.job j),"
    " (select count(*)::text from pgqueue.transition)]::text)"
)


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def texts(app: App, job: int = 1) -> list[str]:
    return [note.text for note in app.get(job).notes]


def test_a_note_is_kept_with_who_wrote_it_and_when_and_is_logged(app: App, conn: Conn) -> None:
    add_dead(conn, 1, 2)
    before = scalar(conn, "select clock_timestamp()")
    noted = app.dead.annotate(1, "asked the bank: “wait”", by="alice")
    (note,) = noted.notes
    assert (note.by, note.text, str(noted.state)) == ("alice", "asked the bank: “wait”", "failed")
    assert before <= note.at <= scalar(conn, "select clock_timestamp()")
    assert conn.execute(LOG).fetchall() == [("failed", "failed", 20, 20, "annotated by alice", None)]
    assert noted.attempts == app.get(2).attempts
    assert app.get(2).notes == ()
    assert [job.notes for job in app.dead.list(DeadFilter(task="t"))] == [(), (note,)]


def test_the_newest_notes_are_kept_the_newest_last(app: App, conn: Conn) -> None:
    add_dead(conn, 1)
    for number in range(MOST_NOTES + 3):
        app.dead.annotate(1, f"note {number}")
    assert texts(app) == [f"note {number}" for number in range(3, MOST_NOTES + 3)]
    times = [note.at for note in app.get(1).notes]
    assert times == sorted(times)
    assert scalar(conn, "select jsonb_array_length(headers -> '$notes') from pgqueue.dead_letter") == 20


@pytest.mark.parametrize("text", ["", "x" * 1001, "a\0b", "half \ud83d", None, 7, b"x", ["x"]])
def test_a_text_that_cannot_be_kept_is_refused(app: App, conn: Conn, text: Any) -> None:
    add_dead(conn, 1)
    before = scalar(conn, WRITTEN)
    with pytest.raises(InvalidOption, match=r"^text=.* 1 to 1000 characters"):
        app.dead.annotate(1, text)
    with pytest.raises(InvalidOption, match="by"):
        app.dead.annotate(1, "x", by="two\nlines")
    assert scalar(conn, WRITTEN) == before


def test_the_longest_text_is_kept_with_every_character(app: App, conn: Conn) -> None:
    add_dead(conn, 1)
    longest = '\x1b[31m"\\$notes\n\t\u202e{}' + "🙂" * 982
    assert len(longest) == 1000
    assert app.dead.annotate(1, longest).notes[0].text == longest


def test_only_a_dead_letter_has_notes(app: App, conn: Conn) -> None:
    add_dead(conn, 1)
    app.dead.discard(DeadFilter(ids=[1]), reason="gone")
    waiting = insert_job(conn)
    before = scalar(conn, WRITTEN)
    for job in (1, waiting, 99, 0, -1, 2**63):
        with pytest.raises(UnknownJob, match=f"no dead letter {job}|no job"):
            app.dead.annotate(job, "too late")
    with pytest.raises(InvalidOption, match="job id"):
        app.dead.annotate("1", "x")  # type: ignore[arg-type]
    assert scalar(conn, WRITTEN) == before


def test_a_note_takes_effect_with_the_transaction_of_its_caller(app: App, conn: Conn, dsn: str) -> None:
    add_dead(conn, 1)
    before = scalar(conn, WRITTEN)
    with psycopg.connect(dsn) as own:
        assert len(app.dead.using(own).annotate(1, "one").notes) == 1
        own.rollback()
        assert scalar(conn, WRITTEN) == before
        app.dead.using(own).annotate(1, "two")
        own.commit()
    assert texts(app) == ["two"]


def test_of_two_that_annotate_at_once_both_are_kept_in_order(app: App, conn: Conn, dsn: str) -> None:
    add_dead(conn, 1)
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        second.execute("select now()")  # the transaction that waits is the older one
        app.dead.using(first).annotate(1, "first")
        waiting = InThread(lambda: app.dead.using(second).annotate(1, "second"))
        wait_blocked(conn, second, first)
        first.commit()
        waiting.result()
        second.commit()
    assert texts(app) == ["first", "second"]
    one, other = app.get(1).notes
    assert one.at < other.at


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_a_note_on_what_is_leaving_waits_and_then_finds_nothing(app: App, conn: Conn, dsn: str, verb: str) -> None:
    add_dead(conn, 1)
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        verbs = app.dead.using(first)
        if verb == "redrive":
            verbs.redrive(DeadFilter(ids=[1]), limit=1)
        else:
            verbs.discard(DeadFilter(ids=[1]), reason="gone", limit=1)
        waiting = InThread(lambda: app.dead.using(second).annotate(1, "too late"))
        wait_blocked(conn, second, first)
        first.commit()
        with pytest.raises(UnknownJob):
            waiting.result()
        second.commit()
    assert (ids(conn, "dead_letter"), texts(app)) == ([], [])
    assert scalar(conn, "select count(*) from pgqueue.transition where reason like 'annotated%%'") == 0


def test_a_redrive_that_waits_for_a_note_takes_it_along(app: App, conn: Conn, dsn: str) -> None:
    add_dead(conn, 1)
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        app.dead.using(first).annotate(1, "in time")
        waiting = InThread(lambda: db.run(second, QUERIES.dead.redrive(0, [1], "redriven", {})))
        wait_blocked(conn, second, first)
        first.commit()
        assert waiting.result() == 1
        second.commit()
    assert (ids(conn, "job_live"), texts(app)) == ([1], ["in time"])


def test_a_job_that_comes_back_has_its_notes_and_its_task_sees_none(app: App, conn: Conn) -> None:
    seen: list[Any] = []
    told: list[int] = []

    @app.task(name="ops.notify")
    def notify(job_id: int, task: str, queue: str, reason: str, error: str | None, fingerprint: str) -> None:
        told.append(job_id)

    def doubled(args: dict[str, Any]) -> dict[str, Any]:
        return {"n": args["n"] * 2}

    options: dict[str, Any] = {"version": 2, "upcasters": {1: doubled}, "max_crashes": 9, "max_attempts": 1}

    @app.task(name="shop.send", dead_letter_task="ops.notify", **options)
    def send(ctx: Context, n: int) -> None:
        seen.append((n, ctx.headers, ctx.header("$notes"), ctx.idempotency_key, ctx.tick))
        if len(seen) < 3:
            raise TimeoutError

    job = send.using(headers={"tenant": "7"}, idempotency_key="k").enqueue(n=1).id
    drain(app, conn)
    own = scalar(conn, "select headers from pgqueue.dead_letter")
    app.dead.annotate(job, '"$version": 7, "$dead_letter": 1, "tick", "idempotency_key"')
    assert scalar(conn, "select headers - '$notes' from pgqueue.dead_letter") == own
    assert {"$version": 2, "$max_crashes": 9}.items() <= own.items()
    app.dead.redrive(DeadFilter(ids=[job]))
    drain(app, conn)
    assert [event.reason for event in app.get(job).attempts] == ["exhausted", "exhausted"]
    app.dead.annotate(job, "again")
    app.dead.discard(DeadFilter(ids=[job]), reason="gone")
    app.retry(job)
    assert len(texts(app, job)) == 2
    drain(app, conn)
    assert [text[-5:] for text in texts(app, job)] == ['_key"', "again"]
    headers = {"tenant": "7", "idempotency_key": "k"}
    assert seen == [(1, headers, None, "k", None)] * 3
    assert told == [job, job]
    found = app.get(job)
    assert (str(found.state), found.headers) == ("succeeded", headers)


@pytest.mark.parametrize(
    "stored", ["x", 7, None, {"at": "now"}, [1, None, {}, {"at": "soon", "by": "a", "text": "x"}, {"at": 7}]]
)
def test_what_sql_has_stored_in_the_place_of_notes_is_in_nobodys_way(app: App, conn: Conn, stored: Any) -> None:
    add_dead(conn, 1)
    conn.execute("update pgqueue.dead_letter set headers = %s", [Jsonb({"$notes": stored})])
    assert (app.get(1).notes, app.get(1).headers) == ((), {})
    assert [note.text for note in app.dead.annotate(1, "readable").notes] == ["readable"]
    assert isinstance(scalar(conn, NOTES), list)


def test_the_time_of_a_note_is_a_moment_in_every_time_zone(app: App, conn: Conn, dsn: str) -> None:
    add_dead(conn, 1)
    with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=Asia/Kathmandu -c DateStyle=German") as own:
        app.dead.using(own).annotate(1, "x")
    (note,) = app.get(1).notes
    assert note.at.utcoffset() is not None
    assert abs(note.at - datetime.now(UTC)) < timedelta(minutes=5)


def test_the_async_twin_does_the_same(app: App, conn: Conn) -> None:
    add_dead(conn, 1)
    (note,) = asyncio.run(app.dead.aannotate(1, "x", by="bob")).notes
    assert (note.by, note.text) == ("bob", "x")
