-- Back to a savepoint, and forward again: what started after it is undone,
-- newest first; then the saga is running, and what was undone starts afresh.
\set ECHO none
\i sql/include/patient.sql
\i sql/include/helpers.sql
\i sql/include/people.sql
\set ECHO all

-- A compensation that is not done before its saga is let through
CREATE TABLE test.gate (saga uuid);
CREATE FUNCTION test.pass(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM test.gate WHERE saga = (context #>> '{saga,id}')::uuid) THEN
    RAISE SQLSTATE 'SG007' USING MESSAGE = 'not yet';
  END IF;
  PERFORM test.undo(context);
END $$;
CREATE FUNCTION test.quick(attempts integer DEFAULT 1) RETURNS saga.retry_policy LANGUAGE sql IMMUTABLE
RETURN saga.retry_policy(attempts, '10 ms', 'constant', '10 ms', 0, '1 minute');
CREATE FUNCTION test.answer(r saga.step_result) RETURNS text LANGUAGE sql IMMUTABLE
RETURN concat_ws(' ', (r).status, (r).attempt, (r).output);
-- The n-th step of a saga, which a machine undoes
CREATE FUNCTION test.do(id uuid, key text, what text DEFAULT NULL) RETURNS text LANGUAGE sql VOLATILE
RETURN test.answer(saga.step(id, key, compensation => format('SELECT test.undo($1, %L)', what), output => to_jsonb(key || coalesce(' ' || what, ''))));

-- All three kinds of compensation, newest first
SELECT test.begin('three kinds') AS id \gset
SELECT test.do(:'id', 'plan');
SELECT test.do(:'id', 'read');
SELECT test.answer(saga.step(:'id', 'write', compensation => 'SELECT test.undo($1)', output => '"written"'));
SELECT test.answer(saga.step(:'id', 'charge', notify => 'savepoints', output => '"charged"'));
SELECT test.answer(saga.step(:'id', 'mail', notify => 'savepoints', acknowledge => false, output => '"sent"'));
SELECT test.answer(saga.step(:'id', 'sign', review => 'tear it up', output => '"signed"'));
SELECT test.answer(saga.step(:'id', 'look', output => '"seen"'));
SELECT test.answer(saga.step(:'id', 'test', compensation => 'SELECT test.undo($1)'));
SELECT status FROM saga.fail_step(:'id', 'test', 'three tests fail');
SELECT saga.rollback_to(:'id', 'read', 'written in vain');
SELECT saga.wait(:'id', until => 'running');
SELECT * FROM test.asked('three kinds');
SELECT * FROM test.saga('three kinds') \gx
-- a starting step, and a result, are told to come again; nothing is taken from them
CALL test.refuses_unchanged(:'id', format('SELECT saga.step(%L, %L)', :'id', 'write'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.complete_step(%L, %L)', :'id', 'test'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.complete(%L)', :'id'));
SELECT saga.resolve(:'id', 'sign', 'done', 'torn up');
CALL test.until_dispatched('three kinds', 'charge');
CALL test.refuses_unchanged(:'id', format('SELECT saga.step(%L, %L)', :'id', 'write'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.step(%L, %L)', :'id', 'new'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.complete_step(%L, %L)', :'id', 'test'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.complete(%L)', :'id'));
SELECT state, failure_kind, reason, test.mask(next_action) FROM saga.sagas WHERE id = :'id';
SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('savepoints');
SELECT saga.wait(:'id', until => 'running');
SELECT * FROM test.saga('three kinds') \gx
SELECT * FROM test.runs('three kinds');
SELECT last_completed_step, steps, deadline, next_action_at, finished_at FROM saga.sagas WHERE id = :'id';
-- forward again: what stayed answers as before, with what it put out; what was
-- undone starts afresh, with a number and a key of its own, and other args if
-- need be; what is new is new
SELECT test.do(:'id', 'plan');
SELECT test.do(:'id', 'read');
SELECT test.answer(saga.step(:'id', 'write', compensation => 'SELECT test.undo($1, ''again'')', args => '{"other": "args"}'));
SELECT test.answer(saga.complete_step(:'id', 'write', '"written again"'));
SELECT test.answer(saga.step(:'id', 'test', compensation => 'SELECT test.undo($1)', completed => true));
SELECT test.do(:'id', 'deploy');
SELECT * FROM test.runs('three kinds');
SELECT old.seq < new.seq AS later, old.forward_key <> new.forward_key AS other_forward_key,
  old.compensation_key <> new.compensation_key AS other_compensation_key, old.started_at < new.started_at AS started_later
FROM saga.steps old JOIN saga.steps new USING (saga_id, key) WHERE saga_id = :'id' AND old.run = 1 AND new.run = 2;
SELECT saga.complete(:'id');
SELECT * FROM test.story('three kinds');
-- ... also for the old run's handle: what is over is over
SELECT forward_key FROM saga.steps WHERE saga_id = :'id' AND key = 'write' AND run = 1 \gset
CALL test.refuses_unchanged(:'id', format('SELECT saga.complete_step(%L, %L, late => %L, forward_key => %L)', :'id', 'write', 'record', :'forward_key'));

-- Nothing to undo: running at once, in the same transaction even, and what had
-- nothing to undo starts afresh all the same.
SELECT test.begin('nothing') AS id \gset
SELECT test.answer(saga.step(:'id', 'a', output => '1'));
SELECT test.answer(saga.step(:'id', 'b', output => '2'));
SELECT test.answer(saga.step(:'id', 'c'));
SELECT saga.rollback_to(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'a')), test.answer(saga.step(:'id', 'b')), test.answer(saga.step(:'id', 'c'));
-- not even a step: the last one is a savepoint, too
SELECT test.answer(saga.complete_step(:'id', 'b')), test.answer(saga.complete_step(:'id', 'c', '3'));
SELECT saga.rollback_to(:'id', 'c');
SELECT * FROM test.runs('nothing');
SELECT saga.rollback_to(:'id', NULL, 'all of it');
SELECT * FROM test.runs('nothing');
SELECT * FROM test.story('nothing');
-- no step at all
SELECT test.begin('no step') AS id \gset
SELECT saga.rollback_to(:'id', NULL);
SELECT saga.rollback_to(:'id', NULL);
SELECT * FROM test.story('no step');
-- begun and gone back in one transaction
BEGIN;
SELECT test.begin('one transaction') AS id \gset
SELECT test.answer(saga.step(:'id', 'a', output => '1')), test.do(:'id', 'b'), saga.rollback_to(:'id', 'a');
COMMIT;
SELECT saga.wait(:'id', until => 'running');
SELECT test.do(:'id', 'b');
SELECT test.undone('one transaction');
SELECT * FROM test.runs('one transaction');
-- a rollback that is rolled back was never there
BEGIN;
SELECT saga.rollback_to(:'id', 'a');
ROLLBACK;
SELECT * FROM test.saga('one transaction') \gx

-- Back to the start, again and again; then to a failure, which undoes what is
-- there, and not what was undone before.
SELECT test.begin('again and again') AS id \gset
SELECT test.do(:'id', 'a', '1'), test.do(:'id', 'b', '1');
SELECT saga.rollback_to(:'id', NULL, 'first');
SELECT saga.wait(:'id', until => 'running');
SELECT test.do(:'id', 'a', '2'), test.do(:'id', 'b', '2');
SELECT saga.rollback_to(:'id', NULL, 'second');
SELECT saga.wait(:'id', until => 'running');
SELECT test.do(:'id', 'a', '3'), test.do(:'id', 'b', '3');
SELECT saga.rollback_to(:'id', 'a', 'third');
SELECT saga.wait(:'id', until => 'running');
SELECT test.do(:'id', 'c', '1');
SELECT * FROM test.runs('again and again');
SELECT position, step, action FROM saga.plan(:'id');
SELECT saga.fail(:'id', 'enough');
SELECT saga.wait(:'id');
SELECT test.undone('again and again');
SELECT * FROM test.runs('again and again');
SELECT failed_step, last_completed_step FROM saga.sagas WHERE id = :'id';

-- Nested: further back while it is on its way there; and only further.
SELECT test.begin('nested') AS id \gset
SELECT test.do(:'id', 'a'), test.do(:'id', 'b'), test.do(:'id', 'c');
SELECT test.answer(saga.step(:'id', 'd', compensation => 'SELECT test.pass($1)', compensation_retry => test.quick(), output => '1'));
SELECT test.do(:'id', 'e');
SELECT saga.rollback_to(:'id', 'c', 'a little');
CALL test.until_tried('nested', 'd');
-- (it is tried again and again)
SELECT position, step, run, status, output, replace(compensation, 'running', 'pending') AS compensation, parked
FROM test.runs('nested');
SELECT saga.rollback_to(:'id', 'c', 'the same again');
CALL test.refuses(format('SELECT saga.rollback_to(%L, %L)', :'id', 'd'));
SELECT saga.rollback_to(:'id', 'b', 'more');
CALL test.refuses(format('SELECT saga.rollback_to(%L, %L)', :'id', 'c'));
SELECT saga.rollback_to(:'id', 'a', 'still more');
SELECT position, step, action FROM saga.plan(:'id');
INSERT INTO test.gate VALUES (:'id');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('nested');
SELECT * FROM test.runs('nested');
SELECT regexp_replace(line, ' {"(rows|attempt).*', '') AS line FROM test.story('nested') line WHERE line !~ '^(step|compensation deferred)';
-- one after the other, each to an earlier one
SELECT test.begin('one by one') AS id \gset
SELECT test.do(:'id', 'a'), test.do(:'id', 'b'), test.do(:'id', 'c');
SELECT saga.rollback_to(:'id', 'b');
SELECT saga.wait(:'id', until => 'running');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id', until => 'running');
SELECT saga.rollback_to(:'id', NULL);
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('one by one');

-- No savepoint: what did not complete, what was undone itself, what is not there
SELECT test.begin('no savepoint') AS id \gset
SELECT test.do(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'started'));
SELECT test.answer(saga.step(:'id', 'failed'));
SELECT status FROM saga.fail_step(:'id', 'failed', 'e');
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'started'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'failed'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'unknown'));
SELECT test.do(:'id', 'b');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id', until => 'running');
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'b'));
-- started afresh and completed, it is one again
SELECT test.do(:'id', 'b', 'again'), test.do(:'id', 'c');
SELECT saga.rollback_to(:'id', 'b');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('no savepoint');
CALL test.refuses_unchanged(:'id', 'SELECT saga.rollback_to(NULL, ''a'')');
-- nor of a saga that is over, or failing for good
SELECT saga.complete(:'id');
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'a'));
SELECT test.begin('failing') AS id \gset
SELECT test.do(:'id', 'a'), test.do(:'id', 'b');
SELECT test.answer(saga.step(:'id', 'c', compensation => 'SELECT test.pass($1)', compensation_retry => test.quick()));
SELECT saga.fail(:'id');
CALL test.until_tried('failing', 'c');
CALL test.refuses(format('SELECT saga.rollback_to(%L, %L)', :'id', 'a'));
CALL test.refuses(format('SELECT saga.rollback_to(%L, NULL)', :'id'));
INSERT INTO test.gate VALUES (:'id');
SELECT saga.wait(:'id');
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'a'));

