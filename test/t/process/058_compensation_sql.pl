# What SQL a compensation may be: many statements, statements that change what
# the next ones see, utility statements; what it may not; very many steps of one
# saga, and very many different texts.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use POSIX ();
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "autovacuum = off\nsaga.max_executors = 1\nsaga.executor_idle_timeout = 1h\n");
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	GRANT USAGE ON SCHEMA saga TO app;
	GRANT CREATE ON SCHEMA public TO app;});
create_failed($node, keyless => 1, args => q{'7'}, retry => q{saga.retry_policy(max_attempts => 2, delay => '10 ms')});

sub sql
{
	my ($sql) = @_;
	return sql_as($node, 'app', $sql);
}

# Fails a saga and waits: its state, then each attempt's outcome, SQLSTATE and rows
my $last;
sub compensate
{
	my ($compensation) = @_;
	$last = sql("SELECT failed(\$c\$$compensation\$c\$)");
	sql("SELECT saga.wait('$last')");
	return sql(qq{
		SELECT concat_ws(' ', state, (SELECT string_agg(concat_ws(' ', outcome, sqlstate, rows), ', ' ORDER BY attempt)
			FROM saga.attempts WHERE saga_id = id AND phase = 'compensation'))
		FROM saga.sagas WHERE id = '$last'});
}

sub last_error { return sql("SELECT last_error FROM saga.steps WHERE saga_id = '$last'"); }

sql('CREATE TABLE t (n serial, what text)');

# --- What works

is(compensate(q{INSERT INTO t (what) VALUES ('a'), ('b'); INSERT INTO t (what) SELECT $1->>'args'; UPDATE t SET what = what || '!'}),
	'compensated succeeded 3', 'several statements; the rows of the last are recorded');
is(sql('SELECT string_agg(what, \' \' ORDER BY n) FROM t'), 'a! b! 7!', 'are done, with the context in each');
is(compensate(q{SELECT * FROM t;}), 'compensated succeeded 3', 'a SELECT, whose rows are thrown away');
is(compensate(q{-- a comment
	/* another */ DELETE FROM t WHERE what = 'a!' RETURNING n -- and one more
	;;}), 'compensated succeeded 1', 'comments, RETURNING and empty statements');
is(compensate(q{WITH gone AS (DELETE FROM t RETURNING what) INSERT INTO t (what) SELECT 'was ' || what FROM gone}),
	'compensated succeeded 2', 'writes in WITH');

is(compensate(q{CREATE TABLE made (a integer); INSERT INTO made SELECT ($1->>'args')::integer; ALTER TABLE made ADD b text DEFAULT 'x';
	CREATE INDEX ON made (a); INSERT INTO made SELECT a + 1, b FROM made; ANALYZE made}), 'compensated succeeded', 'DDL');
is(sql('SELECT string_agg(concat(a, b), \' \' ORDER BY a) FROM made'), '7x 8x', 'and use of what it made, statement by statement');
is(compensate(q{CREATE TEMP TABLE scratch ON COMMIT DROP AS SELECT 1 AS a; INSERT INTO t (what) SELECT 'temp ' || a FROM scratch}),
	'compensated succeeded 1', 'temporary tables') for 1 .. 2;
is(compensate(q{PREPARE p (integer) AS INSERT INTO t (what) VALUES ($1); EXECUTE p(1); DEALLOCATE p}),
	'compensated succeeded', 'PREPARE and EXECUTE') for 1 .. 2;
is(compensate(q{LOCK TABLE t; TRUNCATE t; SET LOCAL work_mem = '1MB'; NOTIFY somebody, 'something'; COMMENT ON TABLE t IS 'undone'}),
	'compensated succeeded', 'utility statements');
$node->safe_psql('postgres', q{
	CREATE PROCEDURE undo(context jsonb) LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO t (what) SELECT 'procedure ' || (context->>'args');
		BEGIN
			INSERT INTO t (n, what) VALUES (1/0, 'never');
		EXCEPTION WHEN division_by_zero THEN
			INSERT INTO t (what) VALUES ('caught');
		END;
	END $$;
	CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t (what) VALUES ('committed'); COMMIT; END $$;});
is(compensate('CALL undo($1)'), 'compensated succeeded', 'a procedure, with the context');
is(sql('SELECT string_agg(what, \', \' ORDER BY n) FROM t'), 'procedure 7, caught', 'with a block that catches errors');
is(compensate(q{DO $$ BEGIN INSERT INTO t (what) VALUES ('block'); END $$}), 'compensated succeeded', 'DO');

# --- All or nothing

sql('TRUNCATE t');
is(compensate(q{INSERT INTO t (what) VALUES ('half'); SELECT 1/0}), 'needs_review failed 22012, failed 22012', 'an error in the second statement');
is(sql('SELECT count(*) FROM t'), 0, 'takes back the first');

# --- What does not work, with a reason

is(compensate('CALL commits()'), 'needs_review failed 2D000, failed 2D000', 'COMMIT in a procedure');
is(compensate(q{DO $$ BEGIN COMMIT; END $$}), 'needs_review failed 2D000, failed 2D000', 'COMMIT in a block');
is(sql('SELECT count(*) FROM t'), 0, 'leaves nothing');
is(compensate('COPY t FROM STDIN'), 'needs_review failed 0A000, failed 0A000', 'COPY FROM STDIN');
like(last_error(), qr/cannot copy/, 'with the reason');
is(compensate('COPY t TO STDOUT'), 'needs_review failed 0A000, failed 0A000', 'COPY TO STDOUT');
is(compensate(q{COPY t TO '/tmp/never'}), 'needs_review failed 42501, failed 42501', 'COPY to a file');
is(compensate('VACUUM t'), 'needs_review failed 25001, failed 25001', 'VACUUM');
like($node->safe_psql('postgres', "SELECT parked FROM saga.steps WHERE saga_id = '$last'"),
	qr/^retries exhausted after 2 attempts: VACUUM cannot/, 'parked, with the reason');
