"""What `pgqueue dev` does: it checks that the app can be imported and starts the processes, anew after each change."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pgqueue.cli.dev.changes import Changes
from pgqueue.cli.dev.site import Site
from pgqueue.cli.output import say
from pgqueue.config import WEB_TOKEN, named_dsn
from pgqueue.db import embedded
from pgqueue.errors import ConfigError
from pgqueue.process.supervisor import Supervisor

NO_DATABASE = 3  # the status of the check where neither the app nor the environment names one
ANOTHER_MACHINE = 4  # where one of them names a database of another machine, and nobody has asked for it
WORKER, PAGES = "worker and scheduler", "dashboard"


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands that are run: the check, the migration, and those that go on."""

    check: Sequence[str]
    migrate: Sequence[str]
    work: Sequence[str]
    pages: Sequence[str] | None


class _Part(NamedTuple):
    supervisor: Supervisor
    task: asyncio.Task[bool]


class DevProcesses:
    """One call of the command, until stopped. `changes`: None where nothing is reloaded. `exit_code`: its status.

    A worker ends before the app is checked, so that no job runs with the code of before; the dashboard goes on with it
    until the new one can be imported.
    """

    def __init__(
        self, commands: Commands, changes: Changes | None, site: Site | None, dsn: str | None, data: Path
    ) -> None:
        self._commands = commands
        self._changes = changes
        self._site = site
        self._dsn = dsn
        self._data = data
        self._server: embedded.EmbeddedServer | None = None
        self._is_migrated = False
        self._running: dict[str, _Part] = {}
        self._replaced: list[_Part] = []  # parts that are ending, for others have taken their places
        self._ending: Sequence[_Part] = ()
        self._woken = asyncio.Event()
        self._is_stopping = False
        self._changed: list[str] = []
        self.exit_code = 0

    def stop(self) -> None:
        """End everything: the first call lets running jobs end for a moment, each further one is harder."""
        if self._is_stopping:
            for part in self._ending:
                part.supervisor.stop()
        self._is_stopping = True
        self._woken.set()

    async def run(self) -> bool:
        """Run until stopped; returns whether all ended well."""
        watching = None
        if self._changes is not None:
            watching = asyncio.create_task(self._changes.watch(self._on_change))
            watching.add_done_callback(self._on_blind)
            await asyncio.sleep(0)  # its first step: from now on it misses no change
        try:
            await self._open_database()
            while not self._is_stopping:
                await self._once()
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            ended = await self._end(WORKER, PAGES, also=self._replaced)
            if self._server is not None:
                await asyncio.to_thread(self._server.stop)
        return ended

    def _on_change(self, names: list[str]) -> None:
        self._changed = names
        self._woken.set()

    def _on_blind(self, watching: asyncio.Task[None]) -> None:
        """Go on without changes where they cannot be watched: the system may allow no more watches."""
        if not watching.cancelled() and (error := watching.exception()) is not None:
            say(f"without reloading, for files cannot be watched: {error}")
            self._changes = None

    async def _once(self) -> None:
        """Check the app, run it if it can be, and wait for the next change."""
        self._woken.clear()
        status = await self._prepare()
        if not self._woken.is_set():
            self._start() if status == 0 else self._wait_or_give_up(status)
        await self._woken.wait()
        if not self._is_stopping:
            say(f"{', '.join(self._changed)} changed: beginning anew")
            await self._end(WORKER)

    async def _prepare(self) -> int:
        """Import the app in a process of its own, and migrate its database once. Return a status: 0 is well."""
        status = await self._run(self._commands.check)
        if status == NO_DATABASE:
            server = await self._start_postgres(self._data)
            os.environ["PGQUEUE_DSN"] = server.dsn
            status = 0
        if status == ANOTHER_MACHINE:
            status = ConfigError.exit_code
            self._give_up(status)
        if status == 0 and not self._is_migrated:
            status = await self._run(self._commands.migrate)
            self._is_migrated = status == 0
            if status and not self._woken.is_set():
                self._give_up(status)
        return status

    async def _run(self, command: Sequence[str]) -> int:
        """Run a command to its end, or until there is a change or a stop; return its status."""
        child = await asyncio.create_subprocess_exec(*command, process_group=0)
        ended, woken = asyncio.create_task(child.wait()), asyncio.create_task(self._woken.wait())
        await asyncio.wait((ended, woken), return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        if not ended.done():
            child.kill()
        return await ended

    async def _open_database(self) -> None:
        """Hold the embedded Postgres that is named, if one is, so that it outlives the processes that begin anew."""
        named = named_dsn(self._dsn)
        if named is not None and named.startswith(embedded.PREFIX):
            await self._start_postgres(named.removeprefix(embedded.PREFIX))

    async def _start_postgres(self, directory: str | Path) -> embedded.EmbeddedServer:
        self._server = await asyncio.to_thread(embedded.start, directory or None)
        say(f"Postgres keeps its data in {self._server.path}; for other commands and processes of yours:")
        say(f"    export PGQUEUE_DSN={embedded.PREFIX}{self._server.path}")
        say("connections of your own: psycopg.connect(app.dsn)")
        return self._server

    def _start(self) -> None:
        """Start the worker, and the dashboard, which takes the place of the one with the code of before."""
        self._keep(WORKER, Supervisor([self._commands.work], names=[WORKER]))
        if self._site is None or self._commands.pages is None:
            return
        is_first = PAGES not in self._running
        own = {WEB_TOKEN: self._site.token}
        self._keep(PAGES, Supervisor([self._commands.pages], names=[PAGES], environ=own, keeps=[self._site.fileno]))
        if is_first:
            say(f"the dashboard is on {self._site.link}")

    def _keep(self, name: str, supervisor: Supervisor) -> None:
        """Run a supervisor, and stop the one of that name: it may go on ending for a while."""
        before = self._running.get(name)
        part = _Part(supervisor, asyncio.create_task(supervisor.run()))
        part.task.add_done_callback(lambda _: self._on_end(name, part))
        self._running[name] = part
        if before is not None:
            before.supervisor.stop()
            self._replaced = [part for part in (*self._replaced, before) if not part.task.done()]

    def _on_end(self, name: str, part: _Part) -> None:
        """Say why a part cannot run, if that is why it has ended."""
        error = None if part.task.cancelled() else part.task.exception()
        status = part.supervisor.exit_code if error is None else 1
        if status and not self._is_stopping:
            say(f"{name}: it cannot run" + ("" if error is None else f": {type(error).__name__}: {error}"))
            self._wait_or_give_up(status)

    def _wait_or_give_up(self, status: int) -> None:
        if self._changes is None:
            self._give_up(status)
        elif not self._is_stopping:
            say("waiting for the next change")

    def _give_up(self, status: int) -> None:
        self.exit_code = status
        self.stop()

    async def _end(self, *names: str, also: Sequence[_Part] = ()) -> bool:
        """Stop some of the processes, and wait for their end and that of others; return whether they ended well."""
        parts = [self._running.pop(name) for name in names if name in self._running]
        self._ending = [*parts, *also]
        for part in parts:
            part.supervisor.stop()
        ends = await asyncio.gather(*(part.task for part in self._ending), return_exceptions=True)
        return all(end is True for end in ends)
