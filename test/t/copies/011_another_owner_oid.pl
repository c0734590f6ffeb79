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

# ------------------------------------------------ OIDs that other roles have now

# As after pg_dumpall, which creates roles in the order of their names: two have each
# other's OID, the third the first's of a row of them, and all used the same keys.
$copy->safe_psql('postgres', 'CREATE DATABASE swapped');
$copy->safe_psql('swapped', q{
	CREATE EXTENSION saga;
	CREATE ROLE ten_a LOGIN; CREATE ROLE ten_b LOGIN; CREATE ROLE ten_c LOGIN; CREATE ROLE ten_d LOGIN; CREATE ROLE ten_gone;
	GRANT USAGE ON SCHEMA saga TO PUBLIC;
	CREATE TABLE undone (saga text, who text DEFAULT current_user);
	GRANT ALL ON undone TO PUBLIC;
	CREATE FUNCTION place(k text) RETURNS void LANGUAGE sql AS $$
		SELECT saga.step(saga.begin('order', k, to_jsonb(current_user)), 'a', compensation => format('INSERT INTO undone VALUES (%L)', current_user || ' ' || k)) $$;});
sub tenant { return sql_as($copy, "ten_$_[0]", $_[1], 'swapped'); }
tenant($_, q{SELECT place('1'), place('2')}) foreach qw(a b c d);
tenant('a', q{SELECT place('3')});
# The OIDs that the roles had there; first all go away, since the index of keys is asked at once.
sub elsewhere
{
	my (%oid) = @_;
	my $oid = join ' ', map { "WHEN '$_' THEN $oid{$_}" } sort keys %oid;
	$copy->safe_psql('swapped', qq{
		UPDATE saga.ledger_saga SET owner = 77000 + mod(owner::bigint, 1000);
		UPDATE saga.ledger_saga SET owner = CASE owner_name $oid END;
		UPDATE saga.ledger_step SET run_as = CASE run_as_name $oid END;
		UPDATE saga.ledger_due d SET lane = t.run_as FROM saga.ledger_step t WHERE t.saga = d.saga AND d.seq = t.seq;});
}
my $owners = q{SELECT string_agg(concat_ws(' ', owner_name, key, (SELECT rolname FROM pg_roles WHERE oid = owner)), ', ' ORDER BY owner_name, key, id) FROM saga.ledger_saga};
my $right = 'ten_a 1 ten_a, ten_a 2 ten_a, ten_a 3 ten_a, ten_b 1 ten_b, ten_b 2 ten_b, ten_c 1 ten_c, ten_c 2 ten_c, ten_d 1 ten_d, ten_d 2 ten_d';
sub adopt_swapped
{
	my ($result, $stdout, $stderr) = $copy->psql('swapped', 'SELECT saga.adopt()');
	return "$result $stderr";
}
my %with = map { $_ => "'ten_$_'::regrole::oid" } qw(a b c d);
elsewhere(ten_a => $with{b}, ten_b => $with{a}, ten_c => $with{d}, ten_d => 77777);
is(adopt_swapped(), '0 ', 'OIDs swapped and shifted: adopted, without a warning');
is($copy->safe_psql('swapped', $owners), $right, 'OIDs swapped and shifted: each has its own');
elsewhere(ten_a => $with{b}, ten_b => $with{c}, ten_c => $with{d}, ten_d => $with{a});
is(adopt_swapped(), '0 ', 'OIDs in a ring: adopted, without a warning');
is($copy->safe_psql('swapped', $owners), $right, 'OIDs in a ring: each has its own');
is(tenant('a', q{SELECT string_agg(DISTINCT input::text, ' ') FROM saga.sagas}), '"ten_a"', 'OIDs in a ring: nobody reads what is another\'s');
tenant($_, q{SELECT saga.fail(saga.begin('order', '1', to_jsonb(current_user)))}) foreach qw(a b c d);
wait_until($copy, q{SELECT count(*) = 4 FROM saga.sagas WHERE state = 'compensated'}, 't', 'swapped');
is($copy->safe_psql('swapped', q{SELECT string_agg(saga || ' ' || who, ', ' ORDER BY saga) FROM undone}),
	'ten_a 1 ten_a, ten_b 1 ten_b, ten_c 1 ten_c, ten_d 1 ten_d', 'OIDs in a ring: each is undone as its role');

