-- Forgetting: what is purged was never there, what is redacted keeps its story
-- and its keys; and nothing that is not settled is touched.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/people.sql
\i sql/include/clock.sql
\set ECHO all

-- Other tests' sagas are none of these.
SELECT saga.purge('0', 100000) >= 0 AS purged;

-- How many rows there are of the named sagas, and which tables have some
CREATE FUNCTION test.rows_of(id uuid) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT concat_ws(' ', CASE WHEN EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = $1) THEN 'saga' END,
    CASE WHEN EXISTS (SELECT FROM saga.ledger_step t WHERE t.saga = $1) THEN 'step' END,
    CASE WHEN EXISTS (SELECT FROM saga.ledger_attempt a WHERE a.saga = $1) THEN 'attempt' END,
    CASE WHEN EXISTS (SELECT FROM saga.ledger_event e WHERE e.saga = $1) THEN 'event' END,
    CASE WHEN EXISTS (SELECT FROM saga.ledger_signal g WHERE g.saga = $1) THEN 'signal' END,
    CASE WHEN EXISTS (SELECT FROM saga.ledger_due d WHERE d.saga = $1) THEN 'due' END,
    CASE WHEN EXISTS (SELECT FROM saga.ledger_queue q WHERE q.saga = $1) THEN 'queue' END)
$$;
CREATE FUNCTION test.left_of_all() RETURNS TABLE (name text, state text, rows text) LANGUAGE sql STABLE AS $$
  SELECT n.name, s.state, test.rows_of(n.id) FROM test.named n LEFT JOIN saga.sagas s USING (id) ORDER BY n.id
$$;

-- Sagas in every state
CREATE PROCEDURE test.make(name text) LANGUAGE plpgsql AS $$
DECLARE
  it uuid := saga.begin('retention', name, '1', timeout => CASE WHEN name = 'running, deadline' THEN interval '10 years' END);
BEGIN
  INSERT INTO test.named VALUES (name, it);
  PERFORM saga.step(it, 'base', compensation => 'SELECT test.undo($1)', completed => true);
  PERFORM saga.step(it, 'failed', compensation => CASE WHEN name = 'compensating' THEN 'SELECT test.undo_after($1, 1)' ELSE 'SELECT test.undo($1)' END,
    compensation_retry => saga.retry_policy(5, '1000 days', 'constant', '1000 days', 0));
  PERFORM saga.fail_step(it, 'failed', 'e');
  IF name LIKE 'dispatched%' OR name LIKE 'abandoned%' THEN
    PERFORM saga.step(it, 'outside', notify => 'retention', compensation_retry => saga.retry_policy(1, timeout => '0'));
  ELSIF name = 'needs_review' THEN
    PERFORM saga.step(it, 'look', review => 'look');
  END IF;
  COMMIT;
  IF name = 'completed' THEN
    PERFORM saga.complete(it, '1', ignore_failed => true);
  ELSIF name LIKE 'running%' THEN
    NULL;
  ELSIF name = 'rolled back' THEN
    PERFORM saga.rollback_to(it, 'base');
    COMMIT;
    PERFORM saga.wait(it, until => 'running');
    PERFORM saga.complete(it);
  ELSIF name = 'paused' THEN
    PERFORM saga.pause(it, 'n');
    PERFORM saga.fail(it);
  ELSE
    PERFORM saga.fail(it);
    COMMIT;
    CASE name
      WHEN 'compensating' THEN
        CALL test.until_tried(name, 'failed');
      WHEN 'dispatched' THEN
        CALL test.until_dispatched(name, 'outside');
      WHEN 'abandoned', 'abandoned, held' THEN
        CALL test.until_dispatched(name, 'outside');
        PERFORM count(*) FROM saga.claim_compensations('retention', 10, '1000 days') c WHERE c.saga_id = it;
        PERFORM saga.complete_step(it, 'outside', late => 'record');
        IF name = 'abandoned' THEN
          PERFORM saga.complete_compensation((SELECT compensation_key FROM saga.steps WHERE saga_id = it AND key = 'outside'));
        END IF;
        PERFORM saga.abandon(it, 'n');
      ELSE
        PERFORM saga.wait(it);
    END CASE;
  END IF;
  COMMIT;
END $$;
CREATE PROCEDURE test.make_all() LANGUAGE plpgsql AS $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['completed', 'compensated', 'abandoned', 'rolled back', 'running', 'running, deadline',
    'compensating', 'needs_review', 'paused', 'abandoned, held', 'dispatched'] LOOP
    CALL test.make(name);
  END LOOP;
