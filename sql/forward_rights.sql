-- Who runs an action, with what rights and settings, what it may call, and what stands still or is forgotten.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\set ECHO all
CREATE ROLE regress_saga_app LOGIN;
CREATE ROLE regress_saga_other LOGIN;
CREATE ROLE regress_saga_reader LOGIN IN ROLE pg_read_all_data;
CREATE ROLE regress_saga_monitor LOGIN IN ROLE pg_monitor;
GRANT USAGE ON SCHEMA saga TO regress_saga_app, regress_saga_other, regress_saga_monitor;
GRANT SELECT, INSERT ON test.named, test.did, test.witness TO regress_saga_app, regress_saga_other;
CREATE TABLE test.secret (a integer);
GRANT SELECT ON test.secret TO regress_saga_other;

-- As the recording role, with its search_path and captured settings
CREATE SCHEMA test_one;
CREATE SCHEMA test_two;
GRANT USAGE ON SCHEMA test_one, test_two TO regress_saga_app;
CREATE FUNCTION test_one.where_am_i() RETURNS text LANGUAGE sql AS $$SELECT 'one'$$;
CREATE FUNCTION test_two.where_am_i() RETURNS text LANGUAGE sql AS $$SELECT 'two'$$;
SET ROLE regress_saga_app;
SET search_path = test_two, pg_catalog;
SET saga.capture_settings = 'app.tenant, app.unset';
SET app.tenant = 'seven';
SELECT test.begin('session') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => $$SELECT current_user, session_user, where_am_i(), current_setting('search_path') AS path, current_setting('app.tenant') AS tenant,
  current_setting('app.unset', true) AS unset, current_setting('transaction_isolation') AS isolation, current_setting('is_superuser') AS super, saga.current() = ($1 #>> '{saga,id}')::uuid AS current$$);
SET search_path = test_one, pg_catalog;
RESET app.tenant;
SELECT status, output FROM saga.wait_step(:'id', 'a');
SELECT run_as, search_path FROM saga.steps WHERE saga_id = :'id';
-- another isolation level, if it is captured
SET saga.capture_settings = 'default_transaction_isolation';
SET default_transaction_isolation = 'repeatable read';
BEGIN;
SELECT status FROM saga.step(:'id', 'b', action => $$SELECT current_setting('transaction_isolation')$$);
COMMIT;
RESET default_transaction_isolation;
SELECT output FROM saga.wait_step(:'id', 'b');
-- what one action sets, the next does not see
SELECT status FROM saga.step(:'id', 'c', action => $$SET LOCAL search_path = test_two; SET app.tenant = 'eight'; SELECT set_config('app.other', 'nine', false)$$);
-- (A setting that was taken back is empty in the executor that had it, and unknown in another.)
SELECT status FROM saga.step(:'id', 'd', action => $$SELECT NULLIF(current_setting('app.tenant', true), '') AS tenant, NULLIF(current_setting('app.other', true), '') AS other, current_setting('search_path') AS path$$);
SELECT status, output FROM saga.wait_step(:'id', 'd');
RESET search_path;
RESET saga.capture_settings;
-- with no more rights than that role has
SELECT status FROM saga.step(:'id', 'secret', action => 'SELECT count(*) FROM test.secret');
SELECT status, error FROM saga.wait_step(:'id', 'secret');
-- which it cannot leave
SELECT status FROM saga.step(:'id', 'reset', after => '{}', action => 'RESET ROLE; RESET SESSION AUTHORIZATION; SELECT current_user');
SELECT status, output, error FROM saga.wait_step(:'id', 'reset');
SELECT saga.cancel(:'id');

-- Another's saga is not seen
SET ROLE regress_saga_other;
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L)', :'id', 'x', 'SELECT 1'));
CALL test.refuses(format('SELECT saga.output(%L, %L)', 'a', :'id'));
CALL test.refuses(format('SELECT saga.wait_step(%L, %L)', :'id', 'a'));
CALL test.refuses(format('SELECT saga.complete(%L, when_done => true)', :'id'));
SELECT count(*) FROM saga.steps WHERE saga_id = :'id';
SELECT saga.begin('by key', 'one') AS theirs \gset
SET ROLE regress_saga_app;
SELECT saga.find('by key', 'one') IS NULL AS not_found;
-- nor from an action
SELECT test.begin('spy') AS id \gset
SELECT k, (saga.step(:'id', k, after => '{}', action => format(a, :'theirs'), on_failure => 'skip', retry => saga.retry_policy(max_attempts => 1))).status
FROM (VALUES ('step', 'SELECT saga.step(%L, ''a'')'), ('output', 'SELECT saga.output(''a'', %L)'), ('fail', 'SELECT saga.fail(%L)')) v (k, a);
SELECT k, (saga.wait_step(:'id', k)).error ~ 'does not exist or is not yours' AS refused FROM unnest('{step,output,fail}'::text[]) k;
SELECT saga.complete(:'id');
-- who sees all does not decide, nor report
SELECT test.begin('asks') AS id \gset
SELECT k, (saga.step(:'id', k, after => '{}', approval => a, task => t)).status FROM (VALUES ('asked', 'may it?', NULL), ('task', NULL, 'regress_asks')) v (k, a, t);
SELECT status, clock_timestamp() < now() + interval '1 minute' AS soon FROM saga.wait_step(:'id', 'asked', '90 s');
SELECT forward_key FROM saga.steps WHERE saga_id = :'id' AND key = 'task' \gset
SET ROLE regress_saga_reader;
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id';
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'asked', 'approve', 'it may'));
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'asked', 'refuse', 'it may not'));
CALL test.refuses(format('SELECT saga.complete_task(%L)', :'forward_key'));
CALL test.refuses(format('SELECT saga.fail_task(%L, 1, %L)', :'forward_key', 'no'));
CALL test.refuses(format('SELECT saga.signal(%L, %L)', :'id', 'go'));
SELECT count(*) FROM saga.claim_tasks('regress_asks');
-- nor is told what its steps wait for who may not even see it
SET ROLE regress_saga_other;
SELECT count(*) FROM saga.internal_waits(:'id', false);
SET ROLE regress_saga_app;
SELECT step, status, waits_for FROM test.forward('asks');
SELECT saga.cancel(:'id');

