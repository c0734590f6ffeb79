# Whose rights: each compensation runs as the role that registered it, in a
# session that nothing of an earlier one is left in; whoever lost the ground to
# do so is parked with the reason; and what it was about stays out of the log.
# The numbers are those of doc/security.md.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\nsaga.max_executors = 2\nlog_min_messages = info\nlog_error_verbosity = verbose\n");
my $super = $node->safe_psql('postgres', 'SELECT current_user');
$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE boss;
	GRANT boss TO alice;
	GRANT USAGE ON SCHEMA saga TO PUBLIC;
	GRANT CREATE ON SCHEMA public TO PUBLIC;
	CREATE TABLE witness (n serial, what text, u name, s name, extra text);
	GRANT ALL ON witness TO PUBLIC;
	GRANT ALL ON SEQUENCE witness_n_seq TO PUBLIC;
	CREATE FUNCTION note(what text, extra text DEFAULT NULL) RETURNS integer LANGUAGE sql VOLATILE AS
		'INSERT INTO public.witness (what, u, s, extra) VALUES ($1, current_user, session_user, $2) RETURNING n';
	CREATE TABLE deferred (id integer);
	GRANT ALL ON deferred TO PUBLIC;
	CREATE FUNCTION note_trigger() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM public.note('deferred trigger'); RETURN NULL; END $$;
	CREATE CONSTRAINT TRIGGER note AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION note_trigger();});
create_failed($node, keyless => 1, retry => 'saga.retry_policy(max_attempts => 1)');

# Fails a saga of the role and waits; returns its state, and why it is parked
sub compensate
{
	my ($user, $compensation, $before, $args) = @_;
	$args = defined $args ? "'$args'" : 'NULL';
	my $out = sql_as($node, $user, ($before // '') . qq{;
		SELECT failed(\$c\$$compensation\$c\$, $args) AS id \\gset
		SELECT saga.wait(:'id');
		SELECT coalesce(parked, '') FROM saga.steps WHERE saga_id = :'id'});
	return join(' ', grep { $_ ne '' } split /\n/, $out);
}

