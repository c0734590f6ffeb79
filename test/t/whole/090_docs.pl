# The documentation is true: every code block of README.md, doc/*.md, and the
# READMEs of console, src and test runs,
# and prints what the text says it prints; the reference names everything that
# there is, and nothing else.
#
# Fences:
#
#   ```sql        in psql, as a superuser unless the document says SET ROLE,
#                 in a database of the document's own; it must not fail
#   ```sql error  it must fail
#   ```sh         in sh -e, in an empty folder, with the server's programs in
#                 PATH and PG* set; it must not fail
#   ```conf       appended to the server's configuration, until the end of the
#                 document
#   ```text       directly after one of these: what it prints, white space and
#                 the values of ids and times aside; elsewhere, anything
#   ```json       valid JSON
#   ... norun     nothing, for what the suite cannot do
#
# psql is the same session from one block to the next, unless a sh or conf
# block stands between; the SET ROLE holds on even then.

use strict;
use warnings;
use FindBin;
use JSON::PP;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../../..";

# ----------------------------------------------------------------- reading

sub blocks
{
	my ($file) = @_;
	my (@blocks, $block, $gap);
	my $n = 0;

	foreach my $line (split /\n/, slurp_file("$root/$file"), -1)
	{
		$n++;
		if ($block)
		{
			if ($line =~ /^```\s*$/)
			{
				my $last = @blocks ? $blocks[-1] : undef;
				if ($block->{lang} eq 'text' && $last && !$gap && !exists $last->{expected})
				{
					$last->{expected} = $block->{text};
				}
				elsif ($block->{lang} ne 'text')
				{
					push @blocks, $block;
				}
				undef $block;
				$gap = 0;
			}
			else { $block->{text} .= "$line\n"; }
		}
		elsif ($line =~ /^```(\w*)\s*(.*?)\s*$/)
		{
			$block = { lang => $1, info => $2, line => $n, text => '', file => $file };
			$block->{lang} = 'text' if $1 eq 'output';
		}
		elsif ($line =~ /\S/) { $gap = 1; }
	}
	die "$file: a code block has no end" if $block;
	return @blocks;
}

# What must be the same, of two outputs.
sub masked
{
	my ($text) = @_;

	$text =~ s/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}/UUID/g;
	$text =~ s/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d(?::\d\d)?| UTC)?/TIME/g;
	$text =~ s/^(?:psql:\S+ )?(?=ERROR:|WARNING:|NOTICE:)//mg;
	$text =~ s/-{2,}/--/g;
	$text =~ s/[ \t]+/ /g;
	$text =~ s/^ | $//mg;
	$text =~ s/\n\s*\n/\n/g;
	$text =~ s/^\n+|\n+$//g;
	return $text;
}

sub check
{
	my ($block, $failed, $out, $err) = @_;
	my $name = "$block->{file} line $block->{line} ($block->{lang})";
	my $wants_error = $block->{info} eq 'error';

	ok(!!$failed eq $wants_error, $name . ($wants_error ? ': fails' : ''))
	  or diag("$block->{text}\n$out$err");
	is(masked($wants_error ? $out . $err : $out), masked($block->{expected}), "$name: its output")
	  if defined $block->{expected};
}

# ----------------------------------------------------------------- running

my $node = saga_cluster('docs', databases => [],
	init => [ allows_streaming => 1 ], start => 0);

# Every documented query also stands a parallel plan: here it gets one wherever
# there is one.
$node->append_conf('postgresql.conf', join("\n", 'max_parallel_workers_per_gather = 2',
	'parallel_setup_cost = 0', 'parallel_tuple_cost = 0', 'min_parallel_table_scan_size = 0',
	'min_parallel_index_scan_size = 0', parallel_plans($node->pg_version) . ' = regress', ''));
my $original_conf = slurp_file($node->data_dir . '/postgresql.conf');
$node->start;

my %role_of;

# The setting that asks for parallel plans without need: 16 renamed it.
sub parallel_plans
{
	my ($version) = @_;
	return $version < 16 ? 'force_parallel_mode' : 'debug_parallel_query';
}

