# People decide while processes die: what is parked stays parked with its reason,
# what was decided is done once and in order, a savepoint is reached, whoever is
# killed on the way; whoever wants to know is told; and what is over is purged
# while others go on.
#
#   SAGA_PURGE_SAGAS   how many sagas there are then (20000)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', init => [ allows_streaming => 1 ], conf => q{
restart_after_crash = on
autovacuum = off
});
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE TABLE effects (n serial, saga text, step text);
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO effects (saga, step)
		VALUES (context->'saga'->>'idempotency_key', context->'step'->>'key' || ' ' || (context->'step'->>'run'));
		-- It is of use only when a person says so.
		IF context->'args'->>'fails' = 'until decided' AND NOT EXISTS (SELECT FROM saga.events
			WHERE saga_id = (context->'saga'->>'id')::uuid AND event = 'resolved')
		THEN
			RAISE SQLSTATE 'SG006' USING MESSAGE = 'not before somebody looked';
		END IF;
	END $$;
	CREATE FUNCTION steps(id uuid, what text) RETURNS bigint LANGUAGE sql AS $$
		SELECT count(saga.step(id, 'step ' || i, compensation => 'SELECT undo($1)', completed => true,
			review => CASE WHEN what = 'review' AND i = 2 THEN 'look' END,
			args => jsonb_build_object('fails', CASE WHEN what = 'parked' AND i = 2 THEN 'until decided' END),
			compensation_retry => saga.retry_policy(1000, '10 ms', 'constant', '10 ms', 0)))
		FROM generate_series(1, 3) i
	$$;
	-- Brings the sagas of a round further, as far as it can be done at once.
	-- What was done is done: it may be called again after a crash.
	CREATE FUNCTION make(round text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		what text;
		id uuid;
	BEGIN
		FOREACH what IN ARRAY '{review,parked,back}'::text[] LOOP
			id := saga.begin('people', round || ' ' || what);
			PERFORM saga.step(id, 'base', compensation => 'SELECT undo($1)', completed => true);
			PERFORM steps(id, what);
			IF what = 'back' THEN
				PERFORM saga.rollback_to(id, 'base', 'once more');
			ELSE
				PERFORM saga.fail(id);
			END IF;
		END LOOP;
	END $$;
	CREATE FUNCTION decide(round text) RETURNS void LANGUAGE sql AS $$
		SELECT saga.resolve(saga_id, step, 'retry', 'as the manual says') FROM saga.review_queue WHERE key LIKE round || ' %'
	$$;
	CREATE FUNCTION go_on(round text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		it uuid := (SELECT s.id FROM saga.sagas s WHERE idempotency_key = round || ' back' AND state = 'running');
	BEGIN
		IF it IS NOT NULL THEN
			PERFORM steps(it, 'back');
			PERFORM saga.fail(it);
		END IF;
	END $$;});

# --- Killed on the way into a park and back to a savepoint; then again on the way
# out, when a person has decided and the saga goes on

my @points = qw(
  executor.before_inflight executor.after_inflight executor.before_mark
  executor.before_commit executor.after_commit
  worker.before_turn worker.before_commit worker.after_commit);

sub struck
{
	my ($point, $action, @sql) = @_;

	set_faults($node, "$point=$action once");
	foreach my $sql (@sql)
	{
		$node->psql('postgres', $sql, stdout => \my $out, stderr => \my $err);
	}
	wait_struck($node);
	set_faults($node, '');
	insist($node, $_) foreach @sql;
	return;
}

