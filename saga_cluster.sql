/*
 * saga_cluster.sql: looking across the nodes of a Citus cluster, each of which has
 * a ledger of its own.  No part of the extension: run it once, as a superuser, in
 * the database of the coordinator where citus and saga are created:
 *
 *	psql -d DATABASE -f "$(pg_config --sharedir)/extension/saga_cluster.sql"
 *
 * Citus brings what it creates to the other nodes, and to those that are added
 * later.  To run it again, for instance after an update of saga, DROP SCHEMA
 * saga_cluster CASCADE first.  doc/citus.md explains how to use it.
 *
 * Design.  Everything runs with the rights of the caller, who must be able to
 * connect to the other nodes, as for every query of Citus.  What a node is asked
 * runs there in a transaction of its own, whatever becomes of the caller's.  A node
 * that does not answer is named, in the column "error" or by an error or a WARNING,
 * and never left out: a queue that looks empty because a node is down would be worse
 * than none.
 *
 * Nothing here depends on objects of saga, so that ALTER and DROP EXTENSION are not
 * stopped by it; 129_cluster compares the columns.
 */
\set ON_ERROR_STOP on

BEGIN;

CREATE SCHEMA saga_cluster;
COMMENT ON SCHEMA saga_cluster IS 'The sagas of all nodes of a Citus cluster. SELECT saga_cluster.grant_usage(role) lets a role use it.';

-- ---------------------------------------------------------------------------
-- Where am I?
-- ---------------------------------------------------------------------------

CREATE FUNCTION saga_cluster.is_here(relation regclass, distribution_value text) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = relation)
    OR EXISTS (
      SELECT FROM pg_dist_placement JOIN pg_dist_local_group USING (groupid)
      WHERE shardid = get_shard_id_for_distribution_column(relation, distribution_value)
        AND shardstate = 1) $$;
COMMENT ON FUNCTION saga_cluster.is_here(regclass, text) IS
  'Are the rows of a table with this value in its distribution column on this node? A table that is not distributed is.';

CREATE FUNCTION saga_cluster.is_here(relation regclass, distribution_value anyelement) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT saga_cluster.is_here(relation, distribution_value::text) $$;
COMMENT ON FUNCTION saga_cluster.is_here(regclass, anyelement) IS
  'The same for a value of any type.';

CREATE FUNCTION saga_cluster.check_here(relation regclass, distribution_value anyelement) RETURNS void
  LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF NOT saga_cluster.is_here(relation, distribution_value::pg_catalog.text) THEN
    RAISE EXCEPTION 'the rows of table % with value % in its distribution column are on another node', relation, distribution_value
      USING ERRCODE = 'SG008',
      HINT = 'The call was not delegated: make it with SELECT f(...) alone, by a function that is distributed with force_delegation => true.';
  END IF;
END $$;
COMMENT ON FUNCTION saga_cluster.check_here(regclass, anyelement) IS
  'SG008 unless saga_cluster.is_here(): for the first line of a function that calls saga.';

-- ---------------------------------------------------------------------------
-- The nodes, and asking them
-- ---------------------------------------------------------------------------

CREATE VIEW saga_cluster.nodes AS
  SELECT pg_catalog.format('%s:%s', n.nodename, n.nodeport) AS node,
    n.nodename, n.nodeport, n.groupid, n.isactive AS active
  FROM pg_catalog.pg_dist_node n
  WHERE n.noderole = 'primary'
    AND n.nodecluster = pg_catalog.current_setting('citus.cluster_name')
  UNION ALL
  -- A coordinator that was not told its own name
  SELECT pg_catalog.format('%s:%s', l.nodename, l.nodeport), l.nodename, l.nodeport, g.groupid, true
  FROM pg_catalog.pg_dist_local_group g,
    (SELECT pg_catalog.current_setting('citus.local_hostname') AS nodename,
      pg_catalog.current_setting('port')::integer AS nodeport OFFSET 0) l
  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node n WHERE n.groupid = g.groupid);
