// All that the console reads.  Each query is bounded: by a limit, by a key, or by
// the views that look at what is open only.

export const PAGE = 50;

// So many sagas are looked through for a page; the reader may go on from there.
export const WINDOW = 20000;

export const STEPS = 100;
export const EVENTS = 200;
export const QUEUE = 500;

// Of a payload so much is shown.
const CHARS = 20000;
const shown = (column) => `left(jsonb_pretty(${column}), ${CHARS + 1})`;
const text = (column) => `left(${column}, ${CHARS + 1})`;

export const STATES = ['running', 'compensating', 'needs_review', 'completed', 'compensated', 'abandoned'];

// Who is reading, and what that role may do.
export async function identity(query) {
	const [row] = await query(`
		SELECT current_user AS role, current_database() AS database,
			current_setting('server_version') AS version,
			current_setting('server_version_num')::int AS major,
			pg_is_in_recovery() AS standby,
			coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS installed,
			EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'stat') AS has_stat,
			r.rolsuper OR pg_has_role(current_user, 'pg_read_all_data', 'USAGE')
				OR coalesce(pg_has_role(current_user, o.oid, 'USAGE'), false) AS reads_all,
			r.rolsuper OR coalesce(pg_has_role(current_user, o.oid, 'USAGE'), false) AS decides_all,
			pg_has_role(current_user, 'pg_monitor', 'USAGE') AS monitor
		FROM pg_roles r
		LEFT JOIN pg_namespace n ON n.nspname = 'saga'
		LEFT JOIN pg_roles o ON o.rolname = current_setting('saga.operator_role', true)
		WHERE r.rolname = current_user`);

	return row;
}

// $1 of the conditions below: may this role read, and decide about, the sagas of all?
const mayRead = '($1 OR pg_has_role(s.owner::oid, \'USAGE\'))';

export function top(query) {
	return query(`
		SELECT name, owner::text AS owner, running, waiting, waiting_for, compensating, need_person,
			executors, unclaimed, oldest_running, oldest_waiting, oldest_compensating,
			oldest_need_person, oldest_unclaimed
		FROM saga.top ORDER BY need_person DESC, compensating DESC, waiting DESC, name, owner LIMIT 200`);
}

export function health(query) {
	return query(`
		SELECT severity, code, finding, hint, since FROM saga.health
		ORDER BY array_position('{error,warning,notice}'::text[], severity), code, since LIMIT 100`);
}

export function statistics(query) {
	return query(`
		SELECT name, begun::float8, completed::float8, failed::float8, canceled::float8, timed_out::float8,
			compensated::float8, abandoned::float8, parked::float8,
			extract(epoch FROM stats_reset)::float8 AS since
		FROM saga.stat`);
}

const LISTED = `id, name, idempotency_key, subject, state, failure_kind, paused, owner::text AS owner,
	started_at, updated_at, finished_at`;

