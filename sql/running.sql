-- saga.running: what is under way, and who blocks it.
\set ECHO none
\i sql/include/patient.sql
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\i sql/include/stubborn.sql
-- What others see, each by his rights
CREATE ROLE regress_saga_owner LOGIN;
CREATE ROLE regress_saga_member IN ROLE regress_saga_owner;
CREATE ROLE regress_saga_stranger;
CREATE ROLE regress_saga_monitor IN ROLE pg_monitor;
CREATE ROLE regress_saga_operators;
CREATE ROLE regress_saga_operator IN ROLE regress_saga_operators;
GRANT USAGE ON SCHEMA saga, test TO regress_saga_owner, regress_saga_member, regress_saga_stranger, regress_saga_monitor,
  regress_saga_operator;
SET saga.operator_role = 'regress_saga_operators';
-- What happens next, with the known process and the known time in words
CREATE FUNCTION test.next(id uuid, blocker integer) RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT replace(replace(replace(s.next_action, format('(process %s, since %s)', r.pid, r.since), '(process <its>, since <since>)'),
    format('process %s', blocker), 'process <blocker>'), id::text, '<saga>')
  FROM saga.sagas s JOIN saga.running r ON r.saga_id = s.id WHERE s.id = $1
$$;
\set ECHO all

-- This session holds a lock that the compensation of a saga needs.
SELECT pg_advisory_lock(49);
SELECT pg_backend_pid() AS blocker \gset
SET ROLE regress_saga_owner;
SELECT saga.begin('order', 'blocked') AS id \gset
SELECT status FROM saga.step(:'id', 'reserve', completed => true,
  compensation => 'SELECT pg_advisory_xact_lock(49)');
SELECT saga.fail(:'id', 'why');
RESET ROLE;
CALL test.wait_until(format('SELECT cardinality(blocked_by) > 0 FROM saga.running WHERE saga_id = %L', :'id'));
SELECT name, step, seq = (SELECT seq FROM saga.steps WHERE saga_id = :'id') AS its_seq, phase, attempt, role,
  since <= clock_timestamp() AS since, wait_event, blocked_by = ARRAY[:blocker] AS by_blocker, consumer, lease_until
FROM saga.running WHERE saga_id = :'id' \gx
SELECT test.next(:'id', :blocker);
SELECT replace(a.query, :'id', '<saga>') ~ '^saga: compensation of <saga>, step [0-9]+$' AS query
FROM saga.running r JOIN pg_stat_activity a USING (pid) WHERE r.saga_id = :'id';
SET ROLE regress_saga_member;
SELECT step, pid IS NOT NULL AS pid, wait_event, blocked_by = ARRAY[:blocker] AS by_blocker FROM saga.running WHERE saga_id = :'id';
SET ROLE regress_saga_monitor;
SELECT step, pid IS NOT NULL AS pid, wait_event, blocked_by = ARRAY[:blocker] AS by_blocker FROM saga.running WHERE saga_id = :'id';
-- An operator, who may not see another role's activity, is told who blocks it.
SET ROLE regress_saga_operator;
SELECT step, pid IS NOT NULL AS pid, wait_event, blocked_by = ARRAY[:blocker] AS by_blocker FROM saga.running WHERE saga_id = :'id';
SELECT test.next(:'id', :blocker);
SET ROLE regress_saga_stranger;
SELECT * FROM saga.running;
SELECT * FROM saga.internal_running();
RESET ROLE;
-- The blocker ends, and so does the undo.
SELECT pg_advisory_unlock(49);
SELECT saga.wait(:'id');
SELECT * FROM saga.running WHERE saga_id = :'id';

-- A row that somebody has changed and not committed yet: another compensation,
-- which this session holds up.
CREATE TABLE test.seat (flight text PRIMARY KEY, free integer);
INSERT INTO test.seat VALUES ('LX8', 0);
GRANT SELECT, UPDATE ON test.seat TO regress_saga_owner;
SELECT pg_advisory_lock(49);
SET ROLE regress_saga_owner;
SELECT saga.begin('order', 'holds the row') AS first \gset
SELECT status FROM saga.step(:'first', 'seat', completed => true,
  compensation => 'UPDATE test.seat SET free = free + 1; SELECT pg_advisory_xact_lock(49)');
