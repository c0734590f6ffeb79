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
        action => CASE WHEN s->>'work' = 'action' THEN 'SELECT fwd.act($1)' END,
        after => CASE WHEN jsonb_typeof(s->'after') = 'array'
          THEN ARRAY(SELECT jsonb_array_elements_text(s->'after')) END,
        delay => CASE WHEN s->>'work' = 'gate' THEN '1 ms'::interval END,
        on_failure => s->>'on_failure',
        retry => saga.retry_policy(max_attempts => (s->>'max_attempts')::int, delay => '10 ms', jitter => 0, backoff => 'constant'),
        compensation => CASE WHEN s->>'work' = 'action' THEN 'SELECT fwd.undo($1)' END);
    END IF;
  END LOOP;
END $$;

CREATE FUNCTION fwd.act(c jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO fwd.log (saga, key, run, what, attempt, context)
  VALUES (saga.current(), c->'step'->>'key', (c->'step'->>'run')::int, 'do', (c->>'attempt')::int, c);
  PERFORM fwd.record(saga.current(), c->'args'->'children');
  IF (c->>'attempt')::int <= (c->'args'->>'fails')::int THEN
    RAISE EXCEPTION 'attempt % fails', c->>'attempt';
  END IF;
  RETURN c->'step'->>'key';
END $$;

CREATE FUNCTION fwd.undo(c jsonb) RETURNS void LANGUAGE sql AS $$
  INSERT INTO fwd.log (saga, key, run, what, attempt, context)
  VALUES (saga.current(), c->'step'->>'key', (c->'step'->>'run')::int, 'undo', (c->>'attempt')::int, NULL)
$$;
