-- The views under parallel plans: whatever the planner chooses, the same rows.
\set ECHO none
\i sql/include/patient.sql
\i sql/include/helpers.sql
\set ECHO all
CREATE ROLE regress_parallel LOGIN;
CREATE ROLE regress_parallel_stranger;
GRANT USAGE ON SCHEMA saga TO regress_parallel, regress_parallel_stranger;
GRANT USAGE, CREATE ON SCHEMA test TO regress_parallel, regress_parallel_stranger;
GRANT ALL ON ALL TABLES IN SCHEMA test TO regress_parallel, regress_parallel_stranger;
ALTER SYSTEM SET saga.max_executors = 1;
SELECT pg_reload_conf();

-- A saga in every state, and in each way of waiting.  All of it is at rest: the
-- only executor waits for a lock that this session holds.
SET ROLE regress_parallel;
SELECT test.begin('running') AS running \gset
SELECT status FROM saga.step(:'running', 'open');
SELECT status FROM saga.step(:'running', 'failed once');
SELECT status FROM saga.fail_step(:'running', 'failed once', 'not yet');
SELECT test.begin('completed') AS completed \gset
SELECT status FROM saga.step(:'completed', 'a', output => '1');
SELECT saga.complete(:'completed');
SELECT test.begin('compensated') AS compensated \gset
SELECT status FROM saga.step(:'compensated', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'compensated', 'on purpose');
SELECT saga.wait(:'compensated');
SELECT test.begin('review') AS review \gset
SELECT status FROM saga.step(:'review', 'a', review => 'look twice');
SELECT saga.fail(:'review');
SELECT saga.wait(:'review');
SELECT test.begin('abandoned') AS abandoned \gset
SELECT status FROM saga.step(:'abandoned', 'a', review => 'look twice');
SELECT saga.fail(:'abandoned');
SELECT saga.wait(:'abandoned');
SELECT saga.abandon(:'abandoned', 'as it is');
SELECT test.begin('announced') AS announced \gset
SELECT status FROM saga.step(:'announced', 'a', notify => 'regress_parallel');
SELECT saga.fail(:'announced');
SELECT test.begin('claimed') AS claimed \gset
SELECT status FROM saga.step(:'claimed', 'a', notify => 'regress_parallel_claimed');
SELECT saga.fail(:'claimed');
CALL test.wait_until('SELECT count(*) = 2 FROM saga.pending_compensations');
SELECT step, attempt FROM saga.claim_compensations('regress_parallel_claimed', lease => '1 hour', consumer => 'somebody');
SELECT test.begin('again later') AS later \gset
SELECT status FROM saga.step(:'later', 'a', compensation => 'SELECT 1 / 0',
  compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT saga.fail(:'later');
CALL test.wait_until(format('SELECT count(*) > 0 FROM saga.attempts WHERE saga_id = %L AND outcome = %L', :'later', 'failed'));
SELECT test.begin('paused') AS paused \gset
SELECT status FROM saga.step(:'paused', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.pause(:'paused', 'wait');
SELECT saga.fail(:'paused');
-- the deadline passes while a transaction holds the saga
SELECT test.begin('late', timeout => '5 s') AS late \gset
BEGIN;
SELECT status FROM saga.step(:'late', 'a');
PREPARE TRANSACTION 'regress_parallel_late';
-- running, and one that waits for the executor
SELECT pg_advisory_lock(48);
SELECT test.begin('at work') AS at_work \gset
SELECT status FROM saga.step(:'at_work', 'a', compensation => 'SELECT pg_advisory_xact_lock(48)');
SELECT saga.fail(:'at_work');
CALL test.wait_until(format($$SELECT next_action LIKE '%%is running %% but waits for%%' FROM saga.sagas WHERE id = %L$$, :'at_work'));
SELECT test.begin('waiting') AS waiting \gset
SELECT status FROM saga.step(:'waiting', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'waiting');
-- somebody writes the row of one that is being undone
SELECT test.begin('written') AS written \gset
SELECT status FROM saga.step(:'written', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'written');
BEGIN;
SELECT saga.pause(:'written', 'wait');
PREPARE TRANSACTION 'regress_parallel_written';
CALL test.wait_until($$SELECT next_action LIKE 'its deadline has passed%' FROM saga.sagas WHERE id = test.id('late')$$);
RESET ROLE;
ANALYZE;
SET ROLE regress_parallel;

CREATE FUNCTION test.plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  line text;
  plan text := '';
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query LOOP
    plan := plan || line || E'\n';
  END LOOP;
  RETURN plan;
END $$;

-- The rows of a query without parallel plans and with them wherever the planner
-- has one; and has it one?  Which of the queries get one changes with the tables.
CREATE FUNCTION test.in_parallel(wanted boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('max_parallel_workers_per_gather', CASE WHEN wanted THEN '2' ELSE '0' END, false),
    set_config('parallel_setup_cost', CASE WHEN wanted THEN '0' ELSE '1000' END, false),
    set_config('parallel_tuple_cost', CASE WHEN wanted THEN '0' ELSE '0.1' END, false),
    set_config('min_parallel_table_scan_size', CASE WHEN wanted THEN '0' ELSE '8MB' END, false),
    set_config('min_parallel_index_scan_size', CASE WHEN wanted THEN '0' ELSE '512kB' END, false),
    -- force_parallel_mode until 15
    set_config(name, CASE WHEN wanted THEN 'on' ELSE 'off' END, false)
  FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
END $$;
CREATE FUNCTION test.same(query text, OUT same boolean, OUT rows integer, OUT gathers boolean) LANGUAGE plpgsql AS $$
DECLARE
  statement CONSTANT text := format('SELECT array_agg(q::text ORDER BY q::text) FROM (%s) q', query);
  serial text[];
  parallel text[];
BEGIN
  PERFORM test.in_parallel(false);
  EXECUTE statement INTO serial;
  PERFORM test.in_parallel(true);
  EXECUTE statement INTO parallel;
  gathers := test.plan(statement) ~ 'Gather';
  PERFORM test.in_parallel(false);
  same := serial IS NOT DISTINCT FROM parallel;
  rows := cardinality(serial);
  IF NOT same THEN
    RAISE INFO '% <> %', serial, parallel;
  END IF;
END $$;

-- Every view, whole and column by column; but for what is found with time, or counted
SELECT relname, same, rows
FROM pg_class, test.same('SELECT * FROM saga.' || relname) r
WHERE relnamespace = 'saga'::regnamespace AND relkind = 'v' AND relname <> 'health' AND relname NOT LIKE 'stat%' ORDER BY 1;
SELECT relname, count(*) AS columns, bool_and(same) AS same, bool_or(gathers) AS gathers
FROM (
  SELECT relname, attname, r.*
  FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0,
    test.same(format('SELECT %I FROM saga.%I', attname, relname)) r
  WHERE relnamespace = 'saga'::regnamespace AND relkind = 'v' AND relname <> 'health' AND relname NOT LIKE 'stat%') c
GROUP BY 1 ORDER BY 1;

SELECT test.in_parallel(true);
SELECT count(*) FROM saga.health WHERE severity = 'error';
SELECT begun > 0 AS begun FROM saga.stat WHERE name = 'test';
SELECT count(*) FROM saga.stat_channels WHERE channel LIKE 'regress_parallel%';
SELECT (SELECT count(*) FROM saga.stat_attempts), (SELECT count(*) FROM saga.stat_times), (SELECT count(*) FROM saga.stat_workers);
SELECT test.in_parallel(false);

-- By state, ordered, joined, in a function's hands
SELECT state, same, rows
FROM unnest('{running,completed,compensating,compensated,needs_review,abandoned}'::text[]) state,
  test.same(format('SELECT * FROM saga.sagas WHERE state = %L', state)) r;
SELECT same, rows FROM test.same('SELECT id, next_action FROM saga.sagas ORDER BY id DESC LIMIT 5');
SELECT same, rows FROM test.same('SELECT state, count(*), min(next_action) FROM saga.sagas GROUP BY state');
SELECT same, rows FROM test.same('SELECT s.next_action, t.compensation_status, e.event FROM saga.sagas s
  JOIN saga.steps t ON t.saga_id = s.id JOIN saga.events e ON e.saga_id = s.id');
SELECT same, rows FROM test.same('SELECT id, saga.internal_next_action(id, ''u'', false, NULL, NULL, NULL, ''a'', NULL),
  saga.internal_is_running(id, 0) FROM saga.sagas');
SELECT same, rows FROM test.same('SELECT s.id, p.action FROM saga.sagas s, saga.plan(s.id) p');

-- What is called with an id by those who may not see it
SET ROLE regress_parallel_stranger;
SELECT count(*) FROM saga.sagas;
SELECT same, rows FROM test.same('SELECT name, saga.internal_is_running(id, 0),
  saga.internal_next_action(id, ''u'', false, NULL, NULL, NULL, ''a'', NULL) FROM test.named');
SET ROLE regress_parallel;

-- What is not asked for is not computed: the plan does not name it.
SELECT test.plan('SELECT id, state FROM saga.sagas') ~ 'internal_next_action' AS sagas,
  test.plan('SELECT key, status FROM saga.steps') ~ 'internal_is_running' AS steps,
  test.plan('SELECT count(*) FROM saga.steps') ~ 'internal_(is_running|policy|forward_key)' AS counted;

COMMIT PREPARED 'regress_parallel_late';
ROLLBACK PREPARED 'regress_parallel_written';
SELECT pg_advisory_unlock(48);
SELECT saga.wait(id) FROM unnest(ARRAY[:'at_work', :'waiting', :'written', :'late']::uuid[]) id;
RESET ROLE;
ALTER SYSTEM RESET saga.max_executors;
SELECT pg_reload_conf();
DROP OWNED BY regress_parallel, regress_parallel_stranger;
DROP ROLE regress_parallel, regress_parallel_stranger;
\set ECHO none
\i sql/include/impatient.sql
