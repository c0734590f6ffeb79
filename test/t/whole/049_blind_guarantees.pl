# The tests' own verdict: what the guarantees' queries are to find, they find; and
# what the tests rely on besides.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "autovacuum = off\nsaga.executor_idle_timeout = 10min\n");

# More than a pipe holds, for a psql that is refused
is($node->psql('nowhere', "SELECT 1;\n" x 100_000, stderr => \my $refused), 2, 'a program that leaves before it has read its input is no exception');
like($refused, qr/database "nowhere" does not exist/, 'and what it said is known');

witness($node, action => 'SELECT act($1)');
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	CREATE FUNCTION act(context jsonb) RETURNS bigint LANGUAGE sql AS 'SELECT witness.act(context)';
	CREATE FUNCTION make(key text) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key);
	BEGIN
		PERFORM saga.step(id, 'a', compensation => 'SELECT witness.undo($1)');
		PERFORM saga.step(id, 'b', notify => 'witness');
		PERFORM saga.step(id, 'c', review => 'witness: look');
		PERFORM saga.step(id, 'd', compensation => 'SELECT witness.undo($1)');
		RETURN id;
	END $$;});
my $saga = $node->safe_psql('postgres', q{SELECT make('undone')});
my $done = $node->safe_psql('postgres', q{SELECT make('done') AS id \gset
	SELECT count(saga.complete_step(:'id', key)) FROM saga.steps WHERE saga_id = :'id' \g /dev/null
	SELECT saga.complete(:'id') \g /dev/null
	SELECT :'id'});
$node->safe_psql('postgres', "SELECT saga.fail('$saga')");
wait_state($node, $saga, 'needs_review');
guarantees($node);
$node->safe_psql('postgres', "SELECT witness.by_hand('$saga', 'c'), saga.resolve('$saga', 'c', 'done', 'looked at')");
wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue});
$node->safe_psql('postgres', q{CALL witness.serve('witness')});
wait_state($node, $saga, 'compensated');
acknowledged($node, {}, [ 'begin', $saga ], [ 'step', $saga, 'd' ], [ 'fail', $saga ], [ 'complete', $done ],
	[ 'complete_compensation', $saga, 'b' ], [ 'event', $saga, 'resolved' ], [ 'no step', $saga, 'e' ], [ 'no begin', undef, 'x' ]);
guarantees($node);

# What saga runs: one goes forward, with a step that waits for time, one that waits for
# a signal, and one that is parked; one is undone.
my ($forward, $back) = map { $node->safe_psql('postgres', $_) } q{
	SELECT saga.begin('order', 'forward') AS id \gset
	SELECT saga.step(:'id', 'a', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)') \g /dev/null
	SELECT saga.step(:'id', 'b', action => 'SELECT act($1)') \g /dev/null
	SELECT saga.step(:'id', 'w', after => '{}', delay => '2 days', timeout => '4 days') \g /dev/null
	SELECT saga.step(:'id', 'p', after => '{}', action => 'SELECT nowhere()') \g /dev/null
	SELECT saga.step(:'id', 's', after => '{}', signals => '{go}') \g /dev/null
	SELECT saga.step(:'id', 'q', after => '{}', signals => '{come}') \g /dev/null
	SELECT saga.signal(:'id', 'go', '1', 'k1'), saga.signal(:'id', 'go', '2', 'k2') \g /dev/null
	SELECT :'id'}, q{
	SELECT saga.begin('order', 'back') AS id \gset
	BEGIN;
	SELECT saga.step(:'id', 'a', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)') \g /dev/null
	SELECT saga.step(:'id', 'b', action => 'SELECT act($1)', compensation => 'SELECT witness.undo($1)') \g /dev/null
	SELECT saga.step(:'id', 'c', action => 'SELECT 1 / 0', retry => saga.retry_policy(max_attempts => 1)) \g /dev/null
	SELECT saga.complete(:'id', when_done => true) \g /dev/null
	COMMIT;
	SELECT :'id'};
