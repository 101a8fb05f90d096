package subnet

import (
	"context"
	"fmt"
	"time"
)

// configRetry is flannel's pace of asking for a config that is not there yet.
const configRetry = time.Second

// WaitConfig asks the store for the network config until there is a valid one,
// once a second. It tells missing why there is none, which names key, the place
// of the config in the store, and returns an error only when ctx ends.
func WaitConfig(ctx context.Context, store Store, key string, missing func(why error)) (Config, error) {
	for {
		c, err := fetchConfig(ctx, store, key)
		if err == nil {
			return c, nil
		}
		if ctx.Err() == nil {
			missing(err)
		}
		if !pause(ctx, configRetry) {
			return Config{}, ctx.Err()
		}
	}
}

func fetchConfig(ctx context.Context, store Store, key string) (Config, error) {
	b, err := store.Config(ctx)
	if err != nil {
		return Config{}, err
	}
	c, err := ParseConfig(b)
	if err != nil {
		return Config{}, fmt.Errorf("%s is invalid: %w", key, err)
	}
	return c, nil
}
