package policy

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// subject is a Pod that packets are judged for.
type subject struct {
	name snapshot.NamespacedName
	// pod is nil while the object is unknown, ns while that of the namespace is.
	pod   *pod
	ns    *snapshot.Namespace
	addrs []netip.Addr
	// node are the addresses of the node that it runs on.
	node []netip.Addr
	// shut closes it whatever policies say.
	shut bool
}

func (e *Engine) subjectOf(ep *endpoint) subject {
	s := subject{name: ep.Pod, addrs: ep.IPs, node: e.self.IPs, shut: ep.shut}
	if p := e.pods[ep.Pod]; ep.isOf(p) {
		s.pod = p
	}
	if n := e.namespaces[ep.Pod.Namespace]; n != nil {
		s.ns = n.object
	}
	return s
}

// subjectAt finds the Pod with an address: one of this node's interfaces, or any that is known.
func (e *Engine) subjectAt(a netip.Addr) (subject, bool) {
	if ep := e.endpointAt[a]; ep != nil {
		return e.subjectOf(ep), true
	}
	pods := e.podsAt[a]
	if len(pods) == 0 {
		return subject{}, false
	}
	p := slices.MinFunc(pods, func(a, b *pod) int { return compareNames(a.Key(), b.Key()) })
	s := subject{name: p.Key(), pod: p, addrs: p.addrs, node: nodeAddrs(e.nodes[p.Node])}
	if p.Node == e.self.Name {
		s.node = slices.Concat(s.node, e.self.IPs)
	}
	s.ns = e.namespaces[p.Namespace].object
	return s, true
}

// Explain says what becomes of the first packet of a flow, and why.
func (e *Engine) Explain(pkt Packet) Explanation {
	pkt.Src, pkt.Dst = clean(pkt.Src), clean(pkt.Dst)
	out := Explanation{Allowed: true}
	if s, ok := e.subjectAt(pkt.Src); ok {
		d := e.decide(Egress, s, e.selecting(s), pkt)
		out.Egress, out.Allowed = &d, d.Verdict == Accept
	}
	if s, ok := e.subjectAt(pkt.Dst); ok {
		d := e.decide(Ingress, s, e.selecting(s), pkt)
		out.Ingress, out.Allowed = &d, out.Allowed && d.Verdict == Accept
	}
	return out
}

// selecting are the policies that select a Pod, in their order.
func (e *Engine) selecting(s subject) []*policy {
	if s.pod == nil {
		return nil
	}
	var admin, rest []*policy
	for _, p := range e.ordered {
		switch {
		case !p.subject.matches(&s.pod.Pod, s.ns):
		case p.tier == TierAdmin:
			admin = append(admin, p)
		default:
			rest = append(rest, p)
		}
	}
	for _, p := range e.byNS[s.name.Namespace] {
		if p.subject.matches(&s.pod.Pod, s.ns) {
			admin = append(admin, p)
		}
	}
	return append(admin, rest...)
}

// shut tells whether too little is known of a Pod to let anything pass: a policy that is in force
// might select it.
func (e *Engine) shut(d Direction, s subject) bool {
	if s.shut {
		return true
	}
	might := func(p *policy) bool { return !p.audit && p.has(d) }
	if (s.pod == nil || s.ns == nil) && slices.ContainsFunc(e.ordered, might) {
		return true
	}
	return s.pod == nil && slices.ContainsFunc(e.byNS[s.name.Namespace], might)
}

// decide is the meaning of policies: what one direction says of a packet to (or from) a Pod that
// the policies select.
func (e *Engine) decide(d Direction, s subject, policies []*policy, pkt Packet) Decision {
	peer := pkt.Src
	if d == Egress {
		peer = pkt.Dst
	}
	reason := Reason{Direction: d, Pod: s.name, Tier: TierAlways, Rule: -1, Peer: -1}
	own := slices.Contains(s.addrs, pkt.Src) && slices.Contains(s.addrs, pkt.Dst)
	if own || d == Ingress && slices.Contains(s.node, peer) {
		return Decision{Verdict: Accept, Reason: reason}
	}
	if e.shut(d, s) {
		reason.Tier = TierUnknown
		return Decision{Verdict: Deny, Reason: reason}
	}
	w := walk{e: e, d: d, s: s, pkt: pkt, peer: peer, reason: reason}
	for _, step := range []func([]*policy) Verdict{w.cluster(TierAdmin), w.namespaced, w.cluster(TierBaseline)} {
		if v := step(policies); v != Next {
			return Decision{Verdict: v, Reason: w.reason, Audit: w.audit}
		}
	}
	reason.Tier = TierDefault
	return Decision{Verdict: Accept, Reason: reason, Audit: w.audit}
}

// walk is one packet's way through the tiers.
type walk struct {
	e      *Engine
	d      Direction
	s      subject
	pkt    Packet
	peer   netip.Addr
	reason Reason
	audit  []Reason
}

