-- ... and its failure.
SELECT fail(:id, :owner, :owner_name, :failure);
