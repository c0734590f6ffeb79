# A compensation runs as in a session of its own: what was read, decided or left
# behind for one of them reaches no other, neither by kept plans nor by what a
# library, the process or the role's settings hold.  And what leaves nothing
# behind goes on in the same process.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "autovacuum = off\nsaga.max_executors = 1\nsaga.executor_idle_timeout = 1h\n");
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	GRANT USAGE ON SCHEMA saga TO app;
	GRANT CREATE ON SCHEMA public TO app;
	GRANT CREATE ON DATABASE postgres TO app;});

sub sql
{
	my ($sql) = @_;
	return sql_as($node, 'app', $sql);
}
sql(q{
	CREATE TABLE seen (n serial, what text);
	CREATE FUNCTION see(what text) RETURNS void LANGUAGE sql AS 'INSERT INTO public.seen (what) VALUES ($1)';});
create_failed($node, keyless => 1, retry => q{saga.retry_policy(max_attempts => 3, delay => '10 ms')});

# Fails a saga after some settings and waits: what it has seen; if it did not
# come to its end, its state and the error.
sub compensate
{
	my ($compensation, $before) = @_;
	my $out = sql(($before // '') . qq{;
		SELECT public.failed(\$c\$$compensation\$c\$) AS id \\gset
		SELECT saga.wait(:'id') AS state \\gset
		SELECT :'state' || ': ' || last_error FROM saga.steps WHERE saga_id = :'id' AND :'state' <> 'compensated';
		WITH gone AS (DELETE FROM public.seen RETURNING *) SELECT string_agg(what, ' ' ORDER BY n) FROM gone});
	return $out =~ s/^\s+|\s+$//gr;
}
sub executor { return join ' ', executor_pids($node); }

# One after the other, in one process
sub warm
{
	my ($name, $code) = @_;
	# One that leaves may still be seen.
	wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'saga executor'});
	my $pid = executor();
	$code->();
	is(executor(), $pid, "$name: in the same process");
	return;
}

is(compensate('SELECT see($1->>$$attempt$$)'), 1, 'a first one');
like(executor(), qr/^\d+$/, 'in an executor');

# --- What is decided when a text is read: constants

sql(q{
	CREATE FUNCTION now_plpgsql() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN timestamptz 'now' = now(); END $$;
	CREATE FUNCTION now_later_plpgsql() RETURNS boolean LANGUAGE plpgsql AS $$
	DECLARE at timestamptz; BEGIN SELECT 'now' INTO at; RETURN at = now(); END $$;
	CREATE FUNCTION now_sql() RETURNS boolean LANGUAGE sql VOLATILE AS $$ SELECT timestamptz 'now' = now() $$;
	CREATE FUNCTION now_plain() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT timestamptz 'now' $$;
	CREATE FUNCTION now_nested() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT public.now_plain() $$;
	CREATE FUNCTION now_set() RETURNS SETOF timestamptz LANGUAGE sql STABLE AS $$ SELECT timestamptz 'now' $$;
	CREATE FUNCTION is_now(at timestamptz) RETURNS text LANGUAGE sql AS $$ SELECT (at = now())::text $$;
	CREATE PROCEDURE see_now(at timestamptz) LANGUAGE plpgsql AS $$ BEGIN PERFORM see((at = now())::text); END $$;
	CREATE FUNCTION now_cursor() RETURNS boolean LANGUAGE plpgsql AS $$
	DECLARE c CURSOR FOR SELECT timestamptz 'now'; at timestamptz; BEGIN OPEN c; FETCH c INTO at; RETURN at = now(); END $$;
	CREATE DOMAIN moment AS timestamptz;
	CREATE TYPE pair AS (a integer, at timestamptz);});
