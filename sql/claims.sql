-- Claims and reports in transactions of every kind, and against what else may
-- happen to a saga: late results, a partial undo, an owner under another name.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\set ECHO all

-- A claim that is rolled back was never made.
SELECT test.listen('rolled back', 'k_rolled_back') AS id \gset
CALL test.fail('rolled back');
SELECT test.picture('rolled back') AS before \gset
BEGIN;
SELECT * FROM test.claim('k_rolled_back', consumer => 'one');
SELECT * FROM test.claim('k_rolled_back', consumer => 'one');
SELECT outcome, consumer FROM saga.attempts WHERE saga_id = :'id' AND phase = 'compensation';
ROLLBACK;
SELECT test.picture('rolled back') = :'before' AS unchanged;
-- ... also to a savepoint; the next is the first attempt again
BEGIN;
SAVEPOINT s;
SELECT * FROM test.claim('k_rolled_back', consumer => 'one');
ROLLBACK TO s;
SELECT * FROM test.waiting('rolled back') \gx
SELECT * FROM test.claim('k_rolled_back', consumer => 'two');
SAVEPOINT s;
SELECT test.done('rolled back', 'a');
ROLLBACK TO s;
SELECT saga.fail_compensation(test.key('rolled back', 'a'), 1, 'no');
ROLLBACK TO s;
SELECT saga.extend_claim(test.key('rolled back', 'a'), 1, '10 minutes') IS NOT NULL AS extended;
RELEASE s;
SELECT consumer, test.about(lease_until, '10 minutes') FROM saga.pending_compensations WHERE saga_id = :'id';
COMMIT;
SELECT consumer, attempt FROM saga.pending_compensations WHERE saga_id = :'id';
-- a report that is rolled back leaves the claim as it is
SELECT test.picture('rolled back') AS before \gset
BEGIN;
SELECT test.done('rolled back', 'a');
SELECT state FROM saga.sagas WHERE id = :'id';
ROLLBACK;
BEGIN;
SELECT saga.fail_compensation(test.key('rolled back', 'a'), 1, 'no', retryable => false);
SELECT state FROM saga.sagas WHERE id = :'id';
ROLLBACK;
SELECT test.picture('rolled back') = :'before' AS unchanged;
SELECT test.done('rolled back', 'a');
SELECT state FROM saga.sagas WHERE id = :'id';

-- An error after a claim takes it back, like everything else.
SELECT test.listen('error', 'k_error') AS id \gset
CALL test.fail('error');
SELECT test.picture('error') AS before \gset
\set VERBOSITY sqlstate
SELECT 1 / (attempt - 1) FROM saga.claim_compensations('k_error');
\set VERBOSITY default
SELECT test.picture('error') = :'before' AS unchanged;

