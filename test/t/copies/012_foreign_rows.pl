# Rows of the ledger that came by COPY, by SQL of a superuser, or by logical
# replication: the database that holds them undoes nothing more until it is
# adopted, not even what was begun there.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my @tables = map { "saga.ledger_$_" } qw(saga step attempt event due queue);

my $origin = saga_cluster('origin', init => [ allows_streaming => 'logical' ]);
$origin->safe_psql('postgres', q{CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA saga TO app});

# The witness is the same for all: a row says where, too.
sub equip
{
	my ($node, $database) = @_;
	return $node->safe_psql($database, q{
		GRANT USAGE ON SCHEMA saga TO app;
		CREATE TABLE undone (n serial, saga text, step text, who text DEFAULT current_user);
		GRANT ALL ON undone, undone_n_seq TO app;
		CREATE FUNCTION place(k text) RETURNS uuid LANGUAGE plpgsql AS $$
		DECLARE
			id uuid := saga.begin('order', k);
			undo text := $c$INSERT INTO undone (saga, step) VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'name')$c$;
		BEGIN
			PERFORM saga.step(id, 'a', output => '1', compensation => undo);
			PERFORM saga.step(id, 'b', compensation => undo);
			RETURN id;
		END $$;});
}

sub undone
{
	my ($node, $database, $key) = @_;
	return $node->safe_psql($database, "SELECT string_agg(step || ' ' || who, ', ' ORDER BY n) FROM undone WHERE saga = '$key'");
}

# Holds still: says so to whoever calls, records, tells nobody, undoes nothing.
sub holds_still
{
	my ($node, $database, $what, $why) = @_;
	my $key = "here $what";
	my ($out, $err);

	$node->psql($database, "SELECT saga.fail(place('$key')); SELECT FROM place('$key 2')",
		stdout => \$out, stderr => \$err, extra_params => [ '-U', 'app' ]);
	is($out, 'compensating', "$what: failures are recorded");
	like($err, qr/^[^\n]*WARNING:  [^\n]*adopted\nDETAIL:  It holds still because $why\.\nHINT:  [^\n]*saga\.adopt\(\)/, "$what: a warning says why, and what to do");
	is(scalar(() = $err =~ /WARNING/g), 1, "$what: once in a session");
	# Its worker looks at everything again, and finds nothing to do.
	my $pid = worker_pid($node, $database);
	$node->safe_psql($database, "SELECT pg_terminate_backend($pid)");
	wait_until($node, qq{
		SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'saga worker' AND datname = current_database() AND state = 'idle' AND pid <> $pid}, 't', $database);
	like($node->safe_psql($database, "SELECT next_action FROM saga.sagas WHERE idempotency_key = '$key'"),
		qr/but: this copy of the database is not adopted \($why\); see saga\.adopt\(\)/, "$what: the next action says it, too");
	is($node->safe_psql($database, "SELECT count(*) FROM undone WHERE saga = '$key'"), 0, "$what: nothing is undone, not what began here either");
	return $key;
}

sub adopt
{
	my ($node, $database, $what, @keys) = @_;

	$node->safe_psql($database, 'SELECT saga.adopt()');
	wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state = 'compensating'}, 't', $database);
	is(undone($node, $database, $_), 'b app, a app', "$what: adopted, $_ is undone, once, as its role") foreach @keys;
	my ($out, $err);
	$node->psql($database, "SELECT saga.fail(place('later $what'))", stdout => \$out, stderr => \$err, extra_params => [ '-U', 'app' ]);
	is("$out$err", 'compensating', "$what: no warning any more");
	wait_until($node, "SELECT count(*) = 2 FROM undone WHERE saga = 'later $what'", 't', $database);
	guarantees($node, $database);
	return;
}

my $by_us = 'rows of the ledger came by COPY, SQL or replication';
equip($origin, 'postgres');

# --- COPY, while the worker and an executor of this database are at work

