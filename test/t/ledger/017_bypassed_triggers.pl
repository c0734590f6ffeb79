# Tools that follow a table by its triggers or rules would miss what saga writes:
# they are refused, and where nobody could refuse them, nothing is written
# meanwhile.  Not one saga that was acknowledged is lost.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $ddl_refused = qr/ERROR: +(0A000: )?cannot create a trigger on table "ledger_saga" of the ledger\n(.*\n)*?.*HINT: +VACUUM FULL and CLUSTER/;
my $follow = q{CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;};
my $trigger = q{CREATE TRIGGER follow AFTER INSERT ON saga.ledger_saga FOR EACH ROW EXECUTE FUNCTION public.follow()};

my $preloaded = saga_cluster('preloaded');
# As a server that was restarted without the line: only sessions that call saga
# have the library.
my $loaded_late = saga_cluster('loaded_late', preload => 0);

# ------------------------------------------------ a trigger, where it is refused

$preloaded->safe_psql('postgres', $follow);
like(sql_error($preloaded, $trigger), $ddl_refused, 'preloaded: a session that has never called saga is refused');
like(sql_error($preloaded, $trigger, 'postgres', connstr => $preloaded->connstr('postgres') . " options='-c session_replication_role=replica'"),
	$ddl_refused, 'preloaded: whatever its replication role');
# While it waits for a lock, all would wait behind it: so it does not come to that.
{
	my $open = session($preloaded);
	$open->query_safe(q{BEGIN; SELECT saga.begin('open')});
	like(sql_error($preloaded, "SET lock_timeout = '100s'; $trigger"), $ddl_refused, 'preloaded: without waiting for anybody');
	like(sql_error($preloaded, "SET lock_timeout = '100s'; CREATE TABLE t (saga uuid REFERENCES saga.ledger_saga)"),
		qr/ERROR:  0A000: .*foreign key/, 'preloaded: so is a foreign key');
	$open->query_safe('COMMIT');
	$open->quit;
}
# The script of another extension is nobody else than who runs it.
my $extension = $preloaded->config_data('--sharedir') . '/extension';
SKIP:
{
	skip 'cannot write beside the other extensions', 2 if !-w $extension;
	append_to_file("$extension/follows_saga.control", "default_version = '1'\nrelocatable = true\n");
	append_to_file("$extension/follows_saga--1.sql", "$follow\n$trigger;\n");
	like(sql_error($preloaded, 'DROP FUNCTION follow(); CREATE EXTENSION follows_saga'), $ddl_refused, 'preloaded: in the script of another extension');
	unlink "$extension/follows_saga.control", "$extension/follows_saga--1.sql";
	is($preloaded->safe_psql('postgres', q{DROP EXTENSION saga; CREATE EXTENSION saga;
		SELECT count(*) = 2 * (SELECT count(*) FROM pg_class WHERE relnamespace = 'saga'::regnamespace AND relkind = 'r')
		FROM pg_trigger}), 't', 'preloaded: our own makes its guards');
}

# ------------------------------------- a trigger, where nobody saw that it was made

$loaded_late->safe_psql('postgres', $follow);
{
	my $session = session($loaded_late);
	$session->query_safe('SET client_min_messages = error');
	my $id = $session->query_safe(q{SELECT saga.start('order', 'before')});
	$loaded_late->safe_psql('postgres', $trigger);
	foreach my $call (q{SELECT saga.begin('order', 'after')}, "SELECT saga.fail('$id')")
	{
		like(sql_error($loaded_late, $call), qr/ERROR:  SG008: table "ledger_saga" has trigger "follow".*\n(.*\n)*HINT:  Drop it/,
			"loaded late: refused meanwhile: $call");
		$session->query("\\set VERBOSITY verbose\n$call");
		like($session->{stderr}, qr/ERROR:  SG008: table "ledger_saga" has trigger "follow"/, 'loaded late: also in a session that was there before');
		$session->{stderr} = '';
	}
	is($session->query_safe("SELECT state FROM saga.sagas WHERE id = '$id'"), 'running', 'loaded late: the views can be read');
	is($session->query_safe('SELECT count(*) FROM saga.sagas'), '1', 'loaded late: nothing was written');
	$session->query("\\set VERBOSITY verbose\n$trigger");
	like($session->{stderr}, $ddl_refused, 'loaded late: the session that has the library is refused');
	$session->{stderr} = '';
	$loaded_late->safe_psql('postgres', 'DROP TRIGGER follow ON saga.ledger_saga');
	is($session->query_safe("SELECT saga.fail('$id')"), 'compensated', 'loaded late: dropped, it goes on');
	$session->quit;
}

# ----------------------------------------------------------------- pg_repack itself

