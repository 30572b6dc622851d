package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Backend names what runs WireGuard on a node.
// +kubebuilder:validation:Enum=Kernel;Userspace
type Backend string

// The backends. Auto, the default of MeshConfig, is a wish and never seen in a status.
const (
	BackendKernel    Backend = "Kernel"
	BackendUserspace Backend = "Userspace"
)

// MeshNodeSpec is what the operator gave a node. Only the operator writes it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.meshIPs) || self.meshIPs.all(i, has(self.podCIDRs) && self.podCIDRs.exists(c, isIP(i) && isCIDR(c) && cidr(c).containsIP(i)))",message="every mesh address must lie in one of the node's podCIDRs"
// +kubebuilder:validation:XValidation:rule="!has(self.nodeIPs) || !has(self.podCIDRs) || self.nodeIPs.all(i, !self.podCIDRs.exists(c, isIP(i) && isCIDR(c) && cidr(c).containsIP(i)))",message="a node address must not lie in the node's podCIDRs"
type MeshNodeSpec struct {
	// PodCIDRs are the blocks that the node's Pods get their addresses from, one or more per
	// address family. Once given they stay with the node for its life.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="self.all(c, isCIDR(c) && string(cidr(c).masked()) == c)",message="podCIDRs must be ranges of addresses in canonical form, such as 10.244.3.0/24 or fd00:10:244:3::/64"
	PodCIDRs []string `json:"podCIDRs,omitempty"`

	// MeshIPs are the node's own addresses in the mesh: one per address family, the
	// one after the network address of the first block, such as 10.244.3.1 of 10.244.3.0/24.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="self.all(i, isIP(i) && ip.isCanonical(i))",message="meshIPs must be plain IP addresses in canonical form, without a prefix length"
	MeshIPs []string `json:"meshIPs,omitempty"`

	// NodeIPs are the addresses of the Node object that no other node claims and that lie in no
	// pool. Peers accept traffic from them through the node's tunnel.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="self.all(i, isIP(i) && ip.isCanonical(i))",message="nodeIPs must be plain IP addresses in canonical form, without a prefix length"
	NodeIPs []string `json:"nodeIPs,omitempty"`
}

// PeerSummary counts the other nodes of the mesh as this node sees them.
type PeerSummary struct {
	// Expected is the number of other nodes that have published a key.
	// +kubebuilder:validation:Minimum=0
	Expected int32 `json:"expected"`
	// Connected is the number of those with a handshake that is still good.
	// +kubebuilder:validation:Minimum=0
	Connected int32 `json:"connected"`
}

// MeshNodeStatus is what the node's own agent reports. Only that agent may write it, but for the
// condition Allocated, which is the operator's.
type MeshNodeStatus struct {
	// PublicKey is the node's WireGuard public key, in base64.
	// +optional
	// +kubebuilder:validation:MaxLength=44
	// +kubebuilder:validation:Pattern=`^([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)?$`
	PublicKey string `json:"publicKey,omitempty"`

	// KeyEpoch counts the node's keys; the first is 1.
	// +optional
	// +kubebuilder:validation:Minimum=0
	KeyEpoch int64 `json:"keyEpoch,omitempty"`

	// Endpoints are the addresses at which the node can be reached by its peers, in its own order
	// of preference.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="self.all(i, isIP(i) && ip.isCanonical(i))",message="endpoints must be plain IP addresses in canonical form, without a port"
	Endpoints []string `json:"endpoints,omitempty"`

	// ListenPort is the UDP port of the node's WireGuard device.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	ListenPort int32 `json:"listenPort,omitempty"`

	// MTU of the mesh device, in bytes.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	MTU int32 `json:"mtu,omitempty"`

	// Backend says whether WireGuard runs in the kernel or in a process of its own.
	// +optional
	Backend Backend `json:"backend,omitempty"`

	// NATPeers names the peers that the node hears from an address or port that they do not publish,
	// as behind a NAT. Keepalives flow between the two, so that the NAT does not forget them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=253
	NATPeers []string `json:"natPeers,omitempty"`

	// Peers counts the node's peers.
	// +optional
	Peers PeerSummary `json:"peers,omitzero"`

	// Conditions of the node's mesh; Ready is the summary.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// MeshNode is one node of the mesh: what the operator allocated to it and what its agent reports.
// It has the name of its Node, is owned by it, and goes with it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=mn,categories=weftnet
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pod CIDRs",type=string,JSONPath=`.spec.podCIDRs`
// +kubebuilder:printcolumn:name="Backend",type=string,JSONPath=`.status.backend`
// +kubebuilder:printcolumn:name="Connected",type=integer,JSONPath=`.status.peers.connected`,description="peers with a good handshake"
// +kubebuilder:printcolumn:name="Expected",type=integer,JSONPath=`.status.peers.expected`,description="peers that have published a key"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Allocated",type=string,JSONPath=`.status.conditions[?(@.type=="Allocated")].reason`,priority=1
// +kubebuilder:printcolumn:name="Mesh IPs",type=string,JSONPath=`.spec.meshIPs`,priority=1
// +kubebuilder:printcolumn:name="Endpoints",type=string,JSONPath=`.status.endpoints`,priority=1
// +kubebuilder:printcolumn:name="Key epoch",type=integer,JSONPath=`.status.keyEpoch`,priority=1
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.status.mtu`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type MeshNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the operator gave the node.
	// +optional
	Spec MeshNodeSpec `json:"spec,omitzero"`
	// Status is what the node's agent reports.
	// +optional
	Status MeshNodeStatus `json:"status,omitzero"`
}

// MeshNodeList is a list of MeshNodes.
//
// +kubebuilder:object:root=true
type MeshNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MeshNode `json:"items"`
}
