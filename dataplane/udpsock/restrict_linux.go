package udpsock

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

const (
	// maxRanges bounds the filter: kernels before 6.8 give all options of a socket
	// 20 KiB together (net.core.optmem_max), those of 32 bits 10 KiB, and a range
	// takes up to 39 bytes, more where net.core.bpf_jit_harden is set. It is a power
	// of two.
	maxRanges = 512

	udpHeader  = 8
	minIPv4    = 20
	netOff     = 0xfff00000 // SKF_NET_OFF: from the outer IPv4 header on
	sourceAddr = 12
	wholly     = 0xffffffff
)

// Restrict has the kernel drop, before they cost anything more, datagrams from
// other addresses than these, and those that hold no IPv4 packet, but for one of
// dataplane.SampleOf. Stats counts them as Overflows. Of peers in more than 512
// ranges of addresses, it lets the smallest gaps between them pass, too. No peers
// end the restriction. It may be called at any time.
//
// The filter is one of socket(7), SO_ATTACH_FILTER, which needs no privilege and
// sees a datagram from its UDP header on (Documentation/networking/filter.rst).
func (s *Socket) Restrict(peers []netip.Addr) error {
	fd, err := s.file.Enter()
	if err != nil {
		return s.fail("restrict", err)
	}
	defer s.file.Leave()
	if len(peers) == 0 {
		return detach(fd)
	}
	err = attach(fd, restriction(addrRanges(peers, maxRanges)))
	if errors.Is(err, unix.ENOMEM) {
		_ = detach(fd) // the filter that is there has a part of the memory
	}
	for most := maxRanges; errors.Is(err, unix.ENOMEM) && most > 0; most /= 2 {
		err = attach(fd, restriction(addrRanges(peers, most)))
	}
	if err == nil {
		s.count.Restrictions.Add(1)
	}
	return err
}

func detach(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	if err == unix.ENOENT {
		err = nil
	}
	return os.NewSyscallError("setsockopt SO_DETACH_FILTER", err)
}

func attach(fd int, filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return fmt.Errorf("assemble the socket filter: %w", err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}))
}

func restriction(peers []addrRange) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtRand},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: dataplane.SampleOf - 1}, // a power of two
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: wholly},
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: udpHeader + minIPv4, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: udpHeader, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 4 << 4, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: netOff + sourceAddr, Size: 4},
	}, search(peers)...)
}

// search accepts an address in register A that is in one of the ranges, which
// are rising. Conditional jumps reach 255 instructions, so it is a tree of short
// lists.
func search(rs []addrRange) []bpf.Instruction {
	const short = 16
	if len(rs) > short {
		mid := len(rs) / 2
		low, high := search(rs[:mid]), search(rs[mid:])
		return slices.Concat([]bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: rs[mid].first, SkipFalse: 1},
			bpf.Jump{Skip: uint32(len(low))},
		}, low, high)
	}
	var prog []bpf.Instruction
	for left := len(rs) - 1; left >= 0; left-- { // below all ranges before
		prog = append(prog,
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: rs[left].last, SkipTrue: uint8(2*left + 1)},
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: rs[left].first, SkipTrue: uint8(2*left + 1)})
	}
	return append(prog, bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: wholly})
}

// An addrRange is the IPv4 addresses from first to last.
type addrRange struct{ first, last uint32 }

// addrRanges returns the addresses as at most so many ranges, which rise and do
// not touch. What they have beside the addresses is as little as that allows.
func addrRanges(addrs []netip.Addr, most int) []addrRange {
	var numbers []uint32
	for _, a := range addrs {
		if a.Is4() {
			b := a.As4()
			numbers = append(numbers, binary.BigEndian.Uint32(b[:]))
		}
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	if len(numbers) == 0 {
		return nil
	}
	// A gap of 1 is none.
	gap := func(i int) uint32 { return numbers[i] - numbers[i-1] }
	var gaps []int // the number behind each
	for i := 1; i < len(numbers); i++ {
		if gap(i) > 1 {
			gaps = append(gaps, i)
		}
	}
	if len(gaps) >= most {
		slices.SortStableFunc(gaps, func(i, j int) int { return -cmp.Compare(gap(i), gap(j)) })
		gaps = gaps[:most-1]
		slices.Sort(gaps)
	}
	var rs []addrRange
	first := numbers[0]
	for _, i := range gaps {
		rs = append(rs, addrRange{first, numbers[i-1]})
		first = numbers[i]
	}
	return append(rs, addrRange{first, numbers[len(numbers)-1]})
}
