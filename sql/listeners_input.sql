-- Bad input of the listeners' calls: a clear error each, and nothing changed.
\set ECHO none
\i sql/include/helpers.sql
\i sql/include/listeners.sql
\set ECHO all

-- "busy": "waits" has its turn and is not claimed, "later" has not, "sql" is no
-- listener's.  "held" is claimed, and its first attempt is over.
SELECT test.begin('busy') AS id \gset
SELECT status FROM saga.step(:'id', 'sql', compensation => 'SELECT test.undo($1)');
SELECT status FROM saga.step(:'id', 'none');
SELECT status FROM saga.step(:'id', 'review', review => 'look');
SELECT status FROM saga.step(:'id', 'later', notify => 'i_later');
SELECT status FROM saga.step(:'id', 'waits', notify => 'i_waits');
CALL test.fail('busy');
SELECT test.listen('held', 'i_held') AS held \gset
CALL test.fail('held');
SELECT saga.fail_compensation(test.key(c.saga, step), attempt, 'no') FROM test.claim('i_held') c;
CALL test.until_dispatched('held');
SELECT * FROM test.claim('i_held', lease => '10 minutes');
SELECT test.key('held', 'a') AS key, test.key('busy', 'waits') AS waits, test.key('busy', 'later') AS later,
  test.key('busy', 'sql') AS sql, test.key('busy', 'none') AS none, test.key('busy', 'review') AS review \gset
SELECT test.picture('busy') AS busy_before, test.picture('held') AS held_before \gset
SELECT test.ledger_size() AS size \gset

