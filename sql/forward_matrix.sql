-- Every call in every state of a saga that has a step which saga runs: what it answers, or how it refuses, and
-- what comes of it.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\set ECHO all

-- A compensation that is not done yet: its saga stays as it is for an hour.
CREATE FUNCTION test.later() RETURNS void LANGUAGE plpgsql
AS $$ BEGIN RAISE SQLSTATE 'SG007' USING MESSAGE = 'not yet'; END $$;

-- The states.  In each there are a savepoint of the application's, "base", and
-- "it", which saga runs; in some an open step of the application's, "gate".
CREATE TABLE test.state (n integer GENERATED ALWAYS AS IDENTITY, state text, what text);
INSERT INTO test.state (state, what) VALUES
  ('waiting', 'it waits for the gate'),
  ('delayed', 'it waits for its time'),
  ('asked', 'it waits for an approval'),
  ('acting', 'it is under way'),
  ('failed', 'it failed, and is tried again in an hour'),
  ('round', 'it did one round, and is to do another in an hour'),
  ('broken', 'it is parked, by an error of a deployment'),
  ('given up', 'it is parked: on_failure is review'),
  ('skipped', 'it is given up: on_failure is skip; "then" waits for its time'),
  ('done', 'it is completed'),
  ('sealed', 'it waits for the gate, and the saga is sealed'),
  ('paused', 'it could run, but the saga is paused'),
  ('failing', 'compensating; it was completed, and is not undone yet'),
  ('stuck', 'needs_review: it cannot be undone'),
  ('partial', 'compensating, back to base: it is not undone yet'),
  ('again', 'it was rolled back, and has run again'),
  ('completed', 'sealed, and all is done'),
  ('compensated', ''),
  ('pivot', 'needs_review: it was the pivot, and completed, before the saga failed'),
  ('abandoned', 'it could not be undone');

CREATE TABLE test.call (n integer GENERATED ALWAYS AS IDENTITY, call text, sql text);
INSERT INTO test.call (call, sql) VALUES
  ('step it', $$SELECT test.answer(test.record($1, $3))$$),
  ('step it, other args', $$SELECT test.answer(saga.step($1, 'it', action => 'SELECT test.act($1)', args => '1'))$$),
  ('step it, other action', $$SELECT test.answer(saga.step($1, 'it', action => 'SELECT 2', after => '{}'))$$),
  ('step it, by the application', $$SELECT test.answer(saga.step($1, 'it', output => '"mine"'))$$),
  ('step gate', $$SELECT test.answer(saga.step($1, 'gate'))$$),
  ('step new', $$SELECT test.answer(saga.step($1, 'new'))$$),
  ('step new, run by saga', $$SELECT test.answer(saga.step($1, 'new', action => 'SELECT 1', delay => '1 day'))$$),
  ('step new, after it', $$SELECT test.answer(saga.step($1, 'new', action => 'SELECT 1', after => '{it}', delay => '1 day'))$$),
  ('step new, after what is not there', $$SELECT test.answer(saga.step($1, 'new', after => '{never}'))$$),
  ('complete_step it', $$SELECT test.answer(saga.complete_step($1, 'it', '"mine"'))$$),
  ('record it', $$SELECT test.answer(saga.complete_step($1, 'it', '"late"', late => 'record'))$$),
  ('complete_step gate', $$SELECT test.answer(saga.complete_step($1, 'gate', '"open"'))$$),
  ('fail_step it', $$SELECT test.answer(saga.fail_step($1, 'it', 'e'))$$),
  ('complete', $$SELECT saga.complete($1)$$),
  ('complete, ignore_failed', $$SELECT saga.complete($1, ignore_failed => true)$$),
  ('complete, when_done', $$SELECT saga.complete($1, when_done => true)$$),
  ('fail', $$SELECT saga.fail($1, 'no')$$),
  ('cancel', $$SELECT saga.cancel($1, 'no')$$),
  ('rollback_to base', $$SELECT saga.rollback_to($1, 'base')$$),
  ('rollback_to it', $$SELECT saga.rollback_to($1, 'it')$$),
  ('rollback_to nothing', $$SELECT saga.rollback_to($1, NULL)$$),
  ('resolve it, retry', $$SELECT saga.resolve($1, 'it', 'retry', 'mended')$$),
  ('resolve it, done', $$SELECT saga.resolve($1, 'it', 'done', 'by hand')$$),
  ('resolve it, done with output', $$SELECT saga.resolve($1, 'it', 'done', 'by hand', '"by hand"')$$),
  ('resolve it, skip', $$SELECT saga.resolve($1, 'it', 'skip', 'not needed')$$),
  ('resolve it, skip with output', $$SELECT saga.resolve($1, 'it', 'skip', 'not needed', '1')$$),
  ('resolve it, approve', $$SELECT saga.resolve($1, 'it', 'approve', 'it may')$$),
  ('resolve it, refuse', $$SELECT saga.resolve($1, 'it', 'refuse', 'it may not')$$),
  ('resolve gate, approve', $$SELECT saga.resolve($1, 'gate', 'approve', 'it may')$$),
  ('abandon', $$SELECT saga.abandon($1, 'enough')$$),
  ('reopen', $$SELECT saga.reopen($1, 'on')$$),
  ('pause', $$SELECT saga.pause($1, 'wait')$$),
  ('resume', $$SELECT saga.resume($1, 'on')$$),
  ('set_timeout', $$SELECT CASE WHEN saga.set_timeout($1, '1 day') > clock_timestamp() THEN 'later' END$$),
  ('amend it', $$SELECT 'amended' FROM saga.amend($1, 'it', 'mended', compensation => 'SELECT test.undo($1, ''amended'')')$$),
  ('redact', $$SELECT 'redacted' FROM saga.redact($1)$$),
  ('find', $$SELECT CASE WHEN saga.find('forward matrix', $2) = $1 THEN 'that saga' ELSE 'nothing' END$$),
  ('output of it', $$SELECT COALESCE(saga.output('it', $1)::text, 'nothing')$$),
  ('plan', $$SELECT COALESCE((SELECT string_agg(concat_ws(' ', step, action), ', ' ORDER BY position) FROM saga.plan($1)), 'nothing')$$),
  ('wait', $$SELECT saga.wait($1, '0')$$),
  ('wait_step it', $$SELECT test.answer(saga.wait_step($1, 'it', '0'))$$);

