-- What every ledger fulfils, in every snapshot, whatever was called: each branch
-- of fuzz.violations() answers what must not be.  fuzz.settle() brings all that
-- is open to its end by the ways that the ledger itself offers, and
-- fuzz.violations_at_rest() looks when nobody is at work.

\set ON_ERROR_STOP 1
SET client_min_messages = warning;

-- Direct writes skip the constraints; here the server checks every row by them.
CREATE FUNCTION fuzz.broken_constraints() RETURNS TABLE (invariant text, saga text, what text)
LANGUAGE plpgsql AS $$
DECLARE
  rule record;
BEGIN
  FOR rule IN
    SELECT c.relname, o.conname AS name, pg_get_expr(o.conbin, o.conrelid) AS holds
    FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid
    WHERE c.relnamespace = 'saga'::regnamespace AND o.contype = 'c'
    UNION ALL
    -- as a function call, which no planner takes for granted
    SELECT c.relname, 'NOT NULL ' || a.attname, format('pg_catalog.num_nulls(x.%I) = 0', a.attname)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'saga'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND a.attnotnull
  LOOP
    RETURN QUERY EXECUTE format(
      'SELECT %L, pg_catalog.to_jsonb(x)->>%L, pg_catalog.left(x::text, 300) FROM saga.%I x WHERE NOT (%s) LIMIT 3',
      'constraint ' || rule.relname || '.' || rule.name,
      CASE rule.relname WHEN 'ledger_saga' THEN 'id' ELSE 'saga' END, rule.relname, rule.holds);
  END LOOP;
END $$;

-- The steps, with what the walk makes of each of them; see src/flow/next.c.
CREATE VIEW fuzz.walk AS
  SELECT t.*, s.state, s.paused, s.due AS saga_due, s.undo, s.savepoint, s.on_failure, s.failure_kind,
    CASE
      WHEN NOT (CASE WHEN t.rolled_back_at IS NOT NULL
        THEN t.parked IS NOT NULL OR t.comp_status IN ('p', 'd')
        ELSE s.undo = 'f' OR s.undo = 'p' AND coalesce(t.begun, t.seq) > coalesce(s.savepoint, 0) END) THEN 'out of range'
      WHEN t.give_up IS NOT NULL AND t.begun IS NULL THEN 'settled'
      WHEN t.comp_status = 'f' AND s.on_failure = 'c' THEN 'given up'
      WHEN t.parked IS NOT NULL THEN 'person'
      WHEN t.comp_status IN ('n', 'c', 's') THEN 'settled'
      WHEN t.comp_status = 'f' THEN 'person'
      WHEN t.kind = 'r' OR t.compensate_on = 'c' AND t.status <> 'c' AND coalesce(t.rounds, 0) = 0 THEN 'passed over'
      WHEN t.review IS NOT NULL AND t.released IS NULL THEN 'person'
      WHEN t.compensation IS NOT NULL THEN 'sql'
      WHEN t.channel IS NOT NULL THEN 'listener'
      ELSE 'person'
    END AS undo_task
  FROM saga.ledger_step t JOIN saga.ledger_saga s ON s.id = t.saga;

CREATE VIEW fuzz.next_task AS
  SELECT DISTINCT ON (saga) saga, seq, undo_task, comp_status, claimed_at, lease_until, run_as
  FROM fuzz.walk WHERE undo_task IN ('sql', 'listener', 'person')
  ORDER BY saga, coalesce(begun, seq) DESC;

-- Which sagas were seen at their end: completed and abandoned are for ever.
CREATE TABLE fuzz.ended (id uuid PRIMARY KEY, state "char", finished_at timestamptz);
CREATE FUNCTION fuzz.note_ends() RETURNS void LANGUAGE sql AS $$
  INSERT INTO fuzz.ended SELECT s.id, s.state, s.finished_at FROM saga.ledger_saga s WHERE s.state IN ('d', 'a')
  ON CONFLICT DO NOTHING
$$;

