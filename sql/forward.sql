-- Steps that saga runs: recorded in one statement, begun when their gates are open, done exactly once.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
\set ECHO all

-- A list is a sequence
BEGIN;
SELECT test.begin('list') AS id \gset
SELECT (r).step, (r).status, (r).attempt, (r).known FROM (VALUES (
  saga.step(:'id', 'reserve', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)')), (
  saga.step(:'id', 'charge', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)')), (
  saga.step(:'id', 'ship', action => 'SELECT test.act($1)', kind => 'pivot'))) v (r);
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.forward('list');
SELECT test.done('list'), test.begun('list'), result FROM saga.sagas WHERE id = :'id';
SELECT * FROM test.forward_attempts('list');
SELECT * FROM test.events('list');
SELECT count(*) FROM saga.ledger_due WHERE saga = :'id';
-- all is known now, and comes to nothing more
SELECT status, attempt, output, known FROM saga.step(:'id', 'charge', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)');
SELECT saga.complete(:'id', when_done => true);
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L)', :'id', 'new', 'SELECT 1'));

-- The same "after" twice is a fork; the next plain step is the join.
SELECT test.begin('fork') AS id \gset
SELECT status, known FROM saga.step(:'id', 'gate');
SELECT status, known FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)');
SELECT status, known FROM saga.step(:'id', 'b1', after => '{a}', action => 'SELECT test.act($1)');
SELECT status, known FROM saga.step(:'id', 'b2', after => '{a}', action => 'SELECT test.act($1)');
SELECT status, known FROM saga.step(:'id', 'first', after => '{}', action => 'SELECT test.act($1)');
SELECT status, output FROM saga.wait_step(:'id', 'first');
SELECT status, known FROM saga.step(:'id', 'join', action => 'SELECT $1 -> ''outputs''');
SELECT status, known FROM saga.step(:'id', 'join', action => 'SELECT $1 -> ''outputs''');
SELECT * FROM test.forward('fork');
SELECT state, next_action FROM saga.sagas WHERE id = :'id';
-- not while a step waits
CALL test.refuses(format('SELECT saga.complete(%L)', :'id'));
SELECT saga.complete(:'id', when_done => true);
SELECT saga.complete(:'id', when_done => true);
-- a sealed saga takes no new step, whoever runs it, but knows those it has, whatever a later release says of them
CALL test.refuses(format('SELECT saga.step(%L, %L)', :'id', 'new'));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L)', :'id', 'new', 'SELECT 1'));
CALL test.refuses(format('SELECT saga.complete(%L)', :'id'));
SELECT status, known FROM saga.step(:'id', 'b1', action => 'SELECT other($1)', args => '{"other": true}', after => '{}', delay => '1 day');
SELECT status, known FROM saga.step(:'id', 'b1', task => NULL);
-- the application's own step is still its own
SELECT status, known FROM saga.step(:'id', 'gate');
SELECT status FROM saga.complete_step(:'id', 'gate', '"open"');
SELECT saga.wait(:'id');
SELECT step, status, output FROM test.forward('fork');
SELECT result FROM saga.sagas WHERE id = :'id';
-- (which of the two branches is done first, the server chooses)
SELECT position, event, CASE WHEN step IN ('b1', 'b2') AND event = 'step completed' THEN 'b1 or b2' ELSE step END AS step, detail
FROM test.events('fork');

