-- What there is to tell of a saga, for whoever looks into a finding: a function in the schema that
-- the variable "schema" names.
CREATE FUNCTION :schema.story(id text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT concat('saga ', jsonb_strip_nulls(to_jsonb(s))) FROM saga.ledger_saga s WHERE s.id::text = $1
  UNION ALL
  (SELECT concat('step ', jsonb_strip_nulls(to_jsonb(t) - 'saga')) FROM saga.ledger_step t WHERE t.saga::text = $1 ORDER BY t.seq)
  UNION ALL
  (SELECT concat('attempt ', jsonb_strip_nulls(to_jsonb(h) - 'saga')) FROM saga.ledger_attempt h
    WHERE h.saga::text = $1 ORDER BY h.finished_at)
  UNION ALL
  (SELECT concat('signal ', jsonb_strip_nulls(to_jsonb(g) - 'saga')) FROM saga.ledger_signal g
    WHERE g.saga::text = $1 ORDER BY g.seq)
  UNION ALL
  (SELECT concat('event ', e.at, ' ', e.event, ' ', e.step, ' ', e.detail) FROM saga.events e
    WHERE e.saga_id::text = $1 ORDER BY e.position)
$$;
