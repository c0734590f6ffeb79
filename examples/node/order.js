// An order: a bicycle from the stock, its charge to a card, its shipment.  If one of them
// fails for good, what was done is undone; if the program dies, it is run again.
//
// usage: order.js NUMBER ADDRESS
'use strict';

const fs = require('node:fs');
const { Saga } = require('pg-saga');

const saga = new Saga();

const order = (number, address) => saga.run('order', `order-${number}`, { address }, { timeout: '1 hour' }, async (s) => {
  // In this database: the work and its mark are one transaction.
  await s.tx('reserve', { undo: "UPDATE stock SET on_hand = on_hand + 1 WHERE item = 'bicycle'" },
    (c) => c.query("UPDATE stock SET on_hand = on_hand - 1 WHERE item = 'bicycle'"));

  // Outside: the step is committed first.  The key makes a repetition no second charge.
  await s.call('charge', { args: { cents: 49900 }, notify: 'bank' }, (key) => {
    bank('charge', key);
    if (process.env.CRASH) process.kill(process.pid, 'SIGKILL');
  });

  await s.tx('ship', { undo: "UPDATE shipment SET called_off = true WHERE key = $1->>'forward_key'" },
    (c, step) => c.query('INSERT INTO shipment VALUES ($1, $2)', [step.forward_key, address]));
});

// The bank is a file.  As banks do, it knows what it did under which key.
function bank(what, key) {
  const book = fs.readFileSync(process.env.BANK, 'utf8').split('\n');
  if (!book.includes(`${what} ${key}`)) fs.appendFileSync(process.env.BANK, `${what} ${key}\n`);
}

async function main(number, address) {
  // Refunds the charges of what failed: usually another program.
  const service = saga.serve('bank', { compensation: (task) => bank('refund', task.forward_key) }, { log: () => { } });
  try {
    await order(number, address);
    console.log(`order ${number}: shipped to ${address}`);
  } catch (e) {
    const [{ find: id }] = await saga.sql('find', { name: 'order', idempotency_key: `order-${number}` });
    console.log(`order ${number}: ${e.message}: ${await saga.wait(id)}`);
  }
  await service.stop();
  await saga.close();
}
main(...process.argv.slice(2));