CREATE FUNCTION fuzz.violations() RETURNS TABLE (invariant text, saga text, what text)
LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
  RETURN QUERY SELECT * FROM fuzz.broken_constraints();

  -- Rows that belong together

  RETURN QUERY
  SELECT 'a saga and its due row agree', coalesce(s.id, d.saga)::text,
    concat_ws(' ', s.state, s.due, s.lane, '/', d.due, d.lane)
  FROM (SELECT * FROM saga.ledger_saga WHERE due IS NOT NULL) s
  FULL JOIN (SELECT * FROM saga.ledger_due WHERE seq = 0) d ON d.saga = s.id
  WHERE (s.due, s.lane) IS DISTINCT FROM (d.due, d.lane);

  RETURN QUERY
  SELECT 'one due row a saga', d.saga::text, count(*)::text
  FROM saga.ledger_due d WHERE d.seq = 0 GROUP BY d.saga HAVING count(*) > 1;

  RETURN QUERY
  SELECT 'a dispatched step and its queue row agree', coalesce(t.saga, q.saga)::text,
    concat_ws(' ', t.seq, t.channel, t.dispatched_at, t.run, t.key, '/', q.seq, q.channel, q.since, q.owner, q.run, q.key)
  FROM (SELECT x.*, s.owner FROM saga.ledger_step x JOIN saga.ledger_saga s ON s.id = x.saga
    WHERE x.comp_status = 'd' AND x.claimed_at IS NULL) t
  FULL JOIN (SELECT * FROM saga.ledger_queue WHERE phase = 'c') q ON q.saga = t.saga AND q.seq = t.seq
  WHERE (t.channel, t.owner, t.dispatched_at, t.run, t.key) IS DISTINCT FROM (q.channel, q.owner, q.since, q.run, q.key);

  RETURN QUERY
  SELECT 'a task that is ready and that nobody holds is in the queue', coalesce(t.saga, q.saga)::text,
    concat_ws(' ', t.seq, t.task, t.since, '/', q.seq, q.channel, q.since, q.owner)
  FROM (SELECT x.*, s.owner, CASE x.status WHEN 'w' THEN x.ready_at ELSE x.retry_at END AS since
    FROM saga.ledger_step x JOIN saga.ledger_saga s ON s.id = x.saga
    WHERE x.task IS NOT NULL AND x.claimed_at IS NULL AND x.comp_status <> 'd' AND x.parked IS NULL AND x.rolled_back_at IS NULL
      AND x.ready_at IS NOT NULL AND (x.status = 'w' AND (x.signals IS NULL OR x.signal IS NOT NULL) AND (x.approval IS NULL OR x.approved)
        OR x.status = 'f' AND x.retry_at IS NOT NULL)) t
  FULL JOIN (SELECT * FROM saga.ledger_queue WHERE phase = 'f') q ON q.saga = t.saga AND q.seq = t.seq
  WHERE (t.task, t.owner, t.since, t.run, t.key) IS DISTINCT FROM (q.channel, q.owner, q.since, q.run, q.key);

  RETURN QUERY
  SELECT 'a person holds what is parked or paused', coalesce(s.id, h.saga)::text, concat_ws(' ', s.state, s.paused)
  FROM (SELECT * FROM saga.ledger_saga x WHERE x.state = 'p' OR x.paused AND x.finished_at IS NULL) s
  FULL JOIN (SELECT * FROM saga.ledger_held WHERE seq = 0) h ON h.saga = s.id
  WHERE s.id IS NULL OR h.saga IS NULL;

  RETURN QUERY
  SELECT 'no row without its saga', x.saga::text, x.of
  FROM (
    SELECT t.saga, 'step' AS of FROM saga.ledger_step t
    UNION ALL SELECT h.saga, 'attempt' FROM saga.ledger_attempt h
    UNION ALL SELECT e.saga, 'event ' || e.event FROM saga.ledger_event e WHERE e.event <> 'purged'
    UNION ALL SELECT d.saga, 'due' FROM saga.ledger_due d
    UNION ALL SELECT q.saga, 'queue' FROM saga.ledger_queue q
    UNION ALL SELECT g.saga, 'signal' FROM saga.ledger_signal g
    UNION ALL SELECT h.saga, 'held' FROM saga.ledger_held h) x
  WHERE NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = x.saga)
    -- A signal may come while its saga is purged; a look then deletes it.
    AND NOT EXISTS (SELECT FROM saga.ledger_due d WHERE d.saga = x.saga AND d.seq < 0);

  RETURN QUERY
  SELECT 'an attempt or event is about a step that is there', x.saga::text, concat_ws(' ', x.seq, x.of)
  FROM (
    SELECT h.saga, h.seq, 'attempt' AS of FROM saga.ledger_attempt h
    UNION ALL SELECT e.saga, e.seq, e.event FROM saga.ledger_event e WHERE e.seq IS NOT NULL
    UNION ALL SELECT s.id, s.failed_seq, 'failed step' FROM saga.ledger_saga s WHERE s.failed_seq IS NOT NULL) x
  WHERE NOT EXISTS (SELECT FROM saga.ledger_step t WHERE t.saga = x.saga AND t.seq = x.seq);

  -- Steps

  RETURN QUERY
  SELECT 'no two steps with one number', min(t.saga::text), t.seq::text
  FROM saga.ledger_step t GROUP BY t.seq HAVING count(*) > 1;

  RETURN QUERY
  SELECT 'runs of a step follow each other', x.saga::text,
    concat_ws(' ', left(x.key, 40), 'run', x.run, 'seq', x.seq, 'rolled back', x.rolled_back_at)
  FROM (SELECT t.*, row_number() OVER (PARTITION BY t.saga, t.key ORDER BY t.run) AS n,
      row_number() OVER (PARTITION BY t.saga, t.key ORDER BY t.seq) AS m,
      lead(t.run) OVER (PARTITION BY t.saga, t.key ORDER BY t.run) AS later
    FROM saga.ledger_step t) x
  WHERE x.run <> x.n OR x.run <> x.m OR x.later IS NOT NULL AND x.rolled_back_at IS NULL;

  RETURN QUERY
  SELECT 'attempts of a step are numbered without gaps', t.saga::text,
    concat_ws(' ', t.seq, t.status, t.attempts, '/', h.numbers)
  FROM saga.ledger_step t
  LEFT JOIN (SELECT a.saga, a.seq, array_agg(a.attempt ORDER BY a.attempt) AS numbers
    FROM saga.ledger_attempt a WHERE a.phase = 'f' GROUP BY 1, 2) h ON h.saga = t.saga AND h.seq = t.seq
  WHERE t.give_up IS NULL AND coalesce(h.numbers, '{}') <> ARRAY(SELECT g FROM generate_series(1,
    t.attempts - CASE t.status WHEN 'f' THEN 0 ELSE 1 END) g);

  RETURN QUERY
  SELECT 'attempts of an action are numbered without gaps', t.saga::text,
    concat_ws(' ', t.seq, t.status, t.attempts, '/', h.numbers)
  FROM saga.ledger_step t
  LEFT JOIN (SELECT a.saga, a.seq, array_agg(a.attempt ORDER BY a.attempt) AS numbers
    FROM saga.ledger_attempt a WHERE a.phase = 'f' GROUP BY 1, 2) h ON h.saga = t.saga AND h.seq = t.seq
  WHERE t.give_up IS NOT NULL AND coalesce(h.numbers, '{}') <> ARRAY(SELECT g FROM generate_series(1,
    -- The one that succeeded is in the row of the step.
    t.attempts - CASE t.status WHEN 'c' THEN 1 ELSE 0 END) g);

  RETURN QUERY
  SELECT 'attempts of a compensation are numbered without gaps', t.saga::text,
    concat_ws(' ', t.seq, t.comp_status, t.comp_attempts, '/', h.numbers)
  FROM saga.ledger_step t
  LEFT JOIN (SELECT a.saga, a.seq, array_agg(a.attempt ORDER BY a.attempt) AS numbers
    FROM saga.ledger_attempt a WHERE a.phase = 'c' GROUP BY 1, 2) h ON h.saga = t.saga AND h.seq = t.seq
  WHERE coalesce(h.numbers, '{}') <> ARRAY(SELECT g FROM generate_series(1, coalesce(t.comp_attempts, 0)) g);

  RETURN QUERY
  SELECT 'no attempt ends before it starts', a.saga::text, concat_ws(' ', a.seq, a.phase, a.attempt)
  FROM saga.ledger_attempt a WHERE a.finished_at < a.started_at;

  RETURN QUERY
  SELECT 'a compensated step knows when, and no other does', t.saga::text,
    concat_ws(' ', t.seq, t.comp_status, t.compensated_at)
  FROM saga.ledger_step t WHERE (t.comp_status = 'c') <> (t.compensated_at IS NOT NULL);

  RETURN QUERY
  SELECT 'a step without compensation has none of its traces', t.saga::text, concat_ws(' ', t.seq, t.comp_status)
  FROM saga.ledger_step t
  WHERE (t.comp_status = 'n') <> (t.compensation IS NULL AND t.channel IS NULL AND t.review IS NULL)
    OR t.comp_status = 'n' AND (t.comp_attempts > 0 OR t.dispatched_at IS NOT NULL OR t.comp_retry_at IS NOT NULL);

  RETURN QUERY
  SELECT 'only one step of a saga is claimed', t.saga::text, count(*)::text
  FROM saga.ledger_step t WHERE t.claimed_at IS NOT NULL AND t.comp_status = 'd' GROUP BY 1, 2 HAVING count(*) > 1;

  RETURN QUERY
  SELECT 'a lease ends after it began, within the timeout', t.saga::text,
    concat_ws(' ', t.seq, t.claimed_at, t.lease_until, t.compensation_retry)
  FROM saga.ledger_step t
  WHERE t.lease_until <= t.claimed_at
    OR t.comp_status = 'd' AND split_part(t.compensation_retry, ' ', 6)::bigint > 0
      AND t.lease_until > t.claimed_at + split_part(t.compensation_retry, ' ', 6)::bigint * interval '1 ms';

  RETURN QUERY
  SELECT 'SQL that leaves a witness ran as often as the history says', t.saga::text,
    concat_ws(' ', t.seq, t.comp_status, h.n, '/', u.n)
  FROM saga.ledger_step t
  LEFT JOIN (SELECT a.saga, a.seq, count(*) AS n FROM saga.ledger_attempt a
    WHERE a.phase = 'c' AND a.outcome = 's' GROUP BY 1, 2) h ON h.saga = t.saga AND h.seq = t.seq
  LEFT JOIN (SELECT w.saga, w.seq, count(*) AS n FROM fuzz.undone w GROUP BY 1, 2) u
    ON u.saga = t.saga AND u.seq = t.seq
  WHERE t.compensation LIKE 'INSERT INTO fuzz.undone%' AND coalesce(h.n, 0) <> coalesce(u.n, 0)
    -- What was done before another compensation was set was done by that one.
    AND (coalesce(h.n, 0) < coalesce(u.n, 0) OR NOT EXISTS (SELECT FROM saga.ledger_event e WHERE e.saga = t.saga AND e.seq = t.seq
      AND e.event = 'amended' AND e.detail->>'amended' ~ '\mcompensation\M'));

  RETURN QUERY
  SELECT 'an action that leaves a witness did so once if it is completed, and never else', t.saga::text,
    concat_ws(' ', t.seq, t.status, d.n)
  FROM saga.ledger_step t
  LEFT JOIN (SELECT w.saga, w.seq, count(*) AS n FROM fuzz.done w GROUP BY 1, 2) d
    ON d.saga = t.saga AND d.seq = t.seq
  WHERE t.action LIKE 'INSERT INTO fuzz.done%' AND (d.n > 1 OR (d.n IS NOT NULL) <> (t.status = 'c')
    -- a person says that it is done, which may be the undo
    AND (d.n IS NOT NULL OR NOT EXISTS (SELECT FROM saga.ledger_event e WHERE e.saga = t.saga AND e.seq = t.seq
      AND e.event = 'resolved' AND e.detail->>'resolution' = 'done')));

  RETURN QUERY
  SELECT 'what an action recorded is there if and only if it is completed', t.saga::text,
    concat_ws(' ', t.seq, t.key, b.status)
  FROM saga.ledger_step t LEFT JOIN saga.ledger_step b ON b.saga = t.saga AND b.seq = t.recorded_by
  WHERE t.recorded_by IS NOT NULL AND b.status IS DISTINCT FROM 'c';

  RETURN QUERY
  SELECT 'a step that saga runs has the traces of its status, and the application''s has none', t.saga::text,
    concat_ws(' ', t.seq, t.status, t.attempts, t.opened_at, t.ready_at, t.begun, t.parked)
  FROM saga.ledger_step t
  WHERE CASE WHEN t.give_up IS NULL
    THEN num_nonnulls(t.action, t.task, t.after, t.delay, t.not_before, t.signals, t.approval, t.timeout, t.begun,
      t.opened_at, t.ready_at, t.approved, t.charged) > 0
    ELSE t.ready_at IS NOT NULL AND t.opened_at IS NULL
      OR t.ready_at < t.opened_at
      OR t.begun IS NOT NULL AND t.begun <= t.seq
      OR t.status = 'c' AND t.begun IS NULL
      OR t.retry_at IS NOT NULL AND t.status NOT IN ('f', 's')
      OR t.status = 's' AND coalesce(t.rounds, 0) = 0 AND t.task IS NULL
      OR t.approved AND t.approval IS NULL END;

  RETURN QUERY
  SELECT 'a step that waits at an approval, or was parked, is with a person', coalesce(t.saga, h.saga)::text,
    concat_ws(' ', coalesce(t.seq, h.seq), t.status, t.parked)
  FROM (SELECT x.* FROM saga.ledger_step x WHERE x.give_up IS NOT NULL AND x.parked IS NOT NULL AND x.rolled_back_at IS NULL) t
  FULL JOIN (SELECT * FROM saga.ledger_held WHERE seq <> 0) h ON h.saga = t.saga AND h.seq = t.seq
  WHERE t.saga IS NULL OR h.saga IS NULL;

  RETURN QUERY
  SELECT 'a saga with steps that saga runs knows it', t.saga::text, concat_ws(' ', t.seq, t.key)
  FROM saga.ledger_step t JOIN saga.ledger_saga s ON s.id = t.saga
  WHERE t.give_up IS NOT NULL AND s.runs IS NULL;

  RETURN QUERY
  SELECT 'a step that does not move says for what it waits', v.saga_id::text, concat_ws(' ', v.seq, v.status, v.parked)
  FROM saga.steps v JOIN saga.ledger_saga s ON s.id = v.saga_id
  WHERE s.state = 'r' AND v.on_failure IS NOT NULL AND v.rolled_back_at IS NULL
    AND (v.status IN ('waiting', 'started') OR v.parked IS NOT NULL) AND coalesce(v.waits_for, '') = '';

  RETURN QUERY
  SELECT 'no compensation ran before every later step was settled', a.saga::text,
    concat_ws(' ', a.seq, a.attempt, 'before', t.seq, t.comp_status)
  FROM saga.ledger_attempt a
  JOIN saga.ledger_step one ON one.saga = a.saga AND one.seq = a.seq
  JOIN saga.ledger_step t ON t.saga = a.saga AND coalesce(t.begun, t.seq) > coalesce(one.begun, one.seq)
  JOIN saga.ledger_saga s ON s.id = a.saga
  WHERE a.phase = 'c' AND CASE WHEN t.give_up IS NULL THEN t.started_at
      -- what never began has nothing to undo
      ELSE CASE WHEN t.begun IS NOT NULL THEN coalesce(t.completed_at, t.attempt_at) END END < a.started_at
    AND (t.comp_status IN ('r', 'p', 'd') OR t.comp_status = 'c' AND t.compensated_at > a.started_at)
    -- What it passes over, and what it tried in vain, counts as before when the
    -- saga goes forward again.
    AND NOT (t.comp_status = 'r' AND (t.kind = 'r'
      OR t.compensate_on = 'c' AND NOT coalesce(t.completed_at <= a.started_at, false)
      OR EXISTS (SELECT FROM saga.ledger_event e WHERE e.saga = t.saga AND e.event = 'reopened' AND e.at >= a.started_at)))
    -- A late result asks again about a step that the walk had passed.
    AND NOT EXISTS (SELECT FROM saga.ledger_event e
      WHERE e.saga = t.saga AND e.seq = t.seq AND e.event IN ('late result', 'late acknowledgement', 'resolved'))
    -- A late result of a run that was rolled back opens that one alone, which a
    -- person releases.
    AND NOT EXISTS (SELECT FROM saga.ledger_event e, saga.ledger_event r, saga.ledger_step o
      WHERE o.saga = a.saga AND o.seq = a.seq AND e.saga = a.saga AND e.seq = a.seq AND r.saga = a.saga AND r.seq = a.seq
        AND e.event = 'late result' AND e.at >= o.rolled_back_at
        AND r.event = 'resolved' AND r.at >= e.at AND r.at <= a.started_at);

  -- Each state is what its steps explain

  RETURN QUERY
  SELECT 'what was completed or abandoned stays so', s.id::text, concat_ws(' ', f.state, f.finished_at, '/', s.state, s.finished_at)
  FROM fuzz.ended f JOIN saga.ledger_saga s ON s.id = f.id
  WHERE (f.state, f.finished_at) IS DISTINCT FROM (s.state, s.finished_at);

  RETURN QUERY
  SELECT 'failure_kind goes with the state', s.id::text, concat_ws(' ', s.state, s.failure_kind, s.undo)
  FROM saga.ledger_saga s
  WHERE s.failure_kind IS NOT NULL AND s.state IN ('r', 'd')
    OR s.failure_kind IS NULL AND s.state = 'c'
    OR (s.failure_kind IS NOT NULL) <> (s.undo = 'f')
    OR s.undo <> 'p' AND s.savepoint IS NOT NULL
    OR s.undo IS NOT NULL AND s.state = 'r';

  RETURN QUERY
  SELECT 'nothing is under way in a saga that runs or is at its end', t.saga::text,
    concat_ws(' ', t.state, t.seq, t.comp_status, t.parked, t.rolled_back_at)
  FROM fuzz.walk t
  WHERE t.state IN ('r', 'd') AND (t.comp_status IN ('p', 'd')
      OR t.parked IS NOT NULL AND (t.state = 'd' OR t.give_up IS NULL))
    OR t.state = 'c' AND (t.comp_status IN ('r', 'p', 'd', 'f') AND t.rolled_back_at IS NULL
        -- what never began has nothing to undo
        AND NOT (t.comp_status = 'r' AND t.give_up IS NOT NULL AND t.begun IS NULL)
      OR t.comp_status IN ('p', 'd') OR t.parked IS NOT NULL)
    OR t.state = 'r' AND t.comp_status IN ('c', 'f', 's') AND t.rolled_back_at IS NULL;

  RETURN QUERY
  SELECT 'a saga that compensates has something to undo, or is due', s.id::text,
    concat_ws(' ', n.seq, n.undo_task, s.due, s.paused)
  FROM saga.ledger_saga s LEFT JOIN fuzz.next_task n ON n.saga = s.id
  WHERE s.state = 'u' AND s.due IS NULL AND NOT s.paused
    AND NOT coalesce(n.undo_task = 'listener' AND n.comp_status = 'd' AND n.claimed_at IS NULL, false);

  RETURN QUERY
  SELECT 'a claim that ends is looked at', t.saga::text, concat_ws(' ', t.state, t.seq, t.lease_until, t.saga_due)
  FROM fuzz.walk t
  WHERE t.claimed_at IS NOT NULL AND t.comp_status = 'd' AND NOT coalesce(t.saga_due <= t.lease_until, false);

  RETURN QUERY
  SELECT 'a paused saga is not due but for a claim or an announcement', s.id::text, concat_ws(' ', s.state, s.due)
  FROM saga.ledger_saga s
  WHERE s.paused AND s.state IN ('r', 'u') AND s.due IS NOT NULL AND s.to_announce IS NULL
    AND NOT EXISTS (SELECT FROM saga.ledger_step t WHERE t.saga = s.id AND t.claimed_at IS NOT NULL);

  RETURN QUERY
  SELECT 'a running saga is due at its deadline', s.id::text, concat_ws(' ', s.due, s.deadline)
  FROM saga.ledger_saga s
  WHERE s.state = 'r' AND s.to_announce IS NULL AND NOT s.paused
    AND s.due IS DISTINCT FROM s.deadline
    AND NOT EXISTS (SELECT FROM saga.ledger_step t WHERE t.saga = s.id AND t.claimed_at IS NOT NULL);

  RETURN QUERY
  SELECT 'what is to be announced is due for the worker', s.id::text, concat_ws(' ', s.to_announce, s.due, s.lane)
  FROM saga.ledger_saga s WHERE s.to_announce IS NOT NULL AND (s.due IS NULL OR s.lane <> 0);

  RETURN QUERY
  SELECT 'what is due for an executor is SQL of its role', s.id::text, concat_ws(' ', s.state, s.lane, n.undo_task, n.run_as)
  FROM saga.ledger_saga s LEFT JOIN fuzz.next_task n ON n.saga = s.id
  WHERE s.lane <> 0 AND (s.state <> 'u' OR n.undo_task IS DISTINCT FROM 'sql');

  RETURN QUERY
  SELECT 'a saga that needs review says why', s.id::text, concat_ws(' ', s.undo, n.undo_task, n.seq)
  FROM saga.ledger_saga s LEFT JOIN fuzz.next_task n ON n.saga = s.id
  WHERE s.state = 'p' AND s.parked IS NULL
    AND NOT EXISTS (SELECT FROM fuzz.walk t WHERE t.saga = s.id AND t.parked IS NOT NULL AND t.undo_task <> 'out of range');

  RETURN QUERY
  SELECT 'a saga that needs review is in the queue, with a way on', s.id::text, concat_ws(' ', q.step, q.to_settle)
  FROM saga.ledger_saga s LEFT JOIN saga.review_queue q ON q.saga_id = s.id
  WHERE s.state = 'p' AND (q.saga_id IS NULL OR q.why IS NULL
    -- The saga as a whole waits only where it cannot be undone.
    OR q.step IS NULL AND s.undo IS NOT NULL);

  RETURN QUERY
  SELECT 'a saga that is not at its end says what comes next', v.id::text, v.state
  FROM saga.sagas v
  WHERE v.state IN ('running', 'compensating', 'needs_review') AND coalesce(v.next_action, '') = '';

  RETURN QUERY
  SELECT 'the views tell of no undo under way at its end', v.saga_id::text,
    concat_ws(' ', o.state, v.seq, v.compensation_status)
  FROM saga.steps v JOIN saga.sagas o ON o.id = v.saga_id
  WHERE o.state IN ('completed', 'compensated') AND v.compensation_status IN ('pending', 'running', 'dispatched')
    OR o.state = 'compensated' AND v.compensation_status = 'registered';

  RETURN QUERY
  SELECT 'positions count from 1', e.saga_id::text, e.position::text
  FROM (SELECT v.saga_id, v.position, row_number() OVER (PARTITION BY v.saga_id ORDER BY v.position) AS n
    FROM saga.events v) e
  WHERE e.position <> e.n;
