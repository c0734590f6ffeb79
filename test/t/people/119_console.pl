# What a browser shows is wrong, late, or somebody else's; a decision is lost, or
# made by one who may not: the console, in a real browser.  The tests themselves
# are in console/test/browser.js.
#
# SAGA_CONSOLE_SAGAS=1000000: so many sagas, instead of 20,000.
# SAGA_CONSOLE_SHOTS=FOLDER: pictures of the pages, for a look.
# SAGA_CONSOLE_ONLY=WORD: the tests of that name only.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $console = "$FindBin::RealBin/../../../console";
my ($chromium) = grep { -x } map { ("/usr/bin/$_", "/usr/local/bin/$_") } qw(chromium chromium-browser google-chrome);
my $version = `node --version 2>/dev/null` || '';

plan skip_all => 'needs node 20 or later' if $version !~ /^v(\d+)/ || $1 < 20;
plan skip_all => 'needs chromium' if !$chromium;
plan skip_all => 'needs what "console/install test" installs'
  if !-r "$console/node_modules/playwright-core/package.json" ||
  system('cmp', '-s', "$console/package-lock.json", "$console/node_modules/.installed") != 0;

my $node = saga_cluster('main', conf => "saga.review_channel = 'needs_review'\n");
$node->safe_psql('postgres', q{
	CREATE ROLE shop LOGIN;
	CREATE SCHEMA shop AUTHORIZATION shop;
	CREATE ROLE oncall;
	CREATE ROLE ann LOGIN IN ROLE oncall, shop;
	CREATE ROLE ben LOGIN IN ROLE oncall;
	CREATE ROLE monty LOGIN IN ROLE pg_monitor;
	CREATE ROLE stranger LOGIN;
	CREATE ROLE nobody_at_all LOGIN;
	GRANT USAGE ON SCHEMA saga TO shop, oncall, pg_monitor, stranger;
	ALTER DATABASE postgres SET saga.operator_role = 'oncall'});

local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres', PGUSER => $ENV{USER} // getpwuid($<),
	PGDATA => $node->data_dir, PGLOG => $node->logfile, SAGA_CHROMIUM => $chromium);
open my $tests, '-|', 'node', "$console/test/browser.js" or die "node: $!";
my $planned = 0;
my $said = '';
while (my $line = <$tests>)
{
	chomp $line;
	if ($line =~ /^(not )?ok \d+ - (.*)/) { ok(!$1, $2); }
	elsif ($line =~ /^1\.\.(\d+)$/) { $planned = $1; }
	elsif ($line =~ /^# report: (.*)/) { report($1); }
	else { $said .= "$line\n"; }
}
close $tests;
Test::More->builder->is_passing ? note($said) : diag($said);
is($?, 0, 'all tests were run');
is($planned, Test::More->builder->current_test - 1, 'and counted');
guarantees($node) if !$ENV{SAGA_CONSOLE_ONLY};

done_testing();