COMMENT ON VIEW saga_cluster.nodes IS 'The nodes that may hold sagas, by host and port.';

CREATE FUNCTION saga_cluster.ask(query text, OUT node text, OUT answer text, OUT error text)
  RETURNS SETOF record
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  names text[];
  ports integer[];
BEGIN
  SELECT array_agg(n.nodename ORDER BY n.node), array_agg(n.nodeport ORDER BY n.node)
    INTO names, ports
    FROM saga_cluster.nodes n WHERE n.active;
  RETURN QUERY
    SELECT format('%s:%s', r.node_name, r.node_port),
      CASE WHEN r.success THEN r.result END,
      CASE WHEN NOT r.success THEN r.result END
    FROM master_run_on_worker(names, ports, array_fill(query, ARRAY[cardinality(names)]), true) r
    UNION ALL
    SELECT n.node, NULL, 'the node is disabled'
    FROM saga_cluster.nodes n WHERE NOT n.active;
END $$;
COMMENT ON FUNCTION saga_cluster.ask(text) IS
  'Runs a query that returns one value on every node. A node that does not answer has an error instead.';

CREATE FUNCTION saga_cluster.ask_one(node text, query text) RETURNS text
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found record;
BEGIN
  SELECT r.success, r.result INTO found
    FROM saga_cluster.nodes n,
      master_run_on_worker(ARRAY[n.nodename], ARRAY[n.nodeport], ARRAY[query], false) r
    WHERE n.node = ask_one.node;
  IF found.success IS NULL THEN
    RAISE EXCEPTION 'there is no node "%"', ask_one.node
      USING HINT = 'saga_cluster.nodes shows them.';
  ELSIF NOT found.success THEN
    RAISE EXCEPTION 'node "%": %', ask_one.node, found.result;
  END IF;
  RETURN found.result;
END $$;
COMMENT ON FUNCTION saga_cluster.ask_one(text, text) IS
  'Runs a query that returns one value on a node.';

-- ---------------------------------------------------------------------------
-- Looking
-- ---------------------------------------------------------------------------

CREATE VIEW saga_cluster.sagas AS
  SELECT a.node, a.error, s.id, s.name, s.idempotency_key, s.subject, s.state, s.failure_kind, s.paused,
    s.owner, s.input, s.result, s.reason, s.details, s.failed_step, s.last_completed_step, s.steps,
    s.next_action, s.next_action_at, s.deadline, s.requires_review, s.started_at, s.updated_at, s.finished_at
  FROM saga_cluster.ask('SELECT coalesce(pg_catalog.json_agg(s), ''[]'') FROM saga.sagas s') a
  LEFT JOIN LATERAL pg_catalog.json_to_recordset(a.answer::json) AS s (
    id uuid, name text, idempotency_key text, subject text, state text, failure_kind text, paused boolean,
    owner text, input jsonb, result jsonb, reason text, details jsonb, failed_step text,
    last_completed_step text, steps bigint, next_action text, next_action_at timestamptz,
    deadline timestamptz, requires_review boolean, started_at timestamptz, updated_at timestamptz,
    finished_at timestamptz) ON true
  WHERE s.id IS NOT NULL OR a.error IS NOT NULL;
COMMENT ON VIEW saga_cluster.sagas IS
  'saga.sagas of all nodes. A node that does not answer has one row with the error.';

CREATE VIEW saga_cluster.review_queue AS
  SELECT a.node, a.error, q.saga_id, q.saga, q.key, q.owner, q.step, q.seq, q.why, q.failure, q.since,
    q.until, q.attempts, q.last_completed, q.input, q.outputs, q.safe_to_retry, q.must_not_repeat,
    q.to_settle
  FROM saga_cluster.ask('SELECT coalesce(pg_catalog.json_agg(q), ''[]'') FROM saga.review_queue q') a
  LEFT JOIN LATERAL pg_catalog.json_to_recordset(a.answer::json) AS q (
    saga_id uuid, saga text, key text, owner text, step text, seq bigint, why text, failure text,
    since timestamptz, until timestamptz, attempts text, last_completed text, input jsonb, outputs jsonb,
    safe_to_retry text, must_not_repeat text, to_settle text) ON true
  WHERE q.saga_id IS NOT NULL OR a.error IS NOT NULL;
