-- A saga that nobody finishes in time fails, and is undone.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

CREATE FUNCTION test.advance(interval) RETURNS void
AS 'saga', 'saga_sql_test_advance_clock' LANGUAGE C STRICT;

-- Before its time nothing happens, after it everything.
SELECT test.begin('late', timeout => '1 hour') AS id \gset
SELECT test.begin('in time', timeout => '1 hour') AS in_time \gset
SELECT test.begin('no deadline', timeout => '0') AS none \gset
SELECT test.begin('nothing to undo', timeout => '1 hour') AS nothing \gset
SELECT test.begin('pivot', timeout => '1 hour') AS pivot \gset
SELECT test.begin('failed before', timeout => '1 hour') AS failed \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'in_time', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'none', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'pivot', 'a', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'failed', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'failed', 'by hand');
SELECT saga.wait(:'failed');
SELECT test.advance('59 minutes');
SELECT saga.wait(:'id', '200 ms');
SELECT saga.complete(:'in_time');
SELECT test.advance('2 minutes');
SELECT saga.wait(:'id');
SELECT saga.wait(:'nothing');
SELECT saga.wait(:'pivot');
SELECT saga.wait(:'none', '0');
SELECT n.name, state, failure_kind, reason, failed_step, test.undone(n.name), updated_at > deadline AS late
FROM saga.sagas JOIN test.named n USING (id) ORDER BY id;
SELECT * FROM test.events('late');
-- late work gets the same answer as after any failure
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'b'));
-- and a deadline that passed is no more due
SELECT count(*) FROM saga.ledger_due WHERE saga IN (SELECT id FROM test.named);

-- A step that is open in a transaction holds it up.
SELECT test.begin('held up', timeout => '1 hour') AS id \gset
BEGIN;
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT test.advance('61 minutes');
SELECT pg_sleep(0.2);
SELECT state, next_action FROM saga.sagas WHERE id = :'id';
COMMIT;
SELECT saga.wait(:'id');
SELECT test.undone('held up');
SELECT failure_kind FROM saga.sagas WHERE id = :'id';

-- A saga may be completed late, as long as nobody noticed: in the transaction
-- that holds it, the application was first.
SELECT test.begin('first', timeout => '1 hour') AS id \gset
BEGIN;
SELECT status FROM saga.step(:'id', 'a', completed => true);
SELECT test.advance('61 minutes');
SELECT saga.complete(:'id');
COMMIT;
SELECT saga.wait(:'id');
