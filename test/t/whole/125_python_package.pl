# A type is wrong, a file is missing from the package, or its README is not true: the
# package of clients/python is checked by mypy, built, installed into an environment of
# its own without a network, and what is installed there runs clients/python/README.md.
#
# Its code blocks are those of 090_docs.  sql runs in psql, as the role "shop"; those
# in python are one program, whose output is that of the text blocks after them.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my ($python) = eval { interpreter('python') };
plan skip_all => 'needs python3 with psycopg 3' if !$python;

my $root = "$FindBin::RealBin/../../..";
my $client = "$root/clients/python";
my $dir = PostgreSQL::Test::Utils::tempdir();
local %ENV = (%ENV, HOME => $dir, PYTHONDONTWRITEBYTECODE => 1, PIP_DISABLE_PIP_VERSION_CHECK => 1, PIP_NO_CACHE_DIR => 1);

sub run_program
{
	my (@command) = @_;
	my $said = '';
	my $ok = IPC::Run::run(\@command, '<', \'', '>', \$said, '2>&1');
	return ($ok, $said);
}

# ------------------------------------------------------------------- types

chomp(my $path = (run_program($python, '-c', 'import sys; print(sys.executable)'))[1]);
SKIP:
{
	my ($have) = eval { run_program('mypy', '--version') };
	skip 'no mypy', 3 if !$have;
	my ($ok, $said) = run_program('mypy', '--config-file', "$client/pyproject.toml", '--python-executable', $path,
		'--cache-dir', "$dir/mypy", "$client/pg_saga");
	ok($ok, 'the types are right, says mypy') or diag($said);

	{
		local $ENV{MYPYPATH} = $client;
		($ok, $said) = run_program('mypy', '--config-file', "$client/pyproject.toml", '--python-executable', $path,
			'--cache-dir', "$dir/mypy", "$root/examples/python/order.py");
		ok($ok, 'so are those of the example') or diag($said);
	}

	# And they are there for who uses it: a wrong option, a wrong type of one.
	append_to_file("$dir/uses.py", join "\n", 'from pg_saga import Run, Saga, Task', 'def order(s: Run) -> int:',
		'    s.tx("a", lambda c, step: c.execute(step.forward_key), undo="SELECT 1", retry={"max_attempts": 3})',
		'    s.call("b", lambda key: key.upper(), compensate="SELECT 1")', '    s.step("c", delay=5)',
		'    return len(s.call("b", lambda key: key.nothing(), args=[1]))',
		'Saga().run("order", "1", None, order, timeout="1 day")', '');
	local $ENV{MYPYPATH} = $client;
	($ok, $said) = run_program('mypy', '--config-file', "$client/pyproject.toml", '--python-executable', $path,
		'--cache-dir', "$dir/mypy", "$dir/uses.py");
	is(join(' ', $said =~ /uses\.py:(\d+): error/g), '4 5 6', 'and wrong uses are found') or diag($said);
}

# ----------------------------------------------------------------- package

my $environment = "$dir/environment";
my ($ok, $said) = run_program($python, '-m', 'venv', '--system-site-packages', $environment);
($ok, $said) = run_program("$environment/bin/python", '-c', 'import setuptools, wheel, pip') if $ok;
if (!$ok)
{
	report("neither built nor installed, since this machine lacks venv, pip, setuptools or wheel: $said");
	$ENV{PYTHONPATH} = $client;
	$environment = undef;
}
else
{
	# Building writes beside the sources.
	system('cp', '-rL', $client, "$dir/source") == 0 or die 'cp';
	($ok, $said) = run_program("$environment/bin/python", '-m', 'pip', 'wheel', '--no-index', '--no-build-isolation', '--no-deps',
		'--wheel-dir', "$dir/wheels", "$dir/source");
	ok($ok, 'the package is built, without a network') or diag($said);
	my ($wheel) = glob "$dir/wheels/*.whl";
	like($wheel // '', qr{/pg_saga-\d+\.\d+\.\d+-py3-none-any\.whl$}, 'for every platform');
	($ok, $said) = run_program("$environment/bin/python", '-m', 'zipfile', '-l', $wheel);
	# (Later versions of setuptools have a folder for the license.)
	is(join(' ', sort map { s{-[\d.]+(?=\.dist-info)}{}r =~ s{/licenses/}{/}r } $said =~ /^(\S+\/\S+)/mg),
		join(' ', sort((map { "pg_saga/$_" } map { s{.*/}{}r } glob("$client/pg_saga/*.py $client/pg_saga/py.typed")),
			map { "pg_saga.dist-info/$_" } qw(LICENSE METADATA RECORD WHEEL top_level.txt))),
		'it holds the package, and nothing else');
	($ok, $said) = run_program("$environment/bin/python", '-m', 'pip', 'install', '--no-index', $wheel);
	ok($ok, 'and installed without one: what it needs is there') or diag($said);
	($ok, $said) = run_program("$environment/bin/python", '-c', 'import pg_saga; print(pg_saga.__file__)');
	like($said, qr/^\Q$environment\E/, 'and imported from there');
}

# ------------------------------------------------------------------ README

my $node = saga_cluster('main');
$node->safe_psql('postgres', q{
	CREATE ROLE shop LOGIN;
	GRANT USAGE ON SCHEMA saga TO shop;
	CREATE SCHEMA shop AUTHORIZATION shop});
my ($expected, $blocks, $last) = ('', 0, '');
my $readme = slurp_file("$client/README.md");
while ($readme =~ /^```(\w+)([^\n]*)\n(.*?)^```$/msg)
{
	my ($language, $info, $text) = ($1, $2, $3);
	next if $info eq ' norun';
	$blocks++;
	if ($language eq 'sql') { sql_as($node, 'shop', $text); }
	elsif ($language eq 'python') { append_to_file("$dir/readme.py", $text); }
	elsif ($language eq 'text') { $expected .= $text; }
	else { fail("a block of \"$language\" cannot be run"); }
}
cmp_ok($blocks, '>=', 10, 'the README has blocks');
{
	local @ENV{qw(PGHOST PGPORT PGDATABASE PGUSER)} = ($node->host, $node->port, 'postgres', 'shop');
	($ok, $said) = run_program(defined $environment ? "$environment/bin/python" : $python, '-W', 'error', "$dir/readme.py");
}
ok($ok, 'the README runs');
is($said, $expected, 'and prints what it says');
guarantees($node);
$node->stop;
done_testing();
