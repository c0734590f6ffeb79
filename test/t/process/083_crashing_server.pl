# What may befall the server around our processes: its own processes killed, a
# crash while it starts, no place for a process, deadlocks with applications, a
# full disk.  Whatever it was, each compensation is made once, nobody is charged
# for it, and no process is left behind.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time usleep);

# (Small segments of the WAL, so that a file need not be large to be too large)
my $node = saga_cluster('main', init => [ extra => [ '--wal-segsize', '1' ] ], conf => join "\n",
	'restart_after_crash = on', 'autovacuum = off', 'saga.max_executors = 2', 'max_connections = 20', 'log_statement = none',
	'superuser_reserved_connections = 3', '');
witness($node, sql => '%undo($1)%');
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	GRANT USAGE ON SCHEMA saga TO app;
	GRANT ALL ON SCHEMA public TO app;
	CREATE TABLE gate (closed boolean);
	CREATE TABLE account (id integer PRIMARY KEY, n integer DEFAULT 0);
	INSERT INTO account SELECT generate_series(1, 2);
	GRANT ALL ON gate, account TO app;
	-- Waits at a closed gate
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM witness.undo(context);
		IF EXISTS (SELECT FROM gate) THEN
			PERFORM pg_sleep(3600);
		END IF;
	END $$;
	CREATE FUNCTION make(key text, compensation text DEFAULT 'SELECT undo($1)', channel text DEFAULT NULL) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key);
	BEGIN
		PERFORM saga.step(id, 'a', compensation => compensation, compensation_retry => saga.retry_policy(max_attempts => 2, delay => '10 ms'));
		IF channel IS NOT NULL THEN
			PERFORM saga.step(id, 'b', notify => channel);
		END IF;
		RETURN id;
	END $$;});

sub sql { return sql_as($node, 'app', $_[0]); }
sub super { return $node->safe_psql('postgres', $_[0]); }

sub wait_running
{
	my ($saga) = @_;
	return wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga' AND key = 'a'");
}

# All processes of the server, but the one that asks
sub children
{
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @children = `ps -o pid= --ppid $postmaster` =~ /(\d+)/g;
	return ($postmaster, @children);
}

sub no_orphans
{
	my ($what, @pids) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	usleep(10_000) while time < $end && (kill 0, @pids);
	return is(scalar(kill 0, @pids), 0, "$what: no process is left");
}

# ------------------------------------ the server's own processes, and all of it

super('INSERT INTO gate VALUES (true)');
my $claimed = sql(q{SELECT make('claimed', channel => 'witness')});
sql("SELECT saga.fail('$claimed')");
wait_until($node, "SELECT count(*) = 1 FROM saga.ledger_queue WHERE saga = '$claimed'");
my $task = sql(q{SELECT compensation_key FROM saga.claim_compensations('witness', lease => '9 minutes', consumer => 'me')});
acknowledged($node, 'fail', $claimed);

# One that runs when something happens; afterwards it runs again, and is let
# through.  (One that was alone at three crashes would be given up.)
sub befalls
{
	my ($what, $happen) = @_;
	my $saga = sql("SELECT make('$what')");
	sql("SELECT saga.fail('$saga')");
	acknowledged($node, 'fail', $saga);
	wait_running($saga);
	my @pids = children();
	$happen->(@pids);
	wait_running($saga);
	like(outcomes_of($node, $saga), qr/^interrupted( interrupted)?$/, "$what: the attempt was interrupted, and is made again");
	is(super("SELECT coalesce(comp_charged, 0) FROM saga.ledger_step WHERE saga = '$saga'"), '0', "$what: at no charge");
	super('DELETE FROM gate');
	super(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});
	wait_state($node, $saga, 'compensated');
	super('INSERT INTO gate VALUES (true)');
	return;
}

foreach my $process ('checkpointer', 'background writer', 'walwriter')
{
	befalls("$process killed", sub {
		my (undef, @children) = @_;
		my $offset = log_offset($node);
		kill 'KILL', super("SELECT pid FROM pg_stat_activity WHERE backend_type = '$process'");
		wait_lines($node, qr/was terminated by signal 9/, $offset);
		wait_server($node);
		no_orphans("$process killed", @children);
	});
}
befalls('immediate stop', sub {
	$node->stop('immediate');
	no_orphans('immediate stop', @_);
	$node->start;
});
befalls('fast stop', sub {
	my $begun = time;
	$node->stop('fast');
	cmp_ok(time - $begun, '<', 60, 'a fast stop does not wait for what runs');
	no_orphans('fast stop', @_);
	$node->start;
});
befalls('postmaster killed', sub {
	$node->kill9;
	no_orphans('postmaster killed', @_);
	$node->start;
});

