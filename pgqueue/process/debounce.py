"""Debouncing: a hint that comes too often is followed at most every so often, so that nobody can flood a process."""

import asyncio
from collections.abc import Callable

GAP = 0.05  # seconds


class Debounced:
    """Calls a function at once, and again at most every `gap` seconds. Calls that come meanwhile become one."""

    def __init__(self, function: Callable[[], object], gap: float = GAP) -> None:
        self._function = function
        self._gap = gap
        self._called_at = -gap
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        pause = self._called_at + self._gap - loop.time()
        if pause <= 0:
            self._call()
        else:
            self._timer = loop.call_later(pause, self._call)

    def _call(self) -> None:
        self._timer = None
        self._called_at = asyncio.get_running_loop().time()
        self._function()