-- What an action may call on its own saga: step, output, current and require
SELECT test.begin('own') AS id \gset
SELECT status FROM saga.step(:'id', 'zero', completed => true, output => '0');
SELECT k, (saga.step(:'id', k, after => '{}', action => format(a, :'id'), on_failure => 'skip', retry => saga.retry_policy(max_attempts => 1))).status
FROM (VALUES
  (1, 'output', 'SELECT saga.output(''zero'')'),
  (2, 'output by id', 'SELECT saga.output(''zero'', %L)'),
  (3, 'output of none', 'SELECT saga.output(''none'')'),
  (4, 'require', 'SELECT saga.require(true, ''fine'')'),
  (5, 'view', 'SELECT count(*) >= 0 FROM saga.steps WHERE saga_id = saga.current()'),
  (6, 'fail', 'SELECT saga.fail(%L)'),
  (7, 'cancel', 'SELECT saga.cancel(%L)'),
  (8, 'complete', 'SELECT saga.complete(%L)'),
  (9, 'seal', 'SELECT saga.complete(%L, when_done => true)'),
  (10, 'complete_step', 'SELECT saga.complete_step(%L, ''zero'')'),
  (11, 'fail_step', 'SELECT saga.fail_step(%L, ''zero'', ''no'')'),
  (12, 'rollback_to', 'SELECT saga.rollback_to(%L, NULL)'),
  (13, 'pause', 'SELECT saga.pause(%L, ''n'')'),
  (14, 'resume', 'SELECT saga.resume(%L, ''n'')'),
  (15, 'resolve', 'SELECT saga.resolve(%L, ''zero'', ''skip'', ''n'')'),
  (16, 'abandon', 'SELECT saga.abandon(%L, ''n'')'),
  (17, 'reopen', 'SELECT saga.reopen(%L, ''n'')'),
  (18, 'set_timeout', 'SELECT saga.set_timeout(%L, ''1 day'')'),
  (19, 'amend', 'SELECT saga.amend(%L, ''zero'', ''n'', ''SELECT 1'')'),
  (20, 'plan', 'SELECT count(*) FROM saga.plan(%L)'),
  (21, 'redact', 'SELECT saga.redact(%L)')) v (n, k, a) ORDER BY n;
SELECT key, (saga.wait_step(:'id', key)).status, (saga.wait_step(:'id', key)).output, test.mask((saga.wait_step(:'id', key)).error) FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;
SELECT key, sqlstate FROM saga.attempts JOIN saga.steps USING (saga_id, seq) WHERE saga_id = :'id' AND outcome = 'failed' ORDER BY seq;
-- a wait would wait for itself
SELECT status FROM saga.step(:'id', 'wait', after => '{}', action => format('SELECT saga.wait(%L)', :'id'), on_failure => 'skip', retry => saga.retry_policy(max_attempts => 1));
SELECT test.mask((saga.wait_step(:'id', 'wait')).error);
SELECT saga.complete(:'id');

-- Others are free, and commit with it, or not at all
SELECT test.begin('parent') AS id \gset
SELECT status FROM saga.step(:'id', 'begin', action => $$
  SELECT saga.complete(s, when_done => true) FROM (SELECT s, saga.step(s, 'first', action => 'SELECT test.act($1)'), saga.step(s, 'second', action => 'SELECT saga.current()')
    FROM saga.begin('child', $1 ->> 'forward_key') AS s OFFSET 0) c$$);
