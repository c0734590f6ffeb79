# An update of saga while everything is under way: the library of one version meets
# the extension of another, in every order that an administrator can bring about.
# Where the two fit, everything goes on; where they do not, nothing is touched, and
# says so; and in the end everything has come out right.
#
# The versions to come are made of the present sources: 1.1, whose library also
# serves 1.0, and 1.2, whose library serves no other.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $root = "$FindBin::RealBin/../../..";
my $system = $ENV{PG_CONFIG} // 'pg_config';
chomp(my ($bindir, $real, $pkglibdir, $sharedir) =
	map { scalar `$_` } 'pg_config --bindir', map { "$system --$_" } qw(bindir pkglibdir sharedir));
my $stage = $bindir =~ /^(.+)\Q$real\E$/ ? $1 : plan skip_all => 'runs in the private installation of test/run only';

# ------------------------------------------------------------------ versions

# A server of this test's own, since it installs other versions into it
my $private = PostgreSQL::Test::Utils::tempdir() . '/server';
sub system_or_die { system(@_) == 0 or die "@_ failed\n"; return; }
system_or_die('cp', '-al', $stage, $private);

my %script = (
	'1.0--1.1' => q{
		CREATE FUNCTION saga.added() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 11;
		COMMENT ON FUNCTION saga.added() IS 'What 1.1 adds.';
		COMMENT ON VIEW saga.sagas IS 'As of 1.1.';},
	# As one that changes tables
	'1.1--1.2' => q{
		LOCK TABLE saga.ledger_saga, saga.ledger_step, saga.ledger_due, saga.ledger_attempt, saga.ledger_event IN ACCESS EXCLUSIVE MODE;
		ALTER TABLE saga.ledger_event ALTER COLUMN event SET STATISTICS 10;
		COMMENT ON VIEW saga.sagas IS 'As of 1.2.';});

sub edit
{
	my ($file, $from, $to) = @_;
	my $text = slurp_file($file);
	$text =~ s/$from/$to/ or die "$file: no $from";
	unlink $file;
	append_to_file($file, $text);
	return;
}

