-- Who may claim and report, who may look, and that a stranger learns nothing.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\set ECHO all

-- The usual set-up: a role that owns the sagas, and that nobody logs in as; the
-- application and the service that refunds are members of it.
CREATE ROLE regress_saga_l_shop;
CREATE ROLE regress_saga_l_app LOGIN IN ROLE regress_saga_l_shop;
CREATE ROLE regress_saga_l_refunds LOGIN IN ROLE regress_saga_l_shop;
CREATE ROLE regress_saga_l_noinherit LOGIN NOINHERIT IN ROLE regress_saga_l_shop;
CREATE ROLE regress_saga_l_stranger LOGIN;
CREATE ROLE regress_saga_l_outside LOGIN;
CREATE ROLE regress_saga_l_auditor LOGIN IN ROLE pg_read_all_data;
CREATE ROLE regress_saga_l_monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE regress_saga_l_operators;
CREATE ROLE regress_saga_l_operator LOGIN IN ROLE regress_saga_l_operators;
GRANT USAGE ON SCHEMA saga TO regress_saga_l_shop, regress_saga_l_refunds, regress_saga_l_noinherit, regress_saga_l_stranger, regress_saga_l_auditor,
  regress_saga_l_monitor, regress_saga_l_operator;
GRANT SELECT, INSERT ON test.named TO PUBLIC;

-- The application takes the owner's role for as long as it begins a saga.
SET SESSION AUTHORIZATION regress_saga_l_app;
BEGIN;
SET LOCAL ROLE regress_saga_l_shop;
SELECT test.listen('s1', 'r_refunds') AS s1, test.listen('s2', 'r_refunds') AS s2, test.listen('s3', 'r_refunds') AS s3 \gset
INSERT INTO test.named SELECT 's4', saga.begin('test', 'secret', '"secret input"');
SELECT status FROM saga.step(test.id('s4'), 'a', notify => 'r_refunds', args => '"secret args"', output => '"secret output"',
  compensation_retry => saga.retry_policy(delay => '10 ms', max_delay => '10 ms'));
COMMIT;
-- a step of its own in a saga of the shop: the saga's owner is what counts
SELECT status, attempt FROM saga.step(:'s1', 'mine', notify => 'r_refunds', compensation_retry =>
  saga.retry_policy(delay => '10 ms', max_delay => '10 ms'));
SELECT owner, string_agg(run_as::text, ' ' ORDER BY position) FROM saga.sagas JOIN saga.steps ON saga_id = id WHERE id = :'s1' GROUP BY 1;
-- and a saga that it begins under its own name, which is not the shop's
SELECT test.listen('own', 'r_refunds') AS own \gset
CALL test.fail('s1');
CALL test.fail('s2');
CALL test.fail('s3');
SELECT saga.fail(test.id('s4'), 'secret reason');
CALL test.until_dispatched('s4');
CALL test.fail('own');
RESET SESSION AUTHORIZATION;
SELECT test.key('s1', 'a') AS key1, test.key('s1', 'mine') AS mine, test.key('s2', 'a') AS key2, test.key('s3', 'a') AS key3,
  test.key('own', 'a') AS own_key \gset
SELECT test.picture('s1') AS p1, test.picture('s2') AS p2, test.picture('s3') AS p3, test.picture('own') AS p4 \gset

-- Without USAGE on the schema, nothing
SET SESSION AUTHORIZATION regress_saga_l_outside;
CALL test.refuses($$SELECT saga.claim_compensations('r_refunds')$$);
CALL test.refuses(format('SELECT saga.complete_compensation(%L)', :'key1'));
CALL test.refuses('SELECT count(*) FROM saga.pending_compensations');
RESET SESSION AUTHORIZATION;