is(compensate('LISTEN somebody'), 'needs_review failed 0A000, failed 0A000', 'LISTEN');
is(compensate('SELECT no_such_function($1)'), 'needs_review failed 42883, failed 42883', 'a function that is not there');
foreach my $sql ('COMMIT', 'BEGIN', 'SELECT 1; ROLLBACK', 'SAVEPOINT a', q{PREPARE TRANSACTION 'x'}, 'SELEC 1', '', ' -- nothing')
{
	isnt(sql_error($node, "SELECT failed(\$c\$$sql\$c\$)", 'postgres', extra_params => [ '-U', 'app' ]), '', "\"$sql\" is refused at registration");
}

# --- Compensations that call saga

my $other = sql(q{SELECT saga.begin('other', 'other')});
sql(qq{SELECT saga.step('$other', 'b', compensation => 'INSERT INTO t (what) VALUES (''other'')')});
foreach my $call ("fail((\$1->'saga'->>'id')::uuid)", "step((\$1->'saga'->>'id')::uuid, 'again')", "complete((\$1->'saga'->>'id')::uuid)",
	"cancel((\$1->'saga'->>'id')::uuid)", "complete_step((\$1->'saga'->>'id')::uuid, 'a', late => 'record')",
	"fail_step((\$1->'saga'->>'id')::uuid, 'a', 'why')")
{
	like(compensate("SELECT saga.$call"), qr/^needs_review failed SG\d+, failed SG\d+$/, "saga.$call on its own saga");
	is(last_error(), 'a compensation cannot call saga on its own saga', 'is refused');
}
is(compensate(qq{SELECT saga.fail('$other', 'told by another')}), 'compensated succeeded 1', 'on another saga');
wait_state($node, $other, 'compensated');
is(sql(q{SELECT string_agg(what, ' ') FROM t}), 'other', 'it works');
is(compensate(q{SELECT saga.begin('next', 'a new one'); SELECT saga.step(saga.begin('next', 'a new one'), 'a', completed => true)}),
	'compensated succeeded 1', 'beginning a new one');
is(sql(q{SELECT state, steps FROM saga.sagas WHERE name = 'next'}), 'running|1', 'too');
is(sql(q{SELECT count(*) FROM saga.sagas WHERE name = 'order' AND state NOT IN ('compensated', 'needs_review')}), 0, 'nothing hangs');

# --- A huge saga, and a thousand texts

sub executor_memory
{
	my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'saga executor'});
	my $text = slurp_file("/proc/$pid/status");
	# What is its own: shared memory counts as it is touched.
	return ($text =~ /^RssAnon:\s*(\d+)/m)[0];
}

# What the executor took of a processor, in seconds: that of others does not count
sub executor_time
{
	my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'saga executor'});
	my @fields = split / /, slurp_file("/proc/$pid/stat") =~ s/.*\) //sr;
	return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

sub huge
{
	my ($steps) = @_;
	sql('TRUNCATE t');
	my $id = sql(q{SELECT saga.begin('huge')});
	sql(qq{SELECT count(saga.step('$id', 'step ' || n, args => to_jsonb(n), completed => true,
			compensation => 'INSERT INTO t (what) VALUES (\$1->>''args'')'))
		FROM generate_series(1, $steps) n});
	my $used = executor_time();
	sql("SELECT saga.fail('$id')");
	wait_state($node, $id, 'compensated');
	is(sql(q{SELECT count(*), count(DISTINCT what), bool_and(ok) FROM (
			SELECT what, what::integer < coalesce(lag(what::integer) OVER (ORDER BY n), 1000000) AS ok FROM t) t}),
		"$steps|$steps|t", "$steps steps are undone in reverse");
	return executor_time() - $used;
}

huge(200);
my $short = huge(500);
my $before = executor_memory();
my $long = huge(4000);
my $after = executor_memory();
cmp_ok($after - $before, '<', 8 * 1024, 'the executor\'s memory is flat') or diag("$before kB, then $after kB");
# Eight times the steps: linear is 8, quadratic 64.
cmp_ok($long, '<', 30 * ($short + 0.02), 'time is linear') or diag("$short s for 500, $long s for 4000");

sub texts
{
	my ($count) = @_;
	sql('TRUNCATE t');
	sql(qq{SELECT count(failed('INSERT INTO t (what) VALUES (''text ' || n || ''')')) FROM generate_series(1, $count) n});
	wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state = 'compensating'});
	is(sql('SELECT count(DISTINCT what) FROM t'), $count, "$count different texts");
	return executor_memory();
}
$before = texts(1000);
$after = texts(2000);
cmp_ok($after - $before, '<', 4 * 1024, 'the plans kept are bounded') or diag("$before kB, then $after kB");

# By their size, too: of long texts, few are kept.
sub long_texts
{
	my ($from, $to) = @_;
	sql(qq{SELECT count(failed('INSERT INTO t (what) SELECT v FROM (VALUES ' ||
			(SELECT string_agg(format('(''text %s value %s'')', n, i), ', ') FROM generate_series(1, 5000) i) || ') v (v) LIMIT 1'))
		FROM generate_series($from, $to) n});
	wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state = 'compensating'});
	return executor_memory();
}
sql('TRUNCATE t');
$before = long_texts(1, 5);
$after = long_texts(6, 30);
is(sql('SELECT count(DISTINCT what) FROM t'), 30, '30 long texts');
cmp_ok($after, '<', $before + 24 * 1024, 'the plans kept are bounded by their size') or diag("$before kB, then $after kB");

guarantees($node);
$node->stop;
done_testing();
