-- A pause: nothing of a saga is dispatched while it lasts, what is under way
-- ends, and time that passes is made up for when it is over.
\set ECHO none
\i sql/include/patient.sql
\i sql/include/helpers.sql
\i sql/include/people.sql
\i sql/include/clock.sql
\set ECHO all

CREATE FUNCTION test.quick(attempts integer DEFAULT 1) RETURNS saga.retry_policy LANGUAGE sql IMMUTABLE
RETURN saga.retry_policy(attempts, '10 ms', 'constant', '10 ms', 0, '1 minute');
-- What the view tells of it
CREATE FUNCTION test.look(name text, OUT state text, OUT paused boolean, OUT next_action text, OUT at text) LANGUAGE sql STABLE AS $$
  SELECT state, paused, test.mask(next_action),
    CASE WHEN next_action_at > deadline THEN 'after the deadline' WHEN next_action_at = deadline THEN 'the deadline'
      WHEN next_action_at IS NOT NULL THEN 'some time' END
  FROM saga.sagas WHERE id = test.id($1)
$$;
-- Lets the worker go through everything that is due: a saga that falls due now
-- is failed behind all that was due before.
CREATE PROCEDURE test.let_work() LANGUAGE plpgsql AS $$
DECLARE
  id uuid := saga.begin('marker', timeout => '1 ms');
BEGIN
  PERFORM test.advance('1 s');
  COMMIT;
  PERFORM saga.wait(id);
END $$;

