# What a DBA limits and moves: unfinished sagas of a role, steps of a saga,
# sagas from role to role; and how one might get around it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $node = saga_cluster('main', databases => [ 'postgres', 'other' ], conf => "autovacuum = off\nsaga.max_executors = 2\n");
my $equip = q{
	GRANT USAGE ON SCHEMA saga TO PUBLIC;
	GRANT CREATE ON SCHEMA public TO PUBLIC;
	CREATE FUNCTION unfinished() RETURNS bigint LANGUAGE sql STABLE AS
		$$ SELECT count(*) FROM saga.sagas WHERE state NOT IN ('completed', 'compensated', 'abandoned') AND owner = current_user::regrole $$;
	-- How many of so many it may begin
	CREATE FUNCTION begins(n integer) RETURNS integer LANGUAGE plpgsql AS $$
	DECLARE
		begun integer := 0;
	BEGIN
		FOR i IN 1..n LOOP
			BEGIN
				PERFORM saga.begin('order');
				begun := begun + 1;
			EXCEPTION WHEN SQLSTATE 'SG009' THEN
				NULL;
			END;
		END LOOP;
		RETURN begun;
	END $$;};
$node->safe_psql('postgres', 'CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE carol LOGIN; CREATE ROLE dora LOGIN; CREATE ROLE free LOGIN; GRANT alice, bob TO free');
$node->safe_psql($_, $equip) foreach 'postgres', 'other';
$node->safe_psql('postgres', "ALTER ROLE $_ SET saga.max_open_sagas = 5") foreach qw(alice bob carol dora);

sub super { return $node->safe_psql('postgres', $_[0]); }
sub finish { return sql_as($node, $_[0], q{SELECT count(saga.complete(id)) FROM saga.sagas WHERE state = 'running' AND owner = current_user::regrole}); }

# --- Unfinished sagas

is(sql_as($node, 'alice', 'SELECT begins(7), unfinished()'), '5|0', 'a role begins so many');
is(sql_as($node, 'alice', 'SELECT unfinished()'), 5, 'and no more');
like(sql_error($node, q{SELECT saga.begin('order')}, 'postgres', extra_params => [ '-U', 'alice' ]),
	qr/ERROR:  SG009: role "alice" has too many unfinished sagas\nDETAIL:  It has 5; saga\.max_open_sagas allows 5\.\nHINT:  /, 'the error says what to do');
is(sql_as($node, 'bob', 'SELECT begins(7)'), 5, 'another role has its own count');
is(sql_as($node, 'alice', 'SELECT begins(7)', 'other'), 5, 'another database, too');
is(sql_as($node, 'alice', q{SELECT begins(2); SELECT count(saga.complete(id)) FROM (SELECT id FROM saga.sagas WHERE state = 'running' LIMIT 2) s; SELECT begins(7)}), "0\n2\n2",
	'what is completed makes room');
is(sql_as($node, 'alice', q{
	SELECT saga.complete(id) FROM saga.sagas WHERE state = 'running' LIMIT 1;
	SELECT saga.begin('keyed', 'key') AS id \gset
	SELECT saga.begin('keyed', 'key') = :'id', begins(1)}), "completed\nt|0", 'a known key is answered, however many there are');
is(sql_as($node, 'alice', q{
	SELECT saga.step(id, 'a', compensation => 'SELECT 1/0', compensation_retry => saga.retry_policy(max_attempts => 1)) FROM saga.sagas WHERE idempotency_key = 'key' \g /dev/null
	SELECT saga.fail(id) FROM saga.sagas WHERE idempotency_key = 'key';
	SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key = 'key';
	SELECT begins(1);
	SELECT saga.abandon(id, 'enough') FROM saga.sagas WHERE idempotency_key = 'key';
	SELECT begins(2)}), "compensating\nneeds_review\n0\nabandoned\n1", 'what waits for a decision counts, what is abandoned does not');
like(sql_error($node, 'SET saga.max_open_sagas = 100', 'postgres', extra_params => [ '-U', 'alice' ]), qr/ERROR:  42501:/, 'N15: nobody raises their own limit');
like(sql_error($node, 'ALTER ROLE alice RESET saga.max_open_sagas; SET saga.max_open_sagas = 0', 'postgres', extra_params => [ '-U', 'alice' ]), qr/ERROR:  42501:/, 'N15: nor resets it');
sql_as($node, 'alice', 'ALTER ROLE alice RESET ALL');
is(sql_as($node, 'alice', 'SHOW saga.max_open_sagas'), 5, 'N15: nor with all the others');

