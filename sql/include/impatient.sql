ALTER SYSTEM RESET saga.lock_timeout;
SELECT pg_reload_conf() AS reloaded \gset
