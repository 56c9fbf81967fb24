"""The gauges of several schemas: those of each, with its name as one more label."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from pgqueue.app import App
from pgqueue.db.failures import DATABASE_ERRORS
from pgqueue.metrics.exporter import DatabaseMetrics

AT_ONCE = 4  # schemas that are read at a time, each on one connection


class SchemasMetrics(Collector):
    """Collects the gauges of each schema that `apps` returns, which is asked with each scrape; while it cannot answer,
    its last answer counts.

    A schema that cannot be read has `pgqueue_up` 0, and the others have their gauges. `head` is the newest migration
    that is known here.
    """

    def __init__(self, apps: Callable[[], Sequence[App]], head: str) -> None:
        self._apps = apps
        self._head = head
        self._of: dict[str, DatabaseMetrics] = {}
        self._readers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pgqueue-metrics-of")

    def collect(self) -> Iterator[Family]:
        """Yield the gauges of all schemas: each family once."""
        with suppress(*DATABASE_ERRORS):
            apps = self._apps()
            self._of = {app.schema: self._of.get(app.schema) or DatabaseMetrics(app, self._head) for app in apps}
        families: dict[str, Family] = {}
        for schema, found in zip(self._of, self._readers.map(_collected, self._of.values()), strict=True):
            for family in found:
                whole = families.setdefault(family.name, Family(family.name, family.documentation, family.type))
                whole.samples += [
                    sample._replace(labels={"schema": schema, **sample.labels}) for sample in family.samples
                ]
        yield from families.values()


def _collected(metrics: DatabaseMetrics) -> list[Family]:
    return list(metrics.collect())
