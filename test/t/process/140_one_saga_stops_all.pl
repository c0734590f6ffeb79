# An error of one saga stops nobody else: whatever the worker does about a saga, one of
# which is an error each time leaves all others their turn, is tried again ever less
# often, and is told of in saga.health and next_action.
#
# saga.test_poison names the sagas that are an error, of the code that a full queue of
# notifications has.  They are due before the others.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use SagaFixtures;
use Test::More;

plan skip_all => 'needs a build with fault points' if !is_test_build();

my $node = saga_cluster('main', conf => "autovacuum = off\n");
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE ROLE evil LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE leaver LOGIN;
	CREATE ROLE goner LOGIN;
	GRANT USAGE ON SCHEMA saga TO evil, bob, leaver, goner;
	-- Sagas of a kind, each of which has something else due
	CREATE FUNCTION begin_all(kind text, channel text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		s uuid;
	BEGIN
		s := saga.begin(kind, 'deadline', timeout => '10 ms');
		PERFORM saga.step(s, 'a', compensation => 'SELECT 1');
		s := saga.begin(kind, 'listener');
		PERFORM saga.step(s, 'a', notify => channel);
		PERFORM saga.fail(s);
		s := saga.begin(kind, 'look');
		PERFORM saga.step(s, 'a', delay => '10 ms');
		PERFORM saga.complete(s, when_done => true);
		s := saga.begin(kind, 'lease');
		PERFORM saga.step(s, 'a', task => channel || ' task', retry => saga.retry_policy(max_attempts => 1));
		PERFORM saga.complete(s, when_done => true);
	END $$;});

# Sets the name of those that are an error, for all processes.
sub poison
{
	my ($name) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET saga.test_poison = '$name'");
	$node->reload;
	wait_until($node, "SELECT current_setting('saga.test_poison') = '$name'");
	return;
}

sub done
{
	my ($kind) = @_;
	wait_until($node, qq{
		SELECT string_agg(idempotency_key || ' ' || state, ', ' ORDER BY idempotency_key) FROM saga.sagas WHERE name = '$kind'},
		'deadline compensated, lease compensated, listener compensating, look completed');
	wait_queued($node, $kind, 1);
	pass("$kind: all is done");
	return;
}

# What the worker does in its own lane
poison('poison');
my $offset = log_offset($node);
my $listener = listen_to($node, 'order');
sql_as($node, 'evil', q{SELECT begin_all('poison', 'poison')});
is(sql_as($node, 'evil', q{SELECT count(*) FROM saga.claim_tasks('poison task', 1, '100 ms')}), '1', 'a claim that will end');
wait_until($node, q{SELECT count(*) = 4 FROM saga.health WHERE code = 'failing'});
sql_as($node, 'bob', q{SELECT begin_all('order', 'order')});
is(sql_as($node, 'bob', q{SELECT count(*) FROM saga.claim_tasks('order task', 1, '100 ms')}), '1', 'another');
done('order');
is(scalar(my @told = wait_heard($listener, qr/compensate/, 1)), 1, 'a listener is told');
$listener->quit;

is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT regexp_replace(finding, '[-0-9a-f]{36}|\d+ times', '…', 'g') || ': ' || severity, E'\n')
	FROM saga.health WHERE code = 'failing'}),
	'the worker cannot go on with saga …: SQLSTATE 54000, …: warning', 'saga.health tells of them');
is(sql_as($node, 'bob', q{SELECT count(*) FROM saga.health WHERE code = 'failing'}), '0', 'not to a stranger');
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas
	WHERE name = 'poison' AND next_action ~ '; but saga''s worker failed at it \(\d+ times, SQLSTATE 54000'}), '4', 'and so does next_action')
	or show_ledger($node);
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE name = 'order' AND next_action ~ 'worker failed'}), '0',
	'of no other');

