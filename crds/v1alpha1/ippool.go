package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Block sizes of a range that names none. A /24 holds the 110 Pods of a node twice over; a /64
// is what IPv6 calls one network.
const (
	DefaultBlockSizeIPv4 = 24
	DefaultBlockSizeIPv6 = 64
)

// PoolCIDR is one range of a pool and how it is cut.
//
// +kubebuilder:validation:XValidation:rule="isCIDR(self.cidr)",messageExpression="'cidr ' + self.cidr + ' is not a range of addresses: write one such as 10.244.0.0/16 or fd00:10:244::/48'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || cidr(self.cidr) == cidr(self.cidr).masked()",messageExpression="'cidr ' + self.cidr + ' is not in canonical form: bits are set after the prefix length, where a range has zeros'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || string(cidr(self.cidr)) == self.cidr",messageExpression="'cidr ' + self.cidr + ' is not in canonical form: write it in lower case, with the longest run of zeros as :: and no leading zeros'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || cidr(self.cidr).ip().isGlobalUnicast()",messageExpression="'cidr ' + self.cidr + ' cannot be given to Pods: it begins with an unspecified, loopback, link-local or multicast address'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || cidr(self.cidr).ip().family() != 4 || !has(self.blockSize) || self.blockSize <= 30",messageExpression="'blockSize does not fit the IPv4 range ' + self.cidr + ': IPv4 prefix lengths end at 32, and a node needs at least a /30'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || !has(self.blockSize) || self.blockSize >= cidr(self.cidr).prefixLength()",messageExpression="'blockSize asks for blocks larger than the range ' + self.cidr + ' itself: it is a prefix length, so it must be at least that of the range'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || has(self.blockSize) || cidr(self.cidr).prefixLength() <= (cidr(self.cidr).ip().family() == 4 ? 24 : 64)",messageExpression="'the range ' + self.cidr + ' is smaller than one block of the default size (/24 for IPv4, /64 for IPv6): set blockSize'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || !has(self.blockSize) || self.blockSize - cidr(self.cidr).prefixLength() <= 48",messageExpression="'blockSize cuts ' + self.cidr + ' into more than 2^48 blocks: choose a smaller range or larger blocks'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || has(self.blockSize) || cidr(self.cidr).ip().family() == 4 || cidr(self.cidr).prefixLength() >= 16",messageExpression="'the range ' + self.cidr + ' has more than 2^48 blocks of the default size /64: choose a smaller range'"
type PoolCIDR struct {
	// CIDR in canonical form, such as 10.244.0.0/16 or fd00:10:244::/48.
	// +kubebuilder:validation:MaxLength=43
	CIDR string `json:"cidr"`

	// BlockSize is the prefix length of the block that each node gets: by default 24 for IPv4
	// and 64 for IPv6. Changing it affects only blocks given later.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=126
	BlockSize int32 `json:"blockSize,omitempty"`
}

// IPPoolSpec is what the user asks of a pool.
type IPPoolSpec struct {
	// CIDRs are the pool's ranges, of one or both address families. A node gets one block per
	// family. Ranges may be added at any time; where one is removed or made smaller, nodes keep
	// the blocks they have.
	// +listType=map
	// +listMapKey=cidr
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.all(b, a.cidr == b.cidr || !isCIDR(a.cidr) || !isCIDR(b.cidr) || !cidr(a.cidr).containsCIDR(b.cidr)))",message="two ranges of the pool overlap: keep the larger one"
	CIDRs []PoolCIDR `json:"cidrs"`

	// NodeSelector chooses the nodes that get blocks from this pool; empty means every node. A
	// node keeps its block when it is no longer chosen.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// Disabled stops new allocations; what is allocated stays.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// PoolUsage counts the blocks of one range.
type PoolUsage struct {
	// CIDR is the range that is counted.
	// +kubebuilder:validation:MaxLength=43
	CIDR string `json:"cidr"`
	// BlockSize is the prefix length of a block, the default filled in.
	// +optional
	BlockSize int32 `json:"blockSize,omitempty"`
	// Allocated blocks, those that cool down after their node went included.
	Allocated int64 `json:"allocated"`
	// Cooling blocks: allocated to a node that is gone, and kept back for the cooldown.
	// +optional
	Cooling int64 `json:"cooling,omitempty"`
	// Free blocks.
	Free int64 `json:"free"`
	// Refused says why the range is not used. Empty means that it is; once used, a range is not
	// refused for the sake of something that came later.
	// +optional
	Refused string `json:"refused,omitempty"`
}

// IPPoolStatus is what the operator reports.
type IPPoolStatus struct {
	// Usage of each range.
	// +optional
	// +listType=map
	// +listMapKey=cidr
	// +kubebuilder:validation:MaxItems=16
	Usage []PoolUsage `json:"usage,omitempty"`

	// Summary of the usage in one line: allocated blocks of all blocks, per range.
	// +optional
	Summary string `json:"summary,omitempty"`

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
// +kubebuilder:printcolumn:name="Blocks",type=string,JSONPath=`.status.summary`,description="allocated blocks of all blocks, per range"
// +kubebuilder:printcolumn:name="Disabled",type=boolean,JSONPath=`.spec.disabled`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the user asks of the pool.
	Spec IPPoolSpec `json:"spec"`
	// Status is what the operator reports.
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
