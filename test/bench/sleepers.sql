-- What sleepers needs: sagas that do nothing (steps that sleep for long, what is over, what
-- a person was asked about), and some steps that are woken.
CREATE PROCEDURE bench.fill(what text, n integer) LANGUAGE plpgsql AS $$
DECLARE
  s uuid;
BEGIN
  FOR i IN 1 .. n LOOP
    s := saga.begin(what);
    CASE what
      WHEN 'sleeping' THEN
        PERFORM saga.step(s, 'later', delay => '10 days', action => 'SELECT 1'), saga.complete(s, when_done => true);
      WHEN 'finished' THEN
        PERFORM saga.step(s, 'done', completed => true, compensation => 'SELECT 1'), saga.complete(s);
      WHEN 'parked' THEN
        PERFORM saga.step(s, 'asks', action => 'SELECT saga.require(false, ''no'')', on_failure => 'review');
    END CASE;
    IF i % 100 = 0 THEN
      COMMIT;
    END IF;
  END LOOP;
  COMMIT;
END $$;

CREATE TABLE bench.woken (due timestamptz, at timestamptz DEFAULT clock_timestamp());
GRANT ALL ON bench.woken TO PUBLIC;
-- So many, each after the other; how late each began, in microseconds, sorted
CREATE PROCEDURE bench.wake(n integer) LANGUAGE plpgsql AS $$
DECLARE
  due timestamptz;
  id uuid;
BEGIN
  TRUNCATE bench.woken;
  FOR i IN 1 .. n LOOP
    due := clock_timestamp() + interval '20 ms';
    id := saga.begin('timer');
    PERFORM saga.step(id, 'ring', not_before => due, action => format('INSERT INTO bench.woken (due) VALUES (%L)', due));
    COMMIT;
    PERFORM saga.wait_step(id, 'ring');
    COMMIT;
  END LOOP;
END $$;
CREATE FUNCTION bench.woken_us() RETURNS SETOF bigint LANGUAGE sql AS
  $$ SELECT (extract(epoch FROM at - due) * 1000000)::bigint FROM bench.woken ORDER BY 1 $$;