# --- Savepoints, errors, rollbacks

finish('alice');
is(sql_as($node, 'alice', q{
	BEGIN; SELECT begins(4);
	SAVEPOINT a; SELECT begins(4); ROLLBACK TO a; SELECT begins(4); RELEASE a;
	SAVEPOINT b; SELECT saga.complete(id) FROM saga.sagas WHERE state = 'running' LIMIT 1; SELECT begins(4); ROLLBACK TO b; SELECT begins(4);
	SAVEPOINT c; SAVEPOINT d; SELECT saga.complete(id) FROM saga.sagas WHERE state = 'running' LIMIT 1; RELEASE d; SELECT begins(4); ROLLBACK TO c; SELECT begins(4);
	ROLLBACK; SELECT unfinished(); SELECT begins(9); SELECT unfinished()}),
	"4\n1\n1\ncompleted\n1\n0\ncompleted\n1\n0\n0\n5\n5", 'savepoints and rollbacks are followed');
finish('alice');
is(sql_as($node, 'alice', q{
	DO $$ BEGIN
		FOR i IN 1..200 LOOP
			BEGIN
				PERFORM begins(10);
				IF i % 3 <> 0 THEN RAISE SQLSTATE 'ZZ000'; END IF;
			EXCEPTION WHEN SQLSTATE 'ZZ000' THEN NULL;
			END;
			IF i % 7 = 0 THEN ROLLBACK; ELSIF i % 5 = 0 THEN COMMIT; END IF;
		END LOOP;
	END $$;
	SELECT unfinished(), begins(10)}), '5|0', 'many errors and rollbacks get nobody around it');

# --- Several sessions: each sees what is committed; above is what they had open

finish('alice');
my @sessions = map { session($node, user => 'alice') } 1 .. 3;
is(join(' ', map { $_->query_safe('BEGIN'); $_->query_safe('SELECT begins(10)') } @sessions), '5 5 5', 'sessions that do not see each other begin so many each');
$_->query_safe('COMMIT') foreach @sessions;
is(sql_as($node, 'alice', 'SELECT unfinished(), begins(10)'), '15|0', 'and then none any more');
is(join(' ', map { $_->query_safe('SELECT begins(10)') } @sessions), '0 0 0', 'none of them');
$_->quit foreach @sessions;
is(finish('alice'), 15, 'until they are finished');
is(sql_as($node, 'alice', 'SELECT begins(10)'), 5, 'then as before');

# --- Prepared transactions

finish('alice');
sub prepare { return sql_as($node, 'alice', "BEGIN; SELECT begins($_[1]); PREPARE TRANSACTION '$_[0]'"); }
is(prepare('p1', 3), 3, 'prepared');
is(prepare('p2', 3), 3, 'prepared again: nobody sees what is not committed');
is(sql_as($node, 'alice', q{COMMIT PREPARED 'p1'; SELECT unfinished(), begins(9)}), '3|2', 'committed, it counts');
sql_as($node, 'alice', q{COMMIT PREPARED 'p2'});
is(sql_as($node, 'alice', q{SELECT unfinished(), begins(9)}), '8|0', 'so does the other, though nobody may have so many');
finish('alice');
is(prepare('p3', 4), 4, 'prepared');
is(sql_as($node, 'alice', q{ROLLBACK PREPARED 'p3'; SELECT unfinished(), begins(9)}), '0|5', 'rolled back, it does not');
is(sql_as($node, 'alice', q{BEGIN; SELECT count(saga.complete(id)) FROM saga.sagas WHERE state = 'running'; PREPARE TRANSACTION 'p4'}), 5, 'completed, and prepared');
is(sql_as($node, 'alice', q{SELECT begins(9)}), 0, 'makes no room before it is committed');
is(sql_as($node, 'alice', q{COMMIT PREPARED 'p4'; SELECT begins(9)}), 5, 'and all of it then');

# --- A restart, a crash, and what was prepared before

finish('alice');
sql_as($node, 'alice', 'SELECT begins(3)');
prepare('p5', 1);
$node->restart;
is(sql_as($node, 'alice', q{SELECT begins(9)}), 2, 'a restart forgets nothing');
is(sql_as($node, 'alice', q{COMMIT PREPARED 'p5'; SELECT unfinished(), begins(9)}), '6|0', 'nor what was prepared');
$node->stop('immediate');
$node->start;
is(sql_as($node, 'alice', q{SELECT unfinished(), begins(9)}), '6|0', 'nor a crash');

