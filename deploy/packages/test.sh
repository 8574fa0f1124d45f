#!/usr/bin/env bash
# Installs, upgrades, removes and purges the packages in a Debian of their own, made by debootstrap, as root: test.sh NFPM DIST ROOT. ROOT/base is the
# Debian as it comes; it is made once and kept. ROOT/system is what is tried, made anew each time, and left for a look.
#
# There is no systemd as process 1 in a chroot: the services are started as their units say, by setpriv, and what the units say is checked by
# systemd-analyze. rpms are made and looked at, and not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly nfpm=$1 dist=$2 root=$3
readonly base=$root/base system=$root/system debian=${DEBIAN:-bookworm} within=180
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
failures=0 started=()

say() { printf '== %s\n' "$*"; }
die() { printf 'packages-test: %s\n' "$*" >&2; exit 1; }
fail() { printf 'FAILED: %s\n' "$*" >&2; failures=$((failures + 1)); }

# expect WHAT COMMAND... counts a failure if the command fails.
expect() {
	local what=$1
	shift
	if "$@"; then echo "ok: $what"; else fail "$what"; fi
}
refuse() { ! "$@"; }

in_system() { chroot "$system" "$@"; }
# eventually COMMAND... waits until it succeeds.
eventually() {
	local deadline=$((SECONDS + within)) # seconds
	until "$@"; do
		((SECONDS < deadline)) || return 1
		sleep 0.2
	done
}

# as_service USER CAPABILITIES COMMAND... runs it as the unit would; its process ID is added to started.
as_service() {
	local user=$1 caps=$2 log=$root/$1.log
	shift 2
	chroot "$system" setpriv --reuid "$user" --regid "$user" --init-groups --no-new-privs --inh-caps="$caps" --ambient-caps="$caps" \
		--bounding-set="-all${caps:+,$caps}" "$@" >>"$log" 2>&1 &
	started+=($!)
}

# score NAME says whether systemd finds the unit's exposure to be 2.5 at most.
score() {
	in_system systemd-analyze security --offline=true --threshold=25 --no-pager "/usr/lib/systemd/system/$1.service" >"$root/$1.security" 2>&1
}

cleanup() {
	local pid
	for pid in "${started[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
	for pid in $(processes_of_system); do kill -KILL "$pid" 2>/dev/null || true; done
	for m in "$system/proc" "$system/var/lib/kineshim"; do mountpoint -q "$m" && umount -l "$m"; done
	return 0
}

# processes_of_system are those whose root is the system under test.
processes_of_system() { find /proc -maxdepth 2 -name root -lname "$system" 2>/dev/null | cut -d/ -f3; }

owner() { in_system stat -c '%U:%G %a' "$1"; }
is() { [[ $1 == "$2" ]] || { echo "  is: $1"; return 1; }; }
# checksum of the distribution's own cluster.
cluster_sum() { in_system sh -c 'find /var/lib/postgresql /etc/postgresql -type f -exec sha256sum {} + | sort | sha256sum'; }
# postgres_count counts the servers in kineshim's data directory.
postgres_count() { find /proc -maxdepth 2 -name cwd -lname "$system/var/lib/kineshim/pgdata" 2>/dev/null | wc -l; }
install_debs() { in_system apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >>"$root/apt.log" 2>&1 || { tail -20 "$root/apt.log" >&2; return 1; }; }

((EUID == 0)) || die "run it as root"
for c in debootstrap setpriv systemd-analyze; do command -v "$c" >/dev/null || die "$c is missing: apt-get install debootstrap util-linux systemd"; done
mkdir -p "$root"
: >"$root/apt.log"
if [[ ! -e $base/etc/debian_version ]]; then
	say "make a Debian $debian in $base"
	rm -rf "$base.new"
	debootstrap --variant=minbase --include=systemd,ca-certificates "$debian" "$base.new" >"$root/debootstrap.log" || die "see $root/debootstrap.log"
	mv "$base.new" "$base"
