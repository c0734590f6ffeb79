// run(): what is repeated, what is not, what fails the saga, and the traps.
'use strict';

const assert = require('node:assert/strict');
const { test, before, after } = require('node:test');
const { pg, pool, saga, sql, one, rest, tables, steps, close } = require('./helpers');
const { waits } = require('../lib/run');
const { Saga, SagaFailing, Interrupted, UsageError, IdempotencyConflict, DoNotRetry, LimitExceeded, InvalidSagaState } = require('..');

before(() => tables('run'));
after(close);

let n = 0;
const key = () => `run ${process.pid} ${++n}`;
const find = (k, name = 'order') => one('SELECT saga.find($1, $2)', name, k);
const state = async (k) => one('SELECT state FROM saga.sagas WHERE idempotency_key = $1', k);

test('a run completes, and a repetition hands back what is known', async () => {
  const k = key();
  let works = 0;
  const order = () => saga.run('order', k, { item: 1 }, { timeout: '1 hour', subject: 'kim' }, async (s) => {
    works++;
    const a = await s.tx('a', { args: [1, 2], undo: 'SELECT 1' }, async (c) => {
      await c.query('UPDATE run_stock SET n = n - 1');
      return { list: [1, 'two', null], big: 2n ** 40n, huge: 2n ** 60n };
    });
    const b = await s.call('b', { notify: 'nobody' }, (forward_key, step) => [forward_key, step.seq, step.known]);
    return { a, b };
  });
  const first = await order();
  assert.deepEqual(first.a, { list: [1, 'two', null], big: 2 ** 40, huge: String(2n ** 60n) });
  assert.match(first.b[0], /^[0-9a-f-]{36}-\d+$/);
  assert.deepEqual(first.b.slice(1), [Number(first.b[0].split('-').pop()), false]);
  assert.deepEqual(await order(), first);
  assert.equal(works, 1);
  const id = await find(k);
  assert.deepEqual((await steps(id)).map((s) => [s.key, s.status, s.attempts]), [['a', 'completed', 1], ['b', 'completed', 1]]);
  assert.deepEqual(await sql('SELECT args FROM saga.steps WHERE saga_id = $1 AND key = $2', id, 'a'), [{ args: [1, 2] }]);
  assert.deepEqual(await sql('SELECT subject, deadline IS NOT NULL AS deadline, result FROM saga.sagas WHERE id = $1', id),
    [{ subject: 'kim', deadline: true, result: first }]);
});

test('what was done before an interruption is skipped', async () => {
  const k = key();
  const done = [];
  const order = (interrupt) => saga.run('order', k, null, {}, async (s) => {
    const a = await s.tx('a', { undo: 'SELECT 1' }, () => { done.push('a'); return [1]; });
    const c = await s.call('c', { args: { list: [] }, undo: 'SELECT 1' }, () => { done.push('c'); return { list: [] }; });
    const b = await s.call('b', {}, (forward_key) => {
      done.push(forward_key);
      if (interrupt) throw new Interrupted('the bank does not say');
      return 'b';
    });
    return [a, b, c];
  });
  await assert.rejects(order(true), Interrupted);
  assert.equal(await state(k), 'running');
  assert.deepEqual(await order(false), [[1], 'b', { list: [] }]);
  assert.deepEqual(done, ['a', 'c', done[2], done[2]], 'the same key');
});

test('what a function throws fails the saga, with its words, and is thrown on', async () => {
  for (const [how, error] of Object.entries({ tx: new Error('out of stock'), call: new TypeError('no card'), run: 'just words' })) {
    const k = key();
    const work = () => { throw error; };
    await assert.rejects(saga.run('order', k, null, {}, async (s) => {
      await s.tx('first', { undo: "INSERT INTO run_done VALUES ($1->'saga'->>'idempotency_key', 'undone')" }, () => null);
      if (how === 'tx') await s.tx('work', { undo: 'SELECT 1' }, work);
      if (how === 'call') await s.call('work', { undo: 'SELECT 1' }, work);
      work();
    }), (e) => e === error);
    assert.equal(await rest(await find(k)), 'compensated');
    assert.equal(await one('SELECT reason FROM saga.sagas WHERE idempotency_key = $1', k), error.message ?? error);
    assert.equal(await one('SELECT count(*)::int FROM run_done WHERE key = $1', k), 1);
    // And is not retried under that key.
    await assert.rejects(saga.run('order', k, null, {}, () => assert.fail('called')), (e) => e instanceof SagaFailing &&
      e.code === 'SG005' && e.state === 'compensated' && e.reason === (error.message ?? error));
  }
});

