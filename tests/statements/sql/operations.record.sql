insert into "pgqueue".operation (kind, filter, options, actor, via, moved_at, ended_at)
values (%(kind)s, %(filter)s::jsonb, %(options)s::jsonb, %(actor)s, %(via)s, clock_timestamp(), clock_timestamp())
returning id