# --- Whose setting counts: that of the session

finish('alice');
is(sql_as($node, 'free', q{SET ROLE alice; SELECT begins(9)}), 9, 'a session without a limit that takes the role has none');
is(sql_as($node, 'alice', q{SELECT begins(9)}), 0, 'but what it begins is counted');
finish('alice');
super('ALTER DATABASE postgres SET saga.max_open_sagas = 7');
is(sql_as($node, 'free', q{SET ROLE alice; SELECT begins(9)}), 7, 'so a limit for all belongs to the database');
finish('alice');
is(sql_as($node, 'alice', q{SELECT begins(9)}), 5, 'and roles may have less');
super('ALTER DATABASE postgres RESET saga.max_open_sagas');
# Inside SECURITY DEFINER, the definer owns it, and the caller's session limits it.
super(q{CREATE FUNCTION definer_begins(n integer) RETURNS integer LANGUAGE sql SECURITY DEFINER AS 'SELECT public.begins(n)';
	ALTER FUNCTION definer_begins(integer) OWNER TO bob});
is(sql_as($node, 'bob', 'SELECT unfinished()'), 5, 'a role is full');
is(sql_as($node, 'carol', 'SELECT definer_begins(3), begins(9)'), '0|5', 'inside SECURITY DEFINER the definer is counted');

# --- What happens to sagas elsewhere counts, too: by the worker, by people, by
#     listeners, by late results

sql_as($node, 'dora', q{
	CREATE TABLE ids (what text, id uuid);
	CREATE PROCEDURE make(what text, VARIADIC kinds text[]) LANGUAGE plpgsql AS $$
	DECLARE
		s uuid := saga.begin(what, timeout => CASE WHEN what = 'deadline' THEN interval '1 ms' END);
		k text;
	BEGIN
		FOREACH k IN ARRAY kinds LOOP
			IF k = 'sql' THEN PERFORM saga.step(s, k, compensation => 'SELECT 1');
			ELSIF k = 'bad' THEN PERFORM saga.step(s, k, compensation => 'SELECT 1/0', compensation_retry => saga.retry_policy(max_attempts => 1));
			ELSIF k = 'pivot' THEN PERFORM saga.step(s, k, kind => 'pivot', completed => true);
			ELSIF k = 'outside' THEN PERFORM saga.step(s, k, notify => 'q', compensate_on => 'completed');
			ELSE PERFORM saga.step(s, k, notify => 'q'); END IF;
		END LOOP;
		INSERT INTO ids VALUES (what, s);
	END $$;});
super('ALTER ROLE dora SET saga.max_open_sagas = 100');
sub dora { return sql_as($node, 'dora', $_[0]); }
sub id_of { return dora("SELECT id FROM ids WHERE what = '$_[0]'"); }
# The tally must be known before anything happens.
is(dora('SELECT begins(1)'), 1, 'counted');
dora("BEGIN; CALL make('$_->[0]', VARIADIC '{$_->[1]}'); COMMIT")
  foreach [ 'undone', 'sql' ], [ 'deadline', 'sql' ], [ 'parked', 'bad' ], [ 'resolved', 'bad' ], [ 'reopened', 'pivot' ], [ 'claimed', 'listener' ], [ 'late', 'outside' ],
  [ 'cancelled', 'sql' ], [ 'rolled', 'sql' ], [ 'paused', 'sql' ], [ 'empty', '' ];
dora("SELECT saga.fail(id) FROM ids WHERE what IN ('undone', 'parked', 'resolved', 'reopened', 'claimed', 'late', 'empty')");
dora("SELECT saga.cancel(id) FROM ids WHERE what = 'cancelled'");
dora("SELECT saga.rollback_to(ids.id, NULL), saga.pause(p.id, 'n') FROM ids, (SELECT id FROM ids WHERE what = 'paused') p WHERE ids.what = 'rolled'");
wait_state($node, id_of($_), 'needs_review') foreach qw(parked resolved reopened);
wait_state($node, id_of($_), 'compensated') foreach qw(undone cancelled deadline late empty);
wait_state($node, id_of('rolled'), 'running');
wait_until($node, q{SELECT count(*) = 1 FROM saga.pending_compensations WHERE next_attempt_at IS NULL});
dora(q{SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('q')});
dora("SELECT saga.resolve(id, 'bad', 'done', 'n') FROM ids WHERE what = 'resolved'");
dora("SELECT saga.reopen(id, 'n') FROM ids WHERE what = 'reopened'");
dora("SELECT saga.complete_step(id, 'outside', late => 'record') FROM ids WHERE what = 'late'");
is(dora(q{SELECT string_agg(what || ' ' || state, ', ' ORDER BY what) FROM ids JOIN saga.sagas USING (id)}),
	'cancelled compensated, claimed compensated, deadline compensated, empty compensated, late needs_review, parked needs_review, paused running, '
	. 'reopened running, resolved compensated, rolled running, undone compensated', 'sagas in all conditions');
