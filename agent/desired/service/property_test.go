package service_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nfsim"
)

// What random Services are made of: few of each, so that they get in each other's way.
var (
	poolClusterIPs = []pair{{"10.96.0.10", "fd00:96::10"}, {"10.96.0.11", "fd00:96::11"}, {"10.96.0.12", "fd00:96::12"}, {"10.97.0.1", "fd00:97::1"}}
	poolExternal   = []string{
		"192.0.2.10", "198.51.100.10", "198.51.100.11", "10.200.0.11", "10.96.0.10", "10.96.0.11",
		"2001:db8::10", "2001:db8:100::10", "fd00:c8::11", "fd00:96::10",
	}
	poolRanges = []string{
		"203.0.113.0/24", "203.0.0.0/16", "10.244.1.0/24", "10.244.0.0/16", "10.200.0.0/24", "0.0.0.0/0",
		"2001:db8:9::/48", "fd00:10:244::/48", "fd00:c8::/64",
	}
	poolPorts     = []uint16{80, 81, 443}
	poolNodePorts = []uint16{0, 0, 30080, 30081}
	poolProtocols = []uint8{state.ProtoTCP, state.ProtoTCP, state.ProtoUDP, state.ProtoSCTP}
)

func some[T any](rt *rapid.T, label string, pool []T, most int) []T {
	var out []T
	for range rapid.IntRange(0, most).Draw(rt, label+" count") {
		out = append(out, rapid.SampledFrom(pool).Draw(rt, label))
	}
	return out
}

func drawService(rt *rapid.T, i int) object {
	o := object{Service: snapshot.Service{
		ServiceName:   snapshot.ServiceName{Namespace: rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "namespace"), Name: fmt.Sprint("s", i)},
		Created:       time.Unix(rapid.Int64Range(0, 2).Draw(rt, "created"), 0),
		ExternalLocal: rapid.Bool().Draw(rt, "external local"), InternalLocal: rapid.Bool().Draw(rt, "internal local"),
		Affinity: rapid.SampledFrom([]time.Duration{0, 0, time.Minute, 3 * time.Hour}).Draw(rt, "affinity"),
	}}
	// The API server never gives an address of its ranges twice.
	ip := poolClusterIPs[i]
	switch rapid.IntRange(0, 4).Draw(rt, "families") {
	case 0:
		o.ClusterIPs = addrs(ip[0])
	case 1:
		o.ClusterIPs = addrs(ip[1])
	default:
		o.ClusterIPs = addrs(ip[0], ip[1])
	}
	o.ExternalIPs = addrs(some(rt, "external IP", poolExternal, 2)...)
	o.LoadBalancerIPs = addrs(some(rt, "load balancer", poolExternal, 2)...)
	o.SourceRanges = prefixes(some(rt, "range", poolRanges, 3)...)
	used := map[string]bool{}
	for n := range rapid.IntRange(1, 3).Draw(rt, "ports") {
		p := snapshot.ServicePort{
			Name: fmt.Sprint("p", n), Protocol: rapid.SampledFrom(poolProtocols).Draw(rt, "protocol"),
			Port: rapid.SampledFrom(poolPorts).Draw(rt, "port"), NodePort: rapid.SampledFrom(poolNodePorts).Draw(rt, "node port"),
		}
		port, nodePort := fmt.Sprint(p.Protocol, p.Port), fmt.Sprint("n", p.Protocol, p.NodePort)
		if used[port] || p.NodePort != 0 && used[nodePort] {
			continue
		}
		used[port], used[nodePort] = true, true
		o.Ports = append(o.Ports, p)
	}
	o.slices = drawSlices(rt, o)
	return o
}

