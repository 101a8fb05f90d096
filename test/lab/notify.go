package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
)

// notifySocket is what systemd gives a unit of Type=notify (sd_notify(3)).
type notifySocket struct {
	path  string
	conn  *net.UnixConn
	ready chan struct{} // closed at the first READY=1
	done  chan struct{} // closed when the reader has ended

	mu   sync.Mutex
	all  []string      // guarded by mu; the messages so far
	more chan struct{} // guarded by mu; closed and replaced when there is one more
}

// maxSocketPath is the size of sun_path without its final 0 (unix(7)).
const maxSocketPath = 107

func listenNotify(path string) (*notifySocket, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("notify socket %s: path has %d bytes, at most %d are possible: choose a shorter temporary directory", path, len(path), maxSocketPath)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	n := &notifySocket{path: path, conn: conn, ready: make(chan struct{}), done: make(chan struct{}), more: make(chan struct{})}
	go n.read()
	return n, nil
}

func (n *notifySocket) read() {
	defer close(n.done)
	var once sync.Once
	buf := make([]byte, 4096)
	for {
		size, err := n.conn.Read(buf)
		if err != nil {
			return
		}
		if slices.Contains(strings.Split(string(buf[:size]), "\n"), "READY=1") {
			once.Do(func() { close(n.ready) })
		}
		n.mu.Lock()
		n.all = append(n.all, string(buf[:size]))
		close(n.more)
		n.more = make(chan struct{})
		n.mu.Unlock()
	}
}

// since returns the messages from number from on, and what is closed when there
// is one more.
func (n *notifySocket) since(from int) ([]string, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.all[min(from, len(n.all)):]), n.more
}

// Notified returns all that the process has told the service manager so far
// (sd_notify(3)): one text for each message, of lines NAME=value.
func (p *Process) Notified() []string {
	all, _ := p.notify.since(0)
	return all
}

// WaitNotified waits for a message that contains text, from message number from
// on; 0 is the first. It returns the number of the message after.
func (p *Process) WaitNotified(ctx context.Context, from int, text string) (next int, err error) {
	for {
		messages, more := p.notify.since(from)
		for i, m := range messages {
			if strings.Contains(m, text) {
				return from + i + 1, nil
			}
		}
		from += len(messages)
		select {
		case <-more:
		case <-ctx.Done():
			return from, p.Errorf("no message with %q to systemd, only %q: %w", text, p.Notified(), ctx.Err())
		case <-p.done:
			if rest, _ := p.notify.since(from); len(rest) == 0 {
				return from, p.Errorf("no message with %q to systemd, only %q, and it has ended: %s", text, p.Notified(), p.state)
			}
		}
	}
}

func (n *notifySocket) close() error {
	err := n.conn.Close()
	<-n.done
	os.Remove(n.path)
	return err
}
