//go:build linux

package nft

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// Reload lists the table, and repairs what is not as recorded: the frame, and each owner's elements.
// Elements of nobody are deleted once Sweep has been called.
func (l *Ledger) Reload(ctx context.Context) (Outcome, error) {
	out := Outcome{Observed: true}
	l.suspect = true
	have, err := l.table.Observe(ctx)
	if err != nil {
		return out, err
	}
	l.reloading = true
	defer func() { l.reloading = false }()
	steps, refused := l.all(), maps.Clone(l.refused)
	l.clearIndex()
	for i, s := range steps {
		steps[i].next, s.record.elements = s.record.elements, ""
	}
	err = l.repairFrame(ctx, have, &out)
	if err == nil {
		var more Outcome
		more, err = l.write(ctx, steps)
		out.join(more)
	}
	if err != nil {
		l.restore(steps)
		l.refused = refused
		return out, err
	}
	l.keepRefused()
	l.forgetGone(steps)
	l.suspect = false
	if l.swept {
		more, err := l.sweep(ctx)
		out.join(more)
		return out, err
	}
	return out, nil
}

// restore takes every record back as a wish, after a reload that did not come to its end. What the
// kernel has is then unknown, and the next call is a Reload.
func (l *Ledger) restore(steps []ownerStep) {
	l.clearIndex()
	for _, s := range steps {
		l.stage(&transit{}, s.record, "", s.next)
	}
}

// all is every owner, in the order in which they are written anew.
func (l *Ledger) all() []ownerStep {
	steps := make([]ownerStep, 0, len(l.owners))
	for _, r := range l.owners {
		steps = append(steps, ownerStep{record: r})
	}
	slices.SortFunc(steps, func(a, b ownerStep) int {
		return cmp.Or(cmp.Compare(frameFirst(a.record), frameFirst(b.record)), cmp.Compare(a.record.rank, b.record.rank),
			strings.Compare(a.record.owner, b.record.owner))
	})
	return steps
}

func frameFirst(r *record) int {
	if r.owner == frameOwner {
		return 0
	}
	return 1
}

// repairFrame makes everything but the elements as wanted, and notes which elements are found in
// the sets that stay.
func (l *Ledger) repairFrame(ctx context.Context, have Observed, out *Outcome) error {
	change := Diff(withoutElements(have), l.frame)
	change.Elements = append(change.Elements, leadingTo(have, l.frame, change)...)
	if !change.Empty() {
		if err := l.table.Apply(ctx, change); err != nil {
			return err
		}
		out.Frame = change
		out.Transactions++
	}
	for i, s := range l.frame.Sets {
		l.found[i] = map[string]state.Element{}
		if slices.Contains(change.DelSets, s.Name) {
			continue
		}
		for _, e := range elementsOf(have, s.Name) {
			if !slices.Contains(change.DelChains, e.Verdict.Chain) {
				l.found[i][string(e.Key)+string(e.KeyEnd)] = e
			}
		}
	}
	return nil
}

// withoutElements is what is there, less the elements.
func withoutElements(have Observed) Observed {
	have.Sets = slices.Clone(have.Sets)
	for i := range have.Sets {
		have.Sets[i].Elements = nil
	}
	return have
}

func elementsOf(have Observed, set string) []state.Element {
	for _, h := range have.Sets {
		if h.Head.name == set {
			return h.Elements
		}
	}
	return nil
}

// leadingTo are the elements of sets that stay which lead to chains that go: they have to go first.
func leadingTo(have Observed, frame state.Table, change Change) []ElementChange {
	var out []ElementChange
	for _, s := range frame.Sets {
		if s.Kind != state.KindVMap || len(change.DelChains) == 0 || slices.Contains(change.DelSets, s.Name) {
			continue
		}
		var gone []state.Element
		for _, e := range elementsOf(have, s.Name) {
			if slices.Contains(change.DelChains, e.Verdict.Chain) {
				gone = append(gone, e)
			}
		}
		if len(gone) > 0 {
			out = append(out, ElementChange{Set: s, Delete: gone})
		}
	}
	return out
}

// keepRefused notes, of owners that were refused before anything of theirs was on record, what the kernel
// has under the keys that they want: it stands, it is not swept away, and the next try starts from it.
func (l *Ledger) keepRefused() {
	for name, refused := range l.refused {
		r := refused.owner
		if now := l.owners[name]; now != nil {
			r = now
		}
		if r.elements != "" {
			continue
		}
		has := make([][]state.Element, len(l.sets))
		for e, rest, ok := refused.wish.next(); ok; e, rest, ok = rest.next() {
			if f, found := l.found[e.set][e.key]; found {
				has[e.set] = append(has[e.set], f)
			}
		}
		if elements := pack(has); elements != "" {
			l.owners[name] = r
			l.stage(&transit{}, r, "", elements)
		}
	}
}

// Sweep deletes the elements that nobody has asked for since the table was listed. Call it when
// everything that is wanted has been put; from then on Reload does so too.
func (l *Ledger) Sweep(ctx context.Context) (Outcome, error) {
	l.swept = true
	l.keepRefused()
	return l.sweep(ctx)
}

func (l *Ledger) sweep(ctx context.Context) (Outcome, error) {
	var out Outcome
	c := Change{Family: l.frame.Family, Name: l.frame.Name}
	count := 0
	send := func() error {
		if count == 0 {
			return nil
		}
		if err := l.table.Apply(ctx, c); err != nil {
			l.suspect = true
			return fmt.Errorf("delete leftovers: %w", err)
		}
		out.Transactions++
		out.Deleted += count
		c.Elements, count = nil, 0
		return nil
	}
	for i, found := range l.found {
		left := slices.SortedFunc(maps.Values(found), state.Element.Compare)
		for part := range slices.Chunk(left, maxTransaction) {
			c.Elements = append(c.Elements, ElementChange{Set: l.frame.Sets[i], Delete: part})
			if count += len(part); count >= maxTransaction {
				if err := send(); err != nil {
					return out, err
				}
			}
		}
	}
	if err := send(); err != nil {
		return out, err
	}
	clear(l.found) // every entry is nil now
	return out, nil
}
