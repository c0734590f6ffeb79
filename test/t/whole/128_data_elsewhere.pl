# Where the data, or what an undo does to it, is in another server than the ledger:
# that is said, not passed over; what holds still, looks and commits in such a place.
#
# Citus is played by an extension of that name that has its catalog and nothing
# else, so that this runs where it is not installed; 129_cluster has the real one.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = q{
restart_after_crash = on
citus.cluster_name = 'default'
citus.local_hostname = 'localhost'
};
my $main = saga_cluster('main', init => [ allows_streaming => 1 ], conf => $settings);
my $extension = $main->config_data('--sharedir') . '/extension';
my $is_fake = !-e $main->config_data('--pkglibdir') . '/citus.so' && -w $extension;
my $has_dblink = -e "$extension/dblink.control";

if ($is_fake)
{
	# As in its versions 13.2 and later, as far as saga and saga_cluster.sql look
	my %files = (
		'citus.control' => "default_version = '0'\nrelocatable = false\nschema = pg_catalog\n",
		'citus--0.sql' => q{
			CREATE SCHEMA citus;
			CREATE TABLE citus.pg_dist_local_group (groupid integer NOT NULL PRIMARY KEY);
			INSERT INTO citus.pg_dist_local_group VALUES (0);
			CREATE TABLE citus.pg_dist_node (nodeid integer PRIMARY KEY, groupid integer, nodename text, nodeport integer,
				isactive boolean DEFAULT true, noderole text DEFAULT 'primary', nodecluster name DEFAULT 'default',
				nodeisclone boolean DEFAULT false, nodeprimarynodeid integer DEFAULT 0);
			CREATE TABLE citus.pg_dist_partition (logicalrelid regclass, partmethod "char", repmodel "char");
			CREATE TABLE citus.pg_dist_shard (logicalrelid regclass, shardid bigint);
			CREATE TABLE citus.pg_dist_placement (placementid bigint, shardid bigint, shardstate integer, groupid integer);
			ALTER TABLE citus.pg_dist_local_group SET SCHEMA pg_catalog;
			ALTER TABLE citus.pg_dist_node SET SCHEMA pg_catalog;
			ALTER TABLE citus.pg_dist_partition SET SCHEMA pg_catalog;
			ALTER TABLE citus.pg_dist_shard SET SCHEMA pg_catalog;
			ALTER TABLE citus.pg_dist_placement SET SCHEMA pg_catalog;
			GRANT SELECT ON pg_catalog.pg_dist_local_group, pg_catalog.pg_dist_node, pg_catalog.pg_dist_partition,
				pg_catalog.pg_dist_shard, pg_catalog.pg_dist_placement TO PUBLIC;
			-- Odd values are in the first shard, even ones in the second.
			CREATE FUNCTION pg_catalog.get_shard_id_for_distribution_column(relation regclass, value text) RETURNS bigint
				LANGUAGE sql AS 'SELECT shardid FROM pg_dist_shard WHERE logicalrelid = $1 ORDER BY shardid
					OFFSET CASE WHEN $2::integer % 2 = 1 THEN 0 ELSE 1 END LIMIT 1';
			CREATE FUNCTION pg_catalog.master_run_on_worker(worker_name text[], port integer[], command text[], parallel boolean,
				OUT node_name text, OUT node_port integer, OUT success boolean, OUT result text)
				RETURNS SETOF record LANGUAGE plpgsql SECURITY DEFINER AS $$
			BEGIN
				FOR i IN 1 .. cardinality(worker_name) LOOP
					node_name := worker_name[i];
					node_port := port[i];
					success := true;
					BEGIN
						PERFORM public.dblink_connect_u('node', format('host=%s port=%s dbname=%s user=%s',
							node_name, node_port, current_database(), session_user));
						SELECT r INTO result FROM public.dblink('node', command[i]) AS t (r text);
					EXCEPTION WHEN OTHERS THEN
						success := false;
						result := SQLERRM;
					END;
					IF 'node' = ANY (public.dblink_get_connections()) THEN
						PERFORM public.dblink_disconnect('node');
					END IF;
					RETURN NEXT;
				END LOOP;
			END $$;});
	foreach my $file (keys %files)
	{
		unlink "$extension/$file";
		append_to_file("$extension/$file", $files{$file});
	}
	END { unlink "$extension/citus.control", "$extension/citus--0.sql" if $is_fake; }
}

