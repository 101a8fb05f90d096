package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// who is a CGI program that tells who asks.
const who = `#!/bin/sh
echo "Content-Type: text/plain"
echo
echo "$REMOTE_ADDR"
`

// busyboxTar is the file system of an image with nothing but the static busybox
// of the distribution, and a page for its httpd.
func busyboxTar(t *testing.T) io.Reader {
	t.Helper()
	busybox, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "www/", "www/cgi-bin/", "tmp/", "etc/", "proc/", "sys/", "dev/"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, "")
	}
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, string(busybox))
	for _, name := range []string{"sh", "ping", "wget", "httpd", "ip", "cat", "sleep"} {
		add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, "")
	}
	add(tar.Header{Name: "www/cgi-bin/who", Mode: 0o755}, who)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

// A container runs on a node.
type container struct {
	n    *node
	name string
	addr netip.Addr
	pid  int // of its process 1, as the node numbers it
}

// web starts a container with a web server on port 80, published as port 8080.
func (n *node) web() *container {
	n.s.t.Helper()
	n.run("docker", "run", "-d", "--name=web", "-p", "8080:80", "busybox:local", "/bin/httpd", "-f", "-p", "80", "-h", "/www")
	return n.inspect("web")
}

// inspect finds a container that runs.
func (n *node) inspect(name string) *container {
	n.s.t.Helper()
	out := n.run("docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}} {{.State.Pid}}", name)
	c := &container{n: n, name: name}
	var ip string
	if _, err := fmt.Sscan(out, &ip, &c.pid); err != nil {
		n.s.t.Fatalf("docker inspect: %q: %v", out, err)
	}
	var err error
	c.addr, err = netip.ParseAddr(ip)
	n.s.must(err)
	return c
}

// exec runs a program in the container.
func (c *container) exec(args ...string) (string, error) {
	return c.n.Run(c.n.s.ctx, "docker", append([]string{"exec", c.name}, args...)...)
}

// wantPing waits for answers to pings.
func (c *container) wantPing(to netip.Addr) {
	c.n.s.t.Helper()
	c.n.s.eventually(fmt.Sprintf("answers to pings of %s from %s on %s", to, c.name, c.n.Name), func() error {
		_, err := c.exec("/bin/ping", "-c", "2", "-i", "0.1", "-W", "1", to.String())
		return err
	})
}

// get fetches a page by HTTP. (The distribution's wget crashes with -T.)
func (c *container) get(url string) (string, error) {
	return c.exec("/bin/wget", "-q", "-O", "-", url)
}

// pings are sent all the time from the container's network namespace.
type pings struct {
	c      *container
	to     netip.Addr
	cmd    *exec.Cmd
	cancel context.CancelFunc
	out    bytes.Buffer
}

// pingInterval is the time between two of them, in seconds.
const pingInterval = 0.01

// startPings begins to ping at that pace.
func (c *container) startPings(to netip.Addr) *pings {
	c.n.s.t.Helper()
	p := &pings{c: c, to: to}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(c.n.s.ctx)
	ns := c.n.Root("proc", strconv.Itoa(c.pid), "ns", "net")
	p.cmd = exec.CommandContext(ctx, "nsenter", "--net="+ns, "busybox", "ping", "-i", fmt.Sprint(pingInterval), "-W", "1", to.String())
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	c.n.s.must(p.cmd.Start())
	return p
}

var pingResult = regexp.MustCompile(`(\d+) packets transmitted, (\d+) packets received`)

// stop returns how many were sent and how many answered. The last one may
// still have been on its way.
func (p *pings) stop() (sent, lost int) {
	p.c.n.s.t.Helper()
	defer p.cancel()
	p.c.n.s.must(p.cmd.Process.Signal(syscall.SIGINT))
	p.cmd.Wait() // status 1 if nothing was answered
	m := pingResult.FindStringSubmatch(p.out.String())
	if m == nil {
		text := p.out.String()
		p.c.n.s.t.Fatalf("ping of %s: %s", p.to, text[max(0, len(text)-500):])
	}
	sent, _ = strconv.Atoi(m[1])
	received, _ := strconv.Atoi(m[2])
	if lost = sent - received; lost == 1 && !strings.Contains(p.out.String(), fmt.Sprintf("seq=%d ", sent-1)) {
		lost = 0 // the last one
	}
	return sent, lost
}
