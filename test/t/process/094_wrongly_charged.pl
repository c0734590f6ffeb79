# Who is charged for an error: not what an SQLSTATE says decides, but who caused
# it and how far the attempt had come.  Each cell of the table in outcome.c.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', conf => "autovacuum = off\nsaga.lock_timeout = 100ms\nsaga.executor_idle_timeout = '1min'\n");
my $has_dblink = -e readpipe('pg_config --sharedir') =~ s/\n//r . '/extension/dblink.control';
witness($node);
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE TABLE gate ();
	CREATE TABLE written (n integer);
	CREATE TABLE locked ();
	CREATE SEQUENCE tries;
	CREATE FUNCTION raise(state text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		RAISE EXCEPTION USING ERRCODE = state, MESSAGE = 'raised ' || state;
	END $$;
	-- At the first try since the sequence was reset
	CREATE FUNCTION raise_once(state text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF nextval('tries') = 1 THEN
			PERFORM raise(state);
		END IF;
	END $$;
	-- Runs into saga.lock_timeout, and goes on
	CREATE FUNCTION try_lock() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		LOCK TABLE locked;
	EXCEPTION WHEN lock_not_available THEN
		NULL;
	END $$;});
create_failed($node);

sub failed
{
	my ($key, $sql, $retry) = @_;
	$retry //= 'max_attempts => 1';
	return $node->safe_psql('postgres', qq{SET default_transaction_read_only = off;
		SELECT failed('$key', \$c\$SELECT witness.undo(\$1); $sql\$c\$, retry => saga.retry_policy($retry))});
}

sub charged
{
	my ($saga) = @_;
	return $node->safe_psql('postgres', "SELECT coalesce(comp_charged, 0) FROM saga.ledger_step WHERE saga = '$saga'");
}

# It was charged: one attempt was all that it had.
sub is_charged
{
	my ($saga, $expected, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_until($node, qq{
		SELECT state IN ('needs_review', 'compensated') OR compensation_attempts > 5
		FROM saga.sagas JOIN saga.steps ON saga_id = id WHERE id = '$saga'});
	is(attempts_of($node, $saga) . ', ' . $node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$saga'"),
		"$expected, needs_review", "$what: charged");
	return;
}

# The only compensation that runs now sleeps.
sub wait_running
{
	return wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'saga executor' AND wait_event = 'PgSleep'});
}

# (An executor may leave after an attempt that failed.)
sub processes { return $node->safe_psql('postgres', q{SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE backend_type IN ('saga launcher', 'saga worker')}); }

# ------------------------------------------------------- raised by the SQL itself

foreach my $state (qw(57014 57P01 57P02 57P03 53100 53200 53300 53400 58000 58030 58P01 XX000 XX001 25006 08006 P0001))
{
	is_charged(failed("raised $state", "SELECT raise('$state')"), "failed $state", "the SQL raises $state");
}
my $holder = session($node);
$holder->query_safe('BEGIN; LOCK TABLE locked');
is_charged(failed('after a lock timeout', q{SELECT try_lock(); SELECT raise('57014')}), 'failed 57014',
	'a lock timeout is no cancel');
$holder->query_safe('COMMIT');
$holder->quit;
is_charged(failed('after a timeout', q{DO $$ BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN PERFORM raise('57014'); END $$},
	q{max_attempts => 1, timeout => '100 ms'}), 'timed out 57014', 'its timeout, trapped and raised again');
is_charged(failed('writes read-only', q{SET TRANSACTION READ ONLY; INSERT INTO written VALUES (1)}), 'failed 25006',
	'the SQL makes its transaction read-only');
SKIP:
{
	skip 'dblink is not installed', 1 if !$has_dblink;
	$node->safe_psql('postgres', 'CREATE EXTENSION dblink');
	my $conninfo = $node->connstr('postgres') =~ s/'/''/gr . q{ options=''-c statement_timeout=50''};
	is_charged(failed('timeout elsewhere', qq{SELECT dblink_exec('$conninfo', 'DO \$\$ BEGIN PERFORM pg_sleep(60); END \$\$')}),
		'failed 57014', 'a statement timeout of another server');
}

