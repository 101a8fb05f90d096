package test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"tweed/subnet"
)

// TestGolden compares the bytes of the lease record and of subnet.env, which
// other programs read, for each backend.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		backend string // the Backend object
		value   string // %s is the MAC of flannel.1
		mtu     int
		args    []string
		masq    bool
	}{
		{``, `{"PublicIP":"20.0.0.2"}`, 1472, nil, false},
		{`,"Backend":{"Type":"udp"}`, `{"PublicIP":"20.0.0.2"}`, 1472, nil, false},
		{`,"Backend":{"Type":"alloc"}`, `{"PublicIP":"20.0.0.2"}`, 1500, nil, false},
		{`,"Backend":{"Type":"host-gw"}`, `{"PublicIP":"20.0.0.2","BackendType":"host-gw"}`, 1500, []string{"-ip-masq"}, true},
		{`,"Backend":{"Type":"VXLAN"}`, `{"PublicIP":"20.0.0.2","BackendType":"vxlan","BackendData":{"VtepMAC":"%s"}}`, 1450, nil, false},
		{`,"backend":{"type":"alloc"}`, `{"PublicIP":"192.0.2.7"}`, 1500, []string{"-public-ip=192.0.2.7"}, false},
	} {
		t.Run(tt.backend, func(t *testing.T) {
			c := newCluster(t, `{"Network":"10.5.0.0/16"`+tt.backend+`}`, 1, tt.args...)
			n := c.nodes[0]

			want := tt.value
			if l, err := n.NS.Link("flannel.1"); err == nil {
				want = fmt.Sprintf(tt.value, l.Attrs().HardwareAddr)
			}
			r := n.lease()
			if r.Value != want {
				t.Errorf("lease record %s, want %s", r.Value, want)
			}
			if r.TTL > 24*time.Hour || r.TTL < 24*time.Hour-time.Minute {
				t.Errorf("the lease has %s to live, want 24 h", r.TTL)
			}
			if got, want := c.subnets(), subnet.Key(n.env.Subnet); len(got) != 1 || got[0] != want {
				t.Errorf("keys %q, want %q alone", got, want)
			}
			wantEnvFile(t, n, fmt.Sprintf("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=%s/24\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n",
				n.gateway(), tt.mtu, tt.masq))
		})
	}
}

func wantEnvFile(t *testing.T, n *node, want string) {
	t.Helper()
	b, err := os.ReadFile(n.Path("subnet.env"))
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != want {
		t.Errorf("subnet.env is %q, want %q", b, want)
	}
	info, err := os.Stat(n.Path("subnet.env"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o644 {
		t.Errorf("subnet.env has mode %o, want 644", info.Mode())
	}
	// Nothing temporary is left beside it, and the private file is private.
	state, err := os.Stat(n.stateFile())
	if err != nil {
		t.Fatal(err)
	}
	if state.Mode() != 0o600 {
		t.Errorf("the state file has mode %o, want 600", state.Mode())
	}
}
