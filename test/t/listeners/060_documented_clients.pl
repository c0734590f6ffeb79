# Listeners: the clients that doc/listeners.md points to, as they are, against a
# payment service that writes down every call and fails at random.
#
# First each of the three, through all that can become of one task.  Then many
# sagas at once, SQL and listener steps mixed, while consumers are killed and
# started again, and the server once; in the end every charge of a failed saga is
# refunded once, and in the right order.
#
#   SAGA_CLAIMS_SAGAS   how many (500)
#   SAGA_CLAIMS_SEED    the seed of a former run

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use HTTP::Tiny;
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $sagas = $ENV{SAGA_CLAIMS_SAGAS} || 500;
my $seed = $ENV{SAGA_CLAIMS_SEED} || int(time * 1000) % 1_000_000_007;
diag("SAGA_CLAIMS_SEED=$seed");
srand $seed;
my $begin_of_time = time;

# A role that owns nothing else owns the sagas; the application and the refund
# service are members of it.
my $node = saga_cluster('main', conf => "saga.max_executors = 2\nlog_statement = none\n");
$node->safe_psql('postgres', q{
	CREATE ROLE shop_sagas;
	CREATE ROLE shop LOGIN IN ROLE shop_sagas;
	CREATE ROLE refunder LOGIN IN ROLE shop_sagas;
	GRANT USAGE ON SCHEMA saga TO shop_sagas;
	-- What SQL has undone
	CREATE TABLE undone (at timestamptz DEFAULT clock_timestamp(), saga uuid, seq bigint);
	GRANT INSERT ON undone TO shop;});

my $http = HTTP::Tiny->new(timeout => 30, keep_alive => 0);

# Charges as an application should: again and again, with the same key.
sub charge
{
	my ($payments, $key, $cents) = @_;
	for (1 .. 100)
	{
		my $answer = $http->post("$payments->{url}/charges",
			{ headers => { 'Idempotency-Key' => $key }, content => qq({"cents": $cents}) });
		return $answer->{content} if $answer->{status} == 200;
	}
	die "cannot charge $key";
}

sub shop
{
	my ($sql) = @_;
	return sql_as($node, 'shop', $sql);
}

# --------------------------------------------------------------- one by one

my $payments = start_payments('payments', seed => $seed, bad => 0.2, slow => 0.2);
my $retry = q{saga.retry_policy(max_attempts => 1000, delay => '20 ms', backoff => 'constant', timeout => '10 s')};

# Per channel three sagas: charged, not charged, charged and disputed.
sub fail_three
{
	my ($channel) = @_;
	my %cents = (charged => 499, uncharged => 0, disputed => 13);
	my %saga;
	foreach my $kind (sort keys %cents)
	{
		my ($id, $key) = split /\|/, shop(qq{
			SET ROLE shop_sagas;
			SELECT saga.begin('order') AS s \\gset
			RESET ROLE;
			SELECT saga_id, forward_key
			FROM saga.step(:'s', 'charge', notify => '$channel', compensation_retry => $retry)});
		charge($payments, $key, $cents{$kind}) if $cents{$kind};
		shop("SELECT saga.fail('$id', '$kind')");
		$saga{$kind} = $id;
	}
	return \%saga;
}

sub see_three
{
	my ($language, $saga) = @_;
	wait_state($node, $saga->{charged}, 'compensated');
	wait_state($node, $saga->{uncharged}, 'compensated');
	wait_state($node, $saga->{disputed}, 'needs_review');
	like($node->safe_psql('postgres', "SELECT last_error FROM saga.steps WHERE saga_id = '$saga->{disputed}'"),
		qr/^422 .*disputed/, "$language: a final error parks the saga, and is told");
	my @refunds = grep { $_->{path} eq '/refunds' && $_->{effect} } payments_record($payments);
	foreach my $kind ('charged', 'uncharged')
	{
		my ($key) = $node->safe_psql('postgres', "SELECT compensation_key FROM saga.steps WHERE saga_id = '$saga->{$kind}'");
		is(join(' ', map { $_->{status} } grep { $_->{key} eq $key } @refunds),
			$kind eq 'charged' ? '200' : '404', "$language: $kind: refunded as it should");
	}
}

