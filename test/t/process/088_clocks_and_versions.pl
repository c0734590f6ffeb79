# Circumstances that nobody chose: clocks that are set, sessions that hold what
# others need, savepoints, tables of another version than the library, a server
# that preloads saga and has it nowhere.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

# Preloaded, and nowhere created
my $node = saga_cluster('main', databases => [], conf => "restart_after_crash = on\nautovacuum = off\nlog_statement = none\n");
$node->safe_psql('postgres', 'CREATE DATABASE other');
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'saga worker'});
is(join("\n", grep { /saga/ && !/CREATE|client backend/ } split /\n/, slurp_file($node->logfile)), '', 'preloaded and never created: silence');
like(sql_error($node, q{SELECT saga.begin('order')}), qr/ERROR:  3F000: schema "saga" does not exist/, 'and no calls');

$node->safe_psql('postgres', 'CREATE EXTENSION saga');
witness($node);
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE FUNCTION make(key text, timeout interval DEFAULT NULL, compensation text DEFAULT 'SELECT witness.undo($1)',
		channel text DEFAULT NULL, retry saga.retry_policy DEFAULT saga.retry_policy(max_attempts => 3, delay => '1 hour', max_delay => '1 hour',
			backoff => 'constant', jitter => 0, timeout => '1 day')) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key, timeout => timeout);
	BEGIN
		PERFORM saga.step(id, 'a', compensation => CASE WHEN channel IS NULL THEN compensation END, notify => channel,
			compensation_retry => retry);
		RETURN id;
	END $$;});

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub set_back { sql("SELECT test_set_back_clock('$_[0]')"); return; }
# A saga that fails is undone at once: whatever else the worker does first, it has
# looked by then.
sub undone_at_once
{
	my ($what) = @_;
	my $id = sql("SELECT make('$what')");
	sql("SELECT saga.fail('$id')");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(wait_state($node, $id, 'compensated'), "$what: what fails is undone at once");
}

# ---------------------------------------------------------- savepoints, with a crash

{
	my $kept = sql(q{SELECT make('kept')});
	my $session = session($node);
	$session->query_safe(qq{
		BEGIN;
		SAVEPOINT one;
		SELECT make('ghost');
		SELECT saga.step('$kept', 'ghost', compensation => 'SELECT witness.undo(\$1)');
		SELECT saga.complete_step('$kept', 'a', '1');
		ROLLBACK TO one;
		SAVEPOINT two;
		SELECT saga.step('$kept', 'b', compensation => 'SELECT witness.undo(\$1)', output => '2');
		RELEASE two;
		SAVEPOINT three;
		SELECT saga.fail('$kept');
		ROLLBACK TO three;
		SELECT saga.step('$kept', 'c', compensation => 'SELECT witness.undo(\$1)');
		COMMIT});
	$session->query_safe("BEGIN; SELECT saga.step('$kept', 'open'); SELECT saga.fail('$kept')");
	$node->stop('immediate');
	$node->start;
	hang_up($session);
	acknowledged($node, {}, [ 'begin', $kept ], [ 'step', $kept, 'a' ], [ 'complete_step', $kept, 'b', '2' ], [ 'step', $kept, 'c' ],
		[ 'no begin', undef, 'ghost' ], [ 'no step', $kept, 'ghost' ], [ 'no output', $kept, 'a' ], [ 'no step', $kept, 'open' ],
		[ 'no fail', $kept ]);
	guarantees($node);
	is(state_of($node, $kept), 'running', 'savepoints: what was rolled back was never there, crash or not');
	$node->{saga_acknowledged} = {};
	sql("SELECT saga.fail('$kept')");
	wait_state($node, $kept, 'compensated');
	is(sql("SELECT string_agg(key, ' ' ORDER BY n) FROM witness.effect WHERE saga = '$kept'"), 'c b a', 'what was kept is undone, in order');
}

# --------------------------------------------- a session that holds a saga, and idles

