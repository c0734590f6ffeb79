# Actions exactly once: our processes are killed, fail and end at every point where
# they could lose an action or do it twice.  Each action's effect is there once, and
# so are its mark, its output and the steps it recorded; nothing is left waiting.
# Suspects run alone, and one that was alone at three crashes waits for a person,
# while nothing is undone for it.
#
# The witness is a table that anybody may write to twice.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'needs the test build' if !is_test_build();

# Every point there is on the way of an action, with the ways to end there
my %points = map { $_ => 1 } qw(
  executor.after_begun executor.before_inflight executor.after_inflight executor.before_mark executor.after_hold
  executor.before_commit executor.after_commit executor.before_look
  executor.before_look_commit executor.after_look_commit executor.before_record_failure
  worker.before_turn worker.before_commit worker.after_commit worker.before_end);
my @actions = qw(error fatal kill);

my %found;
foreach my $room (qw(action in_hand interrupted own_lane))
{
	my $text = slurp_file("$FindBin::RealBin/../../../src/process/$room.c");
	$found{$1} = 1 while $text =~ /SAGA_FAULT\("([^"]+)"\)/g;
}
is(join(' ', sort keys %found), join(' ', sort keys %points), 'every fault point is known here');

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\n");
witness($node, action => 'SELECT %($1)');
$node->safe_psql('postgres', q{
	-- Once it has failed, and that is written down, it does what it is to do.
	CREATE FUNCTION act(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		done bigint := witness.act(context);
		how text := context->'args'->>'how';
		i integer;
	BEGIN
		IF how = 'fails' OR how = 'fails once' AND NOT EXISTS (
			SELECT FROM saga.attempts
			WHERE saga_id = saga.current() AND seq = (context->'step'->>'seq')::bigint
				AND phase = 'forward' AND error = 'not now')
		THEN
			RAISE EXCEPTION 'not now';
		ELSIF how = 'records' THEN
			FOR i IN 1..3 LOOP
				PERFORM saga.step(saga.current(), format('%s.%s', context->'step'->>'key', i),
					action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)', after => '{}');
			END LOOP;
		END IF;
		RETURN done;
	END $$;
	-- A sealed saga of three steps, one of which must be undone once it has begun
	CREATE FUNCTION make(key text, first text DEFAULT NULL, second text DEFAULT NULL, third text DEFAULT NULL)
	RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key);
		how text[] := ARRAY[first, second, third];
	BEGIN
		FOR i IN 1..3 LOOP
			PERFORM saga.step(id, 's' || i, action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)',
				args => jsonb_build_object('how', how[i]), compensate_on => CASE i WHEN 2 THEN 'started' ELSE 'completed' END,
				retry => saga.retry_policy(max_attempts => CASE WHEN how[i] = 'fails' THEN 1 ELSE 1000 END,
					delay => '10 ms', backoff => 'constant', jitter => 0),
				compensation_retry => saga.retry_policy(max_attempts => 1000, delay => '10 ms', backoff => 'constant', jitter => 0));
		END LOOP;
		PERFORM saga.complete(id, when_done => true);
		RETURN id;
	END $$;
	CREATE FUNCTION make_all(round text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM make(round || ' plain');
		PERFORM make(round || ' branches', 'records');
		PERFORM make(round || ' fails', 'records', NULL, 'fails');
		PERFORM make(round || ' twice', NULL, 'fails once');
	END $$;});

my %ends = (plain => 'completed', branches => 'completed', twice => 'completed', fails => 'compensated');
my %effects = (
	plain => 's1, s2, s3',
	twice => 's1, s2, s3',
	branches => 's1, s1.1, s1.2, s1.3, s2, s3',
	# s3 failed
	fails => 's1, s1.1, s1.2, s1.3, s2');
my %slowest = (time => 0);

# An executor looks in a transaction of its own if somebody else has a part in the
# saga, as who records a step does until the end of the transaction.
sub look
{
	my ($name) = @_;
	my $id = $node->safe_psql('postgres', "SELECT saga.begin('order', '$name looked')");
	my $session = session($node);

	# The first such step waits for others who have a part.
	$node->safe_psql('postgres', "SELECT saga.step('$id', 's0', after => '{}')");

	$session->query_safe("BEGIN; SELECT saga.step('$id', 'own')");
	return ($id, $session, qq{
		SELECT saga.step('$id', 's1', action => 'SELECT act(\$1)', after => '{}');
		SELECT saga.step('$id', 's2', action => 'SELECT act(\$1)', after => '{s1}')});
}

