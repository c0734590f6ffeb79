# When a compensation fails: the schedule of its attempts, what is charged and
# what is not, timeouts, and what a compensation may ask for by SQLSTATE.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', conf => "saga.max_deferrals = 3\nsaga.lock_timeout = 100ms\nautovacuum = off\n");
witness($node, sql => 'SELECT raise(%');
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE TABLE effects (n serial, saga text, attempt integer);
	CREATE TABLE parent (id integer PRIMARY KEY);
	CREATE TABLE child (id integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE locked ();
	-- Raises an SQLSTATE up to some attempt
	CREATE FUNCTION raise(context jsonb, state text, until integer) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM witness.undo(context);
		INSERT INTO effects (saga, attempt)
		VALUES (context->'saga'->>'idempotency_key', (context->>'attempt')::integer);
		IF (context->>'attempt')::integer <= until THEN
			RAISE EXCEPTION USING ERRCODE = state, MESSAGE = 'raised ' || state;
		END IF;
	END $$;});
create_trap($node);
create_failed($node);

sub failed
{
	my ($key, $sql, $retry) = @_;
	return $node->safe_psql('postgres', qq{SELECT failed('$key', \$\$$sql\$\$, retry => saga.retry_policy($retry))});
}

sub step
{
	my ($saga, $columns) = @_;
	return $node->safe_psql('postgres', "SELECT $columns FROM saga.steps WHERE saga_id = '$saga'");
}

# --- The schedule.  Each saga's attempts all fail; the clock goes on an hour
# after each.  (Delays are longer than a busy machine takes to look at them.)

my %schedules = (
	constant => [ q{max_attempts => 6, delay => '200 s', backoff => 'constant', jitter => 0}, [ (200_000) x 5 ] ],
	linear => [ q{max_attempts => 6, delay => '200 s', backoff => 'linear', max_delay => '1 hour', jitter => 0}, [ map { $_ * 200_000 } 1 .. 5 ] ],
	exponential => [ q{max_attempts => 6, delay => '200 s', backoff => 'exponential', max_delay => '1 hour', jitter => 0},
		[ map { $_ * 200_000 } 1, 2, 4, 8, 16 ] ],
	capped => [ q{max_attempts => 6, delay => '200 s', backoff => 'exponential', max_delay => '700 s', jitter => 0},
		[ 200_000, 400_000, 700_000, 700_000, 700_000 ] ],
	jitter => [ q{max_attempts => 6, delay => '200 s', backoff => 'constant', jitter => 0.5}, undef ]);
my %saga = map { $_ => failed($_, 'SELECT 1/0', $schedules{$_}[0]) } keys %schedules;
my %delays;
foreach my $n (1 .. 5)
{
	wait_until($node, "SELECT bool_and(compensation_attempts = $n) FROM saga.steps");
	$delays{ (split /\|/)[0] }[ $n - 1 ] = (split /\|/)[1] foreach split /\n/, $node->safe_psql('postgres', q{
		SELECT idempotency_key, (1000 * extract(epoch FROM s.next_attempt_at - a.finished_at))::integer
		FROM saga.sagas JOIN saga.steps s ON s.saga_id = id
			JOIN saga.attempts a ON a.saga_id = id AND phase = 'compensation' AND a.attempt = s.compensation_attempts});
	is($node->safe_psql('postgres', q{
		SELECT count(*) FROM saga.sagas JOIN saga.steps ON saga_id = id
		WHERE state = 'compensating' AND next_action_at = next_attempt_at AND next_action LIKE 'compensate step "a" again at %'}),
		scalar(keys %schedules), "after attempt $n, the next action is the next attempt") if $n == 1;
	$node->safe_psql('postgres', q{SELECT test_advance_clock('1 hour')});
}
foreach my $key (sort keys %schedules)
{
	wait_state($node, $saga{$key}, 'needs_review');
	is(attempts_of($node, $saga{$key}), join(', ', ('failed 22012') x 6), "$key: six attempts");
	is(step($saga{$key}, 'compensation_status, last_error, next_attempt_at, parked'),
		'failed|division by zero||retries exhausted after 6 attempts: division by zero', "$key: then it is parked");
	is("@{ $delays{$key} }", "@{ $schedules{$key}[1] }", "$key: delays") if defined $schedules{$key}[1];
}
is(scalar(grep { $_ < 100_000 || $_ > 300_000 } @{ $delays{jitter} }), 0, "jitter: delays are spread within bounds")
  or diag("@{ $delays{jitter} }");
