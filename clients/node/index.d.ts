// Types of pg-saga.  They need no other package: @types/pg fits where it is installed,
// by new Saga<PoolClient>(pool).

/** What PostgreSQL keeps as jsonb.  A Date, a Map or a function would come back as something else. */
export type Json<T> =
  T extends string | number | bigint | boolean | null | undefined | void ? T
    : T extends symbol | Date | Promise<any> | Map<any, any> | Set<any> | ((...args: any) => any) ? never
      : { [K in keyof T]: Json<T[K]> };

/** What pg returns of a query; as the end of a function for a transaction it is no output. */
export interface QueryResult { rows: any[]; rowCount: number | null; command: string }
export type Kept<T> = T extends QueryResult ? null : T extends undefined | void ? null : T;

/** A connection in a transaction: what tx() hands out. */
export interface Queryable {
  query(query: any, values?: any[]): Promise<QueryResult>;
}

/** An interval as PostgreSQL reads it: '10 minutes'. */
export type Interval = string;

/** saga.retry_policy: what is not given is the setting of the server. */
export interface RetryPolicy {
  max_attempts?: number;
  delay?: Interval;
  backoff?: 'constant' | 'linear' | 'exponential';
  max_delay?: Interval;
  jitter?: number;
  timeout?: Interval;
}

/** By SQL or by a service, never both. */
export type Undo =
  | { /** SQL; `$1` is its context */ undo?: string; compensation?: never; notify?: never; acknowledge?: never }
  | { undo?: never; /** the same as undo */ compensation?: string; notify?: never; acknowledge?: never }
  | { undo?: never; compensation?: never; /** the channel of the service */ notify: string; acknowledge?: boolean };

export type WorkOptions = Undo & {
  /** What the step is about; its undo sees it. */
  args?: unknown;
  /** Words for the person who must look before it is undone. */
  review?: string;
  kind?: 'compensatable' | 'pivot' | 'retriable';
  compensate_on?: 'started' | 'completed';
  /** Of call(): try again, so often. */
  retry?: RetryPolicy;
  compensation_retry?: RetryPolicy;
  /** The step's key, where its name is not enough. */
  idempotency_key?: string;
};

interface Gates {
  after?: string[];
  delay?: Interval;
  not_before?: string | Date;
  signals?: string[];
  approval?: string;
}
interface Done { output?: unknown; completed?: boolean }
type SomeOf<T> = { [K in keyof T]-?: Required<Pick<T, K>> & Omit<T, K> }[keyof T];

/** A step that saga runs: with an action, or a task, or a gate; or one that is a mark. */
export type StepOptions = WorkOptions & { timeout?: Interval; on_failure?: 'fail' | 'skip' | 'review' } & (
  | (Gates & { /** SQL, which the server runs */ action: string; task?: never; output?: never; completed?: never })
  | (Gates & { /** the channel of the service that does it */ task: string; action?: never; output?: never; completed?: never })
  | (SomeOf<Gates> & { action?: never; task?: never; output?: never; completed?: never })
  | (SomeOf<Done> & { action?: never; task?: never }));

/** A row of saga.step_result. */
export interface Step<Output = any> {
  saga_id: string;
  seq: number;
  step: string;
  status: 'waiting' | 'started' | 'completed' | 'failed' | 'skipped';
  attempt: number;
  output: Output | null;
  error: string | null;
  retry_at: Date | null;
  /** For the service outside: the same in every attempt. */
  forward_key: string;
  known: boolean;
}

export interface RunOptions {
  /** The saga's deadline: still running then, it fails. */
  timeout?: Interval;
  on_compensation_failure?: 'halt' | 'continue';
  announce?: string;
  subject?: string;
  /** The role that is to own the saga. */
  owner?: string;
  /** It is complete when its steps are: they are waited for. */
  when_done?: boolean;
  /** It is complete although a step failed. */
  ignore_failed?: boolean;
}

