package nfsim

import (
	"net/netip"

	"github.com/weftnet/weftnet/agent/state"
)

// walk is one packet on its way.
type walk struct {
	m        *Machine
	p        Packet
	iif, oif string
	source   netip.Addr // the machine's address on oif
	ct       tracked
	hook     state.Hook
	result   Result
}

// end tells what a base chain decided; goOn means that it accepted.
type end int

const (
	goOn end = iota
	stop
)

// Receive lets a packet come in on its IIF.
func (m *Machine) Receive(p Packet) Result {
	w := &walk{m: m, p: p, iif: p.IIF}
	w.incoming()
	return w.finish()
}

// Send lets a process of this machine send a packet.
func (m *Machine) Send(p Packet) Result {
	p.IIF = ""
	w := &walk{m: m, p: p}
	w.outgoing()
	return w.finish()
}

// Answer sends the answer to a packet that was delivered (from this machine) or left (from the link
// that it left by).
func (m *Machine) Answer(r Result) Result {
	p := Packet{Proto: r.Packet.Proto, Src: r.Packet.Dst, Dst: r.Packet.Src, IIF: r.OIF}
	if r.Fate == Delivered {
		return m.Send(p)
	}
	return m.Receive(p)
}

func (w *walk) finish() Result {
	w.result.Packet = w.p
	w.result.flow = w.ct.flow
	return w.result
}

func (w *walk) ended(f Fate) {
	w.result.Fate = f
	if f == Left {
		w.result.OIF = w.oif
	}
}

func (w *walk) incoming() {
	if w.run(state.HookPrerouting) == stop {
		return
	}
	w.oif, w.source = w.m.route(w.p.Dst.Addr())
	switch w.oif {
	case "":
		w.ended(NoRoute)
	case "lo":
		w.oif = ""
		if w.run(state.HookInput) == goOn {
			w.m.confirm(w.ct)
			w.ended(Delivered)
		}
	default:
		if w.run(state.HookForward) == goOn {
			w.leave()
		}
	}
}

func (w *walk) outgoing() {
	w.oif, w.source = w.m.route(w.p.Dst.Addr())
	if w.oif == "" {
		w.ended(NoRoute)
		return
	}
	if w.run(state.HookOutput) == stop {
		return
	}
	if w.oif, w.source = w.m.route(w.p.Dst.Addr()); w.oif == "" {
		w.ended(NoRoute)
		return
	}
	w.leave()
}

func (w *walk) leave() {
	if w.run(state.HookPostrouting) == stop {
		return
	}
	w.m.confirm(w.ct)
	if w.oif != "lo" {
		w.ended(Left)
		return
	}
	w.iif, w.oif = "lo", ""
	w.incoming()
}

// The places of connection tracking and address translation among a hook's chains.
const (
	trackAt     = int32(-200)
	translateAt = int32(-100) // the destination; the source at 100
)

// run sends the packet through a hook's chains.
func (w *walk) run(h state.Hook) end {
	w.hook = h
	tracks := (h == state.HookPrerouting || h == state.HookOutput) && w.ct.flow == nil
	nat, natPriority := h != state.HookForward, translateAt
	if h == state.HookPostrouting || h == state.HookInput {
		natPriority = -translateAt
	}
	for _, b := range w.m.bases[h] {
		if b.chain.Type == state.ChainNAT {
			continue
		}
		if tracks && b.chain.Priority > trackAt {
			w.track()
			tracks = false
		}
		if nat && b.chain.Priority > natPriority {
			nat = false
			if w.translate(h) == stop {
				return stop
			}
		}
		if w.base(b) == stop {
			return stop
		}
	}
	if tracks {
		w.track()
	}
	if nat {
		return w.translate(h)
	}
	return goOn
}

func (w *walk) track() {
	if !w.ct.untracked {
		w.ct = w.m.track(&w.p)
	}
}

// translate runs the nat chains for the first packet of a flow, and rewrites every packet.
func (w *walk) translate(h state.Hook) end {
	f := w.ct.flow
	if f == nil {
		return goOn
	}
	destination := h == state.HookPrerouting || h == state.HookOutput
	done := &f.srcDone
	if destination {
		done = &f.dstDone
	}
	if w.ct.state == state.CTNew && !*done {
		for _, b := range w.m.bases[h] {
			if b.chain.Type != state.ChainNAT {
				continue
			}
			if w.base(b) == stop {
				return stop
			}
			if *done {
				break
			}
		}
		*done = true
	}
	w.ct.translate(&w.p, destination)
	return goOn
}
