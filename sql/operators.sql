-- Who may decide: the owner, whoever has the owner's rights, and the members of
-- the role named by saga.operator_role, who never change what runs, or as whom.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/people.sql
\set ECHO all

CREATE ROLE regress_saga_shop LOGIN;
CREATE ROLE regress_saga_member IN ROLE regress_saga_shop;
CREATE ROLE regress_saga_heir NOINHERIT IN ROLE regress_saga_shop;
CREATE ROLE regress_saga_operators;
CREATE ROLE regress_saga_operator IN ROLE regress_saga_operators;
CREATE ROLE regress_saga_auditor IN ROLE pg_read_all_data;
CREATE ROLE regress_saga_monitor IN ROLE pg_monitor;
CREATE ROLE regress_saga_stranger;
CREATE ROLE regress_saga_super SUPERUSER;
CREATE ROLE regress_saga_outside IN ROLE regress_saga_operators;
GRANT USAGE ON SCHEMA saga TO regress_saga_shop, regress_saga_member, regress_saga_heir, regress_saga_operator,
  regress_saga_auditor, regress_saga_monitor, regress_saga_stranger;
GRANT ALL ON ALL TABLES IN SCHEMA test TO PUBLIC;
SET saga.operator_role = 'regress_saga_operators';

CREATE FUNCTION test.who(context jsonb) RETURNS void LANGUAGE sql VOLATILE
AS 'SELECT test.undo(context, current_user::text || '' '' || session_user)';