SELECT saga.begin('order', 'waits for it') AS second \gset
SELECT status FROM saga.step(:'second', 'seat', completed => true, compensation => 'UPDATE test.seat SET free = free + 1');
SELECT saga.fail(:'first');
CALL test.wait_until(format('SELECT cardinality(blocked_by) > 0 FROM saga.running WHERE saga_id = %L', :'first'));
SELECT saga.fail(:'second');
CALL test.wait_until(format('SELECT cardinality(blocked_by) > 0 FROM saga.running WHERE saga_id = %L', :'second'));
SELECT s.step, s.wait_event, s.blocked_by = ARRAY[f.pid] AS by_first, f.blocked_by = ARRAY[:blocker] AS by_blocker
FROM saga.running s, saga.running f WHERE s.saga_id = :'second' AND f.saga_id = :'first';
SELECT test.next(:'second', pid) FROM saga.running WHERE saga_id = :'first';
RESET ROLE;
SELECT pg_advisory_unlock(49);
SELECT saga.wait(:'first'), saga.wait(:'second');
SELECT * FROM test.seat;

-- What a listener holds
SELECT test.listen('held', 'k_running') AS id \gset
CALL test.fail('held');
SELECT * FROM saga.running WHERE saga_id = :'id';
SELECT * FROM test.claim('k_running', consumer => 'one');
SELECT name, step, phase, attempt, pid, role, since <= clock_timestamp() AS since, wait_event, blocked_by, consumer,
  lease_until > since AS lease_until
FROM saga.running WHERE saga_id = :'id' \gx
SET ROLE regress_saga_operator;
SELECT step, consumer FROM saga.running WHERE saga_id = :'id';
SET ROLE regress_saga_stranger;
SELECT * FROM saga.running;
RESET ROLE;
-- paused, it is still under way
SELECT saga.pause(:'id', 'why');
SELECT step, consumer FROM saga.running WHERE saga_id = :'id';
SELECT saga.resume(:'id');
SELECT test.done('held', 'a');
SELECT * FROM saga.running WHERE saga_id = :'id';

-- A saga fails while an action of it runs, which traps that it is canceled: the undo
-- waits for it, says so, and says what is safe to do.
SET ROLE regress_saga_owner;
SELECT saga.begin('order', 'stubborn') AS id \gset
SELECT status FROM saga.step(:'id', 'reserve', completed => true, compensation => 'SELECT 1');
SELECT status FROM saga.step(:'id', 'charge', action => 'SELECT test.stubborn()', compensation => 'SELECT 1');
CALL test.until_stubborn(:'id');
SELECT saga.fail(:'id', 'why');
SELECT step, phase, pid IS NOT NULL AS pid, role FROM saga.running WHERE saga_id = :'id';
SELECT test.next(:'id', :blocker);
SET ROLE regress_saga_monitor;
SELECT test.next(:'id', :blocker);
SET ROLE regress_saga_operator;
SELECT test.next(:'id', :blocker);
SET ROLE regress_saga_stranger;
SELECT saga.internal_next_action(:'id', 'u', false, NULL, NULL, 0, 'its step', NULL, runs => 's');
-- (Nor does it say anything that it was not given.)
SELECT saga.internal_next_action(:'id', 'u', false, NULL, NULL, 0, NULL, NULL, runs => 's');
RESET ROLE;
SELECT saga.pause(:'id', 'why');
SELECT test.next(:'id', :blocker);
SELECT saga.resume(:'id');
-- What it says is done, and the undo goes on.
SELECT pg_terminate_backend(pid) FROM saga.running WHERE saga_id = :'id';
SELECT saga.wait(:'id');
SELECT key, status, compensation_status FROM saga.steps WHERE saga_id = :'id' ORDER BY seq;
\set ECHO none
\i sql/include/drop_roles.sql
\i sql/include/impatient.sql
