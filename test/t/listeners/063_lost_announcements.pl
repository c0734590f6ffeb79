# Announcements: each state that a saga reaches after running is told, in order,
# by the worker and by nobody else, when it is committed and on disk, whatever
# fails or crashes meanwhile.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use JSON::PP;
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main',
	conf => "restart_after_crash = on\nautovacuum = off\nmax_prepared_transactions = 50\nsaga.review_channel = 'reviews'\nwal_writer_delay = 10s\nlog_statement = none\n");
$node->safe_psql('postgres', q{
	CREATE FUNCTION make(key text, compensation text DEFAULT NULL, review text DEFAULT NULL, notify text DEFAULT NULL,
		pivot boolean DEFAULT false, timeout interval DEFAULT NULL, completed boolean DEFAULT true) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key, announce => 'states', timeout => timeout);
	BEGIN
		PERFORM saga.step(id, 'nothing', completed => true);
		IF coalesce(compensation, review, notify) IS NOT NULL THEN
			PERFORM saga.step(id, 'something', compensation => compensation, review => review, notify => notify,
				completed => completed, compensation_retry => saga.retry_policy(max_attempts => 1));
		END IF;
		IF pivot THEN
			PERFORM saga.step(id, 'pivot', kind => 'pivot', completed => true);
		END IF;
		RETURN id;
	END $$;});

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub make
{
	my ($key, $arguments) = @_;
	return sql("SELECT make('$key', $arguments)");
}

my @channels = qw(states reviews);
my $listener = listen_to($node, @channels);

# What was told of a saga
sub states
{
	my ($id) = @_;
	return join(' ', map { /"state":"(\w+)"/ } grep { /^states\|.*$id/ } heard($listener));
}

sub wait_states
{
	my ($id, $expected, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($last) = $expected =~ /(\w+)$/;

	wait_heard($listener, qr/^states\|.*$id.*"$last"/);
	wait_state($node, $id, $last);
	is(states($id), $expected, "$what: $expected");
	return;
}

# --- Every way to go

my $undone = q{compensation => 'SELECT 1'};
my @ways = (
	[ 'completed', 'NULL', 'complete', 'completed' ],
	[ 'nothing to undo', 'NULL', 'fail', 'compensated' ],
	[ 'undone', $undone, 'fail', 'compensating compensated' ],
	[ 'cancelled', $undone, 'cancel', 'compensating compensated' ],
	[ 'cancelled, nothing to undo', 'NULL', 'cancel', 'compensated' ],
	[ 'timed out', "$undone, timeout => '10 ms'", undef, 'compensating compensated' ],
	[ 'timed out, nothing to undo', "timeout => '10 ms'", undef, 'compensated' ],
	[ 'parked', q{compensation => 'SELECT 1/0'}, 'fail', 'compensating needs_review' ],
	[ 'reviewed', q{review => 'look'}, 'fail', 'compensating needs_review' ],
	[ 'pivot', "$undone, pivot => true", 'fail', 'needs_review' ],
	[ 'pivot, timed out', "$undone, pivot => true, timeout => '10 ms'", undef, 'needs_review' ]);
foreach my $way (@ways)
{
	my ($key, $arguments, $call, $expected) = @$way;
	my $id = make($key, $arguments);
	sql("SELECT saga.$call('$id')") if defined $call;
	wait_states($id, $expected, $key);
}

# In one go: begun and over in a transaction that no other sees in between
my $short = sql(q{SELECT s FROM saga.begin('order', 'short', announce => 'states') s, LATERAL saga.step(s, 'a', completed => true), LATERAL saga.complete(s)});
wait_states($short, 'completed', 'in one statement');

# Through a listener's hands
my $claimed = make('claimed', q{notify => 'tasks'});
sql("SELECT saga.fail('$claimed')");
wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue WHERE channel = 'tasks'});
is(states($claimed), 'compensating', 'a step is dispatched when its saga\'s state has been told');
sql(q{SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('tasks')});
wait_states($claimed, 'compensating compensated', 'by a listener');
my $refused = make('refused', q{notify => 'tasks'});
sql("SELECT saga.fail('$refused')");
wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue WHERE channel = 'tasks'});
my $key = sql(q{SELECT compensation_key FROM saga.claim_compensations('tasks')});
sql("SELECT saga.fail_compensation('$key', 1, 'no', retryable => false)");
wait_states($refused, 'compensating needs_review', 'refused by a listener');
sql("SELECT saga.complete_compensation('$key')");
wait_states($refused, 'compensating needs_review compensated', 'and done after all');