-- A saga of the shop in the state that a call is for
CREATE PROCEDURE test.make(wanted text, INOUT id uuid) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('role', 'regress_saga_shop', true);
  id := saga.begin('operators', input => '"secret"');
  PERFORM saga.step(id, 'base', compensation => 'SELECT test.who($1)', args => '"secret"', output => '"secret"');
  PERFORM saga.step(id, 'open', args => '"secret"', review => CASE wanted WHEN 'parked' THEN 'secret?' END,
    compensation => CASE WHEN wanted <> 'dispatched' THEN 'SELECT test.who($1)' END,
    notify => CASE WHEN wanted = 'dispatched' THEN 'operators' END);
  IF wanted = 'dispatched' THEN
    PERFORM saga.fail(id, 'secret');
  END IF;
  IF wanted IN ('parked', 'paused') THEN
    IF wanted = 'paused' THEN
      PERFORM saga.pause(id, 'n');
    END IF;
    PERFORM saga.fail(id, 'secret');
  ELSIF wanted = 'pivot' THEN
    PERFORM saga.step(id, 'pivot', kind => 'pivot', completed => true);
    PERFORM saga.fail(id, 'secret');
  ELSIF wanted = 'completed' THEN
    PERFORM saga.complete_step(id, 'open');
    PERFORM saga.complete(id, '"secret"');
  END IF;
  COMMIT;
  IF wanted = 'parked' THEN
    PERFORM saga.wait(id);
  ELSIF wanted = 'dispatched' THEN
    CALL test.wait_until(format('SELECT count(*) = 1 FROM saga.pending_compensations p JOIN saga.steps USING (saga_id, seq)
      WHERE saga_id = %L AND compensation_status = ''dispatched''', id));
  END IF;
  COMMIT;
END $$;

CREATE TABLE test.call (n integer GENERATED ALWAYS AS IDENTITY, call text, state text, sql text);
INSERT INTO test.call (call, state, sql) VALUES
  ('resolve', 'parked', 'SELECT saga.resolve($1, ''open'', ''done'', ''n'')'),
  ('abandon', 'parked', 'SELECT saga.abandon($1, ''n'')'),
  ('reopen', 'pivot', 'SELECT saga.reopen($1, ''n'')'),
  ('rollback_to', 'running', 'SELECT saga.rollback_to($1, ''base'')'),
  ('set_timeout', 'running', 'SELECT saga.set_timeout($1, ''1 day'') IS NOT NULL'),
  ('pause', 'running', 'SELECT saga.pause($1, ''n'')'),
  ('resume', 'paused', 'SELECT saga.resume($1)'),
  ('plan', 'running', 'SELECT count(*) || '' rows'' FROM saga.plan($1)'),
  ('redact', 'completed', 'SELECT ''redacted'' || saga.redact($1)'),
  ('step', 'running', 'SELECT (saga.step($1, ''new'')).status'),
  ('complete_step', 'running', 'SELECT (saga.complete_step($1, ''open'')).status'),
  ('fail_step', 'running', 'SELECT (saga.fail_step($1, ''open'', ''e'')).status'),
  ('complete', 'completed', 'SELECT saga.complete($1)'),
  ('fail', 'running', 'SELECT saga.fail($1)'),
  ('cancel', 'running', 'SELECT saga.cancel($1)'),
  ('wait', 'completed', 'SELECT saga.wait($1)'),
  ('claim', 'dispatched', 'SELECT count(*) || '' claimed'' FROM saga.claim_compensations(''operators'') c WHERE c.saga_id = $1'),
  ('done', 'dispatched', 'SELECT saga.complete_compensation($1 || ''-'' || (SELECT max(seq) FROM test.seqs WHERE saga = $1) || ''-undo'')'),
  ('failed', 'dispatched', 'SELECT saga.fail_compensation($1 || ''-'' || (SELECT max(seq) FROM test.seqs WHERE saga = $1) || ''-undo'', 1, ''e'')'),
  ('adopt', 'running', 'SELECT ''adopted'' || saga.adopt() WHERE $1 IS NOT NULL');
CREATE TABLE test.seqs (saga uuid, seq bigint);
GRANT SELECT ON test.seqs TO PUBLIC;
CREATE TABLE test.cell (call text, who text, cell text, changed boolean);

CREATE PROCEDURE test.fill() LANGUAGE plpgsql AS $$
DECLARE
  c record;
  who text;
  it uuid;
  before text;
  answer text;
BEGIN
  FOR c IN SELECT * FROM test.call ORDER BY n LOOP
    FOREACH who IN ARRAY ARRAY['shop', 'member', 'heir', 'operator', 'auditor', 'monitor', 'stranger', 'super'] LOOP
      CALL test.make(c.state, it);
      INSERT INTO test.seqs SELECT t.saga, t.seq FROM saga.ledger_step t WHERE t.saga = it;
      COMMIT;
      before := test.picture(it);
      BEGIN
        PERFORM set_config('role', 'regress_saga_' || who, true);
        EXECUTE c.sql INTO answer USING it;
        answer := coalesce(nullif(answer, ''), 'done');
      EXCEPTION WHEN OTHERS THEN
        answer := sqlstate;
      END;
      PERFORM set_config('role', 'none', true);
      INSERT INTO test.cell VALUES (c.call, who, answer, test.picture(it) <> before);
      COMMIT;
    END LOOP;
  END LOOP;
END $$;
CALL test.fill();

CREATE FUNCTION test.cell(call text, who text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT replace(cell, 'regress_saga_', '') || CASE WHEN changed AND cell ~ '^[0-9S][0-9G0]{4}$' THEN ', and changed it' ELSE '' END
  FROM test.cell c WHERE (c.call, c.who) = ($1, $2)
$$;
SELECT call, test.cell(call, 'shop') AS owner, test.cell(call, 'member') AS member, test.cell(call, 'heir') AS noinherit,
  test.cell(call, 'operator') AS operator, test.cell(call, 'auditor') AS auditor, test.cell(call, 'monitor') AS monitor,
  test.cell(call, 'stranger') AS stranger, test.cell(call, 'super') AS superuser
FROM test.call ORDER BY n;

-- What an operator lets run is what was registered, as who registered it; and
-- the history says who let it.
CALL test.make('parked', NULL) \g /dev/null
SELECT id FROM saga.sagas WHERE name = 'operators' ORDER BY id DESC LIMIT 1 \gset
SET ROLE regress_saga_operator;
SELECT saga.resolve(:'id', 'open', 'retry', 'go on');
RESET ROLE;
SELECT saga.wait(:'id');
SELECT string_agg(step || ' ' || what, ', ' ORDER BY n) FROM test.witness WHERE saga = :'id';
SELECT event, step, detail FROM saga.events WHERE saga_id = :'id' AND event IN ('failing', 'parked', 'resolved') ORDER BY position;
SELECT DISTINCT run_as FROM saga.steps WHERE saga_id = :'id';
SELECT owner FROM saga.sagas WHERE id = :'id';

-- What they read: operators and auditors everything, monitors the outline
CALL test.make('parked', NULL) \g /dev/null
CREATE FUNCTION test.reads() RETURNS TABLE (view text, anything boolean, secrets boolean) LANGUAGE sql AS $$
  SELECT 'sagas', count(*) > 0, bool_or(s::text LIKE '%secret%') FROM saga.sagas s WHERE name = 'operators' UNION ALL
  SELECT 'steps', count(*) > 0, bool_or(s::text LIKE '%secret%') FROM saga.steps s UNION ALL
  SELECT 'events', count(*) > 0, bool_or(s::text LIKE '%secret%') FROM saga.events s UNION ALL
  SELECT 'review_queue', count(*) > 0, bool_or(s::text LIKE '%secret%') FROM saga.review_queue s WHERE saga = 'operators' UNION ALL
  SELECT 'pending_compensations', count(*) > 0, bool_or(s::text LIKE '%secret%') FROM saga.pending_compensations s WHERE channel = 'operators'
$$;
SET ROLE regress_saga_shop;
SELECT * FROM test.reads();
SET ROLE regress_saga_operator;
SELECT * FROM test.reads();
SET ROLE regress_saga_auditor;
SELECT * FROM test.reads();
SET ROLE regress_saga_monitor;
SELECT * FROM test.reads();
SELECT saga, key, owner, step, why, attempts, last_completed, outputs, safe_to_retry FROM saga.review_queue WHERE saga = 'operators' ORDER BY saga_id DESC LIMIT 1 \gx
SET ROLE regress_saga_stranger;
SELECT * FROM test.reads();
SET ROLE regress_saga_heir;
SELECT * FROM test.reads();
RESET ROLE;
-- no function of the reader's own sees more, before or beside that
SET ROLE regress_saga_stranger;
CREATE FUNCTION pg_temp.leak(what anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
  RAISE NOTICE 'leaked %', what;
  RETURN true;
END $$;
SELECT count(*) FROM saga.review_queue WHERE pg_temp.leak(why) OR pg_temp.leak(outputs) OR pg_temp.leak(step);
RESET ROLE;

-- USAGE on the schema is the gate for them, too.
SET ROLE regress_saga_outside;
CALL test.refuses('SELECT count(*) FROM saga.review_queue');
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'open', 'done', 'n'));
RESET ROLE;

-- The setting decides, at every call anew; a role that is not there has no members.
SELECT id FROM saga.sagas WHERE name = 'operators' AND state = 'needs_review' ORDER BY id DESC LIMIT 1 \gset
RESET saga.operator_role;
SET ROLE regress_saga_operator;
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'open', 'done', 'n'));
RESET ROLE;
SET saga.operator_role = 'regress_saga_no_such_role';
SET ROLE regress_saga_operator;
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'open', 'done', 'n'));
CALL test.refuses('SET saga.operator_role = ''regress_saga_operators''');
RESET ROLE;
SET saga.operator_role = 'regress_saga_operators';
REVOKE regress_saga_operators FROM regress_saga_operator;
SET ROLE regress_saga_operator;
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'open', 'done', 'n'));
RESET ROLE;
-- the role itself is one of them; one who would have to SET ROLE first, too
GRANT regress_saga_operators TO regress_saga_operator;
ALTER ROLE regress_saga_operator NOINHERIT;
GRANT USAGE ON SCHEMA saga TO regress_saga_operators, regress_saga_operator;
SET ROLE regress_saga_operators;
SELECT saga.pause(:'id', 'n');
SET ROLE regress_saga_operator;
SELECT saga.resume(:'id', 'n');
SELECT saga.resolve(:'id', 'open', 'skip', 'n');
RESET ROLE;
SELECT saga.wait(:'id');

