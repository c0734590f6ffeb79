# A primary that crashes in the middle of an undo: its standby is promoted and
# goes on, whatever happens to it then; the old primary comes back as a standby,
# and may be promoted again.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $one = saga_cluster('one', init => [ allows_streaming => 1 ], conf => q{
wal_log_hints = on
wal_keep_size = '256MB'
saga.max_executors = 4
});
witness($one, sql => '%undo($1)%');
$one->safe_psql('postgres', q{
	CREATE TABLE undone (n serial, saga text, step text);
	CREATE TABLE gate AS SELECT 'closed' AS gate;
	CREATE TABLE busy AS SELECT 'held' AS busy;
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE sql AS $$
		SELECT witness.undo(context);
		INSERT INTO undone (saga, step) VALUES (context->'saga'->>'idempotency_key', context->'step'->>'name') $$;});

$one->backup('b');
my $two = PostgreSQL::Test::Cluster->new('two');
$two->init_from_backup($one, 'b', has_streaming => 1);
$two->start;
$two->backup('b');
my $three = PostgreSQL::Test::Cluster->new('three');
$three->init_from_backup($two, 'b', has_streaming => 1);
$three->start;

sub history
{
	my ($node, $key) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT string_agg(key || ' ' || attempt || ' ' || outcome, ', ' ORDER BY s.seq, attempt)
		FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq) JOIN saga.sagas g ON g.id = a.saga_id
		WHERE idempotency_key = '$key' AND phase = 'compensation'});
}

sub place
{
	my ($node, $key, @steps) = @_;
	my $sql = "SELECT saga.begin('order', '$key') AS id \\gset\n";
	$sql .= "SELECT status AS s FROM saga.step(:'id', '$_->[0]', $_->[1]) \\gset\n" foreach @steps;
	$node->safe_psql('postgres', $sql);
	return saga_id($node, $key);
}

sub fail_it
{
	my ($node, $id) = @_;
	return $node->safe_psql('postgres', "SELECT saga.fail('$id')");
}
my $undo = 'compensation => $c$SELECT undo($1)$c$';

# In the middle: c is undone, b has written what it writes and not committed, a waits.
my $middle = place($one, 'middle', [ 'a', $undo ],
	[ 'b', 'compensation => $c$SELECT undo($1); SELECT pg_sleep(3600) FROM gate$c$' ], [ 'c', $undo ]);