my %different = map { $_ => 1 } @{ $delays{jitter} };
cmp_ok(scalar keys %different, '>', 1, 'jitter: and differ');

# The right moment: not before its time
my $punctual = failed('punctual', 'SELECT 1/0', q{delay => '1 hour', max_delay => '1 hour', backoff => 'constant', jitter => 0});
wait_until($node, "SELECT compensation_attempts = 1 FROM saga.steps WHERE saga_id = '$punctual'");
$node->safe_psql('postgres', q{SELECT test_advance_clock('59 minutes')});
my $witness = failed('witness', 'SELECT 1', '');
wait_state($node, $witness, 'compensated');
is(attempts_of($node, $punctual), 'failed 22012', 'no attempt before its time');
$node->safe_psql('postgres', q{SELECT test_advance_clock('1 minute')});
wait_until($node, "SELECT compensation_attempts = 2 FROM saga.steps WHERE saga_id = '$punctual'");

# --- What a compensation asks for

my $never = failed('never', q{SELECT raise($1, 'SG006', 99)}, '');
wait_state($node, $never, 'needs_review');
is(attempts_of($node, $never) . ' ' . step($never, 'parked'), 'failed SG006 raised SG006', 'SG006: parked at once');

my $later = failed('later', q{SELECT raise($1, 'SG007', 3)}, q{max_attempts => 1, delay => '1 min'});
wait_until($node, qq{
	SELECT state = 'compensated' FROM saga.sagas, LATERAL (SELECT test_advance_clock('1 hour')) c WHERE id = '$later'});
is(attempts_of($node, $later), 'deferred SG007, deferred SG007, deferred SG007, succeeded', 'SG007: asked again, and not charged');
my $too_late = failed('too late', q{SELECT raise($1, 'SG007', 99)}, q{max_attempts => 1, delay => '1 min'});
wait_until($node, qq{
	SELECT state = 'needs_review' FROM saga.sagas, LATERAL (SELECT test_advance_clock('1 hour')) c WHERE id = '$too_late'});
like(attempts_of($node, $too_late), qr/^(deferred SG007(, )?){3,4}$/, 'SG007: up to saga.max_deferrals times');
like(step($too_late, 'parked'), qr/asked to be called later \d times/, 'then it is parked');

# --- Conflicts have a budget of their own

foreach my $state (qw(40001 40P01 55P03))
{
	my $lucky = failed("lucky $state", qq{SELECT raise(\$1, '$state', 10)}, 'max_attempts => 1');
	wait_until($node, qq{
		SELECT state = 'compensated' FROM saga.sagas, LATERAL (SELECT test_advance_clock('1 s')) c WHERE id = '$lucky'});
	is(attempts_of($node, $lucky), join(', ', ("failed $state") x 10, 'succeeded'), "$state: not charged");
	is($node->safe_psql('postgres', "SELECT string_agg(attempt::text, ' ') FROM effects WHERE saga = 'lucky $state'"), '11',
		"$state: done once");
}
my $unlucky = failed('unlucky', q{SELECT raise($1, '40001', 9999)}, q{max_attempts => 2, delay => '1 min'});
wait_until($node, qq{
	SELECT state = 'needs_review' FROM saga.sagas, LATERAL (SELECT test_advance_clock('1 hour')) c WHERE id = '$unlucky'});
my $count = step($unlucky, 'compensation_attempts');
cmp_ok($count, '>', 10, 'without an end, they are charged in the end');
cmp_ok($count, '<', 100, 'and end');
is(step($unlucky, 'compensation_status, parked'), 'failed|retries exhausted after 2 attempts: raised 40001', 'as exhausted retries');

