-- What the tests that move the virtual clock share.
CREATE FUNCTION test.advance(interval) RETURNS void
AS 'saga', 'saga_sql_test_advance_clock' LANGUAGE C STRICT;
