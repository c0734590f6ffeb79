# Actions that ask to be run again: each round's effect is there once, whatever dies
# at whatever point, and the next round has the state that the last one left.  They
# leave nothing behind that grows, and keep nobody from his turn.
#
#   SAGA_ROUNDS=100000 test/run --tap 112_rounds      # 20000 in the suite

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time usleep);

plan skip_all => 'needs the test build' if !is_test_build();

my $rounds = $ENV{SAGA_ROUNDS} // 20_000;
my $seed = $ENV{SAGA_SEED} // int(rand 1_000_000);
srand $seed;
report("seed $seed");

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\nsaga.max_executors = 2\n");
witness($node);
$node->safe_psql('postgres', q{
	CREATE ROLE other LOGIN;
	GRANT USAGE ON SCHEMA saga TO other;
	-- The state of a round must be the number of the one before it.
	CREATE FUNCTION act(context jsonb, last integer, delay interval DEFAULT '0') RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		round integer := context->>'round';
	BEGIN
		PERFORM saga.require(coalesce((context->>'state')::integer, 0) = round - 1, format('round %s has state %s', round, context->>'state'));
		IF context->'args'->>'how' = 'fails' AND round % 3 = 0 AND (context->>'attempt')::integer % 2 = 1 THEN
			RAISE EXCEPTION 'not now';
		END IF;
		IF round < last THEN
			PERFORM saga.again(delay, to_jsonb(round));
		END IF;
		RETURN witness.act(context);
	END $$;
	CREATE FUNCTION make(key text, last integer, how text DEFAULT 'plain', delay interval DEFAULT '0') RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('loop', key);
	BEGIN
		PERFORM saga.step(id, 'loop', args => jsonb_build_object('how', how), compensation => 'SELECT witness.undo($1)',
			action => format('SELECT act($1, %s, %L) -- witness.act($1)', last, delay),
			retry => saga.retry_policy(max_attempts => 1000, delay => '10 ms', backoff => 'constant', jitter => 0));
		PERFORM saga.complete(id, when_done => true);
		RETURN id;
	END $$;});

# What the witness saw of a saga: how many effects, of how many rounds, up to which
sub seen
{
	my ($key) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT s.state, count(*), count(DISTINCT round), max(round), max(t.rounds), max(t.attempts)
		FROM saga.sagas s JOIN saga.steps t ON t.saga_id = s.id LEFT JOIN witness.effect e ON e.saga = s.id AND e.hand = 'action'
		WHERE s.idempotency_key = '$key' GROUP BY 1});
}

# --- At every point of the way

# Makes a saga in a server that may be crashing.
sub make
{
	my ($key, $arguments) = @_;
	insist($node, "SELECT make('$key', $arguments)", "SELECT count(*) = 1 FROM saga.sagas WHERE idempotency_key = '$key'");
	return;
}
foreach my $action (qw(error fatal kill))
{
	foreach my $point (qw(executor.before_inflight executor.after_inflight executor.before_mark executor.before_commit executor.after_commit))
	{
		foreach my $how (qw(plain fails))
		{
			my $key = "$point $action $how";
			set_faults($node, "$point=$action once");
			make($key, "7, '$how'");
			wait_struck($node) or die "$key does not come to its point";
			set_faults($node, '');
			wait_until($node, qq{SELECT state = 'completed' FROM saga.sagas WHERE idempotency_key = '$key'})
			  or die "$key does not come to its end";
			like(seen($key), qr/^completed\|7\|7\|7\|7\|/, "$key: each round once")
			  or show_ledger($node, "idempotency_key = '$key'");
		}
	}
	guarantees($node, undef, idle => 1);
}
# What is committed is not told as interrupted; what a crash has lost is.
is($node->safe_psql('postgres', q{
	SELECT s.idempotency_key, outcome, error FROM saga.attempts a JOIN saga.sagas s ON s.id = saga_id
	WHERE idempotency_key SIMILAR TO 'executor.after_commit (error|fatal) plain' AND outcome <> 'succeeded'}), '',
	'a round that is committed did not fail');

# --- Killed at random

