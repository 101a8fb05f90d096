package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"tweed/test/lab"
)

// traffic is a ping every 20 ms and a TCP connection that echoes, from one pod
// to another, until it is stopped.
type traffic struct {
	c        *cluster
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	echo     error
	answered atomic.Int64
	lost     atomic.Int64
}

func (c *cluster) startTraffic(from, to *lab.Pod) *traffic {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	t := &traffic{c: c, cancel: cancel}
	c.t.Cleanup(cancel)
	l, err := to.NS.Listen(ctx, netip.AddrPortFrom(to.Addr, 0))
	c.must(err)
	client, err := from.NS.DialTCP(ctx, l.Addr().(*net.TCPAddr).AddrPort())
	c.must(err)
	server, err := l.AcceptTCP()
	c.must(errors.Join(err, l.Close()))

	t.wg.Go(func() {
		defer server.Close()
		io.Copy(server, server)
	})
	t.wg.Go(func() {
		defer client.Close()
		t.echo = repeat(ctx, func() error { return echo(client) })
	})
	t.wg.Go(func() {
		repeat(ctx, func() error {
			if _, err := from.NS.Ping(c.ctx, to.Addr); err != nil {
				t.lost.Add(1)
			} else {
				t.answered.Add(1)
			}
			return nil
		})
	})
	return t
}

func repeat(ctx context.Context, f func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := f(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// echo sends a block and waits for it to come back.
func echo(c *net.TCPConn) error {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	block := make([]byte, 4000)
	if _, err := c.Write(block); err != nil {
		return err
	}
	_, err := io.ReadFull(c, block)
	return err
}

// await waits for so many more pings to be answered.
func (t *traffic) await(more int64) {
	t.c.t.Helper()
	want := t.answered.Load() + more
	t.c.eventually("pings to be answered", func() error {
		if have := t.answered.Load(); have < want {
			return fmt.Errorf("%d are, %d are lost, want %d", have, t.lost.Load(), want)
		}
		return nil
	})
}

// stop ends the traffic, checks that the connection has lasted, and returns
// how many pings were lost.
func (t *traffic) stop() (lost int64) {
	t.c.t.Helper()
	t.await(5)
	t.cancel()
	t.wg.Wait()
	if t.echo != nil {
		t.c.t.Errorf("the TCP connection has not lasted: %v", t.echo)
	}
	return t.lost.Load()
}
