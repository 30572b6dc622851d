package service

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// Claims settles which Service has a frontend that several ask for: a load-balancer address or an
// external address and port that two of them list, or one that lists another's ClusterIP. It goes to the
// kind with more weight (a ClusterIP before a NodePort before a load balancer's address before an
// external one), then to the older Service, then to the first by name: the same on every node and after
// every restart, and never to one that came later. A change costs what that Service has, however many
// others there are. Claims is for one goroutine.
type Claims struct {
	owners map[snapshot.ServiceName]*owner
	// holders has whom a frontend belongs to; rivals all who ask for one that several ask for.
	holders map[claimKey]*owner
	rivals  map[claimKey][]*owner
}

type owner struct {
	name    snapshot.ServiceName
	created time.Time
	claims  []claim // sorted by key
}

type claim struct {
	key  claimKey
	kind state.FrontendKind
}

// claimKey is a FrontendKey in little room: there may be a hundred thousand of them, and one without
// pointers costs the garbage collector nothing.
type claimKey [19]byte

func keyOf(k state.FrontendKey) claimKey {
	var out claimKey
	a := k.Addr.As16()
	copy(out[:], a[:])
	out[16] = k.Proto
	binary.BigEndian.PutUint16(out[17:], k.Port)
	return out
}

func (k claimKey) compare(o claimKey) int { return slices.Compare(k[:], o[:]) }

// NewClaims has no Service yet.
func NewClaims() *Claims {
	return &Claims{owners: map[snapshot.ServiceName]*owner{}, holders: map[claimKey]*owner{}, rivals: map[claimKey][]*owner{}}
}

// Taken tells whether some Service asks for a frontend.
func (c *Claims) Taken(k state.FrontendKey) bool { return c.holders[keyOf(k)] != nil }

// Set notes what a Service asks for, in place of what it asked for before. It returns the other
// Services that it changes something for, sorted: what they want must be settled anew.
func (c *Claims) Set(w Wanted) []snapshot.ServiceName {
	next := &owner{name: w.Service, created: w.Created, claims: make([]claim, len(w.Frontends))}
	for i, f := range w.Frontends {
		next.claims[i] = claim{keyOf(f.FrontendKey), f.Kind}
	}
	slices.SortFunc(next.claims, func(a, b claim) int { return a.key.compare(b.key) })
	if have := c.owners[w.Service]; have != nil && have.created.Equal(next.created) && slices.Equal(have.claims, next.claims) {
		return nil
	}
	return c.replace(w.Service, next)
}

// Delete forgets a Service. It returns the others that it changes something for, sorted.
func (c *Claims) Delete(name snapshot.ServiceName) []snapshot.ServiceName {
	return c.replace(name, nil)
}

// replace puts one owner in another's place; either may be nil.
func (c *Claims) replace(name snapshot.ServiceName, next *owner) []snapshot.ServiceName {
	if c.undisputed(name, next) {
		c.owners[name] = next
		for _, cl := range next.claims {
			c.holders[cl.key] = next
		}
		return nil
	}
	changed := map[snapshot.ServiceName]bool{}
	have := c.owners[name]
	before := map[claimKey]*owner{}
	if have != nil {
		for _, cl := range have.claims {
			before[cl.key] = c.holders[cl.key]
			c.withdraw(cl.key, have)
		}
	}
	if next != nil {
		for _, cl := range next.claims {
			if _, ok := before[cl.key]; !ok {
				before[cl.key] = c.holders[cl.key]
			}
			c.enter(cl.key, next)
		}
		c.owners[name] = next
	} else {
		delete(c.owners, name)
	}
	for key, was := range before {
		if was == c.holders[key] {
			continue
		}
		// Also those that had it not and have it not now: their problem names another holder.
		for _, o := range append([]*owner{was, c.holders[key]}, c.rivals[key]...) {
			if o != nil && o.name != name {
				changed[o.name] = true
			}
		}
	}
	return sortedNames(changed)
}

// undisputed tells whether an owner is new and nobody else asks for anything that it asks for, as nearly everybody at the start.
func (c *Claims) undisputed(name snapshot.ServiceName, next *owner) bool {
	return next != nil && c.owners[name] == nil && !slices.ContainsFunc(next.claims, func(cl claim) bool { return c.holders[cl.key] != nil })
}

func sortedNames(set map[snapshot.ServiceName]bool) []snapshot.ServiceName {
	var out []snapshot.ServiceName
	for n := range set {
		out = append(out, n)
	}
	slices.SortFunc(out, snapshot.ServiceName.Compare)
	return out
}

func (c *Claims) withdraw(key claimKey, o *owner) {
	list := slices.DeleteFunc(c.rivals[key], func(r *owner) bool { return r == o })
	switch len(list) {
	case 0:
		delete(c.holders, key)
	case 1:
		delete(c.rivals, key)
		c.holders[key] = list[0]
	default:
		c.rivals[key] = list
		c.holders[key] = list[0]
	}
}

func (c *Claims) enter(key claimKey, o *owner) {
	list := c.rivals[key]
	if holder := c.holders[key]; len(list) == 0 && holder != nil {
		list = []*owner{holder}
	}
	list = append(list, o)
	slices.SortFunc(list, func(a, b *owner) int { return a.compare(b, key) })
	c.holders[key] = list[0]
	if len(list) > 1 {
		c.rivals[key] = list
	}
}

// compare tells who comes first for a frontend.
func (o *owner) compare(p *owner, key claimKey) int {
	return cmp.Or(cmp.Compare(o.kind(key), p.kind(key)), o.created.Compare(p.created), o.name.Compare(p.name))
}

func (o *owner) kind(key claimKey) state.FrontendKind {
	i, ok := slices.BinarySearchFunc(o.claims, key, func(c claim, key claimKey) int { return c.key.compare(key) })
	if !ok {
		return 0
	}
	return o.claims[i].kind
}

// Settle gives w without the frontends that belong to others, and a problem for each of those. What w
// asks for must have been noted with Set.
func (c *Claims) Settle(w Wanted) Wanted {
	lost := func(f state.Frontend) *owner {
		if h := c.holders[keyOf(f.FrontendKey)]; h != nil && h.name != w.Service {
			return h
		}
		return nil
	}
	if !slices.ContainsFunc(w.Frontends, func(f state.Frontend) bool { return lost(f) != nil }) {
		return w
	}
	var kept []state.Frontend
	w.Problems = slices.Clone(w.Problems)
	for _, f := range w.Frontends {
		h := lost(f)
		if h == nil {
			kept = append(kept, f)
			continue
		}
		w.Problems = append(w.Problems, Problem{
			Service: w.Service, Reason: ReasonConflict,
			Text: fmt.Sprintf("%s %s belongs to Service %s (%s), which comes first; it leads there", f.Kind, f.FrontendKey, h.name, h.kind(keyOf(f.FrontendKey))),
		})
	}
	w.Frontends = kept
	return w
}
