#!/usr/bin/env bash
# Runs go vet and all tests. The tests that start real nodes find their binaries in KINESHIM_BIN_DIR, built once here.
# Arguments are passed on to go test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=$(mktemp -d /tmp/kineshim-bin.XXXXXX)
kubernetes= # the process of Kubernetes' tests, while it runs
trap '[[ -z $kubernetes ]] || kill "$kubernetes"; rm -rf "$bin"' EXIT
chmod 0755 "$bin"
make --no-print-directory build BIN="$bin"
go build -buildvcs=false -o "$bin/" ./integration/cmd/engineserver ./integration/cmd/lab
export KINESHIM_BIN_DIR=$bin

echo "go vet ./..."
go vet ./...
echo "go build for a 32-bit Raspberry Pi"
GOARCH=arm GOARM=7 go build ./cmd/...

# The clusters of integration/ fail over when a machine is too busy to answer: they get it to themselves.
# The longest first: two run at a time, and none should be left alone at the end.
longest=(kineshim/failover/postgres kineshim/raftwitness kineshim/kineshim/kinetable kineshim/kineshim/native kineshim/kineshim kineshim/failover/vip)
mapfile -t units < <(printf '%s\n' "${longest[@]}"; go list ./... | grep -v '^kineshim/integration' | grep -vxF -f <(printf '%s\n' "${longest[@]}"))
mapfile -t clusters < <(go list ./... | grep '^kineshim/integration')
status=0
echo "go test: ${#units[@]} packages"
go test -timeout 20m "$@" "${units[@]}" || status=1
# What reads from the network or from disk, with a few thousand inputs that nobody has thought of: half a minute. `make fuzz` takes its time.
FUZZ_PLAIN=1 scripts/fuzz.sh 500ms >"$bin/fuzz" 2>&1 || { cat "$bin/fuzz"; status=1; }
echo "fuzz: $(grep -c '^fuzz \./' "$bin/fuzz") targets, for a moment each"
if ((${#clusters[@]} > 0)); then
	echo "go test: ${#clusters[@]} packages with clusters of real processes"
	go test -p 1 -timeout 20m "$@" "${clusters[@]}" || status=1
fi
echo "go test: random operations, compared with etcd's and kine's answers; meanwhile Kubernetes' storage tests, which mostly wait"
integration/kubernetes/run.sh "$@" >"$bin/kubernetes" 2>&1 &
kubernetes=$!
go -C integration/oracle test -timeout 20m "$@" ./... || status=1
wait "$kubernetes" || status=1
kubernetes=
cat "$bin/kubernetes"
echo "go test: linearizability and watches across failovers"
go -C integration/linearizability test -p 1 -timeout 20m "$@" ./... || status=1
if ! why=$("$bin/lab" --check 2>&1); then
	echo "SKIPPED: no row of the failure matrix was tried on hosts of its own: $why" >&2
fi
exit "$status"
