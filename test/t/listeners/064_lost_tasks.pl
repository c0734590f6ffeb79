# Dispatching to listeners under faults: wherever the worker fails, ends, is
# killed or stands still, what it dispatches is announced, done once and never
# lost, and its trouble with one saga is none of the others'.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time usleep);

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\nlog_statement = none\n");
witness($node, listener => 'claims');
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE TABLE effects (n serial, saga text, step text);
	CREATE FUNCTION make(key text, channel text, retry saga.retry_policy DEFAULT saga.retry_policy(),
		acknowledge boolean DEFAULT true, announce text DEFAULT NULL) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key, announce => announce);
		sql text := 'INSERT INTO effects (saga, step) VALUES ($1->''saga''->>''idempotency_key'', $1->''step''->>''key''); SELECT witness.undo($1)';
	BEGIN
		PERFORM saga.step(id, 'first', compensation => sql);
		PERFORM saga.step(id, 'notify', notify => channel, acknowledge => acknowledge, compensation_retry => retry);
		PERFORM saga.step(id, 'last', compensation => sql);
		RETURN id;
	END $$;
	-- A saga whose last step is the listener's
	CREATE FUNCTION brief(key text, channel text, retry saga.retry_policy DEFAULT saga.retry_policy(),
		timeout interval DEFAULT NULL) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key, timeout => timeout);
	BEGIN
		PERFORM saga.step(id, 'notify', notify => channel, compensation_retry => retry);
		RETURN id;
	END $$;});

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub claim
{
	my ($channel, $max, $consumer, $lease) = @_;
	$lease //= '1 hour';
	return sql(qq{
		SELECT context->'saga'->>'idempotency_key', attempt, compensation_key
		FROM saga.claim_compensations('$channel', $max, '$lease', '$consumer')});
}

# Takes everything from a channel, and reports it done; the keys in order
sub drain
{
	my ($channel, $consumer) = @_;
	return sql(qq{
		SELECT string_agg(k || ' ' || saga.complete_compensation(key), ', ' ORDER BY k)
		FROM (SELECT context->'saga'->>'idempotency_key' AS k, compensation_key AS key, witness.outside(context)
			FROM saga.claim_compensations('$channel', 1000, '1 hour', '$consumer')) c});
}

# --- Every fault point of the worker, for the three kinds of dispatch

my @channels = qw(claims forgets states);
my $listener = listen_to($node, @channels);

