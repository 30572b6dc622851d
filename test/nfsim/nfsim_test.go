package nfsim_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nfsim"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// node is a machine with a Pod, a mesh device and an uplink.
func node(tables ...state.Table) *nfsim.Machine {
	local := []netip.Addr{addr("10.200.0.11"), addr("fd00:c8::11"), addr("10.244.1.1"), addr("fd00:10:244:1::1")}
	pick := func(a netip.Addr, four, six string) netip.Addr {
		if a.Is4() {
			return addr(four)
		}
		return addr(six)
	}
	m := nfsim.New(nfsim.World{Local: local, Route: func(a netip.Addr) (string, netip.Addr) {
		switch {
		case prefix("10.244.1.0/24").Contains(a), prefix("fd00:10:244:1::/64").Contains(a):
			return "weftp1", pick(a, "10.200.0.11", "fd00:c8::11")
		case prefix("10.244.0.0/16").Contains(a), prefix("fd00:10:244::/48").Contains(a):
			return "weft0", pick(a, "10.244.1.1", "fd00:10:244:1::1")
		default:
			return "eth0", pick(a, "10.200.0.11", "fd00:c8::11")
		}
	}})
	m.Load(tables...)
	return m
}

var onePod = []filter.Pod{{Link: "weftp1", Addresses: []netip.Addr{addr("10.244.1.5"), addr("fd00:10:244:1::5")}}}

func mesh() state.Table {
	in := filter.Input{
		ClusterCIDRs: []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd00:10:244::/48")},
		NodeIPs:      []netip.Addr{addr("10.200.0.11"), addr("fd00:c8::11")},
		Pods:         onePod,
	}
	for _, pod := range []string{"10.244.1.5", "fd00:10:244:1::5"} {
		in.HostPorts = append(in.HostPorts, filter.HostPort{Protocol: state.ProtoTCP, Port: 8080, PodIP: addr(pod), PodPort: 80})
	}
	return filter.Table(in)
}

// expect compares the end of a packet's way, with the part of the rule that decided after a "by".
func expect(t *testing.T, got nfsim.Result, want string) {
	t.Helper()
	if !strings.Contains(got.String(), want) {
		t.Errorf("%s, want %s\n\t%s", got, want, strings.Join(got.Trace, "\n\t"))
	}
}

func TestTheMeshTable(t *testing.T) {
	for _, row := range []struct {
		link, src, dst, want string
	}{
		{"eth0", "10.244.2.5:1", "10.244.1.5:80", "dropped by weftnet failclosed-in"},
		{"eth0", "[fd00:10:244:2::5]:1", "[fd00:10:244:1::5]:80", "dropped by weftnet failclosed-in"},
		{"weft0", "10.244.2.5:1", "10.244.1.5:80", "left by weftp1 as tcp 10.244.2.5:1 > 10.244.1.5:80"},
		{"weftp1", "10.244.1.5:1", "10.244.2.5:80", "left by weft0 as tcp 10.244.1.5:1 > 10.244.2.5:80"},
		{"weftp1", "10.244.1.5:1", "192.0.2.1:80", "left by eth0 as tcp 10.200.0.11:1 > 192.0.2.1:80"},
		{"weftp1", "[fd00:10:244:1::5]:1", "[2001:db8::1]:80", "left by eth0 as tcp [fd00:c8::11]:1 > [2001:db8::1]:80"},
		{"weftp1", "10.9.9.9:1", "192.0.2.1:80", "dropped by weftnet from-pod"},
		{"eth0", "192.0.2.1:1", "10.200.0.11:8080", "left by weftp1 as tcp 192.0.2.1:1 > 10.244.1.5:80"},
		{"eth0", "[2001:db8::1]:1", "[fd00:c8::11]:8080", "left by weftp1 as tcp [2001:db8::1]:1 > [fd00:10:244:1::5]:80"},
		{"eth0", "192.0.2.1:1", "10.200.0.11:22", "delivered as tcp 192.0.2.1:1 > 10.200.0.11:22"},
		{"", "127.0.0.1:1", "10.200.0.11:8080", "left by weftp1 as tcp 10.200.0.11:1 > 10.244.1.5:80"},
		{"", "10.200.0.11:1", "10.200.0.11:22", "delivered"},
	} {
		m := node(mesh())
		p := nfsim.TCP(row.src, row.dst).From(row.link)
		if row.link == "" {
			expect(t, m.Send(p), row.want)
		} else {
			expect(t, m.Receive(p), row.want)
		}
	}
}

// TestAnswers follows a flow in both directions: translated back, established, and through no nat
// chain a second time.
func TestAnswers(t *testing.T) {
	m := node(mesh())
	first := m.Receive(nfsim.TCP("192.0.2.1:1", "10.200.0.11:8080").From("eth0"))
	expect(t, first, "left by weftp1 as tcp 192.0.2.1:1 > 10.244.1.5:80")
	expect(t, m.Answer(first), "left by eth0 as tcp 10.200.0.11:8080 > 192.0.2.1:1")
	m.Load(filter.Table(filter.Input{Pods: onePod}))
	expect(t, m.Receive(nfsim.TCP("192.0.2.1:1", "10.200.0.11:8080").From("eth0")), "left by weftp1 as tcp 192.0.2.1:1 > 10.244.1.5:80")
	if flows := m.Flows(); len(flows) != 1 || flows[0].Status&state.CTDNAT == 0 {
		t.Errorf("flows: %v", flows)
	}
	m.Forget(func(f *nfsim.Flow) bool { return true })
	expect(t, m.Receive(nfsim.TCP("192.0.2.1:1", "10.200.0.11:8080").From("eth0")), "delivered")
}

