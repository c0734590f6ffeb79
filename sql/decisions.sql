-- Decisions beside what is under way: attempts, claims, late results and reports
-- that meet a person's decision, a pivot, a savepoint, or oblivion.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\i sql/include/clock.sql
\set ECHO all

-- A compensation that goes on, from the given attempt on, until it is let go;
-- before that one, attempts fail.
CREATE TABLE test.gate (shut boolean);
CREATE FUNCTION test.undo_slowly(context jsonb, slow integer DEFAULT 1) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF (context ->> 'attempt')::integer < slow THEN
    RAISE EXCEPTION 'not yet';
  END IF;
  PERFORM test.undo(context);
  PERFORM pg_advisory_xact_lock(4711);
  WHILE EXISTS (SELECT FROM test.gate) LOOP
    PERFORM pg_sleep(0.01);
  END LOOP;
END $$;
CREATE PROCEDURE test.shut() LANGUAGE sql AS 'INSERT INTO test.gate VALUES (true)';
CREATE PROCEDURE test.until_under_way() LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until('SELECT count(*) = 1 FROM pg_locks WHERE locktype = ''advisory'' AND objid = 4711 AND granted');
END $$;
-- Lets it go, and waits for its end.
CREATE PROCEDURE test.let_go() LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM test.gate;
  COMMIT;
  CALL test.wait_until('SELECT count(*) = 0 FROM pg_locks WHERE locktype = ''advisory'' AND objid = 4711');
END $$;
-- Waits until so many attempts of compensations of a saga are over.
CREATE PROCEDURE test.until_over(name text, attempts integer) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT count(*) = %s FROM saga.attempts WHERE saga_id = %L AND phase = ''compensation''
    AND outcome IS NOT NULL', attempts, test.id(name)));
END $$;
CREATE PROCEDURE test.until_state(name text, state text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT state = %L FROM saga.sagas WHERE id = %L', state, test.id(name)));
END $$;

-- An acknowledgement, after the lease, of a partial undo that a failure behind
-- the pivot ended: believed, and nothing follows from it.
SELECT test.begin('pivot') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'n', notify => 'd_pivot', completed => true, compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT saga.rollback_to(:'id', 'p');
CALL test.until_dispatched('pivot');
SELECT * FROM test.claim('d_pivot');
SELECT test.advance('2 minutes');
CALL test.until_over('pivot', 1);
SELECT saga.fail(:'id', 'boom');
SELECT test.done('pivot', 'n');
SELECT * FROM test.saga('pivot') \gx
SELECT * FROM test.steps('pivot');
SELECT * FROM test.attempts('pivot');
SELECT * FROM test.events('pivot');
-- ... with a step before the pivot that SQL would undo
SELECT test.begin('before the pivot') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'n', notify => 'd_pivot', completed => true, compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT saga.rollback_to(:'id', 'p');
CALL test.until_dispatched('before the pivot');
SELECT * FROM test.claim('d_pivot');
SELECT test.advance('2 minutes');
CALL test.until_over('before the pivot', 1);
SELECT saga.fail(:'id', 'boom');
SELECT test.done('before the pivot', 'n');
SELECT * FROM test.saga('before the pivot') \gx
SELECT * FROM test.steps('before the pivot');

-- SQL is under way when the first result of its step comes in late: as nothing was
-- done without it yet, what is under way is undone, and done with the result.
SELECT test.begin('in time') AS id \gset
SELECT status FROM saga.step(:'id', 'x', compensation => 'SELECT test.undo_slowly($1), test.undo($1, $1 #>> ''{output}'')');
CALL test.shut();
SELECT saga.fail(:'id');
CALL test.until_under_way();
SELECT status FROM saga.complete_step(:'id', 'x', '"ch_1"', late => 'record');
SELECT state FROM saga.sagas WHERE id = :'id';
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'x', 'done', 'by hand'));
CALL test.let_go();
SELECT saga.wait(:'id');
SELECT * FROM test.attempts('in time');
SELECT test.undone('in time');
-- After the first attempt it parks the saga.  A person settles the step while SQL is
-- under way again: what that did is undone, and it is not run once more.
SELECT test.begin('settled') AS id \gset
SELECT status FROM saga.step(:'id', 'x', compensation => 'SELECT test.undo_slowly($1, 2)',
  compensation_retry => saga.retry_policy(delay => '10 ms'));
