-- The views: their columns, and what is safe to do next, in words.
\set ECHO all

SELECT c.relname AS view, string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) AS columns,
  reloptions
FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0
WHERE relnamespace = 'saga'::regnamespace AND relkind = 'v' GROUP BY c.oid ORDER BY 1 \gx
SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid), provolatile, proparallel, proisstrict
FROM pg_proc WHERE pronamespace = 'saga'::regnamespace AND proname NOT LIKE 'internal%' ORDER BY 1, 2 \gx
SELECT t.typname, string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
FROM pg_type t JOIN pg_attribute a ON attrelid = typrelid
WHERE typnamespace = 'saga'::regnamespace AND t.typname IN ('step_result', 'retry_policy') GROUP BY 1 ORDER BY 1 \gx
SELECT name, setting, unit, context, vartype, min_val, max_val, boot_val FROM pg_settings
WHERE name LIKE 'saga.%' AND name NOT LIKE 'saga.test%' ORDER BY name;

\set ECHO none
\i sql/include/patient.sql
\i sql/include/helpers.sql
\set ECHO all
-- Sagas by what they are about: by an index that has no others.
SELECT saga.begin('about', 'a', subject => 'customer-42') AS about \gset
SELECT saga.begin('about', 'b', subject => 'customer-43') IS NOT NULL AS begun, saga.begin('about', 'c') IS NOT NULL AS begun;
SELECT idempotency_key, subject FROM saga.sagas
WHERE owner = current_user::regrole AND subject = 'customer-42' AND name = 'about';
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM saga.ledger_saga WHERE owner = 10 AND subject = 'customer-42' ORDER BY id;
CREATE FUNCTION test.finds_by(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
    RETURN QUERY SELECT trim(line) WHERE line ~ 'ledger_saga|Index Cond.*subject';
  END LOOP;
END $$;
SELECT * FROM test.finds_by($$SELECT id FROM saga.sagas WHERE owner = 'pg_monitor'::regrole AND subject = 'customer-42'$$);
RESET enable_seqscan;
RESET enable_bitmapscan;
SELECT saga.complete(:'about');
SELECT idempotency_key, subject, state FROM saga.sagas
WHERE owner = current_user::regrole AND subject = 'customer-42' AND name = 'about';

-- next_action, from begin to end
CREATE FUNCTION test.next(id uuid) RETURNS TABLE (state text, next_action text, at text) LANGUAGE sql VOLATILE AS $$
  SELECT state, test.mask(next_action), CASE WHEN next_action_at > now() THEN 'later' WHEN next_action_at IS NOT NULL THEN 'now' END
  FROM saga.sagas s WHERE s.id = $1
$$;
SELECT test.begin('running') AS id \gset
SELECT * FROM test.next(:'id');
SELECT test.begin('deadline', timeout => '1 hour') AS id \gset
SELECT * FROM test.next(:'id');
SELECT test.begin('completed') AS id \gset
SELECT saga.complete(:'id');
SELECT * FROM test.next(:'id');
-- the deadline of a completed saga is nothing to do
SELECT test.begin('completed in time', timeout => '1 hour') AS id \gset
SELECT saga.complete(:'id');
SELECT * FROM test.next(:'id');
SELECT test.begin('compensated') AS id \gset
SELECT saga.fail(:'id');
SELECT * FROM test.next(:'id');

-- a compensation that runs: it waits for a lock that this session holds
SELECT pg_advisory_lock(47);
SELECT test.begin('is running', timeout => '1 hour') AS id \gset
SELECT status FROM saga.step(:'id', 'first', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'slow', compensation => 'SELECT pg_advisory_xact_lock(47)');
SELECT saga.fail(:'id');
CALL test.wait_until(format($$SELECT next_action LIKE '%%is running %% but waits for%%' FROM saga.sagas WHERE id = %L$$, :'id'));
SELECT * FROM test.next(:'id');
SELECT * FROM test.steps('is running');
-- Calls are answered meanwhile.
SELECT saga.wait(:'id', '0');
SELECT saga.fail(:'id');
SELECT pg_advisory_unlock(47);
SELECT saga.wait(:'id');
SELECT * FROM test.next(:'id');

-- one that is tried again later
SELECT test.begin('again later') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo_after($1, 1)',
  compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT count(*) > 0 FROM saga.attempts WHERE saga_id = %L AND outcome = %L', :'id', 'failed'));
SELECT * FROM test.next(:'id');
SELECT s.next_attempt_at = v.next_action_at AS same, s.next_attempt_at > now() + '50 minutes' AS later
FROM saga.steps s JOIN saga.sagas v ON v.id = saga_id WHERE saga_id = :'id';
SELECT * FROM test.steps('again later');

-- a person's
SELECT test.begin('person') AS id \gset
SELECT status FROM saga.step(:'id', 'a', review => 'look twice');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.next(:'id');

-- Positions follow the order of the starts, also through a filter.
SELECT test.begin('positions') AS id \gset
SELECT (saga.step(:'id', k)).step FROM unnest('{x,y,z}'::text[]) WITH ORDINALITY u (k, n) ORDER BY n;
SELECT position, key FROM saga.steps WHERE saga_id = :'id' AND key = 'z';
SELECT position, event, step FROM saga.events WHERE saga_id = :'id' AND step = 'y';

-- The views follow the snapshot, the calls the newest committed state.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM saga.steps WHERE saga_id = :'id';
SELECT attempt FROM saga.step(:'id', 'x');
SELECT key, attempts FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
COMMIT;
\set ECHO none
\i sql/include/impatient.sql
