-- ... and its failure.
SELECT saga.fail(:id, :failure);
