package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// poolRange is a range with the verdict on it.
type poolRange struct {
	Range
	pool *Pool
	span *span
	// refused says why nothing is given from the range.
	refused string
	// overlaps says what an accepted range overlaps: it goes on with the blocks that do not.
	overlaps string
}

// judgeRanges decides which ranges are used. Those in use before come first: what came later and
// overlaps them is refused, however old its pool is.
func (p *planner) judgeRanges() {
	for _, pool := range p.pools {
		ranges := slices.Clone(pool.Ranges)
		slices.SortFunc(ranges, func(a, b Range) int { return comparePrefix(a.CIDR, b.CIDR) })
		for _, r := range ranges {
			p.ranges = append(p.ranges, &poolRange{Range: r, pool: pool})
		}
	}
	order := slices.Clone(p.ranges)
	slices.SortStableFunc(order, func(a, b *poolRange) int { return -cmpBool(a.Accepted, b.Accepted) })
	var used []*poolRange
	for _, r := range order {
		r.refused = p.refusal(r, used)
		if r.refused != "" {
			continue
		}
		r.span = newSpan(r.CIDR, r.BlockSize)
		used = append(used, r)
	}
}

// refusal is the reason why a range is not used, empty when it is.
func (p *planner) refusal(r *poolRange, used []*poolRange) string {
	if r.pool.Invalid != "" {
		return r.pool.Invalid
	}
	if fault := rangeFault(r.Range); fault != "" {
		return fault
	}
	for _, other := range used {
		if other.CIDR.Overlaps(r.CIDR) {
			return fmt.Sprintf("%s overlaps %s of the IPPool %s, which was there first", r.CIDR, other.CIDR, other.pool.Name)
		}
	}
	foreign := p.foreign(r.CIDR)
	if r.Accepted {
		r.overlaps = foreign
		return ""
	}
	return foreign
}

// rangeFault repeats what admission checks, for objects that came past it.
func rangeFault(r Range) string {
	switch {
	case !r.CIDR.IsValid() || r.CIDR != r.CIDR.Masked() || r.CIDR.Addr().Is4In6():
		return fmt.Sprintf("%s is not a canonical range of addresses", r.CIDR)
	case r.BlockSize < r.CIDR.Bits() || r.BlockSize > r.CIDR.Addr().BitLen()-2:
		return fmt.Sprintf("block size /%d does not fit %s", r.BlockSize, r.CIDR)
	case r.BlockSize-r.CIDR.Bits() > 48:
		return fmt.Sprintf("block size /%d cuts %s into more than 2^48 blocks", r.BlockSize, r.CIDR)
	}
	return ""
}

// foreign names the Service range or node address that a range overlaps.
func (p *planner) foreign(cidr netip.Prefix) string {
	for _, service := range p.in.Services {
		if service.Overlaps(cidr) {
			return fmt.Sprintf("%s overlaps the Service range %s", cidr, service)
		}
	}
	for _, node := range p.nodes {
		for _, addr := range node.Addresses {
			if cidr.Contains(addr) {
				return fmt.Sprintf("%s contains the address %s of the node %s", cidr, addr, node.Name)
			}
		}
	}
	return ""
}

// fits says whether a block is one that a range in use is cut into.
func (p *planner) fits(block netip.Prefix) *poolRange {
	for _, r := range p.ranges {
		if r.refused == "" && block.Bits() == r.BlockSize && r.CIDR.Overlaps(block) {
			return r
		}
	}
	return nil
}

// inRange says whether the address lies in a range in use.
func (p *planner) inRange(addr netip.Addr) *poolRange {
	for _, r := range p.ranges {
		if r.refused == "" && r.CIDR.Contains(addr) {
			return r
		}
	}
	return nil
}

func cmpBool(a, b bool) int {
	return cmp.Compare(btoi(a), btoi(b))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
