-- The role that recorded a step changes how it is undone, as long as it is not.
\set ECHO none
\i sql/include/patient.sql
\i sql/include/helpers.sql
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_saga_app, regress_saga_member, regress_saga_worker, regress_saga_operator, regress_saga_stranger, regress_saga_renamed;
RESET client_min_messages;
CREATE ROLE regress_saga_app LOGIN;
CREATE ROLE regress_saga_member LOGIN IN ROLE regress_saga_app;
CREATE ROLE regress_saga_operator LOGIN;
CREATE ROLE regress_saga_stranger LOGIN;
GRANT USAGE ON SCHEMA saga TO regress_saga_app, regress_saga_operator, regress_saga_stranger;
GRANT ALL ON ALL TABLES IN SCHEMA test TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA test TO PUBLIC;
CREATE FUNCTION test.try_amend(key text, step text, more text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN format('SELECT saga.amend(%L, %L, ''mended''%s)', test.id(key), step, more);
\set ECHO all

-- While the saga runs: the undo is the new one, and the history says who and why.
SELECT test.begin('running') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, args => '1', compensation => 'SELECT test.undo($1, ''wrong'')');
SELECT status FROM saga.step(:'id', 'b', completed => true, compensation => 'SELECT test.undo($1)');
SELECT saga.amend(:'id', 'a', 'it undid the wrong thing', compensation => 'SELECT test.undo($1, ''right'')');
SELECT compensation, args, channel, compensation_status FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
-- A rerun of the release that says so is no longer another one.
SELECT status, known FROM saga.step(:'id', 'a', args => '1', compensation => 'SELECT test.undo($1, ''right'')');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('running');
SELECT event, step, detail FROM test.events('running');

-- What is parked: changed and tried again in one statement, in every saga.
SELECT count(*) FROM generate_series(1, 3) i, test.begin('parked ' || i) s,
  LATERAL saga.step(s, 'book', completed => true, args => to_jsonb(i), compensation => 'SELECT 1/0',
    compensation_retry => saga.retry_policy(1)) t, LATERAL saga.step(s, 'base', compensation => 'SELECT test.undo($1)'), LATERAL saga.fail(s);
SELECT saga.wait(id) FROM test.named WHERE name LIKE 'parked%' ORDER BY name;
SELECT count(saga.amend(saga_id, step, 'divided by zero', compensation => 'SELECT test.undo($1, $1->>''args'')')),
  count(saga.resolve(saga_id, step, 'retry', 'mended'))
FROM saga.review_queue WHERE saga = 'test' AND step = 'book';
SELECT saga.wait(id) FROM test.named WHERE name LIKE 'parked%' ORDER BY name;
SELECT test.undone(name) FROM test.named WHERE name LIKE 'parked%' ORDER BY name;
SELECT * FROM test.attempts('parked 1');
SELECT event, step, detail FROM test.events('parked 1') WHERE position > 3;

-- How often it is tried: what is left open stays, and so does the forward policy.
SELECT test.begin('policy') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo_after($1, 2)', completed => true,
  retry => saga.retry_policy(7, '3 s'), compensation_retry => saga.retry_policy(1, '20 ms'));
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 2)', completed => true,
  retry => saga.retry_policy(1, '20 ms'), compensation_retry => saga.retry_policy(1, '20 ms'));
SELECT saga.amend(:'id', 'a', 'more patience', compensation_retry => saga.retry_policy(4));
SELECT saga.amend(:'id', 'b', 'more patience', compensation_retry => saga.retry_policy(4));
SELECT saga.amend(:'id', 'b', 'less patience', compensation_retry => saga.retry_policy(1));
SELECT saga.amend(:'id', 'b', 'more patience, after all', compensation_retry => saga.retry_policy(3));
SELECT key, retry, compensation_retry FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
SELECT key, retry, compensation_retry FROM saga.ledger_step WHERE saga = :'id' ORDER BY seq;
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT step, attempt, outcome FROM test.attempts('policy');

