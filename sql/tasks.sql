-- Tasks: work of steps that services outside the database claim, do and report.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
SET client_min_messages = warning;
-- What a claim hands out, and its key by step
CREATE FUNCTION test.take(channel text, n integer DEFAULT 1, lease interval DEFAULT '1 minute', consumer text DEFAULT NULL)
RETURNS TABLE (saga text, step text, phase text, attempt integer) LANGUAGE sql VOLATILE AS $$
  SELECT name, step, phase, attempt FROM saga.claim_tasks(channel, n, lease, consumer)
$$;
CREATE FUNCTION test.key(name text, step text, run integer DEFAULT 1) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT saga_id || '-' || seq FROM saga.steps WHERE saga_id = test.id($1) AND key = $2 AND run = $3
$$;
CREATE FUNCTION test.pending(name text) RETURNS TABLE (step text, phase text, channel text, attempt integer, consumer text, held boolean, later boolean)
LANGUAGE sql STABLE AS $$
  SELECT step, phase, channel, attempt, consumer, claimed_at IS NOT NULL, since > saga.internal_now()
  FROM saga.pending_tasks WHERE saga_id = test.id($1) ORDER BY seq, phase
$$;
RESET client_min_messages;
\set ECHO all

-- A task is claimed, done and reported; what comes after it goes on.
BEGIN;
SELECT test.begin('order') AS id \gset
SELECT status, attempt FROM saga.step(:'id', 'reserve', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status, attempt FROM saga.step(:'id', 'charge', args => '{"cents": 500}', task => 'payments', notify => 'payments', retry => saga.retry_policy(3, '10 ms', 'constant', '10 ms', 0, '2 hours'));
SELECT status, attempt FROM saga.step(:'id', 'ship', action => $$SELECT $1 -> 'outputs' -> 'charge' ->> 'charge_id'$$, compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
CALL test.until_waits_for('order', 'charge', 'a consumer of channel "payments"');
SELECT step, status, attempts, waits_for, compensation FROM test.forward('order');
SELECT next_action FROM test.saga('order');
SELECT * FROM test.pending('order');
SELECT name, step, phase, attempt, task_key = test.key('order', 'charge') AS key, context ->> 'forward_key' = task_key AS forward_key,
  context ->> 'task_key' = task_key AS in_context, context -> 'args' AS args, context -> 'outputs' AS outputs, context ->> 'attempt' AS attempt, lease_until > saga.internal_now() AS leased
FROM saga.claim_tasks('payments', 5, '1 minute', 'bob');
SELECT * FROM test.take('payments');
SELECT step, status, attempts, waits_for FROM test.forward('order');
SELECT * FROM test.pending('order');
SELECT step, phase, attempt, consumer, pid FROM saga.running WHERE saga_id = :'id';
SELECT * FROM test.forward_attempts('order');
-- the provider says no, but not for good; its claim is over by that
SELECT saga.fail_task(test.key('order', 'charge'), 1, 'try again later');
SELECT saga.fail_task(test.key('order', 'charge'), 1, 'try again later');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_tasks WHERE step = 'charge' AND claimed_at IS NULL AND since <= saga.internal_now()$$);
SELECT * FROM test.take('payments');
SELECT saga.extend_claim(test.key('order', 'charge'), 2, '1 hour') > saga.internal_now() + interval '59 minutes' AS extended;
CALL test.refuses(format('SELECT saga.extend_claim(%L, 1, %L)', test.key('order', 'charge'), '1 minute'));
CALL test.refuses(format('SELECT saga.fail_task(%L, 3, %L)', test.key('order', 'charge'), 'no'));
SELECT saga.complete_task(test.key('order', 'charge'), '{"charge_id": "ch_1"}');
SELECT saga.complete_task(test.key('order', 'charge'), '{"charge_id": "another"}');
SELECT saga.wait(:'id');
SELECT step, status, attempts, output, error FROM test.forward('order');
SELECT a.attempt, a.outcome, a.error, a.consumer FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq) WHERE saga_id = :'id' AND key = 'charge' ORDER BY 1;
SELECT test.begun('order');
CALL test.refuses(format('SELECT saga.complete_task(%L)', test.key('order', 'reserve')));
SELECT saga.complete_task(test.key('order', 'charge'));

