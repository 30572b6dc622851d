package policy

import (
	"fmt"
	"math"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// fromClusterNetworkPolicy reads a ClusterNetworkPolicy. What cannot be honoured fails closed as its
// API says: an Accept rule matches nothing, a Deny or Pass rule denies everything.
func fromClusterNetworkPolicy(c snapshot.ClusterNetworkPolicy) *policy {
	j := &judge{about: Problem{Kind: "ClusterNetworkPolicy", Name: c.Name, UID: c.UID, Generation: c.Generation}}
	p := &policy{name: c.Name, priority: c.Priority, audit: c.Audit, log: c.Log}
	onlyDeny := false
	switch c.Tier {
	case snapshot.TierAdmin:
		p.tier = TierAdmin
	case snapshot.TierBaseline:
		p.tier = TierBaseline
	default:
		j.fault("spec.tier", "unknown tier %q: only its Deny rules are in force, in the Admin tier", c.Tier)
		p.tier, onlyDeny = TierAdmin, true
	}
	subject, ok := j.podPeer("spec.subject", c.Subject)
	if !ok {
		// Whom it means nobody knows: its denials are for every Pod, its permissions for none.
		subject, onlyDeny = podSelector{}, true
	}
	p.subject = subject
	p.sections[Ingress] = j.clusterSection("spec.ingress", "from", c.Ingress, onlyDeny)
	p.sections[Egress] = j.clusterSection("spec.egress", "to", c.Egress, onlyDeny)
	p.problems = j.problems
	return p
}

// podPeer reads a subject or a peer that selects Pods.
func (j *judge) podPeer(field string, s snapshot.PodPeer) (podSelector, bool) {
	switch {
	case s.Namespaces != nil && s.Pods == nil:
		return podSelector{namespaces: *s.Namespaces}, j.selector(field+".namespaces", *s.Namespaces)
	case s.Pods != nil && s.Namespaces == nil:
		ok := j.selector(field+".pods.namespaceSelector", s.Pods.Namespaces)
		ok = j.selector(field+".pods.podSelector", s.Pods.Pods) && ok
		return podSelector{namespaces: s.Pods.Namespaces, pods: s.Pods.Pods}, ok
	default:
		j.fault(field, "is of a kind that is not known")
		return podSelector{}, false
	}
}

func (j *judge) clusterSection(field, peers string, rules []snapshot.ClusterNetworkPolicyRule, onlyDeny bool) *section {
	if len(rules) == 0 {
		return nil // it says nothing of this direction
	}
	s := &section{}
	for i, r := range rules {
		out := j.clusterRule(fmt.Sprintf("%s[%d]", field, i), peers, r)
		if onlyDeny && out.action != actionDeny {
			continue
		}
		out.index, out.name = i, r.Name
		for _, p := range out.ports {
			s.named = s.named || p.name != ""
		}
		s.rules = append(s.rules, out)
	}
	return s
}

func (j *judge) clusterRule(field, peers string, r snapshot.ClusterNetworkPolicyRule) rule {
	out := rule{anyPort: len(r.Protocols) == 0}
	switch r.Action {
	case snapshot.ActionAccept:
		out.action = actionAccept
	case snapshot.ActionDeny:
		out.action = actionDeny
	case snapshot.ActionPass:
		out.action = actionPass
	default:
		j.fault(field+".action", "unknown action %q: the rule denies", r.Action)
		out.action = actionDeny
	}
	sound := len(r.Peers) > 0
	if !sound {
		j.fault(field+"."+peers, "has no peers")
	}
	for k, p := range r.Peers {
		read, use, ok := j.clusterPeer(fmt.Sprintf("%s.%s[%d]", field, peers, k), p, out.action)
		sound = sound && ok
		if use {
			read.index = k
			out.peers = append(out.peers, read)
		}
	}
	for k, p := range r.Protocols {
		read, ok := j.clusterPort(fmt.Sprintf("%s.protocols[%d]", field, k), p)
		sound = sound && ok
		out.ports = append(out.ports, read)
	}
	if !sound {
		return closed(out.action)
	}
	return out
}

// closed is the rule that stands for one that cannot be honoured.
func closed(a action) rule {
	if a == actionAccept {
		return rule{action: actionAccept}
	}
	return rule{action: actionDeny, anyPeer: true, anyPort: true}
}

// clusterPeer reads a peer: whether it is of use, and whether the rule can stand with it.
func (j *judge) clusterPeer(field string, p snapshot.ClusterNetworkPolicyPeer, a action) (out peer, use, ok bool) {
	switch {
	case p.Namespaces != nil || p.Pods != nil:
		s, ok := j.podPeer(field, p.PodPeer)
		s.unknown = a == actionDeny
		return peer{pods: &s}, ok, ok
	case p.Nodes != nil:
		ok := j.selector(field+".nodes", *p.Nodes)
		return peer{nodes: p.Nodes}, ok, ok
	case len(p.Networks) > 0:
		ranges, ok := j.networks(field+".networks", p.Networks)
		return peer{nets: ranges}, ok, ok
	case len(p.DomainNames) > 0:
		j.fault(field+".domainNames", "domain names are not supported: the peer matches nothing")
		return peer{}, false, a == actionAccept
	default:
		j.fault(field, "is of a kind that is not known")
		return peer{}, false, false
	}
}

func (j *judge) networks(field string, cidrs []string) ([]addrRange, bool) {
	var out []addrRange
	ok := true
	for i, text := range cidrs {
		r, err := parseRange(text)
		if err != nil {
			j.fault(fmt.Sprintf("%s[%d]", field, i), "%v", err)
			ok = false
			continue
		}
		out = append(out, r)
	}
	return merge(out), ok
}

func (j *judge) clusterPort(field string, p snapshot.ClusterNetworkPolicyProtocol) (port, bool) {
	if p.NamedPort != "" {
		return port{name: p.NamedPort}, true
	}
	protocol, ok := protocols[p.Protocol]
	if !ok {
		j.fault(field, "is of a kind that is not known")
		return port{}, false
	}
	if p.First < 1 || p.Last < p.First || p.Last > math.MaxUint16 {
		j.fault(field+".destinationPort", "is not a port or range that is known")
		return port{}, false
	}
	return port{protocol: protocol, first: uint16(p.First), last: uint16(p.Last)}, true
}
