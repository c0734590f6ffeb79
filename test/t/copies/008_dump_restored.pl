# Dumped and restored: every row is there, sagas go on in the copy, and the
# copy undoes nothing before it is told that it may.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = saga_cluster('main');
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE other LOGIN;
	GRANT USAGE ON SCHEMA saga TO app;
	GRANT CREATE ON SCHEMA public TO app;
	SET ROLE app;
	CREATE TABLE undone (n serial, saga text, step text, who text DEFAULT current_user);
	-- SQL-standard bodies: psql counts the word "begin" in them, hence saga.start
	CREATE FUNCTION open_order(k text) RETURNS uuid LANGUAGE sql
	BEGIN ATOMIC
		SELECT saga.start('order', k);
	END;
	CREATE FUNCTION open_return(k text) RETURNS uuid LANGUAGE sql
		RETURN saga.start(name => 'order', idempotency_key => k);
	CREATE FUNCTION place_order(k text) RETURNS uuid LANGUAGE sql
	BEGIN ATOMIC
		SELECT open_order(k);
		SELECT saga.step(open_order(k), 'a', args => '{"k": 1}', output => '1',
			compensation => 'INSERT INTO undone (saga, step) VALUES ($1->''saga''->>''idempotency_key'', $1->''step''->>''name'')');
		SELECT saga.step(open_return(k), 'b', retry => saga.retry_policy(max_attempts => 3),
			compensation => 'INSERT INTO undone (saga, step) VALUES ($1->''saga''->>''idempotency_key'', $1->''step''->>''name'')');
		SELECT saga.start('order', k);
	END;});

# A failed saga that is a listener's
sub task
{
	my ($key, $acknowledge) = @_;
	$acknowledge //= 'true';
	return qq{SELECT saga.fail(s) FROM (SELECT saga.begin('task', '$key') AS s OFFSET 0) b,
		LATERAL saga.step(s, 'c', notify => 'tasks', acknowledge => $acknowledge) t};
}

# Sagas in several states
sql_as($node, 'app', $_) foreach (
	q{SELECT place_order('running')},
	q{SELECT saga.fail_step(place_order('retried'), 'b', 'no luck')},
	q{SELECT saga.step(place_order('retried'), 'b', retry => saga.retry_policy(max_attempts => 3),
		compensation => 'INSERT INTO undone (saga, step) VALUES ($1->''saga''->>''idempotency_key'', $1->''step''->>''name'')')},
	q{SELECT saga.complete_step(place_order('completed'), 'b', '2'), saga.complete(open_order('completed'), '"fine"')},
	q{SELECT saga.fail(place_order('undone'), 'why', '{"a": [1, 2]}')},
	q{SELECT saga.step(place_order('parked'), 'c', compensation => 'SELECT 1/0', compensation_retry => saga.retry_policy(max_attempts => 1))},
	q{SELECT saga.fail(open_order('parked'))},
	q{SELECT saga.step(place_order('waiting'), 'c', compensation => 'SELECT 1/0', compensation_retry => saga.retry_policy(delay => '1 day', max_delay => '1 day'))},
	q{SELECT saga.fail(open_order('waiting'))},
	q{SELECT saga.begin('order', 'deadline', timeout => '1 day')},
	# With listeners: one waits for them, one is held by one
	task('held'));
wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue});
sql_as($node, 'app', q{SELECT * FROM saga.claim_compensations('tasks', lease => '1 day', consumer => 'over there')});
sql_as($node, 'app', task('waits'));
wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue});
wait_until($node, q{
	SELECT string_agg(state, ' ' ORDER BY idempotency_key) FROM saga.sagas s
	WHERE idempotency_key IN ('parked', 'undone', 'waiting')
		AND (idempotency_key = 'undone' OR EXISTS (
			SELECT FROM saga.steps WHERE saga_id = s.id AND key = 'c' AND compensation_attempts = 1))},
	'needs_review compensated compensating');
$node->append_conf('postgresql.conf', 'saga.enabled = off');
$node->reload;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('saga worker', 'saga executor')});
sql_as($node, 'app', q{SELECT saga.fail(place_order('failed'), 'not yet undone')});
sql_as($node, 'app', q{SELECT saga.begin('order', 'overdue', timeout => '1 ms')});
# What is still to be told
sql_as($node, 'app', task('forgotten', 'false'));
sql_as($node, 'app', q{SELECT saga.fail(saga.begin('task', 'announced', announce => 'states'))});

