package mesh

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// member is a MeshNode whose texts have been read.
type member struct {
	snapshot.Node
	podCIDRs []netip.Prefix
	meshIPs  []netip.Addr
	nodeIPs  []netip.Addr
	// key is valid when refused is empty and PublicKey is not.
	key       state.PublicKey
	endpoints []netip.AddrPort
	refused   string
}

func (m *member) isPeer() bool { return m.PublicKey != "" && m.refused == "" }

// allowedIPs are the blocks and addresses that the operator gave the node, each once. The mesh
// addresses lie in the blocks.
func (m *member) allowedIPs() []netip.Prefix {
	out := slices.Clone(m.podCIDRs)
	for _, a := range m.nodeIPs {
		out = append(out, hostPrefix(a))
	}
	return state.NormalizedPrefixes(out)
}

// membersOf reads every MeshNode, in the order in which claims are settled: this node first, then
// the older before the younger, so that nobody loses what it has to a newcomer.
func membersOf(s snapshot.Snapshot, faults *problems) []*member {
	members := make([]*member, 0, len(s.Nodes))
	for _, n := range s.Nodes {
		m := &member{Node: n}
		m.podCIDRs = prefixesOf(KindMeshNode, n.Name, "podCIDRs", n.PodCIDRs, faults)
		m.meshIPs = addrsOf(n.Name, "meshIPs", n.MeshIPs, faults)
		m.nodeIPs = addrsOf(n.Name, "nodeIPs", n.NodeIPs, faults)
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b *member) int {
		return cmp.Or(
			compareFalseLast(a.Name == s.Self, b.Name == s.Self),
			a.Created.Compare(b.Created),
			cmp.Compare(a.Name, b.Name),
		)
	})
	return members
}

func compareFalseLast(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}

// poolsOf leaves out a range that holds an address of this node: to keep it off the underlay would
// cut the node off, from the API server too, and so from the news that the pool is gone. Blocks of
// such a pool count nevertheless, as those of their nodes.
func poolsOf(pools []snapshot.Pool, own []netip.Addr, faults *problems) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range pools {
		for _, cidr := range prefixesOf(KindIPPool, p.Name, "cidrs", p.CIDRs, faults) {
			if i := slices.IndexFunc(own, cidr.Contains); i >= 0 {
				faults.add(KindIPPool, p.Name, ReasonOverlap, "cidrs: %s contains the node address %s", cidr, own[i])
				continue
			}
			out = append(out, cidr)
		}
	}
	return state.NormalizedPrefixes(out)
}

// prefixesOf reads a list of CIDRs; what cannot be used is a problem of the object.
func prefixesOf(kind, name, field string, texts []string, faults *problems) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			faults.add(kind, name, ReasonInvalidCIDR, "%s: %q is not a CIDR", field, text)
		case p.Addr().Is4In6():
			faults.add(kind, name, ReasonInvalidCIDR, "%s: %s is an IPv4-mapped IPv6 prefix; write it as IPv4", field, text)
		case p != p.Masked():
			faults.add(kind, name, ReasonInvalidCIDR, "%s: %s has bits set beyond its length; write %s", field, text, p.Masked())
		case p.Bits() == 0 || p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast():
			faults.add(kind, name, ReasonInvalidCIDR, "%s: %s is no range for unicast addresses", field, text)
		default:
			out = append(out, p)
		}
	}
	return state.NormalizedPrefixes(out)
}

// addrsOf reads a list of addresses in its own order, each once.
func addrsOf(name, field string, texts []string, faults *problems) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		a, ok := unicast(text)
		if !ok {
			faults.add(KindMeshNode, name, ReasonInvalidAddress, "%s: %q is no unicast address", field, text)
			continue
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// unicast reads an address that a host can have and others can send to.
func unicast(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	ok := err == nil && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() &&
		!a.IsMulticast() && !a.IsLinkLocalUnicast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return a, ok
}

// clusterCIDRs are the pools and every block outside of them, as when a pool was deleted while its
// blocks live on.
func clusterCIDRs(pools []netip.Prefix, members []*member) []netip.Prefix {
	out := slices.Clone(pools)
	inPool := newClaims(pools)
	for _, m := range members {
		for _, p := range m.podCIDRs {
			if _, ok := inPool.containing(p); !ok {
				out = append(out, p)
			}
		}
	}
	return withoutContained(state.NormalizedPrefixes(out))
}

// withoutContained drops each prefix that lies in another. The input is sorted, so that a prefix
// comes before those in it.
func withoutContained(sorted []netip.Prefix) []netip.Prefix {
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range sorted {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}