my $undo = create_undone($main);

# What a session of the role says when it runs this.
sub said
{
	my ($sql, $user) = @_;
	$main->psql('postgres', "\\set VERBOSITY verbose\n$sql", stderr => \my $said, extra_params => [ '-U', $user // 'app' ]);
	return $said;
}

sub failed
{
	my ($node, $key) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$key') AS id \\gset
		SELECT FROM saga.step(:'id', 'a', $undo) \\gset
		SELECT saga.fail(:'id') AS failed \\gset
		SELECT :'id'});
}

sub away
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{SELECT finding FROM saga.health WHERE code = 'not adopted'});
}

$main->safe_psql('postgres', q{CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA saga TO app});
my $begin = q{SELECT FROM saga.begin('order');};
my $elsewhere = qr/SG008: this saga begins on the coordinator of a Citus cluster whose data is on other nodes\n(.*\n)*HINT:  Call saga in one function per business call/;

# ------------------------------------------------------------------ the guard

SKIP:
{
	skip 'Citus itself is installed', 1 if !$is_fake;

	my $before = session($main, user => 'app');
	$before->query_safe($begin);
	is(said($begin), '', 'no Citus, no word of it');
	unlike(said("SELECT saga.fail('01234567-89ab-7def-8123-456789abcdef')"), qr/Citus/, 'nor in a hint');
	$main->safe_psql('postgres', 'CREATE EXTENSION citus');
	is(said($begin), '', 'a node alone');
	like(said("SELECT saga.fail('01234567-89ab-7def-8123-456789abcdef')"), qr/ERROR:  SG001: .*\nHINT: .*may be another node; saga_cluster\.node_of\(\) finds it/,
		'what is not found may be on another node');

	$main->safe_psql('postgres', q{
		CREATE TABLE orders (tenant integer);
		CREATE TABLE currencies ();
		INSERT INTO pg_dist_node (nodeid, groupid, nodename, nodeport) VALUES (1, 0, 'localhost', 1), (2, 3, 'localhost', 2);
		INSERT INTO pg_dist_partition VALUES ('currencies', 'n', 't'), ('orders', 'h', 's');
		INSERT INTO pg_dist_shard VALUES ('currencies', 100);
		INSERT INTO pg_dist_shard SELECT 'orders', n FROM generate_series(101, 102) n;
		INSERT INTO pg_dist_placement VALUES (1, 100, 1, 0), (2, 100, 1, 3), (3, 101, 1, 0), (4, 102, 1, 0)});
	is(said($begin), '', 'all shards are here; a reference table is everywhere');

	$main->safe_psql('postgres', 'UPDATE pg_dist_placement SET groupid = 3 WHERE shardid = 102');
	my $said = said($begin x 3);
	like($said, qr/WARNING:  $elsewhere/, 'a shard elsewhere: a warning');
	is(() = $said =~ /WARNING/g, 1, 'once per session');
	is($main->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE owner = 'app'::regrole}), 7, 'and the sagas are begun');
	# Citus makes all sessions forget the relation.
	$main->safe_psql('postgres', q{ALTER TABLE orders SET (fillfactor = 90)});
	$before->query($begin);
	like($before->{stderr}, qr/WARNING:  this saga begins on the coordinator/, 'in a session that was there before, too');
	$before->quit;
	like(said("SET saga.coordinator_check = error; $begin"), qr/ERROR: .*permission denied to set parameter/, 'the setting is the DBA\'s');

	$main->safe_psql('postgres', 'ALTER ROLE app SET saga.coordinator_check = error');
	like(said($begin), qr/ERROR:  $elsewhere/, 'or an error');
	like(said(qq{DO \$\$ BEGIN PERFORM saga.start('order', 'known'); END \$\$}), qr/ERROR:  $elsewhere/, 'in a DO block, by its other name');
	is($main->safe_psql('postgres', q{SELECT count(*) FROM saga.sagas WHERE owner = 'app'::regrole}), 8, 'and nothing is begun');
	$main->safe_psql('postgres', 'ALTER ROLE app SET saga.coordinator_check = off');
	is(said($begin), '', 'or nothing');
	$main->safe_psql('postgres', 'ALTER ROLE app RESET saga.coordinator_check');

	# ----------------------------------------- the group is part of the home

	is(away($main), '', 'the coordinator is at home');
	$main->safe_psql('postgres', 'UPDATE pg_dist_local_group SET groupid = 3');
	unlike(said($begin), qr/coordinator/, 'no coordinator: no warning');
	my $id = failed($main, 'moved');
	like(away($main), qr/another node of its Citus cluster/, 'a node with another group than before holds still');
	like($main->safe_psql('postgres', "SELECT next_action FROM saga.sagas WHERE id = '$id'"), qr/not adopted .*another node of its Citus cluster/, 'and says so');
	is(state_of($main, $id), 'compensating', 'nothing is undone');
	$main->safe_psql('postgres', 'SELECT saga.adopt()');
	wait_state($main, $id, 'compensated');
	is($main->safe_psql('postgres', 'SELECT citus_group, home_timeline FROM saga.ledger_home'), '3|1', 'adopted, it goes on as what it is now');

	# ----------------------------- an attempt is a transaction block to Citus

	my $block = $main->safe_psql('postgres', q{
		SELECT saga.begin('order', 'block') AS id \gset
		SELECT FROM saga.step(:'id', 'done', action => $c$SELECT 'done'$c$, compensation => $c$INSERT INTO undone (saga, step) VALUES ('block', 'done')$c$) \gset
		SELECT FROM saga.step(:'id', 'isolated', action => $c$SELECT current_setting('transaction_isolation')$c$) \gset
		SELECT FROM saga.step(:'id', 'fails', action => 'SELECT 1/0', retry => saga.retry_policy(max_attempts => 2, delay => '10 ms'),
			compensation => $c$INSERT INTO undone (saga, step) VALUES ('block', 'fails'); SELECT 1/0$c$, compensate_on => 'started',
			compensation_retry => saga.retry_policy(max_attempts => 2, delay => '10 ms')) \gset
		SELECT :'id'});
	wait_state($main, $block, 'needs_review');
	is($main->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', phase, outcome, sqlstate), ', ' ORDER BY started_at) FROM saga.attempts WHERE saga_id = '$block'"),
		'forward succeeded, forward succeeded, forward failed 22012, forward failed 22012, compensation failed 22012, compensation failed 22012', 'which fails and commits as any other');
	$main->safe_psql('postgres', "SELECT saga.resolve('$block', 'fails', 'skip', 'nothing')");
	wait_state($main, $block, 'compensated');
	is(undone_steps($main, 'block'), 'done', 'and leaves nothing behind');

	# --------------------------------- a clone is promoted while both are alive

	$main->backup('b');
	my $clone = PostgreSQL::Test::Cluster->new('clone');
	$clone->init_from_backup($main, 'b', has_streaming => 1);
	$clone->start;
	# The clone is listed with the group that it will have.
	$main->safe_psql('postgres', q{
		INSERT INTO pg_dist_node (nodeid, groupid, nodename, nodeport, isactive, noderole, nodeisclone, nodeprimarynodeid)
			VALUES (9, 7, 'localhost', 9, false, 'unavailable', true, 2);
		CREATE TABLE gate ();});
	my $twice = $main->safe_psql('postgres', q{
		SELECT saga.begin('order', 'twice') AS id \gset
		SELECT FROM saga.step(:'id', 'a', compensation_retry => saga.retry_policy(delay => '10 ms', backoff => 'constant', jitter => 0, max_attempts => 1000), compensation =>
			$c$SELECT FROM gate; INSERT INTO undone (saga, step) VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'key')$c$) \gset
		SELECT saga.begin('order', 'later') AS later \gset
		SELECT FROM saga.step(:'later', 'a', compensation => $c$INSERT INTO undone (saga, step) VALUES ('later', 'a')$c$) \gset
		SELECT :'id'});
	# Due when the clone is promoted, here and there
	my $holder = session($main);
	$holder->query_safe('BEGIN; LOCK TABLE gate');
	$main->safe_psql('postgres', "SELECT saga.fail('$twice')");
	wait_until($main, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$twice'");
	$main->wait_for_catchup($clone);
	$clone->promote;
	like(away($clone), qr/promoted, and its node has a clone/, 'a server that was promoted may be the clone: it holds still');
	is(away($main), '', 'the other one does not');
	$holder->query_safe('COMMIT');
	$holder->quit;
	wait_state($main, $twice, 'compensated');
	is(undone_steps($main, 'twice'), 'a', 'and undoes');
	# Citus tells the clone who it is now.
	$clone->safe_psql('postgres', q{
		UPDATE pg_dist_local_group SET groupid = 7;
		UPDATE pg_dist_node SET isactive = true, noderole = 'primary', nodeisclone = false, nodeprimarynodeid = 0 WHERE nodeid = 9});
	like(away($clone), qr/another node of its Citus cluster/, 'then it is another node');
	$clone->restart;
	like(away($clone), qr/another node of its Citus cluster/, 'after a restart, too');
	is(undone_steps($clone, 'twice'), '', 'and has undone nothing');

	# As if it were no clone, but a standby that takes the place of a lost primary
	$clone->safe_psql('postgres', q{
		DELETE FROM pg_dist_node WHERE nodeid = 9;
		UPDATE pg_dist_local_group SET groupid = 3});
	$clone->restart;
	wait_until($clone, q{SELECT home_timeline = 2 FROM saga.ledger_home});
	wait_state($clone, $twice, 'compensated');
	is(undone_steps($clone, 'twice'), 'a', 'a standby without a clone goes on by itself');
	$clone->safe_psql('postgres', q{
		INSERT INTO pg_dist_node (nodeid, groupid, nodename, nodeport, isactive, noderole, nodeisclone, nodeprimarynodeid)
			VALUES (9, 7, 'localhost', 9, false, 'unavailable', true, 2)});
	is(away($clone), '', 'and is at home, also when it gets a clone later');
	$clone->stop;
	$main->safe_psql('postgres', 'DROP EXTENSION citus; SELECT saga.adopt()');
}

