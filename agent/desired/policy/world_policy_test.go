package policy_test

import (
	"fmt"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
)

func (w *world) selector() snapshot.Selector {
	var s snapshot.Selector
	if w.oneIn(2) {
		s.MatchLabels = snapshot.Labels{{Key: pick(w, labelKeys...), Value: pick(w, labelValues...)}}
	}
	for range max(0, w.r.IntN(5)-2) {
		r := snapshot.Requirement{Key: pick(w, labelKeys...), Operator: pick(w, snapshot.OperatorIn, snapshot.OperatorNotIn, snapshot.OperatorExists, snapshot.OperatorDoesNotExist)}
		if r.Operator == snapshot.OperatorIn || r.Operator == snapshot.OperatorNotIn {
			r.Values = []string{pick(w, labelValues...), pick(w, labelValues...)}
		}
		if w.oneIn(60) {
			r.Operator = "Gt"
		}
		s.MatchExpressions = append(s.MatchExpressions, r)
	}
	return s
}

func (w *world) anySelector() *snapshot.Selector {
	s := w.selector()
	return &s
}

var blocks = []string{
	"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.244.0.0/16", "10.244.1.0/24", "10.244.2.3/32", "10.200.0.0/24", "10.200.0.2/32",
	"fd00::/8", "fd00:244::/32", "fd00:244:1::/64", "fd00:c8::2/128", "203.0.113.0/24", "2001:db8::/32", "10.244.1.5/30", "::ffff:10.244.2.0/120",
}

func (w *world) changePolicy(e *policy.Engine) {
	key := snapshot.NamespacedName{Namespace: pick(w, namespaceNames...), Name: fmt.Sprintf("np%d", 1+w.r.IntN(w.policyNames))}
	if w.policyNames > 3 {
		key.Namespace = namespaceNames[0] // so that its Pods have very many
	}
	if w.oneIn(4) {
		delete(w.policies, key)
		e.DeleteNetworkPolicy(key)
		return
	}
	np := snapshot.NetworkPolicy{
		Namespace: key.Namespace, Name: key.Name, Audit: w.oneIn(6), Log: w.oneIn(4), PodSelector: w.selector(),
		Types: pick(w, nil, []string{"Ingress"}, []string{"Egress"}, []string{"Ingress", "Egress"}),
	}
	if w.policyNames > 3 && w.oneIn(2) {
		np.PodSelector, np.Types, np.Audit = snapshot.Selector{}, []string{"Ingress", "Egress"}, false
	}
	if w.oneIn(50) {
		np.Types = []string{"Sideways"}
	}
	for range w.r.IntN(4) {
		np.Ingress = append(np.Ingress, w.rule())
	}
	for range w.r.IntN(4) {
		np.Egress = append(np.Egress, w.rule())
	}
	w.policies[key] = np
	e.SetNetworkPolicy(np)
}

func (w *world) rule() snapshot.NetworkPolicyRule {
	var r snapshot.NetworkPolicyRule
	for range w.r.IntN(3) {
		r.Peers = append(r.Peers, w.peer())
	}
	for range w.r.IntN(4) {
		p := snapshot.NetworkPolicyPort{Protocol: pick(w, "", "TCP", "UDP", "SCTP")}
		switch w.r.IntN(8) {
		case 0, 1, 2:
			p.Number = int32(pick(w, numbers...))
		case 3, 4:
			p.Number = int32(pick(w, numbers...))
			p.EndPort = int32(pick(w, numbers...)) // before its beginning at times
		case 5, 6:
			p.Name = pick(w, portNames...)
		}
		if w.oneIn(40) {
			p.Protocol = "ICMP"
		}
		r.Ports = append(r.Ports, p)
	}
	return r
}

