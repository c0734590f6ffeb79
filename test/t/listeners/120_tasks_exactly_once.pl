# Tasks when services, the worker, executors and with them the whole server are killed: at
# each write and around each commit of every call about a task, at each point of our
# processes, and at random.  What was acknowledged is there, what was not is not, a task
# that nobody reported comes again, and work in the database is done once for each key.
#
# By the real clock, and with short leases: a crash takes back the virtual one.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use List::Util qw(shuffle);
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $seed = $ENV{SAGA_SEED} // int(rand 1_000_000);
srand $seed;
report("seed $seed");

my $node = saga_cluster('main', conf => join "\n",
	'restart_after_crash = on', 'autovacuum = off', 'max_connections = 120', 'log_statement = none', 'saga.max_executors = 2', '');
witness($node);

sub sql { return $node->safe_psql('postgres', $_[0]); }

sql(q{
	-- What was done, by key: nothing protects it, so that twice is twice.
	CREATE TABLE done (n serial, task_key text, attempt integer, who text);
	-- Between two actions, so many tasks; the keys are those of the channel, too
	CREATE FUNCTION make(key text, channel text, tasks integer DEFAULT 1) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key);
	BEGIN
		PERFORM saga.step(id, 'before', action => 'SELECT witness.act($1)', compensation => 'SELECT witness.undo($1)');
		FOR i IN 1..tasks LOOP
			PERFORM saga.step(id, 'task ' || i, task => channel, after => ARRAY[CASE i WHEN 1 THEN 'before' ELSE 'task ' || i - 1 END],
				compensation => 'SELECT witness.undo($1)',
				retry => saga.retry_policy(max_attempts => 1000, delay => '10 ms', backoff => 'constant', jitter => 0, timeout => '1 hour'));
		END LOOP;
		PERFORM saga.step(id, 'then', action => 'SELECT witness.act($1)', compensation => 'SELECT witness.undo($1)');
		PERFORM saga.complete(id, when_done => true);
		RETURN id;
	END $$;
	-- A task, and beside it an action, which waits for a signal, and what comes after that
	CREATE FUNCTION make_wide(key text, channel text) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key);
	BEGIN
		PERFORM saga.step(id, 'task 1', task => channel, compensation => 'SELECT witness.undo($1)'),
			saga.step(id, 'act', after => '{}', signals => '{go}', action => 'SELECT witness.act($1)', compensation => 'SELECT witness.undo($1)'),
			saga.step(id, 'task 2', after => '{act}', task => channel, compensation => 'SELECT witness.undo($1)'),
			saga.complete(id, when_done => true);
		RETURN id;
	END $$;
	CREATE FUNCTION s(key text) RETURNS uuid LANGUAGE sql AS $$ SELECT id FROM saga.sagas WHERE idempotency_key = $1 $$;
	-- Its first task: what is known of it, and its key
	CREATE FUNCTION task(key text) RETURNS saga.ledger_step LANGUAGE sql AS
		$$ SELECT t FROM saga.ledger_step t WHERE saga = s($1) AND t.key = 'task 1' $$;
	CREATE FUNCTION task_key(key text) RETURNS text LANGUAGE sql AS
		$$ SELECT forward_key FROM saga.steps WHERE saga_id = s($1) AND steps.key = 'task 1' $$;
	CREATE FUNCTION claim(key text, lease interval DEFAULT '1 hour') RETURNS integer LANGUAGE sql AS
		$$ SELECT attempt FROM saga.claim_tasks('only ' || key, 1, lease, 'matrix') $$;
	CREATE FUNCTION queued(key text) RETURNS boolean LANGUAGE sql AS
		$$ SELECT count(*) = 1 FROM saga.ledger_queue WHERE saga = s($1) AND since <= clock_timestamp() $$;
	-- Work in the database, and its report, in the transaction of the caller
	CREATE FUNCTION work(task_key text, attempt integer, who text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		n integer;
	BEGIN
		INSERT INTO done (task_key, attempt, who) VALUES (task_key, attempt, who) RETURNING done.n INTO n;
		RETURN saga.complete_task(task_key, to_jsonb(n), attempt);
	END $$;});