END $$;

-- Undos that have that many attempts before them are paused, not waited for.
CREATE TABLE fuzz.set_aside (saga uuid PRIMARY KEY);
CREATE VIEW fuzz.patient AS
  SELECT n.saga, n.seq FROM fuzz.next_task n JOIN saga.ledger_step t USING (saga, seq)
  WHERE n.undo_task = 'sql' AND split_part(t.compensation_retry, ' ', 1)::int - coalesce(t.comp_charged, 0) > 20;

CREATE TABLE fuzz.failed_to_settle (saga text, what text);

/*
 * One round.  Answers what is still open and could have been moved, or why a
 * way that the ledger offers does not lead on.
 */
CREATE FUNCTION fuzz.settle() RETURNS TABLE (saga text, what text)
LANGUAGE plpgsql AS $$
DECLARE
  r record;
  statement text;
  ignored text;
  clock uuid := saga.begin('clock');
  now_of_saga timestamptz;
BEGIN
  -- Which is moved on, in a test build.
  SELECT l.started_at INTO now_of_saga FROM saga.ledger_saga l WHERE l.id = clock;
  PERFORM saga.complete(clock);

  INSERT INTO fuzz.set_aside
  SELECT p.saga FROM fuzz.patient p JOIN saga.ledger_saga s ON s.id = p.saga
  WHERE s.state = 'u' AND s.failure_kind IS NOT NULL
  ON CONFLICT DO NOTHING;

  FOR r IN
    SELECT s.id::text AS id, format('SELECT saga.pause(%L, ''it has time'')', s.id) AS statement
    FROM saga.ledger_saga s JOIN fuzz.set_aside a ON a.saga = s.id WHERE NOT s.paused AND s.state = 'u'
    UNION ALL
    SELECT s.id::text, format('SELECT saga.resume(%L)', s.id)
    FROM saga.ledger_saga s WHERE s.paused AND s.state NOT IN ('d', 'c', 'a')
      AND NOT EXISTS (SELECT FROM fuzz.set_aside a WHERE a.saga = s.id)
    UNION ALL
    SELECT s.id::text, format('SELECT saga.fail(%L)', s.id)
    FROM saga.ledger_saga s
    -- Some go forward as far as they come.
    WHERE (s.state = 'r' OR s.state = 'u' AND s.failure_kind IS NULL) AND (s.runs IS NULL OR random() < 0.3)
    UNION ALL
    -- What the queue tells a person to run; not to try again, and not to wait.
    SELECT q.saga_id::text,
      (SELECT l FROM regexp_split_to_table(q.to_settle, ';  -- [^\n]*(\n|$)') l
        WHERE l ~ '''(skip|done|approve|refuse)''' OR q.step IS NULL AND l ~ 'abandon'
        ORDER BY random() LIMIT 1)
    FROM saga.review_queue q
    UNION ALL
    SELECT p.saga_id::text, format('SELECT saga.complete_compensation(%L, ''"at last"'')', p.compensation_key)
    FROM saga.pending_compensations p
    WHERE p.since IS NOT NULL
      AND NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = p.saga_id AND s.paused)
  LOOP
    BEGIN
      IF r.statement IS NULL THEN
        RAISE EXCEPTION 'the queue offers nothing';
      END IF;
      EXECUTE r.statement INTO ignored;
    EXCEPTION WHEN OTHERS THEN
      -- Of two steps of a saga, the first may settle both.
      IF SQLSTATE <> 'SG002' AND SQLSTATE NOT LIKE '40%' AND SQLSTATE <> '55P03' THEN
        INSERT INTO fuzz.failed_to_settle VALUES (r.id, concat_ws(' ', r.statement, SQLSTATE, SQLERRM));
      END IF;
    END;
  END LOOP;

  RETURN QUERY
  SELECT DISTINCT f.saga, f.what FROM fuzz.failed_to_settle f LIMIT 10;

  RETURN QUERY
  SELECT s.id::text, concat_ws(' ', s.state, s.failure_kind, CASE WHEN s.paused THEN 'paused' END, s.due, s.lane,
    (SELECT v.next_action FROM saga.sagas v WHERE v.id = s.id))
  FROM saga.ledger_saga s
  WHERE s.state NOT IN ('d', 'c', 'a')
    -- Some were given years between two attempts.
    AND NOT coalesce(s.state = 'u' AND s.due > now_of_saga + interval '10 s', false)
    AND NOT (s.state = 'u' AND s.paused AND NOT EXISTS (SELECT FROM fuzz.next_task n
      WHERE n.saga = s.id AND saga.internal_is_running(n.saga, n.seq))
      AND EXISTS (SELECT FROM fuzz.set_aside a WHERE a.saga = s.id))
  LIMIT 20;
