"""What Sentry gets of jobs: a transport of the test's own stands for it."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loguru
import pytest
import sentry_sdk
import structlog
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

import pgqueue.sentry
from pgqueue import App, Cancel, Constant, Context, Fail, InvalidOption, Retry, Snooze
from tests.conftest import scalar, work
from tests.harness import Conn, Process, wait_for

ROOT = Path(__file__).parents[2]
IN_CHILD = """
import json, os, pathlib
import sentry_sdk
from sentry_sdk.transport import Transport
import pgqueue, pgqueue.sentry

class Kept(Transport):
    def capture_envelope(self, envelope):
        if (event := envelope.get_event()) is not None:
            with open("events", "a") as file:
                file.write(json.dumps(event, default=str) + "\\n")

sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=Kept)
app = pgqueue.App()
pgqueue.sentry.instrument(app)

@app.task(name="divides", isolation="process", max_attempts=2, retry=pgqueue.Constant(0))
def divides(by: int):
    return 1 / by

@app.task(name="dies", isolation="process", max_attempts=1, max_crashes=1)
def dies():
    os.kill(os.getpid(), 9)
"""


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            self.events.append(item.payload.json)

    def errors(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("type") != "transaction"]

    def transactions(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("type") == "transaction"]


@pytest.fixture
def sent() -> Iterator[Kept]:
    """What is sent while the test runs; everything is traced."""
    kept = Kept()
    sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=kept, traces_sample_rate=1.0)
    yield kept
    sentry_sdk.get_client().close()  # else its thread that sleeps lives as long as the process
    sentry_sdk.init()


def drain(app: App, conn: Conn) -> None:
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) from pgqueue.job_live") == 0))


def test_a_job_is_reported_once_when_it_dies(app: App, conn: Conn, sent: Kept) -> None:
    pgqueue.sentry.instrument(app)

    @app.task(name="divides", max_attempts=3, retry=Constant(0))
    def divides(by: int) -> float:
        return 1 / by

    job = divides.enqueue(0)
    drain(app, conn)
    (event,) = sent.errors()
    (error,) = event["exception"]["values"]
    assert (error["type"], error["stacktrace"]["frames"][0]["function"]) == ("ZeroDivisionError", "divides")
    assert event["transaction"] == "divides"
    assert event["tags"] == {"pgqueue.task": "divides", "pgqueue.queue": "default", "pgqueue.job_id": str(job.id)}
    assert event["fingerprint"] == ["{{ default }}", "divides"]
    facts = event["contexts"]["pgqueue"]
    assert (facts["job_id"], facts["attempt"], facts["max_attempts"]) == (job.id, 3, 3)
    assert event["breadcrumbs"]["values"][-1]["message"] == f"job {job.id} of divides in default"


def test_each_attempt_where_that_is_asked_for(app: App, conn: Conn, sent: Kept) -> None:
    pgqueue.sentry.instrument(app, report="each")

    @app.task(name="divides", max_attempts=3, retry=Constant(0))
    async def divides(by: int) -> float:
        return 1 / by

    divides.enqueue(0)
    drain(app, conn)
    assert [event["contexts"]["pgqueue"]["attempt"] for event in sent.errors()] == [1, 2, 3]


def test_a_job_that_succeeds_at_last_is_not_reported(app: App, conn: Conn, sent: Kept) -> None:
    pgqueue.sentry.instrument(app)

    @app.task(name="t", max_attempts=3, retry=Constant(0))
    def t(ctx: Context) -> None:
        if ctx.attempt < 3:
            raise ValueError

    t.enqueue()
    drain(app, conn)
    assert sent.errors() == []
    assert [event["contexts"]["trace"]["status"] for event in sent.transactions()] == [
        "internal_error", "internal_error", "ok",
    ]  # fmt: skip


@pytest.mark.parametrize("report", ["dead", "each"])
def test_decisions_are_no_errors_but_their_causes_are(app: App, conn: Conn, sent: Kept, report: Any) -> None:
    pgqueue.sentry.instrument(app, report=report)

    @app.task(name="decides", max_attempts=2)
    def decides(how: str, ctx: Context) -> None:
        if ctx.attempt == 2:
            return
        match how:
            case "retry":
                raise Retry(delay=0)
            case "cancel":
                raise Cancel("unwanted")
            case "fail":
                raise Fail("no such account")
            case "caused":
                raise Fail("no such account") from KeyError("account")

    @app.task(name="later")
    def later(ctx: Context) -> None:
        if ctx.waited < 0.001:
            raise Snooze(0.01)

    for how in ("retry", "cancel", "fail", "caused"):
        decides.enqueue(how)
    later.enqueue()
    drain(app, conn)
    kinds = sorted(event["exception"]["values"][-1]["type"] for event in sent.errors())
    assert kinds == ["Fail", "KeyError"]


def test_a_job_that_nothing_can_read_is_reported_without_an_exception(app: App, conn: Conn, sent: Kept) -> None:
    pgqueue.sentry.instrument(app)

    @app.task(name="t")
    def t(n: int) -> None: ...

    job = conn.execute("""select pgqueue.enqueue('t', '{"n": "secret"}')""").fetchone()
    assert job is not None
    drain(app, conn)
    (event,) = sent.errors()
    assert event["message"].startswith("t is a dead letter: invalid arguments")
    assert event["tags"]["pgqueue.job_id"] == str(job[0])
    assert "secret" not in json.dumps(event)


def test_a_run_carries_on_the_trace_of_the_request(app: App, conn: Conn, sent: Kept) -> None:
    pgqueue.sentry.instrument(app)

    @app.task(name="t")
    def t() -> None: ...

    t.enqueue()  # outside of a trace: no span, and no headers
    assert scalar(conn, "select headers from pgqueue.job_live") == {}
    with sentry_sdk.start_transaction(op="http.server", name="POST /orders") as request:
        job = t.enqueue()
    drain(app, conn)
    spans = [span for event in sent.transactions() for span in event["spans"] if span["op"] == "queue.publish"]
    assert [span["data"]["messaging.message.id"] for span in spans] == [str(job.id)]
    runs = {event["contexts"]["trace"]["data"]["messaging.message.id"]: event["contexts"]["trace"]
            for event in sent.transactions() if event["transaction"] == "t"}  # fmt: skip
    assert runs[str(job.id)]["trace_id"] == request.trace_id
    assert runs[str(job.id)]["parent_span_id"] == spans[0]["span_id"]
    assert runs[str(job.id)]["op"] == "queue.process"
    assert runs[str(job.id - 1)]["trace_id"] != request.trace_id
    assert runs[str(job.id)]["data"]["messaging.message.retry.count"] == 0


def test_what_one_job_tells_sentry_does_not_reach_the_next(app: App, conn: Conn, sent: Kept) -> None:
    pgqueue.sentry.instrument(app)

    @app.task(name="t", max_attempts=1)
    async def t(n: int) -> None:
        sentry_sdk.set_tag(f"of {n}", "yes")
        raise ValueError(n)

    for n in range(5):
        t.enqueue(n)
    drain(app, conn)
    found = [{name for name in event["tags"] if name.startswith("of")} for event in sent.errors()]
    assert sorted(map(sorted, found)) == [[f"of {n}"] for n in range(5)]


def test_in_a_child_process_once_and_also_if_it_dies(tmp_path: Path, dsn: str, conn: Conn) -> None:
    (tmp_path / "reported.py").write_text(IN_CHILD)
    file = tmp_path / "events"
    with Process(tmp_path, dsn, "work", "-A", "reported:app", "-c", "2") as worker:
        conn.execute("""select pgqueue.enqueue('divides', '{"by": 0}', max_attempts => 2)""")
        conn.execute("select pgqueue.enqueue('dies', '{}', max_attempts => 1)")
        worker.alive_until(lambda: scalar(conn, "select count(*) from pgqueue.dead_letter") == 2, "both to die")
        wait_for(lambda: file.exists() and len(file.read_text().splitlines()) == 2, "their reports")
        worker.terminate()
        worker.wait()
    events = {event["transaction"]: event for event in map(json.loads, file.read_text().splitlines())}
    assert events["divides"]["exception"]["values"][0]["type"] == "ZeroDivisionError"
    assert events["dies"]["message"].startswith("dies is a dead letter: ")
    assert len(file.read_text().splitlines()) == 2


def test_the_samples_of_the_page_run(app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTRY_DSN", "")
    page = (ROOT / "docs/observability.md").read_text().partition("## Error reports")[2]
    for sample in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(sample, {"app": app, "pgqueue": pgqueue})
    structlog.reset_defaults()
    loguru.logger.configure(patcher=None)
    sentry_sdk.init()


def test_a_word_that_is_none_is_refused(app: App) -> None:
    with pytest.raises(InvalidOption, match="report='all' cannot be used: give one of dead, each"):
        pgqueue.sentry.instrument(app, report="all")  # type: ignore[arg-type]
