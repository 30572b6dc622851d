package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// planner holds what the stages hand to each other. It lives for one Compute.
type planner struct {
	in       Input
	ranges   []*poolRange
	holdings []*holding
	byName   map[string]*holding
	// held are all blocks that belong to somebody.
	held *index
	// owner of every held block.
	owner    map[netip.Prefix]*claim
	problems []Problem
	again    time.Duration
}

// holding is everything known of one name: its Node, its MeshNode, its blocks.
type holding struct {
	name   string
	node   *Node     // nil: the Node is gone
	mesh   *MeshNode // nil: there is none yet
	claims []*claim
	// keep are the blocks that the node has, per family.
	keep [2][]*claim
	// lost are blocks of the spec that turned out to be another's.
	lost []netip.Prefix
	// lack says for each family why the node has no block; empty when it has one or needs none.
	lack [2]Condition
}

// claim is a Block on its way through the plan.
type claim struct {
	Block
	exists bool // as a NodeBlock; else it is to be created
	inSpec bool // stands in the MeshNode of its node
	loser  bool // overlaps a block with the better right
	waits  bool // overlaps a block that is about to be withdrawn
	kept   bool
}

// Compute makes the plan.
func Compute(in Input) Output {
	p := newPlanner(in)
	p.judgeRanges()
	p.adoptSpecs()
	p.judgeClaims()
	p.keepBlocks()
	p.giveBlocks()
	out := Output{
		Blocks:    p.blocks(),
		MeshNodes: p.meshNodes(),
		Pools:     p.poolStatuses(),
	}
	slices.SortFunc(p.problems, compareProblem)
	out.Problems = slices.Compact(p.problems)
	out.Again = p.again
	return out
}

// newPlanner copies and sorts, so that neither the caller's slices nor their order matter.
func newPlanner(in Input) *planner {
	in.Nodes = sortedBy(in.Nodes, func(n Node) string { return n.Name })
	in.MeshNodes = slices.Clone(in.MeshNodes)
	slices.SortFunc(in.MeshNodes, func(a, b MeshNode) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name))
	})
	in.Pools = slices.Clone(in.Pools)
	slices.SortFunc(in.Pools, func(a, b Pool) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name))
	})
	in.Blocks = slices.Clone(in.Blocks)
	slices.SortFunc(in.Blocks, func(a, b Block) int { return comparePrefix(a.CIDR, b.CIDR) })
	in.Services = slices.Clone(in.Services)
	slices.SortFunc(in.Services, comparePrefix)

	p := &planner{in: in, byName: make(map[string]*holding, len(in.Nodes)), owner: make(map[netip.Prefix]*claim, len(in.Blocks))}
	for i := range in.Nodes {
		p.holding(in.Nodes[i].Name).node = &in.Nodes[i]
	}
	for i := range in.MeshNodes {
		p.holding(in.MeshNodes[i].Name).mesh = &in.MeshNodes[i]
	}
	prefixes := make([]netip.Prefix, 0, len(in.Blocks))
	for _, b := range in.Blocks {
		if p.owner[b.CIDR] != nil {
			continue
		}
		h := p.holding(b.Node)
		c := &claim{Block: b, exists: true, inSpec: h.mesh != nil && slices.Contains(h.mesh.PodCIDRs, b.CIDR)}
		h.claims = append(h.claims, c)
		p.owner[b.CIDR] = c
		prefixes = append(prefixes, b.CIDR)
	}
	p.held = newIndex(prefixes)
	p.holdings = sortedBy(p.holdings, func(h *holding) string { return h.name })
	return p
}

func (p *planner) holding(name string) *holding {
	h := p.byName[name]
	if h == nil {
		h = &holding{name: name}
		p.byName[name] = h
		p.holdings = append(p.holdings, h)
	}
	return h
}

func (p *planner) report(kind Kind, name string, reason Reason, message string) {
	p.problems = append(p.problems, Problem{Kind: kind, Name: name, Reason: reason, Message: message})
}

// askAgain keeps the earliest time at which the plan must be made again.
func (p *planner) askAgain(after time.Duration) {
	if p.again == 0 || after < p.again {
		p.again = after
	}
}

// sortedBy copies and sorts by a key.
func sortedBy[T any](list []T, key func(T) string) []T {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	return list
}
