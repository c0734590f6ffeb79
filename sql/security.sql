-- Attacks from inside one session: what a role may not plant, write, call, read
-- or guess.  The numbers are those of doc/security.md.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

CREATE ROLE regress_saga_s_alice LOGIN;
CREATE ROLE regress_saga_s_carol LOGIN IN ROLE regress_saga_s_alice;
CREATE ROLE regress_saga_s_dave LOGIN NOINHERIT IN ROLE regress_saga_s_alice;
CREATE ROLE regress_saga_s_bob LOGIN;
CREATE ROLE regress_saga_s_auditor LOGIN IN ROLE pg_read_all_data;
CREATE ROLE regress_saga_s_monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE regress_saga_s_operators;
CREATE ROLE regress_saga_s_operator LOGIN IN ROLE regress_saga_s_operators;
CREATE ROLE regress_saga_s_writer LOGIN IN ROLE pg_write_all_data, pg_read_all_data;
CREATE ROLE regress_saga_s_bypass LOGIN BYPASSRLS CREATEDB CREATEROLE REPLICATION;
CREATE ROLE regress_saga_s_granted LOGIN;
CREATE ROLE regress_saga_s_dba LOGIN;
GRANT USAGE ON SCHEMA saga TO regress_saga_s_alice, regress_saga_s_dave, regress_saga_s_bob, regress_saga_s_auditor, regress_saga_s_monitor,
  regress_saga_s_operator, regress_saga_s_writer, regress_saga_s_bypass, regress_saga_s_granted, regress_saga_s_dba;
-- The owner of the database, who is no superuser
SELECT pg_get_userbyid(datdba) AS database_owner FROM pg_database WHERE datname = current_database() \gset
ALTER DATABASE :"DBNAME" OWNER TO regress_saga_s_dba;

-- What becomes of a statement, whose effect is taken back.
CREATE FUNCTION test.outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE statement;
  RAISE SQLSTATE 'ZZ000';
EXCEPTION
  WHEN SQLSTATE 'ZZ000' THEN RETURN 'ok';
  WHEN OTHERS THEN RETURN SQLSTATE;
END $$;
-- The same with the words
CREATE FUNCTION test.answer(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  words text;
  more text;
  advice text;
BEGIN
  EXECUTE statement;
  RAISE SQLSTATE 'ZZ000';
EXCEPTION
  WHEN SQLSTATE 'ZZ000' THEN RETURN 'ok';
  WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS words = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE, test.mask(words), test.mask(more), test.mask(advice));
END $$;

