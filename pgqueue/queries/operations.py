"""Operations: what somebody asked to be done to many jobs, as rows that survive their client."""

import builtins
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.job_filter import Filter
from pgqueue.queries.base import Query, Row, Statements, fill, first_value, nothing

# Write down what is to be done, before any of it is done.
BEGIN_OPERATION: LiteralString = """
insert into {s}.operation (kind, filter, options, actor, via, moved_at)
values (%(kind)s, %(filter)s::jsonb, %(options)s::jsonb, %(actor)s, %(via)s, clock_timestamp()) returning id"""

# Write down what somebody does in one step beside the jobs of a filter, such as a pause, before it is done. The row has
# ended from the start: one left open would be gone on with by a worker, whose release may take it for an operation on
# all jobs. DONE_AT_ONCE says afterwards that it was done, FAIL_OPERATION why not. By primary key.
RECORD_OPERATION: LiteralString = """
insert into {s}.operation (kind, filter, options, actor, via, moved_at, ended_at)
values (%(kind)s, %(filter)s::jsonb, %(options)s::jsonb, %(actor)s, %(via)s, clock_timestamp(), clock_timestamp())
returning id"""
DONE_AT_ONCE: LiteralString = """
update {s}.operation set done = 1, ended_at = clock_timestamp() where id = %(id)s::bigint"""
# The same of a step on many jobs that is one transaction, such as an import.
COUNTED_AT_ONCE: LiteralString = """
update {s}.operation set done = %(done)s::bigint, skipped = %(skipped)s::bigint, ended_at = clock_timestamp()
where id = %(id)s::bigint"""

_OPERATION: LiteralString = """id, kind, filter::text, options::text, actor, via, started_at, ended_at,
       stopped_at, done, skipped, reached, error, place, locked"""

# Lock an operation that is not finished, until the end of the transaction. If another process does a batch of it at
# this moment, the statement waits for that, and then sees how far it is. By primary key.
LOCK_OPERATION: LiteralString = fill(
    """
select {operation} from {s}.operation
where id = %(id)s::bigint and ended_at is null and stopped_at is null for update""",
    operation=_OPERATION,
)

# Find an operation that nobody has moved for a while: its client is gone, or SQL has asked for it. Only of a kind that
# this release knows: a newer one may have others. By operation_open.
FIND_ABANDONED: LiteralString = """
select id from {s}.operation
where ended_at is null and stopped_at is null and kind = any(%(kinds)s::text[])
and moved_at < clock_timestamp() - make_interval(secs => %(seconds)s::float8)
order by id limit 1"""

# Note how far an operation is: in the transaction that has done it. By primary key. Returns it as it is then.
MOVE_OPERATION: LiteralString = fill(
    """
update {s}.operation set done = done + %(done)s::bigint, skipped = skipped + %(skipped)s::bigint,
    place = %(place)s::smallint, reached = %(reached)s::bigint, locked = %(locked)s::bigint[],
    moved_at = clock_timestamp(), ended_at = case when %(ended)s::boolean then clock_timestamp() end
where id = %(id)s::bigint returning {operation}""",
    operation=_OPERATION,
)

# Let others have their turn before an operation of which a batch has failed. By primary key.
PUT_OFF_OPERATION: LiteralString = """
update {s}.operation set moved_at = clock_timestamp() where id = %(id)s::bigint"""

# End an operation that cannot be done, and say why. By primary key.
FAIL_OPERATION: LiteralString = """
update {s}.operation set ended_at = clock_timestamp(), error = %(error)s::text where id = %(id)s::bigint"""

# Stop an operation after its present batch, or let a stopped one go on. By primary key.
STOP_OPERATION: LiteralString = """
update {s}.operation set stopped_at = clock_timestamp()
where id = %(id)s::bigint and ended_at is null and stopped_at is null returning id"""
RESUME_OPERATION: LiteralString = """
update {s}.operation set stopped_at = null, moved_at = clock_timestamp()
where id = %(id)s::bigint and ended_at is null and stopped_at is not null returning id"""

# List the operations that are not finished, by operation_open.
LIST_OPEN: LiteralString = fill(
    """
select {operation} from {s}.operation
where ended_at is null and stopped_at is null order by id limit %(limit)s::int""",
    operation=_OPERATION,
)

# List the newest operations, by primary key.
LIST_OPERATIONS: LiteralString = fill(
    """
select {operation} from {s}.operation
where %(id)s::bigint is null or id = %(id)s::bigint order by id desc limit %(limit)s::int""",
    operation=_OPERATION,
)


