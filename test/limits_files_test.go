package test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tweed/subnet"
	"tweed/test/lab"
	"tweed/test/nstest"
)

// launchIn starts the daemon in a mount namespace of its own, which a shell has
// prepared. What is mounted there is seen by this daemon alone, and gone with it.
func (n *node) launchIn(setUp string, args ...string) {
	n.c.t.Helper()
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		nstest.Missing(n.c.t, "unshare")
	}
	command := []string{"--mount", "--propagation", "private", "sh", "-euc", setUp + "\nexec \"$0\" \"$@\"", binary(n.c.t, "flanneld"), "-etcd-endpoints=http://" + etcdAddr}
	n.daemon, err = n.Start(n.c.ctx, lab.Command{
		Name: "flanneld",
		Path: unshare,
		Args: slices.Concat(command, n.fileArgs(args...)),
		Env:  []string{"DIR=" + n.Path()},
	})
	n.c.must(err)
}

// inside names a file as the daemon sees it.
func (n *node) inside(path string) string {
	return filepath.Join("/proc", strconv.Itoa(n.daemon.PID), "root", path)
}

// TestDiskFull has no room left for subnet.env, or for the state file: the daemon
// works all the same, says which file it is, leaves no half of it, and makes up
// for it when there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	const fill = `
mkdir -p $DIR/small
mount -t tmpfs -o size=16k tmpfs $DIR/small
head -c 16384 /dev/zero >$DIR/small/fill || :
`
	c := newCluster(t, config(`"vxlan"`), 1)
	other := c.nodes[0]
	c.step("subnet file", func() {
		n := c.addHost()
		file := n.Path("small", "subnet.env")
		n.launchIn(fill, "-subnet-file="+file, readyArgs)
		n.wantLog("Couldn't write the subnet file, trying again err=")
		n.wantLog("Running backend.")
		wantTexts(c.t, n.output(), file, "no space left on device")
		n.awaitReady(503, "subnet file: ", file, "no space left on device")
		other.wantPeers(1)
		if n.toldReady() {
			c.t.Error("systemd was told that it is ready, without a subnet file")
		}
		n.wantFiles(n.inside(n.Path("small")), "fill")

		c.must(os.Remove(n.inside(n.Path("small", "fill"))))
		c.must(n.daemon.WaitReady(c.ctx))
		env, err := lab.ReadSubnetEnv(n.inside(file))
		c.must(err)
		n.env = env
		n.lease()
		n.awaitReady(200)
		n.wantFiles(n.inside(n.Path("small")), "subnet.env")
		n.addPod()
		c.wantPing(n.pod.NS, other.pod.Addr)
		n.stop()
	})
	c.step("state file", func() {
		n := c.addHost()
		n.launchIn(fill, "-state-dir="+n.Path("small"), readyArgs)
		n.wantLog("Couldn't remember the subnet for the next start, only the subnet file has it err=")
		wantTexts(c.t, n.output(), n.Path("small"), "no space left on device")
		c.must(n.daemon.WaitReady(c.ctx))
		n.awaitReady(200)
		n.wantFiles(n.inside(n.Path("small")), "fill")
		n.stop()
	})
	c.step("no inode", func() { // where not even a folder can be made
		n := c.addHost()
		n.launchIn("mkdir $DIR/small; mount -t tmpfs -o nr_inodes=1 tmpfs $DIR/small",
			"-subnet-file="+n.Path("small", "flannel", "subnet.env"), "-state-dir="+n.Path("small", "state"), readyArgs)
		n.wantLog("Couldn't remember the subnet", "Couldn't write the subnet file, trying again err=")
		n.wantLog("Running backend.")
		wantTexts(c.t, n.output(), n.Path("small", "flannel"), n.Path("small", "state"), "no space left on device")
		n.awaitReady(503, "subnet file: ")
		n.stop()
	})
}

// wantFiles checks what there is in a directory.
func (n *node) wantFiles(dir string, want ...string) {
	n.c.t.Helper()
	entries, err := os.ReadDir(dir)
	n.c.must(err)
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if !slices.Equal(have, want) {
		n.c.t.Errorf("%s: files %v, want %v", dir, have, want)
	}
}

// TestReadOnly has file systems that cannot be written. Without subnet.env nobody
// learns the subnet, but pods that are there already are carried.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	const readOnly = `
mkdir -p $DIR/fixed
mount -t tmpfs tmpfs $DIR/fixed
echo old >$DIR/fixed/subnet.env
mount -o remount,ro $DIR/fixed
`
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			c := newCluster(t, config(`"`+backend+`"`), 1)
			n := c.addHost()
			file := n.Path("fixed", "subnet.env")
			n.launchIn(readOnly, "-subnet-file="+file, "-state-dir="+n.Path("fixed", "state"), readyArgs)
			n.wantLog("Couldn't remember the subnet", "Couldn't write the subnet file, trying again err=")
			n.wantLog("Running backend.")
			wantTexts(t, n.output(), n.Path("fixed", "state"), file, "read-only file system")
			n.awaitReady(503, "subnet file: ", "read-only file system")
			if b, err := os.ReadFile(n.inside(file)); err != nil || string(b) != "old\n" {
				t.Errorf("the file has %q, %v", b, err)
			}
			// The network is there for all who know the subnet.
			n.env = c.nodes[0].env
			n.env.Subnet = n.leased()
			n.addPod()
			c.wantPing(n.pod.NS, c.nodes[0].pod.Addr)
			n.stop()

			// The kernel's variables are for the operator: nothing depends on them.
			n.launchIn("mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys", "-ip-masq", readyArgs)
			n.awaitReady(200)
			c.wantPing(c.nodes[0].pod.NS, n.pod.Addr)
			n.stop()
		})
	}
}

// leased is the subnet of the lease of the node's address.
func (n *node) leased() (sn netip.Prefix) {
	n.c.t.Helper()
	n.c.eventually("a lease of "+n.Name, func() error {
		records, err := n.c.Leases(n.c.ctx, lab.DefaultPrefix)
		if err != nil {
			return err
		}
		for _, r := range records {
			if strings.Contains(r.Value, `"PublicIP":"`+n.Addr.String()+`"`) {
				key := strings.TrimPrefix(r.Key, subnetsKey)
				sn, err = subnet.ParseKey(key)
				return err
			}
		}
		return fmt.Errorf("it is not among %v", n.c.subnets())
	})
	return sn
}

// TestNoTunDevice: without /dev/net/tun, as in a container, the udp backend says
// so, and no lease stays.
func TestNoTunDevice(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"udp"`), 0)
	n := c.addHost()
	n.start()
	n.stop()
	n.forget() // that of a first start: what follows must not make another
	n.run("ip link del flannel0")
	for setUp, text := range map[string]string{
		"mount -t tmpfs tmpfs /dev/net":                                       "no such file or directory",
		"mount -t tmpfs tmpfs /dev/net; mknod /dev/net/tun c 10 199":          "no such device",
		"mount -t tmpfs -o nodev tmpfs /dev/net; mknod /dev/net/tun c 10 200": "permission denied",
	} {
		n.launchIn(setUp)
		wantTexts(t, n.wantExit(1), "udp: open tun flannel%d: open /dev/net/tun: "+text+" (want ", "/dev/net/tun")
		if got := c.subnets(); got != nil {
			t.Errorf("it left leases behind: %v", got)
		}
	}
	n.start()
}

// TestVXLANPortTaken: another program has the port 8472, or another device has the
// VNI. The daemon says so and leaves neither a device nor a lease.
func TestVXLANPortTaken(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	n := c.addHost()
	before := n.kernel()
	other, err := n.NS.ListenPacket(c.ctx, netip.MustParseAddrPort("0.0.0.0:8472"))
	c.must(err)
	n.wantExit1(nil, "flannel.1", "address already in use", "UDP port 8472", "taken by another program")
	same(t, "kernel", before, n.kernel())
	c.must(other.Close())

	n.run("ip link add vx7 type vxlan id 1 dev eth0 dstport 8472")
	before = n.kernel()
	n.wantExit1(nil, "flannel.1", "vx7 has the same VNI 1 and UDP port; remove it, or choose another VNI or Port")
	same(t, "kernel", before, n.kernel())
	n.run("ip link del vx7")

	n.launch(readyArgs)
	n.awaitReady(200)
}
