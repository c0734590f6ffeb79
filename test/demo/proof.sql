-- After the load: what must be true, and whether it is.
\pset footer off
\pset null ''
SELECT count(*) AS begun,
  count(*) FILTER (WHERE state = 'completed') AS completed,
  count(*) FILTER (WHERE failure_kind IS NOT NULL) AS failed,
  count(*) FILTER (WHERE state = 'compensated') AS undone
FROM saga.sagas WHERE name = 'transfer' AND idempotency_key IS NULL;

SELECT round(1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY wait)::numeric, 2) AS "failure to first undo, median ms",
  round(1000 * percentile_cont(0.99) WITHIN GROUP (ORDER BY wait)::numeric, 2) AS "99 % within ms"
FROM (
  SELECT extract(epoch FROM min(a.started_at) - min(e.at)) AS wait
  FROM saga.events e JOIN saga.attempts a USING (saga_id)
  WHERE e.event = 'failing' AND a.phase = 'compensation'
  GROUP BY saga_id) w;

CREATE TEMP TABLE proof AS
WITH s AS MATERIALIZED (
  SELECT * FROM saga.sagas WHERE name = 'transfer' AND idempotency_key IS NULL
), moved AS (
  SELECT aid, sum(cents) AS cents
  FROM (SELECT debit AS aid, -cents AS cents FROM entry
        UNION ALL SELECT credit, cents FROM entry) e
  GROUP BY aid
)
SELECT 1 AS n, 'transfers ran, and some failed' AS what,
  count(*) > 0 AND count(failure_kind) > 0 AS holds FROM s
UNION ALL
SELECT 2, 'no saga is left unfinished',
  count(*) FILTER (WHERE state NOT IN ('completed', 'compensated')) = 0 FROM s
UNION ALL
SELECT 3, 'undone = failed',
  count(*) FILTER (WHERE state = 'compensated') = count(failure_kind) FROM s
UNION ALL
SELECT 4, 'every step of a failed transfer is undone once, every other step never',
  (SELECT count(*) FROM saga.steps WHERE saga_id IN (SELECT id FROM s WHERE failure_kind IS NOT NULL))
  = (SELECT count(*) FROM saga.attempts WHERE phase = 'compensation' AND outcome = 'succeeded'
     AND saga_id IN (SELECT id FROM s))
UNION ALL
SELECT 5, format('sum(abalance) is exactly what it was: %s', :before),
  sum(abalance) = :before FROM pgbench_accounts
UNION ALL
SELECT 6, 'every single account holds what its completed transfers moved',
  bool_and(abalance = 100000 + coalesce(cents, 0)) FROM pgbench_accounts LEFT JOIN moved USING (aid)
UNION ALL
SELECT 7, 'completed transfers = entries',
  (SELECT count(*) FROM entry) = count(*) FILTER (WHERE state = 'completed') FROM s;

SELECT what AS "the proof", CASE WHEN holds THEN 'yes' ELSE '*** NO ***' END AS holds FROM proof ORDER BY n;
\o proof
\t on
\a
SELECT bool_and(holds) FROM proof;