# At commit, where cursors that are held run
foreach my $state (qw(57014 23514 25006 22012))
{
	is_charged(failed("held $state", "DECLARE c CURSOR WITH HOLD FOR SELECT raise('$state')"), "failed $state", "a cursor raises $state at commit");
}
is_charged(failed('held SG006', q{DECLARE c CURSOR WITH HOLD FOR SELECT raise('SG006')}, 'max_attempts => 5'), 'failed SG006', 'a cursor raises SG006 at commit');
foreach (['SG007', 'deferred'], ['40001', 'failed'], ['53100', 'interrupted'], ['58030', 'interrupted'], ['XX000', 'interrupted'])
{
	my ($state, $outcome) = @{$_};
	$node->safe_psql('postgres', q{SELECT setval('tries', 1, false)});
	my $saga = failed("held $state", "DECLARE c CURSOR WITH HOLD FOR SELECT raise_once('$state')", q{max_attempts => 1, delay => '10 ms'});
	wait_state($node, $saga, 'compensated');
	is(attempts_of($node, $saga) . ', ' . charged($saga), "$outcome $state, succeeded, 0", "a cursor raises $state at commit: free");
}

# ------------------------------------------------------------ canceled and ended

my $sleep = 'DO $$ BEGIN IF EXISTS (SELECT FROM pg_class WHERE relname = $q$gate$q$) THEN PERFORM pg_sleep(3600); END IF; END $$';
foreach (['pg_cancel_backend', 'interrupted 57014'], ['pg_terminate_backend', 'interrupted'])
{
	my ($function, $attempt) = @{$_};
	my $saga = failed($function, $sleep);
	foreach (1, 2)
	{
		wait_running();
		$node->safe_psql('postgres', "SELECT $function(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor' AND wait_event = 'PgSleep'");
		wait_until($node, "SELECT compensation_attempts >= $_ FROM saga.steps WHERE saga_id = '$saga'");
	}
	wait_running();
	$node->safe_psql('postgres', 'ALTER TABLE gate RENAME TO open');
	$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor' AND wait_event = 'PgSleep'});
	wait_state($node, $saga, 'compensated');
	is(attempts_of($node, $saga) . ', ' . charged($saga), "$attempt, $attempt, interrupted 57014, succeeded, 0", "another's $function: free");
	$node->safe_psql('postgres', 'ALTER TABLE open RENAME TO gate');

	is_charged(failed("own $function", "SELECT $function(pg_backend_pid()); SELECT pg_sleep(0.001)"),
		$function eq 'pg_cancel_backend' ? 'failed 57014' : 'failed', "its own $function");
	is_charged(failed("own $function in a block", "DO \$\$ BEGIN PERFORM $function(pid) FROM pg_stat_activity WHERE pid = pg_backend_pid(); PERFORM pg_sleep(60); END \$\$"),
		$function eq 'pg_cancel_backend' ? 'failed 57014' : 'failed', "its own $function, of a session that it looks for");
}
is($node->safe_psql('postgres', q{SELECT DISTINCT last_error FROM saga.sagas JOIN saga.steps ON saga_id = id WHERE idempotency_key LIKE 'own pg_terminate%'}),
	'it ended its own process', 'and it says so');
SKIP:
{
	skip 'there is no transaction_timeout', 1 if $node->safe_psql('postgres', q{SELECT current_setting('transaction_timeout', true) IS NULL}) eq 't';
	is_charged(failed('own transaction_timeout', q{SET LOCAL transaction_timeout = '20ms'; SELECT pg_sleep(60)}), 'failed', 'a FATAL that nobody asked for');
}

# How an attempt ended is known, and the process is told to leave before that is
# written down.
set_faults($node, 'executor.before_record_failure=wait');
my $offset = log_offset($node);
my $known = failed('known', 'SELECT 1/0');
wait_lines($node, qr/waiting at fault point "executor\.before_record_failure"/, $offset);
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});
set_faults($node, '');
is_charged($known, 'failed 22012', 'a failure that is not written down yet when the process ends');

# ------------------------------------------- what would wait for its own process

