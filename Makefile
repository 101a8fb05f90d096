# Two commands matter: `sudo make demo` and `sudo make test`. Both do all their own set-up.
# sudo often hides where Go lives, so the usual places are looked into as well.
export PATH := $(PATH):/usr/local/go/bin:/usr/lib/go/bin:/usr/sbin:/sbin
export TWEED_TEST_STRICT ?= 1

VERSION ?= $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w $(if $(VERSION),-X main.version=$(VERSION))
BUILD   := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
ARCHES  ?= amd64 arm64 arm riscv64 ppc64le s390x
FUZZTIME ?= 30000x

.NOTPARALLEL: # also with make -j: set-up comes first, and the tests measure time
.PHONY: help build demo bench scale test root setup fmt vet staticcheck unit fuzz vuln cross integration dist image clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

build: ## put flanneld, mk-docker-opts and tweed into bin/ (VERSION=... to name one)
	$(BUILD) -o bin/ ./cmd/...

demo: build ## three hosts on this machine, every backend in turn; needs root and Go only
	bin/tweed demo $(DEMOFLAGS)

bench: build ## how fast the udp backend is beside the kernel's VXLAN, in seven minutes; needs root and Go only
	bin/tweed bench $(BENCHFLAGS)

scale: build ## a large network: starts with up to 50000 leases, 200 daemons, in four minutes; needs root and Go only
	bin/tweed bench -scale $(BENCHFLAGS)

test: root setup fmt vet staticcheck vuln cross unit fuzz integration ## everything; needs root

root:
	@test "$$(id -u)" = 0 || { echo "the tests make network namespaces: run sudo make test" >&2; exit 1; }

setup: ## install the Debian packages that the tests use
	test/setup.sh

fmt: ## is the code formatted?
	@out=$$(gofmt -l .); test -z "$$out" || { echo "gofmt wants to change:"; echo "$$out"; exit 1; }

vet: ## go vet
	go vet ./...

staticcheck: ## staticcheck, at the version that go.mod names
	go tool staticcheck ./...

unit: ## unit, conformance and kernel tests of every package, with the race detector
	go test -race $$(go list ./... | grep -vE '^tweed/test(/e2e|/packaging)?$$')

fuzz: ## every fuzz target, FUZZTIME inputs (30000x) or long (10m) each
	FUZZTIME=$(FUZZTIME) test/fuzz.sh

vuln: ## govulncheck, where its database can be reached; a finding fails
	test/vuln.sh

cross: ## compile for every supported architecture
	@for a in $(ARCHES); do echo "GOARCH=$$a go build ./cmd/..."; GOARCH=$$a $(BUILD) -o /dev/null ./cmd/... || exit 1; done

integration: build ## the real binaries in network namespaces; packages; the guides' installation with systemd, etcd, docker
	go test -count=1 -timeout 20m -p 1 ./test ./test/packaging ./test/e2e

dist: ## tarballs, .deb and .rpm for ARCHES in dist/, the same bytes each time (VERSION=...)
	ARCHES='$(ARCHES)' packaging/dist.sh

image: ## the tree of the container image in dist/image/ (ARCH=..., VERSION=...)
	packaging/image.sh

clean: ## remove what build, dist and image made
	rm -rf bin dist
