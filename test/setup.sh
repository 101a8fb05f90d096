#!/bin/sh
# Installs the Debian packages that the tests use and that are not there yet.
set -eu

missing=
need() { # need PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
PATH=$PATH:/usr/sbin:/sbin
need gcc gcc             # the race detector, with the headers of libc
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
need ip iproute2
need iptables iptables
need nft nftables
need dash dash
need busybox busybox-static

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
# shellcheck disable=SC2086 # a list of packages
apt-get -qq install -y --no-install-recommends $missing >/dev/null
