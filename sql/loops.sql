-- Actions that ask to be run again: each round committed once, with its state, and the attempt goes on.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\i sql/include/clock.sql
-- One round: what it was, with its state; and again, with one more, until the last.
CREATE FUNCTION test.round(context jsonb, last integer, delay interval DEFAULT '0') RETURNS text LANGUAGE sql VOLATILE AS $$
  INSERT INTO test.did (saga, step, what) VALUES ((context #>> '{saga,id}')::uuid, context #>> '{step,key}',
    format('round %s, attempt %s, state %s', context ->> 'round', context ->> 'attempt', context ->> 'state'));
  SELECT saga.again($3, to_jsonb((context ->> 'round')::integer)) WHERE (context ->> 'round')::integer < last;
  SELECT 'over after ' || (context ->> 'round')
$$;
-- A round that fails so often, at so many attempts
CREATE FUNCTION test.round_after(context jsonb, last integer, fails_in integer, failures integer, code text DEFAULT 'P0001') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF (context ->> 'round')::integer = fails_in AND (context ->> 'attempt')::integer <= failures THEN
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = format('round %s, attempt %s', context ->> 'round', context ->> 'attempt');
  END IF;
  RETURN test.round(context, last);
END $$;
CREATE FUNCTION test.undo_rounds(context jsonb) RETURNS void LANGUAGE sql AS $$
  INSERT INTO test.did (saga, step, what) VALUES ((context #>> '{saga,id}')::uuid, context #>> '{step,key}',
    format('undone after %s rounds, state %s, output %s', context ->> 'rounds', context ->> 'state', context #>> '{step,output}'))
$$;
CREATE FUNCTION test.rounds(key text) RETURNS TABLE (step text, run integer, status text, attempts integer, rounds bigint, output jsonb, compensation text, waits_for text)
LANGUAGE sql STABLE AS $$
  SELECT s.key, s.run, s.status, s.attempts, s.rounds, s.output, s.compensation_status, test.mask(s.waits_for)
  FROM saga.steps s WHERE saga_id = test.id($1) ORDER BY min(s.seq) OVER (PARTITION BY s.key), s.run
$$;
\set ECHO all

-- A loop with a state, and what comes after it
BEGIN;
SELECT test.begin('loop') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => 'SELECT test.round($1, 4)');
SELECT status FROM saga.step(:'id', 'after', action => 'SELECT $1 -> ''outputs''');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('loop');
SELECT what FROM test.did WHERE saga = :'id' ORDER BY n;
-- one attempt, no event, nothing left
SELECT * FROM test.forward_attempts('loop');
SELECT * FROM test.events('loop');
SELECT count(*) FROM saga.ledger_due WHERE saga = :'id';
SELECT round_state FROM saga.ledger_step WHERE saga = :'id' AND key = 'loop';

-- What is asked for is the transaction's, and a savepoint's that is kept; the last counts.
BEGIN;
SELECT test.begin('savepoints') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => $a$
  DO $$
  BEGIN
    PERFORM saga.again(state => '"first"');
    BEGIN
      PERFORM saga.again('1 day', '"kept, replaced"');
      PERFORM saga.again(state => '"kept"');
      BEGIN
        PERFORM saga.again('1 day', '"rolled back"');
        PERFORM 1/0;
      EXCEPTION WHEN division_by_zero THEN
        NULL;
      END;
    END;
    BEGIN
      BEGIN
        PERFORM saga.again('1 day', '"released, then rolled back"');
      EXCEPTION WHEN division_by_zero THEN
        NULL;
      END;
      PERFORM 1/0;
    EXCEPTION WHEN division_by_zero THEN
      NULL;
    END;
  END $$;
  INSERT INTO test.did (saga, step, what) SELECT saga.current(), 'loop', ($1 -> 'state')::text WHERE $1 ->> 'round' = '2';
  SELECT saga.require($1 ->> 'round' = '1', 'enough') $a$, retry => saga.retry_policy(max_attempts => 1), on_failure => 'skip');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('savepoints');
SELECT round_state FROM saga.ledger_step WHERE saga = :'id' AND key = 'loop';
-- only what was rolled back asked: it is over
BEGIN;
SELECT test.begin('rolled back') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => $a$
  DO $$
  BEGIN
    PERFORM saga.again();
    PERFORM 1/0;
  EXCEPTION WHEN division_by_zero THEN
    NULL;
  END $$;
  SELECT 'once' $a$);
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('rolled back');

-- Only in an action
CALL test.refuses('SELECT saga.again()');
SELECT test.begin('compensation') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, compensation => 'SELECT saga.again()', compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT state = ''needs_review'' FROM saga.sagas WHERE id = %L', :'id'));
SELECT why FROM saga.review_queue WHERE saga_id = :'id';
SELECT saga.resolve(:'id', 'a', 'skip', 'enough');
-- with a time that there is, and a state that fits
SELECT test.begin('errors') AS id \gset
SELECT (saga.step(:'id', k, after => '{}', action => a, retry => saga.retry_policy(max_attempts => 1), on_failure => 'skip')).status FROM (VALUES
  (1, 'too far', 'SELECT saga.again(''200000000 days'')'),
  (2, 'too large', 'SELECT saga.again(state => to_jsonb(repeat(''x'', 2000000)))')) v (n, k, a) ORDER BY n;
SELECT s, (saga.wait_step(:'id', s)).error FROM unnest('{too far,too large}'::text[]) s;
SELECT step, status, parked FROM test.forward('errors');
-- NULLs, and times that are over: at once
SELECT (saga.step(:'id', k, after => '{}', action => format('SELECT %s WHERE $1 ->> ''round'' = ''1''', a))).status FROM (VALUES
  (1, 'nulls', 'saga.again(NULL, NULL, NULL)'),
  (2, 'negative', 'saga.again(''-1 day'')'),
  (3, 'over', 'saga.again(not_before => ''2020-01-01'')'),
  (4, 'long over', 'saga.again(''-1 day'', not_before => ''-infinity'')')) v (n, k, a) ORDER BY n;
SELECT s, (saga.wait_step(:'id', s)).status FROM unnest('{nulls,negative,over,long over}'::text[]) s;
SELECT step, status, rounds FROM test.rounds('errors');
-- the later of both; and never
SELECT (saga.step(:'id', k, after => '{}', action => format('SELECT %s WHERE $1 ->> ''round'' = ''1''', a))).status FROM (VALUES
  (1, 'delay later', 'saga.again(''2 days'', not_before => ''2026-01-01'')'),
  (2, 'moment later', 'saga.again(''1 day'', not_before => ''2120-01-01'')'),
  (3, 'never', 'saga.again(not_before => ''infinity'')')) v (n, k, a) ORDER BY n;
CALL test.until_waits_for('errors', 'delay later', '20%');
CALL test.until_waits_for('errors', 'moment later', '2120%');
CALL test.until_waits_for('errors', 'never', 'infinity');
SELECT key, status, rounds, ready_at BETWEEN s.started_at + interval '2 days' AND s.started_at + interval '3 days' AS in_two_days, ready_at = '2120-01-01' AS then
FROM saga.steps s WHERE saga_id = :'id' AND key LIKE '%later' ORDER BY key;
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');

-- Rounds with a delay are never early; the step says when.
SELECT test.begin('delay') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => 'SELECT test.round($1, 3, ''1 hour'')');
SELECT saga.complete(:'id', when_done => true);
CALL test.until_waits_for('delay', 'loop', '20%');
SELECT test.advance('59 minutes');
SELECT status FROM saga.wait_step(:'id', 'loop', '200 ms');
SELECT step, status, rounds, waits_for FROM test.rounds('delay');
SELECT regexp_replace(next_action, '20.*', 'WHEN') FROM saga.sagas WHERE id = :'id';
SELECT attempt, outcome, started_at IS NOT NULL AS started, finished_at FROM saga.attempts WHERE saga_id = :'id';
SELECT count(*) FROM saga.running WHERE saga_id = :'id';
SELECT count(*) FROM saga.ledger_due WHERE saga = :'id';
SELECT test.advance('1 minute');
CALL test.wait_until(format('SELECT rounds = 2 FROM saga.steps WHERE saga_id = %L', :'id'));
SELECT test.advance('61 minutes');
SELECT saga.wait(:'id');
SELECT step, status, attempts, rounds FROM test.rounds('delay');

