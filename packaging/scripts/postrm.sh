#!/bin/sh
# After the files went. dpkg: remove, then purge if asked to; rpm: 0 for a
# removal, 1 for an upgrade.
set -e

# The private copy of the subnet. rpm knows no purge and keeps it, as it keeps
# changed settings.
if [ "$1" = purge ]; then
	rm -rf /var/lib/flanneld
fi

[ -d /run/systemd/system ] || exit 0 # no systemd, as in a chroot

# A systemctl that fails is told, no more, as in prerm.
case "$1" in
remove | 0) systemctl daemon-reload || echo "tweed: systemctl daemon-reload has failed: run it again" >&2 ;;
esac
