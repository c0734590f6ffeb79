# Claims under faults: whatever is killed in the middle of a claim or of a report,
# nothing is lost and nobody holds what another one holds; a lease that ends is
# charged, and a listener's absence is not.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\nlog_statement = none\n");
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE TABLE undone (n serial, saga text, step text);
	-- A saga whose last step is the listener's
	CREATE FUNCTION make(key text, channel text, retry saga.retry_policy DEFAULT saga.retry_policy(),
		on_failure text DEFAULT 'halt', acknowledge boolean DEFAULT true) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key, on_compensation_failure => on_failure);
	BEGIN
		PERFORM saga.step(id, 'first', compensation =>
			'INSERT INTO undone (saga, step) VALUES ($1->''saga''->>''idempotency_key'', $1->''step''->>''key'')');
		PERFORM saga.step(id, 'notify', notify => channel, acknowledge => acknowledge, compensation_retry => retry);
		RETURN id;
	END $$;});

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# What waits on a channel, by key; with a star, what somebody holds
sub waits
{
	my ($channel) = @_;
	return sql(qq{
		SELECT coalesce(string_agg(idempotency_key || CASE WHEN claimed_at IS NULL THEN '' ELSE '*' END, ' ' ORDER BY idempotency_key), '')
		FROM saga.pending_compensations p JOIN saga.sagas s ON s.id = saga_id
		WHERE channel = '$channel'});
}

sub wait_attempts
{
	my ($key, $attempts) = @_;
	return wait_until($node, qq{
		SELECT compensation_attempts = $attempts FROM saga.steps JOIN saga.sagas s ON s.id = saga_id
		WHERE idempotency_key = '$key' AND channel IS NOT NULL});
}

# The key, the number of the attempt, and the handle
sub claim
{
	my ($channel, $consumer, $lease) = @_;
	$lease //= '1 hour';
	return split /\|/, sql(qq{
		SELECT context->'saga'->>'idempotency_key', attempt, compensation_key
		FROM saga.claim_compensations('$channel', 1, '$lease', '$consumer')});
}

# --- Killed in the middle of a claim, and of a report

# The session's server process, and with it every other
sub kill_session
{
	my ($session) = @_;
	my $offset = log_offset($node);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	kill 'KILL', $pid;
	wait_lines($node, qr/\(PID $pid\) was terminated by signal 9/, $offset);
	hang_up($session);
	wait_server($node);
	return;
}

sql(qq{SELECT saga.fail(make('killed', 'kills'))});
wait_queued($node, 'kills', 1);
my $session = session($node);
like($session->query_safe(q{BEGIN; SELECT attempt, compensation_key FROM saga.claim_compensations('kills')}), qr/^1\|/, 'claimed');
kill_session($session);
is(waits('kills'), 'killed', 'killed before the claim was committed: it waits');
is(claims_of($node, 'killed'), '', 'and there was no attempt');

my (undef, $attempt, $key) = claim('kills', 'one');
is($attempt, 1, 'the first attempt is the next claim');
is(join('', claim('kills', 'two')), "", 'which nobody else has');
$session = session($node);
is($session->query_safe("BEGIN; SELECT saga.complete_compensation('$key')"), "compensated", 'reported done');
kill_session($session);
is(claims_of($node, 'killed'), '1: open one', 'killed before the report was committed: the attempt goes on');
is(waits('kills'), 'killed*', 'and is held');
$session = session($node);
is($session->query_safe("BEGIN; SELECT saga.fail_compensation('$key', 1, 'no')"), "pending", 'reported failed');
kill_session($session);
is(claims_of($node, 'killed'), '1: open one', 'the same for a failure');
$node->stop('immediate');
$node->start;
is(claims_of($node, 'killed'), '1: open one', 'and over a crash of the server');
$node->restart;
is(sql("SELECT saga.complete_compensation('$key')"), 'compensated', 'and an orderly restart');
is(claims_of($node, 'killed'), '1: succeeded one', 'it was one attempt');
wait_state($node, saga_id($node, 'killed'), 'compensated');

sql(q{SELECT saga.fail(make('told nobody', 'tells', saga.retry_policy(delay => '10 ms', jitter => 0)))});
wait_queued($node, 'tells', 1);
killed_after_commit($node, q{SELECT saga.claim_compensations('tells', 1, '300 ms', 'lost')});
wait_queued($node, 'tells', 1);
is(claims_of($node, 'told nobody'), '1: timed out lost', 'a claim that nobody knows of ends with its lease');
(undef, $attempt, $key) = claim('tells', 'two');
is($attempt, 2, 'the next is attempt 2');
killed_after_commit($node, "SELECT saga.fail_compensation('$key', 2, 'no')");
wait_queued($node, 'tells', 1);
(undef, $attempt, $key) = claim('tells', 'three');
killed_after_commit($node, "SELECT saga.complete_compensation('$key')");
is(sql("SELECT saga.complete_compensation('$key')"), 'compensated', 'a report that was committed is repeated in vain');
is(claims_of($node, 'told nobody'), '1: timed out lost, 2: failed two, 3: succeeded three', 'the history has it all');
wait_state($node, saga_id($node, 'told nobody'), 'compensated');
guarantees($node);


