# A soak: clients begin, step, complete, fail, cancel, pause and roll back sagas;
# listeners compensate them, forget to, or are too late; people decide, two at a
# time; while processes of theirs, ours and the server's are killed at random.
# In the end the witnesses, tables that anybody may write to twice, must tell the
# same story as the ledger.
#
#   SAGA_SOAK_SECONDS   how long the chaos lasts (120)
#   SAGA_SOAK_SEED      the seed of a former run; what the machine adds to the
#                       chance cannot be repeated
#
# SagaSoak.pm has those who work, test/soak/ what they work with and the verdict.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaSoak;
use SagaTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{SAGA_SOAK_SECONDS} || 120;
my $seed = $ENV{SAGA_SOAK_SEED} || int(time * 1000) % 1_000_000_007;
report("soak: SECONDS=$seconds SEED=$seed");
srand $seed;

my $node = saga_cluster('main', conf => join "\n",
	'restart_after_crash = on', 'log_statement = none', 'deadlock_timeout = 20ms', 'saga.max_executors = 3',
	"saga.operator_role = 'operators'",
	# more than will ever be left prepared
	'max_prepared_transactions = 10000', '');
my $soak = "$FindBin::RealBin/../../soak";
$node->safe_psql('postgres', slurp_file("$soak/tables.sql"));

my $dir = PostgreSQL::Test::Utils::tempdir();
my $begin_of_time = time;
my $until = time + $seconds;
start_soakers($node, $dir, 5);

# -------------------------------------------------------------------- chaos

sub try_sql
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	# A psql that waits for ever is an exception.
	my $code = eval {
		$node->psql('postgres', $sql, stdout => \$out, stderr => \$err,
			timeout => $PostgreSQL::Test::Utils::timeout_default);
	};
	return defined $code && $code == 0 ? $out : undef;
}

# What does not come true in time is the end of the test.
sub wait_true
{
	my ($query) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $end)
	{
		return 1 if (try_sql($query) // '') eq 't';
		usleep(20_000);
	}
	die "timed out waiting for: $query";
}

sub wait_up { return wait_true('SELECT true'); }

sub some_pid
{
	my ($type) = @_;
	# An executor at work rather than an idle one
	my $pids = try_sql(qq{
		SELECT pid FROM pg_stat_activity
		WHERE backend_type = '$type' AND pid <> pg_backend_pid()
		ORDER BY state IS DISTINCT FROM 'active', pid});
	my @pids = split /\n/, $pids // '';
	return @pids ? ($type eq 'saga executor' && chance(0.7) ? $pids[0] : one_of(@pids)) : undef;
}

my @processes = ('client backend', 'saga executor', 'saga worker', 'saga launcher');
my %events = (
	'kill a server process' => sub { return signal_some('KILL', one_of('checkpointer', 'walwriter', 'background writer')); },
	'immediate restart' => sub { $node->stop('immediate', fail_ok => 1); start_again($node); return 1; },
	# (A fast shutdown that is asked for as crash recovery begins never ends in PostgreSQL 18,
	# with saga or without: its checkpointer and its io workers stay.)
	'fast restart' => sub { wait_server($node) if $node->pg_version >= 18; $node->stop('fast', fail_ok => 1); start_again($node); return 1; },
	'kill the postmaster' => sub { restart_killed($node); return 1; },
	'terminate all' => sub {
		return try_sql(q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE pid <> pg_backend_pid() AND datid IS NOT NULL});
	},
	'switch off and on' => sub {
		try_sql(q{ALTER SYSTEM SET saga.enabled = off}) // return 0;
		try_sql(q{SELECT pg_reload_conf()});
		usleep(int(rand 300_000));
		wait_up();
		try_sql(q{ALTER SYSTEM RESET saga.enabled}) while !defined try_sql(q{
			SELECT 1 / (NOT pg_read_file('postgresql.auto.conf') LIKE '%saga.enabled%')::int});
		return try_sql(q{SELECT pg_reload_conf()});
	});
foreach my $type (@processes)
{
	$events{"kill a $type"} = sub { return signal_some('KILL', $type); };
	$events{"terminate a $type"} = sub { return signal_some('TERM', $type); };
}
foreach my $type ('client backend', 'saga executor', 'saga worker')
{
	$events{"cancel a $type"} = sub { return signal_some('INT', $type); };
}

sub signal_some
{
	my ($signal, $type) = @_;
	my $pid = some_pid($type) // return 0;
	return kill $signal, $pid;
}

