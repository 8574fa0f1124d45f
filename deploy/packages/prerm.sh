#!/bin/sh
# Before the files go; deb says remove or upgrade, rpm says how many versions will be left.
set -e

name=@NAME@

case "$1" in
remove | 0) ;;
*) exit 0 ;; # an upgrade: it runs on
esac
if [ -d /run/systemd/system ]; then
	systemctl stop "$name.service"
fi
# deb remembers until the purge whether it was enabled, as it keeps the configuration: installed again, it starts with the machine again.
if [ "$1" = 0 ] && command -v systemctl >/dev/null; then
	systemctl disable "$name.service" >/dev/null 2>&1 || true
fi