-- Claimed and done in one transaction, with the work; and within one function
CREATE TABLE test.refund (key text PRIMARY KEY, amount integer);
BEGIN;
INSERT INTO test.refund SELECT compensation_key, 100 FROM saga.claim_compensations('k_error');
SELECT saga.complete_compensation(key) FROM test.refund;
COMMIT;
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.attempts('error');
CREATE FUNCTION test.consume(channel text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  task record;
  done integer := 0;
BEGIN
  FOR task IN SELECT * FROM saga.claim_compensations(channel, 10, consumer => 'function') LOOP
    BEGIN
      INSERT INTO test.refund VALUES (task.compensation_key, (task.context #>> '{args,amount}')::integer);
      PERFORM saga.complete_compensation(task.compensation_key);
      done := done + 1;
    EXCEPTION WHEN OTHERS THEN
      PERFORM saga.fail_compensation(task.compensation_key, task.attempt, SQLERRM, retryable => false);
    END;
  END LOOP;
  RETURN done;
END $$;
SELECT test.listen('f1', 'k_function') IS NOT NULL AND test.listen('f2', 'k_function') IS NOT NULL AS begun;
SELECT status FROM saga.step(test.id('f2'), 'b', notify => 'k_function', args => '{"amount": "a lot"}');
CALL test.fail('f1');
CALL test.fail('f2');
SELECT test.consume('k_function');
SELECT * FROM test.attempts('f1');
SELECT * FROM test.attempts('f2');
SELECT * FROM test.saga('f2') \gx

-- A late result of an effect outside that did happen.
-- ... before anybody claimed: the listener gets it
SELECT test.listen('in time', 'k_in_time') AS id \gset
CALL test.fail('in time');
SELECT status, output FROM saga.complete_step(:'id', 'a', '{"charge": "ch_1"}', late => 'record');
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT context -> 'output' AS output, context #> '{step,status}' AS status FROM saga.claim_compensations('k_in_time');
SELECT test.done('in time', 'a');
SELECT * FROM test.saga('in time') \gx
-- ... before it is its turn
SELECT test.begin('before its turn') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'k_turn');
SELECT status FROM saga.step(:'id', 'b', notify => 'k_turn');
SELECT saga.fail(:'id');
CALL test.until_dispatched('before its turn');
SELECT status, output FROM saga.complete_step(:'id', 'a', '{"charge": "ch_2"}', late => 'record');
SELECT test.done('before its turn', step) FROM test.claim('k_turn');
CALL test.until_dispatched('before its turn');
SELECT step, context -> 'output' AS output, saga.complete_compensation(compensation_key) FROM saga.claim_compensations('k_turn');
SELECT state FROM saga.sagas WHERE id = :'id';
-- ... while it is claimed: a person must look; what the listener reports is kept
SELECT test.begin('while claimed') AS id \gset
SELECT status FROM saga.step(:'id', 'first', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'a', notify => 'k_claimed');
SELECT saga.fail(:'id');
CALL test.until_dispatched('while claimed');
SELECT * FROM test.claim('k_claimed', consumer => 'node');
SELECT status, output FROM saga.complete_step(:'id', 'a', '{"charge": "ch_3"}', late => 'record');
SELECT * FROM test.saga('while claimed') \gx
SELECT * FROM test.waiting('while claimed') \gx
SELECT test.about(saga.extend_claim(test.key('while claimed', 'a'), 1, '2 minutes'), '2 minutes') AS extended;
SELECT next_action_at = lease_until AS due_at_its_end FROM saga.sagas JOIN saga.pending_compensations ON id = saga_id WHERE id = :'id';
SELECT test.done('while claimed', 'a');
SELECT * FROM test.saga('while claimed') \gx
SELECT * FROM test.steps('while claimed');
SELECT * FROM test.attempts('while claimed');
SELECT next_action_at FROM saga.sagas WHERE id = :'id';
-- the same, and its report is a failure: nothing is tried again behind the person's back
SELECT test.listen('while claimed, failed', 'k_claimed') AS id \gset
CALL test.fail('while claimed, failed');
SELECT * FROM test.claim('k_claimed', consumer => 'node');
SELECT status, output FROM saga.complete_step(:'id', 'a', '{"charge": "ch_4"}', late => 'record');
SELECT saga.fail_compensation(test.key('while claimed, failed', 'a'), 1, 'no such charge');
SELECT * FROM test.saga('while claimed, failed') \gx
SELECT * FROM test.steps('while claimed, failed');
SELECT next_action_at FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.waiting('while claimed, failed');
-- ... an acknowledgement after that is believed; what the person was asked stays asked
SELECT test.done('while claimed, failed', 'a');
SELECT * FROM test.saga('while claimed, failed') \gx
-- ... between two attempts, dispatched again: it is withdrawn
SELECT test.listen('withdrawn', 'k_withdrawn') AS id \gset
CALL test.fail('withdrawn');
SELECT saga.fail_compensation(test.key('withdrawn', 'a'), attempt, 'no such charge') FROM test.claim('k_withdrawn');
CALL test.until_dispatched('withdrawn');
SELECT status, output FROM saga.complete_step(:'id', 'a', '{"charge": "ch_5"}', late => 'record');
SELECT * FROM test.saga('withdrawn') \gx
SELECT * FROM test.steps('withdrawn');
SELECT * FROM test.waiting('withdrawn');
SELECT * FROM test.claim('k_withdrawn');
SELECT event, step, detail FROM test.events('withdrawn') WHERE position > 3;
-- ... of a step that was passed by, while another waits: that one is withdrawn, too
SELECT test.begin('passed by') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'k_passed');
SELECT status FROM saga.step(:'id', 'b', notify => 'k_passed', compensate_on => 'completed');
SELECT saga.fail(:'id');
CALL test.until_dispatched('passed by');
SELECT step, compensation FROM test.steps('passed by');
SELECT status, output FROM saga.complete_step(:'id', 'b', '{"charge": "ch_6"}', late => 'record');
SELECT * FROM test.saga('passed by') \gx
SELECT step, compensation, parked FROM test.steps('passed by');
SELECT * FROM test.claim('k_passed');
-- an acknowledgement of what had been dispatched is believed
SELECT test.done('passed by', 'a');
SELECT step, compensation, parked FROM test.steps('passed by');
SELECT state FROM saga.sagas WHERE id = :'id';
-- ... after it was compensated
SELECT test.listen('after', 'k_after') AS id \gset
CALL test.fail('after');
SELECT test.done('after', step) FROM test.claim('k_after');
SELECT status, output FROM saga.complete_step(:'id', 'a', '{"charge": "ch_7"}', late => 'record');
SELECT * FROM test.saga('after') \gx
SELECT test.picture('after') AS before \gset
SELECT test.done('after', 'a');
SELECT saga.fail_compensation(test.key('after', 'a'), 1, 'no');
SELECT test.picture('after') = :'before' AS unchanged;
-- ... and of a fire-and-forget step
SELECT test.begin('forgotten') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'k_forgotten', acknowledge => false);
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT status, output FROM saga.complete_step(:'id', 'a', '{"charge": "ch_8"}', late => 'record');
SELECT next_action FROM saga.sagas WHERE id = :'id';

