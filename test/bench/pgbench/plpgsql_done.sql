-- ... and to its end.
SELECT complete_step(:id, :step2, :output2, :owner);
SELECT complete(:id, :owner);
