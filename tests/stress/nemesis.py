"""The nemesis: draws faults from a seed and commits them, one after the other, sometimes two at once."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import psycopg

import pgqueue

from .fleet import Fleet, Process
from .metered_shop import LIMITS
from .proxy import Trap
from .server import Database, until

Fault = Callable[[], Awaitable[bool]]
PATIENCE = 15.0
TRIES = 5  # of a fault that must take place


class Nemesis:
    """Knows the faults by their numbers in the project's matrix; `done` counts those that took place."""

    def __init__(self, fleet: Fleet, database: Database, lease: float, rng: random.Random) -> None:
        self._fleet = fleet
        self._database = database
        self._lease = lease
        self._rng = rng
        self._apart = asyncio.Lock()  # for faults that change the role or the server: one at a time
        self._holding: set[asyncio.Task[None]] = set()
        self.done: Counter[str] = Counter()
        self.recovery: list[float] = []
        self.faults: dict[str, Fault] = {
            "F1": self.kill_worker, "F2": self.freeze_worker, "F3": self.terminate_worker, "F4": self.murder,
            "F6": self.block_loop, "F7": self.terminate_backend, "F8": self.restart_fast, "F9": self.restart_immediate,
            "F11": self.reset_connections, "F12": self.black_hole, "F13": self.lose_answer, "F14": self.latency,
            "F10": self.lazy_commits, "F15": self.statement_timeout, "F16": self.isolation, "F17": self.held_snapshot,
            "F19": self.lost_notifications, "F20": self.no_statistics, "F30": self.no_schedulers,
            "F44": self.change_limit, "F22": self.few_slots, "F29": self.stop_scheduler,
        }  # fmt: skip

    async def rage(self, seconds: float, must: Sequence[str], only: Sequence[str] = ()) -> None:
        """Commit each fault of `must`, in an order drawn, and go on with any until the time is over.

        One of `must` that did not take place is committed again after the others, a few times: on a busy machine the
        message that F13 wants to lose may not come in time, or a process that F2 freezes is not declared lost.
        """
        restarts = () if self._database.server.restartable else ("F8", "F9")
        names = [name for name in (only or self.faults) if name not in restarts]
        plan = [name for name in must if name in names]
        self._rng.shuffle(plan)
        tries = Counter[str]()
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while plan or loop.time() < ends:
            now = [plan.pop() if plan else self._rng.choice(names)]
            if self._rng.random() < 0.25 and not plan:
                now.append(self._rng.choice(names))
            await asyncio.gather(*(self.commit(name) for name in dict.fromkeys(now)))
            tries.update(now)
            plan = [name for name in now if name in must and not self.done[name] and tries[name] < TRIES] + plan
            await self._see_progress()

    async def commit(self, name: str) -> None:
        """Commit one fault; count it if it took place, and not while another fault restarts the server."""
        with suppress(psycopg.OperationalError):
            if await self.faults[name]():
                self.done[name] += 1

    async def _see_progress(self) -> None:
        """Wait until jobs end again, so that faults hit a system that works and not one that is down already."""
        await self._settled()
        seq = await self._database.value("select coalesce(max(seq), 0) from stress.chk_log")
        ended = "select count(*) >= 5 from stress.chk_log where seq > %s and tbl = 'job_finished'"
        took = await until(lambda: self._database.value(ended, seq), PATIENCE)
        self.recovery.append(PATIENCE if took is None else took)

    async def _settled(self) -> None:
        async def answers() -> bool:
            return bool(await self._database.value("select true"))

        await until(answers, PATIENCE)

    def _any(self, kind: str) -> Process | None:
        found = [process for process in self._fleet.of(kind) if not process.planned]
        return self._rng.choice(found) if found else None

    async def _registered(self, process: Process) -> bool:
        there = "select exists (select from pgqueue.worker where pid = %s)"
        return bool(await self._database.value(there, process.pid))

    async def kill_worker(self) -> bool:
        """F1: SIGKILL a worker, sometimes a producer or a weaver."""
        others = [kind for kind in ("producer", "weaver") if self._fleet.of(kind)]
        kind = "worker" if self._rng.random() < 0.85 or not others else self._rng.choice(others)
        victim = self._any(kind)
        if victim is None:
            return False
        victim.planned = "F1"
        victim.send(signal.SIGKILL)
        await victim.ended.wait()
        if kind == "producer":
            await self._fleet.start("producer")
        return True

    async def freeze_worker(self) -> bool:
        """F2: SIGSTOP a worker until others have declared it lost, then let it continue."""
        victim = self._any("worker")
        if victim is None or await until(lambda: self._registered(victim), PATIENCE) is None:
            return False
        lost = "select bool_and(lost_at is not null) from pgqueue.worker where pid = %s"
        victim.send(signal.SIGSTOP)
        try:
            took = await until(lambda: self._database.value(lost, victim.pid), 4 * self._lease)
            await asyncio.sleep(self._rng.uniform(0, 0.7))  # some jobs start elsewhere, some are only rescued
        finally:
            victim.send(signal.SIGCONT)
        return took is not None

    async def terminate_worker(self) -> bool:
        """F3: SIGTERM a worker; it is replaced. Sometimes twice: then it releases the jobs that run."""
        victim = self._any("worker")
        if victim is None or await until(lambda: self._registered(victim), PATIENCE) is None:
            return False
        twice = self._rng.random() < 0.4
        stopping = asyncio.create_task(self._fleet.stop(victim, 30, "F3 twice" if twice else "F3"))
        if twice:
            told = "select coalesce(bool_and(stopping), true) from pgqueue.worker where pid = %s"
            await until(lambda: self._database.value(told, victim.pid), 5)
            victim.send(signal.SIGTERM)
        return await stopping is not None

    async def murder(self) -> bool:
        """F4: enqueue a job that kills its worker each time it runs."""
        app = pgqueue.App(self._database.dsn(user=self._database.role))
        self._fleet.murders += 2
        try:
            args = {"op": f"probe-murder-{self.done['F4']}", "n": 0, "payload": {}}
            await app.using(max_attempts=2).aenqueue("murder", args)
        except (pgqueue.PgqueueError, psycopg.Error):
            return False
        finally:
            await app.aclose()
        return True

    async def block_loop(self) -> bool:
        """F6: a job blocks its worker's event loop for longer than a lease; the heartbeat keeps the worker alive."""
        client = pgqueue.App(self._database.dsn(user=self._database.role))
        try:
            payload = {"seconds": self._lease * 1.5}
            await client.aenqueue("blocks", {"op": f"probe-blocks-{self.done['F6']}", "n": 0, "payload": payload})
        except (psycopg.Error, pgqueue.PgqueueError, OSError):
            return False
        finally:
            await client.aclose()
        return True

    async def lazy_commits(self) -> bool:
        """F10: commits do not wait for the disk. The server does not crash meanwhile, so nothing may be missing."""
        return await self._with_role(
            "set synchronous_commit = off", "reset synchronous_commit", self._rng.uniform(1.0, 3.0)
        )

    async def no_statistics(self) -> bool:
        """F20: no autovacuum, and no statistics about the jobs."""
        try:
            await self._database.rows("alter table pgqueue.job_live set (autovacuum_enabled = off)")
            await self._database.rows("delete from pg_statistic where starelid = 'pgqueue.job_live'::regclass")
            await self._database.rows("select pg_stat_reset()")
            await asyncio.sleep(self._rng.uniform(1.0, 3.0))
            await self._database.rows("alter table pgqueue.job_live reset (autovacuum_enabled)")
        except (psycopg.Error, OSError):
            return False
        return True

    async def no_schedulers(self) -> bool:
        """F30: no scheduler runs for a few ticks."""
        stopped = self._fleet.of("scheduler")
        for process in stopped:
            process.send(signal.SIGSTOP)
        await asyncio.sleep(3.2)
        for process in stopped:
            process.send(signal.SIGCONT)
        return bool(stopped)

    async def terminate_backend(self) -> bool:
        """F7: pg_terminate_backend of up to three of pgqueue's connections."""
        found = await self._database.rows(
            "select pid from pg_stat_activity where application_name like 'pgqueue%%' and datname = %s order by pid",
            self._database.name,
        )
        pids = [row[0] for row in found]
        chosen = self._rng.sample(pids, min(len(pids), self._rng.randint(1, 3)))
        await self._database.rows("select pg_terminate_backend(pid) from unnest(%s::int[]) as pid", chosen)
        return bool(chosen)

    async def restart_fast(self) -> bool:
        """F8: restart Postgres in order."""
        async with self._apart:
            await self._database.server.restart("fast", self._rng.uniform(0, 1.5))
        return True

    async def restart_immediate(self) -> bool:
        """F9: stop Postgres at once, so that it has to recover."""
        async with self._apart:
            await self._database.server.restart("immediate", self._rng.uniform(0, 1.5))
        return True

    async def reset_connections(self) -> bool:
        """F11: cut the connections of one process, or of all, with a reset."""
        everybody = list(self._fleet.living.values())
        for process in everybody if self._rng.random() < 0.3 else self._rng.sample(everybody, 1):
            process.gate.reset()
        return True

    async def black_hole(self) -> bool:
        """F12: one connection, a process, or every worker is cut off without a reset.

        What is sent is lost, or arrives late.
        """
        one = self._rng.sample(list(self._fleet.living.values()), 1)
        victims = self._rng.choice([one, one, one, self._fleet.of("worker")])
        kind = self._rng.choice(["swallow", "hold", "one"])
        duty = self._rng.choice(["claim", "resolve", "heartbeat", "chores"])
        for process in victims:
            match kind:
                case "swallow":
                    process.gate.black_hole()
                case "hold":
                    process.gate.hold()
                case _:
                    process.gate.deafen(f"pgqueue {process.kind} {duty}")
        await asyncio.sleep(self._lease * self._rng.uniform(1.0, 2.0))
        for process in victims:
            process.gate.heal()
        return True

    async def lose_answer(self) -> bool:
        """F13: the answer to a COMMIT, a claim or a resolve gets lost, or a request; and the connection with it."""
        kind, trap = self._rng.choice(
            [
                ("producer", Trap("", b"COMMIT")),
                ("scheduler", Trap("pgqueue scheduler", b"COMMIT")),
                ("worker", Trap("pgqueue worker claim", answer=b"default")),
                ("worker", Trap("pgqueue worker resolve", b"")),
                ("worker", Trap("pgqueue worker resolve", b"", deliver=False)),
                ("worker", Trap("pgqueue worker heartbeat", b"")),
            ]
        )
        victim = self._any(kind)
        if victim is None:
            return False
        sprung = victim.gate.lose(trap)
        try:
            await asyncio.wait_for(sprung.wait(), 5)
        except TimeoutError:
            victim.gate.heal()
            return False
        return True

    async def latency(self) -> bool:
        """F14: everything takes longer, for one process or for all."""
        everybody = list(self._fleet.living.values())
        victims = everybody if self._rng.random() < 0.5 else self._rng.sample(everybody, 1)
        for process in victims:
            process.gate.slow(self._rng.uniform(0.02, 0.3))
        await asyncio.sleep(self._rng.uniform(1.0, 3.0))
        for process in victims:
            process.gate.heal()
        return True

    async def _with_role(self, setting: str, undo: str, seconds: float) -> bool:
        async with self._apart:
            await self._settled()
            try:
                await self._database.set_role(setting)
                await asyncio.sleep(seconds)
            finally:
                await self._settled()
                await self._database.set_role(undo)
        return True

    async def statement_timeout(self) -> bool:
        """F15: statements are cut off after a few milliseconds."""
        limit = self._rng.choice([3, 10, 40])
        setting = f"set statement_timeout = '{limit}ms'"
        return await self._with_role(setting, "reset statement_timeout", self._rng.uniform(1.5, 3.0))

    async def isolation(self) -> bool:
        """F16: serialization failures become possible; deadlock_timeout is 10 ms anyway."""
        level = self._rng.choice(["repeatable read", "serializable"])
        setting = f"set default_transaction_isolation = '{level}'"
        return await self._with_role(setting, "reset default_transaction_isolation", self._rng.uniform(2.0, 4.0))

    async def few_slots(self) -> bool:
        """F22: the role may have only a handful of connections."""
        limit = self._rng.randint(2, 6)
        return await self._with_role(f"connection limit {limit}", "connection limit -1", self._rng.uniform(1.5, 3.0))

    async def held_snapshot(self) -> bool:
        """F17: a long report pins the horizon; the faults that follow happen under it."""

        async def report(seconds: float) -> None:
            try:
                conn = await psycopg.AsyncConnection.connect(self._database.dsn(), connect_timeout=5)
                async with conn:
                    await conn.execute("set transaction isolation level repeatable read")
                    await conn.execute("select count(*) from pgqueue.job_live")
                    await asyncio.sleep(seconds)
            except (psycopg.Error, OSError):
                pass  # another fault has ended it

        task = asyncio.create_task(report(self._rng.uniform(3.0, 10.0)))
        self._holding.add(task)
        task.add_done_callback(self._holding.discard)
        return True

    async def lost_notifications(self) -> bool:
        """F19: NOTIFY does not reach a worker for a while, without any error."""
        victim = self._any("worker")
        if victim is None:
            return False
        victim.gate.deafen("pgqueue worker listen")
        await asyncio.sleep(self._rng.uniform(1.0, 3.0))
        victim.gate.heal()
        return True

    async def stop_scheduler(self) -> bool:
        """F29: kill a scheduler, or freeze it, transaction and all."""
        victim = self._any("scheduler")
        if victim is None:
            return False
        if self._rng.random() < 0.6:
            victim.planned = "F29"
            victim.send(signal.SIGKILL)
            await victim.ended.wait()
        else:
            victim.send(signal.SIGSTOP)
            await asyncio.sleep(self._lease * 1.5)
            victim.send(signal.SIGCONT)
        return True

    async def change_limit(self) -> bool:
        """F44: somebody changes a limit by SQL."""
        rule = self._rng.choice(sorted(LIMITS))
        change = "update pgqueue.limit_rule set max_running = %s where name = %s"
        try:
            await self._database.rows(change, self._rng.randint(1, LIMITS[rule] + 3), rule)
        except (psycopg.Error, OSError):
            return False
        return True

    async def relent(self) -> None:
        """Undo the faults that still last."""
        for process in self._fleet.living.values():
            process.gate.heal()
            process.send(signal.SIGCONT)
        for task in list(self._holding):
            task.cancel()
        await asyncio.gather(*self._holding, return_exceptions=True)
        await self._settled()