# And three whose charge is a task: charged and done; charged, and refunded after
# what comes next has failed; refused.
sub record_tasks
{
	my ($channel) = @_;
	my %cents = (done => 499, undone => 500, refused => 14);
	my %saga;
	foreach my $kind (sort keys %cents)
	{
		$saga{$kind} = shop(qq{
			SET ROLE shop_sagas;
			SELECT saga.begin('order') AS s \\gset
			RESET ROLE;
			SELECT :'s' FROM saga.step(:'s', 'charge', task => '$channel', notify => '$channel',
				args => '{"cents": $cents{$kind}}', retry => $retry, compensation_retry => $retry) a,
				saga.step(:'s', 'ship', action => 'SELECT saga.require(@{[$kind eq 'done' ? 'true' : 'false']}, ''out of stock'')') b,
				saga.complete(:'s', when_done => true)});
	}
	return \%saga;
}

sub see_tasks
{
	my ($language, $saga) = @_;
	wait_state($node, $saga->{done}, 'completed');
	wait_state($node, $saga->{$_}, 'compensated') foreach qw(undone refused);
	is($node->safe_psql('postgres', "SELECT reason FROM saga.sagas WHERE id = '$saga->{undone}'"), 'out of stock', "$language: the next step failed");
	like($node->safe_psql('postgres', "SELECT reason FROM saga.sagas WHERE id = '$saga->{refused}'"), qr/^402 .*refused/,
		"$language: a task that is refused for good fails the saga, and is told");
	my @effects = grep { $_->{effect} } payments_record($payments);
	foreach my $kind (sort keys %$saga)
	{
		my ($key, $undo, $output) = split /\|/, $node->safe_psql('postgres',
			"SELECT forward_key, compensation_key, output ->> 'charge' FROM saga.steps WHERE saga_id = '$saga->{$kind}' AND key = 'charge'");
		my ($charge) = grep { $_->{path} eq '/charges' && $_->{key} eq $key } @effects;
		is($output, $charge && $charge->{answer}{charge} // '', "$language: $kind: charged once, and told with which output");
		is(join(' ', map { $_->{status} } grep { $_->{key} eq $undo } @effects),
			{ done => '', undone => '200', refused => '404' }->{$kind}, "$language: $kind: refunded as it should");
	}
}

my @languages = qw(python node sh);
my %before = map { $_ => fail_three("refunds $_") } @languages;
my %listener = map { $_ => start_listener($node, $payments, $_, "refunds $_", user => 'refunder', lease => 10) } @languages;
see_three("$_, what waited for it", $before{$_}) foreach @languages;

# They have nothing to do now, and wait.
my %then = map { $_ => fail_three("refunds $_") } @languages;
my %tasks = map { $_ => record_tasks("refunds $_") } @languages;
see_three("$_, woken", $then{$_}) foreach @languages;
see_tasks($_, $tasks{$_}) foreach @languages;

$node->restart;
%then = map { $_ => fail_three("refunds $_") } @languages;
see_three("$_, the server restarted", $then{$_}) foreach @languages;

foreach my $language (@languages)
{
	is(stop_program($listener{$language}), 0, "$language: ends on SIGTERM");
	my $log = slurp_file($listener{$language}->{log});
	like($log, qr/^\S+ .*stopped$/m, "$language: and says so");
	is(() = $log =~ /\blistening$/mg, 2, "$language: it listened, and again after the restart");
	is($node->safe_psql('postgres', qq{
		SELECT DISTINCT consumer LIKE '% $listener{$language}->{pid}' FROM saga.attempts JOIN saga.steps USING (saga_id, seq)
		WHERE channel = 'refunds $language' AND phase = 'compensation'}), 't',
		"$language: its attempts bear its name");
}
stop_program($payments);
guarantees($node);
note(sprintf 'one by one: %.1f s', time - $begin_of_time);

# ------------------------------------------------------------------- chaos

$begin_of_time = time;
$payments = start_payments('payments2', seed => $seed + 1, bad => 0.15, slow => 2.5);

# The sagas' steps, and what becomes of each before the saga fails:
# r(eported), u(nreported: charged, but the application forgot), n(ot charged)
sub one_of { return $_[ int(rand @_) ]; }
my (@plan, @completes);
foreach my $saga (1 .. $sagas)
{
	push @completes, $saga if rand() < 0.04;
	my @steps = map { one_of('sql', 'r', 'r', 'u', 'n') } 1 .. 1 + int(rand 3);
	# Some of each at least, and several of the listeners' in a row
	push @steps, 'sql' if rand() < 0.5;
	push @steps, 'r', 'r' if rand() < 0.3;
	splice @steps, int(rand @steps), 0, 'mail' if rand() < 0.1;
	push @plan, map { "($saga, " . ($_ + 1) . ", '$steps[$_]')" } 0 .. $#steps;
}
$node->safe_psql('postgres', 'CREATE TABLE plan (saga int, step int, kind text);
	CREATE TABLE real (saga int, id uuid, step int, kind text, seq bigint, forward_key text, compensation_key text);
	CREATE TABLE charge (forward_key text, output jsonb);
	CREATE TABLE effect (n int, at float8, path text, key text, charge text, status int, effect bool, repeated bool);
	GRANT ALL ON plan, real, charge, effect TO shop, shop_sagas;
	INSERT INTO plan VALUES ' . join(', ', @plan));

# The application: begins, steps, charges, reports.
shop(qq{
	SET ROLE shop_sagas;
	INSERT INTO real (saga, id)
		SELECT saga, saga.begin('order', 'order ' || saga) FROM (SELECT DISTINCT saga FROM plan) p;
	RESET ROLE;
	DO \$\$
	DECLARE
		p record;
		s saga.step_result;
	BEGIN
		FOR p IN SELECT plan.*, id FROM plan JOIN real USING (saga) ORDER BY saga, step LOOP
			s := CASE p.kind
				WHEN 'sql' THEN saga.step(p.id, 'sql', p.step::text, completed => true, compensation =>
					'INSERT INTO undone (saga, seq) VALUES ((\$1->''saga''->>''id'')::uuid, (\$1->''step''->''seq'')::bigint)')
				WHEN 'mail' THEN saga.step(p.id, 'mail', p.step::text, notify => 'mails', acknowledge => false)
				ELSE saga.step(p.id, 'charge', p.step::text, notify => 'refunds', compensation_retry => $retry) END;
			INSERT INTO real (saga, id, step, kind, seq, forward_key)
			VALUES (p.saga, p.id, p.step, p.kind, s.seq, s.forward_key);
		END LOOP;
	END \$\$;
	DELETE FROM real WHERE seq IS NULL;
	UPDATE real SET compensation_key = t.compensation_key
		FROM saga.steps t WHERE t.saga_id = id AND t.seq = real.seq;});
my $charges = '';
foreach my $key (split /\n/, shop(q{SELECT forward_key FROM real WHERE kind IN ('r', 'u')}))
{
	$charges .= "$key\t" . charge($payments, $key, 100 + int(rand 900)) . "\n";
}
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/charges", $charges);
shop(qq{
	\\copy charge FROM '$dir/charges'
	SELECT count(saga.complete_step(id, step::text, output)) FROM real JOIN charge USING (forward_key) WHERE kind = 'r'});
shop(qq{SELECT saga.complete(id, ignore_failed => true) FROM (
		SELECT DISTINCT id FROM real WHERE saga = ANY ('{@{[ join ',', @completes ]}}')
			AND NOT EXISTS (SELECT FROM saga.steps WHERE saga_id = id AND status = 'started')) c});
my $charged = () = $charges =~ /\n/g;
note(sprintf '%d sagas with %d charges made: %.1f s', $sagas, $charged, time - $begin_of_time);

sub fail_some
{
	my ($share) = @_;
	shop(qq{
		SELECT count(saga.fail(id, 'the customer left')) FROM (
			SELECT id FROM saga.sagas WHERE state = 'running'
			ORDER BY id LIMIT ceil($sagas * $share)) s});
}

sub wait_refunds
{
	my ($share) = @_;
	my $record = 0;
	# Not all of them are to be refunded.
	for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$record = grep { $_->{path} eq '/refunds' && $_->{effect} } payments_record($payments);
		return if $record >= $charged * $share;
		usleep(20_000);
	}
	die "only $record refunds";
}

# Nobody listens: it waits, and nothing is charged for it.
fail_some(0.2);
wait_until($node, qq{SELECT count(*) >= $sagas * 0.1 FROM saga.pending_compensations WHERE channel = 'refunds'});
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM saga.attempts JOIN saga.steps USING (saga_id, seq)
	WHERE phase = 'compensation' AND channel = 'refunds'}), 0, 'nobody listens, nothing is charged');