my $pids = processes();
$node->safe_psql('postgres', 'CREATE ROLE someone; CREATE ROLE another');
foreach my $sql ('ALTER EXTENSION saga UPDATE', 'DROP EXTENSION saga', 'DROP EXTENSION saga CASCADE', 'DROP SCHEMA saga CASCADE',
	'DROP OWNED BY CURRENT_USER', q{SELECT saga.reassign('someone'::regrole, 'another')})
{
	is_charged(failed($sql =~ s/'//gr, $sql), 'failed SG002', $sql);
}
is(processes(), $pids, 'no worker had to leave for that');

# --------------------------------------- errors of our own, before and after the SQL

# What strikes an attempt, up to where there was one or more; then the fault ends.
sub struck
{
	my ($fault, $retry) = @_;
	my $struck = log_offset($node);

	set_faults($node, $fault);
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	wait_until($node, qq{SELECT setting = '$fault' FROM pg_settings WHERE name = 'saga.test_faults'});
	my $saga = failed($fault, 'SELECT 1', $retry);
	wait_until($node, "SELECT count(*) > 0 FROM saga.attempts WHERE saga_id = '$saga' AND phase = 'compensation' AND outcome IS NOT NULL");
	set_faults($node, '');
	return $saga;
}

foreach my $state (qw(53100 53200 58030 XX000 XX001 25006 22023 54000 57014 40001 55P03 23505 SG006 SG007 fatal error))
{
	foreach my $point ('after_inflight', 'before_mark', 'before_commit')
	{
		my $trouble = $state =~ /^(53|58|XX)|error|fatal/;
		my $conflict = $point ne 'after_inflight' && $state =~ /^(40001|55P03)$/;
		my $saga;
		my $attempt = $state eq 'fatal' ? 'interrupted' : 'interrupted ' . ($state eq 'error' ? 'XX000' : $state);

		# (SG006 and SG007 at commit are those of cursors, above.)
		if ($point eq 'before_commit' && $state !~ /^SG/ && !$trouble && !$conflict)
		{
			is_charged(struck("executor.$point=$state"), "failed $state", "$state at executor.$point");
			next;
		}
		next if $point eq 'before_commit' && $state =~ /^SG/;
		$attempt = "failed $state" if $conflict;
		$saga = struck("executor.$point=$state");
		wait_state($node, $saga, 'compensated');
		like(attempts_of($node, $saga) . ', ' . charged($saga), qr/^(\Q$attempt\E, )+succeeded, 0$/, "$state at executor.$point: free");
	}
}

# Not without an end, for the SQL may be the cause even so
set_faults($node, 'executor.before_mark=22023');
my $endless = failed('endless', 'SELECT 1');
wait_until($node, qq{
	SELECT state = 'needs_review' FROM saga.sagas, LATERAL (SELECT test_advance_clock('1 min')) c WHERE id = '$endless'});
set_faults($node, '');
is(attempts_of($node, $endless), join(', ', ('interrupted 22023') x 51), 'fifty are free');
is($node->safe_psql('postgres', "SELECT parked FROM saga.steps WHERE saga_id = '$endless'"),
	'retries exhausted after 1 attempt: fault point "executor.before_mark"', 'and then it is charged');

# ----------------------------------------------------- a saga that somebody holds for long

# Somebody waits to end the saga behind a transaction that stays open.
sub hold_saga
{
	my ($saga) = @_;
	my ($first, $second) = map { session($node) } 1, 2;
	$first->query_safe("BEGIN; SELECT saga.step('$saga', 'own')");
	background($second, "SELECT saga.cancel('$saga')");
	wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%saga.cancel%' AND wait_event_type = 'Lock'});
	return ($first, $second);
}

# It gives that up, and the transaction ends.
sub let_go
{
	my ($first, $second) = @_;
	$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%saga.cancel%' AND wait_event_type = 'Lock'});
	$second->quit;
	$first->query_safe('COMMIT');
	$first->quit;
	return;
}

# An hour later, others have their turn.
sub others
{
	$node->safe_psql('postgres', q{SELECT test_advance_clock('1 hour')});
	my $other = $node->safe_psql('postgres', q{
		SELECT s, saga.step(s, 'a', action => 'SELECT 1'), saga.complete(s, when_done => true) FROM saga.begin('order') AS s}) =~ s/\|.*//sr;
	return wait_state($node, $other, 'completed');
}

# An action is done, but cannot be marked.  It is not tried again as long as that lasts.
$node->safe_psql('postgres', q{SELECT setval('tries', 1, false)});
set_faults($node, 'executor.before_mark=wait once');
my $held = $node->safe_psql('postgres', q{
	SELECT saga.begin('order') AS id \gset
	SELECT saga.step(:'id', 'a', action => $$SELECT nextval('tries')$$, after => '{}', retry => saga.retry_policy(max_attempts => 1)) \g /dev/null
	SELECT :'id'});
wait_struck($node);
my @holders = hold_saga($held);
set_faults($node, '');
wait_until($node, "SELECT count(*) = 0 FROM saga.running WHERE saga_id = '$held'");
others() for 1 .. 3;
is($node->safe_psql('postgres', q{SELECT last_value FROM tries}), 1, 'an action that cannot be marked is not tried again meanwhile');
let_go(@holders);
wait_until($node, qq{
	SELECT status = 'completed' FROM saga.steps, LATERAL (SELECT test_advance_clock('1 min')) c WHERE saga_id = '$held' AND key = 'a'});
is($node->safe_psql('postgres', "SELECT string_agg(outcome, ', ' ORDER BY attempt) FROM saga.attempts JOIN saga.steps USING (saga_id, seq) WHERE saga_id = '$held' AND key = 'a' AND phase = 'forward'")
	  . ', ' . $node->safe_psql('postgres', "SELECT coalesce(charged, 0) FROM saga.ledger_step WHERE saga = '$held' AND key = 'a'"),
	'interrupted, succeeded, 0', 'and costs one attempt, which is free');
$node->safe_psql('postgres', "SELECT saga.complete_step('$held', 'own'), saga.complete('$held')");

# One whose time is over by the next attempt: the only executor passes it by.
$node->append_conf('postgresql.conf', 'saga.max_executors = 1');
$node->reload;
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});
$held = $node->safe_psql('postgres', q{
	SELECT saga.begin('order') AS id \gset
	SELECT saga.step(:'id', 'a', action => 'SELECT 1 / 0', timeout => '30 min', on_failure => 'skip',
		retry => saga.retry_policy(delay => '10 min', jitter => 0)) \g /dev/null
	SELECT :'id'});
