#!/usr/bin/env bash
# Fuzzes each target of this module for a while, one after the other: fuzz.sh TIME [PACKAGE...], such as 30s. Without packages, those with targets are
# found. What fails is kept by go test in the package's testdata/fuzz, and tried again by each plain go test from then on.
#
# FUZZ_SMALL=n leaves out packages that link more than n others: each has to be compiled with instrumentation, which takes minutes for the largest ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

time=${1:?usage: fuzz.sh TIME [PACKAGE...]}
shift
if (($# == 0)); then
	mapfile -t dirs < <(git ls-files --cached --others --exclude-standard '*_test.go' | xargs grep -lE '^func Fuzz' | xargs -n1 dirname | sort -u)
	set -- "${dirs[@]/#/./}"
fi

status=0
for package in "$@"; do
	if [[ -n ${FUZZ_SMALL:-} ]] && (($(go list -deps -test "$package" | wc -l) > FUZZ_SMALL)); then
		echo "left out, too large to be compiled for this: $package"
		continue
	fi
	# Compiled once for all its targets.
	binary=$(mktemp "${TMPDIR:-/tmp}/kineshim-fuzz.XXXXXX")
	trap 'rm -f "$binary"' EXIT
	go test -c -o "$binary" -fuzz . "$package"
	cache=$(go env GOCACHE)/fuzz/$(go list "$package")
	for target in $(cd "$package" && "$binary" -test.list '^Fuzz'); do
		echo "fuzz $package $target for $time"
		# A second of minimising what is new is enough: the default is a minute, in which nothing else is tried.
		(cd "$package" && "$binary" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$time" -test.fuzzminimizetime 1s \
			-test.fuzzcachedir "$cache" -test.parallel "${FUZZ_PARALLEL:-$(nproc)}" | grep -vE '^(fuzz: elapsed|PASS)') || {
			rc=("${PIPESTATUS[@]}")
			((rc[0] == 0)) || status=1
		}
	done
	rm -f "$binary"
done
exit "$status"
