-- Every call in every state: what it answers, or how it refuses.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

-- A compensation that is not done yet: its saga stays as it is for an hour.
CREATE FUNCTION test.later() RETURNS void LANGUAGE plpgsql
AS $$ BEGIN RAISE SQLSTATE 'SG007' USING MESSAGE = 'not yet'; END $$;

-- The states.  In each there is a step that is open (started), one that
-- failed, and one that is done; what differs is said here.
CREATE TABLE test.state (n integer GENERATED ALWAYS AS IDENTITY, state text, what text);
INSERT INTO test.state (state, what) VALUES
  ('running', ''),
  ('closable', 'running, with all steps completed'),
  ('completed', 'all steps completed, but the failed one is left failed on purpose'),
  ('compensating', 'failed; the step that started last is not compensated yet'),
  ('partial', 'compensating, back to a savepoint: the saga has not failed'),
  ('compensated', ''),
  ('pivot', 'needs_review: failed after its pivot had completed'),
  ('review', 'needs_review: the step that started last wants a person to look'),
  ('abandoned', ''),
  ('dispatched', 'compensating; the step that started last waits for a listener'),
  ('claimed', 'compensating; a listener holds the step that started last'),
  ('lease over', 'compensating; the one that held it said nothing in time, and it is to be dispatched again'),
  ('again', 'compensating; it was dispatched again'),
  ('given up', 'needs_review: a listener said that it cannot be done'),
  ('acknowledged', 'compensated, the step that started last by a listener'),
  ('forgotten', 'compensated, that step by a notification alone'),
  ('unknown', 'no such saga');

