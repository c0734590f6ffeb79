# Many databases: each with the extension has its worker, whatever is created,
# dropped, renamed and copied beside it; none of our processes stands in the way
# of a statement that needs a database for itself.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main', databases => [ 'one', 'two' ], conf => "autovacuum = off\nlog_connections = on\nsaga.max_databases = 10\n");

# Nobody but us uses the server, so if there is somebody in template1, who is it?
sub create_database
{
	my ($name) = @_;
	return if eval { $node->safe_psql('postgres', "CREATE DATABASE $name"); 1 };
	my $why = $@;
	diag($node->safe_psql('postgres', q{SELECT pid, datname, usename, backend_type, backend_start, state, query FROM pg_stat_activity}));
	diag(join "\n", grep { /database=template1|saga (?:launcher|worker|executor)/ } split /\n/, slurp_file($node->logfile));
	die $why;
}
create_database('bare');

# What the sagas of a database need
sub equip
{
	my ($database) = @_;
	$node->safe_psql($database, q{
		CREATE TABLE undone (saga text, number integer);
		CREATE FUNCTION failed(key text, compensation text DEFAULT $c$INSERT INTO undone VALUES ($1->'saga'->>'idempotency_key')$c$)
		RETURNS uuid LANGUAGE plpgsql AS $$
		DECLARE
			id uuid := saga.begin('order', key);
		BEGIN
			PERFORM saga.step(id, 'a', compensation => compensation);
			PERFORM saga.fail(id);
			RETURN id;
		END $$;});
	return;
}

sub works
{
	my ($database, $what) = @_;
	my $key = "key $what";
	my $state = $node->safe_psql($database, "SELECT failed('$key') AS id \\gset\nSELECT saga.wait(:'id', '$PostgreSQL::Test::Utils::timeout_default s')");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is("$state " . $node->safe_psql($database, "SELECT count(*) FROM undone WHERE saga = '$key'"), 'compensated 1',
		"$database: $what");
}

# A compensation that runs until it is ended
sub busy
{
	my ($database, $key) = @_;
	my $saga = $node->safe_psql($database, "SELECT failed('$key', 'SELECT pg_sleep(3600)')");
	wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga'", 't', $database);
	return $saga;
}

sub processes
{
	my ($type) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'saga $type'});
}

sub wait_processes
{
	my ($type, $expected) = @_;
	return wait_until($node, qq{
		SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), '') FROM pg_stat_activity WHERE backend_type = 'saga $type'},
		$expected);
}

# The server gives up waiting for others to leave a database after 5 s.  Where
# the machine takes long even with nobody in the way, we may, too.
sub took
{
	my ($sql, $database) = @_;
	my $took = $node->safe_psql($database, qq{
		SELECT clock_timestamp() AS begun \\gset
		SET client_min_messages = error;
		$sql;
		SELECT extract(epoch FROM clock_timestamp() - :'begun')});
	$took =~ s/.*\n//s;
	return $took;
}

