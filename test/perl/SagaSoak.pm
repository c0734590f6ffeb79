package SagaSoak;

=pod

=head1 NAME

SagaSoak - who works with the ledger while it is soaked

=head1 DESCRIPTION

The processes of F<test/t/whole/080_soak.pl> that are not chaos: clients, listeners,
people who decide, and one that hears what is announced.  They drive psql, since
nothing else outlives whatever happens to a server, and work with the tables and
functions of F<test/soak/tables.sql>.

Chance is all in C<rand>, and each process has a seed of its own, drawn from that
of the run.  So the same seed gives the same scripts and the same events; what
meets what is the machine's.

=cut

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(one_of chance start_soakers end_clients end_servants clients_were_told soak_errors);

=head1 FUNCTIONS

=head2 one_of(@list), chance($p)

One of them; true with that probability.

=cut

sub one_of { return $_[ int(rand @_) ]; }
sub chance { return rand() < $_[0]; }

my ($node, $dir, $clients, $begin_of_time);
my (%clients, %servants);
my $parent = $$;

# ------------------------------------------------------------------ clients

# One step: what starts it, what completes it (where that is a call of its own),
# and whether the client goes on after it.
sub step
{
	my ($client, $number, $i, $shared, $kind) = @_;
	my $k = "k$i" . ($shared ? "-c$client-$number" : '');
	# Mostly errands that a machine can run to an end; now and then a person's.
	my $tries = chance(0.85) ? 1000 : 1 + int(rand 3);
	my $how = chance(0.1) ? 'person' : one_of(qw(later error conflict commit));
	my $args = sprintf '{"a": %d, "b": %d, "bad": %d, "how": "%s", "nap": %s}',
	  1 + int(rand 4), 1 + int(rand 4), chance(0.3) ? 1 + int(rand 3) : 0, $how,
	  chance(0.1) ? '0.05' : chance(0.3) ? '0.005' : '0';
	my $style = $kind eq 'compensatable' ? one_of(qw(same same same outside outside listener listener forget savepoint none review hand))
	  : one_of(qw(same outside));
	my $options = sprintf '{"calls": %d, "tries": %d, "kind": "%s", "on": "%s", "review": "%s"}', one_of(1, 2), $tries, $kind,
	  $style eq 'outside' && chance(0.15) ? 'completed' : 'started',
	  $style eq 'listener' && chance(0.05) ? 'yes' : 'no';
	my $take = "SELECT take(:'s', '%s', '$args', '$options');\n";
	my $nap = chance(0.1) ? "SELECT pg_sleep(0.1);\n" : '';
	my $ack = "\\echo ack step :s $k\n";

	if ($style eq 'same')
	{
		return ($k, "BEGIN;\n" . sprintf($take, $k) . "${nap}COMMIT;\n$ack", 1);
	}
	if ($style eq 'savepoint')
	{
		return ($k, "BEGIN;\nSAVEPOINT p;\n" . sprintf($take, "ghost-$k") . "ROLLBACK TO p;\n"
			  . sprintf($take, $k) . "${nap}COMMIT;\n$ack", 1);
	}
	if ($style =~ /^(none|forget)$/)
	{
		return ($k, "SELECT start(:'s', '$k', '$style', NULL, '$options', completed => true);\n$ack", 1);
	}
	my $sql = "SELECT start(:'s', '$k', '$style', '$args', '$options');\n";
	my $text = "$sql$ack$nap";
	$text .= "SELECT saga.fail_step(:'s', '$k', 'no answer');\n$sql" if chance(0.2);
	return ($k, $text, 0) if chance(0.05);
	$text .= "SELECT saga.complete_step(:'s', '$k', '\"$k\"', late => 'record');\n\\echo ack output :s $k\n";
	return ($k, $text, 1);
}

