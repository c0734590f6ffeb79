-- Compensations outside the database: what waits for listeners, claims,
-- reports, and what the views tell of them.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\set ECHO all

-- From the failure to the acknowledgement
SELECT saga.begin('order', 'listeners ' || clock_timestamp(), '{"order": 7}') AS id \gset
INSERT INTO test.named VALUES ('one', :'id');
SELECT status FROM saga.step(:'id', 'reserve', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'charge', 'charge 7', notify => 'l_one', args => '{"amount": 100}',
  compensation_retry => saga.retry_policy(3, '10 ms', 'constant', '10 ms', 0, '1 hour'));
SELECT status FROM saga.complete_step(:'id', 'charge 7', '{"charge": "ch_1"}');
SELECT status FROM saga.step(:'id', 'ship', compensation => 'SELECT test.undo($1)');
-- nothing waits for anybody before it failed
SELECT * FROM test.waiting('one');
SELECT * FROM test.claim('l_one');
SELECT saga.fail(:'id', 'no stock', '{"sku": 5}');
CALL test.until_dispatched('one');
SELECT * FROM test.saga('one') \gx
SELECT * FROM test.steps('one');
SELECT * FROM test.waiting('one') \gx
SELECT next_action_at FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.attempts('one');
SELECT * FROM test.events('one');
-- claimed: an attempt has begun
SELECT c.step, c.attempt, c.seq = s.seq AS same_seq, c.saga_id = s.saga_id AS same_saga,
  c.compensation_key = s.compensation_key AS same_key, test.about(c.lease_until, '5 minutes') AS lease
FROM saga.claim_compensations('l_one', lease => '5 minutes', consumer => 'node-1') c
  JOIN saga.steps s ON s.saga_id = c.saga_id AND s.key = c.step;
SELECT * FROM test.saga('one') \gx
SELECT * FROM test.steps('one');
SELECT * FROM test.waiting('one') \gx
SELECT next_action_at = lease_until AS due_at_its_end FROM saga.sagas JOIN saga.pending_compensations ON id = saga_id WHERE id = :'id';
SELECT * FROM test.attempts('one');
SELECT a.outcome, a.consumer, a.finished_at, a.started_at = p.claimed_at AS since_claimed
FROM saga.attempts a JOIN saga.pending_compensations p USING (saga_id, seq) WHERE saga_id = :'id' AND phase = 'compensation';
-- nobody else gets it
SELECT * FROM test.claim('l_one', 10);
-- longer, never shorter, never beyond the timeout of the policy
SELECT test.about(saga.extend_claim(test.key('one', 'charge 7'), 1, '10 minutes'), '10 minutes');
SELECT test.about(saga.extend_claim(test.key('one', 'charge 7'), 1, '1 minute'), '10 minutes');
SELECT saga.extend_claim(test.key('one', 'charge 7'), 1, '2 hours') = claimed_at + '1 hour' AS capped
FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT lease_until = claimed_at + '1 hour' AS capped FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT next_action_at = lease_until AS due_at_its_end FROM saga.sagas JOIN saga.pending_compensations ON id = saga_id WHERE id = :'id';
-- it failed: again by the policy
SELECT saga.fail_compensation(test.key('one', 'charge 7'), 1, 'bank is closed');
CALL test.until_dispatched('one');
SELECT * FROM test.steps('one');
SELECT * FROM test.attempts('one');
SELECT * FROM test.waiting('one') \gx
SELECT * FROM saga.claim_compensations('l_one', consumer => 'node-2') \gset claim_
SELECT regexp_replace(test.mask(jsonb_pretty(:'claim_context')), '"seq": \d+', '"seq": <seq>');
SELECT :'claim_attempt' AS attempt, :'claim_context'::jsonb ->> 'compensation_key' = :'claim_compensation_key' AS same_key,
  :'claim_context'::jsonb ->> 'forward_key' = (SELECT forward_key FROM saga.steps WHERE saga_id = :'id' AND key = 'charge 7') AS same_forward_key,
  test.about(:'claim_lease_until', '1 minute') AS lease;
