# Random histories of calls, replayed against a model of the contract
# (test/model/model.py) and a real server at the same time: answers, errors,
# states, attempts, effects, events and plans must be the same.
#
#   SAGA_MODEL_HISTORIES  how many (200)
#   SAGA_MODEL_SEED       the seed of a former run
#   SAGA_MODEL_SLOTS      how many are under way at a time (100)
#   SAGA_MODEL_LOOK       the views are compared every so many rounds (3)
#   SAGA_MODEL_VERBOSE    how often each call was made in each state, and answered how

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'needs the test build' if !is_test_build();

my $seed = $ENV{SAGA_MODEL_SEED} // int(time * 1000) % 1_000_000_007;
my $histories = $ENV{SAGA_MODEL_HISTORIES} // 200;
my $dir = "$FindBin::RealBin/../../model";
diag("SAGA_MODEL_SEED=$seed SAGA_MODEL_HISTORIES=$histories");

# Refusals that are asked for need not fill the log.
my $node = saga_cluster('main', conf => "log_min_messages = fatal\n");
$node->psql('postgres', "\\i $dir/world.sql", on_error_die => 1);

local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
local $ENV{PGDATABASE} = 'postgres';
# It leaves nothing beside its sources.
my @command = (interpreter('python'), '-B', "$dir/replay.py", '--seed', $seed, '--histories', $histories,
	'--slots', $ENV{SAGA_MODEL_SLOTS} // 100, '--look', $ENV{SAGA_MODEL_LOOK} // 3);
push @command, '--verbose' if $ENV{SAGA_MODEL_VERBOSE};
open my $pipe, '-|', @command or die "$command[0]: $!";
my $report = '';
while (my $line = <$pipe>)
{
	$report .= $line;
	chomp $line;
	note($line);
}
close $pipe;
is($?, 0, "the model and the server agree over $histories histories") or diag($report);
like($report, qr/^seed $seed: $histories histories, /m, 'all of them were played');

guarantees($node);
done_testing();