foreach my $case (
	[ 'in a statement', q{SELECT see((timestamptz 'now' = now())::text)} ],
	[ 'as the value of an INSERT', q{CREATE TEMP TABLE at (at timestamptz); INSERT INTO at VALUES ('now'); SELECT see((at = now())::text) FROM at} ],
	[ 'of a domain', q{SELECT see((moment 'now' = now())::text)} ],
	[ 'in an array', q{SELECT see((('{now}'::timestamptz[])[1] = now())::text)} ],
	[ 'in a range', q{SELECT see((lower('[now,)'::tstzrange) = now())::text)} ],
	[ 'in a row', q{SELECT see((('(1,now)'::pair).at = now())::text)} ],
	[ 'in a subquery', q{SELECT see((at = now())::text) FROM (SELECT timestamptz 'now' AS at OFFSET 0) s} ],
	[ 'in a common table expression', q{WITH w AS MATERIALIZED (SELECT timestamptz 'now' AS at) SELECT see((at = now())::text) FROM w} ],
	[ 'among VALUES', q{SELECT see((at = now())::text) FROM (VALUES (timestamptz 'now'), ('now')) v (at) LIMIT 1} ],
	[ 'in PL/pgSQL', q{SELECT see(now_plpgsql()::text)} ],
	[ 'in a statement of PL/pgSQL', q{SELECT see(now_later_plpgsql()::text)} ],
	[ 'in a cursor of PL/pgSQL', q{SELECT see(now_cursor()::text)} ],
	[ 'in a function in SQL', q{SELECT see(now_sql()::text)} ],
	[ 'in one that is inlined', q{SELECT see((now_plain() = now())::text)} ],
	[ 'in one that is inlined into another', q{SELECT see((now_nested() = now())::text)} ],
	[ 'in a set that is inlined', q{SELECT see((at = now())::text) FROM now_set() at} ],
	[ 'as an argument', q{SELECT see(is_now('now'))} ],
	[ 'as an argument of CALL', q{CALL see_now('now')} ],
	[ 'in a cursor', q{DECLARE c CURSOR WITH HOLD FOR SELECT see((timestamptz 'now' = now())::text)} ],
	[ 'in CREATE TABLE AS', q{CREATE TEMP TABLE at AS SELECT timestamptz 'now' AS at; SELECT see((at = now())::text) FROM at} ],
	[ 'in DO', q{DO $$ BEGIN PERFORM see((timestamptz 'now' = now())::text); END $$} ],
	[ 'in EXECUTE', q{PREPARE p (timestamptz) AS SELECT see(($1 = now())::text); EXECUTE p('now'); DEALLOCATE p} ])
{
	my ($name, $sql) = @$case;
	is(join(' ', map { compensate($sql) } 1 .. 8), join(' ', ('true') x 8), "'now' $name");
}

# By the settings that the step kept
my %tenant = (
	utc => q{SET TimeZone = 'UTC'; SET DateStyle = 'ISO, DMY'; SET IntervalStyle = 'postgres'},
	tokyo => q{SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'sql_standard'});
my $capture = q{SET saga.capture_settings = 'TimeZone, DateStyle, IntervalStyle, array_nulls, transform_null_equals';};
sql(q{
	CREATE FUNCTION noon() RETURNS text LANGUAGE plpgsql AS $$
	BEGIN RETURN extract(epoch FROM timestamptz '2024-07-01 12:00')::integer; END $$;
	CREATE FUNCTION minus() RETURNS text LANGUAGE plpgsql AS $$
	BEGIN RETURN extract(epoch FROM interval '-1 2:00:00')::integer; END $$;});
