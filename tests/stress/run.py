"""One run: processes up, faults, faults stop, measured recovery, everything down, evidence in."""

import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgqueue

from . import acts, history, metered_shop, woven
from .auditor import Auditor
from .finish import finish, woven_app
from .fleet import ROOT, Fleet, Process
from .history import History, Probe
from .nemesis import Nemesis
from .plans import SMALL
from .script import Script
from .server import Database, Server, until
from .weaver import performed, promised

SHUTDOWN_SECONDS = 10.0
PATIENCE = 60.0
CORE = ("F1", "F2", "F7", "F9", "F12", "F13")


@dataclass(frozen=True)
class Settings:
    """The settings of a run. `mutant` names a seeded bug for the workers and schedulers."""

    seed: int
    seconds: float = 30.0
    must: Sequence[str] = CORE
    only: Sequence[str] = ()
    workers: int = 3
    schedulers: int = 2
    producers: int = 2
    weavers: int = 0  # of workflows, durable tasks and events
    woven: str = SMALL.name  # how large workflows are
    rate: float = 8.0
    lease: float = 2.0
    poll: float = 0.2
    deploys: bool = True  # workers started later are of a release that knows one more task
    mutant: str = ""
    quiet_seconds: float = 60.0
    keep: bool = False


@dataclass
class Result:
    """The results of a run, for the report."""

    history: History
    faults: Counter[str]
    recovery: list[float]
    directory: Path


