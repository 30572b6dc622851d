package mesh

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func privateKey(i int) state.PrivateKey {
	return state.NewPrivateKey([state.KeySize]byte{8, byte(i), byte(i >> 8), 1})
}

// node i has the blocks 10.244.i.0/24 and fd00:10:244:i::/64 and the addresses 192.0.2.i and
// 2001:db8::i.
func node(i int) snapshot.Node {
	return snapshot.Node{
		Name: fmt.Sprintf("node%d", i), Created: now.Add(time.Duration(i) * time.Minute),
		PodCIDRs:  []string{fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd00:10:244:%x::/64", i)},
		MeshIPs:   []string{fmt.Sprintf("10.244.%d.1", i), fmt.Sprintf("fd00:10:244:%x::1", i)},
		NodeIPs:   []string{fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("2001:db8::%x", i)},
		PublicKey: privateKey(i).Public().String(), KeyEpoch: 1,
		Endpoints: []string{fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("2001:db8::%x", i)}, ListenPort: 51820, MTU: 1440,
	}
}

func input(nodes ...snapshot.Node) Input {
	return Input{
		Snapshot: snapshot.Snapshot{
			Self: "node1", Nodes: nodes,
			Pools:  []snapshot.Pool{{Name: "default", CIDRs: []string{"10.244.0.0/16", "fd00:10:244::/48"}}},
			Config: snapshot.Config{ListenPort: 51820, Keepalive: 25 * time.Second},
		}.Sorted(),
		Keys: []Key{{Epoch: 1, Private: privateKey(1)}},
		Facts: facts.Facts{
			Uplinks: []string{"eth0"}, UplinkMTU: 1500, IPv6: true, Backend: state.LinkTUN,
			UplinkAddrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
			Endpoints:   []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
			Peers:       map[state.PublicKey]state.PeerStats{},
		},
		Now: now,
	}
}

func with(n snapshot.Node, change func(*snapshot.Node)) snapshot.Node {
	change(&n)
	return n
}

// render prints a plan as a network engineer reads it.
func render(o Output) string {
	var b strings.Builder
	section := func(name string, lines ...string) {
		fmt.Fprintf(&b, "# %s\n", name)
		for _, l := range lines {
			b.WriteString(l + "\n")
		}
	}
	if o.Waiting != "" {
		section("waiting: " + o.Waiting)
	}
	for _, d := range o.Devices {
		section("ip address show dev "+d.Link.Name, d.Link.String())
		section("wg show "+d.WG.Name, strings.TrimSuffix(d.WG.String(), "\n"))
	}
	section("ip route show proto 87", texts(o.Routes)...)
	section("ip rule", texts(o.Rules)...)
	section("sysctl", append(texts(o.Sysctls), texts(o.DeviceSysctls)...)...)
	section("cluster", fmt.Sprintf("%v", o.ClusterCIDRs))
	var peers []string
	for _, p := range o.Peers {
		peers = append(peers, strings.TrimSpace(fmt.Sprintf("%s %v %s", p.Node, p.Published, p.Refused)))
	}
	section("peers", peers...)
	section("problems", texts(o.Problems)...)
	return b.String()
}

func texts[T fmt.Stringer](list []T) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

// TestWaitingNamesWhomItWaitsFor : the kubelet shows the reason as that of a node that is not ready, and it must send
// the reader to the right place.
func TestWaitingNamesWhomItWaitsFor(t *testing.T) {
	away := input(node(2), node(3))
	away.Snapshot.Partial = true
	unallocated := input(node(1), node(2))
	unallocated.Snapshot.Nodes[0].PodCIDRs = nil
	poolless := input(node(1), node(2))
	poolless.Snapshot.Partial, poolless.Snapshot.Pools = true, nil
	for want, in := range map[string]Input{
		"the API server has not answered in full":   away,
		"the operator has not made the MeshNode":    input(node(2), node(3)),
		"the operator has not allocated a Pod CIDR": unallocated,
		"not told of the IPPools yet":               poolless,
		"the node has no key":                       func() Input { in := input(node(1)); in.Keys = nil; return in }(),
		"no WireGuard backend has been found yet":   func() Input { in := input(node(1)); in.Facts.Backend = ""; return in }(),
	} {
		if got := Plan(in).Waiting; !strings.Contains(got, want) {
			t.Errorf("waiting for %q, want %q", got, want)
		}
	}
}

func TestPlanGolden(t *testing.T) {
	rows := map[string]func() Input{
		"three-nodes": func() Input { return input(node(1), node(2), node(3)) },
		"alone":       func() Input { return input(node(1)) },
		"no-allocation": func() Input {
			return input(with(node(1), func(n *snapshot.Node) { n.PodCIDRs, n.MeshIPs, n.NodeIPs = nil, nil, nil }), node(2))
		},
		"not-in-the-cluster-yet": func() Input { return input(node(2)) },
		"joining-peers": func() Input {
			return input(node(1), with(node(2), func(n *snapshot.Node) { n.PublicKey, n.Endpoints, n.ListenPort = "", nil, 0 }),
				with(node(3), func(n *snapshot.Node) { n.PodCIDRs, n.MeshIPs, n.NodeIPs = nil, nil, nil }))
		},
		"garbage": func() Input {
			return input(node(1), node(2), with(node(3), func(n *snapshot.Node) {
				n.PodCIDRs = []string{"10.244.3.7/24", "tea", "0.0.0.0/0", "::ffff:10.244.3.0/120", "10.244.3.0/24", "fe80::/64", "224.0.0.0/8"}
				n.MeshIPs = []string{"10.244.3.1", "10.244.2.1", "coffee"}
				n.NodeIPs = []string{"192.0.2.3", "127.0.0.1", "10.244.9.9", "192.0.2.1", "192.0.2.2", "fe80::3%eth0", "255.255.255.255"}
				n.Endpoints = []string{"192.0.2.3", "milk", "10.244.2.9", "::1"}
			}), with(node(4), func(n *snapshot.Node) { n.PublicKey = "c3Vnci4=" }),
				with(node(5), func(n *snapshot.Node) { n.ListenPort = 70000 }),
				with(node(6), func(n *snapshot.Node) { n.PublicKey = strings.Repeat("A", 43) + "=" }))
		},
		"overlaps": func() Input {
			return input(node(1), node(2),
				with(node(3), func(n *snapshot.Node) {
					n.PodCIDRs = []string{"10.244.2.0/25", "10.244.1.0/24", "10.244.3.0/24", "10.244.3.128/25", "192.0.0.0/16"}
				}),
				with(node(4), func(n *snapshot.Node) { n.PodCIDRs = []string{"10.244.0.0/16", "fd00:10:244:2::/64"} }))
		},
		"stolen-keys": func() Input {
			return input(node(1), node(2),
				with(node(3), func(n *snapshot.Node) { n.PublicKey = privateKey(2).Public().String() }),
				with(node(4), func(n *snapshot.Node) { n.PublicKey = privateKey(1).Public().String() }))
		},
		"two-keys": func() Input {
			in := input(node(1), node(2))
			in.Keys = append(in.Keys, Key{Epoch: 2, Private: privateKey(77)})
			return in
		},
		"ipv4-only": func() Input {
			in := input(with(node(1), only4), with(node(2), only4))
			in.Snapshot.Pools[0].CIDRs = in.Snapshot.Pools[0].CIDRs[:1]
			in.Facts.IPv6 = false
			in.Facts.UplinkAddrs, in.Facts.Endpoints = in.Facts.UplinkAddrs[:1], in.Facts.Endpoints[:1]
			in.Facts.KeepRA = []string{"eth0"}
			return in
		},
		"ipv6-underlay": func() Input {
			in := input(node(1), node(2))
			in.Facts.UplinkAddrs, in.Facts.Endpoints = in.Facts.UplinkAddrs[1:], in.Facts.Endpoints[1:]
			in.Facts.KeepRA = []string{"eth0"}
			return in
		},
		"small-peer": func() Input {
			return input(node(1), with(node(2), func(n *snapshot.Node) { n.MTU = 1340 }), with(node(3), func(n *snapshot.Node) { n.MTU = 9000 }))
		},
		"pool-gone": func() Input {
			in := input(node(1), with(node(2), func(n *snapshot.Node) { n.PodCIDRs = []string{"10.99.2.0/24"}; n.MeshIPs = []string{"10.99.2.1"} }))
			in.Snapshot.Pools = append(in.Snapshot.Pools, snapshot.Pool{Name: "bad", CIDRs: []string{"10.99.0.1/16"}})
			return in
		},
	}
	for name, in := range rows {
		t.Run(name, func(t *testing.T) { golden(t, name, render(Plan(in()))) })
	}
}

func only4(n *snapshot.Node) {
	n.PodCIDRs, n.MeshIPs, n.NodeIPs, n.Endpoints = n.PodCIDRs[:1], n.MeshIPs[:1], n.NodeIPs[:1], n.Endpoints[:1]
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update and read the change\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// seen is a peer as the kernel knows it.
func seen(in *Input, i int, endpoint string, age time.Duration, tx uint64) {
	key := privateKey(i).Public()
	s := state.PeerStats{PublicKey: key, TxBytes: tx}
	if endpoint != "" {
		s.Endpoint = netip.MustParseAddrPort(endpoint)
	}
	if age >= 0 {
		s.LastHandshake = now.Add(-age)
	}
	in.Facts.Peers[key] = s
}

const never = -1

// silent has peer i leave everything unanswered for so long.
func silent(in *Input, i int, since time.Duration) {
	in.Facts.Liveness = map[state.PublicKey]facts.Liveness{privateKey(i).Public(): {Since: now.Add(-since), Unanswered: since}}
}

func TestEndpoint(t *testing.T) {
	const a4, a6, nat, old = "192.0.2.2:51820", "[2001:db8::2]:51820", "203.0.113.7:31000", "192.0.2.99:51820"
	chosen := func(e string, ago time.Duration, tx uint64) Path {
		return Path{Chosen: netip.MustParseAddrPort(e), Since: now.Add(-ago), TxBytes: tx}
	}
	rows := []struct {
		name      string
		setup     func(in *Input)
		path      Path
		want      string // empty: leave it as it is
		keepalive time.Duration
	}{
		{"unknown to the kernel: the first, IPv4", nil, Path{}, a4, 0},
		{"already there, no handshake yet", func(in *Input) { seen(in, 2, a4, never, 0) }, chosen(a4, time.Second, 0), "", 0},
		{"alive", func(in *Input) { seen(in, 2, a4, time.Minute, 9) }, chosen(a4, time.Hour, 0), "", 0},
		{"alive over the other family", func(in *Input) { seen(in, 2, a6, time.Minute, 9) }, chosen(a4, time.Hour, 0), "", 0},
		{"roamed behind a NAT and alive", func(in *Input) { seen(in, 2, nat, time.Minute, 9) }, chosen(a4, time.Hour, 0), "", 25 * time.Second},
		{"roamed and silent: where it says it is", func(in *Input) { seen(in, 2, nat, 5*time.Minute, 9) }, chosen(a4, time.Hour, 0), a4, 0},
		{"moved: our old choice is no longer published", func(in *Input) { seen(in, 2, old, time.Minute, 9) }, chosen(old, time.Hour, 0), a4, 0},
		{"no answer: the other family", func(in *Input) { seen(in, 2, a4, never, 900) }, chosen(a4, 20*time.Second, 100), a6, 0},
		{"no answer there either: back again", func(in *Input) { seen(in, 2, a6, never, 900) }, chosen(a6, 20*time.Second, 100), a4, 0},
		{"not tried for long", func(in *Input) { seen(in, 2, a4, never, 900) }, chosen(a4, 10*time.Second, 100), "", 0},
		{"idle is not dead", func(in *Input) { seen(in, 2, a4, time.Hour, 100) }, chosen(a4, 2*time.Hour, 100), "", 0},
		{"dead after having lived: the other family", func(in *Input) { seen(in, 2, a4, 4*time.Minute, 900) }, chosen(a4, time.Hour, 100), a6, 0},
		{"no answer of late: the other family", func(in *Input) { seen(in, 2, a4, time.Minute, 900); silent(in, 2, 20*time.Second) }, chosen(a4, time.Hour, 100), a6, 0},
		{"an answer is still awaited", func(in *Input) { seen(in, 2, a4, time.Minute, 900); silent(in, 2, 19*time.Second) }, chosen(a4, time.Hour, 100), "", 0},
		{"no answer of late through a NAT: no other way is known", func(in *Input) {
			seen(in, 2, nat, time.Minute, 900)
			silent(in, 2, time.Minute)
		}, chosen(a4, time.Hour, 100), "", 25 * time.Second},
		{"this node is behind a NAT, as the peer says", func(in *Input) {
			seen(in, 2, a4, time.Minute, 9)
			in.Snapshot.Nodes[1].NATPeers = []string{"node1", "other"}
		}, chosen(a4, time.Hour, 0), "", 25 * time.Second},
		{"that too is switched off", func(in *Input) {
			in.Snapshot.Config.Keepalive = 0
			seen(in, 2, a4, time.Minute, 9)
			in.Snapshot.Nodes[1].NATPeers = []string{"node1"}
		}, chosen(a4, time.Hour, 0), "", 0},
		{"another is behind a NAT", func(in *Input) {
			seen(in, 2, a4, time.Minute, 9)
			in.Snapshot.Nodes[1].NATPeers = []string{"node3"}
		}, chosen(a4, time.Hour, 0), "", 0},
		{"no way by IPv4 from here", func(in *Input) { in.Facts.UplinkAddrs = in.Facts.UplinkAddrs[1:] }, Path{}, a6, 0},
		{"publishes nothing", func(in *Input) { in.Snapshot.Nodes[1].Endpoints = nil }, Path{}, "", 0},
		{"publishes nothing and is heard", func(in *Input) { in.Snapshot.Nodes[1].Endpoints = nil; seen(in, 2, nat, time.Second, 0) }, Path{}, "", 25 * time.Second},
		{"the kernel lost it", func(in *Input) { seen(in, 2, "", never, 0) }, chosen(a4, time.Hour, 0), a4, 0},
		{"keepalive switched off", func(in *Input) {
			in.Snapshot.Config.Keepalive = 0
			seen(in, 2, nat, time.Minute, 9)
		}, chosen(a4, time.Hour, 0), "", 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			in := input(node(1), node(2))
			key := privateKey(2).Public()
			if row.path.Chosen.IsValid() {
				in.Paths = map[state.PublicKey]Path{key: row.path}
			}
			if row.setup != nil {
				row.setup(&in)
			}
			peer := Plan(in).Devices[0].WG.Peers[0]
			want := netip.AddrPort{}
			if row.want != "" {
				want = netip.MustParseAddrPort(row.want)
			}
			if peer.Endpoint != want || peer.Keepalive != row.keepalive {
				t.Errorf("endpoint %v and keepalive %v, want %v and %v", peer.Endpoint, peer.Keepalive, want, row.keepalive)
			}
		})
	}
}

// A choice once made is not made again while the kernel holds it, and after a change of address
// the next plan follows.
func TestEndpointOverTime(t *testing.T) {
	in := input(node(1), node(2))
	first := Plan(in)
	key := privateKey(2).Public()
	in.Paths = first.Paths
	seen(&in, 2, "192.0.2.2:51820", time.Second, 10)
	second := Plan(in)
	if e := second.Devices[0].WG.Peers[0].Endpoint; e.IsValid() {
		t.Fatalf("asked again for %v", e)
	}
	in.Paths = second.Paths
	in.Snapshot.Nodes[1].Endpoints = []string{"192.0.2.200"}
	third := Plan(in)
	if e := third.Devices[0].WG.Peers[0].Endpoint; e != netip.MustParseAddrPort("192.0.2.200:51820") {
		t.Fatalf("the peer moved and the endpoint is %v (path %+v)", e, second.Paths[key])
	}
}

// TestAPoolOverTheUnderlayCutsNobodyOff: the fail-closed table drops what it takes for Pods' addresses.
func TestAPoolOverTheUnderlayCutsNobodyOff(t *testing.T) {
	in := input(node(1), node(2))
	in.Snapshot.Pools = append(in.Snapshot.Pools, snapshot.Pool{Name: "typo", CIDRs: []string{"192.0.0.0/8", "2001:db8::/32", "10.1.0.0/16"}})
	out := Plan(in)
	for _, p := range append(slices.Clone(out.ClusterCIDRs), out.Pools...) {
		if slices.ContainsFunc(in.Facts.UplinkAddrs, p.Contains) {
			t.Errorf("%s is kept off the underlay, with this node's own address", p)
		}
	}
	if !slices.Contains(out.Pools, netip.MustParsePrefix("10.1.0.0/16")) {
		t.Errorf("the pool's good range is not used: %v", out.Pools)
	}
	faults := 0
	for _, p := range out.Problems {
		if p.Kind == KindIPPool && p.Name == "typo" && p.Reason == ReasonOverlap {
			faults++
		}
	}
	if faults != 2 || len(out.Devices[0].WG.Peers) != 1 || len(out.Peers[0].Published) != 2 {
		t.Errorf("problems %v, peers %v", out.Problems, out.Peers)
	}
}

func TestMTU(t *testing.T) {
	rows := []struct {
		name    string
		setup   func(in *Input)
		want    int
		problem string
	}{
		{"IPv4 endpoints", func(*Input) {}, 1440, ""},
		{"an IPv6 endpoint in use", func(in *Input) { seen(in, 2, "[2001:db8::2]:51820", time.Second, 0) }, 1420, ""},
		{"a dead peer that is tried over IPv6", func(in *Input) { seen(in, 2, "[2001:db8::2]:51820", time.Hour, 0) }, 1440, ""},
		{"a peer with IPv6 only", func(in *Input) { in.Snapshot.Nodes[1].Endpoints = []string{"2001:db8::2"} }, 1420, ""},
		{"jumbo frames", func(in *Input) { in.Facts.UplinkMTU = 9001 }, 8941, ""},
		{"no uplink known", func(in *Input) { in.Facts.UplinkMTU = 0 }, 1440, ""},
		{"tiny uplink", func(in *Input) { in.Facts.UplinkMTU = 1300 }, 1280, "leaves 1240 to the tunnel"},
		{"the user's choice", func(in *Input) { in.Snapshot.Config.MTU = 1380 }, 1380, ""},
		{"the user's choice is too large", func(in *Input) { in.Snapshot.Config.MTU = 1441 }, 1440, "does not fit"},
		{"the user's choice is too small", func(in *Input) { in.Snapshot.Config.MTU = 1279 }, 1440, "less than the 1280"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			in := input(node(1), node(2))
			row.setup(&in)
			out := Plan(in)
			if out.Own.MTU != row.want || out.Devices[0].Link.MTU != row.want {
				t.Errorf("MTU %d, on the link %d, want %d", out.Own.MTU, out.Devices[0].Link.MTU, row.want)
			}
			if got := strings.Join(texts(out.Problems), "\n"); (row.problem == "") != (got == "") || !strings.Contains(got, row.problem) {
				t.Errorf("problems %q, want %q", got, row.problem)
			}
		})
	}
}

