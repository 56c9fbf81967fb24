insert into "pgqueue".worker
    (id, kind, host, pid, version, knows, queues, tasks, slots, lease_seconds, release, health_address, shares, limits,
     max_wait)
values (%(id)s, %(kind)s, %(host)s, %(pid)s, %(version)s, %(knows)s, %(queues)s::text[], %(tasks)s::text[], %(slots)s,
        %(lease_seconds)s, %(release)s, %(health_address)s, %(shares)s::jsonb, %(limits)s::jsonb, %(max_wait)s)
