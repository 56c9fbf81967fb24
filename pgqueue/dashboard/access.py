"""Who looks at the dashboard, and what they may do there."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from pgqueue.config import check_name, check_queue
from pgqueue.dashboard.request import Request
from pgqueue.errors import InvalidOption

# What a form of the dashboard may do. `pause` and `resume` are of queues, tasks, limits and schedules; `quiet` and
# `stop` of processes; `halt` of operations, which are stopped and go on; `reveal` of what is hidden of a job's values.
VERBS = frozenset(
    {
        "cancel", "retry", "promote", "edit", "redrive", "discard", "annotate", "enqueue", "pause", "resume", "run",
        "quiet", "stop", "halt", "reveal",
    }
)  # fmt: skip
Hidden = Literal["arguments", "results", "tracebacks"]


@dataclass(frozen=True, slots=True)
class Access:
    """What one person may do: `Access.read("alice")`, `Access.operate("bob")`, `Access("eve", {"retry", "pause"})`.

    `who` is the actor whom rows of operations and histories name. `verbs`: which of VERBS. `hides`: what this person
    does not see, of "arguments", "results" and "tracebacks"; whoever may edit arguments must see them. `queues`: the
    only ones that there are for this person, with their jobs, and nothing else but these; None: all there is. No job
    comes back whose workflow would bring back jobs of other queues. What waits for the end of a job, or was called by
    it, follows that end in whichever queue it is.
    """

    who: str
    verbs: Collection[str] = frozenset()
    hides: Collection[Hidden] = frozenset()
    queues: Collection[str] | None = None

    def __post_init__(self) -> None:
        check_name("who", self.who)
        object.__setattr__(self, "verbs", _checked("verbs", self.verbs, VERBS))
        object.__setattr__(self, "hides", _checked("hides", self.hides, frozenset(get_args(Hidden))))
        object.__setattr__(self, "queues", _checked_queues(self.queues))
        if "arguments" in self.hides and "edit" in self.verbs:
            raise InvalidOption("Access that edits and hides arguments cannot be used: leave one of them out")

    @classmethod
    def read(cls, who: str, hides: Collection[Hidden] = (), queues: Collection[str] | None = None) -> "Access":
        """Return an access that may look, and change nothing."""
        return cls(who, (), hides, queues)

    @classmethod
    def operate(cls, who: str, queues: Collection[str] | None = None) -> "Access":
        """Return an access that may do everything, but for showing what is hidden: that must be named."""
        return cls(who, VERBS - {"reveal"}, (), queues)

    def may(self, verb: str) -> bool:
        """Whether this person may do so."""
        return verb in self.verbs

    def shows(self, what: Hidden) -> bool:
        """Whether this person may see so."""
        return what not in self.hides

    def without_verbs(self) -> "Access":
        """Return the same access, which changes nothing."""
        return Access(self.who, (), self.hides, self.queues)


Given: TypeAlias = Access | None
Decide: TypeAlias = Callable[[Request], Given | Awaitable[Given]]


def _checked_queues(given: object) -> frozenset[str] | None:
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Collection) or not given:
        raise InvalidOption(f"queues={given!r:.200} cannot be used: give names of queues, or None for all")
    return frozenset(check_queue(name) for name in given)


def _checked(name: str, given: object, known: frozenset[str]) -> frozenset[str]:
    if isinstance(given, str) or not isinstance(given, Collection) or not known.issuperset(given):
        raise InvalidOption(f"{name}={given!r:.200} cannot be used: give some of {', '.join(sorted(known))}")
    return frozenset(given)
