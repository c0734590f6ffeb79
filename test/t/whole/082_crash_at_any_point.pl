# Every boundary of a commit, in every call and in each of our processes, for
# compensations by SQL, by a listener and by a person: what fails there, is
# killed there, or stands still there.
#
# A call is part of its client's transaction.  Whatever comes between its first
# write and the commit leaves nothing of it, and it can be called again; what
# comes after the commit takes nothing of it back.  While it stands still,
# everyone else's work goes on.
#
# Many sessions stand at their points at a time, so that one crash serves for all.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'needs the test build' if !is_test_build();

# --- No fault point is left out

my @processes = map { "executor.$_" } qw(before_inflight after_inflight before_mark before_commit after_commit before_record_failure);
push @processes, map { "worker.$_" } qw(before_turn before_commit after_commit);
my @calls = qw(table.write_%d transaction.before_commit transaction.after_commit transaction.before_prepare transaction.after_prepare);
{
	my %there;
	my $source = "$FindBin::RealBin/../../../src";
	foreach my $file (glob "$source/*/*.c")
	{
		my $text = slurp_file($file);
		$there{$1} = 1 while $text =~ /SAGA_FAULT\("([^"]+)"\)/g;
		next if $file !~ /fault\.c$/;
		$there{$1} = 1 while $text =~ /saga_fault_reach\("([^"]+)"\)/g;
		$there{$1} = 1 while $text =~ /snprintf\(name, sizeof\(name\), "([^"]+)"/g;
	}
	is(join(' ', grep { !$there{$_} } @processes, @calls), '', 'the fault points are where they are looked for');
	delete $there{$_} foreach @processes, @calls;

	# The others are in other tests.
	my %tests = map { $_ => slurp_file($_) } grep { !/082_/ } glob "$FindBin::RealBin/../*/*.pl";
	foreach my $point (sort keys %there)
	{
		my @in = grep { $tests{$_} =~ /\Q$point\E/ } sort keys %tests;
		ok(scalar @in, "fault point $point is in a test");
	}
}

my $node = saga_cluster('main', conf => join "\n",
	'restart_after_crash = on', 'autovacuum = off', 'max_connections = 150', 'log_statement = none',
	'max_prepared_transactions = 20', 'saga.executor_idle_timeout = 1h', '');
