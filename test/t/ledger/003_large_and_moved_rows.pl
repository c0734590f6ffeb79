# Values that do not fit a page, updates that do not stay on their page, and
# indexes that a DBA added: what is stored is what was given, and every index
# is right.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main');
$node->safe_psql('postgres', q{
	CREATE EXTENSION amcheck;
	CREATE TABLE undone (step text, args text, output text, input text, length_of_sql int);
	-- does not compress
	CREATE FUNCTION noise(bytes int) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
		SELECT to_jsonb(string_agg(md5(random()::text), '')) FROM generate_series(1, bytes / 32) $$;});

# Every index of the ledger has an entry for every row that it should have.
sub check_indexes
{
	my ($what) = @_;
	my ($out, $err);
	my $code = $node->psql('postgres', q{
		SELECT bt_index_check(x.indexrelid, heapallindexed => true)
		FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am a ON a.oid = i.relam
		JOIN pg_class t ON t.oid = x.indrelid
		WHERE a.amname = 'btree' AND x.indisvalid
			AND (t.relnamespace = 'saga'::regnamespace OR t.oid IN (
				SELECT reltoastrelid FROM pg_class WHERE relnamespace = 'saga'::regnamespace));
		-- and every row that a scan finds is found by its index
		SET enable_seqscan = off;
		SELECT count(*) = 0 FROM (SELECT id FROM saga.ledger_saga OFFSET 0) s
		WHERE NOT EXISTS (SELECT FROM saga.ledger_saga i WHERE i.id = s.id);},
		stdout => \$out, stderr => \$err);
	is("$code$err", '0', "$what: the indexes are right");
}

# --- very long values

my ($saga) = $node->safe_psql('postgres', q{
	CREATE TABLE v AS SELECT
		noise(900000) AS input, noise(900000) AS args, noise(900000) AS output, noise(900000) AS details,
		(SELECT '/* ' || (noise(200000) #>> '{}') || ' */ INSERT INTO undone '
			|| 'SELECT $1->''step''->>''name'', md5($1->>''args''), md5($1->>''output''), md5($1->''saga''->>''input''), 200000')
			AS compensation;
	SELECT saga.begin('long', 'k', input) AS id FROM v \gset
	SELECT status FROM v, saga.step(:'id', 'a', compensation => compensation, args => args) \gset
	SELECT status FROM v, saga.step(:'id', 'b', compensation => compensation, args => args, output => output) \gset
	SELECT status FROM v, saga.step(:'id', 'c', compensation => compensation, args => args) \gset
	\echo :id}) =~ /(\S+)$/;
is($node->safe_psql('postgres', "SELECT st.output = v.output, length(st.output::text) > 890000 FROM v, saga.complete_step('$saga', 'a', v.output) st"),
	't|t', 'a long output is answered');
is($node->safe_psql('postgres', qq{
	SELECT st.status, st.output = v.output
	FROM v, saga.step('$saga', 'a', compensation => compensation, args => args) st;
	SELECT st.status, st.output = v.output
	FROM v, saga.complete_step('$saga', 'b', v.output) st;
	SELECT saga.begin('long', 'k', input) = '$saga' FROM v;}), "completed|t\ncompleted|t\nt",
	'repeated calls compare long values');
like(sql_error($node, qq{SELECT saga.begin('long', 'k', v.args) FROM v}), qr/ERROR:  SG003:/, 'another long input is another');
like(sql_error($node, qq{SELECT saga.step('$saga', 'a', compensation => compensation, args => v.input) FROM v}),
	qr/ERROR:  SG003:/, 'other long args are other args');
$node->psql('postgres', qq{SELECT st.status FROM v, saga.step('$saga', 'a', compensation => compensation || ' ', args => v.args) st},
	stdout => \my $status, stderr => \my $notice);
like("$status $notice", qr/^completed .*These differ: compensation\./s, 'other long SQL is other SQL');
unlike($notice, qr/INSERT INTO undone/, '... which is not repeated');
is($node->safe_psql('postgres', qq{
	SELECT t.key, t.args = v.args, t.output = v.output, t.compensation = v.compensation, s.input = v.input
	FROM v, saga.steps t JOIN saga.sagas s ON s.id = t.saga_id WHERE t.saga_id = '$saga' ORDER BY t.position}),
	"a|t|t|t|t\nb|t|t|t|t\nc|t||t|t", 'the views show what was given');
check_indexes('long values');
is($node->safe_psql('postgres', qq{SELECT saga.fail('$saga', repeat('why ', 15000), v.details) FROM v}), 'compensating', 'long details');
is($node->safe_psql('postgres', "SELECT saga.wait('$saga')"), 'compensated', 'undone');
is($node->safe_psql('postgres', q{
	SELECT u.step, u.args = md5(v.args #>> '{}'), u.output = md5(v.output #>> '{}'), u.input = md5(v.input #>> '{}')
	FROM undone u, v ORDER BY u.step DESC}), "c|t||t\nb|t|t|t\na|t|t|t", 'the compensations got what was given');
is($node->safe_psql('postgres', qq{
	SELECT length(reason), s.details = v.details, s.input = v.input FROM saga.sagas s, v WHERE id = '$saga'}),
	'60000|t|t', 'after many updates of the row, the long values are there');

# at the limit, and above it
is($node->safe_psql('postgres', q{
	SET saga.max_payload = '10MB';
	SELECT length(s.output::text) > 5000000
	FROM saga.step(saga.begin('longer'), 'a', output => noise(5000000)) s}), 't', 'as long as the setting allows');
like(sql_error($node, q{SELECT saga.step(saga.begin('too long'), 'a', output => noise(1100000))}),
	qr/ERROR:  SG009:/, 'but no longer');
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE name = 'too long'}), 0, 'and nothing is stored');

