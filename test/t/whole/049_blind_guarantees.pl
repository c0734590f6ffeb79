# The tests' own verdict: what the guarantees' queries are to find, they find; and
# what the tests rely on besides.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "autovacuum = off\n");

# More than a pipe holds, for a psql that is refused
is($node->psql('nowhere', "SELECT 1;\n" x 100_000, stderr => \my $refused), 2, 'a program that leaves before it has read its input is no exception');
like($refused, qr/database "nowhere" does not exist/, 'and what it said is known');

witness($node);
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
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
is($node->safe_psql('postgres', "SELECT string_agg(hand || ' ' || key, ', ' ORDER BY n) FROM witness.effect"),
	'sql d, person c, listener b, sql a', 'the witness saw everything');

# Each of these is an accident, of which there is to be a trace.
sub finds
{
	my ($guarantee, $what, $sql) = @_;
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
		CREATE TABLE IF NOT EXISTS kept_effect AS TABLE witness.effect;
		CREATE TABLE IF NOT EXISTS kept_step AS TABLE saga.ledger_step;
		CREATE TABLE IF NOT EXISTS kept_attempt AS TABLE saga.ledger_attempt;
		CREATE TABLE IF NOT EXISTS kept_saga AS TABLE saga.ledger_saga;
		$sql;
		COMMIT});
	my @violations = guarantee_violations($node);
	ok(scalar(grep { /^$guarantee,/ } @violations), "$guarantee finds $what") or diag(join "\n", @violations);
	$node->safe_psql('postgres', q{
		BEGIN;
		DELETE FROM witness.effect;
		DELETE FROM saga.ledger_step;
		DELETE FROM saga.ledger_attempt;
		DELETE FROM saga.ledger_saga;
		DELETE FROM saga.ledger_due;
		INSERT INTO witness.effect SELECT * FROM kept_effect;
		INSERT INTO saga.ledger_step SELECT * FROM kept_step;
		INSERT INTO saga.ledger_attempt SELECT * FROM kept_attempt;
		INSERT INTO saga.ledger_saga SELECT * FROM kept_saga;
		COMMIT});
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
is(join("\n", guarantee_violations($node)), '', 'and nothing where there is nothing');
$node->stop;
done_testing();
