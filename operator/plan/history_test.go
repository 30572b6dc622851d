package plan

import (
	"fmt"
	"math/rand"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// history drives a world through random events and holds every state against the promises.
type history struct {
	*world
	t *rapid.T
	// before are the blocks that each Node had when it was last looked at.
	before map[string][]netip.Prefix
	// resting is how long each block has been seen without its node and its MeshNode.
	resting map[netip.Prefix]time.Duration
}

// ranges that overlap each other, the Services and the nodes' addresses in many ways.
var manyRanges = []Range{
	cut("10.0.0.0/22", 24), cut("10.0.0.0/23", 24), cut("10.0.2.0/23", 25), cut("10.0.0.0/21", 23), cut("10.0.4.0/24", 26),
	cut("10.0.8.0/22", 24), cut("10.1.0.0/24", 24), cut("fd00::/62", 64), cut("fd00::/63", 64), cut("fd00:0:0:2::/63", 66),
	cut("fd00::/60", 62), cut("fd00:0:0:8::/64", 66), cut("fd00:1::/64", 64),
}

var manyServices = [][]netip.Prefix{nil, prefixes("10.96.0.0/16", "fd00:96::/112"), prefixes("10.0.1.0/24"), prefixes("fd00:0:0:1::/112", "10.1.0.0/16")}

func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &history{world: newWorld(), t: t, before: map[string][]netip.Prefix{}, resting: map[netip.Prefix]time.Duration{}}
		h.poolComes(t)
		h.poolComes(t)
		for range rapid.IntRange(0, 4).Draw(t, "nodes") {
			h.nodeComes(t)
		}
		t.Repeat(map[string]func(*rapid.T){
			"add node":      h.nodeComes,
			"remove node":   h.nodeGoes,
			"relabel node":  h.nodeRelabelled,
			"collect":       func(*rapid.T) { h.collect(); h.settle(t) },
			"add pool":      h.poolComes,
			"change pool":   h.poolChanges,
			"remove pool":   h.poolGoes,
			"services":      func(t *rapid.T) { h.services = rapid.SampledFrom(manyServices).Draw(t, "services") },
			"time":          h.timePasses,
			"more time":     h.timePasses,
			"another node":  h.nodeComes,
			"node dies":     func(t *rapid.T) { h.nodeGoes(t); h.collect(); h.settle(t) },
			"edit spec":     h.specEdited,
			"half a plan":   h.halfApplied,
			"plan":          func(*rapid.T) { h.settle(t) },
			"":              h.check,
			"lost statuses": h.statusesLost,
		})
	})
}

func (h *history) name(t *rapid.T) string {
	return fmt.Sprintf("n%d", rapid.IntRange(0, 7).Draw(t, "node"))
}

func (h *history) nodeComes(t *rapid.T) {
	name := h.name(t)
	if _, ok := h.nodes[name]; ok {
		return
	}
	h.addNode(name, rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"p0", "p1", "p2"}), 1, 3, rapid.ID[string]).Draw(t, "pools")...)
	n := h.nodes[name]
	n.Addresses = rapid.SliceOfN(rapid.SampledFrom(addrs("192.168.0.1", "192.168.0.2", "fd77::1", "10.0.1.9", "fd00:0:0:1::9", "10.1.0.9")), 0, 3).Draw(t, "addresses")
	h.nodes[name] = n
}

func (h *history) nodeGoes(t *rapid.T) {
	name := h.name(t)
	delete(h.nodes, name)
	delete(h.before, name)
}

func (h *history) nodeRelabelled(t *rapid.T) {
	if n, ok := h.nodes[h.name(t)]; ok {
		n.Pools = []string{rapid.SampledFrom([]string{"p0", "p1", "p2"}).Draw(t, "pool")}
		h.nodes[n.Name] = n
	}
}

func (h *history) ranges(t *rapid.T) []Range {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(manyRanges), 1, 3, func(r Range) netip.Prefix { return r.CIDR }).Draw(t, "ranges")
}

func (h *history) poolComes(t *rapid.T) {
	name := fmt.Sprintf("p%d", rapid.IntRange(0, 2).Draw(t, "pool"))
	if _, ok := h.pools[name]; !ok {
		h.addPool(name, h.ranges(t)...)
	}
}

func (h *history) poolChanges(t *rapid.T) {
	name := fmt.Sprintf("p%d", rapid.IntRange(0, 2).Draw(t, "pool"))
	pool, ok := h.pools[name]
	if !ok {
		return
	}
	pool.Disabled = rapid.Bool().Draw(t, "disabled")
	accepted := map[netip.Prefix]bool{}
	for _, r := range pool.Ranges {
		accepted[r.CIDR] = r.Accepted
	}
	pool.Ranges = slices.Clone(h.ranges(t))
	for i := range pool.Ranges {
		pool.Ranges[i].Accepted = accepted[pool.Ranges[i].CIDR]
	}
	h.pools[name] = pool
}

