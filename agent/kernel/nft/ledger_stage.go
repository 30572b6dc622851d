//go:build linux

package nft

import (
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// transit is a transaction in the making: what the owners in it had and will have, and what that
// means for the elements in the kernel.
type transit struct {
	steps []ownerStep
	moves []move
	at    map[contestedKey]int // the place in moves
}

// ownerStep is one owner's change.
type ownerStep struct {
	record    *record
	old, next packed
}

// move is what becomes of one key: nil is no element.
type move struct {
	set       uint16
	key       string
	had, want *state.Element
}

// note says that a key goes from had to want. Only the first had counts: what came in between the
// kernel never sees.
func (t *transit) note(set uint16, key string, had, want *state.Element) {
	at := contestedKey{set, key}
	if i, ok := t.at[at]; ok {
		t.moves[i].want = want
		return
	}
	if t.at == nil {
		t.at = map[contestedKey]int{}
	}
	t.at[at] = len(t.moves)
	t.moves = append(t.moves, move{set: set, key: key, had: had, want: want})
}

// stage lets an owner go from old to next: the index follows at once, the kernel with the transaction.
func (l *Ledger) stage(t *transit, r *record, old, next packed) {
	t.steps = append(t.steps, ownerStep{record: r, old: old, next: next})
	r.elements = next
	merge(old, next, func(a, b *packedEntry) {
		switch {
		case b == nil:
			l.release(t, r, *a)
		case a == nil:
			l.claim(t, r, *b)
		case l.index[b.set][b.key] == r:
			// The key is written even if nothing changes, so that the index does not keep the old list
			// in memory by its keys.
			l.index[b.set][b.key] = r
			if a.raw != b.raw {
				had, want := a.Element, b.Element
				t.note(b.set, b.key, &had, &want)
			}
		}
	})
}

// claim gives r the element, unless somebody senior has it.
func (l *Ledger) claim(t *transit, r *record, e packedEntry) {
	want := e.Element
	winner := l.index[e.set][e.key]
	if winner == nil {
		var had *state.Element
		if f, ok := l.found[e.set][e.key]; ok {
			had = &f
			delete(l.found[e.set], e.key)
		}
		l.index[e.set][e.key] = r
		t.note(e.set, e.key, had, &want)
		return
	}
	at := contestedKey{e.set, e.key}
	claims := l.contested[at]
	if claims == nil {
		claims = []*record{winner}
	}
	l.contested[at] = append(claims, r)
	if r.senior(winner) {
		had := winner.elements.find(e.set, e.key)
		l.index[e.set][e.key] = r
		t.note(e.set, e.key, &had, &want)
	}
}

// release takes the element from r, and gives it to the next who wants it.
func (l *Ledger) release(t *transit, r *record, e packedEntry) {
	had := e.Element
	at := contestedKey{e.set, e.key}
	claims := l.contested[at]
	if claims == nil {
		delete(l.index[e.set], e.key)
		t.note(e.set, e.key, &had, nil)
		return
	}
	claims = slices.DeleteFunc(claims, func(o *record) bool { return o == r })
	l.contested[at] = claims
	next := claims[0]
	for _, o := range claims[1:] {
		if o.senior(next) {
			next = o
		}
	}
	if len(claims) == 1 {
		delete(l.contested, at)
	}
	if l.index[e.set][e.key] == r {
		want := next.elements.find(e.set, e.key)
		l.index[e.set][e.key] = next
		t.note(e.set, e.key, &had, &want)
	}
}

// undo takes the owners back to where they were, in reverse, and what had been found to the found.
func (l *Ledger) undo(t *transit) {
	back := &transit{}
	for _, s := range slices.Backward(t.steps) {
		l.stage(back, s.record, s.next, s.old)
	}
	for _, m := range t.moves {
		if m.had != nil && l.index[m.set][m.key] == nil && l.found[m.set] != nil {
			l.found[m.set][m.key] = *m.had
		}
	}
}

// change is the transaction for the kernel: what is deleted and what is added, set by set.
func (l *Ledger) change(t *transit) (c Change, deleted, added int) {
	c = Change{Family: l.frame.Family, Name: l.frame.Name}
	place := map[uint16]int{}
	for _, m := range t.moves {
		if same(m.had, m.want) {
			continue
		}
		i, ok := place[m.set]
		if !ok {
			i = len(c.Elements)
			place[m.set] = i
			c.Elements = append(c.Elements, ElementChange{Set: l.frame.Sets[m.set]})
		}
		if m.had != nil {
			c.Elements[i].Delete = append(c.Elements[i].Delete, *m.had)
			deleted++
		}
		if m.want != nil {
			c.Elements[i].Add = append(c.Elements[i].Add, *m.want)
			added++
		}
	}
	return c, deleted, added
}

func same(a, b *state.Element) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
