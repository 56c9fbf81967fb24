"""Declaring rules in code: limits that tasks share, and those of queues."""

from collections.abc import Iterator, Mapping

from pgqueue.config import check_queue
from pgqueue.errors import InvalidOption
from pgqueue.jobs.limit_rule import LimitRule, queue_rule_name
from pgqueue.jobs.limits import Breaker, By, GivenRate, Limit, OnFull, Rate, SharedLimit, as_limit, shared_limit
from pgqueue.tasks.declared_rules import DeclaredRules


class DeclaresLimits:
    """An app's declarations of limits that are no single task's."""

    rules: DeclaredRules

    def limit(
        self,
        name: str,
        max_running: int | None = None,
        *,
        by: By | None = None,
        on_full: OnFull = "wait",
        rate: GivenRate | None = None,
        breaker: Breaker | None = None,
    ) -> SharedLimit:
        """Make a limit that tasks share: `stripe = app.limit("stripe", 20)`, then `@app.task(limit=stripe)`.

        All jobs of these tasks are counted together, for each value of `by` if it is given: then each task has that
        parameter. The settings are those of pgqueue.Limit. Raises InvalidOption.
        """
        shared = shared_limit(name, Limit(max_running, by=by, on_full=on_full, rate=rate, breaker=breaker))
        self.rules.add(LimitRule.of_limit(shared.name, shared.limit))
        return shared


def rules_of_queues(limits: object) -> tuple[DeclaredRules, dict[str, str]]:
    """Return the rules of the queues of an app, and their names by queue. Raises InvalidOption."""
    found = dict(_queue_rules(limits))
    return DeclaredRules(found.values()), {queue: rule.name for queue, rule in found.items()}


def _queue_rules(limits: object) -> Iterator[tuple[str, LimitRule]]:
    """Yield the queues for which an app has limits, with their rules. Raises InvalidOption."""
    if limits is not None and not isinstance(limits, Mapping):
        raise InvalidOption(f"limits={limits!r:.100} cannot be used: give a dict such as {{'email': Limit(50)}}")
    for queue, given in (limits or {}).items():
        check_queue(queue)
        if not isinstance(given, (Limit, Rate)):
            raise InvalidOption(f"limits[{queue!r}]={given!r:.100} cannot be used: give Limit(…) or Rate(…)")
        limit = as_limit(given)
        if limit.by is not None:
            raise InvalidOption(
                f"limits[{queue!r}]: by cannot be used, for jobs of any task may be in a queue: give by to the limits "
                "of tasks"
            )
        yield queue, LimitRule.of_limit(queue_rule_name(queue), limit)
