package SagaGuarantees;

=pod

=head1 NAME

SagaGuarantees - whether a ledger, and what was seen beside it, fits the guarantees

=head1 SYNOPSIS

  witness($node);
  my $saga = $node->safe_psql('postgres', q{SELECT saga.begin('order')});
  acknowledged($node, 'begin', $saga);
  $node->safe_psql('postgres', qq{
    SELECT saga.step('$saga', 'a', compensation => 'SELECT witness.undo(\$1)')});
  ...
  guarantees($node);

Every test that causes a fault ends with C<guarantees>.  It is a list of queries
for what must not be, at any moment, whatever happened to the server: some for
each guarantee from G1 to G11, over the whole ledger.  (That idle means idle,
G12, no query can tell: F<054_busy_when_idle.pl> does.)

The ledger alone cannot tell what was really done, and what was promised.  So a
test may keep two witnesses beside it, and then they must tell the same story:
effects, and acknowledgements.

=cut

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(witness acknowledged guarantees guarantee_violations);

=head1 THE WITNESSES

=head2 witness($node, %options)

Creates the schema C<witness>, whose table C<effect> is written by whatever
undoes a step.  Nothing protects that table: what is done twice is there twice.
It is written by

=over

=item C<witness.undo($1)>

as a compensation, or in one;

=item C<witness.outside(context)>

by a listener, with what it claimed.  C<CALL witness.serve(channel, max, lease,
consumer)> is a whole listener: it claims, does and acknowledges, each in a
transaction of its own;

=item C<witness.by_hand(saga, key)>

by a person, in the transaction of C<saga.resolve(..., 'done', ...)>.

=back

