// A saga whose steps this program does.
//
// Constraints.  A step is committed before its effect outside, and in one transaction
// with its work inside.  What the caller's functions throw fails the saga; what saga or
// a connection raises does not: that is kept in `fault`, and nothing goes on after it,
// even if the caller ignores it.
'use strict';

const { AsyncLocalStorage } = require('node:async_hooks');
const { setTimeout: sleep } = require('node:timers/promises');
const { DoNotRetry, Interrupted, SagaFailing, SagaNotFound, Thrown, UsageError, theirs, words } = require('./errors');
const { call, json, kept } = require('./database');

const GATES = ['after', 'delay', 'not_before', 'signals', 'approval'];
const WORK = ['args', 'undo', 'compensation', 'notify', 'acknowledge', 'review', 'kind', 'compensate_on', 'retry',
  'compensation_retry', 'idempotency_key'];
const STEP = [...WORK, ...GATES, 'action', 'task', 'timeout', 'on_failure', 'output', 'completed'];
const BEGIN = ['timeout', 'on_compensation_failure', 'announce', 'subject'];
const COMPLETE = ['when_done', 'ignore_failed'];
const waits = { slice: '10 seconds' };  // then others wait

/** A misspelt option would be a missing one; an undo, perhaps. */
function check(options, known) {
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown !== undefined) throw new TypeError(`unknown option "${unknown}"; there are ${known.join(', ')}`);
}
const pick = (options, names) => Object.fromEntries(names.map((name) => [name, options[name]]));

const inside = new AsyncLocalStorage();     // the step in whose transaction the caller is
function refuseInside(what) {
  const step = inside.getStore();
  if (step) throw new UsageError(`${what} in the transaction of step "${step}", with which it would not go back`);
}

const failing = (saga_id, { state, reason }, cause) => new SagaFailing(
  `saga ${saga_id} is ${state}${reason ? `: ${reason}` : ''}`, { code: 'SG005', saga_id, state, reason, cause });

/** What became of a saga.  One that goes back to a savepoint will go forward again: that is waited for. */
async function look(db, id) {
  for (;;) {
    const [row] = await db.again(() => db.query({
      text: 'SELECT state, failure_kind, reason, result::text FROM saga.sagas WHERE id = $1', values: [id] }));
    if (!row) throw new SagaNotFound(`saga ${id} is not there any more`, { code: 'SG001' });
    if (row.state !== 'compensating' || row.failure_kind) return { ...row, result: JSON.parse(row.result) };
    await db.waiting('wait', { saga_id: id, until: 'running', timeout: waits.slice });
  }
}

/** Begins a saga, or goes on with it, and completes it when `work` is done. */
async function run(db, name, key, input, options, work) {
  if (typeof key !== 'string' || key === '') throw new TypeError('a saga needs a key: it makes a repetition one');
  refuseInside('run()');
  check(options, [...BEGIN, ...COMPLETE, 'owner']);
  const begin = call('begin', { name, idempotency_key: key, input, ...pick(options, BEGIN) });
  const [{ begin: saga_id }] = await db.again(() => (!options.owner ? db.query(begin) : db.transaction(async (c) => {
    await c.query("SELECT set_config('role', $1, true)", [options.owner]);
    return (await c.query(begin)).rows;
  })));
  const before = await look(db, saga_id);
  if (before.state === 'completed') return before.result;
  if (before.state !== 'running') throw failing(saga_id, before);

  const s = new Run(db, saga_id);
  let result;
  try {
    result = await work(s);
    json(result);
  } catch (e) {
    if (s.fault || e instanceof Interrupted || e instanceof UsageError) throw s.fault ?? e;
    await db.sql('fail', { saga_id, reason: words(e) }).catch((f) => { throw Object.assign(f, { cause: e }); });
    throw e;
  }
  if (s.open) throw new UsageError('the function returned before its steps were done: await them');
  await s._ours(() => db.sql('complete', { saga_id, result, ...pick(options, COMPLETE) }));
  for (;;) {
    const after = await look(db, saga_id);
    if (after.state === 'completed') return after.result;
    if (after.state !== 'running') throw failing(saga_id, after);
    await db.waiting('wait', { saga_id, until: 'compensating', timeout: waits.slice });
  }
}

/** The saga, as the function given to run() gets it. */
class Run {
  constructor(db, id) {
    this.db = db;
    this.id = id;
    this.fault = undefined;
    this.open = 0;                      // calls under way
  }