COMMENT ON VIEW saga_cluster.review_queue IS
  'saga.review_queue of all nodes. A node that does not answer has one row with the error.';

CREATE FUNCTION saga_cluster.find(name text, idempotency_key text,
  OUT node text, OUT saga_id uuid, OUT state text, OUT error text)
  RETURNS SETOF record
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY
    SELECT a.node, f.id, f.state, a.error
    FROM saga_cluster.ask(format(
      'SELECT coalesce(json_agg(json_build_object(''id'', s.id, ''state'', s.state)), ''[]'')'
      ' FROM saga.sagas s WHERE s.name = %L AND s.idempotency_key = %L', find.name, find.idempotency_key)) a
    LEFT JOIN LATERAL json_to_recordset(a.answer::json) AS f (id uuid, state text) ON true
    WHERE f.id IS NOT NULL OR a.error IS NOT NULL;
END $$;
COMMENT ON FUNCTION saga_cluster.find(text, text) IS
  'The sagas of this name and key that the caller may see. A key is known to its node only: there may be several.';

-- ---------------------------------------------------------------------------
-- Calling
-- ---------------------------------------------------------------------------

CREATE FUNCTION saga_cluster.node_of(saga_id uuid) RETURNS text
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found text[];
  silent text;
BEGIN
  SELECT array_agg(a.node) FILTER (WHERE a.answer = '1'),
      string_agg(format('%s (%s)', a.node, a.error), ', ') FILTER (WHERE a.error IS NOT NULL)
    INTO found, silent
    FROM saga_cluster.ask(format('SELECT count(*) FROM saga.sagas WHERE id = %L', node_of.saga_id)) a;
  IF cardinality(found) > 1 THEN
    RAISE EXCEPTION 'saga % is on several nodes: %', node_of.saga_id, array_to_string(found, ', ')
      USING HINT = 'One of them is a promoted clone of the other: see doc/citus.md.';
  ELSIF found IS NULL THEN
    RAISE EXCEPTION 'no node that answered has a saga % of yours', node_of.saga_id
      USING ERRCODE = 'SG001',
      DETAIL = coalesce('Nodes that did not answer: ' || silent, 'All nodes answered.'),
      HINT = 'A saga can be called by its owner and by members of the owner''s role.';
  END IF;
  RETURN found[1];
END $$;
COMMENT ON FUNCTION saga_cluster.node_of(uuid) IS
  'The node where a saga lives. SG001: none that answered has it.';

CREATE FUNCTION saga_cluster.call(saga_id uuid, call text) RETURNS text
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN saga_cluster.ask_one(saga_cluster.node_of(call.saga_id),
    format('SELECT %s FROM (SELECT %L::uuid AS saga_id OFFSET 0) AS this_saga', call.call, call.saga_id));
END $$;
COMMENT ON FUNCTION saga_cluster.call(uuid, text) IS
  'Makes a call on the node where a saga lives, for instance saga.resolve(saga_id, ''charge'', ''retry'', ''new card''). saga_id in it stands for the saga.';

CREATE FUNCTION saga_cluster.claim_tasks(channel text, max_claims integer DEFAULT 1,
  lease interval DEFAULT '1 minute', consumer text DEFAULT NULL)
  RETURNS TABLE (node text, saga_id uuid, name text, step text, seq bigint, phase text, attempt integer,
    task_key text, context jsonb, lease_until timestamptz)
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  asked record;
  answer json;
  count integer := 0;