sub round
{
	my ($name, $point, $action) = @_;

	struck($point, $action, "SELECT make('$name') WHERE NOT EXISTS (SELECT FROM saga.sagas WHERE idempotency_key = '$name back')");
	wait_until($node, qq{
		SELECT count(*) = 3 FROM saga.sagas
		WHERE idempotency_key IN ('$name review', '$name parked') AND state = 'needs_review'
			OR idempotency_key = '$name back' AND state = 'running'});
	is($node->safe_psql('postgres', qq{
		SELECT key, step, why FROM saga.review_queue WHERE key LIKE '$name %' ORDER BY key}),
		"$name parked|step 2|not before somebody looked\n$name review|step 2|review asked for: look",
		"$name: parked, with the reason");
	struck($point, $action, "SELECT decide('$name')", "SELECT go_on('$name')");
	# A crash may have made a suspect of it that is parked in its turn.
	for my $try (1 .. 20 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if insist($node, qq{SELECT count(*) FROM saga.sagas WHERE idempotency_key LIKE '$name %' AND state = 'compensated'}) eq '3';
		insist($node, "SELECT decide('$name')");
		usleep(50_000);
	}
	is($node->safe_psql('postgres', qq{
		SELECT saga, string_agg(step, ', ' ORDER BY n) FROM effects
		WHERE saga LIKE '$name %' GROUP BY saga ORDER BY saga}),
		"$name back|step 3 1, step 2 1, step 1 1, step 3 2, step 2 2, step 1 2, base 1\n"
		  . join("\n", map { "$name $_|step 3 1, step 2 1, step 1 1, base 1" } qw(parked review)),
		"$name: each effect once, in reverse");
	is($node->safe_psql('postgres', qq{
		SELECT s.idempotency_key, e.event, count(*) FROM saga.events e JOIN saga.sagas s ON s.id = e.saga_id
		WHERE s.idempotency_key LIKE '$name %' AND e.event IN ('rolling back', 'rolled back', 'compensated', 'undo started')
		GROUP BY 1, 2 ORDER BY 1, 2}),
		join("\n", "$name back|compensated|1", "$name back|rolled back|1", "$name back|rolling back|1", "$name back|undo started|2",
			map { ("$name $_|compensated|1", "$name $_|undo started|1") } qw(parked review)),
		"$name: told once");
	return;
}

foreach my $action (qw(fatal kill))
{
	foreach my $point (@points)
	{
		round("$point=$action", $point, $action);
	}
}
guarantees($node);

# --- The caller is killed before, or after, the commit of a decision.

{
	my $id = $node->safe_psql('postgres', q{
		SELECT saga.begin('people', 'told nobody') AS id \gset
		SELECT count(saga.step(:'id', 'a', review => 'look', compensation => 'SELECT undo($1)'));
		SELECT saga.fail(:'id');
		SELECT saga.wait(:'id');
		SELECT :'id'}) =~ s/.*\n//sr;
	my ($out, $err);
	$node->psql('postgres', qq{
		SET saga.test_faults = 'wakeup.after_commit=kill'; SELECT saga.resolve('$id', 'a', 'retry', 'go on')},
		stdout => \$out, stderr => \$err);
	like($err, qr/server closed the connection|terminating connection/, 'a crash between the commit of a decision and the wake-up');
	insist($node, 'SELECT 1');
	wait_state($node, $id, 'compensated');
	is($node->safe_psql('postgres', q{SELECT string_agg(step, ' ' ORDER BY n) FROM effects WHERE saga = 'told nobody'}), 'a 1',
		'is made up for');
}

# --- A pause that comes while an attempt is being committed: it waits for that.
# After it, what is under way is done, and nothing begins.

{
	set_faults($node, 'executor.before_commit=wait');
	my $id = $node->safe_psql('postgres', q{
		SELECT saga.begin('people', 'paused') AS id \gset
		SELECT count(saga.step(:'id', 'step ' || i, compensation => 'SELECT undo($1), pg_sleep(0.01)')) FROM generate_series(1, 20) i;
		SELECT saga.fail(:'id');
		SELECT :'id'}) =~ s/.*\n//sr;
	wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'saga executor' AND xact_start IS NOT NULL AND wait_event_type = 'Extension'});
	my $session = session($node);
	background($session, "SELECT saga.pause('$id', 'wait');");
	wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT saga.pause%' AND wait_event_type = 'Lock'});
	set_faults($node, '');
	is($session->query('SELECT 1') =~ s/\s+/ /gr, 'compensating 1', 'the pause waited for the commit');
	$session->quit;
	wait_until($node, qq{SELECT next_action LIKE 'nothing: it is paused%' FROM saga.sagas WHERE id = '$id'});
	is($node->safe_psql('postgres', qq{
		SELECT count(*) FROM saga.attempts a JOIN saga.events e USING (saga_id)
		WHERE a.saga_id = '$id' AND phase = 'compensation' AND event = 'paused' AND a.started_at > e.at AND a.outcome = 'succeeded'}), '0', 'nothing that began after it was done');
	cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM effects WHERE saga = 'paused'}), '<', 20, 'much is left to do');
	$node->safe_psql('postgres', "SELECT saga.resume('$id')");
	wait_state($node, $id, 'compensated');
	is($node->safe_psql('postgres', q{SELECT string_agg(step, ', ' ORDER BY n) FROM effects WHERE saga = 'paused'}),
		join(', ', map { "step $_ 1" } reverse 1 .. 20), 'it goes on when it is resumed');
}