# A service that comes after all the others: does whatever is left, also what somebody
# claimed who has died meanwhile; until every saga has come to its end.
sub drain
{
	my ($which) = @_;
	wait_until($node, qq{
		WITH c AS (SELECT DISTINCT channel FROM saga.pending_tasks WHERE claimed_at IS NULL),
			claims AS (SELECT t.task_key, t.attempt FROM c, LATERAL saga.claim_tasks(c.channel, 1000, '1 hour', 'last') t),
			did AS (SELECT work(task_key, attempt, 'last') FROM claims),
			held AS (SELECT work(task_key, attempt, 'heir') FROM saga.pending_tasks WHERE consumer = 'matrix' AND claimed_at IS NOT NULL)
		SELECT (SELECT count(*) FROM did) + (SELECT count(*) FROM held) = 0
			AND NOT EXISTS (SELECT FROM saga.sagas WHERE idempotency_key LIKE '$which' AND state NOT IN ('completed', 'compensated'))});
	done_once($which);
	return;
}

sub done_once
{
	my ($which) = @_;
	is(sql(qq{
		SELECT s.idempotency_key, t.key, t.status, t.attempts, d.times, t.output
		FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id
		LEFT JOIN (SELECT task_key, count(*) AS times, max(n) AS n FROM done GROUP BY 1) d ON d.task_key = t.forward_key
		WHERE task IS NOT NULL AND s.idempotency_key LIKE '$which'
			AND (t.status <> 'completed' OR d.times IS DISTINCT FROM 1 OR t.output IS DISTINCT FROM to_jsonb(d.n))}), '',
		"$which: each task is completed, and its work is there once, with that output") or show_ledger($node, "idempotency_key LIKE '$which'");
	is(sql(qq{
		SELECT s.idempotency_key, t.key FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id
		WHERE s.idempotency_key LIKE '$which' AND task IS NOT NULL AND t.attempts <> (
			SELECT count(*) FROM saga.attempts a WHERE a.saga_id = t.saga_id AND a.seq = t.seq AND phase = 'forward')}), '',
		"$which: every attempt is in the history");
	is(sql(q{SELECT * FROM saga.ledger_queue}), '', "$which: nothing waits") if $which eq '%';
	return;
}

# ------------------------------------------------- the calls about a task
#
# For each: what leaves a task, of the saga with the key K, where nobody else touches it;
# what must be so then; the call, in one transaction with its work; whether it had its effect.

my %calls = (
	'queue' => [ 'SELECT 1', 'SELECT true', q{SELECT make('K', 'only K')}, q{SELECT s('K') IS NOT NULL} ],
	'claim' => [ q{SELECT make('K', 'only K')}, q{SELECT queued('K')}, q{SELECT claim('K')}, q{SELECT (task('K')).claimed_at IS NOT NULL} ],
	'reclaim' => [ q{SELECT make('K', 'only K')}, q{SELECT queued('K') AND claim('K', '1 ms') = 1},
		q{SELECT claim('K')}, q{SELECT (task('K')).attempts = 1 AND (task('K')).claimed_at IS NOT NULL}, q{SELECT queued('K')} ],
	'extend' => [ q{SELECT make('K', 'only K')}, q{SELECT queued('K') AND claim('K', '10 min') = 1},
		q{SELECT saga.extend_claim(task_key('K'), 1, '30 min')},
		q{SELECT (t).lease_until > (t).claimed_at + interval '20 min' FROM task('K') t} ],
	'complete' => [ q{SELECT make('K', 'only K')}, q{SELECT queued('K') AND claim('K') = 1},
		q{SELECT work(task_key('K'), 1, 'matrix')}, q{SELECT (task('K')).status = 'c'} ],
	'webhook' => [ q{SELECT make('K', 'only K')}, q{SELECT queued('K')},
		q{SELECT work(task_key('K'), NULL, 'webhook')}, q{SELECT (task('K')).status = 'c'} ],
	'late' => [ q{SELECT make('K', 'only K')}, q{SELECT queued('K') AND claim('K', '1 ms') = 1},
		q{SELECT work(task_key('K'), NULL, 'late')}, q{SELECT (task('K')).status = 'c'}, q{SELECT queued('K')} ],
	'fail' => [ q{SELECT make('K', 'only K')}, q{SELECT queued('K') AND claim('K') = 1},
		q{SELECT saga.fail_task(task_key('K'), 1, 'no')}, q{SELECT (task('K')).attempts = 1 AND (task('K')).claimed_at IS NULL} ]);

