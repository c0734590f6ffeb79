-- Situations of doc/recipes.md, mostly with steps that the application runs, and what is warned of there:
-- what happens when the program is started again, comes too late, or meets the other outcome.
\set ECHO none
\i sql/include/helpers.sql
SET search_path = test;
\set ECHO all

------------------------------------------------------------------------------
-- 1. A bank transfer
------------------------------------------------------------------------------
CREATE TABLE account (id text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0));
INSERT INTO account VALUES ('alice', 50000);
CREATE FUNCTION debit(transfer uuid, account text, cents bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF NOT (saga.step(transfer, 'debit', completed => true,
      args => jsonb_build_object('account', account, 'cents', cents),
      compensation => $undo$UPDATE account SET cents = cents + ($1->'args'->>'cents')::bigint
        WHERE id = $1->'args'->>'account'$undo$)).known
  THEN
    UPDATE account a SET cents = a.cents - debit.cents WHERE a.id = debit.account;
    IF NOT FOUND THEN
      RAISE 'there is no such account';
    END IF;
  END IF;
END $$;
CREATE FUNCTION recall(c jsonb) RETURNS void LANGUAGE sql AS $$
  SELECT saga.require(c->'step'->>'status' = 'failed',
    format('did they get %s? ask the other bank', c->>'forward_key'));
$$;

-- The first transaction, twice: the money leaves once.
SELECT s, debit(s, 'alice', 12000) FROM saga.begin('transfer', 'transfer-1') AS s \gset
SELECT debit(s, 'alice', 12000), s = :'s' AS same FROM saga.begin('transfer', 'transfer-1') AS s;
SELECT * FROM account;
SELECT status FROM saga.step(:'s', 'send', compensation => 'SELECT recall($1)');
SELECT f.status, saga.fail(:'s', f.error)
FROM saga.fail_step(:'s', 'send', 'the account is closed', retryable => false) AS f;
SELECT saga.wait(:'s');
SELECT * FROM account;
-- Started again, it is told to give up, and takes no money.
CALL test.refuses(format('SELECT debit(%L, %L, 12000)', :'s', 'alice'));
SELECT * FROM account;

-- What cannot be debited leaves nothing behind, not even a saga.
CALL test.refuses($$SELECT debit(s, 'alice', 90000) FROM saga.begin('transfer', 'transfer-0') AS s$$);
CALL test.refuses($$SELECT debit(s, 'bob', 1) FROM saga.begin('transfer', 'transfer-0') AS s$$);
SELECT count(*) FROM saga.sagas WHERE idempotency_key = 'transfer-0';

-- No answer: a person finds out. They never got it.
SELECT s, debit(s, 'alice', 3000) FROM saga.begin('transfer', 'transfer-2') AS s \gset
SELECT status FROM saga.step(:'s', 'send', compensation => 'SELECT recall($1)');
SELECT saga.fail(:'s', 'no answer from the other bank');
SELECT saga.wait(:'s');
SELECT step, test.mask(why) AS why, test.mask(attempts) AS attempts, last_completed, test.mask(must_not_repeat) AS must_not_repeat
FROM saga.review_queue WHERE saga_id = :'s' \gx
SELECT * FROM account;
SELECT saga.resolve(:'s', 'send', 'skip', 'they never got it');
SELECT saga.wait(:'s');
SELECT * FROM account;
-- They got it, and sent it back.
SELECT s, debit(s, 'alice', 3000) FROM saga.begin('transfer', 'transfer-3') AS s \gset
SELECT status FROM saga.step(:'s', 'send', compensation => 'SELECT recall($1)');
SELECT status FROM saga.complete_step(:'s', 'send', '{"transfer": "t_3"}', late => 'record');
SELECT saga.cancel(:'s', 'sent by mistake');
SELECT saga.wait(:'s');
SELECT saga.resolve(:'s', 'send', 'done', 'they sent it back');
SELECT saga.wait(:'s');
SELECT * FROM account;

------------------------------------------------------------------------------
-- 2. A lead that cannot be enriched yet
------------------------------------------------------------------------------
CREATE TABLE lead (
  email text PRIMARY KEY, status text NOT NULL DEFAULT 'new', contact text, company text,
  next_try timestamptz);
INSERT INTO lead (email) VALUES ('kim@example.com'), ('pat@example.com');
-- The CRM, which makes one contact for each key that it is given
CREATE TABLE crm (key text PRIMARY KEY, contact text DEFAULT 'c_' || 17);
CREATE FUNCTION crm(key text) RETURNS jsonb LANGUAGE sql AS $$
  INSERT INTO crm VALUES ($1) ON CONFLICT DO NOTHING;
  SELECT jsonb_build_object('contact', contact) FROM crm WHERE key = $1;
$$;

-- The program dies behind the CRM's answer: the next run gives the same key.
SELECT saga.begin('lead', 'kim@example.com') AS s \gset
SELECT status, forward_key AS key FROM saga.step(:'s', 'contact') \gset
SELECT crm(:'key');
SELECT saga.begin('lead', 'kim@example.com') = :'s' AS same;
SELECT status, attempt, forward_key = :'key' AS same_key FROM saga.step(:'s', 'contact');
SELECT crm(:'key');
SELECT count(*) FROM crm;
SELECT c.status AS contact, e.status AS enrich
FROM saga.complete_step(:'s', 'contact', crm(:'key')) AS c,
  LATERAL saga.step(c.saga_id, 'enrich', retry => saga.retry_policy(max_attempts => 2)) AS e;
-- The directory does not answer: kept, and marked.
UPDATE lead SET status = 'pending', next_try = f.retry_at
FROM saga.fail_step(:'s', 'enrich', 'the directory does not answer') AS f
WHERE email = 'kim@example.com';
SELECT status, next_try > now() AS later FROM lead WHERE email = 'kim@example.com';
SELECT state, last_completed_step, next_action FROM saga.sagas WHERE id = :'s';
-- The next run: no second contact.
SELECT status, output FROM saga.step(:'s', 'contact');
SELECT status, attempt FROM saga.step(:'s', 'enrich', retry => saga.retry_policy(max_attempts => 2));
BEGIN;
UPDATE lead SET status = 'ready', company = 'Example Ltd', next_try = NULL WHERE email = 'kim@example.com';
SELECT c.status, saga.complete(c.saga_id)
FROM saga.complete_step(:'s', 'enrich', '{"company": "Example Ltd"}') AS c;
COMMIT;
SELECT status, company FROM lead WHERE email = 'kim@example.com';
SELECT t.key AS step, a.attempt, a.outcome, a.error
FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq)
WHERE saga_id = :'s' ORDER BY t.position, a.attempt;
-- And once more, when all is done: everything answers, nothing happens.
SELECT saga.begin('lead', 'kim@example.com') = :'s' AS same;
SELECT status, output FROM saga.step(:'s', 'contact');
SELECT status, output FROM saga.step(:'s', 'enrich', retry => saga.retry_policy(max_attempts => 2));
SELECT saga.complete(:'s');

