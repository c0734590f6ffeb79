# PgBouncer in transaction mode between the application and the server: every
# call works, whichever server connection each of them happens to get, since
# none leaves anything behind in its session.  (LISTEN needs a direct one.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "saga.max_executors = 2\n");
$node->safe_psql('postgres', q{
	CREATE ROLE shop LOGIN;
	-- Pooled clients must not set it for their session.
	ALTER ROLE shop SET saga.capture_settings = 'shop.tenant';
	CREATE ROLE refunder LOGIN IN ROLE shop;
	CREATE ROLE stranger LOGIN;
	GRANT USAGE ON SCHEMA saga TO shop, stranger;
	CREATE TABLE undone (n serial, saga uuid, key text, tenant text);
	GRANT INSERT ON undone TO shop;
	GRANT USAGE ON undone_n_seq TO shop;});
my $undo = q{compensation => $c$INSERT INTO undone (saga, key, tenant)
	VALUES (($1->'saga'->>'id')::uuid, $1->'step'->>'key', current_setting('shop.tenant', true))$c$};

# ---------------------------------------------------------------- PgBouncer

# Two server connections for each role
my $pool = 2;
my $pgbouncer = start_pgbouncer($node, $pool, qw(shop refunder stranger)) or die "no pgbouncer: run .ci/setup\n";

