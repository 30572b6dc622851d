package service_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nfsim"
)

func target(t state.Target) string {
	switch t.Verdict {
	case state.TargetRefuse:
		return "refuse"
	case state.TargetDrop:
		return "drop"
	case state.TargetForward:
	}
	return fmt.Sprint(t.Endpoints)
}

// pair is one address per family.
type pair [2]string

var (
	nodeAddr  = pair{"10.200.0.11", "fd00:c8::11"}
	meshAddr  = pair{"10.244.1.1", "fd00:10:244:1::1"}
	localPod  = pair{"10.244.1.5", "fd00:10:244:1::5"} // an endpoint on this node
	otherPod  = pair{"10.244.1.9", "fd00:10:244:1::9"} // a client on this node
	remotePod = pair{"10.244.2.5", "fd00:10:244:2::5"} // an endpoint on node2
	remoteCli = pair{"10.244.2.9", "fd00:10:244:2::9"} // a client on node2
	outsider  = pair{"203.0.113.5", "2001:db8:9::5"}
	clusterIP = pair{"10.96.0.10", "fd00:96::10"}
	lbIP      = pair{"198.51.100.10", "2001:db8:100::10"}
	extIP     = pair{"192.0.2.10", "2001:db8::10"}
)

// machine is the node with both tables: the mesh's and the service proxy's.
func machine(wanted ...service.Wanted) *nfsim.Machine {
	return machineWith(meshTable(), tableWith(wanted...))
}

func machineWith(tables ...state.Table) *nfsim.Machine {
	var local []netip.Addr
	for _, p := range []pair{nodeAddr, meshAddr} {
		local = append(local, addr(p[0]), addr(p[1]))
	}
	within := func(a netip.Addr, prefix ...string) bool {
		for _, p := range prefix {
			if netip.MustParsePrefix(p).Contains(a) {
				return true
			}
		}
		return false
	}
	m := nfsim.New(nfsim.World{Local: local, Route: func(a netip.Addr) (string, netip.Addr) {
		family := 0
		if a.Is6() {
			family = 1
		}
		switch {
		case within(a, "10.244.1.0/24", "fd00:10:244:1::/64"):
			return "weftp-" + a.String()[strings.LastIndexAny(a.String(), ".:")+1:], addr(nodeAddr[family])
		case within(a, "10.244.0.0/16", "fd00:10:244::/48"):
			return "weft0", addr(meshAddr[family])
		default:
			return "eth0", addr(nodeAddr[family])
		}
	}})
	m.Load(tables...)
	return m
}

// meshTable lets every Pod of this node send from its own address: those below 100 are of a Pod each, by
// their last number, the others all of the one of localPod.
func meshTable() state.Table {
	var pods []filter.Pod
	for host := 2; host < 150; host++ {
		link := fmt.Sprint("weftp-", host)
		if host >= 100 {
			link = "weftp-5"
		}
		pods = append(pods, filter.Pod{Link: link, Addresses: addrs(fmt.Sprint("10.244.1.", host), fmt.Sprint("fd00:10:244:1::", host))})
	}
	return filter.Table(filter.Input{
		Pods:         pods,
		ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48"), NodeIPs: addrs(nodeAddr[0], nodeAddr[1], "10.200.0.12", "fd00:c8::12"),
	})
}

// The clients, with the link that they come in by; the node itself has none.
var clients = map[string]struct {
	from pair
	link string
}{
	"pod":     {otherPod, "weftp-9"},
	"self":    {localPod, "weftp-5"},
	"remote":  {remoteCli, "weft0"},
	"outside": {outsider, "eth0"},
	"node":    {nodeAddr, ""},
	"mesh":    {meshAddr, ""}, // the node with its mesh address
}

func send(m *nfsim.Machine, proto uint8, client string, from, to netip.AddrPort) nfsim.Result {
	p := nfsim.Packet{Proto: proto, Src: from, Dst: to, IIF: clients[client].link}
	if p.IIF == "" {
		return m.Send(p)
	}
	return m.Receive(p)
}

func port(a string, n uint16) netip.AddrPort { return netip.AddrPortFrom(addr(a), n) }

// journey is a row of the packet tests: what a client's connection to an address ends as, in a few
// words: "local" or "remote" for the endpoint, with "masq" behind it where the source was translated
// to another one; "refused", "dropped", "delivered" (to the address itself), "left" (past all rules).
type journey struct {
	client string
	to     pair
	port   uint16
	want   string
}

