# Sagas stand still and nobody is told: saga.health has a row for each cause that
# is a setting of the server, or its state, and none where all is well.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main', init => [ allows_streaming => 1 ], conf => "max_logical_replication_workers = 0\n");
my $codes = q{SELECT string_agg(severity || ': ' || code, ', ' ORDER BY code) FROM saga.health};

# All is well, and so it is with an undo that waits for its next attempt, and a
# transaction that was prepared just now.
is($node->safe_psql('postgres', 'SELECT count(*) FROM saga.health'), 0, 'nothing is wrong');
$node->safe_psql('postgres', q{
	SELECT saga.begin('order', 'later') AS s \gset
	SELECT saga.step(:'s', 'a', compensation => 'SELECT 1 / 0', compensation_retry => saga.retry_policy(delay => '1 hour', max_delay => '1 hour'));
	SELECT saga.fail(:'s');});
wait_until($node, q{SELECT count(*) = 1 FROM saga.attempts WHERE outcome = 'failed'});
$node->safe_psql('postgres', q{BEGIN; SELECT saga.begin('order', 'prepared'); PREPARE TRANSACTION 'now'});
is($node->safe_psql('postgres', 'SELECT count(*) FROM saga.health'), 0, 'nor with what waits as it should');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'now'});

# Each of them is gone when its cause is.
sub found
{
	my ($what, $expected, $finding, $hint) = @_;

	wait_until($node, "SELECT ($codes) IS NOT DISTINCT FROM '$expected'");
	like($node->safe_psql('postgres', 'SELECT finding FROM saga.health'), $finding, "$what: in words");
	like($node->safe_psql('postgres', 'SELECT hint FROM saga.health'), $hint, "$what: what to do");
	return;
}

sub well
{
	my ($what) = @_;

	wait_until($node, 'SELECT count(*) = 0 FROM saga.health');
	pass("$what: mended");
	return;
}

sub set
{
	$node->safe_psql('postgres', "ALTER SYSTEM SET $_[0]");
	$node->reload;
	return;
}

set('saga.enabled = off');
found('off', 'error: disabled', qr/^saga\.enabled is off/, qr/saga\.enabled = on/);
set('saga.enabled = on');
well('off');

set(q{saga.databases = 'another'});
found('not on the list', 'error: not served', qr/^saga\.databases does not name/, qr/saga\.databases/);
set(q{saga.databases = '*'});
well('not on the list');

$node->safe_psql('postgres', 'UPDATE saga.ledger_saga SET name = name');
found('a copy', 'error: not adopted', qr/not adopted \(rows of the ledger came by COPY, SQL or replication\)/, qr/saga\.adopt\(\)/);
$node->safe_psql('postgres', 'SELECT saga.adopt()');
well('a copy');

# A standby reads it.
$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres', $codes), 'notice: standby', 'a standby says what it is');
$standby->stop;

# Places for processes: for none, for the launcher alone, and for no executor
sub places
{
	my ($count) = @_;

	$node->append_conf('postgresql.conf', "max_worker_processes = $count\nmax_parallel_workers = 0\n");
	$node->restart;
	return;
}

places(0);
found('no launcher', 'error: no launcher', qr/launcher is not running/, qr/max_worker_processes/);
places(1);
$node->safe_psql('postgres', q{
	SELECT saga.begin('order', 'no place') AS s \gset
	SELECT saga.step(:'s', 'a', compensation => 'SELECT 1');
	SELECT saga.fail(:'s');});
found('no worker', 'error: no worker', qr/no worker that sees to it/, qr/max_worker_processes/);
places(2);
wait_until($node, q{SELECT count(*) = 1 FROM saga.health WHERE code = 'no process'});
like($node->safe_psql('postgres', q{SELECT severity || ': ' || finding || ' ' || hint FROM saga.health WHERE code = 'no process'}),
	qr/^warning: the server has no room for another executor .*max_worker_processes/, 'no executor: in words');
places(8);
wait_state($node, $node->safe_psql('postgres', q{SELECT id FROM saga.sagas WHERE idempotency_key = 'no place'}), 'compensated');
well('no place');

# Not preloaded: the view works without any of it.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
is($node->safe_psql('postgres', $codes), 'error: not preloaded', 'not preloaded');
like($node->safe_psql('postgres', 'SELECT hint FROM saga.health'), qr/shared_preload_libraries = 'saga'/, 'not preloaded: what to do');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'saga'\n");
$node->restart;
well('not preloaded');

done_testing();