make("random $_", $_ % 2 ? "500, 'plain'" : "500, 'plain', '1 ms'") foreach 1 .. 4;
my $killed = 0;
for (my $n = 0; $n < 12; $n++)
{
	usleep(int(rand 300_000));
	my @pids = split /\n/, (try_psql($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'saga executor'") // '');
	$killed += kill 'KILL', $pids[ rand @pids ] if @pids;
	wait_server($node) if rand() < 0.8;
}
cmp_ok($killed, '>', 3, 'executors were killed');
wait_server($node);
wait_until($node, q{SELECT count(*) = 4 FROM saga.sagas WHERE idempotency_key LIKE 'random%'
	AND (state = 'completed' OR EXISTS (SELECT FROM saga.review_queue q WHERE q.saga_id = id AND why LIKE '%crashed%'))});
# Being there at three crashes, alone, is what parks.
$node->safe_psql('postgres', q{SELECT saga.resolve(saga_id, step, 'retry', 'killed by the test') FROM saga.review_queue WHERE why LIKE '%crashed%'});
wait_until($node, q{SELECT count(*) = 4 FROM saga.sagas WHERE idempotency_key LIKE 'random%' AND state = 'completed'});
like(seen("random $_"), qr/^completed\|500\|500\|500\|500\|/, "killed at random, $_: each round once") foreach 1 .. 4;
guarantees($node, undef, idle => 1);

# --- Nothing grows

$node->safe_psql('postgres', q{CREATE FUNCTION loop(context jsonb, last integer, delay interval) RETURNS void LANGUAGE sql AS $$
	SELECT saga.again(delay, jsonb_build_object('cursor', context->'round')) WHERE (context->>'round')::integer < last $$});
foreach my $delay ('0', '1 ms')
{
	my $count = $delay eq '0' ? $rounds : $rounds / 10;
	my $id = $node->safe_psql('postgres', qq{
		SELECT s FROM saga.begin('grow', 'grow $delay') s, saga.step(s, 'loop', action => 'SELECT loop(\$1, $count, ''$delay'')')});
	my $sizes = q{SELECT string_agg(c.oid::regclass || ' ' || pg_relation_size(c.oid) / 8192, ', ' ORDER BY c.oid::regclass::text)
		FROM pg_class c WHERE relnamespace = 'saga'::regnamespace AND relname ~ '^ledger_(step|due|attempt|event|held)' AND relkind IN ('r', 'i')};
	wait_until($node, "SELECT rounds >= $count / 10 FROM saga.steps WHERE saga_id = '$id'");
	my $before = $node->safe_psql('postgres', $sizes);
	my $begun = time;
	wait_until($node, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$id'");
	report(sprintf '%d rounds with a delay of %s: %.0f/s', $count * 0.9, $delay, $count * 0.9 / (time - $begun));
	my $after = $node->safe_psql('postgres', $sizes);
	my %before = map { split / / } split /, /, $before;
	my %after = map { split / / } split /, /, $after;
	# While anybody looks, what has ended since he began to look is kept.  An entry
	# kept for every round takes 40 bytes at least.
	my $most = $count * 0.9 * 40 / 8192;
	my @grown = grep { $after{$_} > $before{$_} + $most } sort keys %after;
	is(join(', ', map { "$_ $before{$_} -> $after{$_}" } @grown), '', "$count rounds with a delay of $delay: no table and no index grows")
	  or diag("before: $before\nafter:  $after");
	is($node->safe_psql('postgres', "SELECT count(*) FROM saga.attempts WHERE saga_id = '$id'"), 1, 'one attempt');
	$node->safe_psql('postgres', "SELECT saga.complete('$id')");
}

# --- Others have their turn, with one executor

$node->safe_psql('postgres', 'ALTER SYSTEM SET saga.max_executors = 1');
$node->reload;
my @endless = split /\n/, $node->safe_psql('postgres', q{
	SELECT s FROM generate_series(1, 2) n, saga.begin('endless', 'endless ' || n) s,
		saga.step(s, 'loop', action => 'SELECT loop($1, 2000000000, ''0'')')});
wait_until($node, q{SELECT count(*) = 2 FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id WHERE s.name = 'endless' AND rounds > 100});
pass('two endless loops share an executor');
my $begun = time;
foreach my $n (1 .. 10)
{
	make("beside $n", 3);
	wait_until($node, "SELECT state = 'completed' FROM saga.sagas WHERE idempotency_key = 'beside $n'");
}
report(sprintf 'beside two endless loops: %.2f s each', (time - $begun) / 10);
# A lane is read again after 10 s.
cmp_ok(time - $begun, '<', 60, 'ten sagas of the same role have their turn beside endless loops');
$begun = time;
my $other = sql_as($node, 'other', q{
	SELECT s FROM saga.begin('other', 'other') s, saga.step(s, 'a', action => 'SELECT 1'), saga.complete(s, when_done => true)});
wait_state($node, $other, 'completed');
report(sprintf 'of another role: %.2f s', time - $begun);
my $count = $node->safe_psql('postgres', "SELECT min(rounds) FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id WHERE s.name = 'endless'");
wait_until($node, "SELECT min(rounds) > $count FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id WHERE s.name = 'endless'");
pass('and the loops go on');
# Paused, they stand still at once; canceled, they are over.
$node->safe_psql('postgres', "SELECT saga.pause('$endless[0]', 'enough')");
wait_until($node, "SELECT waits_for LIKE 'saga.resume%' FROM saga.steps WHERE saga_id = '$endless[0]'");
$node->safe_psql('postgres', "SELECT saga.resume('$endless[0]', 'go on')");
$count = $node->safe_psql('postgres', "SELECT rounds FROM saga.steps WHERE saga_id = '$endless[0]'");
wait_until($node, "SELECT rounds > $count FROM saga.steps WHERE saga_id = '$endless[0]'");
pass('a loop that was paused goes on when it is resumed');
$node->safe_psql('postgres', "SELECT saga.cancel('$_')") foreach @endless;
wait_state($node, $_, 'compensated') foreach @endless;
guarantees($node, undef, idle => 1);
$node->stop;
done_testing();