-- The failure, or the cancellation, during a partial undo makes it a full one:
-- what was undone is not undone twice.
SELECT test.begin('failed meanwhile') AS id \gset
SELECT test.do(:'id', 'a'), test.do(:'id', 'b');
SELECT test.answer(saga.step(:'id', 'c', compensation => 'SELECT test.pass($1)', compensation_retry => test.quick()));
SELECT test.do(:'id', 'd');
SELECT saga.rollback_to(:'id', 'b', 'a little');
CALL test.until_tried('failed meanwhile', 'c');
SELECT saga.fail(:'id', 'all of it', '{"more": 1}');
SELECT saga.fail(:'id', 'said twice');
SELECT state, failure_kind, reason, details FROM saga.sagas WHERE id = :'id';
CALL test.refuses(format('SELECT saga.step(%L, %L)', :'id', 'd'));
INSERT INTO test.gate VALUES (:'id');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('failed meanwhile');
SELECT * FROM test.runs('failed meanwhile');
SELECT regexp_replace(line, ' {"(rows|attempt).*', '') AS line FROM test.story('failed meanwhile') line WHERE line !~ '^(step|compensation deferred)';
SELECT test.begin('cancelled meanwhile') AS id \gset
SELECT test.do(:'id', 'a'), test.do(:'id', 'b');
SELECT test.answer(saga.step(:'id', 'c', review => 'look'));
SELECT saga.rollback_to(:'id', 'b', 'a little');
SELECT saga.wait(:'id');
SELECT saga.cancel(:'id', 'all of it');
SELECT state, failure_kind, reason FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.asked('cancelled meanwhile');
SELECT saga.resolve(:'id', 'c', 'skip', 'nothing there');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('cancelled meanwhile');
SELECT * FROM test.story('cancelled meanwhile');