SELECT status FROM saga.step(:'id', 'vain', on_failure => 'skip', action => $$
  SELECT saga.step(saga.begin('child', 'vain'), 'first', action => 'SELECT test.act($1)'); SELECT saga.require(false, 'in vain')$$);
SELECT status FROM saga.wait_step(:'id', 'vain');
SELECT saga.find('child', forward_key) AS child FROM saga.steps WHERE saga_id = :'id' AND key = 'begin' \gset
SELECT saga.wait(:'child');
SELECT key, status, output = to_jsonb(:'child'::uuid) AS itself, run_as FROM saga.steps WHERE saga_id = :'child' ORDER BY seq;
SELECT saga.find('child', 'vain') IS NULL AS none;
SELECT saga.complete(:'id');
RESET ROLE;

-- Paused, nothing begins; what runs ends.
SET ROLE regress_saga_app;
SELECT test.begin('paused') AS id \gset
SELECT status FROM saga.step(:'id', 'gate');
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)');
SELECT saga.pause(:'id', 'stop');
SELECT status FROM saga.complete_step(:'id', 'gate');
SELECT status FROM saga.step(:'id', 'now', after => '{}', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
SELECT status FROM saga.wait_step(:'id', 'now', '100 ms');
SELECT step, status, waits_for FROM test.forward('paused');
SELECT test.done('paused'), next_action FROM saga.sagas WHERE id = :'id';
SELECT saga.resume(:'id', 'go on');
SELECT saga.wait(:'id');
SELECT step, status, attempts FROM test.forward('paused');

-- waits_for, in words, for every reason
SELECT test.begin('words') AS id \gset
SELECT status FROM saga.step(:'id', 'gate');
SELECT status FROM saga.step(:'id', 'list', after => '{gate}', action => 'SELECT 1');
SELECT status FROM saga.step(:'id', 'join', action => 'SELECT 1');
SELECT status FROM saga.step(:'id', 'timer', after => '{}', delay => '1 day', timeout => '2 days', action => 'SELECT 1');
SELECT status FROM saga.step(:'id', 'retry', after => '{}', action => 'SELECT 1/0', retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
SELECT status FROM saga.step(:'id', 'person', after => '{}', action => 'SELECT saga.require(false, ''no'')', on_failure => 'review');
SELECT status FROM saga.step(:'id', 'skipped', after => '{}', action => 'SELECT saga.require(false, ''no'')', on_failure => 'skip');
SELECT status FROM saga.step(:'id', 'approval', after => '{}', approval => 'ship it?', action => 'SELECT 1');
SELECT k, (saga.wait_step(:'id', k)).status FROM unnest('{person,skipped}'::text[]) k;
SELECT status FROM saga.step(:'id', 'running', after => '{}', action => 'SELECT pg_sleep(600)');
CALL test.until_acting('words', 'running');
CALL test.until_waits_for('words', 'retry', '20%');
SELECT step, status, waits_for FROM test.forward('words');
SELECT key, ready_at > now() AS later, timeout_at - ready_at AS until_timeout FROM saga.steps WHERE saga_id = :'id' AND ready_at > now() ORDER BY seq;
SELECT name, step, phase, attempt, role FROM saga.running WHERE saga_id = :'id';
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');
SELECT step, status, waits_for FROM test.forward('words');
SELECT count(*) FROM saga.review_queue WHERE saga_id = :'id';

-- N16: what a person is asked is for those who may read it; others see that somebody is.
SELECT test.begin('asks one') AS id \gset
SELECT status FROM saga.step(:'id', 'a', approval => 'secret question', action => 'SELECT 1');
CALL test.until_waits_for('asks one', 'a', 'approval%');
SELECT test.begin('asks two') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT saga.require(false, ''secret error'')', on_failure => 'review') \gset
CALL test.until_waits_for('asks two', 'a', 'a person%');
RESET ROLE;
GRANT SELECT ON test.named TO regress_saga_monitor;
CREATE FUNCTION test.shown() RETURNS TABLE (name text, next_action text, waits_for text, parked text, why text) LANGUAGE sql STABLE AS $$
  SELECT n.name, s.next_action, t.waits_for, t.parked, q.why
  FROM test.named n JOIN saga.sagas s USING (id) JOIN saga.steps t ON t.saga_id = s.id JOIN saga.review_queue q ON q.saga_id = s.id
  WHERE n.name LIKE 'asks %' ORDER BY n.name
$$;
SET ROLE regress_saga_app;
SELECT * FROM test.shown();
SET ROLE regress_saga_monitor;
SELECT * FROM test.shown();
SET ROLE regress_saga_app;
SELECT saga.cancel(id) FROM test.named WHERE name LIKE 'asks %';

-- Redacted, it has forgotten what it was about.
SELECT test.begin('redact') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT ''secret output'' || ($1 ->> ''args'')', args => '"secret args"');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT saga.require(false, ''secret error'')', on_failure => 'skip');
SELECT status FROM saga.wait_step(:'id', 'b');
SELECT saga.complete(:'id', '"secret result"');
SELECT saga.redact(:'id');
SELECT key, status, args, output, error FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;
RESET ROLE;
SELECT count(*) FROM saga.ledger_step t WHERE t.saga = :'id' AND t::text ~ 'secret (args|output )';
SELECT count(*) FROM saga.ledger_attempt t WHERE t.saga = :'id' AND t::text ~ 'secret error';
SET ROLE regress_saga_app;
SELECT status, output, known FROM saga.step(:'id', 'a', action => 'SELECT 1', args => '"secret args"');
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L, args => %L)', :'id', 'a', 'SELECT 1', '"other args"'));

