"""How many jobs wait in a queue."""

from typing import LiteralString

from pgqueue.queries.base import Query, Statements, first_value, nothing

# How many jobs wait in a queue, due or not; no more than `limit` + 1 are counted. Lane by lane in the order of
# job_live_ready, as CLAIM reads it. The plain form reads the whole table where the statistics say that the queue fills
# much of it; with an order it sorts the whole queue where there are none.
DEPTH: LiteralString = """
with recursive lane(priority) as (
    (select j.priority from {s}.job_live j where j.state = 'pending' and j.queue = %(queue)s
     order by j.priority desc limit 1)
    union all
    select (select j.priority from {s}.job_live j
            where j.state = 'pending' and j.queue = %(queue)s and j.priority < lane.priority
            order by j.priority desc limit 1)
    from lane where lane.priority is not null
)
select count(*) from (
    select from lane cross join lateral (
        select from {s}.job_live j
        where j.state = 'pending' and j.queue = %(queue)s and j.priority = lane.priority
        order by j.run_at, j.id limit %(limit)s + 1) as waiting
    limit %(limit)s + 1) as counted"""

# The same of a deep queue, from one job in 64 (job_live_sample). A counter would be exact, and a row that all enqueues
# wait for; to count all entries takes tens of milliseconds at a hundred thousand.
SAMPLED_DEPTH: LiteralString = """
select 64 * count(*) from (select from {s}.job_live where state = 'pending' and queue = %(queue)s and id %% 64 = 0
                           limit %(limit)s / 64 + 1) as w"""

EXACT_DEPTH = 10_000

# Begins a transaction, where one is begun by its first statement.
BEGIN: LiteralString = "select"


class DepthQueries(Statements):
    """How many jobs wait in a queue."""

    def depth(self, queue: str, limit: int) -> Query[int]:
        """How many jobs wait in a queue, exactly up to EXACT_DEPTH; not much further than `limit` is counted."""
        template = DEPTH if limit <= EXACT_DEPTH else SAMPLED_DEPTH
        return Query(self._sql(template), first_value, {"queue": queue, "limit": limit})

    def begin(self) -> Query[None]:
        """Do nothing, but begin a transaction where none is begun."""
        return Query(BEGIN.encode(), nothing)
