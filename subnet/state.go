package subnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// State is what the daemon remembers for itself across restarts. It repeats
// what subnet.env says because a common systemd unit lets mk-docker-opts
// overwrite that file, and because /run does not survive a reboot.
type State struct {
	Network netip.Prefix
	Subnet  netip.Prefix // masked
}

// StatePath returns the state file in dir that belongs to one subnet.env, so
// that several daemons on a host, which must differ in that, never share it.
func StatePath(dir, subnetFile string) string {
	if abs, err := filepath.Abs(subnetFile); err == nil {
		subnetFile = abs
	}
	name := url.PathEscape(strings.TrimPrefix(filepath.Clean(subnetFile), "/"))
	return filepath.Join(dir, name+".json")
}

// WriteFile replaces path atomically; it is on disk when WriteFile returns.
func (s State) WriteFile(path string) error {
	b, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(path, append(b, '\n'), 0o600)
}

// ReadState reads a state file. A missing one gives the zero State and no
// error.
func ReadState(path string) (State, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, err
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("read %s: %w", path, ExplainJSON(b, err))
	}
	if !s.Subnet.IsValid() || !s.Subnet.Addr().Is4() {
		return State{}, fmt.Errorf("read %s: Subnet %q: want an IPv4 subnet such as 10.5.34.0/24", path, s.Subnet)
	}
	s.Subnet = s.Subnet.Masked()
	return s, nil
}
