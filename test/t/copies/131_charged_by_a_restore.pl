# A backup by pgBackRest of a server with work in flight, restored beside the original
# that lives, and in place of one that is dead, to a moment in the past: the copy says
# that it holds still, and why; nothing is charged, shipped or undone by it before it is
# adopted, and everything after that, under the keys that it had.  A standby, whichever
# backup it was made of, is what its primary is: a copy or none.
#
# The witness is outside of all of them: a file to which actions and compensations
# append.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my ($tool) = grep { -x $_ } map { "$_/pgbackrest" } split /:/, $ENV{PATH};
plan skip_all => 'needs pgbackrest' if !$tool;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $witness = "$dir/witness";
append_to_file($witness, '');

my $original = saga_cluster('original', start => 0,
	init => [ allows_streaming => 1, extra => ['--wal-segsize=1'] ],
	conf => "saga.max_executors = 6\narchive_mode = on\n"
	  . "archive_command = '$tool --config=$dir/pgbackrest.conf --stanza=saga archive-push %p'\n");
mkdir "$dir/$_" foreach qw(repo log lock);
append_to_file("$dir/pgbackrest.conf", <<CONF);
[global]
repo1-path=$dir/repo
log-path=$dir/log
lock-path=$dir/lock
log-level-console=warn
log-level-file=off
start-fast=y
compress-type=none

[saga]
pg1-path=@{[$original->data_dir]}
pg1-socket-path=@{[$original->host]}
pg1-port=@{[$original->port]}
CONF

sub backrest
{
	my ($command, @options) = @_;
	command_ok([ $tool, "--config=$dir/pgbackrest.conf", '--stanza=saga', @options, $command ], "pgbackrest $command");
	return;
}

$original->start;
backrest('stanza-create');
$original->safe_psql('postgres', 'CREATE EXTENSION saga');
witness($original, sql => '%undo($1)%', action => '%act($1)%');

# Effects outside are made at once.  A closed gate holds an attempt before its effect.
$original->safe_psql('postgres', qq{
	CREATE TABLE gate AS SELECT 'closed' AS gate;
	CREATE FUNCTION outside(what text, context jsonb, key text) RETURNS void LANGUAGE plpgsql AS \$f\$ BEGIN
		IF EXISTS (SELECT FROM gate) THEN PERFORM pg_sleep(3600); END IF;
		EXECUTE format('COPY (SELECT %L) TO PROGRAM %L', concat_ws(' ', context->'saga'->>'idempotency_key', what,
			context->'step'->>'key', key), 'cat >>$witness');
	END \$f\$;
	CREATE FUNCTION act(context jsonb) RETURNS bigint LANGUAGE sql AS
		'SELECT outside(\$\$do\$\$, context, context->>\$\$forward_key\$\$); SELECT witness.act(context)';
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE sql AS
		'SELECT outside(\$\$undo\$\$, context, context->>\$\$compensation_key\$\$); SELECT witness.undo(context)';});

# Of a key: what was done outside, in that order; with the keys under which it was done.
sub outside { my ($saga) = @_; return join ', ', map { /^\Q$saga\E (\w+ \w+)/ ? $1 : () } split /\n/, slurp_file($witness); }
sub keys_of { my ($saga) = @_; return [ map { /^\Q$saga\E \w+ \w+ (\S+)/ ? $1 : () } split /\n/, slurp_file($witness) ]; }

# One that is undone, one that the server runs, and one that waits for a service
sub begin_work
{
	my ($node, $generation) = @_;
	$node->safe_psql('postgres', qq{
		SELECT saga.begin('order', 'failed $generation') AS s \\gset
		SELECT saga.step(:'s', 'a', completed => true, compensation => 'SELECT undo(\$1)'),
			saga.step(:'s', 'b', completed => true, compensation => 'SELECT undo(\$1)');
		SELECT saga.fail(:'s');
		SELECT saga.begin('order', 'runs $generation') AS s \\gset
		SELECT saga.step(:'s', 'charge', action => 'SELECT act(\$1)', compensation => 'SELECT undo(\$1)'),
			saga.step(:'s', 'ship', action => 'SELECT act(\$1)', compensation => 'SELECT undo(\$1)'), saga.complete(:'s', when_done => true);
		SELECT saga.begin('order', 'task $generation') AS s \\gset
		SELECT saga.step(:'s', 'mail', task => 'mail'), saga.complete(:'s', when_done => true);});
	wait_until($node, q{SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type = 'saga executor'});
	return;
}