-- A saga that failed, and waits for a person: its failure is taken back, with
-- the question, if the undo has not come to the savepoint yet.
SELECT test.begin('taken back', timeout => '1 day') AS id \gset
SELECT test.do(:'id', 'a'), test.do(:'id', 'b');
SELECT test.answer(saga.step(:'id', 'c', review => 'look', completed => true));
SELECT test.answer(saga.step(:'id', 'd', review => 'look here', compensation => 'SELECT test.undo($1)'));
SELECT test.do(:'id', 'e');
SELECT saga.fail(:'id', 'no', '1');
SELECT saga.wait(:'id');
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'e'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'd'));
-- d is still asked about, since it is still to be undone
SELECT saga.rollback_to(:'id', 'b', 'only that much');
SELECT state, failure_kind, reason, details, failed_step, deadline IS NOT NULL AS deadline FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.asked('taken back');
SELECT saga.resolve(:'id', 'd', 'retry', 'go on');
SELECT saga.wait(:'id', until => 'running');
SELECT * FROM test.asked('taken back');
-- from there, c may stay
SELECT saga.rollback_to(:'id', 'c', 'not even that much');
SELECT * FROM test.saga('taken back') \gx
SELECT * FROM test.runs('taken back');
SELECT next_action_at = deadline AS deadline_counts FROM saga.sagas WHERE id = :'id';
SELECT test.do(:'id', 'd'), test.answer(saga.step(:'id', 'e', completed => true));
SELECT saga.complete(:'id');
SELECT * FROM test.story('taken back');
-- gone past: the compensation of the savepoint, or of an earlier one, was tried or settled
SELECT test.begin('gone past') AS id \gset
SELECT test.do(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 1)', compensation_retry => test.quick(), completed => true));
SELECT test.do(:'id', 'c');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'c'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'b'));
SELECT saga.rollback_to(:'id', 'a', 'as far as it has come');
SELECT * FROM test.asked('gone past');
SELECT saga.resolve(:'id', 'b', 'retry', 'go on');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('gone past');
SELECT * FROM test.runs('gone past');

