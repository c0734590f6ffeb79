-- What follows when an action fails: each row of the table in the contract.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\set ECHO all

-- A conflict is nobody's fault: again, free, though one attempt is all there is.
BEGIN;
SELECT test.begin('conflicts') AS id \gset
SELECT c, (saga.step(:'id', c, action => format('SELECT test.act_after($1, 3, %L)', c), retry => saga.retry_policy(max_attempts => 1))).status
FROM unnest('{40001,40P01,55P03}'::text[]) c;
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.forward('conflicts');
SELECT * FROM test.forward_attempts('conflicts');

-- "Later" is not charged either.
BEGIN;
SELECT test.begin('later') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act_after($1, 3, ''SG007'')', retry => saga.retry_policy(max_attempts => 1, delay => '10 ms'));
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.forward('later');
SELECT * FROM test.forward_attempts('later');

-- A broken deployment undoes nothing: parked at once, whatever on_failure says.
CREATE FUNCTION test.limit() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'SG009', MESSAGE = 'a limit'; END $$;
CREATE FUNCTION test.unsupported() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = 'not yet'; END $$;
CREATE FUNCTION test.denied() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'permission denied'; END $$;
BEGIN;
SELECT test.begin('broken') AS id \gset
SELECT status FROM saga.step(:'id', 'before', completed => true, compensation => 'SELECT test.undo($1)');
SELECT (saga.step(:'id', k, after => '{}', action => a, on_failure => f)).status FROM (VALUES
  (1, 'no function', 'SELECT test.not_deployed($1)', NULL),
  (2, 'no table', 'SELECT * FROM test.nowhere', 'fail'),
  (3, 'no schema', 'SELECT nowhere.nothing()', 'fail'),
  (4, 'no right', 'SELECT test.denied()', 'fail'),
  (5, 'not supported', 'SELECT test.unsupported()', 'skip'),
  (6, 'limit', 'SELECT test.limit()', 'review'),
  (7, 'too large', 'SELECT repeat(''x'', 2000000)', 'fail')) v (n, k, a, f) ORDER BY n;