# The whole ledger, with names for what has another OID elsewhere
my @ledger = (
	q{SELECT to_jsonb(s) - '{owner,lane}'::text[] || jsonb_build_object('owner', owner::regrole::text, 'lane', nullif(lane, 0)::regrole::text) FROM saga.ledger_saga s ORDER BY id},
	q{SELECT to_jsonb(t) - '{run_as}'::text[] || jsonb_build_object('run_as', run_as::regrole::text) FROM saga.ledger_step t ORDER BY saga, seq},
	q{SELECT a FROM saga.ledger_attempt a ORDER BY saga, seq, phase, attempt},
	q{SELECT e FROM saga.ledger_event e ORDER BY saga, at, event},
	q{SELECT saga, due, nullif(lane, 0)::regrole FROM saga.ledger_due ORDER BY saga},
	q{SELECT channel, since, saga, seq, owner::regrole FROM saga.ledger_queue ORDER BY saga});

sub ledger
{
	my ($server, $database) = @_;
	return join("\n", map { $server->safe_psql($database // 'postgres', $_) } @ledger);
}
my $original = ledger($node);
my $undone = $node->safe_psql('postgres', 'SELECT saga, step, who FROM undone ORDER BY n');
is($undone, "undone|b|app\nundone|a|app", 'what is undone so far');

my $file = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr('postgres') ], 'pg_dump');
my $archive = $node->basedir . '/dump.custom';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $archive, $node->connstr('postgres') ], 'pg_dump -Fc');

# Another server, where the roles have other OIDs, and the server's own some more
my $copy = saga_cluster('copy', databases => []);
$copy->safe_psql('postgres', "CREATE ROLE filler$_") foreach 1 .. 3;
$copy->safe_psql('postgres', 'CREATE ROLE other LOGIN; CREATE ROLE app LOGIN');
isnt($copy->safe_psql('postgres', q{SELECT 'app'::regrole::oid}), $node->safe_psql('postgres', q{SELECT 'app'::regrole::oid}),
	'the role has another OID in the other server');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $copy->connstr('postgres') ],
	'restored through psql, functions with saga.start included');

sub check_copy
{
	my ($server, $database, $what) = @_;
	my ($out, $err);

	is($server->safe_psql($database, q{
		SELECT (SELECT last_value FROM saga.start_order) >= (SELECT max(seq) FROM saga.steps)}), 't', "$what: the start order goes on");
	is($server->safe_psql($database, 'SELECT count(*) FROM undone'), 2, "$what: nothing is undone");
	$server->psql($database, q{SELECT saga.begin('x')}, stderr => \$err, extra_params => [ '-U', 'app' ]);
	like($err, qr/^[^\n]*WARNING:  .*\n(.*\n)*HINT:  .*saga\.adopt\(\)/, "$what: a warning says what to do");
	$server->psql($database, q{SELECT saga.begin('x'); SELECT saga.begin('x')}, stderr => \$err);
	my @warnings = $err =~ /WARNING/g;
	is(scalar @warnings, 1, "$what: once in a session");
	like($server->safe_psql($database, q{SELECT next_action FROM saga.sagas WHERE idempotency_key = 'failed'}),
		qr/but: /, "$what: the next action says what is in the way");
	like(sql_error($server, q{SELECT saga.wait(id, '10 s') FROM saga.sagas WHERE idempotency_key = 'failed'}, $database),
		qr/ERROR:  SG008: .*\n(.*\n)*HINT:  .*saga\.adopt\(\)/, "$what: whoever waits is told");
	like(sql_error($server, q{SELECT saga.adopt()}, $database, extra_params => [ '-U', 'other' ]),
		qr/ERROR:  (42501|SG010):/, "$what: not everybody may adopt it");

	# Listeners: nobody is told, and nothing is to be had.
	like(sql_error($server, q{SELECT * FROM saga.claim_compensations('tasks')}, $database, extra_params => [ '-U', 'app' ]),
		qr/ERROR:  SG008: (.*\n)*HINT:  .*saga\.adopt\(\)/, "$what: nothing is to be claimed");
	my $listener = listen_to($server, { database => $database }, 'tasks', 'states');
	# Its worker looks again.
	my $pid = worker_pid($server, $database);
	$server->safe_psql($database, "SELECT pg_terminate_backend($pid)");
	sql_as($server, 'app', q{SELECT saga.fail(saga.begin('task', 'here', announce => 'states'))}, $database);
	wait_until($server, qq{
		SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'saga worker' AND datname = current_database() AND state = 'idle' AND pid <> $pid}, 't', $database);
	is(scalar heard($listener), 0, "$what: nobody is told anything");
	is($server->safe_psql($database, q{SELECT next_action_at IS NULL, next_action ~ 'listener.*tasks.*but: ' FROM saga.sagas WHERE idempotency_key = 'waits'}),
		't|t', "$what: and the next action says why") or diag($server->safe_psql($database, q{SELECT next_action FROM saga.sagas WHERE idempotency_key = 'waits'}));
	return $listener;
}

