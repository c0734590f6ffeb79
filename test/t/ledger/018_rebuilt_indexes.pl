# Indexes that are rebuilt or added while sagas go on: of two calls with the
# same key, the second waits for the first and gets its answer, whichever of
# the indexes it meets it in; and every index has what it should have.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Nothing of ours comes between; nobody else holds snapshots.
my $node = saga_cluster('main', conf => "saga.enabled = off\nautovacuum = off\n");
$node->safe_psql('postgres', 'CREATE EXTENSION amcheck');

sub check_indexes
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($out, $err);

	# Also of those that were taken back: nothing is left out.
	my $code = $node->psql('postgres', q{
		SELECT bt_index_parent_check(x.indexrelid, heapallindexed => true, rootdescend => true)
		FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am a ON a.oid = i.relam
		JOIN pg_class t ON t.oid = x.indrelid
		WHERE a.amname = 'btree' AND x.indisvalid AND t.relnamespace = 'saga'::regnamespace}, stdout => \$out, stderr => \$err);
	is("$code$err", '0', "$what: the indexes are right");
	is($node->safe_psql('postgres', q{
		SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off;
		SELECT owner, name, key FROM saga.ledger_saga GROUP BY 1, 2, 3 HAVING count(key) > 1;
		SELECT saga, key, run FROM saga.ledger_step GROUP BY 1, 2, 3 HAVING count(*) > 1;}), '', "$what: no key is there twice");
	return;
}

# What a session was told since it was asked last
sub errors_of
{
	my ($session) = @_;
	my $said = $session->{stderr};

	$session->{stderr} = '';
	return $said =~ s/^(?!.*ERROR).*\n?//mgr;
}

my $first = session($node);
my $second = session($node);
# They live longer than one wait may take.
$_->set_query_timer_restart foreach $first, $second;
my $pid = $second->query_safe('SELECT pg_backend_pid()');
my $n = 0;

