-- Tables and functions of a shop, each function one step: it does its work,
-- records it, and says what undoes it, in one transaction.

CREATE TABLE stock (item text PRIMARY KEY, on_hand int NOT NULL CHECK (on_hand >= 0));
CREATE TABLE payment (
  id int GENERATED ALWAYS AS IDENTITY, order_id int, cents int, refunded boolean NOT NULL DEFAULT false);
CREATE TABLE shipment (
  id int GENERATED ALWAYS AS IDENTITY, order_id int, called_off boolean NOT NULL DEFAULT false);
CREATE TABLE invoice (id int GENERATED ALWAYS AS IDENTITY, order_id int, void boolean NOT NULL DEFAULT false);
CREATE TABLE crm_note (order_id int, note text);
INSERT INTO stock VALUES ('bicycle', 10);

-- What undoes a step gets its context: the arguments, the output, and more.
-- The pauses are for the spectators.

CREATE FUNCTION release_stock(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE stock SET on_hand = on_hand + (context->'args'->>'pieces')::int
  WHERE item = context->'args'->>'item';
  SELECT pg_sleep(0.3);
$$;

-- show
CREATE FUNCTION charge(s uuid, order_id int, cents int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  payment int;
BEGIN
  INSERT INTO payment (order_id, cents) VALUES (order_id, cents) RETURNING id INTO payment;
  PERFORM saga.step(s, 'charge', compensation => 'SELECT refund($1)',
    output => jsonb_build_object('payment', payment));
END $$;

CREATE FUNCTION refund(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE payment SET refunded = true WHERE id = (context->'output'->>'payment')::int;
  SELECT pg_sleep(0.3);
$$;
-- hide

CREATE FUNCTION reserve_stock(s uuid, item text, pieces int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE stock SET on_hand = on_hand - pieces WHERE stock.item = reserve_stock.item;
  PERFORM saga.step(s, 'reserve stock', completed => true,
    compensation => 'SELECT release_stock($1)',
    args => jsonb_build_object('item', item, 'pieces', pieces));
END $$;

CREATE FUNCTION book_carrier(s uuid, order_id int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  shipment int;
BEGIN
  INSERT INTO shipment (order_id) VALUES (order_id) RETURNING id INTO shipment;
  PERFORM saga.step(s, 'book carrier',
    compensation => 'SELECT call_carrier_off($1)', output => jsonb_build_object('shipment', shipment));
END $$;

CREATE FUNCTION call_carrier_off(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE shipment SET called_off = true WHERE id = (context->'output'->>'shipment')::int;
  SELECT pg_sleep(0.3);
$$;

CREATE FUNCTION issue_invoice(s uuid, order_id int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  invoice int;
BEGIN
  INSERT INTO invoice (order_id) VALUES (order_id) RETURNING id INTO invoice;
  PERFORM saga.step(s, 'issue invoice',
    compensation => 'SELECT void_invoice($1)', output => jsonb_build_object('invoice', invoice));
END $$;

CREATE FUNCTION void_invoice(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE invoice SET void = true WHERE id = (context->'output'->>'invoice')::int;
  SELECT pg_sleep(0.3);
$$;

-- The CRM is another system.  Today it is down.

CREATE FUNCTION call_crm(order_id int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the CRM does not answer';
END $$;

CREATE FUNCTION strike_crm_note(context jsonb) RETURNS void LANGUAGE sql AS $$
  DELETE FROM crm_note WHERE order_id = (context->'args'->>'order')::int;
  SELECT pg_sleep(0.3);
$$;

-- show

CREATE PROCEDURE place_order(order_id int) LANGUAGE plpgsql AS $$
DECLARE
  s uuid := saga.begin('order', 'order-' || order_id, jsonb_build_object('order', order_id));
BEGIN
  PERFORM reserve_stock(s, 'bicycle', 1);  COMMIT;
  PERFORM charge(s, order_id, 49900);      COMMIT;
  PERFORM book_carrier(s, order_id);       COMMIT;
  PERFORM issue_invoice(s, order_id);      COMMIT;

  -- The CRM is outside the database: the step is committed before its effect.
  PERFORM saga.step(s, 'write CRM', args => jsonb_build_object('order', order_id),
    compensation => 'SELECT strike_crm_note($1)');
  COMMIT;
  BEGIN
    PERFORM call_crm(order_id);
    PERFORM saga.complete_step(s, 'write CRM');
  EXCEPTION WHEN OTHERS THEN
    PERFORM saga.fail_step(s, 'write CRM', SQLERRM);
    PERFORM saga.fail(s, 'order ' || order_id || ' could not be placed: ' || SQLERRM);
    RETURN;
  END;
  COMMIT;

  PERFORM saga.step(s, 'confirm', kind => 'pivot', completed => true);
  PERFORM saga.complete(s);
END $$;
-- hide
