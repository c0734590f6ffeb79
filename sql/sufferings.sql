-- What users of other engines suffer from, and what happens here instead: a test for each, under its name.
-- (What needs crashes, restarts or long histories is in TAP tests, which test/README.md names.)
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
SET search_path = test;
\set ECHO all

\echo A signal that is sent before the wait is lost
SELECT test.begin('early') AS id \gset
-- before,
SELECT saga.signal(:'id', 'paid', '"before"');
SELECT status FROM saga.step(:'id', 'one', signals => '{paid}', timeout => '1 day') \gset
SELECT output FROM saga.wait_step(:'id', 'one');
-- during,
SELECT status FROM saga.step(:'id', 'two', signals => '{paid}', timeout => '1 day') \gset
CALL until_waits_for('early', 'two', 'signal%');
SELECT saga.signal(:'id', 'paid', '"during"');
SELECT output FROM saga.wait_step(:'id', 'two');
-- in the transaction that begins to wait,
BEGIN;
SELECT saga.signal(:'id', 'paid', '"at once"');
SELECT status FROM saga.step(:'id', 'three', signals => '{paid}', timeout => '1 day') \gset
COMMIT;
SELECT output FROM saga.wait_step(:'id', 'three');
-- and after: nobody took it, and everybody can see it.
SELECT saga.signal(:'id', 'paid', '"after"');
SELECT name, payload, used_by_step FROM saga.signals WHERE saga_id = :'id' ORDER BY at;
SELECT saga.complete(:'id');

\echo A waiter that timed out eats the next event
SELECT test.begin('late') AS id \gset
SELECT status FROM saga.step(:'id', 'one', signals => '{paid}', timeout => '10 ms', on_failure => 'skip') \gset
SELECT status, error FROM saga.wait_step(:'id', 'one');
SELECT saga.signal(:'id', 'paid', '"late"');
SELECT status FROM saga.step(:'id', 'two', after => '{}', signals => '{paid}', timeout => '1 day') \gset
SELECT status, output FROM saga.wait_step(:'id', 'two');
SELECT used_by_step FROM saga.signals WHERE saga_id = :'id';
SELECT saga.complete(:'id');

\echo Waiting for the first of several is impossible
SELECT test.begin('several') AS id \gset
SELECT status FROM saga.step(:'id', 'answer', signals => '{paid,cancelled}', timeout => '1 day') \gset
CALL until_waits_for('several', 'answer', 'signal%');
SELECT waits_for FROM forward('several');
SELECT saga.signal(:'id', 'cancelled', '"changed my mind"');
SELECT output FROM saga.wait_step(:'id', 'answer');
SELECT saga.complete(:'id');

\echo A wait without a timeout hangs unseen
SELECT test.begin('unseen') AS id \gset
SELECT status FROM saga.step(:'id', 'reply', signals => '{reply}') \gset
CALL until_waits_for('unseen', 'reply', 'signal%');
SELECT state, next_action FROM test.saga('unseen');
SELECT waits_for FROM forward('unseen');
SELECT saga.cancel(:'id');

\echo Approving runs the steps before it again
SELECT test.begin('approved') AS id \gset
SELECT status FROM saga.step(:'id', 'prepare', action => 'SELECT test.act($1)') \gset
SELECT status FROM saga.step(:'id', 'send', approval => 'send it?', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)') \gset
SELECT status FROM saga.wait_step(:'id', 'send');
SELECT saga.resolve(:'id', 'send', 'approve', 'it is fine');
SELECT status FROM saga.wait_step(:'id', 'send');
SELECT done('approved');

\echo A stale approval opens a later gate
CALL refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'send', 'approve', 'twice'));
-- another step with the same words,
SELECT status FROM saga.step(:'id', 'send again', approval => 'send it?', action => 'SELECT test.act($1)') \gset
SELECT status FROM saga.wait_step(:'id', 'send again');
SELECT status, parked FROM forward('approved') WHERE step = 'send again';
-- and the same step, rolled back: both ask afresh.
SELECT saga.rollback_to(:'id', 'prepare', 'another address');
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.wait_step(:'id', 'send');
SELECT step, run, status, parked FROM forward('approved') WHERE step = 'send';
SELECT done('approved'), undone('approved');
SELECT saga.cancel(:'id');

\echo One transient error ends the job
SELECT test.begin('transient') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => $$SELECT test.act_after($1, 3, '40001')$$, retry => saga.retry_policy(max_attempts => 1)) \gset
SELECT status FROM saga.step(:'id', 'b', action => $$SELECT test.act_after($1, 1)$$, retry => saga.retry_policy(max_attempts => 2, delay => '10 ms')) \gset
SELECT status FROM saga.wait_step(:'id', 'b');
SELECT * FROM forward_attempts('transient');
SELECT done('transient');
SELECT saga.complete(:'id');

