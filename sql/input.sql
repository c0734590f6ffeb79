-- Bad input: refused with a code, words and a way on, and nothing is stored.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

SELECT saga.begin('input') AS id \gset
SELECT status FROM saga.step(:'id', 'known');
SELECT test.ledger_size() AS size \gset

CREATE PROCEDURE test.step_refuses(arguments text) LANGUAGE sql
AS $$ CALL test.refuses(format('SELECT saga.step(%L, %s)', saga.begin('input of steps', 'one'), arguments)) $$;
SELECT saga.begin('input of steps', 'one') IS NOT NULL AS begun;
SELECT test.ledger_size() AS size \gset

-- Names and keys: 1 to 256 and 1 to 512 characters, not bytes
CALL test.refuses($$SELECT saga.begin(NULL)$$);
CALL test.refuses($$SELECT saga.begin('')$$);
CALL test.refuses($$SELECT saga.begin(repeat('n', 257))$$);
CALL test.refuses($$SELECT saga.begin(repeat('ü', 257))$$);
CALL test.refuses($$SELECT saga.begin(repeat('n', 10000))$$);
CALL test.refuses($$SELECT saga.begin('n', '')$$);
CALL test.refuses($$SELECT saga.begin('n', subject => '')$$);
CALL test.refuses($$SELECT saga.begin('n', subject => repeat('s', 257))$$);
CALL test.refuses($$SELECT saga.start('n', subject => repeat('𝄞', 257))$$);
CALL test.refuses($$SELECT saga.begin('n', repeat('k', 513))$$);
CALL test.refuses($$SELECT saga.begin('n', repeat('𝄞', 513))$$);
CALL test.refuses($$SELECT saga.begin(repeat('𝄞', 256), repeat('𝄞', 512))$$);
CALL test.step_refuses($$NULL$$);
CALL test.step_refuses($$''$$);
CALL test.step_refuses($$repeat('n', 257)$$);
CALL test.step_refuses($$repeat('ü', 257)$$);
CALL test.step_refuses($$'n', ''$$);
CALL test.step_refuses($$'n', repeat('k', 513)$$);
CALL test.step_refuses($$'n', repeat('ü', 513)$$);
SELECT test.ledger_size() = :'size' AS nothing_stored;
-- the longest that are allowed
BEGIN;
SELECT saga.begin(repeat('n', 256), repeat('k', 512)) AS long1,
  saga.begin(repeat('ü', 256), repeat('ü', 512)) AS long2,
  saga.begin(repeat('𝄞', 256), subject => repeat('𝄞', 256)) AS long3,
  saga.begin('𝄞', repeat('𝄞', 512)) AS long4 \gset
SELECT length(name) AS name, octet_length(name), length(idempotency_key) AS key, octet_length(idempotency_key)
FROM saga.sagas WHERE id IN (:'long1', :'long2', :'long3', :'long4') ORDER BY id;
SELECT length(step) FROM saga.step(:'id', repeat('n', 256), repeat('k', 512));
SELECT length(step) FROM saga.step(:'id', repeat('𝄞', 256), repeat('𝄞', 512));
SELECT length(step) FROM saga.complete_step(:'id', repeat('𝄞', 512));
ROLLBACK;

-- Ids
CALL test.refuses($$SELECT saga.step('01900000-0000-7000-8000-000000000000', 'a')$$);
CALL test.refuses($$SELECT saga.step(NULL, 'a')$$);
CALL test.refuses($$SELECT saga.complete_step(NULL, 'a')$$);
CALL test.refuses($$SELECT saga.fail_step(NULL, 'a', 'e')$$);
CALL test.refuses($$SELECT saga.complete(NULL)$$);
CALL test.refuses($$SELECT saga.fail(NULL)$$);
CALL test.refuses($$SELECT saga.cancel(NULL)$$);
CALL test.refuses($$SELECT saga.wait(NULL)$$);
CALL test.refuses(format('SELECT saga.complete_step(%L, NULL)', :'id'));
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', ''));
CALL test.refuses(format('SELECT saga.complete_step(%L, repeat(%L, 513))', :'id', 'k'));
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'unknown'));
CALL test.refuses(format('SELECT saga.fail_step(%L, NULL, %L)', :'id', 'e'));
CALL test.refuses(format('SELECT saga.fail_step(%L, %L, NULL)', :'id', 'known'));
CALL test.refuses(format('SELECT saga.fail_step(%L, %L, %L)', :'id', 'unknown', 'e'));

