-- Ours, neighbouring calls in one statement.
\set key random(1000000000000000000, 9000000000000000000)
SELECT st.saga_id AS id FROM saga.begin('order', :key) AS s,
  LATERAL saga.step(s, :step0, compensation => :compensation0, args => :args0) AS st \gset
SELECT saga.complete_step(:id, :step0, :output0),
  saga.step(:id, :step1, compensation => :compensation1, args => :args1);
SELECT saga.complete_step(:id, :step1, :output1),
  saga.step(:id, :step2, compensation => :compensation2, args => :args2);
SELECT saga.complete_step(:id, :step2, :output2), saga.complete(:id);
