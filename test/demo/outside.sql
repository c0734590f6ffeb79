SELECT step, status
FROM saga.begin('order', 'order-4712') AS s,
  LATERAL saga.step(s, 'charge', args => '{"cents": 49900}', notify => 'refunds',
    compensation_retry => saga.retry_policy(delay => '100 ms'));
-- ... the card is charged, outside ...
SELECT step, status
FROM saga.begin('order', 'order-4712') AS s,
  LATERAL saga.complete_step(s, 'charge', '{"charge": "ch_17"}', late => 'record');
SELECT saga.fail(id, 'out of stock') FROM saga.sagas WHERE idempotency_key = 'order-4712';