foreach my $case (
	[ 'timestamptz', q{SELECT see(extract(epoch FROM timestamptz '2024-07-01 12:00')::integer::text)}, 1719835200, 1719802800 ],
	[ 'timestamptz in PL/pgSQL', q{SELECT see(noon())}, 1719835200, 1719802800 ],
	[ 'date', q{SELECT see(to_char('01/02/2024'::date, 'Mon'))}, 'Feb', 'Jan' ],
	[ 'interval', q{SELECT see(extract(epoch FROM interval '-1 2:00:00')::integer::text)}, -79200, -93600 ],
	[ 'interval in PL/pgSQL', q{SELECT see(minus())}, -79200, -93600 ],
	[ 'interval that begins with a blank', q{SELECT see(extract(epoch FROM ' -1 2:00:00'::interval)::integer::text)}, -79200, -93600 ])
{
	my ($name, $sql, $utc, $tokyo) = @$case;
	is(join(' ', map { compensate($sql, $capture . $tenant{$_}) } qw(utc tokyo utc)), "$utc $tokyo $utc", "$name by the captured settings");
}
is(join(' ', map { compensate(q{SELECT see(array_to_string('{1,NULL}'::text[], ',', 'none'))}, "$capture SET array_nulls = $_") } qw(on off on)),
	'1,none 1,NULL 1,none', 'arrays by the captured array_nulls');
is(join(' ', map { compensate(q{SELECT see(coalesce(($1->>'error' = NULL)::text, 'unknown'))}, "$capture SET transform_null_equals = $_") } qw(off on off)),
	'unknown true unknown', 'comparisons by the captured transform_null_equals');

# By the name of a label
sql(q{CREATE TYPE mood AS ENUM ('calm', 'cross')});
is(compensate(q{SELECT see(('calm'::mood)::text)}), 'calm', 'a label');
sql(q{ALTER TYPE mood RENAME VALUE 'calm' TO 'quiet'});
like(compensate(q{SELECT see(('calm'::mood)::text)}), qr/^needs_review: invalid input value for enum mood: "calm"/, 'that is called otherwise now');
sql(q{ALTER TYPE mood ADD VALUE 'calm'});
is(compensate(q{SELECT see(('calm'::mood)::text || ' ' || ('calm'::mood > 'cross'::mood))}), 'calm true', 'and another that has its name');

# --- What is decided when a text is read: names

sql(q{CREATE SCHEMA early; CREATE SCHEMA late;
	CREATE FUNCTION late.f() RETURNS text LANGUAGE sql AS $$ SELECT 'late' $$;
	CREATE FUNCTION late.g() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN f(); END $$;
	CREATE TABLE late.t AS SELECT text 'late' AS t;
	CREATE FUNCTION late.h() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT t FROM t); END $$;
	CREATE TYPE late.y AS ENUM ('late');
	CREATE FUNCTION late.is_in(late.y) RETURNS text LANGUAGE sql AS $$ SELECT 'late' $$;
	CREATE FUNCTION late.ab(integer, integer) RETURNS text LANGUAGE sql AS $$ SELECT 'late' $$;
	CREATE OPERATOR late.<~~> (FUNCTION = late.ab, LEFTARG = integer, RIGHTARG = integer);});
my $path = 'SET search_path = early, late, public';
foreach my $case (
	[ 'a function', 'SELECT public.see(f())', q{CREATE FUNCTION early.f() RETURNS text LANGUAGE sql AS $$ SELECT 'early' $$}, 'DROP FUNCTION early.f()' ],
	[ 'a function, in PL/pgSQL', 'SELECT public.see(g())', q{CREATE FUNCTION early.f() RETURNS text LANGUAGE sql AS $$ SELECT 'early' $$}, 'DROP FUNCTION early.f()' ],
	[ 'a table', 'SELECT public.see(t) FROM t', q{CREATE TABLE early.t AS SELECT text 'early' AS t}, 'DROP TABLE early.t' ],
	[ 'a table, in PL/pgSQL', 'SELECT public.see(h())', q{CREATE TABLE early.t AS SELECT text 'early' AS t}, 'DROP TABLE early.t' ],
	[ 'a table, by its name', q{SELECT public.see((SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 't'::regclass))},
		q{CREATE TABLE early.t AS SELECT text 'early' AS t}, 'DROP TABLE early.t' ],
	[ 'a type', q{SELECT public.see((SELECT typnamespace::regnamespace::text FROM pg_type WHERE oid = pg_typeof(NULL::y)))},
		q{CREATE DOMAIN early.y AS text}, 'DROP DOMAIN early.y' ],
	[ 'an operator', q{SELECT public.see(1 <~~> 2)},
		q{CREATE FUNCTION early.ab(integer, integer) RETURNS text LANGUAGE sql AS $$ SELECT 'early' $$;
		CREATE OPERATOR early.<~~> (FUNCTION = early.ab, LEFTARG = integer, RIGHTARG = integer)}, 'DROP FUNCTION early.ab(integer, integer) CASCADE' ])
{
	my ($name, $sql, $create, $drop) = @$case;
	my @results = (compensate($sql, $path));
	sql($create);
	push @results, compensate($sql, $path);
	sql($drop);
	push @results, compensate($sql, $path);
	is("@results", 'late early late', "$name in an earlier schema");
}
is(join(' ', map { compensate('SELECT see(t) FROM t', "SET search_path = $_, public") } qw(late early late)) =~ s/needs_review: relation "t" does not exist/none/r,
	'late none late', 'by the search_path of each');