$origin->safe_psql('postgres', 'CREATE DATABASE copied');
$origin->safe_psql('copied', 'CREATE EXTENSION saga');
equip($origin, 'copied');
is(sql_as($origin, 'app', q{SELECT place('native') AS id \gset
	SELECT saga.fail(:'id'); SELECT saga.wait(:'id')}, 'copied'), "compensating\ncompensated", 'a ledger at home undoes');
$origin->safe_psql('postgres', q{ALTER SYSTEM SET saga.databases = 'copied, typed, claimed, parallel, keys'; SELECT pg_reload_conf()});
wait_until($origin, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'saga worker' AND datname = 'postgres'});
sql_as($origin, 'app', q{SELECT saga.fail(place('one'))});
my $folder = PostgreSQL::Test::Utils::tempdir();
chmod 0777, $folder;
$origin->safe_psql('postgres', "COPY $_ TO '$folder/$_'") foreach @tables;
# The sagas come first, and at once are due: their steps come later.
foreach my $table ('saga.ledger_due', grep { $_ ne 'saga.ledger_due' } @tables)
{
	$origin->safe_psql('copied', "COPY $table FROM '$folder/$table'");
}
my $here = holds_still($origin, 'copied', 'COPY', $by_us);
is(undone($origin, 'copied', 'one'), '', 'COPY: what came is not undone');
adopt($origin, 'copied', 'COPY', 'one', $here);

# --- SQL of a superuser, in a ledger at home: each of its ways

my $parked = sql_as($origin, 'app', q{SELECT saga.begin('order', 'parked') AS id \gset
	SELECT FROM saga.step(:'id', 'a', review => 'look');
	SELECT saga.fail(:'id');
	SELECT saga.wait(:'id');
	SELECT :'id'}, 'copied');
$parked =~ s/.*\n//s;
my %write = (
	INSERT => qq{INSERT INTO saga.ledger_event SELECT saga, now(), 1, 'note', 'somebody', NULL FROM saga.ledger_step WHERE saga = '$parked'},
	UPDATE => qq{UPDATE saga.ledger_saga SET reason = 'other' WHERE id = '$parked'},
	MERGE => qq{MERGE INTO saga.ledger_saga s USING (SELECT '$parked'::uuid AS p) m ON s.id = p WHEN MATCHED THEN UPDATE SET reason = 'more'},
	replica => qq{SET session_replication_role = replica; UPDATE saga.ledger_saga SET reason = 'third' WHERE id = '$parked'});
foreach my $way (sort keys %write)
{
	$origin->safe_psql('copied', "BEGIN; $write{$way}; ROLLBACK");
	like(sql_error($origin, $write{$way}, 'copied', extra_params => [ '-U', 'app' ]), qr/ERROR:  42501:/, "$way: not by others");
	my ($out, $err);
	$origin->psql('copied', "SELECT saga.fail(place('before $way'))", stdout => \$out, stderr => \$err, extra_params => [ '-U', 'app' ]);
	is("$out$err", 'compensating', "$way: rolled back, it changes nothing");
	wait_until($origin, "SELECT count(*) = 2 FROM undone WHERE saga = 'before $way'", 't', 'copied');
	$origin->safe_psql('copied', $write{$way});
	$here = holds_still($origin, 'copied', $way, $by_us);
	adopt($origin, 'copied', $way, $here);
}

# --- A dump as INSERTs, into a database where the extension is already

$origin->safe_psql('postgres', 'CREATE DATABASE typed');
$origin->safe_psql('typed', 'CREATE EXTENSION saga');
equip($origin, 'typed');
$origin->command_ok([ 'pg_dump', '--data-only', '--inserts', '-t', 'saga.*', '--extension=saga', '-f', "$folder/inserts", $origin->connstr('postgres') ], 'pg_dump --inserts');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/inserts", '-d', $origin->connstr('typed') ], 'restored');
$here = holds_still($origin, 'typed', 'INSERTs', $by_us);
adopt($origin, 'typed', 'INSERTs', 'one', $here);

# --- COPY, while a service claims: it is handed nothing that came