# A result that comes too late
my $late = make('late', "$undone, completed => false");
sql("SELECT saga.fail('$late'); SELECT saga.wait('$late')");
sql(qq{SELECT saga.complete_step('$late', 'something', '1', late => 'record')});
wait_states($late, 'compensating compensated needs_review', 'a late result');

# Those who review are told of what is parked, whoever else is.
my $silent = sql(q{
	SELECT saga.begin('order', 'silent') AS id \gset
	SELECT saga.step(:'id', 'a', review => 'look') \gset s
	SELECT saga.fail(:'id') \gset
	SELECT :'id'});
wait_heard($listener, qr/^reviews\|.*$silent/);
wait_state($node, $silent, 'needs_review');
my %reviews;
foreach my $line (grep { /^reviews\|/ } heard($listener))
{
	my $told = decode_json((split /\|/, $line)[1]);
	$reviews{"$told->{saga_id} $told->{state}"}++;
}
is(join("\n", map { "$_ $reviews{$_}" } sort keys %reviews),
	sql(q{SELECT DISTINCT saga_id || ' needs_review 1' FROM saga.events WHERE event = 'parked' ORDER BY 1}), 'who reviews is told of each, once');

# What is told, and by whom
my @heard = heard($listener);
is(join(' ', sort keys %{ decode_json((split /\|/, $heard[0])[1]) }), 'event saga_id state', 'ids and states, and nothing more');
my %pids = map { (split /\|/)[2] => 1 } @heard;
is(join(' ', keys %pids), worker_pid($node), 'it is the worker that tells');
is(sql(q{SELECT count(*) FROM saga.ledger_saga WHERE to_announce IS NOT NULL}), 0, 'nothing is left to tell');

# --- Never in the application's transaction

my %call = (
	complete => 'NULL', fail => $undone, cancel => $undone);
foreach my $call (sort keys %call)
{
	my $id = make("prepared $call", $call{$call});
	my $back = make("rolled back $call", $call{$call});
	# NOTIFY cannot be prepared.
	sql("BEGIN; SELECT saga.$call('$_'); PREPARE TRANSACTION '$_'") foreach $id, $back;
	my $whole = sql(qq{
		BEGIN;
		SELECT saga.begin('order', 'whole $call', announce => 'states') AS id \\gset
		SELECT saga.$call(:'id') \\gset
		PREPARE TRANSACTION 'whole $call';
		SELECT :'id'});
	is(states($_), '', "$call, prepared: nothing is told yet") foreach $id, $whole;
	sql("ROLLBACK PREPARED '$back'");
	sql("COMMIT PREPARED '$_'") foreach $id, "whole $call";
	wait_states($id, $call eq 'complete' ? 'completed' : 'compensating compensated', "$call, then committed");
	wait_states($whole, $call eq 'complete' ? 'completed' : 'compensated', "the whole with $call");
	is(states($back), '', "$call, then rolled back: nothing is told");
}
{
	my %saga = map { my $id = make($_, q{notify => 'tasks'}); sql("SELECT saga.fail('$id')"); $_ => $id } 'one', 'two';
	wait_until($node, q{SELECT count(*) = 2 FROM saga.ledger_queue WHERE channel = 'tasks'});
	sql(q{BEGIN; SELECT count(*) FROM saga.claim_compensations('tasks', 2, consumer => 'prepared'); PREPARE TRANSACTION 'claim'});
	is(sql(q{SELECT count(*) FROM saga.claim_compensations('tasks', 2)}), 0, 'a claim, prepared: nobody else has it');
	sql(q{COMMIT PREPARED 'claim'});
	is(sql(q{SELECT count(*) FROM saga.pending_compensations WHERE consumer = 'prepared' AND attempt = 1}), 2, 'then committed: it holds');
	my %key = map { (split /\|/) } split /\n/, sql(q{SELECT saga_id, compensation_key FROM saga.pending_compensations});
	sql("BEGIN; SELECT saga.complete_compensation('$key{$saga{one}}'); PREPARE TRANSACTION 'done'");
	sql("BEGIN; SELECT saga.fail_compensation('$key{$saga{two}}', 1, 'no', false); PREPARE TRANSACTION 'failed'");
	sql(q{COMMIT PREPARED 'done'; COMMIT PREPARED 'failed'});
	wait_states($saga{one}, 'compensating compensated', 'reported done, prepared');
	wait_states($saga{two}, 'compensating needs_review', 'reported failed, prepared');
}
# The lease of a prepared claim: nobody tells the worker when it ends.
{
	my $id = make('prepared lease', q{notify => 'tasks'});
	sql("SELECT saga.fail('$id')");
	wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue WHERE channel = 'tasks'});
	sql(q{BEGIN; SELECT count(*) FROM saga.claim_compensations('tasks', lease => '10 s'); PREPARE TRANSACTION 'lease'});
	sql(q{COMMIT PREPARED 'lease'});
	is(sql("SELECT count(*) FROM saga.pending_compensations WHERE saga_id = '$id' AND lease_until > now()"), 1, 'a prepared claim, committed');
	wait_states($id, 'compensating needs_review', 'ends with its lease');
}
# A claim and its report in a transaction that began before
{
	my $id = make('one transaction', q{notify => 'tasks'});
	sql("SELECT saga.fail('$id')");
	wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue WHERE channel = 'tasks'});
	my $session = session($node);
	$session->query_safe(q{BEGIN; SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('tasks')});
	is(states($id), 'compensating', 'reported done, not committed: nothing is told');
	$session->query_safe('COMMIT');
	$session->quit;
	wait_states($id, 'compensating compensated', 'and committed');
}
my %after = map { (split /\|/)[2] => 1 } heard($listener);
is(join(' ', keys %after), worker_pid($node), 'it is still only the worker that tells');

