//go:build linux

package nft

import (
	"context"
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// AddElements adds to sets that the table has, and looks at nothing else: of each set the head and just
// the elements to add are given. One that is there already is no error; a table or set that is missing
// is one. It is for what cannot wait until the whole table is looked at, and costs the same however
// much the table holds.
func (k *Kernel) AddElements(ctx context.Context, sets []state.Set) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	mark := k.strangers.Load()
	known, ok := k.recall()
	if err := (unlocked{k}).Apply(ctx, addition(k.family, k.name, sets)); err != nil {
		return err
	}
	if ok {
		k.remember(withElements(known, sets), mark)
	}
	return nil
}

func addition(family, name string, sets []state.Set) Change {
	c := Change{Family: family, Name: name}
	for _, s := range sets {
		e := ElementChange{Set: s, Add: s.Elements}
		e.Set.Elements = nil
		c.Elements = append(c.Elements, e)
	}
	return c
}

// withElements is the table with more elements; the one that is given stays as it is.
func withElements(t state.Table, more []state.Set) state.Table {
	t.Sets = slices.Clone(t.Sets)
	for _, m := range more {
		for i, s := range t.Sets {
			if s.Name == m.Name {
				t.Sets[i].Elements = state.SortElements(slices.Concat(s.Elements, m.Elements))
			}
		}
	}
	return t
}