my %consumer;
sub consume
{
	my ($language) = @_;
	$consumer{$language} = start_listener($node, $payments, $language, 'refunds',
		name => "chaos_$language", user => 'refunder', lease => 2);
}
consume($_) foreach qw(python node);
my $rounds = 8;
my $kills = 0;
foreach my $round (1 .. $rounds)
{
	wait_refunds(0.8 * $round / ($rounds + 1));
	# More work behind the one that goes; by and by all of it.
	fail_some($round < $rounds ? 0.8 / $rounds : 1);
	my $victim = $round % 3 == 2 ? 'node' : 'python';
	kill_program($consumer{$victim});
	$kills++;
	if ($round == $rounds / 2)
	{
		$node->stop('immediate');
		$node->start;
	}
	consume($victim);
}
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM saga.sagas WHERE state IN ('running', 'compensating'))});
note(sprintf 'all done: %.1f s', time - $begin_of_time);
foreach my $language (sort keys %consumer)
{
	# One that was started only just now would end by the signal itself: when it
	# connects, it has its handlers.
	wait_until($node, qq{SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE '% $consumer{$language}{pid}'});
	is(stop_program($consumer{$language}), 0, "$language ends");
}

# ------------------------------------------------------------------ verdict

my $effects = join '', map {
	join("\t", $_->{n}, $_->{at}, $_->{path}, $_->{key}, $_->{body}{charge} // '\N', $_->{status},
		$_->{effect} ? 't' : 'f', $_->{repeated} ? 't' : 'f') . "\n"
} payments_record($payments);
append_to_file("$dir/effects", $effects);
$node->safe_psql('postgres', qq{
	\\copy effect FROM '$dir/effects'
	CREATE TABLE saga_now AS SELECT * FROM saga.sagas WHERE id IN (SELECT id FROM real);
	CREATE TABLE step_now AS SELECT * FROM saga.steps WHERE saga_id IN (SELECT id FROM real);
	CREATE TABLE attempt_now AS SELECT * FROM saga.attempts
		WHERE saga_id IN (SELECT id FROM real) AND phase = 'compensation';
	CREATE TABLE event_now AS SELECT * FROM saga.events
		WHERE saga_id IN (SELECT id FROM real) AND event = 'late acknowledgement';
	CREATE INDEX ON effect (key);
	CREATE INDEX ON step_now (saga_id, seq);
	CREATE INDEX ON attempt_now (saga_id, seq);
	-- What undid a step, and when
	CREATE TABLE undo AS
		SELECT saga, seq, at FROM undone
		UNION ALL
		SELECT id, seq, to_timestamp(e.at) FROM effect e JOIN real r ON r.compensation_key = e.key WHERE e.effect;
	ANALYZE});
