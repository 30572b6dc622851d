package object

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// Annotations of policies.
const (
	// AnnotationAudit reports what the policy would deny, and denies nothing.
	AnnotationAudit = "policy.weftnet.io/audit"
	// AnnotationLog asks for a line about what the policy denies.
	AnnotationLog = "policy.weftnet.io/log"
)

// set tells whether an annotation is there and says yes. Whatever else it says, the policy denies.
func set(m metav1.ObjectMeta, annotation string) bool { return m.Annotations[annotation] == "true" }

// NetworkPolicy is the policy as written.
func NetworkPolicy(p *networkingv1.NetworkPolicy) snapshot.NetworkPolicy {
	out := snapshot.NetworkPolicy{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Generation: p.Generation,
		Audit: set(p.ObjectMeta, AnnotationAudit), Log: set(p.ObjectMeta, AnnotationLog),
		PodSelector: selector(p.Spec.PodSelector),
	}
	for _, t := range p.Spec.PolicyTypes {
		out.Types = append(out.Types, string(t))
	}
	for _, r := range p.Spec.Ingress {
		out.Ingress = append(out.Ingress, networkPolicyRule(r.From, r.Ports))
	}
	for _, r := range p.Spec.Egress {
		out.Egress = append(out.Egress, networkPolicyRule(r.To, r.Ports))
	}
	return out
}

func networkPolicyRule(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) snapshot.NetworkPolicyRule {
	var out snapshot.NetworkPolicyRule
	for _, p := range peers {
		peer := snapshot.NetworkPolicyPeer{PodSelector: maybeSelector(p.PodSelector), NamespaceSelector: maybeSelector(p.NamespaceSelector)}
		if p.IPBlock != nil {
			peer.IPBlock = &snapshot.IPBlock{CIDR: p.IPBlock.CIDR, Except: p.IPBlock.Except}
		}
		out.Peers = append(out.Peers, peer)
	}
	for _, p := range ports {
		var port snapshot.NetworkPolicyPort
		if p.Protocol != nil {
			port.Protocol = string(*p.Protocol)
		}
		if p.EndPort != nil {
			port.EndPort = *p.EndPort
		}
		switch {
		case p.Port == nil:
		case p.Port.Type == intstr.String:
			port.Name = p.Port.StrVal
		default:
			port.Number = numberOr(p.Port.IntVal)
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

// numberOr keeps a written 0, which is no port, from being taken for all ports.
func numberOr(n int32) int32 {
	if n == 0 {
		return -1
	}
	return n
}

func maybeSelector(s *metav1.LabelSelector) *snapshot.Selector {
	if s == nil {
		return nil
	}
	out := selector(*s)
	return &out
}

func selector(s metav1.LabelSelector) snapshot.Selector {
	out := snapshot.Selector{MatchLabels: snapshot.NewLabels(s.MatchLabels)}
	for _, r := range s.MatchExpressions {
		out.MatchExpressions = append(out.MatchExpressions, snapshot.Requirement{
			Key: r.Key, Operator: snapshot.Operator(r.Operator), Values: r.Values,
		})
	}
	return out
}
