"""What the forms do: the same as the command line, in the name of whoever sends them; and what they refuse."""

import re
from collections.abc import Callable
from html import unescape

import pytest

from pgqueue.jobs.job import JobState
from tests.client.test_dead import add_dead
from tests.conftest import scalar
from tests.edges.dashboard.conftest import HOST, SAME_SITE, Browser
from tests.edges.dashboard.scene import Shop
from tests.harness import Conn

Browse = Callable[..., Browser]


def last_operation(conn: Conn) -> tuple[str, str, str, int]:
    row = conn.execute("select kind, actor, via, done from pgqueue.operation order by id desc limit 1").fetchone()
    assert row is not None
    return row[0], row[1], row[2], row[3]


def test_a_dead_letter_is_edited_and_brought_back_with_one_form(browse: Browse, shop: Shop, conn: Conn) -> None:
    browser, job = browse(), shop.ids["bug"]
    form = browser.page(f"jobs/{job}/edit")
    assert 'value="fancy"' in form
    text = browser.do(f"jobs/{job}/edit", **{"arg:order_id": "24", "arg:template": "plain", "then": "redrive"})
    assert "Brought back" in text
    found = shop.app.get(job)
    assert found.state == JobState.PENDING
    assert found.args == {"order_id": 24, "template": "plain"}
    assert last_operation(conn) == ("redrive", "alice", "dashboard", 1)
    reason = scalar(conn, "select reason from pgqueue.transition where job_id = %s and reason like 'edited%%'", job)
    assert reason == "edited by alice"


def test_what_the_task_refuses_is_said_above_the_form_which_keeps_what_was_typed(browse: Browse, shop: Shop) -> None:
    job = shop.ids["declined"]
    answer = browse().send(f"jobs/{job}/edit", **{"arg:order_id": "many", "arg:amount": "12"})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert 'value="many"' in answer.text
    answer = browse().send(f"jobs/{job}/edit", **{"arg:order_id": '"many"', "arg:amount": "12"})
    assert answer.status_code == 422
    assert "order_id" in answer.text
    assert shop.app.get(job).args["order_id"] == 24


def test_an_edit_of_a_waiting_job_is_an_operation_and_keeps_what_is_hidden(
    browse: Browse, shop: Shop, conn: Conn
) -> None:
    job = shop.app.using(delay=3600).enqueue("shop.charge_card", {"order_id": 5, "amount": 1, "card_token": "tok_1"})
    browser = browse()
    browser.do(
        f"jobs/{job.id}/edit", **{"arg:order_id": "6", "arg:amount": "1", "arg:currency": "", "arg:card_token": ""}
    )
    assert shop.app.get(job.id).args == {"order_id": 6, "amount": 1, "card_token": "tok_1"}
    assert last_operation(conn) == ("edit", "alice", "dashboard", 1)
    text = browser.do(f"jobs/{job.id}/edit", **{"arg:order_id": "6", "arg:amount": "1.0", "arg:currency": ""})
    assert "Nothing was changed" in text


def test_one_job_is_promoted_cancelled_and_comes_back(browse: Browse, shop: Shop, conn: Conn) -> None:
    browser, job = browse(), shop.ids["later"]
    browser.do(f"jobs/{job}/promote")
    assert last_operation(conn) == ("promote", "alice", "dashboard", 1)
    browser.do(f"jobs/{job}/cancel")
    assert shop.app.get(job).state == JobState.CANCELLED
    browser.do(f"jobs/{job}/retry")
    assert shop.app.get(job).state == JobState.PENDING
    assert last_operation(conn) == ("retry", "alice", "dashboard", 1)
    text = browser.do(f"jobs/{shop.ids['charged']}/cancel")
    assert "Nothing was done" in text


def test_many_jobs_are_previewed_and_then_done_as_the_address_says(browse: Browse, shop: Shop, conn: Conn) -> None:
    for number in range(7):
        shop.app.using(delay=3600, tags=["old"]).enqueue("shop.send_receipt", {"order_id": number, "to": "x"})
    browser = browse()
    text = browser.page("preview/cancel?tag=old")
    assert "Cancel these 7 jobs" in text
    text = browser.do("preview/cancel?tag=old", reason="the mailing is off", limit="5")
    assert "The operation has begun" in text
    assert last_operation(conn) == ("cancel", "alice", "dashboard", 5)
    assert scalar(conn, "select count(*) from pgqueue.job where reason = 'the mailing is off'") == 5
    answer = browser.send("preview/cancel")
    assert answer.status_code == 422  # a filter that fits all
    assert browser.send("preview/cancel?tag=old", limit="-3").status_code == 422


def test_a_preview_says_which_jobs_it_left_out_and_offers_the_verb_all_the_same(
    browse: Browse, shop: Shop, conn: Conn
) -> None:
    first = 90_000_001
    add_dead(conn, first, first + 1500, task="shop.charge_card", tags=["refused"], args='{"order_id": "no"}')
    add_dead(conn, first + 2000, task="shop.charge_card", tags=["refused"], args='{"order_id": 1, "amount": 1}')
    browser = browse()
    text = browser.page("preview/redrive?tag=refused")
    assert f"jobs with ids from {first + 1001} on were not all looked at" in text
    assert "None of those that were looked at would be taken now." in text
    assert "Redrive all that fit" in text
    browser.do("preview/redrive?tag=refused")
    assert last_operation(conn)[:3] == ("redrive", "alice", "dashboard")
    shop.app.operations.resume(shop.app.operations.list(1)[0].id)  # as a worker goes on with it
    assert last_operation(conn)[3] == 1
    conn.execute("delete from pgqueue.dead_letter where tags = array['refused']")


