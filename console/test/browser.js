// The console in a real browser, before a real server.  test/t/people/119_console.pl
// starts it: PG* name a server of its own, SAGA_CHROMIUM the browser, PGDATA and
// PATH what stops and starts the server.  It prints a line for each test, as TAP has it.

import { execFile, spawn } from 'node:child_process';
import http from 'node:http';
import net from 'node:net';
import { mkdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import pg from 'pg';
import { chromium } from 'playwright-core';
import { History } from '../lib/history.js';
import { Live, version } from '../lib/live.js';
import * as queries from '../lib/queries.js';

const run = promisify(execFile);
const program = fileURLToPath(new URL('../bin/saga-console.js', import.meta.url));
const PATIENCE = 1000 * Number(process.env.PG_TEST_TIMEOUT_DEFAULT ?? 180);
const MANY = Number(process.env.SAGA_CONSOLE_SAGAS ?? 20000);
const shots = process.env.SAGA_CONSOLE_SHOTS;
const CANARY = 'canary-7f3a';

// ------------------------------------------------------------- reporting

let tests = 0, where = '';
const print = (text) => process.stdout.write(`${text}\n`);

function ok(good, name, more) {
	print(`${good ? 'ok' : 'not ok'} ${++tests} - ${where}${name}`);
	if (!good) {
		print(String(`${where}${name}\n${more ?? ''}`).replace(/^/gm, '# '));
	}
	return good;
}

const is = (got, expected, name) => ok(got === expected, name, `got:      ${got}\nexpected: ${expected}`);
const like = (got, expected, name) => ok(expected.test(got), name, `got:      ${got}\nexpected: ${expected}`);

// Waits for a condition; what it last was is shown if it never comes.
async function until(name, condition) {
	const end = Date.now() + PATIENCE;
	let last;

	while (Date.now() < end) {
		try {
			last = await condition();
			if (last === true) {
				return ok(true, name);
			}
		} catch (error) {
			last = error.message;
		}
		await new Promise((done) => { setTimeout(done, 50); });
	}
	return ok(false, name, `still: ${last}`);
}

// ------------------------------------------------------------- the server

const admin = new pg.Pool({ max: 3 });
const shop = new pg.Pool({ max: 2, user: 'shop' });
admin.on('error', () => {});
shop.on('error', () => {});

const value = async (text, values, pool = admin) => Object.values((await pool.query(text, values)).rows[0] ?? {})[0];
const state = (id) => value('SELECT state FROM saga.sagas WHERE id = $1', [id]);
const parked = (id) => until(`saga waits for a person`, async () =>
	await value('SELECT count(*)::int > 0 FROM saga.review_queue WHERE saga_id = $1', [id]));
const lastEvent = async (id, event) => (await admin.query(
	'SELECT step, detail FROM saga.events WHERE saga_id = $1 AND event = $2 ORDER BY position DESC LIMIT 1', [id, event])).rows[0];

// A saga whose undo of "charge" fails at once, until there is a table of that name.
async function failing(key, table, failure = 'no carrier') {
	const id = await value("SELECT saga.begin('order', $1, $2, subject => 'customer-1')", [key, { note: CANARY }], shop);

	await shop.query(`SELECT saga.step($1, 'charge', output => $2, args => $2, compensation => $3,
		compensation_retry => saga.retry_policy(max_attempts => 1))`,
	[id, { charge: CANARY }, `INSERT INTO ${table} VALUES ($1->'step'->>'key')`]);
	await shop.query('SELECT saga.fail($1, $2)', [id, failure]);
	return id;
}

// ------------------------------------------------------------- consoles and browsers

const consoles = [];

const start = (user, ...options) => launch(user, process.execPath, [program, '--port', '0', ...options]);

function launch(user, command, args) {
	return new Promise((done, failed) => {
		// In a group of its own, by which all of it is ended.
		const child = spawn(command, args,
			{ env: { ...process.env, PGUSER: user }, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
		const self = { child, links: [], errors: '' };
		let text = '';

		consoles.push(self);
		child.stderr.on('data', (data) => { self.errors += data; });
		child.stdout.on('data', (data) => {
			text += data;
			self.links = [...text.matchAll(/^open in a browser: (\S+)$/gm)].map((match) => match[1]);
			if (self.links.length > 0) {
				self.base = new URL(self.links[0]).origin;
				done(self);
			}
		});
		child.on('exit', (code) => failed(new Error(`the console ended with ${code}: ${self.errors}`)));
	});
}

const stop = (self) => new Promise((done) => {
	if (self.child.exitCode !== null) {
		done(self.child.exitCode);
		return;
	}
	self.child.removeAllListeners('exit').on('exit', done);
	process.kill(-self.child.pid, 'SIGTERM');
});

const browser = await chromium.launch({ executablePath: process.env.SAGA_CHROMIUM, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
const strangers = new Set(), complaints = [];
let dialogs = 0;

// A window of a browser that came in by the console's newest link.
async function enter(self, options = {}) {
	const context = await browser.newContext({ viewport: { width: 1200, height: 850 }, ...options });
	const page = await context.newPage();

	page.setDefaultTimeout(PATIENCE);
	page.on('request', (request) => {
		const url = new URL(request.url());
		if (!['data:', 'about:'].includes(url.protocol) && url.origin !== self.base) {
			strangers.add(url.origin);
		}
	});
	page.on('console', (message) => {
		if (message.type() === 'error' && !/status of 4\d\d|status of 50[34]|ERR_/.test(message.text())) {
			complaints.push(`${page.url()}: ${message.text()}`);
		}
	});
	page.on('pageerror', (error) => complaints.push(`${page.url()}: ${error.message}`));
	page.on('dialog', (dialog) => { dialogs++; dialog.dismiss(); });
	const used = self.links.length;
	await page.goto(self.links.at(-1));
	await until.quiet(() => self.links.length > used);
	return page;
}
until.quiet = async (condition) => {
	for (const end = Date.now() + PATIENCE; !condition();) {
		if (Date.now() > end) {
			throw new Error('the console prints no new link');
		}
		await new Promise((done) => { setTimeout(done, 10); });
	}
};

const freePort = () => new Promise((done) => {
	const server = net.createServer().listen(0, '127.0.0.1', () => {
		const { port } = server.address();
		server.close(() => done(port));
	});
});

// A request as any program may make it.
function request(self, path, { method = 'GET', headers = {}, body } = {}) {
	return new Promise((done, failed) => {
		const url = new URL(path, self.base);
		const it = http.request(url, { method, headers: { ...body ? { 'content-type': 'application/x-www-form-urlencoded', 'content-length': Buffer.byteLength(body) } : {}, ...headers } }, (response) => {
			let text = '';
			response.on('data', (data) => { text += data; });
			response.on('end', () => done({ status: response.statusCode, headers: response.headers, text }));
		});
		it.on('error', failed);
		it.end(body);
	});
}

async function shoot(page, name) {
	if (shots) {
		mkdirSync(shots, { recursive: true });
		await page.screenshot({ path: `${shots}/${name}.png` });
	}
}

const live = (page) => page.locator('#pulse', { hasText: /^live$/ }).waitFor();

// Follows a link to another address, and waits until that is there.
async function onwards(page, link) {
	const from = page.url();

	await Promise.all([page.waitForURL((url) => url.href !== from, { waitUntil: 'load' }), link.click()]);
}

// Settles what the page shows, as a person does.
async function settle(page, decision, note, more = {}) {
	const form = page.locator('form[action="/decide"]', { has: page.locator(`[value="${decision}"]`) }).first();

	await form.locator(`[name=decision][value="${decision}"]`).check();
	for (const [name, text] of Object.entries(more)) {
		await form.locator(`[name=${name}]`).fill(text);
	}
	await form.locator('[name=note]').fill(note);
	await Promise.all([page.waitForURL(/./, { waitUntil: 'load' }), form.locator('button.do').click()]);
	await page.locator('.flash').waitFor();
	return page.locator('.flash').innerText();
}

const test = (name, work) => [name, work];
const suite = [];

// ------------------------------------------------------------- the tests

suite.push(test('safety', async () => {
	const self = await start('ann', '--decide');
	const [link] = self.links;

	is(new URL(self.base).hostname, '127.0.0.1', 'it listens on the loopback address');
	for (const path of ['/', '/sagas', '/review', '/tasks', '/running', '/live/overview', '/sagas/00000000-0000-0000-0000-000000000000', '/sagas/00000000-0000-0000-0000-000000000000/picture.svg']) {
		is((await request(self, path)).status, 401, `nobody gets ${path} without the link`);
	}
	is((await request(self, '/decide', { method: 'POST', body: 'decision=retry&note=x' })).status, 401, 'or decides');
	is((await request(self, '/enter?key=AAAA')).status, 403, 'a wrong key opens nothing');
	is((await request(self, '/enter')).status, 403, 'nor does none');
	is((await request(self, new URL(link).pathname + new URL(link).search, { headers: { host: 'evil.example' } })).status, 421, 'a foreign name for this address is refused');

	const page = await enter(self);
	is((await request(self, new URL(link).pathname + new URL(link).search)).status, 403, 'a link opens one browser only');
	ok(self.links.length === 2 && self.links[1] !== link, 'the next link is another one');
	const [cookie] = await page.context().cookies();
	ok(cookie.httpOnly && cookie.sameSite === 'Strict', 'the cookie is for this site, and not for scripts', JSON.stringify(cookie));
	const jar = { cookie: `${cookie.name}=${cookie.value}` };
	const got = await request(self, '/review', { headers: jar });
	is(got.status, 200, 'with the cookie the page is there');
	is(got.headers['content-security-policy'].replace(/;\s*/g, '; '),
		"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		'nothing but its own scripts, styles and images');
	is(got.headers['cache-control'], 'no-store', 'no cache keeps it');
	is(got.headers['x-content-type-options'], 'nosniff', 'no content is guessed');

	const id = await failing('safety', 'shop.missing_1');
	await parked(id);
	const mark = await value('SELECT saga_id || \'/\' || seq || \'/\' || extract(epoch FROM since) FROM saga.review_queue WHERE saga_id = $1', [id]);
	const body = `decision=skip&note=forged&item=${encodeURIComponent(mark)}`;
	is((await request(self, '/decide', { method: 'POST', headers: jar, body })).status, 403, 'a form without its token is refused');
	const token = /name="_csrf" value="([^"]+)"/.exec((await request(self, '/review', { headers: jar })).text)[1];
	is((await request(self, '/decide', { method: 'POST', headers: { ...jar, 'sec-fetch-site': 'cross-site' }, body: `${body}&_csrf=${encodeURIComponent(token)}` })).status, 403, 'and one that another site sends');
	is((await request(self, '/decide', { method: 'POST', headers: jar, body: `${body.replace('forged', '%20')}&_csrf=${encodeURIComponent(token)}` })).status, 400, 'a note of blanks is none');
	is((await request(self, '/decide', { method: 'POST', headers: jar, body: `${body.replace('skip', 'constructor')}&_csrf=${encodeURIComponent(token)}` })).status, 400, 'a decision that there is not is refused');
	is(await state(id), 'needs_review', 'nothing was decided by any of them');
	is((await request(self, '/decide', { method: 'POST', headers: { ...jar, 'sec-fetch-site': 'same-origin' }, body: `${body}&_csrf=${encodeURIComponent(token)}` })).status, 303, 'the same with all of it is carried out');
	is((await lastEvent(id, 'resolved'))?.detail.note, 'forged', 'so that the refusals above were about what they say');

	// Other machines come in through a proxy only.
	is(await launch('ann', process.execPath, [program, '--port', '0', '--host', '0.0.0.0']).then(() => 'it listens', (error) => /that needs a proxy/.test(error.message)), true, 'it does not listen to other machines unless it is told of a proxy');
	consoles.pop();
	const port = await freePort();
	const behind = await launch('ann', process.execPath, [program, '--port', String(port), '--origin', 'https://sagas.example.org']);
	is(behind.base, 'https://sagas.example.org', 'a console with a proxy prints the address of that');
	const entrance = new URL(behind.links[0]);
	behind.base = `http://127.0.0.1:${port}`;
	is((await request(behind, entrance.pathname + entrance.search)).status, 421, 'and is there under that name only');
	const through = await request(behind, entrance.pathname + entrance.search, { headers: { host: 'sagas.example.org', 'x-forwarded-proto': 'https' } });
	like(`${through.status} ${through.headers['set-cookie']}`, /^303 .*; HttpOnly; Secure; SameSite=Strict/, 'with a cookie for HTTPS');
	await stop(behind);

	// A console that shows only
	const shows = await launch('ann', 'make', ['-s', '-C', fileURLToPath(new URL('../..', import.meta.url)), 'console', 'ARGS=--port 0']);
	const window = await enter(shows);
	const other = await failing('read only', 'shop.missing_1');
	await parked(other);
	await window.goto(`${shows.base}/review`);
	is(await window.locator('form[method=post] button').count(), 0, 'a console without --decide has no form that decides');
	ok((await window.locator('.sql pre').first().textContent()).includes('saga.resolve('), 'but the calls to copy');
	const [its] = await window.context().cookies();
	const its_token = /name="_csrf" value="([^"]+)"/.exec(await window.content())[1];
	is((await request(shows, '/decide', { method: 'POST', headers: { cookie: `${its.name}=${its.value}` }, body: `${body}&_csrf=${encodeURIComponent(its_token)}` })).status, 403, 'and refuses one');
	is(await value("SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'saga console' AND usename = 'ann' AND state = 'idle in transaction'"), 0, 'no console holds a transaction open');
	await stop(shows);
	is(await stop(self), 0, 'it ends when it is told to');
}));

suite.push(test('pages', async () => {
	const self = await start('ann', '--decide');
	const page = await enter(self);
	const trip = await value("SELECT saga.begin('trip', 'pages', timeout => '1 day')", [], shop);
	await shop.query("SELECT saga.step($1, 'ticket', task => 'tickets')", [trip]);
	await shop.query("SELECT saga.step($1, 'later', after => '{}', delay => '2 hours', action => 'SELECT 1')", [trip]);
	await shop.query("SELECT saga.step($1, 'paid', after => '{}', signals => '{paid,cancelled}', action => 'SELECT 1')", [trip]);
	await shop.query("SELECT saga.signal($1, 'other', '{\"amount\": 70}')", [trip]);

	await live(page);
	ok((await page.locator('.figures').innerText()).includes('need a person'), 'the overview counts what is open');
	await until('and gets a row for a new kind', async () => (await page.locator('main').innerText()).includes('trip'));
	await page.getByRole('link', { name: 'Sagas', exact: true }).click();
	await page.getByLabel('Key or id').fill('pages');
	await page.getByRole('button', { name: 'Show' }).click();
	await page.getByRole('link', { name: 'pages', exact: true }).click();
	await page.waitForURL(`${self.base}/sagas/${trip}`);
	like(await page.locator('.steps').innerText(), /waits for.*signal "paid" or "cancelled"/, 'a step says what it waits for');
	like(await page.locator('main').innerText(), /What a failure now would do/, 'a failure that has not happened is told');
	like(await page.locator('main').innerText(), /"amount": 70/, 'signals are there');
	ok(await page.locator('#picture').evaluate((img) => img.complete && img.naturalWidth > 100), 'the picture is drawn');
	const services = new pg.Client();
	await services.connect();
	await services.query("SET ROLE shop");
	await services.query("SELECT * FROM saga.claim_tasks('tickets', consumer => 'issuer-1')");
	await page.getByRole('link', { name: 'Tasks', exact: true }).click();
	like(await page.locator('tbody').first().innerText(), /tickets[^]*issuer-1/, 'tasks by channel and consumer');
	// An undo that is blocked
	await shop.query('CREATE TABLE shop.blocked (n int)');
	await services.query('BEGIN; LOCK TABLE shop.blocked');
	const held = await failing('blocked', 'shop.blocked (n) SELECT 1 WHERE $1 IS NULL; --');
	await page.getByRole('link', { name: 'Running', exact: true }).click();
	await until('what blocks an attempt is named', async () =>
		/process \d+ as shop[^]*process \d+ of/.test(await page.locator('main').innerText()));
	await services.query('ROLLBACK');
	await services.end();
	await until('and is gone when it is', async () => await state(held) === 'compensated' && !(await page.locator('main').innerText()).includes(held));
	like((await page.goto(`${self.base}/nowhere`)).status().toString(), /404/, 'a page that is not there says so');
	is((await page.goto(`${self.base}/sagas/00000000-0000-7000-8000-000000000000`)).status(), 404, 'and so does a saga');
	is((await page.goto(`${self.base}/sagas?state=nonsense&before=x&since=1`)).status(), 200, 'odd addresses are no error');
	await stop(self);
}));

suite.push(test('hostile', async () => {
	const self = await start('ann', '--decide');
	const page = await enter(self);
	const evil = `"><img src=x onerror="alert(1)"></textarea></title></script><script>alert(2)</script><svg onload=alert(3)>{{7*7}}<%= 7*7 %>`;
	const id = await value('SELECT saga.begin($1, $1, $2, subject => $1)', [evil, { [evil]: evil }], shop);
	await shop.query(`SELECT saga.step($1, $2, output => $3, args => $3, compensation => $4,
		compensation_retry => saga.retry_policy(max_attempts => 1))`,
	[id, evil, { [evil]: evil }, `SELECT saga.require(false, ${pg.escapeLiteral(evil)})`]);
	await shop.query('SELECT saga.step($1, $2, task => $3)', [await value('SELECT saga.begin($1)', [evil], shop), evil, 'evil<b>x</b>']);
	await shop.query('SELECT saga.fail($1, $2, $3)', [id, evil, { [evil]: evil }]);
	await parked(id);
	for (const path of ['/', '/sagas', `/sagas/${id}`, '/review', '/tasks', `/sagas?name=${encodeURIComponent(evil)}`, `/tasks?channel=${encodeURIComponent(evil)}`]) {
		await page.goto(self.base + path);
		is(await page.evaluate(() => document.querySelectorAll('img:not([src^="/"]), main script, main svg:not(.chart svg), main b b').length), 0, `${path.slice(0, 20)}: markup stays text`);
	}
	await page.goto(`${self.base}/sagas/${id}`);
	is((await page.locator('.steps .name').textContent()), evil, 'a key is there to the letter');
	ok((await page.locator('.title h1').textContent()).includes(evil), 'and so is a title');
	const said = await settle(page, 'done', evil);
	like(said, /carried out/, 'it can be settled');
	is((await lastEvent(id, 'resolved')).detail.note, evil, 'with a note to the letter');
	is(dialogs, 0, 'no script of theirs ran');
	await stop(self);
}));

suite.push(test('decisions', async () => {
	const self = await start('ann', '--decide');
	const page = await enter(self);
	const show = async (id) => { await page.goto(`${self.base}/sagas/${id}`); };
	const recorded = async (id, event, resolution, note) => {
		const { detail } = await lastEvent(id, event);
		is(`${detail.by}: ${detail.resolution}: ${detail.note}`, `ann: ${resolution}: ${note}`, `${resolution ?? event}: who, what and why are on record`);
	};

	// done, skip, abandon
	for (const [decision, event, then] of [['done', 'resolved', 'compensated'], ['skip', 'resolved', 'compensated'], ['abandon', 'abandoned', 'abandoned']]) {
		const id = await failing(`to be ${decision}`, 'shop.missing_2');
		await parked(id);
		await show(id);
		like(await settle(page, decision, `because of ${decision}`), /was carried out/, `${decision}: the page says so`);
		await until(`${decision}: the saga is ${then}`, async () => await state(id) === then);
		await recorded(id, event, decision === 'abandon' ? undefined : decision, `because of ${decision}`);
	}

	// A note is demanded by the browser, before anything is sent.
	const kept = await failing('to be kept', 'shop.missing_2');
	await parked(kept);
	await show(kept);
	await page.locator('[value=skip]').check();
	await page.getByRole('button', { name: 'Carry out' }).click();
	ok(await page.locator('[name=note]').first().evaluate((note) => note.validity.valueMissing && note === document.activeElement), 'without a note nothing is sent');
	is(await state(kept), 'needs_review', 'and nothing decided');

	// retry, once the cause is mended; of many at once, for the same reason
	const many = [];
	for (let i = 0; i < 5; i++) {
		many.push(await failing(`refund-${i}`, 'shop.refunds', 'no bicycle'));
	}
	for (const id of many) {
		await parked(id);
	}
	await page.goto(`${self.base}/review`);
	const group = page.locator('section.card', { hasText: 'shop.refunds' });
	is(await group.locator('[name=item]').count(), 5, 'decisions with the same reason are one group');
	await shoot(page, 'review');
	await shop.query('CREATE TABLE shop.refunds (key text)');
	await group.locator('[data-all]').check();
	await group.locator('[name=item]').last().uncheck();
	await group.locator('[value=retry]').check();
	await group.locator('[name=note]').fill('created the table');
	await group.locator('button.do').click();
	like(await page.locator('.flash').innerText(), /carried out 4 times/, 'four of the five are retried at once');
	await until('the four are undone', async () => await value("SELECT count(*)::int FROM saga.sagas WHERE idempotency_key ~ '^refund-' AND state = 'compensated'") === 4);
	is(await state(many[4]), 'needs_review', 'the fifth, which was not chosen, waits');
	await recorded(many[0], 'resolved', 'retry', 'created the table');

	// amend, as the role that recorded the step
	const wrong = await failing('to be amended', 'shop.missing_3');
	await parked(wrong);
	await show(wrong);
	await page.locator('[value=amend]').check();
	ok(await page.locator('[name=compensation]').isVisible(), 'amend: the SQL is shown when it is chosen');
	like(await page.locator('[name=compensation]').inputValue(), /shop\.missing_3/, 'amend: as it is now');
	await settle(page, 'amend', 'wrong table', { compensation: "INSERT INTO shop.refunds VALUES ('amended')" });
	await until('amend: it is undone in the new way', async () => await state(wrong) === 'compensated');
	is((await lastEvent(wrong, 'amended')).detail.by, 'shop', 'amend: by the role that it runs as');
	is(await value("SELECT count(*)::int FROM shop.refunds WHERE key = 'amended'"), 1, 'amend: by that SQL');

	// approve and refuse
	for (const [decision, then] of [['approve', 'completed'], ['refuse', 'compensated']]) {
		const id = await value("SELECT saga.begin('contract', $1)", [decision], shop);
		await shop.query("SELECT saga.step($1, 'draft', action => $$SELECT 'pdf'$$), saga.step($1, 'sign', approval => 'more than 10,000?', action => 'SELECT 42'), saga.complete($1, when_done => true)", [id]);
		await parked(id);
		await show(id);
		await settle(page, decision, `${decision} it`);
		await until(`${decision}: the saga is ${then}`, async () => await state(id) === then);
		await recorded(id, 'resolved', decision, `${decision} it`);
	}

	// A step that the server runs: done, with its output
	const report = await value("SELECT saga.begin('report', 'by hand')", [], shop);
	await shop.query("SELECT saga.step($1, 'export', action => 'SELECT shop.no_such()'), saga.complete($1, when_done => true)", [report]);
	await parked(report);
	await show(report);
	await page.locator('[value=done]').check();
	await page.locator('[name=output]').fill('{no json');
	await page.locator('[name=note]').first().fill('by hand');
	await page.getByRole('button', { name: 'Carry out' }).click();
	like(await page.locator('main').innerText(), /no JSON/, 'an output that is no JSON is refused');
	await show(report);
	await settle(page, 'done', 'by hand', { output: '{"rows": 7}' });
	await until('done: the saga is completed', async () => await state(report) === 'completed');
	is(await value("SELECT output->>'rows' FROM saga.steps WHERE saga_id = $1", [report]), '7', 'done: with the output');
	const broken = await value("SELECT saga.begin('report', 'to fail')", [], shop);
	await shop.query("SELECT saga.step($1, 'export', action => 'SELECT shop.no_such()'), saga.complete($1, when_done => true)", [broken]);
	await parked(broken);
	await show(broken);
	await settle(page, 'fail', 'nobody needs it');
	await until('fail: what was done is undone', async () => await state(broken) === 'compensated');

	// After the pivot: reopen
	const pivot = await value("SELECT saga.begin('order', 'pivot')", [], shop);
	await shop.query("SELECT saga.step($1, 'pay', completed => true, kind => 'pivot'), saga.step($1, 'ship', kind => 'retriable'), saga.fail($1, 'fire')", [pivot]);
	await parked(pivot);
	await show(pivot);
	await settle(page, 'reopen', 'the fire is out');
	is(await state(pivot), 'running', 'reopen: the saga is running');
	await recorded(pivot, 'reopened', undefined, 'the fire is out');

	// pause and resume, by keyboard alone
	await show(pivot);
	await page.getByLabel('Note').focus();
	await page.keyboard.type('look first');
	await page.keyboard.press('Tab');
	await page.keyboard.press('Enter');
	await page.locator('.flash').waitFor();
	is(await value('SELECT paused FROM saga.sagas WHERE id = $1', [pivot]), true, 'pause, by keyboard');
	await page.getByLabel('Note').fill('looked');
	await page.getByRole('button', { name: 'Resume' }).click();
	await page.getByRole('button', { name: 'Pause' }).waitFor();
	is(await value('SELECT paused FROM saga.sagas WHERE id = $1', [pivot]), false, 'resume');

	// An operator who has not the owner's rights
	const ben = await start('ben', '--decide');
	const other = await enter(ben);
	const bens = await failing('for ben', 'shop.missing_4');
	await parked(bens);
	await other.goto(`${ben.base}/sagas/${bens}`);
	is(await other.locator('[value=amend]').count(), 0, 'an operator is not offered what only the recording role may');
	like(await settle(other, 'skip', 'nothing to undo'), /carried out/, 'an operator settles');
	is((await lastEvent(bens, 'resolved')).detail.by, 'ben', 'under the own name');
	await stop(ben);
	await stop(self);
}));

suite.push(test('two people', async () => {
	const [one, two] = [await start('ann', '--decide'), await start('ben', '--decide')];
	const [ann, ben] = [await enter(one), await enter(two)];
	const id = await failing('two at once', 'shop.missing_5');
	await parked(id);
	for (const [page, self] of [[ann, one], [ben, two]]) {
		await page.goto(`${self.base}/sagas/${id}`);
		await live(page);
	}
	// Ben has begun to write when Ann decides.
	await ben.locator('[value=skip]').check();
	await ben.locator('[name=note]').first().fill('nothing was charged');
	like(await settle(ann, 'done', 'paid back by hand'), /carried out/, 'the first decision counts');
	await ben.locator('.decided').waitFor();
	ok(true, 'the second sees that somebody has decided');
	is(await ben.locator('[name=note]').first().inputValue(), 'nothing was charged', 'and keeps what was written');
	await ben.locator('.card.alarm button.do').click();
	like(await ben.locator('.flash').innerText(), /was not carried out[^]*ann/, 'the second decision is refused, and the first one named');
	is((await lastEvent(id, 'resolved')).detail.by, 'ann', 'nothing was decided twice');

	// A decision about what waits anew is not the decision that was meant.
	const anew = await failing('anew', 'shop.missing_5');
	await parked(anew);
	const before = await value('SELECT since FROM saga.review_queue WHERE saga_id = $1', [anew]);
	await ben.goto(`${two.base}/sagas/${anew}`);
	await ben.locator('[value=skip]').check();
	await ben.locator('[name=note]').first().fill('nothing was charged');
	await ann.goto(`${one.base}/sagas/${anew}`);
	await settle(ann, 'retry', 'try again');
	await until('it waits anew', async () => await value('SELECT since > $2 FROM saga.review_queue WHERE saga_id = $1', [anew, before]));
	await ben.locator('.card.alarm button.do').first().click();
	like(await ben.locator('.flash').innerText(), /not carried out[^]*waits anew/, 'a decision about what was tried meanwhile is refused');
	is(await state(anew), 'needs_review', 'and changes nothing');
	await stop(one);
	await stop(two);
}));

suite.push(test('live', async () => {
	const self = await start('ann', '--decide', '--listen', 'orders');
	const page = await enter(self);
	await shop.query('CREATE TABLE IF NOT EXISTS shop.gate (n int)');
	const id = await value("SELECT saga.begin('trip', 'live', announce => 'orders')", [], shop);
	for (const step of ['seat', 'room', 'car']) {
		await shop.query("SELECT saga.step($1, $2, completed => true, compensation => 'INSERT INTO shop.gate VALUES (1)')", [id, step]);
	}
	await until('it listens to what announces a saga, and a decision', async () =>
		await value("SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'saga console' AND query = 'LISTEN \"needs_review\"'") === 1);
	await page.goto(`${self.base}/sagas/${id}`);
	await live(page);
	await page.locator('.steps details').first().evaluate((details) => { details.open = true; });
	await page.evaluate(() => { window.stayed = true; });
	const gate = new pg.Client();
	await gate.connect();
	await gate.query('BEGIN; LOCK TABLE shop.gate');
	await shop.query("SELECT saga.fail($1, 'no car')", [id]);
	await page.locator('h1 .badge', { hasText: 'compensating' }).waitFor();
	ok(true, 'the undo is seen while it goes on');
	await gate.query('COMMIT');
	await gate.end();
	await page.locator('h1 .badge', { hasText: 'compensated' }).waitFor();
	ok(true, 'and its end');
	is(await page.locator('.steps .badge', { hasText: 'compensated' }).count(), 3, 'each step is undone on the page');
	ok(await page.evaluate(() => window.stayed === true), 'without a reload');
	ok(await page.locator('.steps details').first().evaluate((details) => details.open), 'what was opened stays open');
	like(await page.locator('#news').textContent(), /compensated/, 'a screen reader hears it');
	await shoot(page, 'saga');

	// The queue grows while it is looked at.
	await page.goto(`${self.base}/review`);
	await live(page);
	const late = await failing('comes late', 'shop.missing_6');
	await page.locator(`#r-${late}-${await value('SELECT seq FROM saga.steps WHERE saga_id = $1', [late])}`).waitFor();
	ok(true, 'a decision appears in the queue');

	// The server goes away and comes back.
	await page.goto(`${self.base}/sagas/${late}`);
	await live(page);
	await page.locator('[name=note]').first().fill('half a sent');
	await run('pg_ctl', ['stop', '-m', 'fast', '-w', '-D', process.env.PGDATA]);
	await page.locator('#trouble', { hasText: 'database does not answer' }).waitFor();
	ok(true, 'a lost server is told');
	const offline = await page.context().newPage();
	is((await offline.goto(`${self.base}/sagas`)).status(), 503, 'a page that is asked for meanwhile says so');
	await offline.close();
	// It would keep the pipe of its caller open.
	await new Promise((done, failed) => {
		spawn('pg_ctl', ['start', '-w', '-D', process.env.PGDATA, '-l', process.env.PGLOG], { stdio: 'ignore' })
			.on('exit', (code) => (code === 0 ? done() : failed(new Error('the server does not start'))));
	});
	await page.locator('#trouble').waitFor({ state: 'hidden' });
	await live(page);
	ok(true, 'the page is live again by itself');
	is(await page.locator('[name=note]').first().inputValue(), 'half a sent', 'what was written is still there');
	like(await settle(page, 'skip', 'nothing to undo'), /carried out/, 'and can be sent');
	await page.goto(`${self.base}/review`);
	await live(page);
	const again = await failing('comes later', 'shop.missing_6');
	await page.locator(`#r-${again}-${await value('SELECT seq FROM saga.steps WHERE saga_id = $1', [again])}`).waitFor();
	ok(true, 'and listens again');

	// A ledger that is locked: the page says that it took too long, and others work.
	const lock = new pg.Client();
	await lock.connect();
	await lock.query('BEGIN; LOCK TABLE saga.ledger_saga IN ACCESS EXCLUSIVE MODE');
	like((await (await page.context().request.get(`${self.base}/sagas`)).text()), /lock timeout|statement timeout/, 'a statement that takes too long is ended');
	await lock.query('ROLLBACK');
	await lock.end();
	is((await page.goto(`${self.base}/sagas`)).status(), 200, 'and no more than that');

	// The console itself goes away.
	await live(page);
	await stop(self);
	await page.locator('#trouble', { hasText: 'console does not answer' }).waitFor();
	ok(true, 'a console that has ended is told');
}));

suite.push(test('who sees what', async () => {
	const self = await start('monty', '--decide');
	const page = await enter(self);
	const id = await failing('hidden', 'shop.missing_7');
	await parked(id);
	for (const path of [`/sagas/${id}`, '/review', '/sagas', '/', '/tasks', '/running']) {
		const response = await page.context().request.get(self.base + path);
		ok(response.status() === 200 && !(await response.text()).includes(CANARY), `a monitor sees no payload on ${path.replace(id, '...')}`);
	}
	await page.goto(`${self.base}/sagas/${id}`);
	like(await page.locator('main').innerText(), /hidden from this role/, 'and is told that there may be one');
	is(await page.locator('[name=decision]').count(), 0, 'nor is a monitor asked to decide');

	const stranger = await start('stranger', '--decide');
	const window = await enter(stranger);
	is((await window.goto(`${stranger.base}/sagas/${id}`)).status(), 404, 'a role without rights does not find the saga');
	like(await (await window.goto(`${stranger.base}/sagas`), window.locator('main')).innerText(), /no such saga that you may see/, 'nor in the list');
	await stop(stranger);
	await stop(self);

	// Neither does a role without USAGE get further than being told so.
	const nobody = await start('nobody_at_all');
	const last = await enter(nobody);
	like(await last.locator('main').innerText(), /no USAGE/, 'a role without USAGE is told what it lacks');
	await stop(nobody);
}));

suite.push(test('readers', async () => {
	const self = await start('ann', '--decide');
	const id = await failing('readers', 'shop.missing_8');
	await parked(id);
	for (const colorScheme of ['light', 'dark']) {
		const page = await enter(self, { viewport: { width: 360, height: 740 }, colorScheme });
		for (const path of colorScheme === 'light' ? ['/', '/sagas', `/sagas/${id}`, '/review', '/tasks', '/running'] : ['/review', `/sagas/${id}`]) {
			await page.goto(self.base + path);
			await page.locator('#pulse').waitFor();
			ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), `${colorScheme}, phone, ${path.replace(id, '...')}: nothing is wider than the screen`,
				await page.evaluate(() => [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1).slice(0, 5).map((e) => e.outerHTML.slice(0, 120)).join('\n')));
			if (colorScheme === 'light') {
				const bare = await page.evaluate(() => [...document.querySelectorAll('a, button, input:not([type=hidden]), select, textarea')]
					.filter((e) => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim())).map((e) => e.outerHTML));
				is(bare.join('\n'), '', `${path.replace(id, '...')}: everything to act on has a name`);
				is(await page.locator('h1').count(), 1, `${path.replace(id, '...')}: one heading of the page`);
			}
		}
		// What is written is dark on light, or light on dark: 4.5 to 1 at least.
		const weak = await page.evaluate(() => {
			const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
			const numbers = (color) => color.match(/[\d.]+/g).map(Number);
			const ground = (e) => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) { return c; } } return numbers(getComputedStyle(document.documentElement).backgroundColor); };
			return [...document.querySelectorAll('body *')].filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.checkVisibility())
				.map((e) => { const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x); return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 100)]; })
				.filter(([contrast]) => contrast < 4.5).map(([contrast, html]) => `${contrast.toFixed(2)} ${html}`);
		});
		is(weak.join('\n'), '', `${colorScheme}: all text stands out`);
		await shoot(page, `phone-${colorScheme}`);
		await page.context().close();
	}
	// Without scripts: what is shown can be read, and settled.
	const plain = await enter(self, { javaScriptEnabled: false });
	await plain.goto(`${self.base}/sagas/${id}`);
	like(await plain.locator('time').first().innerText(), /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/, 'without scripts times are times');
	like(await settle(plain, 'skip', 'without scripts'), /carried out/, 'and decisions are made');
	await stop(self);
}));

