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

// book holds what every owner wants, and which frontend is whose.
type book struct {
	owners map[string]*Wanted
	held   map[netip.AddrPort]held
	// contested lists the owners of the frontends that more than one wants, in their order.
	contested map[netip.AddrPort][]*Wanted
}

type held struct {
	by       *Wanted
	frontend state.SocketFrontend
}

func newBook() *book {
	return &book{owners: map[string]*Wanted{}, held: map[netip.AddrPort]held{}, contested: map[netip.AddrPort][]*Wanted{}}
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
	before, touched := map[netip.AddrPort]held{}, []netip.AddrPort(nil)
	note := func(a netip.AddrPort) {
		if _, ok := before[a]; !ok {
			before[a], touched = b.held[a], append(touched, a)
		}
	}
	if old := b.owners[w.Owner]; old != nil {
		for _, f := range old.Frontends {
			note(f.Address)
			b.release(old, f.Address)
		}
		delete(b.owners, w.Owner)
	}
	next := &Wanted{Owner: w.Owner, Age: w.Age, Frontends: frontends}
	if len(frontends) > 0 {
		b.owners[w.Owner] = next
	}
	for _, f := range frontends {
		note(f.Address)
		b.claim(next, f)
	}
	return slices.DeleteFunc(touched, func(a netip.AddrPort) bool {
		was, is := before[a], b.held[a]
		return (was.by == nil) == (is.by == nil) && was.frontend.Equal(is.frontend)
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

func (b *book) claim(w *Wanted, f state.SocketFrontend) {
	if have, ok := b.held[f.Address]; ok {
		list := b.contested[f.Address]
		if len(list) == 0 {
			list = []*Wanted{have.by}
		}
		i, _ := slices.BinarySearchFunc(list, w, (*Wanted).compare)
		b.contested[f.Address] = slices.Insert(list, i, w)
		if i > 0 {
			return
		}
	}
	b.held[f.Address] = held{w, f}
}

func (b *book) release(w *Wanted, a netip.AddrPort) {
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
		b.held[a] = held{list[0], list[0].frontend(a)}
	}
}

func (w *Wanted) frontend(a netip.AddrPort) state.SocketFrontend {
	i, _ := slices.BinarySearchFunc(w.Frontends, state.SocketFrontend{Address: a}, state.CompareSocketFrontends)
	return w.Frontends[i]
}

// proper returns an owner's frontends in order, or all their faults.
func proper(w Wanted) ([]state.SocketFrontend, error) {
	out := state.SortSocketFrontends(w.Frontends)
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

// inForce lists the frontends that lead somewhere, sorted.
func (b *book) inForce() []state.SocketFrontend {
	out := make([]state.SocketFrontend, 0, len(b.held))
	for _, h := range b.held {
		out = append(out, h.frontend)
	}
	slices.SortFunc(out, state.CompareSocketFrontends)
	return out
}

// byOwner lists the frontends that are held, those of one owner together, since they share endpoints.
func (b *book) byOwner() []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(b.held))
	for a := range b.held {
		out = append(out, a)
	}
	slices.SortFunc(out, func(x, y netip.AddrPort) int {
		return cmp.Or(strings.Compare(b.held[x].by.Owner, b.held[y].by.Owner), x.Compare(y))
	})
	return out
}
