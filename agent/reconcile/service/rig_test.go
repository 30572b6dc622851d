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

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	source "github.com/weftnet/weftnet/agent/source/service"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/poll"
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

func (c *cluster) Peek(name snapshot.ServiceName) (*snapshot.Service, bool) {
	if s, slices, ok := c.Get(name); ok {
		return &s, len(slices) > 0
	}
	return nil, false
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
	c.pending.SliceChanges++
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

// drain lets an endpoint of Service i be about to end: it takes no new connections where others do, and
// still answers.
func (c *cluster) drain(i int, addr string) {
	c.each(i, func(e *snapshot.Endpoint) {
		if e.Addr.String() == addr {
			e.Ready, e.Terminating = false, true
		}
	})
}

// move has all endpoints of Service i on a node.
func (c *cluster) move(i int, node string) {
	c.each(i, func(e *snapshot.Endpoint) { e.Node = node })
}

// each changes the endpoints of Service i, in copies: what has been given away does not change.
func (c *cluster) each(i int, change func(*snapshot.Endpoint)) {
	name := named(i)
	c.change(name, func() {
		list := slices.Clone(c.slices[name])
		for n, s := range list {
			list[n].Endpoints = slices.Clone(s.Endpoints)
			for k := range s.Endpoints {
				change(&list[n].Endpoints[k])
			}
		}
		c.slices[name] = list
	})
}

// local lets internal connections to Service i stay on their node.
func (c *cluster) local(i int) {
	name := named(i)
	c.change(name, func() {
		svc := c.services[name]
		svc.InternalLocal = true
		c.services[name] = svc
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
	listed, flows, seen, unswept                int
}

func (c *counts) add(f func()) { c.mu.Lock(); defer c.mu.Unlock(); f() }

func (c *counts) Queued(services, slices int, _ time.Time) {
	c.add(func() { c.queued += services + slices })
}
func (c *counts) Saw(services, slices int)              { c.add(func() { c.seen += services + slices }) }
func (c *counts) SweepFailed()                          { c.add(func() { c.unswept++ }) }
func (c *counts) Synced(time.Duration, bool, time.Time) { c.add(func() { c.synced++ }) }
func (c *counts) Failed()                               { c.add(func() { c.failed++ }) }
func (c *counts) Programmed(time.Duration)              { c.add(func() { c.programmed++ }) }
func (c *counts) Repaired()                             { c.add(func() { c.repairs++ }) }
func (c *counts) FlowsDeleted(n map[state.Family]int, _ time.Duration) {
	c.add(func() { c.flows += n[state.IPv4] + n[state.IPv6] })
}
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

func (f *flows) set(list ...conntrack.Flow) { f.mu.Lock(); defer f.mu.Unlock(); f.list = list }
func (f *flows) all() []conntrack.Flow      { f.mu.Lock(); defer f.mu.Unlock(); return slices.Clone(f.list) }
func (f *flows) looked() int                { f.mu.Lock(); defer f.mu.Unlock(); return f.looks }

func (f *flows) DeleteWhere(_ context.Context, protocol uint8, stale func(conntrack.Flow) bool) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	before := len(f.list)
	f.list = slices.DeleteFunc(f.list, func(x conntrack.Flow) bool { return x.Original.Protocol == protocol && stale(x) })
	return before - len(f.list), nil
}

// DeleteUnanswered takes a flow that is not translated for one that nobody has answered.
func (f *flows) DeleteUnanswered(ctx context.Context, protocol uint8, stale func(conntrack.Flow) bool) (int, error) {
	return f.DeleteWhere(ctx, protocol, func(x conntrack.Flow) bool { return x.Original.Dst == x.Reply.Src && stale(x) })
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
	facts   func() (snapshot.ServiceNode, bool) // those of node, unless set
	closed  func() bool
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
	facts := r.facts
	if facts == nil {
		facts = func() (snapshot.ServiceNode, bool) { return r.node, true }
	}
	r.loop = New(Config{
		Source: r.cluster, Table: r.fake, Flows: r.flows, Recorder: r.counts, Log: slog.New(slog.DiscardHandler),
		Watch: func(context.Context) (<-chan struct{}, error) { return r.events, nil }, Facts: facts, Closed: r.closed,
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
	poll.Until(r.t, patience, what, func() error {
		if !ok() {
			return errors.Join(errors.New("not yet"), r.loop.Ready())
		}
		return nil
	})
}

// patience is how long a test waits for what takes milliseconds on an idle machine.
const patience = time.Minute

// settled waits until the table is what the cluster means.
func (r *rig) settled(what string) {
	r.t.Helper()
	poll.Until(r.t, patience, what, func() error {
		got, _ := r.fake.Table()
		want := r.cluster.want(r.node)
		if !got.Equal(want) || r.loop.Ready() != nil {
			return errors.Join(r.loop.Ready(), fmt.Errorf("the table is\n%s\nwant\n%s", got, want))
		}
		return nil
	})
}
