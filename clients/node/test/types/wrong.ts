// The traps that types stop: each of these must not compile.
import { Saga, type Run } from 'pg-saga';

declare const saga: Saga;
declare const s: Run;
declare const client: { connect(): Promise<void>; host: string; port: number; query(q: string): Promise<any> };
declare const key: string | undefined;

// @ts-expect-error: a single client may be in a transaction
new Saga(client);
// @ts-expect-error: without a key a repetition is another saga
saga.run('order', null, null, {}, async () => null);
// @ts-expect-error: a key that may be missing
saga.run('order', key, null, {}, async () => null);
// @ts-expect-error: an undo that is misspelt is none
s.tx('a', { compensaton: 'SELECT 1' }, () => null);
// @ts-expect-error: undone by SQL or by a service
s.call('a', { undo: 'SELECT 1', notify: 'payments' }, () => null);
// @ts-expect-error: what happened outside is always recorded
s.call('a', { late: 'error' }, () => null);
// @ts-expect-error: work under a step() would be done again each time
s.step('a', { undo: 'SELECT 1' });
// @ts-expect-error: the server or a service
s.step('a', { action: 'SELECT 1', task: 'payments' });
// @ts-expect-error: the server runs it, not this program
s.call('a', { action: 'SELECT 1' }, () => null);
// @ts-expect-error: a list of one is a list
s.step('b', { after: 'a', action: 'SELECT 1' });
// @ts-expect-error: a Date would come back as a string
s.call('a', {}, () => ({ at: new Date() }));
// @ts-expect-error: a function would not come back
s.tx('a', {}, () => ({ again: () => 1 }));
// @ts-expect-error: a Map would come back empty
saga.run('order', 'a', null, {}, async () => new Map([[1, 2]]));
// @ts-expect-error: the output of a compensation may be unknown
saga.serve('a', { compensation: (task) => task.output.charge });
// @ts-expect-error: a phase that is misspelt is not served
saga.serve('a', { forwards: () => null });
// @ts-expect-error: seconds, not an interval
saga.serve('a', () => null, { lease: '1 minute' });
// @ts-expect-error: no such word
s.step('a', { action: 'SELECT 1', on_failure: 'retry' });
