//go:build linux

// Package service is the loop of the service proxy. Whenever a Service, its endpoints or the node
// change, it computes what the Services in question want in the table, and lets the ledger of the
// kernel package write the difference: a change costs what changes, not what there is. Nothing
// is written before everything has been read once, and what an earlier run left is taken over. On
// the way out everything is left standing.
package service

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	source "github.com/weftnet/weftnet/agent/source/service"
	"github.com/weftnet/weftnet/agent/state"
)

// Source is what the cluster says of Services; it is what the package agent/source/service makes.
type Source interface {
	Synced() bool
	Changed() <-chan struct{}
	Take() source.Changes
	Get(name snapshot.ServiceName) (svc snapshot.Service, slices []snapshot.EndpointSlice, ok bool)
	Peek(name snapshot.ServiceName) (svc *snapshot.Service, served bool)
	Names() []snapshot.ServiceName
}

// Flows is connection tracking.
type Flows interface {
	DeleteWhere(ctx context.Context, protocol uint8, stale func(conntrack.Flow) bool) (int, error)
	// DeleteUnanswered looks only at flows that nobody has answered and whose destination is not translated.
	DeleteUnanswered(ctx context.Context, protocol uint8, stale func(conntrack.Flow) bool) (int, error)
}

// Recorder counts for the metrics.
type Recorder interface {
	// Saw is called with how many objects came, changed or went, Queued with how many of them make
	// something to do, when it is taken up, and Synced when it is in force. full says that every Service
	// was computed anew.
	Saw(services, slices int)
	Queued(services, slices int, at time.Time)
	Synced(took time.Duration, full bool, at time.Time)
	Failed()
	// Programmed is the time from what caused a change of endpoints to its being in force.
	Programmed(d time.Duration)
	// Wrote is what a pass did to the table, Repaired that somebody else's change was put right.
	Wrote(o nft.Outcome)
	Repaired()
	// FlowsDeleted counts entries of connection tracking that were stale.
	FlowsDeleted(n map[state.Family]int, took time.Duration)
	// SweepFailed is called when what an earlier run left could not be deleted.
	SweepFailed()
}

// Config is what a Loop works on.
type Config struct {
	Source Source
	Table  nft.Table
	// Watch tells of other programs' changes of the table. Its channel is closed when it ends, and it
	// is then called again.
	Watch func(ctx context.Context) (<-chan struct{}, error)
	// Quietly, if not nil, runs what writes very much, at less cost.
	Quietly func(func() error) error
	// Sizes counts the elements in the kernel's sets without listing them; false where it cannot.
	Sizes func(ctx context.Context) (map[string]int, bool, error)
	Flows Flows
	// Closed, if not nil, tells whether the rules stand that keep what is for Pods from leaving in the clear. Until they do,
	// nothing is led to a Pod: a node that has just booted has no way into the mesh yet, and its own processes ask already.
	Closed func() bool
	// Facts are those of the node; ok is false while they are not known.
	Facts func() (node snapshot.ServiceNode, ok bool)
	Sinks []Sink
	// Started, if not nil, is called once, when every Service is in force.
	Started func()
	// Problems are more faults found in Services, for the report.
	Problems []func() []desired.Problem
	Recorder Recorder
	Log      *slog.Logger
}

// Sink takes what follows from Services besides the table: health checks, node ports, the balancer at
// the socket.
type Sink interface {
	// Put is called with Services that have changed, when the table has them; one that is gone wants
	// nothing. After an error it is called with them again.
	Put(ctx context.Context, wanted []desired.Wanted) error
	// Complete is called once, when every Service has been put.
	Complete(ctx context.Context) error
}