CREATE FUNCTION test.answer(r saga.step_result) RETURNS text IMMUTABLE LANGUAGE sql
RETURN concat_ws(' ', (r).status, (r).attempt, (r).output, CASE WHEN (r).known THEN 'known' END);

-- "it", as the state wants it
CREATE FUNCTION test.record(id uuid, wanted text) RETURNS saga.step_result LANGUAGE sql AS $$
  SELECT saga.step(id, 'it',
    action => CASE wanted WHEN 'acting' THEN 'SELECT test.act_for_ever($1)' WHEN 'broken' THEN 'SELECT nowhere()'
      WHEN 'failed' THEN 'SELECT 1 / 0' WHEN 'skipped' THEN 'SELECT 1 / 0' WHEN 'given up' THEN 'SELECT 1 / 0'
      WHEN 'round' THEN 'SELECT test.act($1), saga.again(''1 hour'')' ELSE 'SELECT test.act($1)' END,
    retry => CASE WHEN wanted IN ('skipped', 'given up') THEN saga.retry_policy(max_attempts => 1)
      WHEN wanted = 'failed' THEN saga.retry_policy(delay => '1 hour', max_delay => '1 hour') END,
    delay => CASE wanted WHEN 'delayed' THEN interval '1 day' END, approval => CASE wanted WHEN 'asked' THEN 'may it?' END,
    on_failure => CASE wanted WHEN 'skipped' THEN 'skip' WHEN 'given up' THEN 'review' END,
    kind => CASE wanted WHEN 'pivot' THEN 'pivot' ELSE 'compensatable' END,
    compensation => CASE WHEN wanted IN ('failing', 'partial') THEN 'SELECT test.later()'
      WHEN wanted IN ('stuck', 'abandoned') THEN 'SELECT saga.require(false, ''cannot be undone'')'
      WHEN wanted <> 'pivot' THEN 'SELECT test.undo($1)' END,
    compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'))
$$;

-- Nothing is due of the saga, but the action that is to run for ever.
CREATE FUNCTION test.is_quiet(id uuid) RETURNS boolean LANGUAGE sql AS $$
  SELECT NOT EXISTS (
    SELECT FROM saga.ledger_due d JOIN saga.ledger_saga s ON s.id = d.saga
    WHERE d.saga = $1 AND d.due <= saga.internal_now() AND (d.seq <= 0 OR s.state = 'r') AND NOT (s.paused AND d.seq <> 0)
      AND NOT EXISTS (
        SELECT FROM saga.running r JOIN saga.ledger_step t ON t.saga = r.saga_id AND t.seq = r.seq
        WHERE r.saga_id = d.saga AND r.seq = d.seq AND r.phase = 'forward' AND t.action LIKE '%for_ever%'))
$$;
CREATE PROCEDURE test.quiet(id uuid) LANGUAGE plpgsql AS $$
BEGIN
  COMMIT;
  CALL test.wait_until(format('SELECT test.is_quiet(%L)', id));
END $$;

-- A saga in the state
CREATE PROCEDURE test.put(wanted text, key text, INOUT id uuid) LANGUAGE plpgsql AS $$
BEGIN
  id := saga.begin('forward matrix', key);
  PERFORM saga.step(id, 'base', completed => true, compensation => CASE WHEN wanted = 'compensated' THEN 'SELECT test.undo($1)' ELSE 'SELECT test.later()' END,
    compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
  IF wanted IN ('waiting', 'sealed') THEN
    PERFORM saga.step(id, 'gate');
  ELSIF wanted = 'paused' THEN
    PERFORM saga.pause(id, 'wait');
  END IF;
  PERFORM test.record(id, wanted);
  IF wanted = 'skipped' THEN
    PERFORM saga.step(id, 'then', action => 'SELECT test.act($1)', delay => '1 day');
  END IF;
  IF wanted IN ('sealed', 'completed') THEN
    PERFORM saga.complete(id, when_done => true);
  END IF;
  COMMIT;
  IF wanted = 'acting' THEN
    CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.running WHERE saga_id = %L', id));
  END IF;
  CALL test.quiet(id);
  IF wanted IN ('failing', 'stuck', 'compensated', 'pivot', 'abandoned') THEN
    PERFORM saga.fail(id, 'no');
  ELSIF wanted IN ('partial', 'again') THEN
    PERFORM saga.rollback_to(id, 'base');
  END IF;
  CALL test.quiet(id);
  IF wanted = 'abandoned' THEN
    PERFORM saga.abandon(id, 'enough');
    COMMIT;
  END IF;
END $$;

-- Where it is by then
CREATE FUNCTION test.of_it(id uuid) RETURNS text LANGUAGE sql AS $$
  SELECT concat_ws(' ', 'it', CASE WHEN run > 1 THEN 'run ' || run END, status, CASE WHEN parked IS NOT NULL THEN 'parked' END,
    CASE WHEN compensation_status NOT IN ('none', 'registered') THEN compensation_status END)
  FROM saga.steps WHERE saga_id = $1 AND key = 'it' ORDER BY run DESC LIMIT 1
$$;

CREATE TABLE test.cell (call text, state text, cell text, message text, detail text, hint text);

CREATE PROCEDURE test.fill() LANGUAGE plpgsql AS $$
DECLARE
  s record;
  c record;
  it uuid;
  key text;
  before text;
  it_before text;
  after text;
  answer text;
  words text;
  more text;
  advice text;
BEGIN
  FOR s IN SELECT * FROM test.state ORDER BY n LOOP
    FOR c IN SELECT * FROM test.call ORDER BY n LOOP
      key := s.state || ' ' || c.call;
      CALL test.put(s.state, key, it);
      SELECT state, test.of_it(v.id) INTO before, it_before FROM saga.sagas v WHERE v.id = it;
      words := NULL;
      more := NULL;
      advice := NULL;
      COMMIT;
      -- Who would wait for the end of the action is not to.
      PERFORM set_config('lock_timeout', CASE s.state WHEN 'acting' THEN '2s' ELSE '0' END, true);
      BEGIN
        EXECUTE c.sql INTO answer USING it, key, s.state;
      EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS answer = RETURNED_SQLSTATE, words = MESSAGE_TEXT,
          more = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT;
      END;
      CALL test.quiet(it);
      SELECT state INTO after FROM saga.sagas v WHERE v.id = it;
      IF after <> before AND after <> answer THEN
        answer := answer || ', then ' || after;
      END IF;
      IF test.of_it(it) <> it_before THEN
        answer := answer || '; ' || test.of_it(it);
      END IF;
      INSERT INTO test.cell VALUES (c.call, s.state, answer, replace(words, key, '<key>'), more, advice);
      -- Nothing runs for ever.
      IF s.state = 'acting' AND after = 'running' THEN
        PERFORM saga.resume(it);
        PERFORM saga.cancel(it);
        CALL test.quiet(it);
      END IF;
    END LOOP;
  END LOOP;
END $$;

SET client_min_messages = warning;
CALL test.fill();
RESET client_min_messages;

-- The states are what they should be.
SELECT s.state, v.state AS is, v.failure_kind, string_agg(concat_ws(' ', t.key, t.status, t.compensation_status), ', ' ORDER BY t.seq) AS steps
FROM test.state s JOIN saga.sagas v ON v.name = 'forward matrix' AND v.idempotency_key = s.state || ' wait'
  JOIN saga.steps t ON t.saga_id = v.id
WHERE s.state <> 'acting'
GROUP BY s.n, 1, 2, 3 ORDER BY s.n;
SELECT s.state, test.mask(t.waits_for) AS waits_for
FROM test.state s JOIN saga.sagas v ON v.name = 'forward matrix' AND v.idempotency_key = s.state || ' wait'
  JOIN saga.steps t ON t.saga_id = v.id AND t.key = 'it' AND t.waits_for IS NOT NULL
ORDER BY s.n;

\i sql/include/matrix.sql

-- What redaction, and a person's word, left of it
SELECT s.state, c.call, t.run, t.status, t.output, t.error
FROM test.state s CROSS JOIN test.call c
  JOIN saga.sagas v ON v.name = 'forward matrix' AND v.idempotency_key = s.state || ' ' || c.call
  JOIN saga.steps t ON t.saga_id = v.id AND t.key = 'it'
WHERE c.call LIKE 'redact' AND v.state IN ('completed', 'compensated', 'abandoned')
  OR c.call ~ 'done' AND t.status = 'completed' AND s.state IN ('broken', 'given up', 'stuck')
ORDER BY s.n, c.n, t.run;