# Installs the files of a version, whose library serves those from another one on.
sub install_version
{
	my ($version, $serves_from) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();

	system_or_die('cp', '-a', (map { "$root/$_" } qw(Makefile src saga.control saga--1.0.sql)), $dir);
	# What does not name the version is compiled already.
	foreach my $object (glob "$stage/objects/*.o")
	{
		my ($name) = $object =~ m{([^/]+)\.o$};
		my ($source) = grep { -e } glob "$dir/src/{,*/}$name.c";
		system_or_die('cp', $object, $source =~ s/\.c$/.o/r) if defined $source;
	}
	edit("$dir/saga.control", qr/^default_version = .*$/m, "default_version = '$version'");
	edit("$dir/src/ledger/version.c", qr/(#define SERVES_FROM\s+)"1\.0"/, qq{#define SERVES_FROM "$serves_from"});
	append_to_file("$dir/saga--$_.sql", "\\echo Use \"ALTER EXTENSION saga UPDATE\" to load this file. \\quit\n$script{$_}\n")
	  foreach keys %script;
	local %ENV = (%ENV, MAKEFLAGS => '', MAKELEVEL => '');
	system_or_die("make -s -C '$dir' PG_CONFIG='$system' with_llvm=no COPT='-DUSE_ASSERT_CHECKING -DSAGA_TEST' DESTDIR='$private' install >'$dir/log' 2>&1 || { cat '$dir/log' >&2; false; }");
	return;
}

# ... of 1.0, as an older package would
sub install_old
{
	system_or_die('cp', '--remove-destination', "$stage$_", "$private$_") foreach "$pkglibdir/saga.so", "$sharedir/extension/saga.control";
	return;
}

my $node = saga_cluster('main', install_path => $private . ($real =~ s{/bin/?$}{}r), conf => "saga.max_executors = 6\n");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub version_of_extension { return sql(q{SELECT extversion FROM pg_extension WHERE extname = 'saga'}); }

# ------------------------------------------------------------ what is under way

witness($node);
virtual_clock($node);
sql(q{
	-- What meets this gate sleeps until it is canceled; next time it may be open.
	CREATE TABLE gate AS SELECT 'closed' AS gate;
	CREATE FUNCTION at_gate(closed boolean DEFAULT true) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_sleep(3600) FROM gate WHERE closed;
	END $$;
	CREATE FUNCTION again(round integer) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM at_gate(round = 2);
		IF round < 4 THEN
			PERFORM saga.again('0', to_jsonb(round));
		END IF;
	END $$;
	-- One with a step that is done, to which others add theirs
	CREATE FUNCTION flight(key text, timeout interval DEFAULT NULL) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('flight', key, timeout => timeout);
	BEGIN
		PERFORM saga.step(id, 'first', output => '1', compensation => 'SELECT witness.undo($1)');
		RETURN id;
	END $$;
	CREATE FUNCTION sealed(id uuid) RETURNS void LANGUAGE sql AS $$
		SELECT saga.step(id, 'last', action => 'SELECT witness.act($1)', compensation => 'SELECT witness.undo($1)');
		SELECT saga.complete(id, when_done => true) $$;});

my %flight = map { $_ => sql("SELECT flight('$_')") }
  qw(undoing acting looping task claimed timer signal approval parked retry paused app);
$flight{deadline} = sql(q{SELECT flight('deadline', '3 hours')});
my $policy = 'saga.retry_policy(max_attempts => 3, delay => $$1 hour$$, max_delay => $$1 hour$$, jitter => 0)';
my %then = (
	undoing => q{SELECT saga.step(id, 'b', compensation => 'SELECT at_gate(); SELECT witness.undo($1)'), saga.fail(id)},
	acting => q{SELECT saga.step(id, 'b', action => 'SELECT at_gate(); SELECT witness.act($1)', compensation => 'SELECT witness.undo($1)'), sealed(id)},
	looping => q{SELECT saga.step(id, 'b', action => 'SELECT again(($1->>''round'')::integer); SELECT witness.act($1)', compensation => 'SELECT witness.undo($1)'), sealed(id)},
	task => q{SELECT saga.step(id, 'b', task => 'work', compensation => 'SELECT witness.undo($1)'), sealed(id)},
	claimed => q{SELECT saga.step(id, 'b', notify => 'witness'), saga.fail(id)},
	timer => q{SELECT saga.step(id, 'b', delay => '2 hours'), sealed(id)},
	signal => q{SELECT saga.step(id, 'b', signals => '{paid}'), sealed(id)},
	approval => q{SELECT saga.step(id, 'b', approval => 'may it?'), sealed(id)},
	parked => q{SELECT saga.step(id, 'b', compensation => 'SELECT 1 / 0', compensation_retry => saga.retry_policy(max_attempts => 1)), saga.fail(id)},
	retry => qq{SELECT saga.step(id, 'b', compensation_retry => $policy,
		compensation => 'SELECT witness.undo(\$1), 1 / ((\$1->>''attempt'')::integer - 1)'), saga.fail(id)},
	paused => q{SELECT saga.pause(id, 'until the new version is there'), saga.fail(id)},
	app => q{SELECT saga.step(id, 'b', compensation => 'SELECT witness.undo($1)')});
sql("$then{$_} FROM (SELECT '$flight{$_}'::uuid AS id) s") foreach sort keys %then;
sql(q{
	BEGIN;
	SELECT saga.fail(flight('prepared'));
	PREPARE TRANSACTION 'prepared'});
wait_queued($node, 'work', 1);
wait_queued($node, 'witness', 1);
my ($task, $attempt) = split /\|/, sql(q{SELECT task_key, attempt FROM saga.claim_tasks('work', lease => '1 day', consumer => 'one')});
sql(q{SELECT witness.outside(context) FROM saga.claim_compensations('witness', lease => '1 day', consumer => 'one')});
wait_state($node, $flight{parked}, 'needs_review');
wait_until($node, "SELECT compensation_attempts = 1 AND compensation_status = 'pending' FROM saga.steps WHERE saga_id = '$flight{retry}' AND key = 'b'");

# The three that run do so, or do so again.
sub running
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(wait_until($node, q{SELECT string_agg(idempotency_key, ' ' ORDER BY idempotency_key)
		FROM saga.sagas WHERE id IN (SELECT saga_id FROM saga.running WHERE consumer IS NULL)}, 'acting looping undoing'), "$when: they run");
}

my $states = 'acting running, app running, approval running, claimed compensating, deadline running, looping running, '
  . 'parked needs_review, paused compensating, retry compensating, signal running, task running, timer running, undoing compensating';
sub under_way
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql(q{SELECT string_agg(idempotency_key || ' ' || state, ', ' ORDER BY idempotency_key) FROM saga.sagas
		WHERE name = 'flight' AND idempotency_key <> 'prepared'}), $states, "$when: everything is under way")
	  || show_ledger($node);
}

