# Our processes end, for whatever reason, and come back; are told to leave, and
# leave; and share out what there is too little of.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main',
	conf => "restart_after_crash = on\nautovacuum = off\nsaga.max_executors = 2\nsaga.executor_idle_timeout = 1h\nmax_worker_processes = 8\n");
witness($node);
$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE carol LOGIN;
	GRANT USAGE ON SCHEMA saga TO PUBLIC;
	CREATE TABLE undone (n serial, saga text);
	CREATE TABLE slow ();
	INSERT INTO slow DEFAULT VALUES;
	GRANT ALL ON undone, slow TO PUBLIC;
	GRANT ALL ON SEQUENCE undone_n_seq TO PUBLIC;});
create_failed($node, compensation => q{$c$INSERT INTO undone (saga) VALUES ($1->'saga'->>'idempotency_key'); SELECT witness.undo($1)$c$});

my $count = 0;
sub works
{
	my ($what, $user) = @_;
	my $key = 'key ' . ++$count;
	my $saga = sql_as($node, $user // 'alice', "SELECT failed('$key')");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_state($node, $saga, 'compensated');
	return is($node->safe_psql('postgres', "SELECT count(*) FROM undone WHERE saga = '$key'"), 1, $what);
}

# A compensation that runs until it is ended; with an id of that what
sub busy
{
	my ($key, $user) = @_;
	my $saga = sql_as($node, $user // 'alice', "SELECT failed('$key', 'SELECT pg_sleep(3600)')");
	wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga'");
	return $saga;
}

sub pid_of
{
	my ($type) = @_;
	wait_until($node, "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'saga $type'");
	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'saga $type' LIMIT 1");
}

works('at first');

# --- Ended, cancelled, asked to read the settings again

foreach my $type (qw(launcher worker executor))
{
	my $pid = pid_of($type);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	works("after SIGTERM of the $type");
	# (Another one may have done that before the signal was seen.)
	wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
	isnt(pid_of($type), $pid, 'which was replaced');
	$pid = pid_of($type);
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	works("after SIGINT of the $type");
	is(pid_of($type), $pid, 'which stays') if $type ne 'executor';
}
$node->reload for 1 .. 3;
works('after reloads');

# Both at once, and all of them again and again
my $offset = log_offset($node);
foreach (1 .. 3)
{
	$node->safe_psql('postgres', q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type LIKE 'saga%'});
	works('after SIGTERM of all');
}
no_log($node, qr/PANIC|TRAP|terminated by signal/, $offset, 'nothing crashed');

# What is logged of a compensation names it
{
	my $saga = sql_as($node, 'alice', q{SELECT failed('named', 'SELECT pg_sleep(600) WHERE ($1->>''attempt'')::integer = 1')});
	wait_until($node, "SELECT count(*) = 1 FROM saga.running WHERE saga_id = '$saga'");
	my $seq = $node->safe_psql('postgres', "SELECT seq FROM saga.steps WHERE saga_id = '$saga'");
	$offset = log_offset($node);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM saga.running WHERE saga_id = '$saga'");
	wait_log($node, qr/saga executor FATAL:  terminating .*\n(?:.*\n)??.*CONTEXT:  (?:.*\n\t)*?saga \Q$saga\E, step $seq\n\tsaga executor for database/, $offset);
	pass('the saga and the step, where their process ends');
	wait_state($node, $saga, 'compensated');
}

foreach my $type (qw(launcher worker executor))
{
	$offset = log_offset($node);
	kill 'KILL', pid_of($type);
	wait_log($node, qr/all server processes terminated; reinitializing/, $offset);
	$node->poll_query_until('postgres', 'SELECT true');
	works("after SIGKILL of the $type");
}

# --- Stops

my $saga = busy('stopped');
foreach my $mode (qw(fast smart))
{
	my $begun = time;
	# A smart stop waits for clients, of which there are none.
	$node->stop($mode);
	cmp_ok(time - $begun, '<=', 60, "$mode stop, busy, does not wait for what runs");
	$node->start;
	wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga'");
}
is($node->safe_psql('postgres', qq{
	SELECT string_agg(outcome, ' ') FROM saga.attempts WHERE saga_id = '$saga' AND phase = 'compensation'}),
	'interrupted interrupted', 'each is an interruption');
is($node->safe_psql('postgres', qq{
	SELECT coalesce(comp_charged, 0), coalesce(comp_crashes, -1) FROM saga.ledger_step WHERE saga = '$saga'}), '0|-1',
	'not charged, and nobody is accused');

# saga.enabled goes off while it runs: what is running is let run, and no more
my $pid = pid_of('executor');
$node->append_conf('postgresql.conf', 'saga.enabled = off');
$node->reload;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'saga worker'});
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'saga executor'});
$node->append_conf('postgresql.conf', "saga.enabled = on\nsaga.max_executors = 1");
$node->reload;

