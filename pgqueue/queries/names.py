"""Names that operators may type, for the completion of the shell."""

from collections.abc import Sequence
from typing import LiteralString

from pgqueue.queries.base import Query, Row, Statements, fill
from pgqueue.queries.jobs.waiting import TURN_QUEUES

MOST = 200

# The beginning of a name that somebody types. `left` and not LIKE: a name may have a % in it.
_OFFERED: LiteralString = """
select found.name from ({names}) as found(name)
where pg_catalog.left(found.name, pg_catalog.length(%(start)s::text)) = %(start)s::text
order by found.name limit %(most)s::int"""

# Queues that have pending or metered jobs, which are found by hops along job_live_ready and job_live_turn, have a row,
# or are served.
QUEUES: LiteralString = fill(
    _OFFERED,
    names=fill(
        """
    with recursive lane(queue) as (
        (select j.queue::text from {s}.job_live j where j.state = 'pending' order by j.queue limit 1)
        union all
        select (select j.queue::text from {s}.job_live j where j.state = 'pending' and j.queue::text > lane.queue
                order by j.queue limit 1)
        from lane where lane.queue is not null
    ), {turn_queues}
    select lanes.queue from (select queue from lane limit 1000) as lanes where lanes.queue is not null
    union select turns.queue from (select queue from turning limit 1000) as turns where turns.queue is not null
    union select name from {s}.queue
    union select unnest(queues) from {s}.worker where lost_at is null""",
        turn_queues=TURN_QUEUES,
    ),
)
# Tasks that a worker knows, each under its name without a version.
TASKS: LiteralString = fill(
    _OFFERED,
    names="""
    select distinct known.name from {s}.worker w cross join lateral unnest(w.tasks) as known(name)
    where pg_catalog.strpos(known.name, '@') = 0""",
)
SCHEDULES: LiteralString = fill(_OFFERED, names="select name from {s}.schedule")
WORKERS: LiteralString = fill(
    _OFFERED,
    names="""
    select id::text from {s}.worker where lost_at is null
    union select concat_ws(':', host, pid::text) from {s}.worker where lost_at is null""",
)


class NameQueries(Statements):
    """Names that begin with what somebody has typed, at most 200."""

    def queues(self, start: str) -> Query[list[str]]:
        """Return names of queues."""
        return self._offered(QUEUES, start)

    def tasks(self, start: str) -> Query[list[str]]:
        """Return names of tasks."""
        return self._offered(TASKS, start)

    def schedules(self, start: str) -> Query[list[str]]:
        """Return names of schedules."""
        return self._offered(SCHEDULES, start)

    def workers(self, start: str) -> Query[list[str]]:
        """Return ids of workers, and their hosts with their pids."""
        return self._offered(WORKERS, start)

    def _offered(self, template: LiteralString, start: str) -> Query[list[str]]:
        return Query(self._sql(template), _names, {"start": start, "most": MOST})


def _names(rows: Sequence[Row]) -> list[str]:
    return [row[0] for row in rows]
