package plan

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// dual is a small dual-stack pool: four blocks of each family.
func dual() []Range { return []Range{cut("10.244.0.0/22", 24), cut("fd00:10:244::/62", 64)} }

func TestFirstNodes(t *testing.T) {
	w := newWorld()
	w.addPool("default", dual()...)
	w.addNode("b", "default")
	w.addNode("a", "default")
	out := w.settle(t)
	wantSpecs(t, w, map[string]string{
		"a": "[10.244.0.0/24 fd00:10:244::/64]",
		"b": "[10.244.1.0/24 fd00:10:244:1::/64]",
	})
	m := w.meshes["b"]
	if !slices.Equal(m.MeshIPs, addrs("10.244.1.1", "fd00:10:244:1::1")) {
		t.Errorf("mesh addresses %v", m.MeshIPs)
	}
	if !m.Allocated.True || m.OwnerUID != w.nodes["b"].UID {
		t.Errorf("MeshNode %+v", m)
	}
	s := poolStatus(t, out, "default")
	want := []Usage{
		{CIDR: netip.MustParsePrefix("10.244.0.0/22"), BlockSize: 24, Allocated: 2, Free: 2},
		{CIDR: netip.MustParsePrefix("fd00:10:244::/62"), BlockSize: 64, Allocated: 2, Free: 2},
	}
	if !slices.Equal(s.Usage, want) || !s.Ready.True {
		t.Errorf("status %+v, want usage %+v", s, want)
	}
	if len(out.Problems) > 0 {
		t.Errorf("problems %v", out.Problems)
	}
}

func TestClaimIsNotGivenBeforeItIsBound(t *testing.T) {
	w := newWorld()
	w.addPool("default", dual()...)
	w.addNode("a", "default")
	in := w.input()
	out := Compute(in)
	if got := out.MeshNodes[0]; len(got.PodCIDRs) > 0 || got.Allocated.Reason != ReasonPending {
		t.Errorf("before the claim exists: %+v", got)
	}
	w.apply(in, out)
	for cidr, b := range w.blocks { // created, and not yet back through the cache
		b.Pending = true
		w.blocks[cidr] = b
	}
	out = Compute(w.input())
	for _, b := range out.Blocks {
		if b.State != Claimed {
			t.Errorf("a claim that was not seen yet became %s", b.State)
		}
	}
}

func TestExhaustionHealsByItself(t *testing.T) {
	w := newWorld()
	w.addPool("default", dual()...)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		w.addNode(name, "default")
	}
	out := w.settle(t)
	if m := w.meshes["e"]; len(m.PodCIDRs) != 0 || m.Allocated.Reason != ReasonExhausted {
		t.Errorf("the fifth of four: %+v", m)
	}
	wantProblem(t, out, KindNode, "e", ReasonExhausted)
	wantProblem(t, out, KindPool, "default", ReasonExhausted)
	if s := poolStatus(t, out, "default"); !s.Exhausted.True || s.Ready.True {
		t.Errorf("status %+v", s)
	}

	delete(w.nodes, "b")
	w.collect()
	w.settle(t)
	wantCooling := w.blocks[netip.MustParsePrefix("10.244.1.0/24")]
	if wantCooling.State != Cooling || wantCooling.Left != cooldown {
		t.Errorf("the block of the node that went: %+v", wantCooling)
	}
	for range 8 {
		w.wait(cooldown / 5)
		out = w.settle(t)
	}
	if got := w.specs()["e"]; got != "[10.244.1.0/24 fd00:10:244:1::/64]" {
		t.Errorf("after the cooldown the waiting node has %s", got)
	}
	if s := poolStatus(t, out, "default"); s.Exhausted.True || !s.Ready.True || s.Usage[0].Free != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestCooldownIsCountedNotDated(t *testing.T) {
	w := newWorld()
	w.addPool("default", dual()...)
	w.addNode("a", "default")
	w.settle(t)
	block := netip.MustParsePrefix("10.244.0.0/24")
	delete(w.nodes, "a")
	if out := w.settle(t); w.blocks[block].State != Bound || out.Again != 0 {
		t.Error("a block cools down while its MeshNode still tells others of it")
	}
	w.collect()
	out := w.settle(t)
	if w.blocks[block].State != Cooling || out.Again != cooldown/4 {
		t.Errorf("block %+v, plan again after %s", w.blocks[block], out.Again)
	}
	w.wait(cooldown / 2) // then the operator restarts: what is written down counts
	w.settle(t)
	if left := w.blocks[block].Left; left != cooldown/2 {
		t.Errorf("left of the cooldown: %s", left)
	}
	w.addNode("a", "default") // the node registers again
	w.settle(t)
	wantSpecs(t, w, map[string]string{"a": "[10.244.0.0/24 fd00:10:244::/64]"})
	if b := w.blocks[block]; b.State != Bound || b.Left != 0 {
		t.Errorf("the block of the node that came back: %+v", b)
	}
}

