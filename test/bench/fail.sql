-- The terminal failure as a function in plpgsql, over the tables of :schema.

SET search_path = :schema;

CREATE FUNCTION fail(_saga uuid, _owner oid, _owner_name text, _reason text)
  RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  s "char";
BEGIN
  -- Waits for the steps that are on their way in, and lets in no other.
  UPDATE saga SET state = 'u', failure_kind = 'f', undo = 'f',
    reason = _reason, due = now(), lane = _owner, updated_at = now()
  WHERE id = _saga AND owner = _owner AND state = 'r';
  IF NOT FOUND THEN
    SELECT state INTO s FROM saga WHERE id = _saga AND owner = _owner;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'no such saga';
    ELSIF s NOT IN ('u', 'c', 'p') THEN
      RAISE EXCEPTION 'the saga is not running';
    END IF;
    RETURN 'compensating';
  END IF;
  WITH p AS (
    UPDATE step SET comp_status = 'p'
    WHERE saga = _saga AND comp_status = 'r'
    RETURNING seq, status),
  d AS (
    INSERT INTO due (lane, due, saga) VALUES (_owner, now(), _saga))
  INSERT INTO event (saga, at, seq, event, actor, detail)
  SELECT _saga, now(), max(seq) FILTER (WHERE status <> 'c'), 'failing', _owner_name,
    jsonb_build_object('kind', 'failed', 'reason', _reason, 'to_undo', count(*))
  FROM p;
  RETURN 'compensating';
END $$;

RESET search_path;
