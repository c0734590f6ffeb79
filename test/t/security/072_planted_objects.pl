# Attacks on the installation: objects planted before CREATE EXTENSION and
# before calls, settings given before the library is there, dumps and restores
# by roles that are not superusers.  The numbers are those of doc/security.md.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $node = saga_cluster('main', databases => [], conf => "autovacuum = off\n");
$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE mallory LOGIN;
	CREATE DATABASE clean;
	CREATE DATABASE planted;
	CREATE DATABASE hostile OWNER mallory});

# --- N6: a schema of that name is there already

$node->safe_psql('planted', 'GRANT CREATE ON DATABASE planted TO mallory');
sql_as($node, 'mallory', q{
	CREATE SCHEMA saga;
	CREATE FUNCTION saga.fail(uuid, text DEFAULT NULL, jsonb DEFAULT NULL) RETURNS text LANGUAGE sql AS $$ SELECT 'compensated' $$;
	CREATE TABLE saga.ledger_home (one boolean)}, 'planted');
foreach my $create ('CREATE EXTENSION saga', 'CREATE EXTENSION IF NOT EXISTS saga', 'CREATE EXTENSION saga SCHEMA saga', 'CREATE EXTENSION saga CASCADE')
{
	like(sql_error($node, $create, 'planted'), qr/ERROR:  (?:42P06: schema "saga" already exists|0A000:.*must be installed in schema "pg_catalog"|42P06)/, "N6: a planted schema: $create is refused");
}
is($node->safe_psql('planted', q{SELECT (SELECT count(*) FROM pg_extension WHERE extname = 'saga'), (SELECT count(*) FROM pg_proc WHERE pronamespace = 'saga'::regnamespace)}), '0|1',
	'N6: and nothing is adopted or left');

# --- N6: objects that bear the names of others

