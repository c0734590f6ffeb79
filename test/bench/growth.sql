-- A history of finished sagas, those of the figures, by the calls.  Each is a
-- transaction: if more were in one, the versions of their rows that are done
-- with could not make room, and tables would grow otherwise than in real life.

SET ROLE bench;

CREATE TABLE bench.content AS
  SELECT * FROM (VALUES
    (0, :'step0', :'compensation0', :'args0'::jsonb, :'output0'::jsonb),
    (1, :'step1', :'compensation1', :'args1'::jsonb, :'output1'::jsonb),
    (2, :'step2', :'compensation2', :'args2'::jsonb, :'output2'::jsonb)
  ) v (i, step, compensation, args, output);

CREATE PROCEDURE bench.finish_saga(n integer) LANGUAGE plpgsql AS $$
DECLARE
  content bench.content[] := ARRAY(SELECT c FROM bench.content c ORDER BY i);
  c bench.content;
  s uuid;
BEGIN
  FOR i IN 1 .. n LOOP
    s := saga.start('order', 'order-' || left(md5(random()::text || i), 16));
    FOREACH c IN ARRAY content LOOP
      PERFORM saga.step(s, c.step, compensation => c.compensation, args => c.args);
      PERFORM saga.complete_step(s, c.step, c.output);
    END LOOP;
    PERFORM saga.complete(s);
    COMMIT;
  END LOOP;
END $$;

CREATE PROCEDURE bench.finish_raw(n integer) LANGUAGE plpgsql AS $$
DECLARE
  content bench.content[] := ARRAY(SELECT c FROM bench.content c ORDER BY i);
  owner CONSTANT oid := current_user::regrole::oid;
  policy CONSTANT text := (SELECT p.policy FROM bench.policy p);
  c bench.content;
  s uuid;
BEGIN
  FOR i IN 1 .. n LOOP
    s := begin((lpad(pg_current_xact_id()::text, 16, '0') || '8a6b2c4d9e1f3057')::uuid,
      'order', 'order-' || left(md5(random()::text || i), 16), owner, 'bench');
    FOREACH c IN ARRAY content LOOP
      PERFORM start_step(s, c.step, c.compensation, c.args, owner, 'bench', policy);
      PERFORM complete_step(s, c.step, c.output, owner);
    END LOOP;
    PERFORM complete(s, owner);
    COMMIT;
  END LOOP;
END $$;
