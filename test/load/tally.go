package load

import "bytes"

// memory is how many packet numbers a tally looks back for duplicates.
const memory = 1 << 20

// A tally judges the packets that arrive. It counts those that were sent in the
// window.
type tally struct {
	key     key
	pattern []byte

	delivered, reordered, duplicated, corrupt int64

	next uint64              // the largest number so far, plus 1
	seen [memory / 64]uint64 // a bit for each of the last numbers, as a ring
}

// add takes one payload. whole says that nothing was cut off its end.
//
// Reordered is what comes after a larger number (RFC 4737, section 3), a
// duplicate what came before (RFC 5560). What comes more than memory packets
// late is not seen as a duplicate.
func (t *tally) add(payload []byte, whole bool) {
	number, inside, ok := t.key.get(payload)
	if !ok || !whole || !bytes.Equal(payload[MinSize:], t.pattern) {
		t.corrupt++
		return
	}
	late := number < t.next
	duplicate := late && t.next-number <= memory && t.bit(number)
	if !late {
		t.advance(number)
	}
	t.mark(number)
	switch {
	case !inside:
	case duplicate:
		t.duplicated++
	default:
		t.delivered++
		if late {
			t.reordered++
		}
	}
}

// advance makes number the largest, and forgets what the ring held in place of
// it and of the numbers before.
func (t *tally) advance(number uint64) {
	from := t.next
	if number-from >= memory {
		from = number - memory + 1
	}
	for n := from; n <= number; n++ {
		t.seen[n%memory/64] &^= 1 << (n % 64)
	}
	t.next = number + 1
}

func (t *tally) bit(number uint64) bool { return t.seen[number%memory/64]>>(number%64)&1 == 1 }

// mark remembers the number, unless the ring has gone past it.
func (t *tally) mark(number uint64) {
	if t.next-number <= memory {
		t.seen[number%memory/64] |= 1 << (number % 64)
	}
}
