package flags

import (
	"errors"
	"strconv"
	"strings"
)

// list is the flag.Value of a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// number and boolean parse as the flag package does, with errors that say what
// is valid.
type (
	number  int
	boolean bool
)

func (n *number) String() string { return strconv.Itoa(int(*n)) }

func (n *number) Set(s string) error {
	v, err := strconv.ParseInt(s, 0, strconv.IntSize)
	if err != nil {
		return errors.New("want a whole number")
	}
	*n = number(v)
	return nil
}

func (b *boolean) String() string   { return strconv.FormatBool(bool(*b)) }
func (b *boolean) IsBoolFlag() bool { return true }

func (b *boolean) Set(s string) error {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("want true or false")
	}
	*b = boolean(v)
	return nil
}