SELECT status FROM saga.step(:'id', 'after', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT s.key, (saga.wait_step(:'id', s.key)).status FROM saga.steps s WHERE saga_id = :'id' AND s.key <> 'after' ORDER BY seq;
SELECT step, status, attempts, error, parked, waits_for FROM test.forward('broken');
SELECT * FROM test.forward_attempts('broken');
SELECT state, requires_review, test.mask(next_action) FROM saga.sagas WHERE id = :'id';
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id' ORDER BY seq;
SELECT step, failure, test.mask(attempts) AS attempts, safe_to_retry, must_not_repeat, last_completed, outputs, test.mask(to_settle) AS to_settle
FROM saga.review_queue WHERE saga_id = :'id' AND step = 'no function' \gx
-- mended, they are tried again in bulk
CREATE FUNCTION test.not_deployed(jsonb) RETURNS text LANGUAGE sql AS 'SELECT test.act($1)';
CREATE TABLE test.nowhere (a integer);
CREATE SCHEMA nowhere;
CREATE FUNCTION nowhere.nothing() RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE OR REPLACE FUNCTION test.denied() RETURNS void LANGUAGE sql AS 'SELECT';
CREATE OR REPLACE FUNCTION test.limit() RETURNS void LANGUAGE sql AS 'SELECT';
CREATE OR REPLACE FUNCTION test.unsupported() RETURNS void LANGUAGE sql AS 'SELECT';
SELECT step, saga.resolve(saga_id, step, 'retry', 'deployed') FROM saga.review_queue WHERE saga_id = :'id' AND step <> 'too large' ORDER BY seq;
SELECT saga.resolve(:'id', 'too large', 'done', 'a shorter one', '"x"');
SELECT saga.wait(:'id');
SELECT step, status, attempts, output, error, parked FROM test.forward('broken');
SELECT event, step, detail FROM test.events('broken') WHERE event IN ('step parked', 'resolved') ORDER BY event, step COLLATE "C";
SELECT count(*) FROM saga.review_queue WHERE saga_id = :'id';
DROP FUNCTION nowhere.nothing();
DROP SCHEMA nowhere;

-- SG006: given up at once
BEGIN;
SELECT test.begin('never again') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1); SELECT saga.require(false, ''nothing to release'')', compensation => 'SELECT test.undo($1)', retry => saga.retry_policy(max_attempts => 100));
SELECT status FROM saga.step(:'id', 'c', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.saga('never again') \gx
SELECT * FROM test.forward('never again');
SELECT * FROM test.forward_attempts('never again');
SELECT event, step, detail FROM test.events('never again');
SELECT test.done('never again');

-- Anything else is a failed attempt, and is made again by the policy.
BEGIN;
SELECT test.begin('again') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act_after($1, 2)', retry => saga.retry_policy(max_attempts => 3, delay => '10 ms'));
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.forward_attempts('again');
-- until its attempts are exhausted: the saga fails with the error, at the step
SELECT test.begin('exhausted') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act_after($1, 9)', compensation => 'SELECT test.undo($1)', retry => saga.retry_policy(max_attempts => 2, delay => '10 ms'));
SELECT status FROM saga.step(:'id', 'c', action => 'SELECT test.act($1)');
SELECT status, error FROM saga.wait_step(:'id', 'b');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('exhausted') \gx
SELECT * FROM test.forward('exhausted');
SELECT * FROM test.forward_attempts('exhausted');
-- an error at the commit
SELECT test.begin('at the commit') AS id \gset
CREATE TABLE test.deferred (a integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO test.deferred VALUES (1);
SELECT status FROM saga.step(:'id', 'a', action => 'INSERT INTO test.deferred VALUES (1)', retry => saga.retry_policy(max_attempts => 1));
SELECT saga.wait(:'id');
SELECT reason, failed_step FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.forward_attempts('at the commit');

-- 'skip': the others go on, and see it in errors
BEGIN;
SELECT test.begin('skip') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act_after($1, 9)', retry => saga.retry_policy(max_attempts => 1), on_failure => 'skip', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'a2', after => '{}', action => 'SELECT test.act_after($1, 9)', retry => saga.retry_policy(max_attempts => 1), on_failure => 'skip', compensate_on => 'started', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT $1 -> ''outputs'' AS outputs, $1 -> ''errors'' AS errors', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'gate');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT status, output FROM saga.wait_step(:'id', 'b');
SELECT * FROM test.forward('skip');
SELECT step, action, detail FROM saga.plan(:'id');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('skip');
SELECT step, status, compensation FROM test.forward('skip');
-- and it completes with one that was skipped
BEGIN;
SELECT test.begin('skip last') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT 1/0', retry => saga.retry_policy(max_attempts => 1), on_failure => 'skip', compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT state, result, failed_step FROM saga.sagas WHERE id = :'id';
SELECT test.begin('skip, by hand') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT 1/0', retry => saga.retry_policy(max_attempts => 1), on_failure => 'skip');
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT saga.complete(:'id');

-- 'review': the saga waits for a person, who can try again, say it is done, or skip it
BEGIN;
SELECT test.begin('review') AS id \gset
SELECT k, (saga.step(:'id', k, after => '{}', action => format('SELECT test.act_after($1, %s)', CASE k WHEN 'retry' THEN 3 ELSE 2 END), retry => saga.retry_policy(max_attempts => 2, delay => '10 ms'), on_failure => 'review', compensation => 'SELECT test.undo($1)')).status
FROM unnest('{retry,done,done without,skip}'::text[]) k;
SELECT status FROM saga.step(:'id', 'join', action => 'SELECT $1 -> ''outputs'' AS outputs, $1 -> ''errors'' AS errors');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT s.key, (saga.wait_step(:'id', s.key)).status FROM saga.steps s WHERE saga_id = :'id' AND key <> 'join' ORDER BY seq;
SELECT step, status, attempts, error, parked, waits_for FROM test.forward('review');
SELECT state, requires_review, test.mask(next_action) FROM saga.sagas WHERE id = :'id';
SELECT step, why, test.mask(attempts) AS attempts, safe_to_retry FROM saga.review_queue WHERE saga_id = :'id' ORDER BY seq;
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'join', 'skip', 'n'));
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'nowhere', 'skip', 'n'));
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'retry', 'perhaps', 'n'));
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L, %L)', :'id', 'retry', 'retry', 'n', '1'));
SELECT saga.resolve(:'id', 'retry', 'retry', 'fresh attempts');
SELECT saga.resolve(:'id', 'done', 'done', 'by hand', '{"by": "hand"}');
SELECT saga.resolve(:'id', 'done without', 'done', 'by hand');
BEGIN;
SELECT saga.resolve(:'id', 'skip', 'skip', 'not needed');
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'skip', 'skip', 'n'));
COMMIT;
SELECT saga.wait(:'id');
SELECT step, status, attempts, output, error, parked, compensation FROM test.forward('review');
SELECT * FROM test.forward_attempts('review');
SELECT event, step, detail FROM test.events('review') WHERE event IN ('step parked', 'resolved', 'completed') ORDER BY event, step COLLATE "C";
-- retriable: 'review' is the default
BEGIN;
SELECT test.begin('retriable') AS id \gset
SELECT status FROM saga.step(:'id', 'pivot', kind => 'pivot', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'mail', kind => 'retriable', action => 'SELECT test.act_after($1, 1)', retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'id', 'last', kind => 'retriable', on_failure => 'fail', action => 'SELECT test.act_after($1, 1)', retry => saga.retry_policy(max_attempts => 1));
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT status FROM saga.wait_step(:'id', 'mail');
SELECT key, kind, on_failure, status, parked FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;
SELECT saga.resolve(:'id', 'mail', 'retry', 'try again');
-- which can still fail: it can only be finished
SELECT saga.wait(:'id');
SELECT * FROM test.saga('retriable') \gx
SELECT saga.reopen(:'id', 'finish it');
SELECT saga.wait(:'id');
SELECT step, status, attempts, output FROM test.forward('retriable');
-- a person's question goes with the failure of the saga
SELECT test.begin('asked, then failed') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act_after($1, 9)', retry => saga.retry_policy(max_attempts => 1), on_failure => 'review', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT * FROM saga.plan(:'id');
SELECT saga.fail(:'id', 'anyway');
SELECT saga.wait(:'id');
SELECT count(*) FROM saga.review_queue WHERE saga_id = :'id';
SELECT step, status, parked, waits_for, compensation FROM test.forward('asked, then failed');
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'a', 'retry', 'n'));

-- statement timeouts of the policy: the attempt has failed
SELECT test.begin('policy timeout') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act_for_ever($1)', retry => saga.retry_policy(max_attempts => 2, delay => '10 ms', timeout => '100 ms'));
SELECT saga.wait(:'id');
SELECT state, failed_step, reason FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.forward_attempts('policy timeout');
SELECT test.done('policy timeout');

-- roles: gone, or not allowed any more
CREATE ROLE regress_saga_gone LOGIN;
GRANT SELECT, INSERT ON test.named TO regress_saga_gone;
GRANT USAGE ON SCHEMA saga TO regress_saga_gone;
SET ROLE regress_saga_gone;
BEGIN;
SELECT test.begin('role gone') AS id \gset
SELECT status FROM saga.step(:'id', 'gate');
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
RESET ROLE;
DROP OWNED BY regress_saga_gone;
DROP ROLE regress_saga_gone;
SELECT status FROM saga.complete_step(:'id', 'gate');
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT step, status, attempts, error, parked FROM test.forward('role gone');
SELECT state, requires_review FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.forward_attempts('role gone');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');

CALL test.check_forward();
\set ECHO none
\i sql/include/drop_roles.sql
