/* saga--1.0.sql: everything the extension creates. */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION saga" to load this file. \quit

-- ---------------------------------------------------------------------------
-- Schema
--
-- Created here, not by the control file: were there a schema of this name
-- already, its owner could replace what it holds, so that CREATE EXTENSION
-- must fail instead.  USAGE on it is the one gate to everything in it.
-- ---------------------------------------------------------------------------

CREATE SCHEMA saga;

COMMENT ON SCHEMA saga IS
  'Sagas: business operations that undo themselves. GRANT USAGE on it to the roles that may record and read sagas.';

-- ---------------------------------------------------------------------------
-- Types
-- ---------------------------------------------------------------------------

CREATE TYPE saga.retry_policy AS (
  max_attempts integer,
  delay        interval,
  backoff      text,
  max_delay    interval,
  jitter       double precision,
  timeout      interval
);

COMMENT ON TYPE saga.retry_policy IS
  'How often and how soon a step or its compensation is tried again. Made by saga.retry_policy(); a null field takes the setting in force when the step starts.';
COMMENT ON COLUMN saga.retry_policy.max_attempts IS 'Attempts in all, 1 to 1000.';
COMMENT ON COLUMN saga.retry_policy.delay IS 'Delay before the second attempt, at least 10 ms.';
COMMENT ON COLUMN saga.retry_policy.backoff IS 'constant, linear (delay * n) or exponential (delay * 2^(n-1)).';
COMMENT ON COLUMN saga.retry_policy.max_delay IS 'Longest delay between two attempts.';
COMMENT ON COLUMN saga.retry_policy.jitter IS 'Share of the delay that varies by chance, 0 to 1.';
COMMENT ON COLUMN saga.retry_policy.timeout IS 'Longest run of one attempt; 0 sets no limit.';

CREATE TYPE saga.step_result AS (
  saga_id     uuid,
  seq         bigint,
  step        text,
  status      text,
  attempt     integer,
  output      jsonb,
  error       text,
  retry_at    timestamptz,
  forward_key text,
  known       boolean
);

COMMENT ON TYPE saga.step_result IS
  'What is known of a step: the result of saga.step, saga.complete_step and saga.fail_step.';
COMMENT ON COLUMN saga.step_result.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.step_result.seq IS 'Start order: larger is later; not dense.';
COMMENT ON COLUMN saga.step_result.step IS 'The step''s key.';
COMMENT ON COLUMN saga.step_result.status IS 'started: do the work; completed: skip it and use the output; failed.';
COMMENT ON COLUMN saga.step_result.attempt IS 'Number of the forward attempt, from 1.';
COMMENT ON COLUMN saga.step_result.output IS 'The stored output of a completed step.';
COMMENT ON COLUMN saga.step_result.error IS 'The error of the last failed attempt.';
COMMENT ON COLUMN saga.step_result.retry_at IS 'After fail_step: when to try again; null when attempts are exhausted or the error is final.';
COMMENT ON COLUMN saga.step_result.forward_key IS 'Stable over every attempt of this run: hand it to outside services as their idempotency key.';
COMMENT ON COLUMN saga.step_result.known IS 'Was the step recorded before this call, by an earlier transaction or earlier in this one? If so, its work may have been done already.';

-- ---------------------------------------------------------------------------
-- Ledger tables
--
-- No grants and no row security: people read the views.  The forward calls
-- write these tables directly, without firing triggers or checking CHECKs;
-- the constraints below mirror what src/ledger/rows.c and src/base/state.c verify.
-- Immutable columns come first and columns that change come last, and no
-- column that changes is indexed, so that updates stay on their page (HOT).
-- ---------------------------------------------------------------------------

CREATE SEQUENCE saga.start_order AS bigint CACHE 1 NO CYCLE;

COMMENT ON SEQUENCE saga.start_order IS
  'The start order of steps. CACHE 1: a cached sequence would break the order across sessions.';

CREATE TABLE saga.ledger_saga (
  id            uuid        NOT NULL,
  owner         oid         NOT NULL,
  started_at    timestamptz NOT NULL,
  on_failure    "char"      NOT NULL,
  owner_name    text        COLLATE "C" NOT NULL,
  name          text        COLLATE "C" NOT NULL,
  key           text        COLLATE "C",
  announce      text        COLLATE "C",
  subject       text        COLLATE "C",
  input         jsonb,
  content_hash  bytea,
  deadline      timestamptz,
  updated_at    timestamptz NOT NULL,
  due           timestamptz,
  lane          oid,
  savepoint     bigint,
  failed_seq    bigint,
  finished_at   timestamptz,
  state         "char"      NOT NULL,
  failure_kind  "char",
  undo          "char",
  paused        boolean     NOT NULL,
  to_announce   text        COLLATE "C",
  parked        text        COLLATE "C",
  reason        text        COLLATE "C",
  details       jsonb,
  result        jsonb,
  runs          "char",
  CONSTRAINT ledger_saga_id_key PRIMARY KEY (id) WITH (fillfactor = 90),
  CONSTRAINT ledger_saga_state CHECK (state OPERATOR(pg_catalog.=) ANY ('{r,d,u,c,p,a}'::pg_catalog."char"[])),
  CONSTRAINT ledger_saga_on_failure CHECK (on_failure OPERATOR(pg_catalog.=) ANY ('{h,c}'::pg_catalog."char"[])),
  CONSTRAINT ledger_saga_failure_kind CHECK (failure_kind OPERATOR(pg_catalog.=) ANY ('{f,c,t}'::pg_catalog."char"[])),
  CONSTRAINT ledger_saga_name CHECK (pg_catalog.length(name) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.length(name) OPERATOR(pg_catalog.<=) 256),
  CONSTRAINT ledger_saga_key CHECK (pg_catalog.length(key) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.length(key) OPERATOR(pg_catalog.<=) 512),
  CONSTRAINT ledger_saga_subject CHECK (pg_catalog.length(subject) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.length(subject) OPERATOR(pg_catalog.<=) 256),
  CONSTRAINT ledger_saga_due CHECK ((due IS NULL) OPERATOR(pg_catalog.=) (lane IS NULL)),
  CONSTRAINT ledger_saga_finished CHECK ((finished_at IS NOT NULL) OPERATOR(pg_catalog.=) (state OPERATOR(pg_catalog.=) ANY ('{d,c,a}'::pg_catalog."char"[]))),
  CONSTRAINT ledger_saga_runs CHECK (runs OPERATOR(pg_catalog.=) ANY ('{o,s}'::pg_catalog."char"[])),
  CONSTRAINT ledger_saga_undo CHECK (undo OPERATOR(pg_catalog.=) ANY ('{p,f,l}'::pg_catalog."char"[]) OR (undo IS NULL AND state OPERATOR(pg_catalog.<>) 'u'))
) USING heap WITH (fillfactor = 80);

-- The key first, by which people look for a saga, too.
CREATE UNIQUE INDEX ledger_saga_key_name_owner ON saga.ledger_saga (key, name, owner)
  WHERE key IS NOT NULL;

CREATE INDEX ledger_saga_owner_subject ON saga.ledger_saga (owner, subject, id)
  WHERE subject IS NOT NULL;

COMMENT ON TABLE saga.ledger_saga IS 'One row per saga. Read saga.sagas instead.';
COMMENT ON COLUMN saga.ledger_saga.id IS 'Version 7 UUID: ordered by time, unique across databases and clones.';
COMMENT ON COLUMN saga.ledger_saga.owner IS 'current_user at saga.begin.';
COMMENT ON COLUMN saga.ledger_saga.started_at IS 'When saga.begin was called.';
COMMENT ON COLUMN saga.ledger_saga.on_failure IS 'When a compensation exhausts its retries: h(alt) or c(ontinue).';
COMMENT ON COLUMN saga.ledger_saga.owner_name IS 'The owner''s name then: OID and name are compared, so that a recreated role inherits nothing.';
COMMENT ON COLUMN saga.ledger_saga.name IS 'The kind of saga.';
COMMENT ON COLUMN saga.ledger_saga.key IS 'Idempotency key, unique per owner and name.';
COMMENT ON COLUMN saga.ledger_saga.announce IS 'Channel on which states after running are announced.';
COMMENT ON COLUMN saga.ledger_saga.subject IS 'Whom or what it is about.';
COMMENT ON COLUMN saga.ledger_saga.input IS 'Input as given.';
COMMENT ON COLUMN saga.ledger_saga.content_hash IS 'Of a redacted saga: the SHA-256 of its input, which keeps its key working.';
COMMENT ON COLUMN saga.ledger_saga.deadline IS 'When a saga still running fails.';
COMMENT ON COLUMN saga.ledger_saga.updated_at IS 'Last change of the saga itself.';
COMMENT ON COLUMN saga.ledger_saga.due IS 'Due time of its row in ledger_due, null when it has none.';
COMMENT ON COLUMN saga.ledger_saga.lane IS 'Lane of that row.';
COMMENT ON COLUMN saga.ledger_saga.savepoint IS 'Of a partial undo: the step that it goes back to, by its place in the start order; null: to the beginning.';
COMMENT ON COLUMN saga.ledger_saga.failed_seq IS 'The step at which the saga failed.';
COMMENT ON COLUMN saga.ledger_saga.finished_at IS 'When it completed, was compensated or abandoned.';
COMMENT ON COLUMN saga.ledger_saga.state IS 'r(unning), d(one: completed), u(ndoing: compensating), c(ompensated), p(arked: needs_review), a(bandoned).';
COMMENT ON COLUMN saga.ledger_saga.failure_kind IS 'f(ailed), c(ancelled), t(imed out).';
COMMENT ON COLUMN saga.ledger_saga.undo IS 'What is being undone, or was: p(artial: the steps after the savepoint), f(ull), l(ate results only); null: nothing.';
COMMENT ON COLUMN saga.ledger_saga.paused IS 'A person paused it: nothing is dispatched.';
COMMENT ON COLUMN saga.ledger_saga.to_announce IS 'States it reached that are not announced yet, a letter each, in order.';
COMMENT ON COLUMN saga.ledger_saga.parked IS 'Why a person must decide about the saga as a whole.';
COMMENT ON COLUMN saga.ledger_saga.reason IS 'Reason of the failure.';
COMMENT ON COLUMN saga.ledger_saga.details IS 'Details of the failure.';
COMMENT ON COLUMN saga.ledger_saga.result IS 'Result given to saga.complete.';
COMMENT ON COLUMN saga.ledger_saga.runs IS 'o(pen): it may have steps that saga runs; s(ealed): it takes no new step from outside, and completes by itself once all is done; null: the application runs all.';

CREATE TABLE saga.ledger_step (
  saga               uuid        NOT NULL,
  seq                bigint      NOT NULL,
  started_at         timestamptz NOT NULL,
  run                integer     NOT NULL,
  run_as             oid         NOT NULL,
  kind               "char"      NOT NULL,
  compensate_on      "char"      NOT NULL,
  acknowledge        boolean     NOT NULL,
  run_as_name        text        COLLATE "C" NOT NULL,
  key                text        COLLATE "C" NOT NULL,
  name               text        COLLATE "C",
  compensation       text        COLLATE "C",
  channel            text        COLLATE "C",
  review             text        COLLATE "C",
  args               jsonb,
  content_hash       bytea,
  search_path        text        COLLATE "C",
  settings           jsonb,
  compensation_retry text        COLLATE "C" NOT NULL,
  retry              text        COLLATE "C",
  attempts           integer     NOT NULL,
  status             "char"      NOT NULL,
  comp_status        "char"      NOT NULL,
  released           boolean,
  late               boolean,
  attempt_at         timestamptz,
  completed_at       timestamptz,
  retry_at           timestamptz,
  rolled_back_at     timestamptz,
  comp_attempts      integer,
  comp_charged       integer,
  comp_deferrals     integer,
  comp_conflicts     integer,
  comp_interruptions integer,
  comp_crashes       integer,
  comp_retry_at      timestamptz,
  dispatched_at      timestamptz,
  claimed_at         timestamptz,
  lease_until        timestamptz,
  compensated_at     timestamptz,
  consumer           text        COLLATE "C",
  parked             text        COLLATE "C",
  error              text        COLLATE "C",
  comp_sqlstate      text        COLLATE "C",
  comp_error         text        COLLATE "C",
  comp_output        jsonb,
  output             jsonb,
  sqlstate           text        COLLATE "C",
  begun              bigint,
  opened_at          timestamptz,
  ready_at           timestamptz,
  rounds             bigint,
  charged            integer,
  deferrals          integer,
  conflicts          integer,
  interruptions      integer,
  crashes            integer,
  approved           boolean,
  signal             jsonb,
  round_state        jsonb,
  recorded_by        bigint,
  place              bigint,
  not_before         timestamptz,
  timeout            bigint,
  delay              interval,
  give_up            "char",
  action             text        COLLATE "C",
  task               text        COLLATE "C",
  after              text[]      COLLATE "C",
  signals            text[]      COLLATE "C",
  approval           text        COLLATE "C",
  CONSTRAINT ledger_step_key PRIMARY KEY (saga, key, run),
  CONSTRAINT ledger_step_seq CHECK (seq OPERATOR(pg_catalog.>=) 1),
  CONSTRAINT ledger_step_run CHECK (run OPERATOR(pg_catalog.>=) 1),
  CONSTRAINT ledger_step_attempts CHECK (attempts OPERATOR(pg_catalog.>=) 1 OR (attempts OPERATOR(pg_catalog.=) 0 AND give_up IS NOT NULL)),
  CONSTRAINT ledger_step_kind CHECK (kind OPERATOR(pg_catalog.=) ANY ('{c,p,r}'::pg_catalog."char"[])),
  CONSTRAINT ledger_step_compensate_on CHECK (compensate_on OPERATOR(pg_catalog.=) ANY ('{s,c}'::pg_catalog."char"[])),
  CONSTRAINT ledger_step_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{w,s,c,f,k}'::pg_catalog."char"[])),
  CONSTRAINT ledger_step_give_up CHECK (give_up OPERATOR(pg_catalog.=) ANY ('{f,s,r}'::pg_catalog."char"[])),
  CONSTRAINT ledger_step_waiting CHECK (give_up IS NOT NULL OR (action IS NULL AND task IS NULL AND status OPERATOR(pg_catalog.<>) 'w' AND status OPERATOR(pg_catalog.<>) 'k')),
  CONSTRAINT ledger_step_one_work CHECK (action IS NULL OR task IS NULL),
  CONSTRAINT ledger_step_comp_status CHECK (comp_status OPERATOR(pg_catalog.=) ANY ('{n,r,p,d,c,f,s}'::pg_catalog."char"[])),
  CONSTRAINT ledger_step_one_action CHECK (compensation IS NULL OR channel IS NULL),
  CONSTRAINT ledger_step_key_length CHECK (pg_catalog.length(key) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.length(key) OPERATOR(pg_catalog.<=) 512),
  CONSTRAINT ledger_step_completed CHECK ((completed_at IS NOT NULL) OPERATOR(pg_catalog.=) (status OPERATOR(pg_catalog.=) 'c')),
  CONSTRAINT ledger_step_dispatched CHECK (comp_status OPERATOR(pg_catalog.<>) 'd' OR (dispatched_at IS NOT NULL AND channel IS NOT NULL)),
  CONSTRAINT ledger_step_claimed CHECK (claimed_at IS NULL OR comp_status OPERATOR(pg_catalog.=) 'd' OR (task IS NOT NULL AND status OPERATOR(pg_catalog.=) 's')),
  CONSTRAINT ledger_step_lease CHECK ((claimed_at IS NOT NULL) OPERATOR(pg_catalog.=) (lease_until IS NOT NULL))
) USING heap WITH (fillfactor = 70);

-- By which the report about a task finds its step, without the others of its saga.
CREATE INDEX ledger_step_task ON saga.ledger_step (saga, seq)
  WHERE task IS NOT NULL;

