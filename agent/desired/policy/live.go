package policy

import (
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// liveSet is a set whose elements change while it stands. It knows what has changed since the last commit.
type liveSet struct {
	head state.Set
	// count is how many put each key into a plain set; elements are those of a map or of intervals.
	count    map[state.Value]int32
	elements map[state.Value]state.Element
	// before is what changed keys were at the last commit; the zero element stands for none.
	before map[state.Value]state.Element
	sorted []state.Element
}

// newLiveSet makes an empty set. Elements of a plain set are counted: each remove undoes one add.
func newLiveSet(head state.Set) *liveSet {
	s := &liveSet{head: head}
	if head.Kind == state.KindSet && !head.Interval {
		s.count = map[state.Value]int32{}
	} else {
		s.elements = map[state.Value]state.Element{}
	}
	return s
}

func (s *liveSet) len() int { return len(s.count) + len(s.elements) }

// get gives an element; without Key if there is none.
func (s *liveSet) get(key state.Value) state.Element {
	if s.count != nil {
		if s.count[key] > 0 {
			return state.Element{Key: key}
		}
		return state.Element{}
	}
	return s.elements[key]
}

// changing remembers what a key was, the first time that it changes after a commit.
func (s *liveSet) changing(key state.Value) {
	s.sorted = nil
	if _, ok := s.before[key]; ok {
		return
	}
	if s.before == nil {
		s.before = map[state.Value]state.Element{}
	}
	s.before[key] = s.get(key)
}

func (s *liveSet) add(key state.Value) {
	if s.count[key] == 0 {
		s.changing(key)
	}
	s.count[key]++
}

func (s *liveSet) remove(key state.Value) {
	if s.count[key] > 1 {
		s.count[key]--
		return
	}
	s.changing(key)
	delete(s.count, key)
}

// put sets an element of a map or of intervals.
func (s *liveSet) put(el state.Element) {
	if s.elements[el.Key] == el {
		return
	}
	s.changing(el.Key)
	s.elements[el.Key] = el
}

func (s *liveSet) drop(key state.Value) {
	if _, ok := s.elements[key]; !ok {
		return
	}
	s.changing(key)
	delete(s.elements, key)
}

// replace makes the elements those of a list.
func (s *liveSet) replace(list []state.Element) {
	keep := make(map[state.Value]bool, len(list))
	for _, el := range list {
		keep[el.Key] = true
		s.put(el)
	}
	for key := range s.elements {
		if !keep[key] {
			s.drop(key)
		}
	}
}

// commit gives what has changed since the last time.
func (s *liveSet) commit() ElementDelta {
	d := ElementDelta{Set: s.head}
	for key, was := range s.before {
		is := s.get(key)
		if is == was {
			continue
		}
		if was.Key != "" {
			d.Delete = append(d.Delete, was)
		}
		if is.Key != "" {
			d.Add = append(d.Add, is)
		}
	}
	s.before = nil
	d.Delete, d.Add = state.SortElements(d.Delete), state.SortElements(d.Add)
	return d
}

// set is the whole set. Its elements are one slice for as long as nothing changes.
func (s *liveSet) set() state.Set {
	if s.sorted == nil {
		s.sorted = make([]state.Element, 0, s.len())
		for key := range s.count {
			s.sorted = append(s.sorted, state.Element{Key: key})
		}
		for _, el := range s.elements {
			s.sorted = append(s.sorted, el)
		}
		slices.SortFunc(s.sorted, state.Element.Compare)
	}
	out := s.head
	out.Elements = s.sorted
	return out
}
