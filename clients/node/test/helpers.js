// What the tests share: a database (PG*, with the extension), tables, waiting, the bank.
'use strict';

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const pg = require('pg');
const { Saga } = require('..');

const pool = new pg.Pool({ max: 8 });
pool.on('error', () => { });
const saga = new Saga(pool);
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'pg-saga-'));
process.env.BANK = path.join(scratch, 'bank');

const sql = async (text, ...values) => (await pool.query(text, values)).rows;
const one = async (text, ...values) => Object.values((await sql(text, ...values))[0] ?? {})[0];
const bank = () => (fs.existsSync(process.env.BANK) ? fs.readFileSync(process.env.BANK, 'utf8').split('\n') : []);

/** Waits until the function returns what is true. */
async function until(what, ask) {
  for (const end = Date.now() + 120_000; Date.now() < end;) {
    const found = await ask();
    if (found) return found;
    await new Promise((done) => { setTimeout(done, 20); });
  }
  throw new Error(`timed out waiting for ${what}`);
}
const rest = (id) => until(`saga ${id}`, async () => {
  const state = await saga.wait(id);
  return state !== 'running' && state !== 'compensating' && state;
});

/** Tables of the file's own: the files run side by side. */
const tables = (prefix) => sql(`CREATE TABLE IF NOT EXISTS ${prefix}_stock (n int CHECK (n >= 0));
  CREATE TABLE IF NOT EXISTS ${prefix}_done (key text, what text);
  TRUNCATE ${prefix}_stock, ${prefix}_done; INSERT INTO ${prefix}_stock VALUES (1000)`);
const steps = (id) => sql('SELECT key, status, attempts, output, compensation_status FROM saga.steps WHERE saga_id = $1 ORDER BY position', id);
async function close() {
  await pool.end();
  fs.rmSync(scratch, { recursive: true });
}

module.exports = { pg, pool, saga, scratch, sql, one, bank, until, rest, tables, steps, close };