# A role had been dropped there, made anew, and used its key again: the last one counts.
tenant('a', q{SELECT place('again')});
my $old = tenant('a', q{SELECT saga.find('order', 'again')});
$copy->safe_psql('swapped', qq{UPDATE saga.ledger_saga SET owner = 78000 WHERE id = '$old'});
$copy->safe_psql('swapped', 'SELECT saga.adopt()');
is(tenant('a', q{SELECT saga.find('order', 'again')}), $old, 'alone, it comes to the role of its name');
$copy->safe_psql('swapped', qq{UPDATE saga.ledger_saga SET owner = 78000, owner_name = 'ten_gone' WHERE id = '$old'});
$copy->safe_psql('swapped', 'SELECT saga.adopt()');
my $new = tenant('a', q{SELECT saga.begin('order', 'again')});
isnt($new, $old, 'the key is used again');
my $gone = $copy->safe_psql('swapped', q{SELECT 'ten_gone'::regrole::oid});
$copy->safe_psql('swapped', qq{UPDATE saga.ledger_saga SET owner_name = 'ten_a', owner = CASE id WHEN '$old' THEN 78000 ELSE 78001 END WHERE id IN ('$old', '$new')});
my $left = qr/^0 [^\n]*WARNING:  1 sagas do not come to the role of their owner's name because of other sagas with the same names and keys\nHINT:  Purge /;
like(adopt_swapped(), $left, 'of two of one name and key, one is left, and it is said');
is(tenant('a', q{SELECT saga.find('order', 'again')}), $new, 'the last one is the role\'s');
# What is here rightly stays, however old it is.
$copy->safe_psql('swapped', qq{
	UPDATE saga.ledger_saga SET owner = 78002 WHERE id = '$new';
	UPDATE saga.ledger_saga SET owner = $with{a} WHERE id = '$old'});
like(adopt_swapped(), $left, 'one is here already: the other is left');
is(tenant('a', q{SELECT saga.find('order', 'again')}), $old, 'what is here is the role\'s');
# A role that is gone may have had the OID: what was its, and no more, can be given to another.
$copy->safe_psql('swapped', qq{
	UPDATE saga.ledger_saga SET owner_name = 'nobody' WHERE id = '$old';
	UPDATE saga.ledger_step SET run_as_name = 'nobody' WHERE saga = '$old'});
like(adopt_swapped(), $left, 'the OID was that of a role that is gone: one is left');
is($copy->safe_psql('swapped', "SELECT rolname FROM saga.ledger_saga LEFT JOIN pg_roles r ON r.oid = owner WHERE id = '$new'"), '', 'which is nobody\'s');
$copy->safe_psql('swapped', qq{
	UPDATE saga.ledger_saga SET reason = reason;
	SELECT saga.fail(id) FROM saga.sagas WHERE id = '$old' OR (owner = $with{a} AND idempotency_key = '2')});
my $lanes = qq{
	SELECT string_agg(concat_ws(' ', owner_name, key, state, owner::regrole, lane::regrole, run_as_name, run_as::regrole, due), ', ' ORDER BY key, owner_name) FROM (
		SELECT s.owner_name, s.key, s.state, s.owner, s.lane, t.run_as_name, t.run_as, string_agg(d.lane::regrole::text, ' ') AS due
		FROM saga.ledger_saga s JOIN saga.ledger_step t ON t.saga = s.id JOIN saga.ledger_due d ON d.saga = s.id
		GROUP BY s.id, t.run_as_name, t.run_as) AS r};
my $before = 'ten_a 2 u ten_a ten_a ten_a ten_a ten_a, nobody again u ten_a ten_a nobody ten_a ten_a';
is($copy->safe_psql('swapped', $lanes), $before, 'the OID stands for two roles');
like(sql_error($copy, "SELECT saga.reassign($with{a}, 'ten_d')", 'swapped'),
	qr/ERROR:  22023: sagas and steps of several roles have OID \d+\nDETAIL:  [^\n]*: "nobody", "ten_a"\.\nHINT:  .*from_name/, 'reassign: which is meant must be said');
is($copy->safe_psql('swapped', $lanes), $before, 'reassign: refused, it moves nothing');
is($copy->safe_psql('swapped', "SELECT saga.reassign($with{a}, 'ten_d', from_name => 'nobody')"), 1, 'reassign: one of that name');
is($copy->safe_psql('swapped', $lanes), 'ten_a 2 u ten_a ten_a ten_a ten_a ten_a, ten_d again u ten_d ten_d ten_d ten_d ten_d',
	'reassign: with its step and what is due, and nothing else');
is(adopt_swapped(), '0 ', 'reassign: nothing is left any more');
is(tenant('a', q{SELECT saga.find('order', 'again')}), $new, 'reassign: so the other comes to its role');
wait_until($copy, q{SELECT count(*) = 6 FROM saga.sagas WHERE state = 'compensated'}, 't', 'swapped');
is($copy->safe_psql('swapped', q{SELECT string_agg(saga || ' ' || who, ', ' ORDER BY saga) FROM undone WHERE saga ~ '(2|again)$'}),
	'ten_a 2 ten_a, ten_a again ten_d', 'reassign: each is undone as whose it is');

guarantees($copy);
guarantees($copy, 'swapped');
$copy->stop;
$node->stop;
done_testing();
