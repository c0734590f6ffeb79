// The web application: who may come in, the pages, and the decisions.

import { randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import Fastify from 'fastify';
import cookie from '@fastify/cookie';
import csrf from '@fastify/csrf-protection';
import formbody from '@fastify/formbody';
import helmet from '@fastify/helmet';
import session from '@fastify/session';
import { Eta } from 'eta';
import { DECISIONS, choices, decide, hold, parseToken, said, token } from './decisions.js';
import { Database } from './database.js';
import { History } from './history.js';
import { Live, version } from './live.js';
import * as queries from './queries.js';
import * as words from './words.js';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const AGES = ['1 hour', '1 day', '7 days', '30 days'];
const loopback = (host) => ['127.0.0.1', '::1', 'localhost'].includes(host);

const assets = {
	'console.css': ['text/css; charset=utf-8', here('../public/console.css')],
	'console.js': ['text/javascript; charset=utf-8', here('../public/console.js')],
	'icon.svg': ['image/svg+xml', here('../public/icon.svg')],
	'idiomorph.js': ['text/javascript; charset=utf-8', fileURLToPath(import.meta.resolve('idiomorph'))],
};

// One value of a query string, or null.
const one = (value) => (typeof value === 'string' && value !== '' ? value : null);

function wrong(status, message) {
	return Object.assign(new Error(message), { status });
}

export async function start(settings) {
	const database = new Database(settings);
	const live = new Live();
	const eta = new Eta({ views: here('../views'), cache: true, autoTrim: [false, 'nl'], varName: 'it' });
	const app = Fastify({ logger: false, bodyLimit: 512 * 1024, forceCloseConnections: true, trustProxy: Boolean(settings.origin) });
	let base, key;

	// ------------------------------------------------------- who comes in

	// One link lets one browser in; the next one is made when it was used.
	function link() {
		key = randomBytes(24);
		settings.onLink?.(`${base}/enter?key=${key.toString('base64url')}`);
	}

	function fits(given) {
		const bytes = Buffer.from(given ?? '', 'base64url');

		return bytes.length === key.length && timingSafeEqual(bytes, key);
	}

	const origin = settings.origin ? new URL(settings.origin) : null;

	if (!loopback(settings.host) && !origin) {
		throw new Error(`--host ${settings.host} lets other machines in: that needs a proxy that speaks HTTPS, and its address as --origin`);
	}
	const hosts = () => (origin ? [origin.host]
		: ['localhost', '127.0.0.1', '[::1]'].map((name) => `${name}:${new URL(base).port}`));

	// A cookie is for all ports of a host: two consoles must not share a name.
	const cookieName = `saga_console_${settings.port || randomBytes(4).toString('hex')}`;

	base = origin ? origin.origin : null;
	app.addHook('onRequest', async (request) => {
		// A name that somebody else's DNS resolves to this machine is not ours.
		if (!hosts().includes(request.headers.host)) {
			throw wrong(421, 'this console is not served under that name');
		}
		if (request.method === 'POST' && !['same-origin', undefined].includes(request.headers['sec-fetch-site'])) {
			throw wrong(403, 'this form was sent from another site');
		}
	});
	await app.register(helmet, {
		contentSecurityPolicy: {
			useDefaults: false,
			directives: {
				defaultSrc: ["'none'"], scriptSrc: ["'self'"], styleSrc: ["'self'"], imgSrc: ["'self'"],
				connectSrc: ["'self'"], formAction: ["'self'"], baseUri: ["'none'"], frameAncestors: ["'none'"],
			},
		},
		referrerPolicy: { policy: 'same-origin' },
		strictTransportSecurity: false,
		xFrameOptions: { action: 'deny' },
	});
	await app.register(cookie);
	await app.register(session, {
		secret: randomBytes(48).toString('base64'),
		cookieName,
		saveUninitialized: false,
		rolling: false,
		cookie: { httpOnly: true, sameSite: 'strict', secure: Boolean(origin?.protocol === 'https:'), path: '/', maxAge: 12 * 3600 * 1000 },
	});
	await app.register(csrf, { sessionPlugin: '@fastify/session' });
	await app.register(formbody);

	app.addHook('onSend', async (request, reply) => {
		if (!reply.hasHeader('cache-control')) {
			reply.header('cache-control', 'no-store');
		}
	});

	// Everything but the entrance is for those who have come in by it.
	const open = new Set(['/enter', '/assets/:name']);
	app.addHook('preValidation', async (request) => {
		if (!open.has(request.routeOptions.url) && !request.session.get('entered')) {
			throw wrong(401, 'open the link that the console has printed in its terminal');
		}
	});

	app.get('/assets/:name', async (request, reply) => {
		const asset = Object.hasOwn(assets, request.params.name) ? assets[request.params.name] : null;

		if (!asset) {
			throw wrong(404, 'there is no such file');
		}
		reply.type(asset[0]).header('cache-control', 'no-cache');
		return readFileSync(asset[1]);
	});

	app.get('/enter', async (request, reply) => {
		if (!fits(one(request.query.key))) {
			throw wrong(403, 'this link was used before, or is not of this console: the terminal has a new one');
		}
		await request.session.regenerate();
		request.session.set('entered', true);
		link();
		return reply.redirect('/', 303);
	});

	// ------------------------------------------------------------- pages

	const who = () => database.remember('identity', 30000, () => database.read(queries.identity));

	const history = new History(async () => {
		const reader = await who();
		return reader.has_stat ? database.read(queries.statistics) : null;
	}, settings.sampleEvery);

	// What each page shows: load() returns its model, which is plain data.
	const pages = {
		overview: {
			path: '/', title: 'Overview', every: 2000,
			async load() {
				const [top, health] = await Promise.all([
					database.read(queries.top),
					// It may be asked each minute or so, not each second.
					database.remember('health', 15000, () => database.read(queries.health)),
				]);
				return { top, health, bars: history.bars(), stat: (await who()).has_stat };
			},
		},
		sagas: {
			path: '/sagas', title: 'Sagas', every: 4000,
			parse(query) {
				const filter = {
					state: queries.STATES.includes(query.state) ? query.state : null,
					name: one(query.name), key: one(query.key), subject: one(query.subject),
					since: AGES.includes(query.since) ? query.since : null,
					before: UUID.test(query.before) ? query.before : null,
				};
				// An id is a key that everybody knows.
				if (filter.key && UUID.test(filter.key.trim())) {
					filter.id = filter.key.trim();
				}
				return filter;
			},
			async load(filter) {
				return { filter, ...await database.read((query) => queries.sagas(query, filter)) };
			},
		},
		saga: {
			path: '/sagas/:id', title: 'Saga', every: 1000,
			parse(query, params) {
				const id = params.id ?? query.id;

				if (!UUID.test(id)) {
					throw wrong(404, 'there is no such saga, or it is not yours');
				}
				return {
					id, after: /^\d{1,9}$/.test(query.after) ? Number(query.after) : 0,
					before: /^\d{1,9}$/.test(query.before) ? Number(query.before) : 2147483647,
				};
			},
			async load({ id, after, before }) {
				const reader = await who();

				return database.read(async (query) => {
					const saga = await queries.saga(query, id, reader);

					if (!saga) {
						throw wrong(404, 'there is no such saga, or it is not yours');
					}
					const steps = await queries.steps(query, id, after);
					const events = await queries.events(query, id, before);
					const moreSteps = steps.length > queries.STEPS, moreEvents = events.length > queries.EVENTS;
					steps.length = Math.min(steps.length, queries.STEPS);
					events.length = Math.min(events.length, queries.EVENTS);
					const attempts = await queries.attempts(query, id, steps.map((step) => step.seq));
					for (const step of steps) {
						step.tried = attempts.filter((attempt) => attempt.seq === step.seq);
					}
					const open = !saga.finished_at;
					return {
						saga, steps, events, moreSteps, moreEvents, after, before,
						signals: await queries.signals(query, id),
						// Only who may read the saga may ask for its plan.
						plan: open && saga.reads ? await queries.plan(query, id) : [],
						review: open ? (await queries.review(query, reader, id)).map(offered) : [],
					};
				});
			},
		},
		review: {
			path: '/review', title: 'Review', every: 3000,
			async load() {
				const reader = await who();
				const rows = (await database.read((query) => queries.review(query, reader))).map(offered);
				const more = rows.length > queries.QUEUE;
				const groups = new Map();

				rows.length = Math.min(rows.length, queries.QUEUE);
				for (const row of rows) {
					const name = JSON.stringify([row.saga, row.step, row.why, row.choices, row.decides]);
					groups.set(name, [...groups.get(name) ?? [], row]);
				}
				return { groups: [...groups.values()], more };
			},
		},
		tasks: {
			path: '/tasks', title: 'Tasks', every: 3000,
			parse: (query) => ({ channel: one(query.channel) }),
			async load(filter) {
				return database.read(async (query) => ({
					filter, channels: await queries.channels(query), tasks: await queries.tasks(query, filter),
				}));
			},
		},
		running: {
			path: '/running', title: 'Running', every: 5000,
			load: async () => ({ running: await database.read(queries.running) }),
		},
	};

	function offered(row) {
		return { ...row, token: token(row), choices: choices(row) };
	}

	async function render(request, reply, view, data) {
		const flash = request.session?.get('entered') ? request.session.get('results') : null;

		// A page that brings itself up to date takes no message away from the one it is for.
		if (flash && !request.headers['x-refresh']) {
			request.session.set('results', null);
		}
		reply.type('text/html; charset=utf-8');
		return eta.render(`./${view}`, {
			...words, ...data, DECISIONS, STATES: queries.STATES, AGES, flash,
			nav: Object.values(pages).filter((page) => page.path !== pages.saga.path),
			decide: settings.decide, csrf: request.session?.get('entered') ? reply.generateCsrf() : '',
		});
	}

	for (const [name, page] of Object.entries(pages)) {
		app.get(page.path, async (request, reply) => {
			const asked = page.parse?.(request.query, request.params) ?? {};

			if (name === 'sagas' && asked.id) {
				return reply.redirect(`/sagas/${asked.id}`, 303);
			}
			const reader = await who();
			if (!reader.installed) {
				throw wrong(503, `database "${reader.database}" has no extension saga, or role "${reader.role}" has no USAGE on its schema`);
			}
			const model = await page.load(asked);
			const need = await database.remember('need', 2000, () => database.read(queries.needPerson));
			// As the stream of this page is to be asked for.
			const stream = new URLSearchParams({ seen: version(model) });
			for (const [field, value] of Object.entries(asked)) {
				if (value !== null && value !== undefined) {
					stream.set(field, value);
				}
			}
			return render(request, reply, name, {
				m: model, who: reader, need, page, title: page.title, live: `/live/${name}?${stream}`,
				url: (change) => words.address(request.url, change),
			});
		});

		app.get(`/live/${name}`, async (request, reply) => {
			const { seen, ...query } = request.query;
			const asked = page.parse?.(query, {}) ?? {};
			const stream = live.watch(`${name} ${JSON.stringify(asked)}`, {
				every: page.every, saga: asked.id, load: () => page.load(asked), seen,
			});

			request.raw.on('close', () => stream.destroy());
			reply.type('text/event-stream');
			return reply.send(stream);
		});
	}

	app.get('/sagas/:id/picture.svg', async (request, reply) => {
		const { id } = pages.saga.parse({}, request.params);
		const svg = await database.read((query) => queries.picture(query, id));

		// It brings its own style, and nothing else.
		reply.header('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
		reply.type('image/svg+xml; charset=utf-8');
		return svg;
	});

	// --------------------------------------------------------- decisions

	const form = { preHandler: app.csrfProtection };

	function demand(request) {
		if (!settings.decide) {
			throw wrong(403, 'this console only shows: start it with --decide');
		}
		const note = one(request.body.note)?.trim();
		if (!note) {
			throw wrong(400, 'a note is needed: why you decide so');
		}
		if (note.length > 4000) {
			throw wrong(400, 'the note is too long');
		}
		return note;
	}

	async function settled(request, reply, results, decision) {
		const good = results.filter((result) => result.ok);

		request.session.set('results', {
			decision, good: good.length, first: good[0] ?? null,
			bad: results.filter((result) => !result.ok).slice(0, 20), bads: results.length - good.length,
		});
		database.cached.delete('need');
		live.heard(null);
		const back = one(request.body.back);
		return reply.redirect(back && UUID.test(back) ? `/sagas/${back}` : '/review', 303);
	}

	app.post('/decide', form, async (request, reply) => {
		const note = demand(request);
		const decision = one(request.body.decision);

		if (!decision || !Object.hasOwn(DECISIONS, decision)) {
			throw wrong(400, 'choose a decision');
		}
		const items = [request.body.item ?? []].flat().map((item) => parseToken(String(item)));
		if (items.length === 0) {
			throw wrong(400, 'choose at least one saga');
		}
		if (items.length > queries.QUEUE || items.includes(null)) {
			throw wrong(400, 'this form is none of the console\'s');
		}
		const output = decision === 'done' ? one(request.body.output?.trim()) : null;
		if (output !== null) {
			try {
				JSON.parse(output);
			} catch {
				throw wrong(400, 'the output is no JSON');
			}
		}
		const compensation = one(request.body.compensation);
		if (decision === 'amend' && !compensation?.trim()) {
			throw wrong(400, 'the SQL that is to undo the step is missing');
		}
		// One after the other, each in a transaction of its own.
		const results = [];
		for (const item of items) {
			results.push(await decide(database, item, decision, { note, output, compensation }));
		}
		return settled(request, reply, results, decision);
	});

	app.post('/sagas/:id/:call', form, async (request, reply) => {
		const { id } = pages.saga.parse({}, request.params);

		if (!['pause', 'resume'].includes(request.params.call)) {
			throw wrong(404, 'there is no such page');
		}
		const note = demand(request);
		request.body.back = id;
		return settled(request, reply, [await hold(database, id, request.params.call, note)], request.params.call);
	});

	// ------------------------------------------------------------- errors

	app.setNotFoundHandler(async () => { throw wrong(404, 'there is no such page'); });

	app.setErrorHandler(async (error, request, reply) => {
		let status = error.status ?? error.statusCode ?? 500;

		if (error.code === 'SG001') {
			status = 404;
		} else if (typeof error.code === 'string' && /^(?:08|57P|E[A-Z]+$|53|28|3D)/.test(error.code)) {
			status = 503;
		} else if (error.code === '57014') {
			status = 504;
		}
		reply.code(status);
		return render(request, reply, 'error', {
			m: { status, text: said(error) }, who: null, need: 0, page: {}, title: 'Error', live: null, url: () => '/',
		});
	});

	await app.listen({ port: settings.port, host: settings.host });
	const address = app.server.address();
	base ??= `http://${address.family === 'IPv6' ? `[${address.address}]` : address.address}:${address.port}`;
	const deaf = database.listen(settings.listen, (saga) => live.heard(saga));
	history.run();
	link();

	return {
		base,
		async stop() {
			history.stop();
			live.stop();
			await app.close();
			await deaf();
			await database.stop();
		},
	};
}
