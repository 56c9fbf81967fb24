update "pgqueue".worker set stopping = true, waiting = false where id = %(id)s