COMMENT ON TABLE saga.ledger_step IS 'One row per run of a step. Read saga.steps instead.';
COMMENT ON COLUMN saga.ledger_step.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_step.seq IS 'Start order, from saga.start_order.';
COMMENT ON COLUMN saga.ledger_step.started_at IS 'When the first saga.step of this run was called.';
COMMENT ON COLUMN saga.ledger_step.run IS 'Run of the key: one more each time it starts afresh after it was rolled back.';
COMMENT ON COLUMN saga.ledger_step.run_as IS 'current_user at saga.step: the role that its SQL runs as.';
COMMENT ON COLUMN saga.ledger_step.kind IS 'c(ompensatable), p(ivot), r(etriable).';
COMMENT ON COLUMN saga.ledger_step.compensate_on IS 'Undone once s(tarted) or only once c(ompleted).';
COMMENT ON COLUMN saga.ledger_step.acknowledge IS 'false: the committed notification is all.';
COMMENT ON COLUMN saga.ledger_step.run_as_name IS 'That role''s name then.';
COMMENT ON COLUMN saga.ledger_step.key IS 'The step''s key: its idempotency key, or its name.';
COMMENT ON COLUMN saga.ledger_step.name IS 'The step''s name, null when it equals the key.';
COMMENT ON COLUMN saga.ledger_step.compensation IS 'Compensating SQL.';
COMMENT ON COLUMN saga.ledger_step.channel IS 'Channel of the listeners that compensate.';
COMMENT ON COLUMN saga.ledger_step.review IS 'Words for the person who must look first.';
COMMENT ON COLUMN saga.ledger_step.args IS 'Arguments for the action or task, and for the compensation.';
COMMENT ON COLUMN saga.ledger_step.content_hash IS 'Of a redacted step: the SHA-256 of its args, then of its output.';
COMMENT ON COLUMN saga.ledger_step.search_path IS 'The caller''s search_path, null when the built-in default.';
COMMENT ON COLUMN saga.ledger_step.settings IS 'Captured settings.';
COMMENT ON COLUMN saga.ledger_step.compensation_retry IS 'Retry policy of the compensation: attempts, delay, backoff, longest delay, jitter, timeout; times in ms. Left out at the end is what is as in 5 1000 e 300000 0.1 600000.';
COMMENT ON COLUMN saga.ledger_step.retry IS 'Retry policy of the step, null when the same.';
COMMENT ON COLUMN saga.ledger_step.attempts IS 'Forward attempts so far.';
COMMENT ON COLUMN saga.ledger_step.status IS 'w(aiting), s(tarted), c(ompleted), f(ailed), k(ept from beginning: skipped).';
COMMENT ON COLUMN saga.ledger_step.comp_status IS 'n(one), r(egistered), p(ending), d(ispatched), c(ompensated), f(ailed), s(kipped).';
COMMENT ON COLUMN saga.ledger_step.released IS 'A person released the reviewed compensation.';
COMMENT ON COLUMN saga.ledger_step.late IS 'A result that came too late waits for a decision.';
COMMENT ON COLUMN saga.ledger_step.attempt_at IS 'Start of the current forward attempt, if not the first.';
COMMENT ON COLUMN saga.ledger_step.completed_at IS 'When it completed.';
COMMENT ON COLUMN saga.ledger_step.retry_at IS 'When a failed attempt may be repeated.';
COMMENT ON COLUMN saga.ledger_step.rolled_back_at IS 'When a partial undo undid it: the key may start afresh.';
COMMENT ON COLUMN saga.ledger_step.comp_attempts IS 'Attempts of the compensation, numbered.';
COMMENT ON COLUMN saga.ledger_step.comp_charged IS 'Of those, the ones that count against the policy.';
COMMENT ON COLUMN saga.ledger_step.comp_deferrals IS 'Of those, the ones that asked to be called later.';
COMMENT ON COLUMN saga.ledger_step.comp_conflicts IS 'Of those, the ones lost to deadlocks, serialization and lock timeouts.';
COMMENT ON COLUMN saga.ledger_step.comp_interruptions IS 'Of those, the ones cut short by no fault of their own.';
COMMENT ON COLUMN saga.ledger_step.comp_crashes IS 'Suspect since a crash: how often the server crashed while it ran alone; null: no suspect.';
COMMENT ON COLUMN saga.ledger_step.comp_retry_at IS 'When the compensation is tried next.';
COMMENT ON COLUMN saga.ledger_step.dispatched_at IS 'When it was last dispatched to listeners.';
COMMENT ON COLUMN saga.ledger_step.claimed_at IS 'When the listener that holds it claimed it.';
COMMENT ON COLUMN saga.ledger_step.lease_until IS 'End of that claim.';
COMMENT ON COLUMN saga.ledger_step.compensated_at IS 'When it was compensated.';
COMMENT ON COLUMN saga.ledger_step.consumer IS 'What that listener calls itself.';
COMMENT ON COLUMN saga.ledger_step.parked IS 'Why a person must decide about this step.';
COMMENT ON COLUMN saga.ledger_step.error IS 'Error of the last failed forward attempt.';
COMMENT ON COLUMN saga.ledger_step.comp_sqlstate IS 'SQLSTATE of the compensation''s last failure.';
COMMENT ON COLUMN saga.ledger_step.comp_error IS 'Message of the compensation''s last failure.';
COMMENT ON COLUMN saga.ledger_step.comp_output IS 'What the listener reported.';
COMMENT ON COLUMN saga.ledger_step.output IS 'Output of the step.';
COMMENT ON COLUMN saga.ledger_step.sqlstate IS 'SQLSTATE of the last failed attempt of its action. It and the columns after it are null, and not even stored, in most steps that the application runs.';
COMMENT ON COLUMN saga.ledger_step.begun IS 'When saga began it, in the start order; null: not yet, or the application runs it.';
COMMENT ON COLUMN saga.ledger_step.opened_at IS 'When gate 1 opened.';
COMMENT ON COLUMN saga.ledger_step.ready_at IS 'When gates 1 and 2 are open; once 3 and 4 are, when it became ready.';
COMMENT ON COLUMN saga.ledger_step.rounds IS 'Rounds of its action that committed.';
COMMENT ON COLUMN saga.ledger_step.charged IS 'Of its attempts, the ones that count against the policy.';
COMMENT ON COLUMN saga.ledger_step.deferrals IS 'Of those, the ones that asked to be called later.';
COMMENT ON COLUMN saga.ledger_step.conflicts IS 'Of those, the ones lost to deadlocks, serialization and lock timeouts.';
COMMENT ON COLUMN saga.ledger_step.interruptions IS 'Of those, the ones cut short by no fault of their own.';
COMMENT ON COLUMN saga.ledger_step.crashes IS 'Suspect since a crash: how often the server crashed while it ran alone; null: no suspect.';
COMMENT ON COLUMN saga.ledger_step.approved IS 'true: a person opened gate 4.';
COMMENT ON COLUMN saga.ledger_step.signal IS 'The signal that it used: name and payload.';
COMMENT ON COLUMN saga.ledger_step.round_state IS 'State that its action keeps between rounds.';
COMMENT ON COLUMN saga.ledger_step.recorded_by IS 'seq of the step whose action recorded it; null: recorded from outside.';
COMMENT ON COLUMN saga.ledger_step.place IS 'seq of the first run of its key, by which its gates go; null: this one.';
COMMENT ON COLUMN saga.ledger_step.not_before IS 'Gate 2: not before this.';
COMMENT ON COLUMN saga.ledger_step.timeout IS 'From the opening of gate 1 to done (ms).';
COMMENT ON COLUMN saga.ledger_step.delay IS 'Gate 2: so long after gate 1 opened.';
COMMENT ON COLUMN saga.ledger_step.give_up IS 'When it is given up: f(ail), s(kip), r(eview). Set in every step that saga runs.';
COMMENT ON COLUMN saga.ledger_step.action IS 'The work of a step that saga runs: SQL.';
COMMENT ON COLUMN saga.ledger_step.task IS 'Or: the channel of the services that do the work.';
COMMENT ON COLUMN saga.ledger_step.after IS 'Gate 1: keys of the steps that must be done; null: all recorded before it by the same recorder.';
COMMENT ON COLUMN saga.ledger_step.signals IS 'Gate 3: any one of these signals.';
COMMENT ON COLUMN saga.ledger_step.approval IS 'Gate 4: words for the person who must approve it.';

CREATE TABLE saga.ledger_attempt (
  saga        uuid        NOT NULL,
  seq         bigint      NOT NULL,
  started_at  timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  rows        bigint,
  attempt     integer     NOT NULL,
  phase       "char"      NOT NULL,
  outcome     "char"      NOT NULL,
  sqlstate    text        COLLATE "C",
  error       text        COLLATE "C",
  consumer    text        COLLATE "C",
  CONSTRAINT ledger_attempt_key PRIMARY KEY (saga, seq, phase, attempt),
  CONSTRAINT ledger_attempt_attempt CHECK (attempt OPERATOR(pg_catalog.>=) 1),
  CONSTRAINT ledger_attempt_phase CHECK (phase OPERATOR(pg_catalog.=) ANY ('{f,c}'::pg_catalog."char"[])),
  CONSTRAINT ledger_attempt_outcome CHECK (outcome OPERATOR(pg_catalog.=) ANY ('{s,f,i,t,d}'::pg_catalog."char"[]))
) USING heap;

COMMENT ON TABLE saga.ledger_attempt IS 'Attempts that the step rows do not record: every one of a compensation, and the forward ones that failed. Read saga.attempts instead.';
COMMENT ON COLUMN saga.ledger_attempt.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_attempt.seq IS 'The step.';
COMMENT ON COLUMN saga.ledger_attempt.started_at IS 'Start of the attempt.';
COMMENT ON COLUMN saga.ledger_attempt.finished_at IS 'End of the attempt.';
COMMENT ON COLUMN saga.ledger_attempt.rows IS 'Rows of the last statement of its SQL.';
COMMENT ON COLUMN saga.ledger_attempt.attempt IS 'Number, from 1, without gaps.';
COMMENT ON COLUMN saga.ledger_attempt.phase IS 'f(orward) or c(ompensation).';
COMMENT ON COLUMN saga.ledger_attempt.outcome IS 's(ucceeded), f(ailed), i(nterrupted), t(imed out), d(eferred).';
COMMENT ON COLUMN saga.ledger_attempt.sqlstate IS 'SQLSTATE of the failure.';
COMMENT ON COLUMN saga.ledger_attempt.error IS 'Message of the failure.';
COMMENT ON COLUMN saga.ledger_attempt.consumer IS 'The listener that made the attempt.';

CREATE TABLE saga.ledger_event (
  saga   uuid        NOT NULL,
  at     timestamptz NOT NULL,
  seq    bigint,
  event  text        COLLATE "C" NOT NULL,
  actor  text        COLLATE "C" NOT NULL,
  detail jsonb,
  CONSTRAINT ledger_event_event CHECK (pg_catalog.length(event) OPERATOR(pg_catalog.>=) 1)
) USING heap;

CREATE INDEX ledger_event_saga_at ON saga.ledger_event (saga, at);

-- Two things may happen in one moment, so that there is no key: without this, a
-- logical subscriber would keep the events of a saga that is purged.
ALTER TABLE saga.ledger_event REPLICA IDENTITY FULL;

COMMENT ON TABLE saga.ledger_event IS 'What happened to a saga and is not recorded in its own rows. Read saga.events instead.';
COMMENT ON COLUMN saga.ledger_event.saga IS 'The saga; the UUID of zeros: none, as of a purge.';
COMMENT ON COLUMN saga.ledger_event.at IS 'When.';
COMMENT ON COLUMN saga.ledger_event.seq IS 'The step, if it is about one.';
COMMENT ON COLUMN saga.ledger_event.event IS 'What.';
COMMENT ON COLUMN saga.ledger_event.actor IS 'The role that did it.';
COMMENT ON COLUMN saga.ledger_event.detail IS 'More about it.';

CREATE TABLE saga.ledger_due (
  lane oid         NOT NULL,
  due  timestamptz NOT NULL,
  saga uuid        NOT NULL,
  seq  bigint      NOT NULL,
  run  integer,
  key  text        COLLATE "C",
  CONSTRAINT ledger_due_key PRIMARY KEY (lane, due, saga, seq)
) USING heap;

COMMENT ON TABLE saga.ledger_due IS 'When a saga must be looked at next: a deadline, an undo, a retry. At most one row a saga, which its own row names, and those of its steps that saga runs.';
COMMENT ON COLUMN saga.ledger_due.lane IS 'The role whose executor has the work; 0: the worker itself.';
COMMENT ON COLUMN saga.ledger_due.due IS 'Not before.';
COMMENT ON COLUMN saga.ledger_due.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_due.seq IS '0: the saga itself. A step''s seq: that step, to be run, or its timer. Negated: that step has changed, or that signal was sent, so the saga is to be looked at.';
COMMENT ON COLUMN saga.ledger_due.run IS 'The run of the step; only with its seq.';
COMMENT ON COLUMN saga.ledger_due.key IS 'Its key; likewise.';

CREATE TABLE saga.ledger_queue (
  channel text        COLLATE "C" NOT NULL,
  phase   "char"      NOT NULL,
  owner   oid         NOT NULL,
  since   timestamptz NOT NULL,
  saga    uuid        NOT NULL,
  seq     bigint      NOT NULL,
  run     integer     NOT NULL,
  key     text        COLLATE "C" NOT NULL,
  CONSTRAINT ledger_queue_key PRIMARY KEY (channel, phase, owner, since, saga, seq),
  CONSTRAINT ledger_queue_phase CHECK (phase OPERATOR(pg_catalog.=) ANY ('{f,c}'::pg_catalog."char"[]))
) USING heap;

COMMENT ON TABLE saga.ledger_queue IS 'Tasks and compensations that wait for a service to claim them, one row each, as the step''s own row says. Read saga.pending_tasks instead.';
COMMENT ON COLUMN saga.ledger_queue.channel IS 'The channel of the services.';
COMMENT ON COLUMN saga.ledger_queue.phase IS 'f(orward) or c(ompensation).';
COMMENT ON COLUMN saga.ledger_queue.owner IS 'The saga''s owner: whose members may claim it.';
COMMENT ON COLUMN saga.ledger_queue.since IS 'When it was dispatched; of a task, from when on it may be claimed.';
COMMENT ON COLUMN saga.ledger_queue.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_queue.seq IS 'The step, by start order ...';
COMMENT ON COLUMN saga.ledger_queue.run IS '... and by the run ...';
COMMENT ON COLUMN saga.ledger_queue.key IS '... of its key, so that it is found without the others of its saga.';

CREATE TABLE saga.ledger_held (
  saga uuid   NOT NULL,
  seq  bigint NOT NULL,
  CONSTRAINT ledger_held_key PRIMARY KEY (saga, seq)
) USING heap;

COMMENT ON TABLE saga.ledger_held IS 'Sagas that a person holds, as they wait for a decision or are paused, and steps that saga runs and a person must decide about. Whatever is being undone is here, or is due, or waits for a listener. Read saga.sagas instead.';
COMMENT ON COLUMN saga.ledger_held.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_held.seq IS 'The step; 0: the saga itself.';

CREATE TABLE saga.ledger_signal (
  saga         uuid        NOT NULL,
  seq          bigint      NOT NULL,
  at           timestamptz NOT NULL,
  name         text        COLLATE "C" NOT NULL,
  key          text        COLLATE "C",
  sent_by      text        COLLATE "C" NOT NULL,
  used_by      bigint,
  content_hash bytea,
  payload      jsonb,
  CONSTRAINT ledger_signal_key PRIMARY KEY (saga, seq),
  CONSTRAINT ledger_signal_seq CHECK (seq OPERATOR(pg_catalog.>=) 1),
  CONSTRAINT ledger_signal_name CHECK (pg_catalog.length(name) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.length(name) OPERATOR(pg_catalog.<=) 256),
  CONSTRAINT ledger_signal_key_length CHECK (pg_catalog.length(key) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.length(key) OPERATOR(pg_catalog.<=) 512),
  CONSTRAINT ledger_signal_used_by CHECK (used_by OPERATOR(pg_catalog.>=) 1)
) USING heap;

-- The key first, so that the index has entries only for signals with one.
CREATE UNIQUE INDEX ledger_signal_key_name_saga ON saga.ledger_signal (key, name, saga)
  WHERE key IS NOT NULL;

-- What a look reads.  What was used leaves it.
CREATE INDEX ledger_signal_unused ON saga.ledger_signal (saga, name, seq)
  WHERE used_by IS NULL;

COMMENT ON TABLE saga.ledger_signal IS 'Signals that were sent to sagas. Read saga.signals instead.';
COMMENT ON COLUMN saga.ledger_signal.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_signal.seq IS 'A number from the start order: later is larger.';
COMMENT ON COLUMN saga.ledger_signal.at IS 'When it was sent.';
COMMENT ON COLUMN saga.ledger_signal.name IS 'Its name, for which steps wait.';
COMMENT ON COLUMN saga.ledger_signal.key IS 'Idempotency key, unique per saga and name.';
COMMENT ON COLUMN saga.ledger_signal.sent_by IS 'The role that sent it, by the name it had then.';
COMMENT ON COLUMN saga.ledger_signal.used_by IS 'The step that used it, by its seq; null: none has.';
COMMENT ON COLUMN saga.ledger_signal.content_hash IS 'Of a redacted one: the SHA-256 of its payload, which keeps its key working.';
COMMENT ON COLUMN saga.ledger_signal.payload IS 'Payload as given.';

CREATE TABLE saga.ledger_limit (
  channel      text        COLLATE "C" NOT NULL,
  role         text        COLLATE "C" NOT NULL,
  max_claimed  integer,
  paused_until timestamptz,
  CONSTRAINT ledger_limit_key PRIMARY KEY (channel, role),
  CONSTRAINT ledger_limit_max_claimed CHECK (max_claimed OPERATOR(pg_catalog.>=) 1)
) USING heap;

COMMENT ON TABLE saga.ledger_limit IS 'Limits that roles set for their claims, with saga.limit.';
COMMENT ON COLUMN saga.ledger_limit.channel IS 'The channel.';
COMMENT ON COLUMN saga.ledger_limit.role IS 'The name of the role that claims.';
COMMENT ON COLUMN saga.ledger_limit.max_claimed IS 'How many it may hold at a time.';
COMMENT ON COLUMN saga.ledger_limit.paused_until IS 'Until when it claims nothing.';

CREATE TABLE saga.ledger_claimed (
  channel    text        COLLATE "C" NOT NULL,
  role       text        COLLATE "C" NOT NULL,
  claimed_at timestamptz NOT NULL,
  saga       uuid        NOT NULL,
  seq        bigint      NOT NULL,
  run        integer     NOT NULL,
  key        text        COLLATE "C" NOT NULL,
  CONSTRAINT ledger_claimed_key PRIMARY KEY (channel, role, claimed_at, saga, seq)
) USING heap;

COMMENT ON TABLE saga.ledger_claimed IS 'What was claimed under a limit on claims, one row each. Whether the claim goes on, the step''s own row says; rows of others are deleted by the next claims.';
COMMENT ON COLUMN saga.ledger_claimed.channel IS 'The channel.';
COMMENT ON COLUMN saga.ledger_claimed.role IS 'The name of the role that claimed it.';
COMMENT ON COLUMN saga.ledger_claimed.claimed_at IS 'When.';
COMMENT ON COLUMN saga.ledger_claimed.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_claimed.seq IS 'The step, by start order ...';
COMMENT ON COLUMN saga.ledger_claimed.run IS '... and by the run ...';
COMMENT ON COLUMN saga.ledger_claimed.key IS '... of its key.';

CREATE TABLE saga.ledger_home (
  one               boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
  system_identifier bigint  NOT NULL,
  database          oid     NOT NULL,
  timeline          integer NOT NULL,
  restores          bigint[] NOT NULL,
  restored          boolean NOT NULL,
  copied            boolean NOT NULL,
  citus_group       integer NOT NULL,
  home_timeline     integer NOT NULL
) USING heap;

COMMENT ON TABLE saga.ledger_home IS 'Where steps of this ledger may be run and undone: the server and database that it was created in or adopted by. A copy elsewhere holds still until saga.adopt().';
COMMENT ON COLUMN saga.ledger_home.one IS 'There is one row.';
COMMENT ON COLUMN saga.ledger_home.system_identifier IS 'The server''s system identifier.';
COMMENT ON COLUMN saga.ledger_home.database IS 'The database''s OID.';
COMMENT ON COLUMN saga.ledger_home.timeline IS 'The timeline of the WAL for which the start order left its last gap.';
COMMENT ON COLUMN saga.ledger_home.restores IS 'The starts from backups that were adopted.';
COMMENT ON COLUMN saga.ledger_home.restored IS 'The server was started from a backup, which is not adopted; so that its standbys know.';
COMMENT ON COLUMN saga.ledger_home.copied IS 'Ledger rows came by COPY, SQL or replication.';
COMMENT ON COLUMN saga.ledger_home.citus_group IS 'The server''s group in a Citus cluster; 0: the coordinator, or no Citus.';
COMMENT ON COLUMN saga.ledger_home.home_timeline IS 'The timeline of the WAL when the server was last seen to be at home.';

-- Which server and database hold a ledger is no part of it: not in a dump.
SELECT pg_catalog.pg_extension_config_dump('saga.start_order', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_saga', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_step', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_attempt', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_event', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_due', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_queue', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_held', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_signal', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_limit', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_claimed', '');

-- ---------------------------------------------------------------------------
-- Functions of the application
-- ---------------------------------------------------------------------------

CREATE FUNCTION saga.begin(
  name text, idempotency_key text DEFAULT NULL, input jsonb DEFAULT NULL,
  timeout interval DEFAULT NULL, on_compensation_failure text DEFAULT 'halt',
  announce text DEFAULT NULL, subject text DEFAULT NULL) RETURNS uuid
  AS 'MODULE_PATHNAME', 'saga_sql_begin'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.begin(text, text, jsonb, interval, text, text, text) IS
  'Begins a saga, or returns the one begun under the same name and idempotency key by the same owner. SG003: the same key with another input or subject; SG009: a limit.';

