package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// Node is what the proxy has to know of this node from its object.
type Node struct {
	Name, Zone string
	// IPs are its internal addresses, then its external ones, each in the order of the Node.
	IPs []netip.Addr
	// Leaving says that the node is about to be deleted, so that load balancers should stop sending
	// new connections here.
	Leaving bool
}

func (n Node) equal(o Node) bool {
	return n.Name == o.Name && n.Zone == o.Zone && n.Leaving == o.Leaving && slices.Equal(n.IPs, o.IPs)
}

// CIDR is ranges of Services.
type CIDR []netip.Prefix

// slice is an EndpointSlice with the time of what caused its last change.
type slice struct {
	snapshot.EndpointSlice
	trigger time.Time
}

// toBeDeleted is the taint with which the cluster autoscaler marks a node that it is about to remove.
const toBeDeleted = "ToBeDeletedByClusterAutoscaler"

// defaultAffinity is the timeout of session affinity that the API server fills in.
const defaultAffinity = 3 * time.Hour

// shared keeps one copy of a text that many objects have, and does not hold on to a larger one.
func shared(s string) string { return unique.Make(s).Value() }

var protocols = map[corev1.Protocol]uint8{"": 6, corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132}

// serviceFrom converts a Service. One without a cluster address (headless, ExternalName) is nil: it
// is nobody's business but DNS's.
func serviceFrom(object any) (*snapshot.Service, error) {
	o, ok := object.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("unexpected type %T", object)
	}
	if o.Spec.Type == corev1.ServiceTypeExternalName || o.Spec.ClusterIP == "" || o.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil, nil
	}
	s := &snapshot.Service{
		ServiceName: snapshot.ServiceName{Namespace: shared(o.Namespace), Name: strings.Clone(o.Name)}, Created: o.CreationTimestamp.UTC(),
		InternalLocal: o.Spec.InternalTrafficPolicy != nil && *o.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
	}
	s.ClusterIPs = parse(s, "spec.clusterIPs", clusterIPs(o), parseAddr)
	s.ExternalIPs = parse(s, "spec.externalIPs", o.Spec.ExternalIPs, parseAddr)
	s.ExternalLocal = o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && reachable(o)
	if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
		s.LoadBalancerIPs = parse(s, "status.loadBalancer.ingress", ingressIPs(o), parseAddr)
		s.SourceRanges = parse(s, "spec.loadBalancerSourceRanges", o.Spec.LoadBalancerSourceRanges, parsePrefix)
		if s.ExternalLocal {
			s.HealthCheckNodePort = uint16(o.Spec.HealthCheckNodePort)
		}
	}
	if o.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		s.Affinity = defaultAffinity
		if c := o.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			s.Affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	for _, p := range o.Spec.Ports {
		protocol, ok := protocols[p.Protocol]
		if !ok {
			continue
		}
		s.Ports = append(s.Ports, snapshot.ServicePort{Name: shared(p.Name), Protocol: protocol, Port: uint16(p.Port), NodePort: nodePort(o, p)})
	}
	return s, nil
}

// parse reads texts; what cannot be read is noted with the field's name.
func parse[V any](s *snapshot.Service, field string, texts []string, read func(string) (V, error)) []V {
	var out []V
	for _, t := range texts {
		v, err := read(strings.TrimSpace(t))
		if err != nil {
			s.Unreadable = append(s.Unreadable, fmt.Sprintf("%s: %q", field, t))
			continue
		}
		out = append(out, v)
	}
	return out
}

// parseAddr reads IPv4 addresses with leading zeros too, as decimal numbers: the API server has let them
// through for years, and kube-proxy reads them so.
func parseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil && !strings.Contains(text, ":") {
		return netip.ParseAddr(withoutLeadingZeros(text))
	}
	return addr, err
}

func parsePrefix(text string) (netip.Prefix, error) {
	addr, bits, ranged := strings.Cut(text, "/")
	if ranged && !strings.Contains(addr, ":") {
		text = withoutLeadingZeros(addr) + "/" + bits
	}
	return netip.ParsePrefix(text)
}

func withoutLeadingZeros(four string) string {
	parts := strings.Split(four, ".")
	for i, p := range parts {
		if trimmed := strings.TrimLeft(p, "0"); trimmed != p {
			parts[i] = cmp.Or(trimmed, "0")
		}
	}
	return strings.Join(parts, ".")
}

