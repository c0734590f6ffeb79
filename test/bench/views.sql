-- A large ledger for the views: so many finished sagas of three steps, one of
-- a hundred of which was undone, and 1,000 open ones, written by SQL as a copy
-- of a ledger is.  Sagas of two roles take turns.  \set finished before.

CREATE ROLE bench_other;
GRANT USAGE ON SCHEMA saga TO bench_other;

CREATE FUNCTION pg_temp.id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
  SELECT (lpad(to_hex((extract(epoch FROM timestamptz '2026-01-01') * 1000)::bigint + n * 10), 12, '0')
    || '7' || lpad(to_hex(n & 4095), 3, '0') || '8' || substr(md5(n::text), 1, 15))::uuid
$$;
CREATE FUNCTION pg_temp.at(n bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT timestamptz '2026-01-01' + n * interval '10 ms'
$$;
CREATE TEMP TABLE kind AS
  SELECT n, pg_temp.id(n) AS id, pg_temp.at(n) AS at,
    -- d(one), c(ompensated); spread over all of the time, the open: r(unning),
    -- u(ndoing, each in its way), p(arked)
    CASE WHEN n % (:finished / 1000 + 1) = 0 THEN substr('rrrruuuuup', (n / (:finished / 1000 + 1) % 10)::integer + 1, 1)
      WHEN n % 100 = 50 THEN 'c' ELSE 'd' END AS state,
    CASE WHEN n % 2 = 0 THEN 'bench' ELSE 'bench_other' END AS owner,
    (n / (:finished / 1000 + 1) % 10)::integer AS way
  FROM generate_series(1, :finished + 1000) n;
CREATE INDEX ON kind (n);
ANALYZE kind;

INSERT INTO saga.ledger_saga (id, owner, started_at, on_failure, owner_name, name, key, updated_at, due, lane,
    undo, failed_seq, finished_at, state, failure_kind, paused, parked, reason)
  SELECT id, owner::regrole, at, 'h', owner, CASE WHEN n % 1000 = 8 THEN 'rare' ELSE 'order' END, 'order-' || n,
    at + interval '1 s',
    CASE WHEN state = 'u' AND way NOT IN (4, 5) THEN timestamptz '2100-01-01' + n * interval '1 ms' END,
    CASE WHEN state = 'u' AND way NOT IN (4, 5) THEN owner::regrole END,
    CASE WHEN state IN ('u', 'c', 'p') THEN 'f'::"char" END, CASE WHEN state IN ('u', 'c', 'p') THEN n * 3 + 2 END,
    CASE WHEN state IN ('d', 'c') THEN at + interval '1 s' END, state::"char",
    CASE WHEN state IN ('u', 'c', 'p') THEN 'f'::"char" END, false, NULL,
    CASE WHEN state IN ('u', 'c', 'p') THEN 'on purpose' END
  FROM kind ORDER BY n;
INSERT INTO saga.ledger_step (saga, seq, started_at, run, run_as, kind, compensate_on, acknowledge, run_as_name, key,
    compensation, channel, args, compensation_retry, attempts, status, comp_status, completed_at, comp_attempts,
    comp_charged, dispatched_at, parked, output)
  SELECT id, n * 3 + i, at + i * interval '100 ms', 1, owner::regrole, 'c', 's', true, owner, 'step' || i,
    CASE WHEN state = 'u' AND way IN (4, 5) THEN NULL ELSE 'DELETE FROM charges WHERE id = ($1->>''id'')::integer' END,
    CASE WHEN state = 'u' AND way IN (4, 5) THEN 'refunds' END,
    '{"charge": 4711, "currency": "EUR", "amount": 499.00, "note": "an ordinary payment"}', '', 1,
    CASE WHEN i < 2 OR state = 'd' THEN 'c' ELSE 's' END::"char",
    CASE WHEN state = 'c' THEN 'c' WHEN state = 'u' AND i = 2 AND way IN (4, 5) THEN 'd'
      WHEN state = 'p' AND i = 2 THEN 'f' ELSE 'r' END::"char",
    CASE WHEN i < 2 OR state = 'd' THEN at + i * interval '100 ms' + interval '50 ms' END,
    CASE WHEN state = 'c' THEN 1 END, CASE WHEN state = 'c' THEN 1 END,
    CASE WHEN state = 'u' AND i = 2 AND way IN (4, 5) THEN at + interval '1 s' END,
    CASE WHEN state = 'p' AND i = 2 THEN 'retries exhausted' END,
    CASE WHEN i < 2 OR state = 'd' THEN '{"id": "ch_4711", "at": "2026-01-01T00:00:00Z", "by": "the acquirer of cards"}'::jsonb END
  FROM kind, generate_series(0, 2) i ORDER BY n, i;
INSERT INTO saga.ledger_attempt (saga, seq, started_at, finished_at, attempt, phase, outcome, sqlstate, error)
  SELECT id, n * 3 + i, at + interval '700 ms', at + interval '800 ms', 1, 'c',
    CASE WHEN state = 'p' THEN 'f' ELSE 's' END, CASE WHEN state = 'p' THEN '42P01' END,
    CASE WHEN state = 'p' THEN 'relation "charges" does not exist' END
  FROM kind, generate_series(0, 2) i WHERE state = 'c' OR state = 'p' AND i = 2;
INSERT INTO saga.ledger_event (saga, at, seq, event, actor, detail)
  SELECT id, at + interval '600 ms', NULL, 'failing', owner, '{"reason": "on purpose", "to_undo": 3}'::jsonb FROM kind WHERE state IN ('u', 'c', 'p')
  UNION ALL
  SELECT id, at + interval '900 ms', n * 3 + 2, 'parked', owner, '{"why": "retries exhausted"}' FROM kind WHERE state = 'p';
INSERT INTO saga.ledger_due (lane, due, saga, seq)
  SELECT lane, due, id, 0 FROM saga.ledger_saga WHERE due IS NOT NULL;
INSERT INTO saga.ledger_queue (channel, phase, owner, since, saga, seq, run, key)
  SELECT 'refunds', 'c', owner::regrole, at + interval '1 s', id, n * 3 + 2, 1, 'step2' FROM kind WHERE state = 'u' AND way IN (4, 5);
INSERT INTO saga.ledger_held (saga, seq)
  SELECT id, 0 FROM saga.ledger_saga WHERE state = 'p';
SELECT setval('saga.start_order', max(seq)) FROM saga.ledger_step;
DROP TABLE kind;
VACUUM (ANALYZE);
SELECT saga.adopt();

-- What a person or a list page asks, as an ordinary role; in milliseconds.
CREATE TABLE bench.question (n integer GENERATED ALWAYS AS IDENTITY, what text, query text);
INSERT INTO bench.question (what, query) VALUES
  ('the newest 20', $$SELECT id, name, idempotency_key, state, next_action FROM saga.sagas ORDER BY id DESC LIMIT 20$$),
  ('20 behind the middle one', $$SELECT id, name, state FROM saga.sagas WHERE id < '$middle' ORDER BY id DESC LIMIT 20$$),
  ('the newest 20 of a rare name', $$SELECT id, state FROM saga.sagas WHERE name = 'rare' ORDER BY id DESC LIMIT 20$$),
  ('of a name, since a time', $$SELECT id, state FROM saga.sagas WHERE name = 'rare' AND id >= saga.first_id('$late') ORDER BY id DESC LIMIT 20$$),
  ('the newest 20 running', $$SELECT id, state FROM saga.sagas WHERE state = 'running' ORDER BY id DESC LIMIT 20$$),
  ('one by its id', $$SELECT * FROM saga.sagas WHERE id = '$middle'$$),
  ('one by its key', $$SELECT * FROM saga.sagas WHERE idempotency_key = '$key'$$),
  ('its steps, by its id', $$SELECT * FROM saga.steps WHERE saga_id = '$middle'$$),
  ('its steps, by its key, IN', $$SELECT * FROM saga.steps WHERE saga_id IN (SELECT id FROM saga.sagas WHERE idempotency_key = '$key')$$),
  ('its attempts, by its key, JOIN', $$SELECT a.* FROM saga.sagas s JOIN saga.attempts a ON a.saga_id = s.id WHERE idempotency_key = '$key'$$),
  ('its events, by its id', $$SELECT * FROM saga.events WHERE saga_id = '$middle' ORDER BY position$$),
  ('its events, by its key, =', $$SELECT * FROM saga.events WHERE saga_id = (SELECT id FROM saga.sagas WHERE idempotency_key = '$key')$$),
  ('its events, by its key, IN', $$SELECT * FROM saga.events WHERE saga_id IN (SELECT id FROM saga.sagas WHERE idempotency_key = '$key')$$),
  ('its events, by its key, JOIN', $$SELECT e.* FROM saga.sagas s JOIN saga.events e ON e.saga_id = s.id WHERE idempotency_key = '$key'$$),
  ('the newest 20 events of the newest 20', $$SELECT e.at, s.name, e.event, e.step FROM (SELECT id, name FROM saga.sagas ORDER BY id DESC LIMIT 20) s
    JOIN saga.events e ON e.saga_id = s.id ORDER BY e.at DESC LIMIT 20$$),
  ('what is being undone, by state', $$SELECT state, count(*) FROM saga.undoing GROUP BY state$$),
  ('20 that are being undone', $$SELECT id, name, next_action, next_action_at FROM saga.undoing WHERE state = 'compensating' LIMIT 20$$),
  ('what needs review', $$SELECT id, name, next_action FROM saga.undoing WHERE requires_review$$),
  ('the review queue', $$SELECT * FROM saga.review_queue ORDER BY since$$),
  ('what waits for listeners', $$SELECT channel, count(*), min(since) FROM saga.pending_compensations WHERE claimed_at IS NULL GROUP BY channel$$),
  ('attempts in vain of what is being undone', $$SELECT u.name, t.name, a.outcome, a.sqlstate, count(*) FROM saga.undoing u
    JOIN saga.attempts a ON a.saga_id = u.id JOIN saga.steps t USING (saga_id, seq)
    WHERE a.phase = 'compensation' AND a.outcome <> 'succeeded' GROUP BY 1, 2, 3, 4$$),
  ('what was purged', $$SELECT * FROM saga.purges$$),
  ('all, by state: reads the ledger', $$SELECT state, count(*) FROM saga.sagas GROUP BY state$$);
UPDATE bench.question SET query = replace(replace(replace(query, '$middle', s.id::text), '$key', s.key), '$late', l.at::text)
FROM (SELECT id, key FROM saga.ledger_saga WHERE owner = 'bench'::regrole ORDER BY id OFFSET :finished / 4 LIMIT 1) s,
  (SELECT max(started_at) - interval '1 minute' AS at FROM saga.ledger_saga) l;
GRANT SELECT ON bench.question TO bench;

CREATE FUNCTION bench.milliseconds(query text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
  times double precision[];
  before timestamptz;
BEGIN
  FOR i IN 1 .. 5 LOOP
    before := clock_timestamp();
    EXECUTE query;
    times[i] := extract(epoch FROM clock_timestamp() - before) * 1000;
  END LOOP;
  RETURN (SELECT round((percentile_cont(0.5) WITHIN GROUP (ORDER BY t))::numeric, 2) FROM unnest(times) t);
END $$;
