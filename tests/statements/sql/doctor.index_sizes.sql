select i.relname::text, pg_catalog.pg_relation_size(i.oid),
       (greatest(i.reltuples::float8, coalesce(s.n_live_tup + s.n_dead_tup, 0::bigint)::float8)
        * (16 + width.bytes)::float8 / 0.7::float8)::bigint
from pg_catalog.pg_index x
join pg_catalog.pg_class i on i.oid = x.indexrelid
join pg_catalog.pg_class t on t.oid = x.indrelid
left join pg_catalog.pg_stat_all_tables s on s.relid = x.indrelid
cross join lateral (
    select pg_catalog.sum(coalesce((p.avg_width + 7) / 8 * 8, 16))::int as bytes
    from pg_catalog.generate_series(1, x.indnatts::int) as n(n)
    left join pg_catalog.pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[n.n - 1]
    left join pg_catalog.pg_stats p
        on p.schemaname = 'pgqueue'::name and p.tablename = t.relname and p.attname = a.attname
) as width
where t.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid and t.relname = 'job_live'
order by i.relname
