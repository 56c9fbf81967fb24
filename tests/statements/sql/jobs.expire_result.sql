insert into "pgqueue".result_expiry (job_id, finished_at, expires_at)
select f.id, f.finished_at, now() from "pgqueue".job_finished f
where f.id = %(id)s::bigint and f.result is not null limit 1
on conflict (job_id) do update set finished_at = excluded.finished_at, expires_at = excluded.expires_at
