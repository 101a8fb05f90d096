package load

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// packet is a whole one of the tally's run.
func packet(t *tally, number uint64, inside bool) []byte {
	p := append(make([]byte, MinSize), t.pattern...)
	t.key.put(p, number, inside)
	return p
}

func newTally() *tally { return &tally{key: newKey(), pattern: pattern(64)} }

type counted struct{ delivered, reordered, duplicated, corrupt int64 }

func (t *tally) counted() counted {
	return counted{t.delivered, t.reordered, t.duplicated, t.corrupt}
}

func TestTally(t *testing.T) {
	for _, tt := range []struct {
		name    string
		numbers []uint64
		want    counted
	}{
		{"nothing", nil, counted{}},
		{"in order", []uint64{0, 1, 2, 3}, counted{delivered: 4}},
		{"a gap", []uint64{0, 5, 6}, counted{delivered: 3}},
		{"one late", []uint64{0, 2, 1, 3}, counted{delivered: 4, reordered: 1}},
		{"two late", []uint64{3, 1, 2, 4}, counted{delivered: 4, reordered: 2}},
		{"twice at once", []uint64{0, 0, 1}, counted{delivered: 2, duplicated: 1}},
		{"twice later", []uint64{0, 1, 2, 0, 0}, counted{delivered: 3, duplicated: 2}},
		{"late and twice", []uint64{1, 0, 0}, counted{delivered: 2, reordered: 1, duplicated: 1}},
		{"the ring forgets", []uint64{0, memory, memory + 5, 3}, counted{delivered: 4, reordered: 1}},
		{"a jump over all", []uint64{7, 10 * memory, 9*memory + 7}, counted{delivered: 3, reordered: 1}},
		{"at the end of the ring", []uint64{0, memory - 1, 0}, counted{delivered: 2, duplicated: 1}},
		{"past its end", []uint64{0, memory, 0}, counted{delivered: 3, reordered: 1}},
	} {
		ta := newTally()
		for _, n := range tt.numbers {
			ta.add(packet(ta, n, true), true)
		}
		if got := ta.counted(); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// TestTallyEdges: only what was sent in the window counts, but the rest is
// remembered for the order.
func TestTallyEdges(t *testing.T) {
	ta := newTally()
	for _, p := range []struct {
		number uint64
		inside bool
	}{{0, false}, {0, false}, {2, true}, {1, false}, {5, false}, {3, true}, {3, true}, {4, true}} {
		ta.add(packet(ta, p.number, p.inside), true)
	}
	if got, want := ta.counted(), (counted{delivered: 3, reordered: 2, duplicated: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestTallyCorrupt(t *testing.T) {
	ta := newTally()
	good := packet(ta, 7, true)
	for bit := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		ta.add(bad, true)
	}
	for n := range len(good) {
		ta.add(good[:n], true)
	}
	ta.add(good, false)
	ta.add(append(bytes.Clone(good), 0), true)
	ta.add(packet(&tally{key: ta.key + 1, pattern: ta.pattern}, 7, true), true)
	if got, want := ta.counted(), (counted{corrupt: int64(len(good)*8 + len(good) + 3)}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if ta.add(good, true); ta.delivered != 1 {
		t.Error("the unharmed packet is not counted")
	}
}

// TestTallyOracle compares with a set of all numbers, on traffic that jumps
// back and forth.
func TestTallyOracle(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	ta := newTally()
	seen := make(map[uint64]bool)
	var want counted
	var top uint64
	for i := range 200_000 {
		n := top + uint64(rnd.IntN(64))
		switch {
		case i%1000 == 0:
			n = top + uint64(rnd.IntN(2*memory))
		case i%3 == 0:
			n = top - min(top, uint64(rnd.IntN(300)))
		}
		inside := rnd.IntN(4) > 0
		switch {
		case !inside:
		case seen[n]:
			want.duplicated++
		case n < top:
			want.delivered++
			want.reordered++
		default:
			want.delivered++
		}
		seen[n] = true
		top = max(top, n)
		ta.add(packet(ta, n, inside), true)
		if got := ta.counted(); got != want {
			t.Fatalf("after %d packets, the last %d: %+v, want %+v", i+1, n, got, want)
		}
	}
}