test('an error of SQL is the function\'s, at COMMIT, too', async () => {
  await sql('CREATE TABLE IF NOT EXISTS test_late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); TRUNCATE test_late; INSERT INTO test_late VALUES (1)');
  for (const query of ['UPDATE run_stock SET n = -1', 'INSERT INTO test_late VALUES (1)']) {
    const k = key();
    await assert.rejects(saga.run('order', k, null, {}, (s) => s.tx('a', {}, async (c) => { await c.query(query); })), pg.DatabaseError);
    assert.equal(await rest(await find(k)), 'compensated');
    assert.deepEqual(await steps(await find(k)), []);
  }
});

test('an alternative may be taken, and a step that failed needs ignore_failed', async () => {
  const k = key();
  const order = (options) => saga.run('order', k, null, options, async (s) => {
    await s.tx('hotel', {}, () => { throw new Error('full'); }).catch(() => s.tx('inn', {}, () => null));
    await s.call('courier', { undo: 'SELECT 1', retry: { max_attempts: 2, delay: '10 ms' } }, () => { throw new Error('none'); }).catch(() => null);
    return 'done';
  });
  await assert.rejects(order({}), InvalidSagaState);
  assert.equal(await state(k), 'running');
  assert.equal(await order({ ignore_failed: true }), 'done');
  assert.deepEqual((await steps(await find(k))).map((s) => [s.key, s.status]), [['inn', 'completed'], ['courier', 'failed']]);
});

test('call tries again by its policy, with the same key', async () => {
  const keys = [];
  const retry = { max_attempts: 3, delay: '10 ms' };
  const bad = (error, times) => (forward_key) => {
    keys.push(forward_key);
    if (keys.length < times) throw error;
    return 'paid';
  };
  assert.equal(await saga.run('order', key(), null, (s) => s.call('pay', { retry }, bad(new Error('busy'), 3))), 'paid');
  assert.equal(keys.length, 3);
  assert.equal(new Set(keys).size, 1);
  keys.length = 0;
  await assert.rejects(saga.run('order', key(), null, (s) => s.call('pay', { retry }, bad(new Error('busy'), 9))), /busy/);
  assert.equal(keys.length, 3);
  keys.length = 0;
  await assert.rejects(saga.run('order', key(), null, (s) => s.call('pay', { retry }, bad(new DoNotRetry('refused'), 9))), DoNotRetry);
  assert.equal(keys.length, 1);
});

test('a saga that fails meanwhile keeps the output of the effect, and stops the run', async () => {
  const k = key();
  let after_it = 0;
  let told;
  const ours = saga.run('order', k, null, async (s) => {
    await s.tx('a', { undo: 'SELECT 1' }, () => null);
    try {
      await s.call('pay', { undo: "INSERT INTO run_done VALUES ($1->'saga'->>'idempotency_key', $1->'output'->>'charge')" }, async () => {
        await saga.sql('fail', { saga_id: s.id, reason: 'the customer left', details: ['x'] });
        return { charge: 'ch_1' };
      });
    } catch (e) { told = e; }           // and ignored
    await s.tx('b', {}, () => { after_it++; }).catch(() => null);
    return 'all is well';
  });
  await assert.rejects(ours, (e) => e instanceof SagaFailing && e.reason === 'the customer left');
  assert.ok(told instanceof SagaFailing, 'the call itself says so');
  assert.equal(after_it, 0);
  const id = await find(k);
  await rest(id);
  const [pay] = (await steps(id)).filter((s) => s.key === 'pay');
  // Whether the undo had begun by then is a race; the output is kept in any case.
  assert.deepEqual(pay.output, { charge: 'ch_1' });
});