# The script of one saga.  What is acknowledged is echoed: a crash must not
# take it back.
sub script
{
	my ($client, $number, $role) = @_;
	my $shared = chance(0.15);
	my $key = $shared ? 'shared-' . int((time - $begin_of_time) * 3) : "c$client-$number";
	my $back = chance(0.25);
	# The deadline ends what its client forgets.
	my $timeout = chance(0.1) ? 50 + int(rand 300) : ($back ? 4000 : 2000) + int(rand 2000);
	my $halt = chance(0.75) ? 'halt' : 'continue';
	# (A key is one saga's, whoever begins it: the same content each time.)
	($timeout, $halt) = (2500, 'halt') if $shared;
	my $sql = "SELECT saga.begin('soak', '$key', timeout => '$timeout ms',"
	  . " on_compensation_failure => '$halt', announce => 'states') AS s \\gset\n\\echo ack begin :s\n";

	my $steps = 1 + int(rand 5);
	my $pivot = chance(0.12) ? 1 + int(rand $steps) : 0;
	my @steps;
	my $pause = chance(0.05) ? 1 + int(rand $steps) : 0;
	foreach my $i (1 .. $steps)
	{
		my ($k, $text, $on) = step($client, $number, $i, $shared,
			!$pivot || $i < $pivot ? 'compensatable' : $i == $pivot ? 'pivot' : 'retriable');
		$sql .= $text;
		return $sql if !$on;
		push @steps, { key => $k, text => $text };
		if ($i == $pause)
		{
			$sql .= "BEGIN;\nSELECT saga.pause(:'s', 'wait');\nINSERT INTO reopened VALUES (:'s');\nCOMMIT;\n";
			$sql .= "SELECT saga.resume(:'s');\n" if chance(0.5);
		}
		# Back to a savepoint, and forward again with the same keys
		if ($back && chance(0.5))
		{
			my $to = int(rand $i);
			my $savepoint = $to == 0 ? 'NULL' : "'$steps[$to - 1]{key}'";
			# (A deadline that has passed is cleared by that.)
			$sql .= "BEGIN;\nSELECT saga.rollback_to(:'s', $savepoint, 'once more');\nINSERT INTO reopened VALUES (:'s');\nCOMMIT;\n\\echo ack rollingback :s\n";
			next if chance(0.1);
			$sql .= "SELECT saga.wait(:'s', '3 s', 'running');\n" . join '', map { $_->{text} } @steps[ $to .. $#steps ];
		}
	}

	my $wait = chance(0.3) ? "SELECT saga.wait(:'s', '2 s') AS state \\gset\n\\echo ack :state :s\n" : '';
	my $end = rand();
	if ($end < 0.35) { $sql .= "SELECT saga.complete(:'s');\n\\echo ack completed :s\n"; }
	elsif ($end < 0.60) { $sql .= "SELECT saga.fail(:'s', 'in vain');\n\\echo ack failed :s\n$wait"; }
	elsif ($end < 0.70) { $sql .= "SELECT saga.cancel(:'s');\n\\echo ack failed :s\n$wait"; }
	elsif ($end < 0.80)
	{
		# Two phases; the second is done by whoever finds it, in the end.
		my $call = one_of('fail', 'complete');
		my $gid = "$role-$client-$number-$$-" . int(rand 1e9);
		$sql .= "BEGIN;\nSELECT saga.$call(:'s');\nPREPARE TRANSACTION '$gid';\n";
		$sql .= "COMMIT PREPARED '$gid';\n\\echo ack ${call}ed :s\n" if chance(0.7) && $call eq 'fail';
		$sql .= "ROLLBACK PREPARED '$gid';\n" if chance(0.5) && $call eq 'complete';
	}
	elsif ($end < 0.85)
	{
		# What it did outside is known when the undo is under way, or over.
		my $k = 'late' . ($shared ? "-c$client-$number" : '');
		$sql .= "SELECT start(:'s', '$k', 'outside', '{\"nap\": " . one_of('0', '0.05') . "}', '{\"tries\": 1000}');\n\\echo ack step :s $k\n"
		  . "SELECT saga.fail(:'s', 'no answer');\n\\echo ack failed :s\nSELECT pg_sleep(" . one_of('0', '0.02', '0.2') . ");\n"
		  . "SELECT saga.complete_step(:'s', '$k', '\"$k\"', late => 'record');\n\\echo ack output :s $k\n";
	}
	# The others are left in the middle, some of them in a transaction.
	elsif ($end < 0.90) { $sql .= "BEGIN;\nSELECT saga.step(:'s', 'same', 'never');\nSELECT saga.fail(:'s');\n\\q\n"; }
	return $sql;
}

# The script of a saga that the server runs: a chain, branches and a join, which an
# action records or which fork from one step, with approvals, delays, signals, services'
# tasks, actions of several rounds and steps of the application's among them.
sub act_script
{
	my ($client, $number) = @_;
	my $seal = chance(0.7);
	my $timeout = 1000 + int(rand 4000);
	my $sql = "SELECT saga.begin('soak', 'a$client-$number', timeout => '$timeout ms', announce => 'states') AS s \\gset\n\\echo ack begin :s\n";
	my (@steps, @own, @signals);

	foreach my $i (1 .. 1 + int(rand 6))
	{
		my $style = one_of(qw(act act act act branches fork gate approval own signal job job loop));
		my $act = sprintf '"style": "act", "a": %d, "b": %d, "nap": %s, "bad acts": %d, "act": "%s", "give up": "%s", "tries": %d, "bad": %d, "how": "%s"',
		  1 + int(rand 4), 1 + int(rand 4), chance(0.1) ? '0.05' : chance(0.3) ? '0.005' : '0',
		  chance(0.3) ? 1 + int(rand 3) : 0,
		  one_of(qw(later conflict error error commit), chance(0.3) ? one_of(qw(deploy never)) : 'error'),
		  one_of(qw(fail skip review)), chance(0.8) ? 1000 : 1 + int(rand 3),
		  chance(0.2) ? 1 + int(rand 2) : 0, one_of(qw(later error conflict commit));
		if ($style eq 'act') { push @steps, qq({"key": "k$i", $act}); }
		elsif ($style eq 'loop') { push @steps, sprintf '{"key": "k%d", %s, "rounds": %d}', $i, $act, 2 + int(rand 10); }
		elsif ($style eq 'job') { push @steps, qq({"key": "k$i", @{[ $act =~ s/"style": "act"/"style": "job"/r ]}}); }
		elsif ($style eq 'signal')
		{
			push @signals, "SELECT saga.signal(:'s', 'go$i', '$i', 'go$i', late => 'record');\n\\echo ack signal :s go$i\n" if chance(0.9);
			push @steps, sprintf '{"key": "k%d", "style": "gate", "signal": "go%d", "timeout": "%d ms", "give up": "%s"}', $i, $i,
			  300 + int(rand 3000), one_of(qw(fail skip));
		}
		elsif ($style eq 'branches') { push @steps, sprintf '{"key": "k%d", %s, "branches": %d}', $i, $act, 1 + int(rand 5); }
		elsif ($style eq 'fork')
		{
			push @steps, qq({"key": "k$i", $act}), map { qq({"key": "k$i-$_", $act, "after": ["k$i"]}) } 1 .. 1 + int(rand 3);
		}
		elsif ($style eq 'gate') { push @steps, sprintf '{"key": "k%d", "style": "gate", "delay": "%d ms"}', $i, int(rand 200); }
		elsif ($style eq 'approval')
		{
			push @steps, chance(0.5) ? qq({"key": "k$i", $act, "approval": "may it?"})
			  : sprintf '{"key": "k%d", "style": "gate", "approval": "may it?", "timeout": "%d ms", "give up": "%s"}', $i,
			  300 + int(rand 3000), one_of(qw(fail skip));
		}
		else
		{
			push @own, "k$i";
			push @steps, sprintf '{"key": "k%d", "style": "outside", "tries": 1000, "nap": 0}', $i;
		}
	}
	# Before its wait, or after
	$sql .= shift @signals while @signals && chance(0.4);
	$sql .= sprintf "SELECT define(:'s', '[%s]', %s);\n\\echo ack step :s %s\n", join(', ', @steps),
	  $seal ? 'true' : 'false', $steps[0] =~ /"key": "([^"]+)"/;
	$sql .= $_ foreach @signals;
	return $sql if chance(0.03);
	if (chance(0.15))
	{
		$sql .= "BEGIN;\nSELECT saga.pause(:'s', 'wait');\nINSERT INTO reopened VALUES (:'s');\nCOMMIT;\n";
		$sql .= "SELECT pg_sleep(0.02);\nSELECT saga.resume(:'s');\n" if chance(0.7);
	}
	$sql .= "SELECT saga.complete_step(:'s', '$_', '\"$_\"', late => 'record');\n\\echo ack output :s $_\n" foreach @own;
	if (chance(0.2))
	{
		# Restarted from where it is by then
		$sql .= sprintf "SELECT pg_sleep(%s);\nBEGIN;\nSELECT saga.rollback_to(:'s', (SELECT key FROM saga.steps WHERE saga_id = :'s'"
		  . " AND status = 'completed' AND rolled_back_at IS NULL ORDER BY random() LIMIT 1), 'once more');\n"
		  . "INSERT INTO reopened VALUES (:'s');\nCOMMIT;\n\\echo ack rollingback :s\n", one_of('0', '0.02', '0.1');
		return $sql if chance(0.3);
		$sql .= "SELECT saga.wait(:'s', '3 s', 'running');\n";
		# What the application had done it does again.
		$sql .= "SELECT count(start(:'s', key, 'outside', args, args)), count(saga.complete_step(:'s', key, to_jsonb(key), late => 'record'))"
		  . " FROM saga.steps t WHERE saga_id = :'s' AND name = 'outside' AND rolled_back_at IS NOT NULL"
		  . " AND NOT EXISTS (SELECT FROM saga.steps n WHERE n.saga_id = :'s' AND n.key = t.key AND n.run > t.run);\n" if @own;
	}
	my $end = rand();
	if ($end < 0.08) { $sql .= "SELECT saga.fail(:'s', 'in vain');\n\\echo ack failed :s\n"; }
	elsif ($end < 0.12) { $sql .= "SELECT saga.cancel(:'s');\n\\echo ack failed :s\n"; }
	elsif ($end < 0.5) { $sql .= "SELECT saga.wait(:'s', '2 s') AS state \\gset\n\\echo ack :state :s\n"; }
	if (!$seal && $end >= 0.12)
	{
		$sql .= chance(0.8) ? "SELECT saga.complete(:'s', when_done => true);\n"
		  : "SELECT saga.wait_step(:'s', '" . ($steps[-1] =~ /"key": "([^"]+)"/)[0] . "', '1 s');\nSELECT saga.complete(:'s');\n\\echo ack completed :s\n";
	}
	return $sql;
}