END $$;
CALL test.make_all();
SELECT * FROM test.left_of_all();

-- Only what ended longer ago than that
SELECT saga.purge('1 day');
SELECT test.advance('2 days');
SELECT saga.begin('retention', 'young') AS young \gset
SELECT saga.complete(:'young');
-- all or nothing, as any call
BEGIN;
SELECT saga.purge('1 day');
SELECT count(*) FROM saga.sagas WHERE name = 'retention';
ROLLBACK;
SELECT count(*) FROM saga.sagas WHERE name = 'retention';
SELECT saga.purge('1 day');
-- ... and nothing that is not settled, or that a listener still holds
SELECT * FROM test.left_of_all();
SELECT saga.purge('1 day');
SELECT count(*) FROM saga.sagas WHERE id = :'young';
-- nothing is left of it that a key, or an id, would find: it is free again
SELECT saga.begin('retention', 'completed', '"other input"') <> test.id('completed') AS another;
CALL test.refuses(format('SELECT saga.fail(%L)', test.id('completed')));
CALL test.refuses(format('SELECT saga.wait(%L)', test.id('completed')));
SELECT count(*) FROM saga.steps WHERE saga_id = test.id('compensated');
SELECT count(*) FROM saga.attempts WHERE saga_id = test.id('compensated');
SELECT count(*) FROM saga.events WHERE saga_id = test.id('compensated');
-- What was not settled goes when it is.
SELECT saga.abandon(test.id('needs_review'), 'n');
SELECT saga.fail(test.id('running'));
SELECT saga.wait(test.id('running'));
SELECT test.advance('2 days');
-- (more, if other tests left some)
SELECT saga.purge('1 day', NULL) >= 3 AS purged;
SELECT name, state FROM test.left_of_all() WHERE state IS NOT NULL;
-- The one that a listener held, when its claim is over.
SELECT saga.complete_compensation(compensation_key) FROM saga.steps WHERE saga_id = test.id('abandoned, held') AND key = 'outside';
SELECT saga.purge('1 day');
SELECT name, state FROM test.left_of_all() WHERE state IS NOT NULL;

-- The history tells of each purge how many went, when, and by whom; of the
-- sagas themselves it tells nothing any more.
CREATE FUNCTION test.purges() RETURNS TABLE (n bigint, by text, sagas bigint, now boolean) LANGUAGE sql STABLE AS $$
  SELECT row_number() OVER (ORDER BY at), by, sagas, at BETWEEN now() AND now() + interval '1 year' FROM saga.purges
$$;
-- (news that is as old as what was purged is forgotten with it)
SELECT n, by = current_user AS by_me, sagas >= CASE n WHEN 1 THEN 3 ELSE 1 END AS sagas, now
FROM test.purges();
SELECT count(*) FROM saga.events WHERE event = 'purged';

-- So many at a time, and the oldest first
SELECT saga.purge('0', 1000) > 0 AS some;
CREATE PROCEDURE test.make_many(sagas integer, label text DEFAULT 'many') LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. sagas LOOP
    PERFORM saga.complete(st.saga_id) FROM saga.step(saga.begin(label, i::text), 'a', output => to_jsonb(i)) st;
    COMMIT;
  END LOOP;