{
	my $held = sql(q{SELECT make('held', compensation => 'SELECT witness.undo($1), pg_sleep(0.1)')});
	my $step = sql(q{SELECT make('open step')});
	my $listener = sql(q{SELECT make('held listener', channel => 'witness')});
	my $holder = session($node);
	my $pid = $holder->query_safe('SELECT pg_backend_pid()');
	sql("SELECT saga.pause('$_', 'until it is held'), saga.fail('$_')") foreach $held, $listener;
	$holder->query_safe("BEGIN; SELECT saga.step('$step', 'b')");
	like(sql_error($node, "SET lock_timeout = '50 ms'; SELECT saga.fail('$step')"), qr/ERROR:  55P03: /,
		'idle in transaction with an open step: fail waits for its lock_timeout');
	$holder->query_safe('COMMIT');
	sql("SELECT saga.fail('$step')");
	wait_state($node, $step, 'compensated');

	# Its row is written by somebody who does not end, while it runs.
	sql("SELECT saga.resume('$held'), saga.resume('$listener')");
	wait_state($node, $held, 'compensated');
	my $late = sql(q{SELECT make('late', compensation => 'SELECT witness.undo($1), pg_advisory_xact_lock(1)')});
	my $gate = session($node);
	$gate->query_safe('SELECT pg_advisory_lock(1)');
	sql("SELECT saga.fail('$late')");
	wait_until($node, qq{SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$late'});
	$holder->query_safe("BEGIN; SELECT saga.pause('$late', 'while it runs')");
	$gate->quit;
	undone_at_once("a saga is held $_") foreach 1 .. 3;
	wait_until($node, qq{SELECT next_action LIKE '%process $pid%' FROM saga.sagas WHERE id = '$late'});
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'saga%' AND wait_event_type = 'Lock'}), '0',
		'none of our processes waits for it, and its next action names who holds it');
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	wait_state($node, $late, 'compensated');
	is(sql("SELECT count(*) FROM witness.effect WHERE saga = '$late'"), '1', 'let go, it is undone, once');
	is(sql("SELECT coalesce(comp_charged, 0) FROM saga.ledger_step WHERE saga = '$late'"), '0', 'at no charge');
	sql(q{CALL witness.serve('witness')});
	wait_state($node, $listener, 'compensated');
}
guarantees($node);

# -------------------------------------------------------------------- time zones

{
	sql(q{ALTER SYSTEM SET timezone = 'Pacific/Kiritimati'; SELECT pg_reload_conf()});
	my $east = sql(q{SET timezone = 'Europe/Berlin'; SELECT make('east', '1 day')});
	sql(q{ALTER SYSTEM SET timezone = 'Pacific/Pago_Pago'; SELECT pg_reload_conf()});
	my $west = sql(q{SET timezone = 'Asia/Kolkata'; SELECT make('west', '1 day 1 hour')});
	is(sql(qq{SET timezone = 'America/New_York'; SELECT deadline - started_at FROM saga.sagas WHERE id IN ('$east', '$west') ORDER BY started_at}),
		"1 day\n1 day 01:00:00", 'a day is 24 hours wherever it is asked for');
	undone_at_once('time zones');
	advance_clock($node, '23 hours 30 minutes');
	undone_at_once('time zones, later');
	is(state_of($node, $east) . ' ' . state_of($node, $west), 'running running', 'time zones: no early deadline');
	advance_clock($node, '30 minutes');
	wait_state($node, $east, 'compensated');
	is(state_of($node, $west), 'running', 'each at its time');
	advance_clock($node, '1 hour');
	ok(wait_state($node, $west, 'compensated'), 'and none is lost');
	sql(q{ALTER SYSTEM RESET timezone; SELECT pg_reload_conf()});
}

# -------------------------------------------------------------------- clocks

