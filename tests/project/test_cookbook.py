"""docs/cookbook: each recipe runs, and does what its title says."""

import io
import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pgqueue import App, Cancel, InvalidArguments, Job, testing
from pgqueue.cli import cli
from pgqueue.testing import Jobs, rolled_back
from tests.project.cookbook import INDEX, Recipe, kitchen, recipes

RECIPES = recipes()
CHECKS: dict[str, Callable[["Kitchen"], None]] = {}


class Kitchen:
    """A recipe that has run: its names as attributes, and the jobs of the test."""

    def __init__(self, recipe: Recipe, jobs: Jobs) -> None:
        self.jobs, self.conn, self.app = jobs, jobs.conn, jobs.app
        self.names = kitchen(jobs.app)
        for block in recipe.code("python"):
            exec(compile(block, recipe.page, "exec"), self.names)

    def __getattr__(self, name: str) -> Any:
        return self.names[name]

    def sql(self, statement: str) -> Any:
        row = self.conn.execute(statement.encode()).fetchone()  # type: ignore[arg-type]
        return None if row is None else row[0]

    def flow(self, job: Job) -> Any:
        """Return what decides about the turn of a job, as it is stored."""
        return self.app.get(job.id).flow

    def table(self, definition: str) -> None:
        """Make a table of the recipe's, where its statements find it."""
        self.conn.execute("set local search_path = public")
        self.conn.execute(f"create table public.{definition}".encode())  # type: ignore[arg-type]


@pytest.fixture
def dsn(kept_database: str) -> str:
    return kept_database


@pytest.fixture
def jobs(app: App) -> Iterator[Jobs]:
    with rolled_back(app) as jobs:
        yield jobs


def check(title: str) -> Callable[[Callable[[Kitchen], None]], None]:
    def keep(function: Callable[[Kitchen], None]) -> None:
        CHECKS[title] = function

    return keep


@check("Send an e-mail only if the order commits")
def _(at: Kitchen) -> None:
    at.table("orders (id int primary key, email text)")
    at.place_order(at.conn, 1, "ann@example.com")
    with pytest.raises(psycopg.errors.UniqueViolation):
        at.place_order(at.conn, 1, "bob@example.com")
    assert at.jobs.drain().succeeded == 1
    assert at.mail.calls == [("send", "ann@example.com", "Thank you for order 1")]


@check("Charge a card once")
def _(at: Kitchen) -> None:
    first, again = at.charge.enqueue(7, 1500), at.charge.enqueue(7, 1500)
    at.payments.fail_once("charge")
    assert (first.id, again.existing) == (again.id, True)
    assert at.jobs.drain(with_scheduled=True).succeeded == 1
    assert at.payments.calls == [("charge", 1500, "order-7")] * 2


@check("Debounce")
def _(at: Kitchen) -> None:
    at.edited(at.conn, 1, "first")
    at.jobs.travel(8)
    at.edited(at.conn, 1, "second")
    at.jobs.travel(5)
    assert at.jobs.drain().total == 0
    at.jobs.travel(5)
    assert at.jobs.drain().succeeded == len(at.search.calls) == 1


@check("Throttle: one run at most each minute")
def _(at: Kitchen) -> None:
    at.sync.enqueue("acme")
    at.jobs.drain()
    assert at.sync.enqueue("acme").existing
    at.sync.enqueue("zen")
    assert at.jobs.drain().succeeded == 1
    assert at.crm.calls == [("push", "acme"), ("push", "zen")]


@check("Remind in three days, unless it was done")
def _(at: Kitchen) -> None:
    at.send_invoice(at.conn, 1)
    assert at.jobs.drain().total == 0
    at.jobs.travel(days=3)
    at.jobs.drain()
    assert at.mail.calls == []
    at.send_invoice(at.conn, 2)
    at.invoices.answers["email_if_open"] = "ann@example.com"
    at.jobs.drain(with_scheduled=True)
    assert at.mail.calls == [("send", "ann@example.com", "Invoice 2 is open")]


@check("Outbox to Kafka or another system")
def _(at: Kitchen) -> None:
    at.table("orders (id int, paid bool)")
    with at.conn.transaction(force_rollback=True):
        at.pay(at.conn, 1)
    at.pay(at.conn, 2)
    assert at.jobs.drain().succeeded == 1
    ((verb, topic, key, value, headers),) = at.kafka.calls
    assert (verb, topic, key, value, set(headers)) == ("send", "orders", "2", {"id": 2}, {"event-id"})


