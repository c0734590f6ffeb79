#!/bin/sh
#
# test/spin/run.sh: proves with Spin that no due work is slept through (see
# waking.pml), and that each step of the protocol is needed: without it, Spin finds
# a run that goes wrong.  Prints a line for each, and fails if one is not as it
# should be.  Needs spin and a C compiler; takes half a minute.

set -eu
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")"
model=$PWD/waking.pml
mutations=$(sed -n 's/^ \*	\(OWN\|LANE\) \([A-Z][A-Z_0-9]*\)	.*/\1:\2/p' "$model")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bad=0

# verify NAME FLAG...: prints the number of errors
verify() {
	name=$1
	shift
	mkdir "$work/$name"
	(
		cd "$work/$name"
		spin "$@" -a "$model" >generated 2>&1 || { cat generated >&2; exit 1; }
		${CC:-cc} -O1 -w -DSAFETY -DCOLLAPSE -DMEMLIM=1000 -o pan pan.c
		./pan -m1000000 >out 2>&1
		! grep -q 'max search depth too small\|out of memory' out || { cat out >&2; exit 1; }
		sed -n 's/.*errors: \([0-9]*\)$/\1/p' out
	)
}

expect() {
	what=$1 name=$2
	shift 2
	errors=$(verify "$name" "$@") || errors=
	case "$what ${errors:-none}" in
		"proved 0" | "refuted "[1-9]*) good=1 ;;
		*) good=0 ;;
	esac
	if [ $good -eq 1 ]; then
		echo "ok       $name: $what"
	else
		echo "FAILED   $name: not $what${errors:+, $errors errors}"
		bad=1
	fi
}

expect proved OWN -DOWN
expect proved LANE -DLANE
for mutation in $mutations; do
	expect refuted "${mutation#*:}" "-D${mutation%:*}" "-D${mutation#*:}"
done
exit $bad
