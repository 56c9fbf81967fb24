"""A shop in trouble: jobs in every state, groups of failures, workers of which one was lost, workflows, schedules.

The pages are tested on it, and it is what the pictures in docs/dashboard.md show (`tests.edges.dashboard.pictures`).
"""

import asyncio
import math
import random
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

import psycopg
from pydantic import AfterValidator

import pgqueue
from pgqueue import App, chain, chord
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.tally import Count, array_of, bucket_of
from pgqueue.revisions import newest
from tests.conftest import scalar, work

TASKS = (
    "{crm.sync_tenant,media.notify,media.publish,media.transcode,shop.charge_card,shop.checked,shop.daily_report,"
    "shop.render_invoice,shop.send_receipt}"
)
WORKERS = f"""
insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds, heartbeat_at, started_at,
    lost_at, death, rss_bytes, release, quiet_at, knows)
values
(gen_random_uuid(), 'worker', 'app-1', 4117, '0.1.0', '{{critical,default,email}}', '{TASKS}', 8, 86400, now(),
    now() - interval '3 hours', null, null, 143000000, '2026.11.3', null, '{newest()}'),
(gen_random_uuid(), 'worker', 'app-2', 4020, '0.1.0', '{{critical,default,email}}', '{TASKS}', 8, 86400, now(),
    now() - interval '3 hours', null, null, 151000000, '2026.11.3', now(), '{newest()}'),
(gen_random_uuid(), 'worker', 'app-3', 3988, '0.1.0', '{{critical,default,email}}', '{TASKS}', 8, 30,
    now() - interval '7 minutes', now() - interval '9 hours', now() - interval '6 minutes', 'was killed by SIGKILL',
    212000000, '2026.11.2', null, '{newest()}'),
(gen_random_uuid(), 'scheduler', 'app-1', 4121, '0.1.0', '{{}}', '{{}}', 0, 86400, now(), now() - interval '3 hours',
    null, null, 61000000, '2026.11.3', null, '{newest()}')"""
RUNNING = """
update pgqueue.job_live j set state = 'running', attempt = 1, lease = 1, claimed_at = now() - interval '40 seconds',
    worker_id = (select w.id from pgqueue.worker w where w.host = 'app-1' and w.kind = 'worker'),
    progress = '{"done": 340, "total": 1000, "note": "frames"}'
where j.id = any(%s)"""
OLDER = """
update pgqueue.job_live set run_at = run_at - interval '4 minutes 20 seconds',
    created_at = created_at - interval '4 minutes 20 seconds' where queue = 'media' and state = 'pending'"""
RATES = {  # jobs a minute, errors, seconds to run, seconds of waiting
    ("shop.send_receipt", "email"): (220, 0.004, 0.18, 0.02),
    ("shop.charge_card", "critical"): (90, 0.06, 0.42, 0.01),
    ("shop.render_invoice", "default"): (90, 0.02, 0.09, 0.4),
    ("media.transcode", "media"): (4, 0.01, 31.0, 40.0),
    ("crm.sync_tenant", "default"): (30, 0.01, 1.9, 0.8),
}


# What the tables of a shop that is older than three hours hold: the same hour a week ago, with fewer jobs that waited
# less, and a minute of each other hour of eight days, which stands for all of it, by day and by night.
WEEK = """
insert into pgqueue.activity
select a.at - make_interval(hours => 168), a.worker_id, a.task, a.queue, a.outcome, greatest(1, a.jobs * 4 / 5),
       a.run_seconds * 0.8, a.wait_seconds * 0.6, a.run_counts, a.wait_counts
from pgqueue.activity a where a.at > now() - interval '1 hour'
union all
select a.at - make_interval(hours => ago), a.worker_id, a.task, a.queue, a.outcome, a.jobs * swing::int,
       a.run_seconds * swing, a.wait_seconds * swing, a.run_counts, a.wait_counts
from pgqueue.activity a cross join lateral (
    select ago, round(40 + 25 * sin(ago * pi() / 12) + 8 * cos(ago * pi() / 84)) as swing
    from generate_series(2, 192) as ago where ago <> 168) as hours
where a.at > now() - interval '61 minutes' and a.at <= now() - interval '60 minutes'"""


