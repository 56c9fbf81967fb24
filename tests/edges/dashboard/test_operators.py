"""What whoever keeps the queue sees on each page: what the doctor found, what is left to drain, what workers know."""

import asyncio
import re
import threading
from collections.abc import Callable
from html import unescape

import pytest

from pgqueue.dashboard import Access
from pgqueue.dashboard.charts import SMALL, used, waits_of
from pgqueue.dashboard.examinations import EXAMINED_SECONDS, OLD_SECONDS, SEEN_SECONDS, Examinations
from pgqueue.dashboard.pages.fleet import KnownTask, known_tasks
from pgqueue.dashboard.readings import ReadingThreads, Unread
from pgqueue.doctor import Finding, Report, Severity
from pgqueue.queries.dashboard import Announced, Span, Step, Wait
from tests.conftest import scalar, work
from tests.edges.dashboard.conftest import Browser
from tests.edges.dashboard.scene import Shop
from tests.harness import Conn, wait_for

Browse = Callable[..., Browser]
BAD = Finding("snapshot-of-connection", Severity.ERROR, "a connection holds a snapshot for 3h", "select 1")
MILD = Finding("retention-off", Severity.INFO, "nothing is dropped")


def part(html: str, section: str) -> str:
    """Return a section of a page as text."""
    return _text(html.partition(f'id="{section}"')[2].partition("</section>")[0])


def _text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).replace("\u202f", "").split())


def shown(browser: Browser, path: str, section: str, told: str) -> str:
    """Return a section of a page once it tells something: what is read beside the page may come a moment later."""
    found: str = wait_for(lambda: re.search(told, text := part(browser.page(path), section)) and text, told)
    return found