-- The attempts are used up: the lead is kept without the company.
SELECT saga.begin('lead', 'pat@example.com') AS s \gset
SELECT status FROM saga.step(:'s', 'contact', output => '{"contact": "c_18"}');
SELECT status FROM saga.step(:'s', 'enrich', retry => saga.retry_policy(max_attempts => 1));
UPDATE lead SET status = 'pending', next_try = f.retry_at
FROM saga.fail_step(:'s', 'enrich', 'the directory knows nobody of that name') AS f
WHERE email = 'pat@example.com';
SELECT status, next_try FROM lead WHERE email = 'pat@example.com';
SELECT saga.complete(:'s', '{"enriched": false}');

------------------------------------------------------------------------------
-- 3. A confirmation that was sent too early
------------------------------------------------------------------------------
CREATE TABLE outbox (key text PRIMARY KEY, recipient text, words text, sent_at timestamptz);
CREATE TABLE desk (id int GENERATED ALWAYS AS IDENTITY, words text);
CREATE FUNCTION correct(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM outbox WHERE key = context->>'forward_key' AND sent_at IS NULL;
  IF FOUND THEN
    RETURN;
  END IF;
  INSERT INTO outbox VALUES (context->>'compensation_key', context->'args'->>'guest',
    'We are sorry: your room is not booked. We will call you.');
  INSERT INTO desk (words) VALUES (format('Call %s, who was told of a room: %s',
    context->'args'->>'guest', context->'saga'->>'reason'));
END $$;
CREATE PROCEDURE confirm(booking uuid, guest text) LANGUAGE sql AS $$
  INSERT INTO outbox
  SELECT forward_key, guest, 'Your room is booked.'
  FROM saga.step(booking, 'confirm', completed => true,
    args => jsonb_build_object('guest', guest), compensation => 'SELECT correct($1)')
  ON CONFLICT DO NOTHING;
$$;
-- It was sent: a correction, and somebody is told. Called twice, it is one e-mail.
SELECT saga.begin('booking', 'booking-1', timeout => '1 hour') AS s \gset
CALL confirm(:'s', 'kim@example.com');
CALL confirm(:'s', 'kim@example.com');
UPDATE outbox SET sent_at = now();
SELECT status FROM saga.step(:'s', 'book');
SELECT f.status, saga.fail(:'s', f.error)
FROM saga.fail_step(:'s', 'book', 'the hotel is full', retryable => false) AS f;
SELECT saga.wait(:'s');
SELECT test.mask(key) AS key, recipient, words, sent_at IS NOT NULL AS sent FROM outbox ORDER BY outbox.key;
SELECT words FROM desk;
-- It was not: it is withdrawn, and nobody is troubled.
SELECT saga.begin('booking', 'booking-2', timeout => '1 hour') AS s \gset
CALL confirm(:'s', 'pat@example.com');
SELECT recipient, words FROM outbox WHERE recipient LIKE 'pat%';
SELECT saga.fail(:'s', 'the hotel is full');
SELECT saga.wait(:'s');
SELECT recipient, words FROM outbox WHERE recipient LIKE 'pat%';
SELECT count(*) FROM desk;
CALL test.refuses(format('CALL confirm(%L, %L)', :'s', 'pat@example.com'));

-- A guest who wants to be forgotten is, wherever her address had got to.
SELECT saga.begin('booking', 'booking-3', '{"guest": "lee@example.com"}') AS s \gset
SELECT status FROM saga.step(:'s', 'confirm', output => '"told lee@example.com"',
  args => '{"guest": "lee@example.com"}', compensation => $$SELECT ($1->'args'->>'guest')::int$$,
  compensation_retry => saga.retry_policy(max_attempts => 1));
SELECT status FROM saga.step(:'s', 'book');
SELECT f.status, saga.fail(:'s', 'no room', '{"guest": "lee@example.com"}')
FROM saga.fail_step(:'s', 'book', 'no room for lee@example.com', retryable => false) AS f;
SELECT saga.wait(:'s');
SELECT why FROM saga.review_queue WHERE saga_id = :'s';
SELECT saga.abandon(:'s', 'rang her up');
SELECT saga.redact(:'s');
SELECT 'sagas' AS view FROM saga.sagas v WHERE v::text LIKE '%lee@%'
UNION ALL SELECT 'steps' FROM saga.steps v WHERE v::text LIKE '%lee@%'
UNION ALL SELECT 'attempts' FROM saga.attempts v WHERE v::text LIKE '%lee@%'
UNION ALL SELECT 'events' FROM saga.events v WHERE v::text LIKE '%lee@%';

------------------------------------------------------------------------------
-- 4. A payment that was captured
------------------------------------------------------------------------------
CREATE TABLE stock (item text PRIMARY KEY, free int NOT NULL CHECK (free >= 0));
INSERT INTO stock VALUES ('lamp', 5);
CREATE FUNCTION change(item text, by int) RETURNS void LANGUAGE sql AS $$
  WITH changed AS (UPDATE stock SET free = free + by WHERE stock.item = $1 RETURNING 1)
  SELECT saga.require(count(*) = 1, 'there is no such item') FROM changed;
$$;
CREATE FUNCTION put_back(c jsonb) RETURNS void LANGUAGE sql AS $$ SELECT change(c->'args'->>'item', 1) $$;
CREATE FUNCTION reserve(ord uuid, item text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF NOT (saga.step(ord, 'reserve', completed => true, args => jsonb_build_object('item', item),
      compensation => 'SELECT put_back($1)')).known
  THEN
    PERFORM change(item, -1);
  END IF;
END $$;
CREATE PROCEDURE sell(number text) LANGUAGE plpgsql AS $$
DECLARE
  s uuid := saga.begin('order', number);
BEGIN
  PERFORM reserve(s, 'lamp');
  PERFORM saga.step(s, 'capture', kind => 'pivot', args => '{"cents": 4900}');
  COMMIT;
  PERFORM saga.complete_step(s, 'capture', '{"capture": "cap_1"}', late => 'record');
  PERFORM saga.step(s, 'ship', kind => 'retriable');
  COMMIT;
END $$;
CALL sell('order-1');
SELECT saga.begin('order', 'order-1') AS s \gset
SELECT position, step, action, detail FROM saga.plan(:'s');
SELECT f.status, saga.fail(:'s', f.error)
FROM saga.fail_step(:'s', 'ship', 'no such street', retryable => false) AS f;
SELECT key, step, why, last_completed, outputs, test.mask(to_settle) AS to_settle
FROM saga.review_queue WHERE saga_id = :'s' \gx
-- There is no way back ...
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'s', 'capture', 'retry', 'refund it'));
CALL test.refuses(format('SELECT saga.rollback_to(%L, %L)', :'s', 'reserve'));
-- ... but forward.
SELECT saga.reopen(:'s', 'the customer gave the right street');
SELECT reserve(:'s', 'lamp');
SELECT status FROM saga.step(:'s', 'capture', kind => 'pivot', args => '{"cents": 4900}');
SELECT status, attempt FROM saga.step(:'s', 'ship', kind => 'retriable');
SELECT c.status, saga.complete(:'s') FROM saga.complete_step(:'s', 'ship') AS c;
SELECT * FROM stock;
SELECT event, step, detail - 'by' AS detail FROM saga.events WHERE saga_id = :'s' ORDER BY position;
-- Or it is given up, and everything stays as it is.
CALL sell('order-2');
SELECT saga.begin('order', 'order-2') AS s \gset
SELECT saga.fail(:'s', 'no such street');
SELECT saga.abandon(:'s', 'the customer fetched it');
SELECT * FROM stock;
CALL test.refuses(format('SELECT saga.reopen(%L, %L)', :'s', 'too late'));

