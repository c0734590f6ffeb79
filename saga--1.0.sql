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
  forward_key text
);

COMMENT ON TYPE saga.step_result IS
  'What is known of a step: the answer of saga.step, saga.complete_step and saga.fail_step.';
COMMENT ON COLUMN saga.step_result.saga_id IS 'The saga.';
COMMENT ON COLUMN saga.step_result.seq IS 'Start order: larger is later; not dense.';
COMMENT ON COLUMN saga.step_result.step IS 'The step''s key.';
COMMENT ON COLUMN saga.step_result.status IS 'started: do the work; completed: skip it and use the output; failed.';
COMMENT ON COLUMN saga.step_result.attempt IS 'Number of the forward attempt, from 1.';
COMMENT ON COLUMN saga.step_result.output IS 'The stored output of a completed step.';
COMMENT ON COLUMN saga.step_result.error IS 'The error of the last failed attempt.';
COMMENT ON COLUMN saga.step_result.retry_at IS 'After fail_step: when to try again; null when attempts are exhausted or the error is final.';
COMMENT ON COLUMN saga.step_result.forward_key IS 'Stable over every attempt of this run: hand it to outside services as their idempotency key.';

-- ---------------------------------------------------------------------------
-- Ledger tables
--
-- No grants and no row security: people read the views.  The forward calls
-- write these tables directly, without firing triggers or checking CHECKs;
-- the constraints below mirror what src/ledger.c and src/state.c verify.
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
  input         jsonb,
  content_hash  bytea,
  deadline      timestamptz,
  updated_at    timestamptz NOT NULL,
  due           timestamptz,
  lane          oid,
  undo_target   bigint,
  failed_seq    bigint,
  finished_at   timestamptz,
  state         "char"      NOT NULL,
  failure_kind  "char",
  paused        boolean     NOT NULL,
  announced     "char",
  parked        text        COLLATE "C",
  reason        text        COLLATE "C",
  details       jsonb,
  result        jsonb,
  CONSTRAINT ledger_saga_id_key PRIMARY KEY (id) WITH (fillfactor = 90),
  CONSTRAINT ledger_saga_state CHECK (state OPERATOR(pg_catalog.=) ANY ('{r,d,u,c,p,a}'::"char"[])),
  CONSTRAINT ledger_saga_on_failure CHECK (on_failure OPERATOR(pg_catalog.=) ANY ('{h,c}'::"char"[])),
  CONSTRAINT ledger_saga_failure_kind CHECK (failure_kind OPERATOR(pg_catalog.=) ANY ('{f,c,t}'::"char"[])),
  CONSTRAINT ledger_saga_name CHECK (pg_catalog.length(name) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.length(name) OPERATOR(pg_catalog.<=) 256),
  CONSTRAINT ledger_saga_key CHECK (pg_catalog.length(key) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.length(key) OPERATOR(pg_catalog.<=) 512),
  CONSTRAINT ledger_saga_due CHECK ((due IS NULL) OPERATOR(pg_catalog.=) (lane IS NULL)),
  CONSTRAINT ledger_saga_finished CHECK ((finished_at IS NOT NULL) OPERATOR(pg_catalog.=) (state OPERATOR(pg_catalog.=) ANY ('{d,c,a}'::"char"[]))),
  CONSTRAINT ledger_saga_undo CHECK (state OPERATOR(pg_catalog.<>) 'u' OR undo_target IS NOT NULL)
) USING heap WITH (fillfactor = 80);

CREATE UNIQUE INDEX ledger_saga_owner_name_key ON saga.ledger_saga (owner, name, key)
  WHERE key IS NOT NULL;