-- Words that are none
CALL test.refuses($$SELECT saga.begin('n', on_compensation_failure => 'stop')$$);
CALL test.refuses($$SELECT saga.begin('n', on_compensation_failure => '')$$);
CALL test.refuses($$SELECT saga.begin('n', on_compensation_failure => 'HALT')$$);
CALL test.step_refuses($$'n', kind => 'Pivot'$$);
CALL test.step_refuses($$'n', kind => ''$$);
CALL test.step_refuses($$'n', compensate_on => 'failed'$$);
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, late => %L)', :'id', 'known', 'keep'));
CALL test.refuses(format('SELECT saga.wait(%L, until => %L)', :'id', 'done'));
CALL test.refuses(format('SELECT saga.wait(%L, until => %L)', :'id', ''));

-- Times
CALL test.refuses($$SELECT saga.begin('n', timeout => '-1 second')$$);
CALL test.refuses($$SELECT saga.begin('n', timeout => '-1 microsecond')$$);
CALL test.refuses($$SELECT saga.begin('n', timeout => '1 day -25 hours')$$);
CALL test.refuses($$SELECT saga.begin('n', timeout => '101 years')$$);
CALL test.refuses($$SELECT saga.begin('n', timeout => '178000000 years')$$);
CALL test.refuses($$SELECT saga.begin('n', timeout => '-178000000 years')$$);
CALL test.refuses(format('SELECT saga.wait(%L, %L)', :'id', '-1 second'));
CALL test.refuses(format('SELECT saga.wait(%L, %L)', :'id', '178000000 years'));
BEGIN;
SELECT saga.begin('n', timeout => '100 years') AS century, saga.begin('n', timeout => '1 month') AS month,
  saga.begin('n', timeout => '1 microsecond') AS least \gset
SELECT deadline - started_at AS timeout FROM saga.sagas WHERE id IN (:'century', :'month', :'least') ORDER BY id;
ROLLBACK;

-- Retry policies
CALL test.refuses($$SELECT saga.retry_policy(max_attempts => 0)$$);
CALL test.refuses($$SELECT saga.retry_policy(max_attempts => -1)$$);
CALL test.refuses($$SELECT saga.retry_policy(max_attempts => 1001)$$);
CALL test.refuses($$SELECT saga.retry_policy(delay => '9 ms')$$);
CALL test.refuses($$SELECT saga.retry_policy(delay => '0')$$);
CALL test.refuses($$SELECT saga.retry_policy(delay => '-1 s')$$);
CALL test.refuses($$SELECT saga.retry_policy(delay => '101 years')$$);
CALL test.refuses($$SELECT saga.retry_policy(backoff => 'fibonacci')$$);
CALL test.refuses($$SELECT saga.retry_policy(backoff => '')$$);
CALL test.refuses($$SELECT saga.retry_policy(max_delay => '9 ms')$$);
CALL test.refuses($$SELECT saga.retry_policy(max_delay => '-1 s')$$);
CALL test.refuses($$SELECT saga.retry_policy(jitter => -0.1)$$);
CALL test.refuses($$SELECT saga.retry_policy(jitter => 1.1)$$);
CALL test.refuses($$SELECT saga.retry_policy(jitter => 'NaN')$$);
CALL test.refuses($$SELECT saga.retry_policy(jitter => 'Infinity')$$);
CALL test.refuses($$SELECT saga.retry_policy(timeout => '-1 s')$$);
CALL test.refuses($$SELECT saga.retry_policy(timeout => '25 days')$$);
-- ... also when they are made by hand
CALL test.step_refuses($$'n', retry => ROW(0, NULL, NULL, NULL, NULL, NULL)$$);
CALL test.step_refuses($$'n', retry => ROW(NULL, NULL, NULL, NULL, 'NaN', NULL)$$);
CALL test.step_refuses($$'n', compensation_retry => ROW(NULL, '-1 day', NULL, NULL, NULL, NULL)$$);
CALL test.step_refuses($$'n', compensation_retry => ROW(NULL, NULL, 'x', NULL, NULL, NULL)$$);
-- the bounds themselves
SELECT saga.retry_policy(1, '10 ms', 'constant', '10 ms', 0, '0'),
  saga.retry_policy(1000, '100 years', 'exponential', '100 years', 1, '24 days');

-- What belongs together, and what does not
CALL test.step_refuses($$'n', compensation => 'SELECT 1', notify => 'c'$$);
CALL test.step_refuses($$'n', review => ''$$);

-- Channels: 1 to 63 bytes, as NOTIFY would have them
CALL test.step_refuses($$'n', notify => ''$$);
CALL test.step_refuses($$'n', notify => repeat('c', 64)$$);
CALL test.step_refuses($$'n', notify => repeat('ü', 32)$$);
CALL test.refuses($$SELECT saga.begin('n', announce => '')$$);
CALL test.refuses($$SELECT saga.begin('n', announce => repeat('c', 64))$$);
BEGIN;
SELECT status FROM saga.step(:'id', 'n', notify => repeat('c', 63));
SELECT saga.begin('n', announce => repeat('c', 61) || 'ü') IS NOT NULL AS begun;
ROLLBACK;