class Doctor:
    """An app whose examinations a test counts and holds back."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.examined = 0
        self.open = threading.Event()
        self.open.set()

    def doctor(self) -> Report:
        assert self.open.wait(30)
        self.examined += 1
        return Report(self.examined, [BAD])

    def clock(self) -> float:
        return self.now


def test_whoever_looks_often_does_not_examine_the_server_often() -> None:
    app = Doctor()
    examinations = Examinations(app, ReadingThreads(), app.clock)  # type: ignore[arg-type]
    wait_for(lambda: isinstance(examinations.soon(), tuple), "an examination")
    for _ in range(20):
        app.now += SEEN_SECONDS / 21
        assert examinations.soon() == (Report(1, [BAD]), app.now - 1000.0)
    app.open.clear()
    app.now = 1000.0 + SEEN_SECONDS
    assert examinations.soon() == (Report(1, [BAD]), SEEN_SECONDS)  # while the next one is made
    app.open.set()
    wait_for(lambda: examinations.soon() == (Report(2, [BAD]), 0.0), "the next examination")
    app.now += EXAMINED_SECONDS
    assert examinations.report() == (Report(3, [BAD]), 0.0)  # its own page has it exactly
    assert examinations.soon() == (Report(3, [BAD]), 0.0)  # and the others see what that found
    app.open.clear()
    app.now += OLD_SECONDS
    assert examinations.soon() is None  # what is so old is not shown
    app.open.set()


def test_an_examination_that_fails_is_said_and_not_made_at_each_look() -> None:
    app = Doctor()
    app.doctor = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    examinations = Examinations(app, ReadingThreads(), app.clock)  # type: ignore[arg-type]
    wait_for(lambda: examinations.soon() == Unread("ZeroDivisionError", 1000.0), "why it failed")
    app.now += EXAMINED_SECONDS - 1
    assert examinations.soon() == Unread("ZeroDivisionError", 1000.0)


def test_now_names_what_the_doctor_found_and_leads_to_it(
    browse: Browse, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined: list[int] = []

    def doctor(_: object) -> Report:
        examined.append(1)
        return Report(31, [BAD, MILD])

    monkeypatch.setattr("pgqueue.app.App.doctor", doctor)
    browser = browse()
    text = shown(browser, "", "doctor", "snapshot-of-connection a connection holds a snapshot for 3h")
    assert "31 checks" in text
    assert "retention-off" not in text  # that hurts nobody
    assert 'href="./database#doctor"' in browser.page("")
    assert "retention-off" in browser.page("database")
    assert len(examined) == 1
    monkeypatch.setattr("pgqueue.app.App.doctor", lambda _: Report(31, [MILD]))
    assert shown(browse(), "", "doctor", "The doctor finds nothing that hurts.")


def test_queues_show_how_long_jobs_have_waited_in_three_hours(browse: Browse, conn: Conn) -> None:
    browser = browse()
    html = wait_for(lambda: 'class="spark"' in (text := browser.page("queues")) and text, "the small charts")
    rows = {_text(row).split()[0]: row for row in re.findall(r"<tr>(.*?)</tr>", html, re.S)}
    for queue in ("critical", "email", "default"):
        assert len(re.findall(r'<rect class="wait"', rows[queue])) >= 35, queue
    mean = (
        "select sum(wait_seconds) / sum(jobs) from pgqueue.activity"
        " where queue = 'media' and at > now() - interval '3 hours'"
    )
    (top,) = re.findall(r'aria-label="mean wait, at most (\S+) in the last 3h"', rows["media"])
    minutes, _, seconds = top.removesuffix("s").rpartition("m")
    assert scalar(conn, mean) <= 60 * int(minutes or 0) + float(seconds) < 100


def test_small_charts_have_the_mean_of_each_step() -> None:
    chart = waits_of([Wait("q", 0, 10, 5.0), Wait("q", 35, 2, 4.0), Wait("q", 36, 1, 99.0), Wait("q", 1, 0, 0)], SMALL)
    assert chart.top == "2s"
    assert [(bar.height, bar.words) for bar in chart.bars] == [(30.0, "now: 500 ms"), (120.0, "2h55m ago: 2s")]


def test_drain_says_what_is_left_and_when_nothing_is(browse: Browse, shop: Shop, conn: Conn) -> None:
    shop.app.pause(queue="calm")
    shop.app.resume(queue="calm")  # there is a queue, and nothing in it
    browser, operations = browse(), "select count(*) from pgqueue.operation"
    before = scalar(conn, operations)
    due = shop.app.queues.left("media").due
    text = part(browser.page("queues/media/drain"), "left")
    assert "Not drained, and no worker serves it." in text
    assert f"Due {due} " in text
    text = _text(browser.page("queues/default/drain"))
    assert "The queue is paused: its due jobs stay where they are" in text
    assert "Drained. Nothing runs." in text
    assert "pgqueue queues drain default --only-running" in text
    assert "Not drained yet." in part(browser.page("queues/critical/drain"), "left")  # one runs
    assert "Drained. Nothing is due, and nothing runs." in part(browser.page("queues/calm/drain"), "left")
    assert scalar(conn, operations) == before
    for path in ("queues", "queues/media"):
        assert "queues/media/drain" in browser.page(path)
    assert browser.get("queues/nobody/drain").status_code == 404


def test_whoever_has_some_queues_drains_these(browse: Browse) -> None:
    bob = browse(Access.operate("bob", queues={"email"}))
    assert "Drain queue email" in _text(bob.page("queues/email/drain"))
    assert bob.get("queues/media/drain").status_code == 404
    assert 'action="../../queues/email/pause"' in bob.page("queues/email/drain")
    assert 'method="post"' not in browse(Access.read("rita")).page("queues/email/drain")


def test_a_list_of_queues_pauses_and_resumes(browse: Browse, conn: Conn) -> None:
    browser = browse()
    assert 'action="./queues/email/pause"' in browser.page("queues")
    assert 'action="./queues/default/resume"' in browser.page("queues")
    assert "/pause" not in browse(Access.read("rita")).page("queues")


def test_a_schedule_is_paused_until_a_moment_after_a_preview(browse: Browse, shop: Shop, conn: Conn) -> None:
    browser, page = browse(), "schedules/daily~20report/pause"
    text = _text(browser.page(f"{page}?until=7d&catch_up=once"))
    assert "5 ticks would pass" in text
    assert len(re.findall(r"06:00:00 Europe/Paris", text)) == 5
    assert "Pause for 7d" in text
    assert shop.app.schedules.get("daily report").state == "active"
    assert "More than 10 ticks would pass until somebody resumes it" in _text(browser.page(page))
    assert "Paused." in browser.do(page, until="7d", catch_up="once")
    status = shop.app.schedules.get("daily report")
    left = scalar(conn, "select extract(epoch from %s - now())::float8", status.paused_until)
    assert (status.state, status.paused_by) == ("paused", "alice")
    assert 7 * 86400 - 60 < left <= 7 * 86400
    assert scalar(conn, "select resume_with from pgqueue.schedule where name = 'daily report'") == "once"
    row = "select options::text from pgqueue.operation where kind = 'pause' order by id desc limit 1"
    assert scalar(conn, row) == '{"until": "7d", "catch_up": "once"}'
    assert "until" in part(browser.page("schedules"), "schedules")
    browser.do(page, until="2100-01-31T06:00+01:00")
    assert shop.app.schedules.get("daily report").paused_until.isoformat() == "2100-01-31T05:00:00+00:00"  # type: ignore[union-attr]
    browser.do("schedules/daily~20report/resume")


@pytest.mark.parametrize("until", ["soon", "2020-01-01T00:00+00:00", "2100-01-01T00:00"])
def test_an_end_that_cannot_be_used_is_named_above_the_form(browse: Browse, shop: Shop, until: str) -> None:
    browser, page = browse(), "schedules/daily~20report/pause"
    looked = browser.http.get(f"/{page}", params={"until": until})
    assert looked.status_code == 400
    sent = browser.send(page, until=until)
    assert sent.status_code == 422
    for answer in (looked, sent):
        assert "until" in _text(answer.text.partition('role="alert"')[2])[:80]
        assert f'value="{until}"' in answer.text
        assert "would pass" not in answer.text
    assert shop.app.schedules.get("daily report").state == "active"


def test_workers_say_which_tasks_and_versions_they_know(browse: Browse, conn: Conn) -> None:
    had = conn.execute("select tasks, id from pgqueue.worker").fetchall()
    tasks = ["{shop.charge_card,shop.charge_card@2,shop.charge_card@3,shop.old}", "{shop.charge_card,shop.new}"]
    for host, known in zip(("app-1", "app-2"), tasks, strict=True):
        conn.execute("update pgqueue.worker set tasks = %s where host = %s and kind = 'worker'", [known, host])
    try:
        html = browse().page("workers")
    finally:
        conn.cursor().executemany("update pgqueue.worker set tasks = %s where id = %s", had)
    rows = [_text(row) for row in re.findall(r"<tr>(.*?)</tr>", html.partition('id="known"')[2], re.S)][1:]
    assert rows == ["shop.charge_card 3 in 1 , 1 in 1 differs 2 /2", "shop.new 1 1 /2", "shop.old 1 1 /2"]


def test_tasks_about_which_workers_differ_stand_first() -> None:
    one, other = Announced([None] * 2, ["a", "b", "b@2"]), Announced([None], ["a", "b", "c"])  # type: ignore[list-item]
    assert known_tasks([one, other]) == [
        KnownTask("b", 3, [(2, 2), (1, 1)]), KnownTask("c", 1, [(1, 1)]), KnownTask("a", 3, [(1, 3)]),
    ]  # fmt: skip
    assert known_tasks([]) == []
    assert known_tasks([Announced([None], ["mail@shop", "mail@shop@2"])]) == [  # type: ignore[list-item]
        KnownTask("mail@shop", 1, [(2, 1)])
    ]


def test_workers_show_how_many_slots_were_used(browse: Browse, conn: Conn) -> None:
    hours = scalar(conn, "select sum(run_seconds) / 3600 from pgqueue.activity where at > now() - interval '24 hours'")
    text = shown(browse(), "workers", "charts", "hours of work")
    found = re.search(r"top (\S+) slots · last 24h · (\d+) hours of work", text)
    assert found is not None
    assert abs(int(found[2]) - hours) / hours < 0.05  # a step's edge may have passed meanwhile
    assert 'href="./workers?span=30d"' in browse().page("workers")


def test_used_slots_are_the_seconds_that_jobs_ran_in_each_second() -> None:
    steps = [Step(0, "succeeded", 5, 450.0, 0.0), Step(0, "failed", 1, 450.0, 0.0), Step(3, "retried", 1, 1800.0, 0.0)]
    chart = used(steps, Span(900, 4), 4)
    assert (chart.top, chart.total) == ("4 slots", 1)
    assert [(bar.height, bar.words) for bar in chart.bars] == [(30.0, "now: 1 slots"), (60.0, "45m ago: 2 slots")]
    assert used(steps, Span(900, 4), 1).top == "2 slots"  # there were more then


def test_the_database_lists_its_largest_indexes(browse: Browse, conn: Conn) -> None:
    size = scalar(conn, "select pg_relation_size('pgqueue.job_live_ready')")
    text = part(browse().page("database"), "indexes")
    assert f"job_live_ready job_live {size / 1000:.3g} kB" in text
    assert "activity_at activity" in text  # all its days together


def test_a_job_shows_what_its_task_has_called_and_who_has_called_it(browse: Browse, shop: Shop, conn: Conn) -> None:
    from pgqueue import Context

    app = shop.app

    @app.task(name="album.thumb", queue="calls")
    def thumb(photo: int) -> int:
        return photo

    @app.task(name="album.make", queue="calls")
    def make(ctx: Context) -> int:
        return sum(ctx.gather("thumbs", [thumb.s(1), thumb.s(2)]))

    job = make.enqueue()
    done = "select count(*) = 3 from pgqueue.job_finished where queue = 'calls'"
    asyncio.run(work(app, lambda: scalar(conn, done), queues=["calls"], poll_seconds=0.05))
    browser = browse()
    text = part(browser.page(f"jobs/{job.id}"), "enqueued")
    assert re.search(
        r"(\d+) succeeded album\.thumb called by step thumbs (\d+) succeeded album\.thumb called by step thumbs", text
    )
    child = scalar(conn, "select min(id) from pgqueue.job_finished where task = 'album.thumb'")
    assert f"called by {job.id} album.make in step thumbs" in part(browser.page(f"jobs/{child}"), "more")
    scoped = browse(Access.read("bob", queues={"calls"})).page(f"jobs/{job.id}")
    assert "album.thumb" in part(scoped, "enqueued")
    conn.execute("update pgqueue.job_finished set queue = 'elsewhere' where task = 'album.thumb'")
    scoped = browse(Access.read("bob", queues={"calls"})).page(f"jobs/{job.id}")
    assert "2 jobs in other queues." in part(scoped, "enqueued")
    assert "album.thumb" not in scoped


def test_a_job_shows_later_jobs_of_its_trace(browse: Browse, shop: Shop) -> None:
    parent = {"traceparent": f"00-{'4bf92f35' * 4}-00f067aa0ba902b7-01"}
    first = shop.app.using(delay=3600, headers=parent).enqueue("media.notify", {"place": "a"})
    later = shop.app.using(delay=3600, headers=parent).enqueue("media.notify", {"place": "b"})
    shop.app.using(delay=3600).enqueue("media.notify", {"place": "c"})
    text = part(browse().page(f"jobs/{first.id}"), "enqueued")
    assert text.endswith(f"How {later.id} pending media.notify of the same trace")
    assert "none of the next 2000 jobs is of its trace" in part(browse().page(f"jobs/{later.id}"), "enqueued")
    text = part(browse().page(f"jobs/{shop.ids['later']}"), "enqueued")
    assert text.endswith("Its task has enqueued none of the jobs that are kept.")


def test_a_job_says_until_when_its_keys_are_taken(browse: Browse, shop: Shop, conn: Conn) -> None:
    keyed = shop.app.using(delay=3600, idempotency_key="order 7", idempotency_window=7200)
    job = keyed.enqueue("media.notify", {"place": "a"})
    text = part(browse().page(f"jobs/{job.id}"), "more")
    assert re.search(r"idempotency key order 7 taken until \d\d-\d\d \d\d:", text)
    conn.execute("update pgqueue.idempotency_key set job_id = %s where job_id = %s", [shop.ids["later"], job.id])
    assert f"order 7 taken by {shop.ids['later']} until" in part(browse().page(f"jobs/{job.id}"), "more")
    conn.execute("delete from pgqueue.idempotency_key")
    assert "order 7 free again" in part(browse().page(f"jobs/{job.id}"), "more")
    unique = shop.app.using(delay=3600, unique_key="tenant 7").enqueue("media.notify", {"place": "a"})
    assert "It holds its unique key until a worker claims it" in part(browse().page(f"jobs/{unique.id}"), "why")


def test_a_metered_job_in_a_trace_asks_no_more_than_six_questions(
    browse: Browse, shop: Shop, monkeypatch: pytest.MonkeyPatch, conn: Conn
) -> None:
    from tests.edges.dashboard.test_pages import MOST_STATEMENTS, asked_by

    waiting = scalar(conn, "select max(id) from pgqueue.job_live where waits_for = 'turn'")
    members = scalar(conn, "select max(id) from pgqueue.job_live where waits_for = 'jobs'")
    for path in (f"jobs/{waiting}", f"jobs/{members}"):
        assert len(asked_by(browse(), path, monkeypatch)) <= MOST_STATEMENTS, path
