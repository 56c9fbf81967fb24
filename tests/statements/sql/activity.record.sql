insert into "pgqueue".activity (worker_id, task, queue, outcome, jobs, run_seconds, wait_seconds, run_counts, wait_counts)
select %(worker)s, g.task, g.queue, g.outcome, g.jobs, g.run_seconds, g.wait_seconds, g.run_counts::int[],
       g.wait_counts::int[]
from unnest(%(tasks)s::text[], %(queues)s::text[], %(outcomes)s::text[], %(jobs)s::int[], %(run_seconds)s::float8[],
            %(wait_seconds)s::float8[], %(run_counts)s::text[], %(wait_counts)s::text[])
     as g(task, queue, outcome, jobs, run_seconds, wait_seconds, run_counts, wait_counts)
