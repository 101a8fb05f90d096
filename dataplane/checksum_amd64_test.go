package dataplane

import "testing"

// The way of machines without AVX2 is right as well.
func TestSumWithoutBlocks(t *testing.T) {
	defer func(have bool) { haveBlocks = have }(haveBlocks)
	haveBlocks = false
	TestSum(t)
}