-- The same with the value that it answered
CREATE FUNCTION test.value(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text;
BEGIN
  EXECUTE statement INTO answer;
  RAISE SQLSTATE 'ZZ000';
EXCEPTION
  WHEN SQLSTATE 'ZZ000' THEN RETURN answer;
  WHEN OTHERS THEN RETURN SQLSTATE;
END $$;

-- Sagas of alice, in all conditions, with secrets wherever there is room for
-- one; every table of the ledger has a row.
CREATE TABLE test.id (what text PRIMARY KEY, id uuid);
GRANT SELECT, INSERT ON test.id TO PUBLIC;
SET ROLE regress_saga_s_alice;
CREATE PROCEDURE pg_temp.record() LANGUAGE plpgsql AS $$
DECLARE
  s uuid;
BEGIN
  s := saga.begin('security', 'running', '"secret input"', timeout => '1 day');
  INSERT INTO test.id VALUES ('running', s);
  PERFORM saga.step(s, 'a', args => '"secret args"', output => '"secret output"', compensation => 'SELECT ''secret compensation''');
  PERFORM saga.step(s, 'b', review => 'secret review', retry => saga.retry_policy(max_attempts => 1));
  PERFORM saga.fail_step(s, 'b', 'secret error');
  PERFORM saga.step(s, 'c');
  s := saga.begin('security', 'parked', '"secret input"');
  INSERT INTO test.id VALUES ('parked', s);
  PERFORM saga.step(s, 'a', args => '"secret args"', output => '"secret output"', compensation => 'SELECT ($1->>''args'')::integer',
    compensation_retry => saga.retry_policy(max_attempts => 1));
  PERFORM saga.fail(s, 'secret reason', '"secret details"');
  s := saga.begin('security', 'pivot');
  INSERT INTO test.id VALUES ('pivot', s);
  PERFORM saga.step(s, 'a', kind => 'pivot', output => '"secret output"');
  PERFORM saga.fail(s, 'secret reason');
  s := saga.begin('security', 'finished', '"secret input"');
  INSERT INTO test.id VALUES ('finished', s);
  PERFORM saga.step(s, 'a', args => '"secret args"', output => '"secret output"');
  PERFORM saga.complete(s, '"secret result"');
  s := saga.begin('security', 'waiting');
  INSERT INTO test.id VALUES ('waiting', s);
  PERFORM saga.step(s, 'a', notify => 'security', args => '"secret args"');
  PERFORM saga.fail(s);
  s := saga.begin('security', 'claimed');
  INSERT INTO test.id VALUES ('claimed', s);
  PERFORM saga.step(s, 'a', notify => 'security', args => '"secret args"');
  PERFORM saga.fail(s);
END $$;
CALL pg_temp.record();
CALL test.wait_until($$SELECT count(*) = 2 FROM saga.pending_compensations WHERE channel = 'security'$$);
CALL test.wait_until($$SELECT count(*) = 2 FROM saga.review_queue$$);
-- one of the two is claimed, whichever comes first, under a limit
SELECT saga.limit('security', 1000);
SELECT saga.signal(id, 'secret signal', '"secret payload"') FROM test.id WHERE what = 'running';
SELECT saga_id AS claimed FROM saga.claim_compensations('security', 1, '1 hour', 'secret consumer') \gset
RESET ROLE;
CALL test.wait_until('SELECT count(*) = 0 FROM saga.ledger_due WHERE seq < 0');
UPDATE test.id SET what = CASE WHEN id = :'claimed' THEN 'claimed' ELSE 'waiting' END || '!' WHERE what IN ('claimed', 'waiting');
UPDATE test.id SET what = rtrim(what, '!');
CREATE FUNCTION test.named(what text) RETURNS uuid LANGUAGE sql STABLE AS 'SELECT i.id FROM test.id i WHERE i.what = $1';
-- Since its first saga: those of the tests before may be due by now.
CREATE FUNCTION test.ledger() RETURNS TABLE (relation text, rows bigint, digest text) LANGUAGE plpgsql AS $$
BEGIN
  FOR relation IN SELECT c.oid::regclass::text FROM pg_class c WHERE relnamespace = 'saga'::regnamespace AND relkind = 'r' ORDER BY 1 LOOP
    EXECUTE format('SELECT count(*), md5(string_agg(t::text, '','' ORDER BY t::text)) FROM %s t WHERE coalesce(to_jsonb(t)->>''saga'', to_jsonb(t)->>''id'', ''home'') >= %L',
      relation, test.named('running')) INTO rows, digest;
    RETURN NEXT;
  END LOOP;
END $$;
CREATE TABLE test.ledger_before AS SELECT * FROM test.ledger();
SELECT relation FROM test.ledger_before WHERE rows = 0;

-- ---------------------------------------------------------------------------
-- N4: nobody plants anything on the extension's objects, nor changes them
-- ---------------------------------------------------------------------------

CREATE FUNCTION test.evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION test.evil_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE TABLE test.plant (attempt text, relkind "char");
INSERT INTO test.plant
  SELECT attempt, 'r'::"char" FROM unnest(ARRAY[
    'CREATE TRIGGER evil BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION test.evil()',
    'CREATE TRIGGER evil AFTER TRUNCATE ON %s EXECUTE FUNCTION test.evil()',
    'CREATE RULE evil AS ON INSERT TO %s DO ALSO NOTIFY evil',
    'CREATE RULE evil AS ON DELETE TO %s DO INSTEAD NOTHING',
    'CREATE POLICY evil ON %s USING (false)',
    'ALTER TABLE %s ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE %s DISABLE TRIGGER ALL',
    'ALTER TABLE %s ENABLE REPLICA TRIGGER guard',
    'DROP TRIGGER guard ON %s',
    'ALTER TABLE %s ADD COLUMN evil text DEFAULT current_user',
    'ALTER TABLE %s ADD CHECK (pg_notify(''evil'', '''') IS NULL)',
    'ALTER TABLE %s OWNER TO CURRENT_USER',
    'ALTER TABLE %s SET SCHEMA public',
    'ALTER TABLE %s RENAME TO evil',
    'ALTER TABLE %s REPLICA IDENTITY FULL',
    'CREATE INDEX evil ON %s ((current_user))',
    'CREATE TABLE test.evil () INHERITS (%s)',
    'CREATE TABLE test.evil (evil uuid REFERENCES %s)',
    'CREATE PUBLICATION evil FOR TABLE %s',
    'COMMENT ON TABLE %s IS ''evil''',
    'DROP TABLE %s CASCADE']) attempt
  UNION ALL SELECT attempt, 'v'::"char" FROM unnest(ARRAY[
    'CREATE OR REPLACE VIEW %s AS SELECT 1',
    'ALTER VIEW %s SET (security_barrier = false)',
    'ALTER VIEW %s OWNER TO CURRENT_USER',
    'CREATE TRIGGER evil INSTEAD OF INSERT ON %s FOR EACH ROW EXECUTE FUNCTION test.evil()',
    'CREATE RULE evil AS ON INSERT TO %s DO INSTEAD NOTHING',
    'DROP VIEW %s CASCADE',
    'DELETE FROM %s']) attempt
  UNION ALL SELECT attempt, 'S'::"char" FROM unnest(ARRAY[
    'ALTER SEQUENCE %s RESTART', 'ALTER SEQUENCE %s CACHE 100 CYCLE', 'ALTER SEQUENCE %s OWNER TO CURRENT_USER', 'DROP SEQUENCE %s CASCADE']) attempt
  UNION ALL SELECT attempt, 'x'::"char" FROM unnest(ARRAY[
    'CREATE TABLE saga.evil ()',
    'CREATE FUNCTION saga.fail(uuid) RETURNS text LANGUAGE sql AS ''SELECT 1''',
    'CREATE OPERATOR saga.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = pg_catalog.uuid_ne)',
    'CREATE TYPE saga.evil AS ENUM ()',
    'CREATE OR REPLACE FUNCTION saga.internal_may_read(owner oid, owner_name text) RETURNS boolean LANGUAGE sql AS ''SELECT true''',
    'ALTER FUNCTION saga.internal_may_read(oid, text) SET search_path = evil',
    'ALTER FUNCTION saga.adopt() OWNER TO CURRENT_USER',
    'DROP FUNCTION saga.adopt()',
    'ALTER TYPE saga.retry_policy ADD ATTRIBUTE evil text',
    'ALTER SCHEMA saga OWNER TO CURRENT_USER',
    'ALTER SCHEMA saga RENAME TO evil',
    'DROP SCHEMA saga CASCADE',
    'ALTER EXTENSION saga DROP TABLE saga.ledger_saga',
    'ALTER EXTENSION saga UPDATE',
    'DROP EXTENSION saga CASCADE',
    'CREATE EVENT TRIGGER evil ON ddl_command_end EXECUTE FUNCTION test.evil_event()']) attempt;
GRANT SELECT ON test.plant TO PUBLIC;
CREATE FUNCTION test.plants() RETURNS TABLE (as_role name, attempts bigint, denied bigint, else_than_denied text) LANGUAGE sql AS $$
  SELECT current_user, count(*), count(*) FILTER (WHERE outcome = '42501'),
    string_agg(concat_ws(': ', statement, outcome), E'\n' ORDER BY statement) FILTER (WHERE outcome <> '42501')
  FROM (
    SELECT statement, test.outcome(statement) AS outcome FROM (
      SELECT format(attempt, c.oid::regclass) AS statement FROM test.plant p JOIN pg_class c USING (relkind)
      WHERE relnamespace = 'saga'::regnamespace
      UNION ALL SELECT attempt FROM test.plant WHERE relkind = 'x') s) o
$$;
GRANT CREATE ON SCHEMA test TO PUBLIC;
CREATE FUNCTION test.catalog() RETURNS text LANGUAGE sql AS $$
  SELECT md5(string_agg(what, E'\n' ORDER BY what)) FROM (
    SELECT c::text FROM (SELECT oid, relname, relowner, relacl, relhasrules, relhastriggers, relrowsecurity, relhassubclass, reloptions
      FROM pg_class WHERE relnamespace = 'saga'::regnamespace) c UNION ALL
    SELECT p::text FROM (SELECT oid, proname, proowner, proacl, prosrc, proconfig, prosecdef FROM pg_proc WHERE pronamespace = 'saga'::regnamespace) p UNION ALL
    SELECT t::text FROM (SELECT tgrelid, tgname, tgenabled, tgfoid FROM pg_trigger) t UNION ALL
    SELECT n::text FROM pg_namespace n WHERE nspname = 'saga') x (what)
$$;
SELECT test.catalog() AS catalog \gset
SET ROLE regress_saga_s_bob;
SELECT * FROM test.plants();
SET ROLE regress_saga_s_alice;
SELECT * FROM test.plants();
SET ROLE regress_saga_s_writer;
SELECT * FROM test.plants();
SET ROLE regress_saga_s_bypass;
SELECT * FROM test.plants();
SET ROLE regress_saga_s_operator;
SELECT * FROM test.plants();
SET ROLE regress_saga_s_dba;
SELECT * FROM test.plants();
RESET ROLE;
SELECT test.catalog() = :'catalog' AS unchanged;
-- and what is not denied as such has no effect
SET ROLE regress_saga_s_bob;
\set VERBOSITY terse
GRANT ALL ON saga.sagas TO PUBLIC;
GRANT ALL ON saga.ledger_saga TO CURRENT_USER;
\set VERBOSITY default
RESET ROLE;
SELECT test.catalog() = :'catalog' AS unchanged;

-- ---------------------------------------------------------------------------
-- N5: nobody but a superuser writes the ledger, whatever the role was granted
-- ---------------------------------------------------------------------------

GRANT ALL ON ALL TABLES IN SCHEMA saga TO regress_saga_s_bypass, regress_saga_s_granted;
GRANT ALL ON ALL SEQUENCES IN SCHEMA saga TO regress_saga_s_bypass, regress_saga_s_granted;
GRANT TRUNCATE ON ALL TABLES IN SCHEMA saga TO regress_saga_s_writer;
-- Every write to every table of the ledger
CREATE FUNCTION test.writes() RETURNS TABLE (as_role name, attempt text, tables bigint, outcomes text) LANGUAGE sql AS $$
  SELECT current_user, attempt, count(*), string_agg(DISTINCT test.outcome(format(attempt, c.oid::regclass, attname)), ' ')
  FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum = 1, unnest(ARRAY[
    'INSERT INTO %1$s SELECT * FROM %1$s LIMIT 1',
    'INSERT INTO %1$s SELECT * FROM %1$s LIMIT 1 ON CONFLICT DO NOTHING',
    'UPDATE %1$s SET %2$I = %2$I',
    'DELETE FROM %1$s',
    'MERGE INTO %1$s t USING (VALUES (1)) v ON true WHEN MATCHED THEN UPDATE SET %2$I = t.%2$I',
    'MERGE INTO %1$s t USING (VALUES (1)) v ON true WHEN MATCHED THEN DELETE',
    'WITH gone AS (DELETE FROM %1$s RETURNING *) INSERT INTO %1$s SELECT * FROM gone',
    'TRUNCATE %1$s']) attempt
  WHERE relnamespace = 'saga'::regnamespace AND relkind = 'r' GROUP BY attempt ORDER BY attempt
$$;
SET ROLE regress_saga_s_writer;
SELECT attempt, tables, outcomes FROM test.writes();
SET ROLE regress_saga_s_bypass;
SELECT count(*), sum(tables), string_agg(DISTINCT outcomes, ' ') FROM test.writes();
SET ROLE regress_saga_s_granted;
SELECT count(*), sum(tables), string_agg(DISTINCT outcomes, ' ') FROM test.writes();
RESET ROLE;
-- ... nor where triggers are those of a replica
SET session_replication_role = replica;
SET ROLE regress_saga_s_granted;
SELECT count(*), sum(tables), string_agg(DISTINCT outcomes, ' ') FROM test.writes();
RESET ROLE;
RESET session_replication_role;
-- ... nor by COPY
SET ROLE regress_saga_s_writer;
COPY saga.ledger_saga (id, owner, started_at, on_failure, owner_name, name, updated_at, state, paused) FROM STDIN;
01900000-0000-7000-8000-000000000000	10	2000-01-01 00:00:00+00	h	postgres	evil	2000-01-01 00:00:00+00	r	f
\.
COPY saga.ledger_step (saga, seq, started_at, run, run_as, kind, compensate_on, acknowledge, run_as_name, key, compensation, compensation_retry, attempts, status, comp_status) FROM STDIN;
01900000-0000-7000-8000-000000000000	1	2000-01-01 00:00:00+00	1	10	c	s	t	postgres	evil	ALTER ROLE evil SUPERUSER	1 10 c 10 0 0	1	s	r
\.
COPY saga.ledger_attempt (saga, seq, started_at, attempt, phase, outcome) FROM STDIN;
01900000-0000-7000-8000-000000000000	1	2000-01-01 00:00:00+00	1	f	s
\.
COPY saga.ledger_event (saga, at, event, actor) FROM STDIN;
01900000-0000-7000-8000-000000000000	2000-01-01 00:00:00+00	evil	postgres
\.
COPY saga.ledger_due FROM STDIN;
0	2000-01-01 00:00:00+00	01900000-0000-7000-8000-000000000000	0	\N	\N
\.
COPY saga.ledger_queue FROM STDIN;
security	10	2000-01-01 00:00:00+00	01900000-0000-7000-8000-000000000000	1	1	a
\.
COPY saga.ledger_home FROM STDIN;
f	1	1	1	{}	f	f	0	1
\.
RESET ROLE;
SELECT relation FROM test.ledger() l JOIN test.ledger_before b USING (relation) WHERE l.rows <> b.rows OR l.digest <> b.digest;
SELECT copied FROM saga.ledger_home;
-- The start order may be drawn from and set; the order of no saga changes.
CREATE TABLE test.order (n bigint GENERATED ALWAYS AS IDENTITY, key text);
GRANT ALL ON test.order TO PUBLIC;
CREATE PROCEDURE test.start(keys text[]) LANGUAGE plpgsql AS $$
DECLARE
  k text;
BEGIN
  FOREACH k IN ARRAY keys LOOP
    INSERT INTO test.order (key) VALUES (k);
    PERFORM saga.step(test.named('order'), k, completed => true);
  END LOOP;
END $$;
INSERT INTO test.id SELECT 'order', saga.begin('security', 'order');
CALL test.start('{a,b}');
SET ROLE regress_saga_s_writer;
SELECT setval('saga.start_order', 1) \g (format=unaligned tuples_only=on)
RESET ROLE;
CALL test.start('{c,d}');
SET ROLE regress_saga_s_granted;
SELECT setval('saga.start_order', 1000000) \g (format=unaligned tuples_only=on)
SELECT nextval('saga.start_order') \g (format=unaligned tuples_only=on)
RESET ROLE;
CALL test.start('{e}');
SET ROLE regress_saga_s_writer;
SELECT setval('saga.start_order', 1, false) \g (format=unaligned tuples_only=on)
RESET ROLE;
CALL test.start('{f,g}');
SELECT string_agg(key, ' ' ORDER BY n) AS started FROM test.order;
SELECT string_agg(key, ' ' ORDER BY position) AS told FROM saga.steps WHERE saga_id = test.named('order');
REVOKE ALL ON ALL TABLES IN SCHEMA saga FROM regress_saga_s_bypass, regress_saga_s_granted, regress_saga_s_writer;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA saga FROM regress_saga_s_bypass, regress_saga_s_granted;

-- ---------------------------------------------------------------------------
-- N8: a stranger learns nothing: what is not there and what is another's
-- answer the same
-- ---------------------------------------------------------------------------

CREATE TABLE test.call (call text, named text);
INSERT INTO test.call VALUES
  ('saga.step(%1$L, ''a'')', 'running'), ('saga.step(%1$L, ''new'')', 'running'),
  ('saga.step(%1$L, ''a'', compensation => ''SELECT 1'')', 'running'),
  ('saga.complete_step(%1$L, ''c'')', 'running'), ('saga.complete_step(%1$L, ''no such'')', 'running'),
  ('saga.complete_step(%1$L, ''a'', late => ''record'')', 'parked'),
  ('saga.complete_step(%1$L, ''c'', forward_key => ''x'')', 'running'),
  ('saga.fail_step(%1$L, ''c'', ''e'')', 'running'),
  ('saga.complete(%1$L)', 'running'), ('saga.complete(%1$L)', 'finished'),
  ('saga.fail(%1$L)', 'running'), ('saga.fail(%1$L)', 'finished'), ('saga.cancel(%1$L)', 'running'),
  ('saga.wait(%1$L, ''0'')', 'running'), ('saga.wait(%1$L)', 'finished'), ('saga.wait_step(%1$L, ''a'', ''0'')', 'running'),
  ('saga.output(''a'', %1$L)', 'running'), ('saga.signal(%1$L, ''s'')', 'running'),
  ('saga.rollback_to(%1$L, NULL)', 'running'), ('saga.rollback_to(%1$L, ''a'')', 'running'),
  ('saga.plan(%1$L)', 'running'), ('saga.timeline(%1$L)', 'running'), ('saga.picture(%1$L)', 'running'),
  ('saga.resolve(%1$L, ''a'', ''skip'', ''n'')', 'parked'), ('saga.resolve(%1$L, ''no such'', ''skip'', ''n'')', 'parked'),
  ('saga.set_timeout(%1$L, ''1 day'')', 'running'), ('saga.set_timeout(%1$L, ''1 day'')', 'finished'),
  ('saga.amend(%1$L, ''a'', ''n'', compensation => ''SELECT 1'')', 'parked'),
  ('saga.amend(%1$L, ''no such'', ''n'', notify => ''c'')', 'running'),
  ('saga.abandon(%1$L, ''n'')', 'parked'), ('saga.reopen(%1$L, ''n'')', 'pivot'), ('saga.reopen(%1$L, ''n'')', 'running'),
  ('saga.pause(%1$L, ''n'')', 'running'), ('saga.resume(%1$L)', 'running'),
  ('saga.redact(%1$L)', 'finished'), ('saga.redact(%1$L)', 'running'),
  ('saga.extend_claim(test.key(%1$L), 1, ''1 hour'')', 'claimed'),
  ('saga.complete_compensation(test.key(%1$L))', 'claimed'), ('saga.complete_compensation(test.key(%1$L))', 'waiting'),
  ('saga.complete_compensation(test.key(%1$L, 1000000))', 'waiting'),
  ('saga.fail_compensation(test.key(%1$L), 1, ''e'')', 'claimed'),
  ('saga.complete_task(test.key(%1$L))', 'claimed'), ('saga.complete_task(%1$L || ''-1000000'')', 'running'),
  ('saga.fail_task(test.key(%1$L), 1, ''e'')', 'claimed'), ('saga.fail_task(%1$L || ''-1000000'', 1, ''e'')', 'running');
GRANT SELECT ON test.call TO PUBLIC;
-- The handle of a step: nothing in it is secret.
CREATE TABLE test.seqs AS SELECT saga AS id, max(seq) AS seq FROM saga.ledger_step GROUP BY 1;
GRANT SELECT ON test.seqs TO PUBLIC;
CREATE FUNCTION test.key(saga text, seq bigint DEFAULT NULL) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('%s-%s-undo', saga, COALESCE(seq, (SELECT s.seq FROM test.seqs s WHERE id = saga::uuid), 1))
$$;
-- No function that names a saga or a compensation is left out.
SELECT proname FROM pg_proc WHERE pronamespace = 'saga'::regnamespace AND proname NOT LIKE 'internal%'
  AND proargnames && '{saga_id,compensation_key,task_key}' AND (proargmodes IS NULL OR proargmodes[1] = 'i')
  AND NOT EXISTS (SELECT FROM test.call WHERE call LIKE format('saga.%s(%%', proname)) AND proname NOT IN ('claim_compensations', 'claim_tasks');
CREATE FUNCTION test.guesses() RETURNS TABLE (calls bigint, as_if_not_there bigint, not_found bigint, told text) LANGUAGE sql AS $$
  SELECT count(*), count(*) FILTER (WHERE theirs = nobodys), count(*) FILTER (WHERE theirs LIKE 'SG001 %'),
    string_agg(concat_ws(': ', call, named, theirs), E'\n' ORDER BY call, named) FILTER (WHERE theirs NOT LIKE 'SG001 %' OR theirs <> nobodys)
  FROM (
    SELECT call, named, test.answer('SELECT ' || format(call, test.named(named))) AS theirs,
      test.answer('SELECT ' || format(call, '01900000-0000-7000-8000-000000000000')) AS nobodys
    FROM test.call) c
$$;
SET ROLE regress_saga_s_bob;
SELECT * FROM test.guesses();
SELECT test.answer(format('SELECT saga.fail(%L)', test.named('running')));
SET ROLE regress_saga_s_dave;
SELECT * FROM test.guesses();
SET ROLE regress_saga_s_writer;
SELECT * FROM test.guesses();
SET ROLE regress_saga_s_auditor;
SELECT * FROM test.guesses();
SET ROLE regress_saga_s_monitor;
SELECT * FROM test.guesses();
SET ROLE regress_saga_s_dba;
SELECT * FROM test.guesses();
RESET ROLE;
-- A key that is another's is nobody's; another input under it is no conflict.
SET ROLE regress_saga_s_bob;
SELECT test.answer($$SELECT saga.begin('security', 'running', '"guess"')$$);
SELECT count(*) FROM saga.claim_compensations('security', 100);
SELECT (SELECT count(*) FROM saga.sagas) AS sagas, (SELECT count(*) FROM saga.steps) AS steps, (SELECT count(*) FROM saga.attempts) AS attempts,
  (SELECT count(*) FROM saga.events) AS events, (SELECT count(*) FROM saga.review_queue) AS review,
  (SELECT count(*) FROM saga.pending_compensations) AS pending;
-- nor by a function that the planner would like to call first, nor an operator
CREATE FUNCTION pg_temp.leak(what anyelement) RETURNS boolean LANGUAGE plpgsql STABLE COST 0.0000001 AS $$
BEGIN
  RAISE NOTICE 'leaked %', what;
  RETURN true;
END $$;
CREATE FUNCTION pg_temp.leak2(a jsonb, b jsonb) RETURNS boolean LANGUAGE plpgsql STABLE COST 0.0000001 AS $$
BEGIN
  RAISE NOTICE 'leaked %', a;
  RETURN true;
END $$;
CREATE OPERATOR pg_temp.<<<< (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = pg_temp.leak2, RESTRICT = eqsel);
SET enable_nestloop = off;
SELECT count(*) FROM saga.sagas WHERE pg_temp.leak(input) OR input OPERATOR(pg_temp.<<<<) '1' OR 1 / (length(reason) - length('secret reason')) = 0;
SELECT count(*) FROM saga.steps WHERE pg_temp.leak(args) OR pg_temp.leak(compensation) OR args OPERATOR(pg_temp.<<<<) '1' OR key::integer = 1;
SET enable_hashjoin = off;
SELECT count(*) FROM saga.steps WHERE pg_temp.leak(saga_id);
RESET enable_hashjoin;
SELECT count(*) FROM saga.attempts WHERE pg_temp.leak(error) OR error::integer = 1;
SELECT count(*) FROM saga.events WHERE pg_temp.leak(detail) OR step::integer = 1;
SELECT count(*) FROM saga.review_queue WHERE pg_temp.leak(why) OR why::integer = 1;
SELECT count(*) FROM saga.pending_compensations WHERE pg_temp.leak(consumer) OR consumer::integer = 1;
SELECT count(*) FROM saga.purges WHERE pg_temp.leak(by);
RESET enable_nestloop;
-- nor ids, nor in joins, whichever way they go
CREATE PROCEDURE pg_temp.join_all() LANGUAGE plpgsql AS $$
DECLARE
  query text;
  n bigint;
BEGIN
  FOREACH query IN ARRAY ARRAY[
    'saga.sagas WHERE pg_temp.leak(id)', 'saga.undoing WHERE pg_temp.leak(id)', 'saga.steps WHERE pg_temp.leak(saga_id)',
    'saga.attempts WHERE pg_temp.leak(saga_id)', 'saga.events WHERE pg_temp.leak(saga_id)',
    'saga.attempts WHERE pg_temp.leak(phase) AND saga_id IN (SELECT id FROM test.seqs)',
    'saga.steps t JOIN saga.events e USING (saga_id) JOIN saga.attempts a USING (saga_id)
       WHERE pg_temp.leak(t.key) AND pg_temp.leak(e.event) AND pg_temp.leak(a.outcome)',
    'saga.sagas s JOIN saga.steps t ON t.saga_id = s.id WHERE pg_temp.leak(s.id) AND pg_temp.leak(t.seq)',
    'test.seqs q JOIN saga.steps t ON t.saga_id = q.id AND pg_temp.leak(t.saga_id)',
    'test.seqs q JOIN saga.events e ON e.saga_id = q.id AND pg_temp.leak(e.at)',
    'test.seqs q LEFT JOIN saga.attempts a ON a.saga_id = q.id AND pg_temp.leak(a.attempt) WHERE a.attempt IS NOT NULL',
    'test.seqs q, LATERAL (SELECT * FROM saga.steps t WHERE t.saga_id = q.id AND pg_temp.leak(t.name)) t',
    '(SELECT saga_id FROM saga.steps ORDER BY pg_temp.leak(saga_id), saga_id LIMIT 1) t',
    '(SELECT id FROM saga.sagas ORDER BY pg_temp.leak(id), id DESC LIMIT 1) t',
    '(SELECT saga_id, count(*) FROM saga.events GROUP BY saga_id HAVING pg_temp.leak(saga_id)) t'] LOOP
    EXECUTE 'SELECT count(*) FROM ' || query INTO n;
    IF n > 0 THEN
      RAISE NOTICE '%: %', query, n;
    END IF;
  END LOOP;
END $$;
CALL pg_temp.join_all();
SET enable_nestloop = off;
CALL pg_temp.join_all();
SET enable_hashjoin = off;
CALL pg_temp.join_all();
SET enable_mergejoin = off;
SET enable_nestloop = on;
SET enable_material = off;
CALL pg_temp.join_all();
RESET enable_nestloop;
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET enable_material;
-- The planner's statistics of the ledger are for nobody.
RESET ROLE;
ANALYZE saga.ledger_saga, saga.ledger_step;
SET ROLE regress_saga_s_bob;
SELECT count(*) FROM pg_stats WHERE schemaname = 'saga';
-- What the functions behind the views tell of another's saga is what they tell
-- of none.
SELECT saga.internal_may_see('regress_saga_s_alice'::regrole, 'regress_saga_s_alice') AS may_see,
  saga.internal_may_read('regress_saga_s_alice'::regrole, 'regress_saga_s_alice') AS may_read,
  (SELECT count(DISTINCT (saga.internal_is_running(id, seq), saga.internal_next_action(id, state, false, NULL, now(), 10, 'a', NULL)))
   FROM (SELECT id, seq FROM test.seqs UNION SELECT '01900000-0000-7000-8000-000000000000', 1) s) AS answers
FROM unnest('{u}'::"char"[]) state;
RESET ROLE;

-- ---------------------------------------------------------------------------
-- N16: member, non-member, operator, auditor, monitor: who may do what
-- ---------------------------------------------------------------------------

CREATE TABLE test.may (as_role name DEFAULT current_user, call text, named text, outcome text);
GRANT ALL ON test.may TO PUBLIC;
CREATE PROCEDURE test.try() LANGUAGE plpgsql AS $$
DECLARE
  c record;
BEGIN
  FOR c IN SELECT call, named, NULL::text AS outcome FROM test.call LOOP
    COMMIT;
    c.outcome := test.outcome('SELECT ' || format(c.call, test.named(c.named)));
    INSERT INTO test.may (call, named, outcome) VALUES (c.call, c.named, c.outcome);
  END LOOP;
  INSERT INTO test.may (call, named, outcome)
  VALUES ('how many it claims', 'waiting', test.value('SELECT count(*) FROM saga.claim_compensations(''security'', 100)'));
END $$;
SET saga.operator_role = 'regress_saga_s_operators';
SET ROLE regress_saga_s_alice;
CALL test.try();
SET ROLE regress_saga_s_carol;
CALL test.try();
SET ROLE regress_saga_s_dave;
CALL test.try();
SET ROLE regress_saga_s_bob;
CALL test.try();
SET ROLE regress_saga_s_operator;
CALL test.try();
SET ROLE regress_saga_s_auditor;
CALL test.try();
SET ROLE regress_saga_s_monitor;
CALL test.try();
RESET ROLE;
SELECT regexp_replace(replace(replace(call, '%1$L', 'id'), 'test.key(id)', 'key'), '^saga\.', '') AS call, named,
  max(outcome) FILTER (WHERE as_role = 'regress_saga_s_alice') AS owner,
  max(outcome) FILTER (WHERE as_role = 'regress_saga_s_carol') AS member,
  max(outcome) FILTER (WHERE as_role = 'regress_saga_s_dave') AS noinherit,
  max(outcome) FILTER (WHERE as_role = 'regress_saga_s_bob') AS stranger,
  max(outcome) FILTER (WHERE as_role = 'regress_saga_s_operator') AS operator,
  max(outcome) FILTER (WHERE as_role = 'regress_saga_s_auditor') AS auditor,
  max(outcome) FILTER (WHERE as_role = 'regress_saga_s_monitor') AS monitor
FROM test.may GROUP BY test.may.call, named ORDER BY test.may.call COLLATE "C", named;
-- What each of them reads of it, and which secrets
CREATE FUNCTION test.reads() RETURNS TABLE (view text, rows bigint, secrets text) LANGUAGE sql AS $$
  SELECT v, count(DISTINCT n), string_agg(DISTINCT m[1], ', ' ORDER BY m[1]) FROM (
    SELECT v, row, row_number() OVER () AS n FROM (
      SELECT 'sagas', s::text FROM saga.sagas s WHERE owner::text = 'regress_saga_s_alice' UNION ALL
      SELECT 'steps', s::text FROM saga.steps s WHERE run_as::text = 'regress_saga_s_alice' UNION ALL
      SELECT 'attempts', a::text FROM saga.attempts a WHERE saga_id IN (SELECT id FROM test.id WHERE what <> 'order') UNION ALL
      SELECT 'events', e::text FROM saga.events e WHERE saga_id IN (SELECT id FROM test.id WHERE what <> 'order') UNION ALL
      SELECT 'review_queue', r::text FROM saga.review_queue r WHERE owner::text = 'regress_saga_s_alice' UNION ALL
      SELECT 'pending_compensations', p::text FROM saga.pending_compensations p WHERE channel = 'security') x (v, row)) x
  LEFT JOIN LATERAL regexp_matches(row, 'secret ([a-z]+)', 'g') m ON true GROUP BY 1 ORDER BY 1
$$;
SET ROLE regress_saga_s_alice;
SELECT * FROM test.reads();
SET ROLE regress_saga_s_carol;
SELECT md5(string_agg(r::text, '')) AS all FROM test.reads() r \gset
SELECT * FROM test.reads() LIMIT 1;
SET ROLE regress_saga_s_dave;
SELECT * FROM test.reads();
SET ROLE regress_saga_s_operator;
SELECT md5(string_agg(r::text, '')) = :'all' AS as_the_member FROM test.reads() r;
SET ROLE regress_saga_s_auditor;
SELECT md5(string_agg(r::text, '')) = :'all' AS as_the_member FROM test.reads() r;
SET ROLE regress_saga_s_monitor;
SELECT * FROM test.reads();
RESET ROLE;
-- An operator is one by the setting alone.
RESET saga.operator_role;
SET ROLE regress_saga_s_operator;
SELECT * FROM test.reads();
SELECT test.outcome(format('SELECT saga.resolve(%L, ''a'', ''skip'', ''n'')', test.named('parked')));
RESET ROLE;
SET saga.operator_role = 'no such role';
SET ROLE regress_saga_s_operator;
SELECT * FROM test.reads();
RESET ROLE;
SET saga.operator_role = 'public';
SET ROLE regress_saga_s_bob;
SELECT * FROM test.reads();
RESET ROLE;
RESET saga.operator_role;
-- Readers and operators change nothing of what runs, or as whom.
SELECT relation FROM test.ledger() l JOIN test.ledger_before b USING (relation)
WHERE l.digest <> b.digest AND relation NOT IN ('saga.ledger_saga', 'saga.ledger_step');
SELECT count(*) FROM saga.ledger_step t WHERE saga IN (SELECT id FROM test.id WHERE what <> 'order')
  AND (run_as_name <> 'regress_saga_s_alice' OR run_as <> 'regress_saga_s_alice'::regrole);

-- ---------------------------------------------------------------------------
-- N15: what is for the DBA
-- ---------------------------------------------------------------------------

-- Which settings a role may set for itself, or keep with itself
SET ROLE regress_saga_s_bob;
SELECT string_agg(name, ', ' ORDER BY name) FILTER (WHERE for_session = 'ok') AS for_itself,
  string_agg(name, ', ' ORDER BY name) FILTER (WHERE kept = 'ok') AS kept,
  string_agg(DISTINCT for_session, ' ') AS outcomes, string_agg(DISTINCT kept, ' ') AS kept_outcomes
FROM (
  SELECT name, test.outcome(format('SET %s = %L', name, setting)) AS for_session,
    test.outcome(format('ALTER ROLE CURRENT_USER SET %s = %L', name, setting)) AS kept
  FROM pg_settings WHERE name LIKE 'saga.%' AND name NOT LIKE 'saga.test%') s;
-- Functions: for superusers and the owner of the database; and of these, what
-- is not for the latter
SELECT test.answer('SELECT saga.adopt()');
SELECT test.answer('SELECT saga.reassign(''regress_saga_s_alice''::regrole, ''regress_saga_s_bob'')');
SELECT test.answer('SELECT saga.reassign(''regress_saga_s_bob''::regrole, ''regress_saga_s_bob'')');
SELECT test.answer('SELECT saga.internal_settle_home()');
CREATE TABLE test.bobs ();
SELECT test.answer('CREATE TRIGGER evil BEFORE INSERT ON test.bobs FOR EACH ROW EXECUTE FUNCTION saga.internal_guard()');
SELECT saga.purge('0');
SET ROLE regress_saga_s_operator;
SELECT test.outcome('SELECT saga.adopt()'), test.outcome('SELECT saga.reassign(10, ''regress_saga_s_operator'')'), saga.purge('0') AS purged;
SET ROLE regress_saga_s_auditor;
SELECT test.outcome('SELECT saga.adopt()'), test.outcome('SELECT saga.reassign(10, ''regress_saga_s_auditor'')'), saga.purge('0') AS purged;
SET ROLE regress_saga_s_alice;
SELECT test.outcome('SELECT saga.adopt()'), test.outcome('SELECT saga.reassign(10, ''regress_saga_s_alice'')');
-- her own she may purge, and so may members
SELECT test.value('SELECT saga.purge(''0'')') AS purged;
SET ROLE regress_saga_s_carol;
SELECT test.value('SELECT saga.purge(''0'')') AS purged;
SET ROLE regress_saga_s_dave;
SELECT test.value('SELECT saga.purge(''0'')') AS purged;
RESET ROLE;
SELECT count(*) AS finished FROM saga.ledger_saga WHERE finished_at IS NOT NULL AND due IS NULL AND to_announce IS NULL \gset
SET ROLE regress_saga_s_dba;
SELECT test.outcome('SELECT saga.adopt()') AS adopt, test.value('SELECT saga.purge(''0'', 1000000)') = :'finished' AS purges_all,
  test.outcome('SELECT saga.internal_settle_home()') AS settle_home;
-- ... nor does the owner of the database give SQL another role's rights
SELECT test.answer('SELECT saga.reassign(''regress_saga_s_bob''::regrole, 10)');
SELECT test.answer('SELECT saga.reassign(''regress_saga_s_bob''::regrole, ''regress_saga_s_alice'')');
SELECT test.outcome('SELECT saga.reassign(''regress_saga_s_alice''::regrole, ''regress_saga_s_dba'')');
RESET ROLE;
SELECT copied FROM saga.ledger_home;

-- ---------------------------------------------------------------------------
-- N12: inside SECURITY DEFINER, the definer
-- ---------------------------------------------------------------------------

CREATE FUNCTION test.definer_step(id uuid) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$SELECT status FROM saga.step(id, 'definer', compensation => 'SELECT 1')$$;
ALTER FUNCTION test.definer_step(uuid) OWNER TO regress_saga_s_carol;
CREATE FUNCTION test.definer_fails(id uuid) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$SELECT saga.fail(id)$$;
ALTER FUNCTION test.definer_fails(uuid) OWNER TO regress_saga_s_bob;
SET ROLE regress_saga_s_alice;
SET search_path = pg_temp, public;
SELECT saga.begin('security', 'definer') AS definer \gset
SELECT status FROM saga.step(:'definer', 'own', compensation => 'SELECT 1');
SELECT test.definer_step(:'definer');
RESET search_path;
-- the rights of the definer count, not the caller's
SELECT test.answer(format('SELECT test.definer_fails(%L)', :'definer'));
RESET ROLE;
SELECT t.key, t.run_as, l.search_path FROM saga.steps t JOIN saga.ledger_step l ON l.saga = saga_id AND l.seq = t.seq
WHERE saga_id = :'definer' ORDER BY position;

-- ---------------------------------------------------------------------------
-- N10: names, payloads, channels, times at and beyond their limits
-- ---------------------------------------------------------------------------

CREATE TABLE test.ledger_then AS SELECT * FROM test.ledger();
CREATE TABLE test.text (what text, value text);
INSERT INTO test.text VALUES ('empty', ''), ('blank', ' '), ('10,000', repeat('n', 10000)), ('10,000 of 4 bytes', repeat('𝄞', 10000)),
  ('a quote', ''';--'), ('a line end', E'a\nb'), ('a bell', E'\x07'), ('a percent', '%s%n');
CREATE FUNCTION test.limits(call text) RETURNS TABLE (value text, outcome text) LANGUAGE sql AS $$
  SELECT what, test.answer(format('SELECT ' || call, t.value)) FROM test.text t ORDER BY what COLLATE "C"
$$;
SELECT * FROM test.limits('saga.begin(%L)');
SELECT call, string_agg(concat_ws(' ', value, left(outcome, 5)), ', ' ORDER BY value COLLATE "C") FROM unnest(ARRAY[
  'saga.begin(''n'', %L)', 'saga.begin(''n'', announce => %L)', 'saga.begin(''n'', on_compensation_failure => %L)',
  'saga.step(test.named(''running''), %L)', 'saga.step(test.named(''running''), ''n'', %L)', 'saga.step(test.named(''running''), ''n'', notify => %L)',
  'saga.step(test.named(''running''), ''n'', review => %L)', 'saga.step(test.named(''running''), ''n'', kind => %L)',
  'saga.complete_step(test.named(''running''), %L)', 'saga.complete_step(test.named(''running''), ''c'', forward_key => %L)',
  'saga.fail_step(test.named(''running''), ''c'', %L)', 'saga.fail(test.named(''running''), %L)', 'saga.rollback_to(test.named(''running''), %L)',
  'saga.wait(test.named(''running''), until => %L)', 'saga.claim_compensations(%L)', 'saga.claim_compensations(''security'', consumer => %L)',
  'saga.complete_compensation(%L)', 'saga.resolve(test.named(''parked''), ''a'', %L, ''n'')', 'saga.resolve(test.named(''parked''), ''a'', ''skip'', %L)',
  'saga.abandon(test.named(''parked''), %L)', 'saga.retry_policy(backoff => %L)']) call, test.limits(call) GROUP BY call ORDER BY call COLLATE "C";
-- channels, in bytes; what a notification can hold is no limit of a payload
SELECT n, test.outcome(format('SELECT saga.step(test.named(''running''), ''n'', notify => repeat(''c'', %s))', n)) AS channel,
  test.outcome(format('SELECT saga.begin(''n'', announce => repeat(''c'', %s))', n)) AS announce,
  test.outcome(format('SELECT saga.claim_compensations(repeat(''c'', %s))', n)) AS claim FROM unnest('{1,63,64,8000}'::integer[]) n;
SELECT n, test.outcome(format('SELECT saga.step(test.named(''running''), ''n'', notify => ''c'', args => to_jsonb(repeat(''x'', %s)), output => to_jsonb(repeat(''x'', %s)))', n, n))
FROM unnest('{7998,7999,8000,8001,1000000,2000000}'::integer[]) n;
-- what is no text of the database, and no jsonb
SELECT test.outcome($$SELECT saga.begin(E'\xff')$$) AS utf8, test.outcome($$SELECT saga.begin(convert_from('\xff', 'UTF8'))$$) AS converted,
  test.outcome($$SELECT saga.begin('n', input => '"\u0000"')$$) AS nul, test.outcome($$SELECT saga.begin('n', input => '"\ud800"')$$) AS surrogate,
  test.outcome($$SELECT saga.begin('n', input => repeat('[', 100000)::jsonb)$$) AS deep;
-- times
SELECT i, test.outcome(format('SELECT saga.begin(''n'', timeout => %L)', i)) AS begin,
  test.outcome(format('SELECT saga.wait(test.named(''finished''), timeout => %L)', i)) AS wait,
  test.outcome(format('SELECT saga.retry_policy(delay => %L)', i)) AS delay, test.outcome(format('SELECT saga.retry_policy(timeout => %L)', i)) AS timeout,
  test.outcome(format('SELECT saga.purge(%L)', i)) AS purge, test.outcome(format('SELECT saga.claim_compensations(''c'', lease => %L)', i)) AS lease
FROM unnest('{-1 microsecond,-1 day,1 month -31 days,178000000 years,-178000000 years}'::text[]) i;
-- nothing of it is stored
SELECT relation FROM test.ledger() l JOIN test.ledger_then b USING (relation) WHERE l.rows <> b.rows OR l.digest <> b.digest;

-- ---------------------------------------------------------------------------
-- N18: every function with nulls and odd values, one argument at a time: an
-- answer, an error of ours or of the standard, and nothing internal
-- ---------------------------------------------------------------------------

CREATE TABLE test.odd (type regtype, value text);
INSERT INTO test.odd VALUES
  ('text', 'NULL'), ('text', ''''''), ('text', 'repeat(''x'', 1000000)'), ('text', 'E''\x01\u2028\U0010FFFF'''), ('text', '''a''::varchar(1)::text'),
  ('uuid', 'NULL'), ('uuid', '''00000000-0000-0000-0000-000000000000'''), ('uuid', '''ffffffff-ffff-ffff-ffff-ffffffffffff'''), ('uuid', 'test.named(''finished'')'),
  ('jsonb', 'NULL'), ('jsonb', '''null'''), ('jsonb', '''[]'''), ('jsonb', '(SELECT jsonb_object_agg(n, repeat(''x'', 10)) FROM generate_series(1, 10000) n)'),
  ('jsonb', '(repeat(''['', 1000) || repeat('']'', 1000))::jsonb'), ('jsonb', '''1e131071'''), ('jsonb', '''-0.0'''),
  ('interval', 'NULL'), ('interval', '''0'''), ('interval', '''-178000000 years'''), ('interval', '''178000000 years'''), ('interval', '''1 microsecond'''),
  ('interval', '''2147483647 days -2147483648 months'''),
  ('integer', 'NULL'), ('integer', '0'), ('integer', '-2147483648'), ('integer', '2147483647'),
  ('bigint', 'NULL'), ('bigint', '-9223372036854775808'), ('bigint', '9223372036854775807'),
  ('boolean', 'NULL'), ('boolean', 'true'),
  ('double precision', 'NULL'), ('double precision', '''NaN'''), ('double precision', '''-Infinity'''), ('double precision', '1e308'), ('double precision', '5e-324'),
  ('saga.retry_policy', 'NULL'), ('saga.retry_policy', 'ROW(NULL, NULL, NULL, NULL, NULL, NULL)'),
  ('saga.retry_policy', 'ROW(-1, ''-1 day'', '''', ''-1 day'', ''NaN'', ''-1 day'')'),
  ('saga.retry_policy', 'ROW(2147483647, ''178000000 years'', ''linear'', ''178000000 years'', 1e308, ''178000000 years'')'),
  ('oid', 'NULL'), ('oid', '0'), ('oid', '4294967295'), ('regrole', 'NULL'), ('regrole', '0'), ('regrole', '4294967295'),
  ('"char"', 'NULL'), ('"char"', ''''''), ('"char"', '''?'''), ('"char"', '''\377'''),
  ('text[]', 'NULL'), ('text[]', '''{}'''), ('text[]', '''{NULL}'''), ('text[]', '''{{a},{b}}'''), ('text[]', '''{""}'''), ('text[]', '''{a,a}'''),
  ('timestamptz', 'NULL'), ('timestamptz', '''infinity'''), ('timestamptz', '''-infinity'''), ('timestamptz', '''4713-01-01 BC''');
-- What the other arguments are meanwhile
CREATE TABLE test.plain (type regtype PRIMARY KEY, value text);
INSERT INTO test.plain VALUES ('text', '''a'''), ('uuid', 'test.named(''finished'')'), ('jsonb', '''{}'''), ('interval', '''1 s'''), ('integer', '1'), ('bigint', '1'),
  ('boolean', 'false'), ('double precision', '0'), ('saga.retry_policy', 'saga.retry_policy()'), ('oid', '10'), ('regrole', '10'), ('"char"', '''r'''),
  ('timestamptz', 'now()'), ('text[]', 'NULL');
GRANT SELECT ON test.odd, test.plain TO PUBLIC;
CREATE FUNCTION test.odd_calls() RETURNS TABLE (function text, call text) LANGUAGE sql AS $$
  WITH a AS (
    SELECT p.oid, proname::text, n, type::regtype, proname = 'step' AND n = 6 AS notify
    FROM pg_proc p, unnest(proargtypes::oid[]) WITH ORDINALITY u (type, n)
    WHERE pronamespace = 'saga'::regnamespace AND prorettype <> 'trigger'::regtype)
  SELECT v.proname, format('saga.%I(%s)', v.proname, (
      SELECT string_agg(format('(%s)::%s', CASE WHEN a.n = v.n THEN o.value WHEN a.notify THEN 'NULL' ELSE p.value END, a.type), ', ' ORDER BY a.n)
      FROM a JOIN test.plain p USING (type) WHERE a.oid = v.oid))
  FROM a v JOIN test.odd o USING (type)
  UNION ALL
  SELECT a.proname, format('saga.%I(%s)', a.proname, string_agg(format('NULL::%s', a.type), ', ')) FROM a GROUP BY a.oid, a.proname
$$;
-- no type of an argument is left out
SELECT DISTINCT a.type::regtype FROM pg_proc, unnest(proargtypes::oid[]) a (type)
WHERE pronamespace = 'saga'::regnamespace AND NOT EXISTS (SELECT FROM test.odd o WHERE o.type = a.type);
SELECT count(*) > 400 AS many, count(DISTINCT function) = (SELECT count(DISTINCT proname) FROM pg_proc
  WHERE pronamespace = 'saga'::regnamespace AND pronargs > 0) AS of_every_function FROM test.odd_calls();
-- (saga.wait first: it refuses once the transaction has written)
SET ROLE regress_saga_s_alice;
SELECT outcome, string_agg(call, E'\n' ORDER BY call) AS unexpected FROM (SELECT call, test.outcome('SELECT * FROM ' || call) AS outcome
  FROM (SELECT * FROM test.odd_calls() ORDER BY function !~ '^wait') o) c
WHERE outcome !~ '^(ok|SG0\d\d|22\w{3}|42501|42601|428\w\w)$' GROUP BY outcome;
RESET ROLE;
SELECT outcome, string_agg(call, E'\n' ORDER BY call) AS unexpected FROM (SELECT call, test.outcome('SELECT * FROM ' || call) AS outcome
  FROM (SELECT * FROM test.odd_calls() ORDER BY function !~ '^wait') o) c
WHERE outcome !~ '^(ok|SG0\d\d|22\w{3}|42601|42704|428\w\w)$' GROUP BY outcome;
SELECT relation FROM test.ledger() l JOIN test.ledger_then b USING (relation) WHERE l.rows <> b.rows OR l.digest <> b.digest;

ALTER DATABASE :"DBNAME" OWNER TO :"database_owner";
\set ECHO none
\i sql/include/drop_roles.sql
