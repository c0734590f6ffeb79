-- What the witnesses and the ledger must agree upon, when all is over: queries
-- for what must not be, each behind a line "-- == what holds".  080_soak.pl reads
-- this file; "ack" is what clients were told, "heard" what was announced.

CREATE TABLE saga_now AS SELECT * FROM saga.sagas;
CREATE TABLE step_now AS SELECT * FROM saga.steps;
CREATE TABLE event_now AS SELECT * FROM saga.events;
CREATE TABLE undo_attempts AS SELECT * FROM saga.attempts WHERE phase = 'compensation';
CREATE TABLE act_attempts AS
	SELECT a.* FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq) WHERE phase = 'forward' AND t.action IS NOT NULL;
-- Steps whose result came when their undo was over, or under way
CREATE TABLE late AS
	SELECT DISTINCT saga_id, seq FROM event_now WHERE event = 'late result' AND detail->>'compensation_gets_output' = 'no'
	UNION
	SELECT saga_id, seq FROM step_now JOIN event_now e USING (saga_id, seq) WHERE e.event = 'late result' AND rolled_back_at IS NOT NULL;
-- What a person decided about a step, by the ledger
CREATE TABLE resolved AS
	SELECT saga_id, seq, step, detail->>'resolution' AS what, detail->>'note' AS note FROM event_now WHERE event = 'resolved';
CREATE INDEX ON saga_now (id);
CREATE INDEX ON step_now (saga_id, seq);
CREATE INDEX ON step_now (compensation_key);
CREATE INDEX ON event_now (saga_id, seq);
CREATE INDEX ON undo_attempts (saga_id, seq);
CREATE INDEX ON starts (saga, seq);
CREATE INDEX ON calls (key);
ANALYZE;

-- == every saga has come to an end
SELECT id, state, next_action FROM saga_now WHERE state NOT IN ('completed', 'compensated', 'abandoned')

-- == no decision is left open
SELECT saga_id, step, why FROM saga.review_queue

-- == nothing waits for a listener
SELECT p.* FROM saga.pending_compensations p JOIN saga_now s ON s.id = saga_id WHERE s.state <> 'abandoned'

-- == nor for a service
SELECT p.* FROM saga.pending_tasks p JOIN saga_now s ON s.id = saga_id WHERE s.state <> 'abandoned'

-- == every run of a step has its witness, and no witness is without
SELECT t.saga_id, t.seq, t.key, w.* FROM step_now t
FULL JOIN starts w ON w.saga = t.saga_id AND w.seq = t.seq AND w.key = t.key AND w.style = t.name
-- What the server runs, and what an action recorded, it begins by itself again.
WHERE t.saga_id IS NULL OR w.saga IS NULL AND t.on_failure IS NULL AND t.recorded_by IS NULL

-- == every effect has its step, and is there once
SELECT e.saga, e.seq, count(*) FROM effects e
LEFT JOIN step_now t ON t.saga_id = e.saga AND t.seq = e.seq AND t.key = e.key
GROUP BY e.saga, e.seq HAVING count(*) > 1 OR count(t.key) = 0

-- == every step that commits with its effect has it
SELECT saga_id, seq, key FROM step_now t
WHERE name = 'same' AND NOT EXISTS (SELECT FROM effects WHERE saga = saga_id AND seq = t.seq)

-- == an action or a task has its effect if and only if it is completed, unless a person did it
SELECT t.saga_id, t.seq, t.key, t.status, e.n FROM step_now t
LEFT JOIN effects e ON e.saga = t.saga_id AND e.seq = t.seq
WHERE t.name IN ('act', 'job') AND (e.n IS NOT NULL) <> (t.status = 'completed')
	AND (e.n IS NOT NULL OR NOT EXISTS (SELECT FROM resolved r WHERE r.saga_id = t.saga_id AND r.seq = t.seq AND r.what = 'done'))

-- == and succeeded once
SELECT saga_id, seq, count(*) FROM act_attempts WHERE outcome = 'succeeded' GROUP BY 1, 2 HAVING count(*) > 1

-- == what an action recorded is there with its mark
SELECT t.saga_id, t.seq, t.key, b.status FROM step_now t
LEFT JOIN step_now b ON b.saga_id = t.saga_id AND b.seq = t.recorded_by
WHERE t.recorded_by IS NOT NULL AND b.status IS DISTINCT FROM 'completed'

