package service_test

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// This file is a model of what Services mean, written from the API's documentation and from what
// kube-proxy does, in the plainest way and sharing nothing with the code: for one packet it walks
// through all Services.

// meaning is what shall become of the first packet of a connection.
type meaning struct {
	verdict   string // forward, refuse, drop, pass
	endpoints []netip.AddrPort
	// keepsSource: the endpoint shall see the client's own address.
	keepsSource func(endpoint netip.AddrPort) bool
}

type candidate struct {
	o    object
	port snapshot.ServicePort
	kind int // 0 cluster IP, 1 node port, 2 load balancer, 3 external IP
}

// means says what a connection of a client to an address means.
func means(objects []object, node snapshot.ServiceNode, client string, from netip.Addr, proto uint8, to netip.AddrPort) meaning {
	best := bestCandidate(objects, node, proto, to)
	if best == nil {
		for _, o := range objects {
			if slices.Contains(o.ClusterIPs, to.Addr()) {
				return meaning{verdict: "refuse"}
			}
		}
		for _, p := range node.ServiceCIDRs {
			if p.Contains(to.Addr()) {
				return meaning{verdict: "drop"}
			}
		}
		return meaning{verdict: "pass"}
	}
	isLB := best.kind == 2 || best.kind == 3 && slices.Contains(best.o.LoadBalancerIPs, to.Addr())
	if isLB && !inRanges(best.o, node, from) {
		return meaning{verdict: "drop"}
	}
	return best.forward(node, client, from, to)
}

func bestCandidate(objects []object, node snapshot.ServiceNode, proto uint8, to netip.AddrPort) *candidate {
	var best *candidate
	for _, o := range objects {
		if !slices.ContainsFunc(o.ClusterIPs, func(a netip.Addr) bool { return a.Is4() == to.Addr().Is4() }) {
			continue
		}
		for _, p := range o.Ports {
			if p.Protocol != proto {
				continue
			}
			var kind int
			switch a := to.Addr(); {
			case slices.Contains(o.ClusterIPs, a) && p.Port == to.Port():
				kind = 0
			case slices.Contains(node.NodePortIPs, a) && p.NodePort != 0 && p.NodePort == to.Port():
				kind = 1
			case slices.Contains(o.LoadBalancerIPs, a) && p.Port == to.Port():
				kind = 2
			case slices.Contains(o.ExternalIPs, a) && p.Port == to.Port():
				kind = 3
			default:
				continue
			}
			c := &candidate{o, p, kind}
			if best == nil || c.before(best) {
				best = c
			}
		}
	}
	return best
}

func (c *candidate) before(o *candidate) bool {
	switch {
	case c.kind != o.kind:
		return c.kind < o.kind
	case !c.o.Created.Equal(o.o.Created):
		return c.o.Created.Before(o.o.Created)
	default:
		return c.o.String() < o.o.String()
	}
}

func inRanges(o object, node snapshot.ServiceNode, from netip.Addr) bool {
	some, nodeAllowed := false, false
	for _, p := range o.SourceRanges {
		if p.Addr().Is4() != from.Is4() {
			continue
		}
		some = true
		if p.Contains(from) {
			return true
		}
		for _, a := range node.NodeIPs {
			nodeAllowed = nodeAllowed || p.Contains(a)
		}
	}
	return !some || nodeAllowed && slices.Contains(o.LoadBalancerIPs, from)
}

func (c *candidate) forward(node snapshot.ServiceNode, client string, from netip.Addr, to netip.AddrPort) meaning {
	inside := client != "outside" && client != "remote"
	local := c.kind == 0 && c.o.InternalLocal || c.kind != 0 && c.o.ExternalLocal && !inside
	all := c.endpoints(to.Addr().Is4())
	var usable []netip.AddrPort
	some := false
	for _, terminating := range []bool{false, true} {
		for ap, e := range all {
			takes := e.Ready
			if terminating {
				takes = !e.Ready && e.Serving && e.Terminating
			}
			if !takes {
				continue
			}
			some = true
			if local && e.Node != node.Name {
				continue
			}
			if !local && !terminating && !c.near(all, e, node) {
				continue
			}
			usable = append(usable, ap)
		}
		if len(usable) > 0 {
			break
		}
	}
	switch {
	case len(usable) == 0 && some:
		return meaning{verdict: "drop"}
	case len(usable) == 0:
		return meaning{verdict: "refuse"}
	}
	return meaning{verdict: "forward", endpoints: usable, keepsSource: func(ep netip.AddrPort) bool {
		switch {
		case slices.Contains(node.NodeIPs, ep.Addr()):
			return true // it does not leave the node
		case client == "pod" || client == "self":
			return from != ep.Addr()
		default:
			return c.kind != 0 && c.o.ExternalLocal && !inside
		}
	}}
}

// endpoints of the port, by address: of two with the same address the better one.
func (c *candidate) endpoints(four bool) map[netip.AddrPort]snapshot.Endpoint {
	rank := func(e snapshot.Endpoint) int {
		switch {
		case e.Ready:
			return 2
		case e.Serving && e.Terminating:
			return 1
		default:
			return 0
		}
	}
	out := map[netip.AddrPort]snapshot.Endpoint{}
	for _, s := range c.o.slices {
		for _, p := range s.Ports {
			if p.Name != c.port.Name || p.Protocol != c.port.Protocol {
				continue
			}
			for _, e := range s.Endpoints {
				ap := netip.AddrPortFrom(e.Addr, p.Port)
				if have, ok := out[ap]; e.Addr.Is4() == four && (!ok || rank(e) > rank(have)) {
					out[ap] = e
				}
			}
		}
	}
	return out
}

// near follows the hints: those for this node if all ready endpoints have some for nodes and any is for
// this one, else those for the zone by the same rule, else none.
func (c *candidate) near(all map[netip.AddrPort]snapshot.Endpoint, e snapshot.Endpoint, node snapshot.ServiceNode) bool {
	for _, look := range []struct {
		hints func(snapshot.Endpoint) []string
		mine  string
	}{
		{func(e snapshot.Endpoint) []string { return e.NodeHints }, node.Name},
		{func(e snapshot.Endpoint) []string { return e.ZoneHints }, node.Zone},
	} {
		every, some := true, false
		for _, x := range all {
			if x.Ready {
				every = every && len(look.hints(x)) > 0
				some = some || slices.Contains(look.hints(x), look.mine)
			}
		}
		if every && some {
			return slices.Contains(look.hints(e), look.mine)
		}
	}
	return true
}