-- A step with nothing to undo gets something, while its saga runs.
SELECT test.begin('nothing') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true);
CALL test.refuses(test.try_amend('nothing', 'a', ', compensation_retry => saga.retry_policy(2)'));
SELECT saga.amend(:'id', 'a', 'forgotten', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', completed => true);
SELECT status FROM saga.step(:'id', 'c', completed => true, review => 'look');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
CALL test.refuses(test.try_amend('nothing', 'b', ', compensation => ''SELECT 1'''));
-- What a person was to undo, the machine does once it is released.
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'c', 'retry', 'why'));
SELECT saga.amend(:'id', 'c', 'a machine can do it', compensation => 'SELECT test.undo($1)');
SELECT saga.resolve(:'id', 'c', 'retry', 'go');
SELECT saga.wait(:'id');
SELECT test.undone('nothing');

-- Listeners: from one channel to another, what waits goes with it.
SELECT test.begin('channels') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, notify => 'old_a');
SELECT status FROM saga.step(:'id', 'b', completed => true, notify => 'old_b');
SELECT saga.fail(:'id');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = 'old_b' AND since IS NOT NULL$$);
SELECT compensation_key AS key FROM saga.pending_compensations WHERE saga_id = :'id' AND step = 'b' \gset
SELECT saga.amend(:'id', 'b', 'the service moved', notify => 'new_b');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = 'new_b' AND since IS NOT NULL$$);
SELECT saga.amend(:'id', 'a', 'the service moved', notify => 'new_a');
SELECT count(*) FROM saga.claim_compensations('old_b');
SELECT channel, (SELECT key FROM saga.ledger_step t WHERE t.seq = q.seq) AS step FROM saga.ledger_queue q WHERE saga = :'id';
-- (A claim passes by what the worker is writing.)
CALL test.wait_until(format('SELECT due IS NULL FROM saga.ledger_saga WHERE id = %L', :'id'));
SELECT step, attempt FROM saga.claim_compensations('new_b', consumer => 'me');
CALL test.refuses(test.try_amend('channels', 'b', ', compensation => ''SELECT 1'''));
SELECT saga.fail_compensation(:'key', 1, 'no', retry_after => '1 hour');
-- It waits for its next attempt: SQL does it instead, when that is due.
SELECT saga.amend(:'id', 'b', 'by SQL, then', compensation => 'SELECT test.undo($1)');
SELECT compensation_kind, compensation_status, next_attempt_at > now() + interval '50 minutes' AS later FROM saga.steps WHERE saga_id = :'id' AND key = 'b';
SELECT count(*) FROM saga.pending_compensations WHERE saga_id = :'id';
-- A listener that had it on the old channel is believed all the same.
SELECT saga.complete_compensation(:'key', '"done"');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = 'new_a' AND since IS NOT NULL$$);
-- From listeners to SQL while it waits for them
SELECT saga.amend(:'id', 'a', 'by SQL, too', compensation => 'SELECT test.undo($1)');
SELECT saga.wait(:'id');
SELECT test.undone('channels');
SELECT count(*) FROM saga.ledger_queue WHERE saga = :'id';
SELECT event, step, detail FROM test.events('channels') WHERE position > 7;
CALL test.refuses(format('SELECT saga.complete_compensation(%L)', (SELECT compensation_key FROM saga.steps WHERE saga_id = test.id('running') AND key = 'a')));
-- From SQL to listeners
SELECT test.begin('to listeners') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, compensation => 'SELECT saga.require(false, ''not by SQL'')');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT saga.amend(:'id', 'a', 'not by SQL', notify => 'new_a');
SELECT compensation, channel, compensation_status FROM saga.steps WHERE saga_id = :'id';
SELECT saga.resolve(:'id', 'a', 'retry', 'by listeners, then');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = 'new_a' AND since IS NOT NULL$$);
SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('new_a');
SELECT saga.wait(:'id');
SELECT attempt, outcome FROM test.attempts('to listeners');
-- What runs is not changed.
SELECT test.begin('busy') AS id \gset
SELECT pg_advisory_lock(4714);
SELECT status FROM saga.step(:'id', 'early', completed => true, compensation => 'SELECT test.undo($1, ''wrong'')');
SELECT status FROM saga.step(:'id', 'late', completed => true, compensation => 'SELECT test.undo($1) FROM pg_advisory_xact_lock_shared(4714)');
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT compensation_status = ''running'' FROM saga.steps WHERE saga_id = %L AND key = ''late''', :'id'));
CALL test.refuses(test.try_amend('busy', 'late', ', compensation => ''SELECT 1'''));
-- ... but what comes after it is, and that does not disturb what runs.
SELECT saga.amend(:'id', 'early', 'right', compensation => 'SELECT test.undo($1, ''right'')');
SELECT pg_advisory_unlock(4714);
SELECT saga.wait(:'id');
SELECT test.undone('busy');
SELECT step, attempt, outcome FROM test.attempts('busy');