CREATE TABLE test.call (n integer GENERATED ALWAYS AS IDENTITY, call text, sql text);
INSERT INTO test.call (call, sql) VALUES
  ('begin', $$SELECT CASE WHEN saga.begin('matrix', $2, '1') = $1 THEN 'that saga' ELSE 'a new saga' END$$),
  ('start', $$SELECT CASE WHEN saga.start('matrix', $2, '1') = $1 THEN 'that saga' ELSE 'a new saga' END$$),
  ('begin, other input', $$SELECT CASE WHEN saga.begin('matrix', $2, '2') = $1 THEN 'that saga' ELSE 'a new saga' END$$),
  ('step open', $$SELECT test.answer(saga.step($1, 'open', compensation => 'SELECT test.undo($1)'))$$),
  ('step failed', $$SELECT test.answer(saga.step($1, 'failed', compensation => 'SELECT test.undo($1)'))$$),
  ('step done', $$SELECT test.answer(saga.step($1, 'done', compensation => 'SELECT test.undo($1)'))$$),
  ('step done, other args', $$SELECT test.answer(saga.step($1, 'done', compensation => 'SELECT test.undo($1)', args => '1'))$$),
  ('step new', $$SELECT test.answer(saga.step($1, 'new'))$$),
  ('step new, completed', $$SELECT test.answer(saga.step($1, 'new', output => '"new"'))$$),
  ('complete_step open', $$SELECT test.answer(saga.complete_step($1, 'open', '"result"'))$$),
  ('complete_step failed', $$SELECT test.answer(saga.complete_step($1, 'failed', '"result"'))$$),
  ('complete_step done', $$SELECT test.answer(saga.complete_step($1, 'done', '"done"'))$$),
  ('complete_step done, other output', $$SELECT test.answer(saga.complete_step($1, 'done', '"other"'))$$),
  ('complete_step new', $$SELECT test.answer(saga.complete_step($1, 'new'))$$),
  ('record open', $$SELECT test.answer(saga.complete_step($1, 'open', '"late"', late => 'record'))$$),
  ('record failed', $$SELECT test.answer(saga.complete_step($1, 'failed', '"late"', late => 'record'))$$),
  ('record done', $$SELECT test.answer(saga.complete_step($1, 'done', '"done"', late => 'record'))$$),
  ('record new', $$SELECT test.answer(saga.complete_step($1, 'new', late => 'record'))$$),
  ('fail_step open', $$SELECT test.answer(saga.fail_step($1, 'open', 'e'))$$),
  ('fail_step failed', $$SELECT test.answer(saga.fail_step($1, 'failed', 'e'))$$),
  ('fail_step done', $$SELECT test.answer(saga.fail_step($1, 'done', 'e'))$$),
  ('fail_step new', $$SELECT test.answer(saga.fail_step($1, 'new', 'e'))$$),
  ('complete', $$SELECT saga.complete($1)$$),
  ('complete, ignore_failed', $$SELECT saga.complete($1, ignore_failed => true)$$),
  ('fail', $$SELECT saga.fail($1)$$),
  ('cancel', $$SELECT saga.cancel($1)$$),
  ('claim', $$SELECT COALESCE((SELECT 'attempt ' || attempt FROM saga.claim_compensations(test.channel($2))), 'nothing')$$),
  ('extend_claim last', $$SELECT CASE WHEN saga.extend_claim(test.last_key($1), 1, '2 minutes') > clock_timestamp() THEN 'later' END$$),
  ('complete_compensation last', $$SELECT saga.complete_compensation(test.last_key($1))$$),
  ('complete_compensation done', $$SELECT saga.complete_compensation(test.last_key($1, 'done'))$$),
  ('fail_compensation last', $$SELECT saga.fail_compensation(test.last_key($1), 1, 'no', retry_after => '1 hour')$$),
  ('fail_compensation next', $$SELECT saga.fail_compensation(test.last_key($1), 2, 'no', retry_after => '1 hour')$$),
  ('step new, run by saga', $$SELECT test.answer(saga.step($1, 'new', action => 'SELECT 1', delay => '1 day'))$$),
  ('step new, after one', $$SELECT test.answer(saga.step($1, 'new', after => '{open}', approval => 'may it?'))$$),
  ('step done, run by saga', $$SELECT test.answer(saga.step($1, 'done', action => 'SELECT 1'))$$),
  ('complete, when_done', $$SELECT saga.complete($1, when_done => true)$$),
  ('resolve last, approve', $$SELECT saga.resolve($1, 'last', 'approve', 'it may')$$),
  ('resolve last, done with output', $$SELECT saga.resolve($1, 'last', 'done', 'by hand', '"by hand"')$$),
  ('find', $$SELECT CASE WHEN saga.find('matrix', $2) = $1 THEN 'that saga' ELSE 'nothing' END$$),
  ('output of done', $$SELECT COALESCE(saga.output('done', $1)::text, 'nothing')$$),
  ('output of open', $$SELECT COALESCE(saga.output('open', $1)::text, 'nothing')$$),
  ('wait_step open', $$SELECT test.answer(saga.wait_step($1, 'open', '0'))$$),
  ('wait_step done', $$SELECT test.answer(saga.wait_step($1, 'done', '0'))$$),
  ('wait_step new', $$SELECT test.answer(saga.wait_step($1, 'new', '0'))$$),
  ('wait', $$SELECT saga.wait($1, '0')$$),
  ('wait for running', $$SELECT saga.wait($1, '0', until => 'running')$$);

CREATE FUNCTION test.answer(r saga.step_result) RETURNS text IMMUTABLE LANGUAGE sql
RETURN concat_ws(' ', (r).status, (r).attempt, (r).output);

-- The channel of a saga's listeners, and the handle of a step
CREATE FUNCTION test.channel(key text) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'matrix ' || md5(key);
CREATE FUNCTION test.last_key(id uuid, step text DEFAULT 'last') RETURNS text STABLE LANGUAGE sql AS $$
  SELECT COALESCE((SELECT compensation_key FROM saga.steps s WHERE s.saga_id = $1 AND s.key = step), $1 || '-1-undo')
$$;

