package mesh

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

var cidrTexts = rapid.OneOf(
	rapid.SampledFrom([]string{"", "x", "0.0.0.0/0", "::/0", "10.244.0.0/16", "192.0.2.0/24", "fe80::/10", "10.244.1.1/24", "::ffff:1.2.3.0/120"}),
	rapid.Custom(func(t *rapid.T) string {
		return fmt.Sprintf("10.244.%d.%d/%d", rapid.IntRange(0, 5).Draw(t, "a"), rapid.SampledFrom([]int{0, 64, 128}).Draw(t, "b"), rapid.IntRange(20, 28).Draw(t, "bits"))
	}),
	rapid.Custom(func(t *rapid.T) string {
		return fmt.Sprintf("fd00:10:244:%x::/%d", rapid.IntRange(0, 5).Draw(t, "a"), rapid.IntRange(60, 68).Draw(t, "bits"))
	}),
)

var addrTexts = rapid.OneOf(
	rapid.SampledFrom([]string{"", "y", "127.0.0.1", "::", "fe80::1", "10.244.1.1", "fd00:10:244:1::1", "224.0.0.1", "::ffff:1.2.3.4"}),
	rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("192.0.2.%d", rapid.IntRange(1, 5).Draw(t, "a")) }),
	rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("2001:db8::%x", rapid.IntRange(1, 5).Draw(t, "a")) }),
	rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("10.244.%d.1", rapid.IntRange(0, 5).Draw(t, "a")) }),
)

var randomNodes = rapid.Custom(func(t *rapid.T) snapshot.Node {
	i := rapid.IntRange(1, 8).Draw(t, "node")
	n := node(i)
	n.Created = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "age")) * time.Second)
	if rapid.Bool().Draw(t, "odd") {
		n.PodCIDRs = rapid.SliceOfN(cidrTexts, 0, 4).Draw(t, "podCIDRs")
		n.MeshIPs = rapid.SliceOfN(addrTexts, 0, 2).Draw(t, "meshIPs")
		n.NodeIPs = rapid.SliceOfN(addrTexts, 0, 3).Draw(t, "nodeIPs")
		n.Endpoints = rapid.SliceOfN(addrTexts, 0, 3).Draw(t, "endpoints")
		n.ListenPort = rapid.SampledFrom([]int32{51820, 0, -1, 65535, 70000}).Draw(t, "port")
		n.MTU = rapid.SampledFrom([]int32{0, 1280, 1340, 9000, -5}).Draw(t, "mtu")
		n.PublicKey = rapid.SampledFrom([]string{n.PublicKey, "", "zz", privateKey(1).Public().String(), privateKey(2).Public().String()}).Draw(t, "key")
	}
	return n
})

func randomInput(t *rapid.T) Input {
	nodes := rapid.SliceOfNDistinct(randomNodes, 0, 8, func(n snapshot.Node) string { return n.Name }).Draw(t, "nodes")
	in := input(nodes...)
	for _, n := range nodes {
		if key, err := state.ParsePublicKey(n.PublicKey); err == nil && rapid.Bool().Draw(t, "seen") {
			in.Facts.Peers[key] = state.PeerStats{PublicKey: key, LastHandshake: now.Add(-time.Duration(rapid.IntRange(0, 400).Draw(t, "age")) * time.Second),
				Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 9).Draw(t, "at"))}), 51820), TxBytes: 5}
		}
	}
	return in
}

func TestNoTwoPeersShareAnAllowedIP(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := randomInput(t)
		out := Plan(in)
		uplink := in.Facts.UplinkAddrs
		for _, d := range out.Devices {
			var all []netip.Prefix
			for _, p := range d.WG.Peers {
				if len(p.AllowedIPs) == 0 || p.PublicKey == out.Own.PublicKey || p.PublicKey.IsZero() {
					t.Fatalf("impossible peer %v", p)
				}
				all = append(all, p.AllowedIPs...)
			}
			all = append(all, out.Own.PodCIDRs...)
			for i, a := range all {
				if a != a.Masked() || a.Bits() == 0 {
					t.Fatalf("%v is not canonical", a)
				}
				for _, b := range all[i+1:] {
					if a.Overlaps(b) {
						t.Fatalf("%v overlaps %v", a, b)
					}
				}
				if slices.ContainsFunc(uplink, a.Contains) {
					t.Fatalf("%v takes this node's own address into the tunnel", a)
				}
			}
		}
	})
}

