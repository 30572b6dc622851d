package plan

import (
	"net/netip"
	"slices"
)

// index answers which of many prefixes overlap one. Most have the same one or two lengths, so
// looking upward is one map access per length; looking downward is a search in the sorted list.
type index struct {
	has    map[netip.Prefix]bool
	sorted []netip.Prefix
	// lengths that occur, per family.
	lengths [2][]int
}

// newIndex takes the list over and sorts it. It must not hold a prefix twice.
func newIndex(prefixes []netip.Prefix) *index {
	slices.SortFunc(prefixes, comparePrefix)
	x := &index{has: make(map[netip.Prefix]bool, len(prefixes)), sorted: prefixes}
	for _, p := range prefixes {
		x.note(p)
	}
	return x
}

func (x *index) note(p netip.Prefix) {
	x.has[p] = true
	f := family(p.Addr())
	if !slices.Contains(x.lengths[f], p.Bits()) {
		x.lengths[f] = append(x.lengths[f], p.Bits())
	}
}

// add keeps the order; it is for the rare prefix that comes later.
func (x *index) add(p netip.Prefix) {
	if x.has[p] {
		return
	}
	at, _ := slices.BinarySearchFunc(x.sorted, p, comparePrefix)
	x.sorted = slices.Insert(x.sorted, at, p)
	x.note(p)
}

// overlapping lists all others that overlap p, in order, p itself left out.
func (x *index) overlapping(p netip.Prefix) []netip.Prefix {
	var found []netip.Prefix
	if lengths := x.lengths[family(p.Addr())]; len(lengths) == 1 && lengths[0] == p.Bits() {
		return nil // of one length, different ones do not overlap
	}
	for _, length := range x.lengths[family(p.Addr())] {
		if length >= p.Bits() {
			continue
		}
		if wider := netip.PrefixFrom(p.Addr(), length).Masked(); x.has[wider] {
			found = append(found, wider)
		}
	}
	slices.SortFunc(found, comparePrefix)
	at, _ := slices.BinarySearchFunc(x.sorted, p, comparePrefix)
	for ; at < len(x.sorted) && p.Contains(x.sorted[at].Addr()); at++ {
		if x.sorted[at] != p {
			found = append(found, x.sorted[at])
		}
	}
	return found
}

// contains says whether any prefix holds the address.
func (x *index) contains(addr netip.Addr) bool {
	for _, length := range x.lengths[family(addr)] {
		if p, err := addr.Prefix(length); err == nil && x.has[p] {
			return true
		}
	}
	return false
}

// family is 0 for IPv4 and 1 for IPv6.
func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

var familyNames = [2]string{"IPv4", "IPv6"}