witness($node);
$node->safe_psql('postgres', q{
	CREATE ROLE heir;

	-- One step of a kind
	CREATE FUNCTION add(id uuid, key text, kind text, done boolean DEFAULT true, step_kind text DEFAULT 'compensatable') RETURNS void
	LANGUAGE plpgsql AS $$
	BEGIN
		IF kind = 'none' THEN
			PERFORM saga.step(id, key, completed => done, kind => step_kind);
		ELSE
			PERFORM saga.step(id, key, completed => done, args => to_jsonb(key), kind => step_kind,
				compensation => CASE WHEN kind IN ('sql', 'released') THEN 'SELECT witness.undo($1)' END,
				notify => CASE WHEN kind = 'listener' THEN 'witness' WHEN kind LIKE 'witness%' THEN kind END,
				review => CASE WHEN kind IN ('person', 'released') THEN 'witness: look at it' END,
				compensation_retry => saga.retry_policy(max_attempts => 1000, delay => '10 ms', backoff => 'constant', jitter => 0, timeout => '1 day'));
		END IF;
	END $$;
	-- A saga with steps a, b, c ... of these kinds; the last one perhaps open
	CREATE FUNCTION make(key text, kinds text[], done boolean DEFAULT true) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := saga.begin('order', key);
	BEGIN
		FOR i IN 1 .. cardinality(kinds) LOOP
			PERFORM add(id, chr(96 + i), kinds[i], done OR i < cardinality(kinds));
		END LOOP;
		RETURN id;
	END $$;
	-- By its key: a saga; of that, what is known of a step, and whether something happened
	CREATE FUNCTION s(key text) RETURNS uuid LANGUAGE sql AS
		$$ SELECT id FROM saga.sagas WHERE idempotency_key = $1 $$;
	CREATE FUNCTION step(key text, step text) RETURNS saga.ledger_step LANGUAGE sql AS
		$$ SELECT t FROM saga.ledger_step t WHERE saga = s($1) AND t.key = $2 ORDER BY run DESC LIMIT 1 $$;
	CREATE FUNCTION happened(key text, what text) RETURNS boolean LANGUAGE sql AS
		$$ SELECT EXISTS (SELECT FROM saga.ledger_event WHERE saga = s($1) AND event = $2) $$;
	CREATE FUNCTION ckey(key text, step text) RETURNS text LANGUAGE sql AS
		$$ SELECT compensation_key FROM saga.steps WHERE saga_id = s($1) AND steps.key = $2 $$;
	CREATE FUNCTION claim(key text) RETURNS jsonb LANGUAGE sql AS
		$$ SELECT context FROM saga.claim_compensations('witness ' || key, 1, '1 hour', 'matrix') $$;
	-- All that the ledger knows of a saga
	CREATE FUNCTION digest(id uuid) RETURNS text LANGUAGE sql AS $$
		SELECT md5(string_agg(r, '' ORDER BY r)) FROM (
			SELECT s::text FROM saga.ledger_saga s WHERE s.id = $1
			UNION ALL SELECT t::text FROM saga.ledger_step t WHERE saga = $1
			UNION ALL SELECT a::text FROM saga.ledger_attempt a WHERE saga = $1
			UNION ALL SELECT e::text FROM saga.ledger_event e WHERE saga = $1
			UNION ALL SELECT d::text FROM saga.ledger_due d WHERE saga = $1
			UNION ALL SELECT q::text FROM saga.ledger_queue q WHERE saga = $1) x(r) $$;});

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Writes to the file, and lets those go that wait by a setting of their own.
sub release { set_faults($node, 'release'); return; }

# ------------------------------------------------------------------ the calls
#
# For each: what makes a saga for it under the key K and leaves it where nobody
# else touches it; the call; whether it had its effect; and perhaps what must be
# so before it is called, and what is done then.

sub call
{
	my ($make, $call, $there, $ready, $then) = @_;
	return { make => $make, call => $call, there => $there, ready => $ready, then => $then };
}

