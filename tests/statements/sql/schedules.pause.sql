select "pgqueue".schedule_pause(name, %(until)s, %(by)s, %(catch_up)s) from "pgqueue".schedule where name = %(name)s
