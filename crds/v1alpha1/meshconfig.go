package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// MeshConfigName is the name of the only MeshConfig that is read.
const MeshConfigName = "default"

// BackendPreference says which backend a node shall use.
// +kubebuilder:validation:Enum=Auto;Kernel;Userspace
type BackendPreference string

// BackendAuto takes the kernel's WireGuard where it exists, else the userspace one.
const BackendAuto BackendPreference = "Auto"

// MeshConfigSpec holds the settings of the whole mesh.
type MeshConfigSpec struct {
	// ListenPort is the UDP port of WireGuard on every node.
	// +optional
	// +kubebuilder:default=51820
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ListenPort int32 `json:"listenPort,omitempty"`

	// MTU of the mesh devices and of Pods, in bytes; 0 derives it from the underlay.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65455
	MTU int32 `json:"mtu,omitempty"`

	// Keepalive is the interval of keepalive packets to peers behind a NAT; 0s sends none.
	// +optional
	// +kubebuilder:default="25s"
	Keepalive *metav1.Duration `json:"keepalive,omitempty"`

	// Backend forces the kernel's or the userspace WireGuard on every node.
	// +optional
	// +kubebuilder:default=Auto
	Backend BackendPreference `json:"backend,omitempty"`

	// NoMasqueradeCIDRs are destinations outside the cluster to which Pods keep their own address.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	NoMasqueradeCIDRs []string `json:"noMasqueradeCIDRs,omitempty"`
}

// MeshConfigStatus is what the operator reports.
type MeshConfigStatus struct {
	// Conditions of the settings; Ready is the summary.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// MeshConfig holds the settings of the whole mesh. Only the one named default is read.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=mc,categories=weftnet
// +kubebuilder:subresource:status
type MeshConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec MeshConfigSpec `json:"spec,omitzero"`
	// +optional
	Status MeshConfigStatus `json:"status,omitzero"`
}

// MeshConfigList is a list of MeshConfigs.
//
// +kubebuilder:object:root=true
type MeshConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MeshConfig `json:"items"`
}