my $count = 0;
sub prepare
{
	my @ready = map { { name => $_, key => 'k' . ++$count } } @_;
	foreach my $one (@ready)
	{
		@$one{qw(make ready call there then)} = map { ($_ // 'SELECT true') =~ s/\bK\b/$one->{key}/gr } @{ $calls{ $one->{name} } }[ 0 .. 4 ];
	}
	sql("\\o /dev/null\n" . join '', map { "$_->{make};\n" } @ready);
	foreach my $one (@ready) { wait_until($node, $one->{$_}) foreach qw(ready then); }
	return @ready;
}

sub those
{
	my ($wanted, @calls) = @_;
	return '' if !@calls;
	my %there = map { split /\|/ } split /\n/, sql(join ' UNION ALL ', map { "SELECT '$_->{key}', ($_->{there})" } @calls);
	return join ', ', map { "$_->{name} at $_->{point}" } grep { (($there{ $_->{key} } // '') eq 't') == $wanted } @calls;
}

# How many writes each has, by failing at each of them
my @names = sort keys %calls;
my %writes;
{
	my @ready = prepare(@names);
	foreach my $one (@ready)
	{
		for (my $n = 1; $n < 30; $n++)
		{
			my $error = sql_error($node, "SET saga.test_faults = 'table.write_$n=error'; BEGIN; $one->{call}; ROLLBACK");
			last if $error eq '';
			like($error, qr/fault point "table.write_$n"/, "$one->{name}: an error after write $n");
			$writes{ $one->{name} } = $n;
		}
		$one->{point} = 'each write';
	}
	is(those(1, @ready), '', 'an error at a write: nothing is changed');
}

# Each call at each of its points, in a session of its own, stands there and is killed:
# one crash serves for all of a lot.
my $dir = PostgreSQL::Test::Utils::tempdir();
my @all = map { my $name = $_; map { [ $name, $_ ] } (map { "table.write_$_" } 1 .. $writes{$name}),
	qw(transaction.before_commit transaction.after_commit wakeup.after_commit) } @names;
while (my @lot = splice @all, 0, 60)
{
	my @ready = prepare(map { $_->[0] } @lot);
	$ready[$_]{point} = $lot[$_][1] foreach 0 .. $#ready;
	my $offset = log_offset($node);
	foreach my $one (@ready)
	{
		append_to_file("$dir/$one->{key}.sql", "SET saga.test_faults = '$one->{point}=wait';\n$one->{call};\n");
		$one->{session} = start_program($one->{key}, {}, 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1',
			'-d', $node->connstr('postgres'), '-f', "$dir/$one->{key}.sql");
	}
	wait_lines($node, qr/waiting at fault point/, $offset, scalar @ready) or die 'not all of them came to their points';
	my @pids = slurp_file($node->logfile, $offset) =~ /\[(\d+)\] client backend .*waiting at fault point/g;
	is(those(1, grep { $_->{point} !~ /after_commit/ } @ready), '', 'standing before a commit: nobody sees anything of it');
	$offset = log_offset($node);
	kill 'KILL', @pids;
	wait_lines($node, qr/\(PID \d+\) was terminated by signal 9/, $offset);
	wait_server($node);
	wait_program($_->{session}) foreach @ready;
	my @before = grep { $_->{point} !~ /after_commit/ } @ready;
	is(those(1, @before), '', 'killed before the commit: there is nothing of it');
	is(those(0, grep { $_->{point} =~ /after_commit/ } @ready), '', 'killed after it: it had its effect');
	# A service that comes up again makes the call again.
	sql("\\o /dev/null\n" . join '', map { "$_->{call};\n" } @before);
	is(those(0, @before), '', 'and the call can be made again');
	acknowledged($node, 'complete_step', sql("SELECT s('$_->{key}')"), 'task 1') foreach grep { $_->{name} =~ /complete|webhook|late/ } @ready;
}
drain('k%');
guarantees($node, undef, idle => 1);

# ------------------------------------------------------ our processes
#
# Tasks are queued by an executor's look, and leases end, while a process of ours is
# killed; the sessions that call are left alone.

my $spare = 'SET saga.test_faults = release;';
foreach my $point (qw(worker.before_turn worker.before_commit worker.after_commit
	executor.before_inflight executor.after_inflight executor.before_mark executor.before_commit executor.after_commit
	executor.before_look executor.before_look_commit executor.after_look_commit channels.before_commit),
	(map { "table.write_$_" } 1 .. 6), 'transaction.before_commit', 'transaction.after_commit')
{
	my $key = "p$point";
	my $channel = 'c ' . ++$count;

	# The worker stands still until leases are over.  (One that just began tells every channel.)
	sql("SELECT make('$key lease ' || n, '$channel') FROM generate_series(1, 3) n");
	wait_queued($node, $channel, 3);
	halt_worker($node);
	if ($point =~ /channels/)
	{
		my $offset = log_offset($node);
		sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'saga worker'});
		wait_lines($node, qr/waiting at fault point/, $offset);
	}
	is(sql("SELECT count(*) FROM saga.claim_tasks('$channel', 3, '1 ms', 'slow')"), 3, "$point: three are claimed") if $point !~ /channels/;
	set_faults($node, "$point=kill once");
	my $holder;
	if ($point =~ /look/)
	{
		# The executor leaves its look to a transaction of its own where it has not got the
		# saga for itself: one has that reports another task.
		my $id = sql("$spare SELECT make_wide('$key wide', '$channel')");
		$holder = session($node);
		$holder->query_safe("$spare BEGIN; SELECT work(task_key('$key wide'), NULL, 'lost')");
		try_psql($node, "$spare SELECT saga.signal('$id', 'go')");
	}
	elsif ($point !~ /^(worker|channels)/)
	{
		try_psql($node, "$spare SELECT make('$key look', '$channel', 2)");
	}
	wait_struck($node) or die "$point does not come";
	hang_up($holder) if $holder;
	wait_server($node);
	set_faults($node, '');
	sql("SELECT make('$key look', '$channel', 2)");
	drain("$key%");
	is(sql(qq{SELECT DISTINCT outcome FROM saga.attempts JOIN saga.sagas s ON s.id = saga_id
		WHERE s.idempotency_key LIKE '$key lease%' AND consumer = 'slow'}), 'timed out', "$point: the leases that ended were charged")
	  if $point !~ /channels/;
}
guarantees($node, undef, idle => 1);

# ----------------------------------------------------------- at random

# Services do their work and report it in one transaction; some claims they extend, some
# they forget, and some come to their end before.
sql(q{
	-- Not empty: no more sagas come.
	CREATE TABLE enough (killed integer);
	CREATE PROCEDURE serve(who text) LANGUAGE plpgsql AS $$
	DECLARE
		t record;
		dice float;
		said text;
	BEGIN
		LOOP
			FOR t IN SELECT task_key, attempt FROM saga.claim_tasks('work', 1 + (random() * 3)::integer, '1 s', who) LOOP
				COMMIT;
				dice := random();
				BEGIN
					IF dice < 0.1 THEN
						PERFORM saga.fail_task(t.task_key, t.attempt, 'not now');
					ELSIF dice < 0.12 THEN
						-- forgotten
						NULL;
					ELSE
						IF dice < 0.3 THEN
							PERFORM saga.extend_claim(t.task_key, t.attempt, '2 s');
						END IF;
						IF dice > 0.8 AND who = 'service 1' THEN
							-- until another has it, or has done it
							FOR i IN 1..3000 LOOP
								EXIT WHEN NOT EXISTS (SELECT FROM saga.pending_tasks p
									WHERE p.task_key = t.task_key AND (p.attempt = t.attempt OR p.claimed_at IS NULL));
								PERFORM pg_sleep(0.01);
							END LOOP;
						END IF;
						said := work(t.task_key, t.attempt, who);
					END IF;
				EXCEPTION WHEN SQLSTATE 'SG002' THEN
					-- its lease was over
					NULL;
				END;
				COMMIT;
				IF dice >= 0.3 THEN
					RAISE INFO 'reported: % %', t.task_key, said;
				END IF;
			END LOOP;
			COMMIT;
			EXIT WHEN EXISTS (SELECT FROM enough)
				AND NOT EXISTS (SELECT FROM saga.sagas WHERE idempotency_key LIKE 'random %' AND state = 'running');
			PERFORM pg_sleep(0.01);
			COMMIT;
		END LOOP;
	END $$});
my @services = map {
	start_program("service$_", {}, 'bash', '-c', qq{
		until psql -XAtq -v ON_ERROR_STOP=1 -d '@{[ $node->connstr('postgres') ]}' -c "CALL serve('service $_')"; do sleep 0.05; done})
} 1 .. 3;
my %process = (
	service => q{query LIKE 'CALL serve%'}, executor => q{backend_type = 'saga executor'}, worker => q{backend_type = 'saga worker'});
my $killed = 0;
foreach my $kind (shuffle((qw(service service executor worker)) x 3))
{
	# Until then, enough of them
	my $done = sql(qq{
		SELECT count(make('random $killed.' || n, 'work', 15)) FROM generate_series(1, 5) n \\g /dev/null
		SELECT count(*) FROM done});
	wait_until($node, "SELECT count(*) >= $done + 15 FROM done");
	wait_until($node, "SELECT count(*) > 0 FROM pg_stat_activity WHERE $process{$kind}");
	my ($pid) = shuffle split /\n/, sql("SELECT pid FROM pg_stat_activity WHERE $process{$kind}");
	my $offset = log_offset($node);
	ok(kill('KILL', $pid), "$kind killed");
	wait_lines($node, qr/\(PID $pid\) was terminated by signal 9/, $offset);
	wait_server($node);
	$killed++;
}
sql("INSERT INTO enough VALUES ($killed)");
# Being there at three crashes, alone, is what parks.
wait_until($node, q{
	WITH again AS (SELECT saga.resolve(saga_id, step, 'retry', 'killed by the test') FROM saga.review_queue WHERE why LIKE '%crashed%')
	SELECT (SELECT count(*) FROM again) = 0 AND NOT EXISTS (SELECT FROM saga.sagas WHERE idempotency_key LIKE 'random %' AND state <> 'completed')});
is(join(' ', map { wait_program($_) } @services), '0 0 0', 'services find nothing more, and end');
done_once('%');
my %reported;
foreach my $service (@services)
{
	my $log = slurp_file($service->{log});
	$reported{$1} = 1 while $log =~ /reported: (\S+) completed/g;
}
my %completed = map { $_ => 1 } split /\n/, sql(q{SELECT forward_key FROM saga.steps WHERE task = 'work' AND status = 'completed'});
is(join(' ', grep { !$completed{$_} } sort keys %reported), '', 'all that was acknowledged is completed');
cmp_ok(scalar keys %reported, '>', 100, 'and that was a good deal');
is(sql(q{SELECT count(*) FROM saga.steps s JOIN saga.steps p ON p.saga_id = s.saga_id AND p.key = ANY (s.after)
	WHERE s.task = 'work' AND s.begun < p.begun}), 0, 'none began before what it comes after');
guarantees($node, undef, idle => 1);

$node->stop;
done_testing();
