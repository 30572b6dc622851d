package policy

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// family holds what differs between IPv4 and IPv6.
type family struct {
	index        int
	suffix       string
	bits         int
	proto        state.Value
	addr         state.DataType
	saddr, daddr state.Field
}

var families = [2]*family{
	{0, "4", 32, state.NFProtoIPv4, state.TypeIPv4, state.FieldIPSaddr, state.FieldIPDaddr},
	{1, "6", 128, state.NFProtoIPv6, state.TypeIPv6, state.FieldIP6Saddr, state.FieldIP6Daddr},
}

// familyIndex is that of an address in families.
func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// group is a shared set of one family that follows Pods or nodes. What it follows is its content and
// its name, so that all rules which mean the same share it.
type group struct {
	fam  *family
	live *liveSet
	// Pods: those that the selector matches, or with an address in the block, or all where both are
	// nil; by address, or with named, by address and the ports that have one of the names.
	pods  *podSelector
	block []addrRange
	named []port
	// Nodes by their labels.
	nodes *snapshot.Selector
	// sources is a block of addresses with the mesh addresses of the nodes that it means.
	sources []addrRange
	stale   bool
}

// followsPods tells whether elements come from Pods.
func (g *group) followsPods() bool { return g.nodes == nil && g.sources == nil }

// of are the elements that a Pod brings.
func (g *group) of(p *pod, ns *snapshot.Namespace) []state.Value {
	if p == nil || len(p.values[g.fam.index]) == 0 || g.pods != nil && !g.pods.matches(&p.Pod, ns) {
		return nil
	}
	if g.named == nil {
		return p.values[g.fam.index]
	}
	var out []state.Value
	for _, name := range g.named {
		for _, n := range name.resolve(&p.Pod) {
			for _, v := range p.values[g.fam.index] {
				if g.block == nil || inRanges(g.block, valueAddr(v)) {
					out = append(out, state.Concat(v, state.ProtoValue(n.protocol), state.PortValue(n.first)))
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// valueAddr is the address that an element of a set begins with.
func valueAddr(v state.Value) netip.Addr {
	a, _ := netip.AddrFromSlice([]byte(v))
	return a
}

// move exchanges what a Pod brought for what it brings.
func (g *group) move(before, after []state.Value) {
	if slices.Equal(before, after) {
		return
	}
	for _, v := range after {
		g.live.add(v)
	}
	for _, v := range before {
		g.live.remove(v)
	}
}

// ofNode are the elements that a node brings.
func (g *group) ofNode(n *snapshot.KubeNode) []state.Value {
	if n == nil || !g.nodes.Matches(n.Labels) {
		return nil
	}
	var out []state.Value
	for _, a := range nodeAddrs(n) {
		if familyIndex(a) == g.fam.index {
			out = append(out, state.AddrValue(a))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// fill takes in all that is known, when the group is new.
func (g *group) fill(e *Engine) {
	switch {
	case g.nodes != nil:
		for _, n := range e.nodes {
			g.move(nil, g.ofNode(n))
		}
	case g.sources != nil:
		g.collect(e)
	case g.pods != nil && g.pods.namespace != "":
		g.fillFrom(e.namespaces[g.pods.namespace])
	default:
		for name, ns := range e.namespaces {
			if g.pods == nil || g.pods.inNamespace(name, ns.object) {
				g.fillFrom(ns)
			}
		}
	}
}

func (g *group) fillFrom(ns *namespace) {
	if ns == nil {
		return
	}
	for _, p := range ns.pods {
		g.move(nil, g.of(p, ns.object))
	}
}

// collect makes the elements of a block of sources: its ranges, and the mesh addresses of nodes
// that have another address in it.
func (g *group) collect(e *Engine) {
	g.stale = false
	ranges := slices.Clone(g.sources)
	for a, nodes := range e.nodesAt {
		if familyIndex(a) == g.fam.index && slices.ContainsFunc(nodes, func(n *snapshot.KubeNode) bool { return sentFor(n, a, g.sources) }) {
			ranges = append(ranges, addrRange{a, a})
		}
	}
	g.live.replace(rangeElements(g.fam, merge(ranges)))
}

// rangeElements are the ranges of a family as elements of an interval set.
func rangeElements(f *family, ranges []addrRange) []state.Element {
	var out []state.Element
	for _, r := range ranges {
		if r.first.BitLen() != f.bits {
			continue
		}
		el := state.Element{Key: state.AddrValue(r.first)}
		if r.first != r.last {
			el.KeyEnd = state.AddrValue(r.last)
		}
		out = append(out, el)
	}
	return out
}

// movePod tells the groups that a Pod has changed, come or gone. Its namespace is the same.
func (c *compiled) movePod(old, now *pod, ns *snapshot.Namespace) {
	name := ""
	if now != nil {
		name = now.Namespace
	} else {
		name = old.Namespace
	}
	for _, list := range []map[*group]bool{c.inNamespace[name], c.anywhere} {
		for g := range list {
			g.move(g.of(old, ns), g.of(now, ns))
		}
	}
}

// moveNamespace tells the groups that the labels of a namespace have changed.
func (c *compiled) moveNamespace(name string, ns *namespace, old, now *snapshot.Namespace) {
	for g := range c.anywhere {
		if g.pods == nil || g.pods.inNamespace(name, old) == g.pods.inNamespace(name, now) {
			continue
		}
		for _, p := range ns.pods {
			g.move(g.of(p, old), g.of(p, now))
		}
	}
}

// moveNode tells the groups that a node has changed, come or gone.
func (c *compiled) moveNode(old, now *snapshot.KubeNode) {
	for g := range c.ofNodes {
		if g.nodes != nil {
			g.move(g.ofNode(old), g.ofNode(now))
			continue
		}
		g.stale = true
	}
}
