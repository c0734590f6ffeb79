-- Drops the roles of the tests, with what they own and were granted here: those
-- of this test at its end, those of an earlier, broken run at the beginning.
DO $$
DECLARE
  name name;
BEGIN
  FOR name IN SELECT rolname FROM pg_roles WHERE rolname LIKE 'regress\_saga%' LOOP
    EXECUTE format('DROP OWNED BY %I', name);
    EXECUTE format('DROP ROLE %I', name);
  END LOOP;
END $$;
