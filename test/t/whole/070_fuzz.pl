# Random calls of every function of the extension, by sessions of many roles, on
# a small pool of sagas that saga's processes undo meanwhile.  test/fuzz holds
# the fuzzer, and README.md there says what each answer is held against.
#
#   SAGA_FUZZ_SECONDS   how long (10)
#   SAGA_FUZZ_SEED      the seed of a former run
#   SAGA_FUZZ_SESSIONS  sessions at a time (4)
#   SAGA_FUZZ_COUNT     end after so many calls
#   SAGA_FUZZ_MEMORY    instead of the mix: what one session holds after so many
#                       calls of each kind
#   SAGA_FUZZ_SLOW      how many times slower than usual the server is
#   SAGA_FUZZ_OUT       where findings are written to
#
# test/fuzz/run sets these for runs that last longer.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{SAGA_FUZZ_SEED} // int(time * 1000) % 1_000_000_007;
my $seconds = $ENV{SAGA_FUZZ_SECONDS} // 10;
my $memory = $ENV{SAGA_FUZZ_MEMORY};
my $slow = $ENV{SAGA_FUZZ_SLOW} // 1;
my $out = $ENV{SAGA_FUZZ_OUT} // PostgreSQL::Test::Utils::tempdir();
my $dir = "$FindBin::RealBin/../../fuzz";
diag("SAGA_FUZZ_SEED=$seed SAGA_FUZZ_SECONDS=$seconds");

# The fuzzer is a client of its own.
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
chomp(my @where = map { `$pg_config --$_` } qw(includedir libdir));
my $fuzzer = PostgreSQL::Test::Utils::tempdir() . '/fuzzer';
is(system("cc -O2 -g -std=gnu11 -Wall -Wextra -Wno-missing-field-initializers -Werror "
		. "-I'$where[0]' -o '$fuzzer' $dir/*.c -L'$where[1]' -lpq -lpthread"), 0,
	'the fuzzer compiles') or die 'no fuzzer';

# After a crash, the server is to stay down, for everybody to see.
my $node = saga_cluster('main', databases => [], conf => slurp_file("$dir/fuzz.conf")
	. join('', map { "saga.$_ = '" . 200 * $slow . " ms'\n" } qw(compensation_timeout lock_timeout)));

# One in which any bytes are text.
$node->safe_psql('postgres', q{
	CREATE DATABASE fuzz_utf8 TEMPLATE template0 ENCODING 'UTF8';
	CREATE DATABASE fuzz_bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'});
my @databases = qw(fuzz_utf8 fuzz_bytes);
$node->safe_psql('postgres', slurp_file("$dir/roles.sql"));
foreach my $database (@databases)
{
	$node->safe_psql($database, slurp_file("$dir/$_.sql")) foreach qw(schema invariants);
	$node->safe_psql($database, "\\set schema fuzz\n" . slurp_file("$dir/../story.sql"));
	$node->safe_psql($database, q{
		CREATE FUNCTION fuzz.advance_clock(interval) RETURNS void
		AS 'saga', 'saga_sql_test_advance_clock' LANGUAGE C STRICT}) if is_test_build();
}

# What is checked must not be stricter than the contract: things that chance
# brings about seldom.
$node->safe_psql('postgres', 'CREATE DATABASE oracle');
$node->safe_psql('oracle', slurp_file("$dir/$_.sql")) foreach qw(schema invariants);
{
	# The result of a run comes in when that has been rolled back and another step
	# has started; a person releases it, and it is undone, it alone.
	my $late = (split /\n/, $node->safe_psql('oracle', q{
		SELECT saga.begin('oracle', 'late') AS id \gset
		SELECT FROM saga.step(:'id', 'a', compensation => 'SELECT 1');
		SELECT saga.rollback_to(:'id', NULL, 'once more') \g /dev/null
		SELECT saga.wait(:'id', '3 minutes', 'running') \g /dev/null
		SELECT FROM saga.step(:'id', 'b', compensation => 'SELECT 1');
		SELECT FROM saga.complete_step(:'id', 'a', '1', late => 'record');
		SELECT saga.resolve(:'id', 'a', 'retry', 'undo it') \g /dev/null
		SELECT saga.wait(:'id', '3 minutes', 'running') \g /dev/null
		SELECT :'id'}))[-1];
	is($node->safe_psql('oracle', "SELECT string_agg(compensation_status, ' ' ORDER BY seq) FROM saga.steps WHERE saga_id = '$late'"),
		'compensated registered', 'a late result of a run that was rolled back is undone alone');
}
is($node->safe_psql('oracle', 'SELECT * FROM fuzz.violations()'), '', 'and that is no violation');
guarantees($node, 'oracle');

my @command = ($fuzzer, $memory ? 'memory' : 'mix', '--seed', $seed, '--seconds', $seconds,
	'--sessions', $ENV{SAGA_FUZZ_SESSIONS} // 4, '--out', $out, '--slow', $slow);
push @command, '--count', $memory // $ENV{SAGA_FUZZ_COUNT} if $memory // $ENV{SAGA_FUZZ_COUNT};
push @command, '--log' if $ENV{SAGA_FUZZ_LOG};
push @command, '--tests' if is_test_build();
foreach my $database ($memory ? $databases[0] : @databases)
{
	# Errors that are asked for need not fill the log.
	push @command, $node->connstr($database) . " options='-c log_min_messages=fatal'";
}
open my $pipe, '-|', @command or die "$fuzzer: $!";
my $told = 0;
while (my $line = <$pipe>)
{
	chomp $line;
	# What belongs to a finding is indented.
	$told = $line =~ /^FINDING/ || $told && $line =~ /^\s/;
	if ($told || $ENV{SAGA_FUZZ_OUT}) { diag($line); }
	else { note($line); }
}
close $pipe;
is($?, 0, 'no finding');

# The guarantees, with what late results change about them, are among the
# fuzzer's own invariants; those of what saga runs hold as they are.
foreach my $database (@databases)
{
	my @violations = grep { /^F/ } guarantee_violations($node, $database);
	is(join("\n", @violations), '', "what saga ran in $database kept the guarantees F1 to F8") or tell_stories($node, $database, @violations);
}
$node->stop('fast');

my $log = slurp_file($node->logfile);
my $bad = qr/TRAP: |PANIC:  |was terminated by signal|[Ll]eak: |leaked|still referenced|you don.t own a lock|could not find .* in shared|XX\d\d\d /;
my @bad = grep { /$bad/ } split /\n/, $log;
is(join("\n", @bad[0 .. ($#bad < 20 ? $#bad : 20)]), '', 'nothing in the log that must not be there');

done_testing();
