//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	source "github.com/weftnet/weftnet/agent/source/service"
	"github.com/weftnet/weftnet/agent/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a Source that tests fill.
type cluster struct {
	mu       sync.Mutex
	synced   bool
	services map[snapshot.ServiceName]snapshot.Service
	slices   map[snapshot.ServiceName][]snapshot.EndpointSlice
	pending  source.Changes
	changed  chan struct{}
}

func newCluster() *cluster {
	return &cluster{
		services: map[snapshot.ServiceName]snapshot.Service{}, slices: map[snapshot.ServiceName][]snapshot.EndpointSlice{},
		changed: make(chan struct{}, 1),
	}
}

func (c *cluster) Synced() bool             { c.mu.Lock(); defer c.mu.Unlock(); return c.synced }
func (c *cluster) Changed() <-chan struct{} { return c.changed }

func (c *cluster) Take() source.Changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.pending
	c.pending = source.Changes{}
	return out
}

func (c *cluster) Get(name snapshot.ServiceName) (snapshot.Service, []snapshot.EndpointSlice, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.services[name]
	return s, c.slices[name], ok
}

func (c *cluster) Names() []snapshot.ServiceName {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []snapshot.ServiceName
	for n := range c.services {
		out = append(out, n)
	}
	return out
}

// change touches one Service; f runs under the lock.
func (c *cluster) change(name snapshot.ServiceName, f func()) {
	c.mu.Lock()
	f()
	if c.pending.Services == nil {
		c.pending.Services, c.pending.Triggers = map[snapshot.ServiceName]struct{}{}, map[snapshot.ServiceName][]time.Time{}
	}
	c.pending.Services[name] = struct{}{}
	c.pending.Triggers[name] = append(c.pending.Triggers[name], time.Now())
	c.pending.SliceEvents++
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func named(i int) snapshot.ServiceName {
	return snapshot.ServiceName{Namespace: "test", Name: fmt.Sprintf("svc-%d", i)}
}

// put gives Service i a ClusterIP of each family and endpoints.
func (c *cluster) put(i int, protocol uint8, endpoints ...string) {
	name := named(i)
	c.change(name, func() {
		c.services[name] = snapshot.Service{
			ServiceName: name, Created: time.Unix(1700000000, 0), Ports: []snapshot.ServicePort{{Protocol: protocol, Port: 80}},
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)})},
		}
		var list []snapshot.EndpointSlice
		for n, addr := range endpoints {
			list = append(list, snapshot.EndpointSlice{
				Namespace: name.Namespace, Name: fmt.Sprintf("%s-%d", name.Name, n), Service: name.Name,
				Ports:     []snapshot.EndpointPort{{Protocol: protocol, Port: 8080}},
				Endpoints: []snapshot.Endpoint{{Addr: netip.MustParseAddr(addr), Node: "node1", Ready: true, Serving: true}},
			})
		}
		c.slices[name] = list
	})
}

func (c *cluster) drop(i int) {
	name := named(i)
	c.change(name, func() { delete(c.services, name); delete(c.slices, name) })
}

