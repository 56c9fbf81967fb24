delete from "pgqueue".setting
where name = 'retention.' || %(name)s and queue = %(queue)s and task = %(task)s and source = 'operator' returning 1
