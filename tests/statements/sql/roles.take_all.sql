do $revoke$ begin
    revoke all on all tables in schema "pgqueue" from public, "pg_monitor";
    revoke all on all sequences in schema "pgqueue" from public, "pg_monitor";
    revoke all on all functions in schema "pgqueue" from public, "pg_monitor";
    revoke all on schema "pgqueue" from public, "pg_monitor";
end $revoke$
