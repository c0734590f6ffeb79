-- saga.picture: the same, to be looked at in a page or a document.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\i sql/include/listeners.sql
\i sql/include/clock.sql
CREATE ROLE regress_saga_owner LOGIN;
CREATE ROLE regress_saga_stranger;
CREATE ROLE regress_saga_monitor IN ROLE pg_monitor;
GRANT USAGE ON SCHEMA saga TO regress_saga_owner, regress_saga_stranger, regress_saga_monitor;
\set ECHO all
\pset format unaligned
\pset tuples_only on

-- Time.  An attempt that fails, a pause, another; and what a listener undoes.
SELECT test.begin('svg') AS id \gset
SELECT status FROM saga.step(:'id', 'pay', notify => 'k_picture', compensation_retry => saga.retry_policy(timeout => '1 day'));
SELECT test.advance('1 hour');
SELECT status FROM saga.fail_step(:'id', 'pay', 'not yet');
SELECT test.advance('1 hour');
SELECT status FROM saga.step(:'id', 'pay', notify => 'k_picture', compensation_retry => saga.retry_policy(timeout => '1 day'));
SELECT test.advance('1 hour');
SELECT status FROM saga.complete_step(:'id', 'pay');
CALL test.fail('svg');
SELECT test.advance('2 hours');
SELECT * FROM test.claim('k_picture', lease => '12 hours');
SELECT test.advance('1 hour');
SELECT test.done('svg', 'pay');
SELECT saga.wait(:'id');
SELECT replace(saga.picture(:'id'), :'id', '<id>');

-- Order: a fork, a join, a step of each kind of gate, one that an action recorded
BEGIN;
SELECT test.begin('mermaid') AS id \gset
SELECT status FROM saga.step(:'id', 'outside', completed => true);
SELECT status FROM saga.step(:'id', 'first', action => $$SELECT saga.step(saga.current(), 'recorded', action => 'SELECT 1')$$, compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'left', after => '{first}', delay => '1 hour');
SELECT status FROM saga.step(:'id', 'right', after => '{first}', approval => 'secret words');
SELECT status FROM saga.step(:'id', 'join', action => 'SELECT 1');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT status FROM saga.wait_step(:'id', 'first');
SELECT status FROM saga.wait_step(:'id', 'recorded');
CALL test.until_waits_for('mermaid', 'right', 'approval%');
SELECT saga.picture(:'id', 'mermaid');
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');
SELECT saga.picture(:'id', format => 'mermaid');

-- What anybody may call a saga and its steps is text, and no more.
SELECT saga.begin(E'<script>alert("x")</script>') AS id \gset
SELECT status FROM saga.step(:'id', E'a"]; click s1 call x() %% `b` <img src=x onerror=y> & ''c''\n\x01\x7f#', completed => true);
SELECT saga.picture(:'id', 'mermaid');
SELECT replace(regexp_replace(line, '[0-9.]+ m?s\M', '<time>'), :'id', '<id>') FROM regexp_split_to_table(saga.picture(:'id'), E'\n') line WHERE line ~ '^<title|script|img|^<g>|^<text x';
-- A long name ends between two characters.
SELECT saga.begin(repeat('ä', 100)) AS id \gset
SELECT status FROM saga.step(:'id', 'a');
SELECT line FROM regexp_split_to_table(saga.picture(:'id'), E'\n') line WHERE line ~ 'class="h"';

-- 2,000 steps: some dozens of boxes and rows, in which none is missing
SELECT saga.begin('long') AS id \gset
SELECT count(s) FROM (SELECT saga.step(:'id', 's' || n, completed => true) FROM generate_series(1, 2000) n) s;
SELECT count(*) AS boxes, sum((regexp_match(line, '>(\d+) steps'))[1]::integer) AS steps FROM regexp_split_to_table(saga.picture(:'id', 'mermaid'), E'\n') line WHERE line ~ '^  s\d+\[';
SELECT count(*) FROM regexp_split_to_table(saga.picture(:'id', 'mermaid'), E'\n') line WHERE line ~ '-->';
SELECT count(*) AS rows, sum((regexp_match(line, '(\d+) succeeded'))[1]::integer) AS attempts FROM regexp_split_to_table(saga.picture(:'id'), E'\n') line WHERE line ~ '^<g>';
-- a fork and a join of as many
SELECT saga.begin('wide') AS id \gset
SELECT status FROM saga.step(:'id', 'fork', completed => true);
SELECT count(s) FROM (SELECT saga.step(:'id', 'b' || n, after => '{fork}', delay => '1 hour') FROM generate_series(1, 2000) n) s;
SELECT status FROM saga.step(:'id', 'join', action => 'SELECT 1');
SELECT count(*) FILTER (WHERE line ~ '^  s1 -->') AS from_fork, count(*) FILTER (WHERE line ~ '--> s\d+$' AND line !~ '^  s1 -->') AS to_join
FROM regexp_split_to_table(saga.picture(:'id', 'mermaid'), E'\n') line;
SELECT saga.cancel(:'id');

-- Nothing there yet; and what is refused
SELECT saga.begin('empty') AS id \gset
SELECT saga.picture(:'id', 'mermaid');
SELECT saga.picture(:'id', NULL) ~ '^<svg ' AND saga.picture(:'id') ~ '^<svg ' AS null_is_default;
CALL test.refuses(format('SELECT saga.picture(%L, %L)', :'id', 'gif'));
CALL test.refuses('SELECT saga.picture(NULL)');

-- Who may see the saga sees its picture, in which nothing is that only its owner may read.
SET ROLE regress_saga_owner;
SELECT saga.begin('order', 'mine', '"secret"') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, output => '"secret"', args => '"secret"');
SELECT status FROM saga.step(:'id', 'b', approval => 'secret', action => 'SELECT ''secret''');
SET ROLE regress_saga_monitor;
SELECT f, saga.picture(:'id', f) ~ 'svg|flowchart' AS drawn, saga.picture(:'id', f) ~ 'secret' AS told FROM unnest('{svg,mermaid}'::text[]) f;
SET ROLE regress_saga_stranger;
CALL test.refuses(format('SELECT saga.picture(%L)', :'id'));
SET ROLE regress_saga_owner;
SELECT saga.cancel(:'id');
RESET ROLE;
\set ECHO none
\i sql/include/drop_roles.sql
