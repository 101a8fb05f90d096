package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// SendBytes sends n random bytes by TCP from one namespace to dst in the
// other, and checks that exactly these arrive.
func SendBytes(ctx context.Context, from, to NS, dst netip.Addr, n int64) error {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	want := sha256.New()
	content := io.TeeReader(io.LimitReader(rand.NewChaCha8(seed), n), want)
	got := sha256.New()
	var received int64
	err := transfer(ctx, from, to, dst,
		func(c net.Conn) error {
			_, err := io.Copy(c, content)
			return err
		},
		func(c net.Conn) (err error) {
			received, err = io.Copy(got, c)
			return err
		})
	if err == nil && (received != n || string(got.Sum(nil)) != string(want.Sum(nil))) {
		err = fmt.Errorf("received %d bytes that are not the %d sent", received, n)
	}
	if err != nil {
		return fmt.Errorf("send %d bytes from %s to %s at %s: %w", n, from, to, dst, err)
	}
	return nil
}

// Throughput sends by one TCP connection from one namespace to dst in the
// other for the given time, and returns what arrived in bits per second.
func Throughput(ctx context.Context, from, to NS, dst netip.Addr, d time.Duration) (float64, error) {
	var received int64
	var took time.Duration
	err := transfer(ctx, from, to, dst,
		func(c net.Conn) error {
			block := make([]byte, 128<<10)
			for end := time.Now().Add(d); time.Now().Before(end); {
				if _, err := c.Write(block); err != nil {
					return err
				}
			}
			return nil
		},
		func(c net.Conn) error {
			buf := make([]byte, 128<<10)
			start := time.Now()
			for {
				n, err := c.Read(buf)
				received += int64(n)
				took = time.Since(start)
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
			}
		})
	if err != nil {
		return 0, fmt.Errorf("throughput from %s to %s at %s: %w", from, to, dst, err)
	}
	return float64(received) * 8 / took.Seconds(), nil
}

// transfer runs both ends of a TCP connection to dst until both are done. The
// sender's end is half closed after send.
func transfer(ctx context.Context, from, to NS, dst netip.Addr, send, receive func(net.Conn) error) error {
	l, err := to.Listen(ctx, netip.AddrPortFrom(dst, 0))
	if err != nil {
		return err
	}
	defer l.Close()
	received := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			received <- err
			return
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		received <- receive(c)
	}()

	err = sendTo(ctx, from, l.Addr().(*net.TCPAddr).AddrPort(), send)
	if err != nil {
		l.Close() // or the receiver might wait for a connection for ever
	}
	err = errors.Join(err, <-received)
	if ctx.Err() != nil {
		return ctx.Err() // the rest follows from it
	}
	return err
}

func sendTo(ctx context.Context, from NS, dst netip.AddrPort, send func(net.Conn) error) error {
	c, err := from.DialTCP(ctx, dst)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := send(c); err != nil {
		return err
	}
	return c.CloseWrite()
}
