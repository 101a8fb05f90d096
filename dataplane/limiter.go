package dataplane

import "time"

// The kernel's own limits (net.ipv4.icmp_msgs_per_sec, icmp_msgs_burst).
const (
	icmpPerSecond = 1000
	icmpBurst     = 50
)

// limiter is a token bucket for ICMP errors (RFC 1812, 4.3.2.8). The zero
// value is full.
type limiter struct {
	spent float64 // tokens
	last  time.Time
}

func (l *limiter) allow(now time.Time) bool {
	l.spent = max(0, l.spent-now.Sub(l.last).Seconds()*icmpPerSecond)
	l.last = now
	if l.spent+1 > icmpBurst {
		return false
	}
	l.spent++
	return true
}