foreach my $point (qw(worker.before_turn worker.before_commit worker.after_commit channels.before_commit))
{
	foreach my $action (qw(error fatal kill wait))
	{
		my $name = "$point=$action";
		my $crash = $action eq 'kill';

		# The worker stands still until they have all failed; one that just
		# began tells every channel.
		halt_worker($node);
		if ($point =~ /^channels/)
		{
			my $offset = log_offset($node);
			sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga worker'});
			wait_lines($node, qr/waiting at fault point/, $offset);
		}
		sql(qq{
			SELECT saga.fail(make('$name claim', 'claims'));
			SELECT saga.fail(make('$name forget', 'forgets', acknowledge => false));
			SELECT saga.fail(make('$name state', 'nobody', acknowledge => false, announce => 'states'))});
		my $offset = log_offset($node);
		# After a crash, the listener is back before the worker.
		set_faults($node, $action eq 'wait' ? $name : "$name once" . ($crash ? ',worker.before_turn=wait after' : ''));
		if ($action ne 'wait') { wait_struck($node); }
		elsif ($point ne 'worker.before_turn') { wait_lines($node, qr/waiting at fault point "\Q$point\E"/, $offset); }
		is(claim('none', 1, 'x'), '', "$name: claims go on") if $action eq 'wait';
		if ($crash)
		{
			wait_server($node);
			$listener = listen_again($node, $listener, @channels);
		}
		set_faults($node, '');

		my %id = map { $_ => saga_id($node, "$name $_") } qw(claim forget state);
		wait_heard($listener, qr/^claims\|.*$id{claim}/);
		is(drain('claims', 'consumer'), "$name claim compensated", "$name: announced, claimed, done");
		wait_state($node, $id{$_}, 'compensated') foreach sort keys %id;
		is(claims_of($node, "$name claim"), '1: succeeded consumer', "$name: one attempt");
		is(claims_of($node, "$name forget"), '1: succeeded', "$name: so has what is told once");
		is(sql(qq{SELECT string_agg(saga || ': ' || steps, ', ' ORDER BY saga) FROM (
			SELECT saga, string_agg(step, ' ' ORDER BY n) AS steps FROM effects WHERE saga LIKE '$name %' GROUP BY saga) e}),
			join(', ', map { "$name $_: last first" } qw(claim forget state)), "$name: the others' SQL is done once, in reverse");

		# What was committed when the server crashed may not have reached those who
		# listened, whose connections ended with that.
		my $lossy = $crash && $point =~ /after_commit|channels/;
		wait_heard($listener, qr/^states\|.*$id{state}.*"compensated"/);
		my @forgets = grep { /^forgets\|.*$id{forget}/ } heard($listener);
		my @states = map { /"state":"(\w+)"/ } grep { /^states\|.*$id{state}/ } heard($listener);
		cmp_ok(scalar @forgets, '<=', 1, "$name: fire and forget tells once");
		cmp_ok(scalar @forgets, '>=', 1, "$name: and no less") if !$lossy;
		is("@states", 'compensating compensated', "$name: states are told in order") if !$lossy;
		like("@states", qr/^(compensating )?compensated$/, "$name: states are told in order") if $lossy;
	}
}
# After a commit
foreach my $kind (qw(claim forget state))
{
	my $id = sql(qq{SELECT make('behind $kind', '${kind}s', acknowledge => @{[ $kind eq 'claim' ? 'true' : 'false' ]}, announce => 'states')});
	killed_after_commit($node, "SELECT saga.fail('$id')");
	$listener = listen_again($node, $listener, @channels);
	if ($kind eq 'claim')
	{
		wait_queued($node, 'claims', 1);
		is(drain('claims', 'consumer'), 'behind claim compensated', 'found by whoever comes up');
	}
	wait_state($node, $id, 'compensated');
}
is(sql('SELECT count(*) FROM saga.ledger_saga WHERE to_announce IS NOT NULL'), 0, 'nothing is left to announce');
guarantees($node);

# --- Several at a time

# The worker stands still while they fail, each in a transaction of its own.
$listener->quit;
$listener = listen_to($node, 'several');
halt_worker($node);
sql("DO \$\$ BEGIN FOR n IN 1 .. 60 LOOP PERFORM saga.fail(brief('several ' || n, 'several')); COMMIT; END LOOP; END \$\$");
is(sql(q{SELECT count(DISTINCT s.xmin::text) FROM saga.ledger_saga s JOIN saga.sagas USING (id) WHERE idempotency_key LIKE 'several %'}),
	60, 'sixty transactions of the application');
set_faults($node, '');
wait_queued($node, 'several', 60);
is(sql(q{SELECT count(DISTINCT xmin::text) FROM saga.ledger_step WHERE channel = 'several'}), 1, 'one of the worker dispatches them all');
wait_heard($listener, qr/^several\|/, 60);
my %several = map { $_ => 1 } map { /"saga_id":"([^"]+)"/ } grep { /^several\|/ } heard($listener);
is(scalar keys %several, 60, 'and announces each');
sql(q{SELECT count(saga.complete_compensation(compensation_key)) FROM saga.claim_compensations('several', 1000)});
wait_until($node, q{SELECT count(*) = 60 FROM saga.sagas WHERE idempotency_key LIKE 'several %' AND state = 'compensated'});

# --- One of a batch

