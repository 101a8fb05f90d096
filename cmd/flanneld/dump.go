package main

import (
	"fmt"
	"strings"
	"time"

	"tweed/dataplane"
)

// dump logs what /metrics tells, for a reader: each line begins with "stats: "
// and is of use alone. It logs at slog.LevelInfo, so that neither -v nor the
// floodGate holds anything back.
func (n *node) dump() {
	s := n.snapshot()
	for _, line := range s.lines() {
		n.log.Info("stats: " + line)
	}
}

// lines returns the text of the dump.
func (s *snapshot) lines() []string {
	all := []string{"flanneld " + versionText() + ", " + readyText(s.ready)}
	for _, c := range s.conditions {
		all = append(all, conditionText(c))
	}
	all = append(all, s.stateText())
	switch {
	case s.udp != nil:
	case s.backend == "":
		return append(all, "no packet counters yet")
	default:
		return append(all, "no packet counters: flanneld has them with the udp backend only, which carries packets itself")
	}
	for _, d := range directions(s.udp) {
		name := strings.ReplaceAll(d.name, "_", " ")
		all = append(all,
			name+": "+carriedText(&d.Stats),
			name+" dropped: "+reasonsText(d.Dropped),
			name+" batches by packets: "+batchesText(d.BatchSizes))
		if d.Suspect != (dataplane.Reasons{}) {
			all = append(all, name+" suspect: "+reasonsText(d.Suspect))
		}
	}
	for _, d := range ioDevices(s.udp) {
		all = append(all, d.name+": "+ioText(&d.IOStats))
	}
	var offloads []string
	for _, o := range s.udp.Offloads {
		offloads = append(offloads, o.Name+" "+onOff(o.On))
	}
	return append(all, "offloads: "+listText(offloads, "none"))
}

func readyText(ready bool) string {
	if ready {
		return "ready"
	}
	return "not ready yet"
}

func conditionText(c condition) string {
	text := "ok"
	if !c.OK {
		text = "not ok: " + c.Reason
	}
	return fmt.Sprintf("condition %s: %s (since %s)", c.Name, text, c.Since.Format(time.DateTime))
}

// stateText tells what there is of backend, lease and peers.
func (s *snapshot) stateText() string {
	if s.backend == "" {
		return "no backend yet, as there is no network config yet"
	}
	text := "backend " + s.backend
	if s.subnet.IsValid() {
		text += ", lease " + s.subnet.String()
	} else {
		text += ", no lease"
	}
	if s.leasesLost > 0 {
		text += fmt.Sprintf(", leases lost %d", s.leasesLost)
	}
	if s.synced {
		text += fmt.Sprintf(", peers %d", s.peers)
	} else {
		text += ", peers not known yet"
	}
	if s.listed {
		text += fmt.Sprintf(", bad records %d, refused leases %d", s.badRecords, s.refused)
	}
	return text
}

func carriedText(s *dataplane.Stats) string {
	perBatch := 0.0
	if s.Batches > 0 {
		perBatch = float64(s.Received) / float64(s.Batches)
	}
	return fmt.Sprintf("received %d packets %d bytes, sent %d packets %d bytes, batches %d (%.1f packets each), fragmented %d, ICMP errors sent %d muted %d, receive errors %d",
		s.Received, s.ReceivedBytes, s.Sent, s.SentBytes, s.Batches, perBatch, s.Fragmented, s.Replies, s.Muted, s.RecvErrors)
}

func ioText(s *dataplane.IOStats) string {
	return fmt.Sprintf("recv calls %d, superpackets %d of %d segments, malformed %d, overflows %d, restrictions %d; send calls %d, superpackets %d of %d segments, fallbacks %d",
		s.Recvs, s.RecvSupers, s.RecvSegments, s.RecvMalformed, s.Overflows, s.Restrictions, s.Sends, s.SendSupers, s.SendSegments, s.Fallbacks)
}

func reasonsText(counts dataplane.Reasons) string {
	var parts []string
	for i, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", dataplane.Reason(i), n))
		}
	}
	return listText(parts, "nothing")
}

// batchesText has what is not 0 of sizes, such as "1: 7, 3-4: 2, 129+: 1".
func batchesText(sizes dataplane.BatchSizes) string {
	var parts []string
	least := 1 // of the packets of element i
	for i, n := range sizes {
		most := 1 << i
		text := fmt.Sprint(least)
		switch {
		case i == len(sizes)-1:
			text += "+"
		case least < most:
			text += fmt.Sprintf("-%d", most)
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d", text, n))
		}
		least = most + 1
	}
	return listText(parts, "none")
}

func listText(parts []string, none string) string {
	if len(parts) == 0 {
		return none
	}
	return strings.Join(parts, ", ")
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