# A crash while the server recovers from a crash, at whatever it was about
foreach my $ms (0, 40, 120)
{
	befalls("killed after $ms ms of recovery", sub {
		$node->kill9;
		no_orphans('killed', @_);
		unlink $node->data_dir . '/postmaster.pid';
		system_or_bail('pg_ctl', '-W', '-s', '-D', $node->data_dir, '-l', $node->logfile, '-o', '--cluster-name=main', 'start');
		usleep(1000) until -s $node->data_dir . '/postmaster.pid';
		usleep(1000 * $ms);
		my @pids = children();
		kill 'KILL', $pids[0];
		no_orphans("killed after $ms ms of recovery", @pids);
		unlink $node->data_dir . '/postmaster.pid';
		$node->{_pid} = undef;
		$node->start;
	});
}
super('DELETE FROM gate');
is(super("SELECT consumer, attempt FROM saga.pending_compensations WHERE saga_id = '$claimed'"), 'me|1', 'a claim outlives them all');
sql("SELECT witness.note('listener', jsonb_build_object('saga', jsonb_build_object('id', saga_id), 'step',
		jsonb_build_object('seq', seq, 'key', key), 'attempt', 1)), saga.complete_compensation(compensation_key)
	FROM saga.steps WHERE compensation_key = '$task'");
acknowledged($node, 'complete_compensation', $claimed, 'b');
wait_state($node, $claimed, 'compensated');
guarantees($node);

# --------------------------------------------------------- no place, no connection

# All the connections that there are
my @sessions = map { session($node) } 1 .. 19;
my $full = $sessions[0]->query_safe(q{SELECT make('no connection') AS id \gset
	SELECT saga.fail(:'id') \g /dev/null
	SELECT :'id'});
$full =~ s/\s//g;
ok($sessions[1]->query_until(qr/compensated/, "SELECT saga.wait('$full');\n"), 'no connection is left: compensations need none');
$_->quit foreach @sessions;

# A database that takes no connections of ordinary roles
super(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});
super('ALTER DATABASE postgres CONNECTION LIMIT 0');
# (The one who connects is not counted.)
my $one = session($node);
my $offset = log_offset($node);
my $since = time;
my $shut = super(q{SET SESSION AUTHORIZATION app; SELECT make('shut')});
super("SELECT saga.fail('$shut')");
wait_until($node, qq{
	SELECT state = 'compensated' OR next_action LIKE '%executor%' FROM saga.sagas WHERE id = '$shut'});
isnt(super("SELECT state FROM saga.sagas WHERE id = '$shut'"), 'needs_review', 'a database without connections: nothing fails');
super('SELECT pg_sleep(1.5)');
my $fatal = () = slurp_file($node->logfile, $offset) =~ /FATAL:  too many connections/g;
cmp_ok($fatal, '<=', 3 + (time - $since), 'a database without connections: not tried all the time');
note("$fatal times: " . super("SELECT next_action FROM saga.sagas WHERE id = '$shut'"));
$one->query_safe('ALTER DATABASE postgres CONNECTION LIMIT -1');
$one->quit;
wait_state($node, $shut, 'compensated');
is(outcomes_of($node, $shut), 'succeeded', 'and it is done when there is one');

# ------------------------------------------------------------------- deadlocks

