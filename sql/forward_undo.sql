-- Steps that saga runs, and the way back: the undo is the reverse of the order in which they began.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\set ECHO all

-- Parallel branches are undone one after the other, newest begun first, whatever was recorded first.
SELECT test.begin('branches') AS id \gset
SELECT g, (saga.step(:'id', 'gate ' || g, compensation => 'SELECT test.undo($1)')).status FROM unnest('{1,2,3}'::text[]) g;
SELECT g, (saga.step(:'id', 'branch ' || g, after => ARRAY['gate ' || g], action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)')).status FROM unnest('{1,2,3}'::text[]) g;
SELECT g, (saga.step(:'id', 'next ' || g, after => ARRAY['branch ' || g], action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)')).status FROM unnest('{1,2,3}'::text[]) g;
SELECT status FROM saga.complete_step(:'id', 'gate 2');
SELECT status FROM saga.wait_step(:'id', 'next 2');
SELECT status FROM saga.complete_step(:'id', 'gate 3');
SELECT status FROM saga.wait_step(:'id', 'next 3');
SELECT status FROM saga.complete_step(:'id', 'gate 1');
SELECT status FROM saga.wait_step(:'id', 'next 1');
SELECT position, step, action FROM saga.plan(:'id');
SELECT test.begun('branches');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('branches');

-- The views go by that order, too.
SELECT test.begin('in order') AS id \gset
SELECT status FROM saga.step(:'id', 'a', after => '{}', task => 'in order a', notify => 'in order');
SELECT status FROM saga.step(:'id', 'b', after => '{}', task => 'in order b', review => 'look');
CALL test.wait_until('SELECT count(*) = 2 FROM saga.pending_tasks WHERE channel IN (''in order a'', ''in order b'')');
SELECT task_key AS b FROM saga.claim_tasks('in order b') \gset
SELECT task_key AS a FROM saga.claim_tasks('in order a') \gset
SELECT saga.complete_task(:'b', '"b"'), saga.complete_task(:'a', '"a"');
SELECT last_completed_step FROM saga.sagas WHERE id = :'id';
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.pending_compensations WHERE saga_id = %L AND since IS NOT NULL', :'id'));
SELECT test.mask(next_action) AS next_action FROM saga.sagas WHERE id = :'id';
SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('in order');
SELECT step, last_completed, outputs FROM saga.review_queue WHERE saga_id = :'id';
SELECT saga.resolve(:'id', 'b', 'done', 'by hand');

-- Waiting steps are skipped.
BEGIN;
SELECT test.begin('waiting') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'gate', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)', compensate_on => 'started');
SELECT status FROM saga.step(:'id', 'timer', after => '{a}', delay => '1 day', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
COMMIT;
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT position, step, action, detail FROM saga.plan(:'id');
SELECT saga.complete(:'id', when_done => true);
SELECT saga.fail(:'id', 'changed our mind');
SELECT saga.wait(:'id');
SELECT test.done('waiting'), test.undone('waiting');
SELECT * FROM test.forward('waiting');
SELECT * FROM test.saga('waiting') \gx
-- the row of the timer stays until its time, or until the saga is purged
SELECT due > now() AS later FROM saga.ledger_due WHERE saga = :'id';

-- An action that runs at that moment is canceled, and cannot commit.
SELECT test.begin('running') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act_for_ever($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b2', after => '{a}', action => 'SELECT test.act_for_ever($1)', compensation => 'SELECT test.undo($1)', compensate_on => 'started');
CALL test.until_acting('running', 'b');
CALL test.until_acting('running', 'b2');
SELECT step, status, waits_for FROM test.forward('running');
SELECT position, step, action FROM saga.plan(:'id');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.done('running'), test.undone('running');
SELECT step, status, attempts, compensation FROM test.forward('running');
SELECT step, attempt, outcome FROM test.forward_attempts('running');
-- the deadline of the saga does the same
SELECT test.begin('deadline', timeout => '1 second') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act_for_ever($1)', compensation => 'SELECT test.undo($1)');
SELECT saga.wait(:'id');
SELECT failure_kind, reason, test.done('deadline'), test.undone('deadline') FROM saga.sagas WHERE id = :'id';

-- Actions that recorded steps are undone after what they recorded, which began later.
BEGIN;
SELECT test.begin('recorded') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)',
  action => $$SELECT test.act($1), (saga.step(saga.current(), 'a1', compensation => 'SELECT test.undo($1)', action => 'SELECT test.act($1)')).status, (saga.step(saga.current(), 'a2', completed => true, compensation => 'SELECT test.undo($1)')).status$$);
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'c', action => 'SELECT saga.require(false, ''no'')', compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT test.undone('recorded'), test.begun('recorded');
SELECT step, status, compensation, recorded_by FROM test.forward('recorded');

-- What is undone: 'completed' is the default for an action, 'started' for the application's work
SELECT test.begin('compensate_on') AS id \gset
SELECT k, (saga.step(:'id', k, after => '{}', action => 'SELECT saga.require(false, ''no'')', compensate_on => c, on_failure => 'skip', compensation => 'SELECT test.undo($1)')).status
FROM (VALUES ('default', NULL), ('completed', 'completed'), ('started', 'started')) v (k, c);
SELECT k, (saga.wait_step(:'id', k)).status FROM unnest('{default,completed,started}'::text[]) k;
SELECT status FROM saga.step(:'id', 'own', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'timer', after => '{}', not_before => '2020-01-01', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.wait_step(:'id', 'timer');
SELECT key, compensation_status FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;
SELECT position, step, action FROM saga.plan(:'id');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('compensate_on');
SELECT step, status, compensation FROM test.forward('compensate_on');

-- The context of an undo: the output that the action returned
SELECT test.begin('context') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT 7 AS seven, $1 -> ''args'' AS args', args => '{"x": 1}', compensation => 'SELECT test.undo($1, concat_ws('' '', $1 -> ''args'', $1 -> ''output'', $1 ->> ''attempt'', saga.current() = ($1 #>> ''{saga,id}'')::uuid))');
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('context');

-- After the pivot it can only be finished; reopened, it goes on.
BEGIN;
SELECT test.begin('pivot') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'b', on_failure => 'fail', action => 'SELECT test.act_after($1, 1)', retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'id', 'c', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.saga('pivot') \gx
SELECT step, status, attempts, compensation FROM test.forward('pivot');
SELECT saga.reopen(:'id', 'it was the network');
SELECT saga.wait(:'id');
SELECT step, status, attempts, compensation FROM test.forward('pivot');
SELECT test.done('pivot');
SELECT event, step FROM test.events('pivot');

-- rollback_to: new runs in the place of the old, which begin by themselves
BEGIN;
SELECT test.begin('rollback') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => $$SELECT test.act($1, 'run ' || ($1 #>> '{step,run}')), (saga.step(saga.current(), 'b1', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)')).status$$, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'c', action => 'SELECT test.act($1, ($1 -> ''outputs'')::text)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'gate', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'd', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT status FROM saga.wait_step(:'id', 'c');
SELECT test.done('rollback');
SELECT saga.rollback_to(:'id', 'a', 'once more');
SELECT saga.wait(:'id', until => 'running');
SELECT status, output FROM saga.wait_step(:'id', 'c');
SELECT test.done('rollback'), test.undone('rollback');
SELECT step, run, status, attempts, compensation, recorded_by FROM test.forward('rollback');
SELECT key, run, rolled_back_at IS NOT NULL AS rolled_back, waits_for FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
SELECT next_action FROM saga.sagas WHERE id = :'id';
SELECT status FROM saga.complete_step(:'id', 'gate', '"again"');
SELECT saga.wait(:'id');
SELECT step, run, status, output, compensation, recorded_by FROM test.forward('rollback');
SELECT test.done('rollback'), test.undone('rollback');
SELECT event, step, detail FROM test.events('rollback') WHERE event IN ('sealed', 'rolling back', 'rolled back', 'completed');

-- The application's steps are its own to start again, which a sealed saga lets it; what comes after them waits for that.
BEGIN;
SELECT test.begin('both') AS id \gset
SELECT status FROM saga.step(:'id', 'x', completed => true, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'y', completed => true, output => '1', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'z', action => 'SELECT test.act($1, ($1 -> ''outputs'')::text)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'listed', after => '{y}', action => 'SELECT test.act($1, ($1 -> ''outputs'')::text)');
SELECT status FROM saga.step(:'id', 'own', compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT k, (saga.wait_step(:'id', k)).status FROM unnest('{z,listed}'::text[]) k;
SELECT saga.rollback_to(:'id', 'x');
SELECT saga.wait(:'id', until => 'running');
SELECT next_action FROM saga.sagas WHERE id = :'id';
SELECT step, run, status, compensation, waits_for FROM test.forward('both');
SELECT status, known FROM saga.step(:'id', 'y', compensation => 'SELECT test.undo($1)');
SELECT step, run, status, waits_for FROM test.forward('both') WHERE run = 2;
SELECT next_action FROM saga.sagas WHERE id = :'id';
SELECT status FROM saga.complete_step(:'id', 'y', '2');
SELECT k, (saga.wait_step(:'id', k)).status FROM unnest('{z,listed}'::text[]) k;
SELECT state, next_action FROM saga.sagas WHERE id = :'id';
SELECT status FROM saga.step(:'id', 'own', completed => true, compensation => 'SELECT test.undo($1)', output => '"own"');
SELECT saga.wait(:'id');
SELECT step, run, status, output, compensation FROM test.forward('both');
SELECT step, what FROM test.did WHERE saga = :'id' ORDER BY step, n;
SELECT result FROM saga.sagas WHERE id = :'id';

-- Steps that were given up, or never began, wait again with fresh attempts; a step before the savepoint stays as it was.
BEGIN;
SELECT test.begin('afresh') AS id \gset
SELECT status FROM saga.step(:'id', 'kept', completed => true, output => '0', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'save', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'given up', on_failure => 'skip', action => 'SELECT test.act_after($1, 1)', retry => saga.retry_policy(max_attempts => 1), compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'tried', on_failure => 'skip', action => 'SELECT test.act_after($1, 1)', retry => saga.retry_policy(max_attempts => 1), compensate_on => 'started', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'asked', on_failure => 'review', action => 'SELECT test.act_after($1, 1)', retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'id', 'never', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT status FROM saga.wait_step(:'id', 'asked');
SELECT step, run, status, attempts, error, parked FROM test.forward('afresh');
SELECT saga.rollback_to(:'id', 'save');
SELECT saga.wait(:'id');
SELECT step, run, status, attempts, parked, compensation FROM test.forward('afresh');
SELECT test.done('afresh'), test.undone('afresh');

-- A person is asked again; a signal that a step had used, before it began, is unused again. The step takes it at once,
-- unless it waits for others again and another is first.
BEGIN;
SELECT test.begin('let through again') AS id \gset
SELECT status FROM saga.step(:'id', 'save', completed => true, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'a', signals => '{go}', approval => 'may it?', on_failure => 'review',
  action => 'SELECT test.act_after($1, 1)', retry => saga.retry_policy(max_attempts => 1));
COMMIT;
SELECT saga.signal(:'id', 'go', '1');
CALL test.until_waits_for('let through again', 'a', 'approval%');
SELECT saga.resolve(:'id', 'a', 'approve', 'it may');
CALL test.until_waits_for('let through again', 'a', 'a person%');
SELECT status FROM saga.step(:'id', 'own', completed => true, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', after => '{own}', signals => '{other}', approval => 'may b?', task => 'let through');
SELECT saga.signal(:'id', 'other', '2');
CALL test.until_waits_for('let through again', 'b', 'approval%');
SELECT saga.resolve(:'id', 'b', 'approve', 'it may');
SELECT status FROM saga.step(:'id', 'c', after => '{}', signals => '{other}');
CALL test.until_waits_for('let through again', 'c', 'signal "other"');
SELECT saga.rollback_to(:'id', 'save');
CALL test.until_waits_for('let through again', 'a', 'approval%');
SELECT status, output FROM saga.wait_step(:'id', 'c');
SELECT step, run, status, attempts, waits_for FROM test.forward('let through again');
SELECT payload, used_by_step FROM saga.signals WHERE saga_id = :'id' ORDER BY payload;
SELECT saga.resolve(:'id', 'a', 'approve', 'it may again');
SELECT status FROM saga.step(:'id', 'own', completed => true, compensation => 'SELECT test.undo($1)');
CALL test.until_waits_for('let through again', 'b', 'signal "other"');
SELECT saga.signal(:'id', 'other', '3');
CALL test.until_waits_for('let through again', 'b', 'approval%');
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');

-- A step that goes on after the rollback, because it started no later than the savepoint, goes on where it was: what let
-- it through, its attempts, and its times are as they were.
SELECT test.begin('goes on') AS id \gset
CREATE FUNCTION test.goes_on(OUT step text, OUT run integer, OUT status text, OUT attempts integer, OUT waits_for text, OUT begun boolean,
  OUT opened timestamptz, OUT ready timestamptz) RETURNS SETOF record LANGUAGE sql AS $$
  SELECT s.key, s.run, s.status, s.attempts, test.mask(s.waits_for), s.begun IS NOT NULL, to_timestamp(extract(epoch FROM t.opened_at)), s.ready_at
  FROM saga.steps s JOIN saga.ledger_step t ON (t.saga, t.seq) = (s.saga_id, s.seq)
  WHERE saga_id = test.id('goes on') AND s.on_failure IS NOT NULL ORDER BY s.seq
$$;
SELECT k, (saga.step(:'id', k, after => '{}', signals => '{go}', action => 'SELECT test.act_after($1, 1)', compensation => 'SELECT test.undo($1)',
  retry => saga.retry_policy(max_attempts => 2, delay => d, max_delay => d, jitter => 0))).status FROM (VALUES ('later', '1 hour'::interval), ('soon', '1 second')) v (k, d);
SELECT saga.signal(:'id', 'go', '1'), saga.signal(:'id', 'go', '2');
SELECT k, (saga.step(:'id', k, after => '{}', signals => '{start}', approval => 'may it?', task => 'goes on, ' || k, compensation => 'SELECT test.undo($1)',
  retry => saga.retry_policy(max_attempts => 2, delay => '1 hour', max_delay => '1 hour'))).status FROM unnest('{unclaimed,held,tried}'::text[]) k;
SELECT status FROM saga.step(:'id', 'asked', after => '{}', approval => 'may it, too?', timeout => '1 day');
SELECT status FROM saga.step(:'id', 'timer', after => '{}', delay => '1 day', timeout => '2 days');
SELECT status FROM saga.step(:'id', 'delayed', after => '{}', delay => '1 day', task => 'goes on, delayed');
SELECT status FROM saga.step(:'id', 'act later', after => '{}', delay => '1 day', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'over', after => '{}', signals => '{never}', timeout => '2 seconds');
SELECT status FROM saga.step(:'id', 'given up', after => '{}', signals => '{start}', approval => 'and it?', action => 'SELECT test.act_after($1, 1)',
  on_failure => 'review', retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'id', 'moved', after => '{}', task => 'goes on, moved');
SELECT status FROM saga.step(:'id', 'hollow', after => '{moved}', approval => 'as moved?', action => 'SELECT test.act($1)', timeout => '1 day', delay => '1 day');
SELECT status FROM saga.step(:'id', 'hollow 2', after => '{moved}', signals => '{start}', approval => 'as moved, too?', task => 'goes on, hollow');
SELECT status FROM saga.step(:'id', 'refused', after => '{}', approval => 'or it?', on_failure => 'skip');
SELECT count(saga.signal(:'id', 'start', to_jsonb(g))) FROM generate_series(1, 5) g;
CALL test.wait_until(format('SELECT count(*) = 6 FROM saga.review_queue WHERE saga_id = %L', :'id'));
SELECT k, saga.resolve(:'id', k, CASE k WHEN 'refused' THEN 'refuse' ELSE 'approve' END, 'ok') FROM unnest('{unclaimed,held,tried,given up,refused}'::text[]) k;
CALL test.wait_until('SELECT count(*) = 4 FROM saga.pending_tasks WHERE channel LIKE ''goes on, %'' AND since <= now()');
SELECT task_key AS held FROM saga.claim_tasks('goes on, held') \gset
SELECT saga.fail_task(task_key, attempt, 'not yet') FROM saga.claim_tasks('goes on, tried');
CALL test.until_waits_for('goes on', 'given up', 'a person%');
CALL test.wait_until(format('SELECT count(*) = 2 FROM saga.steps WHERE saga_id = %L AND key IN (''later'', ''soon'') AND attempts > 0', :'id'));
SELECT status FROM saga.step(:'id', 'save', completed => true);
SELECT status FROM saga.step(:'id', 'undone', completed => true, compensation => 'SELECT test.undo($1)', review => 'look');
SELECT saga.complete_task(task_key) FROM saga.claim_tasks('goes on, moved');
CALL test.until_waits_for('goes on', 'hollow 2', 'approval%');
SELECT saga.resolve(:'id', 'hollow 2', 'approve', 'ok');
CREATE TABLE test.before AS SELECT * FROM test.goes_on();
SELECT saga.rollback_to(:'id', 'save');
-- a partial undo that takes longer than a timeout, and that a claim does not outlive
SELECT saga.wait(:'id');
SELECT step, run, status, attempts, waits_for FROM test.goes_on() WHERE step IN ('unclaimed', 'held', 'tried');
SELECT channel FROM saga.pending_tasks WHERE saga_id = :'id';
CALL test.wait_until('SELECT opened + interval ''2 seconds'' < now() FROM test.before WHERE step = ''over''');
SELECT saga.resolve(:'id', 'undone', 'retry', 'go on') \gset
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.wait_step(:'id', 'soon');
CALL test.until_waits_for('goes on', 'refused', 'approval%');
SELECT status FROM saga.wait_step(:'id', 'given up');
CALL test.wait_until('SELECT count(*) = 3 FROM saga.pending_tasks WHERE channel LIKE ''goes on, %'' AND since <= now()');
SELECT step, run, a.status, a.attempts, a.waits_for, a.begun, b.opened = a.opened AS opened,
  CASE WHEN b.ready > now() THEN a.ready - b.ready BETWEEN interval '0' AND interval '1 us' END AS ready
FROM test.goes_on() a JOIN test.before b USING (step, run);
SELECT payload, used_by_step FROM saga.signals WHERE saga_id = :'id' ORDER BY name, payload;
SELECT step, count(*) FROM test.events('goes on') WHERE event = 'step parked' GROUP BY step ORDER BY step;
-- the service that held a task when the saga went back reports it, and its result is believed
SELECT saga.complete_task(:'held', '"done"');
SELECT step, attempt, context #> '{signal,payload}' IS NOT NULL AS signal FROM saga.claim_tasks('goes on, unclaimed') ORDER BY step;
SELECT step FROM saga.claim_tasks('goes on, held');
SELECT step, attempt, outcome, error FROM test.forward_attempts('goes on');
-- what waits for a step that was undone, and never began, waits for it again, and so for what let it through then
SELECT saga.complete_task(task_key) FROM saga.claim_tasks('goes on, moved');
CALL test.until_waits_for('goes on', 'hollow 2', 'approval%');
CALL test.until_waits_for('goes on', 'hollow', '2%');
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('goes on');

-- Who holds a task when its saga goes back, or fails, reports it when the saga is running again, or not, and the step's gates
-- are not open yet again: they were when it began, so its result is believed.
SELECT k, test.begin('believed, ' || k) IS NOT NULL AS begun FROM unnest('{running,needs_review,compensated}'::text[]) k;
CREATE FUNCTION test.step_of(key text, step text, kind text, after text[], task text, approval text DEFAULT NULL, delay interval DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
  SELECT status FROM saga.step(test.id('believed, ' || $1), $2, kind => $3, after => $4, task => $5 || ' ' || $1, approval => $6, delay => $7, on_failure => 'skip')
$$;
SELECT k, (saga.step(test.id('believed, ' || k), 'p', kind => CASE k WHEN 'compensated' THEN 'compensatable' ELSE 'pivot' END, completed => true)).status
FROM unnest('{running,needs_review,compensated}'::text[]) k;
SELECT k, (saga.step(test.id('believed, ' || k), 'before', kind => 'compensatable', after => '{}', approval => 'may it?', on_failure => 'skip')).status,
  test.step_of(k, 'after', 'retriable', '{before}', 'believed'), test.step_of(k, 'delayed', 'retriable', '{}', 'delayed', delay => '0.7 seconds')
FROM unnest('{running,needs_review,compensated}'::text[]) k;
CALL test.wait_until('SELECT count(*) = 3 FROM saga.review_queue WHERE step = ''before''');
SELECT k, saga.resolve(test.id('believed, ' || k), 'before', CASE k WHEN 'compensated' THEN 'approve' ELSE 'refuse' END, 'n') FROM unnest('{running,needs_review,compensated}'::text[]) k;
CALL test.wait_until('SELECT count(*) = 6 FROM saga.pending_tasks WHERE (channel LIKE ''believed %'' OR channel LIKE ''delayed %'') AND since <= now()');
CREATE TABLE test.held AS SELECT k, c.task_key FROM unnest('{running,needs_review,compensated}'::text[]) k, unnest('{believed,delayed}'::text[]) w, saga.claim_tasks(w || ' ' || k) c;
SELECT k, saga.fail(test.id('believed, ' || k)) FROM unnest('{running,needs_review}'::text[]) k;
SELECT k, saga.reopen(test.id('believed, ' || k), 'on') FROM unnest('{running,needs_review}'::text[]) k;
SELECT saga.rollback_to(test.id('believed, compensated'), NULL);
SELECT saga.wait(test.id('believed, compensated'), until => 'running');
SELECT k, saga.fail(test.id('believed, ' || k)) FROM unnest('{needs_review,compensated}'::text[]) k;
SELECT k, saga.wait(test.id('believed, ' || k)) FROM unnest('{needs_review,compensated}'::text[]) k;
SELECT k, step, status, attempts FROM unnest('{running,needs_review,compensated}'::text[]) k, test.forward('believed, ' || k) WHERE step IN ('after', 'delayed');
-- that the attempt failed changes nothing any more, as ever
SELECT k, saga.fail_task(task_key, 1, 'no') FROM test.held ORDER BY k, task_key;
SELECT k, saga.complete_task(task_key, '"done"') FROM test.held ORDER BY k, task_key;
SELECT k, step, status, attempts, output FROM unnest('{running,needs_review,compensated}'::text[]) k, test.forward('believed, ' || k) WHERE step IN ('after', 'delayed');
SELECT k, state FROM unnest('{running,needs_review,compensated}'::text[]) k JOIN saga.sagas ON id = test.id('believed, ' || k) ORDER BY k;
SELECT saga.cancel(test.id('believed, running'));
SELECT k, saga.abandon(test.id('believed, ' || k), 'enough') FROM unnest('{running,needs_review}'::text[]) k;

-- A step that a person was asked about, and that began: with the saga's way back the question is over.
SELECT test.begin('asked') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)') \gset
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)') \gset
SELECT status FROM saga.step(:'id', 'c', action => 'SELECT test.act_after($1, 2)', compensation => 'SELECT test.undo($1)', compensate_on => 'started', on_failure => 'review', retry => saga.retry_policy(max_attempts => 1)) \gset
SELECT status FROM saga.wait_step(:'id', 'c');
SELECT step, parked FROM test.forward('asked');
SELECT saga.rollback_to(:'id', 'a', 'another way');
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.wait_step(:'id', 'c');
SELECT step, run, status, attempts, parked, compensation FROM test.forward('asked');
SELECT test.undone('asked');
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('asked');
-- To the beginning; a rollback while an action runs, which cannot commit
SELECT test.begin('all of it') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => $$SELECT CASE WHEN test.undone('all of it') IS NULL THEN test.act_for_ever($1) ELSE test.act($1) END$$, compensation => 'SELECT test.undo($1)');
CALL test.until_acting('all of it', 'b');
SELECT saga.rollback_to(:'id', NULL);
SELECT saga.wait(:'id', until => 'running');
SELECT status, output FROM saga.wait_step(:'id', 'b');
SELECT step, run, status, compensation FROM test.forward('all of it');
SELECT test.done('all of it'), test.undone('all of it');
SELECT saga.complete(:'id', when_done => true);

-- Not past a pivot
SELECT test.begin('rollback and pivot') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', action => 'SELECT test.act($1)');
SELECT status FROM saga.wait_step(:'id', 'p');
CALL test.refuses(format('SELECT saga.rollback_to(%L, %L)', :'id', 'a'));
SELECT saga.rollback_to(:'id', 'p');
SELECT saga.wait(:'id', until => 'running');
SELECT saga.complete(:'id');

-- Failed during a partial undo: all of it goes
SELECT test.begin('fails on the way') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)', review => 'look', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'c', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.wait_step(:'id', 'c');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id');
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id';
SELECT saga.fail(:'id', 'after all');
SELECT saga.resolve(:'id', 'b', 'done', 'by hand');
SELECT saga.wait(:'id');
SELECT step, run, status, compensation FROM test.forward('fails on the way');
SELECT test.undone('fails on the way');

-- The same where the step that a person is asked about had failed: they are still asked. How a step before the
-- savepoint goes on, nobody is asked any more.
SELECT test.begin('asked on the way') AS id \gset
SELECT status FROM saga.step(:'id', 'held', action => 'SELECT test.act_after($1, 2)', on_failure => 'review', retry => saga.retry_policy(max_attempts => 1),
  compensate_on => 'started', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.wait_step(:'id', 'held');
SELECT status FROM saga.step(:'id', 'a', after => '{}', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT status FROM saga.step(:'id', 'b', after => '{a}', action => 'SELECT test.act_after($1, 2)', on_failure => 'skip', retry => saga.retry_policy(max_attempts => 1),
  compensate_on => 'started', review => 'look', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.wait_step(:'id', 'b');
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id' ORDER BY step;
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id');
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id' ORDER BY step;
SELECT saga.fail(:'id', 'after all');
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id' ORDER BY step;
SELECT saga.resolve(:'id', 'b', 'skip', 'it had done nothing');
SELECT saga.wait(:'id');
SELECT step, status, compensation FROM test.forward('asked on the way');
SELECT event, step FROM test.events('asked on the way') WHERE event IN ('parked', 'step parked', 'rolling back', 'failing', 'resolved', 'compensated');

-- Whoever settles the last step of a partial undo ends it: a listener, with a report in time or a late one, or a person
SELECT count(test.begin('ended by a listener, ' || k)) FROM unnest('{in time,late}'::text[]) k;
SELECT k, (saga.step(test.id('ended by a listener, ' || k), 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)')).status FROM unnest('{in time,late}'::text[]) k;
SELECT k, (saga.step(test.id('ended by a listener, ' || k), 'b', action => 'SELECT test.act($1)', notify => 'undo ' || k)).status FROM unnest('{in time,late}'::text[]) k;
SELECT k, (saga.wait_step(test.id('ended by a listener, ' || k), 'b')).status FROM unnest('{in time,late}'::text[]) k;
SELECT k, saga.rollback_to(test.id('ended by a listener, ' || k), 'a') FROM unnest('{in time,late}'::text[]) k;
CALL test.wait_until('SELECT count(*) = 2 FROM saga.pending_compensations WHERE channel LIKE ''undo %''');
SELECT compensation_key AS in_time FROM saga.claim_compensations('undo in time') \gset
SELECT compensation_key AS late FROM saga.pending_compensations WHERE channel = 'undo late' \gset
SELECT saga.complete_compensation(:'in_time');
SELECT saga.complete_compensation(:'late');
SELECT k, saga.wait(test.id('ended by a listener, ' || k), until => 'running') FROM unnest('{in time,late}'::text[]) k;
SELECT k, (saga.wait_step(test.id('ended by a listener, ' || k), 'b')).status FROM unnest('{in time,late}'::text[]) k;
SELECT k, step, run, status, compensation FROM unnest('{in time,late}'::text[]) k, test.forward('ended by a listener, ' || k);
SELECT k, test.done('ended by a listener, ' || k) FROM unnest('{in time,late}'::text[]) k;
SELECT k, saga.complete(test.id('ended by a listener, ' || k)) FROM unnest('{in time,late}'::text[]) k;
SELECT test.begin('ended by a person') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)', review => 'look');
SELECT status FROM saga.wait_step(:'id', 'b');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id');
SELECT saga.pause(:'id', 'wait');
SELECT saga.resolve(:'id', 'b', 'done', 'by hand');
SELECT saga.resume(:'id') IN ('compensating', 'running') AS resumed;
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.wait_step(:'id', 'b');
SELECT step, run, status, compensation FROM test.forward('ended by a person');
SELECT saga.complete(:'id');

-- A compensation that a listener reports done after its saga was reopened: the step has lost its effect, so it waits as a
-- new run, and what comes after it waits for that. Who holds the old run's task loses it.
SELECT k, test.begin('undone in the end, ' || k) IS NOT NULL AS begun FROM unnest('{action,task}'::text[]) k;
SELECT k, (saga.step(test.id('undone in the end, ' || k), 'p', kind => 'pivot', action => 'SELECT test.act($1)')).status FROM unnest('{action,task}'::text[]) k;
SELECT status FROM saga.step(test.id('undone in the end, action'), 'b', kind => 'compensatable', action => 'SELECT test.act($1)', notify => 'undo action');
SELECT status FROM saga.step(test.id('undone in the end, task'), 'b', task => 'do b', notify => 'undo task');
SELECT k, (saga.step(test.id('undone in the end, ' || k), 'c', after => '{b}', signals => '{go}', action => 'SELECT test.act($1)')).status FROM unnest('{action,task}'::text[]) k;
SELECT k, saga.complete(test.id('undone in the end, ' || k), when_done => true) FROM unnest('{action,task}'::text[]) k;
SELECT status FROM saga.wait_step(test.id('undone in the end, action'), 'b');
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''do b''');
SELECT step, attempt FROM saga.claim_tasks('do b');
SELECT k, saga.rollback_to(test.id('undone in the end, ' || k), 'p') FROM unnest('{action,task}'::text[]) k;
CALL test.wait_until('SELECT count(*) = 2 FROM saga.pending_compensations WHERE channel LIKE ''undo %''');
SELECT compensation_key AS action FROM saga.claim_compensations('undo action') \gset
SELECT compensation_key AS task FROM saga.claim_compensations('undo task') \gset
SELECT saga.fail_compensation(k, 1, 'no', retryable => false) FROM unnest(ARRAY[:'action', :'task']) k;
SELECT k, saga.cancel(test.id('undone in the end, ' || k)) FROM unnest('{action,task}'::text[]) k;
SELECT k, saga.reopen(test.id('undone in the end, ' || k), 'on') FROM unnest('{action,task}'::text[]) k;
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''do b''');
SELECT step, attempt FROM saga.claim_tasks('do b');
CALL test.until_waits_for('undone in the end, action', 'c', 'signal%');
SELECT k, step, run, status, compensation, waits_for FROM unnest('{action,task}'::text[]) k, test.forward('undone in the end, ' || k);
SELECT saga.complete_compensation(:'action'), saga.complete_compensation(:'task');
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''do b''');
SELECT step, attempt, task_key AS key FROM saga.claim_tasks('do b') \gset
SELECT saga.complete_task(:'key', '"again"');
SELECT k, (saga.wait_step(test.id('undone in the end, ' || k), 'b')).status FROM unnest('{action,task}'::text[]) k;
SELECT k, saga.signal(test.id('undone in the end, ' || k), 'go') FROM unnest('{action,task}'::text[]) k;
SELECT k, saga.wait(test.id('undone in the end, ' || k)) FROM unnest('{action,task}'::text[]) k;
SELECT k, step, run, status, attempts, compensation FROM unnest('{action,task}'::text[]) k, test.forward('undone in the end, ' || k);
SELECT test.done('undone in the end, action');
SELECT * FROM test.forward_attempts('undone in the end, task');

-- The same beside a late result, of a step that the application starts again.
SELECT test.begin('undone aside') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true) \gset
SELECT status FROM saga.step(:'id', 'x', compensation => 'SELECT test.undo($1)') \gset
SELECT saga.rollback_to(:'id', 'p');
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.step(:'id', 'y', completed => true, notify => 'undo y') \gset
SELECT saga.rollback_to(:'id', 'p');
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = ''undo y''');
SELECT compensation_key AS y FROM saga.claim_compensations('undo y') \gset
SELECT saga.fail_compensation(:'y', 1, 'no', retryable => false);
SELECT saga.cancel(:'id');
SELECT saga.reopen(:'id', 'on');
SELECT status FROM saga.complete_step(:'id', 'x', late => 'record');
SELECT saga.complete_compensation(:'y');
SELECT saga.resolve(:'id', 'x', 'skip', 'it was nothing');
SELECT status, known FROM saga.step(:'id', 'y', completed => true, notify => 'undo y');
SELECT saga.complete(:'id');
SELECT key, run, status, compensation_status FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;

-- Beside a late result: of a run that was rolled back, a result comes when the saga is running again.  A person decides about
-- it; the steps of the present run stand meanwhile, and go on where they are.
BEGIN;
SELECT test.begin('aside') AS id \gset
SELECT status FROM saga.step(:'id', 'save', completed => true, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'old', task => 'old', compensation => 'SELECT test.undo($1)');
COMMIT;
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''old''');
SELECT task_key AS old FROM saga.claim_tasks('old') \gset
SELECT saga.rollback_to(:'id', 'save');
SELECT saga.wait(:'id', until => 'running');
SELECT k, (saga.step(:'id', k, after => '{}', task => k, compensation => 'SELECT test.undo($1)', on_failure => 'review',
  retry => saga.retry_policy(max_attempts => 3, delay => '1 hour', max_delay => '1 hour'))).status FROM unnest('{held,tried,extended,unclaimed}'::text[]) k;
SELECT status FROM saga.step(:'id', 'heard', after => '{}', signals => '{go}', approval => 'may it?', task => 'heard', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'asked', after => '{}', signals => '{go}', approval => 'may it, too?', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'left', after => '{}', action => 'SELECT test.act_after($1, 1)', on_failure => 'skip', retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'id', 'parked', after => '{}', action => 'SELECT test.act_after($1, 1)', on_failure => 'review', retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'id', 'timer', after => '{}', delay => '1 day');
SELECT status FROM saga.step(:'id', 'acting', after => '{}', compensate_on => 'started', compensation => 'SELECT test.undo($1)',
  action => $$SELECT CASE WHEN $1 ->> 'attempt' = '1' THEN test.act_for_ever($1) ELSE test.act($1) END$$);
SELECT status FROM saga.step(:'id', 'own', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'last', after => '{held,unclaimed,acting}', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
CALL test.wait_until('SELECT count(*) = 5 FROM saga.pending_tasks WHERE channel IN (''old'', ''held'', ''tried'', ''extended'', ''unclaimed'')');
SELECT task_key AS held FROM saga.claim_tasks('held') \gset
SELECT task_key AS tried FROM saga.claim_tasks('tried') \gset
SELECT task_key AS extended FROM saga.claim_tasks('extended') \gset
SELECT forward_key AS unclaimed FROM saga.steps WHERE saga_id = :'id' AND key = 'unclaimed' \gset
SELECT saga.signal(:'id', 'go', '1'), saga.signal(:'id', 'go', '2');
CALL test.until_waits_for('aside', 'asked', 'approval%');
CALL test.until_waits_for('aside', 'heard', 'approval%');
SELECT saga.resolve(:'id', 'heard', 'approve', 'it may');
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''heard''');
CALL test.until_waits_for('aside', 'parked', 'a person%');
SELECT status FROM saga.wait_step(:'id', 'left');
CALL test.until_acting('aside', 'acting');
SELECT ready_at AS timer FROM saga.steps WHERE saga_id = :'id' AND key = 'timer' \gset
SELECT saga.complete_task(:'old', '"late"');
SELECT * FROM test.saga('aside') \gx
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id';
SELECT step FROM saga.claim_tasks('old');
-- what services report of present runs counts as ever
SELECT saga.complete_task(:'held', '1', 1), saga.complete_task(:'held', '1');
SELECT saga.fail_task(:'tried', 1, 'not yet'), saga.fail_task(:'tried', 1, 'not yet');
SELECT saga.extend_claim(:'extended', 1, '5 minutes') > now() + interval '4 minutes' AS extended;
SELECT saga.complete_task(:'unclaimed', '2');
-- what the application does, and signals, are for when the saga is running again, or are kept
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'own'));
CALL test.refuses(format('SELECT saga.signal(%L, %L)', :'id', 'go'));
SELECT status FROM saga.complete_step(:'id', 'own', '3', late => 'record');
SELECT saga.signal(:'id', 'go', '3', late => 'record');
-- the action that ran is tried again, but an executor that comes to it now drops it
CALL test.wait_until(format('SELECT status = ''failed'' FROM saga.steps WHERE saga_id = %L AND key = ''acting''', :'id'));
CALL test.wait_until(format('SELECT count(*) = 0 FROM saga.ledger_due d JOIN saga.ledger_step t ON t.saga = d.saga AND t.seq = d.seq WHERE t.saga = %L AND t.key = ''acting''', :'id'));
SELECT step, run, status, attempts, output, parked, compensation FROM test.forward('aside');
SELECT step, outcome FROM saga.timeline(:'id') WHERE step IN ('extended', 'asked', 'heard');
SELECT saga.resolve(:'id', 'old', 'skip', 'it was nothing') IN ('compensating', 'running') AS resolved;
SELECT saga.wait(:'id', until => 'running');
SELECT k, (saga.wait_step(:'id', k)).status FROM unnest('{acting,last}'::text[]) k;
SELECT step, run, status, attempts, output, waits_for, compensation FROM test.forward('aside');
SELECT ready_at = :'timer' AS unmoved FROM saga.steps WHERE saga_id = :'id' AND key = 'timer';
SELECT step FROM saga.claim_tasks('heard');
SELECT payload, used_by_step FROM saga.signals WHERE saga_id = :'id' ORDER BY payload;
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id' ORDER BY step;
SELECT event, step, detail FROM test.events('aside') WHERE event IN ('late result', 'late signal', 'parked', 'running again', 'resolved');
SELECT step, count(*) FROM test.events('aside') WHERE event = 'step parked' GROUP BY step ORDER BY step;
SELECT step, attempt, outcome FROM test.forward_attempts('aside');
-- and is undone, should the saga fail
SELECT saga.fail(:'id', 'after all');
SELECT saga.wait(:'id');
SELECT test.undone('aside');

-- The same where the saga is given up: claims end, and nobody is asked any more.
SELECT test.begin('aside, abandoned') AS id \gset
SELECT status FROM saga.step(:'id', 'save', completed => true) \gset
SELECT status FROM saga.step(:'id', 'old', task => 'old 2', compensation => 'SELECT test.undo($1)') \gset
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''old 2''');
SELECT task_key AS old FROM saga.claim_tasks('old 2') \gset
SELECT saga.rollback_to(:'id', 'save');
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.step(:'id', 'held', after => '{}', task => 'held 2', compensation => 'SELECT test.undo($1)') \gset
SELECT status FROM saga.step(:'id', 'asked', after => '{}', approval => 'may it?') \gset
CALL test.wait_until('SELECT count(*) = 2 FROM saga.pending_tasks WHERE channel IN (''old 2'', ''held 2'')');
SELECT task_key AS held FROM saga.claim_tasks('held 2') \gset
CALL test.until_waits_for('aside, abandoned', 'asked', 'approval%');
SELECT saga.complete_task(:'old', '"late"');
SELECT saga.abandon(:'id', 'enough');
SELECT channel FROM saga.pending_tasks WHERE saga_id = :'id';
SELECT step, run, status, attempts, parked FROM test.forward('aside, abandoned');
SELECT step, attempt, outcome, error FROM test.forward_attempts('aside, abandoned');
CALL test.refuses(format('SELECT saga.extend_claim(%L, 1, %L)', :'held', '1 minute'));
SELECT saga.fail_task(:'held', 1, 'no');

-- Reopened, while a late result is to be decided about first: what had been undone waits as a new run, and what had failed
-- is tried again.
SELECT test.begin('aside, reopened') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true) \gset
SELECT status FROM saga.step(:'id', 'old', kind => 'compensatable', task => 'old 3', compensation => 'SELECT test.undo($1)') \gset
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = ''old 3''');
SELECT task_key AS old FROM saga.claim_tasks('old 3') \gset
SELECT saga.rollback_to(:'id', 'p');
SELECT saga.wait(:'id', until => 'running');
SELECT status FROM saga.step(:'id', 'look', completed => true, review => 'look') \gset
SELECT status FROM saga.step(:'id', 'failed', after => '{}', kind => 'compensatable', action => 'SELECT test.act_after($1, 1)', on_failure => 'skip', retry => saga.retry_policy(max_attempts => 1)) \gset
SELECT status FROM saga.step(:'id', 'undone', after => '{failed}', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)') \gset
SELECT status FROM saga.wait_step(:'id', 'undone');
SELECT saga.complete(:'id', when_done => true);
SELECT saga.rollback_to(:'id', 'p');
SELECT saga.wait(:'id');
SELECT saga.complete_task(:'old', '"late"');
SELECT saga.cancel(:'id');
SELECT saga.reopen(:'id', 'on');
SELECT step, run, status, attempts, compensation FROM test.forward('aside, reopened');
SELECT saga.resolve(:'id', 'old', 'skip', 'it was nothing') IN ('compensating', 'running') AS resolved;
SELECT saga.wait(:'id', until => 'running');
SELECT saga.complete_task(forward_key) FROM saga.steps WHERE saga_id = :'id' AND key = 'old' AND run = 2;
SELECT saga.wait(:'id');
SELECT step, run, status, attempts, compensation FROM test.forward('aside, reopened');
SELECT test.done('aside, reopened');

-- A task that nobody had claimed is reported after its run was rolled back: that run starts later than the new one was
-- recorded, which is still the newest.
SELECT test.begin('reported anew') AS id \gset
CREATE FUNCTION test.record_tasks(saga uuid) RETURNS void LANGUAGE sql AS $$
  SELECT saga.step(saga, 'asked', after => '{}', task => 'anew 1', approval => 'may it?', compensation => 'SELECT test.undo($1)');
  SELECT saga.step(saga, 'looked at', after => '{}', task => 'anew 2', review => 'look');
$$;
SELECT status FROM saga.step(:'id', 'base', completed => true);
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.record_tasks(saga.current())') \gset
CALL test.until_waits_for('reported anew', 'asked', 'approval%');
SELECT saga.resolve(:'id', 'asked', 'approve', 'ok');
CALL test.wait_until('SELECT count(*) = 2 FROM saga.pending_tasks WHERE channel IN (''anew 1'', ''anew 2'')');
SELECT max(forward_key) FILTER (WHERE key = 'asked') AS asked, max(forward_key) FILTER (WHERE key = 'looked at') AS looked_at
FROM saga.steps WHERE saga_id = :'id' \gset
SELECT saga.rollback_to(:'id', 'base');
SELECT saga.wait(:'id', until => 'running');
CALL test.until_waits_for('reported anew', 'asked', 'approval%');
SELECT saga.complete_task(:'asked', '"webhook"');
SELECT saga.resolve(:'id', 'asked', 'skip', 'looked at it') \gset
SELECT saga.wait(:'id', until => 'running');
CALL test.until_waits_for('reported anew', 'asked', 'approval%');
SELECT key, run, begun > max(seq) OVER (PARTITION BY key) AS started_later, parked FROM saga.steps WHERE saga_id = :'id' AND key = 'asked' ORDER BY run;
SELECT saga.resolve(:'id', 'asked', 'approve', 'ok');
SELECT saga.complete_task(forward_key) FROM saga.steps WHERE saga_id = :'id' AND rolled_back_at IS NULL AND task IS NOT NULL ORDER BY seq;
-- Of two runs that a person is asked about, a decision is about the newest.
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.review_queue WHERE saga_id = %L', :'id'));
SELECT saga.complete_task(:'looked_at', '"webhook"');
SELECT key, run, parked FROM saga.steps WHERE saga_id = :'id' AND parked IS NOT NULL ORDER BY run;
SELECT saga.resolve(:'id', 'looked at', 'skip', 'the new one');
SELECT key, run, parked FROM saga.steps WHERE saga_id = :'id' AND parked IS NOT NULL ORDER BY run;
SELECT saga.resolve(:'id', 'looked at', 'skip', 'the old one') \gset
SELECT saga.wait(:'id');
SELECT test.undone('reported anew');

-- What a person said was done is undone, what was skipped is not.
SELECT test.begin('decided') AS id \gset
SELECT k, (saga.step(:'id', k, after => '{}', on_failure => 'review', action => 'SELECT saga.require(false, ''no'')', compensation => 'SELECT test.undo($1, $1 ->> ''output'')')).status FROM unnest('{done,skip}'::text[]) k;
SELECT k, (saga.wait_step(:'id', k)).status FROM unnest('{done,skip}'::text[]) k;
SELECT saga.resolve(:'id', 'done', 'done', 'by hand', '"by hand"');
SELECT saga.resolve(:'id', 'skip', 'skip', 'not needed');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('decided');
SELECT step, status, compensation FROM test.forward('decided');

-- A compensation that fails, of an action: as any other
SELECT test.begin('stuck') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)', compensation => 'SELECT saga.require(false, ''cannot be undone'')');
SELECT status FROM saga.wait_step(:'id', 'b');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT step, why, safe_to_retry FROM saga.review_queue WHERE saga_id = :'id';
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L, %L)', :'id', 'b', 'done', 'n', '1'));
SELECT saga.resolve(:'id', 'b', 'done', 'by hand');
SELECT saga.wait(:'id');
SELECT test.undone('stuck');
-- What happens next is the undo of what began, not of what is passed over or never began.
SELECT test.begin('named') AS id \gset
SELECT status FROM saga.step(:'id', 'zero', completed => true, compensation => 'SELECT 1/0',
  compensation_retry => saga.retry_policy(max_attempts => 3, delay => '1 hour', jitter => 0));
SELECT status FROM saga.step(:'id', 'tried', compensation => 'SELECT 1', compensate_on => 'completed');
SELECT status FROM saga.step(:'id', 'later', action => 'SELECT 1', compensation => 'SELECT 1', delay => '1 day', after => '{}');
SELECT saga.fail(:'id');
CALL test.wait_until(format('SELECT compensation_attempts = 1 FROM saga.steps WHERE saga_id = %L AND key = %L', :'id', 'zero'));
SELECT regexp_replace(next_action, ' at .*', ' at <time>') AS next_action FROM saga.sagas WHERE id = :'id';

-- What an action recorded as done or begun is a part of it: it committed with the action, so it goes back with it, or stays.
CREATE FUNCTION test.act_with_parts(context jsonb, gate integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  id uuid := saga.current();
  my text := context #>> '{step,key}';
BEGIN
  PERFORM pg_advisory_xact_lock_shared(gate);
  PERFORM saga.step(id, my || ': done', completed => true, compensation => 'SELECT test.undo($1)');
  PERFORM saga.step(id, my || ': begun', compensation => 'SELECT test.undo($1)');
  RETURN test.act(context);
END $$;
SELECT pg_advisory_lock(4711);
BEGIN;
SELECT test.begin('parts') AS id \gset
SELECT status FROM saga.step(:'id', 'base', completed => true, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'early', after => '{}', action => 'SELECT test.act_with_parts($1, 4711)', compensation => 'SELECT test.undo($1)');
COMMIT;
CALL test.until_acting('parts', 'early');
SELECT status FROM saga.step(:'id', 'save', completed => true, compensation => 'SELECT test.undo($1)');
SELECT pg_advisory_unlock(4711);
CALL test.wait_until(format('SELECT status = ''completed'' FROM saga.steps WHERE saga_id = %L AND key = ''early''', :'id'));
SELECT status FROM saga.step(:'id', 'late', after => '{save}', action => 'SELECT test.act_with_parts($1, 4711)', compensation => 'SELECT test.undo($1)');
CALL test.wait_until(format('SELECT status = ''completed'' FROM saga.steps WHERE saga_id = %L AND key = ''late''', :'id'));
SELECT status FROM saga.step(:'id', 'sure', after => '{save}', kind => 'retriable', action => 'SELECT test.act_with_parts($1, 4711)');
CALL test.wait_until(format('SELECT status = ''completed'' FROM saga.steps WHERE saga_id = %L AND key = ''sure''', :'id'));
SELECT saga.complete(:'id', when_done => true);
SELECT saga.rollback_to(:'id', 'save');
CALL test.wait_until(format('SELECT status = ''completed'' FROM saga.steps WHERE saga_id = %L AND key = ''late'' AND run = 2', :'id'));
SELECT step, run, status, compensation, recorded_by FROM test.forward('parts');
SELECT test.done('parts'), test.undone('parts');
-- to a part of an action, and to the action
SELECT saga.rollback_to(:'id', 'early: done');
CALL test.wait_until(format('SELECT status = ''completed'' FROM saga.steps WHERE saga_id = %L AND key = ''late'' AND run = 3', :'id'));
SELECT saga.rollback_to(:'id', 'early');
CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.steps WHERE saga_id = %L AND key = ''save'' AND rolled_back_at IS NOT NULL', :'id'));
SELECT status FROM saga.step(:'id', 'save', completed => true, compensation => 'SELECT test.undo($1)');
CALL test.wait_until(format('SELECT status = ''completed'' FROM saga.steps WHERE saga_id = %L AND key = ''late'' AND run = 4', :'id'));
SELECT step, run, status, compensation FROM test.forward('parts') WHERE step ~ '^(early|save|sure)';
-- a sealed saga waits for what is begun, and for nothing else
SELECT k, (saga.complete_step(:'id', k || ': begun')).status FROM unnest('{early,late,sure}'::text[]) k;
SELECT saga.wait(:'id');
SELECT event, step FROM test.events('parts') WHERE event = 'rolling back';

-- Steps that would wait for each other, so that none ever began: whoever closes the circle is refused.
-- An action that records a step after one that waits for the action
SELECT test.begin('circle') AS id \gset
BEGIN;
SELECT status FROM saga.step(:'id', 'a', retry => saga.retry_policy(max_attempts => 1), on_failure => 'skip',
  action => $$SELECT test.act($1), saga.step(saga.current(), 'c', after => '{o}', action => 'SELECT test.act($1)')$$);
SELECT status FROM saga.step(:'id', 'o', action => 'SELECT test.act($1)');
COMMIT;
SELECT status FROM saga.wait_step(:'id', 'o');
SELECT step, status, error FROM test.forward('circle');
-- the same by what it recorded, and in a round
SELECT status FROM saga.step(:'id', 'b', retry => saga.retry_policy(max_attempts => 1), on_failure => 'skip', action =>
  $$SELECT (saga.step(saga.current(), 'b1', retry => saga.retry_policy(max_attempts => 1), on_failure => 'skip', action => 'SELECT (saga.step(saga.current(), ''b2'', after => ''{b}'', action => ''SELECT 1'')).status, saga.again()')).status$$);
SELECT status FROM saga.step(:'id', 'd', action => 'SELECT test.act($1)');
SELECT status FROM saga.wait_step(:'id', 'd');
SELECT step, status, error FROM test.forward('circle') WHERE step LIKE 'b%';
-- A step that another waited for when it was recorded first, and that waits for that one now
SELECT test.begin('circle again') AS id \gset
CREATE TABLE test.after_what AS SELECT '{}'::text[] AS keys;
SELECT status FROM saga.step(:'id', 'a', retry => saga.retry_policy(max_attempts => 1), on_failure => 'review', compensation => 'SELECT test.undo($1)',
  action => $$SELECT saga.step(saga.current(), 'c', after => keys, delay => '0') FROM test.after_what$$);
SELECT status FROM saga.wait_step(:'id', 'a');
SELECT status FROM saga.step(:'id', 'o', after => '{c}', signals => '{go}');
SELECT saga.complete(:'id', when_done => true);
UPDATE test.after_what SET keys = '{o}';
SELECT saga.rollback_to(:'id', NULL);
CALL test.until_waits_for('circle again', 'a', 'a person%');
SELECT step, run, status, error, waits_for FROM test.forward('circle again');
SELECT test.mask(next_action) AS next_action FROM saga.sagas WHERE id = :'id';
UPDATE test.after_what SET keys = '{}';
SELECT saga.resolve(:'id', 'a', 'retry', 'mended');
SELECT saga.signal(:'id', 'go');
SELECT saga.wait(:'id');
-- The application's steps, in their old places: by a list, and by what was recorded before
SELECT test.begin('circle of the application') AS id \gset
SELECT k, (saga.step(:'id', k, completed => true)).status FROM unnest('{x,y,z}'::text[]) k;
SELECT status FROM saga.step(:'id', 'o', after => '{z}', signals => '{go}');
SELECT saga.rollback_to(:'id', NULL);
CALL test.refuses(format('SELECT saga.step(%L, %L, after => %L, signals => %L)', :'id', 'z', '{o}', '{go}'));
SELECT status FROM saga.step(:'id', 'y', completed => true);
SELECT status FROM saga.step(:'id', 'x', after => '{y}', signals => '{go}');
CALL test.refuses(format('SELECT saga.step(%L, %L, after => %L, signals => %L)', :'id', 'z', '{x,o}', '{go}'));
SELECT status FROM saga.step(:'id', 'z', after => '{x}', signals => '{go}');
CALL test.until_waits_for('circle of the application', 'x', 'signal%');
SELECT step, run, status, waits_for FROM test.forward('circle of the application') WHERE run = 2 OR step = 'o';
SELECT saga.rollback_to(:'id', NULL);
SELECT status FROM saga.step(:'id', 'x', signals => '{go}');
SELECT next_action FROM saga.sagas WHERE id = :'id';
CALL test.refuses(format('SELECT saga.step(%L, %L, signals => %L)', :'id', 'y', '{go}'));
SELECT status FROM saga.step(:'id', 'y', completed => true);
SELECT count(saga.signal(:'id', 'go')) FROM generate_series(1, 3);
SELECT status FROM saga.wait_step(:'id', 'o');
SELECT saga.complete(:'id');
-- One that nobody could refuse is named: a compensation that is reported done after its saga was reopened.
SELECT test.begin('circle by a report', on_compensation_failure => 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'p', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'c', kind => 'compensatable', completed => true, notify => 'circle');
SELECT status FROM saga.step(:'id', 'o', kind => 'compensatable', after => '{c}', notify => 'circle', delay => '0');
SELECT status FROM saga.wait_step(:'id', 'o');
SELECT saga.rollback_to(:'id', 'p');
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = ''circle'' AND step = ''o'' AND since IS NOT NULL');
SELECT compensation_key AS o, saga.fail_compensation(compensation_key, 1, 'no', retryable => false) FROM saga.claim_compensations('circle') \gset
CALL test.wait_until('SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = ''circle'' AND step = ''c'' AND since IS NOT NULL');
SELECT compensation_key AS c, saga.fail_compensation(compensation_key, 1, 'no', retryable => false) FROM saga.claim_compensations('circle') \gset
SELECT saga.cancel(:'id');
SELECT saga.reopen(:'id', 'on');
SELECT saga.complete_compensation(:'c');
BEGIN;
SELECT status FROM saga.step(:'id', 'c', after => '{o}', signals => '{go}');
SELECT saga.complete_compensation(:'o');
COMMIT;
SELECT saga.signal(:'id', 'go');
SELECT step, run, status, waits_for FROM test.forward('circle by a report') WHERE run = 2;
SELECT next_action FROM saga.sagas WHERE id = :'id';
SELECT saga.complete(:'id', when_done => true);
SELECT next_action FROM saga.sagas WHERE id = :'id';
SELECT saga.cancel(:'id');
SELECT saga.abandon(:'id', 'enough');
-- A step that is not there is refused whatever else the list names.
BEGIN;
SELECT test.begin('not there') AS id \gset
SELECT status FROM saga.step(:'id', 'a', after => '{}', action => 'SELECT test.act($1)');
CALL test.refuses(format('SELECT saga.step(%L, %L, after => %L)', :'id', 'b', '{a,there}'));
ROLLBACK;

CALL test.check_forward();
