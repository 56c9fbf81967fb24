"""How the call of a Django task is stored: by the names of its parameters, or as `args` and `kwargs`.

A function with named parameters alone has its arguments by name, so that SQL finds `args ->> 'order_id'`; a header says
how many of them were given by position. One that takes `*args`, `**kwargs` or parameters without a name has an object
with a list `args` and an object `kwargs`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

POSITIONAL = "django_positional"  # the header with the number of arguments given by position, if there are any


@dataclass(frozen=True, slots=True)
class CallForm:
    """The form in which the calls of one function are stored. `names`: its parameters, or None for the second form."""

    signature: inspect.Signature
    names: tuple[str, ...] | None

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, function: Callable[..., Any], takes_context: bool) -> "CallForm":
        """Return the form of a function; its first parameter is not stored if that is the context."""
        given = list(inspect.signature(function).parameters.values())[int(takes_context) :]
        named = all(each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) for each in given)
        names = tuple(each.name for each in given if each.kind is each.POSITIONAL_OR_KEYWORD)
        return cls(inspect.Signature(given), names if named else None)

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """The parameters of the task as pgqueue stores them: any JSON, as Django has it."""
        if self.names is None:
            return [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, annotation=Any) for n in ("args", "kwargs")]
        return [each.replace(kind=each.KEYWORD_ONLY, annotation=Any) for each in self.signature.parameters.values()]

    def store(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the arguments as they are stored, and the headers beside them. Raises TypeError for a call that the
        function would refuse."""
        bound = self.signature.bind(*args, **kwargs)
        if self.names is None:
            return {"args": list(args), "kwargs": dict(kwargs)}, {}
        return dict(bound.arguments), {POSITIONAL: str(len(args))} if args else {}

    def read(self, stored: Mapping[str, Any], headers: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the call as it was given. Without the header, as in a job that SQL has inserted, all is by name."""
        if self.names is None:
            return list(stored.get("args", ())), dict(stored.get("kwargs", {}))
        number = str(headers.get(POSITIONAL, 0))
        first = self.names[: int(number) if number.isdecimal() else 0]
        args = [stored[name] for name in first if name in stored]
        return args, {name: value for name, value in stored.items() if name not in first[: len(args)]}
