package dataplane

import "golang.org/x/sys/cpu"

// haveBlocks says whether sumBlocks may be called on this machine.
var haveBlocks = cpu.X86.HasAVX2

// sumBlocks adds up the 32 bit words, in the byte order of the machine, of the
// n bytes at b. n must be a multiple of 32.
//
//go:noescape
func sumBlocks(b *byte, n int) uint64
