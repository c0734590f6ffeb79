-- Functions in plpgsql, the first six calls.  search_path: the functions and their tables.
\set key random(1000000000000000000, 9000000000000000000)
SELECT begin((lpad(pg_current_xact_id()::text, 16, '0') || '8a6b2c4d9e1f3057')::uuid,
  'order', :key, :owner, :owner_name) AS id \gset
SELECT start_step(:id, :step0, :compensation0, :args0, :owner, :owner_name, '');
SELECT complete_step(:id, :step0, :output0, :owner);
SELECT start_step(:id, :step1, :compensation1, :args1, :owner, :owner_name, '');
SELECT complete_step(:id, :step1, :output1, :owner);
SELECT start_step(:id, :step2, :compensation2, :args2, :owner, :owner_name, '');
