#!/usr/bin/env bash
# Makes the packages in dist/ of the binaries that `make cross` has put there: build.sh VERSION NFPM DIST [PROCESSOR...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly version=$1 nfpm=$2 dist=$3
shift 3
(($# > 0)) || set -- amd64 arm64 armv7 armv6

# package_version makes of git's description what deb and rpm order as people do: digits first, no hyphens. Without a tag, the commit's time counts.
package_version() {
	local v=$version
	if [[ ! $v =~ ^v?[0-9]+\. ]]; then
		v="0.0.0-git$(TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd 2>/dev/null || echo 0)-$v"
	fi
	v=${v#v}
	v=${v/-rc/\~rc}
	printf '%s\n' "${v//-/+}"
}

package_version=$(package_version)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The same commit makes the same packages.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH

# make_package NAME PROCESSOR ARCH: the processor stands in the file's name, as deb has one architecture for armv6 and armv7, armhf.
make_package() {
	local name=$1 processor=$2 arch=$3 type file
	for file in "$name.yaml" postinst.sh prerm.sh postrm.sh; do
		sed -e "s|@NAME@|$name|; s|@VERSION@|$package_version|; s|@ARCH@|$arch|; s|@BINARIES@|$dist/linux-$processor|; s|@SCRIPTS@|$work|" \
			"deploy/packages/$file" >"$work/$file"
	done
	for type in deb rpm; do
		file=$dist/${name}_${package_version}_$processor.$type
		"$nfpm" package --config "$work/$name.yaml" --packager "$type" --target "$file" >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }
		echo "made $file"
	done
}

for processor; do
	case $processor in
	armv*) arch=arm${processor#armv} ;; # nfpm's name
	*) arch=$processor ;;
	esac
	[[ $processor == armv6 ]] || make_package kineshim "$processor" "$arch" # the witness only: an old Pi is none for PostgreSQL
	make_package raftwitness "$processor" "$arch"
done