# Adopted: those who listen are told everything, and work goes on with them.
sub check_adopted
{
	my ($server, $database, $listener, $what) = @_;
	my %id = map { split /\|/ } split /\n/, $server->safe_psql($database, q{SELECT idempotency_key, id FROM saga.sagas WHERE idempotency_key IS NOT NULL});

	wait_heard($listener, qr/^tasks\|.*$id{$_}/) foreach 'waits', 'forgotten';
	wait_heard($listener, qr/^states\|.*$id{$_}/) foreach 'announced', 'here';
	is(scalar(grep { /$id{forgotten}/ } heard($listener)), 1, "$what: what is told once is told once");
	is(scalar(grep { /$id{held}/ } heard($listener)), 0, "$what: what a listener holds is not");
	is($server->safe_psql($database, q{SELECT DISTINCT owner::regrole FROM saga.ledger_queue}), 'app', "$what: it waits for the listeners of its owner");
	is($server->safe_psql($database, q{
		SELECT context->'saga'->>'idempotency_key', attempt FROM saga.claim_compensations('tasks', 10, consumer => 'here')},
		extra_params => [ '-U', 'app' ]), 'waits|1', "$what: who can claim it");
	is($server->safe_psql($database, q{
		SELECT string_agg(idempotency_key || ' ' || consumer, ', ' ORDER BY idempotency_key)
		FROM saga.pending_compensations JOIN saga.sagas ON id = saga_id}, extra_params => [ '-U', 'app' ]),
		'held over there, waits here', "$what: claims hold");
	is($server->safe_psql($database, q{SELECT DISTINCT saga.complete_compensation(compensation_key) FROM saga.pending_compensations},
		extra_params => [ '-U', 'app' ]), 'compensated', "$what: and are reported done");
	wait_until($server, qq{SELECT state = 'compensated' FROM saga.sagas WHERE id = '$id{$_}'}, 't', $database) foreach qw(waits held forgotten);
	$listener->quit;
	return;
}

# Equal but for the role's OID, which only adoption maps
sub without_roles
{
	my ($text) = @_;
	$text =~ s/"(owner|run_as|lane)": ("[^"]*"|null)//g;
	$text =~ s/\|[^|\n]*$//mg;
	return $text;
}
is(without_roles(ledger($copy)), without_roles($original), 'every row is there');
my $listener = check_copy($copy, 'postgres', 'another server');

$copy->safe_psql('postgres', 'SELECT saga.adopt()');
check_adopted($copy, 'postgres', $listener, 'another server');
my @open = qw(failed overdue);
wait_until($copy, qq{SELECT count(*) = 0 FROM saga.sagas WHERE idempotency_key = '$_' AND state <> 'compensated'}) foreach @open;
is($copy->safe_psql('postgres', 'SELECT saga, step, who FROM undone ORDER BY n'),
	"$undone\nfailed|b|app\nfailed|a|app", 'adopted: what was left is undone, once, as its role');
is($copy->safe_psql('postgres', q{
	SELECT idempotency_key, state, owner FROM saga.sagas WHERE name = 'order' ORDER BY 1}),
	join("\n", 'completed|completed|app', 'deadline|running|app', 'failed|compensated|app', 'overdue|compensated|app',
		'parked|needs_review|app', 'retried|running|app', 'running|running|app', 'undone|compensated|app', 'waiting|compensating|app'),
	'the others are as they were, and their roles are those of this server');
is($copy->safe_psql('postgres', q{SELECT DISTINCT run_as FROM saga.steps}), 'app', 'of their steps, too');
is(sql_as($copy, 'app', q{
	SELECT seq > (SELECT max(seq) FROM saga.steps) FROM saga.step(open_order('running'), 'more');
	SELECT saga.fail(open_return('running'));
	SELECT saga.wait(open_return('running'))}), "t\ncompensating\ncompensated", 'their owner goes on with them');
