package subnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrConfigChanged is returned by Manager.Run, if that is asked for, when the
// network config in the store is not the one that it was started with.
var ErrConfigChanged = errors.New("the network config was changed")

// followConfig looks at the network config whenever it is signalled, and says what
// has become of it. A store that does not answer is no change.
func (m *Manager) followConfig(ctx context.Context, look <-chan struct{}) error {
	wait := backoff{min: 5 * time.Second, max: relistEvery}
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look:
		case <-again:
		}
		b, err := m.store.Config(ctx)
		if err != nil && !errors.Is(err, ErrNoConfig) {
			m.log.Debug("Couldn't compare the network config, trying again", "err", err)
			again = time.After(wait.delay())
			continue
		}
		wait.reset()
		again = nil
		if err := m.compareConfig(b, err); err != nil {
			return err
		}
		pause(ctx, configRetry) // somebody may write it in a loop
	}
}

// compareConfig says what the store holds: b, or nothing if that is missing. It
// fails only if the node is to stop because of it.
func (m *Manager) compareConfig(b []byte, missing error) error {
	const goesOn = ". This node goes on with what it was started with"
	text, level := "", slog.LevelWarn
	c, err := ParseConfig(b)
	changes := configChanges(m.cfg, c)
	m.differs.Store(err != nil || len(changes) > 0)
	switch {
	case missing != nil:
		text = "the network config was deleted" + goesOn + "; one that starts now waits for a config: write it again"
	case err != nil:
		text = fmt.Sprintf("the network config was changed to an invalid one: %v%s; one that starts now waits for a valid config: correct it", err, goesOn)
	case len(changes) == 0:
		level = slog.LevelInfo
	case m.ExitOnConfigChange:
		return fmt.Errorf("%w: %s", ErrConfigChanged, strings.Join(changes, ", "))
	default:
		text = "the network config was changed: " + strings.Join(changes, ", ") + goesOn + ": restart flanneld on every node, one after the other"
		if c.Network != m.cfg.Network || c.SubnetLen != m.cfg.SubnetLen {
			text += "; containers get addresses of new subnets then, so restart docker and them too"
		}
	}
	if text == m.configTold {
		return nil
	}
	if m.configTold = text; text == "" {
		text = "the network config is again the one that this node was started with"
	}
	m.log.Log(context.Background(), level, text)
	return nil
}

// configChanges names what differs, as "SubnetLen 24 -> 25". Of the backend's
// fields only numbers and switches are told, since a text may be a secret.
func configChanges(was, now Config) (changes []string) {
	field := func(name string, was, now any) {
		if was != now {
			changes = append(changes, fmt.Sprintf("%s %v -> %v", name, was, now))
		}
	}
	field("Network", was.Network, now.Network)
	field("SubnetLen", was.SubnetLen, now.SubnetLen)
	field("SubnetMin", was.SubnetMin, now.SubnetMin)
	field("SubnetMax", was.SubnetMax, now.SubnetMax)
	field("Backend.Type", was.BackendType, now.BackendType)

	a, b := backendFields(was), backendFields(now)
	names := maps.Clone(a)
	maps.Copy(names, b)
	for _, key := range slices.Sorted(maps.Keys(names)) {
		if !reflect.DeepEqual(a[key].value, b[key].value) {
			changes = append(changes, fmt.Sprintf("Backend.%s %s -> %s", names[key].name, a[key], b[key]))
		}
	}
	return changes
}

// A backendField is one field of the Backend object.
type backendField struct {
	name  string
	value any
}

func (f backendField) String() string {
	switch v := f.value.(type) {
	case nil:
		return "unset"
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return "(not shown)"
}

// backendFields returns all fields but the type, by their names in lower case,
// because case does not count.
func backendFields(c Config) map[string]backendField {
	var raw map[string]any
	fields := map[string]backendField{}
	if err := json.Unmarshal(c.Backend, &raw); err != nil {
		return fields // there is none; what is no object is no valid config
	}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if key := strings.ToLower(name); key != "type" {
			fields[key] = backendField{name, raw[name]}
		}
	}
	return fields
}
