package nfsim

import (
	"net/netip"

	"github.com/weftnet/weftnet/agent/state"
)

// maxDepth is the kernel's bound of jumps (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// base runs a base chain.
func (w *walk) base(b base) end {
	v := w.chain(b.table, b.chain, 0)
	switch v.Kind {
	case state.VerdictDrop:
		if w.result.Fate == "" {
			w.result.Fate = Dropped
		}
		return stop
	case state.VerdictAccept:
		return goOn
	default:
		if b.chain.EffectivePolicy() == state.PolicyDrop {
			w.result.Fate, w.result.By = Dropped, b.table.Name+" "+b.chain.Name+": policy drop"
			return stop
		}
		return goOn
	}
}

// chain runs a chain until something is decided. VerdictNone means that its end was reached, or a
// return.
func (w *walk) chain(t *table, c *state.Chain, depth int) state.Verdict {
	if depth > maxDepth {
		panic("nfsim: jumps nested too deeply in chain " + c.Name)
	}
	for _, r := range c.Rules {
		v := w.rule(t, c, r)
		switch v.Kind {
		case state.VerdictNone:
		case state.VerdictReturn:
			return state.Verdict{}
		case state.VerdictJump:
			if v = w.chain(t, w.target(t, v), depth+1); v.Kind != state.VerdictNone {
				return v
			}
		case state.VerdictGoto:
			return w.chain(t, w.target(t, v), depth)
		case state.VerdictAccept, state.VerdictDrop:
			return v
		}
	}
	return state.Verdict{}
}

func (w *walk) target(t *table, v state.Verdict) *state.Chain {
	c := t.chains[v.Chain]
	if c == nil {
		panic("nfsim: table " + t.Name + " has no chain " + v.Chain)
	}
	return c
}

// rule carries out a rule's statements until one does not match.
func (w *walk) rule(t *table, c *state.Chain, r state.ChainRule) state.Verdict {
	var v state.Verdict
	for _, s := range r.Statements {
		ok := false
		if v, ok = w.statement(t, s); !ok {
			return state.Verdict{}
		}
		if v.Kind != state.VerdictNone {
			break
		}
	}
	if w.m.Quiet {
		return v
	}
	text := t.Name + " " + c.Name + ": " + r.String()
	w.result.Trace = append(w.result.Trace, text)
	if v.Kind == state.VerdictDrop {
		w.result.By = text
	}
	return v
}

// statement carries out one statement, and tells whether it matched.
func (w *walk) statement(t *table, s state.Statement) (state.Verdict, bool) {
	switch s := s.(type) {
	case state.Cmp, state.InPrefix, state.Masked, state.CTState, state.CTStatus, state.TCPFlags:
		return state.Verdict{}, w.matches(s)
	case state.InSet:
		key, ok := w.key(s.Fields)
		if !ok {
			return state.Verdict{}, false
		}
		_, found := w.lookup(t, s.Set, key)
		return state.Verdict{}, found != s.Not
	case state.VMapLookup:
		if key, ok := w.key(s.Fields); ok {
			e, found := w.lookup(t, s.Map, key)
			return e.Verdict, found
		}
		return state.Verdict{}, false
	case state.Verdict:
		return s, true
	default:
		return w.action(t, s)
	}
}

func (w *walk) action(t *table, s state.Statement) (state.Verdict, bool) {
	switch s := s.(type) {
	case state.Count:
		if s.Name != "" {
			w.m.counts[t.Name+"/"+s.Name]++
		}
	case state.SetMark:
		return state.Verdict{}, w.setMark(t, s)
	case state.NAT:
		return w.nat(t, s)
	case state.Masquerade:
		return w.masquerade()
	case state.Reject:
		if s.With == state.RejectReset && w.p.Proto != state.ProtoTCP {
			return state.Verdict{}, false
		}
		w.result.Fate, w.result.With = Refused, s.With
		return state.Drop, true
	case state.ClampMSS:
		return state.Verdict{}, w.p.Proto == state.ProtoTCP
	case state.Notrack:
		w.ct.untracked = true
	case state.Limit:
		return state.Verdict{}, !w.m.LimitsExceeded
	case state.Log:
		w.result.Logs = append(w.result.Logs, s.Prefix)
	case state.Remember:
		return state.Verdict{}, w.remember(t, s)
	case state.Forget:
		return state.Verdict{}, w.forget(t, s)
	default:
		panic("nfsim: unknown statement " + s.String())
	}
	return state.Verdict{}, true
}

func (w *walk) setMark(t *table, s state.SetMark) bool {
	mark := &w.p.Mark
	if s.Conntrack {
		if w.ct.flow == nil {
			return false
		}
		mark = &w.ct.flow.Mark
	}
	switch {
	case s.Map != "":
		key, ok := w.key(s.Fields)
		if !ok {
			return false
		}
		e, found := w.lookup(t, s.Map, key)
		if !found {
			return false
		}
		*mark = number(e.Data)
	case s.Mask == 0:
		*mark = s.Value
	default:
		*mark = *mark&^s.Mask | s.Value
	}
	return true
}

// nat translates the flow, which ends the chain; without a flow, or without an element, the rule
// does not match.
func (w *walk) nat(t *table, s state.NAT) (state.Verdict, bool) {
	if s.Family != w.p.Family() {
		return state.Verdict{}, false
	}
	addr, port := s.Addr, s.Port
	if s.Map != "" {
		key, ok := w.key(s.Fields)
		if !ok {
			return state.Verdict{}, false
		}
		e, found := w.lookup(t, s.Map, key)
		if !found {
			return state.Verdict{}, false
		}
		addr, port = address(e.Data, s, t)
	}
	if s.WriteMark {
		w.p.Mark = s.Mark
	}
	if w.ct.flow == nil {
		return state.Accept, true
	}
	if s.Source {
		w.translateSource(addr, port)
	} else {
		if port == 0 {
			port = w.p.Dst.Port()
		}
		w.ct.flow.setDestination(netip.AddrPortFrom(addr, port))
		w.ct.flow.dstDone = true
	}
	return state.Accept, true
}

func (w *walk) translateSource(addr netip.Addr, port uint16) {
	if port == 0 {
		port = w.p.Src.Port()
	}
	w.m.setSource(w.ct.flow, netip.AddrPortFrom(addr, port))
	w.ct.flow.srcDone = true
}

func (w *walk) masquerade() (state.Verdict, bool) {
	if w.ct.flow != nil {
		source := w.source
		if !source.IsValid() {
			return state.Drop, true // the link has no address of the family
		}
		w.translateSource(source, 0)
	}
	return state.Accept, true
}

func address(data state.Value, s state.NAT, t *table) (netip.Addr, uint16) {
	parts := state.SplitValue(data, t.sets[s.Map].Data)
	addr, _ := netip.AddrFromSlice([]byte(parts[0]))
	if !s.MapHasPort || len(parts) < 2 {
		return addr, 0
	}
	return addr, uint16(parts[1][0])<<8 | uint16(parts[1][1])
}
