"""The ties of a job: what it has to do with other jobs, and with its idempotency key. The page of a job shows them."""

from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements

# Tell what a job has to do with other jobs and with its key: the jobs that its task has called, the job whose task has
# called it, the dead letter for which it was enqueued, jobs of the same trace that were enqueued after it, and until
# when its idempotency key stays taken. By the primary keys of job_live, step and idempotency_key, and call_step. The
# view finds a job by primary key, in whichever table it is. No index knows traces: of the jobs with higher ids so many
# are looked at in each table, in the order of the primary keys, and only where there is a trace to look for. Without
# that bound it would read all that was enqueued since.
TIES: LiteralString = """
with tied as materialized (
    (select 'called' as kind, c.child_id as id, g.name as name from (
        select t.number, t.name from {s}.step t
        where t.job_id = %(id)s::bigint and t.kind = 'call' order by t.number limit %(most)s::int) as g
     cross join lateral (
        select c.child_id, c.place from {s}.call c where c.number = g.number order by c.place limit %(most)s::int) as c
     order by g.number, c.place, c.child_id limit %(most)s::int)
    union all
    select 'caller', c.job_id, c.step from {s}.call c where c.child_id = %(id)s::bigint
    union all
    (select 'letter', (v.headers::jsonb ->> '$dead_letter'::text)::bigint, null from {s}.job v
     where v.id = %(id)s::bigint and v.headers::jsonb ->> '$dead_letter'::text ~ '^[0-9]{{1,18}}$'::text limit 1)
    union all
    (select 'traced', n.id, null from (
        (select j.id, j.headers::jsonb ->> 'traceparent'::text as trace from {s}.job_live j
         where j.id > %(id)s::bigint and %(trace)s::text is not null order by j.id limit %(looked_at)s::int)
        union all
        (select d.id, d.headers::jsonb ->> 'traceparent'::text from {s}.dead_letter d
         where d.id > %(id)s::bigint and %(trace)s::text is not null order by d.id limit %(looked_at)s::int)
        union all
        (select f.id, f.headers::jsonb ->> 'traceparent'::text from {s}.job_finished f
         where f.id > %(id)s::bigint and %(trace)s::text is not null order by f.id limit %(looked_at)s::int)) as n
     where split_part(n.trace, '-', 2) = %(trace)s::text order by n.id limit %(most)s::int)
)
select t.kind, t.id, t.name, j.task, j.queue, j.state, null::timestamptz
from tied t left join lateral (
    select v.task::text, v.queue::text, v.state::text from {s}.job v where v.id = t.id limit 1) as j on true
union all
select 'key', k.job_id, null, null, null, null, k.expires_at::timestamptz from {s}.idempotency_key k
where k.key = any((select array[%(key)s::text]::uuid[])::uuid[])"""
MOST_TIED, MOST_LOOKED_AT = 20, 2000


class Tie(NamedTuple):
    """Another job with which one has to do: how (`called`, `caller`, `letter`, `traced`), and under which name of a
    step. `task` is None for a job that is nowhere any more. Of `key`: until when the key that this job holds is taken.
    """

    kind: str
    id: int
    name: str | None
    task: str | None
    queue: str | None
    state: str | None
    until: datetime | None


class TieKeys(NamedTuple):
    """By what the ties of a job are found: its id, the hash of its idempotency key, its trace."""

    job: int
    key: str | None = None
    trace: str | None = None


class TieQueries(Statements):
    """What a job has to do with others."""

    def ties(self, keys: TieKeys) -> Query[list[Tie]]:
        """Tell what a job has to do with other jobs and with its key."""
        params = {
            "id": keys.job, "key": keys.key, "trace": keys.trace,
            "most": MOST_TIED, "looked_at": MOST_LOOKED_AT,
        }  # fmt: skip
        return Query(self._sql(TIES), lambda rows: [Tie(*row) for row in rows], params)
