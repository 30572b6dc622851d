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
	// bulk is the table that is written quietly.
	bulk atomic.Pointer[Kernel]
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

// commit counts the transactions that change something. That of a bulk does. One of another table meanwhile may not, such as
// adding an element that is there, and is counted as the kernel does: else it would stand for a stranger's.
func (c *company) commit(k *Kernel, f func() error) error {
	c.mu.RLock()
	if bulk := c.bulk.Load(); bulk == nil || bulk == k {
		defer c.mu.RUnlock()
		err := f()
		if err == nil {
			c.commits.Add(1)
		}
		return err
	}
	c.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	before, err1 := k.conn.generation()
	err := f()
	if after, err2 := k.conn.generation(); err1 == nil && err2 == nil && after != before {
		c.commits.Add(1)
	}
	return err
}

// alone runs f while none of the company's tables is written.
func (c *company) alone(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// Quietly runs f, which writes much, while none of the company's tables listens for changes. The kernel makes an event of each
// element as long as anybody does, our own included, which is a quarter of what a transaction costs. That nobody else has
// changed anything meanwhile, in any table, is told by the kernel's count of transactions; if that is not ours, every
// table is told that events were lost.
func (k *Kernel) Quietly(f func() error) error {
	c := k.company
	if !c.bulk.CompareAndSwap(nil, k) {
		return f()
	}
	defer c.bulk.Store(nil)
	begin, known := c.strangers(k)
	for _, m := range c.members {
		known = m.events.Pause() == nil && known
	}
	defer func() {
		for _, m := range c.members {
			known = m.events.Resume() == nil && known
		}
		end, ok := c.strangers(k)
		if known && ok && begin == end {
			return
		}
		for _, m := range c.members {
			m.events.Missed()
		}
	}()
	return f()
}

// strangers is how many transactions of other programs the kernel has counted, from any beginning; ok is false where it does
// not tell. It asks through the socket of k, which is its caller's.
func (c *company) strangers(k *Kernel) (n uint32, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	generation, err := k.conn.generation()
	return generation - c.commits.Load(), err == nil
}