func (j journey) check(t *testing.T, proto uint8, objects ...object) {
	t.Helper()
	var wanted []service.Wanted
	for _, o := range objects {
		wanted = append(wanted, o.wanted())
	}
	mesh, table := meshTable(), tableWith(wanted...)
	for i := range 2 {
		ends := map[string]bool{}
		for draw := range uint32(9) {
			m := machineWith(mesh, table)
			m.Random = func(n uint32) uint32 { return draw % n }
			from := port(clients[j.client].from[i], 4000)
			r := send(m, proto, j.client, from, port(j.to[i], j.port))
			end := describeEnd(r, from)
			ends[end] = true
			if r.Packet.Mark != 0 && r.Fate == nfsim.Left {
				t.Errorf("%v: left with mark %#x", j, r.Packet.Mark)
			}
			if r.Fate == nfsim.Left || r.Fate == nfsim.Delivered {
				checkAnswer(t, m, r, from, port(j.to[i], j.port))
			}
		}
		if got := sortedKeys(ends); got != j.want {
			t.Errorf("%s to %s:%d ends as %q, want %q", j.client, j.to[i], j.port, got, j.want)
		}
	}
}

// checkAnswer sends an answer, which must come back to the client from where it had sent to.
func checkAnswer(t *testing.T, m *nfsim.Machine, r nfsim.Result, from, to netip.AddrPort) {
	t.Helper()
	back := m.Answer(r)
	if back.Fate != nfsim.Left && back.Fate != nfsim.Delivered || back.Packet.Src != to || back.Packet.Dst != from {
		t.Errorf("the answer to %s > %s %s", from, to, back)
	}
}

func describeEnd(r nfsim.Result, from netip.AddrPort) string {
	end := string(r.Fate)
	switch a := r.Packet.Dst.Addr().String(); {
	case r.Fate != nfsim.Left:
		return end
	case a == localPod[0] || a == localPod[1]:
		end = "local"
	case a == remotePod[0] || a == remotePod[1]:
		end = "remote"
	}
	if r.Packet.Src.Addr() != from.Addr() {
		end += " masq"
	}
	return end
}