sub run_sql
{
	my ($database, @blocks) = @_;
	my $script = "\\set ON_ERROR_STOP 0\n$role_of{$database}\n";

	foreach my $block (@blocks)
	{
		$role_of{$database} = $1 if $block->{text} =~ /.*^((?:RE)?SET ROLE.*?;)/ms;
	}
	$script .= "\\echo =====$_\n\\warn =====$_\n$blocks[$_]{text}\n" foreach 0 .. $#blocks;
	$node->psql($database, $script, stdout => \my $out, stderr => \my $err,
		extra_params => [ '-P', 'format=aligned', '-P', 'tuples_only=off' ],
		on_error_stop => 0);
	foreach my $i (0 .. $#blocks)
	{
		my ($o, $e) = map { /^=====$i\n(.*?)(?:^=====|\z)/ms ? "$1" : '' } ("$out\n", "$err\n");

		# psql numbers the lines of all blocks.
		$e =~ s/^psql:\S+: //mg;
		check($blocks[$i], scalar($e =~ /^(?:ERROR|FATAL|invalid command|\\)/m), $o, $e);
	}
}

sub run_sh
{
	my ($database, $dir, $block) = @_;
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => $database,
		PGDATA => $node->data_dir);

	my $ok = IPC::Run::run([ 'sh', '-ec', "cd '$dir'\n$block->{text}" ], '<', \'', '>', \my $out, '2>', \my $err);
	check($block, !$ok, $out, $err);
}

sub run_conf
{
	my ($block) = @_;

	$node->append_conf('postgresql.conf', $block->{text});
	my $bad = $node->safe_psql('postgres', q{
		SELECT string_agg(concat_ws(' ', name, error), ', ') FROM pg_file_settings
		WHERE error IS NOT NULL AND error <> 'setting could not be applied'});
	check($block, $bad ne '', '', $bad);
	$node->reload;
	$node->restart
	  if $node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE pending_restart}) ne '0';
}

