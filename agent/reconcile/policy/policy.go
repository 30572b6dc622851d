//go:build linux

// Package policy is the agent's loop for network policies. It tells the engine of what changed, writes
// the patch that comes of it to the table `inet weftnet-policy`, and then cuts the flows that are no
// longer allowed. What it has written stands while the agent is dead, and until every list has been
// read nothing of it is touched. What somebody else changes is put back at once; what the kernel refuses
// leaves the Pods concerned closed. It works beside the mesh's loop, and neither waits for the other.
package policy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	source "github.com/weftnet/weftnet/agent/source/policy"
	"github.com/weftnet/weftnet/agent/state"
)

// Source is what the cluster says.
type Source interface {
	Take() source.Changes
	Changed() <-chan struct{}
	Missing() []string
	// Cut names what no news comes in of at the moment.
	Cut() []string
	Pod(key snapshot.NamespacedName) (snapshot.Pod, bool)
	// PodAt finds the Pod of this node with an address.
	PodAt(a netip.Addr) (snapshot.NamespacedName, bool)
	Await(ctx context.Context, holds func() bool) bool
}

// Node is what the mesh knows and policies need.
type Node struct {
	// Self is this node with all its addresses.
	Self desired.Self
	// MeshIPs are the mesh addresses of every node, by its name.
	MeshIPs map[string][]netip.Addr
	Options desired.Options
}

// Table is the table in the kernel.
type Table interface {
	Apply(ctx context.Context, c nft.Change) error
	// Ensure lists the table and makes it as wanted.
	Ensure(ctx context.Context, want state.Table) (nft.Change, error)
	// Subscribe tells when somebody else has changed the table.
	Subscribe(ctx context.Context) (<-chan struct{}, error)
}

// Flows is the kernel's connection tracking.
type Flows interface {
	// Visit gives the flows that one of the addresses began or answers, or all, a bounded number at a time.
	Visit(ctx context.Context, addrs []netip.Addr, each func([]conntrack.Tracked) error) error
	// SetMark writes bits of the mark of flows, and tells how many there still were.
	SetMark(ctx context.Context, flows []conntrack.Tracked, value, mask uint32) (int, error)
}

// Echoes take a way past the rules for a moment after one like them has passed them.
type Echoes interface {
	// VoidEchoes ends that, so that the next ones meet the rules of now and the marks of connection tracking.
	VoidEchoes() error
}

// Recorder counts what the loop does.
type Recorder interface {
	// Programmed is told how long a change took from its news to the kernel.
	Programmed(took time.Duration)
	Failed()
	DriftRepaired()
	// Cut and LetGo count flows.
	Cut(flows int)
	LetGo(flows int)
	// Admitted is told how long the rules of a new Pod took, and whether its object was known.
	Admitted(took time.Duration, known bool)
}

// Config is what the loop works with.
type Config struct {
	Source Source
	// Node tells what the mesh knows. It is asked in every pass, so that it must not wait for the kernel. Each
	// of NodeChanged is signalled when that may have changed.
	Node        func() Node
	NodeChanged []<-chan struct{}
	// Attachments are those of which anything may be in the kernel; AttachmentsChanged is signalled
	// when they may have changed.
	Attachments        func() []state.Attachment
	AttachmentsChanged <-chan struct{}
	Table              Table
	Flows              Flows
	// Echoes is nil where all of them meet the rules.
	Echoes   Echoes
	Log      *slog.Logger
	Recorder Recorder
}

// Report is what the loop found, for status and metrics.
type Report struct {
	// Waiting says what the loop waits for before it touches anything; empty when it has begun.
	Waiting string
	// Err is what the kernel refused last; nil when everything wanted is in force, and no Pod is closed in place of it.
	Err error
	// Shut are the Pods that are closed because the kernel refused their rules.
	Shut []string
	shut map[string]bool
	// Cutting says why flows that are no longer allowed could not be cut.
	Cutting error
	At      time.Time
}

// Loop keeps the policies in force. Make it with New.
type Loop struct {
	cfg   Config
	woken chan struct{}
	// foreign says that somebody else has changed the table, moved that nodes or attachments may have.
	foreign, moved atomic.Bool
	report         atomic.Pointer[Report]
	reported       chan struct{}

	// mu guards the engine, which status, logs and the cutting of flows ask as well.
	mu     sync.Mutex
	engine *desired.Engine

	// Of the loop's own goroutine:
	begun    bool // the table has been written once
	broken   bool // the last write failed, so that what the kernel has is not known
	since    time.Time
	nodes    map[string]snapshot.KubeNode
	meshIPs  map[string][]netip.Addr
	attached map[string]state.Attachment
	// nameless are attachments that were rebuilt from the kernel and whose Pod is not found.
	nameless map[string]bool
	refused  refused
	fault    string

	cut   *cutter
	asked asked
}

// New makes a loop that has not started.
func New(cfg Config) *Loop {
	l := &Loop{
		cfg: cfg, woken: make(chan struct{}, 1), reported: make(chan struct{}, 1), engine: desired.New(desired.Options{}),
		nodes: map[string]snapshot.KubeNode{}, attached: map[string]state.Attachment{}, nameless: map[string]bool{},
	}
	l.cut = newCutter(l)
	return l
}

// Report is the outcome of the last pass; ok is false before the first.
func (l *Loop) Report() (r Report, ok bool) {
	if p := l.report.Load(); p != nil {
		r = *p
		r.Cutting = l.cut.fault()
		return r, true
	}
	return Report{}, false
}

// Reported is signalled after each pass that found something new.
func (l *Loop) Reported() <-chan struct{} { return l.reported }

var errNotStarted = errors.New("the policy engine has just started")

// Ready is nil when policies are in force.
func (l *Loop) Ready() error {
	r, ok := l.Report()
	switch {
	case !ok:
		return errNotStarted
	case r.Waiting != "":
		return errors.New(r.Waiting)
	default:
		return r.Err
	}
}

// Ask lets f look at the engine.
func (l *Loop) Ask(f func(*desired.Engine)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l.engine)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
