# A picture that is no XML, or carries somebody's text into a page as more than
# text: names and keys that try, read back by an XML parser.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use SagaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = saga_cluster('main');
my $read = <<'END';
import sys, xml.dom.minidom
page = xml.dom.minidom.parse(sys.argv[1])
elements = page.getElementsByTagName('*')
print(' '.join(sorted(set(e.tagName for e in elements))))
print(' '.join(sorted(set(a for e in elements for a in e.attributes.keys()))))
print(page.getElementsByTagName('title')[0].firstChild.data)
END

foreach my $name ('<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', ']]>', '<!--', '&lt;', '&#0;', q{'"`},
	"\t\x01\x08\x1b\x7f", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", '</style><a href="javascript:x">')
{
	my $svg = $node->safe_psql('postgres', q{
		SELECT saga.begin(:'name') AS s \gset
		SELECT saga.step(:'s', :'name', completed => true), saga.step(:'s', :'name', :'name' || ' again') \gset x_
		SELECT saga.picture(:'s');}, extra_params => [ '-v', "name=$name" ]);
	my $file = $node->basedir . '/picture.svg';
	append_to_file($file, $svg);
	my ($out, $err) = run_command([ (interpreter('python'))[0], '-c', $read, $file ]);
	unlink $file;
	my @lines = split /\n/, $out;
	is($lines[0], 'desc g path rect style svg text title', 'the elements are ours: ' . ($name =~ s/[^ -~]/?/gr)) or diag("$err\n$svg");
	is($lines[1], 'aria-labelledby class d height id role text-anchor viewBox width x xmlns y', 'and so are their attributes');
	# What is no character in XML is a blank.
	is($lines[2], 'Saga ' . ($name =~ s/[\x00-\x1f\x7f]/ /gr) . ': running', 'the name is there, as text');
}

done_testing();
