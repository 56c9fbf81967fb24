"""Functions without a decorator that may become tasks: those of the modules that an app allows."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from pgqueue.errors import ConfigError, InvalidOption, InvalidTask
from pgqueue.tasks.function_names import importable_module, task_name
from pgqueue.tasks.spec import TaskSpec

log = logging.getLogger("pgqueue")


class AllowedFunctions:
    """The functions that stand at the top level of allowed modules, under public names.

    Only modules that the app itself names are imported. A name that came from a job is looked up in them and nowhere
    else: what such a module has imported from another one is no function of it.
    """

    def __init__(self, modules: object, make: Callable[[str, Callable[..., Any]], TaskSpec]) -> None:
        named = modules if isinstance(modules, (list, tuple)) else (None,)
        if not all(isinstance(one, str) and all(part.isidentifier() for part in one.split(".")) for one in named):
            raise InvalidOption(
                f"functions_from={modules!r:.100} cannot be used: give the full names of modules, "
                "such as ('shop.jobs',)"
            )
        self._modules: tuple[str, ...] = tuple(named)
        self._make = make

    def spec(self, function: Callable[..., Any]) -> TaskSpec:
        """Return the task that a function becomes. Raises InvalidTask for one that a worker would not find."""
        if not inspect.isfunction(function):
            raise InvalidTask(
                f"{function!r:.200} cannot be enqueued: give a task of this app, or a def or async def at the top "
                "level of a module; a method has an object, which no job carries"
            )
        module, name = importable_module(function.__module__), function.__qualname__
        if getattr(sys.modules.get(function.__module__), name, None) is not function:
            raise InvalidTask(
                f"{name} cannot be enqueued: a worker would not find it in module {module}. Define it there with def "
                "at the top level: no lambda, no method, no function inside another one"
            )
        if module not in self._modules:
            allowed = ", ".join(self._modules) or "none"
            raise InvalidTask(
                f"{module}.{name} cannot be enqueued: {module} is no module of App(functions_from=…), which allows "
                f"{allowed}. Name it there, also where the worker runs, or put @app.task above the function"
            )
        if name.startswith("_"):
            raise InvalidTask(f"{module}.{name} cannot be enqueued: a name that begins with _ is private to its module")
        return self._make(f"{module}.{name}", function)

    def named(self, name: str) -> TaskSpec | None:
        """Return the task of this name, if it is a function of an allowed module; None for any other name."""
        module, _, function = name.rpartition(".")
        return self._found(name, _names_in(module).get(function)) if module in self._modules else None

    def __iter__(self) -> Iterator[TaskSpec]:
        """The tasks that the functions of allowed modules become; those that cannot be one are left out."""
        for module in self._modules:
            for function, value in sorted(_names_in(module).items()):
                spec = self._found(f"{module}.{function}", value)
                if spec is not None:
                    yield spec

    def _found(self, name: str, value: object) -> TaskSpec | None:
        if not inspect.isfunction(value) or task_name(value) != name:
            return None
        try:
            return self.spec(value)
        except (InvalidTask, InvalidOption) as error:
            log.debug("%s", error)
            return None


def _names_in(module: str) -> dict[str, Any]:
    """Import a module, which the app names; return what it defines."""
    try:
        return vars(import_module(module))
    except Exception as error:  # importing runs the user's code, which may raise any error
        raise ConfigError(f"functions_from: importing {module} failed with {type(error).__name__}: {error}") from error
