# pg_upgrade: every row is there after it, nothing is undone before the new
# cluster is adopted, once in each database, and then everything goes on.
#
# From this PostgreSQL to itself, which takes the same path; or from the one whose
# programs SAGA_TEST_OLD_BINDIR names, as test/majors/run does it, or through
# several, which it names in their order with colons between them.  Then each
# upgrade meets work in flight again, and one database is adopted after the last
# of them only.
#
# In the SQL here, "~" stands for the number of the upgrade that it is about.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

chomp(my $bindir = `pg_config --bindir`);
my @bindirs = (split(/:/, $ENV{SAGA_TEST_OLD_BINDIR} // $bindir), $bindir);
my $upgrades = $#bindirs;
# Adopted after each upgrade; and after the last only
my @at_work = ('postgres', 'second');
my @carried = $upgrades > 1 ? ('carried') : ();
# (Up to 17, checksums are off by default, and both clusters must have them or not.)
my @init = (init => [ extra => [ '--data-checksums' ] ]);

# In each database, one executor is busy while the others work.
my $conf = "saga.max_executors = 8\nmax_worker_processes = 20\n";

# cluster NAME, BINDIR, ...: of the PostgreSQL with these programs
sub cluster
{
	my ($name, $of, @options) = @_;
	return saga_cluster($name, @init, conf => $conf, $of ne $bindir ? (install_path => $of =~ s{/bin/?$}{}r) : (), @options);
}

my $before = cluster('first', $bindirs[0], databases => [ @at_work, @carried ]);
note('from ' . $before->safe_psql('postgres', 'SELECT version()'));

# OIDs differ from those of the new cluster, had it made the same roles by itself.
$before->safe_psql('postgres', 'CREATE ROLE dropped; DROP ROLE dropped; CREATE ROLE app LOGIN');
foreach my $database (@at_work, @carried)
{
	witness($before, database => $database);
	$before->safe_psql($database, q{
		GRANT USAGE ON SCHEMA saga TO app;
		GRANT CREATE ON SCHEMA public TO app;
		SET ROLE app;
		CREATE TABLE undone (n serial, saga text, step text, who text DEFAULT current_user);
		CREATE TABLE gate (gate text);
		CREATE FUNCTION place(k text) RETURNS uuid LANGUAGE plpgsql AS $$
		DECLARE
			id uuid := saga.begin('order', k, '{"amount": 12}');
			undo text := $c$INSERT INTO undone (saga, step) VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'name'); SELECT witness.undo($1)$c$;
		BEGIN
			PERFORM saga.step(id, 'a', args => '[1]', output => '1', compensation => undo);
			PERFORM saga.step(id, 'b', compensation => undo, retry => saga.retry_policy(max_attempts => 3));
			RETURN id;
		END $$;});
}

# Work of every kind that is in flight when the server stops
sub begin_work
{
	my ($node, $database, $n) = @_;
	$node->safe_psql($database, q{
		SET ROLE app;
		SELECT saga.fail(place('undone~'), 'why');
		SELECT saga.begin('order', 'parked~') AS p \gset
		SELECT saga.step(:'p', 'c', compensation => 'SELECT 1/0', compensation_retry => saga.retry_policy(max_attempts => 1));
		SELECT saga.fail(:'p');
		SELECT saga.begin('order', 'held~') AS h \gset
		SELECT saga.step(:'h', 'c', notify => 'tasks');
		SELECT saga.fail(:'h');} =~ s/~/$n/gr);
	wait_until($node, q{
		SELECT string_agg(state, ' ' ORDER BY idempotency_key) FROM saga.sagas WHERE idempotency_key IN ('parked~', 'undone~')} =~ s/~/$n/gr,
		'needs_review compensated', $database);
	wait_until($node, q{SELECT count(*) = 1 FROM saga.ledger_queue}, 't', $database);
	is(sql_as($node, 'app', q{SELECT step FROM saga.claim_compensations('tasks', lease => '1 day', consumer => 'one')}, $database), 'c', "$database: a listener holds one");
	# One that is being undone while the server stops
	sql_as($node, 'app', q{
		INSERT INTO gate VALUES ('closed');
		SELECT place('busy~') AS b \gset
		SELECT saga.step(:'b', 'c', compensation => $c$
			SELECT pg_sleep(3600) FROM gate;
			INSERT INTO undone (saga, step) VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'name'); SELECT witness.undo($1)$c$);
		SELECT saga.fail(:'b')} =~ s/~/$n/gr, $database);
	wait_until($node, q{SELECT count(*) = 1 FROM saga.steps WHERE compensation_status = 'running'}, 't', $database);
	# The next time it will not be held up.
	sql_as($node, 'app', 'DELETE FROM gate', $database);
	return;
}

