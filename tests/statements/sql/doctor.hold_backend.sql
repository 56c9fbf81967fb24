select pg_backend_pid(), pg_catalog.set_config('idle_in_transaction_session_timeout', '1s', true)