my $open = dora('SELECT unfinished()');
is($open, 6, 'so many are unfinished');
super('ALTER ROLE dora SET saga.max_open_sagas = ' . ($open + 2));
is(dora('SELECT begins(9)'), 2, 'and so many are counted');
is(dora(q{SELECT saga.purge('0'); SELECT begins(9)}), "6\n0", 'what is purged was counted no more');
# A compensation that breeds: limits hold in executors, too.
super('ALTER ROLE carol SET saga.max_open_sagas = 12');
finish('carol');
sql_as($node, 'carol', q{
	CREATE FUNCTION breed(n integer DEFAULT 1) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		s uuid := saga.begin('breed');
	BEGIN
		-- The seventh generation has no more children, with or without limits.
		PERFORM saga.step(s, 'a', compensation => CASE WHEN n < 7 THEN format('SELECT public.breed(%1$s), public.breed(%1$s), public.breed(%1$s)', n + 1) END, compensation_retry => saga.retry_policy(max_attempts => 1));
		RETURN saga.fail(s);
	END $$;
	SELECT breed()});
wait_until($node, q{SELECT count(*) > 1 AND count(*) FILTER (WHERE state = 'compensating') = 0 FROM saga.sagas WHERE name = 'breed'});
is(sql_as($node, 'carol', 'SELECT unfinished() BETWEEN 5 AND 16'), 't', 'sagas that begin sagas come to an end');
is(super(q{SELECT count(*) > 0 FROM saga.sagas WHERE name = 'breed' AND next_action LIKE '%too many unfinished sagas%'}), 't', 'with that reason');

# --- Steps of a saga

super('ALTER ROLE alice SET saga.max_steps = 4');
finish('alice');
my $saga = sql_as($node, 'alice', q{SELECT saga.begin('steps')});
is(sql_as($node, 'alice', "SELECT count(saga.step('$saga', 's' || n, completed => n = 2, compensation => 'SELECT 1')) FROM generate_series(1, 4) n"), 4, 'so many steps');
like(sql_error($node, "SELECT saga.step('$saga', 's5')", 'postgres', extra_params => [ '-U', 'alice' ]),
	qr/ERROR:  SG009: saga $saga has too many steps\nDETAIL:  saga\.max_steps allows 4\.\nHINT:  /, 'and no more');
is(sql_as($node, 'alice', "SELECT (saga.step('$saga', 's1', compensation => 'SELECT 1')).attempt"), 2, 'a known one is answered');
is(sql_as($node, 'alice', "SELECT saga.rollback_to('$saga', 's2'); SELECT saga.wait('$saga', until => 'running')"), "compensating\nrunning", 'rolled back');
like(sql_error($node, "SELECT saga.step('$saga', 's3', compensation => 'SELECT 1')", 'postgres', extra_params => [ '-U', 'alice' ]), qr/ERROR:  SG009:/, 'runs that were rolled back count');
# Open transactions: steps that others record count, those that they only change
# count once.
$saga = sql_as($node, 'alice', q{SELECT saga.begin('steps')});
sql_as($node, 'alice', "SELECT count(saga.step('$saga', 's' || n)) FROM generate_series(1, 2) n");
my $holds = session($node, user => 'alice');
$holds->query_safe("BEGIN; SELECT saga.complete_step('$saga', 's1'), saga.complete_step('$saga', 's2')");
is(sql_error($node, "SELECT saga.step('$saga', 's3')", 'postgres', extra_params => [ '-U', 'alice' ]), '', 'steps that another session is completing count once');
$holds->query_safe("COMMIT; SELECT saga.step('$saga', 's3'); BEGIN; SELECT saga.step('$saga', 's4')");
like(sql_error($node, "SELECT saga.step('$saga', 's5')", 'postgres', extra_params => [ '-U', 'alice' ]), qr/ERROR:  SG009:/, 'one that another session is recording counts');
$holds->query_safe('ROLLBACK');
is(sql_as($node, 'alice', "BEGIN; SELECT status FROM saga.step('$saga', 's5'); PREPARE TRANSACTION 'p6'"), 'started', 'one that it takes back does not');
like(sql_error($node, "SELECT saga.step('$saga', 's6')", 'postgres', extra_params => [ '-U', 'alice' ]), qr/ERROR:  SG009:/, 'a prepared one counts');
sql_as($node, 'alice', q{ROLLBACK PREPARED 'p6'});
is(sql_as($node, 'alice', "SELECT status FROM saga.step('$saga', 's7')"), 'started', 'until it is rolled back');
$holds->quit;
sql_as($node, 'alice', q{SELECT count(saga.complete_step(saga_id, key)) FROM saga.steps WHERE status = 'started' AND rolled_back_at IS NULL
	AND saga_id IN (SELECT id FROM saga.sagas WHERE state = 'running' AND owner = current_user::regrole)});

