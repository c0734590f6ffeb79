# Packages: what users get is whole, builds, passes installcheck, and is nothing
# else.  The archive for PGXN; the packages of Debian and RPM, where their tools are;
# the Dockerfile and the workflow, as far as that goes without an engine.
#
# Nothing is installed on this machine: what is made is put into private copies of
# the server.
#
# SAGA_PACKAGES=full runs all of installcheck, and builds the RPM, too.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../perl";
use JSON::PP;
use PostgreSQL::Test::Utils;
use SagaTest;
use Test::More;

my $root = "$FindBin::RealBin/../../..";
my $full = ($ENV{SAGA_PACKAGES} // '') eq 'full';
my $system = $ENV{PG_CONFIG} // 'pg_config';
chomp(my ($bindir, $real, $pkglibdir, $sharedir, $docdir) =
	map { scalar `$_` } 'pg_config --bindir', map { "$system --$_" } qw(bindir pkglibdir sharedir docdir));
my $stage = $bindir =~ /^(.+)\Q$real\E$/ ? $1 : plan skip_all => 'runs in the private installation of test/run only';
my ($major) = `$system --version` =~ /(\d+)/;
my $meta = decode_json(slurp_file("$root/META.json"));
my $release = $meta->{version};
my $temporary = PostgreSQL::Test::Utils::tempdir();

# What test/run was started with is none of these programs' business.
delete @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS COPT)};
$ENV{HOME} = $temporary;

sub have { my ($program) = @_; return grep { -x "$_/$program" } split /:/, $ENV{PATH}; }

# Runs a shell's command, whose output is shown only if it fails.
sub runs
{
	my ($what, $command) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $log = "$temporary/log";

	return ok(system("{ $command; } >'$log' 2>&1 </dev/null") == 0, $what) || (diag("$command\n" . slurp_file($log)), 0)[1];
}

# A copy of the server without saga
sub server
{
	my ($name) = @_;
	my $dir = "$temporary/$name";

	system('cp', '-al', $stage, $dir) == 0 or die 'could not copy the server';
	unlink glob("$dir$pkglibdir/saga.so $dir$sharedir/extension/saga{.control,--*.sql,_*.sql}");
	system('rm', '-rf', "$dir$docdir/extension/saga", "$dir/objects") == 0 or die;
	return $dir;
}

# (What npm has installed is linked there by test/run.)
sub copy_sources
{
	my ($to) = @_;

	system('cp', '-a', $root, $to) == 0 or die 'could not copy the sources';
	unlink grep { -l } glob "$to/{console,clients/*,examples/*}/node_modules";
	return;
}

sub files_below
{
	my ($dir) = @_;
	return sort map { chomp; s{^\Q$dir\E/?}{}r } `find '$dir' ! -type d`;
}

# "make installcheck", or a part of it that has something of everything, in a
# folder, against a server in which saga is
sub installcheck
{
	my ($what, $server, $make) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $node = PostgreSQL::Test::Cluster->new($what, install_path => $server . ($real =~ s{/bin/?$}{}r));
	my $part = $full ? '' : q{REGRESS='happy claims forward' ISOLATION='step-fail'};

	$node->init;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'saga'\n");
	$node->start;
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port);
	runs("$what: installcheck", "$make installcheck PG_CONFIG='$server$real/pg_config' $part") ||
	  diag(map { -f $_ ? slurp_file($_) : () } glob "$temporary/*/{,output_iso/}regression.diffs");
	is($node->safe_psql('contrib_regression', q{SELECT extversion FROM pg_extension WHERE extname = 'saga'}),
		$meta->{provides}{saga}{file} =~ /--(.*)\.sql/ ? $1 : '', "$what: the version");
	$node->stop;
	return;
}

# ------------------------------------------------------------------ the archive

