"""What holds a metered job back, and what `why` says of it, in one snapshot."""

from typing import Any

import psycopg

import pgqueue

# Jobs that have been due for a second, some of them.
WAIT = """
select id from pgqueue.job_live where state = 'blocked' and run_at < clock_timestamp() - interval '1 s'
order by random() limit %s"""
# What holds a job back, found in the rows without a counter and without a statement of pgqueue's: each rule of which
# as many jobs run as may, each pause, and a job that goes before it in its order.
HELD_UP = """
with mine as (
    select j.id, j.lane, j.queue, j.task, j.headers -> '$flow' as flow from pgqueue.job_live j where j.id = %(job)s
), bucket as (
    select b.name, l.max_running, l.paused_at, l.paused_until, k.max_running as of_key, k.paused_at as key_paused_at,
           k.paused_until as key_paused_until
    from mine cross join lateral jsonb_array_elements_text(mine.flow -> 'buckets') as b(name)
    join pgqueue.limit_rule l on l.name = split_part(b.name, '/', 1)
    left join pgqueue.limit_key k on k.rule = l.name and l.name || '/' || k.key = b.name
)
select 'full', b.name from bucket b where coalesce(b.of_key, b.max_running) <= (
    select count(*) from pgqueue.job_live r where r.state = 'running' and r.headers -> '$flow' -> 'buckets' ? b.name)
union all
select 'paused', b.name from bucket b where b.paused_at is not null and coalesce(b.paused_until, 'infinity') > now()
union all
select 'paused', b.name from bucket b
where b.key_paused_at is not null and coalesce(b.key_paused_until, 'infinity') > now()
union all
select 'paused', q.name from mine join pgqueue.queue q on q.name = mine.queue where q.paused_at is not null
union all
select 'paused', c.task from mine join pgqueue.task_control c on c.task = mine.task where c.paused_at is not null
union all
select 'order', mine.flow ->> 'order' from mine where mine.flow ? 'order' and exists (
    select from pgqueue.job_live o where o.state = 'blocked' and o.lane = mine.lane and o.id < mine.id)"""
NOT_A_REASON = {"unique_key", "schedule", "last_error"}
Untold = tuple[int, str]  # a job, and what holds it back


def ask(conn: psycopg.Connection[Any], app: pgqueue.App, most: int) -> tuple[set[str], list[Untold]]:
    """Ask why some jobs wait; return which reasons were told, and what holds a job back and was not told. What is told
    and what the rows say is looked up in one snapshot."""
    told, untold = set[str](), list[Untold]()
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        for (job,) in conn.execute(WAIT, (most,)).fetchall():
            reasons = [reason for reason in app.using(conn).why(job).reasons if reason.code not in NOT_A_REASON]
            names = {(reason.code, str(name)) for reason in reasons for name in reason.facts.values()}
            held_up = conn.execute(HELD_UP, {"job": job}).fetchall()
            untold += [(job, f"{code} {name}") for code, name in held_up if (code, name) not in names]
            untold += [] if reasons else [(job, "anything")]
            told |= {code for code, _ in names}
    return told, untold
