# A cluster of Citus, three nodes: a saga lives where its data lives.  Each failing
# saga is undone exactly once, whatever is killed or moved meanwhile; what goes the
# wrong way is said; and all nodes can be looked at from one.
#
# Where Citus is not installed, 128_data_elsewhere has to do.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my @nodes = map { PostgreSQL::Test::Cluster->new($_) } qw(coordinator one two);
my ($coordinator, @workers) = @nodes;
plan skip_all => 'Citus is not installed' if !-e $coordinator->config_data('--pkglibdir') . '/citus.so';

my %name = map { $_->host . ':' . $_->port => $_->name } @nodes;
foreach my $node (@nodes)
{
	$node->init(allows_streaming => 'logical', extra => [ '--encoding=UTF8', '--no-locale' ]);
	$node->append_conf('postgresql.conf', saga_conf() . "
shared_preload_libraries = 'citus,saga'
restart_after_crash = on
max_connections = 100
citus.local_hostname = '@{[ $node->host ]}'
citus.node_conninfo = 'sslmode=disable'
citus.shard_count = 8
citus.defer_shard_delete_interval = -1
citus.max_background_task_executors_per_node = 1
");
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION citus');
}
$coordinator->safe_psql('postgres', "SELECT citus_set_coordinator_host('@{[ $coordinator->host ]}', @{[ $coordinator->port ]})");
$coordinator->safe_psql('postgres', "SELECT citus_add_node('@{[ $_->host ]}', @{[ $_->port ]})") foreach @workers;
$coordinator->safe_psql('postgres', 'CREATE EXTENSION saga');
is($_->safe_psql('postgres', q{SELECT (SELECT count(*) FROM pg_extension WHERE extname = 'saga'),
	(SELECT count(*) FROM saga.health WHERE severity <> 'notice'), current_setting('saga.synchronous_commit')}), '1|0|local', $_->name . ' has saga, at home')
  foreach @nodes;

# --- what doc/citus.md says

$coordinator->safe_psql('postgres', "\\i $FindBin::RealBin/../../../saga_cluster.sql");
$coordinator->safe_psql('postgres', q{
	CREATE ROLE shop LOGIN;
	SELECT saga_cluster.grant_usage('shop');
	GRANT CREATE ON SCHEMA public TO shop;});
sub shop { return sql_as($coordinator, 'shop', $_[0]); }
shop(q{
	CREATE TABLE orders (tenant integer, key text, state text DEFAULT 'placed');
	CREATE TABLE done (tenant integer, key text, what text);
	SELECT create_distributed_table('orders', 'tenant');
	SELECT create_distributed_table('done', 'tenant', colocate_with => 'orders');
	CREATE FUNCTION undo_order(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE orders SET state = 'canceled' WHERE tenant = (context->'args'->>'tenant')::integer AND key = context->'args'->>'key';
		INSERT INTO done VALUES ((context->'args'->>'tenant')::integer, context->'args'->>'key', 'undone');
	END $$;
	CREATE FUNCTION place_order(tenant_id integer, order_key text, fails boolean) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		s uuid;
	BEGIN
		PERFORM saga_cluster.check_here('orders', tenant_id);
		s := saga.begin('order', order_key);
		INSERT INTO orders VALUES (tenant_id, order_key);
		INSERT INTO done VALUES (tenant_id, order_key, 'done');
		PERFORM saga.step(s, 'place', completed => true, args => jsonb_build_object('tenant', tenant_id, 'key', order_key),
			compensation => 'SELECT public.undo_order($1)');
		IF fails THEN
			PERFORM saga.fail(s, 'no stock');
		END IF;
		RETURN s;
	END $$;
	SELECT create_distributed_function('place_order(integer, text, boolean)', 'tenant_id', colocate_with => 'orders', force_delegation => true);
	-- The same, done by the server: what an action does and its mark commit together.
	CREATE FUNCTION act(context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO done VALUES ((context->'args'->>'tenant')::integer, context->'args'->>'key', 'done');
		IF context->'args'->>'fails' = context->'step'->>'name' THEN
			PERFORM saga.require(false, 'it fails');
		END IF;
	END $$;
	CREATE FUNCTION run_order(tenant_id integer, order_key text, fails text) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		s uuid := saga.begin('run', order_key);
		args jsonb := jsonb_build_object('tenant', tenant_id, 'key', order_key, 'fails', fails);
	BEGIN
		PERFORM saga_cluster.check_here('orders', tenant_id);
		INSERT INTO orders VALUES (tenant_id, order_key);
		PERFORM saga.step(s, 'a', args => args, action => 'SELECT public.act($1)', compensation => 'SELECT public.undo_order($1)');
		PERFORM saga.step(s, 'b', args => args, action => 'SELECT public.act($1)', compensation => 'SELECT public.undo_order($1)');
		PERFORM saga.complete(s, when_done => true);
		RETURN s;
	END $$;
	SELECT create_distributed_function('run_order(integer, text, text)', 'tenant_id', colocate_with => 'orders', force_delegation => true);});

# A tenant on each worker
my %tenant;
foreach my $n (1 .. 30)
{
	my $at = $name{ shop(qq{SELECT format('%s:%s', nodename, nodeport) FROM pg_dist_node JOIN pg_dist_placement USING (groupid)
		WHERE shardid = get_shard_id_for_distribution_column('orders', $n)}) };
	$tenant{$at} //= $n;
}
is(join(' ', sort keys %tenant), 'one two', 'data is on the workers only');

# --- a saga lives on the node of its tenant

foreach my $worker (@workers)
{
	my $at = $worker->name;
	my $saga = shop("SELECT place_order($tenant{$at}, 'first', true)");
	wait_state($worker, $saga, 'compensated');
	is($worker->safe_psql('postgres', "SELECT name, owner FROM saga.sagas WHERE id = '$saga'"), 'order|shop', "$at: its ledger has it");
	is(shop("SELECT string_agg(what, ' ' ORDER BY what) FROM done WHERE tenant = $tenant{$at} AND key = 'first'"), 'done undone', "$at: undone once");
	is(shop("SELECT saga_cluster.node_of('$saga')"), $worker->host . ':' . $worker->port, "$at: found there");

	my $run = shop("SELECT run_order($tenant{$at}, 'run', NULL)");
	wait_state($worker, $run, 'completed');
	is(shop("SELECT string_agg(what, ' ' ORDER BY what) FROM done WHERE tenant = $tenant{$at} AND key = 'run'"), 'done done', "$at: actions run there");
	$run = shop("SELECT run_order($tenant{$at}, 'back', 'b')");
	wait_state($worker, $run, 'compensated');
	is(shop("SELECT string_agg(what, ' ' ORDER BY what) FROM done WHERE tenant = $tenant{$at} AND key = 'back'"), 'done undone', "$at: and back");
}
is($coordinator->safe_psql('postgres', 'SELECT count(*) FROM saga.sagas'), 0, 'none is on the coordinator');

# --- the wrong way

my ($t1, $t2) = @tenant{qw(one two)};
my @wrong = (
	'DO block' => "DO \$\$ BEGIN PERFORM place_order($t1, 'wrong', false); END \$\$",
	'set argument' => "SELECT place_order(n, 'wrong', false) FROM generate_series($t1, $t1) n",
	'volatile argument' => "SELECT place_order($t1, random()::text, false)",
	'field of the result' => "SELECT (place_order($t1, 'wrong', false))::text",
	'several tenants' => "SELECT place_order($t1, 'wrong', false), place_order($t2, 'wrong', false)");
while (my ($what, $sql) = splice @wrong, 0, 2)
{
	like(sql_error($coordinator, $sql, 'postgres', extra_params => [ '-U', 'shop' ]), qr/ERROR:  (SG008: the rows of table orders|0A000|XX000)/, "not delegated: $what");
}
is(shop(q{SELECT count(*) FROM orders WHERE key = 'wrong'}), 0, 'and nothing is done');
$coordinator->psql('postgres', q{SELECT saga.begin('order')}, stderr => \my $said, extra_params => [ '-U', 'shop' ]);
like($said, qr/WARNING:  this saga begins on the coordinator of a Citus cluster/, 'saga.begin on the coordinator: a warning');
$coordinator->safe_psql('postgres', 'ALTER ROLE shop SET saga.coordinator_check = error');
like(sql_error($coordinator, q{SELECT saga.begin('order')}, 'postgres', extra_params => [ '-U', 'shop' ]), qr/ERROR:  SG008: this saga begins on the coordinator/, 'or an error');
is(sql_as($workers[0], 'shop', q{SELECT saga.begin('order') IS NOT NULL}), 't', 'on a worker, neither');
like(sql_error($coordinator, "SELECT saga.fail('01234567-89ab-7def-8123-456789abcdef')"), qr/SG001: .*\n.*another node/, 'SG001 says that it may be elsewhere');

# --- two tenants in one transaction, of two nodes

shop(qq{BEGIN;
	SELECT place_order($t1, 'both', true);
	SELECT place_order($t2, 'both', true);
	COMMIT});
wait_until($_, q{SELECT count(*) = 1 FROM saga.sagas WHERE idempotency_key = 'both' AND state = 'compensated'}) foreach @workers;
is(shop(q{SELECT string_agg(what, ' ' ORDER BY what) FROM done WHERE key = 'both'}), 'done done undone undone', 'a two-phase commit: each is undone once');

# --- what an undo does on another node is taken back with it

$coordinator->safe_psql('postgres', 'ALTER ROLE shop SET saga.coordinator_check = off');
my $far = shop(qq{
	SELECT saga.begin('far') AS id \\gset
	SELECT status AS s FROM saga.step(:'id', 'a', compensation_retry => saga.retry_policy(max_attempts => 3, delay => '10 ms'),
		compensation => 'INSERT INTO done VALUES ($t1, ''far'', ''undone''); SELECT 1/0') \\gset
	SELECT saga.fail(:'id') AS failed \\gset
	SELECT :'id'});
wait_state($coordinator, $far, 'needs_review');
is(shop(q{SELECT count(*) FROM done WHERE key = 'far'}), 0, 'a statement of an attempt that failed');

# --- moving shards, and a crash of a worker, while sagas fail

my $script = PostgreSQL::Test::Utils::tempdir() . '/place.sql';
append_to_file($script, q{\set tenant random(1, 30)
\set key random(1, 1000000000000)
SELECT place_order(:tenant, 'p:key', true);
SELECT run_order(:tenant, 'r:key', 'b');
});
# What a client was about to do when the connection broke, it does not do again.
my $clients = start_program('clients', { PGHOST => $coordinator->host, PGPORT => $coordinator->port, PGUSER => 'shop', PGDATABASE => 'postgres' },
	'sh', '-c', "for i in 1 2 3 4; do pgbench -n -M simple -c 2 -T 1 -f '$script'; done; exit 0");
wait_until($_, q{SELECT count(*) > 20 FROM saga.sagas WHERE idempotency_key ~ '^[pr]\d+$'}) foreach @workers;
foreach my $worker (0, 1)
{
	my ($from, $to) = @workers[ $worker, 1 - $worker ];
	my $shard = $coordinator->safe_psql('postgres', qq{SELECT min(shardid) FROM pg_dist_placement JOIN pg_dist_node USING (groupid)
		JOIN pg_dist_shard USING (shardid) WHERE logicalrelid = 'orders'::regclass AND nodeport = @{[ $from->port ]}
		AND shardid <> get_shard_id_for_distribution_column('orders', $tenant{ $from->name })});
	$coordinator->safe_psql('postgres', qq{SELECT citus_move_shard_placement($shard, '@{[ $from->host ]}', @{[ $from->port ]},
		'@{[ $to->host ]}', @{[ $to->port ]}, shard_transfer_mode => 'block_writes')});
}
my $offset = log_offset($workers[0]);
kill 'KILL', worker_pid($workers[0]);
wait_log($workers[0], qr/database system is ready to accept connections/, $offset);
wait_program($clients);
wait_until($_, q{SELECT count(*) = 0 FROM saga.sagas WHERE state IN ('running', 'compensating') AND idempotency_key ~ '^[pr]\d+$'}) foreach @workers;
is(shop(q{SELECT count(*) FROM (SELECT FROM done WHERE key ~ '^[pr]\d+$' GROUP BY tenant, key
	HAVING count(*) FILTER (WHERE what = 'done') <> 1 OR count(*) FILTER (WHERE what = 'undone') <> 1) wrong}), 0, 'each effect is undone exactly once');
is(shop(q{SELECT string_agg(DISTINCT state, ' ') FROM orders WHERE key ~ '^[pr]\d+$'}), 'canceled', 'every order is canceled');
my $count = shop(q{SELECT count(*) FROM orders WHERE key ~ '^[pr]\d+$'});
is(shop(q{SELECT string_agg(DISTINCT concat_ws(' ', state, error), ', ') || ' ' || count(*) FROM saga_cluster.sagas WHERE idempotency_key ~ '^[pr]\d+$' OR error IS NOT NULL}),
	"compensated $count", 'by a saga each');
report("$count failing sagas");
guarantees($_) foreach @workers;

# --- a promoted clone

my ($two) = grep { $_->name eq 'two' } @workers;
$two->backup('b');
my $clone = PostgreSQL::Test::Cluster->new('clone');
$clone->init_from_backup($two, 'b', has_streaming => 1);
# Citus knows it by its address, or by this.
$clone->append_conf('postgresql.conf', "primary_conninfo = 'host=@{[ $two->host ]} port=@{[ $two->port ]} application_name=@{[ $clone->host ]}'");
$clone->start;
$coordinator->safe_psql('postgres', sprintf q{SELECT citus_add_clone_node('%s', %s, '%s', %s)},
	$clone->host, $clone->port, $two->host, $two->port);
# Due on both when the clone is promoted
$two->safe_psql('postgres', 'SET citus.enable_ddl_propagation = off; CREATE TABLE gate (); GRANT ALL ON gate TO shop');
my $holder = session($two);
$holder->query_safe('BEGIN; LOCK TABLE gate');
my $due = shop(qq{SELECT place_order($t2, 'clone', false)});
sql_as($two, 'shop', qq{
	SELECT FROM saga.step('$due', 'wait', completed => true, compensation => 'SELECT FROM public.gate');
	SELECT saga.fail('$due')});
wait_until($two, "SELECT compensation_status = 'running' FROM saga.steps WHERE saga_id = '$due' AND key = 'wait'");
$two->wait_for_catchup($clone->host);
$coordinator->safe_psql('postgres', sprintf q{SELECT citus_promote_clone_and_rebalance(nodeid) FROM pg_dist_node WHERE nodeport = %s}, $clone->port);
like($clone->safe_psql('postgres', q{SELECT finding FROM saga.health WHERE code = 'not adopted'}), qr/another node of its Citus cluster/, 'a promoted clone holds still');
is($clone->safe_psql('postgres', "SELECT state FROM saga.sagas WHERE id = '$due'"), 'compensating', 'with what is due there');
$holder->query_safe('COMMIT');
$holder->quit;
wait_state($two, $due, 'compensated');
is(shop(q{SELECT string_agg(what, ' ' ORDER BY what) FROM done WHERE key = 'clone'}), 'done undone', 'the other one undoes it, once');
like(sql_error($coordinator, "SELECT saga_cluster.node_of('$due')"), qr/ERROR: .*is on several nodes/, 'that there are two of it is said');

# As doc/citus.md says: what the other one has is none of this one's.
$clone->safe_psql('postgres', q{
	TRUNCATE saga.ledger_saga, saga.ledger_step, saga.ledger_attempt, saga.ledger_event, saga.ledger_due,
		saga.ledger_queue, saga.ledger_held, saga.ledger_signal, saga.ledger_claimed;
	SELECT saga.adopt()});
my ($moved) = grep { shop("SELECT count(*) FROM pg_dist_placement JOIN pg_dist_node USING (groupid)
	WHERE nodeport = " . $clone->port . " AND shardid = get_shard_id_for_distribution_column('orders', $_)") } 1 .. 30;
my $after = shop("SELECT place_order($moved, 'after', true)");
wait_state($clone, $after, 'compensated');
is(shop(q{SELECT string_agg(what, ' ' ORDER BY what) FROM done WHERE key = 'after'}), 'done undone', 'emptied and adopted, it is a node like any other');

# --- a node that is down

$workers[0]->stop;
like(shop(q{SELECT string_agg(node || ' ' || error, ' ') FROM saga_cluster.review_queue WHERE error IS NOT NULL}), qr/^\Q@{[ $workers[0]->host . ':' . $workers[0]->port ]}\E /, 'is named');

$_->stop foreach $coordinator, $two, $clone;
done_testing();
