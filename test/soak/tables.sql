-- What the soak's clients, listeners and people work with: witnesses of what
-- each of them did, which anybody may write to twice, and the functions that do
-- it.  verdict.sql compares them with the ledger.

CREATE ROLE app_a LOGIN;
CREATE ROLE app_b LOGIN;
CREATE ROLE consumer LOGIN IN ROLE app_a, app_b;
-- Of the two people one has the rights that saga.operator_role gives, the other
-- those of the owners.
CREATE ROLE operators;
CREATE ROLE person_1 LOGIN IN ROLE operators;
CREATE ROLE person_2 LOGIN IN ROLE app_a, app_b;
GRANT USAGE ON SCHEMA saga TO app_a, app_b, operators;
GRANT ALL ON SCHEMA public TO app_a, app_b;

-- One order for all that is witnessed
CREATE SEQUENCE n;
-- Each run of a step, written with its first call
CREATE TABLE starts (n bigint DEFAULT nextval('n'), saga uuid, seq bigint, key text, style text, UNIQUE (saga, seq));
-- What was done with it, and what was undone
CREATE TABLE effects (n bigint DEFAULT nextval('n'), saga uuid, seq bigint, key text);
CREATE INDEX ON effects (saga, seq);
CREATE TABLE undos (n bigint DEFAULT nextval('n'), saga uuid, seq bigint, key text, attempt int, output jsonb, refused boolean);
CREATE INDEX ON undos (saga, seq);
-- What a listener asked of its service, which goes by the key
CREATE TABLE calls (n bigint DEFAULT nextval('n'), key text, attempt int, consumer text, at timestamptz DEFAULT clock_timestamp());
-- What a listener was told when it reported that as done
CREATE TABLE reports (key text, answer text);
-- What a person decided, written with the decision
CREATE TABLE decisions (n bigint DEFAULT nextval('n'), saga uuid, step text, what text, who text);
-- Who goes forward again, or waits; without a deadline, a person is to end it
CREATE TABLE reopened (saga uuid);
-- What a person completed although a step had failed
CREATE TABLE ended_by_hand (saga uuid);
-- What both of them change, in opposite order: deadlocks
CREATE TABLE account (id int PRIMARY KEY, n int) WITH (fillfactor = 20);
INSERT INTO account SELECT i, 0 FROM generate_series(1, 4) i;
GRANT ALL ON ALL TABLES IN SCHEMA public TO app_a, app_b, consumer, person_1, person_2;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app_a, app_b, consumer, person_1, person_2;

-- ------------------------------------------------------------------ forward

-- A step of one of the styles, with its witness.
CREATE FUNCTION start(s uuid, k text, style text, args jsonb, o jsonb, output jsonb DEFAULT NULL, completed boolean DEFAULT false)
RETURNS saga.step_result LANGUAGE plpgsql AS $$
DECLARE
	result saga.step_result;
BEGIN
	result := saga.step(s, style, k,
		CASE WHEN style IN ('same', 'outside', 'review') THEN 'SELECT undo($1)' END, args,
		notify => CASE style WHEN 'listener' THEN 'tasks' WHEN 'forget' THEN 'mails' END,
		acknowledge => style <> 'forget',
		review => CASE WHEN style IN ('review', 'hand') OR o->>'review' = 'yes' THEN 'look at ' || k END,
		output => output, completed => completed,
		kind => coalesce(o->>'kind', 'compensatable'),
		compensate_on => coalesce(o->>'on', 'started'),
		compensation_retry => saga.retry_policy((o->>'tries')::int, '10 ms', 'constant'));
	INSERT INTO starts (saga, seq, key, style) VALUES (s, result.seq, k, style) ON CONFLICT DO NOTHING;
	RETURN result;
END $$;