// connections are journeys by what the Service is like.
var connections = map[string]struct {
	object   object
	journeys []journey
}{
	"cluster IP": {web(), []journey{
		{"pod", clusterIP, 80, "local, remote"},
		{"self", clusterIP, 80, "local masq, remote"},
		{"node", clusterIP, 80, "local, remote masq"},
		{"outside", clusterIP, 80, "local masq, remote masq"},
		{"remote", clusterIP, 80, "local masq, remote masq"},
		{"pod", clusterIP, 81, "refused"},
		{"node", clusterIP, 81, "refused"},
		{"outside", clusterIP, 81, "refused"},
		{"pod", pair{"10.96.7.7", "fd00:96::77"}, 80, "dropped"},
		{"node", pair{"10.96.7.7", "fd00:96::77"}, 80, "dropped"},
		{"pod", pair{"192.0.2.77", "2001:db8::77"}, 80, "left masq"},
		{"outside", nodeAddr, 30080, "delivered"},
	}},
	"node port": {web(nodePort), []journey{
		{"outside", nodeAddr, 30080, "local masq, remote masq"},
		{"pod", nodeAddr, 30080, "local, remote"},
		{"self", nodeAddr, 30080, "local masq, remote"},
		{"remote", nodeAddr, 30080, "local masq, remote masq"},
		{"node", nodeAddr, 30080, "local, remote masq"},
		{"outside", meshAddr, 30080, "dropped"}, // of no interest here: the mesh's table
		{"pod", meshAddr, 30080, "delivered"},   // not an address that NodePorts are open on
	}},
	"load balancer": {web(loadBalancer), []journey{
		{"outside", lbIP, 80, "local masq, remote masq"},
		{"pod", lbIP, 80, "local, remote"},
		{"node", lbIP, 80, "local, remote masq"},
		{"outside", lbIP, 81, "left"},
	}},
	"external IP": {web(externalIPs), []journey{
		{"outside", extIP, 80, "local masq, remote masq"},
		{"pod", extIP, 80, "local, remote"},
	}},
	"external policy Local": {web(nodePort, loadBalancer, externalIPs, externalLocal), []journey{
		{"outside", nodeAddr, 30080, "local"},
		{"outside", lbIP, 80, "local"},
		{"outside", extIP, 80, "local"},
		{"pod", lbIP, 80, "local, remote"},
		{"remote", nodeAddr, 30080, "local"}, // it has asked for this node, as one from outside
		{"node", lbIP, 80, "local, remote masq"},
		{"mesh", lbIP, 80, "local masq, remote"},
		{"pod", clusterIP, 80, "local, remote"},
	}},
	"external policy Local, no local endpoint": {web(nodePort, loadBalancer, externalLocal, remoteOnly()), []journey{
		{"outside", nodeAddr, 30080, "dropped"},
		{"outside", lbIP, 80, "dropped"},
		{"remote", nodeAddr, 30080, "dropped"},
		{"pod", lbIP, 80, "remote"},
		{"node", nodeAddr, 30080, "remote masq"},
		{"outside", clusterIP, 80, "remote masq"},
	}},
	"external policy Local, no endpoint": {web(nodePort, loadBalancer, externalLocal, endpoints()), []journey{
		{"outside", nodeAddr, 30080, "refused"},
		{"pod", lbIP, 80, "refused"},
	}},
	"no endpoint": {web(nodePort, loadBalancer, externalIPs, endpoints()), []journey{
		{"pod", clusterIP, 80, "refused"},
		{"node", clusterIP, 80, "refused"},
		{"outside", nodeAddr, 30080, "refused"},
		{"outside", lbIP, 80, "refused"},
		{"outside", extIP, 80, "refused"},
	}},
	"internal policy Local": {web(internalLocal, nodePort), []journey{
		{"pod", clusterIP, 80, "local"},
		{"node", clusterIP, 80, "local"},
		{"outside", nodeAddr, 30080, "local masq, remote masq"},
	}},
	"internal policy Local, no local endpoint": {web(internalLocal, remoteOnly(), nodePort), []journey{
		{"pod", clusterIP, 80, "dropped"},
		{"node", clusterIP, 80, "dropped"},
		{"outside", nodeAddr, 30080, "remote masq"},
	}},
	"source ranges": {web(nodePort, loadBalancer, ranges("203.0.113.0/24", "2001:db8:9::/48", "10.244.2.0/24", "fd00:10:244:2::/64")), []journey{
		{"outside", lbIP, 80, "local masq, remote masq"},
		{"pod", lbIP, 80, "dropped"},
		{"node", lbIP, 80, "dropped"},
		{"remote", lbIP, 80, "local masq, remote masq"},
		{"pod", nodeAddr, 30080, "local, remote"}, // not for NodePorts
		{"pod", clusterIP, 80, "local, remote"},
	}},
	"source ranges and policy Local": {web(loadBalancer, externalLocal, ranges("203.0.113.0/24", "2001:db8:9::/48", "10.244.1.0/24", "fd00:10:244:1::/64")), []journey{
		{"outside", lbIP, 80, "local"},
		{"pod", lbIP, 80, "local, remote"},
		{"remote", lbIP, 80, "dropped"},
	}},
	"source ranges, no endpoint": {web(loadBalancer, endpoints(), ranges("203.0.113.0/24", "2001:db8:9::/48")), []journey{
		{"outside", lbIP, 80, "refused"},
		{"pod", lbIP, 80, "dropped"},
	}},
	"source ranges of one family": {web(loadBalancer, ranges("203.0.113.0/24", "::/0")), []journey{
		{"outside", lbIP, 80, "local masq, remote masq"},
	}},
	"terminating, as the last resort": {web(nodePort, externalLocal, endpoints(terminating(at("10.244.1.5", "node1")), terminating(at("10.244.2.5", "node2")))), []journey{
		{"pod", clusterIP, 80, "local, remote"},
		{"outside", nodeAddr, 30080, "local"},
	}},
	"terminating here, ready elsewhere": {web(nodePort, externalLocal, internalLocal, endpoints(terminating(at("10.244.1.5", "node1")), at("10.244.2.5", "node2"))), []journey{
		{"outside", nodeAddr, 30080, "local"},
		{"pod", nodeAddr, 30080, "remote"},
		{"pod", clusterIP, 80, "local"},
	}},
	"affinity": {web(affinity(time.Minute), nodePort, externalLocal), []journey{
		{"pod", clusterIP, 80, "local, remote"},
		{"self", clusterIP, 80, "local masq, remote"},
		{"outside", clusterIP, 80, "local masq, remote masq"},
		{"outside", nodeAddr, 30080, "local"},
		{"pod", nodeAddr, 30080, "local, remote"},
	}},
	"affinity and source ranges": {web(affinity(time.Minute), loadBalancer, ranges("203.0.113.0/24", "2001:db8:9::/48")), []journey{
		{"outside", lbIP, 80, "local masq, remote masq"},
		{"pod", lbIP, 80, "dropped"},
	}},
}

