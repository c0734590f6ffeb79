-- What the fuzzer needs in each database: the extension, rights, witnesses,
-- and a few functions.  invariants.sql comes after it.

\set ON_ERROR_STOP 1
SET client_min_messages = warning;

CREATE EXTENSION saga;
CREATE EXTENSION IF NOT EXISTS amcheck;
SELECT format('ALTER DATABASE %I OWNER TO fuzz_dba', current_database()) \gexec

CREATE SCHEMA fuzz;
GRANT USAGE ON SCHEMA fuzz TO PUBLIC;
GRANT USAGE ON SCHEMA saga TO fuzz_a, fuzz_b, fuzz_c, fuzz_team, fuzz_nologin,
  fuzz_dba, fuzz_operator, fuzz_auditor, fuzz_monitor, fuzz_outsider, fuzz_writer;

-- Arguments that come from a table: out of line, compressed, with short headers.
CREATE TABLE fuzz.value (i int PRIMARY KEY, t text, j jsonb, p saga.retry_policy);
INSERT INTO fuzz.value
SELECT i,
  CASE i
    WHEN 1 THEN (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 600) g)
    WHEN 2 THEN repeat('compressed ', 3000)
    WHEN 3 THEN 'short'
    WHEN 4 THEN ''
    WHEN 5 THEN repeat('y', 120)
    WHEN 6 THEN 's1'
    WHEN 7 THEN 'SELECT 1'
  END,
  CASE i
    WHEN 1 THEN (SELECT jsonb_object_agg(md5(g::text), g) FROM generate_series(1, 600) g)
    WHEN 2 THEN to_jsonb(repeat('compressed ', 3000))
    WHEN 3 THEN '{"a": 1}'
    WHEN 4 THEN '[]'
    WHEN 5 THEN 'null'
    WHEN 6 THEN (SELECT jsonb_agg(md5(g::text)) FROM generate_series(1, 2000) g)
    WHEN 7 THEN '{"mode": "ok"}'
  END,
  CASE i
    WHEN 1 THEN ROW(3, '10 ms', (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 600) g), NULL, 0, NULL)::saga.retry_policy
    WHEN 2 THEN ROW(3, '10 ms', repeat('linear', 3000), '1 s', 0, '0')::saga.retry_policy
    WHEN 3 THEN ROW(3, '10 ms', 'linear', '20 ms', 0.1, '1 s')::saga.retry_policy
    WHEN 4 THEN ROW(NULL, NULL, '', NULL, NULL, NULL)::saga.retry_policy
    WHEN 5 THEN ROW(1000, '100 years', 'exponential', '100 years', 1, '24 days')::saga.retry_policy
    WHEN 6 THEN ROW(1, '10 ms', 'constant', '10 ms', 0, '10 ms')::saga.retry_policy
  END
FROM generate_series(1, 8) i;
GRANT SELECT ON fuzz.value TO PUBLIC;

CREATE UNLOGGED TABLE fuzz.sink (y text);
GRANT ALL ON fuzz.sink TO PUBLIC;

-- What compensations do.
CREATE TABLE fuzz.undone (saga uuid, seq bigint);
CREATE TABLE fuzz.done (saga uuid, seq bigint);
CREATE TABLE fuzz.account (i int PRIMARY KEY, n int) WITH (fillfactor = 20);
INSERT INTO fuzz.account SELECT i, 0 FROM generate_series(1, 4) i;
GRANT ALL ON fuzz.undone, fuzz.done, fuzz.account TO PUBLIC;

CREATE FUNCTION fuzz.undo(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  n int := (context->'args'->>'n')::int;
BEGIN
  CASE context->'args'->>'mode'
    WHEN 'error' THEN RAISE EXCEPTION 'no';
    WHEN 'SG006' THEN RAISE EXCEPTION 'never' USING ERRCODE = 'SG006';
    WHEN 'SG007' THEN RAISE EXCEPTION 'later' USING ERRCODE = 'SG007';
    WHEN '40001' THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001';
    WHEN 'sleep' THEN PERFORM pg_catalog.pg_sleep(0.003);
    WHEN 'long' THEN RAISE EXCEPTION '%', pg_catalog.repeat('long ', 20000);
    WHEN 'words' THEN RAISE EXCEPTION E'%%s %%n \x01\x1b[31m \' " \\ {}' USING HINT = 'none';
    WHEN 'lock' THEN
      UPDATE fuzz.account SET n = account.n + 1 WHERE i = 1 + undo.n % 4;
      UPDATE fuzz.account SET n = account.n + 1 WHERE i = 4 - undo.n % 4;
    WHEN 'once' THEN
      IF (context->>'attempt')::int = 1 THEN
        RAISE EXCEPTION 'at first';
      END IF;
    WHEN 'terminate' THEN
      IF (context->>'attempt')::int % 4 = 1 THEN
        PERFORM pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid());
      END IF;
    ELSE NULL;
  END CASE;
