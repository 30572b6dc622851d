package object

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// Pod is what policies see of a Pod.
func Pod(p *corev1.Pod, pool *Pool) snapshot.Pod {
	out := snapshot.Pod{
		Namespace: pool.Text(p.Namespace), Name: p.Name, UID: string(p.UID), Labels: pool.Labels(p.Labels),
		Node: pool.Text(p.Spec.NodeName), HostNetwork: p.Spec.HostNetwork,
		Ended: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
	}
	// A static Pod is known to the runtime by another UID than its mirror has in the API.
	if static := p.Annotations[corev1.MirrorPodAnnotationKey]; static != "" {
		out.UID = static
	}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out.IPs = append(out.IPs, a.Unmap())
		}
	}
	if len(out.IPs) == 0 {
		if a, err := netip.ParseAddr(p.Status.PodIP); err == nil {
			out.IPs = []netip.Addr{a.Unmap()}
		}
	}
	out.Ports = pool.Ports(namedPorts(p))
	return out
}

// namedPorts are those of all containers, the sidecars among the init containers included. Where two
// have the same name and protocol the first counts, as for Services.
func namedPorts(p *corev1.Pod) []snapshot.NamedPort {
	var out []snapshot.NamedPort
	add := func(c corev1.Container) {
		for _, port := range c.Ports {
			protocol, known := protocols[port.Protocol]
			if port.Name == "" || !known || port.ContainerPort < 1 || port.ContainerPort > 65535 {
				continue
			}
			one := snapshot.NamedPort{Name: port.Name, Protocol: protocol, Port: uint16(port.ContainerPort)}
			same := func(o snapshot.NamedPort) bool { return o.Name == one.Name && o.Protocol == one.Protocol }
			if !slices.ContainsFunc(out, same) {
				out = append(out, one)
			}
		}
	}
	for _, c := range p.Spec.Containers {
		add(c)
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}

var protocols = map[corev1.Protocol]uint8{
	"": state.ProtoTCP, corev1.ProtocolTCP: state.ProtoTCP, corev1.ProtocolUDP: state.ProtoUDP, corev1.ProtocolSCTP: state.ProtoSCTP,
}

// Namespace is what policies see of a namespace.
func Namespace(n *corev1.Namespace, pool *Pool) snapshot.Namespace {
	return snapshot.Namespace{Name: pool.Text(n.Name), Labels: pool.Labels(n.Labels)}
}

// Node is what policies see of a node: its labels, and every address that it has of itself.
func Node(n *corev1.Node, pool *Pool) snapshot.KubeNode {
	out := snapshot.KubeNode{Name: pool.Text(n.Name), Labels: pool.Labels(n.Labels)}
	for _, a := range n.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if err == nil && (a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP) && !slices.Contains(out.IPs, addr.Unmap()) {
			out.IPs = append(out.IPs, addr.Unmap())
		}
	}
	return out
}
