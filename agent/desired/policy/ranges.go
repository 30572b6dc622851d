package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// addrRange is a range of addresses of one family, both ends included.
type addrRange struct{ first, last netip.Addr }

func (r addrRange) contains(a netip.Addr) bool {
	return a.BitLen() == r.first.BitLen() && r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0
}

func inRanges(ranges []addrRange, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r addrRange) bool { return r.contains(a) })
}

// parseRange reads a prefix. Bits behind its length do not matter.
func parseRange(cidr string) (addrRange, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return addrRange{}, fmt.Errorf("%q is no CIDR", cidr)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return addrRange{}, fmt.Errorf("%q is no CIDR of one family", cidr)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	end, _ := netip.AddrFromSlice(last)
	return addrRange{p.Addr(), end}, nil
}

// subtract takes ranges out of one, which may leave it in pieces.
func subtract(from addrRange, holes []addrRange) []addrRange {
	out := []addrRange{from}
	for _, h := range holes {
		var rest []addrRange
		for _, r := range out {
			rest = append(rest, cut(r, h)...)
		}
		out = rest
	}
	return out
}

// cut takes one range out of another.
func cut(r, hole addrRange) []addrRange {
	if r.first.BitLen() != hole.first.BitLen() || hole.last.Less(r.first) || r.last.Less(hole.first) {
		return []addrRange{r}
	}
	var out []addrRange
	if r.first.Less(hole.first) {
		out = append(out, addrRange{r.first, hole.first.Prev()})
	}
	if hole.last.Less(r.last) {
		out = append(out, addrRange{hole.last.Next(), r.last})
	}
	return out
}

// merge sorts ranges and joins those that overlap or touch, as a set of intervals needs them.
func merge(in []addrRange) []addrRange {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b addrRange) int { return a.first.Compare(b.first) })
	var out []addrRange
	for _, r := range in {
		if n := len(out) - 1; n >= 0 && joins(out[n], r) {
			if out[n].last.Less(r.last) {
				out[n].last = r.last
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// joins tells whether b, which does not begin before a, overlaps or touches it.
func joins(a, b addrRange) bool {
	if a.first.BitLen() != b.first.BitLen() {
		return false
	}
	next := a.last.Next()
	return b.first.Compare(a.last) <= 0 || (next.IsValid() && b.first == next)
}