-- One channel serves both directions, by one call.
BEGIN;
SELECT test.begin('both') AS id \gset
SELECT status FROM saga.step(:'id', 'charge', task => 'both', notify => 'both');
SELECT status FROM saga.step(:'id', 'ship', action => 'SELECT 1/0', retry => saga.retry_policy(1));
SELECT saga.complete(:'id', when_done => true);
COMMIT;
CALL test.until_waits_for('both', 'charge', 'a consumer%');
-- claim_compensations never hands out what goes forward
SELECT count(*) FROM saga.claim_compensations('both', 10);
SELECT count(*) FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT saga.complete_task(task_key, '"ch_2"') FROM saga.claim_tasks('both');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = 'both' AND phase = 'compensation'$$);
SELECT name, step, phase, attempt, task_key = test.key('both', 'charge') || '-undo' AS key, context ->> 'task_key' = task_key AS in_context, context -> 'output' AS output FROM saga.claim_tasks('both');
SELECT * FROM test.pending('both');
SELECT saga.fail_task(test.key('both', 'charge') || '-undo', 1, 'later', retry_after => '10 ms');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = 'both' AND phase = 'compensation' AND claimed_at IS NULL AND next_attempt_at IS NULL$$);
SELECT * FROM test.take('both');
SELECT saga.complete_task(test.key('both', 'charge') || '-undo');
SELECT saga.wait(:'id');
SELECT phase, a.attempt, outcome FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq) WHERE saga_id = :'id' AND key = 'charge' ORDER BY 1 DESC, 2;

-- A webhook reports by the key, without a claim: once the gates are open, and not before.
BEGIN;
SELECT test.begin('webhook') AS id \gset
SELECT status FROM saga.step(:'id', 'ask', approval => 'charge 500?');
SELECT status FROM saga.step(:'id', 'charge', task => 'hooks', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'agree', after => '{}', approval => 'is it you?', task => 'hooks', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'wait', after => '{}', delay => '1 hour', task => 'hooks', compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
CALL test.refuses(format('SELECT saga.complete_task(%L)', test.key('webhook', 'charge')));
CALL test.until_waits_for('webhook', 'agree', 'approval%');
CALL test.refuses(format('SELECT saga.complete_task(%L)', test.key('webhook', 'agree')));
CALL test.until_waits_for('webhook', 'wait', '20%');
CALL test.refuses(format('SELECT saga.complete_task(%L)', test.key('webhook', 'wait')));
SELECT * FROM test.take('hooks', 10);
SELECT step, later FROM test.pending('webhook');
SELECT saga.resolve(:'id', 'ask', 'approve', 'why not');
SELECT status FROM saga.wait_step(:'id', 'ask');
SELECT saga.complete_task(test.key('webhook', 'charge'), '"ch_3"');
SELECT step, status, attempts, output FROM test.forward('webhook');
-- what was done outside is undone, what never began is not
SELECT saga.fail(:'id', 'no longer wanted');
SELECT saga.wait(:'id');
SELECT undone FROM test.saga('webhook');
SELECT step, status, waits_for, compensation FROM test.forward('webhook');

-- What a person skipped before it began is not to be done.
SELECT test.begin('skipped') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'skippers', timeout => '1 ms', on_failure => 'review');
SELECT status FROM saga.step(:'id', 'b', after => '{}', task => 'skippers');
CALL test.until_waits_for('skipped', 'a', 'a person%');
SELECT saga.resolve(:'id', 'a', 'skip', 'not wanted');
CALL test.refuses(format('SELECT saga.complete_task(%L)', test.key('skipped', 'a')));
SELECT saga.complete_task(test.key('skipped', 'b'));
SELECT step, status FROM test.forward('skipped');
SELECT saga.complete(:'id');

