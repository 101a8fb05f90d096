package subnet

import "slices"

// identity is what a Manager knows of its own record between Runs.
type identity struct {
	own   Lease   // as the store had it last; Attrs are what we want it to say
	wrote []Attrs // all that we may have written into it
	moved bool    // it may still say what we wanted earlier
	seen  int64   // the last revision of the store that we know of
}

// become takes over what this node publishes from now on.
func (m *Manager) become(a Attrs) {
	was := m.own.Attrs
	if was.PublicIP.IsValid() && was.PublicIP != a.PublicIP {
		m.table.former[was.PublicIP] = max(m.seen, m.own.Revision)
	}
	if !slices.ContainsFunc(m.wrote, a.Equal) {
		m.wrote = append(m.wrote[max(0, len(m.wrote)-15):], a) // addresses may change for years
	}
	if was.PublicIP.IsValid() && !was.Equal(a) {
		m.moved = true
		m.log.Info("publishing our lease anew", "subnet", m.own.Subnet, "was", describe(was, a), "now", describe(a, was))
	}
	m.own.Attrs = a
}

// saw notes the revision of a list. If it is lower than what was seen before, the
// store was restored from a backup: what is written from now on has lower revisions,
// too, and is not ours because of a former address.
func (m *Manager) saw(rev int64) {
	if rev < m.seen {
		for ip, since := range m.table.former {
			m.table.former[ip] = min(since, rev)
		}
	}
	m.seen = rev
}

// describe tells a from other.
func describe(a, other Attrs) string {
	if a.PublicIP != other.PublicIP {
		return a.PublicIP.String()
	}
	return a.PublicIP.String() + " " + a.BackendType + " " + string(a.BackendData)
}

// resume returns own with what an earlier Run, or Acquire, knows better.
func (m *Manager) resume(own Lease) Lease {
	m.become(own.Attrs)
	if m.own.Subnet == own.Subnet {
		own.Revision, own.Expires = m.own.Revision, m.own.Expires
	}
	m.own = own
	return own
}

// wroteBefore reports whether l, which is under our key and does not say what we
// want, is what we wrote there earlier: until a change of ours is known to have
// arrived, or in a backup of the store from before. Another node may have got our
// former address, and have taken the record over with it.
func (m *Manager) wroteBefore(l Lease) bool {
	if l.Subnet != m.own.Subnet {
		return false
	}
	if slices.ContainsFunc(m.wrote, l.Attrs.Equal) {
		return m.moved || l.Revision <= m.own.Revision
	}
	// Someone had changed it, but it is the one that we know.
	return l.Revision == m.own.Revision && l.Attrs.PublicIP != m.own.Attrs.PublicIP &&
		slices.ContainsFunc(m.wrote, func(a Attrs) bool { return a.PublicIP == l.Attrs.PublicIP })
}
