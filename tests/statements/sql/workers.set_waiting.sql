update "pgqueue".worker set waiting = %(waiting)s where id = %(id)s and waiting <> %(waiting)s
