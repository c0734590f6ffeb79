-- A failed saga undoes itself, in the reverse of the order in which its steps
-- started.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

SELECT test.begin('order') AS id \gset
SELECT status FROM saga.step(:'id', 'reserve', compensation => 'SELECT test.undo($1)', output => '1');
SELECT status FROM saga.step(:'id', 'charge', compensation => 'SELECT test.undo($1)', args => '{"card": 7}');
SELECT status FROM saga.complete_step(:'id', 'charge', '{"charged": 12}');
SELECT status FROM saga.step(:'id', 'mail');
SELECT status FROM saga.complete_step(:'id', 'mail');
SELECT status FROM saga.step(:'id', 'ship', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.fail_step(:'id', 'ship', 'no carrier', retryable => false);
SELECT saga.fail(:'id', 'no carrier goes there', '{"country": "AQ"}');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('order') \gx
SELECT details, requires_review, last_completed_step, next_action_at, finished_at IS NOT NULL AS finished
FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.steps('order');
SELECT * FROM test.attempts('order');
SELECT * FROM test.events('order');
SELECT key, compensated_at IS NOT NULL AS compensated FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
-- Nothing is left to do.
SELECT count(*) FROM saga.ledger_due WHERE saga = :'id';

-- The order is that of the first calls, whatever completed when.
SELECT test.begin('order of starts') AS id \gset
SELECT (saga.step(:'id', k, compensation => 'SELECT test.undo($1)')).status
FROM unnest('{c,a,d,b}'::text[]) WITH ORDINALITY u (k, n) ORDER BY n;
SELECT (saga.complete_step(:'id', k)).status FROM unnest('{a,b,c,d}'::text[]) WITH ORDINALITY u (k, n) ORDER BY n;
SELECT (saga.step(:'id', 'c', compensation => 'SELECT test.undo($1)')).status;
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('order of starts');

-- Many steps
SELECT test.begin('many') AS id \gset
SELECT count((saga.step(:'id', 'step ' || n, compensation => 'SELECT test.undo($1)', completed => true)).step)
FROM generate_series(1, 200) n;
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT count(*), bool_and(step = 'step ' || (201 - row_number)) AS in_reverse
FROM (SELECT step, row_number() OVER (ORDER BY n) FROM test.witness WHERE saga = :'id') w;
SELECT count(*), count(*) FILTER (WHERE outcome = 'succeeded' AND rows = 1) AS good
FROM saga.attempts WHERE saga_id = :'id' AND phase = 'compensation';

-- Everything in one transaction
BEGIN;
SELECT test.begin('at once') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id', 'changed our mind');
COMMIT;
SELECT saga.wait(:'id');
SELECT test.undone('at once');
-- A failure that is rolled back was none.
SELECT test.begin('rolled back') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
BEGIN;
SELECT saga.fail(:'id', 'no');
ROLLBACK;
SELECT saga.wait(:'id', '0');
BEGIN;
SAVEPOINT s;
SELECT saga.fail(:'id', 'no');
ROLLBACK TO s;
SELECT status, attempt FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
COMMIT;
SELECT state, failure_kind, reason FROM saga.sagas WHERE id = :'id';
SELECT saga.fail(:'id', 'yes');
SELECT saga.wait(:'id');
SELECT test.undone('rolled back');

-- Nothing to undo: compensated at once
SELECT test.begin('no steps') AS id \gset
SELECT saga.fail(:'id', 'no need');
SELECT * FROM test.saga('no steps') \gx
SELECT test.begin('no compensations') AS id \gset
SELECT status FROM saga.step(:'id', 'a', output => '1');
SELECT saga.cancel(:'id', 'the customer called');
SELECT * FROM test.saga('no compensations') \gx
SELECT * FROM test.events('no compensations');

-- Failing again says the same, and changes nothing.
SELECT saga.fail(:'id', 'another reason');
SELECT saga.cancel(:'id', 'another reason');
SELECT reason, failure_kind FROM saga.sagas WHERE id = :'id';

-- The step at which it failed: the last one that failed, else the last open one
SELECT test.begin('open step') AS id \gset
SELECT status FROM saga.step(:'id', 'a');
SELECT status FROM saga.step(:'id', 'b', completed => true);
SELECT saga.fail(:'id');
SELECT failed_step, last_completed_step, steps FROM saga.sagas WHERE id = :'id';
SELECT phase, attempt, outcome, finished_at FROM saga.attempts WHERE saga_id = :'id' AND outcome <> 'succeeded';

-- Several statements are one transaction; each is planned when its turn comes.
-- The rows are those of the last one, a SELECT's are thrown away.
CREATE TABLE test.account (id integer PRIMARY KEY, balance integer);
INSERT INTO test.account VALUES (1, 100), (2, 100);
SELECT test.begin('statements') AS id \gset
SELECT status FROM saga.step(:'id', 'debit', args => '{"account": 1, "amount": 30}', compensation => $$
  -- put it back
  UPDATE test.account SET balance = balance + ($1 #>> '{args,amount}')::integer
  WHERE id = ($1 #>> '{args,account}')::integer;
  SELECT test.undo($1);
  SELECT * FROM generate_series(1, 7);
$$);
UPDATE test.account SET balance = balance - 30 WHERE id = 1;
SELECT status FROM saga.step(:'id', 'table', compensation =>
  'CREATE TABLE test.made (x integer); INSERT INTO test.made SELECT 1 FROM generate_series(1, 3)');
SELECT status FROM saga.step(:'id', 'none', compensation => 'DELETE FROM test.account WHERE id = 99');
SELECT status FROM saga.step(:'id', 'temp', compensation =>
  'CREATE TEMP TABLE t (x integer); INSERT INTO t VALUES (1), (2); PREPARE p AS SELECT 1; EXECUTE p');
SELECT status FROM saga.step(:'id', 'utility', compensation => 'DROP TABLE test.doomed');
CREATE TABLE test.doomed ();
SELECT status FROM saga.step(:'id', 'do', compensation => 'DO $$BEGIN UPDATE test.account SET balance = balance + 1 WHERE id = 2; END$$');
CREATE PROCEDURE test.undo_by_call(context jsonb) LANGUAGE sql AS 'SELECT test.undo(context, $$called$$)';
SELECT status FROM saga.step(:'id', 'call', compensation => 'CALL test.undo_by_call($1)');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.attempts('statements');
SELECT * FROM test.account ORDER BY id;
SELECT test.undone('statements'), (SELECT count(*) FROM test.made) AS made, to_regclass('test.doomed') AS doomed;

-- The caller's search_path, and the settings that were asked for
CREATE SCHEMA tenant;
CREATE TABLE tenant.note (what text);
CREATE FUNCTION tenant.note(context jsonb) RETURNS void LANGUAGE sql
AS 'INSERT INTO tenant.note VALUES (context #>> $${step,key}$$)';
SELECT test.begin('settings') AS id \gset
SET search_path = tenant, test;
SET saga.capture_settings = 'app.tenant, work_mem, app.never_set';
SET app.tenant = 'acme';
SET work_mem = '7MB';
SELECT status FROM saga.step(:'id', 'captured', compensation => $$
  SELECT note($1);
  INSERT INTO note VALUES (current_setting('search_path')), (current_setting('app.tenant')),
    (current_setting('work_mem')), (current_setting('app.never_set', true));
  SET search_path = pg_catalog;
  SET app.tenant = 'evil';
  SET work_mem = '1MB'$$);
SET app.tenant = 'other';
SET saga.capture_settings = 'app.tenant';
SELECT status FROM saga.step(:'id', 'another', compensation => $$
  INSERT INTO note VALUES (current_setting('search_path')), (current_setting('app.tenant')),
    (current_setting('work_mem'))$$);
RESET search_path;
RESET work_mem;
RESET saga.capture_settings;
SELECT status FROM saga.step(:'id', 'default', compensation => $$
  INSERT INTO tenant.note VALUES (current_setting('search_path')), (current_setting('app.tenant', true)),
    (current_setting('work_mem'))$$);
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
TABLE tenant.note;
DROP SCHEMA tenant CASCADE;

-- A session of its own for each: nothing of an earlier one is left.
CREATE TABLE test.left_over (what text);
SELECT test.begin('sessions') AS id \gset
SELECT status FROM saga.step(:'id', 'second', compensation => $$
  INSERT INTO test.left_over SELECT 'statement ' || name FROM pg_prepared_statements WHERE from_sql
    UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable
    UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relname = 'left_over_temp'
    UNION ALL SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = 4711
    UNION ALL SELECT 'setting ' || current_setting('app.leftover', true) WHERE current_setting('app.leftover', true) <> ''$$);
SELECT status FROM saga.step(:'id', 'first', compensation => $$
  PREPARE left_over AS SELECT 1; DECLARE c CURSOR WITH HOLD FOR SELECT 1;
  CREATE TEMP TABLE left_over_temp (); SELECT pg_advisory_lock(4711); SET app.leftover = 'x'$$);
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
TABLE test.left_over;

-- wait: for a state, or until it is over
SELECT test.begin('wait') AS id \gset
SELECT saga.wait(:'id', until => 'running');
SELECT saga.wait(:'id', '10 ms', until => 'compensated');
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id', until => 'completed');
SELECT saga.wait(:'id', until => 'compensated');
SELECT saga.wait(:'id', '0');
