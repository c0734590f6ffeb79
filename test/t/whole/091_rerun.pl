# What README and the demo show may be killed at any point and called again: the
# work is there once, or undone once.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../../..";
my $node = saga_cluster('main', conf => "saga.max_executors = 1\n");
my $db = 'postgres';

# ------------------------------------------------------------------ the demo

# Its order as an application that runs the steps itself: what the steps do and
# what undoes them is the demo's.  There is a place to die at the beginning, the
# end, and on both sides of each COMMIT.
my $head = slurp_file("$root/test/demo/order.sql") =~ s/^  SELECT pg_sleep\(0\.5\);\n//gmr;
my $procedure = q{
CREATE PROCEDURE run_order(order_id int) LANGUAGE plpgsql AS $$
DECLARE
  s uuid := saga.begin('order', 'order-' || order_id, jsonb_build_object('order', order_id));
  c jsonb := jsonb_build_object('saga', jsonb_build_object('input', jsonb_build_object('order', order_id)));
BEGIN
  IF NOT (saga.step(s, 'reserve stock', completed => true, compensation => 'SELECT release_stock($1)')).known THEN
    PERFORM reserve_stock(c);
  END IF;
  COMMIT;
  IF NOT (saga.step(s, 'charge', completed => true, compensation => 'SELECT refund($1)')).known THEN
    PERFORM charge(c);
  END IF;
  COMMIT;
  IF NOT (saga.step(s, 'book carrier', completed => true, compensation => 'SELECT call_carrier_off($1)')).known THEN
    PERFORM book_carrier(c);
  END IF;
  COMMIT;
  IF NOT (saga.step(s, 'issue invoice', completed => true, compensation => 'SELECT void_invoice($1)')).known THEN
    PERFORM issue_invoice(c);
  END IF;
  COMMIT;

  -- As if the CRM were outside: the step is committed before its effect.
  IF (saga.step(s, 'write CRM', compensation => 'SELECT strike_crm_note($1)')).status <> 'completed' THEN
    COMMIT;
    BEGIN
      PERFORM write_crm(c);
      PERFORM saga.complete_step(s, 'write CRM');
    EXCEPTION WHEN OTHERS THEN
      PERFORM saga.fail_step(s, 'write CRM', SQLERRM);
      PERFORM saga.fail(s, 'order ' || order_id || ' could not be placed: ' || SQLERRM);
      RETURN;
    END;
    COMMIT;
  END IF;

  PERFORM saga.step(s, 'confirm', kind => 'pivot', completed => true);
  PERFORM saga.complete(s);
END $$;
};
my $commits = () = $procedure =~ /COMMIT;/g;
$procedure =~ s/COMMIT;/PERFORM perhaps_die(); COMMIT; PERFORM perhaps_die();/g;
$procedure =~ s/PERFORM saga\.complete\(s\);/$& PERFORM perhaps_die();/;
$procedure =~ s/PERFORM saga\.fail\(s, .*?\);/$& PERFORM perhaps_die();/s;
$procedure =~ s/^BEGIN\n/BEGIN\n  PERFORM perhaps_die();\n/m;
my $places = () = $procedure =~ /perhaps_die/g;