-- Of a saga that a person has abandoned, what listeners report is written down,
-- and nothing follows from it.
SELECT test.listen('abandoned, done', 'k_abandoned') IS NOT NULL AS begun, test.listen('abandoned, failed', 'k_abandoned') IS NOT NULL AS begun;
CALL test.fail('abandoned, done');
CALL test.fail('abandoned, failed');
SELECT * FROM test.claim('k_abandoned', 2);
-- a late result asks the person
SELECT n.name, c.status FROM test.named n, LATERAL saga.complete_step(n.id, 'a', '{"charge": "ch_9"}', late => 'record') c
  WHERE n.name ~ '^abandoned' ORDER BY 1;
SELECT n.name, saga.abandon(n.id, 'not worth it') FROM test.named n WHERE n.name ~ '^abandoned' ORDER BY 1;
SELECT * FROM test.waiting('abandoned, done') \gx
SELECT test.done('abandoned, done', 'a');
SELECT saga.fail_compensation(test.key('abandoned, failed', 'a'), 1, 'no');
SELECT test.done('abandoned, failed', 'a');
SELECT n.name, s.state, compensation_status, due FROM test.named n JOIN saga.ledger_saga l USING (id) JOIN saga.sagas s USING (id)
  JOIN saga.steps ON saga_id = id WHERE n.name ~ '^abandoned' ORDER BY 1;
SELECT * FROM test.attempts('abandoned, done');
SELECT * FROM test.attempts('abandoned, failed');

-- What is said of a failing saga again changes nothing.
SELECT test.listen('failing', 'k_failing') AS id \gset
CALL test.fail('failing');
SELECT * FROM test.claim('k_failing');
SELECT test.picture('failing') AS before \gset
SELECT saga.fail(:'id', 'again');
SELECT saga.cancel(:'id', 'again');
\set VERBOSITY sqlstate
SELECT saga.complete(:'id');
SELECT saga.step(:'id', 'b');
SELECT saga.complete_step(:'id', 'a');
\set VERBOSITY default
SELECT test.picture('failing') = :'before' AS unchanged;
SELECT test.done('failing', 'a');

