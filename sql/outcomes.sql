-- What follows from a compensation that does not simply succeed, and what the
-- undo does at steps that are not simply undone.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

-- Retried until it succeeds; every attempt is there.
SELECT test.begin('retried') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 3)',
  compensation_retry => saga.retry_policy(delay => '10 ms', backoff => 'constant'));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('retried') \gx
SELECT * FROM test.attempts('retried');
SELECT * FROM test.steps('retried');
SELECT position, event, step, detail FROM test.events('retried') WHERE event LIKE 'comp%';

-- Exhausted under "halt": the walk stops there, and a person must decide.
SELECT test.begin('halt') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 99)',
  compensation_retry => saga.retry_policy(max_attempts => 2, delay => '10 ms'));
SELECT status FROM saga.step(:'id', 'c', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id', 'no stock');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('halt') \gx
SELECT requires_review, next_action_at, finished_at FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.steps('halt');
SELECT * FROM test.attempts('halt');
SELECT position, event, step, detail FROM test.events('halt') WHERE position > 4;

-- ... under "continue": recorded, and all the others are done.
SELECT test.begin('continue', 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 99)',
  compensation_retry => saga.retry_policy(max_attempts => 2, delay => '10 ms'));
SELECT status FROM saga.step(:'id', 'c', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'd', compensation => 'SELECT test.undo_after($1, 99, $$SG006$$)');
SELECT saga.fail(:'id', 'no stock');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('continue') \gx
SELECT * FROM test.steps('continue');
SELECT * FROM test.attempts('continue');
SELECT position, event, step, detail FROM test.events('continue') WHERE position > 5;

-- A person who is asked for stops both.
SELECT test.begin('continue to a person', 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', review => 'call the customer');
SELECT status FROM saga.step(:'id', 'c', compensation => 'SELECT test.undo_after($1, 99)',
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('continue to a person') \gx
SELECT * FROM test.steps('continue to a person');

-- saga.require: that nothing was there to be undone, said in SQL
SELECT saga.require(true, 'not said');
CALL test.refuses($$SELECT saga.require(false, 'no such seat')$$);
CALL test.refuses($$SELECT saga.require(NULL, 'no such seat')$$);
CALL test.refuses($$SELECT saga.require(false, NULL)$$);
CALL test.refuses($$SELECT saga.require(1 = 2, '100 %s')$$);
CREATE TABLE test.seat (flight text PRIMARY KEY, free int);
INSERT INTO test.seat VALUES ('LX8', 3);
CREATE FUNCTION test.give_back(flight text) RETURNS text LANGUAGE sql IMMUTABLE RETURN format($$
  WITH given_back AS (UPDATE test.seat SET free = free + 1 WHERE flight = $1->%s RETURNING 1)
  SELECT saga.require(count(*) = 1, 'no such flight') FROM given_back $$, flight);
SELECT test.begin('require') AS id \gset
SELECT status FROM saga.step(:'id', 'wrong', completed => true, args => '{"flight": "LX8"}', compensation => test.give_back($$>'flight'$$));
SELECT status FROM saga.step(:'id', 'right', completed => true, args => '{"flight": "LX8"}', compensation => test.give_back($$'args'->>'flight'$$));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT free FROM test.seat;
SELECT * FROM test.attempts('require');
SELECT saga.amend(:'id', 'wrong', 'it did not look into the args', compensation => test.give_back($$'args'->>'flight'$$));
SELECT saga.resolve(:'id', 'wrong', 'retry', 'now it does');
SELECT saga.wait(:'id');
SELECT free FROM test.seat;
SELECT event, step, detail FROM test.events('require') WHERE position > 7;
-- Without it: undone, but nothing touched; what does not say how many rows it touched is not suspected.
SELECT test.begin('touched nothing') AS id \gset
SELECT status FROM saga.step(:'id', 'do', completed => true, compensation => 'DO $$BEGIN NULL; END$$');
SELECT status FROM saga.step(:'id', 'wrong', completed => true, args => '{"flight": "LX8"}',
  compensation => $$UPDATE test.seat SET free = free + 1 WHERE flight = $1->>'flight'$$);
SELECT status FROM saga.step(:'id', 'right', completed => true, args => '{"flight": "LX8"}',
  compensation => $$UPDATE test.seat SET free = free + 1 WHERE flight = $1->'args'->>'flight'$$);
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.attempts('touched nothing');
SELECT step, detail FROM test.events('touched nothing') WHERE event = 'compensation succeeded';

-- SG006: parked at once, without another attempt
SELECT test.begin('do not retry') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo_after($1, 1, $$SG006$$)');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('do not retry') \gx
SELECT * FROM test.attempts('do not retry');

-- SG007: asked again, and not charged
SELECT test.begin('later') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo_after($1, 4, $$SG007$$)',
  compensation_retry => saga.retry_policy(max_attempts => 1, delay => '10 ms', backoff => 'constant'));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('later') \gx
SELECT * FROM test.attempts('later');

-- Serialization failures, deadlocks and lock timeouts are not charged either.
SELECT test.begin('conflicts') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo_after($1, 2, $$40001$$)',
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 2, $$40P01$$)',
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'id', 'c', compensation => 'SELECT test.undo_after($1, 2, $$55P03$$)',
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('conflicts') \gx
SELECT * FROM test.attempts('conflicts');