# --- The end of a lease, on the virtual clock (which a crash would turn back)

my $listener = listen_to($node, qw(leases away late));

# When the worker has told this, it has done all that was due before.
my $witness = 0;
sub look_twice
{
	for (1 .. 2)
	{
		$witness++;
		my $id = sql("SELECT make('witness $witness', 'late', acknowledge => false)");
		sql("SELECT saga.fail('$id')");
		wait_heard($listener, qr/^late\|.*$id/);
	}
	return;
}

sub told
{
	my ($channel) = @_;
	return scalar(grep { /^$channel\|/ } heard($listener));
}

my $policy = q{saga.retry_policy(max_attempts => 3, delay => '10 min', backoff => 'constant', jitter => 0, timeout => '2 hours')};
sql("SELECT saga.fail(make('leased', 'leases', $policy)), saga.fail(make('goes on', 'leases', $policy, 'continue'))");
wait_heard($listener, qr/^leases\|.*@{[ saga_id($node, $_) ]}/) foreach 'leased', 'goes on';
my %key;
for (1 .. 2)
{
	my ($saga, $n, $k) = claim('leases', 'slow', '1 hour');
	is($n, 1, "$saga: the first attempt");
	$key{$saga} = $k;
}
advance_clock($node, '59 min');
look_twice();
my $before = told('leases');
is(waits('leases'), 'goes on* leased*', 'before the end of its lease, a step is held');
is(claims_of($node, 'leased'), '1: open slow', 'by an attempt that goes on');
like(sql(q{SELECT next_action FROM saga.sagas WHERE idempotency_key = 'leased'}), qr/slow/, 'the next action names who');
advance_clock($node, '2 min');
wait_attempts($_, 1) foreach sort keys %key;
is(claims_of($node, 'leased'), '1: timed out slow', 'its end is a timeout');
is(sql(q{SELECT comp_charged FROM saga.ledger_step WHERE channel = 'leases' GROUP BY 1}), 1, 'which is charged');
is(join('', claim('leases', 'x')), '', 'it is not to be had before its next attempt');
is(waits('leases'), 'goes on leased', 'but shown meanwhile');
is(told('leases'), $before, 'nobody is told meanwhile');
like(sql(q{SELECT next_attempt_at - finished_at FROM saga.steps JOIN saga.attempts a USING (saga_id, seq)
	WHERE saga_id = (SELECT id FROM saga.sagas WHERE idempotency_key = 'leased') AND phase = 'compensation'}),
	qr/^00:10:00$/, 'that is when the policy says');
advance_clock($node, '9 min');
look_twice();
is(told('leases'), $before, 'not before');
advance_clock($node, '1 min');
wait_heard($listener, qr/^leases\|/, $before + 2);

# Never longer than the policy's timeout, however often it is extended
for (1 .. 2)
{
	my ($saga, $n, $k) = claim('leases', 'greedy', '1 day');
	is("$saga $n", "$saga 2", "$saga: the next attempt");
}
is(sql(q{SELECT DISTINCT lease_until - claimed_at FROM saga.pending_compensations WHERE channel = 'leases'}), '02:00:00',
	'a lease is no longer than the timeout');
advance_clock($node, '110 min');
is(sql(qq{SELECT saga.extend_claim('$key{leased}', 2, '1 hour') - claimed_at FROM saga.pending_compensations
	WHERE compensation_key = '$key{leased}'}), '02:00:00', 'nor is it when extended');
advance_clock($node, '11 min');
wait_attempts($_, 2) foreach sort keys %key;
like(sql_error($node, "SELECT saga.extend_claim('$key{leased}', 2, '1 hour')"), qr/ERROR:  SG002: /, 'a claim that is over is not extended');
is(sql("SELECT saga.fail_compensation('$key{leased}', 2, 'late news')"), 'stale', 'a failure that comes late is none');
advance_clock($node, '10 min');
wait_queued($node, 'leases', 2);
is((claim('leases', 'last', '1 min'))[1], 3, 'the last attempt') for 1 .. 2;
advance_clock($node, '2 min');
wait_state($node, saga_id($node, 'leased'), 'needs_review');
wait_state($node, saga_id($node, 'goes on'), 'needs_review');
is(claims_of($node, $_), '1: timed out slow, 2: timed out greedy, 3: timed out last', "$_: its history") foreach sort keys %key;
is(sql(q{SELECT saga, step FROM undone WHERE saga IN ('leased', 'goes on')}), 'goes on|first', 'only the one goes on without it');
like(sql(qq{SELECT parked FROM saga.steps WHERE compensation_key = '$key{leased}'}), qr/^retries exhausted after 3 attempts: /, 'the other is parked');
is(sql("SELECT saga.complete_compensation('$key{$_}')"), 'compensated', "$_: done after all") foreach sort keys %key;
wait_state($node, saga_id($node, $_), 'compensated') foreach sort keys %key;
is(sql(q{SELECT count(*) FROM undone WHERE saga = 'leased'}), 1, 'which lets the walk go on');
guarantees($node);

