package plan

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// span is a range cut into numbered blocks, and the search for one that is free.
type span struct {
	cidr netip.Prefix
	size int // prefix length of a block
	// taken blocks, by number, sorted by first.
	taken []interval
	// next is the lowest number that may be free; used counts blocks below it that were handed out.
	next  uint64
	given uint64
}

// interval of block numbers, both ends included.
type interval struct{ first, last uint64 }

func newSpan(cidr netip.Prefix, size int) *span { return &span{cidr: cidr, size: size} }

// blocks is how many the range is cut into. Admission holds it to 2^48.
func (s *span) blocks() uint64 { return 1 << min(uint(s.size-s.cidr.Bits()), 63) }

// take marks all blocks that overlap p.
func (s *span) take(p netip.Prefix) {
	if !s.cidr.Overlaps(p) {
		return
	}
	if p.Bits() <= s.cidr.Bits() {
		s.taken = append(s.taken, interval{0, s.blocks() - 1})
		return
	}
	first := s.number(p.Addr())
	last := first
	if p.Bits() < s.size {
		last += 1<<uint(s.size-p.Bits()) - 1
	}
	s.taken = append(s.taken, interval{first, last})
}

// seal sorts what was taken and merges it. It comes between the last take and the first of the
// questions below.
func (s *span) seal() {
	slices.SortFunc(s.taken, func(a, b interval) int { return cmp.Compare(a.first, b.first) })
	merged := s.taken[:0]
	for _, t := range s.taken {
		if n := len(merged); n > 0 && t.first <= merged[n-1].last {
			merged[n-1].last = max(merged[n-1].last, t.last)
			continue
		}
		merged = append(merged, t)
	}
	s.taken = merged
}

// give hands out the lowest free block.
func (s *span) give() (netip.Prefix, bool) {
	for len(s.taken) > 0 && s.taken[0].first <= s.next {
		s.next = max(s.next, s.taken[0].last+1)
		s.given += s.taken[0].last - s.taken[0].first + 1
		s.taken = s.taken[1:]
	}
	if s.next >= s.blocks() {
		return netip.Prefix{}, false
	}
	block := s.block(s.next)
	s.next++
	s.given++
	return block, true
}

// free counts the blocks that are neither taken nor given.
func (s *span) free() int64 {
	used := s.given
	for _, t := range s.taken {
		used += t.last - t.first + 1
	}
	return int64(s.blocks() - used)
}

// number of the block that holds an address.
func (s *span) number(addr netip.Addr) uint64 {
	high, low := words(addr)
	baseHigh, baseLow := words(s.cidr.Addr())
	low, borrow := bits.Sub64(low, baseLow, 0)
	high, _ = bits.Sub64(high, baseHigh, borrow)
	shift := s.shift()
	if shift >= 64 {
		return high >> (shift - 64)
	}
	return low>>shift | high<<(64-shift)
}

// block with a number.
func (s *span) block(number uint64) netip.Prefix {
	high, low := words(s.cidr.Addr())
	shift := s.shift()
	var addHigh, addLow uint64
	if shift >= 64 {
		addHigh = number << (shift - 64)
	} else {
		addLow, addHigh = number<<shift, number>>(64-shift)
	}
	low, carry := bits.Add64(low, addLow, 0)
	high, _ = bits.Add64(high, addHigh, carry)
	return netip.PrefixFrom(address(high, low, s.cidr.Addr().Is4()), s.size)
}

// shift is how many bits of an address lie within a block.
func (s *span) shift() uint { return uint(s.cidr.Addr().BitLen() - s.size) }

// words are the two halves of an address; an IPv4 address is all in the low one.
func words(addr netip.Addr) (high, low uint64) {
	if addr.Is4() {
		four := addr.As4()
		return 0, uint64(binary.BigEndian.Uint32(four[:]))
	}
	sixteen := addr.As16()
	return binary.BigEndian.Uint64(sixteen[:8]), binary.BigEndian.Uint64(sixteen[8:])
}

func address(high, low uint64, is4 bool) netip.Addr {
	if is4 {
		var four [4]byte
		binary.BigEndian.PutUint32(four[:], uint32(low))
		return netip.AddrFrom4(four)
	}
	var sixteen [16]byte
	binary.BigEndian.PutUint64(sixteen[:8], high)
	binary.BigEndian.PutUint64(sixteen[8:], low)
	return netip.AddrFrom16(sixteen)
}