-- A round that fails is tried again with the same state; after it, all attempts are there again.
BEGIN;
SELECT test.begin('retries') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', retry => saga.retry_policy(max_attempts => 2, delay => '10 ms'),
  action => 'SELECT CASE $1 ->> ''round'' WHEN ''2'' THEN test.round_after($1, 5, 2, 1) WHEN ''3'' THEN test.round_after($1, 5, 3, 2) ELSE test.round($1, 5) END');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('retries');
SELECT what FROM test.did WHERE saga = :'id' ORDER BY n;
SELECT * FROM test.forward_attempts('retries');
-- later and conflicts, too
BEGIN;
SELECT test.begin('free') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', retry => saga.retry_policy(max_attempts => 1, delay => '10 ms'),
  action => 'SELECT CASE $1 ->> ''round'' WHEN ''1'' THEN test.round_after($1, 3, 1, 1, ''SG007'') WHEN ''2'' THEN test.round_after($1, 3, 2, 2, ''40001'') ELSE test.round($1, 3) END');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('free');
SELECT attempt, outcome, sqlstate FROM test.forward_attempts('free');

-- Given up in a later round: what the rounds did is undone, although the step did not complete.
BEGIN;
SELECT test.begin('given up') AS id \gset
SELECT status FROM saga.step(:'id', 'before', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'loop', retry => saga.retry_policy(max_attempts => 1), action => 'SELECT test.round_after($1, 9, 3, 9)', compensation => 'SELECT test.undo_rounds($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('given up');
SELECT what FROM test.did WHERE saga = :'id' ORDER BY n;
SELECT * FROM test.saga('given up') \gx
-- in the first: nothing was done
SELECT test.begin('at once') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', retry => saga.retry_policy(max_attempts => 1), action => 'SELECT test.round_after($1, 9, 1, 9)', compensation => 'SELECT test.undo_rounds($1)');
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('at once');
SELECT count(*) FROM test.did WHERE saga = :'id';
-- canceled between two rounds, when it is known that it would be undone
SELECT test.begin('cancel') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => 'SELECT test.round($1, 9, ''1 hour'')', compensation => 'SELECT test.undo_rounds($1)');
CALL test.until_waits_for('cancel', 'loop', '20%');
SELECT position, step, action FROM saga.plan(:'id');
CALL test.refuses(format('SELECT saga.complete(%L)', :'id'));
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('cancel');
SELECT what FROM test.did WHERE saga = :'id' ORDER BY n;
-- completed, it is undone with its output
SELECT test.begin('completed') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => 'SELECT test.round($1, 2)', compensation => 'SELECT test.undo_rounds($1)');
SELECT status FROM saga.wait_step(:'id', 'loop');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT what FROM test.did WHERE saga = :'id' ORDER BY n;
-- a retriable loop is never undone
SELECT test.begin('retriable') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', kind => 'retriable', action => 'SELECT test.round($1, 9, ''1 hour'')', compensation => 'SELECT test.undo_rounds($1)');
CALL test.until_waits_for('retriable', 'loop', '20%');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('retriable');