END $$;
CALL test.make_many(10);
SELECT saga.purge('1 s', 3);
SELECT test.advance('10 s');
SELECT saga.purge('1 s', 3);
SELECT string_agg(idempotency_key, ' ' ORDER BY id) FROM saga.sagas WHERE name = 'many';
SELECT saga.purge('1 s', 1);
BEGIN;
SELECT saga.purge('1 s', 1);
ROLLBACK;
SELECT * FROM test.purges();
SELECT saga.purge('0');
SELECT saga.purge('0');
-- what is older than what was purged now is forgotten, too
SELECT * FROM test.purges();
-- in the transaction that completed it, even; but not before it was announced
BEGIN;
SELECT saga.begin('own') AS own \gset
SELECT saga.begin('own, announced', announce => 'retention_states') AS announced \gset
SELECT saga.complete(:'own'), saga.complete(:'announced');
SELECT saga.purge('0');
SELECT name FROM saga.sagas WHERE id IN (:'own', :'announced');
COMMIT;
SELECT test.rows_of(:'own') AS own, test.rows_of(:'announced') LIKE 'saga%' AS announced;
CALL test.wait_until(format('SELECT to_announce IS NULL FROM saga.ledger_saga WHERE id = %L', :'announced'));
SELECT saga.purge('0');
-- over and over in one statement: what it has purged is not there for it either
CALL test.make_many(4, 'one statement');
SET statement_timeout = '30 s';
SELECT saga.purge('0', 1), saga.purge('0', 2) FROM generate_series(1, 2);
SELECT saga.complete(saga.begin('one statement', 'own')) \gset
SELECT id AS own FROM saga.sagas WHERE name = 'one statement' \gset
CALL test.refuses(format('SELECT saga.purge(''0''), saga.complete_step(%L, ''a'')', :'own'));
SELECT saga.purge('0'), saga.begin('one statement', 'own') <> :'own' AS another;
SELECT state FROM saga.sagas WHERE name = 'one statement';
-- nor is the home of the ledger what it was
SELECT saga.internal_settle_home(), saga.adopt(), saga.internal_settle_home() FROM generate_series(1, 2);
RESET statement_timeout;
-- twice in a transaction, the second time behind the first one's news
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT saga.complete(saga.begin('first'));
SELECT saga.purge('0') > 0 AS purged;
SELECT saga.complete(saga.begin('second')), saga.complete(saga.begin('third'));
SELECT saga.purge('0');
SELECT n, sagas FROM test.purges();
ROLLBACK;

-- One's own; those of others are for superusers and the owner of the database.
CREATE ROLE regress_saga_ann;
CREATE ROLE regress_saga_ben;
CREATE ROLE regress_saga_member IN ROLE regress_saga_ann;
CREATE ROLE regress_saga_operator;
CREATE ROLE regress_saga_dba;
GRANT USAGE ON SCHEMA saga TO regress_saga_ann, regress_saga_ben, regress_saga_operator, regress_saga_dba;
GRANT ALL ON ALL TABLES IN SCHEMA test TO PUBLIC;
SET saga.operator_role = 'regress_saga_operator';
CREATE PROCEDURE test.two_of_each() LANGUAGE plpgsql AS $$
BEGIN
  SET LOCAL ROLE regress_saga_ann;
  PERFORM saga.complete(saga.begin('of ann', i::text)) FROM generate_series(1, 2) i;
  SET LOCAL ROLE regress_saga_ben;
  PERFORM saga.complete(saga.begin('of ben', i::text)) FROM generate_series(1, 2) i;
END $$;
CALL test.two_of_each();
SET ROLE regress_saga_operator;
SELECT saga.purge('0');
SET ROLE regress_saga_ben;
SELECT saga.purge('0');
SET ROLE regress_saga_member;
SELECT saga.purge('0', 1);
SELECT saga.purge('0');
-- who may see the role's sagas, may see that it purged some
SELECT by, sagas FROM test.purges();
SET ROLE regress_saga_ben;
SELECT by, sagas FROM test.purges();
SET ROLE regress_saga_operator;
SELECT by, sagas FROM test.purges();
RESET ROLE;
SELECT count(*) FROM saga.sagas WHERE name LIKE 'of %';
CALL test.two_of_each();
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO regress_saga_dba', current_database()); END $$;
SET ROLE regress_saga_dba;
SELECT saga.purge('0');
RESET ROLE;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO %I', current_database(), current_user); END $$;
CALL test.two_of_each();
SELECT saga.purge('0');

-- Bad input
CALL test.refuses('SELECT saga.purge(NULL)');
CALL test.refuses('SELECT saga.purge(''-1 s'')');
CALL test.refuses('SELECT saga.purge(''1 day'', 0)');
CALL test.refuses('SELECT saga.purge(''1 day'', -5)');
CALL test.refuses('SELECT saga.purge(''10000 years'')');
SELECT saga.purge('99 years');
BEGIN READ ONLY;
CALL test.refuses('SELECT saga.purge(''0'')');
ROLLBACK;

-- ---------------------------------------------------------------------------
-- Redacted: nothing that was put in can be read anywhere; all else stays.
SET saga.capture_settings = 'test.tenant';
SET test.tenant = 'canary tenant';
CREATE FUNCTION test.canary(context jsonb) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'canary of the compensation: %', context -> 'output'; END $$;
SELECT saga.begin('redact', 'parked', '{"canary": "input"}') AS id \gset
INSERT INTO test.named VALUES ('redact, parked', :'id');
SELECT status FROM saga.step(:'id', 'told', notify => 'redact', args => '{"canary": "args"}', output => '{"canary": "output"}');
SELECT status FROM saga.step(:'id', 'in vain', compensation => 'SELECT test.canary($1)', args => '{"canary": "args"}',
  output => '{"canary": "output"}', compensation_retry => saga.retry_policy(2, '10 ms'));
