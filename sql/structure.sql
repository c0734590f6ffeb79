-- The tables of the ledger are written directly: what would not be honored then
-- cannot be added to them, and what is honored can.
\set ECHO none
\i sql/include/helpers.sql
SET client_min_messages = error;
\set ECHO all

-- What becomes of a statement, whose effect is taken back
CREATE FUNCTION test.outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE statement;
  RAISE SQLSTATE 'ZZ000';
EXCEPTION
  WHEN SQLSTATE 'ZZ000' THEN RETURN 'ok';
  WHEN OTHERS THEN RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
CREATE FUNCTION test.follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TABLE test.parent (id uuid);
CREATE TABLE test.parts (LIKE saga.ledger_due) PARTITION BY RANGE (due);
CREATE TABLE test.due_copy (LIKE saga.ledger_due);
CREATE TABLE test.referring (saga uuid);

-- As pg_repack does
CALL test.refuses('CREATE TRIGGER repack_trigger AFTER INSERT OR DELETE OR UPDATE ON saga.ledger_saga FOR EACH ROW EXECUTE FUNCTION test.follow()');
-- Every table of the ledger, every kind of trigger
SELECT relname, test.outcome(format('CREATE TRIGGER t AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION test.follow()', oid::regclass))
FROM pg_class WHERE relnamespace = 'saga'::regnamespace AND relkind = 'r' ORDER BY 1;
SELECT statement, test.outcome(statement) FROM (VALUES
  ('CREATE TRIGGER t BEFORE UPDATE ON saga.ledger_step FOR EACH ROW EXECUTE FUNCTION test.follow()'),
  ('CREATE TRIGGER t AFTER DELETE ON saga.ledger_step FOR EACH STATEMENT EXECUTE FUNCTION test.follow()'),
  ('CREATE OR REPLACE TRIGGER guard AFTER DELETE ON saga.ledger_step FOR EACH STATEMENT EXECUTE FUNCTION test.follow()'),
  ('CREATE CONSTRAINT TRIGGER t AFTER INSERT ON saga.ledger_step FOR EACH ROW EXECUTE FUNCTION test.follow()'),
  ('CREATE CONSTRAINT TRIGGER t AFTER INSERT ON test.referring FROM saga.ledger_step FOR EACH ROW EXECUTE FUNCTION test.follow()'),
  ('CREATE RULE r AS ON INSERT TO saga.ledger_saga DO ALSO NOTHING'),
  ('CREATE POLICY p ON saga.ledger_saga USING (true)'),
  ('ALTER TABLE saga.ledger_saga ENABLE ROW LEVEL SECURITY'),
  ('ALTER TABLE saga.ledger_saga FORCE ROW LEVEL SECURITY'),
  ('CREATE TABLE test.t (saga uuid REFERENCES saga.ledger_saga)'),
  ('CREATE TABLE test.t (saga uuid, FOREIGN KEY (saga) REFERENCES saga.ledger_saga)'),
  ('ALTER TABLE test.referring ADD FOREIGN KEY (saga) REFERENCES saga.ledger_saga'),
  ('ALTER TABLE test.referring ADD COLUMN other uuid REFERENCES saga.ledger_saga'),
  ('CREATE SCHEMA test_other CREATE TABLE t (saga uuid REFERENCES saga.ledger_saga)'),
  ('ALTER TABLE saga.ledger_step ADD FOREIGN KEY (saga) REFERENCES saga.ledger_saga'),
  ('ALTER TABLE saga.ledger_step ADD CHECK (attempts < 3)'),
  ('ALTER TABLE saga.ledger_step ADD CHECK (attempts < 3) NOT VALID'),
  ('ALTER TABLE saga.ledger_step DROP CONSTRAINT ledger_step_seq'),
  ('ALTER TABLE saga.ledger_step ADD UNIQUE (saga, seq) DEFERRABLE'),
  ('ALTER TABLE saga.ledger_step ADD EXCLUDE USING btree (seq WITH =)'),
  ('ALTER TABLE saga.ledger_step ALTER name SET NOT NULL'),
  ('ALTER TABLE saga.ledger_step ALTER name SET DEFAULT 1'),
  ('ALTER TABLE saga.ledger_step ALTER seq TYPE numeric'),
  ('ALTER TABLE saga.ledger_step ADD COLUMN more integer'),
  ('ALTER TABLE saga.ledger_step ADD COLUMN more text GENERATED ALWAYS AS (upper(key)) STORED'),
  ('ALTER TABLE saga.ledger_step DROP COLUMN output'),
  ('ALTER TABLE saga.ledger_step ALTER seq ADD GENERATED ALWAYS AS IDENTITY'),
  ('ALTER TABLE saga.ledger_step RENAME COLUMN output TO input'),
  ('ALTER TABLE saga.ledger_step RENAME TO steps_of_old'),
  ('ALTER TABLE saga.ledger_step RENAME CONSTRAINT ledger_step_seq TO other'),
  ('ALTER TABLE saga.ledger_step SET SCHEMA test'),
  ('ALTER TABLE saga.ledger_due SET UNLOGGED'),
  ('ALTER TABLE saga.ledger_due INHERIT test.parent'),
  ('ALTER TABLE test.due_copy INHERIT saga.ledger_due'),
  ('CREATE TABLE test.t () INHERITS (saga.ledger_due)'),
  ('ALTER TABLE test.parts ATTACH PARTITION saga.ledger_due DEFAULT'),
  ('ALTER TABLE saga.ledger_home DROP COLUMN copied'),
  ('DO $do$ BEGIN CREATE TRIGGER t AFTER INSERT ON saga.ledger_due FOR EACH ROW EXECUTE FUNCTION test.follow(); END $do$')) s (statement);
