# Attacks on what runs: compensations that would be somebody else, leave
# something behind, or end their transaction; roles that lose their ground;
# strangers who would disturb.  The numbers are those of doc/security.md.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "autovacuum = off\nsaga.executor_idle_timeout = 1h\nsaga.review_channel = reviews\n");
my $super = $node->safe_psql('postgres', 'SELECT current_user');
$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE mallory LOGIN CREATEDB;
	CREATE ROLE boss LOGIN;
	GRANT boss TO alice;
	GRANT USAGE ON SCHEMA saga TO PUBLIC;
	GRANT CREATE ON SCHEMA public TO PUBLIC;
	CREATE TABLE witness (n serial, what text, u name, s name);
	GRANT ALL ON witness TO PUBLIC;
	GRANT ALL ON SEQUENCE witness_n_seq TO PUBLIC;
	CREATE FUNCTION note(what text) RETURNS integer LANGUAGE sql VOLATILE AS
		'INSERT INTO public.witness (what, u, s) VALUES ($1, current_user, session_user) RETURNING n';});
create_failed($node, keyless => 1, retry => q{saga.retry_policy(max_attempts => 1, timeout => '60 s')});

# Options of a connection come before what the owner of a database sets for it.
my $plain = '-c role=none -c statement_timeout=0 -c lock_timeout=0';

