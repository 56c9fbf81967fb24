"""SQL that the statements about partitions have in common; each statement names the parts that it is filled with."""

from typing import LiteralString

from pgqueue.queries.base import fill

# The histories, and the column by which each is partitioned.
HISTORIES: LiteralString = """(values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'),
            ('published_event', 'at'))"""
PARENTS: LiteralString = "constant text[] := array['job_finished', 'transition', 'activity', 'published_event']"
KEYS: LiteralString = "constant text[] := array['finished_at', 'at', 'at', 'at']"

# The days that attached partitions hold, `past` being the day after the last one. By name: a bound that the catalogue
# prints depends on settings of the session.
HELD: LiteralString = fill(
    """(
    select h.parent, to_date(named[1], 'YYYYMMDD') as first,
           coalesce(to_date(named[2], 'YYYYMMDD'), to_date(named[1], 'YYYYMMDD') + 1) as past
    from {histories} as h(parent, key)
    join pg_catalog.pg_inherits i on i.inhparent = to_regclass(format('%I.%I', {channel}::text, h.parent))::oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    cross join lateral regexp_match(c.relname::text, '_([0-9]{{8}})(?:_([0-9]{{8}}))?$') as named
    where named is not null)""",
    histories=HISTORIES,
)

# What each transaction of the blocks below begins with. Any process may call them at any time: one does the work (a
# transaction lock that is tried, not waited for), the others return at once. `lock_timeout` gives up rather than queue
# up behind a long report and block everybody after it; it is shorter than deadlock_timeout, so that no other session
# is the victim of a deadlock with this one.
TURN: LiteralString = """pg_try_advisory_xact_lock(hashtext({channel}), hashtext('make partitions'))"""
CAREFUL: LiteralString = """perform set_config('lock_timeout', '500ms', true);
    perform set_config('search_path', 'pg_catalog, pg_temp', true);"""

# The name of the CHECK that BOUND gives a default partition, which will be the name of the partition.
STRETCH: LiteralString = """(
            select c.conname from pg_catalog.pg_constraint c
            where c.conrelid = rest::regclass::oid and c.conname::text ~ '_[0-9]{{8}}_[0-9]{{8}}$')"""
