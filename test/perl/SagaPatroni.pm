package SagaPatroni;

=pod

=head1 NAME

SagaPatroni - servers that patroni manages, with etcd as its store

=head1 DESCRIPTION

Starts etcd and some nodes of patroni, each with a server of its own, on ports of
the loopback interface (patroni and etcd know no other), and nothing of the
system's: no service is started, and all files are the test's.  A node is a
L<PostgreSQL::Test::Cluster> that never starts a server itself, so that C<safe_psql>,
C<wait_until> and C<guarantees> work with it.

The times of patroni are the shortest that it allows, and a primary that crashed is
not started again where another can take over (C<primary_start_timeout>).

=cut

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(patroni_is_missing patroni_start patroni_stop patroni_configure patroni_members
  until_true patroni_wait_settled patroni_wait_other patroni_switchover patroni_kill patroni_environment);

=head1 FUNCTIONS

=head2 patroni_is_missing()

What this machine lacks to run it, in words; undef if nothing.

=cut

sub in_path
{
	my ($program) = @_;
	my ($found) = grep { -x $_ } map { "$_/$program" } split(/:/, $ENV{PATH}), '/usr/sbin';
	return $found;
}

sub patroni_is_missing
{
	my @missing = grep { !in_path($_) } qw(patroni etcd);
	return @missing ? 'needs ' . join(' and ', @missing) : undef;
}

my ($etcd, @nodes, %patroni, %rest);
my $http = HTTP::Tiny->new(timeout => 5);

=head2 until_true($what, \&block)

Waits until the block returns something true, and returns it; dies if it takes too
long.

=cut

sub until_true
{
	my ($what, $block) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $end)
	{
		my $value = $block->();
		return $value if $value;
		usleep(100_000);
	}
	die "timed out waiting for $what";
}

=head2 patroni_start($count, %settings)

Starts etcd and so many nodes, and returns the nodes.  The settings are patroni's
dynamic ones.

=cut