{
	# In an hour, all of them; meanwhile the clock goes back and forth.
	my $deadline = sql(q{SELECT make('deadline', '1 hour')});
	my $retry = sql(q{SELECT make('retry', compensation => 'SELECT witness.undo($1), 1 / ((($1->>''attempt'')::integer - 1))')});
	my $claimed = sql(q{SELECT make('claimed', channel => 'witness', retry => saga.retry_policy(max_attempts => 3, delay => '10 ms', timeout => '1 day'))});
	sql("SELECT saga.fail('$_')") foreach $retry, $claimed;
	wait_until($node, "SELECT compensation_attempts = 1 AND compensation_status = 'pending' FROM saga.steps WHERE saga_id = '$retry'");
	wait_until($node, "SELECT count(*) = 1 FROM saga.ledger_queue WHERE saga = '$claimed'");
	sql(q{SELECT witness.outside(context) FROM saga.claim_compensations('witness', lease => '1 hour')});

	sub none_yet
	{
		my ($what) = @_;
		undone_at_once($what);
		return is(state_of($node, $deadline) . sql("SELECT compensation_attempts FROM saga.steps WHERE saga_id = '$retry'")
			. sql("SELECT count(*) FROM saga.pending_compensations WHERE saga_id = '$claimed' AND claimed_at IS NOT NULL"), 'running11',
			"$what: nothing is early");
	}
	advance_clock($node, '50 minutes');
	none_yet('at 50 minutes');
	set_back('1 day');
	none_yet('set back by a day');
	my $soon = sql(q{SELECT make('soon', '10 minutes')});
	is(sql(q{SELECT count(saga.step(id, 'b', compensation => 'SELECT witness.undo($1)')) FROM saga.sagas WHERE idempotency_key = 'soon'}), '1', 'a step');
	set_back('2 days');
	sql("SELECT saga.step('$soon', 'c', compensation => 'SELECT witness.undo(\$1)')");
	none_yet('set back by two days');
	is(sql("SELECT string_agg(key, ' ' ORDER BY position) FROM saga.steps WHERE saga_id = '$soon'"), 'a b c', 'the order is that of the calls');
	advance_clock($node, '2 days 9 minutes');
	is(state_of($node, $soon), 'running', 'a deadline that was set meanwhile is not early');
	advance_clock($node, '2 minutes');
	wait_state($node, $soon, 'compensated');
	is(sql("SELECT string_agg(key, ' ' ORDER BY n) FROM witness.effect WHERE saga = '$soon'"), 'c b a', 'nor lost; and it is undone in order');
	none_yet('forth by two days');
	advance_clock($node, '23 hours 50 minutes');
	none_yet('almost an hour');
	advance_clock($node, '10 minutes');
	wait_state($node, $deadline, 'compensated');
	wait_state($node, $retry, 'compensated');
	wait_until($node, "SELECT count(*) = 1 FROM saga.attempts WHERE saga_id = '$claimed' AND outcome = 'timed out'");
	pass('an hour: the deadline, the retry and the end of the lease, none of them lost');
	sql("SELECT saga.complete_compensation(compensation_key) FROM saga.steps WHERE saga_id = '$claimed'");
	wait_state($node, $claimed, 'compensated');

	# Failed before the clock goes back, undone after that
	my $across = sql(q{SELECT make('across')});
	sql("SELECT saga.pause('$across', 'a while'), saga.fail('$across')");
	set_back('3 hours');
	sql("SELECT saga.resume('$across')");
	ok(wait_state($node, $across, 'compensated'), 'failed, the clock set back, undone');
	$node->restart;
	undone_at_once('behind a restart');
	guarantees($node, 'postgres', clock_went_back => 1);
}

# ------------------------------------------- tables of another version than the library

{
	my $id = sql(q{SELECT make('version')});
	my $offset = log_offset($node);
	# The worker is there, comes anew, and is called.
	sql(q{SET allow_system_table_mods = on; ALTER TABLE saga.ledger_event ADD COLUMN later integer});
	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga worker'});
	like(sql_error($node, "SELECT saga.fail('$id')"), qr/ERROR:  SG008: .*\n(.*\n)*HINT:  .*ALTER EXTENSION saga UPDATE/, 'another version: refused with a hint');
	my $said = qr/saga worker LOG:  .*tables of extension "saga" do not fit its library\n.*HINT:  .*ALTER EXTENSION saga UPDATE/;
	wait_lines($node, $said, $offset);
	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga worker'});
	wait_lines($node, $said, $offset, 2);
	# It has other reasons to look again, and says nothing then.
	$node->reload;
	sql('SELECT pg_sleep(2)');
	is(() = slurp_file($node->logfile, $offset) =~ /$said/g, 2, 'another version: each worker says it once, and what is to be done');
	like(sql(q{SELECT string_agg(code, ' ') FROM saga.health}), qr/wrong version/, 'so does saga.health');
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'saga launcher'}), '1', 'the launcher lives');
}
$node->stop;
done_testing();