# Operators and functions that come before the server's, or fit better, and tell
$node->safe_psql('hostile', 'GRANT CREATE ON SCHEMA public TO PUBLIC');
my @types = ('text', 'uuid', 'jsonb', 'oid', '"char"', 'bigint', 'integer', 'boolean', 'timestamptz', 'regrole');
my $hostile = q{
	CREATE TABLE evidence (what text, u name);
	GRANT ALL ON evidence TO PUBLIC;
	CREATE FUNCTION evil(what pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.evidence VALUES (what, current_user); RETURN true; END $$;};
foreach my $left (@types)
{
	foreach my $right (@types)
	{
		(my $name = "evil_${left}_$right") =~ s/"//g;
		$hostile .= qq{
			CREATE FUNCTION $name(a pg_catalog.$left, b pg_catalog.$right) RETURNS boolean LANGUAGE sql AS 'SELECT public.evil(''operator'')';}
		  =~ s/pg_catalog\.(bigint|integer|boolean)/$1/gr;
		foreach my $operator ('=', '<>', '<', '>', '<=', '>=', '||', '->', '->>', '-', '+')
		{
			$hostile .= "CREATE OPERATOR $operator (LEFTARG = pg_catalog.$left, RIGHTARG = pg_catalog.$right, FUNCTION = $name);" =~ s/pg_catalog\.(bigint|integer|boolean)/$1/gr;
		}
	}
}
$hostile .= q{
	CREATE FUNCTION format(text, integer, text, text) RETURNS text LANGUAGE sql AS 'SELECT public.evil(''format'')::text';
	CREATE FUNCTION format(text, text) RETURNS text LANGUAGE sql AS 'SELECT public.evil(''format'')::text';
	CREATE FUNCTION format(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT public.evil(''format'')::text';
	CREATE FUNCTION format(text, uuid) RETURNS text LANGUAGE sql AS 'SELECT public.evil(''format'')::text';
	CREATE FUNCTION format(text, uuid, text) RETURNS text LANGUAGE sql AS 'SELECT public.evil(''format'')::text';
	CREATE FUNCTION length(text) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1';
	CREATE FUNCTION jsonb_build_object(text, text) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(public.evil(''jsonb_build_object''))';
	CREATE FUNCTION jsonb_build_object(text, text, text, text) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(public.evil(''jsonb_build_object''))';
	CREATE FUNCTION jsonb_strip_nulls(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(public.evil(''jsonb_strip_nulls''))';
	CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT now() FROM public.evil(''clock_timestamp'')';
	CREATE FUNCTION quote_ident(text) RETURNS text LANGUAGE sql AS 'SELECT public.evil(''quote_ident'')::text';
	CREATE FUNCTION pg_extension_config_dump(regclass, text) RETURNS void LANGUAGE sql AS 'SELECT public.evil(''pg_extension_config_dump'')';
	CREATE AGGREGATE count(*) (SFUNC = pg_catalog.int8inc, STYPE = bigint, INITCOND = '1000');
	CREATE AGGREGATE max(timestamptz) (SFUNC = pg_catalog.timestamptz_smaller, STYPE = timestamptz);
	CREATE DOMAIN text AS pg_catalog.text CHECK (public.evil('domain text'));
	CREATE DOMAIN uuid AS pg_catalog.uuid CHECK (public.evil('domain uuid'));
	CREATE DOMAIN jsonb AS pg_catalog.jsonb CHECK (public.evil('domain jsonb'));
	CREATE DOMAIN oid AS pg_catalog.oid CHECK (public.evil('domain oid'));
	CREATE DOMAIN "char" AS pg_catalog."char" CHECK (public.evil('domain char'));
	CREATE DOMAIN timestamptz AS pg_catalog.timestamptz CHECK (public.evil('domain timestamptz'));
	CREATE DOMAIN regrole AS pg_catalog.regrole CHECK (public.evil('domain regrole'));
	CREATE DOMAIN bytea AS pg_catalog.bytea CHECK (public.evil('domain bytea'));
	CREATE TABLE pg_authid (oid pg_catalog.oid, rolname name);
	CREATE TABLE ledger_saga ();
	CREATE TABLE sagas ();};
sql_as($node, 'mallory', $hostile, 'hostile');
# The worst of paths, and the like in pg_temp, made by what the DBA was led to call
my $path = 'SET search_path = pg_temp, public, pg_catalog;';
my $temp = q{
	CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (public.evil('pg_temp.text'));
	CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb CHECK (public.evil('pg_temp.jsonb'));
	CREATE DOMAIN pg_temp."char" AS pg_catalog."char" CHECK (public.evil('pg_temp.char'));
	CREATE TEMP TABLE pg_authid (oid pg_catalog.oid, rolname name);
	CREATE TEMP TABLE pg_extension (extname name);
	CREATE FUNCTION pg_temp.length(pg_catalog.text) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1';
	CREATE OPERATOR pg_temp.= (LEFTARG = pg_catalog."char", RIGHTARG = pg_catalog."char", FUNCTION = public.evil_char_char);
	CREATE OPERATOR pg_temp.= (LEFTARG = pg_catalog.oid, RIGHTARG = pg_catalog.oid, FUNCTION = public.evil_oid_oid);
	DELETE FROM public.evidence;};
$node->safe_psql('hostile', "$temp $path CREATE EXTENSION saga");
$node->safe_psql('clean', 'CREATE EXTENSION saga');

sub evidence
{
	return $node->safe_psql('hostile', q{SELECT pg_catalog.string_agg(DISTINCT what OPERATOR(pg_catalog.||) ' as ' OPERATOR(pg_catalog.||) u, ', ') FROM public.evidence}, extra_params => []);
}
is(evidence(), '', 'N6: hostile objects: nothing of them was called by CREATE EXTENSION');

# What the extension is made of, in words that name every object in full
my $objects = q{
	SET search_path = '';
	SELECT c.oid::pg_catalog.regclass, pg_catalog.pg_get_viewdef(c.oid) FROM pg_catalog.pg_class c WHERE relnamespace = 'saga'::pg_catalog.regnamespace AND relkind = 'v' ORDER BY 1;
	SELECT attrelid::pg_catalog.regclass, attname, atttypid::pg_catalog.regtype, attcollation::pg_catalog.regcollation FROM pg_catalog.pg_attribute JOIN pg_catalog.pg_class c ON c.oid = attrelid
		WHERE relnamespace = 'saga'::pg_catalog.regnamespace AND attnum > 0 ORDER BY 1, attnum;
	SELECT pg_catalog.pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint WHERE connamespace = 'saga'::pg_catalog.regnamespace ORDER BY 1;
	SELECT pg_catalog.pg_get_indexdef(indexrelid), indclass::pg_catalog.text FROM pg_catalog.pg_index JOIN pg_catalog.pg_class c ON c.oid = indrelid WHERE relnamespace = 'saga'::pg_catalog.regnamespace ORDER BY 1;
	SELECT pg_catalog.pg_get_functiondef(oid) FROM pg_catalog.pg_proc WHERE pronamespace = 'saga'::pg_catalog.regnamespace ORDER BY 1;
	SELECT pg_catalog.pg_get_triggerdef(oid), tgenabled FROM pg_catalog.pg_trigger WHERE NOT tgisinternal ORDER BY 1};
is($node->safe_psql('hostile', $objects), $node->safe_psql('clean', $objects), 'N6: hostile objects: the extension is what it is elsewhere');
# ... and depends on nothing but the server and itself
is($node->safe_psql('hostile', q{
	SET search_path = '';
	WITH RECURSIVE part (classid, objid) AS (
		SELECT classid, objid FROM pg_catalog.pg_depend
		WHERE refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND deptype = 'e'
			AND refobjid = (SELECT oid FROM pg_catalog.pg_extension WHERE extname = 'saga')
		UNION
		SELECT d.classid, d.objid FROM part p JOIN pg_catalog.pg_depend d ON d.refclassid = p.classid AND d.refobjid = p.objid AND d.deptype IN ('i', 'a'))
	SELECT pg_catalog.string_agg(DISTINCT pg_catalog.concat_ws(' ', o.type, o.identity), ', ') FROM part p JOIN pg_catalog.pg_depend d USING (classid, objid),
		LATERAL pg_catalog.pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) o
	WHERE o.schema IS NOT NULL AND o.schema NOT IN ('pg_catalog', 'saga', 'pg_toast')}), '', 'N6: hostile objects: none is depended on');

# Calls, whoever makes them, with the same paths
$node->safe_psql('hostile', 'SET search_path = \'\'; GRANT USAGE ON SCHEMA saga TO alice, mallory');
$node->safe_psql('hostile', 'CREATE TABLE public.undone (u name DEFAULT current_user, what pg_catalog.text); GRANT ALL ON public.undone TO PUBLIC');
sub everything
{
	my ($user) = @_;
	return sql_as($node, $user, qq{
		DELETE FROM public.evidence; DELETE FROM public.undone;
		$path
		SELECT saga.begin('order', 'key', '{"a": 1}') AS id \\gset
		SELECT 'first', s.status FROM saga.step(:'id', 'a', args => '1', output => '2', compensation => 'INSERT INTO public.undone (what) VALUES (''sql'')') s;
		SELECT 'again', s.status FROM saga.step(:'id', 'a', args => '1', output => '2', compensation => 'INSERT INTO public.undone (what) VALUES (''sql'')') s;
		SELECT 'notify', s.status FROM saga.step(:'id', 'b', notify => 'evil') s;
		SELECT 'review', s.status FROM saga.step(:'id', 'c', review => 'look') s;
		SELECT 'failed', s.status FROM saga.fail_step(:'id', 'c', 'error') s;
		SELECT saga.fail(:'id', 'reason');
		SELECT saga.wait(:'id');
		SELECT saga.resolve(:'id', 'c', 'done', 'note');
		DO \$\$ BEGIN
			FOR i IN 1..1000 LOOP
				PERFORM saga.complete_compensation(compensation_key) FROM saga.claim_compensations('evil');
				EXIT WHEN FOUND;
				COMMIT;
				PERFORM pg_catalog.pg_sleep(0.01);
			END LOOP;
		END \$\$;
		SELECT saga.wait(:'id');
		SELECT saga.plan(:'id');
		SELECT pg_catalog.concat_ws(' ', name, state, next_action, steps, last_completed_step) FROM saga.sagas WHERE id OPERATOR(pg_catalog.=) :'id';
		SELECT pg_catalog.concat_ws(' ', "position", key, status, compensation_status, run_as, retry) FROM saga.steps WHERE saga_id OPERATOR(pg_catalog.=) :'id';
		SELECT pg_catalog.concat_ws(' ', "position", event, step, detail) FROM saga.events WHERE saga_id OPERATOR(pg_catalog.=) :'id';
		SELECT pg_catalog.concat_ws(' ', phase, attempt, outcome) FROM saga.attempts WHERE saga_id OPERATOR(pg_catalog.=) :'id';
		SELECT pg_catalog.to_jsonb(r) FROM saga.review_queue r WHERE saga_id OPERATOR(pg_catalog.=) :'id';
		SELECT u, what FROM public.undone;
		SELECT saga.redact(:'id');
		SELECT saga.purge('0')}, 'hostile');
}
foreach my $user ('alice', 'mallory')
{
	my $out = everything($user);
	like($out, qr/^first\|completed\nagain\|completed\nnotify\|started\nreview\|started\nfailed\|failed\ncompensating\nneeds_review\ncompensating\ncompensated\n/,
		"N6: hostile objects: the calls of $user do what they are to");
	like($out, qr/^$user\|sql\n\n1$/m, 'N6: hostile objects: also what runs');
	is(evidence(), '', 'N6: hostile objects: and nothing else');
}
# ... those of the DBA, which run SQL on the ledger, and reading by a superuser
my $super = $node->safe_psql('postgres', 'SELECT current_user');
sql_as($node, 'alice', q{SET search_path = ''; SELECT count(saga.step(saga.begin('order', n::pg_catalog.text), 'a', compensation => 'SELECT 1', notify => NULL)) FROM generate_series(1, 3) n}, 'hostile');
is($node->safe_psql('hostile', qq{
	DELETE FROM public.evidence;
	$path
	SELECT saga.adopt();
	SELECT saga.reassign('alice'::pg_catalog.regrole, 'mallory');
	SELECT pg_catalog.count(*) FROM saga.sagas;
	SELECT pg_catalog.count(*) FROM saga.events WHERE saga_id IS NOT NULL;
	SELECT pg_catalog.count(*) FROM saga.review_queue;
	SELECT saga.purge('0')}), "\n3\n3\n9\n0\n0", 'N6: hostile objects: the calls of the DBA do what they are to');
is(evidence(), '', 'N6: hostile objects: and nothing else');
is($node->safe_psql('hostile', q{SET search_path = ''; SELECT DISTINCT run_as FROM saga.steps}), 'mallory', 'N6: hostile objects: to those they are about');

# --- N15: settings that are given before the library is loaded

my $bare = saga_cluster('bare', preload => 0);
$bare->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN;
	GRANT USAGE ON SCHEMA saga TO PUBLIC;
	SET ROLE alice;
	SELECT saga.begin('secret')});
