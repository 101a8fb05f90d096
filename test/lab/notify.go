package lab

import (
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
	n := &notifySocket{path: path, conn: conn, ready: make(chan struct{}), done: make(chan struct{})}
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
	}
}

func (n *notifySocket) close() error {
	err := n.conn.Close()
	<-n.done
	os.Remove(n.path)
	return err
}
