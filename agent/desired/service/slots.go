package service

import (
	"net/netip"

	"github.com/weftnet/weftnet/agent/state"
)

// A random number below N chooses a slot, and N must be written in a rule. So there are rules for
// every N up to exactSlots, and beyond that for powers of two, whose slots are shared out among the
// endpoints: at least slotsEach to each of them and to none more than one above another, so that no
// endpoint gets more than an eighth above its share.
const (
	exactSlots = 32
	slotsEach  = 8
	maxSlots   = 1 << 16
	// stickySlots is the smallest number for Services with affinity. They have only a few sizes,
	// each eight times the one before.
	stickySlots = 64
)

// sizes are all numbers of slots that there are rules for; stickySizes those with affinity.
func sizes() []int {
	var out []int
	for n := 1; n <= exactSlots; n++ {
		out = append(out, n)
	}
	for n := 2 * exactSlots * slotsEach; n <= maxSlots; n *= 2 {
		out = append(out, n)
	}
	return out
}

func stickySizes() []int {
	var out []int
	for n := stickySlots; n < maxSlots; n *= slotsEach {
		out = append(out, n)
	}
	return append(out, maxSlots)
}

// sizeFor is the number of slots for n endpoints.
func sizeFor(n int) int {
	if n <= exactSlots {
		return n
	}
	size := 2 * exactSlots * slotsEach
	for size < n*slotsEach && size < maxSlots {
		size *= 2
	}
	return size
}

func stickySizeFor(n int) int {
	for _, size := range stickySizes() {
		if size >= n*slotsEach {
			return size
		}
	}
	return maxSlots
}

// spread shares size slots, a power of two, out among endpoints: it gives the index of an endpoint for
// each slot. Each endpoint has an order of its own in which it likes the slots, from its hash, and
// they take turns in choosing (as in Maglev, NSDI 2016, section 3.4). One that comes or goes
// therefore moves few slots of the others.
func spread(endpoints []netip.AddrPort, size int) []int {
	slots := make([]int, size)
	for i := range slots {
		slots[i] = -1
	}
	next, step := make([]uint32, len(endpoints)), make([]uint32, len(endpoints))
	for i, e := range endpoints {
		h := hash(e)
		next[i], step[i] = uint32(h), uint32(h>>32)|1 // odd, so that every slot comes up
	}
	mask := uint32(size - 1)
	for taken := 0; ; {
		for i := range endpoints {
			for slots[next[i]&mask] >= 0 {
				next[i] += step[i]
			}
			slots[next[i]&mask] = i
			if taken++; taken == size {
				return slots
			}
		}
	}
}

// hash is the FNV-1a hash of an address and port, stirred, since its upper bits hardly differ between
// neighbours.
func hash(e netip.AddrPort) uint64 {
	h := uint64(14695981039346656037)
	a := e.Addr().As16()
	for _, b := range append(a[:], byte(e.Port()>>8), byte(e.Port())) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	h = (h ^ h>>32) * 0xd6e8feb86659fd93
	return h ^ h>>32
}

// idBits is the size of an endpoint's number in a map with affinity. It leaves the upper byte of a mark
// alone, so that a number cannot be taken for a class.
const idBits = 24

// numbers gives each endpoint of a frontend a number from its hash, so that it keeps it while others
// come and go. Where two have the same, the later one takes the next that is free.
func numbers(endpoints []netip.AddrPort) []uint32 {
	out := make([]uint32, len(endpoints))
	taken := make(map[uint32]bool, len(endpoints))
	for i, e := range endpoints {
		n := uint32(hash(e)>>(64-idBits)) & (1<<idBits - 1)
		for taken[n] || n == 0 {
			n = (n + 1) & (1<<idBits - 1)
		}
		out[i], taken[n] = n, true
	}
	return out
}

// number as the value of a mark.
func mark(n uint32) state.Value { return state.MarkValue(n) }
