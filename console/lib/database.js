// The database: one pool that can only read, one for decisions, and a
// connection that listens.

import { existsSync } from 'node:fs';
import pg from 'pg';

// Where psql would look, too.
const SOCKETS = ['/var/run/postgresql', '/tmp'];

function host() {
	if (process.env.PGHOST) {
		return process.env.PGHOST;
	}
	const port = process.env.PGPORT || 5432;
	return SOCKETS.find((dir) => existsSync(`${dir}/.s.PGSQL.${port}`)) ?? 'localhost';
}

function connection(settings, more) {
	const options = Object.entries({ search_path: 'pg_catalog', ...more })
		.map(([name, value]) => `-c ${name}=${value}`);

	return {
		host: host(),
		application_name: 'saga console',
		connectionTimeoutMillis: 5000,
		keepAlive: true,
		statement_timeout: settings.statementTimeout,
		lock_timeout: Math.min(settings.statementTimeout, 3000),
		idle_in_transaction_session_timeout: 10000,
		// The server ends a statement that takes too long; this is for a server
		// that does not answer any more.
		query_timeout: settings.statementTimeout + 5000,
		options: [process.env.PGOPTIONS, ...options].filter(Boolean).join(' '),
	};
}

export class Database {
	constructor(settings) {
		this.settings = settings;
		this.reader = new pg.Pool({
			...connection(settings, { default_transaction_read_only: 'on' }), max: 4,
		});
		this.writer = settings.decide ? new pg.Pool({ ...connection(settings), max: 2 }) : null;
		// A connection that breaks while nobody uses it is replaced when it is needed.
		for (const pool of [this.reader, this.writer]) {
			pool?.on('error', () => {});
		}
		this.cached = new Map();
	}

	// Runs work(query) in a transaction that sees one state of the ledger.
	read(work) {
		return this.transaction(this.reader, 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY', work);
	}

	write(work) {
		return this.transaction(this.writer, 'BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE', work);
	}

	async transaction(pool, begin, work) {
		const client = await pool.connect();
		let broken;
		// An error between two queries: the next query reports it.
		const note = (error) => { broken = error; };

		client.on('error', note);
		try {
			await client.query(begin);
			const result = await work(async (text, values) => (await client.query(text, values)).rows);
			await client.query('COMMIT');
			return result;
		} catch (error) {
			try {
				await client.query('ROLLBACK');
			} catch (rollback) {
				broken = rollback;
			}
			throw error;
		} finally {
			client.off('error', note);
			client.release(broken);
		}
	}

	// What changes slowly, or costs more than a look, is asked at most so often.
	async remember(name, milliseconds, work) {
		const known = this.cached.get(name);

		if (known && Date.now() - known.at < milliseconds) {
			return known.value;
		}
		const value = work();
		this.cached.set(name, { at: Date.now(), value });
		try {
			return await value;
		} catch (error) {
			this.cached.delete(name);
			throw error;
		}
	}

	// Calls heard(saga id or null) for each notification, and again after each
	// new connection, since what was sent meanwhile is lost.
	listen(channels, heard) {
		let client, timer, stopped = false;
		const again = (pause = 3000) => {
			if (!stopped && !timer) {
				timer = setTimeout(connect, pause);
			}
		};
		const connect = async () => {
			timer = undefined;
			const mine = new pg.Client(connection(this.settings, { default_transaction_read_only: 'on' }));
			client = mine;
			mine.on('error', () => {});
			const ended = () => again();
			mine.on('end', ended);
			mine.on('notification', ({ payload }) => {
				let saga = null;
				try {
					saga = JSON.parse(payload).saga_id ?? null;
				} catch {
					// Any role may notify: what is not ours is a wake-up and no more.
				}
				heard(saga);
			});
			try {
				await mine.connect();
				const { rows } = await mine.query("SELECT current_setting('saga.review_channel', true) AS channel, pg_is_in_recovery() AS standby");
				if (rows[0].standby) {
					// Nobody can listen there; the pages are looked up at intervals only.
					mine.off('end', ended);
					await mine.end();
					again(60000);
					return;
				}
				const names = new Set([...channels, rows[0].channel].filter(Boolean));
				for (const name of names) {
					await mine.query(`LISTEN ${pg.escapeIdentifier(name)}`);
				}
				heard(null);
			} catch {
				mine.off('end', ended);
				mine.end().catch(() => {});
				again();
			}
		};

		connect();
		return () => {
			stopped = true;
			clearTimeout(timer);
			return client?.end().catch(() => {});
		};
	}

	async stop() {
		await Promise.all([this.reader.end(), this.writer?.end()]);
	}
}