CREATE FUNCTION saga.start(
  name text, idempotency_key text DEFAULT NULL, input jsonb DEFAULT NULL,
  timeout interval DEFAULT NULL, on_compensation_failure text DEFAULT 'halt',
  announce text DEFAULT NULL, subject text DEFAULT NULL) RETURNS uuid
  AS 'MODULE_PATHNAME', 'saga_sql_begin'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.start(text, text, jsonb, interval, text, text, text) IS
  'saga.begin under a second name, for SQL-standard function bodies: psql counts the word begin inside CREATE FUNCTION.';

CREATE FUNCTION saga.step(
  saga_id uuid, name text, idempotency_key text DEFAULT NULL,
  compensation text DEFAULT NULL, args jsonb DEFAULT NULL,
  notify text DEFAULT NULL, acknowledge boolean DEFAULT true,
  review text DEFAULT NULL, output jsonb DEFAULT NULL,
  completed boolean DEFAULT false, kind text DEFAULT 'compensatable',
  compensate_on text DEFAULT NULL, retry saga.retry_policy DEFAULT NULL,
  compensation_retry saga.retry_policy DEFAULT NULL,
  action text DEFAULT NULL, task text DEFAULT NULL, after text[] DEFAULT NULL,
  delay interval DEFAULT NULL, not_before timestamptz DEFAULT NULL,
  signals text[] DEFAULT NULL, approval text DEFAULT NULL,
  timeout interval DEFAULT NULL, on_failure text DEFAULT NULL)
  RETURNS saga.step_result
  AS 'MODULE_PATHNAME', 'saga_sql_step'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.step(uuid, text, text, text, jsonb, text, boolean, text, jsonb, boolean, text, text, saga.retry_policy, saga.retry_policy, text, text, text[], interval, timestamptz, text[], text, interval, text) IS
  'With an action, a task or a gate (after, delay, not_before, signals, approval), records a step that saga runs: it waits until its gates are open, then an executor runs the action as the recording role, exactly once, or a service claims the task. Without, records that a step starts, before its effect, and what undoes it; for a step already recorded, returns what is known. What undoes it stays as recorded: a different value raises a NOTICE (saga.amend changes it). Commit it before an effect outside the database. SG001, SG002; SG003: a known key with other args; SG005: the undo has begun; SG009.';

CREATE FUNCTION saga.complete_step(
  saga_id uuid, step text, output jsonb DEFAULT NULL,
  late text DEFAULT 'error', forward_key text DEFAULT NULL)
  RETURNS saga.step_result
  AS 'MODULE_PATHNAME', 'saga_sql_complete_step'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.complete_step(uuid, text, jsonb, text, text) IS
  'Records that a step completed, with its output. Once the undo has begun it raises SG005, or with late => ''record'' keeps the result of an outside effect that did happen. SG001, SG002, SG003, SG004.';

CREATE FUNCTION saga.fail_step(
  saga_id uuid, step text, error text, retryable boolean DEFAULT true,
  forward_key text DEFAULT NULL) RETURNS saga.step_result
  AS 'MODULE_PATHNAME', 'saga_sql_fail_step'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.fail_step(uuid, text, text, boolean, text) IS
  'Records a failed attempt of a step and returns when to try again (retry_at, null: no more). Undoes nothing: that is saga.fail. SG001, SG002, SG004.';

CREATE FUNCTION saga.complete(
  saga_id uuid, result jsonb DEFAULT NULL, ignore_failed boolean DEFAULT false,
  when_done boolean DEFAULT false)
  RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_complete'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.complete(uuid, jsonb, boolean, boolean) IS
  'Completes a saga and returns its state. With when_done, seals it: it takes no new step from outside, and completes by itself once all are done; its result is the output of the step recorded last, unless one is given. SG002: a step is started, or failed with a compensation, or the saga is not running. SG001.';

CREATE FUNCTION saga.fail(
  saga_id uuid, reason text DEFAULT NULL, details jsonb DEFAULT NULL)
  RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_fail'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.fail(uuid, text, jsonb) IS
  'Fails a saga for good: what its steps did will be undone, last started first. Returns its state. Waits for steps in open transactions at most the lock_timeout. SG001, SG002.';

CREATE FUNCTION saga.cancel(saga_id uuid, reason text DEFAULT NULL)
  RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_cancel'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.cancel(uuid, text) IS
  'As saga.fail, with failure_kind cancelled.';

CREATE FUNCTION saga.rollback_to(
  saga_id uuid, step text, reason text DEFAULT NULL) RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_rollback_to'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.rollback_to(uuid, text, text) IS
  'Undoes every step that started after that step (null: all), newest first; then the saga is running again, and the keys of what was undone may be started afresh. Returns its state. After Garcia-Molina and Salem (1987), backward/forward recovery from a savepoint. SG001; SG002: no savepoint, a pivot after it, or the saga is failing for good; SG004.';

CREATE FUNCTION saga.signal(
  saga_id uuid, signal text, payload jsonb DEFAULT NULL,
  idempotency_key text DEFAULT NULL, late text DEFAULT 'error') RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_signal'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.signal(uuid, text, jsonb, text, text) IS
  'Sends a signal to a saga, committed with the caller''s transaction; the step that waits for it, or comes to wait for it, uses it. Locks nothing and waits for nobody. A repeated key has no effect. Returns the saga''s state. Once the undo has begun it raises SG005, or with late => ''record'' keeps it. SG001; SG002: it is finished; SG003: the same key with another payload; SG009: a limit.';

CREATE FUNCTION saga.plan(saga_id uuid)
  RETURNS TABLE ("position" integer, seq bigint, step text, action text, detail text)
  AS 'MODULE_PATHNAME', 'saga_sql_plan'
  LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;

COMMENT ON FUNCTION saga.plan(uuid) IS
  'What a failure now would do, in order: sql, notify or person, and with which policy. It ends where the undo would stop for a person. SG001.';

CREATE FUNCTION saga.timeline(saga_id uuid, width integer DEFAULT 60)
  RETURNS TABLE (
    step text, phase text, attempt integer, outcome text, began timestamptz,
    duration interval, bar text)
  AS 'MODULE_PATHNAME', 'saga_sql_timeline'
  LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;

COMMENT ON FUNCTION saga.timeline(uuid, integer) IS
  'A saga''s attempts in the order in which they began, each with a bar: > forward, < undo, - waiting, . pausing before another attempt. The first row, the saga itself, is the scale. Many are shown some together. SG001.';

CREATE FUNCTION saga.picture(saga_id uuid, format text DEFAULT 'svg') RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_picture'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.picture(uuid, text) IS
  'A saga as a drawing: svg, its attempts as bars of time; or mermaid, its steps and their order. SG001.';

CREATE FUNCTION saga.wait(
  saga_id uuid, timeout interval DEFAULT '1 minute', until text DEFAULT NULL)
  RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_wait'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.wait(uuid, interval, text) IS
  'Waits until the saga is completed, compensated, abandoned, in need of review, or in the state named, and returns its state; at the timeout, returns the current state. SG001, SG008.';

CREATE FUNCTION saga.wait_step(
  saga_id uuid, step text, timeout interval DEFAULT '1 minute')
  RETURNS saga.step_result
  AS 'MODULE_PATHNAME', 'saga_sql_wait_step'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.wait_step(uuid, text, interval) IS
  'Waits until the step is done, given up or parked, or its saga rests, and returns what is known of it; at the timeout, as it is then. SG001, SG004, SG008.';

CREATE FUNCTION saga.find(name text, idempotency_key text) RETURNS uuid
  AS 'MODULE_PATHNAME', 'saga_sql_find'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.find(text, text) IS
  'The caller''s own saga by its name and idempotency key, or null.';

CREATE FUNCTION saga.again(
  delay interval DEFAULT '0', state jsonb DEFAULT NULL, not_before timestamptz DEFAULT NULL) RETURNS void
  AS 'MODULE_PATHNAME', 'saga_sql_again'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION saga.again(interval, jsonb, timestamptz) IS
  'From the action of a step: what it did is committed as a round, and the action is run again, so long after that and not before this, with the state. SG002: no action is running; SG009: the state is too large.';

CREATE FUNCTION saga.current() RETURNS uuid
  AS 'MODULE_PATHNAME', 'saga_sql_current'
  LANGUAGE C STABLE PARALLEL RESTRICTED;

COMMENT ON FUNCTION saga.current() IS
  'Inside an action or a compensation: its saga; elsewhere null.';

CREATE FUNCTION saga.output(step text, saga_id uuid DEFAULT saga.current()) RETURNS jsonb
  AS 'MODULE_PATHNAME', 'saga_sql_output'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.output(text, uuid) IS
  'The output of a step, if its newest run is completed; null otherwise. SG001, SG004.';

CREATE FUNCTION saga.retry_policy(
  max_attempts integer DEFAULT NULL, delay interval DEFAULT NULL,
  backoff text DEFAULT NULL, max_delay interval DEFAULT NULL,
  jitter double precision DEFAULT NULL, timeout interval DEFAULT NULL)
  RETURNS saga.retry_policy
  AS 'MODULE_PATHNAME', 'saga_sql_retry_policy'
  LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION saga.retry_policy(integer, interval, text, interval, double precision, interval) IS
  'Makes a retry policy; what is left null takes the setting in force when the step starts.';

CREATE FUNCTION saga.require(condition boolean, message text) RETURNS void
  AS 'MODULE_PATHNAME', 'saga_sql_require'
  LANGUAGE C VOLATILE PARALLEL SAFE;

COMMENT ON FUNCTION saga.require(boolean, text) IS
  'Raises SG006 with the message unless the condition is true: an action that calls it is given up, as its step''s on_failure says; for a compensation, a person decides.';

CREATE FUNCTION saga.retry_policy(policy jsonb) RETURNS saga.retry_policy
  AS 'MODULE_PATHNAME', 'saga_sql_retry_policy_json'
  LANGUAGE C STABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION saga.retry_policy(jsonb) IS
  'Makes a retry policy from an object whose keys are its fields: {"max_attempts": 3, "delay": "5 s"}.';

-- ---------------------------------------------------------------------------
-- Functions of listeners
-- ---------------------------------------------------------------------------

CREATE FUNCTION saga.claim_compensations(
  channel text, max_claims integer DEFAULT 1,
  lease interval DEFAULT '1 minute', consumer text DEFAULT NULL)
  RETURNS TABLE (
    saga_id uuid, step text, seq bigint, attempt integer,
    compensation_key text, context jsonb, lease_until timestamptz)
  AS 'MODULE_PATHNAME', 'saga_sql_claim_compensations'
  LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;

COMMENT ON FUNCTION saga.claim_compensations(text, integer, interval, text) IS
  'Claims compensations that wait on a channel, of sagas of the caller''s roles, oldest first; no two callers get the same. An attempt begins with the claim and must be reported before lease_until. SG008: nothing is undone here.';

CREATE FUNCTION saga.extend_claim(
  compensation_key text, attempt integer, lease interval) RETURNS timestamptz
  AS 'MODULE_PATHNAME', 'saga_sql_extend_claim'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.extend_claim(text, integer, interval) IS
  'Extends a claim, of a task or a compensation, to the given time from now, within the timeout of the policy, and returns its new end. SG002: that attempt is over. SG001, SG004.';

CREATE FUNCTION saga.complete_compensation(
  compensation_key text, output jsonb DEFAULT NULL) RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_complete_compensation'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.complete_compensation(text, jsonb) IS
  'Acknowledges that a compensation was done, no matter by which listener and how late; returns the compensation''s status. SG002: it was never dispatched. SG001, SG004.';

CREATE FUNCTION saga.fail_compensation(
  compensation_key text, attempt integer, error text,
  retryable boolean DEFAULT true, retry_after interval DEFAULT NULL)
  RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_fail_compensation'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.fail_compensation(text, integer, text, boolean, interval) IS
  'Reports that an attempt failed. Returns pending: it will be tried again; failed: it is given up; stale: that attempt is over, and nothing changes. SG001, SG002, SG004.';

CREATE FUNCTION saga.claim_tasks(
  channel text, max_claims integer DEFAULT 1,
  lease interval DEFAULT '1 minute', consumer text DEFAULT NULL)
  RETURNS TABLE (
    saga_id uuid, name text, step text, seq bigint, phase text, attempt integer,
    task_key text, context jsonb, lease_until timestamptz)
  AS 'MODULE_PATHNAME', 'saga_sql_claim_tasks'
  LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;

COMMENT ON FUNCTION saga.claim_tasks(text, integer, interval, text) IS
  'Claims what waits on a channel, of sagas of the caller''s roles: tasks of steps (phase forward) and compensations, owners and phases in turn, oldest first; no two callers get the same. An attempt begins with the claim and must be reported before lease_until. SG008: nothing is done here.';

CREATE FUNCTION saga.complete_task(
  task_key text, output jsonb DEFAULT NULL, attempt integer DEFAULT NULL)
  RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_complete_task'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.complete_task(text, jsonb, integer) IS
  'Reports that a task or a compensation was done, no matter by whom and how late, unless attempt says that only that attempt may have done it; returns the status of the step or of its compensation. A task that nobody has claimed begins with it. SG002: a gate of the step is closed, it has no task, or the attempt is over. SG001, SG004.';

CREATE FUNCTION saga.fail_task(
  task_key text, attempt integer, error text,
  retryable boolean DEFAULT true, retry_after interval DEFAULT NULL)
  RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_fail_task'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.fail_task(text, integer, text, boolean, interval) IS
  'Reports that an attempt at a task or a compensation failed: it is made again by the policy or after retry_after, or given up. Returns failed; of a compensation pending: it will be tried again; stale: that attempt is over, and nothing changes. SG001, SG002, SG004.';

CREATE FUNCTION saga.limit(
  channel text, max_claimed integer DEFAULT NULL,
  paused_until timestamptz DEFAULT NULL) RETURNS void
  AS 'MODULE_PATHNAME', 'saga_sql_limit'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.limit(text, integer, timestamptz) IS
  'Limits what the calling role claims on a channel, tasks and compensations together: how many it holds at a time, and until when it claims nothing. What is null is no limit.';

-- ---------------------------------------------------------------------------
-- Functions of people who decide
-- ---------------------------------------------------------------------------

CREATE FUNCTION saga.resolve(
  saga_id uuid, step text, resolution text, note text,
  output jsonb DEFAULT NULL) RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_resolve'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.resolve(uuid, text, text, text, jsonb) IS
  'Settles a step that waits for a decision: retry (run its compensation, or its action, with all its attempts again), done (by hand: it was undone or, with its output, the work was done) or skip (there is nothing to do); or the approval of a step: approve or refuse. The saga goes on at once. Returns the saga''s state. SG001; SG002: it is not waiting for a decision, and who took it; SG004.';

CREATE FUNCTION saga.abandon(saga_id uuid, note text) RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_abandon'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.abandon(uuid, text) IS
  'Gives up a saga that waits for a decision: nothing more is undone. SG001; SG002: it is not waiting for a decision.';

CREATE FUNCTION saga.reopen(saga_id uuid, note text) RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_reopen'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.reopen(uuid, text) IS
  'Lets a saga that failed after its pivot go forward again, without a deadline. SG001; SG002: the saga did not fail after its pivot.';

CREATE FUNCTION saga.pause(saga_id uuid, note text) RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_pause'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.pause(uuid, text) IS
  'Nothing of the saga is run or undone until saga.resume; an attempt under way ends, and a deadline that passes waits. Returns its state. SG001; SG002: it is finished.';

CREATE FUNCTION saga.resume(saga_id uuid, note text DEFAULT NULL) RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_resume'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.resume(uuid, text) IS
  'Lets a paused saga go on. Returns its state. SG001; SG002: it is finished.';

CREATE FUNCTION saga.set_timeout(
  saga_id uuid, timeout interval, note text DEFAULT NULL) RETURNS timestamptz
  AS 'MODULE_PATHNAME', 'saga_sql_set_timeout'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.set_timeout(uuid, interval, text) IS
  'Moves the deadline of a saga that has not failed to the given time from now, or clears it (0). Returns the deadline. SG001; SG002: it has failed, or is finished.';

CREATE FUNCTION saga.amend(
  saga_id uuid, step text, note text, compensation text DEFAULT NULL,
  notify text DEFAULT NULL, compensation_retry saga.retry_policy DEFAULT NULL)
  RETURNS void
  AS 'MODULE_PATHNAME', 'saga_sql_amend'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.amend(uuid, text, text, text, text, saga.retry_policy) IS
  'Changes how a recorded step is undone, as long as it is not; for the role that recorded it only. SG001; SG002: it is undone, or being undone at this moment; SG004; SG010: another role recorded it.';

CREATE FUNCTION saga.redact(saga_id uuid) RETURNS void
  AS 'MODULE_PATHNAME', 'saga_sql_redact'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.redact(uuid) IS
  'A finished saga forgets input, subject, result, args, outputs and the texts of errors; its keys go on working, by a hash. SG001; SG002: it is not finished.';

CREATE FUNCTION saga.purge(
  older_than interval, max_sagas integer DEFAULT 10000) RETURNS bigint
  AS 'MODULE_PATHNAME', 'saga_sql_purge'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.purge(interval, integer) IS
  'Deletes the caller''s sagas that finished more than older_than ago, oldest first. Returns how many; saga.purges tells it. Deletes those of all owners for superusers and the owner of the database.';

-- ---------------------------------------------------------------------------
-- Functions of the DBA
-- ---------------------------------------------------------------------------

CREATE FUNCTION saga.adopt() RETURNS void
  AS 'MODULE_PATHNAME', 'saga_sql_adopt'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.adopt() IS
  'This copy of the database may run and undo steps from now on. Call it in one copy only. For superusers and the owner of the database; SG010 for others.';

CREATE FUNCTION saga.reassign(from_role oid, to_role regrole, from_name text = NULL) RETURNS bigint
  AS 'MODULE_PATHNAME', 'saga_sql_reassign'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.reassign(oid, regrole, text) IS
  'Gives the sagas of a role, known by its OID, and its name then, though it may be gone or renamed, to another, and lets its actions and compensations run as that one. Returns how many sagas. For superusers, and the owner of the database if a member of the new role; SG010 for others.';

CREATE FUNCTION saga.stat_reset() RETURNS void
  AS 'MODULE_PATHNAME', 'saga_sql_stat_reset'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.stat_reset() IS
  'Sets the counters of this database to zero: those of saga.stat and the views beside it. For superusers, and those to whom EXECUTE on it is granted.';

-- ---------------------------------------------------------------------------
-- A function for those who read
-- ---------------------------------------------------------------------------

CREATE FUNCTION saga.first_id(at timestamptz) RETURNS uuid
  AS 'MODULE_PATHNAME', 'saga_sql_first_id'
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION saga.first_id(timestamptz) IS
  'The smallest id that a saga begun at that time can have: ids are in the order of time, so that id >= saga.first_id(...) finds the sagas since then by the index.';

-- ---------------------------------------------------------------------------
-- Functions behind the views and the triggers
-- ---------------------------------------------------------------------------

