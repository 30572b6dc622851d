package snapshot

import (
	"net/netip"
	"slices"
	"time"
)

// ServiceName names a Service, and with it the EndpointSlices that belong to it.
type ServiceName struct{ Namespace, Name string }

// String is namespace/name.
func (n ServiceName) String() string { return n.Namespace + "/" + n.Name }

// Compare orders by namespace, then by name.
func (n ServiceName) Compare(o ServiceName) int {
	switch {
	case n.Namespace < o.Namespace:
		return -1
	case n.Namespace > o.Namespace:
		return 1
	case n.Name < o.Name:
		return -1
	case n.Name > o.Name:
		return 1
	default:
		return 0
	}
}

// Service is a Service as its object says, of what a service proxy needs. The source leaves out
// those that no proxy serves: of type ExternalName, and with the labels
// service.kubernetes.io/service-proxy-name or service.kubernetes.io/headless.
type Service struct {
	ServiceName
	// Created orders Services by age: where two claim the same address and port, the older has it.
	Created time.Time
	// ClusterIPs are the addresses within the cluster, one per family; none for a headless Service.
	ClusterIPs []netip.Addr
	// ExternalIPs are spec.externalIPs.
	ExternalIPs []netip.Addr
	// LoadBalancerIPs are the addresses of status.loadBalancer.ingress in ipMode VIP (also the
	// default); those in ipMode Proxy, and names, are left out: their traffic comes in elsewhere.
	LoadBalancerIPs []netip.Addr
	// SourceRanges are spec.loadBalancerSourceRanges of both families, as written.
	SourceRanges []netip.Prefix
	// ExternalLocal and InternalLocal say that the traffic policy is Local. As in the API helpers,
	// ExternalLocal counts only for a Service that is reachable from outside.
	ExternalLocal, InternalLocal bool
	// HealthCheckNodePort is spec.healthCheckNodePort of a Service of type LoadBalancer with
	// externalTrafficPolicy Local; else 0.
	HealthCheckNodePort uint16
	// Affinity is the timeout of sessionAffinity ClientIP; 0 means no affinity.
	Affinity time.Duration
	Ports    []ServicePort
	// Unreadable are texts of the object that should be addresses or ranges and are not, each with
	// the name of its field, for example `spec.externalIPs: "1.2.3"`.
	Unreadable []string
}

// ServicePort is one port of a Service.
type ServicePort struct {
	// Name is what the ports of EndpointSlices are found by; empty where there is one port only.
	Name string
	// Protocol is the transport protocol's number.
	Protocol uint8
	Port     uint16
	// NodePort is 0 where there is none.
	NodePort uint16
}

// EndpointSlice is one EndpointSlice of addresses; those of type FQDN are left out by the source.
type EndpointSlice struct {
	Namespace, Name string
	// Service is the name in the label kubernetes.io/service-name.
	Service string
	// Ports without a name count as named ""; ports without a number are left out.
	Ports     []EndpointPort
	Endpoints []Endpoint
}

// EndpointPort is one port of all endpoints of a slice.
type EndpointPort struct {
	Name     string
	Protocol uint8
	Port     uint16
}

// Endpoint is one endpoint of a slice: its first address, since all of them are the same place.
type Endpoint struct {
	Addr netip.Addr
	// Node is the name of the node that it is on; empty when unknown.
	Node string
	// Ready, Serving and Terminating are its conditions with the defaults filled in: an absent Ready
	// or Serving is true, an absent Terminating false. With publishNotReadyAddresses the API server
	// says Ready of all.
	Ready, Serving, Terminating bool
	// ZoneHints and NodeHints are where traffic to it should come from.
	ZoneHints, NodeHints []string
}

// ServiceNode is what the service proxy needs to know of its own node and of the cluster's ranges.
type ServiceNode struct {
	Name string
	// Zone is the label topology.kubernetes.io/zone.
	Zone string
	// NodeIPs are the addresses of the Node object.
	NodeIPs []netip.Addr
	// NodePortIPs are the node's addresses that NodePorts are open on, never loopback.
	NodePortIPs []netip.Addr
	// ServiceCIDRs are the ranges of all ServiceCIDR objects; an address in them that no Service has
	// goes nowhere.
	ServiceCIDRs []netip.Prefix
}

// Equal tells whether both say the same, in the same order.
func (n ServiceNode) Equal(o ServiceNode) bool {
	return n.Name == o.Name && n.Zone == o.Zone && slices.Equal(n.NodeIPs, o.NodeIPs) &&
		slices.Equal(n.NodePortIPs, o.NodePortIPs) && slices.Equal(n.ServiceCIDRs, o.ServiceCIDRs)
}

// Equal tells whether both say the same, in the same order.
func (s Service) Equal(o Service) bool {
	return s.ServiceName == o.ServiceName && s.Created.Equal(o.Created) &&
		slices.Equal(s.ClusterIPs, o.ClusterIPs) && slices.Equal(s.ExternalIPs, o.ExternalIPs) &&
		slices.Equal(s.LoadBalancerIPs, o.LoadBalancerIPs) && slices.Equal(s.SourceRanges, o.SourceRanges) &&
		s.ExternalLocal == o.ExternalLocal && s.InternalLocal == o.InternalLocal &&
		s.HealthCheckNodePort == o.HealthCheckNodePort && s.Affinity == o.Affinity &&
		slices.Equal(s.Ports, o.Ports) && slices.Equal(s.Unreadable, o.Unreadable)
}

// Equal tells whether both say the same, in the same order.
func (s EndpointSlice) Equal(o EndpointSlice) bool {
	return s.Namespace == o.Namespace && s.Name == o.Name && s.Service == o.Service &&
		slices.Equal(s.Ports, o.Ports) && slices.EqualFunc(s.Endpoints, o.Endpoints, Endpoint.Equal)
}

// Equal tells whether both say the same, in the same order.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.Addr == o.Addr && e.Node == o.Node && e.Ready == o.Ready && e.Serving == o.Serving &&
		e.Terminating == o.Terminating && slices.Equal(e.ZoneHints, o.ZoneHints) && slices.Equal(e.NodeHints, o.NodeHints)
}
