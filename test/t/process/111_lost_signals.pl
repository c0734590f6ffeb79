# A signal that was acknowledged is never lost, and is used by one step, once: the
# sender's session, the worker and executors are killed at every point on its way,
# and its sender sends it again, as it does who has got no answer.  Then a great many
# signals come to one saga, from several senders at once.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', conf => "restart_after_crash = on\nautovacuum = off\nsaga.max_executors = 3\n");
witness($node, action => 'SELECT %($1)');
$node->safe_psql('postgres', q{
	CREATE FUNCTION pay(context jsonb) RETURNS bigint LANGUAGE sql AS $$SELECT witness.act(context)$$;
	-- A wait without work, one with an action, and one whose signal an action sends;
	-- and beside them a task
	CREATE FUNCTION make(key text) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key);
	BEGIN
		PERFORM saga.step(id, 'paid', signals => '{paid,cancelled}'),
			saga.step(id, 'ship', signals => '{shipped}', action => 'SELECT tell($1)'),
			saga.step(id, 'told', signals => '{told}', action => 'SELECT pay($1)'),
			saga.step(id, 'help', task => 'help', after => '{}'),
			saga.complete(id, when_done => true);
		RETURN id;
	END $$;
	CREATE FUNCTION tell(context jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		-- until the test lets it go on
		PERFORM pg_advisory_xact_lock_shared(1);
		PERFORM saga.signal(saga.current(), 'told', context->'signal');
		RETURN witness.act(context);
	END $$;});

# Returns whether it was acknowledged.
sub send_signal
{
	my ($saga, $name, $key) = @_;
	my $code = $node->psql('postgres', "SELECT saga.signal('$saga', '$name', '{\"n\": 1}', '$key')", on_error_die => 0);
	acknowledged($node, 'signal', $saga, $key) if $code == 0;
	return $code == 0;
}

sub is_up
{
	return wait_until($node, 'SELECT true');
}

my $n = 0;
foreach my $point (
	qw(table.write_1 table.write_2 transaction.before_commit transaction.after_commit wakeup.after_commit
	worker.before_turn worker.before_commit worker.after_commit
	executor.after_inflight executor.before_mark executor.before_commit executor.after_commit
	executor.before_look executor.before_look_commit executor.after_look_commit))
{
	foreach my $how (qw(error kill))
	{
		# After the commit there is nothing left to fail.
		next if $how eq 'error' && $point =~ /after_commit|after_inflight/;
		my $saga = $node->safe_psql('postgres', "SELECT make('k" . ++$n . "')");
		my ($gate, $holder);

		# An executor looks in a transaction of its own if somebody else has a part in the
		# saga, as who reports a task does until the end of the transaction.
		my $help = "SELECT saga.complete_task(forward_key) FROM saga.steps WHERE saga_id = '$saga' AND key = 'help'";
		if ($point =~ /look/)
		{
			wait_queued($node, 'help', 1);
			($gate, $holder) = (session($node), session($node));
			$gate->query_safe('SELECT pg_advisory_lock(1)');
		}
		set_faults($node, "$point=$how once");
		is_up();
		foreach my $name (qw(paid shipped))
		{
			for my $try (1 .. 20)
			{
				last if send_signal($saga, $name, "$name-$n");
				is_up();
			}
		}
		if ($holder)
		{
			wait_until($node, "SELECT count(*) = 1 FROM saga.running WHERE saga_id = '$saga' AND step = 'ship'");
			$holder->query_safe("BEGIN; $help");
			$gate->quit;
		}
		wait_struck($node) or die "$point does not come";
		hang_up($holder) if $holder;
		is_up();
		set_faults($node, '');
		insist($node, $help);
		wait_state($node, $saga, 'completed') or die "$point $how does not come to its end";
		is($node->safe_psql('postgres', qq{
				SELECT string_agg(name || ' ' || used_by_step, ', ' ORDER BY name) FROM saga.signals WHERE saga_id = '$saga'}),
			'paid paid, shipped ship, told told', "$point $how: each is there once, and used once")
			or show_ledger($node);
	}
}
guarantees($node);

# Very many, from several senders; steps that use them, waiting before and after
my $many = $node->safe_psql('postgres', q{SELECT saga.begin('many')});
my ($senders, $each, $waiting) = (4, 2600, 500);
$node->safe_psql('postgres', qq{
	CREATE PROCEDURE send_many(sender integer) LANGUAGE plpgsql AS \$\$
	BEGIN
		FOR i IN 1..$each LOOP
			PERFORM saga.signal('$many', 'n' || i % 5, to_jsonb(i), sender || '/' || i);
			COMMIT;
		END LOOP;
	END \$\$;
	SELECT count(saga.step('$many', 'before ' || i, after => '{}', signals => ARRAY['n' || i % 5, 'none']))
	FROM generate_series(1, $waiting) i});
my @running = map {
	start_program("sender$_", {}, 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', "CALL send_many($_)")
} 1 .. $senders;
is(wait_program($_), 0, 'a sender has sent all') or diag(slurp_file($_->{log})) foreach @running;
$node->safe_psql('postgres', qq{
	SELECT count(saga.step('$many', 'after ' || i, after => '{}', signals => ARRAY['n' || i % 5], action => 'SELECT pay(\$1)'))
	FROM generate_series(1, $waiting) i;
	SELECT saga.complete('$many', when_done => true)});
wait_state($node, $many, 'completed');
is($node->safe_psql('postgres', qq{
		SELECT count(*), count(used_by_step), count(DISTINCT used_by_step) FROM saga.signals WHERE saga_id = '$many'}),
	$senders * $each . '|' . 2 * $waiting . '|' . 2 * $waiting, 'all are there, and each step has used one')
	or show_ledger($node);
is($node->safe_psql('postgres', qq{SELECT detail->>'signals' FROM saga.events WHERE saga_id = '$many' AND event = 'signals unused'}),
	$senders * $each - 2 * $waiting, 'the others are counted');
guarantees($node);
$node->stop;
done_testing();
