-- What those who LISTEN hear: ids and states only, after the commit.
--
-- psql names the process that notified; so what it says goes through a filter,
-- which also drops the tasks that a slow machine makes the worker announce again.
-- A marker of our own comes behind all that was committed before it.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\set ECHO all
\set filter '|awk "!/event\\":\\"compensate\\"/ || !told[\\$0]++" | sed -E -e "s/PID [0-9]+/PID <pid>/" -e "s/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/<id>/" -e "s/seq\\":[0-9]+/seq\\":<seq>/"'

-- Waits until the worker has told all that it had to tell of a saga.
CREATE PROCEDURE test.until_announced(name text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT to_announce IS NULL AND due IS NULL FROM saga.ledger_saga WHERE id = %L', test.id(name)));
END $$;
CREATE FUNCTION test.announced(name text, announce text, on_failure text DEFAULT NULL) RETURNS uuid LANGUAGE sql VOLATILE AS $$
  INSERT INTO test.named SELECT $1, saga.begin('test', announce => $2, on_compensation_failure => $3) RETURNING id
$$;

-- A compensation: the channel of the step, and nothing of the business
SELECT test.begin('task') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'a_task', args => '"secret"', output => '"secret"');
SELECT status FROM saga.step(:'id', 'b', notify => 'a_task');
\o :filter
LISTEN a_task;
SELECT saga.fail(:'id', 'secret') AS state \gset
CALL test.until_dispatched('task');
NOTIFY a_task, 'b is dispatched';
SELECT test.done('task', step) AS done FROM test.claim('a_task') \gset
CALL test.until_dispatched('task');
NOTIFY a_task, 'a is dispatched';
SELECT test.done('task', step) AS done FROM test.claim('a_task') \gset
NOTIFY a_task, 'that is all';
UNLISTEN *;
\o
SELECT :'done' AS done;

-- The channel's name is taken as it is.
SELECT test.listen('quoted', 'Refund "quick" büro') AS id \gset
\o :filter
LISTEN "Refund ""quick"" büro";
CALL test.fail('quoted');
NOTIFY "Refund ""quick"" büro", 'that is all';
UNLISTEN *;
\o
SELECT * FROM test.claim('refund "quick" büro');
SELECT * FROM test.claim('Refund "quick" büro');
SELECT channel FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT saga.complete_compensation(test.key('quoted', 'a'));

-- Fire and forget: announced once, and done with that
SELECT test.begin('forget') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'a_forget', acknowledge => false);
\o :filter
LISTEN a_forget;
SELECT saga.fail(:'id') AS state \gset
SELECT saga.wait(:'id') AS state \gset
NOTIFY a_forget, 'that is all';
UNLISTEN *;
\o
SELECT :'state' AS state;

-- Every state after "running", in the order in which they were reached
SELECT test.announced('completes', 'a_states') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true);
\o :filter
LISTEN a_states;
SELECT saga.complete(:'id') AS state \gset
CALL test.until_announced('completes');
NOTIFY a_states, 'that is all';
\o
SELECT test.announced('nothing to undo', 'a_states') AS id \gset
\o :filter
SELECT saga.fail(:'id') AS state \gset
CALL test.until_announced('nothing to undo');
NOTIFY a_states, 'that is all';
\o
SELECT test.announced('SQL', 'a_states') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)');
\o :filter
SELECT saga.cancel(:'id') AS state \gset
CALL test.until_announced('SQL');
NOTIFY a_states, 'that is all';
\o
SELECT test.undone('SQL');
SELECT test.announced('pivot', 'a_states') AS id \gset
SELECT status FROM saga.step(:'id', 'a', kind => 'pivot', completed => true);
\o :filter
SELECT saga.fail(:'id') AS state \gset
CALL test.until_announced('pivot');
NOTIFY a_states, 'that is all';
\o
SELECT test.announced('review', 'a_states') AS id \gset
SELECT status FROM saga.step(:'id', 'a', review => 'look');
\o :filter
SELECT saga.fail(:'id') AS state \gset
SELECT saga.wait(:'id') AS state \gset
CALL test.until_announced('review');
NOTIFY a_states, 'that is all';
\o
-- the longest way: given up, parked, acknowledged late, undone, a late result
SELECT test.announced('long', 'a_states') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', notify => 'a_states', compensation_retry => saga.retry_policy(max_attempts => 1));
\o :filter
SELECT saga.fail(:'id') AS state \gset
CALL test.until_dispatched('long');
SELECT saga.fail_compensation(test.key('long', step), attempt, 'no') AS answer FROM test.claim('a_states') \gset
CALL test.until_announced('long');
NOTIFY a_states, 'it is parked';
SELECT test.done('long', 'b') AS answer \gset
SELECT saga.wait(:'id') AS state \gset
CALL test.until_announced('long');
NOTIFY a_states, 'it is undone';
SELECT status FROM saga.complete_step(:'id', 'b', '1', late => 'record') \gset
CALL test.until_announced('long');
NOTIFY a_states, 'that is all';
\o
SELECT * FROM test.saga('long') \gx
-- what is rolled back is not announced, what is not announced is not undone before
SELECT test.announced('taken back', 'a_states') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
\o :filter
BEGIN;
SELECT saga.fail(:'id') AS state \gset
ROLLBACK;
SELECT saga.complete_step(:'id', 'a') AS step \gset
SELECT saga.complete(:'id') AS state \gset
CALL test.until_announced('taken back');
NOTIFY a_states, 'that is all';
UNLISTEN *;
\o
-- several in one transaction: each of them
SELECT test.announced('several 1', 'a_several') AS id1 \gset
SELECT test.announced('several 2', 'a_several') AS id2 \gset
SELECT test.announced('several 3', 'a_several2') AS id3 \gset
\o :filter
LISTEN a_several;
LISTEN a_several2;
BEGIN;
SELECT saga.complete(:'id1') AS state \gset
SELECT saga.fail(:'id2') AS state \gset
SELECT saga.complete(:'id3') AS state \gset
COMMIT;
CALL test.until_announced('several 1');
CALL test.until_announced('several 2');
CALL test.until_announced('several 3');
NOTIFY a_several, 'that is all';
UNLISTEN *;
\o
-- none: nothing is kept for anybody
SELECT test.begin('silent') AS id \gset
SELECT saga.complete(:'id');
SELECT announce, to_announce, due FROM saga.ledger_saga WHERE id = :'id';
-- the application's transaction leaves to the worker what there is to tell
SELECT test.announced('not in here', 'a_not_here') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'a_not_here');
BEGIN;
SELECT saga.fail(:'id');
SELECT to_announce FROM saga.ledger_saga WHERE id = :'id';
SELECT count(*) FROM saga.ledger_queue WHERE saga = :'id';
COMMIT;
CALL test.until_dispatched('not in here');
SELECT test.done('not in here', step) FROM test.claim('a_not_here');
CALL test.until_announced('not in here');

CALL test.check();
