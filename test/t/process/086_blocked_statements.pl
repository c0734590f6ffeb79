# Statements that need a database, or the extension, for themselves, beside the
# same statements where none of our processes is: as quick, with an idle worker
# and with a busy one.  The extension that is created anew is served, and nothing
# is remembered of the old one.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $rounds = 2;
my @names = qw(none idle busy);
my $node = saga_cluster('main', databases => [],
	conf => "autovacuum = off\nsaga.max_executors = 10\nsaga.max_databases = 10\n"
	  . "saga.databases = 'idle, idle_2, idle_copy, busy, busy_2, busy_copy'\n");
$node->safe_psql('postgres', 'CREATE ROLE one LOGIN; CREATE ROLE two LOGIN');

# Failed sagas: one whose compensation runs until it is cut short, and ends at
# once when it is tried again; others for listeners
my $work = q{
	CREATE TABLE newest (k text);
	INSERT INTO newest VALUES ('');
	GRANT SELECT ON newest TO PUBLIC;
	CREATE FUNCTION work(k text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', k);
	BEGIN
		PERFORM saga.step(id, 'a', compensation => $c$SELECT pg_sleep(3600) FROM newest WHERE k = $1->'saga'->>'idempotency_key'$c$);
		PERFORM saga.fail(id);
		FOR i IN 1 .. 10 LOOP
			id := saga.begin('order');
			PERFORM saga.step(id, 'a', notify => 'tasks');
			PERFORM saga.fail(id);
		END LOOP;
	END $$;};

foreach my $name (@names)
{
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, "CREATE EXTENSION saga; $work");
}

# New work is under way: executors of two roles, and listeners are awaited.  Or
# the worker sleeps; or there is none.
my $number = 0;

sub at_work
{
	my ($database) = @_;
	return wait_until($node, qq{SELECT count(*) = @{[$database =~ /^idle/ ? 1 : 0]} FROM pg_stat_activity
		WHERE datname = '$database' AND backend_type LIKE 'saga %'}) if $database !~ /^busy/;
	my $k = 'k' . ++$number;
	$node->safe_psql($database, qq{
		GRANT USAGE ON SCHEMA saga TO one, two;
		UPDATE newest SET k = '$k';
		SET ROLE one; SELECT work('$k'); RESET ROLE;
		SET ROLE two; SELECT work('$k');});
	return wait_until($node, qq{
		SELECT count(*) = 2 AND (SELECT count(*) FROM saga.pending_compensations) >= 20
		FROM saga.steps JOIN saga.sagas ON id = saga_id WHERE idempotency_key = '$k' AND compensation_status = 'running'}, 't', $database);
}

my %took;