# --- Told: on the saga's channel and on that of the reviewers, at least once,
# also when the worker ends in the middle of it

sub listener
{
	my (@channels) = @_;
	my $session = session($node);

	$session->query_safe(join ' ', map { "LISTEN $_;" } @channels);
	return $session;
}

sub heard_of
{
	my ($session, $id) = @_;

	foreach my $line (split /\n/, $session->query_safe('SELECT'))
	{
		push @{ $session->{heard} }, "$1 $2"
		  if $line =~ /^Asynchronous notification "(.*?)" with payload "\{"event":"state","saga_id":"\Q$id\E","state":"(\w+)"\}"/;
	}
	return join ', ', @{ $session->{heard} // [] };
}

# Waits until it was told, whatever comes besides.
sub is_heard
{
	my ($session, $id, $wanted, $what) = @_;
	my $heard = '';
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	for my $try (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$heard = heard_of($session, $id);
		last if $heard =~ $wanted;
		usleep(20_000);
	}
	return like($heard, $wanted, $what);
}

$node->append_conf('postgresql.conf', "saga.review_channel = 'night_shift'");
$node->restart;
foreach my $fault ('', 'worker.before_commit=fatal', 'worker.after_commit=fatal')
{
	my $session = listener(qw(people_states night_shift));
	my $what = $fault || 'no fault';
	my $id = $node->safe_psql('postgres', q{
		SELECT saga.begin('people', announce => 'people_states') AS id \gset
		SELECT steps(:'id', 'review');
		SELECT :'id'}) =~ s/.*\n//sr;
	set_faults($node, "$fault once") if $fault ne '';
	$node->safe_psql('postgres', "SELECT saga.fail('$id')");
	wait_struck($node) if $fault ne '';
	set_faults($node, '');
	wait_state($node, $id, 'needs_review');
	is_heard($session, $id, qr/(?=.*people_states compensating)(?=.*people_states needs_review)(?=.*night_shift needs_review)/,
		"$what: it needs review");
	unlike(heard_of($session, $id), qr/night_shift (?!needs_review)/, "$what: reviewers hear of nothing else");
	$node->safe_psql('postgres', "SELECT saga.rollback_to('$id', NULL, 'once more')");
	$node->safe_psql('postgres', "SELECT saga.resolve('$id', 'step 2', 'retry', 'go on')");
	wait_state($node, $id, 'running');
	is_heard($session, $id, qr/people_states needs_review.*people_states compensating.*people_states running/, "$what: it is running again");
	$node->safe_psql('postgres', "SELECT saga.complete('$id')");
	is_heard($session, $id, qr/people_states running.*people_states completed$/, "$what: it is completed");
	$session->quit;
}
# without a channel of its own, and for every way into review
{
	my $session = listener('night_shift');
	my $id = $node->safe_psql('postgres', q{
		SELECT saga.begin('people') AS id \gset
		SELECT count(saga.step(:'id', 'pay', kind => 'pivot', completed => true));
		SELECT saga.fail(:'id');
		SELECT :'id'}) =~ s/.*\n//sr;
	is_heard($session, $id, qr/^night_shift needs_review/, 'a saga without a channel, behind its pivot');
	$node->safe_psql('postgres', "SELECT saga.abandon('$id', 'n')");
	my $late = $node->safe_psql('postgres', q{
		SELECT saga.begin('people') AS id \gset
		SELECT count(saga.step(:'id', 'a', compensation => 'SELECT undo($1)'));
		SELECT saga.fail(:'id');
		SELECT saga.wait(:'id');
		SELECT saga.complete_step(:'id', 'a', late => 'record') IS NOT NULL;
		SELECT :'id'}) =~ s/.*\n//sr;
	$session->{heard} = [];
	is_heard($session, $late, qr/^night_shift needs_review/, 'a late result');
	$session->quit;
	$node->safe_psql('postgres', "SELECT saga.resolve('$late', 'a', 'done', 'n')");
}
# --- Of two steps that run out of time together, where an executor finds it as it
# looks, each is told: it leaves that to the worker

{
	my $listener = listen_to($node, 'night_shift');
	my $id = $node->safe_psql('postgres', q{
		SELECT saga.begin('people') AS id \gset
		SELECT count(saga.step(:'id', key, after => '{}', signals => '{never}', timeout => '1 hour', on_failure => 'review'))
		FROM unnest('{b,c}'::text[]) key;
		SELECT :'id'}) =~ s/.*\n//sr;
	wait_until($node, "SELECT count(*) = 2 FROM saga.steps WHERE saga_id = '$id' AND timeout_at IS NOT NULL");
	set_faults($node, 'executor.before_mark=wait once,worker.before_turn=wait after');
	$node->safe_psql('postgres', "SELECT saga.step('$id', 'a', action => 'SELECT 1', after => '{}')");
	wait_struck($node);
	$node->safe_psql('postgres', q{SELECT test_advance_clock('2 hours')});
	set_faults($node, 'worker.before_turn=wait');
	wait_until($node, "SELECT count(*) = 2 FROM saga.steps WHERE saga_id = '$id' AND parked = 'timed out'");
	set_faults($node, '');
	my $seqs = $node->safe_psql('postgres', "SELECT string_agg(seq::text, ' ' ORDER BY seq) FROM saga.steps WHERE saga_id = '$id' AND key <> 'a'");
	is(join(' ', sort map { /"seq":(\d+)/ } wait_heard($listener, qq{"event":"review","saga_id":"$id"}, 2)), $seqs, 'two steps that need review');
	$listener->quit;
	$node->safe_psql('postgres', "SELECT saga.resolve('$id', key, 'skip', 'n') FROM unnest('{b,c}'::text[]) key; SELECT saga.complete('$id')");
}
guarantees($node);

# --- Operators, named for one database or one of them; by a superuser only

$node->safe_psql('postgres', q{
	CREATE ROLE operators;
	CREATE ROLE ann LOGIN IN ROLE operators;
	CREATE ROLE eve LOGIN;
	CREATE ROLE shop LOGIN;
	GRANT USAGE ON SCHEMA saga TO operators, eve, shop;});
my $parked = $node->safe_psql('postgres', q{
	SELECT saga.begin('people', 'of the shop') AS id \gset
	SELECT count(saga.step(:'id', 'a', review => 'look'));
	SELECT saga.fail(:'id');
	SELECT :'id'}, extra_params => [ '-U', 'shop' ]) =~ s/.*\n//sr;
wait_state($node, $parked, 'needs_review');
like(sql_error($node, "SELECT saga.pause('$parked', 'n')", 'postgres', extra_params => [ '-U', 'ann' ]), qr/SG001/, 'nobody is an operator');
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET saga.operator_role = 'operators'});
is(sql_as($node, 'ann', "SELECT saga.pause('$parked', 'n')"), 'needs_review', 'those of the database are');
like(sql_error($node, "SELECT saga.pause('$parked', 'n')", 'postgres', extra_params => [ '-U', 'eve' ]), qr/SG001/, 'others are not');
$node->safe_psql('postgres', q{ALTER DATABASE postgres RESET saga.operator_role; ALTER ROLE ann SET saga.operator_role = 'operators'});
is(sql_as($node, 'ann', "SELECT saga.resume('$parked')"), 'needs_review', 'one of them, by her own setting');
like(sql_error($node, q{ALTER ROLE eve SET saga.operator_role = 'eve'}, 'postgres', extra_params => [ '-U', 'eve' ]), qr/permission denied/, 'not by herself');
{
	local $ENV{PGOPTIONS} = '-c saga.operator_role=eve';
	isnt($node->psql('postgres', "SELECT saga.resolve('$parked', 'a', 'done', 'n')", stdout => \my $out, stderr => \my $err,
		extra_params => [ '-U', 'eve' ]), 0, 'nor by what she asks for when she connects');
	like($err, qr/permission denied to set parameter|SG001|does not exist or is not yours/, 'which is refused');
}
is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$parked'"), 'needs_review', 'it is as it was');

