"""The first process of a container: it does its own duties, and its child does the work.

The kernel gives the first process all orphans, which stay as zombies until it reaps them, and drops signals that it
does not handle. A worker cannot reap whatever ends: the status of a process that a task has started is for the task.
"""

import os
import signal

PASSED_ON = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCONT", "SIGUSR1", "SIGUSR2", "SIGWINCH")


def leave_first_process() -> None:
    """In the first process: go on in a child, and never return here. Elsewhere: do nothing.

    Called before there are threads. The first process passes signals on, reaps what ends, and ends as its child does.
    """
    if os.getpid() != 1 or not hasattr(os, "fork"):
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # Ctrl-C in a terminal reaches the first process alone, which passes it on once
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_mind(child))


def _mind(child: int) -> int:
    """Pass signals on and reap until the child has ended; return the status with which to end."""
    passed_on = {signal.Signals[name] for name in PASSED_ON}
    waited = passed_on | {signal.SIGCHLD}
    while True:
        number = signal.sigwait(waited)
        if number in passed_on:
            os.kill(child, number)  # not reaped yet, so the id is still its own
        elif (status := _reap(child)) is not None:
            return status if status >= 0 else 128 - status


def _reap(child: int) -> int | None:
    """Reap all that have ended; return how the child ended, None while it runs. SIGCHLD may stand for several."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = os.waitstatus_to_exitcode(status)
