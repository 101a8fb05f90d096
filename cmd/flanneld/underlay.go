package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"tweed/backend"
	"tweed/dataplane/rtnl"
)

const (
	// underlaySettle is how long the interfaces must have been quiet before they
	// are judged: a DHCP client takes an address away and gives another.
	underlaySettle = 250 * time.Millisecond
	// underlayPatience is how long that is waited for: some never rest.
	underlayPatience = 2 * time.Second
	// underlayEvery is how often they are looked at without notice, and
	// underlayLost how often while something is amiss: a default route may come
	// later than its interface.
	underlayEvery = 10 * time.Second
	underlayLost  = time.Second
	// underlayElsewhere is how long the interface must have been without the
	// address before another one is taken.
	underlayElsewhere = 30 * time.Second
)

// A movedError says that the underlay has changed, so that the backend has to be
// opened anew.
type movedError struct{ from, to backend.Underlay }

func (e *movedError) Error() string {
	return fmt.Sprintf("the underlay has changed from %s to %s", underlayText(e.from), underlayText(e.to))
}

func underlayText(u backend.Underlay) string {
	text := fmt.Sprintf("%s with address %s and mtu %d", u.Name, u.Addr, u.MTU)
	if u.PublicIP != u.Addr {
		text += fmt.Sprintf(", public IP %s", u.PublicIP)
	}
	return text
}

// followUnderlay watches the interface that faces the peers. It returns a
// movedError when the backend has to be opened anew, and nil when ctx ends. What
// is merely gone or down is told once and waited for.
func (s *membership) followUnderlay(ctx context.Context) error {
	monitor, err := openPatiently(ctx, s.log, func() (*rtnl.Monitor, error) { return rtnl.OpenMonitor(rtnl.OfLinks, rtnl.OfAddresses) })
	if err != nil {
		return nil
	}
	defer monitor.Close()
	notices := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		var links rtnl.Links
		return monitor.Listen(ctx, func(n rtnl.Notice) {
			name, _, news := links.News(n)
			_, _, addr := n.Addr()
			if n.Lost() || addr || news && name == s.under.Name {
				select {
				case notices <- struct{}{}:
				default:
				}
			}
		})
	})
	g.Go(func() error { return s.judgeUnderlay(ctx, notices) })
	return g.Wait()
}

func (s *membership) judgeUnderlay(ctx context.Context, notices <-chan struct{}) error {
	timer := time.NewTimer(underlaySettle)
	defer timer.Stop()
	told := ""
	var since time.Time // of the first notice that is not answered yet
	var amiss time.Time // since when there is trouble
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-notices:
			if since.IsZero() {
				since = time.Now()
			}
			timer.Reset(min(underlaySettle, underlayPatience-time.Since(since)))
			continue
		case <-timer.C:
		}
		since = time.Time{}
		next, trouble, err := s.opts.Iface.Follow(s.under)
		if trouble == "" {
			amiss = time.Time{}
		} else if amiss.IsZero() {
			amiss = time.Now()
		}
		switch {
		case err != nil:
			trouble = err.Error()
		case next.Name != s.under.Name && time.Since(amiss) < underlayElsewhere:
		case next != s.under:
			s.tellMoved(next)
			return &movedError{s.under, next}
		}
		switch {
		case trouble != "" && told == "":
			s.log.Warn(trouble + ": peers may be out of reach until that changes; everything else stays as it is")
		case trouble == "" && told != "":
			s.log.Info("the interface is in order again", "link", s.under.Name)
		}
		if told = trouble; told != "" {
			timer.Reset(underlayLost)
		} else {
			timer.Reset(underlayEvery)
		}
	}
}

func (s *membership) tellMoved(next backend.Underlay) {
	s.log.Warn("the underlay has changed, following it", "was", underlayText(s.under), "now", underlayText(next))
}
