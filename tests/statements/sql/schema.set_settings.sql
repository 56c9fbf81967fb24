select pg_catalog.set_config('search_path', %(search_path)s, true), pg_catalog.set_config('lock_timeout', %(lock_timeout)s, true),
       pg_catalog.set_config('statement_timeout', %(statement_timeout)s, true),
       pg_catalog.set_config('standard_conforming_strings', %(standard_conforming_strings)s, true),
       pg_catalog.set_config('idle_in_transaction_session_timeout', %(idle_timeout)s, true),
       (select pg_catalog.set_config(s.name, %(transaction_timeout)s, true) from pg_catalog.pg_settings s
        where s.name = 'transaction_timeout')