-- LISTEN folds what is not quoted: a NOTICE where the step is new, and no other.
SELECT status FROM saga.step(:'id', 'loud', notify => 'Refunds');
SELECT status FROM saga.step(:'id', 'loud', notify => 'Refunds');
SELECT status FROM saga.step(:'id', 'quiet', notify => 'refunds_2');
SELECT status FROM saga.step(:'id', 'umlaut', notify => 'Ümläute');
SELECT saga.begin('n', announce => 'My "States"') IS NOT NULL AS begun;
SELECT saga.amend(:'id', 'quiet', 'n', notify => 'Loud');

-- A policy as jsonb
SELECT saga.retry_policy('{"max_attempts": 3, "delay": "5 s", "backoff": "linear", "max_delay": "1 min", "jitter": 0.25, "timeout": "0"}'::jsonb)
  = saga.retry_policy(3, '5 s', 'linear', '1 min', 0.25, '0') AS same;
SELECT saga.retry_policy('{}'::jsonb), saga.retry_policy('{"delay": null, "max_attempts": "7"}'::jsonb), saga.retry_policy(NULL::jsonb) IS NULL AS nothing;
SELECT status FROM saga.step(:'id', 'by json', retry => saga.retry_policy('{"max_attempts": 3}'::jsonb));
SELECT (retry).max_attempts FROM saga.steps WHERE saga_id = :'id' AND key = 'by json';
CALL test.refuses($$SELECT saga.retry_policy('{"attempts": 3}'::jsonb)$$);
CALL test.refuses($$SELECT saga.retry_policy('{"max_attempts": 0}'::jsonb)$$);
CALL test.refuses($$SELECT saga.retry_policy('{"max_attempts": "many"}'::jsonb)$$);
CALL test.refuses($$SELECT saga.retry_policy('{"max_attempts": 3.5}'::jsonb)$$);
CALL test.refuses($$SELECT saga.retry_policy('{"max_attempts": true}'::jsonb)$$);
CALL test.refuses($$SELECT saga.retry_policy('{"delay": {"seconds": 3}}'::jsonb)$$);
CALL test.refuses($$SELECT saga.retry_policy('[3]'::jsonb)$$);
CALL test.refuses($$SELECT saga.retry_policy('3'::jsonb)$$);
CALL test.refuses($$SELECT saga.retry_policy('null'::jsonb)$$);

-- Compensations: what could not run whatever the database holds.  The position
-- is that in the compensation's own text.
SELECT saga.step(:'id', 'n', compensation => 'DELETE FORM account');
SELECT saga.step(:'id', 'n', compensation => 'SELECT 1; SELECT (2');
SELECT saga.step(:'id', 'n', compensation => E'SELECT 1;\n  SELEKT 2');
SELECT saga.step(:'id', 'n', compensation => 'SELECT ''open');
CALL test.step_refuses($$'n', compensation => 'DELETE FORM account'$$);
CALL test.step_refuses($$'n', compensation => ''$$);
CALL test.step_refuses($$'n', compensation => '   '$$);
CALL test.step_refuses($$'n', compensation => ';;'$$);
CALL test.step_refuses($$'n', compensation => '-- nothing'$$);
CALL test.step_refuses($$'n', compensation => '/* nothing */'$$);
CALL test.step_refuses($$'n', compensation => 'BEGIN'$$);
CALL test.step_refuses($$'n', compensation => 'START TRANSACTION'$$);
CALL test.step_refuses($$'n', compensation => 'COMMIT'$$);
CALL test.step_refuses($$'n', compensation => 'END'$$);
CALL test.step_refuses($$'n', compensation => 'ROLLBACK'$$);
CALL test.step_refuses($$'n', compensation => 'ABORT'$$);
CALL test.step_refuses($$'n', compensation => 'SAVEPOINT s'$$);
CALL test.step_refuses($$'n', compensation => 'RELEASE s'$$);
CALL test.step_refuses($$'n', compensation => 'ROLLBACK TO s'$$);
CALL test.step_refuses($$'n', compensation => 'PREPARE TRANSACTION ''t'''$$);
CALL test.step_refuses($$'n', compensation => 'COMMIT PREPARED ''t'''$$);
CALL test.step_refuses($$'n', compensation => 'SELECT 1; COMMIT'$$);
CALL test.step_refuses($$'n', compensation => 'BEGIN; DELETE FROM account; COMMIT'$$);
-- What a text means is not asked for now; the same text twice is checked twice.
BEGIN;
SELECT status FROM saga.step(:'id', 'n1', compensation => 'DELETE FROM no_such_table WHERE x = $1');
SELECT status FROM saga.step(:'id', 'n2', compensation => 'SELECT 1; SELECT 2;');
SELECT status FROM saga.step(:'id', 'n3', compensation => 'VACUUM');
SELECT status FROM saga.step(:'id', 'n4', compensation => 'DO $$BEGIN COMMIT; END$$');
ROLLBACK;
CALL test.step_refuses($$'n', compensation => 'COMMIT'$$);