func (h *history) poolGoes(t *rapid.T) {
	delete(h.pools, fmt.Sprintf("p%d", rapid.IntRange(0, 2).Draw(t, "pool")))
}

func (h *history) statusesLost(*rapid.T) {
	for name, pool := range h.pools {
		pool.Ranges = slices.Clone(pool.Ranges)
		for i := range pool.Ranges {
			pool.Ranges[i].Accepted = false
		}
		h.pools[name] = pool
	}
}

func (h *history) timePasses(t *rapid.T) {
	d := time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second
	h.wait(d)
	for cidr, b := range h.blocks {
		if b.State != Claimed { // what was never confirmed was never in use
			h.resting[cidr] += d
		}
	}
	h.settle(h.t)
}

// specEdited lets somebody write into a MeshNode and the operator put it right.
func (h *history) specEdited(t *rapid.T) {
	h.settle(h.t)
	h.check(t)
	m, ok := h.meshes[h.name(t)]
	if !ok {
		return
	}
	m.PodCIDRs = rapid.SliceOfN(rapid.SampledFrom(prefixes("10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/8", "fd00::/64", "fd00:0:0:1::/64", "::/0")), 0, 3).Draw(t, "edit")
	h.meshes[m.Name] = m
	if _, owned := h.nodes[m.Name]; !owned {
		delete(h.meshes, m.Name) // nobody repairs it: the collector takes it
	}
	h.settle(h.t)
}

// halfApplied writes only some of a plan, as an operator that dies does.
func (h *history) halfApplied(t *rapid.T) {
	in := h.input()
	out := Compute(in)
	changes := Diff(in.Blocks, out.Blocks)
	for _, change := range changes {
		if rapid.Bool().Draw(t, "write") {
			if change.Verb == Delete {
				delete(h.blocks, change.Block.CIDR)
			} else {
				h.blocks[change.Block.CIDR] = change.Block
			}
		}
	}
	for _, m := range out.MeshNodes {
		if rapid.Bool().Draw(t, "write") {
			m.Created = h.meshes[m.Name].Created
			h.meshes[m.Name] = m
		}
	}
}

// check holds the world against the promises.
func (h *history) check(t *rapid.T) {
	h.checkOverlap(t)
	h.checkMoves(t)
	h.checkRest(t)
	in := h.input()
	out := Compute(in)
	shuffled := h.input()
	random := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
	random.Shuffle(len(shuffled.Nodes), reflect.Swapper(shuffled.Nodes))
	random.Shuffle(len(shuffled.MeshNodes), reflect.Swapper(shuffled.MeshNodes))
	random.Shuffle(len(shuffled.Pools), reflect.Swapper(shuffled.Pools))
	random.Shuffle(len(shuffled.Blocks), reflect.Swapper(shuffled.Blocks))
	random.Shuffle(len(shuffled.Services), reflect.Swapper(shuffled.Services))
	for _, p := range shuffled.Pools {
		random.Shuffle(len(p.Ranges), reflect.Swapper(p.Ranges))
	}
	if again := Compute(shuffled); !reflect.DeepEqual(out, again) {
		t.Fatalf("the order of the input matters:\n%+v\n%+v", out, again)
	}
	h.checkCounts(t, out)
}

func (h *history) checkOverlap(t *rapid.T) {
	var all []netip.Prefix
	for name, m := range h.meshes {
		for _, block := range m.PodCIDRs {
			if b, ok := h.blocks[block]; !ok || b.Node != name {
				t.Fatalf("%s has %s, which is recorded as %+v", name, block, b)
			}
			all = append(all, block)
		}
	}
	slices.SortFunc(all, comparePrefix)
	for i := 1; i < len(all); i++ {
		if all[i-1].Overlaps(all[i]) {
			t.Fatalf("%s and %s overlap: %v", all[i-1], all[i], h.specs())
		}
	}
}

func (h *history) checkMoves(t *rapid.T) {
	for name := range h.nodes {
		m := h.meshes[name]
		for _, block := range h.before[name] {
			if !slices.Contains(m.PodCIDRs, block) {
				t.Fatalf("%s had %s and now has %v", name, block, m.PodCIDRs)
			}
		}
		h.before[name] = slices.Clone(m.PodCIDRs)
	}
}

