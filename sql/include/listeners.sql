-- What the tests of listeners share, beside helpers.sql.

SET client_min_messages = warning;

-- A saga with one step, a, that waits for listeners on a channel.  It is tried
-- again at once, and without an end, but for what the policy says.
CREATE FUNCTION test.listen(name text, channel text, policy jsonb DEFAULT '{}') RETURNS uuid LANGUAGE sql VOLATILE AS $$
  SELECT (saga.step(test.begin(name), 'a', notify => channel, compensation_retry =>
    jsonb_populate_record(saga.retry_policy(1000, '10 ms', 'constant', '10 ms', 0, '1 hour'), policy))).saga_id
$$;
-- Waits until one of its steps waits to be claimed.
CREATE PROCEDURE test.until_dispatched(name text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.pending_compensations p JOIN saga.steps s USING (saga_id, seq)
    WHERE saga_id = %L AND compensation_status = ''dispatched'' AND p.claimed_at IS NULL', test.id(name)));
END $$;
CREATE PROCEDURE test.fail(name text) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM saga.fail(test.id(name));
  COMMIT;
  CALL test.until_dispatched(name);
END $$;

CREATE FUNCTION test.key(name text, step text, run integer DEFAULT 1) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT compensation_key FROM saga.steps s WHERE saga_id = test.id($1) AND s.key = $2 AND s.run = $3
$$;
CREATE FUNCTION test.claim(channel text, max_claims integer DEFAULT NULL, lease interval DEFAULT NULL,
  consumer text DEFAULT NULL) RETURNS TABLE (saga text, step text, attempt integer)
LANGUAGE sql VOLATILE ROWS 1 AS $$
  SELECT (SELECT n.name FROM test.named n WHERE n.id = c.saga_id), c.step, c.attempt
  FROM saga.claim_compensations($1, $2, $3, $4) c
$$;
CREATE FUNCTION test.done(name text, step text) RETURNS text LANGUAGE sql VOLATILE
AS 'SELECT step || '': '' || saga.complete_compensation(test.key(name, step))';

-- Is it so long from now?  By the clock that the ledger goes by, which a test may
-- have moved: the last change of a saga was just now.
CREATE FUNCTION test.about(at timestamptz, distance interval) RETURNS boolean LANGUAGE sql VOLATILE AS $$
  SELECT at BETWEEN max(updated_at) + distance - interval '30 s' AND max(updated_at) + distance + interval '30 s'
  FROM saga.sagas
$$;

-- What waits, as the view tells it
CREATE FUNCTION test.waiting(name text) RETURNS TABLE (step text, channel text, since text, attempt integer, consumer text,
  claimed_at text, lease_until text, next_attempt_at text, compensation_key text)
LANGUAGE sql STABLE AS $$
  SELECT p.step, p.channel, test.mask(p.since::text), p.attempt, p.consumer, test.mask(p.claimed_at::text),
    test.mask(p.lease_until::text), test.mask(p.next_attempt_at::text), test.mask(p.compensation_key)
  FROM saga.pending_compensations p WHERE saga_id = test.id($1)
$$;

-- All that the ledger holds of a saga, to be compared
CREATE FUNCTION test.picture(name text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT md5(concat(
    (SELECT s FROM saga.ledger_saga s WHERE id = test.id($1)),
    (SELECT string_agg(t::text, ' ' ORDER BY seq) FROM saga.ledger_step t WHERE t.saga = test.id($1)),
    (SELECT string_agg(a::text, ' ' ORDER BY a) FROM saga.ledger_attempt a WHERE a.saga = test.id($1)),
    (SELECT string_agg(e::text, ' ' ORDER BY e) FROM saga.ledger_event e WHERE e.saga = test.id($1)),
    (SELECT string_agg(d::text, ' ' ORDER BY d) FROM saga.ledger_due d WHERE d.saga = test.id($1)),
    (SELECT string_agg(q::text, ' ' ORDER BY q) FROM saga.ledger_queue q WHERE q.saga = test.id($1))))
$$;

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
    -- The end of a claim is looked at.
    SELECT 'lease', s::text, t::text
    FROM saga.ledger_step t JOIN saga.ledger_saga s ON s.id = t.saga
    WHERE t.claimed_at IS NOT NULL AND t.comp_status = 'd' AND (s.due IS NULL OR s.due > t.lease_until)
    UNION ALL
    -- No more than one step of a saga is a listener's at a time.
    SELECT 'several', saga::text, count(*)::text FROM saga.ledger_step WHERE comp_status = 'd' GROUP BY saga HAVING count(*) > 1
    UNION ALL
    -- No attempt is missing.
    SELECT 'attempts', saga_id || ' ' || seq || ' ' || phase, count(*) || ' ' || max(attempt)
    FROM saga.attempts GROUP BY saga_id, seq, phase HAVING count(*) <> max(attempt)
    UNION ALL
    -- Whatever failed is being undone, undone, or waits for a person with a reason.
    SELECT 'hangs', s.id::text, s.next_action FROM saga.sagas s
    WHERE failure_kind IS NOT NULL AND NOT paused
      AND (state NOT IN ('compensated', 'compensating', 'needs_review', 'abandoned')
           OR state = 'needs_review' AND next_action = 'a person must decide'
           OR state = 'compensating' AND next_action_at IS NULL
              AND NOT EXISTS (SELECT FROM saga.pending_compensations p WHERE p.saga_id = s.id))
  LOOP
    RAISE WARNING '%: % / %', r.what, r.a, r.b;
  END LOOP;
END $$;

RESET client_min_messages;
