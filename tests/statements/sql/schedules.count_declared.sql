select count(*) from "pgqueue".schedule where app = %(app)s and disabled_at is null and declared is not null
