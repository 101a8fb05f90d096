package ipam

import "net/netip"

// Total returns how many subnets may be leased.
func (p Plan) Total() int {
	return int((toU32(p.SubnetMax)-toU32(p.SubnetMin))>>(32-p.SubnetLen)) + 1
}

// Free returns how many of the subnets that may be leased overlap none of used,
// which may hold what Pick may be given.
func (p Plan) Free(used []netip.Prefix) int {
	step := uint64(1) << (32 - p.SubnetLen)
	next, end := uint64(toU32(p.SubnetMin)), uint64(toU32(p.SubnetMax))+step
	free := uint64(0)
	for _, s := range spans(used) {
		if until := min(s.start/step*step, end); until > next {
			free += (until - next) / step
		}
		next = max(next, (s.end+step-1)/step*step)
	}
	if next < end {
		free += (end - next) / step
	}
	return int(free)
}