test('a step that comes too late is SagaFailing, with state and reason', async () => {
  const k = key();
  await assert.rejects(saga.run('order', k, null, async (s) => {
    await saga.sql('cancel', { saga_id: s.id, reason: 'changed my mind' });
    await s.tx('a', {}, () => assert.fail('worked'));
  }), (e) => e instanceof SagaFailing && e.state === 'compensated' && e.reason === 'changed my mind' && e.cause.code === 'SG005');
  // And so is the end.
  await assert.rejects(saga.run('order', key(), null, (s) => saga.sql('cancel', { saga_id: s.id }).then(() => null)), SagaFailing);
});

test('other content under the same key fails nothing', async () => {
  const k = key();
  await assert.rejects(saga.run('order', k, { a: 1 }, async (s) => {
    await s.tx('a', { args: [1], undo: 'SELECT 1' }, () => null);
    throw new Interrupted('later');
  }), Interrupted);
  await assert.rejects(saga.run('order', k, { a: 2 }, async () => null), IdempotencyConflict);
  await assert.rejects(saga.run('order', k, { a: 1 }, (s) => s.tx('a', { args: [2], undo: 'SELECT 1' }, () => assert.fail('worked')).catch(() => null)), IdempotencyConflict);
  await assert.rejects(saga.run('order', k, { a: 1 }, (s) => s.tx('big', { args: 'x'.repeat(2_000_000) }, () => null)), LimitExceeded);
  assert.equal(await state(k), 'running');
});

test('an effect inside a transaction is refused, and so are a step and a run', async () => {
  for (const nested of [
    (s) => s.call('pay', {}, () => assert.fail('paid')),
    (s) => s.tx('b', {}, () => assert.fail('worked')),
    (s) => s.step('c', { action: 'SELECT 1' }),
    () => saga.run('other', key(), null, () => assert.fail('ran')),
  ]) {
    const k = key();
    await assert.rejects(saga.run('order', k, null, (s) => s.tx('a', {}, () => nested(s))), UsageError);
    assert.deepEqual(await steps(await find(k)), [], 'nothing was committed');
    // Side by side they are allowed.
    assert.deepEqual(await saga.run('order', k, null, (s) => Promise.all([s.tx('a', {}, () => 1), s.call('pay', {}, () => 2)])), [1, 2]);
  }
});

test('a connection that is in a transaction is refused', async (t) => {
  assert.throws(() => new Saga(new pg.Client()), UsageError);
  const bad = new pg.Pool({ max: 1 });
  const c = await bad.connect();
  if (!c.getTransactionStatus) {
    // An open pool would keep the program from ending.
    c.release();
    await bad.end();
    return t.skip('this version of pg does not say');
  }
  await c.query('BEGIN');
  c.release();
  const k = key();
  await assert.rejects(new Saga(bad).run('order', k, null, async () => null), UsageError);
  assert.equal(await new Saga(bad).run('order', k, null, async () => 'a new connection'), 'a new connection');
  await bad.end();
});

test('an error that is swallowed, and a transaction that is ended, are found out', async () => {
  const knows = 'getTransactionStatus' in pg.Client.prototype;
  for (const work of [
    async (c) => { await c.query('SELECT 1 / 0').catch(() => null); },
    async (c) => { await c.query('INSERT INTO run_done VALUES (0)'); await c.query('COMMIT'); },
  ].slice(0, knows ? 2 : 1)) {
    const k = key();
    await assert.rejects(saga.run('order', k, null, (s) => s.tx('a', {}, work)), UsageError);
    assert.equal(await state(k), 'running');
  }
});

