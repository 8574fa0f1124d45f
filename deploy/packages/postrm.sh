#!/bin/sh
# After the files are gone; deb says remove, purge, upgrade and more, rpm says how many versions are left. Only deb's purge deletes data, and asks
# before it does. Where nobody can be asked, they are kept, unless KINESHIM_PURGE_DATA=yes or the file delete-on-purge in the data directory says otherwise.
set -e

name=@NAME@
data=/var/lib/$name
config=/etc/$name

# sure says whether the data may be deleted.
sure() {
	[ "$KINESHIM_PURGE_DATA" = yes ] && return 0
	[ "$KINESHIM_PURGE_DATA" = no ] && return 1
	[ -e "$data/delete-on-purge" ] && return 0
	[ "$DEBIAN_FRONTEND" != noninteractive ] && [ -t 0 ] && [ -t 1 ] || return 1
	echo "$name: $data holds this node's data and identity ($(du -sh "$data" 2>/dev/null | cut -f1))."
	printf 'Type "delete %s" to delete them for good; anything else keeps them: ' "$data"
	read -r answer || return 1
	[ "$answer" = "delete $data" ]
}

# empty says whether there is nothing to lose.
empty() {
	[ ! -d "$data" ] || [ -z "$(ls -A "$data" | grep -vx lost+found)" ]
}

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
[ "$1" = purge ] || exit 0
rm -f "/etc/systemd/system/multi-user.target.wants/$name.service"

if ! empty && ! sure; then
	echo "$name: kept: the data in $data, and their configuration in $config. Delete them yourself: rm -r $data $config && userdel $name"
	exit 0
fi
# It may be a file system of its own, which stays, or a link to one.
if [ -d "$data" ] && ! find "$data/" -xdev -mindepth 1 -delete; then
	echo "$name: not all of $data could be deleted" >&2
fi
rmdir "$data" 2>/dev/null || rm -f "$data" 2>/dev/null || true
rm -rf "$config"
if getent passwd "$name" >/dev/null; then
	userdel "$name" >/dev/null 2>&1 || true
fi