my $archive = "$temporary/saga-$release";
SKIP:
{
	skip('no git', 1) if !have('git');
	skip('no unzip', 1) if !have('unzip');

	my $checkout = "$temporary/checkout";
	copy_sources($checkout);
	my $git = "git -C '$checkout' -c user.name=test -c user.email=test\@saga.example -c init.defaultBranch=main -c safe.directory='*'";
	runs('a checkout', "rm -rf '$checkout/.git' && $git init -q && $git add -A && $git commit -qm all");
	runs('make dist', "cd '$checkout' && make dist && mv saga-$release.zip '$temporary' && cd '$temporary' && unzip -q saga-$release.zip");

	my @files = files_below($archive);
	ok((grep { $_ eq "saga-$release" } map { s{^.*/}{}r } glob "$temporary/saga-*"), 'it has one folder, with the version in its name');
	my %top = map { (split m{/})[0] => 1 } @files;
	my %wanted = map { $_ => 1 } qw(CHANGELOG.md CONTRIBUTING.md LICENSE META.json Makefile README.md SECURITY.md clients console
	  doc examples expected monitoring saga.control sql src test), map { s{.*/}{}r } glob "$root/saga[-_]*.sql";
	is(join(' ', grep { !$wanted{$_} } sort keys %top), '', 'the archive: nothing that users do not need');
	is(join(' ', grep { !$top{$_} && -e "$root/$_" } sort keys %wanted), '', 'the archive: everything that they do');
	is(join(' ', grep { m{^test/} && !m{^test/(?:README\.md$|(?:regress|isolation)\.list$|isolation/)} } @files), '',
		'the archive: of the tests, what installcheck needs');
	is(join(' ', grep { m{(?:^|/)(?:\.git|\.ci|node_modules|__pycache__|tmp_check)|^(?:console|clients/[^/]+)/tests?/|\.(?:o|so|bc|zip)$} } @files), '',
		'the archive: nothing of the repository, and nothing that was made');
	cmp_ok(-s "$temporary/saga-$release.zip", '<', 3_000_000, 'the archive: small');
	report(sprintf 'the archive has %d files, %.1f MB', scalar @files, (-s "$temporary/saga-$release.zip") / 1e6);
	my $unread = join ' ', grep { -f "$archive/$_->{file}" && -f "$archive/$_->{docfile}" ? () : $_->{file} } values %{ $meta->{provides} };
	is($unread, '', 'META.json names what is there');

	# In a folder of its own, as packagers do
	my $server = server('dist');
	my @before = files_below($server);
	mkdir "$temporary/build" or die;
	my $make = "make -s -C '$temporary/build' -f '$archive/Makefile' VPATH='$archive'";
	runs('the archive builds, outside of its folder', "COPT='-O0 -Wall -Werror' $make -j2 PG_CONFIG='$system' with_llvm=no DESTDIR='$server' install");
	my %before = map { $_ => 1 } @before;
	my ($lib, $share, $doc) = map { s{^/}{}r } $pkglibdir, $sharedir, $docdir;
	is(join("\n", grep { !$before{$_} } files_below($server)),
		join("\n", sort "$lib/saga.so", "$share/extension/saga.control", (map { s{.*/}{$share/extension/}r } glob "$root/saga[-_]*.sql"),
			map { s{.*/}{$doc/extension/saga/}r } glob "$root/README.md $root/doc/*.md"),
		'what is installed: the library, the scripts, the documents');
	is(join(' ', grep { !m{^(?:build|src|sql)\b} && /\.(?:o|so)$/ } files_below($archive)), '', 'its own folder is left as it was');
	installcheck('dist', $server, $make);
	runs('make uninstall', "$make PG_CONFIG='$system' with_llvm=no DESTDIR='$server' uninstall");
	my %left = map { $_ => 1 } files_below($server);
	is(join(' ', (map { "+$_" } grep { !$before{$_} } sort keys %left), map { "-$_" } grep { !$left{$_} } @before), '', 'and nothing is left, nor missing');
	like(scalar(`make -C '$archive' test 2>&1`), qr/needs a checkout of the repository/, 'what needs the repository says so');
}

# --------------------------------------------------------------------- Debian

