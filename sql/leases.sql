-- Claims that end without a report, by a virtual clock: charged, tried again by
-- the policy, given up at last; and what comes too late for them.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\i sql/include/clock.sql
\set ECHO all

-- Waits until so many attempts of compensations of a saga are over.
CREATE PROCEDURE test.until_over(name text, attempts integer) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT count(*) = %s FROM saga.attempts WHERE saga_id = %L AND phase = ''compensation''
    AND outcome IS NOT NULL', attempts, test.id(name)));
END $$;
-- How far from each other, in words
CREATE FUNCTION test.seconds(a timestamptz, b timestamptz) RETURNS text LANGUAGE sql IMMUTABLE
RETURN round(extract(epoch FROM b - a)) || ' s';

-- A listener away for days finds everything waiting, and nothing charged.
SELECT test.listen('away', 't_away') AS id \gset
CALL test.fail('away');
SELECT test.advance('3 days');
SELECT * FROM test.waiting('away') \gx
SELECT * FROM test.attempts('away');
SELECT * FROM test.claim('t_away');
SELECT test.done('away', 'a');
SELECT state FROM saga.sagas WHERE id = :'id';

-- A lease that ends: charged, and tried again by the policy
SELECT test.listen('lease', 't_lease', '{"max_attempts": 3, "delay": "1 minute", "max_delay": "1 hour", "backoff": "exponential"}') AS id \gset
CALL test.fail('lease');
SELECT attempt FROM saga.claim_compensations('t_lease', lease => '30 s', consumer => 'one');
-- a moment before its end it holds
SELECT test.advance('10 s');
SELECT * FROM test.claim('t_lease');
SELECT test.seconds(claimed_at, lease_until) FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.advance('21 s');
CALL test.until_over('lease', 1);
SELECT * FROM test.saga('lease') \gx
SELECT * FROM test.steps('lease');
SELECT * FROM test.attempts('lease');
SELECT a.consumer, test.seconds(a.finished_at, s.next_attempt_at) AS delay, v.next_action_at = s.next_attempt_at AS due
FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq) JOIN saga.sagas v ON v.id = saga_id
WHERE saga_id = :'id' AND phase = 'compensation';
SELECT * FROM test.waiting('lease') \gx
SELECT * FROM test.claim('t_lease');
-- the claim is over: nothing can be done with it but to report a success
SELECT test.picture('lease') AS before \gset
CALL test.refuses(format('SELECT saga.extend_claim(%L, 1, %L)', test.key('lease', 'a'), '1 minute'));
SELECT saga.fail_compensation(test.key('lease', 'a'), 1, 'late');
SELECT test.picture('lease') = :'before' AS unchanged;
SELECT test.advance('1 minute');
CALL test.until_dispatched('lease');
CALL test.refuses(format('SELECT saga.extend_claim(%L, 1, %L)', test.key('lease', 'a'), '1 minute'));
SELECT saga.fail_compensation(test.key('lease', 'a'), 1, 'late');
-- the second attempt: a failure that is reported counts with the one that was not
SELECT * FROM test.claim('t_lease', consumer => 'two');
SELECT saga.fail_compensation(test.key('lease', 'a'), 2, 'no');
SELECT test.seconds(a.finished_at, s.next_attempt_at) AS delay
FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq) WHERE saga_id = :'id' AND phase = 'compensation' AND attempt = 2;
SELECT test.advance('2 minutes');
CALL test.until_dispatched('lease');
SELECT * FROM test.claim('t_lease', consumer => 'three');
SELECT test.advance('1 minute');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('lease') \gx
SELECT * FROM test.steps('lease');
SELECT * FROM test.attempts('lease');
SELECT * FROM test.events('lease');
SELECT * FROM test.waiting('lease');
-- parked for it alone: a late success lets the saga go on
SELECT test.done('lease', 'a');
SELECT * FROM test.saga('lease') \gx

