# Nobody who waits is forgotten: a database that waits for a worker, a role that
# waits for an executor.  What they wait for is an event, and whoever brings it
# about wakes them: nothing stands still until some time is over.
#
# Where an event must not get lost, a fault point lets it come at the worst
# moment, and what would be lost is waited for.  Where a pause must not come
# back, there would be many: they are counted, and a busy machine may have a few.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $roles = 40;
my @databases = qw(one two three four);
my $node = saga_cluster('main', databases => \@databases,
	conf => "autovacuum = off\nsaga.max_databases = 4\nsaga.executor_idle_timeout = '1h'\n");

sub settings
{
	$node->append_conf('postgresql.conf', join("\n", @_) . "\n");
	$node->reload;
	return;
}

# What the sagas of a database need
sub equip
{
	my ($database) = @_;
	$node->safe_psql($database, q{
		CREATE TABLE undone (key text, at timestamptz DEFAULT clock_timestamp());
		GRANT ALL ON undone TO public;
		GRANT USAGE ON SCHEMA saga TO public;
		CREATE PROCEDURE fail_of_each_role(from_role integer, to_role integer) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN from_role..to_role LOOP
				EXECUTE format('SET LOCAL ROLE role_%s', i);
				PERFORM public.failed(format('role %s, %s', i, pg_catalog.txid_current()));
				RESET ROLE;
			END LOOP;
		END $$;});
	create_failed($node, database => $database, compensation => q{$c$INSERT INTO public.undone VALUES ($1->'saga'->>'idempotency_key')$c$});
	return;
}

sub failed
{
	my ($database, $key, @compensation) = @_;
	return $node->safe_psql($database, 'SELECT failed(' . join(', ', map { "'$_'" } $key, @compensation) . ')');
}

sub undone
{
	my ($database, $saga, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(wait_state($node, $saga, 'compensated', $database), $what);
}

sub running
{
	my ($database, $saga) = @_;
	return wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga'", 't', $database);
}

sub wait_workers
{
	my ($expected) = @_;
	return wait_until($node, q{
		SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), '') FROM pg_stat_activity WHERE backend_type = 'saga worker'},
		$expected);
}

# Pauses between the undos in some databases: how many of 400 ms and more
sub pauses
{
	my @at = sort { $a <=> $b } map { split /\n/, $node->safe_psql($_, 'SELECT extract(epoch FROM at) FROM undone') } @_;
	my $count = grep { $at[$_] - $at[ $_ - 1 ] > 0.4 } 1 .. $#at;
	report(sprintf('%d undos in %.2f s, %d pauses', scalar @at, $at[-1] - $at[0], $count));
	return $count;
}

equip($_) foreach @databases;
$node->safe_psql('postgres', join(';', map { "CREATE ROLE role_$_ LOGIN" } 1 .. $roles));

# --- Databases that wait for a worker

if (is_test_build())
{
	# Nobody can be asked to leave but one that is still on its way.
	settings('saga.max_databases = 1');
	wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'saga worker'});
	set_faults($node, 'worker.before_attach=delay');
	foreach my $round (1 .. 3)
	{
		my %saga = map { $_ => failed($_, "round $round") } @databases;
		undone($_, $saga{$_}, "a worker that is still on its way is asked to leave as it comes, round $round, $_") foreach @databases;
	}
	set_faults($node, '');

	# Something comes up while a worker is on its way out: an executor that
	# could not do its saga, because somebody holds it.
	settings('saga.max_databases = 1');
	my $warm = failed('one', 'warm');
	undone('one', $warm, 'a worker is there');
	my $offset = log_offset($node);
	set_faults($node, 'executor.before_mark=wait');
	my $held = failed('one', 'held');
	wait_until($node, q{SELECT state = 'active' AND wait_event_type = 'Extension' FROM pg_stat_activity
		WHERE backend_type = 'saga executor' AND datname = 'one'});
	my $holder = session($node, database => 'one');
	$holder->query_safe("BEGIN; SELECT saga.pause('$held', 'now')");
	# From then on it does not keep its place for the sake of its executors.
	wait_until($node, q{SELECT backend_start < clock_timestamp() - interval '2 s' FROM pg_stat_activity
		WHERE backend_type = 'saga worker' AND datname = 'one'});
	set_faults($node, 'executor.before_mark=wait,worker.before_leave=wait');
	my $other = failed('two', 'other');
	wait_log($node, qr/waiting at fault point "worker\.before_leave"/, $offset);
	set_faults($node, 'worker.before_leave=wait');
	wait_until($node, q{SELECT state = 'idle' FROM pg_stat_activity WHERE backend_type = 'saga executor' AND datname = 'one'});
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	set_faults($node, '');
	undone('two', $other, 'the worker left');
	undone('one', $held, 'what it was told on its way out, the next one looks after');
}

