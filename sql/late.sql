-- What comes after the undo has begun: late work inside the database aborts, a
-- late result of an effect outside is kept.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

-- A compensation that holds the walk where it is, for an hour
CREATE FUNCTION test.later() RETURNS void LANGUAGE plpgsql
AS $$ BEGIN RAISE SQLSTATE 'SG007' USING MESSAGE = 'not yet'; END $$;
CREATE TABLE test.work (what text);

-- Late work and its record abort together.
SELECT test.begin('late work') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
\set VERBOSITY sqlstate
BEGIN;
INSERT INTO test.work VALUES ('done too late');
SELECT saga.complete_step(:'id', 'a', '1');
COMMIT;
BEGIN;
INSERT INTO test.work VALUES ('started too late');
SELECT saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)');
COMMIT;
\set VERBOSITY default
TABLE test.work;
SELECT * FROM test.steps('late work');

-- In time: no attempt of its compensation was made yet, so that it gets the output.
CREATE TABLE test.seen (context jsonb);
CREATE FUNCTION test.see(context jsonb) RETURNS void LANGUAGE sql
AS 'INSERT INTO test.seen VALUES (context)';
CREATE TABLE test.gate (open boolean);
INSERT INTO test.gate VALUES (false);
CREATE FUNCTION test.pass() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF NOT (SELECT open FROM test.gate) THEN
    RAISE SQLSTATE 'SG007' USING MESSAGE = 'the gate is closed';
  END IF;
END $$;
SELECT test.begin('in time') AS id \gset
SELECT status FROM saga.step(:'id', 'charge', compensation => 'SELECT test.see($1)');
SELECT status FROM saga.step(:'id', 'failed', compensation => 'SELECT test.see($1)');
SELECT status FROM saga.fail_step(:'id', 'failed', 'timeout, or so it seemed');
SELECT status FROM saga.step(:'id', 'none');
SELECT status FROM saga.step(:'id', 'gate', compensation => 'SELECT test.pass()',
  compensation_retry => saga.retry_policy(delay => '10 ms', max_delay => '10 ms'));
SELECT saga.fail(:'id');
SELECT status, attempt, output FROM saga.complete_step(:'id', 'charge', '{"charge": "ch_1"}', late => 'record');
SELECT status, attempt, output, error FROM saga.complete_step(:'id', 'failed', '{"charge": "ch_2"}', late => 'record');
SELECT status, attempt, output FROM saga.complete_step(:'id', 'none', '"nothing to undo"', late => 'record');
-- said twice, the same; with another output, a conflict
SELECT status, output FROM saga.complete_step(:'id', 'charge', '{"charge": "ch_1"}', late => 'record');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, %L, late => %L)', :'id', 'charge', '{"charge": "ch_9"}', 'record'));
SELECT state FROM saga.sagas WHERE id = :'id';
UPDATE test.gate SET open = true;
SELECT saga.wait(:'id');
SELECT context #>> '{step,key}' AS step, context #>> '{step,status}' AS status, context -> 'output' AS output FROM test.seen;
SELECT step, status, output, compensation, parked FROM test.steps('in time');
SELECT s.key, a.attempt, a.outcome, a.error FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq)
WHERE saga_id = :'id' AND phase = 'forward' ORDER BY seq, attempt;
SELECT event, step, detail FROM test.events('in time') WHERE event LIKE 'late%' ORDER BY position;

-- The attempts were made without it: parked with both facts, even from "compensated".
SELECT test.begin('compensated') AS id \gset
SELECT status FROM saga.step(:'id', 'charge', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT status, output FROM saga.complete_step(:'id', 'charge', '{"charge": "ch_3"}', late => 'record');
SELECT * FROM test.saga('compensated') \gx
SELECT finished_at, requires_review FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.steps('compensated');
SELECT event, step, detail FROM test.events('compensated') WHERE position > 2;

-- ... while it is being tried
SELECT test.begin('being tried') AS id \gset
SELECT status FROM saga.step(:'id', 'before', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'charge', compensation => 'SELECT test.later()',
  compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.attempts WHERE saga_id = %L AND outcome = %L', :'id', 'deferred'));
SELECT status, output FROM saga.complete_step(:'id', 'charge', '{"charge": "ch_4"}', late => 'record');
SELECT * FROM test.saga('being tried') \gx
SELECT * FROM test.steps('being tried');

-- ... and where the walk passed it by
SELECT test.begin('passed by') AS id \gset
SELECT status FROM saga.step(:'id', 'hold', compensation => 'SELECT test.later()',
  compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT status FROM saga.step(:'id', 'charge', compensate_on => 'completed', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.attempts WHERE saga_id = %L AND outcome = %L', :'id', 'deferred'));
SELECT status, output FROM saga.complete_step(:'id', 'charge', '{"charge": "ch_5"}', late => 'record');
SELECT * FROM test.saga('passed by') \gx
SELECT * FROM test.steps('passed by');

-- Not yet passed: completed in time, it is undone.
SELECT test.begin('not yet passed') AS id \gset
UPDATE test.gate SET open = false;
SELECT status FROM saga.step(:'id', 'charge', compensate_on => 'completed', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'gate', compensation => 'SELECT test.pass()',
  compensation_retry => saga.retry_policy(delay => '10 ms', max_delay => '10 ms'));
SELECT saga.fail(:'id');
SELECT status, output FROM saga.complete_step(:'id', 'charge', '{"charge": "ch_6"}', late => 'record');
UPDATE test.gate SET open = true;
SELECT saga.wait(:'id');
SELECT test.undone('not yet passed');

-- A retriable step's result has nothing to undo, and a step of a parked saga
-- that was not reached yet is in time.
SELECT test.begin('retriable') AS id \gset
SELECT status FROM saga.step(:'id', 'r', kind => 'retriable', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'look', review => 'look');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT status, output FROM saga.complete_step(:'id', 'r', '1', late => 'record');
SELECT status, output FROM saga.complete_step(:'id', 'a', '2', late => 'record');
SELECT * FROM test.saga('retriable') \gx
SELECT * FROM test.steps('retriable');

-- Recording is for what is late only: before that, it is the usual call.
SELECT test.begin('not late') AS id \gset
SELECT status FROM saga.step(:'id', 'a');
SELECT status FROM saga.complete_step(:'id', 'a', '1', late => 'record');
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT event, step FROM test.events('not late');

-- A late failure changes nothing, and says so.
SELECT test.begin('late failure') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
\set VERBOSITY terse
SELECT status, attempt, error, retry_at FROM saga.fail_step(:'id', 'a', 'too late');
\set VERBOSITY default
SELECT * FROM test.steps('late failure');
SELECT event, step FROM test.events('late failure');
