package main

const checkUsage = `tweed check says what flanneld would meet on this host, before it is started or
while it runs: what the network config means, whether etcd can be used, and what
of the host stands in the way. It changes nothing, and sends nothing but to the
etcd endpoints (and to the resolver, for names). A port that is free is opened for
a moment to see that it is.

Usage:
  tweed check [flags] [CONFIGFILE | -]

Without CONFIGFILE the network config comes from etcd. With a file, or - for
standard input, it comes from there, and etcd is asked for leases only if
-etcd-endpoints is given.

Flags:
  -o FORMAT         text or json (default text)
  -env-file FILE    take FLANNELD_... and FLANNEL_OPTIONS from a file for systemd, as
                    the service does, and not from this environment; flags that
                    are given besides win. Nothing in the file is executed.
  -timeout TIME     of the whole run, 100ms to 10m (default 10s)
  all of flanneld   as flanneld -h has them, and the variables FLANNELD_*; what
                    flanneld refuses is a failure. In use are
                    -etcd-..., -iface, -iface-regex, -iface-can-reach, -public-ip,
                    -subnet-file, -state-dir, -iptables-forward-rules and
                    -healthz-...; the others are accepted.

Each check is ok, a note (worth knowing), a warning (works, but not as it should),
a failure (flanneld or the pods' network would not work), or skipped, with the
reason. As root it sees most; without, it skips what it may not see.

Examples:
  tweed check -etcd-endpoints=http://192.0.2.10:2379
  tweed check new-config.json
  echo '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}' | tweed check -
  tweed check -env-file /etc/default/flanneld
  tweed check -o json | jq -r '.checks[] | select(.result=="failure") | .found'

Exit status: 0 no failure, though there may be warnings; 1 a failure; 2 wrong
usage, 130 interrupted by a signal.
`
