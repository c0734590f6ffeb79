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
each guarantee from G1 to G11, over the whole ledger, and from F1 to F8 for what
saga runs.  (That idle means idle, G12, no query can tell: F<054_busy_when_idle.pl>
does.)

The ledger alone cannot tell what was really done, and what was promised.  So a
test may keep two witnesses beside it, and then they must tell the same story:
effects, and acknowledgements.

=cut

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(witness acknowledged guarantees guarantee_violations guarantee_checks tell_stories);

=head1 THE WITNESSES

=head2 witness($node, %options)

Creates the schema C<witness>, whose table C<effect> is written by whatever
undoes a step, or does one.  Nothing protects that table: what is done twice is
there twice.  It is written by

=over

=item C<witness.undo($1)>

as a compensation, or in one;

=item C<witness.act($1)>

as an action, or in one: then the action's output must be what it returns;

=item C<witness.outside(context)>

by a listener, with what it claimed.  C<CALL witness.serve(channel, max, lease,
consumer)> is a whole listener: it claims, does and acknowledges, each in a
transaction of its own;

=item C<witness.by_hand(saga, key)>

by a person, in the transaction of C<saga.resolve(..., 'done', ...)>.

=back

Which steps are seen follows from patterns (LIKE): of the compensation's SQL
(C<sql>, C<%witness.undo(%>), of the action's (C<action>, C<%witness.act(%>), of the channel (C<listener>, C<witness%>), of the
words of a review (C<person>, C<witness%>).  The options of these names replace
them.  C<database>: another one than postgres.

=cut

sub witness
{
	my ($node, %opt) = @_;
	my %pattern = (
		sql => $opt{sql} // '%witness.undo(%',
		action => $opt{action} // '%witness.act(%',
		listener => $opt{listener} // 'witness%',
		person => $opt{person} // 'witness%');

	$node->safe_psql($opt{database} // 'postgres', qq{
		CREATE SCHEMA witness;
		GRANT USAGE ON SCHEMA witness TO PUBLIC;
		CREATE TABLE witness.effect (
			n bigserial, at timestamptz DEFAULT clock_timestamp(), hand text,
			saga uuid, seq bigint, key text, attempt integer, round bigint,
			role name DEFAULT current_user, session name DEFAULT session_user);
		GRANT ALL ON witness.effect TO PUBLIC;
		GRANT ALL ON SEQUENCE witness.effect_n_seq TO PUBLIC;

		-- The steps whose undo must be seen there
		CREATE VIEW witness.step AS
			SELECT t.*, coalesce(t.action LIKE '$pattern{action}', false) AS acts, CASE
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
		CREATE FUNCTION witness.act(context jsonb) RETURNS bigint LANGUAGE sql AS \$\$
			INSERT INTO witness.effect (hand, saga, seq, key, attempt, round)
			VALUES ('action', (context->'saga'->>'id')::uuid, (context->'step'->>'seq')::bigint,
				context->'step'->>'key', (context->>'attempt')::integer, (context->>'round')::bigint)
			RETURNING n \$\$;
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
which: C<begin> (saga), C<step> (saga, key), C<signal> (saga, its key), C<complete_step> (saga, key, output),
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
compares times, which says nothing if the clock was set back meanwhile.  C<idle>: it holds when all is quiet only.

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
				WHEN 'signal' THEN EXISTS (SELECT FROM saga.signals g WHERE g.saga_id = saga AND g.key = k.key)
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
			WHERE t.key IS DISTINCT FROM e.key OR CASE e.hand WHEN 'action' THEN NOT t.acts
				ELSE t.hand IS DISTINCT FROM e.hand END}
		},
		{
			what => 'nothing is undone that is to stay', needs => 'witness.effect', query => q{
			SELECT e.*, s.state FROM witness.effect e
			JOIN witness.step t USING (saga, seq) JOIN saga.ledger_saga s ON s.id = saga
			WHERE s.state IN ('r', 'd') AND t.rolled_back_at IS NULL AND e.hand <> 'action'}
		}
	],

	G3 => [
		'steps are undone in the reverse of the order in which they started',
		{
			what => 'no compensation began before every step that started later was settled', clock => 1, query => q{
			SELECT a.saga_id, a.seq, a.attempt, later.seq AS later_seq, later.compensation_status
			FROM saga.attempts a
			JOIN saga.steps one ON one.saga_id = a.saga_id AND one.seq = a.seq
			JOIN saga.steps later ON later.saga_id = a.saga_id
				AND coalesce(later.begun, later.seq) > coalesce(one.begun, one.seq)
			WHERE a.phase = 'compensation'
				-- What saga runs starts when it is begun, and not when it is recorded.
				AND CASE WHEN later.on_failure IS NULL THEN later.started_at
					ELSE later.completed_at END < a.started_at
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
				SELECT e.*, t.rolled_back_at, coalesce(t.begun, seq) AS place,
					lag(coalesce(t.begun, seq)) OVER w AS before_place, lag(t.rolled_back_at) OVER w AS before_rolled_back_at
				FROM (SELECT saga, seq, min(n) AS n FROM witness.effect WHERE hand <> 'action' GROUP BY saga, seq) e
				JOIN witness.step t USING (saga, seq)
				WHERE NOT EXISTS (
					SELECT FROM saga.ledger_event v WHERE v.saga = e.saga AND v.seq = e.seq
						AND v.event IN ('resolved', 'late result', 'late acknowledgement'))
				WINDOW w AS (PARTITION BY saga ORDER BY n)) o
			WHERE place > before_place
				AND (before_rolled_back_at IS NULL OR before_rolled_back_at = rolled_back_at)}
		},
		{
			what => 'no two steps have the same place in the start order', query => q{
			SELECT saga, coalesce(begun, seq) AS place, count(*) FROM saga.ledger_step
			GROUP BY 1, 2 HAVING count(*) > 1}
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
					AND compensation_status IN ('pending', 'running', 'dispatched'))
				-- The worker first ends what still runs of its actions.
				AND NOT EXISTS (SELECT FROM saga.ledger_saga l WHERE l.id = s.id AND runs IS NOT NULL AND lane = 0)}
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
			SELECT s.id, s.state, s.paused, h.saga FROM (SELECT * FROM saga.ledger_held WHERE seq = 0) h
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
			WHERE t.lease_until IS NOT NULL AND CASE
				WHEN t.comp_status = 'd' THEN s.due IS NULL OR s.lane <> 0 OR s.due > t.lease_until
				-- of a task, whose step is looked at by itself; but not while the saga is paused
				ELSE NOT s.paused AND NOT EXISTS (SELECT FROM saga.ledger_due d
					WHERE d.saga = t.saga AND d.lane = 0 AND (d.seq = t.seq OR d.seq < 0) AND d.due <= t.lease_until) END}
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
			what => 'no attempt goes on in a saga that is at its end', query => q{
			SELECT a.*, s.state FROM saga.attempts a JOIN saga.sagas s ON s.id = a.saga_id
			WHERE a.outcome IS NULL AND s.finished_at IS NOT NULL}
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
			what => 'the first event is the begin', clock => 1, query => q{
			SELECT saga_id, at, event, step FROM saga.events
			WHERE (position = 1) <> (event = 'begun')}
		}
	],

	G7 => [
		'a notification\'s work waits in the table until acknowledged',
		{
			what => 'the queue holds what is dispatched and not claimed, and nothing else', query => q{
			SELECT q.*, t.* FROM (SELECT * FROM saga.ledger_queue WHERE phase = 'c') q
			FULL JOIN (
				SELECT t.saga, t.seq, t.channel, s.owner, t.dispatched_at AS since, t.run, t.key FROM saga.ledger_step t
				JOIN saga.ledger_saga s ON s.id = t.saga
				WHERE comp_status = 'd' AND claimed_at IS NULL) t USING (saga, seq, channel, owner, since, run, key)
			WHERE q IS NULL OR t IS NULL}
		},
		{
			what => 'the queue holds the tasks whose gates are open and that nobody holds, and nothing else', query => q{
			SELECT q.*, t.* FROM (SELECT * FROM saga.ledger_queue WHERE phase = 'f') q
			FULL JOIN (
				SELECT t.saga, t.seq, t.task AS channel, s.owner,
					CASE t.status WHEN 'w' THEN t.ready_at ELSE t.retry_at END AS since, t.run, t.key
				FROM saga.ledger_step t
				JOIN saga.ledger_saga s ON s.id = t.saga
				WHERE t.task IS NOT NULL AND t.claimed_at IS NULL AND t.comp_status <> 'd' AND t.parked IS NULL AND t.rolled_back_at IS NULL
					AND t.ready_at IS NOT NULL
					AND (t.status = 'w' AND (t.signals IS NULL OR t.signal IS NOT NULL) AND (t.approval IS NULL OR t.approved)
						OR t.status = 'f' AND t.retry_at IS NOT NULL)) t USING (saga, seq, channel, owner, since, run, key)
			WHERE q IS NULL OR t IS NULL}
		},
		{
			what => 'one step of a saga at a time is with listeners', query => q{
			SELECT saga, count(*) FROM saga.ledger_step WHERE comp_status = 'd' GROUP BY 1 HAVING count(*) > 1}
		},
		{
			what => 'a listener holds a step for no longer than its policy allows', query => q{
			SELECT saga, seq, claimed_at, lease_until FROM saga.ledger_step
			WHERE comp_status = 'd'
				AND lease_until > claimed_at + nullif((saga.internal_policy(compensation_retry)).timeout, '0')}
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
			WHERE e.hand IN ('sql', 'action') AND (e.role <> t.run_as_name OR e.session <> t.run_as_name)}
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
				AND (h.copied OR h.restored OR h.system_identifier <> c.system_identifier OR h.database <> d.oid)
				AND a.backend_type = 'saga executor' AND a.datid = d.oid}
		}
	],

	F1 => [
		'what an action did, its mark, its output and the steps it recorded commit once, together',
		{
			what => 'an effect is there once a round', needs => 'witness.effect', query => q{
			SELECT saga, seq, key, round, count(*) FROM witness.effect
			WHERE hand = 'action' GROUP BY saga, seq, key, round HAVING count(*) > 1}
		},
		{
			what => 'an effect is there if and only if its step is marked with its round, as its attempt', needs => 'witness.effect', query => q{
			SELECT saga, seq, round, e.attempt, t.attempts, e IS NOT NULL AS effect, t IS NOT NULL AS marked
			FROM (SELECT saga, seq, attempt, round FROM witness.effect WHERE hand = 'action') e
			FULL JOIN (
				SELECT saga, seq, round, CASE WHEN status = 'c' AND round = rounds
					-- or a person did it
					AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = w.saga AND v.seq = w.seq
						AND v.event = 'resolved' AND v.detail->>'resolution' = 'done') THEN attempts END AS attempts
				FROM witness.step w CROSS JOIN generate_series(1, rounds) round WHERE acts) t USING (saga, seq, round)
			WHERE e IS NULL OR t IS NULL OR e.attempt <> t.attempts}
		},
		{
			what => 'an action that completed its step has committed a round', query => q{
			SELECT saga, seq, key, status, rounds FROM saga.ledger_step t
			WHERE action IS NULL AND rounds IS NOT NULL OR action IS NOT NULL AND status = 'c' AND rounds IS NULL
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.seq = t.seq AND v.event = 'resolved')}
		},
		{
			what => 'the output is that of the effect', needs => 'witness.effect', query => q{
			SELECT saga, seq, e.n, t.output FROM witness.effect e JOIN witness.step t USING (saga, seq)
			WHERE e.hand = 'action' AND t.status = 'c' AND e.round = t.rounds AND t.output IS DISTINCT FROM to_jsonb(e.n) AND t.content_hash IS NULL}
		},
		{
			what => 'what was recorded by an action came with its mark', query => q{
			SELECT t.saga, t.seq, t.key, t.recorded_by, b.status FROM saga.ledger_step t
			LEFT JOIN saga.ledger_step b ON b.saga = t.saga AND b.seq = t.recorded_by
			WHERE t.recorded_by IS NOT NULL AND b.status IS DISTINCT FROM 'c' AND b.rounds IS NULL}
		},
		{
			what => 'an action that succeeded is over, and no other succeeded', query => q{
			SELECT saga_id, seq, count(*) FROM saga.attempts JOIN saga.steps USING (saga_id, seq)
			WHERE phase = 'forward' AND outcome = 'succeeded' AND action IS NOT NULL
			GROUP BY saga_id, seq HAVING count(*) > 1}
		}
	],

	F2 => [
		'a step begins only when its gates are open, and never after the undo began',
		{
			what => 'no step began behind a gate', query => q{
			SELECT saga, seq, key, status, opened_at, ready_at, attempts FROM saga.ledger_step t
			WHERE give_up IS NOT NULL AND (begun IS NOT NULL OR status = 'c')
				AND (opened_at IS NULL OR ready_at IS NULL OR approval IS NOT NULL AND approved IS NOT TRUE
					-- its own row has it no more once it was redacted
					OR signals IS NOT NULL AND signal IS NULL
						AND NOT EXISTS (SELECT FROM saga.ledger_signal g WHERE g.saga = t.saga AND g.used_by = t.seq))
				-- It waits afresh since its saga went back; that it was tried once, and when, is kept.
				AND NOT (status = 'w' AND EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.at > t.attempt_at
					AND v.event IN ('reopened', 'running again', 'rolled back')))
				-- a person decided; or the saga had gone back, which takes a task off the queue, when its report came
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.seq = t.seq AND v.event IN ('resolved', 'late result'))}
		},
		{
			what => 'no gate opened before the steps that it waits for were done', clock => 1, query => q{
			WITH RECURSIVE under AS (
				SELECT saga, seq AS root, seq, completed_at FROM saga.ledger_step
				UNION ALL
				SELECT u.saga, u.root, t.seq, t.completed_at FROM under u
				JOIN saga.ledger_step t ON t.saga = u.saga AND t.recorded_by = u.seq)
			SELECT t.saga, t.seq, t.key, t.opened_at, b.key AS before, u.completed_at
			FROM saga.ledger_step t
			JOIN saga.ledger_step b ON b.saga = t.saga AND b.seq <> t.seq
				AND b.rolled_back_at IS NOT DISTINCT FROM t.rolled_back_at
				AND b.seq IS DISTINCT FROM t.recorded_by
			JOIN under u ON u.saga = b.saga AND u.root = b.seq
			WHERE t.give_up IS NOT NULL AND u.completed_at > t.opened_at
				AND CASE WHEN t.after IS NULL
					THEN b.recorded_by IS NOT DISTINCT FROM t.recorded_by AND coalesce(b.place, b.seq) < coalesce(t.place, t.seq)
					ELSE b.key = ANY (t.after) END
				-- One that was given up, and so let it pass, waits afresh when the saga goes back; what was done stays.
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga
					AND v.event IN ('reopened', 'running again', 'rolled back')
					AND v.at BETWEEN t.opened_at AND u.completed_at AND (t.completed_at <= v.at OR t.rounds > 0))
				-- late results, and what a person decided afterwards
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.event IN ('late result', 'resolved'))}
		},
		{
			what => 'no action committed that began before its time, or after the failure', clock => 1, query => q{
			SELECT t.saga, t.seq, t.key, t.ready_at, t.attempt_at, e.at FROM saga.ledger_step t
			LEFT JOIN saga.ledger_event e ON e.saga = t.saga AND e.event = 'failing' AND e.at < t.attempt_at
				AND NOT EXISTS (
					SELECT FROM saga.ledger_event back WHERE back.saga = t.saga
						AND back.event IN ('reopened', 'rolled back', 'running again') AND back.at BETWEEN e.at AND t.attempt_at)
			WHERE t.give_up IS NOT NULL AND t.status = 'c' AND (t.attempt_at < t.ready_at OR e.at IS NOT NULL)
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.seq = t.seq
					AND v.event IN ('resolved', 'late result'))}
		}
	],

	F3 => [
		'an acknowledged signal is never lost, and is used by at most one step',
		{
			what => 'what was used was used by a step that waited for it', query => q{
			SELECT g.saga, g.seq, g.name, g.used_by, t.key, t.signals FROM saga.ledger_signal g
			LEFT JOIN saga.ledger_step t ON t.saga = g.saga AND t.seq = g.used_by
			WHERE g.used_by IS NOT NULL AND (t.seq IS NULL OR g.name <> ALL (coalesce(t.signals, '{}')))}
		},
		{
			what => 'what a step got is what it used', query => q{
			SELECT t.saga, t.seq, t.key, t.signal FROM saga.ledger_step t
			WHERE t.signal IS NOT NULL AND NOT EXISTS (
				SELECT FROM saga.ledger_signal g WHERE g.saga = t.saga AND g.used_by = t.seq
					AND g.name = t.signal ->> 'signal' AND coalesce(g.payload, 'null') = t.signal -> 'payload')}
		},
		{
			what => 'a step used no second signal, unless it was to wait again', query => q{
			SELECT t.saga, t.seq, t.key, count(g.seq) FROM saga.ledger_step t
			JOIN saga.ledger_signal g ON g.saga = t.saga AND g.used_by = t.seq
			WHERE NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga
				AND v.event IN ('rolling back', 'reopened', 'running again'))
			GROUP BY t.saga, t.seq, t.key, t.signal
			HAVING count(g.seq) > 1 OR t.signal IS NULL AND NOT EXISTS (
				SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.event = 'redacted')}
		},
		{
			what => 'no step waits for a signal that is there', query => q{
			SELECT t.saga, t.seq, t.key, g.seq AS signal, g.name FROM saga.ledger_step t
			JOIN saga.ledger_saga s ON s.id = t.saga
			JOIN saga.ledger_signal g ON g.saga = t.saga AND g.used_by IS NULL AND g.name = ANY (t.signals)
			WHERE s.state = 'r' AND NOT s.paused AND t.status = 'w' AND t.signal IS NULL AND t.parked IS NULL
				AND t.rolled_back_at IS NULL AND t.ready_at IS NOT NULL
				-- which says that somebody is to look
				AND NOT EXISTS (SELECT FROM saga.ledger_due d WHERE d.saga = t.saga AND (d.seq < 0 OR d.seq = t.seq AND d.lane = 0))}
		},
		{
			what => 'no signal without its saga', query => q{
			SELECT g.saga, g.seq, g.name FROM saga.ledger_signal g
			WHERE NOT EXISTS (SELECT FROM saga.ledger_saga s WHERE s.id = g.saga)
				AND NOT EXISTS (SELECT FROM saga.ledger_due d WHERE d.saga = g.saga AND d.seq < 0)}
		}
	],

	F4 => [
		'no timer, retry or timeout fires before its time',
		{
			what => 'time opens a gate when it is due', clock => 1, query => q{
			SELECT t.saga, t.seq, t.key, t.opened_at, t.delay, t.not_before, t.ready_at FROM saga.ledger_step t
			WHERE (t.ready_at < t.opened_at + t.delay OR t.ready_at < t.not_before OR t.ready_at < t.opened_at)
			-- Its gates had been open before, when it was let run again, with all its time.
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.at = t.opened_at
					AND v.event IN ('resolved', 'reopened', 'running again', 'rolled back') AND t.ready_at >= t.opened_at)}
		},
		{
			what => 'a step is out of time when its time is over', clock => 1, query => q{
			SELECT t.saga, t.seq, t.key, t.opened_at, t.timeout, e.at FROM saga.ledger_step t
			JOIN saga.ledger_event e ON e.saga = t.saga AND e.seq = t.seq AND e.event = 'step timed out'
			-- Since then a person may have given it all its time again.
			WHERE e.at >= t.opened_at AND e.at < t.opened_at + t.timeout * interval '1 ms'}
		},
		{
			what => 'an action is tried again after its delay', clock => 1, query => q{
			SELECT * FROM (
				SELECT a.saga, a.seq, a.attempt, a.started_at, p.delay, p.jitter,
					lag(a.finished_at) OVER w AS before, lag(a.outcome) OVER w AS outcome
				FROM (
					SELECT saga, seq, attempt, started_at, finished_at,
						-- these have delays of their own
						CASE WHEN sqlstate IN ('40001', '40P01', '55P03') THEN 'i' ELSE outcome END AS outcome
					FROM saga.ledger_attempt WHERE phase = 'f'
					UNION ALL
					SELECT saga, seq, attempts, attempt_at, completed_at, 's' FROM saga.ledger_step
					WHERE action IS NOT NULL AND status = 'c') a
				JOIN saga.ledger_step t ON t.saga = a.saga AND t.seq = a.seq AND t.action IS NOT NULL
				CROSS JOIN LATERAL saga.internal_policy(coalesce(t.retry, t.compensation_retry)) p
				WHERE NOT EXISTS (SELECT FROM saga.ledger_event e WHERE e.saga = a.saga
					AND e.event IN ('resolved', 'amended', 'running again', 'rolled back'))
				WINDOW w AS (PARTITION BY a.saga, a.seq ORDER BY a.attempt)) o
			WHERE started_at < before + CASE WHEN outcome IN ('f', 't') THEN delay * (1 - jitter) * 0.99 ELSE '0' END}
		},
		{
			what => 'a saga fails at its deadline and not before', clock => 1, query => q{
			SELECT s.id, s.deadline, e.at FROM saga.ledger_saga s
			JOIN saga.ledger_event e ON e.saga = s.id AND e.event = 'failing'
			WHERE s.failure_kind = 't' AND e.at < s.deadline
			-- Since then a person let it go on, with another deadline.
				AND NOT EXISTS (SELECT FROM saga.ledger_event l WHERE l.saga = s.id AND l.at > e.at
					AND l.event IN ('reopened', 'rolling back', 'deadline set'))}
		}
	],

	F5 => [
		'what does not move says for what it waits, and nothing waits that could move',
		{
			what => 'a step that is not done says for what it waits', query => q{
			SELECT t.saga_id, t.seq, t.key, t.status, t.parked FROM saga.steps t JOIN saga.ledger_saga s ON s.id = t.saga_id
			WHERE s.state = 'r' AND t.on_failure IS NOT NULL AND t.rolled_back_at IS NULL
				AND (t.status IN ('waiting', 'started') OR t.status = 'failed' AND t.parked IS NOT NULL)
				AND coalesce(t.waits_for, '') = ''}
		},
		{
			what => 'no step waits at an open gate, no sealed saga for nothing, and no saga to fail', query => q{
			WITH RECURSIVE live AS (
				SELECT t.*, coalesce(t.place, t.seq) AS at FROM saga.ledger_step t JOIN saga.ledger_saga s ON s.id = t.saga
				WHERE s.state = 'r' AND NOT s.paused AND s.runs IS NOT NULL AND t.rolled_back_at IS NULL
					-- which says that somebody is to look
					AND NOT EXISTS (SELECT FROM saga.ledger_due d WHERE d.saga = s.id AND d.seq < 0)),
			open AS (
				SELECT saga, seq, key, recorded_by, at FROM live
				WHERE NOT (status IN ('c', 'k') OR status = 'f' AND retry_at IS NULL AND parked IS NULL AND give_up = 's')
				UNION
				SELECT l.saga, l.seq, l.key, l.recorded_by, l.at FROM open o
				JOIN live l ON l.saga = o.saga AND l.seq = o.recorded_by),
			first AS (
				SELECT saga, coalesce(recorded_by, 0) AS recorded_by, min(at) AS at FROM open GROUP BY 1, 2)
			SELECT 'its gate is open' AS why, l.saga, l.seq, l.key FROM live l
			LEFT JOIN first f ON f.saga = l.saga AND f.recorded_by = coalesce(l.recorded_by, 0)
			WHERE l.status = 'w' AND l.opened_at IS NULL AND l.parked IS NULL AND CASE
				WHEN l.after IS NULL THEN f.at IS NOT NULL AND f.at >= l.at
				ELSE NOT EXISTS (
					SELECT FROM unnest(l.after) k
					WHERE EXISTS (SELECT FROM open o WHERE o.saga = l.saga AND o.key = k AND o.seq IS DISTINCT FROM l.recorded_by)
						OR NOT EXISTS (SELECT FROM live b WHERE b.saga = l.saga AND b.key = k)) END
			UNION ALL
			SELECT 'its saga is to fail', saga, seq, key FROM live
			WHERE status = 'f' AND retry_at IS NULL AND parked IS NULL AND give_up = 'f'
			UNION ALL
			SELECT 'all is done', s.id, NULL, NULL FROM saga.ledger_saga s
			WHERE s.runs = 's' AND s.state = 'r' AND NOT s.paused
				AND EXISTS (SELECT FROM live WHERE saga = s.id) AND NOT EXISTS (SELECT FROM open WHERE saga = s.id)}
		},
		{
			what => 'the due work of steps is what they say', query => q{
			WITH said AS (
				SELECT t.*, s.state, s.paused,
					CASE WHEN action IS NOT NULL AND t.parked IS NULL AND rolled_back_at IS NULL AND ready_at IS NOT NULL THEN
						CASE status WHEN 'w' THEN CASE WHEN through THEN ready_at END
							WHEN 's' THEN retry_at WHEN 'f' THEN retry_at END END AS work,
					CASE WHEN (status IN ('w', 's') OR status = 'f' AND retry_at IS NOT NULL)
						AND t.parked IS NULL AND rolled_back_at IS NULL THEN opened_at + t.timeout * interval '1 ms' END AS out_of_time
				FROM (SELECT *, (signals IS NULL OR signal IS NOT NULL) AND (approval IS NULL OR approved IS TRUE) AS through
					FROM saga.ledger_step WHERE give_up IS NOT NULL) t
				JOIN saga.ledger_saga s ON s.id = t.saga),
			due AS (
				SELECT saga, seq, run, key, run_as AS lane, work AS due, state = 'r' AS sure FROM said WHERE work IS NOT NULL
				UNION ALL
				-- A look takes away those that were due.
				SELECT saga, seq, run, key, 0, out_of_time, false FROM said WHERE out_of_time IS NOT NULL
				UNION ALL
				SELECT saga, seq, run, key, 0, ready_at, state = 'r' AND NOT paused AND ready_at > now() FROM said
				WHERE status = 'w' AND parked IS NULL AND rolled_back_at IS NULL AND ready_at > opened_at
					AND ready_at IS DISTINCT FROM out_of_time AND (action IS NULL OR NOT through)
				UNION ALL
				-- the end of a claim of a task, and when it may be claimed again
				SELECT saga, seq, run, key, 0, at, state = 'r' AND NOT paused AND at > now() FROM (
					SELECT *, CASE WHEN claimed_at IS NOT NULL THEN lease_until WHEN status = 'f' THEN retry_at END AS at FROM said
					WHERE task IS NOT NULL AND comp_status IS DISTINCT FROM 'd' AND parked IS NULL AND rolled_back_at IS NULL) tasks
				WHERE at IS DISTINCT FROM out_of_time AND at IS NOT NULL)
			SELECT * FROM (SELECT saga, seq, run, key, lane, due FROM saga.ledger_due WHERE seq > 0) d
			FULL JOIN due USING (saga, seq, run, key, lane, due)
			WHERE d IS NULL AND sure OR due.sure IS NULL}
		},
		{
			what => 'a timer that is to come is set', clock => 1, query => q{
			SELECT t.saga, t.seq, t.key, t.opened_at, t.timeout FROM saga.ledger_step t JOIN saga.ledger_saga s ON s.id = t.saga
			WHERE s.state = 'r' AND (t.status = 'w' OR t.status = 'f' AND t.retry_at IS NOT NULL) AND t.parked IS NULL
				AND t.rolled_back_at IS NULL
				AND t.opened_at + t.timeout * interval '1 ms' > now() + interval '1 day'
				AND NOT EXISTS (SELECT FROM saga.ledger_due d WHERE d.saga = t.saga AND d.seq = t.seq AND d.lane = 0
					AND d.due = t.opened_at + t.timeout * interval '1 ms')}
		},
		{
			what => 'what a look or a timer asks for is asked of the worker', query => q{
			SELECT * FROM saga.ledger_due WHERE seq < 0 AND (lane <> 0 OR key IS NOT NULL OR run IS NOT NULL AND run <> 0)}
		},
		{
			what => 'a step that a person holds is known as such, and nothing else', query => q{
			SELECT t.*, h.* FROM (SELECT * FROM saga.ledger_held WHERE seq <> 0) h
			FULL JOIN (
				SELECT saga, seq FROM saga.ledger_step
				WHERE give_up IS NOT NULL AND parked IS NOT NULL AND rolled_back_at IS NULL) t USING (saga, seq)
			WHERE t IS NULL OR h IS NULL}
		},
		{
			what => 'when all is quiet, nothing is due', idle => 1, query => q{
			SELECT d.* FROM saga.ledger_due d JOIN saga.ledger_saga s ON s.id = d.saga
			WHERE d.seq <> 0 AND d.due <= now() AND s.state = 'r' AND NOT s.paused}
		}
	],

	F6 => [
		'a failed deployment or another\'s crash undoes nothing and charges nobody',
		{
			what => 'what a deployment broke is with a person', query => q{
			SELECT t.saga, t.seq, t.key, t.sqlstate, s.state FROM saga.ledger_step t JOIN saga.ledger_saga s ON s.id = t.saga
			WHERE t.action IS NOT NULL AND t.status = 'f' AND s.state = 'r'
				AND (t.sqlstate LIKE '42%' OR t.sqlstate IN ('0A000', 'SG009')) AND t.parked IS NULL
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.seq = t.seq AND v.event = 'resolved')}
		},
		{
			what => 'no saga failed for it, or for a crash', query => q{
			SELECT s.id, s.failure_kind, s.failed_seq, t.key, t.sqlstate, t.crashes FROM saga.ledger_saga s
			JOIN saga.ledger_step t ON t.saga = s.id AND t.seq = s.failed_seq
			WHERE s.failure_kind = 'f' AND t.action IS NOT NULL AND t.status = 'f'
				-- and not for what somebody said who failed it meanwhile
				AND s.reason = t.error
				AND (t.sqlstate LIKE '42%' OR t.sqlstate IN ('0A000', 'SG009') OR t.crashes >= 3)
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga
					AND v.event IN ('resolved', 'reopened'))}
		},
		{
			what => 'charged are attempts that failed or timed out', query => q{
			SELECT saga, seq, key, charged FROM saga.ledger_step t
			WHERE charged > (
				SELECT count(*) FILTER (WHERE outcome IN ('f', 't')) + greatest(count(*) FILTER (WHERE outcome = 'i') - 50, 0)
				FROM saga.ledger_attempt a WHERE a.saga = t.saga AND a.seq = t.seq AND phase = 'f')}
		},
		{
			what => 'given up for crashes is what was alone at three', query => q{
			SELECT saga, seq, key, parked, crashes FROM saga.ledger_step t
			WHERE action IS NOT NULL AND parked LIKE 'the server crashed%' AND parked LIKE '%action ran'
				AND (crashes < 3 OR 3 > (
					SELECT count(*) FROM saga.ledger_attempt a
					WHERE a.saga = t.saga AND a.seq = t.seq AND phase = 'f' AND outcome = 'i'))}
		},
		{
			what => 'accused is only what ran when the server crashed', query => q{
			SELECT saga, seq, key, crashes FROM saga.ledger_step t
			WHERE crashes >= 0 AND (action IS NULL OR NOT EXISTS (
				SELECT FROM saga.ledger_attempt a
				WHERE a.saga = t.saga AND a.seq = t.seq AND phase = 'f' AND outcome = 'i' AND error = 'the server crashed while it ran'))}
		}
	],

	F7 => [
		'the undo is the exact reverse of the order in which steps began',
		{
			what => 'what saga completed has a place in that order, of its own', query => q{
			SELECT t.saga, t.seq, t.key, t.begun, t.status FROM saga.ledger_step t
			WHERE give_up IS NOT NULL AND (status = 'c' AND begun IS NULL
					AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.seq = t.seq AND v.event = 'resolved')
				OR begun <= seq OR EXISTS (
					SELECT FROM saga.ledger_step o WHERE o.saga = t.saga AND o.seq <> t.seq AND t.begun IN (o.seq, o.begun)))
			UNION ALL
			SELECT saga, seq, key, begun, status FROM saga.ledger_step WHERE give_up IS NULL AND begun IS NOT NULL}
		},
		{
			what => 'the rounds of an action followed one another', needs => 'witness.effect', query => q{
			SELECT * FROM (
				SELECT saga, seq, round, n, lag(n) OVER w AS before, lag(round) OVER w AS round_before
				FROM witness.effect WHERE hand = 'action' WINDOW w AS (PARTITION BY saga, seq ORDER BY round)) o
			WHERE n < before OR round <> coalesce(round_before, 0) + 1}
		},
		{
			what => 'what an action recorded began after it', query => q{
			SELECT t.saga, t.seq, t.key, t.begun, b.begun AS by FROM saga.ledger_step t
			JOIN saga.ledger_step b ON b.saga = t.saga AND b.seq = t.recorded_by
			WHERE b.begun IS NOT NULL AND coalesce(t.begun, t.seq) < b.begun}
		},
		{
			what => 'nothing is undone that never began', query => q{
			SELECT a.saga, a.seq, t.key FROM saga.ledger_attempt a JOIN saga.ledger_step t USING (saga, seq)
			WHERE a.phase = 'c' AND t.give_up IS NOT NULL AND t.begun IS NULL AND NOT coalesce(t.late, false)
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = t.saga AND v.seq = t.seq AND v.event IN ('resolved', 'late result'))}
		},
		{
			what => 'effects were undone in the reverse of the order in which they were made', needs => 'witness.effect', query => q{
			SELECT * FROM (
				SELECT u.saga, u.seq, u.n, d.n AS done, lag(d.n) OVER w AS before_done, t.rolled_back_at,
					lag(t.rolled_back_at) OVER w AS before_rolled_back_at,
					t.begun < lag(t.begun) OVER w AS ordered
				FROM witness.effect u JOIN witness.effect d ON d.saga = u.saga AND d.seq = u.seq AND d.hand = 'action' AND d.round = 1
				JOIN witness.step t ON t.saga = u.saga AND t.seq = u.seq
				WHERE u.hand = 'sql' AND NOT EXISTS (
					SELECT FROM saga.ledger_event v WHERE v.saga = u.saga AND v.seq = u.seq
						AND v.event IN ('resolved', 'late result', 'late acknowledgement'))
				WINDOW w AS (PARTITION BY u.saga ORDER BY u.n)) o
			WHERE NOT ordered AND before_rolled_back_at IS NOT DISTINCT FROM rolled_back_at}
		},
		{
			what => 'what was done is undone, once the saga is', needs => 'witness.effect', query => q{
			SELECT d.saga, d.seq, d.key, s.state FROM witness.effect d
			JOIN witness.step t USING (saga, seq) JOIN saga.ledger_saga s ON s.id = d.saga
			WHERE d.hand = 'action' AND t.hand = 'sql' AND s.state = 'c'
				AND NOT EXISTS (SELECT FROM witness.effect u WHERE u.saga = d.saga AND u.seq = d.seq AND u.hand = 'sql')
				AND NOT EXISTS (SELECT FROM saga.ledger_step l WHERE l.saga = d.saga AND l.seq = d.seq AND l.kind = 'r')
				AND NOT EXISTS (SELECT FROM saga.ledger_event v WHERE v.saga = d.saga AND v.seq = d.seq AND v.event = 'resolved')}
		}
	],

	F8 => [
		'nothing changes what is recorded, and a copy runs nothing forward before it is adopted',
		{
			what => 'an action ran as the role that recorded it', needs => 'witness.effect', query => q{
			SELECT e.*, t.run_as_name FROM witness.effect e JOIN witness.step t USING (saga, seq)
			WHERE e.hand = 'action' AND (e.role <> t.run_as_name OR e.session <> t.run_as_name)}
		},
		{
			what => 'no step came to a sealed saga from outside', clock => 1, query => q{
			SELECT t.saga, t.seq, t.key, t.started_at, e.at FROM saga.ledger_step t
			JOIN saga.ledger_event e ON e.saga = t.saga AND e.event = 'sealed' AND t.started_at > e.at
			WHERE t.recorded_by IS NULL AND t.place IS NULL}
		},
		{
			what => 'every step of saga\'s is in a saga that knows it', query => q{
			SELECT t.saga, t.seq, t.key FROM saga.ledger_step t JOIN saga.ledger_saga s ON s.id = t.saga
			WHERE t.give_up IS NOT NULL AND s.runs IS NULL}
		}
	]);