SKIP:
{
	skip 'needs the test build', 2 if !is_test_build();
	$origin->safe_psql('postgres', 'CREATE DATABASE claimed');
	$origin->safe_psql('claimed', 'CREATE EXTENSION saga');
	sql_as($origin, 'app', q{SELECT saga.begin('order', 'task') AS id \gset
		SELECT FROM saga.step(:'id', 'a', notify => 'tasks');
		SELECT saga.fail(:'id')}, 'copied');
	wait_until($origin, q{SELECT count(*) = 1 FROM saga.ledger_queue}, 't', 'copied');
	$origin->safe_psql('copied', "COPY $_ TO '$folder/queued.$_'") foreach @tables;
	my $service = session($origin, database => 'claimed');
	$service->query_safe(q{SET saga.test_faults = 'claims.before_read=wait'});
	background($service, "\\set VERBOSITY verbose\nSELECT step FROM saga.claim_compensations('tasks')");
	wait_until($origin, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%saga.claim_compensations%' AND wait_event_type = 'Extension'});
	$origin->safe_psql('claimed', 'BEGIN; ' . join('', map { "COPY $_ FROM '$folder/queued.$_'; " } @tables) . 'COMMIT');
	$origin->safe_psql('claimed', q{ALTER SYSTEM SET saga.test_faults = 'release'; SELECT pg_reload_conf()});
	is($service->query('SELECT 1'), 1, 'COPY, while a service claims: nothing is claimed');
	like($service->{stderr}, qr/ERROR:  SG008: (.*\n)*HINT:  .*saga\.adopt\(\)/, 'COPY, while a service claims: it is told why');
	$service->quit;
	$origin->safe_psql('claimed', q{ALTER SYSTEM RESET saga.test_faults; SELECT pg_reload_conf()});
}

# --- Two at a time, as pg_restore with jobs does it

$origin->safe_psql('postgres', 'CREATE DATABASE parallel');
$origin->safe_psql('parallel', 'CREATE EXTENSION saga');
equip($origin, 'parallel');
my ($first, $second) = map { session($origin, database => 'parallel') } 1, 2;
$first->query_safe("BEGIN; COPY saga.ledger_saga FROM '$folder/saga.ledger_saga'; COPY saga.ledger_due FROM '$folder/saga.ledger_due'");
background($second, "COPY saga.ledger_step FROM '$folder/saga.ledger_step'");
wait_until($origin, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'COPY saga.ledger_step%'});
$first->query_safe('COMMIT');
$second->query('SELECT 1');
is($second->{stderr}, '', 'one waits for the other, and goes on');
is($origin->safe_psql('parallel', 'SELECT count(*) FROM saga.steps'), 2, 'and brings its rows');
# Who adopts must have seen them.
$first->query_safe("BEGIN; COPY saga.ledger_attempt FROM '$folder/saga.ledger_attempt'; COPY saga.ledger_event FROM '$folder/saga.ledger_event'");
background($second, "\\set VERBOSITY verbose\nSELECT saga.adopt()");
wait_until($origin, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'SELECT saga.adopt%'});
$first->query_safe('COMMIT');
$second->query('SELECT 1');
like($second->{stderr}, qr/ERROR:  40001: .*COPY, SQL or replication at the same time\nHINT:  /, 'what comes while it is adopted is not adopted unseen');
$_->quit foreach $first, $second;
$here = holds_still($origin, 'parallel', 'two at a time', $by_us);
adopt($origin, 'parallel', 'two at a time', 'one', $here);

# --- One key, one saga: in sessions that knew the ledger before