func TestPools(t *testing.T) {
	t.Run("disabled gives nothing and takes nothing", func(t *testing.T) {
		w := newWorld()
		w.addPool("default", dual()...)
		w.addNode("a", "default")
		w.settle(t)
		pool := w.pools["default"]
		pool.Disabled = true
		w.pools["default"] = pool
		w.addNode("b", "default")
		out := w.settle(t)
		wantSpecs(t, w, map[string]string{"a": "[10.244.0.0/24 fd00:10:244::/64]", "b": "[]"})
		wantProblem(t, out, KindNode, "b", ReasonPoolDisabled)
	})
	t.Run("growing gives to those who wait", func(t *testing.T) {
		w := newWorld()
		w.addPool("default", cut("10.244.0.0/24", 24), cut("fd00:10:244::/64", 64))
		w.addNode("a", "default")
		w.addNode("b", "default")
		w.settle(t)
		pool := w.pools["default"]
		pool.Ranges = []Range{cut("10.244.0.0/22", 24), cut("fd00:10:244::/62", 64)}
		w.pools["default"] = pool
		out := w.settle(t)
		wantSpecs(t, w, map[string]string{"a": "[10.244.0.0/24 fd00:10:244::/64]", "b": "[10.244.1.0/24 fd00:10:244:1::/64]"})
		if s := poolStatus(t, out, "default"); !s.Ready.True {
			t.Errorf("status %+v", s)
		}
	})
	t.Run("shrinking below what is allocated", func(t *testing.T) {
		w := newWorld()
		w.addPool("default", dual()...)
		w.addNode("a", "default")
		w.addNode("b", "default")
		w.settle(t)
		before := w.specs()
		pool := w.pools["default"]
		pool.Ranges = []Range{cut("10.244.0.0/24", 24), cut("fd00:10:244::/64", 64)}
		w.pools["default"] = pool
		out := w.settle(t)
		wantSpecs(t, w, before)
		p := wantProblem(t, out, KindPool, "default", ReasonShrunk)
		if !strings.Contains(p.Message, "b (10.244.1.0/24)") || !strings.Contains(p.Message, "b (fd00:10:244:1::/64)") {
			t.Errorf("the message names nobody: %s", p.Message)
		}
		if s := poolStatus(t, out, "default"); !s.Shrunk.True || s.Ready.True {
			t.Errorf("status %+v", s)
		}
	})
	t.Run("by selector, the next where the first is full", func(t *testing.T) {
		w := newWorld()
		w.addPool("rack1", cut("10.1.0.0/24", 24))
		w.addPool("all", cut("10.2.0.0/22", 24))
		w.addNode("a", "rack1", "all")
		w.addNode("b", "all")
		w.addNode("c", "rack1", "all")
		w.addNode("d")
		out := w.settle(t)
		wantSpecs(t, w, map[string]string{"a": "[10.1.0.0/24]", "b": "[10.2.0.0/24]", "c": "[10.2.1.0/24]", "d": "[]"})
		wantProblem(t, out, KindNode, "d", ReasonNoPool)
	})
	t.Run("deleted, and made again with another block size", func(t *testing.T) {
		w := newWorld()
		w.addPool("default", cut("10.244.0.0/22", 24))
		w.addNode("b", "default")
		w.settle(t)
		delete(w.pools, "default")
		w.settle(t)
		w.addPool("default", cut("10.244.0.0/22", 25))
		w.addNode("a", "default")
		w.settle(t)
		wantSpecs(t, w, map[string]string{"a": "[10.244.1.0/25]", "b": "[10.244.0.0/24]"})
	})
}

