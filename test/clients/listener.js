#!/usr/bin/env node
// Charges for sagas, and refunds what failed ones have charged: a listener in Node.
//
// usage: listener.js [CHANNEL]         node 18, pg 8 or later
//
// PG* say where the database is, PAYMENTS_URL where the payment service is.
// One direct connection listens; the other calls are made from a pool.
const os = require('os');
const { Client, Pool } = require('pg');

const CHANNEL = process.argv[2] || 'refunds';
const URL = process.env.PAYMENTS_URL;
const MANY = 10;                        // as many at the same time
const LEASE = Number(process.env.LEASE || 60);
const HEARTBEAT = 30;                   // look without being woken, every so many seconds
const POLL = 2;                         // where LISTEN does not work
const ME = `node ${os.hostname()} ${process.pid}`;

const db = new Pool({ application_name: ME, max: 5 });
db.on('error', () => {});               // of an idle one; whoever asks next is told

const log = (text) => console.error(new Date().toISOString(), text);
let stopping = false;
let busy = 0;
let woken = false;
let endPause = () => {};

const wake = () => { woken = true; endPause(); };
const pause = (seconds) => new Promise((done) => {
  const timer = setTimeout(done, seconds * 1000);
  endPause = () => { clearTimeout(timer); done(); };
});

const work = {
  forward: (task) => ask('charges', { cents: task.context.args.cents }, task.task_key),
  compensation: (task) => ask('refunds', { charge: task.context.forward_key }, task.task_key)
    .catch((e) => {
      if (e.status === 404) return { refund: null };    // never charged: nothing to refund
      throw e;
    }),
};

// The effect.  It may be asked for more than once; the key makes it one.
async function ask(path, body, key) {
  const answer = await fetch(`${URL}/${path}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(20_000),
  });
  if (answer.ok) return answer.json();
  const error = new Error(`${answer.status} ${await answer.text()}`);
  error.status = answer.status;
  const later = answer.headers.get('Retry-After');
  if (/^\d+$/.test(later)) error.retryAfter = `${later} seconds`;
  else error.final = answer.status < 500;
  throw error;
}

async function perform(task) {
  const claim = [task.task_key, task.attempt];
  // However long it takes: the claim is extended while this process lives.
  const keep = setInterval(() => {
    db.query('SELECT saga.extend_claim($1, $2, $3)', [...claim, `${LEASE} seconds`])
      .catch((e) => { clearInterval(keep); log(e.message); });
  }, LEASE * 1000 / 3);
  let output, error;
  try { output = await work[task.phase](task); } catch (e) { error = e; }
  clearInterval(keep);
  if (error) {
    await db.query('SELECT saga.fail_task($1, $2, $3, $4, $5)',
      [...claim, error.message, !error.final, error.retryAfter]);
  } else {
    await db.query('SELECT saga.complete_task($1, $2)', [claim[0], JSON.stringify(output)]);
  }
}

// Claims as many tasks as there is room for, and begins them.
async function claim() {
  const tasks = await db.query('SELECT * FROM saga.claim_tasks($1, $2, $3, $4)',
    [CHANNEL, MANY - busy, `${LEASE} seconds`, ME]);
  for (const task of tasks.rows) {
    busy += 1;
    perform(task).catch((e) => log(e.message)).finally(() => { busy -= 1; wake(); });
  }
}

// Does LISTEN work on this connection?  Not where a pooler shares it: then what
// another session notifies never comes.
async function hears(listener) {
  const probe = `probe ${ME} ${Math.random()}`;
  let heard = false;
  listener.on('notification', (message) => { heard = heard || message.channel === probe; });
  await listener.query(`LISTEN ${listener.escapeIdentifier(probe)}`);
  await db.query("SELECT pg_notify($1, '')", [probe]);
  for (const until = Date.now() + 5000; !heard && !stopping && Date.now() < until;) await pause(1);
  return heard;
}

// Never sleeps while there is work: it claims first, and then waits.
async function serve() {
  const listener = new Client({ application_name: ME, keepAlive: true });
  let lost;
  const lose = (e) => { if (!lost) { lost = e; endPause(); } };
  listener.on('error', lose).on('end', () => lose(new Error('disconnected')));
  listener.on('notification', wake);
  try {
    await listener.connect();
    await listener.query(`LISTEN ${listener.escapeIdentifier(CHANNEL)}`);
    log('listening');
    await claim();
    const heartbeat = await hears(listener) ? HEARTBEAT : POLL;
    if (heartbeat === POLL && !stopping && !lost) {
      log(`notifications do not arrive: connect directly, not through a pooler; polling every ${POLL} s`);
    }
    while (!stopping) {
      woken = false;
      if (busy < MANY) await claim();    // if it got them all: again when one is done
      if (!stopping && !woken && !lost) await pause(heartbeat);
      if (lost) throw lost;
    }
  } finally {
    lose(new Error('closed'));
    listener.end().catch(() => {});
  }
}

async function main() {
  let seconds = 0.1;
  while (!stopping) {
    const began = Date.now();
    try {
      await serve();
    } catch (e) {
      log(e.message);
      seconds = Date.now() - began > 10_000 ? 0.1 : Math.min(seconds * 2, 10);
      if (!stopping) await pause(seconds * (0.5 + Math.random() / 2));
    }
  }
  while (busy) await pause(1);          // what is claimed is done first
  await db.end();
  log('stopped');
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => { stopping = true; wake(); });
}
main();
