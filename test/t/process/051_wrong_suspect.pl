# Who is to blame for a crash: only SQL that was running then.  Suspects run
# alone, one that was alone at three crashes is parked, and nobody else is
# charged for it; a shutdown, a terminated or cancelled executor accuse nobody.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\n");
witness($node, sql => 'SELECT pass(%');
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	GRANT USAGE ON SCHEMA saga TO app;
	CREATE TABLE effects (n serial, saga text);
	CREATE TABLE gate (name text, closed boolean);
	GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
	GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;
	-- Waits at a closed gate
	CREATE FUNCTION pass(gate_name text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM witness.undo(context);
		INSERT INTO effects (saga) VALUES (context->'saga'->>'idempotency_key');
		IF EXISTS (SELECT FROM gate WHERE name = gate_name AND closed) THEN
			PERFORM pg_sleep(3600);
		END IF;
		PERFORM pg_sleep(0.1);
	END $$;});
# A saga of one step, failed at once
create_failed($node, retry => q{saga.retry_policy(max_attempts => 2, delay => '10 ms')});

sub failed
{
	my ($key, $sql, $user) = @_;
	return sql_as($node, $user // 'app', qq{SELECT failed('$key', \$\$$sql\$\$)});
}

# So many executors are running SQL
sub wait_running
{
	my ($count) = @_;
	wait_until($node, "SELECT count(*) = $count FROM saga.steps WHERE compensation_status = 'running'");
	return;
}

sub gate
{
	my ($name, $closed) = @_;
	$node->safe_psql('postgres', "DELETE FROM gate WHERE name = '$name'; INSERT INTO gate VALUES ('$name', $closed)");
	return;
}

# --- An executor that is told to leave, or whose statement is cancelled

gate('a', 'true');
my $saga = failed('terminated', q{SELECT pass('a', $1)});
wait_running(1);
my ($pid) = executor_pids($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_until($node, "SELECT compensation_status = 'running' AND compensation_attempts = 1 FROM saga.steps WHERE saga_id = '$saga'");
is(outcomes_of($node, 'terminated'), 'interrupted', 'a terminated executor: the attempt is interrupted, and made again');
($pid) = executor_pids($node);
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
wait_until($node, "SELECT compensation_status = 'running' AND compensation_attempts = 2 FROM saga.steps WHERE saga_id = '$saga'");
is(outcomes_of($node, 'terminated'), 'interrupted interrupted', 'so is a cancelled one');
is((executor_pids($node))[0], $pid, 'by the same executor');

# --- Shutdowns

foreach my $mode (qw(fast immediate))
{
	my $before = outcomes_of($node, 'terminated');
	$node->restart if $mode eq 'fast';
	if ($mode eq 'immediate') { $node->stop('immediate'); $node->start; }
	wait_running(1);
	is(outcomes_of($node, 'terminated'), "$before interrupted", "$mode stop: interrupted, and made again");
}
is($node->safe_psql('postgres', "SELECT coalesce(comp_crashes, -1), coalesce(comp_charged, 0) FROM saga.ledger_step WHERE saga = '$saga'"),
	'-1|0', 'nobody is accused, nothing is charged');
gate('a', 'false');
($pid) = executor_pids($node);
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
wait_state($node, $saga, 'compensated');
is(outcomes_of($node, 'terminated'), 'interrupted interrupted interrupted interrupted interrupted succeeded',
	'in the end it succeeds, with a policy of two attempts');
is($node->safe_psql('postgres', "SELECT count(*) FROM effects WHERE saga = 'terminated'"), 1, 'once');

# --- One that kills its own server process, beside innocent ones

gate('b', 'true');
failed("innocent $_", q{SELECT pass('b', $1)}) foreach 1 .. 3;
wait_running(2);
# Whoever runs again passes.
gate('b', 'false');
# One of the two executors changes over to the role with the poison.
my $offset = log_offset($node);
my $poison = failed('poison', q{COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'}, $node->safe_psql('postgres', 'SELECT current_user'));
$node->safe_psql('postgres', q{
	SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor' AND usename = 'app' LIMIT 1});
wait_log($node, qr/all server processes terminated; reinitializing/, $offset);
$node->poll_query_until('postgres', 'SELECT true');
wait_state($node, $poison, 'needs_review');
is($node->safe_psql('postgres', qq{
	SELECT compensation_status, parked FROM saga.steps WHERE saga_id = '$poison'}),
	'failed|the server crashed 3 times while nothing but this compensation ran', 'the poison is parked, with the reason');
like($node->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$poison'"), qr/crashed 3 times/,
	'which its next action says');
like(outcomes_of($node, 'poison'), qr/^interrupted interrupted interrupted( interrupted)?$/, 'its attempts were interrupted');
my $crashes = () = PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset) =~ /terminated by signal 9/g;
is($crashes, scalar(split / /, outcomes_of($node, 'poison')), 'one crash for each of them');
wait_state($node, $_, 'compensated') foreach split /\n/,
	$node->safe_psql('postgres', q{SELECT id FROM saga.sagas WHERE idempotency_key LIKE 'innocent%'});
is($node->safe_psql('postgres', q{SELECT saga, count(*) FROM effects WHERE saga LIKE 'innocent%' GROUP BY saga ORDER BY saga}),
	"innocent 1|1\ninnocent 2|1\ninnocent 3|1", 'the innocent ones are compensated, once');
is($node->safe_psql('postgres', q{
	SELECT key, comp_charged FROM saga.ledger_step WHERE coalesce(comp_charged, 0) <> 0}), '', 'nobody is charged');
is(failed('later', q{SELECT pass('b', $1)}) ne '' && $node->safe_psql('postgres', q{
	SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key = 'later'}), 'compensated', 'and work goes on');

# --- A crash that has nothing to do with the SQL that was running, again and again

gate('c', 'true');
failed("bystander $_", q{SELECT pass('c', $1)}) foreach 1, 2;
wait_running(2);
gate('c', 'false');
$offset = log_offset($node);
my $victim = session($node);
kill 'KILL', $victim->query_safe('SELECT pg_backend_pid()');
wait_log($node, qr/all server processes terminated; reinitializing/, $offset);
hang_up($victim);
$node->poll_query_until('postgres', 'SELECT true');
failed("bystander $_", q{SELECT pass('c', $1)}) foreach 3 .. 6;
wait_until($node, q{SELECT count(*) = 6 FROM saga.sagas WHERE idempotency_key LIKE 'bystander%' AND state = 'compensated'});
is(join(', ', map { outcomes_of($node, "bystander $_") } 1 .. 6),
	'interrupted succeeded, interrupted succeeded, succeeded, succeeded, succeeded, succeeded', 'what was running is interrupted');
is($node->safe_psql('postgres', q{
	SELECT suspect.idempotency_key, other.idempotency_key
	FROM saga.sagas suspect JOIN saga.attempts a ON a.saga_id = suspect.id
		JOIN saga.attempts b ON b.saga_id <> a.saga_id AND b.started_at < a.finished_at AND b.finished_at > a.started_at
		JOIN saga.sagas other ON other.id = b.saga_id
	WHERE suspect.idempotency_key IN ('bystander 1', 'bystander 2') AND other.idempotency_key LIKE 'bystander%'
		AND a.phase = 'compensation' AND b.phase = 'compensation'
		AND a.outcome = 'succeeded' AND b.outcome = 'succeeded'}), '', 'and then runs alone');
is($node->safe_psql('postgres', q{
	SELECT saga, count(*) FROM effects WHERE saga LIKE 'bystander%' GROUP BY saga HAVING count(*) <> 1}), '', 'all once');
is($node->safe_psql('postgres', q{
	SELECT key, comp_charged FROM saga.ledger_step WHERE coalesce(comp_charged, 0) <> 0}), '', 'nobody is charged');

my @files = glob($node->data_dir . '/pg_stat_tmp/saga.*');
cmp_ok(scalar @files, '<=', 2, 'no file is left behind but those of executors that are there') or diag("@files");
guarantees($node);
$node->stop;
done_testing();