-- Inside SECURITY DEFINER the definer decides, and is who is named.
CREATE FUNCTION test.settle(id uuid) RETURNS text LANGUAGE sql SECURITY DEFINER
AS $$SELECT saga.resolve(id, 'open', 'done', 'by the button')$$;
ALTER FUNCTION test.settle(uuid) OWNER TO regress_saga_operator;
CALL test.make('parked', NULL) \g /dev/null
SELECT id FROM saga.sagas WHERE name = 'operators' AND state = 'needs_review' ORDER BY id DESC LIMIT 1 \gset
SET ROLE regress_saga_stranger;
SELECT test.settle(:'id');
RESET ROLE;
SELECT event, detail FROM saga.events WHERE saga_id = :'id' AND event = 'resolved';

RESET saga.operator_role;
DROP FUNCTION test.settle(uuid);
DROP OWNED BY regress_saga_shop, regress_saga_member, regress_saga_heir, regress_saga_operators, regress_saga_operator,
  regress_saga_auditor, regress_saga_monitor, regress_saga_stranger, regress_saga_super, regress_saga_outside;
DROP ROLE regress_saga_shop, regress_saga_member, regress_saga_heir, regress_saga_operators, regress_saga_operator,
  regress_saga_auditor, regress_saga_monitor, regress_saga_stranger, regress_saga_super, regress_saga_outside;