func TestWhereConnectionsEnd(t *testing.T) {
	for name, row := range connections {
		t.Run(name, func(t *testing.T) {
			for _, j := range row.journeys {
				j.check(t, state.ProtoTCP, row.object)
			}
		})
	}
}

// TestProtocols: the same port of another protocol is another frontend.
func TestProtocols(t *testing.T) {
	for proto, change := range map[uint8]func(*object){state.ProtoUDP: udp, state.ProtoSCTP: sctp} {
		o := web(change, nodePort)
		for _, j := range []journey{{"pod", clusterIP, 80, "local, remote"}, {"outside", nodeAddr, 30080, "local masq, remote masq"}} {
			j.check(t, proto, o)
		}
		journey{"pod", clusterIP, 80, "refused"}.check(t, state.ProtoTCP, o)
	}
}

// TestHostNetworkEndpoint: an endpoint that is the node itself is reached without translating the
// source, and so is one on another node from a Pod.
func TestHostNetworkEndpoint(t *testing.T) {
	o := web()
	o.slices = []snapshot.EndpointSlice{slice("web-4", []string{"http/tcp/8080"}, at(nodeAddr[0], "node1")), slice("web-6", []string{"http/tcp/8080"}, at(nodeAddr[1], "node1"))}
	for i := range 2 {
		for client, want := range map[string]string{"pod": otherPod[i], "node": nodeAddr[i], "outside": outsider[i]} {
			m := machine(o.wanted())
			from, to := port(clients[client].from[i], 4000), port(clusterIP[i], 80)
			r := send(m, state.ProtoTCP, client, from, to)
			if r.Fate != nfsim.Delivered || r.Packet.Dst != port(nodeAddr[i], 8080) || r.Packet.Src.Addr() != addr(want) {
				t.Errorf("%s: %s", client, r)
			}
			checkAnswer(t, m, r, from, to)
		}
	}
}

// TestRefusals: a TCP reset for TCP, ICMP for the rest.
func TestRefusals(t *testing.T) {
	o := web(endpoints())
	for proto, want := range map[uint8]state.RejectWith{state.ProtoTCP: state.RejectReset, state.ProtoUDP: state.RejectPort, state.ProtoSCTP: state.RejectPort} {
		for i := range 2 {
			m := machine(o.wanted())
			if r := send(m, proto, "pod", port(otherPod[i], 4000), port(clusterIP[i], 80)); r.Fate != nfsim.Refused || r.With != want {
				t.Errorf("protocol %d: %s", proto, r)
			}
			if len(m.Flows()) != 0 {
				t.Error("a refused packet left a flow behind")
			}
		}
	}
}

func sortedKeys(set map[string]bool) string {
	var out []string
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestInvalidPacketsOfEndpoints do not reach a client that knows only the Service's address. Those of
// others do.
func TestInvalidPacketsOfEndpoints(t *testing.T) {
	m := machine(web().wanted())
	for i := range 2 {
		for _, row := range []struct {
			from, to pair
			link     string
			proto    uint8
			want     nfsim.Fate
		}{
			{localPod, otherPod, "weftp-5", state.ProtoTCP, nfsim.Dropped},
			{localPod, remoteCli, "weftp-5", state.ProtoTCP, nfsim.Dropped},
			{localPod, otherPod, "weftp-5", state.ProtoUDP, nfsim.Left},
			{otherPod, localPod, "weftp-9", state.ProtoTCP, nfsim.Left},
			{remotePod, otherPod, "weft0", state.ProtoTCP, nfsim.Left}, // dropped where it is
		} {
			r := m.Receive(nfsim.Packet{Proto: row.proto, Src: port(row.from[i], 8080), Dst: port(row.to[i], 4000), IIF: row.link, Invalid: true})
			if r.Fate != row.want {
				t.Errorf("%s to %s: %s, want %s", row.from[i], row.to[i], r, row.want)
			}
		}
	}
	if n := m.Count(state.ServiceTableName, service.CounterInvalid); n != 4 {
		t.Errorf("%d packets were counted", n)
	}
}