func (w *world) peer() snapshot.NetworkPolicyPeer {
	switch w.r.IntN(6) {
	case 0, 1:
		b := &snapshot.IPBlock{CIDR: pick(w, blocks...)}
		for range w.r.IntN(3) {
			b.Except = append(b.Except, pick(w, blocks...))
		}
		if w.oneIn(30) {
			b.Except = append(b.Except, "10.0.0.0/99")
		}
		return snapshot.NetworkPolicyPeer{IPBlock: b}
	case 2:
		return snapshot.NetworkPolicyPeer{NamespaceSelector: w.anySelector()}
	case 3:
		return snapshot.NetworkPolicyPeer{NamespaceSelector: w.anySelector(), PodSelector: w.anySelector()}
	case 4:
		return snapshot.NetworkPolicyPeer{PodSelector: w.anySelector()}
	default:
		if w.oneIn(10) {
			return snapshot.NetworkPolicyPeer{}
		}
		return snapshot.NetworkPolicyPeer{PodSelector: w.anySelector()}
	}
}

func (w *world) changeClusterPolicy(e *policy.Engine) {
	name := pick(w, "c1", "c2", "c3", "c4")
	if w.oneIn(3) {
		delete(w.cluster, name)
		e.DeleteClusterNetworkPolicy(name)
		return
	}
	c := snapshot.ClusterNetworkPolicy{
		Name: name, Audit: w.oneIn(6), Log: w.oneIn(4), Tier: pick(w, "Admin", "Baseline"), Priority: int32(w.r.IntN(3)), Subject: w.podPeer(),
	}
	if w.oneIn(40) {
		c.Tier = "Other"
	}
	if w.oneIn(40) {
		c.Subject = snapshot.PodPeer{}
	}
	for range w.r.IntN(4) {
		c.Ingress = append(c.Ingress, w.clusterRule(false))
	}
	for range w.r.IntN(4) {
		c.Egress = append(c.Egress, w.clusterRule(true))
	}
	w.cluster[name] = c
	e.SetClusterNetworkPolicy(c)
}

func (w *world) podPeer() snapshot.PodPeer {
	if w.oneIn(2) {
		return snapshot.PodPeer{Namespaces: w.anySelector()}
	}
	return snapshot.PodPeer{Pods: &snapshot.NamespacedPods{Namespaces: w.selector(), Pods: w.selector()}}
}

func (w *world) clusterRule(egress bool) snapshot.ClusterNetworkPolicyRule {
	r := snapshot.ClusterNetworkPolicyRule{Action: pick(w, "Accept", "Deny", "Pass")}
	if w.oneIn(40) {
		r.Action = "Wave"
	}
	for range 1 + w.r.IntN(2) {
		p := snapshot.ClusterNetworkPolicyPeer{PodPeer: w.podPeer()}
		switch w.r.IntN(6) {
		case 0:
			p = snapshot.ClusterNetworkPolicyPeer{Nodes: w.anySelector()}
		case 1:
			p = snapshot.ClusterNetworkPolicyPeer{Networks: []string{pick(w, blocks...), pick(w, blocks...)}}
		case 2:
			if w.oneIn(6) {
				p = snapshot.ClusterNetworkPolicyPeer{DomainNames: []string{"example.org"}}
			} else if w.oneIn(6) {
				p = snapshot.ClusterNetworkPolicyPeer{}
			}
		}
		r.Peers = append(r.Peers, p)
	}
	for range max(0, w.r.IntN(4)-1) {
		p := snapshot.ClusterNetworkPolicyProtocol{Protocol: pick(w, "TCP", "UDP", "SCTP")}
		p.First = int32(pick(w, numbers...))
		p.Last = max(p.First, int32(pick(w, numbers...)))
		if w.oneIn(3) {
			p = snapshot.ClusterNetworkPolicyProtocol{NamedPort: pick(w, portNames...)}
		}
		if w.oneIn(40) {
			p = snapshot.ClusterNetworkPolicyProtocol{}
		}
		r.Protocols = append(r.Protocols, p)
	}
	return r
}