fail_it($one, $middle);
wait_until($one, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$middle' AND key = 'b'");
wait_until($one, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
is(undone_steps($one, 'middle'), 'c', 'in the middle of an undo');

# The next attempt is not held up.
$one->safe_psql('postgres', 'DELETE FROM gate');

# A listener holds one, and one waits
my @task = map { place($one, "task $_", [ 'a', "notify => 'tasks'" ]) } 1, 2;
fail_it($one, $task[0]);
wait_until($one, q{SELECT count(*) = 1 FROM saga.ledger_queue});
my $key = $one->safe_psql('postgres', q{SELECT compensation_key FROM saga.claim_compensations('tasks', lease => '1 day', consumer => 'one')});
fail_it($one, $task[1]);
wait_until($one, q{SELECT count(*) = 1 FROM saga.ledger_queue});

# What the standby does not get to know: this one is undone before the crash.
my $lost = place($one, 'lost', [ 'a', 'compensation => $c$SELECT FROM busy FOR UPDATE; SELECT undo($1)$c$' ]);
my $holder = session($one);
$holder->query_safe('BEGIN; SELECT FROM busy FOR UPDATE');
fail_it($one, $lost);
wait_until($one, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'});
my $forward = place($one, 'forward', [ 'a', $undo ], [ 'b', $undo ]);

# An action that runs as its saga fails, and that nobody can end: what it does elsewhere
# is to be undone, and the standby never gets to know how it ended.
create_trap($one);
my $elsewhere = place($one, 'elsewhere', [ 'a', "$undo, action => 'SELECT trap()', compensate_on => 'started'" ]);
wait_until($one, "SELECT wait_event = 'PgSleep' FROM saga.running WHERE saga_id = '$elsewhere'");
fail_it($one, $elsewhere);
$one->wait_for_catchup($two);
$two->wait_for_catchup($three, 'replay', $one->lsn('write'));

# Reading what goes on, on a standby of a standby
is($three->safe_psql('postgres', "SELECT string_agg(key || ' ' || compensation_status, ', ' ORDER BY position) FROM saga.steps WHERE saga_id = '$middle'"),
	'a pending, b pending, c compensated', 'a cascading standby sees how far it is');
like($three->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$middle'"), qr/step "b".*this server is a standby/,
	'and says why it does nothing');
like(sql_error($_, "SELECT saga.fail('$forward')"), qr/ERROR:  SG008: .*standby\n(.*\n)*HINT:  .*primary/, 'calls are refused: ' . $_->name)
  foreach $two, $three;

$two->safe_psql('postgres', q{ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()});
wait_until($two, q{SELECT count(*) = 0 FROM pg_stat_wal_receiver});
$holder->query_safe('ROLLBACK');
$holder->quit;
wait_state($one, $lost, 'compensated');
# More numbers of the start order than the standby has in reserve
place($one, 'unknown', map { [ "s$_", $undo ] } 1 .. 40);
my $drawn = $one->safe_psql('postgres', 'SELECT max(seq) FROM saga.steps');

# --- The primary crashes; the promoted one does, too, twice

$one->stop('immediate');
# (Else it may undo everything before it is stopped.)
set_faults($two, 'worker.before_turn=wait') if is_test_build();
$two->promote;
$two->stop('immediate');
my $attempts = 1;
if (is_test_build())
{
	$two->append_conf('postgresql.conf', "restart_after_crash = on\n");
	# One of its first compensations, alone or beside the other
	set_faults($two, 'executor.before_commit=kill once');
	$two->start;
	wait_struck($two);
	set_faults($two, '');
	wait_server($two);
}
else { $two->start; }

wait_state($two, $middle, 'compensated');
wait_state($two, $lost, 'compensated');
is(undone_steps($two, 'middle'), 'c b a', 'promoted, and crashed: it goes on from what was replicated, each once, in order');
is(undone_steps($two, 'lost'), 'a', 'what the standby did not get to know is done again, once on this line of history');
like(history($two, 'middle'), qr/^a( \d interrupted, a)* \d succeeded, b( \d interrupted, b)* \d succeeded, c 1 succeeded$/,
	'the history tells of every attempt');
wait_state($two, $elsewhere, 'compensated');
is(undone_steps($two, 'elsewhere'), 'a', 'what an action did elsewhere is undone, whose end nobody knows here');
# Which of the sagas it was that the server died of is chance.
like(join(', ', map { history($two, $_) } qw(middle lost elsewhere)), qr/interrupted/, 'the crash here is in it') if is_test_build();
is($two->safe_psql('postgres', q{SELECT coalesce(max(comp_charged), 0) FROM saga.ledger_step WHERE saga IN (SELECT id FROM saga.sagas WHERE name = 'order')}), 0,
	'and charged to nobody');
is($two->safe_psql('postgres', q{SELECT string_agg(idempotency_key || ' ' || coalesce(consumer, '-'), ', ' ORDER BY idempotency_key)
	FROM saga.pending_compensations JOIN saga.sagas ON id = saga_id}), 'task 1 one, task 2 -', 'what a listener held, it holds');
is($two->safe_psql('postgres', "SELECT saga.complete_compensation('$key')"), 'compensated', 'and reports with the key that it had');
is($two->safe_psql('postgres', q{SELECT step FROM saga.claim_compensations('tasks', consumer => 'two')}), 'a', 'what waited is claimed');
is($two->safe_psql('postgres', q{SELECT saga.complete_compensation(compensation_key) FROM saga.pending_compensations}), 'compensated', 'and done');
is($two->safe_psql('postgres', qq{
	SELECT status FROM saga.step('$forward', 'c', $undo);
	SELECT string_agg(key, ' ' ORDER BY position) FROM saga.steps WHERE saga_id = '$forward'}), "started\na b c", 'the start order goes on');
is($two->safe_psql('postgres', "SELECT seq > $drawn FROM saga.steps WHERE saga_id = '$forward' AND key = 'c'"), 't',
	'after all numbers that were drawn, and so no key of an effect outside is that of another step');
fail_it($two, $forward);
wait_state($two, $forward, 'compensated');
is(undone_steps($two, 'forward'), 'c b a', 'and is undone in its reverse');
guarantees($two);

# --- The standby of the standby, and the old primary, follow it

my @views = map { "SELECT * FROM saga.$_ ORDER BY 1, 2, 3, 4" } qw(steps attempts events);
$two->wait_for_catchup($three);
is($three->safe_psql('postgres', $_), $two->safe_psql('postgres', $_), 'the cascading one: ' . (/(saga\.\w+)/)[0]) foreach @views;

# Its data has gone another way, so that it is rewound; what was running when it
# crashed was written in a file of its own.
command_ok([ 'pg_rewind', '--no-sync', '--source-server', $two->connstr('postgres'), '-D', $one->data_dir ], 'pg_rewind');
$one->append_conf('postgresql.conf', "port = @{[$one->port]}\nunix_socket_directories = '@{[$one->host]}'\nprimary_conninfo = '@{[$two->connstr]} application_name=one'\n");
$one->set_standby_mode;
unlink $one->data_dir . '/postgresql.auto.conf';
$one->start;
$two->wait_for_catchup($one);
is($one->safe_psql('postgres', $_), $two->safe_psql('postgres', $_), 'the old primary: ' . (/(saga\.\w+)/)[0]) foreach @views;
like(sql_error($one, q{SELECT saga.begin('order')}), qr/ERROR:  SG008: .*standby/, 'the old primary is a standby');

# Back again, in an orderly way, in the middle of another undo
$two->safe_psql('postgres', q{INSERT INTO gate VALUES ('closed')});
my $back = place($two, 'back', [ 'a', $undo ], [ 'b', 'compensation => $c$SELECT undo($1); SELECT pg_sleep(3600) FROM gate$c$' ]);
fail_it($two, $back);
wait_until($two, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
$two->safe_psql('postgres', 'DELETE FROM gate');
$two->stop('fast');
# Whether the stop left time to write down what it cut short is chance.
wait_until($one, 'SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()');
my $cut = history($one, 'back');
like($cut, qr/^(b 1 interrupted)?$/, 'of what ran elsewhere there is what was written down there');
my $whole = 'a 1 succeeded, ' . ($cut ? 'b 1 interrupted, b 2 succeeded' : 'b 1 succeeded');
my $before = history($one, 'middle');
$one->promote;
wait_state($one, $back, 'compensated');
is(undone_steps($one, 'back'), 'b a', 'promoted again, the old primary goes on');
is(history($one, 'back'), $whole, 'what ran elsewhere is no attempt of this history');
is(history($one, 'middle'), $before, 'nor is what ran here, on a line of history that was left');
is(undone_steps($one, 'middle'), 'c b a', 'nothing is undone again');
my ($out, $err);
$one->psql('postgres', q{SELECT saga.begin('order', 'after') IS NOT NULL}, stdout => \$out, stderr => \$err);
is("$out$err", 't', 'it is at home: no warning');
guarantees($one);

# The other one follows without more ado: it was shut down in an orderly way.
$two->append_conf('postgresql.conf', "primary_conninfo = '@{[$one->connstr]} application_name=two'\n");
unlink $two->data_dir . '/postgresql.auto.conf';
$two->set_standby_mode;
$two->start;
$one->wait_for_catchup($two);
$one->stop;
$two->promote;
$two->psql('postgres', q{SELECT saga.begin('order', 'after') IS NOT NULL}, stdout => \$out, stderr => \$err);
is("$out$err", 't', 'and is at home, when it is promoted again');
is(history($two, 'back'), $whole, 'with the history that it got');
my $last = place($two, 'last', [ 'a', $undo ]);
fail_it($two, $last);
wait_state($two, $last, 'compensated');
guarantees($two);

$three->stop;
$two->stop;
done_testing();
