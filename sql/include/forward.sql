-- What the tests of steps that saga runs share, beside helpers.sql.

SET client_min_messages = warning;

-- What actions did, in the order in which they did it.
CREATE TABLE test.did (n bigint GENERATED ALWAYS AS IDENTITY, saga uuid, step text, what text);
CREATE FUNCTION test.act(context jsonb, what text DEFAULT NULL) RETURNS text LANGUAGE sql VOLATILE AS $$
  INSERT INTO test.did (saga, step, what)
  VALUES ((context #>> '{saga,id}')::uuid, context #>> '{step,key}', what);
  SELECT 'did ' || (context #>> '{step,key}')
$$;
CREATE FUNCTION test.done(key text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT string_agg(step || COALESCE(' (' || what || ')', ''), ', ' ORDER BY n)
  FROM test.did WHERE saga = test.id(key)
$$;
-- Actions that do not succeed at once
CREATE FUNCTION test.act_after(context jsonb, failures integer, code text DEFAULT 'P0001') RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
  CALL test.fail_first(context, failures, code);
  RETURN test.act(context);
END $$;
-- An action that runs until it is ended
CREATE FUNCTION test.act_for_ever(context jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM test.act(context, 'for ever');
  PERFORM pg_sleep(600);
  RETURN 'this is longer than the test may take';
END $$;

-- What the views tell of steps that saga runs, in the order of their first recording
CREATE FUNCTION test.forward(key text) RETURNS TABLE (
  step text, run integer, status text, attempts integer, output jsonb, error text, parked text, waits_for text,
  compensation text, recorded_by text)
LANGUAGE sql STABLE AS $$
  SELECT s.key, s.run, s.status, s.attempts, s.output, test.mask(s.error), test.mask(s.parked), test.mask(s.waits_for),
    s.compensation_status, (SELECT r.key FROM saga.steps r WHERE r.saga_id = s.saga_id AND r.seq = s.recorded_by)
  FROM saga.steps s WHERE saga_id = test.id($1) ORDER BY min(s.seq) OVER (PARTITION BY s.key), s.run
$$;
-- The order in which the steps began, and thus are undone in reverse
CREATE FUNCTION test.begun(key text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT string_agg(s.key, ', ' ORDER BY s.position) FROM saga.steps s
  WHERE saga_id = test.id($1) AND (s.on_failure IS NULL OR s.begun IS NOT NULL)
$$;
CREATE FUNCTION test.forward_attempts(key text) RETURNS TABLE (
  step text, attempt integer, outcome text, sqlstate text, error text, rows bigint)
LANGUAGE sql STABLE AS $$
  SELECT s.key, a.attempt, outcome, a.sqlstate, test.mask(a.error), a.rows
  FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq)
  WHERE saga_id = test.id($1) AND phase = 'forward' ORDER BY s.seq, a.attempt
$$;
-- Waits until the action of a step is running.
CREATE PROCEDURE test.until_acting(name text, step text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.running WHERE saga_id = %L AND step = %L AND phase = ''forward''',
    test.id(name), step));
END $$;
-- Waits until a step waits for this.
CREATE PROCEDURE test.until_waits_for(name text, step text, what text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT waits_for LIKE %L FROM saga.steps WHERE saga_id = %L AND key = %L ORDER BY run DESC LIMIT 1',
    what, test.id(name), step));
END $$;

-- What must be true of every ledger: shows what is not.
CREATE PROCEDURE test.check_forward() LANGUAGE plpgsql AS $$
DECLARE
  wrong record;
BEGIN
  -- No work of what goes forward no more stays due, and nobody is asked to look at it.
  CALL test.wait_until($x$SELECT count(*) = 0 FROM saga.ledger_due d JOIN test.named n ON n.id = d.saga JOIN saga.ledger_saga s ON s.id = d.saga
    WHERE d.seq <> 0 AND s.state IN ('c', 'd', 'a') AND d.due <= saga.internal_now()$x$);
  FOR wrong IN
    SELECT 'held' AS what, n.name, d.seq::text AS more
    FROM saga.ledger_held d JOIN test.named n ON n.id = d.saga JOIN saga.ledger_saga s ON s.id = d.saga
    WHERE d.seq <> 0 AND s.state NOT IN ('r', 'p')
    UNION ALL
    -- No attempt is missing.
    SELECT 'attempts', n.name, concat_ws(' ', seq, phase, count(*), max(attempt))
    FROM saga.attempts JOIN test.named n ON n.id = saga_id GROUP BY n.name, saga_id, seq, phase HAVING count(*) <> max(attempt)
    UNION ALL
    -- What completed did it once; what did not, never.
    SELECT 'effect', n.name, concat_ws(' ', t.key, count(d.n))
    FROM saga.steps t JOIN test.named n ON n.id = t.saga_id LEFT JOIN test.did d ON d.saga = t.saga_id AND d.step = t.key
    WHERE t.action ~ '^\s*SELECT test.act\('
    GROUP BY n.name, t.saga_id, t.key HAVING count(DISTINCT d.n) <> count(DISTINCT t.seq) FILTER (WHERE t.status = 'completed')
    UNION ALL
    -- The undo is the reverse of the order in which the steps began.
    SELECT 'order', n.name, t.key
    FROM (SELECT saga, step, lag(position) OVER (PARTITION BY saga ORDER BY w.n) < position AS later
          FROM test.witness w JOIN LATERAL (SELECT max(position) AS position FROM saga.steps s WHERE s.saga_id = w.saga AND s.key = w.step) p ON true) x
      JOIN test.named n ON n.id = x.saga JOIN saga.steps t ON t.saga_id = x.saga AND t.key = x.step
    WHERE later AND NOT EXISTS (SELECT FROM saga.steps o WHERE o.saga_id = x.saga AND o.rolled_back_at IS NOT NULL)
    UNION ALL
    -- What does not move says for what.
    SELECT 'silent', n.name, t.key
    FROM saga.steps t JOIN test.named n ON n.id = t.saga_id JOIN saga.sagas s ON s.id = t.saga_id
    WHERE s.state = 'running' AND t.status = 'waiting' AND t.rolled_back_at IS NULL AND t.waits_for IS NULL
    ORDER BY 1, 2, 3
  LOOP
    RAISE WARNING '%: % / %', wrong.what, wrong.name, wrong.more;
  END LOOP;
END $$;

RESET client_min_messages;
