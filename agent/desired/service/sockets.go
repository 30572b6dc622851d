package service

import (
	"net/netip"

	"github.com/weftnet/weftnet/agent/state"
)

// Sockets are the frontends that can be decided when a local process connects. Those whose answer
// depends on the packet stay with the rules: source ranges, and silence.
func (w Wanted) Sockets() []state.SocketFrontend {
	var out []state.SocketFrontend
	for _, f := range w.Frontends {
		if f.Proto != state.ProtoTCP || f.Sources != nil || f.Inside.Verdict == state.TargetDrop {
			continue
		}
		s := state.SocketFrontend{
			Address: netip.AddrPortFrom(f.Addr, f.Port), Endpoints: f.Inside.Endpoints, Affinity: f.Affinity,
		}
		if f.Affinity > 0 {
			s.Group = w.Service.String() + ":" + f.PortName
		}
		out = append(out, s)
	}
	return out
}
