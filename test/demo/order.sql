-- Tables and functions of a shop.  A step is a function that does it and one that
-- undoes it, both in SQL; the server runs them.  Each is one transaction with its
-- mark, so none of them need look whether it was called before.

CREATE TABLE stock (item text PRIMARY KEY, on_hand int NOT NULL CHECK (on_hand >= 0));
CREATE TABLE payment (order_id int, cents int, refunded boolean NOT NULL DEFAULT false);
CREATE TABLE shipment (order_id int, called_off boolean NOT NULL DEFAULT false);
CREATE TABLE invoice (order_id int, void boolean NOT NULL DEFAULT false);
CREATE TABLE crm_note (order_id int, note text);
CREATE TABLE confirmation (order_id int);
INSERT INTO stock VALUES ('bicycle', 10);

-- They get their context: the saga's input, the step's arguments and output, and
-- more.  The pauses are for the spectators.

CREATE FUNCTION order_of(context jsonb) RETURNS int LANGUAGE sql AS $$
  SELECT (context->'saga'->'input'->>'order')::int;
$$;

CREATE FUNCTION reserve_stock(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE stock SET on_hand = on_hand - 1 WHERE item = 'bicycle';
  SELECT pg_sleep(0.5);
$$;

CREATE FUNCTION release_stock(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE stock SET on_hand = on_hand + 1 WHERE item = 'bicycle';
  SELECT pg_sleep(0.5);
$$;

-- show
CREATE FUNCTION charge(context jsonb) RETURNS void LANGUAGE sql AS $$
  INSERT INTO payment (order_id, cents) VALUES (order_of(context), 49900);
  SELECT pg_sleep(0.5);
$$;

CREATE FUNCTION refund(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE payment SET refunded = true WHERE order_id = order_of(context);
  SELECT pg_sleep(0.5);
$$;
-- hide

CREATE FUNCTION book_carrier(context jsonb) RETURNS void LANGUAGE sql AS $$
  INSERT INTO shipment (order_id) VALUES (order_of(context));
  SELECT pg_sleep(0.5);
$$;

CREATE FUNCTION call_carrier_off(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE shipment SET called_off = true WHERE order_id = order_of(context);
  SELECT pg_sleep(0.5);
$$;

CREATE FUNCTION issue_invoice(context jsonb) RETURNS void LANGUAGE sql AS $$
  INSERT INTO invoice (order_id) VALUES (order_of(context));
  SELECT pg_sleep(0.5);
$$;

CREATE FUNCTION void_invoice(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE invoice SET void = true WHERE order_id = order_of(context);
  SELECT pg_sleep(0.5);
$$;

-- The CRM takes no orders above 4000.

CREATE FUNCTION write_crm(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF order_of(context) > 4000 THEN
    RAISE EXCEPTION 'the CRM does not take order %', order_of(context);
  END IF;
  INSERT INTO crm_note VALUES (order_of(context), 'a bicycle');
END $$;

CREATE FUNCTION strike_crm_note(context jsonb) RETURNS void LANGUAGE sql AS $$
  DELETE FROM crm_note WHERE order_id = order_of(context);
$$;

CREATE FUNCTION confirm(context jsonb) RETURNS void LANGUAGE sql AS $$
  INSERT INTO confirmation VALUES (order_of(context));
$$;

-- show

CREATE FUNCTION place_order(order_id int) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  s uuid := saga.begin('order', 'order-' || order_id, jsonb_build_object('order', order_id));
BEGIN
  PERFORM
    saga.step(s, 'reserve stock', action => 'SELECT reserve_stock($1)', compensation => 'SELECT release_stock($1)'),
    saga.step(s, 'charge', action => 'SELECT charge($1)', compensation => 'SELECT refund($1)'),
    saga.step(s, 'book carrier', action => 'SELECT book_carrier($1)', compensation => 'SELECT call_carrier_off($1)'),
    saga.step(s, 'issue invoice', action => 'SELECT issue_invoice($1)', compensation => 'SELECT void_invoice($1)'),
    saga.step(s, 'write CRM', action => 'SELECT write_crm($1)', compensation => 'SELECT strike_crm_note($1)',
      retry => saga.retry_policy(max_attempts => 2, delay => '500 ms')),
    saga.step(s, 'confirm', action => 'SELECT confirm($1)', kind => 'pivot'),
    saga.complete(s, when_done => true);
  RETURN s;
END $$;
-- hide
