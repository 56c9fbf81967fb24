"""A producer: business rows and jobs in one transaction, and a journal of the answer to each."""

import asyncio
import os
import random
import signal
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

import pgqueue

from . import metered_shop, shop
from .desk import Desk
from .journal import Journal, digest

LOST = (psycopg.Error, pgqueue.PgqueueError, OSError)
BACKLOG = 300
CANCELS, VERBS = 0.2, 0.4  # how often an operation is followed by a cancellation, and by another verb
UNKNOWN = ("bad_arguments", "nobody_knows", "later")
MIX = (
    ("fast", 40), ("fast_async", 15), ("slow", 7), ("slow_async", 7), ("flaky", 10), ("snoozing", 6), ("always", 4),
    ("rejects", 3), ("cancels", 4), ("hostile", 3), ("odd_result", 3), ("bad_arguments", 1), ("nobody_knows", 1),
    ("later", 2), ("exact", 8), ("exact_async", 5), ("exact_child", 3), ("crashes", 1), ("times_out", 1),
    ("perishable", 4), ("limited", 12), ("charged", 10), ("in_line", 12), ("paced", 3), ("for_tenants", 8),
    ("brittle", 5), ("skipped", 5), ("renewed", 5), ("shut_out", 1),
)  # fmt: skip
KINDS = (("transaction", 70), ("rollback", 12), ("async", 8), ("solo", 10))
bare = pgqueue.App()  # knows no task, and so validates nothing


def draw(rng: random.Random, weighted: tuple[tuple[str, int], ...]) -> str:
    """Draw one of them."""
    return rng.choices([name for name, _ in weighted], [weight for _, weight in weighted])[0]


def call(rng: random.Random, op: str, n: int) -> tuple[str, dict[str, Any]]:
    """Draw a task and its arguments."""
    task = draw(rng, MIX)
    text = rng.choice(["plain", "ünïcödé ☃ 𝄞", '"quoted" \\ {brace}', ""])
    payload: dict[str, Any] = {"text": text, "x": rng.random()}
    if task.startswith("slow"):
        payload["seconds"] = round(rng.uniform(0.5, 3.0), 2)
    elif task == "flaky":
        payload["failures"] = rng.randint(1, 3)
    elif task == "snoozing":
        payload["snoozes"] = rng.randint(1, 2)
    elif task == "hostile":
        payload["kind"] = rng.choice(sorted(shop.HOSTILE))
    elif task == "crashes":
        payload["kind"] = rng.choice(sorted(shop.CRASHES))
    elif task == "odd_result":
        payload["kind"] = rng.choice(sorted(shop.ODD))
    elif task in metered_shop.ENDS:
        payload |= {"key": rng.choice("abcd"), "seconds": round(rng.uniform(0, 0.1), 3)}
        payload["failures"] = rng.choice([0, 0, 0, 1, 2])
    if task == "bad_arguments":
        return task, {"op": op, "n": "no number", "payload": payload}
    return task, {"op": op, "n": n, "payload": payload}


