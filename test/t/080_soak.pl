# A soak: clients begin, step, complete, fail, cancel and abandon sagas, and
# listeners compensate them, forget to, or are too late, while processes of
# theirs, ours and the server's are killed at random.  In the end the witnesses,
# three tables that anybody may write to twice, must tell the same story as the
# ledger.
#
#   SAGA_SOAK_SECONDS   how long the chaos lasts (10)
#   SAGA_SOAK_SEED      the seed of a former run; what the machine adds to the
#                       chance cannot be repeated

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use POSIX ();
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{SAGA_SOAK_SECONDS} || 10;
my $seed = $ENV{SAGA_SOAK_SEED} || int(time * 1000) % 1_000_000_007;
my $clients = 5;
my $least_events = 8;
diag("SAGA_SOAK_SEED=$seed SAGA_SOAK_SECONDS=$seconds");
srand $seed;

my $node = saga_cluster('main', conf => join "\n",
	'restart_after_crash = on', 'log_statement = none', 'deadlock_timeout = 20ms', 'saga.max_executors = 3',
	# more than will ever be left prepared
	"max_prepared_transactions = 1000", '');

$node->safe_psql('postgres', q{
	CREATE ROLE app_a LOGIN;
	CREATE ROLE app_b LOGIN;
	CREATE ROLE consumer LOGIN IN ROLE app_a, app_b;
	GRANT USAGE ON SCHEMA saga TO app_a, app_b;
	GRANT ALL ON SCHEMA public TO app_a, app_b;

	-- The witnesses, of what was done and of what was undone
	CREATE TABLE effects (n bigserial, saga uuid, key text);
	CREATE TABLE undos (n bigserial, saga uuid, seq bigint, key text, attempt int, output jsonb, refused boolean);
	CREATE INDEX ON undos (saga, seq);
	-- What a listener asked of its service, which goes by the key
	CREATE TABLE calls (n bigint DEFAULT nextval('undos_n_seq'), key text, attempt int, consumer text, at timestamptz DEFAULT clock_timestamp());
	-- What both of them change, in opposite order: deadlocks
	CREATE TABLE account (id int PRIMARY KEY, n int) WITH (fillfactor = 20);
	INSERT INTO account SELECT i, 0 FROM generate_series(1, 4) i;
	GRANT ALL ON ALL TABLES IN SCHEMA public TO app_a, app_b;
	GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app_a, app_b;

	CREATE FUNCTION effect(s uuid, k text, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO effects (saga, key) VALUES (s, k);
		UPDATE account SET n = n + 1 WHERE id = (args->>'a')::int;
		UPDATE account SET n = n + 1 WHERE id = (args->>'b')::int;
	END $$;

	-- A step with its effect, in one transaction: in one call, or in two
	CREATE FUNCTION take(s uuid, k text, args jsonb, calls int, retry saga.retry_policy) RETURNS void
	LANGUAGE plpgsql AS $$
	BEGIN
		IF calls = 1 THEN
			-- Whether it is a repetition, this answer does not tell.
			PERFORM saga.step(s, 'same', k, 'SELECT undo($1)', args, output => to_jsonb(k), compensation_retry => retry);
			IF NOT EXISTS (SELECT FROM effects WHERE saga = s AND key = k) THEN
				PERFORM effect(s, k, args);
			END IF;
		ELSIF (saga.step(s, 'same', k, 'SELECT undo($1)', args, compensation_retry => retry)).status <> 'completed' THEN
			PERFORM effect(s, k, args);
			PERFORM saga.complete_step(s, k, to_jsonb(k));
		END IF;
	END $$;

	-- Leaves its mark first, so that a failed attempt must take it back.
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		args jsonb := context->'args';
		attempt int := context->'attempt';
		bad boolean := attempt <= (args->>'bad')::int;
	BEGIN
		INSERT INTO undos (saga, seq, key, attempt, output, refused)
		VALUES ((context->'saga'->>'id')::uuid, (context->'step'->'seq')::bigint, context->'step'->>'key',
			attempt, nullif(context->'output', 'null'), bad AND args->>'how' = 'commit');
		PERFORM pg_sleep((args->>'nap')::float);
		IF bad AND args->>'how' = 'later' THEN
			RAISE EXCEPTION 'ask again' USING ERRCODE = 'SG007';
		ELSIF bad AND args->>'how' = 'error' THEN
			RAISE EXCEPTION 'not now';
		ELSIF bad AND args->>'how' = 'conflict' THEN
			RAISE EXCEPTION 'serialize' USING ERRCODE = 'serialization_failure';
		END IF;
		IF EXISTS (SELECT FROM effects WHERE saga = (context->'saga'->>'id')::uuid AND key = context->'step'->>'key') THEN
			UPDATE account SET n = n - 1 WHERE id = (args->>'b')::int;
			UPDATE account SET n = n - 1 WHERE id = (args->>'a')::int;
		END IF;
	END $$;
	-- What a listener does with a batch; calm, it does it well.
	CREATE PROCEDURE serve(who text, how_many int, lease interval, calm boolean) LANGUAGE plpgsql AS $$
	DECLARE
		claims jsonb;
		c jsonb;
		chance float;
	BEGIN
		SELECT jsonb_agg(to_jsonb(t)) INTO claims FROM saga.claim_compensations('tasks', how_many, lease, who) t;
		COMMIT;
		FOR c IN SELECT e FROM jsonb_array_elements(claims) e LOOP
			chance := CASE WHEN calm THEN 1 ELSE random() END;
			IF chance < 0.1 THEN
				PERFORM saga.fail_compensation(c->>'compensation_key', (c->>'attempt')::int, 'the service is down', retry_after => '10 ms');
				COMMIT;
				CONTINUE;
			ELSIF chance < 0.2 THEN
				CONTINUE;
			ELSIF chance < 0.3 THEN
				-- perhaps too late
				PERFORM saga.extend_claim(c->>'compensation_key', (c->>'attempt')::int, lease);
				COMMIT;
			ELSIF chance < 0.33 AND (c->>'attempt')::int > 1 THEN
				IF saga.fail_compensation(c->>'compensation_key', (c->>'attempt')::int - 1, 'old news', false) <> 'stale' THEN
					RAISE EXCEPTION 'old news are news';
				END IF;
				COMMIT;
			END IF;
			INSERT INTO calls (key, attempt, consumer) VALUES (c->>'compensation_key', (c->>'attempt')::int, who);
			COMMIT;
			IF chance < 0.4 THEN
				PERFORM pg_sleep(extract(epoch FROM lease) * 1.2);
			ELSIF chance < 0.45 THEN
				CONTINUE;
			END IF;
			IF saga.complete_compensation(c->>'compensation_key', to_jsonb(who)) <> 'compensated' THEN
				RAISE EXCEPTION 'what is done is not done';
			END IF;
			COMMIT;
		END LOOP;
	END $$;
	GRANT ALL ON ALL TABLES IN SCHEMA public TO consumer;
	GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO consumer;
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		RAISE EXCEPTION 'refused at commit';
	END $$;
	CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON undos DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW WHEN (NEW.refused) EXECUTE FUNCTION refuse();});

# ------------------------------------------------------------------ clients

my $dir = PostgreSQL::Test::Utils::tempdir();
my $until = time + $seconds;
my $begin_of_time = time;

sub one_of { return $_[ int(rand @_) ]; }
sub chance { return rand() < $_[0]; }

# The script of one saga.  What is acknowledged is echoed: a crash must not
# take it back.
sub script
{
	my ($client, $number, $role) = @_;
	my $shared = chance(0.15);
	my $key = $shared ? 'shared-' . int((time - $begin_of_time) * 3) : "c$client-$number";
	# The deadline ends what its client forgets.
	my $timeout = chance(0.1) ? 50 + int(rand 300) : 2000 + int(rand 2000);
	# (A key is one saga's, whoever begins it: the same content each time.)
	my $sql = "SELECT saga.begin('soak', '$key', timeout => '"
	  . ($shared ? 2500 : $timeout) . " ms', announce => 'states') AS s \\gset\n\\echo ack begin :s\n";

	foreach my $i (1 .. 1 + int(rand 5))
	{
		my $k = "k$i" . ($shared ? "-c$client-$number" : '');
		my ($a, $b) = (1 + int(rand 4), 1 + int(rand 4));
		my $args = sprintf '{"a": %d, "b": %d, "bad": %d, "how": "%s", "nap": %s}', $a, $b,
		  chance(0.3) ? 1 + int(rand 3) : 0, one_of(qw(later error conflict commit)),
		  chance(0.1) ? '0.05' : chance(0.3) ? '0.005' : '0';
		my $retry = q{saga.retry_policy(max_attempts => 1000, delay => '10 ms', backoff => 'constant')};
		my $calls = one_of(1, 2);
		my $take = "SELECT take(:'s', '%s', '$args', $calls, $retry);\n";
		my $style = one_of(qw(same same same outside outside listener listener forget savepoint none));
		my $nap = chance(0.1) ? "SELECT pg_sleep(0.1);\n" : '';

		if ($style eq 'same')
		{
			$sql .= "BEGIN;\n" . sprintf($take, $k) . "${nap}COMMIT;\n\\echo ack step :s $k\n";
		}
		elsif ($style eq 'savepoint')
		{
			$sql .= "BEGIN;\nSAVEPOINT p;\n" . sprintf($take, "ghost-$k") . "ROLLBACK TO p;\n"
			  . sprintf($take, $k) . "${nap}COMMIT;\n\\echo ack step :s $k\n";
		}
		elsif ($style eq 'none')
		{
			$sql .= "SELECT saga.step(:'s', 'none', '$k', completed => true);\n\\echo ack step :s $k\n";
		}
		elsif ($style eq 'forget')
		{
			$sql .= "SELECT saga.step(:'s', 'forget', '$k', notify => 'mails', acknowledge => false, completed => true);\n\\echo ack step :s $k\n";
		}
		else
		{
			my $step = $style eq 'listener' ? "SELECT saga.step(:'s', 'listener', '$k', notify => 'tasks', args => '$args', compensation_retry => $retry);\n"
			  : "SELECT saga.step(:'s', 'outside', '$k', 'SELECT undo(\$1)', '$args', compensation_retry => $retry);\n";
			$sql .= "$step\\echo ack step :s $k\n$nap";
			$sql .= "SELECT saga.fail_step(:'s', '$k', 'no answer');\n$step" if chance(0.2);
			return $sql if chance(0.05);
			$sql .= "SELECT saga.complete_step(:'s', '$k', '\"$k\"', late => 'record');\n\\echo ack output :s $k\n";
		}
	}

	my $wait = chance(0.3) ? "SELECT saga.wait(:'s', '3 s') AS state \\gset\n\\echo ack :state :s\n" : '';
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
	# The others are left in the middle, some of them in a transaction.
	elsif ($end < 0.85) { $sql .= "BEGIN;\nSELECT saga.step(:'s', 'same', 'never');\nSELECT saga.fail(:'s');\n\\q\n"; }
	return $sql;
}

sub client
{
	my ($client) = @_;
	my $role = one_of(qw(app_a app_b));
	my $number = 0;
	my $command = "psql -qAtX -v ON_ERROR_STOP=1 -U $role -d '" . $node->connstr('postgres')
	  . "' -f '$dir/client$client.sql' >>'$dir/client$client.out' 2>>'$dir/client$client.err'";

	while (time < $until)
	{
		# Several in one session: begin is what comes back in the answers.
		my $sql = '';
		$sql .= script($client, ++$number, $role) for 1 .. 1 + int(rand 6);
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

# A listener that asks now and then; what is announced only makes it quicker.
sub consumer
{
	my ($number) = @_;
	my $parent = getppid();
	my $connect = "psql -qAtX -v ON_ERROR_STOP=1 -U consumer -d '" . $node->connstr('postgres') . "'";

	while (getppid() == $parent)
	{
		my $calm = -e "$dir/calm";
		my $lease = $calm ? '30 s' : one_of('50 ms', '300 ms', '1 s');
		my $many = one_of(1, 2, 5, 20);
		system(qq{$connect -c "CALL serve('consumer $number', $many, '$lease', @{[ $calm ? 'true' : 'false' ]})" 2>>'$dir/consumer$number.err'});
		usleep(int(rand 50_000));
	}
	POSIX::_exit(0);
}

# Writes down what is announced, as far as it is connected.
sub listener
{
	my $parent = getppid();
	my $connect = "psql -AtX -d '" . $node->connstr('postgres') . "'";

	# (psql tells behind a statement of its own only.)
	append_to_file("$dir/listen.sql", "LISTEN states;\n" . "SELECT pg_sleep(0.1);\n" x 10000);
	while (getppid() == $parent)
	{
		system("$connect -f '$dir/listen.sql' >>'$dir/heard' 2>/dev/null");
		usleep(50_000);
	}
	POSIX::_exit(0);
}

my %children;
my %servants;
foreach my $client (1 .. $clients)
{
	my $client_seed = int(rand 1e9);
	my $pid = fork;
	die "fork: $!" if !defined $pid;
	if ($pid == 0)
	{
		# The end of a client is not the end of the test.
		$SIG{$_} = 'DEFAULT' foreach qw(TERM INT);
		srand $client_seed;
		client($client);
	}
	$children{$pid} = 1;
}

foreach my $number (1 .. 3)
{
	my $servant_seed = int(rand 1e9);
	my $pid = fork;
	die "fork: $!" if !defined $pid;
	if ($pid == 0)
	{
		srand $servant_seed;
		# A group of its own, to be ended with what it started
		setpgrp;
		$number < 3 ? consumer($number) : listener();
	}
	$servants{$pid} = 1;
}
END
{
	my $code = $?;
	kill 'KILL', map { -$_ } keys %servants;
	$? = $code;
}

# -------------------------------------------------------------------- chaos

sub try_sql
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	# A psql that leaves before it has read its input is an exception.
	my $code = eval {
		$node->psql('postgres', $sql, stdout => \$out, stderr => \$err,
			timeout => $PostgreSQL::Test::Utils::timeout_default);
	};
	return defined $code && $code == 0 ? $out : undef;
}

# Waits through crashes, which SagaTest's wait_until is not made for.
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

# The processes that an orphaned child keeps busy make a start fail.
sub start
{
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $end)
	{
		# After a failure it takes the old server's file for a running one.
		$node->{_pid} = undef;
		return 1 if $node->start(fail_ok => 1);
		usleep(300_000);
	}
	die 'the server does not start again';
}

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
	'immediate restart' => sub { $node->stop('immediate', fail_ok => 1); start(); return 1; },
	'fast restart' => sub { $node->stop('fast', fail_ok => 1); start(); return 1; },
	'kill the postmaster' => sub {
		my $pid = $node->{_pid};
		$node->kill9;
		for (1 .. 500) { last if !kill 0, $pid; usleep(20_000); }
		start();
		return 1;
	},
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

my @history;
my @coming;
while (time < $until || @history < $least_events)
{
	usleep(int(rand 700_000));
	@coming = sort { $a->[0] <=> $b->[0] } map { [ rand(), $_ ] } sort keys %events if !@coming;
	my $event = (shift @coming)->[1];
	my $at = time - $begin_of_time;
	push @history, sprintf('%.2f %s', $at, $event) if $events{$event}->();
	# Now and then a crash upon a crash
	next if chance(0.15);
	wait_up();
	# Being alone at three crashes is what parks, which is none of this test.
	wait_true(q{SELECT NOT EXISTS (SELECT FROM saga.ledger_step WHERE comp_crashes > 0 AND compensated_at IS NULL)});
}
note("event: $_") foreach @history;
cmp_ok(scalar @history, '>=', $least_events, 'events enough');
$until = 0;
kill 'TERM', keys %children;
waitpid $_, 0 foreach keys %children;
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
	try_sql(one_of('COMMIT', 'ROLLBACK') . " PREPARED '$_'")
	  foreach grep { $_ ne 'client' } split /\n/, $left;
	usleep(50_000);
}
append_to_file("$dir/calm", '');
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.ledger_saga WHERE state IN ('r', 'u') OR to_announce IS NOT NULL)});
usleep(300_000);
kill 'KILL', map { -$_ } keys %servants;
waitpid $_, 0 foreach keys %servants;
%servants = ();

