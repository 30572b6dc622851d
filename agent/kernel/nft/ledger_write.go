//go:build linux

package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// maxRefused is how many owners the kernel may refuse one by one before the fault is taken for
// everybody's.
const maxRefused = 64

// Put makes the elements of the given owners as wanted, those of each in one transaction, in the
// order given, each no more than once. Owners that are not named keep what they have. When the kernel says that something
// is not as it was written, the table is listed and all of it repaired. Owners whose elements the
// kernel refuses are in the outcome, and the others go on. On an error what was not written counts
// as not asked for.
func (l *Ledger) Put(ctx context.Context, wanted []Wanted) (Outcome, error) {
	steps, err := l.steps(wanted)
	if err != nil {
		return Outcome{}, err
	}
	var out Outcome
	if !l.suspect {
		if out, err = l.write(ctx, steps); !errors.Is(err, errUnlike) {
			l.takeBack(steps)
			l.forgetGone(steps)
			return out, err
		}
		out.Refused = nil
	}
	for _, s := range steps {
		s.record.elements = s.next
	}
	more, err := l.Reload(ctx)
	out.join(more)
	return out, err
}

// steps are the changes that the wishes mean.
func (l *Ledger) steps(wanted []Wanted) ([]ownerStep, error) {
	steps := make([]ownerStep, 0, len(wanted))
	for _, w := range wanted {
		next, err := l.packWanted(w)
		if err != nil {
			return nil, err
		}
		if old := l.owners[w.Owner]; old != nil && old.age != w.Age && old.elements != "" {
			// Another object of the same name: its rights over contested elements are its own.
			steps = append(steps, ownerStep{record: old, old: old.elements})
			delete(l.owners, w.Owner)
		}
		r := l.record(w)
		if next != r.elements || next == "" {
			steps = append(steps, ownerStep{record: r, old: r.elements, next: next})
		}
	}
	return steps, nil
}

// takeBack gives owners the records again that another object of the same name was to replace, where the kernel still
// has the old one's elements: nobody else would ever delete them.
func (l *Ledger) takeBack(steps []ownerStep) {
	for _, s := range steps {
		now := l.owners[s.record.owner]
		if now == s.record || s.record.elements == "" {
			continue
		}
		if now != nil && now.elements != "" {
			l.suspect = true // it has come beside what should have gone: only a look at the whole tells them apart
			continue
		}
		l.owners[s.record.owner] = s.record
	}
}

// forgetGone drops the records of owners that have nothing any more.
func (l *Ledger) forgetGone(steps []ownerStep) {
	for _, s := range steps {
		r := s.record
		if l.owners[r.owner] != r {
			continue
		}
		if r.elements == "" && r.owner != frameOwner {
			delete(l.owners, r.owner)
		}
		if r.elements == s.next {
			delete(l.refused, r.owner)
		}
	}
}

// errUnlike says that the kernel's table is not what we wrote.
var errUnlike = errors.New("the table is not as it was written")

// write carries the steps out in transactions of bounded size. While the kernel takes one, the next is made, which
// takes nearly as long; the order is kept, and a transaction is given to the kernel only when the one before
// it has been taken.
func (l *Ledger) write(ctx context.Context, steps []ownerStep) (Outcome, error) {
	var out Outcome
	var before *flight
	for len(steps) > 0 {
		t := &transit{}
		n := 0
		// What one object gives up and another of the same name gets is one owner's change.
		for ; n < len(steps) && (n == 0 || len(t.moves) < l.most || steps[n].record.owner == steps[n-1].record.owner); n++ {
			l.stage(t, steps[n].record, steps[n].old, steps[n].next)
		}
		if err := before.land(&out); err != nil {
			l.undo(t)
			if err := l.blame(ctx, before.t, err, &out); err != nil {
				return out, err
			}
			before = nil
			continue // the same steps, from what has become of those before
		}
		steps = steps[n:]
		before = l.launch(ctx, t, len(steps) > 0)
	}
	if err := before.land(&out); err != nil {
		return out, l.blame(ctx, before.t, err, &out)
	}
	return out, nil
}