-- A claim whose transaction takes longer than its lease is over with its commit;
-- until then nobody else has it.
SELECT test.listen('slow commit', 't_slow', '{"max_attempts": 2}') AS id \gset
CALL test.fail('slow commit');
BEGIN;
SELECT * FROM test.claim('t_slow', consumer => 'slow');
SELECT test.advance('2 minutes');
COMMIT;
CALL test.until_dispatched('slow commit');
SELECT * FROM test.attempts('slow commit');
BEGIN;
SELECT * FROM test.claim('t_slow', consumer => 'slower');
PREPARE TRANSACTION 'slow';
SELECT test.advance('2 minutes');
SELECT * FROM test.claim('t_slow', consumer => 'another');
COMMIT PREPARED 'slow';
SELECT saga.wait(:'id');
SELECT * FROM test.attempts('slow commit');
SELECT test.done('slow commit', 'a');

-- Calls answer from what is newest, whatever the snapshot: what is dispatched
-- behind it is to be had.
CREATE FUNCTION test.claim_patiently(channel text) RETURNS TABLE (saga text, step text, attempt integer) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. 6000 LOOP
    RETURN QUERY SELECT * FROM test.claim(channel);
    EXIT WHEN FOUND;
    PERFORM pg_sleep(0.01);
  END LOOP;
END $$;
SELECT test.listen('repeatable', 't_repeatable', '{"delay": "1 hour", "max_delay": "1 hour"}') AS id \gset
CALL test.fail('repeatable');
SELECT saga.fail_compensation(test.key('repeatable', step), attempt, 'no') FROM test.claim('t_repeatable');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT attempt, next_attempt_at IS NOT NULL AS put_off FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.advance('61 minutes');
SELECT * FROM test.claim_patiently('t_repeatable');
SELECT test.done('repeatable', 'a');
COMMIT;
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT test.listen('serializable', 't_serializable', '{"delay": "1 hour", "max_delay": "1 hour"}') AS id \gset
CALL test.fail('serializable');
SELECT saga.fail_compensation(test.key('serializable', step), attempt, 'no') FROM test.claim('t_serializable');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT attempt, next_attempt_at IS NOT NULL AS put_off FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.advance('61 minutes');
SELECT * FROM test.claim_patiently('t_serializable');
SELECT saga.fail_compensation(test.key('serializable', 'a'), 2, 'no');
COMMIT;
SELECT test.advance('61 minutes');
CALL test.until_dispatched('serializable');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM test.claim('t_serializable');
SELECT saga.extend_claim(test.key('serializable', 'a'), 3, '2 minutes') IS NOT NULL AS extended;
SELECT test.done('serializable', 'a');
COMMIT;
SELECT state FROM saga.sagas WHERE id = :'id';

-- The policy's timeout limits an attempt, however it is extended.
SELECT test.listen('capped', 't_capped', '{"timeout": "10 minutes", "delay": "1 hour", "max_delay": "1 hour"}') AS id \gset
CALL test.fail('capped');
SELECT lease_until AS answered FROM saga.claim_compensations('t_capped', lease => '1 hour') \gset
SELECT lease_until = :'answered' AS same FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.seconds(claimed_at, lease_until) FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.advance('5 minutes');
SELECT test.seconds(claimed_at, saga.extend_claim(compensation_key, 1, '1 hour')) FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.advance('4 minutes');
SELECT saga.extend_claim(test.key('capped', 'a'), 1, '1 hour') = :'answered' AS still;
SELECT test.advance('61 s');
CALL test.until_over('capped', 1);
SELECT * FROM test.attempts('capped');
-- ... while within it, it may be extended again and again
SELECT test.listen('extended', 't_extended', '{"timeout": "1 hour"}') AS id \gset
CALL test.fail('extended');
SELECT test.claim('t_extended', lease => '1 minute');
SELECT test.advance('30 s');
SELECT saga.extend_claim(compensation_key, 1, '1 minute') - claimed_at BETWEEN '90 s' AND '150 s' AS extended
FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.advance('50 s');
SELECT saga.extend_claim(compensation_key, 1, '1 minute') - claimed_at BETWEEN '140 s' AND '200 s' AS extended
FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.advance('50 s');
SELECT test.done('extended', 'a');
SELECT * FROM test.attempts('extended');
-- ... without a timeout there is no end, and by default it is that of the setting
SELECT test.listen('no end', 't_no_end', '{"timeout": "0"}') AS id \gset
CALL test.fail('no end');
SELECT test.claim('t_no_end', lease => '20 days');
SELECT test.seconds(claimed_at, lease_until) FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.advance('19 days');
SELECT saga.extend_claim(compensation_key, 1, '100 days') - claimed_at BETWEEN '119 days' AND '120 days' AS extended
FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.done('no end', 'a');
SELECT test.begin('default') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 't_default');
CALL test.fail('default');
SELECT test.claim('t_default', lease => '1 day');
SELECT test.seconds(claimed_at, lease_until) FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.done('default', 'a');

