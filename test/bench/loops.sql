-- What loops needs: a saga of one step that runs so often.
CREATE FUNCTION bench.round(context jsonb, last integer, delay interval) RETURNS void LANGUAGE sql AS $$
  SELECT saga.again(delay, context->'round') WHERE (context->>'round')::integer < last
$$;
CREATE FUNCTION bench.loop(rounds integer, delay interval) RETURNS uuid LANGUAGE sql AS $$
  SELECT s FROM saga.begin('loop') AS s,
    saga.step(s, 'loop', action => format('SELECT bench.round($1, %s, %L)', rounds, delay)),
    saga.complete(s, when_done => true)
$$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bench TO PUBLIC;
