# Random definitions of sagas that the server runs (test/model/forward.py): whatever
# begins at the same time, each effect happens once, no step begins before its gates
# are open, and the undo is the exact reverse of the order in which steps began.
# In the test build once more, with every saga taken for one with many steps: the
# executor then knows from memory what the end of a step opens, and the server
# asserts that all steps of the saga say the same.
#
#   SAGA_FORWARD_SAGAS  how many (300)
#   SAGA_FORWARD_SEED   the seed of a former run

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{SAGA_FORWARD_SEED} // int(time * 1000) % 1_000_000_007;
my $sagas = $ENV{SAGA_FORWARD_SAGAS} // 300;
my $dir = "$FindBin::RealBin/../../model";
diag("SAGA_FORWARD_SEED=$seed SAGA_FORWARD_SAGAS=$sagas");

my $node = saga_cluster('main', conf => "log_min_messages = fatal\n");
$node->psql('postgres', "\\i $dir/forward.sql", on_error_die => 1);

local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
local $ENV{PGDATABASE} = 'postgres';

sub check_sagas
{
	my ($seed, $what) = @_;
	my @command = (interpreter('python'), '-B', "$dir/forward.py", '--seed', $seed, '--sagas', $sagas);
	open my $pipe, '-|', @command or die "$command[0]: $!";
	my $report = join '', <$pipe>;
	close $pipe;
	is($?, 0, "$what: what must come of $sagas sagas came") or diag($report);
	like($report, qr/^seed $seed: $sagas sagas, .*completed, 0 faults/m, '... all of them ended');
	is($node->safe_psql('postgres', "SELECT count(*) FROM saga.ledger_due"), 0, '... nothing is due');
	is($node->safe_psql('postgres', "SELECT count(*) FROM saga.ledger_held"), 0, '... nobody is asked');
}

check_sagas($seed, 'as they are');
if (is_test_build())
{
	$node->safe_psql('postgres', q{ALTER SYSTEM SET saga.test_faults = 'executor.small'; SELECT pg_reload_conf();});
	check_sagas($seed + 1, 'as if they had many steps');
}

guarantees($node);
done_testing();
