//go:build linux

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

func TestMeshComesUpInOrder(t *testing.T) {
	b := withDevice(t, nil)
	b.until("the first pass", func() bool { return !b.loop.LastTurn().IsZero() })
	if err := b.loop.Ready(); err == nil || !strings.Contains(err.Error(), "does not know this node yet") {
		t.Errorf("before anything is known: %v", err)
	}
	b.source.set(cluster(1, 1, 2, 3))
	b.until("readiness", b.ready)
	if got := b.journal.order(); !strings.HasPrefix(got, "nft sysctl") || strings.Index(got, "route") < strings.Index(got, "nft") {
		t.Errorf("order: %s", got)
	}
	if n := len(b.peers()); n != 2 {
		t.Errorf("%d peers", n)
	}
	network := b.loop.Network()
	if network.MTU != 1440 || len(network.PodCIDRs) != 2 || len(network.MeshIPs) != 2 || len(network.Pools) != 2 {
		t.Errorf("network %+v", network)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.probed) < 2 || b.request["weft0"] {
		t.Errorf("probed %v, requested %v", b.probed, b.request)
	}
}

// TestABackendThatIsNotThere : whoever asks for the kernel's WireGuard where there is none is told so, and the mesh stands.
func TestABackendThatIsNotThere(t *testing.T) {
	b := start(t, link.No, nil)
	b.wg.AddDevice("weft0")
	b.links.Put(state.Link{Name: "weft0", Kind: state.LinkTUN, MTU: 1420})
	b.source.set(cluster(1, 1, 2))
	b.until("readiness", b.ready)
	told := func() []mesh.Problem {
		r, _ := b.loop.Report()
		return slices.DeleteFunc(slices.Clone(r.Plan.Problems), func(p mesh.Problem) bool { return p.Reason != mesh.ReasonBackend })
	}
	for _, wish := range []string{backendKernel, backendUserspace, backendKernel, ""} {
		snap := cluster(1, 1, 2)
		snap.Config.Backend = wish
		b.source.set(snap)
		want := 0
		if wish == backendKernel {
			want = 1
		}
		b.until("the problem of "+wish, func() bool { return len(told()) == want })
		links, err := b.links.Observe(t.Context())
		if err != nil || len(links) != 1 || links[0].Kind != state.LinkTUN || len(b.peers()) != 1 || b.loop.Ready() != nil {
			t.Errorf("%q: links %v, %v, readiness %v", wish, links, err, b.loop.Ready())
		}
		b.mu.Lock()
		if !b.request["weft0"] {
			t.Errorf("%q: the device was taken back", wish)
		}
		b.mu.Unlock()
	}
}

func TestALostAddressIsTold(t *testing.T) {
	told := 0
	l := New(Config{OnAddressGone: func() { told++ }})
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for i, step := range []struct {
		now  []netip.Addr
		told int
	}{{nil, 0}, {[]netip.Addr{a}, 0}, {[]netip.Addr{a, b}, 0}, {[]netip.Addr{a, b}, 0}, {[]netip.Addr{b}, 1}, {nil, 2}, {[]netip.Addr{a}, 2}} {
		if l.noteAddresses(step.now); told != step.told {
			t.Errorf("step %d: told %d times, want %d", i, told, step.told)
		}
	}
}

func TestNoInterfaceWithoutTheTable(t *testing.T) {
	b := withDevice(t, nil)
	b.journal.failing("nft", errors.New("refused"))
	b.source.set(cluster(1, 1, 2))
	b.until("the failure", func() bool { return b.loop.Ready() != nil && strings.Contains(b.loop.Ready().Error(), "refused") })
	links, err := b.links.Observe(t.Context())
	if err != nil || len(links) != 0 || strings.Contains(b.journal.order(), "route") {
		t.Errorf("links %v (%v), order %s", links, err, b.journal.order())
	}
	if probed := b.hasProbed(); len(probed) > 0 {
		t.Errorf("sent to %v, in the clear", probed)
	}
	b.journal.failing("nft", nil)
	b.until("readiness", b.ready)
}

