package plan

import (
	"net/netip"
	"time"
)

// Input is everything that a plan is made from. Compute does not change it.
type Input struct {
	Nodes     []Node
	MeshNodes []MeshNode
	Pools     []Pool
	Blocks    []Block
	// Services are the ranges of all ServiceCIDR objects.
	Services []netip.Prefix
	// HasConfig says whether there is a MeshConfig named default.
	HasConfig bool
	// Cooldown is how long a block is kept back after its node went.
	Cooldown time.Duration
}

// Node is a node of the cluster.
type Node struct {
	Name string
	// UID of the Node object, for the owner reference.
	UID string
	// Addresses are the internal addresses that the Node object claims.
	Addresses []netip.Addr
	// Pools are the names of the pools whose selector matches the node.
	Pools []string
}

// MeshNode is the operator's part of a MeshNode.
type MeshNode struct {
	Name string
	// OwnerUID is that of the Node that the object is owned by.
	OwnerUID string
	// Created is when the object came to be, in seconds; it decides between duplicates.
	Created  int64
	PodCIDRs []netip.Prefix
	MeshIPs  []netip.Addr
	NodeIPs  []netip.Addr
	// Malformed says that the spec holds something that is no address.
	Malformed bool
	Allocated Condition
}

// Pool is an IPPool.
type Pool struct {
	Name string
	// Created is when the object came to be, in seconds; the older pool comes first.
	Created  int64
	Disabled bool
	Ranges   []Range
	// Invalid says why the pool cannot be read at all; empty when it can.
	Invalid string
}

// Range is one range of a pool.
type Range struct {
	CIDR netip.Prefix
	// BlockSize is the prefix length of a block, the default filled in.
	BlockSize int
	// Accepted says that the range was in use before; it then ranks before all that came later.
	Accepted bool
}

// Block is a NodeBlock: the record that a block belongs to a node.
type Block struct {
	CIDR  netip.Prefix
	Node  string
	Pool  string
	State State
	// Left of the cooldown, as written down. Only while cooling.
	Left time.Duration
	// Observed is how long this state of the object has been seen without a change. Only for input.
	Observed time.Duration
	// Pending says that the object was created a moment ago and has not come back through the
	// cache: it counts as taken, and is not judged. Only for input.
	Pending bool
}

// State of a Block.
type State int

// The states, in the order in which a block goes through them.
const (
	Claimed State = iota
	Bound
	Cooling
)

func (s State) String() string {
	return [...]string{"Claimed", "Bound", "Cooling"}[s]
}
