# Schedules, as the recipes have them.  By a loop: ticks that come while the server is
# down are caught up with, or skipped, as the action says, and none is done twice.  By
# pg_cron: the minute is the saga's key, so what is started twice is one saga, of the
# role whose job it is; and a tick that comes while the saga of the one before it still
# runs is another.  This half is left out where pg_cron is not installed.  It counts in
# minutes: the file waits for one or two.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes 'usleep';

# --- By a loop

my $node = saga_cluster('loop');
witness($node);
$node->safe_psql('postgres', q{
	CREATE TABLE done (schedule text, tick timestamptz);
	CREATE FUNCTION each_second(c jsonb) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		tick timestamptz := coalesce(c ->> 'state', c -> 'args' ->> 'first');
		next timestamptz := tick + interval '1 second';
	BEGIN
		INSERT INTO done VALUES (c -> 'saga' ->> 'name', tick);
		IF c -> 'saga' ->> 'name' = 'skips' AND next < clock_timestamp() THEN
			next := date_trunc('second', clock_timestamp()) + interval '1 second';
		END IF;
		IF NOT EXISTS (SELECT FROM saga.signals s WHERE s.saga_id = saga.current() AND s.name = 'stop') THEN
			PERFORM saga.again(state => to_jsonb(next), not_before => next);
		END IF;
	END $$;
	SELECT saga.step(s, 'close', action => 'SELECT each_second($1)', args => jsonb_build_object('first', date_trunc('second', now()))),
		saga.complete(s, when_done => true)
	FROM unnest('{catches up,skips}'::text[]) n, saga.begin(n, 'close') s});
wait_until($node, q{SELECT (SELECT count(*) FROM done WHERE schedule = 'skips') >= 2 AND (SELECT count(*) FROM done WHERE schedule = 'catches up') >= 2});
$node->stop('immediate');
my $down = time;
usleep(100_000) while time < $down + 5;
$node->start;
my $up = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
wait_until($node, qq{SELECT count(*) = 2 FROM (SELECT FROM done GROUP BY schedule HAVING max(tick) > '$up') x});
$node->safe_psql('postgres', q{SELECT saga.signal(id, 'stop') FROM saga.sagas});
wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state <> 'completed'});
is($node->safe_psql('postgres', 'SELECT schedule, tick FROM done GROUP BY 1, 2 HAVING count(*) > 1'), '', 'no tick is done twice');
my $gaps = q{SELECT schedule, max(tick - before) FROM (
	SELECT schedule, tick, lag(tick) OVER (PARTITION BY schedule ORDER BY tick) AS before FROM done) x GROUP BY 1};
is($node->safe_psql('postgres', "SELECT max FROM ($gaps) g WHERE schedule = 'catches up'"), '00:00:01', 'one catches up with each that was missed');
is($node->safe_psql('postgres', "SELECT max >= '4 s' FROM ($gaps) g WHERE schedule = 'skips'"), 't', 'and one skips them')
  or diag($node->safe_psql('postgres', 'SELECT * FROM done ORDER BY 1, 2'));
guarantees($node, undef, idle => 1);
$node->stop;

# --- By pg_cron

$node = saga_cluster('main', start => 0, conf => join "\n",
	"shared_preload_libraries = 'pg_cron, saga'", "cron.database_name = 'postgres'", 'cron.use_background_workers = on',
	"cron.timezone = 'UTC'", '');
if (!-e $node->config_data('--pkglibdir') . '/pg_cron.so')
{
	note('pg_cron is not installed');
	done_testing();
	exit;
}

$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION saga; CREATE EXTENSION pg_cron');
witness($node);
$node->safe_psql('postgres', q{
	CREATE ROLE clerk LOGIN;
	GRANT USAGE ON SCHEMA cron, saga TO clerk;
	CREATE FUNCTION start_closing(tick text) RETURNS uuid LANGUAGE sql AS $$
		SELECT s FROM (
			SELECT s, saga.step(s, 'close', action => 'SELECT witness.act($1)', compensation => 'SELECT witness.undo($1)'),
				saga.step(s, 'checked', signals => '{checked}'), saga.complete(s, when_done => true)
			FROM saga.begin('closing', tick) s OFFSET 0) x $$});
# Two jobs of every minute, as if pg_cron had started one of them twice
sql_as($node, 'clerk', qq{
	SELECT cron.schedule('$_', '* * * * *', \$\$SELECT start_closing(to_char(date_trunc('minute', now()), 'YYYY-MM-DD HH24:MI'))\$\$)})
  foreach 'close', 'close again';
wait_until($node, q{SELECT count(*) >= 2 FROM cron.job_run_details WHERE status = 'succeeded'})
  or diag($node->safe_psql('postgres', 'SELECT * FROM cron.job_run_details'));
sql_as($node, 'clerk', q{SELECT cron.unschedule(jobname) FROM cron.job});
is($node->safe_psql('postgres', q{SELECT count(*) FROM cron.job_run_details WHERE status = 'failed'}), 0, 'no job failed');
# (A job that was started before that may still be on its way.)
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM cron.job_run_details WHERE status IN ('starting', 'running'))});
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM (SELECT date_trunc('minute', start_time) FROM cron.job_run_details WHERE status = 'succeeded' GROUP BY 1 HAVING count(*) > 1) m}) > 0 ? 1 : 0,
	1, 'both jobs came at the same minute');
is($node->safe_psql('postgres', q{
	SELECT (SELECT count(*) FROM saga.sagas) = (SELECT count(DISTINCT date_trunc('minute', start_time)) FROM cron.job_run_details WHERE status = 'succeeded')}),
	't', 'one saga for each minute') or diag($node->safe_psql('postgres', 'SELECT * FROM cron.job_run_details; SELECT * FROM saga.sagas'));
wait_until($node, q{SELECT count(*) = 0 FROM saga.steps WHERE key = 'close' AND status <> 'completed'});
is($node->safe_psql('postgres', q{
	SELECT DISTINCT s.owner, e.role, s.state FROM saga.sagas s JOIN witness.effect e ON e.saga = s.id}), 'clerk|clerk|running',
	'it is the saga of the role whose job it is, which runs its action');
$node->safe_psql('postgres', q{SELECT count(saga.signal(id, 'checked')) FROM saga.sagas});
wait_until($node, q{SELECT count(*) = 0 FROM saga.sagas WHERE state <> 'completed'});
guarantees($node, undef, idle => 1);
$node->stop;
done_testing();
