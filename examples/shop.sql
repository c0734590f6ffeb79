-- The tables of the example, in all three languages.  Beside them there is a bank, which
-- is outside: what it did, no rollback takes back.

CREATE TABLE stock (item text PRIMARY KEY, on_hand int NOT NULL CHECK (on_hand >= 0));
INSERT INTO stock VALUES ('bicycle', 10);

CREATE TABLE shipment (
  key text PRIMARY KEY,
  address text NOT NULL CONSTRAINT we_ship_there CHECK (address <> 'nowhere'),
  called_off boolean NOT NULL DEFAULT false);