func TestListenPort(t *testing.T) {
	for _, row := range []struct {
		port        int32
		first, next uint16
	}{{51820, 51820, 51821}, {65535, 65535, 65534}, {0, 51820, 51821}, {70000, 51820, 51821}} {
		in := input(node(1))
		in.Snapshot.Config.ListenPort = row.port
		in.Keys = append(in.Keys, Key{Epoch: 2, Private: privateKey(9)})
		out := Plan(in)
		if a, b := out.Devices[0].WG.ListenPort, out.Devices[1].WG.ListenPort; a != row.first || b != row.next || out.Own.ListenPort != row.next {
			t.Errorf("port %d gives %d and %d, published %d", row.port, a, b, out.Own.ListenPort)
		}
	}
}

func TestProbesAndConnected(t *testing.T) {
	in := input(node(1), node(2), node(3), node(4), with(node(5), func(n *snapshot.Node) { n.PublicKey = "x" }))
	seen(&in, 2, "192.0.2.2:51820", 119*time.Second, 0)
	seen(&in, 3, "192.0.2.3:51820", 121*time.Second, 0)
	got := Probes(Plan(in).Peers, in.Facts, now)
	if want := []netip.Addr{netip.MustParseAddr("10.244.3.1"), netip.MustParseAddr("10.244.4.1")}; !slices.Equal(got, want) {
		t.Errorf("probes to %v, want %v", got, want)
	}
	silent(&in, 2, 3*time.Second)
	if got := Probes(Plan(in).Peers, in.Facts, now); len(got) != 2 {
		t.Errorf("probes to %v while an answer may be on its way", got)
	}
	silent(&in, 2, 4*time.Second)
	if got := Probes(Plan(in).Peers, in.Facts, now); len(got) != 3 {
		t.Errorf("probes to %v though one of the peers does not answer", got)
	}
	silent(&in, 2, 20*time.Second)
	if Connected(in.Facts, privateKey(2).Public(), now) {
		t.Error("a peer that has left everything unanswered for 20 s is connected")
	}
	in.Facts.Liveness = nil
	for age, want := range map[time.Duration]bool{never: false, 0: true, 209 * time.Second: true, 211 * time.Second: false} {
		seen(&in, 2, "", age, 0)
		if Connected(in.Facts, privateKey(2).Public(), now) != want {
			t.Errorf("handshake %v ago: connected is %v", age, !want)
		}
	}
}