COMMENT ON TABLE saga.ledger_saga IS 'One row per saga. Read saga.sagas instead.';
COMMENT ON COLUMN saga.ledger_saga.id IS 'Version 7 UUID: ordered by time, unique across databases and clones.';
COMMENT ON COLUMN saga.ledger_saga.owner IS 'current_user at saga.begin.';
COMMENT ON COLUMN saga.ledger_saga.started_at IS 'When saga.begin was called.';
COMMENT ON COLUMN saga.ledger_saga.on_failure IS 'When a compensation exhausts its retries: h(alt) or c(ontinue).';
COMMENT ON COLUMN saga.ledger_saga.owner_name IS 'The owner''s name then: OID and name are compared, so that a recreated role inherits nothing.';
COMMENT ON COLUMN saga.ledger_saga.name IS 'The kind of saga.';
COMMENT ON COLUMN saga.ledger_saga.key IS 'Idempotency key, unique per owner and name.';
COMMENT ON COLUMN saga.ledger_saga.announce IS 'Channel on which states after running are announced.';
COMMENT ON COLUMN saga.ledger_saga.input IS 'Input as given.';
COMMENT ON COLUMN saga.ledger_saga.content_hash IS 'Of a redacted saga: the hash of its input, which keeps its key working.';
COMMENT ON COLUMN saga.ledger_saga.deadline IS 'When a saga still running fails.';
COMMENT ON COLUMN saga.ledger_saga.updated_at IS 'Last change of the saga itself.';
COMMENT ON COLUMN saga.ledger_saga.due IS 'Due time of its row in ledger_due, null when it has none.';
COMMENT ON COLUMN saga.ledger_saga.lane IS 'Lane of that row.';
COMMENT ON COLUMN saga.ledger_saga.undo_target IS 'Steps that started after this seq are being undone; 0: all.';
COMMENT ON COLUMN saga.ledger_saga.failed_seq IS 'The step at which the saga failed.';
COMMENT ON COLUMN saga.ledger_saga.finished_at IS 'When it completed, was compensated or abandoned.';
COMMENT ON COLUMN saga.ledger_saga.state IS 'r(unning), d(one: completed), u(ndoing: compensating), c(ompensated), p(arked: needs_review), a(bandoned).';
COMMENT ON COLUMN saga.ledger_saga.failure_kind IS 'f(ailed), c(ancelled), t(imed out).';
COMMENT ON COLUMN saga.ledger_saga.paused IS 'A person paused it: nothing is dispatched.';
COMMENT ON COLUMN saga.ledger_saga.announced IS 'The state last announced.';
COMMENT ON COLUMN saga.ledger_saga.parked IS 'Why a person must decide about the saga as a whole.';
COMMENT ON COLUMN saga.ledger_saga.reason IS 'Reason of the failure.';
COMMENT ON COLUMN saga.ledger_saga.details IS 'Details of the failure.';
COMMENT ON COLUMN saga.ledger_saga.result IS 'Result given to saga.complete.';

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
  attempt_at         timestamptz,
  completed_at       timestamptz,
  retry_at           timestamptz,
  rolled_back_at     timestamptz,
  comp_attempts      integer,
  comp_charged       integer,
  comp_deferrals     integer,
  comp_conflicts     integer,
  comp_crashes       integer,
  next_attempt_at    timestamptz,
  dispatched_at      timestamptz,
  lease_until        timestamptz,
  compensated_at     timestamptz,
  announcements      integer,
  consumer           text        COLLATE "C",
  parked             text        COLLATE "C",
  error              text        COLLATE "C",
  last_sqlstate      text        COLLATE "C",
  last_error         text        COLLATE "C",
  comp_output        jsonb,
  output             jsonb,
  CONSTRAINT ledger_step_key PRIMARY KEY (saga, key, run),
  CONSTRAINT ledger_step_seq CHECK (seq OPERATOR(pg_catalog.>=) 1),
  CONSTRAINT ledger_step_run CHECK (run OPERATOR(pg_catalog.>=) 1),
  CONSTRAINT ledger_step_attempts CHECK (attempts OPERATOR(pg_catalog.>=) 1),
  CONSTRAINT ledger_step_kind CHECK (kind OPERATOR(pg_catalog.=) ANY ('{c,p,r}'::"char"[])),
  CONSTRAINT ledger_step_compensate_on CHECK (compensate_on OPERATOR(pg_catalog.=) ANY ('{s,c}'::"char"[])),
  CONSTRAINT ledger_step_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{s,c,f}'::"char"[])),
  CONSTRAINT ledger_step_comp_status CHECK (comp_status OPERATOR(pg_catalog.=) ANY ('{n,r,p,d,c,f,s}'::"char"[])),
  CONSTRAINT ledger_step_one_action CHECK (compensation IS NULL OR channel IS NULL),
  CONSTRAINT ledger_step_key_length CHECK (pg_catalog.length(key) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.length(key) OPERATOR(pg_catalog.<=) 512),
  CONSTRAINT ledger_step_completed CHECK ((completed_at IS NOT NULL) OPERATOR(pg_catalog.=) (status OPERATOR(pg_catalog.=) 'c'))
) USING heap WITH (fillfactor = 70);

