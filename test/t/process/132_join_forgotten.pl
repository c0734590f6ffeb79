# Two processes look at a saga at the same time, and each makes a step done that the
# other does not see: a timer's time comes after one has read the steps, and an action
# ends meanwhile.  What waits for both begins all the same: a look that makes a step done
# asks nobody to look again, so no other may be under way (src/flow/look.c).

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

my $lock = session($node);
$lock->query_safe('SELECT pg_advisory_lock(4711)');
my $saga = (split /\n/, $node->safe_psql('postgres', q{
	SELECT saga.begin('order') AS id \gset
	SELECT saga.step(:'id', 'timer', after => '{}', delay => '1 hour') \g /dev/null
	SELECT saga.step(:'id', 'slow', after => '{}', action => 'SELECT slow($1)') \g /dev/null
	SELECT saga.step(:'id', 'gate', after => '{slow}') \g /dev/null
	SELECT saga.step(:'id', 'join', after => '{timer,gate}', action => 'SELECT 1') \g /dev/null
	SELECT :'id'}))[-1];
wait_until($node, "SELECT count(*) = 1 FROM saga.running WHERE saga_id = '$saga'");
wait_until($node, "SELECT ready_at IS NOT NULL FROM saga.ledger_step WHERE saga = '$saga' AND key = 'timer'");

# The worker has read the steps when the action ends, and its executor looks.
set_faults($node, 'look.after_read=wait once');
$node->safe_psql('postgres', qq{SELECT saga.step('$saga', 'other', after => '{slow}')});
wait_struck($node);
$lock->query_safe('SELECT pg_advisory_unlock(4711)');
wait_until($node, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$saga' AND key = 'slow'");
idle_executor($node, $node->safe_psql('postgres', 'SELECT current_user'));

# The time comes; the worker goes on with what it has read.
$node->safe_psql('postgres', q{SELECT test_advance_clock('2 hours')});
set_faults($node, '');
wait_until($node, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$saga' AND key = 'join'");
is($node->safe_psql('postgres', "SELECT string_agg(key || ' ' || status, ', ' ORDER BY key) FROM saga.steps WHERE saga_id = '$saga'"),
	'gate completed, join completed, other completed, slow completed, timer completed', 'nothing is forgotten');
$node->safe_psql('postgres', "SELECT saga.complete('$saga')");
guarantees($node);
$node->stop;
done_testing();
