# Copies of a whole server: a base backup started elsewhere, one recovered to a
# point in time, and a snapshot of the disks.  The first two hold still until
# they are adopted, whatever happens to them; the last one looks like a server
# after a crash.
#
# The witness is outside of all of them: a file to which compensations append.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;

my $original = saga_cluster('original', init => [ has_archiving => 1, allows_streaming => 1 ]);
my $witness = PostgreSQL::Test::Utils::tempdir() . '/witness';
append_to_file($witness, '');
witness($original, sql => '%undo($1)%');

# Effects outside are made at once, and stay when the transaction rolls back.
$original->safe_psql('postgres', qq{
	CREATE TABLE undone (n serial, saga text, step text);
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE plpgsql AS \$f\$ BEGIN
		PERFORM witness.undo(context);
		INSERT INTO undone (saga, step) VALUES (context->'saga'->>'idempotency_key', context->'step'->>'name');
		EXECUTE format('COPY (SELECT %L) TO PROGRAM %L', (context->'saga'->>'idempotency_key') || ' ' || (context->'step'->>'name'), 'cat >>$witness');
	END \$f\$;
	CREATE TABLE gate AS SELECT 'closed' AS gate;});
my $undo = 'compensation => $c$SELECT undo($1)$c$';

sub witnessed
{
	my ($key) = @_;
	return join ' ', map { /^\Q$key\E (.*)/ ? $1 : () } split /\n/, slurp_file($witness);
}

sub place
{
	my ($node, $key, @options) = @_;
	my $options = join '', map { ", $_" } @options;
	$node->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$key'$options) AS id \\gset
		SELECT status AS s FROM saga.step(:'id', 'a', $undo, output => '1') \\gset
		SELECT status AS s FROM saga.step(:'id', 'b', $undo) \\gset});
	return saga_id($node, $key);
}

# --- What there is when the backup is taken

my %id = map { $_ => place($original, $_) } qw(before running middle prepared later);
$original->safe_psql('postgres', "SELECT saga.fail('$id{before}'); SELECT saga.wait('$id{before}')");
$original->safe_psql('postgres', qq{
	SELECT status FROM saga.step('$id{middle}', 'c', compensation => \$c\$SELECT undo(\$1); SELECT pg_sleep(3600) FROM gate\$c\$);
	SELECT saga.fail('$id{middle}');
	BEGIN; SELECT saga.fail('$id{prepared}'); PREPARE TRANSACTION 'p';});