my %wanted = ('saga.operator_role' => 'mallory', 'saga.allow_superuser' => 'off', 'saga.max_payload' => '16MB', 'saga.max_open_sagas' => '1000000',
	'saga.max_steps' => '1000000', 'saga.log_sql' => 'on', 'saga.enabled' => 'off', 'saga.retention' => '1', 'saga.databases' => 'none', 'saga.review_channel' => 'evil');
my %default = map { $_ => $bare->safe_psql('postgres', "LOAD 'saga'; SHOW $_") } keys %wanted;
foreach my $how ('by SET', 'as options of the connection')
{
	local $ENV{PGOPTIONS} = $how =~ /SET/ ? '' : join ' ', map { "-c $_=$wanted{$_}" } sort keys %wanted;
	my $sets = $how =~ /SET/ ? join ' ', map { "SET $_ = '$wanted{$_}';" } sort keys %wanted : '';
	# The library is loaded by the first call.
	my $out = $bare->safe_psql('postgres', "$sets SELECT saga.begin('mine') IS NOT NULL; SELECT count(*) FROM saga.sagas WHERE name = 'secret';"
		. join(' ', map { "SHOW $_;" } sort keys %wanted), extra_params => [ '-U', 'mallory' ]);
	is($out, join("\n", 't', 0, map { $default{$_} } sort keys %wanted), "N15: not preloaded, $how: nothing is gained");
}
like(sql_error($bare, "ALTER ROLE mallory SET $_ = '$wanted{$_}'", 'postgres', extra_params => [ '-U', 'mallory' ]), qr/ERROR:  42501:/, "N15: not preloaded: nor may a role keep $_ with itself")
  foreach sort keys %wanted;
