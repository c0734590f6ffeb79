# Work is repeated, an effect is lost or forgotten, a lease ends in the middle of the work:
# what clients/python promises, by its own tests in clients/python/tests, against a
# server of this test's; among them kill -9 at every boundary.  In the end the ledger
# says the same as the witnesses of those tests.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use File::Basename;
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my ($python) = eval { interpreter('python') };
plan skip_all => 'needs python3 with psycopg 3' if !$python;

my $node = saga_cluster('main', conf => "saga.max_executors = 4\nlog_statement = none\n");
$node->safe_psql('postgres', q{
	CREATE ROLE shop_sagas;
	CREATE ROLE shop LOGIN IN ROLE shop_sagas, pg_monitor;
	GRANT USAGE ON SCHEMA saga TO shop_sagas;
	CREATE SCHEMA shop AUTHORIZATION shop});

# PgBouncer in transaction mode, where there is one
my $pgbouncer = start_pgbouncer($node, 3, 'shop');
note('no PgBouncer: what goes through it is skipped') if !defined $pgbouncer;

my $client = "$FindBin::RealBin/../../../clients/python";
my %env = (PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres', PGUSER => 'shop',
	SAGA_CRASH => "pg_ctl -s -w -D '@{[ $node->data_dir ]}' -l '@{[ $node->logfile ]}' -m immediate restart",
	PYTHONPATH => $client, PYTHONDONTWRITEBYTECODE => 1, PG_TEST_TIMEOUT_DEFAULT => $PostgreSQL::Test::Utils::timeout_default,
	defined $pgbouncer ? (SAGA_PGBOUNCER => "host=$pgbouncer->{host} port=$pgbouncer->{port}") : ());
foreach my $tests (map { basename($_) } sort glob "$client/tests/test_*.py")
{
	my $test = start_program($tests, \%env, $python, '-m', 'unittest', 'discover', '-v', '-s', "$client/tests", '-p', $tests);
	my $code;
	# Longer than one wait of it may take
	for (1 .. 10) { last if defined($code = eval { wait_program($test) }); }
	my $said = slurp_file($test->{log});
	is($code, 0, "clients/python/tests/$tests") or diag($said);
	note($said);
	like($said, qr/^Ran [1-9]\d* tests? in/m, "$tests: there were some");
}
# Those that the tests leave as they are, on purpose, belong to nobody any more.
guarantees($node);
$node->stop;
done_testing();
