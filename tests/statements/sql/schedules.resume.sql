select "pgqueue".schedule_resume(name, %(catch_up)s) from "pgqueue".schedule where name = %(name)s
