-- Signals: rows that wait for the steps that wait for them.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
-- What was sent, in the order of its arrival
CREATE FUNCTION test.signals(key text) RETURNS TABLE (name text, payload jsonb, signal_key text, used_by_step text)
LANGUAGE sql STABLE AS $$
  SELECT g.name, g.payload, g.key, g.used_by_step FROM saga.signals g WHERE g.saga_id = test.id($1)
$$;
\set ECHO all
-- A step waits for a signal, says so, and has it as its output.
SELECT test.begin('simple') AS id \gset
SELECT status FROM saga.step(:'id', 'payment', signals => '{paid}');
SELECT signals FROM saga.steps WHERE saga_id = :'id';
CALL test.until_waits_for('simple', 'payment', 'signal "paid"');
SELECT next_action FROM test.saga('simple');
SELECT saga.signal(:'id', 'other', '1');
SELECT saga.signal(:'id', 'paid', '{"amount": 7}', 'webhook-1');
SELECT status, output FROM saga.wait_step(:'id', 'payment');
SELECT * FROM test.signals('simple');
SELECT sent_by = current_user AS by_me, at <= clock_timestamp() AS at FROM saga.signals WHERE saga_id = :'id';
SELECT saga.complete(:'id');
-- What no step has used is counted at the end.
SELECT event, step, detail FROM test.events('simple');

-- Before, while and after it waits: the same.
SELECT test.begin('before') AS id \gset
SELECT saga.signal(:'id', 'go', '"early"');
BEGIN;
SELECT saga.signal(:'id', 'go', '"in the same transaction"');
SELECT status FROM saga.step(:'id', 'a', signals => '{go}', action => 'SELECT test.act($1, $1 #>> ''{signal,payload}'')');
SELECT status FROM saga.step(:'id', 'b', signals => '{go}', action => 'SELECT test.act($1, $1 #>> ''{signal,payload}'')');
SELECT status FROM saga.step(:'id', 'c', signals => '{go}', action => 'SELECT test.act($1, $1 #>> ''{signal,payload}'')');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
CALL test.until_waits_for('before', 'c', 'signal "go"');
SELECT saga.signal(:'id', 'go', '"while"');
SELECT saga.wait(:'id');
SELECT test.done('before');
SELECT * FROM test.signals('before');
-- no payload
SELECT test.begin('bare') AS id \gset
SELECT saga.signal(:'id', 'go');
SELECT status FROM saga.step(:'id', 'a', signals => '{go}');
SELECT status, output FROM saga.wait_step(:'id', 'a');
SELECT saga.complete(:'id');

-- The oldest of any of the names, whatever their order in the list
SELECT test.begin('any') AS id \gset
SELECT status FROM saga.step(:'id', 'start');
SELECT k, (saga.step(:'id', k, signals => '{paid,cancelled}')).status FROM unnest('{first,second,third}'::text[]) k;
SELECT saga.signal(:'id', s, to_jsonb(n)) FROM (VALUES (1, 'cancelled'), (2, 'paid'), (3, 'refused')) v (n, s);
SELECT step, status, waits_for FROM test.forward('any');
SELECT status FROM saga.complete_step(:'id', 'start');
SELECT (saga.wait_step(:'id', k)).output FROM unnest('{first,second}'::text[]) k;
CALL test.until_waits_for('any', 'third', 'signal "paid" or "cancelled"');
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');
SELECT step, status, output FROM test.forward('any');
SELECT * FROM test.signals('any');

-- A repeated key has no effect.
SELECT test.begin('key') AS id \gset
SELECT saga.signal(:'id', 'paid', '{"a": 1, "b": [2]}', 'k1');
SELECT saga.signal(:'id', 'paid', '{"b": [2.0], "a": 1}', 'k1');
CALL test.refuses(format('SELECT saga.signal(%L, %L, %L, %L)', :'id', 'paid', '{"a": 2}', 'k1'));
CALL test.refuses(format('SELECT saga.signal(%L, %L, idempotency_key => %L)', :'id', 'paid', 'k1'));
BEGIN;
SELECT saga.signal(:'id', 'paid', '2', 'k2'), saga.signal(:'id', 'paid', '2', 'k2'), saga.signal(:'id', 'other', '3', 'k2');
COMMIT;
SELECT * FROM test.signals('key');
-- not after it was used
SELECT status FROM saga.step(:'id', 'a', signals => '{paid}');
SELECT output FROM saga.wait_step(:'id', 'a');
SELECT saga.signal(:'id', 'paid', '{"a": 1, "b": [2]}', 'k1');
CALL test.refuses(format('SELECT saga.signal(%L, %L, %L, %L)', :'id', 'paid', '{"a": 2}', 'k1'));
-- nor once the saga has ended
SELECT saga.complete(:'id');
SELECT saga.signal(:'id', 'paid', '{"a": 1, "b": [2]}', 'k1');
CALL test.refuses(format('SELECT saga.signal(%L, %L, %L, %L)', :'id', 'paid', '{"a": 1}', 'k3'));
-- Keys are those of a saga and a name.
SELECT test.begin('other key') AS other \gset
SELECT saga.signal(:'other', 'paid', '9', 'k1');
SELECT * FROM test.signals('other key');
SELECT saga.complete(:'other');