-- N11: an error is forgotten also where it says why the saga failed, or why a person was asked; a reason that the
-- application gave stays.
SELECT test.begin('redact failed') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT saga.require(false, ''secret '' || ''error'')') \gset
SELECT saga.wait(:'id');
SELECT test.begin('redact parked') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT saga.require(false, ''secret '' || ''error'')', on_failure => 'review') \gset
CALL test.until_waits_for('redact parked', 'a', 'a person%');
SELECT saga.fail(:'id', 'we changed our mind');
SELECT saga.wait(:'id');
SELECT test.begin('redact words') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT 1', compensation => 'SELECT saga.require(false, ''no'')',
  compensation_retry => saga.retry_policy(max_attempts => 1)) \gset
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT saga.fail(:'id', 'no');
SELECT saga.wait(:'id');
SELECT saga.resolve(:'id', 'a', 'done', 'by hand');
SELECT n.name, reason, detail ->> 'reason' AS event FROM test.named n JOIN saga.sagas s USING (id) JOIN saga.events e ON e.saga_id = s.id
WHERE n.name LIKE 'redact %' AND event = 'failing' ORDER BY n.name;
SELECT saga.redact(id) FROM test.named WHERE name LIKE 'redact %';
SELECT n.name, reason, detail ->> 'reason' AS event FROM test.named n JOIN saga.sagas s USING (id) JOIN saga.events e ON e.saga_id = s.id
WHERE n.name LIKE 'redact %' AND event = 'failing' ORDER BY n.name;
RESET ROLE;
SELECT what FROM (SELECT 'saga', s.id, s::text FROM saga.ledger_saga s UNION ALL SELECT 'step', t.saga, t::text FROM saga.ledger_step t
  UNION ALL SELECT 'attempt', a.saga, a::text FROM saga.ledger_attempt a UNION ALL SELECT 'event', e.saga, e::text FROM saga.ledger_event e) r (what, id, row)
JOIN test.named n USING (id) WHERE n.name LIKE 'redact %' AND row LIKE '%secret error%';
SET ROLE regress_saga_app;

-- Purged, it leaves nothing.
SELECT test.begin('left over') AS id \gset
SELECT status FROM saga.step(:'id', 'far', delay => '10 years', timeout => '20 years');
SELECT status FROM saga.step(:'id', 'far too', after => '{}', delay => '100 years', action => 'SELECT 1');
SELECT status FROM saga.step(:'id', 'asked', after => '{}', action => 'SELECT saga.require(false, ''no'')', on_failure => 'review');
SELECT status FROM saga.wait_step(:'id', 'asked');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
CALL test.wait_until($$SELECT count(*) = 0 FROM saga.sagas JOIN test.named USING (id) WHERE finished_at IS NULL$$);
SELECT saga.purge('0') > 0 AS purged;
RESET ROLE;
-- What asks for a look at a saga goes with the look, which may come after the purge.
CALL test.wait_until($$SELECT count(*) = 0 FROM saga.ledger_due d JOIN test.named n ON n.id = d.saga$$);
SELECT (SELECT count(*) FROM saga.ledger_saga d JOIN test.named n USING (id)) AS sagas,
  (SELECT count(*) FROM saga.ledger_due d JOIN test.named n ON n.id = d.saga) AS due,
  (SELECT count(*) FROM saga.ledger_held d JOIN test.named n ON n.id = d.saga) AS held,
  (SELECT count(*) FROM saga.ledger_step d JOIN test.named n ON n.id = d.saga) AS steps,
  (SELECT count(*) FROM saga.ledger_attempt d JOIN test.named n ON n.id = d.saga) AS attempts;
CALL test.check_forward();
\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA test_one, test_two CASCADE;
SELECT saga.cancel(id) AS cancelled FROM saga.sagas WHERE name = 'by key' AND state = 'running' \gset
\i sql/include/drop_roles.sql