-- A partial undo; what an old run's listener says does not touch the new run.
SELECT test.begin('partial') AS id \gset
SELECT status FROM saga.step(:'id', 'base', notify => 'k_partial', completed => true);
SELECT status FROM saga.step(:'id', 'a', notify => 'k_partial', completed => true);
SELECT status FROM saga.step(:'id', 'b', notify => 'k_partial', completed => true);
SELECT saga.rollback_to(:'id', 'base');
CALL test.until_dispatched('partial');
SELECT test.done('partial', step) FROM test.claim('k_partial');
CALL test.until_dispatched('partial');
SELECT step, compensation FROM test.steps('partial');
SELECT * FROM test.claim('k_partial', consumer => 'old');
CALL test.refuses(format('SELECT saga.step(%L, %L, notify => %L)', :'id', 'a', 'k_partial'));
SELECT test.done('partial', 'a');
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT step, compensation FROM test.steps('partial');
-- started afresh, the key is another
SELECT status, attempt FROM saga.step(:'id', 'a', notify => 'k_partial');
SELECT test.key('partial', 'a', 1) <> test.key('partial', 'a', 2) AS another;
SELECT saga.complete_compensation(test.key('partial', 'a', 1));
SELECT saga.fail_compensation(test.key('partial', 'a', 1), 1, 'no');
CALL test.refuses(format('SELECT saga.complete_compensation(%L)', test.key('partial', 'a', 2)));
SELECT key, run, compensation_status FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
SELECT saga.fail(:'id');
CALL test.until_dispatched('partial');
SELECT step, attempt, context #> '{step,run}' AS run FROM saga.claim_compensations('k_partial');
SELECT test.picture('partial') AS before \gset
SELECT saga.complete_compensation(test.key('partial', 'a', 1));
SELECT saga.fail_compensation(test.key('partial', 'a', 1), 1, 'no');
SELECT test.picture('partial') = :'before' AS unchanged;
SELECT saga.complete_compensation(test.key('partial', 'a', 2));
CALL test.until_dispatched('partial');
SELECT test.done('partial', step) FROM test.claim('k_partial');
SELECT saga.wait(:'id');
SELECT key, run, compensation_status, compensation_attempts FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
-- A failure during a partial undo makes it a full one; the claim goes on.
SELECT test.begin('partial, then full') AS id \gset
SELECT status FROM saga.step(:'id', 'base', notify => 'k_full', completed => true);
SELECT status FROM saga.step(:'id', 'a', notify => 'k_full', completed => true);
SELECT saga.rollback_to(:'id', 'base');
CALL test.until_dispatched('partial, then full');
SELECT * FROM test.claim('k_full');
SELECT saga.fail(:'id');
SELECT step, compensation FROM test.steps('partial, then full');
SELECT test.done('partial, then full', 'a');
CALL test.until_dispatched('partial, then full');
SELECT test.done('partial, then full', step) FROM test.claim('k_full');
SELECT state FROM saga.sagas WHERE id = :'id';

-- Compensations of one saga run one after another: while a listener holds a step,
-- one that a late result opened again waits for its report,
SELECT test.begin('opened again') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'k_again', compensation_retry => saga.retry_policy(2, '10 ms', max_delay => '10 ms'));
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id');
CALL test.until_dispatched('opened again');
SELECT * FROM test.claim('k_again');
SELECT status FROM saga.complete_step(:'id', 'b', '1', late => 'record');
SELECT saga.resolve(:'id', 'b', 'retry', 'undo it with the result');
SELECT step, action FROM saga.plan(:'id') ORDER BY position;
SELECT next_action_at = lease_until AS due_at_its_end FROM saga.sagas JOIN saga.pending_compensations ON id = saga_id WHERE id = :'id';
SELECT step, compensation, attempts FROM test.steps('opened again');
SELECT saga.fail_compensation(test.key('opened again', 'a'), 1, 'no', retry_after => '0');
CALL test.until_dispatched('opened again');
SELECT test.undone('opened again');
SELECT test.done('opened again', step) FROM test.claim('k_again');
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT step, attempt, outcome FROM test.attempts('opened again');
-- ... so does one that a listener has to undo;
SELECT test.begin('opened, listener') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'k_again', compensation_retry => saga.retry_policy(1));
SELECT status FROM saga.step(:'id', 'b', notify => 'k_again');
SELECT saga.fail(:'id');
CALL test.until_dispatched('opened, listener');
SELECT test.done('opened, listener', step) FROM test.claim('k_again');
CALL test.until_dispatched('opened, listener');
SELECT * FROM test.claim('k_again', lease => '10 minutes');
SELECT status FROM saga.complete_step(:'id', 'b', '1', late => 'record');
SELECT saga.resolve(:'id', 'b', 'retry', 'undo it with the result');
SELECT step, compensation FROM test.steps('opened, listener');
SELECT * FROM test.claim('k_again');
SELECT saga.fail_compensation(test.key('opened, listener', 'a'), 1, 'no', retryable => false);
CALL test.until_dispatched('opened, listener');
SELECT test.done('opened, listener', step) FROM test.claim('k_again');
SELECT step, compensation FROM test.steps('opened, listener');
-- ... and where the claimed one is of a run that was rolled back, and a failure
-- makes a full undo of it, what started later does.
SELECT test.begin('old run') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'k_again');
SELECT saga.rollback_to(:'id', NULL);
CALL test.until_dispatched('old run');
SELECT test.done('old run', step) FROM test.claim('k_again');
SELECT status FROM saga.step(:'id', 'b', notify => 'k_again', completed => true);
SELECT status FROM saga.complete_step(:'id', 'a', '1', late => 'record');
SELECT saga.resolve(:'id', 'a', 'retry', 'undo it with the result');
CALL test.until_dispatched('old run');
SELECT * FROM test.claim('k_again');
SELECT saga.fail(:'id');
SELECT step, compensation FROM test.steps('old run');
SELECT test.done('old run', 'a');
CALL test.until_dispatched('old run');
SELECT test.done('old run', step) FROM test.claim('k_again');
SELECT state FROM saga.sagas WHERE id = :'id';

