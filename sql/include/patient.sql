-- For tests that make compensations wait for a lock: these wait for as long as
-- the machine takes.  Comes first, for it connects anew, to a server that has
-- read its configuration again; ends with "impatient.sql".
ALTER SYSTEM SET saga.lock_timeout = 0;
SELECT pg_reload_conf() AS reloaded \gset
\c -
