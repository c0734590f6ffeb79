# Sagas stand still and the monitoring says nothing: the files of monitoring/ work
# with the real exporters and a real Prometheus.  A role with pg_monitor and
# nothing else reads every metric; each alert fires in the situation that it is
# for, and says what to do in a document that there is; every panel of the
# dashboard shows what it asks for; the README's blocks are what is run here.
#
# Ages are made by a clock that is set back before the sagas are recorded.

use strict;
use warnings;
use CPAN::Meta::YAML;
use FindBin;
use HTTP::Tiny;
use JSON::PP;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'needs the test build' if !is_test_build();
foreach my $program (qw(prometheus promtool prometheus-postgres-exporter prometheus-sql-exporter))
{
	plan skip_all => "there is no $program" if !grep { -x "$_/$program" } split /:/, $ENV{PATH};
}

my $root = "$FindBin::RealBin/../../..";
my $dir = PostgreSQL::Test::Utils::tempdir();

sub command
{
	my ($what, @command) = @_;
	my $ok = IPC::Run::run(\@command, '<', \'', '>', \my $out, '2>&1');

	ok($ok, $what) or diag($out);
	return;
}

# --------------------------------------------------------- the files as such

command('promtool checks the rules', 'promtool', 'check', 'rules', "$root/monitoring/rules.yaml");
command('promtool tests the rules', 'promtool', 'test', 'rules', "$root/monitoring/rules_test.yaml");

# What a YAML file holds; it must be of the simple kind that this module reads.
sub yaml
{
	my ($file) = @_;
	my $text = slurp_file("$root/monitoring/$file");

	# It takes a flow sequence for a string.
	return CPAN::Meta::YAML->read_string($text)->[0];
}

my $queries = yaml('postgres_exporter.yaml');
my @metrics;
foreach my $entry (sort keys %$queries)
{
	foreach my $column (@{ $queries->{$entry}{metrics} })
	{
		my ($name) = keys %$column;
		my $usage = $column->{$name}{usage};

		like($column->{$name}{description}, qr/^.{5,}[.]$/, "$entry.$name: its meaning is a sentence");
		push @metrics, "${entry}_$name" if $usage ne 'LABEL';
	}
}

# The other exporter's file says the same.
sub columns
{
	my ($text) = @_;
	return join ' ', $text =~ /"(\w+)"/g;
}
my %other = map { $_->{name} => $_ } @{ yaml('sql_exporter.yaml')->{jobs}[0]{queries} };
is(join(' ', sort keys %other), join(' ', sort keys %$queries), 'sql_exporter.yaml: the same queries');
foreach my $entry (sort keys %$queries)
{
	my @columns = map { my ($name) = keys %$_; [ $name, $_->{$name}{usage} ] } @{ $queries->{$entry}{metrics} };
	my $o = $other{$entry} or next;

	is($o->{query}, $queries->{$entry}{query}, "sql_exporter.yaml: $entry");
	is(columns($o->{labels}), join(' ', map { $_->[0] } grep { $_->[1] eq 'LABEL' } @columns), "$entry: the same labels");
	is(columns($o->{values}), join(' ', map { $_->[0] } grep { $_->[1] ne 'LABEL' } @columns), "$entry: the same values");
}

# Every finding that there is has a series when there is none of it.
my ($table) = slurp_file("$root/doc/reference.md") =~ /^\| code \| severity \| found when \|\n(.*?)\n\n/ms;
my %documented = map { my ($codes, $severity) = /^\| (.*?) \| (\w+) \|/; map { ("$severity $_" => 1) } split /, /, $codes }
  grep { !/^\|---/ } split /\n/, $table;
my %listed = map { (s/', '/ /r => 1) } $queries->{saga_health}{query} =~ /\('(\w+', '[\w ]+)'\)/g;
$listed{"notice $_"} = 1 foreach $queries->{saga_notice}{query} =~ /\('([\w ]+)'\)/g;
is(join(', ', sort keys %listed), join(', ', sort keys %documented), 'the queries list the findings of the reference');

# ------------------------------------------------------- the README's blocks

my %blocks;
my $readme = slurp_file("$root/monitoring/README.md");
push @{ $blocks{$1} }, $2 while $readme =~ /^```(\w+)\n(.*?)^```$/msg;
is(join(', ', map { "$_ " . @{ $blocks{$_} } } sort keys %blocks), 'sh 3, sql 1, yaml 2',
	'README: each block is run below');

