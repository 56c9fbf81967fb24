"""The shape of a call: how the arguments of a function of any signature are stored as one JSON object, and read back.

Other frameworks take tasks with `*args`, `**kwargs` and positional-only parameters, and tell a task which of its
arguments came by position. Where each parameter has a name to give, arguments are stored by name, so that SQL reads
them, and the header `positional` says how many came by position. Else `args` and `kwargs` are the two names, and the
result of the step before, in a workflow, is `result`: it goes before `args`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any

POSITIONAL = "positional"  # the header
RESULT, ARGS, KWARGS = "result", "args", "kwargs"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_Kind = inspect.Parameter


@dataclass(frozen=True)
class CallShape:
    """The parameters that a caller gives. `by_name`: each has a name under which its argument can be stored."""

    signature: inspect.Signature

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, function: Callable[..., Any], skip: int = 0) -> "CallShape":
        """Return the shape of calls of a function without its first parameters, such as a `self` that is bound."""
        signature = inspect.signature(function, eval_str=False)
        return cls(signature.replace(parameters=list(signature.parameters.values())[skip:]))

    @cached_property
    def by_name(self) -> bool:
        """Whether arguments are stored by the names of their parameters."""
        return all(each.kind in _NAMED for each in self.signature.parameters.values())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters that a call may give by position, where arguments are stored by name."""
        each = self.signature.parameters.values()
        return tuple(one.name for one in each if one.kind is _Kind.POSITIONAL_OR_KEYWORD)

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """The parameters of a task that stores these calls. They take anything that JSON can say."""
        if self.by_name:
            return [each.replace(annotation=Any) for each in self.signature.parameters.values()]
        return [
            _Kind(RESULT, _Kind.KEYWORD_ONLY, default=None, annotation=Any),
            _Kind(ARGS, _Kind.KEYWORD_ONLY, default=(), annotation=list[Any]),
            _Kind(KWARGS, _Kind.KEYWORD_ONLY, default=None, annotation=dict[str, Any]),
        ]

    def stored(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, partial: bool = False
    ) -> tuple[dict[str, Any], int]:
        """Return the arguments of a call as they are stored, and how many of them were given by position.

        `partial`: some come later. Raises TypeError where they do not fit, as Python does.
        """
        bind = self.signature.bind_partial if partial else self.signature.bind
        bound = bind(*args, **kwargs)
        if self.by_name:
            return dict(bound.arguments), len(args)
        return {ARGS: list(args), KWARGS: dict(kwargs)}, 0

    def given(self, stored: Mapping[str, Any], positional: object = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the named arguments of a call that was stored.

        `positional`: what the header says. Without it, as in a job that SQL has inserted, all come by name.
        """
        if not self.by_name:
            first = (stored[RESULT],) if RESULT in stored else ()
            return (*first, *stored.get(ARGS, ())), dict(stored.get(KWARGS) or {})
        number = str(positional)
        count = int(number) if number.isdecimal() else 0
        names = list(takewhile(stored.__contains__, self.names[:count]))  # a newer parameter takes no other's argument
        return tuple(stored[name] for name in names), {
            name: value for name, value in stored.items() if name not in names
        }
