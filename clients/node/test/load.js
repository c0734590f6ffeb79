// So many orders, four at a time, and the service that charges and refunds for them; each
// again and again until it has ended, as a program does that is started again.  Every
// fifth fails at its last step.
'use strict';

const fs = require('node:fs');
const { Saga, Interrupted, SagaFailing } = require('..');

const saga = new Saga({ max: 10 });
const book = (what, key) => {
  const known = fs.existsSync(process.env.BANK) && fs.readFileSync(process.env.BANK, 'utf8').split('\n').includes(`${what} ${key}`);
  fs.appendFileSync(process.env.BANK, `${known ? 'known ' : ''}${what} ${key}\n`);
  return { [what]: key };
};

const order = (n) => saga.run('load', `load ${n}`, { n }, async (s) => {
  const key = `load ${n}`;
  await s.tx('reserve', { undo: "INSERT INTO booked VALUES ($1->'saga'->>'idempotency_key', 'released')" },
    (c) => c.query("INSERT INTO booked VALUES ($1, 'reserved')", [key]).then(() => null));
  await s.call('charge', { notify: 'load', compensation_retry: { max_attempts: 1000, delay: '20 ms', backoff: 'constant' } }, (k) => book('charge', k));
  await s.tx('ship', { undo: 'SELECT 1' }, (c) => c.query(n % 5 ? "INSERT INTO booked VALUES ($1, 'shipped')" : "SELECT $1 || 1 / 0", [key]).then(() => null));
});

async function main() {
  const service = saga.serve('load', { compensation: (task) => book('refund', task.forward_key) }, { lease: 2 });
  let n = 0;
  const failures = [];
  await Promise.all([1, 2, 3, 4].map(async () => {
    while (n < Number(process.argv[2])) {
      const mine = ++n;
      for (;;) {
        try { await order(mine); break; } catch (e) {
          if (e.code === '22012' || e instanceof SagaFailing) break;
          if (!(e instanceof Interrupted)) { failures.push(e); break; }
        }
      }
    }
  }));
  while ((await saga.db.query({ text: "SELECT FROM saga.undoing WHERE name = 'load' LIMIT 1", values: [] })).length) {
    await new Promise((done) => { setTimeout(done, 50); });
  }
  await service.stop();
  await saga.close();
  if (failures.length) throw failures[0];
}
main();
