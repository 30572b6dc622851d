package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// PoolCIDR is one range of a pool and how it is cut.
type PoolCIDR struct {
	// CIDR in canonical form, such as 10.244.0.0/16 or fd00:10:244::/48.
	CIDR string `json:"cidr"`

	// BlockSize is the prefix length of the block that each node gets: by default 24 for IPv4
	// and 64 for IPv6.
	// +optional
	BlockSize int32 `json:"blockSize,omitempty"`
}

// IPPoolSpec is what the user asks of a pool.
type IPPoolSpec struct {
	// CIDRs are the pool's ranges, of one or both address families.
	// +listType=map
	// +listMapKey=cidr
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	CIDRs []PoolCIDR `json:"cidrs"`

	// NodeSelector chooses the nodes that get blocks from this pool; empty means every node.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// Disabled stops new allocations; what is allocated stays.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// PoolUsage counts the blocks of one range.
type PoolUsage struct {
	// CIDR is the range that is counted.
	CIDR string `json:"cidr"`
	// Allocated blocks, those that cool down after their node went included.
	Allocated int64 `json:"allocated"`
	// Free blocks.
	Free int64 `json:"free"`
}

// IPPoolStatus is what the operator reports.
type IPPoolStatus struct {
	// Usage of each range.
	// +optional
	// +listType=map
	// +listMapKey=cidr
	Usage []PoolUsage `json:"usage,omitempty"`

	// Conditions of the pool; Ready is the summary.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// IPPool is a set of address ranges from which nodes get their Pod CIDRs.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipp,categories=weftnet
// +kubebuilder:subresource:status
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPPoolSpec `json:"spec"`
	// +optional
	Status IPPoolStatus `json:"status,omitzero"`
}

// IPPoolList is a list of IPPools.
//
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPPool `json:"items"`
}
