-- What the extension creates: everything has its comment, and no more rights
-- than it needs.
\set ECHO none
\i sql/include/helpers.sql
\set ECHO all

-- The members of the extension; of the types that rows and arrays bring, some majors tell
SELECT pg_describe_object(classid, objid, objsubid) AS member
FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'saga')
  AND pg_describe_object(classid, objid, objsubid) !~ '^type .*(\[\]$|ledger|sagas|steps|attempts|events|pending|review_queue|undoing|purges|running|health|signals|stat|top)'
ORDER BY pg_describe_object(classid, objid, objsubid) COLLATE "C";

-- Without a comment: nothing, columns included
SELECT pg_describe_object(classid, objid, 0) AS uncommented
FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'saga')
  AND classid <> 'pg_type'::regclass AND obj_description(objid, classid::regclass::name) IS NULL
UNION ALL
SELECT pg_describe_object('pg_class'::regclass, attrelid, attnum)
FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
WHERE relnamespace = 'saga'::regnamespace AND relkind IN ('r', 'v', 'c') AND attnum > 0 AND NOT attisdropped
  AND col_description(attrelid, attnum) IS NULL
UNION ALL
SELECT 'type ' || typname FROM pg_type WHERE typnamespace = 'saga'::regnamespace AND typtype = 'c'
  AND typname IN ('retry_policy', 'step_result') AND obj_description(oid, 'pg_type') IS NULL
ORDER BY 1;

-- Functions: volatility, parallel safety, strictness, whose rights, who may call
SELECT proname, provolatile AS volatile, proparallel AS parallel, proisstrict AS strict, prosecdef AS definer,
  lanname AS language, proacl IS NULL AS public
FROM pg_proc JOIN pg_language l ON l.oid = prolang WHERE pronamespace = 'saga'::regnamespace ORDER BY 1, strict;
-- Not for everybody
SELECT p.oid::regprocedure FROM pg_proc p
WHERE pronamespace = 'saga'::regnamespace AND NOT has_function_privilege('public', p.oid, 'EXECUTE') ORDER BY 1;

-- Relations: kind, who may do what, guards
SELECT relname, relkind, array_to_string(ARRAY(SELECT privilege_type FROM aclexplode(relacl) WHERE grantee = 0 ORDER BY 1), ', ') AS public,
  (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid AND tgenabled = 'A' AND tgfoid = 'saga.internal_guard'::regproc) AS guards
FROM pg_class c WHERE relnamespace = 'saga'::regnamespace AND relkind IN ('r', 'v', 'S') ORDER BY relkind, relname;
SELECT has_schema_privilege('public', 'saga', 'USAGE') AS usage, has_schema_privilege('public', 'saga', 'CREATE') AS create;
SELECT DISTINCT nspowner = 10 AS superuser_owns FROM pg_namespace WHERE nspname = 'saga';

-- In a dump: the ledger, but not where it is at home
SELECT c::regclass, cond = '' AS whole FROM pg_extension, unnest(extconfig, extcondition) u (c, cond)
WHERE extname = 'saga' ORDER BY c::regclass::text COLLATE "C";

-- Indexes lead with the saga, but for those on its key and on due work, listeners' included.
SELECT indexrelid::regclass AS index, indisunique AS unique, pg_get_indexdef(indexrelid, 1, true) AS first_column
FROM pg_index i JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'saga'::regnamespace ORDER BY indexrelid::regclass::text COLLATE "C";
-- Nothing is between the ledger tables but the rows' own words.
SELECT conrelid::regclass, conname FROM pg_constraint WHERE connamespace = 'saga'::regnamespace AND contype = 'f';
SELECT conrelid::regclass AS table, conname FROM pg_constraint
WHERE connamespace = 'saga'::regnamespace AND contype = 'c' ORDER BY conrelid::regclass::text COLLATE "C", 2;

-- What is called with nothing answers without a crash.
SELECT saga.internal_may_see(NULL, NULL), saga.internal_may_read(NULL, NULL), saga.internal_state(NULL), saga.internal_state('?'), saga.internal_policy(NULL),
  saga.internal_policy('nonsense'), saga.internal_forward_key(NULL, 1), saga.internal_compensation_key(NULL, NULL),
  saga.internal_is_running(NULL, NULL), saga.internal_next_action(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT saga.internal_may_see(0, 'nobody'), saga.internal_may_read(4294967295, 'nobody'), saga.internal_policy('1 2 c 3 nan 4'),
  saga.internal_policy('99999999999 1 c 1 0 1'), saga.internal_policy('1 9223372036854775807 e 9223372036854775807 1e308 9223372036854775807');
SELECT saga.internal_policy(p) FROM unnest('{"", 5, "5 1000", "5 1000 x", "5 1000 exp", "5 ", " ", "5 1000 e 300000 0.1 600000", "5 1000 e 300000 0.1 600000 7"}'::text[]) p;
SELECT saga.internal_next_action('00000000-0000-0000-0000-000000000000', '?', true, 'infinity', '-infinity', 0, '', '');
CALL test.refuses('SELECT saga.internal_guard()');

-- DROP and CREATE in one session: cached identities are forgotten.
SELECT current_database() AS home \gset
CREATE DATABASE regress_saga_again;
\c regress_saga_again
CREATE EXTENSION saga;
SELECT saga.begin('one', 'key') IS NOT NULL AS begun;
DROP EXTENSION saga;
SELECT saga.begin('one', 'key');
CREATE EXTENSION saga;
SELECT saga.begin('one', 'key') IS NOT NULL AS begun;
SELECT status, attempt FROM saga.step(saga.begin('one', 'key'), 'a');
SELECT count(*), max(steps) FROM saga.sagas;
DROP SCHEMA saga CASCADE;
DROP EXTENSION saga;
CREATE SCHEMA saga;
-- (From 18 on, the context names the line of the script.)
\set SHOW_CONTEXT never
CREATE EXTENSION saga;
\set SHOW_CONTEXT errors
\c :home
DROP DATABASE regress_saga_again;