my (@history, %times);
my @coming;
while (time < $until || keys %times < keys %events)
{
	usleep(int(rand 700_000));
	@coming = sort { $a->[0] <=> $b->[0] } map { [ rand(), $_ ] } sort keys %events if !@coming;
	my $event = (shift @coming)->[1];
	my $at = time - $begin_of_time;
	if ($events{$event}->())
	{
		push @history, sprintf('%.2f %s', $at, $event);
		$times{$event}++;
	}
	# Now and then a crash upon a crash
	next if chance(0.15);
	wait_up();
	# Being alone at three crashes is what parks, which is none of this test.
	wait_true(q{SELECT NOT EXISTS (
		SELECT FROM saga.ledger_due d
		JOIN saga.ledger_saga s ON s.id = d.saga
		JOIN saga.ledger_step t ON t.saga = d.saga
		WHERE s.state = 'u' AND t.comp_crashes > 0 AND t.comp_status IN ('r', 'p')
			OR s.state = 'r' AND NOT s.paused AND t.crashes > 0 AND t.retry_at IS NOT NULL)});
}
note("event: $_") foreach @history;
is(join(', ', sort keys %times), join(', ', sort keys %events), 'everything befell them that there is');
end_clients();
wait_up();

# ------------------------------------------------------------------ verdict

# A client's last statement may still be under way, or wait for what was left
# prepared; that is ended one way or the other.
for my $try (1 .. 20 * $PostgreSQL::Test::Utils::timeout_default)
{
	my $left = $node->safe_psql('postgres', q{
		SELECT 'client' FROM pg_stat_activity WHERE usename LIKE 'app\__' AND backend_type = 'client backend'
		UNION ALL SELECT gid FROM pg_prepared_xacts ORDER BY 1});
	last if $left eq '';
	# (Its client may be quicker.)
	try_sql(join '', map { one_of('COMMIT', 'ROLLBACK') . " PREPARED '$_';\n" } grep { $_ ne 'client' } split /\n/, $left);
	usleep(50_000);
}
append_to_file("$dir/calm", '');
# What was paused and has no deadline is a person's.
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.ledger_saga WHERE state IN ('r', 'u', 'p') OR to_announce IS NOT NULL)}) or die 'no end';
usleep(300_000);
end_servants();

append_to_file("$dir/acks", clients_were_told());
open my $heard, '<', "$dir/heard" or die "heard: $!";
open my $rows, '>', "$dir/heard.rows" or die "heard.rows: $!";
while (my $line = <$heard>)
{
	print $rows "$1\t$2\n" if $line =~ /"saga_id":"([0-9a-f-]{36})","state":"(\w+)"\}/;
}
close $rows;
my ($preparation, @checks) = split /^-- == (.*)\n/m, slurp_file("$soak/verdict.sql");
$node->safe_psql('postgres', qq{
	CREATE TABLE ack (what text, saga uuid, key text);
	\\copy ack FROM '$dir/acks'
	CREATE TABLE heard (n serial, saga uuid, state text);
	\\copy heard (saga, state) FROM '$dir/heard.rows'
	$preparation});
while (my ($what, $query) = splice @checks, 0, 2)
{
	is($node->safe_psql('postgres', "SELECT * FROM (\n$query) v LIMIT 10"), '', $what);
}
guarantees($node);

