# What needs a second session, listening, or a look at the log: a role reassigned
# while its SQL runs, a role gone in the middle of an undo, a copy that is not
# adopted and keeps what it has.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main');
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE before LOGIN;
	CREATE ROLE after LOGIN;
	CREATE ROLE gone LOGIN;
	GRANT USAGE ON SCHEMA saga TO app, before, after, gone;
	GRANT app TO before, after, gone;
	CREATE TABLE effects (n serial, step text, who name);
	CREATE TABLE gate ();
	GRANT ALL ON effects, effects_n_seq, gate TO PUBLIC;
	CREATE FUNCTION undo(context jsonb) RETURNS void LANGUAGE sql AS $$
		INSERT INTO effects (step, who) VALUES (context #>> '{step,key}', session_user)
	$$;});

sub sql { return $node->safe_psql('postgres', $_[0]); }

# "step attempt outcome", one for each attempt of a compensation
sub attempts
{
	my ($saga) = @_;
	return sql(qq{
		SELECT string_agg(concat_ws(' ', s.key, a.attempt, a.outcome), ', ' ORDER BY a.finished_at, s.key)
		FROM saga.attempts a JOIN saga.steps s USING (saga_id, seq)
		WHERE saga_id = '$saga' AND phase = 'compensation'});
}

# --- Reassigned while SQL runs: another role's step, then the step itself

# The SQL waits for the gate, which a session shuts.
my $slow = q{SELECT undo($1); SELECT count(*) FROM gate};
my $once = q{saga.retry_policy(max_attempts => 1)};
foreach my $case ([ 'another role', 'app', 'app' ], [ 'its role', 'before', 'after' ])
{
	my ($what, $x_role, $x_role_now) = @$case;
	my $saga = sql(qq{
		SET ROLE app;
		SELECT saga.begin('order') AS id \\gset
		SET ROLE before;
		SELECT saga.step(:'id', 'y', compensation => 'SELECT undo(\$1)', completed => true) \\gset s
		SET ROLE $x_role;
		SELECT saga.step(:'id', 'x', compensation => '$slow', compensation_retry => $once, completed => true) \\gset s
		SELECT :'id'});
	my $gate = session($node);
	$gate->query_safe('BEGIN; LOCK gate;');
	sql("SELECT saga.fail('$saga')");
	ok(wait_until($node, q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted}),
		"$what: its SQL is under way");
	my $dba = session($node);
	my ($pid) = $dba->query_safe('SELECT pg_backend_pid()') =~ /(\d+)/;
	background($dba, q{SELECT saga.reassign('before'::regrole, 'after')});
	# It waits for nobody's SQL: what runs is taken back, and begins anew.
	wait_until($node, qq{SELECT state = 'idle' FROM pg_stat_activity
		WHERE pid = $pid AND query LIKE '%saga.reassign%'});
	$gate->query_safe('COMMIT');
	wait_state($node, $saga, 'compensated');
	is(attempts($saga), 'x 1 interrupted, x 2 succeeded, y 1 succeeded', "$what: reassigning fails no attempt");
	$dba->query_safe('SELECT');
	is(sql(qq{SELECT string_agg(concat_ws(' ', key, run_as), ', ' ORDER BY position) FROM saga.steps WHERE saga_id = '$saga'}),
		"y after, x $x_role_now", "$what: whose they are now");
	is(sql(q{SELECT string_agg(step, ', ' ORDER BY n) FROM effects}), 'x, y', "$what: each was undone once");
	like(sql(q{SELECT string_agg(step || ' ' || who, ', ' ORDER BY n) FROM effects}),
		qr/^x $x_role_now, y after$/, "$what: as which role");
	$_->quit foreach $gate, $dba;
	sql('TRUNCATE effects');
}
like(sql_error($node, q{SELECT saga.reassign(0, 'app')}), qr/ERROR:  22023: /, 'there is no role 0');

# --- The role of the last step is gone; the next one is a listener's

{
	my $listener = listen_to($node, 'orders');
	my $saga = sql(qq{
		SET ROLE app;
		SELECT saga.begin('order', on_compensation_failure => 'continue') AS id \\gset
		SELECT saga.step(:'id', 'l', notify => 'orders', completed => true) \\gset s
		SET ROLE gone;
		SELECT saga.step(:'id', 'q', compensation => 'SELECT undo(\$1)', completed => true) \\gset s
		SELECT :'id'});
	sql('DROP OWNED BY gone; DROP ROLE gone');
	sql("SET ROLE app; SELECT saga.fail('$saga')");
	wait_heard($listener, $saga);
	is(sql(qq{SELECT string_agg(concat_ws(' ', key, compensation_status, compensation_attempts), ', ' ORDER BY position)
		FROM saga.steps WHERE saga_id = '$saga'}), 'l dispatched 0, q failed 1', 'given up, and the next is dispatched');
	like(sql(qq{SELECT parked FROM saga.steps WHERE saga_id = '$saga' AND key = 'q'}), qr/"gone"/, 'with a reason that names the role');
	foreach my $n (2 .. 4)
	{
		# By the clock that goes on by itself, it may have been more often.
		my $before = grep { /$saga/ } heard($listener);
		sql(q{SELECT test_advance_clock('1 hour')});
		cmp_ok(scalar(my @told = wait_heard($listener, $saga, $before + 1)), '>', $before, "announced again: $n");
	}
	is(sql(q{SET ROLE app; SELECT step, saga.complete_compensation(compensation_key) FROM saga.claim_compensations('orders')}),
		'l|compensated', 'and can be claimed');
	wait_state($node, $saga, 'needs_review');
	is(attempts($saga), 'q 1 failed, l 1 succeeded', 'every attempt is there');
	$listener->quit;
}

# --- Retention in a copy that is not adopted: whoever restores a backup to read it
# wants to find it there.

{
	my $saga = sql(q{
		SELECT saga.begin('old') AS id \gset
		SELECT saga.complete(:'id') \gset
		SELECT :'id'});
	my $left = "SELECT count(*) FROM saga.sagas WHERE id = '$saga'";

	sql("UPDATE saga.ledger_saga SET updated_at = updated_at WHERE id = '$saga'");
	sql(q{SELECT test_advance_clock('2 days')});
	my $offset = log_offset($node);
	$node->append_conf('postgresql.conf', "saga.retention = '1d'\n");
	# A pass, and the next: then the first one has committed.
	my $at_rest = q{SELECT bool_and(xact_start IS NULL) FROM pg_stat_activity WHERE backend_type = 'saga worker'};
	foreach my $pass (1 .. 2)
	{
		set_faults($node, 'retention.before_commit=wait');
		sql(q{SELECT test_advance_clock('1 day')});
		wait_lines($node, qr/waiting at fault point "retention\.before_commit"/, $offset, $pass);
		is(sql($left), 1, "not adopted: nothing is purged, pass $pass");
		is(sql($at_rest), 'f', 'the worker stands in it');
		set_faults($node, '');
		wait_until($node, $at_rest);
	}
	is(sql($left), 1, 'not adopted: nothing was purged');
	sql('SELECT saga.adopt(); SELECT test_advance_clock(\'1 day\')');
	wait_until($node, $left, '0');
	pass('adopted: it is purged');
}

done_testing();
