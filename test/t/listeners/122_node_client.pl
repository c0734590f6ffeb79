# What a program of clients/node did is lost or done twice, an error of it is not seen, or
# the package is not what it promises: its own tests (node --test), against a server that
# they have for themselves, and PgBouncer before it.  Then orders by the hundred, while
# programs are killed and the server is stopped in the middle.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $client = "$FindBin::RealBin/../../../clients/node";
my ($interpreter, @node) = split / /, `'$FindBin::RealBin/../../clients/interpreter' node` =~ s/\n//r;
plan skip_all => 'needs node with the module pg' if !defined $interpreter;
my @command = ($interpreter, @node);
my ($version) = `@command --version` =~ /^v(\d+)/;
plan skip_all => 'needs node 20 or later' if $version < 20;

my $node = saga_cluster('main', conf => "saga.max_executors = 4\nlog_statement = none\n");
my $user = $ENV{USER} // getpwuid($<);

# PgBouncer in transaction mode, for those who would LISTEN through it
my $pgbouncer = start_pgbouncer($node, 4, $user);
my $dir = PostgreSQL::Test::Utils::tempdir();

my %env = (PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres', PGUSER => $user,
	defined $pgbouncer ? (POOLER_HOST => $pgbouncer->{host}, POOLER_PORT => $pgbouncer->{port}) : ());

# ------------------------------------------------------------ its own tests

{
	local %ENV = (%ENV, %env);
	# What hangs is to fail.
	my $seconds = 3 * $PostgreSQL::Test::Utils::timeout_default;
	open my $tests, '-|', 'timeout', '-k', 10, $seconds, @command, '--test', '--test-reporter=tap', '--test-concurrency=2', glob("$client/test/*.test.js")
	  or die "node: $!";
	my ($said, $planned) = ('', 0);
	while (my $line = <$tests>)
	{
		if ($line =~ /^\s*(not )?ok \d+ - (.*?)( # SKIP.*)?$/)
		{
			$3 ? pass("$2$3") : ok(!$1, $2);
			$planned++;
		}
		$said .= $line if $line !~ /^\s*(?:---|\.\.\.|duration_ms:|type:)/;
	}
	close $tests;
	is($?, 0, 'all tests were run');
	cmp_ok($planned, '>', 30, 'and there are some');
	Test::More->builder->is_passing ? note($said) : diag($said);
}
stop_program($pgbouncer) if defined $pgbouncer;
guarantees($node);

# ------------------------------------------- everything dies, again and again

my $orders = $ENV{SAGA_CLIENT_ORDERS} // 150;
$node->safe_psql('postgres', 'CREATE TABLE booked (key text, what text)');
sub start_load
{
	my ($name) = @_;
	return start_program($name, { %env, BANK => "$dir/bank", NODE_PATH => $ENV{NODE_PATH} // '' }, @command, "$client/test/load.js", $orders);
}
my $load = start_load('load');
foreach my $round (1 .. 6)
{
	wait_until($node, "SELECT count(*) >= $orders * $round / 7 FROM saga.sagas WHERE name = 'load' AND state <> 'running'");
	if ($round % 3)
	{
		kill_program($load);
		$load = start_load("load$round");
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
}
is(wait_program($load), 0, 'in the end all orders are done') or diag(slurp_file($load->{log}));
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.sagas WHERE name = 'load' AND state NOT IN ('completed', 'compensated'))});
append_to_file("$dir/effects", join '', map { "$_\n" } grep { !/^known/ } split /\n/, slurp_file("$dir/bank"));
is($node->safe_psql('postgres', qq{
	CREATE TABLE effect (what text, key text);
	\\copy effect FROM '$dir/effects' WITH (DELIMITER ' ')
	SELECT s.idempotency_key, s.state, booked.list, effect.list
	FROM saga.sagas s
	JOIN saga.steps t ON t.saga_id = s.id AND t.key = 'charge'
	LEFT JOIN LATERAL (SELECT string_agg(what, ',' ORDER BY what) AS list FROM booked WHERE key = s.idempotency_key) booked ON true
	LEFT JOIN LATERAL (SELECT string_agg(what, ',' ORDER BY what) AS list FROM effect WHERE key = t.forward_key) effect ON true
	WHERE s.name = 'load' AND booked.list || ' ' || effect.list IS DISTINCT FROM
		CASE s.state WHEN 'completed' THEN 'reserved,shipped charge' ELSE 'released,reserved charge,refund' END}),
	'', 'each effect once, and undone once where the order failed');
is($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE state = 'completed') > 0, count(*) FILTER (WHERE state = 'compensated') > 0, count(*)
	FROM saga.sagas WHERE name = 'load'}), "t|t|$orders", 'of both kinds');
guarantees($node);
done_testing();
