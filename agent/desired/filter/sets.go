package filter

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// addressSets are the sets of addresses and ranges of one family.
func (f family) addressSets(in Input) []state.Set {
	cluster := state.Set{Name: f.name(setCluster), Key: []state.DataType{f.addr}, Interval: true}
	plain := state.Set{Name: f.name(setPlain), Key: []state.DataType{f.addr}, Interval: true}
	nodes := state.Set{Name: f.name(setNodes), Key: []state.DataType{f.addr}}
	cluster.Elements = f.ranges(in.ClusterCIDRs)
	plain.Elements = f.ranges(in.NoMasquerade)
	for _, a := range in.NodeIPs {
		if a.IsValid() && state.FamilyOf(a) == f.version {
			nodes.Elements = append(nodes.Elements, state.Element{Key: state.AddrValue(a)})
		}
	}
	nodes.Elements = state.SortElements(nodes.Elements)
	return []state.Set{cluster, nodes, plain}
}

// podSet holds each Pod's interface with its address of the family.
func (f family) podSet(pods []Pod) state.Set {
	set := state.Set{Name: f.name(setPods), Key: []state.DataType{state.TypeIfName, f.addr}}
	for _, p := range pods {
		for _, a := range p.Addresses {
			if a = a.Unmap(); p.Link != "" && a.IsValid() && state.FamilyOf(a) == f.version {
				set.Elements = append(set.Elements, state.Element{Key: state.Concat(state.IfNameValue(p.Link), state.AddrValue(a))})
			}
		}
	}
	set.Elements = state.SortElements(set.Elements)
	return set
}

// PodElements are what the table holds of one Pod besides its host ports: the sets, with just its
// elements. Until they are in, nothing that the Pod sends is let through.
func PodElements(p Pod) []state.Set {
	var out []state.Set
	for _, f := range families {
		if s := f.podSet([]Pod{p}); len(s.Elements) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// ranges are the elements for the prefixes of the family, without those that lie within another,
// since the ranges of a set may not overlap.
func (f family) ranges(prefixes []netip.Prefix) []state.Element {
	var own []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && state.FamilyOf(p.Addr()) == f.version {
			own = append(own, p.Masked())
		}
	}
	slices.SortFunc(own, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []state.Element
	var last netip.Prefix
	for _, p := range own {
		if last.IsValid() && last.Contains(p.Addr()) {
			continue
		}
		out = append(out, state.PrefixElement(p))
		last = p
	}
	return state.SortElements(out)
}

// portSet is every port that some Pod has.
func portSet(ports []HostPort) state.Set {
	s := state.Set{Name: setHostPorts, Key: []state.DataType{state.TypeProto, state.TypePort}}
	type key struct {
		protocol uint8
		port     uint16
	}
	seen := map[key]bool{}
	for _, h := range distinct(ports) {
		if k := (key{h.Protocol, h.Port}); !seen[k] {
			seen[k] = true
			s.Elements = append(s.Elements, state.Element{Key: state.Concat(state.ProtoValue(h.Protocol), state.PortValue(h.Port))})
		}
	}
	s.Elements = state.SortElements(s.Elements)
	return s
}

// hostPortSets are the maps from host ports to Pods, and the set by which a Pod that calls itself
// is known.
func (f family) hostPortSets(in Input) []state.Set {
	data := []state.DataType{f.addr, state.TypePort}
	byPort := state.Set{
		Name: f.name(mapHostPort), Kind: state.KindMap, Key: []state.DataType{state.TypeProto, state.TypePort}, Data: data,
	}
	byAddr := state.Set{
		Name: f.name(mapHostPortA), Kind: state.KindMap, Key: []state.DataType{f.addr, state.TypeProto, state.TypePort}, Data: data,
	}
	twice := state.Set{Name: f.name(setHairpin), Key: []state.DataType{f.addr, f.addr}}
	kept := distinct(in.HostPorts)
	for _, h := range kept {
		if state.FamilyOf(h.PodIP) != f.version {
			continue
		}
		key := []state.Value{state.ProtoValue(h.Protocol), state.PortValue(h.Port)}
		el := state.Element{Data: state.Concat(state.AddrValue(h.PodIP), state.PortValue(h.PodPort))}
		if h.anyHostIP() {
			el.Key = state.Concat(key...)
			byPort.Elements = append(byPort.Elements, el)
		} else {
			el.Key = state.Concat(append([]state.Value{state.AddrValue(h.HostIP)}, key...)...)
			byAddr.Elements = append(byAddr.Elements, el)
		}
		pod := state.AddrValue(h.PodIP)
		twice.Elements = append(twice.Elements, state.Element{Key: state.Concat(pod, pod)})
	}
	sets := []state.Set{byPort, byAddr, twice}
	for i := range sets {
		sets[i].Elements = state.SortElements(sets[i].Elements)
	}
	return sets
}

// distinct leaves out the host ports that no rule can be made of, and keeps one per address, protocol
// and port: the first in order, so that the order of the input does not matter.
func distinct(ports []HostPort) []HostPort {
	type key struct {
		hostIP   netip.Addr
		family   state.Family
		protocol uint8
		port     uint16
	}
	seen := map[key]bool{}
	sorted := slices.Clone(ports)
	for i := range sorted {
		sorted[i].PodIP, sorted[i].HostIP = sorted[i].PodIP.Unmap(), sorted[i].HostIP.Unmap()
		if sorted[i].anyHostIP() {
			sorted[i].HostIP = netip.Addr{}
		}
	}
	slices.SortFunc(sorted, HostPort.compare)
	var kept []HostPort
	for _, h := range slices.Compact(sorted) {
		k := key{hostIP: h.HostIP, family: state.FamilyOf(h.PodIP), protocol: h.Protocol, port: h.Port}
		if !h.valid() || seen[k] {
			continue
		}
		seen[k] = true
		kept = append(kept, h)
	}
	return kept
}
