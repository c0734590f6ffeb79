// kill -9 at every boundary of a run and of a service, then the same again: each effect
// once by its key, and the ledger as it should be.
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { test, before, after } = require('node:test');
const { saga, sql, one, bank, rest, tables, close } = require('./helpers');
const { order, serve } = require('./order');

before(() => tables('crash'));
after(close);

function child(crash, ...args) {
  return new Promise((done) => {
    const program = spawn(process.execPath, [require.resolve('./order'), ...args], { env: { ...process.env, CRASH: crash },
      stdio: ['ignore', 'pipe', 'ignore'], timeout: 60_000 });
    let said = '';
    program.stdout.on('data', (text) => { said += text; });
    program.on('close', (code, signal) => done({ code, signal, said }));
  });
}
/** Some at a time: a process for each. */
async function each(many, list, work) {
  const left = [...list];
  await Promise.all(Array.from({ length: many }, async () => { while (left.length) await work(left.shift()); }));
}
const effects = (what) => bank().filter((line) => line === what).length;

for (const [address, ends] of [['Bern', 'completed'], ['', 'compensated']]) {
  test(`a run that ends ${ends}`, async () => {
    const points = JSON.parse((await child(null, 'run', `clean ${ends} ${process.pid}`, address)).said.trim().split('\n').at(-1));
    assert.ok(points.length > 40, `${points.length} points`);
    // "Before" is after the one before; and up to the shipping the two are the same.
    const list = points.filter((point) => /:after|(begin|COMMIT|step#2|complete|fail).*sent|charge/.test(point));
    await each(3, ends === 'completed' ? list : list.slice(list.indexOf('step#3:after')), async (point) => {
      const key = `killed ${ends} ${point} ${process.pid}`;
      assert.equal((await child(point, 'run', key, address)).signal, 'SIGKILL', point);
      const again = await order(saga, key, address).catch((e) => e);
      const id = await one("SELECT saga.find('order', $1)", key);
      assert.equal(await rest(id), ends, point);
      const charge = await one("SELECT forward_key FROM saga.steps WHERE saga_id = $1 AND key = 'charge'", id);
      assert.equal(effects(`charge ${charge}`), 1, point);
      const done = (await sql('SELECT what FROM crash_done WHERE key = $1 ORDER BY what', key)).map((row) => row.what);
      if (ends === 'completed') {
        assert.deepEqual([typeof again.left, again.charge], ['number', charge], point);
        assert.deepEqual(done, ['reserved', 'shipped'], point);
      } else {
        assert.ok(again instanceof Error, point);
        assert.deepEqual(done, [`refunded ${charge}`, 'released', 'reserved'], point);
      }
    });
  });
}

test('a service', async () => {
  const fast = { max_attempts: 100, delay: '10 ms', backoff: 'constant' };
  const points = ['claim_tasks#1:after', 'charge#1:after', 'complete_task#1:sent', 'complete_task#1:after', 'BEGIN#1:after', 'INSERT#1:after',
    'complete_task#2:sent', 'complete_task#2:after', 'COMMIT#1:sent', 'COMMIT#1:after', 'refund#1:before', 'refund#1:after',
    'complete_task#3:sent', 'complete_task#3:after'];
  await each(8, points, async (point) => {
    const channel = `killed ${point} ${process.pid}`;
    const [{ begin: saga_id }] = await saga.sql('begin', { name: 'served' });
    const common = { saga_id, task: channel, retry: fast, compensation_retry: fast };
    await saga.sql('step', { ...common, name: 'charge', notify: channel });
    await saga.sql('step', { ...common, name: 'pack', undo: "INSERT INTO crash_done VALUES ($1->>'forward_key', 'unpacked')" });
    await saga.sql('step', { saga_id, name: 'then', action: "SELECT saga.require(false, 'no')" });
    await saga.sql('complete', { saga_id, when_done: true });
    assert.equal((await child(point, 'serve', channel)).signal, 'SIGKILL', point);
    const service = serve(saga, channel, { log: () => { }, heartbeat: 0.2 });
    assert.equal(await rest(saga_id), 'compensated', point);
    await service.stop();
    const key = await one("SELECT forward_key FROM saga.steps WHERE saga_id = $1 AND key = 'charge'", saga_id);
    assert.deepEqual([effects(`charge ${key}`), effects(`refund ${key}`)], [1, 1], point);
    assert.equal(await one("SELECT count(*)::int FROM crash_done WHERE key = $1 AND what = 'packed'", channel), 1, point);
    assert.equal(await one(`SELECT count(*)::int FROM crash_done JOIN saga.steps t ON t.forward_key = crash_done.key
      WHERE t.saga_id = $1 AND what = 'unpacked'`, saga_id), 1, point);
  });
});

test('the books', async () => {
  const lost = await one(`SELECT 1000 - n - (SELECT count(*) FROM crash_done WHERE what = 'reserved')
    + (SELECT count(*) FROM crash_done WHERE what = 'released') FROM crash_stock`);
  assert.equal(Number(lost), 0);
});