note($node->safe_psql('postgres', q{
	SELECT path, status, effect, repeated, count(*) FROM effect GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4}));
note($node->safe_psql('postgres', q{
	SELECT compensation_kind, outcome, a.error, count(*) FROM attempt_now a JOIN step_now USING (saga_id, seq)
	GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 20}));

my @checks = (
	[ 'every saga is compensated, or was completed', q{
		SELECT id, state, next_action FROM saga_now WHERE state NOT IN ('completed', 'compensated')} ],
	[ 'nothing is pending', q{SELECT * FROM saga.pending_compensations WHERE saga_id IN (SELECT id FROM real)} ],
	[ 'every charge of a failed saga is refunded, once; of a completed one, never', q{
		SELECT c.forward_key, s.state, count(e) FROM charge c
		JOIN real r USING (forward_key) JOIN saga_now s USING (id)
		LEFT JOIN effect e ON e.path = '/refunds' AND e.effect AND e.charge = c.forward_key AND e.status = 200
		GROUP BY 1, 2 HAVING count(e) <> CASE s.state WHEN 'completed' THEN 0 ELSE 1 END} ],
	[ 'every call for a charge had the key of its compensation', q{
		SELECT e.* FROM effect e LEFT JOIN real r ON r.forward_key = e.charge
		WHERE path = '/refunds' AND e.key IS DISTINCT FROM r.compensation_key} ],
	[ 'what was never charged was asked for all the same', q{
		SELECT r.* FROM real r JOIN saga_now s USING (id)
		WHERE kind = 'n' AND (s.state = 'compensated') IS DISTINCT FROM EXISTS (
			SELECT FROM effect e WHERE e.key = compensation_key AND e.effect AND e.status = 404)} ],
	[ 'every step that undoes something was undone once, whatever undoes it', q{
		SELECT r.id, r.seq, r.kind, t.compensation_status, s.state, count(u) FROM real r
		JOIN saga_now s USING (id) JOIN step_now t ON t.saga_id = r.id AND t.seq = r.seq
		LEFT JOIN undo u ON u.saga = r.id AND u.seq = r.seq
		GROUP BY 1, 2, 3, 4, 5
		HAVING count(u) <> CASE WHEN s.state = 'completed' OR r.kind = 'mail' THEN 0 ELSE 1 END
			OR t.compensation_status <> CASE s.state WHEN 'completed' THEN 'registered' ELSE 'compensated' END} ],
	[ 'the undo goes strictly backwards in every saga', q{
		SELECT * FROM (SELECT saga, seq, at, lag(seq) OVER (PARTITION BY saga ORDER BY at) AS before FROM undo) u
		WHERE seq >= before} ],
	[ 'so does the history', q{
		SELECT * FROM (
			SELECT saga_id, seq, compensated_at,
				lag(seq) OVER (PARTITION BY saga_id ORDER BY compensated_at, seq DESC) AS before
			FROM step_now WHERE compensation_status = 'compensated') t
		WHERE seq >= before} ],
	[ 'no attempt began before what started later was undone', q{
		SELECT * FROM attempt_now a JOIN step_now later ON later.saga_id = a.saga_id AND later.seq > a.seq
		WHERE a.started_at < later.compensated_at AND a.outcome <> 'interrupted'} ],
	[ 'no step was marked before it was undone', q{
		SELECT * FROM undo u JOIN step_now t ON t.saga_id = u.saga AND t.seq = u.seq WHERE t.compensated_at < u.at} ],
	[ 'attempts are numbered without gaps, and the last one succeeded, or it was reported late', q{
		SELECT saga_id, seq, array_agg(attempt ORDER BY attempt), array_agg(outcome ORDER BY attempt), late
		FROM attempt_now CROSS JOIN LATERAL (
			SELECT count(*) AS late FROM event_now e
			WHERE e.saga_id = attempt_now.saga_id AND e.seq = attempt_now.seq AND e.event = 'late acknowledgement') l
		GROUP BY saga_id, seq, late
		HAVING min(attempt) <> 1 OR max(attempt) <> count(*)
			OR count(*) FILTER (WHERE outcome = 'succeeded') + late <> 1
			OR late = 0 AND (array_agg(outcome ORDER BY attempt DESC))[1] <> 'succeeded'
			OR late = 1 AND (array_agg(outcome ORDER BY attempt DESC))[1] NOT IN ('timed out', 'failed')} ],
	[ 'what ended otherwise is what was to be expected', q{
		SELECT a.* FROM attempt_now a JOIN step_now t USING (saga_id, seq)
		WHERE outcome <> 'succeeded' AND NOT CASE
			WHEN channel = 'refunds' THEN outcome IN ('failed', 'timed out')
			ELSE outcome = 'interrupted' END} ],
	[ 'the consumers are known by name', q{
		SELECT a.* FROM attempt_now a JOIN step_now t USING (saga_id, seq)
		WHERE channel = 'refunds' AND consumer IS NULL OR channel IS DISTINCT FROM 'refunds' AND consumer IS NOT NULL} ]);