test('steps that are not waited for, misspelt options, no key', async () => {
  let go;
  const gate = new Promise((done) => { go = done; });
  let floating;
  await assert.rejects(saga.run('order', key(), null, async (s) => { floating = s.tx('a', {}, () => gate); return 1; }), /await them/);
  go(null);
  await floating;
  await assert.rejects(saga.run('order', key(), null, { timeOut: '1 h' }, async () => null), /unknown option "timeOut"/);
  await assert.rejects(saga.run('order', key(), null, (s) => s.tx('a', { compensaton: 'SELECT 1' }, () => null)), /unknown option/);
  await assert.rejects(saga.run('order', key(), null, (s) => s.call('a', { late: 'error' }, () => null)), /unknown option/);
  await assert.rejects(saga.run('order', '', null, async () => null), /key/);
  await assert.rejects(saga.run('order', null, null, async () => null), /key/);
  await assert.rejects(saga.run('order', key(), null, (s) => s.step('a', { undo: 'SELECT 1' })), UsageError);
});

test('what cannot be kept is an error of the function', async () => {
  const ring = {};
  ring.ring = ring;
  const k = key();
  await assert.rejects(saga.run('order', k, null, (s) => s.call('a', { undo: 'SELECT 1' }, () => ring)), TypeError);
  assert.equal(await rest(await find(k)), 'compensated');
});

test('steps that the server and services run', async () => {
  const k = key();
  const order = () => saga.run('order', k, { a: 1 }, { when_done: true }, async (s) => {
    await s.step('count', { action: "SELECT $1->'args'->0 AS first", args: [7], undo: 'SELECT 1', retry: { max_attempts: 2 } });
    const { output } = await s.wait('count');
    const { forward_key } = await s.step('paid', { signals: ['paid', 'left'], timeout: '1 hour' });
    await saga.signal(s.id, 'paid', [output, forward_key]);
    await s.step('end', { action: 'SELECT 42', after: ['paid'] });
    return null;
  });
  assert.equal(await order(), 42);
  assert.equal(await order(), 42);
  const id = await find(k);
  assert.deepEqual((await steps(id)).map((s) => s.key), ['count', 'paid', 'end']);
  const [, paid] = await steps(id);
  assert.equal(paid.output.payload[0], 7);

  await assert.rejects(saga.run('order', key(), null, async (s) => {
    await s.step('fails', { action: "SELECT saga.require(false, 'no')" });
    await s.wait('fails');
  }), (e) => e instanceof SagaFailing && e.reason === 'no');
  const skipped = await saga.run('order', key(), null, async (s) => {
    await s.step('fails', { action: "SELECT saga.require(false, 'no')", on_failure: 'skip' });
    return s.wait('fails');
  });
  assert.deepEqual([skipped.status, skipped.error], ['failed', 'no']);
  const approved = await saga.run('order', key(), null, async (s) => {
    await s.step('never', { signals: ['never'], timeout: '1 hour', on_failure: 'skip' });
    assert.equal((await s.wait('never', { timeout: '10 ms' })).status, 'waiting');
    await s.step('ask', { after: [], approval: 'all right?' });
    assert.equal((await s.wait('ask')).status, 'waiting', 'a person is asked');
    await saga.sql('resolve', { saga_id: s.id, step: 'ask', resolution: 'approve', note: 'yes' });
    await saga.signal(s.id, 'never');
    await s.wait('never');
    return s.wait('ask');
  });
  assert.equal(approved.status, 'completed');
  // One that failed and is tried again is waited for, slice by slice.
  waits.slice = '100 ms';
  const again = await saga.run('order', key(), null, async (s) => {
    await s.step('twice', { action: "SELECT 1 / (($1->>'attempt')::int - 1)",
      retry: { max_attempts: 2, delay: '500 ms', jitter: 0 } });
    return s.wait('twice');
  });
  waits.slice = '10 seconds';
  assert.deepEqual([again.status, again.output], ['completed', 1]);
  await assert.rejects(saga.run('order', key(), null, async (s) => {
    await s.step('a', { task: 'nobody' });
    await s.call('a', { notify: 'nobody' }, () => assert.fail('called'));
  }), UsageError);
});