sub as_role
{
	my ($user, $sql, $database) = @_;
	local $ENV{PGOPTIONS} = ($database // '') eq 'owned' ? $plain : '';
	return sql_as($node, $user, $sql, $database);
}

sub super { return as_role($super, $_[0]); }

# Fails a saga of the role and waits; returns its state, and why it is parked
sub compensate
{
	my ($user, $compensation, $before) = @_;
	my $out = as_role($user, ($before // '') . qq{;
		SELECT failed(\$c\$$compensation\$c\$) AS id \\gset
		SELECT saga.wait(:'id');
		SELECT coalesce(parked, '') FROM saga.steps WHERE saga_id = :'id'});
	return join(' ', grep { $_ ne '' } split /\n/, $out);
}

# What was noted since, each with current_user and session_user
sub written
{
	return join(' ', sort split /\n/,
		super('WITH gone AS (DELETE FROM witness RETURNING *) SELECT what, u, s FROM gone ORDER BY n'));
}

# --- N2: whatever runs for it, and whenever, runs as its role

as_role('alice', q{
	CREATE FUNCTION pure(what text, id integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
		$$ BEGIN PERFORM public.note(what); RETURN true; END $$;
	CREATE TABLE t (id integer CHECK (pure('check constraint', id)),
		who name DEFAULT current_user,
		def integer DEFAULT note('column default'),
		gen boolean GENERATED ALWAYS AS (pure('generated column', id)) STORED);
	CREATE INDEX ON t ((pure('index expression', id))) WHERE pure('index predicate', id);
	CREATE FUNCTION note_trigger() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM public.note(TG_NAME); RETURN NULL; END $$;
	CREATE TRIGGER row_trigger AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note_trigger();
	CREATE CONSTRAINT TRIGGER deferred_trigger AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION note_trigger();
	CREATE FUNCTION inserts() RETURNS integer LANGUAGE sql AS 'INSERT INTO public.t (id) VALUES (2) RETURNING id';
	CREATE VIEW v AS SELECT public.note('view') AS n;
	TRUNCATE witness});
my @everything = map { "$_|alice|alice" }
  ('check constraint', 'column default', 'deferred_trigger', 'generated column', 'index expression', 'index predicate', 'row_trigger');
is(compensate('alice', q{INSERT INTO t (id) VALUES (1)}), 'compensated', 'N2: an insertion');
is(written(), "@everything", 'N2: defaults, constraints, indexes and triggers run as the role, those at commit too');
is(compensate('alice', q{DECLARE c CURSOR WITH HOLD FOR SELECT inserts()}), 'compensated', 'N2: a cursor that is run at commit');
is(written(), "@everything", 'N2: and what it sets off runs as the role');
is(compensate('alice', q{SELECT * FROM v; DO $$ BEGIN EXECUTE 'SELECT public.note(''dynamic'')'; END $$}), 'compensated', 'N2: a view and a block');
is(written(), 'dynamic|alice|alice view|alice|alice', 'N2: run as the role');
is(super('SELECT string_agg(DISTINCT who, \' \') FROM t'), 'alice', 'N2: which the rows tell, too');

# --- N3: what restricted processes could not do works

as_role('alice', q{
	CREATE TABLE parent (id integer PRIMARY KEY);
	CREATE TABLE child (id integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED)});
is(compensate('alice', q{INSERT INTO child VALUES (1); INSERT INTO parent VALUES (1)}), 'compensated', 'N3: a deferrable foreign key, the child first');
like(compensate('alice', q{INSERT INTO child VALUES (2); SELECT note('broken')}), qr/^needs_review .*violates foreign key/, 'N3: and broken');
is(super('SELECT string_agg(id::text, \' \') FROM child') . written(), '1', 'N3: takes everything back');
is(compensate('alice', q{CREATE TEMP TABLE mine AS SELECT 1 AS a; CREATE INDEX ON mine (a); INSERT INTO mine VALUES (2); ANALYZE mine;
	SELECT note('temp ' || sum(a)) FROM mine}), 'compensated', 'N3: temporary tables');
is(compensate('alice', q{PREPARE p (integer) AS SELECT public.note('prepared ' || $1); EXECUTE p(1); EXECUTE p(2); DEALLOCATE p}), 'compensated', 'N3: PREPARE');
is(written(), 'prepared 1|alice|alice prepared 2|alice|alice temp 3|alice|alice', 'N3: run as the role');

# --- N1: a compensation that would be somebody else

# Settings that come with the step, or with the database
foreach my $set ('session_authorization', 'role', 'session_replication_role')
{
	my $value = $set eq 'session_replication_role' ? 'replica' : $super;
	# Captured in a superuser's session, where they are what they are
	my $id = super(qq{
		SET saga.capture_settings = '$set';
		SET session_replication_role = replica;
		SELECT saga.begin('order') AS id \\gset
		SELECT count(saga.step(:'id', 'a', compensation => 'INSERT INTO t (id) VALUES (3)'));
		RESET saga.capture_settings;
		SELECT :'id'});
	($id) = $id =~ /(\S+)$/;
	# as if alice had recorded it
	super(qq{
		UPDATE saga.ledger_step SET run_as = 'alice'::regrole, run_as_name = 'alice', settings = '{"$set": "$value"}',
			compensation_retry = '1 1000 c 1000 0 5000' WHERE saga = '$id';
		UPDATE saga.ledger_saga SET owner = 'alice'::regrole, owner_name = 'alice' WHERE id = '$id';
		SELECT saga.adopt()});
	my $state = as_role('alice', "SELECT saga.fail('$id')") . ' ' . as_role('alice', "SELECT saga.wait('$id')");
	like($state . ' ' . super("SELECT last_error FROM saga.steps WHERE saga_id = '$id'"), qr/^compensating needs_review (?:permission denied|.*cannot be set)/,
		"N1: the setting $set that came with the step is refused");
	is(written(), '', 'N1: and nothing is done');
}
is(compensate('alice', q{DECLARE c CURSOR WITH HOLD FOR SELECT note('held'), set_config('role', 'boss', false)}), 'compensated', 'N1: a change of role at commit');
is(compensate('alice', q{SELECT note('next')}), 'compensated', 'N1: the next compensation');
is(written(), 'held|alice|alice next|alice|alice', 'N1: is itself again');
super('CREATE DATABASE owned OWNER mallory');
$node->safe_psql('owned', q{
	CREATE EXTENSION saga;
	GRANT USAGE ON SCHEMA saga TO alice;
	CREATE TABLE undone (u name DEFAULT current_user, s name DEFAULT session_user, what text);
	GRANT ALL ON undone TO alice});
as_role('mallory', "ALTER DATABASE owned SET $_", 'owned')
  foreach q{role = 'mallory'}, q{session_authorization = 'mallory'}, 'default_transaction_isolation = serializable',
  'default_transaction_deferrable = on', q{lock_timeout = '1 ms'}, q{statement_timeout = '1 ms'}, q{search_path = 'evil'}, 'synchronous_commit = off',
  'row_security = off', q{DateStyle = 'German'};
like(sql_error($node, 'ALTER DATABASE owned SET session_replication_role = replica', 'postgres', extra_params => [ '-U', 'mallory' ]), qr/permission denied/,
	'N1: the owner of a database may not disable triggers');
# Our processes take the settings of the database up, in new sessions.
$node->restart;
my $undo = "INSERT INTO public.undone (what) VALUES ('undone')";
my $ids = as_role('alice', qq{
	BEGIN;
	SELECT saga.begin('order', announce => 'c') AS sql, saga.begin('order', timeout => '1 ms') AS late, saga.begin('order') AS listener \\gset
	SELECT count(saga.step(:'sql', 'a', compensation => \$\$$undo\$\$)) \\g /dev/null
	SELECT count(saga.step(:'late', 'a', compensation => \$\$$undo\$\$)) \\g /dev/null
	SELECT count(saga.step(:'listener', 'a', notify => 'c')) \\g /dev/null
	SELECT saga.fail(:'sql'), saga.fail(:'listener') \\g /dev/null
	COMMIT;
	SELECT :'sql', :'late', :'listener'}, 'owned');
my ($sql, $late, $listener) = split /\|/, $ids;
sub as_super_there { return as_role($super, $_[0], 'owned'); }
ok($node->poll_query_until('postgres', 'SELECT true'), 'ready');
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if as_super_there(q{SELECT (SELECT count(*) = 2 FROM saga.sagas WHERE state = 'compensated') AND EXISTS (SELECT FROM saga.pending_compensations)}) eq 't';
	select undef, undef, undef, 0.1;
}
is(as_super_there("SELECT string_agg(state, ' ' ORDER BY id) FROM saga.sagas"), 'compensated compensated compensating',
	'N1: what its owner sets for a database stops nothing in it');
is(as_super_there('SELECT string_agg(concat_ws(\' \', u, s), \', \') FROM public.undone'), 'alice alice, alice alice', 'N1: nor makes a compensation another');
is(as_super_there('BEGIN ISOLATION LEVEL READ COMMITTED; SELECT saga.adopt(); COMMIT; SELECT copied FROM saga.ledger_home'), "\nf", 'N1: nor stands in the way of the DBA');
is(as_role('alice', "SELECT step FROM saga.claim_compensations('c')", 'owned'), 'a', 'N1: listeners claim');

# A session of a superuser stays one of a superuser; a compensation must not.
super('CREATE ROLE former SUPERUSER LOGIN');
my $steal = qq{SET SESSION AUTHORIZATION $super; SELECT note('stolen'); RESET SESSION AUTHORIZATION};
my $stolen = as_role('former', qq{
	SELECT saga.begin('order') AS warm, saga.begin('order') AS later \\gset
	SELECT count(saga.step(:'warm', 'a', compensation => 'SELECT 1')) \\g /dev/null
	SELECT count(saga.step(:'later', 'a', compensation => \$c\$$steal\$c\$, compensation_retry => saga.retry_policy(max_attempts => 1))) \\g /dev/null
	SELECT saga.fail(:'warm') \\g /dev/null
	SELECT saga.wait(:'warm') \\g /dev/null
	SELECT :'later'});
super('ALTER ROLE former NOSUPERUSER');
super("SELECT saga.fail('$stolen')");
super("SELECT saga.wait('$stolen')");
is(written(), '', 'N1: a role that is superuser no more has no rights of one, whatever process of it is left');
like(super("SELECT concat_ws(' ', compensation_status, last_error) FROM saga.steps WHERE saga_id = '$stolen'"), qr/^failed .*permission denied/, 'N1: it is refused');
# ... nor does a new process, nor one that a former superuser's SQL has been in
# while the role was demoted
super('ALTER ROLE former SUPERUSER');
my $during = as_role('former', qq{
	SELECT saga.begin('order') AS during, saga.begin('order') AS later \\gset
	SELECT count(saga.step(:'during', 'a', compensation => 'SELECT pg_advisory_xact_lock(99); SET SESSION AUTHORIZATION former')) \\g /dev/null
	SELECT count(saga.step(:'later', 'a', compensation => \$c\$$steal\$c\$, compensation_retry => saga.retry_policy(max_attempts => 1))) \\g /dev/null
	SELECT :'during', :'later'});
($during, $stolen) = split /\|/, $during;
my $holds = session($node);
$holds->query_safe('SELECT pg_advisory_lock(99)');
super("SELECT saga.fail('$during')");
wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$during'");
super('ALTER ROLE former NOSUPERUSER');
$holds->quit;
is(super("SELECT saga.wait('$during')"), 'compensated', 'N1: what runs while its role is demoted ends');
super("SELECT saga.fail('$stolen')");
super("SELECT saga.wait('$stolen')");
is(written() . ' ' . super("SELECT concat_ws(' ', compensation_status, last_error) FROM saga.steps WHERE saga_id = '$stolen'") =~ s/: .*| to set.*//r, ' failed permission denied',
	'N1: and leaves nothing of its rights behind');

# --- N7: nothing is left behind for the next

super(q{
	CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.note('trigger'); RETURN NULL; END $$;
	CREATE TABLE fires (id integer);
	CREATE TRIGGER fires AFTER INSERT ON fires FOR EACH ROW EXECUTE FUNCTION fires()});
is(compensate($super, q{SET session_replication_role = replica; SET search_path = evil; SET statement_timeout = '1 ms'; SET row_security = off;
	SET SESSION AUTHORIZATION alice; RESET SESSION AUTHORIZATION; SET ROLE alice; RESET ROLE; INSERT INTO public.fires VALUES (1)}), 'compensated', 'N7: a superuser changes all it can');
is(written(), '', 'N7: which holds for itself');
is(compensate($super, q{INSERT INTO fires VALUES (2); SELECT note(current_setting('row_security')), pg_sleep(0.01)}), 'compensated', 'N7: the next one');
is(written(), "on|$super|$super trigger|$super|$super", 'N7: finds nothing of it');
is(compensate('alice', q{SET search_path = pg_temp, public;
	CREATE FUNCTION pg_temp.note(what text) RETURNS integer LANGUAGE sql AS 'SELECT 1/0';
	CREATE FUNCTION pg_temp.equal(a text, b text) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
	CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.equal);
	CREATE DOMAIN pg_temp.jsonb AS integer;
	CREATE TEMP TABLE witness (what integer)}), 'compensated', 'N7: objects in pg_temp that bear the names of others');
