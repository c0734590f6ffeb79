-- What is too long is refused, or cut where it tells how something ended: nothing gets into the ledger that would be an
-- error for those who come to it later.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
CREATE FUNCTION test.words(n integer DEFAULT 65537) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT repeat('w', n) $$;
-- Words as they were kept: how many bytes, and the end
CREATE FUNCTION test.kept(words text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT octet_length(words) || ': ' || right(words, 34) $$;
CREATE PROCEDURE test.step_refuses(arguments text) LANGUAGE sql
AS $$ CALL test.refuses(format('SELECT saga.step(%L, %s)', saga.begin('too long', 'one'), arguments)) $$;
\set ECHO all

SELECT saga.begin('too long', 'one') AS id \gset
SELECT status FROM saga.step(:'id', 'known', notify => 'c');
SELECT test.ledger_size() AS size \gset

-- What a person is asked, and says
CALL test.step_refuses($$'s', review => test.words()$$);
CALL test.step_refuses($$'s', approval => test.words()$$);
CALL test.refuses(format('SELECT saga.resolve(%L, ''known'', ''skip'', test.words())', :'id'));
CALL test.refuses(format('SELECT saga.abandon(%L, test.words())', :'id'));
CALL test.refuses(format('SELECT saga.reopen(%L, test.words())', :'id'));
CALL test.refuses(format('SELECT saga.pause(%L, test.words())', :'id'));
CALL test.refuses(format('SELECT saga.resume(%L, test.words())', :'id'));
CALL test.refuses(format('SELECT saga.set_timeout(%L, ''1 day'', test.words())', :'id'));
CALL test.refuses(format('SELECT saga.amend(%L, ''known'', test.words(), notify => ''d'')', :'id'));
-- SQL and lists
CALL test.step_refuses($$'s', compensation => 'SELECT 1 -- ' || test.words(1048576)$$);
CALL test.step_refuses($$'s', action => 'SELECT 1 -- ' || test.words(1048576)$$);
CALL test.refuses(format('SELECT saga.amend(%L, ''known'', ''why'', compensation => ''SELECT 1 -- '' || test.words(1048576))', :'id'));
CALL test.step_refuses($$'s', after => array_fill('known'::text, '{100000}')$$);
CALL test.step_refuses($$'s', signals => array_fill('paid'::text, '{200000}')$$);
-- What is kept of the session
BEGIN;
SELECT set_config('search_path', test.words(), true) IS NULL AS path;
CALL test.step_refuses($$'s'$$);
ROLLBACK;
BEGIN;
SELECT set_config('saga.capture_settings', 'my.tenant', true), set_config('my.tenant', test.words(), true) IS NULL AS tenant;
CALL test.step_refuses($$'s'$$);
ROLLBACK;
-- A time that does not exist, which would be an error of whoever opens the gate
CALL test.step_refuses($$'s', action => 'SELECT 1', delay => '101 years'$$);
CALL test.step_refuses($$'s', action => 'SELECT 1', delay => '290000 years -105922000 days'$$);
CALL test.step_refuses($$'s', action => 'SELECT 1', delay => '-290000 years'$$);
CALL test.step_refuses($$'s', action => 'SELECT 1', delay => '2000000 hours'$$);
-- Numbers whose text is as long as all their digits
CALL test.step_refuses($$'s', args => ('[' || repeat('1e131071,', 60) || '0]')::jsonb$$);
CALL test.step_refuses($$'s', output => ('{"deep": [{"a": [' || repeat('1e-16383,', 100) || '0]}]}')::jsonb$$);
CALL test.refuses($$SELECT saga.begin('too long', input => ('[' || repeat('1e131071,', 60) || '0]')::jsonb)$$);
CALL test.refuses(format('SELECT saga.signal(%L, ''paid'', (''['' || repeat(''1e131071,'', 60) || ''0]'')::jsonb)', :'id'));
-- What is nested so deep that a context of it might take more stack than there is
CALL test.step_refuses($$'s', args => (repeat('[', 1001) || repeat(']', 1001))::jsonb$$);
CALL test.step_refuses($$'s', args => (repeat('{"a":', 1001) || '1' || repeat('}', 1001))::jsonb$$);
SELECT test.ledger_size() = :'size' AS nothing_stored;
-- the setting with which a context still fits
\set VERBOSITY sqlstate
SET saga.max_payload = '17MB';
\set VERBOSITY default
-- the longest that are allowed
BEGIN;
SET LOCAL search_path = pg_catalog;
SELECT status FROM saga.step(:'id', 'longest', review => test.words(65536), approval => repeat('ü', 32768), delay => '100 years',
  action => 'SELECT 1' || repeat(' ', 1048568), args => ('[' || repeat('1e131071,', 7) || '"' || repeat('p', 600) || '"]')::jsonb);
SELECT saga.pause(:'id', test.words(65536));
SELECT status FROM saga.step(:'id', 'deepest', args => (repeat('[', 1000) || repeat(']', 1000))::jsonb);
ROLLBACK;

-- Why a saga ends, or goes back, is cut: the call must not fail for that.
SELECT saga.fail(saga.begin('too long', 'failed'), test.words(1000000));
SELECT saga.cancel(saga.begin('too long', 'cancelled'), test.words());
SELECT saga.fail(saga.begin('too long', 'in part of a character'), 'w' || repeat('𝄞', 20000));
SELECT status FROM saga.complete_step(:'id', 'known');
SELECT status FROM saga.step(:'id', 'later', completed => true);
SELECT saga.rollback_to(:'id', 'known', test.words());
SELECT idempotency_key, test.kept(reason) FROM saga.sagas WHERE name = 'too long' AND reason IS NOT NULL ORDER BY id;
SELECT event, test.kept(detail->>'reason') FROM saga.events JOIN saga.sagas s ON s.id = saga_id
WHERE name = 'too long' AND detail ? 'reason' ORDER BY s.id, position;
-- and so are errors that the application and services report,
SELECT status FROM saga.step(:'id', 'tried');
SELECT test.kept(error) FROM saga.fail_step(:'id', 'tried', test.words());
SELECT saga.begin('too long', 'service') AS service \gset
SELECT status FROM saga.step(:'service', 'task', task => 'too long', retry => saga.retry_policy(max_attempts => 1), notify => 'too long',
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.complete(:'service', when_done => true);
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = 'too long'$$);
SELECT saga.fail_task(task_key, attempt, test.words()) FROM saga.claim_tasks('too long');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = 'too long'$$);
SELECT test.kept(context->>'error') AS error, test.kept(context->'saga'->>'reason') AS reason,
  saga.fail_compensation(compensation_key, attempt, test.words(70000))