-- Too late
CALL test.refuses(test.try_amend('busy', 'late', ', compensation => ''SELECT 1'''));
SELECT test.begin('late') AS id \gset
SELECT status FROM saga.step(:'id', 'review', completed => true, review => 'look');
SELECT status FROM saga.step(:'id', 'passed over', compensate_on => 'completed', compensation => 'SELECT 1');
SELECT status FROM saga.step(:'id', 'done', completed => true, compensation => 'SELECT 1');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
CALL test.refuses(test.try_amend('late', 'done', ', compensation => ''SELECT 1'''));
CALL test.refuses(test.try_amend('late', 'passed over', ', compensation => ''SELECT 1'''));
SELECT saga.abandon(:'id', 'enough');
CALL test.refuses(test.try_amend('late', 'review', ', compensation => ''SELECT 1'''));
SELECT test.begin('rolled back') AS id \gset
SELECT status FROM saga.step(:'id', 'base', completed => true, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'tip', completed => true, compensation => 'SELECT 1');
SELECT saga.rollback_to(:'id', 'base');
SELECT saga.wait(:'id', until => 'running');
CALL test.refuses(test.try_amend('rolled back', 'tip', ', compensation => ''SELECT 1'''));
SELECT saga.amend(:'id', 'base', 'it stays', compensation => 'SELECT test.undo($1, ''new'')');
SELECT saga.complete(:'id');
CALL test.refuses(test.try_amend('rolled back', 'base', ', compensation => ''SELECT 1'''));
-- A late result: the run that is asked about
SELECT test.begin('late result') AS id \gset
SELECT status FROM saga.step(:'id', 'base', completed => true);
SELECT status FROM saga.step(:'id', 'call', compensation => 'SELECT test.undo($1, ''wrong'')');
SELECT saga.rollback_to(:'id', 'base');
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.complete_step(:'id', 'call', '"late"', late => 'record');
SELECT state FROM saga.sagas WHERE id = :'id';
SELECT saga.amend(:'id', 'call', 'with what came late', compensation => 'SELECT test.undo($1, $1->>''output'')');
SELECT saga.resolve(:'id', 'call', 'retry', 'undo that, too');
SELECT saga.wait(:'id', until => 'running');
SELECT test.undone('late result');
-- ... of a saga that was compensated, and the step too
SELECT test.begin('later result') AS id \gset
SELECT status FROM saga.step(:'id', 'call', compensation => 'SELECT test.undo($1, ''wrong'')');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT status FROM saga.complete_step(:'id', 'call', '"late"', late => 'record');
SELECT saga.amend(:'id', 'call', 'with what came late', compensation => 'SELECT test.undo($1, $1->>''output'')');
SELECT saga.resolve(:'id', 'call', 'retry', 'undo that, too');
SELECT saga.wait(:'id');
SELECT test.undone('later result');