-- When the saga fails, what is claimed has perhaps been done, and is undone; what is queued is not handed out any more.
SELECT test.begin('claimed') AS id \gset
SELECT status FROM saga.step(:'id', 'a', after => '{}', task => 'failing', compensation => 'SELECT test.undo($1, $1 ->> ''output'')');
SELECT status FROM saga.step(:'id', 'b', after => '{}', task => 'failing', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'c', after => '{}', task => 'failing', compensation => 'SELECT test.undo($1)', compensate_on => 'completed');
SELECT step FROM saga.claim_tasks('failing') WHERE step = 'a' OR step = 'b' OR step = 'c';
SELECT count(*) FROM saga.claim_tasks('failing');
SELECT saga.cancel(:'id', 'no longer wanted');
SELECT count(*) FROM saga.claim_tasks('failing');
SELECT count(*) FROM saga.ledger_queue WHERE channel = 'failing';
SELECT saga.wait(:'id');
SELECT step, status, attempts, compensation FROM test.forward('claimed');
SELECT * FROM test.forward_attempts('claimed');
SELECT undone FROM test.saga('claimed');
-- its result comes too late, and is not forgotten
SELECT saga.complete_task(test.key('claimed', 'a'), '"ch_4"');
SELECT state, next_action FROM test.saga('claimed');
SELECT saga.fail_task(test.key('claimed', 'b'), 1, 'no');

-- In time, the undo gets the late output.
SELECT test.begin('late') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'lates', compensation => 'SELECT test.undo($1, $1 ->> ''output'')');
SELECT count(*) FROM saga.claim_tasks('lates');
SELECT status FROM saga.step(:'id', 'b', after => '{}', action => 'SELECT 1', compensation => 'SELECT test.undo($1)', review => 'look first');
SELECT status FROM saga.wait_step(:'id', 'b');
SELECT saga.fail(:'id', 'x');
CALL test.wait_until(format('SELECT state = %L FROM saga.sagas WHERE id = %L', 'needs_review', :'id'));
SELECT saga.complete_task(test.key('late', 'a'), '"ch_5"');
SELECT saga.resolve(:'id', 'b', 'skip', 'nothing to undo');
SELECT saga.wait(:'id');
SELECT undone FROM test.saga('late');

-- Not retryable: given up at once; on_failure decides.
SELECT test.begin('final') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'finals', on_failure => 'skip', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', task => 'finals', on_failure => 'review', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'c', action => $$SELECT $1 -> 'errors'$$);
SELECT saga.complete(:'id', when_done => true);
SELECT saga.fail_task(task_key, attempt, 'card refused', false) FROM saga.claim_tasks('finals');
CALL test.until_waits_for('final', 'b', 'a consumer%');
SELECT saga.fail_task(task_key, attempt, 'card refused, too', false) FROM saga.claim_tasks('finals');
CALL test.until_waits_for('final', 'b', 'a person%');
SELECT step, status, parked, waits_for FROM test.forward('final');
SELECT test.mask(why) AS why, test.mask(to_settle) AS to_settle, test.mask(safe_to_retry) AS safe_to_retry, test.mask(must_not_repeat) AS must_not_repeat FROM saga.review_queue WHERE saga_id = :'id';
SELECT saga.resolve(:'id', 'b', 'retry', 'another card');
SELECT saga.complete_task(task_key, '"ch_6"') FROM saga.claim_tasks('finals');
SELECT saga.wait(:'id');
SELECT step, status, attempts, output, error FROM test.forward('final');
SELECT * FROM test.forward_attempts('final');

-- A result that comes after it was given up is believed.
SELECT test.begin('believed') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'believers', on_failure => 'review');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
SELECT saga.fail_task(task_key, attempt, 'no answer', false) FROM saga.claim_tasks('believers');
SELECT saga.complete_task(test.key('believed', 'a'), '1');
SELECT saga.wait(:'id');
SELECT step, status, attempts, output, parked FROM test.forward('believed');
SELECT event, step FROM saga.events WHERE saga_id = :'id' AND event ~ 'late' ORDER BY position;

-- Back to a savepoint: a new run has a key of its own, and the old one's result comes late.
SELECT test.begin('again') AS id \gset
SELECT status FROM saga.step(:'id', 'save', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'charge', task => 'agains', compensation => 'SELECT test.undo($1)');
CALL test.until_waits_for('again', 'charge', 'a consumer%');
SELECT count(*) FROM saga.claim_tasks('agains');
SELECT saga.rollback_to(:'id', 'save', 'another card');
CALL test.wait_until(format('SELECT state = %L FROM saga.sagas WHERE id = %L', 'running', :'id'));
CALL test.until_waits_for('again', 'charge', 'a consumer%');
SELECT step, run, status, attempts, compensation FROM test.forward('again');
SELECT undone FROM test.saga('again');
SELECT step, attempt, task_key = test.key('again', 'charge', 2) AS new_key FROM saga.claim_tasks('agains');
SELECT saga.complete_task(test.key('again', 'charge', 1));
SELECT state, next_action FROM test.saga('again');

