package service

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func many(n int) []netip.AddrPort {
	var out []netip.AddrPort
	for i := range n {
		out = append(out, netip.MustParseAddrPort(fmt.Sprintf("10.%d.%d.%d:8080", 240+i>>16, i>>8&255, i&255)))
	}
	return out
}

// TestSizes: there is a size for every number of endpoints, with as many slots for each as promised.
func TestSizes(t *testing.T) {
	for n := 1; n <= 5000; n++ {
		size := sizeFor(n)
		if !slices.Contains(sizes(), size) || size < n || n > exactSlots && size < n*slotsEach {
			t.Fatalf("%d endpoints have %d slots", n, size)
		}
		if size = stickySizeFor(n); !slices.Contains(stickySizes(), size) || size < n*slotsEach {
			t.Fatalf("%d endpoints with affinity have %d slots", n, size)
		}
	}
	if sizeFor(100_000) != maxSlots || stickySizeFor(100_000) != maxSlots {
		t.Error("too many endpoints do not have the most slots")
	}
}

func TestSpreadIsFair(t *testing.T) {
	for _, n := range []int{1, 3, 33, 64, 100, 500, 3000} {
		count := make([]int, n)
		size := max(sizeFor(n), stickySizeFor(n))
		for _, i := range spread(many(n), size) {
			count[i]++
		}
		if low, high := slices.Min(count), slices.Max(count); high-low > 1 || low < size/n {
			t.Errorf("%d endpoints have from %d to %d of %d slots", n, low, high, size)
		}
	}
}

// TestSpreadIsSteady: one endpoint that goes moves its own slots and few others.
func TestSpreadIsSteady(t *testing.T) {
	for _, n := range []int{40, 100, 1000} {
		all := many(n)
		size := sizeFor(n)
		gone := n / 2
		rest := slices.Delete(slices.Clone(all), gone, gone+1)
		before, after := spread(all, size), spread(rest, size)
		moved := 0
		for slot := range before {
			if all[before[slot]] != rest[after[slot]] {
				moved++
			}
		}
		if share := size / n; moved < share || moved > size/4 {
			t.Errorf("of %d slots %d moved, the endpoint had %d", size, moved, share)
		}
	}
}

func TestNumbersAreUniqueAndSteady(t *testing.T) {
	all := many(20_000) // enough that some begin with the same
	ids := numbers(all)
	seen := map[uint32]bool{}
	for _, id := range ids {
		if id == 0 || id&markMask != 0 || seen[id] {
			t.Fatalf("number %#x", id)
		}
		seen[id] = true
	}
	kept := 0
	for i, id := range numbers(all[1:]) {
		if id == ids[i+1] {
			kept++
		}
	}
	if kept < 19_900 {
		t.Errorf("%d of 19999 endpoints kept their number", kept)
	}
}