sub open_gate
{
	my ($node, $generation) = @_;
	$node->safe_psql('postgres', q{DELETE FROM gate});
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
	return;
}

sub wait_done
{
	my ($node, $generation) = @_;
	wait_state($node, saga_id($node, "failed $generation"), 'compensated');
	wait_state($node, saga_id($node, "runs $generation"), 'completed');
	return;
}
my $all_undone = 'undo b, undo a';
my $all_done = 'do charge, do ship';

# A server in the folder that pgbackrest restores to
sub restored
{
	my ($name, @options) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);

	mkdir $copy->basedir;
	mkdir $copy->data_dir, 0700;
	backrest('restore', '--pg1-path=' . $copy->data_dir, '--archive-mode=off', @options);
	$copy->append_conf('postgresql.conf', "port = @{[$copy->port]}\nunix_socket_directories = '@{[$copy->host]}'\n");
	return $copy;
}

sub standby_of
{
	my ($primary, $name) = @_;
	my $standby = restored($name, '--type=standby',
		"--recovery-option=primary_conninfo=@{[$primary->connstr]} application_name=$name");

	$standby->start;
	$primary->wait_for_catchup($standby);
	return $standby;
}

sub holds_still
{
	my ($node, $generation, $what) = @_;
	my $so_far = slurp_file($witness);
	my ($out, $err);

	wait_until($node, 'SELECT NOT pg_is_in_recovery()');
	is($node->safe_psql('postgres', q{SELECT severity, code, finding, hint FROM saga.health WHERE code = 'not adopted'}),
		'error|not adopted|this copy of the database is not adopted (the server was restored from a backup): nothing is run or undone in it'
		  . '|If no other copy is to run and undo, call saga.adopt().', "$what: saga.health says so");
	$node->psql('postgres', "SELECT saga.fail(saga.begin('order', '$what'))", stdout => \$out, stderr => \$err);
	like($err, qr/WARNING:  [^\n]*adopted\nDETAIL:  [^\n]*restored from a backup\.\nHINT:  [^\n]*saga\.adopt\(\)/, "$what: so does a warning");
	like(sql_error($node, q{SELECT * FROM saga.claim_tasks('mail')}), qr/ERROR:  SG008: /, "$what: no task is given to a service");
	# A worker has had its turn, and has begun anew.
	open_gate($node);
	my $pid = worker_pid($node);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	wait_until($node, qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'saga worker' AND state = 'idle' AND pid <> $pid});
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'saga executor'}), 0, "$what: nothing runs");
	is(slurp_file($witness), $so_far, "$what: nothing is charged, shipped or undone");
	is($node->safe_psql('postgres', qq{SELECT string_agg(idempotency_key || ' ' || state, ', ' ORDER BY idempotency_key) FROM saga.sagas WHERE idempotency_key LIKE '% $generation'}),
		"failed $generation compensating, runs $generation running, task $generation running", "$what: all is as it was");
	return;
}

sub adopted
{
	my ($node, $generation, $what) = @_;
	my ($out, $err);

	$node->safe_psql('postgres', 'SELECT saga.adopt()');
	wait_done($node, $generation);
	is($node->safe_psql('postgres', q{SELECT string_agg(code, ' ') FROM saga.health WHERE severity = 'error'}), '', "$what, adopted: nothing is wrong");
	is($node->safe_psql('postgres', q{
		SELECT string_agg(saga.complete_task(task_key), ' ') FROM saga.claim_tasks('mail', 10)}), join(' ', ('completed') x $generation),
		"$what, adopted: services get their tasks");
	$node->restart;
	$node->psql('postgres', q{SELECT saga.begin('order') IS NOT NULL}, stdout => \$out, stderr => \$err);
	is("$out$err", 't', "$what, adopted: it stays at home");
	guarantees($node);
	return;
}

