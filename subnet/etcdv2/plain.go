package etcdv2

import (
	"bytes"
	"encoding/json"
	"net/netip"

	"tweed/subnet"
)

// What follows reads nodes and lease records in the form that etcd and flannel
// write them in, some ten times as fast as encoding/json does, and without
// garbage. Everything else, valid or not, is left to the slow way: the functions
// return false for it. FuzzPlain holds them to what the slow way makes of it.

// plainNode is a node of etcd. Its texts are those of the answer, or of scratch.
type plainNode struct {
	key, value []byte
	modified   int64
	ttl        int64 // seconds
	mortal     bool  // it has an expiration

	scratch []byte
}

// parse reads
//
//	{"key":"/a/b","value":"c","expiration":"2026-11-23T10:00:00Z","ttl":60,"modifiedIndex":5,"createdIndex":5}
func (n *plainNode) parse(b []byte) bool {
	*n = plainNode{scratch: n.scratch[:0]}
	if len(b) == 0 || b[0] != '{' {
		return false
	}
	for {
		name, rest, ok := plainText(b[1:])
		if !ok || len(rest) == 0 || rest[0] != ':' {
			return false
		}
		b = rest[1:]
		switch string(name) {
		case "key":
			n.key, b, ok = n.text(b)
		case "value":
			n.value, b, ok = n.text(b)
		case "expiration":
			_, b, ok = plainText(b)
			n.mortal = true
		case "ttl":
			n.ttl, b, ok = plainNumber(b)
		case "modifiedIndex":
			n.modified, b, ok = plainNumber(b)
		case "createdIndex":
			_, b, ok = plainNumber(b)
		default:
			return false
		}
		switch {
		case !ok || len(b) == 0:
			return false
		case b[0] == '}':
			return len(b) == 1
		case b[0] != ',':
			return false
		}
	}
}

// text is plainText for texts with \" \\ and \/ in them.
func (n *plainNode) text(b []byte) (text, rest []byte, ok bool) {
	if text, rest, ok = plainText(b); ok || len(b) == 0 || b[0] != '"' {
		return text, rest, ok
	}
	from := len(n.scratch)
	for i := 1; i < len(b); i++ {
		c := b[i]
		switch {
		case c == '"':
			return n.scratch[from:], b[i+1:], true
		case c == '\\':
			if i++; i == len(b) || b[i] != '"' && b[i] != '\\' && b[i] != '/' {
				return nil, nil, false
			}
			c = b[i]
		case c < ' ' || c > '~':
			return nil, nil, false
		}
		n.scratch = append(n.scratch, c)
	}
	return nil, nil, false
}

// plainText reads a text in quotes that stands for itself.
func plainText(b []byte) (text, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	for i, c := range b[1:] {
		switch {
		case c == '"':
			return b[1 : 1+i], b[2+i:], true
		case c == '\\' || c < ' ' || c > '~':
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// plainNumber reads a whole number of at most 18 digits.
func plainNumber(b []byte) (n int64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if i == 18 {
			return 0, nil, false
		}
		n = 10*n + int64(b[i]-'0')
	}
	return n, b[i:], i == 1 || i > 1 && b[0] != '0'
}

// plainAddr reads an IPv4 address.
func plainAddr(b []byte) (a netip.Addr, rest []byte, ok bool) {
	var octets [4]byte
	for i := range octets {
		if i > 0 {
			if len(b) == 0 || b[0] != '.' {
				return a, nil, false
			}
			b = b[1:]
		}
		n, rest, ok := plainNumber(b)
		if !ok || n > 255 {
			return a, nil, false
		}
		octets[i], b = byte(n), rest
	}
	return netip.AddrFrom4(octets), b, true
}

// plainKey is subnet.ParseKey.
func plainKey(b []byte) (netip.Prefix, bool) {
	a, b, ok := plainAddr(b)
	if !ok || len(b) == 0 || b[0] != '-' {
		return netip.Prefix{}, false
	}
	bits, b, ok := plainNumber(b[1:])
	if !ok || bits < 1 || bits > 31 || len(b) > 0 {
		return netip.Prefix{}, false
	}
	sn := netip.PrefixFrom(a, int(bits))
	return sn, sn == sn.Masked()
}

// plainAttrs is subnet.Attrs.UnmarshalJSON. If the type of the backend is that
// of like, it shares the text.
func plainAttrs(b []byte, like subnet.Attrs) (a subnet.Attrs, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(`{"PublicIP":"`))
	if !ok {
		return a, false
	}
	if a.PublicIP, b, ok = plainAddr(b); !ok || len(b) == 0 || b[0] != '"' {
		return a, false
	}
	// Which of the others are an error is not for this page to know.
	if ip := a.PublicIP; !ip.IsGlobalUnicast() || ip.As4()[0] == 0 || ip.As4()[0] >= 224 {
		return a, false
	}
	b = b[1:]
	if rest, found := bytes.CutPrefix(b, []byte(`,"BackendType":`)); found {
		text, rest, ok := plainText(rest)
		if !ok {
			return a, false
		}
		if a.BackendType = like.BackendType; string(text) != like.BackendType {
			a.BackendType = string(text)
		}
		b = rest
	}
	if rest, found := bytes.CutPrefix(b, []byte(`,"BackendData":`)); found {
		n, ok := plainObject(rest)
		if !ok {
			return a, false
		}
		a.BackendData = json.RawMessage(bytes.Clone(rest[:n]))
		b = rest[n:]
	}
	return a, string(b) == "}"
}

// plainObject returns the length of the object that b begins with, if it holds
// nothing but texts and numbers.
func plainObject(b []byte) (n int, ok bool) {
	all := len(b)
	if bytes.HasPrefix(b, []byte("{}")) {
		return 2, true
	}
	if len(b) == 0 || b[0] != '{' {
		return 0, false
	}
	for {
		if _, b, ok = plainText(b[1:]); !ok || len(b) < 2 || b[0] != ':' {
			return 0, false
		}
		if b = b[1:]; b[0] == '"' {
			_, b, ok = plainText(b)
		} else {
			_, b, ok = plainNumber(b)
		}
		switch {
		case !ok || len(b) == 0:
			return 0, false
		case b[0] == '}':
			return all - len(b) + 1, true
		case b[0] != ',':
			return 0, false
		}
	}
}