# --- On a standby, everybody reads what waits, and the plan; nobody decides.

{
	my $running = $node->safe_psql('postgres', q{
		SELECT saga.begin('people', 'planned') AS id \gset
		SELECT steps(:'id', 'review');
		SELECT :'id'}) =~ s/.*\n//sr;
	$node->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($standby);
	is($standby->safe_psql('postgres', "SELECT string_agg(step || ' ' || action, ', ' ORDER BY position) FROM saga.plan('$running')"),
		'step 3 sql, step 2 person', 'the plan on a standby');
	is($standby->safe_psql('postgres', "SELECT step, why FROM saga.review_queue WHERE saga_id = '$parked'"), 'a|review asked for: look', 'the queue on a standby');
	foreach my $call ("saga.resolve('$parked', 'a', 'done', 'n')", "saga.abandon('$parked', 'n')", "saga.reopen('$parked', 'n')",
		"saga.rollback_to('$running', NULL)", "saga.pause('$running', 'n')", "saga.resume('$running')", "saga.redact('$running')", "saga.purge('0')")
	{
		like(sql_error($standby, "SELECT $call"), qr/SG008.*standby/, "no $call there");
	}
	$standby->stop;
	$node->safe_psql('postgres', "SELECT saga.complete('$running'); SELECT saga.resolve('$parked', 'a', 'done', 'n')");
}