note($node->safe_psql('postgres', q{
	SELECT state, failure_kind, count(*), sum(steps) FROM saga.sagas GROUP BY 1, 2 ORDER BY 1, 2}));
note($node->safe_psql('postgres', q{
	SELECT phase, outcome, sqlstate, count(*) FROM saga.attempts GROUP BY 1, 2, 3 ORDER BY 1, 2, 3}));

# What the clients were told
$node->safe_psql('postgres', 'CREATE TABLE ack (what text, saga uuid, key text)');
my $acks = '';
foreach my $client (1 .. $clients)
{
	next if !-e "$dir/client$client.out";
	foreach my $line (split /\n/, slurp_file("$dir/client$client.out"))
	{
		$acks .= "$1\t$2\t" . ($3 // '\N') . "\n" if $line =~ /^ack (\w+) ([0-9a-f-]{36})(?: (\S+))?$/;
	}
}
append_to_file("$dir/acks", $acks);
$node->safe_psql('postgres', "\\copy ack FROM '$dir/acks'");
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM ack'), '>', 20, 'clients were told something');

$node->safe_psql('postgres', q{
	CREATE TABLE heard (n serial, saga uuid, state text);
	CREATE TABLE saga_now AS SELECT * FROM saga.sagas;
	CREATE TABLE step_now AS SELECT * FROM saga.steps;
	CREATE TABLE late AS SELECT DISTINCT saga_id AS id FROM step_now WHERE parked LIKE 'its result came after %';
	CREATE INDEX ON saga_now (id);
	CREATE INDEX ON step_now (saga_id, seq);
	CREATE INDEX ON effects (saga, key);
	ANALYZE});
append_to_file("$dir/heard.rows", join '', map { "$_\n" } (-e "$dir/heard" ? slurp_file("$dir/heard") : '')
	=~ /"saga_id":"([0-9a-f-]{36}","state":"\w+)"\}/mg);
