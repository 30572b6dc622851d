//go:build linux

// Package reconcile is the agent's one loop: whenever the cluster, the node's Pods or the kernel
// change, it computes the whole wanted state and lets each kernel package write the difference.
// Changes that come together are one pass. What fails is tried again with growing pauses; what
// somebody else changes is put back at once. On the way out everything is left standing.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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

// Source is what the cluster says.
type Source interface {
	// Snapshot is the latest; ok is false while nothing at all is known.
	Snapshot() (s snapshot.Snapshot, ok bool)
	// Changed is signalled after Snapshot has changed.
	Changed() <-chan struct{}
}

// PodState is what the loop keeps in force for the Pods of this node.
type PodState struct {
	// Routes lead to every Pod that the node has or is getting; those whose link is not there yet
	// are left to who makes it.
	Routes []state.Route
	// Links are the host ends of the Pods that are there for good, neither coming nor going.
	Links     []pod.HostEnd
	HostPorts []filter.HostPort
	// Senders are the Pods that the node has or is getting, with the addresses that they may send from.
	Senders []filter.Pod
}

// Pods knows the Pods of this node.
type Pods interface {
	// Desired must know a Pod before anything of it is written to the kernel, or the loop would
	// take it for a leftover. The loop asks after it has looked at the kernel.
	Desired() PodState
	// Changed is signalled after Desired has changed. It may be nil.
	Changed() <-chan struct{}
}

// Kernel is everything that the loop reads and writes.
type Kernel struct {
	Node interface {
		Links(ctx context.Context) ([]facts.Link, error)
		IPv6() bool
	}
	Pods interface {
		HostEnds() ([]pod.HostEnd, error)
		// Mend sets the link up, with its MTU and the Pod's neighbour entries.
		Mend(have, want pod.HostEnd) error
	}
	Link interface {
		link.Interface
		ProbeWireGuard(ctx context.Context) link.Probe
	}
	WG    wg.Interface
	Route route.Table
	NFT   interface {
		// Ensure lists the table, Update trusts what was written last.
		Ensure(ctx context.Context, want state.Table) (nft.Change, error)
		Update(ctx context.Context, want state.Table) (nft.Change, error)
		// AddElements adds to sets that are there.
		AddElements(ctx context.Context, sets []state.Set) error
	}
	Sysctl interface {
		Ensure(ctx context.Context, want []state.Sysctl) (Change, error)
	}
}

// Change is what a kernel package did.
type Change interface {
	Empty() bool
	String() string
}

// Recorder counts what the loop does.
type Recorder interface {
	Pass(took time.Duration)
	StageFailed(stage string)
	DriftRepaired(stage string)
}

// Config is what the loop works with.
type Config struct {
	Source Source
	Pods   Pods
	Keys   []mesh.Key
	Kernel Kernel
	// Watch starts the subscriptions to kernel events; each calls wake when something of its kind
	// may have changed, until the context ends. It is called on the loop's own thread, and again
	// after a subscription has broken.
	Watch func(ctx context.Context, wake func(Kind)) error
	// Request asks the wireguard process for a device, or takes it back when want is false.
	Request func(device string, mtu int, want bool) error
	// Probe sends something to each of the mesh addresses.
	Probe func(addresses []netip.Addr)
	// OnNetwork is called with what the plan gave this node, whenever that has changed. It may be nil.
	OnNetwork func(Network)
	// OnAddressGone is called when this node has lost an address of its own, and with it every connection
	// from there. It may be nil.
	OnAddressGone func()
	// Backend overrides the MeshConfig: Kernel, Userspace, or empty.
	Backend  string
	Log      *slog.Logger
	Recorder Recorder
}

// Kind is a part of the node's network that may have changed; kinds are or-ed together.
type Kind uint32

// The kinds.
const (
	KindSnapshot Kind = 1 << iota
	KindPods
	KindLinks
	// KindPoll is what nobody tells about: peers and settings.
	KindPoll
	KindRoutes
	KindTable
	// KindAll looks at everything again.
	KindAll Kind = 1<<iota - 1
	// KindBroken says that a subscription has ended and events may have been lost.
	KindBroken Kind = 1 << 31
)

// Network is what the CNI server has to know of the mesh.
type Network struct {
	PodCIDRs []netip.Prefix
	MeshIPs  []netip.Addr
	Pools    []netip.Prefix
	// MTU of Pods, in bytes.
	MTU int
}

// Report is what a pass found, for the status.
type Report struct {
	Plan  mesh.Output
	Facts facts.Facts
	// Links are the node's, as last looked at; they must not be changed.
	Links []facts.Link
	// BackendReason says why the backend is what it is.
	BackendReason string
	// Err is nil when everything wanted is in force.
	Err error
	At  time.Time
}

