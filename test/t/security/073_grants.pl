# The grants that doc/security.md gives: exactly those, and then each of the
# roles connects and tries what it may do and what it may not.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $node = saga_cluster('main', databases => []);
my ($grants) = slurp_file("$FindBin::RealBin/../../../doc/security.md") =~ /^## Grants\n.*?^```sql\n(.*?)^```/ms;
ok($grants, 'the grants of the documentation');
$node->safe_psql('postgres', 'CREATE ROLE site_owner LOGIN; CREATE DATABASE site OWNER site_owner; CREATE DATABASE elsewhere');
$node->safe_psql('site', $grants);
# Another application, granted the same way; and somebody whom nothing was granted
$node->safe_psql('site', q{
	CREATE ROLE cinema LOGIN;
	GRANT USAGE ON SCHEMA saga TO cinema;
	CREATE ROLE nobody LOGIN;
	CREATE TABLE seats (id integer, taken boolean DEFAULT true, who name DEFAULT current_user);
	GRANT SELECT, INSERT, DELETE ON seats TO booking;
	CREATE TABLE undone (u name DEFAULT current_user, s name DEFAULT session_user);
	GRANT INSERT ON undone TO booking, booking_refunds;});

sub site_as { return sql_as($node, $_[0], $_[1], 'site'); }

# Each call's SQLSTATE, or ok; what it did is taken back.
sub may
{
	my ($user, @calls) = @_;
	return join ' ', map
	{
		my $error = sql_error($node, "BEGIN; SELECT * FROM saga.$_; ROLLBACK", 'site', extra_params => [ '-U', $user ]);
		$error =~ /ERROR:  (\w+):/ ? $1 : 'ok';
	} @calls;
}

# --- Applications

sub failed_sagas
{
	my ($user, $owner) = @_;
	my $out = site_as($user, qq{
		BEGIN;
		SET LOCAL ROLE $owner;
		SELECT saga.begin('order', 'running', '"secret"') AS running, saga.begin('order', 'waits') AS waits, saga.begin('order', 'parked') AS parked,
			saga.begin('order', 'finished') AS finished, saga.begin('order', 'pivot') AS pivot \\gset
		RESET ROLE;
		SELECT count(s) FROM saga.step(:'running', 'seat', output => '"secret"', compensation => 'INSERT INTO public.undone DEFAULT VALUES') s \\g /dev/null
		SELECT count(s) FROM saga.step(:'waits', 'charge', notify => 'refunds', args => '"secret"') s \\g /dev/null
		SELECT count(s) FROM saga.step(:'parked', 'mail', review => 'look') s \\g /dev/null
		SELECT count(s) FROM saga.step(:'pivot', 'go', kind => 'pivot', completed => true) s \\g /dev/null
		SELECT saga.fail(:'waits'), saga.fail(:'parked'), saga.fail(:'pivot', 'why'), saga.complete(:'finished') \\g /dev/null
		COMMIT;
		SELECT 'running', :'running' UNION ALL SELECT 'waits', :'waits' UNION ALL SELECT 'parked', :'parked' UNION ALL SELECT 'finished', :'finished' UNION ALL SELECT 'pivot', :'pivot'});
	return split /[|\n]/, $out;
}
my %id = failed_sagas('booking', 'booking_sagas');
my %own = failed_sagas('booking', 'booking');
my %cinema = failed_sagas('cinema', 'cinema');
wait_until($node, q{SELECT count(*) = 3 FROM saga.pending_compensations}, 't', 'site');
wait_until($node, q{SELECT count(*) = 6 FROM saga.review_queue}, 't', 'site');

my @records = ("step('%s', 'new')", "complete_step('%s', 'seat')", "fail_step('%s', 'seat', 'e')", "fail('%s')", "cancel('%s')");
my @decides = ([ 'parked', "resolve('%s', 'mail', 'done', 'n')" ], [ 'parked', "abandon('%s', 'n')" ], [ 'pivot', "reopen('%s', 'n')" ],
	[ 'running', "rollback_to('%s', NULL)" ], [ 'running', "pause('%s', 'n')" ], [ 'running', "resume('%s')" ]);
