-- Published examples of other engines, ported: in our words, with our data, and (but for one) in no more lines than
-- there. Lines are those of the steps, without the frame that each of them needs (a class and run() there, SELECT and
-- FROM here) and without tables; a function that only the port needs counts. Hours of the original are moments here.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/forward.sql
SET search_path = test;
\set ECHO all
CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY, words text);
-- What came of a saga: its result, and its steps in the order in which they began
CREATE FUNCTION came_of(saga uuid) RETURNS TABLE (state text, steps text, result jsonb) LANGUAGE sql AS $$
  SELECT s.state, string_agg(t.key || CASE t.status WHEN 'completed' THEN '' ELSE ' (' || t.status || ')' END
    || CASE t.compensation_status WHEN 'compensated' THEN ' (undone)' ELSE '' END, ', ' ORDER BY t.position), s.result
  FROM saga.sagas s JOIN saga.steps t ON t.saga_id = s.id WHERE s.id = $1 GROUP BY s.id, s.state, s.result;
$$;
-- A service: takes the next task of a channel and reports its output, or an error.
CREATE PROCEDURE serve(channel text, output jsonb, error text DEFAULT NULL, retryable boolean DEFAULT true) LANGUAGE plpgsql AS $$
DECLARE
  t record;
BEGIN
  FOR i IN 1 .. 6000 LOOP
    SELECT * INTO t FROM saga.claim_tasks(channel, 1);
    IF t.task_key IS NOT NULL THEN
      PERFORM CASE WHEN error IS NULL THEN saga.complete_task(t.task_key, output)
        ELSE saga.fail_task(t.task_key, t.attempt, error, retryable) END;
      RETURN;
    END IF;
    COMMIT;
    PERFORM pg_sleep(0.01);
  END LOOP;
  RAISE EXCEPTION 'nobody asked the service "%"', channel;
END $$;

------------------------------------------------------------------------------
-- Cloudflare Workflows
------------------------------------------------------------------------------

-- build/sleeping-and-retrying, step.sleep and step.sleepUntil: 3 lines, here 2
SELECT s,
  saga.step(s, 'sleep for a bit', delay => '20 ms'),
  saga.step(s, 'sleep until the launch', not_before => '2024-10-24 13:00:00+00'),
  saga.complete(s, when_done => true)
