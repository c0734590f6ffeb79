-- What the sagas of forward.py do: each step writes down that it was done, and undone.

CREATE SCHEMA fwd;
CREATE TABLE fwd.log (
  n    bigint GENERATED ALWAYS AS IDENTITY,
  saga uuid, key text, run int, what text, attempt int, context jsonb);

-- Records the steps of a list: of the outside, or of the action that runs.
CREATE FUNCTION fwd.record(saga_id uuid, steps jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  s jsonb;
BEGIN
  FOR s IN SELECT value FROM jsonb_array_elements(steps) LOOP
    IF s->>'work' = 'app' THEN
      PERFORM saga.step(saga_id, s->>'key', args => s, compensation => 'SELECT fwd.undo($1)');
    ELSE
      PERFORM saga.step(saga_id, s->>'key', args => s,
        action => CASE WHEN s->>'work' IN ('action', 'rounds') THEN 'SELECT fwd.act($1)' END,
        task => CASE WHEN s->>'work' = 'task' THEN 'fwd' END,
        signals => CASE WHEN s->>'signal' = 'true' THEN ARRAY['go ' || (s->>'key')] END,
        approval => CASE WHEN s->>'approval' IS NOT NULL THEN 'may ' || (s->>'key') || '?' END,
        after => CASE WHEN jsonb_typeof(s->'after') = 'array'
          THEN ARRAY(SELECT jsonb_array_elements_text(s->'after')) END,
        delay => CASE WHEN s->>'work' = 'gate' THEN '1 ms'::interval END,
        on_failure => s->>'on_failure',
        retry => saga.retry_policy(max_attempts => (s->>'max_attempts')::int, delay => '10 ms', jitter => 0, backoff => 'constant'),
        compensation => CASE WHEN s->>'work' <> 'gate' THEN 'SELECT fwd.undo($1)' END);
    END IF;
  END LOOP;
END $$;

CREATE FUNCTION fwd.act(c jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  last boolean := (c->>'round')::int >= (c->'args'->>'rounds')::int;
BEGIN
  INSERT INTO fwd.log (saga, key, run, what, attempt, context)
  VALUES (saga.current(), c->'step'->>'key', (c->'step'->>'run')::int, CASE WHEN last THEN 'do' ELSE 'round' END,
    (c->>'attempt')::int, c);
  IF last THEN
    PERFORM fwd.record(saga.current(), c->'args'->'children');
  ELSE
    PERFORM saga.again(state => c->'round');
  END IF;
  IF (c->>'attempt')::int <= (c->'args'->>'fails')::int THEN
    RAISE EXCEPTION 'attempt % fails', c->>'attempt';
  END IF;
  RETURN c->'step'->>'key';
END $$;

CREATE FUNCTION fwd.undo(c jsonb) RETURNS void LANGUAGE sql AS $$
  INSERT INTO fwd.log (saga, key, run, what, attempt, context)
  VALUES (saga.current(), c->'step'->>'key', (c->'step'->>'run')::int, 'undo', (c->>'attempt')::int, NULL)
$$;

-- A service, which does each of some tasks in one transaction with its report.
CREATE PROCEDURE fwd.serve(how_many int) LANGUAGE plpgsql AS $$
DECLARE
  t record;
BEGIN
  FOR t IN SELECT * FROM saga.claim_tasks('fwd', how_many, '10 minutes', 'fwd') LOOP
    IF t.attempt <= (t.context->'args'->>'fails')::int THEN
      PERFORM saga.fail_task(t.task_key, t.attempt, format('attempt %s fails', t.attempt));
    ELSE
      INSERT INTO fwd.log (saga, key, run, what, attempt, context)
      VALUES (t.saga_id, t.step, (t.context->'step'->>'run')::int, 'do', t.attempt, t.context);
      PERFORM saga.complete_task(t.task_key, to_jsonb(t.step));
    END IF;
  END LOOP;
END $$;
