# Many: ten thousand tasks for listeners, taken in batches by several at once.
# Each is claimed once, with few locks, and the worker grows by none of it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time);

my $sagas = 10_000;
my $consumers = 4;

# A lock table that any lock for each saga of a batch would overflow
my $node = saga_cluster('main',
	conf => "max_locks_per_transaction = 10\nmax_connections = 20\nmax_worker_processes = 8\nmax_prepared_transactions = 0\nlog_statement = none\n");
$node->safe_psql('postgres', q{
	CREATE TABLE taken (consumer text, key text, at timestamptz DEFAULT clock_timestamp());
	CREATE FUNCTION make(how_many int, channel text, prefix text) RETURNS bigint LANGUAGE sql AS $$
		SELECT count(saga.fail(id)) FROM (
			SELECT saga.begin('order', prefix || n) AS id FROM generate_series(1, how_many) n OFFSET 0) s,
			LATERAL saga.step(id, 'notify', notify => channel, args => '{"of": "no importance"}') t
	$$;
	CREATE PROCEDURE consume(who text) LANGUAGE plpgsql AS $$
	DECLARE
		keys text[];
	BEGIN
		-- Until all are there
		PERFORM pg_advisory_lock_shared(1);
		PERFORM pg_advisory_unlock_shared(1);
		LOOP
			keys := ARRAY(SELECT compensation_key FROM saga.claim_compensations('many', 50, consumer => who));
			COMMIT;
			EXIT WHEN keys = '{}';
			INSERT INTO taken SELECT who, k FROM unnest(keys) k;
			PERFORM saga.complete_compensation(k) FROM unnest(keys) k;
			COMMIT;
		END LOOP;
	END $$;});

# Some first, so that everything is warm.
$node->safe_psql('postgres', q{SELECT make(1000, 'warm', 'warm ')});
wait_until($node, q{SELECT count(*) = 1000 FROM saga.ledger_queue});
$node->safe_psql('postgres', q{SELECT count(saga.complete_compensation(compensation_key)) FROM saga.claim_compensations('warm', 1000)});
wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state <> 'compensated'});
my $pid = worker_pid($node);
my $before = -r "/proc/$pid/status" ? memory_of($pid) : 0;

my $began = time;
is($node->safe_psql('postgres', "SELECT make($sagas, 'many', '')"), $sagas, 'they fail, all in one transaction');
# The consumers begin before all of it is dispatched.
wait_until($node, q{SELECT count(*) > 0 FROM saga.ledger_queue WHERE channel = 'many'});
note(sprintf 'dispatching since %.1f s', time - $began);
for (my $round = 1; $round <= 50; $round++)
{
	my $gate = session($node);
	$gate->query_safe('SELECT pg_advisory_lock(1)');
	my @programs = map {
		start_program("consumer$_", {}, 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', "CALL consume('consumer $_')")
	} 1 .. $consumers;
	wait_until($node, "SELECT count(*) = $consumers FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
	$gate->quit;
	is(join(' ', map { wait_program($_) } @programs), join(' ', (0) x $consumers), 'the consumers find nothing more, and end')
	  or diag(map { slurp_file($_->{log}) } @programs);
	last if $node->safe_psql('postgres', q{
		SELECT count(*) FROM saga.sagas WHERE state <> 'compensated'}) == 0;
}
note(sprintf 'done in %.1f s', time - $began);
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT key) FROM taken}), "$sagas|$sagas", 'each was claimed once');
is($node->safe_psql('postgres', q{
	SELECT phase, outcome, attempt, count(*) FROM saga.attempts WHERE phase = 'compensation' GROUP BY 1, 2, 3}),
	'compensation|succeeded|1|' . ($sagas + 1000), 'in one attempt');
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM saga.attempts JOIN saga.steps USING (saga_id, seq) LEFT JOIN taken ON taken.key = compensation_key
	WHERE phase = 'compensation' AND channel = 'many' AND attempts.consumer IS DISTINCT FROM taken.consumer}), 0, 'by whom the history says');
is($node->safe_psql('postgres', q{SELECT count(DISTINCT consumer) FROM taken}), $consumers, 'everybody had a share');
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.ledger_queue}), 0, 'nothing waits');

# All in one transaction
$node->safe_psql('postgres', q{SELECT make(3000, 'once', 'once ')});
wait_until($node, q{SELECT count(*) = 3000 FROM saga.ledger_queue});
is($node->safe_psql('postgres', q{
	SELECT count(saga.complete_compensation(compensation_key)) FROM saga.claim_compensations('once', 2147483647)}), 3000,
	'all of them in one claim, and one transaction');
wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state <> 'compensated'});

SKIP:
{
	skip 'needs /proc', 2 if !$before;
	is(worker_pid($node), $pid, 'it is the same worker');
	cmp_ok(memory_of($pid) - $before, '<', 2048, "the worker's memory is flat (kB more)");
}
unlike(slurp_file($node->logfile), qr/(ERROR|WARNING|FATAL):  /, 'nothing in the log');
guarantees($node);
$node->stop;
done_testing();