func drawSlices(rt *rapid.T, o object) []snapshot.EndpointSlice {
	var out []snapshot.EndpointSlice
	for n := range rapid.IntRange(0, 3).Draw(rt, "slices") {
		s := snapshot.EndpointSlice{Namespace: o.Namespace, Name: fmt.Sprint(n), Service: o.Name}
		for _, p := range o.Ports {
			if rapid.IntRange(0, 9).Draw(rt, "has port") > 0 {
				s.Ports = append(s.Ports, snapshot.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: 8000 + p.Port})
			}
		}
		most := rapid.SampledFrom([]int{2, 4, 40}).Draw(rt, "most")
		hints := rapid.Bool().Draw(rt, "hints")
		for range rapid.IntRange(0, most).Draw(rt, "endpoints") {
			s.Endpoints = append(s.Endpoints, drawEndpoint(rt, n%2 == 0, hints))
		}
		out = append(out, s)
	}
	return out
}

func drawEndpoint(rt *rapid.T, four, hints bool) snapshot.Endpoint {
	node, host := rapid.IntRange(1, 3).Draw(rt, "node"), rapid.IntRange(2, 30).Draw(rt, "host")
	e := snapshot.Endpoint{Node: fmt.Sprint("node", node), Addr: addr(fmt.Sprintf("10.244.%d.%d", node, host))}
	if !four {
		e.Addr = addr(fmt.Sprintf("fd00:10:244:%d::%d", node, host))
	}
	if node == 1 && host == 2 {
		e.Addr = addr(nodeAddr[0]) // of the node's own network
		if !four {
			e.Addr = addr(nodeAddr[1])
		}
	}
	switch rapid.IntRange(0, 5).Draw(rt, "condition") {
	case 0:
		e.Serving = true
		e.Terminating = true
	case 1:
		e.Terminating = true
	case 2:
	default:
		e.Ready, e.Serving = true, true
	}
	if hints {
		e.ZoneHints = some(rt, "zone hint", []string{"a", "b"}, 2)
		e.NodeHints = some(rt, "node hint", []string{"node1", "node2"}, 2)
	}
	return e
}

// TestRulesAgreeWithTheModel sends packets from everywhere to everything that random Services have.
func TestRulesAgreeWithTheModel(t *testing.T) { rapid.Check(t, agreement()) }

func FuzzRulesAgreeWithTheModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(agreement())) }

func agreement() func(*rapid.T) {
	mesh := meshTable()
	return func(rt *rapid.T) {
		var objects []object
		for i := range rapid.IntRange(1, len(poolClusterIPs)).Draw(rt, "services") {
			objects = append(objects, drawService(rt, i))
		}
		var wanted []service.Wanted
		for _, o := range objects {
			wanted = append(wanted, o.wanted())
		}
		m := machineWith(mesh, tableWith(wanted...))
		for range 12 {
			to := drawDestination(rt, objects)
			proto := rapid.SampledFrom(poolProtocols).Draw(rt, "to protocol")
			client := rapid.SampledFrom(slices.Sorted(maps.Keys(clients))).Draw(rt, "client")
			family := 0
			if to.Addr().Is6() {
				family = 1
			}
			compare(rt, m, objects, client, proto, port(clients[client].from[family], 4000), to)
		}
	}
}

// TestSocketsAgreeWithTheModel: what is decided when a process of a Pod or of the node connects is what the
// model says of its first packet; and what is left to the rules is what only they can do.
func TestSocketsAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var objects []object
		claims := service.NewClaims()
		for i := range rapid.IntRange(1, len(poolClusterIPs)).Draw(rt, "services") {
			objects = append(objects, drawService(rt, i))
			claims.Set(objects[i].wanted())
		}
		for _, o := range objects {
			w := claims.Settle(o.wanted())
			at := map[netip.AddrPort]state.SocketFrontend{}
			for _, s := range w.Sockets() {
				at[s.Address] = s
			}
			for _, f := range w.Frontends {
				to := netip.AddrPortFrom(f.Addr, f.Port)
				s, there := at[to]
				if f.Proto != state.ProtoTCP {
					continue
				}
				delete(at, to)
				for _, client := range []string{"pod", "self", "node", "mesh"} {
					compareSocket(rt, f, s, there, client, means(objects, here(), client, clientAddr(client, f.Addr), state.ProtoTCP, to))
				}
			}
			if len(at) > 0 {
				rt.Fatalf("what is no frontend is balanced at the socket: %v", at)
			}
		}
	})
}

