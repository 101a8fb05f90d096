package etcdv2

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/v2"

	"tweed/subnet"
)

var errDirectory = errors.New("it is a directory: want a plain key with a lease record")

// decode reads the lease record in n, a node anywhere below the lease directory.
func (s *Store) decode(n *client.Node, asked time.Time) (subnet.Lease, *subnet.BadRecord) {
	key, below, nested := strings.Cut(strings.TrimPrefix(n.Key, s.leaseDir()+"/"), "/")
	bad := &subnet.BadRecord{Key: key, Revision: int64(n.ModifiedIndex)}
	if bad.Subnet, bad.Err = subnet.ParseKey(key); bad.Err != nil {
		return subnet.Lease{}, bad
	}
	switch {
	case nested:
		bad.Err = fmt.Errorf("record %s: %w, not one with %q in it", key, errDirectory, below)
		return subnet.Lease{}, bad
	case n.Dir:
		bad.Err = fmt.Errorf("record %s: %w", key, errDirectory)
		return subnet.Lease{}, bad
	}
	l := subnet.Lease{Subnet: bad.Subnet, Expires: expires(n, asked), Revision: bad.Revision}
	// Not by json.Unmarshal: it would refuse what is no JSON with less to say.
	if err := l.Attrs.UnmarshalJSON([]byte(n.Value)); err != nil {
		bad.Err = fmt.Errorf("record %s: %w", key, err)
		return subnet.Lease{}, bad
	}
	return l, nil
}

// encode returns the value of l's record. It refuses what decode cannot read.
func encode(l subnet.Lease) (string, error) {
	if sn, err := subnet.ParseKey(subnet.Key(l.Subnet)); err != nil {
		return "", err
	} else if sn != l.Subnet {
		return "", fmt.Errorf("subnet %s: want an IPv4 subnet", l.Subnet)
	}
	if !l.Attrs.PublicIP.Is4() {
		return "", fmt.Errorf("PublicIP %s: want an IPv4 address", l.Attrs.PublicIP)
	}
	b, err := json.Marshal(l.Attrs)
	return string(b), err
}

// expires returns when n expires by our own clock, or zero for never. A node
// without TTL may just be due: only one without expiration has none.
func expires(n *client.Node, asked time.Time) time.Time {
	if n.Expiration == nil {
		return time.Time{}
	}
	return asked.Add(n.TTLDuration())
}

// event tells what r, the answer to a watch, means: an event, nothing (ok is
// false), or that it cannot be told as one event, which is ErrCompacted.
func (s *Store) event(r reply) (e subnet.Event, ok bool, err error) {
	e.Revision = int64(r.Node.ModifiedIndex)
	again := func(what string) (subnet.Event, bool, error) {
		return e, false, fmt.Errorf("%s of %s: %w", what, r.Node.Key, subnet.ErrCompacted)
	}
	name, inside := strings.CutPrefix(r.Node.Key, s.prefix+"/")
	if !inside || name == "" {
		return again(r.Action) // all of the prefix, or what it is in
	}
	switch top, key, below := strings.Cut(name, "/"); {
	case top == "config": // or something in it: then it is no config any more
		e.Kind = subnet.Configured
		return e, true, nil
	case top != "subnets":
		return e, false, nil
	case !below || key == "":
		return again(r.Action) // all of the leases
	}
	key := strings.TrimPrefix(r.Node.Key, s.leaseDir()+"/")
	switch r.Action {
	case "set", "create", "update", "compareAndSwap":
		l, bad := s.decode(r.Node, r.asked)
		if bad != nil {
			e.Kind, e.Bad = subnet.Bad, *bad
		} else {
			e.Kind, e.Lease = subnet.Put, l
		}
		return e, true, nil
	case "delete", "expire", "compareAndDelete":
		e.Kind = subnet.Removed
		if path.Dir(key) != "." {
			return e, false, nil // inside of a record that is a directory, and stays one
		}
		if e.Subnet, err = subnet.ParseKey(key); err != nil {
			return e, false, nil // a bad record that was nobody's lease
		}
		return e, true, nil
	}
	return again("unknown action " + strconv.Quote(r.Action))
}
