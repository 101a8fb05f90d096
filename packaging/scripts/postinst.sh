#!/bin/sh
# After the files were installed. dpkg: configure [OLD-VERSION], and others when
# it takes a step back; rpm: 1 for the first installation, 2 for an upgrade.
set -e

[ -d /run/systemd/system ] || exit 0 # no systemd, as in a chroot

# A systemctl that fails is told, no more: to fail as well would leave a package
# that is half installed.
call() {
	systemctl "$@" || echo "tweed: systemctl $* has failed: run it again" >&2
}

# in_use: enabled, running, or waiting for etcd. An old version alone is no sign of
# that: dpkg also names one when a removed package comes back.
in_use() {
	systemctl --quiet is-enabled flanneld.service 2>/dev/null && return
	case $(systemctl is-active flanneld.service 2>/dev/null) in
	active | activating | reloading) return 0 ;;
	esac
	return 1
}

case "$1" in
configure) old=$2 ;;
2) old=1 ;;
1) old= ;;
*) exit 0 ;;
esac

call daemon-reload
if [ -e /etc/systemd/system/flanneld.service ]; then
	# As the guides make one. It may start another program, and what stops with
	# it, such as docker, is not known here.
	echo "tweed: /etc/systemd/system/flanneld.service hides the unit of this package: if it starts /usr/bin/flanneld, restart it"
elif [ -n "$old" ] && in_use; then
	# Only if it runs. vxlan and host-gw lose no packet; --no-block, because a
	# start waits for etcd, and installing packages must not.
	call --no-block try-restart flanneld.service
else
	# Neither enabled nor started: it would wait for an etcd that nobody named.
	# And one that runs already is no daemon of ours.
	echo "tweed: name your etcd in /etc/default/flanneld, then: systemctl enable --now flanneld"
fi
