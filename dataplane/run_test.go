package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestFinalErrors(t *testing.T) {
	dead := errors.New("read tun flannel0: the interface is gone")
	t.Run("Recv", func(t *testing.T) {
		b := fromPeers()
		b.in.arrive(received{err: dead})
		if err := b.Run(t.Context()); err != dead {
			t.Error(err)
		}
	})
	t.Run("Send", func(t *testing.T) {
		b := fromPeers()
		n := 0
		b.out.dead = func([]Packet) error {
			if n++; n == 2 {
				return dead
			}
			return nil
		}
		b.in.put(simple(64), simple(64))
		b.in.put(simple(64), simple(64), simple(64))
		b.in.put(simple(64))
		if err := b.Run(t.Context()); err != dead {
			t.Error(err)
		}
		if s := b.Stats(); s.Sent != 2 || s.SentBytes != 100 || s.Received != 5 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("fragment", func(t *testing.T) {
		b := fromPeers()
		b.out.limit(40, true)
		b.out.dead = func(pkts []Packet) error {
			if len(pkts[0].Bytes) <= 40 {
				return dead
			}
			return nil
		}
		b.in.put(simple(64))
		if err := b.Run(t.Context()); err != dead {
			t.Error(err)
		}
		if s := b.Stats(); s.Sent != 0 || s.Fragmented != 0 || s.Received != 1 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("answer", func(t *testing.T) {
		b := toPeers()
		b.in.dead = func([]Packet) error { return dead }
		b.in.put(simple(64))
		if err := b.Run(t.Context()); err != dead {
			t.Error(err)
		}
		if s := b.Stats(); s.Replies != 0 || s.Dropped[NoRoute] != 1 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("nothing but transient errors", func(t *testing.T) {
		b := fromPeers()
		for i := range maxRecvErrors + 1 {
			var err error = Transient(syscall.ENOMEM)
			if i%2 == 1 {
				err = fmt.Errorf("wrapped: %w", err)
			}
			b.in.arrive(received{err: err})
		}
		err := b.Run(t.Context())
		if want := fmt.Sprintf("receive: %d errors in a row", maxRecvErrors+1); !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
		if n := b.Stats().RecvErrors; n != maxRecvErrors+1 {
			t.Errorf("%d errors counted", n)
		}
	})
	t.Run("transient errors between packets", func(t *testing.T) {
		b := fromPeers()
		for range maxRecvErrors + 1 {
			b.in.arrive(received{err: Transient(syscall.ENOMEM)})
			b.in.put(simple(64))
		}
		b.runAll(t)
	})
	t.Run("closed before", func(t *testing.T) {
		b := fromPeers()
		b.in.Close()
		if err := b.Run(t.Context()); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	t.Run("other side closed", func(t *testing.T) {
		b := fromPeers()
		b.out.Close()
		b.in.put(simple(64))
		if err := b.Run(t.Context()); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	t.Run("deadline of somebody else", func(t *testing.T) {
		b := fromPeers()
		b.in.arrive(received{err: os.ErrDeadlineExceeded})
		if err := b.Run(t.Context()); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}

// Run ends with its context, whether it waits or is busy, leaves no goroutine
// behind, and may be called again.
func TestRunEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fromPeers()
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error)
			go func() { result <- b.Run(ctx) }()
			synctest.Wait() // blocked in Recv
			b.in.put(simple(64))
			synctest.Wait()
			cancel()
			if err := <-result; err != nil {
				t.Error(err)
			}
		}
		if n := len(b.out.sent); n != 3 {
			t.Errorf("sent %d, want 3", n)
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b.in.put(simple(64))
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}

// hesitant is a Device that takes its time to set a deadline.
type hesitant struct {
	*memory
	set atomic.Int32
}

func (h *hesitant) SetReadDeadline(t time.Time) error {
	err := h.memory.SetReadDeadline(t)
	time.Sleep(time.Second)
	h.set.Add(1)
	return err
}

// Run does not touch its devices any more once it has returned.
func TestRunJoinsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fromPeers()
		in := &hesitant{memory: b.in}
		b.In = in
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
		if n := in.set.Load(); n != 2 {
			t.Errorf("Run returned after %d deadlines of 2 were set", n)
		}
	})
}

// A context that ends while packets keep coming.
func TestRunEndsWhileBusy(t *testing.T) {
	b := fromPeers()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	e := &endless{memory: b.in, left: -1}
	e.add(simple(64), netip.AddrPort{})
	b.In, b.Out = e, e
	if err := b.Run(ctx); err != nil {
		t.Error(err)
	}
}
