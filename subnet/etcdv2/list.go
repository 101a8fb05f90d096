package etcdv2

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"go.etcd.io/etcd/client/v2"

	"tweed/subnet"
)

// listing is what an answer to List tells.
type listing struct {
	leases []subnet.Lease
	bad    []subnet.BadRecord

	found bool // there is a node
	dir   struct {
		Key string `json:"key"`
		Dir bool   `json:"dir"`
	}
}

// readList reads the answer to List, which has 250 bytes for each record,
// while it arrives: the library would hold all of it three times over, and take
// ten times as long. Unknown members are passed over; of two with one name the
// last counts. expect is about how many records there will be.
func (s *Store) readList(body io.Reader, asked time.Time, expect int) (l listing, err error) {
	text := &scanner{src: body}
	if _, err := text.peek(); err == io.EOF {
		return l, fmt.Errorf("%w: no node in 0 bytes", errNotEtcd)
	}
	err = text.object(func(name string) error {
		if name != "node" {
			return text.skip()
		}
		l = listing{}
		if c, err := text.peek(); err == nil && c == 'n' {
			return text.skip()
		}
		l.found = true
		return s.readDir(text, &l, asked, expect)
	})
	if err == nil {
		err = text.end()
	}
	if err == nil && !l.found {
		err = fmt.Errorf("%w: no node in %d bytes", errNotEtcd, text.used)
	}
	return l, err
}

// readDir reads the node of the directory.
func (s *Store) readDir(text *scanner, l *listing, asked time.Time, expect int) error {
	var n plainNode
	prefix := s.leaseDir() + "/"
	return text.object(func(name string) error {
		switch name {
		case "key":
			l.dir.Key = ""
			return text.decode(&l.dir.Key)
		case "dir":
			l.dir.Dir = false
			return text.decode(&l.dir.Dir)
		case "nodes":
		default:
			return text.skip()
		}
		l.leases, l.bad = nil, nil
		if c, err := text.peek(); err == nil && c == 'n' {
			return text.skip()
		}
		l.leases = make([]subnet.Lease, 0, expect)
		return text.series('[', ']', func() error {
			raw, err := text.value()
			if err != nil {
				return err
			}
			if err := s.readRecord(raw, &n, prefix, l, asked); err != nil {
				return text.fault(err.Error())
			}
			return nil
		})
	})
}

// decode reads the next value into v. What is null leaves v as it is, as with
// encoding/json.
func (s *scanner) decode(v any) error {
	raw, err := s.value()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return s.fault(err.Error())
	}
	return nil
}

// readRecord adds the record in the node raw to l.
func (s *Store) readRecord(raw []byte, n *plainNode, prefix string, l *listing, asked time.Time) error {
	if lease, ok := plainLease(raw, n, prefix, l, asked); ok {
		l.leases = append(l.leases, lease)
		return nil
	}
	node, err := slowNode(raw)
	if err != nil {
		return err
	}
	lease, bad := s.decode(node, asked)
	if bad != nil {
		l.bad = append(l.bad, *bad)
	} else {
		l.leases = append(l.leases, lease)
	}
	return nil
}

// plainLease reads the lease in the node raw, if it is in the usual form.
func plainLease(raw []byte, n *plainNode, prefix string, l *listing, asked time.Time) (lease subnet.Lease, ok bool) {
	if !n.parse(raw) || len(n.key) < len(prefix) || string(n.key[:len(prefix)]) != prefix {
		return lease, false
	}
	if lease.Subnet, ok = plainKey(n.key[len(prefix):]); !ok {
		return lease, false
	}
	var like subnet.Attrs
	if last := len(l.leases) - 1; last >= 0 {
		like = l.leases[last].Attrs
	}
	if lease.Attrs, ok = plainAttrs(n.value, like); !ok {
		return lease, false
	}
	lease.Revision = n.modified
	if n.mortal {
		lease.Expires = asked.Add(time.Duration(n.ttl) * time.Second)
	}
	return lease, true
}

// slowNode reads any node. Names of members have to be exact, which
// encoding/json would not insist on for a struct.
func slowNode(raw []byte) (*client.Node, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, err
	}
	if members == nil {
		return nil, fmt.Errorf("a node is null")
	}
	n := &client.Node{}
	for name, to := range map[string]any{
		"key": &n.Key, "value": &n.Value, "dir": &n.Dir, "ttl": &n.TTL, "modifiedIndex": &n.ModifiedIndex,
	} {
		text, found := members[name]
		if !found {
			continue
		}
		if err := json.Unmarshal(text, to); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	// When it expires is told by the TTL: the clocks may differ.
	if text, found := members["expiration"]; found && strings.TrimSpace(string(text)) != "null" {
		n.Expiration = new(time.Time)
	}
	return n, nil
}
