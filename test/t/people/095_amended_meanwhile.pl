# A step is amended between the moment in which an executor reads it and the one in
# which it says that its SQL runs: what it ran is not what the step says any more, so
# it counts for nothing, whether it succeeded or failed.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main');
$node->safe_psql('postgres', q{
	CREATE TABLE undone (n serial, saga uuid, what text);
	CREATE FUNCTION undo(context jsonb, what text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO undone (saga, what) VALUES ((context->'saga'->>'id')::uuid, what);
		IF what LIKE 'fails%' THEN
			RAISE EXCEPTION '%', what;
		END IF;
	END $$;});

foreach my $old ('succeeds', 'fails, and may be tried once')
{
	# An executor stands where it has read the step and has not said so.
	my $offset = log_offset($node);
	set_faults($node, 'executor.before_inflight=wait');
	my $saga = $node->safe_psql('postgres', qq{
		SELECT saga.begin('order') AS s \\gset
		SELECT status FROM saga.step(:'s', 'a', completed => true, compensation => 'SELECT undo(\$1, ''$old'')',
			compensation_retry => saga.retry_policy(1)) \\gset
		SELECT saga.fail(:'s') AS state \\gset
		\\echo :s});
	wait_log($node, qr/waiting at fault point "executor.before_inflight"/, $offset);
	is($node->safe_psql('postgres', qq{SELECT saga.amend('$saga', 'a', 'otherwise', compensation => 'SELECT undo(\$1, ''new'')') || 'amended'}),
		'amended', "the old one $old: it is amended meanwhile");
	set_faults($node, '');
	wait_state($node, $saga, 'compensated');
	is($node->safe_psql('postgres', "SELECT string_agg(what, ', ' ORDER BY n) FROM undone WHERE saga = '$saga'"), 'new',
		'what it said before has no effect');
	is($node->safe_psql('postgres', qq{
		SELECT attempt, outcome, sqlstate FROM saga.attempts WHERE saga_id = '$saga' AND phase = 'compensation' ORDER BY attempt}),
		"1|interrupted|\n2|succeeded|", 'and is no attempt of what it says now');
}

guarantees($node);
$node->stop;
done_testing();