# --- Through restarts, and wherever the worker fails

# Three sagas; one of them goes through two states before anybody looks.
sub happen
{
	my ($name) = @_;
	my %id = map { $_ => make("$name $_", $_ eq 'undone' ? $undone : 'NULL') } qw(completed undone);
	$id{late} = sql(qq{
		SELECT saga.begin('order', '$name late', announce => 'states') AS id \\gset
		SELECT saga.step(:'id', 'a', compensate_on => 'completed', compensation => 'SELECT 1') \\gset s
		SELECT :'id'});
	sql(qq{
		SELECT saga.complete('$id{completed}');
		SELECT saga.fail('$id{undone}');
		SELECT saga.fail('$id{late}');
		SELECT saga.complete_step('$id{late}', 'a', '1', late => 'record')});
	return \%id;
}

my %expected = (completed => 'completed', undone => 'compensating compensated', late => 'compensated needs_review');
sub check_told
{
	my ($name, $id, $lossy) = @_;
	foreach my $kind (sort keys %expected)
	{
		my ($last) = $expected{$kind} =~ /(\w+)$/;
		wait_state($node, $id->{$kind}, $last);
		wait_until($node, "SELECT to_announce IS NULL FROM saga.ledger_saga WHERE id = '$id->{$kind}'");
		my $states = states($id->{$kind});
		# At least once: what is repeated is repeated as a whole.
		1 while $states =~ s/\b(\w+(?: \w+)?) \1\b/$1/;
		if ($lossy) { like($expected{$kind}, qr/^(?:.* )?\Q$states\E$|^$/, "$name: $kind: told at most this, in order: $states"); }
		else { is($states, $expected{$kind}, "$name: $kind: $states"); }
	}
	return;
}

