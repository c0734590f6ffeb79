-- One transfer between two accounts of pgbench: three steps, of which the
-- :at-th is the last one if the transfer :fails.
\set a random(1, 100000)
\set b random(1, 100000)
\set cents random(1, 5000)
\set fails random(1, 5) = 1
\set at random(1, 3)

BEGIN;
SELECT saga.begin('transfer') AS saga \gset
SELECT saga.step(:saga, 'debit', completed => true, args => jsonb_build_array(:a::int, :cents::int),
  compensation => 'UPDATE pgbench_accounts SET abalance = abalance + ($1->''args''->>1)::int WHERE aid = ($1->''args''->>0)::int');
UPDATE pgbench_accounts SET abalance = abalance - :cents WHERE aid = :a;
COMMIT;
\if :fails and :at = 1
SELECT saga.fail(:saga, 'at the debit');
\else
BEGIN;
SELECT saga.step(:saga, 'credit', completed => true, args => jsonb_build_array(:b::int, :cents::int),
  compensation => 'UPDATE pgbench_accounts SET abalance = abalance - ($1->''args''->>1)::int WHERE aid = ($1->''args''->>0)::int');
UPDATE pgbench_accounts SET abalance = abalance + :cents WHERE aid = :b;
COMMIT;
\if :fails and :at = 2
SELECT saga.fail(:saga, 'at the credit');
\else
BEGIN;
SELECT saga.step(:saga, 'entry', completed => true,
  compensation => 'DELETE FROM pgbench_history WHERE filler = $1->''saga''->>''id''');
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler) VALUES (:a, :b, 0, :cents, now(), left(:saga::text, 22));
COMMIT;
\if :fails
SELECT saga.fail(:saga, 'at the entry');
\else
SELECT saga.complete(:saga);
\endif
\endif
\endif
