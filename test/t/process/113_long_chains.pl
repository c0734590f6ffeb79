# Sagas with very many steps in a row: an executor that goes along them knows from
# memory what the end of a step opens (src/process/following.c).  No step begins too
# early or is forgotten, whatever others do to the saga meanwhile, and the time grows
# with the number of steps and not with its square.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "saga.max_executors = 4\nautovacuum = off\n");
$node->safe_psql('postgres', q{
	CREATE TABLE ran (n bigint GENERATED ALWAYS AS IDENTITY, saga uuid, key text, outputs jsonb);
	CREATE FUNCTION act(c jsonb) RETURNS text LANGUAGE sql AS $$
		INSERT INTO ran (saga, key, outputs) VALUES (saga.current(), c->'step'->>'key', c->'outputs') RETURNING key $$;
	-- Steps first .. last in a row, by the order of recording or by lists; some of the application
	CREATE PROCEDURE record(id uuid, first int, last int, lists boolean DEFAULT false, own_every int DEFAULT NULL) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN first .. last LOOP
			IF i % own_every = 0 THEN
				PERFORM saga.step(id, 's' || i);
			ELSE
				PERFORM saga.step(id, 's' || i, action => 'SELECT act($1)',
					after => CASE WHEN lists THEN ARRAY(SELECT 's' || i - 1 WHERE i > 1) END);
			END IF;
		END LOOP;
	END $$;});

# All have run once, in their order, and each with the output of the one before.
sub ran_right
{
	my ($saga, $steps, $what) = @_;
	wait_state($node, $saga, 'completed');
	is($node->safe_psql('postgres', qq{
		SELECT count(*), count(DISTINCT key) FROM ran WHERE saga = '$saga' AND key ~ '^s[0-9]';
		SELECT count(*) FROM (SELECT substr(key, 2)::int AS i, lag(substr(key, 2)::int) OVER (ORDER BY n) AS before
			FROM ran WHERE saga = '$saga' AND key ~ '^s[0-9]') o WHERE i <= before;
		SELECT count(*) FROM ran r WHERE saga = '$saga' AND key ~ '^s[0-9]'
			AND EXISTS (SELECT FROM saga.ledger_step t WHERE t.saga = r.saga AND t.key = 's' || substr(r.key, 2)::int - 1 AND t.action IS NOT NULL)
			AND outputs->>('s' || substr(key, 2)::int - 1) IS DISTINCT FROM 's' || substr(key, 2)::int - 1;}),
		"$steps|$steps\n0\n0", "$what: each once, in order, with the output of the one before");
	return;
}

# --- others at work on the same saga

my $saga = $node->safe_psql('postgres', q{
	SELECT saga.begin('visited') AS id \gset
	CALL record(:'id', 1, 400, own_every => 100);
	\echo :id});
foreach my $own (1 .. 4)
{
	my $before = $own * 100 - 1;
	wait_until($node, "SELECT count(*) = 1 FROM ran WHERE saga = '$saga' AND key = 's$before'");
	is($node->safe_psql('postgres', "SELECT max(substr(key, 2)::int) FROM ran WHERE saga = '$saga' AND key ~ '^s[0-9]'"), $before,
		"nothing goes past step $own of the application");
	# While the chain stands; and while it goes on
	$node->safe_psql('postgres', qq{SELECT saga.step('$saga', 'side$own', action => 'SELECT act(\$1)', after => '{}')});
	$node->safe_psql('postgres', qq{
		SELECT saga.complete_step('$saga', 's' || $own * 100);
		SELECT saga.step('$saga', 'beside$own', action => 'SELECT act(\$1)', after => '{s1}');
		SELECT saga.step('$saga', 'app$own', completed => true);
		SELECT saga.pause('$saga', 'stop');
		SELECT saga.resume('$saga', 'go on');
		SELECT saga.step('$saga', 'late$own', action => 'SELECT act(\$1)');});
}
$node->safe_psql('postgres', "SELECT saga.complete('$saga', when_done => true)");
ran_right($saga, 396, 'others at work');
is($node->safe_psql('postgres', qq{
	SELECT count(*), count(DISTINCT key) FROM ran WHERE saga = '$saga' AND key !~ '^s[0-9]';
	SELECT bool_and(n > (SELECT max(n) FROM ran WHERE saga = '$saga' AND key ~ '^s[0-9]')) FROM ran WHERE saga = '$saga' AND key ~ '^late'}),
	"12|12\nt", 'the steps beside it, too, and those recorded later after all of it');

# --- steps that a transaction has recorded which is still open

my $open = session($node);
$saga = $open->query_safe(q{SELECT saga.begin('half recorded')});
$open->query_safe(qq{CALL record('$saga', 1, 150)});
wait_until($node, "SELECT count(*) = 150 FROM ran WHERE saga = '$saga'");
$open->query_safe(qq{BEGIN; SELECT saga.step('$saga', 's151'); CALL record('$saga', 152, 300, true);});
# Others of the saga go on meanwhile.
$node->safe_psql('postgres', qq{SELECT saga.step('$saga', 'other', action => 'SELECT act(\$1)', after => '{}')});
wait_until($node, "SELECT count(*) = 1 FROM ran WHERE saga = '$saga' AND key = 'other'");
$open->query_safe('COMMIT');
$node->safe_psql('postgres', qq{SELECT saga.step('$saga', 'last', action => 'SELECT act(\$1)')});
is($node->safe_psql('postgres', "SELECT count(*) FROM ran WHERE saga = '$saga' AND key IN ('s152', 'last')"), 0, 'what was recorded before is waited for');
$open->query_safe(qq{SELECT saga.complete_step('$saga', 's151'); SELECT saga.complete('$saga', when_done => true);});
$open->quit;
ran_right($saga, 299, 'recorded in two transactions');

# --- with a mark that is lost

$saga = $node->safe_psql('postgres', q{
	SELECT saga.begin('interrupted') AS id \gset
	CALL record(:'id', 1, 400);
	SELECT saga.complete(:'id', when_done => true) \gset x
	\echo :id});
foreach my $many (50, 150, 250, 350)
{
	wait_until($node, "SELECT count(*) >= $many FROM ran WHERE saga = '$saga'");
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});
}
ran_right($saga, 400, 'its executors end');

# --- how much is read

# Index entries of steps that were returned, for each step of a chain
sub reads_of
{
	my ($steps, $lists) = @_;
	my $count = q{SELECT pg_stat_force_next_flush(); SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'ledger_step_key'};
	# Those of processes that have ended are all there.
	my $all = sub {
		$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});
		wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'saga executor'});
		return (split /\n/, $node->safe_psql('postgres', $count))[-1];
	};
	my $before = $all->();
	my $id = $node->safe_psql('postgres', qq{
		SELECT saga.begin('long') AS id \\gset
		CALL record(:'id', 1, $steps, $lists);
		SELECT saga.complete(:'id', when_done => true) \\gset x
		\\echo :id});
	ran_right($id, $steps, "$steps steps, lists $lists");
	return ($all->() - $before) / $steps;
}

# Where a look reads all steps for each, these are as many as the chain is long, and
# more; a bound with much room, since looks that the recording asks for are in it, and
# what the test build asserts.
foreach my $lists ('false', 'true')
{
	my $reads = reads_of(3000, $lists);
	cmp_ok($reads, '<', 1500, "a chain of 3,000 steps does not read all of them for each (lists $lists)") or diag($reads);
	note("reads for each step: $reads");
}

guarantees($node);
$node->stop;
done_testing();
