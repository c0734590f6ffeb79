-- The plan tells what a failure would do.  It is compared with what then
-- happens, over sagas made by chance.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/people.sql
\set ECHO all

-- Times as the plan tells them
CREATE FUNCTION test.time(i interval) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN ms % 60000 = 0 THEN ms / 60000 || ' min' WHEN ms % 1000 = 0 THEN ms / 1000 || ' s' ELSE ms || ' ms' END
  FROM (SELECT (extract(epoch FROM i) * 1000)::bigint AS ms) x
$$;

-- By hand first: what it says of each kind of step
CREATE FUNCTION test.plan(name text) RETURNS TABLE ("position" integer, step text, action text, detail text) LANGUAGE sql VOLATILE AS $$
  SELECT p.position, p.step, p.action, p.detail FROM saga.plan(test.id(name)) p ORDER BY p.position
$$;
SELECT test.begin('each kind') AS id \gset
SELECT status FROM saga.step(:'id', 'sign', review => 'tear it up');
SELECT status FROM saga.step(:'id', 'reserve', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'charge', notify => 'refunds', compensation_retry => saga.retry_policy(3, '2 minutes', 'linear', '1 hour', 0, '0'));
SELECT status FROM saga.step(:'id', 'mail', notify => 'refunds', acknowledge => false);
SELECT status FROM saga.step(:'id', 'once', compensation => 'SELECT test.undo($1)', compensation_retry => saga.retry_policy(1, timeout => '1500 ms'));
SELECT status FROM saga.step(:'id', 'not completed', compensate_on => 'completed', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'retriable', kind => 'retriable', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'nothing');
SELECT * FROM test.plan('each kind');
-- asked of it, it has changed nothing
SELECT state FROM saga.sagas WHERE id = :'id';
BEGIN READ ONLY;
SELECT count(*) FROM saga.plan(:'id');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT count(*) FROM saga.plan(:'id');
COMMIT;
-- a saga with nothing to undo, one that is over, one that is not there
SELECT test.begin('nothing') AS nothing \gset
SELECT * FROM test.plan('nothing');
SELECT saga.complete(:'nothing');
SELECT * FROM test.plan('nothing');
CALL test.refuses('SELECT * FROM saga.plan(NULL)');
CALL test.refuses('SELECT * FROM saga.plan(''01900000-0000-7000-8000-000000000000'')');
-- behind a pivot there is no undo; parked, the next thing is a person
SELECT test.begin('pivot') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'pay', kind => 'pivot', compensation => 'SELECT test.undo($1)');
SELECT * FROM test.plan('pivot');
SELECT status FROM saga.complete_step(:'id', 'pay');
SELECT * FROM test.plan('pivot');
SELECT saga.fail(:'id');
SELECT * FROM test.plan('pivot');
-- ... nor is there one for a failure that came before the pivot's result: what
-- was begun goes on
SELECT test.begin('late pivot') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'pay', kind => 'pivot', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)');
SELECT saga.pause(:'id', 'n');
SELECT saga.fail(:'id');
SELECT status FROM saga.complete_step(:'id', 'pay', '"ch_1"', late => 'record');
SELECT * FROM test.plan('late pivot');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('late pivot');
SELECT test.begin('exhausted') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 2)', compensation_retry => saga.retry_policy(2, '10 ms', 'constant', '10 ms', 0));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.plan('exhausted');
-- what is left of the attempts
SELECT saga.pause(:'id', 'wait');
SELECT saga.resolve(:'id', 'b', 'retry', 'n');
SELECT * FROM test.plan('exhausted');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT test.begin('some left') AS id \gset
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 99)', compensation_retry => saga.retry_policy(3, '1 hour', 'constant', '1 hour', 0));
SELECT saga.fail(:'id');
CALL test.until_tried('some left', 'b');
SELECT * FROM test.plan('some left');
-- what was given up stays so, and waits for a person at the end
SELECT test.begin('given up', 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', review => 'look');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 1, ''SG006'')');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.plan('given up');
SELECT saga.resolve(:'id', 'a', 'done', 'n');
SELECT * FROM test.asked('given up');
SELECT * FROM test.plan('given up');

