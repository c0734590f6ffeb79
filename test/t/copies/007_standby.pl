# A standby reads and says why it does not write; promoted, it goes on by
# itself where the primary stopped.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $primary = saga_cluster('primary', init => [ allows_streaming => 1 ], conf => "max_connections = 30\n");
my $undo = create_undone($primary);

sub record
{
	my ($node, $key) = @_;
	$node->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$key') AS id \\gset
		SELECT status FROM saga.step(:'id', 'a', $undo, output => '1');
		SELECT status FROM saga.step(:'id', 'b', $undo);});
	return saga_id($node, $key);
}

my $before = record($primary, 'before the backup');
$primary->safe_psql('postgres', "SELECT saga.fail('$before'); SELECT saga.wait('$before')");

$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->start;

my $running = record($primary, 'running');
my $undone = record($primary, 'undone');
$primary->safe_psql('postgres', "SELECT saga.fail('$undone'); SELECT saga.wait('$undone')");
# With listeners: one waits, one is held
sub task
{
	my ($key) = @_;
	my $id = record($primary, $key);
	$primary->safe_psql('postgres', qq{SELECT saga.step('$id', 'c', notify => 'tasks', output => '1'); SELECT saga.fail('$id')});
	wait_until($primary, "SELECT count(*) = 1 FROM saga.ledger_queue WHERE saga = '$id'");
	return $id;
}
my $held = task('held');
my ($held_key) = $primary->safe_psql('postgres', q{SELECT compensation_key FROM saga.claim_compensations('tasks', lease => '1 day', consumer => 'one')});
my $waits = task('waits');
$primary->wait_for_catchup($standby);

# Calls say so, whatever they would have answered.
foreach my $call ("begin('order')", "begin('order', 'running')", "step('$running', 'b', $undo)", "complete_step('$running', 'b')",
	"fail_step('$running', 'b', 'no')", "complete('$running')", "fail('$running')", "cancel('$running')", "wait('$undone')",
	"claim_compensations('tasks')", "claim_compensations('nothing')", "extend_claim('$held_key', 1, '1 hour')",
	"complete_compensation('$held_key')", "fail_compensation('$held_key', 1, 'no')")
{
	like(sql_error($standby, "SELECT saga.$call"), qr/ERROR:  SG008: .*standby\n(.*\n)*HINT:  .*primary/,
		'on a standby: ' . ($call =~ s/, compensation.*//r));
}

# The views read.
my @views = map { "SELECT * FROM saga.$_ ORDER BY 1, 2, 3, 4" } qw(steps attempts events pending_compensations);
push @views, 'SELECT id, state, owner, steps, failed_step, reason, started_at, finished_at FROM saga.sagas ORDER BY id';
foreach my $view (@views)
{
	is($standby->safe_psql('postgres', $view), $primary->safe_psql('postgres', $view),
		'on a standby: ' . ($view =~ s/.*(saga\.\w+).*/$1/r));
}
like($standby->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$waits'"), qr/listener.*tasks.*standby/,
	'a listener is not asked for here');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('saga worker', 'saga executor')}),
	0, 'nothing of ours works there');

# What saga.wait returns is on a synchronous standby, too, though executors do not wait
# for one: here for one that there is not.
my $local = record($primary, 'only here');
$primary->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()});
my @waiting = map { session($primary) } 1 .. 2;
my $waits_for_it = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event = 'SyncRep'};
background($waiting[0], 'CREATE TABLE in_force ()');
wait_until($primary, $waits_for_it, 1);
$primary->safe_psql('postgres', "SET synchronous_commit = local; SELECT saga.fail('$local')");
is($primary->safe_psql('postgres', "SET synchronous_commit = local; SELECT saga.wait('$local')"), 'compensated',
	'executors wait for no standby, nor does saga.wait where commits do not');
background($waiting[1], "SELECT saga.wait('$local')");
wait_until($primary, $waits_for_it, 2);
is($primary->safe_psql('postgres', "SELECT saga.wait('$running', '10 ms')"), 'running', 'what has not come to rest is on no standby anyway');
$primary->safe_psql('postgres', q{ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()});
is($waiting[1]->query_safe('SELECT 1') =~ s/\s+/ /gr, 'compensated 1', 'where they do, it waits for the standby');
$_->quit foreach @waiting;

# A client that cancels while its commit waits for the standby repeats its call: what it is
# told then is on the standby, too, though its transaction writes nothing.
my %repeated = (
	begin => "SELECT saga.begin('order', 'repeated')",
	step => "SELECT saga.step(ID, 'b', completed => true, output => '2')",
	'saga-run step' => "SELECT saga.step(ID, 'c', task => 'ship', after => '{b}')",
	complete_step => "SELECT saga.complete_step(ID, 'a', '1')",
	signal => "SELECT saga.signal(ID, 'go', '1', 'key')",
	complete_task => "SELECT saga.complete_task((SELECT forward_key FROM saga.steps WHERE saga_id = ID AND key = 'c'))",
	seal => "SELECT saga.complete(ID, when_done => true)",
	fail => "SELECT saga.fail('$local')");
