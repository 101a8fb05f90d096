# Sourced by dist.sh and image.sh, in the root of the sources: what version this
# is, from when, and how to compile a program.
# shellcheck shell=sh

export LC_ALL=C # ranges such as A-Z, and the order of lists

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

git_here() { # git, if this folder is a checkout and not just inside of one
	top=$(git -c safe.directory='*' rev-parse --show-toplevel 2>/dev/null) &&
		[ "$top" = "$(pwd -P)" ] && git -c safe.directory='*' "$@" 2>/dev/null
}

# find_version sets VERSION, with its v, and SOURCE_DATE_EPOCH.
find_version() {
	command -v go >/dev/null || die "go is missing: see https://go.dev/dl/"
	VERSION=${VERSION:-$(git_here describe --tags --always --dirty)} ||
		die "VERSION is not set and this is no git checkout: want VERSION=v1.2.3"
	number='[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)*'
	case $VERSION in
	*[!0-9A-Za-z.-]*) bad_version ;;
	esac
	if printf '%s\n' "$VERSION" | grep -Eqx "v?$number"; then
		VERSION=v${VERSION#v}
	elif ! printf '%s\n' "$VERSION" | grep -Eqx '[0-9a-f]{7,40}(-dirty)?'; then
		bad_version
	fi
	# git archive gives all files the time of the commit.
	SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git_here log -1 --format=%ct || stat -c %Y go.mod)}
	case $SOURCE_DATE_EPOCH in
	'' | *[!0-9]*) die "SOURCE_DATE_EPOCH $SOURCE_DATE_EPOCH: want seconds since 1970" ;;
	esac
	export VERSION SOURCE_DATE_EPOCH
}

bad_version() {
	die "VERSION $VERSION: want such as v1.2.3, v1.2.3-rc.1, v1.2.3-4-gabc1234 or a commit"
}

# package_version turns a version of ours into one that dpkg and rpm sort as
# meant: 1.2.3~rc.1 before 1.2.3, 1.2.3+4.gabc1234 after it, and a commit without
# a tag before all, by date.
package_version() {
	case $VERSION in
	v*) printf '%s\n' "${VERSION#v}" | sed -E '
			s/-dirty$/.dirty/
			s/-([0-9]+)-(g[0-9a-f]+)(\.dirty)?$/+\1.\2\3/
			s/^([0-9.]+)\.dirty$/\1+dirty/
			s/^([0-9.]+)-/\1~/
			y/-/./' ;;
	*) echo "0.0.0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).g$(echo "$VERSION" | tr - .)" ;;
	esac
}

# known_arch ARCH...
known_arch() {
	for arch; do
		go tool dist list | grep -Fqx "linux/$arch" || die "architecture $arch: want Go's name, such as amd64, arm64, arm"
	done
}

# pin_go keeps out of the programs what the builder has set for others. The values
# are Go's defaults, not empty ones, which a setting by go env -w would win against;
# only a GOEXPERIMENT from there gets through. Where modules come from (GOPROXY,
# -mod) and which Go it is (GOTOOLCHAIN) stay the builder's choice.
pin_go() {
	flags=-buildvcs=false
	for flag in $(go env GOFLAGS); do
		case $flag in
		-mod=* | -modcacherw | -p=*) flags="$flags $flag" ;;
		esac
	done
	export GOFLAGS="$flags" GOWORK=off GOEXPERIMENT='' GOFIPS140=off GO386=sse2 GOAMD64=v1 GOARM=7 \
		GOARM64=v8.0 GOMIPS=hardfloat GOMIPS64=hardfloat GOPPC64=power8 GORISCV64=rva20u64
}

# compile ARCH PROGRAM FILE, after find_version and pin_go
compile() {
	CGO_ENABLED=0 GOOS=linux GOARCH=$1 go build -trimpath \
		-ldflags "-s -w -X main.version=$VERSION" -o "$3" "./cmd/$2" ||
		die "cannot build $2 for $1"
}