CREATE FUNCTION effect(s uuid, r bigint, k text, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects (saga, seq, key) VALUES (s, r, k);
	UPDATE account SET n = n + 1 WHERE id = (args->>'a')::int;
	UPDATE account SET n = n + 1 WHERE id = (args->>'b')::int;
END $$;

-- A step with its effect, in one transaction: in one call, or in two
CREATE FUNCTION take(s uuid, k text, args jsonb, o jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	result saga.step_result;
BEGIN
	IF o->>'calls' = '1' THEN
		result := start(s, k, 'same', args, o, output => to_jsonb(k));
		IF NOT result.known THEN
			PERFORM effect(s, result.seq, k, args);
		END IF;
	ELSE
		result := start(s, k, 'same', args, o);
		IF result.status <> 'completed' THEN
			PERFORM effect(s, result.seq, k, args);
			PERFORM saga.complete_step(s, k, to_jsonb(k));
		END IF;
	END IF;
END $$;

-- ----------------------------------------------------- what the server runs

-- A step with an action, whose witness is its effect.
CREATE FUNCTION act_step(s uuid, k text, o jsonb, after text[] DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
	SELECT saga.step(s, 'act', k, action => 'SELECT act($1)', compensation => 'SELECT undo($1)', args => o, after => after,
		on_failure => o->>'give up', kind => coalesce(o->>'kind', 'compensatable'),
		approval => o->>'approval', delay => (o->>'delay')::interval,
		retry => saga.retry_policy((o->>'tries')::int, '10 ms', 'constant'),
		compensation_retry => saga.retry_policy(1000, '10 ms', 'constant')) $$;

-- Leaves its mark first, so that a failed attempt must take it back, and in the last
-- of its rounds; may record further steps, and the first of them after those.
CREATE FUNCTION act(context jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	args jsonb := context->'args';
	k text := context->'step'->>'key';
	bad boolean := (context->>'attempt')::int <= (args->>'bad acts')::int;
	branches int := coalesce((args->>'branches')::int, 0);
BEGIN
	IF (context->>'round')::int < (args->>'rounds')::int THEN
		PERFORM saga.again(state => context->'round', delay => CASE WHEN random() < 0.5 THEN interval '0' ELSE '1 ms' END);
		RETURN NULL;
	END IF;
	PERFORM effect(saga.current(), (context->'step'->'seq')::bigint, k, args);
	FOR i IN 1 .. branches LOOP
		PERFORM act_step(saga.current(), k || '.' || i, args - 'branches' - 'approval', '{}');
	END LOOP;
	IF branches > 0 THEN
		PERFORM saga.step(saga.current(), 'join', k || '.join');
		PERFORM saga.step(saga.current(), 'gate', k || '.gate', delay => '1 ms');
	END IF;
	PERFORM pg_sleep((args->>'nap')::float);
	IF bad THEN
		CASE args->>'act'
			WHEN 'later' THEN RAISE EXCEPTION 'ask again' USING ERRCODE = 'SG007';
			WHEN 'conflict' THEN RAISE EXCEPTION 'serialize' USING ERRCODE = 'serialization_failure';
			WHEN 'deploy' THEN RAISE EXCEPTION 'not deployed' USING ERRCODE = 'undefined_function';
			WHEN 'never' THEN PERFORM saga.require(false, 'never');
			WHEN 'commit' THEN INSERT INTO undos (refused) VALUES (true);
			ELSE RAISE EXCEPTION 'not now';
		END CASE;
	END IF;
	RETURN k;
END $$;

-- A saga of such steps, recorded by one statement.
CREATE FUNCTION define(s uuid, steps jsonb, seal boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	o jsonb;
BEGIN
	FOR o IN SELECT e FROM jsonb_array_elements(steps) e LOOP
		IF o->>'style' = 'gate' THEN
			PERFORM saga.step(s, 'gate', o->>'key', delay => (o->>'delay')::interval, approval => o->>'approval',
				timeout => (o->>'timeout')::interval, on_failure => o->>'give up',
				signals => CASE WHEN o ? 'signal' THEN ARRAY['none', o->>'signal'] END);
		ELSIF o->>'style' = 'job' THEN
			PERFORM saga.step(s, 'job', o->>'key', task => 'jobs', compensation => 'SELECT undo($1)', compensate_on => 'completed',
				args => o, on_failure => o->>'give up',
				retry => saga.retry_policy((o->>'tries')::int, '10 ms', 'constant'),
				compensation_retry => saga.retry_policy(1000, '10 ms', 'constant'));
		ELSIF o->>'style' = 'act' THEN
			PERFORM act_step(s, o->>'key', o, CASE WHEN o ? 'after' THEN ARRAY(SELECT jsonb_array_elements_text(o->'after')) END);
		ELSE
			PERFORM start(s, o->>'key', o->>'style', o, o);
		END IF;
	END LOOP;
	IF seal THEN
		PERFORM saga.complete(s, when_done => true);
	END IF;
END $$;

-- ------------------------------------------------------------------ backward

-- Leaves its mark first, so that a failed attempt must take it back.
CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	args jsonb := context->'args';
	s uuid := context->'saga'->>'id';
	r bigint := context->'step'->'seq';
	attempt int := context->'attempt';
	bad boolean := attempt <= (args->>'bad')::int;
BEGIN
	INSERT INTO undos (saga, seq, key, attempt, output, refused)
	VALUES (s, r, context->'step'->>'key', attempt, nullif(context->'output', 'null'), bad AND args->>'how' = 'commit');
	PERFORM pg_sleep((args->>'nap')::float);
	IF bad AND args->>'how' = 'later' THEN
		RAISE EXCEPTION 'ask again' USING ERRCODE = 'SG007';
	ELSIF bad AND args->>'how' = 'person' THEN
		RAISE EXCEPTION 'not by a machine' USING ERRCODE = 'SG006';
	ELSIF bad AND args->>'how' = 'error' THEN
		RAISE EXCEPTION 'not now';
	ELSIF bad AND args->>'how' = 'conflict' THEN
		RAISE EXCEPTION 'serialize' USING ERRCODE = 'serialization_failure';
	END IF;
	IF EXISTS (SELECT FROM effects WHERE saga = s AND seq = r) THEN
		UPDATE account SET n = n - 1 WHERE id = (args->>'b')::int;
		UPDATE account SET n = n - 1 WHERE id = (args->>'a')::int;
	END IF;
END $$;

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'refused at commit';
END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON undos DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW WHEN (NEW.refused) EXECUTE FUNCTION refuse();

-- What a service does with a batch: work in this database, in one transaction with its
-- report.
CREATE PROCEDURE work(who text, how_many int, lease interval, calm boolean) LANGUAGE plpgsql AS $$
DECLARE
	claims jsonb;
	c jsonb;
	chance float;
BEGIN
	SELECT jsonb_agg(to_jsonb(t)) INTO claims FROM saga.claim_tasks('jobs', how_many, lease, who) t;
	COMMIT;
	FOR c IN SELECT e FROM jsonb_array_elements(claims) e LOOP
		chance := CASE WHEN calm THEN 1 ELSE random() END;
		BEGIN
			IF chance < 0.1 THEN
				PERFORM saga.fail_task(c->>'task_key', (c->>'attempt')::int, 'the service is down', retry_after => '10 ms');
			ELSIF chance > 0.15 THEN
				IF chance < 0.25 THEN
					PERFORM saga.extend_claim(c->>'task_key', (c->>'attempt')::int, lease);
				ELSIF chance < 0.3 THEN
					PERFORM pg_sleep(extract(epoch FROM lease) * 1.2);
				END IF;
				PERFORM effect((c->>'saga_id')::uuid, (c->>'seq')::bigint, c->>'step', c->'context'->'args');
				PERFORM saga.complete_task(c->>'task_key', c->'step', (c->>'attempt')::int);
			END IF;
		EXCEPTION WHEN SQLSTATE 'SG002' THEN
			-- Its claim was over, and what it did is not there.
			NULL;
		END;
		COMMIT;
	END LOOP;
END $$;

-- What a listener does with a batch; calm, it does it well.
CREATE PROCEDURE serve(who text, how_many int, lease interval, calm boolean) LANGUAGE plpgsql AS $$
DECLARE
	claims jsonb;
	c jsonb;
	chance float;
	answer text;
BEGIN
	SELECT jsonb_agg(to_jsonb(t)) INTO claims FROM saga.claim_compensations('tasks', how_many, lease, who) t;
	COMMIT;
	FOR c IN SELECT e FROM jsonb_array_elements(claims) e LOOP
		chance := CASE WHEN calm THEN 1 ELSE random() END;
		IF chance < 0.1 THEN
			PERFORM saga.fail_compensation(c->>'compensation_key', (c->>'attempt')::int, 'the service is down', retry_after => '10 ms');
			COMMIT;
			CONTINUE;
		ELSIF chance < 0.2 THEN
			CONTINUE;
		ELSIF chance < 0.3 THEN
			-- perhaps too late
			PERFORM saga.extend_claim(c->>'compensation_key', (c->>'attempt')::int, lease);
			COMMIT;
		ELSIF chance < 0.33 AND (c->>'attempt')::int > 1 THEN
			IF saga.fail_compensation(c->>'compensation_key', (c->>'attempt')::int - 1, 'old news', false) <> 'stale' THEN
				RAISE EXCEPTION 'old news are news';
			END IF;
			COMMIT;
		END IF;
		INSERT INTO calls (key, attempt, consumer) VALUES (c->>'compensation_key', (c->>'attempt')::int, who);
		COMMIT;
		IF chance < 0.4 THEN
			PERFORM pg_sleep(extract(epoch FROM lease) * 1.2);
		ELSIF chance < 0.45 THEN
			CONTINUE;
		END IF;
		answer := saga.complete_compensation(c->>'compensation_key', to_jsonb(who));
		INSERT INTO reports (key, answer) VALUES (c->>'compensation_key', answer);
		COMMIT;
	END LOOP;
END $$;

-- ------------------------------------------------------------------ people

-- One decision of a person's.  Somebody else may have taken it already, or
-- brought the saga elsewhere: that is to be told, and changes nothing.
CREATE FUNCTION settle(who text, s uuid, step text, what text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text;
BEGIN
	IF what IN ('retry', 'done', 'skip', 'approve', 'refuse') THEN
		state := saga.resolve(s, step, what, 'said ' || who);
	ELSIF what = 'abandoned' THEN
		state := saga.abandon(s, 'said ' || who);
	ELSIF what = 'reopened' THEN
		state := saga.reopen(s, 'said ' || who);
	ELSIF what = 'rolling back' THEN
		state := saga.rollback_to(s, step, 'said ' || who);
	END IF;
	INSERT INTO decisions (saga, step, what, who) VALUES (s, step, what, who);
	IF what IN ('reopened', 'rolling back') THEN
		INSERT INTO reopened VALUES (s);
	END IF;
	RETURN state;
EXCEPTION WHEN SQLSTATE 'SG002' THEN
	RETURN NULL;
END $$;

-- What a person does when looking into the queue; calm, nothing is put off.
CREATE PROCEDURE decide(who text, calm boolean) LANGUAGE plpgsql AS $$
DECLARE
	q record;
	chance float;
	what text;
	step text;
	state text;
BEGIN
	FOR q IN
		SELECT saga_id, r.step, last_completed, why LIKE 'approval: %' AS approval,
			-- Of one that goes forward, a machine can always try again.
			safe_to_retry LIKE 'its compensation%' OR s.state = 'running' AS can_run, s.state = 'running' AS forward
		FROM saga.review_queue r JOIN saga.sagas s ON s.id = saga_id ORDER BY random() LIMIT CASE WHEN calm THEN 100 ELSE 4 END
	LOOP
		chance := random();
		step := q.step;
		IF q.step IS NULL THEN
			what := CASE WHEN chance < 0.6 AND NOT calm THEN 'reopened' WHEN chance < 0.8 AND NOT calm THEN 'rolling back' ELSE 'abandoned' END;
			step := q.last_completed;
		ELSIF q.approval THEN
			what := CASE WHEN chance < 0.8 THEN 'approve' ELSE 'refuse' END;
		ELSIF chance < 0.05 AND NOT calm AND NOT q.forward THEN
			what := 'abandoned';
		ELSIF chance < 0.2 AND NOT calm THEN
			what := 'rolling back';
			step := CASE WHEN chance < 0.1 THEN q.last_completed END;
		ELSIF chance < 0.8 AND q.can_run THEN
			what := 'retry';
		ELSE
			what := CASE WHEN chance < 0.9 THEN 'done' ELSE 'skip' END;
		END IF;
		PERFORM settle(who, q.saga_id, CASE WHEN what NOT IN ('abandoned', 'reopened') THEN step END, what);
		IF chance < 0.05 AND NOT calm THEN
			PERFORM pg_sleep(0.1);
		END IF;
		COMMIT;
	END LOOP;
	-- What has lost its deadline has nobody but a person to end it, if he may.
	FOR q IN
		SELECT r.saga, s.state, s.paused, s.deadline FROM (SELECT saga FROM reopened GROUP BY saga ORDER BY random() LIMIT 100) r JOIN saga.sagas s ON s.id = r.saga
	LOOP
		chance := random();
		BEGIN
			IF q.state IN ('completed', 'compensated', 'abandoned') THEN
				DELETE FROM reopened WHERE saga = q.saga;
			ELSIF q.paused THEN
				PERFORM saga.resume(q.saga, 'said ' || who);
			ELSIF NOT pg_has_role('app_a', 'USAGE') OR q.deadline IS NOT NULL THEN
				NULL;
			ELSIF q.state = 'running' AND chance < 0.1 AND NOT calm THEN
				-- It completes by itself, or fails by a person's word.
				PERFORM saga.complete(q.saga, when_done => true);
			ELSIF q.state = 'running' AND chance < 0.2 THEN
				PERFORM saga.complete(q.saga, ignore_failed => true);
				INSERT INTO ended_by_hand VALUES (q.saga);
			ELSIF q.state = 'running' AND (calm OR chance < 0.3) THEN
				PERFORM saga.fail(q.saga, 'said ' || who);
			END IF;
		EXCEPTION WHEN SQLSTATE 'SG002' THEN
			-- A step is open, or somebody else was there.
			NULL;
		END;
		COMMIT;
	END LOOP;
END $$;
