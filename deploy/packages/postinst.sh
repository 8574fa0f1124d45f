#!/bin/sh
# After the files are there; deb says configure, rpm says how many versions are installed.
set -e

name=@NAME@
data=/var/lib/$name
config=/etc/$name

case "$1" in
configure | 1 | 2) ;;
*) exit 0 ;;
esac

if ! getent passwd "$name" >/dev/null; then
	useradd --system --user-group --home-dir "$data" --no-create-home --shell /usr/sbin/nologin "$name"
fi
# Whoever owns the data directory is the service's user: what root makes in it is given to them. Data that are there stay as they are.
if [ ! -d "$data" ]; then
	install -d -m 0700 -o "$name" -g "$name" "$data"
fi
# Root's, and readable for the service: the configuration may hold passwords.
install -d -m 0750 -o root -g "$name" "$config"

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
# Enabled once, at the first installation. Without a configuration it does not start, and what runs is not restarted: that is a
# switchover, and its time is the operator's.
if [ "$1" = 1 ] || { [ "$1" = configure ] && [ -z "$2" ]; }; then
	if command -v systemctl >/dev/null; then
		systemctl enable "$name.service" >/dev/null 2>&1 || echo "$name: systemctl enable $name failed: enable it yourself" >&2
	fi
	if [ ! -e "$config/$name.yaml" ]; then
		case "$name" in
		kineshim) echo "kineshim: installed. Next, as root: kineshim init on the first server, and on the second the command that it prints; see /usr/share/doc/kineshim/quickstart.md" ;;
		*) echo "$name: installed. Next, as root: the command that kineshim init prints; see /usr/share/doc/$name/quickstart.md" ;;
		esac
	fi
elif [ -d /run/systemd/system ] && systemctl is-active --quiet "$name.service"; then
	echo "$name: the old version runs until you say: systemctl restart $name. One machine at a time; see /usr/share/doc/$name/operations.md, Maintenance"
fi
