# The extension dropped, created anew and altered while sessions go on.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main');
$node->safe_psql('postgres', 'CREATE TABLE undone (n serial, step text)');
my $undo = q{compensation => $c$INSERT INTO undone (step) VALUES ($1->'step'->>'name')$c$};

my $live = session($node);
my $other = session($node);

# A session that has cached everything there is to cache
sub life
{
	my ($session, $key) = @_;
	my $id = $session->query_safe("SELECT saga.begin('order', '$key')");
	my @answers = map { $session->query_safe($_) } (
		"SELECT status FROM saga.step('$id', 'a', $undo, retry => saga.retry_policy(max_attempts => 3))",
		"SELECT status FROM saga.complete_step('$id', 'a', '1')",
		"SELECT status FROM saga.step('$id', 'b', $undo)",
		"SELECT status FROM saga.fail_step('$id', 'b', 'no')",
		"SELECT saga.fail('$id')",
		"SELECT saga.wait('$id')");
	return ($id, join(' ', @answers));
}
my $lived = 'started completed started failed compensating compensated';

my ($old, $answers) = life($live, 'one');
is($answers, $lived, 'a saga lives in a session');
$live->query_safe(q{PREPARE p (text) AS SELECT saga.begin('order', $1)});
my $prepared = $live->query_safe(q{EXECUTE p ('prepared')});

# dropped and created anew by another session
$other->query_safe('DROP EXTENSION saga');
$live->query(q{SELECT saga.begin('order', 'none')});
like($live->{stderr}, qr/schema "saga" does not exist/, 'dropped: it is gone for the session that used it');
$live->{stderr} = '';
$other->query_safe('CREATE EXTENSION saga');
is($live->query_safe("SELECT count(*) FROM saga.sagas"), 0, 'created anew: an empty ledger');
$live->query("SELECT saga.fail('$old')");
like($live->{stderr}, qr/saga \S+ does not exist or is not yours/, 'what was there is gone');
$live->{stderr} = '';
(my $new, $answers) = life($live, 'one');
is($answers, $lived, 'a saga lives in the session that used the old one');
isnt($new, $old, 'under the same key, a new saga');
isnt($live->query_safe(q{EXECUTE p ('prepared')}), $prepared, 'a prepared statement finds the new function');
is($live->query_safe(q{EXECUTE p ('one')}), $new, 'and the new key');

# in the session's own transaction
is($live->query_safe(q{
	BEGIN;
	DROP EXTENSION saga;
	CREATE EXTENSION saga;
	SELECT status FROM saga.step(saga.begin('order', 'two'), 'a');
	COMMIT;
	SELECT count(*), min(idempotency_key) FROM saga.sagas}), "started\n1|two", 'dropped, created and used in one transaction');
is($live->query_safe(q{
	BEGIN;
	DROP EXTENSION saga;
	ROLLBACK;
	SELECT status FROM saga.step(saga.begin('order', 'two'), 'b');
	SELECT count(*) FROM saga.sagas}), "started\n1", 'dropped, and that rolled back');
is($live->query_safe(q{
	BEGIN;
	DROP EXTENSION saga;
	CREATE EXTENSION saga;
	SELECT status FROM saga.step(saga.begin('order', 'two'), 'c');
	ROLLBACK;
	SELECT status FROM saga.step(saga.begin('order', 'two'), 'b');
	SELECT string_agg(key, ' ' ORDER BY seq) FROM saga.steps}), "started\nstarted\na b", 'replaced, and that rolled back');
($new, $answers) = life($live, 'three');
is($answers, $lived, 'a saga lives on');

# DROP waits for who uses it, and whoever comes then waits for DROP
my $id = $live->query_safe(q{SELECT saga.begin('order', 'four')});
$live->query_safe("BEGIN; SELECT saga.step('$id', 'a', $undo)");
background($other, 'DROP EXTENSION saga; CREATE EXTENSION saga');
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP EXTENSION%'});
is($live->query_safe("SELECT status FROM saga.complete_step('$id', 'a', '1')"), 'completed', 'an open transaction goes on');
$live->query_safe('COMMIT');
$other->query_safe('SELECT 1');
is($live->query_safe("SELECT count(*) FROM saga.sagas"), 0, 'then it is dropped');
($new, $answers) = life($live, 'five');
is($answers, $lived, 'and a saga lives in the new one');

# ALTER EXTENSION
$live->query_safe('SET client_min_messages = warning');
$live->query_safe('ALTER EXTENSION saga UPDATE');
($new, $answers) = life($live, 'six');
is($answers, $lived, 'ALTER EXTENSION UPDATE changes nothing where there is nothing to change');
like(sql_error($node, 'ALTER EXTENSION saga SET SCHEMA public'), qr/ERROR:/, 'the extension stays in its schema');

# A script that does not fit the library
$id = $live->query_safe(q{SELECT saga.begin('order', 'seven')});
foreach my $table (qw(ledger_saga ledger_step ledger_attempt ledger_event ledger_due))
{
	$node->safe_psql('postgres', "SET allow_system_table_mods = on; ALTER TABLE saga.$table ADD COLUMN later integer");
	$live->query("\\set VERBOSITY verbose\nSELECT saga.step('$id', 'a')");
	like($live->{stderr}, qr/ERROR:  SG008: .*\n(.*\n)*HINT:  .*ALTER EXTENSION saga UPDATE/,
		"$table of another version is refused by a live session");
	$live->{stderr} = '';
	$live->query("SELECT count(*) FROM saga.sagas");

	# A column dropped again leaves its place.
	$node->safe_psql('postgres', "SET allow_system_table_mods = on; ALTER TABLE saga.$table DROP COLUMN later");
	$live->query("\\set VERBOSITY verbose\nSELECT status FROM saga.step('$id', 'a', output => '1')");
	like($live->{stderr}, qr/ERROR:  SG008: /, "$table with a dropped column");
	$live->{stderr} = '';
	is($live->query_safe('SELECT 1'), 1, 'the session lives');
	$node->safe_psql('postgres', 'DROP EXTENSION saga; CREATE EXTENSION saga');
	$id = $live->query_safe(q{SELECT saga.begin('order', 'seven')});
}
($new, $answers) = life($live, 'eight');
is($answers, $lived, 'created anew, everything works');

$live->quit;
$other->quit;
guarantees($node);
$node->stop;
done_testing();