SKIP:
{
	skip 'pg_repack is not installed', 1 if !grep { -x "$_/pg_repack" } split /:/, $ENV{PATH};
	my $script = PostgreSQL::Test::Utils::tempdir() . '/begin';
	append_to_file($script, q{
		\set key random(1, 1000000000)
		BEGIN;
		SELECT saga.begin('load', ':key ' || txid_current()) AS id \gset
		SELECT seq FROM saga.step(':id', 'a');
		INSERT INTO acknowledged VALUES (':id');
		COMMIT;
	});

	# Runs pg_repack while sagas are begun, from before it starts to after it ends.
	# A client that meets an error ends, and the next ones go on.
	my $repack = sub {
		my ($node, @options) = @_;
		my $done = PostgreSQL::Test::Utils::tempdir() . '/done';
		my $load = fork() // die "fork: $!";
		if ($load == 0)
		{
			# exec would leave, and so would exit, what Test::More and the cluster registered
			local $ENV{PGHOST} = $node->host;
			local $ENV{PGPORT} = $node->port;
			for (1 .. 1000)
			{
				last if -e $done;
				system("pgbench -n -t 40 -c 3 -j 1 -f $script postgres >/dev/null 2>&1");
			}
			require POSIX;
			POSIX::_exit(0);
		}
		wait_until($node, 'SELECT count(*) > 100 FROM acknowledged');
		my ($out, $err) = ('', '');
		my $code = IPC::Run::run([ 'pg_repack', '-h', $node->host, '-p', $node->port, '-d', 'postgres', @options ], '>', \$out, '2>', \$err) ? 0 : 1;
		append_to_file($done, "done\n");
		waitpid $load, 0;
		unlink $done;
		return ($code, "$out$err");
	};
	my $whole = sub {
		my ($node, $what) = @_;
		is($node->safe_psql('postgres', q{
			SELECT count(*) FROM acknowledged WHERE id NOT IN (SELECT id FROM saga.ledger_saga);
			SELECT count(*) FROM acknowledged WHERE id NOT IN (SELECT saga FROM saga.ledger_step);
			SELECT count(*) FROM saga.ledger_step WHERE saga NOT IN (SELECT id FROM saga.ledger_saga);
			SELECT string_agg(tgname, ' ') FROM pg_trigger WHERE NOT tgisinternal AND tgname NOT LIKE 'guard%'}), "0\n0\n0\n",
			"$what: whatever was acknowledged is there");
	};
	foreach my $node ($preloaded, $loaded_late)
	{
		$node->safe_psql('postgres', q{
			CREATE EXTENSION pg_repack;
			CREATE TABLE acknowledged (id uuid PRIMARY KEY);
			CREATE TABLE other (n int PRIMARY KEY);
			INSERT INTO other SELECT generate_series(1, 1000);
			SELECT count(saga.begin('history', i::text)) FROM generate_series(1, 5000) i;});
	}

	my ($code, $said) = $repack->($preloaded, '-t', 'saga.ledger_saga', '-n');
	isnt($code, 0, 'pg_repack: it fails');
	like($said, $ddl_refused, 'pg_repack: with the reason and what to do instead');
	$whole->($preloaded, 'pg_repack');
	($code, $said) = $repack->($preloaded, '-t', 'saga.ledger_step');
	isnt($code, 0, 'pg_repack: on another table, too');
	$whole->($preloaded, 'pg_repack on another table');
	($code, $said) = $repack->($preloaded, '--exclude-extension=saga');
	is($code, 0, 'pg_repack: all but the ledger can be repacked');
	like($said, qr/repacking table "public.other"/, 'pg_repack: and is');
	$whole->($preloaded, 'pg_repack without the ledger');
	($code, $said) = $repack->($preloaded, '-x', '-t', 'saga.ledger_saga');
	is($code, 0, 'pg_repack: its indexes alone, which need no trigger') or diag $said;
	$whole->($preloaded, 'pg_repack of indexes');
	$preloaded->safe_psql('postgres', 'VACUUM FULL saga.ledger_saga; CLUSTER saga.ledger_step USING ledger_step_key');
	$whole->($preloaded, 'VACUUM FULL and CLUSTER');

	# Nobody refuses it here; but while it is at work, nothing is acknowledged.
	($code, $said) = $repack->($loaded_late, '-t', 'saga.ledger_saga', '-n');
	$whole->($loaded_late, 'pg_repack, loaded late');
	($code, $said) = $repack->($loaded_late, '-t', 'saga.ledger_step', '-n');
	$whole->($loaded_late, 'pg_repack on another table, loaded late');
}

guarantees($preloaded);
$_->stop foreach $preloaded, $loaded_late;
done_testing();
