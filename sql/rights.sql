-- Rights: who may call, who may read, and that a stranger learns nothing.  The
-- numbers are those of doc/security.md; more of them in security.sql.
\set ECHO none
\i sql/include/patient.sql
\i sql/include/helpers.sql
\set ECHO all

CREATE ROLE regress_saga_alice LOGIN;
CREATE ROLE regress_saga_bob LOGIN;
CREATE ROLE regress_saga_carol LOGIN IN ROLE regress_saga_alice;
CREATE ROLE regress_saga_dave LOGIN NOINHERIT IN ROLE regress_saga_alice;
CREATE ROLE regress_saga_monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE regress_saga_auditor LOGIN IN ROLE pg_read_all_data;
CREATE ROLE regress_saga_writer LOGIN IN ROLE pg_write_all_data, pg_read_all_data;
CREATE ROLE regress_saga_operators;
CREATE ROLE regress_saga_operator LOGIN IN ROLE regress_saga_operators;
CREATE ROLE regress_saga_batch;
CREATE ROLE regress_saga_outside LOGIN;
GRANT regress_saga_batch TO regress_saga_alice;

-- USAGE on the schema is the gate.
SET ROLE regress_saga_outside;
SELECT saga.begin('order');
SELECT count(*) FROM saga.sagas;
RESET ROLE;
GRANT USAGE ON SCHEMA saga TO regress_saga_alice, regress_saga_bob, regress_saga_dave, regress_saga_monitor,
  regress_saga_auditor, regress_saga_writer, regress_saga_operator, regress_saga_batch;

SET ROLE regress_saga_alice;
SELECT saga.begin('alice', 'key', '{"secret": "input"}') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo($1) /* secret */', args => '{"secret": "args"}',
  output => '{"secret": "output"}');
SELECT status FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 1, $$SG006$$)');
SELECT status FROM saga.fail_step(:'id', 'b', 'secret error');
SELECT saga.begin('alice', 'parked', '{"secret": "input"}') AS parked \gset
SELECT status FROM saga.step(:'parked', 'a', args => '"secret"', output => '"secret"', compensation => 'SELECT ''secret''');
SELECT status FROM saga.step(:'parked', 'b', review => 'secret review');
SELECT status FROM saga.fail_step(:'parked', 'b', 'secret error');
SELECT saga.fail(:'parked', 'secret reason', '"secret details"');
SELECT saga.wait(:'parked');
SELECT saga.begin('alice', 'completed') AS completed \gset
SELECT saga.complete(:'completed', '"secret result"');
RESET ROLE;

-- N8: a stranger gets SG001 for every call, in the words of a saga that is not there.
CREATE PROCEDURE test.strange(id uuid) LANGUAGE plpgsql AS $$
DECLARE
  call text;
BEGIN
  FOREACH call IN ARRAY ARRAY['saga.step(%L, ''a'')', 'saga.step(%L, ''new'')', 'saga.complete_step(%L, ''a'')',
    'saga.complete_step(%L, ''a'', late => ''record'')', 'saga.complete_step(%L, ''a'', forward_key => ''x'')',
    'saga.fail_step(%L, ''a'', ''e'')', 'saga.complete(%L)', 'saga.fail(%L)', 'saga.cancel(%L)', 'saga.wait(%L, ''0'')'] LOOP
    CALL test.refuses(format('SELECT ' || call, id));
  END LOOP;
END $$;
SET ROLE regress_saga_bob;
CALL test.strange(:'id');
CALL test.strange('01900000-0000-7000-8000-000000000000');
SELECT count(*) FROM saga.sagas;
SELECT count(*) FROM saga.steps;
SELECT count(*) FROM saga.attempts;
SELECT count(*) FROM saga.events;
SELECT count(*) FROM saga.pending_compensations;
-- nor by a key that is another's
SELECT saga.begin('alice', 'key', '"other input"') <> :'id' AS another;
-- nor by the functions behind the views
SELECT saga.internal_is_running(:'id', 1), saga.internal_may_see('regress_saga_alice'::regrole, 'regress_saga_alice');
SELECT saga.internal_next_action(:'parked', 'u', false, NULL, NULL, NULL, NULL, NULL)
  = saga.internal_next_action('01900000-0000-7000-8000-000000000000', 'u', false, NULL, NULL, NULL, NULL, NULL) AS the_same;