FROM saga.begin('sleeper', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');

-- build/sleeping-and-retrying, retries: 8 lines, here 2. (The service is asked, fails, and is asked again.)
SELECT s,
  saga.step(s, 'call an API', task => 'api', timeout => '30 minutes',
    retry => saga.retry_policy(max_attempts => 10, delay => '10 ms', backoff => 'exponential')),
  saga.complete(s, when_done => true)
FROM saga.begin('caller', timeout => '1 day') AS s \gset
CALL serve('api', NULL, '503');
CALL serve('api', '{"answer": 42}');
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');
SELECT attempt, outcome, error FROM saga.attempts WHERE saga_id = :'s' ORDER BY attempt;

-- build/sleeping-and-retrying, NonRetryableError: 5 lines, here 1
SELECT s,
  saga.step(s, 'check', action => $$SELECT saga.require($1->'saga'->'input' ? 'data', 'the input has no data')$$),
  saga.complete(s, when_done => true)
FROM saga.begin('checked', input => '{}', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT reason FROM saga.sagas WHERE id = :'s';
SELECT attempt, outcome, error FROM saga.attempts WHERE saga_id = :'s' ORDER BY attempt;

-- build/events-and-parameters, waitForEvent and sendEvent: 1 line each, here too
SELECT s,
  saga.step(s, 'the invoice is paid', signals => '{webhook}', timeout => '1 hour'),
  saga.complete(s, when_done => true)
FROM saga.begin('billing', 'invoice-17', timeout => '1 day') AS s \gset
SELECT saga.signal(saga.find('billing', 'invoice-17'), 'webhook', '{"invoice": 17}');
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');

-- changelog 2026-06-05, rollback and rollbackConfig: 17 lines, here 2, and one that fails
SELECT s,
  saga.step(s, 'provision', task => 'cloud', notify => 'cloud',
    compensation_retry => saga.retry_policy(max_attempts => 3, delay => '15 s', timeout => '2 minutes')),
  saga.step(s, 'attach', action => $$SELECT saga.require(false, 'no such network')$$),
  saga.complete(s, when_done => true)
FROM saga.begin('provisioning', timeout => '1 day') AS s \gset
CALL serve('cloud', '{"resource": "r-1"}');
CALL serve('cloud', NULL);
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');

-- examples/send-invoices: waits, polls the cart ten times, lets a provider take the money, sends the invoice;
-- 66 lines, here 15 (and the call of the provider, 11 lines there, is the service's)
CREATE TABLE cart (id int PRIMARY KEY, checked_out boolean, amount int, email text);
INSERT INTO cart VALUES (123, false, 250, 'kim@example.com');
CREATE FUNCTION retrieve(c jsonb) RETURNS cart LANGUAGE plpgsql AS $$
DECLARE
  found cart := (SELECT k FROM cart k WHERE id = (c->'saga'->'input')::int);
BEGIN
  IF NOT found.checked_out THEN
    RAISE EXCEPTION 'the cart is not checked out yet';
  END IF;
  RETURN found;
END $$;
SELECT s,
  saga.step(s, 'a while', delay => '10 ms'),
  saga.step(s, 'cart', action => 'SELECT retrieve($1)', retry => saga.retry_policy(10, '500 ms', 'constant')),
  saga.step(s, 'payment', task => 'payments', retry => saga.retry_policy(10, '1 minute', 'constant')),
  saga.step(s, 'invoice', action => $$INSERT INTO log (words) SELECT format('invoice for %s to %s', amount, email)
    FROM cart WHERE id = ($1->'saga'->'input')::int RETURNING words$$),
  saga.complete(s, when_done => true)
FROM saga.begin('cart', input => '123', timeout => '1 day') AS s \gset
CALL test.wait_until(format($$SELECT count(*) > 0 FROM saga.attempts WHERE saga_id = %L$$, :'s'));
UPDATE cart SET checked_out = true;
CALL serve('payments', '{"success": true}');
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');

------------------------------------------------------------------------------
-- pg_durable, USER_GUIDE.md
------------------------------------------------------------------------------
CREATE TABLE staged (id int PRIMARY KEY, data text, processed_at timestamptz);
CREATE TABLE target (id int PRIMARY KEY, data text, loaded_at timestamptz DEFAULT now());
INSERT INTO staged VALUES (1, 'a'), (2, 'b');
INSERT INTO target VALUES (9, 'old', now() - interval '2 days');

-- "Multi-Step ETL": 7 lines, here 3
SELECT s,
  saga.step(s, 'clean up', action => $$DELETE FROM target WHERE loaded_at < now() - interval '1 day'$$),
  saga.step(s, 'mark', action => $$UPDATE staged SET processed_at = now() WHERE processed_at IS NULL$$),
  saga.step(s, 'load', action => $$INSERT INTO target SELECT id, data FROM staged WHERE processed_at IS NOT NULL$$),
  saga.complete(s, when_done => true)
FROM saga.begin('daily etl', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT id, data FROM target ORDER BY id;

-- "Parallel Execution": 4 lines, here 3
SELECT s,
  saga.step(s, 'staged', after => '{}', action => 'SELECT count(*) FROM staged'),
  saga.step(s, 'target', after => '{}', action => 'SELECT count(*) FROM target'),
  saga.step(s, 'sum', action => $$SELECT ($1->'outputs'->'staged')::int + ($1->'outputs'->'target')::int$$),
  saga.complete(s, when_done => true)
FROM saga.begin('counts', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT state, result FROM came_of(:'s');

-- "Conditional Logic": 3 lines, here 3
SELECT s,
  saga.step(s, 'load', action => $$SELECT CASE WHEN count(*) > 3
    THEN (saga.step(saga.current(), 'warn', action => $a$INSERT INTO log (words) VALUES ('high load')$a$)).step
    ELSE (saga.step(saga.current(), 'note', action => $a$INSERT INTO log (words) VALUES ('normal')$a$)).step END FROM staged$$),
  saga.complete(s, when_done => true)
FROM saga.begin('check the load', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');

-- "Cron-Style Scheduling", hourly: 5 lines, here 2
SELECT s,
  saga.step(s, 'clean up', not_before => date_trunc('hour', now()) + interval '1 hour', action => $$
    DELETE FROM log; SELECT saga.again(not_before => date_trunc('hour', now()) + interval '1 hour')$$)
FROM saga.begin('hourly', 'clean up') AS s \gset
CALL test.wait_until(format($$SELECT waits_for LIKE '____-__-__ __:00:00+00' FROM saga.steps WHERE saga_id = %L$$, :'s'));
SELECT saga.cancel(:'s');

-- "Eternal Loops", a heartbeat: 1 line, here too
CREATE TABLE heartbeat (at timestamptz);
SELECT s,
  saga.step(s, 'beat', action => $$INSERT INTO heartbeat VALUES (now()); SELECT saga.again(delay => '10 ms')$$)
FROM saga.begin('heart', 'one') AS s \gset
CALL test.wait_until('SELECT count(*) >= 3 FROM test.heartbeat');
-- (A beat may be under way.)
SELECT saga.cancel(:'s', 'enough') IN ('compensating', 'compensated') AS canceled;
SELECT saga.wait(:'s');
SELECT rounds >= 3 AS rounds, count(h) = rounds AS beats FROM saga.steps, heartbeat h WHERE saga_id = :'s' GROUP BY rounds;

-- "Breaking Out of Loops", batches until there is nothing left: 8 lines, here 1, without process_batch() here and there
CREATE FUNCTION process_batch() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM staged WHERE id = (SELECT min(id) FROM staged);
  RETURN FOUND;
END $$;
SELECT s,
  saga.step(s, 'batches', action => $$SELECT saga.again(delay => '10 ms') WHERE process_batch()$$),
  saga.complete(s, when_done => true)
FROM saga.begin('batches', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT rounds FROM saga.steps WHERE saga_id = :'s';

-- "Order Approval Workflow", 24 hours: 8 lines, here 4. (Both outcomes.)
CREATE TABLE ord (id int PRIMARY KEY, status text);
INSERT INTO ord VALUES (1, 'new'), (2, 'new');
CREATE FUNCTION order_approval(id int, patience interval) RETURNS uuid LANGUAGE sql AS $$
  SELECT s FROM (SELECT s,
  saga.step(s, 'approval', signals => '{approval}', timeout => patience, on_failure => 'skip'),
  saga.step(s, 'decide', args => to_jsonb(id), action => $a$UPDATE ord SET status =
    CASE WHEN ($1->'outputs'->'approval'->'payload'->'approved')::boolean THEN 'approved' ELSE 'rejected' END
    WHERE id = ($1->'args')::int$a$),
  saga.complete(s, when_done => true)
FROM saga.begin('order approval', timeout => '7 days') AS s) AS x $$;
SELECT order_approval(1, '24 hours') AS s \gset
SELECT order_approval(2, '10 ms') AS late \gset
SELECT saga.signal(:'s', 'approval', '{"approved": true, "approver": "jane"}');
SELECT saga.wait(:'s');
SELECT saga.wait(:'late');
SELECT * FROM ord ORDER BY id;

-- "Multi-Party Approval": 7 lines, here 4
CREATE TABLE document (id int PRIMARY KEY, status text);
INSERT INTO document VALUES (1, 'draft');
SELECT s,
  saga.step(s, 'legal', after => '{}', signals => '{legal}', timeout => '7 days'),
  saga.step(s, 'tech', after => '{}', signals => '{tech}', timeout => '7 days'),
  saga.step(s, 'management', after => '{}', signals => '{management}', timeout => '7 days'),
  saga.step(s, 'approve', action => $$UPDATE document SET status = 'approved' WHERE id = 1$$),
  saga.complete(s, when_done => true)
FROM saga.begin('document', 'document-1', timeout => '30 days') AS s \gset
SELECT saga.signal(:'s', name) FROM unnest('{tech,legal}'::text[]) AS name;
CALL test.wait_until(format($$SELECT count(*) = 2 FROM saga.steps WHERE saga_id = %L AND status = 'completed'$$, :'s'));
SELECT key, status, waits_for LIKE 'signal "management" until %' AS says FROM saga.steps WHERE saga_id = :'s' ORDER BY seq;
SELECT saga.signal(:'s', 'management');
SELECT saga.wait(:'s');
SELECT * FROM document;

-- "Webhook Callback Pattern", a job that a service renders and reports by a webhook: 7 lines, here 3. (It is no call and
-- a signal here, but one task; the webhook has the task's key.)
SELECT s,
  saga.step(s, 'render', task => 'render', args => '{"type": "video"}', timeout => '1 hour', on_failure => 'skip'),
  saga.step(s, 'file', action => $$INSERT INTO log (words)
    VALUES (CASE WHEN $1->'errors' ? 'render' THEN 'failed' ELSE 'done: ' || ($1->'outputs'->>'render') END) RETURNING words$$),
  saga.complete(s, when_done => true)
FROM saga.begin('job', timeout => '1 day') AS s \gset
SELECT forward_key AS key FROM saga.steps WHERE saga_id = :'s' AND key = 'render' \gset
SELECT saga.complete_task(:'key', '{"url": "cdn/17"}');
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');

-- Quick reference, a query that races with df.sleep(): 1 line, here too
SELECT s,
  saga.step(s, 'query', timeout => '50 ms', on_failure => 'skip', action => 'SELECT pg_sleep(600)'),
  saga.complete(s, when_done => true)
FROM saga.begin('race', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');
-- two that race, the first of which counts: 1 line, here 3. (The other is not stopped.)
SELECT s,
  saga.step(s, 'fast', after => '{}', action => $$SELECT saga.signal(saga.current(), 'first', '"fast"')$$),
  saga.step(s, 'slow', after => '{}', delay => '100 ms', action => $$SELECT saga.signal(saga.current(), 'first', '"slow"')$$),
  saga.step(s, 'winner', after => '{}', signals => '{first}', timeout => '1 hour'),
  saga.complete(s, when_done => true)
FROM saga.begin('two race', timeout => '1 day') AS s \gset
SELECT output->'payload' AS winner FROM saga.wait_step(:'s', 'winner');
SELECT saga.wait(:'s');

------------------------------------------------------------------------------
-- pgflow, www.pgflow.dev
------------------------------------------------------------------------------

-- get-started/flows/create-flow: 8 lines, here 2
SELECT s,
  saga.step(s, 'full name', action => $$SELECT concat_ws(' ', $1->'saga'->'input'->>'first', $1->'saga'->'input'->>'last')$$),
  saga.step(s, 'greeting', action => $$SELECT format('Hello, %s!', $1->'outputs'->>'full name')$$),
  saga.complete(s, when_done => true)
FROM saga.begin('greet', input => '{"first": "Ada", "last": "Lovelace"}', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT state, result FROM came_of(:'s');

-- build/process-arrays-in-parallel, the pages of a list of URLs, and a summary: 8 lines, here 5
SELECT s,
  saga.step(s, 'pages', action => $$
    SELECT count(saga.step(saga.current(), url, after => '{}', task => 'scrape', retry => saga.retry_policy(max_attempts => 3)))
    FROM jsonb_array_elements_text($1->'saga'->'input') AS url$$),
  saga.step(s, 'summary', action => $$SELECT sum((output->'words')::int) FROM saga.steps
    WHERE saga_id = saga.current() AND task = 'scrape'$$),
  saga.complete(s, when_done => true)
FROM saga.begin('scrape', input => '["https://a.example", "https://b.example", "https://c.example"]', timeout => '1 day') AS s \gset
CALL serve('scrape', '{"words": 10}');
CALL serve('scrape', '{"words": 20}');
CALL serve('scrape', '{"words": 30}');
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');

-- build/conditional-steps/examples, "Query Routing": 32 lines, here 4
SELECT s,
  saga.step(s, 'classify', action => $$SELECT CASE WHEN $1->'saga'->>'input' LIKE '%SELECT%' THEN 'code' ELSE 'simple' END$$),
  saga.step(s, 'route', action => $$SELECT (saga.step(saga.current(), 'answer', timeout => '1 hour',
    task => CASE $1->'outputs'->>'classify' WHEN 'simple' THEN 'fast_model' WHEN 'code' THEN 'code_model' ELSE 'large_model' END)).step$$),
  saga.step(s, 'respond', action => $$SELECT initcap(saga.output('answer')->>'text')$$),
  saga.complete(s, when_done => true)
FROM saga.begin('query', input => '"What does SELECT do?"', timeout => '1 day') AS s \gset
CALL serve('code_model', '{"text": "it reads"}');
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');

-- build/retrying-steps, each step by its own policy: 21 lines, here 3
SELECT s,
  saga.step(s, 'validate', retry => saga.retry_policy(max_attempts => 1), action => $$SELECT 1 / ($1->'saga'->'input')::int$$),
  saga.step(s, 'fetch', retry => saga.retry_policy(max_attempts => 5, delay => '10 s'), task => 'fetch'),
  saga.step(s, 'save', retry => saga.retry_policy(max_attempts => 3, delay => '1 s'), action => 'SELECT 1'),
  saga.complete(s, when_done => true)
FROM saga.begin('pipeline', input => '0', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');
SELECT attempt, outcome, error FROM saga.attempts WHERE saga_id = :'s' ORDER BY attempt;

-- build/delaying-steps, a welcome, tips after three days, a review after a week: 11 lines, here 3
SELECT s,
  saga.step(s, 'welcome', after => '{}', action => 'SELECT 1'),
  saga.step(s, 'tips', after => '{}', delay => '3 days', action => 'SELECT 2'),
  saga.step(s, 'review', after => '{}', delay => '7 days', action => 'SELECT 3'),
  saga.complete(s, when_done => true)
FROM saga.begin('onboarding', timeout => '30 days') AS s \gset
SELECT status, output FROM saga.wait_step(:'s', 'welcome');
CALL test.wait_until(format($$SELECT count(*) = 2 FROM saga.steps WHERE saga_id = %L AND ready_at > now() + interval '2 days'$$, :'s'));
SELECT t.key, t.status, round(extract(epoch FROM t.ready_at - s.started_at) / 86400) AS days
FROM saga.steps t JOIN saga.sagas s ON s.id = t.saga_id WHERE s.id = :'s' ORDER BY seq;
SELECT saga.cancel(:'s', 'it is only a test');

-- build/graceful-failure, whenExhausted: 14 lines, here 2
SELECT s,
  saga.step(s, 'welcome mail', retry => saga.retry_policy(max_attempts => 3, delay => '10 ms'), on_failure => 'skip', action => 'SELECT 1/0'),
  saga.step(s, 'account', action => $$SELECT 17 AS account, NOT $1->'errors' ? 'welcome mail' AS mailed$$),
  saga.complete(s, when_done => true)
FROM saga.begin('account', timeout => '1 day') AS s \gset
SELECT saga.wait(:'s');
SELECT * FROM came_of(:'s');

-- build/starting-flows/database-triggers, a flow for each new row: 20 lines, here 9
CREATE TABLE article (id int PRIMARY KEY, url text);
CREATE FUNCTION process_articles() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM saga.step(s, 'read', action => $a$INSERT INTO log (words) VALUES ($1->'saga'->'input'->>'url')$a$),
    saga.complete(s, when_done => true)
  FROM new_articles AS a, saga.begin('article', a.id::text, to_jsonb(a)) AS s;
  RETURN NULL;
END $$;
CREATE TRIGGER process AFTER INSERT ON article REFERENCING NEW TABLE AS new_articles
  FOR EACH STATEMENT EXECUTE FUNCTION process_articles();
INSERT INTO article VALUES (1, 'a.example/1'), (2, 'a.example/2');
SELECT id, saga.wait(saga.find('article', id::text)) FROM article ORDER BY id;
SELECT words FROM log WHERE words LIKE 'a.example%' ORDER BY words;
CALL test.check_forward();
