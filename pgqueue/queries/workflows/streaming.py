"""Adding many members of one task to a workflow: what ENQUEUE_MANY is for plain jobs."""

from typing import LiteralString

from pgqueue.jobs.job import NewJob
from pgqueue.queries.base import Query, Statements, fill
from pgqueue.queries.jobs.enqueue import shared_params
from pgqueue.queries.jobs.metered_parts import LANE
from pgqueue.queries.jobs.parts import WORKER_SLEEPS
from pgqueue.queries.workflows.adding import LockedGroup
from pgqueue.workflows.gates import GATED, LARGE, STRIPES

# Insert a block of members of one task in a group that LOCK_GROUP or SHARE_OPEN has locked: they differ in their
# arguments alone, a JSON array, and new gates count them in turn. A million members are two hundred such blocks, and no
# process holds more than one. What ADD says of gates that are counted later holds here, too.
_ADD_MANY: LiteralString = fill(
    """
with given as materialized (
    select nextval('{s}.job_id') as id, g.args, g.ord,
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
    from jsonb_array_elements(%(args)s::jsonb) with ordinality as g(args, ord)
), span as materialized (
    select count(*) as jobs, min(id) as first_id, max(id) as last_id, min(run_at) as run_at from given
), gated as materialized (
    select nextval('{s}.job_id') as id, g.place
    from generate_series(0::bigint, %(gates)s::bigint - 1::bigint) as g(place)
), gates as materialized (
    select array_agg(id order by place) as ids from gated
), counters as (
    insert into {s}.gate (id, workflow_id, members, remaining, first_id, last_id, counted, jobs)
    select g.id, %(into)s::bigint, m.members, m.members, span.first_id, span.last_id, %(counted)s::bool,
           case when g.place = 0 and not %(counted)s::bool then span.jobs else 0 end
    from gated g cross join span cross join lateral (
        select span.jobs / %(gates)s::bigint
               + case when g.place < span.jobs %% %(gates)s::bigint then 1::bigint else 0::bigint end as members
    ) as m
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, created_at, lane,
                              state, waits_for, ties, gate_id, workflow_id)
    select id, %(task)s, %(queue)s::text, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           coalesce(%(headers)s::jsonb, '{{}}'), statement_timestamp(), {lane}, {state},
           case when {lane} is not null then 'turn' end, %(ties)s::smallint,
           (select ids from gates)[((ord - 1::bigint) %% %(gates)s::bigint)::int + 1], %(root)s::bigint
    from given
), logged as (
    insert into {s}.transition (job_id, to_state) select id, {state} from given
), raised as (
    update {s}.workflow w set open_gates = w.open_gates + %(gates)s::int, jobs = w.jobs + span.jobs::int
    from span where w.id = %(into)s::bigint and %(counted)s::bool
)
select jobs, case when run_at <= statement_timestamp() and {worker_sleeps}
                  then pg_notify({channel}, %(queue)s::text) end
from span""",
    state="case when {lane} is null then 'pending' else 'blocked' end",
    worker_sleeps=WORKER_SLEEPS,
)
ADD_MANY: LiteralString = fill(_ADD_MANY, lane=fill(LANE, headers="%(headers)s::jsonb"))


class StreamingQueries(Statements):
    """Adding many members of one task."""

    def add_many(self, into: LockedGroup, job: NewJob, count: int, args: str) -> Query[int]:
        """Insert `count` members of a group that are like `job` but for their arguments, a JSON array; returns how many
        they are. The arguments are as they are to be stored."""
        params = shared_params(job, args) | {
            "into": into.id,
            "root": into.root_id,
            "counted": into.sealed,
            "ties": GATED | into.ties,
            "gates": STRIPES if count > LARGE else 1,
        }
        return Query(self._sql(ADD_MANY), lambda rows: int(rows[0][0]), params)
