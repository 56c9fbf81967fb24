"""The ties of a job: what it has to do with other jobs, and with its idempotency key. The page of a job shows them."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, fill

# Whether a job `j` is one that the task of another one has enqueued, and not called. The condition of the indexes.
MADE: LiteralString = """j.headers::jsonb ? '$by'::text and j.headers::jsonb -> '$by'::text = to_jsonb(%(id)s::bigint)
         and j.id > %(after)s::bigint and not exists (select from {s}.call c where c.child_id = j.id)"""

# Tell what a job has to do with other jobs and with its key: the jobs that its task has called, the job whose task has
# called it, the jobs that its task has enqueued otherwise, beyond an id, the job whose task has enqueued it, the dead
# letter for which it was enqueued, jobs of the same trace that were enqueued after it, and until when its idempotency
# key stays taken. By the primary keys of job_live, step, call and idempotency_key, call_step, and the indexes of what
# tasks have enqueued: job_live_by, job_finished_by, dead_letter_by, which hold no other jobs. The view finds a job by
# primary key, in whichever table it is. No index knows traces: of the jobs with higher ids so many
# are looked at in each table, in the order of the primary keys, and only where there is a trace to look for. Without
# that bound it would read all that was enqueued since.
TIES: LiteralString = fill(
    """
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
    (select w.kind, w.id::bigint, null from {s}.job v cross join lateral (
        values ('letter', v.headers::jsonb ->> '$dead_letter'::text),
               ('maker', v.headers::jsonb ->> '$by'::text)) as w(kind, id)
     where v.id = %(id)s::bigint and w.id ~ '^[0-9]{{1,18}}$'::text limit 2)
    union all
    (select 'made', m.id, null from (
        (select j.id from {s}.job_live j where {made} order by j.id limit %(most)s::int + 1)
        union all
        (select j.id from {s}.dead_letter j where {made} order by j.id limit %(most)s::int + 1)
        union all
        (select j.id from {s}.job_finished j where {made} order by j.id limit %(most)s::int + 1)) as m
     order by m.id limit %(most)s::int + 1)
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
where k.key = any((select array[%(key)s::text]::uuid[])::uuid[])""",
    made=MADE,
)
MOST_TIED, MOST_LOOKED_AT = 20, 2000


class Tie(NamedTuple):
    """Another job with which one has to do: how (`called`, `caller`, `made`, `maker`, `letter`, `traced`), and under
    which name of a step. `task` is None for a job that is nowhere any more. Of `key`: until when the key that this job
    holds is taken.
    """

    kind: str
    id: int
    name: str | None
    task: str | None
    queue: str | None
    state: str | None
    until: datetime | None


class TieKeys(NamedTuple):
    """By what the ties of a job are found: its id, the hash of its idempotency key, its trace. `after`: of the jobs
    that its task has enqueued only those with higher ids. `most`: so many of each kind, and one more of those."""

    job: int
    key: str | None = None
    trace: str | None = None
    after: int = 0
    most: int = MOST_TIED


def without_rest(found: Sequence[Tie], most: int) -> tuple[list[Tie], int | None]:
    """Return ties without the job beyond `most` of those that a task has enqueued, and the id after which more come."""
    made = [tie for tie in found if tie.kind == "made"]
    return [tie for tie in found if tie not in made[most:]], made[most - 1].id if len(made) > most else None


def enqueued_of(found: Sequence[Tie], *kinds: str) -> list[Tie]:
    """Return the ties to jobs of these kinds, each job once, by the first kind that it is of."""
    jobs: dict[int, Tie] = {}
    for kind in kinds:
        for tie in found:
            if tie.kind == kind:
                jobs.setdefault(tie.id, tie)
    return list(jobs.values())


class TieQueries(Statements):
    """What a job has to do with others."""

    def ties(self, keys: TieKeys) -> Query[list[Tie]]:
        """Tell what a job has to do with other jobs and with its key."""
        params = {
            "id": keys.job, "key": keys.key, "trace": keys.trace,
            "after": keys.after, "most": keys.most, "looked_at": MOST_LOOKED_AT,
        }  # fmt: skip
        return Query(self._sql(TIES), lambda rows: [Tie(*row) for row in rows], params)