-- A saga that is not sealed goes on being the application's.
SELECT test.begin('open') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)');
SELECT status, output FROM saga.wait_step(:'id', 'a');
SELECT next_action FROM saga.sagas WHERE id = :'id';
SELECT status FROM saga.step(:'id', 'b', after => '{a}', action => 'SELECT test.act($1)');
SELECT status, output FROM saga.wait_step(:'id', 'b');
SELECT status FROM saga.step(:'id', 'c', completed => true, output => '3');
SELECT status FROM saga.step(:'id', 'd', action => 'SELECT $1 -> ''outputs''');
SELECT status, output FROM saga.wait_step(:'id', 'd');
SELECT saga.complete(:'id', '"all"');
SELECT state, result FROM saga.sagas WHERE id = :'id';
-- sealed when all is done: it completes at once
BEGIN;
SELECT test.begin('at once') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true, output => '1');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT result FROM saga.sagas WHERE id = :'id';
-- a result that is given
BEGIN;
SELECT test.begin('given') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT 1');
SELECT saga.complete(:'id', '"given"', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT result FROM saga.sagas WHERE id = :'id';
-- and nothing to do at all
SELECT test.begin('nothing') AS id \gset
SELECT saga.complete(:'id', when_done => true);

-- Rolled back, nothing was recorded; nothing begins before the commit.
SELECT test.begin('rolled back') AS id \gset
BEGIN;
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)');
SELECT saga.complete(:'id', when_done => true);
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1, ''no'')');
ROLLBACK TO s;
SELECT status, known FROM saga.step(:'id', 'a', action => 'SELECT test.act($1, ''yes'')');
SELECT saga.complete(:'id', when_done => true);
SELECT step, status FROM test.forward('rolled back');
COMMIT;
SELECT saga.wait(:'id');
SELECT test.done('rolled back');

-- Gates alone: joins and timers complete when they open.
SELECT test.begin('gates') AS id \gset
SELECT status FROM saga.step(:'id', 'gate');
SELECT status FROM saga.step(:'id', 'join', after => '{gate}');
SELECT status FROM saga.step(:'id', 'timer', after => '{}', delay => '1 ms');
SELECT status FROM saga.step(:'id', 'past', after => '{}', not_before => '2020-01-01');
SELECT status FROM saga.step(:'id', 'future', after => '{}', not_before => '2120-01-01', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'never', after => '{}', not_before => 'infinity');
SELECT status FROM saga.step(:'id', 'long ago', after => '{}', not_before => '-infinity');
SELECT status FROM saga.step(:'id', 'back', after => '{}', delay => '-1 day');
SELECT s, (saga.wait_step(:'id', s)).status FROM unnest('{timer,past,long ago,back}'::text[]) s;
SELECT step, status, attempts, waits_for FROM test.forward('gates');
SELECT status FROM saga.complete_step(:'id', 'gate');
SELECT status FROM saga.wait_step(:'id', 'join');
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT step, status, compensation FROM test.forward('gates');

-- Recorded from inside an action: done with its children
CREATE FUNCTION test.fan(context jsonb, lines integer) RETURNS bigint LANGUAGE sql AS $$
  SELECT count((saga.step(saga.current(), 'line ' || n, after => '{}', args => to_jsonb(n),
    action => 'SELECT test.act($1, $1 ->> ''args'')', compensation => 'SELECT test.undo($1)')).seq)
  FROM generate_series(1, lines) n
$$;
BEGIN;
SELECT test.begin('fan') AS id \gset
SELECT status FROM saga.step(:'id', 'fan', action => 'SELECT test.fan($1, 3)');
SELECT status FROM saga.step(:'id', 'join', action => 'SELECT count(*), bool_and(status = ''completed'') AS all FROM saga.steps WHERE saga_id = saga.current() AND key LIKE ''line%''');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT * FROM test.forward('fan');
SELECT result FROM saga.sagas WHERE id = :'id';
-- children that wait for an application keep their parent, and what is after it, undone
BEGIN;
SELECT test.begin('children') AS id \gset
SELECT status FROM saga.step(:'id', 'parent', action => $$SELECT (saga.step(saga.current(), 'child')).status$$);
SELECT status FROM saga.step(:'id', 'after', action => 'SELECT $1 -> ''outputs''');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT status, output FROM saga.wait_step(:'id', 'parent');
CALL test.until_waits_for('children', 'after', 'step%');
SELECT step, status, waits_for, recorded_by FROM test.forward('children');
CALL test.refuses(format('SELECT saga.complete(%L)', :'id'));
SELECT next_action FROM saga.sagas WHERE id = :'id';
SELECT status FROM saga.complete_step(:'id', 'child', '"grown"');
SELECT status, output FROM saga.wait_step(:'id', 'parent');
SELECT saga.wait(:'id');
SELECT step, status, output, recorded_by FROM test.forward('children');
-- a list among children, which goes by its own recorder; deep
BEGIN;
SELECT test.begin('deep') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => $$
  SELECT (saga.step(saga.current(), 'a1', action => 'SELECT test.act($1)')).status, (saga.step(saga.current(), 'a2', action => $x$
    SELECT test.act($1), (saga.step(saga.current(), 'a21', action => 'SELECT test.act($1)')).status,
      (saga.step(saga.current(), 'a22', after => '{a2,a1,a21}', action => 'SELECT test.act($1, ($1 -> ''outputs'')::text)')).status$x$)).status$$);
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1, ($1 -> ''outputs'')::text)');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT test.done('deep'), test.begun('deep');
SELECT step, status, output, recorded_by FROM test.forward('deep');
-- a known key in an action: it is what it is, and still its first recorder's
BEGIN;
SELECT test.begin('known') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'SELECT test.act($1)', args => '1');
SELECT status FROM saga.step(:'id', 'b', action => $$SELECT s.step, s.status, s.known, s.output FROM saga.step(saga.current(), 'a', action => 'SELECT test.act($1)', args => '1') s$$);
SELECT status FROM saga.step(:'id', 'c', action => $$SELECT s.step, s.status, s.known FROM saga.step(saga.current(), 'c', action => 'SELECT 1') s$$);
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT step, status, output, recorded_by FROM test.forward('known');

