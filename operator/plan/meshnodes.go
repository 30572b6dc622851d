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
	p.nodeIPs()
	want := make([]MeshNode, 0, len(p.in.Nodes))
	for _, h := range p.holdings {
		if h.node == nil {
			continue
		}
		want = append(want, p.meshNode(h))
		if !p.in.HasConfig {
			p.report(KindNode, h.name, ReasonNoMeshConfig, "there is no MeshConfig named default: the mesh runs with default settings")
		}
	}
	return want
}

// meshNode writes a block into the spec only when it is recorded as Bound, and leaves what is
// there and the node's own.
func (p *planner) meshNode(h *holding) MeshNode {
	m := MeshNode{Name: h.name, OwnerUID: h.node.UID, NodeIPs: h.addresses}
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

// nodeIPs gives every node the addresses that it claims and nobody else may: not another node's,
// no Pod's and no Service's. Who has an address already keeps it while it claims it, so that a
// node that claims another's gains nothing and takes nothing away.
func (p *planner) nodeIPs() {
	first := make(map[netip.Addr]*holding, 2*len(p.nodes))
	rivals := make(map[netip.Addr][]*holding) // of the few addresses that several claim
	for _, h := range p.holdings {
		if h.node == nil {
			continue
		}
		for _, addr := range h.node.Addresses {
			switch other := first[addr]; {
			case other == nil:
				first[addr] = h
			case other != h && !slices.Contains(rivals[addr], h):
				rivals[addr] = append(rivals[addr], h)
			}
		}
	}
	for addr, h := range first {
		winner := h
		if fault := p.addressFault(addr); fault != "" || len(rivals[addr]) > 0 {
			winner = p.addressOwner(addr, append(rivals[addr], h), fault)
		}
		if winner != nil {
			winner.addresses = append(winner.addresses, addr)
		}
	}
	for _, h := range p.holdings {
		slices.SortFunc(h.addresses, netip.Addr.Compare)
		h.addresses = h.addresses[:min(len(h.addresses), maxNodeIPs)]
	}
}

// addressOwner is the node that a disputed address is taken for; the others are told why not.
func (p *planner) addressOwner(addr netip.Addr, claimants []*holding, fault string) *holding {
	if fault != "" {
		for _, h := range claimants {
			p.report(KindNode, h.name, ReasonNodeAddressRefused, fault)
		}
		return nil
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
