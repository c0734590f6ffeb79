-- Delays, retries and timeouts of steps that saga runs: never early, and never forgotten.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\i sql/include/clock.sql
\set ECHO all

-- Nothing begins before its time.
BEGIN;
SELECT test.begin('delay') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'timer', delay => '1 hour');
SELECT status FROM saga.step(:'id', 'b', delay => '1 hour', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
CALL test.until_waits_for('delay', 'timer', '20%');
SELECT test.advance('59 minutes');
SELECT status FROM saga.wait_step(:'id', 'timer', '200 ms');
SELECT step, status, waits_for FROM test.forward('delay');
SELECT test.advance('1 minute');
SELECT status FROM saga.wait_step(:'id', 'timer');
CALL test.until_waits_for('delay', 'b', '20%');
SELECT test.advance('61 minutes');
SELECT saga.wait(:'id');
SELECT test.done('delay');
SELECT s.key, s.ready_at >= p.completed_at + interval '1 hour' AS from_gate, s.completed_at >= s.ready_at AS not_early
FROM saga.steps s JOIN saga.steps p ON p.saga_id = s.saga_id AND (p.key, s.key) IN (('a', 'timer'), ('timer', 'b')) WHERE s.saga_id = :'id' ORDER BY s.seq;

-- Days and months are those of the session that records the step, whoever opens its gate; its SQL has that zone, too.
SELECT test.begin('zone') AS id \gset
SET timezone = 'America/St_Johns';
SELECT status FROM saga.step(:'id', 'gate');
SELECT status FROM saga.step(:'id', 'half a year', after => '{gate}', delay => '6 months 1 day 90 minutes');
SELECT status FROM saga.step(:'id', 'a quarter', after => '{gate}', delay => '3 months');
SELECT status FROM saga.step(:'id', 'three quarters', after => '{gate}', delay => '9 months');
SELECT status FROM saga.step(:'id', 'at once', after => '{}', delay => '-1 day', action => 'SELECT current_setting(''timezone'')');
SELECT status FROM saga.step(:'id', 'hours', after => '{}', delay => '1 ms', action => 'SELECT current_setting(''timezone'') <> ''America/St_Johns'' AS of_the_role');
SET timezone = 'Asia/Tokyo';
SELECT status FROM saga.complete_step(:'id', 'gate');
SELECT s, (saga.wait_step(:'id', s)).output FROM unnest('{at once,hours}'::text[]) s;
CALL test.until_waits_for('zone', 'three quarters', '20%');
SET timezone = 'UTC';
SELECT t.key, s.ready_at = (s.opened_at AT TIME ZONE 'America/St_Johns' + calendar) AT TIME ZONE 'America/St_Johns' + hours AS right
FROM saga.steps t JOIN saga.ledger_step s ON s.saga = t.saga_id AND s.seq = t.seq,
LATERAL (SELECT date_trunc('day', t.delay), t.delay - date_trunc('day', t.delay)) y (calendar, hours)
WHERE t.saga_id = :'id' AND t.delay > '1 month' ORDER BY t.seq;
SELECT saga.cancel(:'id');

-- Less than nothing is nothing, by the clock or by the calendar: it begins when its gate opens.
SELECT test.begin('negative') AS id \gset
SELECT count(saga.step(:'id', d::text, after => '{}', delay => d)) FROM unnest('{-1 second,1 day -25 hours,1 mon -32 days}'::interval[]) d;
SELECT count(saga.wait_step(:'id', d::text)) FROM unnest('{-1 second,1 day -25 hours,1 mon -32 days}'::interval[]) d;
SELECT key, status, ready_at = opened_at AS at_once FROM saga.ledger_step WHERE saga = :'id' ORDER BY seq;

-- A timeout counts from the opening of gate 1: while it waits,
BEGIN;
SELECT test.begin('waiting') AS id \gset
SELECT status FROM saga.step(:'id', 'before', completed => true, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'gate');
SELECT status FROM saga.step(:'id', 'a', delay => '1 day', timeout => '1 hour', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT test.advance('2 hours');
SELECT step, status, waits_for FROM test.forward('waiting');
SELECT status FROM saga.complete_step(:'id', 'gate');
CALL test.until_waits_for('waiting', 'a', '20%');
SELECT test.advance('59 minutes');
SELECT saga.wait(:'id', '200 ms');
SELECT test.advance('1 minute');
SELECT saga.wait(:'id');
SELECT * FROM test.saga('waiting') \gx
SELECT * FROM test.forward('waiting');
SELECT event, step, detail FROM test.events('waiting');
-- while its action runs,
BEGIN;
SELECT test.begin('running') AS id \gset
SELECT status FROM saga.step(:'id', 'a', timeout => '1500 ms', action => 'SELECT test.act_for_ever($1)', on_failure => 'skip', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT $1 -> ''errors''');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT step, status, output, error FROM test.forward('running');
SELECT test.done('running');
-- and between two attempts
SELECT test.begin('between') AS id \gset
SELECT status FROM saga.step(:'id', 'a', timeout => '1 hour', action => 'SELECT 1/0', on_failure => 'review', retry => saga.retry_policy(delay => '2 hours', max_delay => '2 hours', jitter => 0));
CALL test.until_waits_for('between', 'a', '20%');
SELECT test.advance('61 minutes');
SELECT status, error FROM saga.wait_step(:'id', 'a');
SELECT step, status, attempts, error, parked FROM test.forward('between');
SELECT * FROM test.forward_attempts('between');
-- retried by a person, it has all its time again
SELECT saga.resolve(:'id', 'a', 'retry', 'once more');
CALL test.until_waits_for('between', 'a', '20%');
SELECT attempts, timeout_at > clock_timestamp() AS later FROM saga.steps WHERE saga_id = :'id';
SELECT saga.cancel(:'id');
-- gates without work time out, too
SELECT test.begin('gates') AS id \gset
SELECT status FROM saga.step(:'id', 'timer', delay => '1 day', timeout => '1 hour', on_failure => 'skip');
CALL test.until_waits_for('gates', 'timer', '20%');
SELECT test.advance('61 minutes');
SELECT status, error FROM saga.wait_step(:'id', 'timer');
SELECT saga.complete(:'id');

-- A person's retry opens no gate.
SELECT test.begin('not before') AS id \gset
SELECT status FROM saga.step(:'id', 'a', delay => '10 hours', timeout => '1 hour', on_failure => 'review', action => 'SELECT test.act($1)');
CALL test.until_waits_for('not before', 'a', '20%');
SELECT test.advance('61 minutes');
SELECT status, error FROM saga.wait_step(:'id', 'a');
SELECT saga.resolve(:'id', 'a', 'retry', 'it may take longer');
SELECT status FROM saga.wait_step(:'id', 'a', '200 ms');
SELECT step, status, waits_for FROM test.forward('not before');
SELECT test.done('not before');
SELECT saga.cancel(:'id');

-- A retry is never early.
SELECT test.begin('retry') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act_after($1, 1)', retry => saga.retry_policy(delay => '1 hour', jitter => 0));
CALL test.until_waits_for('retry', 'a', '20%');
SELECT test.advance('59 minutes');
SELECT status, attempt FROM saga.wait_step(:'id', 'a', '200 ms');
SELECT test.advance('61 seconds');
SELECT status, attempt FROM saga.wait_step(:'id', 'a');
SELECT saga.complete(:'id');
-- Paused, its time goes on; resumed, what is over is over.
SELECT test.begin('paused') AS id \gset
SELECT status FROM saga.step(:'id', 'a', delay => '1 hour', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'b', after => '{}', delay => '3 hours', timeout => '2 hours', on_failure => 'skip');
CALL test.until_waits_for('paused', 'b', '20%');
SELECT saga.pause(:'id', 'a while');
SELECT test.advance('150 minutes');
SELECT status FROM saga.wait_step(:'id', 'a', '200 ms');
SELECT step, status, waits_for FROM test.forward('paused');
SELECT saga.resume(:'id', 'go on');
SELECT s, (saga.wait_step(:'id', s)).status FROM unnest('{a,b}'::text[]) s;
SELECT saga.complete(:'id');

-- While a late result waits for a decision, nobody can go on: after it, the time of each step begins anew. A delay does not.
SELECT test.begin('aside') AS id \gset
SELECT status FROM saga.step(:'id', 'save', completed => true) \gset
SELECT status FROM saga.step(:'id', 'old', task => 'old', compensation => 'SELECT test.undo($1)') \gset
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''old''');
SELECT task_key AS old FROM saga.claim_tasks('old') \gset
SELECT saga.rollback_to(:'id', 'save');
SELECT saga.wait(:'id', until => 'running');
SELECT k, (saga.step(:'id', k, after => '{}', approval => CASE k WHEN 'asked' THEN 'may it?' END, task => CASE k WHEN 'held' THEN k END,
  delay => CASE k WHEN 'timer' THEN interval '3 hours' END, timeout => CASE WHEN k <> 'timer' THEN interval '2 hours' END, on_failure => 'skip')).status
FROM unnest('{asked,held,timer}'::text[]) k;
CALL test.until_waits_for('aside', 'asked', 'approval%');
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''held''');
SELECT step, attempt FROM saga.claim_tasks('held');
SELECT saga.complete_task(:'old', '"late"');
SELECT test.advance('150 minutes');
SELECT saga.resolve(:'id', 'old', 'skip', 'it was nothing') IN ('compensating', 'running') AS resolved;
SELECT saga.wait(:'id', until => 'running');
CALL test.wait_until(format('SELECT status = ''failed'' FROM saga.steps WHERE saga_id = %L AND key = ''held''', :'id'));
SELECT step, run, status, error, CASE step WHEN 'timer' THEN waits_for END AS waits_for FROM test.forward('aside');
SELECT test.advance('40 minutes');
SELECT status FROM saga.wait_step(:'id', 'timer');
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''held'' AND since IS NOT NULL');
SELECT step, attempt FROM saga.claim_tasks('held');
SELECT saga.resolve(:'id', 'asked', 'approve', 'it may');
SELECT status FROM saga.wait_step(:'id', 'asked');
SELECT test.advance('2 hours');
SELECT status, error FROM saga.wait_step(:'id', 'held');
SELECT saga.cancel(:'id');