my $node = saga_cluster('main', databases => [ 'postgres', 'shop' ], conf => <<'END');
saga.max_executors = 1
saga.lock_timeout = '10min'
# so that the finished lines of the log can be told from those of the statements
log_statement = none
END
virtual_clock($node);
$node->safe_psql('postgres', $blocks{sql}[0]);
$node->safe_psql('shop', $1) if $blocks{sql}[0] =~ /^(GRANT USAGE.*)$/m;

my %port = map { $_ => PostgreSQL::Test::Cluster::get_free_port() } qw(9187 9237 9090);

# A block with the addresses of this run; a file of ours in place of one.
sub here
{
	my ($text, %file) = @_;

	$text =~ s/localhost:(9187|9237)/localhost:$port{$1}/g;
	$text =~ s{host=/run/postgresql dbname=postgres}{"host=" . $node->host . " port=" . $node->port . " dbname=postgres"}e;
	foreach my $name (keys %file)
	{
		$text =~ s{monitoring/\Q$name\E}{$file{$name}}g or die "the block does not name $name";
	}
	$text =~ s{\bmonitoring/}{$root/monitoring/}g;
	return $text;
}

sub write_file
{
	my ($name, $text) = @_;

	open my $file, '>', "$dir/$name" or die "$dir/$name: $!";
	print $file $text;
	close $file;
	return "$dir/$name";
}

# So that the signal reaches the exporter
sub exporter
{
	my ($name, $block) = @_;
	return start_program($name, { LOGLEVEL => 'warn' }, 'sh', '-ec', $block =~ s/^(?=prometheus-)/exec /mr);
}