CALL test.shut();
SELECT saga.fail(:'id');
CALL test.until_under_way();
SELECT status FROM saga.complete_step(:'id', 'x', '"ch_1"', late => 'record');
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id';
SELECT saga.resolve(:'id', 'x', 'done', 'by hand');
CALL test.let_go();
CALL test.until_over('settled', 2);
SELECT * FROM test.saga('settled') \gx
SELECT * FROM test.steps('settled');
SELECT * FROM test.attempts('settled');
SELECT * FROM test.events('settled');
-- ... with an earlier step left, which is undone then
SELECT test.begin('settled, one left') AS id \gset
SELECT status FROM saga.step(:'id', 'w', notify => 'd_settled', completed => true);
SELECT status FROM saga.step(:'id', 'x', compensation => 'SELECT test.undo_slowly($1, 2)',
  compensation_retry => saga.retry_policy(delay => '10 ms'));
CALL test.shut();
SELECT saga.fail(:'id');
CALL test.until_under_way();
SELECT status FROM saga.complete_step(:'id', 'x', '"ch_1"', late => 'record');
SELECT saga.resolve(:'id', 'x', 'skip', 'not needed');
CALL test.until_dispatched('settled, one left');
CALL test.let_go();
CALL test.until_over('settled, one left', 2);
SELECT * FROM test.saga('settled, one left') \gx
SELECT * FROM test.steps('settled, one left');
SELECT * FROM test.attempts('settled, one left');
SELECT * FROM test.claim('d_settled');
SELECT test.done('settled, one left', 'w');
SELECT state FROM saga.sagas WHERE id = :'id';
-- ... in a partial undo: the deadline still counts
SELECT test.begin('settled, deadline', timeout => '10 minutes') AS id \gset
SELECT status FROM saga.step(:'id', 'w', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'x', compensation => 'SELECT test.undo_slowly($1, 2)',
  compensation_retry => saga.retry_policy(delay => '10 ms'));
CALL test.shut();
SELECT saga.rollback_to(:'id', 'w');
CALL test.until_under_way();
SELECT status FROM saga.complete_step(:'id', 'x', '"ch_1"', late => 'record');
SELECT saga.resolve(:'id', 'x', 'done', 'by hand');
CALL test.let_go();
CALL test.until_over('settled, deadline', 2);
SELECT state, next_action_at = deadline AS due_at_deadline FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.steps('settled, deadline');
SELECT * FROM test.attempts('settled, deadline');
SELECT test.advance('11 minutes');
CALL test.until_state('settled, deadline', 'compensated');
SELECT * FROM test.saga('settled, deadline') \gx