SELECT status FROM saga.step(:'id', 'failed', args => '{"canary": "args"}');
SELECT status FROM saga.fail_step(:'id', 'failed', 'canary of the step');
CALL test.refuses(format('SELECT saga.redact(%L)', :'id'));
SELECT saga.fail(:'id', 'the customer withdrew', '{"canary": "details"}');
CALL test.refuses(format('SELECT saga.redact(%L)', :'id'));
SELECT saga.wait(:'id');
CALL test.refuses(format('SELECT saga.redact(%L)', :'id'));
SELECT saga.resolve(:'id', 'in vain', 'done', 'the bank did it');
CALL test.until_dispatched('redact, parked', 'told');
SELECT attempt, compensation_key FROM saga.claim_compensations('redact') \gset
SELECT saga.fail_compensation(:'compensation_key', :attempt, 'canary of the listener', retryable => false);
SELECT saga.abandon(:'id', 'it is settled');
SELECT saga.begin('redact', 'compensated', '{"canary": "input"}') AS undone \gset
INSERT INTO test.named VALUES ('redact, compensated', :'undone');
SELECT status FROM saga.step(:'undone', 'told', notify => 'redact', args => '{"canary": "args"}', output => '{"canary": "output"}');
SELECT saga.fail(:'undone', 'no', '"canary details"');
CALL test.until_dispatched('redact, compensated', 'told');
SELECT saga.complete_compensation(compensation_key, '{"canary": "of the listener"}') FROM saga.claim_compensations('redact');
SELECT saga.begin('redact', 'completed', '{"canary": "input"}', subject => 'canary 42') AS done \gset
INSERT INTO test.named VALUES ('redact, completed', :'done');
SELECT status FROM saga.step(:'done', 'a', compensation => 'SELECT test.undo($1)', args => '{"canary": "args"}', output => '{"canary": "output"}');
SELECT status FROM saga.step(:'done', 'no args', output => '{"canary": "output"}');
SELECT saga.complete(:'done', '{"canary": "result"}');
SELECT saga.begin('redact', 'no input') AS empty \gset
SELECT saga.complete(:'empty');
CREATE FUNCTION test.canaries() RETURNS TABLE (ledger text, canaries bigint) LANGUAGE sql STABLE AS $$
  SELECT 'saga', count(*) FROM saga.ledger_saga t WHERE t::text LIKE '%canary%' AND name = 'redact' UNION ALL
  SELECT 'step', count(*) FROM saga.ledger_step t WHERE replace(t::text, 'SELECT test.canary($1)', '') LIKE '%canary%' UNION ALL
  SELECT 'attempt', count(*) FROM saga.ledger_attempt t WHERE t::text LIKE '%canary%' UNION ALL
  SELECT 'event', count(*) FROM saga.ledger_event t WHERE t::text LIKE '%canary%'