COMMENT ON TABLE saga.ledger_step IS 'One row per run of a step. Read saga.steps instead.';
COMMENT ON COLUMN saga.ledger_step.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_step.seq IS 'Start order, from saga.start_order.';
COMMENT ON COLUMN saga.ledger_step.started_at IS 'When the first saga.step of this run was called.';
COMMENT ON COLUMN saga.ledger_step.run IS 'Run of the key: one more each time it starts afresh after it was rolled back.';
COMMENT ON COLUMN saga.ledger_step.run_as IS 'current_user at saga.step: the role that its SQL compensation runs as.';
COMMENT ON COLUMN saga.ledger_step.kind IS 'c(ompensatable), p(ivot), r(etriable).';
COMMENT ON COLUMN saga.ledger_step.compensate_on IS 'Undone once s(tarted) or only once c(ompleted).';
COMMENT ON COLUMN saga.ledger_step.acknowledge IS 'false: the committed notification is all.';
COMMENT ON COLUMN saga.ledger_step.run_as_name IS 'That role''s name then.';
COMMENT ON COLUMN saga.ledger_step.key IS 'The step''s key: its idempotency key, or its name.';
COMMENT ON COLUMN saga.ledger_step.name IS 'The step''s name, null when it equals the key.';
COMMENT ON COLUMN saga.ledger_step.compensation IS 'Compensating SQL.';
COMMENT ON COLUMN saga.ledger_step.channel IS 'Channel of the listeners that compensate.';
COMMENT ON COLUMN saga.ledger_step.review IS 'Words for the person who must look first.';
COMMENT ON COLUMN saga.ledger_step.args IS 'Arguments for the compensation.';
COMMENT ON COLUMN saga.ledger_step.content_hash IS 'Of a redacted step: the hash of its content.';
COMMENT ON COLUMN saga.ledger_step.search_path IS 'The caller''s search_path, null when the built-in default.';
COMMENT ON COLUMN saga.ledger_step.settings IS 'Captured settings.';
COMMENT ON COLUMN saga.ledger_step.compensation_retry IS 'Retry policy of the compensation: attempts, delay, backoff, longest delay, jitter, timeout; times in ms.';
COMMENT ON COLUMN saga.ledger_step.retry IS 'Retry policy of the step, null when the same.';
COMMENT ON COLUMN saga.ledger_step.attempts IS 'Forward attempts so far.';
COMMENT ON COLUMN saga.ledger_step.status IS 's(tarted), c(ompleted), f(ailed).';
COMMENT ON COLUMN saga.ledger_step.comp_status IS 'n(one), r(egistered), p(ending), d(ispatched), c(ompensated), f(ailed), s(kipped).';
COMMENT ON COLUMN saga.ledger_step.released IS 'A person released the reviewed compensation.';
COMMENT ON COLUMN saga.ledger_step.attempt_at IS 'Start of the current forward attempt, if not the first.';
COMMENT ON COLUMN saga.ledger_step.completed_at IS 'When it completed.';
COMMENT ON COLUMN saga.ledger_step.retry_at IS 'When a failed attempt may be repeated.';
COMMENT ON COLUMN saga.ledger_step.rolled_back_at IS 'When a partial undo undid it: the key may start afresh.';
COMMENT ON COLUMN saga.ledger_step.comp_attempts IS 'Attempts of the compensation, numbered.';
COMMENT ON COLUMN saga.ledger_step.comp_charged IS 'Of those, the ones that count against the policy.';
COMMENT ON COLUMN saga.ledger_step.comp_deferrals IS 'Of those, the ones that asked to be called later.';
COMMENT ON COLUMN saga.ledger_step.comp_conflicts IS 'Of those, the ones lost to deadlocks, serialization and lock timeouts.';
COMMENT ON COLUMN saga.ledger_step.comp_crashes IS 'Suspect since a crash: how often the server crashed while it ran alone; null: no suspect.';
COMMENT ON COLUMN saga.ledger_step.next_attempt_at IS 'When the compensation is tried next.';
COMMENT ON COLUMN saga.ledger_step.dispatched_at IS 'When it was dispatched to listeners.';
COMMENT ON COLUMN saga.ledger_step.lease_until IS 'End of the current claim.';
COMMENT ON COLUMN saga.ledger_step.compensated_at IS 'When it was compensated.';
COMMENT ON COLUMN saga.ledger_step.announcements IS 'How often listeners were notified.';
COMMENT ON COLUMN saga.ledger_step.consumer IS 'Who holds or held the claim.';
COMMENT ON COLUMN saga.ledger_step.parked IS 'Why a person must decide about this step.';
COMMENT ON COLUMN saga.ledger_step.error IS 'Error of the last failed forward attempt.';
COMMENT ON COLUMN saga.ledger_step.last_sqlstate IS 'SQLSTATE of the compensation''s last failure.';
COMMENT ON COLUMN saga.ledger_step.last_error IS 'Message of the compensation''s last failure.';
COMMENT ON COLUMN saga.ledger_step.comp_output IS 'What the listener reported.';
COMMENT ON COLUMN saga.ledger_step.output IS 'Output of the step.';

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
  CONSTRAINT ledger_attempt_phase CHECK (phase OPERATOR(pg_catalog.=) ANY ('{f,c}'::"char"[])),
  CONSTRAINT ledger_attempt_outcome CHECK (outcome OPERATOR(pg_catalog.=) ANY ('{s,f,i,t,d}'::"char"[]))
) USING heap;