// flight is a transaction that the kernel has been given; nil is one with nothing in it.
type flight struct {
	t              *transit
	deleted, added int
	answer         chan error
}

// launch gives a transaction to the kernel, and does not wait for the answer if there is something to do meanwhile.
func (l *Ledger) launch(ctx context.Context, t *transit, aside bool) *flight {
	c, deleted, added := l.change(t)
	if deleted+added == 0 {
		return nil
	}
	f := &flight{t: t, deleted: deleted, added: added, answer: make(chan error, 1)}
	if aside {
		go func() { f.answer <- l.table.Apply(ctx, c) }()
	} else {
		f.answer <- l.table.Apply(ctx, c)
	}
	return f
}

// land waits for the answer.
func (f *flight) land(out *Outcome) error {
	if f == nil {
		return nil
	}
	if err := <-f.answer; err != nil {
		return err
	}
	out.Transactions++
	out.Deleted += f.deleted
	out.Added += f.added
	return nil
}

// send gives one transaction to the kernel and waits for its answer.
func (l *Ledger) send(ctx context.Context, t *transit, out *Outcome) error {
	f := l.launch(ctx, t, false)
	if err := f.land(out); err != nil {
		return l.blame(ctx, t, err, out)
	}
	return nil
}

// blame undoes a transaction that was refused, the last one that was staged, and tries it in halves, until the owner is found
// that is to blame.
func (l *Ledger) blame(ctx context.Context, t *transit, err error, out *Outcome) error {
	l.undo(t)
	if Unlike(err) && !l.reloading && !l.knownRefused(t.steps) {
		return fmt.Errorf("%w: %w", errUnlike, err)
	}
	if !blamesContent(err) || len(out.Refused) >= maxRefused {
		return err
	}
	if len(t.steps) == 1 {
		l.refuse(ctx, t.steps[0], err, out)
		return nil
	}
	half := len(t.steps) / 2
	for _, part := range [][]ownerStep{t.steps[:half], t.steps[half:]} {
		again := &transit{}
		for _, s := range part {
			l.stage(again, s.record, s.old, s.next)
		}
		if err := l.send(ctx, again, out); err != nil {
			return err
		}
	}
	return nil
}

// Unlike tells the kernel's answers to a change that does not fit what is there: somebody else has
// changed it.
func Unlike(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY)
}

// blamesContent tells errors that something in the transaction may be the cause of from those of
// the kernel, the socket or our rights, which every transaction would meet.
func blamesContent(err error) bool {
	for _, general := range []error{unix.EPERM, unix.EACCES, unix.ENOMEM, unix.ENOBUFS, unix.EAGAIN, unix.EINTR, unix.EBADF,
		context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, general) {
			return false
		}
	}
	return true
}

// knownRefused tells whether the kernel has refused just these wishes after a look at the table:
// looking again would not help.
func (l *Ledger) knownRefused(steps []ownerStep) bool {
	return slices.ContainsFunc(steps, func(s ownerStep) bool { return s.next != "" && l.refused[s.record.owner].wish == s.next })
}

// refuse notes the owner, and asks the kernel which element it is.
func (l *Ledger) refuse(ctx context.Context, s ownerStep, err error, out *Outcome) {
	t := &transit{}
	l.stage(t, s.record, s.old, s.next)
	c, _, _ := l.change(t)
	l.undo(t)
	c.OneByOne = true
	exact := l.table.Apply(ctx, c)
	if exact == nil { // it fits after all: the fault was a passing one
		l.stage(&transit{}, s.record, s.old, s.next)
		out.Transactions++
		return
	}
	if blamesContent(exact) {
		err = exact
	}
	l.refused[s.record.owner] = refusedWish{wish: s.next, owner: s.record}
	out.Refused = append(out.Refused, Refusal{Owner: s.record.owner, Err: err})
}
