-- The happy path: a saga begins, its steps start and complete, it completes.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

SELECT saga.begin('order', 'happy-1', '{"amount": 12}') AS id \gset
SELECT id = :'id' AS it, name, idempotency_key, state, failure_kind, paused,
  owner = current_user::regrole AS mine, input, result, steps, last_completed_step,
  next_action, next_action_at, deadline, requires_review,
  started_at = updated_at AS fresh, finished_at
FROM saga.sagas WHERE id = :'id' \gx

-- The answer of each call
SELECT saga_id = :'id' AS it, seq > 0 AS numbered, step, status, attempt, output, error,
  retry_at, forward_key = saga_id || '-' || seq AS keyed
FROM saga.step(:'id', 'reserve', compensation => 'SELECT 1', args => '{"sku": 7}');
SELECT saga_id = :'id' AS it, step, status, attempt, output, error, retry_at
FROM saga.complete_step(:'id', 'reserve', '{"reservation": 5}');
SELECT step, status, attempt, output FROM saga.step(:'id', 'charge');
SELECT step, status, attempt, output FROM saga.complete_step(:'id', 'charge');
SELECT last_completed_step, steps, next_action FROM saga.sagas WHERE id = :'id';
SELECT saga.complete(:'id', '{"ok": true}');
SELECT state, result, last_completed_step, next_action, requires_review,
  finished_at = updated_at AS finished
FROM saga.sagas WHERE id = :'id' \gx

-- What a step is when nothing is said of it
SELECT position, name, key, run, kind, status, attempts, output, error,
  compensation_kind, compensation, args, channel, review, run_as = current_user::regrole AS mine,
  compensation_status, compensation_attempts, next_attempt_at, last_error, parked,
  compensated_at, completed_at >= started_at AS completed, retry, compensation_retry,
  forward_key = saga_id || '-' || seq AS forward_key,
  compensation_key = forward_key || '-undo' AS compensation_key
FROM saga.steps WHERE saga_id = :'id' ORDER BY seq \gx

SELECT s.position, phase, attempt, outcome, sqlstate, a.error, rows, consumer,
  a.finished_at >= a.started_at AS finished
FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq)
WHERE saga_id = :'id' ORDER BY seq;
SELECT position, event, step, detail, seq IS NOT NULL AS of_step
FROM saga.events WHERE saga_id = :'id' ORDER BY position;
SELECT count(*) FROM saga.pending_compensations;

-- saga.start is saga.begin, and survives in a body that psql parses
SELECT saga.start('order', 'happy-1', '{"amount": 12}') = :'id' AS the_same;
CREATE FUNCTION test.place_order(key text) RETURNS uuid
  BEGIN ATOMIC SELECT saga.start('order', key); END;
CREATE FUNCTION test.order_of(key text) RETURNS uuid RETURN saga.start('order', key);
SELECT test.place_order('happy-2') = test.order_of('happy-2') AS the_same;

-- Without a key each call begins a saga; another name is another saga.
SELECT saga.begin('order') <> saga.begin('order') AS two;
SELECT saga.begin('other order', 'happy-1') <> :'id' AS two;

-- Ids are UUIDs of version 7, in the order of time
SELECT bool_and(id > before) AS ascending,
  bool_and(substr(id::text, 15, 1) = '7' AND substr(id::text, 20, 1) IN ('8', '9', 'a', 'b')) AS version_7
FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before
      FROM (SELECT n, saga.begin('uuid') AS id FROM generate_series(1, 1000) n) begun) pairs;
SELECT to_timestamp(('x' || translate(substr(id::text, 1, 13), '-', ''))::bit(48)::bigint / 1000.0)
  - started_at BETWEEN '-5 seconds' AND '5 seconds' AS tells_when
FROM saga.sagas WHERE id = :'id';

-- One call that is written with a star makes one attempt
SELECT saga.begin('order') AS id \gset
SELECT (saga.step(:'id', 'a')).step, (saga.step(:'id', 'a')).attempt;
CREATE TABLE test.star AS SELECT (saga.step(:'id', 'b')).*;
SELECT saga_id = :'id' AS it, test.mask(forward_key) AS forward_key, step, status, attempt,
  output, error, retry_at FROM test.star;
