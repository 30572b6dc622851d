// Package ipam chooses the addresses of a node's Pods from the node's blocks. It is pure: it keeps
// no file and reads no clock, and its user locks it.
//
// Addresses are given out in a ring: the next one is the first free address behind the last one
// given, so that a released address rests as long as the block allows, and at least for the
// cooldown, in which connections and caches elsewhere forget its former Pod.
package ipam

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// ErrNoBlocks says that the node has no block yet.
var ErrNoBlocks = errors.New("the node has no pod CIDRs yet")

// ExhaustedError says that no address of a family is free.
type ExhaustedError struct {
	Family state.Family
	Blocks []netip.Prefix
	// Used and Cooling count the blocks' addresses; Next is when the first cooling one is free
	// again.
	Used, Cooling int
	Next          time.Duration
}

func (e *ExhaustedError) Error() string {
	blocks := make([]string, len(e.Blocks))
	for i, b := range e.Blocks {
		blocks[i] = b.String()
	}
	s := fmt.Sprintf("no free %s address in %s: %d in use", e.Family, strings.Join(blocks, ", "), e.Used)
	if e.Cooling > 0 {
		s += fmt.Sprintf(", %d cooling down after use (the next is free in %s)", e.Cooling, e.Next.Round(time.Second))
	}
	return s
}

// Usage counts the addresses of one block.
type Usage struct {
	Block               netip.Prefix
	Used, Cooling, Free int
}

// block is one range with its place in the ring.
type block struct {
	prefix      netip.Prefix
	first, last netip.Addr // the range that is given out
	size        int        // its addresses less the reserved ones, at most MaxInt
	recent      netip.Addr // the last one given; invalid before the first
}

// cooling is an address that was released.
type cooling struct {
	addr  netip.Addr
	until time.Time
}

// Pool is a node's addresses.
type Pool struct {
	cooldown time.Duration
	blocks   []block
	reserved map[netip.Addr]bool
	owner    map[netip.Addr]string
	owned    map[string][]netip.Addr
	cooling  []cooling // in the order of release
	coolSet  map[netip.Addr]bool
	recent   []netip.Addr // given in an earlier life, in order, for blocks not known yet
}

// New makes a pool without blocks.
func New(cooldown time.Duration) *Pool {
	return &Pool{
		cooldown: cooldown, reserved: map[netip.Addr]bool{},
		owner: map[netip.Addr]string{}, owned: map[string][]netip.Addr{}, coolSet: map[netip.Addr]bool{},
	}
}

// SetBlocks says which blocks to give addresses from, in order of preference, and which of their
// addresses are not for Pods. Addresses in use stay in use, whatever the blocks.
func (p *Pool) SetBlocks(prefixes []netip.Prefix, reserved []netip.Addr) {
	p.reserved = map[netip.Addr]bool{}
	for _, a := range reserved {
		p.reserved[a.Unmap()] = true
	}
	recent := append(slices.Clone(p.recent), p.Recent()...)
	p.blocks = p.blocks[:0:0]
	for _, prefix := range prefixes {
		if prefix = prefix.Masked(); !prefix.IsValid() {
			continue
		}
		b := newBlock(prefix, p.reserved)
		for _, a := range recent {
			if prefix.Contains(a) {
				b.recent = a
			}
		}
		p.blocks = append(p.blocks, b)
	}
}

// newBlock leaves out the addresses that mean something else: an IPv4 network's first and last
// (RFC 919), an IPv6 network's first (the routers' anycast address, RFC 4291 section 2.6.1).
func newBlock(prefix netip.Prefix, reserved map[netip.Addr]bool) block {
	b := block{prefix: prefix, first: prefix.Addr(), last: lastOf(prefix)}
	hostBits := prefix.Addr().BitLen() - prefix.Bits()
	if hostBits > 1 {
		b.first = b.first.Next()
		if prefix.Addr().Is4() {
			b.last = b.last.Prev()
		}
	}
	b.size = distance(b.first, b.last)
	for a := range reserved {
		if b.gives(a) && b.size < math.MaxInt {
			b.size--
		}
	}
	return b
}

func (b block) gives(a netip.Addr) bool {
	return a.BitLen() == b.first.BitLen() && b.first.Compare(a) <= 0 && a.Compare(b.last) <= 0
}

// after is the next address of the ring.
func (b block) after(a netip.Addr) netip.Addr {
	if !a.IsValid() || !a.Less(b.last) || a.Less(b.first) {
		return b.first
	}
	return a.Next()
}

// Restore records addresses that are in use since before, such as those read from disk. What another
// owner holds is refused.
func (p *Pool) Restore(owner string, addrs []netip.Addr) error {
	for _, a := range addrs {
		if have, taken := p.owner[a]; taken && have != owner {
			return fmt.Errorf("address %s belongs to both %s and %s", a, have, owner)
		}
	}
	p.take(owner, addrs)
	return nil
}

// Resume tells the pool of an earlier life which address it gave last; of each block the last one
// told counts.
func (p *Pool) Resume(addrs []netip.Addr) {
	p.recent = append(p.recent, addrs...)
	for i := range p.blocks {
		for _, a := range addrs {
			if p.blocks[i].prefix.Contains(a) {
				p.blocks[i].recent = a
			}
		}
	}
}