-- == all branches are there, or none
SELECT t.saga_id, t.seq, t.key, t.status, t.args->>'branches' AS branches, count(DISTINCT c.key) FROM step_now t
LEFT JOIN step_now c ON c.saga_id = t.saga_id AND c.recorded_by = t.seq AND c.name = 'act'
WHERE t.name = 'act' AND t.args ? 'branches'
	AND (t.saga_id, t.seq) NOT IN (SELECT saga_id, seq FROM resolved WHERE what = 'done')
GROUP BY 1, 2, 3, 4, 5
HAVING count(DISTINCT c.key) <> CASE t.status WHEN 'completed' THEN (t.args->>'branches')::int ELSE 0 END

-- == a completed saga did all that it was to do
SELECT t.saga_id, t.seq, t.key, t.status, t.on_failure FROM step_now t JOIN saga_now s ON s.id = t.saga_id
WHERE s.state = 'completed' AND t.on_failure IS NOT NULL AND t.rolled_back_at IS NULL
	AND t.status NOT IN ('completed', 'skipped') AND NOT (t.status = 'failed' AND t.on_failure = 'skip')
	-- A person completed it whatever had failed.
	AND (t.status = 'waiting' OR s.id NOT IN (SELECT saga FROM ended_by_hand))

-- == what was not approved did not begin
SELECT t.saga_id, t.seq, t.key, t.status FROM step_now t
WHERE t.approval IS NOT NULL AND t.status = 'completed'
	AND NOT EXISTS (SELECT FROM resolved r WHERE r.saga_id = t.saga_id AND r.seq = t.seq AND r.what IN ('approve', 'done'))

-- == no action began before those that it waits for were done
SELECT e.saga, e.key, b.key, b.status FROM effects e
JOIN step_now t ON t.saga_id = e.saga AND t.seq = e.seq AND t.after IS NOT NULL
JOIN step_now b ON b.saga_id = e.saga AND b.key = ANY (t.after) AND b.rolled_back_at IS NOT DISTINCT FROM t.rolled_back_at
LEFT JOIN effects d ON d.saga = b.saga_id AND d.seq = b.seq
WHERE b.status NOT IN ('completed', 'skipped') AND NOT (b.status = 'failed' AND b.on_failure = 'skip') OR d.n > e.n

-- == what was rolled back to a savepoint is not there
SELECT saga_id, key FROM step_now WHERE key LIKE 'ghost%' OR key = 'never'

-- == each undo is an attempt that succeeded, and each of those an undo
SELECT u.saga, u.seq, u.attempt, a.saga_id, a.seq, a.attempt FROM undos u
FULL JOIN (
	SELECT a.* FROM undo_attempts a JOIN step_now t USING (saga_id, seq)
	WHERE outcome = 'succeeded' AND t.compensation_kind = 'sql') a
ON a.saga_id = u.saga AND a.seq = u.seq AND a.attempt = u.attempt
WHERE u.saga IS NULL OR a.saga_id IS NULL

-- == nothing is undone twice, but at a person's word about a late result
SELECT u.saga, u.seq, count(*) FROM undos u
GROUP BY u.saga, u.seq
HAVING count(*) > 1 AND (
	(u.saga, u.seq) NOT IN (SELECT saga_id, seq FROM late)
	OR count(*) > 1 + (SELECT count(*) FROM resolved r WHERE r.saga_id = u.saga AND r.seq = u.seq AND r.what = 'retry'))

-- == nothing that was done in the database is undone twice
SELECT e.saga, e.seq, count(*) FROM effects e JOIN undos u ON u.saga = e.saga AND u.seq = e.seq GROUP BY 1, 2 HAVING count(*) > 1

-- == whatever a failed saga and a partial undo had to undo is settled
SELECT t.saga_id, t.seq, t.key, s.state, t.kind, t.compensation_status, t.rolled_back_at FROM step_now t
JOIN saga_now s ON s.id = t.saga_id
WHERE t.compensation_kind IS NOT NULL
	AND (s.state = 'compensated' OR t.rolled_back_at IS NOT NULL)
	AND NOT t.compensation_status = ANY ('{compensated,skipped}')