-- An acknowledgement after the end of the lease is believed.
-- ... while the retry is pending
SELECT test.listen('late 1', 't_late', '{"delay": "1 hour", "max_delay": "1 hour"}') AS id \gset
CALL test.fail('late 1');
SELECT * FROM test.claim('t_late', consumer => 'one');
SELECT test.advance('2 minutes');
CALL test.until_over('late 1', 1);
SELECT test.done('late 1', 'a');
SELECT * FROM test.saga('late 1') \gx
SELECT * FROM test.attempts('late 1');
SELECT event, detail FROM test.events('late 1') WHERE position > 3;
-- ... dispatched again
SELECT test.listen('late 2', 't_late') AS id \gset
CALL test.fail('late 2');
SELECT * FROM test.claim('t_late', consumer => 'one');
SELECT test.advance('2 minutes');
CALL test.until_dispatched('late 2');
SELECT test.done('late 2', 'a');
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.claim('t_late');
-- ... held by another consumer, whose own report is answered the same
SELECT test.listen('late 3', 't_late') AS id \gset
CALL test.fail('late 3');
SELECT * FROM test.claim('t_late', consumer => 'one');
SELECT test.advance('2 minutes');
CALL test.until_dispatched('late 3');
SELECT * FROM test.claim('t_late', consumer => 'two');
SELECT saga.fail_compensation(test.key('late 3', 'a'), 1, 'no, said one');
SELECT test.done('late 3', 'a');
SELECT test.done('late 3', 'a');
SELECT saga.fail_compensation(test.key('late 3', 'a'), 2, 'no, said two');
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT attempt, outcome, consumer FROM saga.attempts WHERE saga_id = :'id' AND phase = 'compensation' ORDER BY 1;
-- ... given up under "continue", with what started earlier under way
SELECT test.begin('late 4', on_compensation_failure => 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 't_late');
SELECT status FROM saga.step(:'id', 'b', notify => 't_late', compensation_retry => saga.retry_policy(max_attempts => 1));
CALL test.fail('late 4');
SELECT * FROM test.claim('t_late', consumer => 'one');
SELECT test.advance('2 minutes');
CALL test.until_dispatched('late 4');
SELECT * FROM test.steps('late 4');
SELECT test.claim('t_late', consumer => 'two');
SELECT test.done('late 4', 'b');
SELECT test.done('late 4', 'a');
SELECT state FROM saga.sagas WHERE id = :'id';

