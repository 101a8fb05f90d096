package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"tweed/test/lab"
)

func sampleResult() result {
	r := result{
		Backend: "vxlan",
		Config:  json.RawMessage(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`),
		Leases: []leaseResult{
			{Key: "/coreos.com/network/subnets/10.5.40.0-24", Value: json.RawMessage(`{"PublicIP":"20.0.0.2"}`), TTL: 86399},
			{Key: "/coreos.com/network/subnets/10.5.9.0-24", Value: json.RawMessage(`{"PublicIP":"20.0.0.3"}`)},
		},
		Pings: []pingResult{
			{From: "n1", To: "n2", Millis: 0.094, TTL: 62},
			{From: "n2", To: "n1", Error: "no reply"},
		},
		Throughput: &throughputResult{From: "n1", To: "n2", BitsPerSecond: 8.63e9, Seconds: 2},
		Seconds:    2.24,
		Removed:    true,
	}
	for i, sn := range []string{"10.5.40", "10.5.9"} {
		r.Hosts = append(r.Hosts, hostResult{
			Name:    fmt.Sprintf("n%d", i+1),
			Address: netip.AddrFrom4([4]byte{20, 0, 0, byte(i + 2)}),
			Env:     []string{"FLANNEL_NETWORK=10.5.0.0/16", "FLANNEL_SUBNET=" + sn + ".1/24", "FLANNEL_MTU=1450", "FLANNEL_IPMASQ=false"},
			Routes:  []string{"10.5.7.0/24 via 10.5.7.0 dev flannel.1 onlink", "10.5.8.0/24 via 10.5.8.0 dev flannel.1 onlink"},
		})
	}
	return r
}

func TestReport(t *testing.T) {
	const want = `
== vxlan ==

Network config in etcd, /coreos.com/network/config
  {"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}

Leases in etcd, /coreos.com/network/subnets
  10.5.40.0-24  {"PublicIP":"20.0.0.2"}  23h59m59s left
  10.5.9.0-24   {"PublicIP":"20.0.0.3"}  no expiry

The hosts, and the subnet.env that flanneld wrote on each
  host  eth0      FLANNEL_NETWORK  FLANNEL_SUBNET  FLANNEL_MTU  FLANNEL_IPMASQ
  n1    20.0.0.2  10.5.0.0/16      10.5.40.1/24    1450         false
  n2    20.0.0.3  10.5.0.0/16      10.5.9.1/24     1450         false

Routes to the pods of the other hosts
  n1  10.5.7.0/24 via 10.5.7.0 dev flannel.1 onlink
      10.5.8.0/24 via 10.5.8.0 dev flannel.1 onlink
  n2  10.5.7.0/24 via 10.5.7.0 dev flannel.1 onlink
      10.5.8.0/24 via 10.5.8.0 dev flannel.1 onlink

Ping from pod to pod: 1 of 2 reached
  from \ to  n1      n2
  n1         -       0.09 ms ttl 62
  n2         FAILED  -

Throughput, one TCP connection from the pod on n1 to that on n2 for 2s
  8.63 Gbit/s

== Summary ==

  backend  result  pings   throughput   took
  vxlan    ok      1 of 2  8.63 Gbit/s  2.2 s
  udp      FAILED  0 of 0  -            0.0 s
`
	var b strings.Builder
	reportResult(&b, sampleResult())
	reportSummary(&b, []result{sampleResult(), {Backend: "udp", Err: errors.New("no")}})
	if got := b.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestReportMany: a matrix that does not fit becomes a line for each host.
func TestReportMany(t *testing.T) {
	r := sampleResult()
	r.Pings = nil
	for from := range 6 {
		r.Hosts = append(r.Hosts, r.Hosts[0])
		for to := range 6 {
			p := pingResult{From: fmt.Sprintf("n%d", from+1), To: fmt.Sprintf("n%d", to+1), Millis: float64(to) + 1}
			if from == 2 && to > 3 || from == 5 {
				p.Error = "no reply"
			}
			if from != to {
				r.Pings = append(r.Pings, p)
			}
		}
	}
	var b strings.Builder
	reportResult(&b, r)
	for _, want := range []string{
		"  and likewise on 7 more hosts\n",
		"Ping from pod to pod: 23 of 30 reached\n",
		"  n1  5 of 5  2.00 to 6.00 ms\n",
		"  n3  3 of 5  1.00 to 4.00 ms  FAILED to n5 n6\n",
		"  n6  0 of 5  -  FAILED to n1 n2 n3 n4 n5\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}

func TestReportFailure(t *testing.T) {
	var b strings.Builder
	err := &lab.ProcessError{
		Process: &lab.Process{Name: "n2/flanneld", Log: "/tmp/x/n2/flanneld-1.log"},
		Tail:    []string{"first", "last"},
		Err:     errors.New("ended before it was ready: exit status 1"),
	}
	reportFailure(&b, result{Backend: "udp", Err: fmt.Errorf("starting flanneld: %w", err), Logs: "/tmp/x"})
	const want = `
tweed demo: udp FAILED: starting flanneld: n2/flanneld: ended before it was ready: exit status 1
  the last lines of /tmp/x/n2/flanneld-1.log:
    first
    last
  all logs are kept in /tmp/x
`
	if got := b.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
