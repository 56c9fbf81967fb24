"""The Celery code of the founding texts runs with its import lines changed, and nothing else."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from pgqueue.celery import Celery, signals
from pgqueue.celery.exceptions import CeleryWarning
from pgqueue.cli import cli
from pgqueue.schedules.cron import Cron
from pgqueue.schedules.plan import Every
from tests.conftest import scalar, work
from tests.edges.celery import founding_texts as texts
from tests.harness import Conn

Run = Callable[..., None]
Load = Callable[..., dict[str, Any]]


class Redis:
    """What some of the texts keep outside of the queue."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.entries: list[str] = []

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any, nx: bool = False, ex: int = 0) -> bool:
        if nx and key in self.values:
            return False
        self.values[key] = value
        return True

    def setex(self, key: str, seconds: int, value: Any) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

    def lpush(self, name: str, value: str) -> None:
        self.entries.insert(0, value)

    def rpop(self, name: str) -> str | None:
        return self.entries.pop() if self.entries else None


class Answers:
    """A service that answers as it is told: each call takes the next answer, and raises it if it is an error."""

    def __init__(self, *answers: Any) -> None:
        self.left, self.calls = list(answers), list[Any]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(args or kwargs)
        answer = self.left.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Slow(Exception):
    """An error that passes."""


class Wrong(Exception):
    """An error that stays."""


