//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

const (
	// gather is how long changes are gathered when the last pass has only just ended, so that a burst
	// is some passes and not thousands. A single change does not wait.
	gather = time.Millisecond
	// lookAround is how often the facts of the node and the sizes of the sets are compared.
	lookAround = time.Second
	checkEvery = 30 * time.Second
	// listEvery is how often the whole table is listed and compared, in case that events and sizes told
	// nothing. Listing 500,000 elements takes seconds.
	listEvery = time.Hour
	// batch is how many Services are computed before they are written: not all elements of 40,000
	// Services are in memory at once.
	batch = 256

	shortestPause = 50 * time.Millisecond
	longestPause  = 2 * time.Second
	// retryRefused is how often it is tried again to write what the kernel refused.
	retryRefused = 30 * time.Second
)

// Run turns the loop until the context ends, and leaves everything standing.
func (l *Loop) Run(ctx context.Context) error {
	events := l.watch(ctx)
	tick, check, list, again := time.NewTicker(lookAround), time.NewTicker(checkEvery), time.NewTicker(listEvery), time.NewTicker(retryRefused)
	for _, t := range []*time.Ticker{tick, check, list, again} {
		defer t.Stop()
	}
	var pause time.Duration
	var ended time.Time
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-l.cfg.Source.Changed():
			if wait := gather - time.Since(ended); wait > 0 {
				sleep(ctx, wait)
			}
		case _, open := <-events:
			l.doubtful = true
			if !open {
				events = l.watch(ctx)
			}
		case <-tick.C:
		case <-check.C:
			if events == nil {
				events = l.watch(ctx)
			}
			l.checkSizes(ctx)
		case <-list.C:
			l.doubtful = true
		case <-again.C:
			l.tryRefused()
		}
		if err := l.turn(ctx); err != nil && ctx.Err() == nil {
			pause = min(max(2*pause, shortestPause), longestPause)
			sleep(ctx, pause) // the ticker looks again, or what happened meanwhile
		} else {
			pause = 0
		}
		ended = time.Now()
	}
	return nil
}

