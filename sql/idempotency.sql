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

-- ... and the same subject
SELECT saga.begin('transfer', 'k5', subject => 'customer-42') AS about \gset
SELECT saga.begin('transfer', 'k5', subject => 'customer-42') = :'about' AS same;
CALL test.refuses($$SELECT saga.begin('transfer', 'k5', subject => 'customer-43')$$);
CALL test.refuses($$SELECT saga.begin('transfer', 'k5')$$);
CALL test.refuses($$SELECT saga.begin('transfer', 'k2', subject => 'customer-42')$$);
CALL test.refuses($$SELECT saga.start('transfer', 'k5', '{}', subject => 'customer-43')$$);

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

-- A step: the same key and args, one step; "known" tells the calls apart.
SELECT saga.begin('transfer') AS id \gset
SELECT status, attempt, known FROM saga.step(:'id', 'debit', compensation => 'SELECT $1', args => '{"a": 1, "b": 2}');
SELECT status, attempt, known FROM saga.step(:'id', 'debit', compensation => 'SELECT $1', args => '{"b": 2, "a": 1}');
SELECT key, attempts, run FROM saga.steps WHERE saga_id = :'id';
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L, args => %L)', :'id', 'debit', 'SELECT $1', '{"a": 1}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L)', :'id', 'debit', 'SELECT $1'));
CALL test.refuses(format('SELECT saga.step(%L, %L)', :'id', 'debit'));
CALL test.refuses(format('SELECT saga.step(%L, %L, notify => %L, args => %L)', :'id', 'debit', 'c', '{"a": 1}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, %L)', :'id', 'another name', 'debit'));
SELECT key, status, attempts FROM saga.steps WHERE saga_id = :'id';

-- ... also once it has completed
SELECT status, known FROM saga.complete_step(:'id', 'debit', '{"balance": 5}');
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L, args => %L)', :'id', 'debit', 'SELECT $1', '[]'));

-- Completed once: the same output, or none, is the same answer; another is a conflict.
SELECT status, output, known FROM saga.complete_step(:'id', 'debit', '{"balance": 5}');
SELECT status, output, known FROM saga.complete_step(:'id', 'debit');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, %L)', :'id', 'debit', '{"balance": 6}'));

-- How a step is undone is recorded once: a later release that says something
-- else is answered, with a NOTICE that names what differs and not what it says.
SELECT status, attempt, output, known FROM saga.step(:'id', 'debit', args => '{"a": 1, "b": 2}', compensation => 'SELECT $1 ');
SELECT status, known FROM saga.step(:'id', 'debit', args => '{"a": 1, "b": 2}');
SELECT status, known FROM saga.step(:'id', 'debit', args => '{"a": 1, "b": 2}', notify => 'c', acknowledge => false, review => 'look',
  kind => 'pivot', compensate_on => 'completed', retry => saga.retry_policy(7), compensation_retry => saga.retry_policy(8));
SELECT compensation, channel, review, kind, (retry).max_attempts, (compensation_retry).max_attempts AS undo_attempts
FROM saga.steps WHERE saga_id = :'id';
-- ... of a step that is started, or failed, and is to be done again
SELECT status, attempt, known FROM saga.step(:'id', 'charge', notify => 'c', review => 'look');
SELECT status, attempt, known FROM saga.step(:'id', 'charge', notify => 'd', review => 'look');
SELECT status, attempt, known FROM saga.step(:'id', 'charge', notify => 'c', acknowledge => false, review => 'look twice');
SELECT status, known FROM saga.fail_step(:'id', 'charge', 'declined');
SELECT status, attempt, output, known FROM saga.step(:'id', 'charge', compensation => 'SELECT 1', output => '1');
SELECT compensation, channel, review, acknowledge FROM saga.ledger_step WHERE saga = :'id' AND key = 'charge';
-- Nobody acknowledges what is not notified of.
SELECT status FROM saga.step(:'id', 'nothing', acknowledge => false);
SELECT status FROM saga.step(:'id', 'nothing');
-- What is wrong by itself is refused all the same.
CALL test.refuses(format('SELECT saga.step(%L, %L, args => %L, compensation => %L)', :'id', 'debit', '{"a": 1, "b": 2}', 'SELEC'));

-- Of a policy, what a call leaves open is what is recorded.
SELECT status, attempt FROM saga.step(:'id', 'credit', 'c1', retry => saga.retry_policy(max_attempts => 3, delay => '2 s'));
SELECT status, attempt FROM saga.step(:'id', 'credit', 'c1', retry => saga.retry_policy(max_attempts => 3));
SET saga.max_attempts = 9;
SET saga.retry_delay = '10 min';
SELECT status, attempt FROM saga.step(:'id', 'credit', 'c1', retry => saga.retry_policy(max_attempts => 3, delay => '2 s'));
SELECT status, attempt FROM saga.step(:'id', 'credit', 'c1');
RESET saga.max_attempts;
RESET saga.retry_delay;
SELECT status, attempt FROM saga.step(:'id', 'credit', 'c1', retry => saga.retry_policy(max_attempts => 4));
SELECT status, attempt FROM saga.step(:'id', 'credit', 'c1', retry => saga.retry_policy(delay => '3 s'), compensation_retry => saga.retry_policy(timeout => '0'));
SELECT retry, compensation_retry FROM saga.steps WHERE saga_id = :'id' AND key = 'c1';