my $heard = slurp_file("$dir/heard.rows") =~ s/","state":"/\t/gr;
append_to_file("$dir/heard.copy", $heard);
$node->safe_psql('postgres', "\\copy heard (saga, state) FROM '$dir/heard.copy'");
note($node->safe_psql('postgres', q{SELECT 'heard', state, count(*), count(DISTINCT saga) FROM heard GROUP BY 2 ORDER BY 2}));
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM heard'), '>', 20, 'something was announced');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM calls'), '>', 20, 'listeners had something to do');
note($node->safe_psql('postgres', q{SELECT 'calls', count(*), count(DISTINCT key) FROM calls}));
my @checks = (
	[ 'no saga is parked, but for results that came too late', q{
		SELECT id, state, next_action FROM saga_now
		WHERE state NOT IN ('completed', 'compensated')
			AND NOT (state = 'needs_review' AND id IN (SELECT id FROM late))} ],
	[ 'every effect has its step, and is there once', q{
		SELECT e.saga, e.key, count(*) FROM effects e
		LEFT JOIN step_now t ON t.saga_id = e.saga AND t.key = e.key
		GROUP BY e.saga, e.key HAVING count(*) > 1 OR count(t.key) = 0} ],
	[ 'every step that commits with its effect has it', q{
		SELECT saga_id, key FROM step_now t
		WHERE name = 'same' AND NOT EXISTS (SELECT FROM effects WHERE saga = saga_id AND key = t.key)} ],
	[ 'what was rolled back to a savepoint is not there', q{
		SELECT saga_id, key FROM step_now WHERE key LIKE 'ghost%' OR key = 'never'} ],
	[ 'every step of a failed saga is undone once', q{
		SELECT t.saga_id, t.seq, t.key, t.compensation_status, count(u) FROM step_now t
		JOIN saga_now s ON s.id = t.saga_id
		LEFT JOIN undos u ON u.saga = t.saga_id AND u.seq = t.seq
		WHERE s.state = 'compensated' AND t.compensation_kind = 'sql'
		GROUP BY t.saga_id, t.seq, t.key, t.compensation_status
		HAVING count(u) <> 1 OR t.compensation_status <> 'compensated'} ],
	[ 'every step of a failed saga that is a listener\'s was asked of it, and is done', q{
		SELECT t.saga_id, t.seq, t.key, t.compensation_status, count(c) FROM step_now t
		JOIN saga_now s ON s.id = t.saga_id
		LEFT JOIN calls c ON c.key = t.compensation_key
		WHERE s.state = 'compensated' AND t.name = 'listener'
		GROUP BY t.saga_id, t.seq, t.key, t.compensation_status
		HAVING count(c) = 0 OR t.compensation_status <> 'compensated'} ],
	[ 'and no other was', q{
		SELECT c.*, s.state FROM calls c LEFT JOIN step_now t ON t.compensation_key = c.key LEFT JOIN saga_now s ON s.id = t.saga_id
		WHERE s.id IS NULL OR s.state = 'completed' OR t.name <> 'listener'} ],
	[ 'nobody asked before it was claimed', q{
		SELECT c.* FROM calls c JOIN step_now t ON t.compensation_key = c.key
		LEFT JOIN saga.attempts a ON a.saga_id = t.saga_id AND a.seq = t.seq AND a.phase = 'compensation'
			AND a.attempt = c.attempt AND a.consumer = c.consumer AND a.started_at < c.at
		WHERE a IS NULL} ],
	[ 'what is told once is done by that', q{
		SELECT t.*, s.state FROM step_now t JOIN saga_now s ON s.id = t.saga_id
		LEFT JOIN saga.attempts a ON a.saga_id = t.saga_id AND a.seq = t.seq AND a.phase = 'compensation' AND outcome = 'succeeded'
		WHERE t.name = 'forget' AND s.state = 'compensated' AND (t.compensation_status <> 'compensated' OR a IS NULL OR a.attempt > 1)} ],
	[ 'nothing waits for a listener', q{
		SELECT p.* FROM saga.pending_compensations p JOIN saga_now s ON s.id = saga_id WHERE s.state <> 'needs_review'} ],
	[ 'nothing is undone twice, or by chance', q{
		SELECT u.saga, u.seq, count(*) FROM undos u
		LEFT JOIN step_now t ON t.saga_id = u.saga AND t.seq = u.seq AND t.key = u.key
			AND t.compensation_status = 'compensated'
		GROUP BY u.saga, u.seq HAVING count(*) > 1 OR count(t.key) = 0} ],
	[ 'nothing of a completed saga is undone', q{
		SELECT u.* FROM undos u JOIN saga_now s ON s.id = u.saga WHERE s.state = 'completed'} ],
	[ 'the undo goes strictly backwards', q{
		SELECT * FROM (
			SELECT saga, n, seq, lag(seq) OVER (PARTITION BY saga ORDER BY n) AS before FROM (
				SELECT saga, n, seq FROM undos
				UNION ALL
				-- Of a listener, what it did first: late, it may do it again.
				SELECT t.saga_id, min(n), t.seq FROM calls c JOIN step_now t ON t.compensation_key = c.key GROUP BY 1, 3) all_of_them) u
		WHERE seq >= before} ],
	[ 'what was announced is so, and in order', q{
		SELECT saga, heard, state FROM (SELECT saga, array_agg(h.state ORDER BY n) AS heard FROM (
				SELECT saga, state, min(n) AS n FROM heard GROUP BY 1, 2) h GROUP BY saga) x
		LEFT JOIN saga_now s ON s.id = saga
		WHERE s.id IS NULL OR NOT CASE s.state
			WHEN 'completed' THEN heard = '{completed}'
			ELSE heard <@ '{compensating,compensated,needs_review}' AND NOT 'compensating' = ANY (heard[2:]) END} ],
	[ 'each undo is the attempt that succeeded', q{
		SELECT u.saga, u.seq, u.attempt, a.attempt, a.outcome FROM undos u
		LEFT JOIN saga.attempts a ON a.saga_id = u.saga AND a.seq = u.seq
			AND a.phase = 'compensation' AND a.outcome = 'succeeded'
		WHERE u.attempt IS DISTINCT FROM a.attempt} ],
	[ 'each undo got the output that there is', q{
		SELECT u.saga, u.seq, u.output, t.output FROM undos u
		JOIN step_now t ON t.saga_id = u.saga AND t.seq = u.seq
		WHERE u.output IS DISTINCT FROM t.output AND u.saga NOT IN (SELECT id FROM late)} ],
	[ 'the accounts hold what was done less what was undone', q{
		SELECT * FROM (
			SELECT a.id, a.n, (
				SELECT count(*) FILTER (WHERE id = (t.args->>'a')::int)
					+ count(*) FILTER (WHERE id = (t.args->>'b')::int AND t.args->'a' <> t.args->'b')
					+ count(*) FILTER (WHERE id = (t.args->>'b')::int AND t.args->'a' = t.args->'b')
				FROM effects e JOIN step_now t ON t.saga_id = e.saga AND t.key = e.key
				WHERE NOT EXISTS (SELECT FROM undos u WHERE u.saga = t.saga_id AND u.seq = t.seq)) AS expected
			FROM account a) x
		WHERE n <> expected} ],
	[ 'what a client was told stands', q{
		SELECT ack.*, s.state FROM ack LEFT JOIN saga_now s ON s.id = ack.saga
		WHERE NOT CASE what
			WHEN 'begin' THEN s.id IS NOT NULL
			WHEN 'step' THEN EXISTS (SELECT FROM step_now t WHERE t.saga_id = saga AND t.key = ack.key)
			WHEN 'output' THEN EXISTS (SELECT FROM step_now t WHERE t.saga_id = saga AND t.key = ack.key
				AND t.output = to_jsonb(t.key))
			WHEN 'completed' THEN s.state = 'completed'
			WHEN 'failed' THEN s.state IN ('compensated', 'needs_review')
			WHEN 'compensated' THEN s.state IN ('compensated', 'needs_review')
			ELSE true END} ],
	[ 'charged are attempts that failed', q{
		SELECT l.saga, l.seq, l.comp_attempts, l.comp_charged, a.all, a.failed FROM saga.ledger_step l
		CROSS JOIN LATERAL (
			SELECT count(*) AS all, count(*) FILTER (WHERE x.outcome IN ('f', 't')) AS failed
			FROM saga.ledger_attempt x WHERE x.saga = l.saga AND x.seq = l.seq AND x.phase = 'c') a
		WHERE coalesce(l.comp_attempts, 0) <> a.all OR l.comp_charged > a.failed} ],
	[ 'no attempt ended in a way that nobody asked for', q{
		SELECT saga_id, seq, attempt, outcome, sqlstate, error FROM saga.attempts
		WHERE phase = 'compensation' AND NOT (outcome IN ('succeeded', 'interrupted')
			OR outcome = 'deferred' AND sqlstate = 'SG007'
			OR outcome = 'timed out' AND consumer LIKE 'consumer _' AND error LIKE 'its claim ended%'
			OR outcome = 'failed' AND (error IN ('the service is down', 'not now', 'serialize', 'refused at commit') OR sqlstate = '40P01'))} ]);
