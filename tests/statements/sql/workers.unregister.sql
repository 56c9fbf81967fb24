delete from "pgqueue".worker where id = %(id)s
