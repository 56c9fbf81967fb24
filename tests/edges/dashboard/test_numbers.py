"""What the pages say of spans of time: charts that a reader chooses, a week ago beside now, failures by day."""

import re
from collections.abc import Callable
from html import unescape

import pytest

from pgqueue.dashboard.charts import SPANS
from pgqueue.dashboard.formats import NONE
from pgqueue.dashboard.pages.failures import days_of
from pgqueue.queries.dashboard import FailedDay
from tests.conftest import scalar
from tests.edges.dashboard.conftest import Browser
from tests.edges.dashboard.scene import Shop
from tests.harness import Conn, wait_for

Browse = Callable[..., Browser]


def _text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).replace("\u202f", "").split())


def read(browser: Browser, path: str) -> str:
    """Return a page whose numbers have been read: those of a long span are read beside it."""
    found: str = wait_for(lambda: "being read" not in (text := browser.page(path)) and text, "the numbers")
    return found


@pytest.mark.parametrize("path", ["", "queues/critical", "tasks/shop.charge_card"])
def test_charts_show_the_span_that_is_chosen(browse: Browse, path: str) -> None:
    browser = browse()
    for span, chosen in SPANS.items():
        text = read(browser, f"{path}?span={span}")
        assert f'?span={span}" aria-current="true"' in text
        assert re.search(rf'aria-label="Attempts that ended, in \w+ each, last {span}: [\d\u202f]+ in all"', text)
        bars = len(re.findall(r"<rect", text.partition('id="charts"')[2].partition("</section>")[0]))
        assert chosen.steps / 3 < bars < 5 * chosen.steps, span
    assert browser.get(f"{path}?span=2h").status_code == 400


@pytest.mark.usefixtures("same_day")
def test_now_shows_today_beside_the_same_weekday(browse: Browse, conn: Conn) -> None:
    midnight = "(now() at time zone 'UTC')::date::timestamp at time zone 'UTC'"
    ended = (
        "select coalesce(sum(jobs), 0) from pgqueue.activity where outcome in ('succeeded', 'retried', 'failed') and "
    )
    conn.execute(
        "insert into pgqueue.activity select now() - make_interval(days => days), gen_random_uuid(), 't', 'q',"
        " 'succeeded', 3, 1, 2, '{3}', '{3}' from unnest(array[0, 7]) as days"
    )
    week = scalar(conn, f"{ended} at >= {midnight} - interval '7 days' and at <= now() - interval '7 days'")
    today = scalar(conn, f"{ended} at >= {midnight} and at <= now()")
    part = _text(read(browse(), "").partition('id="week"')[2].partition("</section>")[0])
    found = re.search(r"Attempts that ended (\d+) (\d+) then", part)
    assert found is not None, part
    assert int(found[1]) == pytest.approx(today, rel=0.05)  # a minute's row may have come meanwhile
    assert int(found[2]) == pytest.approx(week, rel=0.05)
    assert re.search(r"95 % waited at most \S+", part)


def test_a_queue_names_the_tasks_that_ran_in_it(browse: Browse) -> None:
    text = browse().page("queues/default").partition('id="tasks"')[2].partition("</section>")[0]
    assert re.findall(r'class="name" href="\.\./tasks/([^"]+)"', text) == ["shop.render_invoice", "crm.sync_tenant"]


def test_failures_are_counted_by_task_and_day(browse: Browse, conn: Conn) -> None:
    text = browse().page("failures").partition('id="days"')[2].partition("</section>")[0]
    rows = [_text(row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.S)]
    dead = scalar(conn, "select count(*) from pgqueue.dead_letter where task = 'shop.render_invoice'")
    (row,) = [row for row in rows if row.startswith("shop.render_invoice")]
    assert row.endswith(f" {dead}")


def test_a_group_that_is_new_within_the_hour_says_so(browse: Browse, conn: Conn) -> None:
    assert '<span class="tag bad">new</span>' in browse().page("failures")
    conn.execute("update pgqueue.dead_letter set failed_at = failed_at - interval '2 hours'")
    try:
        assert '<span class="tag bad">new</span>' not in browse().page("failures")
    finally:
        conn.execute("update pgqueue.dead_letter set failed_at = failed_at + interval '2 hours'")