  /** Work in this database, in one transaction with its mark. */
  tx(name, options, work) {
    return this._ours(() => {
      refuseInside(`tx("${name}")`);
      check(options, WORK);
      return this.db.again(() => this.db.transaction(async (c) => {
        const step = this._mine((await c.query(call('step', { saga_id: this.id, name, ...options }))).rows[0]);
        if (step.status === 'completed') return step.output;
        const output = kept(await theirs(() => inside.run(name, work, c, step)));
        const done = { saga_id: this.id, step: step.step, output, forward_key: step.forward_key };
        return (await c.query(call('complete_step', done))).rows[0].output;
      }));
    });
  }

  /** An effect outside, after its step is committed; then its output is. */
  call(name, options, effect) {
    return this._ours(async () => {
      refuseInside(`call("${name}")`);
      check(options, WORK);
      for (;;) {
        const step = this._mine((await this.db.sql('step', { saga_id: this.id, name, ...options }))[0]);
        if (step.status === 'completed') return step.output;
        const id = { saga_id: this.id, step: step.step, forward_key: step.forward_key };
        let output;
        try {
          output = await effect(step.forward_key, step);
          json(output);
        } catch (e) {
          if (!options.retry || e instanceof Interrupted) throw new Thrown(e);
          const [{ pause }] = await this.db.sql('fail_step', { ...id, error: words(e), retryable: !(e instanceof DoNotRetry) },
            'extract(epoch FROM retry_at - clock_timestamp())::float8 AS pause');
          if (pause === null) throw new Thrown(e);
          await sleep(pause * 1000);
          continue;
        }
        const [done] = await this.db.sql('complete_step', { ...id, output, late: 'record' });
        const saga = await look(this.db, this.id);
        if (saga.state !== 'running') throw failing(this.id, saga);
        return done.output;
      }
    });
  }

  /** A step that the server runs or waits with; or a mark. */
  step(name, options) {
    return this._ours(async () => {
      refuseInside(`step("${name}")`);
      check(options, STEP);
      if (![...GATES, 'action', 'task', 'output', 'completed'].some((key) => options[key] !== undefined)) {
        throw new UsageError(`step "${name}" has no action, task or gate: tx() and call() guard the work of others`);
      }
      return (await this.db.sql('step', { saga_id: this.id, name, ...options }))[0];
    });
  }

  /** Waits until such a step is done, given up, or a person is asked; with a timeout, no longer than that. */
  wait(step, { timeout } = {}) {
    return this._ours(async () => {
      for (;;) {
        const [known] = await this.db.waiting('wait_step', { saga_id: this.id, step, timeout: timeout ?? waits.slice });
        const saga = await look(this.db, this.id);
        if (saga.state !== 'running' && saga.state !== 'completed') throw failing(this.id, saga);
        if (timeout || /completed|skipped/.test(known.status)) return known;
        const [{ parked, on_failure }] = await this.db.again(() => this.db.query({
          text: 'SELECT parked, on_failure FROM saga.steps WHERE saga_id = $1 AND seq = $2', values: [this.id, known.seq] }));
        const over = known.status === 'failed' && !known.retry_at;      // else it is tried again
        if (parked !== null || (over && on_failure !== 'fail')) return known;
        // In a moment the saga will have failed with it.
        if (over) await this.db.waiting('wait', { saga_id: this.id, until: 'compensating', timeout: waits.slice });
      }
    });
  }

  _mine(step) {
    if (step.status === 'started' || step.status === 'completed') return step;
    throw new UsageError(`step "${step.step}" is not done by this program: it is ${step.status}`);
  }

  async _ours(work) {
    if (this.fault) throw this.fault;
    this.open++;
    try {
      return await work();
    } catch (e) {
      if (e instanceof Thrown) throw e.error;
      this.fault = e;
      if ((e.code === 'SG005' || e.code === 'SG002') && !e.state) {
        const saga = await look(this.db, this.id);
        if (saga.state !== 'running' && saga.state !== 'completed') this.fault = failing(this.id, saga, e);
        else if (e.code === 'SG005') this.fault = new Interrupted(`saga ${this.id} went back to a savepoint`, { cause: e });
      }
      throw this.fault;
    } finally {
      this.open--;
    }
  }
}

module.exports = { run, check, waits };
