package nfsim

import (
	"github.com/weftnet/weftnet/agent/state"
)

// set is a declared set with its elements at hand.
type set struct {
	state.Set
	exact map[state.Value]state.Element
}

func newSet(s state.Set) *set {
	one := &set{Set: s}
	if s.Dynamic || s.Interval {
		return one
	}
	one.exact = make(map[state.Value]state.Element, len(s.Elements))
	for _, e := range s.Elements {
		one.exact[e.Key] = e
	}
	return one
}

// find looks a key up among the elements that the table brings along.
func (s *set) find(key state.Value) (state.Element, bool) {
	if !s.Interval {
		e, ok := s.exact[key]
		return e, ok
	}
	parts := state.SplitValue(key, s.Key)
	for _, e := range s.Elements {
		if s.contains(e, parts) {
			return e, true
		}
	}
	return state.Element{}, false
}

func (s *set) contains(e state.Element, parts []state.Value) bool {
	from := state.SplitValue(e.Key, s.Key)
	to := from
	if e.KeyEnd != "" {
		to = state.SplitValue(e.KeyEnd, s.Key)
	}
	for i, p := range parts {
		if p < from[i] || p > to[i] {
			return false
		}
	}
	return true
}

// lookup finds a key in a set of the packet's table, dynamic or not.
func (w *walk) lookup(t *table, name string, key state.Value) (state.Element, bool) {
	s := t.sets[name]
	if s == nil {
		panic("nfsim: table " + t.Name + " has no set " + name)
	}
	if !s.Dynamic {
		return s.find(key)
	}
	e, ok := w.m.dynamic[t.Name+"/"+name][key]
	if !ok || !w.m.alive(e) {
		return state.Element{}, false
	}
	return state.Element{Key: key, Data: e.data}, true
}

// remember carries out an update: an element that is there keeps its data and gets a new term.
func (w *walk) remember(t *table, s state.Remember) bool {
	key, ok := w.key(s.Fields)
	data, ok2 := w.key(s.Data)
	if !ok || !ok2 {
		return false
	}
	declared := t.sets[s.Set]
	name := t.Name + "/" + s.Set
	if w.m.dynamic[name] == nil {
		w.m.dynamic[name] = map[state.Value]remembered{}
	}
	have := w.m.dynamic[name]
	e, found := have[key]
	if !found || !w.m.alive(e) {
		if declared.Size != 0 && len(w.m.Remembered(t.Name, s.Set)) >= int(declared.Size) {
			return false
		}
		e = remembered{data: data}
	}
	timeout := s.Timeout
	if timeout == 0 {
		timeout = declared.Timeout
	}
	if timeout != 0 {
		e.expires = w.m.now + timeout
	}
	have[key] = e
	return true
}

func (w *walk) forget(t *table, s state.Forget) bool {
	key, ok := w.key(s.Fields)
	if ok {
		delete(w.m.dynamic[t.Name+"/"+s.Set], key)
	}
	return ok
}