-- Not by its name
SET search_path = saga, pg_catalog;
SELECT test.outcome('CREATE TRIGGER t AFTER INSERT ON ledger_due FOR EACH ROW EXECUTE FUNCTION test.follow()');
RESET search_path;
-- By somebody who was granted it
CREATE ROLE regress_saga_follower;
GRANT USAGE ON SCHEMA saga, test TO regress_saga_follower;
GRANT CREATE ON SCHEMA test TO regress_saga_follower;
GRANT TRIGGER, REFERENCES ON saga.ledger_saga, saga.ledger_step TO regress_saga_follower;
SET ROLE regress_saga_follower;
SELECT test.outcome('CREATE TRIGGER t AFTER INSERT ON saga.ledger_saga FOR EACH ROW EXECUTE FUNCTION test.follow()');
SELECT test.outcome('CREATE TABLE test.t (saga uuid REFERENCES saga.ledger_saga)');
-- and who was not gets the server's own error
SELECT test.outcome('CREATE TRIGGER t AFTER INSERT ON saga.ledger_due FOR EACH ROW EXECUTE FUNCTION test.follow()');
SELECT test.outcome('ALTER TABLE saga.ledger_due ADD COLUMN more integer');
RESET ROLE;
REVOKE ALL ON saga.ledger_saga, saga.ledger_step FROM regress_saga_follower;
REVOKE ALL ON SCHEMA saga, test FROM regress_saga_follower;
DROP ROLE regress_saga_follower;

-- What is honored
SELECT statement, test.outcome(statement) FROM (VALUES
  ('CREATE INDEX ON saga.ledger_saga (name)'),
  ('CREATE INDEX ON saga.ledger_saga ((upper(name))) WHERE key IS NULL'),
  ('CREATE UNIQUE INDEX ON saga.ledger_step (saga, seq)'),
  ('CREATE STATISTICS test.s ON name, state FROM saga.ledger_saga'),
  ('ALTER TABLE saga.ledger_saga SET (fillfactor = 60, autovacuum_enabled = off)'),
  ('ALTER TABLE saga.ledger_saga RESET (fillfactor)'),
  ('ALTER TABLE saga.ledger_saga ALTER name SET STATISTICS 1000'),
  ('ALTER TABLE saga.ledger_saga ALTER name SET (n_distinct = 10)'),
  ('ALTER TABLE saga.ledger_saga ALTER input SET STORAGE EXTERNAL'),
  ('ALTER TABLE saga.ledger_saga ALTER input SET COMPRESSION pglz'),
  ('ALTER TABLE saga.ledger_saga REPLICA IDENTITY FULL'),
  ('ALTER TABLE saga.ledger_saga SET TABLESPACE pg_default'),
  ('ALTER TABLE saga.ledger_saga CLUSTER ON ledger_saga_id_key'),
  ('CREATE PUBLICATION regress_saga_p FOR TABLE saga.ledger_saga WHERE (name = ''order'')'),
  ('REINDEX TABLE saga.ledger_saga'),
  ('CLUSTER saga.ledger_saga USING ledger_saga_id_key'),
  ('COMMENT ON TABLE saga.ledger_saga IS ''ours'''),
  ('GRANT SELECT ON saga.ledger_saga TO CURRENT_USER'),
  ('CREATE TABLE test.t (LIKE saga.ledger_saga INCLUDING ALL)'),
  ('CREATE TABLE test.t AS TABLE saga.ledger_saga'),
  ('CREATE VIEW test.v AS TABLE saga.ledger_saga'),
  ('CREATE TABLE test.t (id uuid PRIMARY KEY, other uuid REFERENCES test.t)'),
  -- the guards: the ledger is a copy without them
  ('ALTER TABLE saga.ledger_saga DISABLE TRIGGER ALL'),
  ('ALTER TABLE saga.ledger_saga ENABLE TRIGGER ALL'),
  ('ALTER TABLE saga.ledger_saga ENABLE ALWAYS TRIGGER guard')) s (statement);
