package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// maxNodeIPs is the most that a MeshNode may list.
const maxNodeIPs = 32

// meshNodes is the wanted MeshNode of every Node.
func (p *planner) meshNodes() []MeshNode {
	addresses := p.nodeIPs()
	want := make([]MeshNode, 0, len(p.in.Nodes))
	for _, h := range p.holdings {
		if h.node == nil {
			continue
		}
		want = append(want, p.meshNode(h, addresses[h.name]))
		if !p.in.HasConfig {
			p.report(KindNode, h.name, ReasonNoMeshConfig, "there is no MeshConfig named default: the mesh runs with default settings")
		}
	}
	return want
}

// meshNode writes a block into the spec only when it is recorded as Bound, and leaves what is
// there and the node's own.
func (p *planner) meshNode(h *holding, addresses []netip.Addr) MeshNode {
	m := MeshNode{Name: h.name, OwnerUID: h.node.UID, NodeIPs: addresses}
	waiting := false
	for _, kept := range h.keep {
		for i, c := range kept {
			if !c.inSpec && (c.State != Bound || c.Pending) {
				waiting = true
				continue
			}
			m.PodCIDRs = append(m.PodCIDRs, c.CIDR)
			if i == 0 {
				m.MeshIPs = append(m.MeshIPs, MeshIP(c.CIDR))
			}
		}
	}
	sortPrefixes(m.PodCIDRs)
	m.Allocated = h.verdict(waiting)
	if reason := m.Allocated.Reason; !m.Allocated.True && reason != ReasonPending {
		p.report(KindNode, h.name, reason, m.Allocated.Message)
	}
	p.noteRepair(h, m)
	return m
}

// verdict is the condition Allocated.
func (h *holding) verdict(waiting bool) Condition {
	var missing []string
	reason := Reason("")
	for _, lack := range h.lack {
		if lack.Reason != "" {
			missing = append(missing, lack.Message)
			if reason == "" || lack.Reason == ReasonExhausted {
				reason = lack.Reason
			}
		}
	}
	switch {
	case len(missing) > 0:
		return Condition{Reason: reason, Message: strings.Join(missing, "; ")}
	case waiting && len(h.lost) > 0:
		return Condition{Reason: ReasonDuplicateBlock, Message: fmt.Sprintf("%s is another's: a new block is on its way", h.lost[0])}
	case waiting:
		return Condition{Reason: ReasonPending, Message: "blocks are claimed and about to be confirmed"}
	}
	return Condition{True: true, Reason: ReasonAllocated, Message: "the node has a block of every address family of its pools"}
}

// noteRepair tells of a spec that somebody else changed. A block that is missing is how every
// MeshNode begins, so only what has to be taken away counts.
func (p *planner) noteRepair(h *holding, want MeshNode) {
	if h.mesh == nil {
		return
	}
	var wrong []string
	for _, block := range h.mesh.PodCIDRs {
		if !slices.Contains(want.PodCIDRs, block) {
			wrong = append(wrong, block.String())
		}
	}
	for _, addr := range h.mesh.MeshIPs {
		if !slices.Contains(want.MeshIPs, addr) {
			wrong = append(wrong, addr.String())
		}
	}
	if h.mesh.Malformed {
		wrong = append(wrong, "text that is no address")
	}
	if len(wrong) > 0 {
		p.report(KindMeshNode, h.name, ReasonSpecRepaired,
			fmt.Sprintf("%s was in the spec and is not this node's: put right", strings.Join(wrong, ", ")))
	}
}

// nodeIPs are, per node, the addresses that it claims and nobody else may: not another node's,
// no Pod's and no Service's. Who has an address already keeps it while it claims it, so that a
// node that claims another's gains nothing and takes nothing away.
func (p *planner) nodeIPs() map[string][]netip.Addr {
	claimants := make(map[netip.Addr][]*holding, 2*len(p.in.Nodes))
	for _, h := range p.holdings {
		if h.node == nil {
			continue
		}
		for _, addr := range h.node.Addresses {
			if !slices.Contains(claimants[addr], h) {
				claimants[addr] = append(claimants[addr], h)
			}
		}
	}
	accepted := make(map[string][]netip.Addr, len(p.in.Nodes))
	for addr, hs := range claimants {
		winner := p.addressOwner(addr, hs)
		if winner != nil {
			accepted[winner.name] = append(accepted[winner.name], addr)
		}
	}
	for name, list := range accepted {
		slices.SortFunc(list, netip.Addr.Compare)
		accepted[name] = list[:min(len(list), maxNodeIPs)]
	}
	return accepted
}

// addressOwner is the node that an address is taken for; the others are told why not.
func (p *planner) addressOwner(addr netip.Addr, claimants []*holding) *holding {
	if fault := p.addressFault(addr); fault != "" {
		for _, h := range claimants {
			p.report(KindNode, h.name, ReasonNodeAddressRefused, fault)
		}
		return nil
	}
	if len(claimants) == 1 {
		return claimants[0]
	}
	var incumbents []*holding
	for _, h := range claimants {
		if h.mesh != nil && slices.Contains(h.mesh.NodeIPs, addr) {
			incumbents = append(incumbents, h)
		}
	}
	var winner *holding
	if len(incumbents) == 1 {
		winner = incumbents[0]
	}
	for _, h := range claimants {
		if h != winner {
			p.report(KindNode, h.name, ReasonNodeAddressRefused,
				fmt.Sprintf("%s is claimed by another node too: it is not carried through the mesh for this one", addr))
		}
	}
	return winner
}

// addressFault says why an address can be no node's.
func (p *planner) addressFault(addr netip.Addr) string {
	if !addr.IsGlobalUnicast() {
		return fmt.Sprintf("%s is not an address that other nodes can reach", addr)
	}
	for _, service := range p.in.Services {
		if service.Contains(addr) {
			return fmt.Sprintf("%s lies in the Service range %s", addr, service)
		}
	}
	if r := p.inRange(addr); r != nil {
		return fmt.Sprintf("%s lies in %s of the IPPool %s", addr, r.CIDR, r.pool.Name)
	}
	if p.held.contains(addr) {
		return fmt.Sprintf("%s lies in a block of Pod addresses", addr)
	}
	return ""
}
