package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// adoptSpecs looks at the blocks that stand in a MeshNode without being recorded as its own. One
// that fits a range and is nobody's is recorded again (the NodeBlocks were lost, say, to an old
// backup); any other is struck out.
func (p *planner) adoptSpecs() {
	for _, mesh := range p.meshes { // the oldest first: it wins over a duplicate
		h := p.byName[mesh.Name]
		for _, block := range mesh.PodCIDRs {
			if c := p.owner[block]; c != nil && c.Node == mesh.Name {
				continue
			}
			p.adopt(h, block)
		}
	}
}

func (p *planner) adopt(h *holding, block netip.Prefix) {
	other := p.owner[block]
	if other == nil {
		if overlapping := p.held.overlapping(block); len(overlapping) > 0 {
			other = p.owner[overlapping[0]]
		}
	}
	if other != nil {
		h.lost = append(h.lost, block)
		if other.Node != h.name {
			message := fmt.Sprintf("%s stands in the spec of %s but is %s's: struck out", block, h.name, other.Node)
			p.report(KindMeshNode, h.name, ReasonDuplicateBlock, message)
			p.report(KindNode, h.name, ReasonDuplicateBlock, message)
		}
		return
	}
	r := p.fits(block)
	if r == nil {
		return // meshNode reports that the spec is repaired
	}
	c := &claim{Block: Block{CIDR: block, Node: h.name, Pool: r.pool.Name}, inSpec: true}
	h.claims = append(h.claims, c)
	p.owner[block] = c
	p.held.add(block)
}

// judgeClaims finds claims that overlap others. What is not yet Bound gives way; of two such the
// later in order. Two Bound blocks that overlap cannot come about; should they, nothing is moved
// and both nodes are told.
func (p *planner) judgeClaims() {
	for _, block := range p.held.sorted {
		c := p.owner[block]
		for _, prefix := range p.held.overlapping(block) {
			other := p.owner[prefix]
			switch {
			case c.State != Claimed && other.State != Claimed:
				p.report(KindNode, c.Node, ReasonDuplicateBlock,
					fmt.Sprintf("%s overlaps %s of %s: delete one of the two nodes", block, prefix, other.Node))
			case c.State != Claimed:
			case other.State != Claimed || comparePrefix(prefix, block) < 0:
				c.loser = true
			default:
				c.waits = true
			}
		}
		if c.State == Claimed && !c.inSpec && !c.Pending && p.fits(block) == nil {
			c.loser = true // its range is gone or cut differently by now
		}
	}
}

// keepBlocks chooses per node and family which of its blocks it has: every one that it has been
// told of, else the one that has come furthest.
func (p *planner) keepBlocks() {
	for _, h := range p.holdings {
		slices.SortFunc(h.claims, func(a, b *claim) int {
			return cmp.Or(cmp.Compare(a.rank(), b.rank()), comparePrefix(a.CIDR, b.CIDR))
		})
		if h.node == nil {
			continue
		}
		for _, c := range h.claims {
			f := family(c.CIDR.Addr())
			first := len(h.keep[f]) == 0
			if c.loser || !first && c.rank() > rankTold {
				continue
			}
			c.kept = true
			h.keep[f] = append(h.keep[f], c)
		}
	}
}

// The ranks of the blocks that one node could have, the best first.
const (
	rankTold     = iota // recorded and in the spec
	rankBound           // recorded, not yet in the spec
	rankAdopted         // in the spec, not recorded
	rankReturned        // cooling down: the node has come back
	rankClaimed
)

func (c *claim) rank() int {
	switch {
	case c.inSpec && c.exists:
		return rankTold
	case c.State == Bound:
		return rankBound
	case !c.exists:
		return rankAdopted
	case c.State == Cooling:
		return rankReturned
	}
	return rankClaimed
}

// giveBlocks claims a free block for every node and family that has none, in the order of the
// nodes' names, from the first pool that selects the node and has one.
func (p *planner) giveBlocks() {
	p.takeHeld()
	for _, h := range p.holdings {
		if h.node == nil {
			continue
		}
		for f := range h.keep {
			if len(h.keep[f]) == 0 {
				p.give(h, f)
			}
		}
		if len(h.keep[0])+len(h.keep[1]) == 0 && h.lack[0].Reason == "" && h.lack[1].Reason == "" {
			h.lack[0] = Condition{Reason: ReasonNoPool, Message: noPool(len(p.pools))}
		}
	}
}

// takeHeld marks in every range what is not free: blocks of whatever size, and what a range in use
// has come to share with Services and nodes.
func (p *planner) takeHeld() {
	for _, r := range p.ranges {
		if r.refused != "" {
			continue
		}
		for _, block := range p.held.overlapping(netip.PrefixFrom(r.CIDR.Addr(), r.CIDR.Bits())) {
			r.span.take(block)
		}
		if p.held.has[r.CIDR] {
			r.span.take(r.CIDR)
		}
		if r.overlaps != "" {
			p.takeForeign(r)
		}
		r.span.seal()
	}
}

func (p *planner) takeForeign(r *poolRange) {
	for _, service := range p.in.Services {
		r.span.take(service)
	}
	for _, node := range p.nodes {
		for _, addr := range node.Addresses {
			r.span.take(netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
}

// give claims one block for a node, or notes why there is none.
func (p *planner) give(h *holding, f int) {
	for _, r := range p.ranges {
		if family(r.CIDR.Addr()) != f || !slices.Contains(h.node.Pools, r.pool.Name) {
			continue
		}
		switch {
		case r.refused != "":
			h.lacks(f, ReasonPoolRefused, fmt.Sprintf("no %s block: the IPPool %s refuses its range: %s", familyNames[f], r.pool.Name, r.refused))
		case r.pool.Disabled:
			h.lacks(f, ReasonPoolDisabled, fmt.Sprintf("no %s block: the IPPool %s is disabled", familyNames[f], r.pool.Name))
		default:
			block, ok := r.span.give()
			if ok {
				c := &claim{Block: Block{CIDR: block, Node: h.name, Pool: r.pool.Name}, kept: true}
				h.claims = append(h.claims, c)
				h.keep[f] = append(h.keep[f], c)
				h.lack[f] = Condition{}
				return
			}
			h.lacks(f, ReasonExhausted, fmt.Sprintf("no %s block: the IPPool %s has none left", familyNames[f], r.pool.Name))
		}
	}
}

// lacks notes why a family has no block; exhaustion says more than the rest.
func (h *holding) lacks(f int, reason Reason, message string) {
	if h.lack[f].Reason == "" || reason == ReasonExhausted && h.lack[f].Reason != ReasonExhausted {
		h.lack[f] = Condition{Reason: reason, Message: message}
	}
}

func noPool(pools int) string {
	if pools == 0 {
		return "there is no IPPool: create one"
	}
	return "no IPPool selects this node: check its labels and the pools' nodeSelector"
}
