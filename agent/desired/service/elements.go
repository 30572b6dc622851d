package service

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// Sets are the elements that the Service has in the table, by the name of their set; sorted and unique.
// No two Services whose frontends Claims has settled differ in an element of one key.
func (w Wanted) Sets() map[string][]state.Element {
	out := elements{}
	for _, f := range w.Frontends {
		out.frontend(f)
	}
	for _, a := range w.ClusterIPs {
		out.add(familyOf(a).name(setClusterIPs), state.Element{Key: state.AddrValue(a)})
	}
	for _, a := range w.Local {
		out.add(familyOf(a).name(setHairpin), state.Element{Key: state.Concat(state.AddrValue(a), state.AddrValue(a))})
	}
	for name, list := range out {
		out[name] = state.SortElements(list)
	}
	return out
}

// Timeouts are those that Table must have rules for before the elements count; sorted.
func (w Wanted) Timeouts() []time.Duration {
	var out []time.Duration
	for _, f := range w.Frontends {
		if f.Affinity > 0 {
			out = append(out, f.Affinity)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// elements by the name of their set.
type elements map[string][]state.Element

func (e elements) add(set string, el state.Element) { e[set] = append(e[set], el) }

func (e elements) frontend(f state.Frontend) {
	fam := familyOf(f.Addr)
	key := frontendValue(f.FrontendKey)
	to := mapServices
	if f.Sources != nil {
		e.add(fam.name(mapServices), data(key, classOf(kindRanges, 0)))
		for _, p := range f.Sources {
			r := state.PrefixElement(p)
			el := state.Element{Key: state.Concat(key, r.Key)}
			if r.KeyEnd != "" {
				el.KeyEnd = state.Concat(key, r.KeyEnd)
			}
			e.add(fam.name(setSources), el)
		}
		to = mapGuarded
	}
	if !f.ExternalLocal || f.Outside.Verdict == state.TargetRefuse {
		e.add(fam.name(to), data(key, e.target(fam, key, f, clusterScope, f.Inside)))
		return
	}
	e.add(fam.name(to), data(key, e.target(fam, key, f, localScope, f.Outside)))
	e.add(fam.name(mapInside), data(key, e.target(fam, key, f, clusterScope, f.Inside)))
}

// maxKey is the length of the longest key of a frontend with something behind it, in bytes.
const maxKey = 28

// The values below are what state.Concat makes of their parts, without making these: there are ten of them for each
// Service. Each part is padded to four bytes.

// frontendValue is address . protocol . port.
func frontendValue(k state.FrontendKey) state.Value {
	var room [maxKey]byte
	return state.Value(appendPort(append(appendAddr(room[:0], k.Addr), k.Proto, 0, 0, 0), k.Port))
}

// numbered is a frontend's key with a slot or a number behind it.
func numbered(key state.Value, n uint32) state.Value {
	var room [maxKey]byte
	return state.Value(binary.NativeEndian.AppendUint32(append(room[:0], key...), n))
}

// place is address . port of an endpoint.
func place(e netip.AddrPort) state.Value {
	var room [maxKey]byte
	return state.Value(appendPort(appendAddr(room[:0], e.Addr()), e.Port()))
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a = a.Unmap(); a.Is4() {
		four := a.As4()
		return append(b, four[:]...)
	}
	all := a.As16()
	return append(b, all[:]...)
}

func appendPort(b []byte, port uint16) []byte { return append(b, byte(port>>8), byte(port), 0, 0) }

func data(key state.Value, c class) state.Element {
	return state.Element{Key: key, Data: mark(uint32(c))}
}

// target adds the endpoints of one scope of a frontend, and gives the class that leads to them.
func (e elements) target(fam *family, key state.Value, f state.Frontend, s scope, to state.Target) class {
	switch {
	case to.Verdict == state.TargetRefuse:
		return classOf(kindRefuse, 0)
	case to.Verdict == state.TargetDrop && s.local:
		return classOf(s.kind, 0) // nothing from outside, and yet there may be from within
	case to.Verdict == state.TargetDrop:
		return classOf(kindDrop, 0)
	case f.Affinity > 0:
		e.sticky(fam, key, s, to.Endpoints)
		return stickyClass(s.stickyKind, f.Affinity)
	}
	n := sizeFor(len(to.Endpoints))
	e.grow(fam.name(s.endpoints), n)
	for slot, i := range assign(to.Endpoints, n) {
		e.add(fam.name(s.endpoints), state.Element{Key: numbered(key, uint32(slot)), Data: place(to.Endpoints[i])})
	}
	return classOf(s.kind, n)
}

// grow makes room at once, for there may be many.
func (e elements) grow(set string, n int) { e[set] = slices.Grow(e[set], n) }

// assign gives the endpoint of each slot.
func assign(endpoints []netip.AddrPort, n int) []int {
	if n > exactSlots {
		return spread(endpoints, n)
	}
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func (e elements) sticky(fam *family, key state.Value, s scope, endpoints []netip.AddrPort) {
	ids := numbers(endpoints)
	for i, ep := range endpoints {
		e.add(fam.name(s.endpoints), state.Element{Key: numbered(key, ids[i]), Data: place(ep)})
	}
	n := stickySizeFor(len(endpoints))
	e.grow(fam.name(s.slots), n)
	for slot, i := range spread(endpoints, n) {
		e.add(fam.name(s.slots), state.Element{Key: numbered(key, uint32(slot)), Data: mark(ids[i])})
	}
	e.add(fam.name(s.draws), data(key, classOf(kindDraw, n)))
}
