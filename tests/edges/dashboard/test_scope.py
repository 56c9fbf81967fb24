"""An access to some queues: these are there, with their jobs, and nothing else is."""

import asyncio
import re
from collections.abc import Callable
from html import unescape

import pytest

from pgqueue import chain, group
from pgqueue.dashboard import Access
from pgqueue.errors import InvalidOption
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job_filter import JobFilter
from tests.conftest import scalar, work
from tests.edges.dashboard.conftest import Browser
from tests.edges.dashboard.paths import DEEDS, pages_of
from tests.edges.dashboard.scene import Shop
from tests.harness import Conn, add_worker, wait_for

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
    assert shown == {"", "queues", "jobs", "jobs?state=failed", "jobs?task=shop.*&arg.order_id=8", *bulk, *mine}


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


LETTERS = Access.operate("eve", queues={"letters"})
STATES = "select array_agg(state order by id) from pgqueue.job where id = any(%s)"
OPERATIONS = "select count(*) from pgqueue.operation"


def states(conn: Conn, jobs: list[int]) -> list[str]:
    found: list[str] = scalar(conn, STATES, jobs)
    return found


def two_dead(shop: Shop, conn: Conn, mine: str = "letters", theirs: str = "payroll") -> list[int]:
    """Let both jobs of a workflow fail, the first of which is in a queue of the access."""
    bad = {"video": "a.mov", "size": "8K"}
    parts = [shop.transcode.using(queue=queue, max_attempts=1).s(**bad) for queue in (mine, theirs)]
    jobs = sorted(group(parts).enqueue().jobs)
    ended = "select count(*) = 2 from pgqueue.dead_letter where id = any(%s)"
    asyncio.run(work(shop.app, lambda: scalar(conn, ended, jobs), queues=["letters", "payroll"], poll_seconds=0.05))
    return jobs


@pytest.mark.parametrize("path", ["redrive", "retry", "edit"])
def test_a_job_does_not_bring_back_jobs_of_other_queues(browse: Browse, shop: Shop, conn: Conn, path: str) -> None:
    jobs, eve = two_dead(shop, conn), browse(LETTERS)
    before = scalar(conn, OPERATIONS)
    answer = eve.send(f"jobs/{jobs[0]}/{path}", **{"then": "redrive", "arg:video": "b.mov", "arg:size": "720p"})
    assert answer.status_code == 403
    assert "jobs in other queues that would run again" in answer.text
    assert str(jobs[1]) not in re.findall(r"\d+", re.sub(r"<[^>]+>", " ", answer.text))
    assert states(conn, jobs) == ["failed", "failed"]
    assert shop.app.get(jobs[0]).args["video"] == "a.mov"
    assert scalar(conn, OPERATIONS) == before
    browse(Access.operate("bob", queues={"letters", "payroll"})).do(f"jobs/{jobs[0]}/redrive")
    assert states(conn, jobs) == ["pending", "pending"]
    shop.app.cancel(jobs[0])
    shop.app.cancel(jobs[1])
    if path == "retry":
        assert eve.send(f"jobs/{jobs[0]}/retry").status_code == 403
        assert states(conn, jobs) == ["cancelled", "cancelled"]


@pytest.mark.parametrize("path", ["preview/redrive?queue=letters", "preview/retry?queue=letters&state=failed"])
def test_many_jobs_do_not_bring_back_jobs_of_other_queues(browse: Browse, shop: Shop, conn: Conn, path: str) -> None:
    jobs, own = two_dead(shop, conn), two_dead(shop, conn, "letters", "letters")
    browse(LETTERS).do(path)
    newest = "from pgqueue.operation order by id desc limit 1"
    wait_for(lambda: scalar(conn, f"select ended_at is not null {newest}"), "the end of the operation")
    ((done, skipped),) = conn.execute(f"select done, skipped {newest}").fetchall()
    assert (states(conn, own), states(conn, jobs)) == (["pending", "pending"], ["failed", "failed"])
    assert done >= 2
    assert skipped >= 1
    for job in own:
        shop.app.cancel(job)