# --- Beside the original, which lives

begin_work($original, 1);
backrest('backup', '--type=full');
$original->safe_psql('postgres', 'SELECT pg_switch_wal()');
my $copy = restored('beside');
$copy->start;
holds_still($copy, 1, 'beside');

# A standby of the copy, made of the same backup: nothing of that restore is in its folder.
my $standby = standby_of($copy, 'standby_beside');
$copy->stop;
$standby->promote;
holds_still($standby, 1, 'a standby of it, promoted');
$standby->stop;
$copy->start;
is(outside('failed 1') . outside('runs 1'), '', 'nobody did anything yet');
open_gate($original);
wait_done($original, 1);
is(outside('failed 1'), $all_undone, 'the original undoes each once');
is(outside('runs 1'), $all_done, 'and does each once');

# This is what holding still is for: it has the same work, under the same keys.
adopted($copy, 1, 'beside');
is(outside('failed 1'), "$all_undone, $all_undone", 'adopted beside the original, it does again what that did');
foreach my $saga ('failed 1', 'runs 1')
{
	my @keys = @{ keys_of($saga) };
	is("@keys[2, 3]", "@keys[0, 1]", "$saga: under the same keys");
}
$copy->stop;

# --- In place of the original, which is dead, to a moment before its end

$original->safe_psql('postgres', q{INSERT INTO gate VALUES ('closed')});
begin_work($original, 2);
my $moment = $original->safe_psql('postgres', 'SELECT clock_timestamp()');
open_gate($original);
wait_done($original, 2);
# More numbers of the start order than a sequence has in reserve
my $drawn = $original->safe_psql('postgres', q{
	SELECT max(t.seq) FROM saga.begin('order', 'lost') s, generate_series(1, 40) i, LATERAL saga.step(s, 's' || i) t});
my $wal = $original->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
wait_until($original, "SELECT last_archived_wal >= '$wal' FROM pg_stat_archiver");
$original->stop('immediate');
backrest('restore', '--delta', '--type=time', "--target=$moment", '--target-action=promote');
$original->start;
holds_still($original, 2, 'in place');
adopted($original, 2, 'in place');
is($original->safe_psql('postgres', qq{
	SELECT saga.begin('order', 'anew') AS s \\gset
	SELECT saga.step(:'s', 'a') IS NOT NULL AS t \\gset
	SELECT seq > $drawn FROM saga.steps WHERE saga_id = :'s'}), 't', 'no key of an effect outside is given to another step');
is(outside('failed 2'), "$all_undone, $all_undone", 'what came after that moment is done again, once');
is(outside('runs 2'), "$all_done, $all_done", 'in both directions');
foreach my $saga ('failed 2', 'runs 2')
{
	my @keys = @{ keys_of($saga) };
	is("@keys[2, 3]", "@keys[0, 1]", "$saga: under the same keys");
}

# --- Restored again, with a standby that was made of a backup between the two

backrest('backup', '--type=full');
$original->safe_psql('postgres', 'SELECT pg_switch_wal()');
$original->stop('immediate');
backrest('restore', '--delta');
$original->start;
wait_until($original, 'SELECT NOT pg_is_in_recovery()');
$original->safe_psql('postgres', 'SELECT saga.adopt()');
$standby = standby_of($original, 'standby');
$original->stop;
$standby->promote;
my ($out, $err);
$standby->psql('postgres', q{SELECT string_agg(code, ' ') FROM saga.health WHERE severity = 'error'; SELECT saga.begin('order') IS NOT NULL},
	stdout => \$out, stderr => \$err);
is("$out$err", "\nt", 'its standby, promoted, is at home');
$standby->safe_psql('postgres', q{
	SELECT saga.begin('order', 'last') AS s \gset
	SELECT saga.step(:'s', 'charge', action => 'SELECT act($1)'), saga.complete(:'s', when_done => true)});
wait_state($standby, saga_id($standby, 'last'), 'completed');
guarantees($standby);
$standby->stop;
done_testing();