-- done
SELECT saga.complete_compensation(:'claim_compensation_key', '{"refund": "re_1"}');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('one') \gx
SELECT * FROM test.steps('one');
SELECT * FROM test.waiting('one');
SELECT * FROM test.attempts('one');
SELECT consumer, started_at <= finished_at AS ended FROM saga.attempts WHERE saga_id = :'id' AND phase = 'compensation'
ORDER BY seq, attempt;
SELECT * FROM test.events('one');
SELECT comp_output FROM saga.ledger_step WHERE saga = :'id' AND key = 'charge 7';
-- said again: the same answer, and nothing changes
SELECT test.picture('one') AS before \gset
SELECT saga.complete_compensation(:'claim_compensation_key', '{"refund": "re_1"}');
SELECT saga.complete_compensation(:'claim_compensation_key', '{"refund": "re_2"}');
SELECT saga.complete_compensation(:'claim_compensation_key');
SELECT saga.fail_compensation(:'claim_compensation_key', 2, 'too late');
SELECT saga.fail_compensation(:'claim_compensation_key', 1, 'much too late', retryable => false);
CALL test.refuses(format('SELECT saga.extend_claim(%L, 2, %L)', :'claim_compensation_key', '1 minute'));
SELECT test.picture('one') = :'before' AS unchanged;

-- The context of a step that never reported, the default policy
SELECT test.listen('bare', 'l_bare') AS id \gset
CALL test.fail('bare');
SELECT context -> 'output' AS output, context -> 'args' AS args, context -> 'error' AS error, context #> '{step,status}' AS status,
  context #> '{step,completed_at}' AS completed_at, context -> 'attempt' AS attempt, context -> 'retry' AS retry,
  context #> '{saga,input}' AS input, context #> '{saga,idempotency_key}' AS idempotency_key
FROM saga.claim_compensations('l_bare') \gx
-- without a consumer's name
SELECT * FROM test.waiting('bare') \gx
SELECT next_action ~ '^listener on channel' AS nameless FROM saga.sagas WHERE id = :'id';
SELECT saga.complete_compensation(test.key('bare', 'a'));
SELECT state FROM saga.sagas WHERE id = :'id';

-- The oldest first, as many as asked for
SELECT test.listen(n, 'l_many') IS NOT NULL AS begun FROM unnest('{m1,m2,m3,m4,m5}'::text[]) n;
CALL test.fail('m4');
CALL test.fail('m2');
DO $$ BEGIN PERFORM saga.fail(test.id(n)) FROM unnest('{m1,m3,m5}'::text[]) n; END $$;
CALL test.until_dispatched('m1');
CALL test.until_dispatched('m3');
CALL test.until_dispatched('m5');
SELECT * FROM test.claim('l_many', 2, consumer => 'one');
SELECT * FROM test.claim('l_many', consumer => 'two');
SELECT * FROM test.claim('l_many', 2147483647, consumer => 'three');
SELECT * FROM test.claim('l_many', 10);
SELECT name, attempt, consumer FROM saga.pending_compensations JOIN test.named ON id = saga_id WHERE channel = 'l_many' ORDER BY name;
-- all in one statement
SELECT name, saga.complete_compensation(test.key(name, 'a')) FROM test.named WHERE name ~ '^m\d' ORDER BY name;
SELECT count(*) FROM saga.pending_compensations WHERE channel = 'l_many';

-- NULL for an optional argument means its default.
SELECT test.listen(n, 'l_null') IS NOT NULL AS begun FROM unnest('{n1,n2}'::text[]) n;
CALL test.fail('n1');
CALL test.fail('n2');
SELECT step, attempt, test.about(lease_until, '1 minute') AS lease FROM saga.claim_compensations('l_null', NULL, NULL, NULL);
SELECT saga.fail_compensation(test.key('n1', 'a'), 1, 'no', NULL, NULL);
CALL test.until_dispatched('n1');
SELECT saga.complete_compensation(test.key('n1', 'a'), NULL);

-- A claim in the middle of a statement; two channels in one; one that is empty
SELECT test.listen('c1', 'l_c1') IS NOT NULL AND test.listen('c2', 'l_c2') IS NOT NULL AS begun;
CALL test.fail('c1');
CALL test.fail('c2');
SELECT channel, c.step, c.attempt, saga.complete_compensation(c.compensation_key)
FROM unnest('{l_c0,l_c1,l_c2}'::text[]) channel, LATERAL saga.claim_compensations(channel) c;
SELECT n.name, state FROM test.named n JOIN saga.sagas USING (id) WHERE n.name IN ('c1', 'c2') ORDER BY 1;

