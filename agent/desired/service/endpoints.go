package service

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// endpoint is an endpoint of one port of a Service, with what this node makes of it.
type endpoint struct {
	netip.AddrPort
	ready    bool
	draining bool // terminating and still serving: the fallback where no endpoint is ready
	alive    bool // answers, whatever becomes of new connections
	local    bool
	zones    []string
	nodes    []string
}

// portKey is what the ports of slices are matched with those of the Service by.
type portKey struct {
	name   string
	proto  uint8
	family state.Family
}

// endpointsByPort gathers the endpoints of all slices of a Service, sorted and unique. Where two
// slices have the same one, because it moves from one to the other or because a new Pod has the address
// of one that is going, what does not terminate counts.
func endpointsByPort(in []snapshot.EndpointSlice, node string) map[portKey][]endpoint {
	byName := func(a, b snapshot.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(in, byName) {
		in = slices.SortedFunc(slices.Values(in), byName)
	}
	out := map[portKey][]endpoint{}
	for _, s := range in {
		for _, p := range s.Ports {
			if p.Port == 0 {
				continue
			}
			for _, family := range Families {
				gather(out, portKey{p.Name, p.Protocol, family}, s.Endpoints, p.Port, node)
			}
		}
	}
	for key, list := range out {
		if len(list) < 2 {
			continue
		}
		// Stable: of those that are alike the one in the last slice stays last.
		slices.SortStableFunc(list, func(a, b endpoint) int {
			return cmp.Or(a.AddrPort.Compare(b.AddrPort), cmp.Compare(b.weight(), a.weight()))
		})
		out[key] = slices.CompactFunc(list, func(a, b endpoint) bool { return a.AddrPort == b.AddrPort })
	}
	return out
}

// gather adds the endpoints of the key's family.
func gather(out map[portKey][]endpoint, key portKey, all []snapshot.Endpoint, port uint16, node string) {
	var list []endpoint
	for i, e := range all {
		if !usable(e.Addr) || state.FamilyOf(e.Addr) != key.family {
			continue
		}
		if list == nil {
			list = slices.Grow(out[key], len(all)-i) // a slice has one family
		}
		list = append(list, endpointOf(e, port, node))
	}
	if list != nil {
		out[key] = list
	}
}

// weight orders endpoints of one address: one that is ready, one that drains, any other.
func (e endpoint) weight() int {
	switch {
	case e.ready:
		return 2
	case e.draining:
		return 1
	default:
		return 0
	}
}

// usable tells whether a connection may be sent to an address: one of the node's own loopback would
// give what listens there to everybody.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}

func endpointOf(e snapshot.Endpoint, port uint16, node string) endpoint {
	return endpoint{
		AddrPort: netip.AddrPortFrom(e.Addr.Unmap(), port),
		ready:    e.Ready, draining: e.Serving && e.Terminating, alive: e.Ready || e.Serving,
		local: node != "" && e.Node == node,
		zones: e.ZoneHints, nodes: e.NodeHints,
	}
}

// choice is which endpoints the traffic policies lead to from this node.
type choice struct {
	// cluster and local are for the policies of these names.
	cluster, local []endpoint
	// any tells whether some endpoint somewhere takes connections.
	any bool
	// alive are all that answer; only of a port of UDP.
	alive []netip.AddrPort
}

// choose settles conditions, hints and policies. Ready endpoints count; only where there are none do
// those that drain, for each policy by itself.
func choose(all []endpoint, node, zone string) choice {
	near := hinted(all, node, zone)
	c := choice{
		cluster: filter(all, func(e endpoint) bool { return e.ready && near(e) }),
		local:   filter(all, func(e endpoint) bool { return e.ready && e.local }),
	}
	if len(c.cluster) == 0 {
		c.cluster = filter(all, func(e endpoint) bool { return e.draining })
	}
	if len(c.local) == 0 {
		c.local = filter(all, func(e endpoint) bool { return e.draining && e.local })
	}
	c.any = slices.ContainsFunc(all, func(e endpoint) bool { return e.ready || e.draining })
	return c
}

// hinted tells which endpoints the hints leave for this node: those for the node, if every ready
// endpoint has hints of nodes and one is for this node; else the same by zones; else all.
func hinted(all []endpoint, node, zone string) func(endpoint) bool {
	byNode, byZone := true, true
	forNode, forZone := false, false
	for _, e := range all {
		if !e.ready {
			continue
		}
		byNode = byNode && len(e.nodes) > 0
		byZone = byZone && len(e.zones) > 0
		forNode = forNode || slices.Contains(e.nodes, node)
		forZone = forZone || slices.Contains(e.zones, zone)
	}
	switch {
	case byNode && forNode:
		return func(e endpoint) bool { return slices.Contains(e.nodes, node) }
	case byZone && forZone:
		return func(e endpoint) bool { return slices.Contains(e.zones, zone) }
	default:
		return func(endpoint) bool { return true }
	}
}

// filter gives those that are to be kept: all itself where that is everybody, which it mostly is.
func filter(all []endpoint, keep func(endpoint) bool) []endpoint {
	drop := func(e endpoint) bool { return !keep(e) }
	first := slices.IndexFunc(all, drop)
	if first < 0 {
		return all
	}
	out := slices.Clone(all[:first])
	for _, e := range all[first+1:] {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

// addresses of endpoints; nil for none.
func addresses(of []endpoint) []netip.AddrPort {
	if len(of) == 0 {
		return nil
	}
	out := make([]netip.AddrPort, len(of))
	for i, e := range of {
		out[i] = e.AddrPort
	}
	return out
}

// alive are the endpoints that answer: a flow that goes to one of them goes on, as a TCP connection does,
// when new ones go elsewhere. What policies and hints say is about new ones.
func alive(all []endpoint) []netip.AddrPort {
	return addresses(filter(all, func(e endpoint) bool { return e.alive }))
}

// target is where a policy's endpoints lead: to them; to silence where there are some elsewhere only;
// to a refusal where there are none.
func (c choice) target(of []endpoint) state.Target {
	switch {
	case len(of) > 0:
		return state.Target{Endpoints: addresses(of)}
	case c.any:
		return state.Target{Verdict: state.TargetDrop}
	default:
		return state.Target{Verdict: state.TargetRefuse}
	}
}
