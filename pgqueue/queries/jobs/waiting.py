"""SQL that finds metered jobs that wait: in which queues and lanes they are."""

from typing import LiteralString

from pgqueue.queries.base import fill
from pgqueue.queries.jobs.turns import TURN_AT, WAITS

# The order of job_live_turn. A statement that reads in this order and stops at a limit uses the index, whatever the
# statistics say.
TURN_ORDER: LiteralString = fill("j.queue, j.lane, j.priority desc, {turn_at}, j.id", turn_at=TURN_AT)

# The queues that have metered jobs: hops along job_live_turn from one to the next.
TURN_QUEUES: LiteralString = fill(
    """turning(queue) as (
    (select j.queue::text from {s}.job_live j where {waits} order by j.queue limit 1)
    union all
    select (select j.queue::text from {s}.job_live j where {waits} and j.queue::text > turning.queue
            order by j.queue limit 1)
    from turning where turning.queue is not null
)""",
    waits=WAITS,
)

# The lanes of a queue that have metered jobs, each with its priorities: hops along job_live_turn from one to the next.
# A probe for each, however many jobs wait in it.
TURN_LANES: LiteralString = fill(
    """turn(lane, priority) as (
    (select j.lane, j.priority::smallint from {s}.job_live j
     where {waits} and j.queue::text = %(queue)s::text order by j.lane, j.priority desc limit 1)
    union all
    select following.lane, following.priority from turn cross join lateral (
        (select j.lane, j.priority::smallint as priority from {s}.job_live j
         where {waits} and j.queue::text = %(queue)s::text and j.lane = turn.lane
         and j.priority::smallint < turn.priority order by j.lane, j.priority desc limit 1)
        union all
        (select j.lane, j.priority::smallint from {s}.job_live j
         where {waits} and j.queue::text = %(queue)s::text and j.lane > turn.lane
         order by j.lane, j.priority desc limit 1)
        order by lane limit 1) as following
)""",
    waits=WAITS,
)