// Report is what the loop found, for the status.
type Report struct {
	// Synced is true once everything has been in force.
	Synced bool
	// Waiting says what is not known yet; empty when nothing is missing.
	Waiting string
	// Err is nil when everything wanted is in force.
	Err error
	// Refused are Services that the kernel did not take, and Problems what is wrong in objects.
	Refused  []nft.Refusal
	Problems []desired.Problem
	Services int
	// Elements are those of each set, a second old at most.
	Elements map[string]int
	NoLocal  desired.NoLocal
	// Repaired is when somebody else's change of the table was last put right; zero for never.
	Repaired time.Time
	At       time.Time
}

// Loop is the loop. Make it with New.
type Loop struct {
	cfg    Config
	ledger *nft.Ledger
	report atomic.Pointer[Report]
	// pending is since when something waits to be put in force, updated when all was in force last; nil
	// for never. Both have the reading of the clock that does not jump: setting the node's clock must
	// neither hide a proxy that hangs nor make one that is well look so.
	pending, updated atomic.Pointer[time.Time]
	started          time.Time

	// Of the loop's own goroutine:
	node     snapshot.ServiceNode
	known    bool // node is set
	synced   bool // everything has been in force once
	doubtful bool // the table may not be as it was written
	claims   *desired.Claims
	timeouts []time.Duration // of affinity, for which the table has rules
	dirty    map[snapshot.ServiceName]struct{}
	triggers map[snapshot.ServiceName][]time.Time
	problems map[snapshot.ServiceName][]desired.Problem
	refused  map[snapshot.ServiceName]nft.Refusal
	udp      udpTable
	passed   bool // connections may have gone past the table while it was not there
	noLocal  noLocal
	repaired time.Time
	fault    string
	// elements are those of the sets when they were counted last.
	elements map[string]int
	counted  time.Time
}

// New makes a loop that has not started.
func New(cfg Config) *Loop {
	return &Loop{
		cfg: cfg, claims: desired.NewClaims(), ledger: nft.NewLedger(cfg.Table), started: time.Now(),
		dirty: map[snapshot.ServiceName]struct{}{}, triggers: map[snapshot.ServiceName][]time.Time{},
		problems: map[snapshot.ServiceName][]desired.Problem{}, refused: map[snapshot.ServiceName]nft.Refusal{}, udp: newUDPTable(),
		noLocal: noLocal{of: map[snapshot.ServiceName]desired.NoLocal{}},
	}
}

// Report is the outcome of the last pass; ok is false before the first.
func (l *Loop) Report() (r Report, ok bool) {
	if p := l.report.Load(); p != nil {
		return *p, true
	}
	return Report{}, false
}

// healthTimeout is how long changes may wait before the proxy counts as unhealthy; kube-proxy's is the same.
const healthTimeout = time.Minute

// Healthy tells whether changes are put in force in time; while it starts the proxy is healthy.
func (l *Loop) Healthy(now time.Time) bool {
	since := l.pending.Load()
	return l.updated.Load() == nil || since == nil || now.Sub(*since) < healthTimeout
}

// Updated is when everything was last in force; zero before the first time.
func (l *Loop) Updated() time.Time {
	if at := l.updated.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

var errNotSynced = errors.New("the Services of the cluster are not programmed yet")

// Ready tells whether every Service is in force, and if not why.
func (l *Loop) Ready() error {
	r, ok := l.Report()
	switch {
	case !ok:
		return errNotSynced
	case r.Waiting != "":
		return errors.New(r.Waiting)
	case r.Err != nil:
		return r.Err
	case !r.Synced:
		return errNotSynced
	default:
		return nil
	}
}

// admitAfter bounds how long new Pods wait for the first programming of Services: when the API server
// is away, a Pod without Services is better than none.
const admitAfter = 20 * time.Second

// Admit tells whether a Pod may start: its first look-up of a name must not fail because the agent
// has just been started. It does not hold Pods up for long.
func (l *Loop) Admit(now time.Time) error {
	if r, ok := l.Report(); (ok && r.Synced) || now.Sub(l.started) > admitAfter {
		return nil
	}
	return errNotSynced
}

func (c Config) started() {
	if c.Started != nil {
		c.Started()
	}
}
