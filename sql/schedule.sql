-- When a failed compensation is tried again: constant, linear, exponential, the
-- longest delay, jitter; and that it is tried at that time, by a virtual clock.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/clock.sql
\set ECHO all

-- Undoes a saga by moving the clock from attempt to attempt, and tells how
-- long each one was put off.
CREATE TABLE test.delay (name text, attempt integer, delay interval);
CREATE PROCEDURE test.run(name text, compensation text, policy saga.retry_policy) LANGUAGE plpgsql AS $$
DECLARE
  it uuid := test.begin(name);
  step record;
  made integer := 0;
BEGIN
  PERFORM saga.step(it, 'a', compensation => compensation, compensation_retry => policy);
  PERFORM saga.fail(it);
  LOOP
    COMMIT;
    CALL test.wait_until(format('SELECT count(*) > %s FROM saga.attempts WHERE saga_id = %L AND phase = ''compensation''',
                                made, it));
    made := made + 1;
    SELECT s.next_attempt_at, a.finished_at, s.compensation_attempts INTO step
    FROM saga.steps s JOIN saga.attempts a USING (saga_id, seq)
    WHERE s.saga_id = it AND a.phase = 'compensation' AND a.attempt = made;
    -- one at a time: none came before its time
    IF step.compensation_attempts <> made THEN
      RAISE EXCEPTION 'attempt % came early', step.compensation_attempts;
    END IF;
    EXIT WHEN step.next_attempt_at IS NULL;
    INSERT INTO test.delay VALUES (run.name, made, step.next_attempt_at - step.finished_at);
    PERFORM test.advance(step.next_attempt_at - step.finished_at);
  END LOOP;
  PERFORM saga.wait(it);
END $$;
CREATE FUNCTION test.fails() RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$;
CREATE FUNCTION test.later() RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE SQLSTATE 'SG007'; END$$;

CALL test.run('constant', 'SELECT test.fails()', saga.retry_policy(5, '1 minute', 'constant', '1 day', 0));
CALL test.run('linear', 'SELECT test.fails()', saga.retry_policy(5, '1 minute', 'linear', '1 day', 0));
CALL test.run('exponential', 'SELECT test.fails()', saga.retry_policy(8, '1 minute', 'exponential', '1 day', 0));
CALL test.run('linear, capped', 'SELECT test.fails()', saga.retry_policy(6, '1 minute', 'linear', '150 s', 0));
CALL test.run('exponential, capped', 'SELECT test.fails()', saga.retry_policy(8, '1 minute', 'exponential', '10 minutes', 0));
CALL test.run('succeeds', 'SELECT test.undo_after($1, 2)', saga.retry_policy(5, '1 minute', 'exponential', '1 day', 0));
CALL test.run('one attempt', 'SELECT test.fails()', saga.retry_policy(1, '1 minute', 'exponential', '1 day', 0));
-- the defaults: five attempts, from a second on, doubled, and a jitter
CALL test.run('default', 'SELECT test.fails()', NULL);
-- those that ask to be called later follow the same policy, and are not charged
CALL test.run('later', 'SELECT test.undo_after($1, 4, $$SG007$$)', saga.retry_policy(1, '1 minute', 'linear', '1 day', 0));
SELECT name, string_agg(delay::text, ', ' ORDER BY attempt) AS delays, state, test.undone(name)
FROM test.named n LEFT JOIN test.delay d USING (name) JOIN saga.sagas s (id, kind, key, subject, state) USING (id)
WHERE name <> 'default' GROUP BY n.id, name, state ORDER BY n.id;
SELECT attempt, delay BETWEEN interval '0.9 s' * 2 ^ (attempt - 1) AND interval '1.1 s' * 2 ^ (attempt - 1) AS about
FROM test.delay WHERE name = 'default' ORDER BY attempt;

-- Jitter spreads evenly around the delay: 0.5 means half of it to half more.
CALL test.run('jitter', 'SELECT test.fails()', saga.retry_policy(60, '1 minute', 'constant', '1 day', 0.5));
SELECT count(*), min(delay) >= '30 s' AS not_less, max(delay) <= '90 s' AS not_more,
  count(DISTINCT delay) > 50 AS differ, min(delay) < '45 s' AS low, max(delay) > '75 s' AS high,
  avg(delay) BETWEEN '50 s' AND '70 s' AS centred
FROM test.delay WHERE name = 'jitter';

-- ... but never beyond the longest delay
CALL test.run('jitter, capped', 'SELECT test.fails()', saga.retry_policy(60, '1 minute', 'constant', '1 minute', 0.5));
SELECT count(*), min(delay) >= '30 s' AS not_less, max(delay) AS longest, count(DISTINCT delay) > 10 AS differ
FROM test.delay WHERE name = 'jitter, capped';

-- A huge delay stays within a century, and the arithmetic within its bounds.
SELECT test.begin('huge') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.fails()',
  compensation_retry => saga.retry_policy(1000, '99 years', 'exponential', '100 years', 1));
SELECT saga.fail(:'id');
CALL test.wait_until(format($$SELECT next_attempt_at IS NOT NULL FROM saga.steps WHERE saga_id = %L$$, :'id'));
SELECT next_attempt_at BETWEEN now() AND now() + '101 years' AS in_bounds FROM saga.steps WHERE saga_id = :'id';

-- The clock may move on without a wake-up: what is due then is found.
SELECT test.begin('idle') AS id \gset
SELECT status FROM saga.step(:'id', 'a', compensation => 'SELECT test.undo_after($1, 1)',
  compensation_retry => saga.retry_policy(2, '30 days', 'constant', '30 days', 0));
SELECT saga.fail(:'id');
CALL test.wait_until(format($$SELECT next_attempt_at IS NOT NULL FROM saga.steps WHERE saga_id = %L$$, :'id'));
SELECT test.advance('29 days 23 hours 50 minutes');
SELECT saga.wait(:'id', '100 ms');
SELECT test.advance('20 minutes');
SELECT saga.wait(:'id');