# --- Purged by the worker, in batches, while others go on: nothing that is not
# over goes, nobody waits, and what is recorded next fills the room.

sub fill
{
	my ($name, $count) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT count(saga.complete(s)) FROM (
			SELECT s, saga.step(s, 'a', compensation => 'SELECT undo(\$1)', args => '{"room": 12, "nights": 2, "guest": "A. N. Other", "card": "ending in 4711"}',
				output => '{"reservation": "R-000000000000", "confirmed": true, "price": 123.45, "currency": "EUR"}'),
				saga.step(s, 'b', compensation => 'SELECT undo(\$1)', args => '{"room": 12, "nights": 2, "guest": "A. N. Other", "card": "ending in 4711"}',
				output => '{"reservation": "R-000000000000", "confirmed": true, "price": 123.45, "currency": "EUR"}'),
				saga.step(s, 'c', compensation => 'SELECT undo(\$1)', args => '{"room": 12, "nights": 2, "guest": "A. N. Other", "card": "ending in 4711"}',
				output => '{"reservation": "R-000000000000", "confirmed": true, "price": 123.45, "currency": "EUR"}')
			FROM (SELECT saga.begin('$name', i::text) AS s FROM generate_series(1, $count) i) b) c});
}

# One saga in four transactions, so many times; bytes of WAL for each
sub wal_per_saga
{
	my ($name, $count) = @_;
	my $step = q{compensation => 'SELECT undo($1)', args => '{"room": 12, "nights": 2, "guest": "A. N. Other"}'};
	my $output = q{'{"reservation": "R-000000000000", "confirmed": true, "price": 123.45}'};

	$node->safe_psql('postgres', 'CHECKPOINT');
	my $before = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	$node->safe_psql('postgres', qq{
		DO \$do\$
		DECLARE
			s uuid;
		BEGIN
			FOR i IN 1 .. $count LOOP
				s := saga.begin('$name', i::text);
				PERFORM saga.step(s, 'a', $step);
				COMMIT;
				PERFORM saga.complete_step(s, 'a', $output), saga.step(s, 'b', $step);
				COMMIT;
				PERFORM saga.complete_step(s, 'b', $output), saga.step(s, 'c', $step);
				COMMIT;
				PERFORM saga.complete_step(s, 'c', $output), saga.complete(s);
				COMMIT;
			END LOOP;
		END \$do\$});
	return int($node->safe_psql('postgres', "SELECT (pg_current_wal_insert_lsn() - '$before') / $count"));
}

sub pages
{
	return $node->safe_psql('postgres', q{
		SELECT sum(pg_relation_size(c.oid)) / 8192 FROM pg_class c
		WHERE relnamespace = 'saga'::regnamespace AND relname LIKE 'ledger_%' AND relkind IN ('r', 'i')});
}

my $sagas = $ENV{SAGA_PURGE_SAGAS} // 20_000;
my $half = $sagas / 2;
# full page images are as many as there are checkpoints: not what is asked here
$node->safe_psql('postgres', 'ALTER SYSTEM SET full_page_writes = off');
$node->reload;
$node->safe_psql('postgres', q{SELECT saga.purge('0', 100000)});
my $empty = wal_per_saga('empty', 1000);
fill('old', $half);
my $running = $node->safe_psql('postgres', q{
	SELECT saga.begin('old', 'running') AS id \gset
	SELECT steps(:'id', 'back');
	SELECT :'id'}) =~ s/.*\n//sr;
$node->safe_psql('postgres', q{SELECT test_advance_clock('2 days')});
fill('new', $half);
$node->safe_psql('postgres', 'VACUUM');
my $before = wal_per_saga('before', 1000);
my $pages = pages();

