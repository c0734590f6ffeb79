-- Step-level memory: an application that crashed runs again from the top, and
-- repeats nothing that completed.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

CREATE TABLE test.effect (n bigint GENERATED ALWAYS AS IDENTITY, what text);

-- An application of three steps that crashes where it is told to.
CREATE PROCEDURE test.application(crash_in text, fail_in text DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
  s uuid := saga.begin('memory', 'run');
  st saga.step_result;
  step_key text;
BEGIN
  COMMIT;
  FOREACH step_key IN ARRAY '{reserve,charge,ship}'::text[] LOOP
    st := saga.step(s, step_key, compensation => 'SELECT 1', args => '{"n": 1}');
    COMMIT;
    RAISE INFO '% is %, attempt %, output %', st.step, st.status, st.attempt, st.output;
    CONTINUE WHEN st.status = 'completed';
    IF step_key = crash_in THEN
      RAISE INFO 'crash';
      RETURN;
    END IF;
    INSERT INTO test.effect (what) VALUES (step_key);
    IF step_key = fail_in THEN
      st := saga.fail_step(s, step_key, 'the far side said no');
      RAISE INFO '% is %, attempt %, error %, retry_at %', st.step, st.status, st.attempt, st.error,
        test.mask(st.retry_at::text);
      COMMIT;
      RETURN;
    END IF;
    st := saga.complete_step(s, step_key, jsonb_build_object('done', step_key));
    COMMIT;
  END LOOP;
  RAISE INFO 'saga is %', saga.complete(s, '"all"');
END $$;

CALL test.application('charge');
CALL test.application('charge');
CALL test.application('ship', 'charge');
CALL test.application('ship');
CALL test.application('nowhere');
-- on a completed saga, too
CALL test.application('nowhere');
SELECT what FROM test.effect ORDER BY n;

-- Each attempt is there, numbered without gaps.
SELECT s.key, s.status, a.phase, a.attempt, a.outcome, a.error,
  a.started_at IS NOT NULL AS started, a.finished_at >= a.started_at AS finished
FROM saga.steps s JOIN saga.attempts a USING (saga_id, seq)
WHERE saga_id = saga.begin('memory', 'run') ORDER BY s.position, a.attempt;
SELECT key, status, attempts, error, output FROM saga.steps
WHERE saga_id = saga.begin('memory', 'run') ORDER BY position;
SELECT position, event, step, detail FROM saga.events
WHERE saga_id = saga.begin('memory', 'run') ORDER BY position;

-- The forward key is the same over every attempt.
SELECT saga.begin('memory') AS id \gset
SELECT forward_key AS k FROM saga.step(:'id', 'a') \gset
SELECT forward_key = :'k' AS same, attempt FROM saga.step(:'id', 'a');
SELECT forward_key = :'k' AS same, attempt, status FROM saga.fail_step(:'id', 'a', 'e', forward_key => :'k');
SELECT forward_key = :'k' AS same, attempt, status, error FROM saga.step(:'id', 'a');
SELECT forward_key = :'k' AS same, attempt, status FROM saga.complete_step(:'id', 'a', forward_key => :'k');
SELECT forward_key = :'k' AS same, attempt, status FROM saga.step(:'id', 'a');

-- A forward key must be that of the newest run.
SELECT status FROM saga.step(:'id', 'b');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, forward_key => %L)', :'id', 'b', :'k'));
CALL test.refuses(format('SELECT saga.fail_step(%L, %L, %L, forward_key => %L)', :'id', 'b', 'e', 'nonsense'));

-- Within one transaction, the same attempt
BEGIN;
SELECT status, attempt FROM saga.step(:'id', 'c');
SELECT status, attempt FROM saga.step(:'id', 'c');
SELECT status, attempt, output FROM saga.step(:'id', 'c', output => '1');
SELECT status, attempt, output FROM saga.step(:'id', 'c');
COMMIT;
BEGIN;
SELECT status, attempt FROM saga.step(:'id', 'b');
SAVEPOINT s;
SELECT status, attempt FROM saga.step(:'id', 'b');
ROLLBACK TO s;
SELECT status, attempt FROM saga.step(:'id', 'b');
COMMIT;
SELECT status, attempt FROM saga.step(:'id', 'b');
-- ... but a failure within it ends that attempt
BEGIN;
SELECT status, attempt FROM saga.fail_step(:'id', 'b', 'first');
SELECT status, attempt, error FROM saga.step(:'id', 'b');
SELECT status, attempt FROM saga.step(:'id', 'b');
SELECT status, attempt FROM saga.fail_step(:'id', 'b', 'second');
COMMIT;
SELECT s.key, a.attempt, a.outcome, a.error FROM saga.steps s JOIN saga.attempts a USING (saga_id, seq)
WHERE saga_id = :'id' ORDER BY s.position, a.attempt;
-- A rolled back attempt was never made.
BEGIN;
SELECT status, attempt FROM saga.step(:'id', 'b');
ROLLBACK;
SELECT status, attempt FROM saga.step(:'id', 'b');

-- A failure said twice is one; the answer is the first one's.
SELECT status, attempt, error FROM saga.fail_step(:'id', 'b', 'third');
SELECT status, attempt, error FROM saga.fail_step(:'id', 'b', 'again');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'b'));
CALL test.refuses(format('SELECT saga.fail_step(%L, %L, %L)', :'id', 'a', 'e'));

-- When to try again: from the policy, or never
SELECT saga.begin('memory') AS id \gset
SELECT status FROM saga.step(:'id', 'a', retry => saga.retry_policy(3, '1 hour', 'linear', '90 minutes', 0));
SELECT retry_at - clock_timestamp() BETWEEN '59 minutes' AND '1 hour' AS in_an_hour FROM saga.fail_step(:'id', 'a', 'e');
SELECT attempt, retry_at FROM saga.step(:'id', 'a');
SELECT retry_at - clock_timestamp() BETWEEN '89 minutes' AND '90 minutes' AS capped FROM saga.fail_step(:'id', 'a', 'e');
SELECT attempt FROM saga.step(:'id', 'a');
SELECT status, attempt, retry_at AS exhausted FROM saga.fail_step(:'id', 'a', 'e');
-- the application may do it again all the same
SELECT status, attempt FROM saga.step(:'id', 'a');
SELECT status, retry_at AS exhausted FROM saga.fail_step(:'id', 'a', 'e');
SELECT status FROM saga.step(:'id', 'b');
SELECT status, retry_at AS final FROM saga.fail_step(:'id', 'b', 'no such card', retryable => false);
-- and a caught error undoes nothing
SELECT state, failure_kind, next_action FROM saga.sagas WHERE id = :'id';

-- complete refuses while a step is open, and names it.
SELECT saga.begin('memory') AS id \gset
SELECT status FROM saga.step(:'id', 'open', compensation => 'SELECT 1');
CALL test.refuses(format('SELECT saga.complete(%L)', :'id'));
CALL test.refuses(format('SELECT saga.complete(%L, ignore_failed => true)', :'id'));
SELECT status FROM saga.fail_step(:'id', 'open', 'e');
CALL test.refuses(format('SELECT saga.complete(%L)', :'id'));
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT saga.complete(:'id', ignore_failed => true);
SELECT status, attempt FROM saga.step(:'id', 'open', compensation => 'SELECT 1');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'open'));
-- A failed step with nothing to undo holds nothing up.
SELECT saga.begin('memory') AS id \gset
SELECT status FROM saga.step(:'id', 'harmless');
SELECT status FROM saga.fail_step(:'id', 'harmless', 'e');
SELECT saga.complete(:'id');