// TestNothingBeforeThePools : a node that joins may hear of the other nodes first, and of the pools, of which the fail-closed
// table is made, later.
func TestNothingBeforeThePools(t *testing.T) {
	b := withDevice(t, nil)
	early := cluster(1, 1, 2)
	early.Pools, early.Partial = nil, true
	b.source.set(early)
	b.until("the reason", func() bool { err := b.loop.Ready(); return err != nil && strings.Contains(err.Error(), "IPPools") })
	if err := b.loop.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	links, err := b.links.Observe(t.Context())
	if order := b.journal.order(); err != nil || len(links) != 0 || order != "" {
		t.Errorf("links %v (%v), order %s", links, err, order)
	}
	if probed := b.hasProbed(); len(probed) > 0 || b.loop.FailClosed() {
		t.Errorf("sent to %v, in the clear; fail-closed: %v", probed, b.loop.FailClosed())
	}
	b.source.set(cluster(1, 1, 2))
	b.until("readiness", b.ready)
	b.until("probes", func() bool { return len(b.hasProbed()) > 0 && b.loop.FailClosed() })
}

func TestUserspaceDeviceIsAskedForAndWaitedFor(t *testing.T) {
	b := start(t, link.No, nil)
	b.source.set(cluster(1, 1, 2))
	b.until("waiting", func() bool {
		err := b.loop.Ready()
		return err != nil && strings.Contains(err.Error(), "waiting for the wireguard process to make [weft0]")
	})
	b.mu.Lock()
	if !b.request["weft0"] {
		t.Error("the device was not asked for")
	}
	b.mu.Unlock()
	b.wg.AddDevice("weft0")
	b.links.Put(state.Link{Name: "weft0", Kind: state.LinkTUN, MTU: 1420})
	b.wake(KindLinks)
	b.until("readiness", b.ready)
	links, err := b.links.Observe(t.Context())
	if err != nil || len(links) != 1 || links[0].MTU != 1440 || !links[0].Up || len(links[0].Addresses) != 2 {
		t.Errorf("links %v, %v", links, err)
	}
}

func TestDriftIsRepairedAndCounted(t *testing.T) {
	b := withDevice(t, nil)
	b.source.set(cluster(1, 1, 2, 3))
	b.until("readiness", b.ready)

	have, err := b.routes.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.routes.Remove(have.Routes, have.Rules)
	b.wake(KindRoutes)
	b.until("the routes", func() bool { return b.routeTo("10.244.2.0/24") && b.routeTo("fd00:10:244:3::/64") })
	b.links.Remove("weft0")
	b.wake(KindLinks)
	b.until("the link", func() bool { l, _ := b.links.Observe(t.Context()); return len(l) == 1 })

	// Nobody tells of a peer that is gone, so the loop has to look.
	device, err := b.wg.Observe(t.Context(), "weft0")
	if err != nil {
		t.Fatal(err)
	}
	spoiled := device
	spoiled.Peers = append(slices.Clone(device.Peers[:1]), state.Peer{PublicKey: privateKey(99).Public()})
	if err := b.wg.Apply(t.Context(), wg.Diff(device, spoiled)); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	b.until("the peers", func() bool {
		return len(b.peers()) == 2 && !slices.ContainsFunc(b.peers(), func(p state.Peer) bool { return p.PublicKey == privateKey(99).Public() })
	})
	if took := time.Since(at); took > time.Second {
		t.Errorf("it took %v", took)
	}
	for _, s := range []string{stageRoute, stageLink, stagePeers} {
		if b.counts.drifts(s) == 0 {
			t.Errorf("drift of %s was not counted", s)
		}
	}
}

func TestAChangeOfMindIsNoDrift(t *testing.T) {
	b := withDevice(t, nil)
	b.source.set(cluster(1, 1, 2))
	b.until("readiness", b.ready)
	b.source.set(cluster(1, 1, 2, 3))
	b.until("the new peer", func() bool { return len(b.peers()) == 2 })
	moved := cluster(1, 1, 2, 3)
	moved.Nodes[1].Endpoints = []string{"192.0.2.200"}
	b.source.set(moved)
	b.until("the new endpoint", func() bool {
		return slices.ContainsFunc(b.peers(), func(p state.Peer) bool { return p.Endpoint == netip.MustParseAddrPort("192.0.2.200:51820") })
	})
	for _, s := range Stages() {
		if n := b.counts.drifts(s); n != 0 {
			t.Errorf("%d drifts of %s", n, s)
		}
	}
}

