// What a person may decide, and the calls that do it.

// In words, as the buttons have it; whether a call fits is the server's to say.
export const DECISIONS = {
	approve: { label: 'Approve', means: 'the step may begin' },
	refuse: { label: 'Refuse', means: 'the step may not begin; it fails, with your note as the reason' },
	retry: { label: 'Retry', means: 'run it again, with all its attempts' },
	done: { label: 'Done', means: 'it was done by hand' },
	skip: { label: 'Skip', means: 'there is nothing to do; go on without it' },
	amend: { label: 'Amend', means: 'replace the SQL that undoes it, then run that' },
	reopen: { label: 'Reopen', means: 'the saga goes forward again' },
	fail: { label: 'Fail', means: 'the saga fails, and what was done is undone' },
	abandon: { label: 'Abandon', means: 'nothing more is undone; everything stays as it is, for good' },
};

// The decisions that the row of the review queue offers this role.
export function choices(row) {
	const found = new Set();

	for (const statement of row.to_settle.split(/^(?=SELECT saga\.)/m)) {
		const call = /^SELECT saga\.(\w+)\(/.exec(statement)?.[1];
		const word = call === 'resolve' ? /'(\w+)', 'why'/.exec(statement)?.[1] : call;

		// Operators settle what waits; only the owner's rights let a saga fail.
		if (word in DECISIONS && (word !== 'fail' || row.owns)) {
			found.add(word);
		}
	}
	if (row.amends && row.compensation_kind === 'sql' && found.has('retry') && found.has('abandon')) {
		found.add('amend');
	}
	return Object.keys(DECISIONS).filter((name) => found.has(name));
}

// A row of the queue as a form names it.  The time since when it waits is part of
// it: a decision is about what the person has seen, not about what came after.
export const token = (row) => `${row.saga_id}/${row.seq ?? ''}/${row.mark}`;

export function parseToken(text) {
	const match = /^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\/(\d*)\/(\d+(?:\.\d+)?)$/.exec(text);

	return match && { saga: match[1], seq: match[2] === '' ? null : match[2], mark: match[3] };
}

// Decides about one row of the queue.  Returns { ok, saga, step, text }.
export async function decide(database, item, decision, { note, output, compensation }) {
	let step = null;

	try {
		const state = await database.write(async (query) => {
			const rows = await query(`
				SELECT step, extract(epoch FROM since)::text AS mark FROM saga.review_queue
				WHERE saga_id = $1 AND seq IS NOT DISTINCT FROM $2::bigint`, [item.saga, item.seq]);

			if (rows.length > 0) {
				step = rows[0].step;
				if (rows[0].mark !== item.mark) {
					throw new Error('something was tried meanwhile, and it waits anew: look at it again');
				}
			} else if (item.seq !== null) {
				// Somebody was quicker: the call says who.
				const [known] = await query('SELECT key FROM saga.steps WHERE saga_id = $1 AND seq = $2', [item.saga, item.seq]);
				step = known?.key ?? null;
			}
			if (item.seq !== null && step === null) {
				throw new Error('there is no such saga any more');
			}
			return await call(query, item, step, decision, { note, output, compensation });
		});
		return { ok: true, saga: item.saga, step, text: state };
	} catch (error) {
		return { ok: false, saga: item.saga, step, text: said(error) };
	}
}

async function call(query, { saga, seq }, step, decision, { note, output, compensation }) {
	let rows;

	switch (decision) {
		case 'reopen':
		case 'abandon':
			rows = await query(`SELECT saga.${decision}($1, $2) AS state`, [saga, note]);
			break;
		case 'fail':
			rows = await query('SELECT saga.fail($1, $2) AS state', [saga, note]);
			break;
		case 'amend':
			// It may be changed by the role that it runs as, and no other.
			await query(`
				SELECT set_config('role', r.rolname, true) FROM saga.steps t
				JOIN pg_roles r ON r.oid = t.run_as::oid
				WHERE t.saga_id = $1 AND t.seq = $2`, [saga, seq]);
			await query('SELECT saga.amend($1, $2, $3, compensation => $4)', [saga, step, note, compensation]);
			await query("SELECT set_config('role', 'none', true)");
			rows = await query("SELECT saga.resolve($1, $2, 'retry', $3) AS state", [saga, step, note]);
			break;
		default:
			rows = output === null
				? await query('SELECT saga.resolve($1, $2, $3, $4) AS state', [saga, step, decision, note])
				: await query('SELECT saga.resolve($1, $2, $3, $4, output => $5::jsonb) AS state',
					[saga, step, decision, note, output]);
	}
	return rows[0].state;
}

// Pauses a saga, or lets it go on.
export async function hold(database, saga, decision, note) {
	try {
		const [row] = await database.write((query) => query(`SELECT saga.${decision}($1, $2) AS state`, [saga, note]));
		return { ok: true, saga, step: null, text: decision === 'pause' ? 'paused' : row.state };
	} catch (error) {
		return { ok: false, saga, step: null, text: said(error) };
	}
}

// What the server says, for the person who reads it.
export function said(error) {
	return [error.message, error.detail, error.hint].filter(Boolean).join(' ');
}
