# The front of a queue: nobody steps over what was claimed before, although an old
# snapshot keeps it from being cleared away; and nothing that waits is passed by
# for that, however it came before the front.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use Test::More;

plan skip_all => 'needs the test build' if !is_test_build();

my $node = saga_cluster('main', conf => "autovacuum = off\nlog_statement = none\nmax_prepared_transactions = 2\n");
virtual_clock($node);
$node->safe_psql('postgres', q{
	CREATE ROLE shop;
	CREATE ROLE stall;
	CREATE ROLE market IN ROLE shop, stall;
	GRANT USAGE ON SCHEMA saga TO shop, stall, market;
	CREATE FUNCTION make(channel text, how_many int DEFAULT 1, prefix text DEFAULT '') RETURNS text LANGUAGE sql
		BEGIN ATOMIC
			SELECT min(saga.fail(id)) FROM (
				SELECT saga.start('order', channel || ' ' || prefix || n) AS id FROM generate_series(1, how_many) n OFFSET 0) s,
				LATERAL saga.step(id, 'a', notify => channel) t;
		END;
	-- The keys of what is claimed, in the order in which it comes
	CREATE FUNCTION claim(channel text, max_claims int DEFAULT 1) RETURNS text LANGUAGE sql
		BEGIN ATOMIC
			SELECT string_agg(s.idempotency_key, ', ' ORDER BY n)
			FROM saga.claim_compensations(channel, max_claims) WITH ORDINALITY AS c (saga_id, step, seq, attempt, compensation_key, context, lease_until, n)
			JOIN saga.sagas s ON s.id = c.saga_id;
		END;});

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub claim { return sql("SELECT claim('$_[0]', " . ($_[1] // 1) . ')'); }

# Fails sagas of a role, and waits until that many wait on the channel
sub make
{
	my ($channel, $waiting, $arguments, $role) = @_;
	sql(($role ? "SET ROLE $role; " : '') . "SELECT make('$channel'" . ($arguments ? ", $arguments" : '') . ')');
	return wait_until($node, "SELECT count(*) = $waiting FROM saga.ledger_queue WHERE channel = '$channel'");
}

# How many entries of the queue's index a query reads
sub entries
{
	my ($query) = @_;
	my ($result, $read) = split /\n/, sql("
		BEGIN; SET LOCAL enable_seqscan = off;
		$query; SELECT pg_stat_get_xact_tuples_returned('saga.ledger_queue_key'::regclass); COMMIT");
	return $read;
}

# ---------------------------------------------------------- behind what is done

make('many', 3002, 3002);
my $old = session($node);
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()');
is(sql(q{SELECT count(saga.complete_compensation(compensation_key)) FROM saga.claim_compensations('many', 3000)}), 3000, 'most of them are done');
claim('many');
my $all = entries(q{SELECT count(*) FROM saga.ledger_queue WHERE channel = 'many'});
my $next = entries(q{SELECT claim('many')});
cmp_ok($all, '>', 3000, "whoever reads the queue from its start reads all that is left of them ($all)");
cmp_ok($next, '<', 30, "N1: a claim after another does not ($next)");
$old->quit;

# ------------------------------------------- what comes in before the front

make('clock', 2, 2);
is(claim('clock'), 'clock 1', 'the front is there');
sql(q{SELECT test_set_back_clock('1 hour')});
make('clock', 2, q{1, 'early '});
is(claim('clock', 2), 'clock early 1, clock 2', 'N2: what is dispatched by a clock that was set back is claimed first');

# ------------------------------------------------------- what comes back

make('back', 3, 3);
is(sql(q{BEGIN; SELECT claim('back'); SELECT claim('back'); ROLLBACK}), "back 1\nback 2", 'claimed, and rolled back');
is(claim('back'), 'back 1', 'N3: it is there again');
is(sql(q{BEGIN; SAVEPOINT s; SELECT claim('back'); SELECT claim('back'); ROLLBACK TO s; SELECT claim('back', 2); ROLLBACK}),
	"back 2\nback 3\nback 2, back 3", 'N3: also behind a savepoint');
is(claim('back', 3), 'back 2, back 3', 'N3: and for everybody');

# ------------------------------- what comes in while somebody sets the front

make('race', 1);
my $reader = session($node);
$reader->query_safe(q{SET saga.test_faults = 'ledger.before_front=wait'});
background($reader, q{SELECT claim('race')});
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT claim(%' AND wait_event_type = 'Extension' AND state = 'active'});
sql(q{SELECT test_set_back_clock('1 hour')});
make('race', 2, q{1, 'early '});
set_faults($node, 'release');
$reader->query_safe('SELECT 1');
set_faults($node, '');
$reader->quit;
is(claim('race'), 'race early 1', 'N4: who read before that sets nothing');

# ----------------------------------------- what gets another owner

foreach my $how ('at once', 'prepared')
{
	my $channel = "reassign $how";
	make($channel, 1, q{1, 'early '}, 'shop');
	make($channel, 3, 2, 'stall');
	is(sql("SET ROLE stall; SELECT claim('$channel')"), "$channel 1", 'the front is there');
	sql($how eq 'prepared' ? q{BEGIN; SELECT saga.reassign('shop'::regrole, 'stall'); PREPARE TRANSACTION 'p'}
		: q{SELECT saga.reassign('shop'::regrole, 'stall')});
	sql(q{COMMIT PREPARED 'p'}) if $how eq 'prepared';
	is(sql("SET ROLE stall; SELECT claim('$channel')"), "$channel early 1", "N5: what another role had is there, $how");
	claim($channel);
}

# --------------------------------------------- a channel of two owners

make('shared', 2, 2, 'stall');
is(sql(q{SET ROLE market; SELECT claim('shared')}), 'shared 1', 'one of them is known');
make('shared', 2, q{1, 'other '}, 'shop');
is(sql(q{SET ROLE market; SELECT count(*) FROM saga.claim_compensations('shared', 5)}), 2, 'N6: both are asked');

# ------------------------------------- what came by a way that nobody foresaw

make('unforeseen', 3, 3);
sql(q{
	ALTER TABLE saga.ledger_queue DISABLE TRIGGER guard;
	CREATE TABLE kept AS SELECT * FROM saga.ledger_queue WHERE channel = 'unforeseen' ORDER BY since, saga LIMIT 1;
	DELETE FROM saga.ledger_queue q USING kept k WHERE q.saga = k.saga});
is(claim('unforeseen'), 'unforeseen 2', 'the front is there');
is(claim('unforeseen'), 'unforeseen 3', 'and moves on');
sql(q{
	INSERT INTO saga.ledger_queue SELECT * FROM kept;
	ALTER TABLE saga.ledger_queue ENABLE ALWAYS TRIGGER guard});
ok(wait_until($node, q{SELECT claim('unforeseen') = 'unforeseen 1'}), 'N7: it is found a little later');

is(sql(q{SELECT count(*) FROM saga.ledger_queue}), 0, 'nothing is left');
guarantees($node);
$node->stop;
done_testing();
