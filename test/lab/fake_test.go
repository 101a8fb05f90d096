package lab

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"tweed/subnet"
)

// fakeEnv makes the test binary a fake flanneld: it takes the same flags, says
// what it is told, and reports itself ready.
const fakeEnv = "TWEED_LAB_FAKE"

func TestMain(m *testing.M) {
	if os.Getenv(fakeEnv) != "" {
		os.Exit(fake())
	}
	os.Exit(m.Run())
}

func fake() int {
	fs := flag.NewFlagSet("fake", flag.ContinueOnError)
	endpoints := fs.String("etcd-endpoints", "", "")
	file := fs.String("subnet-file", "", "")
	fs.String("state-dir", "", "")
	mode := fs.String("mode", "", "exit, mute, or stubborn")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return 1
	}
	fmt.Fprintln(os.Stderr, "endpoints", *endpoints)
	if *mode == "exit" {
		fmt.Fprint(os.Stderr, "no reason given") // and no newline
		return 3
	}
	stop := make(chan os.Signal, 1)
	if *mode == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(stop, syscall.SIGTERM)
	}
	os.WriteFile(*file, []byte("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"), 0o644)
	if *mode != "mute" {
		c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Fprint(c, "STATUS=fine\nREADY=1")
		fmt.Fprintln(os.Stderr, "said READY")
	}
	<-stop
	fmt.Fprintln(os.Stderr, "Exiting cleanly...")
	return 0
}

func itoa(i int) string { return strconv.Itoa(i) }

func addPod(t *testing.T, h *Host, e subnet.Env) *Pod {
	t.Helper()
	p, err := h.AddPod(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func addRoute(t *testing.T, h *Host, dst string, via netip.Addr) {
	t.Helper()
	err := h.NS.Netlink(func(nl *netlink.Handle) error {
		return nl.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(dst)), Gw: via.AsSlice()})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func threadNS(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return ns
}

// hostNetwork describes links, addresses and routes of the test's namespace.
func hostNetwork(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, args := range [][]string{{"-o", "addr"}, {"route", "show", "table", "all"}} {
		out, err := exec.Command("ip", args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			line, _, _ = strings.Cut(line, "valid_lft") // it counts down
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	return b.String()
}