func TestDeletingAPeerNeedsProof(t *testing.T) {
	b := withDevice(t, nil)
	b.source.set(cluster(1, 1, 2, 3))
	b.until("readiness", b.ready)
	partial := cluster(1, 1, 2, 4)
	partial.Partial = true
	b.source.set(partial)
	b.until("the added peer", func() bool { return len(b.peers()) == 3 })
	if err := b.loop.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{2, 3, 4} {
		if dst := fmt.Sprintf("10.244.%d.0/24", i); !b.routeTo(dst) {
			t.Errorf("the route to %v is gone", dst)
		}
	}
	if have, _ := b.routes.Observe(t.Context()); len(have.Rules) != 4 {
		t.Errorf("rules %v", have.Rules)
	}
	b.source.set(cluster(1, 1, 2, 4))
	b.until("the proof", func() bool { return len(b.peers()) == 2 })
}

func TestSyncCoversWhatPodsSaid(t *testing.T) {
	pods := &fakePods{changed: make(chan struct{}, 1)}
	b := withDevice(t, func(c *Config) { c.Pods = pods })
	b.source.set(cluster(1, 1, 2))
	b.until("readiness", b.ready)
	for i := range 20 {
		pods.add(i)
		if err := b.loop.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		table, _ := b.table.Table()
		if port := fmt.Sprintf("tcp . %d : 10.244.1.%d", 8000+i, i+2); !strings.Contains(table.String(), port) {
			t.Fatalf("host port %s is not in force:\n%s", port, table)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.loop.Sync(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A Pod with a host port must be able to go while the mesh is broken.
func TestSyncDoesNotWaitForTheMesh(t *testing.T) {
	pods := &fakePods{changed: make(chan struct{}, 1)}
	b := withDevice(t, func(c *Config) { c.Pods = pods })
	b.source.set(cluster(1, 1, 2))
	b.until("readiness", b.ready)
	b.journal.failing("route", errors.New("no such device"))
	b.routes.Remove([]state.Route{{Dst: netip.MustParsePrefix("10.244.2.0/24"), Dev: "weft0"}}, nil)
	b.wake(KindRoutes)
	b.until("the failure", func() bool { return b.loop.Ready() != nil })
	pods.add(0)
	if err := b.loop.Sync(t.Context()); err != nil {
		t.Errorf("a failure of the routes is told to Pods: %v", err)
	}
	b.journal.failing("nft", errors.New("refused"))
	pods.add(1)
	if err := b.loop.Sync(t.Context()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("host ports are not in force, and Sync says %v", err)
	}
}

// A Pod's route is kept when it is there, put back when it is taken away, and not written before
// the Pod's link exists.
func TestRoutesOfPods(t *testing.T) {
	pods := &fakePods{changed: make(chan struct{}, 1)}
	pods.add(0)
	b := withDevice(t, func(c *Config) { c.Pods = pods })
	b.source.set(cluster(1, 1, 2))
	b.until("readiness", b.ready)
	const dst = "10.244.1.2/32"
	if !b.routeTo(dst) {
		t.Fatal("the route of a Pod that was there at the start is missing")
	}
	b.routes.Remove([]state.Route{{Dst: netip.MustParsePrefix(dst), Dev: "weftp1"}}, nil)
	b.wake(KindRoutes)
	b.until("the route", func() bool { return b.routeTo(dst) })
	pods.add(1) // its link is weftp2, which is not there yet
	before := b.loop.LastTurn()
	b.wake(KindRoutes | KindLinks)
	b.until("another pass", func() bool { return b.loop.LastTurn().After(before) })
	if b.routeTo("10.244.1.3/32") {
		t.Error("a route was written to a link that is not there")
	}
}

// A Pod's host end that is down is its own trouble: the node stays ready, other Pods get what they
// need, and the link comes up again as soon as that can be done.
func TestOnePodsLinkHarmsNobodyElse(t *testing.T) {
	pods := &fakePods{changed: make(chan struct{}, 1)}
	pods.add(0)
	pods.add(2)
	b := withDevice(t, func(c *Config) { c.Pods = pods })
	b.source.set(cluster(1, 1, 2))
	b.until("readiness", b.ready)
	const broken, whole = "10.244.1.2/32", "10.244.1.4/32"
	spoil := func() {
		have, err := b.routes.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.routes.Remove(slices.DeleteFunc(have.Routes, func(r state.Route) bool { return !toPod(r) }), nil)
		b.wake(KindRoutes)
	}
	b.pods.set(pod.HostEnd{Name: "weftp1", MTU: 1440}, errors.New("operation not permitted"))
	spoil()
	b.until("the other Pod's route", func() bool { return b.routeTo(whole) })
	before := b.loop.LastTurn()
	b.wake(KindAll)
	b.until("another pass", func() bool { return b.loop.LastTurn().After(before) })
	if err := b.loop.Ready(); err != nil || b.routeTo(broken) {
		t.Errorf("ready: %v; a route over a link that is down: %v", err, b.routeTo(broken))
	}
	b.pods.set(pod.HostEnd{Name: "weftp1", MTU: 1440}, nil) // and nobody tells
	b.until("the mended link", func() bool { return b.routeTo(broken) && b.pods.end("weftp1").Up })
	b.pods.set(pod.HostEnd{Name: "weftp3", MTU: 1300, Up: true}, nil)
	b.wake(KindRoutes)
	b.until("the MTU", func() bool { return b.pods.end("weftp3").MTU == 1440 })
	if b.counts.drifts(stageLink) == 0 {
		t.Error("drift of links was not counted")
	}
}

func TestAFailureDoesNotKeepTheRestFromBeingRepaired(t *testing.T) {
	b := withDevice(t, nil)
	b.journal.failing("route", errors.New("no such device"))
	b.source.set(cluster(1, 1, 2))
	b.until("the failure", func() bool {
		return b.loop.Ready() != nil && strings.Contains(b.loop.Ready().Error(), "route: no such device")
	})
	if len(b.peers()) != 1 {
		t.Errorf("peers %v", b.peers())
	}
	b.journal.failing("route", nil)
	b.until("readiness", b.ready)
}

func TestABrokenSubscriptionIsRenewed(t *testing.T) {
	var mu sync.Mutex
	var subscriptions int
	b := withDevice(t, func(c *Config) {
		c.Watch = func(_ context.Context, wake func(Kind)) error {
			mu.Lock()
			defer mu.Unlock()
			subscriptions++
			if subscriptions == 1 {
				go wake(KindBroken)
			}
			if subscriptions == 2 {
				return errors.New("no buffer space")
			}
			return nil
		}
	})
	b.until("the third subscription", func() bool { mu.Lock(); defer mu.Unlock(); return subscriptions == 3 })
}

func TestBackend(t *testing.T) {
	rows := []struct {
		flag, config string
		kernel       link.Answer
		want         state.LinkKind
		says         string
	}{
		{"", "Auto", link.Yes, state.LinkWireGuard, "said the test"},
		{"", "Auto", link.No, state.LinkTUN, "said the test"},
		{"", "", link.No, state.LinkTUN, "said the test"},
		{"", "Auto", link.Unknown, "", "could not tell"},
		{"", "Userspace", link.Yes, state.LinkTUN, "MeshConfig"},
		{"Kernel", "Userspace", link.No, state.LinkWireGuard, "--backend"},
	}
	for _, row := range rows {
		var b backend
		b.decide(t.Context(), Config{Backend: row.flag, Kernel: Kernel{Link: fakeLinks{link.NewFake(), row.kernel}}, Log: slog.New(slog.DiscardHandler)},
			snapshot.Config{Backend: row.config})
		if b.kind != row.want || !strings.Contains(b.reason, row.says) {
			t.Errorf("%+v: %q because %s", row, b.kind, b.reason)
		}
	}
}
