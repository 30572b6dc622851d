package nfsim

import (
	"net/netip"

	"github.com/weftnet/weftnet/agent/state"
)

type tuple struct {
	proto    uint8
	src, dst netip.AddrPort
}

// Tuple is one direction of a flow.
type Tuple struct {
	Proto    uint8
	Src, Dst netip.AddrPort
}

func (t Tuple) tuple() tuple { return tuple{t.Proto, t.Src, t.Dst} }

// Flow is an entry of connection tracking.
type Flow struct {
	// Original is how its first packet came, Reply what an answer to it looks like.
	Original, Reply Tuple
	Mark            uint32
	Status          state.CTStatusBits

	dstDone, srcDone bool
}

// tracked is what a packet and connection tracking know of each other.
type tracked struct {
	flow      *Flow
	reply     bool
	state     state.CTStateBits
	untracked bool
}

// track finds or makes the packet's flow.
func (m *Machine) track(p *Packet) tracked {
	if p.Invalid {
		return tracked{state: state.CTInvalid}
	}
	if f := m.flows[p.tuple()]; f != nil {
		reply := p.tuple() == f.Reply.tuple()
		switch {
		case reply:
			f.Status |= state.CTSeenReply
			return tracked{flow: f, reply: true, state: state.CTEstablished}
		case f.Status&state.CTSeenReply != 0:
			return tracked{flow: f, state: state.CTEstablished}
		default:
			return tracked{flow: f, state: state.CTNew}
		}
	}
	if p.Related {
		return tracked{state: state.CTRelated}
	}
	f := &Flow{Original: Tuple{p.Proto, p.Src, p.Dst}, Reply: Tuple{p.Proto, p.Dst, p.Src}}
	return tracked{flow: f, state: state.CTNew}
}

// confirm makes a new flow count.
func (m *Machine) confirm(t tracked) {
	if t.flow == nil || t.reply || t.flow.Status&state.CTConfirmed != 0 {
		return
	}
	t.flow.Status |= state.CTConfirmed
	m.flows[t.flow.Original.tuple()] = t.flow
	m.flows[t.flow.Reply.tuple()] = t.flow
}

// setDestination and setSource translate a flow. A source port that is taken gives way.
func (f *Flow) setDestination(to netip.AddrPort) {
	f.Reply.Src = to
	f.Status |= state.CTDNAT
}

func (m *Machine) setSource(f *Flow, to netip.AddrPort) {
	f.Reply.Dst = to
	for m.flows[f.Reply.tuple()] != nil {
		f.Reply.Dst = netip.AddrPortFrom(to.Addr(), f.Reply.Dst.Port()+1)
	}
	f.Status |= state.CTSNAT
}

// translate rewrites the packet as its flow says: the destination before routing, the source after.
func (t tracked) translate(p *Packet, destination bool) {
	if t.flow == nil {
		return
	}
	switch {
	case destination && t.reply:
		p.Dst = t.flow.Original.Src
	case destination:
		p.Dst = t.flow.Reply.Src
	case t.reply:
		p.Src = t.flow.Original.Dst
	default:
		p.Src = t.flow.Reply.Dst
	}
}