-- The cost: a condition of the reader that cannot leak, as on the state, is
-- cheaper and comes first.
CREATE FUNCTION saga.internal_may_see(owner oid, owner_name text) RETURNS boolean
  AS 'MODULE_PATHNAME', 'saga_sql_may_see'
  LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10;

COMMENT ON FUNCTION saga.internal_may_see(oid, text) IS
  'May the current user see that owner''s sagas, perhaps without what is in them?';

CREATE FUNCTION saga.internal_may_read(owner oid, owner_name text) RETURNS boolean
  AS 'MODULE_PATHNAME', 'saga_sql_may_read'
  LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10;

COMMENT ON FUNCTION saga.internal_may_read(oid, text) IS
  'May the current user also read payloads, errors and SQL of that owner''s sagas?';

CREATE FUNCTION saga.internal_state("char") RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_state_name'
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION saga.internal_state("char") IS 'The word for a stored state of a saga.';

CREATE FUNCTION saga.internal_policy(text) RETURNS saga.retry_policy
  AS 'MODULE_PATHNAME', 'saga_sql_policy'
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION saga.internal_policy(text) IS 'A stored retry policy.';

CREATE FUNCTION saga.internal_forward_key(saga uuid, seq bigint) RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_forward_key'
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION saga.internal_forward_key(uuid, bigint) IS 'The forward key of a run of a step.';

CREATE FUNCTION saga.internal_compensation_key(saga uuid, seq bigint) RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_compensation_key'
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION saga.internal_compensation_key(uuid, bigint) IS 'The compensation key of a run of a step.';

CREATE FUNCTION saga.internal_is_running(saga uuid, seq bigint) RETURNS boolean
  AS 'MODULE_PATHNAME', 'saga_sql_is_running'
  LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION saga.internal_is_running(uuid, bigint) IS 'Is the step''s SQL compensation running at this moment?';

