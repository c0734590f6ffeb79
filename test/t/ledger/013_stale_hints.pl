# A session remembers where it saw sagas and steps.  Whatever became of a place
# meanwhile, by itself or by others, the session finds the row that it means, or
# none.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

# Nobody else may hold a snapshot, or vacuum could not empty a place.
my $node = saga_cluster('main', conf => "autovacuum = off\nsaga.enabled = off\n");
my $session = session($node);
$session->query_safe(q{
	-- Which page and line the newest version of a row is on
	CREATE FUNCTION saga_at(id uuid) RETURNS text LANGUAGE sql AS
		$$ SELECT ctid::text FROM saga.ledger_saga s WHERE s.id = $1 $$;
	CREATE FUNCTION step_at(id uuid, k text) RETURNS text LANGUAGE sql AS
		$$ SELECT string_agg(ctid::text, ' ' ORDER BY run) FROM saga.ledger_step s WHERE s.saga = $1 AND s.key = $2 $$;
	CREATE FUNCTION refused(statement text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE answer text;
	BEGIN
		EXECUTE statement INTO answer;
		RETURN 'not refused: ' || answer;
	EXCEPTION WHEN OTHERS THEN
		RETURN SQLSTATE;
	END $$;
	-- does not compress
	CREATE FUNCTION noise(bytes int) RETURNS jsonb LANGUAGE sql VOLATILE AS
		$$ SELECT to_jsonb(string_agg(md5(random()::text), '')) FROM generate_series(1, bytes / 32) $$;});

sub ask { return $session->query_safe($_[0]); }
sub status { return ask("SELECT (saga.step('$_[0]', '$_[1]')).status"); }

sub refused
{
	my ($sql) = @_;
	$sql =~ s/'/''/g;
	return ask("SELECT refused('$sql')");
}

# --- Rolled back

my $id = ask("BEGIN; SELECT saga.start('rolled back')");
ask('ROLLBACK');
is(refused("SELECT saga.complete('$id')"), 'SG001', 'a saga whose beginning was rolled back is not there');

$id = ask("SELECT saga.start('savepoint')");
ask("BEGIN; SAVEPOINT s; SELECT (saga.step('$id', 'a')).status; ROLLBACK TO s");
like(refused("SELECT saga.complete_step('$id', 'a')"), qr/^SG0/, 'nor is a step that was rolled back to a savepoint');
is(status($id, 'a'), 'started', 'which can be started');
ask('COMMIT');
is(ask("SELECT (saga.complete_step('$id', 'a', '1')).status"), 'completed', 'and completed');

# --- Changed by another session

$id = ask("SELECT saga.start('other')");
status($id, 'a');
$node->safe_psql('postgres', "SELECT saga.complete_step('$id', 'a', '17')");
is(ask("SELECT (saga.step('$id', 'a')).output"), '17', 'what another session completed is found completed');
$node->safe_psql('postgres', "SELECT saga.complete('$id')");
is(refused("SELECT saga.step('$id', 'b')"), 'SG002', 'as is the saga that it completed');

# --- Moved to another page, by itself and by another

$id = ask("SELECT saga.start('moves')");
status($id, 'a');
status($id, 'filler ' . $_) foreach 1 .. 30;
my $before = ask("SELECT step_at('$id', 'a')");
$node->safe_psql('postgres', "SELECT saga.complete_step('$id', k, noise(1500)) FROM unnest('{filler 1,filler 2,a}'::text[]) k");
isnt(ask("SELECT split_part(step_at('$id', 'a'), ',', 1)"), (split /,/, $before)[0], 'a step has moved');
is(status($id, 'a'), 'completed', 'and is found where it is');
is(status($id, 'a'), 'completed', 'again');
is(ask("SELECT count(*) FROM saga.ledger_step WHERE saga = '$id' AND key = 'a'"), 1, 'and is one');

# --- Another run of a step

$id = ask("SELECT saga.start('runs')");
ask("SELECT saga.step('$id', 'base', completed => true)");
ask("SELECT saga.step('$id', 'a', compensation => 'SELECT 1', completed => true)");
ask("SELECT saga.rollback_to('$id', 'base')");
$node->safe_psql('postgres', "ALTER SYSTEM SET saga.enabled = on");
$node->reload;
wait_state($node, $id, 'running');
$node->safe_psql('postgres', "ALTER SYSTEM SET saga.enabled = off");
$node->reload;
my $again = "SELECT (saga.step('$id', 'a', compensation => 'SELECT 1')).status";
is($node->safe_psql('postgres', "$again; SELECT (saga.complete_step('$id', 'a', '2')).status"),
	"started\ncompleted", 'another session runs a step afresh that was rolled back');
is(ask("SET statement_timeout = '30s'; $again"), 'completed', 'which is the run that is found');
is(ask("SELECT string_agg(run || ' ' || status::text, ', ' ORDER BY run) FROM saga.ledger_step WHERE saga = '$id' AND key = 'a'"),
	'1 c, 2 c', 'and there are two');

# --- Purged, and the place is another saga's

wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'saga executor%'});
$id = ask("SELECT saga.start('purged')");
status($id, 'a');
my $place = ask("SELECT saga_at('$id')");
my $step_place = ask("SELECT step_at('$id', 'a')");
ask("SELECT saga.complete_step('$id', 'a'); SELECT saga.complete('$id')");
is(status($id, 'a'), 'completed', 'a saga');
$node->safe_psql('postgres', "SELECT saga.purge('0', 1000)");
ask('VACUUM saga.ledger_saga, saga.ledger_step');
# Until the place is taken again
my ($new, $new_place) = ('', '');
foreach (1 .. 2000)
{
	$new = $node->safe_psql('postgres', q{
		SELECT id FROM saga.start('next') id, LATERAL saga.step(id, 'a')});
	$new_place = $node->safe_psql('postgres', "SELECT saga_at('$new')");
	last if $new_place eq $place;
}
is($new_place, $place, 'another saga has its place');
is(refused("SELECT saga.complete('$id')"), 'SG001', 'the one that was purged is not there');
like(refused("SELECT saga.complete_step('$id', 'a')"), qr/^SG00/, 'nor its step');
is(status($new, 'a'), 'started', 'the other is');

