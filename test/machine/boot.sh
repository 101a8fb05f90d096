#!/bin/sh
# Becomes process 1 of a machine. Run by `unshare` in namespaces of its own
# for mounts, processes, cgroups, IPC and the host name; see machine.go.
#
#   NAME   host name
#   DIR    empty directory for the root file system
#   SHARE  directory that is the same file system inside and outside
set -eu
root=$DIR/root
mount --make-rprivate /

# The root is that of the outside, and all that is written goes to memory.
mount -t tmpfs -o mode=755 machine "$DIR"
mkdir "$DIR/upper" "$DIR/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$DIR/upper,workdir=$DIR/work" machine "$root"
cd "$root"

# Of the kernel's variables only those of this network namespace are writable.
mount -t proc proc proc
mkdir -p tmp
mount -t tmpfs machine tmp
mkdir tmp/proc
mount -t proc proc tmp/proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind tmp/proc/sys/net proc/sys/net
umount -l tmp/proc
rmdir tmp/proc
mount -t sysfs sysfs sys

mount -t tmpfs -o mode=755 machine sys/fs/cgroup
if grep -q '^[1-9]' /proc/self/cgroup; then # version 1, and perhaps 2 beside it
	sed 's/^[0-9]*:\([^:]*\):.*/\1/' /proc/self/cgroup | while read -r hierarchy; do
		case $hierarchy in
		'') mkdir sys/fs/cgroup/unified && mount -t cgroup2 cgroup sys/fs/cgroup/unified ;;
		name=*) mkdir "sys/fs/cgroup/${hierarchy#name=}" && mount -t cgroup -o "none,$hierarchy" cgroup "sys/fs/cgroup/${hierarchy#name=}" ;;
		*) mkdir "sys/fs/cgroup/$hierarchy" && mount -t cgroup -o "$hierarchy" cgroup "sys/fs/cgroup/$hierarchy" ;;
		esac
	done
else
	umount sys/fs/cgroup
	mount -t cgroup2 cgroup sys/fs/cgroup
fi

mount -t tmpfs -o mode=755 machine dev
for d in null zero full random urandom tty net/tun; do
	mkdir -p "dev/$(dirname $d)"
	: >"dev/$d"
	mount --bind "/dev/$d" "dev/$d"
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs machine dev/shm
mount -t mqueue mqueue dev/mqueue
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

# Of the outside's units only those that a node has, and nothing of its state.
mount -t tmpfs -o mode=755 machine run
mkdir run/units run/lock
for u in systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket \
	docker.service docker.socket containerd.service; do
	if [ -e "lib/systemd/system/$u" ]; then cp "lib/systemd/system/$u" run/units/; fi
done
for t in sysinit basic multi-user sockets timers paths slices local-fs local-fs-pre remote-fs remote-fs-pre \
	network network-pre network-online nss-lookup time-sync shutdown umount; do
	printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$t" >"run/units/$t.target"
done
printf '[Unit]\nDescription=node\nRequires=systemd-journald.socket\nAllowIsolate=yes\n' >run/units/node.target
mount -t tmpfs -o mode=755 machine lib/systemd/system
mv run/units/* lib/systemd/system/
rmdir run/units
for d in etc/systemd/system var/log var/lib/docker var/lib/containerd opt; do
	mkdir -p "$d"
	mount -t tmpfs -o mode=755 machine "$d"
done
mkdir -p etc/default var/lib/dpkg
rm -rf etc/docker etc/default/flanneld etc/default/docker var/lib/flanneld
echo "$NAME" >etc/hostname
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
printf '127.0.0.1 localhost %s\n' "$NAME" >etc/hosts
hostname "$NAME"

mkdir -p ".$SHARE" .old
mount --bind "$SHARE" ".$SHARE"
pivot_root . .old
umount -l /.old
rmdir /.old
unset NAME DIR SHARE
export container=machine PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec /lib/systemd/systemd --system --unit=node.target --log-target=console --show-status=false </dev/null
