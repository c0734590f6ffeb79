-- What the tests of every call in every state show: the cells, and the words of the refusals.

-- No cell is empty.
SELECT count(*) = (SELECT count(*) FROM test.state) * (SELECT count(*) FROM test.call) AS full,
  count(*) FILTER (WHERE cell IS NULL) AS empty
FROM test.cell;

\pset format unaligned
\pset tuples_only on
SELECT E'\n' || s.state || CASE WHEN s.what <> '' THEN ' (' || s.what || ')' ELSE '' END
  || (SELECT string_agg(E'\n  ' || rpad(c.call, 34) || x.cell, '' ORDER BY c.n)
      FROM test.call c JOIN test.cell x USING (call) WHERE x.state = s.state)
FROM test.state s ORDER BY s.n;

-- The words of the refusals, and where they are heard
SELECT E'\n' || cell || ': ' || message
  || CASE WHEN detail <> '' THEN E'\nDETAIL:  ' || detail ELSE '' END
  || CASE WHEN hint <> '' THEN E'\nHINT:  ' || hint ELSE '' END
  || (SELECT string_agg(E'\n  ' || rpad(o.state || ':', 14) || o.calls, '' ORDER BY o.n)
      FROM (SELECT s.n, s.state, string_agg(c.call, '; ' ORDER BY c.n) AS calls
            FROM test.cell x JOIN test.state s USING (state) JOIN test.call c USING (call)
            WHERE (x.cell, test.mask(x.message), test.mask(x.detail), x.hint)
              = (e.cell, e.message, e.detail, e.hint)
            GROUP BY 1, 2) o)
FROM (SELECT DISTINCT cell, test.mask(message) AS message, test.mask(detail) AS detail, hint
      FROM test.cell WHERE message IS NOT NULL) e
ORDER BY cell, message, detail, hint;
\pset tuples_only off
\pset format aligned