func (c *cluster) sync() {
	c.mu.Lock()
	c.synced = true
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// want is the table that the cluster means, computed from nothing.
func (c *cluster) want(node snapshot.ServiceNode) state.Table {
	table := desired.Table(node, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, svc := range c.services {
		for set, elements := range desired.For(svc, c.slices[name], node).Sets() {
			for i := range table.Sets {
				if table.Sets[i].Name == set {
					table.Sets[i].Elements = state.SortElements(append(slices.Clone(table.Sets[i].Elements), elements...))
				}
			}
		}
	}
	return table
}

// counts is a Recorder.
type counts struct {
	mu                                          sync.Mutex
	queued, synced, failed, programmed, repairs int
	listed, flows                               int
}

func (c *counts) add(f func()) { c.mu.Lock(); defer c.mu.Unlock(); f() }

func (c *counts) Queued(services, slices int, _ time.Time) {
	c.add(func() { c.queued += services + slices })
}
func (c *counts) Synced(time.Duration, bool, time.Time) { c.add(func() { c.synced++ }) }
func (c *counts) Failed()                               { c.add(func() { c.failed++ }) }
func (c *counts) Programmed(time.Duration)              { c.add(func() { c.programmed++ }) }
func (c *counts) Repaired()                             { c.add(func() { c.repairs++ }) }
func (c *counts) FlowsDeleted(n int, _ time.Duration)   { c.add(func() { c.flows += n }) }
func (c *counts) Wrote(o nft.Outcome) {
	c.add(func() {
		if o.Observed {
			c.listed++
		}
	})
}

func (c *counts) get(f func(c *counts) int) int { c.mu.Lock(); defer c.mu.Unlock(); return f(c) }

// flows is a connection tracking in memory.
type flows struct {
	mu    sync.Mutex
	list  []conntrack.Flow
	looks int
}

func (f *flows) DeleteWhere(_ context.Context, protocol uint8, stale func(conntrack.Flow) bool) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	before := len(f.list)
	f.list = slices.DeleteFunc(f.list, func(x conntrack.Flow) bool { return x.Original.Protocol == protocol && stale(x) })
	return before - len(f.list), nil
}

// rig is a loop on fakes.
type rig struct {
	t       *testing.T
	cluster *cluster
	fake    *nft.Fake
	flows   *flows
	counts  *counts
	events  chan struct{}
	node    snapshot.ServiceNode
	loop    *Loop
	stop    func()
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, cluster: newCluster(), fake: nft.NewFake(), flows: &flows{}, counts: &counts{}, events: make(chan struct{}, 1)}
	r.node = snapshot.ServiceNode{
		Name: "node1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, NodePortIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
	}
	t.Cleanup(func() {
		if r.stop != nil {
			r.stop()
		}
	})
	return r
}

// start runs a new loop, as an agent that has just been started.
func (r *rig) start() {
	if r.stop != nil {
		r.stop()
	}
	r.loop = New(Config{
		Source: r.cluster, Table: r.fake, Flows: r.flows, Recorder: r.counts, Log: slog.New(slog.DiscardHandler),
		Watch: func(context.Context) (<-chan struct{}, error) { return r.events, nil },
		Facts: func() (snapshot.ServiceNode, bool) { return r.node, true },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.loop.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the loop ended with %v", err)
		}
		r.stop = nil
	}
}

// restart reads every Service again, as a new agent does.
func (r *rig) restart() {
	for _, name := range r.cluster.Names() {
		r.cluster.change(name, func() {})
	}
	r.start()
}

// eventually waits until the condition holds.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within 20 s; %+v", what, r.loop.Ready())
		}
		time.Sleep(time.Millisecond) // between two looks, not for anything to happen
	}
}

