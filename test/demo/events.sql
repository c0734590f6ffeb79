\pset footer off
\pset null ''
SELECT to_char(at - min(at) OVER (), 'SS.MS') AS seconds, event, step,
  coalesce(detail->>'error', detail->>'reason', '') AS detail
FROM saga.events JOIN saga.sagas ON sagas.id = saga_id
WHERE sagas.name = 'order' AND idempotency_key = :'key' ORDER BY position;