sub client
{
	my ($client) = @_;
	my $role = one_of(qw(app_a app_b));
	my $number = 0;
	my $command = "psql -qAtX -v ON_ERROR_STOP=1 -U $role -d '" . $node->connstr('postgres')
	  . "' -f '$dir/client$client.sql' >>'$dir/client$client.out' 2>>'$dir/client$client.err'";

	while (getppid() == $parent)
	{
		# Several in one session: begin is what comes back in the answers.
		my $sql = '';
		$sql .= chance(0.4) ? act_script($client, ++$number) : script($client, ++$number, $role) for 1 .. 1 + int(rand 6);
		open my $file, '>', "$dir/client$client.sql" or POSIX::_exit(1);
		print $file $sql;
		close $file;
		for my $try (1 .. 3)
		{
			last if system($command) == 0;
			usleep(50_000);
			# From the top again: nothing that is known is done twice.
			last if chance(0.4);
		}
	}
	POSIX::_exit(0);
}

# ----------------------------------------------------------------- servants

# Calls a procedure now and then, until the end of the parent.
sub servant
{
	my ($name, $user, $pause, $call) = @_;
	my $command = "psql -qAtX -v ON_ERROR_STOP=1 -U $user -d '" . $node->connstr('postgres') . "'";

	while (getppid() == $parent)
	{
		my $calm = -e "$dir/calm" ? 'true' : 'false';
		my $sql = $call->($calm);
		system(qq{PGOPTIONS='-c lock_timeout=2s' $command -c "$sql" 2>>'$dir/$name.err'});
		usleep(int(rand $pause));
	}
	POSIX::_exit(0);
}

