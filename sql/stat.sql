-- saga.stat and the views beside it: what is counted, and when; who may see and reset it.
\set ECHO none
\i sql/include/helpers.sql
CREATE ROLE regress_saga_owner LOGIN;
CREATE ROLE regress_saga_other LOGIN;
CREATE ROLE regress_saga_stranger;
CREATE ROLE regress_saga_monitor IN ROLE pg_monitor;
CREATE ROLE regress_saga_operator LOGIN;
GRANT USAGE ON SCHEMA saga TO regress_saga_owner, regress_saga_other, regress_saga_stranger, regress_saga_monitor, regress_saga_operator;
GRANT ALL ON ALL TABLES IN SCHEMA test TO regress_saga_owner, regress_saga_other;
\set ECHO all
-- The counters of a kind of saga that are not zero
CREATE FUNCTION test.counted(kind text) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(c.key || ' ' || c.value, ', ' ORDER BY c.ordinality)
  FROM saga.stat s, json_each_text(row_to_json(s)) WITH ORDINALITY c
  WHERE s.name = kind AND c.key NOT IN ('name', 'stats_reset') AND c.value <> '0'
$$;
CREATE FUNCTION test.channel(which text) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(c.key || ' ' || c.value, ', ' ORDER BY c.ordinality)
  FROM saga.stat_channels s, json_each_text(row_to_json(s)) WITH ORDINALITY c
  WHERE s.channel = which AND c.key NOT IN ('channel', 'stats_reset') AND c.value <> '0'
$$;
SELECT saga.stat_reset();
SELECT count(*) FROM saga.stat WHERE name LIKE 'stat %';
SET ROLE regress_saga_owner;

