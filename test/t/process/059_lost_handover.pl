# A transaction that fails sagas hands them straight to executors that have
# nothing to do, and the worker need not wake.  What such an executor does not
# do after all, the worker finds.
#
# The worker, or the executor, is held by SIGSTOP while it sleeps, so that only
# the other can have done the work.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'needs /proc' if !-r '/proc/self/stat';

my $node = saga_cluster('main',
	conf => "autovacuum = off\nsaga.max_executors = 1\nsaga.executor_idle_timeout = 1h\nwal_level = replica\nmax_wal_senders = 1\n");
witness($node);
$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	GRANT USAGE ON SCHEMA saga TO alice, bob;
	GRANT pg_read_all_stats TO alice;
	CREATE FUNCTION failed(name text DEFAULT 'order') RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.start(name);
	BEGIN
		PERFORM saga.step(id, 'a', compensation => 'SELECT witness.undo($1)', completed => true);
		PERFORM saga.step(id, 'b', compensation => 'SELECT witness.undo($1)');
		PERFORM saga.fail(id);
		RETURN id;
	END $$;
	CREATE FUNCTION held_up() RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.start('order');
	BEGIN
		PERFORM saga.step(id, 'a', compensation => 'SELECT witness.undo($1) FROM pg_advisory_xact_lock_shared(59)');
		PERFORM saga.fail(id);
		RETURN id;
	END $$;});

# Stopped while it waits for its latch, so that it holds no lock
sub held
{
	my ($pid) = @_;
	for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		kill('STOP', $pid) or die "cannot stop $pid";
		# (The kernel stops it a little later, perhaps.)
		usleep(1000) until slurp_file("/proc/$pid/stat") =~ /^\d+ \(.*\) T /s;
		return if $node->safe_psql('postgres', "SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid") eq 't';
		kill('CONT', $pid);
		usleep(20_000);
	}
	die "$pid does not rest";
}

sub freed
{
	my (@pids) = @_;
	kill('CONT', @pids) == @pids or die "cannot continue @pids";
	return;
}

# The one executor of alice, with nothing in hand
sub idle_alice
{
	wait_state($node, sql_as($node, 'alice', 'SELECT failed()'), 'compensated');
	return idle_executor($node, 'alice');
}

# Everything that happened here was done once
sub undone_once
{
	my ($what, @sagas) = @_;
	my $list = join(',', map { "'$_'" } @sagas);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($node->safe_psql('postgres', qq{
		SELECT count(*), count(*) FILTER (WHERE outcome = 'succeeded') FROM saga.attempts
		WHERE phase = 'compensation' AND saga_id IN ($list)}),
		2 * @sagas . '|' . 2 * @sagas, $what);
}

my $worker = worker_pid($node);
my $executor = idle_alice();

# --- Without the worker

held($worker);
my @sagas = (sql_as($node, 'alice', 'SELECT failed()'));
wait_state($node, $sagas[0], 'compensated');
pass('an idle executor is handed what fails, while the worker stands still');
my $other = sql_as($node, 'bob', 'SELECT failed()');
is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$other'"),
	'compensating', 'which is not so for a role that has no executor');

# The first saga of a transaction is handed over; for the others, nobody is idle
held($executor);
my @three = split /\n/, sql_as($node, 'alice', 'SELECT failed() FROM generate_series(1, 3)');
freed($executor);
wait_state($node, $three[0], 'compensated');
is($node->safe_psql('postgres', qq{
	SELECT string_agg(state, ' ' ORDER BY id) FROM saga.sagas WHERE id IN ('$three[1]', '$three[2]')}),
	'compensating compensating', 'nor for the second and third saga of a transaction');

