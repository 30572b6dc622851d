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
type MeshNodeSpec struct {
	// PodCIDRs are the blocks that the node's Pods get their addresses from, one or more per
	// address family. Once given they stay with the node for its life.
	// +optional
	// +listType=atomic
	PodCIDRs []string `json:"podCIDRs,omitempty"`

	// MeshIPs are the node's own addresses in the mesh: the first address of the first block of
	// each family.
	// +optional
	// +listType=atomic
	MeshIPs []string `json:"meshIPs,omitempty"`

	// NodeIPs are the addresses of the Node object that no other node claims and that lie in no
	// pool. Peers accept traffic from them through the node's tunnel.
	// +optional
	// +listType=atomic
	NodeIPs []string `json:"nodeIPs,omitempty"`
}

// PeerSummary counts the other nodes of the mesh as this node sees them.
type PeerSummary struct {
	// Expected is the number of other nodes that have published a key.
	Expected int32 `json:"expected"`
	// Connected is the number of those with a handshake that is still good.
	Connected int32 `json:"connected"`
}

// MeshNodeStatus is what the node's own agent reports. Only that agent may write it.
type MeshNodeStatus struct {
	// PublicKey is the node's WireGuard public key, in base64.
	// +optional
	PublicKey string `json:"publicKey,omitempty"`

	// KeyEpoch counts the node's keys; the first is 1.
	// +optional
	KeyEpoch int64 `json:"keyEpoch,omitempty"`

	// Endpoints are the addresses at which the node can be reached by its peers, in its own order
	// of preference.
	// +optional
	// +listType=atomic
	Endpoints []string `json:"endpoints,omitempty"`

	// ListenPort is the UDP port of the node's WireGuard device.
	// +optional
	ListenPort int32 `json:"listenPort,omitempty"`

	// MTU of the mesh device, in bytes.
	// +optional
	MTU int32 `json:"mtu,omitempty"`

	// Backend says whether WireGuard runs in the kernel or in a process of its own.
	// +optional
	Backend Backend `json:"backend,omitempty"`

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
type MeshNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec MeshNodeSpec `json:"spec,omitzero"`
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
