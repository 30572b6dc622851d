//go:build linux

package bpf

import (
	"context"
	"errors"
	"sync"

	"github.com/weftnet/weftnet/agent/state"
)

// Fake is a balancer in memory. It obeys the order of calls and refuses what the kernel's refuses.
type Fake struct {
	mu     sync.Mutex
	book   *book
	synced bool
}

var _ Balancer = (*Fake)(nil)

// NewFake returns a balancer that has not been given anything.
func NewFake() *Fake { return &Fake{book: newBook()} }

// Sync is the Balancer's.
func (f *Fake) Sync(ctx context.Context, all []Wanted) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced = true
	_, err := f.book.reset(all)
	return err
}

// Set is the Balancer's.
func (f *Fake) Set(ctx context.Context, wanted ...Wanted) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced {
		return ErrNotSynced
	}
	faults := []error{ctx.Err()}
	for _, w := range wanted {
		_, err := f.book.set(w)
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// Observe is the Balancer's.
func (f *Fake) Observe(ctx context.Context) ([]state.SocketFrontend, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced {
		return nil, ErrNotSynced
	}
	out := f.book.inForce()
	for i := range out {
		out[i].Group = "" // a table holds a number made of it
	}
	return out, ctx.Err()
}