-- Whoever has not the rights of the owner claims nothing, and reports are
-- answered in the words of a saga that is not there; also while it is claimed.
CREATE FUNCTION test.calls(key text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT format(call, key) FROM unnest(ARRAY['SELECT saga.complete_compensation(%L)', 'SELECT saga.fail_compensation(%L, 1, ''e'')',
    'SELECT saga.fail_compensation(%L, 99, ''e'')', 'SELECT saga.extend_claim(%L, 1, ''1 minute'')']) call
$$;
CREATE FUNCTION test.answers(key text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  call text;
  words text;
  more text;
  advice text;
  answers text := '';
BEGIN
  FOR call IN SELECT * FROM test.calls(key) LOOP
    BEGIN
      EXECUTE call;
      answers := answers || E'not refused\n';
    EXCEPTION WHEN OTHERS THEN
      GET STACKED DIAGNOSTICS words = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT;
      answers := answers || concat_ws(' ', SQLSTATE, test.mask(words), more, advice) || E'\n';
    END;
  END LOOP;
  RETURN answers;
END $$;
CREATE FUNCTION test.learns_nothing() RETURNS TABLE (claims bigint, same boolean, waiting bigint, steps bigint, attempts bigint, events bigint)
LANGUAGE sql AS $$
  SELECT (SELECT count(*) FROM saga.claim_compensations('r_refunds', 100)),
    (SELECT count(DISTINCT test.answers(key)) = 1 FROM unnest(ARRAY['01900000-0000-7000-8000-000000000000-1-undo',
       test.id('s1') || '-1-undo', current_setting('test.key1'), current_setting('test.mine'), current_setting('test.key2')]) key),
    (SELECT count(*) FROM saga.pending_compensations WHERE channel = 'r_refunds'),
    (SELECT count(*) FROM saga.steps WHERE channel = 'r_refunds'),
    (SELECT count(*) FROM saga.attempts WHERE saga_id = test.id('s1')),
    (SELECT count(*) FROM saga.events WHERE saga_id = test.id('s1'))
$$;
SELECT set_config('test.key1', :'key1', false) <> '' AND set_config('test.mine', :'mine', false) <> ''
  AND set_config('test.key2', :'key2', false) <> '' AS set;
SET SESSION AUTHORIZATION regress_saga_l_stranger;
SELECT * FROM test.learns_nothing();
SELECT test.answers(:'key1');
SET SESSION AUTHORIZATION regress_saga_l_noinherit;
SELECT * FROM test.learns_nothing();
-- readers read, and nothing more
SET SESSION AUTHORIZATION regress_saga_l_auditor;
SELECT * FROM test.learns_nothing();
SET SESSION AUTHORIZATION regress_saga_l_monitor;
SELECT * FROM test.learns_nothing();
RESET SESSION AUTHORIZATION;
SET saga.operator_role = 'regress_saga_l_operators';
SET SESSION AUTHORIZATION regress_saga_l_operator;
SELECT * FROM test.learns_nothing();
RESET SESSION AUTHORIZATION;
RESET saga.operator_role;
SELECT test.picture('s1') = :'p1' AND test.picture('s2') = :'p2' AND test.picture('s3') = :'p3' AND test.picture('own') = :'p4' AS unchanged;

-- The service: a member, with the rights of the owner and no role to take
SET SESSION AUTHORIZATION regress_saga_l_refunds;
SELECT * FROM test.claim('r_refunds', 100, consumer => 'refunds 1');
SELECT test.answers(:'own_key');
SELECT count(*) FROM saga.pending_compensations WHERE channel = 'r_refunds';
SELECT saga.extend_claim(:'mine', 1, '2 minutes') IS NOT NULL AS extended;
SELECT saga.complete_compensation(:'mine');
CALL test.until_dispatched('s1');
SELECT saga.complete_compensation(:'key3');
RESET SESSION AUTHORIZATION;
SELECT outcome, consumer FROM saga.attempts WHERE saga_id = test.id('s3') AND phase = 'compensation';
SELECT event, detail FROM test.events('s4') WHERE event = 'failing';
-- ... the application is one, too, and has its own saga beside
SET SESSION AUTHORIZATION regress_saga_l_app;
SELECT * FROM test.claim('r_refunds', 100, consumer => 'app') ORDER BY 1;
SELECT saga.complete_compensation(:'own_key');
SELECT saga.complete_compensation(:'key1');
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_saga_l_refunds;
SELECT saga.fail_compensation(:'key2', 1, 'secret error');
RESET SESSION AUTHORIZATION;
-- ... and whoever must take the role first may when it has
SET SESSION AUTHORIZATION regress_saga_l_noinherit;
SET ROLE regress_saga_l_shop;
CALL test.until_dispatched('s2');
SELECT * FROM test.claim('r_refunds', 100, consumer => 'secret consumer');
RESET ROLE;
SELECT count(c) FROM saga.claim_compensations('r_refunds', 100) c;
RESET SESSION AUTHORIZATION;

-- What readers see of it: pg_monitor sees neither payloads nor errors.
CREATE FUNCTION test.sees() RETURNS TABLE (view text, secrets text) LANGUAGE sql AS $$
  SELECT v, string_agg(DISTINCT m[1], ', ') FROM (
    SELECT 'pending_compensations', p::text FROM saga.pending_compensations p WHERE channel = 'r_refunds' UNION ALL
    SELECT 'sagas', s::text FROM saga.sagas s WHERE id IN (SELECT n.id FROM test.named n) UNION ALL
    SELECT 'steps', s::text FROM saga.steps s WHERE channel = 'r_refunds' UNION ALL
    SELECT 'attempts', a::text FROM saga.attempts a WHERE saga_id IN (SELECT n.id FROM test.named n) UNION ALL
    SELECT 'events', e::text FROM saga.events e WHERE saga_id IN (SELECT n.id FROM test.named n)) x (v, row)
    LEFT JOIN LATERAL regexp_matches(row, 'secret [a-z]+', 'g') m ON true GROUP BY 1 ORDER BY 1
$$;
SET SESSION AUTHORIZATION regress_saga_l_refunds;
SELECT * FROM test.sees();
SET SESSION AUTHORIZATION regress_saga_l_auditor;
SELECT * FROM test.sees();
SET SESSION AUTHORIZATION regress_saga_l_monitor;
SELECT * FROM test.sees();
SELECT step, channel, attempt, consumer, claimed_at IS NOT NULL AS claimed FROM saga.pending_compensations WHERE channel = 'r_refunds' ORDER BY seq;
SELECT test.mask(next_action) FROM saga.sagas WHERE id = test.id('s2');
SET SESSION AUTHORIZATION regress_saga_l_stranger;
SELECT * FROM test.sees();
RESET SESSION AUTHORIZATION;
-- nor by a function of his own that the planner would like to call first
SET SESSION AUTHORIZATION regress_saga_l_stranger;
CREATE FUNCTION pg_temp.leak(what anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
  RAISE NOTICE 'leaked %', what;
  RETURN true;
END $$;
SELECT count(*) FROM saga.pending_compensations WHERE pg_temp.leak(compensation_key);
RESET SESSION AUTHORIZATION;

-- With the membership goes the right to report what was claimed.
REVOKE regress_saga_l_shop FROM regress_saga_l_refunds;
SET SESSION AUTHORIZATION regress_saga_l_refunds;
CALL test.refuses(format('SELECT saga.complete_compensation(%L)', :'key2'));
RESET SESSION AUTHORIZATION;
GRANT regress_saga_l_shop TO regress_saga_l_refunds;
SET SESSION AUTHORIZATION regress_saga_l_refunds;
SELECT test.done('s4', 'a');
RESET SESSION AUTHORIZATION;

-- Inside SECURITY DEFINER the definer claims and reports.
CREATE FUNCTION test.definer_claims() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER
AS $$SELECT step FROM saga.claim_compensations('r_refunds', consumer => 'definer')$$;
CREATE FUNCTION test.definer_reports(key text) RETURNS text LANGUAGE sql SECURITY DEFINER
AS $$SELECT saga.complete_compensation(key)$$;
ALTER FUNCTION test.definer_claims() OWNER TO regress_saga_l_shop;
ALTER FUNCTION test.definer_reports(text) OWNER TO regress_saga_l_shop;
SET SESSION AUTHORIZATION regress_saga_l_app;
SELECT saga.fail_compensation(:'key2', attempt, 'again') FROM saga.pending_compensations WHERE compensation_key = :'key2';
CALL test.until_dispatched('s2');
SET SESSION AUTHORIZATION regress_saga_l_stranger;
SELECT test.definer_claims();
SELECT test.definer_reports(:'key2');
RESET SESSION AUTHORIZATION;

-- A superuser claims whosesoever; the queue is closed to the others.
SELECT test.listen('super', 'r_refunds') AS super \gset
CALL test.fail('super');
SET SESSION AUTHORIZATION regress_saga_l_app;
SELECT * FROM test.claim('r_refunds', 100);
CALL test.refuses('SELECT * FROM saga.ledger_queue');
CALL test.refuses('DELETE FROM saga.ledger_queue');
SET SESSION AUTHORIZATION regress_saga_l_auditor;
SELECT count(*) FROM saga.ledger_queue WHERE channel = 'r_refunds';
RESET SESSION AUTHORIZATION;
GRANT pg_write_all_data TO regress_saga_l_auditor;
SET SESSION AUTHORIZATION regress_saga_l_auditor;
CALL test.refuses('DELETE FROM saga.ledger_queue');
CALL test.refuses($$UPDATE saga.ledger_queue SET owner = 'regress_saga_l_auditor'::regrole$$);
CALL test.refuses($$INSERT INTO saga.ledger_queue VALUES ('r_refunds', 'c', 1, now(), '01900000-0000-7000-8000-000000000000', 1)$$);
RESET SESSION AUTHORIZATION;
SELECT * FROM test.claim('r_refunds', 100);
SELECT test.done('super', 'a');
SELECT n.name, state FROM test.named n JOIN saga.sagas USING (id) ORDER BY 1;

CALL test.check();
DROP FUNCTION test.definer_claims(), test.definer_reports(text);
DROP OWNED BY regress_saga_l_shop, regress_saga_l_refunds, regress_saga_l_noinherit, regress_saga_l_stranger, regress_saga_l_auditor, regress_saga_l_monitor, regress_saga_l_operator;
DROP ROLE regress_saga_l_app, regress_saga_l_refunds, regress_saga_l_noinherit, regress_saga_l_stranger, regress_saga_l_outside, regress_saga_l_auditor,
  regress_saga_l_monitor, regress_saga_l_operator, regress_saga_l_operators, regress_saga_l_shop;
