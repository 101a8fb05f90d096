package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tweed/test/nstest"
)

// sh runs shell commands in the test's network namespace.
func sh(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin:/usr/bin:/bin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

const (
	usualHost   = "ip link add eth0 type veth peer name far; ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up; ip link set far up; ip route add default via 192.0.2.254; echo 1 > /proc/sys/net/ipv4/ip_forward\n"
	vxlanConfig = `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`
	udpConfig   = `{"Network":"10.5.0.0/16"}`
)

// checkHere runs all checks in a new namespace that the script has set up.
func checkHere(t *testing.T, script, config string, args ...string) []finding {
	t.Helper()
	nstest.Enter(t)
	sh(t, script)
	return checkAgain(t, config, args...)
}

// checkAgain runs all checks in the namespace of the test.
func checkAgain(t *testing.T, config string, args ...string) []finding {
	t.Helper()
	dir := t.TempDir()
	all := append([]string{"-subnet-file=" + filepath.Join(dir, "subnet.env"), "-state-dir=" + filepath.Join(dir, "state"), "-"}, args...)
	o, err := parseCheck(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &checker{opts: o, stdin: strings.NewReader(config), privileged: true}
	c.run(t.Context())
	return c.found
}

func TestCheckHost(t *testing.T) {
	for _, tt := range []struct {
		name, script, config string
		args                 []string
		check                string
		result               verdict
		words                []string
	}{
		{"default route", usualHost, vxlanConfig, nil, checkInterface, verdictOK, []string{"eth0 with address 192.0.2.1, MTU 1500, by the default route; publishes 192.0.2.1"}},
		{"vxlan MTU", usualHost, vxlanConfig, nil, checkMTU, verdictOK, []string{"1450 for pods"}},
		{"udp MTU", usualHost, udpConfig, nil, checkMTU, verdictOK, []string{"1472 for pods"}},
		{"host-gw MTU", usualHost, `{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`, nil, checkMTU, verdictOK, []string{"1500 for pods"}},
		{"vxlan kernel", usualHost, vxlanConfig, nil, checkKernel, verdictOK, []string{"vxlan devices work"}},
		{"udp kernel", usualHost, udpConfig, nil, checkKernel, verdictOK, []string{"tun devices work"}},
		{"forwarding", usualHost, vxlanConfig, nil, checkForward, verdictOK, nil},
		{"free port", usualHost, vxlanConfig, nil, checkPort, verdictOK, []string{"8472 is free"}},
		{"free udp port", usualHost, `{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":9999}}`, nil, checkPort, verdictOK, []string{"9999 is free"}},
		{"nothing in the way", usualHost, vxlanConfig, nil, checkOverlap, verdictOK, nil},
		{"iptables at rest", usualHost, vxlanConfig, nil, checkFirewall, verdictOK, []string{"nothing drops"}},

		{"no default route", "true", vxlanConfig, nil, checkInterface, verdictFailure, []string{"no IPv4 default route", "-iface"}},
		{"missed interface", usualHost, vxlanConfig, []string{"-iface=eth9", "-iface=eth0"}, checkInterface, verdictNote, []string{"-iface=eth9: no interface has this name"}},
		{"second choice", usualHost, vxlanConfig, []string{"-iface=eth9", "-iface-regex=^eth"}, checkInterface, verdictOK, []string{"by -iface-regex=^eth"}},
		{"interface down", "ip link add eth0 type veth peer name far; ip addr add 192.0.2.1/24 dev eth0", vxlanConfig, []string{"-iface=eth0"}, checkInterface, verdictWarning, []string{"is down"}},
		{"host-gw behind NAT", usualHost, `{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`, []string{"-public-ip=192.0.2.77"}, checkInterface, verdictFailure, []string{"192.0.2.77 is not the address 192.0.2.1"}},
		{"MTU too small", usualHost + "ip link set eth0 mtu 90", vxlanConfig, nil, checkMTU, verdictFailure, []string{"mtu 90: want 118 or more"}},

		{"no forwarding", usualHost + "echo 0 > /proc/sys/net/ipv4/ip_forward", vxlanConfig, nil, checkForward, verdictWarning, []string{"ip_forward is 0", "sysctl -w"}},
		{"strict source check", usualHost + "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter", vxlanConfig, nil, checkRPFilter, verdictNote, []string{"strict"}},
		{"strict on the device", usualHost + "ip link add flannel.1 type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472; echo 1 > /proc/sys/net/ipv4/conf/flannel.1/rp_filter", vxlanConfig, nil, checkRPFilter, verdictNote, []string{"flannel.1", "strict"}},
		{"loose source check", usualHost + "echo 2 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 1 > /proc/sys/net/ipv4/conf/default/rp_filter", vxlanConfig, nil, checkRPFilter, verdictOK, nil},

		{"own device has the port", usualHost + "ip link add flannel.1 type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472 nolearning; ip link set flannel.1 up", vxlanConfig, nil, checkPort, verdictOK, []string{"flannel.1 itself"}},
		{"own device fits", usualHost + "ip link add flannel.1 type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472 nolearning", vxlanConfig, nil, checkDevices, verdictOK, nil},
		{"own device does not fit", usualHost + "ip link add flannel.1 type vxlan id 1 dev eth0 local 192.0.2.2 dstport 8472 nolearning", vxlanConfig, nil, checkDevices, verdictNote, []string{"made anew", "192.0.2.2, not 192.0.2.1"}},
		{"another VNI on the port", usualHost + "ip link add vx7 type vxlan id 7 dev eth0 dstport 8472; ip link set vx7 up", vxlanConfig, nil, checkPort, verdictOK, []string{"shared with vx7"}},
		{"our VNI and port taken", usualHost + "ip link add vx1 type vxlan id 1 dev eth0 dstport 8472; ip link set vx1 up", vxlanConfig, nil, checkPort, verdictFailure, []string{"vx1 has VNI 1"}},
		{"other options on the port", usualHost + "ip link add vx7 type vxlan id 7 dev eth0 dstport 8472 gbp; ip link set vx7 up", vxlanConfig, nil, checkPort, verdictFailure, []string{"vx7", "gbp, not none"}},
		{"Cilium's device on the port", usualHost + "ip link add cilium_vxlan type vxlan external dstport 8472; ip link set cilium_vxlan up", vxlanConfig, nil, checkPort, verdictFailure, []string{"cilium_vxlan", "external, not none"}},
		{"zero checksums on the port", usualHost + "ip link add vx7 type vxlan id 7 dev eth0 dstport 8472 udp6zerocsumrx; ip link set vx7 up", vxlanConfig, nil, checkPort, verdictFailure, []string{"vx7", "udp6zerocsumrx, not none"}},
		{"left of another VNI", usualHost + "ip link add flannel.7 type vxlan id 7 dev eth0 dstport 9472", vxlanConfig, nil, checkDevices, verdictNote, []string{"ip link del flannel.7", "flannel.1"}},
		{"not a vxlan device", usualHost + "ip link add flannel.1 type bridge", vxlanConfig, nil, checkDevices, verdictFailure, []string{"kind bridge"}},
		{"TUN of the same network", usualHost + "ip tuntap add flannel0 mode tun; ip link set flannel0 alias 'flanneld udp 10.5.0.0/16 port 8285'", vxlanConfig, nil, checkDevices, verdictNote, []string{"flanneld removes it"}},
		{"TUN of another network", usualHost + "ip tuntap add flannel0 mode tun; ip link set flannel0 alias 'flanneld udp 10.9.0.0/16 port 8285'", udpConfig, nil, checkDevices, verdictNote, []string{"ip link del flannel0"}},
		{"TUN of ours", usualHost + "ip tuntap add flannel0 mode tun; ip link set flannel0 alias 'flanneld udp 10.5.0.0/16 port 8285'", udpConfig, nil, checkDevices, verdictOK, nil},

		{"FORWARD drops", usualHost + "iptables -P FORWARD DROP", vxlanConfig, nil, checkFirewall, verdictNote, []string{"ip filter FORWARD drops", "flanneld accepts"}},
		{"FORWARD drops, no rules", usualHost + "iptables -P FORWARD DROP", vxlanConfig, []string{"-iptables-forward-rules=false"}, checkFirewall, verdictWarning, []string{"ip filter FORWARD drops", "accept packets"}},
		{"a rule rejects first", usualHost + "iptables -A FORWARD -j REJECT", vxlanConfig, nil, checkFirewall, verdictFailure, []string{"-A FORWARD -j REJECT"}},
		{"a rule rejects last", usualHost + "iptables -A FORWARD -s 10.5.0.0/16 -j ACCEPT; iptables -A FORWARD -d 10.5.0.0/16 -j ACCEPT; iptables -A FORWARD -j REJECT", vxlanConfig, nil, checkFirewall, verdictOK, nil},
		{"a rule of DOCKER-USER drops", usualHost + "iptables -N DOCKER-USER; iptables -A DOCKER-USER -m comment --comment 'not yet' -j DROP; iptables -A FORWARD -j DOCKER-USER", vxlanConfig, nil, checkFirewall, verdictFailure, []string{"-A DOCKER-USER", "-j DROP"}},
		{"Docker 28", usualHost + "iptables -t raw -A PREROUTING -d 10.5.34.2/32 ! -i docker0 -j DROP", vxlanConfig, nil, checkFirewall, verdictFailure, []string{"10.5.34.2/32", "--allow-direct-routing", "28.2"}},
		{"firewalld", usualHost + "nft 'add table inet firewalld; add chain inet firewalld filter_FORWARD {type filter hook forward priority 10;}; add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited'", vxlanConfig, nil, checkFirewall, verdictWarning, []string{"inet firewalld filter_FORWARD"}},
		{"nftables drops besides", usualHost + "nft add table inet fw; nft add chain inet fw routed '{type filter hook forward priority 0; policy drop;}'", vxlanConfig, nil, checkFirewall, verdictWarning, []string{"inet fw routed", "10.5.0.0/16"}},

		{"interface in the network", "ip link add eth0 type veth peer name far; ip addr add 10.5.9.1/24 dev eth0; ip link set eth0 up; ip link set far up", vxlanConfig, []string{"-iface=eth0"}, checkOverlap, verdictFailure, []string{"10.5.9.1", "10.5.0.0/16"}},
		{"interface where nothing is leased", "ip link add eth0 type veth peer name far; ip addr add 10.5.9.1/24 dev eth0; ip link set eth0 up", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.128.0","Backend":{"Type":"vxlan"}}`, []string{"-iface=eth0"}, checkOverlap, verdictWarning, []string{"not between SubnetMin and SubnetMax"}},
		{"public address in the network", usualHost, vxlanConfig, []string{"-public-ip=10.5.9.9"}, checkOverlap, verdictFailure, []string{"the public address, 10.5.9.9"}},
		{"another interface in the network", usualHost + "ip link add br9 type bridge; ip addr add 10.5.9.1/24 dev br9", vxlanConfig, nil, checkOverlap, verdictWarning, []string{"10.5.9.1/24 of br9"}},
		{"route into the network", usualHost + "ip route add 10.5.9.0/24 via 192.0.2.3", vxlanConfig, nil, checkOverlap, verdictWarning, []string{"route to 10.5.9.0/24 by eth0"}},
		{"route around the network", usualHost + "ip route add 10.0.0.0/8 via 192.0.2.3", vxlanConfig, nil, checkOverlap, verdictNote, []string{"route to 10.0.0.0/8"}},
		{"routes of our own", usualHost + "ip route add 10.5.9.0/24 via 192.0.2.3 proto 84; ip link add flannel.1 type vxlan id 1 dev eth0 dstport 8472; ip addr add 10.5.8.0/32 dev flannel.1; ip link set flannel.1 up; ip route add 10.5.7.0/24 via 10.5.7.0 dev flannel.1 onlink", vxlanConfig, nil, checkOverlap, verdictOK, nil},
		{"etcd in the network", usualHost, vxlanConfig, []string{"-etcd-endpoints=http://10.5.9.9:1", "-timeout=200ms"}, checkOverlap, verdictFailure, []string{"endpoint 10.5.9.9:1"}},

		{"docker without lease", usualHost + "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0", vxlanConfig, nil, checkDocker, verdictNote, []string{"172.17.0.1/16", "no lease yet", "mk-docker-opts"}},
		{"docker without address", usualHost + "ip link add docker0 type bridge", vxlanConfig, nil, checkDocker, verdictNote, []string{"no IPv4 address"}},
		{"unprivileged health port", usualHost, vxlanConfig, []string{"-healthz-port=8080"}, checkHealthz, verdictOK, []string{"8080 is free"}},
		{"health port elsewhere", usualHost, vxlanConfig, []string{"-healthz-port=8080", "-healthz-ip=198.51.100.1"}, checkHealthz, verdictFailure, []string{"198.51.100.1:8080"}},
		{"health port by name", usualHost, vxlanConfig, []string{"-healthz-port=8080", "-healthz-ip=localhost"}, checkHealthz, verdictOK, []string{"8080 is free"}},
		{"health port everywhere", usualHost, vxlanConfig, []string{"-healthz-port=8080", "-healthz-ip="}, checkHealthz, verdictOK, []string{"8080 is free"}},
		{"TUN of a VXLAN", usualHost + "ip link add flannel.7 type vxlan id 7 dev eth0 dstport 9472", udpConfig, nil, checkDevices, verdictNote, []string{"wants flannel0, or the next"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := checkHere(t, tt.script, tt.config, tt.args...)
			wantFinding(t, found, tt.check, tt.result, tt.words...)
			if tt.result == verdictOK && tt.check != checkInterface {
				noFinding(t, found, tt.check, verdictNote, verdictWarning, verdictFailure, verdictSkipped)
			}
		})
	}
}

// TestCheckPortUser: the process that has the port is named, and flanneld itself
// is no failure.
func TestCheckPortUser(t *testing.T) {
	for _, tt := range []struct{ name, config, network, at, check string }{
		{"udp", udpConfig, "udp4", "192.0.2.1:8285", checkPort},
		{"vxlan", vxlanConfig, "udp4", "192.0.2.1:8472", checkPort},
		{"healthz", udpConfig, "tcp", ":8080", checkHealthz},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nstest.Enter(t)
			sh(t, usualHost)
			if tt.network == "tcp" {
				l, err := net.Listen(tt.network, tt.at)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			} else {
				p, err := net.ListenPacket(tt.network, tt.at)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
			}
			found := checkAgain(t, tt.config, "-healthz-port=8080")
			wantFinding(t, found, tt.check, verdictFailure, "is in use by tweed.test", fmt.Sprintf("pid %d", os.Getpid()))
		})
	}
}

// TestSocketInodes: of TCP only those that listen have the port.
func TestSocketInodes(t *testing.T) {
	const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 12 1
   2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1
   3: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 0 1
`
	dir := t.TempDir()
	for name, want := range map[string]string{"tcp": "[11]", "tcp6": "[11]", "udp": "[11 12]"} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(socketInodes(file, 8080)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestCheckUnknownModule: nothing is tried that might load one.
func TestCheckUnknownModule(t *testing.T) {
	c := &checker{privileged: true}
	c.tryDevice("no-such-module", "it", func() error { t.Error("a device was tried"); return nil })
	wantFinding(t, c.found, checkKernel, verdictSkipped, "no-such-module", "not known")
}

// TestCheckMounts hides /dev/net, and makes a folder read-only, in a mount
// namespace of the test's thread.
func TestCheckMounts(t *testing.T) {
	nstest.Enter(t)
	sh(t, usualHost)
	dir := t.TempDir()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	wantFinding(t, checkAgain(t, udpConfig, "-subnet-file="+dir+"/a/subnet.env"), checkSubnetFile, verdictFailure, "read-only file system")
	wantFinding(t, checkAgain(t, udpConfig), checkKernel, verdictFailure, "/dev/net/tun", "modprobe tun")
	wantFinding(t, checkAgain(t, vxlanConfig), checkKernel, verdictOK, "vxlan")
}

// TestCheckFiles has what earlier runs left, and folders that cannot be written.
func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const env = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
	good, foreign := write("good", fmt.Sprintf(env, "10.5.34.1/24")), write("foreign", fmt.Sprintf(env, "10.9.34.1/24"))
	garbage := write("garbage", "FLANNEL_SUBNET=x")
	plain := write("plain", "")
	docker := usualHost + "ip link add docker0 type bridge; ip addr add %s dev docker0"
	for _, tt := range []struct {
		name, script, file, state string
		check                     string
		result                    verdict
		words                     []string
	}{
		{"nothing", usualHost, dir + "/new/dir/subnet.env", dir + "/new/state", checkSubnetFile, verdictOK, []string{"no earlier run"}},
		{"remembered", usualHost, good, dir, checkSubnetFile, verdictOK, []string{"10.5.34.0/24", "asks for again"}},
		{"of another config", usualHost, foreign, dir, checkSubnetFile, verdictWarning, []string{"10.9.34.0/24", "restart docker"}},
		{"garbage", usualHost, garbage, dir, checkSubnetFile, verdictNote, []string{`FLANNEL_SUBNET "x"`}},
		{"folder", usualHost, dir, dir, checkSubnetFile, verdictFailure, []string{"-subnet-file", "is a folder"}},
		{"below a file", usualHost, plain + "/x", dir, checkSubnetFile, verdictFailure, []string{"-subnet-file"}},
		{"cannot be made", usualHost, plain + "/x/subnet.env", dir, checkSubnetFile, verdictFailure, []string{"-subnet-file"}},
		{"state cannot be made", usualHost, good, plain, checkSubnetFile, verdictWarning, []string{"-state-dir"}},
		{"docker fits", fmt.Sprintf(docker, "10.5.34.1/24"), good, dir, checkDocker, verdictOK, []string{"10.5.34.1/24", "the subnet file"}},
		{"docker does not fit", fmt.Sprintf(docker, "172.17.0.1/16"), good, dir, checkDocker, verdictFailure, []string{"172.17.0.1/16", "10.5.34.0/24", "restart docker"}},
		{"cni0 besides docker", fmt.Sprintf(docker, "172.17.0.1/16") + "; ip link add cni0 type bridge; ip addr add 10.5.34.1/24 dev cni0", good, dir, checkDocker, verdictWarning, []string{"docker0 has 172.17.0.1/16, and cni0 has 10.5.34.0/24"}},
		{"docker of a smaller subnet", fmt.Sprintf(docker, "10.5.34.1/26"), good, dir, checkDocker, verdictFailure, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := checkHere(t, tt.script, vxlanConfig, "-subnet-file="+tt.file, "-state-dir="+tt.state)
			wantFinding(t, found, tt.check, tt.result, tt.words...)
		})
	}
	if left, err := filepath.Glob(dir + "/*"); err != nil || len(left) != 4 {
		t.Errorf("the folder has %q, %v: want nothing made", left, err)
	}
}
