#!/bin/sh
# Makes the tree of the container image, dist/image/ARCH, where flannel's image
# has its files:
#
#   docker build -t tweed -f packaging/Dockerfile dist/image/amd64
#
# or, without a builder, the same image:
#
#   tar -C dist/image/amd64 -c . | docker import -c 'ENTRYPOINT ["/opt/bin/flanneld"]' - tweed
#
# ARCH (default: this machine's), VERSION and SOURCE_DATE_EPOCH as in dist.sh.
set -eu
umask 022
cd "$(dirname "$0")/.."
. packaging/build.sh

find_version
pin_go
ARCH=${ARCH:-$(go env GOARCH)}
known_arch "$ARCH"
mkdir -p dist/image
work=$(mktemp -d dist/image/.new-XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tree=$work/$ARCH
install -d -m 755 "$tree/opt/bin"
compile "$ARCH" flanneld "$tree/opt/bin/flanneld"
compile "$ARCH" mk-docker-opts "$tree/opt/bin/mk-docker-opts.sh"
install -m 644 LICENSE "$tree/LICENSE"
find "$tree" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
rm -rf "dist/image/$ARCH"
mv "$tree" "dist/image/$ARCH"
echo "image: $VERSION for $ARCH in dist/image/$ARCH"