sub records { my ($user, $of) = @_; return may($user, map { sprintf $_, $of->{running} } @records); }
sub decides { my ($user, $of) = @_; return may($user, map { sprintf $_->[1], $of->{ $_->[0] } } @decides); }

# What a role reads: sagas of the one and of the other, and how many payloads
sub reads
{
	my ($user) = @_;
	return site_as($user, q{
		SELECT count(*) FILTER (WHERE owner::text IN ('booking', 'booking_sagas')), count(*) FILTER (WHERE owner::text = 'cinema'),
			count(input), (SELECT count(*) FILTER (WHERE args IS NOT NULL OR output IS NOT NULL OR compensation IS NOT NULL) FROM saga.steps), count(reason) FROM saga.sagas});
}

is(records('booking', \%id), 'ok ok 22023 ok ok' =~ s/22023/SG002/r, 'N16: an application records and fails the sagas that it is a member of the owner of');
is(decides('booking', \%id), 'ok ok ok ok ok ok', 'N16: and decides about them');
is(records('booking', \%cinema) . ' ' . decides('booking', \%cinema), join(' ', ('SG001') x 11), 'N16: not those of another application');
is(reads('booking'), '10|0|2|4|2', 'N16: and reads its own alone');
is(reads('cinema'), '0|5|1|2|1', 'N16: as the other does');
is(may('booking', "redact('$id{finished}')", "purge('0')", "adopt()", "reassign('cinema'::regrole, 'booking')", "redact('$cinema{finished}')"), 'ok ok SG010 SG010 SG001', 'N16: redacts and purges its own, and no more');
is(site_as('booking', q{SHOW saga.max_open_sagas}) . ' ' . site_as('cinema', q{SHOW saga.max_open_sagas}) . ' ' . site_as('cinema', q{SHOW saga.max_steps}), '100000 10000 1000', 'its bounds');
# Its SQL runs as itself, whoever owns the saga.
site_as('booking', "SELECT saga.fail('$id{running}')");
wait_until($node, "SELECT state = 'compensated' FROM saga.sagas WHERE id = '$id{running}'", 't', 'site');
is($node->safe_psql('site', 'SELECT * FROM undone'), 'booking|booking', 'N16: its SQL runs as itself');

# --- A consumer

is(may('booking_refunds', "fail_compensation('$id{waits}-1-undo', 1, 'e')") =~ s/SG00[24]/known/r, 'known', 'N16: a consumer knows the sagas of the owner');
is(site_as('booking_refunds', q{SELECT count(*) FROM saga.claim_compensations('refunds', 100)}), 1, 'N16: it claims what waits of them, and not what is the application\'s own or another\'s');
is(site_as('booking_refunds', q{SELECT saga.extend_claim(compensation_key, attempt, '2 minutes') IS NOT NULL, saga.complete_compensation(compensation_key) FROM saga.pending_compensations}),
	't|compensated', 'N16: and reports it');
is(reads('booking_refunds'), '5|0|1|2|1', 'N16: it reads these sagas');
is(sql_error($node, 'SELECT * FROM seats', 'site', extra_params => [ '-U', 'booking_refunds' ]) =~ /ERROR:  (\w+)/ ? $1 : 'ok', 42501, 'N16: but not the application\'s tables');
is(may('booking_refunds', "plan('$own{parked}')", "fail('$cinema{running}')", 'adopt()'), 'SG001 SG001 SG010', 'N16: nor the application\'s own sagas, nor another\'s');
is(site_as('booking', q{SELECT count(*) FROM saga.claim_compensations('refunds', 100)}), 1, 'N16: the application claims what is its own');

# --- Operators

