# Copies of a database with actions under way: a dump, a template, a base backup that
# is started elsewhere run nothing forward before they are adopted, and everything
# after that; a standby that is promoted in the middle of an action goes on.  And
# timers that ended while the server was down.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = saga_cluster('main', init => [ allows_streaming => 1 ], conf => "autovacuum = off\nsaga.max_executors = 4\n");
witness($node, action => 'SELECT act($1)');
$node->safe_psql('postgres', q{
	CREATE TABLE gate (closed boolean);
	-- Waits at the gate, in the middle of its work
	CREATE FUNCTION act(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		n bigint := witness.act(context);
	BEGIN
		IF context->'args'->>'gate' IS NOT NULL AND EXISTS (SELECT FROM gate) THEN
			PERFORM pg_sleep(3600);
		END IF;
		RETURN n;
	END $$;
	CREATE FUNCTION make(key text, gate text DEFAULT NULL, delay interval DEFAULT NULL) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key);
	BEGIN
		PERFORM saga.step(id, 'first', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)');
		PERFORM saga.step(id, 'wait', delay => coalesce(delay, '0'));
		PERFORM saga.step(id, 'middle', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)',
			args => jsonb_build_object('gate', gate));
		PERFORM saga.step(id, 'own', compensation => 'SELECT witness.undo($1)');
		PERFORM saga.step(id, 'last', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)');
		RETURN id;
	END $$;
	INSERT INTO gate VALUES (true);});

sub effects
{
	my ($where, $key, $database) = @_;
	return $where->safe_psql($database // 'postgres', qq{
		SELECT string_agg(e.key, ' ' ORDER BY n) FROM witness.effect e JOIN saga.sagas s ON s.id = e.saga
		WHERE hand = 'action' AND idempotency_key = '$key'});
}

my $busy = $node->safe_psql('postgres', q{SELECT make('busy', 'gate')});
my $sleeps = $node->safe_psql('postgres', q{SELECT make('sleeps', delay => '2 s')});
my $signals = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'signals')});
$node->safe_psql('postgres', qq{
	SELECT saga.step('$signals', 'x', signals => '{go}'), saga.step('$signals', 'y', signals => '{come,gone}'),
		saga.complete('$signals', when_done => true);
	SELECT saga.signal('$signals', 'come', '"early"', 'k1'), saga.signal('$signals', 'other', NULL, 'k2')});
my $day = $node->safe_psql('postgres', q{SELECT make('day', delay => '1 day')});
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type = 'saga executor'});
is(effects($node, 'busy'), 'first', 'an action is under way');

# --- Copies

$node->backup('b');
my $elsewhere = PostgreSQL::Test::Cluster->new('elsewhere');
$elsewhere->init_from_backup($node, 'b', has_streaming => 0);
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump.sql";
$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, '-f', $dump, 'postgres' ], 'dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored; CREATE DATABASE empty');
$node->command_ok([ 'psql', '-Xq', '-p', $node->port, '-h', $node->host, '-f', $dump, 'restored' ], 'restored');
$node->safe_psql('template1', 'CREATE DATABASE twin TEMPLATE postgres');

