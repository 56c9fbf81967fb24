select s.id, s.task, s.patterns, s.queue, s.priority, s.max_attempts, s.app, s.declared_at, s.disabled_at, s.disabled_by
from "pgqueue".subscription_status s where %(task)s::text is null or s.task = %(task)s::text order by s.task
