-- For the part forward: sagas whose steps saga runs, and the same queue by hand.

-- The worker's lane has rows of steps, too.
ALTER TABLE raw.due DROP CONSTRAINT due_pkey, ADD PRIMARY KEY (lane, due, saga, seq);

SET ROLE bench;

-- The action of the figures; also what the queue by hand executes
CREATE FUNCTION bench.action() RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT 'UPDATE bench.account SET balance = balance + ($1->''args''->>''amount'')::bigint WHERE id = ($1->''args''->>''account'')::integer RETURNING balance'
$$;

-- Sagas of three steps, one after the other, each saga in one statement
CREATE PROCEDURE bench.record_chains(n integer) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. n LOOP
    PERFORM saga.step(s, 'reserve', action => bench.action(),
        args => jsonb_build_object('account', 1 + (i * 3) % 10000, 'amount', 1)),
      saga.step(s, 'charge', action => bench.action(),
        args => jsonb_build_object('account', 1 + (i * 3 + 1) % 10000, 'amount', 1)),
      saga.step(s, 'ship', action => bench.action(),
        args => jsonb_build_object('account', 1 + (i * 3 + 2) % 10000, 'amount', 1)),
      saga.complete(s, when_done => true)
    FROM saga.begin('chain', i::text) AS s;
    IF i % 10 = 0 THEN
      COMMIT;
    END IF;
  END LOOP;
END $$;

-- One saga of n steps that wait for nothing, and one that waits for all
CREATE PROCEDURE bench.record_fan(n integer) LANGUAGE plpgsql AS $$
DECLARE
  s uuid := saga.begin('fan');
BEGIN
  PERFORM count(saga.step(s, 'line', i::text, action => bench.action(), after => '{}',
    args => jsonb_build_object('account', 1 + i % 10000, 'amount', 1)))
  FROM generate_series(1, n) i;
  PERFORM saga.step(s, 'join', action => 'SELECT count(*) FROM bench.account');
  PERFORM saga.complete(s, when_done => true);
END $$;

-- The queue by hand: whatever waits in raw.due, each action committed with its
-- mark, its output and what follows from it: the next step of the saga made
-- ready, or the saga completed.  It goes on along the chain by itself, without
-- asking the queue.  The saga's row is locked from the mark on, after the action:
-- so nobody fails the saga between the two, and of two sessions that complete the
-- last steps before a third, the second sees what the first did.
CREATE PROCEDURE bench.run_by_hand() LANGUAGE plpgsql AS $$
DECLARE
  d record;
  s raw.saga;
  t raw.step;
  u record;
  before jsonb;
  balance bigint;
  _output jsonb;
  began timestamptz;
  at_due timestamptz;
  at_key text;
  at_seq bigint;
BEGIN
  FOR d IN SELECT lane, due, saga, seq, run, key FROM raw.due
      WHERE due <= now() AND seq > 0 ORDER BY lane, due, saga, seq LOOP
    at_due := d.due; at_key := d.key; at_seq := d.seq;
    before := NULL;
    LOOP
      began := clock_timestamp();
      SELECT * INTO s FROM raw.saga WHERE id = d.saga;
      SELECT * INTO t FROM raw.step
        WHERE saga = d.saga AND key = at_key AND run = 1 AND status = 'w' FOR NO KEY UPDATE SKIP LOCKED;
      EXIT WHEN NOT FOUND OR s.state <> 'r' OR s.paused;
      EXECUTE t.action INTO balance USING jsonb_build_object(
        'saga', jsonb_build_object('id', s.id, 'name', s.name,
          'idempotency_key', s.key, 'input', s.input),
        'step', jsonb_build_object('name', t.name, 'key', t.key, 'seq', t.seq,
          'run', t.run, 'status', t.status, 'attempts', t.attempts,
          'started_at', t.started_at),
        'args', t.args, 'outputs', coalesce(before, '{}'), 'attempt', 1);
      _output := to_jsonb(balance);
      PERFORM FROM raw.saga WHERE id = d.saga AND state = 'r' FOR NO KEY UPDATE;
      IF NOT FOUND THEN
        ROLLBACK;
        EXIT;
      END IF;
      WITH done AS (
        UPDATE raw.step SET status = 'c', begun = nextval('raw.start_order'), attempts = 1,
          attempt_at = began, completed_at = clock_timestamp(), output = _output
        WHERE saga = d.saga AND key = at_key AND run = 1),
      gone AS (
        DELETE FROM raw.due WHERE lane = d.lane AND due = at_due AND saga = d.saga AND seq = at_seq),
      ready AS (
        UPDATE raw.step SET opened_at = clock_timestamp(), ready_at = clock_timestamp()
        WHERE saga = d.saga AND run = 1 AND key = (
          SELECT key FROM raw.step w WHERE w.saga = d.saga AND w.status = 'w' AND w.seq > at_seq
            AND NOT EXISTS (SELECT FROM raw.step o WHERE o.saga = d.saga AND o.seq < w.seq
              AND o.seq <> at_seq AND o.status NOT IN ('c', 'k'))
          ORDER BY w.seq LIMIT 1)
        RETURNING seq, key, ready_at),
      due AS (
        INSERT INTO raw.due (lane, due, saga, seq, run, key)
        SELECT d.lane, ready_at, d.saga, seq, 1, key FROM ready),
      over AS (
        UPDATE raw.saga SET state = 'd', finished_at = clock_timestamp(),
          updated_at = clock_timestamp(), result = _output
        WHERE id = d.saga AND runs = 's' AND NOT EXISTS (SELECT FROM ready)
          AND NOT EXISTS (SELECT FROM raw.step o WHERE o.saga = d.saga
            AND o.seq <> at_seq AND o.status NOT IN ('c', 'k')))
      SELECT * INTO u FROM ready;
      COMMIT;
      EXIT WHEN u.key IS NULL;
      before := jsonb_build_object(at_key, _output);
      at_due := u.ready_at; at_key := u.key; at_seq := u.seq;
    END LOOP;
  END LOOP;
END $$;
RESET ROLE;