# The worker stands still, while there comes more than it does in one transaction.
$listener->quit;
$listener = listen_to($node, qw(batch forgets));
halt_worker($node);
sql(q{SELECT count(saga.fail(brief('batch ' || n, 'batch'))) FROM generate_series(1, 150) n});
my $spoilt = saga_id($node, 'batch 75');
# A row that cannot be dispatched; its trigger would make it a copy.
sql(qq{
	BEGIN;
	ALTER TABLE saga.ledger_step DISABLE TRIGGER guard;
	UPDATE saga.ledger_step SET channel = '' WHERE saga = '$spoilt';
	ALTER TABLE saga.ledger_step ENABLE ALWAYS TRIGGER guard;
	COMMIT});
my $offset = log_offset($node);
set_faults($node, '');
wait_queued($node, 'batch', 149);
wait_heard($listener, qr/^batch\|/, 149);
wait_log($node, qr/saga worker WARNING:  could not process a saga that is due/, $offset);
is(() = slurp_file($node->logfile, $offset) =~ /saga worker (ERROR|FATAL)/g, 0, 'the worker goes on');
my $after = sql(q{SELECT saga.fail(make('after the batch', 'forgets', acknowledge => false))});
wait_heard($listener, qr/^forgets\|/);
sql(qq{
	BEGIN;
	ALTER TABLE saga.ledger_step DISABLE TRIGGER guard;
	UPDATE saga.ledger_step SET channel = 'batch' WHERE saga = '$spoilt';
	ALTER TABLE saga.ledger_step ENABLE ALWAYS TRIGGER guard;
	COMMIT});
wait_queued($node, 'batch', 150);
sql(q{SELECT count(saga.complete_compensation(compensation_key)) FROM saga.claim_compensations('batch', 1000)});
wait_until($node, q{SELECT count(*) = 150 FROM saga.sagas WHERE idempotency_key LIKE 'batch %' AND state = 'compensated'});
my %told;
$told{$_}++ foreach map { /"saga_id":"([^"]+)"/ } grep { /^batch\|/ } heard($listener);
is(scalar keys %told, 150, 'each of a batch is announced');
$listener->quit;
guarantees($node);

# --- A full queue of notifications

