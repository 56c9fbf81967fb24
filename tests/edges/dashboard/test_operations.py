"""Whatever somebody does on the pages is a row of an operation, in the name of whoever did it."""

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from pgqueue import JobFilter
from pgqueue.dashboard import VERBS, Access
from pgqueue.dashboard.routes import DEEDS
from pgqueue.dashboard.verbs import begun
from pgqueue.queries.operations import Operation
from tests.conftest import scalar
from tests.edges.dashboard.conftest import Browser
from tests.edges.dashboard.scene import Shop
from tests.harness import DEADLINE, Conn, add_worker

Browse = Callable[..., Browser]
ROWS = "select kind, filter, options, actor, via, done, error from pgqueue.operation order by id desc limit %s"
ALL = Access("root", VERBS)


def newest(conn: Conn, count: int = 1) -> list[tuple[Any, ...]]:
    return conn.execute(ROWS, [count]).fetchall()


def test_a_pause_is_an_operation_that_says_why(browse: Browse, conn: Conn) -> None:
    browse().do("queues/email/pause", why="the mail server moves", **{"for": "15m"})
    said = {"why": "the mail server moves", "for": "15m"}
    assert newest(conn) == [("pause", {"queue": "email"}, said, "alice", "dashboard", 1, None)]
    browse().do("queues/email/resume")
    assert newest(conn) == [("resume", {"queue": "email"}, {}, "alice", "dashboard", 1, None)]
    text = unescape(browse().page("operations"))
    assert '{"queue": "email"}' in text


def test_each_verb_beside_jobs_leaves_a_row(browse: Browse, shop: Shop, conn: Conn) -> None:
    browser, worker = browse(), add_worker(conn)
    for path, what in (
        ("tasks/shop.send_receipt/pause", {"task": "shop.send_receipt"}),
        ("tasks/shop.send_receipt/resume", {"task": "shop.send_receipt"}),
        ("limits/crm.sync_tenant/pause", {"limit": "crm.sync_tenant"}),
        ("limits/crm.sync_tenant/resume", {"limit": "crm.sync_tenant"}),
        ("schedules/daily~20report/pause", {"schedule": "daily report"}),
        ("schedules/daily~20report/resume", {"schedule": "daily report"}),
        ("schedules/daily~20report/run", {"schedule": "daily report"}),
        (f"workers/{worker}/quiet", {"process": str(worker)}),
        (f"workers/{worker}/resume", {"process": str(worker)}),
        (f"workers/{worker}/stop", {"process": str(worker)}),
    ):
        browser.do(path, key="acme") if path.startswith("limits") else browser.do(path)
        ((kind, named, _, actor, via, done, error),) = newest(conn)
        assert (kind, named, actor, via, done, error) == (
            path.rpartition("/")[2], what, "alice", "dashboard", 1, None
        ), path  # fmt: skip


def test_arguments_of_a_job_that_is_enqueued_are_in_no_row(browse: Browse, conn: Conn) -> None:
    form = {"arg:order_id": "77", "arg:amount": "3", "arg:currency": "", "arg:card_token": "tok_secret"}
    browse().do("tasks/shop.charge_card/enqueue", **form)
    assert newest(conn) == [("enqueue", {"task": "shop.charge_card"}, {}, "alice", "dashboard", 1, None)]


def test_arguments_that_cannot_be_used_are_in_no_row(browse: Browse, shop: Shop, conn: Conn) -> None:
    form = {"arg:order_id": "tok_not_json", "arg:amount": "3"}
    count = scalar(conn, "select count(*) from pgqueue.operation")
    answer = browse().send("tasks/shop.charge_card/enqueue", **form)
    assert answer.status_code == 422
    assert "order_id cannot be used: give JSON" in unescape(answer.text)
    assert scalar(conn, "select count(*) from pgqueue.operation") == count
    form = {"arg:order_id": '"tok_text"', "arg:amount": "3"}
    answer = browse().send("tasks/shop.charge_card/enqueue", **form)
    assert answer.status_code == 422
    assert "order_id: " in unescape(answer.text)
    assert newest(conn)[0][0] == "enqueue"
    assert scalar(conn, "select count(*) from pgqueue.operation where error like '%tok_%'") == 0