-- A refund is possible, but somebody looks first: it is wanted, was made by
-- hand, or is not wanted.
CREATE TABLE refund (key text PRIMARY KEY, capture text, cents int);
CREATE PROCEDURE sell_and_fail(number text) LANGUAGE plpgsql AS $$
DECLARE
  s uuid := saga.begin('order', number);
BEGIN
  PERFORM reserve(s, 'lamp');
  PERFORM saga.step(s, 'capture', args => '{"cents": 4900}',
    review => 'a refund costs 1.20: is it wanted?',
    compensation => $undo$INSERT INTO refund VALUES ($1->>'compensation_key',
      $1->'output'->>'capture', ($1->'args'->>'cents')::int)$undo$);
  COMMIT;
  PERFORM saga.complete_step(s, 'capture', jsonb_build_object('capture', number), late => 'record');
  COMMIT;
  PERFORM saga.fail(s, 'the customer changed her mind');
END $$;
CALL sell_and_fail('order-3');
CALL sell_and_fail('order-4');
CALL sell_and_fail('order-5');
SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key IN ('order-3', 'order-4', 'order-5');
SELECT * FROM stock;
SELECT key, step, why FROM saga.review_queue WHERE key LIKE 'order-_' ORDER BY key;
SELECT s.idempotency_key AS key, p.position, p.step, p.action, p.detail
FROM saga.sagas s, saga.plan(s.id) p WHERE s.state = 'needs_review' AND s.idempotency_key LIKE 'order-_' ORDER BY 1, 2;
SELECT saga.resolve(saga.begin('order', 'order-3'), 'capture', 'retry', 'a good customer');
SELECT saga.resolve(saga.begin('order', 'order-4'), 'capture', 'done', 'refunded at the till');
SELECT saga.resolve(saga.begin('order', 'order-5'), 'capture', 'skip', 'she takes a voucher');
SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key IN ('order-3', 'order-4', 'order-5');
SELECT capture, cents FROM refund;
SELECT * FROM stock;
-- The failure comes while the capture is under way: with a review, the undo stops
-- at the pivot, before the lamp goes back.  It was captured after all, and the
-- order goes on from there; or it was not, and the lamp is free again.
CREATE PROCEDURE capture_and_fail(number text) LANGUAGE plpgsql AS $$
DECLARE
  s uuid := saga.begin('order', number);