-- A pivot that completed is the furthest back there is; after it, all is as ever.
SELECT test.begin('pivot') AS id \gset
SELECT test.do(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'pay', kind => 'pivot', compensation => 'SELECT test.undo($1)'));
SELECT test.do(:'id', 'b');
-- not completed, it is a step like others
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id', until => 'running');
SELECT test.answer(saga.step(:'id', 'pay', kind => 'pivot', output => '"paid"'));
SELECT test.do(:'id', 'b'), test.do(:'id', 'c');
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'a'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, NULL)', :'id'));
SELECT saga.rollback_to(:'id', 'b');
SELECT saga.wait(:'id', until => 'running');
SELECT saga.rollback_to(:'id', 'pay');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('pivot');
SELECT test.do(:'id', 'b', 'again');
-- failed behind it, and taken back
SELECT saga.fail(:'id', 'no');
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'a'));
SELECT saga.rollback_to(:'id', 'pay', 'once more');
SELECT saga.wait(:'id', until => 'running');
SELECT * FROM test.saga('pivot') \gx
-- failed while it is on its way back: parked, and what was not undone yet is not
SELECT test.do(:'id', 'b', 'third');
SELECT test.answer(saga.step(:'id', 'c', notify => 'savepoints', completed => true));
SELECT test.do(:'id', 'd');
SELECT saga.rollback_to(:'id', 'pay');
CALL test.until_dispatched('pivot', 'c');
SELECT saga.fail(:'id', 'gave up');
SELECT * FROM test.asked('pivot');
SELECT count(*) FROM saga.claim_compensations('savepoints');
SELECT saga.reopen(:'id', 'go on');
-- what had been undone starts afresh; what had not, is there, and nothing of it is left to undo
SELECT * FROM test.runs('pivot');
SELECT test.do(:'id', 'd', 'again');
SELECT saga.complete(:'id');
SELECT * FROM test.runs('pivot');