Which steps are seen follows from patterns (LIKE): of the compensation's SQL
(C<sql>, C<%witness.undo(%>), of the channel (C<listener>, C<witness%>), of the
words of a review (C<person>, C<witness%>).  The options of these names replace
them.  C<database>: another one than postgres.

=cut

sub witness
{
	my ($node, %opt) = @_;
	my %pattern = (
		sql => $opt{sql} // '%witness.undo(%',
		listener => $opt{listener} // 'witness%',
		person => $opt{person} // 'witness%');

	$node->safe_psql($opt{database} // 'postgres', qq{
		CREATE SCHEMA witness;
		GRANT USAGE ON SCHEMA witness TO PUBLIC;
		CREATE TABLE witness.effect (
			n bigserial, at timestamptz DEFAULT clock_timestamp(), hand text,
			saga uuid, seq bigint, key text, attempt integer,
			role name DEFAULT current_user, session name DEFAULT session_user);
		GRANT ALL ON witness.effect TO PUBLIC;
		GRANT ALL ON SEQUENCE witness.effect_n_seq TO PUBLIC;

		-- The steps whose undo must be seen there
		CREATE VIEW witness.step AS
			SELECT t.*, CASE
				WHEN compensation LIKE '$pattern{sql}' THEN 'sql'
				WHEN channel LIKE '$pattern{listener}' THEN 'listener'
				WHEN compensation IS NULL AND channel IS NULL AND review LIKE '$pattern{person}' THEN 'person'
			END AS hand
			FROM saga.ledger_step t;

		CREATE FUNCTION witness.note(hand text, context jsonb) RETURNS void LANGUAGE sql AS \$\$
			INSERT INTO witness.effect (hand, saga, seq, key, attempt)
			VALUES (hand, (context->'saga'->>'id')::uuid, (context->'step'->>'seq')::bigint,
				context->'step'->>'key', (context->>'attempt')::integer) \$\$;
		CREATE FUNCTION witness.undo(context jsonb) RETURNS void LANGUAGE sql AS
			\$\$ SELECT witness.note('sql', context) \$\$;
		CREATE FUNCTION witness.outside(context jsonb) RETURNS void LANGUAGE sql AS
			\$\$ SELECT witness.note('listener', context) \$\$;
		CREATE FUNCTION witness.by_hand(saga_id uuid, step_key text) RETURNS void LANGUAGE sql AS \$\$
			INSERT INTO witness.effect (hand, saga, seq, key)
			SELECT 'person', t.saga_id, t.seq, t.key FROM saga.steps t
			WHERE t.saga_id = by_hand.saga_id AND t.key = step_key ORDER BY t.seq DESC LIMIT 1 \$\$;
		CREATE PROCEDURE witness.serve(channel text, max integer DEFAULT 1000, lease interval DEFAULT '1 hour',
			consumer text DEFAULT 'witness') LANGUAGE plpgsql AS \$\$
		DECLARE
			claims jsonb;
			claim jsonb;
		BEGIN
			SELECT jsonb_agg(to_jsonb(c)) INTO claims FROM saga.claim_compensations(channel, max, lease, consumer) c;
			COMMIT;
			FOR claim IN SELECT * FROM jsonb_array_elements(claims) LOOP
				PERFORM witness.outside(claim->'context');
				COMMIT;
				PERFORM saga.complete_compensation(claim->>'compensation_key');
				COMMIT;
			END LOOP;
		END \$\$;});
	return;
}

=head2 acknowledged($node, $what, $saga, $key, $value), acknowledged($node, \%options, @rows)

Remembers that a call was acknowledged, its transaction being committed: then
C<guarantees> finds what it did, or else there is a violation of G1.  What and
which: C<begin> (saga), C<step> (saga, key), C<complete_step> (saga, key, output),
C<fail_step> (saga, key), C<complete>, C<fail>, C<cancel> (saga),
C<complete_compensation>, C<fail_compensation> (saga, key), C<event> (saga, the event's name: for people's
calls).

Or that something was never committed: C<no begin> (undef, the saga's key),
C<no step> (saga, key), C<no output> (saga, key), C<no fail> (saga), C<no event> (saga, name).

The second form takes many, as references to arrays; option C<database>.

=cut

sub acknowledged
{
	my ($node, @what) = @_;
	my $option = ref $what[0] eq 'HASH' ? shift @what : {};
	my @rows = ref $what[0] ? @what : [@what];

	push @{ $node->{saga_acknowledged}{ $option->{database} // 'postgres' } }, @rows;
	return;
}

=head1 THE GUARANTEES

Each guarantee, in words, with its queries.  C<what> a query looks for is a
sentence that holds.  C<needs> names relations without which it is left out
(the installed version may lack a view; there may be no witness).  C<clock>: it
compares times, which says nothing if the clock was set back meanwhile.

=cut

my @guarantees = (
	G1 => [
		'what was acknowledged is there, and what was not was never',
		{
			what => 'every acknowledged call had its effect', needs => 'acknowledged', query => q{
			SELECT k.*, s.state FROM acknowledged k LEFT JOIN saga.sagas s ON s.id = k.saga
			WHERE what NOT LIKE 'no %' AND NOT CASE what
				WHEN 'begin' THEN s.id IS NOT NULL
				WHEN 'step' THEN EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = saga AND t.key = k.key)
				WHEN 'complete_step' THEN EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = saga AND t.key = k.key
					AND t.status = 'completed' AND (k.value IS NULL OR t.output = k.value::jsonb))
				WHEN 'fail_step' THEN EXISTS (SELECT FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq)
					WHERE saga_id = saga AND t.key = k.key AND phase = 'forward' AND outcome = 'failed')
				WHEN 'complete' THEN s.state = 'completed'
				WHEN 'fail' THEN EXISTS (SELECT FROM saga.events e WHERE saga_id = saga AND event = 'failing')
				WHEN 'cancel' THEN EXISTS (SELECT FROM saga.events e WHERE saga_id = saga AND event = 'failing')
				WHEN 'complete_compensation' THEN EXISTS (SELECT FROM saga.steps t
					WHERE t.saga_id = saga AND t.key = k.key AND compensation_status IN ('compensated', 'skipped'))
				WHEN 'fail_compensation' THEN EXISTS (SELECT FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq)
					WHERE saga_id = saga AND t.key = k.key AND phase = 'compensation' AND outcome = 'failed')
				WHEN 'event' THEN EXISTS (SELECT FROM saga.events e WHERE saga_id = saga AND event = k.key)
				ELSE false END}
		},
		{
			what => 'what was rolled back was never there', needs => 'acknowledged', query => q{
			SELECT * FROM acknowledged k
			WHERE what LIKE 'no %' AND CASE what
				WHEN 'no begin' THEN EXISTS (SELECT FROM saga.sagas WHERE idempotency_key = k.key)
				WHEN 'no step' THEN EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = saga AND t.key = k.key)
				WHEN 'no output' THEN EXISTS (SELECT FROM saga.steps t WHERE t.saga_id = saga AND t.key = k.key AND t.status = 'completed')
				WHEN 'no fail' THEN EXISTS (SELECT FROM saga.events e WHERE saga_id = saga AND event = 'failing')
				WHEN 'no event' THEN EXISTS (SELECT FROM saga.events e WHERE saga_id = saga AND event = k.key)
				ELSE true END}
		}
	],

	G2 => [
		'the effects of a SQL compensation commit exactly once',
		{
			what => 'none succeeded twice, unless a person said so', query => q{
			SELECT saga_id, seq, count(*)
			FROM saga.attempts JOIN saga.steps USING (saga_id, seq)
			WHERE phase = 'compensation' AND outcome = 'succeeded'
				AND compensation_kind = 'sql'
			GROUP BY saga_id, seq
			HAVING count(*) > 1 + (SELECT count(*) FROM saga.ledger_event e WHERE e.saga = saga_id AND e.seq = attempts.seq
				AND e.event = 'resolved' AND e.detail->>'resolution' = 'retry')}
		},
		{
			what => 'an effect is there once', needs => 'witness.effect', query => q{
			SELECT saga, seq, key, attempt, count(*) FROM witness.effect
			WHERE hand = 'sql' GROUP BY saga, seq, key, attempt HAVING count(*) > 1}
		},
		{
			what => 'an effect is there if and only if its attempt succeeded', needs => 'witness.effect', query => q{
			SELECT saga, seq, attempt, e IS NOT NULL AS effect, a IS NOT NULL AS succeeded
			FROM (SELECT saga, seq, attempt FROM witness.effect WHERE hand = 'sql') e
			FULL JOIN (
				SELECT saga, seq, attempt FROM saga.ledger_attempt JOIN witness.step USING (saga, seq)
				WHERE phase = 'c' AND outcome = 's' AND hand = 'sql') a USING (saga, seq, attempt)
			WHERE e IS NULL OR a IS NULL}
		},
		{
			what => 'what a person did is there once, if and only if the step says so', needs => 'witness.effect', query => q{
			SELECT saga, seq, e.count, t IS NOT NULL AS settled
			FROM (SELECT saga, seq, count(*) FROM witness.effect WHERE hand = 'person' GROUP BY 1, 2) e
			FULL JOIN (
				SELECT saga, seq FROM witness.step
				WHERE hand = 'person' AND comp_status = 'c') t USING (saga, seq)
			WHERE e.count IS DISTINCT FROM 1 OR t IS NULL}
		},
		{
			what => 'every effect is that of a step', needs => 'witness.effect', query => q{
			SELECT e.* FROM witness.effect e LEFT JOIN witness.step t USING (saga, seq)
			WHERE t.hand IS DISTINCT FROM e.hand OR t.key IS DISTINCT FROM e.key}
		},
		{
			what => 'nothing is undone that is to stay', needs => 'witness.effect', query => q{
			SELECT e.*, s.state FROM witness.effect e
			JOIN witness.step t USING (saga, seq) JOIN saga.ledger_saga s ON s.id = saga
			WHERE s.state IN ('r', 'd') AND t.rolled_back_at IS NULL}
		}
	],

	G3 => [
		'steps are undone in the reverse of the order in which they started',
		{
			what => 'no compensation began before every step that started later was settled', clock => 1, query => q{
			SELECT a.saga_id, a.seq, a.attempt, later.seq AS later_seq, later.compensation_status
			FROM saga.attempts a
			JOIN saga.steps later ON later.saga_id = a.saga_id AND later.seq > a.seq
			WHERE a.phase = 'compensation' AND later.started_at < a.started_at
				-- A crash may lose the later steps' commits, but not that this one began:
				-- it is written down as interrupted, and they are done again.
				AND a.outcome <> 'interrupted'
				AND (later.compensation_status IN ('registered', 'pending', 'running', 'dispatched')
					OR later.compensated_at > a.started_at)
				AND later.kind <> 'retriable'
				-- One that was given up counted as settled, though a listener's late
				-- report or a person may have told otherwise since; and so may a
				-- person of one whose result came in when it had been settled.
				-- A late result of an old run opens that one alone; a saga that is
				-- reopened goes on with what was passed over.
				AND NOT EXISTS (
					SELECT FROM saga.ledger_event e JOIN saga.ledger_saga s ON s.id = e.saga
					WHERE e.saga = later.saga_id AND (
						e.seq = later.seq AND e.at > a.started_at
							AND (e.event IN ('late acknowledgement', 'resolved') AND s.on_failure = 'c'
								OR e.event = 'late result' AND e.detail->>'compensation_gets_output' = 'no')
						OR e.seq = a.seq AND e.at < a.started_at AND e.event = 'late result'
						OR e.event = 'reopened'))}
		},
		{
			# What was rolled back was undone before what came after its savepoint
			# started.  What a person took up again had been settled before.
			what => 'effects are there in that order', needs => 'witness.effect', query => q{
			SELECT * FROM (
				SELECT e.*, t.rolled_back_at,
					lag(seq) OVER w AS before_seq, lag(t.rolled_back_at) OVER w AS before_rolled_back_at
				FROM (SELECT saga, seq, min(n) AS n FROM witness.effect GROUP BY saga, seq) e
				JOIN witness.step t USING (saga, seq)
				WHERE NOT EXISTS (
					SELECT FROM saga.ledger_event v WHERE v.saga = e.saga AND v.seq = e.seq
						AND v.event IN ('resolved', 'late result', 'late acknowledgement'))
				WINDOW w AS (PARTITION BY saga ORDER BY n)) o
			WHERE seq > before_seq
				AND (before_rolled_back_at IS NULL OR before_rolled_back_at = rolled_back_at)}
		},
		{
			what => 'positions count from 1 by start order', query => q{
			SELECT * FROM (
				SELECT saga_id, seq, position,
					row_number() OVER (PARTITION BY saga_id ORDER BY seq) AS expected
				FROM saga.steps) s
			WHERE position <> expected}
		}
	],

	G4 => [
		'one key, one saga or step, one answer',
		{
			what => 'one key, one saga', query => q{
			SELECT owner, name, idempotency_key, count(*) FROM saga.sagas
			WHERE idempotency_key IS NOT NULL
			GROUP BY owner, name, idempotency_key HAVING count(*) > 1}
		},
		{
			what => 'one key, one step in each run', query => q{
			SELECT saga_id, key, run, count(*) FROM saga.steps
			GROUP BY saga_id, key, run HAVING count(*) > 1}
		},
		{
			what => 'runs count from 1 by start order, and only the newest was not rolled back', query => q{
			SELECT * FROM (
				SELECT saga, key, seq, run, rolled_back_at, row_number() OVER w AS expected, lead(seq) OVER w AS next
				FROM saga.ledger_step WINDOW w AS (PARTITION BY saga, key ORDER BY seq)) t
			WHERE run <> expected OR next IS NOT NULL AND rolled_back_at IS NULL
				-- a late result opens an old run again
				AND NOT EXISTS (SELECT FROM saga.ledger_event e WHERE e.saga = t.saga AND e.seq = t.seq AND e.event = 'late result')}
		},
		{
			what => 'forward and compensation keys are unique, and differ', query => q{
			SELECT k, count(*) FROM (
				SELECT forward_key AS k FROM saga.steps
				UNION ALL
				SELECT compensation_key FROM saga.steps) keys
			WHERE k IS NOT NULL GROUP BY k HAVING count(*) > 1}
		}
	],

	G5 => [
		'no saga hangs in silence',
		{
			what => 'a saga that compensates has something to undo', query => q{
			SELECT id, state FROM saga.sagas s
			WHERE state = 'compensating' AND NOT EXISTS (
				SELECT FROM saga.steps
				WHERE saga_id = s.id
					AND compensation_status IN ('pending', 'running', 'dispatched'))}
		},
		{
			what => 'one that is not at its end says what comes next', query => q{
			SELECT id, state FROM saga.sagas
			WHERE state IN ('running', 'compensating', 'needs_review')
				AND coalesce(next_action, '') = ''}
		},
		{
			what => 'one that needs review is in the queue, with the reason and the ways on', needs => 'saga.review_queue', query => q{
			SELECT id, state FROM saga.sagas s
			WHERE state = 'needs_review'
				AND NOT EXISTS (SELECT FROM saga.review_queue q WHERE q.saga_id = s.id
					AND q.why <> '' AND q.to_settle <> '')}
		},
		{
			what => 'nothing is left to undo of one at its end', query => q{
			SELECT saga_id, seq, state, compensation_status
			FROM saga.steps JOIN saga.sagas ON sagas.id = saga_id
			WHERE state IN ('completed', 'compensated')
				AND compensation_status IN ('pending', 'running', 'dispatched')
			UNION ALL
			SELECT saga_id, seq, state, compensation_status
			FROM saga.steps JOIN saga.sagas ON sagas.id = saga_id
			WHERE state = 'compensated' AND compensation_status = 'registered'}
		},
		{
			what => 'what compensates is due, or waits for a listener', query => q{
			SELECT id, due, lane FROM saga.ledger_saga s
			WHERE state = 'u' AND NOT paused AND due IS NULL AND NOT EXISTS (
				SELECT FROM saga.ledger_queue WHERE saga = s.id)}
		},
		{
			what => 'what a person holds is known as such, and nothing else', query => q{
			SELECT s.id, s.state, s.paused, h.saga FROM saga.ledger_held h
			FULL JOIN (
				SELECT id, state, paused FROM saga.ledger_saga
				WHERE state = 'p' OR paused AND finished_at IS NULL) s ON s.id = h.saga
			WHERE s.id IS NULL OR h.saga IS NULL}
		},
		{
			what => 'what has a deadline is due then', query => q{
			SELECT id, due, lane, deadline FROM saga.ledger_saga
			WHERE state = 'r' AND NOT paused AND deadline IS NOT NULL
				AND (due IS NULL OR lane <> 0 OR due > deadline)}
		},
		{
			what => 'what is to be announced is due in the lane of the worker', query => q{
			SELECT id, state, to_announce, due, lane FROM saga.ledger_saga
			WHERE to_announce IS NOT NULL AND lane IS DISTINCT FROM 0}
		},
		{
			what => 'what a listener holds is looked at when its lease ends', query => q{
			SELECT t.saga, t.seq, s.due, t.lease_until FROM saga.ledger_step t
			JOIN saga.ledger_saga s ON s.id = t.saga
			WHERE t.lease_until IS NOT NULL AND (s.due IS NULL OR s.lane <> 0 OR s.due > t.lease_until)}
		},
		{
			what => 'the due work is what the sagas name', query => q{
			SELECT d.*, s.* FROM (SELECT * FROM saga.ledger_due WHERE seq = 0) d
			FULL JOIN (
				SELECT id AS saga, due, lane FROM saga.ledger_saga WHERE due IS NOT NULL) s USING (saga, due, lane)
			WHERE d IS NULL OR s IS NULL}
		}
	],

	G6 => [
		'the history explains the state',
		{
			what => 'attempts are numbered without gaps', query => q{
			SELECT saga_id, seq, phase, array_agg(attempt ORDER BY attempt)
			FROM saga.attempts GROUP BY saga_id, seq, phase
			HAVING min(attempt) <> 1 OR max(attempt) <> count(*)
				OR count(DISTINCT attempt) <> count(*)}
		},
		{
			what => 'a step counts the attempts that there are', query => q{
			SELECT t.saga, t.seq, t.comp_attempts, a.count FROM saga.ledger_step t
			LEFT JOIN (SELECT saga, seq, count(*) FROM saga.ledger_attempt WHERE phase = 'c' GROUP BY 1, 2) a USING (saga, seq)
			WHERE coalesce(t.comp_attempts, 0) <> coalesce(a.count, 0)}
		},
		{
			what => 'every attempt that is over says how', query => q{
			SELECT a.* FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq)
			WHERE a.outcome IS NULL AND NOT (phase = 'forward' AND t.status = 'started'
				OR phase = 'compensation' AND t.compensation_status = 'dispatched')}
		},
		{
			what => 'a step is compensated by an attempt that succeeded, a listener or a person', query => q{
			SELECT saga, seq, key FROM saga.ledger_step t
			WHERE comp_status = 'c' AND NOT EXISTS (
					SELECT FROM saga.ledger_attempt a WHERE a.saga = t.saga AND a.seq = t.seq AND phase = 'c' AND outcome = 's')
				AND NOT EXISTS (
					SELECT FROM saga.ledger_event e WHERE e.saga = t.saga AND e.seq = t.seq
						AND event IN ('resolved', 'late acknowledgement'))}
		},
		{
			what => 'a failing saga says so, unless that was taken back', query => q{
			SELECT id, state, failure_kind FROM saga.ledger_saga s
			WHERE failure_kind IS NOT NULL AND NOT EXISTS (
				SELECT FROM saga.ledger_event e WHERE e.saga = s.id AND event = 'failing')}
		},
		{
			what => 'no attempt ends before it starts', clock => 1, query => q{
			SELECT saga_id, seq, phase, attempt FROM saga.attempts
			WHERE finished_at < started_at}
		},
		{
			what => 'the attempts of a compensation follow each other', clock => 1, query => q{
			SELECT * FROM (
				SELECT saga_id, seq, attempt, started_at,
					lag(finished_at) OVER (PARTITION BY saga_id, seq ORDER BY attempt) AS before_finished_at
				FROM saga.attempts WHERE phase = 'compensation') a
			WHERE started_at < before_finished_at}
		},
		{
			what => 'a compensated step knows when, and no other does', query => q{
			SELECT saga_id, seq, compensation_status, compensated_at FROM saga.steps
			WHERE compensation_status = 'compensated' AND compensated_at IS NULL
				OR compensation_status IN ('none', 'registered', 'pending')
					AND compensated_at IS NOT NULL}
		},
		{
			what => 'events are in order', query => q{
			SELECT saga_id, position FROM saga.events
			GROUP BY saga_id, position HAVING count(*) > 1}
		}
	],

	G7 => [
		'a notification\'s work waits in the table until acknowledged',
		{
			what => 'the queue holds what is dispatched and not claimed, and nothing else', query => q{
			SELECT q.*, t.* FROM saga.ledger_queue q
			FULL JOIN (
				SELECT t.saga, t.seq, t.channel, s.owner, t.dispatched_at AS since, t.run, t.key FROM saga.ledger_step t
				JOIN saga.ledger_saga s ON s.id = t.saga
				WHERE comp_status = 'd' AND claimed_at IS NULL) t USING (saga, seq, channel, owner, since, run, key)
			WHERE q IS NULL OR t IS NULL}
		},
		{
			what => 'one step of a saga at a time is with listeners', query => q{
			SELECT saga, count(*) FROM saga.ledger_step WHERE comp_status = 'd' GROUP BY 1 HAVING count(*) > 1}
		},
		{
			what => 'a listener holds a step for no longer than its policy allows', query => q{
			SELECT saga, seq, claimed_at, lease_until FROM saga.ledger_step
			WHERE lease_until > claimed_at + nullif((saga.internal_policy(compensation_retry)).timeout, '0')}
		},
		{
			what => 'no listener\'s step is compensated that no listener undid', needs => 'witness.effect', query => q{
			SELECT saga, seq, key FROM witness.step t
			WHERE hand = 'listener' AND acknowledge AND comp_status = 'c'
				AND NOT EXISTS (SELECT FROM witness.effect e WHERE e.saga = t.saga AND e.seq = t.seq)
				AND NOT EXISTS (
					SELECT FROM saga.ledger_event e WHERE e.saga = t.saga AND e.seq = t.seq AND event = 'resolved')}
		},
		{
			what => 'no listener undid what it had not claimed', needs => 'witness.effect', query => q{
			SELECT e.* FROM witness.effect e
			LEFT JOIN saga.attempts a ON a.saga_id = e.saga AND a.seq = e.seq AND a.phase = 'compensation' AND a.attempt = e.attempt
			WHERE hand = 'listener' AND a IS NULL}
		}
	],

	G8 => [
		'nobody is parked or charged for another\'s crash, or a shutdown',
		{
			# A person who decides to try again gives it a new budget.
			what => 'charged are attempts that failed or timed out', query => q{
			SELECT saga, seq, key, comp_charged FROM saga.ledger_step t
			WHERE comp_charged > (
				-- (Fifty interruptions are free.)
				SELECT count(*) FILTER (WHERE outcome IN ('f', 't')) + greatest(count(*) FILTER (WHERE outcome = 'i') - 50, 0)
				FROM saga.ledger_attempt a
				WHERE a.saga = t.saga AND a.seq = t.seq AND phase = 'c')}
		},
		{
			what => 'given up are retries that were used up, one by one', query => q{
			SELECT saga, seq, key, parked, comp_charged, p.max_attempts FROM saga.ledger_step t,
				LATERAL saga.internal_policy(compensation_retry) p
			WHERE parked LIKE 'retries exhausted%' AND comp_charged < p.max_attempts
				-- by the policy of that time
				AND NOT EXISTS (SELECT FROM saga.ledger_event e WHERE e.saga = t.saga AND e.seq = t.seq AND event = 'amended')}
		},
		{
			what => 'given up for crashes is what was alone at three', query => q{
			SELECT saga, seq, key, parked, comp_crashes FROM saga.ledger_step t
			WHERE parked LIKE 'the server crashed%'
				AND (comp_crashes < 3 OR 3 > (
					SELECT count(*) FROM saga.ledger_attempt a
					WHERE a.saga = t.saga AND a.seq = t.seq AND phase = 'c' AND outcome = 'i'))}
		},
		{
			what => 'accused is only what ran when the server crashed', query => q{
			SELECT saga, seq, key, comp_crashes FROM saga.ledger_step t
			WHERE comp_crashes >= 0 AND (compensation IS NULL OR NOT EXISTS (
				SELECT FROM saga.ledger_attempt a
				WHERE a.saga = t.saga AND a.seq = t.seq AND phase = 'c' AND outcome = 'i' AND error = 'the server crashed while it ran'))}
		}
	],

	G9 => [
		'a compensation has exactly the rights of the role that registered it',
		{
			what => 'it ran as that role', needs => 'witness.effect', query => q{
			SELECT e.*, t.run_as_name FROM witness.effect e JOIN witness.step t USING (saga, seq)
			WHERE e.hand = 'sql' AND (e.role <> t.run_as_name OR e.session <> t.run_as_name)}
		},
		{
			what => 'no ledger table was granted to anybody', query => q{
			SELECT relname, relacl FROM pg_class
			WHERE relnamespace = 'saga'::regnamespace AND relname LIKE 'ledger%' AND EXISTS (
				SELECT FROM aclexplode(relacl) WHERE grantee <> relowner)}
		}
	],

	G10 => [
		'no step enters a saga whose undo has begun',
		{
			what => 'none started after the failure', clock => 1, query => q{
			SELECT t.saga, t.seq, t.key, t.started_at, e.at FROM saga.ledger_step t
			JOIN saga.ledger_event e ON e.saga = t.saga AND e.event = 'failing' AND t.started_at > e.at
			WHERE NOT EXISTS (
				SELECT FROM saga.ledger_event back WHERE back.saga = t.saga
					AND back.event IN ('reopened', 'rolled back', 'running again') AND back.at BETWEEN e.at AND t.started_at)}
		},
		{
			what => 'what completed after it was reported late', clock => 1, query => q{
			SELECT t.saga, t.seq, t.key, t.completed_at, e.at FROM saga.ledger_step t
			JOIN saga.ledger_event e ON e.saga = t.saga AND e.event = 'failing' AND t.completed_at > e.at
			WHERE NOT EXISTS (
				SELECT FROM saga.ledger_event back WHERE back.saga = t.saga
					AND (back.event IN ('reopened', 'rolled back', 'running again') AND back.at BETWEEN e.at AND t.completed_at
						OR back.event = 'late result' AND back.seq = t.seq))}
		},
		{
			what => 'a late result is with a person, or the compensation got it', query => q{
			SELECT t.saga, t.seq, t.key FROM saga.ledger_event e JOIN saga.ledger_step t USING (saga, seq)
			WHERE e.event = 'late result' AND t.status <> 'c'}
		}
	],

	G11 => [
		'a copy does not compensate until it is adopted',
		{
			what => 'a ledger knows where it is at home', query => q{
			SELECT count(*) FROM saga.ledger_home HAVING count(*) <> 1}
		},
		{
			what => 'nothing is undone where it is not', query => q{
			SELECT h.*, a.pid FROM saga.ledger_home h, pg_control_system() c, pg_database d, pg_stat_activity a
			WHERE d.datname = current_database()
				AND (h.copied OR h.system_identifier <> c.system_identifier OR h.database <> d.oid)
				AND a.backend_type = 'saga executor' AND a.datid = d.oid}
		}
	]);

