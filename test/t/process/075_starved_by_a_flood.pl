# Nobody is starved: while one role fails sagas by the thousand, what another
# fails is undone at once.  Each kind of flood: SQL, what its role cannot run,
# listeners, people, deadlines, channels.
#
# How long that takes is told, in milliseconds; what is asserted is how far the
# flood got meanwhile, which does not depend on the machine.  SAGA_FLOOD sets
# the size of the flood of SQL (10,000).

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $flood = $ENV{SAGA_FLOOD} || 10_000;
my $flood_of_the_worker = 2_000;

my $node = saga_cluster('main', conf => "autovacuum = off\nshared_buffers = 256MB\nmax_wal_size = 4GB\nlog_statement = none\n");
$node->safe_psql('postgres', q{
	CREATE ROLE mallory LOGIN;
	CREATE ROLE alice LOGIN;
	GRANT USAGE ON SCHEMA saga TO mallory, alice;
	CREATE TABLE undone (what text);
	GRANT ALL ON undone TO alice;
	CREATE FUNCTION flood(n integer, kind text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		s uuid;
	BEGIN
		FOR i IN 1..n LOOP
			s := saga.begin(kind, timeout => CASE kind WHEN 'deadline' THEN interval '1 day' END);
			CASE
				WHEN kind IN ('sql', 'unfit') THEN PERFORM saga.step(s, 'a', compensation => 'SELECT pg_sleep(0.005)');
				WHEN kind IN ('listener', 'deadline') THEN PERFORM saga.step(s, 'a', notify => 'flood');
				WHEN kind = 'channels' THEN PERFORM saga.step(s, 'a', notify => 'flood ' || i);
				WHEN kind = 'person' THEN PERFORM saga.step(s, 'a', review => 'look');
			END CASE;
			IF kind <> 'deadline' THEN PERFORM saga.fail(s); END IF;
		END LOOP;
	END $$;});

my $alice = session($node, user => 'alice');

# What the other role does: to be undone by SQL, or by a listener
sub fail_one
{
	my ($kind) = @_;
	my $undo = $kind eq 'sql' ? q{compensation => 'INSERT INTO public.undone VALUES (''undone'')'} : q{notify => 'one'};
	return (split /\n/, $alice->query_safe(qq{
		SELECT saga.begin('one') AS id \\gset
		SELECT saga.step(:'id', 'a', $undo) \\g /dev/null
		SELECT saga.fail(:'id') \\g /dev/null
		SELECT :'id'}))[-1];
}

# Waits until it is undone; how long that took, in milliseconds
sub undone
{
	my ($id) = @_;
	return $alice->query_safe(qq{
		SELECT saga.wait('$id', '3 minutes') \\g /dev/null
		SELECT round(1000 * extract(epoch FROM coalesce(max(compensated_at), 'infinity') - min(failing.at)), 1)
		FROM saga.steps s JOIN saga.events failing USING (saga_id) WHERE s.saga_id = '$id' AND failing.event = 'failing'});
}

# How many of a flood are not where they will end
sub left
{
	my ($kind, $state) = @_;
	return $node->safe_psql('postgres', "SELECT count(*) FROM saga.ledger_saga WHERE name = '$kind' AND state <> '$state'");
}

undone(fail_one('sql')) foreach 1 .. 3;

# --- SQL behind SQL.  Each of the flood takes 5 ms and more: of two executors,
#     400 in a second, at most.

sql_as($node, 'mallory', "SELECT flood($flood, 'sql')");
wait_until($node, q{SELECT count(*) >= 100 FROM saga.ledger_saga WHERE name = 'sql' AND state = 'c'});
my $before = left('sql', 'c');
my @ids = map { my $id = fail_one('sql'); undone($id); $id } 1 .. 10;
my $after = left('sql', 'c');
my ($took, $passed, $most) = split /\|/, $node->safe_psql('postgres', q{
	SELECT string_agg(round(1000 * extract(epoch FROM until - since))::text, ' ' ORDER BY since),
		string_agg(passed::text, ' ' ORDER BY since), max(passed) FROM (
		SELECT until, since, (SELECT count(*) FROM saga.ledger_saga f WHERE f.name = 'sql' AND f.finished_at BETWEEN since AND until) AS passed
		FROM (SELECT s.finished_at AS until, e.at AS since FROM saga.ledger_saga s JOIN saga.ledger_event e ON e.saga = s.id AND e.event = 'failing'
			WHERE s.name = 'one' AND s.id >= '} . $ids[0] . q{') one) o});
diag("undone behind $flood failures of another role within $took ms, while $passed of those were");
cmp_ok($most, '<', 400, 'SQL of one role behind the SQL of another: it waits for few of those');
cmp_ok($after, '>', 0.2 * $flood, 'which goes on all the time');
cmp_ok($after, '<', $before, 'nor is the flood kept waiting');

# --- SQL behind what its role cannot run any more

# What an executor has at hand it would park itself: without one, the worker does.
# (A role without LOGIN could be run from PostgreSQL 17 on.)
$node->safe_psql('postgres', q{REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
	GRANT CONNECT ON DATABASE postgres TO alice;
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mallory'});
wait_until($node, q{SELECT count(*) > 0 FROM saga.ledger_saga WHERE name = 'sql' AND state = 'p'});
my $id = fail_one('sql');
$took = undone($id);
my $left = left('sql', 'c') - $node->safe_psql('postgres', q{SELECT count(*) FROM saga.ledger_saga WHERE name = 'sql' AND state = 'p'});
diag("undone within $took ms behind sagas that are parked, of which $left were left");
cmp_ok($left, '>', 0.25 * $flood, 'SQL of one role behind what another can run no more: it does not wait for its end');

# --- Behind what the worker itself has to do: dispatching, parking, deadlines.
#     It stands still until all is there.

if (is_test_build())
{
	virtual_clock($node);
	$node->safe_psql('postgres', q{
		DELETE FROM saga.ledger_due WHERE lane = 'mallory'::regrole;
		UPDATE saga.ledger_saga SET due = NULL, lane = NULL WHERE lane = 'mallory'::regrole;
		SELECT saga.adopt();});
	foreach my $kind ('listener', 'person', 'deadline', 'channels')
	{
		halt_worker($node);
		$node->safe_psql('postgres', "SET ROLE mallory; SELECT flood($flood_of_the_worker, '$kind')");
		$node->safe_psql('postgres', q{SELECT test_advance_clock('2 days')}) if $kind eq 'deadline';
		my $listeners = fail_one('listener');
		my $id = fail_one('sql');
		set_faults($node, '');
		my $took = undone($id);
		my $left = $node->safe_psql('postgres', 'SELECT count(*) FROM saga.ledger_due WHERE lane = 0');
		diag("undone within $took ms behind a flood of $flood_of_the_worker, $kind, of which $left were left");
		cmp_ok($left, '>', 0.2 * $flood_of_the_worker, "SQL of one role behind a flood of another, $kind: it does not wait for its end");
		wait_until($node, q{SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = 'one' AND next_attempt_at IS NULL});
		is($alice->query_safe(q{SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('one')}), 'compensated',
			"what listeners do has its turn behind it, $kind");
	}
}

$alice->quit;
$node->stop('immediate');
done_testing();
