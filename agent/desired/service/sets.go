package service

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// vmapSuffix makes the name of the map of a scope's draw chains.
const vmapSuffix = "-class"

// sets are the family's sets and maps of data.
func (f family) sets(node snapshot.ServiceNode) []state.Set {
	frontend := []state.DataType{f.addr, state.TypeProto, state.TypePort}
	numbered := append(slices.Clone(frontend), state.TypeMark)
	number, place := []state.DataType{state.TypeMark}, []state.DataType{f.addr, state.TypePort}
	dataMap := func(name string, key, data []state.DataType) state.Set {
		return state.Set{Name: f.name(name), Kind: state.KindMap, Key: key, Data: data}
	}
	out := []state.Set{
		dataMap(mapServices, frontend, number), dataMap(mapInside, frontend, number), dataMap(mapGuarded, frontend, number),
		{Name: f.name(setSources), Key: append(slices.Clone(frontend), f.addr), Interval: true},
		{Name: f.name(setHairpin), Key: []state.DataType{f.addr, f.addr}},
		{Name: f.name(setClusterIPs), Key: []state.DataType{f.addr}},
		{Name: f.name(setCIDRs), Key: []state.DataType{f.addr}, Interval: true, Elements: f.serviceCIDRs(node)},
		{
			Name: f.name(mapAffinity), Kind: state.KindMap, Key: append([]state.DataType{f.addr}, frontend...), Data: number,
			Dynamic: true, HasTimeout: true, Size: affinitySize,
		},
	}
	for _, s := range scopes {
		out = append(out, dataMap(s.endpoints, numbered, place), dataMap(s.slots, numbered, number), dataMap(s.draws, frontend, number))
	}
	return out
}

func (f family) serviceCIDRs(node snapshot.ServiceNode) []state.Element {
	other := func(p netip.Prefix) bool { return state.FamilyOf(p.Addr()) != f.version }
	var out []state.Element
	for _, p := range disjoint(slices.DeleteFunc(slices.Clone(node.ServiceCIDRs), other)) {
		out = append(out, state.PrefixElement(p))
	}
	return out
}

// dispatchMaps lead from a class to its chain. There are three, since the kernel looks at all ways that
// the rules could go, and would take it for a loop if a chain led to a map that leads to it.
func (f family) dispatchMaps(timeouts []time.Duration) []state.Set {
	inside := append(f.ways(clusterScope, timeouts),
		leads(classOf(kindRefuse, 0), state.Goto(chainReject)), leads(classOf(kindDrop, 0), state.Drop))
	guarded := append(slices.Clone(inside), f.ways(localScope, timeouts)...)
	all := append(slices.Clone(guarded), leads(classOf(kindRanges, 0), state.Goto(f.name(chainRanges))))
	out := []state.Set{f.vmap(vmapInside, inside), f.vmap(vmapGuarded, guarded), f.vmap(vmapServices, all)}
	for _, s := range scopes {
		var draws []state.Element
		for _, n := range stickySizes() {
			draws = append(draws, leads(classOf(kindDraw, n), state.Jump(f.sized(s.draw, n))))
		}
		out = append(out, f.vmap(s.draw+vmapSuffix, draws))
	}
	return out
}

func (f family) vmap(name string, elements []state.Element) state.Set {
	return state.Set{Name: f.name(name), Kind: state.KindVMap, Key: []state.DataType{state.TypeMark}, Elements: elements}
}

func leads(c class, v state.Verdict) state.Element {
	return state.Element{Key: mark(uint32(c)), Verdict: v}
}

// ways are the classes of a scope.
func (f family) ways(s scope, timeouts []time.Duration) []state.Element {
	var out []state.Element
	if s.local {
		out = append(out, leads(classOf(s.kind, 0), state.Goto(f.sized(s.chain, 0))))
	}
	for _, n := range sizes() {
		out = append(out, leads(classOf(s.kind, n), state.Goto(f.sized(s.chain, n))))
	}
	for _, t := range timeouts {
		out = append(out, leads(stickyClass(s.stickyKind, t), state.Goto(f.timed(s.sticky, t))))
	}
	return out
}
