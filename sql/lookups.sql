-- Whoever asks for a few rows reads a few rows: the plans of what a person or a
-- list page asks, with the rights of an ordinary role.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all
CREATE ROLE regress_lookups LOGIN;
GRANT USAGE ON SCHEMA saga, test TO regress_lookups;
GRANT SELECT ON test.named TO regress_lookups;

-- The scans of what holds the history that no condition leads.  Tables are small
-- here: the planner is told that a row costs as much as a page, and not to read
-- them whole if there is another way.
CREATE FUNCTION test.reads(query text) RETURNS SETOF text LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_mergejoin = off SET enable_hashjoin = off
SET random_page_cost = 1 SET cpu_tuple_cost = 1 SET max_parallel_workers_per_gather = 0 AS $$
DECLARE
  line text;
  scan text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
    IF scan IS NOT NULL AND line !~ 'Index Cond' THEN
      RETURN NEXT scan;
    END IF;
    scan := (regexp_match(line, '((Seq Scan|Index .*Scan).* on ledger_(saga|step|attempt|event|signal)\y)'))[1];
  END LOOP;
  IF scan IS NOT NULL THEN
    RETURN NEXT scan;
  END IF;
END $$;
-- A sort of everything is as bad.
CREATE FUNCTION test.sorts(query text) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET max_parallel_workers_per_gather = 0 AS $$
DECLARE
  line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
    IF line ~ 'Sort Key: .*\yid DESC' THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
END $$;

-- How many rows of steps are read, found or not.
CREATE FUNCTION test.steps_read(query text) RETURNS numeric LANGUAGE plpgsql
SET enable_seqscan = off SET max_parallel_workers_per_gather = 0 AS $$
DECLARE
  plan jsonb;
BEGIN
  EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, FORMAT JSON) ' || query INTO plan;
  RETURN (SELECT coalesce(round(sum((n ->> 'Actual Loops')::numeric
      * ((n ->> 'Actual Rows')::numeric + coalesce((n ->> 'Rows Removed by Filter')::numeric, 0)))), 0)
    FROM jsonb_path_query(plan, '$.** ? (@."Relation Name" == "ledger_step")') n);
END $$;

-- So many that reading all of them costs more than looking up some
SELECT count((saga.step(id, s, completed => true)).step)
FROM (SELECT saga.begin('filler', i::text) AS id FROM generate_series(1, 2000) i OFFSET 0) f, unnest('{a,b,c}'::text[]) s;
SELECT count(saga.complete(id)) FROM saga.sagas WHERE name = 'filler';
VACUUM (ANALYZE) saga.ledger_saga, saga.ledger_step, saga.ledger_attempt, saga.ledger_event, saga.ledger_due, saga.ledger_queue,
  saga.ledger_held, saga.ledger_signal;
SET ROLE regress_lookups;

-- What it tells of questions that cannot be answered otherwise
SELECT test.reads($$SELECT count(*) FROM saga.sagas$$);
SELECT test.reads($$SELECT * FROM saga.sagas WHERE reason = 'x'$$);
SELECT test.reads($$SELECT count(*) FROM saga.steps$$);
SELECT test.reads($$SELECT count(*) FROM saga.events WHERE event = 'parked'$$);

-- A saga by its id or its key
SELECT test.reads($$SELECT * FROM saga.sagas WHERE id = '01900000-0000-7000-8000-000000000000'$$);
SELECT test.reads($$SELECT * FROM saga.sagas WHERE id IN ('01900000-0000-7000-8000-000000000000', '01900000-0000-7000-8000-000000000001')$$);
SELECT test.reads($$SELECT * FROM saga.sagas WHERE idempotency_key = 'k'$$);
SELECT test.reads($$SELECT * FROM saga.sagas WHERE name = 'order' AND idempotency_key = 'k'$$);
SELECT test.reads($$SELECT * FROM saga.sagas WHERE id = (SELECT max(id::text)::uuid FROM test.named)$$);
SELECT test.reads($$SELECT * FROM saga.sagas WHERE id = ANY (ARRAY(SELECT id FROM test.named))$$);