// settled waits until the table is what the cluster means.
func (r *rig) settled(what string) {
	r.t.Helper()
	var got, want state.Table
	deadline := time.Now().Add(20 * time.Second)
	for {
		got, _ = r.fake.Table()
		want = r.cluster.want(r.node)
		if got.Equal(want) && r.loop.Ready() == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: %v; the table is\n%s\nwant\n%s", what, r.loop.Ready(), got, want)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNothingIsWrittenBeforeEverythingIsRead(t *testing.T) {
	r := newRig(t)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	r.start()
	r.eventually("a first report", func() bool { _, ok := r.loop.Report(); return ok })
	if _, exists := r.fake.Table(); exists {
		t.Error("the table was made of half of the cluster")
	}
	if r.loop.Ready() == nil || r.loop.Admit(time.Now()) == nil {
		t.Error("ready before the Services have been read")
	}
	if err := r.loop.Admit(time.Now().Add(time.Minute)); err != nil {
		t.Errorf("Pods are held up without end: %v", err)
	}
	r.cluster.sync()
	r.settled("after the first lists")
	if err := r.loop.Admit(time.Now()); err != nil {
		t.Error(err)
	}
}

// TestFollowsTheCluster adds, changes and deletes, with a restart in between, and counts listings.
func TestFollowsTheCluster(t *testing.T) {
	r := newRig(t)
	for i := range 30 {
		r.cluster.put(i, state.ProtoTCP, "10.0.0.1", "10.0.0.2", "fd00::1")
	}
	r.cluster.sync()
	r.start()
	r.settled("at the start")
	listed := r.counts.get(func(c *counts) int { return c.listed })
	r.cluster.put(3, state.ProtoTCP, "10.0.0.9")
	r.settled("other endpoints")
	r.cluster.put(4, state.ProtoTCP)
	r.settled("no endpoints")
	r.cluster.drop(5)
	r.settled("a Service less")
	r.cluster.put(100, state.ProtoTCP, "10.0.0.1")
	r.settled("a Service more")
	if n := r.counts.get(func(c *counts) int { return c.listed }); n != listed {
		t.Errorf("the table was listed %d times for ordinary changes", n-listed)
	}
	if n := r.counts.get(func(c *counts) int { return c.programmed }); n == 0 {
		t.Error("no latency was measured")
	}
	r.stop()
	r.cluster.drop(6)
	r.cluster.put(7, state.ProtoTCP, "10.0.0.3")
	applied := r.fake.Applied()
	r.restart()
	r.settled("after a restart")
	if n := r.fake.Applied() - applied; n > 2 {
		t.Errorf("the restart took %d transactions; want one for what changed and one for what is left over", n)
	}
}

// TestNothingStaleAfterABurst makes a thousand Services and deletes them while the loop runs.
func TestNothingStaleAfterABurst(t *testing.T) {
	r := newRig(t)
	r.cluster.put(0, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	r.start()
	for i := range 300 { // the fake looks at every element of a set
		r.cluster.put(i+1, state.ProtoTCP, "10.0.0.1", "fd00::1")
	}
	for i := range 300 {
		r.cluster.drop(i + 1)
	}
	r.settled("after the burst")
	if n := len(r.loop.ledger.Known()); n != 1 {
		t.Errorf("%d Services are remembered, want 1", n)
	}
}

func TestStrangersChangeIsPutRight(t *testing.T) {
	r := newRig(t)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1", "10.0.0.2")
	r.cluster.sync()
	r.start()
	r.settled("at the start")
	for range 2 {
		if err := r.fake.Apply(t.Context(), nft.Delete("inet", state.ServiceTableName)); err != nil {
			t.Fatal(err)
		}
		r.events <- struct{}{}
		r.settled("after the table was deleted")
	}
	if n := r.counts.get(func(c *counts) int { return c.repairs }); n != 2 {
		t.Errorf("%d repairs were counted, want 2", n)
	}
}

// TestRefusedTransaction is tried again, and tells so.
func TestRefusedTransaction(t *testing.T) {
	r := newRig(t)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	r.start()
	r.settled("at the start")
	for _, fault := range []error{unix.EPERM, unix.ENOENT, unix.EINVAL} {
		r.fake.RefuseNext(fault)
		r.cluster.put(1, state.ProtoTCP, "10.0.0.2", "10.0.0.3")
		r.settled(fault.Error())
		r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
		r.settled(fault.Error())
	}
	if r.counts.get(func(c *counts) int { return c.failed }) == 0 {
		t.Error("no failure was counted")
	}
}

func TestNodeChangesReachEveryService(t *testing.T) {
	r := newRig(t)
	for i := range 10 {
		r.cluster.put(i, state.ProtoTCP, "10.0.0.1")
		name := named(i)
		r.cluster.change(name, func() {
			svc := r.cluster.services[name]
			svc.Ports[0].NodePort = uint16(30000 + i)
			r.cluster.services[name] = svc
		})
	}
	r.cluster.sync()
	r.start()
	r.settled("at the start")
	r.stop()
	r.node.NodePortIPs = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	r.start()
	r.settled("with another address")
}

func flow(dst, reply string) conntrack.Flow {
	src := netip.MustParseAddrPort("10.0.0.77:5000")
	return conntrack.Flow{
		Original: conntrack.Tuple{Src: src, Dst: netip.MustParseAddrPort(dst), Protocol: state.ProtoUDP},
		Reply:    conntrack.Tuple{Src: netip.MustParseAddrPort(reply), Dst: src, Protocol: state.ProtoUDP},
	}
}

// TestUDPFlowsFollow has flows to every kind of place, and changes the Service under them.
func TestUDPFlowsFollow(t *testing.T) {
	r := newRig(t)
	const vip = "10.96.0.1:80"
	other := flow("10.96.0.200:80", "10.0.0.1:8080") // of nobody we know
	direct := flow("10.0.0.1:8080", "10.0.0.1:8080")
	past := flow(vip, vip)
	first, second := flow(vip, "10.0.0.1:8080"), flow(vip, "10.0.0.2:8080")
	r.flows.list = []conntrack.Flow{other, direct, past, first, second}
	r.cluster.put(1, state.ProtoUDP, "10.0.0.1")
	r.cluster.put(2, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	r.start()
	expect := func(what string, want ...conntrack.Flow) {
		t.Helper()
		r.eventually(what, func() bool {
			r.flows.mu.Lock()
			defer r.flows.mu.Unlock()
			return slices.Equal(r.flows.list, want)
		})
	}
	expect("at the start: what an earlier run did not come to", other, direct, first)
	looks := r.flows.looks
	r.cluster.put(2, state.ProtoTCP, "10.0.0.2")
	r.cluster.put(1, state.ProtoUDP, "10.0.0.1", "10.0.0.2")
	r.settled("an endpoint more")
	if r.flows.looks != looks {
		t.Error("connection tracking was looked through though nothing can be stale")
	}
	r.flows.list = append(r.flows.list, second)
	r.cluster.put(1, state.ProtoUDP, "10.0.0.2")
	expect("an endpoint less", other, direct, second)
	r.cluster.put(1, state.ProtoUDP)
	expect("no endpoint left", other, direct)
	r.settled("no endpoint left")
	r.flows.list = append(r.flows.list, past)
	r.cluster.put(1, state.ProtoUDP, "10.0.0.1")
	expect("an endpoint at last", other, direct)
	r.settled("an endpoint at last")
	r.flows.list = append(r.flows.list, first)
	r.cluster.drop(1)
	expect("the Service is gone", other, direct)
}

// TestSinkFailureIsTriedAgain: what follows from a Service is done before it counts as done.
func TestSinkFailureIsTriedAgain(t *testing.T) {
	r := newRig(t)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	s := &sink{fail: 2}
	r.start()
	r.stop()
	r.loop = nil
	r.fake = nft.NewFake()
	r.start()
	r.stop()
	loop := New(Config{
		Source: r.cluster, Table: nft.NewFake(), Recorder: r.counts, Log: slog.New(slog.DiscardHandler), Sinks: []Sink{s},
		Facts: func() (snapshot.ServiceNode, bool) { return r.node, true },
	})
	for range 3 {
		if err := loop.turn(t.Context()); err == nil {
			break
		}
	}
	if !s.complete || !slices.Contains(s.names, named(1)) || loop.Ready() != nil {
		t.Errorf("complete %v, names %v, ready %v", s.complete, s.names, loop.Ready())
	}
}

type sink struct {
	fail     int
	names    []snapshot.ServiceName
	complete bool
}

func (s *sink) Put(_ context.Context, wanted []desired.Wanted) error {
	if s.fail--; s.fail >= 0 {
		return errors.New("not now")
	}
	for _, w := range wanted {
		s.names = append(s.names, w.Service)
	}
	return nil
}

func (s *sink) Complete(context.Context) error { s.complete = true; return nil }

// TestServesWithoutEvents: a node that tells nothing of the table's changes has Services all the same.
func TestServesWithoutEvents(t *testing.T) {
	r := newRig(t)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	r.loop = New(Config{
		Source: r.cluster, Table: r.fake, Recorder: r.counts, Log: slog.New(slog.DiscardHandler),
		Watch: func(context.Context) (<-chan struct{}, error) { return nil, unix.EPERM },
		Facts: func() (snapshot.ServiceNode, bool) { return r.node, true },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.loop.Run(ctx) }()
	r.settled("without events")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