-- An attempt that takes too long
SELECT test.begin('too long') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1); SELECT pg_sleep(60)',
  compensation_retry => saga.retry_policy(max_attempts => 1, timeout => '50 ms'));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('too long') \gx
SELECT * FROM test.attempts('too long');

-- Errors of many kinds, and nothing that was done before them stays.
CREATE TABLE test.parent (id integer PRIMARY KEY);
CREATE TABLE test.child (id integer REFERENCES test.parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION test.call_saga(call text, context jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text;
BEGIN
  EXECUTE format(call, context #>> '{saga,id}') INTO answer;
  RETURN answer;
END $$;
CREATE PROCEDURE test.fails(key text, compensation text) LANGUAGE plpgsql AS $$
DECLARE
  s uuid := test.begin(key);
BEGIN
  PERFORM saga.step(s, 'a', compensation => compensation, compensation_retry => saga.retry_policy(max_attempts => 1));
  PERFORM saga.fail(s);
  COMMIT;
  PERFORM saga.wait(s);
END $$;
CALL test.fails('no such table', 'SELECT test.undo($1); DELETE FROM test.no_such_table');
CALL test.fails('commit in DO', 'SELECT test.undo($1); DO $$BEGIN COMMIT; END$$');
CALL test.fails('vacuum', 'SELECT test.undo($1); VACUUM');
CALL test.fails('copy', 'SELECT test.undo($1); COPY test.witness TO STDOUT');
CALL test.fails('deferred constraint', 'SELECT test.undo($1); INSERT INTO test.child VALUES (1)');
CALL test.fails('second parameter', 'SELECT test.undo($1); SELECT $2');
CALL test.fails('long message', 'SELECT test.undo($1); DO $$BEGIN RAISE EXCEPTION ''%'', repeat(''long '', 2000); END$$');
CALL test.fails('own fail', $$SELECT test.undo($1), test.call_saga('SELECT saga.fail(%L)', $1)$$);
CALL test.fails('own step', $$SELECT test.undo($1), test.call_saga('SELECT saga.step(%L, ''b'')', $1)$$);
CALL test.fails('own wait', $$SELECT test.undo($1), test.call_saga('SELECT saga.wait(%L)', $1)$$);
CALL test.fails('own result', $$SELECT test.undo($1), test.call_saga('SELECT saga.complete_step(%L, ''a'', late => ''record'')', $1)$$);
-- (From 19 on, VACUUM speaks of a function or procedure.)
SELECT n.name, state, sqlstate, left(e.text, 90) AS error, length(e.text) AS length, test.undone(n.name)
FROM test.named n JOIN saga.sagas s USING (id) JOIN saga.attempts a ON a.saga_id = id AND a.phase = 'compensation',
  replace(a.error, ' or procedure', '') AS e(text)
WHERE n.name IN ('no such table', 'commit in DO', 'vacuum', 'copy', 'deferred constraint', 'second parameter',
  'long message', 'own fail', 'own step', 'own wait', 'own result') ORDER BY id;

-- A compensation may begin another saga, and fail it.
SELECT test.begin('begins another') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => $$
  SELECT saga.fail(t.saga_id) FROM saga.begin('another', 'by compensation') s,
    LATERAL saga.step(s, 'x', compensation => 'SELECT 1') t; SELECT test.undo($1)$$);
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT saga.wait(saga.begin('another', 'by compensation'));

-- Steps for a person, and steps for listeners: parked, with the reason
SELECT test.begin('review') AS id \gset
SELECT status FROM saga.step(:'id', 'first', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'asked', review => 'has the parcel left?', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'last', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('review') \gx
SELECT * FROM test.steps('review');
SELECT position, event, step, detail FROM test.events('review') WHERE position > 4;
SELECT test.begin('review alone') AS id \gset
SELECT status FROM saga.step(:'id', 'by hand', review => 'send the paper back');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('review alone') \gx
SELECT test.begin('notify') AS id \gset
SELECT status FROM saga.step(:'id', 'outside', notify => 'outcomes');
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT compensation_status = %L FROM saga.steps WHERE saga_id = %L', 'dispatched', :'id'));
SELECT saga.wait(:'id', '0');
SELECT * FROM test.saga('notify') \gx
SELECT * FROM test.steps('notify');
SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('outcomes');
SELECT * FROM test.steps('notify');

-- After a completed pivot a failure parks, and undoes nothing.
SELECT test.begin('pivot') AS id \gset
SELECT status FROM saga.step(:'id', 'before', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'pivot', kind => 'pivot', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'after', kind => 'retriable');
SELECT status FROM saga.fail_step(:'id', 'after', 'not yet');
SELECT saga.fail(:'id', 'gave up');
SELECT * FROM test.saga('pivot') \gx
SELECT requires_review FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.steps('pivot');
SELECT position, event, step, detail FROM test.events('pivot') WHERE position > 7;
-- A pivot that did not complete is a step like others.
SELECT test.begin('open pivot') AS id \gset
SELECT status FROM saga.step(:'id', 'before', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'pivot', kind => 'pivot', compensation => 'SELECT test.undo($1)');
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('open pivot');

-- A retriable step is never undone.
SELECT test.begin('retriable') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'r', kind => 'retriable', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'r2', kind => 'retriable', review => 'never asked');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.steps('retriable');

-- compensate_on: started (the default) or completed
SELECT test.begin('compensate_on') AS id \gset
SELECT status FROM saga.step(:'id', 's started', compensate_on => 'started', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 's failed', compensate_on => 'started', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 's completed', compensate_on => 'started', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'c started', compensate_on => 'completed', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'c failed', compensate_on => 'completed', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'c completed', compensate_on => 'completed', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'c review', compensate_on => 'completed', review => 'not started');
SELECT status FROM saga.fail_step(:'id', 's failed', 'e');
SELECT status FROM saga.fail_step(:'id', 'c failed', 'e');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.steps('compensate_on');
SELECT test.undone('compensate_on');
-- nothing but such steps: compensated at once
SELECT test.begin('only passed over') AS id \gset
SELECT status FROM saga.step(:'id', 'c started', compensate_on => 'completed', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'r', kind => 'retriable', compensation => 'SELECT test.undo($1)', completed => true);
SELECT saga.fail(:'id');
SELECT * FROM test.steps('only passed over');

-- No attempt is missing, anywhere.
SELECT saga_id, seq, phase, count(*), max(attempt) FROM saga.attempts GROUP BY 1, 2, 3 HAVING count(*) <> max(attempt);
-- Whatever failed is compensated, or parked with a reason.
SELECT n.name, state, next_action FROM saga.sagas JOIN test.named n USING (id)
WHERE failure_kind IS NOT NULL AND state <> 'compensated' AND (state <> 'needs_review' OR next_action = 'a person must decide');
