-- The order as the views show it now, 100 columns wide at most.
\pset footer off
\pset null ''
SELECT format('%s  %s%s', to_char(clock_timestamp(), 'HH24:MI:SS.MS'), upper(state),
    CASE WHEN state = 'compensating' THEN ': ' || next_action ELSE '' END) AS line
FROM saga.sagas WHERE name = 'order' \gset
\qecho :line
SELECT position AS "#", steps.name AS step, status AS forward,
  CASE WHEN compensation_status = 'running' THEN '>>> running' ELSE compensation_status END AS compensation,
  compensation AS "undone by", error
FROM saga.steps JOIN saga.sagas ON sagas.id = saga_id
WHERE sagas.name = 'order' ORDER BY position;