class Producer:
    """Inserts orders until stopped."""

    def __init__(self, name: str, seed: int, rate: float, journal: Journal) -> None:
        self._name = name
        self._rng = random.Random(seed)
        self._rate = rate
        self._journal = journal
        self._conn: psycopg.Connection[Any] | None = None
        self._recent: deque[int] = deque(maxlen=20)
        self._desk = Desk(shop.app, self._rng, journal)
        self.stopping = threading.Event()

    def run(self) -> None:
        """Work until stopped; the operation under way is finished."""
        number = 0
        while not self.stopping.wait(self._rng.expovariate(self._rate)):
            number += 1
            self._operate(f"{self._name}-{number}")
            if self._recent and self._rng.random() < CANCELS:
                self._cancel(self._rng.choice(self._recent))
            if self._recent and self._rng.random() < VERBS:
                with suppress(*LOST):
                    self._desk.act(self._rng.choice(self._recent))
            if number % 20 == 0:
                self._let_them_catch_up()
        shop.app.close()

    def _cancel(self, job: int) -> None:
        """Cancel a recent job, in any state."""
        self._journal.write(type="cancel", job=job)
        try:
            outcome = "waiting" if shop.app.cancel(job) else "running"
        except pgqueue.UnknownJob:
            outcome = "ended"
        except LOST:
            return  # it is unknown whether the job is cancelled
        self._journal.write(type="cancel", job=job, outcome=outcome)

    def _let_them_catch_up(self) -> None:
        while not self.stopping.wait(0.2):
            try:
                row = self._connection().execute("select count(*) from pgqueue.job_live").fetchone()
                self._connection().rollback()
                if row[0] < BACKLOG:
                    return
            except LOST:
                self._drop()

    def _operate(self, op: str) -> None:
        kind = draw(self._rng, KINDS)
        calls = [call(self._rng, op, n) for n in range(self._rng.randint(1, 5))]
        if kind == "solo":
            calls = [one for one in calls[:1] if one[0] not in UNKNOWN] or [("fast", {"op": op, "n": 0, "payload": {}})]
        told = {"op": op, "kind": kind, "tasks": [task for task, _ in calls]}
        self._journal.write(type="invoke", digests=[digest(args) for _, args in calls], **told)
        if kind == "solo":
            self._solo(op, *calls[0])
        elif kind == "async":
            asyncio.run(self._async(op, calls))
        else:
            self._transact(op, kind, calls)

    def _connection(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            name = "stress producer"
            self._conn = psycopg.connect(os.environ["PGQUEUE_DSN"], connect_timeout=10, application_name=name)
        return self._conn

    def _drop(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def _transact(self, op: str, kind: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
        ids: list[int] = []
        try:
            conn = self._connection()
            conn.execute("insert into stress.orders values (%s, %s)", (op, len(calls)))
            ids += [_client(task).using(conn).enqueue(_known(task), args).id for task, args in calls]
            if kind == "rollback":
                conn.rollback()
                self._journal.write(type="fail", op=op, ids=ids)
                return
        except LOST as error:
            self._drop()
            self._journal.write(type="fail", op=op, ids=ids, error=type(error).__name__)
            return
        try:
            conn.commit()
        except LOST as error:  # it is unknown whether the transaction is committed
            self._drop()
            self._journal.write(type="info", op=op, ids=ids, error=type(error).__name__)
        else:
            self._journal.write(type="ok", op=op, ids=ids)
            self._recent.extend(ids)

    async def _async(self, op: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
        ids: list[int] = []
        committing = False
        try:
            connecting = psycopg.AsyncConnection.connect(
                os.environ["PGQUEUE_DSN"], connect_timeout=10, application_name="stress producer"
            )
            async with await connecting as conn:
                await conn.execute("insert into stress.orders values (%s, %s)", (op, len(calls)))
                for task, args in calls:
                    ids.append((await _client(task).using(conn).aenqueue(_known(task), args)).id)
                committing = True
        except LOST as error:
            self._journal.write(type="info" if committing else "fail", op=op, ids=ids, error=type(error).__name__)
        else:
            self._journal.write(type="ok", op=op, ids=ids)

    def _solo(self, op: str, task: str, args: dict[str, Any]) -> None:
        try:
            job = shop.app.enqueue(task, args)
        except LOST as error:
            self._journal.write(type="info", op=op, ids=[], error=type(error).__name__)
        else:
            self._journal.write(type="ok", op=op, ids=[job.id])


def _client(task: str) -> pgqueue.App:
    return bare if task in UNKNOWN else shop.app


def _known(task: str) -> str:
    return "fast" if task == "bad_arguments" else task


def main() -> None:
    """Run a producer: its name, seed and operations a second are the arguments."""
    name, seed, rate = sys.argv[1:]
    journal = Journal(Path(os.environ["STRESS_DIRECTORY"]) / f"ops-{name}.jsonl")
    producer = Producer(name, int(seed), float(rate), journal)
    signal.signal(signal.SIGTERM, lambda *_: producer.stopping.set())
    producer.run()


if __name__ == "__main__":
    main()
