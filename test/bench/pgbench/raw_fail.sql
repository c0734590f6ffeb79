-- ... and its failure.
\startpipeline
UPDATE saga SET state = 'u', failure_kind = 'f', undo = 'f',
  reason = :failure, due = now(), lane = :owner, updated_at = now()
WHERE id = :id AND owner = :owner AND state = 'r';
WITH p AS (
  UPDATE step SET comp_status = 'p'
  WHERE saga = :id AND comp_status = 'r'
  RETURNING seq, status),
d AS (
  INSERT INTO due (lane, due, saga)
  SELECT lane, due, id FROM saga WHERE id = :id AND due = now())
INSERT INTO event (saga, at, seq, event, actor, detail)
SELECT :id, now(), max(seq) FILTER (WHERE status <> 'c'), 'failing', :owner_name,
  jsonb_build_object('kind', 'failed', 'reason', :failure::text, 'to_undo', count(*))
FROM p HAVING count(*) > 0;
\endpipeline