BEGIN
  PERFORM reserve(s, 'lamp');
  PERFORM saga.step(s, 'capture', kind => 'pivot', review => 'what became of the money?');
  COMMIT;
  PERFORM saga.fail(s, 'no answer for an hour');
  COMMIT;
  PERFORM saga.wait(s);
END $$;
CALL capture_and_fail('order-6');
CALL capture_and_fail('order-7');
SELECT saga.begin('order', 'order-6') AS s \gset
SELECT status FROM saga.complete_step(:'s', 'capture', '{"capture": "cap_6"}', late => 'record');
SELECT key, step, why, outputs, test.mask(must_not_repeat) AS must_not_repeat FROM saga.review_queue WHERE key IN ('order-6', 'order-7') ORDER BY key;
SELECT saga.rollback_to(:'s', 'capture', 'it was captured: cap_6');
SELECT state, last_completed_step FROM saga.sagas WHERE id = :'s';
SELECT (saga.step(:'s', 'ship', kind => 'retriable', completed => true)).status, saga.complete(:'s');
SELECT saga.resolve(saga.begin('order', 'order-7'), 'capture', 'skip', 'it was refused, says the provider');
SELECT saga.wait(saga.begin('order', 'order-7'));
SELECT * FROM stock;

------------------------------------------------------------------------------
-- 5. Publishing, and a check that fails
------------------------------------------------------------------------------
CREATE TABLE page (slug text PRIMARY KEY, live int NOT NULL);
INSERT INTO page VALUES ('prices', 41);
CREATE FUNCTION publish(release uuid, slug text, version int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  st saga.step_result := saga.step(release, 'publish',
    args => jsonb_build_object('slug', slug, 'version', version),
    compensation => 'SELECT unpublish($1)');
  before int;
BEGIN
  IF st.status = 'started' THEN
    SELECT live INTO before FROM page p WHERE p.slug = publish.slug FOR UPDATE;
    UPDATE page p SET live = version WHERE p.slug = publish.slug;
    st := saga.complete_step(release, 'publish', jsonb_build_object('before', before));
  END IF;
  RETURN st.status;
END $$;
CREATE FUNCTION unpublish(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE page SET live = (context->'output'->>'before')::int
  WHERE slug = context->'args'->>'slug' AND live = (context->'args'->>'version')::int;
$$;
SELECT saga.begin('release', 'prices-42') AS s \gset
SELECT status FROM saga.step(:'s', 'cache', completed => true, notify => 'purge_cache', acknowledge => false);
SELECT publish(:'s', 'prices', 42);
-- Again, by a second run: what was live before is not forgotten.
SELECT publish(:'s', 'prices', 42);
SELECT output FROM saga.steps WHERE saga_id = :'s' AND key = 'publish';
SELECT status, attempt FROM saga.step(:'s', 'check', retry => saga.retry_policy(max_attempts => 2));
SELECT status, retry_at IS NOT NULL AS again FROM saga.fail_step(:'s', 'check', 'no prices on it');
SELECT status, attempt FROM saga.step(:'s', 'check', retry => saga.retry_policy(max_attempts => 2));
SELECT status, retry_at IS NOT NULL AS again FROM saga.fail_step(:'s', 'check', 'no prices on it');
SELECT * FROM page;
SELECT saga.fail(:'s', 'version 42 is broken');
SELECT saga.wait(:'s');
SELECT * FROM page;
SELECT event, step FROM saga.events WHERE saga_id = :'s' AND position > 8 ORDER BY position;
-- Somebody published another one meanwhile: that one stays.
SELECT saga.begin('release', 'prices-43') AS s \gset
SELECT publish(:'s', 'prices', 43);
UPDATE page SET live = 44;
SELECT saga.fail(:'s', 'version 43 is broken');
SELECT saga.wait(:'s');
SELECT * FROM page;
SELECT phase, outcome, rows FROM saga.attempts WHERE saga_id = :'s' AND phase = 'compensation';

------------------------------------------------------------------------------
-- 6. An agent with tools
------------------------------------------------------------------------------
CREATE TABLE file (path text PRIMARY KEY, content text NOT NULL);
INSERT INTO file VALUES ('total.py', 'return n * 9');
CREATE TABLE spend (forward_key text, attempt int, cents int, PRIMARY KEY (forward_key, attempt));
CREATE FUNCTION paid(st saga.step_result, cents int) RETURNS text LANGUAGE sql AS $$
  INSERT INTO spend VALUES (st.forward_key, st.attempt, cents);
  SELECT st.status;
$$;
CREATE FUNCTION write(task uuid, path text, content text, cents int) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  before text;
BEGIN
  SELECT f.content INTO before FROM file f WHERE f.path = write.path FOR UPDATE;
  UPDATE file f SET content = write.content WHERE f.path = write.path;
  RETURN paid(saga.complete_step(task, 'write',
    jsonb_build_object('path', path, 'before', before)), cents);
END $$;
CREATE FUNCTION unwrite(context jsonb) RETURNS void LANGUAGE sql AS $$
  UPDATE file SET content = context->'output'->>'before'
  WHERE path = context->'output'->>'path';
$$;
CREATE VIEW rollback AS
SELECT saga_id, at, coalesce(seq, 0) AS savepoint FROM saga.events WHERE event = 'rolling back';
CREATE VIEW run AS
SELECT t.saga_id, t.position, t.key AS step, t.run, a.attempt, a.outcome,
  t.compensation_status AS undo, p.cents AS paid,
  p.cents * (SELECT count(*) FROM rollback r
             WHERE r.saga_id = t.saga_id AND r.savepoint >= t.seq
               AND NOT EXISTS (SELECT FROM rollback b
                               WHERE b.saga_id = t.saga_id AND b.savepoint < t.seq
                                 AND b.at > t.started_at AND b.at < r.at)) AS saved
FROM saga.steps t
JOIN saga.attempts a ON (a.saga_id, a.seq, a.phase) = (t.saga_id, t.seq, 'forward')
LEFT JOIN spend p ON (p.forward_key, p.attempt) = (t.forward_key, a.attempt);

SELECT saga.begin('agent', 'task-7', '{"task": "add 19 % tax"}', timeout => '1 hour') AS s \gset
SELECT status FROM saga.step(:'s', 'plan');
SELECT paid(saga.complete_step(:'s', 'plan', '{"files": ["total.py"]}'), 40);
SELECT status FROM saga.step(:'s', 'read', args => '{"path": "total.py"}');
SELECT paid(saga.complete_step(:'s', 'read', '{"says": "n items at 9 each"}'), 15);
SELECT status, forward_key AS key FROM saga.step(:'s', 'write', compensation => 'SELECT unwrite($1)') \gset
SELECT write(:'s', 'total.py', 'return n * 9 + 19', 30);
SELECT status FROM saga.step(:'s', 'test');
SELECT * FROM file;
-- "test" failed: it is no savepoint. "deploy" never was.
SELECT paid(saga.fail_step(:'s', 'test', 'total(1) is 28, not 10.71', retryable => false), 5);
CALL test.refuses(format('SELECT saga.rollback_to(%L, %L)', :'s', 'test'));
CALL test.refuses(format('SELECT saga.rollback_to(%L, %L)', :'s', 'deploy'));
-- Back to "read"
SELECT saga.rollback_to(:'s', 'read', 'the test fails');
SELECT saga.wait(:'s', until => 'running');
SELECT * FROM file;
CALL test.refuses(format('SELECT saga.rollback_to(%L, %L)', :'s', 'write'));
-- From the top: what was kept is not done again, the rest starts afresh.
SELECT step, status, attempt, output FROM saga.step(:'s', 'plan');
SELECT step, status, attempt, output FROM saga.step(:'s', 'read', args => '{"path": "total.py"}');
CALL test.refuses(format('SELECT saga.step(%L, %L, args => %L)', :'s', 'read', '{"path": "other.py"}'));
SELECT step, status, attempt, output, forward_key <> :'key' AS new_key
FROM saga.step(:'s', 'write', compensation => 'SELECT unwrite($1)');
-- What the old run reports no longer counts.
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, forward_key => %L)', :'s', 'write', :'key'));
SELECT write(:'s', 'total.py', 'return n * 9 * 1.19', 35);
SELECT status FROM saga.step(:'s', 'test');
SELECT paid(saga.complete_step(:'s', 'test'), 5);
-- A second thought: back to "write" this time, and then to the very beginning
SELECT status FROM saga.step(:'s', 'review the code');
SELECT paid(saga.fail_step(:'s', 'review the code', 'where is the 1.19 from?'), 8),
  saga.rollback_to(:'s', 'write', 'a constant, please');
SELECT saga.wait(:'s', until => 'running');
SELECT * FROM file;
SELECT position, step, run, attempt, outcome, undo, paid, saved FROM run WHERE saga_id = :'s' ORDER BY position, attempt;
SELECT saga.rollback_to(:'s', NULL, 'another plan');
SELECT saga.wait(:'s', until => 'running');
SELECT * FROM file;
SELECT status, attempt, output FROM saga.step(:'s', 'plan', output => '{"files": []}');
SELECT saga.complete(:'s');
SELECT position, step, run, attempt, outcome, undo, paid, saved FROM run WHERE saga_id = :'s' ORDER BY position, attempt;
SELECT sum(paid) AS paid, sum(saved) AS saved FROM run WHERE saga_id = :'s';
SELECT event, step, detail - 'by' AS detail FROM saga.events WHERE saga_id = :'s' ORDER BY position;

-- Once deployed, there is no way back to before that.
SELECT saga.begin('agent', 'task-8') AS s \gset
SELECT status FROM saga.step(:'s', 'plan', completed => true);
SELECT status FROM saga.step(:'s', 'deploy', kind => 'pivot', completed => true);
SELECT status FROM saga.step(:'s', 'announce', kind => 'retriable');
CALL test.refuses(format('SELECT saga.rollback_to(%L, %L)', :'s', 'plan'));
SELECT saga.rollback_to(:'s', 'deploy', 'announce it once more');
-- Its attempt is over, although the saga is running.
SELECT t.key, t.run, a.attempt, a.outcome
FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq) WHERE saga_id = :'s' ORDER BY t.position;
SELECT status, attempt FROM saga.step(:'s', 'announce', kind => 'retriable', completed => true);
SELECT saga.complete(:'s');
SELECT position, key, run, status, compensation_status FROM saga.steps WHERE saga_id = :'s' ORDER BY position;

