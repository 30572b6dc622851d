package object

import (
	corev1 "k8s.io/api/core/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// ClusterNetworkPolicy is the policy as written. What this version of the API does not know is not
// in it: a peer without a field, which fails closed.
func ClusterNetworkPolicy(p *policyv1alpha2.ClusterNetworkPolicy) snapshot.ClusterNetworkPolicy {
	out := snapshot.ClusterNetworkPolicy{
		Name: p.Name, UID: string(p.UID), Generation: p.Generation,
		Audit: set(p.ObjectMeta, AnnotationAudit), Log: set(p.ObjectMeta, AnnotationLog),
		Tier: string(p.Spec.Tier), Priority: p.Spec.Priority,
		Subject: podPeer(policyv1alpha2.ClusterNetworkPolicyIngressPeer(p.Spec.Subject)),
	}
	for _, r := range p.Spec.Ingress {
		rule := snapshot.ClusterNetworkPolicyRule{Name: r.Name, Action: string(r.Action), Protocols: clusterProtocols(r.Protocols)}
		for _, from := range r.From {
			rule.Peers = append(rule.Peers, snapshot.ClusterNetworkPolicyPeer{PodPeer: podPeer(from)})
		}
		out.Ingress = append(out.Ingress, rule)
	}
	for _, r := range p.Spec.Egress {
		rule := snapshot.ClusterNetworkPolicyRule{Name: r.Name, Action: string(r.Action), Protocols: clusterProtocols(r.Protocols)}
		for _, to := range r.To {
			rule.Peers = append(rule.Peers, egressPeer(to))
		}
		out.Egress = append(out.Egress, rule)
	}
	return out
}

func egressPeer(to policyv1alpha2.ClusterNetworkPolicyEgressPeer) snapshot.ClusterNetworkPolicyPeer {
	peer := snapshot.ClusterNetworkPolicyPeer{
		PodPeer: podPeer(policyv1alpha2.ClusterNetworkPolicyIngressPeer{Namespaces: to.Namespaces, Pods: to.Pods}),
		Nodes:   maybeSelector(to.Nodes),
	}
	for _, n := range to.Networks {
		peer.Networks = append(peer.Networks, string(n))
	}
	for _, n := range to.DomainNames {
		peer.DomainNames = append(peer.DomainNames, string(n))
	}
	return peer
}

func podPeer(p policyv1alpha2.ClusterNetworkPolicyIngressPeer) snapshot.PodPeer {
	out := snapshot.PodPeer{Namespaces: maybeSelector(p.Namespaces)}
	if p.Pods != nil {
		out.Pods = &snapshot.NamespacedPods{Namespaces: selector(p.Pods.NamespaceSelector), Pods: selector(p.Pods.PodSelector)}
	}
	return out
}

func clusterProtocols(in []policyv1alpha2.ClusterNetworkPolicyProtocol) []snapshot.ClusterNetworkPolicyProtocol {
	var out []snapshot.ClusterNetworkPolicyProtocol
	for _, p := range in {
		one := snapshot.ClusterNetworkPolicyProtocol{NamedPort: p.DestinationNamedPort}
		switch {
		case p.TCP != nil:
			one.Protocol = string(corev1.ProtocolTCP)
			one.First, one.Last = portRange(p.TCP.DestinationPort)
		case p.UDP != nil:
			one.Protocol = string(corev1.ProtocolUDP)
			one.First, one.Last = portRange(p.UDP.DestinationPort)
		case p.SCTP != nil:
			one.Protocol = string(corev1.ProtocolSCTP)
			one.First, one.Last = portRange(p.SCTP.DestinationPort)
		}
		out = append(out, one)
	}
	return out
}

func portRange(p *policyv1alpha2.Port) (first, last int32) {
	switch {
	case p == nil:
		return 0, 0
	case p.Range != nil:
		return p.Range.Start, p.Range.End
	default:
		return p.Number, p.Number
	}
}