my %count;
my @documents = map { s{^\Q$root\E/}{}r } map { sort glob "$root/$_" }
  qw(README.md CONTRIBUTING.md SECURITY.md doc/*.md console/README.md src/README.md test/README.md);
foreach my $file (@documents)
{
	(my $database = lc $file) =~ s{\.md$}{};
	$database = 'doc_' . $database =~ s/\W/_/gr;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my @waiting;

	$role_of{$database} = '';

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	foreach my $block (blocks($file))
	{
		my $where = "$file line $block->{line}";

		$count{ $block->{lang} . ($block->{info} eq 'norun' ? ' norun' : '') }++;
		like($block->{info}, qr/^(?:norun|error)?$/, "$where: known words after the fence")
		  if $block->{info} ne '';
		next if $block->{info} eq 'norun';
		if ($block->{lang} eq 'sql')
		{
			push @waiting, $block;
			next;
		}
		run_sql($database, splice @waiting) if @waiting;
		if ($block->{lang} eq 'sh') { run_sh($database, $dir, $block); }
		elsif ($block->{lang} eq 'conf') { run_conf($block); }
		elsif ($block->{lang} eq 'json')
		{
			my $code = $node->psql('postgres', 'SELECT $json$' . $block->{text} . '$json$::jsonb', stdout => \my $out);
			is($code, 0, "$where: valid JSON");
		}
		else { fail("$where: a block of \"$block->{lang}\" cannot be run"); }
	}
	run_sql($database, @waiting) if @waiting;
	if (slurp_file($node->data_dir . '/postgresql.conf') ne $original_conf)
	{
		unlink $node->data_dir . '/postgresql.conf';
		append_to_file($node->data_dir . '/postgresql.conf', $original_conf);
		$node->reload;
	}
}
note(join ', ', map { "$count{$_} $_" } sort keys %count);

# ----------------------------------------- the reference against the product

$node->safe_psql('postgres', 'CREATE EXTENSION saga');
my $reference = -e "$root/doc/reference.md" ? slurp_file("$root/doc/reference.md") : '';

# A section's text, from its heading to the next of the same rank or a higher.
sub section
{
	my ($title) = @_;
	return $reference =~ /^(#+) \Q$title\E\n(.*?)(?=^#{1,3} |\z)/ms ? $2 : undef;
}

# The same of the heading that a link leads to.
sub section_of_anchor
{
	my ($anchor) = @_;
	my ($title) = grep { lc($_) =~ s/[^\w -]//gr =~ s/ /-/gr eq $anchor } $reference =~ /^#+ (.*)$/mg;
	return defined $title ? section($title) : undef;
}

# The rows of its tables: [cell, cell, ...], backticks taken off.
sub rows
{
	my ($text) = @_;
	my @rows = map { [ map { s/^\s+|\s+$//gr =~ s/^`(.*)`$/$1/r } split /(?<!\\)\|/, $_ ] }
	  map { s/^\||\|\s*$//gr } grep { /^\| `/ } split /\n/, $text;
	return @rows;
}

# What a section lists, arguments or columns: the rows of its tables, or of the line
# `saga.name(name type, name type = default)` that takes their place.
sub listed
{
	my ($name, $text) = @_;
	my ($list) = $text =~ /^`saga\.\Q$name\E ?\((.*?)\)`/ms or return rows($text);
	return map { [ /^(\w+) (.*?)(?: = '?(.*?)'?)?$/ ] } split /, /, $list =~ s/\s+/ /gr;
}

foreach my $line (split /\n/, $node->safe_psql('postgres', q{
	SELECT proname, pg_get_function_arguments(oid)
	FROM pg_proc WHERE pronamespace = 'saga'::regnamespace AND proname NOT LIKE 'internal%'
		AND proname <> 'start'
		-- the same in another form, told in its section
		AND oid <> 'saga.retry_policy(jsonb)'::regprocedure
	ORDER BY 1}))
{
	my ($name, $arguments) = split /\|/, $line, 2;
	$arguments =~ s/timestamp with time zone/timestamptz/;
	my $text = section("saga.$name");
	ok(defined $text, "reference: saga.$name") or next;
	my @expected = map { /^(\w+) (.*?)(?: DEFAULT (.*))?$/ ? [ $1, $2, $3 // '' ] : () } split /, /, $arguments;
	$_->[2] =~ s/::[\w. ]+(?:\[\])?$// foreach @expected;
	$_->[2] =~ s/^'(.*)'$/$1/ foreach @expected;
	my @got = map { [ $_->[0], $_->[1], ($_->[2] // '') =~ s/^`|`$//gr ] } listed($name, $text);
	is(join("\n", map { lc join ' ', @$_[ 0 .. 2 ] } @got),
		join("\n", map { lc join ' ', @$_ } @expected), "reference: arguments of saga.$name");
}

foreach my $relation (split /\n/, $node->safe_psql('postgres', q{
	SELECT relname FROM pg_class
	WHERE relnamespace = 'saga'::regnamespace AND relkind IN ('v', 'c') ORDER BY 1}))
{
	my $text = section("The view saga.$relation") // section("The type saga.$relation");
	ok(defined $text, "reference: saga.$relation") or next;
	my @columns = $text =~ /^The columns are those of \[saga\.(\w+)\]\(#(.*?)\)/m ?
	  listed($1, section_of_anchor($2)) : listed($relation, $text);
	is(join("\n", map { "$_->[0] $_->[1]" } @columns),
		$node->safe_psql('postgres', qq{
			SELECT attname || ' ' || replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz')
			FROM pg_attribute
			WHERE attrelid = 'saga.$relation'::regclass AND attnum > 0 AND NOT attisdropped
			ORDER BY attnum}),
		"reference: columns of saga.$relation");
}

my %context = (
	user => 'anybody', superuser => 'superuser', sighup => 'configuration file', postmaster => 'server start');
my @settings = map { [ split /\|/ ] } split /\n/, $node->safe_psql('postgres', q{
	LOAD 'saga';
	SELECT name, context, boot_val, coalesce(unit, '') FROM pg_settings
	WHERE name LIKE 'saga.%' AND name NOT LIKE 'saga.test%' ORDER BY name});
my %documented = map { $_->[0] => $_ } rows(section('Settings') // '');
is(join(' ', sort keys %documented), join(' ', map { $_->[0] } @settings), 'reference: the settings');
foreach my $s (@settings)
{
	my ($name, $context, $boot, $unit) = @$s;
	my $d = $documented{$name} or next;
	is($d->[2], $context{$context}, "reference: who may set $name");
	my ($default) = $d->[1] =~ s/^`|`$//gr;
	$default = '' if $default eq 'empty';
	my $shown = $node->safe_psql('postgres', "SHOW $name");
	is($default, $shown, "reference: default of $name");
	my ($readme) = slurp_file("$root/README.md") =~ /^\| `\Q$name\E` \| (.*?) \|/m;
	is($readme, $shown, "README: default of $name") if defined $readme;
}

# The context that the reference shows has the members of a real one.
sub members
{
	my ($value, $path) = @_;
	return $path if ref $value ne 'HASH' || $path =~ /^\.(?:args|output|saga\.(?:input|details))$/;
	return map { members($value->{$_}, "$path.$_") } sort keys %$value;
}
$node->safe_psql('postgres', q{
	CREATE TABLE context (c jsonb);
	SELECT FROM saga.begin('order', 'order-1', '{"order": 1}') AS s,
		LATERAL saga.step(s, 'charge', compensation => 'INSERT INTO context VALUES ($1)', output => '{}'),
		LATERAL saga.fail(s, 'out of stock')});
wait_until($node, 'SELECT count(*) = 1 FROM context');
my ($json) = section('The context of a compensation') =~ /^```json\n(.*?)^```/ms;
is(join("\n", members(decode_json($json), '')),
	join("\n", members(decode_json($node->safe_psql('postgres', 'SELECT c FROM context')), '')),
	'reference: the context');

# errors.h is not installed: SQLSTATEs are read from the sources.
my %codes;
my $errors = slurp_file("$root/src/base/errors.h");
$codes{"SG0$1$2"} = 1 while $errors =~ /MAKE_SQLSTATE\('S','G','0','(\d)','(\d)'\)/g;
is(join(' ', map { $_->[0] } rows(section('Errors') // '')), join(' ', sort keys %codes),
	'reference: the SQLSTATEs');

# The map of the sources has a place for every room.
my $map = slurp_file("$root/src/README.md") =~ s/^.*?^## Every room$//msr;
foreach my $room (map { s{^.*/}{}r } glob("$root/src/*.c $root/src/*/*.c"))
{
	next if $room eq 'compat.c';
	ok($map =~ /`\Q$room\E`/, "src/README.md, \"Every room\": $room");
}

