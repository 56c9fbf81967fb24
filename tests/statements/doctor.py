"""The statements of the doctor: a sample of each, those whose cost is tested, and why the others need no such test."""

from collections.abc import Callable
from typing import Any

from pgqueue.queries import Queries, Query
from tests.harness import QUERIES

SAMPLES: dict[str, Callable[[Queries], Query[Any]]] = {
    "doctor.write_plainly": lambda q: q.doctor.write_plainly(),
    "doctor.describe": lambda q: q.doctor.describe(),
    "doctor.invalid_indexes": lambda q: q.doctor.invalid_indexes(),
    "doctor.dead_rows": lambda q: q.doctor.dead_rows(1),
    "doctor.no_autovacuum": lambda q: q.doctor.no_autovacuum(),
    "doctor.index_sizes": lambda q: q.doctor.index_sizes(),
    "doctor.used_defaults": lambda q: q.doctor.used_defaults(),
    "doctor.late_partitions": lambda q: q.doctor.late_partitions(60.0),
    "doctor.unlogged": lambda q: q.doctor.unlogged(),
    "doctor.sequences": lambda q: q.doctor.sequences(),
    "doctor.wraparound": lambda q: q.doctor.wraparound(),
    "doctor.old_transactions": lambda q: q.doctor.old_transactions(60.0),
    "doctor.hidden_connections": lambda q: q.doctor.hidden_connections(),
    "doctor.old_prepared": lambda q: q.doctor.old_prepared(60.0),
    "doctor.old_slots": lambda q: q.doctor.old_slots(1000),
    "doctor.old_standbys": lambda q: q.doctor.old_standbys(1000),
    "doctor.durability": lambda q: q.doctor.durability(),
    "doctor.asynchronous_roles": lambda q: q.doctor.asynchronous_roles(),
    "doctor.notify_usage": lambda q: q.doctor.notify_usage(),
    "doctor.clock": lambda q: q.doctor.clock(),
    "doctor.connections": lambda q: q.doctor.connections(),
    "doctor.own_connections": lambda q: q.doctor.own_connections(10),
    "doctor.backend": lambda q: q.doctor.backend(),
    "doctor.hold_backend": lambda q: q.doctor.hold_backend(),
    "doctor.processes": lambda q: q.doctor.processes(),
    "doctor.has_schedules": lambda q: q.doctor.has_schedules(),
    "doctor.ill_schedules": lambda q: q.doctor.ill_schedules(60.0),
    "doctor.dead_letters": lambda q: q.doctor.dead_letters(100),
    "doctor.guarding_indexes": lambda q: q.doctor.guarding_indexes(),
    "doctor.holding": lambda q: q.doctor.holding(),
    "doctor.left_open": lambda q: q.doctor.left_open(60.0),
    "doctor.unsent": lambda q: q.doctor.unsent(),
    "doctor.endless": lambda q: q.doctor.endless(60.0),
    "doctor.role": lambda q: q.doctor.role(),
    "doctor.rights": lambda q: q.doctor.rights(),
}
FLAT: dict[str, Query[Any]] = {
    "doctor.processes": QUERIES.doctor.processes(),
    "doctor.has_schedules": QUERIES.doctor.has_schedules(),
    "doctor.ill_schedules": QUERIES.doctor.ill_schedules(60.0),
    "doctor.dead_letters": QUERIES.doctor.dead_letters(100),
    "doctor.unsent": QUERIES.doctor.unsent(),
    "doctor.used_defaults": QUERIES.doctor.used_defaults(),
}
_CATALOGUE = (
    "describe", "invalid_indexes", "guarding_indexes", "no_autovacuum", "index_sizes", "unlogged", "sequences",
    "wraparound", "asynchronous_roles", "role", "rights", "late_partitions", "holding",
)  # fmt: skip
_STATISTICS = (
    "dead_rows", "old_transactions", "hidden_connections", "old_prepared", "old_slots", "old_standbys", "connections",
    "own_connections",
)  # fmt: skip
_NOTHING = ("durability", "notify_usage", "clock", "backend", "hold_backend")
NOT_FLAT = {
    "doctor.left_open": "asked by hand: 10,000 workflows at most",
    "doctor.endless": "asked by hand: 10,000 steps at most",
    **dict.fromkeys([f"doctor.{name}" for name in _CATALOGUE], "reads the catalogue"),
    **dict.fromkeys(
        [f"doctor.{name}" for name in _STATISTICS],
        "reads what the server knows of its connections and tables, and no table",
    ),
    **dict.fromkeys([f"doctor.{name}" for name in _NOTHING], "reads no table"),
}
