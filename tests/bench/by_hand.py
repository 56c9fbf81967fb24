"""Jobs with ten slots by hand: what two commits a job cost where nothing else is done. The floor of the case q-slots.

A slot is a connection that takes a job and a place of the bucket in one statement, sleeps, and gives both back in
another one: no lease, no heartbeat, no retry, no order, and nobody is told of anything.
"""

import asyncio
import os
import time
from typing import Any

import psycopg

SETUP = (
    "create table public.bucket_by_hand (name text primary key, taken int not null)",
    "insert into public.bucket_by_hand values ('k', 0)",
    "create table public.job_by_hand (id bigint primary key, state text not null, args jsonb)",
    "create table public.ended_by_hand (id bigint, at timestamptz default clock_timestamp(), args jsonb)",
    "create table public.move_by_hand (id bigint, at timestamptz default clock_timestamp(), state text)",
    """insert into public.job_by_hand
    select g, 'ready', jsonb_build_object('i', g, 'ms', 20) from generate_series(1, %(n)s::int) g""",
    "vacuum (analyze) public.job_by_hand",
)
TAKE = """with place as (
    update public.bucket_by_hand set taken = taken + 1 where name = 'k' and taken < 10 returning 1
), picked as (
    select id from public.job_by_hand where state = 'ready' and exists (select from place)
    order by id limit 1 for update skip locked
), taken as (
    update public.job_by_hand j set state = 'running' from picked p where j.id = p.id returning j.id
), moved as (insert into public.move_by_hand (id, state) select id, 'running' from taken)
select id from taken"""
END = """with gone as (
    delete from public.job_by_hand where id = %s returning id, args
), ended as (insert into public.ended_by_hand (id, args) select id, args from gone
), moved as (insert into public.move_by_hand (id, state) select id, 'ended' from gone)
update public.bucket_by_hand set taken = taken - 1 where name = 'k' and exists (select from gone)"""


async def _slot(conn: psycopg.AsyncConnection[Any], seconds: float) -> int:
    ended = 0
    while (row := await (await conn.execute(TAKE)).fetchone()) is not None:
        await asyncio.sleep(seconds)
        await conn.execute(END, row)
        ended += 1
    return ended


async def run_slots(slots: int, seconds: float) -> dict[str, Any]:
    """Run jobs in so many slots until none is left; return how many, and when that began and ended."""
    conns = [await psycopg.AsyncConnection.connect(os.environ["PGQUEUE_DSN"], autocommit=True) for _ in range(slots)]
    began = time.time()
    ended = await asyncio.gather(*(_slot(conn, seconds) for conn in conns))
    answer = {"jobs": sum(ended), "began": began, "ended": time.time()}
    for conn in conns:
        await conn.close()
    return answer
