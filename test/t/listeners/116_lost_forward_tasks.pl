# Tasks that go forward: a notification that is lost, a service that does not report, an
# owner's flood, an owner that is gone.  What was not reported comes again, and nobody
# starves.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\nlog_statement = none\nsaga.max_executors = 2\n");
virtual_clock($node);

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sql(q{
	CREATE TABLE effect (key text PRIMARY KEY, times int NOT NULL DEFAULT 1);
	-- A task, once what is before it is done: it is up to an executor's look.
	CREATE FUNCTION make(name text, channel text, n int DEFAULT 1) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', name);
	BEGIN
		PERFORM saga.step(id, 'before', action => 'SELECT 1', compensation => 'SELECT 1');
		PERFORM saga.step(id, 'task ' || i, after => ARRAY[CASE i WHEN 1 THEN 'before' ELSE 'task ' || i - 1 END],
			task => channel, compensation => 'SELECT 1', retry => saga.retry_policy(1000, '10 min', 'constant', '10 min', 0, '1 hour'))
			FROM generate_series(1, n) i;
		PERFORM saga.complete(id, when_done => true);
		RETURN id;
	END $$;});

# ------------------------------------------------------------- announcements

my $listener = listen_to($node, qw(told retried paused));

# By an application that records it, and by an executor whose step opens its gate
sql(q{SELECT saga.step(saga.begin('order', 'at once'), 'a', task => 'told')});
wait_heard($listener, qr/^told\|.*"event":"task".*@{[ saga_id($node, 'at once') ]}/);
sql(q{SELECT make('opened', 'told')});
wait_heard($listener, qr/^told\|.*"event":"task".*@{[ saga_id($node, 'opened') ]}/);
is(sql(q{SELECT count(*) FROM saga.claim_tasks('told', 10)}), 2, 'what is announced can be claimed');

# Again, once it may be tried again, and not before
sql(q{SELECT make('retried', 'retried')});
wait_heard($listener, qr/^retried\|/);
is(sql(q{SELECT saga.fail_task(task_key, attempt, 'no answer') FROM saga.claim_tasks('retried')}), 'failed', 'it fails');
my $before = grep { /^retried\|/ } heard($listener);
advance_clock($node, '5 min');
sql(q{SELECT saga.step(saga.begin('order', 'another'), 'a', task => 'told')});
wait_heard($listener, qr/^told\|.*@{[ saga_id($node, 'another') ]}/);
is(scalar(grep { /^retried\|/ } heard($listener)), $before, 'nobody is told before its time');
is(sql(q{SELECT count(*) FROM saga.claim_tasks('retried')}), 0, 'nor is it to be had');
advance_clock($node, '6 min');
wait_heard($listener, qr/^retried\|/, $before + 1);
is(sql(q{SELECT attempt FROM saga.claim_tasks('retried', lease => '10 min')}), 2, 'then it is');

# A lease that ends, and nobody has reported
$before = grep { /^retried\|/ } heard($listener);
advance_clock($node, '11 min');
wait_until($node, q{SELECT attempts = 2 FROM saga.steps WHERE task = 'retried'});
advance_clock($node, '11 min');
wait_heard($listener, qr/^retried\|/, $before + 1);
is(sql(q{SELECT string_agg(outcome, ', ' ORDER BY attempt) FROM saga.attempts JOIN saga.steps USING (saga_id, seq)
	WHERE task = 'retried'}), 'failed, timed out', 'it was charged');

# Announced again for as long as nobody claims it, and when a saga goes on
sql(q{SELECT make('paused', 'paused')});
wait_heard($listener, qr/^paused\|/);
foreach my $pause (1, 1, 2, 4)
{
	$before = grep { /^paused\|/ } heard($listener);
	advance_clock($node, "$pause s");
	wait_heard($listener, qr/^paused\|.*"event":"task"/, $before + 1);
}
sql(q{SELECT saga.pause(id, 'wait') FROM saga.sagas WHERE idempotency_key = 'paused'});
is(sql(q{SELECT count(*) FROM saga.claim_tasks('paused')}), 0, 'paused: it is not to be had');
$before = grep { /^paused\|/ } heard($listener);
sql(q{SELECT saga.resume(id) FROM saga.sagas WHERE idempotency_key = 'paused'});
wait_heard($listener, qr/^paused\|/, $before + 1);
is(sql(q{SELECT saga.complete_task(task_key) FROM saga.claim_tasks('paused')}), 'completed', 'and then it is');
$listener->quit;

# ------------------------------------------------------------------- a limit

# Who claims while another does counts what that one is about to have.
sql(q{SELECT count(saga.step(s, 'a' || n, after => '{}', task => 'limited'))
	FROM (SELECT saga.begin('order', 'limited') AS s OFFSET 0) s, generate_series(1, 4) n;
	SELECT saga.limit('limited', 1)});
