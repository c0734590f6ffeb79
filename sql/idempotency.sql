-- The same key never makes a second saga or step, and gives one answer.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

-- A saga: the same key and input, the same id
SELECT saga.begin('transfer', 'k1', '{"from": 1, "to": 2}') AS id \gset
SELECT saga.begin('transfer', 'k1', '{"to": 2, "from": 1}') = :'id' AS same_in_another_order,
  saga.start('transfer', 'k1', '{"from": 1, "to": 2}') = :'id' AS by_its_second_name;
SELECT count(*) FROM saga.sagas WHERE name = 'transfer';
CALL test.refuses($$SELECT saga.begin('transfer', 'k1', '{"from": 1, "to": 3}')$$);
CALL test.refuses($$SELECT saga.begin('transfer', 'k1')$$);
CALL test.refuses($$SELECT saga.start('transfer', 'k1', 'null')$$);
SELECT count(*) FROM saga.sagas WHERE name = 'transfer';

-- ... without input, too
SELECT saga.begin('transfer', 'k2') AS id \gset
SELECT saga.begin('transfer', 'k2') = :'id' AS same;
CALL test.refuses($$SELECT saga.begin('transfer', 'k2', '{}')$$);

-- How long it may take and what follows from a failure are not its content.
SELECT saga.begin('transfer', 'k2', timeout => '1 day', on_compensation_failure => 'continue') = :'id' AS same;
SELECT deadline, next_action_at FROM saga.sagas WHERE id = :'id';

-- Keys are compared byte by byte.
SELECT count(DISTINCT id) AS sagas
FROM (VALUES (saga.begin('transfer', 'K')), (saga.begin('transfer', 'k')), (saga.begin('transfer', 'k ')),
  (saga.begin('transfer', 'ä')), (saga.begin('transfer', U&'a\0308')), (saga.begin('Transfer', 'k'))) AS begun (id);

-- The key stays taken when the saga is over.
SELECT saga.complete(:'id');
SELECT saga.begin('transfer', 'k2') = :'id' AS same;
SELECT saga.begin('transfer', 'k3') AS failed \gset
SELECT saga.fail(:'failed');
SELECT saga.begin('transfer', 'k3') = :'failed' AS same;

-- Another owner's key is another key.
CREATE ROLE regress_saga_other LOGIN;
GRANT USAGE ON SCHEMA saga TO regress_saga_other;
SET ROLE regress_saga_other;
SELECT saga.begin('transfer', 'k1', '"mine"') AS other \gset
RESET ROLE;
SELECT owner, count(*) FROM saga.sagas WHERE name = 'transfer' AND idempotency_key = 'k1' GROUP BY 1 ORDER BY owner = 'regress_saga_other'::regrole;
REVOKE USAGE ON SCHEMA saga FROM regress_saga_other;
DROP ROLE regress_saga_other;

-- Rolled back, the key is free.
BEGIN;
SELECT saga.begin('transfer', 'k4', '1') AS rolled_back \gset
ROLLBACK;
SELECT saga.begin('transfer', 'k4', '2') <> :'rolled_back' AS new;

-- A step: the same key and content, one step
SELECT saga.begin('transfer') AS id \gset
SELECT status, attempt FROM saga.step(:'id', 'debit', compensation => 'SELECT $1', args => '{"a": 1, "b": 2}');
SELECT status, attempt FROM saga.step(:'id', 'debit', compensation => 'SELECT $1', args => '{"b": 2, "a": 1}');
SELECT key, attempts, run FROM saga.steps WHERE saga_id = :'id';
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L, args => %L)', :'id', 'debit', 'SELECT 2', '{"a": 1, "b": 2}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L, args => %L)', :'id', 'debit', 'SELECT $1', '{"a": 1}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L)', :'id', 'debit', 'SELECT $1'));
CALL test.refuses(format('SELECT saga.step(%L, %L)', :'id', 'debit'));
CALL test.refuses(format('SELECT saga.step(%L, %L, notify => %L, args => %L)', :'id', 'debit', 'c', '{"a": 1, "b": 2}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, %L)', :'id', 'another name', 'debit'));
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L, args => %L, kind => %L)',
  :'id', 'debit', 'SELECT $1', '{"a": 1, "b": 2}', 'pivot'));
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L, args => %L, review => %L)',
  :'id', 'debit', 'SELECT $1', '{"a": 1, "b": 2}', 'look'));
SELECT key, status, attempts FROM saga.steps WHERE saga_id = :'id';

-- ... also once it has completed
SELECT status FROM saga.complete_step(:'id', 'debit', '{"balance": 5}');
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L)', :'id', 'debit', 'SELECT 2'));
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L, args => %L)', :'id', 'debit', 'SELECT $1', '[]'));

-- Completed once: the same output, or none, is the same answer; another is a conflict.
SELECT status, output FROM saga.complete_step(:'id', 'debit', '{"balance": 5}');
SELECT status, output FROM saga.complete_step(:'id', 'debit');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, %L)', :'id', 'debit', '{"balance": 6}'));

-- Whether a listener acknowledges is content.
SELECT status FROM saga.step(:'id', 'charge', notify => 'c');
CALL test.refuses(format('SELECT saga.step(%L, %L, notify => %L, acknowledge => false)', :'id', 'charge', 'c'));
SELECT status FROM saga.step(:'id', 'nothing', acknowledge => false);
SELECT status FROM saga.step(:'id', 'nothing');
-- How it is retried is not its content.
SELECT status, attempt FROM saga.step(:'id', 'credit', 'c1', retry => saga.retry_policy(max_attempts => 3));
SELECT status, attempt FROM saga.step(:'id', 'credit', 'c1', retry => saga.retry_policy(max_attempts => 4));
SELECT (retry).max_attempts FROM saga.steps WHERE saga_id = :'id' AND key = 'c1';

-- The same key in another saga is another step.
SELECT saga.begin('transfer') AS other \gset
SELECT status, attempt FROM saga.step(:'other', 'debit', compensation => 'SELECT 3');
SELECT count(*), count(DISTINCT forward_key) FROM saga.steps WHERE saga_id IN (:'id', :'other') AND key = 'debit';

-- Ends said twice
SELECT saga.complete_step(:'other', 'debit') IS NOT NULL AS completed;
SELECT saga.complete(:'other', '1');
SELECT saga.complete(:'other', '1');
SELECT saga.complete(:'other');
SELECT result FROM saga.sagas WHERE id = :'other';