# ------------------------------------------------- effects in another server

# Of such SQL, what is committed there stays, whatever becomes of it here.
my $other = saga_cluster('other');
$other->safe_psql('postgres', 'CREATE TABLE effect (saga text)');

# How often the effect is made when the server crashes once, at that point.
sub killed
{
	my ($point, $commit, $by) = @_;
	my $key = "$point $commit $by";
	my $connection = 'host=' . $other->host . ' port=' . $other->port . ' dbname=postgres';
	my %compensation = (
		dblink => "SELECT dblink_exec('$connection', format('INSERT INTO effect VALUES (%L)', \$1->>'args'))",
		postgres_fdw => "INSERT INTO effect_there VALUES (\$1->>'args')");

	$main->append_conf('postgresql.conf', "saga.synchronous_commit = $commit");
	# What was not flushed by the commit itself is lost for certain: nobody else writes it.
	my $wal_writer = $main->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'});
	kill 'STOP', $wal_writer;
	set_faults($main, "$point=kill once");
	my $id = $main->safe_psql('postgres', qq{
		SELECT saga.begin('order', '$key') AS id \\gset
		SELECT FROM saga.step(:'id', 'a', args => '"$key"', compensation => \$c\$$compensation{$by}\$c\$) \\gset
		SELECT :'id'});
	# It commits; whether it gets an answer before the server crashes is chance.
	$main->psql('postgres', "SELECT saga.fail('$id')");
	wait_struck($main);
	kill 'CONT', $wal_writer;
	set_faults($main, '');
	wait_server($main);
	wait_state($main, $id, 'compensated');
	return $other->safe_psql('postgres', "SELECT count(*) FROM effect WHERE saga = '$key'");
}