is(compensate('alice', q{SELECT note(what || pg_typeof($1)) FROM (VALUES ('b '), ('c ')) v (what) WHERE what = 'b '}), 'compensated', 'N7: the next one');
is(written(), 'b jsonb|alice|alice', 'N7: means those that it means');

# --- N9: what ends or begins transactions, cannot run, or is nothing: never
#     "compensated" without having run

sub attempt_of
{
	my ($id) = @_;
	return super(qq{SELECT concat_ws(' ', compensation_status, (SELECT string_agg(outcome, ',') FROM saga.attempts
		WHERE saga_id = '$id' AND phase = 'compensation')) FROM saga.steps WHERE saga_id = '$id'});
}
foreach my $text ('COMMIT', 'ROLLBACK', 'BEGIN', 'BEGIN; SELECT note(\'x\'); COMMIT', 'SAVEPOINT s', 'RELEASE s', q{PREPARE TRANSACTION 'x'}, 'SELECT note(\'x\'); COMMIT AND CHAIN',
	'SELEC note(\'x\')', 'SELECT note(\'x\'); SELEC', '', ' ', ';', '-- SELECT note(\'x\')')
{
	(my $quoted = $text) =~ s/'/''/g;
	like(sql_error($node, "SELECT failed('$quoted')", 'postgres', extra_params => [ '-U', 'alice' ]), qr/ERROR:  (?:22023|42601)/, "N9: \"$text\" is refused when it is recorded");
	# ... and fails where it got into the ledger by another way
	my $id = as_role('alice', q{SELECT saga.begin('order') AS id \gset
		SELECT count(saga.step(:'id', 'a', compensation => 'SELECT 1', compensation_retry => saga.retry_policy(max_attempts => 1))) \g /dev/null
		SELECT :'id'});
	super("UPDATE saga.ledger_step SET compensation = '$quoted' WHERE saga = '$id'; SELECT saga.adopt()");
	as_role('alice', "SELECT saga.fail('$id')");
	as_role('alice', "SELECT saga.wait('$id')");
	is(attempt_of($id), 'failed failed', "N9: \"$text\" fails when it runs");
}
super('CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN PERFORM public.note(\'x\'); COMMIT; END $$');
foreach my $text ('VACUUM witness', 'CALL commits()', q{DO $$ BEGIN PERFORM note('x'); ROLLBACK; END $$}, 'CREATE DATABASE x', 'COPY witness FROM STDIN',
	'CREATE INDEX CONCURRENTLY ON witness (n)', q{SELECT note('x'); SELECT 1/0}, q{SELECT note('x'); SELECT no_such_function()}, 'LISTEN x', 'FETCH c')
{
	like(compensate('alice', $text), qr/^needs_review retries exhausted after 1 attempt: /, "N9: \"$text\" fails with the reason");
}
is(written(), '', 'N9: and nothing of it is done');
is(compensate('alice', q{SELECT note('one'); SELECT note('two'); ; /* three */ SELECT note('three')}), 'compensated', 'N9: several statements');
is(written(), 'one|alice|alice three|alice|alice two|alice|alice', 'N9: are all done');