fi
mountpoint -q "$system/proc" && umount -l "$system/proc"
rm -rf "$system"
cp -a "$base" "$system"
trap cleanup EXIT
mount -t proc proc "$system/proc"
[[ -e $system/dev/null ]] || mknod -m 666 "$system/dev/null" c 1 3
install -d -m 1777 "$system/dev/shm" # PostgreSQL's shared memory
cp /etc/resolv.conf "$system/etc/resolv.conf"
cp /etc/hosts "$system/etc/hosts"
[[ -d /etc/apt/apt.conf.d ]] && grep -hri '^Acquire::http' /etc/apt/apt.conf.d >"$system/etc/apt/apt.conf.d/90proxy" || true
for ca in /usr/local/share/ca-certificates/*.crt; do [[ -e $ca ]] && cp "$ca" "$system/usr/local/share/ca-certificates/"; done
in_system update-ca-certificates >/dev/null 2>&1 || true
printf '#!/bin/sh\nexit 101\n' >"$system/usr/sbin/policy-rc.d"
chmod 0755 "$system/usr/sbin/policy-rc.d"

say "make the packages, in two versions"
mkdir -p "$system/packages"
for v in v0.0.1 v0.0.2; do deploy/packages/build.sh "$v" "$nfpm" "$dist" amd64; cp "$dist"/*_"${v#v}"_amd64.deb "$system/packages/"; done


say "install"
readonly packages=(kineshim raftwitness)
install_version() { install_debs $(for p in "${packages[@]}"; do echo "/packages/${p}_$1_amd64.deb"; done); }
in_system apt-get update >>"$root/apt.log" 2>&1 || die "apt-get update: see $root/apt.log"
install_version 0.0.1 || die "they do not install"
cp "$root/apt.log" "$root/install.log"
expect "the distribution has made its own PostgreSQL cluster, as it does" in_system sh -c 'ls -d /var/lib/postgresql/*/main'
before=$(cluster_sum)
for name in "${packages[@]}"; do
	expect "$name's data directory is its user's" is "$(owner /var/lib/$name)" "$name:$name 700"
	expect "$name's configuration is root's, and readable for it" is "$(owner /etc/$name)" "root:$name 750"
	expect "$name.service is enabled" test -L "$system/etc/systemd/system/multi-user.target.wants/$name.service"
	expect "systemd-analyze finds no fault in $name.service" is "$(in_system systemd-analyze verify $name.service 2>&1)" ""
	expect "$name.service is hardened" score "$name"
	tail -1 "$root/$name.security"
done

say "found a cluster as root, run it as the units do"
port=$((20000 + RANDOM % 10000))
cat >"$system/etc/kineshim/kineshim.yaml" <<EOF
node: a
data_dir: /var/lib/kineshim
client_listen: 127.0.0.1:$port
members:
  a: {raft: "127.0.0.1:$((port + 1))", peer: "127.0.0.1:$((port + 2))", postgres: "127.0.0.1:$((port + 3))"}
  b: {raft: "127.0.0.1:$((port + 4))", peer: "127.0.0.1:$((port + 5))", postgres: "127.0.0.1:$((port + 6))"}
  w: {raft: "127.0.0.1:$((port + 7))"}
EOF
printf 'node: w\ndata_dir: /var/lib/raftwitness\nlisten: 127.0.0.1:%d\n' $((port + 7)) >"$system/etc/raftwitness/raftwitness.yaml"
in_system chmod 0640 /etc/kineshim/kineshim.yaml /etc/raftwitness/raftwitness.yaml
in_system chgrp kineshim /etc/kineshim/kineshim.yaml
in_system chgrp raftwitness /etc/raftwitness/raftwitness.yaml
in_system kineshim init --config /etc/kineshim/kineshim.yaml --enrolments /root/enrolments >/dev/null
in_system raftwitness join --config /etc/raftwitness/raftwitness.yaml /root/enrolments/w.json >/dev/null
expect "what init makes belongs to the service" is "$(owner /var/lib/kineshim/secrets.json)" "kineshim:kineshim 600"
expect "what join makes belongs to the service" is "$(in_system sh -c 'stat -c %U /var/lib/raftwitness/* /var/lib/raftwitness/*/identity.json' | sort -u)" raftwitness

start_kineshim() { as_service kineshim +net_admin,+net_raw kineshim --config /etc/kineshim/kineshim.yaml; kineshim_pid=${started[-1]}; }
serves() { # 3: somebody serves, and failover is not armed, as there is no b
	local code=0
	in_system shimctl status >"$root/status" 2>&1 || code=$?
	((code == 3))
}
clean_up() { in_system setpriv --reuid kineshim --regid kineshim --init-groups kineshim clean-up --config /etc/kineshim/kineshim.yaml; }
capabilities() { sed -n 's/^CapEff:\t0*//p' "/proc/$1/status"; }
as_service raftwitness -all raftwitness --config /etc/raftwitness/raftwitness.yaml
start_kineshim
expect "it serves" eventually serves || { tail -n 5 "$root/kineshim.log" "$root/status"; exit 1; }
postmaster=$(head -1 "$system/var/lib/kineshim/pgdata/postmaster.pid")
expect "kineshim may move addresses, and no more" is "$(capabilities "$kineshim_pid")" 3000
expect "PostgreSQL has no capabilities" is "$(capabilities "$postmaster")" ""
expect "PostgreSQL runs as the same user" is "$(stat -c %u "/proc/$postmaster")" "$(stat -c %u "/proc/$kineshim_pid")"
expect "clean-up is refused while it runs" refuse clean_up

