package flags

import (
	"flag"
	"fmt"
	"io"
)

// define adds all flags, with their defaults, as setting r.
func (r *raw) define(fs *flag.FlagSet) {
	fs.StringVar(&r.endpoints, "etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379",
		"`URLs` of the etcd members (v2 API), separated by commas without blanks,\nsuch as https://192.0.2.10:2379,https://192.0.2.11:2379")
	fs.StringVar(&r.Etcd.Prefix, "etcd-prefix", "/coreos.com/network",
		"etcd `key` that holds the network: KEY/config is the network config,\nKEY/subnets/ has one lease per node")
	fs.StringVar(&r.Etcd.CAFile, "etcd-cafile", "",
		"`file` with the certificate authority that etcd's server certificates are checked against (PEM)")
	fs.StringVar(&r.Etcd.CertFile, "etcd-certfile", "",
		"`file` with the client certificate for etcd (PEM); needs -etcd-keyfile")
	fs.StringVar(&r.Etcd.KeyFile, "etcd-keyfile", "",
		"`file` with the private key of -etcd-certfile (PEM)")
	fs.StringVar(&r.Etcd.Username, "etcd-username", "",
		"user `name` for etcd's basic authentication")
	fs.StringVar(&r.Etcd.Password, "etcd-password", "",
		"`password` of -etcd-username; better given as FLANNELD_ETCD_PASSWORD,\nbecause command lines can be read by all users of the host")

	fs.Var((*list)(&r.Iface.Ifaces), "iface",
		"`name or IPv4 address` of the interface that faces the other nodes, such as eth1 or 192.0.2.1;\nmay be repeated, the first usable one is taken. Without any choice it is the interface of the\ndefault route with the lowest metric")
	fs.Var((*list)(&r.Iface.Regexes), "iface-regex",
		"regular `expression` that chooses the interface by its first IPv4 address, else by its name,\nsuch as '^192\\.0\\.2\\.' or '^eth'; may be repeated, tried after all -iface")
	fs.StringVar(&r.Iface.CanReach, "iface-can-reach", "",
		"`IPv4 address` of another host: choose the interface and address by which the kernel reaches it;\ntried after all -iface and -iface-regex")
	fs.StringVar(&r.Iface.PublicIP, "public-ip", "",
		"`IPv4 address` at which the other nodes reach this one, such as the outer one behind NAT\n(default: the interface's address)")
	fs.StringVar(&r.publicIPv6, "public-ipv6", "",
		"IPv6 `address` of the same; not supported yet")

	fs.StringVar(&r.SubnetFile, "subnet-file", "/run/flannel/subnet.env",
		"`file` to tell docker and scripts the subnet, MTU and masquerading;\nread back at start to keep the subnet")
	fs.StringVar(&r.StateDir, "state-dir", "/var/lib/flanneld",
		"`folder` of a private copy of the subnet, for when the subnet file was\noverwritten or lost (flannel has no such flag)")
	r.marginMinutes = 60
	fs.Var((*number)(&r.marginMinutes), "subnet-lease-renew-margin",
		"`minutes` before its end at which the 24 h lease is renewed, 1 to 1439")

	fs.Var((*boolean)(&r.ExitOnConfigChange), "exit-on-config-change",
		"exit with status 1 when the network config in etcd is changed to another valid one, so that\nthe supervisor starts flanneld with it; all nodes do so at once, and containers may get\naddresses of new subnets. Without it the change is logged, and a restart left to you\n(flannel has no such flag)")

	fs.Var((*boolean)(&r.IPMasq), "ip-masq",
		"masquerade what leaves the overlay network (docker then needs --ip-masq=false, see mk-docker-opts)")
	fs.Var((*boolean)(new(bool)), "ip-masq-fully-random-disable",
		"accepted for compatibility: source ports are never chosen fully at random")
	r.ForwardRules = true
	fs.Var((*boolean)(&r.ForwardRules), "iptables-forward-rules",
		"accept forwarded packets from and to the overlay network in the firewall")
	r.resyncSeconds = 5
	fs.Var((*number)(&r.resyncSeconds), "iptables-resync",
		"`seconds` between two checks of the firewall rules, 1 or more; after a change\nof the firewall they are checked within one second")
	fs.Var((*boolean)(&r.BlackholeRoute), "ip-blackhole-route",
		"add a blackhole route for this node's own subnet, so that packets to pods that are gone do not loop")

	fs.StringVar(&r.HealthzIP, "healthz-ip", "0.0.0.0",
		"`address` that serves /healthz (alive), /readyz (ready to carry packets)\nand /metrics (for Prometheus)")
	fs.Var((*number)(&r.HealthzPort), "healthz-port",
		"`port` that serves them, such as 8081; 0 for none")

	fs.Var(new(boolean), "kube-subnet-mgr",
		"not supported yet: take the subnet from Kubernetes instead of etcd")
	for _, f := range []struct{ name, value, what string }{
		{"kube-api-url", "", "`URL` of the API server"},
		{"kubeconfig-file", "", "kubeconfig `file`"},
		{"kube-annotation-prefix", "flannel.alpha.coreos.com", "`prefix` of the node annotations"},
		{"net-config-path", "/etc/kube-flannel/net-conf.json", "`file` with the network config"},
	} {
		fs.String(f.name, f.value, "not supported yet: "+f.what)
	}
	nodeNetwork := true
	fs.Var((*boolean)(&nodeNetwork), "set-node-network-unavailable",
		"not supported yet: clear the node's condition NetworkUnavailable")

	fs.Var((*number)(&r.Log.Verbosity), "v",
		"log `level`: 1 adds details, 0 is quiet")
	fs.Var(&r.Log.Modules, "vmodule",
		"log levels of single source `files`, such as run=1,wait*=2")
	fs.Var(&r.Log.TraceAt, "log_backtrace_at",
		"`line` of the source that adds a stack trace to what it logs, such as run.go:88")
	fs.Var((*boolean)(&r.version), "version",
		"print the version and exit")
}

// usage keeps the form that flannel's has: one line, then the flags in
// alphabetical order.
func (s *Set) usage(w io.Writer) {
	fmt.Fprintf(w, "Usage: %s [OPTION]...\n", s.Name())
	s.SetOutput(w)
	s.PrintDefaults()
	s.SetOutput(io.Discard)
	fmt.Fprint(w, `
Each flag may also be given as an environment variable: FLANNELD_, then its name
in capitals with "_" for "-", as in FLANNELD_ETCD_ENDPOINTS or FLANNELD_IP_MASQ=true.
The command line wins. An empty variable counts as not given, and a flag that may
be repeated gets one value. Switches are written -ip-masq or -ip-masq=false: in
"-ip-masq false" the second word ends the reading of flags.

The signal SIGUSR1 makes flanneld log its state and its packet counters, in lines that
begin with "stats: ". It may be sent at any time and interrupts nothing.

Before the first start, write the network config to etcd, such as
  ETCDCTL_API=2 etcdctl set /coreos.com/network/config '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
`)
}
