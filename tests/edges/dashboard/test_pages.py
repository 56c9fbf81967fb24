"""The pages: all answer, by few statements, and show what is wrong and nothing that nobody should see."""

import re
import threading
from collections.abc import Callable
from html import unescape
from typing import Any

import psycopg
import pytest

from pgqueue import db
from pgqueue.dashboard import Access
from tests.edges.dashboard.conftest import Browser
from tests.edges.dashboard.paths import DEEDS, pages_of
from tests.edges.dashboard.scene import Shop
from tests.harness import Conn

Browse = Callable[..., Browser]
MOST_STATEMENTS = 6


def test_every_page_answers_with_a_sentence_on_top_and_a_strict_policy(browse: Browse, shop: Shop) -> None:
    browser = browse()
    for path in pages_of(shop):
        answer = browser.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert 'class="sentence bad"' in answer.text, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", answer.text), path


def test_the_sentence_names_what_is_wrong_and_links_to_where_it_is_mended(browse: Browse) -> None:
    text = browse().page()
    found = re.search(r'id="sentence".*?</p>', text, re.S)
    assert found is not None
    sentence = unescape(re.sub(r"<[^>]+>", "", found[0]))
    assert "ueue media is without a worker" in sentence
    assert "process app-3:3988 was lost" in sentence
    assert "jobs failed for good within the hour" in sentence
    assert "queue default is paused while jobs are due" in sentence
    links = re.findall(r'href="([^"]+)"', found[0])
    assert {"./queues/media", "./workers", "./failures"} <= set(links)


def test_all_is_well_where_nothing_is_wrong(server_dsn: str, template: str) -> None:
    from tests.conftest import Databases
    from tests.edges.dashboard.scene import shop_of

    databases = Databases(server_dsn)
    quiet = shop_of(databases.make(template))
    text = Browser(quiet).page()
    assert "<b>All is well.</b> No job waits or runs." in text
    assert 'class="sentence well"' in text
    for path in ("queues", "jobs", "failures", "tasks", "schedules", "workers", "workflows", "limits", "operations"):
        Browser(quiet).page(path)  # the empty states
    quiet.app.close()
    databases.drop_all()


