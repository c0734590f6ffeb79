# Actions of roles that are dropped, renamed or locked out while their steps wait:
# they wait for a person, nothing is undone for it, nobody else runs them; once the
# role is mended, or the sagas are given to another role, they go on.  And actions
# that are recorded by prepared transactions, and at every isolation level.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\nmax_prepared_transactions = 10\n");
witness($node, action => 'SELECT act($1)');
$node->safe_psql('postgres', q{
	CREATE TABLE gate (open boolean);
	GRANT ALL ON gate TO PUBLIC;
	CREATE FUNCTION act(context jsonb) RETURNS bigint LANGUAGE sql AS 'SELECT witness.act(context)';});

# A saga whose second step waits for the first, which the application runs
sub make
{
	my ($key, $role) = @_;
	my $id = sql_as($node, $role, qq{SELECT s FROM saga.begin('order', '$key') AS s});
	sql_as($node, $role, qq{
		SELECT saga.step('$id', 'first', compensation => 'SELECT witness.undo(\$1)');
		SELECT saga.step('$id', 'second', action => 'SELECT act(\$1)', compensation => 'SELECT witness.undo(\$1)');
		SELECT saga.step('$id', 'third', action => 'SELECT act(\$1)');});
	return $id;
}

# The steps of a saga, its state
sub steps
{
	my ($id) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT s.state, string_agg(concat_ws(' ', key, status, parked), ', ' ORDER BY seq)
		FROM saga.steps t JOIN saga.sagas s ON s.id = saga_id WHERE saga_id = '$id' GROUP BY 1});
}

my %lost = (
	renamed => [ 'ALTER ROLE %s RENAME TO %s_new', qr/renamed/ ],
	locked => [ 'ALTER ROLE %s NOLOGIN', qr/log in/ ],
	dropped => [ 'DROP ROLE %s', qr/no longer exists/ ],
	recreated => [ 'DROP ROLE %s; CREATE ROLE %s LOGIN', qr/no longer exists|another role/ ]);
# From 17 on, a process can run such a role.
delete $lost{locked} if $node->pg_version >= 17;
my (%saga, %oid);
foreach my $how (sort keys %lost)
{
	$node->safe_psql('postgres', "CREATE ROLE role_$how LOGIN; GRANT USAGE ON SCHEMA saga TO role_$how");
	$oid{$how} = $node->safe_psql('postgres', "SELECT 'role_$how'::regrole::oid");
	$saga{$how} = make($how, "role_$how");
}
$node->safe_psql('postgres', 'CREATE ROLE heir LOGIN; GRANT USAGE ON SCHEMA saga TO heir');
foreach my $how (sort keys %lost)
{
	my ($sql, $why) = @{ $lost{$how} };
	my $role = "role_$how";

	# Its executor may still be there, and not notice: it must not matter.
	$node->safe_psql('postgres', "REVOKE ALL ON SCHEMA saga FROM $role; "
		. ($sql =~ s/%s/$role/gr));
	$node->safe_psql('postgres', "SELECT saga.complete_step('$saga{$how}', 'first', '1')");
	wait_until($node, "SELECT parked IS NOT NULL FROM saga.steps WHERE saga_id = '$saga{$how}' AND key = 'second'");
	like(steps($saga{$how}), qr/^running\|first completed, second failed .*$why.*, third waiting$/,
		"$how: its step waits for a person, and nothing is undone");
	like($node->safe_psql('postgres', "SELECT waits_for FROM saga.steps WHERE saga_id = '$saga{$how}' AND key = 'second'"),
		qr/^a person: /, "$how: which it says");
	is($node->safe_psql('postgres', "SELECT count(*) FROM saga.review_queue WHERE saga_id = '$saga{$how}'"), 1, "$how: a person is asked");
}
guarantees($node, undef, idle => 1);