-- A list page: its first and its next page are the end of the index, without a sort
CREATE TEMP TABLE page (query text);
INSERT INTO page VALUES
  ($$SELECT * FROM saga.sagas ORDER BY id DESC LIMIT 20$$),
  ($$SELECT id, next_action FROM saga.sagas WHERE name = 'order' ORDER BY id DESC LIMIT 20$$),
  ($$SELECT * FROM saga.sagas WHERE id < '01900000-0000-7000-8000-000000000000' ORDER BY id DESC LIMIT 20$$),
  ($$SELECT * FROM saga.sagas WHERE name = 'order' AND id >= saga.first_id(now() - interval '1 day') ORDER BY id DESC LIMIT 20$$),
  ($$SELECT * FROM saga.sagas WHERE state = 'running' AND id >= saga.first_id(now() - interval '1 day') ORDER BY id DESC LIMIT 20$$),
  ($$SELECT * FROM saga.sagas WHERE state = 'completed' LIMIT 20$$);
SELECT query, test.sorts(query), ARRAY(SELECT test.reads(query)) AS reads FROM page;
SELECT test.reads($$SELECT * FROM saga.sagas WHERE id >= saga.first_id(now() - interval '1 hour') AND started_at > now() - interval '1 hour'$$);

-- The history of a saga, by its id, by its key, through =, IN and JOIN
SELECT v, c, r AS reads
FROM unnest('{steps,attempts,events}'::text[]) v,
  unnest(ARRAY[
    $$WHERE saga_id = '01900000-0000-7000-8000-000000000000'$$,
    $$WHERE saga_id = '01900000-0000-7000-8000-000000000000' AND seq = 1$$,
    $$WHERE saga_id = (SELECT id FROM saga.sagas WHERE idempotency_key = 'k')$$,
    $$WHERE saga_id IN (SELECT id FROM saga.sagas WHERE idempotency_key = 'k')$$,
    $$WHERE EXISTS (SELECT FROM saga.sagas WHERE id = saga_id AND name = 'order' AND idempotency_key = 'k')$$,
    $$JOIN saga.sagas s ON s.id = saga_id WHERE s.idempotency_key = 'k'$$,
    $$JOIN saga.sagas s ON s.id = saga_id WHERE s.idempotency_key = 'k' ORDER BY v.seq LIMIT 20$$,
    $$JOIN (SELECT id FROM saga.undoing ORDER BY id DESC LIMIT 20) s ON s.id = saga_id$$,
    $$JOIN saga.review_queue q USING (saga_id)$$,
    $$JOIN saga.pending_compensations q USING (saga_id, seq)$$,
    $$JOIN saga.steps t USING (saga_id) JOIN saga.events e USING (saga_id) JOIN saga.sagas s ON s.id = saga_id WHERE s.idempotency_key = 'k'$$,
    $$, test.named n WHERE n.id = saga_id AND n.name = 'x'$$]) WITH ORDINALITY u (c, n),
  LATERAL (SELECT string_agg(l, ', ') AS r FROM test.reads(format('SELECT v.* FROM saga.%I v %s', v, c)) l) r
WHERE r IS NOT NULL ORDER BY v, n;
SELECT c, r AS reads
FROM unnest(ARRAY[
    $$WHERE saga_id = '01900000-0000-7000-8000-000000000000'$$,
    $$WHERE saga_id IN (SELECT id FROM saga.sagas WHERE idempotency_key = 'k')$$,
    $$JOIN saga.sagas s ON s.id = saga_id WHERE s.idempotency_key = 'k'$$]) WITH ORDINALITY u (c, n),
  LATERAL (SELECT string_agg(l, ', ') AS r FROM test.reads(format('SELECT v.* FROM saga.signals v %s', c)) l) r
WHERE r IS NOT NULL ORDER BY n;
-- NOT EXISTS and LEFT JOIN do not hand the saga on, unless OFFSET 0 keeps them apart.
SELECT form, string_agg(v, ', ' ORDER BY n) FILTER (WHERE r IS NOT NULL) AS reads
FROM unnest('{steps,attempts,events,signals}'::text[]) WITH ORDINALITY u (v, n), (VALUES
    (1, 'NOT EXISTS', $$WHERE s.idempotency_key = 'k' AND NOT EXISTS (SELECT FROM saga.%I WHERE saga_id = s.id)$$),
    (2, 'LEFT JOIN', $$LEFT JOIN saga.%I v ON v.saga_id = s.id WHERE s.idempotency_key = 'k'$$),
    (3, 'NOT EXISTS, OFFSET 0', $$WHERE s.idempotency_key = 'k' AND NOT EXISTS (SELECT FROM saga.%I WHERE saga_id = s.id OFFSET 0)$$),
    (4, 'LEFT JOIN, OFFSET 0', $$LEFT JOIN LATERAL (SELECT * FROM saga.%I WHERE saga_id = s.id OFFSET 0) v ON true WHERE s.idempotency_key = 'k'$$),
    (5, 'LEFT JOIN, by the id', $$LEFT JOIN saga.%I v ON v.saga_id = s.id WHERE s.id = '01900000-0000-7000-8000-000000000000'$$))
  f (m, form, query),
  LATERAL (SELECT string_agg(l, ', ') AS r FROM test.reads(format('SELECT s.id FROM saga.sagas s ' || query, v)) l) r