# A new one is done, and another undone, at once.
sub goes_on
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($failed, $done) = split /\n/, sql(q{
		SELECT flight(NULL) AS f \gset
		SELECT flight(NULL) AS d \gset
		SELECT :'f'; SELECT :'d'});

	sql("SELECT saga.fail('$failed'), sealed('$done')");
	return ok(wait_state($node, $failed, 'compensated') && wait_state($node, $done, 'completed'), "$when: sagas go on");
}

running('1.0');
under_way('1.0');

# ---------------------------------------------------------- the script comes first

{
	my $worker = worker_pid($node);

	install_version('1.1', '1.0');
	foreach my $statement ('ALTER EXTENSION saga UPDATE', q{ALTER EXTENSION saga UPDATE TO '1.1'})
	{
		like(sql_error($node, $statement),
			qr/ERROR:  SG008: cannot bring extension "saga" to version 1\.1: .* library of version 1\.0\n(?:.*\n)*HINT:  Restart the server/,
			"before the restart: $statement is refused");
	}
	is(sql_error($node, 'CREATE EXTENSION IF NOT EXISTS saga'), '', 'before the restart: what changes nothing is not refused');
	is(version_of_extension(), '1.0', 'nothing is changed');
	is(worker_pid($node), $worker, 'and nobody had to leave');
	sql('CREATE DATABASE other');
	like(sql_error($node, 'CREATE EXTENSION saga', 'other'), qr/ERROR:  SG008: .*\n(?:.*\n)*HINT:  Restart the server/, 'the same for CREATE EXTENSION');
	is($node->safe_psql('other', q{CREATE EXTENSION saga VERSION '1.0'; SELECT extversion FROM pg_extension WHERE extname = 'saga'}), '1.0',
		'the version that the library has can be created');
	sql('DROP DATABASE other');
	running('before the restart');
	under_way('before the restart');
	goes_on('before the restart');
}

# --------------------------------------------------------- the library comes first

{
	$node->restart;
	running('library 1.1, extension 1.0');
	under_way('library 1.1, extension 1.0');
	goes_on('library 1.1, extension 1.0');
	is(sql(q{SELECT code FROM saga.health WHERE severity = 'error'}), '', 'it is healthy');

	sql('ALTER EXTENSION saga UPDATE');
	is(version_of_extension() . sql(q{SELECT ' ' || saga.added() || ' ' || obj_description('saga.sagas'::regclass)}), '1.1 11 As of 1.1.', 'the script was run');
	running('1.1');
	under_way('1.1');
	goes_on('1.1');
	guarantees($node);
}

# ------------------------------------------- the two do not fit: nothing is touched

my $ledger = q{SELECT md5(string_agg(x, '' ORDER BY x)) FROM (
	SELECT s::text FROM saga.ledger_saga s UNION ALL SELECT t::text FROM saga.ledger_step t UNION ALL SELECT d::text FROM saga.ledger_due d
	UNION ALL SELECT a::text FROM saga.ledger_attempt a UNION ALL SELECT e::text FROM saga.ledger_event e) AS l(x)};

