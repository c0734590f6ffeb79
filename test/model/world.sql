-- What the histories of test/model/replay.py need in a database of the test build:
-- compensations that fail by plan and leave a witness, calls made one by one, a
-- clock to be moved on, and a wait until nothing is due.

CREATE EXTENSION IF NOT EXISTS saga;
CREATE SCHEMA model;

-- The defaults that model.Policy has: hours, so that no time passes by itself.
SELECT format('ALTER DATABASE %I SET %s', current_database(), s) FROM unnest(ARRAY[
  'saga.max_attempts = 5', 'saga.retry_delay = ''1h''', 'saga.retry_backoff = constant', 'saga.retry_max_delay = ''4h''',
  'saga.retry_jitter = 0', 'saga.compensation_timeout = ''3h''', 'client_min_messages = warning', 'jit = off']) s \gexec

-- ------------------------------------------------------------ compensations

CREATE TABLE model.witness (n bigint GENERATED ALWAYS AS IDENTITY, saga uuid, key text, run integer, attempt integer,
  status text, output jsonb, reason text);
CREATE INDEX ON model.witness (saga);

-- What an attempt does is in the step's args; behind the plan it succeeds.  It
-- leaves its mark first, so that a failed attempt must take it back.
CREATE FUNCTION model.undo(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO model.witness (saga, key, run, attempt, status, output, reason) VALUES (
    (context #>> '{saga,id}')::uuid, context #>> '{step,key}', (context #>> '{step,run}')::integer,
    (context ->> 'attempt')::integer, context #>> '{step,status}', nullif(context -> 'output', 'null'),
    context #>> '{saga,reason}');
  CASE context #>> ARRAY['args', 'plan', ((context ->> 'attempt')::integer - 1)::text]
    WHEN 'fail' THEN RAISE EXCEPTION 'by plan';
    WHEN 'give up' THEN RAISE EXCEPTION 'by plan' USING ERRCODE = 'SG006';
    WHEN 'later' THEN RAISE EXCEPTION 'by plan' USING ERRCODE = 'SG007';
    WHEN 'conflict' THEN RAISE EXCEPTION 'by plan' USING ERRCODE = 'serialization_failure';
    ELSE NULL;
  END CASE;
END $$;

-- ------------------------------------------------------------ time

CREATE FUNCTION model.move_clock(interval) RETURNS void AS 'saga', 'saga_sql_test_advance_clock' LANGUAGE C STRICT;
CREATE TABLE model.clock (began timestamptz, ahead interval);
-- The server's clock may have been moved on before.
SELECT saga.begin('what time is it') AS probe \gset
INSERT INTO model.clock SELECT started_at,
    round(extract(epoch FROM started_at - clock_timestamp()) / 3600) * interval '1 hour'
  FROM saga.sagas WHERE id = :'probe';

CREATE FUNCTION model.advance(hours integer) RETURNS void LANGUAGE sql AS $$
  UPDATE model.clock SET ahead = ahead + hours * interval '1 hour';
  SELECT model.move_clock(hours * interval '1 hour')
$$;

-- A time in whole hours.  Everything lasts whole hours but the test itself,
-- which lasts less than one.
CREATE FUNCTION model.hours(t timestamptz) RETURNS integer LANGUAGE sql STABLE
AS 'SELECT floor(extract(epoch FROM t - began) / 3600)::integer FROM model.clock';

-- Waits until nothing is due, or will be soon by itself.
CREATE PROCEDURE model.quiet() LANGUAGE plpgsql AS $$
DECLARE
  patience timestamptz := clock_timestamp() + interval '3 minutes';
  stuck text;
BEGIN
  LOOP
    SELECT string_agg(concat_ws(' ', saga, due - clock_timestamp() - ahead), ', ') INTO stuck
    FROM (SELECT saga, due, ahead FROM saga.ledger_due, model.clock
          WHERE due <= clock_timestamp() + ahead + interval '1 minute' LIMIT 5) d;
    EXIT WHEN stuck IS NULL;
    IF clock_timestamp() > patience THEN
      RAISE EXCEPTION 'still due: %', stuck;
    END IF;
    COMMIT;
    PERFORM pg_sleep(0.002);
  END LOOP;
END $$;

-- ------------------------------------------------------------ calls

-- The handle of a run's compensation, and its forward key; well formed ones where
-- there is no such run.
CREATE FUNCTION model.handle(saga uuid, key text, run integer) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT coalesce((SELECT compensation_key FROM saga.steps s WHERE s.saga_id = $1 AND s.key = $2 AND s.run = $3),
                  $1 || '-999999999-undo')
$$;
CREATE FUNCTION model.forward(saga uuid, key text, run integer) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT coalesce((SELECT forward_key FROM saga.steps s WHERE s.saga_id = $1 AND s.key = $2 AND s.run = $3),
                  $1 || '-999999999')
$$;

-- Makes calls one by one, each in a transaction of its own unless the word
-- COMMIT is missing between them, and answers for each "= json" or "! SQLSTATE".
CREATE PROCEDURE model.play(calls text[], INOUT answers text[]) LANGUAGE plpgsql AS $$
DECLARE
  call text;
  answer text;
BEGIN
  answers := '{}';
  FOREACH call IN ARRAY calls LOOP
    IF call = 'COMMIT' THEN
      COMMIT;
      CONTINUE;
    END IF;
    BEGIN
      EXECUTE call INTO answer;
      answers := answers || ('= ' || coalesce(answer, 'null'));
    EXCEPTION WHEN OTHERS THEN
      answers := answers || ('! ' || SQLSTATE || ' ' || SQLERRM);
    END;
  END LOOP;
END $$;

-- ------------------------------------------------------------ what is seen

-- All that the views show of some sagas, in the shape of model.Saga.observe().
CREATE FUNCTION model.seen(ids uuid[]) RETURNS TABLE (id uuid, seen json) LANGUAGE sql STABLE AS $$
  WITH saga AS (
    SELECT s.id, json_build_array(state, failure_kind, paused, reason, failed_step, model.hours(deadline), result) AS seen
    FROM saga.sagas s WHERE s.id = ANY (ids)),
  step AS (
    SELECT saga_id AS id, json_agg(json_build_array(key, run, kind, status, attempts, output, error, compensation_status,
      compensation_attempts, model.hours(next_attempt_at), compensation_output, rolled_back_at IS NOT NULL)
      ORDER BY position) AS seen, json_agg(json_build_array(seq, key, run)) AS runs
    FROM saga.steps WHERE saga_id = ANY (ids) GROUP BY 1),
  attempt AS (
    SELECT saga_id AS id, json_agg(json_build_array(seq, phase, attempt, outcome) ORDER BY seq, phase DESC, attempt) AS seen
    FROM saga.attempts WHERE saga_id = ANY (ids) GROUP BY 1),
  event AS (
    SELECT saga_id AS id, json_agg(json_build_array(event, step) ORDER BY position) AS seen
    FROM saga.events WHERE saga_id = ANY (ids) GROUP BY 1),
  review AS (
    SELECT saga_id AS id, json_agg(step ORDER BY seq) AS seen
    FROM saga.review_queue WHERE saga_id = ANY (ids) GROUP BY 1),
  pending AS (
    SELECT saga_id AS id, json_agg(json_build_array(seq, model.hours(lease_until), consumer) ORDER BY seq) AS seen
    FROM saga.pending_compensations WHERE saga_id = ANY (ids) GROUP BY 1),
  effect AS (
    SELECT w.saga AS id, json_agg(json_build_array(key, run, attempt, status, output, reason) ORDER BY n) AS seen
    FROM model.witness w WHERE w.saga = ANY (ids) GROUP BY 1)
  SELECT saga.id, json_build_object('saga', saga.seen, 'steps', step.seen, 'runs', step.runs, 'attempts', attempt.seen,
    'events', event.seen, 'review', review.seen, 'pending', pending.seen, 'effects', effect.seen,
    'plan', (SELECT json_agg(json_build_array(step, action) ORDER BY position) FROM saga.plan(saga.id)))
  FROM saga LEFT JOIN step USING (id) LEFT JOIN attempt USING (id) LEFT JOIN event USING (id) LEFT JOIN review USING (id)
    LEFT JOIN pending USING (id) LEFT JOIN effect USING (id)
$$;
