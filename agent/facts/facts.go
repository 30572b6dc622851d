// Package facts turns what the kernel says into what the mesh has to know of this node: by which
// links and addresses it is reached, what fits through them, and how its peers fare. It is pure.
package facts

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// Address is one address of a link.
type Address struct {
	Addr netip.Addr
	// Bits is the length of its prefix.
	Bits int
	// Transient addresses are tentative, deprecated, temporary or found duplicate: they work for a
	// moment at best, so nobody is told to send there.
	Transient bool
}

// Link is one link of the node, whoever made it.
type Link struct {
	Name      string
	Alias     string
	MTU       int
	Up        bool
	Loopback  bool
	Addresses []Address
	// DefaultRoute tells whether a default route of either family leaves through the link.
	DefaultRoute bool
	// AcceptRA is the link's net.ipv6.conf.*.accept_ra; empty when unknown.
	AcceptRA string
}

// Ours tells whether Weftnet made the link.
func (l Link) Ours() bool { return l.Alias == state.LinkAlias || strings.HasPrefix(l.Name, "weft") }

// Observation is what was seen, in the order of the kernel.
type Observation struct {
	Links []Link
	// InternalIPs and ExternalIPs are what the Node object says, in its order.
	InternalIPs, ExternalIPs []netip.Addr
	// IPv6 tells whether the kernel has IPv6 at all.
	IPv6 bool
	// Backend is the kind of mesh link that this node makes.
	Backend state.LinkKind
	// Peers are the statistics of every mesh device.
	Peers []state.PeerStats
	// Liveness is what the look before came to, and Now the time of this one.
	Liveness map[state.PublicKey]Liveness
	Now      time.Time
}

// Facts is what follows.
type Facts struct {
	// Uplinks are the names of the links that carry the mesh's datagrams.
	Uplinks []string
	// UplinkMTU is the smallest MTU of the uplinks in bytes; 0 when there is none.
	UplinkMTU int
	// UplinkAddrs are the uplinks' addresses and those of the Node that are on the loopback link.
	UplinkAddrs []netip.Addr
	// Endpoints are the addresses to publish, the best first.
	Endpoints []netip.Addr
	// KeepRA are the uplinks whose router advertisements are lost when forwarding is switched on,
	// unless accept_ra becomes 2.
	KeepRA  []string
	IPv6    bool
	Backend state.LinkKind
	// Peers by public key.
	Peers    map[state.PublicKey]state.PeerStats
	Liveness map[state.PublicKey]Liveness
}

// maxEndpoints bounds what a node publishes.
const maxEndpoints = 8

// Gather computes the facts. It keeps no reference to what it was given.
func Gather(o Observation) Facts {
	uplinks := uplinksOf(o)
	f := Facts{IPv6: o.IPv6, Backend: o.Backend, Peers: make(map[state.PublicKey]state.PeerStats, len(o.Peers))}
	for _, l := range uplinks {
		f.Uplinks = append(f.Uplinks, l.Name)
		if f.UplinkMTU == 0 || l.MTU < f.UplinkMTU {
			f.UplinkMTU = l.MTU
		}
		if l.AcceptRA == "1" {
			f.KeepRA = append(f.KeepRA, l.Name)
		}
		for _, a := range l.Addresses {
			if isReachable(a.Addr) {
				f.UplinkAddrs = append(f.UplinkAddrs, a.Addr)
			}
		}
	}
	f.UplinkAddrs = append(f.UplinkAddrs, loopbackNodeAddrs(o)...)
	f.Endpoints = endpointsOf(o, uplinks, f.UplinkAddrs)
	sortAddrs(&f.UplinkAddrs)
	slices.Sort(f.Uplinks)
	slices.Sort(f.KeepRA)
	for _, p := range o.Peers {
		// Of two devices the one that heard the peer last knows more.
		if old, ok := f.Peers[p.PublicKey]; !ok || old.LastHandshake.Before(p.LastHandshake) {
			f.Peers[p.PublicKey] = p
		}
	}
	f.Liveness = livenessOf(o.Liveness, f.Peers, o.Now)
	return f
}

// uplinksOf are the links with an address of the Node object, and those with a default route where
// there are none such.
func uplinksOf(o Observation) []Link {
	var named, routed []Link
	for _, l := range o.Links {
		if l.Ours() || l.Loopback {
			continue
		}
		if slices.ContainsFunc(l.Addresses, func(a Address) bool { return slices.Contains(o.InternalIPs, a.Addr) }) {
			named = append(named, l)
		}
		if l.DefaultRoute {
			routed = append(routed, l)
		}
	}
	if len(named) > 0 {
		return named
	}
	return routed
}

// loopbackNodeAddrs are the Node's addresses on the loopback link, as on nodes that announce
// themselves through BGP.
func loopbackNodeAddrs(o Observation) []netip.Addr {
	var out []netip.Addr
	for _, l := range o.Links {
		for _, a := range l.Addresses {
			if l.Loopback && slices.Contains(o.InternalIPs, a.Addr) && isReachable(a.Addr) {
				out = append(out, a.Addr)
			}
		}
	}
	return out
}

// endpointsOf lists, for each family, the Node's addresses that are really here or else the
// uplink's own; then those that a NAT may map to this node.
func endpointsOf(o Observation, uplinks []Link, here []netip.Addr) []netip.Addr {
	var out []netip.Addr
	add := func(a netip.Addr) {
		if isReachable(a) && !slices.Contains(out, a) && len(out) < maxEndpoints {
			out = append(out, a)
		}
	}
	for _, family := range []state.Family{state.IPv4, state.IPv6} {
		before := len(out)
		for _, a := range o.InternalIPs {
			if state.FamilyOf(a) == family && slices.Contains(here, a) {
				add(a)
			}
		}
		if a := primary(uplinks, family); len(out) == before && a.IsValid() {
			add(a)
		}
	}
	for _, a := range slices.Concat(o.InternalIPs, o.ExternalIPs) {
		add(a)
	}
	return out
}

// primary is the first lasting address of a family. An address of full length is often a virtual
// one that another node may take over, so it comes last.
func primary(uplinks []Link, family state.Family) netip.Addr {
	var host netip.Addr
	for _, l := range uplinks {
		for _, a := range l.Addresses {
			if state.FamilyOf(a.Addr) != family || a.Transient || !isReachable(a.Addr) {
				continue
			}
			if a.Bits < a.Addr.BitLen() {
				return a.Addr
			}
			if !host.IsValid() {
				host = a.Addr
			}
		}
	}
	return host
}

// isReachable tells whether another node could send to the address.
func isReachable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

func sortAddrs(addrs *[]netip.Addr) {
	slices.SortFunc(*addrs, netip.Addr.Compare)
	*addrs = slices.Compact(*addrs)
}
