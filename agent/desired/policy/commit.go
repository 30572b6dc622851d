package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// Commit gives what has changed in the table since the last time.
func (e *Engine) Commit() Patch {
	suspects := e.pending
	e.pending = Suspects{}
	e.settle(&suspects)
	p := e.out.patch(&suspects)
	p.Suspects = suspects
	return p
}

// settle brings profiles and groups up to date with what is known.
func (e *Engine) settle(suspects *Suspects) {
	var dirty []*endpoint
	for _, ep := range e.endpoints {
		if ep.dirty {
			dirty = append(dirty, ep)
		}
	}
	slices.SortFunc(dirty, func(a, b *endpoint) int { return cmp.Compare(a.Link, b.Link) })
	for _, ep := range dirty {
		ep.dirty = false
		if e.settleEndpoint(ep) {
			suspects.add(ep.IPs...)
		}
	}
	for g := range e.out.ofNodes {
		if g.stale {
			g.collect(e)
		}
	}
	e.out.dropBase(e.endpoints)
}

// settleEndpoint finds the profiles of an interface again and tells whether they have changed.
func (e *Engine) settleEndpoint(ep *endpoint) bool {
	s := e.subjectOf(ep)
	policies := e.selecting(s)
	var now [2][2]*profile
	for _, d := range []Direction{Ingress, Egress} {
		for _, f := range families {
			now[d][f.index] = e.profileOf(s, policies, d, f)
		}
	}
	old := ep.profiles
	ep.profiles = now
	e.out.place(ep, old)
	for d := range old {
		for f := range old[d] {
			e.out.drop(old[d][f])
		}
	}
	return old != now
}

// place writes the interface into the maps that the base chains ask.
func (c *compiled) place(ep *endpoint, old [2][2]*profile) {
	was, is := judged(old), judged(ep.profiles)
	if !was && !is {
		return
	}
	if c.base == nil {
		c.base = c.newBase()
	}
	link := state.IfNameValue(ep.Link)
	for d, m := range []*liveSet{Ingress: c.base.ingress, Egress: c.base.egress} {
		for i, f := range families {
			key := state.Concat(link, f.proto)
			if p := ep.profiles[d][i]; p != nil && p.entry != "" {
				m.put(state.Element{Key: key, Verdict: state.Jump(p.entry)})
			} else {
				m.drop(key)
			}
		}
		had, has := old[d] != [2]*profile{}, ep.profiles[d] != [2]*profile{}
		if has && !had {
			c.base.denied[d].add(link)
		} else if had && !has {
			c.base.denied[d].remove(link)
		}
	}
	if was != is {
		c.placeSelf(ep, is)
	}
}

func judged(p [2][2]*profile) bool { return p != [2][2]*profile{} }

// placeSelf lets a Pod reach itself, through a Service too.
func (c *compiled) placeSelf(ep *endpoint, on bool) {
	for _, a := range ep.IPs {
		for _, b := range ep.IPs {
			if familyIndex(a) != familyIndex(b) {
				continue
			}
			key := state.Concat(state.AddrValue(a), state.AddrValue(b))
			if set := c.base.self[familyIndex(a)]; on {
				set.add(key)
			} else {
				set.remove(key)
			}
		}
	}
}

// detach takes an interface out of the table.
func (c *compiled) detach(ep *endpoint) {
	old := ep.profiles
	ep.profiles = [2][2]*profile{}
	c.place(ep, old)
	for d := range old {
		for f := range old[d] {
			c.drop(old[d][f])
		}
	}
}

// dropBase takes the base chains away where nothing is judged: then policies cost no packet anything.
func (c *compiled) dropBase(endpoints map[string]*endpoint) {
	if c.base == nil {
		return
	}
	for _, ep := range endpoints {
		if judged(ep.profiles) {
			return
		}
	}
	for _, it := range c.base.items {
		c.release(it)
	}
	c.base = nil
}

// patch collects what has changed, sorted.
func (c *compiled) patch(suspects *Suspects) Patch {
	p := Patch{Create: !c.begun}
	c.begun = true
	for it := range c.touched {
		switch {
		case it.uses > 0 && !it.committed:
			it.committed = true
			p.add(it)
		case it.uses == 0:
			c.forget(it)
			if it.committed {
				p.remove(it)
			}
		}
	}
	clear(c.touched)
	for _, it := range c.items {
		if it.live == nil || len(it.live.before) == 0 {
			continue
		}
		if d := it.live.commit(); len(d.Add)+len(d.Delete) > 0 {
			suspects.group(it.group, d)
			p.Deltas = append(p.Deltas, d)
		}
	}
	p.sort()
	return p
}

// forget takes an item that nobody uses out of the indexes.
func (c *compiled) forget(it *item) {
	delete(c.items, it.key)
	if it.group != nil {
		c.unindex(it.group)
	}
}

func (p *Patch) add(it *item) {
	switch {
	case it.chain != nil:
		p.AddChains = append(p.AddChains, *it.chain)
	case it.fixed != nil:
		p.AddSets = append(p.AddSets, *it.fixed)
	case it.live != nil:
		it.live.commit()
		p.AddSets = append(p.AddSets, it.live.set())
	default:
		p.AddCounters = append(p.AddCounters, it.counter)
	}
}

func (p *Patch) remove(it *item) {
	switch {
	case it.chain != nil:
		p.DelChains = append(p.DelChains, it.chain.Name)
	case it.fixed != nil:
		p.DelSets = append(p.DelSets, it.fixed.Name)
	case it.live != nil:
		p.DelSets = append(p.DelSets, it.live.head.Name)
	default:
		p.DelCounters = append(p.DelCounters, it.counter)
	}
}

func (p *Patch) sort() {
	slices.Sort(p.DelChains)
	slices.Sort(p.DelSets)
	slices.Sort(p.DelCounters)
	slices.Sort(p.AddCounters)
	slices.SortFunc(p.AddChains, func(a, b state.Chain) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(p.AddSets, func(a, b state.Set) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(p.Deltas, func(a, b ElementDelta) int { return cmp.Compare(a.Set.Name, b.Set.Name) })
}

// Table is the whole table. It settles what is due but commits nothing: the next patch is the same.
func (e *Engine) Table() state.Table {
	e.settle(&e.pending)
	t := state.Table{Family: "inet", Name: TableName}
	for _, it := range e.out.items {
		switch {
		case it.uses == 0:
		case it.chain != nil:
			t.Chains = append(t.Chains, *it.chain)
		case it.fixed != nil:
			t.Sets = append(t.Sets, *it.fixed)
		case it.live != nil:
			t.Sets = append(t.Sets, it.live.set())
		default:
			t.Counters = append(t.Counters, it.counter)
		}
	}
	return t.Sorted()
}

// maxSuspects bounds the addresses that are kept; with more, every flow is worth a look.
const maxSuspects = 4096

func (s *Suspects) add(addrs ...netip.Addr) {
	if s.All {
		return
	}
	if s.Addrs == nil {
		s.Addrs = map[netip.Addr]bool{}
	}
	for _, a := range addrs {
		s.Addrs[a] = true
	}
	if len(s.Addrs) > maxSuspects {
		s.All, s.Addrs = true, nil
	}
}

// group adds the peers that a set has gained or lost.
func (s *Suspects) group(g *group, d ElementDelta) {
	if g == nil || s.All {
		return
	}
	if g.sources != nil {
		s.All, s.Addrs = true, nil // ranges
		return
	}
	size := g.fam.bits / 8
	for _, list := range [][]state.Element{d.Delete, d.Add} {
		for _, el := range list {
			s.add(valueAddr(el.Key[:size]))
		}
	}
}
