package service

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// maxAffinity is the longest affinity that the API allows, a day.
const maxAffinity = 24 * time.Hour

// For says what one Service asks of a node. The order of slices does not matter; those of other
// Services must not be among them.
func For(svc snapshot.Service, endpointSlices []snapshot.EndpointSlice, node snapshot.ServiceNode) Wanted {
	b := builder{svc: svc, node: node}
	b.out = Wanted{Service: svc.ServiceName, Created: svc.Created}
	for _, text := range svc.Unreadable {
		b.problem(ReasonUnreadable, "%s is neither an address nor a range, and is left out", text)
	}
	if len(svc.ClusterIPs) == 0 {
		return b.out // headless: nothing is proxied
	}
	if b.svc.Affinity > maxAffinity {
		b.problem(ReasonInvalid, "sessionAffinityConfig: %s is longer than a day, and is cut to that", svc.Affinity)
		b.svc.Affinity = maxAffinity
	}
	all := endpointsByPort(endpointSlices, node.Name)
	for _, ip := range svc.ClusterIPs {
		b.family(ip.Unmap(), all)
	}
	b.strangers()
	return b.finish(all)
}

type builder struct {
	svc       snapshot.Service
	node      snapshot.ServiceNode
	out       Wanted
	frontends []state.Frontend
	// at is the place of each in frontends, from the time on when there are so many that looking through them costs more.
	at map[state.FrontendKey]int
}

func (b *builder) problem(reason, text string, args ...any) {
	b.out.Problems = append(b.out.Problems, Problem{Service: b.svc.ServiceName, Reason: reason, Text: fmt.Sprintf(text, args...)})
}

// family adds the frontends of the address family of one ClusterIP.
func (b *builder) family(clusterIP netip.Addr, all map[portKey][]endpoint) {
	if !usable(clusterIP) {
		b.problem(ReasonInvalid, "spec.clusterIPs: %s cannot be the address of a Service", clusterIP)
		return
	}
	family := state.FamilyOf(clusterIP)
	b.out.ClusterIPs = append(b.out.ClusterIPs, clusterIP)
	for _, p := range b.svc.Ports {
		if p.Port == 0 || !proxied(p.Protocol) {
			b.problem(ReasonInvalid, "spec.ports: port %q: %d of protocol %d cannot be proxied", p.Name, p.Port, p.Protocol)
			continue
		}
		of := all[portKey{p.Name, p.Protocol, family}]
		c := choose(of, b.node.Name, b.node.Zone)
		if p.Protocol == state.ProtoUDP {
			c.alive = alive(of)
		}
		b.noLocal(family, c)
		b.internal(clusterIP, p, c)
		b.external(family, p, c)
	}
}

func proxied(proto uint8) bool {
	return proto == state.ProtoTCP || proto == state.ProtoUDP || proto == state.ProtoSCTP
}

func (b *builder) internal(clusterIP netip.Addr, p snapshot.ServicePort, c choice) {
	to := c.target(c.cluster)
	if b.svc.InternalLocal {
		to = c.target(c.local)
	}
	b.add(state.Frontend{
		FrontendKey: state.FrontendKey{Addr: clusterIP, Proto: p.Protocol, Port: p.Port},
		Kind:        state.FrontendClusterIP, PortName: p.Name, Inside: to, Outside: to,
	}, c)
}

// external adds the ways in from outside. Connections from within the cluster follow no external
// policy: they are treated as if they had gone out to the load balancer and come back.
func (b *builder) external(family state.Family, p snapshot.ServicePort, c choice) {
	f := state.Frontend{PortName: p.Name, Inside: c.target(c.cluster), ExternalLocal: b.svc.ExternalLocal}
	f.Outside = f.Inside
	if b.svc.ExternalLocal {
		f.Outside = c.target(c.local)
	}
	at := func(kind state.FrontendKind, addr netip.Addr, port uint16) {
		addr = addr.Unmap()
		if state.FamilyOf(addr) != family || !usable(addr) {
			return
		}
		f.Kind, f.FrontendKey = kind, state.FrontendKey{Addr: addr, Proto: p.Protocol, Port: port}
		b.add(f, c)
	}
	if p.NodePort != 0 {
		for _, a := range b.node.NodePortIPs {
			at(state.FrontendNodePort, a, p.NodePort)
		}
	}
	for _, a := range b.svc.ExternalIPs {
		at(state.FrontendExternalIP, a, p.Port)
	}
	f.Sources = b.sources(family)
	for _, a := range b.svc.LoadBalancerIPs {
		at(state.FrontendLoadBalancer, a, p.Port)
	}
}