sub waits_for_lock
{
	return wait_until($node, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $_[0]");
}

# Two sessions say the same, the first in a transaction that stays open for as
# long as the second has not begun to wait.
sub races
{
	my ($what) = @_;

	foreach my $end ('COMMIT', 'ROLLBACK')
	{
		my $key = 'race ' . ++$n;
		my $begin = "SELECT saga.begin('order', '$key') AS id \\gset\n";

		$first->query_safe("BEGIN;\n$begin");
		background($second, "$begin SELECT 1");
		waits_for_lock($pid);
		$first->query_safe($end);
		is($second->query(qq{SELECT count(*), count(*) FILTER (WHERE id = :'id') FROM saga.sagas WHERE idempotency_key = '$key'}) =~ s/\A1\n//r,
			'1|1', "$what: of two that begin at once, the first to $end");
		is(errors_of($second) . errors_of($first), '', "$what: without an error");

		my $saga = $second->query_safe("SELECT saga.start('order', 'steps of $key')");
		my $step = "SELECT seq FROM saga.step('$saga', 'a') \\gset\n";
		$first->query_safe("BEGIN;\n$step");
		background($second, "$step SELECT 1");
		waits_for_lock($pid);
		$first->query_safe($end);
		is($second->query(qq{SELECT count(*), count(*) FILTER (WHERE seq = :seq) FROM saga.steps WHERE saga_id = '$saga'}) =~ s/\A1\n//r,
			'1|1', "$what: of two that start a step at once, the first to $end");
		is(errors_of($second) . errors_of($first), '', "$what: without an error");
	}

	# A row that is replaced while another comes under its key: it asks nobody.
	my $key = 'replaced ' . ++$n;
	my $id = $first->query_safe("SELECT saga.start('order', '$key')");
	$first->query_safe("BEGIN; SELECT saga.pause('$id', 'a while')");
	is($second->query_safe("SELECT saga.begin('order', '$key') = '$id'"), 't', "$what: the key of one that is being replaced");
	$first->query_safe('COMMIT');
	is($first->query_safe("SELECT saga.resume('$id')"), 'running', "$what: replaced");
	return;
}

# Every call that comes of many sessions with few keys
my $script = PostgreSQL::Test::Utils::tempdir() . '/load';
append_to_file($script, q{\set key random(1, 400)
BEGIN;
SELECT saga.begin('load :tag', 'key :key', '{"a": 1}') AS id \gset
COMMIT;
BEGIN;
SELECT (saga.step(':id', 'a', args => '1')).status;
SELECT (saga.step(':id', 'b', output => '2')).status;
COMMIT;
SELECT saga.pause(':id', 'a while');
});

sub load
{
	my ($what, $transactions) = @_;

	$node->command_checks_all(
		[ 'pgbench', '-n', '-D', 'tag=' . ++$n, '-t', $transactions, '-c', '4', '-j', '2', '-f', $script ],
		0,
		[qr/number of transactions actually processed: ([0-9]+)\/\1/],
		[qr/^(?!.*ERROR).*$/s],
		"$what: no call fails under load");
	return;
}

# Runs a piece while an index is rebuilt or made, once in each phase in which it
# is asked beside the other: it waits for an old snapshot before it takes over,
# and for those who may still use the old one after that.
sub meanwhile
{
	my ($what, $statement, $table, $piece) = @_;
	my $holder = session($node);
	my $reader = session($node);
	my $ddl = session($node);

	$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
	background($ddl, $statement);
	wait_until($node, q{SELECT phase = 'waiting for old snapshots' FROM pg_stat_progress_create_index});
	$piece->("$what, before it takes over");
	if ($statement =~ /^REINDEX/)
	{
		# A lock, and no snapshot
		$reader->query_safe("BEGIN; LOCK TABLE saga.$table IN ACCESS SHARE MODE");
		$holder->query_safe('COMMIT');
		wait_until($node, q{SELECT phase = 'waiting for readers before marking dead' FROM pg_stat_progress_create_index});
		$piece->("$what, after it took over");
		$reader->query_safe('COMMIT');
	}
	else
	{
		$holder->query_safe('COMMIT');
	}
	$ddl->query('SELECT 1');
	is(errors_of($ddl), '', "$what: it was made");
	$piece->("$what, made");
	check_indexes($what);
	$_->quit foreach $holder, $reader, $ddl;
	return;
}

my $piece = sub { races($_[0]); load($_[0], 25); };
meanwhile('the index of keys rebuilt', 'REINDEX INDEX CONCURRENTLY saga.ledger_saga_key_name_owner', 'ledger_saga', $piece);
meanwhile('the index of ids rebuilt', 'REINDEX INDEX CONCURRENTLY saga.ledger_saga_id_key', 'ledger_saga', $piece);
meanwhile('the index of steps rebuilt', 'REINDEX INDEX CONCURRENTLY saga.ledger_step_key', 'ledger_step', $piece);
meanwhile('all of the table of sagas', 'REINDEX TABLE CONCURRENTLY saga.ledger_saga', 'ledger_saga', $piece);
# As pg_repack --only-indexes does, and others of a DBA
meanwhile('a twin of the index of keys', q{CREATE UNIQUE INDEX CONCURRENTLY dba_twin ON saga.ledger_saga (owner, name, key) WHERE key IS NOT NULL},
	'ledger_saga', $piece);
meanwhile('one that follows from that of keys', q{CREATE UNIQUE INDEX CONCURRENTLY dba_follows ON saga.ledger_saga (key, name, owner, id)},
	'ledger_saga', $piece);
meanwhile('one that follows from that of steps', q{CREATE UNIQUE INDEX CONCURRENTLY dba_steps ON saga.ledger_step (key, run, saga) INCLUDE (seq)},
	'ledger_step', $piece);
meanwhile('an unlike one', q{CREATE UNIQUE INDEX CONCURRENTLY dba_partial ON saga.ledger_saga (owner, upper(key)) WHERE state = 'r' AND name = 'order'},
	'ledger_saga', $piece);
meanwhile('one that is not unique', q{CREATE INDEX CONCURRENTLY dba_plain ON saga.ledger_step (key, status)}, 'ledger_step', $piece);

# What a DBA's own unique index forbids is an error, and nothing is written.
is($node->safe_psql('postgres', q{SELECT saga.begin('order', 'Upper') IS NOT NULL}), 't', 'a key');
like(sql_error($node, q{SELECT saga.begin('order', 'UPPER')}), qr/ERROR:  23505: .*"dba_partial"/, 'one that the DBA forbids');
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE upper(idempotency_key) = 'UPPER'}), '1', 'is not there');
$node->safe_psql('postgres', 'DROP INDEX saga.dba_twin, saga.dba_follows, saga.dba_steps, saga.dba_partial, saga.dba_plain');

# A rebuild that was cancelled leaves an index behind that is kept up.
{
	my $holder = session($node);
	my $ddl = session($node);

	$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
	background($ddl, 'REINDEX INDEX CONCURRENTLY saga.ledger_saga_key_name_owner');
	wait_until($node, q{SELECT phase = 'waiting for old snapshots' FROM pg_stat_progress_create_index});
	$node->safe_psql('postgres', 'SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index');
	$ddl->query('SELECT 1');
	like(errors_of($ddl), qr/canceling statement/, 'a rebuild is cancelled');
	$holder->query_safe('COMMIT');
	$_->quit foreach $holder, $ddl;
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indisready AND indisunique}), '1', 'and leaves its index');
	$piece->('beside what a rebuild left');
	$node->safe_psql('postgres', 'DROP INDEX saga.ledger_saga_key_name_owner_ccnew');
	check_indexes('beside what a rebuild left');
}

