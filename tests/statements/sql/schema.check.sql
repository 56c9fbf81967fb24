select (select version_num from "pgqueue".migration), (select pg_catalog.max(needs) from "pgqueue".compat)