my $id = "(SELECT id FROM saga.sagas WHERE idempotency_key = 'repeated')";
s/ID/$id/ foreach values %repeated;
$primary->safe_psql('postgres', "$repeated{begin}; SELECT saga.step($id, 'a')");
$primary->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()});
my $in_force = session($primary);
background($in_force, 'DROP TABLE in_force');
wait_until($primary, $waits_for_it, 1);
foreach my $call ('begin', 'step', 'saga-run step', 'complete_step', 'signal', 'complete_task', 'seal', 'fail')
{
	my $again = session($primary);
	# It is done here: by a commit that does not wait, which is the same.
	$primary->safe_psql('postgres', "SET synchronous_commit = local; $repeated{$call}");
	background($again, $repeated{$call});
	wait_until($primary, $waits_for_it, 2);
	$primary->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'SELECT saga.%'});
	like($again->query('SELECT 1'), qr/1$/, "a repeated call waits for the standby: $call");
	$again->quit;
}
is($primary->safe_psql('postgres', 'SELECT count(*) FROM saga.claim_tasks($$nothing$$)'), 0, 'who claims in vain has been told of nothing, and does not wait');
$primary->safe_psql('postgres', q{ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()});
$in_force->quit;

# What is left to undo when the primary goes away
$primary->append_conf('postgresql.conf', 'saga.enabled = off');
$primary->reload;
wait_until($primary, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('saga worker', 'saga executor')});
my $left = record($primary, 'left');
$primary->safe_psql('postgres', "SELECT saga.fail('$left')");
my $deadline = $primary->safe_psql('postgres', q{SELECT saga.begin('order', 'deadline', timeout => '1 ms')});
$primary->safe_psql('postgres', "SELECT saga.step('$deadline', 'a', $undo)");
my $prepared = record($primary, 'prepared');
$primary->safe_psql('postgres', "BEGIN; SELECT saga.fail('$prepared'); PREPARE TRANSACTION 'p'");
# What is still to be dispatched and told
my $late = $primary->safe_psql('postgres', q{SELECT saga.begin('order', 'late task', announce => 'states')});
$primary->safe_psql('postgres', qq{SELECT saga.step('$late', 'c', notify => 'tasks', output => '1'); SELECT saga.fail('$late')});
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$left'"), 'compensating', 'a failed saga is replicated');
like($standby->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$left'"), qr/standby/, 'its next action says where it is');
$primary->stop;

$standby->promote;
is($standby->safe_psql('postgres', "SELECT saga.wait('$left')"), 'compensated', 'promoted: it goes on by itself');
is($standby->safe_psql('postgres', "SELECT saga.wait('$deadline')"), 'compensated', 'with deadlines');
is($standby->safe_psql('postgres', "COMMIT PREPARED 'p'; SELECT saga.wait('$prepared')"), 'compensated', 'and with prepared transactions');
is($standby->safe_psql('postgres', "SELECT status FROM saga.complete_step('$running', 'b', '2'); SELECT saga.fail('$running'); SELECT saga.wait('$running')"),
	"completed\ncompensating\ncompensated", 'sagas go on, and are undone');

# With listeners
wait_until($standby, q{SELECT count(*) = 2 FROM saga.ledger_queue});
is($standby->safe_psql('postgres', q{
	SELECT context->'saga'->>'idempotency_key', attempt FROM saga.claim_compensations('tasks', 10, consumer => 'two') ORDER BY 1}),
	"late task|1\nwaits|1", 'what waited for listeners waits here');
is($standby->safe_psql('postgres', q{SELECT idempotency_key, consumer FROM saga.pending_compensations JOIN saga.sagas ON id = saga_id ORDER BY 1}),
	"held|one\nlate task|two\nwaits|two", 'what was held is held');
is($standby->safe_psql('postgres', q{SELECT DISTINCT saga.complete_compensation(compensation_key) FROM saga.pending_compensations}),
	'compensated', 'and reported done');
wait_state($standby, $_, 'compensated') foreach $held, $waits, $late;
wait_until($standby, "SELECT to_announce IS NULL FROM saga.ledger_saga WHERE id = '$late'");
is($standby->safe_psql('postgres', q{SELECT saga, string_agg(step, ' ' ORDER BY n) FROM undone GROUP BY saga ORDER BY saga}),
	"before the backup|b a\ndeadline|a\nheld|b a\nleft|b a\nonly here|b a\nprepared|b a\nrunning|b a\nundone|b a\nwaits|b a", 'each is undone once');

# It stays at home.
$standby->restart;
my $after = record($standby, 'after');
my ($out, $err);
$standby->psql('postgres', "SELECT saga.fail('$after')", stdout => \$out, stderr => \$err);
is("$out$err", 'compensating', 'restarted: no warning');
wait_state($standby, $after, 'compensated');
guarantees($standby);
$standby->stop;
done_testing();