foreach my $by ('dblink', 'postgres_fdw')
{
  SKIP:
	{
		skip "needs $by and the test build", 1 if !-e "$extension/$by.control" || !is_test_build();
		$main->safe_psql('postgres', "CREATE EXTENSION $by");
		$main->safe_psql('postgres', q{
			CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '} . $other->host . q{', port '} . $other->port . q{', dbname 'postgres');
			CREATE USER MAPPING FOR CURRENT_USER SERVER other;
			CREATE FOREIGN TABLE effect_there (saga text) SERVER other OPTIONS (table_name 'effect')}) if $by eq 'postgres_fdw';
		is(killed('executor.after_commit', 'off', $by), 2, "$by, off: a commit that a crash takes back is made again, and its effect elsewhere, too");
		is(killed('executor.after_commit', 'local', $by), 1, 'local: it is on disk');
		is(killed('executor.after_commit', 'on', $by), 1, 'on: likewise');
		# The statement of dblink is a transaction there; postgres_fdw commits there as part of the commit here.
		is(killed('executor.before_commit', 'local', $by), $by eq 'dblink' ? 2 : 1, 'local: what is committed there before the commit here is made again');
	}
}
$main->append_conf('postgresql.conf', 'saga.synchronous_commit = off');
$main->reload;

# What an executor really has, and for whom
sub commits
{
	my ($user) = @_;
	my $key = "commits $user " . rand();
	$main->safe_psql('postgres', qq{
		SET ROLE $user;
		SELECT saga.begin('order', '$key') AS id \\gset
		SELECT FROM saga.step(:'id', 'a', compensation => \$c\$INSERT INTO commits SELECT '$key', current_setting('synchronous_commit')\$c\$) \\gset
		SELECT saga.fail(:'id')});
	wait_until($main, "SELECT count(*) = 1 FROM commits WHERE key = '$key'");
	return $main->safe_psql('postgres', "SELECT commit FROM commits WHERE key = '$key'");
}
$main->safe_psql('postgres', q{
	CREATE TABLE commits (key text, commit text);
	CREATE ROLE remote LOGIN;
	GRANT USAGE ON SCHEMA saga TO remote;
	GRANT INSERT ON commits TO app, remote;
	ALTER ROLE remote SET saga.synchronous_commit = on});