// Loop is the loop. Make it with New.
type Loop struct {
	cfg     Config
	stages  stages
	pending atomic.Uint32
	woken   chan struct{}
	soon    atomic.Bool // a wake-up is under way

	report   atomic.Pointer[Report]
	reported chan struct{}
	// closed says that the fail-closed table has been in force.
	closed atomic.Bool
	// turned is when the last pass ended, with the reading of the clock that does not jump.
	turned atomic.Pointer[time.Time]

	// Of the loop's own goroutine:
	root     context.Context // of Run, for subscriptions that outlive a pass
	links    []facts.Link
	have     map[string]state.Device // as read in this pass; zero when it could not be
	stats    map[string][]state.PeerStats
	uplinks  []netip.Addr // as of the last pass
	liveness map[state.PublicKey]facts.Liveness
	plan     mesh.Output
	planned  plannedFrom
	backend  backend
	probed   time.Time
	network  Network
	fault    logged // of the node
	podFault logged // of Pods, which are not the node's

	mu     sync.Mutex
	asked  uint64 // passes asked for by Sync
	waiter []syncRequest
}

// New makes a loop that has not started.
func New(cfg Config) *Loop {
	l := &Loop{cfg: cfg, woken: make(chan struct{}, 1), reported: make(chan struct{}, 1), have: map[string]state.Device{}, stats: map[string][]state.PeerStats{}}
	l.stages = newStages(l)
	return l
}

// errNotStarted is the readiness before the first pass.
var errNotStarted = errors.New("the agent has just started and has not looked at the node yet")

// Ready tells whether the mesh device, its peers and routes, and the fail-closed table are in
// force, and if not why.
func (l *Loop) Ready() error {
	r := l.report.Load()
	switch {
	case r == nil:
		return errNotStarted
	case r.Plan.Waiting != "":
		return errors.New(r.Plan.Waiting)
	default:
		return r.Err
	}
}

// FailClosed tells whether the fail-closed table stands: this agent has made it or found it, and what it holds outlives the agent.
func (l *Loop) FailClosed() bool { return l.closed.Load() }

// Network is what the last plan gave this node; zero before there is one.
func (l *Loop) Network() Network {
	if r := l.report.Load(); r != nil {
		return networkOf(r.Plan)
	}
	return Network{}
}

func networkOf(p mesh.Output) Network {
	return Network{PodCIDRs: p.Own.PodCIDRs, MeshIPs: p.Own.MeshIPs, Pools: p.Pools, MTU: p.Own.MTU}
}

func (n Network) equal(o Network) bool {
	return n.MTU == o.MTU && slices.Equal(n.PodCIDRs, o.PodCIDRs) && slices.Equal(n.MeshIPs, o.MeshIPs) && slices.Equal(n.Pools, o.Pools)
}

// Report is the outcome of the last pass; ok is false before the first.
func (l *Loop) Report() (r Report, ok bool) {
	if p := l.report.Load(); p != nil {
		return *p, true
	}
	return Report{}, false
}

// Reported is signalled after each pass; signals that nobody has taken merge into one.
func (l *Loop) Reported() <-chan struct{} { return l.reported }

// LastTurn is when the last pass ended, zero before the first. A loop that hangs shows here.
func (l *Loop) LastTurn() time.Time {
	if at := l.turned.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

type syncRequest struct {
	number uint64
	done   chan error
}

// Sync waits for a pass that begins after the call. Without an error, what Pods.Desired said at the
// time of the call is then in force, whatever else failed.
func (l *Loop) Sync(ctx context.Context) error {
	l.mu.Lock()
	l.asked++
	r := syncRequest{number: l.asked, done: make(chan error, 1)}
	l.waiter = append(l.waiter, r)
	l.mu.Unlock()
	l.pending.Or(uint32(KindPods))
	signal(l.woken)
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// served answers everyone who had asked before the pass began.
func (l *Loop) served(upTo uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var later []syncRequest
	for _, r := range l.waiter {
		if r.number <= upTo {
			r.done <- err
		} else {
			later = append(later, r)
		}
	}
	l.waiter = later
}

func (l *Loop) askedSoFar() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// wake makes the loop turn at once. What happens with every Pod waits a little, so that a burst of
// Pods is a few passes and not hundreds.
func (l *Loop) wake(k Kind) {
	l.pending.Or(uint32(k))
	if k&^(KindPods|KindRoutes) != 0 {
		signal(l.woken)
		return
	}
	if !l.soon.Swap(true) {
		time.AfterFunc(settlePods, func() {
			l.soon.Store(false)
			signal(l.woken)
		})
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
