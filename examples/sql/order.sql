-- An order: a bicycle from the stock, its charge to a card, its shipment.  If one of them
-- fails for good, what was done is undone; if a program dies, it is run again.
--
-- usage: psql -v number=1 -v address=Bern -f order.sql

\set QUIET
\getenv crash CRASH
\if :{?crash} \else \set crash 0 \endif
SET client_min_messages = warning;

-- The server runs the steps.  What is SQL is an action, in one transaction with its mark;
-- what is outside is a task, which a service claims, and whose key makes a repetition no
-- second charge.
CREATE OR REPLACE FUNCTION place_order(number int, address text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  s uuid := saga.begin('order', 'order-' || number, jsonb_build_object('address', address), timeout => '1 hour');
BEGIN
  PERFORM
    saga.step(s, 'reserve',
      action => $do$ UPDATE stock SET on_hand = on_hand - 1 WHERE item = 'bicycle' $do$,
      compensation => $undo$ UPDATE stock SET on_hand = on_hand + 1 WHERE item = 'bicycle' $undo$),
    saga.step(s, 'charge', args => '{"cents": 49900}', task => 'bank', notify => 'bank', timeout => '30 minutes',
      retry => saga.retry_policy(delay => '10 ms')),
    saga.step(s, 'ship', retry => saga.retry_policy(max_attempts => 1),
      action => $do$ INSERT INTO shipment VALUES ($1->>'forward_key', $1->'saga'->'input'->>'address') $do$,
      compensation => $undo$ UPDATE shipment SET called_off = true WHERE key = $1->>'forward_key' $undo$),
    saga.complete(s, when_done => true);
  RETURN s;
END $$;

-- The bank is a table, in transactions of its own.  As banks do, it knows what it did under
-- which key.
CREATE TABLE IF NOT EXISTS bank (what text, key text, PRIMARY KEY (what, key));

-- Charges, and refunds what failed: usually another program, which LISTENs.
CREATE OR REPLACE PROCEDURE serve_bank(order_id uuid, crash boolean) LANGUAGE plpgsql AS $$
DECLARE
  t record;
BEGIN
  WHILE (SELECT state IN ('running', 'compensating') FROM saga.sagas WHERE id = order_id) LOOP
    FOR t IN SELECT task_key, phase, context FROM saga.claim_tasks('bank', lease => '1 second') LOOP
      COMMIT;
      INSERT INTO bank VALUES (CASE t.phase WHEN 'forward' THEN 'charge' ELSE 'refund' END, t.context->>'forward_key')
      ON CONFLICT DO NOTHING;
      COMMIT;
      PERFORM pg_terminate_backend(pg_backend_pid()) WHERE crash;
      PERFORM saga.complete_task(t.task_key);
    END LOOP;
    COMMIT;
    PERFORM pg_sleep(0.02);
  END LOOP;
END $$;

SELECT place_order(:number, :'address') AS id \gset
CALL serve_bank(:'id', :'crash');
SELECT format('order %s: %s', :number, CASE state WHEN 'completed' THEN 'shipped to ' || (input->>'address')
    ELSE reason || ': ' || state END)
FROM saga.sagas WHERE id = :'id';
