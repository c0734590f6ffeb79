-- The ledger as a good engineer would write it by hand, three times:
--
--	raw		with the tables of ours: columns, storage settings, unique keys and
--			indexes, sequence; NOT NULL, but not the CHECK constraints, which
--			favours it, since saga verifies with every write what they say
--	checked	the same with the CHECK constraints
--	lean	with the columns only that the saga of the figures fills, and the
--			few more that undoing it by hand would need
--
-- The rows that are written hold the same in all of them.

CREATE ROLE bench LOGIN;
GRANT USAGE ON SCHEMA saga TO bench;

CREATE SCHEMA raw;
CREATE SCHEMA checked;
CREATE SCHEMA lean;

CREATE TABLE raw.saga (LIKE saga.ledger_saga) WITH (fillfactor = 80);
CREATE TABLE raw.step (LIKE saga.ledger_step) WITH (fillfactor = 70);
CREATE TABLE checked.saga (LIKE saga.ledger_saga INCLUDING CONSTRAINTS) WITH (fillfactor = 80);
CREATE TABLE checked.step (LIKE saga.ledger_step INCLUDING CONSTRAINTS) WITH (fillfactor = 70);

CREATE TABLE lean.saga (
  id            uuid        NOT NULL,
  owner         oid         NOT NULL,
  started_at    timestamptz NOT NULL,
  on_failure    "char"      NOT NULL,
  owner_name    text        COLLATE "C" NOT NULL,
  name          text        COLLATE "C" NOT NULL,
  key           text        COLLATE "C",
  input         jsonb,
  updated_at    timestamptz NOT NULL,
  due           timestamptz,
  finished_at   timestamptz,
  state         "char"      NOT NULL,
  paused        boolean     NOT NULL,
  reason        text        COLLATE "C",
  result        jsonb
) WITH (fillfactor = 80);

CREATE TABLE lean.step (
  saga               uuid        NOT NULL,
  seq                bigint      NOT NULL,
  started_at         timestamptz NOT NULL,
  run                integer     NOT NULL,
  run_as             oid         NOT NULL,
  kind               "char"      NOT NULL,
  compensate_on      "char"      NOT NULL,
  acknowledge        boolean     NOT NULL,
  run_as_name        text        COLLATE "C" NOT NULL,
  key                text        COLLATE "C" NOT NULL,
  compensation       text        COLLATE "C",
  args               jsonb,
  compensation_retry text        COLLATE "C" NOT NULL,
  attempts           integer     NOT NULL,
  status             "char"      NOT NULL,
  comp_status        "char"      NOT NULL,
  attempt_at         timestamptz,
  completed_at       timestamptz,
  retry_at           timestamptz,
  comp_attempts      integer,
  compensated_at     timestamptz,
  error              text        COLLATE "C",
  output             jsonb
) WITH (fillfactor = 70);

DO $$
DECLARE
  s text;
BEGIN
  FOREACH s IN ARRAY '{raw,checked,lean}'::text[] LOOP
    EXECUTE format('ALTER TABLE %I.saga ADD PRIMARY KEY (id) WITH (fillfactor = 90)', s);
    EXECUTE format('CREATE UNIQUE INDEX ON %I.saga (owner, name, key) WHERE key IS NOT NULL', s);
    EXECUTE format('ALTER TABLE %I.step ADD PRIMARY KEY (saga, key, run)', s);
    EXECUTE format('CREATE SEQUENCE %I.start_order CACHE 1', s);
  END LOOP;
END $$;

-- For the failure and the drain
CREATE TABLE raw.attempt (LIKE saga.ledger_attempt);
ALTER TABLE raw.attempt ADD PRIMARY KEY (saga, seq, phase, attempt);
CREATE TABLE raw.due (LIKE saga.ledger_due);
ALTER TABLE raw.due ALTER seq SET DEFAULT 0;	-- the saga itself
ALTER TABLE raw.due ADD PRIMARY KEY (lane, due, saga);
CREATE TABLE raw.event (LIKE saga.ledger_event);
CREATE INDEX ON raw.event (saga, at);

-- What saga stores of its default retry policy, for equal rows
CREATE SCHEMA bench AUTHORIZATION bench;
CREATE TABLE bench.policy AS
  SELECT compensation_retry AS policy
  FROM saga.ledger_step WHERE false;
GRANT SELECT ON bench.policy TO bench;

SET ROLE bench;
DO $$
DECLARE s uuid := saga.start('policy');
BEGIN
  PERFORM saga.step(s, 'policy', compensation => 'SELECT 1', completed => true);
  PERFORM saga.complete(s);
END $$;
RESET ROLE;
INSERT INTO bench.policy SELECT compensation_retry FROM saga.ledger_step LIMIT 1;

\set schema raw
\i bench/functions.sql
\i bench/fail.sql
\set schema lean
\i bench/functions.sql

GRANT USAGE ON SCHEMA raw, checked, lean TO bench;
GRANT ALL ON ALL TABLES IN SCHEMA raw, checked, lean TO bench;
GRANT ALL ON ALL SEQUENCES IN SCHEMA raw, checked, lean TO bench;

