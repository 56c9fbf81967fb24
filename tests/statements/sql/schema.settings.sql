select pg_catalog.current_setting('search_path'), pg_catalog.current_setting('lock_timeout'), pg_catalog.current_setting('statement_timeout'),
       pg_catalog.current_setting('standard_conforming_strings'), pg_catalog.current_setting('idle_in_transaction_session_timeout'),
       pg_catalog.current_setting('transaction_timeout', true)
