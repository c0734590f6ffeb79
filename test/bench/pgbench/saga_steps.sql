-- Ours, the first six calls.
\set key random(1000000000000000000, 9000000000000000000)
SELECT saga.begin('order', :key) AS id \gset
SELECT saga.step(:id, :step0, compensation => :compensation0, args => :args0);
SELECT saga.complete_step(:id, :step0, :output0);
SELECT saga.step(:id, :step1, compensation => :compensation1, args => :args1);
SELECT saga.complete_step(:id, :step1, :output1);
SELECT saga.step(:id, :step2, compensation => :compensation2, args => :args2);