my %before = map { $_ => effects($node, 'sleeps', $_) } 'restored', 'twin';
foreach my $database ('restored', 'twin')
{
	# The rows of the middle step are copied as it was before its action; the gate
	# is open there.
	$node->safe_psql($database, 'DELETE FROM gate');
	like($node->safe_psql($database, q{
		SELECT waits_for FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id WHERE idempotency_key = 'busy' AND t.key = 'middle'}),
		qr/adopt/, "$database: a step that is due says what is missing");
	# What is done in the copy wakes nobody, either.
	$node->safe_psql($database, q{SELECT make('in the copy')});
}
# In the original, what sleeps wakes up; in the copies it does not.
wait_until($node, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$sleeps' AND key = 'middle'");
foreach my $database ('restored', 'twin')
{
	is(effects($node, 'sleeps', $database), $before{$database}, "$database: no action ran");
	is(effects($node, 'busy', $database), 'first', "$database: nor the one that was under way");
	is(effects($node, 'in the copy', $database), '', "$database: nor one that was recorded there");
	guarantees($node, $database);
	# A signal is recorded in the copy, and used by nobody.
	is($node->safe_psql($database, "SELECT saga.signal('$signals', 'go', NULL, 'k3')"), 'running', "$database: it takes a signal");
	is($node->safe_psql($database, "SELECT string_agg(key || coalesce(used_by_step, ''), ' ') FROM saga.signals WHERE saga_id = '$signals'"),
		'k1 k2 k3', "$database: what was sent was copied, and is unused");
	like($node->safe_psql($database, "SELECT waits_for FROM saga.steps WHERE saga_id = '$signals' AND key = 'x'"), qr/adopt/,
		"$database: a step whose signal is there says what is missing");
	$node->safe_psql($database, 'SELECT saga.adopt()');
	wait_until($node, "SELECT state = 'completed' FROM saga.sagas WHERE id = '$signals'", 't', $database);
	is($node->safe_psql($database, "SELECT string_agg(key || coalesce(used_by_step, ''), ' ' ORDER BY key) FROM saga.signals WHERE saga_id = '$signals'"),
		'k1y k2 k3x', "$database: adopted, it goes on with what was copied");
	wait_until($node, q{
		SELECT count(*) = 3 FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id
		WHERE t.key = 'middle' AND t.status = 'completed' AND idempotency_key IN ('busy', 'sleeps', 'in the copy')}, 't', $database);
	is(effects($node, 'busy', $database), 'first middle', "$database: adopted, it goes on, once");
	guarantees($node, $database, idle => 1);
}
is(effects($node, 'busy'), 'first', 'the original is still at it');

$elsewhere->append_conf('postgresql.conf', "port = @{[ $elsewhere->port ]}\n");
$elsewhere->start;
$elsewhere->safe_psql('postgres', 'DELETE FROM gate');
like($elsewhere->safe_psql('postgres', "SELECT waits_for FROM saga.steps WHERE saga_id = '$busy' AND key = 'middle'"), qr/adopt/,
	'a base backup that is started elsewhere says what is missing');
is(effects($elsewhere, 'busy'), 'first', 'and runs nothing');
$elsewhere->safe_psql('postgres', 'SELECT saga.adopt()');
wait_until($elsewhere, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$busy' AND key = 'middle'");
$elsewhere->stop;

# --- A standby that is promoted in the middle of an action

$node->wait_for_catchup($standby);
like($standby->safe_psql('postgres', "SELECT waits_for FROM saga.steps WHERE saga_id = '$busy' AND key = 'middle'"),
	qr/saga, but: .*(standby|recovery)/, 'on a standby: a step that is due says why nothing happens');
$node->safe_psql('postgres', "DELETE FROM gate");
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
wait_until($standby, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$busy' AND key = 'middle'");
is(effects($standby, 'busy'), 'first middle', 'promoted: the action that was under way is done there, once');
foreach my $id ($busy, $sleeps)
{
	$standby->safe_psql('postgres', "SELECT saga.complete_step('$id', 'own'), saga.complete('$id', when_done => true)");
	wait_state($standby, $id, 'completed');
}
is($standby->safe_psql('postgres', "SELECT status FROM saga.steps WHERE saga_id = '$day' AND key = 'wait'"), 'waiting',
	'what is not due waits');
guarantees($standby, undef, idle => 1);

# --- Timers that end while the server is down

my %down = map { $_ => $standby->safe_psql('postgres', "SELECT make('$_', delay => '2 s')") } qw(fast immediate);
my $late = $standby->safe_psql('postgres', q{
	SELECT s, saga.step(s, 'done', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)'),
		saga.step(s, 'out of time', delay => '1 day', timeout => '2 s'), saga.complete(s, when_done => true)
	FROM saga.begin('order', 'late') AS s}) =~ s/\|.*//sr;
wait_until($standby, q{SELECT count(*) = 3 FROM saga.ledger_due WHERE lane = 0 AND due < now() + interval '1 hour'});
my $until = $standby->safe_psql('postgres', q{SELECT max(due) FROM saga.ledger_due WHERE lane = 0 AND due < now() + interval '1 hour'});
my $ends = $standby->safe_psql('postgres', "SELECT extract(epoch FROM '$until'::timestamptz)");
$standby->stop('immediate');
# There is no server to ask.
usleep(20_000) while time <= $ends;
$standby->start;
foreach my $id (values %down)
{
	wait_until($standby, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$id' AND key = 'middle'");
}
wait_state($standby, $late, 'compensated');
is($standby->safe_psql('postgres', "SELECT reason FROM saga.sagas WHERE id = '$late'"), 'timed out', 'a step whose time ended meanwhile fails its saga');
is($standby->safe_psql('postgres', "SELECT count(*) FROM saga.ledger_event WHERE event = 'step timed out' AND at < '$until'"), 0, 'none was early');
guarantees($standby, undef, idle => 1);
$standby->stop;
done_testing();
