delete from "pgqueue".schedule where name = %(name)s returning app