-- A step that timed out takes none: the next one to wait does.
BEGIN;
SELECT test.begin('late waiter') AS id \gset
SELECT status FROM saga.step(:'id', 'a', signals => '{answer}', timeout => '100 ms', on_failure => 'skip');
SELECT status FROM saga.step(:'id', 'b', signals => '{answer}', timeout => '1 day');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT status, error FROM saga.wait_step(:'id', 'a');
CALL test.until_waits_for('late waiter', 'b', 'signal "answer" until 20%');
SELECT saga.signal(:'id', 'answer', '42');
SELECT saga.wait(:'id');
SELECT step, status, output, error FROM test.forward('late waiter');
SELECT * FROM test.signals('late waiter');

-- Gates in their order: time, the signal, a person
BEGIN;
SELECT test.begin('gates') AS id \gset
SELECT saga.signal(:'id', 'go', '1');
SELECT status FROM saga.step(:'id', 'a', delay => '100 ms', signals => '{go}', approval => 'go on?', action => 'SELECT test.act($1, $1 #>> ''{signal,signal}'')');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
CALL test.until_waits_for('gates', 'a', 'approval%');
SELECT * FROM test.signals('gates');
SELECT saga.resolve(:'id', 'a', 'approve', 'yes');
SELECT saga.wait(:'id');
SELECT test.done('gates');
-- an action that fails has its signal in all its attempts
BEGIN;
SELECT test.begin('attempts') AS id \gset
SELECT status FROM saga.step(:'id', 'a', signals => '{go}', action => 'SELECT test.act_after($1, 1), $1 #>> ''{signal,payload}'' AS payload', retry => saga.retry_policy(delay => '10 ms'));
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.signal(:'id', 'go', '1'), saga.signal(:'id', 'go', '2');
SELECT saga.wait(:'id');
SELECT step, status, attempts, output FROM test.forward('attempts');
SELECT * FROM test.signals('attempts');

-- A trigger sends: waiting until the data says so.
CREATE TABLE test.orders (id int PRIMARY KEY, saga uuid, paid boolean DEFAULT false);
CREATE FUNCTION test.tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM saga.signal(NEW.saga, 'paid', to_jsonb(NEW.id), 'order-' || NEW.id);
  RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER UPDATE OF paid ON test.orders FOR EACH ROW WHEN (NEW.paid) EXECUTE FUNCTION test.tell();
SELECT test.begin('trigger') AS id \gset
SELECT status FROM saga.step(:'id', 'a', signals => '{paid}');
INSERT INTO test.orders VALUES (1, :'id');
BEGIN;
UPDATE test.orders SET paid = true;
ROLLBACK;
SELECT count(*) FROM saga.signals WHERE saga_id = :'id';
UPDATE test.orders SET paid = true;
UPDATE test.orders SET paid = true;
SELECT status, output FROM saga.wait_step(:'id', 'a');
SELECT * FROM test.signals('trigger');
SELECT saga.complete(:'id');

-- An action sends to its own saga and to others, committed with it.
SELECT test.begin('told') AS told \gset
SELECT status FROM saga.step(:'told', 'a', signals => '{done}');
BEGIN;
SELECT test.begin('teller') AS id \gset
SELECT status FROM saga.step(:'id', 'tell', retry => saga.retry_policy(delay => '10 ms'), action => format(
  'SELECT saga.signal(saga.current(), ''own'', $1->''attempt''), saga.signal(%L, ''done'', $1->''attempt''), test.act_after($1, 1)', :'told'));
SELECT status FROM saga.step(:'id', 'hear', after => '{}', signals => '{own}');
SELECT status FROM saga.step(:'id', 'hear too', after => '{tell}', signals => '{own}', timeout => '100 ms', on_failure => 'skip');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT step, status, output->'payload' AS payload, error FROM test.forward('teller');
SELECT output FROM saga.wait_step(:'told', 'a');
SELECT * FROM test.signals('told');
SELECT saga.complete(:'told');
-- a compensation may not, to its own
SELECT test.begin('own undo') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, compensation => 'SELECT saga.signal(($1 #>> ''{saga,id}'')::uuid, ''no'')',
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT last_error FROM test.steps('own undo');

