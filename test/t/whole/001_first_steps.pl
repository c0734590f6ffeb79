# The first things first: preloaded, a failed saga undoes itself; not preloaded,
# sagas are recorded and read, and whoever might wait in vain is told.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $table = 'CREATE TABLE undone (n serial, step text, context jsonb)';
my $undo = q{compensation => $c$INSERT INTO undone (step, context) VALUES ($1->'step'->>'name', $1)$c$};

# --- preloaded

my $node = saga_cluster('main');
$node->safe_psql('postgres', $table);

my $saga = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'key 1', '{"customer": 7}')});
like($saga, qr/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
	'the id is a version 7 UUID');

is($node->safe_psql('postgres', qq{
	SELECT status, attempt FROM saga.step('$saga', 'reserve', $undo, args => '{"item": 1}');
	SELECT status, output FROM saga.complete_step('$saga', 'reserve', '{"shelf": 2}');
	SELECT status FROM saga.step('$saga', 'charge', $undo, output => '3');
	SELECT status FROM saga.step('$saga', 'think');
	SELECT status FROM saga.step('$saga', 'ship', $undo);
	SELECT state, steps, last_completed_step FROM saga.sagas WHERE id = '$saga';
	SELECT saga.fail('$saga', 'no carrier', '{"tried": 2}');}),
	"started|1\ncompleted|{\"shelf\": 2}\ncompleted\nstarted\nstarted\nrunning|4|charge\ncompensating",
	'the calls answer');
is($node->safe_psql('postgres', "SELECT saga.wait('$saga')"), 'compensated', 'it undoes itself');

is($node->safe_psql('postgres', q{SELECT step, context->'args', context->'output' FROM undone ORDER BY n}),
	"ship|null|null\ncharge|null|3\nreserve|{\"item\": 1}|{\"shelf\": 2}",
	'in the reverse of the start order, with args and output');
is($node->safe_psql('postgres', qq{
	SELECT key, status, compensation_status, compensation_attempts FROM saga.steps
	WHERE saga_id = '$saga' ORDER BY position}),
	"reserve|completed|compensated|1\ncharge|completed|compensated|1\nthink|started|none|0\nship|started|compensated|1",
	'the ledger says so');
is($node->safe_psql('postgres', qq{
	SELECT state, failure_kind, reason, details, failed_step, requires_review, finished_at IS NOT NULL
	FROM saga.sagas WHERE id = '$saga'}),
	"compensated|failed|no carrier|{\"tried\": 2}|ship|f|t", 'and why');
is($node->safe_psql('postgres', qq{
	SELECT phase, attempt, outcome, rows FROM saga.attempts
	WHERE saga_id = '$saga' AND phase = 'compensation' ORDER BY seq}),
	"compensation|1|succeeded|1\n" x 2 . 'compensation|1|succeeded|1', 'one attempt each');
is($node->safe_psql('postgres', qq{SELECT saga.fail('$saga')}), 'compensated', 'failing it again says what it is');
like(sql_error($node, "SELECT saga.step('$saga', 'more')"), qr/ERROR:  SG005: .*\n(.*\n)*HINT:/,
	'no step enters it any more');

my $good = $node->safe_psql('postgres', qq{SELECT saga.begin('order')});
is($node->safe_psql('postgres', qq{
	SELECT s.status FROM saga.step('$good', 'reserve', $undo, completed => true) s;
	SELECT saga.complete('$good', '{"all": "well"}');
	SELECT state, result, failure_kind FROM saga.sagas WHERE id = '$good'}),
	"completed\ncompleted\ncompleted|{\"all\": \"well\"}|", 'another one completes');
is($node->safe_psql('postgres', "SELECT saga.wait('$good')"), 'completed', 'waiting for that answers at once');

# a read-only transaction
foreach my $call ("begin('x')", "step('$good', 'x')", "complete_step('$good', 'x')",
	"fail_step('$good', 'x', 'y')", "complete('$good')", "fail('$good')", "cancel('$good')")
{
	like(sql_error($node, "BEGIN READ ONLY; SELECT saga.$call; COMMIT"),
		qr/ERROR:  25006: cannot execute saga\.\w+\(\) in a read-only transaction/,
		"read-only transaction: $call");
}

# nobody would do it
$node->append_conf('postgresql.conf', 'saga.enabled = off');
$node->reload;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('saga worker', 'saga executor')});
my $held = $node->safe_psql('postgres', "SELECT saga.begin('order')");
is($node->safe_psql('postgres', qq{
	SELECT s.status FROM saga.step('$held', 'a', $undo) s; SELECT saga.fail('$held')}),
	"started\ncompensating", 'with saga.enabled off, sagas are recorded');