is(decides('otto', \%id), 'ok ok ok SG002 SG002 SG002', 'N16: an operator decides about sagas of others');
is(decides('otto', \%cinema), 'ok ok ok ok ok ok', 'N16: of all of them');
is(records('otto', \%cinema), join(' ', ('SG001') x 5), 'N16: but changes nothing of what runs');
is(reads('otto'), '10|5|3|6|3', 'N16: reads them all');
is(may('otto', "plan('$cinema{running}')", "wait('$cinema{finished}')", "redact('$cinema{finished}')", 'adopt()', "reassign('cinema'::regrole, 'otto')"), 'ok ok SG001 SG010 SG010', 'N16: and no more');
is(site_as('otto', q{SELECT saga.purge('0'), count(*) FROM saga.claim_compensations('refunds', 100)}), '0|0', 'N16: purges and claims nothing');
is(site_as('otto', "SELECT saga.resolve('$cinema{parked}', 'mail', 'done', 'seen to')"), 'compensated', 'N16: who settled it');
is($node->safe_psql('site', "SELECT detail->>'by', detail->>'note' FROM saga.events WHERE saga_id = '$cinema{parked}' AND event = 'resolved'"), 'otto|seen to', 'N16: is in the history');
is(sql_error($node, "SET saga.operator_role = 'cinema'", 'site', extra_params => [ '-U', 'cinema' ]) =~ /ERROR:  (\w+)/ ? $1 : 'ok', 42501, 'N16: nobody makes themselves an operator');
is($node->safe_psql('elsewhere', 'CREATE EXTENSION saga; SHOW saga.operator_role'), '', 'N16: nor is anybody one in another database');

# --- Auditors, monitors, the owner of the database, nobody

is(reads('audra'), '10|5|3|6|3', 'N16: an auditor reads everything');
is(records('audra', \%cinema) . ' ' . decides('audra', \%cinema), join(' ', ('SG001') x 11), 'N16: and changes nothing');
is(may('audra', "plan('$cinema{running}')", "redact('$cinema{finished}')", 'adopt()'), 'ok SG001 SG010', 'N16: nothing at all');
is(sql_error($node, 'DELETE FROM saga.ledger_saga', 'site', extra_params => [ '-U', 'audra' ]) =~ /ERROR:  (\w+)/ ? $1 : 'ok', 42501, 'N16: nor in the tables, which it may read');
is(reads('monty'), '10|5|0|0|0', 'N16: a monitor sees every saga, without payloads and reasons');
is(records('monty', \%cinema) . ' ' . decides('monty', \%cinema) . ' ' . may('monty', "plan('$cinema{running}')"), join(' ', ('SG001') x 12), 'N16: and can call nothing');
is(may('site_owner', 'adopt()', "purge('0')"), '42501 42501', 'N16: the owner of the database, too, needs the schema');
$node->safe_psql('site', 'GRANT USAGE ON SCHEMA saga TO site_owner');
is(may('site_owner', 'adopt()', "purge('0')", "reassign('cinema'::regrole, 'booking')", "fail('$cinema{running}')"), 'ok ok SG010 SG001', 'N16: and may adopt and purge, and give SQL no rights that are not its own');
is(reads('site_owner'), '0|0|0|0|0', 'N16: reads nothing');
is(may('nobody', "begin('x')", "fail('$cinema{running}')", 'adopt()'), '42501 42501 42501', 'N16: without USAGE on the schema, nothing');
is(sql_error($node, 'SELECT count(*) FROM saga.sagas', 'site', extra_params => [ '-U', 'nobody' ]) =~ /ERROR:  (\w+)/ ? $1 : 'ok', 42501, 'N16: nor to read');

# --- What stops a role

$node->safe_psql('site', 'REVOKE USAGE ON SCHEMA saga FROM booking, booking_sagas');
is(may('booking', "fail('$own{running}')"), '42501', 'taking USAGE away stops the calls');
$node->safe_psql('site', "SELECT saga.fail('$own{running}')");
wait_until($node, "SELECT state = 'compensated' FROM saga.sagas WHERE id = '$own{running}'", 't', 'site');
is($node->safe_psql('site', 'SELECT count(*) FROM undone'), 2, 'not what was recorded');
$node->safe_psql('site', 'GRANT CONNECT ON DATABASE site TO booking; REVOKE CONNECT ON DATABASE site FROM PUBLIC');
$node->safe_psql('site', "SELECT saga.fail('$cinema{running}')");
wait_until($node, "SELECT state = 'needs_review' FROM saga.sagas WHERE id = '$cinema{running}'", 't', 'site');
like($node->safe_psql('site', "SELECT parked FROM saga.steps WHERE saga_id = '$cinema{running}'"), qr/^role "cinema" may no longer connect/, 'taking CONNECT away parks it');

guarantees($node, 'site');
$node->stop;
done_testing();
