package rtnl

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHoldFightOverMany has another program remove all entries, each time.
func TestHoldFightOverMany(t *testing.T) {
	var lost chan<- struct{}
	var keys chan<- string
	s := &subject{}
	s.repair = func() (found []Repair, err error) {
		for i := range 100 {
			found = append(found, Repair(fmt.Sprint("add route ", i)))
			select {
			case keys <- fmt.Sprint("route ", i):
			default:
			}
		}
		select {
		case lost <- struct{}{}:
		default:
		}
		return found, nil
	}
	log := hold(t, s, func(k chan<- string, l chan<- struct{}) {
		keys, lost = k, l
		s.sleep(10 * time.Second)
		if n := len(s.repairs); n < freeRepairs || n > 10 {
			t.Errorf("%d repairs in 10 s", n)
		}
	})
	if n := strings.Count(log, "another program"); n != 1 {
		t.Errorf("%d lines about the fight, want one", n)
	}
}
