#!/bin/sh
# Before the files go. dpkg: remove, or upgrade NEW-VERSION and others; rpm: 0
# for a removal, 1 for an upgrade. An upgrade leaves the daemon running.
set -e

[ -d /run/systemd/system ] || exit 0 # no systemd, as in a chroot

# A unit of the operator's own, as the guides make one, hides ours and stays.
[ ! -e /etc/systemd/system/flanneld.service ] || exit 0

# A systemctl that fails is told, no more: to fail as well would leave a package
# that cannot be removed.
case "$1" in
remove | 0)
	systemctl --no-reload disable --now flanneld.service ||
		echo "tweed: systemctl disable --now flanneld has failed: the daemon may still run" >&2
	;;
esac
