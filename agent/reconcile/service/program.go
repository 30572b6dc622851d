//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// newFacts writes the frame. Every Service may want something else then, but where only the ranges of
// Services have changed, which none of them looks at.
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
	apart := node
	apart.ServiceCIDRs = l.node.ServiceCIDRs
	rangesOnly := l.known && apart.Equal(l.node)
	if l.node, l.known = node, true; rangesOnly {
		return nil
	}
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
	l.wrote(out)
	if err != nil {
		return fmt.Errorf("write the rules: %w", err)
	}
	l.timeouts = timeouts
	return nil
}

func (l *Loop) allTimeouts(names []snapshot.ServiceName, node snapshot.ServiceNode) []time.Duration {
	var out []time.Duration
	for _, name := range names {
		if svc, _ := l.cfg.Source.Peek(name); svc != nil && svc.Affinity > 0 {
			out = append(out, desired.For(*svc, nil, node).Timeouts()...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func nameOf(owner string) snapshot.ServiceName {
	namespace, name, _ := strings.Cut(owner, "/")
	return snapshot.ServiceName{Namespace: namespace, Name: name}
}

// program writes the Services that may have changed, and those that a change of theirs concerns.
func (l *Loop) program(ctx context.Context) error {
	for len(l.dirty) > 0 {
		if err := l.programAll(ctx, l.order()); err != nil {
			return err
		}
		if len(l.dirty) == 0 {
			// A map keeps the room that it once had, and walking it costs the room, not what is in it: after
			// 40,000 Services at the start every single change would pay for them.
			l.dirty = map[snapshot.ServiceName]struct{}{}
		}
	}
	if l.synced {
		return nil
	}
	out, err := l.ledger.Sweep(ctx)
	l.cfg.Recorder.Wrote(out)
	if err != nil {
		l.cfg.Recorder.SweepFailed()
		return fmt.Errorf("delete what an earlier run left: %w", err)
	}
	var faults []error
	for _, s := range l.cfg.Sinks {
		faults = append(faults, s.Complete(ctx))
	}
	return errors.Join(faults...)
}

// programAll writes Services in parts. While the kernel takes one, the next is computed.
func (l *Loop) programAll(ctx context.Context, names []snapshot.ServiceName) error {
	parts := slices.Collect(slices.Chunk(names, batch))
	next := l.plan(parts[0])
	for i := range parts {
		now := next
		l.touch(now.others)
		if i == len(parts)-1 {
			return l.write(ctx, now)
		}
		planned := make(chan part, 1)
		go func() { planned <- l.plan(parts[i+1]) }()
		err := l.write(ctx, now)
		if next = <-planned; err != nil {
			l.touch(next.others) // what was noted of the next part's claims is not told again
			return err
		}
	}
	return nil
}

// part is some Services, computed and ready to be written.
type part struct {
	wanted []desired.Wanted
	puts   []nft.Wanted
	// others are Services for which that changes something.
	others []snapshot.ServiceName
}

// plan computes what Services want. It touches nothing of the loop but the claims.
func (l *Loop) plan(names []snapshot.ServiceName) part {
	p := part{wanted: make([]desired.Wanted, len(names)), puts: make([]nft.Wanted, len(names))}
	for i, name := range names {
		svc, slices, ok := l.cfg.Source.Get(name)
		p.puts[i] = nft.Wanted{Owner: name.String(), Rank: rankOf(&svc, len(slices) > 0)}
		if !ok {
			p.wanted[i] = desired.Wanted{Service: name}
			p.others = append(p.others, l.claims.Delete(name)...)
			continue
		}
		p.wanted[i] = desired.For(svc, slices, l.node)
		p.others = append(p.others, l.claims.Set(p.wanted[i])...)
	}
	for i := range p.wanted {
		p.wanted[i] = l.claims.Settle(p.wanted[i])
		p.puts[i].Age, p.puts[i].Sets = p.wanted[i].Created.Unix(), p.wanted[i].Sets()
	}
	return p
}

func (l *Loop) touch(names []snapshot.ServiceName) {
	for _, name := range names {
		l.dirty[name] = struct{}{}
	}
}

func (l *Loop) write(ctx context.Context, p part) error {
	if err := l.moreTimeouts(ctx, p.wanted); err != nil {
		return err
	}
	out, err := l.ledger.Put(ctx, p.puts)
	l.wrote(out)
	if err != nil {
		return fmt.Errorf("write the elements: %w", err)
	}
	return l.written(ctx, p.wanted, out)
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
			rank = rankOf(l.cfg.Source.Peek(name))
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

func rankOf(svc *snapshot.Service, served bool) uint8 {
	switch {
	case svc == nil:
		return rankEmpty
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

// wrote keeps what came of writing: which Services the kernel refused, and whether the table had to be looked at and put
// right, since it may not have been there for a while.
func (l *Loop) wrote(out nft.Outcome) {
	l.cfg.Recorder.Wrote(out)
	l.passed = l.passed || (out.Observed && out.Transactions > 0)
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
		l.noLocal.put(w.Service, w.NoLocal)
		if len(w.Problems) > 0 {
			l.problems[w.Service] = w.Problems
		} else {
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