-- What a person skipped while its listener was at work is not done after all: the
-- listener is told so, and nothing changes.
SELECT test.listen('skipped', 'k_skipped') AS id \gset
CALL test.fail('skipped');
SELECT * FROM test.claim('k_skipped');
SELECT saga.fail_compensation(test.key('skipped', 'a'), 1, 'no', retryable => false);
SELECT saga.resolve(:'id', 'a', 'skip', 'nothing to undo');
SELECT test.picture('skipped') AS before \gset
SELECT test.done('skipped', 'a');
SELECT test.picture('skipped') = :'before' AS unchanged;
SELECT * FROM test.attempts('skipped');

-- The owner under another name is another, for the calls of its members, too.
CREATE ROLE regress_saga_owner LOGIN;
CREATE ROLE regress_saga_member LOGIN IN ROLE regress_saga_owner;
GRANT USAGE ON SCHEMA saga TO regress_saga_owner;
GRANT INSERT, SELECT ON test.named TO regress_saga_owner;
SET ROLE regress_saga_owner;
SELECT test.listen('r1', 'k_renamed') AS r1, test.listen('r2', 'k_renamed') AS r2 \gset
CALL test.fail('r1');
CALL test.fail('r2');
RESET ROLE;
SET ROLE regress_saga_member;
SELECT * FROM test.claim('k_renamed');
RESET ROLE;
SELECT test.picture('r1') AS before1, test.picture('r2') AS before2, test.key('r1', 'a') AS key1, test.key('r2', 'a') AS key2 \gset
-- ... within a transaction each: the worker, which parks what waits for an owner
-- that is gone, must not come in between
BEGIN;
ALTER ROLE regress_saga_owner RENAME TO regress_saga_renamed;
SET ROLE regress_saga_member;
SELECT * FROM test.claim('k_renamed');
CALL test.refuses(format('SELECT saga.complete_compensation(%L)', :'key1'));
CALL test.refuses(format('SELECT saga.fail_compensation(%L, 1, %L)', :'key1', 'no'));
CALL test.refuses(format('SELECT saga.extend_claim(%L, 1, %L)', :'key1', '1 minute'));
SELECT count(*) FROM saga.pending_compensations WHERE channel = 'k_renamed';
RESET ROLE;
SELECT test.picture('r1') = :'before1' AND test.picture('r2') = :'before2' AS unchanged;
-- a superuser may, and so may everybody when the name is back
SELECT * FROM test.claim('k_renamed');
SELECT test.done('r2', 'a');
ALTER ROLE regress_saga_renamed RENAME TO regress_saga_owner;
COMMIT;
SET ROLE regress_saga_member;
SELECT saga.complete_compensation(:'key1');
RESET ROLE;
-- the owner is dropped: a superuser can still do it
SET ROLE regress_saga_owner;
SELECT test.listen('r3', 'k_renamed') AS r3 \gset
CALL test.fail('r3');
RESET ROLE;
BEGIN;
DROP OWNED BY regress_saga_owner;
DROP ROLE regress_saga_member, regress_saga_owner;
SELECT * FROM test.claim('k_renamed');
SELECT test.done('r3', 'a');
COMMIT;

CALL test.check();

-- A claim reads the step that it hands out, however many the saga has; also one
-- that has run before.
SELECT test.begin('many') AS id \gset
SELECT count(saga.step(:'id', 'filler ' || i, completed => true)) FROM generate_series(1, 300) i;
SELECT status FROM saga.step(:'id', 'savepoint', completed => true);
SELECT status FROM saga.step(:'id', 'last', notify => 'k_many');
SELECT saga.rollback_to(:'id', 'savepoint');
CALL test.until_dispatched('many');
SELECT test.done('many', 'last');
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.step(:'id', 'last', notify => 'k_many');
CALL test.fail('many');
BEGIN;
SELECT pg_stat_get_xact_tuples_returned('saga.ledger_step_key'::regclass) AS before \gset
SELECT step, attempt, context->'step'->>'run' AS run FROM saga.claim_compensations('k_many');
SELECT pg_stat_get_xact_tuples_returned('saga.ledger_step_key'::regclass) - :before AS entries;
COMMIT;
SELECT saga.complete_compensation(compensation_key) FROM saga.steps WHERE saga_id = :'id' AND key = 'last' AND run = 2;
SELECT saga.wait(:'id');
CALL test.check();
