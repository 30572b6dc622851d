//go:build linux

package bpf

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// pool is a list of endpoints under a number of its own. It is never changed: other endpoints are
// another pool, so that a reader has either the old ones or the new ones.
type pool struct {
	id        uint32
	users     int
	endpoints []netip.AddrPort
	// sticky pools can be asked whether an address is in them.
	sticky bool
}

// entry is where a frontend leads.
type entry struct {
	pool     *pool
	affinity uint32
	group    uint64
}

// same tells whether a frontend leads there.
func (e entry) same(f state.SocketFrontend) bool {
	seconds, group := stickiness(f)
	return e.affinity == seconds && e.group == group && slices.Equal(e.pool.endpoints, f.Endpoints)
}

// put is an entry to write.
type put struct {
	frontend address
	entry
}

// ledger is what a set of tables holds, as far as we wrote it.
type ledger struct {
	entries map[address]entry
	lastID  uint32
	// size counts the elements of the tables.
	size size
}

// size is a number of elements for each table whose size follows the number of Services.
type size struct{ services, endpoints, members uint32 }

// fits says whether tables for so many elements hold them.
func (s size) fits(room size) bool {
	return s.services <= room.services && s.endpoints <= room.endpoints && s.members <= room.members
}

func (s size) String() string {
	return fmt.Sprintf("%d frontends, %d endpoints, %d members", s.services, s.endpoints, s.members)
}

// change is what is written, in this order, so that every reader finds what it was led to: new pools,
// then what leads to them, then what leads nowhere, then the pools that nothing leads to any more.
type change struct {
	addPools    []*pool
	put         []put
	remove      []address
	removePools []*pool
	// peak is what the tables hold at the most on the way.
	peak size
}

func (c change) empty() bool { return len(c.put)+len(c.remove) == 0 }

func (c change) String() string {
	return fmt.Sprintf("put %d frontends and %d pools, remove %d and %d", len(c.put), len(c.addPools), len(c.remove), len(c.removePools))
}

func newLedger() *ledger { return &ledger{entries: map[address]entry{}} }

// plan works out how the tables follow the book at some addresses, and notes the result as if it had
// been written: after a failure the ledger is worth nothing.
func (l *ledger) plan(addresses []netip.AddrPort, held map[address]held) change {
	var c change
	for _, at := range addresses {
		a := toAddress(at)
		have, had := l.entries[a]
		h, wanted := held[a]
		if !wanted && !had || wanted && had && have.same(h.frontend()) {
			continue
		}
		if !wanted {
			delete(l.entries, a)
			c.remove = append(c.remove, a)
			c.drop(have.pool)
			continue
		}
		f := h.frontend()
		next := entry{pool: l.poolFor(&c, have.pool, f)}
		next.affinity, next.group = stickiness(f)
		next.pool.users++
		if had {
			c.drop(have.pool)
		}
		l.entries[a] = next
		c.put = append(c.put, put{a, next})
	}
	l.settle(&c)
	return c
}

// drop gives up one use of a pool.
func (c *change) drop(p *pool) {
	if p.users--; p.users == 0 {
		c.removePools = append(c.removePools, p)
	}
}

// poolFor returns the pool in use where it has the right endpoints, or one that was made for another
// frontend of the same change, or a new one.
func (l *ledger) poolFor(c *change, have *pool, f state.SocketFrontend) *pool {
	fits := func(p *pool) bool {
		return p != nil && p.sticky == (f.Affinity != 0) && slices.Equal(p.endpoints, f.Endpoints)
	}
	if fits(have) {
		return have
	}
	// The frontends of one Service come one after the other, mostly.
	for i := len(c.addPools) - 1; i >= max(0, len(c.addPools)-4); i-- {
		if fits(c.addPools[i]) {
			return c.addPools[i]
		}
	}
	l.lastID++
	p := &pool{id: l.lastID, endpoints: f.Endpoints, sticky: f.Affinity != 0}
	c.addPools = append(c.addPools, p)
	return p
}

// settle leaves out pools that came and went within the change, and does the sums.
func (l *ledger) settle(c *change) {
	unused := func(p *pool) bool { return p.users == 0 }
	gone := map[*pool]bool{}
	for _, p := range c.addPools {
		gone[p] = unused(p)
	}
	c.addPools = slices.DeleteFunc(c.addPools, unused)
	// A pool may have been dropped and taken up again, or twice dropped.
	slices.SortFunc(c.removePools, func(a, b *pool) int { return int(a.id) - int(b.id) })
	c.removePools = slices.DeleteFunc(slices.Compact(c.removePools), func(p *pool) bool { return gone[p] || p.users > 0 })
	c.peak = l.size
	for _, p := range c.addPools {
		c.peak.add(p, 1)
	}
	// What is put may be there already; counting it twice only makes room early.
	c.peak.services += uint32(len(c.put))
	l.size = c.peak
	for _, p := range c.removePools {
		l.size.add(p, -1)
	}
	l.size.services = uint32(len(l.entries))
}

func (s *size) add(p *pool, sign int) {
	n := uint32(sign * len(p.endpoints))
	s.endpoints += n
	if p.sticky {
		s.members += n
	}
}