SELECT key, attempts FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
SELECT count(*) AS attempts FROM saga.attempts WHERE saga_id = :'id';

-- Neighbouring calls in one statement, in the order written
CREATE TABLE test.lateral AS
SELECT st.* FROM saga.begin('order', 'lateral') AS s, LATERAL saga.step(s, 'a', compensation => 'SELECT 1') AS st;
SELECT step, status, attempt, test.mask(forward_key) AS forward_key FROM test.lateral;
SELECT s AS id FROM saga.begin('order', 'lateral') s \gset
SELECT (c).status AS a, (c).output, (b).status AS b
FROM (SELECT saga.complete_step(:'id', 'a', '{"n": 1}') AS c, saga.step(:'id', 'b') AS b) calls;
SELECT (saga.complete_step(:'id', 'b')).status AS b, (saga.step(:'id', 'c')).status AS c;
SELECT (saga.complete_step(:'id', 'c')).status AS c, saga.complete(:'id', '{"done": 3}');
SELECT position, key, status, output FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
SELECT string_agg(event || COALESCE(' ' || step, ''), ', ' ORDER BY position) AS life
FROM saga.events WHERE saga_id = :'id';

-- A whole saga in one statement
SELECT (a).status AS a, (b).status AS b, done
FROM saga.begin('order') AS s,
  LATERAL (SELECT saga.step(s, 'a', completed => true) AS a, saga.step(s, 'b', output => '[]') AS b) steps,
  LATERAL saga.complete(s) AS done;

-- A step that is recorded as completed in the same write
SELECT saga.begin('order') AS id \gset
SELECT step, status, attempt, output FROM saga.step(:'id', 'a', output => '{"x": 1}');
SELECT step, status, attempt, output FROM saga.step(:'id', 'b', completed => true);
SELECT step, status, attempt, output FROM saga.step(:'id', 'c', output => 'null');
-- ... also when it was started before
SELECT step, status, attempt, output FROM saga.step(:'id', 'd');
SELECT step, status, attempt, output FROM saga.step(:'id', 'd', output => '{"x": 4}');
SELECT step, status, attempt, output FROM saga.step(:'id', 'e');
SELECT step, status, attempt, output FROM saga.complete_step(:'id', 'e', 'null');
SELECT key, status, attempts, output, completed_at = started_at AS same_write
FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
SELECT s.key, attempt, outcome FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq)
WHERE saga_id = :'id' ORDER BY seq, attempt;

-- Name and key of a step are two things; the order is that of the first calls.
SELECT saga.begin('order') AS id \gset
SELECT step FROM saga.step(:'id', 'item', 'item 2');
SELECT step FROM saga.step(:'id', 'item', 'item 1');
SELECT step FROM saga.step(:'id', 'item');
SELECT step FROM saga.step(:'id', 'item', 'item 2');
SELECT position, name, key, attempts, run FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'item 3'));

-- Everything that can be said of a step
SELECT saga.begin('order', timeout => '2 hours', on_compensation_failure => 'continue',
                  announce => 'orders') AS id \gset
SELECT deadline - started_at AS timeout, next_action_at = deadline AS due FROM saga.sagas WHERE id = :'id';
SELECT status FROM saga.step(:'id', 'a', 'key of a', compensation => 'DELETE FROM t', args => '[1]',
  kind => 'pivot', compensate_on => 'completed', review => 'is the customer told?',
  retry => saga.retry_policy(7, '2 s', 'linear', '1 minute', 0, '1 hour'),
  compensation_retry => saga.retry_policy(backoff => 'constant', jitter => 1));
SELECT status FROM saga.step(:'id', 'b', notify => 'refunds', acknowledge => false, kind => 'retriable');
SELECT status FROM saga.step(:'id', 'c', review => 'only a person can undo this');
SELECT name, key, kind, compensation_kind, compensation, channel, review, args,
  compensation_status, retry, compensation_retry
