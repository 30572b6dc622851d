//go:build linux

package nft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// Table is what keeps one table: the Kernel, or its Fake.
type Table interface {
	// Observe lists the whole table.
	Observe(ctx context.Context) (Observed, error)
	// Apply carries out a change as one transaction: all of it or, on an error, nothing.
	Apply(ctx context.Context, c Change) error
}

// Kernel keeps one table of family inet in one network namespace.
type Kernel struct {
	family, name string
	conn         *conn
	events       *wire.Events
	// strangers counts events of other programs' changes of our table.
	strangers atomic.Uint64

	// company are the tables of the same program that know of each other, this one at least.
	company *company

	// writing is held from the look at the table to the end of the transaction.
	writing sync.Mutex

	mu sync.Mutex
	// known is what the kernel has as far as we know: what we last wrote, while nobody else has
	// been seen to touch the table. It spares listing large maps.
	known *state.Table
}

var _ Table = (*Kernel)(nil)

// New opens the mesh's table in the network namespace of the calling thread. It changes nothing.
func New() (*Kernel, error) { return NewTable(state.TableName) }

// NewTable opens the table of that name. Each part of the agent has one of its own, so that the
// kernel validates, and a repair lists, only what the part itself wrote.
func NewTable(name string) (*Kernel, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	events, err := wire.NewEvents(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	// A kernel without the filter tells of our own changes, too; concerns leaves them out.
	_ = events.Ignore(c.Port())
	k := &Kernel{family: "inet", name: name, conn: c, events: events}
	k.company = &company{members: []*Kernel{k}}
	return k, nil
}

// Close ends the sockets. The table stands.
func (k *Kernel) Close() error { return errors.Join(k.events.Close(), k.conn.Close()) }

// maxObserveTries bounds how often a listing that a change disturbed is repeated; the program's own changes, to any of its
// tables, disturb no more than maxDisturbed of them.
const maxObserveTries, maxDisturbed = 10, 3

// ErrUnsteady says that a table could not be listed, since something in the kernel's tables changed each time: nothing is
// wrong with what is wanted.
var ErrUnsteady = errors.New("other programs change the kernel's tables all the while")

// Observe lists the whole table as it is at one moment.
func (k *Kernel) Observe(ctx context.Context) (Observed, error) {
	var last error
	for i := range maxObserveTries {
		if err := ctx.Err(); err != nil {
			return Observed{}, err
		}
		var o Observed
		var stable bool
		var err error
		if i < maxDisturbed {
			o, stable, err = k.observeOnce()
		} else {
			k.company.alone(func() { o, stable, err = k.observeOnce() })
		}
		switch {
		case err == nil && stable:
			return o, nil
		case err == nil:
			last = wire.ErrInterrupted
		case errors.Is(err, wire.ErrInterrupted) || errors.Is(err, unix.ENOENT):
			last = err // something went away between two requests
		default:
			return Observed{}, fmt.Errorf("observe table %s %s: %w", k.family, k.name, err)
		}
	}
	return Observed{}, fmt.Errorf("observe table %s %s: %w: %w", k.family, k.name, ErrUnsteady, last)
}

func (k *Kernel) observeOnce() (Observed, bool, error) {
	before, err := k.conn.generation()
	if err != nil {
		return Observed{}, false, err
	}
	o, err := k.conn.observe(k.family, k.name)
	if err != nil {
		return Observed{}, false, err
	}
	after, err := k.conn.generation()
	return o, before == after, err
}

// Apply carries out a change: all of it or, on an error, nothing. It is one transaction, but for new chains that
// a map shall lead to, which are made by one before it. The error names the steps that the kernel refused.
func (k *Kernel) Apply(ctx context.Context, c Change) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	return unlocked{k}.Apply(ctx, c)
}

// unlocked is the Kernel for those that hold its lock for writing.
type unlocked struct{ *Kernel }

func (k unlocked) Apply(ctx context.Context, c Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.Empty() {
		return nil
	}
	k.forget()
	stages := c.stages()
	for i, stage := range stages {
		err := k.transact(stage)
		if err == nil {
			continue
		}
		if i > 0 {
			err = errors.Join(err, k.transact(stages[0].undo()))
		}
		return err
	}
	return nil
}

