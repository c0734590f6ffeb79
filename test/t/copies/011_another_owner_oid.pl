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
# Two steps of a saga were recorded by one role, which had another name by the second.
$node->safe_psql('postgres', q{
	CREATE ROLE shop;
	GRANT shop TO app;
	GRANT USAGE ON SCHEMA saga TO shop;
	SET ROLE shop;
	SELECT saga.begin('order', 'renamed') AS renamed, saga.begin('order', 'renamed, failed') AS renamed_failed \gset
	SET ROLE app;
	SELECT saga.step(:'renamed', 'c', action => 'INSERT INTO undone VALUES (''c'')', after => '{}'),
		saga.step(:'renamed_failed', 'e', compensation => 'INSERT INTO undone VALUES (''e'')');
	RESET ROLE;
	ALTER ROLE app RENAME TO app_2;
	SET ROLE app_2;
	SELECT saga.step(:'renamed', 'd', action => 'INSERT INTO undone VALUES (''d'')', after => '{}'),
		saga.step(:'renamed_failed', 'f', compensation => 'INSERT INTO undone VALUES (''f'')');
	SELECT saga.fail(:'renamed_failed');
	RESET ROLE;
	ALTER ROLE app_2 RENAME TO app;});
my $running = $node->safe_psql('postgres', q{SELECT id FROM saga.sagas WHERE idempotency_key = 'running'});

my $copy = saga_cluster('copy', databases => []);
$copy->safe_psql('postgres', 'CREATE ROLE thief LOGIN');
$copy->safe_psql('postgres', 'CREATE ROLE app LOGIN; CREATE ROLE app_2 LOGIN; CREATE ROLE shop; GRANT shop TO app, app_2');
is($copy->safe_psql('postgres', q{SELECT 'thief'::regrole::oid}), $node->safe_psql('postgres', q{SELECT 'app'::regrole::oid}),
	'the OID belongs to another role there');
my $file = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr('postgres') ], 'pg_dump');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $copy->connstr('postgres') ], 'restored');
$copy->safe_psql('postgres', 'GRANT USAGE ON SCHEMA saga TO thief, app_2; GRANT INSERT ON undone TO app_2');

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
wait_until($copy, q{SELECT count(*) = 5 FROM undone});
is($copy->safe_psql('postgres', 'SELECT * FROM undone ORDER BY step'), "b|app\nc|app\nd|app_2\ne|app\nf|app_2",
	'what was left is done and undone, by those whose names the steps have');
is($copy->safe_psql('postgres', q{SELECT key, run_as FROM saga.steps ORDER BY key}), "a|app\nb|app\nc|app\nd|app_2\ne|app\nf|app_2",
	'the steps belong to them');
is(as('app', q{SELECT count(*) FROM saga.sagas WHERE idempotency_key = 'running'}), 1, 'the owner has one saga under one key');
is(as('app', q{SELECT saga.begin('order', 'running', '{"secret": "canary"}')}), $running, 'the one that it began');

guarantees($copy);
$copy->stop;
$node->stop;
done_testing();
