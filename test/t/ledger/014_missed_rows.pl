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
$node->stop;
done_testing();