-- A person decides about a step that a listener holds: that one's attempt is
-- over; its failure is stale, its success believed.
SELECT test.listen('held, retry', 'd_held') AS id \gset
CALL test.fail('held, retry');
SELECT * FROM test.claim('d_held', consumer => 'one');
SELECT status FROM saga.complete_step(:'id', 'a', '"ch_1"', late => 'record');
SELECT saga.resolve(:'id', 'a', 'retry', 'again, with its output');
SELECT saga.fail_compensation(test.key('held, retry', 'a'), 1, 'no');
CALL test.until_dispatched('held, retry');
SELECT * FROM test.attempts('held, retry');
SELECT * FROM test.waiting('held, retry') \gx
SELECT test.done('held, retry', 'a');
SELECT * FROM test.saga('held, retry') \gx
SELECT * FROM test.steps('held, retry');
SELECT * FROM test.attempts('held, retry');
SELECT event, step, detail FROM test.events('held, retry') WHERE position > 4;
-- ... the next attempt gets the output, with all attempts before it again
SELECT test.listen('held, again', 'd_held', '{"max_attempts": 1}') AS id \gset
CALL test.fail('held, again');
SELECT * FROM test.claim('d_held');
SELECT status FROM saga.complete_step(:'id', 'a', '"ch_1"', late => 'record');
SELECT saga.resolve(:'id', 'a', 'retry', 'again, with its output');
CALL test.until_dispatched('held, again');
SELECT step, attempt, context -> 'output' AS output, saga.complete_compensation(compensation_key)
FROM saga.claim_compensations('d_held');
SELECT * FROM test.attempts('held, again');
-- ... done by hand
SELECT test.listen('held, done', 'd_held') AS id \gset
CALL test.fail('held, done');
SELECT * FROM test.claim('d_held', consumer => 'one');
SELECT status FROM saga.complete_step(:'id', 'a', '"ch_1"', late => 'record');
SELECT saga.resolve(:'id', 'a', 'done', 'by hand');
SELECT * FROM test.attempts('held, done');
SELECT test.picture('held, done') AS before \gset
SELECT saga.fail_compensation(test.key('held, done', 'a'), 1, 'no');
SELECT test.done('held, done', 'a');
SELECT test.picture('held, done') = :'before' AS unchanged;
SELECT * FROM test.claim('d_held');
SELECT * FROM test.saga('held, done') \gx
-- ... not needed: settled, whatever is reported then
SELECT test.listen('held, skip', 'd_held') AS id \gset
CALL test.fail('held, skip');
SELECT * FROM test.claim('d_held', consumer => 'one');
SELECT status FROM saga.complete_step(:'id', 'a', '"ch_1"', late => 'record');
SELECT saga.resolve(:'id', 'a', 'skip', 'not needed');
SELECT saga.fail_compensation(test.key('held, skip', 'a'), 1, 'no');
SELECT compensation FROM test.steps('held, skip');
SELECT * FROM test.saga('held, skip') \gx
SELECT test.done('held, skip', 'a');
SELECT * FROM test.saga('held, skip') \gx
SELECT * FROM test.steps('held, skip');
SELECT * FROM test.attempts('held, skip');
SELECT event, step, detail FROM test.events('held, skip') WHERE position > 4;

-- A listener holds x when a late result for y, which started after it, opens that
-- one again.  One after another: the turn of y is when x is settled, however long
-- that takes ...
SELECT test.begin('beside SQL') AS id \gset
SELECT status FROM saga.step(:'id', 'x', notify => 'd_beside', completed => true, compensation_retry => saga.retry_policy(timeout => '0'));
SELECT status FROM saga.step(:'id', 'y', compensation => 'SELECT test.undo_after($1, 1)', compensate_on => 'completed',
  compensation_retry => saga.retry_policy(5, '10 minutes', 'constant', '10 minutes', 0));
CALL test.fail('beside SQL');
SELECT test.claim('d_beside', lease => '1 hour');
SELECT status FROM saga.complete_step(:'id', 'y', '"ch_1"', late => 'record');
SELECT saga.resolve(:'id', 'y', 'retry', 'undo that one, too');
SELECT saga.extend_claim(test.key('beside SQL', 'x'), 1, '1 day') IS NOT NULL AS extended;
SELECT next_action_at = lease_until AS due_at_its_end FROM saga.sagas JOIN saga.pending_compensations ON id = saga_id WHERE id = :'id';
SELECT test.advance('11 minutes');
SELECT * FROM test.steps('beside SQL');
SELECT test.done('beside SQL', 'x');
CALL test.until_over('beside SQL', 2);
SELECT next_action_at = next_attempt_at AS due_then FROM saga.sagas JOIN saga.steps ON saga_id = id WHERE id = :'id' AND key = 'y';
SELECT test.advance('11 minutes');
CALL test.until_over('beside SQL', 3);
SELECT * FROM test.steps('beside SQL');
SELECT * FROM test.saga('beside SQL') \gx
-- ... or its claim has ended
SELECT test.begin('beside another') AS id \gset
SELECT status FROM saga.step(:'id', 'x', notify => 'd_beside', completed => true);
SELECT status FROM saga.step(:'id', 'y', notify => 'd_nobody', compensate_on => 'completed');
CALL test.fail('beside another');
SELECT test.claim('d_beside', lease => '10 minutes');
SELECT status FROM saga.complete_step(:'id', 'y', '"ch_1"', late => 'record');
SELECT saga.resolve(:'id', 'y', 'retry', 'undo that one, too');
SELECT step, consumer, claimed_at IS NOT NULL AS claimed FROM saga.pending_compensations WHERE saga_id = :'id' ORDER BY seq;
SELECT test.advance('11 minutes');
CALL test.until_over('beside another', 1);
CALL test.until_dispatched('beside another');
SELECT * FROM test.steps('beside another');
SELECT test.done('beside another', step) FROM test.claim('d_nobody');
CALL test.until_dispatched('beside another');
SELECT test.done('beside another', step) FROM test.claim('d_beside');
SELECT * FROM test.saga('beside another') \gx
SELECT * FROM test.attempts('beside another');