-- An effect of a task that nobody claimed, told when the undo has gone on without it: a person looks.
SELECT test.begin('unclaimed') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, compensation => 'SELECT test.undo($1)', review => 'look first');
SELECT status FROM saga.step(:'id', 'b', after => '{}', task => 'unclaimed', compensation => 'SELECT test.undo($1, $1 ->> ''output'')');
SELECT status FROM saga.step(:'id', 'c', after => '{}', delay => '1 hour', task => 'unclaimed', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id', 'x');
CALL test.wait_until(format('SELECT state = %L FROM saga.sagas WHERE id = %L', 'needs_review', :'id'));
SELECT saga.complete_task(test.key('unclaimed', 'b'), '"ch_7"');
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id' ORDER BY seq;
SELECT saga.resolve(:'id', 'b', 'retry', 'it was charged');
CALL test.wait_until(format('SELECT state = %L FROM saga.sagas WHERE id = %L', 'needs_review', :'id'));
SELECT saga.resolve(:'id', 'a', 'retry', 'go on');
SELECT saga.wait(:'id');
SELECT undone FROM test.saga('unclaimed');

-- A saga is not complete while a task is under way, whatever its failure would mean.
SELECT test.begin('under way') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'under_way', on_failure => 'skip');
SELECT count(*) FROM saga.claim_tasks('under_way');
CALL test.refuses(format('SELECT saga.complete(%L)', :'id'));
SELECT saga.fail_task(test.key('under way', 'a'), 1, 'no', false);
SELECT saga.complete(:'id');

-- Pause: nothing new is handed out; what is held may be reported.
SELECT test.begin('paused') AS id \gset
SELECT status FROM saga.step(:'id', 'a', after => '{}', task => 'pauses');
SELECT status FROM saga.step(:'id', 'b', after => '{}', task => 'pauses');
SELECT step FROM saga.claim_tasks('pauses');
SELECT saga.pause(:'id', 'wait');
SELECT count(*) FROM saga.claim_tasks('pauses');
SELECT waits_for FROM test.forward('paused') WHERE step = 'b';
SELECT saga.complete_task(test.key('paused', 'a'));
SELECT saga.resume(:'id', 'go on');
SELECT step FROM saga.claim_tasks('pauses');

-- Whose tasks: those of sagas whose owner's rights the caller has.
CREATE ROLE regress_saga_t_shop; CREATE ROLE regress_saga_t_other;
GRANT USAGE ON SCHEMA saga TO regress_saga_t_shop, regress_saga_t_other;
SET ROLE regress_saga_t_shop;
SELECT saga.begin('shop') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'shops');
SET ROLE regress_saga_t_other;
SELECT count(*) FROM saga.claim_tasks('shops');
SELECT count(*) FROM saga.pending_tasks WHERE channel = 'shops';
CALL test.refuses(format('SELECT saga.complete_task(%L)', :'id' || '-1'));
RESET ROLE;
SELECT count(*) FROM saga.claim_tasks('shops');

