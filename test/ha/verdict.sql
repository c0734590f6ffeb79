-- What applications and services wrote down (workload.py), compared with the ledger of the
-- last primary.  Variables: acknowledged, a file of theirs; timelines, rows of those that led
-- to that primary, and where each was left; asynchronous, the number of the line of
-- "acknowledged" from which on replication was that.  Their other file is copied to
-- ha.outside_line once nobody writes there any more.

\set ON_ERROR_STOP 1
SET client_min_messages = warning;
CREATE SCHEMA ha;

CREATE TABLE ha.acknowledged_line (n bigserial, line jsonb);
CREATE TABLE ha.outside_line (n bigserial, line jsonb);
CREATE TABLE ha.timeline (id int, left_at pg_lsn);
COPY ha.acknowledged_line (line) FROM :'acknowledged' (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02');
INSERT INTO ha.timeline VALUES :timelines;

CREATE TABLE ha.call AS
SELECT n, CASE WHEN n >= :asynchronous THEN 'asynchronous' ELSE 'synchronous' END AS replication,
	line->>'what' AS what, (line->>'saga')::uuid AS saga, line->>'key' AS key, line->>'value' AS value,
	('x' || lpad(line->>'timeline', 8, '0'))::bit(32)::int AS timeline, (line->>'lsn')::pg_lsn AS lsn
FROM ha.acknowledged_line;
CREATE INDEX ON ha.call (saga);
ANALYZE ha.call;

-- Each acknowledged call; whether what it did is there; and whether its commit came after the
-- point at which its timeline was left: in the tail of the WAL that the new primary did not have.
CREATE VIEW ha.acknowledged AS
SELECT k.*, coalesce(lsn > left_at, false) AS in_lost_tail, CASE what
	WHEN 'begin' THEN s.id IS NOT NULL
	WHEN 'step' THEN EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = saga AND t.key = k.key)
	WHEN 'signal' THEN EXISTS (SELECT FROM saga.signals g WHERE g.saga_id = saga AND g.key = k.key)
	WHEN 'complete_step' THEN EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = saga AND t.key = k.key
		AND t.status = 'completed' AND t.output = k.value::jsonb)
	WHEN 'complete' THEN s.state = 'completed'
	WHEN 'fail' THEN EXISTS (SELECT FROM saga.events e WHERE saga_id = saga AND event = 'failing')
	-- One with nothing left to do completes at once.
	WHEN 'seal' THEN EXISTS (SELECT FROM saga.events e WHERE saga_id = saga AND event IN ('sealed', 'completed'))
	-- At its end, and nothing came after that
	WHEN 'wait' THEN s.state = k.key AND extract(epoch FROM s.finished_at)::text = k.value
	WHEN 'complete_task' THEN EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = saga
		AND CASE k.value WHEN 'forward' THEN t.forward_key = k.key AND t.status = 'completed'
			ELSE t.compensation_key = k.key AND t.compensation_status = 'compensated' END)
	ELSE false END AS there
FROM ha.call k LEFT JOIN saga.sagas s ON s.id = saga LEFT JOIN ha.timeline t ON t.id = k.timeline;

-- Sagas that are not at their end; and those that wait for an application that knows of no
-- reason to go on: a call was acknowledged, and its transaction is lost.
CREATE VIEW ha.open AS
SELECT id, name, state, next_action, EXISTS (SELECT FROM ha.acknowledged a WHERE a.saga = s.id AND NOT a.there) AS abandoned
FROM saga.sagas s WHERE state NOT IN ('completed', 'compensated');

-- The work of applications, in the transaction that recorded its step
CREATE VIEW ha.doubled_work AS
SELECT saga, step, count(*) FROM public.done GROUP BY saga, step HAVING count(*) > 1;
CREATE VIEW ha.work_without_step AS
SELECT d.* FROM public.done d WHERE NOT EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = d.saga AND t.key = d.step)
UNION ALL
SELECT t.saga_id, t.key FROM saga.steps t JOIN saga.sagas s ON s.id = t.saga_id
WHERE s.name IN ('plain', 'forgets') AND t.key IN ('a', 'c')
	AND NOT EXISTS (SELECT FROM public.done d WHERE d.saga = t.saga_id AND d.step = t.key);

-- The work of actions and compensations: by step, however many attempts
CREATE VIEW ha.doubled_sql AS
SELECT saga, key, hand, count(*) FROM witness.effect GROUP BY saga, seq, key, hand HAVING count(*) > 1;

-- What services did: once for each key, or more often (which they are told to expect);
-- never not at all
CREATE VIEW ha.outside AS
SELECT line->>'key' AS key, line->>'phase' AS phase, (line->>'saga')::uuid AS saga, count(*) AS times
FROM ha.outside_line GROUP BY 1, 2, 3;
CREATE VIEW ha.task_without_effect AS
SELECT t.saga_id, t.key, k.key AS task_key FROM saga.steps t
CROSS JOIN LATERAL (VALUES (t.forward_key, t.status = 'completed'), (t.compensation_key, t.compensation_status = 'compensated')) k (key, done)
WHERE t.task IS NOT NULL AND k.done AND NOT EXISTS (SELECT FROM ha.outside o WHERE o.key = k.key);
-- ... and with a step that knows of it
CREATE VIEW ha.effect_without_task AS
SELECT o.* FROM ha.outside o WHERE NOT EXISTS (
	SELECT FROM saga.steps t WHERE t.saga_id = o.saga AND CASE o.phase WHEN 'forward' THEN t.forward_key = o.key AND t.status = 'completed'
		ELSE t.compensation_key = o.key AND t.compensation_status = 'compensated' END);