my @ledger = map { "SELECT * FROM saga.ledger_$_ l ORDER BY l" } qw(saga attempt event due queue);
push @ledger, 'SELECT to_jsonb(t) FROM saga.ledger_step t ORDER BY saga, seq', 'SELECT last_value, is_called FROM saga.start_order',
  'SELECT saga, step, who FROM undone ORDER BY n';

sub ledger
{
	my ($node, $database) = @_;
	return join "\n", map { $node->safe_psql($database, $_) } @ledger;
}

# Some minors (17.12 is one) keep an option of their own with every column, which
# those of other majors (18.6 is one) refuse to take over; with saga or without.
sub forget_option
{
	my ($node, $option) = @_;
	foreach my $database (split /\n/, $node->safe_psql('postgres', 'SELECT datname FROM pg_database WHERE datallowconn'))
	{
		$node->safe_psql($database, qq{
			UPDATE pg_attribute SET attoptions = NULLIF(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE '$option=%'), '{}')
			WHERE attoptions::text LIKE '%$option=%'});
	}
	note("without the option $option of columns, which the new server does not know");
	return;
}

# The outcomes of what the stop of the server cut short, by database and upgrade
my %cut;
my $interrupted = q{FROM saga.attempts JOIN saga.sagas ON id = saga_id WHERE idempotency_key = 'busy~' AND phase = 'compensation'};

# Adopted, what began before upgrade $n goes on.
sub goes_on
{
	my ($node, $database, $n) = @_;
	$node->safe_psql($database, 'SELECT saga.adopt()');
	wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state = 'compensating' AND idempotency_key NOT LIKE 'held%'}, 't', $database);
	is(sql_as($node, 'app', q{SELECT string_agg(saga || ' ' || step || ' ' || who, ', ' ORDER BY n) FROM undone WHERE saga IN ('undone~', 'busy~')} =~ s/~/$n/gr, $database),
		'undone~ b app, undone~ a app, busy~ c app, busy~ b app, busy~ a app' =~ s/~/$n/gr, "$database: adopted, it goes on, and undoes each once");
	is(sql_as($node, 'app', q{
		SELECT string_agg(attempt || ' ' || outcome, ', ' ORDER BY attempt) FROM saga.attempts JOIN saga.sagas ON id = saga_id JOIN saga.steps USING (saga_id, seq)
		WHERE idempotency_key = 'busy~' AND key = 'c' AND phase = 'compensation'} =~ s/~/$n/gr, $database),
		$cut{"$database $n"} ? '1 interrupted, 2 succeeded' : '1 succeeded', "$database: with the history that it has");
	is(sql_as($node, 'app', q{SELECT saga.complete_compensation(compensation_key) FROM saga.pending_compensations}, $database), 'compensated',
		"$database: what a listener held is reported done");
	is(sql_as($node, 'app', q{SELECT saga.resolve(id, 'c', 'done', 'by hand') FROM saga.sagas WHERE idempotency_key = 'parked~'} =~ s/~/$n/gr, $database), 'compensated',
		"$database: what was parked is decided");
	return;
}

