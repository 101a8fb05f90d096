package etcdv2

import (
	"encoding/json"
	"fmt"
	"io"
)

// A scanner cuts a JSON text (RFC 8259) into its values while it arrives. Its
// memory is that of the longest value that raw returns. An error is either of
// the source, or errNotEtcd for a text that is no JSON.
type scanner struct {
	src      io.Reader
	buf      []byte
	from, to int   // buf[from:to] has been read, but not used
	used     int64 // bytes before buf[from]
}

// maxValue is the longest value that is read: etcd takes no request of more than
// 1.5 MB, of which JSON may make six times as much.
const maxValue = 16 << 20

// more reads more into buf. It may move what is in there.
func (s *scanner) more() error {
	if s.from > 0 {
		copy(s.buf, s.buf[s.from:s.to])
		s.from, s.to = 0, s.to-s.from
	}
	if s.to >= maxValue {
		return s.fault(fmt.Sprintf("a value of more than %d MiB", maxValue>>20))
	}
	if s.to == len(s.buf) {
		s.buf = append(s.buf, make([]byte, max(len(s.buf), 32<<10))...)
	}
	for {
		n, err := s.src.Read(s.buf[s.to:])
		s.to += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *scanner) use(n int) {
	s.from += n
	s.used += int64(n)
}

// fault is the error for a text that is no JSON at the place where s is.
func (s *scanner) fault(why string) error {
	return fmt.Errorf("%w: no JSON at byte %d: %s", errNotEtcd, s.used, why)
}

// ended makes an error of io.EOF.
func (s *scanner) ended(err error) error {
	if err == io.EOF {
		return s.fault("it ends here")
	}
	return err
}

// peek returns the first byte that is not blank, and leaves it there.
func (s *scanner) peek() (byte, error) {
	for {
		for s.from < s.to {
			switch c := s.buf[s.from]; c {
			case ' ', '\t', '\n', '\r':
				s.use(1)
			default:
				return c, nil
			}
		}
		if err := s.more(); err != nil {
			return 0, err
		}
	}
}

// take goes past c, which must come next.
func (s *scanner) take(c byte) error {
	got, err := s.peek()
	if err != nil {
		return s.ended(err)
	}
	if got != c {
		return s.fault(fmt.Sprintf("want %q, not %q", c, got))
	}
	s.use(1)
	return nil
}

// object calls member for each member of the object that comes next. member has
// to go past the value.
func (s *scanner) object(member func(name string) error) error {
	return s.series('{', '}', func() error {
		raw, err := s.value()
		if err != nil {
			return err
		}
		var name string
		if raw[0] != '"' {
			return s.fault("want the name of a member in quotes")
		}
		if err := json.Unmarshal(raw, &name); err != nil {
			return s.fault(err.Error())
		}
		if err := s.take(':'); err != nil {
			return err
		}
		return member(name)
	})
}

// series goes through an array, or through the members of an object.
func (s *scanner) series(open, end byte, element func() error) error {
	if err := s.take(open); err != nil {
		return err
	}
	c, err := s.peek()
	if err != nil {
		return s.ended(err)
	}
	if c == end {
		return s.take(end)
	}
	for {
		if err := element(); err != nil {
			return err
		}
		c, err := s.peek()
		if err != nil {
			return s.ended(err)
		}
		if c != ',' {
			return s.take(end)
		}
		s.use(1)
	}
}

// skip goes past a value.
func (s *scanner) skip() error {
	raw, err := s.value()
	if err == nil && !json.Valid(raw) {
		err = s.fault("a value is none")
	}
	return err
}

// end makes sure that nothing follows.
func (s *scanner) end() error {
	switch c, err := s.peek(); {
	case err == nil:
		return s.fault(fmt.Sprintf("%q behind the end", c))
	case err != io.EOF:
		return err
	}
	return nil
}

// value returns the text of the next value, and goes past it. It finds the end
// only by quotes and brackets: whether it is valid inside is for the caller to
// check. The text is there until the next call of any method, and not empty.
func (s *scanner) value() ([]byte, error) {
	first, err := s.peek()
	if err != nil {
		return nil, s.ended(err)
	}
	depth := 0 // of brackets
	quoted := false
	plain := first != '"' && first != '{' && first != '[' // a number or a word
	for n := 0; ; {
		text := s.buf[s.from:s.to]
		for ; n < len(text); n++ {
			c := text[n]
			if quoted {
				for c != '"' && c != '\\' && n+1 < len(text) {
					n++
					c = text[n]
				}
				switch c {
				case '\\':
					n++ // and what it escapes
				case '"':
					if quoted = false; depth == 0 {
						return s.cut(n + 1)
					}
				}
				continue
			}
			switch c {
			case '"':
				quoted = true
			case '{', '[':
				depth++
			case '}', ']':
				if plain {
					return s.cut(n)
				}
				if depth--; depth == 0 {
					return s.cut(n + 1)
				}
			case ',', ':', ' ', '\t', '\n', '\r':
				if plain {
					return s.cut(n)
				}
			}
		}
		switch err := s.more(); {
		case err == io.EOF && plain:
			return s.cut(n)
		case err != nil:
			return nil, s.ended(err)
		}
	}
}

func (s *scanner) cut(n int) ([]byte, error) {
	if n == 0 {
		return nil, s.fault("want a value")
	}
	v := s.buf[s.from : s.from+n]
	s.use(n)
	return v, nil
}
