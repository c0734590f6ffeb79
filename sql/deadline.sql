-- A saga that nobody finishes in time fails, and is undone.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/clock.sql
\set ECHO all

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

-- Moved, given, and cleared
SELECT test.begin('moved', timeout => '1 hour') AS moved \gset
SELECT test.begin('given') AS given \gset
SELECT test.begin('cleared', timeout => '1 hour') AS cleared \gset
SELECT test.begin('sooner', timeout => '10 hours') AS sooner \gset
SELECT test.begin('while paused', timeout => '1 hour') AS paused \gset
SELECT status FROM saga.step(:'moved', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'given', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.set_timeout(:'moved', '2 hours') IS NOT NULL AS set;
SELECT saga.set_timeout(:'moved', '3 hours', 'the customer asked for time') AS until \gset
SELECT deadline = :'until' AS set, deadline BETWEEN started_at + interval '3 hours' AND started_at + interval '3 hours 30 minutes' AS from_now
FROM saga.sagas WHERE id = :'moved';
SELECT saga.set_timeout(:'given', '2 hours') > saga.set_timeout(:'sooner', '1 hour 50 minutes') AS given;
SELECT saga.set_timeout(:'cleared', '0', 'no hurry') IS NULL AS cleared;
SELECT saga.set_timeout(:'cleared', '0') IS NULL AS cleared_again;
SELECT saga.pause(:'paused', 'n');
SELECT saga.set_timeout(:'paused', '2 hours') IS NOT NULL AS set;
SELECT n.name, deadline IS NOT NULL AS deadline, due = deadline AS due, (SELECT count(*) FROM saga.ledger_due d WHERE d.saga = s.id) AS rows
FROM saga.ledger_saga s JOIN test.named n USING (id) WHERE n.name IN ('moved', 'given', 'cleared', 'sooner', 'while paused') ORDER BY id;
SELECT test.advance('61 minutes');
SELECT saga.wait(:'moved', '200 ms'), saga.wait(:'cleared', '0');
SELECT test.advance('1 hour');
SELECT saga.wait(:'given');
SELECT saga.wait(:'sooner');
SELECT saga.wait(:'moved', '0'), saga.wait(:'paused', '0');
SELECT saga.resume(:'paused');
SELECT saga.wait(:'paused');
SELECT test.advance('2 hours');
SELECT saga.wait(:'moved');
SELECT n.name, state, failure_kind, test.undone(n.name) FROM saga.sagas JOIN test.named n USING (id)
WHERE n.name IN ('moved', 'given', 'cleared', 'sooner', 'while paused') ORDER BY id;
SELECT event, step, detail FROM test.events('moved');
SELECT event, step, detail FROM test.events('cleared');
-- In a partial undo it makes a full one, if it comes.
SELECT test.begin('partial', timeout => '1 hour') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', completed => true, notify => 'deadline');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.set_timeout(:'id', '2 hours') IS NOT NULL AS set;
SELECT test.advance('61 minutes');
SELECT saga.wait(:'id', '100 ms');
SELECT failure_kind FROM saga.sagas WHERE id = :'id';
SELECT test.advance('1 hour');
CALL test.wait_until(format('SELECT failure_kind = %L FROM saga.sagas WHERE id = %L', 'timed out', :'id'));
SELECT saga.complete_compensation(compensation_key) FROM saga.steps WHERE saga_id = :'id' AND key = 'b';
SELECT saga.wait(:'id');
SELECT test.undone('partial');
-- Of what has failed, or is over, there is none to set.
CALL test.refuses(format('SELECT saga.set_timeout(%L, %L)', :'id', '1 hour'));
CALL test.refuses(format('SELECT saga.set_timeout(%L, %L)', :'moved', '1 hour'));
CALL test.refuses(format('SELECT saga.set_timeout(%L, NULL)', :'cleared'));
CALL test.refuses(format('SELECT saga.set_timeout(%L, %L)', :'cleared', '-1 s'));
CALL test.refuses(format('SELECT saga.set_timeout(%L, %L)', :'cleared', '101 years'));
CALL test.refuses('SELECT saga.set_timeout(NULL, ''1 hour'')');
CALL test.refuses('SELECT saga.set_timeout(''01900000-0000-7000-8000-000000000000'', ''1 hour'')');

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