FROM saga.claim_compensations('too long');
SELECT saga.wait(:'service');
SELECT phase, outcome, test.kept(error) FROM saga.attempts WHERE saga_id = :'service' ORDER BY 1, 2;
SELECT test.kept(s.error) AS error, test.kept(s.last_error) AS last_error, test.kept(q.why) AS why
FROM saga.steps s JOIN saga.review_queue q USING (saga_id) WHERE s.saga_id = :'service';
-- and errors of SQL.
CREATE FUNCTION test.raise(n integer, code text DEFAULT 'P0001') RETURNS void LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = test.words(n); END $$;
BEGIN;
SELECT saga.begin('too long', 'sql') AS sql \gset
SELECT status FROM saga.step(:'sql', 'undone', action => 'SELECT 1', compensation => 'SELECT test.raise(100000)',
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'sql', 'done', action => 'SELECT test.raise(200000)', retry => saga.retry_policy(max_attempts => 1));
SELECT saga.complete(:'sql', when_done => true);
COMMIT;
SELECT saga.wait(:'sql');
SELECT phase, outcome, test.kept(error) FROM saga.attempts WHERE saga_id = :'sql' ORDER BY 1 DESC, 2;
BEGIN;
SELECT saga.begin('too long', 'parked') AS parked \gset
SELECT status FROM saga.step(:'parked', 'deployed', action => 'SELECT test.raise(300000, ''42883'')');
COMMIT;
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.review_queue WHERE saga_id = %L', :'parked'));
SELECT test.kept(why) FROM saga.review_queue WHERE saga_id = :'parked';
-- An output whose text nobody could be sent parks its step, as any that is too large.
BEGIN;
SELECT saga.begin('too long', 'output') AS output \gset
SELECT status FROM saga.step(:'output', 'a', action => $$SELECT ('[' || repeat('1e131071,', 60) || '0]')::jsonb$$);
COMMIT;
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.review_queue WHERE saga_id = %L', :'output'));
SELECT why FROM saga.review_queue WHERE saga_id = :'output';

-- What a context takes of other steps has a limit in all: outputs, errors, digits of numbers, and the names of what is left
-- out.
SET saga.max_payload = '1kB';
SELECT saga.begin('too long', 'inputs') AS inputs \gset
BEGIN;
SELECT count(saga.step(:'inputs', 'failed ' || n, after => '{}', task => 'inputs', on_failure => 'skip', retry => saga.retry_policy(max_attempts => 1)))
FROM generate_series(1, 20) n;
SELECT status FROM saga.step(:'inputs', 'join', task => 'join');
COMMIT;
SELECT saga.fail_task(task_key, attempt, repeat('e', 200)) AS failed, count(*) FROM saga.claim_tasks('inputs', 20) GROUP BY 1;
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = 'join'$$);
SELECT count(*) AS errors, context->'outputs_omitted' AS omitted
FROM saga.claim_tasks('join'), jsonb_object_keys(context->'errors') GROUP BY context;
BEGIN;
SELECT saga.begin('too long', 'names') AS names \gset
SELECT count(saga.step(:'names', repeat('n', 200) || n, output => to_jsonb(repeat('o', 990))))
FROM generate_series(1, 20) n;
SELECT status FROM saga.step(:'names', 'join', task => 'join');
COMMIT;
SELECT context->'outputs' AS outputs, jsonb_array_length(context->'outputs_omitted') AS names, context->'outputs_omitted'->>-1 AS last
FROM saga.claim_tasks('join');
RESET saga.max_payload;
-- small values, which are not counted one by one
BEGIN;
SELECT saga.begin('too long', 'digits') AS digits \gset
SELECT count(saga.step(:'digits', 'step ' || n, output => ('[' || repeat('1e131071,', 30) || '0]')::jsonb))
FROM generate_series(1, 20) n;
SELECT status FROM saga.step(:'digits', 'join', task => 'join');
COMMIT;
SELECT length(context->>'outputs') < 60000000 AS sent, jsonb_array_length(context->'outputs_omitted') AS omitted FROM saga.claim_tasks('join');

-- Nor does one saga keep a person from seeing the others that wait: the outputs that are shown, the last ones, have a limit
-- in all.
BEGIN;
SELECT saga.begin('too long', 'shown') AS shown \gset
SELECT count(saga.step(:'shown', 'step ' || n, output => to_jsonb(repeat('o', 1000000)))) FROM generate_series(1, 40) n;
SELECT status FROM saga.step(:'shown', 'asked', approval => 'may it?');
COMMIT;
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.review_queue WHERE saga_id = %L', :'shown'));
SELECT count(*), min(substr(output, 6)::integer) AS first FROM saga.review_queue, jsonb_object_keys(outputs) AS output WHERE saga_id = :'shown';
CALL test.check_forward();