wait_until($original, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
is(witnessed('middle'), 'c', 'in the middle of an undo');
$original->safe_psql('postgres', q{SELECT saga.begin('order', 'held') AS id \gset
	SELECT status FROM saga.step(:'id', 'a', notify => 'tasks');
	SELECT saga.fail(:'id')});
wait_until($original, q{SELECT count(*) = 1 FROM saga.ledger_queue});
$original->safe_psql('postgres', q{SELECT * FROM saga.claim_compensations('tasks', lease => '1 day', consumer => 'over there')});
$original->safe_psql('postgres', q{SELECT saga.begin('order', 'waits') AS id \gset
	SELECT status FROM saga.step(:'id', 'a', notify => 'tasks');
	SELECT saga.fail(:'id')});
wait_until($original, q{SELECT count(*) = 1 FROM saga.ledger_queue});
$id{overdue} = place($original, 'overdue', "timeout => '1 hour'");
$original->safe_psql('postgres', 'DELETE FROM gate');
$original->backup('b');
$original->safe_psql('postgres', q{SELECT pg_create_restore_point('here')});
$original->safe_psql('postgres', "SELECT saga.fail('$id{later}'); SELECT saga.wait('$id{later}')");
$original->safe_psql('postgres', 'SELECT pg_switch_wal()');

# The original goes on.
$original->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
wait_state($original, $id{middle}, 'compensated');
is(witnessed('middle'), 'c c b a', 'the original finishes it');
my $so_far = slurp_file($witness);

# --- The copies

my %copy = map { $_ => PostgreSQL::Test::Cluster->new($_) } qw(started recovered);
$copy{started}->init_from_backup($original, 'b');
$copy{recovered}->init_from_backup($original, 'b', has_restoring => 1, standby => 0);
$copy{recovered}->append_conf('postgresql.conf', "recovery_target_name = 'here'\nrecovery_target_action = 'promote'\n");
$_->append_conf('postgresql.conf', "archive_mode = off\nsaga.retention = '1 min'\n") foreach values %copy;

foreach my $name (sort keys %copy)
{
	my $copy = $copy{$name};
	my ($out, $err);

	$copy->start;
	wait_until($copy, 'SELECT NOT pg_is_in_recovery()');
	is($copy->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()'),
		$original->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()'), "$name: cannot be told by its name");
	my $listener = listen_to($copy, 'tasks', 'states');

	# Whatever happens to it, it holds still.
	foreach my $what ('as it came', 'restarted', 'crashed')
	{
		$listener->quit if $what ne 'as it came';
		$copy->restart if $what eq 'restarted';
		if ($what eq 'crashed') { $copy->stop('immediate'); $copy->start; }
		$listener = listen_to($copy, 'tasks', 'states') if $what ne 'as it came';
		$copy->psql('postgres', qq{
			SELECT saga.fail(saga.begin('order', '$name $what', announce => 'states'));
			SELECT saga.begin('order')}, stdout => \$out, stderr => \$err);
		like($err, qr/^[^\n]*WARNING:  [^\n]*adopted\nDETAIL:  It holds still because the server was restored from a backup\.\nHINT:  [^\n]*saga\.adopt\(\)\./,
			"$name, $what: a warning says why, and what to do");
		is(scalar(() = $err =~ /WARNING/g), 1, "$name, $what: once in a session");
		like($copy->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$id{middle}'"),
			qr/step "c".*but: this copy of the database is not adopted \(the server was restored from a backup\)/, "$name, $what: the next action, too");
	}
	# Two-phase commit: what was prepared is here, and committed is recorded.
	is($copy->safe_psql('postgres', q{COMMIT PREPARED 'p'; SELECT state FROM saga.sagas WHERE idempotency_key = 'prepared'}), 'compensating',
		"$name: what was prepared is recorded");
	like(sql_error($copy, $_), qr/ERROR:  SG008: (.*\n)*HINT:  .*saga\.adopt\(\)/, "$name: " . (/(saga\.\w+)/)[0] . ' has nothing to give')
	  foreach "SELECT saga.wait('$id{middle}')", q{SELECT * FROM saga.claim_compensations('tasks')};
	if (is_test_build())
	{
		# Long after each deadline, retry, lease and the end of what is kept
		virtual_clock($copy);
		$copy->safe_psql('postgres', q{
			SELECT test_advance_clock('2 hours')});
	}
	my $pid = worker_pid($copy);
	$copy->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	wait_until($copy, qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'saga worker' AND state = 'idle' AND pid <> $pid});
	is(slurp_file($witness), $so_far, "$name: nothing is undone a second time");
	is(state_of($copy, $id{overdue}), 'running', "$name: no deadline passes");
	is(state_of($copy, $id{before}), 'compensated', "$name: nothing is purged");
	is(scalar heard($listener), 0, "$name: nobody is told anything");
	is(state_of($copy, $id{later}), 'running', "$name: what came after it is not here");

	# This one counts from now on.
	$copy->safe_psql('postgres', q{ALTER SYSTEM SET saga.retention = 0; SELECT pg_reload_conf()});
	$copy->safe_psql('postgres', 'SELECT saga.adopt()');
	wait_state($copy, $id{$_}, 'compensated') foreach 'middle', 'prepared';
	wait_state($copy, $id{overdue}, 'compensated') if is_test_build();
	is(undone_steps($copy, 'middle'), 'c b a', "$name: adopted, it goes on");
	is(undone_steps($copy, 'prepared'), 'b a', "$name: with what was prepared");
	is(undone_steps($copy, 'before'), 'b a', "$name: and what was undone stays so");
	is($copy->safe_psql('postgres', qq{
		SELECT string_agg(attempt || ' ' || outcome, ', ' ORDER BY attempt) FROM saga.attempts JOIN saga.steps USING (saga_id, seq)
		WHERE saga_id = '$id{middle}' AND key = 'c' AND phase = 'compensation'}), '1 succeeded', "$name: what the original tried is none of its attempts");
	wait_heard($listener, qr/^tasks\|.*@{[$copy->safe_psql('postgres', q{SELECT id FROM saga.sagas WHERE idempotency_key = 'waits'})]}/);
	wait_heard($listener, qr/^states\|/, 3);
	is($copy->safe_psql('postgres', q{SELECT context->'saga'->>'idempotency_key' FROM saga.claim_compensations('tasks', lease => '1 day', consumer => 'here') LIMIT 1}),
		'waits', "$name: and with listeners");
	is($copy->safe_psql('postgres', q{SELECT DISTINCT saga.complete_compensation(compensation_key) FROM saga.pending_compensations}), 'compensated',
		"$name: claims hold");
	$listener->quit;
	$copy->restart;
	my $later = place($copy, "$name later");
	$copy->psql('postgres', "SELECT saga.fail('$later')", stdout => \$out, stderr => \$err);
	is("$out$err", 'compensating', "$name: it stays at home");
	wait_state($copy, $later, 'compensated');
	guarantees($copy);
	$copy->stop;
	$so_far = slurp_file($witness);
}

# --- A copy of a copy that was adopted: it is another one

$copy{started}->start;
my $last = place($copy{started}, 'last');
$copy{started}->backup('again');
my $again = PostgreSQL::Test::Cluster->new('again');
$again->init_from_backup($copy{started}, 'again');
$again->start;
my ($out, $err);
$again->psql('postgres', "SELECT saga.fail('$last')", stdout => \$out, stderr => \$err);
like("$out$err", qr/compensating.*the server was restored from a backup/s, 'a backup of an adopted copy is another copy');
$again->stop;
# ... but not a standby of it
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($copy{started}, 'again', has_streaming => 1);
$standby->start;
$copy{started}->wait_for_catchup($standby);
$copy{started}->stop;
$standby->promote;
$standby->psql('postgres', "SELECT saga.fail('$last')", stdout => \$out, stderr => \$err);
is("$out$err", 'compensating', 'a standby of an adopted copy, promoted, is at home');
wait_state($standby, $last, 'compensated');
is(witnessed('last'), 'b a', 'and goes on');
$standby->stop;

# --- A snapshot of the disks

my $snapped = place($original, 'snapped');
$original->safe_psql('postgres', q{ALTER SYSTEM SET saga.enabled = off; SELECT pg_reload_conf()});
wait_until($original, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('saga worker', 'saga executor')});
$original->safe_psql('postgres', "SELECT saga.fail('$snapped')");
$original->stop('immediate');
PostgreSQL::Test::RecursiveCopy::copypath($original->data_dir, $original->backup_dir . '/snapshot',
	filterfn => sub { return $_[0] ne 'postmaster.pid'; });
$original->append_conf('postgresql.auto.conf', "saga.enabled = on\n");
$original->start;
wait_state($original, $snapped, 'compensated');
is(witnessed('snapped'), 'b a', 'the original goes on after its crash');
my $snapshot = PostgreSQL::Test::Cluster->new('snapshot');
$snapshot->init_from_backup($original, 'snapshot');
$snapshot->append_conf('postgresql.conf', "archive_mode = off\n");
$snapshot->start;
is($snapshot->safe_psql('postgres', 'SHOW saga.enabled'), 'off', 'a snapshot is started with saga.enabled = off');
like($snapshot->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$snapped'"), qr/but: saga\.enabled is off/, 'and says so');
like(sql_error($snapshot, "SELECT saga.wait('$snapped')"), qr/ERROR:  SG008: (.*\n)*DETAIL:  .*saga\.enabled is off/, 'whoever waits is told');
is($snapshot->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('saga worker', 'saga executor')}), 0,
	'nothing of ours works there');
is(witnessed('snapped'), 'b a', 'nothing is undone a second time');
guarantees($_) foreach $snapshot, $original;
$_->stop foreach $snapshot, $original;
done_testing();
