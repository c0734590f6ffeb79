# The counters say something else than what happened: counted twice or not at all,
# lost with a restart, kept where they are nobody's, one database's in another.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = saga_cluster('main', conf => "saga.stat_names = 8\nrestart_after_crash = on\n");

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

# Counts of what a process of saga did come right after its commit.
sub counted
{
	my ($query, $expected, $what, $database) = @_;

	wait_until($node, "SELECT ($query) IS NOT DISTINCT FROM '$expected'", undef, $database);
	is(sql($query, $database), $expected, $what);
	return;
}

sub names { return q{SELECT string_agg(COALESCE(name, 'others') || ' ' || begun, ', ' ORDER BY name) FROM saga.stat}; }

my $attempts = q{SELECT string_agg(phase || ' ' || outcome || ' ' || attempts, ', ' ORDER BY phase DESC, outcome)
	FROM saga.stat_attempts WHERE attempts > 0};
my $times = q{SELECT string_agg(what || ' ' || count, ', ' ORDER BY what) FROM saga.stat_times WHERE le_ms = 'Infinity'};

# Each attempt by what came of it, and each saga's way once
sql(q{
	CREATE FUNCTION act(context jsonb, code text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF (context ->> 'attempt')::integer = 1 THEN
			RAISE EXCEPTION USING ERRCODE = code;
		END IF;
	END $$;
	SELECT saga.stat_reset();
	SELECT saga.begin('plain') AS s \gset
	SELECT saga.step(:'s', 'a', output => '1');
	SELECT saga.step(:'s', 'b');
	SELECT saga.fail_step(:'s', 'b', 'not yet');
	SELECT saga.step(:'s', 'b');
	SELECT saga.step(:'s', 'b');
	SELECT saga.complete_step(:'s', 'b');
	SELECT saga.complete_step(:'s', 'b');
	SELECT saga.complete(:'s');});
counted($attempts, 'forward failed 1, forward interrupted 1, forward succeeded 2', 'what the application attempts');
counted($times, 'first_action 0, first_undo 0, saga 1', 'a saga that saga did nothing for');
sql(q{
	SELECT saga.stat_reset();
	SELECT saga.begin('undone') AS s \gset
	SELECT saga.step(:'s', 'a', compensation => $$SELECT act($1, 'SG007')$$, completed => true);
	SELECT saga.step(:'s', 'b', compensation => $$SELECT act($1, 'P0001')$$, completed => true,
		compensation_retry => saga.retry_policy(delay => '10 ms'));
	SELECT saga.step(:'s', 'c', compensation => $$SELECT CASE WHEN $1 ->> 'attempt' = '1' THEN pg_sleep(1000) END$$, completed => true,
		compensation_retry => saga.retry_policy(delay => '10 ms', timeout => '10 ms'));
	SELECT saga.step(:'s', 'd', completed => true);
	SELECT saga.fail(:'s');
	SELECT saga.wait(:'s');});
counted($attempts, 'forward succeeded 4, compensation deferred 1, compensation failed 1, compensation succeeded 3, compensation timed out 1',
	'compensations by what came of them');
counted($times, 'first_action 0, first_undo 1, saga 1', 'the wait for the first of them, once');
ok(sql(q{SELECT total_ms >= 10 FROM saga.stat_attempts WHERE outcome = 'timed out' AND phase = 'compensation'}) eq 't', 'and how long they took');
sql(q{
	SELECT saga.stat_reset();
	SELECT saga.begin('done') AS s \gset
	SELECT saga.step(:'s', 'a', action => $$SELECT act($1, 'P0001')$$, retry => saga.retry_policy(delay => '10 ms'));
	SELECT saga.step(:'s', 'b', action => 'SELECT 1');
	SELECT saga.step(:'s', 'c', action => $$SELECT saga.again() WHERE ($1 ->> 'round')::integer < 2$$);
	SELECT saga.complete(:'s', when_done => true);
	SELECT saga.wait(:'s');});
counted($attempts, 'forward failed 1, forward succeeded 3', 'actions, of which rounds are one attempt');
counted($times, 'first_action 3, first_undo 0, saga 1', 'the wait for each, once');
is(sql(q{SELECT name || ' ' || begun || ' ' || completed FROM saga.stat}), 'done 1 1', 'completed by itself, counted once');
sql('SELECT saga.stat_reset()');
my $executors = sql('SELECT executor_starts || $$ $$ || worker_starts FROM saga.stat_workers');
is($executors, '0 0', 'processes that run go on');
sql(q{CREATE ROLE other LOGIN; GRANT USAGE ON SCHEMA saga TO other; SET ROLE other;
	SELECT saga.begin('other') AS s \gset
	SELECT saga.step(:'s', 'a', action => 'SELECT 1');
	SELECT saga.complete(:'s', when_done => true);
	SELECT saga.wait(:'s');});
counted('SELECT executor_starts || $$ $$ || worker_starts FROM saga.stat_workers', '1 0', 'an executor that was started');
wait_until($node, 'SELECT wakeups > 0 FROM saga.stat_workers');

# More names than there is room for: the sum stays right.
sql(q{SELECT saga.stat_reset(); SELECT saga.begin('n' || i) FROM generate_series(1, 12) i, generate_series(1, 2)});
counted(names(), 'n1 2, n2 2, n3 2, n4 2, n5 2, n6 2, n7 2, n8 2, others 8', 'names that found no place');
is(sql('SELECT sum(begun) FROM saga.stat'), 24, 'are counted');
is(sql_as($node, 'other', 'SELECT count(*) FROM saga.stat'), 0, 'not for a role that owns none of them');

# What a prepared transaction did is kept as far as there is room, once for each counter.
sql(q{SELECT saga.stat_reset();
	BEGIN; SELECT count(saga.begin('n' || i % 4)) FROM generate_series(1, 3000) i; SELECT count(saga.step(id, 'a', completed => true)) FROM saga.sagas WHERE name = 'n1';
	PREPARE TRANSACTION 'many'});
is(sql(names()), '', 'very much of it is kept');
sql(q{COMMIT PREPARED 'many'});
is(sql(names()), 'n0 750, n1 750, n2 750, n3 750', 'and counted');

# Prepared transactions
sql(q{SELECT saga.stat_reset();
	BEGIN; SELECT saga.begin('kept'); SELECT saga.begin('kept'); PREPARE TRANSACTION 'kept';
	BEGIN; SELECT saga.begin('back'); PREPARE TRANSACTION 'back';
	BEGIN; SELECT saga.begin('later'); PREPARE TRANSACTION 'later';});
is(sql(names()), '', 'what is prepared is not counted');
sql(q{COMMIT PREPARED 'kept'});
sql(q{ROLLBACK PREPARED 'back'});
is(sql(names()), 'kept 2', 'it is when it is committed, and not when it is rolled back');

# Another database has its own, and gives its places back when it is gone.
sql('CREATE DATABASE second');
sql(q{CREATE EXTENSION saga; SELECT saga.begin('second ' || i) FROM generate_series(1, 12) i}, 'second');
counted(q{SELECT count(*) || ' ' || sum(begun) FROM saga.stat}, '6 12', 'another database', 'second');
is(sql(names()), 'kept 2', 'is not seen from here');
sql(q{SELECT saga.begin('pushed out')});
is(sql(names()), 'kept 2, others 1', 'it takes places, which are the whole server\'s');
sql('DROP DATABASE second');
wait_until($node, q{SELECT saga.begin('probe') IS NULL OR (SELECT count(*) = 1 FROM saga.stat WHERE name = 'probe')});
sql('SELECT saga.stat_reset()');
sql(q{SELECT saga.begin('n' || i) FROM generate_series(1, 7) i});
is(sql(names()), 'n1 1, n2 1, n3 1, n4 1, n5 1, n6 1, n7 1', 'which are free when it is gone');

# A clean restart keeps them.
my $all = q{SELECT md5((SELECT string_agg(s::text, ' ' ORDER BY s) FROM saga.stat s) || (SELECT string_agg(s::text, ' ' ORDER BY s) FROM saga.stat_times s)
	|| (SELECT string_agg(s::text, ' ' ORDER BY s) FROM saga.stat_attempts s))};
sql(q{SELECT saga.step(saga.begin('n1'), 'a', notify => 'channel'); SELECT saga.step(saga.begin('n2'), 'a', completed => true);
	SELECT saga.complete(saga.begin('n3')); SELECT saga.fail(id) FROM saga.sagas WHERE state = 'running' AND id = (SELECT saga_id FROM saga.steps WHERE channel = 'channel')});
counted('SELECT channel || dispatched FROM saga.stat_channels', 'channel1', 'a channel has a place, too');
my $before = sql($all);
my $file = $node->data_dir . '/pg_stat/saga.stat';
$node->stop;
ok(-s $file, 'a file has them while the server is down');
$node->start;
ok(!-e $file, 'it is gone when the server runs');
is(sql($all), $before, 'all are as they were');
is(sql('SELECT channel || dispatched FROM saga.stat_channels'), 'channel1', 'those of channels, too');
sql(q{COMMIT PREPARED 'later'});
is(sql(q{SELECT sum(begun) FROM saga.stat}), 11, 'and what was prepared before the restart is counted');

# Fewer places than before: what has none is counted with the others.
sql(q{BEGIN; SELECT saga.begin('n1'); SELECT saga.begin('n7'); PREPARE TRANSACTION 'small'});
$before = sql('SELECT sum(begun) || $$ $$ || sum(completed) FROM saga.stat');
$node->append_conf('postgresql.conf', "saga.stat_names = 3\n");
$node->restart;
is(sql('SELECT sum(begun) || $$ $$ || sum(completed) FROM saga.stat'), $before, 'with fewer places, the sum is the same');
is(sql('SELECT (SELECT count(name) FROM saga.stat) + (SELECT count(channel) FROM saga.stat_channels)'), 3, 'of so many names');
is(sql('SELECT count(*) FROM saga.stat WHERE name IS NULL'), 1, 'and the others');
sql(q{COMMIT PREPARED 'small'});
is(sql('SELECT sum(begun) FROM saga.stat'), (split / /, $before)[0] + 2, 'and what was prepared is counted somewhere');
$node->append_conf('postgresql.conf', "saga.stat_names = 0\n");
$node->restart;
is(sql('SELECT sum(begun) FROM saga.stat WHERE name IS NULL'), (split / /, $before)[0] + 2, 'without any place, too');
sql(q{SELECT saga.begin('n1')});
is(sql('SELECT sum(begun) FROM saga.stat WHERE name IS NULL'), (split / /, $before)[0] + 3, 'and counting goes on');
$node->append_conf('postgresql.conf', "saga.stat_names = 8\n");

# A file that is not ours, or cut short, is nothing to stop at.
foreach my $how ('cut short', 'changed', 'another')
{
	my $offset = log_offset($node);

	$node->stop;
	my $content = slurp_file($file);
	substr($content, 100, 1) = chr(ord(substr($content, 100, 1)) ^ 1) if $how eq 'changed';
	$content = 'nothing' if $how eq 'another';
	chop $content if $how eq 'cut short';
	open my $fh, '>:raw', $file or die "$file: $!";
	print $fh $content;
	close $fh;
	$node->start;
	wait_log($node, qr/LOG:.*ignoring invalid statistics file "pg_stat\/saga\.stat"/, $offset);
	is(sql('SELECT count(*) FROM saga.stat'), 0, "$how: it is ignored");
	sql(q{SELECT saga.begin('n1')});
	is(sql(names()), 'n1 1', "$how: counting begins anew");
}

# A crash loses them, as it does the server's own.
my $session = session($node);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
kill 'KILL', $pid;
wait_until($node, q{SELECT count(*) = 0 FROM saga.stat});
ok(!-e $file, 'no file is made by a crash');
sql(q{SELECT saga.begin('n1')});
is(sql(names()), 'n1 1', 'counting begins anew after it');

# A new extension begins at zero.
sql(q{DROP EXTENSION saga CASCADE; CREATE EXTENSION saga});
is(sql(names()), '', 'another extension has counted nothing');

# Not preloaded: nothing is counted, and nothing fails.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
sql(q{SELECT saga.begin('n1'); SELECT saga.stat_reset()});
is(sql(q{SELECT (SELECT count(*) FROM saga.stat) + (SELECT count(*) FROM saga.stat_attempts) + (SELECT count(*) FROM saga.stat_channels)
	+ (SELECT count(*) FROM saga.stat_times) + (SELECT count(*) FROM saga.stat_workers)}), 0, 'not preloaded');

done_testing();
