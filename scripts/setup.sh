#!/usr/bin/env bash
# Makes this machine ready for `make run` and `make test`: Go of go.mod's version or later, and the server binaries of
# PostgreSQL 14 to 18. PostgreSQL is installed from Debian's packages if it is missing; nothing else is changed, and the
# network is not used when all is there.
#
# setup.sh lab also installs what hosts made of network namespaces need (integration/lab), if it runs as root; nobody else can make them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly oldest=14 newest=18
readonly programs=(postgres initdb pg_basebackup pg_rewind pg_controldata)

die() {
	printf 'setup: %s\n' "$@" >&2
	exit 1
}

# major DIR prints the major version of the PostgreSQL server in DIR; fails if DIR has no complete one that we can use.
major() {
	local p v
	for p in "${programs[@]}"; do
		[[ -x $1/$p ]] || return 1
	done
	v=$("$1/postgres" --version | sed -nE 's/^postgres \(PostgreSQL\) ([0-9]+).*/\1/p')
	[[ -n $v ]] && ((v >= oldest && v <= newest)) && printf '%s\n' "$v"
}

# find_postgres prints the directory of the server binaries: pg_config's, else Debian's newest, else PATH's.
find_postgres() {
	local d
	d=$(pg_config --bindir 2>/dev/null) && major "$d" >/dev/null && { printf '%s\n' "$d"; return; }
	while read -r d; do
		major "$d" >/dev/null && { printf '%s\n' "$d"; return; }
	done < <(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV)
	d=$(command -v postgres) && d=$(dirname "$(readlink -f "$d")") && major "$d" >/dev/null && printf '%s\n' "$d"
}

# as_root runs a command as root, through sudo if need be.
as_root() {
	if ((EUID == 0)); then
		"$@"
	else
		sudo "$@"
	fi
}

install_postgres() {
	command -v apt-get >/dev/null || die \
		"PostgreSQL $oldest to $newest is not installed, and this is not Debian, so it can't be installed from here." \
		"Install your distribution's PostgreSQL server, so that pg_config --bindir names its binaries, and run this again."
	if ((EUID != 0)) && ! command -v sudo >/dev/null; then
		die "PostgreSQL $oldest to $newest is not installed, and there is no sudo. As root, run:" \
			"  apt-get update && apt-get install postgresql"
	fi
	echo "setup: PostgreSQL $oldest to $newest is not installed: installing Debian's package postgresql"
	as_root apt-get update
	# The distribution would make and start a cluster of its own. Only where there has been none before: other clusters of
	# this machine are none of our business.
	if ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-common
		as_root sed -i -E 's/^[#[:space:]]*create_main_cluster[[:space:]]*=.*/create_main_cluster = false/' \
			/etc/postgresql-common/createcluster.conf
		grep -q '^create_main_cluster = false' /etc/postgresql-common/createcluster.conf ||
			echo 'create_main_cluster = false' | as_root tee -a /etc/postgresql-common/createcluster.conf >/dev/null
	fi
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql
}

# install_lab installs the lab's tools. Without them its tests are skipped, which they say: so nothing fails here.
install_lab() {
	local missing=()
	((EUID == 0)) || return 0
	command -v ip >/dev/null || missing+=(iproute2)
	command -v nft >/dev/null || missing+=(nftables)
	command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
	command -v mount >/dev/null || missing+=(mount)
	compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || missing+=(libfaketime)
	((${#missing[@]} > 0)) || return 0
	if ! command -v apt-get >/dev/null; then
		echo "setup: for the lab of network namespaces, install what is missing of: ${missing[*]}" >&2
		return 0
	fi
	echo "setup: for the lab of network namespaces, installing Debian's packages: ${missing[*]}"
	if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; }; then
		echo "setup: they could not be installed: the tests that need hosts of their own will be skipped" >&2
	fi
}

check_go() {
	local want have
	want=$(sed -nE 's/^go ([0-9.]+).*/\1/p' go.mod)
	command -v go >/dev/null || die "Go is not installed: install Go $want or later (https://go.dev/dl/) and put it on PATH."
	# Run inside the module, Go fetches the version that go.mod names by itself where it is allowed to.
	have=$(go env GOVERSION) || die "Go $want or later is needed: see https://go.dev/dl/"
	have=${have#go}
	have=${have%%[!0-9.]*}
	[[ $(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1) == "$want" ]] ||
		die "Go $want or later is needed, and this is Go $have: see https://go.dev/dl/"
	go_version=$have
}

check_go
if ! dir=$(find_postgres); then
	install_postgres
	dir=$(find_postgres) || die "PostgreSQL was installed, but its server binaries (${programs[*]}) were not found." \
		"Supported are PostgreSQL $oldest to $newest; found: $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tr '\n' ' ')"
fi
echo "setup: Go $go_version, PostgreSQL $(major "$dir") in $dir"
if [[ ${1:-} == lab ]]; then
	install_lab
fi