-- SQL for x is under way when a late result for y, which started after it, parks
-- the saga, and a person keeps x: it is not undone.
SELECT test.begin('kept') AS id \gset
SELECT status FROM saga.step(:'id', 'x', compensation => 'SELECT test.undo_slowly($1)', completed => true);
SELECT status FROM saga.step(:'id', 'y', compensation => 'SELECT test.undo($1, $1 #>> ''{output}'')');
CALL test.shut();
SELECT saga.fail(:'id', 'boom');
CALL test.until_under_way();
SELECT status FROM saga.complete_step(:'id', 'y', '"ch_1"', late => 'record');
SELECT saga.rollback_to(:'id', 'x', 'x shall stay');
SELECT saga.resolve(:'id', 'y', 'retry', 'again');
CALL test.let_go();
CALL test.until_state('kept', 'running');
CALL test.until_over('kept', 3);
SELECT * FROM test.saga('kept') \gx
SELECT * FROM test.steps('kept');
SELECT * FROM test.attempts('kept');
SELECT status, attempt FROM saga.step(:'id', 'x', compensation => 'SELECT test.undo_slowly($1)');
SELECT event, step, detail FROM test.events('kept') WHERE position > 4;
-- ... and it may be undone later
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.attempts('kept');
SELECT * FROM test.saga('kept') \gx

