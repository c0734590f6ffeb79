package SagaTest;

=pod

=head1 NAME

SagaTest - what the TAP tests of saga share

=head1 SYNOPSIS

  use strict;
  use warnings;
  use FindBin;
  use lib "$FindBin::RealBin/../perl";
  use SagaTest;
  use Test::More;

  my $node = saga_cluster('main', conf => "saga.max_executors = 1\n");
  my $saga = $node->safe_psql('postgres', q{SELECT saga.begin('order')});
  ...
  wait_state($node, $saga, 'compensated');
  guarantees($node);
  done_testing();

Functions that wait do so by polling a query or a log, never by sleeping; take
the log's offset before the action, and wait after it.

=cut

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use IPC::Run ();
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SagaFixtures;
use SagaGuarantees;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(saga_cluster saga_conf is_test_build wait_until wait_state show_ledger
  session hang_up background log_offset wait_log no_log worker_pid executor_pids
  witness acknowledged guarantees guarantee_violations guarantee_checks tell_stories sql_as sql_error report
  set_faults wait_struck halt_worker try_psql insist wait_server start_again restart_killed wait_lines listen_to listen_again heard wait_heard
  wait_queued killed_after_commit idle_executor
  interpreter start_pgbouncer start_program wait_program stop_program kill_program start_payments payments_record start_listener);
push @EXPORT, @SagaFixtures::EXPORT;

# An IPC::Run before 2026 dies if a program ends before its input was written to
# it, as psql does when the server refuses it, on a machine that is busy enough.
# What is not read is no fault of who wrote it.
{
	no warnings 'redefine';
	my $write = \&IPC::Run::_write;
	my $broken = do { local $! = POSIX::EPIPE(); "$!" };

	*IPC::Run::_write = sub {
		my $written = eval { $write->(@_) };

		return $written if $@ eq '';
		die $@ if $@ !~ /^\Q$broken\E:/;
		return length $_[1];
	};
}

# A psql that waits for ever, for a lock that nobody gives back, ends the test and
# says so.
{
	no warnings 'redefine';
	my $psql = \&PostgreSQL::Test::Cluster::psql;

	*PostgreSQL::Test::Cluster::psql = sub {
		my ($node, $database, $sql, %params) = @_;

		return $psql->(@_) if $params{timed_out};
		my $late;
		my $seconds = $params{timeout} // 3 * $PostgreSQL::Test::Utils::timeout_default;
		my @bound = (timeout => $seconds, timed_out => \$late);
		my @result = wantarray ? $psql->(@_, @bound) : scalar $psql->(@_, @bound);
		return wantarray ? @result : $result[0] if !$late;
		show_ledger($node, undef, $database);
		die "no end of psql after $seconds s: $sql";
	};
	*PostgreSQL::Test::Cluster::poll_query_until = \&poll_query_until;
}

=head1 FUNCTIONS

=head2 saga_conf()

The lines of postgresql.conf that a server needs for saga and that the tests
agree upon.

=cut

sub saga_conf
{
	return slurp_file(dirname(__FILE__) . '/../regress.conf');
}

=head2 is_test_build()

Whether the installed saga was compiled with -DSAGA_TEST: fault points and the
virtual clock are there.  A file that needs them begins with
C<plan skip_all =E<gt> 'needs the test build' if !is_test_build();>.

=cut