# What is announced only makes a listener quicker: this one asks.
sub consumer
{
	my ($number) = @_;
	return servant("consumer$number", 'consumer', 50_000, sub {
		my ($calm) = @_;
		my $many = one_of(1, 2, 5, 20);
		my $lease = $calm eq 'true' ? '30 s' : one_of('50 ms', '300 ms', '1 s');
		return chance(0.5) ? "CALL serve('consumer $number', $many, '$lease', $calm)"
		  : "CALL work('consumer $number', $many, '$lease', $calm)";
	});
}

sub person
{
	my ($number) = @_;
	return servant("person$number", "person_$number", 200_000, sub { return "CALL decide('person $number', $_[0])"; });
}

# Writes down what is announced, as far as it is connected.
sub listener
{
	my $connect = "psql -AtX -d '" . $node->connstr('postgres') . "'";

	# (psql shows after a statement of its own only.)
	append_to_file("$dir/listen.sql", "LISTEN states;\n" . "SELECT pg_sleep(0.1);\n" x 10000);
	while (getppid() == $parent)
	{
		system("$connect -f '$dir/listen.sql' >>'$dir/heard' 2>/dev/null");
		usleep(50_000);
	}
	POSIX::_exit(0);
}

sub spawn
{
	my ($pids, $main) = @_;
	my $seed = int(rand 1e9);
	my $pid = fork;
	die "fork: $!" if !defined $pid;
	if ($pid == 0)
	{
		# Its end is not the end of the test.
		$SIG{$_} = 'DEFAULT' foreach qw(TERM INT);
		srand $seed;
		# A group of its own, to be ended with what it started
		setpgrp;
		$main->();
	}
	$pids->{$pid} = 1;
	return;
}

