# pg_upgrade: every row is there after it, nothing is undone before the new
# cluster is adopted, once in each database, and then everything goes on.
#
# From this PostgreSQL to itself, which takes the same path; or from the one whose
# programs SAGA_TEST_OLD_BINDIR names, as test/majors/run does it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $old_bindir = $ENV{SAGA_TEST_OLD_BINDIR};
chomp(my $bindir = `pg_config --bindir`);
# (Up to 17, checksums are off by default, and both clusters must have them or not.)
my @init = (init => [ extra => [ '--data-checksums' ] ]);
my $before = saga_cluster('old', @init, databases => [ 'postgres', 'second' ],
	$old_bindir ? (install_path => $old_bindir =~ s{/bin/?$}{}r) : ());
note('from ' . $before->safe_psql('postgres', 'SELECT version()'));

# OIDs differ from those of the new cluster, had it made the same roles by itself.
$before->safe_psql('postgres', 'CREATE ROLE dropped; DROP ROLE dropped; CREATE ROLE app LOGIN');
foreach my $database ('postgres', 'second')
{
	witness($before, database => $database);
	$before->safe_psql($database, q{
		GRANT USAGE ON SCHEMA saga TO app;
		GRANT CREATE ON SCHEMA public TO app;
		SET ROLE app;
		CREATE TABLE undone (n serial, saga text, step text, who text DEFAULT current_user);
		CREATE TABLE gate AS SELECT 'closed' AS gate;
		CREATE FUNCTION place(k text) RETURNS uuid LANGUAGE plpgsql AS $$
		DECLARE
			id uuid := saga.begin('order', k, '{"amount": 12}');
			undo text := $c$INSERT INTO undone (saga, step) VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'name'); SELECT witness.undo($1)$c$;
		BEGIN
			PERFORM saga.step(id, 'a', args => '[1]', output => '1', compensation => undo);
			PERFORM saga.step(id, 'b', compensation => undo, retry => saga.retry_policy(max_attempts => 3));
			RETURN id;
		END $$;
		SELECT saga.fail(place('undone'), 'why');
		SELECT saga.begin('order', 'parked') AS p \gset
		SELECT saga.step(:'p', 'c', compensation => 'SELECT 1/0', compensation_retry => saga.retry_policy(max_attempts => 1));
		SELECT saga.fail(:'p');
		SELECT saga.begin('order', 'held') AS h \gset
		SELECT saga.step(:'h', 'c', notify => 'tasks');
		SELECT saga.fail(:'h');});
	wait_until($before, q{
		SELECT string_agg(state, ' ' ORDER BY idempotency_key) FROM saga.sagas WHERE idempotency_key IN ('parked', 'undone')},
		'needs_review compensated', $database);
	wait_until($before, q{SELECT count(*) = 1 FROM saga.ledger_queue}, 't', $database);
	is(sql_as($before, 'app', q{SELECT step FROM saga.claim_compensations('tasks', lease => '1 day', consumer => 'one')}, $database), 'c', "$database: a listener holds one");
	# One that is being undone while the server stops
	sql_as($before, 'app', q{
		SELECT place('busy') AS b \gset
		SELECT saga.step(:'b', 'c', compensation => $c$
			SELECT pg_sleep(3600) FROM gate;
			INSERT INTO undone (saga, step) VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'name'); SELECT witness.undo($1)$c$);
		SELECT saga.fail(:'b')}, $database);
	wait_until($before, q{SELECT count(*) = 1 FROM saga.steps WHERE compensation_status = 'running'}, 't', $database);
	# The next time it will not be held up.
	sql_as($before, 'app', 'DELETE FROM gate', $database);
}

$before->stop;
$before->append_conf('postgresql.conf', "saga.enabled = off\n");
$before->start;
my $deadline = sql_as($before, 'app', q{SELECT saga.begin('order', 'overdue', timeout => '1 ms')});
sql_as($before, 'app', q{SELECT saga.fail(place('failed'))});
sql_as($before, 'app', q{SELECT place('running')});
# Whether the stop left time to write down what it cut short is chance.
my %cut = map { $_ => $before->safe_psql($_, q{
	SELECT string_agg(outcome, ' ') FROM saga.attempts JOIN saga.sagas ON id = saga_id WHERE idempotency_key = 'busy' AND phase = 'compensation'}) } 'postgres', 'second';
like($cut{$_}, qr/^(interrupted)?$/, "$_: the stop interrupted what ran") foreach 'postgres', 'second';

my @ledger = map { "SELECT * FROM saga.ledger_$_ l ORDER BY l" } qw(saga attempt event due queue);
push @ledger, 'SELECT to_jsonb(t) FROM saga.ledger_step t ORDER BY saga, seq', 'SELECT last_value, is_called FROM saga.start_order',
  'SELECT saga, step, who FROM undone ORDER BY n';

sub ledger
{
	my ($node, $database) = @_;
	return join "\n", map { $node->safe_psql($database, $_) } @ledger;
}
my %ledger = map { $_ => ledger($before, $_) } 'postgres', 'second';
$before->stop;

