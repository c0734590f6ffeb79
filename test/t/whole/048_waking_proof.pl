# The proof that no due work is slept through: test/spin/run.sh, where spin is
# installed.

use strict;
use warnings;
use FindBin;
use Test::More;

plan skip_all => 'needs spin' if !grep { -x "$_/spin" } split /:/, $ENV{PATH};

my $run = "$FindBin::RealBin/../../spin/run.sh";
open my $pipe, '-|', $run or die "$run: $!";
while (my $line = <$pipe>)
{
	chomp $line;
	ok($line =~ /^ok /, $line =~ s/^\S+\s+//r);
}
ok(close($pipe), 'all of them');
done_testing();
