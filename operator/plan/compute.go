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
	nodes    []*Node     // by name
	meshes   []*MeshNode // the oldest first
	pools    []*Pool     // the oldest first
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
	// addresses are those of the Node that are nobody else's.
	addresses []netip.Addr
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

// newPlanner sorts, so that the order of the input does not matter. It sorts pointers and leaves the
// caller's slices as they are.
func newPlanner(in Input) *planner {
	p := &planner{
		in:     in,
		nodes:  sorted(in.Nodes, func(a, b *Node) int { return cmp.Compare(a.Name, b.Name) }),
		meshes: sorted(in.MeshNodes, func(a, b *MeshNode) int { return byAge(a.Created, b.Created, a.Name, b.Name) }),
		pools:  sorted(in.Pools, func(a, b *Pool) int { return byAge(a.Created, b.Created, a.Name, b.Name) }),
		byName: make(map[string]*holding, len(in.Nodes)),
		owner:  make(map[netip.Prefix]*claim, len(in.Blocks)),
	}
	p.in.Services = slices.Clone(in.Services)
	slices.SortFunc(p.in.Services, comparePrefix)
	for _, n := range p.nodes {
		p.holding(n.Name).node = n
	}
	for _, m := range p.meshes {
		p.holding(m.Name).mesh = m
	}
	prefixes := make([]netip.Prefix, 0, len(in.Blocks))
	for _, b := range sorted(in.Blocks, func(a, b *Block) int { return comparePrefix(a.CIDR, b.CIDR) }) {
		if p.owner[b.CIDR] != nil {
			continue
		}
		h := p.holding(b.Node)
		c := &claim{Block: *b, exists: true, inSpec: h.mesh != nil && slices.Contains(h.mesh.PodCIDRs, b.CIDR)}
		h.claims = append(h.claims, c)
		p.owner[b.CIDR] = c
		prefixes = append(prefixes, b.CIDR)
	}
	p.held = newIndex(prefixes)
	slices.SortFunc(p.holdings, func(a, b *holding) int { return cmp.Compare(a.name, b.name) })
	return p
}

// byAge puts the older first, and of equals the first by name.
func byAge(createdA, createdB int64, nameA, nameB string) int {
	return cmp.Or(cmp.Compare(createdA, createdB), cmp.Compare(nameA, nameB))
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

// sorted gives pointers to the elements, in order.
func sorted[T any](list []T, compare func(a, b *T) int) []*T {
	pointers := make([]*T, len(list))
	for i := range list {
		pointers[i] = &list[i]
	}
	slices.SortFunc(pointers, compare)
	return pointers
}