-- What an action returns: of the last statement
SELECT test.begin('outputs') AS id \gset
CREATE TABLE test.empty (a integer);
CREATE PROCEDURE test.proc(INOUT x integer) LANGUAGE plpgsql AS 'BEGIN x := x + 1; END';
SELECT (saga.step(:'id', k, after => '{}', action => a)).status FROM (VALUES
  (1, 'no row', 'SELECT 1 WHERE false'),
  (2, 'no rows at all', 'INSERT INTO test.empty VALUES (1)'),
  (3, 'one column', 'SELECT 7 AS x'),
  (4, 'text', 'SELECT ''seven'''),
  (5, 'json', 'SELECT ''{"a": [1, 2]}''::jsonb'),
  (6, 'several', 'SELECT 1 AS a, ''b'' AS b, NULL::int AS c, ARRAY[1, 2] AS d'),
  (7, 'void', 'SELECT pg_advisory_unlock_all()'),
  (8, 'null', 'SELECT NULL::text'),
  (9, 'json null', 'SELECT ''null''::jsonb'),
  (10, 'no column', 'SELECT'),
  (11, 'row', 'SELECT ROW(1, ''x'')'),
  (12, 'whole row', 'SELECT n FROM test.named n WHERE name = ''none'''),
  (13, 'returning', 'INSERT INTO test.empty VALUES (2) RETURNING a'),
  (14, 'last of several', 'SELECT 1; INSERT INTO test.empty VALUES (3); SELECT 2'),
  (15, 'last has none', 'SELECT 1; INSERT INTO test.empty VALUES (4)'),
  (16, 'first has many', 'SELECT * FROM generate_series(1, 10); SELECT 3'),
  (17, 'do', 'DO $d$ BEGIN INSERT INTO test.empty VALUES (5); END $d$'),
  (18, 'call', 'CALL test.proc(1)'),
  (19, 'utility', 'CREATE TABLE test.made (a integer)'),
  (20, 'explain', 'EXPLAIN (COSTS off) SELECT 1'),
  (21, 'show', 'SHOW server_encoding'),
  (22, 'same name', 'SELECT 1 AS a, 2 AS a'),
  (23, 'composite', 'SELECT saga.retry_policy(max_attempts => 2)'),
  (24, 'time', 'SELECT ''2026-01-31 12:00:00+01''::timestamptz'),
  (25, 'empty text', 'SELECT ''''')) v (n, k, a) ORDER BY n;
SELECT s.key, (saga.wait_step(:'id', s.key)).status FROM saga.steps s WHERE saga_id = :'id' ORDER BY seq;
SELECT s.key, s.status, s.output, s.error, saga.output(s.key, :'id') IS NOT DISTINCT FROM s.output AS same FROM saga.steps s WHERE saga_id = :'id' ORDER BY seq;
SELECT a FROM test.empty ORDER BY a;
SELECT saga.complete(:'id');
-- more than one row is a failure like any other
SELECT test.begin('two rows') AS id \gset
SELECT status FROM saga.step(:'id', 'a', action => 'INSERT INTO test.empty VALUES (10), (11) RETURNING a', retry => saga.retry_policy(max_attempts => 1));
SELECT saga.wait(:'id');
SELECT * FROM test.forward_attempts('two rows');
SELECT count(*) FROM test.empty WHERE a >= 10;

-- What an action knows: today's context, outputs and errors
SELECT saga.begin('context', 'key 1', '{"order": 1}') AS id \gset
INSERT INTO test.named VALUES ('context', :'id');
SELECT status FROM saga.step(:'id', 'zero', completed => true, output => '0');
SELECT status FROM saga.step(:'id', 'barrier', action => 'SELECT 1');
SELECT status FROM saga.step(:'id', 'x', after => '{barrier}', action => 'SELECT ''x''');
SELECT status FROM saga.wait_step(:'id', 'x');
SELECT status FROM saga.step(:'id', 'bad', after => '{barrier}', action => 'SELECT saga.require(false, ''bad luck'')', on_failure => 'skip');
SELECT status FROM saga.wait_step(:'id', 'bad');
SELECT status FROM saga.step(:'id', 'nothing', after => '{barrier}', action => 'SELECT NULL');
SELECT status FROM saga.step(:'id', 'all', args => '{"a": 1}', action => 'SELECT $1');
SELECT status FROM saga.wait_step(:'id', 'all');
SELECT k, test.mask(v::text) FROM jsonb_each(saga.output('all', :'id')) e (k, v) WHERE k NOT IN ('retry', 'step') ORDER BY k;
SELECT test.mask(((saga.output('all', :'id') -> 'step') - 'seq')::text);
SELECT saga.output('all', :'id') ->> 'forward_key' = forward_key AS same FROM saga.steps WHERE saga_id = :'id' AND key = 'all';
-- a list: of these
SELECT status FROM saga.step(:'id', 'some', after => '{x,zero,x,bad}', action => 'SELECT $1 -> ''outputs'' AS outputs, $1 -> ''errors'' AS errors');
SELECT output FROM saga.wait_step(:'id', 'some');
SELECT status FROM saga.step(:'id', 'none', after => '{}', action => 'SELECT $1 -> ''outputs'' AS outputs, $1 -> ''errors'' AS errors');
SELECT output FROM saga.wait_step(:'id', 'none');
-- since the last step that waited for all before it
SELECT status FROM saga.step(:'id', 'last', action => 'SELECT array_agg(k ORDER BY k COLLATE "C") FROM jsonb_object_keys($1 -> ''outputs'') k');
SELECT output FROM saga.wait_step(:'id', 'last');
SELECT saga.find('context', 'key 1') = :'id' AS found, saga.find('context', 'key 2') IS NULL AS missing, saga.find('other', 'key 1') IS NULL AS other;
SELECT saga.current() IS NULL AS outside;
SELECT saga.output('nothing', :'id'), saga.output('bad', :'id'), saga.output('x', :'id');
CALL test.refuses('SELECT saga.output(''x'')');
CALL test.refuses(format('SELECT saga.output(%L, %L)', 'unknown', :'id'));
CALL test.refuses(format('SELECT saga.output(%L, %L)', 'x', '01900000-0000-7000-8000-000000000000'));

-- What is refused
SELECT test.begin('refused') AS id \gset
SELECT status FROM saga.step(:'id', 'a', completed => true);
CALL test.refuses(format('SELECT saga.step(%L, %L, after => %L)', :'id', 'b', '{nowhere}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, after => %L)', :'id', 'b', '{a,b}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, after => %L)', :'id', 'b', '{a,NULL}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, after => %L)', :'id', 'b', '{a,""}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, after => %L)', :'id', 'b', '{{a},{a}}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L, completed => true)', :'id', 'b', 'SELECT 1'));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L, output => %L)', :'id', 'b', 'SELECT 1', '1'));
CALL test.refuses(format('SELECT saga.step(%L, %L, after => %L, completed => true)', :'id', 'b', '{}'));
CALL test.refuses(format('SELECT saga.step(%L, %L, delay => %L, completed => true)', :'id', 'b', '1 day'));
CALL test.refuses(format('SELECT saga.step(%L, %L, not_before => %L, output => %L)', :'id', 'b', '2120-01-01', '1'));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L, task => %L)', :'id', 'b', 'SELECT 1', 'chan'));
CALL test.refuses(format('SELECT saga.step(%L, %L, timeout => %L)', :'id', 'b', '1 hour'));
CALL test.refuses(format('SELECT saga.step(%L, %L, on_failure => %L)', :'id', 'b', 'skip'));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L, on_failure => %L)', :'id', 'b', 'SELECT 1', 'maybe'));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L, timeout => %L)', :'id', 'b', 'SELECT 1', '-1 s'));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L)', :'id', 'b', ''));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L)', :'id', 'b', 'SELEC 1'));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L)', :'id', 'b', 'SELECT 1; COMMIT'));
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L, compensate_on => %L)', :'id', 'b', 'SELECT 1', 'never'));
-- where the error is, and in which of the two texts
SELECT saga.step(:'id', 'b', action => 'SELEC 1', compensation => 'SELECT 1');
SELECT saga.step(:'id', 'b', action => 'SELECT 1', compensation => 'SELEC 1');
SELECT step, status FROM test.forward('refused');
-- what saga runs is not for the application to report on
SELECT status FROM saga.step(:'id', 'gate');
SELECT status FROM saga.step(:'id', 'b', action => 'SELECT test.act($1)');
SELECT status FROM saga.step(:'id', 'timer', delay => '1 ms');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'b'));
CALL test.refuses(format('SELECT saga.fail_step(%L, %L, %L)', :'id', 'b', 'no'));
CALL test.refuses(format('SELECT saga.complete_step(%L, %L)', :'id', 'timer'));
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, late => %L)', :'id', 'b', 'record'));
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'id', 'b', 'retry', 'n'));
-- with other args it is another operation
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L, args => %L)', :'id', 'b', 'SELECT test.act($1)', '1'));
-- with another action it stays what it is, which is said
SELECT status, known FROM saga.step(:'id', 'b', action => 'SELECT other($1)', after => '{a}');
SELECT status, known FROM saga.step(:'id', 'b');
SELECT status, known FROM saga.step(:'id', 'gate', action => 'SELECT 1');
SELECT saga.cancel(:'id');
SELECT saga.wait(:'id');
CALL test.refuses(format('SELECT saga.step(%L, %L, action => %L)', :'id', 'c', 'SELECT 1'));
CALL test.refuses(format('SELECT saga.complete(%L, when_done => true)', :'id'));
SELECT step, status FROM test.forward('refused');
-- no such saga
CALL test.refuses('SELECT saga.step(''01900000-0000-7000-8000-000000000000'', ''a'', action => ''SELECT 1'')');
CALL test.refuses('SELECT saga.wait_step(''01900000-0000-7000-8000-000000000000'', ''a'')');
CALL test.refuses(format('SELECT saga.wait_step(%L, %L)', :'id', 'nowhere'));

-- Many
SELECT test.begin('many') AS id \gset
BEGIN;
SELECT count((saga.step(:'id', 'step ' || n, after => '{}', action => 'SELECT test.act($1)', compensation => 'SELECT test.undo($1)')).seq)
FROM generate_series(1, 500) n;
SELECT status FROM saga.step(:'id', 'join', action => 'SELECT count(*) FROM jsonb_object_keys($1 -> ''outputs'')');
SELECT saga.complete(:'id', when_done => true);
COMMIT;
SELECT saga.wait(:'id');
SELECT state, result, next_action FROM saga.sagas WHERE id = :'id';
SELECT count(*), count(DISTINCT step) FROM test.did WHERE saga = :'id';
-- and a long list
SELECT test.begin('long list') AS id \gset
SELECT count((saga.step(:'id', 'step ' || n, action => 'SELECT test.act($1)')).seq) FROM generate_series(1, 200) n;
SELECT saga.complete(:'id', when_done => true);
SELECT saga.wait(:'id');
SELECT count(*), bool_and(step = 'step ' || row_number) AS in_order
FROM (SELECT step, row_number() OVER (ORDER BY n) FROM test.did WHERE saga = :'id') d;

CALL test.check_forward();
