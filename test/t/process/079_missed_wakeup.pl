# What the worker must not miss, at the moments at which it could: an executor
# that is gone and whose slot has another already, a saga that becomes due again
# as it is put down, a signal while it waits for a lock, a clock that is set back.
# (test/spin has the proof of the protocol.)
#
# Nothing else wakes the worker here: what is missed stays undone.  (The alarm of
# deadlock_timeout would: it goes off even if the lock was had in time.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main',
	conf => "autovacuum = off\ndeadlock_timeout = 1h\nsaga.max_executors = 1\nsaga.executor_idle_timeout = 1h\nwal_level = replica\nmax_wal_senders = 1\n");
$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE carol LOGIN;
	GRANT USAGE ON SCHEMA saga TO alice, bob, carol;
	CREATE TABLE undone (saga uuid, attempt integer);
	GRANT INSERT ON undone TO PUBLIC;
	CREATE FUNCTION advance_clock(interval) RETURNS void
		AS 'saga', 'saga_sql_test_advance_clock' LANGUAGE C STRICT;
	CREATE FUNCTION set_back_clock(interval) RETURNS void
		AS 'saga', 'saga_sql_test_set_back_clock' LANGUAGE C STRICT;
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE sql
		AS $$INSERT INTO undone VALUES ((context #>> '{saga,id}')::uuid, (context ->> 'attempt')::integer)$$;
	-- stays where it is at the first attempt
	CREATE FUNCTION undo_slowly(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF context ->> 'attempt' = '1' THEN
			PERFORM pg_sleep(3600);
		END IF;
		PERFORM public.undo(context);
	END $$;});
create_failed($node, keyless => 1, compensation => q{'SELECT undo($1)'});

sub sql { return $node->safe_psql('postgres', $_[0]); }
# The attempts of a saga's compensation, and what is to be seen of them
sub attempts
{
	my ($saga) = @_;
	return sql(qq{SELECT string_agg(attempt || ' ' || outcome, ', ' ORDER BY attempt) FROM saga.attempts
		WHERE saga_id = '$saga' AND phase = 'compensation'})
	  . '; ' . sql("SELECT string_agg(attempt::text, ' ') FROM undone WHERE saga = '$saga'");
}

worker_pid($node);

# --- An executor's slot has another before the worker looks

{
	# one saga in its hand, one in its mailbox
	my $in_hand = sql_as($node, 'alice', q{SELECT failed('SELECT undo_slowly($1)')});
	wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$in_hand'");
	my ($executor) = executor_pids($node);
	my $in_mail = sql_as($node, 'alice', 'SELECT failed()');
	wait_until($node, q{SELECT state = 'idle' FROM pg_stat_activity WHERE backend_type = 'saga worker'});

	# The worker is in the middle of a turn, in which it will start another.
	my $offset = log_offset($node);
	set_faults($node, 'worker.before_turn=wait');
	my $next = sql_as($node, 'alice', 'SELECT failed()');
	wait_lines($node, qr/saga worker.*waiting at fault point "worker\.before_turn"/, $offset);
	sql("SELECT pg_terminate_backend($executor)");
	wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $executor");
	set_faults($node, '');
	wait_state($node, $_, 'compensated') foreach $next, $in_mail, $in_hand;
	is(attempts($in_hand), '1 interrupted, 2 succeeded; 2', 'what a former executor had in hand is done, its interrupted attempt written down');
	is(attempts($in_mail), '1 succeeded; 1', 'so is what was in its mailbox');
	is(attempts($next), '1 succeeded; 1', 'and what the next one was started for');
}

# --- A saga that is put down as over, while it is opened again

{
	my $saga = sql_as($node, 'alice', q{SELECT saga.start('late')});
	sql_as($node, 'alice', "SELECT saga.step('$saga', 'a', compensation => 'SELECT undo(\$1)')");
	sql("ALTER SYSTEM SET saga.max_executors = 2; SELECT pg_reload_conf()");
	sql("ALTER SYSTEM SET saga.test_faults = 'executor.after_commit=wait'; SELECT pg_reload_conf()");
	wait_until($node, q{SHOW saga.test_faults}, 'executor.after_commit=wait');
	sql_as($node, 'alice', "SELECT saga.fail('$saga')");
	ok(wait_state($node, $saga, 'compensated'), 'over, and still in hand');
	sql_as($node, 'alice', "SELECT saga.complete_step('$saga', 'a', '1', late => 'record')");
	sql_as($node, 'alice', "SELECT saga.resolve('$saga', 'a', 'retry', 'it did happen')");

	# What a role without an executor fails is handed out by the worker; that
	# comes behind the lane of alice, in the same turn.
	my $other = sql_as($node, 'bob', 'SELECT failed()');
	wait_state($node, $other, 'compensated');
	sql("ALTER SYSTEM RESET saga.test_faults; SELECT pg_reload_conf()");
	wait_state($node, $saga, 'compensated');
	is(attempts($saga), '1 succeeded, 2 succeeded; 1 2', 'what became due again is given back');
	idle_executor($node, $_) foreach 'alice', 'bob';
}

# --- A signal while the worker waits for the lock of NOTIFY

{
	my $listener = listen_to($node, 'slow');
	my $saga = sql(q{SELECT saga.start('outside')});
	sql("SELECT saga.step('$saga', 'a', notify => 'slow')");
	sql("SELECT saga.fail('$saga')");
	# until the channel is told once in a minute, which is then at its beginning
	for my $times (1 .. 9)
	{
		wait_heard($listener, qr/slow/, $times);
		sql("SELECT advance_clock('2 minutes')");
	}
	wait_heard($listener, qr/slow/, 10);
	my $clock = sql(q{SELECT saga.start('what time is it?')});
	sql("SELECT advance_clock(make_interval(secs => 121 - extract(second FROM started_at))) FROM saga.sagas WHERE id = '$clock'");
	wait_heard($listener, qr/slow/, 11);
	wait_until($node, q{SELECT state = 'idle' FROM pg_stat_activity WHERE backend_type = 'saga worker'});

	# A commit that notifies holds back all others that do.
	sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()");
	my $slow = session($node);
	background($slow, 'BEGIN; CREATE TABLE slow (); NOTIFY other; COMMIT');
	wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
	sql("SELECT advance_clock('1 minute')");
	wait_until($node, q{SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE backend_type = 'saga worker'});
	my $offset = log_offset($node);
	sql("ALTER SYSTEM SET saga.test_faults = 'worker.before_turn=wait'");
	kill 'HUP', worker_pid($node);
	sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'});

	# It would do so in a minute, in any case.
	local $PostgreSQL::Test::Utils::timeout_default = 30;
	ok(wait_lines($node, qr/saga worker.*waiting at fault point "worker\.before_turn"/, $offset),
		'the worker reads its settings as soon as it has the lock');
	sql('ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()');
	$slow->quit;
	$listener->quit;
	sql("SELECT saga.complete_compensation(compensation_key) FROM saga.steps WHERE saga_id = '$saga'");
}

# --- A clock that is set back puts off no pause

{
	# Due at noon, say, one in a role's lane and one in the worker's; at two, by
	# the clock, the worker finds that somebody holds them, and is to come back in
	# a moment.
	my $lane = sql_as($node, 'carol', q{SELECT saga.start('lane')});
	sql_as($node, 'carol', "SELECT saga.step('$lane', 'a', compensation => 'SELECT undo(\$1)')");
	my $own = sql(q{SELECT saga.start('own')});
	sql("SELECT saga.step('$own', 'a', notify => 'own')");
	halt_worker($node);
	sql("SELECT saga.fail('$lane')");
	sql("SELECT saga.fail('$own')");
	sql(q{SELECT advance_clock('2 hours')});
	my $holder = session($node);
	$holder->query_safe("BEGIN; SELECT saga.pause('$lane', 'a while'), saga.pause('$own', 'a while')");
	set_faults($node, '');
	idle_executor($node, 'carol');
	# Two turns later it has heard of that, and sleeps.
	foreach (1 .. 2)
	{
		my $saga = sql(q{SELECT saga.start('turn')});
		sql("SELECT saga.step('$saga', 'a', notify => 'turn')");
		sql("SELECT saga.fail('$saga')");
		wait_until($node, "SELECT compensation_status = 'dispatched' FROM saga.steps WHERE saga_id = '$saga'");
	}
	sql(q{SELECT set_back_clock('1 hour')});
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	ok(wait_state($node, $lane, 'compensated'), 'a moment is a moment, by a clock that was set back: for an executor');
	ok(wait_until($node, "SELECT compensation_status = 'dispatched' FROM saga.steps WHERE saga_id = '$own'"), 'and for the worker');
}

guarantees($node, 'postgres', clock_went_back => 1);
$node->stop;
done_testing();