sub patroni_start
{
	my ($count, %setting) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $store = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
	my $peer = 'http://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
	my $user = getpwuid $<;
	my $bindir = dirname(in_path('postgres') // die 'no postgres in PATH');
	my $secret = join '', map { chr(97 + int rand 26) } 1 .. 20;
	my %ours = map { /^([\w.]+) = '?(.*?)'?$/ ? ($1, $2) : () } split /\n/, saga_conf();
	my %dynamic = map { $_ => delete $ours{$_} } qw(max_worker_processes max_prepared_transactions);

	$etcd = start_program('etcd', {}, in_path('etcd'), '--name', 'saga', '--data-dir', "$dir/etcd",
		'--listen-client-urls', "http://$store", '--advertise-client-urls', "http://$store",
		'--listen-peer-urls', $peer, '--initial-advertise-peer-urls', $peer,
		'--initial-cluster', "saga=$peer", '--logger', 'zap', '--log-level', 'warn');
	until_true('etcd', sub { $http->get("http://$store/health")->{success} });

	foreach my $i (1 .. $count)
	{
		my $node = PostgreSQL::Test::Cluster->new("node$i");
		my $rest = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
		my $conf = "$dir/node$i.yml";

		push @nodes, $node;
		$rest{ $node->name } = "http://$rest";
		mkdir $node->basedir;
		open my $file, '>', $conf or die "$conf: $!";
		# (YAML is a superset of JSON.)
		print $file encode_json({
			scope => 'saga', name => $node->name,
			restapi => { listen => $rest, connect_address => $rest },
			etcd3 => { hosts => [$store] },
			bootstrap => {
				dcs => {
					ttl => 20, loop_wait => 1, retry_timeout => 3, maximum_lag_on_failover => 1 << 30,
					primary_start_timeout => 0, %setting,
					postgresql => { use_pg_rewind => JSON::PP::true, use_slots => JSON::PP::true,
						parameters => { max_connections => 60, wal_keep_size => '256MB', %dynamic } }
				},
				initdb => [ { encoding => 'UTF8' }, { locale => 'C' }, { 'auth-local' => 'trust' }, { 'auth-host' => 'reject' } ]
			},
			postgresql => {
				listen => '127.0.0.1:' . $node->port, connect_address => '127.0.0.1:' . $node->port,
				data_dir => $node->data_dir, bin_dir => $bindir, pgpass => "$dir/node$i.pgpass",
				use_unix_socket => JSON::PP::true,
				pg_hba => [ 'local all all trust', 'host replication replicator 127.0.0.1/32 scram-sha-256',
					"host all $user 127.0.0.1/32 scram-sha-256" ],
				authentication => {
					superuser => { username => $user, password => $secret },
					replication => { username => 'replicator', password => $secret }
				},
				parameters => { %ours, unix_socket_directories => $node->host }
			}
		});
		close $file;
		$patroni{ $node->name } = start_program($node->name, {}, in_path('patroni'), $conf);
		$node->{_logfile} = $patroni{ $node->name }{log};
		# The first one makes the cluster.
		until_true('the first server', sub { $http->get("http://$rest/primary")->{success} }) if $i == 1;
	}
	return @nodes;
}

=head2 patroni_environment()

What a client needs to come to whichever node is the primary.

=cut

sub patroni_environment
{
	return {
		PGHOST => join(',', map { $_->host } @nodes), PGPORT => join(',', map { $_->port } @nodes),
		PGDATABASE => 'postgres', PGTARGETSESSIONATTRS => 'read-write', PGCONNECT_TIMEOUT => 5 };
}

=head2 patroni_configure(%settings)

Changes dynamic settings.

=cut

sub patroni_configure
{
	my (%setting) = @_;
	my $answer = $http->request('PATCH', $rest{ $nodes[0]->name } . '/config',
		{ content => encode_json(\%setting), headers => { 'Content-Type' => 'application/json' } });
	die "patroni: $answer->{status} $answer->{content}" if !$answer->{success};
	return;
}

=head2 patroni_members(), patroni_wait_settled($synchronous), patroni_wait_other($node)

What patroni knows of its nodes: a hash for each, by name.  Waits until all others
stream from a primary that takes writes, on its timeline, and one of them is
synchronous, or none; returns the primary.  Waits until another one than that is the
primary, and returns it.

=cut

sub patroni_members
{
	foreach my $rest (values %rest)
	{
		my $answer = $http->get("$rest/cluster");
		next if !$answer->{success};
		my %member = map { $_->{name} => $_ } @{ decode_json($answer->{content})->{members} };
		return \%member;
	}
	return {};
}

sub ask
{
	my ($node, $query) = @_;
	my ($out, $err) = ('', '');
	my $code = $node->psql('postgres', $query, stdout => \$out, stderr => \$err, timeout => 30, timed_out => \my $late);
	return !$late && defined $code && $code == 0 ? $out : '';
}

sub leader
{
	my $member = patroni_members();
	my ($node) = grep { ($member->{ $_->name }{role} // '') =~ /^(leader|master|primary)$/ } @nodes;
	return $node && ask($node, 'SELECT NOT pg_is_in_recovery()') eq 't' ? $node : undef;
}

sub patroni_wait_settled
{
	my ($synchronous) = @_;
	return until_true('standbys', sub {
		my $leader = leader() or return;
		my $member = patroni_members();
		my $timeline = $member->{ $leader->name }{timeline} // return;
		my @standby = grep { $_->{name} ne $leader->name && ($_->{timeline} // 0) == $timeline } values %$member;
		my $sync = grep { $_->{role} eq 'sync_standby' } @standby;
		return if @standby != @nodes - 1 || !!$sync ne !!$synchronous;
		return if ask($leader, q{SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'}) ne @nodes - 1;
		return if ask($leader, q{SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')}) ne $sync;
		return $leader;
	});
}

sub patroni_wait_other
{
	my ($old) = @_;
	return until_true('another primary', sub {
		my $leader = leader();
		return $leader && $leader->name ne $old->name ? $leader : undef;
	});
}

=head2 patroni_switchover($leader), patroni_kill($leader, @pids)

Asks patroni for a switchover, to a standby of its choice.  Kills the primary's
postmaster, and those of its processes that are named, by SIGKILL.

=cut

sub patroni_switchover
{
	my ($leader) = @_;
	my $answer = $http->post("$rest{ $leader->name }/switchover",
		{ content => encode_json({ leader => $leader->name }), headers => { 'Content-Type' => 'application/json' } });
	# (It says so, too, when its own connection to the old primary was lost.)
	note("switchover: $answer->{status} $answer->{content}");
	return;
}

sub patroni_kill
{
	my ($leader, @pids) = @_;
	my ($pid) = slurp_file($leader->data_dir . '/postmaster.pid') =~ /^(\d+)/ or die 'no postmaster';
	kill 'KILL', $pid, @pids;
	return;
}

=head2 patroni_stop()

Ends all of it.

=cut

sub patroni_stop
{
	kill_program(delete $patroni{$_}) foreach keys %patroni;
	foreach my $node (@nodes)
	{
		my $file = $node->data_dir . '/postmaster.pid';
		next if !-e $file || slurp_file($file) !~ /^(\d+)/ || !kill 0, $1;
		my $pid = $1;
		kill 'QUIT', $pid;
		for (1 .. 500) { last if !kill 0, $pid; usleep(20_000); }
	}
	@nodes = ();
	kill_program($etcd) if $etcd;
	undef $etcd;
	return;
}

my $parent = $$;

END
{
	my $code = $?;
	patroni_stop() if $$ == $parent;
	$? = $code;
}

1;