suite.push(test('many', async () => {
	const self = await start('ann', '--decide');
	const page = await enter(self);
	const rare = await value("SELECT saga.begin('rare', 'rare')", [], shop);
	const begun = Date.now();
	for (let done = 0; done < MANY; done += 20000) {
		await shop.query(`SELECT count(saga.complete(s)) FROM generate_series(1, $1::int) i, LATERAL (
			SELECT s FROM saga.begin('bulk', 'bulk-' || ($2::int + i), subject => 'bulk-' || i % 100) s OFFSET 0) b`, [Math.min(20000, MANY - done), done]);
	}
	await admin.query('ANALYZE saga.ledger_saga');
	print(`# report: ${MANY} sagas made in ${((Date.now() - begun) / 1000).toFixed(1)} s`);
	const times = [];
	for (const [name, path] of [['newest', '/sagas'], ['of a key', '/sagas?key=bulk-17'], ['of a subject', '/sagas?subject=bulk-17'], ['of a kind', '/sagas?name=bulk'],
		['of a rare kind', '/sagas?name=rare'], ['running', '/sagas?state=running'], ['that need review', '/sagas?state=needs_review'], ['of an hour', '/sagas?since=1+hour&state=abandoned'],
		['overview', '/'], ['review', '/review'], ['tasks', '/tasks'], ['running attempts', '/running']]) {
		const start = performance.now();
		const response = await page.context().request.get(self.base + path);
		times.push(`${name} ${Math.round(performance.now() - start)} ms`);
		is(response.status(), 200, `${name}: the page is there`);
	}
	print(`# report: pages at ${MANY} sagas: ${times.join(', ')}`);

	// What is open, and what belongs to one saga, is found without reading the others, whatever the planner believes.
	const read = [];
	const reader = await admin.connect();
	await shop.query(`SELECT count((saga.step(s, 's' || n, completed => true)).step) FROM generate_series(1, 3) n, (
		SELECT saga.begin('stepped', i::text) AS s FROM generate_series(1, 1000) i OFFSET 0) b`);
	await admin.query('ANALYZE saga.ledger_step');
	for (const [what, setting] of [['seqscan', 'off'], ['bitmapscan', 'off'], ['mergejoin', 'off'], ['hashjoin', 'off']]) {
		await reader.query(`SET enable_${what} = ${setting}`);
	}
	await reader.query('SET cpu_tuple_cost = 1');
	for (const [asked, ...rest] of [['top'], ['health'], ['channels'], ['tasks', {}], ['running'], ['needPerson'], ['review', {}], ['review', {}, rare],
		['saga', rare, {}], ['steps', rare, 0], ['attempts', rare, [1]], ['events', rare, 100], ['signals', rare]]) {
		await queries[asked](async (text, values) => {
			const plan = (await reader.query(`EXPLAIN (COSTS OFF) ${text}`, values)).rows.map((row) => row['QUERY PLAN'].trim());
			read.push(...plan.filter((line, i) => /Scan .*on ledger_(saga|step|attempt|event|signal)\b/.test(line) && !/Index Cond/.test(plan[i + 1]))
				.map((line) => `${asked}: ${line}`));
			return [{}];
		}, ...rest);
	}
	reader.release(true);
	is(read.join('\n'), '', 'what is open is found without what is over');

	// Page by page to the end of a filter, and no saga twice.
	await page.goto(`${self.base}/sagas?subject=bulk-17`);
	const seen = new Set();
	let twice = 0, pages = 0;
	for (;;) {
		pages++;
		for (const id of await page.locator('tbody tr').evaluateAll((rows) => rows.map((row) => row.id))) {
			twice += seen.has(id) ? 1 : 0;
			seen.add(id);
		}
		const next = page.getByRole('link', { name: 'Older' });
		if (pages > 8 || await next.count() === 0) {
			break;
		}
		await onwards(page, next);
	}
	is(`${seen.size} seen, ${twice} twice`, `${Math.min(MANY / 100, 450)} seen, 0 twice`, 'the pages of a filter have each saga once');

	// A kind that is old: the reader looks further back.
	await page.goto(`${self.base}/sagas?name=rare`);
	is(await page.locator('tbody tr').count(), 0, 'what is old is not looked for at once');
	for (let i = 0; i < MANY / 20000 + 2 && await page.locator('tbody tr').count() === 0; i++) {
		await onwards(page, page.getByRole('link', { name: 'Look further back' }));
	}
	is(await page.locator('tbody tr').getAttribute('id'), `s-${rare}`, 'but found by looking further back');

	// A saga of many steps
	const long = await value("SELECT saga.begin('long', 'long')", [], shop);
	await shop.query("SELECT count(saga.step($1, 's' || i, completed => true, compensation => 'SELECT 1')) FROM generate_series(1, 1000) i", [long]);
	await page.goto(`${self.base}/sagas/${long}`);
	await live(page);
	is(await page.locator('.steps > li').count(), 100, 'a long saga is shown a hundred steps at a time');
	await onwards(page, page.getByRole('link', { name: 'Next steps' }));
	is(await page.locator('.steps .name').first().textContent(), 's101', 'the next page goes on there');
	await onwards(page, page.getByRole('link', { name: 'Earlier events' }));
	is(await page.locator('.events > li').count(), 200, 'and so are its events');
	await page.goto(`${self.base}/`);
	await live(page);
	await until('the overview counts what was completed while it was open', async () => {
		const [, count] = /▲ ([\d,]+) completed/.exec(await page.locator('.chart figcaption').innerText());
		return Number(count.replaceAll(',', '')) >= MANY || count;
	});
	await shoot(page, 'overview');
	await stop(self);
}));