def test_a_discard_needs_a_reason(browse: Browse, shop: Shop, conn: Conn) -> None:
    browser = browse()
    job = shop.app.dead.list(_all_dead(), 1)[0].id
    assert browser.send(f"jobs/{job}/discard").status_code == 400
    browser.do(f"jobs/{job}/annotate", text="Asked Ann <b>twice</b>")
    assert "Asked Ann &lt;b&gt;twice&lt;/b&gt;" in browser.page(f"jobs/{job}")
    browser.do(f"jobs/{job}/discard", reason="a test order")
    assert str(shop.app.get(job).reason).startswith("discarded by alice")


def _all_dead():  # type: ignore[no-untyped-def]
    from pgqueue.jobs.dead_filter import DeadFilter

    return DeadFilter(task="shop.charge_card")


def test_queues_tasks_limits_and_schedules_are_paused_and_go_on(browse: Browse, shop: Shop, conn: Conn) -> None:
    browser = browse()
    browser.do("queues/email/pause", why="the mail server moves", **{"for": "15m"})
    assert "Paused by alice" in browser.page("queues/email")
    browser.do("queues/email/resume")
    assert scalar(conn, "select paused_at from pgqueue.queue where name = 'email'") is None
    browser.do("tasks/shop.send_receipt/pause")
    assert "Paused by alice" in browser.page("tasks/shop.send_receipt")
    browser.do("tasks/shop.send_receipt/resume")
    browser.do("limits/crm.sync_tenant/pause", key="acme")
    assert ("limit", "acme", "alice") in {(p.kind, p.key, p.by) for p in shop.app.pauses()}
    browser.do("limits/crm.sync_tenant/resume", key="acme")
    browser.do("schedules/daily~20report/pause")
    assert shop.app.schedules.get("daily report").paused_by == "alice"
    browser.do("schedules/daily~20report/resume")
    text = browser.do("schedules/daily~20report/run")
    assert "shop.daily_report" in text
    assert browser.send("queues/email/pause", **{"for": "soon"}).status_code == 400


def test_workers_are_asked_and_workflows_come_back(browse: Browse, shop: Shop, conn: Conn) -> None:
    browser = browse()
    worker = scalar(conn, "select id from pgqueue.worker where host = 'app-1' and kind = 'worker'")
    browser.do(f"workers/{worker}/quiet")
    asked = conn.execute("select requested, requested_by from pgqueue.worker where id = %s", [worker]).fetchone()
    assert asked == ("quiet", "alice")
    browser.do(f"workflows/{shop.ids['failed workflow']}/retry")
    assert shop.app.workflows.get(shop.ids["failed workflow"]).state == "running"
    browser.do(f"workflows/{shop.ids['workflow']}/cancel")
    assert shop.app.workflows.get(shop.ids["workflow"]).state == "cancelled"


def test_a_job_is_enqueued_by_a_form_of_the_tasks_arguments(browse: Browse, shop: Shop) -> None:
    browser = browse()
    form = browser.page("tasks/shop.charge_card/enqueue")
    assert '<option value="EUR"' in form
    text = browser.do(
        "tasks/shop.charge_card/enqueue",
        **{"arg:order_id": "9007199254740993", "arg:amount": "2.5", "arg:currency": "USD"},
    )
    assert "9007199254740993" in text
    (job,) = re.findall(r"<title>Job (\d+)", text)
    assert shop.app.get(int(job)).args == {"order_id": 9007199254740993, "amount": 2.5, "currency": "USD"}
    answer = browser.send("tasks/shop.charge_card/enqueue", **{"arg:amount": "2.5"})
    assert answer.status_code == 422
    assert "order_id" in unescape(answer.text)


def test_forms_do_what_they_ask_beside_the_transaction_of_the_request(browse: Browse, shop: Shop) -> None:
    def of_none() -> object:
        raise LookupError("no session here")

    browser = browse()
    shop.app.bind(of_none, required=True)
    try:
        text = browser.do("tasks/shop.charge_card/enqueue", **{"arg:order_id": "5", "arg:amount": "2.5"})
    finally:
        shop.app.binding = None
    (job,) = re.findall(r"<title>Job (\d+)", text)
    assert shop.app.get(int(job)).args["order_id"] == 5


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({}, True),
        ({"Origin": "http://evil.example"}, True),
        ({"Origin": "null"}, True),
        (SAME_SITE, False),
        ({"Origin": HOST}, False),
    ],
)
def test_a_form_from_elsewhere_does_nothing(browse: Browse, shop: Shop, headers: dict[str, str], token: bool) -> None:
    browser = browse()
    form = {"form_token": browser.token()} if token else {"form_token": Browser(shop).token()}
    answer = browser.http.post("/queues/critical/pause", data=form, headers=headers)
    assert answer.status_code == 403
    assert "Nothing was done" in answer.text
    assert all(pause.name != "critical" for pause in shop.app.pauses())


def test_a_form_from_an_old_browser_is_known_by_its_origin(browse: Browse, shop: Shop) -> None:
    browser = browse()
    answer = browser.send("queues/old/pause", headers={"Origin": HOST})
    assert answer.status_code == 303
    shop.app.resume(queue="old")


def test_looking_changes_nothing(browse: Browse, shop: Shop) -> None:
    for path in ("queues/critical/pause", f"jobs/{shop.ids['running']}/cancel", "preview/cancel"):
        answer = browse().get(path)
        assert answer.status_code in (200, 400, 404)
    assert shop.app.get(shop.ids["running"]).cancel_requested_at is None
    assert browse().http.request("DELETE", "/jobs/1").status_code == 405