// A page of sagas, the newest first: { rows, after: where the next page begins, looked }.
export async function sagas(query, filter) {
	const conditions = [], values = [];
	const add = (value) => `$${values.push(value)}`;
	const before = filter.before ?? 'ffffffff-ffff-ffff-ffff-ffffffffffff';
	let from, scanned = false;

	if (filter.key) {
		// An index finds the key, whoever has used it.
		from = `saga.sagas WHERE idempotency_key = ${add(filter.key)} AND id < ${add(before)}`;
	} else if (filter.subject) {
		// An index for each owner
		from = `(SELECT f.* FROM pg_roles r CROSS JOIN LATERAL (
				SELECT id, name, idempotency_key, subject, state, failure_kind, paused, owner,
					started_at, updated_at, finished_at
				FROM saga.sagas
				WHERE owner = r.oid::regrole AND subject = ${add(filter.subject)} AND id < ${add(before)}
				ORDER BY id DESC LIMIT ${WINDOW}) f) s WHERE true`;
	} else if (filter.state === 'compensating' || filter.state === 'needs_review') {
		from = `saga.undoing WHERE id < ${add(before)}`;
	} else {
		scanned = Boolean(filter.name || filter.state);
		const since = filter.since ? `AND id >= saga.first_id(now() - ${add(filter.since)}::interval)` : '';
		const of = `saga.sagas WHERE id < ${add(before)} ${since}`;
		from = scanned
			? `(SELECT id, name, idempotency_key, subject, state, failure_kind, paused, owner,
					started_at, updated_at, finished_at
				FROM ${of} ORDER BY id DESC LIMIT ${WINDOW}) s WHERE true`
			: of;
	}
	if (filter.since) {
		conditions.push(`AND id >= saga.first_id(now() - ${add(filter.since)}::interval)`);
	}
	if (filter.name) {
		conditions.push(`AND name = ${add(filter.name)}`);
	}
	if (filter.state) {
		conditions.push(`AND state = ${add(filter.state)}`);
	}
	const rows = await query(`SELECT ${LISTED} FROM ${from} ${conditions.join(' ')}
		ORDER BY id DESC LIMIT ${PAGE + 1}`, values);
	const page = { rows: rows.slice(0, PAGE), after: null, looked: null };

	if (rows.length > PAGE) {
		page.after = page.rows.at(-1).id;
	} else if (scanned) {
		// Nothing more among those looked through: the next page begins after them.
		const [last] = await query(`
			SELECT id, started_at FROM saga.sagas WHERE id < $1
			${filter.since ? 'AND id >= saga.first_id(now() - $2::interval)' : ''}
			ORDER BY id DESC OFFSET ${WINDOW - 1} LIMIT 1`, filter.since ? [before, filter.since] : [before]);
		if (last) {
			page.after = last.id;
			page.looked = last.started_at;
		}
	}
	return page;
}

export async function saga(query, id, who) {
	const [row] = await query(`
		SELECT s.id, s.name, s.idempotency_key, s.subject, s.state, s.failure_kind, s.paused, s.owner::text AS owner,
			${shown('s.input')} AS input, ${shown('s.result')} AS result, ${text('s.reason')} AS reason,
			${shown('s.details')} AS details, s.failed_step, s.last_completed_step, s.steps::int AS steps,
			s.next_action, s.next_action_at, s.deadline, s.requires_review, s.started_at, s.updated_at, s.finished_at,
			${mayRead} AS reads, ($2 OR pg_has_role(s.owner::oid, 'USAGE')) AS decides,
			pg_has_role(s.owner::oid, 'USAGE') AS owns
		FROM saga.sagas s WHERE s.id = $3`, [who.reads_all, who.decides_all, id]);

	return row;
}

export function steps(query, id, after) {
	return query(`
		SELECT seq, position, name, key, run, kind, status, attempts, ${shown('output')} AS output,
			${text('error')} AS error, compensation_kind, ${text('compensation')} AS compensation,
			${shown('args')} AS args, channel, review, run_as::text AS run_as, compensation_status,
			compensation_attempts, next_attempt_at, ${text('last_error')} AS last_error, parked, compensated_at,
			${shown('compensation_output')} AS compensation_output, started_at, completed_at, rolled_back_at,
			forward_key, compensation_key, ${text('action')} AS action, task, after, delay::text AS delay,
			not_before, signals, approval, waits_for, ready_at, timeout_at, on_failure, rounds::int AS rounds
		FROM saga.steps WHERE saga_id = $1 AND position > $2
		ORDER BY position LIMIT ${STEPS + 1}`, [id, after]);
}

export function attempts(query, id, seqs) {
	return query(`
		SELECT seq, phase, attempt, outcome, sqlstate, ${text('error')} AS error, rows, started_at, finished_at, consumer
		FROM saga.attempts WHERE saga_id = $1 AND seq = ANY ($2)
		ORDER BY seq, started_at, phase DESC, attempt LIMIT 2000`, [id, seqs]);
}

export function events(query, id, before) {
	return query(`
		SELECT position, at, event, step, ${text('detail::text')} AS detail
		FROM saga.events WHERE saga_id = $1 AND position < $2
		ORDER BY position DESC LIMIT ${EVENTS + 1}`, [id, before]);
}

export function signals(query, id) {
	return query(`
		SELECT name, ${shown('payload')} AS payload, key, sent_by, at, used_by_step
		FROM saga.signals WHERE saga_id = $1 ORDER BY at DESC LIMIT 200`, [id]);
}