func rule(s ...state.Statement) state.ChainRule { return state.ChainRule{Statements: s} }

// TestHooks has one rule of each kind of chain in two tables, and looks at the order in which a packet
// meets them.
func TestHooks(t *testing.T) {
	chain := func(name string, typ state.ChainType, h state.Hook, p int32, s ...state.Statement) state.Chain {
		return state.Chain{Name: name, Type: typ, Hook: h, Priority: p, Rules: []state.ChainRule{rule(append(s, state.Count{Name: name})...)}}
	}
	isNew := state.CTState{States: state.CTNew}
	a := state.Table{Name: "a", Chains: []state.Chain{
		chain("untracked", state.ChainFilter, state.HookPrerouting, -300, state.CTState{States: state.CTInvalid}),
		chain("new", state.ChainFilter, state.HookPrerouting, -150, isNew, state.Cmp{Field: state.FieldTHDport, Value: state.PortValue(80)}),
		chain("late", state.ChainFilter, state.HookPrerouting, 0, state.Cmp{Field: state.FieldTHDport, Value: state.PortValue(81)}),
		chain("forward", state.ChainFilter, state.HookForward, 0, state.CTStatus{Status: state.CTDNAT}),
	}}
	ip4 := state.Cmp{Field: state.FieldNFProto, Value: state.NFProtoIPv4}
	b := state.Table{Name: "b", Chains: []state.Chain{
		chain("second", state.ChainNAT, state.HookPrerouting, -50),
		{Name: "first", Type: state.ChainNAT, Hook: state.HookPrerouting, Priority: -60, Rules: []state.ChainRule{
			rule(ip4, state.Cmp{Field: state.FieldTHDport, Value: state.PortValue(80)}, state.NAT{Family: state.IPv4, Addr: addr("10.244.1.5"), Port: 81}),
		}},
		chain("end", state.ChainFilter, state.HookPostrouting, 300, isNew),
	}}
	m := node(a, b)
	expect(t, m.Receive(nfsim.UDP("192.0.2.1:1", "198.51.100.1:80").From("eth0")), "left by weftp1 as udp 192.0.2.1:1 > 10.244.1.5:81")
	for name, want := range map[string]int{"a/untracked": 1, "a/new": 1, "a/late": 1, "a/forward": 1, "b/second": 0, "b/end": 1} {
		if table, counter, _ := strings.Cut(name, "/"); m.Count(table, counter) != want {
			t.Errorf("%s counted %d, want %d", name, m.Count(table, counter), want)
		}
	}
}

// TestDynamicMaps remembers a client, which an update does not change and time does.
func TestDynamicMaps(t *testing.T) {
	client := state.Fields(state.FieldIPSaddr)
	table := state.Table{Name: "t", Sets: []state.Set{
		{Name: "seen", Kind: state.KindMap, Key: []state.DataType{state.TypeIPv4}, Data: []state.DataType{state.TypeMark}, Dynamic: true, HasTimeout: true, Size: 2},
	}, Chains: []state.Chain{{Name: "c", Type: state.ChainFilter, Hook: state.HookPrerouting, Rules: []state.ChainRule{
		rule(state.Cmp{Field: state.FieldTHDport, Value: state.PortValue(9)}, state.Forget{Fields: client, Set: "seen", Data: state.Fields(state.FieldMark)}, state.Drop),
		rule(state.Remember{Fields: client, Set: "seen", Timeout: time.Minute, Data: state.Fields(state.FieldMark)}),
		rule(state.SetMark{Fields: client, Map: "seen"}),
	}}}}
	m := node(table)
	mark := func(src string, mark uint32, port string) uint32 {
		p := nfsim.UDP(src+":1", "10.200.0.11:"+port).From("eth0")
		p.Mark = mark
		return m.Receive(p).Packet.Mark
	}
	if got := mark("192.0.2.1", 7, "1"); got != 7 {
		t.Errorf("first mark is %d", got)
	}
	m.Advance(50 * time.Second)
	if got := mark("192.0.2.1", 8, "1"); got != 7 {
		t.Errorf("an update changed the data to %d", got)
	}
	m.Advance(50 * time.Second)
	if got := mark("192.0.2.1", 8, "1"); got != 7 {
		t.Errorf("an update did not prolong: %d", got)
	}
	m.Advance(2 * time.Minute)
	if got := mark("192.0.2.1", 8, "1"); got != 8 {
		t.Errorf("an expired element was found: %d", got)
	}
	mark("192.0.2.1", 0, "9")
	if got := mark("192.0.2.1", 9, "1"); got != 9 {
		t.Errorf("a forgotten element was found: %d", got)
	}
	mark("192.0.2.2", 1, "1")
	if got := mark("192.0.2.3", 3, "1"); got != 3 || len(m.Remembered("t", "seen")) != 2 {
		t.Errorf("a full map took another element: %d", got)
	}
}
