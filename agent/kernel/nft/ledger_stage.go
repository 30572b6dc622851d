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
	// at is the place of each key in moves. It is made when the first key may come a second time: never while
	// elements are only added, as at the start, when there are hundreds of thousands.
	at map[contestedKey]int
}

// ownerStep is one owner's change.
type ownerStep struct {
	record    *record
	old, next packed
}

// move is what becomes of one key: had and want are packed entries, empty ones no element.
type move struct {
	set       uint16
	key       string
	had, want string
}

// add says that a key gets an element that neither the kernel nor an owner in t has had.
func (t *transit) add(set uint16, key, want string) {
	if t.at != nil {
		t.note(set, key, "", want)
		return
	}
	t.moves = append(t.moves, move{set: set, key: key, want: want})
}

// note says that a key goes from had to want. Only the first had counts: what came in between the
// kernel never sees.
func (t *transit) note(set uint16, key, had, want string) {
	if t.at == nil {
		t.at = make(map[contestedKey]int, len(t.moves)+1)
		for i, m := range t.moves {
			t.at[contestedKey{m.set, m.key}] = i
		}
	}
	at := contestedKey{set, key}
	if i, ok := t.at[at]; ok {
		t.moves[i].want = want
		return
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
			l.release(t, r, a)
		case a == nil:
			l.claim(t, r, b)
		case l.index[b.set][b.key] == r:
			// The key is written even if nothing changes, so that the index does not keep the old list
			// in memory by its keys.
			l.index[b.set][b.key] = r
			if a.raw != b.raw {
				t.note(b.set, b.key, a.raw, b.raw)
			}
		}
	})
}

// claim gives r the element, unless somebody senior has it.
func (l *Ledger) claim(t *transit, r *record, e *packedEntry) {
	winner := l.index[e.set][e.key]
	if winner == nil {
		l.index[e.set][e.key] = r
		if f, ok := l.found[e.set][e.key]; ok {
			delete(l.found[e.set], e.key)
			t.note(e.set, e.key, string(appendPacked(nil, e.set, f)), e.raw)
		} else {
			t.add(e.set, e.key, e.raw)
		}
		return
	}
	at := contestedKey{e.set, e.key}
	claims := l.contested[at]
	if claims == nil {
		claims = []*record{winner}
	}
	l.contested[at] = append(claims, r)
	if r.senior(winner) {
		l.index[e.set][e.key] = r
		t.note(e.set, e.key, winner.elements.find(e.set, e.key), e.raw)
	}
}

// release takes the element from r, and gives it to the next who wants it.
func (l *Ledger) release(t *transit, r *record, e *packedEntry) {
	at := contestedKey{e.set, e.key}
	claims := l.contested[at]
	if claims == nil {
		delete(l.index[e.set], e.key)
		t.note(e.set, e.key, e.raw, "")
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
		l.index[e.set][e.key] = next
		t.note(e.set, e.key, e.raw, next.elements.find(e.set, e.key))
	}
}

// undo takes the owners back to where they were, in reverse, and what had been found to the found.
func (l *Ledger) undo(t *transit) {
	back := &transit{}
	for _, s := range slices.Backward(t.steps) {
		l.stage(back, s.record, s.next, s.old)
	}
	for _, m := range t.moves {
		if m.had != "" && l.index[m.set][m.key] == nil && l.found[m.set] != nil {
			l.found[m.set][m.key] = unpack(m.had)
		}
	}
}

// change is the transaction for the kernel: what is deleted and what is added, set by set.
func (l *Ledger) change(t *transit) (c Change, deleted, added int) {
	c = Change{Family: l.frame.Family, Name: l.frame.Name}
	place := make([]struct{ at, deleted, added int }, len(l.frame.Sets))
	for _, m := range t.moves {
		if m.had == m.want {
			continue
		}
		if m.had != "" {
			place[m.set].deleted++
			deleted++
		}
		if m.want != "" {
			place[m.set].added++
			added++
		}
	}
	for _, m := range t.moves {
		if m.had == m.want {
			continue
		}
		p := &place[m.set]
		if p.at == 0 {
			c.Elements = append(c.Elements, ElementChange{
				Set: l.frame.Sets[m.set], Delete: make([]state.Element, 0, p.deleted), Add: make([]state.Element, 0, p.added),
			})
			p.at = len(c.Elements)
		}
		e := &c.Elements[p.at-1]
		if m.had != "" {
			e.Delete = append(e.Delete, unpack(m.had))
		}
		if m.want != "" {
			e.Add = append(e.Add, unpack(m.want))
		}
	}
	return c, deleted, added
}