// cluster is a tier of ClusterNetworkPolicies: the first rule that matches decides. A policy in audit
// mode is asked by itself, at its place.
func (w *walk) cluster(t Tier) func([]*policy) Verdict {
	return func(policies []*policy) Verdict {
		for _, p := range policies {
			if p.tier != t || !p.has(w.d) {
				continue
			}
			r, reason := w.first(p)
			switch {
			case r == nil:
			case p.audit && r.action == actionDeny:
				w.audit = append(w.audit, reason)
			case p.audit:
			case r.action == actionPass:
				return Next
			default:
				w.reason = reason
				return map[action]Verdict{actionAccept: Accept, actionDeny: Deny}[r.action]
			}
		}
		return Next
	}
}

// namespaced is the tier of NetworkPolicies: what isolates the Pod and does not allow, denies.
// Those in audit mode count together, and only where no other isolates the Pod.
func (w *walk) namespaced(policies []*policy) Verdict {
	force, trial := isolating(policies, w.d)
	for _, p := range force {
		if r, reason := w.first(p); r != nil {
			w.reason = reason
			return Accept
		}
	}
	if len(force) > 0 {
		w.reason.Tier, w.reason.Policies = TierNetworkPolicy, names(force)
		return Deny
	}
	for _, p := range trial {
		if r, _ := w.first(p); r != nil {
			return Next
		}
	}
	if len(trial) > 0 {
		reason := w.reason
		reason.Tier, reason.Policies = TierNetworkPolicy, names(trial)
		w.audit = append(w.audit, reason)
	}
	return Next
}

// isolating are the NetworkPolicies that isolate in a direction: those in force, and those in audit mode.
func isolating(policies []*policy, d Direction) (force, trial []*policy) {
	for _, p := range policies {
		switch {
		case p.tier != TierNetworkPolicy || !p.has(d):
		case p.audit:
			trial = append(trial, p)
		default:
			force = append(force, p)
		}
	}
	return force, trial
}

func names(policies []*policy) []string {
	out := make([]string, len(policies))
	for i, p := range policies {
		out[i] = p.name
	}
	return out
}

// first is the first rule of a policy that matches.
func (w *walk) first(p *policy) (*rule, Reason) {
	rules := p.sections[w.d].rules
	for i := range rules {
		if peer, ok := w.matches(&rules[i]); ok {
			return &rules[i], Reason{
				Direction: w.d, Pod: w.s.name, Tier: p.tier, Policies: []string{p.name},
				Rule: rules[i].index, RuleName: rules[i].name, Peer: peer,
			}
		}
	}
	return nil, Reason{}
}

// matches tells whether a rule matches, and by which peer; -1 when by none in particular.
func (w *walk) matches(r *rule) (int, bool) {
	if r.plain(w.pkt) || w.d == Ingress && w.s.pod != nil && r.namedBy(&w.s.pod.Pod, w.pkt) {
		return w.peers(r, w.e.podsAt[w.peer])
	}
	if w.d == Ingress {
		return 0, false
	}
	// The names that the destination gives its ports count, and those of each Pod by itself.
	for _, p := range w.e.podsAt[w.peer] {
		if r.namedBy(&p.Pod, w.pkt) {
			if i, ok := w.peers(r, []*pod{p}); ok {
				return i, true
			}
		}
	}
	return 0, false
}

func (w *walk) peers(r *rule, pods []*pod) (int, bool) {
	if r.anyPeer {
		return -1, true
	}
	for i := range r.peers {
		if w.isPeer(&r.peers[i], pods) {
			return r.peers[i].index, true
		}
	}
	return 0, false
}

func (w *walk) isPeer(p *peer, pods []*pod) bool {
	switch {
	case p.pods != nil:
		return slices.ContainsFunc(pods, func(x *pod) bool {
			return p.pods.matches(&x.Pod, w.e.namespaces[x.Namespace].object)
		})
	case p.nodes != nil:
		return slices.ContainsFunc(w.e.nodesAt[w.peer], func(n *snapshot.KubeNode) bool { return p.nodes.Matches(n.Labels) })
	default:
		return inRanges(p.nets, w.peer) || w.d == Ingress && slices.ContainsFunc(w.e.nodesAt[w.peer], func(n *snapshot.KubeNode) bool {
			return sentFor(n, w.peer, p.nets)
		})
	}
}

// sentFor tells whether a is the mesh address of a node that a block means by another address.
func sentFor(n *snapshot.KubeNode, a netip.Addr, block []addrRange) bool {
	return slices.Contains(n.MeshIPs, a) && slices.ContainsFunc(n.IPs, func(ip netip.Addr) bool {
		return ip.BitLen() == a.BitLen() && inRanges(block, ip)
	})
}
