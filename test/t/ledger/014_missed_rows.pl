# Rows that move from page to page while others look for them are never missed.
# (An index that a DBA added on a column that changes makes every update move.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = saga_cluster('main', conf => "saga.enabled = off\nautovacuum_naptime = 1s\n");
my $id = $node->safe_psql('postgres', q{
	CREATE INDEX ON saga.ledger_saga (updated_at);
	CREATE INDEX ON saga.ledger_step (attempts);
	SELECT saga.start('moves') AS id \gset
	SELECT (saga.step(:'id', 'a')).saga_id;});

my $dir = PostgreSQL::Test::Utils::tempdir();
sub script
{
	my ($name, $sql) = @_;
	append_to_file("$dir/$name", $sql);
	return "$dir/$name\@1";
}

my @scripts = (
	script('saga', "SELECT saga.pause('$id', 'wait');\nSELECT saga.resume('$id');\n"),
	script('step', "SELECT saga.fail_step('$id', 'a', 'no');\nSELECT (saga.step('$id', 'a')).attempt;\n"),
	script('look', "SELECT count(*) FROM saga.plan('$id');\n"));
$node->command_checks_all(
	[ 'pgbench', '-n', '-M', 'prepared', '-T', '4', '-c', '6', '-j', '2', map { ('-f', $_) } @scripts ],
	0,
	[qr/number of transactions actually processed: [1-9]/],
	[qr/^(?!.*ERROR).*$/s],
	'whatever moves is found');
no_log($node, qr/ERROR/, 0, 'and nobody waits for those who wait for him');
cmp_ok($node->safe_psql('postgres', "SELECT max(attempts) FROM saga.ledger_step WHERE saga = '$id'"), '>', 10, 'and much has moved');

# What seems not to be there only because it moved: a saga by its key, a limit
$node->safe_psql('postgres', q{
	ALTER SYSTEM SET saga.enabled = on;
	SELECT pg_reload_conf();
	CREATE INDEX ON saga.ledger_limit (paused_until);
	SELECT saga.begin('known', 'key');
	SELECT count(saga.step(saga.begin('limited'), 'a', task => 'limited')) FROM generate_series(1, 10);
	SELECT saga.limit('limited', 2);
	CREATE FUNCTION look() RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		claimed bigint;
	BEGIN
		FOR i IN 1..20 LOOP
			BEGIN
				claimed := count(*) FROM saga.claim_tasks('limited', 10);
				RAISE EXCEPTION 'undo' USING ERRCODE = 'XX999';
			EXCEPTION WHEN SQLSTATE 'XX999' THEN
				IF claimed > 2 THEN
					RETURN format('%s claimed under a limit of 2', claimed);
				END IF;
			END;
			IF saga.find('known', 'key') IS NULL THEN
				RETURN 'a saga is not found by its key';
			END IF;
		END LOOP;
		RETURN NULL;
	END $$;});
wait_until($node, q{SHOW saga.enabled}, 'on');
wait_until($node, q{SELECT count(*) = 10 FROM saga.ledger_queue});
# A snapshot that may still see them keeps dead versions in the way.
my $reader = session($node);
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
script('known', "SELECT saga.pause(saga.find('known', 'key'), 'wait');\nSELECT saga.resume(saga.find('known', 'key'));\n");
script('limit', "SELECT saga.limit('limited', 2, clock_timestamp() - interval '1 day');\n");
my @moving = map { start_program("moving $_", {}, 'pgbench', '-n', '-T', '7', '-f', "$dir/$_", $node->connstr('postgres')) } 'known', 'limit';
my $missed = $node->safe_psql('postgres', q{
	CREATE TEMP TABLE missed (what text, times int);
	DO $$
	DECLARE
		began timestamptz := clock_timestamp();
	BEGIN
		WHILE clock_timestamp() < began + interval '6 s' LOOP
			INSERT INTO missed SELECT look(), 1;
			COMMIT;
		END LOOP;
	END $$;
	SELECT what, count(*) FROM missed WHERE what IS NOT NULL GROUP BY what ORDER BY what});
is($missed, '', 'nothing is missed that only moved');
is(join(' ', map { wait_program($_) } @moving), '0 0', 'while it does') or diag(map { slurp_file($_->{log}) } @moving);
$reader->quit;
$node->stop;
done_testing();