$origin->safe_psql('postgres', 'CREATE DATABASE keys');
$origin->safe_psql('keys', 'CREATE EXTENSION saga');
equip($origin, 'keys');
my %begun = map { $_ => sql_as($origin, 'app', "SELECT saga.begin('order', '$_')", 'keys') } qw(a b c d);
my ($before, $within) = map { session($origin, database => 'keys') } 1, 2;
is($before->query_safe("SET ROLE app; SELECT saga.begin('order', 'here') IS NOT NULL; SELECT saga.begin('order', 'there') IS NOT NULL"), "t\nt", 'one key: a session at home');
$within->query_safe("SET ROLE app; SELECT saga.begin('order', 'here'); BEGIN; SELECT saga.begin('order', 'within')");
# As it was elsewhere, where the role had another OID
$origin->safe_psql('keys', q{UPDATE saga.ledger_saga SET owner = 99999 WHERE key IN ('a', 'b', 'c', 'd')});
is($before->query_safe(q{SET client_min_messages = error; SELECT saga.begin('order', 'a')}), $begun{a}, 'one key: a session from before finds its saga in what has become a copy');
is($within->query_safe(q{SET client_min_messages = error; SELECT saga.begin('order', 'a')}), $begun{a}, 'one key: so does a transaction from before');
$within->query_safe('ROLLBACK');
# Who is told of an adoption that is rolled back
my %adopting = (
	'in a statement of its own' => 'BEGIN; SELECT saga.adopt(); SET LOCAL ROLE app; SELECT saga.begin($$order$$, $$x$$); ROLLBACK',
	'in one statement' => 'BEGIN; SELECT saga.adopt(), saga.begin($$order$$, $$y$$); ROLLBACK',
	'to a savepoint' => 'BEGIN; SAVEPOINT s; SELECT saga.adopt(); SELECT saga.begin($$order$$, $$z$$); ROLLBACK TO s; SET LOCAL ROLE app; SELECT saga.begin($$order$$, $$v$$); COMMIT');
foreach my $how (sort keys %adopting)
{
	$before->query_safe("RESET ROLE; $adopting{$how}");
	is($before->query_safe(q{RESET ROLE; SET ROLE app; SELECT saga.begin('order', 'b')}), $begun{b}, "one key: an adoption, $how, that is rolled back");
}
$origin->safe_psql('keys', 'SELECT saga.adopt()');
is($before->query_safe(q{SELECT saga.begin('order', 'c')}), $begun{c}, 'one key: adopted');
# pg_restore --disable-triggers
$origin->safe_psql('keys', q{
	ALTER TABLE saga.ledger_saga DISABLE TRIGGER ALL;
	UPDATE saga.ledger_saga SET owner = 99999 WHERE key = 'd';
	ALTER TABLE saga.ledger_saga ENABLE TRIGGER ALL});
is($before->query_safe(q{SELECT saga.begin('order', 'd')}), $begun{d}, 'one key: rows came without the triggers');
is($origin->safe_psql('keys', q{SELECT count(*) FROM saga.ledger_saga WHERE key IN ('a', 'b', 'c', 'd')}), 4, 'one key: one saga each');
$_->quit foreach $before, $within;

# --- Isolation: what moves all rows must see all

foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	foreach my $call ('saga.adopt()', q{saga.reassign('app'::regrole, 'app')})
	{
		like(sql_error($origin, "BEGIN ISOLATION LEVEL $level; SELECT $call", 'keys'), qr/ERROR:  25001: .*\nHINT:  .*READ COMMITTED/, "$level: $call is refused");
	}
}

# --- A logical subscriber, in another server, where the role has another OID

$origin->safe_psql('postgres', q{ALTER SYSTEM RESET saga.databases; SELECT pg_reload_conf()});
wait_until($origin, q{SELECT count(*) = 2 FROM undone});
my $subscriber = saga_cluster('subscriber');
$subscriber->safe_psql('postgres', 'CREATE ROLE filler; CREATE ROLE app LOGIN');
equip($subscriber, 'postgres');
sql_as($origin, 'app', q{SELECT place('running')});
$origin->safe_psql('postgres', 'CREATE PUBLICATION ledger FOR TABLE ' . join(', ', @tables));
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION ledger CONNECTION 'host=@{[$origin->host]} port=@{[$origin->port]} dbname=postgres' PUBLICATION ledger");
$subscriber->wait_for_subscription_sync($origin, 'ledger');

# What happens there from now on: undone, purged, redacted, with a listener
sql_as($origin, 'app', q{SELECT place('undone') AS id \gset
	SELECT saga.fail(:'id'); SELECT saga.wait(:'id');
	SELECT saga.redact(:'id')});