my @claiming = map { session($node) } 1, 2;
$claiming[0]->query_safe(q{SET saga.test_faults = 'table.write_1=wait'});
my $claim = q{SELECT count(*) || ' of the limit' FROM saga.claim_tasks('limited', 3)};
my $offset = log_offset($node);
background($claiming[0], $claim);
wait_log($node, qr/waiting at fault point "table\.write_1"/, $offset);
background($claiming[1], $claim);
wait_until($node, q{SELECT count(*) FROM pg_locks WHERE NOT granted}, 1);
set_faults($node, 'release');
like($claiming[0]->query("SELECT 'and on'"), qr/1 of the limit/, 'one claims what the limit allows');
like($claiming[1]->query("SELECT 'and on'"), qr/0 of the limit/, 'and who waited for that, nothing more');
$_->quit foreach @claiming;
set_faults($node, '');

# One that was counted, and is rolled back meanwhile, is nobody's any more.
sql(q{SELECT saga.limit('limited', 3)});
my ($gone, $counting) = map { session($node) } 1, 2;
$gone->query_safe('BEGIN');
like($gone->query($claim), qr/2 of the limit/, 'two are claimed');
$counting->query_safe(q{SET saga.test_faults = 'limits.after_read=wait'});
$offset = log_offset($node);
background($counting, $claim);
wait_log($node, qr/waiting at fault point "limits\.after_read"/, $offset);
$gone->query_safe('ROLLBACK');
set_faults($node, 'release');
like($counting->query("SELECT 'and on'"), qr/0 of the limit/, 'who counted them while they were rolled back gets nothing, and no error');
like($counting->query($claim), qr/2 of the limit/, 'and then as many as are left');
$_->quit foreach $gone, $counting;
set_faults($node, '');

# A limit that is set anew while somebody goes for its lock is the one that holds.
# (Three are claimed, and one is left.)
foreach my $set ([ 4, "SELECT saga.limit('limited', 3)", 0 ], [ 4, "SELECT saga.limit('limited', 4, 'infinity')", 0 ], [ 3, "SELECT saga.limit('limited')", 1 ])
{
	my ($before, $anew, $left) = @$set;

	sql("SELECT saga.limit('limited', $before)");
	my $late = session($node);
	$late->query_safe(q{SET saga.test_faults = 'limits.before_lock=wait'});
	$offset = log_offset($node);
	background($late, "BEGIN; $claim");
	wait_log($node, qr/waiting at fault point "limits\.before_lock"/, $offset);
	sql($anew);
	set_faults($node, 'release');
	like($late->query("SELECT 'and on'"), qr/$left of the limit/, "claimed meanwhile: $anew");
	$late->query_safe('ROLLBACK');
	is($late->query_safe(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()}), 0, 'and no lock is left');
	$late->quit;
	set_faults($node, '');
}
sql(q{SELECT saga.limit('limited')});

# ------------------------------------------------------------------ an owner

sql(q{
	CREATE ROLE crowd; CREATE ROLE single; CREATE ROLE gone;
	GRANT USAGE ON SCHEMA saga TO crowd, single, gone;
	SET ROLE crowd;
	SELECT count((saga.step(s, 'a' || n, after => '{}', task => 'shared')).seq)
	FROM (SELECT saga.begin('flood') AS s OFFSET 0) s, generate_series(1, 1000) n;
	SET ROLE single;
	SELECT saga.step(saga.begin('alone'), 'a', task => 'shared');
	SELECT saga.fail(s) FROM (SELECT saga.begin('undone') AS s OFFSET 0) s, saga.step(s, 'a', completed => true, notify => 'shared')});
wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue WHERE channel = 'shared' AND phase = 'c'});
is(sql(q{SELECT string_agg(name, ' ' ORDER BY name) FROM saga.claim_tasks('shared', 3)}), 'alone flood undone',
	'one of each: no flood is before the others');
is(sql(q{SELECT count(DISTINCT task_key) FROM saga.claim_tasks('shared', 500)}), 500, 'and the flood is to be had, each once');
is(sql(q{SELECT count(DISTINCT task_key) FROM saga.claim_tasks('shared', 500)}), 499, 'to its end');
is(sql(q{SELECT saga.fail(id) FROM saga.sagas WHERE name = 'flood'}), 'compensated', 'nothing of it is undone');

sql(q{SET ROLE gone; SELECT saga.step(saga.begin('orphan'), 'a', task => 'orphans', compensation => NULL)});
sql(q{ALTER ROLE gone RENAME TO another});
wait_until($node, q{SELECT count(*) = 1 FROM saga.review_queue WHERE saga = 'orphan'});
like(sql(q{SELECT why FROM saga.review_queue WHERE saga = 'orphan'}), qr/role "gone"|another/, 'what waits for an owner that is gone is parked')
  or show_ledger($node);
sql(q{ALTER ROLE another RENAME TO gone});
is(sql(q{SELECT saga.resolve(saga_id, step, 'retry', 'it is back') FROM saga.review_queue WHERE saga = 'orphan'}), 'running', 'a person lets it go on');
is(sql(q{SELECT count(*) FROM saga.claim_tasks('orphans')}), 1, 'and it is to be had');
sql(q{SELECT saga.cancel(id) FROM saga.sagas WHERE state = 'running'});
wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state NOT IN ('compensated', 'completed', 'compensating')});
sql(q{SELECT saga.complete_task(task_key) FROM saga.pending_tasks WHERE phase = 'compensation'});
guarantees($node);

$node->stop('immediate');
done_testing();
