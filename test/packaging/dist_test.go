package packaging

import (
	"archive/tar"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	version = "v0.4.0-3-gabc1234"
	epoch   = 1700000000
)

// machines are what the tests build for, and how ELF, dpkg and rpm call it.
var machines = map[string]struct {
	elf      elf.Machine
	deb, rpm string
}{
	"amd64": {elf.EM_X86_64, "amd64", "x86_64"},
	"arm64": {elf.EM_AARCH64, "arm64", "aarch64"},
}

// arches are this machine's and a foreign one.
func arches() []string {
	if runtime.GOARCH == "arm64" {
		return []string{"arm64", "amd64"}
	}
	return []string{"amd64", "arm64"}
}

func debFile(arch string) string {
	return "tweed_0.4.0+3.gabc1234-1_" + machines[arch].deb + ".deb"
}

func rpmFile(arch string) string {
	return "tweed-0.4.0+3.gabc1234-1." + machines[arch].rpm + ".rpm"
}

func tarFile(arch string) string { return "tweed-" + version + "-linux-" + arch + ".tar.gz" }

// TestDist makes everything from copies of the sources in two folders with other
// names, times, umasks and settings of Go, and looks at what came out. To save
// time, only the programs are made a second time for the foreign architecture.
func TestDist(t *testing.T) {
	need(t, "dpkg-deb", "gzip", "sha256sum", "tar")
	src := [2]string{copySources(t, t.TempDir()), copySources(t, filepath.Join(t.TempDir(), "elsewhere"))}
	var wg sync.WaitGroup
	own, foreign := arches()[0], arches()[1]
	for i, script := range []string{
		"umask 077; ARCHES='" + own + " " + foreign + "' packaging/dist.sh",
		"umask 000; ARCHES=" + own + " packaging/dist.sh && ARCH=" + foreign + " packaging/image.sh",
	} {
		wg.Go(func() {
			env := []string{"VERSION=" + version, fmt.Sprint("SOURCE_DATE_EPOCH=", epoch)}
			if i == 1 {
				env = append(env, "GOAMD64=v3", "GOARM64=v9.0", "GOFLAGS=-tags=other -p=2", "GOEXPERIMENT=arenas",
					"GOFIPS140=latest", "GOWORK=/nonexistent/go.work", "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8")
			}
			out, code := command{src[i], env}.run(t, "sh", "-c", script)
			if code != 0 {
				t.Errorf("dist.sh in %s: exit status %d:\n%s", src[i], code, out)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	dist := filepath.Join(src[0], "dist")

	t.Run("reproducible", func(t *testing.T) {
		files := func(arch string) []string { return []string{debFile(arch), rpmFile(arch), tarFile(arch)} }
		wantFiles(t, dist, append(slices.Concat(files(own), files(foreign)), "SHA256SUMS"))
		wantFiles(t, filepath.Join(src[1], "dist"), append(files(own), "SHA256SUMS", "image"))
		first := wantSums(t, dist)
		for line := range strings.Lines(wantSums(t, filepath.Join(src[1], "dist"))) {
			if !strings.Contains(first, line) {
				t.Errorf("the second build made %sthe first\n%s", line, first)
			}
		}
		for _, program := range []string{"flanneld", "mk-docker-opts.sh"} {
			packed := command{}.must(t, "tar", "-xzOf", filepath.Join(dist, tarFile(foreign)), program)
			if packed != read(t, filepath.Join(src[1], "dist/image", foreign, "opt/bin", program)) {
				t.Errorf("%s for %s differs between the two builds", program, foreign)
			}
		}
	})
	for _, arch := range arches() {
		t.Run("tarball "+arch, func(t *testing.T) { testTarball(t, filepath.Join(dist, tarFile(arch)), arch) })
	}
	deb, rpm := nextVersion(t, src[0])
	t.Run("deb", func(t *testing.T) { testDeb(t, filepath.Join(dist, debFile(arches()[0])), deb) })
	t.Run("rpm", func(t *testing.T) { testRPM(t, filepath.Join(dist, rpmFile(arches()[0])), rpm) })
	t.Run("image", func(t *testing.T) { testImage(t, src[0]) })
}

// wantSums checks SHA256SUMS, which must name all other files in dir, and
// returns it.
func wantSums(t *testing.T, dir string) string {
	t.Helper()
	var want strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "SHA256SUMS" || e.IsDir() {
			continue
		}
		fmt.Fprintf(&want, "%x  %s\n", sha256.Sum256([]byte(read(t, filepath.Join(dir, e.Name())))), e.Name())
	}
	sums := read(t, filepath.Join(dir, "SHA256SUMS"))
	wantEqual(t, "SHA256SUMS", sums, want.String())
	return sums
}

func wantFiles(t *testing.T, dir string, want []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s has\n%q, want\n%q", dir, got, want)
	}
}

func testTarball(t *testing.T, path, arch string) {
	// By the program: Go's gzip takes 8 s with the race detector.
	z := strings.NewReader(command{}.must(t, "gzip", "-dc", path))
	var list []string
	dir := t.TempDir()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s %o", h.Name, h.Mode))
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != epoch {
			t.Errorf("%s: owner %d:%d, time %s, want 0:0 and %s", h.Name, h.Uid, h.Gid, h.ModTime, time.Unix(epoch, 0))
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, filepath.Base(h.Name)), string(b), 0o755)
	}
	want := []string{
		"LICENSE 644", "README.md 644", "docker-flannel.conf 644", "flanneld 755", "flanneld.default 600", "flanneld.service 644",
		"mk-docker-opts.sh 755", "tweed 755",
	}
	slices.Sort(list)
	if !slices.Equal(list, want) {
		t.Errorf("the tarball has %q, want %q", list, want)
	}
	for _, program := range []string{"flanneld", "mk-docker-opts.sh", "tweed"} {
		wantStatic(t, filepath.Join(dir, program), arch)
	}
	if arch != runtime.GOARCH {
		return
	}
	out, _ := command{}.run(t, filepath.Join(dir, "flanneld"), "-version")
	wantEqual(t, "flanneld -version", out, version+"\n")
	out = command{}.must(t, filepath.Join(dir, "mk-docker-opts.sh"), "-f", "/nonexistent/subnet.env", "-c", "-d", "-")
	if !strings.Contains(out, `DOCKER_OPTS=""`) {
		t.Errorf("mk-docker-opts.sh -c -d - prints %q", out)
	}
}

