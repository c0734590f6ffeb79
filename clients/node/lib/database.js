// Saga's functions as calls: their SQL, the connection, and trying again.
//
// Constraints.  Each call takes a connection of the pool for itself and gives it back
// idle; what is handed out in a transaction is refused, since nothing in it is
// committed.  A call is repeated when its connection is lost: all that come this way
// have the same effect twice as once.
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');
const pg = require('pg');
const { Interrupted, UsageError, Lost, classify, passes, theirs, unwrap, words } = require('./errors');

const TRIES = 8;                        // while the connection is lost: some five seconds

const IGNORED = 'the function ignored an error of the transaction: nothing is committed';

const JSONS = new Set(['input', 'args', 'output', 'result', 'details', 'payload']);
const POLICIES = new Set(['retry', 'compensation_retry']);

/** For jsonb.  An array is no array of PostgreSQL, and a bigint no error after the effect. */
const json = (value) => JSON.stringify(value, (_, v) => (typeof v !== 'bigint' ? v
  : Number.isSafeInteger(Number(v)) ? Number(v) : String(v)));

/** What a function for a transaction returned, for its output: the result of a query, as it ends with one, is none. */
const kept = (value) => (Array.isArray(value?.rows) && 'command' in value ? undefined : value);

// jsonb and bigint come as such, whatever parsers the program has set
const types = {
  getTypeParser: (oid, format) => (oid === 3802 ? JSON.parse : oid === 20 ? Number : pg.types.getTypeParser(oid, format)),
};

function word(name) {
  if (!/^[a-z_]+$/.test(name)) throw new TypeError(`"${name}" is no name of saga's`);
  return name;
}

/** A function with named arguments, as a query for its rows: a composite is never one value. */
function call(name, args, columns = `"${name}".*`) {
  const values = [];
  const list = Object.entries(args).filter(([, value]) => value !== undefined && value !== null).map(([key, value]) => {
    const policy = POLICIES.has(key);
    values.push(policy || JSONS.has(key) ? json(value) : value);
    const given = `$${values.length}`;
    return `${word(key === 'undo' ? 'compensation' : key)} => ${policy ? `saga.retry_policy(${given}::jsonb)` : given}`;
  });
  return { text: `SELECT ${columns} FROM saga.${word(name)}(${list.join(', ')})`, values, types };
}

const idle = (c) => (c.getTransactionStatus?.() ?? 'I') === 'I';     // older versions of pg do not say

class Database {
  constructor(connection) {
    if (connection instanceof pg.Client) throw new UsageError('pass a pool: a client may be in a transaction');
    this.mine = typeof connection?.connect !== 'function';
    this.pool = this.mine ? new pg.Pool(connection) : connection;
    this.waits = 0;
    this.queue = [];                    // of those that will wait
    if (this.mine) this.pool.on('error', () => { });     // of an idle one: the next call finds out
  }

  /** The rows of a call, which is a transaction of its own; repeated while that may help. */
  async sql(name, args, columns) {
    return this.again(() => this.query(call(name, args, columns)));
  }

  /** The same of a call that waits: never with more than half of the pool, so that what is waited for finds a connection. */
  async waiting(name, args) {
    while (this.waits >= Math.max(1, (this.pool.options?.max ?? 10) / 2)) await new Promise((next) => { this.queue.push(next); });
    this.waits++;
    try {
      return await this.sql(name, args);
    } finally {
      this.waits--;
      this.queue.shift()?.();
    }
  }

  /** Repeats what has the same effect twice as once. */
  async again(work) {
    for (let tries = 1, pause = 50; ; tries++, pause = Math.min(pause * 2, 1500)) {
      try { return await work(); } catch (e) {
        if (!passes(e)) throw classify(e);
        const cause = unwrap(e);
        if (tries >= TRIES) throw new Interrupted(words(cause), { code: cause?.code, cause });
      }
      await sleep(pause * (0.5 + Math.random() / 2));
    }
  }

  query(query) {
    return this._connected(async (c) => (await c.query(query)).rows);
  }

  /** work(c) between BEGIN and COMMIT. */
  transaction(work) {
    return this._connected(async (c, gone) => {
      try {
        await c.query('BEGIN');
        const result = await work(c);
        if (c.getTransactionStatus && idle(c)) throw new UsageError('the function ended the transaction that was made for it');
        const end = await theirs(() => c.query('COMMIT'));
        if (end.command !== 'COMMIT') throw new UsageError(IGNORED);
        return result;
      } catch (e) {
        await c.query('ROLLBACK').catch(gone);
        if (gone.yes) throw new Lost(unwrap(e));
        throw e?.code === '25P02' ? new UsageError(IGNORED) : e;
      }
    });
  }

  async _connected(work) {
    const c = await this.pool.connect();
    const gone = () => { gone.yes = true; };
    c.on('error', gone);
    try {
      if (!idle(c)) throw new UsageError('the pool handed out a connection that is in a transaction');
      return await work(c, gone);
    } finally {
      c.removeListener('error', gone);
      c.release(gone.yes || !idle(c));
    }
  }
}

module.exports = { Database, call, json, kept };