-- Who decides sees what the saga is about, and until when: the end of the step's time or of the saga's, whichever comes first.
SELECT saga.begin('test', 'asked', '{"order": 7}') AS id \gset
SELECT status FROM saga.step(:'id', 'a', after => '{}', approval => 'may it?', timeout => '2 hours', on_failure => 'skip');
SELECT status FROM saga.step(:'id', 'b', after => '{}', approval => 'may it?');
SELECT status FROM saga.step(:'id', 'c', after => '{}', action => 'SELECT no_such_function()', timeout => '4 hours');
CALL test.wait_until(format('SELECT count(*) = 3 FROM saga.review_queue WHERE saga_id = %L', :'id'));
SELECT q.step, q.until IS NOT DISTINCT FROM t.timeout_at AS its_time, q.input
FROM saga.review_queue q JOIN saga.steps t USING (saga_id, seq) WHERE saga_id = :'id' ORDER BY step;
SELECT saga.set_timeout(:'id', '3 hours') AS deadline \gset
SELECT step, until = :'deadline' AS the_deadline, until < :'deadline' AS before FROM saga.review_queue WHERE saga_id = :'id' ORDER BY step;
SELECT test.advance('2 hours');
-- (saga.wait_step does not wait for a step that a person is asked about)
CALL test.wait_until(format('SELECT status = ''failed'' FROM saga.steps WHERE saga_id = %L AND key = ''a''', :'id'));
SELECT status, error FROM saga.wait_step(:'id', 'a');
SELECT step FROM saga.review_queue WHERE saga_id = :'id' ORDER BY step;
SELECT test.advance('1 hour');
SELECT saga.wait(:'id');
SELECT step, until FROM saga.review_queue WHERE saga_id = :'id' ORDER BY step;
CALL test.check_forward();