foreach my $how (qw(fast immediate))
{
	halt_worker($node);
	my $id = happen("$how restart");
	is(states($_), '', "$how restart: nothing is told yet") foreach sort values %$id;
	$node->restart if $how eq 'fast';
	if ($how eq 'immediate') { $node->stop('immediate'); $node->start; }
	$listener = listen_again($node, $listener, @channels);
	set_faults($node, '');
	check_told("$how restart", $id);
}
foreach my $point (qw(worker.before_turn notify.before_queue worker.before_commit worker.after_commit))
{
	foreach my $action (qw(error fatal kill))
	{
		my $name = "$point=$action";
		halt_worker($node);
		my $id = happen($name);
		# The listener is back before the worker.
		set_faults($node, "$name once" . ($action eq 'kill' ? ',worker.before_turn=wait after' : ''));
		wait_struck($node);
		if ($action eq 'kill')
		{
			wait_server($node);
			$listener = listen_again($node, $listener, @channels);
		}
		set_faults($node, '');
		# What was committed as the server crashed may not have come through.
		check_told($name, $id, $name eq 'worker.after_commit=kill');
	}
}
is(sql(q{SELECT count(*) FROM saga.ledger_saga WHERE to_announce IS NOT NULL}), 0, 'nothing is left to tell');
guarantees($node);

# --- On disk before it is told, whatever is set

$node->append_conf('postgresql.conf', 'synchronous_commit = off');
sql(q{
	ALTER DATABASE postgres SET synchronous_commit = off;
	ALTER ROLE ALL SET synchronous_commit = off;
	ALTER ROLE ALL IN DATABASE postgres SET synchronous_commit = off});
sql(qq{ALTER ROLE "@{[ sql('SELECT current_user') ]}" SET synchronous_commit = off});
$node->restart;
is(sql('SHOW synchronous_commit'), 'off', 'nobody waits for the disk');

# Does a crash lose what is committed then?  It does, or all of this proves nothing.
sql('CREATE TABLE lost (n int); SELECT pg_switch_wal()');
sql('INSERT INTO lost VALUES (1)');
$node->stop('immediate');
$node->start;
is(sql('SELECT count(*) FROM lost'), 0, 'a crash loses what is committed like that');

foreach my $n (1 .. 2)
{
	foreach my $kind (qw(dispatched forgotten compensating compensated completed))
	{
		my $what = "told, then a crash: $kind";
		my $wanted = $kind =~ /dis|for/ ? qr/"event":"compensate"/ : qr/"state":"$kind"/;
		my $id = sql(qq{
			SELECT saga.begin('order', '$what $n', announce => @{[ $kind =~ /dis|for/ ? 'NULL' : "'told'" ]}) AS id \\gset
			SELECT saga.step(:'id', 'a', @{[ $kind =~ /dis|for/ ? "notify => 'told'" : "compensation => 'SELECT 1'" ]},
				acknowledge => @{[ $kind eq 'forgotten' ? 'false' : 'true' ]}, completed => true) \\gset s
			SELECT :'id'});
		my $told = listen_to($node, 'told');
		my $call = $kind eq 'completed' ? 'complete' : 'fail';
		sql("SELECT saga.$call('$id')");
		wait_heard($told, qr/$id/);
		wait_heard($told, qr/$id.*$wanted/) if $kind eq 'compensated';
		$node->stop('immediate');
		hang_up($told);
		# So that it does not go on before we look
		$node->append_conf('postgresql.conf', 'saga.enabled = off');
		$node->start;
		my ($state, $left, $status) = split /\|/, sql(qq{
			SELECT saga.internal_state(state), to_announce, comp_status FROM saga.ledger_saga s JOIN saga.ledger_step t ON t.saga = s.id WHERE id = '$id'});
		my %stands = (
			dispatched => $state eq 'compensating' && $status eq 'd',
			forgotten => $state eq 'compensated' && $status eq 'c',
			compensating => $state eq 'compensating' && $left eq '' || $state eq 'compensated',
			compensated => $state eq 'compensated' && $left eq '',
			completed => $state eq 'completed' && $left eq '');
		ok($stands{$kind}, "$what: it stands") or diag("$state, left to tell: $left, step: $status");
		$node->append_conf('postgresql.conf', 'saga.enabled = on');
		$node->reload;
		if ($kind eq 'dispatched')
		{
			wait_until($node, q{SELECT count(saga.complete_compensation(compensation_key)) = 1 FROM saga.claim_compensations('told')});
		}
		wait_state($node, $id, $kind eq 'completed' ? 'completed' : 'compensated');
	}
}
guarantees($node);

hang_up($listener);
$node->stop;
done_testing();
