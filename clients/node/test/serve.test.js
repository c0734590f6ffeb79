// serve(): both phases, leases, what a handler may throw, the end, and a pooler.
'use strict';

const assert = require('node:assert/strict');
const { test, before, after } = require('node:test');
const { saga, sql, one, until, rest, tables, steps, close } = require('./helpers');
const { call } = require('../lib/database');
const { Saga, DoNotRetry, RetryLater } = require('..');

before(() => tables('serve'));
after(close);

let n = 0;
const channel = () => `serve ${process.pid} ${++n}`;
const FAST = { max_attempts: 5, delay: '10 ms', backoff: 'constant' };
/** A saga with a task on the channel, undone there, too; and what comes after it. */
async function record(on, options = {}, after_it = 'SELECT 1') {
  return saga.db.transaction(async (c) => {
    const [{ begin: saga_id }] = (await c.query(call('begin', { name: 'served', input: { n } }))).rows;
    await c.query(call('step', { saga_id, name: 'charge', task: on, notify: on, args: [{ cents: 499 }], retry: FAST, compensation_retry: FAST, ...options }));
    await c.query(call('step', { saga_id, name: 'then', action: after_it }));
    await c.query(call('complete', { saga_id, when_done: true }));
    return saga_id;
  });
}
const quiet = { log: () => { } };
const attempts = (id, phase = 'forward') => sql(`SELECT a.outcome, a.error FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq)
  WHERE t.key = 'charge' AND a.phase = $2 AND saga_id = $1 ORDER BY attempt`, id, phase);

test('tasks are done and undone, what waited and what wakes', async () => {
  const on = channel();
  const log = [];
  const done = [];
  const waited = await record(on);
  const service = saga.serve(on, {
    forward: (task) => { done.push(task); return { charge: task.key }; },
    compensation: (task) => { done.push(task); return { refund: task.forward_key }; },
  }, { log: (line) => log.push(line), heartbeat: 1000 });
  assert.equal(await rest(waited), 'completed');
  await until('listening', () => log.includes('listening'));
  const undone = await record(on, {}, "SELECT saga.require(false, 'no')");
  assert.equal(await rest(undone), 'compensated');
  const [a, b, c] = done;
  assert.deepEqual([a.phase, a.step, a.name, a.attempt, a.args, a.input, a.saga_id], ['forward', 'charge', 'served', 1, [{ cents: 499 }], { n }, waited]);
  assert.deepEqual([typeof a.seq, a.lease_until instanceof Date, a.signal.aborted], ['number', true, false]);
  assert.equal(b.saga_id, undone);
  assert.deepEqual([c.phase, c.output, c.forward_key], ['compensation', { charge: b.key }, b.key]);
  await service.stop();
  assert.equal(log.at(-1), 'stopped');
  assert.equal(await service.stopped, undefined);
});

test('one function gets both phases; only compensations may be claimed', async () => {
  const on = channel();
  const phases = [];
  const both = saga.serve(on, (task) => { phases.push(task.phase); }, quiet);
  await rest(await record(on, {}, "SELECT saga.require(false, 'no')"));
  assert.deepEqual(phases, ['forward', 'compensation']);
  await both.stop();

  const undo = channel();
  const [{ begin: saga_id }] = await saga.sql('begin', { name: 'served' });
  await saga.sql('step', { saga_id, name: 'charge', notify: undo });
  await saga.sql('fail', { saga_id });
  let got;
  const service = saga.serve(undo, { compensation: (task) => { got = task; return [1]; } }, quiet);
  assert.equal(await rest(saga_id), 'compensated');
  assert.deepEqual([got.phase, got.output, got.key.endsWith('-undo')], ['compensation', null, true]);
  assert.deepEqual(await sql('SELECT compensation_output FROM saga.steps WHERE saga_id = $1', saga_id), [{ compensation_output: [1] }]);
  await service.stop();
  assert.throws(() => saga.serve(on, {}), TypeError);
  assert.throws(() => saga.serve(on, () => null, { leese: 1 }), /unknown option/);
});