END $$;

-- What actions do: the same; and some record further steps, under keys of their
-- own or of others.
CREATE FUNCTION fuzz.act(context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  n int := (context->'args'->>'n')::int;
BEGIN
  IF context->'args'->>'mode' IN ('ok', 'once') THEN
    INSERT INTO fuzz.done VALUES (saga.current(), (context->'step'->>'seq')::bigint);
    FOR i IN 1 .. n - 4 LOOP
      PERFORM saga.step(saga.current(), CASE WHEN i = 3 THEN 's7' ELSE format('%s-%s', context->'step'->>'key', i) END,
        action => CASE WHEN i <> 2 THEN 'INSERT INTO fuzz.done SELECT ($1->''saga''->>''id'')::uuid, ($1->''step''->>''seq'')::bigint' END,
        after => CASE WHEN i < 2 THEN '{}' ELSE ARRAY[format('%s-1', context->'step'->>'key')] END,
        approval => CASE WHEN n = 7 AND i = 1 THEN 'and this?' END,
        compensation => CASE WHEN i <> 2 THEN 'INSERT INTO fuzz.undone SELECT ($1->''saga''->>''id'')::uuid, ($1->''step''->>''seq'')::bigint' END);
    END LOOP;
  END IF;
  PERFORM fuzz.undo(context);
  RETURN context->'outputs';
END $$;

-- Calls saga when its transaction commits.
CREATE TABLE fuzz.at_commit (id text);
GRANT INSERT ON fuzz.at_commit TO PUBLIC;
CREATE FUNCTION fuzz.fail_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM saga.fail(NEW.id::uuid, 'at commit');
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER fail_at_commit AFTER INSERT ON fuzz.at_commit
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fuzz.fail_at_commit();

-- Runs a statement, and tells of its error as SQLSTATE|hint|message.
CREATE FUNCTION fuzz.attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  state text;
  message text;
  hint text;
BEGIN
  EXECUTE statement;
  RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
  RETURN pg_catalog.concat(state, '|', pg_catalog.replace(hint, '|', '/'), '|', message);
END $$;

-- Everything that the ledger knows of a saga.
CREATE FUNCTION fuzz.fingerprint(id uuid) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
  SELECT md5(string_agg(r, E'\n' ORDER BY r)) FROM (
    SELECT s::text FROM saga.ledger_saga s WHERE s.id = $1
    UNION ALL SELECT t::text FROM saga.ledger_step t WHERE t.saga = $1
    UNION ALL SELECT h::text FROM saga.ledger_attempt h WHERE h.saga = $1
    UNION ALL SELECT e::text FROM saga.ledger_event e WHERE e.saga = $1
    UNION ALL SELECT d::text FROM saga.ledger_due d WHERE d.saga = $1
    UNION ALL SELECT q::text FROM saga.ledger_queue q WHERE q.saga = $1
    UNION ALL SELECT g::text FROM saga.ledger_signal g WHERE g.saga = $1) x (r)
$$;

-- Where a saga is: its state, a step that waits for a person or is dispatched,
-- and that one's compensation key and attempt.
CREATE FUNCTION fuzz.look(id uuid, OUT state "char", OUT step text, OUT key text, OUT attempt int) RETURNS SETOF record
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
  SELECT s.state, coalesce(t.key, ''), CASE WHEN t.task IS NOT NULL AND t.comp_status <> 'd' THEN saga.internal_forward_key(t.saga, t.seq)
      ELSE saga.internal_compensation_key(t.saga, t.seq) END,
    CASE WHEN t.task IS NOT NULL AND t.comp_status <> 'd' THEN t.attempts ELSE coalesce(t.comp_attempts, 0) END + 1
  FROM saga.ledger_saga s
  LEFT JOIN saga.ledger_step t ON t.saga = s.id AND (t.parked IS NOT NULL OR t.comp_status = 'd'
    OR t.task IS NOT NULL AND t.status <> 'c')
  WHERE s.id = $1 ORDER BY random() LIMIT 1
$$;
