"""The settings of a scheduler."""

from dataclasses import dataclass

from pgqueue.timing import LEASE, PAUSE, check_duration


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """How a scheduler runs. `poll_seconds`: how soon it sees a change if no notification came. `once`: it fires what is
    due, and ends."""

    lease_seconds: float = 30.0
    poll_seconds: float = 1.0
    once: bool = False

    def __post_init__(self) -> None:
        check_duration("lease_seconds", self.lease_seconds, LEASE)
        check_duration("poll_seconds", self.poll_seconds, PAUSE)
