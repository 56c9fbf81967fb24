update "pgqueue".subscription s set disabled_at = coalesce(s.disabled_at, clock_timestamp()), disabled_by = %(by)s
where s.task = %(task)s returning s.id
