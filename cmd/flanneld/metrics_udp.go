package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"tweed/dataplane"
)

// suspicions are the reasons for which a packet can be suspect.
var suspicions = [...]dataplane.Reason{dataplane.UnknownPeer, dataplane.ForeignSource}

const batchesHelp = "Packets that were taken from the kernel in one go. With more of them at once, each costs less."

// udpFamilies are those of the udp backend, which carries packets itself.
// With other backends the kernel does, and counts.
func udpFamilies() []family {
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	perDirection := func(count func(d *direction, emit emitFunc)) func(*snapshot, emitFunc) {
		return func(s *snapshot, emit emitFunc) {
			for _, d := range directions(s.udp) {
				count(&d, func(n uint64, labels ...string) {
					emit(n, append([]string{d.name}, labels...)...)
				})
			}
		}
	}
	perDevice := func(count func(d *ioDevice, emit emitFunc)) func(*snapshot, emitFunc) {
		return func(s *snapshot, emit emitFunc) {
			for _, d := range ioDevices(s.udp) {
				count(&d, func(n uint64, labels ...string) {
					emit(n, append([]string{d.name}, labels...)...)
				})
			}
		}
	}
	direction1, deviceOp := []string{"direction"}, []string{"device", "op"}
	return []family{
		{"udp_packets_total", "Inner packets, to_peers from the TUN interface or from_peers into it. What was received and not sent was dropped, see tweed_udp_dropped_packets_total.",
			counter, []string{"direction", "stage"}, perDirection(func(d *direction, emit emitFunc) {
				emit(d.Received, "received")
				emit(d.Sent, "sent")
			})},
		{"udp_bytes_total", "Bytes of inner packets, with their IP headers but without the outer ones.",
			counter, []string{"direction", "stage"}, perDirection(func(d *direction, emit emitFunc) {
				emit(d.ReceivedBytes, "received")
				emit(d.SentBytes, "sent")
			})},
		{"udp_batches_total", "Times that packets were taken from the kernel.",
			counter, direction1, perDirection(func(d *direction, emit emitFunc) {
				emit(d.Batches)
			})},
		{"udp_dropped_packets_total", "Packets that were not carried on, by reason: no_route is for subnets that nobody has leased, ttl_exceeded is a sign of a loop, bad_checksum and the like of junk, send_failed of a kernel without room or route.",
			counter, []string{"direction", "reason"}, perDirection(func(d *direction, emit emitFunc) {
				for i, n := range d.Dropped {
					if reason := dataplane.Reason(i); reason != dataplane.NotDropped {
						emit(n, reason.String())
					}
				}
			})},
		{"udp_suspect_packets_total", "Packets from peers that were carried on, but that a strict check of their source would have dropped: unknown_peer came from an address without a lease, foreign_source from a subnet that the peer has not leased.",
			counter, []string{"direction", "reason"}, perDirection(func(d *direction, emit emitFunc) {
				if d.name != "from_peers" { // the kernel's own packets are beyond suspicion
					return
				}
				for _, reason := range suspicions {
					emit(d.Suspect[reason], reason.String())
				}
			})},
		{"udp_fragmented_packets_total", "Packets that were larger than the path MTU and left in fragments. Few should: it is slow.",
			counter, direction1, perDirection(func(d *direction, emit emitFunc) {
				emit(d.Fragmented)
			})},
		{"udp_icmp_errors_total", "ICMP errors about dropped packets, to where these came from: sent, or muted by the rate limit.",
			counter, []string{"direction", "result"}, perDirection(func(d *direction, emit emitFunc) {
				emit(d.Replies, "sent")
				emit(d.Muted, "muted")
			})},
		{"udp_receive_errors_total", "Errors of the kernel when packets were to be taken from it, such as that an earlier datagram could not be delivered. They are survived.",
			counter, direction1, perDirection(func(d *direction, emit emitFunc) {
				emit(d.RecvErrors)
			})},

		{"udp_io_calls_total", "System calls that moved packets. Packets per call tell how well calls are used.",
			counter, deviceOp, perDevice(func(d *ioDevice, emit emitFunc) {
				emit(d.Recvs, "recv")
				emit(d.Sends, "send")
			})},
		{"udp_io_superpackets_total", "Superpackets, each of which stands for several packets of one flow and costs the kernel little more than one of them.",
			counter, deviceOp, perDevice(func(d *ioDevice, emit emitFunc) {
				emit(d.RecvSupers, "recv")
				emit(d.SendSupers, "send")
			})},
		{"udp_io_segments_total", "Packets that were moved as parts of superpackets.",
			counter, deviceOp, perDevice(func(d *ioDevice, emit emitFunc) {
				emit(d.RecvSegments, "recv")
				emit(d.SendSegments, "send")
			})},
		{"udp_io_malformed_superpackets_total", "Superpackets that the kernel gave us and that make no sense. They were dropped.",
			counter, []string{"device"}, perDevice(func(d *ioDevice, emit emitFunc) {
				emit(d.RecvMalformed)
			})},
		{"udp_io_fallbacks_total", "Times that the kernel refused an offload and the packets were sent without it.",
			counter, []string{"device"}, perDevice(func(d *ioDevice, emit emitFunc) {
				emit(d.Fallbacks)
			})},
		{"udp_socket_overflows_total", "Buffers that the kernel dropped, because flanneld did not read fast enough and the receive buffer was full, or under a flood of junk by a filter. Each holds one datagram, or up to 128 that came together. They are in no other counter.",
			counter, nil, func(s *snapshot, emit emitFunc) {
				if s.udp != nil {
					emit(s.udp.Socket.Overflows)
				}
			}},
		{"udp_socket_restrictions_total", "Times that a filter was set because of a flood of junk, or for new peers during one. With it the kernel drops most of what does not come from the addresses of peers.",
			counter, nil, func(s *snapshot, emit emitFunc) {
				if s.udp != nil {
					emit(s.udp.Socket.Restrictions)
				}
			}},
		{"udp_offload", "Whether this offload of the kernel is in use: 1 or 0.",
			gauge, []string{"name"}, func(s *snapshot, emit emitFunc) {
				if s.udp == nil {
					return
				}
				for _, o := range s.udp.Offloads {
					emit(oneIf(o.On), o.Name)
				}
			}},
	}
}

// batchHistogram has a bucket for each element of BatchSizes: up to 1, 2, 4
// packets and so on. The last one is that of +Inf, which is implied.
func batchHistogram(desc *prometheus.Desc, d direction) prometheus.Metric {
	buckets := make(map[float64]uint64, len(d.BatchSizes)-1)
	var batches uint64
	for i, n := range d.BatchSizes {
		batches += n
		if i < len(d.BatchSizes)-1 {
			buckets[float64(uint64(1)<<i)] = batches
		}
	}
	return prometheus.MustNewConstHistogram(desc, batches, float64(d.Received), buckets, d.name)
}
