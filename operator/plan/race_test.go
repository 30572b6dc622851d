package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// This file checks the protocol of doc.go in a model: two operators at once, each with caches that
// lag behind by a different amount per kind, write to one API that refuses what is out of date.

// version is one state of the API's content; the caches show some earlier one of each kind.
type version struct {
	nodes  map[string]Node
	meshes map[string]stored[MeshNode]
	pools  map[string]Pool
	blocks map[netip.Prefix]stored[Block]
}

// stored is an object with its resource version.
type stored[T any] struct {
	value   T
	version int
}

// api keeps every state it ever had, so that a cache can be late.
type api struct {
	versions []version
	changes  int
}

func (a *api) now() version { return a.versions[len(a.versions)-1] }

// write makes a new state.
func (a *api) write(change func(v *version)) {
	v := a.now()
	v = version{nodes: clone(v.nodes), meshes: clone(v.meshes), pools: clone(v.pools), blocks: clone(v.blocks)}
	a.changes++
	change(&v)
	a.versions = append(a.versions, v)
}

func clone[K comparable, V any](m map[K]V) map[K]V {
	c := make(map[K]V, len(m)+1)
	for k, v := range m {
		c[k] = v
	}
	return c
}

// operator is one of the two: how late each of its caches is.
type operator struct {
	nodes, meshes, pools, blocks int
}

// catchUp moves each cache on by some steps, or none.
func (o *operator) catchUp(t *rapid.T, a *api) {
	for _, cache := range []*int{&o.nodes, &o.meshes, &o.pools, &o.blocks} {
		last := len(a.versions) - 1
		*cache = rapid.IntRange(*cache, last).Draw(t, "seen")
	}
}

// input is what the operator sees.
func (o *operator) input(a *api) Input {
	in := Input{HasConfig: true, Cooldown: cooldown}
	for _, n := range a.versions[o.nodes].nodes {
		in.Nodes = append(in.Nodes, n)
	}
	for _, m := range a.versions[o.meshes].meshes {
		in.MeshNodes = append(in.MeshNodes, m.value)
	}
	for _, p := range a.versions[o.pools].pools {
		in.Pools = append(in.Pools, p)
	}
	for _, b := range a.versions[o.blocks].blocks {
		in.Blocks = append(in.Blocks, b.value)
	}
	return in
}

// step makes a plan from what the operator sees and writes it, or part of it.
func (o *operator) step(t *rapid.T, a *api) {
	seenBlocks, seenMeshes := a.versions[o.blocks].blocks, a.versions[o.meshes].meshes
	in := o.input(a)
	out := Compute(in)
	for _, change := range Diff(in.Blocks, out.Blocks) {
		if rapid.IntRange(0, 3).Draw(t, "write") == 0 {
			continue
		}
		cidr := change.Block.CIDR
		have, exists := a.now().blocks[cidr]
		switch {
		case change.Verb == Create && exists, change.Verb != Create && (!exists || have.version != seenBlocks[cidr].version):
			continue // the API server refuses: exists already, or is not what was seen
		case change.Verb == Delete:
			a.write(func(v *version) { delete(v.blocks, cidr) })
		default:
			a.write(func(v *version) { v.blocks[cidr] = stored[Block]{change.Block, a.changes} })
		}
	}
	for _, m := range out.MeshNodes {
		if rapid.Bool().Draw(t, "write") {
			writeMeshNode(a, m, seenMeshes)
		}
	}
}

// writeMeshNode does what the controller does: one more look at each added block, then the write.
func writeMeshNode(a *api, m MeshNode, seen map[string]stored[MeshNode]) {
	have, exists := a.now().meshes[m.Name]
	old, known := seen[m.Name]
	if exists != known || have.version != old.version || known && SameSpec(old.value, m) {
		return
	}
	for _, block := range m.PodCIDRs {
		b, ok := a.now().blocks[block]
		if !slices.Contains(old.value.PodCIDRs, block) && (!ok || b.value.Node != m.Name || b.value.State != Bound) {
			return
		}
	}
	a.write(func(v *version) { v.meshes[m.Name] = stored[MeshNode]{m, a.changes} })
}