COMMENT ON TABLE saga.ledger_attempt IS 'Attempts that the step rows cannot tell: every one of a compensation, and the forward ones that failed. Read saga.attempts instead.';
COMMENT ON COLUMN saga.ledger_attempt.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_attempt.seq IS 'The step.';
COMMENT ON COLUMN saga.ledger_attempt.started_at IS 'Start of the attempt.';
COMMENT ON COLUMN saga.ledger_attempt.finished_at IS 'End of the attempt.';
COMMENT ON COLUMN saga.ledger_attempt.rows IS 'Rows of the last statement of a SQL compensation.';
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

COMMENT ON TABLE saga.ledger_event IS 'What happened to a saga and its own rows cannot tell. Read saga.events instead.';
COMMENT ON COLUMN saga.ledger_event.saga IS 'The saga.';
COMMENT ON COLUMN saga.ledger_event.at IS 'When.';
COMMENT ON COLUMN saga.ledger_event.seq IS 'The step, if it is about one.';
COMMENT ON COLUMN saga.ledger_event.event IS 'What.';
COMMENT ON COLUMN saga.ledger_event.actor IS 'The role that did it.';
COMMENT ON COLUMN saga.ledger_event.detail IS 'More about it.';

CREATE TABLE saga.ledger_due (
  lane oid         NOT NULL,
  due  timestamptz NOT NULL,
  saga uuid        NOT NULL,
  CONSTRAINT ledger_due_key PRIMARY KEY (lane, due, saga)
) USING heap;

COMMENT ON TABLE saga.ledger_due IS 'When a saga must be looked at next: a deadline, an undo, a retry. At most one row a saga, which its own row names.';
COMMENT ON COLUMN saga.ledger_due.lane IS 'The role whose executor has the work; 0: the worker itself.';
COMMENT ON COLUMN saga.ledger_due.due IS 'Not before.';
COMMENT ON COLUMN saga.ledger_due.saga IS 'The saga.';

CREATE TABLE saga.ledger_home (
  one               boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
  system_identifier bigint  NOT NULL,
  database          oid     NOT NULL,
  restore           bigint  NOT NULL,
  copied            boolean NOT NULL
) USING heap;

COMMENT ON TABLE saga.ledger_home IS 'Where this ledger may compensate: the server and database that it was created in or adopted by. A copy elsewhere holds still until saga.adopt().';
COMMENT ON COLUMN saga.ledger_home.one IS 'There is one row.';
COMMENT ON COLUMN saga.ledger_home.system_identifier IS 'The server''s system identifier.';
COMMENT ON COLUMN saga.ledger_home.database IS 'The database''s OID.';
COMMENT ON COLUMN saga.ledger_home.restore IS 'The last start from a backup that was adopted; 0: none.';
COMMENT ON COLUMN saga.ledger_home.copied IS 'Ledger rows came by COPY, SQL or replication.';

-- Which server and database hold a ledger is no part of it: not in a dump.
SELECT pg_catalog.pg_extension_config_dump('saga.start_order', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_saga', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_step', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_attempt', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_event', '');
SELECT pg_catalog.pg_extension_config_dump('saga.ledger_due', '');