# --- Not preloaded: the ledger is read each time

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
finish('alice');
is(sql_as($node, 'alice', 'SELECT begins(9), unfinished()'), '5|0', 'not preloaded: so many');
is(sql_as($node, 'alice', 'SELECT begins(9), unfinished()'), '0|5', 'not preloaded: and no more');
finish('alice');
is(sql_as($node, 'alice', q{
	BEGIN; SELECT begins(4); SAVEPOINT a; SELECT begins(4); ROLLBACK TO a; SELECT begins(4); RELEASE a; ROLLBACK;
	BEGIN; SELECT begins(3); PREPARE TRANSACTION 'p7'; SELECT begins(9); COMMIT PREPARED 'p7'; SELECT unfinished(), begins(9)}), "4\n1\n1\n3\n5\n8|0",
	'not preloaded: savepoints, rollbacks, prepared transactions');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'saga'");
$node->restart;
is(sql_as($node, 'alice', 'SELECT unfinished(), begins(9)'), '8|0', 'preloaded again: counted anew');

# --- reassign

sub reassign
{
	my ($from, $to) = @_;
	my $out = $node->psql('postgres', "SELECT saga.reassign('$from'::regrole, '$to')", stdout => \my $stdout, stderr => \my $stderr);
	return $stdout . ($stderr =~ /(WARNING:  .*)/ ? " $1" : $stderr =~ /ERROR:  (.*)/ ? " $1" : '');
}
super('CREATE ROLE old LOGIN; CREATE ROLE new LOGIN; CREATE ROLE batch; ALTER ROLE new SET saga.max_open_sagas = 6');
is(sql_as($node, 'new', 'SELECT begins(3)'), 3, 'a role with some of its own');
sql_as($node, 'old', q{
	CREATE TABLE undone (u name DEFAULT current_user, s name DEFAULT session_user);
	GRANT ALL ON undone TO PUBLIC;
	SELECT saga.begin('move', 'running') AS running, saga.begin('move', 'taken') AS taken, saga.begin('move', 'waits', announce => 'c') AS waits \gset
	SELECT saga.step(:'running', 'a', compensation => 'INSERT INTO public.undone DEFAULT VALUES') \g /dev/null
	SELECT saga.step(:'waits', 'a', notify => 'moved') \g /dev/null
	SELECT saga.fail(:'waits')});
