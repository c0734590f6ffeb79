-- The situations in which two calls meet, and a picture of a saga.
--
-- A situation is one saga, made by pairs.make and, where it needs the worker,
-- brought to rest by it.  Names and keys are the same in each, so that pictures
-- can be compared: ids, times and numbers do not appear in them.

CREATE SCHEMA pairs;

-- Undoing is a row; what is asked to wait, waits for an hour.
CREATE TABLE pairs.undone (n bigserial, saga uuid, step text, output jsonb);
CREATE FUNCTION pairs.undo(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF context->'args'->>'later' IS NOT NULL THEN
		RAISE SQLSTATE 'SG007' USING MESSAGE = 'not yet';
	ELSIF context->'args'->>'never' IS NOT NULL THEN
		RAISE SQLSTATE 'SG006' USING MESSAGE = 'never';
	END IF;
	INSERT INTO pairs.undone (saga, step, output)
	VALUES ((context->'saga'->>'id')::uuid, context->'step'->>'key', nullif(context->'output', 'null'));
END $$;

CREATE FUNCTION pairs.channel(s uuid) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'pairs ' || s;

-- The handle of the listener's step
CREATE FUNCTION pairs.handle(s uuid) RETURNS text STABLE LANGUAGE sql RETURN
	coalesce((SELECT compensation_key FROM saga.steps WHERE saga_id = s AND key = 'l' ORDER BY seq DESC LIMIT 1), s || '-1-undo');

-- That of the step that a service does
CREATE FUNCTION pairs.task(s uuid) RETURNS text STABLE LANGUAGE sql RETURN
	coalesce((SELECT forward_key FROM saga.steps WHERE saga_id = s AND key = 'w' ORDER BY seq DESC LIMIT 1), s || '-1');

CREATE FUNCTION pairs.make(situation text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
	s uuid := saga.begin('pair', gen_random_uuid()::text, input => '1', announce => 'pairs',
		timeout => CASE WHEN situation LIKE '%deadline%' THEN interval '30 minutes' END);
	undo text := 'SELECT pairs.undo($1)';
	slow saga.retry_policy := saga.retry_policy(delay => '1 hour', max_delay => '1 hour', jitter => 0);
	channel text := pairs.channel(s);
BEGIN
	-- In each: a savepoint that is completed, and what started after it.
	PERFORM saga.step(s, 'a', compensation => undo, output => '"a"');
	CASE
	WHEN situation ~ '^(running|paused|completed|compensated)' THEN
		PERFORM saga.step(s, 'b', compensation => undo, args => '{"x": 1}');
		PERFORM saga.step(s, 'l', notify => channel, completed => true);
	WHEN situation ~ '^(a step waits|sealed)' THEN
		PERFORM saga.step(s, 'b', compensation => undo, args => '{"x": 1}');
		PERFORM saga.step(s, 'l', notify => channel, completed => true);
		PERFORM saga.step(s, 'w', after => '{b}', delay => '1 hour', action => 'SELECT 1', compensation => undo);
		IF situation = 'sealed' THEN
			PERFORM saga.complete(s, when_done => true);
		END IF;
	WHEN situation IN ('to approve', 'timed out', 'task waits', 'task claimed', 'signal awaited') THEN
		PERFORM saga.step(s, 'b', compensation => undo, args => '{"x": 1}');
		PERFORM saga.step(s, 'l', notify => channel, completed => true);
		PERFORM saga.step(s, 'w', after => '{}', task => CASE WHEN situation LIKE 'task%' THEN channel END,
			signals => CASE situation WHEN 'signal awaited' THEN '{go}'::text[] END,
			approval => CASE WHEN situation IN ('to approve', 'timed out') THEN 'may it?' END,
			timeout => CASE situation WHEN 'timed out' THEN interval '1 ms' END,
			on_failure => CASE situation WHEN 'timed out' THEN 'review' END,
			compensation => undo, retry => slow, compensation_retry => slow);
	WHEN situation ~ '^(behind a pivot|pivot failed)' THEN
		PERFORM saga.step(s, 'p', kind => 'pivot', completed => true);
		PERFORM saga.step(s, 'b', kind => 'retriable', compensation => undo);
		PERFORM saga.step(s, 'l', notify => channel, completed => true);
	WHEN situation ~ '^(dispatched|claimed|given up|partial)' THEN
		PERFORM saga.step(s, 'b', compensation => undo, args => '{"later": 1}', compensation_retry => slow);
		PERFORM saga.step(s, 'l', notify => channel, completed => true, compensation_retry => slow);
	WHEN situation ~ '^(waiting)' THEN
		PERFORM saga.step(s, 'l', notify => channel, completed => true);
		PERFORM saga.step(s, 'b', compensation => undo, args => '{"later": 1}', compensation_retry => slow);
	WHEN situation ~ '^(asked|abandoned)' THEN
		PERFORM saga.step(s, 'l', notify => channel, completed => true);
		PERFORM saga.step(s, 'b', compensation => undo, review => 'look');
	WHEN situation ~ '^(refused)' THEN
		PERFORM saga.step(s, 'l', notify => channel, completed => true);
		PERFORM saga.step(s, 'b', compensation => undo, args => '{"never": 1}');
	END CASE;
	CASE
	WHEN situation ~ '^(running|a step waits|sealed|to approve|timed out|task|signal)' THEN NULL;
	WHEN situation ~ '^behind a pivot' THEN NULL;
	WHEN situation ~ '^paused' THEN
		PERFORM saga.pause(s, 'wait');
		IF situation = 'paused while failing' THEN
			PERFORM saga.fail(s, 'because');
		END IF;
	WHEN situation = 'completed' THEN
		PERFORM saga.complete_step(s, 'b');
		PERFORM saga.complete(s);
	WHEN situation ~ '^partial' THEN
		PERFORM saga.rollback_to(s, 'a', 'again');
	ELSE
		PERFORM saga.fail(s, 'because');
	END CASE;
	RETURN s;
END $$;

-- What it takes beside the worker, which has done what it could by now;
-- answers whether the saga is in the situation.
CREATE FUNCTION pairs.settle(situation text, s uuid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	waits boolean := EXISTS (SELECT FROM saga.pending_compensations WHERE saga_id = s AND claimed_at IS NULL AND next_attempt_at IS NULL);
	parked boolean := EXISTS (SELECT FROM saga.sagas WHERE id = s AND state = 'needs_review');
BEGIN
	CASE
	WHEN situation IN ('to approve', 'timed out') THEN
		RETURN EXISTS (SELECT FROM saga.review_queue WHERE saga_id = s AND (situation = 'to approve' OR why NOT LIKE 'approval%'));
	WHEN situation = 'task waits' THEN
		RETURN EXISTS (SELECT FROM saga.pending_tasks WHERE saga_id = s);
	WHEN situation = 'task claimed' THEN
		RETURN EXISTS (SELECT FROM saga.claim_tasks(pairs.channel(s), 1, '9 minutes'));
	WHEN situation = 'signal awaited' THEN
		RETURN EXISTS (SELECT FROM saga.steps WHERE saga_id = s AND waits_for LIKE 'signal%');
	WHEN situation ~ '^(dispatched|partial$)' THEN
		RETURN waits;
	WHEN situation ~ '^(claimed|partial claimed)' THEN
		RETURN waits AND EXISTS (SELECT FROM saga.claim_compensations(pairs.channel(s), 1, '9 minutes'));
	WHEN situation = 'given up' THEN
		IF waits THEN
			PERFORM saga.fail_compensation(compensation_key, attempt, 'no', retryable => false)
			FROM saga.claim_compensations(pairs.channel(s), 1, '9 minutes');
		END IF;
		RETURN waits;
	WHEN situation ~ '^waiting' THEN
		RETURN EXISTS (SELECT FROM saga.steps WHERE saga_id = s AND key = 'b' AND next_attempt_at > clock_timestamp());
	WHEN situation ~ '^(asked|refused|pivot failed)' THEN
		RETURN parked;
	WHEN situation = 'abandoned' THEN
		IF parked THEN
			PERFORM saga.abandon(s, 'enough');
		END IF;
		RETURN parked;
	WHEN situation = 'compensated' THEN
		PERFORM saga.complete_compensation(compensation_key)
		FROM saga.claim_compensations(pairs.channel(s), 1, '9 minutes');
		RETURN EXISTS (SELECT FROM saga.sagas WHERE id = s AND state = 'compensated');
	ELSE
		RETURN true;
	END CASE;
END $$;

-- Everything about a saga that does not depend on when and under which numbers.
CREATE FUNCTION pairs.picture(s uuid) RETURNS text STABLE LANGUAGE sql AS $$
	SELECT regexp_replace(concat_ws(E'\n',
		(SELECT concat_ws(' ', 'saga:', state, failure_kind, CASE WHEN paused THEN 'paused' END, reason, result, input,
				(SELECT 'failed at ' || failed_step), CASE WHEN deadline IS NOT NULL THEN 'deadline' END)
			FROM saga.sagas WHERE id = s),
		(SELECT concat_ws(' ', 'kept:', parked, to_announce, CASE WHEN due IS NULL THEN 'not due' WHEN due < clock_timestamp() THEN 'due' ELSE 'later' END,
				CASE WHEN lane = 0 THEN 'worker' WHEN lane IS NOT NULL THEN 'role' END,
				CASE undo WHEN 'f' THEN 'all' WHEN 'l' THEN 'nothing' ELSE (SELECT 'to ' || key FROM saga.ledger_step WHERE saga = s AND seq = savepoint) END)
			FROM saga.ledger_saga WHERE id = s),
		(SELECT string_agg(concat_ws(' ', 'step:', v.position, v.key, 'run', v.run, v.status, v.attempts, v.output, v.error, compensation_status, compensation_attempts,
				v.last_error, CASE WHEN v.next_attempt_at IS NOT NULL THEN 'later' END, v.parked, CASE WHEN t.claimed_at IS NOT NULL THEN 'claimed' END,
				CASE WHEN t.late THEN 'late' END, CASE WHEN t.released THEN 'released' END, CASE WHEN t.rolled_back_at IS NOT NULL THEN 'rolled back' END,
				CASE WHEN t.begun IS NOT NULL THEN 'begun' END, CASE WHEN t.opened_at IS NOT NULL THEN 'opened' END,
				CASE WHEN t.approved THEN 'approved' END, t.signal,
				v.args, t.content_hash, v.compensation, v.channel, v.compensation_retry), E'\n' ORDER BY v.position)
			FROM saga.steps v JOIN saga.ledger_step t ON t.saga = v.saga_id AND t.seq = v.seq WHERE v.saga_id = s),
		(SELECT string_agg(concat_ws(' ', 'attempt:', v.key, v.run, a.phase, a.attempt, a.outcome, a.sqlstate, a.error, a.consumer), E'\n' ORDER BY a.seq, a.phase, a.attempt)
			FROM saga.attempts a JOIN saga.steps v USING (saga_id, seq) WHERE a.saga_id = s),
		(SELECT string_agg(concat_ws(' ', 'event:', event, step, detail - 'deadline'), E'\n' ORDER BY event, step, detail - 'deadline') FROM saga.events WHERE saga_id = s),
		(SELECT string_agg('queued: ' || step, E'\n') FROM saga.pending_compensations WHERE saga_id = s AND claimed_at IS NULL),
		(SELECT string_agg(concat_ws(' ', 'signal:', name, key, payload, used_by_step), E'\n' ORDER BY name, payload) FROM saga.signals WHERE saga_id = s),
		(SELECT string_agg('undone: ' || step || coalesce(' ' || output::text, ''), E'\n' ORDER BY n) FROM pairs.undone WHERE saga = s),
		(SELECT string_agg('rows: ' || what, E'\n' ORDER BY what) FROM (
			-- Looks at the same step may be asked for twice.
			SELECT DISTINCT 'due ' || sign(seq) FROM saga.ledger_due WHERE saga = s UNION ALL
			SELECT 'held ' || sign(seq) FROM saga.ledger_held WHERE saga = s UNION ALL SELECT 'queue' FROM saga.ledger_queue WHERE saga = s) r (what))
		),
		'[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}', 'ID', 'g')
$$;