# A temporary table of an earlier statement of the same compensation
is(join(' ', map { compensate($_, $path) } 'SELECT public.see(h())', q{CREATE TEMP TABLE t AS SELECT text 'temp' AS t; SELECT public.see(h())},
	'SELECT public.see(h())', q{CREATE TEMP TABLE t AS SELECT text 'temp' AS t; SELECT public.see(h())}), 'late temp late temp', 'a temporary table in the same');

# What a plan holds fast: a function that says it were immutable
sql(q{
	CREATE FUNCTION tenant() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT current_setting('app.tenant') $$;
	CREATE FUNCTION tenant_plpgsql() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN current_setting('app.tenant'); END $$;
	CREATE FUNCTION same(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN current_setting('app.tenant') || $1; END $$;
	CREATE TABLE owned (tenant text); INSERT INTO owned VALUES ('one'), ('two');
	CREATE VIEW mine AS SELECT tenant FROM owned WHERE tenant = tenant_plpgsql();
	CREATE TABLE walled AS TABLE owned;
	ALTER TABLE walled ENABLE ROW LEVEL SECURITY; ALTER TABLE walled FORCE ROW LEVEL SECURITY;
	CREATE POLICY mine ON walled USING (tenant = tenant_plpgsql());});
foreach my $case (
	[ 'in SQL', q{SELECT see(tenant())} ],
	[ 'in PL/pgSQL', q{SELECT see(tenant_plpgsql())} ],
	[ 'of a constant', q{SELECT see(same(''))} ],
	[ 'of what becomes one', q{SELECT see(same(coalesce('', $1->>'args')))} ],
	[ 'of a column of a subquery', q{SELECT see(same(x)) FROM (SELECT '' AS x) s} ],
	[ 'in a view', q{SELECT see(tenant) FROM mine} ],
	[ 'in a policy', q{SELECT see(tenant) FROM walled} ])
{
	my ($name, $sql) = @$case;
	is(join(' ', map { compensate($sql, "SET saga.capture_settings = 'app.tenant'; SET app.tenant = '$_'") } ("one") x 7, qw(two one)),
		"one one one one one one one two one", "a function called immutable: $name");
}

# --- The text itself

# As it was read when the step was recorded
# (From 19 on there is one way to read it.)
my $two_ways = $node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'escape_string_warning'});
my $text = q{SELECT see('a\\\\b')};
is(join(' ', map { compensate($text, "SET standard_conforming_strings = $_; SET escape_string_warning = off") } qw(on off on off)),
	'a\\\\b a\\b a\\\\b a\\b', 'standard_conforming_strings is kept with the step')
  if $two_ways;
