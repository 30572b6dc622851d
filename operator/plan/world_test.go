package plan

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
)

// world is the part of the API that the operator reads and writes, with its rules: a name exists
// once, a MeshNode goes some time after its Node.
type world struct {
	nodes    map[string]Node
	meshes   map[string]MeshNode
	pools    map[string]Pool
	blocks   map[netip.Prefix]Block
	services []netip.Prefix
	clock    int64
}

// TestMain looks at more histories than rapid does by default: most of what can go wrong needs
// several events in a row.
func TestMain(m *testing.M) {
	flag.Parse()
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "rapid.checks" })
	if !set {
		if err := flag.Set("rapid.checks", "400"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

const cooldown = time.Minute

func newWorld() *world {
	return &world{nodes: map[string]Node{}, meshes: map[string]MeshNode{}, pools: map[string]Pool{}, blocks: map[netip.Prefix]Block{}}
}

func (w *world) input() Input {
	in := Input{Services: w.services, HasConfig: true, Cooldown: cooldown}
	for _, n := range w.nodes {
		in.Nodes = append(in.Nodes, n)
	}
	for _, m := range w.meshes {
		in.MeshNodes = append(in.MeshNodes, m)
	}
	for _, p := range w.pools {
		in.Pools = append(in.Pools, p)
	}
	for _, b := range w.blocks {
		in.Blocks = append(in.Blocks, b)
	}
	return in
}

// apply writes a plan down.
func (w *world) apply(in Input, out Output) {
	for _, change := range Diff(in.Blocks, out.Blocks) {
		if change.Verb == Delete {
			delete(w.blocks, change.Block.CIDR)
			continue
		}
		w.blocks[change.Block.CIDR] = change.Block
	}
	for _, m := range out.MeshNodes {
		if old, ok := w.meshes[m.Name]; ok {
			m.Created = old.Created
		} else {
			w.clock++
			m.Created = w.clock
		}
		w.meshes[m.Name] = m
	}
	for _, s := range out.Pools {
		pool := w.pools[s.Name]
		pool.Ranges = slices.Clone(pool.Ranges)
		for i := range pool.Ranges {
			for _, u := range s.Usage {
				if u.CIDR == pool.Ranges[i].CIDR {
					pool.Ranges[i].Accepted = u.Refused == ""
				}
			}
		}
		w.pools[s.Name] = pool
	}
}

// settle plans and writes until nothing changes.
func (w *world) settle(t interface{ Fatalf(string, ...any) }) Output {
	for range 12 {
		in := w.input()
		out := Compute(in)
		if len(Diff(in.Blocks, out.Blocks)) == 0 && w.sameMeshNodes(out) {
			w.apply(in, out)
			return out
		}
		w.apply(in, out)
	}
	t.Fatalf("the plan does not settle")
	return Output{}
}

func (w *world) sameMeshNodes(out Output) bool {
	for _, m := range out.MeshNodes {
		have, ok := w.meshes[m.Name]
		if !ok || !SameSpec(have, m) || have.Allocated != m.Allocated {
			return false
		}
	}
	return true
}

// wait lets time pass for the blocks that cool down.
func (w *world) wait(d time.Duration) {
	for cidr, b := range w.blocks {
		b.Observed += d
		w.blocks[cidr] = b
	}
}

// collect removes MeshNodes whose Node is gone, as the garbage collector does.
func (w *world) collect() {
	for name := range w.meshes {
		if _, ok := w.nodes[name]; !ok {
			delete(w.meshes, name)
		}
	}
}

func (w *world) addNode(name string, pools ...string) {
	w.clock++
	w.nodes[name] = Node{Name: name, UID: fmt.Sprintf("uid-%d", w.clock), Pools: pools}
}

func (w *world) addPool(name string, ranges ...Range) {
	w.clock++
	w.pools[name] = Pool{Name: name, Created: w.clock, Ranges: ranges}
}

func cut(cidr string, size int) Range {
	return Range{CIDR: netip.MustParsePrefix(cidr), BlockSize: size}
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// specs are the Pod CIDRs of every MeshNode, as text.
func (w *world) specs() map[string]string {
	specs := map[string]string{}
	for name, m := range w.meshes {
		specs[name] = fmt.Sprint(m.PodCIDRs)
	}
	return specs
}

// wantSpecs compares the Pod CIDRs of every MeshNode.
func wantSpecs(t *testing.T, w *world, want map[string]string) {
	t.Helper()
	got := w.specs()
	for name, spec := range want {
		if got[name] != spec {
			t.Errorf("%s has %s, want %s", name, got[name], spec)
		}
	}
	if len(got) != len(want) {
		t.Errorf("MeshNodes %v, want %v", got, want)
	}
}

func wantProblem(t *testing.T, out Output, kind Kind, name string, reason Reason) Problem {
	t.Helper()
	for _, p := range out.Problems {
		if p.Kind == kind && p.Name == name && p.Reason == reason {
			return p
		}
	}
	t.Errorf("no problem %s on %s %s, got %v", reason, kind, name, out.Problems)
	return Problem{}
}

func poolStatus(t *testing.T, out Output, name string) PoolStatus {
	t.Helper()
	for _, s := range out.Pools {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no status of pool %s", name)
	return PoolStatus{}
}