sub pooled { return "host=$pgbouncer->{host} port=$pgbouncer->{port} dbname=postgres user=" . ($_[0] // 'shop'); }

# psql's last -d counts.
sub pooled_session
{
	my ($user) = @_;
	return $node->background_psql('postgres', on_error_stop => 0, extra_params => [ '-d', pooled($user) ]);
}

sub pooled_psql
{
	my ($sql, $user) = @_;
	my $code = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", stdout => \my $out, stderr => \my $err,
		connstr => pooled($user), on_error_stop => 1);
	return $code == 0 ? $out : "$out$err";
}

# ------------------------------------------ one saga, one call after another

my %client = map { $_ => pooled_session() } qw(a b c);
my %backends;

sub backend
{
	my ($who) = @_;
	my $pid = $client{$who}->query_safe('SELECT pg_backend_pid()');
	$backends{$who}{$pid} = 1;
	return $pid;
}

# While one client is in a transaction, the others get the other connection; so
# they can be moved to and fro.
my @connections;
$client{a}->query_safe('BEGIN');
push @connections, backend('a');
push @connections, backend('b');
$client{a}->query_safe('COMMIT');
isnt($connections[0], $connections[1], 'two connections');

my $holder;

# Makes the next calls of all the others go through the other connection: takes
# the free one, and then gives up the one that it held.
sub flip
{
	my $next = pooled_session();
	$next->query_safe('BEGIN');
	my $held = $next->query_safe('SELECT pg_backend_pid()');
	$holder->query_safe('COMMIT') if defined $holder;
	$holder->quit if defined $holder;
	$holder = $next;
	return (grep { $_ != $held } @connections)[0];
}

my $saga;
foreach my $step (
	[ 'begin', 'a', q{SELECT saga.begin('order', 'key 1', '{"a": 1}')}, qr/^[0-9a-f-]{36}$/ ],
	[ 'begin again', 'b', q{SELECT saga.begin('order', 'key 1', '{"a": 1}') = 'SAGA'}, 't' ],
	[ 'step', 'a', qq{SELECT status, attempt FROM saga.step('SAGA', 'reserve', $undo)}, 'started|1' ],
	[ 'step again', 'b', qq{SELECT status, attempt FROM saga.step('SAGA', 'reserve', $undo)}, 'started|2' ],
	[ 'complete_step', 'c', q{SELECT status, output FROM saga.complete_step('SAGA', 'reserve', '2')}, 'completed|2' ],
	[ 'step of a completed one', 'a', qq{SELECT status, output FROM saga.step('SAGA', 'reserve', $undo)}, 'completed|2' ],
	[ 'step with a policy', 'b', qq{SELECT status FROM saga.step('SAGA', 'charge', notify => 'refunds',
		retry => saga.retry_policy(max_attempts => 2), compensation_retry => saga.retry_policy(delay => '10 ms'))}, 'started' ],
	[ 'fail_step', 'a', q{SELECT status, retry_at IS NULL FROM saga.fail_step('SAGA', 'charge', 'no answer')}, 'failed|f' ],
	[ 'step after a failure', 'c', qq{SELECT status, attempt FROM saga.step('SAGA', 'charge', notify => 'refunds',
		retry => saga.retry_policy(max_attempts => 2), compensation_retry => saga.retry_policy(delay => '10 ms'))}, 'started|2' ],
	[ 'fail_step, exhausted', 'a', q{SELECT status, retry_at IS NULL FROM saga.fail_step('SAGA', 'charge', 'no answer')}, 'failed|t' ],
	[ 'the views', 'b', q{
		SELECT state, steps, next_action <> '' FROM saga.sagas WHERE id = 'SAGA';
		SELECT key, status, compensation_kind FROM saga.steps WHERE saga_id = 'SAGA' ORDER BY seq;
		SELECT seq IS NOT NULL, attempt, outcome FROM saga.attempts WHERE saga_id = 'SAGA' AND outcome = 'failed' ORDER BY attempt;
		SELECT event FROM saga.events WHERE saga_id = 'SAGA' AND position = 1},
		"running|2|t\nreserve|completed|sql\ncharge|failed|notify\nt|1|failed\nt|2|failed\nbegun" ],
	[ 'amend', 'b', qq{SELECT saga.amend('SAGA', 'reserve', 'why', $undo)}, '' ],
	[ 'set_timeout', 'c', q{SELECT saga.set_timeout('SAGA', '1 hour') > now(); SELECT saga.set_timeout('SAGA', '0') IS NULL}, "t\nt" ],
	[ 'require', 'a', q{SELECT saga.require(true, 'never')}, '' ],
	[ 'first_id', 'b', q{SELECT 'SAGA' < saga.first_id(now() + interval '1 hour')}, 't' ],
	[ 'wait, until a time', 'c', q{SELECT saga.wait('SAGA', '10 ms')}, 'running' ],
	[ 'fail', 'a', q{SELECT saga.fail('SAGA', 'in vain')}, 'compensating' ],
	[ 'fail again', 'b', q{SELECT saga.fail('SAGA', 'in vain')}, 'compensating' ])
{
	my ($name, $who, $sql, $expected) = @$step;
	my $connection = flip();
	is(backend($who), $connection, "$name: through the other connection");
	$sql =~ s/SAGA/$saga/g if defined $saga;
	my $got = $client{$who}->query_safe($sql);
	$saga //= $got;
	if (ref $expected) { like($got, $expected, $name); }
	else { is($got, $expected, $name); }
}
$holder->query_safe('COMMIT');
$holder->quit;

# The service's side
%client = (%client, map { $_ => pooled_session('refunder') } qw(x y z));
wait_until($node, "SELECT count(*) = 1 FROM saga.pending_compensations WHERE saga_id = '$saga'");
is($client{x}->query_safe(q{SELECT step, channel, attempt, consumer FROM saga.pending_compensations}), 'charge|refunds|1|',
	'pending_compensations');
$client{y}->query_safe('BEGIN');
$client{y}->query_safe('SELECT pg_backend_pid()');
my ($key, $attempt) = split /\|/,
  $client{x}->query_safe(q{SELECT compensation_key, attempt FROM saga.claim_compensations('refunds', 5, '1 minute', 'x')});
is($attempt, 1, 'claim_compensations');
$client{y}->query_safe('COMMIT');
is($client{z}->query_safe(q{SELECT count(*) FROM saga.claim_compensations('refunds', 5)}), 0, 'and nobody else gets it');
is($client{y}->query_safe(qq{SELECT saga.extend_claim('$key', 1, '2 minutes') > now() + interval '90 s'}), 't', 'extend_claim');
is($client{z}->query_safe(qq{SELECT saga.fail_compensation('$key', 1, 'not now')}), 'pending', 'fail_compensation');
is($client{x}->query_safe(qq{SELECT saga.fail_compensation('$key', 1, 'not now')}), 'stale', 'fail_compensation, too late');
wait_until($node, "SELECT count(*) = 1 FROM saga.pending_compensations WHERE saga_id = '$saga' AND attempt = 2 AND consumer IS NULL");
is($client{y}->query_safe(q{SELECT attempt, compensation_key FROM saga.claim_compensations('refunds')}), "2|$key", 'claimed again');
like(pooled_psql("SELECT saga.complete_compensation('$key')", 'stranger'), qr/ERROR:  SG001: /, 'not by a stranger');
like(pooled_psql(q{SELECT saga.complete_compensation('nonsense')}), qr/ERROR:  22023: /, 'not with any key');
is($client{z}->query_safe(qq{SELECT saga.complete_compensation('$key', '{"refund": 1}')}), 'compensated', 'complete_compensation');
is($client{x}->query_safe(qq{SELECT saga.complete_compensation('$key', '{"refund": 1}')}), 'compensated', 'and once more');
is($client{b}->query_safe("SELECT saga.wait('$saga')"), 'compensated', 'the saga is compensated');

# ----------------------------------------------------------- people's calls

# Each through the other connection than the one before
my @ask;
sub decide
{
	my ($name, $sql, $expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	flip();
	push @ask, qw(a b c) if !@ask;
	my $got = $client{ shift @ask }->query_safe($sql =~ s/SAGA/$saga/gr);
	if (ref $expected) { like($got, $expected, $name); }
	else { is($got, $expected, $name); }
	return $got;
}
undef $holder;
$saga = $client{a}->query_safe(q{SELECT saga.begin('order')});
decide("step '$_'", qq{SELECT status FROM saga.step('SAGA', '$_', review => 'look', args => '"secret"', output => '1')}, 'completed') foreach qw(a b);
decide('wait_step', q{SELECT status FROM saga.wait_step('SAGA', 'b', '10 s')}, 'completed');
decide('output', q{SELECT saga.output('a', 'SAGA')}, 1);
decide('find', q{SELECT saga.find('order', 'no such key') IS NULL}, 't');
decide('current', q{SELECT saga.current() IS NULL}, 't');
decide('pause', q{SELECT saga.pause('SAGA', 'why')}, 'running');
decide('resume', q{SELECT saga.resume('SAGA', 'why')}, 'running');
decide('plan', q{SELECT position, step, action FROM saga.plan('SAGA')}, '1|b|person');
decide('timeline', q{SELECT count(*) > 1 FROM saga.timeline('SAGA')}, 't');
decide('picture', q{SELECT saga.picture('SAGA') ~ '^<svg'}, 't');
decide('rollback_to', q{SELECT saga.rollback_to('SAGA', 'a', 'why')}, 'compensating');
wait_state($node, $saga, 'needs_review');
decide('review_queue', q{SELECT step, why <> '' FROM saga.review_queue WHERE saga_id = 'SAGA'}, 'b|t');
decide('resolve', q{SELECT saga.resolve('SAGA', 'b', 'done', 'why')}, 'running');
decide('fail', q{SELECT saga.fail('SAGA')}, 'compensating');
wait_state($node, $saga, 'needs_review');
decide('abandon', q{SELECT saga.abandon('SAGA', 'why')}, 'abandoned');
decide('redact', q{SELECT saga.redact('SAGA')}, '');
decide('what is redacted', q{SELECT count(args) FROM saga.steps WHERE saga_id = 'SAGA'}, 0);
$saga = decide('start', q{SELECT saga.start('purged')}, qr/^[0-9a-f-]{36}$/);
decide('a pivot', q{SELECT status FROM saga.step('SAGA', 'pivot', kind => 'pivot', completed => true)}, 'completed');
decide('fail behind it', q{SELECT saga.fail('SAGA')}, 'needs_review');
decide('reopen', q{SELECT saga.reopen('SAGA', 'why')}, 'running');
decide('complete', q{SELECT saga.complete('SAGA')}, 'completed');
decide('purge', q{SELECT saga.purge('0') > 0}, 't');
decide('what is purged', q{SELECT count(*) FROM saga.sagas WHERE id = 'SAGA'}, 0);
$saga = decide('start', q{SELECT saga.start('tasks')}, qr/^[0-9a-f-]{36}$/);
decide('task', q{SELECT status FROM saga.step('SAGA', 'task', task => 'pooled', after => '{}', compensate_on => 'completed')}, 'waiting');
decide('signal', q{SELECT saga.signal('SAGA', 'ring', '1')}, 'running');
decide('limit', q{SELECT saga.limit('pooled', 5)}, '');
my ($task, $attempt_at_it) = split /\|/, decide('claim_tasks', q{SELECT task_key, attempt FROM saga.claim_tasks('pooled')}, qr/^[0-9a-f-]+-[0-9]+\|1$/);
decide('fail_task', qq{SELECT saga.fail_task('$task', $attempt_at_it, 'no')}, 'failed');
decide('complete_task', qq{SELECT saga.complete_task('$task')}, 'completed');
like(pooled_psql(q{SELECT saga.again()}), qr/ERROR:  SG002: /, 'again is for actions');
$holder->query_safe('COMMIT');
$holder->quit;
# Calls of whoever owns the database; adopt is one of a copy.
like(pooled_psql($_), qr/ERROR:  SG010: /, ($_ =~ /(saga\.\w+)/)[0] . ' is not for everybody')
  foreach q{SELECT saga.adopt()}, q{SELECT saga.reassign('shop'::regrole, 'shop')};
like(pooled_psql(q{SELECT saga.stat_reset()}), qr/ERROR:  42501: /, 'nor is resetting the counters');

# What is there, is here.
my $text = slurp_file(__FILE__);
is(join(' ', grep { $text !~ /\bsaga\.$_\(/ } split /\n/, $node->safe_psql('postgres', q{
	SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'saga'::regnamespace AND proname !~ '^internal'})), '', 'every call is made here');

# ---------------------------------------------- at the same time, and others

# Someone waits on one connection, another fails the saga on the other.
$saga = $client{a}->query_safe(q{SELECT saga.start('order', timeout => '1 hour')});
$client{b}->query_safe(qq{SELECT saga.step('$saga', 'pack', $undo, completed => true)});
background($client{c}, "SELECT 'it is ' || saga.wait('$saga', '3 minutes')");
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%saga.wait%' AND state = 'active' AND pid <> pg_backend_pid()});
is($client{a}->query_safe("SELECT saga.cancel('$saga', 'enough')"), 'compensating', 'cancel, while another waits');
like($client{c}->query('SELECT 1'), qr/it is compensated/, 'who is woken');

# Transactions of several calls, and settings that hold for one of them
$saga = $client{a}->query_safe(q{SELECT saga.begin('order')});
foreach my $who ('a', 'b')
{
	$client{$who}->query_safe('BEGIN');
	$client{$who}->query_safe("SET LOCAL shop.tenant = 'of $who'");
	$client{$who}->query_safe(qq{SELECT saga.step('$saga', 'same', '$who', $undo)});
}
$client{a}->query_safe(q{SAVEPOINT p});
$client{a}->query_safe(qq{SELECT saga.step('$saga', 'same', 'ghost', $undo)});
$client{a}->query_safe('ROLLBACK TO p');
foreach my $who ('b', 'a')
{
	$client{$who}->query_safe(qq{SELECT saga.complete_step('$saga', '$who', '1')});
	$client{$who}->query_safe('COMMIT');
}
is($client{c}->query_safe("SELECT saga.fail('$saga')"), 'compensating', 'two transactions at the same time');
is($client{c}->query_safe("SELECT saga.wait('$saga')"), 'compensated', 'are undone');
is($node->safe_psql('postgres', "SELECT key, tenant FROM undone WHERE saga = '$saga' ORDER BY n"), "b|of b\na|of a",
	'each with its own settings');
$saga = $client{a}->query_safe(q{SELECT saga.begin('order')});
is($client{b}->query_safe(qq{SELECT saga.complete('$saga')}), 'completed', 'complete');

# An error leaves its connection to others as it should be.
like(pooled_psql("SELECT saga.step('$saga', 'more')"), qr/ERROR:  SG002: /, 'an error arrives');
like(pooled_psql("BEGIN; SELECT saga.begin('order', 'gone'); SELECT saga.fail('$saga'); COMMIT"), qr/ERROR:  SG002: /,
	'in a transaction, too');
is($client{c}->query_safe(q{SELECT count(*) FROM saga.sagas WHERE idempotency_key = 'gone'}), 0, 'which is rolled back');

foreach my $who ('a', 'b', 'c')
{
	is(join(' ', sort keys %{ $backends{$who} }), join(' ', sort @connections), "client $who has used both connections");
}
$_->quit foreach values %client;

# ----------------------------------- listeners that were connected through it

# They notice that nothing wakes them, say so, and poll.
my $payments = start_payments('payments');
my @languages = qw(python node sh);
my %listener = map { $_ => start_listener($node, $payments, $_, "pooled $_", user => 'refunder', host => $pgbouncer->{host}, port => $pgbouncer->{port}) } @languages;

sub wait_listener
{
	my ($language, $pattern) = @_;
	for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if slurp_file($listener{$language}->{log}) =~ $pattern;
		select undef, undef, undef, 0.02;
	}
	diag(slurp_file($listener{$language}->{log}));
	return 0;
}
foreach my $language (@languages)
{
	ok(wait_listener($language, qr/notifications do not arrive: connect directly/), "$language: notices the pooler");
}
my %task = map { $_ => $node->safe_psql('postgres', qq{
	SELECT saga.begin('order') AS s \\gset
	SELECT FROM saga.step(:'s', 'charge', notify => 'pooled $_');
	SELECT id FROM saga.sagas WHERE id = :'s' AND saga.fail(:'s') <> ''}, extra_params => [ '-U', 'shop' ]) } @languages;
foreach my $language (@languages)
{
	wait_state($node, $task{$language}, 'compensated');
	is(stop_program($listener{$language}), 0, "$language: has done what came after that");
}
stop_program($payments);

# ------------------------------------------- many clients, few connections

my $files = PostgreSQL::Test::Utils::tempdir();
append_to_file("$files/app.sql", qq{
\\set end random(1, 3)
SELECT saga.begin('trip') AS s \\gset
SELECT forward_key FROM saga.step(:'s', 'seat', $undo, completed => true);
SELECT forward_key FROM saga.step(:'s', 'charge', notify => 'trips') \\gset
\\if :end = 1
SELECT saga.complete_step(:'s', 'charge', to_jsonb(:'forward_key'::text), forward_key => :'forward_key');
SELECT saga.complete(:'s');
\\elif :end = 2
SELECT saga.complete_step(:'s', 'charge', to_jsonb(:'forward_key'::text)), saga.fail(:'s');
\\else
SELECT saga.cancel(:'s');
\\endif
} =~ s/:'(\w+)'/:$1/gr =~ s/\n\tVALUES/ VALUES/r);
append_to_file("$files/service.sql", q{
SELECT count(saga.complete_compensation(compensation_key, to_jsonb(attempt)))
FROM saga.claim_compensations('trips', 10, '1 minute', 'service');
});

# pgbench's variables are parameters of the extended protocol, or text.
my @pgbench = (
	[ 'shop', 12, 40, 'app' ],
	[ 'refunder', 6, 200, 'service' ]);
my @running = map {
	my ($user, $clients, $transactions, $file) = @$_;
	start_program("pgbench_$file", {}, 'pgbench', '-n', '-M', 'extended', '-c', $clients, '-j', 2, '-t', $transactions,
		'-f', "$files/$file.sql", pooled($user));
} @pgbench;
foreach my $program (@running)
{
	is(wait_program($program), 0, "$program->{name} runs through") or diag(slurp_file($program->{log}));
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE name = 'trip'}), 12 * 40, 'that many sagas');
cmp_ok($node->safe_psql('postgres', q{
	SELECT count(DISTINCT pid) FROM pg_stat_activity WHERE usename = 'shop' AND backend_type = 'client backend'}),
	'<=', $pool, 'on that few connections');
# What is left when the application has ended
for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if pooled_psql(q{
		SELECT count(saga.complete_compensation(compensation_key))
		FROM saga.claim_compensations('trips', 50, consumer => 'the last one');
		SELECT count(*) FROM saga.sagas WHERE name = 'trip' AND state = 'compensating'}, 'refunder') =~ /\n0$/;
	select undef, undef, undef, 0.02;
}
is($node->safe_psql('postgres', q{
	SELECT bool_and(state = 'completed' OR (state = 'compensated' AND EXISTS (SELECT FROM undone WHERE saga = id)))
	FROM saga.sagas WHERE name = 'trip'}), 't', 'each has its end');
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT (saga, key)) FROM undone})
	=~ s/^(\d+)\|\1$/the same/r, 'the same', 'and nothing was undone twice');
is($node->safe_psql('postgres', q{
	SELECT DISTINCT outcome, attempt FROM saga.attempts JOIN saga.steps USING (saga_id, seq)
	WHERE channel = 'trips' AND phase = 'compensation'}), 'succeeded|1', 'each claim was good for one attempt');

stop_program($pgbouncer);
guarantees($node);
$node->stop;
done_testing();
