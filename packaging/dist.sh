#!/bin/sh
# Makes what is published, in dist/: for each architecture of ARCHES a tarball, a
# .deb and a .rpm, and SHA256SUMS of them all. From the same sources and VERSION
# the same Go and gzip make the same bytes, wherever and whenever it runs.
#
#   VERSION            default: git describe
#   ARCHES             as Go names them, separated by blanks
#   SOURCE_DATE_EPOCH  time of all files, seconds since 1970; default: last commit
set -eu
umask 022
cd "$(dirname "$0")/.."
. packaging/build.sh

ARCHES=${ARCHES:-amd64 arm64 arm riscv64 ppc64le s390x}

# put MODE FILE... FOLDER
put() {
	mode=$1
	shift
	for last; do :; done
	install -d -m 755 "$last"
	install -m "$mode" "$@"
}

# stage ARCH lays out in $work/ARCH what nfpm and tar pack.
stage() {
	root=$work/$1/root
	doc=$root/usr/share/doc/tweed
	install -d -m 755 "$root/usr/bin"
	for p in flanneld mk-docker-opts tweed; do
		compile "$1" $p "$root/usr/bin/$p"
	done
	put 644 packaging/systemd/flanneld.service "$root/usr/lib/systemd/system"
	put 600 packaging/default/flanneld "$root/etc/default"
	put 644 README.md CHANGELOG.md "$doc"
	install -m 644 LICENSE "$doc/copyright" # the name that Debian has for it
	put 644 docs/*.md "$doc/docs"
	put 644 docs/performance/*.svg "$doc/docs/performance"
	put 644 packaging/systemd/docker.service.d/flannel.conf "$doc/examples/docker.service.d"
	if [ -d packaging/cfssl ]; then
		put 644 packaging/cfssl/* "$doc/examples/cfssl"
	fi
	put 755 packaging/scripts/*.sh "$work/$1/scripts"

	# flannel's tarball, and what a host without package manager needs besides.
	tarball=$work/$1/tarball
	put 755 "$root/usr/bin/flanneld" "$root/usr/bin/tweed" "$tarball"
	install -m 755 "$root/usr/bin/mk-docker-opts" "$tarball/mk-docker-opts.sh"
	put 644 README.md LICENSE packaging/systemd/flanneld.service "$tarball"
	install -m 600 packaging/default/flanneld "$tarball/flanneld.default"
	install -m 644 packaging/systemd/docker.service.d/flannel.conf "$tarball/docker-flannel.conf"
	chmod -R u=rwX,go=rX "$work/$1" # folders that install made on the way
	chmod 600 "$root/etc/default/flanneld" "$tarball/flanneld.default"
	find "$work/$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

# pack ARCH
pack() {
	name=tweed-$VERSION-linux-$1.tar.gz
	tar -C "$work/$1/tarball" --format=gnu --sort=name --owner=0 --group=0 --numeric-owner \
		--mtime="@$SOURCE_DATE_EPOCH" -cf "$work/$1.tar" flanneld mk-docker-opts.sh README.md \
		LICENSE docker-flannel.conf flanneld.default flanneld.service tweed
	gzip -n <"$work/$1.tar" >"$out/$name"

	NFPM_VERSION=$(package_version)
	NFPM_ARCH=$1
	[ "$1" != arm ] || NFPM_ARCH=arm7 # armhf and armv7hl, see pin_go
	export NFPM_VERSION NFPM_ARCH
	for format in deb rpm; do
		(cd "$work/$1" && "$nfpm" package --config "$config" --packager $format --target "$out" >"$work/log" 2>&1) ||
			die "nfpm cannot make the $format for $1: $(cat "$work/log")"
	done
}

for tool in gzip install sha256sum tar; do
	command -v $tool >/dev/null || die "$tool is missing: install it first"
done
find_version
pin_go
# shellcheck disable=SC2086 # a list
known_arch $ARCHES
config=$PWD/packaging/nfpm.yaml
nfpm=$(go tool -modfile=packaging/tools.mod -n nfpm) || die "cannot build nfpm"
# All is made beside its place, so that the old files go and the new ones come
# when nothing can fail any more, and by renaming only.
mkdir -p dist
work=$(mktemp -d "$PWD/dist/.new-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM # dash leaves at a signal without EXIT
out=$work/out
mkdir "$out"
for arch in $ARCHES; do
	echo "dist: $VERSION for $arch"
	stage "$arch"
	pack "$arch"
	rm -rf "${work:?}/$arch" "$work/$arch.tar"
done
(cd "$out" && sha256sum -- * >SHA256SUMS)
trap '' HUP INT TERM # for the few renames; with SHA256SUMS it is complete
rm -f dist/SHA256SUMS dist/*.tar.gz dist/*.deb dist/*.rpm
mv "$out"/*.tar.gz "$out"/*.deb "$out"/*.rpm dist/
mv "$out/SHA256SUMS" dist/
(cd dist && ls -l -- *.tar.gz *.deb *.rpm SHA256SUMS)
