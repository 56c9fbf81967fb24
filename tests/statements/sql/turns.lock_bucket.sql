select u.version from (select version from "pgqueue".limit_use where name = %(name)s::text order by version desc limit 1) as s
cross join lateral (
    select u.version from "pgqueue".limit_use u
    where u.name = any(array[%(name)s::text]) and u.version >= s.version for update) as u