sub round
{
	my ($name, $faults, $evidence) = @_;
	my ($looked, $session, $steps) = $name =~ /look/ ? look($name) : ();
	my $make = "SELECT make_all('$name') WHERE NOT EXISTS (SELECT FROM saga.sagas WHERE idempotency_key = '$name twice')";

	set_faults($node, $faults);
	if ($looked)
	{
		# (Beside a transaction that stays open)
		$node->psql('postgres', $steps, stderr => \my $lost, timeout => $PostgreSQL::Test::Utils::timeout_default);
		wait_struck($node) or die "$name does not come to its point";
		hang_up($session);
	}
	# It may be struck down itself; then it is repeated below.
	$node->psql('postgres', $make, stderr => \my $err);
	# One that does not come to its end leaves nothing behind that others could begin with.
	(defined $evidence ? wait_until($node, $evidence) : wait_struck($node)) or die "$name does not come to its point";
	set_faults($node, '');
	insist($node, $make);
	insist($node, "$steps; SELECT saga.complete('$looked', when_done => true)",
		"SELECT runs = 's' OR state <> 'r' FROM saga.ledger_saga WHERE id = '$looked'") if $looked;
	my $wanted = $looked ? 5 : 4;
	my $begun = time;
	wait_until($node, qq{
		SELECT count(*) = $wanted FROM saga.sagas WHERE idempotency_key LIKE '$name %' AND state IN ('completed', 'compensated')})
	  or die "$name does not come to its end";
	my $took = time - $begun;
	%slowest = (time => $took, name => $name) if $took > $slowest{time};
	note(sprintf '%s: %.2f s', $name, $took);

	is($node->safe_psql('postgres', qq{
		SELECT s.idempotency_key, s.state, string_agg(e.key, ', ' ORDER BY e.key)
		FROM witness.effect e JOIN saga.sagas s ON s.id = e.saga
		WHERE e.hand = 'action' AND s.idempotency_key LIKE '$name %' GROUP BY 1, 2 ORDER BY 1}),
		join("\n", sort(($looked ? "$name looked|completed|s1, s2" : ()), map { "$name $_|$ends{$_}|$effects{$_}" } keys %ends)),
		"$name: each effect once")
	  or show_ledger($node, "idempotency_key LIKE '$name %'");
	return;
}

# A crash may take back how sagas of the rounds before ended: they end again.
sub all_ended
{
	wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.sagas WHERE state IN ('running', 'compensating'))});
	return;
}

# Many rounds with each way to end, so that crashes do not come in between
foreach my $action (@actions)
{
	foreach my $point (sort keys %points)
	{
		# No action of these runs when its saga fails; see below.
		next if $point eq 'worker.before_end';
		# An attempt that fails is made again, as often as it takes.
		if ($action eq 'error' && $point =~ /^executor\.(before|after)_(begun|inflight|mark|commit)$/ && $point ne 'executor.after_commit')
		{
			round("$point=$action", "$point=$action",
				qq{SELECT count(*) > 2 FROM saga.attempts WHERE error = 'fault point "$point"' AND phase = 'forward'});
		}
		else { round("$point=$action", "$point=$action once"); }
	}
	all_ended();
	guarantees($node, undef, idle => 1);
}

# A crash while what was in flight at the last one is written down
round('crash upon crash', 'executor.before_mark=kill once,worker.before_commit=kill once after');
all_ended();

is($node->safe_psql('postgres', q{
	SELECT saga_id, seq, outcome, error FROM saga.attempts
	WHERE phase = 'forward' AND outcome NOT IN ('succeeded', 'interrupted')
		AND NOT (outcome = 'failed' AND (error = 'not now' OR error LIKE 'fault point "%"'))}),
	'', 'no attempt ended in a way that nobody asked for');
cmp_ok($node->safe_psql('postgres', q{
	SELECT count(*) FROM saga.attempts WHERE phase = 'forward' AND outcome = 'interrupted'}), '>', 3,
	'interrupted attempts are in the history');
guarantees($node, undef, idle => 1);

# --- A retry that is due before its executor has put the step down

# Slow after each commit, the executor finds at last that its ticket is about
# nothing any more; the worker has passed by what was due meanwhile.  A row that is
# passed by in vain waits for ten seconds, until its lane is read again.
set_faults($node, 'transaction.after_commit=delay');
my $begun = time;
foreach my $i (1 .. 5)
{
	$node->safe_psql('postgres', "SELECT make('retry $i', 'fails once')");
	wait_until($node, "SELECT state = 'completed' FROM saga.sagas WHERE idempotency_key = 'retry $i'");
}
set_faults($node, '');
my $took = time - $begun;
cmp_ok($took, '<', 40, 'no retry is passed by');

# --- An action that kills its own server process each time, beside innocent ones

my $offset = log_offset($node);

