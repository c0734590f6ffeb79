-- saga.top: what is open, by kind and owner, found without looking at what is finished.
\set ECHO none
\i sql/include/patient.sql
\i sql/include/helpers.sql
\i sql/include/listeners.sql
CREATE ROLE regress_saga_owner LOGIN;
CREATE ROLE regress_saga_other LOGIN;
CREATE ROLE regress_saga_stranger;
CREATE ROLE regress_saga_monitor IN ROLE pg_monitor;
GRANT USAGE ON SCHEMA saga TO regress_saga_owner, regress_saga_other, regress_saga_stranger, regress_saga_monitor;
GRANT ALL ON ALL TABLES IN SCHEMA test TO regress_saga_owner, regress_saga_other;
\set ECHO all
CREATE FUNCTION test.top(kind text) RETURNS TABLE (owner regrole, running bigint, waiting bigint, waiting_for text, compensating bigint,
  need_person bigint, executors bigint, unclaimed bigint, oldest text)
LANGUAGE sql STABLE AS $$
  SELECT owner, running, waiting, waiting_for, compensating, need_person, executors, unclaimed,
    -- which of the oldest there are, and that they are not from another time
    concat_ws(' ', CASE WHEN oldest_running BETWEEN now() - interval '1 hour' AND now() THEN 'running' END,
      CASE WHEN oldest_waiting BETWEEN now() - interval '1 hour' AND now() THEN 'waiting' END,
      CASE WHEN oldest_compensating BETWEEN now() - interval '1 hour' AND now() THEN 'compensating' END,
      CASE WHEN oldest_need_person BETWEEN now() - interval '1 hour' AND now() THEN 'need_person' END,
      CASE WHEN oldest_unclaimed BETWEEN now() - interval '1 hour' AND now() THEN 'unclaimed' END)
  FROM saga.top WHERE name = kind ORDER BY owner::text
$$;
SET ROLE regress_saga_owner;

-- What has a deadline is running, and waits for nothing of ours; what has none is not seen.
SELECT saga.begin('deadline', timeout => '1 hour') IS NOT NULL AS begun FROM generate_series(1, 3);
SELECT saga.begin('no deadline') IS NOT NULL AS begun;
SELECT * FROM test.top('deadline');
SELECT * FROM test.top('no deadline');

-- Two kinds of waiting: the larger is named.
SELECT count(s) FROM (SELECT saga.step(saga.begin('waits'), 'a', action => 'SELECT 1', delay => '1 hour', after => '{}') FROM generate_series(1, 3)) s;
SELECT saga.begin('waits') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT 1 / 0', retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
CALL test.wait_until(format('SELECT status = ''failed'' FROM saga.steps WHERE saga_id = %L', :'id'));
CALL test.wait_until($$SELECT waiting = 4 AND waiting_for = 'a time' FROM saga.top WHERE name = 'waits'$$);
SELECT * FROM test.top('waits');
-- undone again later
SELECT saga.begin('again') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT 1 / 0', compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT count(*) > 0 FROM saga.attempts WHERE saga_id = %L AND outcome = %L', :'id', 'failed'));
SELECT * FROM test.top('again');

-- A person decides: about a saga, a step, and nobody about one that is paused.
SELECT saga.begin('person') AS id \gset
SELECT status FROM saga.step(:'id', 'a', review => 'look twice');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT saga.begin('person') AS id \gset
SELECT status FROM saga.step(:'id', 'a', approval => 'all right?');
CALL test.wait_until(format('SELECT waits_for LIKE ''approval%%'' FROM saga.steps WHERE saga_id = %L', :'id'));
SELECT * FROM test.top('person');
SELECT saga.cancel(:'id', 'enough');
SELECT saga.begin('paused', timeout => '1 hour') AS id \gset
SELECT saga.pause(:'id', 'why');
SELECT * FROM test.top('paused');