// watch subscribes to changes of the table. Where that fails the table is listed every time that it
// is tried again: a proxy that sees less is better than none.
func (l *Loop) watch(ctx context.Context) <-chan struct{} {
	if l.cfg.Watch == nil {
		return nil
	}
	l.doubtful = true // what happened while nobody listened is unknown
	events, err := l.cfg.Watch(ctx)
	if err != nil && ctx.Err() == nil {
		l.cfg.Log.Warn("changes of the table by others are not told; it is listed instead", "error", err)
	}
	return events
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// checkSizes compares the number of elements in the kernel with what was written.
func (l *Loop) checkSizes(ctx context.Context) {
	if l.cfg.Sizes == nil || !l.synced {
		return
	}
	have, ok, err := l.cfg.Sizes(ctx)
	if err != nil || !ok {
		return
	}
	for set, want := range l.ledger.Elements() {
		if n, counted := have[set]; counted && n != want {
			l.cfg.Log.Warn("a set does not have the elements that were written", "set", set, "elements", n, "written", want)
			l.doubtful = true
		}
	}
}

func (l *Loop) tryRefused() {
	for name := range l.refused {
		l.dirty[name] = struct{}{}
	}
}

// turn is one pass, with its outcome reported.
func (l *Loop) turn(ctx context.Context) error {
	started := time.Now()
	l.turned.Store(started.UnixNano())
	waiting, err := l.pass(ctx, started)
	if ctx.Err() != nil {
		return nil // the agent is stopping
	}
	l.turned.Store(time.Now().UnixNano())
	l.tell(waiting, err)
	if err != nil {
		l.cfg.Recorder.Failed()
	}
	return err
}

// pass takes up what has changed and puts it in force.
func (l *Loop) pass(ctx context.Context, now time.Time) (waiting string, err error) {
	if !l.cfg.Source.Synced() {
		return "not every list of Services and EndpointSlices has been read from the API server yet", nil
	}
	node, ok := l.cfg.Facts()
	if !ok {
		return "the node's addresses are not known yet", nil
	}
	l.take(now)
	full := !l.known || !l.node.Equal(node)
	if full {
		if err := l.newFacts(ctx, node); err != nil {
			return "", err
		}
	}
	if l.doubtful {
		if err := l.repair(ctx); err != nil {
			return "", err
		}
	}
	if len(l.dirty) == 0 && l.synced && !l.udp.suspect {
		return "", nil
	}
	if err := l.program(ctx); err != nil {
		return "", err
	}
	err = l.afterwards(ctx, now, full)
	return "", err
}

// take collects the changes; they stay until they are in force.
func (l *Loop) take(now time.Time) {
	c := l.cfg.Source.Take()
	for name := range c.Services {
		l.dirty[name] = struct{}{}
	}
	for name, at := range c.Triggers {
		l.triggers[name] = append(l.triggers[name], at...)
	}
	if len(l.dirty) > 0 {
		l.pending.CompareAndSwap(0, now.UnixNano())
	}
	if c.ServiceEvents+c.SliceEvents > 0 {
		l.cfg.Recorder.Queued(c.ServiceEvents, c.SliceEvents, now)
	}
}

// newFacts writes the frame. Every Service may want something else then.
func (l *Loop) newFacts(ctx context.Context, node snapshot.ServiceNode) error {
	names := l.cfg.Source.Names()
	timeouts := l.timeouts
	if !l.known {
		timeouts = l.allTimeouts(names, node) // or rules that an earlier run made would go, and come again
	}
	if err := l.frame(ctx, node, timeouts); err != nil {
		return err
	}
	if !l.known {
		l.doubtful = false // it has just been listed
	}
	l.node, l.known = node, true
	for _, name := range names {
		l.dirty[name] = struct{}{}
	}
	for _, owner := range l.ledger.Known() {
		l.dirty[nameOf(owner)] = struct{}{}
	}
	return nil
}

func (l *Loop) frame(ctx context.Context, node snapshot.ServiceNode, timeouts []time.Duration) error {
	out, err := l.ledger.Frame(ctx, desired.Table(node, timeouts))
	l.cfg.Recorder.Wrote(out)
	l.note(out)
	if err != nil {
		return fmt.Errorf("write the rules: %w", err)
	}
	l.timeouts = timeouts
	return nil
}

func (l *Loop) allTimeouts(names []snapshot.ServiceName, node snapshot.ServiceNode) []time.Duration {
	var out []time.Duration
	for _, name := range names {
		if svc, _, ok := l.cfg.Source.Get(name); ok && svc.Affinity > 0 {
			out = append(out, desired.For(svc, nil, node).Timeouts()...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func nameOf(owner string) snapshot.ServiceName {
	namespace, name, _ := strings.Cut(owner, "/")
	return snapshot.ServiceName{Namespace: namespace, Name: name}
}

// repair lists the table and puts right what is not as it was written.
func (l *Loop) repair(ctx context.Context) error {
	out, err := l.ledger.Reload(ctx)
	l.cfg.Recorder.Wrote(out)
	if err != nil {
		return fmt.Errorf("repair the table: %w", err)
	}
	l.doubtful = false
	l.note(out)
	if out.Transactions > 0 && l.synced {
		l.cfg.Recorder.Repaired()
		l.cfg.Log.Info("put back what somebody else had changed", "table", state.ServiceTableName, "change", out.String(), "rules", out.Frame.String())
	}
	return nil
}

// program writes the Services that may have changed, and those that a change of theirs concerns.
func (l *Loop) program(ctx context.Context) error {
	for len(l.dirty) > 0 {
		for part := range slices.Chunk(l.order(), batch) {
			if err := l.programPart(ctx, part); err != nil {
				return err
			}
		}
	}
	if l.synced {
		return nil
	}
	out, err := l.ledger.Sweep(ctx)
	l.cfg.Recorder.Wrote(out)
	if err != nil {
		return fmt.Errorf("delete what an earlier run left: %w", err)
	}
	var faults []error
	for _, s := range l.cfg.Sinks {
		faults = append(faults, s.Complete(ctx))
	}
	return errors.Join(faults...)
}

func (l *Loop) programPart(ctx context.Context, names []snapshot.ServiceName) error {
	wanted, others := l.plan(names)
	if err := l.moreTimeouts(ctx, wanted); err != nil {
		return err
	}
	puts := make([]nft.Wanted, len(wanted))
	for i, w := range wanted {
		svc, slices, _ := l.cfg.Source.Get(w.Service)
		puts[i] = nft.Wanted{Owner: w.Service.String(), Rank: rankOf(svc, len(slices) > 0), Age: w.Created.Unix(), Sets: w.Sets()}
	}
	out, err := l.ledger.Put(ctx, puts)
	l.cfg.Recorder.Wrote(out)
	l.note(out)
	if err != nil {
		return fmt.Errorf("write the elements: %w", err)
	}
	if err := l.written(ctx, wanted, out); err != nil {
		return err
	}
	for _, name := range others {
		l.dirty[name] = struct{}{}
	}
	return nil
}

// plan computes what Services want, and names others for which that changes something.
func (l *Loop) plan(names []snapshot.ServiceName) (wanted []desired.Wanted, others []snapshot.ServiceName) {
	wanted = make([]desired.Wanted, len(names))
	for i, name := range names {
		svc, slices, ok := l.cfg.Source.Get(name)
		if !ok {
			wanted[i] = desired.Wanted{Service: name}
			others = append(others, l.claims.Delete(name)...)
			continue
		}
		wanted[i] = desired.For(svc, slices, l.node)
		others = append(others, l.claims.Set(wanted[i])...)
	}
	for i := range wanted {
		wanted[i] = l.claims.Settle(wanted[i])
	}
	return wanted, others
}

// moreTimeouts sees that the table has rules for every timeout of affinity.
func (l *Loop) moreTimeouts(ctx context.Context, wanted []desired.Wanted) error {
	timeouts := slices.Clone(l.timeouts)
	for _, w := range wanted {
		timeouts = append(timeouts, w.Timeouts()...)
	}
	slices.Sort(timeouts)
	if timeouts = slices.Compact(timeouts); len(timeouts) == len(l.timeouts) {
		return nil
	}
	return l.frame(ctx, l.node, timeouts)
}

// order sorts the Services that may have changed: what everything else needs comes first, then what has
// endpoints. It only matters when there are many.
func (l *Loop) order() []snapshot.ServiceName {
	type ranked struct {
		name snapshot.ServiceName
		rank uint8
	}
	all := make([]ranked, 0, len(l.dirty))
	for name := range l.dirty {
		rank := uint8(0)
		if len(l.dirty) > 1 {
			svc, eps, _ := l.cfg.Source.Get(name)
			rank = rankOf(svc, len(eps) > 0)
		}
		all = append(all, ranked{name, rank})
	}
	slices.SortFunc(all, func(a, b ranked) int {
		if a.rank != b.rank {
			return int(a.rank) - int(b.rank)
		}
		return a.name.Compare(b.name)
	})
	names := make([]snapshot.ServiceName, len(all))
	for i, r := range all {
		names[i] = r.name
	}
	return names
}

// The ranks of Services.
const (
	rankFirst uint8 = iota // the API server and the names
	rankServed
	rankEmpty
)

const portDNS = 53

func rankOf(svc snapshot.Service, served bool) uint8 {
	switch {
	case svc.Namespace == "default" && svc.Name == "kubernetes":
		return rankFirst
	case svc.Namespace == "kube-system" && slices.ContainsFunc(svc.Ports, func(p snapshot.ServicePort) bool { return p.Port == portDNS }):
		return rankFirst
	case served:
		return rankServed
	default:
		return rankEmpty
	}
}

// note keeps which Services the kernel refused.
func (l *Loop) note(out nft.Outcome) {
	for _, r := range out.Refused {
		name := nameOf(r.Owner)
		if _, known := l.refused[name]; !known {
			l.cfg.Log.Warn("the kernel refuses a Service; it keeps what it had", "service", name.String(), "error", r.Err)
		}
		l.refused[name] = r
	}
}

// written is called for Services that the ledger has taken.
func (l *Loop) written(ctx context.Context, wanted []desired.Wanted, out nft.Outcome) error {
	for _, w := range wanted {
		l.udp.put(w.Service, w.Frontends)
		if l.problems[w.Service] = w.Problems; len(w.Problems) == 0 {
			delete(l.problems, w.Service)
		}
		if _, was := l.refused[w.Service]; was && !slices.ContainsFunc(out.Refused, func(r nft.Refusal) bool { return r.Owner == w.Service.String() }) {
			delete(l.refused, w.Service)
			l.cfg.Log.Info("the kernel takes a Service that it refused before", "service", w.Service.String())
		}
	}
	var faults []error
	for _, s := range l.cfg.Sinks {
		faults = append(faults, s.Put(ctx, wanted))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	for _, w := range wanted {
		delete(l.dirty, w.Service)
	}
	return nil
}

// afterwards is what follows when all is written: connection tracking, measurements.
func (l *Loop) afterwards(ctx context.Context, now time.Time, full bool) error {
	if !l.synced {
		l.udp.suspect = len(l.udp.targets) > 0 // an earlier run may not have come to it
	}
	if !l.synced {
		// The first lists and the first computation leave garbage many times what stays.
		go debug.FreeOSMemory()
	}
	l.synced = true
	if err := l.cutStale(ctx); err != nil {
		return err
	}
	done := time.Now()
	l.pending.Store(0)
	l.updated.Store(done.UnixNano())
	for name, times := range l.triggers {
		for _, at := range times {
			l.cfg.Recorder.Programmed(done.Sub(at))
		}
		delete(l.triggers, name)
	}
	l.cfg.Recorder.Synced(done.Sub(now), full, done)
	return nil
}

// cutStale deletes the UDP flows that go where no new one would.
func (l *Loop) cutStale(ctx context.Context) error {
	if !l.udp.suspect || l.cfg.Flows == nil {
		return nil
	}
	started := time.Now()
	n, err := l.cfg.Flows.DeleteWhere(ctx, state.ProtoUDP, l.udp.stale)
	if err != nil {
		return fmt.Errorf("delete stale flows: %w", err)
	}
	l.udp.settled()
	l.cfg.Recorder.FlowsDeleted(n, time.Since(started))
	return nil
}

// tell publishes the report.
func (l *Loop) tell(waiting string, err error) {
	r := Report{Synced: l.synced, Waiting: waiting, Err: err, Services: l.ledger.Owners(), Elements: l.ledger.Elements(), At: time.Now()}
	for _, refusal := range l.refused {
		r.Refused = append(r.Refused, refusal)
	}
	slices.SortFunc(r.Refused, func(a, b nft.Refusal) int { return strings.Compare(a.Owner, b.Owner) })
	for _, p := range l.problems {
		r.Problems = append(r.Problems, p...)
	}
	for _, more := range l.cfg.Problems {
		r.Problems = append(r.Problems, more()...)
	}
	slices.SortFunc(r.Problems, func(a, b desired.Problem) int { return a.Service.Compare(b.Service) })
	l.report.Store(&r)
	select {
	case l.reported <- struct{}{}:
	default:
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == l.fault:
	case err != nil:
		l.cfg.Log.Warn("not every Service is in force; trying again", "error", err)
	default:
		l.cfg.Log.Info("every Service is in force again")
	}
	l.fault = text
}
