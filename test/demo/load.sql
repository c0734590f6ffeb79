-- One transfer between two accounts of pgbench: three steps, of which the
-- :at-th is the last one if the transfer :fails.
\set a random(1, 100000)
\set b random(1, 100000)
\set cents random(1, 5000)
\set fails random(1, 5) = 1
\set at random(1, 3)

BEGIN;
SELECT saga.begin('transfer') AS saga \gset
SELECT saga.step(:saga, 'debit', completed => true,
  args => jsonb_build_object('account', :a::int, 'cents', :cents::int),
  compensation => 'UPDATE pgbench_accounts
    SET abalance = abalance + ($1->''args''->>''cents'')::int
    WHERE aid = ($1->''args''->>''account'')::int');
UPDATE pgbench_accounts SET abalance = abalance - :cents WHERE aid = :a;
COMMIT;
\if :fails and :at = 1
SELECT saga.fail(:saga, 'at the debit');
\else
BEGIN;
SELECT saga.step(:saga, 'credit', completed => true,
  args => jsonb_build_object('account', :b::int, 'cents', :cents::int),
  compensation => 'UPDATE pgbench_accounts
    SET abalance = abalance - ($1->''args''->>''cents'')::int
    WHERE aid = ($1->''args''->>''account'')::int');
UPDATE pgbench_accounts SET abalance = abalance + :cents WHERE aid = :b;
COMMIT;
\if :fails and :at = 2
SELECT saga.fail(:saga, 'at the credit');
\else
BEGIN;
SELECT saga.step(:saga, 'entry', completed => true,
  compensation => 'DELETE FROM entry WHERE saga = ($1->''saga''->>''id'')::uuid');
INSERT INTO entry VALUES (:saga, :a, :b, :cents);
COMMIT;
\if :fails
SELECT saga.fail(:saga, 'at the entry');
\else
SELECT saga.complete(:saga);
\endif
\endif
\endif