my $dispatched = q{SELECT make('K', '{sql, witness K}'); SELECT saga.fail(s('K'))};
my $is_dispatched = q{SELECT count(*) = 1 FROM saga.ledger_queue WHERE saga = s('K')};
my $is_parked = q{SELECT state = 'p' FROM saga.ledger_saga WHERE id = s('K')};
my $failing = q{SELECT happened('K', 'failing')};
my %calls = (
	'begin' => call('SELECT 1', q{SELECT saga.begin('order', 'K', timeout => '1 day')}, q{SELECT s('K') IS NOT NULL}),
	'step' => call(q{SELECT make('K', '{sql, listener, person}')},
		q{SELECT add(s('K'), 'd', 'sql', false)}, q{SELECT (step('K', 'd')).status = 's'}),
	'step again' => call(q{SELECT make('K', '{person, sql, listener}', false)},
		q{SELECT add(s('K'), 'c', 'listener', false)}, q{SELECT (step('K', 'c')).attempts = 2}),
	'step completed' => call(q{SELECT make('K', '{listener, person, sql}')},
		q{SELECT add(s('K'), 'd', 'listener')}, q{SELECT (step('K', 'd')).status = 'c'}),
	'complete_step' => call(q{SELECT make('K', '{sql, person, listener}', false)},
		q{SELECT saga.complete_step(s('K'), 'c', '1')}, q{SELECT (step('K', 'c')).output = '1'}),
	'complete_step late' => call(q{SELECT make('K', '{sql, listener}', false); SELECT add(s('K'), 'c', 'person'); SELECT saga.fail(s('K'))},
		q{SELECT saga.complete_step(s('K'), 'b', '1', late => 'record')}, q{SELECT happened('K', 'late result')}, $is_parked),
	'fail_step' => call(q{SELECT make('K', '{listener, sql, person}', false)},
		q{SELECT saga.fail_step(s('K'), 'c', 'no')}, q{SELECT (step('K', 'c')).status = 'f'}),
	'complete' => call(q{SELECT make('K', '{sql, listener, person}')},
		q{SELECT saga.complete(s('K'), '1')}, q{SELECT state = 'd' FROM saga.ledger_saga WHERE id = s('K')}),
	'fail, SQL' => call(q{SELECT make('K', '{person, listener, sql}')}, q{SELECT saga.fail(s('K'), 'why')}, $failing),
	'fail, listener' => call(q{SELECT make('K', '{person, sql, listener}')}, q{SELECT saga.fail(s('K'), 'why')}, $failing),
	'fail, person' => call(q{SELECT make('K', '{sql, listener, person}')}, q{SELECT saga.fail(s('K'), 'why')}, $failing),
	'fail, nothing to undo' => call(q{SELECT make('K', '{none}')}, q{SELECT saga.fail(s('K'), 'why')}, $failing),
	'cancel' => call(q{SELECT make('K', '{listener, person, sql}', false)}, q{SELECT saga.cancel(s('K'))}, $failing),
	'rollback_to, SQL' => call(q{SELECT make('K', '{person, listener, sql}')},
		q{SELECT saga.rollback_to(s('K'), 'b', 'why')}, q{SELECT happened('K', 'rolling back')}),
	'rollback_to, listener' => call(q{SELECT make('K', '{sql, listener}')},
		q{SELECT saga.rollback_to(s('K'), 'a', 'why')}, q{SELECT happened('K', 'rolling back')}),
	'rollback_to, person' => call(q{SELECT make('K', '{sql, listener, person}')},
		q{SELECT saga.rollback_to(s('K'), 'a', 'why')}, q{SELECT happened('K', 'rolling back')}),
	'resolve retry' => call(q{SELECT make('K', '{listener, sql, released}'); SELECT saga.fail(s('K'))},
		q{SELECT saga.resolve(s('K'), 'c', 'retry', 'why')}, q{SELECT happened('K', 'resolved')}, $is_parked),
	'resolve done' => call(q{SELECT make('K', '{listener, sql, person}'); SELECT saga.fail(s('K'))},
		q{SELECT witness.by_hand(s('K'), 'c'), saga.resolve(s('K'), 'c', 'done', 'why')}, q{SELECT happened('K', 'resolved')}, $is_parked),
	'resolve skip' => call(q{SELECT make('K', '{sql, listener, person}'); SELECT saga.fail(s('K'))},
		q{SELECT saga.resolve(s('K'), 'c', 'skip', 'why')}, q{SELECT happened('K', 'resolved')}, $is_parked),
	'set_timeout' => call(q{SELECT make('K', '{listener, sql, person}')}, q{SELECT saga.set_timeout(s('K'), '1 day')},
		q{SELECT happened('K', 'deadline set')}),
	'amend' => call(q{SELECT make('K', '{listener, sql, person}')},
		q{SELECT saga.amend(s('K'), 'b', 'why', compensation => (step('K', 'b')).compensation || ' ')}, q{SELECT happened('K', 'amended')}),
	'amend, dispatched' => call($dispatched, q{SELECT saga.amend(s('K'), 'b', 'why', notify => 'witness')},
		q{SELECT happened('K', 'amended')}, $is_dispatched),
	'abandon' => call(q{SELECT make('K', '{sql, listener, person}'); SELECT saga.fail(s('K'))},
		q{SELECT saga.abandon(s('K'), 'why')}, q{SELECT happened('K', 'abandoned')}, $is_parked),
	'reopen' => call(q{SELECT make('K', '{sql, listener}'); SELECT add(s('K'), 'c', 'sql', true, 'pivot'); SELECT saga.fail(s('K'))},
		q{SELECT saga.reopen(s('K'), 'why')}, q{SELECT happened('K', 'reopened')}),
	'pause' => call(q{SELECT make('K', '{sql, listener, person}')},
		q{SELECT saga.pause(s('K'), 'why')}, q{SELECT happened('K', 'paused')}),
	'resume' => call(q{SELECT make('K', '{sql, person, listener}'); SELECT saga.pause(s('K'), 'why'); SELECT saga.fail(s('K'))},
		q{SELECT saga.resume(s('K'))}, q{SELECT happened('K', 'resumed')}),
	'claim' => call($dispatched, q{SELECT claim('K') IS NOT NULL}, q{SELECT (step('K', 'b')).claimed_at IS NOT NULL}, $is_dispatched),
	'extend' => call($dispatched, q{SELECT saga.extend_claim(ckey('K', 'b'), 1, '2 hours')},
		q{SELECT (t).lease_until > (t).claimed_at + interval '90 minutes' FROM step('K', 'b') t}, $is_dispatched, q{SELECT claim('K')}),
	# It did what it reports: a report that is lost does not undo that.
	'complete_compensation' => call($dispatched, q{SELECT saga.complete_compensation(ckey('K', 'b'), '1')},
		q{SELECT (step('K', 'b')).comp_status = 'c'}, $is_dispatched, q{SELECT witness.outside(claim('K'))}),
	'fail_compensation' => call($dispatched, q{SELECT saga.fail_compensation(ckey('K', 'b'), 1, 'no', retry_after => '10 ms')},
		q{SELECT (step('K', 'b')).comp_charged = 1}, $is_dispatched, q{SELECT claim('K')}),
	'redact' => call(q{SELECT make('K', '{none, none}'); SELECT saga.complete(s('K'))},
		q{SELECT saga.redact(s('K'))}, q{SELECT happened('K', 'redacted')}),
	'purge' => call(q{CREATE ROLE "K"; GRANT USAGE ON SCHEMA saga TO "K"; SET ROLE "K"; SELECT saga.complete(saga.begin('order', 'K'))},
		q{SET ROLE "K"; SELECT saga.purge('0')}, q{SELECT s('K') IS NULL}),
	'reassign' => call(q{CREATE ROLE "K"; GRANT USAGE ON SCHEMA saga TO "K"; SET ROLE "K"; SELECT saga.begin('order', 'K')},
		q{SELECT saga.reassign('"K"'::regrole, 'heir')}, q{SELECT owner = 'heir'::regrole FROM saga.ledger_saga WHERE id = s('K')}),
	'fail, prepared' => call(q{SELECT make('K', '{listener, person, sql}')}, q{SELECT saga.fail(s('K'))}, $failing),
	'step, prepared' => call(q{SELECT make('K', '{listener, person, sql}')},
		q{SELECT add(s('K'), 'd', 'sql')}, q{SELECT (step('K', 'd')).status = 'c'}));

