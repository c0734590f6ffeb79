-- ... and to its end.
SELECT saga.complete_step(:id, :step2, :output2);
SELECT saga.complete(:id);