say "kineshim is killed, and its PostgreSQL is too frozen to notice"
kill -STOP "$kineshim_pid" # or it would make an end of them itself
left=$(pgrep -P "$postmaster")
kill -STOP "$postmaster" $left
kill -KILL "$kineshim_pid"
wait "$kineshim_pid" 2>/dev/null || true
expect "PostgreSQL is left" is "$(postgres_count)" $(($(wc -w <<<"$left") + 1))
expect "clean-up" clean_up
expect "nothing is left of it" is "$(postgres_count)" 0
start_kineshim
expect "it serves again" eventually serves

say "upgrade"
identity=$(sha256sum "$system/var/lib/kineshim/identity.json")
install_version 0.0.2 || fail "the upgrade"
expect "what ran before runs on" kill -0 "$kineshim_pid"
expect "and serves" serves
expect "the new version is there" is "$(in_system dpkg-query -W -f '${Version}' kineshim)" 0.0.2
expect "the data are the same" is "$(sha256sum "$system/var/lib/kineshim/identity.json")" "$identity"
kill -TERM "$kineshim_pid"
wait "$kineshim_pid" || fail "kineshim's exit code is $?"
expect "after a stop no PostgreSQL is left" is "$(postgres_count)" 0

say "remove, install again, purge"
in_system apt-get remove -y kineshim raftwitness >>"$root/apt.log" 2>&1 || fail "the removal"
expect "the program is gone" test ! -e "$system/usr/bin/kineshim"
expect "the data are there" test -s "$system/var/lib/kineshim/pgdata/PG_VERSION"
expect "the configuration is there" test -s "$system/etc/kineshim/kineshim.yaml"
install_version 0.0.2 || fail "the second installation"
expect "installed again, it starts with the machine" test -L "$system/etc/systemd/system/multi-user.target.wants/kineshim.service"
start_kineshim
expect "it serves with the old data" eventually serves
kill -TERM "$kineshim_pid"
wait "$kineshim_pid" || fail "kineshim's exit code is $?"

in_system dpkg --purge kineshim >"$root/purge.log" 2>&1 </dev/null || fail "the purge that asks nobody"
expect "where nobody can be asked, the data are kept" test -s "$system/var/lib/kineshim/pgdata/PG_VERSION"
expect "and it says where" grep -q 'kept: the data in /var/lib/kineshim' "$root/purge.log"
# purge_by ANSWER purges at a terminal, where somebody types the answer.
purge_by() {
	install_debs /packages/kineshim_0.0.2_amd64.deb || return 1
	{ sleep 1; printf '%s\n' "$1"; sleep 1; } | script -qec "env DEBIAN_FRONTEND=dialog chroot $system dpkg --purge kineshim" "$root/purge.log" >/dev/null
}
expect "purge at a terminal, answer no" purge_by no
expect "it has asked" grep -q 'Type "delete /var/lib/kineshim"' "$root/purge.log"
expect "the data are kept" test -s "$system/var/lib/kineshim/pgdata/PG_VERSION"
mount --bind "$system/var/lib/kineshim" "$system/var/lib/kineshim" # as if it were a file system of its own
expect "purge at a terminal, answer delete, of a file system of its own" purge_by "delete /var/lib/kineshim"
expect "the data are gone" test -z "$(ls -A "$system/var/lib/kineshim")"
expect "nothing starts it" test ! -L "$system/etc/systemd/system/multi-user.target.wants/kineshim.service"
umount "$system/var/lib/kineshim"
install_debs /packages/kineshim_0.0.2_amd64.deb || fail "the third installation"
expect "purge of what is empty asks nothing" in_system dpkg --purge kineshim </dev/null
expect "its directory is gone" test ! -e "$system/var/lib/kineshim"
expect "the configuration is gone" test ! -e "$system/etc/kineshim"
expect "the user is gone" refuse in_system getent passwd kineshim
for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done # the witness
wait
touch "$system/var/lib/raftwitness/delete-on-purge"
in_system dpkg --purge raftwitness >"$root/purge.log" 2>&1 </dev/null || fail "the purge of the witness"
expect "a file says that the data may go" test ! -e "$system/var/lib/raftwitness"
expect "the distribution's own cluster is as it was" is "$(cluster_sum)" "$before"

if command -v rpm >/dev/null; then
	say "the rpms, which are looked at and not installed"
	for name in "${packages[@]}"; do
		f=$dist/${name}_0.0.2_amd64.rpm
		expect "$name.rpm has the unit" grep -q "/usr/lib/systemd/system/$name.service" <(rpm -qlp "$f" 2>/dev/null)
		expect "$name.rpm has its scripts" grep -q "^postinstall scriptlet" <(rpm -qp --scripts "$f" 2>/dev/null)
	done
fi
rm -f "$dist"/{kineshim,raftwitness}_0.0.[12]_amd64.{deb,rpm}
((failures == 0)) || die "$failures failures; logs in $root"
say "all is well; logs in $root"