SKIP:
{
	skip('no dh, or no dh_make_pgxs: .ci/setup installs them on Debian', 1) if !have('dpkg-buildpackage') || !have('dh') || !have('dh_make_pgxs');
	skip("PostgreSQL is not Debian's", 1) if $real ne "/usr/lib/postgresql/$major/bin";

	my $dir = "$temporary/debian";
	my $tree = "$dir/saga";
	mkdir $dir or die;
	copy_sources($tree);
	local %ENV = (%ENV, PG_SUPPORTED_VERSIONS => $major, DEB_BUILD_OPTIONS => 'nocheck noopt parallel=2', DEB_BUILD_PROFILES => 'nocheck');
	runs('Debian: debian/control is made', "cd '$tree' && pg_buildext updatecontrol");
	runs('Debian: the packages are built', "cd '$tree' && dpkg-buildpackage -us -uc -b");
	my @packages = map { s{.*/}{}r } glob "$dir/*.deb";
	my ($package) = grep { !/dbgsym/ } @packages;
	like($package, qr/^postgresql-\Q$major\E-saga_\Q$release\E-\d+_/, 'Debian: the package');

	like(scalar(`dpkg-deb -f '$dir/$package' Depends`), qr/^postgresql-$major\b/, 'Debian: it needs its server');
	my @files = map { chomp; s{^.*? \./}{/}r } grep { !m{/$} } `dpkg-deb -c '$dir/$package'`;
	is(join("\n", grep { !m{^(?:$pkglibdir/(?:saga\.so$|bitcode/saga)|$sharedir/extension/saga|$docdir/extension/saga/|/usr/share/doc/postgresql-$major-saga/)} } @files), '',
		'Debian: it has nothing elsewhere');
	foreach my $file ("$pkglibdir/saga.so", "$sharedir/extension/saga.control", map { "/usr/share/doc/postgresql-$major-saga/$_" } qw(copyright changelog.gz changelog.Debian.gz))
	{
		ok((grep { $_ eq $file } @files), "Debian: it has $file");
	}
	runs('Debian: nothing for lintian', "lintian --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs '$dir'/*.changes")
	  if have('lintian');

	my $server = server('deb');
	runs('Debian: unpacked', "dpkg-deb --fsys-tarfile '$dir/$package' | tar -C '$server' --no-same-owner -xf -");
	installcheck('debian', $server, "make -s -C '$tree'");
}

# ------------------------------------------------------------------------ RPM

SKIP:
{
	skip('no rpmspec', 1) if !have('rpmspec');

	my $spec = "$root/rpm/saga.spec";
	my $define = "--define 'pgmajorversion $major' --define 'pginstdir " . ($real =~ s{/bin$}{}r)
	  . "' --define 'pglibdir $pkglibdir' --define 'pgsharedir $sharedir' --define 'pgdocdir $docdir' --define 'llvm 0'";
	is(scalar(`rpmspec -q --qf '%{name} %{version}\\n' $define '$spec'`), "saga_$major $release\n", 'RPM: the spec can be read');
	is(scalar(`rpmspec -q --qf '%{name}\\n' --define 'pgmajorversion 17' '$spec'`), "saga_17\nsaga_17-llvmjit\n", 'RPM: with the code for JIT');
	if (have('rpmlint'))
	{
		# (The source is what make dist makes; and no tag is needed any more.)
		my @said = grep { /^\S+\.spec:.* [WE]: / && !/no-buildroot-tag|invalid-url Source0/ } `rpmlint '$spec' 2>&1`;
		is(join('', @said), '', 'RPM: nothing for rpmlint');
	}
	skip('SAGA_PACKAGES=full builds it', 1) if !$full || !have('rpmbuild') || !-f "$temporary/saga-$release.zip";
	my $dir = "$temporary/rpm";
	runs('RPM: built', "rpmbuild -bb --nodeps $define --define '_topdir $dir' --define '_sourcedir $temporary' '$spec'");
	my ($package) = glob "$dir/RPMS/*/saga_$major-$release-*.rpm";
	my @files = map { chomp; $_ } `rpm -qlp '$package'`;
	foreach my $file ("$pkglibdir/saga.so", "$sharedir/extension/saga.control", "$docdir/extension/saga/README.md")
	{
		ok((grep { $_ eq $file } @files), "RPM: it has $file");
	}
	my $server = server('rpm-server');
	runs('RPM: unpacked', "cd '$server' && rpm2cpio '$package' | cpio -idmu --quiet");
	installcheck('rpm', $server, "make -s -C '$temporary/debian/saga'") if -d "$temporary/debian/saga";
}