test('what a handler throws', async () => {
  const on = channel();
  const script = [new Error('busy'), new RetryLater('not now', 0), new RetryLater('nor now', '10 ms'), new RetryLater('nor now'), null];
  const service = saga.serve(on, { forward: () => { const e = script.shift(); if (e) throw e; return 'done'; } }, quiet);
  const tried = await record(on);
  assert.equal(await rest(tried), 'completed');
  assert.deepEqual((await attempts(tried)).map((a) => a.error), ['busy', 'not now', 'nor now', 'nor now', null]);
  script.push(new RetryLater('not now', 0.01));
  assert.equal(await rest(await record(on, { retry: { max_attempts: 2, delay: '1 hour', max_delay: '1 hour' } })), 'completed');
  script.push(new DoNotRetry('refused'));
  const refused = await record(on, { notify: undefined, compensate_on: 'completed' });
  assert.equal(await rest(refused), 'compensated');
  assert.deepEqual((await attempts(refused)).map((a) => a.error), ['refused']);
  // Nothing here undoes: it waits for a person after its attempts.
  const parked = await record(on, {}, "SELECT saga.require(false, 'no')");
  assert.equal(await rest(parked), 'needs_review');
  assert.match((await attempts(parked, 'compensation')).at(-1).error, /nothing here does what is of phase "compensation"/);
  await service.stop();
});

test('what a handler did is not done again because what it returned cannot be recorded', async () => {
  const loop = {};
  loop.loop = loop;
  for (const [returned, why] of [[{ raw: 'a\0b' }, /unsupported Unicode escape/], [{ raw: 'x'.repeat(2e6) }, /output is too large/], [loop, /circular/]]) {
    const on = channel();
    const done = [];
    const service = saga.serve(on, (task) => { done.push(task.phase); return returned; }, { ...quiet, lease: 1 });
    const id = await record(on);
    assert.equal(await rest(id), 'needs_review');
    await service.stop();
    assert.deepEqual(done, ['forward', 'compensation']);
    for (const phase of done) {
      const [failed, ...more] = await attempts(id, phase);
      assert.deepEqual([failed.outcome, more], ['failed', []]);
      assert.match(failed.error, /^it was done, but what was returned cannot be recorded: /);
      assert.match(failed.error, why);
    }
  }
});

test('work in this database is done once, with its report', async () => {
  const on = channel();
  const service = saga.serve(on, { forward: (task) => task.tx(async (c) => {
    await c.query('INSERT INTO serve_done VALUES ($1, $2)', [task.key, 'packed']);
    if (task.attempt === 1) throw new Error('once more');
    return ['a', 'list'];
  }) }, quiet);
  const id = await record(on);
  assert.equal(await rest(id), 'completed');
  assert.equal(await one('SELECT count(*)::int FROM serve_done JOIN saga.steps ON forward_key = serve_done.key WHERE saga_id = $1', id), 1);
  assert.deepEqual((await steps(id))[0].output, ['a', 'list']);
  // Another has it: nothing of the work stays.
  await service.stop();
  const taken = await record(on);
  const [claim] = await until('the claim', async () => {
    const rows = await saga.sql('claim_tasks', { channel: on });
    return rows.length && rows;
  });
  let refused;
  const late = saga.serve(on, { forward: (task) => task.tx(async (c) => {
    await c.query('INSERT INTO serve_done VALUES ($1, $2)', [task.key, 'twice']);
    await saga.sql('complete_task', { task_key: task.key, output: 'by webhook' });
  }).catch((e) => { refused = e; throw e; }) }, quiet);
  await saga.sql('fail_task', { task_key: claim.task_key, attempt: 1, error: 'given back' });
  assert.equal(await rest(taken), 'completed');
  await until('the refusal', () => refused);
  assert.equal(refused.code, 'SG002');
  await late.stop();
  assert.equal(await one('SELECT count(*)::int FROM serve_done WHERE key = $1', claim.task_key), 0);
});