-- Work in this database, in one transaction with a report that names its attempt, is done once: whoever comes after the
-- end of its lease, or when the saga goes back, is refused, and its work is rolled back with it.
CREATE TABLE test.worked (n integer);
SELECT test.begin('fenced') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'fenced', notify => 'fenced', retry => saga.retry_policy(5, '10 ms', 'constant', '10 ms', 0));
SELECT attempt, task_key AS key FROM saga.claim_tasks('fenced', lease => '1 ms') \gset one_
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = 'fenced' AND claimed_at IS NULL AND since <= saga.internal_now()$$);
SELECT attempt FROM saga.claim_tasks('fenced', lease => '1 hour') \gset two_
CALL test.refuses(format('WITH w AS (INSERT INTO test.worked VALUES (1) RETURNING n) SELECT saga.complete_task(%L, to_jsonb(n), %s) FROM w', :'one_key', :one_attempt));
WITH w AS (INSERT INTO test.worked VALUES (2) RETURNING n) SELECT saga.complete_task(:'one_key', to_jsonb(n), :two_attempt) FROM w;
CALL test.refuses(format('WITH w AS (INSERT INTO test.worked VALUES (3) RETURNING n) SELECT saga.complete_task(%L, to_jsonb(n), %s) FROM w', :'one_key', :two_attempt));
SELECT n, (SELECT output FROM saga.steps WHERE saga_id = :'id') FROM test.worked;
CALL test.refuses(format('SELECT saga.complete_task(%L, attempt => 3)', :'one_key'));
CALL test.refuses(format('SELECT saga.complete_task(%L, attempt => 0)', :'one_key'));
-- without it, what is known is known
SELECT saga.complete_task(:'one_key');
SELECT status FROM saga.step(:'id', 'b', after => '{}', task => 'fenced', compensation => 'SELECT test.undo($1)');
SELECT attempt, task_key AS key FROM saga.claim_tasks('fenced') \gset
SELECT saga.fail(:'id', 'no longer wanted');
CALL test.refuses(format('SELECT saga.complete_task(%L, attempt => %s)', :'key', :attempt));
-- a compensation, the same
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = 'fenced' AND phase = 'compensation'$$);
SELECT attempt, task_key AS key FROM saga.claim_tasks('fenced', lease => '1 hour') \gset
CALL test.refuses(format('SELECT saga.complete_task(%L, attempt => %s)', :'key', :attempt + 1));
SELECT saga.complete_task(:'key', attempt => :attempt);
CALL test.refuses(format('SELECT saga.complete_task(%L, attempt => %s)', :'key', :attempt));
SELECT saga.wait(:'id');

-- Owners in turn: who has many tasks does not starve who has one.
SET ROLE regress_saga_t_other;
SELECT count(*) FROM generate_series(1, 50), LATERAL saga.step(saga.begin('many'), 'a', task => 'turns');
SET ROLE regress_saga_t_shop;
SELECT count(*) FROM saga.step(saga.begin('few'), 'a', task => 'turns');
RESET ROLE;
SELECT bool_or(name = 'few') AS few FROM saga.claim_tasks('turns', 2);
-- of one saga, too, and each once
SELECT test.begin('fan') AS id \gset
SELECT count(*) FROM generate_series(1, 200) n, LATERAL saga.step(:'id', 'a' || n, after => '{}', task => 'fans');
SELECT count(DISTINCT task_key) FROM saga.claim_tasks('fans', 150);
SELECT count(DISTINCT task_key) FROM saga.claim_tasks('fans', 150);

-- In the transaction that recorded it, too, although another is known to be first in the queue
SELECT test.begin('own') AS own \gset
SELECT status FROM saga.step(:'own', 'far', after => '{}', task => 'own', not_before => now() + '1 day');
SELECT count(*) FROM saga.claim_tasks('own');
BEGIN;
SELECT status FROM saga.step(:'own', 'near', after => '{}', task => 'own');
SELECT step FROM saga.claim_tasks('own');
ROLLBACK;
BEGIN;
SELECT status FROM saga.step(:'own', 'near', after => '{}', task => 'own');
COMMIT;
SELECT step FROM saga.claim_tasks('own');

-- What cannot be
CALL test.refuses(format('SELECT saga.step(%L, %L, task => %L, action => %L)', :'id', 'x', 'x', 'SELECT 1'));
CALL test.refuses(format('SELECT saga.step(%L, %L, task => %L)', :'id', 'x', ''));
CALL test.refuses(format('SELECT saga.step(%L, %L, task => %L, completed => true)', :'id', 'x', 'x'));
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'a1'));
CALL test.refuses(format('SELECT saga.complete_task(%L)', 'x'));
CALL test.refuses('SELECT saga.complete_task(NULL)');
CALL test.refuses(format('SELECT saga.complete_task(%L)', :'id' || '-999999999'));
CALL test.refuses(format('SELECT saga.fail_task(%L, NULL, %L)', :'id' || '-1', 'x'));
CALL test.refuses(format('SELECT saga.fail_task(%L, 1, NULL)', :'id' || '-1'));
CALL test.refuses('SELECT saga.claim_tasks(NULL)');
SELECT status, known FROM saga.step(:'id', 'a1', after => '{}', task => 'fans');

SET client_min_messages = warning;
SELECT count(saga.fail(id, 'the end of the test')) > 0 AS ended FROM saga.sagas WHERE name IN ('test', 'shop', 'many', 'few') AND state = 'running';
CALL test.check_forward();
\set ECHO none
\i sql/include/drop_roles.sql
