# 100,000 sagas in one transaction, with a lock table of 64 for each session.  (From
# 19 on, the default is more, for a table of the same size.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $many = 100_000;
my $node = saga_cluster('main', conf => "max_locks_per_transaction = 64\n");

sub locks
{
	return qq{(SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()) < 200};
}

# Begun in one transaction: no lock each.
is($node->safe_psql('postgres', qq{
	BEGIN;
	SELECT count(saga.begin('many', 'key ' || i)) FROM generate_series(1, $many) i;
	SELECT @{[ locks() ]};
	COMMIT;}), "$many\nt", 'begun in one transaction');

# Failed in another one: a lock each, given back at once.
is($node->safe_psql('postgres', qq{
	BEGIN;
	SELECT count(saga.fail(id, 'all of them')) FROM saga.sagas WHERE name = 'many';
	SELECT @{[ locks() ]};
	ROLLBACK;
	SELECT count(*) FROM saga.sagas WHERE state = 'running';}), "$many\nt\n$many",
	'failed in one transaction, and that rolled back');
is($node->safe_psql('postgres', qq{
	BEGIN;
	SELECT count(saga.fail(id, 'all of them')) FROM saga.sagas WHERE name = 'many';
	SELECT @{[ locks() ]};
	COMMIT;
	SELECT count(*) FROM saga.sagas WHERE state = 'compensated';}), "$many\nt\n$many",
	'failed in one transaction');

# Whole lives in one transaction, with something to undo.
my $some = 10_000;
is($node->safe_psql('postgres', qq{
	CREATE TABLE undone (saga text, step text);
	BEGIN;
	SELECT count(f) FROM (
		SELECT saga.step(s, 'a', compensation => \$c\$INSERT INTO undone VALUES (\$1->'saga'->>'id', 'a')\$c\$),
			saga.complete_step(s, 'a', '1'),
			saga.fail(s) AS f
		FROM (SELECT saga.begin('life') AS s FROM generate_series(1, $some) OFFSET 0) begun) lives;
	SELECT @{[ locks() ]};
	COMMIT;}), "$some\nt", 'begun, stepped and failed in one transaction');
wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state = 'compensating'});
is($node->safe_psql('postgres', q{
	SELECT count(*), count(DISTINCT saga) FROM undone;
	SELECT count(*) FROM saga.sagas WHERE name = 'life' AND state = 'compensated'}),
	"$some|$some\n$some", 'every one is undone, once');

guarantees($node);
$node->stop;
done_testing();
