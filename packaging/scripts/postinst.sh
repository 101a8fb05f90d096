#!/bin/sh
# After the files were installed. dpkg: configure [OLD-VERSION], and others when
# it takes a step back; rpm: 1 for the first installation, 2 for an upgrade.
set -e

[ -d /run/systemd/system ] || exit 0 # no systemd, as in a chroot

case "$1" in
configure) [ -z "$2" ] || upgrade=1 ;;
2) upgrade=1 ;;
1) ;;
*) exit 0 ;;
esac

systemctl daemon-reload
if [ -n "${upgrade-}" ]; then
	# Only if it runs. vxlan and host-gw lose no packet; --no-block, because a
	# start waits for etcd, and installing packages must not.
	systemctl --no-block try-restart flanneld.service
else
	# Neither enabled nor started: it would wait for an etcd that nobody named.
	echo "tweed: name your etcd in /etc/default/flanneld, then: systemctl enable --now flanneld"
fi
