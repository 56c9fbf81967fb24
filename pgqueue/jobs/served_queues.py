"""The queues that a worker is given, as text and in code: names and patterns, each with a share or a limit of slots.

`critical:6` is a share, `bulk:2c` a limit of two slots, and `critical:6:8c` both. A queue may have such a name of its
own: then a limit or a share must name it as well, so that neither is ever taken for the other.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pgqueue.config import check_served_queue
from pgqueue.errors import InvalidOption
from pgqueue.jobs.patterns import is_pattern

MOST_SHARE = 1000
# What looks like a number is never a part of the name without a word: `critical:1.5` and `critical:-1` are mistakes.
_NUMBER = re.compile(r"([+-]?[0-9][0-9.]*[cC%]?)?")
_SHARE, _SLOTS = re.compile(r"[1-9][0-9]{0,3}"), re.compile(r"([1-9][0-9]{0,4})c")


@dataclass(frozen=True, slots=True)
class ServedQueue:
    """A queue or pattern with what its text says about it: a share of the slots, at most so many slots, or neither."""

    name: str
    share: int | None = None
    slots: int | None = None

    def __str__(self) -> str:
        share, slots = "" if self.share is None else f":{self.share}", "" if self.slots is None else f":{self.slots}c"
        return f"{self.name}{share}{slots}"


def read_served_queues(text: str, names: Collection[str] = ()) -> list[ServedQueue]:
    """Read `critical:6,bulk:3:2c`. What stands in `names` is a name as a whole. Raises InvalidOption."""
    given = [_read(item.strip(), names) for item in text.split(",")]
    for queue in given:
        if any(other.name == queue.name and other != queue for other in given):
            raise InvalidOption(f"-Q {text!r:.200} names queue {queue.name!r:.120} twice: give it once")
    return given


def _read(item: str, names: Collection[str]) -> ServedQueue:
    name, share, slots = item, None, None
    while name not in names and (found := _number_at_end(name)):
        name, number = found
        if (limit := _SLOTS.fullmatch(number)) and slots is None:
            slots = int(limit[1])
        elif _SHARE.fullmatch(number) and int(number) <= MOST_SHARE and share is None:
            share = int(number)
        else:
            raise InvalidOption(
                f"-Q {item!r:.120}: ':{number:.20}' cannot be used: give a share of 1 to {MOST_SHARE}, as in "
                "critical:6, a most of slots, as in critical:8c, or both, as in critical:6:8c; a queue whose own name "
                f"ends like that needs --limit {name:.100}:{number:.20}=N as well, or a pattern"
            )
    return ServedQueue(name, share, slots)


def check_served_queues(
    queues: Sequence[str], shares: Mapping[str, object], limits: Mapping[str, object]
) -> tuple[str, ...]:
    """Return the queues and patterns that a worker serves, each once. Raises InvalidOption.

    Either all have a share, or none has one: a queue without one beside others that have one may be meant to go first,
    or last, or to have an equal share.
    """
    served = tuple(dict.fromkeys(check_served_queue(queue) for queue in queues))
    for queue in served:
        found = _number_at_end(queue)
        if found and queue not in shares and queue not in limits:
            raise InvalidOption(
                f"queue {queue!r} may be meant as queue {found[0]!r} with a number: give shares={{{found[0]!r}: …}} or "
                f"limits={{{found[0]!r}: …}}; where {queue!r} is its name, let limits or shares name it as well"
            )
    if shares:
        _check_shares(served, shares)
    return served


def _check_shares(served: Sequence[str], shares: Mapping[str, object]) -> None:
    for queue, share in shares.items():
        if queue not in served:
            raise InvalidOption(f"a share names queue {queue!r}, but this worker serves {', '.join(served)}")
        if type(share) is not int or not 1 <= share <= MOST_SHARE:
            raise InvalidOption(f"share {queue}:{share!r:.50} cannot be used: give 1 to {MOST_SHARE}")
    if without := [queue for queue in served if queue not in shares]:
        raise InvalidOption(
            f"queue {without[0]!r} has no share, and {next(iter(shares))!r} has one: give every queue a share, such as "
            f"{without[0]}:1, or none, so that they go in order"
        )


def slots_of(given: Collection[ServedQueue], default: int = 8) -> int:
    """Return how many slots a worker has that was told no number: the sum where each queue has one, else `default`.

    A pattern's number is that of each of its queues, so it has no sum.
    """
    if any(queue.slots is None or is_pattern(queue.name) for queue in given):
        return default
    return sum(queue.slots or 0 for queue in set(given))


def with_limits(given: Iterable[ServedQueue], limits: Mapping[str, int]) -> dict[str, int]:
    """Return `limits` and those that stand with the queues. Raises InvalidOption if both limit a queue."""
    merged = dict(limits)
    for queue in given:
        if queue.slots is not None and queue.name in limits:
            raise InvalidOption(
                f"queue {queue.name!r} is limited twice, by -Q {queue.name}:{queue.slots}c and by --limit "
                f"{queue.name}={limits[queue.name]}: give one of them"
            )
        if queue.slots is not None:
            merged[queue.name] = queue.slots
    return merged


def _number_at_end(name: str) -> tuple[str, str] | None:
    """Split what looks like a share or a number of slots from the end of a name; None if nothing does."""
    before, colon, last = name.rpartition(":")
    return (before, last) if colon and _NUMBER.fullmatch(last) else None