def test_a_workflow_of_which_only_own_jobs_failed_comes_back(browse: Browse, shop: Shop, conn: Conn) -> None:
    parts = [shop.transcode.using(queue=queue, max_attempts=1) for queue in ("payroll", "letters")]
    made = group([parts[0].s(video="a.mov"), parts[1].s(video="a.mov", size="8K")]).enqueue()
    jobs = sorted(made.jobs)
    ended = "select count(*) = 2 from pgqueue.job where id = any(%s) and state in ('succeeded', 'failed')"
    asyncio.run(work(shop.app, lambda: scalar(conn, ended, jobs), queues=["letters", "payroll"], poll_seconds=0.05))
    browse(LETTERS).do(f"jobs/{jobs[1]}/redrive")
    assert states(conn, jobs) == ["succeeded", "pending"]
    shop.app.cancel(jobs[1])


def test_the_texts_of_a_page_name_no_other_queue_and_no_job_in_one(browse: Browse, shop: Shop, conn: Conn) -> None:
    worker = add_worker(conn)
    conn.execute("update pgqueue.worker set queues = '{letters,payroll,tenant-*}' where id = %s", [worker])
    first = group(
        [
            shop.transcode.using(queue="payroll", delay=3600).s(video="secret.mov"),
            shop.transcode.using(queue="letters", delay=3600).s(video="mine.mov"),
        ]
    )
    made = chain(first, shop.publish.using(queue="letters").s(to="tv")).enqueue()
    queues = {job: queue_of(conn, job) for job in made.jobs}
    theirs = next(job for job, queue in queues.items() if queue == "payroll")
    eve = browse(LETTERS)
    for path in ("", "queues", "queues/letters", "jobs", *(f"jobs/{job}" for job in queues if job != theirs)):
        text = unescape(re.sub(r"<[^>]+>", " ", eve.page(path)))
        assert "payroll" not in text, path
        assert "tenant-" not in text, path
        assert str(theirs) not in re.findall(r"\d+", text), path
    assert "letters" in eve.page("queues/letters")


def test_parents_in_other_queues_are_counted_and_not_named(browse: Browse, shop: Shop, conn: Conn) -> None:
    head = shop.transcode.using(queue="payroll", delay=3600).s(video="secret.mov")
    child = chain(head, shop.notify.using(queue="letters").s()).enqueue()
    theirs, mine = sorted(child.jobs)
    text = unescape(browse(LETTERS).page(f"jobs/{mine}"))
    assert "It waits for 1 of 1: 1 other." in text
    assert f"media.transcode {theirs}" not in text
    assert f"It waits for 1 of 1: media.transcode {theirs} (pending) to succeed." in unescape(
        browse().page(f"jobs/{mine}")
    )


@pytest.mark.parametrize("path", [("letters", "letters"), ("letters", "payroll"), ("payroll", "letters")])
def test_a_skipped_job_does_not_name_a_parent_in_another_queue(
    browse: Browse, shop: Shop, conn: Conn, path: tuple[str, str]
) -> None:
    queues = (*path, "letters")
    conn.execute("select setval('pgqueue.job_id', greatest(nextval('pgqueue.job_id'), 7000000))")  # ids that no time is
    first = shop.transcode.using(queue=queues[0], delay=3600).s(video="secret.mov")
    rest = [shop.notify.using(queue=queue).s() for queue in queues[1:]]
    head, middle, mine = sorted(chain(first, *rest).enqueue().jobs)
    shop.app.jobs.cancel(JobFilter(ids=[head]), by="bob", reason="the takeover fell through")
    skipped = "select count(*) = 2 from pgqueue.job where id = any(%s) and reason = 'skipped'"
    both = [middle, mine]
    asyncio.run(work(shop.app, lambda: scalar(conn, skipped, both), queues=["letters", "payroll"], poll_seconds=0.05))
    whole = unescape(browse().page(f"jobs/{mine}"))
    assert f"because of media.transcode {head}" in whole
    assert "the takeover fell through" in whole
    text = unescape(re.sub(r"<[^>]+>", " ", browse(LETTERS).page(f"jobs/{mine}")))
    if "payroll" in path:
        assert "It was skipped because of another job." in text
        assert not {str(head), str(middle)} & set(re.findall(r"\d+", text))
        assert "media.transcode" not in text
        assert "the takeover" not in text
    else:
        assert "the takeover fell through" in text


def test_an_operation_names_no_other_queue(browse: Browse, shop: Shop, conn: Conn) -> None:
    jobs = two_dead(shop, conn, "letters", "letters")
    shop.app.dead.redrive(DeadFilter(queue="letters", ids=jobs), queue="payroll", by="bob")
    newest = scalar(conn, "select max(id) from pgqueue.operation")
    assert "payroll" not in browse(LETTERS).page(f"operations/{newest}")
    assert "payroll" in browse().page(f"operations/{newest}")