func clusterIPs(o *corev1.Service) []string {
	if len(o.Spec.ClusterIPs) > 0 {
		return o.Spec.ClusterIPs
	}
	return []string{o.Spec.ClusterIP}
}

// reachable tells whether a Service can be reached from outside of the cluster.
func reachable(o *corev1.Service) bool {
	return o.Spec.Type == corev1.ServiceTypeLoadBalancer || o.Spec.Type == corev1.ServiceTypeNodePort || len(o.Spec.ExternalIPs) > 0
}

func ingressIPs(o *corev1.Service) []string {
	var out []string
	for _, in := range o.Status.LoadBalancer.Ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			out = append(out, in.IP)
		}
	}
	return out
}

func nodePort(o *corev1.Service, p corev1.ServicePort) uint16 {
	if o.Spec.Type != corev1.ServiceTypeNodePort && o.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return 0
	}
	return uint16(p.NodePort)
}

// sliceFrom converts an EndpointSlice; nil for one of names instead of addresses, or of no Service.
func sliceFrom(object any) (*slice, error) {
	o, ok := object.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, fmt.Errorf("unexpected type %T", object)
	}
	service := o.Labels[discoveryv1.LabelServiceName]
	if o.AddressType == discoveryv1.AddressTypeFQDN || service == "" {
		return nil, nil
	}
	s := &slice{EndpointSlice: snapshot.EndpointSlice{Namespace: shared(o.Namespace), Name: strings.Clone(o.Name), Service: strings.Clone(service)}}
	if t, err := time.Parse(time.RFC3339Nano, o.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
		s.trigger = t
	}
	for _, p := range o.Ports {
		if p.Port == nil {
			continue
		}
		out := snapshot.EndpointPort{Port: uint16(*p.Port), Name: shared(deref(p.Name, "")), Protocol: protocols[deref(p.Protocol, corev1.ProtocolTCP)]}
		s.Ports = append(s.Ports, out)
	}
	s.Endpoints = make([]snapshot.Endpoint, 0, len(o.Endpoints))
	for _, e := range o.Endpoints {
		if out, ok := endpointFrom(e); ok {
			s.Endpoints = append(s.Endpoints, out)
		}
	}
	return s, nil
}

func endpointFrom(e discoveryv1.Endpoint) (snapshot.Endpoint, bool) {
	if len(e.Addresses) == 0 {
		return snapshot.Endpoint{}, false
	}
	addr, err := parseAddr(e.Addresses[0])
	if err != nil {
		return snapshot.Endpoint{}, false
	}
	out := snapshot.Endpoint{
		Addr: addr, Node: shared(deref(e.NodeName, "")),
		Ready: deref(e.Conditions.Ready, true), Serving: deref(e.Conditions.Serving, true), Terminating: deref(e.Conditions.Terminating, false),
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			out.ZoneHints = append(out.ZoneHints, shared(z.Name))
		}
		for _, n := range e.Hints.ForNodes {
			out.NodeHints = append(out.NodeHints, shared(n.Name))
		}
	}
	return out, true
}

func deref[V any](p *V, otherwise V) V {
	if p == nil {
		return otherwise
	}
	return *p
}

func cidrFrom(object any) (CIDR, error) {
	o, ok := object.(*networkingv1.ServiceCIDR)
	if !ok {
		return nil, fmt.Errorf("unexpected type %T", object)
	}
	var out CIDR
	for _, text := range o.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out, nil
}

func nodeFrom(object any) (Node, error) {
	o, ok := object.(*corev1.Node)
	if !ok {
		return Node{}, fmt.Errorf("unexpected type %T", object)
	}
	n := Node{Name: o.Name, Zone: o.Labels[corev1.LabelTopologyZone], Leaving: o.DeletionTimestamp != nil ||
		slices.ContainsFunc(o.Spec.Taints, func(t corev1.Taint) bool { return t.Key == toBeDeleted })}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range o.Status.Addresses {
			addr, err := netip.ParseAddr(a.Address)
			if a.Type == kind && err == nil && !slices.Contains(n.IPs, addr.Unmap()) {
				n.IPs = append(n.IPs, addr.Unmap())
			}
		}
	}
	return n, nil
}