# A worker that must look again every second is idle in between.
settings('saga.max_databases = 1');
$node->safe_psql('one', q{BEGIN; SELECT failed('prepared'); PREPARE TRANSACTION 'prepared'});
my $waited = 0;
foreach my $round (1 .. 6)
{
	wait_workers('one');
	$waited += $node->safe_psql('two', qq{
		SELECT clock_timestamp() AS begun \\gset
		SELECT failed('quick $round') AS id \\gset
		SELECT saga.wait(:'id') \\g /dev/null
		SELECT extract(epoch FROM clock_timestamp() - :'begun')});
}
report(sprintf('a worker slot, six times: %.2f s', $waited));
cmp_ok($waited, '<', 18, 'a database does not wait for the place of a worker that is idle now and then');
$node->safe_psql('one', q{ROLLBACK PREPARED 'prepared'});

# Whose executors work leaves only if there is no other.
settings('saga.max_databases = 2', "saga.databases = 'one, two'");
wait_workers('one two');
wait_until($node, q{SELECT max(backend_start) < clock_timestamp() - interval '2 s' FROM pg_stat_activity WHERE backend_type = 'saga worker'});
my ($first) = split /\n/, $node->safe_psql('postgres', q{SELECT datname FROM pg_stat_activity WHERE backend_type = 'saga worker' ORDER BY backend_start});
my $long = failed($first, 'long', 'SELECT pg_sleep(3600)');
running($first, $long);
my $pid = worker_pid($node, $first);
settings("saga.databases = 'one, two, three'");
undone('three', failed('three', 'beside'), 'a third database gets a worker');
is(worker_pid($node, $first), $pid, 'not the place of the one whose executor works');
$node->safe_psql($first, "SELECT saga.pause('$long', 'enough')");
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});

# Databases that could have no worker, and can again
settings('saga.max_databases = 4', "saga.databases = '*'");
wait_workers('four one three two');
$node->safe_psql('postgres', 'ALTER DATABASE four IS_TEMPLATE true');
wait_workers('one three two');
my $template = failed('four', 'template');
$node->safe_psql('postgres', 'ALTER DATABASE four IS_TEMPLATE false');
undone('four', $template, 'a database that is no template any more has its worker');

# --- Who waits for a saga that a prepared transaction completes.  (It looks by
#     itself after a minute.)

my $prepared = $node->safe_psql('one', q{SELECT saga.begin('order')});
$node->safe_psql('one', qq{BEGIN; SELECT saga.complete('$prepared'); PREPARE TRANSACTION 'completed'});
my $waiter = session($node, database => 'one');
background($waiter, qq{SELECT clock_timestamp() AS begun \\gset
	SELECT saga.wait('$prepared', '10 min', 'completed') || CASE WHEN clock_timestamp() - :'begun' < interval '50 s' THEN ' soon' ELSE ' late' END});
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^SELECT saga.wait' AND wait_event_type IN ('Extension', 'IPC')});
$node->safe_psql('one', q{COMMIT PREPARED 'completed'});
like($waiter->query("SELECT 'and on'"), qr/completed soon/, 'COMMIT PREPARED wakes who waits for the saga');