-- Steps that the undo passes over are rolled back, too, and settled by that.
SELECT test.begin('passed over') AS id \gset
SELECT test.do(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'b', compensate_on => 'completed', compensation => 'SELECT test.undo($1)'));
SELECT test.answer(saga.step(:'id', 'c', compensate_on => 'completed', compensation => 'SELECT test.undo($1)', completed => true));
SELECT test.answer(saga.step(:'id', 'd', compensate_on => 'completed', compensation => 'SELECT test.undo($1)'));
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('passed over');
SELECT * FROM test.runs('passed over');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.runs('passed over');
-- nothing but such
SELECT test.begin('only passed over') AS id \gset
SELECT test.answer(saga.step(:'id', 'b', compensate_on => 'completed', compensation => 'SELECT test.undo($1)'));
SELECT saga.rollback_to(:'id', NULL);
SELECT * FROM test.runs('only passed over');
SELECT test.answer(saga.step(:'id', 'b', compensate_on => 'completed', compensation => 'SELECT test.undo($1)'));
SELECT * FROM test.runs('only passed over');

-- Retriable steps are never undone, not even on the way back: when the saga is
-- running again, they stand as before.
SELECT test.begin('retriable') AS id \gset
SELECT test.do(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'r', kind => 'retriable', compensation => 'SELECT test.undo($1)', completed => true));
SELECT test.do(:'id', 'b');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('retriable');
SELECT * FROM test.runs('retriable');
-- at the end of a failure they are settled
SELECT test.answer(saga.step(:'id', 'c', review => 'look at it', completed => true));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id', until => 'needs_review');
SELECT saga.resolve(:'id', 'c', 'done', 'looked at');
SELECT saga.wait(:'id');
SELECT * FROM test.runs('retriable');
-- the same where a failure has passed it over, and a person goes back
SELECT test.begin('retriable, parked') AS id \gset
SELECT test.do(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'b', review => 'look at it', completed => true));
SELECT test.answer(saga.step(:'id', 'r', kind => 'retriable', compensation => 'SELECT test.undo($1)', completed => true));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id', until => 'needs_review');
SELECT * FROM test.runs('retriable, parked');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.resolve(:'id', 'b', 'done', 'looked at');
SELECT saga.wait(:'id', until => 'running');
SELECT * FROM test.runs('retriable, parked');
-- nothing but such
SELECT test.begin('only retriable') AS id \gset
SELECT test.answer(saga.step(:'id', 'r', kind => 'retriable', compensation => 'SELECT test.undo($1)', completed => true));
SELECT saga.rollback_to(:'id', NULL);
SELECT * FROM test.runs('only retriable');