$node->safe_psql($db, "
	CREATE FUNCTION perhaps_die() RETURNS void LANGUAGE plpgsql AS \$\$
	DECLARE
	  passed int := coalesce(nullif(current_setting('test.passed', true), ''), '0')::int + 1;
	BEGIN
	  PERFORM set_config('test.passed', passed::text, false);
	  IF passed = current_setting('test.die_at')::int THEN
	    PERFORM pg_terminate_backend(pg_backend_pid());
	    PERFORM pg_sleep(60);
	  END IF;
	END \$\$;
	$head $procedure");

sub place
{
	my ($order, $die_at) = @_;
	my ($out, $err);
	my $code = $node->psql($db, "SET test.die_at = $die_at; CALL run_order($order)",
		stdout => \$out, stderr => \$err);
	return $code == 0 ? '' : $err;
}

sub counts
{
	my ($order) = @_;
	return $node->safe_psql($db, "
		SELECT (SELECT string_agg(refunded::text, ',') FROM payment WHERE order_id = $order),
			(SELECT string_agg(called_off::text, ',') FROM shipment WHERE order_id = $order),
			(SELECT string_agg(void::text, ',') FROM invoice WHERE order_id = $order),
			(SELECT count(*) FROM crm_note WHERE order_id = $order),
			(SELECT string_agg(state, ',') FROM saga.sagas WHERE idempotency_key = 'order-$order')");
}
sub on_hand { return $node->safe_psql($db, 'SELECT on_hand FROM stock') }

# An order that goes well, killed once at each place
my $killed = 0;
$node->safe_psql($db, 'UPDATE stock SET on_hand = 1000');
foreach my $place (1 .. $places)
{
	my $before = on_hand();
	my $err = place($place, $place);
	$killed++ if $err =~ /terminating connection/;
	is(place($place, 0), '', "place $place: called again");
	is(counts($place), 'false|false|false|1|completed', "place $place: the order stands, once");
	is(on_hand(), $before - 1, "place $place: one piece");
	is(place($place, 0), '', "place $place: called once more when it is completed");
	is(counts($place), 'false|false|false|1|completed', "place $place: nothing is done again");
	is(on_hand(), $before - 1, "place $place: no other piece");
}
ok($killed >= 2 * $commits, "killed at $killed places");

# An order that fails, killed once at each place: undone, once
$killed = 0;
foreach my $place (1 .. $places)
{
	my $n = 4000 + $place;
	my $before = on_hand();
	my $err = place($n, $place);
	$killed++ if $err =~ /terminating connection/;
	$err = place($n, 0);
	ok($err eq '' || $err =~ /saga \S+ .*(?:compensat|fail)/s, "place $place: called again") or diag($err);
	$node->safe_psql($db, "SELECT saga.wait(id) FROM saga.sagas WHERE idempotency_key = 'order-$n'");
	is(counts($n), 'true|true|true|0|compensated', "place $place: all of it is undone");
	is(on_hand(), $before, "place $place: the piece is back");
	isnt(place($n, 0), '', "place $place: the key is used up");
	is(on_hand(), $before, "place $place: and nothing is taken under it");
}
ok($killed >= 2 * $commits, "killed at $killed places");

# Its own form, which the server runs, called again at once and at the end
foreach my $n (2001, 5001)
{
	my $before = on_hand();
	$node->safe_psql($db, "SELECT place_order($n)");
	$node->safe_psql($db, "SELECT place_order($n)") if $n < 4000;
	my $state = $node->safe_psql($db, "SELECT saga.wait(saga.find('order', 'order-$n'))");
	is($state, $n < 4000 ? 'completed' : 'compensated', "order $n: the server ran it");
	$node->safe_psql($db, "SELECT place_order($n)") if $n < 4000;
	is(counts($n), $n < 4000 ? 'false|false|false|1|completed' : 'true|true|true|0|compensated', "order $n: once");
	is(on_hand(), $before - ($n < 4000), "order $n: one piece, or none");
}

# ---------------------------------------------------------------- the README

my @blocks = slurp_file("$root/README.md") =~ /^```sql\n(.*?)^```/gms;
my ($tables) = grep { /CREATE TABLE seat/ } @blocks;
my ($quick) = grep { /saga\.step\(:'trip', 'seat', completed/ } @blocks;
my ($take_room) = grep { /CREATE FUNCTION take_room/ } @blocks;
ok($tables && $quick && $take_room, 'README shows what is tested here');
$tables =~ s/^SET ROLE .*\n//m;
$node->safe_psql($db, "$tables; $take_room; UPDATE room SET free = 10");

# Its first step: one statement after the other, and from the start again
my @statements = split /(?:;|\\gset)\n\K/, $quick;
is(scalar(@statements), 2, 'README: the first step is one statement');
foreach my $done (0 .. @statements)
{
	my $key = "trip-$done";
	my @now = map { s/'trip-1'/'$key'/r } @statements;
	my $before = $node->safe_psql($db, 'SELECT free FROM seat');
	$node->safe_psql($db, join '', @now[ 0 .. $done - 1 ]) if $done;
	$node->safe_psql($db, join '', @now);
	is($node->safe_psql($db, 'SELECT free FROM seat'), $before - 1, "README: $done statements, then all of them: one seat");
	foreach (1 .. 2)
	{
		$node->safe_psql($db, "SELECT take_room(s, 'Alpina') FROM saga.begin('trip', '$key') AS s");
	}
	is($node->safe_psql($db, 'SELECT free FROM room'), 10 - $done - 1, 'README: called twice, one room');
	$node->safe_psql($db, "SELECT saga.fail(s) FROM saga.begin('trip', '$key') AS s") if $done == @statements;
}
wait_until($node, q{SELECT state = 'compensated' FROM saga.sagas WHERE idempotency_key = 'trip-2'});
is($node->safe_psql($db, 'SELECT free FROM seat'), 1, 'README: undone, one seat is back');
is($node->safe_psql($db, 'SELECT free FROM room'), 8, 'README: undone, one room is back');

guarantees($node);
done_testing();