func clientAddr(client string, like netip.Addr) netip.Addr {
	if like.Is4() {
		return addr(clients[client].from[0])
	}
	return addr(clients[client].from[1])
}

func compareSocket(rt *rapid.T, f state.Frontend, s state.SocketFrontend, there bool, client string, want meaning) {
	slices.SortFunc(want.endpoints, netip.AddrPort.Compare)
	switch {
	case !there && want.verdict != "drop" && f.Sources == nil:
		rt.Fatalf("%s to %s is left to the rules, the model says %s", client, f.FrontendKey, want.verdict)
	case there && f.Sources != nil:
		rt.Fatalf("%s is balanced at the socket, which knows nothing of its source ranges", f.FrontendKey)
	case there && (want.verdict == "refuse") != (len(s.Endpoints) == 0), there && !slices.Equal(s.Endpoints, want.endpoints):
		rt.Fatalf("%s to %s: %s, the model says %s %s", client, f.FrontendKey, s, want.verdict, want.endpoints)
	}
}

func drawDestination(rt *rapid.T, objects []object) netip.AddrPort {
	pool := slices.Clone(poolExternal)
	for _, p := range append(slices.Clone(poolClusterIPs), nodeAddr, pair{"10.96.9.9", "fd00:96::99"}) {
		pool = append(pool, p[0], p[1])
	}
	ports := append(slices.Clone(poolPorts), poolNodePorts[2:]...)
	a, p := rapid.SampledFrom(pool).Draw(rt, "to"), rapid.SampledFrom(ports).Draw(rt, "to port")
	// Mostly something that there is.
	if o := rapid.SampledFrom(objects).Draw(rt, "of"); rapid.IntRange(0, 3).Draw(rt, "hit") > 0 && len(o.wanted().Frontends) > 0 {
		f := rapid.SampledFrom(o.wanted().Frontends).Draw(rt, "frontend")
		return netip.AddrPortFrom(f.Addr, f.Port)
	}
	return port(a, p)
}

// compare draws every slot, and wants every endpoint that the model names and no other.
func compare(rt *rapid.T, m *nfsim.Machine, objects []object, client string, proto uint8, from, to netip.AddrPort) {
	want := means(objects, here(), client, from.Addr(), proto, to)
	met := map[netip.AddrPort]bool{}
	size := uint32(1)
	for draw := uint32(0); draw < size; draw++ {
		m.Random = func(n uint32) uint32 {
			size = n
			return draw % n
		}
		m.Forget(func(*nfsim.Flow) bool { return true })
		m.Advance(25 * time.Hour) // nobody is remembered
		r := send(m, proto, client, from, to)
		where := fmt.Sprintf("%s %s to %s over %d: %s, the model says %s %s\n%v", client, from, to, proto, r, want.verdict, want.endpoints, r.Trace)
		switch want.verdict {
		case "refuse":
			if r.Fate != nfsim.Refused {
				rt.Fatal(where)
			}
		case "drop":
			if r.Fate != nfsim.Dropped || r.By[:len(state.ServiceTableName)] != state.ServiceTableName {
				rt.Fatal(where)
			}
		case "pass":
			if (r.Fate == nfsim.Left || r.Fate == nfsim.Delivered) && r.Packet.Dst != to || r.Fate == nfsim.Refused || r.Packet.Mark != 0 {
				rt.Fatal(where)
			}
		case "forward":
			kept := r.Packet.Src.Addr() == from.Addr() || client == "node" // whose address it may be translated to
			if r.Fate != nfsim.Left && r.Fate != nfsim.Delivered || !slices.Contains(want.endpoints, r.Packet.Dst) ||
				kept != want.keepsSource(r.Packet.Dst) && client != "node" && client != "mesh" || r.Packet.Mark != 0 && r.Fate == nfsim.Left {
				rt.Fatal(where)
			}
			met[r.Packet.Dst] = true
		}
	}
	if len(met) != len(want.endpoints) {
		rt.Fatalf("%s to %s over %d: %d endpoints of %d were met, drawing %d slots", client, to, proto, len(met), len(want.endpoints), size)
	}
}