class CardDeclined(Exception):
    """The bank refuses a card."""


def _refuse(card: str) -> str:
    """Say of a card what a validator should not: its number."""
    raise ValueError(f"no such card: {card}")


@dataclass
class Shop:
    """The shop: its app, and the tasks of which workflows are made."""

    app: App
    transcode: Any
    publish: Any
    notify: Any
    ids: dict[str, int]


def shop_of(dsn: str) -> Shop:
    """Return the shop without a job."""
    app = App(dsn, name="shop:app")

    @app.task(name="shop.send_receipt", queue="email", retry=pgqueue.Exponential(base=2, max=600), max_attempts=8)
    def send_receipt(order_id: int, to: str, copy_me: bool = False) -> dict[str, str]:
        """Mail the receipt of an order."""
        if to == "bounces":
            raise ConnectionError("421 mail.example.com: too many connections, try again later")
        return {"sent": to}

    @app.task(name="shop.charge_card", queue="critical", retry=[0.01], max_attempts=2, tags=["money"])
    def charge_card(
        order_id: int, amount: float, currency: Literal["EUR", "USD", "GBP"] = "EUR", card_token: str = ""
    ) -> dict[str, float]:
        """Charge the card of an order."""
        if amount > 900:
            raise CardDeclined(f"order {order_id}: insufficient funds")
        return {"charged": amount}

    @app.task(name="shop.render_invoice", queue="default", max_attempts=1)
    def render_invoice(order_id: int, template: str = "plain") -> None:
        fonts = {"plain": "Inter"}
        fonts[template]

    @app.task(name="media.transcode", queue="media", max_attempts=3)
    def transcode(video: str, size: str = "720p") -> str:
        if size == "8K":
            raise ValueError(f"{video}: no codec for 8K")
        return f"{video}.{size}"

    @app.task(name="media.publish", queue="media")
    def publish(videos: list[str], to: str) -> str:
        return to

    @app.task(name="media.notify", queue="media")
    def notify(place: str) -> None: ...

    @app.task(name="crm.sync_tenant", queue="default", limit=pgqueue.Limit(2, by="tenant"))
    def sync_tenant(tenant: str, api_key: str = "") -> None: ...

    @app.task(name="shop.checked")
    def checked(card: Annotated[str, AfterValidator(_refuse)]) -> None: ...

    @app.task(name="shop.daily_report")
    def daily_report(region: str = "eu") -> None: ...

    return Shop(app, transcode, publish, notify, {})


def build(shop: Shop, conn: psycopg.Connection[Any]) -> None:
    """Make the shop's history: some jobs run, the rest is put into the tables."""
    app, ids = shop.app, shop.ids
    _finish_some(shop, conn)
    with conn.transaction():
        conn.execute(WORKERS)
        _record_hours(conn)
        conn.execute(WEEK)
    while scalar(conn, "select pgqueue.maintain()"):  # as a scheduler does: each day gets its partition
        pass
    sizes = ["1080p", "720p", "480p"]
    running = chain(
        shop.transcode.s(video="launch.mov", size="master"),
        chord([shop.transcode.si(video="launch.mov", size=size) for size in sizes], shop.publish.s(to="cdn")),
        shop.notify.s(),
    )
    ids["workflow"] = running.enqueue().id
    for number in range(5):
        ids["transcode"] = app.enqueue("media.transcode", {"video": f"clip-{number}.mov"}).id
    conn.execute(OLDER)
    ids["running"] = app.enqueue("shop.charge_card", {"order_id": 801, "amount": 12.5, "card_token": "tok_4242"}).id
    first = scalar(conn, "select min(id) from pgqueue.job_live where task = 'media.transcode' and state = 'pending'")
    conn.execute(RUNNING, [[ids["running"]]])
    ids["first"] = first
    ids["later"] = app.using(delay=7200).enqueue("shop.send_receipt", {"order_id": 7, "to": "ann@example.com"}).id
    for tenant in ("acme", "acme", "acme", "globex"):
        app.enqueue("crm.sync_tenant", {"tenant": tenant, "api_key": "sk_live_123"})
    app.schedules.create("daily report", "shop.daily_report", "0 6 * * mon-fri", timezone="Europe/Paris")
    app.schedules.create("sync tenants", "crm.sync_tenant", 300, args={"tenant": "acme"})
    app.schedules.create("month's end", "shop.daily_report", "0 22 28-31 * *", args={"region": "us"})
    app.schedules.pause("month's end", by="bob")
    app.schedules.run("daily report", by="alice")
    unwanted = JobFilter(task="media.transcode", args={"video": "clip-0.mov"})
    app.jobs.cancel(unwanted, by="bob", via="cli", reason="the clip was withdrawn")
    app.jobs.promote(JobFilter(task="shop.send_receipt", args={"order_id": 404}), by="alice", via="dashboard")
    app.pause(queue="default", why="the CRM is being moved", until=timedelta(hours=2), by="alice")