func TestOverlaps(t *testing.T) {
	t.Run("the younger pool is refused, and heals", func(t *testing.T) {
		w := newWorld()
		w.addPool("z-old", dual()...)
		w.addPool("a-new", cut("10.244.2.0/23", 24), cut("10.9.0.0/24", 24))
		w.addNode("n", "a-new")
		out := w.settle(t)
		p := wantProblem(t, out, KindPool, "a-new", ReasonOverlap)
		if !strings.Contains(p.Message, "10.244.2.0/23 overlaps 10.244.0.0/22 of the IPPool z-old") {
			t.Errorf("message %q", p.Message)
		}
		if s := poolStatus(t, out, "z-old"); !s.Ready.True {
			t.Errorf("the older pool suffers: %+v", s)
		}
		wantSpecs(t, w, map[string]string{"n": "[10.9.0.0/24]"}) // the good range goes on
		delete(w.pools, "z-old")
		if s := poolStatus(t, w.settle(t), "a-new"); !s.Ready.True {
			t.Errorf("after the overlap is gone: %+v", s)
		}
	})
	t.Run("an older pool that grows into a younger one is refused", func(t *testing.T) {
		w := newWorld()
		w.addPool("old", cut("10.1.0.0/24", 24))
		w.addPool("young", cut("10.1.1.0/24", 24))
		w.addNode("n", "young")
		w.settle(t)
		pool := w.pools["old"]
		pool.Ranges = []Range{cut("10.1.0.0/23", 24)}
		w.pools["old"] = pool
		out := w.settle(t)
		wantProblem(t, out, KindPool, "old", ReasonOverlap)
		if s := poolStatus(t, out, "young"); !s.Ready.True {
			t.Errorf("status %+v", s)
		}
	})
	t.Run("Service range", func(t *testing.T) {
		w := newWorld()
		w.services = prefixes("10.96.0.0/16", "fd00:10:96::/112")
		w.addPool("bad", cut("10.96.128.0/20", 24), cut("fd00:10:96::/64", 80))
		w.addPool("good", dual()...)
		w.addNode("n", "bad", "good")
		out := w.settle(t)
		wantProblem(t, out, KindPool, "bad", ReasonOverlap)
		wantSpecs(t, w, map[string]string{"n": "[10.244.0.0/24 fd00:10:244::/64]"})
	})
	t.Run("a Service range that came later", func(t *testing.T) {
		w := newWorld()
		w.addPool("default", cut("10.244.0.0/22", 24))
		w.addNode("a", "default")
		w.settle(t)
		w.services = prefixes("10.244.0.0/23")
		w.addNode("b", "default")
		out := w.settle(t)
		wantSpecs(t, w, map[string]string{"a": "[10.244.0.0/24]", "b": "[10.244.2.0/24]"})
		wantProblem(t, out, KindPool, "default", ReasonOverlap)
	})
	t.Run("node address", func(t *testing.T) {
		w := newWorld()
		w.addPool("bad", cut("10.200.0.0/16", 24))
		w.nodes["n"] = Node{Name: "n", UID: "u", Addresses: addrs("10.200.0.11", "fd00:c8::11"), Pools: []string{"bad"}}
		out := w.settle(t)
		wantProblem(t, out, KindPool, "bad", ReasonOverlap)
		wantProblem(t, out, KindNode, "n", ReasonPoolRefused)
		if got := w.meshes["n"].NodeIPs; !slices.Equal(got, addrs("10.200.0.11", "fd00:c8::11")) {
			t.Errorf("node addresses %v", got)
		}
	})
	t.Run("a node that claims a Pod address cannot stop the pool", func(t *testing.T) {
		w := newWorld()
		w.addPool("default", cut("10.244.0.0/22", 24))
		w.addNode("a", "default")
		w.settle(t)
		w.nodes["liar"] = Node{Name: "liar", UID: "u", Addresses: addrs("10.244.0.7", "10.0.0.7"), Pools: []string{"default"}}
		out := w.settle(t)
		wantSpecs(t, w, map[string]string{"a": "[10.244.0.0/24]", "liar": "[10.244.1.0/24]"})
		wantProblem(t, out, KindNode, "liar", ReasonNodeAddressRefused)
		if got := w.meshes["liar"].NodeIPs; !slices.Equal(got, addrs("10.0.0.7")) {
			t.Errorf("node addresses %v", got)
		}
	})
}