sub holds_still
{
	my ($library, $extension, $hint) = @_;
	my $when = "library $library, extension $extension";
	my $misfit = qr/extension "saga" is of version \Q$extension\E in this database, and its library of version \Q$library\E/;
	my $offset = log_offset($node);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->start;
	wait_lines($node, qr/saga worker LOG:  (?:\w+: )?nothing is run or undone in database "postgres": $misfit\n/, $offset);
	my $before = sql($ledger);
	foreach my $call (q{saga.begin('order')}, "saga.fail('$flight{app}')", "saga.signal('$flight{signal}', 'paid')", 'saga.adopt()',
		"saga.complete_task('$task', '{}', $attempt)", "saga.wait('$flight{undoing}')", q{count(*) FROM saga.claim_tasks('work')})
	{
		like(sql_error($node, "SELECT $call"), qr/ERROR:  SG008: (?:.*\n)*.*$misfit(?:.*\n)*.*$hint/, "$when: refused, $call");
	}
	is(sql(q{SELECT string_agg(code, ' ') FROM saga.health WHERE severity = 'error'}), 'wrong version', "$when: saga.health says so");
	like(sql(q{SELECT finding || ' ' || hint FROM saga.health}), qr/$misfit: .* $hint/, "$when: and what to do");
	like(sql("SELECT next_action FROM saga.sagas WHERE id = '$flight{$_}'"), qr/$misfit/, "$when: so does the next action of $_")
	  foreach 'undoing', 'acting', 'retry';
	is(sql(q{SELECT count(*) > 0 FROM saga.steps} . join '', map { " UNION ALL SELECT count(*) > 0 FROM saga.$_" } qw(events attempts pending_tasks)),
		"t\nt\nt\nt", "$when: the views show what there is");
	under_way($when);
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'saga executor'}), '0', "$when: no executor runs");
	is(sql($ledger), $before, "$when: no row is changed");
	is(() = slurp_file($node->logfile, $offset) =~ /nothing is run or undone/g, 1, "$when: said once");
	unlike(slurp_file($node->logfile, $offset), qr/saga \w+ (?:WARNING|ERROR|FATAL|PANIC):/, "$when: and nothing else");
	return;
}

$node->stop;
install_old();
holds_still('1.0', '1.1', qr/Install saga 1\.1, and restart the server\./);
sql(q{COMMIT PREPARED 'prepared'});

install_version('1.1', '1.0');
$node->restart;
running('1.1 again');
under_way('1.1 again');
goes_on('1.1 again');

install_version('1.2', '1.2');
$node->stop;
holds_still('1.2', '1.1', qr/Run ALTER EXTENSION saga UPDATE\./);

sql('ALTER EXTENSION saga UPDATE');
is(version_of_extension() . sql(q{SELECT ' ' || obj_description('saga.sagas'::regclass)}), '1.2 As of 1.2.', 'the script was run');
is(sql(q{SELECT code FROM saga.health WHERE severity = 'error'}), '', 'all is well, without a restart');
running('1.2');
under_way('1.2');
goes_on('1.2');

# ------------------------------------------------------------- and to the end

sql(q{DELETE FROM gate; SELECT pg_cancel_backend(pid) FROM saga.running WHERE pid IS NOT NULL});
sql("SELECT saga.complete_task('$task', '{}', $attempt)");
sql("SELECT saga.complete_compensation(compensation_key) FROM saga.pending_compensations WHERE saga_id = '$flight{claimed}'");
sql("SELECT saga.signal('$flight{signal}', 'paid'), saga.resolve('$flight{approval}', 'b', 'approve', 'it may'),
	saga.resolve('$flight{parked}', 'b', 'done', 'by hand'), saga.resume('$flight{paused}'), saga.fail('$flight{app}')");
advance_clock($node, '4 hours');
my %end = map { $_ => 'completed' } qw(acting looping task timer signal approval);
wait_state($node, $flight{$_}, $end{$_} // 'compensated') foreach sort keys %flight;
wait_state($node, saga_id($node, 'prepared'), 'compensated');
is(sql(q{SELECT string_agg(idempotency_key || ' ' || state, ', ' ORDER BY idempotency_key) FROM saga.sagas WHERE name = 'flight'}),
	join(', ', map { "$_ " . ($end{$_} // 'compensated') } sort 'prepared', keys %flight), 'everything has come to its end');
is(sql("SELECT count(*) FROM witness.effect WHERE saga = '$flight{looping}' AND key = 'b' AND hand = 'action'"), '4', 'the loop had its four rounds');
is(sql("SELECT string_agg(outcome, ' ' ORDER BY attempt) FROM saga.attempts WHERE saga_id = '$flight{retry}' AND phase = 'compensation' AND seq =
	(SELECT seq FROM saga.steps WHERE saga_id = '$flight{retry}' AND key = 'b')"), 'failed succeeded', 'what was tried before is on record');
guarantees($node);

$node->stop;
done_testing();