@check("Enqueue from a trigger")
def _(at: Kitchen) -> None:
    at.table("orders (id int, paid bool not null default false)")
    for block in RECIPES["Enqueue from a trigger"].code("sql"):
        at.conn.execute(block.encode())  # type: ignore[arg-type]
    at.conn.execute("insert into orders values (7)")
    at.conn.execute("update orders set paid = true")
    at.conn.execute("update orders set paid = true")
    at.jobs.assert_enqueued("shop.ship", {"order_id": 7}, queue="parcels", count=1)


@check("Large files: pass a key, not the bytes")
def _(at: Kitchen) -> None:
    at.table("photos (key text)")
    at.bucket.answers = {"get": b"0123456789abc", "put": "a.small"}
    at.upload(at.conn, "a", b"0123456789abc")
    at.jobs.assert_enqueued(at.shrink, {"key": "a"})
    at.jobs.drain()
    assert at.bucket.calls[-1] == ("put", "a.small", b"0123456789")


@check("Encrypt arguments")
def _(at: Kitchen) -> None:
    at.vault.dsn = at.app.dsn
    with rolled_back(at.vault) as sealed:
        at.screen.enqueue("C01X00T47")
        stored = sealed.conn.execute("select args::text from pgqueue.job_live").fetchone()
        assert stored is not None
        assert stored[0].startswith('{"$codec": "2026:')
        assert "C01X00T47" not in stored[0]
        assert sealed.drain().succeeded == 1
    at.vault.close()
    assert at.police.calls == [("knows", "C01X00T47")]


@check("Retry with what Retry-After says")
def _(at: Kitchen) -> None:
    at.crm.answers["push"] = type("Answer", (), {"status": 429, "retry_after": 90})
    at.push.enqueue("acme")
    assert at.jobs.drain().retried == 1
    at.jobs.travel(60)
    assert at.jobs.drain().total == 0
    at.jobs.travel(30)
    assert at.jobs.drain().retried == 1


@check("Stop retrying what cannot work")
def _(at: Kitchen) -> None:
    at.send_letter.enqueue("")
    at.send_letter.enqueue("1 Main Street")
    at.post.fail_once()
    drained = at.jobs.drain()
    assert (drained.failed, drained.retried) == (1, 1)


@check("Stop calling a service that is down")
def _(at: Kitchen) -> None:
    assert at.flow(at.quote.enqueue(7)).buckets == ("shop.quote",)
    (rule,) = at.quote.spec.metering.rules
    assert (rule.breaker_failures, rule.breaker_seconds, rule.breaker_cooldown) == (5, 60, 30)


@check("Webhook with a signature")
def _(at: Kitchen) -> None:
    at.tell_customer(at.conn, "https://customer.example/hooks", 7)
    at.jobs.assert_enqueued(at.hooks.task, {"body": {"type": "order.paid", "data": {"id": 7}}})
    with pytest.raises(InvalidArguments, match="not public"):
        at.tell_customer(at.conn, "https://169.254.169.254/", 7)


@check("Replay the dead letters of one error")
def _(at: Kitchen) -> None:
    @at.app.task(name="fails", max_attempts=1)
    def fails(late: bool) -> None:
        raise TimeoutError if late else ValueError

    late, wrong = fails.enqueue(True), fails.enqueue(False)
    assert at.jobs.drain().failed == 2
    assert at.replay(at.conn) == 1
    assert [at.app.get(job.id).state for job in (late, wrong)] == ["pending", "failed"]


@check("Alert on failures")
def _(at: Kitchen) -> None:
    job = at.settle.enqueue("2026-12-01")
    drained = at.jobs.drain()
    assert (drained.failed, drained.succeeded) == (1, 1)
    assert at.pager.calls == [("page", f"job {job.id} of shop.settle: RuntimeError")]


@check("Saga: undo what was done")
def _(at: Kitchen) -> None:
    at.payments.failures = ["pay", "pay"]
    at.book.enqueue(7)
    at.jobs.drain(with_scheduled=True)
    assert at.hotel.calls == [("book", 7), ("cancel", 7)]
    assert at.flight.calls == [("book", 7), ("cancel", 7)]
    order = [job.task for job in at.jobs.all() if job.task.startswith("shop.cancel")]
    assert order == ["shop.cancel_flight", "shop.cancel_hotel"]


@check("Limit calls to an API to 100 a minute")
def _(at: Kitchen) -> None:
    assert at.flow(at.geocode.enqueue("1 Main Street")).buckets == ("shop.geocode",)
    (rule,) = at.geocode.spec.metering.rules
    assert (rule.max_running, rule.rate_count, rule.rate_seconds) == (10, 100, 60)


