# Two processes look at a saga at the same time, each with something that the other
# does not see.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaFixtures;
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main');
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE FUNCTION slow(context jsonb) RETURNS void LANGUAGE sql SET lock_timeout = 0 AS 'SELECT pg_advisory_xact_lock_shared(4711)'});
my $user = $node->safe_psql('postgres', 'SELECT current_user');
my $lock = session($node);

# A saga with these steps, of which "slow" runs until it is let go, and "waits" has its
# first gate open.
sub saga
{
	my ($steps, $waits) = @_;

	$lock->query_safe('SELECT pg_advisory_lock(4711)');
	my $saga = (split /\n/, $node->safe_psql('postgres', qq{
		SELECT saga.begin('order') AS id \\gset
		SELECT saga.step(:'id', 'slow', after => '{}', action => 'SELECT slow(\$1)') \\g /dev/null
		} . join('', map { "SELECT saga.step(:'id', $_) \\g /dev/null\n" } @$steps) . "SELECT :'id'"))[-1];
	wait_until($node, "SELECT count(*) = 1 FROM saga.running WHERE saga_id = '$saga'");
	wait_until($node, "SELECT ready_at IS NOT NULL FROM saga.ledger_step WHERE saga = '$saga' AND key = '$waits'");
	return $saga;
}

# The worker stands still in its look when the action ends, and its executor looks.
sub end_slow
{
	my ($saga) = @_;

	wait_struck($node);
	$lock->query_safe('SELECT pg_advisory_unlock(4711)');
	wait_until($node, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$saga' AND key = 'slow'");
	idle_executor($node, $user);
	return;
}

sub steps_of
{
	my ($saga) = @_;
	return $node->safe_psql('postgres', "SELECT string_agg(key || ' ' || status, ', ' ORDER BY key) FROM saga.steps WHERE saga_id = '$saga'");
}

# --- Each makes a step done: the time of a timer comes after the worker has read the
# steps.  What waits for both begins all the same.  A look that makes a step done asks
# nobody to look again, so no other may be under way (src/flow/look.c).

my $saga = saga([ q{'timer', after => '{}', delay => '1 hour'}, q{'gate', after => '{slow}'},
	q{'join', after => '{timer,gate}', action => 'SELECT 1'} ], 'timer');
set_faults($node, 'look.after_read=wait once');
$node->safe_psql('postgres', qq{SELECT saga.step('$saga', 'other', after => '{slow}')});
end_slow($saga);
$node->safe_psql('postgres', q{SELECT test_advance_clock('2 hours')});
set_faults($node, '');
wait_until($node, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$saga' AND key = 'join'");
is(steps_of($saga), 'gate completed, join completed, other completed, slow completed, timer completed', 'nothing is forgotten');
$node->safe_psql('postgres', "SELECT saga.complete('$saga')");

# --- Each gives the only signal to another step: one of them gets it.

$saga = saga([ map { "'$_->[0]', after => '{$_->[1]}', signals => '{go}', action => 'SELECT 1'" } [ 'first', 'slow' ], [ 'second', '' ] ], 'second');
set_faults($node, 'look.before_write=wait once');
$node->safe_psql('postgres', "SELECT saga.signal('$saga', 'go', '1')");
end_slow($saga);
is(steps_of($saga), 'first completed, second waiting, slow completed', 'the executor has used the signal');
set_faults($node, '');
wait_until($node, "SELECT count(*) = 0 FROM saga.ledger_due WHERE saga = '$saga'");
is(steps_of($saga), 'first completed, second waiting, slow completed', 'and the worker does not use it again');
$node->safe_psql('postgres', "SELECT saga.signal('$saga', 'go', '2')");
$node->safe_psql('postgres', "SELECT saga.complete('$saga', when_done => true)");
wait_state($node, $saga, 'completed');
is($node->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', payload, used_by_step), ', ' ORDER BY payload::text) FROM saga.signals WHERE saga_id = '$saga'"),
	'1 first, 2 second', 'each has one of its own');

guarantees($node);
$node->stop;
done_testing();