GROUP BY m, form ORDER BY m;
-- The newest events of the newest sagas: these are the end of the index.
SELECT test.reads($$SELECT e.at, s.name, e.event FROM (SELECT id, name FROM saga.sagas ORDER BY id DESC LIMIT 20) s
  JOIN saga.events e ON e.saga_id = s.id ORDER BY e.at DESC LIMIT 20$$);

-- What is open
SELECT test.reads($$SELECT * FROM saga.undoing$$);
SELECT test.reads($$SELECT * FROM saga.undoing WHERE state = 'compensating' AND updated_at < now() - interval '5 minutes' ORDER BY updated_at$$);
SELECT test.reads($$SELECT * FROM saga.undoing WHERE requires_review$$);
SELECT test.reads($$SELECT * FROM saga.review_queue ORDER BY since$$);
SELECT test.reads($$SELECT channel, count(*), min(since) FROM saga.pending_compensations WHERE claimed_at IS NULL AND next_attempt_at IS NULL GROUP BY channel$$);
SELECT test.reads($$SELECT * FROM saga.pending_compensations WHERE saga_id = '01900000-0000-7000-8000-000000000000'$$);
SELECT test.reads($$SELECT u.name, t.name, a.outcome, count(*) FROM saga.undoing u JOIN saga.attempts a ON a.saga_id = u.id
  JOIN saga.steps t USING (saga_id, seq) WHERE a.phase = 'compensation' AND a.outcome <> 'succeeded' GROUP BY 1, 2, 3$$);
SELECT test.reads($$SELECT * FROM saga.running ORDER BY since$$);
SELECT test.reads($$SELECT r.step, a.state FROM saga.running r, unnest(r.blocked_by) AS b (pid) JOIN pg_stat_activity a ON a.pid = b.pid$$);
SELECT test.reads($$SELECT * FROM saga.purges ORDER BY at$$);
-- Of a saga that runs, and is due because it has a deadline, nothing waits: its steps are not read.
SELECT count((saga.step(id, s::text)).step)
FROM (SELECT saga.begin('long', timeout => '1 day') AS id FROM generate_series(1, 3) i OFFSET 0) l, generate_series(1, 20) s;
SELECT test.steps_read($$SELECT * FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id WHERE s.name = 'long'$$) >= 60 AS counts;
-- (Of those that have a timer, each is read by its key.)
RESET ROLE;
SELECT count(*) AS timers FROM saga.ledger_due WHERE lane = 0 AND seq > 0 \gset
SET ROLE regress_lookups;
SELECT test.steps_read($$SELECT * FROM saga.pending_compensations$$), test.steps_read($$SELECT * FROM saga.running$$) <= :timers AS no_more_in_running;
SELECT count(saga.complete(id, ignore_failed => true)) FROM saga.sagas WHERE name = 'long' AND (SELECT count((saga.complete_step(id, s::text)).step) FROM generate_series(1, 20) s) = 20;

-- ids since a time
SELECT saga.first_id('2026-01-01 00:00:00+00'), saga.first_id('2026-01-01 00:00:00.000999+00');
SELECT saga.first_id('-infinity'), saga.first_id('1969-12-31 23:59:59.999999+00'), saga.first_id('1970-01-01 00:00:00+00'),
  saga.first_id('10889-08-02 05:31:50.655999+00'), saga.first_id('10889-08-02 05:31:50.656+00'), saga.first_id('infinity') \gx
SELECT saga.first_id(NULL) IS NULL AS is_null;
SELECT clock_timestamp() AS before \gset
SELECT saga.begin('timed') AS id \gset
SELECT saga.first_id(:'before'::timestamptz - interval '1 ms') <= :'id' AS since, saga.first_id(clock_timestamp() + interval '1 ms') > :'id' AS until;
SELECT count(*) FROM saga.sagas WHERE name = 'timed' AND id >= saga.first_id(:'before'::timestamptz - interval '1 ms');
SELECT saga.complete(:'id');

RESET ROLE;
DROP OWNED BY regress_lookups;
DROP ROLE regress_lookups;
