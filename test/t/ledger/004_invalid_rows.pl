# Direct writes skip the constraints of the tables, so the ledger verifies every
# row itself: each rule, broken once on purpose, is refused and nothing stored.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

# From the source, so that none is forgotten.
my $source = slurp_file("$FindBin::RealBin/../../../src/ledger/rows.c");
my @points = $source =~ /SAGA_FAULT_SET\("(ledger_\w+\.\w+)"/g;
my %rules;
while ($source =~ /"(ledger_\w+)",\s*"(\w+)"\)/g) { $rules{"$1.$2"} = 1; }
cmp_ok(scalar @points, '>', 20, 'the source has points that break rules');

my $node = saga_cluster('main');
my $fingerprint = q{
	SELECT md5(string_agg(r, ',' ORDER BY r)) FROM (
		SELECT t::text AS r FROM saga.ledger_saga t UNION ALL SELECT t::text FROM saga.ledger_step t
		UNION ALL SELECT t::text FROM saga.ledger_attempt t UNION ALL SELECT t::text FROM saga.ledger_event t
		UNION ALL SELECT t::text FROM saga.ledger_due t UNION ALL SELECT t::text FROM saga.ledger_queue t
		UNION ALL SELECT t::text FROM saga.ledger_signal t) rows};

# For each table, calls that insert and that update a row of it.
my %calls = (
	ledger_saga => [ q{SELECT saga.begin('new', timeout => '1 day')}, q{SELECT saga.complete(:'id')},
		q{SELECT saga.fail(:'id', 'why')}, q{SELECT saga.cancel(:'id')},
		q{SELECT saga.claim_compensations('tasks')}, q{SELECT saga.extend_claim(:'held', 1, '2 days')},
		q{SELECT saga.complete_compensation(:'held')}, q{SELECT saga.fail_compensation(:'held', 1, 'no')} ],
	ledger_step => [ q{SELECT saga.step(:'id', 'new', compensation => 'SELECT 1')},
		q{SELECT saga.step(:'id', 'new', output => '1')},
		q{SELECT saga.complete_step(:'id', 'open', '1')}, q{SELECT saga.fail_step(:'id', 'open', 'no')},
		q{SELECT saga.step(:'id', 'open', compensation => 'SELECT 1')},
		q{SELECT saga.claim_compensations('tasks')}, q{SELECT saga.extend_claim(:'held', 1, '2 days')},
		q{SELECT saga.complete_compensation(:'held')}, q{SELECT saga.fail_compensation(:'held', 1, 'no')} ],
	ledger_attempt => [ q{SELECT saga.fail_step(:'id', 'open', 'no')},
		q{SELECT saga.step(:'id', 'open', compensation => 'SELECT 1')},
		q{SELECT saga.complete_compensation(:'held')}, q{SELECT saga.fail_compensation(:'held', 1, 'no')} ],
	ledger_signal => [ q{SELECT saga.signal(:'id', 'go', '1')}, q{SELECT saga.signal(:'id', 'go', '1', 'k')} ]);

# Rules that not every call can break: what the undo goes back to, where there
# is one; and that a step is held only while it is dispatched, where it is not.
my %only = (
	'ledger_saga.undo' => qr/saga\.(fail|cancel|claim|extend|\w+_compensation)/,
	'ledger_step.claimed' => qr/saga\.(?!claim|extend)/);

my $id = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'k')});
$node->safe_psql('postgres', qq{SELECT saga.step('$id', 'open', compensation => 'SELECT 1')});
# A saga that can be completed, for the calls that complete.
my $done = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'done')});
# Two sagas that undo a listener's step, and have one more to come: one is held,
# the other waits.
my $held_key;
foreach my $key ('held', 'waits')
{
	$node->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$key') AS id \\gset
		SELECT saga.step(:'id', 'before', notify => 'before') \\gset s
		SELECT saga.step(:'id', 'task', notify => 'tasks', compensation_retry => saga.retry_policy(timeout => '0')) \\gset t
		SELECT saga.fail(:'id') \\gset});
	wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue});
	$held_key //= $node->safe_psql('postgres', q{SELECT compensation_key FROM saga.claim_compensations('tasks', lease => '1 day')});
}
my $before = $node->safe_psql('postgres', $fingerprint);

foreach my $point (@points)
{
	my ($table, $rule) = split /\./, $point;
	my $only = $only{$point} // qr/./;
	my @those = grep { /$only/ } @{ $calls{$table} or die "no calls for $table" };
	my $script = "\\set VERBOSITY verbose\nSET saga.test_faults = '$point';\n";
	foreach my $call (@those)
	{
		my $saga = $call =~ /complete\(/ ? $done : $id;
		$script .= "\\warn == $call\n\\set id $saga\n\\set held $held_key\nBEGIN;\n$call;\nROLLBACK;\n";
	}
	$node->psql('postgres', $script, stderr => \my $err, on_error_stop => 0);
	my @not = grep {
		!/ERROR:  23000: refused to write a row of "$table" that breaks rule "\w+"\n(.*\n)*HINT:/
	} grep { /\S/ } split /^== /m, $err;
	is(join("\n", @not), '', "$point is refused by every call that writes there");
	# and outside of a transaction block
	my $call = $those[0];
	like(sql_error($node, "\\set id $id\nSET saga.test_faults = '$point'; $call"),
		qr/ERROR:  23000: /, "$point: the first call, by itself");
}
is($node->safe_psql('postgres', $fingerprint), $before, 'nothing was stored');

# Rules without a point that breaks them are those that need one.
my @untested = grep { my $r = $_; !grep { $_ eq $r } @points } sort keys %rules;
is(join(' ', @untested), '', 'no rule is left untested');

# Everything works without.
$node->safe_psql('postgres', "SELECT saga.fail('$id')");
wait_state($node, $id, 'compensated');
guarantees($node);
$node->stop;
done_testing();
