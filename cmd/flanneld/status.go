package main

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// statusEvery is how often the state is looked at for STATUS= (sd_notify(3)).
const statusEvery = time.Second

// statusLine makes one line of text that systemd takes for a STATUS, of at most
// 300 bytes.
func statusLine(text string) string {
	const most = 300
	text = strings.ToValidUTF8(strings.Join(strings.Fields(printable(text)), " "), "?")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most-3], "") + "..."
	}
	return text
}

// A statusTeller tells systemd the state of the daemon when it has changed.
type statusTeller struct {
	log  *slog.Logger
	told string
}

func (t *statusTeller) tell(s *snapshot, stuck []string) {
	status := s.status()
	if len(stuck) > 0 {
		status = statusLine("stuck: " + strings.Join(stuck, "; "))
	}
	if status == t.told {
		return
	}
	t.told = status
	notify(t.log, "STATUS="+status)
}

// status says in one line what the daemon does, or what it waits for:
//
//	asking etcd for the network config
//	waiting for etcd since 2026-11-23 11:02:33: read /coreos.com/network/config: ...
//	waiting for a network config: read /coreos.com/network/config at ...: no network config: ...
//	acquiring a subnet
//	10.5.34.0/24 by vxlan, 12 peers
//	10.5.34.0/24 by vxlan, 12 peers; etcd does not answer since 2026-11-23 11:02:33
//	10.5.34.0/24 by vxlan, 12 peers; the network config in etcd is another by now
//	10.5.34.0/24 by vxlan; not ready: firewall: ...
//
// It knows nothing that readiness, vitals and the store do not know.
func (s *snapshot) status() string {
	reasons := make(map[string]string) // of what is not true
	var not []string
	for _, c := range s.conditions {
		if !c.OK {
			reasons[c.Name] = c.Reason
			not = append(not, c.Name+": "+c.Reason)
		}
	}
	config, noConfig := reasons[condConfig]
	lease, noLease := reasons[condLease]
	switch silent := !s.silentSince.IsZero(); {
	case noConfig && silent:
		return statusLine(fmt.Sprintf("waiting for etcd since %s: %s", s.silentSince.Format(time.DateTime), s.silentWhy))
	case noConfig && config == stillToCome:
		return "asking etcd for the network config"
	case noConfig:
		return statusLine("waiting for a network config: " + config)
	case noLease && silent:
		return statusLine(fmt.Sprintf("acquiring a subnet, waiting for etcd since %s: %s", s.silentSince.Format(time.DateTime), s.silentWhy))
	case noLease && lease == stillToCome:
		return "acquiring a subnet"
	case noLease:
		return statusLine("acquiring a subnet: " + lease)
	}
	text := fmt.Sprintf("%s by %s", s.subnet, s.backend)
	if s.synced {
		text += fmt.Sprintf(", %d peers", s.peers)
		if s.peers == 1 {
			text = strings.TrimSuffix(text, "s")
		}
	}
	if !s.silentSince.IsZero() {
		text += "; etcd does not answer since " + s.silentSince.Format(time.DateTime)
	}
	if s.differs {
		text += "; the network config in etcd is another by now"
	}
	if len(not) > 0 {
		text += "; not ready: " + strings.Join(not, "; ")
	}
	return statusLine(text)
}