-- Within one transaction, the second call knows of the first.
BEGIN;
SELECT status, attempt, known FROM saga.step(:'id', 'twice');
SELECT status, attempt, known FROM saga.step(:'id', 'twice');
SELECT status, attempt, known FROM saga.step(:'id', 'twice', completed => true);
ROLLBACK;
SELECT status, attempt, known FROM saga.step(:'id', 'twice', completed => true);
SELECT status, attempt, known FROM saga.step(:'id', 'twice', completed => true);
SELECT (saga.step(:'id', 'alone')).known;
-- (...).* is a call for each column: the last one, of "known", finds the step.
SELECT attempt, known FROM (SELECT (saga.step(:'id', 'expanded')).* OFFSET 0) s;
-- What this transaction changed about a step is not an attempt of its own.
SELECT status, attempt FROM saga.step(:'id', 'amended', compensation => 'SELECT 1');
BEGIN;
SELECT saga.amend(:'id', 'amended', 'why', compensation => 'SELECT 2');
SELECT status, attempt FROM saga.step(:'id', 'amended', compensation => 'SELECT 2');
SELECT saga.amend(:'id', 'amended', 'why', compensation => 'SELECT 3');
SELECT status, attempt FROM saga.step(:'id', 'amended', compensation => 'SELECT 3');
COMMIT;
SELECT attempt, outcome FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq) WHERE saga_id = :'id' AND key = 'amended' ORDER BY 1;
-- So work and step are one statement, however often it is said.
CREATE TABLE test.stock (item int PRIMARY KEY, n int);
INSERT INTO test.stock VALUES (7, 10);
PREPARE reserve AS
  WITH s AS (SELECT * FROM saga.step($1, 'reserve', args => '{"item": 7}', completed => true,
    compensation => 'UPDATE test.stock SET n = n + 1 WHERE item = ($1->''args''->>''item'')::int'))
  UPDATE test.stock SET n = n - 1 FROM s WHERE NOT s.known AND item = 7;
EXECUTE reserve(:'id');
EXECUTE reserve(:'id');
BEGIN;
EXECUTE reserve(:'id');
COMMIT;
SELECT n FROM test.stock;
-- A new run, after a rollback, is not known.
SELECT saga.begin('transfer') AS again \gset
SELECT status, known FROM saga.step(:'again', 'base', completed => true);
SELECT status, known FROM saga.step(:'again', 'tip', completed => true);
SELECT saga.rollback_to(:'again', 'base');
SELECT status, known FROM saga.step(:'again', 'base', completed => true);
SELECT status, known FROM saga.step(:'again', 'tip', completed => true, args => '"other"');
-- On a completed saga, too
SELECT saga.complete(:'again');
SELECT status, known FROM saga.step(:'again', 'tip', args => '"other"', review => 'look');

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

-- Whatever is said twice holds nothing of the saga to the end of its transaction, and
-- is no write: so whoever says it may wait for the saga, which goes on meanwhile.
CREATE PROCEDURE test.holds(statement text) LANGUAGE plpgsql AS $$
DECLARE
  answer text;
BEGIN
  EXECUTE statement INTO answer;
  -- (That is the mark of the lock of a saga.)
  RAISE INFO '% lock, % written: %', (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND objsubid = 23146),
    CASE WHEN pg_current_xact_id_if_assigned() IS NULL THEN 'nothing' ELSE 'something' END, test.mask(answer);
  COMMIT;
END $$;
SELECT saga.begin('transfer', 'twice', timeout => '10 years') AS id \gset
SELECT status FROM saga.step(:'id', 'done', completed => true, output => '1');
SELECT status FROM saga.step(:'id', 'failed');
SELECT status FROM saga.fail_step(:'id', 'failed', 'why', retryable => false);
SELECT status, forward_key AS task FROM saga.step(:'id', 'task', task => 'k_twice', after => '{}') \gset
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.claim_tasks('k_twice', 1, '1 minute')$$);
SELECT saga.complete_task(:'task');
SELECT status, forward_key AS held FROM saga.step(:'id', 'held', task => 'k_twice', after => '{}') \gset
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.claim_tasks('k_twice', 1, '1 minute')$$);
SELECT saga.signal(:'id', 'paid', idempotency_key => 'once');
CALL test.holds(format('SELECT status FROM saga.step(%L, ''other'')', :'id'));
CALL test.holds($$SELECT saga.begin('transfer', 'twice', timeout => '10 years')$$);
CALL test.holds(format('SELECT status FROM saga.step(%L, ''done'', output => ''1'')', :'id'));
CALL test.holds(format('SELECT status FROM saga.step(%L, ''task'', task => ''k_twice'', after => ''{}'')', :'id'));
CALL test.holds(format('SELECT status FROM saga.complete_step(%L, ''done'', ''1'')', :'id'));
CALL test.holds(format('SELECT status FROM saga.fail_step(%L, ''failed'', ''why'')', :'id'));
CALL test.holds(format('SELECT saga.complete_task(%L)', :'task'));
CALL test.holds(format('SELECT saga.fail_task(%L, 1, ''why'')', :'task'));
CALL test.holds(format('SELECT saga.extend_claim(%L, 1, ''1 second'') IS NOT NULL', :'held'));
CALL test.holds($$SELECT count(*) FROM saga.claim_tasks('k_twice')$$);
CALL test.holds(format('SELECT saga.signal(%L, ''paid'', idempotency_key => ''once'')', :'id'));
CALL test.holds(format('SELECT saga.resume(%L)', :'id'));
SELECT saga.fail(:'id');
CALL test.holds(format('SELECT saga.fail(%L)', :'id'));
CALL test.holds(format('SELECT saga.cancel(%L)', :'id'));
CALL test.holds(format('SELECT saga.complete(%L)', :'other'));
CALL test.holds(format('SELECT status FROM saga.step(%L, ''debit'', compensation => ''SELECT 3'')', :'other'));
SELECT saga.begin('transfer', timeout => '1 second') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true);
BEGIN;
SELECT status, known FROM saga.step(:'id', 'a', completed => true);
SELECT saga.wait(:'id', '30 seconds');
COMMIT;