-- A saga in the state
CREATE PROCEDURE test.put(wanted text, key text, INOUT id uuid) LANGUAGE plpgsql AS $$
DECLARE
  -- the walk stands still behind the listener's step
  stands boolean := wanted IN ('dispatched', 'claimed', 'lease over', 'again', 'given up');
  listener boolean := stands OR wanted IN ('acknowledged', 'forgotten');
BEGIN
  IF wanted = 'unknown' THEN
    id := '01900000-0000-7000-8000-000000000000';
    RETURN;
  END IF;
  id := saga.begin('matrix', key, '1');
  PERFORM saga.step(id, 'base', completed => true);
  PERFORM saga.step(id, 'open', compensation => 'SELECT test.undo($1)');
  PERFORM saga.step(id, 'failed', compensation => 'SELECT test.undo($1)');
  PERFORM saga.step(id, 'done', output => '"done"',
    compensation => CASE WHEN stands THEN 'SELECT test.later()' ELSE 'SELECT test.undo($1)' END,
    compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
  IF wanted IN ('closable', 'completed') THEN
    PERFORM saga.complete_step(id, 'open', '"result"');
  END IF;
  IF wanted = 'closable' THEN
    PERFORM saga.complete_step(id, 'failed', '"result"');
  ELSE
    PERFORM saga.fail_step(id, 'failed', 'no');
  END IF;
  PERFORM saga.step(id, 'last', completed => true,
    kind => CASE wanted WHEN 'pivot' THEN 'pivot' WHEN 'abandoned' THEN 'pivot' END,
    review => CASE wanted WHEN 'review' THEN 'look here' END,
    compensation => CASE WHEN listener THEN NULL
                         WHEN wanted = 'compensated' THEN 'SELECT test.undo($1)'
                         ELSE 'SELECT test.later()' END,
    notify => CASE WHEN listener THEN test.channel(key) END, acknowledge => wanted <> 'forgotten',
    compensation_retry => CASE wanted WHEN 'again' THEN saga.retry_policy(delay => '10 ms', max_delay => '10 ms')
                                      ELSE saga.retry_policy(delay => '1 hour', max_delay => '1 hour') END);
  COMMIT;
  IF wanted = 'completed' THEN
    PERFORM saga.complete(id, ignore_failed => true);
  ELSIF wanted NOT IN ('running', 'closable') THEN
    PERFORM saga.fail(id);
  END IF;
  COMMIT;
  IF wanted IN ('compensating', 'partial') THEN
    CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.attempts WHERE saga_id = %L AND outcome = %L',
                                id, 'deferred'));
  ELSIF wanted IN ('compensated', 'review') THEN
    PERFORM saga.wait(id);
  END IF;
  IF listener AND wanted <> 'forgotten' THEN
    CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.pending_compensations WHERE saga_id = %L', id));
    IF wanted IN ('lease over', 'again') THEN
      PERFORM saga.claim_compensations(test.channel(key), lease => '1 ms');
      CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.attempts WHERE saga_id = %L AND outcome = %L', id, 'timed out'));
    ELSIF wanted <> 'dispatched' THEN
      PERFORM saga.claim_compensations(test.channel(key));
    END IF;
    IF wanted = 'again' THEN
      CALL test.wait_until(format('SELECT compensation_status = %L FROM saga.steps WHERE saga_id = %L AND key = %L',
                                  'dispatched', id, 'last'));
    ELSIF wanted = 'given up' THEN
      PERFORM saga.fail_compensation(test.last_key(id), 1, 'no', retryable => false);
    ELSIF wanted = 'acknowledged' THEN
      PERFORM saga.complete_compensation(test.last_key(id));
    END IF;
    COMMIT;
  END IF;
  IF wanted IN ('acknowledged', 'forgotten') THEN
    PERFORM saga.wait(id);
  END IF;
  -- Two states that no call reaches.  What a superuser writes makes the
  -- ledger a copy; it is adopted in the same breath.
  IF wanted = 'abandoned' THEN
    UPDATE saga.ledger_saga s SET state = 'a', finished_at = now() WHERE s.id = put.id;
    PERFORM saga.adopt();
  ELSIF wanted = 'partial' THEN
    UPDATE saga.ledger_saga s SET failure_kind = NULL, failed_seq = NULL,
      undo = 'p', savepoint = (SELECT seq FROM saga.ledger_step t WHERE t.saga = put.id AND t.key = 'base')
    WHERE s.id = put.id;
    PERFORM saga.adopt();
  END IF;
  COMMIT;
