package policy

import (
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// Names of sets, maps, chains and the counter that are always the same.
const (
	mapEgress    = "egress"     // link . family : chain, of what leaves a Pod
	mapIngress   = "ingress"    // link . family : chain, of what enters a Pod
	setSelf      = "self"       // source . destination, of what a Pod sends to itself
	setNeighbour = "neighbours" // the messages of IPv6 neighbour discovery
	// The interfaces of Pods, each with a counter of the packets that were denied.
	setDeniedIn  = "denied-in"
	setDeniedOut = "denied-out"

	chainForward = "forward"
	chainInput   = "input"
	chainFromPod = "from-pod"
	chainRevoked = "revoked"
	chainPassed  = "passed"

	// CounterRevoked counts the packets of flows that were cut.
	CounterRevoked = "revoked"

	podLinks = "weftp*"
)

// Priority is where the base chains stand: behind the refusals of services without endpoints, which
// are at filter and must not be hidden by a silent drop.
const Priority = state.PriorityFilter + 10

// base is what the table holds as soon as anything is judged at all.
type base struct {
	items   []*item
	egress  *liveSet
	ingress *liveSet
	self    [2]*liveSet
	denied  [2]*liveSet
}

// newBase makes the base chains and the maps that they ask.
func (c *compiled) newBase() *base {
	b := &base{}
	live := func(s state.Set) *liveSet {
		it := c.use("set "+s.Name, func() *item { return &item{live: newLiveSet(s)} })
		b.items = append(b.items, it)
		return it.live
	}
	link := []state.DataType{state.TypeIfName, state.TypeNFProto}
	b.egress = live(state.Set{Name: mapEgress, Kind: state.KindVMap, Key: link})
	b.ingress = live(state.Set{Name: mapIngress, Kind: state.KindVMap, Key: link})
	for i, f := range families {
		b.self[i] = live(state.Set{Name: setSelf + f.suffix, Key: []state.DataType{f.addr, f.addr}})
	}
	for d, name := range []string{Ingress: setDeniedIn, Egress: setDeniedOut} {
		b.denied[d] = live(state.Set{Name: name, Key: []state.DataType{state.TypeIfName}, ElementCounters: true})
	}
	neighbours := neighbourSet()
	b.items = append(b.items, c.use("set "+setNeighbour, func() *item { return &item{fixed: &neighbours} }))
	b.items = append(b.items, c.use("counter "+CounterRevoked, func() *item { return &item{counter: CounterRevoked} }))
	for _, ch := range baseChains() {
		b.items = append(b.items, c.use("chain "+ch.Name, func() *item { return &item{chain: &ch} }))
	}
	return b
}

// neighbourSet are router and neighbour solicitations and advertisements, and redirects (RFC 4861).
func neighbourSet() state.Set {
	s := state.Set{Name: setNeighbour, Key: []state.DataType{state.TypeICMPv6}}
	for t := uint8(133); t <= 137; t++ {
		s.Elements = append(s.Elements, state.Element{Key: state.ByteValue(t)})
	}
	return s
}

// baseChains judge what is forwarded and what Pods send to the node itself. What the node sends to
// its Pods is judged by nobody, so that no policy can come between the kubelet and its Pods.
func baseChains() []state.Chain {
	known := []state.ChainRule{
		// The rule of nearly all packets, so it comes first and alone.
		ruleOf("", nil, state.CTState{States: state.CTEstablished | state.CTRelated},
			state.Masked{Field: state.FieldCTMark, Mask: RevokedMark}, state.Accept),
		ruleOf("", nil, state.Masked{Field: state.FieldCTMark, Not: true, Mask: RevokedMark}, state.Goto(chainRevoked)),
	}
	egress := ruleOf("", nil, state.VMapLookup{Fields: state.Fields(state.FieldIIFName, state.FieldNFProto), Map: mapEgress})
	ingress := ruleOf("", nil, state.VMapLookup{Fields: state.Fields(state.FieldOIFName, state.FieldNFProto), Map: mapIngress})
	forward := slices.Clone(known)
	for _, f := range families {
		forward = append(forward, ruleOf("", nil, state.InSet{Fields: state.Fields(f.saddr, f.daddr), Set: setSelf + f.suffix}, state.Accept))
	}
	fromPod := append(slices.Clone(known),
		ruleOf("", nil, state.InSet{Fields: state.Fields(state.FieldICMPv6Type), Set: setNeighbour}, state.Accept), egress)
	return []state.Chain{
		{Name: chainForward, Type: state.ChainFilter, Hook: state.HookForward, Priority: Priority, Rules: append(forward, egress, ingress)},
		{Name: chainInput, Type: state.ChainFilter, Hook: state.HookInput, Priority: Priority, Rules: []state.ChainRule{
			ruleOf("", nil, state.Cmp{Field: state.FieldIIFName, Value: state.IfNameValue(podLinks)}, state.Goto(chainFromPod)),
		}},
		{Name: chainFromPod, Rules: fromPod},
		{Name: chainPassed, Rules: []state.ChainRule{ruleOf("", nil, state.SetMark{Mask: passedMark})}},
		{Name: chainRevoked, Rules: []state.ChainRule{
			ruleOf("", nil, state.Count{Name: CounterRevoked}),
			ruleOf("", nil, state.Cmp{Field: state.FieldL4Proto, Value: state.ProtoValue(state.ProtoTCP)}, state.Reject{With: state.RejectReset}),
			ruleOf("", nil, state.Drop),
		}},
	}
}
