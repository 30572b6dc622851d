package policy

import (
	"net/netip"

	"github.com/weftnet/weftnet/agent/state"
)

// Revoked gives the indices of the flows that policies no longer allow, of those that the suspects
// point at: what Commit says has changed since. Flows that concern no Pod of this node are never among them.
func (e *Engine) Revoked(flows []Flow, s Suspects) []int { return e.pick(flows, s, false) }

// Restored gives the indices of the flows that policies allow: of those with RevokedMark, the ones
// to let go again.
func (e *Engine) Restored(flows []Flow, s Suspects) []int { return e.pick(flows, s, true) }

func (e *Engine) pick(flows []Flow, s Suspects, allowed bool) []int {
	if !s.All && len(s.Addrs) == 0 {
		return nil
	}
	c := court{e: e, policies: map[*endpoint][]*policy{}, known: map[ruling]bool{}}
	var out []int
	for i, f := range flows {
		pkt := f.packet()
		if (s.All || s.Addrs[pkt.Src] || s.Addrs[pkt.Dst]) && c.allows(pkt) == allowed {
			out = append(out, i)
		}
	}
	return out
}

// packet is the flow's first packet as policies see it: the one who began it, before source NAT,
// and the one who answers, after destination NAT.
func (f Flow) packet() Packet {
	pkt := Packet{Protocol: f.Protocol, Src: clean(f.Src.Addr()), Dst: clean(f.ReplySrc.Addr())}
	switch f.Protocol {
	case state.ProtoTCP, state.ProtoUDP, state.ProtoSCTP:
		pkt.Port = f.ReplySrc.Port()
	}
	return pkt
}

// court judges many flows, each kind of them once.
type court struct {
	e        *Engine
	policies map[*endpoint][]*policy
	known    map[ruling]bool
}

// ruling is what a decision depends on.
type ruling struct {
	ep       *endpoint
	d        Direction
	peer     netip.Addr
	protocol uint8
	port     uint16
}

func (c *court) allows(pkt Packet) bool {
	return c.direction(Egress, pkt.Src, pkt.Dst, pkt) && c.direction(Ingress, pkt.Dst, pkt.Src, pkt)
}

func (c *court) direction(d Direction, own, peer netip.Addr, pkt Packet) bool {
	ep := c.e.endpointAt[own]
	if ep == nil {
		return true
	}
	key := ruling{ep, d, peer, pkt.Protocol, pkt.Port}
	allowed, ok := c.known[key]
	if !ok {
		s := c.e.subjectOf(ep)
		policies, ok := c.policies[ep]
		if !ok {
			policies = c.e.selecting(s)
			c.policies[ep] = policies
		}
		allowed = c.e.decide(d, s, policies, pkt).Verdict == Accept
		c.known[key] = allowed
	}
	return allowed
}

// Stats are the sizes of what the engine holds.
type Stats struct {
	// NetworkPolicies and ClusterNetworkPolicies are all that are known.
	NetworkPolicies, ClusterNetworkPolicies int
	// Endpoints are the Pods of this node, Selected those of which anything is judged.
	Pods, Endpoints, Selected int
	Chains, Sets, Elements    int
}

// Stats counts.
func (e *Engine) Stats() Stats {
	s := Stats{NetworkPolicies: len(e.policies), ClusterNetworkPolicies: len(e.cluster), Pods: len(e.pods), Endpoints: len(e.endpoints)}
	for _, ep := range e.endpoints {
		if judged(ep.profiles) {
			s.Selected++
		}
	}
	for _, it := range e.out.items {
		switch {
		case it.chain != nil:
			s.Chains++
		case it.live != nil:
			s.Sets++
			s.Elements += it.live.len()
		case it.fixed != nil:
			s.Sets++
			s.Elements += len(it.fixed.Elements)
		}
	}
	return s
}
