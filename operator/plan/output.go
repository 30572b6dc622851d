package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Output is what shall be. Every list is complete, sorted and without duplicates.
type Output struct {
	// Blocks that shall exist; one that is missing here is to be deleted.
	Blocks []Block
	// MeshNodes that shall exist, one per Node.
	MeshNodes []MeshNode
	Pools     []PoolStatus
	Problems  []Problem
	// Again is after what time a plan must be made even if nothing changes; 0 is never.
	Again time.Duration
}

// Condition is the verdict on one aspect of an object.
type Condition struct {
	True    bool
	Reason  Reason
	Message string
}

// PoolStatus is what is known of a pool.
type PoolStatus struct {
	Name                               string
	Usage                              []Usage
	Ready, Conflict, Exhausted, Shrunk Condition
}

// Usage counts the blocks of a range.
type Usage struct {
	CIDR                     netip.Prefix
	BlockSize                int
	Allocated, Cooling, Free int64
	// Refused says why the range is not used; empty when it is.
	Refused string
}

// Kind of the object that a Problem is about.
type Kind string

// The kinds that problems are reported on.
const (
	KindNode     Kind = "Node"
	KindMeshNode Kind = "MeshNode"
	KindPool     Kind = "IPPool"
)

// Problem is something that its object's owner must know. It stops nothing else.
type Problem struct {
	Kind    Kind
	Name    string
	Reason  Reason
	Message string
}

// String is the form for logs.
func (p Problem) String() string {
	return fmt.Sprintf("%s %s: %s: %s", p.Kind, p.Name, p.Reason, p.Message)
}

// Reason is the one-word form of a verdict, for conditions and events.
type Reason string

// The reasons.
const (
	// Of a MeshNode's condition Allocated.
	ReasonAllocated    Reason = "Allocated"
	ReasonPending      Reason = "AllocationPending"
	ReasonNoPool       Reason = "NoPool"
	ReasonPoolDisabled Reason = "PoolDisabled"
	ReasonPoolRefused  Reason = "PoolRefused"
	ReasonExhausted    Reason = "PoolExhausted"

	// Of an IPPool's conditions.
	ReasonReady      Reason = "Ready"
	ReasonInvalid    Reason = "Invalid"
	ReasonOverlap    Reason = "Overlap"
	ReasonNoOverlap  Reason = "NoOverlap"
	ReasonBlocksFree Reason = "BlocksFree"
	ReasonShrunk     Reason = "ShrunkBelowAllocated"
	ReasonWithin     Reason = "WithinRanges"

	// Of problems without a condition.
	ReasonNoMeshConfig       Reason = "NoMeshConfig"
	ReasonDuplicateBlock     Reason = "DuplicateBlock"
	ReasonSpecRepaired       Reason = "SpecRepaired"
	ReasonNodeAddressRefused Reason = "NodeAddressRefused"
)

// MeshIP is a node's own address in a block: the one after the network address. (In IPv6 the
// network address itself is every router's, RFC 4291 section 2.6.1.)
func MeshIP(block netip.Prefix) netip.Addr { return block.Masked().Addr().Next() }

// Change is one step from the blocks that exist to those that shall.
type Change struct {
	Verb  Verb
	Block Block
}

// Verb of a Change.
type Verb string

// The verbs.
const (
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
)

// String is the form for logs.
func (c Change) String() string {
	return fmt.Sprintf("%s %s of %s %s", c.Verb, c.Block.CIDR, c.Block.Node, c.Block.State)
}

// Diff lists what turns the blocks that exist into those that shall. Both lists may be in any
// order.
func Diff(have, want []Block) []Change {
	compare := func(a, b *Block) int { return comparePrefix(a.CIDR, b.CIDR) }
	old, next := sorted(have, compare), sorted(want, compare)
	var changes []Change
	for len(old) > 0 || len(next) > 0 {
		order := 0
		switch {
		case len(old) == 0:
			order = 1
		case len(next) == 0:
			order = -1
		default:
			order = compare(old[0], next[0])
		}
		switch {
		case order < 0:
			changes = append(changes, Change{Delete, *old[0]})
		case order > 0:
			changes = append(changes, Change{Create, *next[0]})
		case old[0].State != next[0].State || old[0].Left != next[0].Left:
			changes = append(changes, Change{Update, *next[0]})
		}
		if order <= 0 {
			old = old[1:]
		}
		if order >= 0 {
			next = next[1:]
		}
	}
	return changes
}

// SameSpec says whether two MeshNodes ask for the same.
func SameSpec(a, b MeshNode) bool {
	return a.OwnerUID == b.OwnerUID && a.Malformed == b.Malformed && slices.Equal(a.PodCIDRs, b.PodCIDRs) &&
		slices.Equal(a.MeshIPs, b.MeshIPs) && slices.Equal(a.NodeIPs, b.NodeIPs)
}

// comparePrefix orders by family, address, then length: a range comes before what it contains.
func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func compareProblem(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
}
