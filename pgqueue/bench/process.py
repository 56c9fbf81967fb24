"""The bench's worker: a real `pgqueue work` that prints how many jobs it has run and ends when the bench ends."""

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
    """One worker on the bench's schema, used as a context manager: stopped at the end, killed after an error."""

    def __init__(self, dsn: str, schema: str, directory: Path) -> None:
        self._environ = os.environ | {"PGQUEUE_DSN": dsn, SCHEMA: schema, "PYTHONUNBUFFERED": "1"}
        self._log = directory / "worker.log"
        self._changed = threading.Condition()
        self._count = -1
        self._ended = False

    def __enter__(self) -> Self:
        # Only the bench holds the write end of this pipe: if the bench is killed, the worker reads its end and stops.
        held, self._pipe = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a fixed command
                COMMAND,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environ | {PARENT_FD: str(held)},
                pass_fds=(held,),
                start_new_session=True,  # Ctrl-C reaches the bench alone, which stops the worker
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
        """How many jobs the worker has run. Raises BenchFailed if it has ended."""
        if self._ended:
            raise BenchFailed(f"the worker ended by itself: {self._last_words()}")
        return self._count

    def wait_for(self, count: int, progress: Callable[[float], None], patience: float = STUCK_SECONDS) -> None:
        """Wait until `count` jobs have run. Raises BenchFailed if no job has run for `patience` seconds."""
        seen, moved = self._count, time.monotonic()
        while (ran := self.ran) < count:
            if ran != seen:
                seen, moved = ran, time.monotonic()
                progress(ran)
            elif time.monotonic() - moved > patience:
                raise BenchFailed(f"the worker ran no job for {patience:g} s: {self._last_words()}")
            with self._changed:
                self._changed.wait(0.1)
        progress(count)

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with self._changed:
                self._count = int(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

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
