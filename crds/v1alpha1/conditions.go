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
	// ConditionKubeProxyPresent on a MeshNode, while Weftnet's own service proxy is switched on: a
	// kube-proxy runs on the node beside it, or has left its rules.
	ConditionKubeProxyPresent = "KubeProxyPresent"
	// ConditionServiceProxyReady on a MeshNode, while Weftnet's own service proxy is switched on: every
	// Service is in force on the node.
	ConditionServiceProxyReady = "ServiceProxyReady"
	// ConditionPolicyReady on a MeshNode, while the policy engine is switched on: what network policies
	// say of the node's Pods is in force.
	ConditionPolicyReady = "PolicyReady"
	// ConditionSocketBalancing on a MeshNode, while Weftnet's own service proxy is switched on: TCP
	// connections of the node's processes and Pods get their endpoint when they connect. Where it is
	// false, their packets are translated by nftables, like those from outside.
	ConditionSocketBalancing = "SocketBalancing"
	// ConditionFastPath on a MeshNode, while the fast path is switched on and a Pod could use it: packets of established connections between two Pods of the node
	// pass neither routing nor rules. Where it is false, they take the way of all others.
	ConditionFastPath = "FastPath"
	// ConditionPolicyAccepted on a ClusterNetworkPolicy, where other implementations may write
	// conditions of their own: every field of it can be honoured.
	ConditionPolicyAccepted = "weftnet.io/Accepted"
	// ConditionExhausted on an IPPool: a node wanted a block and none was free.
	ConditionExhausted = "Exhausted"
	// ConditionConflict on an IPPool: a range overlaps something else and is not used.
	ConditionConflict = "Conflict"
	// ConditionShrunk on an IPPool: nodes hold blocks that the ranges no longer contain.
	ConditionShrunk = "Shrunk"
)