# --- N14: a compensation that calls saga on its own saga

# One call for each function that takes a saga or a compensation, whatever there is
my @calls = split /\n/, super(q{
	SELECT format('SELECT saga.%I(%s)', proname, (
		SELECT string_agg(CASE WHEN proargnames[n] = 'saga_id' THEN '($1->''saga''->>''id'')::uuid'
			WHEN proargnames[n] = 'compensation_key' THEN '$1->>''compensation_key'''
			WHEN proargnames[n] = 'resolution' THEN '''skip'''
			WHEN type = 'text'::regtype THEN '''a''' WHEN type = 'integer'::regtype THEN '1' WHEN type = 'interval'::regtype THEN '''1 s''' ELSE 'NULL' END, ', ' ORDER BY n)
		FROM unnest(proargtypes::oid[]) WITH ORDINALITY a (type, n) WHERE n <= pronargs - pronargdefaults))
	FROM pg_proc WHERE pronamespace = 'saga'::regnamespace AND proname NOT LIKE 'internal%' AND proargnames[1] IN ('saga_id', 'compensation_key') ORDER BY proname});
cmp_ok(scalar(@calls), '>', 15, 'N14: the calls about a saga');
foreach my $call (@calls)
{
	# An amendment must name something.
	$call =~ s/^(SELECT saga\.amend\(.*)\)$/$1, 'SELECT 1')/;
	is(compensate('alice', $call), 'needs_review retries exhausted after 1 attempt: a compensation cannot call saga on its own saga', "N14: $call is refused");
}
foreach my $call (q{saga.claim_compensations('c')}, q{saga.purge('0')}, q{saga.begin('other')}, q{saga.retry_policy()})
{
	is(compensate('alice', "SELECT $call"), 'compensated', "N14: $call, which is about no saga or another, works");
}
is(super(q{SELECT count(*) FROM saga.sagas WHERE state = 'compensating'}), 0, 'N14: nothing hangs');