# ----------------------------------------------------------------- Dockerfile

{
	my $text = slurp_file("$root/Dockerfile") =~ s/\\\n//gr;
	my @lines = grep { !/^(?:#|\s*$)/ } split /\n/, $text;
	my ($context, %ignored) = ("$temporary/context");
	my @kept = map { /^!(.*)/ ? $1 : () } split /\n/, slurp_file("$root/.dockerignore");

	like(slurp_file("$root/.dockerignore"), qr/^\*$/m, 'Dockerfile: the context has only what is named');
	mkdir $context or die;
	foreach my $pattern (@kept)
	{
		my @there = grep { -e } glob "$root/$pattern";
		ok(scalar @there, ".dockerignore: there is $pattern");
		system('cp', '-a', @there, $context);
	}
	mkdir "$context.image" or die;
	foreach my $line (grep { /^COPY (?!--from)/ } @lines)
	{
		my (undef, @what) = split ' ', $line;
		my $to = pop @what;

		foreach my $pattern (@what)
		{
			my @there = grep { -e } glob "$context/$pattern";
			ok(scalar @there, "Dockerfile: there is $pattern in the context");
			# (The contents of a folder, as docker does)
			system('mkdir', '-p', "$context.image$to");
			system('cp', '-a', (map { -d $_ ? "$_/." : $_ } @there), "$context.image$to");
		}
	}
	my ($build) = map { /^RUN (make .*)/ ? $1 : () } @lines;
	$build =~ s{(?<= )/saga\b}{$context.image/saga} or die;
	$build =~ s{=/installed}{=$context.installed} or die;
	# (-n: what is compiled is what the archive has.)
	runs('Dockerfile: what is copied is all that is needed', "$build -n PG_CONFIG='$system'");
	is(join(' ', map { /^FROM (\S+)/ ? $1 : () } @lines), 'postgres:${PG_MAJOR} postgres:${PG_MAJOR}', 'Dockerfile: on top of the official image');
	like($lines[-1], qr/^RUN echo "shared_preload_libraries = 'saga'" >>/, 'Dockerfile: it preloads');
}

# ------------------------------------------------------------------- workflow

{
	my $file = "$root/.github/workflows/ci.yml";
	my $text = slurp_file($file);

	my @named = $text =~ m{(?<![\w/])((?:\.ci|test)/[\w/-]+)(?: --tap (\w+))?}g;
	cmp_ok(scalar @named, '>=', 4, 'workflow: it calls what the project has');
	while (my ($program, $tap) = splice @named, 0, 2)
	{
		ok(-x "$root/$program", "workflow: there is $program");
		is(scalar(() = glob "$root/test/t/*/$tap.pl"), 1, "workflow: there is $tap") if defined $tap;
	}
	if (system(q{python3 -c 'import yaml' 2>/dev/null}) == 0)
	{
		my $read = `python3 -c 'import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1])), default=str))' '$file'`;
		my $jobs = eval { decode_json($read)->{jobs} } // {};

		is(join(' ', sort keys %$jobs), 'packages suite', 'workflow: it can be read');
		foreach my $name (sort keys %$jobs)
		{
			my $job = $jobs->{$name};

			ok($job->{'runs-on'} && $job->{'timeout-minutes'} && !(grep { !$_->{run} == !$_->{uses} } @{ $job->{steps} }),
				"workflow: $name runs somewhere, not for ever, and each step does one thing");
		}
	}
}

done_testing();
