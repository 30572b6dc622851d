//go:build linux

package cniserver

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weftnet/agent/attachlog"
	"github.com/weftnet/weftnet/agent/ipam"
	"github.com/weftnet/weftnet/agent/state"
)

// Node is what the mesh has decided for this node.
type Node struct {
	// Blocks are the node's pod CIDRs in order of preference, and Reserved their addresses that
	// are not for Pods: the node's mesh addresses.
	Blocks   []netip.Prefix
	Reserved []netip.Addr
	// MTU of the Pods' links, in bytes.
	MTU int
}

// phase is where an attachment is between its ADD and its DEL.
type phase int

const (
	adding  phase = iota // its ADD is under way
	present              // its ADD was answered, or it was found when the agent started
	leaving              // its DEL is under way
)

// entry is one attachment in the book.
type entry struct {
	state.Attachment
	phase phase
}

// book knows the node's attachments and addresses: in memory for answers, in the log for keeps.
type book struct {
	log *attachlog.Log
	now func() time.Duration

	mu      sync.Mutex
	node    Node
	pool    *ipam.Pool
	entries map[string]*entry // by host link
	busy    map[string]*sync.Mutex
	waiting map[string]int
}

// conflictError says that a port of the node is taken.
type conflictError struct {
	want  state.HostPort
	owner state.Attachment
}

func (e *conflictError) Error() string {
	return fmt.Sprintf("host port %s is in use by pod %s (container %s)", e.want, e.owner.Pod, e.owner.ContainerID)
}

// errForeign says that another attachment has the name of the link: two hashes are equal.
var errForeign = errors.New("the name of the host link belongs to another attachment")

// onClock turns the time since boot into a time for the pool.
func onClock(sinceBoot time.Duration) time.Time { return time.Unix(0, 0).Add(sinceBoot) }

func newBook(log *attachlog.Log, now func() time.Duration, cooldown time.Duration) (*book, []error) {
	b := &book{
		log: log, now: now, pool: ipam.New(cooldown), entries: map[string]*entry{},
		busy: map[string]*sync.Mutex{}, waiting: map[string]int{},
	}
	var problems []error
	s := log.State()
	for _, a := range s.Attachments {
		if err := b.pool.Restore(a.HostLink, a.Addresses); err != nil {
			problems = append(problems, fmt.Errorf("restore %s: %w", a, err))
		}
		b.entries[a.HostLink] = &entry{Attachment: a, phase: present}
	}
	for _, r := range s.Released {
		b.pool.Cool([]netip.Addr{r.Addr}, onClock(r.At))
	}
	b.pool.Resume(s.Last)
	return b, problems
}

// lock makes the calls about one attachment follow one another.
func (b *book) lock(hostLink string) (unlock func()) {
	b.mu.Lock()
	m := b.busy[hostLink]
	if m == nil {
		m = &sync.Mutex{}
		b.busy[hostLink] = m
	}
	b.waiting[hostLink]++
	b.mu.Unlock()
	m.Lock()
	return func() {
		m.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.waiting[hostLink]--; b.waiting[hostLink] == 0 {
			delete(b.waiting, hostLink)
			delete(b.busy, hostLink)
		}
	}
}

func (b *book) setNode(n Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.node = Node{Blocks: slices.Clone(n.Blocks), Reserved: slices.Clone(n.Reserved), MTU: n.MTU}
	b.pool.SetBlocks(n.Blocks, n.Reserved)
}

// begin gives the attachment its addresses and writes it down. Its ADD is under way until settle or
// cancel. known says that it was there before, and so has its addresses.
func (b *book) begin(a state.Attachment) (full state.Attachment, ticket *attachlog.Ticket, known bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.MTU = b.node.MTU
	if have := b.entries[a.HostLink]; have != nil {
		if have.ContainerID != "" && (have.ContainerID != a.ContainerID || have.IfName != a.IfName) {
			return a, nil, true, fmt.Errorf("%w: %s", errForeign, have.Attachment)
		}
		known = true
		a.MTU = cmp.Or(have.MTU, a.MTU)
	}
	if err := b.conflict(a); err != nil {
		return a, nil, known, err
	}
	a.Addresses, err = b.pool.Allocate(a.HostLink, onClock(b.now()))
	if err != nil {
		return a, nil, known, err
	}
	b.entries[a.HostLink] = &entry{Attachment: a, phase: adding}
	return a, b.log.Add(a), known, nil
}

func (b *book) conflict(a state.Attachment) error {
	for _, want := range a.HostPorts {
		for name, e := range b.entries {
			if name == a.HostLink {
				continue
			}
			if slices.ContainsFunc(e.HostPorts, want.Conflicts) {
				return &conflictError{want: want, owner: e.Attachment}
			}
		}
	}
	return nil
}

// settle ends an ADD that succeeded.
func (b *book) settle(hostLink string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[hostLink]; e != nil {
		e.phase = present
	}
}

// leave begins a DEL, or the undoing of an ADD: the attachment is no longer wanted.
func (b *book) leave(hostLink string) (state.Attachment, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[hostLink]
	if e == nil {
		return state.Attachment{}, false
	}
	e.phase = leaving
	return e.Attachment, true
}

// stay takes back leave, when the kernel would not let go.
func (b *book) stay(hostLink string) { b.settle(hostLink) }

// end writes down that the attachment is gone, and then lets its addresses cool down.
func (b *book) end(hostLink string) error {
	if err := b.log.Del(hostLink).Durable(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.entries, hostLink)
	b.pool.Release(hostLink, onClock(b.now()))
	return nil
}

// adopt takes in what the kernel has and the log does not know.
func (b *book) adopt(a state.Attachment) error {
	b.mu.Lock()
	if err := b.pool.Restore(a.HostLink, a.Addresses); err != nil {
		b.mu.Unlock()
		return err
	}
	b.entries[a.HostLink] = &entry{Attachment: a, phase: present}
	b.mu.Unlock()
	return b.log.Add(a).Durable()
}

// get finds an attachment, whatever its phase.
func (b *book) get(hostLink string) (state.Attachment, phase, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[hostLink]; e != nil {
		return e.Clone(), e.phase, true
	}
	return state.Attachment{}, 0, false
}

// wanted lists the attachments that are there or are being added, sorted.
func (b *book) wanted() []state.Attachment {
	return b.list(func(e *entry) bool { return e.phase != leaving })
}

// standing lists all of which anything may be in the kernel, sorted.
func (b *book) standing() []state.Attachment {
	return b.list(func(*entry) bool { return true })
}

// present lists those whose ADD was answered, sorted.
func (b *book) present() []state.Attachment {
	return b.list(func(e *entry) bool { return e.phase == present })
}

func (b *book) list(which func(*entry) bool) []state.Attachment {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []state.Attachment
	for _, name := range slices.Sorted(maps.Keys(b.entries)) {
		if e := b.entries[name]; which(e) {
			out = append(out, e.Clone())
		}
	}
	return out
}

// settled lists the names of a network's attachments whose ADD was answered.
func (b *book) settled(network string) []string {
	return b.names(func(e *entry) bool {
		return e.phase == present && (e.Network == "" || e.Network == network)
	})
}

// idle lists the names of the attachments that are not being added. One whose DEL failed half-way is
// among them.
func (b *book) idle() []string {
	return b.names(func(e *entry) bool { return e.phase != adding })
}

func (b *book) names(which func(*entry) bool) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for name, e := range b.entries {
		if which(e) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (b *book) usage() []ipam.Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pool.Usage(onClock(b.now()))
}
