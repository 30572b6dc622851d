package service_test

import (
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(text ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range text {
		out = append(out, addr(s))
	}
	return out
}

func prefixes(text ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range text {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// here is the node of all examples: node1 in zone a, with Pods in 10.244.1.0/24.
func here() snapshot.ServiceNode {
	return snapshot.ServiceNode{
		Name: "node1", Zone: "a",
		NodeIPs: addrs("10.200.0.11", "fd00:c8::11"), NodePortIPs: addrs("10.200.0.11", "fd00:c8::11"),
		ServiceCIDRs: prefixes("10.96.0.0/16", "fd00:96::/112"),
	}
}

// object is a Service with its slices.
type object struct {
	snapshot.Service
	slices []snapshot.EndpointSlice
}

func (o object) wanted() service.Wanted { return service.For(o.Service, o.slices, here()) }

// web is a dual-stack Service of TCP port 80 with two endpoints, one on this node and one on node2.
func web(change ...func(*object)) object {
	o := object{Service: snapshot.Service{
		ServiceName: snapshot.ServiceName{Namespace: "prod", Name: "web"},
		Created:     time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
		ClusterIPs:  addrs("10.96.0.10", "fd00:96::10"),
		Ports:       []snapshot.ServicePort{{Name: "http", Protocol: state.ProtoTCP, Port: 80}},
	}}
	o.slices = []snapshot.EndpointSlice{
		slice("web-4", []string{"http/tcp/8080"}, at("10.244.1.5", "node1"), at("10.244.2.5", "node2")),
		slice("web-6", []string{"http/tcp/8080"}, at("fd00:10:244:1::5", "node1"), at("fd00:10:244:2::5", "node2")),
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

func at(address, node string) snapshot.Endpoint {
	return snapshot.Endpoint{Addr: addr(address), Node: node, Ready: true, Serving: true}
}

// terminating makes an endpoint one that drains.
func terminating(e snapshot.Endpoint) snapshot.Endpoint {
	e.Ready, e.Terminating = false, true
	return e
}

// slice has ports written as name/protocol/number.
func slice(name string, ports []string, endpoints ...snapshot.Endpoint) snapshot.EndpointSlice {
	s := snapshot.EndpointSlice{Namespace: "prod", Name: name, Service: "web", Endpoints: endpoints}
	for _, p := range ports {
		parts := strings.Split(p, "/")
		ep := snapshot.EndpointPort{Name: parts[0], Protocol: protocols[parts[1]]}
		_, _ = fmt.Sscan(parts[2], &ep.Port)
		s.Ports = append(s.Ports, ep)
	}
	return s
}

var protocols = map[string]uint8{"tcp": state.ProtoTCP, "udp": state.ProtoUDP, "sctp": state.ProtoSCTP}

// The changes that examples are made of.
func endpoints(four ...snapshot.Endpoint) func(*object) {
	return func(o *object) {
		o.slices = []snapshot.EndpointSlice{slice("web-4", []string{"http/tcp/8080"}, four...)}
		var six []snapshot.Endpoint
		for _, e := range four {
			b := e.Addr.As4()
			e.Addr = addr(fmt.Sprintf("fd00:10:244:%d::%d", b[2], b[3]))
			six = append(six, e)
		}
		o.slices = append(o.slices, slice("web-6", []string{"http/tcp/8080"}, six...))
	}
}

func remoteOnly() func(*object) { return endpoints(at("10.244.2.5", "node2")) }

func nodePort(o *object)      { o.Ports[0].NodePort = 30080 }
func externalLocal(o *object) { o.ExternalLocal = true }
func internalLocal(o *object) { o.InternalLocal = true }
func externalIPs(o *object)   { o.ExternalIPs = addrs("192.0.2.10", "2001:db8::10") }
func loadBalancer(o *object)  { o.LoadBalancerIPs = addrs("198.51.100.10", "2001:db8:100::10") }
func udp(o *object) {
	o.Ports[0].Protocol = state.ProtoUDP
	for i := range o.slices {
		o.slices[i].Ports[0].Protocol = state.ProtoUDP
	}
}

func sctp(o *object) {
	o.Ports[0].Protocol = state.ProtoSCTP
	for i := range o.slices {
		o.slices[i].Ports[0].Protocol = state.ProtoSCTP
	}
}

func affinity(d time.Duration) func(*object) { return func(o *object) { o.Affinity = d } }

func ranges(text ...string) func(*object) {
	return func(o *object) { o.SourceRanges = prefixes(text...) }
}

// tableWith is the table with everything that the Services want, as the kernel package would write it.
func tableWith(wanted ...service.Wanted) state.Table {
	claims := service.NewClaims()
	var timeouts []time.Duration
	for _, w := range wanted {
		claims.Set(w)
		timeouts = append(timeouts, w.Timeouts()...)
	}
	t := service.Table(here(), timeouts)
	for _, w := range wanted {
		for name, list := range claims.Settle(w).Sets() {
			for i := range t.Sets {
				if t.Sets[i].Name == name {
					t.Sets[i].Elements = append(t.Sets[i].Elements, list...)
				}
			}
		}
	}
	return t.Sorted()
}

// tableOf is the table of Services.
func tableOf(objects ...object) state.Table {
	var wanted []service.Wanted
	for _, o := range objects {
		wanted = append(wanted, o.wanted())
	}
	return tableWith(wanted...)
}
