package v1alpha1

import (
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BlockState says how far a NodeBlock has come.
// +kubebuilder:validation:Enum=Bound;Cooling
type BlockState string

// The states of a NodeBlock. One without a state is claimed and not yet confirmed.
const (
	// BlockBound : confirmed to overlap no other; only now it may stand in a MeshNode.
	BlockBound BlockState = "Bound"
	// BlockCooling : its node is gone; it is kept back until the cooldown has run off.
	BlockCooling BlockState = "Cooling"
)

// NodeBlockSpec names a block and the node it belongs to.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a NodeBlock cannot be changed: the operator deletes it when its node is gone and the cooldown is over"
type NodeBlockSpec struct {
	// CIDR is the block, in canonical form.
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && string(cidr(self).masked()) == self",message="cidr must be a range of addresses in canonical form"
	CIDR string `json:"cidr"`
	// Node is the name of the Node that the block belongs to.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// Pool is the name of the IPPool that the block was cut from.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Pool string `json:"pool,omitempty"`
}

// NodeBlockStatus says how far the block has come.
type NodeBlockStatus struct {
	// State is empty while the block is claimed only, Bound once it is the node's, Cooling after
	// its node went.
	// +optional
	State BlockState `json:"state,omitempty"`
	// CooldownLeft is how long the block is still kept back. It is a length of time that an
	// operator counts off, not a date, so that clocks need not agree.
	// +optional
	CooldownLeft *metav1.Duration `json:"cooldownLeft,omitempty"`
}

// NodeBlock is the record that one block of addresses belongs to one node. Its name is derived
// from the block, so the API server itself refuses to give the same block twice. Only the
// operator writes it; deleting one by hand takes away that protection.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=nb,categories=weftnet
// +kubebuilder:subresource:status
// +kubebuilder:validation:XValidation:rule="self.metadata.name == self.spec.cidr.replace(':', '-').replace('/', '-')",message="a NodeBlock is named after its block, with - for : and /, such as 10.244.3.0-24 or fd00-10-244-3---64"
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Cooldown left",type=string,JSONPath=`.status.cooldownLeft`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec names the block and its node.
	Spec NodeBlockSpec `json:"spec"`
	// Status says how far the block has come.
	// +optional
	Status NodeBlockStatus `json:"status,omitzero"`
}

// NodeBlockList is a list of NodeBlocks.
//
// +kubebuilder:object:root=true
type NodeBlockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeBlock `json:"items"`
}

// NodeBlockName is the name of the NodeBlock of a block: one block, one name.
func NodeBlockName(block netip.Prefix) string {
	return strings.NewReplacer(":", "-", "/", "-").Replace(block.Masked().String())
}
