package nstest

import (
	"context"
	"time"
)

// Await asks check, some twenty times a second, until it finds nothing to
// complain about; it returns its last complaint when the limit is over or ctx
// ends.
func Await(ctx context.Context, limit time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