RESET ROLE;
-- ... not even while they would know more of it
SELECT pg_advisory_lock(48);
SET ROLE regress_saga_alice;
SELECT saga.begin('alice', 'running') AS running \gset
SELECT seq FROM saga.step(:'running', 'a', compensation => 'SELECT pg_advisory_xact_lock(48)') \gset
SELECT saga.fail(:'running');
CALL test.wait_until(format('SELECT saga.internal_is_running(%L, %s) AND EXISTS (SELECT FROM saga.running WHERE cardinality(blocked_by) > 0)', :'running', :seq));
SELECT test.mask(saga.internal_next_action(:'running', 'u', false, NULL, NULL, NULL, 'a', NULL)) AS internal_next_action;
SET ROLE regress_saga_bob;
SELECT saga.internal_is_running(:'running', :seq);
SELECT saga.internal_next_action(:'running', 'u', false, NULL, NULL, NULL, 'a', NULL)
  = saga.internal_next_action('01900000-0000-7000-8000-000000000000', 'u', false, NULL, NULL, NULL, 'a', NULL) AS the_same;
RESET ROLE;
SELECT pg_advisory_unlock(48);
SELECT saga.wait(:'running');
SET ROLE regress_saga_bob;
-- nor by a function of his own that the planner would like to call first
CREATE FUNCTION pg_temp.leak(what anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
  RAISE NOTICE 'leaked %', what;
  RETURN true;
END $$;
SELECT id FROM saga.sagas WHERE name = 'alice' AND input <> '"other input"' AND pg_temp.leak(input);
SELECT count(*) FROM saga.steps WHERE pg_temp.leak(args);
SELECT count(*) FROM saga.events WHERE pg_temp.leak(detail);
RESET ROLE;

-- N16: whoever has the rights of the owner may call; who must SET ROLE first, may not.
SET ROLE regress_saga_carol;
SELECT status, attempt FROM saga.step(:'id', 'b', compensation => 'SELECT test.undo_after($1, 1, $$SG006$$)');
SELECT status FROM saga.step(:'id', 'c', compensation => 'SELECT test.undo($1)');
SELECT key, run_as FROM saga.steps WHERE saga_id = :'id' ORDER BY position;
SELECT input FROM saga.sagas WHERE id = :'id';
RESET ROLE;
SET ROLE regress_saga_dave;
CALL test.refuses(format('SELECT saga.wait(%L, %L)', :'id', '0'));
SELECT count(*) FROM saga.sagas;
RESET ROLE;

-- N16: other readers: pg_monitor sees the outline, without payloads and errors;
-- pg_read_all_data and operators see all.  None of them may call.
CREATE FUNCTION test.hides_secrets() RETURNS TABLE (view text, rows bigint, secrets bigint) LANGUAGE sql AS $$
  SELECT 'sagas', count(*), count(*) FILTER (WHERE s::text LIKE '%secret%') FROM saga.sagas s WHERE s.owner::text = 'regress_saga_alice' UNION ALL
  SELECT 'steps', count(*), count(*) FILTER (WHERE s::text LIKE '%secret%') FROM saga.steps s WHERE s.run_as::text IN ('regress_saga_alice', 'regress_saga_carol') UNION ALL
  SELECT 'attempts', count(*), count(*) FILTER (WHERE a::text LIKE '%secret%') FROM saga.attempts a WHERE EXISTS
    (SELECT FROM saga.sagas s WHERE s.id = a.saga_id AND s.owner::text = 'regress_saga_alice') UNION ALL
  SELECT 'events', count(*), count(*) FILTER (WHERE e::text LIKE '%secret%') FROM saga.events e WHERE EXISTS
    (SELECT FROM saga.sagas s WHERE s.id = e.saga_id AND s.owner::text = 'regress_saga_alice')
$$;
SET saga.operator_role = 'regress_saga_operators';
SET ROLE regress_saga_alice;
SELECT * FROM test.hides_secrets();
SET ROLE regress_saga_monitor;
SELECT * FROM test.hides_secrets();
SELECT name, idempotency_key, state, owner, input, result, reason, details, failed_step, next_action FROM saga.sagas WHERE id = :'parked' \gx
SELECT key, status, output, error, compensation_kind, compensation, args, review, compensation_status, last_error, parked
FROM saga.steps WHERE saga_id = :'parked' ORDER BY position;
SELECT phase, attempt, outcome, error FROM saga.attempts WHERE saga_id = :'parked' ORDER BY seq;
SELECT event, step, detail FROM saga.events WHERE saga_id = :'parked' ORDER BY position;
CALL test.refuses(format('SELECT saga.fail(%L)', :'id'));
SET ROLE regress_saga_auditor;
SELECT * FROM test.hides_secrets();
CALL test.refuses(format('SELECT saga.fail(%L)', :'id'));
SET ROLE regress_saga_operator;
SELECT * FROM test.hides_secrets();
CALL test.refuses(format('SELECT saga.fail(%L)', :'id'));
CALL test.refuses(format('SELECT saga.step(%L, %L)', :'id', 'new'));
RESET ROLE;
RESET saga.operator_role;
SET ROLE regress_saga_operator;
SELECT * FROM test.hides_secrets();
RESET ROLE;

-- N12: inside SECURITY DEFINER the definer is the owner, and run_as.
CREATE FUNCTION test.definer_begins() RETURNS uuid LANGUAGE sql SECURITY DEFINER
AS $$SELECT t.saga_id FROM saga.begin('definer') s, LATERAL saga.step(s, 'a', compensation => 'SELECT 1') t$$;
ALTER FUNCTION test.definer_begins() OWNER TO regress_saga_alice;
SET ROLE regress_saga_bob;
SELECT test.definer_begins() AS definer \gset
CALL test.refuses(format('SELECT saga.fail(%L)', :'definer'));
RESET ROLE;
SELECT owner, run_as FROM saga.sagas s JOIN saga.steps t ON saga_id = id WHERE id = :'definer';

-- N13: a role that cannot log in cannot register SQL where an executor could not
-- connect as it (before 17); the rest needs no login.
SET ROLE regress_saga_batch;
SELECT saga.begin('batch') AS batch \gset
DO $$
DECLARE
  saga uuid := id FROM saga.sagas WHERE name = 'batch';
  refused boolean := false;
  message text;
  detail text;
  hint text;
BEGIN
  BEGIN
    PERFORM saga.step(saga, 'a', compensation => 'SELECT 1');
  EXCEPTION WHEN SQLSTATE 'SG010' THEN
    GET STACKED DIAGNOSTICS message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    refused := message = 'role "regress_saga_batch" cannot run an action or a SQL compensation because it cannot log in'
      AND detail = 'The SQL runs in a process that connects as this role.'
      AND hint ~ '^ALTER ROLE regress_saga_batch LOGIN PASSWORD NULL lets it connect without giving anybody a password; ';
  END;
  RAISE INFO 'refused where it could not run: %', refused = (current_setting('server_version_num')::integer < 170000);
END $$;
SELECT status FROM saga.step(:'batch', 'b', notify => 'c');
SELECT status FROM saga.step(:'batch', 'c', review => 'look');
SELECT status FROM saga.step(:'batch', 'd');
RESET ROLE;

-- N1: superusers' SQL, where that is not allowed
SET saga.allow_superuser = off;
SELECT saga.begin('super') AS super \gset
CALL test.refuses(format('SELECT saga.step(%L, %L, compensation => %L)', :'super', 'a', 'SELECT 1'));
SELECT status FROM saga.step(:'super', 'a', notify => 'c');
RESET saga.allow_superuser;

-- N1: the compensation runs as the role that registered it, each as its own.
CREATE TABLE test.who (n bigint GENERATED ALWAYS AS IDENTITY, step text, users text);
GRANT INSERT ON test.who TO PUBLIC;
SET ROLE regress_saga_alice;
SELECT saga.begin('who') AS who \gset
SELECT status FROM saga.step(:'who', 'alice', compensation => $$INSERT INTO test.who (step, users)
  VALUES ($1 #>> '{step,key}', current_user || ' ' || session_user)$$);
SET ROLE regress_saga_carol;
SELECT status FROM saga.step(:'who', 'carol', compensation => $$INSERT INTO test.who (step, users)
  VALUES ($1 #>> '{step,key}', current_user || ' ' || session_user)$$);
RESET ROLE;
SELECT status FROM saga.step(:'who', 'superuser', compensation => $$INSERT INTO test.who (step, users)
  VALUES ($1 #>> '{step,key}', replace(current_user || ' ' || session_user, (SELECT rolname FROM pg_roles WHERE oid = 10), 'superuser'))$$);
SET ROLE regress_saga_carol;
SELECT saga.fail(:'who');
SELECT saga.wait(:'who');
RESET ROLE;
SELECT step, users FROM test.who ORDER BY n;
-- and has no more rights than it
SET ROLE regress_saga_alice;
SELECT saga.begin('reaches too far') AS far \gset
SELECT status FROM saga.step(:'far', 'a', compensation => 'DELETE FROM test.who', compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT saga.fail(:'far');
SELECT saga.wait(:'far');
SELECT next_action FROM saga.sagas WHERE id = :'far';
RESET ROLE;

-- N13: a role that is gone, or another under its name: parked, never another identity
CREATE ROLE regress_saga_gone LOGIN;
GRANT USAGE ON SCHEMA saga TO regress_saga_gone;
SET ROLE regress_saga_gone;
SELECT saga.begin('gone') AS gone \gset
SELECT status FROM saga.step(:'gone', 'a', compensation => 'SELECT 1');
RESET ROLE;
REVOKE USAGE ON SCHEMA saga FROM regress_saga_gone;
DROP ROLE regress_saga_gone;
CREATE ROLE regress_saga_gone LOGIN;
GRANT USAGE ON SCHEMA saga TO regress_saga_gone;
SET ROLE regress_saga_gone;
CALL test.refuses(format('SELECT saga.fail(%L)', :'gone'));
RESET ROLE;
SELECT saga.fail(:'gone');
SELECT saga.wait(:'gone');
SELECT regexp_replace(owner::text, '\d+', '<oid>') AS owner, next_action FROM saga.sagas WHERE id = :'gone';

-- N15: adopt is not for everyone.
SET ROLE regress_saga_bob;
CALL test.refuses('SELECT saga.adopt()');
CALL test.refuses('SELECT saga.internal_settle_home()');
CALL test.refuses('SET saga.allow_superuser = on');
CALL test.refuses('SET saga.max_payload = 1000');
CALL test.refuses('SET saga.max_open_sagas = 0');
CALL test.refuses('SET saga.operator_role = regress_saga_bob');
CALL test.refuses('SET saga.enabled = off');
CALL test.refuses('SET saga.no_such_setting = 1');
SET saga.max_attempts = 3;
RESET ROLE;

-- N4: the physical tables: no privileges, for nobody
SELECT relname, (SELECT string_agg(DISTINCT grantee::regrole::text, ', ') FROM aclexplode(relacl) WHERE grantee <> relowner) AS grantees
FROM pg_class WHERE relnamespace = 'saga'::regnamespace AND relkind IN ('r', 'S') ORDER BY 1;
SELECT count(*) FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid WHERE relnamespace = 'saga'::regnamespace AND attacl IS NOT NULL;
SELECT relname FROM pg_class WHERE relnamespace = 'saga'::regnamespace AND (relrowsecurity OR relforcerowsecurity);
SET ROLE regress_saga_bob;
CALL test.refuses('SELECT count(*) FROM saga.ledger_saga');
CALL test.refuses('SELECT count(*) FROM saga.ledger_step');
CALL test.refuses('UPDATE saga.ledger_saga SET paused = true');
CALL test.refuses($$SELECT nextval('saga.start_order')$$);
CALL test.refuses('CREATE TRIGGER t AFTER INSERT ON saga.ledger_step FOR EACH ROW EXECUTE FUNCTION saga.internal_guard()');
CALL test.refuses('CREATE RULE r AS ON INSERT TO saga.ledger_step DO ALSO SELECT 1');
CALL test.refuses('CREATE TABLE saga.mine ()');
CALL test.refuses('CREATE TRIGGER t INSTEAD OF INSERT ON saga.sagas FOR EACH ROW EXECUTE FUNCTION saga.internal_guard()');
CALL test.refuses('INSERT INTO saga.sagas DEFAULT VALUES');
CALL test.refuses('UPDATE saga.sagas SET paused = true');
CALL test.refuses('DELETE FROM saga.steps');
RESET ROLE;

-- N5: pg_write_all_data has the privilege, but the guard refuses it.
SET ROLE regress_saga_writer;
CALL test.refuses('UPDATE saga.ledger_saga SET paused = true');
CALL test.refuses('DELETE FROM saga.ledger_saga');
CALL test.refuses($$INSERT INTO saga.ledger_due VALUES (0, now(), '01900000-0000-7000-8000-000000000000', 0)$$);
CALL test.refuses('UPDATE saga.ledger_step SET compensation = $$SELECT 1$$');
CALL test.refuses('DELETE FROM saga.ledger_attempt');
CALL test.refuses('DELETE FROM saga.ledger_event');
CALL test.refuses('UPDATE saga.ledger_home SET copied = true');
CALL test.refuses('MERGE INTO saga.ledger_saga s USING saga.ledger_home h ON true WHEN MATCHED THEN UPDATE SET paused = true');
CALL test.refuses('TRUNCATE saga.ledger_saga');
COPY saga.ledger_due FROM STDIN;
0	2000-01-01 00:00:00+00	01900000-0000-7000-8000-000000000000	0	\N	\N
\.
RESET ROLE;
-- replication mode does not get around it
CREATE ROLE regress_saga_replica LOGIN IN ROLE pg_write_all_data;
GRANT USAGE ON SCHEMA saga TO regress_saga_replica;
SET session_replication_role = replica;
SET ROLE regress_saga_replica;
CALL test.refuses('DELETE FROM saga.ledger_home');
RESET ROLE;
RESET session_replication_role;
GRANT TRUNCATE ON saga.ledger_saga, saga.ledger_step TO regress_saga_replica;
SET ROLE regress_saga_replica;
CALL test.refuses('TRUNCATE saga.ledger_saga');
CALL test.refuses('TRUNCATE saga.ledger_step');
RESET ROLE;
REVOKE TRUNCATE ON saga.ledger_saga, saga.ledger_step FROM regress_saga_replica;
-- A superuser may write; the ledger is a copy then, and holds still until adopted.
SELECT copied FROM saga.ledger_home;
UPDATE saga.ledger_saga SET paused = paused WHERE id = :'id';
SELECT copied FROM saga.ledger_home;
SELECT saga.begin('held still') AS held \gset
SELECT status FROM saga.step(:'held', 'a', compensation => 'SELECT test.undo($1)');
SELECT saga.fail(:'held');
SELECT next_action FROM saga.sagas WHERE id = :'held';
CALL test.refuses(format('SELECT saga.wait(%L)', :'held'));
SELECT saga.adopt();
SELECT copied FROM saga.ledger_home;
SELECT saga.wait(:'held');
-- Also if a savepoint was rolled back after the first row, and after an adoption in between.
BEGIN;
SAVEPOINT loaded;
UPDATE saga.ledger_saga SET paused = paused WHERE id = :'id';
ROLLBACK TO loaded;
UPDATE saga.ledger_saga SET paused = paused WHERE id = :'id';
COMMIT;
SELECT copied FROM saga.ledger_home;
BEGIN;
UPDATE saga.ledger_saga SET paused = paused WHERE id = :'id';
SELECT saga.adopt();
UPDATE saga.ledger_saga SET paused = paused WHERE id = :'id';
COMMIT;
SELECT copied FROM saga.ledger_home;
SELECT saga.adopt();

-- N5: the start order may be tampered with; the order of no saga changes.
SELECT saga.begin('tampered') AS tampered \gset
SELECT status FROM saga.step(:'tampered', 'a', completed => true);
SELECT status FROM saga.step(:'tampered', 'b', completed => true);
SET ROLE regress_saga_writer;
SELECT setval('saga.start_order', 1) \g (format=unaligned tuples_only=on)
RESET ROLE;
SELECT status FROM saga.step(:'tampered', 'c', completed => true);
SELECT status FROM saga.step(:'tampered', 'd', completed => true);
SELECT position, key FROM saga.steps WHERE saga_id = :'tampered' ORDER BY position;
SELECT last_value > (SELECT max(seq) FROM saga.steps WHERE saga_id = :'tampered' AND key = 'b') AS moved_past FROM saga.start_order;
\set ECHO none
\i sql/include/drop_roles.sql
\i sql/include/impatient.sql
