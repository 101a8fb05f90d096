// Package alloc carries no packets: it only takes part in the division of the
// network into subnets. Something else has to route between the nodes.
package alloc

import (
	"context"
	"log/slog"

	"tweed/backend"
	"tweed/subnet"
)

// Type is the backend's name in the network config. Leases do not tell it, as
// with flannel.
const Type = "alloc"

var _ backend.Backend = (*Backend)(nil)

// Backend does nothing. Make it with Open.
type Backend struct{ under backend.Underlay }

// Open never fails.
func Open(_ context.Context, u backend.Underlay, _ subnet.Config, _ *slog.Logger) (*Backend, error) {
	return &Backend{under: u}, nil
}

// NewProfile never fails, and takes nothing of a host.
func NewProfile(subnet.Config) (backend.Profile, error) { return backend.Profile{Type: Type}, nil }

// Attrs has nothing but the public IP.
func (b *Backend) Attrs() subnet.Attrs { return subnet.Attrs{PublicIP: b.under.PublicIP} }

// MTU is that of the interface.
func (b *Backend) MTU() int { return b.under.MTU }

// Up does nothing.
func (b *Backend) Up(context.Context, subnet.Lease) error { return nil }

// Sync does nothing: whatever routes there are belong to somebody else.
func (b *Backend) Sync(context.Context, []subnet.Lease) error { return nil }

// Run waits for ctx to end.
func (b *Backend) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close does nothing.
func (b *Backend) Close() error { return nil }
