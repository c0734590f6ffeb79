-- The roles of the fuzzer, once per server; fuzz.c says what each may do.

CREATE ROLE fuzz_a LOGIN;
CREATE ROLE fuzz_b LOGIN;
CREATE ROLE fuzz_c LOGIN;
CREATE ROLE fuzz_team LOGIN IN ROLE fuzz_a, fuzz_b, fuzz_c;
CREATE ROLE fuzz_nologin;
CREATE ROLE fuzz_dba LOGIN;
CREATE ROLE fuzz_operator LOGIN;
CREATE ROLE fuzz_auditor LOGIN IN ROLE pg_read_all_data;
CREATE ROLE fuzz_monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE fuzz_outsider LOGIN;
CREATE ROLE fuzz_writer LOGIN IN ROLE pg_write_all_data;
CREATE ROLE fuzz_nobody LOGIN;
