package main

import (
	"cmp"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// fakeEnv makes the test binary a fake flanneld that does, without etcd, what
// host-gw does: the address 20.0.0.N gets the subnet 10.5.N.0/24, and those of
// fakeNetworks for `tweed bench`. Its value may ask for a fault. With the
// argument "demo" or "bench" it is tweed itself.
const fakeEnv = "TWEED_DEMO_FAKE"

func TestMain(m *testing.M) {
	fault := os.Getenv(fakeEnv)
	if fault != "" && len(os.Args) > 1 && (os.Args[1] == "demo" || os.Args[1] == "bench") {
		main()
	}
	if fault != "" {
		if err := fakeFlanneld(fault); err != nil {
			fmt.Fprintln(os.Stderr, "fake:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// fakeNetworks are the second bytes of the networks, by etcd prefix.
var fakeNetworks = map[string]byte{"/bench/udp": 6, "/bench/udp-plain": 7}

func fakeFlanneld(fault string) error {
	fs := flag.NewFlagSet("fake", flag.ContinueOnError)
	fs.String("etcd-endpoints", "", "")
	file := fs.String("subnet-file", "", "")
	fs.String("state-dir", "", "")
	prefix := fs.String("etcd-prefix", "", "")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return err
	}
	network := cmp.Or(fakeNetworks[*prefix], 5)
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	addrs, err := netlink.AddrList(eth0, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	own := addrs[0].IP.To4()
	if fault == "crash" && own[3] == 3 {
		return fmt.Errorf("crash as told")
	}
	for n := byte(2); n < 5 && fault != "unrouted"; n++ {
		if n == own[3] {
			continue
		}
		gw := net.IPv4(own[0], own[1], own[2], n)
		dst := &net.IPNet{IP: net.IPv4(10, network, n, 0), Mask: net.CIDRMask(24, 32)}
		if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: gw}); err != nil {
			return fmt.Errorf("route to %s: %w", dst, err)
		}
	}
	text := fmt.Sprintf("FLANNEL_NETWORK=10.%[1]d.0.0/16\nFLANNEL_SUBNET=10.%[1]d.%[2]d.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n", network, own[3])
	if err := os.WriteFile(*file, []byte(text), 0o644); err != nil {
		return err
	}
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	fmt.Fprint(c, "READY=1")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return nil
}

func TestCommands(t *testing.T) {
	for _, tc := range []struct {
		args   string
		status int
		stdout string // contained
		stderr string // contained
	}{
		{"", exitUsage, "", "Usage:"},
		{"help", exitOK, "Usage:", ""},
		{"-h", exitOK, "Usage:", ""},
		{"--help", exitOK, "Usage:", ""},
		{"help demo", exitOK, "-underlay CIDR", ""},
		{"help nothing", exitUsage, "", `"nothing"`},
		{"help bench", exitOK, "-variants LIST", ""},
		{"help demo demo", exitUsage, "", `"demo demo"`},
		{"version", exitOK, versionText() + "\n", ""},
		{"dmeo", exitUsage, "", `unknown command "dmeo": want check, demo`},
		{"-backend vxlan", exitUsage, "", `unknown command "-backend"`},
		{"demo -h", exitOK, "Examples:", ""},
		{"demo -help", exitOK, "Examples:", ""},
		{"demo vxlan", exitUsage, "", `argument "vxlan": want flags only`},
		{"demo -backnd=udp", exitUsage, "", "-backnd"},
		{"demo -backend", exitUsage, "", "-backend"},
		{"demo -backend=ipip", exitUsage, "", `-backend "ipip": want vxlan, udp, host-gw`},
		{"demo -nodes=1", exitUsage, "", "-nodes 1: want 2 to 20"},
		{"demo -nodes=21", exitUsage, "", "-nodes 21"},
		{"demo -nodes=x", exitUsage, "", `"x"`},
		{"demo -nodes=-3", exitUsage, "", "-nodes -3"},
		{"demo -duration=1", exitUsage, "", "-duration"},
		{"demo -duration=1ms", exitUsage, "", "-duration 1ms: want 100ms to 60s"},
		{"demo -duration=1h", exitUsage, "", "-duration 1h0m0s"},
		{"demo -underlay=20.0.0.0", exitUsage, "", `-underlay "20.0.0.0": want an IPv4 network`},
		{"demo -underlay=20.0.0.1/24", exitUsage, "", "want 20.0.0.0/24"},
		{"demo -underlay=fd00::/64", exitUsage, "", "want an IPv4 network"},
		{"demo -underlay=127.0.0.0/8", exitUsage, "", "want an IPv4 network"},
		{"demo -underlay=224.0.0.0/8", exitUsage, "", "want an IPv4 network"},
		{"demo -underlay=20.0.0.0/30", exitUsage, "", "length 8 to 29"},
		{"demo -underlay=20.0.0.0/29 -nodes=6", exitUsage, "", "room for 5 hosts"},
		{"demo -keep=maybe", exitUsage, "", "-keep"},
	} {
		var stdout, stderr strings.Builder
		status := run(t.Context(), strings.Fields(tc.args), &stdout, &stderr)
		if status != tc.status || !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
			t.Errorf("tweed %s: status %d, stdout %q, stderr %q; want %d, %q, %q", tc.args, status, stdout.String(), stderr.String(), tc.status, tc.stdout, tc.stderr)
		}
		if (tc.stdout == "") != (stdout.Len() == 0) || (tc.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("tweed %s: text on the wrong stream: stdout %q, stderr %q", tc.args, stdout.String(), stderr.String())
		}
	}
}

func TestDemoDefaults(t *testing.T) {
	for args, want := range map[string]string{
		"":                     "[vxlan udp host-gw] 3 20.0.0.0/24 2s",
		"-keep":                "[vxlan] 3 20.0.0.0/24 2s",
		"-keep -backend=udp":   "[udp] 3 20.0.0.0/24 2s",
		"-nodes 20":            "[vxlan udp host-gw] 20 20.0.0.0/24 2s",
		"-underlay 10.9.0.0/8": "",
		"-underlay 10.0.0.0/8": "[vxlan udp host-gw] 3 10.0.0.0/8 2s",
	} {
		o, err := parseDemo(strings.Fields(args))
		if want == "" {
			if err == nil {
				t.Errorf("%q: no error", args)
			}
			continue
		}
		if got := fmt.Sprint(o.backends, o.nodes, o.underlay, o.duration); err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", args, got, err, want)
		}
	}
}

func TestFindFlanneld(t *testing.T) {
	plain := t.TempDir() + "/plain"
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/no/such/flanneld": "make build",
		"":                  "make build", // none beside the test binary
		t.TempDir():         "not a program",
		plain:               "not a program",
		"/bin/sh":           "",
	} {
		_, err := findFlanneld(path)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("-flanneld %q: %v, want %q", path, err, want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	got := commandLine([]string{"bin/tweed", "demo", "-flanneld=/a b/it's", "", "20.0.0.0/24"})
	if want := `bin/tweed demo '-flanneld=/a b/it'\''s' '' 20.0.0.0/24`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestNetworks: the overlay of the demo never overlaps its underlay.
func TestNetworks(t *testing.T) {
	for _, underlay := range []string{"20.0.0.0/24", "10.5.0.0/16", "10.0.0.0/8", "10.5.7.0/29", "172.17.0.0/24"} {
		u := netip.MustParsePrefix(underlay)
		d := &demonstration{opts: demoOptions{underlay: u}, backend: "udp"}
		config, network, err := d.config()
		if err != nil || network.Overlaps(u) || binary.Size(config) == 0 {
			t.Errorf("underlay %s: %s, %v", u, config, err)
		}
	}
}
