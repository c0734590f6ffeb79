# Nobody is starved: while one role fails 50,000 sagas, what another fails is
# undone at once.  Each kind of flood: SQL, listeners, people, deadlines.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

# So many failures of one role, and the bound in seconds; without other load on
# the machine it is well below 1.
my $flood = 50_000;
my $flood_of_the_worker = 20_000;
my $bound = 3;

my $node = saga_cluster('main', conf => "autovacuum = off\nshared_buffers = 256MB\nmax_wal_size = 4GB\n");
$node->safe_psql('postgres', q{
	CREATE ROLE mallory LOGIN;
	CREATE ROLE alice LOGIN;
	GRANT USAGE ON SCHEMA saga TO mallory, alice;
	CREATE TABLE undone (what text);
	GRANT ALL ON undone TO alice;
	CREATE FUNCTION flood(n integer, kind text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		s uuid;
	BEGIN
		FOR i IN 1..n LOOP
			s := saga.begin('flood', timeout => CASE kind WHEN 'deadline' THEN interval '1 day' END);
			CASE kind
				WHEN 'sql' THEN PERFORM saga.step(s, 'a', compensation => 'SELECT pg_sleep(0.005)');
				WHEN 'listener' THEN PERFORM saga.step(s, 'a', notify => 'flood');
				WHEN 'person' THEN PERFORM saga.step(s, 'a', review => 'look');
				WHEN 'deadline' THEN PERFORM saga.step(s, 'a', notify => 'flood');
			END CASE;
			IF kind <> 'deadline' THEN PERFORM saga.fail(s); END IF;
		END LOOP;
	END $$;});
$node->safe_psql('postgres', q{CREATE FUNCTION test_advance_clock(interval) RETURNS void AS 'saga', 'saga_sql_test_advance_clock' LANGUAGE C STRICT})
  if is_test_build();

my $alice = session($node, user => 'alice');

# One failure of the other role: how long until it is undone, in seconds
sub one
{
	my ($wait) = @_;
	my $out = $alice->query_safe(q{
		SELECT saga.begin('one') AS id \gset
		SELECT saga.step(:'id', 'a', compensation => 'INSERT INTO public.undone VALUES (''undone'')') \g /dev/null
		SELECT saga.fail(:'id') \g /dev/null
		SELECT clock_timestamp() AS t \gset
		SELECT saga.wait(:'id', '30 s');
		SELECT extract(epoch FROM clock_timestamp() - :'t')});
	my ($state, $took) = split /\n/, $out;
	return $state eq 'compensated' ? $took : 1000;
}

# The same for a listener: when it was failed, and how long until it can claim
sub fail_for_a_listener
{
	return $alice->query_safe(q{
		SELECT saga.begin('one') AS id \gset
		SELECT saga.step(:'id', 'a', notify => 'one') \g /dev/null
		SELECT saga.fail(:'id') \g /dev/null
		SELECT clock_timestamp()});
}
sub claimed_after
{
	my ($since) = @_;
	return $alice->query_safe(qq{
		DO \$\$ BEGIN
			FOR i IN 1..12000 LOOP
				PERFORM saga.complete_compensation(compensation_key) FROM saga.claim_compensations('one');
				EXIT WHEN FOUND;
				COMMIT;
				PERFORM pg_sleep(0.005);
			END LOOP;
		END \$\$;
		SELECT extract(epoch FROM clock_timestamp() - '$since')});
}

sub most
{
	my $most = 0;
	foreach (@_) { $most = $_ if $_ > $most; }
	return $most;
}

sub due
{
	my ($role) = @_;
	return $node->safe_psql('postgres', $role ? qq{SELECT count(*) FROM saga.ledger_due WHERE lane = '$role'::regrole} : 'SELECT count(*) FROM saga.ledger_due WHERE lane = 0');
}

sub fair
{
	my ($what, @took) = @_;
	note(sprintf('%s: %.0f ms, %s', $what, 1000 * most(@took), join(', ', map { sprintf('%.1f', 1000 * $_) } @took)));
	return cmp_ok(most(@took), '<', $bound, $what);
}

one() foreach 1 .. 3;

# --- SQL behind SQL

$node->safe_psql('postgres', "SELECT flood($flood, 'sql')", extra_params => [ '-U', 'mallory' ]);
my @took;
for (1 .. 10)
{
	push @took, one();
	last if $took[-1] > $bound;
}
if (fair('SQL of one role behind the SQL of another', @took))
{
	cmp_ok(due('mallory'), '>', $flood / 2, 'which goes on all the time');
	fair('what listeners do behind it', claimed_after(fail_for_a_listener()));
}
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM saga.ledger_saga WHERE name = 'flood' AND state = 'c'}), '>', 0, 'nor is the flood kept waiting');

# --- Behind what the worker itself has to do: dispatching, parking, deadlines.
#     Neither the time it takes counts alone, which a quick machine makes short,
#     but that it does not have to end first.

foreach my $kind ('listener', 'person', 'deadline')
{
	if ($kind eq 'deadline')
	{
		last if !is_test_build();
		$node->safe_psql('postgres', "SELECT flood($flood_of_the_worker, 'deadline')", extra_params => [ '-U', 'mallory' ]);
		$node->safe_psql('postgres', q{SELECT test_advance_clock('2 days')});
	}
	else
	{
		$node->safe_psql('postgres', "SELECT flood($flood_of_the_worker, '$kind')", extra_params => [ '-U', 'mallory' ]);
	}
	my $since = fail_for_a_listener();
	@took = (one());
	my $left = due();
	fair("SQL of one role behind a flood of another, $kind", @took);
	cmp_ok($left, '>', $flood_of_the_worker / 10, "which did not have to end first, $kind");
	my $claimed = claimed_after($since);
	note(sprintf('what listeners do behind it, %s: %.0f ms', $kind, 1000 * $claimed));
	cmp_ok($claimed, '<', 60, "what listeners do behind it has its turn, $kind");
	wait_until($node, 'SELECT count(*) = 0 FROM saga.ledger_due WHERE lane = 0');
}

$alice->quit;
$node->stop('immediate');
done_testing();