# Makes a saga in a server that may be crashing, and returns its id.
sub make_poison
{
	my ($key, $steps) = @_;

	insist($node, "SELECT s, $steps, saga.complete(s, when_done => true) FROM saga.begin('order', '$key') AS s
		WHERE NOT EXISTS (SELECT FROM saga.sagas WHERE idempotency_key = '$key')");
	return insist($node, "SELECT id FROM saga.sagas WHERE idempotency_key = '$key'");
}

# Waits until its step "poison" is given up; returns how many crashes there were since
# that offset of the log, and the outcomes of its attempts.
sub given_up
{
	my ($id, $offset) = @_;

	wait_until($node, "SELECT parked LIKE 'the server crashed 3 times%' FROM saga.steps WHERE saga_id = '$id' AND key = 'poison'");
	my $outcomes = $node->safe_psql('postgres', qq{
		SELECT string_agg(outcome, ' ' ORDER BY attempt) FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq)
		WHERE saga_id = '$id' AND key = 'poison' AND phase = 'forward'});
	my $crashes = () = slurp_file($node->logfile, $offset) =~ /terminated by signal 9/g;
	return ($crashes, split / /, $outcomes);
}
my $poison = make_poison('poison', q{
	saga.step(s, 'before', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)'),
	saga.step(s, 'poison', action => $$COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'$$),
	saga.step(s, 'behind', action => 'SELECT act($1)')});
foreach my $i (1 .. 3) { $node->psql('postgres', qq{SELECT make('innocent $i', 'records')}); }
given_up($poison, $offset);
foreach my $i (1 .. 3)
{
	$node->safe_psql('postgres', qq{
		SELECT make('innocent $i', 'records') WHERE NOT EXISTS (SELECT FROM saga.sagas WHERE idempotency_key = 'innocent $i')});
}
wait_until($node, q{SELECT count(*) = 3 FROM saga.sagas WHERE idempotency_key LIKE 'innocent%' AND state = 'completed'});
is($node->safe_psql('postgres', qq{
	SELECT string_agg(key || ' ' || status || ' ' || compensation_status, ', ' ORDER BY seq) FROM saga.steps WHERE saga_id = '$poison'}),
	'before completed registered, poison failed none, behind waiting none', 'the poison is parked, and nothing is undone');
is($node->safe_psql('postgres', "SELECT state, next_action FROM saga.sagas WHERE id = '$poison'"),
	'running|step "poison" waits for a person: the server crashed 3 times while nothing but this action ran', 'which its next action says');
is($node->safe_psql('postgres', "SELECT why LIKE '%crashed 3 times%' FROM saga.review_queue WHERE saga_id = '$poison'"), 't',
	'and a person is asked');
my ($crashes, @outcomes) = given_up($poison, $offset);
like("@outcomes", qr/^interrupted interrupted interrupted( interrupted)?$/, 'its attempts were interrupted');
# The first may have lost what came before it, and so that it was there.
ok($crashes == @outcomes || $crashes == @outcomes + 1, 'one crash for each of them, and one that nobody knows of')
  or diag("$crashes crashes: @outcomes");
is($node->safe_psql('postgres', q{
	SELECT t.key, charged FROM saga.ledger_step t JOIN saga.ledger_saga s ON s.id = t.saga
	WHERE (s.key LIKE 'innocent%' OR s.key = 'poison') AND coalesce(charged, 0) <> 0}), '', 'nobody is charged');
$node->safe_psql('postgres', "SELECT saga.resolve('$poison', 'poison', 'done', 'it is harmless', output => '1')");
wait_state($node, $poison, 'completed');
guarantees($node, undef, idle => 1);

# --- The same, of an action that another action records: a crash loses it with the
# mark of that one

$offset = log_offset($node);
$node->safe_psql('postgres', q{
	CREATE FUNCTION spread(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $f$
	BEGIN
		PERFORM saga.step(saga.current(), 'poison', action => $$COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'$$);
		RETURN witness.act(context);
	END $f$});
$poison = make_poison('spread', q{
	saga.step(s, 'spread', action => 'SELECT spread($1)', compensation => 'SELECT witness.undo($1)')});
($crashes, @outcomes) = given_up($poison, $offset);
ok($crashes == @outcomes || $crashes == @outcomes + 1, 'what an action recorded is found out, too')
  or diag("$crashes crashes: @outcomes");
$node->safe_psql('postgres', "SELECT saga.resolve('$poison', 'poison', 'skip', 'not needed')");
wait_state($node, $poison, 'completed');
guarantees($node, undef, idle => 1);
# --- An action that has done its work when its saga fails does not commit, though
# nobody has told its process yet

set_faults($node, 'executor.before_mark=wait once,worker.before_turn=wait after');
my $outlived = (split /\n/, $node->safe_psql('postgres', q{
	SELECT saga.begin('order', 'outlived') AS id \gset
	SELECT saga.step(:'id', 'a', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)') \g /dev/null
	SELECT :'id'}))[-1];
wait_struck($node);
$node->safe_psql('postgres', "SELECT saga.fail('$outlived', 'changed our mind')");
set_faults($node, 'worker.before_turn=wait');
wait_until($node, "SELECT count(*) = 0 FROM saga.running WHERE saga_id = '$outlived'");
is($node->safe_psql('postgres', "SELECT count(*) FROM witness.effect WHERE saga = '$outlived'"), 0, 'F2: nothing is done that ends after the failure');
set_faults($node, '');
wait_state($node, $outlived, 'compensated');
is($node->safe_psql('postgres', "SELECT status FROM saga.steps WHERE saga_id = '$outlived'"), 'skipped', 'F2: it never began');
guarantees($node);

# --- Nor does it when a person already decides about what became of the saga: who
# writes the step's row waits until its process is done with it

foreach my $case (
	[ 'redact', '', 'pivot', 'abandoned', 'skipped', 0, ", saga.abandon('ID', 'by hand')" ],
	[ 'reopen', ", 'go on'", 'pivot', 'running', 'completed', 1, '' ])
{
	my ($call, $note, $kind, $state, $status, $times, $then) = @$case;
	set_faults($node, 'executor.before_mark=wait once,worker.before_turn=wait after');
	my $id = (split /\n/, $node->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$call') AS id \\gset
		SELECT saga.step(:'id', 'first', kind => '$kind', completed => true) \\g /dev/null
		SELECT saga.step(:'id', 'a', action => 'SELECT act(\$1)') \\g /dev/null
		SELECT :'id'}))[-1];
	wait_struck($node);
	$node->safe_psql('postgres', "SELECT saga.fail('$id', 'changed our mind')" . $then =~ s/ID/$id/r);
	my $person = session($node);
	background($person, "SELECT saga.$call('$id'$note)");
	wait_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^SELECT saga.$call' AND wait_event_type = 'Lock'");
	set_faults($node, '');
	$person->query_safe('SELECT 1');
	$person->quit;
	wait_until($node, "SELECT status = '$status' FROM saga.steps WHERE saga_id = '$id' AND key = 'a'");
	is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$id'"), $state, "saga.$call meanwhile: the decision stands");
	is($node->safe_psql('postgres', "SELECT count(*) FROM witness.effect WHERE saga = '$id' AND key = 'a'"), $times,
		"saga.$call meanwhile: its action is done as often as the history says");
}
$node->safe_psql('postgres', "SELECT saga.complete(id) FROM saga.sagas WHERE idempotency_key = 'reopen'");
guarantees($node);

# --- A saga fails and is reopened in one transaction, of which nobody else sees anything:
# its action, which waits for that very transaction, goes on, and is done once

$node->safe_psql('postgres', q{
	CREATE TABLE gate ();
	CREATE FUNCTION pass(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM FROM gate;
		RETURN witness.act(context);
	END $$});
my $in_one = session($node);
$in_one->query_safe('BEGIN; LOCK TABLE gate');
my $unseen = (split /\n/, $node->safe_psql('postgres', q{
	SELECT saga.begin('order', 'unseen') AS id \gset
	SELECT saga.step(:'id', 'first', kind => 'pivot', completed => true) \g /dev/null
	SELECT saga.step(:'id', 'a', action => 'SELECT pass($1)') \g /dev/null
	SELECT :'id'}))[-1];
wait_until($node, "SELECT wait_event = 'relation' FROM saga.running WHERE saga_id = '$unseen'");
my $running = $node->safe_psql('postgres', "SELECT pid, since FROM saga.running WHERE saga_id = '$unseen'");
is($in_one->query_safe("SET lock_timeout = '10s'; SELECT saga.fail('$unseen', 'changed our mind')"), 'needs_review', 'a saga fails');
is($in_one->query_safe("SELECT saga.reopen('$unseen', 'go on')"), 'running', 'and is reopened, while its action waits for that transaction');
is($node->safe_psql('postgres', "SELECT pid, since FROM saga.running WHERE saga_id = '$unseen'"), $running, 'which goes on');
$in_one->query_safe('COMMIT');
$in_one->quit;
wait_until($node, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$unseen' AND key = 'a'");
is($node->safe_psql('postgres', "SELECT count(*) FROM witness.effect WHERE saga = '$unseen' AND key = 'a'"), 1, 'and is done once');
is($node->safe_psql('postgres', "SELECT string_agg(outcome, ' ') FROM saga.attempts WHERE saga_id = '$unseen' AND attempt = 1 AND seq > (SELECT min(seq) FROM saga.steps WHERE saga_id = '$unseen')"), 'succeeded', 'in one attempt');
$node->safe_psql('postgres', "SELECT saga.complete('$unseen')");
guarantees($node);

# Fails another saga, and waits until what comes after the first one in the lanes of the
# role and of the worker has had its turn.
sub others_have_a_turn
{
	my ($key) = @_;

	$node->safe_psql('postgres', qq{
		SELECT saga.begin('order', 'after $key') AS id \\gset
		SELECT saga.step(:'id', 'a', notify => 'after $key') \\g /dev/null
		SELECT saga.step(:'id', 'b', compensation => 'SELECT witness.undo(\$1)') \\g /dev/null
		SELECT saga.fail(:'id')});
	wait_until($node, "SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = 'after $key' AND since IS NOT NULL");
	return;
}

# --- The undo waits until it is written down how an action ended that ran when its
# saga failed: what must be undone although nothing of it is committed

set_faults($node, 'executor.before_record_failure=wait once');
my $cut = (split /\n/, $node->safe_psql('postgres', q{
	SELECT saga.begin('order', 'cut') AS id \gset
	SELECT saga.step(:'id', 'a', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)') \g /dev/null
	SELECT saga.step(:'id', 'b', action => 'SELECT pg_sleep(600)', compensation => 'SELECT witness.undo($1)', compensate_on => 'started') \g /dev/null
	SELECT :'id'}))[-1];
wait_until($node, "SELECT count(*) = 1 FROM saga.running WHERE saga_id = '$cut' AND step = 'b'");
$node->safe_psql('postgres', "SELECT saga.fail('$cut', 'changed our mind')");
wait_struck($node);
others_have_a_turn('cut');
is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$cut'"), 'compensating', 'the undo waits for what was cut short');
set_faults($node, '');
wait_state($node, $cut, 'compensated');
is($node->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', key, status, compensation_status), ', ' ORDER BY seq) FROM saga.steps WHERE saga_id = '$cut'"),
	'a completed compensated, b failed compensated', 'which is undone first');
is($node->safe_psql('postgres', "SELECT string_agg(key, ' ' ORDER BY n) FROM witness.effect WHERE saga = '$cut' AND hand = 'sql'"), 'b a', 'and in that order');
guarantees($node);

# --- A step whose action was cut short keeps its place in the start order, whoever
# writes that down: what began after it is undone before it

foreach my $signal (qw(TERM KILL))
{
	my $id = (split /\n/, $node->safe_psql('postgres', qq{
		SELECT saga.begin('order', 'cut short by $signal') AS id \\gset
		SELECT saga.step(:'id', 'first', action => 'SELECT pg_sleep(600)', after => '{}', compensation => 'SELECT witness.undo(\$1)', compensate_on => 'started') \\g /dev/null
		SELECT :'id'}))[-1];
	wait_until($node, "SELECT count(*) = 1 FROM saga.running WHERE saga_id = '$id'");
	$node->safe_psql('postgres', "SELECT saga.step('$id', 'second', action => 'SELECT act(\$1)', after => '{}', compensation => 'SELECT witness.undo(\$1)')");
	wait_until($node, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$id' AND key = 'second'");
	# (So that it is not run again)
	$node->safe_psql('postgres', "SELECT saga.pause('$id', 'for the test')");
	kill $signal, $node->safe_psql('postgres', "SELECT pid FROM saga.running WHERE saga_id = '$id'");
	wait_until($node, "SELECT count(*) = 1 FROM saga.attempts WHERE saga_id = '$id' AND outcome = 'interrupted'");
	$node->safe_psql('postgres', "SELECT saga.fail('$id'), saga.resume('$id')");
	wait_state($node, $id, 'compensated');
	is($node->safe_psql('postgres', "SELECT string_agg(key, ' ' ORDER BY n) FROM witness.effect WHERE saga = '$id' AND hand = 'sql'"),
		'second first', "cut short by SIG$signal, and undone in its place");
	guarantees($node);
}

# --- So it does where nothing else is to be undone, however the saga fails; nobody is
# told to undo what began before that action; and no failure waits for the action

$node->safe_psql('postgres', q{
	CREATE FUNCTION second_sleeps(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM witness.act(context);
		IF (context->>'round')::bigint = 1 THEN
			PERFORM saga.again();
		ELSE
			PERFORM pg_sleep(600);
		END IF;
	END $$});

# Makes a saga, and returns it when its step "b" runs, and will until that is ended.
sub with_b
{
	my ($key, $first, $b) = @_;
	my $id = (split /\n/, $node->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$key') AS id \\gset
		$first;
		SELECT saga.step(:'id', 'b', compensation => 'SELECT witness.undo(\$1)', after => '{}', $b) \\g /dev/null
		SELECT :'id'}))[-1];
	wait_until($node, qq{
		SELECT count(*) = 1 FROM saga.running WHERE saga_id = '$id' AND wait_event = 'PgSleep'});
	return $id;
}

my $started = q{action => 'SELECT pg_sleep(600)', compensate_on => 'started'};
my %failures = (
	'a call' => q{SELECT saga.fail('ID')},
	'its deadline' => q{SELECT saga.set_timeout('ID', '1 ms')},
	'another step' => q{SELECT saga.step('ID', 'no', action => 'SELECT saga.require(false, $$no$$)', after => '{}')});
foreach my $by (sort keys %failures)
{
	my $id = with_b($by, '', $started);
	$node->safe_psql('postgres', $failures{$by} =~ s/ID/$id/r);
	wait_state($node, $id, 'compensated');
	is($node->safe_psql('postgres', "SELECT status, compensation_status FROM saga.steps WHERE saga_id = '$id' AND key = 'b'"),
		'failed|compensated', "failed by $by: what ran then is undone");

	$id = with_b("$by, listener", q{SELECT saga.step(:'id', 'a', notify => 'sooner', completed => true)}, $started);
	$node->safe_psql('postgres', $failures{$by} =~ s/ID/$id/r);
	wait_until($node, "SELECT count(*) = 1 FROM saga.pending_compensations WHERE saga_id = '$id' AND since IS NOT NULL");
	is($node->safe_psql('postgres', "SELECT status, compensation_status FROM saga.steps WHERE saga_id = '$id' AND key = 'b'"),
		'failed|compensated', "failed by $by: before a listener is told about an earlier step");

	# Rounds of it are committed, so that the failure has something to write about it.
	$id = with_b("$by, rounds", '', q{action => 'SELECT second_sleeps($1)', kind => 'retriable'});
	set_faults($node, 'worker.before_turn=wait once') if $by eq 'a call';
	$node->safe_psql('postgres', "SET lock_timeout = '10s'; " . $failures{$by} =~ s/ID/$id/r);
	set_faults($node, '');
	wait_state($node, $id, 'compensated');
	is($node->safe_psql('postgres', "SELECT compensation_status FROM saga.steps WHERE saga_id = '$id' AND key = 'b'"),
		'skipped', "failed by $by: rounds that cannot be undone");
}
guarantees($node);

# --- After a pivot a person decides, and what ran then is undone if the saga goes back

foreach my $written ('then', 'before')
{
	set_faults($node, 'executor.before_record_failure=wait once') if $written eq 'then';
	my $id = with_b("after a pivot, $written", q{SELECT saga.step(:'id', 'p', kind => 'pivot', completed => true)}, $started);
	$node->safe_psql('postgres', "SELECT saga.fail('$id')");
	if ($written eq 'then') { wait_struck($node) }
	else { wait_until($node, "SELECT attempts = 1 FROM saga.steps WHERE saga_id = '$id' AND key = 'b'") }
	$node->safe_psql('postgres', qq{
		BEGIN;
		SELECT saga.reopen('$id', 'undo that first');
		SELECT saga.rollback_to('$id', 'p');
		COMMIT});
	set_faults($node, '');
	wait_until($node, "SELECT count(*) = 1 FROM saga.running JOIN saga.steps t USING (saga_id, seq) WHERE saga_id = '$id' AND run = 2");
	is($node->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', run, compensation_status, attempts), ', ' ORDER BY seq) FROM saga.steps WHERE saga_id = '$id' AND key = 'b'"),
		'1 compensated 1, 2 registered 0', "what ran when a saga failed after its pivot is undone when it goes back, whose attempt is written down $written");
	$node->safe_psql('postgres', "SELECT saga.fail('$id'); SELECT saga.abandon('$id', 'enough')");
}
guarantees($node);

# --- The time of a step is over before it is written down how its action ended: it is
# given up, and not forgotten

foreach my $give_up ('fail', 'skip')
{
	set_faults($node, 'executor.before_record_failure=wait once');
	my $id = with_b("timed out, $give_up", '', "$started, timeout => '2 s', on_failure => '$give_up'");
	wait_struck($node);
	wait_until($node, "SELECT status = 'failed' FROM saga.steps WHERE saga_id = '$id' AND key = 'b'");
	$node->safe_psql('postgres', "SELECT saga.complete('$id', when_done => true)") if $give_up eq 'skip';
	set_faults($node, '');
	wait_state($node, $id, $give_up eq 'skip' ? 'completed' : 'compensated');
	wait_until($node, "SELECT count(*) = 1 FROM saga.attempts WHERE saga_id = '$id' AND phase = 'forward'");
	is($node->safe_psql('postgres', "SELECT status, compensation_status, attempts, begun IS NOT NULL FROM saga.steps WHERE saga_id = '$id'"),
		$give_up eq 'skip' ? 'failed|registered|1|t' : 'failed|compensated|1|t', "timed out: what ran is known, and $give_up");
}
guarantees($node);

# --- Also if the process that the undo waits for is ended meanwhile

set_faults($node, 'executor.before_record_failure=wait once');
my $orphan = with_b('orphan', '', $started);
$node->safe_psql('postgres', "SELECT saga.fail('$orphan')");
wait_struck($node);
# The worker has just seen that there is nothing to be written down.
set_faults($node, 'executor.before_record_failure=wait,worker.before_end=wait once');
wait_struck($node);
my $executor = q{FROM pg_stat_activity WHERE backend_type = 'saga executor' AND wait_event = 'Extension'};
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid, 1000 * $PostgreSQL::Test::Utils::timeout_default) $executor");
set_faults($node, '');
wait_state($node, $orphan, 'compensated');
is($node->safe_psql('postgres', "SELECT status, compensation_status FROM saga.steps WHERE saga_id = '$orphan'"),
	'failed|compensated', 'what ran in a process that was ended is undone');
guarantees($node);

# --- Of two that run, one has ended and is written down, and the other is not: the undo
# waits for both, and undoes first what began last

set_faults($node, 'executor.before_record_failure=wait once');
my $both = with_b('both', q{SELECT saga.step(:'id', 'zero', compensation => 'SELECT witness.undo($1)', completed => true)}, $started);
$node->safe_psql('postgres', "SELECT saga.step('$both', 'c', compensation => 'SELECT witness.undo(\$1)', after => '{}', $started)");
wait_until($node, "SELECT count(*) = 2 FROM saga.running WHERE saga_id = '$both' AND wait_event = 'PgSleep'");
$node->safe_psql('postgres', "SELECT saga.fail('$both')");
wait_struck($node);
wait_until($node, "SELECT sum(attempts) = 1 FROM saga.steps WHERE saga_id = '$both' AND key <> 'zero'");
others_have_a_turn('both');
is($node->safe_psql('postgres', "SELECT count(*) FROM witness.effect WHERE saga = '$both'"), 0, 'the undo waits for the second one, too');
set_faults($node, '');
wait_state($node, $both, 'compensated');
is($node->safe_psql('postgres', "SELECT string_agg(key, ' ' ORDER BY n) FROM witness.effect WHERE saga = '$both'"), 'c b zero', 'and undoes both in their order');
guarantees($node);

# --- A saga is reopened before it is written down that an action had begun; and one is
# abandoned: that is not forgotten

foreach my $decision ('reopen', 'reopen, paused', 'abandon')
{
	set_faults($node, 'executor.before_record_failure=wait once');
	my $id = with_b("begun, then $decision", q{SELECT saga.step(:'id', 'p', kind => 'pivot', completed => true), saga.signal(:'id', 'go')}, "$started, signals => '{go}'");
	$node->safe_psql('postgres', "SELECT saga.fail('$id')");
	wait_struck($node);
	$node->safe_psql('postgres', "SELECT saga.pause('$id', 'for the test')") if $decision =~ /paused/;
	$node->safe_psql('postgres', "SELECT saga." . $decision =~ s/,.*//r . "('$id', 'for the test')");
	set_faults($node, '');
	if ($decision eq 'abandon')
	{
		wait_until($node, "SELECT attempts = 1 FROM saga.steps WHERE saga_id = '$id' AND key = 'b'");
		is($node->safe_psql('postgres', "SELECT status, compensation_status, begun IS NOT NULL FROM saga.steps WHERE saga_id = '$id' AND key = 'b'"),
			'failed|registered|t', 'abandon: the step says so');
		is($node->safe_psql('postgres', "SELECT count(*) FROM saga.events WHERE saga_id = '$id' AND step = 'b' AND event = 'parked'"),
			'0', 'abandon: nobody is asked to decide');
		next;
	}
	my $attempts = $decision =~ /paused/ ? 1 : 2;
	# It runs again, so that nobody can write down how the first attempt ended; or it
	# waits for its gates to be opened again.
	wait_until($node, $decision =~ /paused/ ? "SELECT attempts = 1 FROM saga.steps WHERE saga_id = '$id' AND key = 'b'" :
		"SELECT count(*) = 1 FROM saga.running WHERE saga_id = '$id' AND wait_event = 'PgSleep'");
	$node->safe_psql('postgres', 'BEGIN; ' . ($decision =~ /paused/ ? "SELECT saga.resume('$id'); " : '') . "SELECT saga.rollback_to('$id', 'p'); COMMIT");
	wait_until($node, "SELECT count(*) = 1 FROM witness.effect WHERE saga = '$id' AND key = 'b'");
	pass("$decision: it is undone when the saga goes back");
	wait_until($node, "SELECT attempts = $attempts FROM saga.steps WHERE saga_id = '$id' AND key = 'b' AND run = 1");
	is($node->safe_psql('postgres', "SELECT count(*) FROM saga.attempts JOIN saga.steps t USING (saga_id, seq) WHERE saga_id = '$id' AND run = 1 AND key = 'b' AND phase = 'forward'"),
		$attempts, "$decision: and each attempt is in the history");
}
guarantees($node);

# --- Nor does a crash make forgotten what had an effect outside: what led to it, another
# action which recorded it, is on disk before it runs

my $effect = $node->data_dir . '/effect';
$node->safe_psql('postgres', qq{
	CREATE FUNCTION once() RETURNS void LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM saga.require((pg_stat_file('$effect', true)).size IS NULL, 'not again');
		PERFORM saga.step(saga.current(), 'b', action => 'SELECT outside()', compensation => 'SELECT witness.undo(\$1)', compensate_on => 'started');
	END \$\$;
	CREATE FUNCTION outside() RETURNS void LANGUAGE plpgsql AS \$\$
	BEGIN
		IF (pg_stat_file('$effect', true)).size IS NULL THEN
			COPY (SELECT 1) TO PROGRAM 'cat > $effect; kill -9 \$PPID';
		END IF;
		PERFORM saga.require(false, 'not again');
	END \$\$});
$node->psql('postgres', q{
	SELECT saga.begin('order', 'outside') AS id \gset
	SELECT saga.step(:'id', 'a', action => 'SELECT once()', compensation => 'SELECT witness.undo($1)') \g /dev/null});
wait_until($node, "SELECT state = 'compensated' FROM saga.sagas WHERE idempotency_key = 'outside'");
ok(-e $effect, 'an action crashed the server after its effect');
is($node->safe_psql('postgres', q{
	SELECT string_agg(e.key, ' ' ORDER BY n) FROM witness.effect e JOIN saga.sagas s ON s.id = e.saga WHERE idempotency_key = 'outside'}), 'b a', 'which is undone');
guarantees($node);

# --- A saga is to fail while an executor that has it alone marks a step: the failure
# waits, and undoes the step, although the executor lets others in before it commits

set_faults($node, 'executor.small,executor.before_mark=wait once');
my $marked = (split /\n/, $node->safe_psql('postgres', q{
	SELECT saga.begin('order', 'marked') AS id \gset
	SELECT saga.step(:'id', 'a', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)') \g /dev/null
	SELECT :'id'}))[-1];
# By now the recorder has let go of the saga, so that the executor can have it alone.
wait_struck($node);
set_faults($node, 'executor.small,executor.after_hold=wait');
wait_until($node, q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted});
my $failing = session($node);
background($failing, "SELECT saga.fail('$marked')");
my $waits = q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND NOT granted};
wait_until($node, $waits);
set_faults($node, 'executor.before_commit=wait once');
wait_struck($node);
is($node->safe_psql('postgres', $waits), 't', 'a failure waits for the mark of a step');
set_faults($node, '');
$failing->quit;
wait_state($node, $marked, 'compensated');
is($node->safe_psql('postgres', "SELECT concat_ws(' ', status, compensation_status) FROM saga.steps WHERE saga_id = '$marked'"),
	'completed compensated', 'a step that was being marked as its saga failed is undone');
guarantees($node);

# --- A step has failed for good, and the look that makes its saga fail is yet to come:
# the application does not complete it meanwhile

set_faults($node, 'executor.before_record_failure=wait once,worker.before_turn=wait after');
my $given_up = (split /\n/, $node->safe_psql('postgres', q{
	SELECT saga.begin('order', 'given up') AS id \gset
	SELECT saga.step(:'id', 'a', action => 'SELECT saga.require(false, $$no$$)') \g /dev/null
	SELECT :'id'}))[-1];
wait_struck($node);
set_faults($node, 'executor.before_look=wait,worker.before_turn=wait');
wait_until($node, "SELECT status = 'failed' FROM saga.steps WHERE saga_id = '$given_up'");
my (undef, undef, $refused) = $node->psql('postgres', "SELECT saga.complete('$given_up', ignore_failed => true)");
like($refused, qr/cannot complete: it is about to fail\nDETAIL:  Step "a" has failed for good/, 'a saga that is about to fail does not complete');
set_faults($node, '');
wait_state($node, $given_up, 'compensated');

# --- A step that was given up, and was passed by, runs again when its saga goes back to
# one after it, which stays as it is

my $passed_by = (split /\n/, $node->safe_psql('postgres', q{
	CREATE TABLE allowed ();
	SELECT saga.begin('order', 'passed by') AS id \gset
	SELECT saga.step(:'id', 'a', action => 'SELECT saga.require(EXISTS (SELECT FROM allowed), $$not yet$$)', on_failure => 'skip') \g /dev/null
	SELECT saga.step(:'id', 'b', action => 'SELECT act($1)') \g /dev/null
	SELECT saga.wait_step(:'id', 'b') \g /dev/null
	INSERT INTO allowed DEFAULT VALUES;
	SELECT saga.rollback_to(:'id', 'b') \g /dev/null
	SELECT :'id'}))[-1];
wait_state($node, $passed_by, 'running');
$node->safe_psql('postgres', "SELECT saga.complete('$passed_by', when_done => true)");
wait_state($node, $passed_by, 'completed');
is($node->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', key, run, status), ', ' ORDER BY seq) FROM saga.steps WHERE saga_id = '$passed_by'"),
	'a 1 completed, b 1 completed', 'a step that was passed by is done in the end');
guarantees($node);

note("slowest: $slowest{name}, $slowest{time} s");
$node->stop;
done_testing();
