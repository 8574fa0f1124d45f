#!/usr/bin/env bash
# Runs the storage tests of k8s.io/apiserver against kineshim: their own code, but for the one file that starts the server.
# KINESHIM_BIN_DIR holds the engineserver; without it, it is built. Arguments are passed on to go test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

work=$(mktemp -d /tmp/kineshim-kubernetes.XXXXXX)
server=
cleanup() {
	if [[ -n $server ]]; then
		exec {stdin}>&- # the engineserver ends when its standard input does
		wait "$server" || true
	fi
	rm -rf "$work"
}
trap cleanup EXIT

bin=${KINESHIM_BIN_DIR:-}
if [[ -z $bin ]]; then
	bin=$work
	go -C ../.. build -o "$bin/" ./integration/cmd/engineserver
fi
mkfifo "$work/stdin"
"$bin/engineserver" --engine "${ENGINE:-native}" <"$work/stdin" >"$work/out" &
server=$!
exec {stdin}>"$work/stdin"
for _ in $(seq 600); do
	CONTROL=$(sed -n 's/^control=//p' "$work/out")
	[[ -z $CONTROL ]] || break
	kill -0 "$server" 2>/dev/null || { echo "the engineserver did not start" >&2; exit 1; }
	sleep 0.1
done
[[ -n $CONTROL ]] || { echo "the engineserver did not start within a minute" >&2; exit 1; }
export CONTROL

# Go replaces no file below its module cache: the test server is replaced in a copy of the module. With -trimpath, the place
# of the copy is not part of what is built, so that the next run finds it built.
go mod download k8s.io/apiserver # go list names no directory of a module that is not there yet, and is content with that
apiserver=$(go list -m -f '{{.Dir}}' k8s.io/apiserver)
cp -r "$apiserver" "$work/apiserver"
chmod -R u+w "$work/apiserver"
cp go.mod "$work/go.mod"
cp go.sum "$work/go.sum"
go mod edit -replace "k8s.io/apiserver=$work/apiserver" "$work/go.mod"
printf '{"Replace": {"%s": "%s"}}\n' "$work/apiserver/pkg/storage/etcd3/testserver/test_server.go" "$PWD/overlay/test_server.go" >"$work/overlay.json"
go test -trimpath -modfile="$work/go.mod" -overlay "$work/overlay.json" -count=1 -timeout 30m "$@" k8s.io/apiserver/pkg/storage/etcd3