-- Listeners
SELECT saga.begin('listener') AS id, saga.begin('listener') AS second \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'k_top');
SELECT status FROM saga.step(:'second', 'a', notify => 'k_top');
SELECT saga.fail(:'id'), saga.fail(:'second');
CALL test.wait_until($$SELECT unclaimed = 2 FROM saga.top WHERE name = 'listener'$$);
SELECT * FROM test.top('listener');
SELECT count(*) FROM saga.claim_compensations('k_top', 2, '1 hour');
SELECT * FROM test.top('listener');

-- and services, whose tasks are steps
SELECT saga.begin('service') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'k_top_task');
CALL test.wait_until($$SELECT unclaimed = 1 FROM saga.top WHERE name = 'service'$$);
SELECT * FROM test.top('service');
SELECT task_key FROM saga.claim_tasks('k_top_task', 1, '1 hour') \gset
SELECT * FROM test.top('service');
SELECT saga.complete_task(:'task_key');
CALL test.wait_until($$SELECT count(*) = 0 FROM saga.top WHERE name = 'service'$$);
SELECT * FROM test.top('service');
-- A signal that does not come
SELECT saga.begin('signal') AS id \gset
SELECT status FROM saga.step(:'id', 'a', signals => '{paid}', timeout => '1 hour');
CALL test.wait_until($$SELECT waiting_for = 'a signal' FROM saga.top WHERE name = 'signal'$$);
SELECT * FROM test.top('signal');

-- An executor is busy; and another saga waits for one.
RESET ROLE;
ALTER SYSTEM SET saga.max_executors = 1;
SELECT pg_reload_conf();
SELECT pg_advisory_lock(51);
SET ROLE regress_saga_other;
SELECT saga.begin('busy') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT pg_advisory_xact_lock(51)');
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.running WHERE saga_id = %L', :'id'));
SELECT saga.begin('busy') AS second \gset
SELECT status FROM saga.step(:'second', 'a', action => 'SELECT 1');
CALL test.wait_until($$SELECT executors = 1 AND waiting_for LIKE 'an executor%' FROM saga.top WHERE name = 'busy'$$);
SELECT * FROM test.top('busy');
SELECT name, owner FROM saga.top;
RESET ROLE;
SELECT pg_advisory_unlock(51);
ALTER SYSTEM RESET saga.max_executors;
SELECT pg_reload_conf();
SELECT saga.wait(:'id');
CALL test.wait_until($$SELECT count(*) = 0 FROM saga.top WHERE name = 'busy'$$);

-- Others see what they may see of each other's.
SET ROLE regress_saga_stranger;
SELECT count(*) FROM saga.top;
SET ROLE regress_saga_monitor;
SELECT name, owner, running > 0 AS running FROM saga.top WHERE name IN ('deadline', 'busy');
RESET ROLE;
-- What is finished is not there.
SELECT count(saga.cancel(id, 'the end of the test')) FROM saga.sagas WHERE name IN ('deadline', 'waits') AND state = 'running';
CALL test.wait_until($$SELECT count(*) = 0 FROM saga.top WHERE name IN ('deadline', 'waits')$$);

-- Whatever the history holds, it is not read: the tables of sagas, steps and events
-- are looked up by what is open.
SELECT count(saga.cancel((saga.step(saga.begin('finished'), 'a', completed => true)).saga_id)) FROM generate_series(1, 3000);
VACUUM ANALYZE saga.ledger_saga, saga.ledger_step, saga.ledger_event, saga.ledger_due, saga.ledger_held, saga.ledger_queue;
CREATE FUNCTION test.reads(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
    IF line ~ 'Seq Scan on ledger_(saga|step|event|attempt)' THEN
      RETURN NEXT trim(line);
    END IF;
  END LOOP;
END $$;
SELECT * FROM test.reads('SELECT * FROM saga.top');
-- That test can fail.
SELECT * FROM test.reads('SELECT count(*) FROM saga.ledger_saga WHERE state = ''r''');
\set ECHO none
\i sql/include/drop_roles.sql
\i sql/include/impatient.sql
