-- ... and to its end.
UPDATE step SET status = 'c', completed_at = now(), output = :output2
WHERE saga = :id AND key = :step2 AND run = 1 AND run_as = :owner
  AND status = 's' AND comp_status IN ('n', 'r');
UPDATE saga SET state = 'd', finished_at = now(), updated_at = now()
WHERE id = :id AND owner = :owner AND state = 'r'
  AND NOT EXISTS (SELECT FROM step WHERE saga = :id
    AND (status = 's' OR status = 'f' AND comp_status <> 'n'));