wait_state($node, $back, 'compensated');
wait_until($node, "SELECT count(*) FILTER (WHERE status = 'completed') = 3 AND count(*) FILTER (WHERE parked IS NOT NULL) = 1
	FROM saga.steps WHERE saga_id = '$forward'");
acknowledged($node, {}, map { [ 'signal', $forward, $_ ] } qw(k1 k2));
# A task that a service holds, and one that nobody does, in a saga with a deadline; and
# of two steps for listeners one that a listener holds.
my ($served, $heard) = map { $node->safe_psql('postgres', $_) } q{
	SELECT saga.begin('order', 'served', timeout => '1 day') AS id \gset
	SELECT saga.step(:'id', 't', task => 'work'), saga.step(:'id', 'u', task => 'work', after => '{}') \g /dev/null
	SELECT :'id'}, q{
	SELECT saga.begin('order', 'heard') AS id \gset
	SELECT saga.step(:'id', k, notify => 'hear', compensation_retry => saga.retry_policy(timeout => '2 hours')) FROM unnest('{m,n}'::text[]) k \g /dev/null
	SELECT saga.fail(:'id') \g /dev/null
	SELECT :'id'};
wait_queued($node, 'work', 2);
wait_queued($node, 'hear', 1);
is($node->safe_psql('postgres', q{SELECT step FROM saga.claim_tasks('work', 1, '1 hour') UNION ALL SELECT step FROM saga.claim_compensations('hear', 1, '1 hour')}),
	"t\nn", 'one of each is claimed');
guarantees($node, undef, idle => 1);
is($node->safe_psql('postgres', "SELECT string_agg(hand || ' ' || key, ', ' ORDER BY n) FROM witness.effect WHERE saga = '$saga'"),
	'sql d, person c, listener b, sql a', 'the witness saw everything');

# Each of these is an accident, of which there is to be a trace.
my %found;
sub finds
{
	my ($guarantee, $what, $sql, $mend) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# A superuser may; it would make the ledger a copy.
	$node->safe_psql('postgres', qq{
		SET client_min_messages = warning;
		BEGIN;
		SET session_replication_role = replica;
		ALTER TABLE saga.ledger_saga DISABLE TRIGGER ALL;
		ALTER TABLE saga.ledger_step DISABLE TRIGGER ALL;
		ALTER TABLE saga.ledger_attempt DISABLE TRIGGER ALL;
		ALTER TABLE saga.ledger_due DISABLE TRIGGER ALL;
		ALTER TABLE saga.ledger_held DISABLE TRIGGER ALL;
		ALTER TABLE saga.ledger_event DISABLE TRIGGER ALL;
		ALTER TABLE saga.ledger_signal DISABLE TRIGGER ALL;
		ALTER TABLE saga.ledger_home DISABLE TRIGGER ALL;
		ALTER TABLE saga.ledger_queue DISABLE TRIGGER ALL;
		CREATE TABLE IF NOT EXISTS kept_effect AS TABLE witness.effect;
		CREATE TABLE IF NOT EXISTS kept_step AS TABLE saga.ledger_step;
		CREATE TABLE IF NOT EXISTS kept_attempt AS TABLE saga.ledger_attempt;
		CREATE TABLE IF NOT EXISTS kept_saga AS TABLE saga.ledger_saga;
		CREATE TABLE IF NOT EXISTS kept_due AS TABLE saga.ledger_due;
		CREATE TABLE IF NOT EXISTS kept_held AS TABLE saga.ledger_held;
		CREATE TABLE IF NOT EXISTS kept_event AS TABLE saga.ledger_event;
		CREATE TABLE IF NOT EXISTS kept_signal AS TABLE saga.ledger_signal;
		CREATE TABLE IF NOT EXISTS kept_home AS TABLE saga.ledger_home;
		CREATE TABLE IF NOT EXISTS kept_queue AS TABLE saga.ledger_queue;
		$sql;
		COMMIT});
	my @violations = guarantee_violations($node, undef, idle => 1);
	ok(scalar(grep { /^$guarantee,/ } @violations), "$guarantee finds $what") or diag(join "\n", @violations);
	foreach my $check (guarantee_checks())
	{
		$found{$check} = 1 if grep { index($_, $check) == 0 } @violations;
	}
	$node->safe_psql('postgres', q{
		BEGIN;
		DELETE FROM witness.effect;
		DELETE FROM saga.ledger_step;
		DELETE FROM saga.ledger_attempt;
		DELETE FROM saga.ledger_saga;
		DELETE FROM saga.ledger_due;
		DELETE FROM saga.ledger_held;
		DELETE FROM saga.ledger_event;
		DELETE FROM saga.ledger_signal;
		DELETE FROM saga.ledger_home;
		DELETE FROM saga.ledger_queue;
		INSERT INTO witness.effect SELECT * FROM kept_effect;
		INSERT INTO saga.ledger_step SELECT * FROM kept_step;
		INSERT INTO saga.ledger_attempt SELECT * FROM kept_attempt;
		INSERT INTO saga.ledger_saga SELECT * FROM kept_saga;
		INSERT INTO saga.ledger_due SELECT * FROM kept_due;
		INSERT INTO saga.ledger_held SELECT * FROM kept_held;
		INSERT INTO saga.ledger_event SELECT * FROM kept_event;
		INSERT INTO saga.ledger_signal SELECT * FROM kept_signal;
		INSERT INTO saga.ledger_home SELECT * FROM kept_home;
		INSERT INTO saga.ledger_queue SELECT * FROM kept_queue;
		COMMIT});
	$node->safe_psql('postgres', $mend) if $mend;
	return;
}

my $effect = "witness.effect WHERE saga = '$saga' AND key";
my $step = "WHERE saga = '$saga' AND key";
finds('G1', 'a lost step', "DELETE FROM saga.ledger_step $step = 'd'");
finds('G1', 'a lost completion', "UPDATE saga.ledger_saga SET state = 'r', finished_at = NULL WHERE id = '$done'");
finds('G2', 'an effect that is there twice', "INSERT INTO witness.effect (hand, saga, seq, key, attempt) SELECT hand, saga, seq, key, attempt FROM $effect = 'a'");
finds('G2', 'an effect of an attempt that failed', "INSERT INTO witness.effect (hand, saga, seq, key, attempt) SELECT hand, saga, seq, key, 2 FROM $effect = 'a'");
finds('G2', 'a mark without its effect', "DELETE FROM $effect = 'a'");
finds('G2', 'a person\'s mark without the effect', "DELETE FROM $effect = 'c'");
finds('G2', 'an effect of a step that is to stay',
	"INSERT INTO witness.effect (hand, saga, seq, key, attempt) SELECT 'sql', saga, seq, key, 1 FROM saga.ledger_step WHERE saga = '$done' AND key = 'a'");
finds('G2', 'an effect of no step', "INSERT INTO witness.effect (hand, saga, seq, key, attempt) VALUES ('sql', '$saga', 999999, 'z', 1)");
finds('G3', 'a wrong order', "UPDATE witness.effect SET n = n + 100 WHERE saga = '$saga' AND key = 'd'");
finds('G3', 'an attempt that came too soon', "UPDATE saga.ledger_attempt SET started_at = started_at - interval '1 hour', finished_at = finished_at - interval '1 hour'
	WHERE saga = '$saga' AND phase = 'c' AND seq = (SELECT seq FROM saga.ledger_step $step = 'a');
	UPDATE saga.ledger_step SET started_at = started_at - interval '2 hours' WHERE saga = '$saga'");
finds('G5', 'an undo that nobody looks after', "UPDATE saga.ledger_saga SET state = 'u', finished_at = NULL WHERE id = '$saga'");
finds('G5', 'one that a person holds, and nobody knows', "UPDATE saga.ledger_saga SET state = 'r', finished_at = NULL, paused = true WHERE id = '$done'");
finds('G6', 'an attempt that is missing', "DELETE FROM saga.ledger_attempt WHERE saga = '$saga' AND seq = (SELECT seq FROM saga.ledger_step $step = 'a')");
finds('G7', 'a listener\'s step that nobody undid', "DELETE FROM $effect = 'b'");
finds('G7', 'a listener\'s task that is in no queue', "UPDATE saga.ledger_step SET comp_status = 'd' $step = 'b'");
finds('G8', 'a charge for nothing', "UPDATE saga.ledger_step SET comp_charged = 1 $step = 'a'");
finds('G8', 'one that was given up too soon', "UPDATE saga.ledger_step SET parked = 'the server crashed 3 times', comp_crashes = 2 $step = 'a'");
finds('G9', 'another role', "UPDATE witness.effect SET role = 'app' WHERE saga = '$saga' AND key = 'a'");
finds('G10', 'a step that started behind the failure', "UPDATE saga.ledger_step SET started_at = started_at + interval '1 hour' $step = 'a'");
finds('G10', 'a result that came late and was not said to', "UPDATE saga.ledger_step SET status = 'c', completed_at = now() + interval '1 hour' $step = 'a'");

# A copy of a row, in which something is different; and what lets there be one that has
# the same key
sub copy
{
	my ($table, $where, $other) = @_;
	return "INSERT INTO saga.$table SELECT (jsonb_populate_record(r, '$other')).* FROM saga.$table r WHERE $where";
}
sub without
{
	my ($index) = @_;
	return ("SET LOCAL allow_system_table_mods = on;
		UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'saga.$index'::regclass;", "REINDEX INDEX saga.$index");
}
# A function, of which what is to be found is the fault, returns this text; and as it was
sub returns
{
	my ($function, $text) = @_;
	my $was = $node->safe_psql('postgres', "SELECT pg_get_functiondef('saga.$function'::regproc)");
	(my $is = $was) =~ s/ LANGUAGE c\b(.*?)AS .*/ LANGUAGE sql$1AS \$\$SELECT '$text'::text\$\$/s;
	return ($is, $was);
}
my ($off, $on) = without('ledger_saga_key_name_owner');
finds('G4', 'a saga that is there twice', $off . copy('ledger_saga', "id = '$done'", '{"id": "00000000-0000-7000-8000-000000000001"}'), $on);
($off, $on) = without('ledger_step_key');
finds('G4', 'a step that is there twice', $off . copy('ledger_step', "saga = '$done' AND key = 'a'", '{"seq": 999999}'), $on);
finds('G4', 'a run that is missing', "UPDATE saga.ledger_step SET run = 3 $step = 'a'");
finds('G4', 'steps with one key for services', returns('internal_forward_key', 'same'));
finds('G1', 'a step that was rolled back', "UPDATE saga.ledger_step SET key = 'e' $step = 'd'");
my $attempt = "saga = '$saga' AND phase = 'c' AND seq = (SELECT seq FROM saga.ledger_step $step = 'a')";
finds('G2', 'an attempt that succeeded again', copy('ledger_attempt', $attempt, '{"attempt": 2}'));
finds('G6', 'an attempt that began before the one before it was over',
	copy('ledger_attempt', $attempt, '{"attempt": 2, "started_at": "2020-01-01"}'));
finds('G6', 'an undo of which nobody knows when', "UPDATE saga.ledger_step SET compensated_at = NULL $step = 'a'");
finds('G6', 'a failure of which nobody knows', "DELETE FROM saga.ledger_event WHERE saga = '$saga' AND event = 'failing'");
finds('G6', 'a step from before the begin', "UPDATE saga.ledger_step SET started_at = '2020-01-01' $step = 'a'");
finds('G6', 'a listener that holds a step of what is over', "UPDATE saga.ledger_saga SET state = 'c', finished_at = now(), due = NULL, lane = NULL WHERE id = '$heard'");
finds('G5', 'a review of which nobody knows', "UPDATE saga.ledger_saga SET state = 'p', finished_at = NULL WHERE id = '$done'");
finds('G5', 'a deadline that comes late', "UPDATE saga.ledger_saga SET due = due + interval '1 hour' WHERE id = '$served'");
finds('G5', 'an announcement that nobody makes', "UPDATE saga.ledger_saga SET to_announce = 'completed' WHERE id = '$done'");
finds('G5', 'a lease whose end nobody sees', "UPDATE saga.ledger_step SET lease_until = lease_until - interval '1 minute' WHERE saga = '$heard' AND key = 'n'");
finds('G5', 'a saga that nobody looks at', "DELETE FROM saga.ledger_due WHERE saga = '$heard'");
finds('G5', 'a saga that does not say what comes next', returns('internal_next_action', ''));
finds('G7', 'a task that is in no queue', "DELETE FROM saga.ledger_queue WHERE saga = '$served'");
finds('G7', 'two steps at a time with listeners', "UPDATE saga.ledger_step SET comp_status = 'd', dispatched_at = now() WHERE saga = '$heard' AND key = 'm'");
finds('G7', 'a listener that holds a step for years', "UPDATE saga.ledger_step SET lease_until = claimed_at + interval '2 years' WHERE saga = '$heard' AND key = 'n'");
finds('G7', 'a listener that had claimed nothing', "INSERT INTO witness.effect (hand, saga, seq, key, attempt) SELECT hand, saga, seq, key, 77 FROM $effect = 'b'");
finds('G8', 'one that was given up before its retries were used up', "UPDATE saga.ledger_step SET parked = 'retries exhausted', comp_charged = 0 $step = 'a'");
finds('G9', 'a table that was granted', 'GRANT SELECT ON saga.ledger_saga TO app', 'REVOKE SELECT ON saga.ledger_saga FROM app');
finds('G10', 'a late result that is nowhere', "INSERT INTO saga.ledger_event (saga, at, seq, event, actor)
	SELECT saga, now(), seq, 'late result', 'saga' FROM saga.ledger_step WHERE saga = '$saga' AND key = 'a'");
finds('G11', 'a ledger that is at home nowhere', 'DELETE FROM saga.ledger_home');
cmp_ok(scalar executor_pids($node), '>', 0, 'there is an executor');
finds('G11', 'an executor of a copy', 'UPDATE saga.ledger_home SET copied = true');

# The same of what saga runs
sub of
{
	my ($key, $which) = @_;
	return "WHERE saga = '" . ($which // $forward) . "' AND key = '$key'";
}
sub seq
{
	my ($key, $which) = @_;
	return "(SELECT seq FROM saga.ledger_step " . of($key, $which) . ")";
}
my $set = 'UPDATE saga.ledger_step SET';
my $insert_effect = "INSERT INTO witness.effect (hand, saga, seq, key, attempt) SELECT";
finds('F1', 'an effect that is there twice', "$insert_effect hand, saga, seq, key, attempt FROM witness.effect " . of('a'));
finds('F1', 'a round that is there twice', "INSERT INTO witness.effect (hand, saga, seq, key, attempt, round)
	SELECT hand, saga, seq, key, attempt, round FROM witness.effect " . of('a'));
finds('F1', 'an action that made no round', "$set rounds = NULL " . of('a'));
finds('F7', 'a second round without a first', 'UPDATE witness.effect SET round = 2 ' . of('a'));
finds('F1', 'an effect without its mark', "$insert_effect 'action', saga, seq, key, 1 FROM saga.ledger_step " . of('p'));
finds('F1', 'a mark without its effect', "DELETE FROM witness.effect " . of('b'));
finds('F1', 'another output', "$set output = '-1' " . of('b'));
finds('F1', 'what an action recorded without its mark', "$set recorded_by = @{[ seq('w') ]} " . of('b'));
finds('F1', 'an action that succeeded twice', "INSERT INTO saga.ledger_attempt (saga, seq, started_at, finished_at, attempt, phase, outcome)
	VALUES ('$forward', @{[ seq('a') ]}, now(), now(), 7, 'f', 's')");
finds('F2', 'a step that began behind its gates', "$set opened_at = NULL " . of('b'));
finds('F2', 'a gate that opened too soon', "$set completed_at = completed_at + interval '1 hour' " . of('a'));
finds('F2', 'an action that began before its time', "$set ready_at = ready_at + interval '1 hour' " . of('b'));
finds('F2', 'an action that began after the failure', "$set attempt_at = attempt_at + interval '1 hour' " . of('b', $back));
my $signal = "saga.ledger_signal WHERE saga = '$forward' AND key";
finds('G1', 'a lost signal', "DELETE FROM $signal = 'k2'");
finds('F3', 'a lost signal that was used', "DELETE FROM $signal = 'k1'");
finds('F3', 'a signal that was used twice', "$set signals = '{go}', signal = (SELECT signal FROM saga.ledger_step @{[ of('s') ]}) " . of('q'));
finds('F3', 'one that used two', "UPDATE saga.ledger_signal SET used_by = @{[ seq('s') ]} WHERE saga = '$forward' AND key = 'k2'");
finds('F3', 'a signal used by a step that waited for none', "UPDATE saga.ledger_signal SET used_by = @{[ seq('a') ]} WHERE saga = '$forward' AND key = 'k2'");
finds('F3', 'another payload', "UPDATE saga.ledger_signal SET payload = '3' WHERE saga = '$forward' AND key = 'k1'");
finds('F3', 'a signal that nobody looks at', "UPDATE saga.ledger_signal SET name = 'come' WHERE saga = '$forward' AND key = 'k2'");
finds('F3', 'a signal without its saga', "UPDATE saga.ledger_signal SET saga = '00000000-0000-7000-8000-000000000000' WHERE saga = '$forward' AND key = 'k2'");
finds('F4', 'a timer that is early', "$set ready_at = opened_at " . of('w'));
finds('F4', 'a timeout that is early', "INSERT INTO saga.ledger_event (saga, at, seq, event, actor)
	VALUES ('$forward', now(), @{[ seq('w') ]}, 'step timed out', 'saga')");
finds('F4', 'a retry that is early', "INSERT INTO saga.ledger_attempt (saga, seq, started_at, finished_at, attempt, phase, outcome)
	SELECT saga, seq, attempt_at, attempt_at, 1, 'f', 'f' FROM saga.ledger_step @{[ of('a') ]}; $set attempts = 2 " . of('a'));
finds('F4', 'a deadline that is early', "UPDATE saga.ledger_saga SET failure_kind = 't', deadline = now() + interval '1 day' WHERE id = '$back'");
finds('F5', 'a step that waits at an open gate', "$set opened_at = NULL, ready_at = NULL " . of('w'));
finds('F5', 'a saga that is to fail', "$set parked = NULL " . of('p'));
finds('F5', 'a sealed saga of which all is done', "UPDATE saga.ledger_saga SET runs = 's' WHERE id = '$forward';
	$set status = 'k', parked = NULL WHERE saga = '$forward' AND key IN ('p', 'w', 'q')");
finds('F5', 'a step that nobody wakes up', "DELETE FROM saga.ledger_due WHERE saga = '$forward' AND due < now() + interval '3 days'");
finds('F5', 'a timeout that nobody sees', "DELETE FROM saga.ledger_due WHERE saga = '$forward' AND due > now() + interval '3 days'");
finds('F5', 'due work of no step', "INSERT INTO saga.ledger_due VALUES (10, now() + interval '1 day', '$forward', @{[ seq('a') ]}, 1, 'a')");
finds('F5', 'a look that is asked of nobody', "INSERT INTO saga.ledger_due VALUES (10, now() + interval '1 day', '$forward', -@{[ seq('a') ]})");
finds('F5', 'a look that nobody makes', "INSERT INTO saga.ledger_due VALUES (0, now() - interval '1 minute', '$forward', -@{[ seq('a') ]})");
finds('F5', 'a parked step that nobody knows', "DELETE FROM saga.ledger_held WHERE saga = '$forward'");
finds('F6', 'a broken deployment that nobody is asked about', "$set parked = NULL " . of('p'));
finds('F6', 'an undo for a broken deployment', "$set sqlstate = '42883' " . of('c', $back));
finds('F6', 'a charge for nothing', "$set charged = 1 " . of('a'));
finds('F6', 'one that was given up too soon', "$set parked = 'the server crashed 3 times while nothing but this action ran', crashes = 2 " . of('p'));
finds('F6', 'an innocent suspect', "$set crashes = 1 " . of('a'));
finds('F7', 'one without a place', "$set begun = NULL " . of('b'));
finds('F7', 'two in one place', "$set begun = (SELECT begun FROM saga.ledger_step @{[ of('a') ]}) " . of('b'));
finds('F7', 'a step that began before the action that recorded it', "$set recorded_by = @{[ seq('b') ]} " . of('a'));
finds('F7', 'the undo of what never began', "$set begun = NULL " . of('a', $back));
finds('F7', 'a wrong order', "UPDATE witness.effect SET n = n + 100 WHERE saga = '$back' AND key = 'b' AND hand = 'sql'");
finds('F7', 'something that was done and not undone', "DELETE FROM witness.effect WHERE saga = '$back' AND key = 'a' AND hand = 'sql'");
finds('F8', 'another role', "UPDATE witness.effect SET role = 'app' WHERE saga = '$forward' AND key = 'a'");
finds('F8', 'a step that came to a sealed saga', "$set started_at = started_at + interval '1 hour' " . of('a', $back));
finds('F8', 'a saga that does not know of its steps', "UPDATE saga.ledger_saga SET runs = NULL WHERE id = '$forward'");
is(join("\n", guarantee_violations($node, undef, idle => 1)), '', 'and nothing where there is nothing');
is(join("\n", grep { !$found{$_} } guarantee_checks()), '', 'each of the queries has found something');
$node->stop;
done_testing();
