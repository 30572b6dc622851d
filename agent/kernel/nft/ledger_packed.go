//go:build linux

package nft

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// packed is the elements of one owner in a form that is small and quick to walk through: there may
// be 40,000 owners with a dozen elements each. Entries are sorted by set, then by key, and are cut
// out of it without a copy.
type packed string

// What an entry has besides its key.
const (
	hasKeyEnd = 1 << iota
	hasData
	hasVerdict
	hasComment
)

// entryHead is the set's index (2 bytes) and the entry's flags.
const entryHead = 3

// packedEntry is one entry of a packed list.
type packedEntry struct {
	set uint16
	// key is the element's key, with the end of its range behind it, if it has one.
	key string
	state.Element
	raw string
}

// pack sorts the elements and packs them. Of two with the same key the first in order counts.
func pack(sets [][]state.Element) packed { return packed(packInto(nil, sets)) }

func packInto(b []byte, sets [][]state.Element) []byte {
	for i, elements := range sets {
		last := ""
		for n, e := range state.SortElements(elements) {
			if key := string(e.Key) + string(e.KeyEnd); n == 0 || key != last {
				b, last = appendPacked(b, uint16(i), e), key
			}
		}
	}
	return b
}

func appendPacked(b []byte, set uint16, e state.Element) []byte {
	var flags byte
	for _, f := range []struct {
		on  bool
		bit byte
	}{{e.KeyEnd != "", hasKeyEnd}, {e.Data != "", hasData}, {e.Verdict != state.Verdict{}, hasVerdict}, {e.Comment != "", hasComment}} {
		if f.on {
			flags |= f.bit
		}
	}
	text := func(s string) { b = append(append(b, byte(len(s))), s...) }
	b = binary.BigEndian.AppendUint16(b, set)
	b = append(b, flags, byte(len(e.Key)))
	b = append(b, e.Key...)
	b = append(b, e.KeyEnd...) // as long as the key
	if flags&hasData != 0 {
		text(string(e.Data))
	}
	if flags&hasVerdict != 0 {
		b = append(b, byte(e.Verdict.Kind))
		text(e.Verdict.Chain)
	}
	if flags&hasComment != 0 {
		text(e.Comment[:min(len(e.Comment), maxComment)])
	}
	return b
}

// next takes the first entry off; ok is false at the end.
func (p packed) next() (e packedEntry, rest packed, ok bool) {
	if len(p) <= entryHead {
		return e, "", false
	}
	s := string(p)
	flags, n := s[2], int(s[entryHead])
	e.set = uint16(s[0])<<8 | uint16(s[1])
	at := entryHead + 1
	e.Key = state.Value(s[at : at+n])
	if flags&hasKeyEnd != 0 {
		e.KeyEnd = state.Value(s[at+n : at+2*n])
	}
	e.key = s[at : at+n+len(e.KeyEnd)]
	at += len(e.key)
	text := func() string {
		size := int(s[at])
		at += 1 + size
		return s[at-size : at]
	}
	if flags&hasData != 0 {
		e.Data = state.Value(text())
	}
	if flags&hasVerdict != 0 {
		e.Verdict.Kind = state.VerdictKind(s[at])
		at++
		e.Verdict.Chain = text()
	}
	if flags&hasComment != 0 {
		e.Comment = text()
	}
	e.raw = s[:at]
	return e, packed(s[at:]), true
}

// unpack gives the element of one packed entry.
func unpack(entry string) state.Element {
	e, _, _ := packed(entry).next()
	return e.Element
}

// find looks for an entry by its key, and gives an empty one where there is none.
func (p packed) find(set uint16, key string) string {
	for e, rest, ok := p.next(); ok; e, rest, ok = rest.next() {
		if e.set == set && e.key == key {
			return e.raw
		}
	}
	return ""
}

// order compares two entries by set and key.
func (e packedEntry) order(o packedEntry) int {
	if e.set != o.set {
		return int(e.set) - int(o.set)
	}
	return strings.Compare(e.key, o.key)
}

// merge walks through two packed lists side by side, in order; what only one has comes with nil for
// the other.
func merge(old, wanted packed, visit func(old, wanted *packedEntry)) {
	a, restA, okA := old.next()
	b, restB, okB := wanted.next()
	for okA || okB {
		order := 0
		switch {
		case !okB:
			order = -1
		case !okA:
			order = 1
		default:
			order = a.order(b)
		}
		pa, pb := &a, &b
		if order < 0 {
			pb = nil
		} else if order > 0 {
			pa = nil
		}
		visit(pa, pb)
		if order <= 0 {
			a, restA, okA = restA.next()
		}
		if order >= 0 {
			b, restB, okB = restB.next()
		}
	}
}

// elementsBySet is for frames and tests: the packed elements as lists.
func (p packed) elementsBySet(sets int) [][]state.Element {
	out := make([][]state.Element, sets)
	for e, rest, ok := p.next(); ok; e, rest, ok = rest.next() {
		out[e.set] = append(out[e.set], e.Element)
	}
	return slices.Clip(out)
}
