package backend

import "testing"

func TestProfileMTU(t *testing.T) {
	p := Profile{Type: "x", Overhead: 50, MinMTU: 68, MaxMTU: 9000}
	for nic, want := range map[int]int{0: 0, 117: 0, 118: 68, 1500: 1450, 9050: 9000, 65536: 9000} {
		if got, err := p.MTU(nic); got != want || (err != nil) != (want == 0) {
			t.Errorf("%d: %d, %v, want %d", nic, got, err, want)
		}
	}
	if got, err := (Profile{}).MTU(70000); got != 70000 || err != nil {
		t.Errorf("no limits: %d, %v", got, err)
	}
}
