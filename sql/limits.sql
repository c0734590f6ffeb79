-- saga.limit: how many tasks a role holds at a time on a channel, and until when it claims none.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\set ECHO all

CREATE FUNCTION test.key(name text, step text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT forward_key FROM saga.steps WHERE saga_id = test.id($1) AND key = $2
$$;
SELECT test.begin('many') AS id \gset
SELECT count((saga.step(:'id', 's' || n, after => '{}', task => 't_limit', notify => 't_limit')).seq) FROM generate_series(1, 20) n;

-- As many as the limit, in one claim or in several
SELECT saga.limit('t_limit', 3);
SELECT count(*) FROM saga.claim_tasks('t_limit', 2);
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);
-- a report makes room, and so does every other end of a claim
SELECT saga.complete_task(test.key('many', 's1'));
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);
SELECT saga.fail_task(test.key('many', 's2'), 1, 'no', retry_after => '1 hour');
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);
SELECT count(*) FROM saga.ledger_claimed WHERE channel = 't_limit';
-- what is claimed and rolled back, too
SELECT saga.complete_task(test.key('many', 's3'));
BEGIN;
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);
ROLLBACK;
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);
-- another limit counts from now on
SELECT saga.limit('t_limit', 2);
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);
SELECT saga.limit('t_limit', 4);
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);

-- It is the role's own, and the channel's.
CREATE ROLE regress_saga_limited;
GRANT USAGE ON SCHEMA saga TO regress_saga_limited;
GRANT USAGE ON SCHEMA test TO regress_saga_limited;
DO $$ BEGIN EXECUTE format('GRANT %I TO regress_saga_limited', current_user); END $$;
SET ROLE regress_saga_limited;
SELECT count(*) FROM saga.claim_tasks('t_limit');
SELECT saga.limit('t_limit', 1);
SELECT count(*) FROM saga.claim_tasks('t_limit');
RESET ROLE;
SELECT role = 'regress_saga_limited' AS others, max_claimed, paused_until FROM saga.ledger_limit WHERE channel = 't_limit' ORDER BY 1;

-- Paused: nothing is claimed until then, and whoever asks is told.
SELECT saga.limit('t_limit', paused_until => 'infinity');
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);
SELECT DISTINCT replace(waits_for, quote_ident(current_user), 'me') AS waits_for FROM test.forward('many') WHERE waits_for LIKE 'a consumer%';
-- but not what a role has paused that could not claim, or that is no more
SELECT saga.limit('t_limit');
CREATE ROLE regress_saga_stranger;
GRANT USAGE ON SCHEMA saga TO regress_saga_stranger;
SET ROLE regress_saga_stranger;
SELECT saga.limit('t_limit', paused_until => 'infinity');
RESET ROLE;
SELECT DISTINCT waits_for FROM test.forward('many') WHERE waits_for LIKE 'a consumer%';
REVOKE USAGE ON SCHEMA saga FROM regress_saga_stranger;
DROP ROLE regress_saga_stranger;
SELECT DISTINCT waits_for FROM test.forward('many') WHERE waits_for LIKE 'a consumer%';
SELECT role, paused_until FROM saga.ledger_limit WHERE channel = 't_limit' ORDER BY role;
SELECT saga.limit('t_limit', paused_until => now() - interval '1 second');
SELECT DISTINCT waits_for FROM test.forward('many') WHERE waits_for LIKE 'a consumer%';
SELECT count(*) FROM saga.claim_tasks('t_limit', 1);
-- nothing limits any more
SELECT saga.limit('t_limit');
SELECT count(*) FROM saga.claim_tasks('t_limit', 10);
SELECT count(*) FROM saga.ledger_limit WHERE channel = 't_limit' AND role NOT LIKE 'regress\_saga%';
SELECT count(*) FROM saga.ledger_claimed WHERE channel = 't_limit' AND role <> 'regress_saga_limited';

-- Compensations count with the tasks.
SELECT saga.limit('t_limit', 2);
SELECT saga.fail(:'id');
CALL test.wait_until($$SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = 't_limit'$$);
-- and are paused with them
SELECT saga.limit('t_limit', 2, 'infinity');
CREATE FUNCTION test.next_action() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT replace(regexp_replace(next_action, 'since .*', 'since ...'), quote_ident(current_user), 'me')
  FROM saga.sagas JOIN test.named USING (id) WHERE named.name = 'many'
$$;
SELECT test.next_action();
SELECT saga.limit('t_limit', 2);
SELECT test.next_action();
SELECT test.begin('another') AS id \gset
SELECT count((saga.step(:'id', 's' || n, after => '{}', task => 't_limit')).seq) FROM generate_series(1, 5) n;
SELECT phase FROM saga.claim_tasks('t_limit', 10) ORDER BY phase;
SELECT saga.limit('t_limit');

-- What is refused
CALL test.refuses('SELECT saga.limit(NULL, 1)');
CALL test.refuses($$SELECT saga.limit('', 1)$$);
CALL test.refuses($$SELECT saga.limit('t_limit', 0)$$);
SET ROLE regress_saga_limited;
SELECT saga.limit('t_limit');
RESET ROLE;
SELECT count(*) FROM saga.ledger_claimed WHERE channel = 't_limit';
SELECT count(*) FROM test.named n, LATERAL saga.cancel(n.id) WHERE n.name = 'another';
DO $$ BEGIN EXECUTE format('REVOKE %I FROM regress_saga_limited', current_user); END $$;
\set ECHO none
\i sql/include/drop_roles.sql