// add takes a frontend in. An address may be listed twice, as that of a load balancer and as an
// external one: then the one with source ranges counts.
func (b *builder) add(f state.Frontend, c choice) {
	f.Affinity, f.Alive = b.svc.Affinity.Truncate(time.Second), c.alive
	have := b.find(f.FrontendKey)
	if have != nil && (have.PortName != f.PortName || have.Kind == state.FrontendClusterIP) {
		b.problem(ReasonInvalid, "%s is listed twice: as %s of port %q and as %s of port %q, of which the first counts",
			f.FrontendKey, have.Kind, have.PortName, f.Kind, f.PortName)
		return
	}
	if have != nil {
		*have = f
	} else {
		b.append(f)
	}
	for _, list := range [][]endpoint{c.cluster, c.local} {
		for _, e := range list {
			if e.local {
				b.out.Local = append(b.out.Local, e.Addr())
			}
		}
	}
}

// few frontends are looked through one by one.
const few = 16

func (b *builder) find(k state.FrontendKey) *state.Frontend {
	if b.at != nil {
		if i, ok := b.at[k]; ok {
			return &b.frontends[i]
		}
		return nil
	}
	for i := range b.frontends {
		if b.frontends[i].FrontendKey == k {
			return &b.frontends[i]
		}
	}
	return nil
}

func (b *builder) append(f state.Frontend) {
	if b.frontends == nil {
		b.frontends = make([]state.Frontend, 0, len(b.svc.Ports)*len(b.svc.ClusterIPs))
	}
	b.frontends = append(b.frontends, f)
	if len(b.frontends) <= few {
		return
	}
	if b.at == nil {
		b.at = make(map[state.FrontendKey]int, 2*len(b.frontends))
		for i, f := range b.frontends {
			b.at[f.FrontendKey] = i
		}
	}
	b.at[f.FrontendKey] = len(b.frontends) - 1
}

// strangers reports external addresses of a family that the Service does not have.
func (b *builder) strangers() {
	for _, a := range b.svc.ExternalIPs {
		has := func(ip netip.Addr) bool { return state.FamilyOf(ip) == state.FamilyOf(a) }
		if !slices.ContainsFunc(b.svc.ClusterIPs, has) {
			b.problem(ReasonInvalid, "spec.externalIPs: %s is of a family that the Service has no clusterIP of, and is left out", a)
		} else if !usable(a) {
			b.problem(ReasonInvalid, "spec.externalIPs: %s cannot be the address of a Service, and is left out", a)
		}
	}
}

func (b *builder) finish(all map[portKey][]endpoint) Wanted {
	w := b.out
	w.Frontends = b.frontends
	slices.SortFunc(w.Frontends, func(x, y state.Frontend) int { return x.FrontendKey.Compare(y.FrontendKey) })
	for _, list := range []*[]netip.Addr{&w.ClusterIPs, &w.Local} {
		slices.SortFunc(*list, netip.Addr.Compare)
		*list = slices.Compact(*list)
	}
	if b.svc.HealthCheckNodePort != 0 {
		w.HealthCheck = &HealthCheck{Addrs: b.node.NodePortIPs, Port: b.svc.HealthCheckNodePort, LocalReady: b.localReady(all)}
	}
	return w
}

// localReady counts ready Pods of this node. A Pod has an address of each family.
func (b *builder) localReady(all map[portKey][]endpoint) int {
	addrs := map[state.Family]map[netip.Addr]bool{state.IPv4: {}, state.IPv6: {}}
	for _, p := range b.svc.Ports {
		for family, seen := range addrs {
			for _, e := range all[portKey{p.Name, p.Protocol, family}] {
				if e.local && e.ready {
					seen[e.Addr()] = true
				}
			}
		}
	}
	return max(len(addrs[state.IPv4]), len(addrs[state.IPv6]))
}