def test_what_a_validator_says_of_an_argument_is_in_no_row(browse: Browse, shop: Shop, conn: Conn) -> None:
    browser = browse()
    answer = browser.send("tasks/shop.checked/enqueue", **{"arg:card": "4242"})
    assert "no such card: 4242" in unescape(answer.text)
    ((kind, what, _, _, _, done, error),) = newest(conn)
    assert (kind, what, done) == ("enqueue", {"task": "shop.checked"}, 0)
    assert "4242" not in error
    assert "shop.checked does not take the arguments" in error


def test_an_error_is_shown_to_whoever_sees_arguments(browse: Browse, shop: Shop, conn: Conn) -> None:
    browse().send("queues/email/pause", **{"for": "soon4242"})
    number = scalar(conn, "select max(id) from pgqueue.operation")
    assert "soon4242" in browse().page(f"operations/{number}")
    for path in (f"operations/{number}", "operations"):
        assert "soon4242" not in browse(Access.read("ann", hides=("arguments",))).page(path)


def test_an_edit_of_a_schedule_is_of_no_jobs(browse: Browse, shop: Shop, conn: Conn) -> None:
    conn.execute("""insert into pgqueue.operation (kind, filter, done, ended_at)
                    values ('edit', '{"schedule": "nightly"}', 1, now())""")
    number = scalar(conn, "select max(id) from pgqueue.operation")
    text = browse().page(f"operations/{number}")
    assert "Which jobs" not in text
    assert "<small>jobs</small>" not in text


def test_what_answers_a_form_is_not_kept_up_to_date(browse: Browse, shop: Shop) -> None:
    """The script fetches a page again by its address, and that of a form has no page."""
    job, root = shop.ids["declined"], browse(ALL)
    for answer in (root.send(f"jobs/{job}/reveal"), root.send("queues/email/pause", **{"for": "soon"})):
        assert "data-live" not in answer.text
        assert "data-versions" not in answer.text
    form = root.send("tasks/shop.charge_card/enqueue", **{"arg:order_id": "x"})
    assert form.status_code == 422
    for text in (root.page(f"jobs/{job}"), form.text):
        assert 'data-live="poll"' in text
        assert "data-versions" in text


def test_what_stays_sealed_is_no_hidden_value(browse: Browse, shop: Shop, conn: Conn) -> None:
    job = shop.app.using(delay=3600).enqueue("shop.send_receipt", {"order_id": 5, "to": "x"})
    conn.execute("""update pgqueue.job_live set args = '{"$codec": "k1:AAAA"}' where id = %s""", [job.id])
    page = unescape(browse(ALL).page(f"jobs/{job.id}"))
    assert "sealed (key k1)" in page
    assert "they are sealed, and this app has no key for them" in page
    assert "Show what is hidden" not in page


def test_a_hidden_result_is_offered_to_nobody_who_may_not_see_results(browse: Browse, shop: Shop) -> None:
    def redact(job: Any, path: tuple[str, ...], value: Any) -> Any:
        return "(hidden)" if path[0] == "result" else value

    access = Access("joe", {"reveal"}, hides=("results",))
    job = shop.app.using(delay=3600).enqueue("shop.send_receipt", {"order_id": 5, "to": "x"})
    assert "Show what is hidden" not in browse(access, redact=redact).page(f"jobs/{job.id}")


def test_an_edit_and_a_note_of_a_dead_letter_are_operations(browse: Browse, shop: Shop, conn: Conn) -> None:
    job, browser = str(shop.ids["bug"]), browse()
    browser.do(f"jobs/{job}/annotate", text="Asked Ann")
    assert newest(conn) == [("annotate", {"job": job}, {"text": "Asked Ann"}, "alice", "dashboard", 1, None)]
    browser.do(f"jobs/{job}/edit", **{"arg:order_id": "24", "arg:template": "plain", "then": "redrive"})
    redrive, edit = newest(conn, 2)
    assert redrive[0] == "redrive"
    assert edit == ("edit", {"job": job}, {}, "alice", "dashboard", 1, None)


def test_what_could_not_be_done_says_why(browse: Browse, conn: Conn) -> None:
    assert browse().send("queues/email/pause", **{"for": "soon"}).status_code == 400
    ((kind, what, said, _, _, done, error),) = newest(conn)
    assert (kind, what, said, done) == ("pause", {"queue": "email"}, {"for": "soon"}, 0)
    assert "give a duration" in error
    browse().send("queues/no%00body~00/pause", why="a\0b")
    ((_, what, said, _, _, _, _),) = newest(conn)
    assert "\0" not in what["queue"] + said["why"]