@check("One job per customer at a time")
def _(at: Kitchen) -> None:
    flows = [at.flow(at.book.enqueue("acme", amount)) for amount in (1, 2)]
    assert flows[0] == flows[1] != at.flow(at.book.enqueue("zen", 3))
    assert at.jobs.drain().succeeded == 3
    assert [entry for entry in at.ledger if entry[0] == "acme"] == [("acme", 1), ("acme", 2)]


@check("Be fair to all tenants")
def _(at: Kitchen) -> None:
    assert at.flow(at.render.enqueue("large", 1)) != at.flow(at.render.enqueue("small", 1))
    assert at.jobs.drain().succeeded == 2


@check("Priority lane")
def _(at: Kitchen) -> None:
    at.newsletter.enqueue("ann")
    at.reset_password.enqueue("bob")
    at.jobs.drain(queues=["critical", "bulk"])
    assert at.mail.calls == [("send", "bob", "reset"), ("send", "ann", "news")]


@check("Fan out and collect")
def _(at: Kitchen) -> None:
    run = at.count_all(at.conn, ["to be", "or", "not to be"])
    at.jobs.drain()
    assert at.app.get(run.jobs[-1]).result == 6


@check("Import a CSV of a million rows in batches")
def _(at: Kitchen) -> None:
    file = io.StringIO("".join(f"{number},name\n" for number in range(25)))
    at.table("unused (id int)")
    at.names["table"].answers["insert"] = 10
    at.import_csv(at.conn, file, size=10)
    assert at.jobs.drain().succeeded == 4
    assert [len(rows) for _, rows in at.names["table"].calls] == [10, 10, 5]
    assert at.mail.calls == [("send", "ann@example.com", "30 rows")]


@check("Pause one task during an incident")
def _(at: Kitchen) -> None:
    @at.app.task(name="shop.geocode")
    def geocode() -> None: ...

    at.provider_is_down()
    geocode.enqueue()
    assert at.jobs.drain().succeeded == 0
    at.provider_is_back()
    assert at.jobs.drain().succeeded == 1


@check("Long job with checkpoints")
def _(at: Kitchen) -> None:
    closed: list[int] = []

    def close(year: int, month: int) -> int:
        closed.append(month)
        if closed.count(4) == 1 and month == 4:
            raise TimeoutError
        return 1

    at.books.__dict__["close"] = close
    job = at.year_end.enqueue(2026)
    assert at.jobs.drain(with_scheduled=True).succeeded == 1
    assert at.app.get(job.id).result == 12
    assert closed == [1, 2, 3, 4, *range(4, 13)]


@check("Progress bar")
def _(at: Kitchen) -> None:
    job = at.export.enqueue(4)
    assert at.bar(job.id) == "0 %"
    at.conn.execute("""update pgqueue.job_live set progress = '{"done": 1, "total": 4, "note": "writing"}'""")
    assert at.bar(job.id) == "25 %"
    at.jobs.drain()
    assert at.bar(job.id) == "100 %"


@check("Keep a large result in a bucket")
def _(at: Kitchen) -> None:
    at.names["bucket"] = bucket = {}
    run = at.render_and_send(2_000_000, "ann@example.com")
    at.jobs.drain()
    rendered, sent = (at.app.get(job) for job in run.jobs)
    (name,) = bucket
    assert (rendered.result, sent.result) == ({"name": name}, 10_000_000)
    assert at.sql("select max(pg_column_size(result)) from pgqueue.job_finished") < 200
    at.render.enqueue(2_000_000)  # as an attempt that is repeated
    at.jobs.drain()
    assert len(bucket) == 1


@check("Cancel what is running")
def _(at: Kitchen) -> None:
    job = at.crawl.enqueue(2)
    assert at.stop(job.id)
    assert at.app.get(job.id).state == "cancelled"
    assert at.crawl(testing.context(at.crawl), 3) == len(at.web.calls) == 3
    with pytest.raises(Cancel):
        at.crawl(testing.context(at.crawl, cancelled=True), 3)
    assert len(at.web.calls) == 3


@check("Wait for a webhook")
def _(at: Kitchen) -> None:
    paid, unpaid = at.order.enqueue(1), at.order.enqueue(2)
    at.jobs.drain()
    at.webhook(at.conn, 1, 1500)
    at.jobs.drain(with_scheduled=True)
    assert [at.app.get(job.id).result for job in (paid, unpaid)] == ["sent", "given up"]