test('a lease is extended while the handler runs; one that is over aborts', async () => {
  const on = channel();
  let go;
  const log = [];
  const service = saga.serve(on, { forward: (task) => new Promise((done, fail) => {
    go = done;
    task.signal.addEventListener('abort', () => fail(task.signal.reason));
  }) }, { lease: 0.6, log: (line) => log.push(line) });
  const long = await record(on);
  const [first] = await until('the claim', async () => {
    const rows = await sql('SELECT lease_until FROM saga.pending_tasks WHERE saga_id = $1 AND consumer IS NOT NULL', long);
    return rows.length && rows;
  });
  await until('more time', async () => await one('SELECT lease_until FROM saga.pending_tasks WHERE saga_id = $1', long) - first.lease_until > 1500);
  go('done');
  assert.equal(await rest(long), 'completed');
  assert.deepEqual((await attempts(long)).map((a) => a.outcome), ['succeeded']);
  // The saga fails: the claim is over.
  const over = await record(on, { notify: undefined });
  await until('the claim', async () => one('SELECT count(*) = 1 FROM saga.pending_tasks WHERE saga_id = $1 AND consumer IS NOT NULL', over));
  await saga.sql('fail', { saga_id: over });
  assert.equal(await rest(over), 'compensated');
  await until('the abort', () => log.some((line) => /is over|not under way/.test(line)));
  await service.stop();
});

test('it is many at a time, not more, and stop() waits for them', async () => {
  const on = channel();
  let now = 0;
  let most = 0;
  const gates = [];
  const ids = [];
  for (let i = 0; i < 7; i++) ids.push(await record(on));
  const service = saga.serve(on, { forward: async () => {
    most = Math.max(most, ++now);
    await new Promise((done) => { gates.push(done); });
    now--;
  } }, { ...quiet, concurrency: 3, consumer: on });
  await until('three', () => now === 3);
  let ended = false;
  const stopped = service.stop().then(() => { ended = true; });
  await until('nothing listens', () => one('SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1', on));
  assert.equal(ended, false);
  gates.forEach((done) => done());
  await stopped;
  assert.equal(most, 3);
  assert.equal(now, 0);
  assert.equal(await one("SELECT count(*)::int FROM saga.steps WHERE saga_id = ANY ($1) AND key = 'charge' AND status = 'completed'", ids), 3);
  const rest_of_it = saga.serve(on, { forward: () => null }, { ...quiet, concurrency: 3 });
  for (const id of ids) assert.equal(await rest(id), 'completed');
  await rest_of_it.stop();
});

test('it connects again', async () => {
  const on = channel();
  const log = [];
  const service = saga.serve(on, () => null, { log: (line) => log.push(line), heartbeat: 1000, consumer: on });
  await until('listening', () => log.includes('listening'));
  await sql('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1', on);
  await until('listening again', () => log.filter((line) => line === 'listening').length === 2);
  assert.equal(await rest(await record(on)), 'completed');
  await service.stop();
});

test('through a pooler it notices, and polls', async (t) => {
  if (!process.env.POOLER_HOST) return t.skip('no pooler: POOLER_HOST');
  const on = channel();
  const log = [];
  const pooled = new Saga({ host: process.env.POOLER_HOST, port: process.env.POOLER_PORT });
  const service = pooled.serve(on, () => null, { log: (line) => log.push(line) });
  await until('the notice', () => log.some((line) => /notifications do not arrive: connect directly/.test(line)));
  assert.equal(await rest(await record(on)), 'completed');
  await service.stop();
  // With a direct connection to listen on, it is woken.
  const direct = pooled.serve(on, () => null, { log: (line) => log.push(line), heartbeat: 1000, listen: {} });
  await until('listening', () => log.filter((line) => line === 'listening').length === 2);
  assert.equal(await rest(await record(on)), 'completed');
  await direct.stop();
  assert.equal(log.filter((line) => /do not arrive/.test(line)).length, 1);
  assert.equal(await pooled.run('order', on, null, (s) => s.tx('a', {}, async (c) => (await c.query('SELECT 1 AS one')).rows)).then((r) => r[0].one), 1);
  await pooled.close();
});

