// What must compile.
import { Saga, Interrupted, SagaFailing, DoNotRetry, RetryLater, type Task, type Queryable } from 'pg-saga';

interface Charge { charge: string; cents?: number }
declare function pay(key: string): Promise<Charge>;
interface MyClient extends Queryable { mine: true }

async function main() {
  const saga = new Saga<MyClient>({ host: '/tmp', max: 3 });
  const result = await saga.run('order', 'order-1', { item: 1 }, { timeout: '1 hour', owner: 'shop_sagas' }, async (s) => {
    const nothing: null = await s.tx('reserve', { args: [1, 2], undo: 'SELECT 1' }, (c) => c.query('SELECT 1'));
    const row = await s.tx('row', { undo: 'SELECT 1', kind: 'pivot' }, async (c) => { c.mine; return (await c.query('SELECT 1 AS id')).rows[0]; });
    const { charge } = await s.call('charge', { notify: 'payments', retry: { max_attempts: 3, delay: '1 s' } }, (key) => pay(key));
    await s.call('nothing', {}, async () => { });
    await s.step('ship', { action: 'SELECT 1', undo: 'SELECT 2', after: ['charge'], on_failure: 'review' });
    await s.step('label', { task: 'labels', notify: 'labels', timeout: '1 day' });
    await s.step('paid', { signals: ['paid'] });
    await s.step('mark', { completed: true });
    const { output, status } = await s.wait<{ mail: number }>('ship');
    return { charge, id: row.id as number, mail: output?.mail, status, list: [1, 'a', null], nothing };
  });
  const charge: string = result.charge;
  const other: number = await saga.run('order', charge, null, async () => 1);
  const service = saga.serve('payments', {
    forward: (task) => task.tx(async (c) => { await c.query('SELECT 1'); return task.args.cents + other; }),
    compensation: async (task: Task) => { if (!task.output) throw new RetryLater('later', 30); return task.output.charge; },
  }, { concurrency: 2 });
  await service.stop();
  saga.serve('both', (task) => { if (task.phase === 'forward') throw new DoNotRetry('no'); });
  try { await saga.close(); } catch (e) { if (e instanceof SagaFailing) console.log(e.state); if (e instanceof Interrupted) throw e; }
}
main();