test('a saga goes back to a savepoint and forward again', async () => {
  const k = key();
  const order = (back) => saga.run('order', k, null, async (s) => {
    await s.tx('plan', {}, () => 'A');
    const seat = await s.tx('seat', { undo: 'SELECT pg_sleep(0.2)' }, () => (back ? 7 : 9));
    if (!back) return seat;
    await saga.sql('rollback_to', { saga_id: s.id, step: 'plan' });
    // It is compensating now, or running again; both are to begin from the top.
    await s.tx('more', {}, () => null);
    throw new Interrupted('from the top');
  });
  await assert.rejects(order(true), Interrupted);
  assert.equal(await order(false), 9);
});

test('conflicts are tried again, and a lost connection', async () => {
  let tries = 0;
  assert.equal(await saga.run('order', key(), null, (s) => s.tx('a', {}, async (c) => {
    await c.query('UPDATE run_stock SET n = n - 1');
    if (++tries < 3) await c.query("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$");
    if (tries < 5) await c.query('SELECT pg_terminate_backend(pg_backend_pid())').catch(() => { throw new Error('something with the connection'); });
    return tries;
  })), 5);
});

test('what does not pass is Interrupted, not a failure', async () => {
  const k = key();
  const nowhere = new Saga({ host: '/nowhere', port: 1 });
  await Promise.all([
    assert.rejects(saga.run('order', k, null, (s) => s.tx('a', {}, (c) => c.query("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))), Interrupted),
    assert.rejects(nowhere.run('order', k, null, async () => null), (e) => e instanceof Interrupted && e.cause.code === 'ENOENT'),
  ]);
  assert.equal(await state(k), 'running');
  await nowhere.close();
});

test('a role owns the sagas', async () => {
  await sql('DROP ROLE IF EXISTS test_sagas');
  await sql('CREATE ROLE test_sagas');
  await sql('GRANT USAGE ON SCHEMA saga TO test_sagas');
  const k = key();
  for (let i = 0; i < 2; i++) {
    const user = await saga.run('order', k, null, { owner: 'test_sagas' }, (s) => s.tx('a', {}, async (c) => (await c.query('SELECT current_user::text AS who')).rows[0].who));
    assert.equal(user, await one('SELECT current_user::text'));
  }
  assert.equal(await one('SELECT owner::text FROM saga.sagas WHERE idempotency_key = $1', k), 'test_sagas');
  await sql("SELECT saga.reassign('test_sagas'::regrole, current_user::regrole)");
  await sql('DROP OWNED BY test_sagas');
  await sql('DROP ROLE test_sagas');
});

test('the parsers of the program do not matter', async () => {
  const before_it = [pg.types.getTypeParser(3802), pg.types.getTypeParser(20)];
  pg.types.setTypeParser(3802, (v) => `text ${v}`);
  pg.types.setTypeParser(20, BigInt);
  try {
    assert.deepEqual(await saga.run('order', key(), null, (s) => s.call('a', {}, (_, step) => [step.seq > 0])), [true]);
  } finally {
    pg.types.setTypeParser(3802, before_it[0]);
    pg.types.setTypeParser(20, before_it[1]);
  }
});

test('those who wait leave connections to those who work', { timeout: 100_000 }, async () => {
  waits.slice = '10 minutes';
  const small = new Saga({ max: 2 });
  const on = `wait ${key()}`;
  const runs = Array.from({ length: 5 }, () => small.run('order', key(), null, async (s) => {
    await s.step('work', { task: on });
    return (await s.wait('work')).output;
  }));
  const service = small.serve(on, { forward: (task) => task.seq }, { log: () => { } });
  assert.equal(new Set(await Promise.all(runs)).size, 5);
  await service.stop();
  await small.close();
  waits.slice = '10 seconds';
});

test('all connections are given back', () => {
  assert.equal(pool.totalCount, pool.idleCount);
});
