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
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1280",message="mtu must be 0 (derive it from the underlay) or at least 1280, the smallest that IPv6 allows"
	MTU int32 `json:"mtu,omitempty"`

	// Keepalive is the interval of keepalive packets to peers behind a NAT; 0s sends none.
	// +optional
	// +kubebuilder:default="25s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,6}(h|m|s))+$`
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}(h|m|s))+$') || duration(self) <= duration('65535s')",message="keepalive must be at most 65535s (18h12m15s), the most that WireGuard takes"
	Keepalive *metav1.Duration `json:"keepalive,omitempty"`

	// Backend forces the kernel's or the userspace WireGuard on every node; Auto takes the
	// kernel's where it exists.
	// +optional
	// +kubebuilder:default=Auto
	Backend BackendPreference `json:"backend,omitempty"`

	// NoMasqueradeCIDRs are destinations outside the cluster to which Pods keep their own address.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="self.all(c, isCIDR(c) && string(cidr(c).masked()) == c)",message="noMasqueradeCIDRs must be ranges of addresses in canonical form, such as 192.168.0.0/16 or 2001:db8::/32: no address bits may stand after the prefix"
	NoMasqueradeCIDRs []string `json:"noMasqueradeCIDRs,omitempty"`

	// ServiceProxy holds the settings of the service proxy.
	// +optional
	// +kubebuilder:default={}
	ServiceProxy ServiceProxySettings `json:"serviceProxy,omitzero"`

	// Policy holds the settings of the policy engine.
	// +optional
	// +kubebuilder:default={}
	Policy PolicySettings `json:"policy,omitzero"`
}

// NodePortPrimary is the value of NodePortAddresses that means the first address of each family that the Node names.
const NodePortPrimary = "primary"

// ServiceProxySettings are those of the service proxy. Whether it runs at all is the chart's serviceProxy.enabled.
type ServiceProxySettings struct {
	// NodePortAddresses are the node's addresses that NodePorts are open on: "primary", the first
	// address of each family that the Node object names, or ranges; an address of the node in any of them has the ports.
	// Loopback addresses never have them.
	// +optional
	// +kubebuilder:default={primary}
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="self.all(c, c == 'primary' || (isCIDR(c) && string(cidr(c).masked()) == c))",message="nodePortAddresses must be primary, or ranges of addresses in canonical form, such as 192.168.0.0/16 or 2001:db8::/32"
	// +kubebuilder:validation:XValidation:rule="self.size() == 1 || !self.exists(c, c == 'primary')",message="nodePortAddresses: primary stands alone"
	NodePortAddresses []string `json:"nodePortAddresses,omitempty"`

	// Conntrack sets the size and the timeouts of connection tracking.
	// +optional
	// +kubebuilder:default={}
	Conntrack ConntrackSettings `json:"conntrack,omitzero"`
}

// ConntrackSettings are those of the kernel's connection tracking. A node where they cannot be
// written, or that has a larger table already, keeps its own.
type ConntrackSettings struct {
	// MaxPerCore is the number of connections to track for each CPU; 0 leaves the kernel's limit alone.
	// +optional
	// +kubebuilder:default=32768
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4194304
	MaxPerCore *int32 `json:"maxPerCore,omitempty"`

	// Min is the least number of connections to track, whatever the number of CPUs.
	// +optional
	// +kubebuilder:default=131072
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=268435456
	Min *int32 `json:"min,omitempty"`

	// TCPEstablishedTimeout is how long an idle TCP connection is remembered; 0s leaves the kernel's value.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,6}(h|m|s))+$`
	TCPEstablishedTimeout *metav1.Duration `json:"tcpEstablishedTimeout,omitempty"`

	// TCPCloseWaitTimeout is how long a TCP connection is remembered that one side has closed; 0s leaves
	// the kernel's value.
	// +optional
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,6}(h|m|s))+$`
	TCPCloseWaitTimeout *metav1.Duration `json:"tcpCloseWaitTimeout,omitempty"`

	// TCPBeLiberal makes the kernel take TCP packets out of the window for part of their connection,
	// instead of INVALID. It helps where packets take another way back, and hides faults elsewhere.
	// +optional
	TCPBeLiberal bool `json:"tcpBeLiberal,omitempty"`
}

// LogDenied says of which denied packets a line is logged.
// +kubebuilder:validation:Enum=Never;Annotated;All
type LogDenied string

// The choices.
const (
	// LogNever logs none, whatever the annotations say.
	LogNever LogDenied = "Never"
	// LogAnnotated logs those of policies that ask for it.
	LogAnnotated LogDenied = "Annotated"
	// LogAll logs those of every policy.
	LogAll LogDenied = "All"
)

// DefaultLogRate is the default of PolicySettings.LogRate.
const DefaultLogRate = 20

// PolicySettings are those of the policy engine. Whether it runs at all is the chart's policy.enabled.
type PolicySettings struct {
	// LogDenied says of which denied packets the agent logs a line: Never, of policies that are Annotated
	// with policy.weftnet.io/log, or All.
	// +optional
	// +kubebuilder:default=Annotated
	LogDenied LogDenied `json:"logDenied,omitempty"`

	// LogRate bounds the lines about denied packets that one node logs, per second.
	// +optional
	// +kubebuilder:default=20
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	LogRate int32 `json:"logRate,omitempty"`
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
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="there is one MeshConfig, and its name is default: rename this one"
// +kubebuilder:printcolumn:name="Port",type=integer,JSONPath=`.spec.listenPort`
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.spec.mtu`,description="0: derived from the underlay"
// +kubebuilder:printcolumn:name="Backend",type=string,JSONPath=`.spec.backend`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type MeshConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec holds the settings.
	// +optional
	// +kubebuilder:default={}
	Spec MeshConfigSpec `json:"spec,omitzero"`
	// Status is what the operator reports.
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