// A lost race takes many coincidences: without the wait in judgeClaims, say, one history in a
// thousand fails. So there are some thousands.
func TestTwoOperatorsNeverGiveOneBlockTwice(t *testing.T) {
	for range 8 {
		rapid.Check(t, race)
	}
}

func race(t *rapid.T) {
	a := &api{versions: []version{{}}}
	operators := [2]operator{}
	pools := [][]Range{
		{cut("10.0.0.0/22", 24), cut("fd00::/63", 64)}, {cut("10.0.0.0/22", 25), cut("fd00::/63", 65)},
	}
	t.Repeat(map[string]func(*rapid.T){
		"node": func(t *rapid.T) {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "node")
			a.write(func(v *version) { v.nodes[name] = Node{Name: name, UID: name, Pools: []string{"p"}} })
		},
		"pool": func(t *rapid.T) {
			ranges := rapid.SampledFrom(pools).Draw(t, "ranges")
			a.write(func(v *version) { v.pools["p"] = Pool{Name: "p", Ranges: ranges} })
		},
		"first":        func(t *rapid.T) { operators[0].step(t, a) },
		"second":       func(t *rapid.T) { operators[1].step(t, a) },
		"first sees":   func(t *rapid.T) { operators[0].catchUp(t, a) },
		"second sees":  func(t *rapid.T) { operators[1].catchUp(t, a) },
		"first, fresh": func(t *rapid.T) { operators[0].catchUp(t, a); operators[0].step(t, a) },
		"":             func(t *rapid.T) { checkRace(t, a) },
	})
	converge(t, a)
	checkRace(t, a)
}

// checkRace looks at the truth, which neither operator may know.
func checkRace(t *rapid.T, a *api) {
	type given struct {
		block netip.Prefix
		node  string
	}
	var all []given
	for name, m := range a.now().meshes {
		for _, block := range m.value.PodCIDRs {
			all = append(all, given{block, name})
		}
	}
	slices.SortFunc(all, func(a, b given) int { return cmp.Or(comparePrefix(a.block, b.block), cmp.Compare(a.node, b.node)) })
	for i := 1; i < len(all); i++ {
		if all[i-1].block.Overlaps(all[i].block) {
			t.Fatalf("%v and %v overlap", all[i-1], all[i])
		}
	}
}

// converge leaves one operator, with a full view, and expects every node to have one block of each
// family that is to be had, and no claim to be left over.
func converge(t *rapid.T, a *api) {
	var last operator
	for range 20 {
		n := len(a.versions) - 1
		last = operator{n, n, n, n}
		stepAll(&last, a)
	}
	for name, m := range a.now().meshes {
		count := [2]int{}
		for _, block := range m.value.PodCIDRs {
			count[family(block.Addr())]++
		}
		if count[0] > 1 || count[1] > 1 {
			t.Fatalf("%s has %v", name, m.value.PodCIDRs)
		}
	}
	for cidr, b := range a.now().blocks {
		if b.value.State == Claimed {
			t.Fatalf("the claim of %s by %s is left over", cidr, b.value.Node)
		}
	}
}

// stepAll is a step that writes everything, without anyone in between.
func stepAll(o *operator, a *api) {
	in, seen := o.input(a), a.versions[o.meshes].meshes
	out := Compute(in)
	for _, m := range out.MeshNodes {
		writeMeshNode(a, m, seen)
	}
	for _, change := range Diff(in.Blocks, out.Blocks) {
		a.write(func(v *version) {
			if change.Verb == Delete {
				delete(v.blocks, change.Block.CIDR)
				return
			}
			v.blocks[change.Block.CIDR] = stored[Block]{change.Block, a.changes}
		})
	}
}