# A step that is recorded when its role has gone already must not stop the others'.
is($node->safe_psql('postgres', q{
	SELECT s, saga.step(s, 'a', action => 'SELECT act($1)'), saga.complete(s, when_done => true)
	FROM saga.begin('order', 'other') AS s}) ne '' && $node->safe_psql('postgres', q{
	SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key = 'other'}), 'completed', 'others go on');

# The ways on
$node->safe_psql('postgres', "ALTER ROLE role_locked LOGIN; GRANT USAGE ON SCHEMA saga TO role_locked") if $lost{locked};
$node->safe_psql('postgres', "SELECT saga.reassign($oid{$_}, 'heir') ") foreach qw(dropped recreated);
$node->safe_psql('postgres', "SELECT saga.reassign($oid{renamed}, 'role_renamed_new'); GRANT USAGE ON SCHEMA saga TO role_renamed_new");
$node->safe_psql('postgres', q{SELECT saga.resolve(saga_id, step, 'retry', 'mended') FROM saga.review_queue});
foreach my $how (sort keys %lost)
{
	$node->safe_psql('postgres', "SELECT saga.complete('$saga{$how}', when_done => true)");
	wait_state($node, $saga{$how}, 'completed');
	is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT role, ' ') FROM witness.effect WHERE saga = '$saga{$how}'"),
		{ renamed => 'role_renamed_new', locked => 'role_locked', dropped => 'heir', recreated => 'heir' }->{$how},
		"$how: it goes on as the role that has it now");
}
guarantees($node, undef, idle => 1);

# --- Prepared transactions

my $p = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'prepared')});
$node->safe_psql('postgres', qq{
	BEGIN;
	SELECT saga.step('$p', 'a', action => 'SELECT act(\$1)', compensation => 'SELECT witness.undo(\$1)');
	PREPARE TRANSACTION 'records'});
is($node->safe_psql('postgres', "SELECT count(*) FROM saga.steps WHERE saga_id = '$p'"), 0, 'a prepared step is not there yet');
$node->safe_psql('postgres', q{COMMIT PREPARED 'records'});
wait_until($node, "SELECT status = 'completed' FROM saga.steps WHERE saga_id = '$p' AND key = 'a'");
pass('COMMIT PREPARED: its action runs');

# One that is prepared, and rolled back
$node->safe_psql('postgres', qq{
	BEGIN;
	SELECT saga.step('$p', 'never', action => 'SELECT act(\$1)');
	PREPARE TRANSACTION 'records'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'records'});

# The application's step that another waits for, completed by a prepared transaction;
# and a join of a chain after it
$node->safe_psql('postgres', qq{
	SELECT saga.step('$p', 'own', compensation => 'SELECT witness.undo(\$1)');
	SELECT saga.step('$p', 'b', action => 'SELECT act(\$1)', compensation => 'SELECT witness.undo(\$1)');
	SELECT saga.step('$p', 'joined', after => '{b}');
	SELECT saga.step('$p', 'c', action => 'SELECT act(\$1)', compensation => 'SELECT witness.undo(\$1)');
	BEGIN;
	SELECT saga.complete_step('$p', 'own');
	PREPARE TRANSACTION 'completes'});
is($node->safe_psql('postgres', "SELECT string_agg(waits_for, ', ' ORDER BY seq) FROM saga.steps WHERE saga_id = '$p' AND key IN ('b', 'c')"),
	'step "own", step "own"', 'what waits for it says so');
$node->safe_psql('postgres', q{COMMIT PREPARED 'completes'});
wait_until($node, "SELECT count(*) = 3 FROM saga.steps WHERE saga_id = '$p' AND key IN ('b', 'joined', 'c') AND status = 'completed'");

# Sealed by one, with all done: it completes.
$node->safe_psql('postgres', qq{BEGIN; SELECT saga.complete('$p', when_done => true); PREPARE TRANSACTION 'seals'});
$node->safe_psql('postgres', q{COMMIT PREPARED 'seals'});
wait_state($node, $p, 'completed');

