-- Leases, timeouts and delays of tasks: by the clock, never early, and never forgotten.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\i sql/include/clock.sql
\set ECHO all
CREATE FUNCTION test.key(name text, step text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT saga_id || '-' || seq FROM saga.steps WHERE saga_id = test.id($1) AND key = $2
$$;

-- A task that must wait is handed out when its time has come, and not before.
SELECT test.begin('delay') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'tt_delay', delay => '1 hour');
SELECT saga.complete(:'id', when_done => true);
SELECT count(*) FROM saga.claim_tasks('tt_delay');
SELECT test.advance('59 minutes');
SELECT count(*) FROM saga.claim_tasks('tt_delay');
SELECT test.advance('1 minute');
SELECT step, attempt FROM saga.claim_tasks('tt_delay', lease => '1 minute');

-- The end of a lease ends the attempt, and is charged; the next is made by the policy.
SELECT test.advance('61 seconds');
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.attempts WHERE saga_id = %L AND outcome = ''timed out''', :'id'));
SELECT step, status, error FROM test.forward('delay');
CALL test.refuses(format('SELECT saga.extend_claim(%L, 1, %L)', test.key('delay', 'a'), '1 minute'));
SELECT saga.fail_task(test.key('delay', 'a'), 1, 'too late');
SELECT test.advance('1 hour');
SELECT step, attempt FROM saga.claim_tasks('tt_delay', lease => '1 minute');
-- a result after that is believed all the same
SELECT test.advance('61 seconds');
CALL test.wait_until(format('SELECT count(*) = 2 FROM saga.attempts WHERE saga_id = %L AND outcome = ''timed out''', :'id'));
SELECT saga.complete_task(test.key('delay', 'a'), '"late, and true"');
SELECT saga.wait(:'id');
SELECT step, status, attempts, output FROM test.forward('delay');
SELECT * FROM test.forward_attempts('delay');

-- Attempts exhausted: on_failure decides.
SELECT test.begin('exhausted') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'tt_out', retry => saga.retry_policy(1), compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
SELECT count(*) FROM saga.claim_tasks('tt_out', lease => '1 minute');
SELECT test.advance('61 seconds');
SELECT saga.wait(:'id');
SELECT state, reason, failed_step, undone FROM test.saga('exhausted');

-- The timeout of a step: unclaimed, nothing is undone; claimed, the claim ends, and what it may have done is undone.
SELECT test.begin('unclaimed') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'tt_none', timeout => '1 hour', compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
SELECT test.advance('61 minutes');
SELECT saga.wait(:'id');
SELECT count(*) FROM saga.claim_tasks('tt_none');
SELECT state, reason, undone FROM test.saga('unclaimed');
SELECT test.begin('claimed') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'tt_held', timeout => '1 hour', retry => saga.retry_policy(timeout => '1 day'), compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
SELECT lease_until <= now() + interval '1 year' AND lease_until = timeout_at AS until_timeout
FROM saga.claim_tasks('tt_held', lease => '1 day') c JOIN saga.steps s USING (saga_id, seq);
SELECT test.advance('61 minutes');
SELECT saga.wait(:'id');
SELECT state, reason, undone FROM test.saga('claimed');
SELECT * FROM test.forward_attempts('claimed');
SELECT saga.complete_task(test.key('claimed', 'a'));
SELECT state FROM test.saga('claimed');

-- A retry that its service asks for later
SELECT test.begin('later') AS id \gset
SELECT status FROM saga.step(:'id', 'a', task => 'tt_later');
SELECT saga.fail_task(task_key, attempt, 'closed until tomorrow', retry_after => '1 day') FROM saga.claim_tasks('tt_later');
SELECT test.advance('23 hours');
SELECT count(*) FROM saga.claim_tasks('tt_later');
SELECT test.advance('1 hour');
SELECT attempt FROM saga.claim_tasks('tt_later');
SELECT saga.fail(:'id', 'the end of the test');
CALL test.check_forward();
