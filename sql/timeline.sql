-- saga.timeline: what took how long, drawn to scale.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\i sql/include/listeners.sql
\i sql/include/clock.sql
CREATE ROLE regress_saga_owner LOGIN;
CREATE ROLE regress_saga_stranger;
CREATE ROLE regress_saga_monitor IN ROLE pg_monitor;
GRANT USAGE ON SCHEMA saga TO regress_saga_owner, regress_saga_stranger, regress_saga_monitor;
\set ECHO all
-- An hour has two columns; what the machine took besides has none.
CREATE FUNCTION test.timeline(name text, width integer) RETURNS TABLE (
  step text, phase text, attempt integer, outcome text, has_begun boolean, hours interval, bar text)
LANGUAGE sql VOLATILE AS $$
  SELECT step, phase, attempt, outcome, began IS NOT NULL, date_trunc('hour', duration), '|' || bar || '|'
  FROM saga.timeline(test.id($1), $2)
$$;

-- The application goes forward: a takes two hours, b one, a pause of one, and one
-- in which the saga fails.  A listener comes after two hours and takes one; the
-- compensation of a fails once and is tried again after two hours.
SELECT test.begin('order') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo_after($1, 1)',
  compensation_retry => saga.retry_policy(delay => '2 hours', max_delay => '2 hours', backoff => 'constant', jitter => 0));