-- It began with its first round: what began between two rounds is undone first.
SELECT test.begin('order') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => 'SELECT test.round($1, 2, ''1 hour'')', compensation => 'SELECT test.undo($1)');
CALL test.until_waits_for('order', 'loop', '20%');
SELECT status FROM saga.step(:'id', 'between', after => '{}', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.wait_step(:'id', 'between');
SELECT test.advance('61 minutes');
SELECT status FROM saga.wait_step(:'id', 'loop');
SELECT test.begun('order');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('order');

-- The timeout spans all rounds.
SELECT test.begin('timeout') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', timeout => '3 hours', action => 'SELECT test.round($1, 99, ''2 hours'')', compensation => 'SELECT test.undo_rounds($1)');
CALL test.until_waits_for('timeout', 'loop', '20%');
SELECT test.advance('121 minutes');
CALL test.wait_until(format('SELECT rounds = 2 FROM saga.steps WHERE saga_id = %L', :'id'));
SELECT test.advance('61 minutes');
SELECT saga.wait(:'id');
SELECT * FROM test.rounds('timeout');
SELECT what FROM test.did WHERE saga = :'id' ORDER BY n;

-- Paused between two rounds, it waits; resumed, it goes on where it was.
SELECT test.begin('paused') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => 'SELECT test.round($1, 3, ''1 hour'')');
CALL test.until_waits_for('paused', 'loop', '20%');
SELECT saga.pause(:'id', 'a while');
SELECT test.advance('2 hours');
SELECT status FROM saga.wait_step(:'id', 'loop', '200 ms');
SELECT step, status, rounds, waits_for FROM test.rounds('paused');
SELECT saga.resume(:'id', 'go on');
CALL test.wait_until(format('SELECT rounds = 2 FROM saga.steps WHERE saga_id = %L', :'id'));
SELECT test.advance('2 hours');
SELECT status FROM saga.wait_step(:'id', 'loop');
SELECT what FROM test.did WHERE saga = :'id' ORDER BY n;
SELECT saga.complete(:'id');