# --- N13: who recorded it is gone, or is another by now

# What becomes of a saga of eve's, with a step of each kind, when something was
# done to her
sub lost
{
	my ($what, $action) = @_;
	super("CREATE ROLE eve LOGIN; CREATE ROLE eves LOGIN IN ROLE eve");
	my %id = split /[|\n]/, as_role('eve', q{
		SELECT saga.begin('order') AS sql, saga.begin('order') AS notify, saga.begin('order') AS review \gset
		SELECT count(saga.step(:'sql', 'a', compensation => 'SELECT public.note(''undone'')', args => '"secret"')) \g /dev/null
		SELECT count(saga.step(:'notify', 'a', notify => 'lost', args => '"secret"')) \g /dev/null
		SELECT count(saga.step(:'review', 'a', review => 'look')) \g /dev/null
		SELECT 'sql', :'sql' UNION ALL SELECT 'notify', :'notify' UNION ALL SELECT 'review', :'review'});
	super($action);
	super("SELECT saga.fail('$_')") foreach values %id;
	wait_state($node, $_, 'needs_review') foreach values %id;
	is(written(), '', "N13: $what: nothing runs");
	like(super("SELECT parked FROM saga.steps WHERE saga_id = '$id{sql}'"), qr/role "eve" (?:no longer exists|was renamed)/, "N13: $what: the SQL is parked with the reason");
	like(super("SELECT next_action FROM saga.sagas WHERE id = '$id{notify}'"), qr/role "eve",? (?:no longer exists|was renamed)/, "N13: $what: so is what a listener was to do");
	# Whoever bears the name now has nothing of it, nor who was a member.
	foreach my $user (split /\n/, super(q{SELECT rolname FROM pg_roles WHERE rolname IN ('eve', 'eves', 'evil') AND rolcanlogin}))
	{
		is(as_role($user, q{SELECT (SELECT count(*) FROM saga.sagas), (SELECT count(*) FROM saga.review_queue), (SELECT count(*) FROM saga.pending_compensations),
			(SELECT count(*) FROM saga.claim_compensations('lost'))}), '0|0|0|0', "N13: $what: nothing for the role \"$user\" to see or to claim");
		foreach my $call ("resolve('$id{sql}', 'a', 'retry', 'n')", "resolve('$id{review}', 'a', 'done', 'n')", "abandon('$id{notify}', 'n')",
			"redact('$id{sql}')", "plan('$id{sql}')")
		{
			like(sql_error($node, "SELECT saga.$call", 'postgres', extra_params => [ '-U', $user ]), qr/ERROR:  SG001:/, "N13: $what: nor to call, as in $call");
		}
	}
	# A person decides: another shall have it.
	my $oid = super("SELECT owner::oid FROM saga.sagas WHERE id = '$id{sql}'");
	is(super("SELECT saga.reassign($oid, 'bob')"), 3, "N13: $what: the DBA gives it to another");
	is(as_role('bob', "SELECT saga.resolve('$id{sql}', 'a', 'retry', 'mine now'); SELECT saga.wait('$id{sql}')"), "compensating\ncompensated", "N13: $what: who can go on");
	is(written(), 'undone|bob|bob', "N13: $what: as itself");
	is(as_role('bob', "SELECT saga.resolve('$id{notify}', 'a', 'retry', 'mine now')"), 'compensating', "N13: $what: with what listeners do, too");
	wait_until($node, "SELECT count(*) = 1 FROM saga.pending_compensations WHERE saga_id = '$id{notify}' AND since IS NOT NULL AND next_attempt_at IS NULL");
	is(as_role('bob', q{SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('lost')}), 'compensated', "N13: $what: who claims it");
	is(as_role('bob', "SELECT saga.resolve('$id{review}', 'a', 'done', 'mine now')"), 'compensated', "N13: $what: and with decisions");
	super('DROP ROLE IF EXISTS eve, eves, evil');
	return;
}
lost('dropped', 'DROP ROLE eve');
lost('dropped and recreated', 'DROP ROLE eve; CREATE ROLE eve LOGIN SUPERUSER; ALTER ROLE eve NOSUPERUSER');
lost('renamed', 'ALTER ROLE eve RENAME TO evil');
lost('renamed, and another by the name', 'ALTER ROLE eve RENAME TO evil; CREATE ROLE eve LOGIN; GRANT eve TO eves');

