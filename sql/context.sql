-- The context that a compensation gets as $1
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

CREATE TABLE test.seen (n bigint GENERATED ALWAYS AS IDENTITY, context jsonb);
CREATE FUNCTION test.see(context jsonb) RETURNS void LANGUAGE sql AS $$
  INSERT INTO test.seen (context) VALUES (context);
$$;

SELECT saga.begin('order', 'order 1', '{"customer": 5}') AS id \gset
SELECT forward_key AS key_full FROM saga.step(:'id', 'charge', 'charge 1', compensation => 'SELECT test.see($1)',
  args => '{"card": "4711"}', retry => saga.retry_policy(9, '3 s', 'linear', '1 minute', 0.25, '90 s'),
  compensation_retry => saga.retry_policy(4, '20 ms', 'constant', '2 s', 0, '0')) \gset
SELECT status FROM saga.complete_step(:'id', 'charge 1', '{"charge": "ch_1"}');
SELECT status FROM saga.step(:'id', 'bare', compensation => 'SELECT test.see($1)');
SELECT status, attempt FROM saga.step(:'id', 'bare', compensation => 'SELECT test.see($1)');
SELECT status FROM saga.step(:'id', 'failed', compensation => 'SELECT test.see($1)');
SELECT status FROM saga.fail_step(:'id', 'failed', 'it broke');
SELECT saga.fail(:'id', 'no stock', '{"sku": 3}');
SELECT saga.wait(:'id');

SELECT test.mask(jsonb_pretty(regexp_replace(context::text, '"seq": \d+', '"seq": 0')::jsonb)) AS context
FROM test.seen ORDER BY n \g (format=unaligned tuples_only=on)

-- What is masked above
SELECT context #>> '{saga,id}' = :'id' AS id, (context #>> '{step,seq}')::bigint = seq AS seq,
  context ->> 'forward_key' = forward_key AS forward_key,
  context ->> 'compensation_key' = compensation_key AS compensation_key,
  forward_key <> compensation_key AS differ,
  (context #>> '{step,started_at}')::timestamptz = started_at AS started_at,
  (context #>> '{step,completed_at}')::timestamptz IS NOT DISTINCT FROM completed_at AS completed_at
FROM test.seen JOIN saga.steps ON saga_id = :'id' AND key = context #>> '{step,key}' ORDER BY n;
SELECT context ->> 'forward_key' = :'key_full' AS same_as_when_it_started FROM test.seen ORDER BY n DESC LIMIT 1;

-- Cancelled, without a reason; at its third attempt
SELECT saga.begin('order') AS id \gset
CREATE SEQUENCE test.tries;
SELECT status FROM saga.step(:'id', 'a', compensation => $$
  SELECT test.see($1 || jsonb_build_object('try', nextval('test.tries')));
  SELECT 1 / ((SELECT last_value FROM test.tries) - 1) / ((SELECT last_value FROM test.tries) - 2)$$,
  compensation_retry => saga.retry_policy(delay => '10 ms'));
TRUNCATE test.seen;
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');
SELECT context ->> 'attempt' AS attempt, context ->> 'try' AS try, (context #> '{saga}') - 'id'::text AS saga FROM test.seen;
SELECT attempt, outcome, sqlstate, a.error FROM saga.attempts a WHERE saga_id = :'id' AND phase = 'compensation' ORDER BY attempt;

-- What is not there is null, so that a handler can rely on the shape.
SELECT key, jsonb_typeof(value) FROM test.seen, jsonb_each(context) ORDER BY 1;
SELECT key, jsonb_typeof(value) FROM test.seen, jsonb_each(context -> 'saga') ORDER BY 1;
SELECT key, jsonb_typeof(value) FROM test.seen, jsonb_each(context -> 'step') ORDER BY 1;
SELECT key, jsonb_typeof(value) FROM test.seen, jsonb_each(context -> 'retry') ORDER BY 1;
-- the times of a policy are intervals for those who cast them
SELECT (context #>> '{retry,delay}')::interval, (context #>> '{retry,max_delay}')::interval,
  (context #>> '{retry,timeout}')::interval FROM test.seen;
