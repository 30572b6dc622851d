package mesh

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// claims finds overlaps among many prefixes without comparing each with each: two prefixes overlap
// exactly when one is the other's ancestor, and few lengths are in use.
type claims struct {
	lengths map[bool][]int // by "is IPv4"
	exact   map[netip.Prefix]string
	// below has, for each length in use, the ancestors of what is claimed.
	below map[netip.Prefix]string
}

// newClaims knows the lengths of the prefixes that will be asked for; prefixes given here are
// claimed under their own text.
func newClaims(claimed []netip.Prefix, later ...netip.Prefix) *claims {
	c := &claims{lengths: map[bool][]int{}, exact: map[netip.Prefix]string{}, below: map[netip.Prefix]string{}}
	for _, p := range slices.Concat(claimed, later) {
		if v4 := p.Addr().Is4(); !slices.Contains(c.lengths[v4], p.Bits()) {
			c.lengths[v4] = append(c.lengths[v4], p.Bits())
		}
	}
	for _, p := range claimed {
		c.add(p, p.String())
	}
	return c
}

func (c *claims) add(p netip.Prefix, owner string) {
	c.exact[p] = owner
	for _, bits := range c.lengths[p.Addr().Is4()] {
		if bits <= p.Bits() {
			c.below[netip.PrefixFrom(p.Addr(), bits).Masked()] = owner
		}
	}
}

// containing finds who claims the prefix or one around it.
func (c *claims) containing(p netip.Prefix) (owner string, ok bool) {
	for _, bits := range c.lengths[p.Addr().Is4()] {
		if bits > p.Bits() {
			continue
		}
		if owner, ok = c.exact[netip.PrefixFrom(p.Addr(), bits).Masked()]; ok {
			return owner, true
		}
	}
	return "", false
}

// overlapping finds who claims the prefix, one around it or one in it.
func (c *claims) overlapping(p netip.Prefix) (owner string, ok bool) {
	if owner, ok = c.containing(p); ok {
		return owner, true
	}
	owner, ok = c.below[p]
	return owner, ok
}

// settleClaims takes from each member what an earlier one holds, what would cut a node off from the
// underlay, and addresses that are not where they belong.
func settleClaims(members []*member, in Input, pools []netip.Prefix, faults *problems) {
	settlePodCIDRs(members, in, pools, faults)
	settleMeshIPs(members, faults)
	settleNodeIPs(members, in, pools, faults)
}

func settlePodCIDRs(members []*member, in Input, pools []netip.Prefix, faults *problems) {
	var all []netip.Prefix
	for _, m := range members {
		all = append(all, m.podCIDRs...)
	}
	underlay := newClaims(underlayHosts(members, in, pools), all...)
	held := newClaims(nil, all...)
	for _, m := range members {
		m.podCIDRs = slices.DeleteFunc(m.podCIDRs, func(p netip.Prefix) bool {
			if host, ok := underlay.below[p]; ok {
				faults.add(KindMeshNode, m.Name, ReasonOverlap, "podCIDRs: %s contains the node address %s", p, host)
				return true
			}
			owner, taken := held.overlapping(p)
			switch {
			case !taken:
				held.add(p, m.Name)
				return false
			case owner == m.Name:
				faults.add(KindMeshNode, m.Name, ReasonOverlap, "podCIDRs: %s overlaps another block of the same node", p)
			default:
				faults.add(KindMeshNode, m.Name, ReasonOverlap, "podCIDRs: %s overlaps a block of node %s", p, owner)
			}
			return true
		})
	}
}

// underlayHosts are the addresses that no block may contain: this node's own and those of the others,
// but for one that lies in a pool, which is the fault of that address and not of the block.
func underlayHosts(members []*member, in Input, pools []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range in.Facts.UplinkAddrs {
		out = append(out, hostPrefix(a))
	}
	for _, m := range members {
		for _, a := range m.nodeIPs {
			if !slices.ContainsFunc(pools, func(p netip.Prefix) bool { return p.Contains(a) }) {
				out = append(out, hostPrefix(a))
			}
		}
	}
	return out
}

func settleMeshIPs(members []*member, faults *problems) {
	for _, m := range members {
		m.meshIPs = slices.DeleteFunc(m.meshIPs, func(a netip.Addr) bool {
			inside := slices.ContainsFunc(m.podCIDRs, func(p netip.Prefix) bool { return p.Contains(a) })
			if !inside {
				faults.add(KindMeshNode, m.Name, ReasonInvalidAddress, "meshIPs: %s is in none of the node's Pod CIDRs", a)
			}
			return !inside
		})
	}
}

func settleNodeIPs(members []*member, in Input, pools []netip.Prefix, faults *problems) {
	blocks := slices.Clone(pools)
	var hosts []netip.Prefix
	for _, m := range members {
		blocks = append(blocks, m.podCIDRs...)
		for _, a := range m.nodeIPs {
			hosts = append(hosts, hostPrefix(a))
		}
	}
	inBlock := newClaims(state.NormalizedPrefixes(blocks), hosts...)
	held := map[netip.Addr]string{}
	for _, m := range members {
		m.nodeIPs = slices.DeleteFunc(m.nodeIPs, func(a netip.Addr) bool {
			block, inside := inBlock.containing(hostPrefix(a))
			other, taken := held[a]
			switch {
			case inside:
				faults.add(KindMeshNode, m.Name, ReasonInvalidAddress, "nodeIPs: %s lies in %s, which is for Pods", a, block)
			case taken:
				faults.add(KindMeshNode, m.Name, ReasonOverlap, "nodeIPs: %s belongs to node %s", a, other)
			case m.Name != in.Snapshot.Self && slices.Contains(in.Facts.UplinkAddrs, a):
				faults.add(KindMeshNode, m.Name, ReasonOverlap, "nodeIPs: %s is an address of node %s", a, in.Snapshot.Self)
			default:
				held[a] = m.Name
				return false
			}
			return true
		})
	}
}

// settleKeys reads the keys. Of two nodes with one key the one that did not have it before is refused,
// or the later where nobody knows, so that nobody can push a node out of the mesh by publishing its key.
func settleKeys(members []*member, self string, own []Key, faults *problems) {
	held := map[state.PublicKey]string{}
	for _, k := range own {
		held[k.Private.Public()] = self
	}
	for _, m := range members {
		if m.PublicKey == "" || m.Name == self { // the key file has the last word on this node's key
			continue
		}
		key, err := state.ParsePublicKey(m.PublicKey)
		other, taken := held[key]
		if !taken && m.KeyHeldBy != "" {
			other, taken = m.KeyHeldBy, true
		}
		switch {
		case err != nil || key.IsZero():
			m.refused = "its public key is not a WireGuard key"
			faults.add(KindMeshNode, m.Name, ReasonInvalidKey, "publicKey: want 32 bytes in base64, not all zero")
		case taken:
			m.refused = "its public key is that of node " + other
			faults.add(KindMeshNode, m.Name, ReasonDuplicateKey, "publicKey: %s is the key of node %s", key, other)
		case len(m.podCIDRs) == 0:
			m.refused = "it has no Pod CIDR that can be used"
			held[key] = m.Name
		default:
			m.key = key
			held[key] = m.Name
		}
	}
}