# Seven times take 0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 3.2 s, though the worker comes back each second for one that is held.
my $holder = session($node, user => 'bob');
my $held = sql_as($node, 'bob', q{SELECT saga.begin('held')});
$holder->query_safe(qq{BEGIN; SELECT saga.step('$held', 'a', compensation => 'SELECT 1')});
sql_as($node, 'bob', qq{SELECT saga.set_timeout('$held', '10 ms')});
wait_until($node, q{SELECT count(*) = 4 FROM saga.health WHERE code = 'failing' AND finding ~ '(7|8|9) times'});
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.health WHERE code = 'failing' AND now() - since < '6.2 s'}), '0',
	'they are tried again ever less often');
$holder->query_safe('COMMIT');
$holder->quit;
wait_state($node, $held, 'compensated');
no_log($node, qr/could not notify listeners/, $offset, 'none is taken for a full queue of notifications');

# The same at once with others, which no transaction holds back
sql_as($node, 'bob', q{SELECT begin_all('order 2', 'order 2')});
is(sql_as($node, 'bob', q{SELECT count(*) FROM saga.claim_tasks('order 2 task', 1, '100 ms')}), '1', 'others beside them');
done('order 2');

poison('');
done('poison');
wait_until($node, q{SELECT count(*) = 0 FROM saga.health WHERE code = 'failing'});
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE next_action ~ 'worker failed'}), '0', 'nothing is told of any more');

# What waits for listeners whose owner is gone; each channel of it is notified again.
sql_as($node, 'goner', qq{
	SELECT saga.begin('$_->[0]', '$_->[1]') AS s \\gset
	SELECT saga.step(:'s', 'a', $_->[2] => 'gone') \\gset
	SELECT CASE '$_->[2]' WHEN 'notify' THEN saga.fail(:'s') END})
	foreach map { my $kind = $_; map { [ $kind, "gone $_", $_ ] } 'notify', 'task' } 'poison', 'order';
wait_queued($node, 'gone', 4);
poison('poison');
$node->safe_psql('postgres', 'DROP OWNED BY goner; DROP ROLE goner');
wait_until($node, q{SELECT count(*) = 2 FROM saga.review_queue WHERE saga = 'order' AND why LIKE '%"goner"%'});
wait_until($node, q{SELECT count(*) = 2 FROM saga.health WHERE code = 'failing' AND finding ~ 'go on with'});
pass('what waits for nobody is parked, but for those');
poison('');
wait_until($node, q{SELECT count(*) = 4 FROM saga.review_queue WHERE why LIKE '%"goner"%'});

# SQL whose role is gone
sql_as($node, 'leaver', qq{
	SELECT saga.begin('$_', 'left') AS s \\gset
	SELECT saga.step(:'s', 'a', compensation => 'SELECT 1') \\gset
	SELECT saga.pause(:'s', 'until the role is gone');
	SELECT saga.fail(:'s')}) foreach 'poison', 'order';
poison('poison');
$node->safe_psql('postgres', q{
	DROP OWNED BY leaver;
	DROP ROLE leaver;
	SELECT saga.resume(id) FROM saga.sagas WHERE idempotency_key = 'left' ORDER BY id;});
wait_until($node, q{SELECT count(*) = 1 FROM saga.review_queue WHERE saga = 'order' AND why LIKE '%"leaver"%'});
wait_until($node, q{SELECT count(*) = 1 FROM saga.health WHERE code = 'failing' AND finding ~ 'go on with'});
pass('SQL that nobody can run is parked, but for that');
poison('');
wait_until($node, q{SELECT count(*) = 2 FROM saga.review_queue WHERE why LIKE '%"leaver"%'});

# Deleting what is old
$node->safe_psql('postgres', q{SELECT saga.complete(saga.begin(n, 'old')) FROM unnest('{order,poison,order 2,order 3}'::text[]) n});
poison('poison');
advance_clock($node, '1 hour');
$node->safe_psql('postgres', q{ALTER SYSTEM SET saga.retention = '10min'});
$node->reload;
wait_until($node, q{SELECT string_agg(name, ' ') FROM saga.sagas WHERE idempotency_key = 'old'}, 'poison');
wait_until($node, q{SELECT count(*) > 0 FROM saga.health WHERE code = 'failing' AND finding ~ 'purge'});
pass('what is old is deleted, but for that');
poison('');
# The next pass
advance_clock($node, '5 minutes');
wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE idempotency_key = 'old'});

guarantees($node);
done_testing();
