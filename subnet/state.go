package subnet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	Attrs   Attrs        `json:",omitzero"` // last published; zero if unknown
}

// stateVersion is that of the files that are written. Those of the first releases
// have none, and just Network and Subnet.
const stateVersion = 1

// stateFile is the form on disk.
type stateFile struct {
	Version int `json:",omitempty"`
	State
	Checksum string `json:",omitempty"`
}

// sum covers all fields but itself.
func (f stateFile) sum() (string, error) {
	f.Checksum = ""
	b, err := json.Marshal(f)
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8]), err
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

// WriteFile replaces path atomically; it is on disk when WriteFile returns, mode
// 0600. It replaces whatever is there, also what a later version wrote: that one
// reads this file, and loses no more than it does by a new disk.
func (s State) WriteFile(path string) error {
	f := stateFile{Version: stateVersion, State: s}
	var err error
	if f.Checksum, err = f.sum(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	b, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return replaceFile(path, append(b, '\n'), 0o600)
}

// maxStateFile bounds what is read of a state file; real ones have 300 bytes.
const maxStateFile = 64 << 10

// ReadState reads a state file. A missing one gives the zero State and no error.
// One that is damaged, or was written by a later version, is an error, and none of
// it is believed.
func ReadState(path string) (State, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStateFile+1))
	if err != nil {
		return State{}, err
	}
	s, err := parseState(b)
	if err != nil {
		return State{}, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

func parseState(b []byte) (State, error) {
	if len(b) > maxStateFile {
		return State{}, fmt.Errorf("larger than %d bytes: it is no state file", maxStateFile)
	}
	var v struct{ Version int }
	if err := json.Unmarshal(b, &v); err != nil {
		return State{}, fmt.Errorf("damaged or cut off: %w", ExplainJSON(b, err))
	}
	if v.Version < 0 || v.Version > stateVersion {
		return State{}, fmt.Errorf("has Version %d: want %d or less; a later flanneld wrote it, or it is damaged", v.Version, stateVersion)
	}
	var f stateFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return State{}, fmt.Errorf("damaged: %w", ExplainJSON(b, err))
	}
	if f.Version == 0 {
		// A newer file that has lost its version in some way has more fields.
		if f.Checksum != "" || f.Attrs.PublicIP.IsValid() {
			return State{}, errors.New("damaged: it has no Version, but fields of a file that has")
		}
	} else if sum, err := f.sum(); err != nil || f.Checksum != sum {
		return State{}, fmt.Errorf("damaged: Checksum %q, want %q", f.Checksum, sum)
	}
	if !f.Subnet.IsValid() || !f.Subnet.Addr().Is4() {
		return State{}, fmt.Errorf("has Subnet %q: want an IPv4 subnet such as 10.5.34.0/24", f.Subnet)
	}
	f.Subnet = f.Subnet.Masked()
	return f.State, nil
}
