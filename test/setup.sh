#!/bin/sh
# Installs the Debian packages that the tests use and that are not there yet.
# Their services are neither started nor enabled: the tests run what they need
# in places of their own.
set -eu

missing=
need() { # need FILE PACKAGE
	[ -e "$1" ] || missing="$missing $2"
}
has() { # has PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
PATH=$PATH:/usr/sbin:/sbin
has gcc gcc             # the race detector, with the headers of libc
need /usr/include/stdlib.h libc6-dev
has ip iproute2
has iptables iptables
has nft nftables
has dash dash
has busybox busybox-static
has etcd etcd-server
has etcdctl etcd-client
has cfssl golang-cfssl
has dockerd docker.io
need /lib/systemd/systemd systemd
has rpm rpm
has shellcheck shellcheck

[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
	echo "setup: please install:$missing (no apt-get on this machine)" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "setup: root is needed to install:$missing; run: sudo make test" >&2
	exit 1
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update

# Debian starts and enables the services of what it installs. invoke-rc.d asks
# this file first (see /usr/share/doc/init-system-helpers), and what gets enabled
# is disabled again.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
fresh=
for unit in etcd.service docker.service docker.socket containerd.service; do
	[ -e /lib/systemd/system/$unit ] || fresh="$fresh $unit"
done
# shellcheck disable=SC2086 # a list of packages
apt-get -qq install -y --no-install-recommends $missing >/dev/null
for unit in $fresh; do
	if [ -e "/lib/systemd/system/$unit" ] && command -v systemctl >/dev/null 2>&1; then
		systemctl --no-reload disable "$unit" >/dev/null 2>&1 || :
	fi
done
