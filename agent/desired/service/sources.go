package service

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// sources are the ranges that loadBalancerSourceRanges leaves for a family, disjoint and sorted; nil
// means everybody. As with kube-proxy a family of which no range is listed is open, and so is all
// where a range of the family has everything in it.
func (b *builder) sources(family state.Family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range b.svc.SourceRanges {
		if state.FamilyOf(p.Addr()) != family {
			continue
		}
		if p.Bits() == 0 {
			return nil
		}
		out = append(out, p.Masked())
	}
	unreadable := func(text string) bool { return strings.HasPrefix(text, "spec.loadBalancerSourceRanges") }
	if len(out) == 0 {
		if slices.ContainsFunc(b.svc.Unreadable, unreadable) {
			return []netip.Prefix{} // what was meant is not known: nobody
		}
		return nil
	}
	// Where a load balancer's address is one of the node's own, what the node itself sends to it has
	// that address as its source.
	if b.allowsNode(out) {
		for _, a := range b.svc.LoadBalancerIPs {
			if a = a.Unmap(); state.FamilyOf(a) == family {
				out = append(out, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return disjoint(out)
}

func (b *builder) allowsNode(ranges []netip.Prefix) bool {
	return slices.ContainsFunc(b.node.NodeIPs, func(a netip.Addr) bool {
		return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

// disjoint leaves out what lies within another range, since the kernel takes no ranges that overlap.
func disjoint(in []netip.Prefix) []netip.Prefix {
	slices.SortFunc(in, netip.Prefix.Compare) // the wider first where both begin at one address
	var out []netip.Prefix
	for _, p := range in {
		if len(out) > 0 && out[len(out)-1].Overlaps(p) {
			continue
		}
		out = append(out, p)
	}
	return out
}
