# Restored in a server where the owner's OID belongs to somebody else: roles are
# known by OID and name, so that nobody inherits the sagas of another.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

# The first role of each server gets the same OID.
my $node = saga_cluster('main', databases => []);
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN');
$node->append_conf('postgresql.conf', 'saga.enabled = off');
$node->reload;
$node->safe_psql('postgres', q{
	CREATE EXTENSION saga;
	GRANT USAGE ON SCHEMA saga TO app;
	CREATE TABLE undone (step text, who text DEFAULT current_user);
	GRANT ALL ON undone TO app;
	SET ROLE app;
	SELECT saga.begin('order', 'running', '{"secret": "canary"}') AS running \gset
	SELECT saga.step(:'running', 'a', args => '"canary"', compensation => 'INSERT INTO undone VALUES (''a'')');
	SELECT saga.begin('order', 'failed') AS failed \gset
	SELECT saga.step(:'failed', 'b', compensation => 'INSERT INTO undone VALUES (''b'')');
	SELECT saga.fail(:'failed', 'canary');});
my $running = $node->safe_psql('postgres', q{SELECT id FROM saga.sagas WHERE idempotency_key = 'running'});

my $copy = saga_cluster('copy', databases => []);
$copy->safe_psql('postgres', 'CREATE ROLE thief LOGIN');
$copy->safe_psql('postgres', 'CREATE ROLE app LOGIN');
is($copy->safe_psql('postgres', q{SELECT 'thief'::regrole::oid}), $node->safe_psql('postgres', q{SELECT 'app'::regrole::oid}),
	'the OID belongs to another role there');
my $file = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr('postgres') ], 'pg_dump');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $copy->connstr('postgres') ], 'restored');
$copy->safe_psql('postgres', 'GRANT USAGE ON SCHEMA saga TO thief');

sub as
{
	my ($user, $sql) = @_;
	return sql_as($copy, $user, $sql);
}

sub thief
{
	my ($when) = @_;
	foreach my $view (qw(sagas steps attempts events pending_compensations))
	{
		is(as('thief', "SELECT count(*) FROM saga.$view"), 0, "$when: the other role sees nothing in saga.$view");
	}
	foreach my $call ("fail('$running')", "step('$running', 'x')", "complete_step('$running', 'a')", "wait('$running', '0')")
	{
		like(sql_error($copy, "SELECT saga.$call", 'postgres', extra_params => [ '-U', 'thief' ]), qr/ERROR:  SG001:/,
			"$when: the other role cannot call $call");
	}
	return;
}
thief('not adopted');

# The owner goes on as if nothing had happened.
$copy->psql('postgres', q{SELECT saga.begin('order', 'running', '{"secret": "canary"}')}, extra_params => [ '-U', 'app' ]);

my ($out, $err);
is($copy->psql('postgres', 'SELECT saga.adopt()', stdout => \$out, stderr => \$err), 0, 'adopted') or diag($err);
thief('adopted');
wait_until($copy, q{SELECT count(*) = 1 FROM saga.sagas WHERE idempotency_key = 'failed' AND state = 'compensated'});
is($copy->safe_psql('postgres', 'SELECT * FROM undone'), 'b|app', 'what was left is undone, as its role');
is($copy->safe_psql('postgres', q{SELECT DISTINCT run_as FROM saga.steps}), 'app', 'the steps belong to their role');
is(as('app', q{SELECT count(*) FROM saga.sagas WHERE idempotency_key = 'running'}), 1, 'the owner has one saga under one key');
is(as('app', q{SELECT saga.begin('order', 'running', '{"secret": "canary"}')}), $running, 'the one that it began');

guarantees($copy);
$copy->stop;
$node->stop;
done_testing();
