//go:build linux

package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/state"
)

const (
	// settle gathers the changes that come together: a deleted device is a dozen events.
	settle = 2 * time.Millisecond
	// settlePods does so for changes of Pods and of our routes, which CNI ADD writes by itself.
	settlePods = 100 * time.Millisecond
	// pollPeers is how often the peers are read. WireGuard sends no events, and what somebody
	// changes shall be back within a second. Reading 500 peers takes a few milliseconds.
	pollPeers = 700 * time.Millisecond
	// resync looks at everything again, in case an event was missed.
	resync = 30 * time.Second
	// replan bounds the age of a plan: endpoints are chosen by time, too.
	replan = 5 * time.Second
	// probeEvery is how often peers without a fresh handshake are probed.
	probeEvery = 5 * time.Second

	shortestPause = 50 * time.Millisecond
	longestPause  = 2 * time.Second
	// passTimeout bounds what a wireguard process that hangs can do to a pass.
	passTimeout = 10 * time.Second
)

// Run turns the loop until the context ends. It must be called on a thread in the node's network
// namespace, and leaves everything standing when it returns.
func (l *Loop) Run(ctx context.Context) error {
	l.root = ctx
	if err := l.cfg.Watch(ctx, l.wake); err != nil {
		return err
	}
	go l.forward(ctx, l.cfg.Source.Changed(), KindSnapshot)
	if l.cfg.Pods != nil {
		go l.forward(ctx, l.cfg.Pods.Changed(), KindPods)
	}
	poll, again := time.NewTicker(pollPeers), time.NewTicker(resync)
	defer poll.Stop()
	defer again.Stop()
	var retry retrier
	l.wake(KindAll)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			l.pending.Or(uint32(KindPoll))
		case <-again.C:
			l.pending.Or(uint32(KindAll))
		case <-l.woken:
			if retry.hasten() {
				continue
			}
			pause(ctx, settle)
		case <-retry.due():
			retry.clear()
			l.pending.Or(uint32(KindAll))
		}
		if kinds := l.take(retry.waiting()); kinds != 0 {
			retry.after(l.turn(ctx, kinds))
		}
	}
}

// take returns what is pending. While a failure cools down, only peers and settings are looked at, so that
// what keeps failing does not keep the loop busy.
func (l *Loop) take(coolingDown bool) Kind {
	if !coolingDown {
		return Kind(l.pending.Swap(0))
	}
	return Kind(l.pending.Load()) & KindPoll
}

func (l *Loop) forward(ctx context.Context, from <-chan struct{}, k Kind) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-from:
			if !open {
				return
			}
			l.wake(k)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// retrier grows the pause between failures.
type retrier struct {
	timer *time.Timer
	at    time.Time
	pause time.Duration
}

func (r *retrier) due() <-chan time.Time {
	if r.timer == nil {
		return nil
	}
	return r.timer.C
}

func (r *retrier) waiting() bool { return r.timer != nil }

// hasten shortens the pause because something has happened that may have cured the failure. It
// tells whether there was a pause.
func (r *retrier) hasten() bool {
	if r.timer == nil {
		return false
	}
	if time.Until(r.at) > shortestPause {
		r.start(shortestPause)
	}
	return true
}

func (r *retrier) start(d time.Duration) {
	r.timer, r.at = time.NewTimer(d), time.Now().Add(d)
}

func (r *retrier) clear() { r.timer = nil }

func (r *retrier) after(err error) {
	switch {
	case err == nil:
		r.pause = 0
		r.clear()
	case r.timer == nil:
		r.pause = min(max(2*r.pause, shortestPause), longestPause)
		r.start(r.pause)
	}
}

// turn is one pass, with its time and outcome told to whoever wants to know.
func (l *Loop) turn(ctx context.Context, kinds Kind) error {
	started := time.Now()
	upTo := l.askedSoFar()
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	err := l.pass(ctx, kinds, started)
	if ctx.Err() != nil && err != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return nil // the agent is stopping
	}
	l.cfg.Recorder.Pass(time.Since(started))
	if kinds != KindPoll {
		l.served(upTo, l.podsError(err))
	}
	ended := time.Now()
	l.turned.Store(&ended)
	return errors.Join(err, l.stages.podFaults)
}

// podsError is what those who wait for their Pods' part have to know of a pass that failed. The rest
// is tried again, and a Pod shall not wait for a peer.
func (l *Loop) podsError(err error) error {
	if l.stages.podsDone {
		return nil
	}
	return err
}

