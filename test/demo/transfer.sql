CREATE TABLE account (
  name text PRIMARY KEY, balance int CHECK (balance >= 0), closed boolean DEFAULT false);
INSERT INTO account VALUES ('alice', 100), ('bob', 50);

\echo
\echo A transfer that goes well. One statement begins the saga, records the step with
\echo what would undo it, and does the work; "NOT known" keeps a repetition harmless.
\echo
WITH step AS (
  SELECT st.* FROM saga.begin('transfer', 'transfer-1') AS s, LATERAL saga.step(s, 'debit', completed => true,
    compensation => $$UPDATE account SET balance = balance + 30 WHERE name = 'alice'$$) AS st)
UPDATE account SET balance = balance - 30 FROM step WHERE name = 'alice' AND NOT known
RETURNING step, status, name, balance;

WITH step AS (
  SELECT st.* FROM saga.begin('transfer', 'transfer-1') AS s, LATERAL saga.step(s, 'credit', completed => true,
    compensation => $$UPDATE account SET balance = balance - 30 WHERE name = 'bob'$$) AS st)
UPDATE account SET balance = balance + 30 FROM step WHERE name = 'bob' AND NOT known
RETURNING step, status, name, balance;

SELECT saga.complete(s) FROM saga.begin('transfer', 'transfer-1') AS s;

\echo
\echo The next one meets a closed account. What the debit did is already committed.
\echo
UPDATE account SET closed = true WHERE name = 'bob';
WITH step AS (
  SELECT st.* FROM saga.begin('transfer', 'transfer-2') AS s, LATERAL saga.step(s, 'debit', completed => true,
    compensation => $$UPDATE account SET balance = balance + 20 WHERE name = 'alice'$$) AS st)
UPDATE account SET balance = balance - 20 FROM step WHERE name = 'alice' AND NOT known
RETURNING step, status, name, balance;

\echo The application gives up. The undo follows by itself.
\echo
SELECT saga.fail(id, 'the account of bob is closed') FROM saga.sagas WHERE idempotency_key = 'transfer-2';
SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key = 'transfer-2';
SELECT name, balance, closed FROM account ORDER BY name;
