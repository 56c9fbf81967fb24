"""The rules of flow control that the code of one app declares, by name."""

from collections.abc import Iterable, Iterator

from pgqueue.errors import InvalidOption
from pgqueue.jobs.limit_rule import LimitRule


class DeclaredRules:
    """The rules of an app: of its tasks, of its queues, and those that tasks share."""

    def __init__(self, rules: Iterable[LimitRule] = ()) -> None:
        self._rules: dict[str, tuple[LimitRule, str | None]] = {rule.name: (rule, None) for rule in rules}

    def add(self, rule: LimitRule, task: str | None = None) -> None:
        """Declare a rule, of a task if that is given. Raises InvalidOption if the name means another rule already."""
        known = self._rules.get(rule.name)
        if known is not None and known[0] != rule and (task is None or known[1] != task):
            raise InvalidOption(
                f"two rules are named {rule.name!r}, with other settings: a limit that tasks share is made once, by "
                "app.limit(…), and has the name of no task"
            )
        self._rules[rule.name] = rule, task

    def __iter__(self) -> Iterator[LimitRule]:
        return iter([rule for rule, _ in self._rules.values()])

    def __contains__(self, name: object) -> bool:
        return name in self._rules
