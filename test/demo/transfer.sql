CREATE TABLE account (
  name text PRIMARY KEY, balance int CHECK (balance >= 0), closed boolean DEFAULT false);
INSERT INTO account VALUES ('alice', 100), ('bob', 50);

\echo
\echo A transfer that goes well. Each step commits with its work.
\echo
BEGIN;
SELECT saga.begin('transfer', 'transfer-1') AS saga \gset
SELECT step, status FROM saga.step(:'saga', 'debit', completed => true,
  compensation => $$UPDATE account SET balance = balance + 30 WHERE name = 'alice'$$);
UPDATE account SET balance = balance - 30 WHERE name = 'alice';
COMMIT;

BEGIN;
SELECT step, status FROM saga.step(:'saga', 'credit', completed => true,
  compensation => $$UPDATE account SET balance = balance - 30 WHERE name = 'bob'$$);
UPDATE account SET balance = balance + 30 WHERE name = 'bob';
SELECT saga.complete(:'saga');
COMMIT;

\echo
\echo The next one meets a closed account. What the debit did is already committed.
\echo
UPDATE account SET closed = true WHERE name = 'bob';
BEGIN;
SELECT saga.begin('transfer', 'transfer-2') AS saga \gset
SELECT step, status FROM saga.step(:'saga', 'debit', completed => true,
  compensation => $$UPDATE account SET balance = balance + 20 WHERE name = 'alice'$$);
UPDATE account SET balance = balance - 20 WHERE name = 'alice';
COMMIT;
SELECT name, balance, closed FROM account ORDER BY name;

\echo The application gives up. The undo follows by itself.
\echo
SELECT saga.fail(:'saga', 'the account of bob is closed');
SELECT saga.wait(:'saga');
SELECT name, balance, closed FROM account ORDER BY name;