-- Payloads: each jsonb within saga.max_payload
SET saga.max_payload = '1kB';
CALL test.refuses($$SELECT saga.begin('n', input => to_jsonb(repeat('x', 1024)))$$);
CALL test.step_refuses($$'n', args => to_jsonb(repeat('x', 1024))$$);
CALL test.step_refuses($$'n', output => to_jsonb(repeat('x', 1024))$$);
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, to_jsonb(repeat(%L, 1024)))', :'id', 'known', 'x'));
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, to_jsonb(repeat(%L, 1024)), late => %L)', :'id', 'known', 'x', 'record'));
CALL test.refuses(format('SELECT saga.complete(%L, to_jsonb(repeat(%L, 1024)))', :'id', 'x'));
CALL test.refuses(format('SELECT saga.fail(%L, details => to_jsonb(repeat(%L, 1024)))', :'id', 'x'));
BEGIN;
SELECT saga.begin('n', input => to_jsonb(repeat('x', 1000))) AS fits \gset
SELECT length(input #>> '{}') FROM saga.sagas WHERE id = :'fits';
ROLLBACK;
RESET saga.max_payload;
-- a compressed value counts with its full size
CREATE TABLE test.payload AS SELECT to_jsonb(repeat('x', 2000000)) AS j;
CALL test.refuses($$SELECT saga.begin('n', input => j) FROM test.payload$$);
-- and one that is allowed comes back as it was
BEGIN;
SELECT saga.begin('n', 'big', (SELECT to_jsonb(string_agg(md5(n::text), '')) FROM generate_series(1, 20000) n)) AS big \gset
SELECT input = (SELECT to_jsonb(string_agg(md5(n::text), '')) FROM generate_series(1, 20000) n) AS same
FROM saga.sagas WHERE id = :'big';
SELECT saga.begin('n', 'big', (SELECT to_jsonb(string_agg(md5(n::text), '')) FROM generate_series(1, 20000) n)) = :'big' AS same;
SELECT length(output #>> '{}') FROM saga.step(:'big', 'a', output => (SELECT to_jsonb(string_agg(md5(n::text), '')) FROM generate_series(1, 20000) n));
SELECT length(output #>> '{}') FROM saga.step(:'big', 'a');
ROLLBACK;

-- After all that, the ledger is what it was, but for the numbers that rolled
-- back steps took.
SELECT (regexp_match(test.ledger_size(), '^\d+ \d+ \d+ \d+ \d+ \d+'))[1]
  = (regexp_match(:'size', '^\d+ \d+ \d+ \d+ \d+ \d+'))[1] AS nothing_stored;
SELECT state, steps FROM saga.sagas WHERE id = :'id';
SELECT key, status, attempts FROM saga.steps WHERE saga_id = :'id' ORDER BY position;

-- Transactions that cannot write
BEGIN READ ONLY;
SELECT saga.begin('n');
ROLLBACK;
BEGIN READ ONLY;
SELECT saga.step(:'id', 'n');
ROLLBACK;
BEGIN READ ONLY;
SELECT saga.complete_step(:'id', 'known');
ROLLBACK;
BEGIN READ ONLY;
SELECT saga.fail_step(:'id', 'known', 'e');
ROLLBACK;
BEGIN READ ONLY;
SELECT saga.complete(:'id');
ROLLBACK;
BEGIN READ ONLY;
SELECT saga.fail(:'id');
ROLLBACK;
BEGIN READ ONLY;
SELECT saga.cancel(:'id');
ROLLBACK;
-- but wait and read
BEGIN READ ONLY;
SELECT saga.wait(:'id', '0');
SELECT state FROM saga.sagas WHERE id = :'id';
COMMIT;

-- wait refuses where it would wait for its own transaction, or see the past.
BEGIN;
SELECT status FROM saga.step(:'id', 'n');
SELECT saga.wait(:'id', '0');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT saga.wait(:'id', '0');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT saga.wait(:'id', '0');
ROLLBACK;
\set VERBOSITY sqlstate
BEGIN READ ONLY;
SELECT saga.begin('n');
ROLLBACK;
BEGIN;
SELECT status FROM saga.step(:'id', 'n');
SELECT saga.wait(:'id', '0');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT saga.wait(:'id', '0');
ROLLBACK;
\set VERBOSITY default
