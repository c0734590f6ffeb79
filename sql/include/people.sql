-- What the tests of people who decide share, beside helpers.sql.

SET client_min_messages = warning;

-- As test.mask, but every placeholder is as long as what it stands for, so that
-- lines break where they break for whoever reads them.
CREATE FUNCTION test.same_length(what text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN regexp_replace(regexp_replace(regexp_replace(regexp_replace(what,
  'reassign\(\d+', 'reassign(12345', 'g'),
  '([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})-[0-9]+', '\1-1234', 'g'),
  '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}', '01234567-89ab-7cde-8f01-23456789abcd', 'g'),
  '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[0-9.]*\+00', '2026-01-31 03:00:00.123456+00', 'g');

-- The whole queue of a saga, as the view tells it
CREATE FUNCTION test.queue(name text) RETURNS TABLE (saga_id text, saga text, key text, owner regrole, step text, seq text,
  why text, failure text, since text, attempts text, last_completed text, outputs jsonb, safe_to_retry text, must_not_repeat text,
  to_settle text)
LANGUAGE sql STABLE AS $$
  SELECT test.same_length(q.saga_id::text), q.saga, q.key, q.owner, q.step, CASE WHEN q.seq IS NOT NULL THEN '1234' END, q.why,
    q.failure, test.same_length(q.since::text), q.attempts, q.last_completed, q.outputs, test.same_length(q.safe_to_retry),
    test.same_length(q.must_not_repeat), test.same_length(q.to_settle)
  FROM saga.review_queue q WHERE q.saga_id = test.id($1) ORDER BY q.seq DESC
$$;
-- What is asked, in short
CREATE FUNCTION test.asked(name text) RETURNS TABLE (step text, why text) LANGUAGE sql STABLE AS $$
  SELECT q.step, test.mask(q.why) FROM saga.review_queue q WHERE q.saga_id = test.id($1) ORDER BY q.seq DESC
$$;
-- Every run of every step, with its attempts but for those that asked to be called later
CREATE FUNCTION test.runs(name text) RETURNS TABLE ("position" bigint, step text, run integer, status text, output jsonb,
  compensation text, attempts bigint, parked text)
LANGUAGE sql STABLE AS $$
  SELECT s.position, s.key, s.run, s.status, s.output, compensation_status,
    (SELECT count(*) FROM saga.attempts a WHERE (a.saga_id, a.seq) = (s.saga_id, s.seq)
      AND phase = 'compensation' AND outcome IS DISTINCT FROM 'deferred'), s.parked
  FROM saga.steps s WHERE saga_id = test.id($1) ORDER BY position
$$;
-- From the events of people on: what happened, in one line each
CREATE FUNCTION test.story(name text) RETURNS SETOF text LANGUAGE sql STABLE AS $$
  SELECT concat_ws(' ', event, step, test.mask(detail::text)) FROM saga.events
  WHERE saga_id = test.id($1) ORDER BY position
$$;

-- Waits until a step is dispatched and nobody has it.
CREATE PROCEDURE test.until_dispatched(name text, step text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.pending_compensations p JOIN saga.steps s USING (saga_id, seq)
    WHERE saga_id = %L AND s.key = %L AND compensation_status = ''dispatched'' AND p.claimed_at IS NULL', test.id(name), step));
END $$;
-- Waits until so many attempts of a step's compensation are over.
CREATE PROCEDURE test.until_tried(name text, step text, times integer DEFAULT 1) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT count(*) >= %s FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq)
    WHERE saga_id = %L AND s.key = %L AND phase = ''compensation'' AND outcome IS NOT NULL', times, test.id(name), step));
END $$;
-- Waits until the SQL of a step's compensation is running.
CREATE PROCEDURE test.until_running(name text, step text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT bool_or(compensation_status = ''running'') FROM saga.steps
    WHERE saga_id = %L AND key = %L', test.id(name), step));
END $$;

-- Waits until it stands still before a lock.
CREATE PROCEDURE test.until_blocked(name text, step text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT bool_or(cardinality(blocked_by) > 0) FROM saga.running r
    WHERE saga_id = %L AND r.step = %L', test.id(name), step));
END $$;

-- All that the ledger holds of a saga, to be compared
CREATE FUNCTION test.picture(id uuid) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS $$
  SELECT md5(concat(
    (SELECT s FROM saga.ledger_saga s WHERE s.id = $1),
    (SELECT string_agg(t::text, ' ' ORDER BY seq) FROM saga.ledger_step t WHERE t.saga = $1),
    (SELECT string_agg(a::text, ' ' ORDER BY a) FROM saga.ledger_attempt a WHERE a.saga = $1),
    (SELECT string_agg(e::text, ' ' ORDER BY e) FROM saga.ledger_event e WHERE e.saga = $1),
    (SELECT string_agg(d::text, ' ' ORDER BY d) FROM saga.ledger_due d WHERE d.saga = $1),
    (SELECT string_agg(q::text, ' ' ORDER BY q) FROM saga.ledger_queue q WHERE q.saga = $1)))
$$;
-- Runs a statement that must be refused, shows the error, and that the saga is what it was.
CREATE PROCEDURE test.refuses_unchanged(id uuid, statement text) LANGUAGE plpgsql AS $$
DECLARE
  before text := test.picture(id);
BEGIN
  CALL test.refuses(statement);
  IF test.picture(id) <> before THEN
    RAISE INFO 'the saga has changed';
  END IF;
END $$;

-- What must be true of every ledger: shows what is not.
CREATE PROCEDURE test.check() LANGUAGE plpgsql AS $$
DECLARE
  r record;
BEGIN
  FOR r IN
    -- The queue holds what is dispatched and not claimed, and nothing else.
    SELECT 'queue' AS what, q::text AS a, t::text AS b
    FROM (SELECT * FROM saga.ledger_queue WHERE phase = 'c') q FULL JOIN
      (SELECT t.*, s.owner FROM saga.ledger_step t JOIN saga.ledger_saga s ON s.id = t.saga
       WHERE comp_status = 'd' AND claimed_at IS NULL) t
      ON (q.channel, q.owner, q.since, q.saga, q.seq, q.run, q.key) =
        (t.channel, t.owner, t.dispatched_at, t.saga, t.seq, t.run, t.key)
    WHERE q IS NULL OR t IS NULL
    UNION ALL
    -- What is due is what the sagas say.
    SELECT 'due', d::text, s::text
    FROM (SELECT * FROM saga.ledger_due WHERE seq = 0) d FULL JOIN (SELECT * FROM saga.ledger_saga WHERE due IS NOT NULL) s
      ON (d.lane, d.due, d.saga) = (s.lane, s.due, s.id)
    WHERE d IS NULL OR s IS NULL
    UNION ALL
    -- A deadline that counts is looked at.
    SELECT 'deadline', n.name, deadline::text FROM saga.ledger_saga JOIN test.named n USING (id)
    WHERE state = 'r' AND NOT paused AND deadline IS NOT NULL AND (due IS NULL OR due > deadline)
    UNION ALL
    -- No attempt is missing.
    SELECT 'attempts', saga_id || ' ' || seq || ' ' || phase, count(*) || ' ' || max(attempt)
    FROM saga.attempts GROUP BY saga_id, seq, phase HAVING count(*) <> max(attempt)
    UNION ALL
    -- A SQL compensation takes effect once.
    SELECT 'twice', saga_id || ' ' || seq, count(*)::text
    FROM saga.attempts JOIN saga.steps USING (saga_id, seq)
    WHERE phase = 'compensation' AND outcome = 'succeeded' AND compensation_kind = 'sql'
      -- Whom a late result made doubt may have it run again.
      AND NOT EXISTS (SELECT FROM saga.ledger_event e WHERE e.saga = saga_id AND e.seq = steps.seq
        AND e.event = 'resolved' AND e.detail ->> 'resolution' = 'retry')
    GROUP BY saga_id, seq HAVING count(*) > 1
    UNION ALL
    -- Whatever failed is being undone, undone, or waits for a person with a reason.
    SELECT 'hangs', n.name, s.next_action FROM saga.sagas s JOIN test.named n USING (id)
    WHERE failure_kind IS NOT NULL AND NOT paused
      AND (state NOT IN ('compensated', 'compensating', 'needs_review', 'abandoned')
           OR state = 'needs_review' AND next_action = 'a person must decide'
           OR state = 'compensating' AND next_action_at IS NULL
              AND NOT EXISTS (SELECT FROM saga.pending_compensations p WHERE p.saga_id = s.id))
    UNION ALL
    -- Who needs review is in the queue, with a reason and a way out, and nobody else is.
    SELECT 'review', coalesce(s.id, q.saga_id)::text, q.why
    FROM (SELECT * FROM saga.sagas WHERE state = 'needs_review' OR state = 'running'
        AND EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = id AND t.on_failure IS NOT NULL AND t.parked IS NOT NULL AND t.rolled_back_at IS NULL)) s
      FULL JOIN saga.review_queue q ON q.saga_id = s.id
    WHERE s.id IS NULL OR q.saga_id IS NULL OR q.why IS NULL OR q.since IS NULL OR q.to_settle IS NULL
    UNION ALL
    -- Nothing is asked, or about to be undone, of a saga that is running, completed or compensated.
    SELECT 'asked', n.name, concat_ws(' ', t.key, compensation_status, t.parked)
    FROM saga.sagas s JOIN saga.steps t ON t.saga_id = s.id JOIN test.named n ON n.id = s.id
    WHERE s.state IN ('running', 'completed', 'compensated')
      AND (t.parked IS NOT NULL OR compensation_status IN ('pending', 'running', 'dispatched', 'failed')
           OR compensation_status = 'registered' AND s.state = 'compensated')
    ORDER BY 1, 2, 3
  LOOP
    RAISE WARNING '%: % / %', r.what, test.mask(r.a), test.mask(r.b);
  END LOOP;
END $$;

RESET client_min_messages;