sub timed
{
	my ($what, $of, $sql, $in) = @_;
	my $session = session($node, database => $in // 'postgres', on_error_stop => 1);
	$session->query_safe('SET client_min_messages = error');
	my $start = time;
	$session->query_safe($sql);
	push @{ $took{$what}{$of} }, time - $start;
	$session->quit;
	return;
}

at_work($_) foreach @names;
foreach my $round (1 .. $rounds)
{
	foreach my $of (@names)
	{
		timed('ALTER DATABASE RENAME', $of, "ALTER DATABASE $of RENAME TO ${of}_2");
		at_work("${of}_2");
		timed('ALTER DATABASE RENAME', $of, "ALTER DATABASE ${of}_2 RENAME TO $of");
		at_work($of);
		timed('CREATE DATABASE TEMPLATE', $of, "CREATE DATABASE ${of}_copy TEMPLATE $of");
		$node->safe_psql("${of}_copy", 'SELECT saga.adopt()');
		at_work("${of}_copy");
		timed('DROP EXTENSION', $of, 'DROP EXTENSION saga', "${of}_copy");
		timed('CREATE EXTENSION', $of, 'CREATE EXTENSION saga', "${of}_copy");
		at_work("${of}_copy");
		# A session of one's own that listens is in the way of nothing here.
		my $listener = listen_to($node, { database => "${of}_copy" }, 'tasks');
		timed('DROP and CREATE EXTENSION', $of, 'BEGIN; DROP EXTENSION saga; CREATE EXTENSION saga; COMMIT', "${of}_copy");
		$listener->quit;
		at_work("${of}_copy");
		wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '${of}_copy' AND backend_type = 'client backend'");
		timed('DROP DATABASE', $of, "DROP DATABASE ${of}_copy");
		at_work($of);
	}
}

foreach my $what (sort keys %took)
{
	# The best of each: what else the machine does is none of ours.
	my %best = map { $_ => min(@{ $took{$what}{$_} }) } @names;
	diag(sprintf '%-26s %5.0f ms; with an idle worker %5.0f ms (%.2f), a busy one %5.0f ms (%.2f)', $what,
		1000 * $best{none}, map { 1000 * $best{$_}, $best{$_} / $best{none} } 'idle', 'busy');
	# So wide that only one that waits to be told, or for the server's 5 s, fails.
	cmp_ok($best{$_}, '<', 3 * $best{none} + 4, "$what, $_: about as quick as without us") foreach 'idle', 'busy';
}
guarantees($node, $_) foreach @names;

# --- RENAME may stand in a transaction, which then keeps our processes away from
# several databases; or in a function

my $err;
my $swap = q{
	ALTER DATABASE idle RENAME TO idle_2;
	ALTER DATABASE busy RENAME TO idle;
	ALTER DATABASE idle_2 RENAME TO busy;};
is($node->psql('postgres', "BEGIN; $swap COMMIT", on_error_stop => 1, stderr => \$err), 0, 'two databases change their names in one transaction') or diag($err);
wait_until($node, q{SELECT count(DISTINCT datname) = 2 FROM pg_stat_activity WHERE backend_type = 'saga worker' AND datname IN ('idle', 'busy')});
is($node->psql('postgres', "DO \$\$ BEGIN $swap END \$\$", on_error_stop => 1, stderr => \$err), 0, 'and in a function') or diag($err);
at_work('busy');
at_work('idle');
guarantees($node, $_) foreach @names;

# --- The new extension is served, from its first moment

my $listener = listen_to($node, { database => 'idle' }, 'tasks');
if (is_test_build())
{
	# The old one waits long between two announcements.
	virtual_clock($node, 'idle');
	$node->safe_psql('idle', q{
		SELECT saga.begin('order') AS id \gset
		SELECT FROM saga.step(:'id', 'a', notify => 'tasks');
		SELECT saga.fail(:'id')});
	foreach my $told (1 .. 7)
	{
		wait_heard($listener, '^tasks', $told);
		$node->safe_psql('idle', q{SELECT test_advance_clock('1 minute')});
	}
	wait_heard($listener, '^tasks', 8);
}
my $id = $node->safe_psql('idle', q{
	SET client_min_messages = error;
	BEGIN;
	DROP EXTENSION saga;
	CREATE EXTENSION saga;
	SELECT saga.begin('order', 'new') AS id \gset
	SELECT FROM saga.step(:'id', 'a', compensation => 'SELECT 1');
	SELECT FROM saga.step(:'id', 'b', notify => 'tasks');
	SELECT saga.fail(:'id') AS state \gset
	COMMIT;
	SELECT :'id'}) =~ s/.*\n//sr;
wait_heard($listener, "^tasks.*$id");
SKIP:
{
	skip 'needs the test build', 1 if !is_test_build();
	# It is told again after a second and two more, not after the minute of the old one.
	$node->safe_psql('idle', q{SELECT test_advance_clock('2 seconds')});
	ok(scalar(wait_heard($listener, "^tasks.*$id", 2)), 'nothing is remembered of the old one');
}
$listener->quit;
is($node->safe_psql('idle', q{SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('tasks')}), 'compensated',
	'the new one undoes, with its listeners');
is($node->safe_psql('idle', "SELECT saga.wait('$id')"), 'compensated', 'and without');
guarantees($node, 'idle');
$node->stop;
done_testing();