-- == what is compensated was undone, or a person said that it is
SELECT t.saga_id, t.seq, t.key, t.name FROM step_now t
WHERE t.compensation_status = 'compensated'
	AND NOT EXISTS (SELECT FROM undos u WHERE u.saga = t.saga_id AND u.seq = t.seq)
	AND NOT EXISTS (SELECT FROM calls c WHERE c.key = t.compensation_key)
	AND NOT (t.name = 'forget' AND EXISTS (SELECT FROM undo_attempts a WHERE a.saga_id = t.saga_id AND a.seq = t.seq AND a.outcome = 'succeeded' AND a.attempt = 1))
	AND NOT EXISTS (SELECT FROM resolved r WHERE r.saga_id = t.saga_id AND r.seq = t.seq AND r.what = 'done')

-- == what is skipped is not to be undone, or a person said so
SELECT t.saga_id, t.seq, t.key, t.name, t.kind, t.status FROM step_now t JOIN saga.ledger_step l ON l.saga = t.saga_id AND l.seq = t.seq
WHERE t.compensation_status = 'skipped'
	AND t.kind <> 'retriable'
	AND NOT (l.compensate_on = 'c' AND (t.status <> 'completed' OR (t.saga_id, t.seq) IN (SELECT saga_id, seq FROM late)))
	AND NOT EXISTS (SELECT FROM resolved r WHERE r.saga_id = t.saga_id AND r.seq = t.seq AND r.what = 'skip')

-- == what is undone was to be
SELECT u.saga, u.seq, t.key, t.kind, t.compensation_status, s.state FROM (
	SELECT saga, seq FROM undos
	UNION
	SELECT t.saga_id, t.seq FROM calls c JOIN step_now t ON t.compensation_key = c.key) u
LEFT JOIN step_now t ON t.saga_id = u.saga AND t.seq = u.seq
LEFT JOIN saga_now s ON s.id = u.saga
WHERE t.saga_id IS NULL OR t.kind = 'retriable' OR t.name NOT IN ('same', 'outside', 'listener', 'review', 'act', 'job')
	OR s.state = 'completed' AND t.rolled_back_at IS NULL

-- == nobody asked before it was claimed
SELECT c.* FROM calls c LEFT JOIN step_now t ON t.compensation_key = c.key
LEFT JOIN undo_attempts a ON a.saga_id = t.saga_id AND a.seq = t.seq
	AND a.attempt = c.attempt AND a.consumer = c.consumer AND a.started_at < c.at
WHERE a IS NULL OR t.name <> 'listener'

-- == what a listener reports as done is compensated, or a person skipped it before
SELECT r.*, t.compensation_status FROM reports r LEFT JOIN step_now t ON t.compensation_key = r.key
WHERE NOT CASE r.answer
	WHEN 'compensated' THEN t.compensation_status = 'compensated'
		-- reported in time, and then asked again by a late result
		OR (t.saga_id, t.seq) IN (SELECT saga_id, seq FROM late)
	WHEN 'skipped' THEN EXISTS (SELECT FROM resolved d WHERE d.saga_id = t.saga_id AND d.seq = t.seq AND d.what = 'skip')
	ELSE false END

-- == nothing is undone before a pivot that completed
SELECT u.saga, u.seq, p.seq FROM undos u
JOIN step_now t ON t.saga_id = u.saga AND t.seq = u.seq
JOIN step_now p ON p.saga_id = u.saga AND p.kind = 'pivot' AND p.status = 'completed' AND p.rolled_back_at IS NULL
WHERE t.seq <= p.seq AND t.rolled_back_at IS NULL
	-- it completed in time
	AND NOT EXISTS (SELECT FROM event_now e WHERE e.saga_id = p.saga_id AND e.seq = p.seq AND e.event = 'late result')

-- == what a person is to look at first is not undone before
SELECT u.saga, u.seq, t.key FROM undos u JOIN step_now t ON t.saga_id = u.saga AND t.seq = u.seq
WHERE t.name = 'review'
	AND NOT EXISTS (SELECT FROM resolved r WHERE r.saga_id = t.saga_id AND r.seq = t.seq AND r.what = 'retry')

-- == the undo goes strictly backwards
WITH done AS (
	SELECT n, saga, seq FROM undos
	UNION ALL
	-- Of a listener, what it did first: late, it may do it again.
	SELECT min(n), t.saga_id, t.seq FROM calls c JOIN step_now t ON t.compensation_key = c.key GROUP BY 2, 3)