sql_as($origin, 'app', q{SELECT saga.begin('order', 'task') AS id \gset
	SELECT FROM saga.step(:'id', 'a', notify => 'tasks');
	SELECT saga.fail(:'id')});
wait_until($origin, q{SELECT count(*) = 1 FROM saga.ledger_queue});
sql_as($origin, 'app', q{SELECT saga.begin('order', 'parked') AS id \gset
	SELECT FROM saga.step(:'id', 'a', review => 'look');
	SELECT saga.fail(:'id');
	SELECT saga.wait(:'id');
	SELECT saga.resolve(:'id', 'a', 'done', 'seen')});
$origin->safe_psql('postgres', q{SELECT saga.purge('0')});
$origin->safe_psql('postgres', q{ALTER SYSTEM SET saga.enabled = off; SELECT pg_reload_conf()});
wait_until($origin, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('saga worker', 'saga executor')});
sql_as($origin, 'app', q{SELECT saga.fail(place('left'))});
sql_as($origin, 'app', q{SELECT saga.begin('order', 'overdue', timeout => '1 ms')});
$origin->wait_for_catchup('ledger');

sub rows
{
	my ($node) = @_;
	return join "\n", map { $node->safe_psql('postgres',
			"SELECT to_jsonb(t) - '{owner,lane,run_as}'::text[] FROM $_ t ORDER BY to_jsonb(t)::text COLLATE \"C\"") } @tables;
}
is(rows($subscriber), rows($origin), 'a subscriber: every row is as it is there');
$origin->stop;
$here = holds_still($subscriber, 'postgres', 'a subscriber', $by_us);
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM undone'), 0, 'a subscriber: nothing is undone');
is($subscriber->safe_psql('postgres', q{SELECT state FROM saga.sagas WHERE idempotency_key = 'overdue'}), 'running', 'a subscriber: no deadline passes');
like(sql_error($subscriber, q{SELECT * FROM saga.claim_compensations('tasks')}, 'postgres', extra_params => [ '-U', 'app' ]),
	qr/ERROR:  SG008: (.*\n)*HINT:  .*saga\.adopt\(\)/, 'a subscriber: nothing is to be claimed');
$subscriber->safe_psql('postgres', q{ALTER SUBSCRIPTION ledger DISABLE; ALTER SUBSCRIPTION ledger SET (slot_name = NONE); DROP SUBSCRIPTION ledger});
$subscriber->safe_psql('postgres', 'SELECT saga.adopt()');
is(sql_as($subscriber, 'app', q{SELECT step FROM saga.claim_compensations('tasks')}), 'a', 'a subscriber: adopted, a listener gets its work');
is(sql_as($subscriber, 'app', q{SELECT saga.complete_compensation(compensation_key) FROM saga.pending_compensations}), 'compensated', 'and reports it');
# The sequence of the start order is not replicated.
is(sql_as($subscriber, 'app', q{SELECT status FROM saga.step(saga.begin('order', 'running'), 'c', compensation =>
		$c$INSERT INTO undone (saga, step) VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'name')$c$);
	SELECT string_agg(key, ' ' ORDER BY position) FROM saga.steps WHERE saga_id = saga.begin('order', 'running')}),
	"started\na b c", 'a subscriber: the start order goes on');
sql_as($subscriber, 'app', q{SELECT saga.fail(saga.begin('order', 'running'))});
adopt($subscriber, 'postgres', 'a subscriber', 'left', $here);
is(undone($subscriber, 'postgres', 'running'), 'c app, b app, a app', 'a subscriber: in the reverse of it');
is(undone($subscriber, 'postgres', 'one') . undone($subscriber, 'postgres', 'undone'), '', 'a subscriber: what was undone there is not undone again');
is($subscriber->safe_psql('postgres', q{SELECT state FROM saga.sagas WHERE idempotency_key = 'overdue'}), 'compensated', 'a subscriber: deadlines pass');

$subscriber->stop;
done_testing();
