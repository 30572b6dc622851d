//go:build linux

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/kernel/route"
	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// childRole, where it is set, runs this program as something else than a test.
var childRole func() bool

// cleanups run after the last test.
var cleanups []func()

func TestMain(m *testing.M) {
	if childRole != nil && childRole() {
		return
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, f := range cleanups {
			f()
		}
		os.Exit(code)
	}))
}

// clusterSource is a cluster that the test edits.
type clusterSource struct {
	mu      sync.Mutex
	snap    snapshot.Snapshot
	known   bool
	changed chan struct{}
}

func newClusterSource() *clusterSource { return &clusterSource{changed: make(chan struct{}, 1)} }

func (c *clusterSource) Snapshot() (snapshot.Snapshot, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snap, c.known
}

func (c *clusterSource) Changed() <-chan struct{} { return c.changed }

func (c *clusterSource) set(s snapshot.Snapshot) {
	c.mu.Lock()
	c.snap, c.known = s.Sorted(), true
	c.mu.Unlock()
	signal(c.changed)
}

func privateKey(i int) state.PrivateKey {
	return state.NewPrivateKey([state.KeySize]byte{8, byte(i), 1})
}

func meshNode(i int) snapshot.Node {
	return snapshot.Node{
		Name: fmt.Sprintf("node%d", i), Created: time.Unix(int64(i), 0),
		PodCIDRs:  []string{fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd00:10:244:%d::/64", i)},
		MeshIPs:   []string{fmt.Sprintf("10.244.%d.1", i), fmt.Sprintf("fd00:10:244:%d::1", i)},
		NodeIPs:   []string{fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("2001:db8::%d", i)},
		PublicKey: privateKey(i).Public().String(), KeyEpoch: 1,
		Endpoints: []string{fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("2001:db8::%d", i)}, ListenPort: 51820, MTU: 1440,
	}
}

func cluster(self int, nodes ...int) snapshot.Snapshot {
	s := snapshot.Snapshot{
		Self:   fmt.Sprintf("node%d", self),
		Pools:  []snapshot.Pool{{Name: "default", CIDRs: []string{"10.244.0.0/16", "fd00:10:244::/48"}}},
		Config: snapshot.Config{ListenPort: 51820, Keepalive: 25 * time.Second, Backend: "Auto"},
		InternalIPs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", self)),
			netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", self))},
	}
	for _, i := range nodes {
		s.Nodes = append(s.Nodes, meshNode(i))
	}
	return s.Sorted()
}

// fakeNode is a machine with one uplink.
type fakeNode struct{}

func (fakeNode) IPv6() bool { return true }

func (fakeNode) Links(context.Context) ([]facts.Link, error) {
	return []facts.Link{{Name: "eth0", MTU: 1500, Up: true, DefaultRoute: true, Addresses: []facts.Address{
		{Addr: netip.MustParseAddr("192.0.2.1"), Bits: 24}, {Addr: netip.MustParseAddr("2001:db8::1"), Bits: 64},
	}}}, nil
}

// fakePodLinks are the host ends of Pods. A route over one that is down is refused.
type fakePodLinks struct {
	mu   sync.Mutex
	ends map[string]pod.HostEnd
	fail map[string]error
}

func (f *fakePodLinks) HostEnds() ([]pod.HostEnd, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.ends)), nil
}

func (f *fakePodLinks) Mend(_, want pod.HostEnd) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail[want.Name]; err != nil {
		return err
	}
	f.ends[want.Name] = pod.HostEnd{Name: want.Name, MTU: want.MTU, Up: true}
	return nil
}

func (f *fakePodLinks) set(e pod.HostEnd, fail error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends[e.Name], f.fail[e.Name] = e, fail
}

func (f *fakePodLinks) end(name string) pod.HostEnd {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ends[name]
}

// fakeLinks can be told whether the kernel has WireGuard, and makes a TUN device when asked.
type fakeLinks struct {
	*link.Fake
	wireguard link.Answer
}

func (f fakeLinks) ProbeWireGuard(context.Context) link.Probe {
	return link.Probe{Answer: f.wireguard, Reason: "said the test"}
}

// journal writes down what was changed, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
	fail  map[string]error
}

func (j *journal) note(what string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, what)
	return j.fail[what]
}

func (j *journal) failing(what string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail == nil {
		j.fail = map[string]error{}
	}
	j.fail[what] = err
}

func (j *journal) order() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(slices.Compact(slices.Clone(j.lines)), " ")
}

type textChange string

func (c textChange) Empty() bool    { return c == "" }
func (c textChange) String() string { return string(c) }

type fakeRoutes struct {
	*route.Fake
	*journal
	pods *fakePodLinks
}

func (f fakeRoutes) Apply(ctx context.Context, c route.Change) error {
	if err := f.note("route"); err != nil {
		return err
	}
	var down []error
	c.Add = slices.DeleteFunc(slices.Clone(c.Add), func(r state.Route) bool {
		isDown := strings.HasPrefix(r.Dev, "weftp") && !f.pods.end(r.Dev).Up
		if isDown {
			down = append(down, fmt.Errorf("add route %s: %w", r, unix.ENETDOWN))
		}
		return isDown
	})
	return errors.Join(append(down, f.Fake.Apply(ctx, c))...)
}

