"""The bench's worker: a real `pgqueue work`, followed by what it says, and gone when the bench is gone."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pgqueue.bench.measure import BenchFailed
from pgqueue.bench.worker import SCHEMA
from pgqueue.process.supervisor import PARENT_FD

COMMAND = [sys.executable, "-m", "pgqueue", "work", "-A", "pgqueue.bench.worker:app", "--log-level", "warning"]
START_SECONDS, STUCK_SECONDS, STOP_SECONDS = 30.0, 60.0, 10.0
LOG_SHOWN = 500  # characters


class WorkerProcess:
    """One worker on the bench's schema. Use it as a context: it is stopped at the end, and killed after an error."""

    def __init__(self, dsn: str, schema: str, directory: Path) -> None:
        self._environ = os.environ | {"PGQUEUE_DSN": dsn, SCHEMA: schema, "PYTHONUNBUFFERED": "1"}
        self._log = directory / "worker.log"
        self._told = threading.Condition()
        self._count = -1
        self._ended = False

    def __enter__(self) -> Self:
        # The other end of this pipe is ours alone: when we are killed the worker sees its end and stops.
        held, self._pipe = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                COMMAND,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environ | {PARENT_FD: str(held)},
                pass_fds=(held,),
                start_new_session=True,  # a Ctrl-C is for us; we stop the worker
            )
        os.close(held)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.wait_for(0, lambda _: None, START_SECONDS)
        except BaseException:
            self._end(kill=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(kill=kind is not None)

    @property
    def ran(self) -> int:
        """How many jobs have run. Raises BenchFailed if the worker has ended."""
        if self._ended:
            raise BenchFailed(f"the worker ended by itself: {self._last_words()}")
        return self._count

    def wait_for(self, count: int, tell: Callable[[float], None], patience: float = STUCK_SECONDS) -> None:
        """Wait until so many jobs have run; give up when nothing has moved for `patience` seconds."""
        seen, moved = self._count, time.monotonic()
        while (ran := self.ran) < count:
            if ran != seen:
                seen, moved = ran, time.monotonic()
                tell(ran)
            elif time.monotonic() - moved > patience:
                raise BenchFailed(f"the worker did nothing for {patience:g} s: {self._last_words()}")
            with self._told:
                self._told.wait(0.1)
        tell(count)

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with self._told:
                self._count = int(line)
                self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()

    def _end(self, *, kill: bool) -> None:
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            os.close(self._pipe)
            self._reader.join(STOP_SECONDS)
            if self._process.stdout:
                self._process.stdout.close()

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace").strip()[-LOG_SHOWN:] or "its log is empty"