CREATE FUNCTION saga.internal_running(
  OUT saga uuid, OUT phase "char", OUT seq bigint, OUT attempt integer, OUT pid integer, OUT role oid,
  OUT since timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'saga_sql_running'
  LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION saga.internal_running() IS 'The SQL of steps that runs at this moment, of the sagas that the reader may see.';

CREATE FUNCTION saga.internal_next_action(
  saga uuid, state "char", paused boolean, deadline timestamptz,
  due timestamptz, lane oid, step text, parked text,
  channel text DEFAULT NULL, dispatched_at timestamptz DEFAULT NULL,
  lease_until timestamptz DEFAULT NULL, consumer text DEFAULT NULL,
  runs "char" DEFAULT NULL)
  RETURNS text
  AS 'MODULE_PATHNAME', 'saga_sql_next_action'
  LANGUAGE C STABLE PARALLEL RESTRICTED;

COMMENT ON FUNCTION saga.internal_next_action(uuid, "char", boolean, timestamptz, timestamptz, oid, text, text, text, timestamptz, timestamptz, text, "char") IS
  'What happens next to a saga, or who must do what, in words.';

CREATE FUNCTION saga.internal_waits(saga uuid, paused boolean)
  RETURNS TABLE (seq bigint, waits_for text)
  AS 'MODULE_PATHNAME', 'saga_sql_waits'
  LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION saga.internal_waits(uuid, boolean) IS
  'For saga.steps: what the steps of a running saga that saga runs wait for, in words.';

CREATE FUNCTION saga.internal_now() RETURNS timestamptz
  AS 'MODULE_PATHNAME', 'saga_sql_now'
  LANGUAGE C STABLE PARALLEL RESTRICTED;

COMMENT ON FUNCTION saga.internal_now() IS 'The time by the clock that the ledger goes by.';

CREATE FUNCTION saga.internal_health(
  OUT severity text, OUT code text, OUT finding text, OUT hint text, OUT since timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'saga_sql_health'
  LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 1;

COMMENT ON FUNCTION saga.internal_health() IS 'For saga.health: what is wrong with the server.';

CREATE FUNCTION saga.internal_stat_sagas(
  OUT name text, OUT begun bigint, OUT completed bigint, OUT failed bigint, OUT step_failed bigint,
  OUT canceled bigint, OUT timed_out bigint, OUT compensated bigint, OUT abandoned bigint,
  OUT parked bigint, OUT stats_reset timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'saga_sql_stat_sagas'
  LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 20;

COMMENT ON FUNCTION saga.internal_stat_sagas() IS 'For saga.stat: the counters of each kind of saga and owner that the reader may see.';

CREATE FUNCTION saga.internal_stat_attempts(
  OUT phase text, OUT outcome text, OUT attempts bigint, OUT total_ms double precision,
  OUT stats_reset timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'saga_sql_stat_attempts'
  LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION saga.internal_stat_attempts() IS 'For saga.stat_attempts.';

CREATE FUNCTION saga.internal_stat_channels(
  OUT channel text, OUT dispatched bigint, OUT claimed bigint, OUT acknowledged bigint, OUT failed bigint,
  OUT leases_ended bigint, OUT stats_reset timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'saga_sql_stat_channels'
  LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 20;

COMMENT ON FUNCTION saga.internal_stat_channels() IS 'For saga.stat_channels: the counters of each channel and owner that the reader may see.';

CREATE FUNCTION saga.internal_stat_times(
  OUT what text, OUT le_ms double precision, OUT count bigint, OUT total_ms double precision,
  OUT stats_reset timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'saga_sql_stat_times'
  LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 66;

COMMENT ON FUNCTION saga.internal_stat_times() IS 'For saga.stat_times.';

CREATE FUNCTION saga.internal_stat_workers(
  OUT worker_starts bigint, OUT wakeups bigint, OUT executor_starts bigint, OUT executor_idle_ms double precision,
  OUT stats_reset timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'saga_sql_stat_workers'
  LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;

COMMENT ON FUNCTION saga.internal_stat_workers() IS 'For saga.stat_workers.';

CREATE FUNCTION saga.internal_settle_home() RETURNS void
  AS 'MODULE_PATHNAME', 'saga_sql_settle_home'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.internal_settle_home() IS 'Writes down where the ledger is at home; for this script.';

CREATE FUNCTION saga.internal_guard() RETURNS trigger
  AS 'MODULE_PATHNAME', 'saga_sql_guard'
  LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION saga.internal_guard() IS 'Refuses SQL writes to the ledger by anyone but superusers, and marks a copy.';

-- ---------------------------------------------------------------------------
-- Guard triggers
--
-- ENABLE ALWAYS: session_replication_role and logical replication included.
-- ---------------------------------------------------------------------------

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_saga
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_saga
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_saga ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_saga ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_step
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_step
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_step ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_step ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_attempt
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_attempt
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_attempt ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_attempt ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_event
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_event
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_event ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_event ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_due
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_due
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_due ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_due ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_queue
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_queue
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_queue ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_queue ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_held
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_held
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_held ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_held ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_signal
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_signal
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_signal ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_signal ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_limit
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_limit
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_limit ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_limit ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_claimed
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_claimed
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_claimed ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_claimed ENABLE ALWAYS TRIGGER guard_truncate;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON saga.ledger_home
  FOR EACH ROW EXECUTE FUNCTION saga.internal_guard();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON saga.ledger_home
  FOR EACH STATEMENT EXECUTE FUNCTION saga.internal_guard();
ALTER TABLE saga.ledger_home ENABLE ALWAYS TRIGGER guard;
ALTER TABLE saga.ledger_home ENABLE ALWAYS TRIGGER guard_truncate;

-- ---------------------------------------------------------------------------
-- Views
--
-- They read the tables with the rights of the extension's owner and show each
-- reader what internal_may_see and internal_may_read allow.  A reader's own functions must not see
-- rows before that.  Two kinds of views see to it:
--
-- Barriers.  Conditions of the reader get in only if they cannot leak, so that
-- a key, a range of ids or a state finds its index; joins do not get in.
--
-- Views of what belongs to a saga.  Here joins must get in.  So the outermost
-- query joins a table, of which it shows nothing, with a subquery that refers to
-- it, looks at the rights, and is fenced by OFFSET 0: the planner moves nothing
-- into or out of such a one.  All that the reader can name are its columns.  The
-- equality at the end tells the planner what it may use to find the rows of the
-- table: any saga_id that it knows by then.
--
-- What is computed for a column is a subquery or STABLE, so that nobody pays for
-- a column that is not selected.
-- ---------------------------------------------------------------------------

CREATE VIEW saga.sagas WITH (security_barrier) AS
  SELECT
    s.id, s.name, s.key AS idempotency_key, s.subject,
    saga.internal_state(s.state) AS state,
    CASE s.failure_kind
      WHEN 'f' THEN 'failed' WHEN 'c' THEN 'cancelled' WHEN 't' THEN 'timed out'
    END AS failure_kind,
    s.paused, s.owner::pg_catalog.regrole AS owner,
    CASE WHEN may.read THEN s.input END AS input,
    CASE WHEN may.read THEN s.result END AS result,
    CASE WHEN may.read THEN s.reason END AS reason,
    CASE WHEN may.read THEN s.details END AS details,
    (SELECT t.key FROM saga.ledger_step t
      WHERE t.saga OPERATOR(pg_catalog.=) s.id
        AND t.seq OPERATOR(pg_catalog.=) s.failed_seq) AS failed_step,
    (SELECT t.key FROM saga.ledger_step t
      WHERE t.saga OPERATOR(pg_catalog.=) s.id
        AND t.status OPERATOR(pg_catalog.=) 'c'::pg_catalog."char" AND t.rolled_back_at IS NULL
      ORDER BY COALESCE(t.begun, t.seq) DESC LIMIT 1) AS last_completed_step,
    (SELECT pg_catalog.count(*) FROM saga.ledger_step t
      WHERE t.saga OPERATOR(pg_catalog.=) s.id) AS steps,
    (SELECT
      saga.internal_next_action(
        s.id, s.state, s.paused, s.deadline, s.due, s.lane,
        CASE WHEN s.parked IS NULL OR s.state OPERATOR(pg_catalog.<>) 'p'::pg_catalog."char" THEN next.key END,
        CASE WHEN may.read
          THEN COALESCE(s.parked, next.parked) END,
        next.channel,
        CASE WHEN next.comp_status OPERATOR(pg_catalog.=) 'd'::pg_catalog."char" THEN next.dispatched_at END,
        next.lease_until, next.consumer, s.runs)
      FROM (VALUES (1)) once
      LEFT JOIN LATERAL (
        SELECT t.key, t.parked, t.channel, t.comp_status, t.dispatched_at,
          t.lease_until, t.consumer
        FROM saga.ledger_step t
        WHERE t.saga OPERATOR(pg_catalog.=) s.id
          AND s.state OPERATOR(pg_catalog.=) ANY ('{u,p}'::pg_catalog."char"[])
          AND CASE WHEN t.rolled_back_at IS NULL
            THEN COALESCE(s.undo, 'f') OPERATOR(pg_catalog.<>) 'l'::pg_catalog."char"
              AND COALESCE(t.begun, t.seq) OPERATOR(pg_catalog.>) COALESCE(s.savepoint, 0)
              -- What never began is not undone, nor what the walk passes over.
              AND (t.give_up IS NULL OR t.begun IS NOT NULL)
              AND (t.parked IS NOT NULL
                OR t.comp_status OPERATOR(pg_catalog.=) 'f'::pg_catalog."char"
                OR t.comp_status OPERATOR(pg_catalog.=) ANY ('{r,p,d}'::pg_catalog."char"[])
                  AND t.kind OPERATOR(pg_catalog.<>) 'r'::pg_catalog."char"
                  AND (t.compensate_on OPERATOR(pg_catalog.<>) 'c'::pg_catalog."char"
                    OR t.status OPERATOR(pg_catalog.=) 'c'::pg_catalog."char" OR t.rounds IS NOT NULL))
            -- A late result opened it again.
            ELSE t.parked IS NOT NULL
              OR t.comp_status OPERATOR(pg_catalog.=) ANY ('{p,d}'::pg_catalog."char"[])
            END
        -- First the step that stopped the walk, not one that it went past.
        ORDER BY s.on_failure OPERATOR(pg_catalog.=) 'c'::pg_catalog."char"
            AND t.comp_status OPERATOR(pg_catalog.=) 'f'::pg_catalog."char",
          t.parked IS NULL,
          COALESCE(t.begun, t.seq) DESC LIMIT 1) next ON true) AS next_action,
    s.due AS next_action_at,
    s.deadline,
    s.state OPERATOR(pg_catalog.=) 'p'::pg_catalog."char" AS requires_review,
    s.started_at, s.updated_at, s.finished_at
  FROM saga.ledger_saga s
  CROSS JOIN LATERAL (
    SELECT saga.internal_may_see(s.owner, s.owner_name) AS see,
      saga.internal_may_read(s.owner, s.owner_name) AS read) may
  WHERE may.see
  -- The newest first: through the barrier no other order of an index gets out.
  ORDER BY s.id DESC;

COMMENT ON VIEW saga.sagas IS 'One row per saga that the reader may see.';
COMMENT ON COLUMN saga.sagas.id IS 'Time-ordered UUID (version 7).';
COMMENT ON COLUMN saga.sagas.name IS 'The kind of saga.';
COMMENT ON COLUMN saga.sagas.idempotency_key IS 'The caller''s name for this very operation.';
COMMENT ON COLUMN saga.sagas.subject IS 'Whom or what it is about.';
COMMENT ON COLUMN saga.sagas.state IS 'running, completed, compensating, compensated, needs_review or abandoned.';
COMMENT ON COLUMN saga.sagas.failure_kind IS 'failed, cancelled or timed out.';
COMMENT ON COLUMN saga.sagas.paused IS 'A person paused it: nothing is dispatched.';
COMMENT ON COLUMN saga.sagas.owner IS 'current_user at saga.begin.';
COMMENT ON COLUMN saga.sagas.input IS 'Input of saga.begin.';
COMMENT ON COLUMN saga.sagas.result IS 'Result of saga.complete.';
COMMENT ON COLUMN saga.sagas.reason IS 'Reason of the failure.';
COMMENT ON COLUMN saga.sagas.details IS 'Details of the failure.';
COMMENT ON COLUMN saga.sagas.failed_step IS 'Key of the step at which it failed.';
COMMENT ON COLUMN saga.sagas.last_completed_step IS 'Key of the step that started last of those completed.';
COMMENT ON COLUMN saga.sagas.steps IS 'How many steps it has, all runs counted.';
COMMENT ON COLUMN saga.sagas.next_action IS 'What happens next, or who must do what, in words.';
COMMENT ON COLUMN saga.sagas.next_action_at IS 'When something is due: an attempt, or the deadline.';
COMMENT ON COLUMN saga.sagas.deadline IS 'When it fails if it is still running.';
COMMENT ON COLUMN saga.sagas.requires_review IS 'No machine may go on; a person decides.';
COMMENT ON COLUMN saga.sagas.started_at IS 'When saga.begin was called.';
COMMENT ON COLUMN saga.sagas.updated_at IS 'When the saga itself last changed.';
COMMENT ON COLUMN saga.sagas.finished_at IS 'When it was completed, compensated or abandoned.';

CREATE VIEW saga.undoing WITH (security_barrier) AS
  SELECT
    b.id, b.name, b.idempotency_key, b.subject, b.state, b.failure_kind, b.paused, b.owner, b.input, b.result,
    b.reason, b.details, b.failed_step, b.last_completed_step, b.steps, b.next_action,
    b.next_action_at, b.deadline, b.requires_review, b.started_at, b.updated_at, b.finished_at
  -- Whatever is being undone is in one of these.
  FROM (
    SELECT u.saga FROM saga.ledger_due u WHERE u.seq OPERATOR(pg_catalog.=) 0
    UNION
    SELECT q.saga FROM saga.ledger_queue q
    UNION
    SELECT h.saga FROM saga.ledger_held h WHERE h.seq OPERATOR(pg_catalog.=) 0) w
  CROSS JOIN LATERAL (
    SELECT
      s.id, s.name, s.idempotency_key, s.subject, s.state, s.failure_kind, s.paused, s.owner, s.input, s.result,
      s.reason, s.details, s.failed_step, s.last_completed_step, s.steps, s.next_action,
      s.next_action_at, s.deadline, s.requires_review, s.started_at, s.updated_at, s.finished_at
    FROM saga.sagas s
    WHERE s.id OPERATOR(pg_catalog.=) w.saga
    -- Keeps it a subquery, which knows the id; lets conditions in, by which few
    -- may be left for which next_action is to be computed.
    ORDER BY s.id) b
  WHERE b.state OPERATOR(pg_catalog.=) ANY ('{compensating,needs_review}'::pg_catalog.text[]);

COMMENT ON VIEW saga.undoing IS 'Of saga.sagas those that are compensating or need review; found without looking at the others.';
COMMENT ON COLUMN saga.undoing.id IS 'Time-ordered UUID (version 7).';
COMMENT ON COLUMN saga.undoing.name IS 'The kind of saga.';
COMMENT ON COLUMN saga.undoing.idempotency_key IS 'The caller''s name for this very operation.';
COMMENT ON COLUMN saga.undoing.subject IS 'Whom or what it is about.';
COMMENT ON COLUMN saga.undoing.state IS 'running, completed, compensating, compensated, needs_review or abandoned.';
COMMENT ON COLUMN saga.undoing.failure_kind IS 'failed, cancelled or timed out.';
COMMENT ON COLUMN saga.undoing.paused IS 'A person paused it: nothing is dispatched.';
COMMENT ON COLUMN saga.undoing.owner IS 'current_user at saga.begin.';
COMMENT ON COLUMN saga.undoing.input IS 'Input of saga.begin.';
COMMENT ON COLUMN saga.undoing.result IS 'Result of saga.complete.';
COMMENT ON COLUMN saga.undoing.reason IS 'Reason of the failure.';
COMMENT ON COLUMN saga.undoing.details IS 'Details of the failure.';
COMMENT ON COLUMN saga.undoing.failed_step IS 'Key of the step at which it failed.';
COMMENT ON COLUMN saga.undoing.last_completed_step IS 'Key of the step that started last of those completed.';
COMMENT ON COLUMN saga.undoing.steps IS 'How many steps it has, all runs counted.';
COMMENT ON COLUMN saga.undoing.next_action IS 'What happens next, or who must do what, in words.';
COMMENT ON COLUMN saga.undoing.next_action_at IS 'When something is due: an attempt, or the deadline.';
COMMENT ON COLUMN saga.undoing.deadline IS 'When it fails if it is still running.';
COMMENT ON COLUMN saga.undoing.requires_review IS 'No machine may go on; a person decides.';
COMMENT ON COLUMN saga.undoing.started_at IS 'When saga.begin was called.';
COMMENT ON COLUMN saga.undoing.updated_at IS 'When the saga itself last changed.';
COMMENT ON COLUMN saga.undoing.finished_at IS 'When it was completed, compensated or abandoned.';

CREATE VIEW saga.steps AS
  SELECT
    b.saga_id, b.seq, b.position, b.name, b.key, b.run, b.kind, b.status, b.attempts, b.output,
    b.error, b.compensation_kind, b.compensation, b.args, b.channel, b.review, b.run_as,
    b.compensation_status, b.compensation_attempts, b.next_attempt_at, b.last_error, b.parked,
    b.compensated_at, b.compensation_output, b.started_at, b.completed_at, b.rolled_back_at,
    b.retry, b.compensation_retry, b.forward_key, b.compensation_key,
    b.action, b.task, b.after, b.delay, b.not_before, b.signals, b.approval,
    b.waits_for,
    b.ready_at, b.timeout_at, b.on_failure, b.begun, b.recorded_by, b.rounds, b.search_path
  FROM saga.ledger_saga o
  CROSS JOIN LATERAL (
    SELECT
      t.saga AS saga_id, t.seq,
      pg_catalog.row_number() OVER (ORDER BY COALESCE(t.begun, t.seq)) AS position,
      COALESCE(t.name, t.key) AS name, t.key, t.run,
      CASE t.kind
        WHEN 'c' THEN 'compensatable' WHEN 'p' THEN 'pivot' WHEN 'r' THEN 'retriable'
      END AS kind,
      CASE t.status
        WHEN 's' THEN 'started' WHEN 'c' THEN 'completed' WHEN 'f' THEN 'failed'
        WHEN 'k' THEN 'skipped'
        -- What waits in a saga that goes forward no more is never to begin.
        WHEN 'w' THEN CASE WHEN o.failure_kind IS NULL THEN 'waiting' ELSE 'skipped' END
      END AS status,
      t.attempts,
      CASE WHEN may.read THEN t.output END AS output,
      CASE WHEN may.read THEN t.error END AS error,
      CASE
        WHEN t.compensation IS NOT NULL THEN 'sql'
        WHEN t.channel IS NOT NULL THEN 'notify'
        WHEN t.review IS NOT NULL THEN 'review'
      END AS compensation_kind,
      CASE WHEN may.read THEN t.compensation END AS compensation,
      CASE WHEN may.read THEN t.args END AS args,
      t.channel,
      CASE WHEN may.read THEN t.review END AS review,
      t.run_as::pg_catalog.regrole AS run_as,
      CASE t.comp_status
        WHEN 'n' THEN 'none' WHEN 'd' THEN 'dispatched' WHEN 'c' THEN 'compensated'
        WHEN 'f' THEN 'failed' WHEN 's' THEN 'skipped'
        ELSE CASE
          WHEN t.give_up IS NOT NULL AND t.begun IS NULL AND o.failure_kind IS NOT NULL THEN 'skipped'
          WHEN NOT o.state OPERATOR(pg_catalog.=) ANY ('{u,p}'::pg_catalog."char"[]) OR o.undo IS NULL
            THEN CASE WHEN t.comp_status OPERATOR(pg_catalog.=) 'r'::pg_catalog."char"
                OR o.state OPERATOR(pg_catalog.=) ANY ('{r,d}'::pg_catalog."char"[])
              THEN 'registered' ELSE 'pending' END
          WHEN t.rolled_back_at IS NULL AND (o.undo OPERATOR(pg_catalog.=) 'l'::pg_catalog."char"
            OR COALESCE(t.begun, t.seq) OPERATOR(pg_catalog.<=) o.savepoint) THEN 'registered'
          WHEN saga.internal_is_running(t.saga, t.seq) THEN 'running'
          ELSE 'pending'
        END
      END AS compensation_status,
      COALESCE(t.comp_attempts, 0) AS compensation_attempts,
      t.comp_retry_at AS next_attempt_at,
      CASE WHEN may.read THEN t.comp_error END AS last_error,
      CASE WHEN may.read THEN t.parked END AS parked,
      t.compensated_at,
      CASE WHEN may.read THEN t.comp_output END AS compensation_output,
      t.started_at, t.completed_at, t.rolled_back_at,
      saga.internal_policy(COALESCE(t.retry, t.compensation_retry)) AS retry,
      saga.internal_policy(t.compensation_retry) AS compensation_retry,
      saga.internal_forward_key(t.saga, t.seq) AS forward_key,
      saga.internal_compensation_key(t.saga, t.seq) AS compensation_key,
      CASE WHEN may.read THEN t.action END AS action,
      t.task, t.after, t.delay, t.not_before, t.signals,
      CASE WHEN may.read THEN t.approval END AS approval,
      w.waits_for,
      CASE WHEN t.status OPERATOR(pg_catalog.=) ANY ('{s,f}'::pg_catalog."char"[]) THEN t.retry_at ELSE t.ready_at END AS ready_at,
      t.opened_at OPERATOR(pg_catalog.+) (t.timeout::pg_catalog.float8 OPERATOR(pg_catalog.*) '00:00:00.001'::pg_catalog.interval) AS timeout_at,
      CASE t.give_up WHEN 'f' THEN 'fail' WHEN 's' THEN 'skip' WHEN 'r' THEN 'review' END AS on_failure,
      t.begun, t.recorded_by, COALESCE(t.rounds, 0) AS rounds,
      CASE WHEN may.read THEN t.search_path END AS search_path
    FROM saga.ledger_step t
    CROSS JOIN LATERAL (
    SELECT saga.internal_may_see(o.owner, o.owner_name) AS see,
      saga.internal_may_read(o.owner, o.owner_name) AS read) may
    LEFT JOIN (
      SELECT i.seq, i.waits_for FROM saga.internal_waits(o.id, o.paused) i
      WHERE o.runs IS NOT NULL AND o.state OPERATOR(pg_catalog.=) 'r'::pg_catalog."char") w
      ON w.seq OPERATOR(pg_catalog.=) t.seq
    WHERE t.saga OPERATOR(pg_catalog.=) o.id
      AND may.see
    OFFSET 0) b
  WHERE b.saga_id OPERATOR(pg_catalog.=) o.id;

COMMENT ON VIEW saga.steps IS 'One row per run of a step of the sagas that the reader may see.';
COMMENT ON COLUMN saga.steps.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.steps.seq IS 'Start order: larger is later; not dense.';
COMMENT ON COLUMN saga.steps.position IS '1, 2, 3 ... by start order.';
COMMENT ON COLUMN saga.steps.name IS 'Its name.';
COMMENT ON COLUMN saga.steps.key IS 'Its key: the idempotency key, or the name.';
COMMENT ON COLUMN saga.steps.run IS 'Run of the key, from 1.';
COMMENT ON COLUMN saga.steps.kind IS 'compensatable, pivot or retriable.';
COMMENT ON COLUMN saga.steps.status IS 'waiting, started, completed, failed or skipped.';
COMMENT ON COLUMN saga.steps.attempts IS 'Forward attempts so far.';
COMMENT ON COLUMN saga.steps.output IS 'Its output.';
COMMENT ON COLUMN saga.steps.error IS 'Error of its last failed attempt.';
COMMENT ON COLUMN saga.steps.compensation_kind IS 'sql, notify, review, or null.';
COMMENT ON COLUMN saga.steps.compensation IS 'Compensating SQL.';
COMMENT ON COLUMN saga.steps.args IS 'Arguments for the action or task, and for the compensation.';
COMMENT ON COLUMN saga.steps.channel IS 'Channel of the listeners that compensate.';
COMMENT ON COLUMN saga.steps.review IS 'Words for the person who must look first.';
COMMENT ON COLUMN saga.steps.run_as IS 'The role that its SQL runs as.';
COMMENT ON COLUMN saga.steps.compensation_status IS 'none, registered, pending, running, dispatched, compensated, failed or skipped.';
COMMENT ON COLUMN saga.steps.compensation_attempts IS 'Attempts of the compensation so far.';
COMMENT ON COLUMN saga.steps.next_attempt_at IS 'When the compensation is tried next.';
COMMENT ON COLUMN saga.steps.last_error IS 'Message of the compensation''s last failure.';
COMMENT ON COLUMN saga.steps.parked IS 'Why a person must decide about this step.';
COMMENT ON COLUMN saga.steps.compensated_at IS 'When it was compensated.';
COMMENT ON COLUMN saga.steps.compensation_output IS 'What the listener that compensated it reported.';
COMMENT ON COLUMN saga.steps.started_at IS 'When this run started.';
COMMENT ON COLUMN saga.steps.completed_at IS 'When it completed.';
COMMENT ON COLUMN saga.steps.rolled_back_at IS 'When a partial undo was done that this run was part of: it counts no longer.';
COMMENT ON COLUMN saga.steps.retry IS 'Retry policy of the step.';
COMMENT ON COLUMN saga.steps.compensation_retry IS 'Retry policy of the compensation.';
COMMENT ON COLUMN saga.steps.forward_key IS 'Idempotency key of its effect outside.';
COMMENT ON COLUMN saga.steps.compensation_key IS 'Idempotency key of undoing it.';
COMMENT ON COLUMN saga.steps.action IS 'The work of a step that saga runs: SQL.';
COMMENT ON COLUMN saga.steps.task IS 'Or: the channel of the services that do it.';
COMMENT ON COLUMN saga.steps.after IS 'Gate 1: after these steps; null: after all recorded before it by the same recorder.';
COMMENT ON COLUMN saga.steps.delay IS 'Gate 2: so long after gate 1 opened.';
COMMENT ON COLUMN saga.steps.not_before IS 'Gate 2: not before this.';
COMMENT ON COLUMN saga.steps.signals IS 'Gate 3: any one of these.';
COMMENT ON COLUMN saga.steps.approval IS 'Gate 4: words for the person who must approve it.';
COMMENT ON COLUMN saga.steps.waits_for IS 'What a step that does not move waits for, in words.';
COMMENT ON COLUMN saga.steps.ready_at IS 'When it is, or was, ready to begin, or to be tried again.';
COMMENT ON COLUMN saga.steps.timeout_at IS 'When it fails if it is not done.';
COMMENT ON COLUMN saga.steps.on_failure IS 'What follows when it is given up: fail, skip or review; null: the application runs it.';
COMMENT ON COLUMN saga.steps.begun IS 'When saga began it, in the start order.';
COMMENT ON COLUMN saga.steps.recorded_by IS 'seq of the step whose action recorded it.';
COMMENT ON COLUMN saga.steps.rounds IS 'Rounds of its action that committed.';
COMMENT ON COLUMN saga.steps.search_path IS 'search_path of its SQL, null for the built-in default.';

CREATE VIEW saga.attempts AS
  SELECT
    b.saga_id, b.seq, b.phase, b.attempt, b.outcome, b.sqlstate, b.error, b.rows, b.started_at,
    b.finished_at, b.consumer
  FROM saga.ledger_saga o
  CROSS JOIN LATERAL (
    SELECT
      o.id AS saga_id, a.seq, a.phase, a.attempt, a.outcome,
      CASE WHEN may.read THEN a.sqlstate END AS sqlstate,
      CASE WHEN may.read THEN a.error END AS error,
      a.rows, a.started_at, a.finished_at, a.consumer
    FROM (
      SELECT
        h.seq,
        CASE h.phase WHEN 'f' THEN 'forward' ELSE 'compensation' END AS phase,
        h.attempt,
        CASE h.outcome
          WHEN 's' THEN 'succeeded' WHEN 'f' THEN 'failed' WHEN 'i' THEN 'interrupted'
          WHEN 't' THEN 'timed out' WHEN 'd' THEN 'deferred'
        END AS outcome,
        h.sqlstate, h.error, h.rows, h.started_at, h.finished_at, h.consumer
      FROM saga.ledger_attempt h
      WHERE h.saga OPERATOR(pg_catalog.=) o.id
      UNION ALL
      -- The last forward attempt is recorded in the step's own row, unless it failed.  Of an action
      -- that is run again, the attempt goes on, with a number of its own once it ends.
      SELECT
        t.seq, 'forward',
        CASE WHEN t.status OPERATOR(pg_catalog.=) 's'::pg_catalog."char"
               AND (t.rounds IS NOT NULL OR t.task IS NOT NULL)
          THEN t.attempts OPERATOR(pg_catalog.+) 1 ELSE t.attempts END,
        CASE
          WHEN t.status OPERATOR(pg_catalog.=) 'c'::pg_catalog."char" THEN 'succeeded'
          WHEN o.state OPERATOR(pg_catalog.<>) 'r'::pg_catalog."char" OR t.rolled_back_at IS NOT NULL
            THEN 'interrupted'
        END,
        NULL, NULL, NULL, COALESCE(t.attempt_at, t.started_at), t.completed_at,
        CASE WHEN t.task IS NOT NULL THEN t.consumer END
      FROM saga.ledger_step t
      WHERE t.saga OPERATOR(pg_catalog.=) o.id
        AND (t.status OPERATOR(pg_catalog.=) 'c'::pg_catalog."char"
             OR t.status OPERATOR(pg_catalog.=) 's'::pg_catalog."char"
                -- Of a task whose claim has ended, that is recorded.
                AND (t.task IS NULL OR t.claimed_at IS NOT NULL))
      UNION ALL
      -- What a listener holds.
      SELECT
        t.seq, 'compensation',
        COALESCE(t.comp_attempts, 0) OPERATOR(pg_catalog.+) 1,
        NULL, NULL, NULL, NULL, t.claimed_at, NULL, t.consumer
      FROM saga.ledger_step t
      WHERE t.saga OPERATOR(pg_catalog.=) o.id
        AND t.claimed_at IS NOT NULL
        AND t.comp_status OPERATOR(pg_catalog.=) 'd'::pg_catalog."char"
    ) a
    CROSS JOIN LATERAL (
    SELECT saga.internal_may_see(o.owner, o.owner_name) AS see,
      saga.internal_may_read(o.owner, o.owner_name) AS read) may
    WHERE may.see
    OFFSET 0) b
  WHERE b.saga_id OPERATOR(pg_catalog.=) o.id;

COMMENT ON VIEW saga.attempts IS 'Every attempt of every step and compensation that the reader may see.';
COMMENT ON COLUMN saga.attempts.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.attempts.seq IS 'The step.';
COMMENT ON COLUMN saga.attempts.phase IS 'forward or compensation.';
COMMENT ON COLUMN saga.attempts.attempt IS 'Number, from 1, without gaps.';
COMMENT ON COLUMN saga.attempts.outcome IS 'succeeded, failed, interrupted, timed out, deferred; null while under way.';
COMMENT ON COLUMN saga.attempts.sqlstate IS 'SQLSTATE of the failure.';
COMMENT ON COLUMN saga.attempts.error IS 'Message of the failure.';
COMMENT ON COLUMN saga.attempts.rows IS 'Rows of the last statement of its SQL.';
COMMENT ON COLUMN saga.attempts.started_at IS 'Its start.';
COMMENT ON COLUMN saga.attempts.finished_at IS 'Its end.';
COMMENT ON COLUMN saga.attempts.consumer IS 'The service that made it, as it calls itself.';

CREATE VIEW saga.events AS
  SELECT
    b.saga_id, b.position, b.at, b.event, b.seq, b.step, b.detail
  FROM saga.ledger_saga o
  CROSS JOIN LATERAL (
    SELECT
      o.id AS saga_id,
      pg_catalog.row_number() OVER (ORDER BY e.at, e.rank, e.seq) AS position,
      e.at, e.event, e.seq,
      (SELECT t.key FROM saga.ledger_step t
        WHERE t.saga OPERATOR(pg_catalog.=) o.id
          AND t.seq OPERATOR(pg_catalog.=) e.seq) AS step,
      CASE WHEN may.read THEN e.detail END AS detail
    FROM (
      SELECT 0 AS rank, o.started_at AS at, 'begun' AS event,
        NULL::bigint AS seq, NULL::pg_catalog.jsonb AS detail
      UNION ALL
      SELECT 1, t.started_at,
        CASE WHEN t.give_up IS NULL THEN 'step started' ELSE 'step recorded' END, t.seq, NULL
      FROM saga.ledger_step t
      WHERE t.saga OPERATOR(pg_catalog.=) o.id
      UNION ALL
      -- Another attempt may begin, and succeed, in the moment in which one ends.
      SELECT 3, t.completed_at, 'step completed', t.seq, NULL
      FROM saga.ledger_step t
      WHERE t.saga OPERATOR(pg_catalog.=) o.id AND t.status OPERATOR(pg_catalog.=) 'c'::pg_catalog."char"
      UNION ALL
      SELECT CASE h.phase WHEN 'f' THEN 2 ELSE 7 END, h.finished_at,
        CASE h.phase WHEN 'f' THEN 'step ' ELSE 'compensation ' END
        OPERATOR(pg_catalog.||) CASE h.outcome
          WHEN 's' THEN 'succeeded' WHEN 'f' THEN 'failed' WHEN 'i' THEN 'interrupted'
          WHEN 't' THEN 'timed out' WHEN 'd' THEN 'deferred'
        END,
        h.seq,
        pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
          'attempt', h.attempt, 'rows', h.rows, 'sqlstate', h.sqlstate, 'error', h.error))
      FROM saga.ledger_attempt h
      WHERE h.saga OPERATOR(pg_catalog.=) o.id
      UNION ALL
      -- Nobody acknowledges what succeeds by being dispatched.  All else is
      -- dispatched after what ended at that moment.
      SELECT CASE WHEN t.acknowledge THEN 8 ELSE 6 END, t.dispatched_at, 'compensation dispatched', t.seq,
        pg_catalog.jsonb_build_object('channel', t.channel)
      FROM saga.ledger_step t
      WHERE t.saga OPERATOR(pg_catalog.=) o.id AND t.dispatched_at IS NOT NULL
      UNION ALL
      -- What is parked or over was failing, or decided, first.
      SELECT
        CASE
          -- Because of that a step completed, or the saga failed.
          WHEN v.event OPERATOR(pg_catalog.=) ANY ('{resolved,step timed out}'::pg_catalog.text[]) THEN 2
          WHEN v.event OPERATOR(pg_catalog.=) ANY ('{failing,rolling back,amended,reopened,paused,resumed,deadline set}'::pg_catalog.text[]) THEN 4
          WHEN v.event OPERATOR(pg_catalog.=) 'compensation dispatched' THEN (
            SELECT CASE WHEN t.acknowledge THEN 8 ELSE 6 END
            FROM saga.ledger_step t
            WHERE t.saga OPERATOR(pg_catalog.=) v.saga AND t.seq OPERATOR(pg_catalog.=) v.seq)
          WHEN v.event OPERATOR(pg_catalog.=) 'parked' THEN 9
          WHEN v.event OPERATOR(pg_catalog.=) 'abandoned' THEN 10
          ELSE 8
        END,
        v.at, v.event, NULLIF(v.seq, 0),
        pg_catalog.jsonb_strip_nulls(
          -- What a machine did, nobody did.
          CASE WHEN NOT v.event OPERATOR(pg_catalog.=) ANY ('{compensation dispatched,parked,rolled back,running again,step parked,step timed out}'::pg_catalog.text[])
            THEN pg_catalog.jsonb_build_object('by', v.actor) ELSE '{}'::pg_catalog.jsonb END
          OPERATOR(pg_catalog.||) COALESCE(v.detail, '{}'::pg_catalog.jsonb)
          OPERATOR(pg_catalog.-) 'to_undo'::pg_catalog.text)
      FROM saga.ledger_event v
      WHERE v.saga OPERATOR(pg_catalog.=) o.id
      UNION ALL
      SELECT 5, v.at, 'undo started', NULL,
        pg_catalog.jsonb_build_object('steps', v.detail OPERATOR(pg_catalog.->) 'to_undo')
      FROM saga.ledger_event v
      WHERE v.saga OPERATOR(pg_catalog.=) o.id
        AND (v.detail OPERATOR(pg_catalog.->>) 'to_undo')::bigint OPERATOR(pg_catalog.>) 0
      UNION ALL
      SELECT 10, o.finished_at, saga.internal_state(o.state), NULL, NULL
      WHERE o.finished_at IS NOT NULL
        -- For an abandoned one, the event of the decision shows it.
        AND o.state OPERATOR(pg_catalog.<>) 'a'::pg_catalog."char"
      UNION ALL
      -- What was sent and no step has used.
      SELECT 11, o.finished_at, 'signals unused', NULL,
        pg_catalog.jsonb_build_object('signals', u.signals)
      FROM (
        SELECT pg_catalog.count(*) AS signals
        FROM saga.ledger_signal g
        WHERE g.saga OPERATOR(pg_catalog.=) o.id AND g.used_by IS NULL) u
      WHERE o.finished_at IS NOT NULL AND u.signals OPERATOR(pg_catalog.>) 0
    ) e
    CROSS JOIN LATERAL (
    SELECT saga.internal_may_see(o.owner, o.owner_name) AS see,
      saga.internal_may_read(o.owner, o.owner_name) AS read) may
    WHERE may.see
    OFFSET 0) b
  WHERE b.saga_id OPERATOR(pg_catalog.=) o.id;

COMMENT ON VIEW saga.events IS 'The whole life of a saga, one row per thing that happened, in order.';
COMMENT ON COLUMN saga.events.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.events.position IS '1, 2, 3 ... in the order in which things happened.';
COMMENT ON COLUMN saga.events.at IS 'When.';
COMMENT ON COLUMN saga.events.event IS 'What.';
COMMENT ON COLUMN saga.events.seq IS 'The step it is about, by start order.';
COMMENT ON COLUMN saga.events.step IS 'That step''s key.';
COMMENT ON COLUMN saga.events.detail IS 'More about it.';

CREATE VIEW saga.signals AS
  SELECT
    b.saga_id, b.name, b.payload, b.key, b.sent_by, b.at, b.used_by_step
  FROM saga.ledger_saga o
  CROSS JOIN LATERAL (
    SELECT
      g.saga AS saga_id, g.name,
      CASE WHEN may.read THEN g.payload END AS payload,
      g.key, g.sent_by, g.at,
      (SELECT t.key FROM saga.ledger_step t
        WHERE t.saga OPERATOR(pg_catalog.=) o.id
          AND t.seq OPERATOR(pg_catalog.=) g.used_by) AS used_by_step
    FROM saga.ledger_signal g
    CROSS JOIN LATERAL (
    SELECT saga.internal_may_see(o.owner, o.owner_name) AS see,
      saga.internal_may_read(o.owner, o.owner_name) AS read) may
    WHERE g.saga OPERATOR(pg_catalog.=) o.id
      AND may.see
    -- In the order of their arrival
    ORDER BY g.seq
    OFFSET 0) b
  WHERE b.saga_id OPERATOR(pg_catalog.=) o.id;

COMMENT ON VIEW saga.signals IS 'One row per signal that was sent to the sagas that the reader may see.';
COMMENT ON COLUMN saga.signals.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.signals.name IS 'Its name.';
COMMENT ON COLUMN saga.signals.payload IS 'What came with it.';
COMMENT ON COLUMN saga.signals.key IS 'The idempotency key it was sent under.';
COMMENT ON COLUMN saga.signals.sent_by IS 'The role that sent it.';
COMMENT ON COLUMN saga.signals.at IS 'When it was sent.';
COMMENT ON COLUMN saga.signals.used_by_step IS 'Key of the step that used it; null: none has.';

CREATE VIEW saga.purges WITH (security_barrier) AS
  SELECT
    v.at, v.actor AS by,
    (v.detail OPERATOR(pg_catalog.->>) 'sagas')::bigint AS sagas
  FROM saga.ledger_event v
  CROSS JOIN LATERAL (
    SELECT saga.internal_may_see(
      COALESCE(pg_catalog.to_regrole(pg_catalog.quote_ident(v.actor))::pg_catalog.oid, 0::pg_catalog.oid),
      v.actor) AS see) may
  WHERE v.saga OPERATOR(pg_catalog.=) '00000000-0000-0000-0000-000000000000'::pg_catalog.uuid
    AND may.see;

COMMENT ON VIEW saga.purges IS 'How many finished sagas were deleted, lately; for those who may see the sagas of the role that did it.';
COMMENT ON COLUMN saga.purges.at IS 'When.';
COMMENT ON COLUMN saga.purges.by IS 'The role that did it.';
COMMENT ON COLUMN saga.purges.sagas IS 'How many sagas.';

CREATE VIEW saga.review_queue WITH (security_barrier) AS
  SELECT
    s.id AS saga_id, s.name AS saga, s.key,
    s.owner::pg_catalog.regrole AS owner,
    d.key AS step, d.seq,
    CASE WHEN may.read THEN COALESCE(d.parked, s.parked) END AS why,
    CASE WHEN may.read THEN
      NULLIF(pg_catalog.concat_ws(E'\n', s.reason, (
        SELECT pg_catalog.concat_ws(': ', 'at step ' OPERATOR(pg_catalog.||) t.key, t.error)
        FROM saga.ledger_step t
        WHERE t.saga OPERATOR(pg_catalog.=) s.id
          AND t.seq OPERATOR(pg_catalog.=) s.failed_seq)), '') END AS failure,
    COALESCE((
      SELECT pg_catalog.max(v.at) FROM saga.ledger_event v
      WHERE v.saga OPERATOR(pg_catalog.=) s.id
        AND v.event OPERATOR(pg_catalog.=) 'parked'
        AND (d.seq IS NULL OR v.seq OPERATOR(pg_catalog.=) d.seq)),
      -- What was given up on the way waits since its last attempt.
      (SELECT pg_catalog.max(h.finished_at) FROM saga.ledger_attempt h
      WHERE h.saga OPERATOR(pg_catalog.=) s.id
        AND h.seq OPERATOR(pg_catalog.=) d.seq
        AND h.phase OPERATOR(pg_catalog.=) 'c'::pg_catalog."char"), s.updated_at) AS since,
    NULL::pg_catalog.timestamptz AS until,
    CASE WHEN may.read THEN (
      SELECT pg_catalog.string_agg(pg_catalog.format('%s: %s%s',
          h.attempt,
          CASE h.outcome
            WHEN 's' THEN 'succeeded' WHEN 'f' THEN 'failed' WHEN 'i' THEN 'interrupted'
            WHEN 't' THEN 'timed out' WHEN 'd' THEN 'deferred'
          END,
          COALESCE(': ' OPERATOR(pg_catalog.||) h.error, '')), E'\n' ORDER BY h.attempt)
      FROM (
        SELECT x.attempt, x.outcome, x.error FROM saga.ledger_attempt x
        WHERE x.saga OPERATOR(pg_catalog.=) s.id
          AND x.seq OPERATOR(pg_catalog.=) d.seq
          AND x.phase OPERATOR(pg_catalog.=) 'c'::pg_catalog."char"
        ORDER BY x.attempt DESC LIMIT 1000) h) END AS attempts,
    (SELECT t.key FROM saga.ledger_step t
      WHERE t.saga OPERATOR(pg_catalog.=) s.id
        AND t.status OPERATOR(pg_catalog.=) 'c'::pg_catalog."char" AND t.rolled_back_at IS NULL
      ORDER BY COALESCE(t.begun, t.seq) DESC LIMIT 1) AS last_completed,
    CASE WHEN may.read THEN s.input END AS input,
    CASE WHEN may.read THEN (
      -- As far as one value holds them: all would be an error for whoever reads the view.
      SELECT pg_catalog.jsonb_object_agg(o.key, o.output ORDER BY o.seq)
      FROM (
        SELECT t.key, t.output, t.seq, pg_catalog.sum(pg_catalog.octet_length(t.key)
          OPERATOR(pg_catalog.+) pg_catalog.octet_length(t.output::pg_catalog.text)) OVER (ORDER BY t.seq DESC) AS size
        FROM saga.ledger_step t
        WHERE t.saga OPERATOR(pg_catalog.=) s.id
          AND t.output IS NOT NULL
          AND (t.rolled_back_at IS NULL OR t.parked IS NOT NULL)
          AND (d.seq IS NULL OR COALESCE(t.begun, t.seq) OPERATOR(pg_catalog.<=) d.start)) o
      WHERE o.size OPERATOR(pg_catalog.<=) 32000000) END AS outputs,
    CASE
      WHEN d.seq IS NULL AND s.undo IS NULL
        THEN 'what goes by its forward_key, once the saga is reopened'
      WHEN d.seq IS NULL THEN NULL
      WHEN d.late AND (d.compensation IS NOT NULL OR d.channel IS NOT NULL)
        THEN E'its compensation, if the late effect stands:\n  it gets the output now'
      WHEN d.compensation IS NOT NULL AND d.review IS NOT NULL AND COALESCE(d.comp_attempts, 0) OPERATOR(pg_catalog.=) 0
        THEN 'its compensation, which was never tried: retry releases it'
      WHEN d.compensation IS NOT NULL
        THEN 'its compensation: what an attempt did was rolled back when it failed'
      WHEN d.channel IS NOT NULL
        THEN pg_catalog.format(E'its compensation, by listeners on %s that go by\n  the compensation_key %s',
          pg_catalog.quote_ident(d.channel), saga.internal_compensation_key(s.id, d.seq))
      ELSE 'nothing: a person undoes it'
    END AS safe_to_retry,
    (SELECT pg_catalog.string_agg(pg_catalog.format(
        CASE t.status WHEN 'f' THEN E'%s: it failed, perhaps in part,\n  forward_key %s'
          ELSE E'%s: its effect is not confirmed,\n  forward_key %s' END,
        t.key, saga.internal_forward_key(s.id, t.seq)), E'\n' ORDER BY t.seq)
      FROM (
        SELECT t.key, t.seq, t.status FROM saga.ledger_step t
        WHERE t.saga OPERATOR(pg_catalog.=) s.id
        AND t.status OPERATOR(pg_catalog.<>) 'c'::pg_catalog."char"
        AND t.rolled_back_at IS NULL
        -- Of what saga ran, nothing is done that is not committed.
        AND t.action IS NULL AND t.status OPERATOR(pg_catalog.<>) 'w'::pg_catalog."char"
        AND t.comp_status OPERATOR(pg_catalog.<>) 'c'::pg_catalog."char"
        -- What a person skipped somebody has looked at; not what the undo passed over.
        AND (t.comp_status OPERATOR(pg_catalog.<>) 's'::pg_catalog."char"
             OR t.compensate_on OPERATOR(pg_catalog.=) 'c'::pg_catalog."char"
             OR t.kind OPERATOR(pg_catalog.=) 'r'::pg_catalog."char")
        ORDER BY t.seq LIMIT 1000) t) AS must_not_repeat,
    -- A role that is not what it was must be replaced before a retry.
    CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
        WHERE r.oid OPERATOR(pg_catalog.=) d.needs_role
          AND r.rolname::pg_catalog.text COLLATE "C" OPERATOR(pg_catalog.=) d.needs_name)
      AND d.needs_role IS NOT NULL
      THEN pg_catalog.format(
        E'SELECT saga.reassign(%s,\n  \'ROLE\', %L);  -- by a superuser, before a retry\n', d.needs_role, d.needs_name)
      ELSE '' END
    OPERATOR(pg_catalog.||)
    CASE WHEN d.seq IS NOT NULL THEN
      CASE WHEN d.compensation IS NOT NULL OR d.channel IS NOT NULL THEN pg_catalog.format(
        E'SELECT saga.resolve(%L, %L,\n  \'retry\', \'why\');  -- run its compensation\n',
        s.id, d.key) ELSE '' END
      OPERATOR(pg_catalog.||) pg_catalog.format(
        E'SELECT saga.resolve(%1$L, %2$L,\n  \'done\', \'why\');  -- it was undone by hand\n'
        'SELECT saga.resolve(%1$L, %2$L,\n  \'skip\', \'why\');  -- there is nothing to undo\n',
        s.id, d.key)
      ELSE CASE WHEN s.undo IS NULL THEN pg_catalog.format(
        E'SELECT saga.reopen(%L,\n  \'why\');  -- it goes forward again\n', s.id) ELSE '' END
    END
      OPERATOR(pg_catalog.||) pg_catalog.format(
        E'SELECT saga.abandon(%L,\n  \'why\');  -- everything stays as it is', s.id) AS to_settle
  FROM saga.ledger_held w
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) w.saga AND w.seq OPERATOR(pg_catalog.=) 0
  CROSS JOIN LATERAL (
    SELECT saga.internal_may_see(s.owner, s.owner_name) AS see,
      saga.internal_may_read(s.owner, s.owner_name) AS read) may
  LEFT JOIN LATERAL (
    SELECT t.key, t.seq, COALESCE(t.begun, t.seq) AS start, t.parked, t.compensation, t.channel, t.review,
      t.comp_attempts, t.late,
      CASE WHEN t.compensation IS NOT NULL THEN t.run_as
        WHEN t.channel IS NOT NULL THEN s.owner END AS needs_role,
      CASE WHEN t.compensation IS NOT NULL THEN t.run_as_name ELSE s.owner_name END AS needs_name
    FROM saga.ledger_step t
    WHERE t.saga OPERATOR(pg_catalog.=) s.id
      AND t.parked IS NOT NULL
      AND s.undo IS NOT NULL
      AND (t.rolled_back_at IS NOT NULL OR s.undo OPERATOR(pg_catalog.<>) 'l'::pg_catalog."char"
        AND COALESCE(t.begun, t.seq) OPERATOR(pg_catalog.>) COALESCE(s.savepoint, 0))) d ON true
  WHERE s.state OPERATOR(pg_catalog.=) 'p'::pg_catalog."char"
    AND may.see
  UNION ALL
  -- Steps that saga runs, of sagas that go forward.
  SELECT
    s.id, s.name, s.key, s.owner::pg_catalog.regrole, t.key, t.seq,
    CASE WHEN may.read THEN t.parked END,
    CASE WHEN may.read THEN t.error END,
    COALESCE((
      SELECT pg_catalog.max(v.at) FROM saga.ledger_event v
      WHERE v.saga OPERATOR(pg_catalog.=) s.id
        AND v.event OPERATOR(pg_catalog.=) 'step parked'
        AND v.seq OPERATOR(pg_catalog.=) t.seq), t.ready_at),
    -- Whichever ends first: its time, or the saga's
    LEAST(s.deadline,
      t.opened_at OPERATOR(pg_catalog.+) (t.timeout::pg_catalog.float8 OPERATOR(pg_catalog.*) '00:00:00.001'::pg_catalog.interval)),
    CASE WHEN may.read THEN (
      SELECT pg_catalog.string_agg(pg_catalog.format('%s: %s%s',
          h.attempt,
          CASE h.outcome
            WHEN 's' THEN 'succeeded' WHEN 'f' THEN 'failed' WHEN 'i' THEN 'interrupted'
            WHEN 't' THEN 'timed out' WHEN 'd' THEN 'deferred'
          END,
          COALESCE(': ' OPERATOR(pg_catalog.||) h.error, '')), E'\n' ORDER BY h.attempt)
      FROM (
        SELECT x.attempt, x.outcome, x.error FROM saga.ledger_attempt x
        WHERE x.saga OPERATOR(pg_catalog.=) s.id
          AND x.seq OPERATOR(pg_catalog.=) t.seq
          AND x.phase OPERATOR(pg_catalog.=) 'f'::pg_catalog."char"
        ORDER BY x.attempt DESC LIMIT 1000) h) END,
    (SELECT o.key FROM saga.ledger_step o
      WHERE o.saga OPERATOR(pg_catalog.=) s.id
        AND o.status OPERATOR(pg_catalog.=) 'c'::pg_catalog."char" AND o.rolled_back_at IS NULL
      ORDER BY COALESCE(o.begun, o.seq) DESC LIMIT 1),
    CASE WHEN may.read THEN s.input END,
    CASE WHEN may.read THEN (
      SELECT pg_catalog.jsonb_object_agg(o.key, o.output ORDER BY o.seq)
      FROM (
        SELECT x.key, x.output, x.seq, pg_catalog.sum(pg_catalog.octet_length(x.key)
          OPERATOR(pg_catalog.+) pg_catalog.octet_length(x.output::pg_catalog.text)) OVER (ORDER BY x.seq DESC) AS size
        FROM saga.ledger_step x
        WHERE x.saga OPERATOR(pg_catalog.=) s.id
          AND x.output IS NOT NULL AND x.rolled_back_at IS NULL) o
      WHERE o.size OPERATOR(pg_catalog.<=) 32000000) END,
    CASE
      WHEN t.task IS NOT NULL AND t.status OPERATOR(pg_catalog.<>) 'w'::pg_catalog."char"
        THEN pg_catalog.format(E'its task, by services on %s that go by\n  the task_key %s',
          pg_catalog.quote_ident(t.task), saga.internal_forward_key(s.id, t.seq))
      WHEN t.status OPERATOR(pg_catalog.<>) 'w'::pg_catalog."char"
        THEN 'its action: what an attempt did was rolled back when it failed' END,
    CASE WHEN t.task IS NOT NULL AND t.begun IS NOT NULL
      THEN pg_catalog.format(E'%s: it failed, perhaps in part,\n  forward_key %s',
        t.key, saga.internal_forward_key(s.id, t.seq)) END,
    CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
        WHERE r.oid OPERATOR(pg_catalog.=) t.run_as
          AND r.rolname::pg_catalog.text COLLATE "C" OPERATOR(pg_catalog.=) t.run_as_name)
      THEN pg_catalog.format(
        E'SELECT saga.reassign(%s,\n  \'ROLE\', %L);  -- by a superuser, before a retry\n', t.run_as, t.run_as_name)
      ELSE '' END
    OPERATOR(pg_catalog.||) pg_catalog.format(
      CASE t.status WHEN 'w' THEN
      E'SELECT saga.resolve(%1$L, %2$L,\n  \'approve\', \'why\');  -- it may begin\n'
      'SELECT saga.resolve(%1$L, %2$L,\n  \'refuse\', \'why\');  -- it may not, and fails\n'
      ELSE
      E'SELECT saga.resolve(%1$L, %2$L,\n  \'retry\', \'why\');  -- do its work again\n'
      'SELECT saga.resolve(%1$L, %2$L,\n  \'done\', \'why\', NULL);  -- it was done by hand, with this output\n'
      'SELECT saga.resolve(%1$L, %2$L,\n  \'skip\', \'why\');  -- go on without it\n'
      END
      OPERATOR(pg_catalog.||) E'SELECT saga.fail(%1$L,\n  \'why\');  -- undo what was done',
      s.id, t.key)
  FROM saga.ledger_held w
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) w.saga AND w.seq OPERATOR(pg_catalog.>) 0
  JOIN saga.ledger_step t ON t.saga OPERATOR(pg_catalog.=) w.saga AND t.seq OPERATOR(pg_catalog.=) w.seq
  CROSS JOIN LATERAL (
    SELECT saga.internal_may_see(s.owner, s.owner_name) AS see,
      saga.internal_may_read(s.owner, s.owner_name) AS read) may
  WHERE s.state OPERATOR(pg_catalog.=) 'r'::pg_catalog."char"
    AND t.status OPERATOR(pg_catalog.<>) 'c'::pg_catalog."char"
    AND may.see;

COMMENT ON VIEW saga.review_queue IS 'Decisions that a person must take, one row each.';
COMMENT ON COLUMN saga.review_queue.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.review_queue.saga IS 'Its kind.';
COMMENT ON COLUMN saga.review_queue.key IS 'The caller''s name for this very operation.';
COMMENT ON COLUMN saga.review_queue.owner IS 'Whose saga it is.';
COMMENT ON COLUMN saga.review_queue.step IS 'The step to decide about; null: the saga as a whole.';
COMMENT ON COLUMN saga.review_queue.seq IS 'That step, by start order.';
COMMENT ON COLUMN saga.review_queue.why IS 'Why no machine may go on.';
COMMENT ON COLUMN saga.review_queue.failure IS 'Why the saga failed, and at which step.';
COMMENT ON COLUMN saga.review_queue.since IS 'Since when it waits.';
COMMENT ON COLUMN saga.review_queue.until IS 'Until when somebody may decide that it goes on: then its time is over, or its saga''s.';
COMMENT ON COLUMN saga.review_queue.attempts IS 'What was tried to undo it, a line each; the last 1000.';
COMMENT ON COLUMN saga.review_queue.last_completed IS 'The step that started last of those that completed.';
COMMENT ON COLUMN saga.review_queue.input IS 'What the saga was begun with.';
COMMENT ON COLUMN saga.review_queue.outputs IS 'Outputs of this step and those before it, as they were reported; the last of them, if all have more than 32 MB.';
COMMENT ON COLUMN saga.review_queue.safe_to_retry IS 'What may be done again without harm.';
COMMENT ON COLUMN saga.review_queue.must_not_repeat IS 'Steps whose effect is not confirmed: to be looked at before anything is done again; the first 1000.';
COMMENT ON COLUMN saga.review_queue.to_settle IS 'The calls that settle it, one of which is to be chosen.';

CREATE VIEW saga.running WITH (security_barrier) AS
  SELECT
    r.saga AS saga_id, s.name, t.key AS step, r.seq,
    CASE r.phase WHEN 'f' THEN 'forward' ELSE 'compensation' END AS phase, r.attempt,
    r.pid, r.role::pg_catalog.regrole AS role, r.since,
    (SELECT a.wait_event FROM pg_catalog.pg_stat_get_activity(r.pid) a) AS wait_event,
    pg_catalog.pg_blocking_pids(r.pid) AS blocked_by,
    NULL::pg_catalog.text AS consumer, NULL::pg_catalog.timestamptz AS lease_until
  FROM saga.internal_running() r
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) r.saga
  JOIN saga.ledger_step t ON t.saga OPERATOR(pg_catalog.=) r.saga AND t.seq OPERATOR(pg_catalog.=) r.seq
  -- Committed already, which shared memory learns a moment later
  WHERE CASE r.phase WHEN 'f' THEN t.status ELSE t.comp_status END OPERATOR(pg_catalog.<>) 'c'::pg_catalog."char"
  UNION ALL
  SELECT
    t.saga, s.name, t.key, t.seq, 'compensation',
    COALESCE(t.comp_attempts, 0) OPERATOR(pg_catalog.+) 1,
    NULL, NULL, t.claimed_at, NULL, NULL, t.consumer, t.lease_until
  -- The end of its lease is due, unless the saga is held.
  FROM (
    SELECT u.saga FROM saga.ledger_due u WHERE u.seq OPERATOR(pg_catalog.=) 0
    UNION
    SELECT h.saga FROM saga.ledger_held h WHERE h.seq OPERATOR(pg_catalog.=) 0) w
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) w.saga
  CROSS JOIN LATERAL (
    SELECT x.saga, x.key, x.seq, x.comp_attempts, x.claimed_at, x.consumer, x.lease_until
    FROM saga.ledger_step x
    WHERE x.saga OPERATOR(pg_catalog.=) s.id
    OFFSET 0) t
  WHERE saga.internal_may_see(s.owner, s.owner_name)
    AND t.claimed_at IS NOT NULL
    -- Due by its deadline: nothing of it is claimed.
    AND s.state OPERATOR(pg_catalog.<>) 'r'::pg_catalog."char"
  UNION ALL
  SELECT
    t.saga, s.name, t.key, t.seq, 'forward', t.attempts OPERATOR(pg_catalog.+) 1,
    NULL, NULL, t.claimed_at, NULL, NULL, t.consumer, t.lease_until
  -- The end of its lease, or of its time, is due.
  FROM (
    SELECT DISTINCT u.saga, u.key, u.run FROM saga.ledger_due u
    WHERE u.lane OPERATOR(pg_catalog.=) 0 AND u.seq OPERATOR(pg_catalog.>) 0) w
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) w.saga
  -- Each by its key, whatever the planner believes of their number
  CROSS JOIN LATERAL (
    SELECT x.saga, x.key, x.seq, x.attempts, x.claimed_at, x.consumer, x.lease_until, x.task, x.comp_status
    FROM saga.ledger_step x
    WHERE x.saga OPERATOR(pg_catalog.=) w.saga
      AND x.key OPERATOR(pg_catalog.=) w.key AND x.run OPERATOR(pg_catalog.=) w.run
    OFFSET 0) t
  WHERE saga.internal_may_see(s.owner, s.owner_name)
    AND t.task IS NOT NULL AND t.claimed_at IS NOT NULL
    AND t.comp_status OPERATOR(pg_catalog.<>) 'd'::pg_catalog."char";

