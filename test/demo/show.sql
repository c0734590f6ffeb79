-- The order :key as the views show it now, 100 columns wide at most.  One snapshot
-- for the line and the table, so that the two never differ.
\pset footer off
\pset null ''
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT format('%s  %s: %s', to_char(clock_timestamp(), 'HH24:MI:SS.MS'), idempotency_key, upper(state)) AS line
FROM saga.sagas WHERE name = 'order' AND idempotency_key = :'key' \gset
\qecho :line
SELECT row_number() OVER (ORDER BY seq) AS "#", steps.name AS step,
  CASE WHEN waits_for LIKE 'the end of its action%' THEN '>>> running' ELSE status END AS forward, attempts,
  CASE WHEN compensation_status = 'running' THEN '>>> running' ELSE compensation_status END AS compensation,
  compensation_attempts AS attempts
FROM saga.steps JOIN saga.sagas ON sagas.id = saga_id
WHERE sagas.name = 'order' AND idempotency_key = :'key' ORDER BY seq;
COMMIT;
