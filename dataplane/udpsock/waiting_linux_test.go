package udpsock

import (
	"testing"

	"tweed/dataplane"
	"tweed/test/nstest"
)

// Waiting tells of packets that are in the socket still, and of those that were
// received and not yet handed out, down to empty ones.
func TestWaiting(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			nstest.Enter(t)
			to, s := mustListen(t, "127.0.0.1:8285", mode.to), mustListen(t, "127.0.0.2:8285", mode.from)
			if to.Waiting() {
				t.Error("before the first packet")
			}
			for _, sizes := range [][]int{times(64, 0), {100}, {0}, times(3, 0), times(300, 1400), times(300, 0), {1, 0, 2, 0}} {
				mustSend(t, s, packets(to.Addr(), sizes...), nil)
				pkts := make([]dataplane.Packet, 50)
				for left := len(sizes); left > 0; {
					n, err := to.Recv(pkts)
					if err != nil {
						t.Fatal(err)
					}
					left -= n
					// A call that brought less than it could has emptied the socket.
					if got := to.Waiting(); got != (left > 0) {
						t.Errorf("%v with %d packets of %d left", got, left, len(sizes))
					}
				}
			}
			to.Close()
			if to.Waiting() {
				t.Error("after Close")
			}
		})
	}
}