SELECT test.advance('2 hours');
SELECT status FROM saga.complete_step(:'id', 'a');
SELECT status FROM saga.step(:'id', 'b', notify => 'k_timeline', compensation_retry => saga.retry_policy(timeout => '1 day'));
SELECT test.advance('1 hour');
SELECT status FROM saga.fail_step(:'id', 'b', 'not yet');
SELECT test.advance('1 hour');
-- What is to be tried again waits,
SELECT * FROM test.timeline('order', 12);
SELECT status FROM saga.step(:'id', 'b');
SELECT test.advance('1 hour');
-- and what is tried is under way.
SELECT * FROM test.timeline('order', 10);
CALL test.fail('order');
SELECT test.advance('2 hours');
SELECT * FROM test.timeline('order', 14);
SELECT * FROM test.claim('k_timeline', lease => '12 hours');
SELECT test.advance('1 hour');
SELECT * FROM test.timeline('order', 16);
SELECT test.done('order', 'b');
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.attempts WHERE saga_id = %L AND outcome = ''failed'' AND phase = ''compensation''', :'id'));
SELECT test.advance('1 hour');
SELECT * FROM test.timeline('order', 18);
SELECT test.advance('61 minutes');
SELECT saga.wait(:'id');
SELECT * FROM test.timeline('order', 20);
-- Times that are not known are not shown; what attempts there were is.
SELECT t.step, t.attempt, t.duration IS NULL AS unknown, a.finished_at IS NULL AS so_is_this
FROM saga.timeline(:'id') t JOIN saga.attempts a ON (a.phase, a.attempt, a.started_at) = (t.phase, t.attempt, t.began)
ORDER BY t.began, t.phase DESC, t.attempt;

-- Steps that saga runs wait for their gates.
BEGIN;
SELECT test.begin('by saga') AS id \gset
SELECT status FROM saga.step(:'id', 'first', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'timer', delay => '2 hours', after => '{first}');
SELECT status FROM saga.step(:'id', 'approved', approval => 'all right?', action => 'SELECT test.act($1)', after => '{first}');
SELECT status FROM saga.step(:'id', 'last', action => 'SELECT test.act_for_ever($1)', after => '{timer}');
SELECT status FROM saga.step(:'id', 'never', action => 'SELECT test.act($1)', after => '{last,approved}');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT status FROM saga.wait_step(:'id', 'first');
CALL test.until_waits_for('by saga', 'approved', 'approval%');
SELECT test.advance('1 hour');
SELECT * FROM test.timeline('by saga', 10);
SELECT test.advance('61 minutes');
CALL test.until_acting('by saga', 'last');
SELECT test.advance('2 hours');
SELECT * FROM test.timeline('by saga', 12);
-- What never begins has no row.
SELECT saga.cancel(:'id', 'enough');
SELECT saga.wait(:'id');
CALL test.wait_until(format('SELECT count(*) = 0 FROM saga.running WHERE saga_id = %L', :'id'));
SELECT step, phase, attempt, outcome FROM test.timeline('by saga', 12);

-- A task waits for a service, which takes an hour, fails, and is to take it again.
SELECT test.begin('task') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'k_timeline_task', retry => saga.retry_policy(timeout => '1 day', delay => '1 hour', max_delay => '1 hour', jitter => 0));
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = 'k_timeline_task'$$);
SELECT test.advance('1 hour');
SELECT * FROM test.timeline('task', 10);
SELECT task_key, attempt FROM saga.claim_tasks('k_timeline_task', lease => '12 hours') \gset
SELECT test.advance('1 hour');
SELECT * FROM test.timeline('task', 12);
SELECT saga.fail_task(:'task_key', :attempt, 'not yet');
SELECT test.advance('61 minutes');
SELECT * FROM test.timeline('task', 12);
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.claim_tasks('k_timeline_task', lease => '12 hours')$$);
SELECT step, attempt, outcome FROM test.timeline('task', 12);
SELECT saga.complete_task(:'task_key', '1');
SELECT step, attempt, outcome, has_begun FROM test.timeline('task', 12);

-- A person decides: forward, and about the undo.
SELECT test.begin('forward') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT 1 / 0', retry => saga.retry_policy(max_attempts => 1), on_failure => 'review');
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT test.advance('1 hour');
SELECT * FROM test.timeline('forward', 10);
SELECT saga.cancel(:'id', 'enough');
SELECT test.begin('undo') AS id \gset
SELECT status FROM saga.step(:'id', 'a', review => 'look twice');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.advance('1 hour');
SELECT * FROM test.timeline('undo', 10);

-- 2,000 steps: some rows, in which none is missing.
SELECT test.begin('long') AS id \gset
SELECT count(s) FROM (SELECT saga.step(:'id', 's' || n, completed => true, compensation => 'SELECT test.undo($1)') FROM generate_series(1, 2000) n) s;
SELECT test.advance('1 hour');
SELECT count(*), min(step), max(outcome), count(attempt) AS attempts FROM saga.timeline(:'id');
SELECT sum(split_part(outcome, ' ', 1)::integer) AS succeeded FROM saga.timeline(:'id') WHERE step IS NOT NULL;
SELECT saga.fail(:'id');
SELECT saga.wait(:'id', '10 minutes');
SELECT test.advance('1 hour');
SELECT phase, count(*), sum(split_part(outcome, ' ', 1)::integer) AS succeeded FROM saga.timeline(:'id') WHERE step IS NOT NULL GROUP BY phase ORDER BY phase;
SELECT step, phase, outcome FROM saga.timeline(:'id') OFFSET 1 LIMIT 2;
-- Outcomes that alternate are counted together.
SELECT test.begin('mixed') AS id \gset
SELECT count(s) FROM (SELECT saga.step(:'id', 's' || n) FROM generate_series(1, 1000) n) s;
SELECT count(s) FROM (SELECT saga.fail_step(:'id', 's' || n, 'why', retryable => false) FROM generate_series(1, 1000, 2) n) s;
SELECT count(*) BETWEEN 50 AND 102 AS bounded, sum(split_part(outcome, ' ', 1)::integer + COALESCE(NULLIF(split_part(split_part(outcome, ', ', 2), ' ', 1), ''), '0')::integer)
FROM saga.timeline(:'id') WHERE step IS NOT NULL;

-- Nothing there yet; and what is refused
SELECT test.begin('empty') AS id \gset
SELECT step, phase, outcome, bar FROM saga.timeline(:'id', 10);
SELECT length(bar) FROM saga.timeline(:'id', NULL);
CALL test.refuses(format('SELECT saga.timeline(%L, 9)', :'id'));
CALL test.refuses(format('SELECT saga.timeline(%L, 1001)', :'id'));
CALL test.refuses('SELECT saga.timeline(NULL)');

-- Who may see the saga sees its times.
SET ROLE regress_saga_owner;
SELECT saga.begin('order', 'mine') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, output => '"secret"');
SELECT step, outcome FROM saga.timeline(:'id');
SET ROLE regress_saga_monitor;
SELECT step, outcome FROM saga.timeline(:'id');
SET ROLE regress_saga_stranger;
CALL test.refuses(format('SELECT saga.timeline(%L)', :'id'));
RESET ROLE;
\set ECHO none
\i sql/include/drop_roles.sql