-- A running saga: the application goes on; only its deadline waits.
SELECT test.begin('running', timeout => '1 hour') AS id \gset
SELECT * FROM test.look('running');
SELECT saga.pause(:'id', 'maintenance');
SELECT * FROM test.look('running');
SELECT saga.pause(:'id', 'said twice');
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT test.advance('2 hours');
CALL test.let_work();
SELECT * FROM test.look('running');
-- the deadline that passed meanwhile counts when it is over
SELECT saga.resume(:'id', 'done');
SELECT saga.wait(:'id');
SELECT failure_kind, test.undone('running') FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.story('running');
-- one that has not passed: still the same deadline
SELECT test.begin('in time', timeout => '1 hour') AS id \gset
SELECT saga.pause(:'id', 'maintenance');
SELECT saga.resume(:'id');
SELECT saga.resume(:'id', 'said twice');
SELECT * FROM test.look('in time');
SELECT saga.complete(:'id');
SELECT * FROM test.story('in time');
-- completed or failed while it is paused
SELECT test.begin('completed') AS id \gset
SELECT saga.pause(:'id', 'n');
SELECT saga.complete(:'id');
SELECT * FROM test.look('completed');
SELECT test.begin('nothing to undo') AS id \gset
SELECT saga.pause(:'id', 'n');
SELECT saga.fail(:'id');
SELECT * FROM test.look('nothing to undo');
-- what is over is neither paused nor resumed
CALL test.refuses_unchanged(:'id', format('SELECT saga.pause(%L, %L)', :'id', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resume(%L)', :'id'));
SELECT test.id('running') AS id \gset
CALL test.refuses_unchanged(:'id', format('SELECT saga.pause(%L, %L)', :'id', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resume(%L)', :'id'));

-- Failed while paused: nothing is undone before it is resumed.
SELECT test.begin('failed') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', notify => 'pause');
SELECT status FROM saga.step(:'id', 'c', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'd', notify => 'pause', acknowledge => false);
SELECT saga.pause(:'id', 'n');
SELECT saga.fail(:'id', 'no');
CALL test.let_work();
SELECT * FROM test.look('failed');
SELECT * FROM test.runs('failed');
CALL test.refuses(format('SELECT saga.step(%L, %L)', :'id', 'e'));
SELECT saga.wait(:'id', '0');
SELECT saga.resume(:'id');
CALL test.until_dispatched('failed', 'b');
SELECT * FROM test.runs('failed');
-- dispatched, and nobody has it: it is taken back, and nobody gets it
SELECT saga.pause(:'id', 'once more');
SELECT * FROM test.look('failed');
SELECT * FROM test.runs('failed');
SELECT count(*) FROM saga.claim_compensations('pause', 10);
CALL test.let_work();
SELECT count(*) FROM saga.claim_compensations('pause', 10);
SELECT count(*) FROM saga.pending_compensations WHERE saga_id = :'id' AND claimed_at IS NOT NULL;
SELECT saga.resume(:'id');
CALL test.until_dispatched('failed', 'b');
-- claimed: the attempt ends as ever, and nothing follows from it
SELECT step, attempt, compensation_key FROM saga.claim_compensations('pause') \gset
SELECT :'step', :attempt;
SELECT saga.pause(:'id', 'third');
SELECT * FROM test.look('failed');
SELECT saga.extend_claim(:'compensation_key', :attempt, '5 minutes') > now() AS extended;
SELECT saga.fail_compensation(:'compensation_key', :attempt, 'not yet', retry_after => '0');
CALL test.let_work();
SELECT * FROM test.look('failed');
SELECT * FROM test.runs('failed');
SELECT saga.resume(:'id');
CALL test.until_dispatched('failed', 'b');
SELECT step, attempt, compensation_key FROM saga.claim_compensations('pause') \gset
SELECT :'step', :attempt;
SELECT saga.pause(:'id', 'fourth');
SELECT saga.complete_compensation(:'compensation_key');
CALL test.let_work();
SELECT * FROM test.look('failed');
SELECT test.undone('failed');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('failed');
SELECT * FROM test.attempts('failed');
SELECT * FROM test.story('failed');
-- a claim whose lease ends while it is paused
SELECT test.begin('lease') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'pause', compensation_retry => saga.retry_policy(5, '10 ms', 'constant', '10 ms', 0, '1 hour'));
SELECT saga.fail(:'id');
CALL test.until_dispatched('lease', 'a');
SELECT count(*) FROM saga.claim_compensations('pause', 10, '30 minutes');
SELECT saga.pause(:'id', 'n');
SELECT test.advance('31 minutes');
CALL test.until_tried('lease', 'a');
SELECT * FROM test.look('lease');
SELECT * FROM test.runs('lease');
SELECT count(*) FROM saga.claim_compensations('pause', 10);
SELECT saga.resume(:'id');
CALL test.until_dispatched('lease', 'a');
SELECT saga.complete_compensation(compensation_key), attempt FROM saga.claim_compensations('pause', 10);
SELECT * FROM test.look('lease');

-- SQL that is running: it ends, takes effect, and is the last for now.
SELECT pg_advisory_lock(4712);
SELECT test.begin('under way') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT pg_advisory_xact_lock(4712), test.undo($1)');
SELECT saga.fail(:'id');
CALL test.until_blocked('under way', 'b');
SELECT saga.pause(:'id', 'n');
SELECT * FROM test.look('under way');
SELECT pg_advisory_unlock(4712);
CALL test.until_tried('under way', 'b');
CALL test.let_work();
SELECT * FROM test.look('under way');
SELECT * FROM test.attempts('under way');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('under way');
-- ... that fails is tried again, when it is over
SELECT pg_advisory_lock(4712);
SELECT test.begin('fails under way') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT pg_advisory_xact_lock(4712); SELECT test.undo_after($1, 1)', compensation_retry => test.quick(2));
SELECT saga.fail(:'id');
CALL test.until_running('fails under way', 'a');
SELECT saga.pause(:'id', 'n');
SELECT pg_advisory_unlock(4712);
CALL test.until_tried('fails under way', 'a');
CALL test.let_work();
SELECT * FROM test.look('fails under way');
SELECT * FROM test.attempts('fails under way');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('fails under way');
-- ... and anywhere on its way, before it runs and behind that: what was begun is
-- done, once, and nothing else
CREATE PROCEDURE test.hold(name text) LANGUAGE plpgsql AS $$
DECLARE
  it uuid;
  since timestamptz;
BEGIN
  -- An executor may not have heard yet that it is to be held: then it has undone the saga, or hears it at its
  -- second step, and stays there.
  LOOP
    since := clock_timestamp();
    it := saga.begin('held');
    PERFORM saga.step(it, 'a', compensation => 'SELECT test.undo($1)');
    PERFORM saga.step(it, 'b', compensation => 'SELECT test.undo($1)');
    PERFORM saga.fail(it);
    COMMIT;
    CALL test.wait_until(format('SELECT state = ''compensated'' OR EXISTS (SELECT FROM pg_stat_activity
      WHERE backend_type = ''saga executor'' AND wait_event_type = ''Extension'' AND xact_start > %L)
      FROM saga.sagas WHERE id = %L', since, it));
    EXIT WHEN (SELECT compensation_status <> 'compensated' FROM saga.steps WHERE saga_id = it AND key = 'b');
  END LOOP;
  INSERT INTO test.named VALUES (name, it);
END $$;
ALTER SYSTEM SET saga.test_faults = 'executor.before_inflight=wait';
SELECT pg_reload_conf();
CALL test.hold('before it');
SELECT saga.pause(test.id('before it'), 'n');
ALTER SYSTEM RESET saga.test_faults;
SELECT pg_reload_conf();
CALL test.until_tried('before it', 'b');
ALTER SYSTEM SET saga.test_faults = 'executor.before_mark=wait';
SELECT pg_reload_conf();
CALL test.hold('behind it');
SELECT saga.pause(test.id('behind it'), 'n');
ALTER SYSTEM RESET saga.test_faults;
SELECT pg_reload_conf();
CALL test.until_tried('behind it', 'b');
CALL test.let_work();
SELECT n.name, (test.look(n.name)).next_action, test.undone(n.name) FROM test.named n WHERE n.name IN ('before it', 'behind it') ORDER BY id;
SELECT saga.resume(id) FROM test.named WHERE name IN ('before it', 'behind it') ORDER BY id;
SELECT saga.wait(test.id('before it')), saga.wait(test.id('behind it'));
SELECT n.name, test.undone(n.name), (SELECT string_agg(step || ' ' || attempt || ' ' || outcome, ', ') FROM test.attempts(n.name))
FROM test.named n WHERE n.name IN ('before it', 'behind it') ORDER BY id;

-- A compensation that waits to be tried again: not before it is resumed, nor
-- before its time.
SELECT test.begin('tried again') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo_after($1, 1)',
  compensation_retry => saga.retry_policy(5, '1 hour', 'constant', '1 hour', 0));
SELECT saga.fail(:'id');
CALL test.until_tried('tried again', 'a');
SELECT saga.pause(:'id', 'n');
SELECT * FROM test.look('tried again');
SELECT saga.resume(:'id');
SELECT * FROM test.look('tried again');
SELECT saga.pause(:'id', 'n');
SELECT test.advance('2 hours');
CALL test.let_work();
SELECT * FROM test.attempts('tried again');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('tried again');

-- A saga that waits for a person may be decided about while it is paused; what
-- follows from that waits.
SELECT test.begin('parked') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', review => 'look', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT saga.pause(:'id', 'n');
SELECT * FROM test.look('parked');
SELECT saga.resolve(:'id', 'b', 'retry', 'go on');
CALL test.let_work();
SELECT * FROM test.look('parked');
SELECT test.undone('parked');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('parked');
-- whose turn it is meanwhile is asked
SELECT test.begin('asked') AS id \gset
SELECT status FROM saga.step(:'id', 'b', review => 'look');
SELECT saga.pause(:'id', 'n');
SELECT saga.fail(:'id');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.asked('asked');
SELECT saga.pause(:'id', 'n');
SELECT saga.abandon(:'id', 'leave it');
SELECT * FROM test.look('asked');
-- a result that comes late, after it was finished while it was paused
SELECT test.begin('late, finished') AS id \gset
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1, $1 ->> ''output'')', compensate_on => 'completed');
SELECT saga.pause(:'id', 'n');
SELECT saga.fail(:'id');
SELECT * FROM test.look('late, finished');
SELECT status FROM saga.complete_step(:'id', 'b', '"late"', late => 'record');
SELECT * FROM test.look('late, finished');
SELECT saga.resolve(:'id', 'b', 'retry', 'n');
SELECT saga.wait(:'id');
SELECT test.undone('late, finished');
-- a result that comes late, while it is paused
SELECT test.begin('late') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1, $1 ->> ''output'')');
SELECT saga.pause(:'id', 'n');
SELECT saga.fail(:'id');
SELECT status FROM saga.complete_step(:'id', 'b', '"in time"', late => 'record');
SELECT * FROM test.look('late');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT test.undone('late');
-- behind a pivot
SELECT test.begin('pivot') AS id \gset
SELECT status FROM saga.step(:'id', 'a', kind => 'pivot', completed => true);
SELECT saga.pause(:'id', 'n');
SELECT saga.fail(:'id');
SELECT * FROM test.look('pivot');
SELECT saga.reopen(:'id', 'go on');
SELECT * FROM test.look('pivot');
SELECT saga.resume(:'id');
SELECT * FROM test.look('pivot');

-- Back to a savepoint, paused: on its way when it is resumed, and its deadline
-- waits as long.
SELECT test.begin('partial', timeout => '1 hour') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)', completed => true);
SELECT saga.pause(:'id', 'n');
SELECT saga.rollback_to(:'id', 'a');
CALL test.let_work();
SELECT * FROM test.look('partial');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id', until => 'running');
SELECT * FROM test.look('partial');
SELECT test.undone('partial');
-- with nothing to undo it is there at once, and still paused
SELECT saga.pause(:'id', 'n');
SELECT saga.rollback_to(:'id', 'a');
SELECT * FROM test.look('partial');
SELECT test.advance('2 hours');
CALL test.let_work();
SELECT * FROM test.look('partial');
SELECT saga.resume(:'id');
SELECT saga.wait(:'id');
SELECT failure_kind, test.undone('partial') FROM saga.sagas WHERE id = :'id';