def asked_by(browser: Browser, path: str, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the statements of a page, but for the settings of the look and the pulse, which all pages of a process
    share. A thread beside the page runs others."""
    asked: list[bytes] = []
    run, mine = db.connection.run, threading.get_ident()

    def counting(conn: Any, query: Any) -> Any:
        if b"set_config" not in query.sql and threading.get_ident() == mine:
            asked.append(query.sql)
        return run(conn, query)

    browser.page("-/stale")
    with monkeypatch.context() as patched:
        patched.setattr(db, "run", counting)
        browser.page(path)
    return asked


def test_no_page_asks_more_than_six_questions(browse: Browse, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = browse()
    browser.page("database")  # the doctor has looked, and looks again after a minute
    for path in pages_of(shop):
        asked = asked_by(browser, path, monkeypatch)
        assert len(asked) <= MOST_STATEMENTS, (path, asked)


def test_a_page_writes_nothing(browse: Browse, shop: Shop, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgqueue.dashboard.look import looking

    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), looking(shop.app) as own:
        own.execute("delete from pgqueue.job_live")
    with looking(shop.app) as own:
        row = own.execute("select current_setting('statement_timeout')").fetchone()
        assert row == ("2s",)


def test_without_access_every_path_is_the_same_404(browse: Browse, shop: Shop) -> None:
    nobody = browse()
    nobody.access = None
    answers = {
        (answer.status_code, answer.text)
        for answer in (
            *(nobody.get(path) for path in (*pages_of(shop), "nope", "-/stale", "-/static/dashboard.css", "-/events")),
            *(nobody.http.post(f"/{path}", headers={"Sec-Fetch-Site": "same-origin"}) for path in DEEDS),
        )
    }
    assert answers == {(404, "not found\n")}


def test_what_is_no_access_lets_nobody_through(browse: Browse) -> None:
    browser = browse()
    for given in (True, "alice", {"verbs": "*"}, object()):
        browser.access = given
        assert browser.get().status_code == 404


@pytest.mark.parametrize("how", ["access", "flag"])
def test_who_only_reads_sees_no_button_and_can_do_nothing(browse: Browse, shop: Shop, how: str) -> None:
    reader = browse(Access.read("rita")) if how == "access" else browse(read_only=True)
    for path in pages_of(shop):
        text = reader.page(path)
        assert 'method="post"' not in text, path
        assert "read only" in text
    for path in DEEDS:
        assert reader.send(path).status_code == 403, path


def test_a_database_that_takes_no_writes_makes_the_dashboard_read_only(shop: Shop, dsn: str) -> None:
    from tests.edges.dashboard.scene import shop_of

    standby = shop_of(f"{dsn} options='-c default_transaction_read_only=on'" if "://" not in dsn else _read_only(dsn))
    browser = Browser(standby)
    text = browser.page(f"jobs/{shop.ids['declined']}")
    assert 'method="post"' not in text
    assert browser.send("queues/email/pause").status_code == 403
    standby.app.close()


def _read_only(dsn: str) -> str:
    return psycopg.conninfo.make_conninfo(dsn, options="-c default_transaction_read_only=on")


def test_each_form_needs_its_own_right(browse: Browse) -> None:
    eve = browse(Access("eve", {"pause"}))
    text = eve.page("queues/email")
    assert "Pause…" in text
    assert eve.send("tasks/shop.send_receipt/enqueue").status_code == 403
    assert eve.send("queues/nobody/pause").status_code == 303


def _told(text: str) -> str:
    """Return what a page says, without fractions of seconds, ids of workers and the marks of what it has read, which
    may have any digits."""
    return re.sub(r"\.\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|&#34;[0-9a-f]{12}&#34;", "", text)


def test_secrets_are_not_shown_and_other_parts_by_right(browse: Browse, shop: Shop) -> None:
    declined = f"jobs/{shop.ids['declined']}"
    for path in ("jobs", declined, f"{declined}/edit", "tasks/shop.charge_card", "failures"):
        assert "tok_4242" not in browse().page(path)
    blind = browse(Access.read("rita", hides=("arguments", "results", "tracebacks")))
    for path in ("jobs", declined, "failures", "tasks/shop.charge_card"):
        text = blind.page(path)
        assert "950" not in _told(text), path
        assert "insufficient funds" not in text, path
    assert "19.9" not in blind.page(f"jobs/{shop.ids['charged']}")


def test_whoever_sees_no_arguments_learns_none_by_a_filter(browse: Browse, shop: Shop) -> None:
    blind = browse(Access("rita", {"cancel", "redrive"}, hides=("arguments",)))
    for path in ("jobs?arg.order_id=8", "jobs?arg=order_id%3D8", "preview/cancel?arg.order_id=8"):
        assert browse().get(path).status_code == 200
        refused = blind.get(path)
        assert (refused.status_code, "may not see arguments" in refused.text) == (400, True)
    assert blind.send("preview/redrive?task=shop.*&arg.order_id=8").status_code == 400
    assert 'name="arg"' not in blind.page("jobs?arg=&task=shop.*")


def test_the_apps_own_function_decides_what_else_is_hidden(browse: Browse, shop: Shop) -> None:
    def redact(job: Any, path: tuple[str, ...], value: Any) -> Any:
        return "(an amount)" if path == ("args", "amount") else value

    text = browse(redact=redact).page(f"jobs/{shop.ids['declined']}")
    assert "(an amount)" in text
    assert "950" not in _told(text)


def _by_parts(job: Any, path: tuple[str, ...], value: Any) -> Any:
    """Hide amounts everywhere, orders of one task, addresses by their look, regions by the tags of a job."""
    if path[-1] == "order_id":
        return "hidden" if job.task == "shop.charge_card" else value
    if path[-1] == "region":
        return "hidden" if "eu" in job.tags else value
    return "hidden" if path[-1] == "amount" or "@" in str(value) else value


@pytest.mark.parametrize(
    ("filtered", "said"),
    [
        ("arg.card_token=tok_4242", "argument &#39;card_token&#39; is hidden"),
        ("arg=card_token%3Dtok_4242", "argument &#39;card_token&#39; is hidden"),
        ('arg.card=[{"password": "x"}]', "argument &#39;card&#39; is hidden"),
        ("arg.tenant=7&arg.amount=950", "argument &#39;amount&#39; is hidden"),
        ('arg.order={"lines":[{"amount":1}]}', "argument &#39;order&#39; is hidden"),
        ("arg.to=ann@example.com", "argument &#39;to&#39; is hidden"),
        ("arg.order_id=8&task=shop.charge_card", "argument &#39;order_id&#39; is hidden"),
        ("arg.order_id=8&task=shop.*", "differs by task: name one, too"),
        ("arg.order_id=8", "differs by task: name one, too"),
        ("arg.region=eu", "argument &#39;region&#39; is hidden"),
        ("arg.order_id=8&task=shop.send_receipt", None),
        ('arg.tenant=7&arg.to=nobody&arg.order={"lines":[{"n":1}]}', None),
    ],
)
def test_whoever_may_not_reveal_an_argument_learns_it_by_no_filter(
    browse: Browse, shop: Shop, filtered: str, said: str | None
) -> None:
    verbs = {"cancel", "redrive"}
    olga = browse(Access("olga", verbs), redact=_by_parts)
    for path in (f"jobs?{filtered}", f"preview/cancel?{filtered}"):
        answer = olga.get(path)
        assert answer.status_code == (200 if said is None else 400), answer.text
        assert said is None or said in answer.text
        assert browse(Access("rita", {*verbs, "reveal"}), redact=_by_parts).get(path).status_code == 200
    if said is not None:
        assert olga.send(f"preview/redrive?{filtered}").status_code == 400


def test_the_way_to_older_jobs_is_an_address(browse: Browse) -> None:
    text = browse().page("jobs")
    (following,) = re.findall(r'rel="next" href="\./(jobs\?before=\d+)"', text)
    older = browse().page(following)
    assert set(re.findall(r"jobs/(\d+)\"", text)).isdisjoint(re.findall(r"jobs/(\d+)\"", older))


def test_a_filter_that_cannot_be_read_says_so(browse: Browse) -> None:
    answer = browse().get("jobs?since=yesterday")
    assert answer.status_code == 400
    assert "give an age such as 2h" in answer.text
    assert browse().get("jobs/0").status_code == 400
    assert browse().get("jobs/99999999").status_code == 404
    assert browse().get("workflows?state=odd").status_code == 400


def test_an_argument_stands_in_the_address_by_its_name(browse: Browse) -> None:
    browser = browse()
    pages = [
        browser.page(f"jobs?task=shop.*&{given}")
        for given in ("arg.order_id=8", "arg=order_id=8", 'arg={"order_id": 8}', "arg.order_id=8&arg.x=&arg=")
    ]
    assert len({tuple(_ids(page)) for page in pages}) == 1
    assert len(_ids(pages[0])) == 2
    for page in pages:
        assert 'href="./preview/retry?task=shop.%2A&amp;arg.order_id=8"' in page
        assert '<input type="text" name="arg.order_id" value="8"' in page
        assert '<input type="text" name="arg" value=""' in page
    for both in ("arg.order_id=8&arg.template=plain", "arg.order_id=8&arg=template=plain"):
        (one,) = _ids(browser.page(f"jobs?task=shop.*&{both}"))
        assert str(one) in _ids(pages[0])
    assert "arg.order_id 8" in browser.page("preview/retry?task=shop.*&arg.order_id=8")
    for wrong in ("arg.order_id=8&arg=order_id=9", "arg.=7", "arg=order_id"):
        assert browser.get(f"jobs?{wrong}").status_code == 400, wrong
    assert 'value="order_id"' in browser.get("jobs?arg=order_id&arg.x=1").text  # what was typed stays


def _ids(page: str) -> list[str]:
    return re.findall(r'class="id" href="\./jobs/(\d+)"', page)


def test_a_job_says_why_it_waits_and_how_to_enqueue_another(browse: Browse, shop: Shop) -> None:
    text = unescape(browse().page(f"jobs/{shop.ids['transcode']}"))
    assert "No living worker serves queue media" in text
    text = unescape(browse().page(f"jobs/{shop.ids['later']}"))
    assert 'pgqueue enqueue shop.send_receipt \'{"to": "ann@example.com", "order_id": 7}\'' in text
    assert "select pgqueue.enqueue('shop.send_receipt'" in text


def test_a_job_with_results_of_others_among_its_arguments_is_not_to_be_copied(browse: Browse, shop: Shop) -> None:
    """Its row has not got them: the copy would be a dead letter."""
    done, failed = shop.ids["done workflow"], shop.ids["failed workflow"]
    notify = next(job for job in shop.app.workflows.jobs(done) if job.task == "media.notify")
    assert shop.app.get(notify.id).inputs
    text = unescape(browse().page(f"jobs/{notify.id}"))
    assert "pgqueue enqueue media.notify" not in text
    assert "this argument is the result of other jobs of its workflow" in text
    assert "Enqueue the whole workflow again, or give a value of your own." in text
    first = next(job for job in shop.app.workflows.jobs(failed) if job.task == "media.transcode")
    assert shop.app.get(first.id).inputs == ()
    assert f'<a href="../workflows/{failed}">workflow {failed}</a>' in browse().page(f"jobs/{first.id}")
    assert "pgqueue enqueue media.transcode" in unescape(browse().page(f"jobs/{first.id}"))


def test_failures_show_what_their_arguments_have_in_common(browse: Browse) -> None:
    browser = browse()
    (group,) = re.findall(r'href="\./failures/([^"]+)"[^>]*><span title="[^"]*CardDeclined"', browser.page("failures"))
    text = unescape(browser.page(f"failures/{group}"))
    assert "amount = 950.0" in text
    assert "raise CardDeclined(" in text


def test_files_are_kept_by_their_content(browse: Browse) -> None:
    browser = browse()
    (path,) = re.findall(r'href="\./(-/static/dashboard\.css\?v=\w+)"', browser.page())
    answer = browser.get(path)
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert browser.get("-/static/../dashboard.py").status_code == 404
    assert browser.get("-/static/%2e%2e%2fdashboard.py").status_code == 404
