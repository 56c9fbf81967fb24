"""The schemas that somebody has chosen, by name or by a pattern such as `tenant_*`."""

from collections.abc import Iterable, Sequence

from pgqueue.config import check_chosen_schema
from pgqueue.jobs.patterns import Patterns, is_pattern


class ChosenSchemas:
    """Names and patterns of schemas. A name is chosen whether there is such a schema or not; a pattern chooses among
    those that hold pgqueue's tables, and among the shards of the app. Raises ConfigError for what is neither."""

    def __init__(self, given: Sequence[str]) -> None:
        self.given = tuple(dict.fromkeys(check_chosen_schema(name) for name in given))
        self.patterns = Patterns(self.given)

    def pick(self, there: Iterable[str]) -> list[str]:
        """Return the schemas: those given by name in their order, then those of `there` that match a pattern."""
        named = [name for name in self.given if not is_pattern(name)]
        return [*named, *sorted({name for name in there if self.patterns.match(name) is not None})]