sub quickly
{
	my ($what, $sql, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $took = took($sql, $database // 'postgres');
	my $alone = $took < 4 ? 0 : took('CREATE DATABASE alone TEMPLATE template0; DROP DATABASE alone', 'postgres');
	return ok($took < 4 + 4 * $alone, $what) || diag("$took s, and $alone s with nobody in the way");
}

equip($_) foreach qw(one two);
wait_processes('worker', 'one two');
works($_, 'serves') foreach qw(one two);
is(processes('worker'), 'one two', 'a worker where the extension is, and nowhere else');
is($node->safe_psql('one', 'SELECT count(*) FROM undone') . $node->safe_psql('two', 'SELECT count(*) FROM undone'), '11',
	'each did its own');

# --- CREATE and DROP EXTENSION

$node->safe_psql('bare', 'CREATE EXTENSION saga');
equip('bare');
works('bare', 'created while the server runs');
$node->safe_psql('bare', 'BEGIN; DROP EXTENSION saga; ROLLBACK');
works('bare', 'dropped and rolled back');
quickly('DROP EXTENSION, idle', 'DROP EXTENSION saga', 'bare');
wait_processes('worker', 'one two');
like(sql_error($node, q{SELECT failed('x')}, 'bare'), qr/ERROR:  3F000: schema "saga" does not exist/, 'it is gone');
$node->safe_psql('bare', 'CREATE EXTENSION saga');
works('bare', 'created again');
busy('bare', 'sleeps');
quickly('DROP EXTENSION, busy', 'DROP EXTENSION saga', 'bare');
wait_processes('executor', '')
  or diag($node->safe_psql('postgres', q{SELECT datname, usename FROM pg_stat_activity WHERE backend_type = 'saga executor'}));
$node->safe_psql('bare', 'CREATE EXTENSION saga');
works('bare', 'created after a busy one was dropped');
quickly('DROP and CREATE at once', 'DROP EXTENSION saga; CREATE EXTENSION saga', 'bare');
works('bare', 'dropped and created at once');
quickly('DROP and CREATE in one transaction', 'BEGIN; DROP EXTENSION saga; CREATE EXTENSION saga; COMMIT', 'bare');
works('bare', 'dropped and created in one transaction');
busy('bare', 'sleeps');
quickly('DROP and CREATE at once, busy', 'DROP EXTENSION saga; CREATE EXTENSION saga', 'bare');
works('bare', 'dropped and created at once while busy');
$node->safe_psql('bare', 'ALTER EXTENSION saga UPDATE');
works('bare', 'updated');

# --- Statements that need a database for themselves

foreach my $how (qw(idle busy))
{
	my $saga = $how eq 'busy' ? busy('bare', "rename $how") : undef;
	quickly("ALTER DATABASE RENAME, $how", 'ALTER DATABASE bare RENAME TO renamed');
	works('renamed', "renamed, $how");
	quickly("ALTER DATABASE RENAME back, $how", 'ALTER DATABASE renamed RENAME TO bare');
	wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga'", 't', 'bare') if $saga;
	quickly("CREATE DATABASE TEMPLATE, $how", 'CREATE DATABASE copy TEMPLATE bare');
	works('bare', "copied, $how");
	if ($saga)
	{
		is($node->safe_psql('bare', "SELECT count(*) FROM saga.attempts WHERE saga_id = '$saga' AND outcome <> 'interrupted'"),
			0, 'what ran meanwhile was interrupted');
		is($node->safe_psql('bare', "SELECT coalesce(max(comp_charged), 0) FROM saga.ledger_step WHERE saga = '$saga'"), 0, 'and not charged');
	}
	# While the original runs
	wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga'", 't', 'bare') if $saga;
	like($node->safe_psql('copy', "SELECT DISTINCT next_action FROM saga.sagas WHERE state = 'compensating'"),
		$how eq 'busy' ? qr/copied here from another server or database/ : qr/^$/, "the copy waits for its adoption, $how");
	quickly("DROP DATABASE, $how", 'DROP DATABASE copy');
}
# A user who may not do it disturbs nobody.
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');
my ($pid) = worker_pid($node, 'one');
like(sql_error($node, 'DROP DATABASE one', 'postgres', extra_params => [ '-U', 'nobody' ]), qr/must be owner of database/, 'not the owner');
is(worker_pid($node, 'one'), $pid, 'the worker stays for a statement that fails');
my $holder = session($node, database => 'bare');
$holder->query_safe('SELECT 1');
like(sql_error($node, 'DROP DATABASE bare'), qr/being accessed by other users\n.*1 other session/, 'somebody else is in the way, not we');
$holder->quit;
works('bare', 'serves after a DROP DATABASE that failed');
# Its sleeping compensation runs again after all that.
wait_until($node, "SELECT count(*) = 1 FROM saga.steps WHERE compensation_status = 'running'", 't', 'bare');
quickly('DROP DATABASE of a busy one', 'DROP DATABASE bare');
wait_processes('worker', 'one two');

# --- Settings

my $offset = log_offset($node);
$node->append_conf('postgresql.conf', "saga.databases = 'two, three'");
$node->reload;
wait_processes('worker', 'two');
my $held = $node->safe_psql('one', q{SELECT failed('held')});
works('two', 'is on the list');
like($node->safe_psql('one', "SELECT next_action FROM saga.sagas WHERE id = '$held'"), qr/saga\.databases/, 'one that is not says so');
create_database('three');
$node->safe_psql('three', 'CREATE EXTENSION saga');
equip('three');
works('three', 'is on the list before it exists');
$node->append_conf('postgresql.conf', "saga.databases = '*'\nsaga.enabled = off");
$node->reload;
wait_processes('worker', '');
my $waits = $node->safe_psql('two', q{SELECT failed('waits')});
$node->append_conf('postgresql.conf', 'saga.enabled = on');
$node->reload;
wait_state($node, $held, 'compensated', 'one');
wait_state($node, $waits, 'compensated', 'two');
wait_processes('worker', 'one three two');

# --- More databases than workers

$node->append_conf('postgresql.conf', 'saga.max_databases = 1');
$node->reload;
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'saga worker'});
create_database('four');
$node->safe_psql('four', 'CREATE EXTENSION saga');
equip('four');
foreach my $round (1, 2)
{
	works($_, "takes turns, round $round") foreach qw(one two three four);
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'saga worker'}), 1,
	'never more than saga.max_databases');
my %saga = map { $_ => $node->safe_psql($_, q{SELECT failed('at once')}) } qw(one two three four);
wait_state($node, $saga{$_}, 'compensated', $_) foreach sort keys %saga;
# A deadline in a database that has no worker at that moment
my $deadline = $node->safe_psql('one', q{SELECT saga.begin('order', 'deadline', timeout => '2 s')});
works('two', 'has the only worker');
wait_state($node, $deadline, 'compensated', 'one');
# One that is busy for long does not keep the others from their turn.
my $long = busy('three', 'long');
works('four', 'does not wait for a busy one for ever');

$node->safe_psql('three', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor' AND datname = 'three'});

# --- The launcher looks after databases that may need it, and after no others: a
# slot of one in which there may be no worker would wake it each minute.

$node->append_conf('postgresql.conf', "saga.databases = 'one, two, three, four'");
$node->reload;
$node->safe_psql('postgres', q{CREATE FUNCTION database_slots() RETURNS oid[] AS 'saga', 'saga_sql_test_database_slots' LANGUAGE C});
create_database('off_the_list');
$node->safe_psql('postgres', 'ALTER DATABASE off_the_list RENAME TO still_off_it');
is($node->safe_psql('postgres', q{SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE oid = ANY (database_slots()) AND datname NOT IN ('postgres', 'one', 'two', 'three', 'four')}),
	'', 'databases whose only need was that nobody of ours is there are forgotten');
$node->safe_psql('still_off_it', 'CREATE EXTENSION saga');
equip('still_off_it');
my $off = $node->safe_psql('still_off_it', q{SELECT failed('off the list')});
$node->safe_psql('postgres', 'ALTER DATABASE still_off_it RENAME TO off_the_list');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE oid = ANY (database_slots()) AND datname = 'off_the_list'}),
	1, 'but not one in which something is due');
$node->append_conf('postgresql.conf', "saga.databases = '*'");
$node->reload;
wait_state($node, $off, 'compensated', 'off_the_list');

no_log($node, qr/PANIC|TRAP|terminated by signal/, $offset, 'nothing crashed');
guarantees($node, $_) foreach qw(one two three four);
$node->stop;
done_testing();
