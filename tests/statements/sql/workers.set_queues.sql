update "pgqueue".worker set queues = %(queues)s::text[] where id = %(id)s