\echo A deploy breaks running work
CREATE TABLE product (id int PRIMARY KEY, free int);
INSERT INTO product VALUES (1, 5);
CREATE FUNCTION take(c jsonb) RETURNS int LANGUAGE plpgsql AS 'BEGIN UPDATE product SET free = free - 1 WHERE id = 1; RETURN 1; END';
SELECT test.begin('deployed') AS id \gset
SELECT status FROM saga.step(:'id', 'first', action => 'SELECT take($1)', compensation => 'UPDATE product SET free = free + 1') \gset
SELECT status FROM saga.wait_step(:'id', 'first');
-- release 2 renames a column, and forgets the function
ALTER TABLE product RENAME free TO available;
SELECT status FROM saga.step(:'id', 'second', action => 'SELECT take($1)') \gset
SELECT status FROM saga.wait_step(:'id', 'second');
SELECT step, status, parked FROM forward('deployed');
SELECT state FROM test.saga('deployed');
-- release 2.1
CREATE OR REPLACE FUNCTION take(c jsonb) RETURNS int LANGUAGE sql AS 'UPDATE product SET available = available - 1 WHERE id = 1 RETURNING 2';
SELECT saga.resolve(saga_id, step, 'retry', 'release 2.1') FROM saga.review_queue WHERE saga_id = :'id';
SELECT status, output FROM saga.wait_step(:'id', 'second');
SELECT * FROM product;
-- A definition of another release meets the steps that the old one recorded: they are what they are.
SELECT status, output, known FROM saga.step(:'id', 'second', action => 'SELECT take_faster($1)', after => '{}');
SELECT saga.complete(:'id');

\echo Thousands of forks melt the parent
SELECT test.begin('forks') AS id \gset
SELECT count((saga.step(:'id', 'fork ' || n, after => '{}', action => 'SELECT 1')).seq) FROM generate_series(1, 2000) n;
SELECT status FROM saga.step(:'id', 'join', action => $$SELECT count(*) FROM jsonb_object_keys($1->'outputs')$$) \gset
SELECT xmin AS written_by FROM saga.ledger_saga WHERE id = :'id' \gset
SELECT status, output FROM saga.wait_step(:'id', 'join');
-- The saga's row was not written once meanwhile.
SELECT xmin = :'written_by' AS untouched FROM saga.ledger_saga WHERE id = :'id';
SELECT saga.complete(:'id');

\echo A child that waits for approval fails its parent
BEGIN;
SELECT test.begin('parent') AS id \gset
SELECT status FROM saga.step(:'id', 'parent', action => $$SELECT (saga.step(saga.current(), 'child', approval => 'may it?', action => 'SELECT test.act($1)')).status$$) \gset
SELECT status FROM saga.step(:'id', 'after', action => 'SELECT test.act($1)') \gset
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT status FROM saga.wait_step(:'id', 'parent');
CALL until_waits_for('parent', 'child', 'approval%');
SELECT state, next_action FROM test.saga('parent');
SELECT step, status, waits_for FROM forward('parent');
SELECT saga.resolve(:'id', 'child', 'approve', 'it may');
SELECT saga.wait(:'id');
SELECT done('parent');

\echo Every missed tick is replayed, or none
-- A schedule decides itself. This one was down for a while and does each missed tick,
CREATE TABLE tick (schedule text, at timestamptz);
CREATE FUNCTION tick_each(c jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  at timestamptz := coalesce((c->>'state')::timestamptz, '2026-01-01 00:00+00');
BEGIN
  INSERT INTO tick VALUES ('each', at);
  IF at < '2026-01-05 00:00+00' THEN
    PERFORM saga.again(state => to_jsonb(at + interval '1 day'), not_before => at + interval '1 day');
  END IF;
END $$;
-- and this one the last, and then goes on as planned.
CREATE FUNCTION tick_last(c jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  next timestamptz := date_trunc('day', now()) + interval '1 day';
BEGIN
  INSERT INTO tick VALUES ('last', next - interval '1 day');
  PERFORM saga.again(not_before => next);
END $$;
SELECT test.begin('each') AS id \gset
SELECT status FROM saga.step(:'id', 'tick', not_before => '2026-01-01', action => 'SELECT tick_each($1)') \gset
SELECT status FROM saga.wait_step(:'id', 'tick');
SELECT saga.complete(:'id');
SELECT test.begin('last') AS id \gset
SELECT status FROM saga.step(:'id', 'tick', not_before => '2026-01-01', action => 'SELECT tick_last($1)') \gset
CALL until_waits_for('last', 'tick', '20%');
SELECT schedule, count(*), min(at) >= now() - interval '1 day' AS recent FROM tick GROUP BY schedule ORDER BY schedule;
SELECT saga.cancel(:'id');

\echo Why is it not progressing?
BEGIN;
SELECT test.begin('words') AS id \gset
SELECT status FROM saga.step(:'id', 'ours') \gset
SELECT status FROM saga.step(:'id', 'step', after => '{ours}', action => 'SELECT 1') \gset
SELECT status FROM saga.step(:'id', 'time', after => '{}', not_before => '2120-01-01') \gset
SELECT status FROM saga.step(:'id', 'signal', after => '{}', signals => '{paid,cancelled}') \gset
SELECT status FROM saga.step(:'id', 'signal until', after => '{}', signals => '{paid}', timeout => '100 years') \gset
SELECT status FROM saga.step(:'id', 'approval', after => '{}', approval => 'ship it?', action => 'SELECT 1') \gset
SELECT status FROM saga.step(:'id', 'task', after => '{}', task => 'nobody_listens') \gset
SELECT status FROM saga.step(:'id', 'retry', after => '{}', action => 'SELECT 1/0', retry => saga.retry_policy(delay => '1 day', max_delay => '1 day')) \gset
SELECT status FROM saga.step(:'id', 'parked', after => '{}', action => 'SELECT no_such_function()') \gset
COMMIT;
CALL test.wait_until(format($$SELECT count(*) = 9 AND bool_and(waits_for !~ 'executor|its action|its gates') FROM saga.steps WHERE saga_id = %L AND (waits_for IS NOT NULL OR key = 'ours')$$, :'id'));
SELECT step, status, waits_for FROM forward('words');
SELECT saga.cancel(:'id');
CALL test.check_forward();
