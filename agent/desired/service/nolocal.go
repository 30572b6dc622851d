package service

import "github.com/weftnet/weftnet/agent/state"

// NoLocal counts the ports of Services that a policy Local leaves without an endpoint on this node though
// there are some elsewhere, so that packets are dropped: the first of each pair is of IPv4, the second of IPv6.
type NoLocal struct{ Internal, External [2]int }

// Families are those that the pairs of NoLocal are of.
var Families = [2]state.Family{state.IPv4, state.IPv6}

// Plus adds.
func (n NoLocal) Plus(o NoLocal) NoLocal { return n.with(o, 1) }

// Minus takes away.
func (n NoLocal) Minus(o NoLocal) NoLocal { return n.with(o, -1) }

func (n NoLocal) with(o NoLocal, times int) NoLocal {
	for i := range Families {
		n.Internal[i] += times * o.Internal[i]
		n.External[i] += times * o.External[i]
	}
	return n
}

// noLocal counts one port.
func (b *builder) noLocal(family state.Family, c choice) {
	if !c.any || len(c.local) > 0 {
		return
	}
	i := 0
	if family == Families[1] {
		i = 1
	}
	if b.svc.InternalLocal {
		b.out.NoLocal.Internal[i]++
	}
	if b.svc.ExternalLocal {
		b.out.NoLocal.External[i]++
	}
}
