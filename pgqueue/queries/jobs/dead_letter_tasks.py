"""Enqueueing jobs of dead-letter tasks."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, LiteralString

from pgqueue.queries.base import Query, Statements, fill, packed
from pgqueue.queries.filters import DEAD_GROUP
from pgqueue.queries.jobs.metered_parts import METERED_LIST
from pgqueue.queries.jobs.parts import NOTIFY_WORKERS

# Enqueue a job for each of these dead letters whose task has a dead-letter task, in the transaction that has written
# them. That transaction fences: a repeated outcome has no dead letter to write, and none to tell of.
# What this worker knows of a task counts, and for other tasks the header of the job, which may be any JSON if SQL wrote
# it: so each value is taken only where it fits its column, and the statement cannot fail on it. A dead letter of a job
# that was enqueued here, or of the dead-letter task itself, has none: two that fail would call each other for ever.
# A dead-letter task that rules concern has its flow among what it gets: it has no keys, so it is the same for each job.
# By primary key. A statement of its own, because RESOLVE and RESCUE are planned for every batch: there it would cost
# all those who do not use it.
ENQUEUE_DEAD_LETTER_TASKS: LiteralString = fill(
    """
with dead as (
    select d.id as job_id, d.task::text, d.queue::text, d.reason, d.error ->> 'type'::text as error,
        {group} as fingerprint,
        coalesce(%(known)s::jsonb -> d.task::text, d.headers::jsonb -> '$dead_letter_task'::text) as target
    from {s}.dead_letter d
    where d.id = any(%(ids)s::bigint[]) and d.headers::jsonb -> '$dead_letter'::text is null
), given as materialized (
    select nextval('{s}.job_id') as id, target ->> 'task'::text as task, statement_timestamp() as run_at,
        case when char_length(target ->> 'queue'::text) between 1 and 100
             then target ->> 'queue'::text else 'default' end as queue,
        coalesce(substring(target ->> 'priority'::text, '^(?:-?[0-9]{{1,2}}|-?100)$'), '0')::smallint as priority,
        coalesce(substring(target ->> 'max_attempts'::text, '^[1-9][0-9]{{0,5}}$'), '20')::int as max_attempts,
        jsonb_build_object('job_id'::text, job_id, 'task'::text, task, 'queue'::text, queue, 'reason'::text, reason,
                           'error'::text, error, 'fingerprint'::text, fingerprint) as args,
        jsonb_build_object('$dead_letter'::text, job_id) || case when lane is null then '{{}}'::jsonb
            else jsonb_build_object('$flow'::text, target -> 'flow'::text) end as headers, lane
    from dead cross join lateral (
        select case when n >= -9223372036854775808::numeric and n <= 9223372036854775807::numeric
                    and jsonb_typeof(target #> '{{flow,buckets}}'::text[]) = 'array' then n::bigint end as lane
        from (select substring(target #>> '{{flow,lane}}'::text[], '^-?[0-9]{{1,19}}$')::numeric as n) as given
    ) as turn
    where char_length(target ->> 'task'::text) between 1 and 200 and target ->> 'task'::text <> task
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, headers, created_at{columns})
    select id, task, queue, priority, args, max_attempts, run_at, headers, run_at{values} from given
), logged as (
    insert into {s}.transition (job_id, to_state) select id, {state} from given
), {notify_workers}
select count(given.id) from given, workers_notified""",
    group=fill(DEAD_GROUP, dead="d"),
    notify_workers=fill(NOTIFY_WORKERS, jobs="given"),
    **{name: METERED_LIST[name] for name in ("columns", "values", "state")},
)


class DeadLetterTaskQueries(Statements):
    """Enqueueing jobs of dead-letter tasks."""

    def enqueue_dead_letter_tasks(
        self, dead: Iterable[int], known: Mapping[str, Mapping[str, Any] | None]
    ) -> Query[int]:
        """Enqueue the jobs that go with new dead letters; returns how many.

        `known`: the target of each task that is known here, None for a task without one.
        """
        params = {"ids": packed(dead), "known": json.dumps(known)}
        return Query(self._sql(ENQUEUE_DEAD_LETTER_TASKS), lambda rows: int(rows[0][0]), params)
