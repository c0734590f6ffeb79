// What the tests run: an order, its bank, and a service.  As a program, it does one of
// them and kills itself at a point that CRASH names:
//
//   [CRASH=POINT] order.js run KEY ADDRESS       [CRASH=POINT] order.js serve CHANNEL
//
// A point is WHAT#N:WHEN, of the Nth query that calls WHAT, or of an effect of the bank:
// "before" it is sent, when it is "sent", or "after" its answer.
'use strict';

const fs = require('node:fs');
const pg = require('pg');
const { Saga } = require('..');

// The bank is a file.  A key is one effect; what is asked for again is "known".
function bank(what, key) {
  point(what, 'before');
  const book = fs.existsSync(process.env.BANK) ? fs.readFileSync(process.env.BANK, 'utf8').split('\n') : [];
  fs.appendFileSync(process.env.BANK, book.includes(`${what} ${key}`) ? `known ${what} ${key}\n` : `${what} ${key}\n`);
  point(what, 'after');
  return { [what]: key };
}

function order(saga, key, address) {
  return saga.run('order', key, { item: 'bicycle' }, { timeout: '1 hour' }, async (s) => {
    const { left } = await s.tx('reserve', { args: { item: 'bicycle' },
      undo: "UPDATE crash_stock SET n = n + 1; INSERT INTO crash_done VALUES ($1->'saga'->>'idempotency_key', 'released')" }, async (c) => {
      await c.query("INSERT INTO crash_done VALUES ($1, 'reserved')", [key]);
      return (await c.query('UPDATE crash_stock SET n = n - 1 RETURNING n AS left')).rows[0];
    });
    const { charge } = await s.call('charge', { args: { cents: 499 },
      undo: "INSERT INTO crash_done SELECT $1->'saga'->>'idempotency_key', 'refunded ' || ($1->>'forward_key')" }, (k) => bank('charge', k));
    await s.tx('ship', { undo: 'SELECT 1' }, (c) => c.query("INSERT INTO crash_done SELECT $1, 'shipped' WHERE 1 / length($2) >= 0", [key, address]).then(() => null));
    return { left, charge };
  });
}

function serve(saga, channel, options) {
  return saga.serve(channel, {
    forward: (task) => (task.step === 'charge' ? bank('charge', task.key)
      : task.tx(async (c) => { await c.query("INSERT INTO crash_done VALUES ($1, 'packed')", [channel]); return [1, 2]; })),
    compensation: (task) => bank('refund', task.forward_key),
  }, { lease: 1, ...options });
}

// ------------------------------------------------------------------- points

const { CRASH } = process.env;
const count = {};
const seen = [];
function point(what, when) {
  if (when === 'before') count[what] = (count[what] ?? 0) + 1;
  const name = `${what}#${count[what]}:${when}`;
  seen.push(name);
  if (name === CRASH) process.kill(process.pid, 'SIGKILL');
}

if (require.main === module) {
  const { query } = pg.Client.prototype;
  pg.Client.prototype.query = function (q, ...rest) {
    const what = /FROM saga\.(\w+)/.exec(q.text ?? q)?.[1] ?? /\w+/.exec(q)[0];
    point(what, 'before');
    const result = query.call(this, q, ...rest);
    point(what, 'sent');
    return result?.then ? result.then((r) => { if (what !== 'claim_tasks' || r.rows.length) point(what, 'after'); return r; }) : result;
  };
  const saga = new Saga();
  const [, , what, key, address] = process.argv;
  if (what === 'serve') {
    serve(saga, key, { consumer: `killed ${key}` });
  } else {
    order(saga, key, address).catch((e) => console.log(e.message)).then(async () => {
      console.log(JSON.stringify(seen));
      await saga.close();
    });
  }
}

module.exports = { order, serve };