is(commits('app') . commits('remote'), 'offon', 'off by default, and a role may have its own');
$main->append_conf('postgresql.conf', 'saga.synchronous_commit = local');
$main->reload;
is(commits('app') . commits('remote'), 'localon', 'a reload is enough');
# The library of Citus has this setting.
$main->adjust_conf('postgresql.conf', 'saga.synchronous_commit', undef);
$main->append_conf('postgresql.conf', "citus.version = '0'");
$main->restart;
is($main->safe_psql('postgres', 'SHOW saga.synchronous_commit'), 'local', 'local where Citus is loaded');
is(commits('app') . commits('remote'), 'localon', 'for those who do not say otherwise');

# ------------------------------------------------------- looking across nodes

SKIP:
{
	skip 'needs dblink, and not Citus', 1 if !$has_dblink || !$is_fake;
	my $script = "$FindBin::RealBin/../../../saga_cluster.sql";
	my %at = map { $_->name => $_->host . ':' . $_->port } $main, $other;

	foreach my $node ($main, $other)
	{
		my $group = $node == $main ? 0 : 3;
		$node->safe_psql('postgres', qq{
			CREATE EXTENSION IF NOT EXISTS dblink;
			CREATE EXTENSION citus;
			CREATE TABLE IF NOT EXISTS orders (tenant integer);
			CREATE TABLE IF NOT EXISTS notes ();
			UPDATE pg_dist_local_group SET groupid = $group;
			INSERT INTO pg_dist_node (nodeid, groupid, nodename, nodeport) VALUES (2, 3, '@{[ $other->host ]}', @{[ $other->port ]});
			INSERT INTO pg_dist_partition VALUES ('orders', 'h', 's');
			INSERT INTO pg_dist_shard SELECT 'orders', n FROM generate_series(101, 102) n;
			INSERT INTO pg_dist_placement VALUES (3, 101, 1, 0), (4, 102, 1, 3);
			SELECT saga.adopt()});
		$node->append_conf('postgresql.conf', "saga.coordinator_check = off\ncitus.cluster_name = 'default'\ncitus.local_hostname = '" . $node->host . "'");
		$node->reload;
	}
	$other->safe_psql('postgres', 'CREATE ROLE app LOGIN');
	is($main->safe_psql('postgres', "\\i $script\n"), '', 'the script runs');
	is($main->safe_psql('postgres', q{SELECT string_agg(format('%s %s %s', n.node, n.groupid, n.active), ', ' ORDER BY groupid) FROM saga_cluster.nodes n}),
		"$at{main} 0 t, $at{other} 3 t", 'a coordinator that is not listed is a node, too');
	foreach my $view ('sagas', 'review_queue')
	{
		my $columns = q{SELECT string_agg(attname || ' ' || replace(atttypid::regtype::text, 'regrole', 'text'), ', ' ORDER BY attnum)
			FROM pg_attribute WHERE attnum > 0 AND attrelid = };
		is($main->safe_psql('postgres', "$columns 'saga_cluster.$view'::regclass"),
			'node text, error text, ' . $main->safe_psql('postgres', "$columns 'saga.$view'::regclass"), "$view has the columns that it has on a node");
	}

	# --- rights
	my $grant = "\\set VERBOSITY verbose\nSELECT saga_cluster.grant_usage('app')";
	$main->safe_psql('postgres', 'REVOKE USAGE ON SCHEMA saga FROM app');
	like(said(q{SELECT saga.begin('order')}), qr/permission denied for schema saga/, 'without the grant');
	like(said($grant, $main->safe_psql('postgres', 'SELECT current_user')), qr/NOTICE: .*\n(.*\n)*HINT:  Repeat the call after citus_add_node\(\)/, 'the grant says what it cannot know');
	my %saga = map { $_->name => sql_as($_, 'app', qq{
		SELECT saga.begin('trip', 'trip-1', '{"node": "@{[ $_->name ]}"}') AS id \\gset
		SELECT FROM saga.step(:'id', 'book', review => 'look', task => 'booking', compensate_on => 'started') \\gset
		SELECT :'id'}) } $main, $other;
	like($saga{other}, qr/^[-0-9a-f]{36}$/, 'and reaches the other node');

	# --- looking
	my $look = q{SELECT string_agg(concat_ws(' ', node, name, input->>'node', state, error), ', ' ORDER BY node = '} . $at{main} . q{' DESC) FROM saga_cluster.sagas WHERE name = 'trip' OR error IS NOT NULL};
	is(sql_as($main, 'app', $look), "$at{main} trip main running, $at{other} trip other running", 'the sagas of both');
	is(sql_as($main, 'app', q{SELECT string_agg(format('%s %s %s', node, saga_id, state), ', ' ORDER BY node = '} . $at{main} . q{' DESC) FROM saga_cluster.find('trip', 'trip-1')}),
		"$at{main} $saga{main} running, $at{other} $saga{other} running", 'found by key, on each node that has it');
	is(sql_as($main, 'app', "SELECT saga_cluster.node_of('$saga{other}')"), $at{other}, 'the node of a saga');
	like(said(q{SELECT saga_cluster.node_of('01234567-89ab-7def-8123-456789abcdef')}), qr/ERROR:  SG001: .*\nDETAIL:  All nodes answered/, 'of none');

	# --- claiming
	my $claimed = sql_as($main, 'app', q{SELECT string_agg(concat_ws(' ', node, name, step, phase, attempt, context->'saga'->'input'->>'node'), ', ' ORDER BY node = '} . $at{main} . q{' DESC) FROM saga_cluster.claim_tasks('booking', 5, consumer => 'me')});
	is($claimed, "$at{main} trip book forward 1 main, $at{other} trip book forward 1 other", 'tasks of both');
	is(sql_as($other, 'app', q{SELECT consumer FROM saga.running}), 'me', 'claimed there');
	my $key = $other->safe_psql('postgres', "SELECT forward_key FROM saga.steps WHERE saga_id = '$saga{other}'");
	like(sql_as($main, 'app', "SELECT saga_cluster.extend_claim('$at{other}', '$key', 1, '5 minutes') > now() + interval '4 minutes'"), qr/^t$/, 'extended there');
	is(sql_as($main, 'app', qq{SELECT saga_cluster.complete_task('$at{other}', '$key', '{"seat": "it''s 1A"}', 1)}), 'completed', 'reported there');
	is(sql_as($main, 'app', "SELECT saga_cluster.fail_task('$at{main}', '" . $main->safe_psql('postgres', "SELECT forward_key FROM saga.steps WHERE saga_id = '$saga{main}'") . "', 1, 'no \$1 seat', retryable => false)"), 'failed', 'and a failure here');

	# --- deciding
	is(sql_as($main, 'app', "SELECT saga_cluster.call('$saga{other}', \$\$saga.fail(saga_id, 'it''s over')\$\$)"), 'compensating', 'a call where the saga lives');
	wait_state($other, $saga{other}, 'needs_review');
	my $queue = q{SELECT string_agg(format('%s %s', node, coalesce(step, error)), ', ') FROM saga_cluster.review_queue WHERE } . "saga_id = '$saga{other}' OR error IS NOT NULL";
	is(sql_as($main, 'app', $queue), "$at{other} book", 'it waits for a person');
	is(sql_as($main, 'app', "SELECT saga_cluster.call('$saga{other}', \$\$saga.resolve(saga_id, 'book', 'done', 'by hand')\$\$)"), 'compensated', 'who decides from here');
	like(said("SELECT saga_cluster.call('$saga{other}', \$\$saga.complete(saga_id)\$\$)"), qr/ERROR: .*node "\Q$at{other}\E": .*only a running saga can be completed/, 'an error says where it was');

	guarantees($_) foreach $main, $other;

	# --- where am I?
	is($main->safe_psql('postgres', q{SELECT saga_cluster.is_here('orders', 1), saga_cluster.is_here('orders', '2'), saga_cluster.is_here('notes', 2)}), 't|f|t',
		'here, not here, and not distributed');
	like(said(q{SELECT saga_cluster.check_here('orders', 2)}), qr/ERROR:  SG008: the rows of table orders with value 2 .* on another node\nHINT:  The call was not delegated/, 'an error in the wrong place');
	is(said(q{SELECT saga_cluster.check_here('orders', 1)}), '', 'none in the right one');

	# --- a node that does not answer
	$other->stop;
	like(sql_as($main, 'app', $look), qr/^\Q$at{main}\E trip main \w+, \Q$at{other}\E .*(could not|refused|No such file)/s, 'a node that is down is in the list');
	like(sql_as($main, 'app', $queue), qr/^\Q$at{other}\E /, 'a queue that looks empty is not');
	like(said("SELECT saga_cluster.call('$saga{other}', 'saga.fail(saga_id)')"), qr/ERROR:  SG001: .*\nDETAIL:  Nodes that did not answer: \Q$at{other}\E/, 'what is not found may be there');
	like(said(q{SELECT saga_cluster.claim_tasks('booking')}), qr/WARNING: .*\Q$at{other}\E/, 'its tasks are missed');
	like(said($grant, $main->safe_psql('postgres', 'SELECT current_user')), qr/ERROR: .*not on: \Q$at{other}\E/, 'and so is the grant');
	$main->safe_psql('postgres', 'UPDATE pg_dist_node SET isactive = false');
	like(sql_as($main, 'app', $look), qr/\Q$at{other}\E the node is disabled$/, 'a node that was disabled is named, too');
	like(said(q{SELECT saga_cluster.claim_tasks('booking')}), qr/WARNING: .*\Q$at{other}\E.*disabled/, 'by the claims, too');
	is($main->safe_psql('postgres', 'DROP EXTENSION saga; SELECT count(*) FROM saga_cluster.nodes'), 2, 'and the extension can be dropped');
}

$main->stop;
done_testing();