export function plan(query, id) {
	return query(`SELECT position, step, action, ${text('detail')} AS detail FROM saga.plan($1) ORDER BY position LIMIT 200`, [id]);
}

export async function picture(query, id) {
	const [row] = await query('SELECT saga.picture($1) AS svg', [id]);

	return row.svg;
}

// What waits for a person: of one saga, or of those that began first.  Which these
// are is found first, since the rest of a row is not cheap.
export function review(query, who, id) {
	const values = [who.reads_all, who.decides_all];
	let where = '';

	if (id) {
		where = `WHERE saga_id = $${values.push(id)}`;
	}
	// What a role may become: 16 told that from having its rights.
	const become = who.major >= 160000 ? 'SET' : 'MEMBER';

	return query(`
		SELECT s.saga_id, s.saga, s.key, s.owner::text AS owner, s.step, s.seq, ${text('s.why')} AS why,
			${text('s.failure')} AS failure, s.since, extract(epoch FROM s.since)::text AS mark,
			${text('s.attempts')} AS attempts, s.last_completed, s.until,
			${shown('s.input')} AS input, ${shown('s.outputs')} AS outputs, s.safe_to_retry,
			s.must_not_repeat, ${text('s.to_settle')} AS to_settle, t.run_as::text AS run_as,
			${text('t.compensation')} AS compensation, t.compensation_kind, t.task,
			coalesce(pg_has_role(current_user, t.run_as::oid, '${become}'), false) AS amends,
			${mayRead} AS reads, ($2 OR pg_has_role(s.owner::oid, 'USAGE')) AS decides,
			pg_has_role(s.owner::oid, 'USAGE') AS owns
		FROM (SELECT saga_id, seq FROM saga.review_queue ${where} ORDER BY saga_id, seq LIMIT ${QUEUE + 1}) k
		CROSS JOIN LATERAL (
			SELECT * FROM saga.review_queue q
			WHERE q.saga_id = k.saga_id AND q.seq IS NOT DISTINCT FROM k.seq OFFSET 0) s
		LEFT JOIN LATERAL (
			SELECT x.run_as, x.compensation, x.compensation_kind, x.task FROM saga.steps x
			WHERE x.saga_id = s.saga_id AND x.seq = s.seq OFFSET 0) t ON true
		ORDER BY s.since, s.saga_id, s.seq`, values);
}

export function channels(query) {
	return query(`
		SELECT channel, phase, consumer, count(*)::int AS tasks,
			min(since) FILTER (WHERE next_attempt_at IS NULL OR next_attempt_at <= now()) AS oldest,
			min(lease_until) AS lease_until
		FROM saga.pending_tasks GROUP BY channel, phase, consumer
		ORDER BY channel, phase, consumer NULLS FIRST LIMIT 500`);
}

export function tasks(query, filter) {
	const values = [], conditions = [];

	if (filter.channel) {
		conditions.push(`channel = $${values.push(filter.channel)}`);
	}
	return query(`
		SELECT saga_id, name, step, phase, channel, attempt, since, consumer, claimed_at, lease_until,
			next_attempt_at, task_key
		FROM saga.pending_tasks ${conditions.length ? `WHERE ${conditions.join(' AND ')}` : ''}
		ORDER BY since LIMIT 200`, values);
}

// Who blocks an attempt, and what that session does, as far as this role may see it.
export function running(query) {
	return query(`
		SELECT r.saga_id, r.name, r.step, r.phase, r.attempt, r.pid, r.role::text AS role, r.since, r.wait_event,
			r.consumer, r.lease_until,
			(SELECT jsonb_agg(jsonb_build_object('pid', b.pid, 'role', a.usename, 'application', a.application_name,
					'state', a.state, 'since', a.xact_start, 'query', left(a.query, 300)) ORDER BY b.pid)
				FROM unnest(r.blocked_by) AS b (pid)
				LEFT JOIN pg_stat_activity a ON a.pid = b.pid) AS blockers
		FROM saga.running r ORDER BY r.since, r.saga_id, r.step LIMIT 500`);
}

export async function needPerson(query) {
	const [row] = await query('SELECT coalesce(sum(need_person), 0)::int AS n FROM saga.top');

	return row.n;
}
