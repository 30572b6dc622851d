//go:build linux

package nft

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// Wanted is what one owner, such as a Service, wants to have in the sets of a table.
type Wanted struct {
	// Owner is its name, unique and not empty.
	Owner string
	// Rank says who is written first, 0 before all others, when everything is written anew.
	Rank uint8
	// Age decides whose element counts where several want the same key with different data: the
	// smallest, and among equals the first by name. It is a time in any unit.
	Age int64
	// Sets are the elements by the name of their set. None at all means that the owner is gone.
	Sets map[string][]state.Element
}

// Outcome is what a Ledger did.
type Outcome struct {
	// Transactions that the kernel took, and elements in them.
	Transactions, Added, Deleted int
	// Refused are owners whose elements the kernel did not take. What it had of them before stands.
	Refused []Refusal
	// Frame is what changed in everything but owners' elements.
	Frame Change
	// Observed says that the table was listed.
	Observed bool
}

// Empty tells whether nothing was done.
func (o Outcome) Empty() bool { return o.Transactions == 0 && len(o.Refused) == 0 }

func (o *Outcome) join(p Outcome) {
	o.Transactions += p.Transactions
	o.Added += p.Added
	o.Deleted += p.Deleted
	o.Refused = append(o.Refused, p.Refused...)
	if !p.Frame.Empty() {
		o.Frame = p.Frame
	}
	o.Observed = o.Observed || p.Observed
}

// String is for logs.
func (o Outcome) String() string {
	return fmt.Sprintf("%d transactions, %d elements added, %d deleted, %d owners refused", o.Transactions, o.Added, o.Deleted, len(o.Refused))
}

// Refusal is an owner whose elements the kernel refuses, and why.
type Refusal struct {
	Owner string
	Err   error
}

// Conflict is an owner that does not get an element, since an older one wants the same key with
// other data.
type Conflict struct{ Owner, Winner, Set, Key string }

// maxTransaction is how many elements go into one transaction, unless one owner alone has more. A
// transaction holds the kernel's lock for nftables; 1,000 elements are one or two milliseconds.
const maxTransaction = 1000

// Ledger keeps a table in which many owners have elements: a frame of chains, rules and sets, and in
// the sets the elements of each owner. It remembers what it wrote, in a compact form, and sends
// nothing but differences: a change costs what changes, however many owners there are. It lists
// the table only when told to (Reload), or when the kernel refuses what must have fitted.
//
// The elements of one owner change in one transaction, so that packets see all of it or nothing.
// A Ledger is for one goroutine; it may call the table from another, one call at a time.
type Ledger struct {
	table Table
	frame state.Table // without elements
	sets  map[string]uint16

	owners map[string]*record
	// index is who has an element, by set and key; contested are all who want one that several want.
	index     []map[string]*record
	contested map[contestedKey][]*record
	// found is what the kernel has and nobody has claimed since the table was last listed.
	found []map[string]state.Element
	// begun says that the table has been listed once, swept that leftovers may be deleted.
	begun, swept bool
	// suspect says that the kernel's elements may not be those of the records, so that only Reload helps;
	// reloading that it is at work.
	suspect, reloading bool
	// lists and bytes are packWanted's, kept from one call to the next.
	lists [][]state.Element
	bytes []byte
	// most is maxTransaction, but in tests.
	most int
	// refused are owners whose wishes the kernel refused.
	refused map[string]refusedWish
}

// refusedWish is what the kernel refused, and of whom.
type refusedWish struct {
	wish  packed
	owner *record
}

type contestedKey struct {
	set uint16
	key string
}

// record is what one owner has.
type record struct {
	owner    string
	rank     uint8
	age      int64
	elements packed
}

// senior tells whether r's elements count before o's.
func (r *record) senior(o *record) bool {
	return cmp.Or(cmp.Compare(r.age, o.age), strings.Compare(r.owner, o.owner)) < 0
}

// NewLedger keeps a table of the kernel's, or of its Fake.
func NewLedger(t Table) *Ledger {
	return &Ledger{table: t, most: maxTransaction, owners: map[string]*record{}, contested: map[contestedKey][]*record{}, refused: map[string]refusedWish{}}
}

// frameOwner has the elements that the frame itself brings along.
const frameOwner = ""

// Frame makes the table's chains, rules and sets as wanted, and the elements that want brings along.
// The first call lists the table, to take over what an earlier run left there; elements that nobody
// asks for stay until Sweep.
func (l *Ledger) Frame(ctx context.Context, want state.Table) (Outcome, error) {
	if !l.begun || l.suspect {
		return l.begin(ctx, want)
	}
	elements := map[string][]state.Element{}
	bare := bareOf(want, elements)
	own := Wanted{Owner: frameOwner, Age: -1 << 62, Sets: elements}
	change := Diff(knownFrom(l.frame), bare)
	if len(change.DelSets) > 0 || len(change.DelChains) > 0 {
		// Rules of what goes away may be needed by elements that are still there, and the elements of
		// a set that is declared anew are gone: both are a matter of looking at the whole.
		l.setFrame(bare)
		l.remember(own)
		return l.Reload(ctx)
	}
	var out Outcome
	if !change.Empty() {
		if err := l.table.Apply(ctx, change); err != nil {
			return out, err
		}
		out.Frame, out.Transactions = change, 1
		l.setFrame(bare)
	}
	more, err := l.Put(ctx, []Wanted{own})
	out.join(more)
	return out, err
}