// Recent is the last address given of each block.
func (p *Pool) Recent() []netip.Addr {
	var out []netip.Addr
	for _, b := range p.blocks {
		if b.recent.IsValid() {
			out = append(out, b.recent)
		}
	}
	return out
}

// Allocate gives the owner one address of each family that has a block. What the owner has already
// it gets again.
func (p *Pool) Allocate(owner string, now time.Time) ([]netip.Addr, error) {
	if have := p.owned[owner]; len(have) > 0 {
		return slices.Clone(have), nil
	}
	if len(p.blocks) == 0 {
		return nil, ErrNoBlocks
	}
	p.thaw(now)
	var out []netip.Addr
	var chosen []int
	for _, family := range []state.Family{state.IPv4, state.IPv6} {
		i, a, err := p.find(family, now)
		if err != nil {
			return nil, err
		}
		if a.IsValid() {
			out, chosen = append(out, a), append(chosen, i)
		}
	}
	for n, i := range chosen {
		p.blocks[i].recent = out[n]
	}
	p.take(owner, out)
	return slices.Clone(out), nil
}

// find is the next free address of the family; none, and no error, when no block has the family.
func (p *Pool) find(family state.Family, now time.Time) (int, netip.Addr, error) {
	exhausted := &ExhaustedError{Family: family}
	for i, b := range p.blocks {
		if state.FamilyOf(b.prefix.Addr()) != family {
			continue
		}
		u := p.usage(b)
		if u.Free > 0 {
			for a := b.after(b.recent); ; a = b.after(a) {
				if p.free(a) {
					return i, a, nil
				}
			}
		}
		exhausted.Blocks = append(exhausted.Blocks, b.prefix)
		exhausted.Used += u.Used
		exhausted.Cooling += u.Cooling
	}
	if len(exhausted.Blocks) == 0 {
		return 0, netip.Addr{}, nil
	}
	if exhausted.Cooling > 0 {
		exhausted.Next = p.cooling[0].until.Sub(now)
	}
	return 0, netip.Addr{}, exhausted
}

func (p *Pool) free(a netip.Addr) bool {
	_, used := p.owner[a]
	return !used && !p.coolSet[a] && !p.reserved[a]
}

func (p *Pool) take(owner string, addrs []netip.Addr) {
	for _, a := range addrs {
		p.owner[a] = owner
		if p.coolSet[a] {
			delete(p.coolSet, a)
			p.cooling = slices.DeleteFunc(p.cooling, func(c cooling) bool { return c.addr == a })
		}
	}
	p.owned[owner] = slices.Clone(addrs)
}

// Release takes back what the owner has, to cool down from now on. It returns the addresses.
func (p *Pool) Release(owner string, now time.Time) []netip.Addr {
	addrs := p.owned[owner]
	delete(p.owned, owner)
	for _, a := range addrs {
		delete(p.owner, a)
	}
	p.Cool(addrs, now)
	return addrs
}

// Cool keeps free addresses from being given out for the cooldown.
func (p *Pool) Cool(addrs []netip.Addr, now time.Time) {
	for _, a := range addrs {
		if p.free(a) {
			p.cooling = append(p.cooling, cooling{a, now.Add(p.cooldown)})
			p.coolSet[a] = true
		}
	}
}

// Cooling lists the addresses that cool down, in the order of their release.
func (p *Pool) Cooling(now time.Time) []netip.Addr {
	p.thaw(now)
	out := make([]netip.Addr, len(p.cooling))
	for i, c := range p.cooling {
		out[i] = c.addr
	}
	return out
}

func (p *Pool) thaw(now time.Time) {
	n := 0
	for n < len(p.cooling) && !p.cooling[n].until.After(now) {
		delete(p.coolSet, p.cooling[n].addr)
		n++
	}
	p.cooling = p.cooling[n:]
}

// Usage counts the addresses of every block.
func (p *Pool) Usage(now time.Time) []Usage {
	p.thaw(now)
	out := make([]Usage, len(p.blocks))
	for i, b := range p.blocks {
		out[i] = p.usage(b)
	}
	return out
}

func (p *Pool) usage(b block) Usage {
	u := Usage{Block: b.prefix}
	for a := range p.owner {
		if b.gives(a) && !p.reserved[a] {
			u.Used++
		}
	}
	for _, c := range p.cooling {
		if b.gives(c.addr) && !p.reserved[c.addr] {
			u.Cooling++
		}
	}
	u.Free = b.size - u.Used - u.Cooling
	return u
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// distance counts the addresses from one to another, both included, as far as an int can.
func distance(from, to netip.Addr) int {
	n := new(big.Int).SetBytes(to.AsSlice())
	n.Sub(n, new(big.Int).SetBytes(from.AsSlice())).Add(n, big.NewInt(1))
	if !n.IsInt64() || n.Int64() > math.MaxInt {
		return math.MaxInt
	}
	return int(n.Int64())
}