func (b *bench) routeTo(dst string) bool {
	have, err := b.routes.Observe(b.t.Context())
	return err == nil && slices.ContainsFunc(have.Routes, func(r state.Route) bool { return r.Dst == netip.MustParsePrefix(dst) })
}

type fakeSysctl struct{ *journal }

func (f fakeSysctl) Ensure(_ context.Context, want []state.Sysctl) (Change, error) {
	if len(want) == 0 {
		return textChange(""), nil
	}
	return textChange(""), f.note("sysctl")
}

type fakeTable struct {
	*nft.Fake
	*journal
}

func (f fakeTable) Apply(ctx context.Context, c nft.Change) error { return f.Fake.Apply(ctx, c) }

func (f fakeTable) Ensure(ctx context.Context, want state.Table) (nft.Change, error) {
	if err := f.note("nft"); err != nil {
		return nft.Change{}, err
	}
	return f.Fake.Ensure(ctx, want)
}

func (f fakeTable) Update(ctx context.Context, want state.Table) (nft.Change, error) {
	return f.Ensure(ctx, want)
}

type counts struct {
	mu    sync.Mutex
	drift map[string]int
	fails map[string]int
}

func (c *counts) Pass(time.Duration) {}

func (c *counts) StageFailed(s string) { c.add(&c.fails, s) }

func (c *counts) DriftRepaired(s string) { c.add(&c.drift, s) }

func (c *counts) add(m *map[string]int, s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[s]++
}

func (c *counts) drifts(s string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drift[s]
}

// bench is a loop on fakes.
type bench struct {
	t       *testing.T
	source  *clusterSource
	links   *link.Fake
	wg      *wg.Fake
	table   *nft.Fake
	routes  *route.Fake
	pods    *fakePodLinks
	journal *journal
	counts  *counts
	loop    *Loop
	wake    func(Kind)

	mu      sync.Mutex
	probed  []netip.Addr
	request map[string]bool
}

// start runs a loop whose kernel has WireGuard or not. With a TUN backend the device appears when
// the test makes it.
func start(t *testing.T, wireguard link.Answer, change func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, source: newClusterSource(), links: link.NewFake(), wg: wg.NewFake(), table: nft.NewFake(), routes: route.NewFake("weft0", "weftp1", "weftp3"), journal: &journal{}, counts: &counts{}, request: map[string]bool{},
		pods: &fakePodLinks{fail: map[string]error{}, ends: map[string]pod.HostEnd{"weftp1": {Name: "weftp1", MTU: 1440, Up: true}, "weftp3": {Name: "weftp3", MTU: 1440, Up: true}}}}
	cfg := Config{
		Source: b.source, Keys: []mesh.Key{{Epoch: 1, Private: privateKey(1)}},
		Kernel: Kernel{Node: fakeNode{}, Pods: b.pods, Link: fakeLinks{b.links, wireguard}, WG: b.wg, Route: fakeRoutes{b.routes, b.journal, b.pods},
			NFT: fakeTable{b.table, b.journal}, Sysctl: fakeSysctl{b.journal}},
		Watch: func(_ context.Context, wake func(Kind)) error { b.wake = wake; return nil },
		Request: func(device string, _ int, want bool) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.request[device] = want
			return nil
		},
		Probe: func(list []netip.Addr) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.probed = append(b.probed, list...)
		},
		Log: slog.New(slog.DiscardHandler), Recorder: b.counts,
	}
	if change != nil {
		change(&cfg)
	}
	b.loop = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.loop.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return b
}

// until waits for a condition, looking again after each pass.
func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-b.loop.Reported():
		case <-deadline:
			b.t.Fatalf("waited for %s; ready: %v; order: %s", what, b.loop.Ready(), b.journal.order())
		}
	}
}

// hasProbed are the addresses that something was sent to.
func (b *bench) hasProbed() []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.probed)
}

func (b *bench) ready() bool { return b.loop.Ready() == nil }

func (b *bench) peers() []state.Peer {
	d, err := b.wg.Observe(b.t.Context(), "weft0")
	if err != nil {
		return nil
	}
	return d.Peers
}

// withDevice is a bench whose WireGuard device exists beside its link.
func withDevice(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	b := start(t, link.Yes, change)
	b.wg.AddDevice("weft0")
	return b
}

type fakePods struct {
	mu      sync.Mutex
	state   PodState
	changed chan struct{}
}

func (f *fakePods) Desired() PodState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return PodState{Routes: slices.Clone(f.state.Routes), HostPorts: slices.Clone(f.state.HostPorts), Links: slices.Clone(f.state.Links),
		Senders: slices.Clone(f.state.Senders)}
}

func (f *fakePods) Changed() <-chan struct{} { return f.changed }

// add makes Pod i with the address 10.244.1.i+2, the link weftp(i+1) and the host port 8000+i.
func (f *fakePods) add(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ip := netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 2)})
	f.state.Routes = append(f.state.Routes, state.Route{Dst: netip.PrefixFrom(ip, 32), Dev: fmt.Sprintf("weftp%d", i+1)})
	f.state.Links = append(f.state.Links, pod.HostEnd{Name: fmt.Sprintf("weftp%d", i+1), MTU: 1440, Addresses: []netip.Addr{ip}})
	f.state.HostPorts = append(f.state.HostPorts, filter.HostPort{Protocol: 6, Port: uint16(8000 + i), PodIP: ip, PodPort: 80})
}
