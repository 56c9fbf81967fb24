delete from "pgqueue".schedule_release where id = %(id)s