-- To a saga whose undo has begun
CALL test.refuses(format('SELECT saga.signal(%L, %L)', :'id', 'late'));
SELECT saga.signal(:'id', 'late', '"kept"', 'k', late => 'record');
SELECT saga.signal(:'id', 'late', '"kept"', 'k');
CALL test.refuses(format('SELECT saga.signal(%L, %L, late => %L)', :'id', 'late', 'perhaps'));
SELECT * FROM test.signals('own undo');
SELECT saga.abandon(:'id', 'enough');
CALL test.refuses(format('SELECT saga.signal(%L, %L, late => %L)', :'id', 'late', 'record'));
SELECT event, detail FROM test.events('own undo') WHERE event ~ 'signal';

-- A rollback asks again: what was used stays used, what was not is there for the new run.
BEGIN;
SELECT test.begin('again') AS id \gset
SELECT status FROM saga.step(:'id', 'start', completed => true);
SELECT status FROM saga.step(:'id', 'a', signals => '{go}', action => 'SELECT test.act($1, $1 #>> ''{signal,payload}'')', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', signals => '{end}');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.signal(:'id', 'go', '1');
CALL test.until_waits_for('again', 'b', 'signal "end"');
SELECT saga.rollback_to(:'id', 'start', 'once more');
SELECT saga.wait(:'id', until => 'running');
CALL test.until_waits_for('again', 'a', 'signal "go"');
SELECT saga.signal(:'id', 'end', '1'), saga.signal(:'id', 'go', '2');
SELECT saga.wait(:'id');
SELECT step, run, status, output FROM test.forward('again');
SELECT test.done('again'), test.undone('again');
SELECT * FROM test.signals('again');

-- Steps that waited when the saga failed use none, neither of what came before nor of what comes late.
BEGIN;
SELECT test.begin('fails') AS id \gset
SELECT status FROM saga.step(:'id', 'done', completed => true, review => 'look at it');
SELECT status FROM saga.step(:'id', 'open');
SELECT status FROM saga.step(:'id', 'a', signals => '{go}', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'b', after => '{}', signals => '{never}', timeout => '10 ms');
SELECT status FROM saga.step(:'id', 'c', after => '{}', signals => '{more}');
SELECT saga.signal(:'id', 'go', '1');
COMMIT;
SELECT saga.wait(:'id');
SELECT saga.signal(:'id', 'more', late => 'record');
SELECT step, status, error FROM test.forward('fails');
SELECT * FROM test.signals('fails');
SELECT saga.abandon(:'id', 'enough');

-- Nor where it comes together with what makes the saga fail
SELECT test.begin('together') AS id \gset
SELECT status FROM saga.step(:'id', 'a', after => '{}', signals => '{go}', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'b', after => '{}', approval => 'go on?');
CALL test.until_waits_for('together', 'b', 'approval%');
CALL test.until_waits_for('together', 'a', 'signal "go"');
BEGIN;
SELECT saga.signal(:'id', 'go', '1'), saga.resolve(:'id', 'b', 'refuse', 'no');
COMMIT;
SELECT saga.wait(:'id');
SELECT step, status, error FROM test.forward('together');
SELECT * FROM test.signals('together');

-- A paused saga uses none; what was sent is there when it goes on.
SELECT test.begin('paused') AS id \gset
SELECT status FROM saga.step(:'id', 'a', signals => '{go}');
SELECT saga.pause(:'id', 'a while');
SELECT saga.signal(:'id', 'go', '1');
SELECT status FROM saga.wait_step(:'id', 'a', '200 ms');
SELECT step, status, waits_for FROM test.forward('paused');
SELECT saga.resume(:'id', 'go on');
SELECT status, output FROM saga.wait_step(:'id', 'a');
SELECT saga.complete(:'id');

-- A step that is known by other signals keeps its own.
SELECT test.begin('known') AS id \gset
SELECT status FROM saga.step(:'id', 'a', signals => '{go,stop}');
SELECT status, known FROM saga.step(:'id', 'a', signals => '{go,stop}');
SELECT status, known FROM saga.step(:'id', 'a', signals => '{go}');
-- plan says that it would be skipped
SELECT action, detail FROM saga.plan(:'id');
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');

-- What is not allowed
SELECT test.begin('input') AS id \gset
CALL test.refuses(format('SELECT saga.step(%L, %L, signals => %L)', :'id', 'a', '{}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, signals => %L)', :'id', 'a', '{go,NULL}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, signals => %L)', :'id', 'a', '{""}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, signals => ARRAY[%L])', :'id', 'a', repeat('x', 257)));
CALL test.refuses(format('SELECT saga.step(%L, %L, signals => %L, completed => true)', :'id', 'a', '{go}'));
CALL test.refuses(format('SELECT saga.signal(%L, NULL)', :'id'));
CALL test.refuses(format('SELECT saga.signal(%L, %L)', :'id', ''));
CALL test.refuses(format('SELECT saga.signal(%L, repeat(%L, 257))', :'id', 'x'));
CALL test.refuses('SELECT saga.signal(NULL, ''go'')');
CALL test.refuses(format('SELECT saga.signal(%L, %L, idempotency_key => %L)', :'id', 'go', ''));
CALL test.refuses('SELECT saga.signal(''01900000-0000-7000-8000-000000000000'', ''go'')');
CALL test.refuses(format('SELECT saga.signal(%L, %L, to_jsonb(repeat(%L, 2000000)))', :'id', 'go', 'x'));
BEGIN READ ONLY;
CALL test.refuses(format('SELECT saga.signal(%L, %L)', :'id', 'go'));
ROLLBACK;
-- no more than a DBA allows
SET saga.max_signals = 2;
SELECT saga.signal(:'id', 'go', '1', 'k'), saga.signal(:'id', 'go', '2');
CALL test.refuses(format('SELECT saga.signal(%L, %L)', :'id', 'go'));
SELECT saga.signal(:'id', 'go', '1', 'k');
RESET saga.max_signals;
SELECT saga.complete(:'id');

-- Many signals and many steps; all are used, each once, in their order.
SELECT test.begin('many') AS id \gset
SELECT count(saga.signal(:'id', 'n' || i % 3, to_jsonb(i))) FROM generate_series(1, 300) i;
BEGIN;
SELECT count(saga.step(:'id', 's' || i, after => '{}', signals => ARRAY['n' || i % 3])) FROM generate_series(1, 299) i;
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT count(*), count(DISTINCT s.output), bool_and(s.output->'payload' = to_jsonb(i)) AS in_order
FROM generate_series(1, 299) i JOIN saga.steps s ON s.saga_id = :'id' AND s.key = 's' || i;
SELECT count(*), count(used_by_step), count(DISTINCT used_by_step) FROM saga.signals WHERE saga_id = :'id';
SELECT payload FROM saga.signals WHERE saga_id = :'id' AND used_by_step IS NULL;

-- Who may send: the saga's owner and members of that role.
CREATE ROLE regress_saga_app LOGIN;
CREATE ROLE regress_saga_hook LOGIN;
CREATE ROLE regress_saga_watch LOGIN;
GRANT USAGE ON SCHEMA saga TO regress_saga_app, regress_saga_hook, regress_saga_watch;
GRANT pg_monitor TO regress_saga_watch;
GRANT SELECT, INSERT ON test.named TO regress_saga_app;
SET ROLE regress_saga_app;
SELECT test.begin('rights') AS id \gset
SELECT status FROM saga.step(:'id', 'a', signals => '{paid}');
SET ROLE regress_saga_hook;
CALL test.refuses(format('SELECT saga.signal(%L, %L)', :'id', 'paid'));
SELECT count(*) FROM saga.signals WHERE saga_id = :'id';
-- For a narrower role, a function that can do this and nothing else
RESET ROLE;
CREATE FUNCTION test.order_paid(saga_id uuid, amount numeric, webhook text) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$SELECT saga.signal(saga_id, 'paid', jsonb_build_object('amount', amount), webhook)$$;
ALTER FUNCTION test.order_paid OWNER TO regress_saga_app;
REVOKE ALL ON FUNCTION test.order_paid FROM PUBLIC;
GRANT EXECUTE ON FUNCTION test.order_paid TO regress_saga_hook;
SET ROLE regress_saga_hook;
SELECT test.order_paid(:'id', 7.5, 'w1');
SET ROLE regress_saga_app;
SELECT status, output FROM saga.wait_step(:'id', 'a');
SELECT name, payload, key, sent_by, used_by_step FROM saga.signals WHERE saga_id = :'id';
-- who may only see the saga does not see what came with it
SET ROLE regress_saga_watch;
SELECT name, payload, key, sent_by, used_by_step FROM saga.signals WHERE saga_id = :'id';
SET ROLE regress_saga_app;
SELECT saga.complete(:'id');

-- Redacted, it forgets what came with them, and knows the keys.
SELECT saga.redact(:'id');
SELECT name, payload, key, used_by_step FROM saga.signals WHERE saga_id = :'id';
SELECT saga.signal(:'id', 'paid', '{"amount": 7.50}', 'w1');
CALL test.refuses(format('SELECT saga.signal(%L, %L, %L, %L)', :'id', 'paid', '{"amount": 8}', 'w1'));
SELECT saga.redact(:'id');
-- Purged, they go with the saga.
SELECT saga.purge('0') > 0 AS purged;
RESET ROLE;
SELECT count(*) FROM saga.ledger_signal WHERE saga = :'id';
CALL test.check_forward();
SELECT count(*) FROM saga.ledger_signal g WHERE NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = g.saga);