FROM saga.steps WHERE saga_id = :'id' ORDER BY position \gx

-- NULL for an optional argument means its default.
SELECT saga.begin('order', NULL, NULL, NULL, NULL, NULL) AS id \gset
SELECT on_failure, deadline, announce, input FROM saga.ledger_saga WHERE id = :'id';
SELECT status, attempt FROM saga.step(:'id', 'a', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                                      NULL, NULL, NULL, NULL);
SELECT acknowledge FROM saga.ledger_step WHERE saga = :'id';
SELECT kind, compensate_on = 's' AS on_started FROM saga.ledger_step WHERE saga = :'id';
SELECT status, retry_at IS NOT NULL AS retryable FROM saga.fail_step(:'id', 'a', 'oops', NULL, NULL);
SELECT status, attempt FROM saga.step(:'id', 'a');
SELECT status FROM saga.complete_step(:'id', 'a', NULL, NULL, NULL);
SELECT saga.complete(:'id', NULL, NULL);
SELECT saga.wait(:'id', NULL, NULL);
SELECT saga.retry_policy(NULL, NULL, NULL, NULL, NULL, NULL);

-- The settings are the defaults of policies, resolved when the step starts.
SET saga.max_attempts = 3;
SET saga.retry_delay = '2s';
SET saga.retry_backoff = linear;
SET saga.retry_max_delay = '1min';
SET saga.retry_jitter = 0.5;
SET saga.compensation_timeout = '30s';
SET saga.default_timeout = '1h';
SELECT saga.begin('order') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT 1');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT 1',
  retry => saga.retry_policy(max_attempts => 9));
RESET ALL;
SELECT key, retry, compensation_retry FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
SELECT deadline - started_at AS timeout FROM saga.sagas WHERE id = :'id';
SET saga.default_timeout = '1h';
SELECT saga.begin('order', timeout => '0') AS id \gset
SELECT deadline FROM saga.sagas WHERE id = :'id';
RESET saga.default_timeout;

-- Of a policy only what sets it apart is stored, and it is read back whole.
SELECT saga.begin('order') AS id \gset
SELECT count(saga.step(:'id', key, compensation => 'SELECT 1', retry => NULL, compensation_retry => policy))
FROM (VALUES ('1 all', saga.retry_policy(5, '1 s', 'exponential', '5 min', 0.1, '10 min')),
  ('2 attempts', saga.retry_policy(max_attempts => 3)), ('3 delay', saga.retry_policy(delay => '2 s')),
  ('4 backoff', saga.retry_policy(backoff => 'linear')), ('5 max_delay', saga.retry_policy(max_delay => '1 min')),
  ('6 jitter', saga.retry_policy(jitter => 1.0 / 3)), ('7 timeout', saga.retry_policy(timeout => '0'))) p (key, policy);
SELECT l.key, l.compensation_retry AS stored, s.compensation_retry, l.retry AS stored_retry, s.retry
FROM saga.ledger_step l JOIN saga.steps s USING (seq) WHERE l.saga = :'id' ORDER BY l.key;
SELECT compensation_retry = ROW(5, '1 s'::interval, 'exponential', '5 min'::interval, 1.0::float8 / 3, '10 min'::interval)::saga.retry_policy AS exactly
FROM saga.steps WHERE saga_id = :'id' AND key = '6 jitter';

-- A rolled back call was never there.
BEGIN;
SELECT count(saga.begin('order', 'rolled back')) FROM generate_series(1, 2);
ROLLBACK;
SELECT count(*) FROM saga.sagas WHERE idempotency_key = 'rolled back';
SELECT saga.begin('order') AS id \gset
BEGIN;
SELECT status FROM saga.step(:'id', 'a');
SAVEPOINT s;
SELECT status FROM saga.step(:'id', 'b');
SELECT status FROM saga.complete_step(:'id', 'a');
ROLLBACK TO s;
SELECT status, attempt FROM saga.step(:'id', 'b');
COMMIT;
SELECT position, key, status, attempts FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