class Stress:
    """A run: its processes, its nemesis and its measurements."""

    def __init__(self, server: Server, settings: Settings, directory: Path, name: str) -> None:
        self.settings = settings
        self.database = Database(server, name)
        self.directory = directory
        rng = random.Random(settings.seed)
        self.fleet = Fleet(self.database, directory, self._commands())
        self.nemesis = Nemesis(self.fleet, self.database, settings.lease, rng)
        self.probes: list[Probe] = []
        self.auditor = Auditor(self.database)
        self.quiet = False
        self.missing: dict[str, str] = {}

    @property
    def _pgqueue(self) -> list[str]:
        """The words after `python` that are `pgqueue`, with the seeded bug in it."""
        return ["-m", "tests.stress.mutants", self.settings.mutant] if self.settings.mutant else ["-m", "pgqueue"]

    def _commands(self) -> dict[str, list[str]]:
        s, pgq = self.settings, self._pgqueue
        process = ["-A", "tests.stress.growing_shop:app", "--lease", str(s.lease), "--poll", str(s.poll)]
        work = ["work", *process, "-c", "4", "-Q", "default,only-{name}", "--shutdown-timeout", str(SHUTDOWN_SECONDS)]
        producer = ["-m", "tests.stress.mutants", s.mutant, "producer"] if s.mutant else ["-m", "tests.stress.producer"]
        produce = [*producer, "{name}", str(s.seed) + "{number}", str(s.rate)]
        weave = ["-m", "tests.stress.weaver", "{name}", str(s.seed) + "{number}", s.woven, "0.3"]
        pgqueue = {"worker": [*pgq, *work], "scheduler": [*pgq, "schedule", *process]}
        return pgqueue | {"producer": produce, "weaver": weave}

    async def up(self) -> None:
        """Start all processes and wait until each worker and scheduler has registered, and each producer begins."""
        s = self.settings
        metered_shop.declare(self.database.dsn(user=self.database.role))
        self.auditor.start()
        self.fleet.release = "1" if s.deploys else "2"
        kinds = ["worker"] * s.workers + ["scheduler"] * s.schedulers + ["producer"] * s.producers
        kinds += ["weaver"] * s.weavers
        for kind in kinds:
            await self.fleet.start(kind)
        self.fleet.release = "2"
        there = "select count(*) >= %s from pgqueue.worker"

        async def decided() -> bool:
            if self.fleet.exits:
                return True
            producing = len(list(self.directory.glob("ops-*.jsonl"))) >= s.producers
            return producing and bool(await self.database.value(there, s.workers + s.schedulers))

        if await until(decided, 30) is None or self.fleet.exits:
            tails = [end.tail for end in self.fleet.exits[:1]]
            raise RuntimeError("the processes did not come up: " + "".join(tails or self.fleet.logs("worker")))

    async def enqueue(self, task: str, count: int = 1, **options: Any) -> list[int]:
        """Enqueue probe jobs past the proxy; return their ids."""
        payload = {"seconds": options.pop("seconds", 0), "again": options.pop("again", None), "failures": 0}
        payload["key"] = options.pop("key", "probe")
        app = pgqueue.App(self.database.dsn(user=self.database.role))
        try:
            client = app.using(**options)
            args = {"op": f"probe-{task}", "n": 0, "payload": payload}
            return [(await client.aenqueue(task, args)).id for _ in range(count)]
        finally:
            await app.aclose()

    async def operate(self, *command: str) -> None:
        """Give a command, past the proxy."""
        environ = os.environ | {"PGQUEUE_DSN": self.database.dsn(user=self.database.role), "PYTHONPATH": str(ROOT)}
        words = [sys.executable, *self._pgqueue, *command]
        operator = await asyncio.create_subprocess_exec(
            *words, env=environ, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
        )
        if status := await operator.wait():
            raise RuntimeError(f"{' '.join(command)} has failed with status {status}")

    async def probe(self, number: str, what: str, condition: Callable[[], Awaitable[Any]], bound: float) -> bool:
        """Measure how long something takes to come true."""
        took = await until(condition, bound)
        self.probes.append(Probe(number, what, took, bound))
        return took is not None

    async def complete(self) -> None:
        """Let weavers go on, and play what is missing from a script, until each of their acts has had its effect."""
        if self.settings.weavers:
            self.missing = await asyncio.to_thread(self._complete)

    def _complete(self) -> dict[str, str]:
        ends = time.monotonic() + PATIENCE
        with woven_app(self.database.dsn(user=self.database.role)) as (app, conn):
            script = Script(app, self.settings.seed)
            while True:
                counts = performed(self.directory) + Counter(acts.effects(conn))
                lacks = acts.missing(counts, 1, faults=())
                if not lacks or time.monotonic() > ends:
                    return lacks
                script.play(conn, lacks)
                time.sleep(0.2)

    async def still(self) -> None:
        """Stop the producers and the weavers, in order."""
        self.fleet.kept = ("worker", "scheduler")
        for process in [*self.fleet.of("producer"), *self.fleet.of("weaver")]:
            await self.fleet.stop(process, 30)

    async def recover(self) -> None:
        """After the faults: every worker claims and resolves, the schedule is caught up, a killed worker is rescued."""
        registered = "select count(*) = %s from pgqueue.worker where lost_at is null and kind = 'worker'"
        await self.probe("L7", "each worker beats", lambda: self.database.value(registered, self.settings.workers), 20)
        workers = self.fleet.of("worker")
        late = "select coalesce(min(next_tick) > clock_timestamp() - interval '2 s', false) from pgqueue.schedule"
        probes = [self._canary(worker) for worker in workers]
        if self.settings.schedulers:
            probes.append(self.probe("L8", "the schedule has caught up", lambda: self.database.value(late), 20))
        await asyncio.gather(*probes)
        for task in ("for_tenants", "in_line", "charged"):
            await self._turn(task)
        await self._rescue(workers[-1])

    async def _turn(self, task: str) -> None:
        """FL5: a job with a key of its own runs, whatever waits in other lanes."""
        job = (await self.enqueue(task, key="of its own"))[0]
        done = "select state = 'succeeded' from pgqueue.job where id = %s"
        await self.probe("FL5", f"a job of {task} has its turn", lambda: self.database.value(done, job), 10)

    async def _canary(self, worker: Process) -> bool:
        job = (await self.enqueue("fast", queue=f"only-{worker.name}"))[0]
        done = "select state = 'succeeded' from pgqueue.job where id = %s"
        return await self.probe("L7", f"{worker.name} runs a job", lambda: self.database.value(done, job), 20)

    async def _rescue(self, worker: Process) -> None:
        jobs = await self.enqueue("slow", 2, queue=f"only-{worker.name}", seconds=2, priority=100)
        running = "select count(*) > 0 from pgqueue.job_live where id = any(%s) and state = 'running'"
        if not await self.probe("L7", "it takes slow jobs", lambda: self.database.value(running, jobs), 20):
            return
        worker.planned = "L1"
        worker.send(signal.SIGKILL)
        freed = f"select not exists ({running.replace('count(*) > 0', '')})"
        # A beat may be a quarter of a lease old; rescuers step each third of a lease, spread by a fifth.
        bound = self.settings.lease * 1.4 + 2
        await self.probe("L1", f"{worker.name}'s jobs are rescued", lambda: self.database.value(freed, jobs), bound)
        moved = "update pgqueue.job_live set queue = 'default' where id = any(%s) and state = 'pending'"
        await self.database.rows(moved, jobs)

    async def quiesce(self) -> None:
        """Wait until every job that can end has ended."""
        rest = "select count(*) = 0 from pgqueue.job_live where task not in ('tick', 'nobody_knows', 'shut_out')"

        async def ended() -> bool:
            woven = not self.settings.weavers or await asyncio.to_thread(self._finish)
            return bool(await self.database.value(rest)) and woven

        self.quiet = await self.probe("L4", "all jobs have ended", ended, self.settings.quiet_seconds)

    def _finish(self) -> bool:
        """Give durable tasks and workflows what they wait for; return whether all of these have ended."""
        with woven_app(self.database.dsn(user=self.database.role)) as (app, conn):
            return finish(conn, app)

    async def down(self) -> dict[str, int]:
        """End all processes in order, schedulers first so that no tick comes late; return what they have left."""
        self.fleet.replacing = False
        rest = "select count(*) = 0 from pgqueue.job_live where task not in ('nobody_knows', 'shut_out')"
        for kind in ("scheduler", "worker"):
            stopping = self.fleet.of(kind)
            took = await asyncio.gather(*(self.fleet.stop(p, SHUTDOWN_SECONDS + 10) for p in stopping))
            for process, seconds in zip(stopping, took, strict=True):
                self.probes.append(Probe("L5", f"{process.name} ends after SIGTERM", seconds, SHUTDOWN_SECONDS + 8))
            if kind == "scheduler" and self.quiet:
                await until(lambda: self.database.value(rest), self.settings.quiet_seconds)
        await self.auditor.stop()
        ours = f"datname = '{self.database.name}' and pid <> pg_backend_pid()"
        connected = f"from pg_stat_activity where application_name like 'pgqueue%%' and {ours}"
        await until(lambda: self.database.value(f"select count(*) = 0 {connected}"), 5)
        questions = {
            "connections": f"select count(*) {connected}",
            "advisory locks": "select count(*) from pg_locks where locktype = 'advisory'",
            "open transactions": f"select count(*) from pg_stat_activity where state like 'idle in%%' and {ours}",
            "prepared transactions": "select count(*) from pg_prepared_xacts",
            "rows of living workers": "select count(*) from pgqueue.worker where lost_at is null",
            "percent of the notification queue": "select (pg_notification_queue_usage() * 100)::int",
        }
        return {what: await self.database.value(question.replace("%%", "%")) for what, question in questions.items()}

    def evidence(self, hygiene: dict[str, int]) -> History:
        """Collect the evidence when all processes have ended."""
        told = history.load(self.database.dsn(), self.directory)
        told.drifts, told.looks = self.auditor.drifts, self.auditor.looks
        told.probes, told.hygiene, told.exits = self.probes, hygiene, self.fleet.exits
        if self.settings.weavers:
            told.woven = woven.load(self.database.dsn())
            told.woven.promised, told.woven.quiescent = promised(self.directory), self.quiet
            told.missing = self.missing
        return told


@asynccontextmanager
async def stage(server: Server, settings: Settings, name: str) -> AsyncIterator[Stress]:
    """Set up a run; whatever happens, no process and no database of it stays."""
    directory = Path(tempfile.mkdtemp(prefix="pgqueue-stress-run-"))
    stress = Stress(server, settings, directory, name)
    try:
        yield stress
    finally:
        await stress.auditor.stop()
        await stress.fleet.kill_all()
        await stress.nemesis.relent()
        stress.database.drop()
        if not settings.keep:
            shutil.rmtree(directory, ignore_errors=True)


async def soak(server: Server, settings: Settings, name: str = "stress") -> Result:
    """Run with faults for as long as the settings say."""
    async with stage(server, settings, name) as stress:
        await stress.up()
        await stress.nemesis.rage(settings.seconds, settings.must, settings.only)
        await stress.nemesis.relent()
        await stress.complete()
        await stress.still()
        await stress.recover()
        await stress.quiesce()
        told = stress.evidence(await stress.down())
        return Result(told, stress.nemesis.done, stress.nemesis.recovery, stress.directory)
