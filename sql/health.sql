-- saga.health: what stands still is found, and nothing else.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\i sql/include/clock.sql
\i sql/include/stubborn.sql
CREATE ROLE regress_saga_owner LOGIN;
CREATE ROLE regress_saga_stranger;
GRANT USAGE ON SCHEMA saga TO regress_saga_owner, regress_saga_stranger;
GRANT ALL ON ALL TABLES IN SCHEMA test TO regress_saga_owner;
\set ECHO all
CREATE FUNCTION test.health(about text) RETURNS TABLE (severity text, code text, finding text, hint text, hours numeric)
LANGUAGE sql VOLATILE AS $$
  SELECT severity, code, finding, test.mask(hint), trunc(extract(epoch FROM saga.internal_now() - since) / 3600)
  FROM saga.health WHERE finding ~ about ORDER BY 1, 2, 3
$$;
-- Listeners: after ten minutes, of all that waits on the channel by then
SELECT test.listen('one', 'k health') AS id, test.listen('two', 'k health') AS second \gset
CALL test.fail('one');
SELECT test.advance('9 minutes');
CALL test.fail('two');
SELECT * FROM test.health('k health') WHERE code = 'unclaimed';
SELECT test.advance('2 minutes');
SELECT * FROM test.health('k health') \gx
SELECT test.advance('10 minutes');
SELECT finding FROM test.health('k health') WHERE code = 'unclaimed';
-- not while they are paused, nor once they are claimed
SELECT saga.pause(:'second', 'why');
SELECT finding FROM test.health('k health') WHERE code = 'unclaimed';
SELECT saga.resume(:'second');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.claim_compensations('k health', 1, '1 hour')$$);
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.claim_compensations('k health', 1, '1 hour')$$);
SELECT * FROM test.health('k health') WHERE code = 'unclaimed';
SELECT test.done('one', 'a'), test.done('two', 'a');
SELECT saga.wait(:'id'), saga.wait(:'second');

-- A person: about a saga, and about a step; after a day
SELECT saga.begin('h parked') AS id \gset
SELECT status FROM saga.step(:'id', 'a', review => 'look twice');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT saga.begin('h parked', timeout => '10 years') AS second \gset
SELECT status FROM saga.step(:'second', 'a', approval => 'all right?');
CALL test.wait_until(format('SELECT waits_for LIKE ''approval%%'' FROM saga.steps WHERE saga_id = %L', :'second'));
SELECT test.advance('23 hours');
SELECT * FROM test.health('h parked');
SELECT test.advance('2 hours');
SELECT * FROM test.health('h parked') \gx
SELECT saga.resolve(:'id', 'a', 'done', 'by hand');
SELECT finding FROM test.health('h parked');
SELECT saga.resolve(:'second', 'a', 'approve', 'it is');
SELECT * FROM test.health('h parked');

-- Paused
SELECT saga.begin('h paused', timeout => '10 years') AS id \gset
SELECT saga.pause(:'id', 'why');
SELECT test.advance('23 hours');
SELECT * FROM test.health('h paused');
SELECT test.advance('2 hours');
SELECT * FROM test.health('h paused') \gx
SELECT saga.resume(:'id');
SELECT * FROM test.health('h paused');

-- Without a deadline: after three days, and only those
SELECT saga.begin('h endless') AS id, saga.begin('h in time', timeout => '10 years') IS NOT NULL AS begun \gset
SET ROLE regress_saga_owner;
SELECT saga.begin('h endless') IS NOT NULL AS begun;
RESET ROLE;
SELECT test.advance('2 days');
SELECT * FROM test.health('h endless|h in time');
SELECT test.advance('25 hours');
SELECT severity, code, replace(finding, current_user, '<me>') AS finding, hint, hours FROM test.health('h endless|h in time') WHERE finding ~ 'regress' \gx
SELECT count(*) FROM test.health('h endless|h in time');
SELECT saga.complete(:'id');
SELECT count(*) FROM test.health('h endless|h in time');

-- A prepared transaction, by which a saga may be held up
BEGIN;
SELECT saga.begin('held up') IS NOT NULL AS begun;
PREPARE TRANSACTION 'regress_saga_health';
SELECT severity, code, finding, hint, hours > 1 AS long FROM test.health('regress_saga_health') \gx
ROLLBACK PREPARED 'regress_saga_health';
SELECT * FROM test.health('regress_saga_health');

-- All executors are busy with the work of another role.
ALTER SYSTEM SET saga.max_executors = 1;
ALTER SYSTEM SET saga.lock_timeout = 0;
SELECT pg_reload_conf();
SELECT pg_advisory_lock(52);
SELECT saga.begin('busy') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT pg_advisory_xact_lock(52)');
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.running WHERE saga_id = %L', :'id'));
SET ROLE regress_saga_owner;
SELECT saga.begin('needs one') AS second \gset
SELECT status FROM saga.step(:'second', 'a', action => 'SELECT 1');
RESET ROLE;
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.health WHERE finding ~ 'regress_saga_owner.* waits for an executor'$$);
SELECT * FROM test.health('regress_saga_owner.* waits for an executor') \gx
-- What is due and not done, for whatever reason
SELECT test.advance('2 minutes');
SELECT * FROM test.health('regress_saga_owner is due and not done') \gx
SELECT pg_advisory_unlock(52);
SELECT status FROM saga.wait_step(:'second', 'a');
CALL test.wait_until($$SELECT count(*) = 0 FROM saga.health WHERE code = 'executors exhausted' OR finding ~ 'regress_saga_owner is due'$$);
ALTER SYSTEM RESET saga.max_executors;
-- An undo that waits for an action which traps that it is canceled
SELECT saga.begin('stubborn') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.stubborn()', compensation => 'SELECT 1');
CALL test.until_stubborn(:'id');
SELECT test.advance('2 minutes');
SELECT * FROM test.health('worker is due and not done');
SELECT saga.fail(:'id');
SELECT test.advance('2 minutes');
SELECT * FROM test.health('worker is due and not done') \gx
SELECT test.release();
SELECT saga.wait(:'id');
SELECT * FROM test.health('worker is due and not done');
ALTER SYSTEM RESET saga.lock_timeout;
SELECT pg_reload_conf();

-- A million sagas and no retention, by what the server's statistics say
BEGIN;
UPDATE pg_class SET reltuples = 2600000 WHERE oid = 'saga.ledger_saga'::regclass;
SELECT * FROM test.health('million') \gx
UPDATE pg_class SET reltuples = 999999 WHERE oid = 'saga.ledger_saga'::regclass;
SELECT * FROM test.health('million');
ROLLBACK;

-- What others may not see, they are not told of.
SELECT count(*) FROM test.health('h endless');
SET ROLE regress_saga_stranger;
SELECT * FROM saga.health WHERE finding ~ 'h endless';
RESET ROLE;
\set ECHO none
\i sql/include/drop_roles.sql