// transact carries out one transaction.
func (k unlocked) transact(c Change) error {
	msgs, err := encode(c)
	if err != nil {
		return fmt.Errorf("table %s %s: %w", c.Family, c.Name, err)
	}
	if len(msgs) == 0 {
		return nil
	}
	if err := k.company.commit(k.Kernel, func() error { return k.conn.batch(msgs) }); err != nil {
		return fmt.Errorf("change table %s %s: %w", c.Family, c.Name, err)
	}
	return nil
}

// Ensure observes the table and makes it as wanted. It returns what it changed.
func (k *Kernel) Ensure(ctx context.Context, want state.Table) (Change, error) {
	k.writing.Lock()
	defer k.writing.Unlock()
	return k.observeAndWrite(ctx, want)
}

func (k *Kernel) observeAndWrite(ctx context.Context, want state.Table) (Change, error) {
	k.forget()
	mark := k.strangers.Load()
	c, err := ensure(ctx, unlocked{k}, want)
	if err == nil {
		k.remember(want, mark)
	}
	return c, err
}

// Update makes the table as wanted without listing it, where nobody else has touched it since
// Ensure or Update last wrote it; else it is Ensure. It needs a Subscribe that runs. The wanted table
// is kept for the next time and must not be changed afterwards.
func (k *Kernel) Update(ctx context.Context, want state.Table) (Change, error) {
	k.writing.Lock()
	defer k.writing.Unlock()
	mark := k.strangers.Load()
	known, ok := k.recall()
	if !ok {
		return k.observeAndWrite(ctx, want)
	}
	c := diffTables(known, want)
	if err := (unlocked{k}).Apply(ctx, c); err != nil {
		return k.observeAndWrite(ctx, want)
	}
	k.remember(want, mark)
	return c, nil
}

// ensure observes, compares and applies, once more if the table changed in between.
func ensure(ctx context.Context, t Table, want state.Table) (Change, error) {
	const tries = 3
	var errs error
	for range tries {
		have, err := t.Observe(ctx)
		if err != nil {
			return Change{}, err
		}
		c := Diff(have, want)
		err = t.Apply(ctx, c)
		if err == nil {
			return c, nil
		}
		errs = err
		if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return Change{}, errs
}

// Counters reads the table's named counters.
func (k *Kernel) Counters(ctx context.Context) (map[string]Counter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var last error
	for range maxObserveTries {
		counters, err := k.conn.counters(k.family, k.name)
		if !errors.Is(err, wire.ErrInterrupted) {
			return counters, err
		}
		last = err
	}
	return nil, last
}

// Sizes counts the elements of the sets that it can count without listing them: those that are neither
// ranges nor filled by packets. counted is false before Linux 6.16, which does not tell. A table that
// does not exist has no sets.
func (k *Kernel) Sizes(ctx context.Context) (sizes map[string]int, counted bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	replies, err := k.conn.query(unix.NFT_MSG_GETSET, families[k.family], true, wire.Str(unix.NFTA_SET_TABLE, k.name))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, false, fmt.Errorf("list the sets of table %s %s: %w", k.family, k.name, err)
	}
	sizes, counted = map[string]int{}, true
	for _, r := range replies {
		attrs := payload(r)
		flags := wire.BigUint32(wire.Find(attrs, unix.NFTA_SET_FLAGS))
		const uncounted = unix.NFT_SET_ANONYMOUS | unix.NFT_SET_INTERVAL | unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
		if wire.String(wire.Find(attrs, unix.NFTA_SET_TABLE)) != k.name || flags&uncounted != 0 {
			continue
		}
		count := wire.Find(attrs, setCount)
		counted = counted && count != nil
		sizes[wire.String(wire.Find(attrs, unix.NFTA_SET_NAME))] = int(wire.BigUint32(count))
	}
	return sizes, counted, nil
}

// Cleanup deletes the whole table; one that does not exist is no error.
func (k *Kernel) Cleanup(ctx context.Context) error {
	return k.Apply(ctx, Delete(k.family, k.name))
}

func (k *Kernel) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known = nil
}

// remember keeps what was written, unless a stranger has been seen since the mark or nobody looks out for them. While nobody
// listens (Quietly) it is kept, too: if a stranger comes then, the end of that time forgets it.
func (k *Kernel) remember(t state.Table, mark uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.events.Reading() && k.strangers.Load() == mark {
		k.known = &t
	}
}

func (k *Kernel) recall() (state.Table, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil || !k.events.Reading() {
		return state.Table{}, false
	}
	return *k.known, true
}