# --- Rewritten, and truncated

$id = ask("SELECT saga.start('rewritten')");
status($id, 'a');
ask('VACUUM FULL saga.ledger_saga; VACUUM FULL saga.ledger_step');
is(status($id, 'a'), 'started', 'after VACUUM FULL, all is found');
is(ask("SELECT (saga.complete_step('$id', 'a')).status"), 'completed', 'and can go on');

ask("SELECT saga.start('many') FROM generate_series(1, 2000)");
$id = ask("SELECT saga.start('last')");
status($id, 'a');
my ($page) = ask("SELECT saga_at('$id')") =~ /^\((\d+),/;
ask("DO \$\$ BEGIN PERFORM saga.complete(id, ignore_failed => true) FROM saga.sagas WHERE name = 'many'; END \$\$");
ask("SELECT saga.complete_step('$id', 'a'); SELECT saga.complete('$id')");
# (Purging by itself, it would see too many others.)
$node->safe_psql('postgres', "SELECT saga.purge('0', 10000)");
ask('VACUUM saga.ledger_saga, saga.ledger_step');
cmp_ok(ask("SELECT pg_relation_size('saga.ledger_saga') / 8192"), '<=', $page, 'the table ends before the place');
is(refused("SELECT saga.complete('$id')"), 'SG001', 'where nothing is looked for');
$id = ask("SELECT saga.start('after')");
is(status($id, 'a'), 'started', 'and life goes on');

$session->quit;
$node->stop;
done_testing();