# --- pages are full of rows, not of what updates left behind

# Of every length, so that pages fill up to anything; and nobody else clears.
my $lengths = q{
	SELECT 'saga' AS of, count(*), sum(pg_column_size(s.*)), pg_relation_size('saga.ledger_saga') FROM saga.ledger_saga s
	UNION ALL SELECT 'step', count(*), sum(pg_column_size(t.*)), pg_relation_size('saga.ledger_step') FROM saga.ledger_step t};
$node->safe_psql('postgres', qq{
	ALTER TABLE saga.ledger_saga SET (autovacuum_enabled = off);
	ALTER TABLE saga.ledger_step SET (autovacuum_enabled = off);
	CREATE TABLE lengths AS $lengths;
	DO \$\$
	DECLARE
		s uuid;
	BEGIN
		FOR i IN 1 .. 600 LOOP
			s := saga.start('dense', i || repeat('k', i % 61));
			COMMIT;
			PERFORM saga.step(s, 'a', args => to_jsonb(repeat('x', i % 97)));
			COMMIT;
			PERFORM saga.complete_step(s, 'a', to_jsonb(repeat('y', i % 89)));
			COMMIT;
			PERFORM saga.complete(s);
			COMMIT;
		END LOOP;
	END \$\$;});
is($node->safe_psql('postgres', qq{
	SELECT l.of, l.count - o.count, (l.sum - o.sum) / (l.pg_relation_size - o.pg_relation_size)::numeric > 0.6
	FROM ($lengths) l JOIN lengths o USING (of) ORDER BY 1}), "saga|600|t\nstep|600|t", 'what was replaced makes room for what comes');

# --- updates that leave their page

# Pages as full as they get, so that a version that grows must go elsewhere.
# Before and after: indexes of a DBA, in every shape.
sub hot
{
	$node->safe_psql('postgres', 'SELECT pg_stat_force_next_flush()');
	my %r;
	foreach (split /\n/, $node->safe_psql('postgres', q{
		SELECT relname, n_tup_upd - n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = 'saga'}))
	{
		my ($table, $cold) = split /\|/;
		$r{$table} = $cold;
	}
	return \%r;
}

