"""Changes of Python files, as `watchfiles` sees them."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from pgqueue.cli.output import say


class Changes:
    """Watches directories, and all below them, but for those of tools: `.git`, `.venv`, `node_modules`, caches."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories

    @classmethod
    def of(cls, directories: Sequence[Path]) -> Self | None:
        """Return what watches; None, with a word on what to install, where the package for it is missing."""
        if find_spec("watchfiles") is None:  # an extra
            say("without reloading, whose package is missing: pip install 'pgqueue-jobs[reload]'")
            return None
        return cls(directories)

    async def watch(self, tell: Callable[[list[str]], object]) -> None:
        """Tell the names of files that have changed, until cancelled. From its first step on it misses none."""
        from watchfiles import PythonFilter, awatch

        async for found in awatch(*self._directories, watch_filter=PythonFilter(), ignore_permission_denied=True):
            tell(sorted({Path(path).name for _, path in found}))