# --- Who waits for a step, which others complete: the application, and an action

my $holds = session($node, database => 'one');
$holds->query_safe('SELECT pg_advisory_lock(78)');
my $stepwise = $node->safe_psql('one', q{SELECT saga.begin('order') AS id \gset
	SELECT saga.step(:'id', 'by hand') \g /dev/null
	SELECT saga.step(:'id', 'held', after => '{}', action => 'SELECT pg_advisory_xact_lock_shared(78)') \g /dev/null
	SELECT :'id'});
foreach (
	[ 'by hand', sub { $node->safe_psql('one', "SELECT saga.complete_step('$stepwise', 'by hand')") } ],
	[ 'held', sub { $holds->query_safe('SELECT pg_advisory_unlock(78)') } ])
{
	my ($step, $complete) = @$_;
	background($waiter, qq{SELECT clock_timestamp() AS begun \\gset
		SELECT status || CASE WHEN clock_timestamp() - :'begun' < interval '50 s' THEN ' soon' ELSE ' late' END FROM saga.wait_step('$stepwise', '$step', '10 min')});
	wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'FROM saga.wait_step' AND wait_event_type IN ('Extension', 'IPC')
		AND pid <> pg_backend_pid()});
	$complete->();
	like($waiter->query("SELECT 'and on'"), qr/completed soon/, "who waits for the step \"$step\" is woken");
}
$holds->quit;
$waiter->quit;

# --- Roles that wait for an executor

settings('saga.max_executors = 2');
$node->safe_psql($_, 'TRUNCATE undone') foreach @databases;
$node->safe_psql('one', "CALL fail_of_each_role(1, $roles)");
wait_until($node, "SELECT count(*) = $roles FROM undone", 't', 'one');
cmp_ok(pauses('one'), '<', $roles / 8, 'a role that waits gets the place of one that is done at once');

$node->safe_psql($_, 'TRUNCATE undone') foreach @databases;
foreach my $i (0 .. 3)
{
	$node->safe_psql($databases[$i], sprintf('CALL fail_of_each_role(%d, %d)', $i * 10 + 1, $i * 10 + 10));
}
wait_until($node, 'SELECT count(*) = 10 FROM undone', 't', $_) foreach @databases;
cmp_ok(pauses(@databases), '<', $roles / 8, 'across databases, too');

settings('saga.max_databases = 2');
$node->safe_psql($_, 'TRUNCATE undone') foreach @databases;
foreach my $i (0 .. 3)
{
	$node->safe_psql($databases[$i], sprintf('CALL fail_of_each_role(%d, %d)', $i * 10 + 1, $i * 10 + 10));
}
wait_until($node, 'SELECT count(*) = 10 FROM undone', 't', $_) foreach @databases;
cmp_ok(pauses(@databases), '<', $roles / 8, 'and where the databases take turns');

# A role that has an executor takes the place of another's that became idle.
settings('saga.max_databases = 4');
my $lock = session($node, database => 'one');
$lock->query_safe('SELECT pg_advisory_lock(1)');
my $blocked = $node->safe_psql('one', q{SET ROLE role_1; SELECT failed('blocked', 'SELECT pg_advisory_xact_lock(1)')});
running('one', $blocked);
my $sleeps = $node->safe_psql('one', q{SET ROLE role_2; SELECT failed('sleeps', 'SELECT pg_sleep(3600)')});
running('one', $sleeps);
my $behind = $node->safe_psql('one', q{SET ROLE role_2; SELECT failed('behind it')});
$lock->query_safe('SELECT pg_advisory_unlock(1)');
undone('one', $blocked, 'one is done');
undone('one', $behind, 'and its place is taken by a role that has one, and work for two');
$lock->quit;

$node->stop('immediate');
done_testing();