# A lock that somebody holds for longer than saga.lock_timeout
my $holder = session($node);
$holder->query_safe('BEGIN; LOCK TABLE locked');
my $waiting = failed('waiting', 'LOCK TABLE locked', 'max_attempts => 1');
wait_until($node, qq{
	SELECT compensation_attempts >= 2 FROM saga.steps, LATERAL (SELECT test_advance_clock('1 s')) c WHERE saga_id = '$waiting'});
$holder->query_safe('COMMIT');
$holder->quit;
wait_state($node, $waiting, 'compensated');
like(attempts_of($node, $waiting), qr/^(failed 55P03, )+succeeded$/, 'lock timeout: armed, and not charged');

# --- Timeouts

my $slow = failed('slow', 'SELECT pg_sleep(3600)', q{max_attempts => 2, delay => '10 ms', timeout => '200 ms'});
my $trap = failed('trap', 'SELECT trap()', q{max_attempts => 1, timeout => '200 ms'});
wait_state($node, $slow, 'needs_review');
is(attempts_of($node, $slow), 'timed out 57014, timed out 57014', 'a timeout is charged');
like(step($slow, 'parked'), qr/^retries exhausted after 2 attempts: /, 'and exhausts the retries');
my $fast = failed('fast', 'SELECT 1', '');
wait_state($node, $fast, 'compensated');
is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$trap'"), 'compensating',
	'others go on beside one that traps its cancel');
wait_state($node, $trap, 'needs_review');
is(attempts_of($node, $trap), 'timed out', 'whose process is ended');
my $took = $node->safe_psql('postgres', qq{
	SELECT extract(epoch FROM finished_at - started_at) FROM saga.attempts WHERE saga_id = '$trap' AND phase = 'compensation'});
ok($took > 5 && $took < $PostgreSQL::Test::Utils::timeout_default, '5 s after its timeout') or diag("$took s");
like(step($trap, 'parked'), qr/^retries exhausted after 1 attempt: it ran on after its timeout/, 'and it says so');

# --- Errors at commit

my $dangling = failed('dangling', 'INSERT INTO child VALUES (1)', q{max_attempts => 2, delay => '1 h', backoff => 'constant', jitter => 0});
wait_until($node, "SELECT compensation_attempts = 1 FROM saga.steps WHERE saga_id = '$dangling'");
is(attempts_of($node, $dangling), 'failed 23503', 'a deferred constraint that fails is a failed attempt');
is($node->safe_psql('postgres', 'SELECT count(*) FROM child'), 0, 'that leaves nothing behind');
$node->safe_psql('postgres', q{INSERT INTO parent VALUES (1); SELECT test_advance_clock('1 h')});
wait_state($node, $dangling, 'compensated');
is(attempts_of($node, $dangling) . $node->safe_psql('postgres', 'SELECT count(*) FROM child'), 'failed 23503, succeeded1', 'and then it is done');

# --- on_compensation_failure

foreach my $mode (qw(halt continue))
{
	my $id = $node->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$mode', on_compensation_failure => '$mode') AS id \\gset
		SELECT count(saga.step(:'id', step, compensation => CASE step WHEN 'b' THEN 'SELECT 1/0' ELSE 'SELECT 1' END,
			compensation_retry => saga.retry_policy(max_attempts => 1)))
		FROM unnest(ARRAY['a', 'b', 'c']) AS step;
		SELECT saga.fail(:'id');
		SELECT :'id'});
	$id =~ s/.*\n//s;
	wait_state($node, $id, 'needs_review');
	is($node->safe_psql('postgres', qq{
		SELECT string_agg(key || ' ' || CASE WHEN compensation_status IN ('registered', 'pending') THEN 'waiting'
			ELSE compensation_status END, ', ' ORDER BY seq)
		FROM saga.steps WHERE saga_id = '$id'}),
		$mode eq 'halt' ? 'a waiting, b failed, c compensated' : 'a compensated, b failed, c compensated', $mode);
}

guarantees($node);
$node->stop;
done_testing();