SELECT a.saga, a.seq, a.n, b.seq, b.n, w.n AS started FROM done a
JOIN done b ON b.saga = a.saga AND b.seq > a.seq AND b.n > a.n
JOIN starts w ON w.saga = b.saga AND w.seq = b.seq
-- A later run starts when the earlier one has been undone.
WHERE w.n < a.n
	-- What the server ran began at another time than it was recorded.
	AND NOT EXISTS (SELECT FROM step_now t WHERE t.saga_id = a.saga AND t.seq IN (a.seq, b.seq) AND t.begun IS NOT NULL)
	-- A late result of a run that was rolled back has that one undone again, alone.
	AND NOT EXISTS (SELECT FROM step_now o WHERE o.saga_id = a.saga AND o.seq = a.seq AND o.rolled_back_at IS NOT NULL
		AND (o.saga_id, o.seq) IN (SELECT saga_id, seq FROM late))
	-- What was given up, or decided, counts as settled; and may be undone yet.
	AND (b.saga, b.seq) NOT IN (SELECT saga_id, seq FROM late)
	AND NOT EXISTS (SELECT FROM resolved r WHERE r.saga_id = b.saga AND r.seq = b.seq)
	AND NOT EXISTS (
		SELECT FROM event_now e JOIN saga.ledger_saga s ON s.id = e.saga_id
		WHERE e.saga_id = b.saga AND e.seq = b.seq AND e.event = 'late acknowledgement' AND s.on_failure = 'c')

-- == and so does that of what the server ran, by the order in which it began
SELECT a.saga, a.seq, b.seq FROM undos a
JOIN undos b ON b.saga = a.saga AND b.n > a.n
JOIN step_now ta ON ta.saga_id = a.saga AND ta.seq = a.seq
JOIN step_now tb ON tb.saga_id = b.saga AND tb.seq = b.seq AND coalesce(tb.begun, tb.seq) > coalesce(ta.begun, ta.seq)
JOIN (SELECT saga, seq, n FROM effects UNION ALL SELECT saga, seq, n FROM starts) e
	ON e.saga = b.saga AND e.seq = b.seq AND e.n < a.n
WHERE (tb.begun IS NOT NULL OR ta.begun IS NOT NULL)
	AND NOT EXISTS (SELECT FROM late l WHERE l.saga_id = a.saga AND l.seq IN (a.seq, b.seq))
	AND NOT EXISTS (SELECT FROM resolved r WHERE r.saga_id = b.saga AND r.seq = b.seq)

-- == what people decided is in the history, with their name, and nothing else
SELECT d.*, e.* FROM (
	SELECT saga, CASE WHEN what IN ('retry', 'done', 'skip', 'approve', 'refuse') THEN step END AS step, what, who, count(*) AS times
	FROM decisions GROUP BY 1, 2, 3, 4) d
FULL JOIN (
	SELECT saga_id AS saga, CASE event WHEN 'resolved' THEN step END AS step,
		CASE event WHEN 'resolved' THEN detail->>'resolution' ELSE event END AS what,
		substr(coalesce(detail->>'note', detail->>'reason'), 6) AS who, count(*) AS times
	FROM event_now
	WHERE event IN ('resolved', 'abandoned', 'reopened')
		OR event = 'rolling back' AND detail->>'reason' LIKE 'said %'
	GROUP BY 1, 2, 3, 4) e
ON d.saga = e.saga AND d.step IS NOT DISTINCT FROM e.step AND d.what = e.what AND d.who = e.who
WHERE d.saga IS NULL
	-- Back to where it is going already changes nothing.
	OR CASE d.what WHEN 'rolling back' THEN d.times < e.times ELSE d.times IS DISTINCT FROM e.times END

-- == each undo got the output that there is
SELECT u.saga, u.seq, u.output, t.output FROM undos u
JOIN step_now t ON t.saga_id = u.saga AND t.seq = u.seq
WHERE u.output IS DISTINCT FROM t.output AND (u.saga, u.seq) NOT IN (SELECT saga_id, seq FROM late)

-- == the accounts hold what was done less what was undone
SELECT * FROM (
	SELECT a.id, a.n, (
		SELECT count(*) FILTER (WHERE id = (t.args->>'a')::int) + count(*) FILTER (WHERE id = (t.args->>'b')::int)
		FROM effects e JOIN step_now t ON t.saga_id = e.saga AND t.seq = e.seq
		WHERE NOT EXISTS (SELECT FROM undos u WHERE u.saga = t.saga_id AND u.seq = t.seq)) AS expected
	FROM account a) x
WHERE n <> expected

