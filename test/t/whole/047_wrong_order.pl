# What follows in a saga from the state of its steps, as a table of cases:
# test/unit/walk.cases.  The rooms that decide run in a plain program, without a
# server, so that a case takes microseconds.

use strict;
use warnings;
use File::Temp 'tempdir';
use FindBin;
use Test::More;

my $unit = "$FindBin::RealBin/../../unit";
my $dir = tempdir(CLEANUP => 1);
my (@cases, @lines);

open my $file, '<', "$unit/walk.cases" or die "walk.cases: $!";
while (<$file>)
{
	push @cases, [$_] if /^saga:/;
	push @{ $cases[-1] }, $_ if /^    =>/;
}
cmp_ok(scalar @cases, '>=', 150, 'the table is there');

is(system("$unit/build", "$dir/walk"), 0, 'the deciding rooms need no server')
  or die 'no program';
open my $outcome, '-|', "'$dir/walk' < '$unit/walk.cases'" or die "walk: $!";
while (<$outcome>)
{
	my $case = $_;

	next if $case !~ /^saga:/;
	my $expected = shift @cases;
	is($case . (<$outcome> // ''), join('', @$expected), $case =~ s/^saga: (.*)\n/$1/r);
}
ok(close($outcome), 'the program ends well');
is(scalar @cases, 0, 'after the last case');

# What an executor knows from memory of the saga that it goes along is what all steps
# of the saga say, for random sagas.
my $seed = $ENV{SAGA_SEED} // 1 + int(rand 1_000_000);
is(system("$unit/build", "$dir/along", 'along'), 0, 'so does going along a saga')
  or die 'no program';
my $said = `'$dir/along' $seed 2000`;
like($said, qr/^2000 sagas, \d{4,} steps completed, \d{4,} gates opened$/, "it opens the gates that all steps say, seeds from $seed");
done_testing();