# The compensation has the first row and wants the second, which the application
# has, and wants the first: whoever waits first.
foreach my $first ('the compensation', 'the application')
{
	my $app = session($node, user => 'app');
	super('DROP TABLE IF EXISTS reached');
	$app->query_safe('BEGIN; UPDATE account SET n = n + 1 WHERE id = 2');
	my $saga = sql(qq{SELECT make('$first', \$c\$UPDATE account SET n = n - 1 WHERE id = 1; } .
		($first eq 'the compensation' ? '' : 'DO $d$ BEGIN WHILE (SELECT n = 0 FROM account WHERE id = 2) AND NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted) LOOP PERFORM pg_sleep(0.01); END LOOP; END $d$; ') . q{UPDATE account SET n = n - 1 WHERE id = 2; SELECT undo($1)$c$)});
	sql("SELECT saga.fail('$saga')");
	wait_until($node, $first eq 'the compensation'
		# for longer than deadlock_timeout, so that the server has looked
		? q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND waitstart < clock_timestamp() - interval '1.2 s'}
		: qq{SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$saga'});
	# What it has written, it has locked.
	wait_until($node, q{
		SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE a.backend_type = 'saga executor' AND l.relation = 'account'::regclass AND l.mode = 'RowExclusiveLock'});
	my ($out, $failed) = $app->query('UPDATE account SET n = n + 1 WHERE id = 1; COMMIT');
	is($app->{stderr}, '', "a deadlock in which $first waited first: the application does not fail");
	$app->quit;
	wait_state($node, $saga, 'compensated');
	like(super("SELECT string_agg(concat_ws(' ', outcome, sqlstate), ', ' ORDER BY attempt) FROM saga.attempts WHERE saga_id = '$saga' AND phase = 'compensation'"),
		qr/^(failed 40P01, )+succeeded$/, 'the compensation does, and is made again');
	is(super("SELECT coalesce(comp_charged, 0) FROM saga.ledger_step WHERE saga = '$saga'"), '0', 'at no charge');
}
is(super('SELECT string_agg(n::text, $$ $$ ORDER BY id) FROM account'), '0 0', 'both had their effect, once');

# ------------------------------------------------------------------- a full disk

# A limit on the size of files stands for that: the table of attempts cannot
# grow when the SQL has run and its attempt is to be written down.
SKIP:
{
	my ($postmaster) = children();
	skip 'prlimit cannot limit the size of files here', 1
	  if system("prlimit --pid $postmaster --fsize >/dev/null 2>&1") != 0;

	# Larger than a segment of the WAL, which must not be too large; and full
	super(q{
		DO $$
		DECLARE
			id uuid := saga.begin('order', 'many');
		BEGIN
			PERFORM saga.step(id, 'a');
			WHILE pg_relation_size('saga.ledger_attempt') <= 1100 * 1024 LOOP
				-- (so that no other table grows)
				COMMIT;
				FOR i IN 1 .. 3 LOOP
					PERFORM saga.fail_step(id, 'a', 'no');
					PERFORM saga.step(id, 'a');
				END LOOP;
			END LOOP;
			PERFORM saga.complete_step(id, 'a'), saga.complete(id);
		END $$});
	my $size = super(q{SELECT pg_relation_size('saga.ledger_attempt')});
	is(super(qq{SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace IN ('saga'::regnamespace, 'witness'::regnamespace)
		AND pg_relation_size(oid) > $size - 64 * 8192}), 'ledger_attempt', 'one table is as large as can be');
	my $limit = $size + 4096;
	my @sagas = split /\n/, sql(q{SELECT make('disk ' || n, 'SELECT undo($1)') FROM generate_series(1, 200) n});
	super('INSERT INTO gate VALUES (true)');
	sql("SELECT saga.fail('$sagas[0]'), saga.fail('$sagas[1]')");
	wait_until($node, q{SELECT count(*) = 2 FROM saga.steps WHERE compensation_status = 'running'});
	foreach my $pid (split /\n/, super(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'saga%'}), $postmaster)
	{
		system_or_bail('prlimit', '--pid', $pid, "--fsize=$limit:unlimited");
	}
	super('DELETE FROM gate');
	$offset = log_offset($node);
	super(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga executor'});
	sql(q{SELECT count(saga.fail(id)) FROM saga.sagas WHERE idempotency_key LIKE 'disk %' AND state = 'running'});
	# EFBIG: 53100 on 15, XX000 from 16 on
	wait_lines($node, qr/WARNING:  could not record how an interrupted attempt ended: SQLSTATE (?:53100|XX000)/, $offset, 2);
	cmp_ok(super(q{SELECT count(*) FROM saga.sagas WHERE idempotency_key LIKE 'disk %' AND state = 'compensating'}), '>', 0, 'the disk is full: it waits');
	is(super(q{SELECT count(*) FROM saga.sagas WHERE idempotency_key LIKE 'disk %' AND state NOT IN ('compensating', 'compensated')}), '0', 'nothing is parked');
	guarantees($node);
	($postmaster) = children();
	foreach my $pid (split /\n/, super(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'saga%'}), $postmaster)
	{
		system('prlimit', '--pid', $pid, '--fsize=unlimited:unlimited');
	}
	wait_until($node, q{SELECT count(*) = 200 FROM saga.sagas WHERE idempotency_key LIKE 'disk %' AND state = 'compensated'});
	pass('room again: everything is done');
	is(super(q{
		SELECT s.idempotency_key, attempt, outcome, sqlstate, error FROM saga.attempts a JOIN saga.sagas s ON s.id = saga_id
		WHERE idempotency_key LIKE 'disk %' AND phase = 'compensation' AND outcome NOT IN ('interrupted', 'succeeded')}), '', 'nothing is charged');
}
guarantees($node);

# ------------------------------------------------ the launcher, about to start one

SKIP:
{
	skip 'needs the test build', 1 if !is_test_build();
	foreach my $action (qw(error kill))
	{
		set_faults($node, "launcher.before_start=$action once");
		try_psql($node, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga worker'});
		wait_struck($node);
		set_faults($node, '');
		wait_server($node);
		wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'saga worker'});
		my $saga = sql(qq{SELECT make('launcher $action')});
		sql("SELECT saga.fail('$saga')");
		ok(wait_state($node, $saga, 'compensated'), "launcher.before_start=$action: there is a worker again");
	}
}

guarantees($node);
$node->stop;
done_testing();