-- Forward again behind the pivot: what the undo only passed over counts as before ...
SELECT test.begin('forward') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'f', notify => 'd_nobody', completed => true);
SELECT status FROM saga.step(:'id', 'e', compensation => 'SELECT test.undo($1)', compensate_on => 'completed');
SELECT saga.rollback_to(:'id', 'p');
CALL test.until_dispatched('forward');
SELECT step, compensation FROM test.steps('forward');
SELECT saga.fail(:'id', 'x');
SELECT saga.reopen(:'id', 'go on');
SELECT step, status, compensation FROM test.steps('forward');
SELECT status, attempt FROM saga.step(:'id', 'e', compensation => 'SELECT test.undo($1)', compensate_on => 'completed', completed => true);
SELECT saga.rollback_to(:'id', 'f');
SELECT saga.wait(:'id', until => 'running');
SELECT step, status, compensation FROM test.steps('forward');
SELECT test.undone('forward');
-- ... and so does what it tried in vain, or asked about
SELECT test.begin('in vain') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'r', review => 'look at it', completed => true);
SELECT status FROM saga.step(:'id', 'v', compensation => 'SELECT 1 / 0', compensation_retry => saga.retry_policy(1), completed => true);
SELECT saga.rollback_to(:'id', 'p');
SELECT saga.wait(:'id');
SELECT saga.fail(:'id', 'x');
SELECT saga.reopen(:'id', 'go on');
SELECT * FROM test.steps('in vain');
-- it is a savepoint as before
SELECT saga.rollback_to(:'id', 'v');
-- when it is undone again, it has all its attempts before it, and the question is asked again
SELECT saga.rollback_to(:'id', 'p');
SELECT saga.wait(:'id');
SELECT * FROM test.attempts('in vain');
CALL test.refuses(format('SELECT saga.resolve(%1$L, ''v'', ''skip'', ''nothing there''), saga.resolve(%1$L, ''v'', ''done'', ''by hand'')', :'id'));
SELECT saga.resolve(:'id', 'v', 'skip', 'nothing there');
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id';
SELECT saga.fail(:'id', 'x');
SELECT saga.reopen(:'id', 'go on');
SELECT key, run, status, compensation_status, parked, rolled_back_at IS NOT NULL AS rolled_back FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;
SELECT saga.complete(:'id');
-- ... or is to try again
SELECT test.begin('again') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'v', compensation => 'SELECT 1 / 0', compensation_retry => saga.retry_policy(3, '1 day', max_delay => '1 day'));
SELECT saga.rollback_to(:'id', 'p');
CALL test.until_over('again', 1);
SELECT saga.fail(:'id', 'x');
SELECT saga.reopen(:'id', 'go on');
SELECT * FROM test.steps('again');
SELECT status FROM saga.complete_step(:'id', 'v');
SELECT saga.complete(:'id');
-- ... or was trying at that moment
SELECT test.begin('at that moment') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'v', compensation => 'SELECT test.undo_slowly($1); SELECT 1 / 0', compensation_retry => saga.retry_policy(1), completed => true);
CALL test.shut();
SELECT saga.rollback_to(:'id', 'p');
CALL test.until_under_way();
SELECT saga.fail(:'id', 'x');
SELECT saga.reopen(:'id', 'go on');
CALL test.let_go();
CALL test.until_over('at that moment', 1);
SELECT * FROM test.attempts('at that moment');
SELECT * FROM test.steps('at that moment');
SELECT * FROM test.saga('at that moment') \gx
SELECT saga.complete(:'id');
-- ... what is acknowledged after that was rolled back
SELECT test.begin('acknowledged') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'n', notify => 'd_forward', output => '"ch_1"', compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT saga.rollback_to(:'id', 'p');
CALL test.until_dispatched('acknowledged');
SELECT * FROM test.claim('d_forward');
SELECT saga.fail(:'id', 'boom');
CALL test.refuses(format('SELECT saga.reopen(%L, %L)', :'id', 'go on'));
SELECT test.advance('2 minutes');
CALL test.until_over('acknowledged', 1);
SELECT saga.reopen(:'id', 'go on');
SELECT * FROM test.steps('acknowledged');
SELECT test.done('acknowledged', 'n');
SELECT * FROM test.saga('acknowledged') \gx
SELECT key, run, status, compensation_status, rolled_back_at IS NOT NULL AS rolled_back FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'n'));
SELECT status, attempt, output FROM saga.step(:'id', 'n', notify => 'd_forward');
SELECT status FROM saga.complete_step(:'id', 'n', '"ch_2"');
SELECT key, run, status, output, compensation_status FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;
SELECT saga.complete(:'id');
-- ... and a late result of a rolled-back run is decided about first
SELECT test.begin('result') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)');
SELECT saga.rollback_to(:'id', 'p');
SELECT saga.wait(:'id', until => 'running');
SELECT saga.fail(:'id', 'boom');
SELECT status FROM saga.complete_step(:'id', 'b', '"ch_1"', late => 'record');
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'b', 'done', 'by hand'));
SELECT saga.reopen(:'id', 'go on');
SELECT * FROM test.saga('result') \gx
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id';
CALL test.refuses(format('SELECT saga.complete(%L)', :'id'));
SELECT saga.resolve(:'id', 'b', 'retry', 'undo that one, too');
SELECT saga.wait(:'id', until => 'running');
SELECT * FROM test.saga('result') \gx
SELECT * FROM test.steps('result');
SELECT * FROM test.attempts('result');
SELECT event, step, detail FROM test.events('result') WHERE position > 6;
SELECT saga.complete(:'id');
-- ... and to its end, whatever fails meanwhile
SELECT test.begin('to its end') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1), 1 / (($1 ->> ''attempt'')::integer - 2)',
  compensation_retry => saga.retry_policy(9, '1 hour', max_delay => '1 hour'));
SELECT saga.rollback_to(:'id', 'p');
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.complete_step(:'id', 'b', '"ch_1"', late => 'record');
SELECT saga.resolve(:'id', 'b', 'retry', 'undo that one, too');
CALL test.until_over('to its end', 2);
SELECT saga.fail(:'id', 'boom');
SELECT saga.reopen(:'id', 'go on');
SELECT * FROM test.steps('to its end');
CALL test.refuses(format('SELECT saga.complete(%L)', :'id'));
SELECT test.advance('2 hours');
SELECT saga.wait(:'id', until => 'running');
SELECT * FROM test.steps('to its end');
SELECT * FROM test.attempts('to its end');
SELECT event, step, detail FROM test.events('to its end') WHERE position > 5;
SELECT saga.complete(:'id');

