//go:build linux

package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
)

const (
	// gather is how long changes are gathered when the last pass has only just ended, so that a burst
	// is some passes and not thousands. A single change does not wait.
	gather = time.Millisecond
	// lookAround is how often the facts of the node and the sizes of the sets are compared; lookEarly
	// how often while there are none, since nothing else tells that they have come, and nobody is served
	// meanwhile.
	lookAround, lookEarly = time.Second, 10 * time.Millisecond
	checkEvery            = 30 * time.Second
	// listEvery is how often the whole table is listed and compared, in case that events and sizes told
	// nothing. Listing 500,000 elements takes seconds.
	listEvery = time.Hour
	// batch is how many Services are computed before they are written: not all elements of 40,000
	// Services are in memory at once.
	batch = 256
	// bulk is how many Services make it worth the while not to listen for others' changes meanwhile.
	bulk = 1000

	shortestPause = 50 * time.Millisecond
	longestPause  = 2 * time.Second
	// retryRefused is how often it is tried again to write what the kernel refused.
	retryRefused = 30 * time.Second
)

// Run turns the loop until the context ends, and leaves everything standing.
func (l *Loop) Run(ctx context.Context) error {
	events := l.watch(ctx)
	tick, check, list, again := time.NewTicker(lookEarly), time.NewTicker(checkEvery), time.NewTicker(listEvery), time.NewTicker(retryRefused)
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
		early := !l.known
		err := l.turn(ctx)
		if early && l.known {
			tick.Reset(lookAround)
		}
		if err != nil && ctx.Err() == nil {
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
	waiting, err := l.pass(ctx, started)
	if ctx.Err() != nil {
		return nil // the agent is stopping
	}
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
	if !l.known && l.cfg.Closed != nil && !l.cfg.Closed() {
		return "the fail-closed rules of the mesh are not in force yet, and without them nothing may be led to a Pod of another node", nil
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
	if len(l.dirty) == 0 && l.synced && !l.udp.suspect && !l.passed {
		return "", nil
	}
	write := func() error { return l.program(ctx) }
	if l.cfg.Quietly != nil && len(l.dirty) >= bulk {
		err = l.cfg.Quietly(write)
	} else {
		err = write()
	}
	if err != nil {
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
		l.pending.CompareAndSwap(nil, &now)
	}
	if c.ServiceEvents+c.SliceEvents > 0 {
		l.cfg.Recorder.Saw(c.ServiceEvents, c.SliceEvents)
	}
	if c.ServiceChanges+c.SliceChanges > 0 {
		l.cfg.Recorder.Queued(c.ServiceChanges, c.SliceChanges, now)
	}
}

// repair lists the table and puts right what is not as it was written.
func (l *Loop) repair(ctx context.Context) error {
	out, err := l.ledger.Reload(ctx)
	l.wrote(out)
	if err != nil {
		return fmt.Errorf("repair the table: %w", err)
	}
	l.doubtful = false
	if out.Transactions > 0 && l.synced {
		l.repaired = time.Now()
		l.cfg.Recorder.Repaired()
		l.cfg.Log.Info("put back what somebody else had changed", "table", state.ServiceTableName, "change", out.String(), "rules", out.Frame.String())
	}
	return nil
}

// afterwards is what follows when all is written: connection tracking, measurements.
func (l *Loop) afterwards(ctx context.Context, now time.Time, full bool) error {
	if !l.synced {
		l.udp.suspect = len(l.udp.targets) > 0 // an earlier run may not have come to it
		l.passed = true
		l.cfg.started()
	}
	l.synced = true
	if err := l.cutStale(ctx); err != nil {
		return err
	}
	done := time.Now()
	l.pending.Store(nil)
	l.updated.Store(&done)
	for name, times := range l.triggers {
		for _, at := range times {
			l.cfg.Recorder.Programmed(done.Sub(at))
		}
		delete(l.triggers, name)
	}
	l.cfg.Recorder.Synced(done.Sub(now), full, done)
	return nil
}

// cutStale deletes the flows that go where no new one would.
func (l *Loop) cutStale(ctx context.Context) error {
	if l.cfg.Flows == nil {
		l.udp.settled()
		l.passed = false
		return nil
	}
	if l.udp.suspect {
		if err := l.cut(ctx, l.cfg.Flows.DeleteWhere, state.ProtoUDP, l.udp.stale); err != nil {
			return err
		}
		l.udp.settled()
	}
	if l.passed {
		// A process that asks a Service while there are no rules, as on a node that has just booted, sends the same packet again and
		// again. Connection tracking remembers that the first one was not translated, and translates none of the others: the
		// connection would hang until the process gives up, and so would the next one from its port.
		for _, protocol := range []uint8{state.ProtoTCP, state.ProtoSCTP} {
			if err := l.cut(ctx, l.cfg.Flows.DeleteUnanswered, protocol, func(f conntrack.Flow) bool { return l.claims.Taken(frontendOf(f)) }); err != nil {
				return err
			}
		}
		l.passed = false
	}
	return nil
}

// cut deletes, by one of the ways to do so, the flows of a protocol that are stale, and counts them.
func (l *Loop) cut(ctx context.Context, by func(context.Context, uint8, func(conntrack.Flow) bool) (int, error), protocol uint8, stale func(conntrack.Flow) bool) error {
	started := time.Now()
	found := map[state.Family]int{}
	_, err := by(ctx, protocol, func(f conntrack.Flow) bool {
		if !stale(f) {
			return false
		}
		found[state.FamilyOf(f.Original.Dst.Addr().Unmap())]++
		return true
	})
	if err != nil {
		return fmt.Errorf("delete stale flows: %w", err)
	}
	l.cfg.Recorder.FlowsDeleted(found, time.Since(started))
	return nil
}

// tell publishes the report.
func (l *Loop) tell(waiting string, err error) {
	now := time.Now()
	if now.Sub(l.counted) > lookAround/2 || err != nil {
		l.counted, l.elements = now, l.ledger.Elements() // for the metrics, which need it not with every change
	}
	r := Report{Synced: l.synced, Waiting: waiting, Err: err, Services: l.ledger.Owners(), Elements: l.elements, NoLocal: l.noLocal.sum, Repaired: l.repaired, At: now}
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
