//go:build linux

package nft

import (
	"errors"
	"sync"
	"sync/atomic"
)

// company are the tables of one program that know of each other.
type company struct {
	members []*Kernel

	// mu is held for reading during a commit, and for writing where commits are counted.
	mu      sync.RWMutex
	commits atomic.Uint32
	quiet   atomic.Bool
}

// Acquaint tells the tables of one program of each other, before any of them is used: a transaction in one of them
// wakes none of the others. Without it they work as well, and each looks at what all others write: with 10,000
// Services at the start those are 50,000 events, and more than a socket holds.
func Acquaint(kernels ...*Kernel) error {
	together := &company{members: kernels}
	var ports []uint32
	for _, k := range kernels {
		ports = append(ports, k.conn.Port())
		k.company = together
	}
	var faults []error
	for _, k := range kernels {
		faults = append(faults, k.events.Ignore(ports...))
	}
	return errors.Join(faults...)
}

// commit counts the transactions that the kernel takes.
func (c *company) commit(f func() error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	err := f()
	if err == nil {
		c.commits.Add(1)
	}
	return err
}

// Quietly runs f, which writes much, while none of the company's tables listens for changes. The kernel makes an event of each
// element as long as anybody does, our own included, which is a quarter of what a transaction costs. That nobody else has
// changed anything meanwhile is told by the kernel's count of transactions; if that is not ours, every table
// is told that events were lost.
func (k *Kernel) Quietly(f func() error) error {
	c := k.company
	if !c.quiet.CompareAndSwap(false, true) {
		return f()
	}
	defer c.quiet.Store(false)
	begin, known := c.transactions()
	for _, m := range c.members {
		known = m.events.Pause() == nil && known
	}
	defer func() {
		for _, m := range c.members {
			known = m.events.Resume() == nil && known
		}
		end, ok := c.transactions()
		if known && ok && begin == end {
			return
		}
		for _, m := range c.members {
			m.events.Missed()
		}
	}()
	return f()
}

// transactions is how many the kernel has counted beyond our own; ok is false where it does not tell.
func (c *company) transactions() (others uint32, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	generation, err := c.members[0].conn.generation()
	return generation - c.commits.Load(), err == nil
}