-- == what was announced is so
SELECT saga, h.state, s.state FROM (SELECT DISTINCT saga, state FROM heard) h
LEFT JOIN saga_now s ON s.id = h.saga
WHERE s.id IS NULL OR h.state <> s.state AND NOT EXISTS (
	SELECT FROM event_now e WHERE e.saga_id = h.saga AND CASE h.state
		WHEN 'compensating' THEN e.event IN ('undo started', 'failing', 'rolling back', 'resolved')
		WHEN 'needs_review' THEN e.event = 'parked'
		WHEN 'running' THEN e.event IN ('rolled back', 'reopened', 'running again')
		ELSE e.event = h.state END)

-- == and, where nobody decided, went back or came late, in order
SELECT saga, heard, s.state FROM (
	SELECT saga, array_agg(h.state ORDER BY n) AS heard FROM (
		SELECT saga, state, min(n) AS n FROM heard GROUP BY 1, 2) h GROUP BY saga) x
JOIN saga_now s ON s.id = saga
WHERE NOT EXISTS (SELECT FROM event_now e WHERE e.saga_id = saga AND e.event IN ('resolved', 'abandoned', 'reopened', 'rolling back', 'late acknowledgement'))
	AND NOT CASE s.state
		WHEN 'completed' THEN heard = '{completed}'
		ELSE heard <@ '{compensating,compensated,needs_review}' AND NOT 'compensating' = ANY (heard[2:]) END

-- == what a client was told stands
SELECT ack.*, s.state FROM ack LEFT JOIN saga_now s ON s.id = ack.saga
WHERE NOT CASE what
	WHEN 'begin' THEN s.id IS NOT NULL
	WHEN 'signal' THEN EXISTS (SELECT FROM saga.signals g WHERE g.saga_id = saga AND g.key = ack.key)
	WHEN 'step' THEN EXISTS (SELECT FROM step_now t WHERE t.saga_id = saga AND t.key = ack.key)
	WHEN 'output' THEN EXISTS (SELECT FROM step_now t WHERE t.saga_id = saga AND t.key = ack.key AND t.output = to_jsonb(t.key))
	WHEN 'completed' THEN s.state = 'completed'
	WHEN 'failed' THEN EXISTS (SELECT FROM event_now e WHERE e.saga_id = saga AND e.event = 'failing')
	WHEN 'rollingback' THEN EXISTS (SELECT FROM event_now e WHERE e.saga_id = saga AND e.event IN ('rolling back', 'failing'))
	WHEN 'compensated' THEN EXISTS (SELECT FROM event_now e WHERE e.saga_id = saga AND e.event = 'compensated')
	WHEN 'needs_review' THEN EXISTS (SELECT FROM event_now e WHERE e.saga_id = saga AND e.event = 'parked')
	ELSE true END

-- == charged are attempts that failed
SELECT l.saga, l.seq, l.comp_attempts, l.comp_charged, a.* FROM saga.ledger_step l
LEFT JOIN (
	SELECT saga_id, seq, count(*) AS attempts, count(*) FILTER (WHERE outcome IN ('failed', 'timed out')) AS failed
	FROM undo_attempts GROUP BY 1, 2) a ON a.saga_id = l.saga AND a.seq = l.seq
WHERE coalesce(l.comp_attempts, 0) <> coalesce(a.attempts, 0) OR l.comp_charged > coalesce(a.failed, 0)

-- == no attempt of an action ended in a way that nobody asked for
SELECT a.saga_id, a.seq, a.attempt, outcome, sqlstate, a.error FROM act_attempts a
WHERE NOT (outcome IS NULL
	OR outcome IN ('succeeded', 'interrupted')
	OR outcome = 'deferred' AND sqlstate = 'SG007'
	OR outcome = 'failed' AND (a.error IN ('not now', 'serialize', 'refused at commit', 'not deployed', 'never') OR sqlstate = '40P01'))

-- == no attempt ended in a way that nobody asked for
SELECT a.saga_id, a.seq, a.attempt, outcome, sqlstate, a.error FROM undo_attempts a
WHERE NOT (outcome = 'succeeded'
	OR outcome = 'interrupted'
	OR outcome = 'deferred' AND sqlstate = 'SG007'
	OR outcome = 'timed out' AND consumer LIKE 'consumer _' AND a.error LIKE 'its claim ended%'
	OR outcome = 'failed' AND (a.error IN ('the service is down', 'not now', 'serialize', 'refused at commit', 'not by a machine') OR sqlstate = '40P01'))
