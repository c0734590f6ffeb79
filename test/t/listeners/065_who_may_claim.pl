# Who claims: the members of the saga's owner and nobody else, from the moment
# they are members to the moment they are not, whatever happens to the roles while
# their work is with listeners.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

my $node = saga_cluster('main', conf => "saga.operator_role = 'operator'\n");
# The way to set it up: a role that owns the sagas, and services that are members.
$node->safe_psql('postgres', q{
	CREATE ROLE shop;
	CREATE ROLE app LOGIN IN ROLE shop;
	CREATE ROLE refunds LOGIN IN ROLE shop;
	CREATE ROLE mails LOGIN NOINHERIT IN ROLE shop;
	CREATE ROLE bank;
	CREATE ROLE broker LOGIN IN ROLE shop, bank;
	CREATE ROLE stranger LOGIN;
	CREATE ROLE operator;
	CREATE ROLE auditor LOGIN IN ROLE pg_monitor;
	CREATE ROLE reader LOGIN IN ROLE pg_read_all_data;
	CREATE ROLE on_call LOGIN IN ROLE operator;
	GRANT USAGE ON SCHEMA saga TO shop, bank, stranger, auditor, reader, on_call, mails;});

sub as
{
	my ($user, $sql) = @_;
	return sql_as($node, $user, $sql);
}

sub error_as
{
	my ($user, $sql) = @_;
	return sql_error($node, $sql, 'postgres', extra_params => [ '-U', $user ]);
}

# A failed saga of an owner, as a member of it makes it
sub fail_as
{
	my ($user, $owner, $key, $channel, $more) = @_;
	$more //= '';
	return as($user, qq{
		SET ROLE $owner;
		SELECT saga.begin('order', '$key') AS id \\gset
		SELECT saga.step(:'id', 'notify', notify => '$channel', compensation_retry =>
			saga.retry_policy(delay => '20 ms', backoff => 'constant') $more) \\gset s
		SELECT saga.fail(:'id') \\gset
		SELECT :'id'});
}

sub claim_as
{
	my ($user, $channel, $more) = @_;
	$more //= '';
	return as($user, qq{
		SELECT string_agg(context->'saga'->>'idempotency_key', ' ' ORDER BY compensation_key)
		FROM saga.claim_compensations('$channel' $more)});
}

sub key_of
{
	my ($saga) = @_;
	return $node->safe_psql('postgres', "SELECT compensation_key FROM saga.steps WHERE saga_id = '$saga'");
}

# --- Members

my $first = fail_as('app', 'shop', 'first', 'tasks');
wait_queued($node, 'tasks', 1);
my $key = key_of($first);
is($node->safe_psql('postgres', "SELECT owner FROM saga.sagas WHERE id = '$first'"), 'shop', 'the saga is the shared role\'s');
foreach my $user (qw(stranger mails auditor reader on_call))
{
	is(claim_as($user, 'tasks'), '', "$user: nothing to claim");
	like(error_as($user, $_), qr/ERROR:  SG001: /, "$user: " . ($_ =~ /(\w+)\(/)[0] . ': no such saga') foreach
	  "SELECT saga.complete_compensation('$key')", "SELECT saga.fail_compensation('$key', 1, 'no')",
	  "SELECT saga.extend_claim('$key', 1, '1 min')";
}
# One that does not exist reads the same.
my ($theirs, $none) = map {
	my ($message) = error_as('stranger', "SELECT saga.complete_compensation('$_')") =~ /ERROR:  (.*)/;
	$message =~ s/[0-9a-f]{8}-[0-9a-f-]*/ID/gr
} $key, $key =~ s/^.{8}/01900000/r;
is($theirs, $none, 'no difference between what is not theirs and what is not there');
foreach my $view (qw(stranger|0 mails|0 auditor|1 reader|1 on_call|1 refunds|1))
{
	my ($user, $rows) = split /\|/, $view;
	is(as($user, 'SELECT count(*) FROM saga.pending_compensations'), $rows, "$user sees $rows in saga.pending_compensations");
}
is(as('mails', "SET ROLE shop; SELECT count(*) FROM saga.claim_compensations('none')"), 0, 'one that does not inherit says whose rights it wants');
is(claim_as('refunds', 'tasks', ", consumer => 'a'"), 'first', 'a member claims');
is(as('app', "SELECT saga.complete_compensation('$key')"), 'compensated', 'and another one may report');
wait_state($node, $first, 'compensated');

# Through a function of its own
$node->safe_psql('postgres', q{
	CREATE FUNCTION claim_for_strangers() RETURNS text LANGUAGE sql SECURITY DEFINER
		AS $$SELECT string_agg(compensation_key, ' ') FROM saga.claim_compensations('tasks', 10)$$;
	GRANT CREATE ON SCHEMA public TO shop;
	ALTER FUNCTION claim_for_strangers() OWNER TO shop;});
my $definer = fail_as('app', 'shop', 'definer', 'tasks');
wait_queued($node, 'tasks', 1);
is(as('stranger', 'SELECT claim_for_strangers()'), key_of($definer), 'a definer\'s function claims with the definer\'s rights');
like(error_as('stranger', "SELECT saga.complete_compensation('" . key_of($definer) . "')"), qr/ERROR:  SG001: /, 'which its caller has not');
as('refunds', "SELECT saga.complete_compensation('" . key_of($definer) . "')");
wait_state($node, $definer, 'compensated');

# --- Several owners: each gets its own, and none keeps another waiting

fail_as('app', 'shop', "shop $_", 'shared') foreach 1 .. 12;
fail_as('broker', 'bank', 'bank 1', 'shared');
wait_queued($node, 'shared', 13);
is(claim_as('refunds', 'shared', ', 1'), 'shop 1', 'a member of one gets that one\'s, the oldest first');
my $four = claim_as('broker', 'shared', ', 4');
like($four, qr/^(?=.*bank 1)(?=.*shop 2)(?=.*shop 4)/, 'a member of both gets of both, though there are more of one') or diag($four);
is(claim_as('broker', 'shared', ', 100'), join(' ', map { "shop $_" } 5 .. 12), 'and then what is left');
is(as('broker', q{SELECT count(saga.complete_compensation(compensation_key)) FROM saga.pending_compensations}), 13, 'all reported');
wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state <> 'compensated'});

