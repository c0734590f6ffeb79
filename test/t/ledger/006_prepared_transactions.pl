# Two-phase commit: what a prepared transaction recorded is there when it is
# committed, from whatever session and whatever happened in between, and never
# otherwise.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main');
witness($node);
my $undo = create_undone($node, 'SELECT witness.undo($1)');

# A whole saga in one prepared transaction
sub prepare
{
	my ($key) = @_;
	return $node->safe_psql('postgres', qq{
		BEGIN;
		SELECT saga.begin('order', '$key', timeout => '1 day') AS id \\gset
		SELECT status FROM saga.step(:'id', 'a', $undo);
		SELECT status FROM saga.step(:'id', 'b', $undo);
		SELECT saga.fail(:'id');
		PREPARE TRANSACTION '$key';});
}

sub commit_prepared
{
	my ($key) = @_;
	# From the commit to the end of the undo, which starts within 2 s: only a hang takes longer.
	my $took = $node->safe_psql('postgres', qq{
		COMMIT PREPARED '$key';
		SELECT clock_timestamp() AS committed \\gset
		SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key = '$key';
		SELECT extract(epoch FROM clock_timestamp() - :'committed')});
	$took =~ /^compensated\n(.*)$/ or return "not undone: $took";
	return $1 < 60 ? '' : "undone only after $1 s";
}

is(prepare('one'), "started\nstarted\ncompensating", 'a saga begun, stepped and failed in a prepared transaction');
is(saga_id($node, 'one'), '', 'it is not there');
like(sql_error($node, q{SET lock_timeout = '50ms'; SELECT saga.begin('order', 'one')}), qr/ERROR:  55P03:/,
	'its key is waited for');
is(commit_prepared('one'), '', 'committed by another session, it is undone');
is(undone_steps($node, 'one'), 'b a', 'in the right order');

prepare('two');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'two'});
is(saga_id($node, 'two'), '', 'rolled back, it was never there');
is($node->safe_psql('postgres', q{
	SELECT saga.begin('order', 'two') AS id \gset
	SELECT attempt FROM saga.step(:'id', 'a')}), 1, 'and its key begins a new one');

# A step of a saga that others work on
my $three = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'three')});
$node->safe_psql('postgres', qq{
	SELECT saga.step('$three', 'a', $undo);
	BEGIN; SELECT saga.step('$three', 'b', $undo); PREPARE TRANSACTION 'step';
	BEGIN; SELECT saga.complete_step('$three', 'a', '1'); PREPARE TRANSACTION 'complete';});
like(sql_error($node, qq{SET lock_timeout = '50ms'; SELECT saga.fail('$three')}), qr/ERROR:  55P03:/,
	'the failure waits for the prepared steps');
is($node->safe_psql('postgres', "SELECT status FROM saga.step('$three', 'c', $undo)"), 'started', 'other steps do not');
$node->safe_psql('postgres', q{COMMIT PREPARED 'step'});
like(sql_error($node, qq{SET lock_timeout = '50ms'; SELECT saga.fail('$three')}), qr/ERROR:  55P03:/, 'for each of them');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'complete'});
is($node->safe_psql('postgres', "SELECT saga.fail('$three'); SELECT saga.wait('$three');"), "compensating\ncompensated", 'and then goes on');
is(undone_steps($node, 'three'), 'c b a', 'the step that was committed is undone');
is($node->safe_psql('postgres', "SELECT status, output FROM saga.steps WHERE saga_id = '$three' AND key = 'a'"), 'started|',
	'the result that was rolled back is not there');

# A failure of a saga that others work on
my $four = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'four')});
$node->safe_psql('postgres', qq{
	SELECT saga.step('$four', 'a', $undo);
	BEGIN; SELECT saga.fail('$four'); PREPARE TRANSACTION 'four';});
like(sql_error($node, qq{SET lock_timeout = '50ms'; SELECT saga.step('$four', 'b')}), qr/ERROR:  55P03:/,
	'a step waits for the prepared failure');

# Prepared, and then the server restarts: in an orderly way, and not.
prepare('five');
prepare('six');
prepare('seven');
my $seven = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'eight')});
$node->safe_psql('postgres', qq{
	BEGIN; SELECT saga.step('$seven', 'a', $undo); PREPARE TRANSACTION 'eight';});
$node->restart;
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_prepared_xacts}), 5, 'prepared transactions survive a restart');
like(sql_error($node, qq{SET lock_timeout = '50ms'; SELECT saga.step('$four', 'b')}), qr/ERROR:  55P03:/,
	'a step still waits for the prepared failure');
like(sql_error($node, qq{SET lock_timeout = '50ms'; SELECT saga.fail('$seven')}), qr/ERROR:  55P03:/,
	'a failure still waits for the prepared step');
is(commit_prepared('five'), '', 'committed after the restart, it is undone');
$node->stop('immediate');
$node->start;
is(commit_prepared('six'), '', 'committed after a crash, it is undone');
is(commit_prepared('four'), '', 'the failure, too');
is(undone_steps($node, 'four'), 'a', 'what was in before it');
like(sql_error($node, qq{SELECT saga.step('$four', 'b')}), qr/ERROR:  SG005:/, 'and nothing enters any more');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'seven'});
is(saga_id($node, 'seven'), '', 'rolled back after a crash, it was never there');
$node->safe_psql('postgres', q{COMMIT PREPARED 'eight'});
is($node->safe_psql('postgres', "SELECT saga.fail('$seven'); SELECT saga.wait('$seven')"), "compensating\ncompensated", 'the step is in');
is(undone_steps($node, 'eight'), 'a', 'and undone');

# Committed just before a crash: whoever comes up finds it.
prepare('nine');
$node->safe_psql('postgres', q{COMMIT PREPARED 'nine'});
$node->stop('immediate');
$node->start;
wait_state($node, saga_id($node, 'nine'), 'compensated');
is(undone_steps($node, 'nine'), 'b a', 'committed just before a crash, it is undone, once');

is($node->safe_psql('postgres', q{SELECT count(*) FROM undone}), 4 * 2 + 3 + 1 + 1, 'everything is undone once');
guarantees($node);

# --- ALTER DATABASE may be prepared, too: whether our processes may be there is known
# when it is committed

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION saga');
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'saga worker' AND datname = 'other'};
wait_until($node, $workers, 1);
foreach my $allow ('false', 'true')
{
	$node->safe_psql('postgres', "BEGIN; ALTER DATABASE other ALLOW_CONNECTIONS $allow; PREPARE TRANSACTION 'connections'");
	is($node->safe_psql('postgres', $workers), $allow eq 'true' ? 0 : 1, "ALLOW_CONNECTIONS $allow, prepared: nothing changes");
	$node->safe_psql('postgres', q{COMMIT PREPARED 'connections'});
	ok(wait_until($node, $workers, $allow eq 'true' ? 1 : 0), "ALLOW_CONNECTIONS $allow, committed: the worker leaves, or comes");
}
$node->stop;
done_testing();