-- Wrong by itself
SELECT test.begin('fresh') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT 1');
CALL test.refuses(test.try_amend('policy', 'a', ''));
CALL test.refuses(test.try_amend('policy', 'a', ', compensation => ''SELECT 1'', notify => ''c'''));
CALL test.refuses(test.try_amend('policy', 'a', ', compensation => ''SELEC'''));
CALL test.refuses(test.try_amend('policy', 'a', ', compensation => ''COMMIT'''));
CALL test.refuses(test.try_amend('policy', 'a', ', notify => '''''));
CALL test.refuses(test.try_amend('policy', 'a', ', notify => ''' || repeat('x', 64) || ''''));
CALL test.refuses(test.try_amend('fresh', 'a', ', compensation_retry => ROW(0, NULL, NULL, NULL, NULL, NULL)'));
CALL test.refuses($$SELECT saga.amend(NULL, 'a', 'why', compensation => 'SELECT 1')$$);
CALL test.refuses(format($$SELECT saga.amend(%L, NULL, 'why', compensation => 'SELECT 1')$$, test.id('policy')));
CALL test.refuses(format($$SELECT saga.amend(%L, 'a', NULL, compensation => 'SELECT 1')$$, test.id('policy')));
CALL test.refuses(format($$SELECT saga.amend(%L, 'a', ' ', compensation => 'SELECT 1')$$, test.id('policy')));
CALL test.refuses($$SELECT saga.amend('01a222be-a9b3-7158-85c6-34e55290316b', 'a', 'why', compensation => 'SELECT 1')$$);

-- N16: only by the role that recorded the step
SELECT test.begin('rights of superuser') AS superuser \gset
SET ROLE regress_saga_app;
SELECT test.begin('rights') AS id \gset
SELECT status FROM saga.step(:'id', 'app', completed => true, compensation => 'SELECT test.undo($1, current_user)');
SET ROLE regress_saga_member;
SELECT status FROM saga.step(:'id', 'member', completed => true, compensation => 'SELECT test.undo($1, current_user)');
CALL test.refuses(test.try_amend('rights', 'app', ', compensation => ''SELECT 1'''));
CALL test.refuses(test.try_amend('rights', 'nowhere', ', compensation => ''SELECT 1'''));
SET ROLE regress_saga_app;
CALL test.refuses(test.try_amend('rights', 'member', ', compensation => ''SELECT 1'''));
RESET ROLE;
CALL test.refuses(test.try_amend('rights', 'app', ', compensation => ''SELECT 1'''));
CALL test.refuses(test.try_amend('rights', 'app', ', compensation_retry => saga.retry_policy(1)'));
CALL test.refuses(test.try_amend('rights', 'app', ', notify => ''c'''));
SET saga.operator_role = 'regress_saga_operator';
SET ROLE regress_saga_operator;
CALL test.refuses(test.try_amend('rights', 'app', ', compensation => ''SELECT 1'''));
SET ROLE regress_saga_stranger;
CALL test.refuses(test.try_amend('rights', 'app', ', compensation => ''SELECT 1'''));
RESET ROLE;
RESET saga.operator_role;
-- ... who may run SQL here
SET saga.allow_superuser = off;
SELECT status FROM saga.step(:'superuser', 'a', completed => true, notify => 'c');
CALL test.refuses(test.try_amend('rights of superuser', 'a', ', compensation => ''SELECT 1'''));
RESET saga.allow_superuser;
-- ... by its name, too
ALTER ROLE regress_saga_member RENAME TO regress_saga_renamed;
SET ROLE regress_saga_renamed;
CALL test.refuses(test.try_amend('rights', 'member', ', compensation => ''SELECT 1'''));
RESET ROLE;
ALTER ROLE regress_saga_renamed RENAME TO regress_saga_member;
SET ROLE regress_saga_member;
SELECT saga.amend(:'id', 'member', 'mine', compensation => 'SELECT test.undo($1, ''by '' || current_user)');
RESET ROLE;
SET ROLE regress_saga_app;
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
RESET ROLE;
SELECT test.undone('rights');
SELECT event, step, detail FROM test.events('rights') WHERE event = 'amended';

-- The search_path and the settings are those of the step.
CREATE SCHEMA test_tenant;
CREATE FUNCTION test_tenant.undo(jsonb, text) RETURNS void LANGUAGE sql AS $$ SELECT test.undo($1, $2 || ' ' || current_setting('app.tenant')) $$;
SELECT test.begin('path') AS id \gset
SET search_path = test_tenant;
SET app.tenant = 'seven';
SET saga.capture_settings = 'app.tenant';
SELECT status FROM saga.step(:'id', 'a', completed => true, compensation => 'SELECT nowhere($1)');
RESET search_path;
SET app.tenant = 'eight';
SELECT saga.amend(:'id', 'a', 'from elsewhere', compensation => 'SELECT undo($1, ''tenant'')');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('path');
RESET saga.capture_settings;
DROP SCHEMA test_tenant CASCADE;

SET client_min_messages = warning;
REVOKE ALL ON ALL TABLES IN SCHEMA test FROM PUBLIC;
REVOKE USAGE ON SCHEMA saga FROM regress_saga_app, regress_saga_operator, regress_saga_stranger;
DROP ROLE regress_saga_member;
DROP ROLE regress_saga_app, regress_saga_operator, regress_saga_stranger;
\set ECHO none
\i sql/include/impatient.sql