=head2 guarantees($node, $database, %options)

One test for each guarantee.  Call it at the end of every test, and after every
crash.  Option C<clock_went_back>: leave out what compares times.

=head2 guarantee_violations($node, $database, %options)

The same as a list of lines, one for each row that must not be; up to ten a
query.

=cut

sub guarantee_violations
{
	my ($node, $database, %opt) = @_;
	my %violations = violations($node, $database, %opt);

	return map { @{ $violations{$_} } } sort keys %violations;
}

sub guarantees
{
	my ($node, $database, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %violations = violations($node, $database, %opt);
	my $ok = 1;

	for (my $i = 0; $i < @guarantees; $i += 2)
	{
		my $name = $guarantees[$i];
		next if !$violations{$name};
		$ok &= is(join("\n", @{ $violations{$name} }), '', "$name: $guarantees[ $i + 1 ][0]");
	}
	return $ok;
}

# By guarantee, those of which there was something to ask
sub violations
{
	my ($node, $database, %opt) = @_;
	my %violations;
	my $rows = $node->{saga_acknowledged}{ $database //= 'postgres' };

	# The views' columns are expressions, of which the planner expects few rows.
	# (What a database holds may be hostile: see 072.)
	my $script = "\\set ON_ERROR_STOP 1\nSET enable_nestloop = off;\nSET search_path = pg_catalog;\n";
	if ($rows)
	{
		$script .= "CREATE TEMP TABLE acknowledged (what text, saga uuid, key text, value text);\n"
		  . "COPY acknowledged FROM STDIN;\n"
		  . join('', map { join("\t", map { defined $_ ? s/([\\\t\n])/\\$1/gr : '\N' } @$_[ 0 .. 3 ]) . "\n" } @$rows)
		  . "\\.\n";
	}
	# One snapshot for all of them, so that a moving ledger is seen whole.
	$script .= "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n";
	for (my $i = 0; $i < @guarantees; $i += 2)
	{
		my ($words, @checks) = @{ $guarantees[ $i + 1 ] };
		foreach my $n (0 .. $#checks)
		{
			my $check = $checks[$n];
			next if $check->{clock} && $opt{clock_went_back};
			my $needs = $check->{needs} // 'saga.sagas';
			$script .= "SELECT to_regclass('$needs') IS NOT NULL AS there \\gset\n"
			  . "\\if :there\n\\echo == $guarantees[$i] $n\n"
			  . "SELECT * FROM ($check->{query}) v LIMIT 10;\n\\endif\n";
		}
	}
	$script .= "COMMIT;\n";

	my ($name, $what);
	foreach my $line (split /\n/, $node->safe_psql($database, $script))
	{
		if ($line =~ /^== (\w+) (\d+)$/)
		{
			my %checks = @guarantees;
			($name, $what) = ($1, $checks{$1}[ $2 + 1 ]{what});
			$violations{$name} //= [];
			next;
		}
		push @{ $violations{$name} }, "$name, $what: $line";
	}
	return %violations;
}

1;
