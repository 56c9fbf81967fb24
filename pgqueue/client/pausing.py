"""The steps that pause and resume queues and tasks."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple, TypedDict

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.steps import Steps
from pgqueue.config import check_name, check_served_queue
from pgqueue.errors import InvalidOption
from pgqueue.jobs.limit_rule import rule_name
from pgqueue.jobs.patterns import Patterns, is_pattern
from pgqueue.queries.pauses import PauseSettings
from pgqueue.queries.queues import QueueLoad
from pgqueue.tasks.metering import given_key
from pgqueue.timing import LIMIT, check_duration

MOST_WHY = 500  # characters
FIRST_BATCH = 1000  # jobs that a resume brings back itself; workers bring back the others


class What(TypedDict, total=False):
    """What is paused, resumed or drained: a queue, a task, or a limit, of which `key` names one key."""

    queue: str | None
    task: str | None
    limit: str | None
    key: str | None


class Target(NamedTuple):
    """What is meant, checked."""

    kind: str
    name: str
    key: str | None = None

    @classmethod
    def of(cls, what: What) -> "Target":
        """Check that one thing is named. Raises InvalidOption."""
        given = {kind: name for kind, name in what.items() if name is not None}
        key = given.pop("key", None)
        if len(given) != 1 or not given.keys() <= KINDS or (key is not None and "limit" not in given):
            names = ", ".join(given) or "nothing"
            raise InvalidOption(
                f"{names} was given{(key and ' with a key') or ''}: give one of queue=…, task=…, limit=…; "
                "key=… goes with limit=…"
            )
        ((kind, name),) = given.items()
        if kind == "queue":
            return cls(kind, check_served_queue(name))
        name = check_name(kind, name)
        if kind == "limit" and "/" in name:  # the rule of a task or queue, in whose name it is written otherwise
            name = rule_name(name)
        return cls(kind, name, None if key is None else given_key("key", key))


KINDS = {"queue", "task", "limit"}


def pause_settings(
    until: datetime | timedelta | float | None, why: str | None, by: str | None, word: str = "why"
) -> PauseSettings:
    """Return the settings of a pause. Raises InvalidOption. `word`: how `why` is called there."""
    moment, seconds = _end(until)
    if why is not None and not (isinstance(why, str) and len(why) <= MOST_WHY and why.isprintable()):
        raise InvalidOption(f"the {word} {why!r:.100} cannot be used: give at most {MOST_WHY} characters")
    return PauseSettings(moment, seconds, why, who(by))


def pause(app: AppParts, what: What, settings: PauseSettings) -> Steps[list[str]]:
    """Pause what is named; return the names. Raises InvalidOption."""
    target = Target.of(what)
    names = yield from _names(app, target)
    if target.kind == "queue":
        query = app.queries.queues.pause(names, settings.until, settings.seconds, settings.why, settings.by)
    elif target.kind == "task":
        query = app.queries.pauses.pause_tasks(names, settings)
    else:
        query = app.queries.pauses.pause_limit(target.name, target.key, settings)
    paused: list[str] = yield query
    if names and not paused:
        end = settings.until or settings.seconds
        raise InvalidOption(f"until={end} cannot be used: by the database's clock that has passed")
    return paused


def resume(app: AppParts, what: What, by: str | None) -> Steps[list[str]]:
    """End the pause of what is named; return the names of what was paused.

    Jobs of a task that were set aside come back: some at once, also where no worker listens, the others by workers.
    """
    target, actor, queries = Target.of(what), who(by), app.queries
    names = yield from _names(app, target)
    if target.kind == "queue":
        query = queries.queues.resume(names, actor)
    elif target.kind == "task":
        query = queries.pauses.resume_tasks(names, actor)
    else:
        query = queries.pauses.resume_limit(target.name, target.key, actor)
    resumed: list[str] = yield query
    if target.kind == "task" and resumed:
        yield queries.pauses.bring_back(resumed, FIRST_BATCH)
    return resumed


def names_of_task(app: AppParts, task: str) -> list[str]:
    """Return a task's name and its aliases, under which jobs of it may wait; the name alone if it is unknown here."""
    spec = app.tasks.get(task)
    return [task] if spec is None else [spec.name, *spec.aliases]


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return whether a queue is the one of this name, or matches this pattern."""
    if not is_pattern(pattern):
        return pattern.__eq__
    patterns = Patterns([pattern])
    return lambda queue: patterns.match(queue) is not None


def _names(app: AppParts, target: Target) -> Steps[list[str]]:
    """Return what a name or pattern stands for now. Raises InvalidOption for a limit that does not exist."""
    if target.kind == "task":
        return names_of_task(app, target.name)
    if target.kind == "limit":
        yield from known_limit(app, target.name, target.key)
        return [target.key or target.name]
    if not is_pattern(target.name):
        return [target.name]
    fits = matcher(target.name)
    found: list[QueueLoad] = yield app.queries.queues.list()
    return [load.queue for load in found if fits(load.queue)]


def known_limit(app: AppParts, limit: str, key: str | None) -> Steps[None]:
    """Raise InvalidOption for a name that no limit has, and for a key of a limit that has none."""
    keyless: bool | None = yield app.queries.pauses.find_limit(limit)
    if keyless is None:
        known: list[str] = yield app.queries.limits.names()
        raise InvalidOption(f"no limit is named {limit!r:.200} (known: {', '.join(known) or 'none'})")
    if keyless and key is not None:
        raise InvalidOption(f"limit {limit!r:.200} has no keys, for it was given no by=…: leave the key out")


def _end(until: datetime | timedelta | float | None) -> tuple[datetime | None, float | None]:
    """Return the end of a pause as a moment, or as seconds from now. Raises InvalidOption."""
    if until is None:
        return None, None
    if not isinstance(until, datetime):
        return None, check_duration("until", until, LIMIT)
    if until.utcoffset() is None:
        raise InvalidOption(f"until={until} has no timezone: give an aware datetime, or a duration")
    if not 1900 <= until.year <= 9000:
        raise InvalidOption(f"until={until} cannot be used: give a year from 1900 to 9000, or leave it out")
    return until, None