-- A late result while somebody holds the step parks the saga; the end of the
-- lease is written down, and nothing follows from it.
SELECT test.listen('parked', 't_parked', '{"max_attempts": 2}') AS id \gset
CALL test.fail('parked');
SELECT * FROM test.claim('t_parked');
SELECT status FROM saga.complete_step(:'id', 'a', '"ch_1"', late => 'record');
SELECT test.advance('2 minutes');
CALL test.until_over('parked', 1);
SELECT * FROM test.saga('parked') \gx
SELECT * FROM test.steps('parked');
SELECT next_action_at FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.claim('t_parked');
-- ... a late success after that: what the late result asks stays asked
SELECT test.done('parked', 'a');
SELECT * FROM test.saga('parked') \gx
-- ... also where that attempt was the last
SELECT test.listen('parked, last', 't_parked', '{"max_attempts": 1}') AS id \gset
CALL test.fail('parked, last');
SELECT * FROM test.claim('t_parked');
SELECT status FROM saga.complete_step(:'id', 'a', '"ch_1"', late => 'record');
SELECT test.advance('2 minutes');
CALL test.until_over('parked, last', 1);
SELECT test.done('parked, last', 'a');
SELECT * FROM test.saga('parked, last') \gx
-- ... and where the result came after it had been given up
SELECT test.listen('given up', 't_parked', '{"max_attempts": 1}') AS id \gset
CALL test.fail('given up');
SELECT * FROM test.claim('t_parked');
SELECT test.advance('2 minutes');
SELECT saga.wait(:'id');
SELECT status FROM saga.complete_step(:'id', 'a', '"ch_1"', late => 'record');
SELECT test.done('given up', 'a');
SELECT * FROM test.saga('given up') \gx
SELECT test.begin('given up, continue', on_compensation_failure => 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 't_parked', compensation_retry => saga.retry_policy(max_attempts => 1));
CALL test.fail('given up, continue');
SELECT * FROM test.claim('t_parked');
SELECT test.advance('2 minutes');
SELECT saga.wait(:'id');
SELECT status FROM saga.complete_step(:'id', 'a', '"ch_1"', late => 'record');
SELECT * FROM test.saga('given up, continue') \gx
SELECT test.done('given up, continue', 'a');
SELECT * FROM test.saga('given up, continue') \gx

-- A deadline: its saga is undone like others ...
SELECT test.begin('deadline', timeout => '10 minutes') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 't_deadline');
SELECT test.advance('11 minutes');
CALL test.until_dispatched('deadline');
SELECT context #> '{saga,failure_kind}' AS failure_kind, context #> '{saga,reason}' AS reason, saga.complete_compensation(compensation_key)
FROM saga.claim_compensations('t_deadline');
SELECT state FROM saga.sagas WHERE id = :'id';
-- ... and one that passes during a partial undo makes that a full one, whoever holds a step
SELECT test.begin('partial', timeout => '10 minutes') AS id \gset
SELECT status FROM saga.step(:'id', 'base', notify => 't_partial', completed => true);
SELECT status FROM saga.step(:'id', 'a', notify => 't_partial', completed => true,
  compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT saga.rollback_to(:'id', 'base');
CALL test.until_dispatched('partial');
SELECT s.next_action_at = deadline AS due_at_deadline FROM saga.sagas s WHERE id = :'id';
SELECT * FROM test.claim('t_partial', lease => '9 minutes');
SELECT s.next_action_at = lease_until AS due_at_its_end FROM saga.sagas s JOIN saga.pending_compensations ON id = saga_id WHERE id = :'id';
SELECT test.advance('8 minutes');
SELECT saga.extend_claim(test.key('partial', 'a'), 1, '9 minutes') IS NOT NULL AS extended;
SELECT s.next_action_at = deadline AS due_at_deadline FROM saga.sagas s WHERE id = :'id';
SELECT test.advance('3 minutes');
CALL test.wait_until(format('SELECT failure_kind = %L FROM saga.sagas WHERE id = %L', 'timed out', :'id'));
-- the lease is over, too
CALL test.until_over('partial', 1);
SELECT step, compensation FROM test.steps('partial');
SELECT test.done('partial', 'a');
CALL test.until_dispatched('partial');
SELECT test.done('partial', step) FROM test.claim('t_partial');
SELECT state FROM saga.sagas WHERE id = :'id';
-- ... so, too, if a claim ended before it that was the step's last, and both were over when somebody looked: no person is
-- asked about a partial undo that is none any more
SELECT test.begin('both over') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 't_over', completed => true, compensation_retry => saga.retry_policy(1));
SELECT saga.rollback_to(:'id', NULL);
CALL test.until_dispatched('both over');
SELECT * FROM test.claim('t_over', lease => '1 minute');
SELECT saga.set_timeout(:'id', '2 minutes') IS NOT NULL AS set;
SELECT test.advance('3 minutes');
CALL test.wait_until(format('SELECT state = %L FROM saga.sagas WHERE id = %L', 'needs_review', :'id'));
SELECT failure_kind, reason FROM saga.sagas WHERE id = :'id';
SELECT event, step FROM saga.events WHERE saga_id = :'id' AND event NOT LIKE 'undo%' ORDER BY position;

CALL test.check();
