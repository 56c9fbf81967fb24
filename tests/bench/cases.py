"""The cases by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from . import backlog, before, drain, durable, enqueue, flow, groups, idle, latency, locks, overhead, turns, workflows
from .results import Record
from .session import BenchSession


class Run(Protocol):
    """One run of a case with so many jobs."""

    def __call__(self, session: BenchSession, n: int, /) -> Record: ...


@dataclass(frozen=True)
class Case:
    """One case. `peer` holds the arguments with which the peers' harness runs the same case, if it has it."""

    name: str
    what: str
    jobs: int
    run: Run
    peer: tuple[str, ...] = ()


_drain: Callable[..., Record] = drain.drain
_flow = flow.flow
_LONG = ("--jobs", "1000000")

CASES = {
    case.name: case
    for case in (
        Case("a", "enqueue one by one, a commit each", 2000, partial(enqueue.single, verb="one"), ("a",)),
        Case("a-lent", "the same on a borrowed connection", 2000, partial(enqueue.single, verb="borrowed")),
        Case("a-hand", "the same row by hand: a prepared INSERT", 2000, partial(enqueue.single, verb="hand")),
        Case("b", "enqueue in calls of 1,000", 50_000, enqueue.bulk, ("b",)),
        Case("b-copy", "the same rows by COPY, 1,000 a commit", 50_000, enqueue.copy),
        Case("k", "enqueue in calls of 1,000 with idempotency keys, against without", 100_000,
             partial(enqueue.keyed, how="bulk")),
        Case("k-one", "the same one by one, a commit each", 5000, partial(enqueue.keyed, how="one")),
        Case("k-lent", "the same one by one in one transaction", 5000, partial(enqueue.keyed, how="borrowed")),
        Case("c", "drain, one process, async, full history", 400_000, _drain, ("c",)),
        Case("c0", "drain, nothing kept (retention=0)", 400_000, partial(_drain, task=drain.FORGETS)),
        Case("d", "drain, two processes", 400_000, partial(_drain, processes=2), ("d",)),
        Case("ct", "drain, sync task in threads", 200_000, partial(_drain, task="noop_thread", threads=True)),
        Case("ct100", "the same with as many slots as case c has", 200_000, partial(_drain, task="noop_thread")),
        Case("n", "8 producers commit beside a worker, notified when it waits", 12_000,
             partial(enqueue.crowd, notified="waiting")),
        Case("n-never", "8 producers commit beside a worker that is never notified", 12_000,
             partial(enqueue.crowd, notified="never")),
        Case("n-always", "8 producers commit, no worker, each commit notifies", 12_000,
             partial(enqueue.crowd, notified="always")),
        Case("n-nobody", "8 producers commit, no worker, no commit notifies", 12_000,
             partial(enqueue.crowd, notified="nobody")),
        Case("e", "latency, idle worker, 20 jobs/s", 300, partial(latency.latency, hertz=20), ("e",)),
        Case("e1000", "latency, 1,000 jobs/s", 10_000, partial(latency.latency, hertz=1000, producers=2)),
        Case("f", "flow, VACUUM every 5 s", 1_000_000, partial(_flow, vacuum=5.0), ("f0", "--vacuum", "5", *_LONG)),
        Case("f-reader", "flow, VACUUM every 5 s, pinned by a snapshot", 1_000_000,
             partial(_flow, vacuum=5.0, pin="reader"), ("f", "--vacuum", "5", *_LONG)),
        Case("f-writer", "flow, VACUUM every 5 s, pinned by a transaction that has written", 1_000_000,
             partial(_flow, vacuum=5.0, pin="writer")),
        Case("f0", "flow, no VACUUM, no pin", 1_000_000, _flow, ("f0", *_LONG)),
        Case("g", "drain after 1,000,000 finished, beside 200,000 of tomorrow", 400_000,
             partial(backlog.after_history, finished=1_000_000, scheduled=200_000), ("g",)),
        Case("g10", "drain after 10,000,000 finished, beside 1,000,000 of tomorrow", 400_000,
             partial(backlog.after_history, finished=10_000_000, scheduled=1_000_000)),
        Case("l21", "claim 100 of 10,000,000 ready jobs in 21 lanes, against 10,000", 10_000_000, backlog.lanes),
        Case("w", "WAL a job, enqueue to finished, full history", 200_000, drain.wal),
        Case("m", "memory of the worker over 1,000,000 jobs", 1_000_000, drain.memory),
        Case("o-metrics", "drain with metrics scraped each second, against without", 200_000, overhead.metrics),
        Case("o-traced", "drain with tracing sampled out, against without", 200_000, overhead.traced),
        Case("o-traced-1ms", "the same with jobs that compute for a millisecond", 20_000,
             partial(overhead.traced, task="busy")),
        Case("unused", "drain of plain jobs, against the release before limits, workflows and steps", 200_000,
             before.unused),
        Case("q-loose", "drain with a limit that does not bind, against plain jobs", 200_000,
             partial(turns.against_plain, fill=turns.loose)),
        Case("q-fair", "drain of 1,000 tenants that share fairly, against plain jobs", 200_000,
             partial(turns.against_plain, fill=turns.fair)),
        Case("q-tenant", "drain of 1,000 tenants, five at a time each, against plain jobs", 200_000,
             partial(turns.against_plain, fill=turns.tenants)),
        Case("q-own", "drain of jobs that have a bucket each, against plain jobs", 100_000,
             partial(turns.against_plain, fill=turns.own_buckets)),
        Case("q-behind", "drain of plain jobs beside 1,000,000 behind a full bucket, against without", 200_000,
             partial(turns.beside_full, waiting=1_000_000)),
        Case("q-one", "drain of empty jobs, one at a time", 5000, turns.one_at_a_time),
        Case("q-rate", "100 a second, burst 10, over four workers", 2000, turns.at_a_rate),
        Case("q-new", "one job of a new tenant beside 1,000,000 of another", 100, turns.new_tenant),
        Case("q-slots", "jobs of 20 ms, ten of one key at a time, four workers", 5000, turns.used_slots),
        Case("q-pinned", "drain of one limited lane, pinned by a snapshot", 300_000, turns.pinned),
        Case("q-why", "why one of 1,000,000 jobs behind a full bucket does not run", 1_000_000, turns.look),
        Case("q-lock", "take and release a free named lock, against a row by hand", 5000, locks.free),
        Case("s-chain", "a chain of 1,000 empty jobs", 1000, workflows.chain),
        Case("s-chains", "drain of chains of five, against plain jobs", 50_000,
             partial(workflows.against_plain, fill=workflows.chains)),
        Case("s-group", "drain of one group and its callback, two processes, against plain jobs", 100_000,
             workflows.group),
        Case("s-fanin", "members of one group end one a statement, 16 connections, against plain jobs", 32_000,
             groups.fan_in),
        Case("s-pinned", "groups of 1,000 and their callbacks one after the other, pinned by a snapshot", 200_000,
             groups.pinned),
        Case("s-stream", "stream 1,000,000 members into a batch", 1_000_000, groups.streamed),
        Case("s-graph", "insert a graph of 10,000 jobs and 20,000 edges", 10_000, workflows.graph),
        Case("s-cascade", "the root of 10,000 descendants fails beside 100 plain jobs a second", 10_000,
             workflows.cascade),
        Case("s-sleepers", "drain of plain jobs beside 1,000,000 that sleep, against without", 200_000,
             workflows.beside_sleepers),
        Case("s-steps", "jobs of ten recorded steps each", 10_000, workflows.steps),
        Case("s-step", "jobs of 1,000 steps, one job at a time", 10, durable.one_by_one),
        Case("s-replay", "replay 1,000 steps, one job at a time", 10, durable.replay),
        Case("s-signal", "a signal to a job that waits, 20 a second", 400, durable.signalled),
        Case("i", "idle worker", 0, idle.idle),
    )
}  # fmt: skip
