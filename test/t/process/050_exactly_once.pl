# Exactly once: our processes are killed, fail and end at every point where they
# could lose or double something, and each compensation's effect is there once,
# in the reverse start order, with a history that has no gaps.
#
# The witnesses are tables that anybody may write to twice: the compensations
# just insert into them.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

# Every point there is in these rooms, with the actions that make sense there
my %points = map { $_ => 1 } qw(
  executor.before_inflight executor.after_inflight executor.before_mark
  executor.before_commit executor.after_commit executor.before_record_failure
  worker.before_turn worker.before_commit worker.after_commit);
my @actions = qw(error fatal kill);

my %found;
foreach my $room (qw(attempt executor in_hand interrupted own_lane session worker))
{
	my $text = slurp_file("$FindBin::RealBin/../../../src/process/$room.c");
	$found{$1} = 1 while $text =~ /SAGA_FAULT\("([^"]+)"\)/g;
}
# A worker that comes or goes has nothing in hand: 078_forgotten_waiter.pl.
delete @found{qw(worker.before_attach worker.before_leave)};
# No action runs here: 103_actions_lost_or_doubled.pl.
delete $found{'worker.before_end'};
is(join(' ', sort keys %found), join(' ', sort keys %points), 'every fault point is known here');

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\n");
witness($node, sql => 'SELECT undo($1)');
$node->safe_psql('postgres', q{
	CREATE TABLE effects (n serial, saga text, step text);
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM witness.undo(context);
		INSERT INTO effects (saga, step)
		VALUES (context->'saga'->>'idempotency_key', context->'step'->>'key');
		IF context->'args'->>'fails' = 'once' AND
			NOT EXISTS (SELECT FROM saga.attempts
				WHERE saga_id = (context->'saga'->>'id')::uuid AND seq = (context->'step'->>'seq')::bigint
					AND phase = 'compensation' AND error = 'not now')
		THEN
			RAISE EXCEPTION 'not now';
		END IF;
	END $$;
	-- A saga of three steps
	CREATE FUNCTION make(key text, timeout interval DEFAULT NULL, fails text DEFAULT NULL) RETURNS uuid
	LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key, timeout => timeout);
	BEGIN
		FOR i IN 1..3 LOOP
			PERFORM saga.step(id, 'step ' || i, compensation => 'SELECT undo($1)',
				args => jsonb_build_object('fails', CASE WHEN i = 2 THEN fails END),
				compensation_retry => saga.retry_policy(max_attempts => 1000, delay => '10 ms',
					backoff => 'constant', jitter => 0));
		END LOOP;
		RETURN id;
	END $$;
	-- One saga fails, one fails and so does one of its compensations, and the
	-- third is failed by its deadline.
	CREATE FUNCTION fail_all(round text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM saga.fail(make(round || ' plain'));
		PERFORM saga.fail(make(round || ' twice', fails => 'once'));
		PERFORM make(round || ' deadline', timeout => '1 ms');
	END $$;});

# Faults, and what shows that they happened, if they do not strike once
sub round
{
	my ($name, $faults, $evidence) = @_;
	my $fail = "SELECT fail_all('$name') WHERE NOT EXISTS (SELECT FROM saga.sagas WHERE idempotency_key = '$name deadline')";

	set_faults($node, $faults);
	# It may be struck down itself; then it is repeated below.
	$node->psql('postgres', $fail, stderr => \my $err);
	(defined $evidence ? wait_until($node, $evidence) : wait_struck($node)) or die "$name does not come to its point";
	set_faults($node, '');
	insist($node, $fail);
	wait_until($node, qq{
		SELECT count(*) = 3 FROM saga.sagas
		WHERE idempotency_key LIKE '$name %' AND state = 'compensated'}) or die "$name does not come to its end";

	is($node->safe_psql('postgres', qq{
		SELECT saga, string_agg(step, ', ' ORDER BY n) FROM effects
		WHERE saga LIKE '$name %' GROUP BY saga ORDER BY saga}),
		join("\n", map { "$name $_|step 3, step 2, step 1" } qw(deadline plain twice)),
		"$name: each effect once, in reverse")
	  or show_ledger($node, "idempotency_key LIKE '$name %'");
	return;
}

# Many rounds with each way to end, so that crashes do not come in between
foreach my $action (@actions)
{
	foreach my $point (sort keys %points)
	{
		# An attempt that fails is made again, as often as it takes.
		if ($action eq 'error' && $point =~ /^executor/ && $point !~ /record_failure|after_commit/)
		{
			round("$point=$action", "$point=$action",
				qq{SELECT count(*) > 2 FROM saga.attempts WHERE error = 'fault point "$point"'});
		}
		else { round("$point=$action", "$point=$action once"); }
	}
}

# A crash while what was in flight at the last one is written down
round('crash upon crash', 'executor.before_mark=kill once,worker.before_commit=kill once after');

# An application's server process killed when the failure is committed and no
# process of ours was told
{
	my $id = $node->safe_psql('postgres', q{SELECT make('told nobody')});
	my ($out, $err);
	$node->psql('postgres', qq{SET saga.test_faults = 'wakeup.after_commit=kill'; SELECT saga.fail('$id')},
		stdout => \$out, stderr => \$err);
	like($err, qr/server closed the connection|terminating connection/, 'a crash between commit and wake-up');
	wait_state($node, $id, 'compensated');
	is($node->safe_psql('postgres', q{SELECT string_agg(step, ' ' ORDER BY n) FROM effects WHERE saga = 'told nobody'}),
		'step 3 step 2 step 1', 'is made up for');
}

is($node->safe_psql('postgres', q{
	SELECT saga_id, seq, outcome, error FROM saga.attempts
	WHERE phase = 'compensation' AND outcome NOT IN ('succeeded', 'interrupted')
		AND NOT (outcome = 'failed' AND (error = 'not now' OR error LIKE 'fault point "%"'))}),
	'', 'no attempt ended in a way that nobody asked for');
is($node->safe_psql('postgres', q{
	SELECT s.key, s.comp_charged, a.failed
	FROM saga.ledger_step s,
		LATERAL (SELECT count(*) AS failed FROM saga.attempts
			WHERE saga_id = s.saga AND seq = s.seq AND phase = 'compensation' AND outcome = 'failed') a
	WHERE coalesce(s.comp_charged, 0) <> a.failed}),
	'', 'charged are the attempts that failed, and no interrupted one');
cmp_ok($node->safe_psql('postgres', q{
	SELECT count(*) FROM saga.attempts WHERE phase = 'compensation' AND outcome = 'interrupted'}), '>', 5,
	'interrupted attempts are in the history');
is($node->safe_psql('postgres', q{
	SELECT saga, step, e.n AS effects, s.n AS marks
	FROM (SELECT saga, step, count(*) AS n FROM effects GROUP BY saga, step) e
	FULL JOIN (
		SELECT idempotency_key AS saga, key AS step, count(*) AS n
		FROM saga.steps t JOIN saga.sagas a ON a.id = t.saga_id
		WHERE compensation_status = 'compensated' GROUP BY idempotency_key, key) s USING (saga, step)
	WHERE e.n IS DISTINCT FROM s.n OR e.n <> 1}),
	'', 'as many effects as compensated steps');
guarantees($node);
$node->stop;
done_testing();