wait_until($node, "SELECT count(*) = 1 FROM saga.steps WHERE saga_id = '$held' AND status = 'failed'");
@holders = hold_saga($held);
$offset = log_offset($node);
others();
no_log($node, qr/could not process a saga/, $offset, 'a step that is out of time, of a saga that is held, disturbs nobody');
let_go(@holders);
wait_until($node, qq{
	SELECT error = 'timed out' FROM saga.steps, LATERAL (SELECT test_advance_clock('1 s')) c WHERE saga_id = '$held' AND key = 'a'});
$node->safe_psql('postgres', "SELECT saga.complete_step('$held', 'own'), saga.complete('$held')");

# ------------------------------------------------------------- a read-only database

foreach (['the database', 'ALTER DATABASE postgres SET default_transaction_read_only = on', 'ALTER DATABASE postgres RESET default_transaction_read_only'],
	['the server', 'ALTER SYSTEM SET default_transaction_read_only = on', 'ALTER SYSTEM RESET default_transaction_read_only'])
{
	my ($what, $on, $off) = @{$_};
	my $n = $what eq 'the database' ? 60 : 3;
	my $offset = log_offset($node);
	$node->safe_psql('postgres', $on);
	# (Sessions that there are do not see the setting of their database.)
	$node->safe_psql('postgres', q{SELECT pg_reload_conf(), pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'
		UNION ALL SELECT pg_reload_conf(), NULL});
	wait_until($node, q{SELECT current_setting('default_transaction_read_only') = 'on' AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'saga executor')});
	my $saga = failed("$what is read-only", 'INSERT INTO written VALUES (1)');
	wait_until($node, qq{
		SELECT compensation_attempts >= $n FROM saga.steps, LATERAL (SELECT test_advance_clock('1 min')) c WHERE saga_id = '$saga'});
	my $failed = attempts_of($node, $saga);
	like($failed, qr/^interrupted 25006(, interrupted 25006)+$/, "$what is read-only: it waits");
	is(charged($saga), '0', 'and is not charged');
	like($node->safe_psql('postgres', "SELECT next_action, last_error FROM saga.sagas JOIN saga.steps ON saga_id = id WHERE id = '$saga'"),
		qr/^compensate step "a" (?:again at .*|as soon as an executor is free)\|default_transaction_read_only is on for role "\w+" in this database$/, 'which can be seen');
	$node->safe_psql('postgres', "SET default_transaction_read_only = off; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; $off");
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	wait_until($node, qq{
		SELECT state = 'compensated' FROM saga.sagas, LATERAL (SELECT test_advance_clock('1 min')) c WHERE id = '$saga'});
	like(attempts_of($node, $saga) . ', ' . charged($saga), qr/^\Q$failed\E(, interrupted 25006)*, succeeded, 0$/, "$what can be written again: it is done");
}
my $next = failed('for the next transaction', 'SET default_transaction_read_only = on; INSERT INTO written VALUES (2)', 'max_attempts => 1');
wait_state($node, $next, 'compensated');
is_deeply([ map { attempts_of($node, $_) } $next, map { wait_state($node, $_, 'compensated'); $_ } failed('and the next', 'INSERT INTO written VALUES (3)') ],
	[ 'succeeded', 'succeeded' ], 'what SQL makes the default of its session is nothing to the next');
is($node->safe_psql('postgres', q{SELECT string_agg(n::text, ' ' ORDER BY n) FROM written}), '1 1 2 3', 'each is done once');

guarantees($node);
$node->stop;
done_testing();