COMMENT ON VIEW saga.running IS 'Attempts under way: actions and SQL compensations that an executor runs, and what services hold.';
COMMENT ON COLUMN saga.running.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.running.name IS 'The kind of saga.';
COMMENT ON COLUMN saga.running.step IS 'Key of the step.';
COMMENT ON COLUMN saga.running.seq IS 'The step.';
COMMENT ON COLUMN saga.running.phase IS 'forward or compensation.';
COMMENT ON COLUMN saga.running.attempt IS 'Number of the attempt.';
COMMENT ON COLUMN saga.running.pid IS 'Process of the executor that runs the SQL.';
COMMENT ON COLUMN saga.running.role IS 'The role that it runs as.';
COMMENT ON COLUMN saga.running.since IS 'When the attempt began.';
COMMENT ON COLUMN saga.running.wait_event IS 'What that process waits for, as in pg_stat_activity; for those who may see its activity.';
COMMENT ON COLUMN saga.running.blocked_by IS 'Processes that hold a lock for which it waits, by pg_blocking_pids.';
COMMENT ON COLUMN saga.running.consumer IS 'The service that holds it, as it calls itself.';
COMMENT ON COLUMN saga.running.lease_until IS 'By when it must report.';

CREATE VIEW saga.pending_compensations WITH (security_barrier) AS
  SELECT
    s.id AS saga_id, t.seq, t.key AS step, t.channel,
    t.dispatched_at AS since,
    COALESCE(t.comp_attempts, 0) OPERATOR(pg_catalog.+) 1 AS attempt,
    t.consumer, t.claimed_at, t.lease_until, t.comp_retry_at AS next_attempt_at,
    saga.internal_compensation_key(s.id, t.seq) AS compensation_key
  -- Whatever is being undone is in one of these.
  FROM (
    SELECT u.saga FROM saga.ledger_due u WHERE u.seq OPERATOR(pg_catalog.=) 0
    UNION
    SELECT q.saga FROM saga.ledger_queue q
    UNION
    SELECT h.saga FROM saga.ledger_held h WHERE h.seq OPERATOR(pg_catalog.=) 0) w
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) w.saga
  -- Those of each saga by its id, whatever the planner believes of their number
  CROSS JOIN LATERAL (
    SELECT x.seq, x.key, x.channel, x.dispatched_at, x.comp_attempts, x.consumer, x.claimed_at, x.lease_until,
      x.comp_retry_at, x.comp_status
    FROM saga.ledger_step x
    WHERE x.saga OPERATOR(pg_catalog.=) s.id
    OFFSET 0) t
  WHERE saga.internal_may_see(s.owner, s.owner_name)
    AND t.channel IS NOT NULL
    -- Due by its deadline: nothing of it waits for a listener.
    AND s.state OPERATOR(pg_catalog.<>) 'r'::pg_catalog."char"
    AND (t.comp_status OPERATOR(pg_catalog.=) 'd'::pg_catalog."char"
         OR t.comp_status OPERATOR(pg_catalog.=) 'p'::pg_catalog."char"
            AND s.state OPERATOR(pg_catalog.=) 'u'::pg_catalog."char");

