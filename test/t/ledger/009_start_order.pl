# Steps of one saga started by many sessions at once: their order is total,
# later is larger, and the undo runs exactly in reverse; whatever somebody with
# the right to write all data does to the sequence meanwhile.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = saga_cluster('main');
$node->safe_psql('postgres', q{
	CREATE ROLE writer LOGIN;
	GRANT pg_write_all_data TO writer;
	CREATE TABLE undone (n bigserial, seq bigint);
	CREATE TABLE seen (client int, nth bigserial, saga uuid, before bigint, seq bigint);});

# Each client notes the largest number that it saw before its own.
my $file = $node->basedir . '/steps.sql';
append_to_file($file, q{
\set which random(1, 100)
\if :which <= 60
INSERT INTO seen (client, saga, before, seq)
	SELECT :client_id, s.id, before.seq, st.seq
	FROM (SELECT :saga::uuid AS id) s,
		LATERAL (SELECT max(seq) AS seq FROM saga.steps WHERE saga_id = s.id) before,
		LATERAL saga.step(s.id, gen_random_uuid()::text,
			compensation => 'INSERT INTO undone (seq) VALUES (($1->''step''->>''seq'')::bigint)') st;
\elif :which <= 80
BEGIN;
SELECT max(seq) AS before FROM saga.steps WHERE saga_id = :saga \gset
WITH two AS (
	SELECT saga.step(:saga, gen_random_uuid()::text, output => '1',
			compensation => 'INSERT INTO undone (seq) VALUES (($1->''step''->>''seq'')::bigint)') AS a,
		saga.step(:saga, gen_random_uuid()::text,
			compensation => 'INSERT INTO undone (seq) VALUES (($1->''step''->>''seq'')::bigint)') AS b)
INSERT INTO seen (client, saga, before, seq)
	SELECT :client_id, :saga::uuid, :before, (a).seq FROM two
	UNION ALL SELECT :client_id, :saga::uuid, (a).seq, (b).seq FROM two;
COMMIT;
\elif :which <= 90
BEGIN;
SELECT saga.step(:saga, gen_random_uuid()::text, compensation => 'SELECT 1/0');
ROLLBACK;
\else
-- the same few keys again and again
SELECT saga.step(:saga, 'key ' || (1 + :client_id % 3), compensation => 'SELECT $1') ;
\endif
});

sub run
{
	my ($what, $tamper) = @_;
	my $saga = $node->safe_psql('postgres', q{SELECT saga.begin('order')});
	$node->safe_psql('postgres', qq{TRUNCATE undone, seen; SELECT saga.step('$saga', 'first', completed => true)});

	my $bench = start_program('bench', {},
		'pgbench', '-n', '-c', 8, '-j', 2, '-t', 40, '-D', "saga='$saga'", '-f', $file, '--max-tries=1', $node->connstr('postgres'));
	if ($tamper)
	{
		my $writer = session($node, user => 'writer');
		foreach my $i (1 .. 15)
		{
			$writer->query_safe(q{SELECT setval('saga.start_order', 1)});
			$writer->query_safe(q{SELECT nextval('saga.start_order')});
			$writer->query_safe(q{SELECT setval('saga.start_order', 100000 * } . $i . ')') if $i % 5 == 0;
			$node->safe_psql('postgres', 'SELECT 1');
		}
		# and by somebody who comes when all of them know their way
		$writer->query_safe(q{SELECT setval('saga.start_order', 1)});
		$writer->quit;
	}
	is(wait_program($bench), 0, "$what: every client got through") or diag(slurp_file($bench->{log}));

	is($node->safe_psql('postgres', qq{
		SELECT count(*) - count(DISTINCT seq), count(*) - count(DISTINCT key), count(*) > 200, max(position) = count(*)
		FROM saga.steps WHERE saga_id = '$saga'}), '0|0|t|t', "$what: the order is total, the keys are unique");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM seen WHERE NOT seq > before}), 0,
		"$what: a number is larger than every number that could be seen before");
	is($node->safe_psql('postgres', q{
		SELECT count(*) FROM (SELECT seq, lag(seq) OVER (PARTITION BY client ORDER BY nth) AS earlier FROM seen) x WHERE seq <= earlier}), 0,
		"$what: within a session, later is larger");
	is($node->safe_psql('postgres', qq{
		SELECT count(*) FROM seen WHERE seq NOT IN (SELECT seq FROM saga.steps WHERE saga_id = '$saga')}), 0,
		"$what: every answer is in the ledger");

	is($node->safe_psql('postgres', "SELECT saga.fail('$saga'); SELECT saga.wait('$saga', '2 minutes')"), "compensating\ncompensated", "$what: undone");
	is($node->safe_psql('postgres', qq{
		SELECT (SELECT array_agg(seq ORDER BY n) FROM undone) =
			(SELECT array_agg(seq ORDER BY seq DESC) FROM saga.steps WHERE saga_id = '$saga' AND compensation LIKE 'INSERT%')}), 't',
		"$what: in exactly the reverse of the start order");
	return;
}

run('together');
run('with a tampered sequence', 1);

# One by one, in sessions that know nothing yet, and in one that knows
my $saga = $node->safe_psql('postgres', q{SELECT saga.begin('order')});
my $old = session($node);
my $last = 0;
foreach my $i (1 .. 10)
{
	my $by = $i % 2 ? $node : $old;
	my $method = $i % 2 ? sub { $node->safe_psql('postgres', $_[0]) } : sub { $old->query_safe($_[0]) };
	my $seq = $method->("SELECT seq FROM saga.step('$saga', 'step $i')");
	cmp_ok($seq, '>', $last, "step $i has a larger number");
	$last = $seq;
	$node->safe_psql('postgres', $i % 3 ? q{SELECT setval('saga.start_order', 1)} : q{SELECT nextval('saga.start_order')},
		extra_params => [ '-U', 'writer' ]);
	# what shared memory knew is gone; sessions, too
	if ($i == 6) { $old->quit; $node->restart; $old = session($node); }
}
$old->quit;
is($node->safe_psql('postgres', "SELECT string_agg(key, ',' ORDER BY position) FROM saga.steps WHERE saga_id = '$saga'"),
	join(',', map { "step $_" } 1 .. 10), 'in the order in which they started');

# Unless it is at its very end, which is an error and no disorder
sql_as($node, 'writer', q{SELECT setval('saga.start_order', 9223372036854775807)});
like(sql_error($node, "SELECT saga.step('$saga', 'too late')"), qr/ERROR:  2200H:/, 'a sequence at its end gives no number');
sql_as($node, 'writer', q{SELECT setval('saga.start_order', 1)});
is($node->safe_psql('postgres', "SELECT seq > $last FROM saga.step('$saga', 'in time')"), 't', 'set back, it goes on');

guarantees($node);
$node->stop;
done_testing();
