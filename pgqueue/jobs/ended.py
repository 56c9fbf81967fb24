"""How a job has ended, as a task gets it that runs after any end of it or after its failure."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pgqueue.error_info import ErrorInfo

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """How a job has ended: what callbacks of `on_error` and `on_complete` get, and nodes behind `.failed` and `.ended`.

    `state`: succeeded, failed (a dead letter) or cancelled; None for a job that retention has dropped. `result`: what
    it returned, if it succeeded. `error`: what its last attempt raised, if it is a dead letter.
    """

    state: Literal["succeeded", "failed", "cancelled"] | None
    result: T | None = None
    error: ErrorInfo | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the job has succeeded."""
        return self.state == "succeeded"


Outcome.__module__ = "pgqueue"  # where users import it from