suite.push(test('watching', async () => {
	const watched = new Live();
	let looks = 0, model = 'as it was', text = '';
	const load = async () => {
		looks++;
		if (model === null) {
			throw new Error('gone');
		}
		return model;
	};
	const stream = watched.watch('page', { every: 3600000, saga: 'a', load, seen: version(model) });
	const other = watched.watch('page', { every: 3600000, saga: 'a', load, seen: 'something else' });
	let others = '';

	stream.on('data', (data) => { text += data; });
	other.on('data', (data) => { others += data; });
	await until('who has another version is told at once', async () => /event: changed/.test(others));
	ok(!/event/.test(text), 'and who has this one is not');
	const before = looks;
	model = 'another';
	watched.heard('b');
	is(looks, before, 'a notification about another saga brings no look');
	watched.heard('a');
	await until('one about this saga does, long before the next look is due', async () => /event: changed/.test(text));
	const quiet = looks;
	for (const end = performance.now() + 1000; performance.now() < end;) {
		watched.heard(null);
		await new Promise((done) => { setTimeout(done, 1); });
	}
	ok(looks - quiet <= 20, 'a flood of them brings few looks', looks - quiet);
	model = null;
	watched.heard(null);
	await until('a database that does not answer is told', async () => /event: lost\ndata: "gone"/.test(text));
	model = 'back';
	watched.heard(null);
	await until('and that it answers again', async () => /event: back[^]*event: changed/.test(text));
	stream.destroy();
	other.destroy();
	await until('nothing is looked up for nobody', async () => watched.pages.size === 0);
}));