func TestNodeAddressBelongsToOne(t *testing.T) {
	w := newWorld()
	w.addPool("default", dual()...)
	w.nodes["a"] = Node{Name: "a", UID: "1", Addresses: addrs("10.0.0.1", "fd00::1", "10.0.0.1", "127.0.0.1", "fe80::1"), Pools: []string{"default"}}
	w.settle(t)
	w.nodes["liar"] = Node{Name: "liar", UID: "2", Addresses: addrs("10.0.0.2", "10.0.0.1"), Pools: []string{"default"}}
	out := w.settle(t)
	if got := w.meshes["a"].NodeIPs; !slices.Equal(got, addrs("10.0.0.1", "fd00::1")) {
		t.Errorf("who had the address first has %v", got)
	}
	if got := w.meshes["liar"].NodeIPs; !slices.Equal(got, addrs("10.0.0.2")) {
		t.Errorf("who claims it too has %v", got)
	}
	wantProblem(t, out, KindNode, "liar", ReasonNodeAddressRefused)

	both := newWorld()
	both.nodes["a"] = Node{Name: "a", Addresses: addrs("10.0.0.1")}
	both.nodes["b"] = Node{Name: "b", Addresses: addrs("10.0.0.1")}
	both.settle(t)
	if len(both.meshes["a"].NodeIPs)+len(both.meshes["b"].NodeIPs) > 0 {
		t.Error("an address that two claim from the start is given to one")
	}
}

func TestEditedSpecs(t *testing.T) {
	build := func(t *testing.T) *world {
		w := newWorld()
		w.addPool("default", dual()...)
		w.addNode("a", "default")
		w.addNode("b", "default")
		w.settle(t)
		return w
	}
	tests := []struct {
		name   string
		edit   func(m *MeshNode)
		reason Reason
	}{
		{"emptied", func(m *MeshNode) { m.PodCIDRs, m.MeshIPs = nil, nil }, ""},
		{"another's blocks", func(m *MeshNode) { m.PodCIDRs = prefixes("10.244.0.0/24", "fd00:10:244::/64") }, ReasonDuplicateBlock},
		{"free blocks", func(m *MeshNode) { m.PodCIDRs = prefixes("10.244.3.0/24", "fd00:10:244:3::/64") }, ReasonSpecRepaired},
		{"the whole pool", func(m *MeshNode) { m.PodCIDRs = prefixes("10.244.0.0/16") }, ReasonSpecRepaired},
		{"everything", func(m *MeshNode) { m.PodCIDRs = prefixes("0.0.0.0/0", "::/0") }, ReasonSpecRepaired},
		{"no address", func(m *MeshNode) { m.Malformed = true }, ReasonSpecRepaired},
		{"another mesh address", func(m *MeshNode) { m.MeshIPs = addrs("10.244.1.9") }, ReasonSpecRepaired},
		{"another owner", func(m *MeshNode) { m.OwnerUID = "somebody" }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := build(t)
			before := maps.Clone(w.meshes)
			m := w.meshes["b"]
			tt.edit(&m)
			w.meshes["b"] = m
			out := Compute(w.input())
			if tt.reason != "" {
				wantProblem(t, out, KindMeshNode, "b", tt.reason)
			}
			w.settle(t)
			for name, want := range before {
				if !SameSpec(w.meshes[name], want) {
					t.Errorf("%s is %+v, want %+v", name, w.meshes[name], want)
				}
			}
		})
	}
}

