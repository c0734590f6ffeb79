# A saga that nobody owns any more fails at its deadline: not before, also when
# the server was down then, and without regard to sagas that somebody holds.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', conf => "autovacuum = off\n");
witness($node);
virtual_clock($node);
my $undo = create_undone($node, 'SELECT witness.undo($1)');

# A saga with two steps, one of them open
sub begin
{
	my ($key, $timeout) = @_;
	my $id = $node->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$key', timeout => '$timeout') AS id \\gset
		SELECT count(saga.step(:'id', 'a', $undo, completed => true)) + count(saga.step(:'id', 'b', $undo));
		SELECT :'id'});
	$id =~ s/.*\n//s;
	return $id;
}

# --- The server is down across the deadline (first, since a restart turns the
# virtual clock back)

my $down = begin('down', '1 s');
my $later = begin('later', '1 year');
$node->stop;
# Until it has passed
my $deadline = time + 3;
usleep(100_000) while time < $deadline;
$node->start;
wait_state($node, $down, 'compensated');
is(undone_steps($node, 'down'), 'b a', 'a deadline that passed while the server was down');
is(state_of($node, $later), 'running', 'one that did not');

# --- Not before, and then at once

my $early = begin('early', '30 minutes');
my $late = begin('late', '1 hour');
my $none = begin('none', '0');
my $done = begin('done', '30 minutes');
$node->safe_psql('postgres', "SELECT saga.complete_step('$done', 'b'); SELECT saga.complete('$done')");
is($node->safe_psql('postgres', qq{
	SELECT deadline - started_at, next_action_at = deadline FROM saga.sagas WHERE id IN ('$early', '$none') ORDER BY 1}),
	"00:30:00|t\n|", 'the view has the deadline');
advance_clock($node, '45 minutes');
wait_state($node, $early, 'compensated');
is(state_of($node, $late) . ' ' . state_of($node, $none) . ' ' . state_of($node, $done), 'running running completed', 'not before, and not without one');
is($node->safe_psql('postgres', qq{
	SELECT failure_kind, failed_step, reason IS NOT NULL AS reason FROM saga.sagas WHERE id = '$early'}) =~ s/\|[tf]$//r,
	'timed out|b', 'the saga timed out');
is(undone_steps($node, 'early'), 'b a', 'its steps are undone');
advance_clock($node, '16 minutes');
wait_state($node, $late, 'compensated');
is(undone_steps($node, 'late'), 'b a', 'the later one, later');
like(sql_error($node, "SELECT saga.complete_step('$late', 'b')"), qr/ERROR:  SG005: /, 'whoever comes then is too late');

# saga.default_timeout
my $default = $node->safe_psql('postgres', q{SET saga.default_timeout = '1 min'; SELECT saga.begin('order', 'default')});
advance_clock($node, '1 hour');
wait_state($node, $default, 'compensated');
is(state_of($node, $none), 'running', 'without a deadline, it runs on');

# --- Saga is off across the deadline

my $crash = begin('crash', '1 hour');
$node->append_conf('postgresql.conf', 'saga.enabled = off');
$node->stop('immediate');
$node->start;
advance_clock($node, '1 day');
is(state_of($node, $crash), 'running', 'while saga is off, it runs on');
like($node->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$crash'"),
	qr/^its deadline has passed: .*saga\.enabled is off/, 'and its next action says why');
$node->append_conf('postgresql.conf', 'saga.enabled = on');
$node->reload;
wait_state($node, $crash, 'compensated');
is(undone_steps($node, 'crash'), 'b a', 'on again, after a crash, it times out');

# --- Somebody has a step open

my $held = begin('held', '10 minutes');
my $free = begin('free', '10 minutes');
my $holder = session($node);
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
$holder->query_safe("BEGIN; SELECT status FROM saga.step('$held', 'c', $undo)");
advance_clock($node, '11 minutes');
wait_state($node, $free, 'compensated');
is(state_of($node, $held), 'running', 'a saga with a step in an open transaction does not fail, others do');
like($node->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$held'"),
	qr/^its deadline has passed: .*\bprocess $pid\b/, 'its next action names the process');
my $also = begin('also', '10 minutes');
advance_clock($node, '11 minutes');
wait_state($node, $also, 'compensated');
is($node->safe_psql('postgres', qq{
	SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'saga%' AND wait_event_type = 'Lock'}), 0,
	'none of our processes waits for its lock');
$holder->query_safe('COMMIT');
wait_state($node, $held, 'compensated');
is(undone_steps($node, 'held'), 'c b a', 'the step that was committed is undone with the others');

# The same, rolled back
my $back = begin('back', '10 minutes');
$holder->query_safe("BEGIN; SELECT status FROM saga.step('$back', 'c', $undo)");
advance_clock($node, '11 minutes');
wait_until($node, "SELECT next_action LIKE '%process $pid%' FROM saga.sagas WHERE id = '$back'");
$holder->query_safe('ROLLBACK');
wait_state($node, $back, 'compensated');
is(undone_steps($node, 'back'), 'b a', 'a step that was rolled back was never there');

# A deadline turns a completed pivot into a question
my $pivot = $node->safe_psql('postgres', qq{
	SELECT saga.begin('order', 'pivot', timeout => '10 minutes') AS id \\gset
	SELECT count(saga.step(:'id', 'a', $undo, completed => true)), count(saga.step(:'id', 'p', kind => 'pivot', completed => true));
	SELECT :'id'}) =~ s/.*\n//sr;
advance_clock($node, '11 minutes');
wait_state($node, $pivot, 'needs_review');
is(undone_steps($node, 'pivot'), '', 'after a pivot, a deadline parks');

# A step that is in before the worker, at work on others, comes to the deadline
my $other = $node->safe_psql('postgres', q{
	SELECT saga.begin('order', 'other') AS id \gset
	SELECT saga.step(:'id', 'a', notify => 'somebody') AS s \gset
	SELECT saga.fail(:'id') AS s \gset
	SELECT :'id'});
wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue});
$node->safe_psql('postgres', q{
	SELECT saga.fail_compensation(compensation_key, attempt, 'not yet', retry_after => '30 minutes')
	FROM saga.claim_compensations('somebody')});
my $just = begin('just in time', '40 minutes');
my $offset = log_offset($node);
set_faults($node, 'notify.before_queue=wait');
advance_clock($node, '50 minutes');
wait_lines($node, qr/waiting at fault point "notify\.before_queue"/, $offset);
$node->safe_psql('postgres', "SELECT saga.step('$just', 'c', $undo, output => '1')");
set_faults($node, '');
wait_state($node, $just, 'compensated');
is(undone_steps($node, 'just in time'), 'c b a', 'what was in before the deadline had its effect is undone');
is($node->safe_psql('postgres', "SELECT string_agg(event, ', ' ORDER BY position) FROM saga.events WHERE saga_id = '$just' AND (step = 'c' OR event = 'failing')"),
	'step started, step completed, failing, compensation succeeded', 'and the history tells it in that order');
$node->safe_psql('postgres', q{SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('somebody')});
wait_state($node, $other, 'compensated');

# Many at once
$node->safe_psql('postgres', q{
	SELECT count(saga.begin('many', n::text, timeout => '10 minutes')) FROM generate_series(1, 500) n});
advance_clock($node, '11 minutes');
wait_until($node, q{SELECT count(*) = 500 FROM saga.sagas WHERE name = 'many' AND state = 'compensated'});

$holder->quit;
guarantees($node);
$node->stop;
done_testing();
