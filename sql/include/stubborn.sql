-- An action that traps each cancel, wherever it strikes, and runs until test.release().
CREATE TABLE test.released ();
CREATE FUNCTION test.stubborn() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  LOOP
    BEGIN
      LOOP
        BEGIN
          IF EXISTS (SELECT FROM test.released) THEN
            RETURN;
          END IF;
          PERFORM pg_sleep(0.01);
        EXCEPTION WHEN query_canceled THEN
          NULL;
        END;
      END LOOP;
    EXCEPTION WHEN query_canceled THEN
      NULL;
    END;
  END LOOP;
END $$;
GRANT SELECT ON test.released TO PUBLIC;
CREATE FUNCTION test.release() RETURNS void LANGUAGE sql AS 'INSERT INTO test.released DEFAULT VALUES';
-- A cancel that comes before its first block is not trapped.
CREATE PROCEDURE test.until_stubborn(id uuid) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.running WHERE saga_id = %L AND wait_event = ''PgSleep''', id));
END $$;
