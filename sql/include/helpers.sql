-- What the regression tests share, in a schema of its own that each of them
-- makes anew.

SET client_min_messages = warning;
SET datestyle = ISO;
SET timezone = UTC;
DROP SCHEMA IF EXISTS test CASCADE;
CREATE SCHEMA test;
GRANT USAGE ON SCHEMA test TO PUBLIC;
\i sql/include/drop_roles.sql

-- Ids, numbers in the start order and times are never the same twice.
CREATE FUNCTION test.mask(what text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN regexp_replace(regexp_replace(regexp_replace(regexp_replace(what, '\mprocess \d+', 'process <pid>', 'g'),
  '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}-[0-9]+', '<key>', 'g'),
  '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}', '<id>', 'g'),
  '\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[0-9.]*([+-]\d\d(:\d\d)?| [A-Z]+)?', '<time>', 'g');

-- Runs a statement that must be refused, and shows the whole error.
CREATE PROCEDURE test.refuses(statement text) LANGUAGE plpgsql AS $$
DECLARE
  answer text;
  code text;
  words text;
  more text;
  advice text;
BEGIN
  EXECUTE statement INTO answer;
  RAISE INFO 'not refused: %', test.mask(answer);
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, words = MESSAGE_TEXT,
    more = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT;
  RAISE INFO '%: %', code, test.mask(words) ||
    CASE WHEN more <> '' THEN E'\nDETAIL:  ' || test.mask(more) ELSE '' END ||
    CASE WHEN advice <> '' THEN E'\nHINT:  ' || test.mask(advice) ELSE '' END;
END $$;

-- How much the ledger holds, and how far the start order has come.
CREATE FUNCTION test.ledger_size() RETURNS text LANGUAGE sql VOLATILE
RETURN (SELECT count(*) FROM saga.ledger_saga) || ' ' ||
  (SELECT count(*) FROM saga.ledger_step) || ' ' ||
  (SELECT count(*) FROM saga.ledger_attempt) || ' ' ||
  (SELECT count(*) FROM saga.ledger_event) || ' ' ||
  (SELECT count(*) FROM saga.ledger_due) || ' ' ||
  (SELECT count(*) FROM saga.ledger_queue) || ' ' ||
  (SELECT last_value FROM saga.start_order);

-- Sagas by the names that a test gives them.
CREATE TABLE test.named (name text PRIMARY KEY, id uuid NOT NULL);
CREATE FUNCTION test.begin(key text, on_compensation_failure text DEFAULT NULL,
                           timeout interval DEFAULT NULL) RETURNS uuid
LANGUAGE sql VOLATILE AS $$
  INSERT INTO test.named
    SELECT key, saga.begin('test', on_compensation_failure => $2, timeout => $3)
  RETURNING id
$$;
CREATE FUNCTION test.id(key text) RETURNS uuid LANGUAGE sql STABLE
AS 'SELECT id FROM test.named WHERE name = key';

-- What compensations did, in the order in which they did it.
CREATE TABLE test.witness (n bigint GENERATED ALWAYS AS IDENTITY, saga uuid,
                           step text, what text);
CREATE FUNCTION test.undo(context jsonb, what text DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE AS $$
  INSERT INTO test.witness (saga, step, what)
  VALUES ((context #>> '{saga,id}')::uuid, context #>> '{step,key}', what)
$$;
CREATE FUNCTION test.undone(key text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT string_agg(step || COALESCE(' (' || what || ')', ''), ', ' ORDER BY n)
  FROM test.witness WHERE saga = test.id(key)
$$;

-- What the views tell of them
CREATE FUNCTION test.saga(key text, OUT state text, OUT failure_kind text, OUT failed_step text,
                          OUT reason text, OUT next_action text, OUT undone text)
LANGUAGE sql STABLE AS $$
  SELECT state, failure_kind, failed_step, reason, test.mask(next_action), test.undone($1)
  FROM saga.sagas WHERE id = test.id($1)
$$;
CREATE FUNCTION test.steps(key text) RETURNS TABLE (
  step text, status text, output jsonb, compensation text, attempts integer, last_error text, parked text)
LANGUAGE sql STABLE AS $$
  SELECT s.key, s.status, s.output, compensation_status, compensation_attempts, s.last_error, s.parked
  FROM saga.steps s WHERE saga_id = test.id($1) ORDER BY position
$$;
CREATE FUNCTION test.attempts(key text) RETURNS TABLE (
  step text, phase text, attempt integer, outcome text, sqlstate text, error text, rows bigint)
LANGUAGE sql STABLE AS $$
  SELECT s.key, phase, a.attempt, outcome, a.sqlstate, a.error, a.rows
  FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq)
  WHERE saga_id = test.id($1) AND phase = 'compensation' ORDER BY s.position DESC, a.attempt
$$;
CREATE FUNCTION test.events(key text) RETURNS TABLE ("position" bigint, event text, step text, detail text)
LANGUAGE sql STABLE AS $$
  SELECT position, event, step, test.mask(detail::text) FROM saga.events
  WHERE saga_id = test.id($1) ORDER BY position
$$;

-- The first n attempts fail.
CREATE PROCEDURE test.fail_first(context jsonb, failures integer, code text) LANGUAGE plpgsql AS $$
BEGIN
  IF (context ->> 'attempt')::integer <= failures THEN
    RAISE EXCEPTION USING ERRCODE = code,
      MESSAGE = format('attempt %s of %s is in vain', context ->> 'attempt', context #>> '{step,key}');
  END IF;
END $$;
-- Compensations that do not succeed at once
CREATE FUNCTION test.undo_after(context jsonb, failures integer, code text DEFAULT 'P0001') RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  CALL test.fail_first(context, failures, code);
  PERFORM test.undo(context);
END $$;

-- Waits until a query answers true; commits while it waits.
CREATE PROCEDURE test.wait_until(query text) LANGUAGE plpgsql AS $$
DECLARE
  answer boolean;
  patience integer := 6000;
BEGIN
  LOOP
    EXECUTE query INTO answer;
    EXIT WHEN answer;
    patience := patience - 1;
    IF patience = 0 THEN
      RAISE EXCEPTION 'waited in vain for: %', query;
    END IF;
    COMMIT;
    PERFORM pg_sleep(0.01);
  END LOOP;
END $$;

RESET client_min_messages;