// pass looks at what may have changed, plans, and writes the difference.
func (l *Loop) pass(ctx context.Context, kinds Kind, now time.Time) error {
	l.stages.podsDone = false
	if kinds&KindBroken != 0 {
		kinds |= KindAll
		if err := l.cfg.Watch(l.root, l.wake); err != nil {
			l.wake(KindBroken)
			return l.finish(now, err)
		}
	}
	snap, known := l.cfg.Source.Snapshot()
	if !known {
		snap.Partial = true
	}
	if kinds == KindPods && l.planned.at != (time.Time{}) {
		return l.stages.podsOnly(ctx, l)
	}
	if err := l.look(ctx, kinds); err != nil {
		return l.finish(now, err)
	}
	l.backend.decide(ctx, l.cfg, snap.Config)
	f := l.facts(snap.InternalIPs, snap.ExternalIPs, now)
	l.liveness = f.Liveness
	l.noteAddresses(f.UplinkAddrs)
	if l.planned.outdated(kinds, f, now) {
		l.plan = mesh.Plan(mesh.Input{Snapshot: snap, Keys: l.cfg.Keys, Facts: f, Paths: l.plan.Paths, Now: now})
		l.plan.Problems = slices.SortedFunc(slices.Values(slices.Concat(l.plan.Problems, l.backend.problems())), mesh.Problem.Compare)
		l.planned = plannedFrom{at: now, facts: f}
		l.shareNetwork()
	}
	err := l.stages.run(ctx, l, kinds)
	l.probe(now, f)
	return l.finish(now, err)
}

func (l *Loop) noteAddresses(now []netip.Addr) {
	gone := slices.ContainsFunc(l.uplinks, func(a netip.Addr) bool { return !slices.Contains(now, a) })
	l.uplinks = slices.Clone(now)
	if gone && l.cfg.OnAddressGone != nil {
		l.cfg.OnAddressGone()
	}
}

func (l *Loop) shareNetwork() {
	if n := networkOf(l.plan); l.cfg.OnNetwork != nil && !n.equal(l.network) {
		l.network = n
		l.cfg.OnNetwork(n)
	}
}

// look reads what the facts are made of.
func (l *Loop) look(ctx context.Context, kinds Kind) error {
	if kinds&KindLinks != 0 || l.links == nil {
		links, err := l.cfg.Kernel.Node.Links(ctx)
		if err != nil {
			return err
		}
		l.links = links
	}
	for _, key := range l.cfg.Keys {
		have, stats, err := l.cfg.Kernel.WG.Inspect(ctx, key.Device())
		if err != nil { // it is not there yet, or the stage will say what is wrong
			have, stats = state.Device{}, nil
		}
		l.have[key.Device()], l.stats[key.Device()] = have, stats
	}
	return nil
}

func (l *Loop) facts(internal, external []netip.Addr, now time.Time) facts.Facts {
	return facts.Gather(facts.Observation{
		Links: l.links, InternalIPs: internal, ExternalIPs: external,
		IPv6: l.cfg.Kernel.Node.IPv6(), Backend: l.backend.kind,
		Peers: slices.Concat(slices.Collect(maps.Values(l.stats))...), Liveness: l.liveness, Now: now,
	})
}

// plannedFrom remembers what the plan was made of, so that reading unchanged counters each second
// does not plan each second.
type plannedFrom struct {
	at    time.Time
	facts facts.Facts
}

func (p plannedFrom) outdated(kinds Kind, f facts.Facts, now time.Time) bool {
	if kinds&(KindSnapshot|KindLinks) != 0 || now.Sub(p.at) >= replan || len(f.Peers) != len(p.facts.Peers) {
		return true
	}
	for key, s := range f.Peers {
		old, known := p.facts.Peers[key]
		if !known || old.Endpoint != s.Endpoint || old.LastHandshake.IsZero() != s.LastHandshake.IsZero() {
			return true
		}
	}
	return false
}

// probe makes WireGuard shake hands with peers of which nothing has been heard for long, and, when
// this node's own addresses have changed, tells every peer by sending from the new ones. It sends nothing without the
// fail-closed table, which keeps what is for a mesh address from the underlay where the way into the mesh is missing.
func (l *Loop) probe(now time.Time, f facts.Facts) {
	if l.cfg.Probe == nil || l.plan.Waiting != "" || !l.stages.table.done {
		return
	}
	moved := !slices.Equal(l.backend.announced, l.plan.Own.Endpoints)
	if moved {
		f = facts.Facts{}
	} else if now.Sub(l.probed) < probeEvery && !l.stages.peersChanged {
		return
	}
	if addresses := mesh.Probes(l.plan.Peers, f, now); len(addresses) > 0 {
		l.cfg.Probe(addresses)
	}
	l.probed, l.stages.peersChanged = now, false
	l.backend.announced = slices.Clone(l.plan.Own.Endpoints)
}

func (l *Loop) finish(now time.Time, err error) error {
	r := Report{Plan: l.plan, Facts: l.planned.facts, Links: l.links, BackendReason: l.backend.reason, Err: err, At: now}
	r.Facts.Liveness = l.liveness
	r.Facts.Peers = map[state.PublicKey]state.PeerStats{}
	for _, list := range l.stats {
		for _, s := range list {
			r.Facts.Peers[s.PublicKey] = s
		}
	}
	l.report.Store(&r)
	signal(l.reported)
	l.fault.tell(l.cfg.Log, "not everything is in force; trying again", "everything is in force again", err)
	l.podFault.tell(l.cfg.Log, "not every Pod of this node can be reached; trying again", "every Pod can be reached again", l.stages.podFaults)
	return err
}

// logged is the fault that was logged last, so that it is logged once, and once that it is over.
type logged string

func (f *logged) tell(log *slog.Logger, broken, whole string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == string(*f):
	case err != nil:
		log.Warn(broken, "error", err)
	default:
		log.Info(whole)
	}
	*f = logged(text)
}
