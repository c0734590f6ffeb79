-- Plain SQL, the first six statements, as in client.c.  search_path: the tables.
-- The id must be made where there are more than integers; it is ordered by
-- time, for which the number of the transaction serves.
\set key random(1000000000000000000, 9000000000000000000)
INSERT INTO saga (id, owner, started_at, on_failure, owner_name, name, key,
  updated_at, state, paused)
VALUES ((lpad(pg_current_xact_id()::text, 16, '0') || '8a6b2c4d9e1f3057')::uuid,
  :owner, now(), 'h', :owner_name, 'order', :key, now(), 'r', false)
ON CONFLICT (owner, name, key) WHERE key IS NOT NULL DO NOTHING
RETURNING id \gset
INSERT INTO step (saga, seq, started_at, run, run_as, kind, compensate_on,
  acknowledge, run_as_name, key, compensation, args, compensation_retry, attempts,
  status, comp_status)
VALUES ((SELECT id FROM saga WHERE id = :id AND owner = :owner AND state = 'r' FOR SHARE),
  nextval('start_order'), now(), 1, :owner, 'c', 's', true, :owner_name, :step0,
  :compensation0, :args0, '', 1, 's', 'r')
ON CONFLICT (saga, key, run) DO NOTHING;
UPDATE step SET status = 'c', completed_at = now(), output = :output0
WHERE saga = :id AND key = :step0 AND run = 1 AND run_as = :owner
  AND status = 's' AND comp_status IN ('n', 'r');
INSERT INTO step (saga, seq, started_at, run, run_as, kind, compensate_on,
  acknowledge, run_as_name, key, compensation, args, compensation_retry, attempts,
  status, comp_status)
VALUES ((SELECT id FROM saga WHERE id = :id AND owner = :owner AND state = 'r' FOR SHARE),
  nextval('start_order'), now(), 1, :owner, 'c', 's', true, :owner_name, :step1,
  :compensation1, :args1, '', 1, 's', 'r')
ON CONFLICT (saga, key, run) DO NOTHING;
UPDATE step SET status = 'c', completed_at = now(), output = :output1
WHERE saga = :id AND key = :step1 AND run = 1 AND run_as = :owner
  AND status = 's' AND comp_status IN ('n', 'r');
INSERT INTO step (saga, seq, started_at, run, run_as, kind, compensate_on,
  acknowledge, run_as_name, key, compensation, args, compensation_retry, attempts,
  status, comp_status)
VALUES ((SELECT id FROM saga WHERE id = :id AND owner = :owner AND state = 'r' FOR SHARE),
  nextval('start_order'), now(), 1, :owner, 'c', 's', true, :owner_name, :step2,
  :compensation2, :args2, '', 1, 's', 'r')
ON CONFLICT (saga, key, run) DO NOTHING;
