package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

// TestBehind: a watch that is a little behind catches up by polls, over one
// connection; one that is far behind asks for a list.
func TestBehind(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	p := newFaultProxy(t, etcd)
	fill(t, etcd, 5000)
	s := open(t, Options{Endpoints: []string{p.URL}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	snap, err := s.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.tooFar(); got != 125 {
		t.Errorf("too far is %d, want 125", got)
	}
	enough := errors.New("enough")
	events := 0
	err = s.Watch(ctx, snap.Revision-125, func([]subnet.Event) error {
		if events++; events == 125 {
			return enough
		}
		return nil
	})
	if err != enough || p.dials.Load() != 1 || p.polls.Load() != 125 {
		t.Errorf("%d events, %v, %d polls and %d connections, want 125 of each and 1", events, err, p.polls.Load(), p.dials.Load())
	}
	events = 0
	err = s.Watch(ctx, snap.Revision-900, func([]subnet.Event) error {
		events++
		return nil
	})
	if !errors.Is(err, subnet.ErrCompacted) || !strings.Contains(err.Error(), "899 changes behind") || events != 0 {
		t.Errorf("%d events, %v, want none and %v", events, err, subnet.ErrCompacted)
	}
}

// TestManyChanges measures how long after the last of 1000 changes among 10 000
// leases a follower knows them all.
func TestManyChanges(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	p := newFaultProxy(t, etcd)
	fill(t, etcd, 10000)
	s := open(t, Options{Endpoints: []string{p.URL}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	snap, err := s.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lists := p.lists.Load()
	last := make(chan int64, 1)
	go func() {
		for i := range 1000 {
			key := fmt.Sprintf("/coreos.com/network/subnets/10.%d.%d.%d-28", i>>12&255, i>>4&255, i<<4&255)
			set(t, etcd, key, `{"PublicIP":"192.0.2.1"}`, subnet.TTL)
		}
		r, err := etcd.Get(context.Background(), "/coreos.com/network/subnets/10.0.62.112-28")
		if err != nil {
			t.Error(err)
		}
		last <- int64(r.Index)
	}()
	known := map[string]string{}
	note := func(l subnet.Lease) { known[l.Subnet.String()] = l.Attrs.PublicIP.String() }
	after, end, ended := snap.Revision, int64(0), time.Time{}
	caughtUp := errors.New("caught up")
	for end == 0 || after < end {
		err := s.Watch(ctx, after, func(events []subnet.Event) error {
			note(events[0].Lease)
			after = events[0].Revision
			select {
			case end = <-last:
				ended = time.Now()
			default:
			}
			if end > 0 && after >= end {
				return caughtUp
			}
			return nil
		})
		if errors.Is(err, subnet.ErrCompacted) {
			if snap, err = s.List(ctx); err == nil {
				after = snap.Revision
				for _, l := range snap.Leases {
					note(l)
				}
				select {
				case end = <-last:
					ended = time.Now()
				default:
				}
				continue
			}
		}
		if err != caughtUp {
			t.Fatal(err)
		}
	}
	n := 0
	for _, ip := range known {
		if ip == "192.0.2.1" {
			n++
		}
	}
	if n != 1000 {
		t.Errorf("%d changes are known, want 1000", n)
	}
	t.Logf("known %v after the last change, by %d polls and %d lists", time.Since(ended), p.polls.Load(), p.lists.Load()-lists)
}