@pytest.fixture
def load(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Run a text as a module `tasks`, with what it takes from elsewhere."""
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    for signal in (signals.task_prerun, signals.task_postrun, signals.task_failure):
        monkeypatch.setattr(signal, "_receivers", [])
    apps: list[Celery] = []

    def load(code: str, **around: Any) -> dict[str, Any]:
        namespace = {"__name__": "tasks", **around}
        changed = code.replace("from celery", "from pgqueue.celery").replace("import requests\n", "")
        changed = changed.replace("import hashlib, redis, json\n", "import hashlib, json\n")
        with pytest.warns(CeleryWarning, match="is not used") if "redis://" in code else nullcontext():
            exec(compile(changed, "tasks.py", "exec"), namespace)
        if isinstance(namespace.get("app"), Celery):
            apps.append(namespace["app"])
        return namespace

    yield load
    for app in apps:
        app.close()


def until_retrying(app: Celery, conn: Conn, count: int) -> None:
    """Run a worker until so many jobs wait for their next attempt."""
    retrying = "select count(*) = %s from pgqueue.job where phase = 'retrying'"
    asyncio.run(work(app.pgqueue, lambda: scalar(conn, retrying, count)))


def delay_of(conn: Conn, result: Any) -> float:
    query = "select extract(epoch from j.run_at - t.at)::float8 from pgqueue.job j join pgqueue.transition t"
    found: float = scalar(
        conn, f"{query} on t.job_id = j.id where j.id = %s order by t.at desc limit 1", int(result.id)
    )
    return found


def hurry(conn: Conn) -> None:
    conn.execute("update pgqueue.job_live set run_at = now() where state = 'pending'")


def test_quick_start(load: Load, run: Run) -> None:
    send = Answers(None)
    run(load(texts.QUICK_START, email_client=SimpleNamespace(send=send))["app"])
    assert send.calls == [("user@example.com", "Welcome!", "Thanks for signing up")]


def test_retries_of_a_base_class_and_by_hand(load: Load, run: Run, conn: Conn) -> None:
    answer = SimpleNamespace(raise_for_status=lambda: None, status_code=200)
    post, charge = Answers(Slow("down"), answer), Answers(Wrong("late"), {"paid": True})
    piece = load(
        texts.RETRIES, requests=SimpleNamespace(RequestException=Slow, post=post), PaymentGatewayTimeout=Wrong,
        PaymentDeclined=KeyError, payment_gateway=SimpleNamespace(charge=charge),
    )  # fmt: skip
    app, hook, pay = piece["app"], piece["send_webhook"], piece["process_payment"]
    assert (hook.max_retries, hook.retry_backoff_max, hook.acks_late) == (5, 600, True)
    webhook, paid = hook.delay("https://example.com", {"a": 1}), pay.delay("o-1", 12.5)
    until_retrying(app, conn, 2)
    assert delay_of(conn, paid) == pytest.approx(10, abs=0.5)  # [10, 60, 300][retries]
    assert delay_of(conn, webhook) <= 1  # a second, with full jitter
    hurry(conn)
    run(app)
    assert webhook.get(timeout=10) == {"status": 200, "url": "https://example.com"}
    assert paid.get(timeout=10) == {"paid": True}
    charge.left = [KeyError("declined")]
    declined = pay.delay("o-2", 1.0)
    run(app)
    assert declined.get(timeout=10) == {"status": "declined", "order_id": "o-2"}


ONE = {  # tasks of one parameter, and what each makes of it
    "download_file": lambda value: f"{value}.csv", "parse_csv": lambda value: [value, "row"], "store_results": len,
    "process_image": lambda value: value * 10, "analyze_chunk": lambda value: value + 1, "aggregate_results": sum,
    "process_item": lambda value: -value, "merge_results": sorted, "extract_data": lambda value: [value],
    "transform_data": lambda value: [2 * row for row in value], "send_email": lambda value: f"mail {value}",
    "send_sms": lambda value: f"sms {value}", "update_analytics": lambda value: value["kind"],
}  # fmt: skip


def canvas_tasks(celery: Celery) -> dict[str, Any]:
    def one(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda value: make(value)

    made: dict[str, Any] = {}
    for name, function in ONE.items():
        body = one(function)
        body.__code__ = body.__code__.replace(co_name=name, co_firstlineno=len(made) + 1)
        made[name] = celery.task(name=name)(body)

    @celery.task(name="send_notification")
    def send_notification(merged: list[int], user_email: str) -> str:
        return f"{merged} to {user_email}"

    @celery.task(name="load_data")
    def load_data(rows: list[int], destination_id: str) -> str:
        return f"{rows} into {destination_id}"

    @celery.task(name="send_completion_notification")
    def completed(results: list[int], batch_id: str) -> str:
        return f"{batch_id}: {results}"

    more = {"send_notification": send_notification, "load_data": load_data, "send_completion_notification": completed}
    return made | more


def test_canvases(load: Load, celery: Celery, conn: Conn) -> None:
    given = {
        "url": "u",
        "image_ids": range(3),
        "chunks": [1, 2],
        "items": [1, 2, 3],
        "source_id": 1,
        "destination_id": "d",
    }
    more = {"user_email": "e", "user_phone": "p", "event_data": {"kind": "k"}, "item_ids": [4, 5], "batch_id": "b"}
    tasks = canvas_tasks(celery)
    first = load(texts.CANVAS, **tasks, **given)
    other = load(texts.MORE_CANVAS, **tasks, **given, **more)
    results = [first[name].apply_async() for name in ("pipeline", "batch", "workflow", "full")]
    parallel = other["parallel"].apply_async()
    quiet = "select count(*) = 0 from pgqueue.job_live"
    asyncio.run(work(celery.pgqueue, lambda: scalar(conn, quiet), poll_seconds=0.05))
    found = [each.get(timeout=20) for each in (*results, parallel)]
    assert found == [2, [0, 10, 20], 5, "[-3, -2, -1] to admin@example.com", ["mail e", "sms p", "k"]]
    completed = "select result #>> '{}' from pgqueue.job where task = 'send_completion_notification'"
    assert scalar(conn, completed) == "b: [-4, -5]"


def test_rates_are_those_of_the_fleet(load: Load, celery: Celery) -> None:
    load(texts.RATE, app=celery)
    spec = celery.pgqueue.tasks["tasks.call_external_api"]
    assert spec.metering is not None
    (rule,) = spec.metering.rules
    assert (rule.rate_count, rule.rate_seconds, rule.scope) == (10, 60, "fleet")


def test_idempotency_and_locks(load: Load, celery: Celery, run: Run) -> None:
    redis, charge, seen = Redis(), Answers({"id": 1}), list[str]()
    idempotent = load(
        texts.IDEMPOTENT, app=celery, redis=SimpleNamespace(Redis=lambda: redis),
        payment_gateway=SimpleNamespace(charge=charge),
    )["idempotent_charge"]  # fmt: skip
    sync = load(
        texts.LOCK, app=celery, redis_client=redis, JobAlreadyRunning=Wrong, fetch_from_external_api=seen.append,
        update_local_database=seen.append,
    )["sync_user_data"]  # fmt: skip
    results = [idempotent.delay("o-1", 12.5), idempotent.delay("o-1", 12.5)]
    redis.set("lock:sync:bob", "1")
    ann, bob = sync.delay("ann"), sync.delay("bob")
    run(celery, concurrency=1)
    assert [each.get(timeout=10) for each in results] == [{"id": 1}] * 2
    assert charge.calls == [("o-1", 12.5)]
    assert (seen, ann.get(timeout=10)) == (["ann", "ann"], None)
    assert bob.get(timeout=10) == {"status": "skipped", "reason": "already_running"}


def test_dead_letters_are_seen_and_replayed(load: Load, celery: Celery, run: Run) -> None:
    redis = Redis()

    @celery.task(bind=True, max_retries=1, name="breaks")
    def breaks(self: Any, n: int, m: int = 0) -> int:
        if redis.get("mended"):
            return n + m
        raise self.retry(exc=Wrong("broken"), countdown=0)

    piece = load(texts.DEAD_LETTERS, app=celery, redis_client=redis, json=json)
    first = breaks.delay(1, m=2)
    run(celery, poll_seconds=0.05)
    (entry,) = map(json.loads, redis.entries)
    assert (entry["task_name"], entry["task_id"], entry["args"], entry["kwargs"]) == ("breaks", first.id, [1], {"m": 2})
    assert entry["exception"] == "broken"
    redis.set("mended", "yes")
    piece["replay_dead_letters"]()
    run(celery)
    assert celery.AsyncResult(str(int(first.id) + 1)).get(timeout=10) == 3


def test_beat(load: Load, celery: Celery) -> None:
    for name in ("cleanup_sessions", "sync_inventory"):
        celery.task(name=f"tasks.{name}")(lambda: None)
    celery.task(name="tasks.generate_report")(lambda kind: None)
    load(texts.BEAT, app=celery)
    found = {one.name: one for one in celery.pgqueue.schedules.values()}
    assert found["cleanup-sessions"].plan == Cron("0 */6 * * *")
    assert (found["daily-report"].plan, found["daily-report"].job.args) == (Cron("0 8 * * *"), '{"kind":"daily"}')
    assert (found["sync-inventory"].plan, found["sync-inventory"].expires) == (Every(300.0), 280)


def test_queues(load: Load, celery: Celery) -> None:
    piece = load(texts.QUEUES, app=celery)
    jobs = [piece[name].delay(1).job() for name in ("process_refund", "send_email", "generate_report")]
    assert [job.queue for job in jobs] == ["critical", "default", "bulk"]


@pytest.mark.parametrize("line", re.findall(r"celery -A tasks worker (.+)", texts.QUEUES))
def test_the_flags_of_the_worker_are_taken(line: str) -> None:
    command = get_command(cli).get_command(None, "work")  # type: ignore[attr-defined]
    given = command.make_context("work", ["-A", "tasks", *line.split()]).params
    queues, slots = {
        "-Q critical,default,bulk -c 4": ("critical,default,bulk", 4),
        "-Q critical -c 8": ("critical", 8),
    }[line]
    assert (given["queues"], given["concurrency"]) == (queues, slots)


def test_configuration(load: Load, run: Run, conn: Conn) -> None:
    get = Answers("doc", "doc", Wrong("gone"))
    process = Answers(Slow("busy"), "done")
    piece = load(
        texts.CONFIGURATION, Document=SimpleNamespace(objects=SimpleNamespace(get=get)), expensive_processing=process,
        TransientError=Slow, PermanentError=Wrong,
    )  # fmt: skip
    app, document = piece["app"], piece["process_document"]
    assert (app.conf.task_default_retry_delay, app.conf.task_max_retries) == (60, 3)
    result = document.delay(7)
    until_retrying(app, conn, 1)
    assert delay_of(conn, result) == pytest.approx(60, abs=0.5)
    hurry(conn)
    run(app)
    assert result.get(timeout=10) == "done"
    failed = document.delay(8)
    run(app)
    assert (failed.state, failed.retries) == ("FAILURE", 0)


def test_signals(load: Load, celery: Celery, run: Run) -> None:
    counted, alerts = list[Any](), list[Any]()

    def increment(name: str, tags: dict[str, str]) -> None:
        counted.append((name.rpartition(".")[2], *tags.values()))

    load(
        texts.SIGNALS, metrics=SimpleNamespace(increment=increment), alert_on_failure=lambda *args: alerts.append(args)
    )

    @celery.task(name="well")
    def well() -> None: ...

    @celery.task(name="ill")
    def ill() -> None:
        raise Wrong("no")

    well.delay()
    failed = ill.delay()
    run(celery, concurrency=1)
    assert counted == [
        ("started", "well"), ("completed", "well", "SUCCESS"),
        ("started", "ill"), ("failed", failed.id), ("completed", "ill", "FAILURE"),
    ]  # fmt: skip
    ((task_id, error),) = alerts
    assert (task_id, str(error)) == (failed.id, "no")


def test_limits_and_retries_in_child_processes(load: Load, run: Run, conn: Conn) -> None:
    def charge(payment_id: str) -> Any:
        if payment_id == "declined":
            raise Wrong("no money")
        if payment_id in ("busy", "unreachable"):
            raise Slow("busy") if payment_id == "busy" else ConnectionError("unreachable")
        return SimpleNamespace(id=f"t-{payment_id}")

    piece = load(
        texts.LIMITS, payment_gateway=SimpleNamespace(charge=charge), PaymentDeclinedError=Wrong, TransientError=Slow
    )
    app, pay = piece["app"], piece["process_payment"]
    spec = app.pgqueue.tasks["tasks.process_payment"]
    assert (spec.timeout, spec.isolation, pay.soft_time_limit) == (3600, "process", 3000)
    paid, declined, busy, unreachable = (pay.delay(name) for name in ("p-1", "declined", "busy", "unreachable"))
    until_retrying(app, conn, 2)
    run_until_done = "select count(*) = 2 from pgqueue.job where state = 'succeeded'"
    asyncio.run(work(app.pgqueue, lambda: scalar(conn, run_until_done)))
    assert paid.get(timeout=10) == {"status": "success", "transaction_id": "t-p-1"}
    assert declined.get(timeout=10) == {"status": "declined", "reason": "no money"}
    assert (busy.state, unreachable.state) == ("RETRY", "RETRY")
    assert [delay_of(conn, each) for each in (busy, unreachable)] == pytest.approx([60, 60], abs=1)


class OrderStatus(Enum):
    """The status of an order."""

    PENDING, PROCESSING, COMPLETED = range(3)


def test_orders_are_processed_once(load: Load, celery: Celery, run: Run) -> None:
    orders = {"o-1": SimpleNamespace(status=OrderStatus.PENDING, total=12.5)}
    charge = Answers({"id": 1})
    repo = SimpleNamespace(get=orders.get, update=lambda key, **new: orders[key].__dict__.update(new))
    logger = SimpleNamespace(info=Answers(None))
    process = load(
        texts.ORDER, app=celery, orders_repo=repo, OrderStatus=OrderStatus, logger=logger,
        payment_provider=SimpleNamespace(charge=charge),
    )["process_order"]  # fmt: skip
    process.delay("o-1")
    process.delay("o-1")
    run(celery, concurrency=1)
    assert charge.calls == [{"amount": 12.5, "idempotency_key": "order-o-1"}]
    assert logger.info.calls == [("Order already processed",)]
    assert orders["o-1"].status == OrderStatus.COMPLETED


def test_a_dead_letter_queue_of_their_own(load: Load, celery: Celery, run: Run, conn: Conn) -> None:
    send = Answers(None)
    process = load(
        texts.DEAD_LETTER_QUEUE, app=celery, send_webhook=lambda payload: SimpleNamespace(success=False, error="500"),
        WebhookFailedError=Wrong, dead_letter_queue=SimpleNamespace(send=send), datetime=datetime,
        logger=SimpleNamespace(error=Answers(None)),
    )["process_webhook"]  # fmt: skip
    result = process.delay("w-1", {"a": 1})
    for retries in range(3):
        until_retrying(celery, conn, 1)
        assert delay_of(conn, result) == pytest.approx(60 * 2**retries, abs=1)
        hurry(conn)
    run(celery)
    ((told,),) = send.calls
    assert (told["attempts"], told["error"], told["webhook_id"]) == (4, "500", "w-1")
    assert result.state == "SUCCESS"