# Nothing is remembered from one scrape to the next.
my $fresh = write_file('postgres_exporter.yaml', slurp_file("$root/monitoring/postgres_exporter.yaml") =~ s/cache_seconds: \d+/cache_seconds: 0/gr);
my ($several) = $readme =~ /`(--auto-discover-databases [^`]*)`/;
$several =~ s/\bapp,shop\b/postgres,shop/ or die 'README: which databases?';
my $exporter = exporter('exporter',
	here($blocks{sh}[0], 'postgres_exporter.yaml' => $fresh) =~ s/^(prometheus-.*)$/$1 $several/mr);
command('README: the rules with an address of their own', 'sh', '-ec', "cd '$dir'\n" . here($blocks{sh}[1]));
my @links = slurp_file("$dir/saga_rules.yaml") =~ /runbook_url: "(.*)"/g;
is(scalar(grep { m{^https://docs\.example\.com/saga/doc/} } @links), scalar(@links), 'README: all of them have it');

my $sql = write_file('sql_exporter.yaml', slurp_file("$root/monitoring/sql_exporter.yaml")
	  =~ s/interval: "15s"/interval: "1s"/r
	  =~ s{postgres://saga_monitor\@localhost:5432/postgres\?}{"postgres://saga_monitor@/postgres?host=" . $node->host . "&port=" . $node->port . "&"}re);
my $sql_exporter = exporter('sql_exporter', here($blocks{sh}[2], 'sql_exporter.yaml' => $sql));

# As the rules are, but that an alert fires at once, and that a queue of a few
# pages of the server's gigabytes is full.
my $rules = write_file('rules.yaml', slurp_file("$root/monitoring/rules.yaml")
	  =~ s/^(\s+for:) \w+$/$1 0s/mgr =~ s/(notification_queue_ratio) > 0\.5$/$1 > 0/mr);
my ($first, $second) = map { here($_, 'rules.yaml' => $rules) } @{ $blocks{yaml} };
$second =~ s/^.*^scrape_configs:\n//ms or die 'the second block has no scrape_configs';
my $config = write_file('prometheus.yml', "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n$first$second");
my $prometheus = start_program('prometheus', {}, 'prometheus', "--config.file=$config",
	"--storage.tsdb.path=$dir/tsdb", "--web.listen-address=localhost:$port{9090}", '--log.level=warn');

# ---------------------------------------------------------------- Prometheus

my $http = HTTP::Tiny->new(timeout => 10);

# What its API returns, or undef; dies if it calls that a mistake.
sub api
{
	my ($path, %form) = @_;
	my $answer = $http->get("http://localhost:$port{9090}/api/v1/$path?" . $http->www_form_urlencode(\%form));

	return undef if $answer->{status} == 599 || $answer->{status} == 503;
	my $result = decode_json($answer->{content});
	die "$form{query}: $result->{error}" if $result->{status} ne 'success';
	return $result->{data};
}

# The series that an expression returns now.
sub evaluate
{
	my ($expr) = @_;
	my $data = api('query', query => $expr);
	return $data ? @{ $data->{result} } : ();
}

sub wait_for
{
	my ($what, $condition) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $found = $condition->();
		return pass($what) if $found;
		usleep(100_000);
	}
	fail($what);
	diag(map { "$_->{labels}{alertname} $_->{state}: $_->{annotations}{summary}\n" } @{ api('alerts')->{alerts} });
	diag("$_->{log}:\n" . slurp_file($_->{log})) foreach $exporter, $sql_exporter, $prometheus;
	return;
}

# The alerts that fire for the first exporter, by name.
sub firing
{
	my $data = api('alerts');
	return undef if !$data;
	return { map { $_->{labels}{alertname} => $_ }
		  grep { $_->{state} eq 'firing' && ($_->{labels}{job} // 'saga') eq 'saga' } @{ $data->{alerts} } };
}

my %seen;
sub wait_firing
{
	my ($what, @names) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for("$what: " . join(', ', @names), sub {
		my $firing = firing() or return 0;
		%seen = (%seen, %$firing);
		return !grep { !$firing->{$_} } @names;
	});
	return;
}

sub wait_mended
{
	my ($what, @names) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for("$what: mended", sub { my $firing = firing(); return $firing && !grep { $firing->{$_} } @names; });
	return;
}

# ----------------------------------------------------------- all is well

wait_for('both exporters are scraped', sub {
	return join(' ', sort map { "$_->{metric}{job} $_->{metric}{datname} $_->{value}[1]" } evaluate('saga:running:sum')) eq
	  'saga postgres 0 saga shop 0 saga_sql postgres 0';
});
# Before the first scrape there is one.
wait_for('no alert where all is well', sub { my $data = api('alerts'); return $data && !@{ $data->{alerts} }; });

# ------------------------------------------------ a scrape reads no history

# Pages that each query reads, planning apart; that of saga_notice is bounded by its view.
sub pages
{
	my %pages;
	foreach my $entry (grep { $_ ne 'saga_notice' } sort keys %$queries)
	{
		my $plan = sql_as($node, 'saga_monitor', "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) $queries->{$entry}{query}");
		my $top = decode_json($plan)->[0]{Plan};
		$pages{$entry} = $top->{'Shared Hit Blocks'} + $top->{'Shared Read Blocks'};
	}
	return \%pages;
}
my $history = 3000;
my $before = pages();
$node->safe_psql('postgres', qq{
	SELECT count(saga.complete(s)) FROM (
		SELECT s, saga.step(s, 'a', completed => true, compensation => 'SELECT 1')
		FROM (SELECT saga.begin('finished') AS s FROM generate_series(1, $history) OFFSET 0) b OFFSET 0) c;
	VACUUM ANALYZE;});
my $after = pages();
foreach my $entry (sort keys %$after)
{
	# A table of one row more costs a page; the history would cost hundreds.
	cmp_ok($after->{$entry}, '<', $before->{$entry} + 50, "$entry: as many pages beside $history finished sagas");
}

# -------------------------------------------- each situation, all at a time

# As it was four days ago
$node->safe_psql('postgres', q{
	SELECT test_set_back_clock('4 days');
	CREATE ROLE teller LOGIN;
	CREATE ROLE clerk LOGIN;
	GRANT USAGE ON SCHEMA saga TO teller, clerk;
	CREATE TABLE charges (id integer);
	GRANT ALL ON charges TO teller, clerk;
	INSERT INTO charges VALUES (1);});

# A person must decide; nobody listens; a service holds a task, and another waits;
# nobody ends it.
sql_as($node, 'teller', q{
	SELECT saga.begin('order', 'parked') AS s \gset
	SELECT saga.step(:'s', 'a', compensation => 'SELECT 1 / 0', compensation_retry => saga.retry_policy(max_attempts => 1));
	SELECT saga.fail(:'s', 'on purpose');
	SELECT saga.begin('order', 'unheard') AS s \gset
	SELECT saga.step(:'s', 'a', notify => 'refunds');
	SELECT saga.fail(:'s', 'on purpose');
	SELECT saga.begin('job', 'claimed') AS s \gset
	SELECT saga.step(:'s', 'a', task => 'jobs', retry => saga.retry_policy(timeout => '20 days'));
	SELECT saga.begin('order', 'forgotten');
	SELECT saga.begin('job', 'leaky') AS s \gset
	SELECT saga.step(:'s', n::text, task => 'leaky', after => '{}') FROM generate_series(1, 4) n;
	SELECT saga.begin('loan', 'to approve') AS s \gset
	SELECT saga.step(:'s', 'pay', action => 'SELECT 1', approval => 'may it be paid?', timeout => '4 days 30 minutes');});
wait_until($node, q{SELECT count(*) = 2 FROM saga.review_queue});
wait_until($node, q{SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = 'refunds'});
wait_until($node, q{SELECT count(*) = 1 FROM saga.pending_tasks WHERE channel = 'jobs'});
is(sql_as($node, 'teller', q{SELECT count(*) FROM saga.claim_tasks('jobs', lease => '20 days', consumer => 'worker 1')}), 1, 'a task is claimed');
wait_until($node, q{SELECT count(*) = 4 FROM saga.pending_tasks WHERE channel = 'leaky'});
is(sql_as($node, 'teller', q{SELECT count(*) FROM saga.claim_tasks('leaky', 4)}), 4, 'others are, for a minute');

# Sagas and attempts fail, and are seen to have become more.
wait_for('the counters are scraped', sub {
	return evaluate('saga_stat_begun_total{name="order", job="saga"} == 3')
	  && evaluate('saga_attempts_total{phase="compensation", outcome="failed", job="saga"} == 1')
	  && evaluate('saga_channels_claimed_total{channel="leaky", job="saga"} == 4');
});
sql_as($node, 'teller', q{
	SELECT saga.fail(saga.begin('order', 'bad ' || n), 'on purpose') FROM generate_series(1, 6) n;
	SELECT saga.begin('order', 'in vain') AS s \gset
	SELECT saga.step(:'s', 'a', compensation => 'SELECT 1 / 0',
		compensation_retry => saga.retry_policy(max_attempts => 12, delay => '10 ms', backoff => 'constant'));
	SELECT saga.fail(:'s', 'on purpose');});
wait_until($node, q{SELECT count(*) = 3 FROM saga.review_queue});

# The only executor waits for a lock; another role waits for the executor.
my $blocker = session($node);
$blocker->query_safe('BEGIN; DELETE FROM charges');
sql_as($node, 'teller', q{
	SELECT saga.begin('order', 'blocked') AS s \gset
	SELECT saga.step(:'s', 'a', compensation => 'DELETE FROM charges');
	SELECT saga.fail(:'s', 'on purpose');});
wait_until($node, q{SELECT count(*) = 1 FROM saga.running WHERE blocked_by <> '{}'});
sql_as($node, 'clerk', q{
	SELECT saga.begin('trip', 'exhausted') AS s \gset
	SELECT saga.step(:'s', 'a', compensation => 'SELECT 1');
	SELECT saga.fail(:'s', 'on purpose');});

# A transaction that is forgotten; a session that listens, and does not read.
$node->safe_psql('postgres', q{BEGIN; SELECT saga.begin('order', 'prepared'); PREPARE TRANSACTION 'forgotten'});
my $deaf = session($node);
$deaf->query_safe('LISTEN news; BEGIN');
$node->safe_psql('postgres', q{SELECT count(pg_notify('news', n || repeat('x', 4000))) FROM generate_series(1, 10) n});

# Half an hour is left to approve the loan; not once the clock has gone on.
wait_firing('a decision that is due', 'SagaDecisionExpires');

# Today, and four days more for what goes by the server's own clock: when a transaction
# was prepared, and ids
advance_clock($node, '8 days');

wait_firing('sagas that stand still, and people who are needed',
	qw(SagaNeedsPerson SagaDecisionForgotten SagaNobodyClaims SagaAttemptBlocked SagaUndoTakesLong
	  SagaExecutorsExhausted SagaStandsStill SagaPreparedTransactionOld SagaToBeLookedAt SagaNotificationQueueFills
	  SagaFailuresRise SagaAttemptsFail SagaLeasesEnd));
is($seen{SagaLeasesEnd}{labels}{channel}, 'leaky', 'the alert names the channel');
is("$seen{SagaFailuresRise}{labels}{name} $seen{SagaAttemptsFail}{labels}{phase}", 'order compensation', 'the kind, and the phase');
wait_for('the kind, and whose it is', sub {
	return evaluate('ALERTS{alertname="SagaNeedsPerson", alertstate="firing", name="order", owner="teller", job="saga"}');
});
my $findings = '';
wait_for('all findings', sub {
	$findings = join ' ', sort map { $_->{metric}{code} } evaluate('{__name__=~"saga_(health|notice)_findings", job="saga"} > 0');
	return $findings eq 'executors exhausted no deadline overdue parked prepared unclaimed';
}) or diag($findings);

# ------------------------------------------------------------ every metric

my $exported = $http->get("http://localhost:$port{9187}/metrics")->{content};
foreach my $metric (@metrics)
{
	like($exported, qr/^# HELP \Q$metric\E .{5,}\n# TYPE \Q$metric\E (?:gauge|counter)\n\Q$metric\E\{/m, "$metric: there, with HELP");
}
is(join(' ', grep { my $m = $_; !grep { $m eq $_ } @metrics } $exported =~ /^# TYPE (saga_\w+)/mg), '', 'and no other of ours');
my ($other) = $http->get("http://localhost:$port{9237}/metrics")->{content};
like($other, qr/^# HELP sql_\Q$_\E .{5,}$/m, "sql_exporter: $_ has HELP") foreach sort keys %$queries;

# The same names, labels and values by the other one
sub names
{
	my ($job) = @_;
	return join ' ', sort map { $_->{metric}{__name__} } evaluate(qq{count by (__name__) ({__name__=~"saga_.*", job="$job"})});
}
# (A scrape that takes too long leaves Prometheus without any of them for a moment.)
my $all = join ' ', sort @metrics;
my %names;
wait_for('sql_exporter: the same metrics', sub {
	%names = map { $_ => names($_) } 'saga', 'saga_sql';
	return !grep { $_ ne $all } values %names;
}) or diag(map { "$_: $names{$_}\n" } sort keys %names);
# Neither asks at the moment of the other.
my $some = '__name__=~"saga_.*_(claimed|decisions|findings|blocked|launchers)"';
wait_for('sql_exporter: the same values', sub {
	my %found = map { $_ => [ evaluate(qq{{$some, job="saga"} $_ ignoring(job, instance, server) {$some, job="saga_sql"}}) ] } '==', '!=';
	return @{ $found{'=='} } && !@{ $found{'!='} };
});
wait_for('what both show of a claimed task', sub {
	my @both = evaluate(q{saga_tasks_claimed{channel="jobs"} == 1});
	return @both == 2;
});

# ------------------------------------------------------------ the dashboard

my $dashboard = decode_json(slurp_file("$root/monitoring/dashboard.json"));
my (%ids, @covered);
foreach my $panel (@{ $dashboard->{panels} })
{
	my $at = $panel->{gridPos};

	ok(!$ids{ $panel->{id} }++, "dashboard: panel $panel->{id} is one");
	is(scalar(grep { $_->[0] < $at->{x} + $at->{w} && $at->{x} < $_->[1] && $_->[2] < $at->{y} + $at->{h} && $at->{y} < $_->[3] } @covered),
		0, "dashboard: panel $panel->{id} lies on no other");
	push @covered, [ $at->{x}, $at->{x} + $at->{w}, $at->{y}, $at->{y} + $at->{h} ];
	foreach my $target (@{ $panel->{targets} // [] })
	{
		(my $expr = $target->{expr}) =~ s/\$datname\b/postgres/g;
		$expr =~ s/\$name\b/.*/g;
		$expr =~ s/\$__rate_interval\b/30s/g;
		unlike($expr, qr/\$/, "dashboard: $panel->{title}: all variables are known");
		# Its own name for what it means
		unlike($target->{legendFormat}, qr/\{\{(?!datname|name|owner|channel|phase|relation|outcome|what)\w+\}\}/,
			"dashboard: $panel->{title}: labels that there are");
		wait_for("dashboard: $panel->{title} shows something: $expr", sub { my @shown = evaluate($expr); return @shown > 0; });
	}
}
foreach my $variable (grep { $_->{type} eq 'query' } @{ $dashboard->{templating}{list} })
{
	my ($metric, $label) = $variable->{definition} =~ /^label_values\((\w+).*, (\w+)\)$/;
	wait_for("dashboard: the variable $variable->{name} has values", sub { my @values = evaluate("count by ($label) ($metric)"); return @values > 0; });
}

# ------------------------------------------------------------------- mended

# (Later versions warn of a configuration file that nobody has given them.)
unlike(join("\n", grep { !/msg="Error loading config"/ } split /\n/, slurp_file($exporter->{log})),
	qr/(?i:level=error)|Error/, 'the exporter reports no error');
unlike(slurp_file($sql_exporter->{log}), qr/error|failed/i, 'nor does the other');
stop_program($sql_exporter);
$blocker->query_safe('ROLLBACK');
$blocker->quit;
$deaf->query_safe('COMMIT');
$deaf->quit;
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'forgotten'});
$node->safe_psql('postgres', q{SELECT saga.resolve(saga_id, step, 'skip', 'settled') FROM saga.review_queue});
is(sql_as($node, 'teller', q{SELECT count(saga.complete_task(task_key)) FROM saga.claim_tasks('refunds')}), 1, 'somebody listens');
# The server forgets what it had queued when somebody looks.
$node->safe_psql('postgres', 'LISTEN news; UNLISTEN *');
wait_mended('locks, executors, decisions, listeners, transactions, queue',
	qw(SagaNeedsPerson SagaDecisionForgotten SagaNobodyClaims SagaAttemptBlocked SagaUndoTakesLong SagaExecutorsExhausted SagaStandsStill
	  SagaPreparedTransactionOld SagaNotificationQueueFills));

# ----------------------------------------------------------- nothing runs

sub set
{
	$node->safe_psql('postgres', "ALTER SYSTEM SET $_[0]");
	$node->reload;
	return;
}
set('saga.enabled = off');
wait_firing('saga.enabled is off', 'SagaDisabled');
set('saga.enabled = on');
$node->safe_psql('postgres', 'UPDATE saga.ledger_saga SET name = name');
wait_firing('a copy', 'SagaNotAdopted');
$node->safe_psql('postgres', 'SELECT saga.adopt()');
wait_mended('off, and a copy', qw(SagaDisabled SagaNotAdopted));
$node->append_conf('postgresql.conf', "max_worker_processes = 0\nmax_parallel_workers = 0\nmax_logical_replication_workers = 0\n");
$node->restart;
wait_firing('no process has a place', 'SagaNotRunning');
is($seen{SagaNotRunning}{labels}{code}, 'no launcher', 'the alert says which');
wait_for('and so does the metric', sub { return join(' ', map { $_->{value}[1] } evaluate('saga_server_launchers')) eq '0 0'; });
stop_program($exporter);
wait_firing('no metrics', 'SagaNotWatched');

# ------------------------------------------------ what the alerts say

my @alerts = slurp_file($rules) =~ /- alert: (\w+)/g;
is(join(' ', sort keys %seen), join(' ', sort @alerts), 'each alert has fired');
foreach my $name (sort keys %seen)
{
	my $alert = $seen{$name};

	like($alert->{labels}{severity}, qr/^(?:critical|warning|info)$/, "$name: its severity");
	foreach my $text (qw(summary description))
	{
		like($alert->{annotations}{$text}, qr/^\S.{20,}$/, "$name: its $text");
		unlike($alert->{annotations}{$text}, qr/\{\{|<no value>|  |(?:of|in|sagas?|channel|database) [ (:;,]/, "$name: nothing is missing in it");
	}
	my ($file, $anchor) = $alert->{annotations}{runbook_url} =~ /^(doc\/\w+\.md)#([\w-]+)$/;
	my %anchors = map { lc($_) =~ s/[^\w -]//gr =~ s/ /-/gr => 1 } slurp_file("$root/$file") =~ /^#+ (.*)$/mg;
	ok($anchors{$anchor}, "$name: leads to $file#$anchor");
}

stop_program($prometheus);
$node->stop;
done_testing();
