"""Connections claim, end, suspend, wake, cancel and edit at once: what runs and keeps places exceeds no limit."""

import json
import random
import threading
from collections.abc import Callable
from typing import LiteralString
from uuid import UUID

import pytest

from pgqueue import db
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries.jobs.change import Edit, EditedJob
from pgqueue.queries.turns.claim import Line
from pgqueue.queries.turns.kept import KeptPlace
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_worker
from tests.statements.turns import keyed, metered, rule

Open = Callable[[], Conn]
FLOWS = [keyed("line"), keyed("line", "stripe"), Flow(("line", "t#order/7"), order="t#order/7")]
MOST = {"line": 3, "stripe": 2, "t#order/7": 1}
ENDS = [Resolution("retry", "error", 0.0), Resolution("dead_letter", "x"), Resolution("release", "stopped")]
ASLEEP = Resolution("snooze", "asleep", 0.0, refund=True)
HELD: LiteralString = """
select b.name, (select count(*) from pgqueue.job_live j
                where j.worker_id is not null and j.headers -> '$flow' -> 'buckets' ? b.name)
             + (select count(*) from pgqueue.limit_hold h
                join pgqueue.job_live j on j.id = h.job_id and j.lease = h.lease and j.state = 'blocked'
                where h.bucket = b.name), u.taken - f.freed
from pgqueue.limit_bucket b join pgqueue.limit_use u using (name) join pgqueue.limit_freed f using (name)"""
WAITING: LiteralString = """
select j.id from pgqueue.job_live j where j.state = 'blocked'
order by exists (select from pgqueue.limit_hold h where h.job_id = j.id) and random() < 0.7 desc, random() limit 2"""


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


class Crew:
    """One connection that does what comes to its mind, by a seed."""

    def __init__(self, conn: Conn, worker: UUID, seed: int) -> None:
        self.conn, self.worker, self.dice = conn, worker, random.Random(seed)
        self.jobs: list[ClaimedJob] = []
        self.resumed = self.slept = 0

    def act(self) -> None:
        """Do one thing, in one transaction."""
        acts = [*[self.claim] * 3, self.end, *[self.sleep] * 3, self.wake, *[self.meddle] * 2]
        with self.conn.transaction():
            self.dice.choice(acts)()

    def claim(self) -> None:
        """Look, and claim from some lanes, as a worker does."""
        seen = db.run(self.conn, QUERIES.turns.look([("default", -(2**63))], 100))
        lines = []
        for lane in seen:
            flow = json.loads(lane.flow)
            is_stale = lane.number < 0 and self.dice.random() < 0.2  # seen before the first job had kept a place
            kept = json.dumps(flow["kept"]) if "kept" in flow and not is_stale else None
            lines.append(Line(lane.number, lane.priority, json.dumps(flow["buckets"]), 2, kept=kept))
        lines = [line for line in lines if line.kept is not None and self.dice.random() < 0.8] or [
            line for line in lines if line.kept is None
        ]
        if lines:
            claimed = db.run(self.conn, QUERIES.turns.claim(self.worker, "default", lines, room=3, slots=3)).jobs
            self.resumed += len(claimed) if lines[0].kept is not None else 0
            self.jobs += claimed

    def end(self) -> None:
        """End an attempt in some way, or lose all of them."""
        if self.dice.random() < 0.1:
            db.run(self.conn, QUERIES.jobs.release_strays(self.worker, []))
            self.jobs.clear()
        elif self.jobs:
            ends = PLAIN_SUCCESS if self.dice.random() < 0.5 else self.dice.choice(ENDS)
            db.run(self.conn, QUERIES.jobs.resolve([(self.jobs.pop(), ends)]))

    def sleep(self) -> None:
        """Let a job wait."""
        if self.jobs:
            job = self.jobs.pop(0)
            if db.run(self.conn, QUERIES.jobs.resolve([(job, ASLEEP)])):
                db.run(self.conn, QUERIES.steps.put_to_sleep([(job, None)]))
                self.slept += 1

    def wake(self) -> None:
        """Let what waits go on."""
        self.conn.execute(
            "update pgqueue.job_live set run_at = now() where id in (select id from pgqueue.job_live "
            "where state = 'blocked' and run_at > now() order by id limit 3 for update skip locked)"
        )

    def meddle(self) -> None:
        """Do what people and duties do."""
        found = [job for (job,) in self.conn.execute(WAITING)]
        match self.dice.randrange(5):
            case 0 if found:
                db.run(self.conn, QUERIES.jobs.cancel(sorted(found), "enough"))
            case 1 if found and db.run(self.conn, QUERIES.jobs.lock_waiting(found[0])):
                db.run(self.conn, QUERIES.jobs.edit_waiting({found[0]: EditedJob()}, "e", Edit(delay=0.0)))
            case 2:
                db.run(self.conn, QUERIES.turns.give_up(KeptPlace(), 100))
            case 3:
                on = self.dice.random() < 0.8
                self.conn.execute("update pgqueue.limit_rule set while_waiting = %s where name = 'line'", (on,))
            case _:
                metered(self.conn, self.dice.choice(FLOWS), 2)


def test_what_runs_and_what_keeps_places_never_exceeds_a_limit(conn: Conn, connect: Open) -> None:
    rule(conn, "line", max_running=MOST["line"], while_waiting=True)
    rule(conn, "stripe", max_running=MOST["stripe"])
    rule(conn, "t#order", kind="order", max_running=1)
    crew = [Crew(connect(), add_worker(conn), seed) for seed in range(4)]
    assert scalar(conn, "select pgqueue.keep_places()") is None
    for flow in FLOWS:
        metered(conn, flow, 4)
    failures: list[BaseException] = []

    def run(one: Crew) -> None:
        try:
            for _ in range(200):
                one.act()
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in crew]
    for thread in threads:
        thread.start()
    audits = 0
    while any(thread.is_alive() for thread in threads):
        for name, held, counted in conn.execute(HELD).fetchall():
            assert held == counted <= MOST[name], (name, held, counted)
        audits += 1
    for thread in threads:
        thread.join()
    assert failures == []
    assert audits > 10
    assert min(sum(one.slept for one in crew), sum(one.resumed for one in crew)) > 10