-- claim_compensations: the channel
CALL test.refuses('SELECT saga.claim_compensations(NULL)');
CALL test.refuses($$SELECT saga.claim_compensations('')$$);
CALL test.refuses($$SELECT saga.claim_compensations(repeat('c', 64))$$);
CALL test.refuses($$SELECT saga.claim_compensations(repeat('ü', 32))$$);
CALL test.refuses($$SELECT saga.claim_compensations(repeat('c', 1000000))$$);
-- what is no channel's name is one on which nothing waits
SELECT count(c) FROM unnest(ARRAY[repeat('c', 63), 'I_WAITS', 'i_waits ', '"i_waits"', E'i_waits\n', 'it''s', 'bücher', '%', '\', '*']) channel,
  LATERAL saga.claim_compensations(channel) c;
-- how many, for how long, who
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', 0)$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', -1)$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', -2147483648)$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', lease => '0')$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', lease => '-1 second')$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', lease => '-1 microsecond')$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', lease => '1 day -24 hours')$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', lease => '101 years')$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', lease => '178000000 years')$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', lease => '-178000000 years')$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', consumer => '')$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_waits', consumer => repeat('c', 257))$$);
-- also where nothing waits
CALL test.refuses($$SELECT saga.claim_compensations('i_nothing', 0)$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_nothing', lease => '0')$$);
-- the bounds themselves
BEGIN;
SELECT count(*) FROM saga.claim_compensations('i_waits', 2147483647, '100 years', repeat('c', 256));
SELECT length(consumer), lease_until = claimed_at + '10 minutes' AS capped FROM saga.pending_compensations WHERE saga_id = :'id';
ROLLBACK;
BEGIN;
SELECT count(*) FROM saga.claim_compensations('i_waits', lease => '1 microsecond', consumer => E'ü "''\n');
SELECT consumer, lease_until - claimed_at AS lease FROM saga.pending_compensations WHERE saga_id = :'id';
SELECT test.mask(next_action) FROM saga.sagas WHERE id = :'id';
ROLLBACK;

-- Keys: that of no saga, of no step, none at all
CREATE PROCEDURE test.refuses_key(key text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.refuses(format('SELECT saga.complete_compensation(%L)', key));
  CALL test.refuses(format('SELECT saga.fail_compensation(%L, 1, %L)', key, 'e'));
  CALL test.refuses(format('SELECT saga.extend_claim(%L, 1, %L)', key, '1 minute'));
END $$;
CALL test.refuses_key(NULL);
CALL test.refuses_key('');
CALL test.refuses_key('01900000-0000-7000-8000-000000000000-1-undo');
CALL test.refuses_key(:'id' || '-9223372036854775807-undo');
-- a step of another saga of the same owner
SELECT seq, forward_key FROM saga.steps WHERE saga_id = :'held' \gset
CALL test.refuses_key(:'id' || '-' || :seq || '-undo');
CALL test.refuses_key(:'sql');
CALL test.refuses_key(:'none');
CALL test.refuses_key(:'review');
CALL test.refuses_key(:'later');
-- written in another way than it was given, or cut short: none of it is a key
CREATE PROCEDURE test.no_key(key text) LANGUAGE plpgsql AS $$
DECLARE
  seq text := (regexp_match(key, '-(\d+)-undo$'))[1];
  id text := left(key, 36);
  bad text;
BEGIN
  FOREACH bad IN ARRAY ARRAY[upper(key), initcap(key), ' ' || key, key || ' ', key || E'\n', key || '-undo', key || 'x',
    left(key, -1), left(key, -5), left(key, 36), left(key, 37), left(key, 20), replace(key, '-', ''), id || seq || '-undo',
    id || '-0' || seq || '-undo', id || '-+' || seq || '-undo', id || '--' || seq || '-undo', id || '- ' || seq || '-undo',
    id || '-0-undo', id || '-9223372036854775808-undo', id || '-99999999999999999999-undo', id || '-' || seq || '.0-undo',
    id || '-' || seq || '-UNDO', id || '-' || seq || '-forward', id || '-' || seq, '{' || id || '}-' || seq || '-undo',
    replace(id, '-', '') || '-' || seq || '-undo', left(id, 8) || '--' || substr(id, 9) || '-' || seq || '-undo',
    'x', '-', '-undo', repeat('-', 100), repeat('0', 1000), 'ü' || substr(key, 2), substr(key, 2), '0' || key] LOOP
    BEGIN
      PERFORM saga.complete_compensation(bad);
      RAISE WARNING 'taken for a key: %', bad;
    EXCEPTION WHEN invalid_parameter_value THEN
      NULL;
    END;
    BEGIN
      PERFORM saga.fail_compensation(bad, 2, 'e');
      RAISE WARNING 'taken for a key: %', bad;
    EXCEPTION WHEN invalid_parameter_value THEN
      NULL;
    END;
    BEGIN
      PERFORM saga.extend_claim(bad, 2, '1 minute');
      RAISE WARNING 'taken for a key: %', bad;
    EXCEPTION WHEN invalid_parameter_value OR SQLSTATE 'SG002' THEN
      NULL;
    END;
  END LOOP;
END $$;
CALL test.no_key(:'key');
CALL test.refuses_key('no key');
CALL test.refuses_key(:'forward_key');

-- Attempts: there were two
CREATE PROCEDURE test.attempt(key text, attempt text) LANGUAGE plpgsql AS $$
BEGIN
  CALL test.refuses(format('SELECT saga.fail_compensation(%L, %s, %L)', key, attempt, 'e'));
  CALL test.refuses(format('SELECT saga.extend_claim(%L, %s, %L)', key, attempt, '1 minute'));
END $$;
CALL test.attempt(:'key', 'NULL');
CALL test.attempt(:'key', '0');
CALL test.attempt(:'key', '-1');
CALL test.attempt(:'key', '3');
CALL test.attempt(:'key', '99');
CALL test.attempt(:'key', '2147483647');
CALL test.attempt(:'key', '-2147483648');
-- the one that is over
CALL test.attempt(:'key', '1');
-- none at all yet
CALL test.attempt(:'waits', '1');

-- What went wrong, and when to try again
CALL test.refuses(format('SELECT saga.fail_compensation(%L, 2, NULL)', :'key'));
CALL test.refuses(format('SELECT saga.fail_compensation(%L, 2, %L, retry_after => %L)', :'key', 'e', '-1 second'));
CALL test.refuses(format('SELECT saga.fail_compensation(%L, 2, %L, retry_after => %L)', :'key', 'e', '101 years'));
CALL test.refuses(format('SELECT saga.fail_compensation(%L, 2, %L, retry_after => %L)', :'key', 'e', '178000000 years'));
-- ... said of a stale attempt, too
CALL test.refuses(format('SELECT saga.fail_compensation(%L, 1, NULL)', :'key'));
CALL test.refuses(format('SELECT saga.fail_compensation(%L, 1, %L, retry_after => %L)', :'key', 'e', '-1 second'));

-- Leases
CALL test.refuses(format('SELECT saga.extend_claim(%L, 2, NULL)', :'key'));
CALL test.refuses(format('SELECT saga.extend_claim(%L, 2, %L)', :'key', '0'));
CALL test.refuses(format('SELECT saga.extend_claim(%L, 2, %L)', :'key', '-1 second'));
CALL test.refuses(format('SELECT saga.extend_claim(%L, 2, %L)', :'key', '101 years'));
CALL test.refuses(format('SELECT saga.extend_claim(%L, 2, %L)', :'key', '-178000000 years'));

-- An output as large as saga.max_payload allows, and larger
SET saga.max_payload = '1kB';
CALL test.refuses(format('SELECT saga.complete_compensation(%L, to_jsonb(repeat(%L, 1100)))', :'key', 'x'));
CALL test.refuses(format('SELECT saga.complete_compensation(%L, to_jsonb(repeat(%L, 1100)))', :'later', 'x'));
BEGIN;
SELECT saga.complete_compensation(:'key', to_jsonb(repeat('x', 1000)));
ROLLBACK;
RESET saga.max_payload;

-- Where nothing can be written
BEGIN READ ONLY;
CALL test.refuses($$SELECT saga.claim_compensations('i_waits')$$);
CALL test.refuses(format('SELECT saga.extend_claim(%L, 2, %L)', :'key', '1 minute'));
CALL test.refuses(format('SELECT saga.complete_compensation(%L)', :'key'));
CALL test.refuses(format('SELECT saga.fail_compensation(%L, 2, %L)', :'key', 'e'));
ROLLBACK;

-- A copy of the ledger: claims are refused, since nothing goes on here; what was
-- done is kept.
UPDATE saga.ledger_saga SET paused = paused WHERE id = :'id';
CALL test.refuses($$SELECT saga.claim_compensations('i_waits')$$);
CALL test.refuses($$SELECT saga.claim_compensations('i_nothing')$$);
BEGIN;
SELECT saga.extend_claim(:'key', 2, '1 minute') IS NOT NULL AS extended;
SELECT saga.complete_compensation(:'key');
SELECT saga.complete_compensation(:'waits');
ROLLBACK;
SELECT test.mask(next_action) FROM saga.sagas WHERE id IN (:'id', :'held') ORDER BY id;
SELECT saga.adopt();

-- A function that is called where a row set has no place
CALL test.refuses($$SELECT CASE WHEN true THEN saga.claim_compensations('i_waits') END$$);
CALL test.refuses($$UPDATE test.named SET name = name WHERE id IS NULL OR saga.claim_compensations('i_waits') IS NULL$$);

-- After all that, the ledger is what it was.
SELECT test.ledger_size() = :'size' AS nothing_stored, test.picture('busy') = :'busy_before' AND test.picture('held') = :'held_before' AS unchanged;
-- and what is right still works
SELECT saga.complete_compensation(:'key', to_jsonb(repeat('x', 1000)));
SELECT * FROM test.claim('i_waits');

CALL test.check();