@check("Count each order once")
def _(at: Kitchen) -> None:
    at.table("totals (shop text, orders int)")
    at.conn.execute("insert into totals values ('eu', 0)")
    at.count_order.enqueue("eu")
    assert at.jobs.drain().succeeded == 1
    assert at.sql("select orders from totals") == 1


@check("Nightly report at 02:00 in the user's time zone")
def _(at: Kitchen) -> None:
    at.sign_up(at.conn, "ann", "America/New_York")
    ticks = at.app.schedules.using(at.conn).preview("report of ann", 10)
    assert len(ticks) == 10
    for ahead in ticks:
        local = ahead.tick.astimezone(ZoneInfo("America/New_York"))
        assert (local.hour, local.minute) == (2, 0)
    at.report(testing.context(at.report, headers={"schedule": "x", "tick": "2030-05-02T06:00:00+00:00"}), "ann")
    assert at.mail.calls == [("send", "ann", "report of 2030-05-02")]


@check("Move from cron")
def _(at: Kitchen) -> None:
    at.jobs.travel_to(datetime(2030, 5, 3, 4, 0, tzinfo=UTC))  # a Friday
    at.jobs.fire_schedules()
    at.jobs.travel_to(datetime(2030, 5, 3, 4, 30, 1, tzinfo=UTC))
    assert [job.task for job in at.jobs.fire_schedules()] == ["shop.backup"]
    assert at.jobs.drain().succeeded > 0
    at.jobs.travel_to(datetime(2030, 5, 5, 5, 0, tzinfo=UTC))  # half an hour after what would be a tick on weekdays
    assert at.jobs.fire_schedules() == []
    at.jobs.travel_to(datetime(2030, 5, 6, 5, 0, tzinfo=UTC))
    assert [job.task for job in at.jobs.fire_schedules()] == ["shop.backup"]


@check("Run without a scheduler process")
def _(at: Kitchen) -> None:
    assert callable(at.lifespan(None).__aenter__)
    at.app.worker(queues=["default"], concurrency=4, scheduler=True)


@check("Deploy without losing work")
def _(at: Kitchen) -> None:
    at.conn.execute("""select pgqueue.enqueue('mail.receipt', '{"order_id": 7, "to": "ann"}')""")
    assert at.jobs.drain().succeeded == 1
    assert at.mail.calls == [("send", "ann", "order 7")]


@check("Test a task")
def _(at: Kitchen) -> None:
    at.test_a_parcel_is_sent_again(at.jobs)


@check("Watch with Prometheus")
def _(at: Kitchen) -> None:
    for command in RECIPES["Watch with Prometheus"].code("")[0].splitlines()[2:]:
        result = CliRunner().invoke(cli, shlex.split(command)[1:])
        assert result.exit_code == 0
        assert "pgqueue" in result.stdout


@check("Query jobs with SQL")
def _(at: Kitchen) -> None:
    (block,) = RECIPES["Query jobs with SQL"].code("sql")
    for statement in block.split(";")[:-1]:
        at.conn.execute(statement.encode())  # type: ignore[arg-type]


@check("Find out why a job does not run")
def _(at: Kitchen) -> None:
    @at.app.task(name="waits")
    def waits() -> None: ...

    (due,) = at.explain(waits.using(delay=60).enqueue().id)[:1]
    assert due.startswith("It is scheduled") or "due in" in due


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_does_what_its_title_says(title: str, jobs: Jobs) -> None:
    CHECKS[title](Kitchen(RECIPES[title], jobs))


def test_the_index_has_each_recipe_and_each_names_its_trap() -> None:
    assert len(RECIPES) >= 30
    linked = re.findall(r"\]\((\w+\.md)#([^)]+)\)", INDEX)
    anchors = [(each.page, re.sub(r"[^\w -]", "", each.title.lower()).replace(" ", "-")) for each in RECIPES.values()]
    assert sorted(linked) == sorted(anchors)
    for recipe in RECIPES.values():
        assert "**The trap:** " in recipe.prose, recipe.title
        assert len(recipe.prose.strip().splitlines()) <= 14, recipe.title


def test_each_command_of_the_recipes_exists_with_its_options() -> None:
    commands = [
        command
        for recipe in RECIPES.values()
        for command in re.findall(r"`(pgqueue [^`]+)`", recipe.prose) + recipe.code("")
        for command in command.splitlines()
    ]
    assert len(commands) > 10
    for line in commands:
        command: Any = get_command(cli)
        words = shlex.split(line)[1:]
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands"), line
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert {word for word in words if word.startswith("-") and not word[1:2].isdigit()} <= known, line