my ($out, $err);
$copy->psql('postgres', q{SELECT saga.begin('x')}, stdout => \$out, stderr => \$err);
is($err, '', 'adopted: no warning');
guarantees($copy);

# Another database of the same server, by pg_restore; one where sagas were
# undone before, so that its worker has come further than what is restored.
$copy->safe_psql('postgres', 'CREATE DATABASE beside');
$copy->safe_psql('beside', q{
	CREATE EXTENSION saga;
	SELECT saga.begin('native', 'overdue', timeout => '1 ms');
	SELECT saga.begin('native', 'failed') AS id \gset
	SELECT saga.step(:'id', 'a', compensation => 'SELECT 1');
	SELECT saga.fail(:'id');
});
wait_until($copy, q{SELECT count(*) = 2 FROM saga.sagas WHERE state = 'compensated'}, 't', 'beside');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $copy->connstr('beside'), $archive ], 'pg_restore');
$copy->safe_psql('beside', q{DELETE FROM saga.ledger_step WHERE saga IN (SELECT id FROM saga.ledger_saga WHERE name = 'native')});
$copy->safe_psql('beside', q{DELETE FROM saga.ledger_attempt WHERE saga IN (SELECT id FROM saga.ledger_saga WHERE name = 'native')});
$copy->safe_psql('beside', q{DELETE FROM saga.ledger_event WHERE saga IN (SELECT id FROM saga.ledger_saga WHERE name = 'native')});
$copy->safe_psql('beside', q{DELETE FROM saga.ledger_saga WHERE name = 'native'});
is(without_roles(ledger($copy, 'beside')), without_roles($original), 'beside: every row is there');
$listener = check_copy($copy, 'beside', 'beside');
$copy->safe_psql('beside', 'SELECT saga.adopt()');
check_adopted($copy, 'beside', $listener, 'beside');
wait_until($copy, qq{SELECT count(*) = 1 FROM saga.sagas WHERE idempotency_key = '$_' AND state = 'compensated'}, 't', 'beside') foreach @open;
guarantees($copy, 'beside');

# Another, whose rows come while its triggers are disabled
$copy->safe_psql('postgres', 'CREATE DATABASE untriggered');
command_ok([ 'pg_restore', '--exit-on-error', '--section=pre-data', '-d', $copy->connstr('untriggered'), $archive ], 'pg_restore of the schema');
command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers', '-d', $copy->connstr('untriggered'), $archive ],
	'pg_restore of the data, with triggers disabled');
is(without_roles(ledger($copy, 'untriggered')), without_roles($original), 'untriggered: every row is there');
$listener = check_copy($copy, 'untriggered', 'untriggered');
$copy->safe_psql('untriggered', 'SELECT saga.adopt()');
check_adopted($copy, 'untriggered', $listener, 'untriggered');
is($copy->safe_psql('untriggered', q{SELECT count(*), string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger
	WHERE tgfoid = 'saga.internal_guard'::regproc}), '22|A', 'untriggered: guarded again');
wait_until($copy, qq{SELECT count(*) = 1 FROM saga.sagas WHERE idempotency_key = '$_' AND state = 'compensated'}, 't', 'untriggered') foreach @open;
guarantees($copy, 'untriggered');

# A copy of the database, made by the server
$node->safe_psql('template1', 'CREATE DATABASE twin TEMPLATE postgres');
is(ledger($node, 'twin'), $original, 'CREATE DATABASE ... TEMPLATE: every row is there');
$node->append_conf('postgresql.conf', 'saga.enabled = on');
$node->reload;
wait_until($node, q{SELECT count(*) = 1 FROM saga.sagas WHERE idempotency_key = 'failed' AND state = 'compensated'});
$listener = check_copy($node, 'twin', 'twin');
is($node->safe_psql('twin', q{SELECT state FROM saga.sagas WHERE idempotency_key = 'failed'}), 'compensating', 'only the original goes on');
$node->safe_psql('twin', 'SELECT saga.adopt()');
check_adopted($node, 'twin', $listener, 'twin');
wait_until($node, q{SELECT count(*) = 1 FROM saga.sagas WHERE idempotency_key = 'failed' AND state = 'compensated'}, 't', 'twin');
is($node->safe_psql('twin', q{SELECT saga, step, who FROM undone ORDER BY n}),
	"$undone\nfailed|b|app\nfailed|a|app", 'the twin, too, once adopted');
guarantees($node);
guarantees($node, 'twin');

$node->stop;
$copy->stop;
done_testing();
