select pg_catalog.count("pgqueue".undo_ended(g.id)) from pg_catalog.unnest((select %(ids)s::bigint[])) as g(id)
