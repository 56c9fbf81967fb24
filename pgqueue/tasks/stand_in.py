"""What a task returns that lets others run in the place of its job, and what its job gets when they have ended."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pgqueue.codecs import Codec
from pgqueue.errors import InvalidWorkflow
from pgqueue.tasks.inputs import INPUTS, value_of

R = TypeVar("R", covariant=True)
# The names of the input by which a job gets the value of its stand-in: one result, or a list. No parameter has such a
# name, so a worker of a release that does not know them sets the job aside instead of running it again.
RESULT, RESULTS = "pgqueue__result", "pgqueue__results"


def inputs_of(headers: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the inputs of a job, by all of its headers. The result of what stands in for it is none: its
    task has no such argument."""
    names = headers.get(INPUTS)
    return tuple(str(name) for name in names if name not in (RESULT, RESULTS)) if isinstance(names, list) else ()


@dataclass(frozen=True, slots=True)
class StandIn(Generic[R]):
    """A canvas or workflow that is to run in the place of a job. `graph`: as text; None where it has no jobs, and its
    value is known: `result`."""

    graph: str | None
    result: Any = None


class StandsIn(Protocol[R]):
    """What can run in the place of a job: a canvas or a workflow."""

    def stand_in(self) -> StandIn[R]: ...


class StandInEnded(Exception):
    """The job does not run again: what stood in for it has ended. `state`: how."""

    def __init__(self, state: str, value: Any) -> None:
        super().__init__(state)
        self.state = state
        self.value = value


def standing_in(part: "StandsIn[R]") -> StandIn[R]:
    """Return what is to run in the place of a job. Raises InvalidWorkflow for what is no canvas or workflow."""
    made = getattr(part, "stand_in", None)
    if made is None:
        raise InvalidWorkflow(f"ctx.replace({part!r:.100}) cannot be used: give task.s(…), a canvas or a workflow")
    standing: StandIn[R] = made()
    return standing


def check_ended(codec: Codec | None, inputs: str) -> None:
    """Raise StandInEnded if the inputs of a job, JSON, say that something stood in for it. Raises UnknownKey and
    CannotOpen."""
    if f'"name": "{RESULT}' not in inputs:  # the usual case
        return
    given = next(each for each in json.loads(inputs) if each["name"] in (RESULT, RESULTS))
    items = given["items"] if given["state"] == "succeeded" else []
    values = [value_of(codec, item | {"when": "s"}) for item in items]
    raise StandInEnded(given["state"], values if given["name"] == RESULTS else values[0] if values else None)