# Sealed before its last step is done
$p = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'sealed')});
$node->safe_psql('postgres', qq{
	SELECT saga.step('$p', 'wait', delay => '1 s');
	SELECT saga.step('$p', 'a', action => 'SELECT act(\$1)', compensation => 'SELECT witness.undo(\$1)');
	BEGIN; SELECT saga.complete('$p', when_done => true); PREPARE TRANSACTION 'seals'});
# Nobody looks while it holds the saga.
wait_until($node, "SELECT ready_at < clock_timestamp() FROM saga.steps WHERE saga_id = '$p' AND key = 'wait'");
$node->safe_psql('postgres', q{COMMIT PREPARED 'seals'});
wait_state($node, $p, 'completed');

# Failed by one, while an action waits to begin: it does not begin after that.
$p = $node->safe_psql('postgres', q{SELECT saga.begin('order', 'failed')});
$node->safe_psql('postgres', qq{
	SELECT saga.step('$p', 'a', action => 'SELECT act(\$1)', compensation => 'SELECT witness.undo(\$1)');
	SELECT saga.wait_step('$p', 'a');
	BEGIN; SELECT saga.fail('$p'); PREPARE TRANSACTION 'fails'});
$node->restart;
$node->safe_psql('postgres', q{COMMIT PREPARED 'fails'});
wait_state($node, $p, 'compensated');
is($node->safe_psql('postgres', "SELECT string_agg(hand, ' ' ORDER BY n) FROM witness.effect WHERE saga = '$p'"), 'action sql',
	'failed by COMMIT PREPARED: undone, once');
guarantees($node, undef, idle => 1);

# --- Isolation levels of the session that records

foreach my $level ('read committed', 'repeatable read', 'serializable')
{
	my $key = $level =~ s/ /_/r;
	my $id = $node->safe_psql('postgres', "SELECT saga.begin('order', '$key')");
	my $session = session($node);
	# Its snapshot is older than what is done meanwhile.
	$session->query_safe("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM gate");
	$node->safe_psql('postgres', qq{
		SELECT saga.step('$id', 'own', compensation => 'SELECT witness.undo(\$1)');
		SELECT saga.step('$id', 'a', action => 'SELECT act(\$1)', compensation => 'SELECT witness.undo(\$1)', after => '{}');
		SELECT saga.wait_step('$id', 'a')});
	$session->query_safe(qq{
		SELECT saga.step('$id', 'b', action => 'SELECT act(\$1)', compensation => 'SELECT witness.undo(\$1)');
		SELECT saga.complete_step('$id', 'own');
		SELECT saga.step('$id', 'c', action => 'SELECT act(\$1)', after => '{a,own}', compensation => 'SELECT witness.undo(\$1)');
		SELECT saga.complete('$id', when_done => true);
		COMMIT});
	$session->quit;
	wait_state($node, $id, 'completed');
	is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT status, ' '), count(*) FROM saga.steps WHERE saga_id = '$id'"), 'completed|4',
		"$level: what is recorded is run");
}

# A role whose sessions are read-only, or never READ COMMITTED: the looks are not its.
$node->safe_psql('postgres', q{
	CREATE ROLE strict LOGIN;
	GRANT USAGE ON SCHEMA saga TO strict;
	ALTER ROLE strict SET default_transaction_isolation = serializable;});
my $strict = sql_as($node, 'strict', q{
	SELECT s FROM saga.begin('order', 'strict') AS s}) ;
sql_as($node, 'strict', qq{
	SELECT saga.step('$strict', 's' || i, action => 'SELECT act(\$1)', compensation => 'SELECT witness.undo(\$1)') FROM generate_series(1, 5) i;
	SELECT saga.complete('$strict', when_done => true)});
wait_state($node, $strict, 'completed');
guarantees($node, undef, idle => 1);
$node->stop;
done_testing();
