-- The calls as functions in plpgsql, the answers to repeated calls included,
-- over the tables of :schema.  The caller's search_path leads to them: a SET
-- clause would cost every call.

SET search_path = :schema;

CREATE TYPE step_result AS (
  saga_id uuid, seq bigint, step text, status text, attempt integer,
  output jsonb, error text, retry_at timestamptz);

CREATE FUNCTION begin(_id uuid, _name text, _key text, _owner oid, _owner_name text)
  RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  known uuid;
BEGIN
  LOOP
    INSERT INTO saga (id, owner, started_at, on_failure, owner_name, name,
      key, updated_at, state, paused)
    VALUES (_id, _owner, now(), 'h', _owner_name, _name, _key, now(), 'r', false)
    ON CONFLICT (owner, name, key) WHERE key IS NOT NULL DO NOTHING;
    IF FOUND THEN
      RETURN _id;
    END IF;
    SELECT id INTO known FROM saga
    WHERE owner = _owner AND name = _name AND key = _key;
    IF FOUND THEN
      RETURN known;
    END IF;
  END LOOP;
END $$;

-- Why a step cannot start
CREATE FUNCTION refuse(_saga uuid, _owner oid)
  RETURNS uuid LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM saga WHERE id = _saga AND owner = _owner;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no such saga';
  END IF;
  RAISE EXCEPTION 'the saga is not running';
END $$;

CREATE FUNCTION start_step(_saga uuid, _key text, _compensation text,
    _args jsonb, _run_as oid, _run_as_name text, _policy text)
  RETURNS step_result LANGUAGE plpgsql AS $$
DECLARE
  r step_result;
BEGIN
  -- One statement, since each costs more than what is in it.
  INSERT INTO step (saga, seq, started_at, run, run_as, kind,
    compensate_on, acknowledge, run_as_name, key, compensation, args,
    compensation_retry, attempts, status, comp_status)
  VALUES (
    coalesce((SELECT id FROM saga WHERE id = _saga AND owner = _run_as AND state = 'r' FOR SHARE),
      refuse(_saga, _run_as)),
    nextval('start_order'), now(), 1, _run_as, 'c', 's', true,
    _run_as_name, _key, _compensation, _args, _policy, 1, 's', 'r')
  ON CONFLICT (saga, key, run) DO NOTHING
  RETURNING saga, seq, key, status, attempts, output, error, retry_at INTO r;
  IF NOT FOUND THEN
    UPDATE step SET attempts = attempts + 1, attempt_at = now(), status = 's'
    WHERE saga = _saga AND key = _key AND run = 1 AND status <> 'c'
    RETURNING saga, seq, key, status, attempts, output, error, retry_at INTO r;
    IF NOT FOUND THEN
      SELECT saga, seq, key, status, attempts, output, error, retry_at INTO r
      FROM step WHERE saga = _saga AND key = _key AND run = 1;
    END IF;
  END IF;
  RETURN r;
END $$;

CREATE FUNCTION complete_step(_saga uuid, _key text, _output jsonb, _owner oid)
  RETURNS step_result LANGUAGE plpgsql AS $$
DECLARE
  r step_result;
BEGIN
  UPDATE step SET status = 'c', completed_at = now(), output = _output
  WHERE saga = _saga AND key = _key AND run = 1 AND run_as = _owner
    AND status = 's' AND comp_status IN ('n', 'r')
  RETURNING saga, seq, key, status, attempts, output, error, retry_at INTO r;
  IF NOT FOUND THEN
    SELECT saga, seq, key, status, attempts, output, error, retry_at INTO r
    FROM step
    WHERE saga = _saga AND key = _key AND run = 1 AND run_as = _owner AND status = 'c';
    IF NOT FOUND THEN
      RAISE EXCEPTION 'the step cannot be completed';
    END IF;
  END IF;
  RETURN r;
END $$;

CREATE FUNCTION complete(_saga uuid, _owner oid)
  RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  s "char";
BEGIN
  -- Waits for the steps that are on their way in, and lets in no other; so the
  -- next statement sees all.
  UPDATE saga SET state = 'd', finished_at = now(), updated_at = now()
  WHERE id = _saga AND owner = _owner AND state = 'r';
  IF NOT FOUND THEN
    SELECT state INTO s FROM saga WHERE id = _saga AND owner = _owner;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'no such saga';
    ELSIF s <> 'd' THEN
      RAISE EXCEPTION 'the saga is not running';
    END IF;
    RETURN 'completed';
  END IF;
  PERFORM FROM step WHERE saga = _saga
    AND (status = 's' OR status = 'f' AND comp_status <> 'n');
  IF FOUND THEN
    RAISE EXCEPTION 'a step has not completed';
  END IF;
  RETURN 'completed';
END $$;

RESET search_path;
