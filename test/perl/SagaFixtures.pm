package SagaFixtures;

=pod

=head1 NAME

SagaFixtures - what several TAP tests create in a server, and what they ask it

=head1 DESCRIPTION

L<SagaTest> exports all of it.  The first argument is the node; the database is
C<postgres> where none is named.

=cut

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;

our @EXPORT = qw(virtual_clock advance_clock create_undone undone_steps create_failed create_trap
  saga_id state_of attempts_of outcomes_of claims_of memory_of);

=head1 WHAT IS CREATED

=head2 virtual_clock($node, $database), advance_clock($node, $interval)

Creates C<test_advance_clock(interval)> and C<test_set_back_clock(interval)>, which
move the time of day of a server of the test build; moves it on.

=cut

sub virtual_clock
{
	my ($node, $database) = @_;
	$node->safe_psql($database // 'postgres', q{
		CREATE FUNCTION test_advance_clock(interval) RETURNS void
			AS 'saga', 'saga_sql_test_advance_clock' LANGUAGE C STRICT;
		CREATE FUNCTION test_set_back_clock(interval) RETURNS void
			AS 'saga', 'saga_sql_test_set_back_clock' LANGUAGE C STRICT;});
	return;
}

sub advance_clock
{
	my ($node, $interval) = @_;
	$node->safe_psql('postgres', "SELECT test_advance_clock('$interval')");
	return;
}

=head2 create_undone($node, $and), undone_steps($node, $key)

Creates the table C<undone>, and returns an argument of C<saga.step>: the
compensation that writes the saga's key and the step's there, and runs the SQL
$and.  The steps of the saga with that key that were undone, in that order.

=cut

sub create_undone
{
	my ($node, $and) = @_;
	$node->safe_psql('postgres', 'CREATE TABLE undone (n serial, saga text, step text)');
	return q{compensation => $c$INSERT INTO undone (saga, step)
		VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'key')} . ($and ? "; $and" : '') . '$c$';
}

sub undone_steps
{
	my ($node, $key) = @_;
	return $node->safe_psql('postgres', "SELECT string_agg(step, ' ' ORDER BY n) FROM undone WHERE saga = '$key'");
}

=head2 create_failed($node, %options)

Creates the SQL function C<failed(key, compensation, args, retry)>: it begins a
saga of one step, C<a>, fails it, and returns its id.  Options: C<compensation>,
C<args> and C<retry>, expressions for the defaults of these arguments; C<keyless>,
without the first argument; C<database>.

=cut

sub create_failed
{
	my ($node, %opt) = @_;
	my ($parameter, $key) = $opt{keyless} ? ('', '') : ('key text, ', ', key');
	my $compensation = $opt{compensation} ? "DEFAULT $opt{compensation}" : '';
	my $args = $opt{args} // 'NULL';
	my $retry = $opt{retry} // 'NULL';

	$node->safe_psql($opt{database} // 'postgres', qq{
		CREATE FUNCTION failed(${parameter}compensation text $compensation, args jsonb DEFAULT $args,
			retry saga.retry_policy DEFAULT $retry) RETURNS uuid LANGUAGE plpgsql AS \$f\$
		DECLARE
			id uuid := saga.begin('order'$key);
		BEGIN
			PERFORM saga.step(id, 'a', args => args, compensation => compensation, compensation_retry => retry);
			PERFORM saga.fail(id);
			RETURN id;
		END \$f\$;});
	return;
}

=head2 create_trap($node)

Creates the SQL function C<trap()>, which traps each cancel and never ends.

=cut

sub create_trap
{
	my ($node) = @_;
	$node->safe_psql('postgres', q{
		CREATE FUNCTION trap() RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			LOOP
				BEGIN
					PERFORM pg_sleep(3600);
				EXCEPTION WHEN query_canceled THEN
					NULL;
				END;
			END LOOP;
		END $$});
	return;
}

=head1 WHAT IS ASKED

=head2 saga_id($node, $key), state_of($node, $saga)

The id of the saga with that idempotency key; the state of the saga with that id.

=cut

sub saga_id
{
	my ($node, $key) = @_;
	return $node->safe_psql('postgres', "SELECT id FROM saga.sagas WHERE idempotency_key = '$key'");
}

sub state_of
{
	my ($node, $saga) = @_;
	return $node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$saga'");
}

=head2 attempts_of($node, $saga), outcomes_of($node, $saga), claims_of($node, $key)

The attempts of a saga's compensations, by number: "outcome sqlstate, ...", of the
saga with that id; "outcome outcome ..." of those that are over, of the saga with
that id or key; "number: outcome consumer, ..." of its listeners' steps.

=cut

sub attempts_of
{
	my ($node, $saga) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT string_agg(concat_ws(' ', outcome, sqlstate), ', ' ORDER BY attempt) FROM saga.attempts
		WHERE saga_id = '$saga' AND phase = 'compensation'});
}

sub outcomes_of
{
	my ($node, $saga) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT string_agg(outcome, ' ' ORDER BY attempt) FROM saga.attempts JOIN saga.sagas ON id = saga_id
		WHERE '$saga' IN (id::text, idempotency_key) AND phase = 'compensation'});
}

sub claims_of
{
	my ($node, $key) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT string_agg(concat_ws(' ', attempt || ':', coalesce(outcome, 'open'), a.consumer), ', ' ORDER BY attempt)
		FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq) JOIN saga.sagas s ON s.id = saga_id
		WHERE idempotency_key = '$key' AND phase = 'compensation' AND t.channel IS NOT NULL});
}

=head2 memory_of($pid)

Anonymous memory of a process, in kB.

=cut

sub memory_of
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s*(\d+)/m;
	return $kb;
}

1;
