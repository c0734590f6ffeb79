-- What waits for a person: the queue for every reason there is, the decisions
-- that settle it, and who took them.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/people.sql
\set ECHO all

CREATE ROLE regress_saga_night;
CREATE ROLE regress_saga_ann IN ROLE regress_saga_night;
CREATE ROLE regress_saga_ben IN ROLE regress_saga_night;
GRANT USAGE ON SCHEMA saga TO regress_saga_ann, regress_saga_ben;
SET saga.operator_role = 'regress_saga_night';

GRANT ALL ON ALL TABLES IN SCHEMA test TO PUBLIC;

-- What can be given to steps here
CREATE TABLE test.gate (saga uuid);
CREATE FUNCTION test.pass(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM test.gate WHERE saga = (context #>> '{saga,id}')::uuid) THEN
    RAISE SQLSTATE 'SG007' USING MESSAGE = 'not yet';
  END IF;
END $$;
CREATE FUNCTION test.quick(attempts integer) RETURNS saga.retry_policy LANGUAGE sql IMMUTABLE
RETURN saga.retry_policy(attempts, '10 ms', 'constant', '10 ms', 0, '1 minute');

-- Makes a saga that waits for a person, for the reason given.  It began with a
-- reservation (machine undoes it) and ended with an open e-mail (nothing to undo).
CREATE PROCEDURE test.park(reason text, key text DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
  id uuid;
  it record;
BEGIN
  key := coalesce(key, reason);
  id := saga.begin('order', 'order 4711, ' || key,
    on_compensation_failure => CASE WHEN reason LIKE '%continue%' THEN 'continue' END);
  INSERT INTO test.named VALUES (key, id);
  PERFORM saga.step(id, 'reserve', compensation => 'SELECT test.undo($1)', output => '{"room": 12, "nights": 2}');
  CASE reason
    WHEN 'review alone' THEN
      PERFORM saga.step(id, 'courier', review => 'Call the courier (0800 12 34) and stop the parcel.', output => '{"parcel": "P-1"}');
    WHEN 'review with SQL' THEN
      PERFORM saga.step(id, 'pay', review => 'Over 10,000: has accounting agreed?', compensation => 'SELECT test.undo($1)', output => '{"charge": "ch_1"}');
    WHEN 'review with notify' THEN
      PERFORM saga.step(id, 'pay', review => 'Over 10,000: has accounting agreed?', notify => 'review', output => '{"charge": "ch_1"}');
    WHEN 'exhausted' THEN
      PERFORM saga.step(id, 'pay', compensation => 'SELECT test.undo_after($1, 2)', compensation_retry => test.quick(2), output => '{"charge": "ch_1"}');
    WHEN 'exhausted, continue' THEN
      PERFORM saga.step(id, 'pay', compensation => 'SELECT test.undo_after($1, 2)', compensation_retry => test.quick(2), output => '{"charge": "ch_1"}');
      PERFORM saga.step(id, 'book', compensation => 'SELECT test.undo_after($1, 1, ''SG006'')', output => '{"flight": "LH 400"}');
    WHEN 'not again' THEN
      PERFORM saga.step(id, 'pay', compensation => 'SELECT test.undo_after($1, 1, ''SG006'')', output => '{"charge": "ch_1"}');
    WHEN 'listener gave up' THEN
      PERFORM saga.step(id, 'pay', notify => 'review', output => '{"charge": "ch_1"}');
    WHEN 'listener exhausted' THEN
      PERFORM saga.step(id, 'pay', notify => 'review', compensation_retry => test.quick(2), output => '{"charge": "ch_1"}');
    WHEN 'late result' THEN
      PERFORM saga.step(id, 'pay', compensation => 'SELECT test.undo($1)');
    WHEN 'late result, passed by' THEN
      PERFORM saga.step(id, 'hold', compensation => 'SELECT test.pass($1)', compensation_retry => test.quick(1));
      PERFORM saga.step(id, 'pay', compensate_on => 'completed', compensation => 'SELECT test.undo($1)');
    WHEN 'late result, rolled back' THEN
      PERFORM saga.step(id, 'pay', compensation => 'SELECT test.undo($1)');
    WHEN 'pivot' THEN
      PERFORM saga.step(id, 'pay', kind => 'pivot', compensation => 'SELECT test.undo($1)', output => '{"charge": "ch_1"}');
      PERFORM saga.step(id, 'ship', kind => 'retriable');
      PERFORM saga.fail_step(id, 'ship', 'no truck');
  END CASE;
  PERFORM saga.step(id, 'e-mail');
  COMMIT;
  IF reason = 'late result, rolled back' THEN
    PERFORM saga.rollback_to(id, 'reserve', 'another card');
    COMMIT;
    PERFORM saga.wait(id, until => 'running');
  ELSE
    PERFORM saga.fail(id, 'the customer withdrew');
    COMMIT;
  END IF;
  IF reason LIKE 'listener%' THEN
    FOR i IN 1 .. CASE reason WHEN 'listener exhausted' THEN 2 ELSE 1 END LOOP
      CALL test.until_dispatched(key, 'pay');
      SELECT * INTO it FROM saga.claim_compensations('review', consumer => 'refunds-1') c WHERE c.saga_id = id;
      PERFORM saga.fail_compensation(it.compensation_key, it.attempt, 'provider: charge ch_1 is disputed', retryable => reason = 'listener exhausted');
      COMMIT;
    END LOOP;
  ELSIF reason = 'late result, passed by' THEN
    CALL test.until_tried(key, 'hold');
  ELSIF reason LIKE 'late%' THEN
    PERFORM saga.wait(id, until => 'running');
  END IF;
  IF reason LIKE 'late%' THEN
    PERFORM saga.complete_step(id, 'pay', '{"charge": "ch_1"}', late => 'record');
    COMMIT;
  END IF;
  PERFORM saga.wait(id);
END $$;

-- Each reason as the queue tells it, to somebody who was just woken: in 100
-- columns, with everything that is needed, and the calls to choose from.
\pset format wrapped
\pset columns 100
CALL test.park('review alone');
SELECT * FROM test.queue('review alone') \gx
CALL test.park('review with SQL');
SELECT * FROM test.queue('review with SQL') \gx
CALL test.park('review with notify');
SELECT * FROM test.queue('review with notify') \gx
CALL test.park('exhausted');
SELECT * FROM test.queue('exhausted') \gx
-- ... each of those that were given up is a decision
CALL test.park('exhausted, continue');
SELECT * FROM test.queue('exhausted, continue') \gx
CALL test.park('not again');
SELECT * FROM test.queue('not again') \gx
CALL test.park('listener gave up');
SELECT * FROM test.queue('listener gave up') \gx
CALL test.park('listener exhausted');
SELECT * FROM test.queue('listener exhausted') \gx
CALL test.park('late result');
SELECT * FROM test.queue('late result') \gx
CALL test.park('late result, passed by');
SELECT * FROM test.queue('late result, passed by') \gx
CALL test.park('late result, rolled back');
SELECT * FROM test.queue('late result, rolled back') \gx
CALL test.park('pivot');
SELECT * FROM test.queue('pivot') \gx

-- A role that registered a compensation and is gone
CREATE ROLE regress_saga_shop LOGIN;
CREATE ROLE regress_saga_gone LOGIN IN ROLE regress_saga_shop;
GRANT USAGE ON SCHEMA saga TO regress_saga_shop, regress_saga_gone;
SET ROLE regress_saga_shop;
SELECT test.begin('role gone') AS id \gset
SET ROLE regress_saga_gone;
SELECT status FROM saga.step(:'id', 'pay', compensation => 'SELECT test.undo($1)', output => '{"charge": "ch_1"}');
RESET ROLE;
REVOKE USAGE ON SCHEMA saga FROM regress_saga_gone;
DROP ROLE regress_saga_gone;
SET ROLE regress_saga_shop;
SELECT saga.fail(:'id', 'the customer withdrew');
SELECT saga.wait(:'id');
RESET ROLE;
SELECT * FROM test.queue('role gone') \gx
-- An owner that has another name since: nobody is sure who that is.
CREATE ROLE regress_saga_old LOGIN;
GRANT USAGE ON SCHEMA saga TO regress_saga_old;
SET ROLE regress_saga_old;
SELECT test.begin('owner renamed') AS id \gset
SELECT status FROM saga.step(:'id', 'pay', compensation => 'SELECT test.undo($1)', output => '{"charge": "ch_1"}');
RESET ROLE;
ALTER ROLE regress_saga_old RENAME TO regress_saga_new;
SET ROLE regress_saga_new;
CALL test.refuses(format('SELECT saga.fail(%L)', :'id'));
RESET ROLE;
SELECT saga.fail(:'id', 'the customer withdrew');
SELECT saga.wait(:'id');
SELECT * FROM test.queue('owner renamed') \gx
-- What the undo passed over is as unconfirmed as anything that is still to be
-- undone; what a person has looked at, or a machine undone, is not.
SELECT test.begin('unconfirmed') AS id \gset
SELECT status FROM saga.step(:'id', 'sign', review => 'sign the note');
SELECT status FROM saga.step(:'id', 'not to be undone', compensate_on => 'completed', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'never undone', kind => 'retriable', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'undone', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'looked at', review => 'look');
SELECT saga.fail(:'id', 'the customer withdrew');
SELECT saga.wait(:'id');
SELECT saga.resolve(:'id', 'looked at', 'skip', 'nothing there');
SELECT saga.wait(:'id');
SELECT * FROM test.queue('unconfirmed') \gx
\pset format aligned
-- It tells the truth: what the step in question put out, late or not, is there;
-- of an attempt that succeeded, nothing was rolled back; what is called safe to
-- retry is not what would be done a second time.
SELECT n.name FROM saga.review_queue q JOIN test.named n ON n.id = q.saga_id JOIN saga.steps t USING (saga_id, seq)
WHERE q.outputs -> t.key IS DISTINCT FROM t.output;
SELECT n.name, q.attempts, q.safe_to_retry FROM saga.review_queue q JOIN test.named n ON n.id = q.saga_id
WHERE q.safe_to_retry LIKE '%rolled back when it failed%' AND coalesce(q.attempts, '') !~ '(failed|timed out|interrupted)';
SELECT n.name, q.safe_to_retry FROM saga.review_queue q JOIN test.named n ON n.id = q.saga_id
WHERE q.safe_to_retry LIKE '%never tried%' AND q.attempts IS NOT NULL;
-- No line is longer than what is left of 100 columns.
SELECT n.name, c.key, test.same_length(line) AS line FROM saga.review_queue q JOIN test.named n ON n.id = q.saga_id,
  jsonb_each_text(to_jsonb(q)) c, regexp_split_to_table(c.value, E'\n') line
WHERE c.key IN ('safe_to_retry', 'must_not_repeat', 'to_settle') AND length(line) > 100 - 18;

-- The decisions, by three ways out of each reason: what the call answers, what
-- comes of it, and what was run.  (The role that is gone stays so.)
CREATE TABLE test.reason (n integer GENERATED ALWAYS AS IDENTITY, reason text, step text);
INSERT INTO test.reason (reason, step) VALUES ('review alone', 'courier'), ('review with SQL', 'pay'), ('review with notify', 'pay'),
  ('exhausted', 'pay'), ('not again', 'pay'), ('listener gave up', 'pay'), ('listener exhausted', 'pay'),
  ('late result', 'pay'), ('late result, passed by', 'pay'), ('late result, rolled back', 'pay'), ('pivot', 'pay');
CREATE TABLE test.decision (reason text, resolution text, answer text, came_to text, step_is text, undone text);
CREATE PROCEDURE test.decide() LANGUAGE plpgsql AS $$
DECLARE
  r record;
  how text;
  called text;
  it uuid;
  answer text;
  claim record;
BEGIN
  FOR r IN SELECT * FROM test.reason ORDER BY n LOOP
    FOREACH how IN ARRAY '{retry,done,skip}'::text[] LOOP
      called := r.reason || ', ' || how;
      CALL test.park(r.reason, called);
      it := test.id(called);
      BEGIN
        answer := saga.resolve(it, r.step, how, 'as the manual says');
      EXCEPTION WHEN OTHERS THEN
        answer := sqlstate || ': ' || test.mask(sqlerrm);
      END;
      COMMIT;
      -- Listeners do their part.
      IF answer = 'compensating' AND how = 'retry' AND (r.reason LIKE 'listener%' OR r.reason LIKE '%notify') THEN
        CALL test.until_dispatched(called, 'pay');
        FOR claim IN SELECT * FROM saga.claim_compensations('review', 10) c WHERE c.saga_id = it LOOP
          PERFORM saga.complete_compensation(claim.compensation_key, '"refunded"');
        END LOOP;
        COMMIT;
      END IF;
      INSERT INTO test.gate VALUES (it);
      COMMIT;
      PERFORM saga.wait(it, until => CASE WHEN r.reason = 'late result, rolled back' THEN 'running' END);
      INSERT INTO test.decision
        SELECT r.reason, how, answer, s.state, concat_ws(' ', t.compensation_status, t.compensation_attempts,
          CASE WHEN t.compensated_at IS NOT NULL THEN 'at' END, t.parked), test.undone(called)
        FROM saga.sagas s JOIN saga.steps t ON t.saga_id = s.id WHERE s.id = it AND t.key = r.step;
      COMMIT;
    END LOOP;
  END LOOP;
END $$;
CALL test.decide();
SELECT reason, resolution, answer, came_to, step_is, undone FROM test.decision JOIN test.reason USING (reason)
ORDER BY n, array_position('{retry,done,skip}', resolution);

-- What a decision about one step leaves of the others, under "continue"
CALL test.park('exhausted, continue', 'one by one');
SELECT saga.resolve(test.id('one by one'), 'pay', 'done', 'the bank did it by phone');
SELECT * FROM test.saga('one by one') \gx
SELECT * FROM test.asked('one by one');
SELECT saga.resolve(test.id('one by one'), 'book', 'retry', 'the airline is up again');
SELECT saga.wait(test.id('one by one'));
SELECT * FROM test.saga('one by one') \gx
SELECT * FROM test.steps('one by one');
SELECT * FROM test.story('one by one') WITH ORDINALITY s (line, n) WHERE n > 10;
-- ... since when each of them waits does not change with what is decided about others
CALL test.park('exhausted, continue', 'since');
SELECT min(since) AS since FROM saga.review_queue WHERE saga_id = test.id('since') AND step = 'pay' \gset
SELECT saga.resolve(test.id('since'), 'book', 'skip', 'it was never booked');
SELECT saga.pause(test.id('since'), 'lunch');
SELECT since = :'since' AS the_same FROM saga.review_queue WHERE saga_id = test.id('since');

-- A retry has all its attempts before it again, and may fail again: the same
-- question, asked once more, with every attempt there ever was.
SELECT test.begin('in vain') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo_after($1, 6)', compensation_retry => test.quick(2));
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT saga.resolve(:'id', 'a', 'retry', 'first');
SELECT saga.wait(:'id');
SELECT saga.resolve(:'id', 'a', 'retry', 'second');
SELECT saga.wait(:'id');
SELECT attempts, why FROM saga.review_queue WHERE saga_id = :'id' \gx
SELECT saga.resolve(:'id', 'a', 'retry', 'third');
SELECT saga.wait(:'id');
SELECT * FROM test.attempts('in vain');
SELECT * FROM test.story('in vain');

-- The calls that the queue offers are taken from it as they are: each of them
-- settles the matter, of which nothing is left in the queue.
CREATE FUNCTION test.offered(name text, word text) RETURNS SETOF text LANGUAGE sql STABLE AS $$
  SELECT m[1] FROM saga.review_queue q, regexp_matches(q.to_settle, '(SELECT saga.*?;)  --', 'g') m
  WHERE q.saga_id = test.id(name) AND m[1] LIKE '%' || word || '%' ORDER BY q.seq DESC
$$;
CREATE PROCEDURE test.take(name text, word text) LANGUAGE plpgsql AS $$
DECLARE
  call text;
  answer text;
BEGIN
  FOR call IN SELECT * FROM test.offered(name, word) LOOP
    EXECUTE call INTO answer;
    RAISE INFO '%: %', test.mask(regexp_replace(call, '\s+', ' ', 'g')), answer;
    COMMIT;
    PERFORM saga.wait(test.id(name), until => 'running');
  END LOOP;
END $$;
SELECT n.name, count(*) AS decisions, array_agg((SELECT string_agg((regexp_match(m[1], 'retry|done|skip|reopen|abandon|reassign'))[1], ' ')
  FROM regexp_matches(q.to_settle, '(SELECT saga.*?;)  --', 'g') m)) AS offered
FROM saga.review_queue q JOIN test.named n ON n.id = q.saga_id GROUP BY n.id, n.name ORDER BY n.id;
CALL test.take('review alone', 'done');
CALL test.take('review with SQL', 'retry');
CALL test.take('review with notify', 'skip');
CALL test.take('exhausted', 'retry');
CALL test.take('exhausted, continue', 'done');
CALL test.take('not again', 'skip');
CALL test.take('listener gave up', 'done');
CALL test.take('listener exhausted', 'abandon');
CALL test.take('late result', 'retry');
CALL test.take('late result, rolled back', 'retry');
CALL test.take('pivot', 'reopen');
-- ... the role that shall have it is the superuser's to fill in
SELECT replace(offered, 'ROLE', 'regress_saga_shop') AS call FROM test.offered('role gone', 'reassign') offered \gset
:call
CALL test.take('role gone', 'retry');
CALL test.take('owner renamed', 'skip');
CALL test.take('unconfirmed', 'done');
INSERT INTO test.gate VALUES (test.id('late result, passed by'));
CALL test.take('late result, passed by', 'done');
-- what psql itself makes of them, a whole answer at once: the first settles it,
-- and whatever follows is told so
CALL test.park('review alone', 'all at once');
\set ECHO none
SELECT to_settle FROM saga.review_queue WHERE saga_id = test.id('all at once') \gset
\set VERBOSITY sqlstate
:to_settle ;
\set VERBOSITY default
\set ECHO all
SELECT saga.wait(test.id('all at once'));
SELECT count(*) FROM saga.review_queue WHERE saga_id IN (SELECT id FROM test.named) AND saga_id <> test.id('since');
SELECT n.name, s.state, test.undone(n.name) FROM test.named n JOIN saga.sagas s USING (id) WHERE n.name NOT LIKE '%, %' ORDER BY id;
-- keys that must be quoted
SELECT test.begin('quoted') AS id \gset
SELECT status FROM saga.step(:'id', E'it''s a "step" \\ %s $1; --\n2', review => E'50 % off; it''s');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT * FROM test.queue('quoted') \gx
CALL test.take('quoted', 'done');

-- Who decided, when, and why is in the history; so it is of whoever acts for another.
CALL test.park('exhausted', 'who');
SET ROLE regress_saga_ann;
SELECT saga.resolve(test.id('who'), 'pay', 'retry', 'the bank is up again');
RESET ROLE;
SELECT saga.wait(test.id('who'));
SELECT event, step, test.mask(detail::text) AS detail, at BETWEEN now() - interval '1 minute' AND now() AS now
FROM saga.events WHERE saga_id = test.id('who') AND event IN ('failing', 'parked', 'resolved', 'compensated') ORDER BY position;

-- Given up for good: nothing more is undone, and the question is gone.
CALL test.park('exhausted', 'given up');
SET ROLE regress_saga_ben;
SELECT saga.abandon(test.id('given up'), 'the customer keeps it');
RESET ROLE;
SELECT * FROM test.saga('given up') \gx
SELECT * FROM test.steps('given up');
SELECT finished_at IS NOT NULL AS finished, next_action_at, requires_review FROM saga.sagas WHERE id = test.id('given up');
SELECT * FROM test.story('given up') WITH ORDINALITY s (line, n) WHERE n > 8;
SELECT count(*) FROM test.queue('given up');
-- a late result is kept, and changes nothing of that
SELECT status, output FROM saga.complete_step(test.id('given up'), 'e-mail', '"sent"', late => 'record');
SELECT status, output FROM saga.step(test.id('pivot'), 'pay', kind => 'pivot', compensation => 'SELECT test.undo($1)');
SELECT * FROM test.saga('given up') \gx

-- After a pivot: forward again, without the deadline that it missed, and
-- whatever was unfinished is finished with the forward key it had.
SELECT test.begin('forward', timeout => '1 day') AS id \gset
SELECT status FROM saga.step(:'id', 'reserve', compensation => 'SELECT test.undo($1)', completed => true);
SELECT status FROM saga.step(:'id', 'pay', kind => 'pivot', completed => true);
SELECT forward_key FROM saga.step(:'id', 'ship', kind => 'retriable') \gset
SELECT saga.fail(:'id', 'no truck', '{"depot": 3}');
SELECT * FROM test.asked('forward');
SET ROLE regress_saga_ann;
SELECT saga.reopen(:'id', 'a truck was found');
RESET ROLE;
SELECT * FROM test.saga('forward') \gx
SELECT failure_kind, reason, details, deadline, next_action_at, finished_at FROM saga.sagas WHERE id = :'id';
SELECT status, attempt, forward_key = :'forward_key' AS same_key FROM saga.step(:'id', 'ship', kind => 'retriable');
SELECT status FROM saga.complete_step(:'id', 'ship');
-- ... which may fail once more
SELECT saga.cancel(:'id', 'wrong address');
SELECT * FROM test.asked('forward');
SELECT saga.reopen(:'id', 'right address');
SELECT saga.complete(:'id');
SELECT * FROM test.story('forward');

-- ... and what is finished meanwhile is not called unfinished any more
SELECT test.begin('finished') AS id \gset
SELECT status FROM saga.step(:'id', 'pay', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'id', 'ship', kind => 'retriable');
SELECT status FROM saga.step(:'id', 'mail', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'id', 'no answer from the carrier');
SELECT * FROM test.asked('finished');
SELECT status FROM saga.complete_step(:'id', 'ship', '"on its way"', late => 'record');
SELECT * FROM test.asked('finished');
SELECT status FROM saga.complete_step(:'id', 'mail', '"sent"', late => 'record');
SELECT why, outputs, must_not_repeat FROM saga.review_queue WHERE saga_id = :'id' \gx
SELECT saga.reopen(:'id', 'all of it is done');
SELECT saga.complete(:'id');

-- Two people take the same decision: the second is told who, when and what.
CALL test.park('exhausted', 'twice');
SET ROLE regress_saga_ann;
SELECT saga.resolve(test.id('twice'), 'pay', 'skip', 'paid in cash');
RESET ROLE;
SELECT saga.wait(test.id('twice'));
SET ROLE regress_saga_ben;
CALL test.refuses_unchanged(test.id('twice'), format('SELECT saga.resolve(%L, %L, %L, %L)', test.id('twice'), 'pay', 'retry', 'again'));
CALL test.refuses_unchanged(test.id('twice'), format('SELECT saga.abandon(%L, %L)', test.id('twice'), 'again'));
CALL test.refuses_unchanged(test.id('given up'), format('SELECT saga.abandon(%L, %L)', test.id('given up'), 'again'));
CALL test.refuses_unchanged(test.id('given up'), format('SELECT saga.resolve(%L, %L, %L, %L)', test.id('given up'), 'pay', 'done', 'again'));
CALL test.refuses_unchanged(test.id('forward'), format('SELECT saga.reopen(%L, %L)', test.id('forward'), 'again'));
RESET ROLE;
-- ... also while the saga waits for another decision
CALL test.park('exhausted, continue', 'twice of two');
SET ROLE regress_saga_ann;
SELECT saga.resolve(test.id('twice of two'), 'book', 'done', 'called the airline');
SET ROLE regress_saga_ben;
CALL test.refuses_unchanged(test.id('twice of two'), format('SELECT saga.resolve(%L, %L, %L, %L)', test.id('twice of two'), 'book', 'done', 'called the airline'));
RESET ROLE;

-- Refused: what waits for no decision, and what nobody can mean.
CALL test.park('review alone', 'bad');
SELECT test.id('bad') AS id \gset
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'reserve', 'done', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'e-mail', 'done', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'no such step', 'done', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'courier', 'retry', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'courier', 'undo', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'courier', 'Done', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'courier', '', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, NULL, %L)', :'id', 'courier', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, NULL, %L, %L)', :'id', 'done', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', '', 'done', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(NULL, %L, %L, %L)', 'courier', 'done', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, NULL)', :'id', 'courier', 'done'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'courier', 'done', ''));
CALL test.refuses_unchanged(:'id', format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'courier', 'done', E' \t\n '));
CALL test.refuses_unchanged(:'id', format('SELECT saga.abandon(%L, NULL)', :'id'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.abandon(%L, %L)', :'id', '  '));
CALL test.refuses_unchanged(:'id', format('SELECT saga.abandon(NULL, %L)', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.reopen(%L, %L)', :'id', 'n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.reopen(%L, NULL)', :'id'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.reopen(%L, %L)', :'id', E'\n'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.pause(%L, NULL)', :'id'));
CALL test.refuses_unchanged(:'id', format('SELECT saga.pause(%L, %L)', :'id', ' '));
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', ''));
CALL test.refuses_unchanged(:'id', format('SELECT saga.rollback_to(%L, %L)', :'id', 'no such step'));
-- an id that is not there
CREATE FUNCTION test.calls() RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$
  VALUES ('saga.resolve(%L, ''courier'', ''done'', ''n'')'), ('saga.abandon(%L, ''n'')'), ('saga.reopen(%L, ''n'')'),
    ('saga.rollback_to(%L, ''reserve'')'), ('saga.pause(%L, ''n'')'), ('saga.resume(%L)'), ('saga.plan(%L)'), ('saga.redact(%L)')
$$;
CREATE PROCEDURE test.all_refuse(id uuid) LANGUAGE plpgsql AS $$
DECLARE
  call text;
BEGIN
  FOR call IN SELECT * FROM test.calls() LOOP
    RAISE INFO '%', regexp_replace(call, '%L', '<id>');
    CALL test.refuses('SELECT ' || format(call, id));
  END LOOP;
END $$;
CALL test.all_refuse('01900000-0000-7000-8000-000000000000');
-- a stranger learns nothing but that
CREATE ROLE regress_saga_stranger;
GRANT USAGE ON SCHEMA saga TO regress_saga_stranger;
SELECT test.picture(:'id') AS picture \gset
SET ROLE regress_saga_stranger;
CALL test.all_refuse(:'id');
SELECT count(*) FROM saga.review_queue;
RESET ROLE;
SELECT test.picture(:'id') = :'picture' AS unchanged;
-- A compensation decides nothing about its own saga.
SELECT test.begin('own') AS id \gset
CREATE FUNCTION test.call_own(call text, context jsonb) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN EXECUTE 'SELECT ' || format(call, context #>> '{saga,id}'); END $$;
SELECT (saga.step(:'id', call, compensation => format('SELECT test.call_own(%L, $1)', call), compensation_retry => test.quick(1))).status
FROM test.calls() call;
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT why FROM saga.review_queue WHERE saga_id = :'id';
SELECT test.begin('own, all', 'continue') AS id \gset
SELECT (saga.step(:'id', call, compensation => format('SELECT test.call_own(%L, $1)', call), compensation_retry => test.quick(1))).status
FROM test.calls() call;
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT step, why FROM saga.review_queue WHERE saga_id = :'id' ORDER BY seq;

-- A person decides while a listener is still at it: what the person says holds,
-- and of what the listener says later only that it is done.
SELECT test.begin('at it, done') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'review');
SELECT saga.fail(:'id');
CALL test.until_dispatched('at it, done', 'a');
SELECT attempt, compensation_key FROM saga.claim_compensations('review') \gset
SELECT status FROM saga.complete_step(:'id', 'a', '1', late => 'record');
SELECT * FROM test.asked('at it, done');
SELECT saga.resolve(:'id', 'a', 'done', 'found in the books');
SELECT saga.complete_compensation(:'compensation_key');
SELECT saga.fail_compensation(:'compensation_key', :attempt, 'no');
SELECT * FROM test.saga('at it, done') \gx
SELECT test.begin('at it, retry') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'review');
SELECT saga.fail(:'id');
CALL test.until_dispatched('at it, retry', 'a');
SELECT attempt, compensation_key FROM saga.claim_compensations('review') \gset
SELECT status FROM saga.complete_step(:'id', 'a', '1', late => 'record');
SELECT saga.resolve(:'id', 'a', 'retry', 'with the result');
SELECT saga.complete_compensation(:'compensation_key');
SELECT * FROM test.saga('at it, retry') \gx

-- After all that, the ledger is in order.
CALL test.check();
RESET saga.operator_role;
DROP OWNED BY regress_saga_night, regress_saga_ann, regress_saga_ben, regress_saga_shop, regress_saga_new, regress_saga_stranger;
DROP ROLE regress_saga_night, regress_saga_ann, regress_saga_ben, regress_saga_shop, regress_saga_new, regress_saga_stranger;
