package v1alpha1

// Condition types. Ready is on every kind; the others say which part of it fails.
const (
	// ConditionReady sums up the others.
	ConditionReady = "Ready"
	// ConditionAllocated on a MeshNode: the operator has given it blocks of every family. It is the
	// only part of a MeshNode's status that the operator writes, by server-side apply.
	ConditionAllocated = "Allocated"
	// ConditionMeshReady on a MeshNode: device, routes and fail-closed rules are in force.
	ConditionMeshReady = "MeshReady"
	// ConditionPeersConnected on a MeshNode: every expected peer has a good handshake.
	ConditionPeersConnected = "PeersConnected"
	// ConditionExhausted on an IPPool: a node wanted a block and none was free.
	ConditionExhausted = "Exhausted"
	// ConditionConflict on an IPPool: a range overlaps something else and is not used.
	ConditionConflict = "Conflict"
	// ConditionShrunk on an IPPool: nodes hold blocks that the ranges no longer contain.
	ConditionShrunk = "Shrunk"
)

// Reasons of the conditions that the operator writes, and of its events.
const (
	// ReasonAllocated : the node has a block of every family.
	ReasonAllocated = "Allocated"
	// ReasonPending : blocks are claimed and not yet confirmed.
	ReasonPending = "AllocationPending"
	// ReasonNoPool : no IPPool selects the node, or there is none.
	ReasonNoPool = "NoPool"
	// ReasonPoolDisabled : the only pools that select the node are disabled.
	ReasonPoolDisabled = "PoolDisabled"
	// ReasonPoolRefused : the ranges of the pools that select the node are all refused.
	ReasonPoolRefused = "PoolRefused"
	// ReasonExhausted : no block is free.
	ReasonExhausted = "PoolExhausted"
	// ReasonBlocksFree : no node waits for a block of this pool.
	ReasonBlocksFree = "BlocksFree"
	// ReasonOverlap : a range overlaps another pool, a Service CIDR or a node address.
	ReasonOverlap = "Overlap"
	// ReasonNoOverlap : no range overlaps anything.
	ReasonNoOverlap = "NoOverlap"
	// ReasonShrunk : nodes hold blocks outside the ranges.
	ReasonShrunk = "ShrunkBelowAllocated"
	// ReasonWithin : every block lies within the ranges.
	ReasonWithin = "WithinRanges"
	// ReasonInvalid : the object cannot be read; admission would have refused it.
	ReasonInvalid = "Invalid"
	// ReasonReady : everything holds.
	ReasonReady = "Ready"
	// ReasonNotRead : a MeshConfig with another name than default.
	ReasonNotRead = "NotRead"
	// ReasonNoMeshConfig : there is no MeshConfig named default.
	ReasonNoMeshConfig = "NoMeshConfig"
	// ReasonDuplicateBlock : a MeshNode lists a block that is another node's.
	ReasonDuplicateBlock = "DuplicateBlock"
	// ReasonSpecRepaired : a MeshNode's spec was changed by someone else and put right.
	ReasonSpecRepaired = "SpecRepaired"
	// ReasonNodeAddressRefused : an address of a Node is not taken into nodeIPs.
	ReasonNodeAddressRefused = "NodeAddressRefused"
)