@dataclass(frozen=True, slots=True)
class Operation:
    """What somebody asked to be done to many jobs, and how far it is; or what somebody did beside them in one step.

    `done`: how many jobs it has changed; 1 of such a step, once it is done. `skipped`: how many it left, because their
    task refuses the arguments. `place` and `reached`: the table it is in, and the last id there that it has looked at.
    `locked`: the jobs that an open transaction held; it looks at them again before it ends.
    """

    id: int
    kind: str
    filter: Mapping[str, Any]
    options: Mapping[str, Any]
    actor: str
    via: str
    started_at: datetime
    ended_at: datetime | None
    stopped_at: datetime | None
    done: int
    skipped: int
    reached: int
    error: str | None
    place: int = 0
    locked: Sequence[int] = ()

    @property
    def state(self) -> str:
        """Return in a word how it is, as the view `operation_status` does."""
        if self.error is not None:
            return "failed"
        return "ended" if self.ended_at else "stopped" if self.stopped_at else "running"


class Moved(NamedTuple):
    """What a batch has done, and where the next one begins."""

    done: int
    skipped: int
    place: int
    reached: int
    locked: Sequence[int]
    ended: bool


class OperationQueries(Statements):
    """Operations."""

    def begin(self, kind: str, chosen: Filter, options: Mapping[str, Any], actor: str, via: str) -> Query[int]:
        """Insert the row of an operation; returns its id."""
        params = {"kind": kind, "filter": chosen.as_json(), "options": json.dumps(options), "actor": actor, "via": via}
        return Query(self._sql(BEGIN_OPERATION), first_value, params)

    def record(
        self, kind: str, what: Mapping[str, Any], options: Mapping[str, Any], actor: str, via: str
    ) -> Query[int]:
        """Insert the row of what is done in one step; returns its id."""
        params = {"kind": kind, "filter": json.dumps(what), "options": json.dumps(options), "actor": actor, "via": via}
        return Query(self._sql(RECORD_OPERATION), first_value, params)

    def recorded(self, operation: int) -> Query[None]:
        """Note that what was recorded is done."""
        return Query(self._sql(DONE_AT_ONCE), nothing, {"id": operation})

    def counted(self, operation: int, done: int, skipped: int) -> Query[None]:
        """Note that what was recorded is done, with how many jobs, and how many it has left."""
        return Query(self._sql(COUNTED_AT_ONCE), nothing, {"id": operation, "done": done, "skipped": skipped})

    def lock(self, operation: int) -> Query[Operation | None]:
        """Lock an operation that is not finished; None if it is."""
        return Query(self._sql(LOCK_OPERATION), _first_operation, {"id": operation})

    def find_abandoned(self, kinds: Iterable[str], seconds: float) -> Query[int | None]:
        """Find an operation of these kinds that nobody has moved for so many seconds."""
        return Query(self._sql(FIND_ABANDONED), first_value, {"kinds": builtins.list(kinds), "seconds": seconds})

    def move(self, operation: int, moved: Moved) -> Query[Operation | None]:
        """Note how far an operation is; returns it."""
        params = {"id": operation, **moved._asdict(), "locked": builtins.list(moved.locked)}
        return Query(self._sql(MOVE_OPERATION), _first_operation, params)

    def put_off(self, operation: int) -> Query[None]:
        """Look at an operation again only when it would count as abandoned."""
        return Query(self._sql(PUT_OFF_OPERATION), nothing, {"id": operation})

    def fail(self, operation: int, error: str) -> Query[None]:
        """End an operation that cannot be done."""
        return Query(self._sql(FAIL_OPERATION), nothing, {"id": operation, "error": error})

    def stop(self, operation: int) -> Query[int | None]:
        """Stop an operation; returns its id, or None if it does not run."""
        return Query(self._sql(STOP_OPERATION), first_value, {"id": operation})

    def resume(self, operation: int) -> Query[int | None]:
        """Let a stopped operation go on; returns its id, or None if it is not stopped."""
        return Query(self._sql(RESUME_OPERATION), first_value, {"id": operation})

    def list_open(self, limit: int) -> Query[builtins.list[Operation]]:
        """List operations that run, the oldest first."""
        return Query(self._sql(LIST_OPEN), _operations, {"limit": limit})

    def list(self, limit: int, only: int | None = None) -> Query[builtins.list[Operation]]:
        """List the newest operations, or one."""
        return Query(self._sql(LIST_OPERATIONS), _operations, {"limit": limit, "id": only})


def _operations(rows: Sequence[Row]) -> list[Operation]:
    return [_operation(*row) for row in rows]


def _operation(operation: int, kind: str, chosen: str, options: str, *rest: Any) -> Operation:
    return Operation(operation, kind, json.loads(chosen), json.loads(options), *rest)


def _first_operation(rows: Sequence[Row]) -> Operation | None:
    return _operations(rows)[0] if rows else None