sql_as($node, 'new', q{SELECT saga.begin('move', 'taken', '"another"')});
wait_until($node, q{SELECT count(*) = 1 FROM saga.pending_compensations WHERE channel = 'moved' AND next_attempt_at IS NULL});
is(reassign('old', 'new'), '2 WARNING:  1 sagas keep their owner because the other role has sagas with the same names and keys', 'reassign: those that may be moved');
is(sql_as($node, 'old', q{SELECT string_agg(idempotency_key, ' ') FROM saga.sagas}), 'taken', 'reassign: who had them has them no more');
is(sql_as($node, 'new', q{SELECT string_agg(idempotency_key, ' ' ORDER BY idempotency_key) FROM saga.sagas WHERE name = 'move' AND input IS NULL}), 'running waits', 'reassign: the other has them');
is(sql_as($node, 'new', 'SELECT unfinished(), begins(9)'), '6|0', 'reassign: and they count with its own');
is(sql_as($node, 'new', q{SELECT detail FROM saga.events WHERE event = 'reassigned' LIMIT 1}), '{"by": "' . super('SELECT current_user') . '", "to": "new", "from": "old"}', 'reassign: the history tells');
is(sql_as($node, 'old', q{SELECT count(*) FROM saga.claim_compensations('moved')}), 0, 'reassign: who had them claims none');
is(sql_as($node, 'new', q{SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('moved')}), 'compensated', 'reassign: the other does');
sql_as($node, 'new', q{SELECT saga.fail(id) FROM saga.sagas WHERE idempotency_key = 'running'});
wait_until($node, q{SELECT state = 'compensated' FROM saga.sagas WHERE idempotency_key = 'running'});
is(super('SELECT * FROM undone'), 'new|new', 'reassign: SQL runs as the other');
is(reassign('old', 'new'), '0 WARNING:  1 sagas keep their owner because the other role has sagas with the same names and keys', 'reassign: again');
is(sql_as($node, 'new', q{SELECT saga.begin('move', 'running')}), sql_as($node, 'new', q{SELECT id FROM saga.sagas WHERE idempotency_key = 'running'}), 'reassign: their keys are its keys');
# From a role to itself: what a rename took from it
sql_as($node, 'old', q{SELECT saga.complete(id) FROM saga.sagas});
super('ALTER ROLE old RENAME TO aged');
is(sql_as($node, 'aged', 'SELECT count(*) FROM saga.sagas'), 0, 'reassign: renamed, it has none');
is(reassign('aged', 'aged'), 1, 'reassign: to itself');
is(sql_as($node, 'aged', 'SELECT count(*) FROM saga.sagas'), 1, 'reassign: it has them again');
# What cannot be
like(reassign('new', '0'), qr/there is no role with OID 0/, 'reassign: to nobody is refused');
is(super('SELECT count(*) FROM saga.ledger_saga WHERE owner = 0 OR owner_name = \'\''), 0, 'reassign: and nothing is moved');
is(super(q{SELECT saga.reassign(4000000000, 'aged')}), 0, 'reassign: from nobody there is none to move');
# To a role that cannot run SQL: parked, with the reason
my $batch = sql_as($node, 'aged', q{SELECT saga.begin('batch') AS id \gset
	SELECT saga.step(:'id', 'a', compensation => 'SELECT 1') \g /dev/null
	SELECT :'id'});
is(reassign('aged', 'batch'), 2, 'reassign: to a role without LOGIN');
super("SELECT saga.fail('$batch')");
if ($node->pg_version < 17)
{
	wait_state($node, $batch, 'needs_review');
	like(super("SELECT parked FROM saga.steps WHERE saga_id = '$batch'"), qr/role "batch" may no longer log in/, 'reassign: parked with the reason');
}
is(reassign('batch', 'aged'), 2, 'reassign: and on');
# A role whose step stands in another's saga that is being undone at the moment
super('CREATE ROLE boss LOGIN; CREATE ROLE worker LOGIN IN ROLE boss; CREATE ROLE heir LOGIN IN ROLE boss');
my $undoing = sql_as($node, 'boss', q{SELECT saga.begin('two') AS id \gset
	SELECT saga.step(:'id', 'first', completed => true, compensation => 'SELECT pg_advisory_xact_lock(77)', compensation_retry => saga.retry_policy(max_attempts => 1)) \g /dev/null
	SELECT :'id'});
sql_as($node, 'worker', "SELECT saga.step('$undoing', 'second', completed => true, compensation => 'SELECT 1')");
my $lock = session($node);
$lock->query_safe('SELECT pg_advisory_lock(77)');
sql_as($node, 'boss', "SELECT saga.rollback_to('$undoing', NULL)");
wait_until($node, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$undoing' AND key = 'first'");
is(reassign('worker', 'heir'), 0, 'reassign: a role with a step in a saga that is being rolled back');
$lock->query_safe('SELECT pg_advisory_unlock(77)');
wait_until($node, "SELECT state IN ('running', 'needs_review') FROM saga.sagas WHERE id = '$undoing'");
is(super("SELECT state, (SELECT string_agg(concat_ws(' ', key, run_as, compensation_status, (SELECT string_agg(outcome, ' then ' ORDER BY attempt) FROM saga.attempts a
		WHERE a.saga_id = t.saga_id AND a.seq = t.seq AND phase = 'compensation')), ', ' ORDER BY seq) FROM saga.steps t WHERE saga_id = '$undoing') FROM saga.sagas WHERE id = '$undoing'"),
	'running|first boss compensated interrupted then succeeded, second heir compensated succeeded', 'reassign: waits for no compensation, which is cut short and done again');
$lock->quit;

guarantees($node);
$node->stop;
done_testing();