=head2 start_soakers($node, $dir, $clients)

Starts so many clients; and two listeners, two people, and one that writes what
is announced to F<heard>.  They go on until they are ended.  Once there is a file
F<calm>, listeners and people do their work well.  Everything is written into
$dir.

=cut

sub start_soakers
{
	($node, $dir, $clients) = @_;
	$begin_of_time = time;
	foreach my $number (1 .. $clients) { spawn(\%clients, sub { client($number) }); }
	foreach my $number (1, 2)
	{
		spawn(\%servants, sub { consumer($number) });
		spawn(\%servants, sub { person($number) });
	}
	spawn(\%servants, \&listener);
	return;
}

sub end_them
{
	my ($pids, $signal) = @_;
	kill $signal, map { -$_ } keys %$pids;
	waitpid $_, 0 foreach keys %$pids;
	%$pids = ();
	return;
}

=head2 end_clients(), end_servants()

Ends the clients; ends the others.

=cut

sub end_clients { end_them(\%clients, 'TERM'); return; }
sub end_servants { end_them(\%servants, 'KILL'); return; }

END
{
	my $code = $?;
	if ($$ == $parent)
	{
		end_clients();
		end_servants();
	}
	$? = $code;
}

=head2 clients_were_told(), soak_errors($who)

What the clients were told, as rows for COPY: what, saga, key.  The errors that
C<client>, C<consumer> or C<person> met, each once.

=cut

sub clients_were_told
{
	my $acks = '';
	foreach my $client (1 .. $clients)
	{
		open my $file, '<', "$dir/client$client.out" or next;
		while (my $line = <$file>)
		{
			$acks .= "$1\t$2\t" . ($3 // '\N') . "\n" if $line =~ /^ack (\w+) ([0-9a-f-]{36})(?: (\S+))?$/;
		}
	}
	return $acks;
}

sub soak_errors
{
	my ($who) = @_;
	my %seen;
	foreach my $name (glob "$dir/$who*.err")
	{
		foreach my $line (split /\n/, slurp_file($name))
		{
			$seen{ $line =~ s/^psql:\S+: //r =~ s/[0-9a-f]{8}-[0-9a-f-]{27}/ID/gr } = 1 if $line =~ /ERROR:/;
		}
	}
	return sort keys %seen;
}

1;