foreach my $check (@checks)
{
	my ($what, $query) = @$check;
	is($node->safe_psql('postgres', "SELECT * FROM ($query) v LIMIT 10"), '', $what);
}
is($node->safe_psql('postgres', q{SELECT count(DISTINCT split_part(consumer, ' ', 1)) FROM attempt_now}), 2,
	'both consumers had a share');
cmp_ok($node->safe_psql('postgres', q{SELECT count(DISTINCT consumer) FROM attempt_now}), '>=', 4, 'so had those in their place');
my $repeated = () = $effects =~ /^\d+\t[\d.]+\t\/refunds.*\tt$/mg;
cmp_ok($repeated, '>', 0, 'the service was asked again for what it had done');

my $log = slurp_file($node->logfile);
unlike($log, qr/TRAP: |PANIC:  |terminated by signal/, 'no crash but those that were made');
my @errors = grep { /saga (launcher|worker|executor) .*(ERROR|WARNING):  / && !/terminating connection because of crash/ }
  split /\n/, $log;
is(join("\n", @errors[ 0 .. ($#errors < 9 ? $#errors : 9) ]), '', 'no error in our processes');
guarantees($node);
stop_program($payments);
note(sprintf '%d kills, all in all %.1f s', $kills, time - $begin_of_time);
$node->stop;
done_testing();