------------------------------------------------------------------------------
-- 7. A person agrees first
------------------------------------------------------------------------------
CREATE TABLE budget (team text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0));
INSERT INTO budget VALUES ('shop', 900000);
CREATE FUNCTION set_aside(payout uuid, team text, cents bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  st saga.step_result := saga.step(payout, 'set aside',
    args => jsonb_build_object('team', team, 'cents', cents), compensation => $undo$
      WITH given_back AS (
        UPDATE budget SET cents = cents + ($1->'args'->>'cents')::bigint
        WHERE team = $1->'args'->>'team' RETURNING 1)
      SELECT saga.require(count(*) = 1, 'there is no such team') FROM given_back $undo$);
BEGIN
  IF st.status = 'started' THEN
    UPDATE budget b SET cents = b.cents - set_aside.cents WHERE b.team = set_aside.team;
    st := saga.complete_step(payout, 'set aside');
  END IF;
  RETURN st.status;
END $$;
CREATE FUNCTION pay(payout uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF (saga.step(payout, 'consent')).status <> 'completed' THEN
    RAISE EXCEPTION 'nobody has agreed to it yet';
  END IF;
  RETURN (saga.step(payout, 'pay', review => 'call the money back, if it was sent')).status;
END $$;

SELECT s, set_aside(s, 'shop', 250000)
FROM saga.begin('payout', 'payout-1', '{"to": "Acme", "cents": 250000}', timeout => '2 days') AS s \gset
SELECT status FROM saga.step(:'s', 'consent');
SELECT s.idempotency_key AS key, s.input, s.deadline - s.started_at AS time
FROM saga.steps t JOIN saga.sagas s ON s.id = t.saga_id
WHERE t.key = 'consent' AND t.status = 'started' AND s.state = 'running';
-- Nobody agreed; and to ask whether somebody did changes nothing.
CALL test.refuses(format('SELECT pay(%L)', :'s'));
SELECT key, status, attempts FROM saga.steps WHERE saga_id = :'s' ORDER BY position;
-- Ann agrees. Bob comes second; who says the same again is welcome.
SELECT status FROM saga.complete_step(:'s', 'consent', '{"by": "ann"}');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, %L)', :'s', 'consent', '{"by": "bob"}'));
SELECT status, output FROM saga.complete_step(:'s', 'consent', '{"by": "ann"}');
-- What she agreed to changes: it must be agreed to afresh.
SELECT saga.rollback_to(:'s', 'set aside', 'another account');
CALL test.refuses(format('SELECT pay(%L)', :'s'));
SELECT status, attempt, output FROM saga.step(:'s', 'consent');
SELECT status FROM saga.complete_step(:'s', 'consent', '{"by": "bob"}');
SELECT pay(:'s');
-- The transfer was sent, and then turns out to be wrong: a person calls it back.
SELECT status FROM saga.complete_step(:'s', 'pay', '{"transfer": "tr_1"}', late => 'record');
SELECT saga.fail(:'s', 'paid twice');
SELECT saga.wait(:'s');
CALL test.refuses(format('SELECT saga.resolve(%L, %L, %L, %L)', :'s', 'pay', 'retry', 'please'));
SELECT saga.resolve(:'s', 'pay', 'done', 'Acme sent it back');
SELECT saga.wait(:'s');
SELECT * FROM budget;
-- Refused
SELECT s, set_aside(s, 'shop', 300000)
FROM saga.begin('payout', 'payout-2', '{"to": "Acme", "cents": 300000}', timeout => '2 days') AS s \gset
SELECT status FROM saga.step(:'s', 'consent');
SELECT saga.fail(:'s', 'ann: we never ordered that');
SELECT saga.wait(:'s');
CALL test.refuses(format('SELECT saga.complete_step(%L, %L, %L)', :'s', 'consent', '{"by": "bob"}'));
SELECT * FROM budget;
-- Nobody answered in time.
BEGIN;
SELECT s, set_aside(s, 'shop', 400000)
FROM saga.begin('payout', 'payout-3', '{"to": "Acme", "cents": 400000}', timeout => '1 ms') AS s \gset
SELECT status FROM saga.step(:'s', 'consent');
COMMIT;
SELECT saga.wait(:'s');
SELECT state, failure_kind, failed_step FROM saga.sagas WHERE id = :'s';
SELECT * FROM budget;

------------------------------------------------------------------------------
-- 8. A saga inside a saga
------------------------------------------------------------------------------
CREATE TABLE seat (flight text PRIMARY KEY, free int NOT NULL CHECK (free >= 0));
INSERT INTO seat VALUES ('LX8', 9);
CREATE FUNCTION fail_child(context jsonb) RETURNS void LANGUAGE sql AS $$
  SELECT saga.require(state NOT IN ('completed', 'abandoned'), 'it is ' || state || ' and must be undone by hand')
  FROM saga.sagas WHERE id = (context->'args'->>'child')::uuid;
  SELECT saga.fail((context->'args'->>'child')::uuid,
    concat(context->'saga'->>'name', ': ', context->'saga'->>'reason'));
$$;
CREATE FUNCTION child_is_gone(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  child text := (SELECT state FROM saga.sagas WHERE id = (context->'args'->>'child')::uuid);
BEGIN
  IF child = 'compensating' THEN
    RAISE EXCEPTION 'it is still being undone' USING ERRCODE = 'SG007';     -- ask again
  ELSIF child IS DISTINCT FROM 'compensated' THEN
    RAISE EXCEPTION 'it is %: decide about it first', child USING ERRCODE = 'SG006';
  END IF;
END $$;
-- As the recipe's, but asking again soon
CREATE FUNCTION begin_trip(tour uuid, key text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  trip uuid := saga.begin('trip', key);
  args jsonb := jsonb_build_object('child', trip);
BEGIN
  PERFORM saga.step(tour, key || ' is gone', completed => true, args => args,
      compensation => 'SELECT child_is_gone($1)',
      compensation_retry => saga.retry_policy(delay => '10 ms', backoff => 'constant')),
    saga.step(tour, key, completed => true, args => args,
      compensation => 'SELECT fail_child($1)');
  RETURN trip;
END $$;
-- One seat of a trip, with a compensation that waits for the lock, or cannot be
CREATE FUNCTION take_seat(trip uuid, undo text) RETURNS boolean LANGUAGE sql AS $$
  WITH step AS (SELECT * FROM saga.step(trip, 'seat', completed => true, compensation => undo)),
    taken AS (UPDATE seat SET free = free - 1 FROM step WHERE flight = 'LX8' AND NOT known)
  SELECT known FROM step;
$$;
SELECT $$UPDATE seat SET free = free + 1 WHERE flight = 'LX8'$$ AS give_back \gset

-- Called again from the top, it does nothing twice.
SELECT saga.begin('tour', 'tour-1') AS tour \gset
SELECT begin_trip(:'tour', 'tour-1 trip-1') AS trip \gset
SELECT take_seat(:'trip', :'give_back');
SELECT saga.begin('tour', 'tour-1') = :'tour' AS tour, begin_trip(:'tour', 'tour-1 trip-1') = :'trip' AS trip;
SELECT take_seat(:'trip', :'give_back');
SELECT free FROM seat;
SELECT key, status FROM saga.steps WHERE saga_id = :'tour' ORDER BY position;
-- The trip fails by itself; the tour goes on with another, and then fails.
SELECT saga.fail(:'trip', 'no plane');
SELECT saga.wait(:'trip');
SELECT begin_trip(:'tour', 'tour-1 trip-2') AS other \gset
SELECT take_seat(:'other', :'give_back');
SELECT saga.fail(:'tour', 'the guide is ill');
SELECT saga.wait(:'tour');
SELECT name, state, reason FROM saga.sagas WHERE id IN (:'tour', :'trip', :'other') ORDER BY id;
SELECT free FROM seat;

-- The undo of the trip takes long: the tour waits for it, and no attempt is charged.
SELECT saga.begin('tour', 'tour-2') AS tour \gset
SELECT begin_trip(:'tour', 'tour-2 trip') AS trip \gset
SELECT take_seat(:'trip', 'SELECT pg_advisory_xact_lock(8); ' || :'give_back');
SELECT pg_advisory_lock(8);
SELECT saga.fail(:'tour', 'rain');
CALL test.wait_until(format($$SELECT count(*) > 1 FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq)
  WHERE a.saga_id = %L AND t.key = 'tour-2 trip is gone' AND a.outcome = 'deferred'$$, :'tour'));
SELECT state FROM saga.sagas WHERE id IN (:'tour', :'trip');
SELECT pg_advisory_unlock(8);
SELECT saga.wait(:'tour');
SELECT DISTINCT t.key, a.outcome FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq)
WHERE a.saga_id = :'tour' AND a.phase = 'compensation' ORDER BY 1, 2;
SELECT free FROM seat;

-- The undo of the trip is parked, and so is that of the tour; people decide.
SELECT saga.begin('tour', 'tour-3') AS tour \gset
SELECT begin_trip(:'tour', 'tour-3 trip') AS trip \gset
SELECT take_seat(:'trip', $$SELECT saga.require(false, 'the airline must agree')$$);
SELECT saga.fail(:'tour', 'rain');
SELECT saga.wait(:'tour');
SELECT s.name, q.step, q.why FROM saga.review_queue q JOIN saga.sagas s ON s.id = q.saga_id
WHERE q.saga_id IN (:'tour', :'trip') ORDER BY s.id;
SELECT saga.resolve(:'trip', 'seat', 'done', 'they agreed');
SELECT saga.wait(:'trip');
SELECT saga.resolve(:'tour', 'tour-3 trip is gone', 'retry', 'the trip is settled');
SELECT saga.wait(:'tour');

-- A trip that was completed before the tour cannot be undone by a machine.
SELECT saga.begin('tour', 'tour-4') AS tour \gset
SELECT begin_trip(:'tour', 'tour-4 trip') AS trip \gset
SELECT saga.complete(:'trip');
SELECT saga.fail(:'tour', 'rain');
SELECT saga.wait(:'tour');
SELECT step, why FROM saga.review_queue WHERE saga_id = :'tour';
