# A server is killed with -9 at random points under a load of actions: chains,
# branches that an action records and a join, failures that undo, steps that the
# application runs among those of saga's, transient errors; and of what others do for
# sagas: tasks, signals, approvals; and of loops.  In the end nothing is unfinished, all
# balances and counters are exact, and the guarantees hold.
#
# Those who take part find what they do in what is open, so that a thousandth kill
# takes no longer than a tenth, among all that has come to its end by then.
#
#   SAGA_KILLS=1000 test/run --tap 104_killed_server    # 60 in the suite
#   SAGA_SEED=4711 ...                                   # the same points in time

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use List::Util qw(shuffle);
use Test::More;
use Time::HiRes qw(time usleep);

# What is killed, in twenty kills
my @deck = (('executor') x 9, ('client') x 4, ('worker') x 3, ('postmaster') x 2, 'server', 'launcher');
my $kills = $ENV{SAGA_KILLS} // 60;
# In the suite, on a machine that is very busy: fewer
my $seconds = $ENV{SAGA_KILLS} ? undef : 80;
my $seed = $ENV{SAGA_SEED} // int(rand 1_000_000);
srand $seed;
report("seed $seed");

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = on\nlog_statement = 'none'\nsaga.max_executors = 3\n");
witness($node, action => 'SELECT %($1)', sql => 'SELECT %($1)');
$node->safe_psql('postgres', q{
	-- For the join
	CREATE INDEX ON witness.effect (saga);
	CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL DEFAULT 0);
	INSERT INTO account SELECT generate_series(0, 9);
	CREATE TABLE counter (id integer PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
	INSERT INTO counter SELECT generate_series(0, 9);

	-- Adds to an account, or takes away
	CREATE FUNCTION pay(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		IF random() < 0.03 THEN
			RAISE serialization_failure;
		ELSIF random() < 0.03 THEN
			RAISE 'not now';
		END IF;
		UPDATE account SET balance = balance + (context->'args'->>'amount')::integer
		WHERE id = (context->'args'->>'account')::integer;
		RETURN witness.act(context);
	END $$;
	CREATE FUNCTION pay_back(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE account SET balance = balance - (context->'args'->>'amount')::integer
		WHERE id = (context->'args'->>'account')::integer;
		PERFORM witness.undo(context);
	END $$;
	CREATE FUNCTION refuse(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		RAISE 'never' USING ERRCODE = 'SG006';
	END $$;
	-- Records so many branches, which each count one
	CREATE FUNCTION spread(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1..(context->'args'->>'branches')::integer LOOP
			PERFORM saga.step(saga.current(), 'branch ' || i, action => 'SELECT count_one($1)',
				compensation => 'SELECT count_back($1)', args => context->'args', after => '{}');
		END LOOP;
		RETURN witness.act(context);
	END $$;
	CREATE FUNCTION count_one(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE counter SET n = n + 1 WHERE id = (context->'args'->>'counter')::integer;
		RETURN witness.act(context);
	END $$;
	CREATE FUNCTION count_back(context jsonb) RETURNS void LANGUAGE sql AS $$
		UPDATE counter SET n = n - 1 WHERE id = (context->'args'->>'counter')::integer;
		SELECT witness.undo(context) $$;
	-- All branches are done when the join begins.
	CREATE FUNCTION join_all(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		IF (SELECT count(*) FROM witness.effect WHERE saga = saga.current() AND hand = 'action' AND key LIKE 'branch %')
			<> (context->'args'->>'branches')::integer
		THEN
			INSERT INTO too_early VALUES (saga.current());
		END IF;
		RETURN witness.act(context);
	END $$;
	CREATE TABLE too_early (saga uuid);

	CREATE FUNCTION add_pay(id uuid, key text, account integer, amount integer) RETURNS void LANGUAGE sql AS $$
		SELECT saga.step(id, key, action => 'SELECT pay($1)', compensation => 'SELECT pay_back($1)',
			args => jsonb_build_object('account', account, 'amount', amount),
			retry => saga.retry_policy(max_attempts => 1000, delay => '20 ms', backoff => 'constant')) $$;

	-- The sagas.  Each moves from one account to another.
	CREATE PROCEDURE chain() LANGUAGE plpgsql AS $$
	DECLARE
		amount integer := random() * 100;
		id uuid := saga.begin('chain');
	BEGIN
		PERFORM add_pay(id, 'take', (random() * 9)::integer, -amount);
		PERFORM add_pay(id, 'give', (random() * 9)::integer, amount);
		PERFORM saga.step(id, 'wait', delay => '50 ms');
		IF random() < 0.4 THEN
			PERFORM saga.step(id, 'refuse', action => 'SELECT refuse($1)', on_failure => CASE WHEN random() < 0.3 THEN 'skip' END);
		END IF;
		PERFORM saga.complete(id, when_done => true);
	END $$;
	CREATE PROCEDURE branches() LANGUAGE plpgsql AS $$
	DECLARE
		args jsonb := jsonb_build_object('branches', (random() * 8)::integer, 'counter', (random() * 9)::integer);
		id uuid := saga.begin('branches', input => args);
	BEGIN
		PERFORM saga.step(id, 'spread', action => 'SELECT spread($1)', args => args);
		PERFORM saga.step(id, 'join', action => 'SELECT join_all($1)', args => args);
		IF random() < 0.3 THEN
			PERFORM saga.step(id, 'refuse', action => 'SELECT refuse($1)');
		END IF;
		PERFORM saga.complete(id, when_done => true);
	END $$;
	-- Counts one in each round
	CREATE FUNCTION count_rounds(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE counter SET n = n + 1 WHERE id = (context->'args'->>'counter')::integer;
		IF (context->>'round')::integer < (context->'args'->>'rounds')::integer THEN
			PERFORM saga.again(CASE WHEN random() < 0.5 THEN interval '0' ELSE '5 ms' END, context->'round');
		END IF;
		RETURN witness.act(context);
	END $$;
	CREATE FUNCTION count_rounds_back(context jsonb) RETURNS void LANGUAGE sql AS $$
		UPDATE counter SET n = n - (context->>'rounds')::integer WHERE id = (context->'args'->>'counter')::integer;
		SELECT witness.undo(context) $$;
	-- The sagas that wait for an answer, as who is to give it knows them
	CREATE TABLE asking (saga uuid);
	-- What others do for it: a signal, a person, a service that moves the money; and a loop
	CREATE PROCEDURE asked() LANGUAGE plpgsql AS $$
	DECLARE
		args jsonb := jsonb_build_object('rounds', 1 + (random() * 9)::integer, 'counter', (random() * 9)::integer);
		amount integer := random() * 100;
		id uuid := saga.begin('asked', input => args);
	BEGIN
		PERFORM saga.step(id, 'loop', action => 'SELECT count_rounds($1)', compensation => 'SELECT count_rounds_back($1)', args => args),
			saga.step(id, 'answer', after => '{}', signals => '{answer}', compensation => 'SELECT witness.undo($1)');
		PERFORM add_pay(id, 'take', (random() * 9)::integer, -amount);
		IF random() < 0.5 THEN
			PERFORM saga.step(id, 'allowed', approval => 'may it?');
		END IF;
		PERFORM saga.step(id, 'give', task => 'work', compensation => 'SELECT pay_back($1)', compensate_on => 'completed',
			args => jsonb_build_object('account', (random() * 9)::integer, 'amount', amount),
			retry => saga.retry_policy(max_attempts => 1000, delay => '20 ms', backoff => 'constant'));
		IF random() < 0.3 THEN
			PERFORM saga.step(id, 'refuse', action => 'SELECT refuse($1)');
		END IF;
		PERFORM saga.complete(id, when_done => true);
		INSERT INTO asking VALUES (id);
	END $$;
	-- The money that services moved, by key
	CREATE TABLE moved (task_key text, account integer, amount integer);
	CREATE PROCEDURE serve() LANGUAGE plpgsql AS $$
	DECLARE
		t record;
	BEGIN
		FOR t IN SELECT task_key, attempt, (context->'args'->>'account')::integer AS account, (context->'args'->>'amount')::integer AS amount
			FROM saga.claim_tasks('work', 5, '2 s')
		LOOP
			COMMIT;
			BEGIN
				IF random() < 0.1 THEN
					PERFORM saga.fail_task(t.task_key, t.attempt, 'not now');
				ELSIF random() > 0.05 THEN
					UPDATE account SET balance = balance + t.amount WHERE id = t.account;
					INSERT INTO moved VALUES (t.task_key, t.account, t.amount);
					PERFORM saga.complete_task(t.task_key, to_jsonb(t.amount), t.attempt);
				END IF;
			EXCEPTION WHEN SQLSTATE 'SG002' THEN
				-- It is over: another has it, or its saga has failed.
				NULL;
			END;
			COMMIT;
		END LOOP;
	END $$;
	CREATE FUNCTION tell(id uuid) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		RETURN saga.signal(id, 'answer', '42', 'answer-1');
	EXCEPTION WHEN SQLSTATE 'SG002' OR SQLSTATE 'SG005' THEN
		RETURN 'too late';
	END $$;
	-- Tells the same again if it is killed before it has put that down.
	CREATE PROCEDURE tell_some() LANGUAGE plpgsql AS $$
	DECLARE
		id uuid;
		said text;
	BEGIN
		FOR id IN SELECT saga FROM asking LIMIT 3 LOOP
			said := tell(id);
			COMMIT;
			RAISE INFO 'told % %', id, said;
			DELETE FROM asking WHERE saga = id;
			COMMIT;
		END LOOP;
	END $$;
	CREATE PROCEDURE decide() LANGUAGE plpgsql AS $$
	DECLARE
		q record;
	BEGIN
		FOR q IN SELECT saga_id, step FROM saga.review_queue WHERE why LIKE 'approval: %' LOOP
			BEGIN
				PERFORM saga.resolve(q.saga_id, q.step, CASE WHEN random() < 0.9 THEN 'approve' ELSE 'refuse' END, 'no');
			EXCEPTION WHEN SQLSTATE 'SG002' THEN
				NULL;
			END;
			COMMIT;
		END LOOP;
	END $$;
	-- With a step in the middle that the application runs
	CREATE PROCEDURE mixed() LANGUAGE plpgsql AS $$
	DECLARE
		amount integer := random() * 100;
		id uuid := saga.begin('mixed', timeout => '1 day');
		fate float := random();
	BEGIN
		PERFORM add_pay(id, 'take', (random() * 9)::integer, -amount);
		COMMIT;
		PERFORM saga.step(id, 'own', compensation => 'SELECT witness.undo($1)');
		PERFORM add_pay(id, 'give', (random() * 9)::integer, amount);
		COMMIT;
		IF fate < 0.15 THEN
			PERFORM saga.fail(id, 'no');
			RETURN;
		END IF;
		PERFORM saga.complete_step(id, 'own');
		IF fate < 0.3 THEN
			PERFORM saga.cancel(id, 'no');
			RETURN;
		END IF;
		PERFORM saga.complete(id, when_done => true);
	END $$;});

# Clients, who come again when the server does
my $dir = PostgreSQL::Test::Utils::tempdir();
my %scripts = (
	asked => "CALL asked();\nSELECT pg_sleep(random() * 0.1);\n" x 50,
	chain => "CALL chain();\nSELECT pg_sleep(random() * 0.1);\n" x 50,
	branches => "CALL branches();\nSELECT pg_sleep(random() * 0.1);\n" x 50,
	mixed => "CALL mixed();\nSELECT pg_sleep(random() * 0.1);\n" x 50);
# ... and those who do something for the sagas, until all is at rest
my %servants = (
	service => "CALL serve();\nSELECT pg_sleep(0.02);\n" x 20,
	person => "CALL decide();\nSELECT pg_sleep(0.1);\n" x 5,
	sender => "CALL tell_some();\nSELECT pg_sleep(0.02);\n" x 20,
	# Autovacuum is never left alone for long enough.
	housekeeper => "SET default_statistics_target = 10;\n" . "SELECT format('VACUUM (ANALYZE) %s', oid::regclass) FROM pg_class
		WHERE relkind = 'r' AND relnamespace IN ('saga'::regnamespace, 'public'::regnamespace, 'witness'::regnamespace)
		ORDER BY random() LIMIT 1 \\gexec\nSELECT pg_sleep(0.2);\n" x 10);
my (@clients, @servants);
sub start_client
{
	my ($name, $sql, $end) = @_;
	append_to_file("$dir/$name.sql", "\\set ON_ERROR_STOP 0\n" . $sql);
	return start_program($name, { PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres' },
		'bash', '-c', "while [ ! -e $dir/$end ]; do psql -XqAt -f $dir/$name.sql >> $dir/$name.out 2>> $dir/$name.err || sleep 0.05; done");
}
push @clients, start_client($_, $scripts{$_}, 'stop') foreach sort keys %scripts;
push @servants, start_client($_, $servants{$_}, 'rest') foreach sort keys %servants;

# The server's processes, by kind, without asking it
sub processes
{
	my %found;
	my $parent = $node->{_pid};

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		open my $stat, '<', $file or next;
		my $line = <$stat> // next;
		my ($pid, $ppid) = $line =~ /^(\d+) \(.*\) \S (\d+) / or next;
		next if $ppid != $parent;
		open my $title, '<', "/proc/$pid/cmdline" or next;
		my $command = <$title> // next;
		my ($kind) = $command =~ /saga (executor|worker|launcher)/;
		$kind //= $command =~ /\[local\]/ ? 'client' : 'server';
		push @{ $found{$kind} }, $pid;
	}
	return \%found;
}

# A server whose recovery is killed leaves it to others to start it.
sub wait_up
{
	for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		start_again($node) if !kill 0, $node->{_pid};
		return if defined try_psql($node, 'SELECT 1');
		usleep(20_000);
	}
	die 'the server does not come up';
}

my (%killed, @order, @hundreds);
my $n = 0;
my $begun = my $hundred = time;
my $found = $begun;
while ($n < $kills && ($n < @deck || !$seconds || time - $begun < $seconds))
{
	usleep(int(rand 500_000));
	wait_up() if !kill 0, $node->{_pid};
	@order = shuffle @deck if !@order;
	my $kind = $order[0];
	if ($kind eq 'postmaster')
	{
		restart_killed($node);
	}
	else
	{
		my $pids = processes()->{$kind} // [];
		if (!@$pids || !kill 'KILL', $pids->[ rand @$pids ])
		{
			die "there is no $kind to kill" if time - $found > $PostgreSQL::Test::Utils::timeout_default;
			next;
		}
	}
	$found = time;
	shift @order;
	$killed{$kind}++;
	if (++$n % 100 == 0)
	{
		push @hundreds, sprintf '%.0f', time - $hundred;
		$hundred = time;
	}
	# Now and then a crash upon a crash
	next if rand() < 0.15;
	wait_up();
	# Being there at three crashes, alone, is what parks, and none of this test.
	# (Asked of what is due, for there may be a great many steps.)
	wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.ledger_due d JOIN saga.ledger_step t USING (saga)
		WHERE t.crashes > 0 AND t.retry_at IS NOT NULL OR t.comp_crashes > 0 AND t.comp_status IN ('r', 'p'))}) if rand() < 0.5;
}
report(sprintf 'kills in %.0f s: %s', time - $begun, join ', ', map { "$_ $killed{$_}" } sort keys %killed);
report('seconds for each hundred: ' . join ', ', @hundreds) if @hundreds;
is($n, $kills, 'so many kills') if !$seconds;
is(join(', ', sort keys %killed), 'client, executor, launcher, postmaster, server, worker', 'of all kinds') if $n >= @deck;
append_to_file("$dir/stop", '');
wait_program($_) foreach @clients;
wait_up();
sub no_errors
{
	my ($name) = @_;
	my $errors = slurp_file("$dir/$name.err");
	$errors =~ s/^(psql:\S+ )?(FATAL|WARNING|DETAIL|HINT|server closed|\tThis probably|\tbefore or while|.*connection to server|psql: error|CONTEXT|PANIC).*\n//mg;
	my @odd = grep { /ERROR/ && !/ERROR:  (not now)/ } split /\n/, $errors;
	return is(join("\n", @odd), '', "$name: no call failed but by a crash");
}
no_errors($_) foreach sort keys %scripts;

# ------------------------------------------------------------------ verdict

# What a client left in the middle goes one way or the other.
$node->safe_psql('postgres', q{
	SELECT count(CASE WHEN random() < 0.5 THEN saga.fail(id, 'left') ELSE saga.cancel(id, 'left') END)
	FROM saga.sagas s WHERE state = 'running' AND name = 'mixed'
		AND NOT EXISTS (SELECT FROM saga.ledger_saga l WHERE l.id = s.id AND runs = 's')});
# Those that were there at three crashes, alone, which the worker may find out only now
my $calm = time;
wait_until($node, q{
	WITH again AS (SELECT saga.resolve(saga_id, step, 'retry', 'killed by the test') FROM saga.review_queue WHERE why LIKE '%crashed%')
	SELECT (SELECT count(*) FROM again) = 0 AND NOT EXISTS (SELECT FROM saga.sagas WHERE state NOT IN ('completed', 'compensated'))})
  or die 'no end';
append_to_file("$dir/rest", '');
wait_program($_) foreach @servants;
no_errors($_) foreach sort keys %servants;
my %told = map { /INFO:  told (\S+) running$/ ? ($1 => 1) : () } split /\n/, slurp_file("$dir/sender.err");
acknowledged($node, 'signal', $_, 'answer-1') foreach sort keys %told;
cmp_ok(scalar keys %told, '>', 20, 'signals were acknowledged');
is($node->safe_psql('postgres', q{
	SELECT string_agg(name, ', ' ORDER BY name) FROM (
		SELECT name FROM saga.sagas GROUP BY name HAVING bool_or(state = 'completed') AND bool_or(state = 'compensated')) s}),
	'asked, branches, chain, mixed', 'of each kind some came to their end, and some were undone');
my $suspects = $node->safe_psql('postgres', q{
	SELECT count(*) FROM saga.events WHERE event = 'resolved' AND detail->>'resolution' = 'retry'});
report("$suspects suspects") if $suspects;
report(sprintf 'at rest after %.1f s: %s', time - $calm, $node->safe_psql('postgres', q{
	SELECT string_agg(format('%s %s %s', n, name, state), ', ' ORDER BY name, state)
	FROM (SELECT count(*) AS n, name, state FROM saga.sagas GROUP BY name, state) s}) . ', '
	. $node->safe_psql('postgres', q{SELECT string_agg(n || ' ' || hand, ', ') FROM (SELECT hand, count(*) AS n FROM witness.effect GROUP BY 1) h}));

is($node->safe_psql('postgres', 'SELECT sum(balance) FROM account'), 0, 'nothing was lost on the way');
is($node->safe_psql('postgres', q{
	SELECT a.id, a.balance, t.expected FROM account a
	LEFT JOIN (
		SELECT (args->>'account')::integer AS id, sum((args->>'amount')::integer) AS expected
		FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id
		WHERE s.state = 'completed' AND (action LIKE '%pay(%' OR task = 'work') GROUP BY 1) t USING (id)
	WHERE a.balance <> coalesce(t.expected, 0)}), '', 'every account has what completed sagas moved, and nothing else');
is($node->safe_psql('postgres', q{
	SELECT c.id, c.n, t.expected FROM counter c
	LEFT JOIN (
		SELECT (input->>'counter')::integer AS id, sum(coalesce(input->>'branches', input->>'rounds')::integer) AS expected
		FROM saga.sagas WHERE state = 'completed' AND name IN ('branches', 'asked') GROUP BY 1) t USING (id)
	WHERE c.n <> coalesce(t.expected, 0)}), '', 'every branch and every round counted once');
is($node->safe_psql('postgres', q{
	SELECT t.saga_id, t.status, t.attempts, m.times FROM saga.steps t
	FULL JOIN (SELECT task_key, count(*) AS times FROM moved GROUP BY 1) m ON m.task_key = t.forward_key
	WHERE (task = 'work' OR m.task_key IS NOT NULL) AND (t.status = 'completed') IS DISTINCT FROM (coalesce(m.times, 0) = 1)}), '',
	'a task is done once, if and only if it says so');
is($node->safe_psql('postgres', q{
	SELECT t.saga_id, t.output, count(g.used_by_step) FROM saga.steps t LEFT JOIN saga.signals g ON g.saga_id = t.saga_id
	WHERE t.key = 'answer' AND t.status = 'completed' GROUP BY 1, 2 HAVING count(g.used_by_step) <> 1 OR count(*) <> 1}), '',
	'each step that waited for a signal has used one');
is($node->safe_psql('postgres', q{
	SELECT t.saga_id FROM saga.steps t WHERE t.approval IS NOT NULL AND t.status = 'completed' AND NOT EXISTS (
		SELECT FROM saga.events e WHERE e.saga_id = t.saga_id AND e.seq = t.seq AND e.event = 'resolved' AND e.detail->>'resolution' = 'approve')}), '',
	'nothing is done that was not approved');
is($node->safe_psql('postgres', 'SELECT count(*) FROM too_early'), 0, 'no join began too early');
is($node->safe_psql('postgres', q{
	SELECT s.id, s.name, s.reason FROM saga.sagas s WHERE state = 'compensated'
		AND reason NOT IN ('never', 'no', 'refused: no', 'left')}), '', 'no saga failed that was not to');
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.ledger_due}), 0, 'nothing is due');
guarantees($node, undef, idle => 1);
$node->stop;
done_testing();
