update "pgqueue".subscription s set disabled_at = null, disabled_by = null where s.task = %(task)s returning s.id