# A member's step in another's saga: its context tells what only members may read.
super('CREATE ROLE member LOGIN IN ROLE alice');
my $members = as_role('member', q{
	SET ROLE alice;
	SELECT saga.begin('order', input => '"secret"') AS id \gset
	RESET ROLE;
	SELECT count(saga.step(:'id', 'a', notify => 'members')) \g /dev/null
	SELECT count(saga.step(:'id', 'b', compensation => 'SELECT public.note($1::text)')) \g /dev/null
	SELECT :'id'});
super('REVOKE alice FROM member');
as_role('alice', "SELECT saga.fail('$members', 'a new secret')");
as_role('alice', "SELECT saga.wait('$members', '5 s')");
is(super(q{SELECT count(*) FROM witness WHERE what LIKE '%secret%'}), 0, 'N13: membership revoked: nothing of the saga is told to a role that may no longer read it');
like(super("SELECT concat_ws(' ', compensation_status, parked) FROM saga.steps WHERE saga_id = '$members' AND key = 'b'"), qr/^failed .*"member"/,
	'N13: membership revoked: parked with the reason');
written();
is(as_role('member', q{SELECT (SELECT count(*) FROM saga.sagas), (SELECT count(*) FROM saga.claim_compensations('members'))}), '0|0', 'N13: membership revoked: nothing to see or to claim');
like(sql_error($node, "SELECT saga.step('$members', 'c')", 'postgres', extra_params => [ '-U', 'member' ]), qr/ERROR:  SG001:/, 'N13: membership revoked: nor to call');
super('GRANT alice TO member');
as_role('alice', "SELECT saga.resolve('$members', 'b', 'retry', 'a member again')");
wait_until($node, "SELECT compensation_status = 'compensated' FROM saga.steps WHERE saga_id = '$members' AND key = 'b'");
like(written(), qr/^\{.*secret.*\|member\|member$/, 'N13: a member again: it runs, and is told');

# The same where the owner is gone: its members have nothing of it any more, and
# superusers, who may read everything, go on.
super('CREATE ROLE shop LOGIN; CREATE ROLE clerk LOGIN IN ROLE shop');
foreach my $user ('clerk', $super)
{
	my $id = as_role($user, q{
		SET ROLE shop;
		SELECT saga.begin('order', input => '"secret"') AS id \gset
		RESET ROLE;
		SELECT count(saga.step(:'id', 'a', compensation => 'SELECT public.note($1->''saga''->>''input'')')) \g /dev/null
		SELECT :'id'});
	super('ALTER ROLE shop RENAME TO shop_2');
	super("SELECT saga.fail('$id')");
	my $state = super("SELECT saga.wait('$id')");
	is(written(), $user eq $super ? "secret|$super|$super" : '', "N13: the owner renamed: what $user gets of it");
	is($state . ' ' . super("SELECT concat_ws(' ', compensation_status, parked) FROM saga.steps WHERE saga_id = '$id'"),
		$user eq $super ? 'compensated compensated' : qq{needs_review failed the saga's owner, role "shop", was renamed to "shop_2", or another role took its place; see saga.reassign()},
		"N13: the owner renamed: what becomes of the step of $user");
	super('ALTER ROLE shop_2 RENAME TO shop');
}

# --- N11: notifications carry ids only; what is redacted is gone

my $canary = 'canary7f3a';
my $listens = session($node, user => 'mallory');
$listens->query_safe("LISTEN $_") foreach qw(announced refunds reviews);
my %saga = split /[|\n]/, as_role('alice', qq{
	SELECT saga.begin('$canary name', '$canary key', '"$canary input"', announce => 'announced') AS parked \\gset
	SELECT count(saga.step(:'parked', '$canary step', args => '"$canary args"', output => '"$canary output"', compensation => 'SELECT (\$1->>''args'')::integer',
		compensation_retry => saga.retry_policy(max_attempts => 1))) \\g /dev/null
	SELECT saga.begin('$canary name', '$canary key 2', '"$canary input"', announce => 'announced') AS waiting \\gset
	SELECT count(saga.step(:'waiting', '$canary step', args => '"$canary args"', notify => 'refunds', output => '"$canary output"',
		compensation_retry => saga.retry_policy(delay => '10 ms'))) \\g /dev/null
	SELECT saga.fail(:'parked', '$canary reason', '"$canary details"'), saga.fail(:'waiting') \\g /dev/null
	SELECT 'parked', :'parked' UNION ALL SELECT 'waiting', :'waiting'});
wait_state($node, $saga{parked}, 'needs_review');
wait_until($node, qq{SELECT count(*) = 1 FROM saga.pending_compensations WHERE saga_id = '$saga{waiting}' AND next_attempt_at IS NULL});
as_role('alice', qq{SELECT saga.fail_compensation(compensation_key, attempt, '$canary failure') FROM saga.claim_compensations('refunds', consumer => '$canary consumer')});
wait_until($node, qq{SELECT count(*) = 1 FROM saga.pending_compensations WHERE saga_id = '$saga{waiting}' AND attempt = 2 AND next_attempt_at IS NULL});
as_role('alice', qq{SELECT saga.complete_compensation(compensation_key, '"$canary done"') FROM saga.claim_compensations('refunds')});
wait_state($node, $saga{waiting}, 'compensated');
as_role('alice', "SELECT saga.resolve('$saga{parked}', '$canary step', 'skip', 'a note')");
my %heard;
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	my $out = $listens->query('SELECT 1');
	$heard{$1}{$2}++ while $out =~ /Asynchronous notification "(\w+)" with payload "(.*)" received/g;
	last if keys %{ $heard{announced} // {} } >= 5 && $heard{reviews} && $heard{refunds};
	select undef, undef, undef, 0.1;
}
my $id_re = qr/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}/;
my $payload = qr/^\{"event":"(?:compensate","saga_id":"$id_re","seq":\d+|state","saga_id":"$id_re","state":"\w+")\}$/;
is(join(' ', sort keys %heard), 'announced refunds reviews', 'N11: a stranger hears the notifications');
is(join("\n", grep { $_ !~ $payload } map { keys %$_ } values %heard), '', 'N11: which carry ids and states, and nothing else');
$listens->quit;
foreach my $what (sort keys %saga)
{
	my $id = $saga{$what};
	wait_until($node, "SELECT next_action_at IS NULL FROM saga.sagas WHERE id = '$id'");
	as_role('alice', "SELECT saga.redact('$id')");
	foreach my $relation (qw(sagas steps attempts events ledger_saga ledger_step ledger_attempt ledger_event))
	{
		my $key = $relation eq 'sagas' || $relation eq 'ledger_saga' ? 'id' : $relation =~ /^ledger/ ? 'saga' : 'saga_id';
		is(super("SELECT string_agg(DISTINCT m[1], ', ') FROM saga.$relation r, regexp_matches(r::text, '$canary (args|input|output|details|result|failure|done)', 'g') m WHERE r.$key = '$id'"),
			'', "N11: redacted, $what: nothing of its payloads and errors in saga.$relation");
	}
	is(as_role('alice', qq{SELECT saga.begin('$canary name', idempotency_key, '"$canary input"') = '$id' FROM saga.sagas WHERE id = '$id'}), 't', "N11: redacted, $what: its key goes on working");
	like(sql_error($node, qq{SELECT saga.begin('$canary name', idempotency_key, '"other"') FROM saga.sagas WHERE id = '$id'}, 'postgres', extra_params => [ '-U', 'alice' ]), qr/ERROR:  SG003:/,
		"N11: redacted, $what: by what it came with");
}

# --- N15: strangers do not disturb our processes

my $worker = worker_pid($node);
my @executors = executor_pids($node);
cmp_ok(scalar(@executors), '>', 0, 'N15: there are executors');
foreach my $try ('DROP DATABASE postgres', 'ALTER DATABASE postgres RENAME TO x', 'ALTER DATABASE postgres SET TABLESPACE pg_default', 'CREATE DATABASE x TEMPLATE postgres',
	'DROP EXTENSION saga CASCADE', 'ALTER EXTENSION saga UPDATE', 'DROP SCHEMA saga CASCADE', "DROP OWNED BY $super")
{
	my $database = $try =~ /DATABASE/ ? 'owned' : 'postgres';
	local $ENV{PGOPTIONS} = $database eq 'owned' ? $plain : '';
	like(sql_error($node, $try, $database, extra_params => [ '-U', 'mallory' ]), qr/ERROR:  42501:/, "N15: $try is refused");
}
like(sql_error($node, "SELECT pg_terminate_backend($_)", 'postgres', extra_params => [ '-U', 'mallory' ]), qr/ERROR:  42501:/, 'N15: nor may a stranger end our processes') foreach $worker, $executors[0];
super('GRANT pg_signal_backend TO mallory');
like(sql_error($node, "SELECT pg_terminate_backend($worker)", 'postgres', extra_params => [ '-U', 'mallory' ]), qr/ERROR:  42501:/, 'N15: nor, with pg_signal_backend, the worker');
is(worker_pid($node), $worker, 'N15: the worker is the same');
is(join(' ', executor_pids($node)), "@executors", 'N15: and so are the executors');
is(compensate('alice', q{SELECT note('fine')}), 'compensated', 'N15: which work');

guarantees($node);
$node->stop;
done_testing();