END $$;

CREATE TABLE test.cell (call text, state text, cell text, message text, detail text, hint text);

CREATE PROCEDURE test.fill() LANGUAGE plpgsql AS $$
DECLARE
  s record;
  c record;
  it uuid;
  key text;
  before text;
  after text;
  answer text;
  code text;
  words text;
  more text;
  advice text;
BEGIN
  FOR s IN SELECT * FROM test.state ORDER BY n LOOP
    FOR c IN SELECT * FROM test.call ORDER BY n LOOP
      key := s.state || ' ' || c.call;
      CALL test.put(s.state, key, it);
      SELECT state INTO before FROM saga.sagas v WHERE v.id = it;
      words := NULL;
      more := NULL;
      advice := NULL;
      COMMIT;
      BEGIN
        EXECUTE c.sql INTO answer USING it, key;
      EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS answer = RETURNED_SQLSTATE, words = MESSAGE_TEXT,
          more = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT;
      END;
      COMMIT;
      SELECT state INTO after FROM saga.sagas v WHERE v.id = it;
      IF after <> before AND after <> answer THEN
        answer := answer || ', now ' || after;
      END IF;
      INSERT INTO test.cell VALUES (c.call, s.state, answer, replace(words, key, '<key>'), more, advice);
    END LOOP;
  END LOOP;
END $$;

SET client_min_messages = warning;
CALL test.fill();
RESET client_min_messages;

-- The states are what they should be.
SELECT s.state, v.state AS is, v.failure_kind, v.failed_step, count(*)
FROM test.state s JOIN saga.sagas v ON v.name = 'matrix' AND v.idempotency_key = s.state || ' wait'
GROUP BY s.n, 1, 2, 3, 4 ORDER BY s.n;
SELECT s.state, t.key, t.status, t.compensation_status
FROM test.state s JOIN saga.sagas v ON v.name = 'matrix' AND v.idempotency_key = s.state || ' wait'
  JOIN saga.steps t ON t.saga_id = v.id
ORDER BY s.n, t.position;

\i sql/include/matrix.sql

-- What the calls left of the steps
SELECT s.state, c.call, t.key, t.status, t.attempts, t.output, t.error, t.parked
FROM test.state s CROSS JOIN test.call c
  JOIN saga.sagas v ON v.name = 'matrix' AND v.idempotency_key = s.state || ' ' || c.call
  JOIN saga.steps t ON t.saga_id = v.id
WHERE (c.call LIKE 'record%' OR c.call LIKE 'fail_step%') AND t.key = split_part(c.call, ' ', 2)
ORDER BY s.n, c.n;
SELECT s.state, c.call, t.status, t.output, t.compensation_status, t.compensation_attempts AS attempts, p.attempt AS next, t.last_error, t.parked
FROM test.state s CROSS JOIN test.call c
  JOIN saga.sagas v ON v.name = 'matrix' AND v.idempotency_key = s.state || ' ' || c.call
  JOIN saga.steps t ON t.saga_id = v.id AND t.key = 'last' AND t.compensation_kind = 'notify'
  LEFT JOIN saga.pending_compensations p USING (saga_id, seq)
WHERE c.call ~ 'last|claim|fail_compensation|^wait$' ORDER BY s.n, c.n;