COMMENT ON VIEW saga.pending_compensations IS 'Compensations that wait for listeners, are claimed by one, or wait to be tried again.';
COMMENT ON COLUMN saga.pending_compensations.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.pending_compensations.seq IS 'The step, by start order.';
COMMENT ON COLUMN saga.pending_compensations.step IS 'The step''s key.';
COMMENT ON COLUMN saga.pending_compensations.channel IS 'The channel on which it was announced.';
COMMENT ON COLUMN saga.pending_compensations.since IS 'When it was last dispatched to them.';
COMMENT ON COLUMN saga.pending_compensations.attempt IS 'The attempt under way, or the next one.';
COMMENT ON COLUMN saga.pending_compensations.consumer IS 'What the listener that holds it calls itself.';
COMMENT ON COLUMN saga.pending_compensations.claimed_at IS 'When it was claimed; null while nobody holds it.';
COMMENT ON COLUMN saga.pending_compensations.lease_until IS 'Until when the claim holds.';
COMMENT ON COLUMN saga.pending_compensations.next_attempt_at IS 'When it is dispatched again, after an attempt that failed.';
COMMENT ON COLUMN saga.pending_compensations.compensation_key IS 'The handle by which a listener reports.';

CREATE VIEW saga.top WITH (security_barrier) AS
  SELECT
    s.name, s.owner::pg_catalog.regrole AS owner,
    pg_catalog.count(*) FILTER (WHERE s.state OPERATOR(pg_catalog.=) 'r'::pg_catalog."char") AS running,
    pg_catalog.count(i.waits_for) AS waiting,
    pg_catalog.mode() WITHIN GROUP (ORDER BY i.waits_for) AS waiting_for,
    pg_catalog.count(*) FILTER (WHERE s.state OPERATOR(pg_catalog.=) 'u'::pg_catalog."char") AS compensating,
    pg_catalog.count(*) FILTER (WHERE i.person) AS need_person,
    COALESCE(pg_catalog.sum(i.executors), 0)::bigint AS executors,
    COALESCE(pg_catalog.sum(i.unclaimed), 0)::bigint AS unclaimed,
    pg_catalog.min(s.started_at) FILTER (WHERE s.state OPERATOR(pg_catalog.=) 'r'::pg_catalog."char") AS oldest_running,
    pg_catalog.min(i.waits_since) FILTER (WHERE i.waits_for IS NOT NULL) AS oldest_waiting,
    pg_catalog.min(s.updated_at) FILTER (WHERE s.state OPERATOR(pg_catalog.=) 'u'::pg_catalog."char") AS oldest_compensating,
    pg_catalog.min(i.person_since) FILTER (WHERE i.person) AS oldest_need_person,
    pg_catalog.min(i.unclaimed_since) AS oldest_unclaimed
  FROM (
    -- A saga waits for what most of its steps wait for, unless something of it is
    -- under way.
    SELECT
      o.saga,
      CASE WHEN pg_catalog.count(*) FILTER (WHERE o.executor OR o.person) OPERATOR(pg_catalog.=) 0
        THEN pg_catalog.mode() WITHIN GROUP (ORDER BY o.waits_for) END AS waits_for,
      pg_catalog.min(o.since) FILTER (WHERE o.waits_for IS NOT NULL) AS waits_since,
      pg_catalog.bool_or(o.person) AS person,
      pg_catalog.min(o.since) FILTER (WHERE o.person) AS person_since,
      pg_catalog.count(*) FILTER (WHERE o.executor) AS executors,
      pg_catalog.count(*) FILTER (WHERE o.unclaimed) AS unclaimed,
      pg_catalog.min(o.since) FILTER (WHERE o.unclaimed) AS unclaimed_since
    FROM (
      -- What is due; a deadline is no wait.
      SELECT
        u.saga, d.waits_for,
        CASE WHEN u.due OPERATOR(pg_catalog.<=) pg_catalog.now() THEN u.due END AS since,
        false AS person, false AS executor, false AS unclaimed
      FROM saga.ledger_due u
      -- Each by its key, whatever the planner believes of their number
      CROSS JOIN LATERAL (
        SELECT x.paused, x.state FROM saga.ledger_saga x
        WHERE x.id OPERATOR(pg_catalog.=) u.saga OFFSET 0) g
      LEFT JOIN LATERAL (
        SELECT x.parked, x.status, x.ready_at, x.retry_at, x.signals, x.signal, x.task, x.claimed_at, x.action,
          x.run_as
        FROM saga.ledger_step x
        WHERE x.saga OPERATOR(pg_catalog.=) u.saga
          AND x.key OPERATOR(pg_catalog.=) u.key AND x.run OPERATOR(pg_catalog.=) u.run
        OFFSET 0) t ON true
      CROSS JOIN LATERAL (SELECT
        CASE
          WHEN g.paused THEN NULL
          WHEN u.seq OPERATOR(pg_catalog.<) 0 THEN 'a look at its gates'
          WHEN u.seq OPERATOR(pg_catalog.>) 0 THEN CASE
            WHEN t.parked IS NOT NULL THEN NULL
            WHEN t.claimed_at IS NOT NULL THEN 'the report of a service'
            WHEN t.status OPERATOR(pg_catalog.=) 'w'::pg_catalog."char" AND t.ready_at IS NULL
              THEN 'other steps'
            WHEN COALESCE(t.retry_at, t.ready_at) OPERATOR(pg_catalog.>) pg_catalog.now() THEN CASE t.status
              WHEN 'w' THEN 'a time' ELSE 'another attempt' END
            WHEN t.signals IS NOT NULL AND t.signal IS NULL THEN 'a signal'
            -- It is in the queue.
            WHEN t.task IS NOT NULL THEN NULL
            WHEN t.action IS NOT NULL
              THEN pg_catalog.format('an executor of role %s', t.run_as::pg_catalog.regrole)
          END
          WHEN g.state OPERATOR(pg_catalog.=) 'r'::pg_catalog."char" THEN NULL
          -- Never by a hash of all that is claimed
          WHEN (SELECT true FROM saga.ledger_step c
            WHERE c.saga OPERATOR(pg_catalog.=) u.saga AND c.claimed_at IS NOT NULL LIMIT 1)
            THEN 'the report of a listener'
          WHEN u.due OPERATOR(pg_catalog.>) pg_catalog.now() THEN 'another attempt'
          WHEN u.lane OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
            THEN pg_catalog.format('an executor of role %s', u.lane::pg_catalog.regrole)
          ELSE 'a look by the worker'
        END AS waits_for) d
      UNION ALL
      SELECT
        q.saga, pg_catalog.format('a claim on channel %s', pg_catalog.quote_ident(q.channel)),
        q.since, false, false, true
      FROM saga.ledger_queue q
      WHERE q.since OPERATOR(pg_catalog.<=) pg_catalog.now()
      UNION ALL
      SELECT
        h.saga, CASE WHEN p.person THEN NULL ELSE 'saga.resume' END,
        COALESCE((SELECT pg_catalog.max(v.at) FROM saga.ledger_event v
          WHERE v.saga OPERATOR(pg_catalog.=) h.saga
            AND v.event OPERATOR(pg_catalog.=) CASE WHEN h.seq OPERATOR(pg_catalog.<>) 0 THEN 'step parked'
              WHEN p.person THEN 'parked' ELSE 'paused' END
            AND (h.seq OPERATOR(pg_catalog.=) 0 OR v.seq OPERATOR(pg_catalog.=) h.seq)), g.updated_at),
        p.person, false, false
      FROM saga.ledger_held h
      CROSS JOIN LATERAL (
        SELECT x.state, x.updated_at FROM saga.ledger_saga x
        WHERE x.id OPERATOR(pg_catalog.=) h.saga OFFSET 0) g
      CROSS JOIN LATERAL (SELECT h.seq OPERATOR(pg_catalog.<>) 0
        OR g.state OPERATOR(pg_catalog.=) 'p'::pg_catalog."char" AS person) p
      UNION ALL
      SELECT r.saga, NULL, r.since, false, true, false
      FROM saga.internal_running() r) o
    GROUP BY o.saga) i
  CROSS JOIN LATERAL (
    SELECT x.name, x.owner, x.owner_name, x.state, x.started_at, x.updated_at, x.finished_at
    FROM saga.ledger_saga x
    WHERE x.id OPERATOR(pg_catalog.=) i.saga OFFSET 0) s
  WHERE saga.internal_may_see(s.owner, s.owner_name)
    -- What is not open any more is on its way out.
    AND s.finished_at IS NULL
  GROUP BY s.name, s.owner
  ORDER BY s.name, s.owner;

COMMENT ON VIEW saga.top IS 'What is open, a row for each kind of saga and owner; found without looking at what is finished.';
COMMENT ON COLUMN saga.top.name IS 'The kind of saga.';
COMMENT ON COLUMN saga.top.owner IS 'Whose sagas they are.';
COMMENT ON COLUMN saga.top.running IS 'Sagas that go forward, of those with a deadline or with steps that saga runs.';
COMMENT ON COLUMN saga.top.waiting IS 'Sagas that wait for a time, an executor, a service or saga.resume; not for a person.';
COMMENT ON COLUMN saga.top.waiting_for IS 'What most of those wait for, in words.';
COMMENT ON COLUMN saga.top.compensating IS 'Sagas that are being undone.';
COMMENT ON COLUMN saga.top.need_person IS 'Sagas about which a person must decide.';
COMMENT ON COLUMN saga.top.executors IS 'Executors that work for them at this moment.';
COMMENT ON COLUMN saga.top.unclaimed IS 'Tasks and compensations that no service has claimed.';
COMMENT ON COLUMN saga.top.oldest_running IS 'When the oldest of those that are running began.';
COMMENT ON COLUMN saga.top.oldest_waiting IS 'Since when what is due, unclaimed or paused waits.';
COMMENT ON COLUMN saga.top.oldest_compensating IS 'When that one last changed that is being undone and changed first.';
COMMENT ON COLUMN saga.top.oldest_need_person IS 'Since when the first of those waits for a person.';
COMMENT ON COLUMN saga.top.oldest_unclaimed IS 'Since when the first of those tasks waits.';