// checkRest follows how long blocks rest, and that none goes to another node before its time.
func (h *history) checkRest(t *rapid.T) {
	for cidr, b := range h.blocks {
		if slices.Contains(h.meshes[b.Node].PodCIDRs, cidr) {
			h.resting[cidr] = 0
		}
	}
	for cidr, rest := range h.resting {
		if _, ok := h.blocks[cidr]; ok {
			continue
		}
		delete(h.resting, cidr)
		if rest > 0 && rest < cooldown {
			t.Fatalf("%s came back after %s", cidr, rest)
		}
	}
}

func (h *history) checkCounts(t *rapid.T, out Output) {
	for _, s := range out.Pools {
		for _, u := range s.Usage {
			if u.Refused != "" {
				continue
			}
			total := int64(1) << (u.BlockSize - u.CIDR.Bits())
			if u.Free < 0 || u.Free > total || u.Cooling > u.Allocated || u.Allocated < 0 {
				t.Fatalf("%s of %s: %+v of %d", u.CIDR, s.Name, u, total)
			}
		}
	}
}

// TestSpan compares the numbering of blocks with plain counting.
func TestSpan(t *testing.T) {
	for _, r := range []Range{cut("10.0.0.0/8", 30), cut("0.0.0.0/0", 24), cut("fd00::/16", 64), cut("fd00::/48", 96), cut("2001:db8::/100", 120), cut("fd00:0:0:ff00::/56", 72)} {
		rapid.Check(t, func(t *rapid.T) {
			s := newSpan(r.CIDR, r.BlockSize)
			number := rapid.Uint64Range(0, s.blocks()-1).Draw(t, "number")
			block := s.block(number)
			if block != block.Masked() || !r.CIDR.Contains(block.Addr()) || s.number(block.Addr()) != number || s.number(MeshIP(block)) != number {
				t.Fatalf("block %d of %s is %s, whose number is %d", number, r.CIDR, block, s.number(block.Addr()))
			}
		})
	}
}

// TestSpanGivesEveryFreeBlockOnce compares the search with a naive one.
func TestSpanGivesEveryFreeBlockOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSpan(netip.MustParsePrefix("fd00::/58"), 64)
		bits := rapid.SliceOf(rapid.Custom(func(t *rapid.T) netip.Prefix {
			wide := newSpan(netip.MustParsePrefix("fd00::/57"), rapid.IntRange(58, 70).Draw(t, "size"))
			return wide.block(rapid.Uint64Range(0, wide.blocks()-1).Draw(t, "number"))
		})).Draw(t, "taken")
		for _, p := range bits {
			s.take(p)
		}
		s.seal()
		var want []netip.Prefix
		for i := range s.blocks() {
			block := s.block(i)
			if !slices.ContainsFunc(bits, block.Overlaps) {
				want = append(want, block)
			}
		}
		if s.free() != int64(len(want)) {
			t.Fatalf("%d free, want %d", s.free(), len(want))
		}
		for _, block := range want {
			if got, ok := s.give(); !ok || got != block {
				t.Fatalf("got %s, want %s", got, block)
			}
		}
		if got, ok := s.give(); ok || s.free() != 0 {
			t.Fatalf("gave %s from a full range, %d free", got, s.free())
		}
	})
}

// TestIndex compares the index with a look at every prefix.
func TestIndex(t *testing.T) {
	draw := rapid.Custom(func(t *rapid.T) netip.Prefix {
		base := rapid.SampledFrom(addrs("10.0.0.0", "fd00::")).Draw(t, "base")
		s := newSpan(netip.PrefixFrom(base, 24).Masked(), rapid.IntRange(24, 30).Draw(t, "size"))
		return s.block(rapid.Uint64Range(0, s.blocks()-1).Draw(t, "number"))
	})
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfDistinct(draw, rapid.ID[netip.Prefix]).Draw(t, "prefixes")
		split := rapid.IntRange(0, len(list)).Draw(t, "split")
		x := newIndex(slices.Clone(list[:split]))
		for _, p := range list[split:] {
			x.add(p)
		}
		p := draw.Draw(t, "asked")
		var want []netip.Prefix
		for _, other := range list {
			if other != p && other.Overlaps(p) {
				want = append(want, other)
			}
		}
		sortPrefixes(want)
		if got := x.overlapping(p); !slices.Equal(got, want) {
			t.Fatalf("overlapping %s: %v, want %v", p, got, want)
		}
		if got := x.contains(p.Addr()); got != slices.ContainsFunc(list, func(o netip.Prefix) bool { return o.Contains(p.Addr()) }) {
			t.Fatalf("contains %s: %v", p.Addr(), got)
		}
	})
}
