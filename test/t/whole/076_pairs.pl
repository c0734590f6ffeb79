# Every pair of calls that can meet on one saga, in every situation: however they
# meet, it is as if one had come after the other.  test/pairs/pairs.py says how.
#
#   SAGA_PAIRS       how many of them, in percent (5, chosen by chance; 100 are
#                    some 70,000 meetings, half an hour)
#   SAGA_PAIRS_SEED  the seed of a former run

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'needs the test build' if !is_test_build();

my $share = $ENV{SAGA_PAIRS} // 5;
my $seed = $ENV{SAGA_PAIRS_SEED} // int(time * 1000) % 1_000_000_007;
diag("SAGA_PAIRS_SEED=$seed SAGA_PAIRS=$share");

my $node = saga_cluster('main', conf => "autovacuum = off\n");
my ($python) = interpreter('python');
local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres');
open my $pipe, '-|', $python, '-B', "$FindBin::RealBin/../../pairs/pairs.py", '--share', $share, '--seed', $seed
  or die "pairs.py: $!";
while (my $line = <$pipe>)
{
	chomp $line;
	note($line);
}
close $pipe;
is($?, 0, 'no two calls that meet do what they would not do one after the other');
guarantees($node);
$node->stop;
done_testing();