foreach my $check (@checks)
{
	my ($what, $query) = @$check;
	is($node->safe_psql('postgres', "SELECT * FROM ($query) v LIMIT 10"), '', $what);
}

# The log: no crash that is not ours, and no error of our processes but those
# that user SQL raised.
my $log = slurp_file($node->logfile);
unlike($log, qr/TRAP: |PANIC:  |terminated by signal (?!9\b)/, 'no crash but those that were made');
my @errors = grep { /saga (launcher|worker|executor) .*(ERROR|WARNING):  /
	  && !/ERROR:  a compensation failed/
	  # cancelled, and not in user SQL: one of the events
	  && !/saga (worker|executor) .*ERROR:  canceling statement due to user request/
	  && !/WARNING:  terminating connection because of crash/ } split /\n/, $log;
is(join("\n", @errors[ 0 .. ($#errors < 9 ? $#errors : 9) ]), '', 'no error in our processes');
my $err = join '', map { -e $_ ? slurp_file($_) : () } map { "$dir/client$_.err" } 1 .. $clients;
my %seen;
my @strange = grep { !$seen{$_}++ } map { s/^psql:\S+: //r; } grep { /ERROR:/
	  && !/the undo of saga|is failing|deadlock detected|due to user request|is (completed|compensated|compensating|needs)|prepared transaction with identifier/ } split /\n/, $err;
note("clients met: $_") foreach @strange[ 0 .. ($#strange < 19 ? $#strange : 19) ];
my $consumer_err = join '', map { -e $_ ? slurp_file($_) : () } map { "$dir/consumer$_.err" } 1, 2;
my %wrong = map { $_ => 1 } grep { /ERROR:/ && !/SG002|the claim of step .* is over|due to user request|deadlock detected|SG008|nothing to give|was not dispatched/ }
  map { s/^psql:\S+: //r } split /\n/, $consumer_err;
is(join("\n", (sort keys %wrong)[ 0 .. (keys(%wrong) < 10 ? keys(%wrong) - 1 : 9) ]), '', 'listeners meet with no error but what is to be expected');
guarantees($node);

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

diag("the seed was $seed") if !Test::More->builder->is_passing;
$node->stop;
done_testing();
