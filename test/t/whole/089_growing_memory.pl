# Large numbers, in small: a saga of many steps, a long backlog, and kinds of
# compensation without end take memory that is bounded and time that grows with
# their number; and a backlog does not delay the start after a crash.
# (test/bench/run scale and restart measure the same with numbers that are large.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use POSIX ();
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'needs /proc' if !-r '/proc/self/status';

my $node = saga_cluster('main', conf => join "\n",
	'restart_after_crash = on', 'saga.max_executors = 1', 'saga.executor_idle_timeout = 10min', 'log_statement = none', '');
$node->safe_psql('postgres', q{
	CREATE TABLE undone (n serial, saga uuid, seq bigint, at timestamptz DEFAULT clock_timestamp());
	CREATE TABLE pace (nap float);
	INSERT INTO pace VALUES (0);
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE sql AS $$
		INSERT INTO undone (saga, seq) VALUES ((context->'saga'->>'id')::uuid, (context->'step'->>'seq')::bigint);
		SELECT pg_sleep(nap) FROM pace WHERE nap > 0;
	$$;
	-- Failed sagas of one step; each of a kind of its own, if so wanted
	CREATE FUNCTION make(how_many int, kinds text DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$
		SELECT count(saga.fail(s)) FROM (SELECT saga.begin('many') AS s, i FROM generate_series(1, how_many) i OFFSET 0) b,
			LATERAL saga.step(s, 'a', output => '1', compensation => 'SELECT undo($1)' || coalesce(' AS ' || kinds || i, '')) t
	$$;
	CREATE PROCEDURE forward(name text, steps int) LANGUAGE plpgsql AS $$
	DECLARE
		s uuid := saga.begin(name);
	BEGIN
		FOR i IN 1 .. steps LOOP
			PERFORM saga.step(s, 'step ' || i, compensation => 'SELECT undo($1)', args => jsonb_build_object('i', i), output => '1');
			COMMIT;
		END LOOP;
	END $$;});

sub cpu
{
	my ($pid) = @_;
	my @fields = split / /, slurp_file("/proc/$pid/stat") =~ s/.*\) //sr;
	return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

sub wait_undone
{
	return wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.ledger_due)});
}

sub executor_pid
{
	my @pids = executor_pids($node);
	is(scalar @pids, 1, 'there is one executor');
	return $pids[0];
}

# ------------------------------------------------------------- kinds of SQL

# More than any cache should hold, and then as many again, all of them new.
$node->safe_psql('postgres', q{SELECT make(600, 'warm')});
wait_undone();
my $executor = executor_pid();
my $before = memory_of($executor);
$node->safe_psql('postgres', q{SELECT make(1200, 'new')});
wait_undone();
is(executor_pid(), $executor, 'it is the same executor');
cmp_ok(memory_of($executor) - $before, '<', 2048, 'new kinds of compensation take no memory from others on (kB more)');

# ------------------------------------------------------------- a long saga

