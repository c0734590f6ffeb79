# With more databases than workers, what waits unclaimed in each is announced
# ever less often too, and does not make workers come and go for it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', databases => [ 'a', 'b' ], conf => "saga.max_databases = 1\nautovacuum = off\nlog_connections = on\n");
foreach my $database ('a', 'b')
{
	virtual_clock($node, $database);
	$node->safe_psql($database, q{
		SELECT saga.fail(s) FROM (SELECT saga.begin('order') AS s OFFSET 0) b, LATERAL saga.step(s, 'a', notify => 'nobody') t});
	wait_until($node, 'SELECT count(*) = 1 FROM saga.ledger_queue', 't', $database);
}
# By then, the pauses are long.
my %listener = map { $_ => listen_to($node, { database => $_ }, 'nobody') } 'a', 'b';
foreach my $n (1 .. 10)
{
	foreach my $database ('a', 'b')
	{
		my $before = heard($listener{$database});
		$node->safe_psql($database, q{SELECT test_advance_clock('1 min')});
		wait_heard($listener{$database}, qr/^nobody\|/, $before + 1);
	}
}
my %before = map { $_ => scalar(heard($listener{$_})) } 'a', 'b';
usleep(8_000_000);
cmp_ok(heard($listener{$_}) - $before{$_}, '<=', 2, "$_: told ever less often") foreach 'a', 'b';
$_->quit foreach values %listener;
guarantees($node, $_) foreach 'a', 'b';
$node->stop;
done_testing();