# --- Too few executors

wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga'");
my @others = map { sql_as($node, $_, "SELECT failed('other of $_')") } qw(alice bob carol);
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE idempotency_key LIKE 'other%' AND state = 'compensating'}), 3,
	'one executor, three roles: they wait');
like($node->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$others[1]'"), qr/executor is free/, 'and say for what');
# It is called again in a while; meanwhile the others have their turn.
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});
wait_state($node, $_, 'compensated') foreach @others[ 1, 2 ];
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});
wait_state($node, $others[0], 'compensated');
pass('each had its turn');

# A role with much to do keeps no other waiting.
$node->append_conf('postgresql.conf', 'saga.max_executors = 2');
$node->reload;
wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga'");
# (One of the two executors is held by a compensation that takes for ever.)
sql_as($node, 'bob', q{SELECT count(failed('many ' || n, 'SELECT pg_sleep(0.01) FROM slow')) FROM generate_series(1, 2000) n});
wait_until($node, q{SELECT count(*) > 0 FROM saga.sagas WHERE idempotency_key LIKE 'many%' AND state = 'compensated'});
wait_state($node, sql_as($node, 'carol', q{SELECT failed('hurried')}), 'compensated');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE idempotency_key LIKE 'many%' AND state = 'compensating'}), '>', 0,
	'one that comes later does not wait for 2,000 of another role');
$node->safe_psql('postgres', 'DELETE FROM slow');
wait_until($node, q{SELECT count(*) = 2000 FROM saga.sagas WHERE idempotency_key LIKE 'many%' AND state = 'compensated'});
# Another of the role that holds an executor for ever takes the idle one's place.
wait_state($node, sql_as($node, 'alice', q{SELECT failed('behind')}), 'compensated');
is($node->safe_psql('postgres', "SELECT compensation_status FROM saga.steps WHERE saga_id = '$saga'"), 'running',
	'an idle executor makes room at once');

# --- No place for a process

# The launcher, the worker, the server's own for replication: no place is left.
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$offset = log_offset($node);
$node->restart;
my $queued = sql_as($node, 'bob', q{SELECT failed('queued')});
my $acting = sql_as($node, 'bob', q{SELECT s FROM (SELECT s,
	saga.step(s, 'act', action => $c$INSERT INTO undone (saga) VALUES ('acting')$c$), saga.complete(s, when_done => true)
	FROM saga.begin('acting') AS s) x});
wait_log($node, qr/WARNING: .*out of background worker slots\n.*DETAIL: .*\n.*HINT: .*max_worker_processes/, $offset);
is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$queued'"), 'compensating', 'without a place, it waits');
like($node->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$queued'"),
	qr/as soon as (the server has room for a process \(max_worker_processes\)|this database has a worker)/, 'which its next action says');
is($node->safe_psql('postgres', "SELECT state || ' ' || status FROM saga.sagas s JOIN saga.steps t ON t.saga_id = s.id WHERE s.id = '$acting'"),
	'running waiting', 'so does an action');
like($node->safe_psql('postgres', "SELECT waits_for FROM saga.steps WHERE saga_id = '$acting'"),
	qr/^(an executor of role "bob"|a look at its gates), as soon as (the server has room for a process \(max_worker_processes\)|this database has a worker)/,
	'which its step says');
$node->safe_psql('postgres', 'SELECT pg_sleep(2.5)');
my $said = () = PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset) =~ /out of background worker slots/g;
is($said, 1, 'which is said once, with a hint');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
wait_state($node, $queued, 'compensated');
wait_state($node, $acting, 'completed');
is($node->safe_psql('postgres', "SELECT string_agg(outcome, ' ') FROM saga.attempts WHERE saga_id = '$queued' AND phase = 'compensation'"), 'succeeded',
	'and is done when there is one');

is($node->safe_psql('postgres', q{SELECT saga, count(*) FROM undone GROUP BY saga HAVING count(*) > 1}), '', 'everything once');
guarantees($node);
$node->stop;
done_testing();