# What came of it, so that nobody takes an empty soak for a good one
my $log = slurp_file($node->logfile);
my $recoveries = () = $log =~ /database system was not properly shut down/g;
my %count = map { split /\|/ } split /\n/, $node->safe_psql('postgres', q{
	SELECT 'sagas', count(*) FROM saga_now
	UNION ALL SELECT 'sagas ' || state, count(*) FROM saga_now GROUP BY state
	UNION ALL SELECT 'runs of steps', count(*) FROM step_now
	UNION ALL SELECT 'effects', count(*) FROM effects
	UNION ALL SELECT 'actions completed', count(*) FROM step_now WHERE name = 'act' AND status = 'completed'
	UNION ALL SELECT 'tasks completed', count(*) FROM step_now WHERE name = 'job' AND status = 'completed'
	UNION ALL SELECT 'tasks undone', count(*) FROM step_now JOIN undos ON saga = saga_id AND undos.seq = step_now.seq WHERE name = 'job'
	UNION ALL SELECT 'signals', count(*) FROM saga.signals
	UNION ALL SELECT 'signals used', count(*) FROM saga.signals WHERE used_by_step IS NOT NULL
	UNION ALL SELECT 'rounds', sum(rounds) FROM step_now WHERE args ? 'rounds'
	UNION ALL SELECT 'actions again', count(*) FROM step_now WHERE name = 'act' AND status = 'completed' AND run > 1
	UNION ALL SELECT 'actions undone', count(*) FROM step_now JOIN undos ON saga = saga_id AND undos.seq = step_now.seq WHERE name = 'act'
	UNION ALL SELECT 'branches', count(*) FROM step_now WHERE recorded_by IS NOT NULL AND status = 'completed'
	UNION ALL SELECT 'forward attempts ' || outcome, count(*) FROM act_attempts GROUP BY outcome
	UNION ALL SELECT 'undos', count(*) FROM undos
	UNION ALL SELECT 'calls of listeners', count(*) FROM calls
	UNION ALL SELECT 'partial undos', count(*) FROM event_now WHERE event = 'rolled back'
	UNION ALL SELECT 'decisions: ' || what, count(*) FROM decisions GROUP BY what
	UNION ALL SELECT 'late results', count(*) FROM late
	UNION ALL SELECT 'sagas behind their pivot', count(DISTINCT saga_id) FROM event_now WHERE event = 'parked' AND detail->>'why' LIKE '%after its pivot%'
	UNION ALL SELECT 'attempts ' || outcome, count(*) FROM undo_attempts GROUP BY outcome
	UNION ALL SELECT 'states heard', count(*) FROM heard
	UNION ALL SELECT 'clients were told', count(*) FROM ack});
report(sprintf 'soak: %d events, %d recoveries from a crash: %s', scalar @history, $recoveries,
	join ', ', map { "$times{$_} x $_" } sort keys %times);
report('soak: ' . join ', ', map { "$count{$_} $_" } sort keys %count);
cmp_ok($count{$_} // 0, '>', $seconds < 30 ? 0 : 20, "$_: enough of them")
  foreach 'effects', 'actions completed', 'tasks completed', 'signals used', 'rounds', 'actions undone', 'branches', 'decisions: approve', 'undos', 'calls of listeners', 'partial undos', 'states heard', 'clients were told', 'decisions: retry';

# The log: no crash that is not ours, and no error of our processes but those
# that user SQL raised.
unlike($log, qr/TRAP: |PANIC:  |terminated by signal (?!9\b)/, 'no crash but those that were made');
my @errors = grep { /saga (launcher|worker|executor) .*(ERROR|WARNING):  /
	  && !/ERROR:  a compensation failed/
	  # cancelled, and not in user SQL: one of the events, wherever it strikes
	  && !/saga (worker|executor) .*(ERROR:  |WARNING:  could not [^:]*: )(canceling statement due to user request|SQLSTATE 57014)/
	  && !/WARNING:  terminating connection because of crash/ } split /\n/, $log;
is(join("\n", @errors[ 0 .. ($#errors < 9 ? $#errors : 9) ]), '', 'no error in our processes');
note("clients met: $_") foreach soak_errors('client');
my @wrong = grep { !/SG002|the claim of step .* is over|due to user request|deadlock detected|SG008|is not available|was not dispatched/ } soak_errors('consumer');
is(join("\n", @wrong), '', 'listeners meet with no error but what is to be expected');
@wrong = grep { !/due to (user request|lock timeout)|deadlock detected/ } soak_errors('person');
is(join("\n", @wrong), '', 'nor do people');

# What chance brings about now and then: a wait that ends when the server's log
# ends with a page.
$node->safe_psql('postgres', q{
	DO $$
	DECLARE
		s uuid := (SELECT id FROM saga.sagas WHERE state = 'completed' LIMIT 1);
		room int;
	BEGIN
		PERFORM saga.wait(s);
		FOR i IN 1 .. 1000 LOOP
			room := 8192 - (pg_current_wal_insert_lsn() - '0/0') % 8192;
			-- a new page that holds nothing but its header
			EXIT WHEN room = 8192 - 24;
			-- a message takes 52 bytes more than its text
			PERFORM pg_logical_emit_message(false, 'x', repeat('x',
				CASE WHEN room < 56 THEN 200 WHEN room <= 280 THEN room - 52 WHEN room < 340 THEN 100 ELSE 200 END));
		END LOOP;
		PERFORM saga.wait(s);
		IF room <> 8192 - 24 THEN
			RAISE 'the log never ended with a page';
		END IF;
	END $$});
pass('a wait where the log ends with a page');

$node->stop;
done_testing();
