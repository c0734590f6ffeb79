-- Two-phase commit: what was recorded, failed, claimed and reported counts with
-- COMMIT PREPARED.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\set ECHO all

-- Recorded
BEGIN;
SELECT saga.begin('order', 'prepared') AS id \gset
SELECT status FROM saga.step(:'id', 'a', output => '1');
PREPARE TRANSACTION 'saga happy';
SELECT count(*) FROM saga.sagas WHERE id = :'id';
COMMIT PREPARED 'saga happy';
SELECT saga.begin('order', 'prepared') = :'id' AS it;
SELECT state, steps FROM saga.sagas WHERE id = :'id';

-- Failed: the undo waits for the second phase.
SELECT test.begin('fails') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
BEGIN;
SELECT saga.fail(:'id', 'yes');
PREPARE TRANSACTION 'saga undo';
SELECT state FROM saga.sagas WHERE id = :'id';
COMMIT PREPARED 'saga undo';
SELECT saga.wait(:'id');
SELECT test.undone('fails');

-- NOTIFY cannot be prepared; what makes a step due for listeners can, by whatever
-- call: only the worker notifies.
SELECT test.listen('unnotified', 'k_unnotified') AS id \gset
BEGIN;
SELECT saga.fail(:'id');
SELECT saga.pause(:'id', 'why'), saga.resume(:'id');
PREPARE TRANSACTION 'fail';
SELECT * FROM test.claim('k_unnotified');
COMMIT PREPARED 'fail';
CALL test.until_dispatched('unnotified');
SELECT * FROM test.claim('k_unnotified');
BEGIN;
SELECT saga.fail_compensation(test.key('unnotified', 'a'), 1, 'no', retryable => false);
SELECT saga.resolve(:'id', 'a', 'retry', 'why');
PREPARE TRANSACTION 'resolve';
COMMIT PREPARED 'resolve';
CALL test.until_dispatched('unnotified');
SELECT test.done('unnotified', step) FROM test.claim('k_unnotified');
SELECT test.begin('rolls back') AS id \gset
SELECT status FROM saga.step(:'id', 'first', notify => 'k_unnotified', completed => true);
SELECT status FROM saga.step(:'id', 'a', notify => 'k_unnotified', completed => true);
BEGIN;
SELECT saga.rollback_to(:'id', NULL);
PREPARE TRANSACTION 'roll back';
COMMIT PREPARED 'roll back';
CALL test.until_dispatched('rolls back');
SELECT * FROM test.claim('k_unnotified');
-- done: the next step has its turn
BEGIN;
SELECT test.done('rolls back', 'a');
PREPARE TRANSACTION 'done';
COMMIT PREPARED 'done';
CALL test.until_dispatched('rolls back');
SELECT test.done('rolls back', step) FROM test.claim('k_unnotified');
SELECT state FROM saga.sagas WHERE id = :'id';

-- Prepared transactions: the claim counts with COMMIT PREPARED, and holds the
-- task until then.
SELECT test.listen('prepared', 'k_prepared') AS id \gset
CALL test.fail('prepared');
BEGIN;
SELECT * FROM test.claim('k_prepared', consumer => 'one');
PREPARE TRANSACTION 'claim';
SELECT * FROM test.claim('k_prepared', consumer => 'two');
SELECT consumer, claimed_at FROM saga.pending_compensations WHERE saga_id = :'id';
ROLLBACK PREPARED 'claim';
BEGIN;
SELECT * FROM test.claim('k_prepared', consumer => 'three');
PREPARE TRANSACTION 'claim';
COMMIT PREPARED 'claim';
SELECT consumer, attempt FROM saga.pending_compensations WHERE saga_id = :'id';
BEGIN;
SELECT test.done('prepared', 'a');
PREPARE TRANSACTION 'report';
SELECT state FROM saga.sagas WHERE id = :'id';
-- whoever comes meanwhile waits no longer than it likes
BEGIN;
SET LOCAL lock_timeout = '10 ms';
\set VERBOSITY sqlstate
SELECT saga.fail_compensation(test.key('prepared', 'a'), 1, 'no');
\set VERBOSITY default
ROLLBACK;
COMMIT PREPARED 'report';
SELECT saga.fail_compensation(test.key('prepared', 'a'), 1, 'no');
SELECT state FROM saga.sagas WHERE id = :'id';