sub is_test_build
{
	return ($ENV{SAGA_BUILD} // '') eq 'test';
}

=head2 saga_cluster($name, %options)

A started server that preloads saga, whose databases are UTF8 in the locale C.
Options:

=over

=item conf => text

appended to postgresql.conf

=item init => [...]

arguments for C<init>, such as C<[allows_streaming =E<gt> 1]>

=item preload => 0

do not preload saga

=item databases => [...]

where to CREATE EXTENSION, C<['postgres']> by default; others than that one are
created.  C<[]>: nowhere

=item start => 0

leave it stopped; then nothing is created either

=item install_path => folder

of another PostgreSQL, whose programs are in C<bin> there

=back

=cut

sub saga_cluster
{
	my ($name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name,
		defined $opt{install_path} ? (install_path => $opt{install_path}) : ());

	# The same in every environment; a driver may hand out bytes if the database
	# has no encoding.
	my %init = @{ $opt{init} // [] };
	$node->init(%init, extra => [ @{ $init{extra} // [] }, '--encoding=UTF8', '--no-locale' ]);
	my $conf = saga_conf();
	$conf =~ s/^shared_preload_libraries.*$//m if !($opt{preload} // 1);
	$node->append_conf('postgresql.conf', $conf);
	$node->append_conf('postgresql.conf', $opt{conf}) if defined $opt{conf};
	return $node if !($opt{start} // 1);

	$node->start;
	foreach my $database (@{ $opt{databases} // ['postgres'] })
	{
		$node->safe_psql('postgres', qq{CREATE DATABASE "$database"})
		  if $database ne 'postgres';
		$node->safe_psql($database, 'CREATE EXTENSION saga');
	}
	return $node;
}

=head2 wait_until($node, $query, $expected, $database)

Polls until the query answers $expected ('t'), through crashes, too; fails the
test after PG_TEST_TIMEOUT_DEFAULT seconds, showing what there is.

=cut

sub poll_query_until
{
	my ($node, $database, $query, $expected) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	my ($out, $err, $late);

	$expected //= 't';
	do
	{
		$node->psql($database, $query, on_error_stop => 0, stdout => \$out, stderr => \$err,
			timeout => $PostgreSQL::Test::Utils::timeout_default, timed_out => \$late);
		return 1 if !$late && $out eq $expected && $err eq '';
		usleep(100_000);
	} while (time < $end);
	diag("this query timed out:\n$query\nexpected:\n$expected\nthe last answer"
		  . ($late ? ' did not come' : '') . ":\n$out\n$err");
	return 0;
}

sub wait_until
{
	my ($node, $query, $expected, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$database //= 'postgres';
	return 1 if $node->poll_query_until($database, $query, $expected // 't');

	fail("timed out waiting for: $query");
	show_ledger($node, undef, $database);
	return 0;
}

=head2 show_ledger($node, $which, $database)

For a test that fails: says what is known of the sagas for which the condition
$which holds (of those that are not over), of our processes, and of the end of
the server's log.

=cut

sub show_ledger
{
	my ($node, $which, $database) = @_;
	$which //= q{state NOT IN ('completed', 'compensated', 'abandoned')};
	my $sagas = "(SELECT id FROM saga.sagas WHERE $which ORDER BY id LIMIT 20)";
	my @queries = (
		now => q{SELECT clock_timestamp(), current_setting('saga.test_faults', true)},
		sagas => qq{
			SELECT id, name, idempotency_key, state, next_action, next_action_at FROM saga.sagas
			WHERE id IN $sagas ORDER BY id},
		steps => qq{
			SELECT saga_id, seq, key, status, compensation_status, compensation_attempts, next_attempt_at, parked, last_error
			FROM saga.steps WHERE saga_id IN $sagas ORDER BY saga_id, seq},
		attempts => qq{
			SELECT * FROM saga.attempts WHERE saga_id IN $sagas AND phase = 'compensation'
			ORDER BY started_at LIMIT 60},
		processes => q{
			SELECT pid, datname, usename, backend_type, backend_start, state, wait_event, left(query, 100)
			FROM pg_stat_activity WHERE backend_type LIKE 'saga%' OR state <> 'idle' ORDER BY pid});

	while (my ($what, $query) = splice @queries, 0, 2)
	{
		my ($out, $err) = ('', '');
		$node->psql($database // 'postgres', $query, stdout => \$out, stderr => \$err);
		diag("$what:\n$out$err");
	}

	# Without the tests' own statements
	my $log = slurp_file($node->logfile);
	my @log = grep { $_ !~ /LOG:  statement: / } split /\n(?!\t)/, $log;
	splice @log, 0, @log - 60 if @log > 60;
	diag(join "\n", 'the end of ' . $node->logfile . ':', @log);
	return;
}

=head2 wait_state($node, $saga_id, $state, $database)

Waits until the saga is in the state.

=cut

sub wait_state
{
	my ($node, $saga, $state, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_until($node,
		qq{SELECT state FROM saga.sagas WHERE id = '$saga'},
		$state, $database);
}

=head2 session($node, %options)

A psql session of its own, for transactions that stay open: an object with
C<query>, C<query_safe>, C<query_until> and C<quit> (see
PostgreSQL::Test::BackgroundPsql).  Options: C<database>, C<user>, and
C<on_error_stop> (0 by default, so that an expected error leaves it alive).

=cut

sub session
{
	my ($node, %opt) = @_;
	my @params;

	push @params, '-U', $opt{user} if defined $opt{user};
	my $session = $node->background_psql(
		$opt{database} // 'postgres',
		on_error_stop => $opt{on_error_stop} // 0,
		extra_params => \@params);
	# What else a test waits for meanwhile is not its time.
	$session->set_query_timer_restart;
	return $session;
}

=head2 hang_up($session)

Ends a session, and with it its transaction, also one whose server is no more, or
whose time is over.

=cut

sub hang_up
{
	my ($session) = @_;

	$session->{timeout}->start;
	eval { $session->quit; 1 } or $session->{run}->kill_kill(grace => 1);
	return;
}

=head2 background($session, $query)

Sends a query that is going to wait and returns at once.  Collect it with
C<$session-E<gt>query('...')>, or end it by C<quit>.

=cut

sub background
{
	my ($session, $query) = @_;

	$query =~ s/;?\s*$/;/;
	return $session->query_until(qr/sent/, "\\echo sent\n$query\n");
}

=head2 sql_as($node, $user, $sql, $database)

What the SQL returns that a role runs, in a session of its own; dies if it fails.

=cut

sub sql_as
{
	my ($node, $user, $sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql, extra_params => [ '-U', $user ]);
}

=head2 sql_error($node, $sql, $database, %options)

Runs SQL that is to fail, in a session of its own, and returns what psql says
with SQLSTATE, DETAIL and HINT: C<like(sql_error(...), qr/ERROR:  SG005: /)>.
Empty if nothing failed.  Options are those of C<psql>.

=cut

sub sql_error
{
	my ($node, $sql, $database, %opt) = @_;

	my $code = $node->psql($database // 'postgres', "\\set VERBOSITY verbose\n$sql",
		stderr => \my $stderr, on_error_stop => 1, %opt);
	return $code == 0 ? '' : $stderr;
}

=head2 report($text)

Says a figure, or a seed, that a person wants to know of a test that passes, too:
F<test/run> prints it.

=cut

sub report { diag("report: $_[0]"); return; }

=head2 log_offset($node), wait_log($node, $regex, $offset), no_log($node, $regex, $offset, $what)

The log's length now; wait for a line after that; test that there is none.

=cut

sub log_offset
{
	my ($node) = @_;
	return -s $node->logfile // 0;
}

sub wait_log
{
	my ($node, $regex, $offset) = @_;
	return $node->wait_for_log($regex, $offset);
}

sub no_log
{
	my ($node, $regex, $offset, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $text = slurp_file($node->logfile, $offset);
	return unlike($text, $regex, $what // "no $regex in the log");
}

=head2 worker_pid($node, $database), executor_pids($node)

Process ids of a database's worker, waiting until there is one, and of the
executors there are, as the server's views show them.

=cut

sub worker_pid
{
	my ($node, $database) = @_;
	$database //= 'postgres';
	my $where = qq{backend_type = 'saga worker' AND datname = '$database'};

	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE $where")
	  or die "database $database has no worker";
	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE $where");
}

sub executor_pids
{
	my ($node) = @_;
	return split /\n/, $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'saga executor' ORDER BY 1});
}

=head2 set_faults($node, $faults), wait_struck($node), halt_worker($node)

Sets C<saga.test_faults> for all processes, in a file, so that it can be done in
the middle of a crash, or before the start; an empty one lets go what waits.

A test that means one strike says so: C<'worker.before_commit=kill once'>.  (A
fault that stays armed until the test has seen it strikes as often as the machine
gives it time to.)  C<wait_struck> waits until each of those that were set last
has struck, and the process that it ended, if it is one that ends it, is gone.
C<'... once,worker.before_turn=wait after'> adds a fault that counts once the one
before it has struck, at the moment that it has.

Makes the worker stand still before its next turn, until other faults are set.

=head2 try_psql($node, $sql), insist($node, $sql, $done), wait_server($node), wait_lines($node, $regex, $offset, $count)

For a server that crashes: undef if the SQL failed, else its output.  Runs it until
nothing strikes it down, or until the query $done answers 't'.  Waits until
the server takes connections again.  Waits for so many (one) lines of the log.

=head2 restart_killed($node), start_again($node)

Kills the postmaster with SIGKILL, waits until none of its processes is left, which
keep its memory until they notice, and starts it again.  Starts a server that has
been stopped or killed, as soon as nothing is in its way.

=cut

my $strikes = 0;

sub set_faults
{
	my ($node, $faults) = @_;
	my $conf = $node->data_dir . '/postgresql.auto.conf';
	my $running = $node->data_dir . '/postmaster.pid';
	my ($token, @set, @struck);

	# A token that no other fault has or had
	foreach my $fault (split /,/, $faults)
	{
		$fault =~ s/ after$/ " after " . ($token \/\/ die "$faults: after what?")/e;
		if ($fault =~ s/ once\b(?! \d)/ " once " . ($token = "$$-" . ++$strikes)/e)
		{
			push @struck, { token => $token, ends => scalar($fault =~ /=(?:kill|fatal) /) };
		}
		push @set, $fault;
	}
	$node->{saga_strikes} = \@struck if $faults ne '';
	open my $file, '>', "$conf.new" or die "$conf.new: $!";
	print $file "saga.test_faults = '@{[ join ',', @set ]}'\n" if @set;
	close $file;
	rename "$conf.new", $conf or die "$conf: $!";
	return if !-e $running;
	slurp_file($running) =~ /^(\d+)/ && kill 'HUP', $1 or die "postmaster: $!";
	return;
}

sub wait_struck
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my @left;
	for my $try (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		@left = ();
		foreach my $strike (@{ $node->{saga_strikes} })
		{
			my $file = $node->data_dir . "/saga_fault.$strike->{token}";
			my ($pid) = -e $file && slurp_file($file) =~ /^(\d+)\n/;
			if (!$pid) { push @left, "$strike->{token} did not strike"; }
			# Another may have got its number since.
			elsif ($strike->{ends} && kill(0, $pid)
				&& `ps -o etimes= -p $pid` =~ /(\d+)/ && $1 + 2 > time - (stat $file)[9])
			{
				push @left, "$strike->{token} struck $pid, which is still there: " . `ps -o stat=,etimes=,args= -p $pid`;
			}
		}
		return 1 if !@left;
		usleep(10_000);
	}
	fail('timed out waiting for faults to strike: ' . slurp_file($node->data_dir . '/postgresql.auto.conf'));
	diag(join "\n", @left);
	show_ledger($node);
	return 0;
}

sub halt_worker
{
	my ($node) = @_;
	my $offset = log_offset($node);

	set_faults($node, 'worker.before_turn=wait');
	return wait_lines($node, qr/waiting at fault point "worker\.before_turn"/, $offset);
}

sub try_psql
{
	my ($node, $sql) = @_;
	my ($out, $err) = ('', '');
	my $code = $node->psql('postgres', $sql, stdout => \$out, stderr => \$err);
	return $code == 0 ? $out : undef;
}

sub insist
{
	my ($node, $sql, $done) = @_;

	for my $try (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return '' if defined $done && (try_psql($node, $done) // '') eq 't';
		my $out = try_psql($node, $sql);
		return $out if defined $out;
		usleep(20_000);
	}
	die "in vain: $sql";
}

sub start_again
{
	my ($node) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	do
	{
		# After a failure it takes the old server's file for a running one.
		$node->{_pid} = undef;
		return if $node->start(fail_ok => 1);
		usleep(200_000);
	} while (time < $end);
	die 'the server does not start again';
}

sub restart_killed
{
	my ($node) = @_;
	my $postmaster = $node->{_pid};
	my @pids = ($postmaster, `ps -o pid= --ppid $postmaster` =~ /(\d+)/g);
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	$node->kill9;
	# Until init has collected it, its file is taken for that of a running one.
	while (my @left = grep { kill 0, $_ } @pids)
	{
		die "there are still, of the server that was killed:\n" . `ps -o pid,stat,args -p @{[ join ',', @left ]}` if time > $end;
		usleep(20_000);
	}
	# One that was just being started may be left.
	return start_again($node);
}

sub wait_server
{
	my ($node) = @_;

	for my $try (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if defined try_psql($node, 'SELECT 1');
		usleep(20_000);
	}
	die 'the server does not come up';
}

sub wait_lines
{
	my ($node, $regex, $offset, $count) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	for my $try (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $n = () = slurp_file($node->logfile, $offset) =~ /$regex/g;
		return 1 if $n >= ($count // 1);
		usleep(10_000);
	}
	fail("timed out waiting for $regex");
	show_ledger($node);
	return 0;
}

=head2 wait_queued($node, $channel, $count)

Waits until so many tasks wait on the channel, unclaimed.

=cut

sub wait_queued
{
	my ($node, $channel, $count) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "SELECT count(*) = $count FROM saga.ledger_queue WHERE channel = '$channel'");
}

=head2 killed_after_commit($node, $call)

Makes a call in a session that is killed right after its commit, before it wakes
or answers anybody; waits for the server to be back.

=cut

sub killed_after_commit
{
	my ($node, $call) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $offset = log_offset($node);

	is(try_psql($node, "SET saga.test_faults = 'wakeup.after_commit=kill'; $call"), undef,
		'killed after the commit: ' . ($call =~ /saga\.(\w+)\(/)[0]);
	wait_lines($node, qr/\(PID \d+\) was terminated by signal 9/, $offset);
	wait_server($node);
	return;
}

=head2 idle_executor($node, $user)

Waits until the role has one idle executor, and returns its pid.

=cut

sub idle_executor
{
	my ($node, $user) = @_;
	my $idle = "FROM pg_stat_activity WHERE backend_type = 'saga executor' AND usename = '$user' AND query = 'saga: idle executor'";

	wait_until($node, "SELECT count(*) = 1 $idle");
	return $node->safe_psql('postgres', "SELECT pid $idle");
}

=head2 listen_to($node, @channels), heard($listener), wait_heard($listener, $wanted, $count), listen_again($node, $listener, @channels)

A session that listens; everything it was told so far, in order, as lines
C<channel|payload|pid>; waits until so many of them (one) match a regex, and
returns those that do; a new session, that takes over from one whose server
crashed.  An option hash reference may follow $node, as for C<session>.

=cut

sub listen_to
{
	my ($node, @channels) = @_;
	my $option = ref $channels[0] ? shift @channels : {};
	my $listener = session($node, %$option);

	$listener->query_safe(join ' ', map { qq{LISTEN "$_";} } @channels);
	$listener->{saga_heard} = [];
	return $listener;
}

sub heard
{
	my ($listener) = @_;

	take_heard($listener, scalar $listener->query_safe('SELECT'));
	return @{ $listener->{saga_heard} };
}

sub take_heard
{
	my ($listener, $text) = @_;

	push @{ $listener->{saga_heard} }, "$1|$2|$3"
	  while $text =~ /^Asynchronous notification "(.*?)" with payload "(.*)" received from server process with PID (\d+)\.$/mg;
	return;
}

sub listen_again
{
	my ($node, $listener, @channels) = @_;

	# What came before the end of the connection
	eval { $listener->query('SELECT'); };
	take_heard($listener, $listener->{stdout});
	my @before = @{ $listener->{saga_heard} };
	hang_up($listener);
	$listener = listen_to($node, @channels);
	$listener->{saga_heard} = \@before;
	return $listener;
}

sub wait_heard
{
	my ($listener, $wanted, $count) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	for my $try (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my @found = grep { /$wanted/ } heard($listener);
		return @found if @found >= ($count // 1);
		usleep(20_000);
	}
	fail("timed out listening for $wanted");
	diag("heard:\n" . join "\n", @{ $listener->{saga_heard} });
	return ();
}

=head2 start_pgbouncer($node, $pool, @users)

Starts PgBouncer in transaction mode in front of a node, for these users, with so
many server connections for each, and waits until it answers.  Returns the program,
whose C<{host}> is the folder of its socket, and C<{port}> only part of that one's
name; or undef, where there is no PgBouncer.

=cut

sub start_pgbouncer
{
	my ($node, $pool, @users) = @_;
	my ($command) = grep { -x $_ } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';
	my $dir = PostgreSQL::Test::Utils::tempdir_short();

	return if !defined $command;
	append_to_file("$dir/users", join '', map { qq("$_" ""\n) } @users);
	append_to_file("$dir/pgbouncer.ini", qq{
[databases]
postgres = host=@{[ $node->host ]} port=@{[ $node->port ]}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = $dir
auth_type = trust
auth_file = $dir/users
pool_mode = transaction
default_pool_size = $pool
min_pool_size = 0
max_client_conn = 100
stats_users = $users[0]
ignore_startup_parameters = extra_float_digits
pidfile = $dir/pid
});
	my $program = start_program('pgbouncer', {}, $command, "$dir/pgbouncer.ini");
	for my $try (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if $node->psql('postgres', 'SELECT 1', connstr => "host=$dir port=6432 dbname=postgres user=$users[0]") == 0;
		die 'PgBouncer does not start: ' . slurp_file($program->{log})
		  if $try == 50 * $PostgreSQL::Test::Utils::timeout_default || waitpid($program->{pid}, POSIX::WNOHANG()) != 0;
		usleep(20_000);
	}
	return { %$program, host => $dir, port => 6432 };
}

=head2 start_program($name, \%env, @command), wait_program($program), stop_program($program), kill_program($program)

Starts a program beside the test, with that added to its environment and its
output in a log of that name; waits for its end, and returns its exit code (or
minus the number of the signal that ended it); ends it by SIGTERM; by SIGKILL.
Nothing outlives the test.
C<$program-E<gt>{log}> is where its output goes; several may share one.

=cut

my %programs;

sub start_program
{
	my ($name, $env, @command) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/"
	  . basename($0, '.pl') . "_$name.log";

	# so that not even a test that is killed leaves it behind
	unshift @command, qw(setpriv --pdeathsig KILL)
	  if grep { -x "$_/setpriv" } split /:/, $ENV{PATH};
	note("starting $name");
	my $pid = fork;
	die "fork: $!" if !defined $pid;
	if ($pid == 0)
	{
		%ENV = (%ENV, %$env);
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $log or POSIX::_exit(127);
		open STDERR, '>&', \*STDOUT or POSIX::_exit(127);
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	$programs{$pid} = $$;
	return { name => $name, pid => $pid, log => $log };
}

sub wait_program
{
	my ($program) = @_;

	for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		if (waitpid($program->{pid}, POSIX::WNOHANG()) != 0)
		{
			delete $programs{ $program->{pid} };
			return $? & 127 ? -($? & 127) : $? >> 8;
		}
		usleep(20_000);
	}
	die "$program->{name} does not end";
}

sub stop_program { kill 'TERM', $_[0]->{pid}; return wait_program($_[0]); }
sub kill_program { kill 'KILL', $_[0]->{pid}; return wait_program($_[0]); }

END
{
	my $code = $?;
	foreach my $pid (grep { $programs{$_} == $$ } keys %programs)
	{
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	$? = $code;
}

=head2 interpreter($language)

The command of an interpreter, C<python> or C<node>, that can talk to the server.

=cut

my $clients = dirname(__FILE__) . '/../clients';

sub interpreter
{
	my ($language) = @_;
	chomp(my $command = `'$clients/interpreter' $language`);
	return split / /, $command if $command ne '';
	die $language eq 'node'
	  ? "no node 18 or later with the module pg: run .ci/setup\n"
	  : "no python3 with psycopg 3: run .ci/setup\n";
}

=head2 start_payments($name, %options), payments_record($payments)

The payment service F<test/clients/payments.py>: a program with a C<{url}> and a
C<{record}>; and what that holds so far, a hash for each call.  Options: C<seed>,
C<bad> (the share of calls that meet with trouble), C<slow> (seconds).

=cut

sub start_payments
{
	my ($name, %opt) = @_;
	my $record = PostgreSQL::Test::Utils::tempdir() . '/record';
	my $program = start_program($name, { SLOW => $opt{slow} // 3 },
		(interpreter('python'))[0], "$clients/payments.py", $record, $opt{seed} // 1, $opt{bad} // 0);

	for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		($program->{url}) = slurp_file($program->{log}) =~ m{^(http://\S+)}m
		  if -e $program->{log};
		last if $program->{url};
		usleep(20_000);
	}
	die "$name did not start" if !$program->{url};
	$program->{record} = $record;
	return $program;
}

sub payments_record
{
	my ($payments) = @_;
	return map { decode_json($_) } split /\n/, slurp_file($payments->{record});
}

=head2 start_listener($node, $payments, $language, $channel, %options)

One of the listeners of F<test/clients>: C<python>, C<node> or C<sh>.  Options:
C<name>, C<user>, C<lease> (seconds), C<host> and C<port> of a pooler.

=cut

sub start_listener
{
	my ($node, $payments, $language, $channel, %opt) = @_;
	my @command = $language eq 'python' ? (interpreter('python'), "$clients/listener.py")
	  : $language eq 'node' ? (interpreter('node'), "$clients/listener.js")
	  : ('bash', "$clients/listener.sh");

	return start_program($opt{name} // $language,
		{
			PGHOST => $opt{host} // $node->host, PGPORT => $opt{port} // $node->port,
			PGDATABASE => $opt{database} // 'postgres',
			($opt{user} ? (PGUSER => $opt{user}) : ()),
			($opt{lease} ? (LEASE => $opt{lease}) : ()),
			PAYMENTS_URL => $payments->{url}
		},
		@command, $channel);
}

=head2 witness, acknowledged, guarantees, guarantee_violations, guarantee_checks, tell_stories

See L<SagaGuarantees> and L<SagaFixtures>.

=cut

1;
