# "make installcheck" passes against a server of which nothing is known but that it
# preloads saga, passes again, and leaves nothing behind that was not there before.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../../..";
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'saga'\n");
$node->start;

# In a copy of its own: it writes its results where it is called.
my $dir = PostgreSQL::Test::Utils::tempdir();
system('cp', '-a', (map { "$root/$_" } qw(Makefile src sql expected test saga.control saga--1.0.sql saga_cluster.sql)), $dir) == 0
  or die 'could not copy the sources';

sub shared_objects
{
	return $node->safe_psql('postgres', q{
		SELECT 'role ' || rolname FROM pg_roles
		UNION ALL SELECT 'setting ' || setdatabase || ' ' || setrole FROM pg_db_role_setting
			WHERE setrole <> 0 OR setdatabase = 0	-- pg_regress makes some for its databases
		UNION ALL SELECT 'prepared ' || gid FROM pg_prepared_xacts
		UNION ALL SELECT 'file ' || name FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf'
		UNION ALL SELECT 'database ' || datname FROM pg_database
			WHERE datname NOT IN ('contrib_regression', 'isolation_regression')
		ORDER BY 1});
}

my $before = shared_objects();
local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, MAKEFLAGS => '', MAKELEVEL => '');
# Again with those only that make something outside of their database.
my @again = map { /(\w+)\.sql$/ } grep { slurp_file($_) =~ /CREATE (?:ROLE|DATABASE)/ } glob("$root/sql/*.sql");
my %marked = map { /^(\w+) \w/ ? ($1 => 1) : () } split /\n/, slurp_file("$root/test/regress.list");
my $again = join ' ', grep { !$marked{$_} } @again;
like($again, qr/security/, 'some tests make roles');
foreach my $part ([ 'all of it', '' ], [ 'again', "REGRESS='$again'" ])
{
	my ($what, $variables) = @$part;
	my $log = "$dir/installcheck.log";
	my $code = system("make -C '$dir' installcheck PG_CONFIG=pg_config $variables >'$log' 2>&1");
	is($code, 0, "installcheck passes, $what")
	  or diag(join "\n", map { slurp_file($_) } grep { -f $_ } $log, glob("$dir/{,output_iso/}regression.diffs"));
	my $tests = () = slurp_file($log) =~ /^(?:test .* ok |ok \d+ )/mg;
	cmp_ok($tests, '>=', split(' ', $again) + 30, "$tests tests, $what");
	is(shared_objects(), $before, "it leaves nothing behind, $what");
}

$node->stop;
done_testing();
