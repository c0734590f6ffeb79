# test/sanitize.sh, for test/run and test/fuzz/run: a server with a saga that was
# compiled with the compiler's sanitizers.
#
# The server itself is the usual one, so what they see is what saga's own code
# does: undefined behavior, and every access to memory that is not its own.  That
# of addresses must be the first library of the process, hence LD_PRELOAD, and
# does not see leaks: the server frees little before it ends.

# sanitize_stage BUILD FLAGS: gives "stage", which is $work/sanitized from now on,
# a saga compiled from the sources in the current folder with FLAGS, and leaves
# the reports in $work/reports.  Sets "sanitizers" to what it was compiled with.
sanitize_stage() {
	local name=$1 flags=$2 report=$work/reports kind preload
	cp -al "$stage" "$work/sanitized" && mkdir -p "$report" || return 1
	stage=$work/sanitized
	mv "$stage$bindir/postgres" "$stage$bindir/postgres.real" || return 1
	cc -shared -fPIC -fno-builtin -o "$work/nonls.so" test/fuzz/nonls/nonls.c || return 1
	for kind in undefined,address undefined; do
		sanitizers=$kind preload=
		[ $kind = undefined ] || preload="$(cc -print-file-name=libasan.so) $(cc -print-file-name=libubsan.so) $work/nonls.so"
		rm -rf "$work/sanitized-src"
		mkdir "$work/sanitized-src" && cp -a Makefile saga.control saga--*.sql src "$work/sanitized-src" || return 1
		make -s -C "$work/sanitized-src" -j"$(nproc)" PG_CONFIG="$PG_CONFIG" with_llvm=no SHLIB_LINK="-fsanitize=$kind" \
			COPT="$flags -fsanitize=$kind -fno-sanitize-recover=all -fno-omit-frame-pointer -g -ffile-prefix-map=$work/sanitized-src=saga-$name" \
			>"$work/sanitized.log" 2>&1 || { cat "$work/sanitized.log"; return 1; }
		[ -n "$(nm -D "$work/sanitized-src/saga.so" | grep " __ubsan_handle_")" ] || return 1
		rm -f "$stage$pkglibdir/saga.so" "$stage$bindir/postgres"
		cp "$work/sanitized-src/saga.so" "$stage$pkglibdir/saga.so" || return 1
		# initdb's own servers, whose first argument is another, need none of this.
		cat >"$stage$bindir/postgres" <<-END
			#!/bin/sh
			case "\$1" in
				-D) UBSAN_OPTIONS=print_stacktrace=1:abort_on_error=1:log_path='$report/undefined' \\
					ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:log_path='$report/address' \\
					LD_PRELOAD='$preload' exec '$stage$bindir/postgres.real' "\$@" ;;
				*) exec '$stage$bindir/postgres.real' "\$@" ;;
			esac
		END
		chmod 755 "$stage$bindir/postgres"
		! sanitized_starts || return 0
	done
	cat "$work/try.log"
	return 1
}

# Does a server start with what is preloaded?
sanitized_starts() {
	local code
	rm -rf "$work/try"
	"$stage$bindir/initdb" -D "$work/try" -A trust -N >/dev/null 2>&1 || return 1
	printf "listen_addresses = ''\nunix_socket_directories = '%s'\nshared_preload_libraries = 'saga'\n" "$work" >>"$work/try/postgresql.conf"
	timeout -k 5 60 "$stage$bindir/pg_ctl" -D "$work/try" -w -t 30 -l "$work/try.log" start >/dev/null 2>&1
	code=$?
	timeout -k 5 30 "$stage$bindir/pg_ctl" -D "$work/try" -m immediate stop >/dev/null 2>&1
	return $code
}

# dynamic_reports FILE...: what valgrind and the sanitizers report, each once; fails
# if there is anything.  What valgrind says counts when one of its frames is in our
# code; what the sanitizers say always does: nothing else was compiled with them.
dynamic_reports() {
	perl -e '
		my %seen;
		foreach my $file (@ARGV) {
			open my $f, "<", $file or next;
			my $text = "";
			while (my $line = <$f>) {
				$line =~ s/^[=*-]+\d+[=*-]+ ?//;
				if ($line =~ /^\s*$/) { look($text); $text = ""; } else { $text .= $line; }
			}
			look($text);
		}
		sub look {
			my $t = shift;
			return if $t !~ m{saga-\w+/src/|saga\.so|runtime error|AddressSanitizer};
			(my $key = $t) =~ s/0x[0-9A-Fa-f]+/0x/g;
			print "$t\n" if !$seen{$key}++ && keys %seen <= 20;
		}
		exit(%seen ? 1 : 0)' "$@"
}