-- Parked in a round: "retry" goes on with that round, "done" and "skip" with what its rounds did.
SELECT test.begin('parked') AS id \gset
SELECT (saga.step(:'id', k, after => '{}', action => 'SELECT test.round_after($1, 3, 2, 1, ''42P01'')', compensation => 'SELECT test.undo_rounds($1)')).status FROM unnest('{retry,done,skip}'::text[]) k;
SELECT s, (saga.wait_step(:'id', s)).status FROM unnest('{retry,done,skip}'::text[]) s;
SELECT step, status, attempts, rounds, waits_for FROM test.rounds('parked');
SELECT saga.resolve(:'id', 'retry', 'retry', 'deployed');
SELECT saga.resolve(:'id', 'done', 'done', 'by hand', '"by hand"');
SELECT saga.resolve(:'id', 'skip', 'skip', 'not needed');
SELECT status, output FROM saga.wait_step(:'id', 'retry');
SELECT * FROM test.rounds('parked');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT step, what FROM test.did WHERE saga = :'id' ORDER BY step, n;

-- A rollback begins anew: with round 1 and no state.  What goes on keeps both.
SELECT test.begin('rollback') AS id \gset
SELECT status FROM saga.step(:'id', 'early', after => '{}', action => 'SELECT test.round($1, 3, ''1 hour'')');
CALL test.until_waits_for('rollback', 'early', '20%');
SELECT status FROM saga.step(:'id', 'sp', after => '{}', action => 'SELECT test.act($1)');
SELECT status FROM saga.wait_step(:'id', 'sp');
SELECT status FROM saga.step(:'id', 'late', after => '{sp}', action => 'SELECT test.round($1, 2, CASE $1 #>> ''{step,run}'' WHEN ''1'' THEN interval ''1 hour'' ELSE ''0'' END)', compensation => 'SELECT test.undo_rounds($1)');
CALL test.until_waits_for('rollback', 'late', '20%');
SELECT saga.rollback_to(:'id', 'sp');
CALL test.wait_until(format('SELECT status = ''completed'' FROM saga.steps WHERE saga_id = %L AND key = ''late'' AND run = 2', :'id'));
CALL test.until_waits_for('rollback', 'early', '20%');
SELECT step, run, status, rounds, waits_for FROM test.rounds('rollback');
SELECT test.advance('61 minutes');
CALL test.wait_until(format('SELECT rounds = 2 FROM saga.steps WHERE saga_id = %L AND key = ''early''', :'id'));
SELECT test.advance('61 minutes');
SELECT status FROM saga.wait_step(:'id', 'early');
SELECT * FROM test.rounds('rollback');
SELECT step, what FROM test.did WHERE saga = :'id' ORDER BY step, n;
SELECT saga.complete(:'id');

-- Rounds that record steps: these run while it goes on, and it is done with the last of them.
BEGIN;
SELECT test.begin('children') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => $$
  SELECT saga.again('1 hour') WHERE $1 ->> 'round' = '1';
  SELECT count((saga.step(saga.current(), 'child ' || ($1 ->> 'round') || n, after => CASE n WHEN 'b' THEN '{}'::text[] END, delay => CASE n WHEN 'c' THEN interval '1 ms' END,
    action => CASE n WHEN 'c' THEN NULL ELSE 'SELECT test.act($1)' END)).seq) FROM unnest('{a,b,c}'::text[]) n $$);
SELECT status FROM saga.step(:'id', 'after', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
CALL test.wait_until(format('SELECT rounds = 1 FROM saga.steps WHERE saga_id = %L AND key = ''loop''', :'id'));
SELECT s, (saga.wait_step(:'id', s)).status FROM unnest('{child 1a,child 1b,child 1c}'::text[]) s;
SELECT step, status, rounds FROM test.rounds('children');
SELECT test.advance('61 minutes');
SELECT saga.wait(:'id');
SELECT step, status, rounds FROM test.rounds('children');
SELECT step FROM test.did WHERE saga = :'id' ORDER BY n DESC LIMIT 1;

-- Known keys come to nothing more; another saga's calls are free.
SELECT test.begin('other') AS id \gset
SELECT status FROM saga.step(:'id', 'loop', action => $$
  SELECT saga.again() WHERE ($1 ->> 'round')::integer < 3;
  SELECT saga.complete(s) FROM saga.begin('from a round', $1 #>> '{saga,id}') s $$);
SELECT status FROM saga.wait_step(:'id', 'loop');
SELECT status, attempt, known FROM saga.step(:'id', 'loop', action => 'SELECT 1');
SELECT count(*) FROM saga.sagas WHERE name = 'from a round';
SELECT saga.complete(:'id');
CALL test.check_forward();
