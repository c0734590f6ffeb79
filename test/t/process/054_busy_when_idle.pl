# Idle means idle: with nothing due, no deadline, nothing unclaimed and no prepared
# transaction, there are no transactions and no wake-ups; and yet a failure is noticed when
# it is committed, not when somebody looks.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(usleep time);

plan skip_all => 'needs /proc' if !-r '/proc/self/status';

my $window = 5;

# The databases looked at are not the one that is asked.
my $node = saga_cluster('main', databases => [ 'app', 'other' ],
	conf => "autovacuum = off\nsaga.executor_idle_timeout = 100ms\n");
$node->safe_psql('postgres', 'CREATE DATABASE bare');
$node->safe_psql('app', 'CREATE TABLE undone (saga text)');

# What a used system holds: sagas in all states at rest
$node->safe_psql('app', q{
	SELECT saga.begin('order', 'completed') AS id \gset
	SELECT saga.step(:'id', 'a', completed => true);
	SELECT saga.complete(:'id');
	SELECT saga.begin('order', 'running') AS id \gset
	SELECT saga.step(:'id', 'a', compensation => 'SELECT 1');
	SELECT saga.begin('order', 'parked') AS id \gset
	SELECT saga.step(:'id', 'a', compensation => 'SELECT 1/0', compensation_retry => saga.retry_policy(max_attempts => 1));
	SELECT saga.fail(:'id');});

# A failure on a system at rest: how long until its compensation begins?
sub latency
{
	my ($key) = @_;
	my $saga = $node->safe_psql('app', qq{
		SELECT saga.begin('order', '$key') AS id \\gset
		SELECT saga.step(:'id', 'a', compensation => 'INSERT INTO undone VALUES (''$key'')') AS s \\gset
		SELECT saga.fail(:'id') AS s \\gset
		SELECT :'id'});
	wait_state($node, $saga, 'compensated', 'app');
	return $node->safe_psql('app', qq{
		SELECT extract(epoch FROM a.started_at - e.at)
		FROM saga.attempts a JOIN saga.events e USING (saga_id)
		WHERE a.saga_id = '$saga' AND a.phase = 'compensation' AND e.event = 'failing'});
}
latency('first');

sub xacts
{
	return $node->safe_psql('postgres', q{
		SELECT string_agg(datname || ' ' || xact_commit + xact_rollback, ', ' ORDER BY datname)
		FROM pg_stat_database WHERE datname IN ('app', 'other', 'bare')});
}

# Each of our processes, and how often it slept
sub sleeps
{
	my %sleeps;
	foreach my $line (split /\n/, $node->safe_psql('postgres', q{
		SELECT pid, backend_type, datname FROM pg_stat_activity WHERE backend_type LIKE 'saga%' ORDER BY 2, 3}))
	{
		my ($pid, $type, $database) = split /\|/, $line;
		my ($n) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m;
		$sleeps{"$type $database"} = $n;
	}
	return \%sleeps;
}

sub described { my ($sleeps) = @_; return join(', ', map { "$_ $sleeps->{$_}" } sort keys %$sleeps); }

# Executors gone, statistics reported
sub wait_rest
{
	my $before = '';
	my $since = 0;
	wait_until($node, q{
		SELECT count(*) = 0 FROM pg_stat_activity
		WHERE backend_type = 'saga executor' OR datname IN ('app', 'other', 'bare') AND backend_type = 'client backend'});
	for (1 .. 300)
	{
		my $now = xacts() . described(sleeps());
		$since = time if $now ne $before;
		return 1 if time - $since > 1.5;
		$before = $now;
		usleep(200_000);
	}
	return fail('it does not come to rest');
}

wait_rest();
my ($xacts, $sleeps) = (xacts(), sleeps());
is(join(', ', sort keys %$sleeps), 'saga launcher , saga worker app, saga worker other', 'the processes of a system at rest');
usleep($window * 1_000_000);
is(xacts(), $xacts, 'idle: no transactions');
is(described(sleeps()), described($sleeps), 'idle: no wake-ups');

# Woken by commits, not by the clock, which wakes nobody for so long.
my @latency = map { latency("failure $_") } 1 .. 3;
is(scalar(grep { $_ > 2 * $window } @latency), 0, 'a failure on a system at rest is noticed at once') or diag("@latency");

# With a deadline ahead: at most one wake-up a minute
$node->safe_psql('app', q{SELECT saga.begin('order', 'deadline', timeout => '1 day')});
wait_rest();
($xacts, $sleeps) = (xacts(), sleeps());
usleep(3_000_000);
my $after = sleeps();
my $woken = $after->{'saga worker app'} - $sleeps->{'saga worker app'};
cmp_ok($woken, '<=', 1, 'with a deadline ahead: at most one wake-up');
is(xacts(), $xacts, 'with a deadline ahead: no transactions') if $woken == 0;

# With work that no listener claims: it is announced again, once a minute in the
# end.  (The virtual clock goes on with the deadline still ahead.)
SKIP:
{
	skip 'needs the test build', 5 if !is_test_build();

	virtual_clock($node, 'app');
	$node->safe_psql('app', q{
		SELECT saga.fail(s) FROM (SELECT saga.begin('order', 'unclaimed') AS s OFFSET 0) b,
			LATERAL saga.step(s, 'a', notify => 'nobody') t});
	wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue}, 't', 'app');
	my $listener = listen_to($node, { database => 'app' }, 'nobody');
	foreach my $n (1 .. 9)
	{
		$node->safe_psql('app', q{SELECT test_advance_clock('1 minute')});
		wait_heard($listener, qr/^nobody\|/, $n);
	}
	$listener->quit;
	wait_rest();
	($xacts, $sleeps) = (xacts(), sleeps());
	usleep(3_000_000);
	$after = sleeps();
	cmp_ok($after->{'saga worker app'} - $sleeps->{'saga worker app'}, '<=', 1, 'with unclaimed work: at most one wake-up');
	is($after->{$_}, $sleeps->{$_}, "with unclaimed work: none of $_") foreach 'saga launcher ', 'saga worker other';

	$node->safe_psql('app', q{SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('nobody')});
	$node->safe_psql('app', q{SELECT test_advance_clock('2 minutes')});
	wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state = 'compensating'}, 't', 'app');
	$node->safe_psql('app', q{SELECT saga.complete(id) FROM saga.sagas WHERE idempotency_key = 'deadline'});
	wait_rest();
	($xacts, $sleeps) = (xacts(), sleeps());
	usleep(3_000_000);
	is(xacts(), $xacts, 'all claimed: no transactions');
	is(described(sleeps()), described($sleeps), 'all claimed: no wake-ups');
}

guarantees($node, 'app');
$node->stop;
done_testing();