-- A compensation that fails on the way: parked under "halt", passed under
-- "continue" and then parked; and running after the decision.
SELECT test.begin('failed on the way') AS id \gset
SELECT test.do(:'id', 'a'), test.do(:'id', 'b');
SELECT test.answer(saga.step(:'id', 'c', compensation => 'SELECT test.undo_after($1, 1)', compensation_retry => test.quick()));
SELECT test.do(:'id', 'd');
SELECT saga.rollback_to(:'id', 'a', 'a little');
SELECT saga.wait(:'id', until => 'running');
SELECT * FROM test.asked('failed on the way');
SELECT * FROM test.runs('failed on the way');
SELECT saga.resolve(:'id', 'c', 'retry', 'once more');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('failed on the way');
SELECT test.begin('continue', 'continue') AS id \gset
SELECT test.do(:'id', 'a'), test.do(:'id', 'b');
SELECT test.answer(saga.step(:'id', 'c', compensation => 'SELECT test.undo_after($1, 1)', compensation_retry => test.quick()));
SELECT test.answer(saga.step(:'id', 'd', compensation => 'SELECT test.undo_after($1, 1)', compensation_retry => test.quick()));
SELECT saga.rollback_to(:'id', 'a', 'a little');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('continue');
SELECT * FROM test.asked('continue');
SELECT saga.resolve(:'id', 'c', 'skip', 'not needed');
SELECT state, failure_kind FROM saga.sagas WHERE id = :'id';
SELECT saga.resolve(:'id', 'd', 'done', 'by hand');
SELECT * FROM test.saga('continue') \gx
SELECT * FROM test.runs('continue');
SELECT test.do(:'id', 'd', 'again');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('continue');
-- abandoned on the way
SELECT test.begin('abandoned on the way') AS id \gset
SELECT test.do(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'b', review => 'look'));
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id');
SELECT saga.abandon(:'id', 'leave it');
SELECT * FROM test.saga('abandoned on the way') \gx