$bare->stop;

# --- N17: dumps and restores by others than superusers

$node->safe_psql('postgres', 'CREATE ROLE owner LOGIN CREATEDB; CREATE DATABASE business OWNER owner');
$node->safe_psql('business', q{
	CREATE EXTENSION saga;
	GRANT USAGE ON SCHEMA saga TO alice, bob, owner;
	SET ROLE alice;
	SELECT saga.begin('order', 'kept', '"secret"') AS id \gset
	SELECT saga.step(:'id', 'a', compensation => 'SELECT 1')});
sub run_as
{
	my ($user, @command) = @_;
	local $ENV{PGUSER} = $user;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ map { $_ eq 'CONN' ? $node->connstr($command[-1]) : $_ } @command[ 0 .. $#command - 1 ] ], '<', \'', '>', \$out, '2>', \$err);
	return ($ok, $err);
}
my $file = $node->basedir . '/business.dump';
my ($ok, $err) = run_as('owner', 'pg_dump', '-Fc', '-f', $file, '-d', 'CONN', 'business');
ok(!$ok, 'N17: the owner of the database, who may not read the ledger, dumps it in vain');
# (From 18 on, pg_dump reads sequences with its own rights, and says it in its own words.)
like($err, qr/permission denied for (?:table|schema|sequence) (?:ledger_|saga|start_order)|"start_order"; user may lack SELECT privilege/, 'N17: with that reason');
$node->safe_psql('postgres', 'GRANT pg_read_all_data TO owner');
($ok, $err) = run_as('owner', 'pg_dump', '-Fc', '-f', $file, '-d', 'CONN', 'business');
ok($ok, 'N17: the owner, who may read everything, dumps it') or diag($err);
# What that role restores: all but the ledger, which only superusers may write.
foreach my $there ('there before', 'not there')
{
	my $copy = $there eq 'not there' ? 'copy_bare' : 'copy_made';
	$node->safe_psql('postgres', "CREATE DATABASE $copy OWNER owner");
	$node->safe_psql($copy, 'CREATE EXTENSION saga') if $there ne 'not there';
	($ok, $err) = run_as('owner', 'pg_restore', '-d', 'CONN', $file, $copy);
	ok(!$ok, "N17: the owner restores it, the extension $there: told that it did not succeed");
	like($err, qr/permission denied/, "N17: the extension $there: with the reason");
	next if $there eq 'not there';
	is($node->safe_psql($copy, 'SELECT (SELECT count(*) FROM saga.ledger_saga), (SELECT count(*) FROM saga.ledger_step), copied FROM saga.ledger_home'), '0|0|f', 'N17: nothing of the ledger came');
	is($node->safe_psql($copy, q{SELECT string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgfoid = 'saga.internal_guard'::regproc}), 'A', 'N17: and it is guarded');
}
like($node->safe_psql('postgres', q{SELECT version()}), qr/PostgreSQL/, 'still there');
# A superuser restores all of it, and the copy holds still.
$node->safe_psql('postgres', 'CREATE DATABASE copy_full');
($ok, $err) = run_as($super, 'pg_restore', '--exit-on-error', '-d', 'CONN', $file, 'copy_full');
ok($ok, 'N17: a superuser restores it') or diag($err);
is($node->safe_psql('copy_full', q{SELECT name, owner, (SELECT copied FROM saga.ledger_home) FROM saga.sagas}), 'order|alice|t', 'N17: all of it, as a copy');
sql_as($node, 'alice', q{SELECT saga.fail(id) FROM saga.sagas}, 'copy_full');
like(sql_error($node, q{SELECT saga.wait(id) FROM saga.sagas}, 'copy_full', extra_params => [ '-U', 'alice' ]), qr/ERROR:  SG008:/, 'N17: which undoes nothing');
like(sql_error($node, q{SELECT saga.adopt()}, 'copy_full', extra_params => [ '-U', 'alice' ]), qr/ERROR:  SG010:/, 'N17: and not everybody may let it');
$node->safe_psql('postgres', 'ALTER DATABASE copy_full OWNER TO owner');
$node->safe_psql('copy_full', 'GRANT USAGE ON SCHEMA saga TO owner');
sql_as($node, 'owner', 'SELECT saga.adopt()', 'copy_full');
wait_until($node, q{SELECT state = 'compensated' FROM saga.sagas}, 't', 'copy_full');
pass('N17: the owner of the database may');

# --- N13: adopting moves no right by a name to a role that its caller is not

$node->safe_psql('business', q{
	CREATE TABLE undone (u name DEFAULT current_user);
	GRANT ALL ON undone TO PUBLIC;
	CREATE ROLE eve LOGIN;
	GRANT USAGE ON SCHEMA saga TO eve;
	SET ROLE eve;
	SELECT saga.begin('order') AS id \gset
	SELECT saga.step(:'id', 'a', compensation => 'INSERT INTO public.undone DEFAULT VALUES')});
my $eves = $node->safe_psql('business', q{SELECT id FROM saga.sagas WHERE owner = 'eve'::regrole});
$node->safe_psql('business', q{REVOKE USAGE ON SCHEMA saga FROM eve; DROP ROLE eve; CREATE ROLE eve LOGIN SUPERUSER});
sub owners { return $node->safe_psql('business', qq{SELECT s.owner = 'eve'::regrole, t.run_as = 'eve'::regrole FROM saga.ledger_saga s JOIN saga.ledger_step t ON t.saga = s.id WHERE s.id = '$eves'}); }
sql_as($node, 'owner', 'SELECT saga.adopt()', 'business');
is(owners(), 'f|f', 'N13: the owner of a database adopts it: SQL of a role that is gone does not become that of a superuser by the same name');
$node->safe_psql('business', "SELECT saga.fail('$eves'); SELECT saga.wait('$eves')");
is($node->safe_psql('business', q{SELECT count(*) FROM undone}), 0, 'N13: and does not run');
$node->safe_psql('postgres', 'ALTER ROLE eve NOSUPERUSER; GRANT eve TO owner');
sql_as($node, 'owner', 'SELECT saga.adopt()', 'business');
is(owners(), 't|t', 'N13: of a role that the owner is a member of it may');

# --- N19: what superusers made themselves, called with the names of the caller: event triggers, and functions of indexes

$node->safe_psql('postgres', 'CREATE ROLE dbo LOGIN; CREATE DATABASE lent OWNER dbo');
$node->safe_psql('lent', q{
	CREATE EXTENSION saga;
	GRANT USAGE ON SCHEMA saga TO alice, dbo;
	CREATE TABLE public.ddl_log (tag text);
	GRANT INSERT ON public.ddl_log TO PUBLIC;
	CREATE FUNCTION public.note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM lower(tg_tag);
		INSERT INTO ddl_log VALUES (tg_tag);
	END $$;
	CREATE FUNCTION public.leave() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE 'DECLARE left_behind CURSOR WITH HOLD FOR SELECT evil.lower(1::text)';
	END $$;
	CREATE FUNCTION public.folded(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN
		PERFORM FROM pg_am;
		IF current_setting('lent.leave', true) = 'on' THEN
			PERFORM public.leave();
		END IF;
		RETURN lower($1);
	END $$;
	CREATE INDEX ON saga.ledger_saga (public.folded(owner_name));
	CREATE INDEX ON saga.ledger_home (public.folded(one::text))});
sql_as($node, 'alice', q{SELECT saga.begin('order', n::text) FROM generate_series(1, 3) n}, 'lent');
$node->safe_psql('lent', q{
	ALTER TABLE saga.ledger_due DISABLE TRIGGER guard;
	ALTER TABLE saga.ledger_due ENABLE TRIGGER guard;
	CREATE EVENT TRIGGER before ON ddl_command_start EXECUTE FUNCTION public.note_ddl();
	CREATE EVENT TRIGGER after ON ddl_command_end EXECUTE FUNCTION public.note_ddl()});
sql_as($node, 'dbo', q{
	CREATE SCHEMA evil;
	CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
			ALTER ROLE dbo SUPERUSER;
		END IF;
		RETURN pg_catalog.lower($1);
	END $$;
	CREATE FUNCTION evil.up() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM evil.lower('x');
		RETURN new;
	END $$}, 'lent');
# The table of the event trigger, a relation of the server's, and a function, as the owner of the database has them
my $lent = q{
	CREATE TEMP TABLE ddl_log (tag text);
	CREATE TRIGGER up BEFORE INSERT ON ddl_log FOR EACH ROW EXECUTE FUNCTION evil.up();
	CREATE TEMP VIEW pg_am AS SELECT evil.lower('x');
	SET search_path = evil, pg_catalog;};
sub is_super { return $node->safe_psql('lent', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'dbo'}); }
my $logged = $node->safe_psql('lent', 'SELECT count(*) FROM public.ddl_log WHERE tag = \'ALTER TABLE\'');
sql_as($node, 'dbo', "$lent SELECT saga.adopt(); SHOW search_path", 'lent');
is(is_super(), 'f', 'N19: the owner of a database adopts it, and is no superuser by that');
is($node->safe_psql('lent', q{SELECT string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgfoid = 'saga.internal_guard'::regproc}), 'A', 'N19: the guards are enabled');
is($node->safe_psql('lent', 'SELECT count(*) FROM public.ddl_log WHERE tag = \'ALTER TABLE\''), $logged, 'N19: by no statement that fires event triggers');
is(sql_as($node, 'dbo', "$lent SELECT saga.reassign('alice'::regrole, 'dbo'); SELECT current_user; SHOW search_path", 'lent'), "3\ndbo\nevil, pg_catalog",
	'N19: nor by giving the sagas of another role to itself, with its settings as before');
is(is_super(), 'f', 'N19: it is none');
is(sql_as($node, 'dbo', q{SELECT count(*) FROM saga.sagas}, 'lent'), 3, 'N19: but has them');
like(sql_error($node, q{SET lent.leave = 'on'; SELECT saga.reassign('dbo'::regrole, 'alice')}, 'lent'), qr/ERROR:  42501: cannot create a cursor WITH HOLD within security-restricted operation/,
	'N19: and nothing is left behind that would run later');
$node->safe_psql('lent', 'SELECT saga.adopt() FROM saga.ledger_due RIGHT JOIN (SELECT) n ON true');
pass('N19: it is adopted in a query of the ledger, with the guards in place');
$node->safe_psql('lent', 'ALTER TABLE saga.ledger_due ENABLE TRIGGER guard');
like(sql_error($node, q{SELECT saga.adopt() FROM saga.ledger_due RIGHT JOIN (SELECT) n ON true}, 'lent'), qr/ERROR:  55006: cannot enable the guard triggers of "ledger_due" because it is being used by active queries in this session/,
	'N19: not while that query reads the table whose guards are to be enabled');

guarantees($node, 'hostile');
guarantees($node, 'business');
guarantees($node, 'copy_full');
$node->stop;
done_testing();