-- SQL and listeners in one reverse walk, each after what started later
SELECT test.begin('mixed') AS id \gset
SELECT status FROM saga.step(:'id', 's1', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'n1', notify => 'l_mixed1');
SELECT status FROM saga.step(:'id', 'n2', notify => 'l_mixed2');
SELECT status FROM saga.step(:'id', 's2', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'passed', notify => 'l_mixed1', compensate_on => 'completed');
SELECT status FROM saga.step(:'id', 'done', notify => 'l_mixed1', compensate_on => 'completed', completed => true);
SELECT status FROM saga.step(:'id', 'r', notify => 'l_mixed1', kind => 'retriable', completed => true);
SELECT saga.fail(:'id');
CALL test.until_dispatched('mixed');
SELECT step, compensation FROM test.steps('mixed');
SELECT * FROM test.claim('l_mixed2', 10);
SELECT test.done('mixed', step) FROM test.claim('l_mixed1', 10);
CALL test.until_dispatched('mixed');
SELECT step, compensation FROM test.steps('mixed');
SELECT * FROM test.claim('l_mixed1', 10);
SELECT test.done('mixed', step) FROM test.claim('l_mixed2', 10);
CALL test.until_dispatched('mixed');
SELECT step, compensation FROM test.steps('mixed');
SELECT test.done('mixed', step) FROM test.claim('l_mixed1', 10);
SELECT saga.wait(:'id');
SELECT step, compensation FROM test.steps('mixed');
SELECT test.undone('mixed');

-- A review first, then the listener
SELECT test.begin('review') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'l_review', review => 'has it left?');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('review') \gx
SELECT * FROM test.claim('l_review');
CALL test.refuses(format('SELECT saga.complete_compensation(%L)', test.key('review', 'a')));