// wantStatic checks that a program runs on any distribution: no interpreter, no
// shared library.
func wantStatic(t *testing.T, path, arch string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	defer f.Close()
	if f.Machine != machines[arch].elf {
		t.Errorf("%s is for %s, want %s", path, f.Machine, machines[arch].elf)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s has %s: not static", path, p.Type)
		}
	}
}

// testImage makes the image's tree and checks it against the Dockerfile.
func testImage(t *testing.T, src string) {
	env := []string{"VERSION=" + version, "ARCH=" + arches()[0]}
	command{src, env}.must(t, "packaging/image.sh")
	tree := filepath.Join(src, "dist/image", arches()[0])
	wantFiles(t, filepath.Join(src, "dist/image"), []string{arches()[0]})
	wantFiles(t, tree, []string{"LICENSE", "opt"})
	wantFiles(t, filepath.Join(tree, "opt/bin"), []string{"flanneld", "mk-docker-opts.sh"})
	for _, program := range []string{"flanneld", "mk-docker-opts.sh"} {
		path := filepath.Join(tree, "opt/bin", program)
		wantStatic(t, path, arches()[0])
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o755 {
			t.Errorf("%s: mode %v, %v, want 0755", path, info.Mode(), err)
		}
	}
	if f := read(t, filepath.Join(src, "packaging/Dockerfile")); !strings.HasSuffix(f, "FROM scratch\nCOPY . /\nENTRYPOINT [\"/opt/bin/flanneld\"]\n") {
		t.Errorf("the Dockerfile does not end as its tree needs:\n%s", f)
	}
}