# Clients, while the worker purges: each notes how long its longest saga took.
$node->safe_psql('postgres', q{CREATE TABLE client (n integer, sagas integer, longest interval)});
my @clients = map { session($node) } 1 .. 2;
my $n = 0;
foreach my $client (@clients)
{
	$n++;
	background($client, qq{
		DO \$\$
		DECLARE
			began timestamptz;
			longest interval := '0';
			sagas integer := 0;
			s uuid;
		BEGIN
			WHILE NOT EXISTS (SELECT FROM client WHERE n = 0) LOOP
				began := clock_timestamp();
				sagas := sagas + 1;
				s := saga.begin('meanwhile', '$n ' || sagas);
				PERFORM saga.step(s, 'a', compensation => 'SELECT undo(\$1)');
				COMMIT;
				PERFORM saga.complete_step(s, 'a'), saga.complete(s);
				COMMIT;
				longest := greatest(longest, clock_timestamp() - began);
			END LOOP;
			INSERT INTO client VALUES ($n, sagas, longest);
		END \$\$;});
}
wait_until($node, q{SELECT count(*) > 100 FROM saga.sagas WHERE name = 'meanwhile'});
my $began = Time::HiRes::time();
my $batches = $node->safe_psql('postgres', q{
	ALTER SYSTEM SET saga.retention = '1d';
	SELECT pg_reload_conf()});
# killed in the middle of it, it goes on
wait_until($node, "SELECT count(*) < $half FROM saga.sagas WHERE name = 'old'");
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga worker'});
wait_until($node, q{SELECT count(*) = 1 FROM saga.sagas WHERE name = 'old'});
my $took = Time::HiRes::time() - $began;
$node->safe_psql('postgres', 'INSERT INTO client VALUES (0)');
wait_until($node, 'SELECT count(*) = 3 FROM client');
$_->quit foreach @clients;

is($node->safe_psql('postgres', q{SELECT name, count(*) FROM saga.sagas WHERE name IN ('old', 'new') GROUP BY 1 ORDER BY 1}),
	"new|$half\nold|1", 'what is older is gone, but for one that is running');
is($node->safe_psql('postgres', "SELECT state || ' ' || steps FROM saga.sagas WHERE id = '$running'"), 'running 3', 'which is whole');
is($node->safe_psql('postgres', q{
	SELECT (SELECT count(*) FROM saga.ledger_step t WHERE NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = t.saga))
		+ (SELECT count(*) FROM saga.ledger_attempt t WHERE NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = t.saga))
		+ (SELECT count(*) FROM saga.ledger_event t WHERE NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = t.saga) AND event <> 'purged')}),
	'0', 'nothing is left of the others');
is($node->safe_psql('postgres', q{SELECT sum(sagas) - (SELECT count(*) FROM saga.sagas WHERE name = 'meanwhile' AND state = 'completed') FROM client}),
	'0', 'what was recorded meanwhile is there');
note(sprintf('purged %d sagas in %.1f s; meanwhile %s', $half, $took, $node->safe_psql('postgres',
	q{SELECT string_agg(sagas || ' sagas, the longest took ' || longest, '; ') FROM client WHERE n > 0})));
$node->safe_psql('postgres', 'ALTER SYSTEM RESET saga.retention');
$node->reload;
$node->safe_psql('postgres', 'VACUUM');
my $after = wal_per_saga('after', 1000);
note("WAL per saga in 4 transactions: $empty bytes in an empty ledger, $before among $sagas sagas, $after after half of them were purged");
diag("WAL per saga: $empty bytes in an empty ledger, $before among $sagas, $after after half of them were purged and vacuumed");

# As many again fit into what was there.
my $filled = 0;
while ($filled < $half)
{
	fill("again $filled", 5000);
	$filled += 5000;
}
my $then = pages();
note("pages of the ledger: $pages before, $then with as many again");
cmp_ok($then, '<', 1.2 * $pages, 'the ledger has not grown much');

# A worker that fails in a batch tries it again.
$node->safe_psql('postgres', q{SELECT test_advance_clock('2 days')});
{
	my $offset = log_offset($node);
	my $count = $node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas});
	$node->safe_psql('postgres', q{ALTER SYSTEM SET saga.retention = '1d'; ALTER SYSTEM SET saga.test_faults = 'retention.before_commit=error'; SELECT pg_reload_conf()});
	wait_log($node, qr/could not purge finished sagas/, $offset);
	is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas}), $count, 'a batch that fails purges nothing');
	$node->safe_psql('postgres', q{ALTER SYSTEM RESET saga.test_faults; SELECT pg_reload_conf()});
	$node->safe_psql('postgres', q{SELECT test_advance_clock('1 minute')});
	wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state IN ('completed', 'compensated', 'abandoned')});
	is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$running'"), 'running', 'and goes on, but for what is not over');
}
guarantees($node);
$node->stop;
done_testing();