# What was rolled back is handed to nobody, and hurts nobody.
sql_as($node, 'alice', "BEGIN; SELECT failed(); ROLLBACK;
	BEGIN; SAVEPOINT s; SELECT failed(); ROLLBACK TO s; COMMIT");
freed($worker);
wait_state($node, $_, 'compensated') foreach $other, @three;
undone_once('each once', @sagas, $other, @three);

# --- An executor that leaves with a saga in its mailbox

$executor = idle_alice();
held($executor);
my $saga = sql_as($node, 'alice', 'SELECT failed()');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($executor)");
freed($executor);
wait_state($node, $saga, 'compensated');
undone_once('what a terminated executor was handed is done by another', $saga);
isnt(idle_alice(), $executor, 'in another process');

# --- The worker is told that one left while it waits for somebody's notification

$executor = idle_alice();
held($executor);
# The first is handed over, the second comes from the worker.
@sagas = (sql_as($node, 'alice', 'SELECT failed()'), sql_as($node, 'alice', 'SELECT failed()'));
wait_until($node, q{SELECT state = 'idle' AND wait_event = 'SagaWorker' OR wait_event = 'Extension'
	FROM pg_stat_activity WHERE backend_type = 'saga worker'});
# A commit that notifies holds back all others that do, for as long as it takes.
$node->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
$node->reload;
my $slow = session($node);
background($slow, 'BEGIN; CREATE TABLE slow (); NOTIFY slow; COMMIT');
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
$node->safe_psql('postgres', q{
	SET synchronous_commit = local;
	SELECT saga.complete(saga.begin('outside', announce => 'handover'))});
wait_until($node, q{SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE backend_type = 'saga worker'});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($executor)");
freed($executor);
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $executor");
$node->safe_psql('postgres', 'ALTER SYSTEM RESET synchronous_standby_names');
$node->reload;
$slow->quit;
wait_state($node, $_, 'compensated') foreach @sagas;
undone_once('it looks for what that one had', @sagas);

# --- A saga that was paused before the executor looked

$executor = idle_alice();
held($executor);
$saga = sql_as($node, 'alice', 'SELECT failed()');
sql_as($node, 'alice', "SELECT saga.pause('$saga', 'wait')");
freed($executor);
idle_alice();
is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$saga'"),
	'compensating', 'what was paused meanwhile stays as it is');
sql_as($node, 'alice', "SELECT saga.resume('$saga')");
wait_state($node, $saga, 'compensated');
undone_once('until it is resumed', $saga);

# --- A clock that is set back

SKIP:
{
	skip 'needs the test build', 1 if !is_test_build();
	$node->safe_psql('postgres', q{
		CREATE FUNCTION set_back_clock(interval) RETURNS void
			AS 'saga', 'saga_sql_test_set_back_clock' LANGUAGE C STRICT});
	$executor = idle_alice();
	held($executor);
	$saga = sql_as($node, 'alice', 'SELECT failed()');
	$node->safe_psql('postgres', "SELECT set_back_clock('3 s')");
	freed($executor);
	wait_state($node, $saga, 'compensated');
	undone_once('what is not due yet, by a clock that was set back, is done when it is', $saga);
}

# --- Several sagas of one transaction, and several executors

$node->safe_psql('postgres', 'ALTER SYSTEM SET saga.max_executors = 3');
$node->reload;
my $lock = session($node);
$lock->query_safe('SELECT pg_advisory_lock(59)');
@sagas = map { sql_as($node, 'alice', 'SELECT held_up()') } 1 .. 2;
wait_until($node, q{SELECT count(*) = 2 FROM pg_stat_activity
	WHERE backend_type = 'saga executor' AND usename = 'alice' AND wait_event = 'advisory'});
$lock->quit;
wait_state($node, $_, 'compensated') foreach @sagas;
my $idle = q{FROM pg_stat_activity WHERE backend_type = 'saga executor'
	AND usename = 'alice' AND query = 'saga: idle executor'};
wait_until($node, "SELECT count(*) = 2 $idle");
my @executors = split /\n/, $node->safe_psql('postgres', "SELECT pid $idle");
$worker = worker_pid($node);
held($_) foreach $worker, @executors;
@three = split /\n/, sql_as($node, 'alice', 'SELECT failed() FROM generate_series(1, 3)');
freed(@executors);
wait_state($node, $_, 'compensated') foreach @three[0, 1];
is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$three[2]'"),
	'compensating', 'each idle executor is handed one, and the worker keeps the rest');
freed($worker);
wait_state($node, $three[2], 'compensated');
undone_once('all of them once', @three);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($executors[0])");
wait_until($node, "SELECT count(*) = 1 $idle");

# --- A ledger that turns out to be a copy

$executor = idle_alice();
$node->safe_psql('postgres', 'UPDATE saga.ledger_saga SET name = name');
$saga = sql_as($node, 'alice', 'SELECT failed()');
wait_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $executor AND query = 'saga: idle executor'");
# Whatever either of them does about it, they have done it when they did this.
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type ~ '^saga (worker|executor)' AND state = 'active')});
is($node->safe_psql('postgres', "SELECT count(*) FROM saga.attempts WHERE phase = 'compensation' AND saga_id = '$saga'"),
	0, 'in a copy that nobody adopted, an executor does nothing of what it is handed');
$node->safe_psql('postgres', 'SELECT saga.adopt()');
wait_state($node, $saga, 'compensated');
undone_once('before somebody adopts it', $saga);

is($node->safe_psql('postgres', 'SELECT count(*) FROM witness.effect'),
	$node->safe_psql('postgres', q{SELECT count(*) FROM saga.attempts WHERE phase = 'compensation' AND outcome = 'succeeded'}),
	'every undo happened as often as the ledger says');
$node->stop;
done_testing();
