# Failovers by a real manager, patroni with etcd, while applications, the server and
# services work: what was acknowledged is there with synchronous replication; without
# it, no more is missing than the tail of the WAL that no standby had; nothing that
# SQL does is done twice, and nothing stands still.
#
# SAGA_FAILOVERS=20 makes so many with synchronous and so many with asynchronous
# replication (2 and 1 otherwise); SAGA_HA_NODES=2 or more (3); SAGA_HA_SEED.  In turn:
#
#   stall       replication stands still (the primary's walsenders are stopped), and
#               work goes on for a while; then the postmaster is killed by SIGKILL: with
#               asynchronous replication that loses something for sure
#   switchover  patroni is asked for one
#   kill        the postmaster is killed

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaPatroni;
use SagaTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $missing = patroni_is_missing();
plan skip_all => $missing if $missing;

my $nodes = $ENV{SAGA_HA_NODES} // 3;
my %failovers = (synchronous => $ENV{SAGA_FAILOVERS} // 2, asynchronous => $ENV{SAGA_FAILOVERS} // 1);
my $seed = $ENV{SAGA_HA_SEED} // int rand 1e6;
my @ways = qw(stall switchover kill);

my @node = patroni_start($nodes, synchronous_mode => JSON::PP::true);
my $leader = patroni_wait_settled(1);
$leader->safe_psql('postgres', 'CREATE EXTENSION saga; CREATE TABLE done (saga uuid, step text)');
witness($leader);

my $dir = PostgreSQL::Test::Utils::tempdir();
my $workload = start_program('workload', patroni_environment(), (interpreter('python'))[0], "$FindBin::RealBin/../../ha/workload.py", $dir, $seed);

sub lines
{
	my ($name) = @_;
	my $n = () = -e "$dir/$name" ? slurp_file("$dir/$name") =~ /\n/g : ();
	return $n;
}

# A primary may be gone at any moment.
sub ask { return try_psql($_[0], $_[1]) // ''; }

# What the standbys have of it does not change any more; what goes on is seen, and ends.
sub stall
{
	my ($primary, $replication) = @_;
	my @pids = split /\n/, $primary->safe_psql('postgres', 'SELECT pid FROM pg_stat_replication');
	my $now = $primary->safe_psql('postgres', 'SELECT clock_timestamp()');
	my $acknowledged = lines('acknowledged');

	kill 'STOP', @pids;
	if ($replication eq 'synchronous')
	{
		until_true('commits that wait', sub {
			ask($primary, q{SELECT count(*) > 2 FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event = 'SyncRep'}) eq 't' });
	}
	else
	{
		until_true('more acknowledged calls', sub { lines('acknowledged') > $acknowledged + 40 });
	}
	# Executors wait for no standby.
	for (1 .. 20)
	{
		last if ask($primary, "SELECT count(*) > 1 FROM saga.sagas WHERE finished_at > '$now'") eq 't';
		usleep(50_000);
	}
	return @pids;
}

my (%seconds, $rewound);

sub fail_over
{
	my ($replication, $way) = @_;
	my $primary = patroni_wait_settled($replication eq 'synchronous');
	my $acknowledged = lines('acknowledged');

	until_true('work', sub {
		lines('acknowledged') > $acknowledged + 100
		  && ask($primary, q{SELECT count(DISTINCT state) = 2 FROM saga.sagas WHERE state IN ('running', 'compensating')}) eq 't' });
	my @stalled = $way eq 'stall' ? stall($primary, $replication) : ();
	my $begin = time;
	if ($way eq 'switchover') { patroni_switchover($primary) }
	else { patroni_kill($primary, @stalled) }
	my $new = patroni_wait_other($primary);
	push @{ $seconds{$way} }, time - $begin;
	note(sprintf '%s, %s: from %s to %s after %.1f s', $replication, $way, $primary->name, $new->name, $seconds{$way}[-1]);
	is($new->safe_psql('postgres', q{SELECT string_agg(code, ' ') FROM saga.health WHERE code IN ('not adopted', 'standby')}), '',
		"$replication, $way: the new primary is at home");

	# The old one comes back as a standby.
	$new = patroni_wait_settled($replication eq 'synchronous');
	like(sql_error($primary, q{SELECT saga.begin('order')}), qr/ERROR:  SG008: .*standby/, 'calls are refused on the old one')
	  if $new->name ne $primary->name && !$rewound++;
	return;
}

sub fail_over_times
{
	my ($replication) = @_;
	fail_over($replication, $ways[ $_ % @ways ]) foreach 0 .. $failovers{$replication} - 1;
	return;
}

fail_over_times('synchronous');
patroni_configure(synchronous_mode => JSON::PP::false);
$leader = patroni_wait_settled(0);
# (A line that is being written now may count as either.)
my $asynchronous = lines('acknowledged') + 1;
fail_over_times('asynchronous');

# --- All comes to its end by itself.

kill 'TERM', $workload->{pid};
until_true('the clients', sub { slurp_file($workload->{log}) =~ /the clients are done/ });
$leader = patroni_wait_settled(0);
# --- What applications and services know, and what the ledger says

my $timeline = $leader->safe_psql('postgres', q{SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)});
my $timelines = join ', ', map { /^(\d+)\t(\S+)/ ? "($1, '$2')" : () } split /\n/, slurp_file($leader->data_dir . "/pg_wal/$timeline.history");
my $verdict = slurp_file("$FindBin::RealBin/../../ha/verdict.sql");
$leader->safe_psql('postgres', qq{
	\\set acknowledged $dir/acknowledged
	\\set timelines `echo "$timelines"`
	\\set asynchronous $asynchronous
	$verdict});

# What saga does by itself comes to its end; an application is missing where it was told
# that all is over.
wait_until($leader, q{SELECT count(*) = 0 FROM ha.open WHERE NOT abandoned});
$leader->safe_psql('postgres', q{
	CREATE TABLE ha.verdict AS SELECT * FROM ha.acknowledged;
	CREATE TABLE ha.abandoned AS SELECT * FROM ha.open;
	SELECT saga.cancel(id) FROM ha.abandoned});
wait_until($leader, q{SELECT count(*) = 0 FROM ha.open});
is(stop_program($workload), 0, 'the workload ends');
$leader->safe_psql('postgres', "COPY ha.outside_line (line) FROM '$dir/outside' (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')");

sub verdict
{
	my ($what, $query) = @_;
	return is($leader->safe_psql('postgres', $query), '', $what);
}

verdict('with synchronous replication, all that was acknowledged is there',
	q{SELECT what, saga, key, value, timeline, lsn FROM ha.verdict WHERE NOT there AND replication = 'synchronous'});
verdict('without it, what is not there is of the tail of the WAL that was lost',
	q{SELECT what, saga, key, value, timeline, lsn FROM ha.verdict WHERE NOT there AND NOT in_lost_tail});
verdict("work of applications is done once: $_", "SELECT * FROM ha.$_") foreach qw(doubled_work work_without_step);
verdict('what SQL does or undoes for a step is done once', 'SELECT * FROM ha.doubled_sql');
verdict('no task is done that no service did', 'SELECT * FROM ha.task_without_effect');
verdict('nor does the server find fault with itself', q{SELECT * FROM saga.health WHERE severity <> 'notice'});
guarantees($leader);
ok(!-s "$dir/trouble" || slurp_file("$dir/trouble") !~ /"stuck"/, 'no client gave up') or diag(slurp_file("$dir/trouble"));
foreach my $standby (grep { $_->name ne $leader->name } @node)
{
	$leader->wait_for_catchup($standby, 'replay', $leader->lsn('write'));
	is($standby->safe_psql('postgres', $_), $leader->safe_psql('postgres', $_), $standby->name . ' has the same: ' . (/(saga\.\w+)/)[0])
	  foreach 'SELECT count(*), md5(string_agg(s::text, $$|$$ ORDER BY saga_id, seq)) FROM saga.steps s',
	  'SELECT count(*), md5(string_agg(a::text, $$|$$ ORDER BY saga_id, seq, phase, attempt)) FROM saga.attempts a';
}
foreach my $node (@node)
{
	unlike(slurp_file($node->logfile), qr/TRAP: |PANIC:  /, $node->name . ': a clean log');
}

report(sprintf '%d failovers (seed %d): %s', $failovers{synchronous} + $failovers{asynchronous}, $seed,
	join ', ', map { my @s = sort { $a <=> $b } @{ $seconds{$_} }; sprintf '%s %d (%.1f to %.1f s)', $_, scalar @s, $s[0], $s[-1] } sort keys %seconds);
report($_) foreach split /\n/, $leader->safe_psql('postgres', q{
	SELECT replication || ': ' || count(*) || ' calls acknowledged, ' || count(*) FILTER (WHERE in_lost_tail) || ' of them in the tail that was lost, '
		|| count(*) FILTER (WHERE NOT there) || ' not there ('
		|| coalesce((SELECT string_agg(n || ' ' || what, ', ') FROM (
			SELECT what, count(*) AS n FROM ha.verdict b WHERE b.replication = a.replication AND NOT there GROUP BY what ORDER BY what) w), '') || ')'
	FROM ha.verdict a GROUP BY replication ORDER BY replication DESC;
	SELECT count(*) || ' sagas: ' || count(*) FILTER (WHERE state = 'completed') || ' completed, ' || count(*) FILTER (WHERE state = 'compensated') || ' compensated; '
		|| (SELECT count(*) FROM ha.abandoned) || ' left open, since a call was lost that had been acknowledged' FROM saga.sagas;
	SELECT (SELECT count(*) FROM witness.effect) || ' effects of SQL, none twice; ' || (SELECT count(*) FROM saga.attempts WHERE outcome = 'interrupted') || ' attempts interrupted';
	SELECT sum(times) || ' effects outside under ' || count(*) || ' keys, ' || count(*) FILTER (WHERE times > 1) || ' keys more than once; '
		|| (SELECT count(*) FROM ha.effect_without_task) || ' of transactions that were lost' FROM ha.outside;});
patroni_stop();
done_testing();
