"""The signals that stop a process, from before its app is imported until it ends."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from pgqueue.process.supervisor import follow, take_parent
from pgqueue.process.system import new_loop

T = TypeVar("T")

log = logging.getLogger("pgqueue")

LAST_RESORT = 15.0  # seconds a process has to exit after the time that running jobs have
STOPS = (signal.SIGTERM, signal.SIGINT)
_UNHANDLED = (signal.SIG_DFL, signal.default_int_handler)  # of SIGINT: then KeyboardInterrupt is Ctrl-C
Handlers = Mapping[str, Callable[[], object]]


class Stoppable(Protocol):
    """A process. `run` returns whether everything ended; `stop` asks it to end, each further call more forcibly."""

    async def run(self) -> bool: ...
    def stop(self) -> None: ...


class StopSignals:
    """Catches SIGTERM and SIGINT, and sees the end of a supervisor.

    With `hangup` it also catches SIGHUP, which comes when the terminal is closed; not where `nohup` has it ignored.

    `catch` is called before the app is imported: the kernel drops a SIGTERM that the first process of a container does
    not handle, and the worker would start and take jobs.
    """

    def __init__(self, *, hangup: bool = False) -> None:
        self._hangup = hangup and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        self._parent: int | None = None
        self._received = 0
        self._handled: set[int] = set()
        self._masks = threading.local()

    def catch(self) -> None:
        """Catch SIGTERM from now on. One that comes before `run` ends the process with status 0: nothing has begun.

        So does SIGHUP, where it is caught.
        """
        self._parent = take_parent()
        for number in (signal.SIGTERM, signal.SIGHUP) if self._hangup else (signal.SIGTERM,):
            self._handled.add(number)
            signal.signal(number, self._stop_early)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._hold_signals,
                after_in_parent=self._let_signals_through,
                after_in_child=self._reset_in_child,
            )

    def _stop_early(self, _number: int, _frame: object) -> None:
        self._received += 1
        raise SystemExit(0)

    @property
    def supervised(self) -> bool:
        """Whether this process is the child of a supervisor."""
        return self._parent is not None

    async def run(self, process: Stoppable, last_resort: float, handlers: Handlers | None = None) -> bool:
        """Run a process. SIGTERM, SIGINT and the end of a supervisor stop it; the third of them exits at once.

        SIGHUP, where it is caught, counts only as the first: when a terminal closes, kernel and shell may both send it.
        `last_resort` seconds after the first of them the process exits, whatever hangs. `handlers` are for other
        signals, by name; a system without a signal of that name goes without.
        """
        if self._received:  # code of the app, imported meanwhile, has swallowed the exit
            return True
        loop = asyncio.get_running_loop()

        def on_stop() -> None:
            self._received += 1
            if self._received > 2:
                exit_now()
            if self._received == 1:
                # A thread of its own: it must also end a process whose event loop is blocked.
                timer = threading.Timer(last_resort, exit_now)
                timer.daemon = True
                timer.start()
            process.stop()

        def on_hangup() -> None:
            if not self._received:
                on_stop()

        for number in STOPS:
            self._handle(loop, number, on_stop)
        if self._hangup:
            self._handle(loop, signal.SIGHUP, on_hangup)
        for name, handler in (handlers or {}).items():
            if name in signal.Signals.__members__:
                self._handle(loop, signal.Signals[name], handler)
        if self._parent is not None:
            follow(self._parent, on_stop)
        return await process.run()

    def _handle(self, loop: asyncio.AbstractEventLoop, number: int, handler: Callable[[], object]) -> None:
        self._handled.add(number)
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:  # Windows: Python runs the handler between two bytecodes of the main thread
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(handler))

    # A process that a task forks shares the descriptor by which its parent's loop learns of signals: a SIGTERM sent to
    # the child would stop the worker, and not the child. So the child resets its handlers to those of a fresh process.
    # Signals are blocked from before the fork until then.

    def _hold_signals(self) -> None:
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._handled)

    def _let_signals_through(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _reset_in_child(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in self._handled:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        self._let_signals_through()


def run_to_end(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` as `asyncio.run` does, but no error that other code raises in the event loop ends it.

    A job may leave asyncio tasks and callbacks behind: `sys.exit()` in one of those does not end the process, nor does
    KeyboardInterrupt, for Ctrl-C is handled otherwise, nor a log handler that raises while asyncio logs.
    """
    with asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.get_loop()
        running = loop.create_task(main)
        while True:
            try:
                return loop.run_until_complete(running)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                pressed = isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) in _UNHANDLED
                if running.done() or pressed:
                    raise
                log.error("code that a job left in the event loop raised %s", type(error).__name__)


def exit_now(
    why: str = "a third signal, or no time left; other workers rescue the jobs that still run", status: int = 1
) -> None:
    """End this process at once, without waiting for threads."""
    log.error("exiting at once: %s", why)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
