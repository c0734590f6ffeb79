-- Tables and functions of a shop, each function one step: it records itself,
-- says what undoes it, and does its work, in one transaction.  The work is done
-- only if the step was not known before, so that place_order may be killed at
-- any point and called again.

CREATE TABLE stock (item text PRIMARY KEY, on_hand int NOT NULL CHECK (on_hand >= 0));
CREATE TABLE payment (order_id int, cents int, refunded boolean NOT NULL DEFAULT false);
CREATE TABLE shipment (order_id int, called_off boolean NOT NULL DEFAULT false);
CREATE TABLE invoice (order_id int, void boolean NOT NULL DEFAULT false);
CREATE TABLE crm_note (order_id int PRIMARY KEY, note text);
INSERT INTO stock VALUES ('bicycle', 10);

-- What undoes a step gets its context: the saga's input, the step's arguments
-- and output, and more.  The pauses are for the spectators.

CREATE FUNCTION order_of(context jsonb) RETURNS int LANGUAGE sql AS $$
  SELECT (context->'saga'->'input'->>'order')::int;
$$;

CREATE FUNCTION release_stock(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE stock SET on_hand = on_hand + (context->'args'->>'pieces')::int
  WHERE item = context->'args'->>'item';
  SELECT pg_sleep(0.5);
$$;

-- show
CREATE FUNCTION charge(s uuid, order_id int, cents int) RETURNS void LANGUAGE sql AS $$
  INSERT INTO payment (order_id, cents)
  SELECT charge.order_id, charge.cents
  FROM saga.step(s, 'charge', completed => true, compensation => 'SELECT refund($1)') AS step
  WHERE NOT step.known;
$$;

CREATE FUNCTION refund(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE payment SET refunded = true WHERE order_id = order_of(context);
  SELECT pg_sleep(0.5);
$$;
-- hide

CREATE FUNCTION reserve_stock(s uuid, item text, pieces int) RETURNS void LANGUAGE sql AS $$
  UPDATE stock SET on_hand = on_hand - pieces
  FROM saga.step(s, 'reserve stock', completed => true,
    args => jsonb_build_object('item', reserve_stock.item, 'pieces', pieces),
    compensation => 'SELECT release_stock($1)') AS step
  WHERE stock.item = reserve_stock.item AND NOT step.known;
$$;

CREATE FUNCTION book_carrier(s uuid, order_id int) RETURNS void LANGUAGE sql AS $$
  INSERT INTO shipment (order_id)
  SELECT book_carrier.order_id
  FROM saga.step(s, 'book carrier', completed => true, compensation => 'SELECT call_carrier_off($1)') AS step
  WHERE NOT step.known;
$$;

CREATE FUNCTION call_carrier_off(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE shipment SET called_off = true WHERE order_id = order_of(context);
  SELECT pg_sleep(0.5);
$$;

CREATE FUNCTION issue_invoice(s uuid, order_id int) RETURNS void LANGUAGE sql AS $$
  INSERT INTO invoice (order_id)
  SELECT issue_invoice.order_id
  FROM saga.step(s, 'issue invoice', completed => true, compensation => 'SELECT void_invoice($1)') AS step
  WHERE NOT step.known;
$$;

CREATE FUNCTION void_invoice(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE invoice SET void = true WHERE order_id = order_of(context);
  SELECT pg_sleep(0.5);
$$;

-- The CRM is another system.  For orders above 4000, it is down today.

CREATE FUNCTION call_crm(order_id int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF order_id > 4000 THEN
    RAISE EXCEPTION 'the CRM does not answer';
  END IF;
  INSERT INTO crm_note VALUES (order_id, 'a bicycle') ON CONFLICT DO NOTHING;
END $$;

CREATE FUNCTION strike_crm_note(context jsonb) RETURNS void LANGUAGE sql AS $$
  DELETE FROM crm_note WHERE order_id = order_of(context);
  SELECT pg_sleep(0.5);
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
  IF (saga.step(s, 'write CRM', compensation => 'SELECT strike_crm_note($1)')).status <> 'completed' THEN
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
  END IF;

  PERFORM saga.step(s, 'confirm', kind => 'pivot', completed => true);
  PERFORM saga.complete(s);
END $$;
-- hide