foreach my $n (1 .. $upgrades)
{
	my ($from, $to) = @bindirs[ $n - 1, $n ];
	my @databases = (@at_work, @carried);
	begin_work($before, $_, $n) foreach @at_work, $n == 1 ? @carried : ();

	$before->stop;
	$before->append_conf('postgresql.conf', "saga.enabled = off\n");
	$before->start;
	my $deadline = sql_as($before, 'app', q{SELECT saga.begin('order', 'overdue~', timeout => '1 ms')} =~ s/~/$n/r);
	sql_as($before, 'app', q{SELECT saga.fail(place('failed~'))} =~ s/~/$n/r);
	sql_as($before, 'app', q{SELECT place('running~')} =~ s/~/$n/r);
	# Whether the stop left time to write down what it cut short is chance.
	foreach my $database (@at_work, $n == 1 ? @carried : ())
	{
		$cut{"$database $n"} = $before->safe_psql($database, "SELECT string_agg(outcome, ' ') $interrupted" =~ s/~/$n/r);
		like($cut{"$database $n"}, qr/^(interrupted)?$/, "$database: the stop interrupted what ran");
	}
	forget_option($before, 'pg_attver')
	  if slurp_file("$from/postgres") =~ /\0pg_attver\0/ && slurp_file("$to/postgres") !~ /\0pg_attver\0/;
	my %ledger = map { $_ => ledger($before, $_) } @databases;
	$before->stop;

	my $after = cluster("upgraded$n", $to, start => 0);
	chdir $PostgreSQL::Test::Utils::tmp_check or die;
	is(system_log("$to/pg_upgrade", '--no-sync', '-b', $from, '-B', $to, '-d', $before->data_dir, '-D', $after->data_dir,
		'-s', $after->host, '-p', $before->port, '-P', $after->port), 0, 'pg_upgrade')
	  or do
	{
		note(slurp_file($_)) foreach grep { -f } glob($after->data_dir . '/pg_upgrade_output.d/*/*.txt ' . $after->data_dir . '/pg_upgrade_output.d/*/log/*');
		die 'without pg_upgrade there is nothing to see';
	};
	$after->start;
	note('to ' . $after->safe_psql('postgres', 'SELECT version()'));
	guarantees($after, $_), is(ledger($after, $_), $ledger{$_}, "$_: every row is there") foreach @databases;

	# Recorded, and nothing undone
	foreach my $database (@at_work)
	{
		my ($out, $err);
		worker_pid($after, $database);
		$after->psql($database, "SELECT place('new$n')", stdout => \$out, stderr => \$err, extra_params => [ '-U', 'app' ]);
		like($err, qr/WARNING:  .*\n(.*\n)*HINT:  .*saga\.adopt\(\)/, "$database: a warning says what to do");
		like(sql_as($after, 'app', "SELECT next_action FROM saga.sagas WHERE idempotency_key = 'busy$n'", $database),
			qr/but: this copy of the database is not adopted \(it was copied here from another server/, "$database: so does the next action");
	}

	# Adopted, one after the other
	my %since = ((map { $_ => $n } @at_work), (map { $_ => 1 } @carried));
	my @held = @databases;
	foreach my $database (@at_work, $n == $upgrades ? @carried : ())
	{
		shift @held;
		goes_on($after, $database, $since{$database});
		is($after->safe_psql($_, "SELECT count(*) FROM undone WHERE saga = 'busy$since{$_}'"), 0, "$_: is still not adopted") foreach @held;
		my ($out, $err);
		$after->psql($database, "SELECT saga.fail(place('later$n'))", stdout => \$out, stderr => \$err, extra_params => [ '-U', 'app' ]);
		is("$out$err", 'compensating', "$database: no warning any more");
		wait_until($after, "SELECT count(*) = 2 FROM undone WHERE saga = 'later$n'", 't', $database);
		is(sql_as($after, 'app', qq{SELECT bool_and(s.seq > o.seq) FROM saga.steps s JOIN saga.sagas ON id = saga_id, saga.steps o
			WHERE idempotency_key = 'later$n' AND o.saga_id <> s.saga_id}, $database), 't', "$database: the start order goes on");
		guarantees($after, $database);
	}
	wait_state($after, $deadline, 'compensated');
	is(sql_as($after, 'app', "SELECT count(*) FROM undone WHERE saga = 'failed$n'"), 2, 'what failed while nothing was undone is undone');
	is(sql_as($after, 'app', q{SELECT attempt FROM saga.step(saga.begin('order', 'running~', '{"amount": 12}'), 'b', retry => saga.retry_policy(max_attempts => 3),
		compensation => $c$INSERT INTO undone (saga, step) VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'name'); SELECT witness.undo($1)$c$)} =~ s/~/$n/r), 2, 'and what ran runs on');
	$after->restart;
	is(sql_as($after, 'app', q{SELECT place('restarted~') AS id \gset
		SELECT saga.fail(:'id'); SELECT saga.wait(:'id')} =~ s/~/$n/r), "compensating\ncompensated", 'it stays at home');
	$before = $after;
}
$before->stop;
done_testing();
