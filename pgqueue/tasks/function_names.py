"""The names of functions, under which they are registered as tasks."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgqueue.errors import InvalidTask


def as_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the name and signature of `f` for asgiref's `async_to_sync(f)`, which has neither."""
    inner = getattr(function, "awaitable", None)
    if type(function).__module__ != "asgiref.sync" or not callable(inner):
        return function

    @functools.wraps(inner)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def task_name(function: Callable[..., Any]) -> str:
    """Return the name a function is registered under: its module and qualified name.

    A module run as a script is named as it would be when imported, so that its jobs find their worker.
    """
    if not callable(function):
        raise InvalidTask(f"{function!r} is no function: put @app.task above a def or async def")
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module is None or name is None:
        raise InvalidTask(f"{function!r} has no name of its own: give name=…")
    return f"{importable_module(module)}.{name}".replace(".<locals>", "")


def importable_module(module: str) -> str:
    """Return the name by which a module is imported: that of a script, where it runs as one, in place of __main__."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return spec.name if spec else _importable_name(Path(getattr(main, "__file__", None) or "__main__"))


def _importable_name(script: Path) -> str:
    """Return the name by which a script would be imported: with the packages that its folder belongs to."""
    names, folder = [script.stem], script.resolve().parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names)