# What G1 is to remember of a call that was acknowledged
my %acknowledged = (
	'begin' => ['begin'], 'step' => [ 'step', 'd' ], 'step completed' => [ 'complete_step', 'd' ],
	'complete_step' => [ 'complete_step', 'c', '1' ], 'complete_step late' => [ 'complete_step', 'b', '1' ],
	'fail_step' => [ 'fail_step', 'c' ], 'complete' => ['complete'],
	(map { $_ => ['fail'] } 'fail, SQL', 'fail, listener', 'fail, person', 'fail, nothing to undo', 'fail, prepared'),
	'cancel' => ['cancel'], (map { ("rollback_to, $_" => [ 'event', 'rolling back' ]) } 'SQL', 'listener', 'person'),
	(map { ("resolve $_" => [ 'event', 'resolved' ]) } qw(retry done skip)),
	'set_timeout' => [ 'event', 'deadline set' ],
	'amend' => [ 'event', 'amended' ], 'amend, dispatched' => [ 'event', 'amended' ],
	'abandon' => [ 'event', 'abandoned' ], 'reopen' => [ 'event', 'reopened' ], 'pause' => [ 'event', 'paused' ],
	'resume' => [ 'event', 'resumed' ], 'redact' => [ 'event', 'redacted' ],
	'complete_compensation' => [ 'complete_compensation', 'b' ], 'fail_compensation' => [ 'fail_compensation', 'b' ],
	'step, prepared' => [ 'step', 'd' ]);