CREATE VIEW saga.health WITH (security_barrier) AS
  SELECT h.severity, h.code, h.finding, h.hint, h.since
  FROM saga.internal_health() h
  UNION ALL
  -- Nobody does what is due: the first of each lane, unless a person holds it.
  SELECT
    'warning', 'overdue',
    CASE WHEN l.lane OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'work of the worker is due and not done'
      ELSE pg_catalog.format('work of role %s is due and not done', pg_catalog.quote_ident(l.name)) END,
    pg_catalog.format('See next_action of saga %s in saga.sagas.', d.saga),
    d.due
  FROM (
    SELECT 0::pg_catalog.oid AS lane, NULL::pg_catalog.name AS name
    UNION ALL
    SELECT r.oid, r.rolname FROM pg_catalog.pg_roles r) l
  CROSS JOIN LATERAL (
    SELECT u.saga, u.due
    FROM saga.ledger_due u
    JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) u.saga
    WHERE u.lane OPERATOR(pg_catalog.=) l.lane
      AND u.due OPERATOR(pg_catalog.<) (saga.internal_now() OPERATOR(pg_catalog.-) '00:01:00'::interval)
      AND NOT s.paused
      AND saga.internal_may_see(s.owner, s.owner_name)
      -- The undo waits for an action that runs on.
      AND NOT EXISTS (SELECT FROM saga.internal_running() r
        WHERE r.saga OPERATOR(pg_catalog.=) u.saga
          AND (r.phase OPERATOR(pg_catalog.=) 'c'::pg_catalog."char" OR s.state OPERATOR(pg_catalog.=) 'r'::pg_catalog."char"))
    ORDER BY u.due LIMIT 1) d
  UNION ALL
  SELECT
    'warning', 'unclaimed',
    pg_catalog.format('nobody claims what waits on channel %s: %s so far', pg_catalog.quote_ident(q.channel), pg_catalog.count(*)),
    'Start a service whose role has the rights of the sagas'' owners; saga.pending_tasks has what waits.',
    pg_catalog.min(q.since)
  FROM saga.ledger_queue q
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) q.saga
  WHERE q.since OPERATOR(pg_catalog.<) (saga.internal_now() OPERATOR(pg_catalog.-) '00:10:00'::interval)
    AND NOT s.paused
    AND saga.internal_may_see(s.owner, s.owner_name)
  GROUP BY q.channel
  UNION ALL
  SELECT
    'warning', 'parked',
    pg_catalog.format('sagas %s of %s have waited for a person for more than a day: %s',
      pg_catalog.quote_literal(s.name), s.owner::pg_catalog.regrole, pg_catalog.count(*)),
    'See saga.review_queue, which has the calls that settle it.',
    pg_catalog.min(w.since)
  FROM saga.ledger_held h
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) h.saga
  CROSS JOIN LATERAL (
    SELECT CASE h.seq WHEN 0 THEN s.updated_at
      ELSE COALESCE((SELECT pg_catalog.max(v.at) FROM saga.ledger_event v
        WHERE v.saga OPERATOR(pg_catalog.=) h.saga
          AND v.event OPERATOR(pg_catalog.=) 'step parked'
          AND v.seq OPERATOR(pg_catalog.=) h.seq), s.updated_at) END AS since) w
  WHERE (h.seq OPERATOR(pg_catalog.<>) 0 OR s.state OPERATOR(pg_catalog.=) 'p'::pg_catalog."char")
    AND w.since OPERATOR(pg_catalog.<) (saga.internal_now() OPERATOR(pg_catalog.-) '1 day'::interval)
    AND saga.internal_may_see(s.owner, s.owner_name)
  GROUP BY s.name, s.owner
  UNION ALL
  SELECT
    'notice', 'paused',
    pg_catalog.format('sagas %s of %s have been paused for more than a day: %s',
      pg_catalog.quote_literal(s.name), s.owner::pg_catalog.regrole, pg_catalog.count(*)),
    'Call saga.resume() for those that are to go on.',
    pg_catalog.min(s.updated_at)
  FROM saga.ledger_held h
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) h.saga
  WHERE h.seq OPERATOR(pg_catalog.=) 0
    AND s.paused
    AND s.updated_at OPERATOR(pg_catalog.<) (saga.internal_now() OPERATOR(pg_catalog.-) '1 day'::interval)
    AND saga.internal_may_see(s.owner, s.owner_name)
  GROUP BY s.name, s.owner
  UNION ALL
  -- Nothing finds these but a look at the sagas: at the oldest there are, and at the
  -- last that are old enough.
  SELECT
    'notice', 'no deadline',
    pg_catalog.format('sagas %s of %s have been running without a deadline for more than three days: %s',
      pg_catalog.quote_literal(o.name), o.owner::pg_catalog.regrole, pg_catalog.count(*)),
    'Complete, fail or cancel them; begin such sagas with a timeout, or set saga.default_timeout.',
    pg_catalog.min(o.started_at)
  FROM (
    SELECT s.id, s.name, s.owner, s.owner_name, s.started_at
    FROM (
      SELECT x.id, x.name, x.owner, x.owner_name, x.started_at, x.state, x.deadline FROM saga.ledger_saga x
      WHERE x.id OPERATOR(pg_catalog.<) saga.first_id(saga.internal_now() OPERATOR(pg_catalog.-) '3 days'::interval)
      ORDER BY x.id LIMIT 10000) s
    WHERE s.state OPERATOR(pg_catalog.=) 'r'::pg_catalog."char" AND s.deadline IS NULL
    UNION
    SELECT s.id, s.name, s.owner, s.owner_name, s.started_at
    FROM (
      SELECT x.id, x.name, x.owner, x.owner_name, x.started_at, x.state, x.deadline FROM saga.ledger_saga x
      WHERE x.id OPERATOR(pg_catalog.<) saga.first_id(saga.internal_now() OPERATOR(pg_catalog.-) '3 days'::interval)
      ORDER BY x.id DESC LIMIT 10000) s
    WHERE s.state OPERATOR(pg_catalog.=) 'r'::pg_catalog."char" AND s.deadline IS NULL) o
  WHERE o.started_at OPERATOR(pg_catalog.<) (saga.internal_now() OPERATOR(pg_catalog.-) '3 days'::interval)
    AND saga.internal_may_see(o.owner, o.owner_name)
  GROUP BY o.name, o.owner
  UNION ALL
  SELECT
    'warning', 'prepared',
    pg_catalog.format('prepared transaction %s has been open for more than an hour', pg_catalog.quote_literal(x.gid)),
    'Finish it by COMMIT PREPARED or ROLLBACK PREPARED: what it has locked is not undone before.',
    x.prepared
  FROM pg_catalog.pg_prepared_xacts x
  WHERE x.database OPERATOR(pg_catalog.=) pg_catalog.current_database()
    AND x.prepared OPERATOR(pg_catalog.<) (saga.internal_now() OPERATOR(pg_catalog.-) '01:00:00'::interval);

COMMENT ON VIEW saga.health IS 'What is wrong, a row for each finding; no row: nothing that saga knows of.';
COMMENT ON COLUMN saga.health.severity IS 'error: nothing is run or undone here; warning: something stands still; notice: to be looked at.';
COMMENT ON COLUMN saga.health.code IS 'A word for this kind of finding, which stays the same.';
COMMENT ON COLUMN saga.health.finding IS 'What was found, in words.';
COMMENT ON COLUMN saga.health.hint IS 'What to do about it.';
COMMENT ON COLUMN saga.health.since IS 'Since when, where that is known.';

CREATE VIEW saga.pending_tasks WITH (security_barrier) AS
  SELECT
    t.saga AS saga_id, s.name, t.key AS step, t.seq,
    'forward'::pg_catalog.text AS phase, t.task AS channel,
    t.attempts OPERATOR(pg_catalog.+) 1 AS attempt,
    COALESCE(t.claimed_at, w.since) AS since,
    t.consumer, t.claimed_at, t.lease_until, t.retry_at AS next_attempt_at,
    saga.internal_forward_key(t.saga, t.seq) AS task_key
  FROM (
    SELECT q.saga, q.key, q.run, q.since FROM saga.ledger_queue q
    WHERE q.phase OPERATOR(pg_catalog.=) 'f'::pg_catalog."char"
    UNION ALL
    -- The end of its lease, or of its time, is due.
    SELECT DISTINCT u.saga, u.key, u.run, NULL::pg_catalog.timestamptz FROM saga.ledger_due u
    WHERE u.lane OPERATOR(pg_catalog.=) 0 AND u.seq OPERATOR(pg_catalog.>) 0) w
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) w.saga
  -- Each by its key, whatever the planner believes of their number
  CROSS JOIN LATERAL (
    SELECT x.saga, x.key, x.seq, x.attempts, x.claimed_at, x.consumer, x.lease_until, x.task, x.comp_status,
      x.retry_at
    FROM saga.ledger_step x
    WHERE x.saga OPERATOR(pg_catalog.=) w.saga
      AND x.key OPERATOR(pg_catalog.=) w.key AND x.run OPERATOR(pg_catalog.=) w.run
    OFFSET 0) t
  WHERE saga.internal_may_see(s.owner, s.owner_name)
    AND t.task IS NOT NULL
    AND t.comp_status OPERATOR(pg_catalog.<>) 'd'::pg_catalog."char"
    AND (t.claimed_at IS NULL) OPERATOR(pg_catalog.=) (w.since IS NOT NULL)
  UNION ALL
  SELECT
    p.saga_id, s.name, p.step, p.seq, 'compensation', p.channel, p.attempt,
    COALESCE(p.claimed_at, p.since), p.consumer, p.claimed_at, p.lease_until,
    p.next_attempt_at, p.compensation_key
  FROM saga.pending_compensations p
  JOIN saga.ledger_saga s ON s.id OPERATOR(pg_catalog.=) p.saga_id;

COMMENT ON VIEW saga.pending_tasks IS 'What services may claim, or hold, or may claim later: tasks of steps and compensations.';
COMMENT ON COLUMN saga.pending_tasks.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.pending_tasks.name IS 'The kind of saga.';
COMMENT ON COLUMN saga.pending_tasks.step IS 'Key of the step.';
COMMENT ON COLUMN saga.pending_tasks.seq IS 'The step.';
COMMENT ON COLUMN saga.pending_tasks.phase IS 'forward or compensation.';
COMMENT ON COLUMN saga.pending_tasks.channel IS 'The channel on which it is claimed.';
COMMENT ON COLUMN saga.pending_tasks.attempt IS 'The attempt under way, or the next one.';
COMMENT ON COLUMN saga.pending_tasks.since IS 'Since when it is held, or may be claimed; a time to come: not before that.';
COMMENT ON COLUMN saga.pending_tasks.consumer IS 'The service that holds it, as it calls itself.';
COMMENT ON COLUMN saga.pending_tasks.claimed_at IS 'When it was claimed; null while nobody holds it.';
COMMENT ON COLUMN saga.pending_tasks.lease_until IS 'Until when the claim holds.';
COMMENT ON COLUMN saga.pending_tasks.next_attempt_at IS 'When it may be claimed again, after an attempt that failed.';
COMMENT ON COLUMN saga.pending_tasks.task_key IS 'The handle by which its result is reported.';

-- ---------------------------------------------------------------------------
-- Counters
--
-- Of shared memory, as of now: no snapshot, and nothing of the ledger is read.
-- ---------------------------------------------------------------------------

CREATE VIEW saga.stat WITH (security_barrier) AS
  SELECT
    i.name,
    pg_catalog.sum(i.begun)::pg_catalog.int8 AS begun,
    pg_catalog.sum(i.completed)::pg_catalog.int8 AS completed,
    pg_catalog.sum(i.failed)::pg_catalog.int8 AS failed,
    pg_catalog.sum(i.step_failed)::pg_catalog.int8 AS step_failed,
    pg_catalog.sum(i.canceled)::pg_catalog.int8 AS canceled,
    pg_catalog.sum(i.timed_out)::pg_catalog.int8 AS timed_out,
    pg_catalog.sum(i.compensated)::pg_catalog.int8 AS compensated,
    pg_catalog.sum(i.abandoned)::pg_catalog.int8 AS abandoned,
    pg_catalog.sum(i.parked)::pg_catalog.int8 AS parked,
    pg_catalog.min(i.stats_reset) AS stats_reset
  FROM saga.internal_stat_sagas() i
  GROUP BY i.name
  ORDER BY i.name;

COMMENT ON VIEW saga.stat IS 'What sagas have come to since the counters began, a row for each kind of saga.';
COMMENT ON COLUMN saga.stat.name IS 'The kind of saga; null: all kinds beyond saga.stat_names together, for those who may see all sagas.';
COMMENT ON COLUMN saga.stat.begun IS 'Sagas that were begun.';
COMMENT ON COLUMN saga.stat.completed IS 'Sagas that completed.';
COMMENT ON COLUMN saga.stat.failed IS 'Sagas that failed, by saga.fail or a step that was given up.';
COMMENT ON COLUMN saga.stat.step_failed IS 'Of those, the ones that saga failed because a step was given up.';
COMMENT ON COLUMN saga.stat.canceled IS 'Sagas that were canceled.';
COMMENT ON COLUMN saga.stat.timed_out IS 'Sagas that failed at their deadline.';
COMMENT ON COLUMN saga.stat.compensated IS 'Sagas of which everything is undone.';
COMMENT ON COLUMN saga.stat.abandoned IS 'Sagas that a person abandoned.';
COMMENT ON COLUMN saga.stat.parked IS 'How often a person was asked about a saga or a step of one; approvals apart.';
COMMENT ON COLUMN saga.stat.stats_reset IS 'Since when it is counted.';

CREATE VIEW saga.stat_attempts WITH (security_barrier) AS
  SELECT i.phase, i.outcome, i.attempts, i.total_ms, i.stats_reset
  FROM saga.internal_stat_attempts() i;

COMMENT ON VIEW saga.stat_attempts IS 'Attempts that ended since the counters began, a row for each phase and outcome.';
COMMENT ON COLUMN saga.stat_attempts.phase IS 'forward or compensation.';
COMMENT ON COLUMN saga.stat_attempts.outcome IS 'succeeded, failed, interrupted, timed out or deferred.';
COMMENT ON COLUMN saga.stat_attempts.attempts IS 'How many.';
COMMENT ON COLUMN saga.stat_attempts.total_ms IS 'How long they took together, in milliseconds.';
COMMENT ON COLUMN saga.stat_attempts.stats_reset IS 'Since when it is counted.';

CREATE VIEW saga.stat_channels WITH (security_barrier) AS
  SELECT
    i.channel,
    pg_catalog.sum(i.dispatched)::pg_catalog.int8 AS dispatched,
    pg_catalog.sum(i.claimed)::pg_catalog.int8 AS claimed,
    pg_catalog.sum(i.acknowledged)::pg_catalog.int8 AS acknowledged,
    pg_catalog.sum(i.failed)::pg_catalog.int8 AS failed,
    pg_catalog.sum(i.leases_ended)::pg_catalog.int8 AS leases_ended,
    pg_catalog.min(i.stats_reset) AS stats_reset
  FROM saga.internal_stat_channels() i
  GROUP BY i.channel
  ORDER BY i.channel;

COMMENT ON VIEW saga.stat_channels IS 'What services were given and did since the counters began, a row for each channel.';
COMMENT ON COLUMN saga.stat_channels.channel IS 'The channel; null: all channels beyond saga.stat_names together, for those who may see all sagas.';
COMMENT ON COLUMN saga.stat_channels.dispatched IS 'Tasks and compensations that were queued, again after each attempt.';
COMMENT ON COLUMN saga.stat_channels.claimed IS 'Claims.';
COMMENT ON COLUMN saga.stat_channels.acknowledged IS 'Reports that one was done, with or without a claim.';
COMMENT ON COLUMN saga.stat_channels.failed IS 'Reports that an attempt failed.';
COMMENT ON COLUMN saga.stat_channels.leases_ended IS 'Claims that ended without a report.';
COMMENT ON COLUMN saga.stat_channels.stats_reset IS 'Since when it is counted.';

CREATE VIEW saga.stat_times WITH (security_barrier) AS
  SELECT i.what, i.le_ms, i.count, i.total_ms, i.stats_reset
  FROM saga.internal_stat_times() i;

COMMENT ON VIEW saga.stat_times IS 'How long things took since the counters began, as cumulative histograms.';
COMMENT ON COLUMN saga.stat_times.what IS 'saga: from its begin to its end; first_undo: from when its undo was due to the first attempt of a compensation; first_action: from when an action was ready to its first attempt.';
COMMENT ON COLUMN saga.stat_times.le_ms IS 'Upper bound, in milliseconds; Infinity for the last.';
COMMENT ON COLUMN saga.stat_times.count IS 'How many took no longer than that.';
COMMENT ON COLUMN saga.stat_times.total_ms IS 'How long all of them took together, in milliseconds.';
COMMENT ON COLUMN saga.stat_times.stats_reset IS 'Since when it is counted.';

CREATE VIEW saga.stat_workers WITH (security_barrier) AS
  SELECT i.worker_starts, i.wakeups, i.executor_starts, i.executor_idle_ms, i.stats_reset
  FROM saga.internal_stat_workers() i;

COMMENT ON VIEW saga.stat_workers IS 'What the processes of saga in this database did since the counters began: one row.';
COMMENT ON COLUMN saga.stat_workers.worker_starts IS 'How often a worker was started.';
COMMENT ON COLUMN saga.stat_workers.wakeups IS 'How often the worker looked for something to do.';
COMMENT ON COLUMN saga.stat_workers.executor_starts IS 'How many executors were started.';
COMMENT ON COLUMN saga.stat_workers.executor_idle_ms IS 'How long executors waited for something to do, in milliseconds.';
COMMENT ON COLUMN saga.stat_workers.stats_reset IS 'Since when it is counted.';

-- ---------------------------------------------------------------------------
-- Rights
--
-- USAGE on the schema, which nobody has by default, is the gate.  Beyond it
-- everyone may call and read, and ownership decides what they reach.
-- ---------------------------------------------------------------------------

-- The views filter their rows by themselves.
GRANT SELECT ON saga.sagas, saga.undoing, saga.steps, saga.attempts, saga.signals, saga.events,
  saga.review_queue, saga.pending_compensations, saga.pending_tasks, saga.running, saga.purges,
  saga.top, saga.health, saga.stat, saga.stat_attempts, saga.stat_channels, saga.stat_times,
  saga.stat_workers TO PUBLIC;

-- As the server's own: who watches the counters should know who resets them.
REVOKE ALL ON FUNCTION saga.stat_reset() FROM PUBLIC;

-- A role that could call it could make a copy believe that it is the original.
REVOKE ALL ON FUNCTION saga.internal_settle_home() FROM PUBLIC;

-- A role that could attach it elsewhere could make any table refuse its writers.
REVOKE ALL ON FUNCTION saga.internal_guard() FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- Home: last, when everything is there.
-- ---------------------------------------------------------------------------

SELECT saga.internal_settle_home();
