-- The order as the views show it now, 100 columns wide at most.  One snapshot for
-- the line and the table, so that the two never differ.
\pset footer off
\pset null ''
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT format('%s  order-4711: %s', to_char(clock_timestamp(), 'HH24:MI:SS.MS'), upper(state)) AS line
FROM saga.sagas WHERE name = 'order' \gset
\qecho :line
SELECT position AS "#", steps.name AS step, status AS forward,
  CASE WHEN compensation_status = 'running' THEN '>>> running' ELSE compensation_status END AS compensation,
  compensation AS "undone by", compensation_attempts AS attempts
FROM saga.steps JOIN saga.sagas ON sagas.id = saga_id
WHERE sagas.name = 'order' ORDER BY position;
COMMIT;