// TestRecordsLost: the NodeBlocks are gone, from an old backup or by hand; the MeshNodes tell.
func TestRecordsLost(t *testing.T) {
	w := newWorld()
	w.addPool("default", dual()...)
	for _, name := range []string{"a", "b", "c"} {
		w.addNode(name, "default")
	}
	w.settle(t)
	clear(w.blocks)
	before := w.specs()
	w.addNode("0", "default") // first by name, but the others have their blocks
	w.settle(t)
	after := w.specs()
	for name, spec := range before {
		if after[name] != spec {
			t.Errorf("%s has %s, had %s", name, after[name], spec)
		}
	}
	if after["0"] != "[10.244.3.0/24 fd00:10:244:3::/64]" {
		t.Errorf("the new node has %s", after["0"])
	}
	if len(w.blocks) != 8 {
		t.Errorf("%d blocks are recorded, want 8", len(w.blocks))
	}

	// Two nodes with one block and no record: the older MeshNode has it.
	clear(w.blocks)
	m := w.meshes["a"]
	m.PodCIDRs = slices.Clone(w.meshes["c"].PodCIDRs)
	m.Created = w.meshes["c"].Created + 1
	w.meshes["a"] = m
	out := Compute(w.input())
	wantProblem(t, out, KindMeshNode, "a", ReasonDuplicateBlock)
	wantProblem(t, out, KindNode, "a", ReasonDuplicateBlock)
	w.settle(t)
	if got := w.specs(); got["c"] != before["c"] || got["a"] != before["a"] {
		t.Errorf("specs %v, had %v", got, before)
	}
}

// TestOverlappingClaims: two operators knew different block sizes.
func TestOverlappingClaims(t *testing.T) {
	w := newWorld()
	w.addPool("default", cut("10.244.0.0/22", 24))
	w.addNode("a", "default")
	w.addNode("b", "default")
	wide, narrow := netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("10.244.0.128/25")
	w.blocks[wide] = Block{CIDR: wide, Node: "a", Pool: "default"}
	w.blocks[narrow] = Block{CIDR: narrow, Node: "b", Pool: "default"}
	out := Compute(w.input())
	for _, b := range out.Blocks {
		if b.CIDR == narrow {
			t.Error("the claim of a size that is no longer cut stays")
		}
		if b.CIDR == wide && b.State == Bound {
			t.Error("a claim was bound while another overlapped it")
		}
	}
	bound := w.blocks[narrow]
	bound.State = Bound
	w.blocks[narrow] = bound
	w.settle(t)
	wantSpecs(t, w, map[string]string{"a": "[10.244.1.0/24]", "b": "[10.244.0.128/25]"})
}

func TestNothingToGiveFrom(t *testing.T) {
	w := newWorld()
	w.addNode("a")
	in := w.input()
	in.HasConfig = false
	out := Compute(in)
	wantProblem(t, out, KindNode, "a", ReasonNoPool)
	wantProblem(t, out, KindNode, "a", ReasonNoMeshConfig)
	if got := out.MeshNodes[0].Allocated; got.True || !strings.Contains(got.Message, "there is no IPPool") {
		t.Errorf("condition %+v", got)
	}
}