# --- Membership comes and goes

my $session = session($node, user => 'refunds');
my $revoked = fail_as('app', 'shop', 'revoked', 'tasks');
$key = key_of($revoked);
wait_queued($node, 'tasks', 1);
is($session->query_safe(q{SELECT attempt FROM saga.claim_compensations('tasks', lease => '1 s', consumer => 'refunds')}), 1, 'claimed');
$node->safe_psql('postgres', 'REVOKE shop FROM refunds; GRANT USAGE ON SCHEMA saga TO refunds');
$session->query("\\set VERBOSITY verbose\nSELECT saga.complete_compensation('$key')");
like($session->{stderr}, qr/ERROR:  SG001: /, 'no longer a member: its report is a stranger\'s');
$session->{stderr} = '';
is($session->query_safe('SELECT count(*) FROM saga.pending_compensations'), 0, 'it sees nothing any more');
wait_queued($node, 'tasks', 1);
is($session->query_safe(q{SELECT count(*) FROM saga.claim_compensations('tasks')}), 0, 'nor gets anything, when its lease is over');
is(as('broker', q{SELECT attempt FROM saga.claim_compensations('tasks', consumer => 'broker')}), 2, 'another member does');
$node->safe_psql('postgres', 'GRANT shop TO refunds');
is($session->query_safe("SELECT saga.fail_compensation('$key', 1, 'no')"), 'stale', 'a member again: its failure is old news');
is($session->query_safe("SELECT saga.complete_compensation('$key')"), 'compensated', 'but what it did is believed');
wait_state($node, $revoked, 'compensated');
is($node->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', outcome, consumer), ', ' ORDER BY attempt) FROM saga.attempts
	WHERE saga_id = '$revoked' AND phase = 'compensation'"), 'timed out refunds, succeeded broker', 'the history has both');
$session->quit;

# --- The owner itself: renamed, gone, made anew

sub why
{
	my ($saga) = @_;
	return $node->safe_psql('postgres', "SELECT why FROM saga.review_queue WHERE saga_id = '$saga'");
}

my $waits = fail_as('app', 'shop', 'waits', 'tasks');
wait_queued($node, 'tasks', 1);
my $held = fail_as('app', 'shop', 'held', 'holds');
wait_queued($node, 'holds', 1);
is(claim_as('refunds', 'holds', ", lease => '1 day', consumer => 'refunds'"), 'held', 'claimed');
my $held_key = key_of($held);
my $oid = $node->safe_psql('postgres', q{SELECT 'shop'::regrole::oid});
$node->safe_psql('postgres', 'ALTER ROLE shop RENAME TO shop_2');
is(claim_as('refunds', 'tasks'), '', 'the owner has another name: nothing to claim for its members');
like(error_as('refunds', "SELECT saga.complete_compensation('$held_key')"), qr/ERROR:  SG001: /, 'nor to report');
is(as('refunds', 'SELECT count(*) FROM saga.pending_compensations'), 0, 'nor to see');
wait_state($node, $waits, 'needs_review');
like(why($waits), qr/owner.*"shop".*renamed.*saga\.reassign/, 'what waits is parked, with the reason');
is($node->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$held'"), 'compensating', 'what is held goes on');
is($node->safe_psql('postgres', "SELECT saga.reassign($oid, 'shop_2')"), $node->safe_psql('postgres',
	q{SELECT count(*) FROM saga.sagas WHERE owner = 'shop_2'::regrole}), 'given to the role of that name');
is(as('refunds', "SELECT saga.complete_compensation('$held_key')"), 'compensated', 'then its members report');
is(as('refunds', "SELECT saga.resolve('$waits', 'notify', 'retry', 'renamed')"), 'compensating', 'and let go on what is parked');
wait_queued($node, 'tasks', 1);
is(claim_as('refunds', 'tasks'), 'waits', 'and claim it');
as('refunds', "SELECT saga.complete_compensation('" . key_of($waits) . "')");
wait_state($node, $_, 'compensated') foreach $waits, $held;

# Dropped, with a queue of work
$node->safe_psql('postgres', 'ALTER ROLE shop_2 RENAME TO shop');
$node->safe_psql('postgres', "SELECT saga.reassign($oid, 'shop')");
my @dropped = map { fail_as('app', 'shop', "dropped $_", $_ < 3 ? 'tasks' : 'holds') } 1 .. 4;
wait_queued($node, 'tasks', 2);
wait_queued($node, 'holds', 2);
is(claim_as('refunds', 'holds', ", lease => '2 s'"), 'dropped 3', 'claimed');
$node->safe_psql('postgres', 'REASSIGN OWNED BY shop TO CURRENT_USER; DROP OWNED BY shop; DROP ROLE shop');
$node->safe_psql('postgres', 'CREATE ROLE shop; GRANT shop TO refunds; GRANT USAGE ON SCHEMA saga TO shop');
isnt($node->safe_psql('postgres', q{SELECT 'shop'::regrole::oid}), $oid, 'the owner is gone; another role has its name');
is(claim_as('refunds', $_), '', "who gets nothing of it on $_") foreach qw(tasks holds);
like(error_as('refunds', "SELECT saga.complete_compensation('" . key_of($dropped[2]) . "')"), qr/ERROR:  SG001: /, 'nor reports anything');
wait_state($node, $_, 'needs_review') foreach @dropped;
like(why($_), qr/owner.*"shop".*no longer exists.*saga\.reassign/, 'what waits for its members is parked, with the reason') foreach @dropped;
is(as('refunds', 'SELECT count(*) FROM saga.review_queue'), 0, 'the new role of that name does not see it');
is($node->safe_psql('postgres', 'SELECT count(*) FROM saga.ledger_queue'), 0, 'nothing is announced any more');
cmp_ok($node->safe_psql('postgres', "SELECT saga.reassign($oid, 'shop')"), '>=', 4, 'given to the new role');
is(as('refunds', "SELECT count(saga.resolve(saga_id, step, 'retry', 'reassigned')) FROM saga.review_queue"), 4, 'which lets it go on');
wait_queued($node, 'tasks', 2);
wait_queued($node, 'holds', 2);
is(as('refunds', qq{
	SELECT count(saga.complete_compensation(compensation_key)) FROM (VALUES ('tasks'), ('holds')) c(c), LATERAL saga.claim_compensations(c, 10)}), 4,
	'and does it');
wait_state($node, $_, 'compensated') foreach @dropped;
is($node->safe_psql('postgres', q{SELECT count(*) FROM saga.attempts WHERE phase = 'compensation' AND error IS NOT NULL AND outcome = 'timed out'}), 2,
	'two leases ended, and no more');

# Dropped, with more of it than the worker parks at a time: it does not wait for
# the next announcement with the rest.
my $many = 1500;
$node->safe_psql('postgres', qq{
	CREATE ROLE closed;
	GRANT USAGE ON SCHEMA saga TO closed;
	SET ROLE closed;
	SELECT count(saga.fail(s)) FROM generate_series(1, $many) n, LATERAL saga.begin('closed', 'closed ' || n) s,
		LATERAL saga.step(s, 'notify', notify => 'closed') t});
wait_queued($node, 'closed', $many);
$node->safe_psql('postgres', 'DROP OWNED BY closed; DROP ROLE closed');
wait_until($node, qq{SELECT count(*) = $many FROM saga.sagas WHERE name = 'closed' AND state = 'needs_review'});
is($node->safe_psql('postgres', 'SELECT count(*) FROM saga.ledger_queue'), 0, 'all that waits for a role that is gone is parked');

guarantees($node);
$node->stop;
done_testing();
