package snapshot

import (
	"net/netip"
	"slices"
)

// NamespacedName names an object in a namespace.
type NamespacedName struct{ Namespace, Name string }

func (n NamespacedName) String() string { return n.Namespace + "/" + n.Name }

// NamedPort is a port of a Pod's container that has a name. Names are unique within a Pod and protocol.
type NamedPort struct {
	Name string
	// Protocol is the transport protocol's number.
	Protocol uint8
	Port     uint16
}

// Pod is what policies see of a Pod.
type Pod struct {
	Namespace, Name, UID string
	Labels               Labels
	// IPs are those of its status.
	IPs  []netip.Addr
	Node string
	// HostNetwork Pods have their node's addresses: no selector means them, their addresses do.
	HostNetwork bool
	// Ended Pods (phase Succeeded or Failed) have given their addresses back.
	Ended bool
	Ports []NamedPort
}

// Key names the Pod.
func (p Pod) Key() NamespacedName { return NamespacedName{p.Namespace, p.Name} }

// Equal tells whether policies see no difference.
func (p Pod) Equal(o Pod) bool {
	return p.Namespace == o.Namespace && p.Name == o.Name && p.UID == o.UID && p.Labels.Equal(o.Labels) &&
		slices.Equal(p.IPs, o.IPs) && p.Node == o.Node && p.HostNetwork == o.HostNetwork && p.Ended == o.Ended &&
		slices.Equal(p.Ports, o.Ports)
}

// Namespace is what policies see of a namespace.
type Namespace struct {
	Name   string
	Labels Labels
}

// KubeNode is what policies see of a node.
type KubeNode struct {
	Name   string
	Labels Labels
	// IPs are all addresses of the Node's status.
	IPs []netip.Addr
	// MeshIPs are its mesh addresses, which its own processes use towards Pods of other nodes: a
	// packet from one of them is one from the node.
	MeshIPs []netip.Addr
}

// NetworkPolicy is one of networking.k8s.io/v1, its texts not yet judged.
type NetworkPolicy struct {
	Namespace, Name, UID string
	Generation           int64
	// Audit reports what the policy would deny, and denies nothing; Log asks for a line about what
	// it denies. Both are annotations.
	Audit, Log bool

	PodSelector Selector
	// Types are the policyTypes as written; without any they are inferred.
	Types []string
	// Ingress and Egress are nil or empty alike where the policy has no rules.
	Ingress, Egress []NetworkPolicyRule
}

// Key names the policy.
func (p NetworkPolicy) Key() NamespacedName { return NamespacedName{p.Namespace, p.Name} }

// NetworkPolicyRule allows traffic with any of the peers (from or to; none given means everybody)
// at any of the ports (none given means all traffic, of any protocol).
type NetworkPolicyRule struct {
	Peers []NetworkPolicyPeer
	Ports []NetworkPolicyPort
}

// NetworkPolicyPeer is one peer: Pods by selectors, or a block of addresses.
type NetworkPolicyPeer struct {
	// PodSelector alone selects in the policy's namespace; with NamespaceSelector in those
	// namespaces. NamespaceSelector alone selects all their Pods.
	PodSelector, NamespaceSelector *Selector
	IPBlock                        *IPBlock
}

// IPBlock is a range of addresses with holes.
type IPBlock struct {
	CIDR   string
	Except []string
}

// NetworkPolicyPort is a protocol with a port by number, a range, a name, or without any.
type NetworkPolicyPort struct {
	// Protocol is "TCP", "UDP" or "SCTP"; empty means TCP.
	Protocol string
	// Number and Name are two ways to say the port; 0 and empty mean all ports.
	Number int32
	Name   string
	// EndPort makes a range that begins at Number; 0 means none.
	EndPort int32
}

// The tiers of a ClusterNetworkPolicy.
const (
	TierAdmin    = "Admin"
	TierBaseline = "Baseline"
)

// The actions of a rule of a ClusterNetworkPolicy.
const (
	ActionAccept = "Accept"
	ActionDeny   = "Deny"
	ActionPass   = "Pass"
)

// ClusterNetworkPolicy is one of policy.networking.k8s.io/v1alpha2, its texts not yet judged.
type ClusterNetworkPolicy struct {
	Name, UID  string
	Generation int64
	// Audit and Log are annotations as on a NetworkPolicy.
	Audit, Log bool

	Tier string
	// Priority is 0 to 1000, the lowest first.
	Priority int32
	// Subject are the Pods that the policy is for. With neither field set it is one that we do not know.
	Subject         PodPeer
	Ingress, Egress []ClusterNetworkPolicyRule
}

// PodPeer selects Pods: all of some namespaces, or some of some namespaces. Exactly one is set.
type PodPeer struct {
	Namespaces *Selector
	Pods       *NamespacedPods
}

// NamespacedPods selects Pods by two selectors that both must match.
type NamespacedPods struct{ Namespaces, Pods Selector }

// ClusterNetworkPolicyRule acts on traffic with any of the peers and of any of the protocols.
type ClusterNetworkPolicyRule struct {
	Name   string
	Action string
	// Peers are the rule's from or to.
	Peers []ClusterNetworkPolicyPeer
	// Protocols may be empty: then the rule means all traffic.
	Protocols []ClusterNetworkPolicyProtocol
}

// ClusterNetworkPolicyPeer is one peer. With no field set it is of a kind that this version does
// not know.
type ClusterNetworkPolicyPeer struct {
	PodPeer
	Nodes       *Selector
	Networks    []string
	DomainNames []string
}

// ClusterNetworkPolicyProtocol is one protocol match. With neither Protocol nor NamedPort set it is
// of a kind that this version does not know.
type ClusterNetworkPolicyProtocol struct {
	// Protocol is "TCP", "UDP" or "SCTP".
	Protocol string
	// First and Last are the range of destination ports, the same number twice for a single one.
	// Both 0 means that the match has no port that this version knows.
	First, Last int32
	// NamedPort is the name of a port of the destination Pod, of whichever protocol.
	NamedPort string
}