# --- Away for a day

my $many = 60;
sql("SELECT count(saga.fail(make('away ' || n, 'away', saga.retry_policy(max_attempts => 1)))) FROM generate_series(1, $many) n");
wait_heard($listener, qr/^away\|/, $many);
my %announced = map { $_ => 1 } grep { /^away\|/ } heard($listener);
is(scalar keys %announced, $many, 'each is announced as it is dispatched');
# Ever less often
foreach my $pause (1, 1, 2, 4, 8, 16, 32, 60, 60)
{
	$before = told('away');
	# (For less, a busy machine may take longer to look.)
	if ($pause == 32)
	{
		advance_clock($node, $pause / 2 . ' s');
		look_twice();
		is(told('away'), $before, "not told again before $pause s are over");
		advance_clock($node, $pause / 2 . ' s');
	}
	else
	{
		advance_clock($node, "$pause s");
	}
	wait_heard($listener, qr/^away\|/, $before + 1);
}
$before = told('away');
my $began = time;
for (1 .. 24)
{
	advance_clock($node, '1 hour');
	look_twice();
}
my $again = told('away') - $before;
# The clock that is moved goes on meanwhile.
ok($again >= 24 && $again <= 26 + (time - $began) / 60, 'and for ever') or diag("$again times in 24 looks");
my %oldest = map { (split /\|/)[1] => 1 } (grep { /^away\|/ } heard($listener))[ -24 .. -1 ];
is(scalar keys %oldest, 1, 'with the one that waits longest');
is(sql(q{SELECT sum(compensation_attempts), sum(comp_charged) FROM saga.steps JOIN saga.ledger_step l ON l.saga = saga_id AND l.seq = steps.seq
	WHERE steps.channel = 'away'}), '0|', 'nothing is charged for a day');
is(sql(q{SELECT DISTINCT regexp_replace(next_action, 'which waits since .*', '') FROM saga.sagas WHERE idempotency_key LIKE 'away %'}),
	'a listener on channel "away" is to claim and compensate step "notify", ', 'and the next action says who is missing')
  or diag(sql(q{SELECT DISTINCT next_action FROM saga.sagas WHERE idempotency_key LIKE 'away %'}));
is(sql(q{SELECT count(*) FROM saga.pending_compensations WHERE channel = 'away' AND now() - since < '1 day' AND attempt = 1}), $many,
	'all of it is shown as waiting');

# Whoever comes then claims first and hears nothing: it finds everything.
my @batches;
while ((my $n = sql(q{
	SELECT count(saga.complete_compensation(compensation_key)) FROM saga.claim_compensations('away', 25)})) > 0)
{
	push @batches, $n;
}
is("@batches", '25 25 10', 'found by claiming');
wait_until($node, qq{SELECT count(*) = $many FROM saga.sagas WHERE idempotency_key LIKE 'away %' AND state = 'compensated'});
$before = told('away');
advance_clock($node, '2 min');
look_twice();
is(told('away'), $before, 'nothing waits, nobody is told');

# The lease ended while nothing of ours was there.
sql("SELECT saga.fail(make('off', 'leases', $policy))");
wait_queued($node, 'leases', 1);
claim('leases', 'gone', '30 min');
$node->append_conf('postgresql.conf', 'saga.enabled = off');
$node->reload;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'saga worker'});
advance_clock($node, '1 hour');
like(sql_error($node, q{SELECT * FROM saga.claim_compensations('leases')}), qr/ERROR:  SG008: (.*\n)*DETAIL:  .*saga\.enabled(.*\n)*HINT:  /, 'off: nothing is to be claimed');
is(claims_of($node, 'off'), '1: open gone', 'off: nobody ends the attempt');
$node->append_conf('postgresql.conf', 'saga.enabled = on');
$node->reload;
wait_attempts('off', 1);
advance_clock($node, '10 min');
wait_queued($node, 'leases', 1);
is((claim('leases', 'x'))[1], 2, 'on again: it goes on with the next');
$listener->quit;
guarantees($node);

$node->stop;
done_testing();