-- ---------------------------------------------------------------------------
-- For latency and drain
-- ---------------------------------------------------------------------------

SET ROLE bench;

CREATE TABLE bench.mark (saga uuid PRIMARY KEY, at timestamptz NOT NULL);

CREATE TABLE bench.account (id integer PRIMARY KEY, balance bigint NOT NULL)
  WITH (fillfactor = 50);
INSERT INTO bench.account SELECT i, 0 FROM generate_series(1, 10000) i;

-- The compensation of the drain; also what the loop executes
CREATE FUNCTION bench.compensation() RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT 'UPDATE bench.account SET balance = balance + ($1->''args''->>''amount'')::bigint WHERE id = ($1->''args''->>''account'')::integer'
$$;

-- Failed sagas of three steps, ours
CREATE PROCEDURE bench.fail_sagas(n integer) LANGUAGE plpgsql AS $$
DECLARE
  s uuid;
BEGIN
  FOR i IN 1 .. n LOOP
    s := saga.start('drain');
    FOR j IN 1 .. 3 LOOP
      PERFORM saga.step(s, 'step ' || j, compensation => bench.compensation(),
        args => jsonb_build_object('account', 1 + (i * 3 + j) % 10000, 'amount', 1),
        output => '{"done": true}');
    END LOOP;
    PERFORM saga.fail(s, 'bench');
    IF i % 10 = 0 THEN
      COMMIT;
    END IF;
  END LOOP;
END $$;

-- Failed sagas whose steps are undone by listeners
CREATE PROCEDURE bench.fail_to_listeners(n integer, steps integer) LANGUAGE plpgsql AS $$
DECLARE
  s uuid;
BEGIN
  FOR i IN 1 .. n LOOP
    s := saga.start('drain');
    FOR j IN 1 .. steps LOOP
      PERFORM saga.step(s, 'step ' || j, notify => 'work',
        args => jsonb_build_object('account', 1 + (i * 3 + j) % 10000, 'amount', 1),
        output => '{"done": true}');
    END LOOP;
    PERFORM saga.fail(s, 'bench');
    IF i % 10 = 0 THEN
      COMMIT;
    END IF;
  END LOOP;
END $$;

-- So many of those are claimed and acknowledged
CREATE PROCEDURE bench.acknowledge(n integer) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. n / 100 LOOP
    PERFORM saga.complete_compensation(c.compensation_key)
      FROM saga.claim_compensations('work', 100) c;
    COMMIT;
  END LOOP;
END $$;

-- The same undo by hand: whatever waits in raw.due, each compensation committed
-- with its mark and its attempt, the last one with the saga's end.  Several
-- sessions share the sagas by their ids.
CREATE PROCEDURE bench.undo_by_hand(part integer DEFAULT 0, parts integer DEFAULT 1) LANGUAGE plpgsql AS $$
DECLARE
  d record;
  s raw.saga;
  t raw.step;
  began timestamptz;
  n bigint;
  first boolean;
BEGIN
  FOR d IN SELECT lane, due, saga FROM raw.due WHERE due <= now() AND abs(uuid_hash(saga) % parts) = part
      ORDER BY lane, due, saga LOOP
    SELECT * INTO s FROM raw.saga WHERE id = d.saga FOR UPDATE;
    CONTINUE WHEN s.state <> 'u' OR s.paused;
    first := true;
    FOR t IN SELECT * FROM raw.step WHERE saga = d.saga AND comp_status IN ('r', 'p')
        ORDER BY seq DESC LOOP
      IF NOT first THEN
        COMMIT;
      END IF;
      first := false;
      began := clock_timestamp();
      EXECUTE t.compensation USING jsonb_build_object(
        'saga', jsonb_build_object('id', s.id, 'name', s.name,
          'idempotency_key', s.key, 'input', s.input, 'reason', s.reason,
          'details', s.details, 'failure_kind', s.failure_kind),
        'step', jsonb_build_object('name', t.name, 'key', t.key, 'seq', t.seq,
          'run', t.run, 'status', t.status, 'attempts', t.attempts,
          'started_at', t.started_at, 'completed_at', t.completed_at),
        'args', t.args, 'output', t.output, 'error', t.error, 'attempt', 1);
      GET DIAGNOSTICS n = ROW_COUNT;
      UPDATE raw.step SET comp_status = 'c', comp_attempts = 1, comp_charged = 1,
        compensated_at = clock_timestamp()
      WHERE saga = t.saga AND key = t.key AND run = t.run;
      INSERT INTO raw.attempt (saga, seq, started_at, finished_at, rows, attempt, phase, outcome)
      VALUES (t.saga, t.seq, began, clock_timestamp(), n, 1, 'c', 's');
    END LOOP;
    UPDATE raw.saga SET state = 'c', due = NULL, lane = NULL,
      updated_at = clock_timestamp(), finished_at = clock_timestamp()
    WHERE id = d.saga;
    DELETE FROM raw.due WHERE lane = d.lane AND due = d.due AND saga = d.saga;
    COMMIT;
  END LOOP;
END $$;
RESET ROLE;
