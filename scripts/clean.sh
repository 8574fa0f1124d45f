#!/usr/bin/env bash
# clean.sh DIR stops the cluster that `make run` keeps in DIR, if it runs, and removes DIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly run=${1:?directory}
# A clean stop of three nodes takes a second or two, and devcluster itself gives up after a minute; one that takes longer is killed.
readonly stop_seconds=70

# is_devcluster PID: the process is a devcluster, so that a PID that was used again is left alone.
is_devcluster() {
	local exe
	exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
	exe=${exe% (deleted)}
	[[ ${exe##*/} == devcluster ]]
}

stop() {
	local pid=$1 i
	echo "clean: stopping the cluster in $run (process $pid)"
	kill -TERM "$pid" 2>/dev/null || return 0
	for ((i = 0; i < stop_seconds * 10; i++)); do
		is_devcluster "$pid" || return 0
		sleep 0.1
	done
	echo "clean: it did not stop in $stop_seconds seconds: killing it; its nodes end with it" >&2
	kill -KILL "$pid" 2>/dev/null || true
	sleep 1
}

if [[ -f $run/devcluster.pid ]]; then
	pid=$(<"$run/devcluster.pid")
	if [[ $pid =~ ^[0-9]+$ ]] && is_devcluster "$pid"; then
		stop "$pid"
	fi
fi

# The data of a checkout that PostgreSQL's user can't reach lie elsewhere, and run is a link to them.
if [[ -L $run ]]; then
	target=$(readlink "$run")
	if [[ $target == /var/tmp/kineshim-run-* ]]; then
		rm -rf -- "$target"
	fi
fi
rm -rf -- "${run:?}"