-- How sagas end.  What a process of saga did is counted right after its commit, which
-- may be seen before that.
SELECT saga.begin('stat completes') AS s \gset
SELECT test.counted('stat completes');
SELECT saga.complete(:'s');
SELECT saga.complete(:'s');
SELECT test.counted('stat completes');
SELECT count(saga.begin('stat completes', 'one key', '1')) FROM generate_series(1, 3);
SELECT test.counted('stat completes');
SELECT saga.begin('stat fails') AS s \gset
SELECT saga.fail(:'s', 'on purpose');
SELECT saga.fail(:'s', 'again');
SELECT test.counted('stat fails');
SELECT saga.begin('stat is canceled') AS s \gset
SELECT status FROM saga.step(:'s', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.cancel(:'s');
SELECT saga.wait(:'s');
CALL test.wait_until($$SELECT test.counted('stat is canceled') = 'begun 1, canceled 1, compensated 1'$$);
SELECT saga.begin('stat times out', timeout => '10 ms') AS s \gset
SELECT saga.wait(:'s');
CALL test.wait_until($$SELECT test.counted('stat times out') = 'begun 1, timed_out 1, compensated 1'$$);
SELECT saga.begin('stat gives a step up') AS s \gset
SELECT status FROM saga.step(:'s', 'a', action => 'SELECT 1 / 0', retry => saga.retry_policy(max_attempts => 1));
SELECT saga.wait(:'s');
CALL test.wait_until($$SELECT test.counted('stat gives a step up') = 'begun 1, failed 1, step_failed 1, compensated 1'$$);
SELECT saga.begin('stat is parked') AS s \gset
SELECT status FROM saga.step(:'s', 'a', review => 'look twice');
SELECT saga.fail(:'s');
SELECT saga.wait(:'s');
CALL test.wait_until($$SELECT test.counted('stat is parked') = 'begun 1, failed 1, parked 1'$$);
SELECT saga.abandon(:'s', 'as it is');
SELECT test.counted('stat is parked');
-- A step that somebody has to mend, and one that is to be approved
SELECT saga.begin('stat parks a step') AS s \gset
SELECT status FROM saga.step(:'s', 'a', action => 'SELECT nothing()');
SELECT status FROM saga.step(:'s', 'b', approval => 'all right?', after => '{}');
CALL test.wait_until(format('SELECT count(*) = 2 FROM saga.review_queue WHERE saga_id = %L', :'s'));
CALL test.wait_until($$SELECT test.counted('stat parks a step') = 'begun 1, parked 1'$$);
-- Back to a savepoint, and to the end: no failure
SELECT saga.begin('stat goes back') AS s \gset
SELECT status FROM saga.step(:'s', 'a', output => '1');
SELECT status FROM saga.step(:'s', 'b', compensation => 'SELECT test.undo($1)');
SELECT saga.rollback_to(:'s', 'a');
CALL test.wait_until(format('SELECT state = ''running'' FROM saga.sagas WHERE id = %L', :'s'));
SELECT saga.complete(:'s');
SELECT test.counted('stat goes back');

-- What is rolled back counts nothing, savepoints included.
BEGIN;
SELECT saga.begin('stat rolled back') IS NOT NULL AS begun;
ROLLBACK;
SELECT test.counted('stat rolled back');
BEGIN;
SELECT saga.begin('stat savepoints') IS NOT NULL AS begun;
SAVEPOINT a;
SELECT saga.begin('stat savepoints') IS NOT NULL AS begun;
SAVEPOINT b;
SELECT saga.begin('stat savepoints') IS NOT NULL AS begun;
RELEASE b;
SELECT saga.begin('stat savepoints') IS NOT NULL AS begun;
ROLLBACK TO a;
SAVEPOINT c;
SELECT saga.begin('stat savepoints') IS NOT NULL AS begun;
RELEASE c;
SELECT test.counted('stat savepoints');
COMMIT;
SELECT test.counted('stat savepoints');
-- Very many, of many kinds in turn
BEGIN;
SELECT count(saga.begin('stat many ' || i % 40)) FROM generate_series(1, 4000) i;
DO $$
BEGIN
  FOR i IN 1 .. 400 LOOP
    BEGIN
      PERFORM saga.begin('stat many ' || j) FROM generate_series(0, 39) j;
      IF i % 2 = 0 THEN
        RAISE division_by_zero;
      END IF;
    EXCEPTION WHEN division_by_zero THEN
      NULL;
    END;
  END LOOP;
END $$;
COMMIT;
SELECT begun, count(*) FROM saga.stat WHERE name LIKE 'stat many %' GROUP BY 1;

-- Services
RESET ROLE;
CREATE FUNCTION test.claim(channel text, OUT phase text, OUT attempt integer, OUT task_key text) LANGUAGE sql
AS 'SELECT phase, attempt, task_key FROM saga.claim_tasks(channel, lease => ''1 hour'')';
SET ROLE regress_saga_owner;
SELECT saga.begin('stat serves') AS s \gset
SELECT status FROM saga.step(:'s', 'a', task => 'regress_stat_task', notify => 'regress_stat_undo',
  retry => saga.retry_policy(delay => '10 ms'));
CALL test.wait_until($$SELECT test.channel('regress_stat_task') = 'dispatched 1'$$);
SELECT phase, attempt, task_key FROM test.claim('regress_stat_task') \gset
SELECT saga.fail_task(:'task_key', :attempt, 'not yet');
SELECT saga.fail_task(:'task_key', :attempt, 'not yet');
CALL test.wait_until($$SELECT test.channel('regress_stat_task') = 'dispatched 2, claimed 1, failed 1'$$);
CALL test.wait_until($$SELECT since <= saga.internal_now() FROM saga.pending_tasks WHERE channel = 'regress_stat_task'$$);
BEGIN;
SELECT phase, attempt FROM test.claim('regress_stat_task');
ROLLBACK;
SELECT phase, attempt, task_key FROM test.claim('regress_stat_task') \gset
SELECT saga.complete_task(:'task_key', '1');
SELECT saga.complete_task(:'task_key', '1');
SELECT test.channel('regress_stat_task');
SELECT saga.fail(:'s');
CALL test.wait_until($$SELECT test.channel('regress_stat_undo') = 'dispatched 1'$$);
SELECT compensation_key, attempt FROM saga.claim_compensations('regress_stat_undo', lease => '1 ms') \gset
CALL test.wait_until($$SELECT test.channel('regress_stat_undo') LIKE '%leases_ended 1'$$);
SELECT saga.complete_compensation(:'compensation_key');
SELECT saga.complete_compensation(:'compensation_key');
SELECT test.channel('regress_stat_undo');
-- A claim of a task that ends, and a result that comes when the saga goes back; a listener that cannot
SELECT saga.begin('stat serves') AS s \gset
SELECT status FROM saga.step(:'s', 'a', task => 'regress_stat_late', notify => 'regress_stat_fails', compensate_on => 'started',
  retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'), compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
CALL test.wait_until($$SELECT test.channel('regress_stat_late') = 'dispatched 1'$$);
SELECT task_key FROM saga.claim_tasks('regress_stat_late', lease => '1 ms') \gset
CALL test.wait_until($$SELECT test.channel('regress_stat_late') = 'dispatched 2, claimed 1, leases_ended 1'$$);
SELECT saga.fail(:'s');
CALL test.wait_until($$SELECT test.channel('regress_stat_fails') = 'dispatched 1'$$);
SELECT saga.complete_task(:'task_key', '1');
SELECT test.channel('regress_stat_late');
SELECT compensation_key, attempt FROM saga.claim_compensations('regress_stat_fails', lease => '1 hour') \gset
SELECT saga.fail_compensation(:'compensation_key', :attempt, 'not yet');
SELECT test.channel('regress_stat_fails');
-- one that nobody acknowledges
SELECT saga.begin('stat serves') AS s \gset
SELECT status FROM saga.step(:'s', 'a', notify => 'regress_stat_told', acknowledge => false);
SELECT saga.fail(:'s');
SELECT saga.wait(:'s');
CALL test.wait_until($$SELECT test.channel('regress_stat_told') = 'dispatched 1'$$);

-- Who may see what: their own; those who see all, all; a stranger, nothing.
SET ROLE regress_saga_other;
SELECT count(saga.begin('stat fails')) FROM generate_series(1, 10);
SELECT name, begun FROM saga.stat WHERE name LIKE 'stat %';
SELECT count(*) FROM saga.stat_channels WHERE channel LIKE 'regress%';
SET ROLE regress_saga_owner;
SELECT name, begun FROM saga.stat WHERE name = 'stat fails';
SET ROLE regress_saga_stranger;
SELECT count(*) FROM saga.stat;
SELECT count(*) FROM saga.stat_channels;
SELECT count(*) FROM saga.stat_attempts;
SELECT count(*) FROM saga.stat_workers;
SET ROLE regress_saga_monitor;
SELECT name, begun FROM saga.stat WHERE name = 'stat fails';
SELECT channel FROM saga.stat_channels WHERE channel LIKE 'regress%' ORDER BY channel COLLATE "C";
SET ROLE regress_saga_operator;
SELECT count(*) FROM saga.stat;
RESET ROLE;
SET saga.operator_role = 'regress_saga_operator';
SET ROLE regress_saga_operator;
SELECT begun FROM saga.stat WHERE name = 'stat fails';
RESET ROLE;
RESET saga.operator_role;
-- whose role is gone
SET client_min_messages = warning;
ALTER ROLE regress_saga_other RENAME TO regress_saga_renamed;
SELECT begun FROM saga.stat WHERE name = 'stat fails';
ALTER ROLE regress_saga_renamed RENAME TO regress_saga_other;

-- The other views: all rows are there, whatever is counted.
SELECT phase, outcome, attempts > 0 AS any FROM saga.stat_attempts WHERE outcome IN ('succeeded', 'failed', 'timed out');
SELECT count(*) FROM saga.stat_attempts;
SELECT what, le_ms, count >= lag(count, 1, 0::bigint) OVER (PARTITION BY what ORDER BY le_ms) AS grows FROM saga.stat_times WHERE what = 'saga';
SELECT what, count(*), max(total_ms) > 0 AS took, max(count) > 0 AS any FROM saga.stat_times GROUP BY what ORDER BY what;
SELECT wakeups > 0 AS wakeups, executor_starts > 0 AS executor_starts FROM saga.stat_workers;
SELECT count(DISTINCT since) FROM (SELECT stats_reset FROM saga.stat UNION ALL SELECT stats_reset FROM saga.stat_attempts UNION ALL
  SELECT stats_reset FROM saga.stat_channels UNION ALL SELECT stats_reset FROM saga.stat_times UNION ALL SELECT stats_reset FROM saga.stat_workers) s (since);

-- Who may reset: those to whom it is granted.
SET ROLE regress_saga_monitor;
CALL test.refuses('SELECT saga.stat_reset()');
RESET ROLE;
GRANT EXECUTE ON FUNCTION saga.stat_reset() TO regress_saga_monitor;
SELECT stats_reset FROM saga.stat_workers \gset before_
SET ROLE regress_saga_monitor;
SELECT saga.stat_reset();
RESET ROLE;
REVOKE EXECUTE ON FUNCTION saga.stat_reset() FROM regress_saga_monitor;
SELECT stats_reset > :'before_stats_reset' AS later FROM saga.stat_workers;
SELECT count(*) FROM saga.stat WHERE name LIKE 'stat %';
SELECT count(*) FROM saga.stat_channels WHERE channel LIKE 'regress%';
-- A place that was given back meanwhile: what is committed counts with those that have none.
BEGIN;
SELECT saga.begin('stat meanwhile') IS NOT NULL AS begun;
SELECT saga.stat_reset();
COMMIT;
SELECT name, begun FROM saga.stat WHERE name IS NULL OR name = 'stat meanwhile';
SELECT saga.begin('stat meanwhile') IS NOT NULL AS begun;
SELECT name, begun FROM saga.stat WHERE name IS NULL OR name = 'stat meanwhile';
SELECT saga.stat_reset();
DROP OWNED BY regress_saga_owner, regress_saga_other, regress_saga_stranger, regress_saga_monitor, regress_saga_operator;
DROP ROLE regress_saga_stranger, regress_saga_monitor, regress_saga_operator;