# The worker says so now and then, not at each attempt and for each saga: two
# rooms of it, each five seconds at most.
sub not_flooded
{
	my ($offset, $began, $what) = @_;
	my @said = grep { /saga worker WARNING:  could not/ } split /\n/, slurp_file($node->logfile, $offset);

	cmp_ok(scalar @said, '<=', 2 * (1 + int((time - $began) / 5) + 1), "$what: the log says so, and is not flooded")
	  or diag(join "\n", @said[ 0 .. ($#said < 20 ? $#said : 20) ]);
	return;
}

# What comes while the queue is full: listeners' tasks, ones that are told once,
# announcements, deadlines of sagas with all of these, and others' work.
sub fail_many
{
	my ($name, $count) = @_;
	sql(qq{
		SELECT count(saga.fail(make('$name claim ' || n, 'full')) || saga.fail(make('$name forget ' || n, 'full', acknowledge => false))
			|| saga.fail(brief('$name brief ' || n, 'full')))
		FROM generate_series(1, $count) n;
		SELECT count(brief('$name deadline ' || n, 'full', timeout => '10 ms')) FROM generate_series(1, $count) n;
		SELECT count(saga.complete(saga.begin('order', '$name announce ' || n, announce => 'full'))) FROM generate_series(1, $count) n});
	return;
}

# Sagas that have nothing to do with it
sub others
{
	my ($name) = @_;
	my $failed = sql(qq{
		SELECT saga.begin('other', '$name failed') AS id \\gset
		SELECT saga.step(:'id', 'a', compensation => 'SELECT 1') \\gset s
		SELECT saga.fail(:'id') \\gset
		SELECT :'id'});
	my $deadline = sql(qq{
		BEGIN;
		SELECT saga.begin('other', '$name deadline', timeout => '20 ms') AS id \\gset
		SELECT saga.step(:'id', 'a', compensation => 'SELECT 1') \\gset s
		COMMIT;
		SELECT :'id'});
	return ($failed, $deadline);
}

# Everything that fail_many made is told, and done by those who claim.
sub all_done
{
	my ($name, $count) = @_;
	wait_until($node, qq{
		SELECT count(*) = 3 * $count FROM saga.ledger_queue q JOIN saga.sagas s ON s.id = q.saga
		WHERE idempotency_key LIKE '$name %' AND channel = 'full'});
	my %told;
	$told{$_}++ foreach map { /"saga_id":"([^"]+)"/ } wait_heard($listener, qr/^full\|/, 5 * $count);
	my @silent = grep { !$told{$_} } split /\n/, sql("SELECT id FROM saga.sagas WHERE idempotency_key LIKE '$name %' AND name = 'order'");
	is(scalar @silent, 0, "$name: everything is told afterwards");
	is(sql(q{SELECT count(saga.complete_compensation(compensation_key)) FROM saga.claim_compensations('full', 100000)}), 3 * $count,
		"$name: and to be claimed");
	wait_until($node, qq{SELECT count(*) = 0 FROM saga.sagas WHERE idempotency_key LIKE '$name %' AND state NOT IN ('completed', 'compensated')});
	is(sql(qq{SELECT count(*) FROM saga.attempts JOIN saga.steps USING (saga_id, seq) JOIN saga.sagas s ON s.id = saga_id
		WHERE idempotency_key LIKE '$name %' AND channel = 'full' AND phase = 'compensation' AND attempt > 1}), 0,
		"$name: with one attempt each");
	return;
}

$listener = listen_to($node, 'full');
$offset = log_offset($node);
my $began = time;
set_faults($node, 'notify.before_queue=queue_full');
fail_many('full', 30);
wait_log($node, qr/saga worker WARNING:  could not notify listeners: too many notifications/, $offset);
# Over some retries of the worker's
for my $n (1 .. 8)
{
	my ($failed, $deadline) = others("full $n");
	wait_state($node, $failed, 'compensated');
	wait_state($node, $deadline, 'compensated');
	usleep(300_000);
}
is(sql(q{SELECT count(*) FROM saga.sagas WHERE idempotency_key LIKE 'full deadline %' AND state = 'running'}), 0,
	'queue full: deadlines count');
is(scalar heard($listener), 0, 'queue full: nobody is told');
not_flooded($offset, $began, 'queue full');
set_faults($node, '');
all_done('full', 30);
$listener->quit;

# From 17 on, the queue can be made small enough to fill it.
SKIP:
{
	skip 'the queue of notifications cannot be made small before PostgreSQL 17', 1 if $node->pg_version < 17;
	$node->append_conf('postgresql.conf', 'max_notify_queue_pages = 64');
	$node->restart;
	my $reader = listen_to($node, 'filled');
	$reader->query_safe('BEGIN');
	$node->psql('postgres', q{
		DO $$ BEGIN FOR i IN 1 .. 200 LOOP PERFORM pg_notify('filled', i || repeat('x', 7900)); COMMIT; END LOOP; END $$},
		stderr => \my $err);
	like($err, qr/too many notifications in the NOTIFY queue/, 'the queue is full');
	$offset = log_offset($node);
	$began = time;
	fail_many('filled', 30);
	wait_log($node, qr/saga worker WARNING:  could not notify listeners: too many notifications/, $offset);
	for my $n (1 .. 8)
	{
		my ($failed, $deadline) = others("filled $n");
		wait_state($node, $failed, 'compensated');
		wait_state($node, $deadline, 'compensated');
		usleep(300_000);
	}
	not_flooded($offset, $began, 'queue filled');
	$reader->query_safe('COMMIT');
	$reader->quit;
	$listener = listen_to($node, 'full');
	all_done('filled', 30);
	$listener->quit;
}
guarantees($node);

$node->stop;
done_testing();