sub written
{
	my ($columns) = @_;
	return $node->safe_psql('postgres', 'WITH gone AS (DELETE FROM witness RETURNING *) SELECT '
		. ($columns // 'what, u, s') . ' FROM gone ORDER BY n');
}

# --- Each as its own role, up to the commit

foreach my $user (qw(alice bob))
{
	is(compensate($user, q{
		SELECT note('statement');
		INSERT INTO deferred VALUES (1);
		DECLARE c CURSOR WITH HOLD FOR SELECT note('hold cursor');
		DO $$ BEGIN PERFORM note('block'); END $$}), 'compensated', "$user compensates");
	is(join(' ', sort split /\n/, written()),
		join(' ', map { "$_|$user|$user" } 'block', 'deferred trigger', 'hold cursor', 'statement'), "N2: everything of it as $user");
}

foreach my $try ('RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT', 'SET ROLE NONE',
	q{SELECT set_config('role', 'none', false)})
{
	compensate('alice', "$try; SELECT note('after')");
	is(written(), 'after|alice|alice', "N1: $try gains nothing");
}
foreach my $try ("SET SESSION AUTHORIZATION $super", "SET ROLE $super", "SELECT set_config('session_authorization', '$super', false)",
	"SELECT set_config('role', 'bob', true)", 'SET LOCAL ROLE bob')
{
	like(compensate('alice', "$try; SELECT note('after')"), qr/^needs_review .*permission denied/, "N1: $try is refused");
	is(written(), '', 'and nothing is done');
}
like(compensate('alice', q{SET ROLE boss; SELECT note('boss')}), qr/^needs_review .*changed the role/,
	'N1: a role that it may become must be left again');
is(written(), '', 'or nothing is done');
is(compensate('alice', q{SET ROLE boss; SELECT note('boss'); RESET ROLE}), 'compensated', 'left again, it is done');
is(written(), 'boss|boss|alice', 'as that role');
is(compensate('alice', q{SELECT note('next')}) . ' ' . written(), 'compensated next|alice|alice', 'N7: the next is itself');

# A definer's step is the definer's
$node->safe_psql('postgres', q{
	CREATE FUNCTION definer(id uuid) RETURNS text LANGUAGE sql SECURITY DEFINER AS
		$$ SELECT status FROM saga.step(id, 'd', compensation => 'SELECT public.note(''definer'')') $$;
	ALTER FUNCTION definer(uuid) OWNER TO bob;
	GRANT alice TO bob;});
is(sql_as($node, 'alice', q{
	SELECT saga.begin('order') AS id \gset
	SELECT count(saga.step(:'id', 'own', compensation => 'SELECT note(''own'')'));
	SELECT definer(:'id');
	SELECT string_agg(run_as::text, ' ' ORDER BY seq) FROM saga.steps WHERE saga_id = :'id';
	SELECT saga.fail(:'id');
	SELECT saga.wait(:'id')}), "1\nstarted\nalice bob\ncompensating\ncompensated", 'a saga with steps of two roles');
is(written(), "definer|bob|bob\nown|alice|alice", 'N12: runs each as its own role');
$node->safe_psql('postgres', 'REVOKE alice FROM bob');

# --- Nothing is left behind

is(compensate('alice', q{
	SET search_path = pg_catalog; SET statement_timeout = '1 ms'; SET work_mem = '64kB';
	RESET statement_timeout;
	SET my.own = 'left';
	CREATE TEMP TABLE left_behind (a integer); CREATE TEMP SEQUENCE left_sequence;
	PREPARE left_prepared AS SELECT 1;
	DECLARE left_cursor CURSOR WITH HOLD FOR SELECT 1;
	SELECT pg_advisory_lock(42);
	SET default_transaction_isolation = 'serializable'; SET default_transaction_read_only = on;
	SET TIME ZONE 'Asia/Tokyo'; SET DateStyle = 'German'; SET synchronous_commit = on}),
	'compensated', 'a compensation leaves much behind');
is($node->safe_psql('postgres', 'SELECT pg_try_advisory_lock(42)'), 't', 'N7: session locks are given back');
is(compensate('alice', q{
	SELECT public.note('left', concat_ws(',', current_setting('search_path'), current_setting('work_mem'),
		nullif(current_setting('my.own', true), ''), to_regclass('left_behind'), to_regclass('left_sequence'),
		(SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors WHERE name LIKE 'left%'),
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
		current_setting('transaction_isolation'), current_setting('transaction_read_only'), current_setting('synchronous_commit'),
		current_setting('TimeZone') = 'Asia/Tokyo'));
	CREATE TEMP TABLE left_behind (b text)}), 'compensated', 'the next one');
is(written('extra'), '"$user", public,4MB,0,0,0,read committed,off,off,f', 'N7: finds nothing of it');

# --- What the step kept

$node->safe_psql('postgres', q{CREATE SCHEMA tenant; GRANT USAGE ON SCHEMA tenant TO PUBLIC;
	CREATE FUNCTION tenant.here() RETURNS text LANGUAGE sql AS $$ SELECT current_setting('app.tenant', true) $$});
my $kept = q{SET search_path = tenant, public; SET app.tenant = 'seven'; SET saga.capture_settings = 'app.tenant, work_mem'; SET work_mem = '123kB'};
is(compensate('alice', q{SELECT note('kept', concat_ws(',', here(), current_setting('work_mem'), current_setting('search_path')))}, $kept),
	'compensated', 'search_path and captured settings');
is(written('extra'), 'seven,123kB,tenant, public', 'are set again');
is(compensate('alice', q{SELECT note('kept', concat_ws(',', current_setting('app.tenant', true), current_setting('work_mem'), current_setting('search_path')))})
	. ' ' . written('extra'), 'compensated 4MB,"$user", public', 'N7: and gone again: the custom one is not there');

# --- Lost ground

# A failed saga of the role, held back until something was done to it
sub after
{
	my ($user, $what) = @_;
	my $id = sql_as($node, $user, q{
		SELECT saga.begin('order') AS id \gset
		SELECT saga.step(:'id', 'a', compensation => 'SELECT public.note(''done'')') AS s \gset
		SELECT :'id'});
	$node->safe_psql('postgres', $what);
	$node->safe_psql('postgres', "SELECT saga.fail('$id')");
	wait_until($node, "SELECT state IN ('needs_review', 'compensated') FROM saga.sagas WHERE id = '$id'");
	my $result = $node->safe_psql('postgres', qq{
		SELECT state, compensation_status, parked FROM saga.sagas JOIN saga.steps ON saga_id = id WHERE id = '$id'});
	$result .= ' ' . written('u, s');
	return $result;
}

$node->safe_psql('postgres', 'CREATE ROLE carol LOGIN; CREATE ROLE dave LOGIN; CREATE ROLE erin LOGIN; CREATE ROLE frank LOGIN');
is(after('carol', 'ALTER ROLE carol RENAME TO caroline'),
	'needs_review|failed|role "carol" was renamed to "caroline", or another role took its place ', 'N13: renamed');
is(after('dave', 'DROP ROLE dave'), 'needs_review|failed|role "dave" no longer exists ', 'N13: dropped');
is(after('erin', 'DROP ROLE erin; CREATE ROLE erin LOGIN SUPERUSER'), 'needs_review|failed|role "erin" no longer exists ',
	'N13: dropped, and another by the name');
is(after('frank', 'ALTER ROLE frank NOLOGIN'), 'needs_review|failed|role "frank" may no longer log in ', 'N13: NOLOGIN')
  if $node->pg_version < 17;
$node->safe_psql('postgres', 'ALTER ROLE frank LOGIN; GRANT CONNECT ON DATABASE postgres TO alice, bob');
is(after('frank', 'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC'),
	'needs_review|failed|role "frank" may no longer connect to the database ', 'N13: CONNECT revoked');
$node->safe_psql('postgres', 'GRANT CONNECT ON DATABASE postgres TO PUBLIC');
# An executor of alice may be there from before; a new one is moved at connect.
$node->safe_psql('postgres', 'CREATE ROLE grace LOGIN; GRANT boss TO grace');
like(after('grace', 'ALTER ROLE grace SET role = boss'),
	qr/^needs_review\|failed\|a session of role "grace" runs as "boss" \(see ALTER ROLE \.\.\. SET role\) $/, 'N1: moved at connect');
is(after('bob', 'ALTER ROLE bob CONNECTION LIMIT 0 VALID UNTIL \'2000-01-01\''), 'compensated|compensated| bob|bob',
	'N13: limits of logins are none of its business');

# Superusers
is(compensate($super, q{SELECT note('super')}) . ' ' . written('u'), "compensated $super", 'a superuser is compensated');
like(after($super, q{ALTER SYSTEM SET saga.allow_superuser = off; SELECT pg_reload_conf()}),
	qr/^needs_review\|failed\|role "\Q$super\E" is a superuser and saga\.allow_superuser is off $/, 'N1: unless saga.allow_superuser is off');
like(sql_error($node, q{SELECT failed('SELECT 1')}), qr/ERROR:  SG010: .*superuser.*\n.*saga\.allow_superuser is off/, 'N1: nor may it register one then');
is(after('alice', 'ALTER ROLE alice SUPERUSER'), 'needs_review|failed|role "alice" is a superuser and saga.allow_superuser is off ',
	'N1: nor one that became superuser');
$node->safe_psql('postgres', 'ALTER ROLE alice NOSUPERUSER');
is(compensate('alice', q{SELECT note('back')}) . ' ' . written('u'), 'compensated alice', 'and is no more');

# A role that cannot log in
$node->safe_psql('postgres', 'GRANT boss TO bob');
like(sql_error($node, q{SET ROLE boss; SELECT failed('SELECT 1')}, 'postgres', extra_params => [ '-U', 'alice' ]),
	qr/ERROR:  SG010: .*cannot log in(.*\n)+?HINT:  ALTER ROLE boss LOGIN PASSWORD NULL/, 'N13: refused at registration')
  if $node->pg_version < 17;

# --- A role is lost between two steps of sagas that go on regardless

$node->safe_psql('postgres', 'CREATE ROLE kate LOGIN; CREATE ROLE liam LOGIN; CREATE ROLE mona LOGIN');
my %lost = (
	kate => [ 'ALTER ROLE kate RENAME TO katherine', qr/renamed/ ],
	liam => [ 'ALTER ROLE liam NOLOGIN', qr/log in/ ],
	mona => [ 'DROP ROLE mona', qr/no longer exists/ ]);
delete $lost{liam} if $node->pg_version >= 17;
foreach my $user (sort keys %lost)
{
	my ($how, $why) = @{ $lost{$user} };
	my $from = log_offset($node);
	# The executor that ran the first saga is still there.
	my @ids = split /\n/, sql_as($node, $user, q{
		SELECT saga.begin('order', on_compensation_failure => 'continue') AS id, saga.begin('warm') AS warm \gset
		SELECT saga.step(:'id', 'step ' || n, compensation => 'SELECT 1', compensation_retry => saga.retry_policy(max_attempts => 2, delay => '10 ms'))
			FROM generate_series(1, 3) n \g /dev/null
		SELECT saga.begin('order') AS halted \gset
		SELECT saga.step(:'halted', 'a', compensation => 'SELECT 1') \g /dev/null
		SELECT saga.step(:'warm', 'a', compensation => 'SELECT 1') \g /dev/null
		SELECT saga.fail(:'warm') \g /dev/null
		SELECT saga.wait(:'warm') \g /dev/null
		SELECT unnest(ARRAY[:'id', :'halted'])});
	$node->safe_psql('postgres', $how);
	$node->safe_psql('postgres', "SELECT saga.fail('$_')") foreach @ids;
	wait_state($node, $_, 'needs_review') foreach @ids;
	my @errors = split /\n/, $node->safe_psql('postgres', "SELECT last_error FROM saga.steps WHERE saga_id IN ('$ids[0]', '$ids[1]')");
	is(scalar(grep { $_ =~ $why } @errors), 4, "N13: $how: every step is parked with the reason");
	my @fatal = slurp_file($node->logfile, $from) =~ /FATAL:/g;
	cmp_ok(scalar(@fatal), '<', 5, "$how: no executor is started again and again");
}

# --- Back to a role whose executor is still putting the saga down

$node->safe_psql('postgres', 'CREATE ROLE nora LOGIN; CREATE ROLE otto LOGIN; GRANT nora TO otto');
my @stuck = ();
foreach my $n (1 .. 15)
{
	# What is behind the first compensation takes a while to be cleared away.
	my $id = sql_as($node, 'otto', q{
		SET ROLE nora;
		SELECT saga.begin('order') AS id \gset
		SELECT saga.step(:'id', '1', compensation => 'SELECT 1') \g /dev/null
		SET ROLE otto;
		SELECT saga.step(:'id', '2', compensation => 'SELECT 1') \g /dev/null
		SET ROLE nora;
		SELECT saga.step(:'id', '3', compensation => $$CREATE TEMP TABLE a (t text PRIMARY KEY); CREATE TEMP TABLE b (t text PRIMARY KEY);
			CREATE TEMP TABLE c (t text PRIMARY KEY); CREATE TEMP TABLE d (t text PRIMARY KEY)$$) \g /dev/null
		SELECT saga.fail(:'id') \g /dev/null
		SELECT :'id'});
	push @stuck, $id unless wait_state($node, $id, 'compensated');
}
is("@stuck", '', 'a saga that comes back at once is not forgotten');

# --- Secrets

my $canary = 'canary7f3a';
my $offset = log_offset($node);
my $sees = session($node);
my $arguments = qq{{"secret": "$canary args"}};
my $secret = "/* $canary comment */ ";
foreach my $case (
	[ 'success', q{SELECT note('secret', $1->'args'->>'secret')}, 'compensated' ],
	[ 'notice', q{DO $$ BEGIN RAISE WARNING 'canary7f3a notice'; RAISE LOG 'canary7f3a log'; END $$}, 'compensated' ],
	[ 'failure', q{SELECT ($1->'args'->>'secret')::integer}, 'needs_review' ],
	[ 'error in a block', q{DO $$ BEGIN RAISE EXCEPTION 'canary7f3a error' USING DETAIL = 'canary7f3a detail', HINT = 'canary7f3a hint'; END $$}, 'needs_review' ],
	[ 'syntax', q{DO $$ BEGIN canary7f3a; END $$}, 'needs_review' ],
	[ 'unknown', q{SELECT canary7f3a FROM canary7f3a}, 'needs_review' ],
	[ 'deferred', q{INSERT INTO deferred VALUES (1); SELECT ($1->'args'->>'secret')::integer}, 'needs_review' ])
{
	my ($name, $sql, $state) = @$case;
	my $id = sql_as($node, 'alice', qq{SELECT failed(\$c\$$secret$sql\$c\$, '$arguments')});
	wait_state($node, $id, $state);
}
# Long enough to look at it; then its time is up, it is terminated, or killed.
my $query = q{SELECT string_agg(query, ' ') FROM pg_stat_activity WHERE backend_type LIKE 'saga%' AND pid <> pg_backend_pid()};
foreach my $end (qw(timeout termination crash))
{
	my $timeout = $end eq 'timeout' ? '1 s' : '1 h';
	my $id = sql_as($node, 'alice', qq{
		SELECT saga.begin('order') AS id \\gset
		SELECT saga.step(:'id', 'a', compensation => '$secret SELECT pg_sleep(3600), \$1', args => '$arguments',
			compensation_retry => saga.retry_policy(max_attempts => 1, timeout => '$timeout')) AS s \\gset
		SELECT saga.fail(:'id') AS s \\gset
		SELECT :'id'});
	# A second may be over before anybody sees that it runs.
	if ($end eq 'timeout')
	{
		wait_state($node, $id, 'needs_review');
		next;
	}
	wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$id'");
	unlike($sees->query_safe($query), qr/canary/, "N11: $end: not in pg_stat_activity");
	my $pid = $node->safe_psql('postgres', q{
		SELECT pid FROM pg_stat_activity WHERE backend_type = 'saga executor' AND usename = 'alice' AND query LIKE '%compensation%'});
	if ($end eq 'crash')
	{
		$sees->quit;
		kill 'KILL', split /\s+/, $pid;
		wait_log($node, qr/terminated by signal 9/, $offset);
	}
	else { $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)"); }
	wait_until($node, "SELECT compensation_attempts = 1 FROM saga.steps WHERE saga_id = '$id'");
	$node->safe_psql('postgres', q{
		SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'saga executor'}) if $end eq 'crash';
}
# Of the log, what our processes wrote, and the postmaster about them.
my @leaks = ();
my $ours = 0;
foreach my $line (split /\n/, slurp_file($node->logfile, $offset))
{
	$ours = $line =~ /\] (saga|postmaster) / if $line =~ /^\d{4}-\d\d-\d\d /;
	push @leaks, $line if $ours && $line =~ /canary/;
}
is("@leaks", '', 'N11: no secret in what our processes log');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM saga.steps WHERE last_error LIKE '%canary%'}), '>', 2, 'the ledger has the errors');

# ... unless the DBA wants them there
$node->append_conf('postgresql.conf', 'saga.log_sql = on');
$node->reload;
$offset = log_offset($node);
my $seen = sql_as($node, 'alice', qq{
	SELECT saga.begin('order') AS id \\gset
	SELECT saga.step(:'id', 'a', compensation => 'DO \$\$ BEGIN RAISE LOG ''$canary is told''; PERFORM pg_advisory_xact_lock(7); END \$\$') AS s \\gset
	SELECT :'id'});
my $holds = session($node);
$holds->query_safe('SELECT pg_advisory_lock(7)');
sql_as($node, 'alice', "SELECT saga.fail('$seen')");
wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$seen'");
like($node->safe_psql('postgres', $query), qr/canary/, 'N11: with saga.log_sql, it is in pg_stat_activity');
wait_log($node, qr/saga executor .*canary7f3a is told/, $offset);
$holds->quit;
wait_state($node, $seen, 'compensated');

guarantees($node);
$node->stop;
done_testing();