my $after = saga_cluster('new', @init, start => 0);
chdir $PostgreSQL::Test::Utils::tmp_check or die;
is(system_log('pg_upgrade', '--no-sync', '-b', $old_bindir // $bindir, '-B', $bindir, '-d', $before->data_dir, '-D', $after->data_dir,
	'-s', $after->host, '-p', $before->port, '-P', $after->port), 0, 'pg_upgrade')
  or do
{
	note(slurp_file($_)) foreach grep { -f } glob($after->data_dir . '/pg_upgrade_output.d/*/*.txt ' . $after->data_dir . '/pg_upgrade_output.d/*/log/*');
	die 'without pg_upgrade there is nothing to see';
};
$after->start;
note('to ' . $after->safe_psql('postgres', 'SELECT version()'));
guarantees($after, $_), is(ledger($after, $_), $ledger{$_}, "$_: every row is there") foreach 'postgres', 'second';

# Recorded, and nothing undone
foreach my $database ('postgres', 'second')
{
	my ($out, $err);
	worker_pid($after, $database);
	$after->psql($database, q{SELECT place('new')}, stdout => \$out, stderr => \$err, extra_params => [ '-U', 'app' ]);
	like($err, qr/WARNING:  .*\n(.*\n)*HINT:  .*saga\.adopt\(\)/, "$database: a warning says what to do");
	like(sql_as($after, 'app', q{SELECT next_action FROM saga.sagas WHERE idempotency_key = 'busy'}, $database),
		qr/but: this copy of the database is not adopted \(it was copied here from another server/, "$database: so does the next action");
}

# Adopted, one after the other
my @held = ('postgres', 'second');
while (my $database = shift @held)
{
	$after->safe_psql($database, 'SELECT saga.adopt()');
	wait_until($after, q{SELECT count(*) = 0 FROM saga.sagas WHERE state = 'compensating' AND idempotency_key <> 'held'}, 't', $database);
	is(sql_as($after, 'app', q{SELECT string_agg(saga || ' ' || step || ' ' || who, ', ' ORDER BY n) FROM undone WHERE saga IN ('undone', 'busy')}, $database),
		'undone b app, undone a app, busy c app, busy b app, busy a app', "$database: adopted, it goes on, and undoes each once");
	is(sql_as($after, 'app', q{
		SELECT string_agg(attempt || ' ' || outcome, ', ' ORDER BY attempt) FROM saga.attempts JOIN saga.sagas ON id = saga_id JOIN saga.steps USING (saga_id, seq)
		WHERE idempotency_key = 'busy' AND key = 'c' AND phase = 'compensation'}, $database),
		$cut{$database} ? '1 interrupted, 2 succeeded' : '1 succeeded', "$database: with the history that it has");
	is(sql_as($after, 'app', q{SELECT saga.complete_compensation(compensation_key) FROM saga.pending_compensations}, $database), 'compensated',
		"$database: what a listener held is reported done");
	is(sql_as($after, 'app', q{SELECT saga.resolve(id, 'c', 'done', 'by hand') FROM saga.sagas WHERE idempotency_key = 'parked'}, $database), 'compensated',
		"$database: what was parked is decided");
	is($after->safe_psql($_, 'SELECT count(*) FROM undone WHERE saga = $$busy$$'), 0, "$_: is still not adopted") foreach @held;
	my ($out, $err);
	$after->psql($database, q{SELECT saga.fail(place('later'))}, stdout => \$out, stderr => \$err, extra_params => [ '-U', 'app' ]);
	is("$out$err", 'compensating', "$database: no warning any more");
	wait_until($after, q{SELECT count(*) = 2 FROM undone WHERE saga = 'later'}, 't', $database);
	is(sql_as($after, 'app', q{SELECT bool_and(s.seq > o.seq) FROM saga.steps s JOIN saga.sagas ON id = saga_id, saga.steps o
		WHERE idempotency_key = 'later' AND o.saga_id <> s.saga_id}, $database), 't', "$database: the start order goes on");
	guarantees($after, $database);
}
wait_state($after, $deadline, 'compensated');
is(sql_as($after, 'app', q{SELECT count(*) FROM undone WHERE saga = 'failed'}), 2, 'what failed while nothing was undone is undone');
is(sql_as($after, 'app', q{SELECT attempt FROM saga.step(saga.begin('order', 'running', '{"amount": 12}'), 'b', retry => saga.retry_policy(max_attempts => 3),
	compensation => $c$INSERT INTO undone (saga, step) VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'name'); SELECT witness.undo($1)$c$)}), 2, 'and what ran runs on');
$after->restart;
is(sql_as($after, 'app', q{SELECT place('restarted') AS id \gset
	SELECT saga.fail(:'id'); SELECT saga.wait(:'id')}), "compensating\ncompensated", 'it stays at home');
$after->stop;
done_testing();