sub lives
{
	my ($name, $many) = @_;
	# Sessions of their own, for own and foreign versions.
	$node->safe_psql('postgres', qq{
		SELECT count(saga.begin('$name', 'key ' || i, to_jsonb(i))) FROM generate_series(1, $many) i;
		SELECT count(st) FROM saga.sagas s, LATERAL saga.step(s.id, 'a',
			compensation => 'INSERT INTO undone (step) VALUES (''cold'')') st WHERE s.name = '$name';
		SELECT count(st) FROM saga.sagas s, LATERAL saga.step(s.id, 'b', args => to_jsonb(repeat('x', 500))) st WHERE s.name = '$name';});
	$node->safe_psql('postgres', qq{
		SELECT count(st) FROM saga.sagas s, LATERAL saga.complete_step(s.id, 'a', to_jsonb(md5(s.id::text) || repeat(' y', 900))) st WHERE s.name = '$name';
		BEGIN;
		SELECT count(st) FROM saga.sagas s, LATERAL saga.fail_step(s.id, 'b', repeat('z', 1000)) st WHERE s.name = '$name';
		SELECT count(st) FROM saga.sagas s, LATERAL saga.step(s.id, 'b', args => to_jsonb(repeat('x', 500))) st WHERE s.name = '$name';
		COMMIT;
		BEGIN;
		SELECT count(st) FROM saga.sagas s, LATERAL saga.complete_step(s.id, 'b', to_jsonb(repeat('w', 1500))) st WHERE s.name = '$name';
		ROLLBACK;
		SELECT count(st) FROM saga.sagas s, LATERAL saga.complete_step(s.id, 'b', to_jsonb(repeat('v', 1500))) st WHERE s.name = '$name';
		SELECT count(saga.complete(id, to_jsonb(repeat('r', 1000)))) FROM saga.sagas WHERE name = '$name' AND (input #>> '{}')::int % 2 = 0;
		SELECT count(saga.fail(id, repeat('q', 1000))) FROM saga.sagas WHERE name = '$name' AND (input #>> '{}')::int % 2 = 1;});
	wait_until($node, qq{SELECT count(*) = 0 FROM saga.sagas WHERE name = '$name' AND state NOT IN ('completed', 'compensated')});
	is($node->safe_psql('postgres', qq{
		SELECT state, count(*), count(DISTINCT idempotency_key), min(length(coalesce(reason, result #>> '{}')))
		FROM saga.sagas WHERE name = '$name' GROUP BY 1 ORDER BY 1;
		SELECT key, status, count(*), min(length(output::text)), min(attempts) FROM saga.steps
		WHERE saga_id IN (SELECT id FROM saga.sagas WHERE name = '$name') GROUP BY 1, 2 ORDER BY 1;
		SELECT count(*) FROM (SELECT saga.begin('$name', 'key ' || i, to_jsonb(i)) AS id FROM generate_series(1, $many) i) again
		JOIN saga.sagas s ON s.id = again.id WHERE s.name = '$name';}),
		join("\n", "compensated|" . $many / 2 . '|' . $many / 2 . '|1000', "completed|" . $many / 2 . '|' . $many / 2 . '|1000',
			"a|completed|$many|1834|1", "b|completed|$many|1502|2", $many),
		"$name: every row is what it should be, and found by its key");
}

$node->safe_psql('postgres', q{
	ALTER TABLE saga.ledger_saga SET (fillfactor = 100);
	ALTER TABLE saga.ledger_step SET (fillfactor = 100);});
my $before = hot();
lives('cold', 200);
my $after = hot();
cmp_ok($after->{ledger_saga} - ($before->{ledger_saga} // 0), '>', 50, 'updates of sagas left their page');
cmp_ok($after->{ledger_step} - ($before->{ledger_step} // 0), '>', 200, 'updates of steps left their page');
check_indexes('updates that left their page');

# --- indexes that a DBA added

$node->safe_psql('postgres', q{
	CREATE INDEX dba_plain ON saga.ledger_saga (name, started_at);
	CREATE INDEX dba_expression ON saga.ledger_saga ((lower(name) || coalesce(key, '')));
	CREATE INDEX dba_partial ON saga.ledger_saga (updated_at) WHERE state = 'u';
	CREATE INDEX dba_include ON saga.ledger_saga (state) INCLUDE (name);
	CREATE INDEX dba_collation ON saga.ledger_saga (name COLLATE "default" text_pattern_ops DESC);
	CREATE INDEX dba_hash ON saga.ledger_saga USING hash (id);
	CREATE INDEX dba_gin ON saga.ledger_saga USING gin (input);
	CREATE INDEX dba_brin ON saga.ledger_saga USING brin (started_at);
	CREATE INDEX dba_step_plain ON saga.ledger_step (started_at);
	CREATE INDEX dba_step_seq ON saga.ledger_step (seq) WHERE comp_status <> 'n';
	CREATE INDEX dba_step_expression ON saga.ledger_step (upper(key), (args IS NULL));
	CREATE UNIQUE INDEX dba_step_unique ON saga.ledger_step (saga, seq);
	CREATE INDEX dba_step_action ON saga.ledger_step (action, give_up);
	CREATE INDEX dba_step_any ON saga.ledger_step ((coalesce(action, 'none'))) WHERE approval IS NULL;
	CREATE INDEX dba_attempt ON saga.ledger_attempt (finished_at) WHERE outcome <> 's';
	CREATE INDEX dba_event ON saga.ledger_event (md5(detail ->> 'reason'));
	CREATE INDEX dba_due ON saga.ledger_due (saga);});
lives('with indexes', 100);
check_indexes('indexes that a DBA added');
is($node->safe_psql('postgres', q{
	SET enable_seqscan = off; SET enable_bitmapscan = off;
	SELECT count(*) FROM saga.ledger_saga WHERE lower(name) || coalesce(key, '') = 'with indexeskey 7';
	SELECT count(*) FROM saga.ledger_saga WHERE state = 'c' AND name = 'with indexes';
	SELECT count(*) FROM saga.ledger_step WHERE upper(key) = 'B' AND args IS NOT NULL;
	SET enable_bitmapscan = on; SET enable_indexscan = off;
	SELECT count(*) FROM saga.ledger_saga WHERE input @> '7';
	RESET enable_indexscan; SET enable_bitmapscan = off;
	SELECT count(*) FROM saga.ledger_saga WHERE id = (SELECT id FROM saga.sagas WHERE name = 'with indexes' AND idempotency_key = 'key 7');}),
	"1\n50\n301\n2\n1", 'they find what they should');
$node->safe_psql('postgres', 'VACUUM saga.ledger_saga, saga.ledger_step');
check_indexes('vacuumed');

# Built while sagas go on: the second half of CREATE INDEX CONCURRENTLY waits
# for an open transaction.
my $open = session($node);
$open->query_safe(q{BEGIN; SELECT saga.step(saga.begin('open', 'open'), 'a');});
my $ddl = session($node);
background($ddl, 'CREATE INDEX CONCURRENTLY dba_late ON saga.ledger_step (status, key)');
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_progress_create_index WHERE lockers_total > 0});
$node->safe_psql('postgres', q{SELECT saga.step(saga.begin('meanwhile'), 'k', output => '1')});
$open->query_safe(q{SELECT saga.complete_step((SELECT id FROM saga.sagas WHERE idempotency_key = 'open'), 'a', '2'); COMMIT;});
$ddl->query('SELECT 1');
is($node->safe_psql('postgres', q{
	SELECT indisvalid FROM pg_index WHERE indexrelid = 'saga.dba_late'::regclass;
	SET enable_seqscan = off;
	SELECT count(*) FROM saga.ledger_step WHERE status = 'c' AND key = 'k'}), "t\n1", 'an index built meanwhile has it all');
check_indexes('an index built meanwhile');
$open->quit;
$ddl->quit;

# --- rows that end before the columns of steps that saga runs

# How many columns the rows of steps have: all that are stored, old versions included
$node->safe_psql('postgres', q{
	CREATE EXTENSION pageinspect;
	CREATE FUNCTION stored(keys text[]) RETURNS SETOF text LANGUAGE sql AS $$
		SELECT DISTINCT t.key || ' ' || CASE WHEN i.t_infomask2 & 2047 = a.all_of_them THEN 'all' ELSE 'less' END
		FROM saga.ledger_step t,
			LATERAL heap_page_items(get_raw_page('saga.ledger_step', (t.ctid::text::point)[0]::int)) i,
			(SELECT count(*) AS all_of_them FROM pg_attribute WHERE attrelid = 'saga.ledger_step'::regclass AND attnum > 0) a
		WHERE t.key = ANY (keys) AND i.lp = (t.ctid::text::point)[1]::int ORDER BY 1 $$;});
my $rows = q{SELECT stored('{applications, actions, recorded, reports}')};
my $mixed = $node->safe_psql('postgres', q{
	SELECT saga.begin('mixed') AS s \gset
	SELECT count(*) FROM saga.step(:'s', 'applications', compensation => 'SELECT 1', args => '1') \gset x
	SELECT count(*) FROM saga.step(:'s', 'reports', args => (SELECT args FROM v)) \gset x
	\echo :s});
is($node->safe_psql('postgres', $rows), "applications less\nreports all", 'a step of the application has fewer columns stored; the server adds them where it moves values out of line');
$node->safe_psql('postgres', qq{
	SELECT saga.complete_step('$mixed', 'applications', '2');
	SELECT saga.complete_step('$mixed', 'reports', '3');
	SELECT saga.step('$mixed', 'actions', action => 'SELECT saga.step((\$1->''saga''->>''id'')::uuid, ''recorded'', args => ''5'', completed => true)');});
wait_until($node, "SELECT count(*) = 4 FROM saga.steps WHERE saga_id = '$mixed' AND status = 'completed'");
is($node->safe_psql('postgres', $rows), "actions all\napplications less\nrecorded all\nreports less",
	'one that saga runs has all, as has what its action recorded');
# The columns of those are there for every row, for saga and for SQL.
is($node->safe_psql('postgres', q{
	SET enable_seqscan = off; SET enable_bitmapscan = off;
	SELECT key FROM saga.ledger_step WHERE action LIKE 'SELECT saga.step(%' AND give_up = 'f';
	SELECT count(*) FROM saga.ledger_step WHERE coalesce(action, 'none') = 'none' AND approval IS NULL AND key = 'applications'}),
	"actions\n1", 'indexes on those columns have what is not stored, too');
$node->safe_psql('postgres', "SELECT saga.fail('$mixed', 'enough')");
is($node->safe_psql('postgres', "SELECT saga.wait('$mixed')"), 'compensated', 'all are undone');
is($node->safe_psql('postgres', $rows), "actions all\napplications less\nrecorded all\nreports less", '... and as long as before');
$node->safe_psql('postgres', 'VACUUM FULL saga.ledger_step');
is($node->safe_psql('postgres', qq{
	SELECT key, status, compensation_status, args, (action IS NULL) FROM saga.steps WHERE saga_id = '$mixed' AND key <> 'reports' ORDER BY key;}),
	"actions|completed|none||f\napplications|completed|compensated|1|t\nrecorded|completed|none|5|t", 'they read as they were after a rewrite');
check_indexes('rows of both kinds');

guarantees($node);
$node->stop;
done_testing();
