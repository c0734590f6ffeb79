-- What tasks needs: two owners, whose tasks the role bench does, and a queue by hand.
CREATE ROLE crowd LOGIN;
CREATE ROLE single LOGIN;
GRANT crowd, single TO bench;
GRANT USAGE ON SCHEMA saga TO crowd, single;
GRANT USAGE ON SCHEMA bench TO crowd, single;

CREATE TABLE raw.task (id uuid PRIMARY KEY, channel text NOT NULL, claimed_at timestamptz, done_at timestamptz);
CREATE INDEX ON raw.task (channel, id) WHERE claimed_at IS NULL;
GRANT ALL ON raw.task TO bench;

CREATE PROCEDURE bench.queue_tasks(channel text, n integer) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. n LOOP
    PERFORM saga.step(saga.begin(current_user::text), 'charge', task => channel, compensation => 'SELECT 1');
    IF i % 100 = 0 THEN
      COMMIT;
    END IF;
  END LOOP;
  COMMIT;
END $$;

-- Claims and completes until an owner's hundred are done; how many claims that took, and how long. (Sagas are called by
-- their owners.)
CREATE PROCEDURE bench.serve_until(owner text, INOUT claims integer, INOUT ms integer) LANGUAGE plpgsql AS $$
DECLARE
  begun timestamptz := clock_timestamp();
  missing integer := 100;
  got integer;
BEGIN
  claims := 0;
  WHILE missing > 0 LOOP
    SELECT count(*) FILTER (WHERE d.name = owner) INTO got FROM (
      SELECT c.name, saga.complete_task(c.task_key) FROM saga.claim_tasks('work', 50) c OFFSET 0) d;
    COMMIT;
    claims := claims + 1;
    missing := missing - got;
  END LOOP;
  ms := extract(epoch FROM clock_timestamp() - begun) * 1000;
END $$;
GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA bench TO PUBLIC;