END $$;

CREATE FUNCTION fuzz.violations_at_rest() RETURNS TABLE (invariant text, saga text, what text)
LANGUAGE plpgsql AS $$
DECLARE
  r record;
  locks text[];
BEGIN
  -- The processes may be at work on a timer: a lock that is left is there for ever.
  FOR i IN 1 .. 1000 LOOP
    SELECT array_agg(l.what) INTO locks FROM (
      SELECT concat_ws(' ', pid, virtualtransaction, mode, classid, objid, objsubid) FROM pg_locks WHERE locktype = 'advisory') l (what)
    WHERE i = 1 OR l.what = ANY (locks);
    EXIT WHEN locks IS NULL;
    PERFORM pg_sleep(0.01);
  END LOOP;
  RETURN QUERY SELECT 'no lock of a saga outlives its transaction', NULL::text, l FROM unnest(locks) l;

  RETURN QUERY
  SELECT 'no prepared transaction is left', NULL::text, p.gid FROM pg_prepared_xacts p WHERE p.database = current_database();

  -- Rows were written without the executor: are the tables and indexes sound?
  FOR r IN
    SELECT c.oid, c.relname, c.relkind FROM pg_class c
    WHERE c.relnamespace = 'saga'::regnamespace AND c.relkind IN ('r', 'i')
  LOOP
    IF r.relkind = 'i' THEN
      BEGIN
        PERFORM bt_index_check(r.oid, true);
      EXCEPTION WHEN OTHERS THEN
        RETURN QUERY SELECT 'the indexes are sound', NULL::text, concat_ws(' ', r.relname, SQLERRM);
      END;
    ELSE
      RETURN QUERY
      SELECT 'the tables are sound', NULL::text, concat_ws(' ', r.relname, h.blkno, h.offnum, h.msg)
      FROM verify_heapam(r.oid, check_toast => true) h;
    END IF;
  END LOOP;
END $$;
