"""A worker of a storm: pgqueue's statements and roster about metered jobs, driven at random and as fast as they go.

It claims, holds, resolves, loses answers, gives strays back, beats, and rescues from those that do not beat.
"""

import json
import os
import random
import sys
import time
import uuid
from typing import Any

import psycopg

from pgqueue import db
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries import Queries
from pgqueue.queries.turns.claim import Line
from pgqueue.queries.turns.full import FullLane
from pgqueue.queries.turns.look import SeenLane
from pgqueue.worker.claiming.roster import Roster

from . import storm_mutants

QUEUE = "default"
LEAST = -(2**63)
LEASE = 0.6
FAILED = ErrorInfo("builtins.RuntimeError", "no", "")
REGISTER = """
insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds)
values (%s, 'worker', 'h', %s, '0', '{default}', '{t}', 8, %s)"""
BEAT = """
update pgqueue.worker set heartbeat_at = clock_timestamp() where id = %s and lost_at is null returning id"""
NOTE = """
insert into public.begun select job, %s, clock_timestamp() from unnest(%s::bigint[]) as job"""
ENDS = (
    (PLAIN_SUCCESS, 50),
    (Resolution("succeed", result="1"), 10),
    (Resolution("retry", "error", 0.0, error=FAILED), 15),
    (Resolution("retry", "error", 0.03, error=FAILED), 5),
    (Resolution("snooze", "later", 0.02, refund=True), 5),
    (Resolution("release", "given back", refund=True), 5),
    (Resolution("withdraw", "not wanted"), 3),
    (Resolution("dead_letter", "rejected", error=FAILED), 2),
)


class StormWorker:
    """One process. What it holds it believes to run."""

    def __init__(self, conn: psycopg.Connection[Any], seed: int) -> None:
        self._conn = conn
        self._rng = random.Random(seed)
        self._queries = Queries("pgqueue")
        self._held: dict[int, ClaimedJob] = {}
        self._seen: list[SeenLane] = []
        self._beaten = 0.0
        self._steps = [
            (self._look, 10), (self._claim_turns, 25), (self._claim_anything, 25), (self._resolve, 50),
            (self._complete, 4), (self._strays, 2), (self._rescue, 5), (self._clear_full, 6),
        ]  # fmt: skip
        self._register()

    def _register(self) -> None:
        self._id, self._roster = uuid.uuid4(), Roster()
        self._held.clear()
        self._conn.execute(REGISTER, (self._id, os.getpid(), LEASE))

    def step(self) -> None:
        """Do one thing. A deadlock is told: there must be none."""
        if time.monotonic() - self._beaten > LEASE / 6:
            if self._conn.execute(BEAT, (self._id,)).fetchone() is None:
                self._register()
            self._beaten = time.monotonic()
        steps, weights = zip(*self._steps, strict=True)
        try:
            self._rng.choices(steps, weights)[0]()
        except psycopg.errors.DeadlockDetected as error:
            print(json.dumps({"deadlock": str(error)}), flush=True)

    def _look(self) -> None:
        self._seen = db.run(self._conn, self._queries.turns.look([(QUEUE, LEAST)], 1000))
        missing = self._roster.see(self._seen, [(QUEUE, LEAST, -LEAST)])
        if missing:
            db.run(self._conn, self._queries.turns.make_buckets(missing))

    def _claim_turns(self) -> None:
        """Claim the lanes whose turn it is, as a worker does."""
        self._claim(self._roster.choose(QUEUE, room := self._rng.randint(1, 6)), room)

    def _claim_anything(self) -> None:
        """Claim from any lanes, whatever a look has said of them."""
        found = self._rng.sample(self._seen, min(len(self._seen), self._rng.randint(1, 12)))
        buckets = [json.dumps(Flow.of_header(json.loads(lane.flow)).buckets) for lane in found]
        lines = [
            Line(lane.number, lane.priority, names, self._rng.randint(1, 6))
            for lane, names in zip(found, buckets, strict=True)
        ]
        self._claim(lines, self._rng.randint(1, 6))

    def _claim(self, lines: list[Line], room: int) -> None:
        if not lines or len(self._held) > 20:
            return
        slots = self._rng.randint(room // 2, room)
        (began,) = self._conn.execute("select clock_timestamp()").fetchone() or (None,)
        claimed = db.run(self._conn, self._queries.turns.claim(self._id, QUEUE, lines, room=room, slots=slots))
        if jobs := claimed.jobs:
            self._conn.execute(NOTE, (began, [job.id for job in jobs]))
        self._roster.claimed(QUEUE, lines, claimed.lanes, room)
        if self._rng.random() > 0.03:  # else the answer is lost
            self._held.update((job.id, job) for job in jobs)

    def _some(self) -> list[tuple[ClaimedJob, Resolution]]:
        kinds, weights = zip(*ENDS, strict=True)
        jobs = self._rng.sample([*self._held.values()], min(len(self._held), self._rng.randint(1, 4)))
        return [(job, self._ending(job, self._rng.choices(kinds, weights)[0])) for job in jobs]

    @staticmethod
    def _ending(job: ClaimedJob, ends: Resolution) -> Resolution:
        spent = job.attempt >= job.max_attempts and ends.verb == "retry"
        return Resolution("dead_letter", "error", error=FAILED) if spent else ends

    def _resolve(self) -> None:
        self._write(self._some())

    def _complete(self) -> None:
        """End jobs in a transaction that goes on for a moment, as that of a task does until its commit."""
        with self._conn.transaction():
            self._write(self._some())
            time.sleep(self._rng.uniform(0, 0.01))

    def _write(self, batch: list[tuple[ClaimedJob, Resolution]]) -> None:
        if not batch:
            return
        db.run(self._conn, self._queries.jobs.resolve(batch))
        for job, _ in batch:
            self._held.pop(job.id, None)
            self._roster.ended([job])

    def _strays(self) -> None:
        db.run(self._conn, self._queries.jobs.release_strays(self._id, [*self._held]))

    def _rescue(self) -> None:
        db.run(self._conn, self._queries.workers.declare_lost())
        db.run(self._conn, self._queries.jobs.rescue(self._id, max_crashes=1000))

    def _clear_full(self) -> None:
        """Do what a rule says of jobs behind a full bucket."""
        for lane in self._seen:
            if lane.policy and lane.due_in <= 0:
                policy, _, bucket = lane.policy.partition(" ")
                full = FullLane(lane.queue, lane.number, lane.priority, bucket, policy)
                db.run(self._conn, self._queries.turns.cancel_behind(full, 100))


def main() -> None:
    """Work until killed: the seed, and the name of a seeded bug if there is one, are the arguments."""
    seed, mutant = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    if mutant:
        storm_mutants.MUTANTS[mutant].apply(seed)
    with psycopg.connect(os.environ["STORM_DSN"], autocommit=True, options="-c deadlock_timeout=20ms") as conn:
        worker = StormWorker(conn, seed)
        while True:
            worker.step()


if __name__ == "__main__":
    main()