-- Compensations that are given up in a partial undo, under "continue", do not
-- keep a failure from undoing the rest.
SELECT test.begin('given up', on_compensation_failure => 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'savepoint', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT 1/0', completed => true,
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.rollback_to(:'id', 'savepoint');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('given up') \gx
SELECT position, step, action FROM saga.plan(:'id');
SELECT saga.fail(:'id', 'no');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('given up') \gx
SELECT * FROM test.steps('given up');
SELECT event, step, detail FROM test.events('given up') WHERE position > 6;

-- What is redacted is not compensated any more; and what comes in after that is
-- forgotten by another call.
SELECT test.begin('redacted') AS id \gset
SELECT status FROM saga.step(:'id', 'x', args => '"DE1"', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id', 'no');
SELECT saga.wait(:'id');
SELECT saga.redact(:'id');
SELECT status FROM saga.complete_step(:'id', 'x', '"DE2"', late => 'record');
SELECT args, output FROM saga.steps WHERE saga_id = :'id';
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'x', 'retry', 'again'));
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT saga.resolve(:'id', 'x', 'done', 'by hand');
SELECT saga.redact(:'id');
SELECT args, output FROM saga.steps WHERE saga_id = :'id';
SELECT test.undone('redacted');
-- Nor does it go forward again: its actions would get none of what they had.
SELECT test.begin('redacted, back') AS id \gset
SELECT status FROM saga.step(:'id', 'x', compensation => 'SELECT 1', compensate_on => 'completed');
SELECT status FROM saga.step(:'id', 'a', after => '{}', action => 'SELECT 1', args => '"DE1"', compensation => 'SELECT test.undo($1, $1 ->> ''args'')') \gset
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT saga.fail(:'id', 'no');
SELECT saga.wait(:'id');
SELECT saga.redact(:'id');
SELECT status FROM saga.complete_step(:'id', 'x', late => 'record');
CALL test.refuses(format('SELECT saga.rollback_to(%L, NULL)', :'id'));
CALL test.refuses(format('SELECT saga.reopen(%L, %L)', :'id', 'n'));
SELECT saga.resolve(:'id', 'x', 'done', 'by hand');
SELECT key, run, status, args FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;

-- The plan of what a person is asked about shows it once; what was given up, at the end.
SELECT test.begin('halted') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT 1/0', completed => true,
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT position, step, action, detail FROM saga.plan(:'id');
SELECT test.begin('planned', on_compensation_failure => 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'd_planned', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT 1/0', completed => true,
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'id', 'c', compensation => 'SELECT 1/0', completed => true,
  compensation_retry => saga.retry_policy(max_attempts => 1));
CALL test.fail('planned');
SELECT position, step, action, detail FROM saga.plan(:'id');

-- What is never undone is not rolled back: it has been done.
SELECT test.begin('retriable') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT forward_key AS before FROM saga.step(:'id', 'r', kind => 'retriable', output => '"sent"') \gset
SELECT status FROM saga.step(:'id', 'c', compensation => 'SELECT test.undo($1)', completed => true);
SELECT saga.rollback_to(:'id', 'p');
SELECT saga.wait(:'id', until => 'running');
SELECT status, attempt, output, forward_key = :'before' AS same FROM saga.step(:'id', 'r', kind => 'retriable');
SELECT key, run, status, compensation_status, rolled_back_at IS NOT NULL AS rolled_back FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;
SELECT test.undone('retriable');

-- A deadline that has passed is not lifted by rolling back.
BEGIN;
SELECT test.begin('deadline', timeout => '10 minutes') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'b', completed => true);
SELECT test.advance('11 minutes');
SELECT saga.rollback_to(:'id', 'a');
SELECT deadline IS NOT NULL AS stays FROM saga.sagas WHERE id = :'id';
COMMIT;
CALL test.until_state('deadline', 'compensated');
SELECT * FROM test.saga('deadline') \gx

-- There is no role 0, which nothing is due for.
CALL test.refuses('SELECT saga.reassign(0, current_user::regrole)');
CALL test.refuses('SELECT saga.reassign(current_user::regrole, 0::regrole)');

CALL test.check();