def _finish_some(shop: Shop, conn: psycopg.Connection[Any]) -> None:
    app, ids = shop.app, shop.ids
    for number in range(1, 25):
        amount = 950.0 if number % 4 == 0 else 19.9
        job = app.enqueue("shop.charge_card", {"order_id": number, "amount": amount, "card_token": "tok_4242"})
        ids["declined" if amount > 900 else "charged"] = job.id
        template = "fancy" if number % 3 == 0 else "plain"
        ids["bug" if template == "fancy" else "fine"] = app.enqueue(
            "shop.render_invoice", {"order_id": number, "template": template}
        ).id
    ids["retrying"] = app.enqueue("shop.send_receipt", {"order_id": 9, "to": "bounces"}).id
    done = chain(shop.transcode.s(video="teaser.mov"), shop.notify.s()).enqueue()
    failing = chord(
        [shop.transcode.using(max_attempts=1).s(video="trailer.mov", size=size) for size in ("1080p", "8K")],
        shop.publish.s(to="tv"),
    )
    ids["failed workflow"] = failing.enqueue().id
    ids["done workflow"] = done.id
    idle = """select not exists (select from pgqueue.job_live where state = 'running' or state = 'pending'
                                 and run_at <= now() + interval '1 second')"""
    queues = ["critical", "default", "email", "media"]
    asyncio.run(work(app, lambda: scalar(conn, idle), queues=queues, poll_seconds=0.05))
    cancelled = app.using(delay=60).enqueue("shop.send_receipt", {"order_id": 3, "to": "carl@example.com"})
    app.cancel(cancelled.id)
    ids["cancelled"] = cancelled.id
    app.dead.annotate(ids["bug"], "Fonts are missing on app-3 since the new image.", by="bob")


def _record_hours(conn: psycopg.Connection[Any]) -> None:
    """Insert what workers would have counted in three hours, a row a minute."""
    rng, worker = random.Random(7), uuid.uuid4()
    rows = []
    for (task, queue), (rate, errors, run, wait) in RATES.items():
        for ago in range(180):
            swing = 1 + 0.45 * math.sin(ago / 23) + rng.uniform(-0.15, 0.15)
            peak = 4.0 if 18 < ago < 27 and queue == "critical" else 1.0
            wrong = errors * peak
            for outcome, share in (("succeeded", 1 - wrong), ("retried", 0.7 * wrong), ("failed", 0.3 * wrong)):
                jobs = round(rate * swing * share + rng.random() - 0.5)
                if jobs > 0:
                    ran, waited = run * rng.uniform(0.8, 1.3), wait * peak * rng.uniform(0.5, 1.8)
                    counts = [_counted(ran, jobs), _counted(waited, jobs)]
                    rows.append((ago, worker, task, queue, outcome, jobs, jobs * ran, jobs * waited, *counts))
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into pgqueue.activity values (now() - make_interval(mins => %s), %s, %s, %s, %s, %s, %s, %s,"
            " %s::int[], %s::int[])",
            rows,
        )


def _counted(seconds: float, jobs: int) -> str | None:
    counts = Count().run_counts
    counts[bucket_of(seconds)] = jobs
    return array_of(counts)