is(compensate(q{SELECT see('it\\'s')}, 'SET standard_conforming_strings = off; SET escape_string_warning = off; SET backslash_quote = on'), q{it's},
	'what parsed when it was recorded still does')
  if $two_ways;
sql(q{CREATE FUNCTION slash() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'a\\\\b'; END $$});
is(join(' ', map { compensate('SELECT see(slash())', "SET standard_conforming_strings = $_; SET escape_string_warning = off") } qw(on off on)),
	'a\\\\b a\\b a\\\\b', 'also in a function that was compiled before')
  if $two_ways;

# What leaves nothing behind stays warm.
sql(q{
	CREATE TABLE account (id integer PRIMARY KEY, balance integer, until timestamptz); INSERT INTO account VALUES (1, 0);
	CREATE FUNCTION give(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		a account%ROWTYPE;
	BEGIN
		UPDATE account SET balance = balance + 1, until = now() + interval '1 hour' WHERE id = 1 RETURNING * INTO a;
		IF a.balance < 0 THEN RAISE EXCEPTION 'overdrawn since %', date '2024-01-01'; END IF;
		PERFORM see(a.balance::text);
	END $$;});
is(compensate('SELECT give($1)'), 1, 'a compensation');
warm('functions and statements', sub {
	is(join(' ', map { compensate('SELECT give($1)') } 1 .. 5), '2 3 4 5 6', 'the same again');
	is(join(' ', map { compensate(q{UPDATE account SET balance = balance - 1; SELECT see(balance::text) FROM account}) } 1 .. 3), '5 4 3', 'another');
	like(compensate('SELECT 1/0'), qr/^needs_review: division by zero/, 'a failure');
	is(compensate('SELECT give($1)'), 4, 'and after it');
});

# --- What the process holds

# The seed of random()
sql(q{SELECT 1});
compensate('SELECT setseed(0.5)');
my $seeded = sql('SELECT setseed(0.5); SELECT random()') =~ s/\s+//gr;
isnt(compensate('SELECT see(random()::text)'), $seeded, 'random numbers do not follow from a seed of another');
isnt(compensate('SELECT setseed(0.5); SELECT see(random()::text)'), '', 'in a function');
my $again = compensate('SELECT see(random()::text)');
isnt($again, compensate('SELECT see(random()::text)'), 'nor repeat');

# The role's settings
warm('before ALTER ROLE', sub {
	is(compensate(q{SELECT see(current_setting('work_mem'))}), '4MB', 'a setting'); });
foreach my $case (
	[ 'ALTER ROLE app SET work_mem', '1MB' ],
	[ 'ALTER ROLE app IN DATABASE postgres SET work_mem', '2MB' ],
	[ 'ALTER ROLE app IN DATABASE postgres RESET work_mem', '1MB' ],
	[ 'ALTER ROLE app RESET work_mem', '4MB' ],
	[ 'ALTER DATABASE postgres SET work_mem', '3MB' ],
	[ 'ALTER DATABASE postgres RESET work_mem', '4MB' ],
	[ 'ALTER ROLE ALL SET work_mem', '5MB' ],
	[ 'ALTER ROLE ALL RESET work_mem', '4MB' ])
{
	my ($what, $value) = @$case;
	$node->safe_psql('postgres', $what . ($what =~ / SET / ? " = '$value'" : ''));
	is(compensate(q{SELECT see(current_setting('work_mem'))}), $value, "after $what");
}
$node->safe_psql('postgres', q{CREATE ROLE other; ALTER ROLE other SET work_mem = '9MB'; CREATE DATABASE other; ALTER DATABASE other SET work_mem = '9MB'});
warm('settings of others', sub {
	is(compensate(q{SELECT see(current_setting('work_mem'))}), '4MB', 'those of another role are none of its business'); });

# A setting that is not there is not there, whatever another step had kept.
is(join(' ', map { compensate(q{SELECT see(coalesce(current_setting('app.region', true), 'none'))}, $_) }
	q{SET saga.capture_settings = 'app.region'; SET app.region = 'north'}, '', q{SET saga.capture_settings = 'app.region'; SET app.region = 'south'}, ''),
	'north none south none', 'a captured setting of another step is not there');
compensate('SELECT 1', q{SET saga.capture_settings = 'app.region'; SET app.region = 'north'});
warm('steps that capture the same', sub {
	is(join(' ', map { compensate(q{SELECT see(coalesce(current_setting('app.region', true), 'none'))},
		"SET saga.capture_settings = 'app.region'; SET app.region = '$_'") } qw(south east)), 'south east', 'captured settings'); });

SKIP:
{
	skip 'dblink is not installed', 12 if $node->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'dblink'}) eq '0';
	my $connection = "host='" . $node->host . "' port=" . $node->port . " dbname=postgres user=app";
	$node->safe_psql('postgres', 'CREATE EXTENSION dblink; GRANT EXECUTE ON FUNCTION dblink_connect_u(text, text) TO app');
	my $remote = qq{SELECT dblink_connect_u('remote', \$d\$$connection\$d\$)};
	is(compensate($remote), '', 'a connection of dblink, left open');
	is(compensate("$remote; SELECT see('connected')"), 'connected', 'is not there for another');
	wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend'});
	# In the first attempt, it fails behind it.
	sql('CREATE SEQUENCE tries');
	is(compensate(qq{$remote; SELECT dblink_exec('remote', 'BEGIN'); SELECT dblink_exec('remote', 'LOCK TABLE account');
		SELECT 1 / (nextval('tries') - 1); SELECT dblink_disconnect('remote'); SELECT see('at the second attempt')}), 'at the second attempt',
		'an attempt that failed leaves neither connection nor locks');
	wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend'});

	# The same if the library is there from the start
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'saga, dblink'");
	$node->restart;
	is(compensate('SELECT give($1)'), 5, 'with dblink preloaded, one that does not use it');
	warm('a library that nobody uses', sub { is(compensate('SELECT give($1)'), 6, 'and another'); });
	is(compensate($remote), '', 'one that does');
	is(compensate("$remote; SELECT see('connected')"), 'connected', 'leaves nothing for the next');
	is(compensate("DO \$\$ BEGIN PERFORM dblink_connect_u('plpgsql', \$d\$$connection\$d\$); PERFORM see('block'); END \$\$"), 'block', 'in a block') for 1 .. 2;

	# A DBA may know better
	$node->append_conf('postgresql.conf', q{saga.stateless_libraries = 'dblink'});
	$node->restart;
	my $closed = "$remote; SELECT dblink_disconnect('remote'); SELECT see('closed')";
	is(compensate($closed), 'closed', 'a library that the DBA knows to keep nothing');
	warm('a library that the DBA knows to keep nothing', sub { is(compensate($closed), 'closed', 'again'); });
}

# Libraries that nobody calls, and those that keep nothing
SKIP:
{
	skip 'auto_explain is not installed', 2 if !-e $node->safe_psql('postgres', q{SELECT setting || '/auto_explain.so' FROM pg_config() WHERE name = 'PKGLIBDIR'});
	$node->safe_psql('postgres', 'ALTER ROLE app SUPERUSER');
	is(compensate(q{LOAD 'auto_explain'; SELECT see('loaded')}), 'loaded', 'LOAD');
	is(compensate(q{SELECT see(coalesce(current_setting('auto_explain.log_format', true), 'none'))}), 'none', 'is of one compensation');
	$node->safe_psql('postgres', 'ALTER ROLE app NOSUPERUSER');
}
SKIP:
{
	skip 'pgcrypto is not installed', 2 if $node->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'pgcrypto'}) eq '0';
	$node->safe_psql('postgres', 'CREATE EXTENSION pgcrypto');
	is(compensate(q{SELECT see(length(digest('a', 'sha1'))::text)}), 20, 'a library known to keep nothing');
	warm('a library known to keep nothing', sub { is(compensate(q{SELECT see(length(digest('a', 'sha1'))::text)}), 20, 'again'); });
}

guarantees($node);
$node->stop;
done_testing();