def test_no_row_is_left_open_for_a_worker_to_go_on_with(browse: Browse, conn: Conn) -> None:
    browse().do("queues/email/pause")
    browse().do("queues/email/resume")
    assert scalar(conn, "select count(*) from pgqueue.operation where ended_at is null") == 0


def test_every_form_is_an_operation_of_its_own_or_leaves_one() -> None:
    own = {path for path, deed in DEEDS.items() if deed.of is None}
    assert own == {
        *(f"jobs/{{}}/{verb}" for verb in ("cancel", "retry", "promote", "redrive", "discard", "edit")),
        *(f"preview/{verb}" for verb in ("cancel", "retry", "promote", "redrive", "discard")),
        "tasks/{}/enqueue",  # records what it does once it has read the arguments
    }


def test_hidden_values_are_shown_to_whoever_may_and_asks(browse: Browse, shop: Shop, conn: Conn) -> None:
    job = shop.app.using(delay=3600).enqueue("shop.charge_card", {"order_id": 5, "amount": 1, "card_token": "tok_9"})
    root = browse(ALL, redact=lambda _job, path, value: "(an amount)" if path == ("args", "amount") else value)
    page = root.page(f"jobs/{job.id}")
    assert "tok_9" not in page
    assert "Show what is hidden" in page
    answer = root.send(f"jobs/{job.id}/reveal")
    assert answer.status_code == 200
    text = unescape(answer.text)
    assert '"card_token": "tok_9"' in text
    assert "(an amount)" not in text
    assert "An operation says who has looked" in text
    assert "Show what is hidden" not in text
    assert answer.headers["cache-control"] == "no-store"
    assert newest(conn) == [("reveal", {"job": str(job.id)}, {}, "root", "dashboard", 1, None)]
    assert set(re.findall(r'href="((?:\.\./)*)queues/critical"', text)) == {"../../"}
    assert "tok_9" not in root.page(f"jobs/{job.id}")


def test_nobody_else_sees_what_is_hidden(browse: Browse, shop: Shop, conn: Conn) -> None:
    job, count = shop.ids["declined"], "select count(*) from pgqueue.operation where kind = 'reveal'"
    before = scalar(conn, count)
    for access in (Access.operate("alice"), Access.read("rita"), Access("eve", VERBS - {"reveal"})):
        browser = browse(access)
        assert "Show what is hidden" not in browser.page(f"jobs/{job}")
        assert browser.send(f"jobs/{job}/reveal").status_code == 403
    assert browse(ALL, read_only=True).send(f"jobs/{job}/reveal").status_code == 403
    assert browse(ALL).get(f"jobs/{job}/reveal").status_code == 404
    assert browse(Access("ann", {"reveal"}, queues={"email"})).send(f"jobs/{job}/reveal").status_code == 404
    blind = browse(Access("joe", {"reveal"}, hides=("arguments",)))
    assert "tok_4242" not in blind.send(f"jobs/{job}/reveal").text
    assert scalar(conn, count) == before + 1


@pytest.mark.parametrize("kind", ["pause", "resume", "run", "quiet", "stop", "enqueue", "annotate", "reveal"])
def test_a_worker_leaves_such_rows_alone(shop: Shop, conn: Conn, kind: str) -> None:
    conn.execute("insert into pgqueue.operation (kind, filter) values (%s, '{}')", [kind])
    try:
        from pgqueue.client.bulk import KINDS

        found = shop.app.backend.pools.run(shop.app.queries.operations.find_abandoned(KINDS, 0.0))
        assert found is None
    finally:
        conn.execute("update pgqueue.operation set ended_at = now() where ended_at is null")


@pytest.mark.parametrize("is_small", [True, False])
def test_an_operation_that_is_small_is_shown_as_ended(shop: Shop, conn: Conn, is_small: bool) -> None:
    """After its first batch the end of a small one is a moment away; a large one goes on behind the page."""
    first = shop.app.jobs.cancel(JobFilter(ids=[2**40]))
    ended, answered = replace(first, done=7), threading.Event()

    def work(watch: Callable[[Operation], object]) -> Operation:
        watch(first)
        if is_small:
            threading.Event().wait(0.02)  # the form has seen the first batch by then
        else:
            answered.wait(DEADLINE)
        return ended

    assert begun(work) is (ended if is_small else first)
    answered.set()