=head2 guarantees($node, $database, %options)

One test for each guarantee.  Call it at the end of every test, and after every
crash.  Option C<clock_went_back>: leave out what compares times; C<idle>: all is
quiet, so that nothing may be due.

=head2 guarantee_violations($node, $database, %options), tell_stories($node, $database, @violations)

The same as a list of lines, one for each row that must not be; up to ten a
query.  Tells all that the ledger knows of the first sagas that such lines name.

=head2 guarantee_checks()

What each query looks for, as such a line begins.

=cut

sub guarantee_checks
{
	my @checks;

	for (my $i = 0; $i < @guarantees; $i += 2)
	{
		my ($words, @queries) = @{ $guarantees[ $i + 1 ] };
		push @checks, map { "$guarantees[$i], $_->{what}: " } @queries;
	}
	return @checks;
}

sub guarantee_violations
{
	my ($node, $database, %opt) = @_;
	my %violations = violations($node, $database, %opt);

	return map { @{ $violations{$_} } } sort keys %violations;
}

sub tell_stories
{
	my ($node, $database, @violations) = @_;
	my %seen;
	my @sagas = grep { !$seen{$_}++ } map { /\b([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b/g } @violations;

	my $story = slurp_file("$FindBin::RealBin/../../story.sql");
	foreach my $saga (splice @sagas, 0, 3)
	{
		diag($node->safe_psql($database // 'postgres', "\\set schema pg_temp\n$story SELECT * FROM pg_temp.story('$saga')"));
	}
	return;
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
	tell_stories($node, $database, map { @$_ } values %violations) if !$ok;
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
			next if $check->{idle} && !$opt{idle};
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
	die "database $database has no ledger to look at" if !%violations;
	return %violations;
}

1;