# A session that has used the indexes of a table goes on after they were
# rebuilt, whichever table it is.
foreach my $table (split /\n/, $node->safe_psql('postgres', q{
	SELECT relname FROM pg_class WHERE relnamespace = 'saga'::regnamespace AND relkind = 'r' ORDER BY 1}))
{
	my $life = q{
		SELECT saga.start('rebuilt', 'KEY') AS id \gset
		SELECT saga.pause(:'id', 'a while'), saga.resume(:'id');
		SELECT saga.set_timeout(:'id', '1 hour');
		SELECT saga.set_timeout(:'id', '2 hours');
		SELECT saga.signal(:'id', 'paid', idempotency_key => 'once'), saga.signal(:'id', 'paid', idempotency_key => 'once');
		SELECT saga.limit('work', 2);
		SELECT saga.limit('work', 1);
		SELECT forward_key FROM saga.step(:'id', 'a', task => 'work', after => '{}') \gset
		SELECT saga.complete_task(:'forward_key');
		SELECT saga.fail(:'id');
		SELECT saga.redact(:'id');
		SELECT 'lived';};

	foreach my $when ('before', 'after')
	{
		my $key = "$table $when";

		like($first->query($life =~ s/KEY/$key/r), qr/lived/, "$when $table is rebuilt");
		is(errors_of($first), '', "$when $table is rebuilt: without an error");
		$node->safe_psql('postgres', "REINDEX TABLE CONCURRENTLY saga.$table") if $when eq 'before';
	}
}

# Again and again, with nobody holding them up
{
	my $ddl = session($node);

	background($ddl, "REINDEX TABLE CONCURRENTLY saga.ledger_saga;\nREINDEX TABLE CONCURRENTLY saga.ledger_step;\n" x 5 . "SELECT 'rebuilt'");
	load('rebuilt again and again', 250);
	like($ddl->query('SELECT 1'), qr/rebuilt/, 'rebuilt');
	is(errors_of($ddl), '', 'rebuilt again and again: without an error');
	check_indexes('rebuilt again and again');
	$ddl->quit;
}

# Two rows under one key, the one first in one index and the other in the next:
# that cannot be.
SKIP:
{
	skip 'needs the test build', 4 if !is_test_build();
	my $holder = session($node);
	my $ddl = session($node);
	my $offset = log_offset($node);

	$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
	background($ddl, 'REINDEX INDEX CONCURRENTLY saga.ledger_saga_key_name_owner');
	wait_until($node, q{SELECT phase = 'waiting for old snapshots' FROM pg_stat_progress_create_index});
	$first->query_safe(q{SET saga.test_faults = 'table.index_entry=wait'});
	background($first, "SELECT saga.begin('order', 'between') AS id \\gset\nSELECT 1");
	wait_lines($node, qr/waiting at fault point "table\.index_entry"/, $offset);
	background($second, "SELECT saga.begin('order', 'between') AS id \\gset\nSELECT 1");
	waits_for_lock($pid);
	set_faults($node, 'release');
	my $same = q{SELECT id = :'id' FROM saga.sagas WHERE idempotency_key = 'between'};
	is($first->query($same), "1\nt", 'held between two indexes, the first one wins');
	is($second->query($same), "1\nt", 'and the second gets its answer');
	is(errors_of($first) . errors_of($second), '', 'without an error');
	set_faults($node, '');
	$first->query_safe('RESET saga.test_faults');
	$holder->query_safe('COMMIT');
	$ddl->query('SELECT 1');
	is(errors_of($ddl), '', 'rebuilt');
	$_->quit foreach $holder, $ddl;
	check_indexes('held between two indexes');
}

# An index that sums up blocks knows of updates that stay on their page.
{
	$node->safe_psql('postgres', q{
		SELECT count(saga.begin('brin', 'key ' || i)) FROM generate_series(1, 500) i;
		SELECT count(saga.step(id, 'a')) FROM saga.sagas WHERE name = 'brin';
		CREATE INDEX brin ON saga.ledger_saga USING brin (updated_at) WITH (pages_per_range = 1);
		CREATE INDEX brin_step ON saga.ledger_step USING brin (completed_at, attempts) WITH (pages_per_range = 1);
		CREATE TABLE mark AS SELECT clock_timestamp() AS at;});
	$node->safe_psql('postgres', q{
		SELECT count(saga.complete_step(id, 'a')) FROM saga.sagas WHERE name = 'brin';
		SELECT count(saga.complete(id)) FROM saga.sagas WHERE name = 'brin';});
	my $found = q{
		SELECT count(*) FROM saga.ledger_saga WHERE updated_at >= (SELECT at FROM mark);
		SELECT count(*) FROM saga.ledger_step WHERE completed_at >= (SELECT at FROM mark);};
	like($node->safe_psql('postgres', "SET enable_seqscan = off; EXPLAIN (COSTS OFF) SELECT count(*) FROM saga.ledger_saga WHERE updated_at >= (SELECT at FROM mark)"),
		qr/Bitmap Index Scan on brin/, 'a BRIN index is asked');
	is($node->safe_psql('postgres', "SET enable_seqscan = off; $found"), "500\n500", 'and finds what was updated');
	is($node->safe_psql('postgres', "SET enable_bitmapscan = off; SET enable_indexscan = off; $found"), "500\n500", 'as the table does');
	$node->safe_psql('postgres', 'DROP INDEX saga.brin, saga.brin_step');
}

$_->quit foreach $first, $second;
guarantees($node);
$node->stop;
done_testing();