like($node->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$held'"),
	qr/saga\.enabled is off/, 'and their next action says what is in the way');
like(sql_error($node, "SELECT saga.wait('$held', '10 s')"), qr/ERROR:  SG008: .*\n.*saga\.enabled is off.*\n(.*\n)*HINT:  /,
	'whoever waits is told');
$node->append_conf('postgresql.conf', 'saga.enabled = on');
$node->reload;
wait_state($node, $held, 'compensated');
guarantees($node);
$node->stop;

# --- not preloaded

my $bare = saga_cluster('bare', preload => 0);
$bare->safe_psql('postgres', $table);

my ($out, $err);
$bare->psql('postgres', qq{
	SELECT saga.begin('order', 'key 1') AS id \\gset
	SELECT status FROM saga.step(:'id', 'a', $undo);
	SELECT status FROM saga.complete_step(:'id', 'a', '1');
	SELECT status FROM saga.step(:'id', 'b', $undo);
	SELECT status FROM saga.fail_step(:'id', 'b', 'no luck');
	SELECT saga.fail(:'id', 'why');
	SELECT saga.begin('order', 'key 2') AS good \\gset
	SELECT saga.complete(:'good');},
	stdout => \$out, stderr => \$err);
is($out, "started\ncompleted\nstarted\nfailed\ncompensating\ncompleted", 'not preloaded: the calls record');
my @warnings = $err =~ /WARNING:  /g;
is(scalar @warnings, 1, 'with one warning in the session');
like($err, qr/shared_preload_libraries = 'saga'/, 'that has the line for postgresql.conf');
unlike($err, qr/ERROR/, 'and no error');
$bare->psql('postgres', q{SELECT saga.begin('order', 'key 1')}, stdout => \$out, stderr => \$err);
like($err, qr/WARNING:  .*\n.*shared_preload_libraries = 'saga'/, 'and with one in the next session');

is($bare->safe_psql('postgres', q{
	SELECT idempotency_key, state FROM saga.sagas ORDER BY idempotency_key;
	SELECT key, status, compensation_status FROM saga.steps ORDER BY seq}),
	"key 1|compensating\nkey 2|completed\na|completed|pending\nb|failed|pending", 'the views can be read');
like($bare->safe_psql('postgres', q{SELECT next_action FROM saga.sagas WHERE idempotency_key = 'key 1'}),
	qr/shared_preload_libraries = 'saga'/, 'the next action says what is in the way');
like(sql_error($bare, q{SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key = 'key 1'}),
	qr/ERROR:  SG008: .*\n(.*\n)*.*shared_preload_libraries = 'saga'(.*\n)*HINT:  /, 'waiting for the undo is refused');
is($bare->safe_psql('postgres', q{SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key = 'key 2'}),
	'completed', 'what is over can be waited for');
is($bare->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'saga%'}),
	0, 'no process of saga runs');

# said at once, and without forgetting what is preloaded already
$bare->append_conf('postgresql.conf', "shared_preload_libraries = 'auto_explain, \"auto_explain\"'");
$bare->restart;
$bare->psql('postgres', 'CREATE DATABASE late', stderr => \$err);
$bare->psql('late', 'CREATE EXTENSION saga', stderr => \$err);
like($err, qr/WARNING:  .*until saga is preloaded\nHINT:  .*: shared_preload_libraries = 'auto_explain, "auto_explain", saga'/,
	'CREATE EXTENSION warns, and the hint keeps the other libraries');
$bare->psql('postgres', q{SELECT saga.begin('order', 'key 1')}, stderr => \$err);
like($err, qr/shared_preload_libraries = 'auto_explain, "auto_explain", saga'/, 'so does the first call of a session');
like($bare->safe_psql('postgres', q{SELECT next_action FROM saga.sagas WHERE idempotency_key = 'key 1'}),
	qr/shared_preload_libraries = 'auto_explain, "auto_explain", saga'/, 'and the next action');

# and what was recorded is undone once somebody does it
$bare->append_conf('postgresql.conf', "shared_preload_libraries = 'saga'");
$bare->restart;
$saga = $bare->safe_psql('postgres', q{SELECT id FROM saga.sagas WHERE idempotency_key = 'key 1'});
is($bare->safe_psql('postgres', "SELECT saga.wait('$saga')"), 'compensated', 'preloaded: it is undone after all');
is($bare->safe_psql('postgres', 'SELECT step FROM undone ORDER BY n'), "b\na", 'in the right order');
guarantees($bare);
$bare->stop;

done_testing();
