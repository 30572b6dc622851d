//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

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

// TestNothingIsLedToAPodInTheClear : as long as the fail-closed rules do not stand, a connection to a Service must not be sent to
// a Pod, to which there may be no way but the underlay.
func TestNothingIsLedToAPodInTheClear(t *testing.T) {
	r := newRig(t)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	var closed atomic.Bool
	r.closed = closed.Load
	r.start()
	r.eventually("the reason", func() bool {
		report, ok := r.loop.Report()
		return ok && strings.Contains(report.Waiting, "fail-closed")
	})
	if _, exists := r.fake.Table(); exists {
		t.Error("the table is there, and the fail-closed rules are not")
	}
	closed.Store(true)
	r.settled("behind the fail-closed rules")
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
	r.stop() // the ledger is the running loop's own
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
	// The table is right a moment before that is counted.
	r.eventually("two repairs to be counted", func() bool { return r.counts.get(func(c *counts) int { return c.repairs }) == 2 })
	r.eventually("the report to tell of it", func() bool { report, _ := r.loop.Report(); return time.Since(report.Repaired) < patience })
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
	if report, _ := r.loop.Report(); !report.Repaired.IsZero() {
		t.Errorf("nobody has changed the table, and it was repaired at %s", report.Repaired)
	}
}

// TestRivalLosesAfterAFault: an older Service takes an address, and the transaction with it fails. The Service that had
// the address is looked at again all the same.
func TestRivalLosesAfterAFault(t *testing.T) {
	r := newRig(t)
	shared := netip.MustParseAddr("192.0.2.50")
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	r.cluster.put(2, state.ProtoTCP, "10.0.0.2")
	list := func(i int, created int64) {
		name := named(i)
		r.cluster.change(name, func() {
			s := r.cluster.services[name]
			s.ExternalIPs, s.Created = []netip.Addr{shared}, time.Unix(created, 0)
			r.cluster.services[name] = s
		})
	}
	list(1, 2000)
	r.cluster.sync()
	r.start()
	r.settled("the younger has it")
	r.fake.RefuseNext(unix.EPERM)
	list(2, 1000)
	r.eventually("the younger to have lost it", func() bool {
		report, _ := r.loop.Report()
		return report.Err == nil && len(report.Problems) == 1 && report.Problems[0].Service == named(1) && report.Problems[0].Reason == desired.ReasonConflict
	})
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

// TestRangesComeAndGo: the ranges that unused addresses are dropped in follow, and no Service is computed
// anew for it.
func TestRangesComeAndGo(t *testing.T) {
	r := newRig(t)
	for i := range 10 {
		r.cluster.put(i, state.ProtoTCP, "10.0.0.1")
	}
	r.cluster.sync()
	var facts atomic.Pointer[snapshot.ServiceNode]
	become := func(cidrs ...string) {
		node := r.node
		node.ServiceCIDRs = nil
		for _, c := range cidrs {
			node.ServiceCIDRs = append(node.ServiceCIDRs, netip.MustParsePrefix(c))
		}
		r.node = node
		facts.Store(&node)
		r.cluster.sync() // a signal
	}
	become("10.96.0.0/16")
	r.facts = func() (snapshot.ServiceNode, bool) { return *facts.Load(), true }
	r.start()
	r.settled("at the start")
	// The pass that has just written everything may not have been counted yet.
	r.eventually("the start to be counted", func() bool { return r.counts.get(func(c *counts) int { return c.synced }) > 0 })
	synced := r.counts.get(func(c *counts) int { return c.synced })
	for _, cidrs := range [][]string{{"10.96.0.0/16", "10.97.0.0/16", "fd00:97::/112"}, {"10.97.0.0/16"}, nil, {"10.96.0.0/12"}} {
		become(cidrs...)
		r.settled(fmt.Sprint("ranges ", cidrs))
	}
	if n := r.counts.get(func(c *counts) int { return c.synced }) - synced; n != 0 {
		t.Errorf("Services were programmed %d times for it", n)
	}
}

// TestNoLocalIsTold follows Services whose policy leaves them without an endpoint here.
func TestNoLocalIsTold(t *testing.T) {
	r := newRig(t)
	elsewhere := func(i int) {
		r.cluster.put(i, state.ProtoTCP, "10.0.0.1")
		r.cluster.local(i)
		r.cluster.move(i, "node2")
	}
	elsewhere(1)
	elsewhere(2)
	r.cluster.sync()
	r.start()
	expect := func(what string, want int) {
		t.Helper()
		r.eventually(what, func() bool {
			report, _ := r.loop.Report()
			return report.NoLocal == desired.NoLocal{Internal: [2]int{want, 0}}
		})
	}
	expect("two", 2)
	r.cluster.move(1, "node1")
	expect("one has come here", 1)
	r.cluster.drop(2)
	expect("the other Service is gone", 0)
}

// TestWhatChangesNothingIsNotPending: an event about an object in which a proxy sees nothing new is counted,
// and waits for nothing. It stayed pending for ever, which looks like a proxy that hangs.
func TestWhatChangesNothingIsNotPending(t *testing.T) {
	r := newRig(t)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	r.start()
	r.settled("at the start")
	seen := r.counts.get(func(c *counts) int { return c.seen })
	queued, synced := r.counts.get(func(c *counts) int { return c.queued }), r.counts.get(func(c *counts) int { return c.synced })
	r.cluster.mu.Lock()
	r.cluster.pending.ServiceEvents, r.cluster.pending.SliceEvents = 2, 3
	r.cluster.mu.Unlock()
	r.cluster.sync() // a signal
	r.eventually("the events to be counted", func() bool { return r.counts.get(func(c *counts) int { return c.seen })-seen == 5 })
	if n := r.counts.get(func(c *counts) int { return c.queued }) - queued; n != 0 {
		t.Errorf("%d changes are pending, and nothing is to be done", n)
	}
	r.cluster.put(1, state.ProtoTCP, "10.0.0.2")
	r.settled("a change")
	r.eventually("the change to be counted", func() bool {
		return r.counts.get(func(c *counts) int { return c.queued })-queued == 1 && r.counts.get(func(c *counts) int { return c.synced }) > synced
	})
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

// TestClockMayJump: what the loop measures by must not be the clock that a person or NTP sets. A time
// that time.Now gives carries the reading of one that only goes on (printed as "m="), and differences are
// taken of that as long as it is not lost on the way.
func TestClockMayJump(t *testing.T) {
	r := newRig(t)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	r.start()
	r.settled("at the start")
	r.fake.RefuseNext(unix.EPERM)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.2")
	r.settled("after a refusal")
	for name, at := range map[string]time.Time{"the last programming": r.loop.Updated(), "the start": r.loop.started} {
		if !strings.Contains(at.String(), " m=") {
			t.Errorf("%s, %s, is a time of day alone: a jump of the clock would look like silence", name, at)
		}
	}
	r.stop()
	waiting := time.Now()
	r.loop.pending.Store(&waiting)
	if !r.loop.Healthy(time.Now()) || r.loop.Healthy(waiting.Add(2*healthTimeout)) {
		t.Error("changes that wait too long make the proxy unhealthy, others do not")
	}
}