def test_a_group_is_not_new_where_older_dead_letters_were_not_read(
    browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the page lists fewer groups than were read."""
    for module in ("pgqueue.queries.dashboard", "pgqueue.dashboard.pages.failures"):
        monkeypatch.setattr(f"{module}.MOST_FAILURES", 10)
    monkeypatch.setattr("pgqueue.dashboard.pages.failures.MOST_GROUPS", 1)
    text = browse().page("failures")
    assert '<span class="tag bad">new</span>' not in text
    assert "Groups are made of the newest 10 dead letters." in text
    for module in ("pgqueue.queries.dashboard", "pgqueue.dashboard.pages.failures"):
        monkeypatch.setattr(f"{module}.MOST_FAILURES", 1000)
    assert '<span class="tag bad">new</span>' in browse().page("failures")


def test_days_go_back_a_week_and_the_worst_task_stands_first() -> None:
    found = [
        FailedDay("a", 0, 2),
        FailedDay("b", 6, 5),
        FailedDay("a", 1, 1),
        FailedDay("b", 7, 9),
        FailedDay("c", -1, 3),
    ]
    assert days_of(found) == [("b", [0, 0, 0, 0, 0, 0, 5]), ("a", [2, 1, 0, 0, 0, 0, 0])]


def test_the_database_says_how_each_day_has_grown(browse: Browse) -> None:
    text = browse().page("database").partition('id="growth"')[2].partition("</section>")[0]
    rows = {row.split()[0]: row for row in (_text(row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.S))}
    assert {"activity", "job_finished", "transition"} <= rows.keys()
    assert re.fullmatch(r"activity( [\d.]+ [kM]B){7}", rows["activity"])  # the shop's week
    assert NONE in rows["job_finished"]  # it has finished no job before yesterday


def test_tasks_name_versions_that_no_worker_knows(browse: Browse, conn: Conn) -> None:
    assert 'id="parked"' not in browse().page("tasks")
    conn.execute(
        "insert into pgqueue.job_live (task, queue, state, waits_for, headers) select 'shop.gone', 'email', 'blocked',"
        " 'task', '{\"$version\": \"3\"}' from generate_series(1, 4)"
    )
    try:
        part = browse().page("tasks").partition('id="parked"')[2].partition("</section>")[0]
        assert "shop.gone 3 4" in _text(part)
    finally:
        conn.execute("delete from pgqueue.job_live where task = 'shop.gone'")


def test_schedules_show_what_fires_next(browse: Browse, shop: Shop) -> None:
    shop.app.schedules.create("nightly", "shop.daily_report", "0 3 * * *")
    try:
        text = browse().page("schedules")
    finally:
        shop.app.schedules.delete("nightly")
    part = _text(text.partition('id="calendar"')[2].partition("</section>")[0])
    assert "More than once an hour, and not listed: sync tenants" in part
    assert "nightly shop.daily_report" in part
    assert "month's end" not in part  # it is paused
    assert 'aria-label="more than 96 ticks in 24 hours"' in text


def test_workers_say_what_they_run_and_which_duty_hangs(browse: Browse, shop: Shop, conn: Conn) -> None:
    worker = "host = 'app-1' and kind = 'worker'"
    conn.execute(f'update pgqueue.worker set duties = \'{{"claim": 9000.0, "resolve": 0.1}}\' where {worker}')
    try:
        text = browse().page("workers")
    finally:
        conn.execute(f"update pgqueue.worker set duties = '{{}}' where {worker}")
    assert f'href="./jobs/{shop.ids["running"]}"' in text
    assert "claim hangs for 2h30m" in _text(text)
    assert "resolve hangs" not in _text(text)


def test_workers_count_what_is_not_listed(browse: Browse, shop: Shop, conn: Conn) -> None:
    many = (
        "insert into pgqueue.job_live (task, queue, state, attempt, lease, claimed_at, worker_id)"
        " select 'many', 'many', 'running', 1, 1, now(), w.id from pgqueue.worker w, generate_series(1, %s)"
        " where w.host = %s and kind = 'worker'"
    )
    try:
        conn.execute(many, [2, "app-1"])
        assert re.search(r"runs \d+ many , \d+ many , \d+ shop\.charge_card (?!and)", _text(browse().page("workers")))
        conn.execute(many, [48, "app-2"])
        text = _text(browse().page("workers"))
        assert "and 44 more" in text  # of app-2; of app-1, two of three are among the newest of all
        assert re.search(r"runs \d+ many , \d+ many and 1 more", text)
        conn.execute(many, [2, "app-2"])
        text = _text(browse().page("workers"))
        assert "runs 3 jobs" in text
        assert "and 46 more" in text
    finally:
        conn.execute("delete from pgqueue.job_live where task = 'many'")


def test_a_job_of_a_schedule_names_it_and_its_tick(browse: Browse, conn: Conn) -> None:
    job = scalar(
        conn, "select job_id from pgqueue.schedule_fire where schedule = 'daily report' and job_id is not null"
    )
    text = browse().page(f"jobs/{job}")
    assert '<a class="name" href="../schedules/daily~20report">daily report</a>' in text
    assert "tick of 20" in text