-- Now by chance.  Every saga has a seed, and all that is decided about it is
-- taken from that: no two runs differ.
CREATE FUNCTION test.dice(seed text, sides integer) RETURNS integer LANGUAGE sql IMMUTABLE
RETURN (('x' || substr(md5(seed), 1, 7))::bit(28)::integer % sides);
CREATE TABLE test.run (seed integer PRIMARY KEY, saga uuid, what text);
-- A compensation that does not succeed at once, as long as sagas are being made:
-- some are asked about, or given up, before there is a plan.
CREATE TABLE test.mood (stubborn boolean);
INSERT INTO test.mood VALUES (true);
CREATE FUNCTION test.stubborn(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT stubborn FROM test.mood) AND context ->> 'attempt' = '1' THEN
    RAISE SQLSTATE 'SG006' USING MESSAGE = format('not %s', context #>> '{step,key}');
  END IF;
END $$;
-- The channels of a saga's listeners, which nobody else's serve
CREATE FUNCTION test.channels(seed text) RETURNS text[] LANGUAGE sql IMMUTABLE
RETURN ARRAY['plan ' || split_part(seed, ' ', 1), 'plan ' || split_part(seed, ' ', 1) || ' b'];

-- One step, of any kind, in any state
CREATE PROCEDURE test.random_step(id uuid, seed text) LANGUAGE plpgsql
SET client_min_messages = warning -- keys are used again, for other steps
AS $$
DECLARE
  how integer := test.dice(seed || ' how', 17);
  state integer := test.dice(seed || ' state', 10);
  -- few names: what was rolled back is started afresh, by and by
  key text := 'step ' || test.dice(seed || ' key', 9);
BEGIN
  PERFORM saga.step(id, key,
    compensation => CASE WHEN how IN (0, 1, 2, 3, 4, 5, 6) THEN 'SELECT 1' WHEN how IN (14, 15, 16) THEN 'SELECT test.stubborn($1)' END,
    notify => CASE WHEN how IN (7, 8) THEN (test.channels(seed))[1] WHEN how IN (9, 10) THEN (test.channels(seed))[2] END,
    acknowledge => how <> 8,
    review => CASE WHEN how IN (6, 10, 11) THEN 'look at ' || seed END,
    kind => CASE test.dice(seed || ' kind', 16) WHEN 0 THEN 'pivot' WHEN 1 THEN 'retriable' WHEN 2 THEN 'retriable' END,
    compensate_on => CASE test.dice(seed || ' on', 5) WHEN 0 THEN 'completed' END,
    compensation_retry => CASE test.dice(seed || ' retry', 3) WHEN 0 THEN NULL ELSE saga.retry_policy(
      1 + test.dice(seed || ' attempts', 4), (1 + test.dice(seed || ' delay', 200)) * interval '500 ms',
      (ARRAY['constant', 'linear', 'exponential'])[1 + test.dice(seed || ' backoff', 3)],
      (100 + test.dice(seed || ' max', 3)) * interval '1 s', 0, test.dice(seed || ' timeout', 3) * interval '90 s') END);
  IF state < 6 THEN
    PERFORM saga.complete_step(id, key);
  ELSIF state < 8 THEN
    PERFORM saga.fail_step(id, key, 'e');
  END IF;
EXCEPTION WHEN SQLSTATE 'SG002' THEN
  NULL;
END $$;
-- What listeners do, once
CREATE FUNCTION test.listen(channels text[]) RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT count(saga.complete_compensation(c.compensation_key))
  FROM unnest(channels) channel, LATERAL saga.claim_compensations(channel, 100) c
$$;
-- Does what listeners and people have to do for one saga, once.
CREATE PROCEDURE test.serve(id uuid, seed text) LANGUAGE plpgsql AS $$
DECLARE
  asked record;
BEGIN
  PERFORM test.listen(test.channels(seed));
  FOR asked IN SELECT q.step, q.safe_to_retry FROM saga.review_queue q WHERE q.saga_id = id AND q.step IS NOT NULL LOOP
    PERFORM saga.resolve(id, asked.step, CASE
      WHEN asked.safe_to_retry LIKE 'nothing%' THEN 'done'
      ELSE (ARRAY['retry', 'done', 'skip'])[1 + test.dice(seed || asked.step, 3)] END, 'by chance');
    EXIT;
  END LOOP;
  COMMIT;
END $$;
-- Rolls it back to any of its steps that will do; false if none will.
CREATE PROCEDURE test.random_rollback(id uuid, seed text, INOUT done boolean) LANGUAGE plpgsql AS $$
DECLARE
  keys text[];
BEGIN
  done := false;
  -- the last runs of completed steps
  SELECT array_agg(s.key ORDER BY s.seq) INTO keys FROM saga.ledger_step s
  WHERE s.saga = id AND s.status = 'c' AND s.rolled_back_at IS NULL;
  IF test.dice(seed || ' start', 5) = 0 THEN
    keys := NULL;
  END IF;
  PERFORM saga.rollback_to(id, keys[1 + test.dice(seed || ' savepoint', array_length(keys, 1))], seed);
  done := true;
EXCEPTION WHEN SQLSTATE 'SG002' THEN
  -- before its pivot
  NULL;
END $$;

-- Makes a saga, and leaves it in a state in which nothing moves.
CREATE PROCEDURE test.make(seed integer) LANGUAGE plpgsql AS $$
DECLARE
  it uuid := saga.begin('plan', 'seed ' || seed, on_compensation_failure => CASE test.dice(seed || ' failure', 2) WHEN 0 THEN 'continue' END);
  dice text;
  done boolean;
  late record;
  what text := 'running';
BEGIN
  FOR era IN 1 .. 1 + test.dice(seed || ' eras', 4) LOOP
    dice := seed || ' ' || era;
    IF era > 1 THEN
      CALL test.random_rollback(it, dice, done);
      COMMIT;
      WHILE (SELECT state <> 'running' FROM saga.sagas s WHERE s.id = it) LOOP
        CALL test.serve(it, dice);
        PERFORM pg_sleep(0.001);
      END LOOP;
    END IF;
    FOR i IN 1 .. test.dice(dice || ' steps', 6) LOOP
      CALL test.random_step(it, dice || ' ' || i);
    END LOOP;
    COMMIT;
  END LOOP;
  dice := seed || ' end';
  CASE test.dice(dice, 9)
    WHEN 0 THEN
      -- on its way back, but paused before anything was done
      PERFORM saga.pause(it, 'for the plan');
      CALL test.random_rollback(it, dice, done);
      what := 'rolling back, paused';
    WHEN 1 THEN
      -- on its way back, as far as it comes without help
      CALL test.random_rollback(it, dice, done);
      what := 'rolling back, waiting';
    WHEN 8 THEN
      -- the same, and a listener has it
      CALL test.random_rollback(it, dice, done);
      what := 'rolling back, held';
    WHEN 2 THEN
      -- a result of a run that was undone
      FOR late IN SELECT s.key FROM saga.ledger_step s
        WHERE s.saga = it AND s.status <> 'c' AND s.rolled_back_at IS NOT NULL AND s.comp_status <> 'n'
          AND NOT EXISTS (SELECT FROM saga.ledger_step n WHERE n.saga = it AND n.key = s.key AND n.run > s.run)
        ORDER BY s.seq LIMIT 1
      LOOP
        PERFORM saga.complete_step(it, late.key, late => 'record');
        what := 'late result';
      END LOOP;
    WHEN 3 THEN
      -- failed, parked, paused, and all that is asked settled
      PERFORM saga.fail(it);
      COMMIT;
      WHILE (SELECT state = 'compensating' FROM saga.sagas s WHERE s.id = it) LOOP
        PERFORM test.listen(test.channels(dice));
        COMMIT;
        PERFORM pg_sleep(0.001);
      END LOOP;
      what := 'failed';
      IF EXISTS (SELECT FROM saga.review_queue q WHERE q.saga_id = it AND q.step IS NOT NULL) THEN
        PERFORM saga.pause(it, 'for the plan');
        CALL test.serve(it, dice);
        what := 'failed, decided, paused';
      END IF;
    ELSE
      NULL;
  END CASE;
  COMMIT;
  -- Until nothing moves: running, paused, parked, over, or waiting for a listener
  WHILE (SELECT state = 'compensating' AND NOT paused FROM saga.sagas s WHERE s.id = it)
    AND NOT EXISTS (SELECT FROM saga.pending_compensations p JOIN saga.steps t USING (saga_id, seq)
      WHERE p.saga_id = it AND t.compensation_status = 'dispatched')
  LOOP
    COMMIT;
    PERFORM pg_sleep(0.001);
  END LOOP;
  IF what = 'rolling back, held' THEN
    PERFORM count(*) FROM unnest(test.channels(dice)) channel, LATERAL saga.claim_compensations(channel, 100) c;
  END IF;
  INSERT INTO test.run VALUES (seed, it, what);
  COMMIT;
END $$;

CREATE PROCEDURE test.make_all(sagas integer) LANGUAGE plpgsql AS $$
BEGIN
  FOR seed IN 1 .. sagas LOOP
    CALL test.make(seed);
  END LOOP;
END $$;
CALL test.make_all(300);

-- The plans; then all of them fail, and whatever is to be done without a person is done.
CREATE TABLE test.planned AS SELECT r.seed, p.* FROM test.run r, saga.plan(r.saga) p;
CREATE TABLE test.before AS SELECT saga_id, seq, attempt FROM saga.attempts WHERE phase = 'compensation' AND outcome IS NOT NULL
  AND saga_id IN (SELECT saga FROM test.run);
CREATE TABLE test.asked_before AS SELECT q.saga_id, q.seq FROM saga.review_queue q WHERE q.saga_id IN (SELECT saga FROM test.run);
UPDATE test.mood SET stubborn = false;
CREATE PROCEDURE test.fail_all() LANGUAGE plpgsql AS $$
DECLARE
  r record;
BEGIN
  FOR r IN SELECT saga, state, paused FROM test.run JOIN saga.sagas ON id = saga ORDER BY seed LOOP
    IF r.state IN ('running', 'compensating', 'needs_review') THEN
      IF saga.fail(r.saga) <> 'compensated' AND r.paused THEN
        PERFORM saga.resume(r.saga);
      END IF;
    END IF;
    COMMIT;
  END LOOP;
  -- who has one brings it to its end
  PERFORM saga.complete_compensation(compensation_key) FROM saga.pending_compensations WHERE claimed_at IS NOT NULL AND channel LIKE 'plan %';
  COMMIT;
  WHILE EXISTS (SELECT FROM test.run JOIN saga.sagas ON id = saga WHERE state = 'compensating') LOOP
    PERFORM test.listen((SELECT array_agg(DISTINCT channel) FROM saga.pending_compensations WHERE claimed_at IS NULL AND channel LIKE 'plan %'));
    COMMIT;
    PERFORM pg_sleep(0.001);
  END LOOP;
END $$;
CALL test.fail_all();
-- What happened: every attempt, in the order in which they ended, one at a time
CREATE TABLE test.happened AS
  SELECT r.seed, row_number() OVER (PARTITION BY r.seed ORDER BY a.finished_at, a.started_at, a.seq DESC) AS position, a.seq, t.key AS step,
    t.compensation_kind AS action, a.outcome
  FROM test.run r JOIN saga.attempts a ON a.saga_id = r.saga AND a.phase = 'compensation' JOIN saga.steps t USING (saga_id, seq)
  WHERE (a.saga_id, a.seq, a.attempt) NOT IN (SELECT * FROM test.before);

-- They are the same, up to where it stops.
SELECT seed, position, p.step, p.action, h.step AS did, h.action AS how, h.outcome
FROM (SELECT seed, position, seq, step, action FROM test.planned WHERE action <> 'person') p
  FULL JOIN test.happened h USING (seed, position)
WHERE (p.seq, p.step, p.action) IS DISTINCT FROM (h.seq, h.step, h.action) OR h.outcome <> 'succeeded'
ORDER BY seed, position LIMIT 20;
-- It says how each would be done: what would run and as whom, on which channel,
-- and with which policy.
CREATE FUNCTION test.words(p saga.retry_policy) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT concat_ws(', ', 'up to ' || p.max_attempts || ' attempt' || CASE WHEN p.max_attempts > 1 THEN 's' ELSE '' END,
    CASE WHEN p.max_attempts > 1 THEN p.backoff || ' delay from ' || test.time(p.delay) || ' to ' || test.time(p.max_delay) END,
    CASE WHEN p.timeout > '0' THEN 'timeout ' || test.time(p.timeout) END)
$$;
SELECT p.seed, p.step, p.detail, t.compensation_kind, t.compensation_retry
FROM test.planned p JOIN test.run r USING (seed) JOIN saga.steps t ON t.saga_id = r.saga AND t.seq = p.seq
WHERE p.action <> 'person' AND p.detail IS DISTINCT FROM CASE
  WHEN p.action = 'sql' THEN format('%s (as role %s; %s)', t.compensation, t.run_as, test.words(t.compensation_retry))
  WHEN NOT (SELECT acknowledge FROM saga.ledger_step l WHERE (l.saga, l.seq) = (t.saga_id, t.seq))
    THEN format('a notification on channel "%s", which nobody acknowledges', t.channel)
  ELSE format('a listener on channel "%s" (%s)', t.channel, test.words(t.compensation_retry)) END
ORDER BY 1, 2 LIMIT 20;
-- It stops where the plan ends with a person, for the reason that the plan gives ...
SELECT r.seed, r.what, p.step, p.detail, s.state
FROM test.run r JOIN saga.sagas s ON s.id = r.saga
  LEFT JOIN test.planned p ON p.seed = r.seed AND p.action = 'person'
WHERE CASE WHEN p.seed IS NULL THEN s.state <> 'compensated'
  ELSE s.state <> 'needs_review' OR NOT EXISTS (SELECT FROM saga.review_queue q WHERE q.saga_id = r.saga
    AND CASE WHEN q.step IS NULL THEN q.why LIKE 'it failed after its pivot "' || p.step || '"%' AND p.detail LIKE '%pivot%'
      ELSE (q.seq, q.why) = (p.seq, p.detail) END) END
ORDER BY r.seed LIMIT 20;
-- ... and nothing else is asked but what had been asked, or given up, before
SELECT r.seed, r.what, q.step, q.why
FROM test.run r JOIN saga.review_queue q ON q.saga_id = r.saga JOIN saga.steps t ON (t.saga_id, t.seq) = (q.saga_id, q.seq)
WHERE NOT EXISTS (SELECT FROM test.planned p WHERE p.seed = r.seed AND p.action = 'person' AND p.seq = q.seq)
  AND NOT (t.compensation_status = 'failed' OR (q.saga_id, q.seq) IN (SELECT * FROM test.asked_before))
ORDER BY r.seed LIMIT 20;
-- ... and these are its last lines, and the lines are numbered.
SELECT seed FROM test.planned GROUP BY seed
HAVING count(*) <> max(position) OR min(position) <> 1
  OR min(position) FILTER (WHERE action = 'person') < max(position) FILTER (WHERE action <> 'person');
-- There was something to be seen.  (How much of it depends a little on when the
-- worker came to it.)
SELECT what, count(*) > 9 AS many FROM test.run GROUP BY what ORDER BY what;
SELECT count(*) FILTER (WHERE EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = r.saga AND on_failure = 'c')) > 80 AS continue,
  count(*) FILTER (WHERE EXISTS (SELECT FROM test.before b JOIN saga.attempts a USING (saga_id, seq, attempt)
    WHERE b.saga_id = r.saga AND a.phase = 'compensation' AND a.outcome = 'failed')) > 30 AS failed_before,
  sum((SELECT count(*) FROM test.planned p WHERE p.seed = r.seed AND p.action = 'sql')) > 100 AS sql,
  sum((SELECT count(*) FROM test.planned p WHERE p.seed = r.seed AND p.action = 'notify')) > 35 AS notify,
  sum((SELECT count(*) FROM test.planned p WHERE p.seed = r.seed AND p.action = 'person')) > 70 AS person,
  count(*) FILTER (WHERE EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = r.saga AND t.run > 1)) > 50 AS with_runs,
  count(*) FILTER (WHERE EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = r.saga AND t.kind = 'pivot' AND t.status = 'completed')) > 20 AS with_pivot,
  max((SELECT count(*) FROM test.planned p WHERE p.seed = r.seed)) > 3 AS long
FROM test.run r;

-- Each of them can be brought to its end, by whoever is asked.
CREATE PROCEDURE test.settle_all() LANGUAGE plpgsql AS $$
DECLARE
  r record;
BEGIN
  FOR r IN SELECT seed, saga FROM test.run ORDER BY seed LOOP
    LOOP
      EXIT WHEN (SELECT state = 'compensated' OR state = 'needs_review'
        AND NOT EXISTS (SELECT FROM saga.review_queue q WHERE q.saga_id = r.saga AND q.step IS NOT NULL) FROM saga.sagas WHERE id = r.saga);
      CALL test.serve(r.saga, r.seed || ' settle');
      PERFORM pg_sleep(0.001);
    END LOOP;
  END LOOP;
END $$;
CALL test.settle_all();
SELECT state, count(*) FROM saga.sagas JOIN test.run ON saga = id GROUP BY 1 ORDER BY 1;
INSERT INTO test.named SELECT 'seed ' || seed, saga FROM test.run;
CALL test.check();