-- A deadline that passes on the way back to a savepoint: all of it is undone,
-- whatever the undo is waiting for.
SELECT test.begin('deadline, retry', timeout => '1 hour') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 1)',
  compensation_retry => saga.retry_policy(5, '3 hours', 'constant', '3 hours', 0));
SELECT saga.rollback_to(:'id', 'a');
CALL test.until_tried('deadline, retry', 'b');
SELECT * FROM test.look('deadline, retry');
SELECT test.advance('2 hours');
CALL test.wait_until(format('SELECT failure_kind IS NOT NULL FROM saga.sagas WHERE id = %L', :'id'));
SELECT * FROM test.look('deadline, retry');
SELECT test.advance('2 hours');
SELECT saga.wait(:'id');
SELECT test.undone('deadline, retry');
SELECT test.begin('deadline, listener', timeout => '1 hour') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'b', notify => 'pause');
SELECT saga.rollback_to(:'id', 'a');
CALL test.until_dispatched('deadline, listener', 'b');
SELECT test.advance('2 hours');
CALL test.wait_until(format('SELECT failure_kind IS NOT NULL FROM saga.sagas WHERE id = %L', :'id'));
SELECT * FROM test.runs('deadline, listener');
SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('pause');
SELECT saga.wait(:'id');
SELECT * FROM test.story('deadline, listener');
-- ... or while SQL is being run: what follows is the full undo, and no moment in
-- which the saga would seem to be running again
SELECT test.begin('deadline, SQL', timeout => '1 hour') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'c', compensation => 'SELECT test.undo($1), test.advance(''2 hours'')');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id');
SELECT * FROM test.story('deadline, SQL');
SELECT test.begin('deadline, last SQL', timeout => '1 hour') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo($1), test.advance(''2 hours'')');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id');
SELECT * FROM test.story('deadline, last SQL');
-- ... for a person: asked first, and all of it is undone after that
SELECT test.begin('deadline, person', timeout => '1 hour') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'b', review => 'look');
SELECT saga.rollback_to(:'id', 'a');
SELECT saga.wait(:'id');
SELECT test.advance('2 hours');
CALL test.let_work();
SELECT * FROM test.asked('deadline, person');
SELECT saga.resolve(:'id', 'b', 'done', 'n');
SELECT saga.wait(:'id');
SELECT failure_kind, test.undone('deadline, person') FROM saga.sagas WHERE id = :'id';
-- ... and one that passed before it was rolled back no longer counts
SELECT test.begin('deadline, passed', timeout => '1 hour') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true);
SELECT status FROM saga.step(:'id', 'b', review => 'look');
SELECT test.advance('2 hours');
SELECT saga.wait(:'id');
SELECT failure_kind FROM saga.sagas WHERE id = :'id';
SELECT saga.rollback_to(:'id', 'a', 'late, but welcome');
SELECT saga.resolve(:'id', 'b', 'done', 'n');
SELECT state, failure_kind, deadline FROM saga.sagas WHERE id = :'id';
CALL test.let_work();
SELECT saga.complete(:'id');

-- After all that, the ledger is in order.
CALL test.check();
\set ECHO none
\i sql/include/impatient.sql
