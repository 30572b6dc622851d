package service

import (
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// entry hands the first packet of a flow to the chain of its family.
func entry() []state.ChainRule {
	var rules []state.ChainRule
	for _, f := range families {
		rules = append(rules, rule(state.Cmp{Field: state.FieldNFProto, Value: f.proto}, state.Goto(f.name(chainServices))))
	}
	return rules
}

// services looks the frontend up. What is no frontend and yet the address of a Service is refused, and
// what could become one and is not, is dropped.
func (f family) services() state.Chain {
	return state.Chain{Name: f.name(chainServices), Rules: []state.ChainRule{
		rule(f.fromMap(mapServices, f.frontend())),
		rule(f.dispatch(vmapServices)),
		rule(state.InSet{Fields: state.Fields(f.daddr), Set: f.name(setClusterIPs)}, state.Goto(chainReject)),
		rule(state.InSet{Fields: state.Fields(f.daddr), Set: f.name(setCIDRs)}, state.Drop),
	}}
}

// ranges lets through what comes from the source ranges.
func (f family) ranges() state.Chain {
	return state.Chain{Name: f.name(chainRanges), Rules: []state.ChainRule{
		rule(state.InSet{Fields: f.frontend(f.saddr), Not: true, Set: f.name(setSources)}, state.Drop),
		rule(f.fromMap(mapGuarded, f.frontend())),
		rule(f.dispatch(vmapGuarded)),
		rule(state.Drop),
	}}
}

// inside is for connections that no external policy holds for.
func (f family) inside() state.Chain {
	return state.Chain{Name: f.name(chainInside), Rules: []state.ChainRule{
		rule(f.fromMap(mapInside, f.frontend())),
		rule(f.dispatch(vmapInside)),
		rule(state.Drop),
	}}
}

func (f family) scopeChains(s scope, timeouts []time.Duration) []state.Chain {
	chains := []state.Chain{f.pinnedTo(s)}
	if s.local {
		chains = append(chains, f.sizedChain(s, 0))
	}
	for _, n := range sizes() {
		chains = append(chains, f.sizedChain(s, n))
	}
	for _, n := range stickySizes() {
		chains = append(chains, state.Chain{Name: f.sized(s.draw, n), Rules: []state.ChainRule{
			rule(f.fromMap(s.slots, f.frontend(state.Numgen(uint32(n))))),
		}})
	}
	for _, t := range timeouts {
		chains = append(chains, f.stickyChain(s, t))
	}
	return chains
}

// sizedChain sends a connection to one of n endpoints. That a slot is missing cannot be; if it were,
// the packet must not go on to the frontend's own address.
func (f family) sizedChain(s scope, n int) state.Chain {
	rules := f.insiders(s)
	if n > 0 {
		rules = append(rules, f.translate(s, f.frontend(state.Numgen(uint32(n))))...)
	}
	return state.Chain{Name: f.sized(s.chain, n), Rules: append(rules, rule(state.Drop))}
}

// insiders takes those out that externalTrafficPolicy Local does not hold for: Pods of this node, and
// this node itself. They are where the load balancer would have sent them, and could have asked any node.
// Whoever comes from elsewhere has asked for this node, be it a Pod.
func (f family) insiders(s scope) []state.ChainRule {
	if !s.local {
		return nil
	}
	return []state.ChainRule{
		rule(on(state.FieldIIFName, podLinks), state.Goto(f.name(chainInside))),
		rule(state.Cmp{Field: state.FieldFibSaddrType, Value: state.AddrTypeLocal}, state.Goto(f.name(chainInside))),
	}
}

// translate rewrites the destination to what the scope's endpoints have for a key. The answer must come
// back through this node: it does by itself where the client is a Pod of this node, or where only
// endpoints of this node are chosen from; for all others the source is translated at the exit.
func (f family) translate(s scope, key []state.Field) []state.ChainRule {
	to := state.NAT{Family: f.version, Fields: key, Map: f.name(s.endpoints), MapHasPort: true, WriteMark: true}
	// The key implies it. Said here, the rule reads as nft prints it.
	own := state.Cmp{Field: state.FieldNFProto, Value: f.proto}
	if s.local {
		return []state.ChainRule{rule(own, to)}
	}
	foreign := to
	foreign.Mark = MarkMasquerade
	return []state.ChainRule{rule(on(state.FieldIIFName, podLinks), own, to), rule(own, foreign)}
}

// pinnedTo sends a connection to the endpoint whose number is in the mark, and returns if there is none.
func (f family) pinnedTo(s scope) state.Chain {
	return state.Chain{Name: f.name(s.pinned), Rules: f.translate(s, f.frontend(state.FieldMark))}
}

// stickyChain sends a client to the endpoint that it had. One that had none, or one that is gone, gets
// another, which is remembered instead. The numbers of endpoints leave the upper byte free, so that
// behind the first rule the mark tells whether the client was known.
func (f family) stickyChain(s scope, timeout time.Duration) state.Chain {
	remember := state.Remember{Fields: f.client(), Set: f.name(mapAffinity), Timeout: timeout, Data: state.Fields(state.FieldMark)}
	rules := append(f.insiders(s),
		rule(f.fromMap(mapAffinity, f.client())),
		rule(state.Masked{Field: state.FieldMark, Not: true, Mask: markMask, Value: markOurs}, remember),
		rule(state.Jump(f.name(s.pinned))),
		rule(state.Forget{Fields: f.client(), Set: f.name(mapAffinity), Data: state.Fields(state.FieldMark)}),
		rule(f.fromMap(s.draws, f.frontend())),
		rule(f.dispatch(s.draw+vmapSuffix)),
		rule(remember),
		rule(state.Jump(f.name(s.pinned))),
		rule(state.Drop),
	)
	return state.Chain{Name: f.timed(s.sticky, timeout), Rules: rules}
}

// reject answers that nobody listens.
func reject() state.Chain {
	return state.Chain{Name: chainReject, Rules: []state.ChainRule{
		rule(state.Cmp{Field: state.FieldL4Proto, Value: state.ProtoValue(state.ProtoTCP)}, state.Reject{With: state.RejectReset}),
		rule(state.Reject{}),
	}}
}

// exit translates sources: of what translate has marked, and of what a Pod sends to itself through a
// Service, which it would else answer to itself.
func exit() []state.ChainRule {
	rules := []state.ChainRule{
		rule(state.Masked{Field: state.FieldMark, Mask: MarkMask, Value: MarkMasquerade}, state.Goto(chainMasq)),
	}
	for _, f := range families {
		rules = append(rules, rule(
			on(state.FieldOIFName, podLinks), state.CTStatus{Status: state.CTDNAT},
			state.InSet{Fields: state.Fields(f.saddr, f.daddr), Set: f.name(setHairpin)}, state.Masquerade{FullyRandom: true},
		))
	}
	return rules
}

// masquerade takes the mark off again. What goes to the node itself comes back by itself.
func masquerade() state.Chain {
	return state.Chain{Name: chainMasq, Rules: []state.ChainRule{
		rule(state.SetMark{Value: 0}),
		rule(on(state.FieldOIFName, "lo"), state.Accept),
		rule(state.Masquerade{FullyRandom: true}),
	}}
}

// forward takes out what connection tracking could make nothing of. It is the only rule here that every
// packet meets.
func forward() []state.ChainRule {
	return []state.ChainRule{rule(state.CTState{States: state.CTInvalid}, state.Goto(chainInvalid))}
}

// invalid drops TCP packets of endpoints that do not fit their connection, such as late repetitions.
// They are not translated back, and would reach the client from an address that it knows nothing
// of: it would answer with a reset, and end a connection that is well (kubernetes issue 74839). The
// other node, where the translation is, needs no such rule, since they do not get there.
func invalid() state.Chain {
	c := state.Chain{Name: chainInvalid}
	for _, f := range families {
		c.Rules = append(c.Rules, rule(
			state.InSet{Fields: state.Fields(f.saddr, f.saddr), Set: f.name(setHairpin)},
			state.Cmp{Field: state.FieldL4Proto, Value: state.ProtoValue(state.ProtoTCP)},
			state.Count{Name: CounterInvalid}, state.Drop,
		))
	}
	return c
}
