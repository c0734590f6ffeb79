# Forward work costs what it costs on an empty ledger, whatever lies there: finished sagas, sagas that sleep or
# wait for a person, and the steps of the same saga that are done.
#
# Measured in time of the processor, with wide bounds.  (Published elsewhere: 3 ms that became 30 s with history;
# work that woke 41 hours late among sleepers.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use POSIX ();
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

plan skip_all => 'needs /proc' if !-r '/proc/self/status';

my $node = saga_cluster('main', conf => join "\n",
	'saga.max_executors = 1', 'saga.executor_idle_timeout = 10min', 'log_statement = none', '');
$node->safe_psql('postgres', q{
	CREATE TABLE done (id uuid, key text);
	CREATE FUNCTION act(c jsonb) RETURNS void LANGUAGE sql AS $$
		INSERT INTO done VALUES (saga.current(), c->'step'->>'key') $$;
	-- Sagas of two actions, which the server is to complete
	CREATE FUNCTION make(how_many int) RETURNS bigint LANGUAGE sql AS $$
		SELECT count(sealed) FROM (SELECT s,
			saga.step(s, 'a', action => 'SELECT act($1)'), saga.step(s, 'b', action => 'SELECT act($1)'),
			saga.complete(s, when_done => true) AS sealed
			FROM (SELECT saga.begin('made') AS s FROM generate_series(1, how_many) OFFSET 0) b) x $$;});

sub cpu
{
	my ($pid) = @_;
	my @fields = split / /, slurp_file("/proc/$pid/stat") =~ s/.*\) //sr;
	return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# Seconds of the processor that our processes take for so many sagas
sub cost
{
	my ($how_many) = @_;
	my @pids = (worker_pid($node), executor_pids($node));
	my $before = 0;

	$before += cpu($_) foreach @pids;
	$node->safe_psql('postgres', "TRUNCATE done; SELECT make($how_many)");
	wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.sagas WHERE name = 'made' AND state = 'running')});
	my $after = 0;
	$after += cpu($_) foreach @pids;
	is(join(' ', worker_pid($node), executor_pids($node)), "@pids", 'they are the same processes');
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT (id, key)) FROM done'),
		2 * $how_many . '|' . 2 * $how_many, 'each action ran once');
	return $after - $before;
}

my $n = 400;
$node->safe_psql('postgres', 'SELECT make(50)');
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.sagas WHERE state = 'running')});
my $empty = cost($n);

# Finished ones, sleepers (of two months, all due at other times), and some that wait for a person
my ($finished, $asleep, $parked) = (15_000, 6_000, 500);
$node->safe_psql('postgres', qq{
	SELECT count(saga.complete(s)) FROM (SELECT saga.begin('finished') AS s FROM generate_series(1, $finished) OFFSET 0) b;
	SELECT count(saga.step(s, 'sleep', delay => interval '1 day' + n * interval '10 minutes'))
	FROM (SELECT n, saga.begin('asleep') AS s FROM generate_series(1, $asleep) n OFFSET 0) b;
	SELECT count(saga.step(s, 'broken', action => 'SELECT no_such_function()'))
	FROM (SELECT saga.begin('parked') AS s FROM generate_series(1, $parked) OFFSET 0) b});
wait_until($node, qq{SELECT count(*) = $asleep FROM saga.ledger_due WHERE due > clock_timestamp() + interval '12 hours'});
wait_until($node, qq{SELECT count(*) = $parked FROM saga.review_queue});
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.ledger_due WHERE due <= clock_timestamp())});
my $full = cost($n);

note(sprintf 'CPU per saga, us: empty %.0f, full %.0f', 1e6 * $empty / $n, 1e6 * $full / $n);
# The clock of processes has a grain.
cmp_ok($full, '<', 3 * $empty + 0.1, 'a saga costs the same beside finished, sleeping and parked ones');

# The same saga, with a history of its own: steps that are done
my $long = $node->safe_psql('postgres', q{SELECT saga.begin('long')});
my @cost;
foreach my $round (1 .. 4)
{
	my @pids = (worker_pid($node), executor_pids($node));
	my $before = 0;
	$before += cpu($_) foreach @pids;
	$node->safe_psql('postgres', qq{
		SELECT count(saga.step('$long', '$round ' || n, after => '{}', action => 'SELECT act(\$1)')) FROM generate_series(1, 800) n});
	wait_until($node, qq{SELECT count(*) = 800 * $round FROM done WHERE id = '$long'});
	my $after = 0;
	$after += cpu($_) foreach @pids;
	push @cost, $after - $before;
}
note(sprintf 'CPU per step of one saga, us: %s', join ', ', map { sprintf '%.0f', 1e6 * $_ / 800 } @cost);
cmp_ok($cost[3], '<', 4 * $cost[0] + 0.2, 'a step costs the same beside those that are done');

$node->stop;
done_testing();