-- Late results of runs that were undone: an error unless they are to be kept;
-- kept, a person is asked, and the saga is running again after that.
SELECT test.begin('late') AS id \gset
SELECT test.do(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'b', compensation => 'SELECT test.undo($1, $1 ->> ''output'')'));
SELECT test.answer(saga.step(:'id', 'c', review => 'look'));
SELECT test.answer(saga.step(:'id', 'none'));
SELECT saga.rollback_to(:'id', 'a', 'too slow');
SELECT saga.wait(:'id');
SELECT saga.resolve(:'id', 'c', 'done', 'seen');
SELECT saga.wait(:'id', until => 'running');
CALL test.refuses_unchanged(:'id', format('SELECT saga.complete_step(%L, %L, %L)', :'id', 'b', '1'));
\set VERBOSITY terse
SELECT test.answer(saga.fail_step(:'id', 'b', 'too late'));
\set VERBOSITY default
SELECT test.answer(saga.complete_step(:'id', 'none', '"nothing to undo"', late => 'record'));
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT test.answer(saga.complete_step(:'id', 'b', '"ch_1"', late => 'record'));
-- said twice, the same
SELECT test.answer(saga.complete_step(:'id', 'b', '"ch_1"', late => 'record'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.complete_step(%L, %L, %L, late => %L)', :'id', 'b', '2', 'record'));
SELECT * FROM test.saga('late') \gx
SELECT * FROM test.asked('late');
CALL test.refuses_unchanged(:'id', format('SELECT saga.step(%L, %L)', :'id', 'b'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.complete(%L)', :'id'));
-- the other one that was settled is not asked about
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'c', 'done', 'n'));
SELECT saga.resolve(:'id', 'b', 'retry', 'undo it with the result');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('late');
SELECT * FROM test.runs('late');
-- two of them, one after the other; the saga stays parked for the second
SELECT test.answer(saga.complete_step(:'id', 'c', '"contract"', late => 'record'));
SELECT saga.resolve(:'id', 'c', 'skip', 'as good as torn up');
SELECT * FROM test.saga('late') \gx
SELECT test.do(:'id', 'b', 'afresh');
SELECT saga.complete(:'id', ignore_failed => true);
SELECT * FROM test.story('late');
-- while the saga has gone on: only that run is asked about, the others stay
SELECT test.begin('late, gone on') AS id \gset
SELECT test.do(:'id', 'a'), test.answer(saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)'));
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id', until => 'running');
SELECT test.do(:'id', 'c');
SELECT test.answer(saga.complete_step(:'id', 'b', '"ch_1"', late => 'record'));
SELECT * FROM test.asked('late, gone on');
SELECT position, step, action FROM saga.plan(:'id');
SELECT saga.resolve(:'id', 'b', 'done', 'by hand');
SELECT * FROM test.saga('late, gone on') \gx
SELECT * FROM test.runs('late, gone on');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('late, gone on');
-- failed before anybody decided: asked all the same, and everything is undone
SELECT test.begin('late, then failed') AS id \gset
SELECT test.do(:'id', 'a'), test.answer(saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)'));
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id', until => 'running');
SELECT test.do(:'id', 'c');
SELECT test.answer(saga.complete_step(:'id', 'b', '"ch_1"', late => 'record'));
SELECT saga.fail(:'id', 'no');
SELECT * FROM test.asked('late, then failed');
SELECT saga.resolve(:'id', 'b', 'retry', 'undo it with the result');
SELECT saga.wait(:'id');
SELECT test.undone('late, then failed');
SELECT * FROM test.runs('late, then failed');
-- behind a pivot: what was asked before is not forgotten over the failure
SELECT test.begin('late, pivot') AS id \gset
SELECT test.answer(saga.step(:'id', 'pay', kind => 'pivot', completed => true));
SELECT test.answer(saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)'));
SELECT saga.rollback_to(:'id', 'pay');
SELECT saga.wait(:'id', until => 'running');
SELECT test.answer(saga.complete_step(:'id', 'b', '"ch_1"', late => 'record'));
SELECT saga.fail(:'id', 'no');
SELECT count(*) > 0 AS asked FROM saga.review_queue WHERE saga_id = :'id' AND step = 'b';
-- of the run that is there: the saga is still on its way back
SELECT test.begin('late, on the way') AS id \gset
SELECT test.do(:'id', 'a'), test.answer(saga.step(:'id', 'kept', compensation => 'SELECT test.undo($1, $1 ->> ''output'')'));
SELECT test.do(:'id', 'b'), test.answer(saga.step(:'id', 'c', compensation => 'SELECT test.undo($1, $1 ->> ''output'')'));
SELECT test.answer(saga.step(:'id', 'gate', compensation => 'SELECT test.pass($1)', compensation_retry => test.quick()));
SELECT saga.rollback_to(:'id', 'b');
CALL test.until_tried('late, on the way', 'gate');
-- in time for c, which is to be undone, and for one that is not
SELECT test.answer(saga.complete_step(:'id', 'c', '"c"', late => 'record'));
SELECT test.answer(saga.complete_step(:'id', 'kept', '"kept"', late => 'record'));
-- too late for the gate itself
SELECT test.answer(saga.complete_step(:'id', 'gate', '"gate"', late => 'record'));
SELECT * FROM test.asked('late, on the way');
INSERT INTO test.gate VALUES (:'id');
SELECT saga.resolve(:'id', 'gate', 'retry', 'go on');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('late, on the way');
SELECT * FROM test.runs('late, on the way');

-- A compensation is still running when its step becomes one that stays: its
-- deadline goes on to count, and the step is as if nobody had touched it.
SELECT pg_advisory_lock(4711);
SELECT test.begin('still running', timeout => '1 day') AS id \gset
SELECT test.do(:'id', 'a');
SELECT test.answer(saga.step(:'id', 'b', compensation => 'SELECT pg_advisory_xact_lock(4711)', completed => true));
SELECT test.answer(saga.step(:'id', 'c', compensation => 'SELECT test.undo($1)'));
SELECT saga.fail(:'id', 'no');
CALL test.until_running('still running', 'b');
SELECT test.answer(saga.complete_step(:'id', 'c', '"late"', late => 'record'));
SELECT saga.rollback_to(:'id', 'b', 'b may stay');
SELECT saga.resolve(:'id', 'c', 'done', 'by hand');
SELECT state, next_action_at = deadline AS deadline_counts FROM saga.sagas WHERE id = :'id';
SELECT pg_advisory_unlock(4711);
CALL test.until_tried('still running', 'b');
SELECT state, next_action_at = deadline AS deadline_counts FROM saga.sagas WHERE id = :'id';
SELECT status, output FROM saga.step(:'id', 'b', compensation => 'SELECT pg_advisory_xact_lock(4711)');
SELECT * FROM test.runs('still running');

-- After all that, the ledger is in order.
CALL test.check();
\set ECHO none
\i sql/include/impatient.sql