func TestEndpointsAndRoutesStayOutOfTheTunnel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out := Plan(randomInput(t))
		for _, d := range out.Devices {
			for _, p := range d.WG.Peers {
				for _, c := range out.ClusterCIDRs {
					if p.Endpoint.IsValid() && c.Contains(p.Endpoint.Addr()) {
						t.Fatalf("endpoint %v is in %v", p.Endpoint, c)
					}
				}
			}
		}
		seen := map[state.RouteKey]bool{}
		for _, r := range out.Routes {
			if seen[r.Key()] {
				t.Fatalf("two routes with one identity: %v", r)
			}
			seen[r.Key()] = true
			// The main table has no way to a node's address through the tunnel: WireGuard's own
			// datagrams go there.
			if r.Table == state.TableMain && !slices.ContainsFunc(out.ClusterCIDRs, r.Dst.Overlaps) {
				t.Fatalf("main table: %v", r)
			}
		}
	})
}

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := randomInput(t)
		want := render(Plan(in))
		other := in
		other.Snapshot.Nodes = slices.Clone(in.Snapshot.Nodes)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		rng.Shuffle(len(other.Snapshot.Nodes), func(i, j int) {
			other.Snapshot.Nodes[i], other.Snapshot.Nodes[j] = other.Snapshot.Nodes[j], other.Snapshot.Nodes[i]
		})
		if got := render(Plan(other)); got != want {
			t.Fatalf("in another order:\n%s\ninstead of:\n%s", got, want)
		}
	})
}

// A bad object is its own fault: the plan for the good nodes is as if it were not there.
func TestABadYoungerNodeHarmsNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bad := randomNodes.Draw(t, "bad")
		bad.Name, bad.Created = "zzz", now.Add(time.Hour)
		want := Plan(input(node(1), node(2), node(3)))
		got := Plan(input(node(1), node(2), node(3), bad))
		for _, p := range want.Devices[0].WG.Peers {
			i := slices.IndexFunc(got.Devices[0].WG.Peers, func(q state.Peer) bool { return q.PublicKey == p.PublicKey })
			if i < 0 || !got.Devices[0].WG.Peers[i].Equal(p) {
				t.Fatalf("peer %v became %v", p, got.Devices[0].WG.Peers)
			}
		}
		for _, r := range want.Routes {
			if !slices.ContainsFunc(got.Routes, r.Equal) {
				t.Fatalf("route %v is gone", r)
			}
		}
	})
}

// A node that has been there for longest writes whatever it likes into its status, as someone with its
// token can: the others keep each other, whoever's key it publishes.
func TestABadStatusOfAnOlderNodeHarmsNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		oldest := with(node(9), func(n *snapshot.Node) { n.Name, n.Created = "aaa", now.Add(-time.Hour) })
		before := input(node(1), node(2), node(3), oldest).Snapshot.SettleKeys(snapshot.Snapshot{})
		random := randomNodes.Draw(t, "status")
		bad := with(oldest, func(n *snapshot.Node) {
			n.PublicKey = rapid.SampledFrom([]string{random.PublicKey, node(1).PublicKey, node(2).PublicKey, node(3).PublicKey}).Draw(t, "key")
			n.Endpoints, n.ListenPort, n.MTU = random.Endpoints, random.ListenPort, random.MTU
		})
		in := input(node(1), node(2), node(3), bad)
		in.Snapshot = in.Snapshot.SettleKeys(before)
		want, got := Plan(input(node(1), node(2), node(3))), Plan(in)
		for _, p := range want.Devices[0].WG.Peers {
			i := slices.IndexFunc(got.Devices[0].WG.Peers, func(q state.Peer) bool { return q.PublicKey == p.PublicKey })
			if i < 0 || !got.Devices[0].WG.Peers[i].Equal(p) {
				t.Fatalf("peer %v became %v", p, got.Devices[0].WG.Peers)
			}
		}
		for _, r := range want.Routes {
			if !slices.ContainsFunc(got.Routes, r.Equal) {
				t.Fatalf("route %v is gone", r)
			}
		}
		stolen := slices.ContainsFunc([]int{1, 2, 3}, func(i int) bool { return bad.PublicKey == node(i).PublicKey })
		told := slices.ContainsFunc(got.Problems, func(p Problem) bool { return p.Name == "aaa" && p.Reason == ReasonDuplicateKey })
		if stolen != told {
			t.Fatalf("the key is stolen: %v; problems %v", stolen, got.Problems)
		}
	})
}

func TestPlanDoesNotChangeItsInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := randomInput(t)
		before := fmt.Sprintf("%+v", in.Snapshot)
		Plan(in)
		if after := fmt.Sprintf("%+v", in.Snapshot); after != before {
			t.Fatalf("changed from\n%s\nto\n%s", before, after)
		}
	})
}

func TestKeepNeverTakesAndNeverLoses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := Plan(randomInput(t)), Plan(randomInput(t))
		if len(have.Devices) == 0 || len(want.Devices) == 0 {
			return
		}
		kept := KeepDevice(have.Devices[0].WG, want.Devices[0].WG)
		holders := map[netip.Prefix]state.PublicKey{}
		for _, p := range kept.Peers {
			for _, ip := range p.AllowedIPs {
				if _, twice := holders[ip]; twice {
					t.Fatalf("%v is held twice", ip)
				}
				holders[ip] = p.PublicKey
			}
		}
		for _, p := range want.Devices[0].WG.Peers {
			if !slices.ContainsFunc(kept.Peers, p.Equal) {
				t.Fatalf("wanted peer %v is missing", p)
			}
		}
		for _, p := range have.Devices[0].WG.Peers {
			if !slices.ContainsFunc(kept.Peers, func(q state.Peer) bool { return q.PublicKey == p.PublicKey }) {
				t.Fatalf("peer %v was deleted", p)
			}
		}
		routes := KeepRoutes(have.Routes, want.Routes, []string{"weft0"})
		for _, r := range have.Routes {
			if !slices.ContainsFunc(routes, func(q state.Route) bool { return q.Key() == r.Key() }) {
				t.Fatalf("route %v was deleted", r)
			}
		}
		if again := KeepRoutes(routes, want.Routes, []string{"weft0"}); !slices.EqualFunc(again, routes, state.Route.Equal) {
			t.Fatal("keeping twice is not keeping once")
		}
	})
}

func FuzzPlanDoesNotPanic(f *testing.F) {
	f.Add("10.244.2.0/24,fd00::/64", "10.244.2.1", "192.0.2.2", "key", "192.0.2.2", int32(51820), int32(1440))
	f.Fuzz(func(_ *testing.T, cidrs, mesh, ips, key, endpoints string, port, mtu int32) {
		list := func(s string) []string { return strings.Split(s, ",") }
		Plan(input(node(1), snapshot.Node{Name: "node2", PodCIDRs: list(cidrs), MeshIPs: list(mesh), NodeIPs: list(ips),
			PublicKey: key, Endpoints: list(endpoints), ListenPort: port, MTU: mtu}))
	})
}

func BenchmarkPlan500(b *testing.B) {
	in := Input{Snapshot: snapshot.Snapshot{Self: "node1"}, Keys: []Key{{Epoch: 1, Private: privateKey(1)}}, Now: now}
	in.Facts = input().Facts
	in.Snapshot.Pools = input().Snapshot.Pools
	for i := 1; i <= 500; i++ {
		n := node(i % 250)
		n.Name = fmt.Sprintf("node%d", i)
		n.PodCIDRs = []string{fmt.Sprintf("10.%d.%d.0/24", 100+i/250, i%250), fmt.Sprintf("fd00:10:244:%x::/64", i)}
		n.MeshIPs = []string{fmt.Sprintf("10.%d.%d.1", 100+i/250, i%250), fmt.Sprintf("fd00:10:244:%x::1", i)}
		n.NodeIPs = []string{fmt.Sprintf("198.18.%d.%d", i/250, i%250+1)}
		n.Endpoints = n.NodeIPs
		n.PublicKey = privateKey(i).Public().String()
		in.Snapshot.Nodes = append(in.Snapshot.Nodes, n)
	}
	in.Facts.Peers = map[state.PublicKey]state.PeerStats{}
	b.ReportAllocs()
	for b.Loop() {
		if out := Plan(in); len(out.Devices[0].WG.Peers) < 490 {
			b.Fatal(len(out.Devices[0].WG.Peers), out.Problems[:3])
		}
	}
}