SELECT saga.begin('structure') AS id \gset
VACUUM FULL saga.ledger_saga;
CLUSTER saga.ledger_step USING ledger_step_key;
SELECT status FROM saga.step(:'id', 'a', output => '1');

-- As of system catalogs, the structure can be changed by who insists.  Where
-- there is a trigger or rule then, nothing is written.
CREATE PROCEDURE test.written_with(statement text, back text, call text) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE statement;
  CALL test.refuses(call);
  EXECUTE back;
END $$;
SELECT saga.begin('structure') AS pinned \gset
SET allow_system_table_mods = on;
CALL test.written_with('CREATE TRIGGER repack_trigger AFTER INSERT ON saga.ledger_saga FOR EACH ROW EXECUTE FUNCTION test.follow()',
  'DROP TRIGGER repack_trigger ON saga.ledger_saga', 'SELECT saga.begin(''structure'', ''with a trigger'')');
CALL test.written_with('CREATE TRIGGER t BEFORE DELETE ON saga.ledger_saga FOR EACH ROW EXECUTE FUNCTION test.follow()',
  'DROP TRIGGER t ON saga.ledger_saga', format('SELECT saga.complete(%L)', :'pinned'));
CALL test.written_with('CREATE TRIGGER t AFTER INSERT ON saga.ledger_step FOR EACH ROW EXECUTE FUNCTION test.follow()',
  'DROP TRIGGER t ON saga.ledger_step', format('SELECT saga.step(%L, ''a'')', :'pinned'));
CALL test.written_with('CREATE TRIGGER t AFTER INSERT ON saga.ledger_event FOR EACH ROW EXECUTE FUNCTION test.follow()',
  'DROP TRIGGER t ON saga.ledger_event', format('SELECT saga.pause(%L, ''n'')', :'pinned'));
CALL test.written_with('CREATE TRIGGER t AFTER INSERT ON saga.ledger_due FOR EACH ROW EXECUTE FUNCTION test.follow()',
  'DROP TRIGGER t ON saga.ledger_due', 'SELECT saga.begin(''structure'', ''due'', timeout => ''1 hour'')');
CALL test.written_with('CREATE RULE r AS ON INSERT TO saga.ledger_saga DO ALSO NOTHING',
  'DROP RULE r ON saga.ledger_saga', 'SELECT saga.begin(''structure'', ''with a rule'')');
CALL test.written_with('ALTER TABLE test.referring ADD CONSTRAINT f FOREIGN KEY (saga) REFERENCES saga.ledger_saga',
  'ALTER TABLE test.referring DROP CONSTRAINT f', 'SELECT saga.begin(''structure'', ''referred'')');
RESET allow_system_table_mods;
SELECT status FROM saga.step(:'pinned', 'a');
SELECT status FROM saga.complete_step(:'pinned', 'a');
SELECT saga.complete(:'pinned');

-- An index with a predicate has the rows that it is for, and no others: who
-- reads it does not ask the rows again.
SELECT count(saga.begin('sparse')) FROM generate_series(1, 5);
SELECT count(saga.begin('sparse', 'key ' || n)) FROM generate_series(1, 2) n;
SELECT count(saga.begin('sparse', subject => 'subject')) FROM generate_series(1, 3) n;
SET client_min_messages = notice;
CREATE PROCEDURE test.is_read(condition text, index text) LANGUAGE plpgsql AS $$
DECLARE
  query text := 'SELECT count(*) FROM saga.ledger_saga WHERE name = ''sparse'' AND ' || condition;
  line text;
  read boolean := false;
  count bigint;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
    read := read OR line LIKE '%using ' || index || ' on %';
  END LOOP;
  EXECUTE query INTO count;
  RAISE NOTICE '%: % (the index is read: %)', condition, count, read;
END $$;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
CALL test.is_read('key IS NOT NULL', 'ledger_saga_key_name_owner');
CALL test.is_read('subject IS NOT NULL', 'ledger_saga_owner_subject');
RESET enable_seqscan;
RESET enable_bitmapscan;
