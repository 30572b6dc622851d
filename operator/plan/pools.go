package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// named is how many nodes a message names before it only counts.
const named = 3

// poolStatuses reports on every pool.
func (p *planner) poolStatuses() []PoolStatus {
	outside := p.blocksOutside()
	waiting := p.waiting()
	statuses := make([]PoolStatus, 0, len(p.pools))
	for _, pool := range p.pools {
		s := PoolStatus{Name: pool.Name, Usage: p.usage(pool)}
		s.Conflict = p.conflict(pool)
		s.Exhausted = exhausted(waiting[pool.Name])
		s.Shrunk = shrunk(outside[pool.Name])
		s.Ready = ready(pool, s)
		statuses = append(statuses, s)
		p.reportPool(s)
	}
	slices.SortFunc(statuses, func(a, b PoolStatus) int { return strings.Compare(a.Name, b.Name) })
	return statuses
}

func (p *planner) reportPool(s PoolStatus) {
	for _, c := range []Condition{s.Conflict, s.Exhausted, s.Shrunk} {
		if c.True {
			p.report(KindPool, s.Name, c.Reason, c.Message)
		}
	}
	if s.Ready.Reason == ReasonInvalid {
		p.report(KindPool, s.Name, ReasonInvalid, s.Ready.Message)
	}
}

// usage counts the blocks of every range of a pool.
func (p *planner) usage(pool *Pool) []Usage {
	var list []Usage
	for _, r := range p.ranges {
		if r.pool != pool {
			continue
		}
		u := Usage{CIDR: r.CIDR, BlockSize: r.BlockSize, Refused: r.refused}
		if r.span != nil {
			u.Allocated, u.Cooling = p.count(r)
			u.Free = r.span.free()
		}
		list = append(list, u)
	}
	return list
}

// count the blocks of a range, those that were given in this plan included.
func (p *planner) count(r *poolRange) (allocated, cooling int64) {
	for _, h := range p.holdings {
		for _, c := range h.claims {
			if !r.CIDR.Contains(c.CIDR.Addr()) || c.loser {
				continue
			}
			allocated++
			if c.State == Cooling && !c.kept {
				cooling++
			}
		}
	}
	return allocated, cooling
}

// blocksOutside are, per pool, the blocks that its ranges no longer contain.
func (p *planner) blocksOutside() map[string][]*claim {
	ranges := make(map[string][]netip.Prefix, len(p.pools))
	for _, r := range p.ranges {
		ranges[r.pool.Name] = append(ranges[r.pool.Name], r.CIDR)
	}
	outside := make(map[string][]*claim)
	for _, h := range p.holdings {
		for _, c := range h.claims {
			within := slices.ContainsFunc(ranges[c.Pool], func(r netip.Prefix) bool {
				return r.Bits() <= c.CIDR.Bits() && r.Contains(c.CIDR.Addr())
			})
			if !within && !c.loser {
				outside[c.Pool] = append(outside[c.Pool], c)
			}
		}
	}
	return outside
}

// waiting are, per pool, the nodes that wanted a block of it and found none.
func (p *planner) waiting() map[string][]string {
	waiting := make(map[string][]string)
	for _, h := range p.holdings {
		for f, lack := range h.lack {
			if lack.Reason != ReasonExhausted {
				continue
			}
			for _, r := range p.ranges {
				if family(r.CIDR.Addr()) == f && r.refused == "" && !r.pool.Disabled &&
					slices.Contains(h.node.Pools, r.pool.Name) && !slices.Contains(waiting[r.pool.Name], h.name) {
					waiting[r.pool.Name] = append(waiting[r.pool.Name], h.name)
				}
			}
		}
	}
	return waiting
}

func (p *planner) conflict(pool *Pool) Condition {
	var texts []string
	for _, r := range p.ranges {
		switch {
		case r.pool != pool || pool.Invalid != "":
		case r.refused != "":
			texts = append(texts, r.refused+": the range is not used")
		case r.overlaps != "":
			texts = append(texts, r.overlaps+": blocks that overlap are not given; those of nodes stay")
		}
	}
	if len(texts) == 0 {
		return Condition{Reason: ReasonNoOverlap, Message: "no range overlaps another pool, a Service range or a node address"}
	}
	return Condition{True: true, Reason: ReasonOverlap, Message: strings.Join(texts, "; ")}
}

func exhausted(nodes []string) Condition {
	if len(nodes) == 0 {
		return Condition{Reason: ReasonBlocksFree, Message: "no node waits for a block"}
	}
	return Condition{True: true, Reason: ReasonExhausted,
		Message: fmt.Sprintf("no block is left for %s: add a range or remove nodes; blocks of nodes that went come back after the cooldown", enumerate(nodes))}
}

func shrunk(outside []*claim) Condition {
	if len(outside) == 0 {
		return Condition{Reason: ReasonWithin, Message: "every block lies within the ranges"}
	}
	texts := make([]string, len(outside))
	for i, c := range outside {
		texts[i] = fmt.Sprintf("%s (%s)", c.Node, c.CIDR)
	}
	return Condition{True: true, Reason: ReasonShrunk,
		Message: fmt.Sprintf("the ranges no longer contain blocks that are in use, and these stay where they are: %s", enumerate(texts))}
}

// ready sums up: what is worst comes first.
func ready(pool *Pool, s PoolStatus) Condition {
	switch {
	case pool.Invalid != "":
		return Condition{Reason: ReasonInvalid, Message: pool.Invalid}
	case s.Conflict.True:
		return Condition{Reason: s.Conflict.Reason, Message: s.Conflict.Message}
	case s.Shrunk.True:
		return Condition{Reason: s.Shrunk.Reason, Message: s.Shrunk.Message}
	case s.Exhausted.True:
		return Condition{Reason: s.Exhausted.Reason, Message: s.Exhausted.Message}
	case pool.Disabled:
		return Condition{True: true, Reason: ReasonPoolDisabled, Message: "disabled: gives no new blocks, and takes none away"}
	}
	return Condition{True: true, Reason: ReasonReady, Message: "gives blocks to nodes"}
}

// enumerate names the first few and counts the rest.
func enumerate(names []string) string {
	if len(names) <= named {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:named], ", "), len(names)-named)
}

func sortBlocks(blocks []Block) {
	slices.SortFunc(blocks, func(a, b Block) int { return comparePrefix(a.CIDR, b.CIDR) })
}

func sortPrefixes(prefixes []netip.Prefix) { slices.SortFunc(prefixes, comparePrefix) }
