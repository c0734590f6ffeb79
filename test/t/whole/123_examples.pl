# The example, in three languages, does not do what it says, or not the same in all:
# examples/run, which judges the books by itself.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use File::Basename;
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $root = "$FindBin::RealBin/../../..";
(my $bin = `pg_config --bindir`) =~ s/\n//;
my %printed;

foreach my $language (qw(sql node python))
{
  SKIP:
	{
		skip "there is no examples/$language", 2 if !-d "$root/examples/$language";
		skip "no $language", 2 if $language ne 'sql' && !eval { interpreter($language); 1 };
		local $ENV{SAGA_BIN} = $bin;
		my $ok = IPC::Run::run([ "$root/examples/run", $language ], '<', \'', '>', \my $out, '2>', \my $err);
		ok($ok, "$language: the books are right") or diag("$out$err");
		$printed{$language} = $out;
		is($out, $printed{sql}, "$language: prints what the others print") if $language ne 'sql';
		like($out, qr/^order 1: shipped to Bern\n.*^order 2: .*we_ship_there.*: compensated\n.*^\(killed.*^order 3: shipped/ms, "$language: the orders") if $language eq 'sql';
	}
}
done_testing();