suite.push(test('history', async () => {
	const history = new History(null);
	const row = (begun, completed, timed_out, since = 1) => ({ begun, completed, timed_out, since });
	const sum = (name) => history.bars().reduce((total, bar) => total + bar[name], 0);

	history.add(0, [row(100, 90, 5)]);
	is(history.bars().length, 0, 'what was counted before is not shown');
	history.add(5000, [row(110, 95, 6), row(7, 0, 0)]);
	is(`${sum('begun')} ${sum('completed')} ${sum('failed')}`, '17 5 1', 'differences of all kinds together');
	history.add(10000, [row(200, 200, 0, 2)]);
	is(sum('completed'), 205, 'counters that were reset count from zero');
	history.add(15000, [row(50, 40, 0, 2)]);
	is(sum('completed'), 245, 'and those that are less than before');
	for (let i = 1; i <= 2000; i++) {
		history.add(15000 + 5000 * i, [row(50, 40 + i, 0, 2)]);
	}
	is(`${history.points.length} ${sum('completed')}`, '720 720', 'an hour is kept');
	ok(history.bars().length <= 61 && history.bars().slice(1, -1).every((bar) => bar.completed === 12), 'in bars of equal time');
}));

try {
	for (const [name, work] of suite) {
		if (process.env.SAGA_CONSOLE_ONLY && !name.includes(process.env.SAGA_CONSOLE_ONLY)) {
			continue;
		}
		where = `${name}: `;
		const begun = Date.now();
		try {
			await work();
		} catch (error) {
			const pages = browser.contexts().flatMap((context) => context.pages());
			ok(false, 'went through', `${error.stack}\n${(await Promise.all(pages.map(async (page) => `${page.url()}\n${await page.locator('body').innerText({ timeout: 1000 }).catch(() => '')}`.slice(0, 3000)))).join('\n')}`);
		}
		for (const context of browser.contexts()) {
			await context.close();
		}
		print(`# ${name}: ${((Date.now() - begun) / 1000).toFixed(1)} s`);
	}
	where = '';
	ok(!/"resolved"|https?:\/\/[^"]*\.tgz/.test(readFileSync(new URL('../package-lock.json', import.meta.url), 'utf8')), 'package-lock.json names no registry');
	is([...strangers].join(' '), '', 'no page asked another host for anything');
	is(complaints.join('\n'), '', 'no browser complained');
	is(consoles.map((self) => self.errors.replace(/^make(\[\d+\])?: .*\n/gm, '')).join(''), '', 'no console complained');
} finally {
	for (const self of consoles) {
		try {
			process.kill(-self.child.pid, 'SIGKILL');
		} catch {
			// It has ended.
		}
	}
	await browser.close();
}
print(`1..${tests}`);
// Connections that a failed test left open would keep it here.
process.exit();