$$;
SELECT * FROM test.canaries();
SELECT regexp_replace(line, ', "why".*', ' ...') AS line FROM test.story('redact, parked') line;
SELECT saga.redact(:'id'), saga.redact(:'undone'), saga.redact(:'done'), saga.redact(:'empty');
SELECT * FROM test.canaries();
SELECT idempotency_key, subject, state, failure_kind, input, result, reason, details, failed_step, last_completed_step, steps FROM saga.sagas
WHERE name = 'redact' ORDER BY id \gx
SELECT n.name, s.key, s.status, s.output, s.error, s.compensation, s.args, s.compensation_status, s.compensation_attempts, s.last_error
FROM saga.steps s JOIN test.named n ON n.id = saga_id WHERE n.name LIKE 'redact%' ORDER BY seq;
SELECT s.key, phase, attempt, outcome, sqlstate, a.error FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq)
JOIN saga.sagas v ON v.id = saga_id WHERE v.name = 'redact' ORDER BY seq, phase DESC, attempt;
SELECT regexp_replace(line, ', "why".*', ' ...') AS line FROM test.story('redact, parked') line;
-- again: nothing more
SELECT saga.redact(:'id');
SELECT line FROM test.story('redact, parked') line WHERE line LIKE 'redacted%';
-- The keys go on working, by what they stood for.
SELECT saga.begin('redact', 'completed', '{"canary": "input"}') = :'done' AS the_same;
SELECT saga.begin('redact', 'completed', '{ "canary":"input" }') = :'done' AS the_same;
-- What it was about is forgotten, so that nobody is asked for it.
SELECT saga.begin('redact', 'completed', '{"canary": "input"}', subject => 'somebody else') = :'done' AS the_same;
SELECT count(*) FROM saga.sagas WHERE subject IS NOT NULL AND name = 'redact';
CALL test.refuses('SELECT saga.begin(''redact'', ''completed'', ''{"canary": "other"}'')');
CALL test.refuses('SELECT saga.begin(''redact'', ''completed'')');
CALL test.refuses('SELECT saga.begin(''redact'', ''no input'', ''null'')');
CALL test.refuses('SELECT saga.begin(''redact'', ''no input'', ''{}'')');
SELECT saga.begin('redact', 'no input') = :'empty' AS the_same;
SELECT status, output FROM saga.step(:'done', 'a', compensation => 'SELECT test.undo($1)', args => '{"canary": "args"}');
SELECT status, output FROM saga.step(:'done', 'no args');
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L, args => %L)', :'done', 'a', 'SELECT test.undo($1)', '{"canary": "other"}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L)', :'done', 'a', 'SELECT test.undo($1)'));
CALL test.refuses(format('SELECT saga.step(%L, %L, args => %L)', :'done', 'no args', '1'));
SELECT status, output FROM saga.complete_step(:'done', 'a', '{"canary": "output"}');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, %L)', :'done', 'a', '{"canary": "other"}'));
SELECT saga.complete(:'done');
-- Same means as jsonb compares, and nothing else: of every two values, those
-- that are equal pass for each other, as input, as args and as output.
CREATE TABLE test.contents (n integer GENERATED ALWAYS AS IDENTITY, content jsonb);
INSERT INTO test.contents (content) VALUES (NULL), ('null'), ('""'), ('"null"'), ('true'), ('"true"'), ('false'), ('0'), ('"0"'),
  ('5'), ('5.0'), ('5.00'), ('"5"'), ('[5]'), ('[[5]]'), ('["5"]'), ('-5'), ('0.5'), ('50'), ('5e1'),
  ('[]'), ('{}'), ('[[]]'), ('[{}]'), ('[[], []]'), ('[null]'), ('[null, null]'),
  ('[[1, 2], 3]'), ('[[1, 2, 3]]'), ('[1, 2, 3]'), ('[1, [2, 3]]'), ('[12, 3]'), ('["1", "2", "3"]'), ('["1, 2", "3"]'),
  ('{"to": {"iban": "X"}, "cents": 5}'), ('{"to": {"iban": "X", "cents": 5}}'), ('{"cents": 5.0, "to": {"iban": "X"}}'),
  ('{"a": "b"}'), ('["a", "b"]'), ('{"a": {"b": "c"}}'), ('{"a": ["b", "c"]}'), ('{"a": "b", "c": null}'), ('{"a": "bs1:c"}'),
  ('["s1:a", "b"]'), ('["s1:as1:b"]'), ('["a", "s1:b"]');
CREATE TABLE test.redacted AS
  SELECT n, content, saga.begin('same', n::text, content) AS id FROM test.contents;
