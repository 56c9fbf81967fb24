"""An access to some queues: these are there, with their jobs, and nothing else is."""

import re
from collections.abc import Callable
from html import unescape

import pytest

from pgqueue.dashboard import Access
from pgqueue.errors import InvalidOption
from tests.conftest import scalar
from tests.edges.dashboard.conftest import Browser
from tests.edges.dashboard.paths import DEEDS, pages_of
from tests.edges.dashboard.scene import Shop
from tests.harness import Conn

Browse = Callable[..., Browser]
EMAIL = Access.operate("eve", queues={"email"})


def queue_of(conn: Conn, job: int) -> str:
    return str(scalar(conn, "select queue from pgqueue.job where id = %s", job))


def test_no_page_shows_a_job_or_a_queue_of_others(browse: Browse, shop: Shop, conn: Conn) -> None:
    eve = browse(EMAIL)
    shown = set()
    for path in pages_of(shop):
        answer = eve.get(path)
        text = unescape(answer.text)
        for job in re.findall(r"/jobs/(\d+)\"", text):
            if not path.startswith("jobs/"):
                assert queue_of(conn, int(job)) == "email", (path, job)
        if answer.status_code == 200:
            shown.add(path)
            assert not re.search(r"/queues/(critical|media|default)\"", text), path
    mine = {path for path in pages_of(shop) if (found := re.match(r"jobs/(\d+)", path)) and is_mine(conn, found[1])}
    bulk = {"preview/redrive?task=shop.*", "preview/discard?task=shop.render_invoice"}
    assert mine
    assert shown == {"", "queues", "jobs", "jobs?state=failed", "jobs?task=shop.*&arg=order_id=8", *bulk, *mine}


def is_mine(conn: Conn, job: str) -> bool:
    return queue_of(conn, int(job)) == "email"


def test_a_job_of_others_is_as_one_that_does_not_exist(browse: Browse, shop: Shop) -> None:
    eve = browse(EMAIL)
    answers = [eve.get(f"jobs/{job}") for job in (shop.ids["declined"], 99_999_999)]
    assert {answer.status_code for answer in answers} == {404}
    words = {re.sub(r".*<main.*?>(.*)</main>.*", r"\1", answer.text, flags=re.S) for answer in answers}
    assert len(words) == 1


def test_no_form_reaches_what_is_not_in_them(browse: Browse, shop: Shop, conn: Conn) -> None:
    eve, declined = browse(EMAIL), shop.ids["declined"]
    count = "select count(*) from pgqueue.transition"
    before, operations = scalar(conn, count), scalar(conn, "select count(*) from pgqueue.operation")
    ours = ("preview/", "queues/email/")
    for path in DEEDS:
        if not path.startswith(ours):
            assert eve.send(path).status_code in (403, 404), path
    for verb in ("retry", "redrive", "discard", "edit", "cancel", "promote", "annotate"):
        assert eve.send(f"jobs/{declined}/{verb}", reason="r", text="t").status_code == 404
    assert eve.send("queues/critical/pause").status_code == 404
    assert eve.send("preview/redrive?queue=critical").status_code == 404
    assert scalar(conn, count) == before
    assert scalar(conn, "select count(*) from pgqueue.operation") == operations


def test_what_is_in_them_can_be_done(browse: Browse, shop: Shop, conn: Conn) -> None:
    eve = browse(EMAIL)
    assert "Paused by eve" in eve.do("queues/email/pause", why="the mail server moves")
    assert "Resumed" in eve.do("queues/email/resume")
    mine = shop.app.using(delay=3600, tags=["mine"]).enqueue("shop.send_receipt", {"order_id": 1, "to": "x"})
    theirs = shop.app.using(delay=3600, tags=["mine"], queue="default").enqueue(
        "shop.send_receipt", {"order_id": 2, "to": "x"}
    )
    text = eve.do("preview/cancel?tag=mine")
    assert "The operation has begun" in text
    assert scalar(conn, "select state from pgqueue.job where id = %s", mine.id) == "cancelled"
    assert scalar(conn, "select state from pgqueue.job where id = %s", theirs.id) == "pending"


def test_of_several_queues_the_first_is_shown_unless_another_is_named(browse: Browse, shop: Shop, conn: Conn) -> None:
    both = browse(Access.read("ann", queues={"media", "critical"}))
    for path, queue in (("jobs", "critical"), ("jobs?queue=media", "media")):
        jobs = re.findall(r"/jobs/(\d+)\"", both.page(path))
        assert jobs
        assert {queue_of(conn, int(job)) for job in jobs} == {queue}
    assert both.get("jobs?queue=email").status_code == 404
    sentence = re.sub(r"<[^>]+>", "", both.page("queues"))
    assert "media is without a worker" in sentence
    assert "default is paused" not in sentence
    assert "was lost" not in sentence


@pytest.mark.parametrize("given", ["email", (), [""], [7], 7, ["tenant-*"]])
def test_what_are_no_names_of_queues_is_refused(given: object) -> None:
    with pytest.raises(InvalidOption):
        Access.read("ann", queues=given)  # type: ignore[arg-type]