// bareOf takes the elements out of a table's sets.
func bareOf(t state.Table, elements map[string][]state.Element) state.Table {
	t = t.Sorted()
	for i, s := range t.Sets {
		if len(s.Elements) > 0 && !s.Dynamic {
			elements[s.Name] = s.Elements
		}
		t.Sets[i].Elements = nil
	}
	return t
}

func (l *Ledger) begin(ctx context.Context, want state.Table) (Outcome, error) {
	elements := map[string][]state.Element{}
	l.setFrame(bareOf(want, elements))
	l.remember(Wanted{Owner: frameOwner, Age: -1 << 62, Sets: elements})
	out, err := l.Reload(ctx)
	l.begun = err == nil
	return out, err
}

// setFrame takes a frame over. Sets keep their numbers as long as they exist.
func (l *Ledger) setFrame(bare state.Table) {
	l.frame = bare
	numbers := map[string]uint16{}
	renumbered := false
	for i, s := range bare.Sets {
		numbers[s.Name] = uint16(i)
		if old, ok := l.sets[s.Name]; ok && old != uint16(i) {
			renumbered = true
		}
	}
	old := l.sets
	l.sets = numbers
	if renumbered || len(numbers) < len(old) {
		l.renumber(old)
	}
	for len(l.index) < len(numbers) {
		l.index, l.found = append(l.index, map[string]*record{}), append(l.found, nil)
	}
}

// renumber moves all records to new numbers of sets, which is rare: the sets are those of the
// program's version.
func (l *Ledger) renumber(old map[string]uint16) {
	names := map[uint16]string{}
	for name, n := range old {
		names[n] = name
	}
	for _, r := range l.owners {
		lists := make([][]state.Element, len(l.sets))
		for n, elements := range r.elements.elementsBySet(len(old)) {
			if to, ok := l.sets[names[uint16(n)]]; ok {
				lists[to] = elements
			}
		}
		r.elements = pack(lists)
	}
	clear(l.refused)
	l.clearIndex()
	for _, r := range l.owners {
		l.stage(&transit{}, r, "", r.elements)
	}
}

func (l *Ledger) clearIndex() {
	l.index, l.found = make([]map[string]*record, len(l.sets)), make([]map[string]state.Element, len(l.sets))
	for i := range l.index {
		l.index[i] = map[string]*record{}
	}
	clear(l.contested)
}

// packWanted sorts a wish into the numbers of the sets.
func (l *Ledger) packWanted(w Wanted) (packed, error) {
	if len(l.lists) != len(l.sets) {
		l.lists = make([][]state.Element, len(l.sets))
	}
	defer clear(l.lists)
	for name, elements := range w.Sets {
		n, ok := l.sets[name]
		if !ok {
			return "", fmt.Errorf("%s: no set %s in table %s", w.Owner, name, l.frame.Name)
		}
		l.lists[n] = elements
	}
	l.bytes = packInto(l.bytes[:0], l.lists)
	return packed(l.bytes), nil
}

// remember notes a wish without writing it.
func (l *Ledger) remember(w Wanted) {
	p, err := l.packWanted(w)
	if err != nil {
		return // a frame's elements are of its own sets
	}
	r := l.record(w)
	r.elements = p
}

func (l *Ledger) record(w Wanted) *record {
	r := l.owners[w.Owner]
	if r == nil {
		r = &record{owner: w.Owner}
		l.owners[w.Owner] = r
	}
	r.rank, r.age = w.Rank, w.Age
	return r
}

// Owners is how many owners have elements, and Elements how many elements there are by set.
func (l *Ledger) Owners() int { return max(len(l.owners)-1, 0) }

// Elements is how many elements each set has of owners and the frame.
func (l *Ledger) Elements() map[string]int {
	out := make(map[string]int, len(l.sets))
	for name, n := range l.sets {
		out[name] = len(l.index[n])
	}
	return out
}

// Has tells whether an owner is known.
func (l *Ledger) Has(owner string) bool { return owner != frameOwner && l.owners[owner] != nil }

// Known are the owners that have a record, sorted.
func (l *Ledger) Known() []string {
	out := make([]string, 0, len(l.owners))
	for name := range l.owners {
		if name != frameOwner {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Conflicts are the owners that lack an element because an older one wants it otherwise, sorted.
func (l *Ledger) Conflicts() []Conflict {
	var out []Conflict
	for at, claims := range l.contested {
		winner := l.index[at.set][at.key]
		has := winner.elements.find(at.set, at.key)
		for _, r := range claims {
			if e := r.elements.find(at.set, at.key); e != has {
				s := l.frame.Sets[at.set]
				out = append(out, Conflict{Owner: r.owner, Winner: winner.owner, Set: s.Name, Key: state.FormatKey(unpack(e).Key, s.Key)})
			}
		}
	}
	slices.SortFunc(out, func(a, b Conflict) int {
		return cmp.Or(strings.Compare(a.Owner, b.Owner), strings.Compare(a.Set, b.Set), strings.Compare(a.Key, b.Key))
	})
	return out
}