SELECT count(saga.step(id, 'a', args => content)) FROM test.redacted;
SELECT count(saga.complete_step(id, 'a', content)) FROM test.redacted;
SELECT count(saga.complete(id)) FROM test.redacted;
SELECT count(saga.redact(id)) FROM test.redacted;
CREATE FUNCTION test.passes(call text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE call;
  RETURN true;
EXCEPTION WHEN SQLSTATE 'SG003' THEN
  RETURN false;
END $$;
-- (An output that is not given is not compared.)
SELECT count(*) AS pairs, count(*) FILTER (WHERE same) AS same, count(*) FILTER (WHERE as_input <> same) AS wrong_input,
  count(*) FILTER (WHERE as_args <> same) AS wrong_args, count(*) FILTER (WHERE as_output <> same AND given IS NOT NULL) AS wrong_output
FROM (SELECT r.content IS NOT DISTINCT FROM g.content AS same, g.content AS given,
    test.passes(format('SELECT saga.begin(%L, %L, %L)', 'same', r.n, g.content)) AS as_input,
    test.passes(format('SELECT saga.step(%L, %L, args => %L)', r.id, 'a', g.content)) AS as_args,
    test.passes(format('SELECT saga.complete_step(%L, %L, %L)', r.id, 'a', g.content)) AS as_output
  FROM test.redacted r, test.contents g OFFSET 0) x;
-- What comes in after that is kept until it is redacted once more.
SELECT saga.begin('redact', 'late', '7') AS late \gset
SELECT status FROM saga.step(:'late', 'a', compensation => 'SELECT test.undo($1)', args => '1');
SELECT saga.fail(:'late');
SELECT saga.wait(:'late');
SELECT saga.redact(:'late');
SELECT status FROM saga.complete_step(:'late', 'a', '"canary"', late => 'record');
-- (and until then it is compared)
SELECT status FROM saga.complete_step(:'late', 'a', '"canary"', late => 'record');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, %L, late => %L)', :'late', 'a', '"other"', 'record'));
CALL test.refuses(format('SELECT saga.redact(%L)', :'late'));
SELECT saga.resolve(:'late', 'a', 'skip', 'n');
SELECT saga.redact(:'late');
SELECT status, output FROM saga.complete_step(:'late', 'a', '"canary"', late => 'record');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, %L, late => %L)', :'late', 'a', '"other"', 'record'));
SELECT * FROM test.canaries() WHERE canaries > 0;
SELECT saga.begin('redact', 'late', '7') = :'late' AS the_same;
CALL test.refuses('SELECT saga.begin(''redact'', ''late'')');
-- A finished saga can be redacted at once, although it is yet to be announced;
-- and rolled back, it was not.
BEGIN;
SELECT saga.begin('redact', 'announced', '1', announce => 'retention_states') AS announced \gset
SELECT saga.complete(:'announced');
SELECT saga.redact(:'announced');
ROLLBACK;
BEGIN;
SELECT saga.begin('redact', 'once', '1') AS once \gset
SELECT saga.complete(:'once');
SAVEPOINT s;
SELECT saga.redact(:'once');
ROLLBACK TO s;
COMMIT;
SELECT input FROM saga.sagas WHERE id = :'once';
CALL test.refuses('SELECT saga.redact(NULL)');
SELECT saga.purge('0') > 0 AS purged;

-- ---------------------------------------------------------------------------
-- By the worker, of its own accord, when saga.retention says so
CALL test.make_many(450, 'kept');
SELECT saga.begin('kept', 'running') AS running \gset
SELECT saga.begin('kept', 'parked') AS parked \gset
SELECT status FROM saga.step(:'parked', 'a', review => 'look');
SELECT saga.fail(:'parked');
SELECT saga.wait(:'parked');
ALTER SYSTEM SET saga.retention = '1d';
SELECT pg_reload_conf();
SELECT test.advance('23 hours');
CALL test.make_many(10, 'younger');
SELECT test.advance('2 hours');
CALL test.wait_until('SELECT count(*) = 2 FROM saga.sagas WHERE name = ''kept''');
SELECT idempotency_key, state FROM saga.sagas WHERE name = 'kept' ORDER BY id;
SELECT count(*) FROM saga.sagas WHERE name = 'younger';
SELECT (SELECT count(*) FROM saga.ledger_step t WHERE NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = t.saga)) AS steps,
  (SELECT count(*) FROM saga.ledger_attempt t WHERE NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = t.saga)) AS attempts,
  (SELECT count(*) FROM saga.ledger_event t WHERE NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = t.saga) AND event <> 'purged') AS events;
-- what it purged, a batch at a time, is told like anybody's purge
SELECT by, count(*) > 1 AS in_batches, sum(sagas) >= 450 AS all_of_them
FROM saga.purges WHERE at > (SELECT max(finished_at) FROM saga.sagas WHERE name = 'younger') GROUP BY 1;
-- ... again and again, without being asked
SELECT test.advance('1 day');
CALL test.wait_until('SELECT count(*) = 0 FROM saga.sagas WHERE name = ''younger''');
ALTER SYSTEM RESET saga.retention;
SELECT pg_reload_conf();

-- After all that, the ledger is in order.
TRUNCATE test.named;
CALL test.check();
RESET saga.operator_role;
RESET saga.capture_settings;
DROP OWNED BY regress_saga_ann, regress_saga_ben, regress_saga_member, regress_saga_operator, regress_saga_dba;
DROP ROLE regress_saga_ann, regress_saga_ben, regress_saga_member, regress_saga_operator, regress_saga_dba;
