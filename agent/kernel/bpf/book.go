//go:build linux

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// book holds what every owner wants, and which frontend is whose. There may be a hundred thousand
// frontends, so keys hold no pointers, and nothing is kept twice.
type book struct {
	owners map[string]*Wanted
	held   map[address]held
	// contested lists the owners of the frontends that more than one wants, in their order.
	contested map[address][]*Wanted
}

// held is a frontend of an owner, by its place there.
type held struct {
	by *Wanted
	at int
}

func (h held) frontend() state.SocketFrontend { return h.by.Frontends[h.at] }

// same tells whether both lead to the same; the zero value leads nowhere.
func (h held) same(o held) bool {
	if h.by == nil || o.by == nil {
		return h.by == o.by
	}
	return h.frontend().Equal(o.frontend())
}

func newBook() *book {
	return &book{owners: map[string]*Wanted{}, held: map[address]held{}, contested: map[address][]*Wanted{}}
}

func (w *Wanted) compare(o *Wanted) int {
	return cmp.Or(cmp.Compare(w.Age, o.Age), strings.Compare(w.Owner, o.Owner))
}

// set replaces what an owner wants and returns the frontends that lead elsewhere now, or nowhere.
// A fault leaves all as it was.
func (b *book) set(w Wanted) ([]netip.AddrPort, error) {
	frontends, err := proper(w)
	if err != nil {
		return nil, err
	}
	before, touched := map[address]held{}, []netip.AddrPort(nil)
	note := func(f state.SocketFrontend) address {
		a := toAddress(f.Address)
		if _, ok := before[a]; !ok {
			before[a], touched = b.held[a], append(touched, f.Address)
		}
		return a
	}
	if old := b.owners[w.Owner]; old != nil {
		for _, f := range old.Frontends {
			b.release(old, note(f))
		}
		delete(b.owners, w.Owner)
	}
	next := &Wanted{Owner: w.Owner, Age: w.Age, Frontends: frontends}
	if len(frontends) > 0 {
		b.owners[w.Owner] = next
	}
	for i, f := range frontends {
		b.claim(note(f), held{next, i})
	}
	return slices.DeleteFunc(touched, func(at netip.AddrPort) bool {
		a := toAddress(at)
		return before[a].same(b.held[a])
	}), nil
}

// reset replaces what all owners want. An owner with a fault has nothing.
func (b *book) reset(all []Wanted) ([]netip.AddrPort, error) {
	touched, present := map[netip.AddrPort]bool{}, map[string]bool{}
	var faults []error
	set := func(w Wanted) {
		changed, err := b.set(w)
		if err != nil {
			faults = append(faults, err)
			changed, _ = b.set(Wanted{Owner: w.Owner})
		}
		for _, a := range changed {
			touched[a] = true
		}
	}
	for _, w := range all {
		present[w.Owner] = true
	}
	for owner := range maps.Clone(b.owners) {
		if !present[owner] {
			set(Wanted{Owner: owner})
		}
	}
	for _, w := range all {
		set(w)
	}
	return slices.SortedFunc(maps.Keys(touched), netip.AddrPort.Compare), errors.Join(faults...)
}

func (b *book) claim(a address, h held) {
	if have, ok := b.held[a]; ok {
		list := b.contested[a]
		if len(list) == 0 {
			list = []*Wanted{have.by}
		}
		i, _ := slices.BinarySearchFunc(list, h.by, (*Wanted).compare)
		b.contested[a] = slices.Insert(list, i, h.by)
		if i > 0 {
			return
		}
	}
	b.held[a] = h
}

func (b *book) release(w *Wanted, a address) {
	list := slices.DeleteFunc(b.contested[a], func(o *Wanted) bool { return o == w })
	if len(list) > 1 {
		b.contested[a] = list
	} else {
		delete(b.contested, a)
	}
	switch {
	case b.held[a].by != w:
	case len(list) == 0:
		delete(b.held, a)
	default:
		b.held[a] = list[0].claim(a)
	}
}

func (w *Wanted) claim(a address) held {
	i, _ := slices.BinarySearchFunc(w.Frontends, state.SocketFrontend{Address: a.addrPort()}, state.CompareSocketFrontends)
	return held{w, i}
}

// proper returns an owner's frontends in order, or all their faults. Those in order are kept as they
// are, since their endpoints are many and mostly shared.
func proper(w Wanted) ([]state.SocketFrontend, error) {
	out := w.Frontends
	if !slices.IsSortedFunc(out, state.CompareSocketFrontends) || slices.ContainsFunc(out, unordered) {
		out = state.SortSocketFrontends(out)
	}
	var faults []error
	for i := range out {
		if err := out[i].Validate(); err != nil {
			faults = append(faults, err)
		}
		if i > 0 && out[i].Address == out[i-1].Address {
			faults = append(faults, fmt.Errorf("frontend %s is given twice", out[i].Address))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("take the frontends of %q: %w", w.Owner, err)
	}
	return out, nil
}

func unordered(f state.SocketFrontend) bool {
	for i := 1; i < len(f.Endpoints); i++ {
		if f.Endpoints[i-1].Compare(f.Endpoints[i]) >= 0 {
			return true
		}
	}
	return false
}

// inForce lists the frontends that lead somewhere, sorted.
func (b *book) inForce() []state.SocketFrontend {
	out := make([]state.SocketFrontend, 0, len(b.held))
	for _, h := range b.held {
		out = append(out, h.frontend())
	}
	slices.SortFunc(out, state.CompareSocketFrontends)
	return out
}

// byOwner lists the frontends that are held, those of one owner together, since they share endpoints.
func (b *book) byOwner() []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(b.held))
	for _, owner := range slices.Sorted(maps.Keys(b.owners)) {
		w := b.owners[owner]
		for _, f := range w.Frontends {
			if b.held[toAddress(f.Address)].by == w {
				out = append(out, f.Address)
			}
		}
	}
	return out
}