# And what it names is there.
foreach my $name (slurp_file("$root/src/README.md") =~ m{`((?:calls|process|flow|ledger|shared|base)/\w+\.[ch])`}g)
{
	ok(-f "$root/src/$name", "src/README.md: $name") if !-f "$root/src/$name";
}

# Links between the documents lead somewhere.  (The blocks of monitoring/, clients/ and
# examples/ are run by the tests of those.)
my %linked;
my @clients = map { s{^\Q$root\E/}{}r } sort glob "$root/clients/*/README.md";
foreach my $file (@documents, 'CHANGELOG.md', 'monitoring/README.md', 'examples/README.md', @clients)
{
	my $text = slurp_file("$root/$file") =~ s/^```.*?^```//gmsr;
	while ($text =~ /\]\(([^)]*)\)/g)
	{
		my ($path, $anchor) = split /#/, $1, 2;
		next if $path =~ /^https?:/;
		my $target = $path eq '' ? $file : ($file =~ m{^(.*/)} ? $1 : '') . $path;
		1 while $target =~ s{[^/]+/\.\./}{};
		$linked{$target} = 1 if $target ne $file;
		if (!-f "$root/$target") { fail("$file: link to $path"); next; }
		next if !defined $anchor;
		my %anchors = map { lc($_) =~ s/[^\w -]//gr =~ s/ /-/gr => 1 }
		  slurp_file("$root/$target") =~ /^#+ (.*)$/mg;
		ok($anchors{$anchor}, "$file: link to $target#$anchor");
	}
}
is(join(' ', grep { !$linked{$_} } @documents, @clients), '', 'every document is linked');

$node->stop;
done_testing();