-- Retries: at the time that the listener says; exhausted, for a person
SELECT test.listen('later', 'l_later') AS id \gset
CALL test.fail('later');
SELECT * FROM test.claim('l_later', consumer => 'node');
SELECT saga.fail_compensation(test.key('later', 'a'), 1, 'rate limit', retry_after => '1 hour');
SELECT test.about(next_attempt_at, '1 hour') FROM saga.steps WHERE saga_id = :'id';
SELECT * FROM test.saga('later') \gx
SELECT * FROM test.waiting('later') \gx
SELECT next_action_at = next_attempt_at AS same FROM saga.sagas JOIN saga.pending_compensations ON id = saga_id WHERE id = :'id';
SELECT * FROM test.claim('l_later');
-- ... at once, whatever the policy says
SELECT test.listen('at once', 'l_at_once', '{"delay": "1 hour", "max_delay": "1 hour"}') AS id \gset
CALL test.fail('at once');
SELECT saga.fail_compensation(test.key('at once', 'a'), attempt, 'come again', retry_after => '0') FROM test.claim('l_at_once');
SELECT count(*) AS put_off FROM saga.steps WHERE saga_id = :'id' AND next_attempt_at > started_at + '1 minute';
SELECT saga.complete_compensation(test.key('at once', 'a'));
SELECT test.listen('halt', 'l_halt', '{"max_attempts": 2}') AS id \gset
CALL test.fail('halt');
SELECT * FROM test.claim('l_halt');
SELECT saga.fail_compensation(test.key('halt', 'a'), 1, 'first');
CALL test.until_dispatched('halt');
SELECT * FROM test.claim('l_halt');
-- the retries are exhausted: then it does not matter when
SELECT saga.fail_compensation(test.key('halt', 'a'), 2, 'second', retry_after => '1 hour');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('halt') \gx
SELECT * FROM test.steps('halt');
SELECT * FROM test.attempts('halt');
SELECT * FROM test.events('halt');
SELECT * FROM test.waiting('halt');
SELECT saga.fail_compensation(test.key('halt', 'a'), 2, 'again');
-- on_compensation_failure 'continue': the walk goes on, and somebody is told
SELECT test.begin('continue', on_compensation_failure => 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'l_continue');
SELECT status FROM saga.step(:'id', 'b', notify => 'l_continue', compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.fail(:'id');
CALL test.until_dispatched('continue');
SELECT * FROM test.claim('l_continue', consumer => 'node');
SELECT saga.fail_compensation(test.key('continue', 'b'), 1, 'gone');
CALL test.until_dispatched('continue');
SELECT * FROM test.steps('continue');
SELECT test.done('continue', step) FROM test.claim('l_continue');
SELECT * FROM test.saga('continue') \gx
-- not to be tried again: for a person, at once
SELECT test.listen('never', 'l_never') AS id \gset
CALL test.fail('never');
SELECT * FROM test.claim('l_never');
SELECT saga.fail_compensation(test.key('never', 'a'), 1, 'account closed', retryable => false, retry_after => '1 minute');
SELECT * FROM test.saga('never') \gx
SELECT * FROM test.steps('never');
SELECT * FROM test.attempts('never');

-- An acknowledgement that comes late is believed: the effect is there.
-- ... while the retry is pending
SELECT saga.complete_compensation(test.key('later', 'a'), '"late"');
SELECT state FROM saga.sagas WHERE id = test.id('later');
SELECT * FROM test.steps('later');
SELECT * FROM test.attempts('later');
SELECT event, step, detail FROM test.events('later') WHERE position > 3;
-- ... given up and parked: the saga goes on
SELECT saga.complete_compensation(test.key('halt', 'a'));
SELECT * FROM test.saga('halt') \gx
SELECT * FROM test.steps('halt');
SELECT event, step, detail FROM test.events('halt') WHERE position > 7;
SELECT saga.complete_compensation(test.key('never', 'a'));
SELECT state FROM saga.sagas WHERE id = test.id('never');
-- ... given up under "continue"
SELECT saga.complete_compensation(test.key('continue', 'b'));
SELECT * FROM test.saga('continue') \gx
SELECT * FROM test.steps('continue');
-- ... the same with SQL to come, and while the others are not done
SELECT test.begin('goes on') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', notify => 'l_goes_on');
SELECT status FROM saga.step(:'id', 'c', notify => 'l_goes_on', compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.fail(:'id');
CALL test.until_dispatched('goes on');
SELECT saga.fail_compensation(test.key('goes on', step), attempt, 'no') FROM test.claim('l_goes_on');
SELECT saga.wait(:'id');
SELECT saga.complete_compensation(test.key('goes on', 'c'));
SELECT state FROM saga.sagas WHERE id = :'id';
CALL test.until_dispatched('goes on');
SELECT test.done('goes on', step) FROM test.claim('l_goes_on');
SELECT saga.wait(:'id');
SELECT test.undone('goes on');
SELECT test.begin('goes on anyway', on_compensation_failure => 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'l_anyway');
SELECT status FROM saga.step(:'id', 'b', notify => 'l_anyway');
SELECT saga.fail(:'id');
CALL test.until_dispatched('goes on anyway');
SELECT saga.fail_compensation(test.key('goes on anyway', step), attempt, 'no', false) FROM test.claim('l_anyway');
CALL test.until_dispatched('goes on anyway');
SELECT saga.complete_compensation(test.key('goes on anyway', 'b'));
SELECT * FROM test.steps('goes on anyway');
SELECT test.done('goes on anyway', step) FROM test.claim('l_anyway');
SELECT state FROM saga.sagas WHERE id = :'id';
-- ... parked for something else, too: that stays to be decided
SELECT test.begin('parked otherwise', on_compensation_failure => 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'look', review => 'look');
SELECT status FROM saga.step(:'id', 'a', notify => 'l_otherwise');
SELECT saga.fail(:'id');
CALL test.until_dispatched('parked otherwise');
SELECT saga.fail_compensation(test.key('parked otherwise', step), attempt, 'no', false) FROM test.claim('l_otherwise');
SELECT saga.wait(:'id');
SELECT saga.complete_compensation(test.key('parked otherwise', 'a'));
SELECT * FROM test.saga('parked otherwise') \gx
-- ... dispatched again, unclaimed
SELECT test.listen('again', 'l_again') AS id \gset
CALL test.fail('again');
SELECT * FROM test.claim('l_again', consumer => 'one');
SELECT saga.fail_compensation(test.key('again', 'a'), 1, 'timeout, or so it seemed');
CALL test.until_dispatched('again');
SELECT saga.complete_compensation(test.key('again', 'a'));
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.claim('l_again');
SELECT * FROM test.attempts('again');
-- ... held by another consumer, who is told by the answers
SELECT test.listen('held', 'l_held') AS id \gset
CALL test.fail('held');
SELECT * FROM test.claim('l_held', consumer => 'one');
SELECT saga.fail_compensation(test.key('held', 'a'), 1, 'timeout, or so it seemed');
CALL test.until_dispatched('held');
SELECT * FROM test.claim('l_held', consumer => 'two');
-- a failure report of the first is stale now, and changes nothing
SELECT test.picture('held') AS before \gset
SELECT saga.fail_compensation(test.key('held', 'a'), 1, 'no');
SELECT saga.fail_compensation(test.key('held', 'a'), 1, 'no', retryable => false);
CALL test.refuses(format('SELECT saga.extend_claim(%L, 1, %L)', test.key('held', 'a'), '1 minute'));
CALL test.refuses(format('SELECT saga.extend_claim(%L, 3, %L)', test.key('held', 'a'), '1 minute'));
CALL test.refuses(format('SELECT saga.fail_compensation(%L, 3, %L)', test.key('held', 'a'), 'no'));
SELECT test.picture('held') = :'before' AS unchanged;
SELECT saga.complete_compensation(test.key('held', 'a'));
SELECT saga.fail_compensation(test.key('held', 'a'), 2, 'two');
SELECT saga.complete_compensation(test.key('held', 'a'));
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.attempts('held');
SELECT attempt, consumer FROM saga.attempts WHERE saga_id = :'id' AND phase = 'compensation' ORDER BY 1;
-- ... never claimed: whoever has done it may say so
SELECT test.listen('by hand', 'l_by_hand') AS id \gset
CALL test.fail('by hand');
SELECT saga.complete_compensation(test.key('by hand', 'a'), '"by hand"');
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.attempts('by hand');
SELECT event, step, detail FROM test.events('by hand') WHERE position > 3;
SELECT * FROM test.claim('l_by_hand');

-- Fire and forget: the committed notification is all.
SELECT test.begin('forget') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', notify => 'l_forget', acknowledge => false);
SELECT status FROM saga.step(:'id', 'c', notify => 'l_forget');
SELECT saga.fail(:'id');
CALL test.until_dispatched('forget');
CALL test.refuses(format('SELECT saga.complete_compensation(%L)', test.key('forget', 'b')));
SELECT test.done('forget', step) FROM test.claim('l_forget');
SELECT saga.wait(:'id');
SELECT * FROM test.steps('forget');
SELECT * FROM test.attempts('forget');
SELECT * FROM test.events('forget');
SELECT * FROM test.claim('l_forget');
SELECT * FROM test.waiting('forget');
SELECT saga.complete_compensation(test.key('forget', 'b'));
SELECT saga.fail_compensation(test.key('forget', 'b'), 1, 'no');

-- Several owners on one channel take turns.
CREATE ROLE regress_saga_a LOGIN;
CREATE ROLE regress_saga_b LOGIN;
CREATE ROLE regress_saga_c LOGIN;
CREATE ROLE regress_saga_all LOGIN IN ROLE regress_saga_a, regress_saga_b, regress_saga_c;
GRANT USAGE ON SCHEMA saga TO regress_saga_a, regress_saga_b, regress_saga_c;
CREATE FUNCTION test.flood(prefix text, count integer) RETURNS bigint LANGUAGE sql AS $$
  SELECT count(st) FROM generate_series(1, count) n, LATERAL saga.begin(prefix || n) s,
    LATERAL saga.step(s, 'a', notify => 'l_owners') st, LATERAL saga.fail(s)
$$;
SET ROLE regress_saga_a;
SELECT test.flood('a', 5);
SET ROLE regress_saga_b;
SELECT test.flood('b', 2);
SET ROLE regress_saga_c;
SELECT test.flood('c', 1);
RESET ROLE;
CALL test.wait_until('SELECT count(*) = 8 FROM saga.pending_compensations WHERE channel = ''l_owners''');
CREATE FUNCTION test.claim_names(max_claims integer) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(context #>> '{saga,name}', ' ' ORDER BY context #>> '{saga,name}')
  FROM saga.claim_compensations('l_owners', max_claims)
$$;
SET ROLE regress_saga_all;
BEGIN;
SELECT test.claim_names(3);
SELECT test.claim_names(3);
SELECT test.claim_names(3);
ROLLBACK;
SET ROLE regress_saga_b;
SELECT test.claim_names(8);
RESET ROLE;
SELECT test.claim_names(8);
SELECT count(saga.complete_compensation(compensation_key)) FROM saga.pending_compensations WHERE channel = 'l_owners';
DROP ROLE regress_saga_all;
DROP OWNED BY regress_saga_a, regress_saga_b, regress_saga_c;
DROP ROLE regress_saga_a, regress_saga_b, regress_saga_c;

CALL test.check();
