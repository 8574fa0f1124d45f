#!/usr/bin/env bash
# Fuzzes each target of this module for a while, one after the other: fuzz.sh TIME [PACKAGE...], such as 30s. Without packages, those with targets are
# found. What fails is kept in the package's testdata/fuzz, and tried again by each plain go test from then on.
#
# FUZZ_PLAIN=1 tries random changes of the seeds, and does not look at what code they reach: for that, a package and all that it links have to be compiled
# anew, which takes minutes the first time. FUZZ_PARALLEL=n is how many processes try at a time; all processors by default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

time=${1:?usage: fuzz.sh TIME [PACKAGE...]}
shift
if (($# == 0)); then
	mapfile -t dirs < <(go list -f '{{.Dir}}' ./...)
	for dir in "${dirs[@]}"; do
		if grep -qsE '^func Fuzz' "$dir"/*_test.go; then
			set -- "$@" ".${dir#"$PWD"}"
		fi
	done
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/kineshim-fuzz.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
instrumented=(-fuzz .)
[[ -n ${FUZZ_PLAIN:-} ]] && instrumented=()

status=0
for package in "$@"; do
	binary=$scratch/test # compiled once for all targets of the package
	go test -c -o "$binary" "${instrumented[@]}" "$package"
	cache=$(go env GOCACHE)/fuzz/$(go list "$package")
	mapfile -t targets < <(cd "$package" && "$binary" -test.list '^Fuzz')
	for target in "${targets[@]}"; do
		echo "fuzz $package $target for $time"
		failed=0
		# A second for making what is new smaller is enough: by default it is a minute, in which nothing else is tried.
		(cd "$package" && "$binary" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$time" -test.fuzzminimizetime 1s \
			-test.fuzzcachedir "$cache" -test.parallel "${FUZZ_PARALLEL:-$(nproc)}") >"$scratch/out" 2>&1 || failed=1
		# The end of the time in the middle of an input is not always taken for one by package testing; it is no failure of the target.
		if ((failed)) && grep -q '^ *context deadline exceeded$' "$scratch/out" && ! grep -q 'Failing input' "$scratch/out"; then
			failed=0
		fi
		if ((failed)); then
			status=1
			grep -v '^fuzz: elapsed' "$scratch/out" || true
		else
			grep '^fuzz: elapsed' "$scratch/out" | tail -n 1 || true
		fi
	done
done
exit "$status"