/** A saga that is running, as the function given to run() gets it. */
export interface Run<C extends Queryable = Queryable> {
  readonly id: string;
  /** Work in this database: one transaction with its mark.  Skipped, if it was done before. */
  tx<T>(name: string, options: WorkOptions, work: (c: C, step: Step) => Promise<T & Json<T>> | (T & Json<T>)): Promise<Kept<T>>;
  /** An effect outside, between two commits.  Its key is that of the service's idempotency. */
  call<T>(name: string, options: WorkOptions, effect: (key: string, step: Step) => Promise<T & Json<T>> | (T & Json<T>)): Promise<T>;
  /** A step that the server or a service does, or that waits. */
  step(name: string, options: StepOptions): Promise<Step>;
  /** Until it is done, given up, or a person is asked. */
  wait<Output = any>(step: string, options?: { timeout?: Interval }): Promise<Step<Output>>;
}

export interface Task<C extends Queryable = Queryable, Args = any, Output = Record<string, any>> {
  saga_id: string;
  /** The kind of saga; not where only compensations are claimed. */
  name?: string;
  step: string;
  seq: number;
  phase: 'forward' | 'compensation';
  attempt: number;
  /** For the service outside, and for saga.complete_task: the same in every attempt. */
  key: string;
  args: Args;
  /** Of a compensation: what the step reported; null, if nobody knows whether it was done. */
  output: Output | null;
  /** The saga's. */
  input: any;
  /** The step's: of a compensation, it names what is to be undone. */
  forward_key: string;
  context: Record<string, any>;
  lease_until: Date;
  /** Aborted when the claim is over: another may have the task. */
  signal: AbortSignal;
  /** Work in this database and the report, in one transaction: exactly once. */
  tx<T>(work: (c: C) => Promise<T & Json<T>> | (T & Json<T>)): Promise<T>;
}

export type Handler<C extends Queryable = Queryable> = (task: Task<C>) => unknown;

export interface ServeOptions {
  /** So many tasks at the same time (10). */
  concurrency?: number;
  /** Seconds (60).  It is extended while the handler runs. */
  lease?: number;
  /** Looks for work so often, in seconds, without being woken (30). */
  heartbeat?: number;
  consumer?: string;
  log?: (line: string) => void;
  /** A direct connection for LISTEN, where the pool's go through a pooler. */
  listen?: object;
}

export interface Service {
  /** Claims no more; resolves when all that was claimed is done and reported. */
  stop(): Promise<void>;
  readonly stopped: Promise<void>;
}

/** What pg.Pool takes. */
export interface ConnectionOptions { [option: string]: unknown; connect?: never }
export interface PoolLike { connect(): Promise<Queryable & { release(destroy?: boolean): void }> }

export class Saga<C extends Queryable = Queryable> {
  /** A pool, or what makes one; without it, PG* of the environment.  Never a single client. */
  constructor(connection?: PoolLike | ConnectionOptions);
  run<T>(name: string, key: string, input: unknown, options: RunOptions, work: (s: Run<C>) => Promise<T & Json<T>>): Promise<T>;
  run<T>(name: string, key: string, input: unknown, work: (s: Run<C>) => Promise<T & Json<T>>): Promise<T>;
  serve(channel: string, handler: Handler<C> | { forward?: Handler<C>; compensation?: Handler<C> }, options?: ServeOptions): Service;
  sql<Row = any>(name: string, args?: Record<string, unknown>): Promise<Row[]>;
  wait(saga_id: string, options?: { timeout?: Interval; until?: string }): Promise<string>;
  signal(saga_id: string, signal: string, payload?: unknown, options?: { idempotency_key?: string; late?: 'error' | 'record' }): Promise<string>;
  close(): Promise<void>;
}

export class SagaError extends Error { code?: string; detail?: string; hint?: string; cause?: unknown }
export class SagaNotFound extends SagaError { }
export class InvalidSagaState extends SagaError { }
export class IdempotencyConflict extends SagaError { }
export class StepNotFound extends SagaError { }
export class SagaFailing extends SagaError { saga_id?: string; state?: string; reason?: string }
export class DoNotRetry extends SagaError { constructor(message: string) }
export class RetryLater extends SagaError { constructor(message: string, retry_after?: Interval | number); retry_after?: Interval | number }
export class SagaUnavailable extends SagaError { }
export class LimitExceeded extends SagaError { }
export class PermissionDenied extends SagaError { }
export class Interrupted extends SagaError { constructor(message: string) }
export class UsageError extends SagaError { }
