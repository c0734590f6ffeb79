// A service on a channel: tasks, and compensations of steps with "notify".
//
// Constraints.  A notification only wakes; what there is to do is known from claiming.
// So it claims first and then waits, and claims after every connection.  Nothing that is
// claimed is dropped by stop().  A report that cannot be made is left to the lease; but
// if it is what the handler returned that is refused, that is reported as an error for a
// person: what was done is not to be done again for want of a report.
'use strict';

const os = require('node:os');
const pg = require('pg');
const { DoNotRetry, RetryLater, UsageError, classify, theirs, unwrap, words, refuses } = require('./errors');
const { call, json, kept } = require('./database');
const { check } = require('./run');

const OPTIONS = ['concurrency', 'lease', 'heartbeat', 'consumer', 'log', 'listen'];
const POLL = 2;                         // seconds, where notifications do not arrive

class Service {
  constructor(db, channel, handler, options) {
    check(options, OPTIONS);
    this.db = db;
    this.channel = channel;
    this.handler = typeof handler === 'function' ? { forward: handler, compensation: handler } : handler;
    if (!this.handler?.forward && !this.handler?.compensation) throw new TypeError('serve() needs a handler');
    Object.assign(this, { concurrency: 10, lease: 60, heartbeat: 30, consumer: `node ${os.hostname()} ${process.pid}`,
      log: console.error, ...options });
    this.busy = new Set();              // what is being done
    this.woken = this.stopping = false;
    this.endPause = () => { };
    /** Resolved when it has stopped. */
    this.stopped = this._serve();
  }

  /** Claims no more; resolves when all that it has claimed is done and reported. */
  stop() {
    this.stopping = true;
    this.endPause();
    return this.stopped;
  }

  async _serve() {
    for (let pause = 0.1; !this.stopping;) {
      const began = Date.now();
      try {
        await this._listen();
      } catch (e) {
        this.log(words(e));
        pause = Date.now() - began > 10_000 ? 0.1 : Math.min(pause * 2, 10);
        await this._pause(pause * (0.5 + Math.random() / 2));
      }
    }
    while (this.busy.size) await Promise.race(this.busy);
    this.log('stopped');
  }

  async _listen() {
    const { password, ssl } = this.db.pool.options ?? {};       // not enumerable there
    const listener = new pg.Client(this.listen ?? { ...this.db.pool.options, password, ssl, keepAlive: true, application_name: this.consumer });
    let lost;
    const lose = (e) => { lost ??= e; this.endPause(); };
    listener.on('error', lose).on('end', () => lose(new Error('disconnected')));
    listener.on('notification', () => this._wake());
    try {
      await listener.connect();
      await listener.query(`LISTEN ${listener.escapeIdentifier(this.channel)}`);
      this.log('listening');
      await this._claim();
      const hears = await this._hears(listener, () => lost);
      if (!hears && !lost && !this.stopping) {
        this.log(`notifications do not arrive: connect directly, not through a pooler; polling every ${POLL} s`);
      }
      while (!this.stopping) {
        this.woken = false;
        await this._claim();            // if it got all that there is room for: again when one is done
        if (!this.woken && !lost) await this._pause(hears ? this.heartbeat : Math.min(POLL, this.heartbeat));
        if (lost) throw lost;
      }
    } finally {
      lose(new Error('closed'));
      listener.end().catch(() => { });
    }
  }

  // Does LISTEN work here?  Not where a pooler shares the connection: then what another
  // session notifies never comes.
  async _hears(listener, over) {
    const probe = `probe ${process.pid} ${Math.random()}`;
    let heard = false;
    listener.on('notification', (message) => { heard ||= message.channel === probe; });
    await listener.query(`LISTEN ${listener.escapeIdentifier(probe)}`);
    await this.db.query({ text: "SELECT pg_notify($1, '')", values: [probe] });
    for (const until = Date.now() + 5000; !heard && !over() && !this.stopping && Date.now() < until;) await this._pause(0.5);
    return heard;
  }

  _wake() {
    this.woken = true;
    this.endPause();
  }

  async _pause(seconds) {
    if (this.stopping) return;
    await new Promise((done) => {
      const timer = setTimeout(done, seconds * 1000);
      this.endPause = () => { clearTimeout(timer); done(); };
    });
  }

  async _claim() {
    const room = this.concurrency - this.busy.size;
    if (this.stopping || room < 1) return;
    const tasks = await this.db.query(call(this.handler.forward ? 'claim_tasks' : 'claim_compensations',
      { channel: this.channel, max_claims: room, lease: `${this.lease} seconds`, consumer: this.consumer }));
    for (const { compensation_key, task_key, ...task } of tasks) {
      const doing = this._do({ phase: 'compensation', key: task_key ?? compensation_key, ...task })
        .catch((e) => this.log(`${task.step}: ${words(e)}`))
        .finally(() => { this.busy.delete(doing); this._wake(); });
      this.busy.add(doing);
    }
  }

  async _do(task) {
    const { key: task_key, attempt, context } = task;
    const over = new AbortController();
    // However long it takes: the claim is extended while this process lives.
    const keep = setInterval(() => {
      this.db.query(call('extend_claim', { compensation_key: task_key, attempt, lease: `${this.lease} seconds` })).catch((e) => {
        this.log(`${task.step}: ${words(e)}`);
        if (e.code !== 'SG002') return;
        clearInterval(keep);
        over.abort(classify(e));
      });
    }, this.lease * 1000 / 3);
    let reported = false;
    const tx = async (work) => {
      const output = await this.db.transaction(async (c) => {
        const result = kept(await theirs(() => work(c)));
        await c.query(call('complete_task', { task_key, output: result, attempt }));
        return result;
      }).catch((e) => { throw classify(unwrap(e)); });
      reported = true;
      return output;
    };
    let output, error, done = false;
    try {
      const handler = this.handler[task.phase];
      if (!handler) throw new UsageError(`nothing here does what is of phase "${task.phase}"`);
      const { args, output: known, saga: { input }, forward_key } = context;
      output = await handler({ ...task, args, output: known, input, forward_key, signal: over.signal, tx });
      done = true;
      json(output);
    } catch (e) {
      error = e ?? new Error('thrown nothing');
    }
    clearInterval(keep);
    if (reported && error) throw error;
    if (reported) return;
    if (!error) {
      try {
        return void await this.db.sql('complete_task', { task_key, output });
      } catch (e) {
        if (!refuses(e)) throw e;
        error = e;
      }
    }
    if (done) error = new DoNotRetry(`it was done, but what was returned cannot be recorded: ${words(error)}`);
    const later = error instanceof RetryLater ? error.retry_after : undefined;
    await this.db.sql('fail_task', { task_key, attempt, error: words(error), retryable: !(error instanceof DoNotRetry),
      retry_after: typeof later === 'number' ? `${later} seconds` : later });
  }
}

module.exports = { Service };
