-- The story that saga.events tells: in order even of what happened in the same
-- moment, and whole.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/people.sql
\set ECHO all

-- An attempt is over before the next one begins and succeeds.
SELECT test.begin('again') AS id \gset
SELECT status, attempt FROM saga.step(:'id', 'a');
SELECT status, attempt FROM saga.step(:'id', 'a', completed => true);
SELECT * FROM test.story('again');

-- A claim is over before the next step is dispatched.
SELECT test.begin('over', 'continue') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'story');
SELECT status FROM saga.step(:'id', 'b', notify => 'story', compensation_retry => saga.retry_policy(1));
SELECT saga.fail(:'id');
CALL test.until_dispatched('over', 'b');
SELECT step FROM saga.claim_compensations('story', lease => '1 ms');
CALL test.until_dispatched('over', 'a');
SELECT line FROM test.story('over') line WHERE line LIKE 'compensation%';
SELECT saga.complete_compensation(compensation_key) FROM saga.claim_compensations('story');

-- What nobody acknowledges is dispatched, which is all; each time.
SELECT test.begin('forgotten') AS id \gset
SELECT status FROM saga.step(:'id', 'a', notify => 'story', acknowledge => false);
SELECT saga.fail(:'id');
SELECT saga.wait(:'id');
SELECT status FROM saga.complete_step(:'id', 'a', '1', late => 'record');
SELECT saga.resolve(:'id', 'a', 'retry', 'now with its result');
SELECT saga.wait(:'id');
SELECT * FROM test.story('forgotten');