# Sagas for calls of these names, ready to be called
my $count = 0;
sub prepare
{
	my @ready = map { { name => $_, key => 'k' . ++$count } } @_;

	foreach my $one (@ready)
	{
		my $call = $calls{ $one->{name} };
		$one->{$_} = ($call->{$_} // '') =~ s/\bK\b/$one->{key}/gr foreach keys %$call;
	}
	sql("\\o /dev/null\n" . join '', map { "$_->{make};\nRESET ROLE;\n" } @ready);
	wait_until($node, $_) foreach grep { $_ ne '' } map { $_->{ready} } @ready;
	sql(join '', "\\o /dev/null\n", map { "$_;\n" } grep { $_ ne '' } map { $_->{then} } @ready);
	my %id = map { split /\|/ } split /\n/, sql(q{SELECT key, id FROM saga.ledger_saga WHERE key IS NOT NULL});
	$_->{id} = $id{ $_->{key} } // '00000000-0000-0000-0000-000000000000' foreach @ready;
	my $digest = digests(@ready);
	$_->{before} = $digest->{ $_->{id} } // '' foreach @ready;
	return @ready;
}

sub digests
{
	my $ids = join ',', map { $_->{id} } @_;
	return { map { (split /\|/, $_, -1)[ 0, 1 ] } split /\n/, sql("SELECT id, digest(id) FROM unnest('{$ids}'::uuid[]) id") };
}

# The names of those that the calls changed or began, and of those that did not have their effect
sub changed
{
	return '' if !@_;
	my $digest = digests(@_);
	my %there = map { $_ => 1 } split /\n/, sql('SELECT key FROM saga.ledger_saga WHERE key IS NOT NULL');
	return join ', ', map { $_->{name} . ($_->{point} ? " at $_->{point}" : '') }
	  grep { $_->{name} eq 'begin' ? $there{ $_->{key} } : ($digest->{ $_->{id} } // '') ne $_->{before} } @_;
}

sub missing
{
	return '' if !@_;
	my %there = map { split /\|/ } split /\n/, sql(join ' UNION ALL ', map { "SELECT '$_->{key}', ($_->{there})" } @_);
	return join ', ', map { $_->{name} . ($_->{point} ? " at $_->{point}" : '') } grep { ($there{ $_->{key} } // '') ne 't' } @_;
}

sub remember
{
	foreach my $one (@_)
	{
		my $what = $acknowledged{ $one->{name} } or next;
		my ($id) = $one->{name} eq 'begin' ? sql("SELECT s('$one->{key}')") : $one->{id};
		acknowledged($node, $what->[0], $id, @$what[ 1 .. $#$what ]);
	}
	return;
}

# Undoes everything that is not at its end, as its listeners and a person.
sub finish
{
	sql(q{
		\o /dev/null
		SELECT saga.resume(id) FROM saga.sagas WHERE paused;
		SELECT saga.complete(id) FROM saga.sagas WHERE state = 'running' AND EXISTS (
			SELECT FROM saga.steps WHERE saga_id = id AND kind = 'pivot');
		SELECT saga.fail(id) FROM saga.sagas WHERE state = 'running'});
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $open = sql(q{
			\o /dev/null
			-- What somebody claimed and was killed, is done, once.
			SELECT witness.note('listener', jsonb_build_object('saga', jsonb_build_object('id', saga_id),
				'step', jsonb_build_object('seq', seq, 'key', step), 'attempt', attempt))
			FROM saga.pending_compensations p WHERE claimed_at IS NOT NULL AND NOT EXISTS (
				SELECT FROM witness.effect e WHERE e.saga = p.saga_id AND e.seq = p.seq);
			SELECT saga.complete_compensation(compensation_key) FROM saga.pending_compensations WHERE claimed_at IS NOT NULL;
			SELECT format('CALL witness.serve(%L)', channel) FROM (SELECT DISTINCT channel FROM saga.ledger_queue) q \gexec
			SELECT CASE WHEN t.compensation IS NULL THEN witness.by_hand(q.saga_id, q.step) END,
				saga.resolve(q.saga_id, q.step, CASE WHEN t.compensation IS NULL THEN 'done' ELSE 'retry' END, 'why')
			FROM saga.review_queue q JOIN saga.steps t USING (saga_id, seq);
			\o
			SELECT count(*) FROM saga.ledger_saga WHERE state IN ('u', 'p')});
		return pass('everything comes to its end') if $open eq '0';
		usleep(50_000);
	}
	return fail('something does not come to its end: ' . sql(q{
		SELECT string_agg(concat_ws(' ', idempotency_key, state, next_action), E'\n') FROM saga.sagas WHERE state IN ('compensating', 'needs_review')}));
}

# Everyone else's work
my $others = 0;
sub others_work
{
	my ($what) = @_;
	my $key = 'other ' . ++$others;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	sql(qq{
		\\o /dev/null
		SELECT make('$key', '{sql, listener, person}', false);
		SELECT saga.complete_step(s('$key'), 'c', '1');
		SELECT saga.fail(s('$key'))});
	wait_state($node, sql("SELECT s('$key')"), 'needs_review');
	sql("SELECT witness.by_hand(s('$key'), 'c'), saga.resolve(s('$key'), 'c', 'done', 'why')");
	wait_until($node, "SELECT count(*) = 1 FROM saga.ledger_queue WHERE saga = s('$key')");
	sql(q{CALL witness.serve('witness')});
	return ok(wait_state($node, sql("SELECT s('$key')"), 'compensated'), "$what: everyone else's work goes on");
}

# ------------------------------------------------- an error at every boundary

my @names = sort keys %calls;
my %writes;
{
	my @ready = prepare(@names);
	my $script = "\\set ON_ERROR_STOP 0\n\\o /dev/null\n";
	foreach my $one (@ready)
	{
		foreach my $n (1 .. 12)
		{
			$script .= "BEGIN;\nSET LOCAL saga.test_faults = 'table.write_$n=error';\n$one->{call};\n"
			  . "\\qecho $one->{name}: :ERROR\nROLLBACK;\n";
		}
		$script .= "SET saga.test_faults = 'transaction.before_commit=error';\n$one->{call};\n\\qecho $one->{name} at commit: :ERROR\n"
		  . "RESET ROLE;\nRESET saga.test_faults;\n";
	}
	$script =~ s/\\qecho/\\echo/g;
	$node->psql('postgres', $script, on_error_stop => 0, stdout => \my $out, stderr => \my $err);
	my %said;
	$said{$_}++ foreach split /\n/, $out;
	foreach my $name (@names)
	{
		$writes{$name} = $said{"$name: true"} // 0;
		cmp_ok($writes{$name}, '>', 0, "$name: an error after any of its $writes{$name} writes");
		cmp_ok($writes{$name}, '<', 12, "$name: and that was all of them");
		ok($said{"$name at commit: true"}, "$name: an error before its commit");
	}
	my @strange = grep { /ERROR|FATAL|PANIC/ && !/fault point "(table|transaction)\./ } split /\n/, $err;
	is("@strange", '', 'no other error');
	is(changed(@ready), '', 'an error at a boundary: nothing is changed');
	sql("\\o /dev/null\n" . join '', map { "$_->{call};\nRESET ROLE;\n" } @ready);
	is(missing(@ready), '', 'and every call can be made again');
	remember(@ready);
}

# ------------------------------------------- standing still, and being killed

# Of each call so many of its points; one of them locks the ledger against all
# the others.
sub points_of
{
	my ($name, $most) = @_;
	my $phase = $name =~ /prepared/ ? 'prepare' : 'commit';
	return ((map { "table.write_$_" } grep { $_ <= $most } 1 .. $writes{$name}), "transaction.before_$phase", "transaction.after_$phase");
}

my @together = grep { $_ ne 'reassign' } @names;

# Each of the calls in a session of its own, standing at its point; their
# processes.
my $dir = PostgreSQL::Test::Utils::tempdir();
sub stand
{
	my (@ready) = @_;
	my $offset = log_offset($node);

	foreach my $one (@ready)
	{
		my $call = $one->{call};
		$call = "BEGIN; $call; PREPARE TRANSACTION '$one->{key}'" if $one->{name} =~ /prepared/;
		append_to_file("$dir/$one->{key}.sql", "SET saga.test_faults = '$one->{point}=wait';\n$call;\n");
		$one->{session} = start_program($one->{key}, {}, 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1',
			'-d', $node->connstr('postgres'), '-f', "$dir/$one->{key}.sql");
	}
	wait_lines($node, qr/waiting at fault point/, $offset, scalar @ready) or die 'not all of them came to their points';
	return slurp_file($node->logfile, $offset) =~ /\[(\d+)\] client backend .*waiting at fault point/g;
}

sub commit_prepared
{
	sql("\\o /dev/null\n" . join '', map { "COMMIT PREPARED '$_->{key}';\n" } grep { $_->{name} =~ /prepared/ } @_);
	return;
}

# Calls with their points, in lots that go into one server
sub lots
{
	my ($most, @calls) = @_;
	my @all = map { my $name = $_; map { [ $name, $_ ] } points_of($name, $most) } @calls;
	my @lots;

	while (my @some = splice @all, 0, 80)
	{
		push @lots, \@some;
	}
	return @lots;
}

sub prepare_lot
{
	my ($lot) = @_;
	my @ready = prepare(map { $_->[0] } @$lot);
	$ready[$_]{point} = $lot->[$_][1] foreach 0 .. $#ready;
	return @ready;
}

foreach my $lot (lots(1, @together))
{
	my @ready = prepare_lot($lot);

	stand(@ready);
	is(changed(grep { $_->{point} !~ /after_commit/ } @ready), '', 'standing before a commit: nobody sees anything of it');
	others_work('standing at a boundary');
	release();
	my @failed = grep { wait_program($_->{session}) != 0 } @ready;
	is(join(', ', map { "$_->{name} at $_->{point}" } @failed), '', 'then every call goes on');
	set_faults($node, '');
	commit_prepared(@ready);
	is(missing(@ready), '', 'and has its effect');
	remember(@ready);
}

foreach my $lot (lots(12, @together), map { [$_] } map { @$_ } lots(0, 'reassign'))
{
	my @ready = prepare_lot($lot);
	my @before = grep { $_->{point} !~ /after/ } @ready;
	my $what = 'killed ' . (@ready == 1 ? "at $ready[0]{point} in $ready[0]{name}" : 'at a boundary');
	my @pids = stand(@ready);
	my $offset = log_offset($node);

	kill 'KILL', @pids;
	wait_lines($node, qr/\(PID \d+\) was terminated by signal 9/, $offset);
	wait_server($node);
	wait_program($_->{session}) foreach @ready;

	is(changed(grep { $_->{point} !~ /after_commit/ } @ready), '', "$what: before the commit, there is nothing of it");
	is(sql('SELECT string_agg(gid, $$ $$ ORDER BY gid) FROM pg_prepared_xacts'),
		join(' ', sort map { $_->{key} } grep { $_->{point} =~ /after_prepare/ } @ready), "$what: prepared is what was prepared");
	is(missing(grep { $_->{point} =~ /after_commit/ } @ready), '', "$what: after the commit, it had its effect");
	commit_prepared(grep { $_->{point} =~ /after_prepare/ } @ready);
	sql("\\o /dev/null\n" . join '', map { "$_->{call};\nRESET ROLE;\n" } @before);
	is(missing(@ready), '', "$what: and every call can be made again");
	remember(@ready);
}
finish();
guarantees($node);

# ------------------------------------------------------------- our processes

# Sagas whose undo is handed from each hand to each other, and one of whose
# compensations fails until the fault is set; where it is to strike as a failure is
# recorded, until it has struck.  What fails is made again; SQL and listeners by
# themselves are in 050_exactly_once and 064_lost_tasks.
my @orders = ('sql, listener, sql', 'person, sql, listener', 'listener, person, sql', 'sql, released, person');
my $round = 0;
sql('CREATE TABLE fails_no_more (key text)');
foreach my $action (qw(error kill wait))
{
	foreach my $point (@processes)
	{
		my $what = "$point=$action";
		my $key = 'p' . ++$round;

		if ($action eq 'wait')
		{
			sql("SELECT saga.fail(make('$key else', '{sql, person}'))");
			wait_state($node, sql("SELECT s('$key else')"), 'needs_review');
		}
		halt_worker($node);
		# Idle executors are handed what this transaction fails, the last of them perhaps, too.
		my $early = $action eq 'wait' && $point =~ /record_failure/;
		my $offset = log_offset($node);
		set_faults($node, $action eq 'wait' ? $what : "$what once") if $early;
		sql("\\o /dev/null\nBEGIN;\n" . join('', map { "SELECT saga.fail(make('$key $_', '{$orders[$_]}'));\n" } 0 .. $#orders) . qq{
			SELECT saga.begin('order', '$key fails') AS id \\gset
			SELECT saga.step(:'id', 'a', compensation => 'SELECT witness.undo(\$1), 1 / (SELECT count(*) FROM fails_no_more WHERE key = ''$key'')',
				compensation_retry => saga.retry_policy(max_attempts => 1000, delay => '100 ms', backoff => 'constant'));
			SELECT saga.fail(:'id');
			COMMIT});
		$offset = log_offset($node) if !$early;
		set_faults($node, $action eq 'wait' ? $what : "$what once") if !$early;
		# The server may be killed meanwhile.
		my $succeed = "INSERT INTO fails_no_more VALUES ('$key')";
		$node->psql('postgres', $succeed) if $point !~ /record_failure/;
		# (Around its SQL, an executor keeps its messages to itself.)
		if ($action eq 'wait')
		{
			if ($point =~ /mark|commit|record/ && $point =~ /executor/)
			{
				wait_until($node, q{
					SELECT count(*) > 0 FROM pg_stat_activity
					WHERE backend_type = 'saga executor' AND state = 'active' AND wait_event_type = 'Extension'});
			}
			elsif ($point ne 'worker.before_turn')
			{
				wait_lines($node, qr/waiting at fault point "\Q$point\E"/, $offset);
			}
		}
		else { wait_struck($node) or die "$what does not happen"; }
		if ($action eq 'wait')
		{
			sql(qq{
				\\o /dev/null
				SELECT witness.by_hand(s('$key else'), 'b'), saga.resolve(s('$key else'), 'b', 'done', 'why');
				SELECT saga.complete(make('$key done', '{sql, listener}'))});
			pass("$what: applications and people go on");
		}
		set_faults($node, '');
		wait_server($node) if $action eq 'kill';
		sql($succeed);
	}
	finish();
	is(sql(q{SELECT count(*) FROM saga.sagas WHERE idempotency_key LIKE 'p%' AND state NOT IN ('compensated', 'completed')}), '0',
		"$action: everything is undone");
}
is(sql(q{SELECT count(*) FROM saga.ledger_step WHERE comp_status NOT IN ('n', 'c') AND saga IN (SELECT id FROM saga.ledger_saga
	WHERE state = 'c' AND key LIKE 'p%')}), '0', 'step by step');
guarantees($node);
$node->stop;
done_testing();
