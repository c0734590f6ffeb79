# What was acknowledged survives whatever ends a process or the server, and
# what was not was never there.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "restart_after_crash = on\n");
witness($node);
my $undo = create_undone($node, 'SELECT witness.undo($1)');

sub record
{
	my ($key) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$key') AS id \\gset
		SELECT FROM saga.step(:'id', 'a', $undo) \\gset
		SELECT FROM saga.complete_step(:'id', 'a', '1') \\gset
		SELECT FROM saga.step(:'id', 'b', $undo) \\gset
		SELECT :'id'});
}

sub steps
{
	my ($id) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT state || ' ' || string_agg(key || ':' || status || coalesce(':' || output::text, ''), ' ' ORDER BY position)
		FROM saga.steps JOIN saga.sagas s ON s.id = saga_id WHERE saga_id = '$id' GROUP BY state});
}

# A backend killed; the server restarts its processes.
sub kill_backend
{
	my ($pid) = @_;
	my $offset = log_offset($node);
	kill 'KILL', $pid;
	wait_log($node, qr/database system is ready to accept connections/, $offset);
	# ... connections may come a moment later
	$node->poll_query_until('postgres', 'SELECT true');
}

# --- before the commit

my $open = record('open');
my $session = session($node);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
$session->query_safe(qq{BEGIN;
	SELECT saga.step('$open', 'c', $undo);
	SELECT saga.complete_step('$open', 'b', '2');
	SELECT saga.fail('$open');
	SELECT saga.begin('order', 'never')});
kill_backend($pid);
hang_up($session);
is(steps($open), 'running a:completed:1 b:started', 'killed before the commit: nothing of it is there');
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE idempotency_key = 'never'}), 0, 'nor a new saga');
is($node->safe_psql('postgres', "SELECT status FROM saga.complete_step('$open', 'b', '3')"), 'completed', 'and no lock is left');

# --- after the commit

$node->safe_psql('postgres', "SELECT saga.fail('$open')");
is($node->safe_psql('postgres', "SELECT saga.wait('$open')"), 'compensated', 'undone after the crash');
is(undone_steps($node, 'open'), 'b a', 'as it was recorded');

SKIP:
{
	skip 'needs the test build', 3 if !is_test_build();

	# between the commit and the wake-up
	my $id = record('not woken');
	my $offset = log_offset($node);
	$node->psql('postgres', qq{
		SET saga.test_faults = 'wakeup.after_commit=kill';
		SELECT saga.fail('$id')}, stderr => \my $err);
	like($err, qr/server closed the connection unexpectedly/, 'killed between commit and wake-up');
	wait_log($node, qr/database system is ready to accept connections/, $offset);
	$node->poll_query_until('postgres', 'SELECT true');
	wait_state($node, $id, 'compensated');
	is(undone_steps($node, 'not woken'), 'b a', 'undone all the same, once');
	is(steps($id), 'compensated a:completed:1 b:started', 'what was acknowledged is there');
}

# --- the whole server

foreach my $how ('immediate', 'kill', 'immediate')
{
	my $key = "server $how " . time . rand();
	my $id = record($key);
	my $kept = record("$key kept");
	my $many = $node->safe_psql('postgres', qq{
		SELECT saga.fail('$id');
		SELECT count(saga.fail(s)) FROM (SELECT saga.begin('many') AS s FROM generate_series(1, 20) OFFSET 0) b,
			LATERAL saga.step(s, 'x', compensation => 'INSERT INTO undone (saga, step) VALUES (''$key many'', ''x'')') t;});
	if ($how eq 'kill')
	{
		# Its children leave when they notice.
		my @children = split /\n/, $node->safe_psql('postgres',
			'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
		$node->kill9;
		for (my $i = 0; $i < 1000 && (kill 0, @children); $i++) { select(undef, undef, undef, 0.02); }
		is(scalar(kill 0, @children), 0, "$how: no process outlives the server");
		$node->start;
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	wait_state($node, $id, 'compensated');
	wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state = 'compensating'});
	is(undone_steps($node, $key), 'b a', "$how: undone, once");
	is($node->safe_psql('postgres', "SELECT count(*) FROM undone WHERE saga = '$key many'"), 20, "$how: every one of many, once");
	is(steps($kept), 'running a:completed:1 b:started', "$how: what was recorded is there");
	is($node->safe_psql('postgres', "SELECT status, output, attempt FROM saga.step('$kept', 'a', $undo)"), 'completed|1|1',
		"$how: a rerun uses the stored output");
	is($node->safe_psql('postgres', "SELECT status, attempt FROM saga.step('$kept', 'b', $undo)"), 'started|2',
		"$how: and makes another attempt of what was open");
	my $new = record("$key new");
	cmp_ok($node->safe_psql('postgres', "SELECT min(seq) FROM saga.steps WHERE saga_id = '$new'"), '>',
		$node->safe_psql('postgres', "SELECT max(seq) FROM saga.steps WHERE saga_id <> '$new'"), "$how: the start order goes on");
	guarantees($node);
}

# Failed while nobody undoes, then a crash, then somebody does
$node->append_conf('postgresql.conf', 'saga.enabled = off');
$node->reload;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('saga worker', 'saga executor')});
my $later = record('later');
$node->safe_psql('postgres', "SELECT saga.fail('$later')");
$node->stop('immediate');
$node->append_conf('postgresql.conf', 'saga.enabled = on');
$node->start;
wait_state($node, $later, 'compensated');
is(undone_steps($node, 'later'), 'b a', 'found by whoever comes up');

guarantees($node);
$node->stop;
done_testing();