# The same session records both, the same executor undoes both.
my ($few, $many) = (400, 3000);
my $session = session($node);
my $backend = $session->query_safe('SELECT pg_backend_pid()');
my (%forward, %back, %left);
foreach my $n (100, $few, $many, $many)
{
	my $used = cpu($backend);
	$session->query_safe(qq{CALL forward('long', $n)});
	$forward{$n} = (cpu($backend) - $used) / $n;
	$used = cpu($executor);
	$session->query_safe(q{SELECT count(saga.fail(id)) FROM saga.sagas WHERE name = 'long' AND state = 'running'});
	wait_undone();
	$back{$n} = (cpu($executor) - $used) / $n;
	push @{ $left{$n} }, memory_of($executor);
}
$session->quit;
is(executor_pid(), $executor, 'it is the same executor');
note(sprintf 'CPU per step, us: %s', join ', ', map { sprintf '%d steps %.0f and %.0f', $_, 1e6 * $forward{$_}, 1e6 * $back{$_} } sort { $a <=> $b } keys %back);
note("kB: @{ $left{$many} }");
# The clock of processes has a grain, which counts for the few.
my $grain = 2 / POSIX::sysconf(POSIX::_SC_CLK_TCK()) / $few;
cmp_ok($forward{$many}, '<', 3 * ($forward{$few} + $grain), 'a step of a long saga takes no longer to record');
cmp_ok($back{$many}, '<', 3 * ($back{$few} + $grain), 'nor to undo');
cmp_ok($left{$many}[1] - $left{$many}[0], '<', 2048, 'the second long saga takes no more memory than the first (kB more)');
is($node->safe_psql('postgres', qq{
	SELECT count(*), count(DISTINCT u.seq), count(*) FILTER (WHERE u.n <= before) FROM (
		SELECT *, lag(n) OVER (PARTITION BY saga ORDER BY seq DESC) AS before FROM undone) u
	JOIN saga.sagas s ON s.id = u.saga WHERE s.name = 'long'}),
	join('|', (100 + $few + 2 * $many) x 2, 0), 'each step is undone once, in order');

# ------------------------------------------------------------- a backlog

my $worker = worker_pid($node);
$node->safe_psql('postgres', q{SELECT make(500)});
wait_undone();
$node->safe_psql('postgres', 'TRUNCATE undone');
my $backlog = 6_000;
my @before = (memory_of($worker), memory_of($executor));
$node->safe_psql('postgres', "SELECT make($backlog)");
wait_undone();
is(worker_pid($node), $worker, 'it is the same worker');
is(executor_pid(), $executor, 'it is the same executor');
cmp_ok(memory_of($worker) - $before[0], '<', 2048, 'a backlog takes no memory of the worker (kB more)');
cmp_ok(memory_of($executor) - $before[1], '<', 2048, 'nor of the executor (kB more)');
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT saga) FROM undone'), "$backlog|$backlog", 'each is undone once');

# ------------------------------------------------------------- crashes

# Slow ones, so that many are waiting all the time
my $waiting = 2_000;
$node->safe_psql('postgres', 'TRUNCATE undone');
$node->safe_psql('postgres', "UPDATE pace SET nap = 0.1; SELECT make($waiting)");
foreach my $kind ('saga executor', 'saga worker', 'postmaster')
{
	wait_until($node, q{SELECT count(*) > 3 FROM undone});
	my $offset = log_offset($node);
	if ($kind eq 'postmaster')
	{
		restart_killed($node);
	}
	else
	{
		kill 'KILL', $node->safe_psql('postgres', "SELECT min(pid) FROM pg_stat_activity WHERE backend_type = '$kind'");
	}
	wait_lines($node, qr/ready to accept connections/, $offset);
	wait_server($node);
	my $log = slurp_file($node->logfile, $offset);
	my ($crash) = $log =~ /^(\S+ \S+ \S+) .*not properly shut down/m;
	my ($ready) = $log =~ /^(\S+ \S+ \S+) .*ready to accept connections/m;
	wait_until($node, "SELECT count(*) > 3 FROM undone WHERE at > '$crash'");
	my $ms = $node->safe_psql('postgres', "SELECT (extract(epoch FROM min(at) - '$ready') * 1000)::int FROM undone WHERE at > '$crash'");
	note("after the crash of a $kind: $ms ms");
	# As with every time here, only what hangs is slower.
	cmp_ok($ms, '<', 30_000, "the undo goes on after the crash of a $kind");
}
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM saga.ledger_due'), '>', $waiting / 2, 'most of them are waiting still');
$node->safe_psql('postgres', 'UPDATE pace SET nap = 0');
wait_undone();
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT saga) FROM undone'), "$waiting|$waiting", 'each is undone once');
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE state <> 'compensated'}), 0, 'and nothing is left');

guarantees($node);
$node->stop;
done_testing();