BEGIN
  -- Not always the same node first
  FOR asked IN SELECT n.node, n.active FROM saga_cluster.nodes n ORDER BY random() LOOP
    EXIT WHEN count >= max_claims;
    BEGIN
      IF NOT asked.active THEN
        RAISE EXCEPTION 'node "%": the node is disabled', asked.node;
      END IF;
      answer := saga_cluster.ask_one(asked.node, format(
        'SELECT coalesce(json_agg(t), ''[]'') FROM saga.claim_tasks(%L, %s, %L, %L) t',
        claim_tasks.channel, max_claims - count, claim_tasks.lease, claim_tasks.consumer));
    EXCEPTION WHEN raise_exception THEN
      RAISE WARNING 'no tasks can be claimed there: %', SQLERRM;
      CONTINUE;
    END;
    count := count + json_array_length(answer);
    RETURN QUERY SELECT asked.node, t.*
      FROM json_to_recordset(answer) AS t (saga_id uuid, name text, step text, seq bigint, phase text,
        attempt integer, task_key text, context jsonb, lease_until timestamptz);
  END LOOP;
END $$;
COMMENT ON FUNCTION saga_cluster.claim_tasks(text, integer, interval, text) IS
  'saga.claim_tasks on all nodes, until there are enough. A node that does not answer is named in a WARNING. The claims are committed at once.';

CREATE FUNCTION saga_cluster.complete_task(node text, task_key text, output jsonb DEFAULT NULL,
  attempt integer DEFAULT NULL) RETURNS text
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN saga_cluster.ask_one(complete_task.node, format('SELECT saga.complete_task(%L, %L, %L)',
    complete_task.task_key, complete_task.output, complete_task.attempt));
END $$;
COMMENT ON FUNCTION saga_cluster.complete_task(text, text, jsonb, integer) IS
  'saga.complete_task on the node that saga_cluster.claim_tasks returned.';

CREATE FUNCTION saga_cluster.fail_task(node text, task_key text, attempt integer, error text,
  retryable boolean DEFAULT true, retry_after interval DEFAULT NULL) RETURNS text
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN saga_cluster.ask_one(fail_task.node, format('SELECT saga.fail_task(%L, %L, %L, %L, %L)',
    fail_task.task_key, fail_task.attempt, fail_task.error, fail_task.retryable, fail_task.retry_after));
END $$;
COMMENT ON FUNCTION saga_cluster.fail_task(text, text, integer, text, boolean, interval) IS
  'saga.fail_task on that node.';

CREATE FUNCTION saga_cluster.extend_claim(node text, task_key text, attempt integer, lease interval)
  RETURNS timestamptz
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN saga_cluster.ask_one(extend_claim.node, format('SELECT saga.extend_claim(%L, %L, %L)',
    extend_claim.task_key, extend_claim.attempt, extend_claim.lease))::timestamptz;
END $$;
COMMENT ON FUNCTION saga_cluster.extend_claim(text, text, integer, interval) IS
  'saga.extend_claim on that node.';

-- ---------------------------------------------------------------------------
-- Rights
--
-- USAGE on the schema is the gate, as with the extension.
-- ---------------------------------------------------------------------------

GRANT SELECT ON saga_cluster.nodes, saga_cluster.sagas, saga_cluster.review_queue TO PUBLIC;

CREATE FUNCTION saga_cluster.grant_usage(role regrole) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  failed text;
BEGIN
  -- Citus does not bring a grant on the schema of an extension to other nodes.
  SELECT string_agg(format('%s (%s)', a.node, a.error), ', ') INTO failed
    FROM saga_cluster.ask(format('GRANT USAGE ON SCHEMA saga TO %s', role)) a
    WHERE a.error IS NOT NULL;
  EXECUTE format('GRANT USAGE ON SCHEMA saga_cluster TO %s', role);
  IF failed IS NOT NULL THEN
    RAISE EXCEPTION 'role % may use saga on some nodes only, not on: %', role, failed
      USING HINT = 'Repeat the call when they answer.';
  END IF;
  RAISE NOTICE 'role % may use saga on the nodes that there are', role
    USING HINT = 'Repeat the call after citus_add_node().';
END $$;
COMMENT ON FUNCTION saga_cluster.grant_usage(regrole) IS
  'GRANT USAGE ON SCHEMA saga TO the role, on every node. To be repeated after citus_add_node().';

COMMIT;
