package plan

import (
	"fmt"
	"net/netip"
	"testing"
)

// cluster is a settled dual-stack cluster.
func cluster(b *testing.B, nodes int) *world {
	w := newWorld()
	w.services = prefixes("10.96.0.0/16", "fd00:10:96::/112")
	w.addPool("default", cut("10.0.0.0/11", 24), cut("fd00:10:244::/48", 64))
	for i := range nodes {
		name := fmt.Sprintf("node-%05d", i)
		w.addNode(name, "default")
		n := w.nodes[name]
		n.Addresses = []netip.Addr{
			netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}),
			netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x11, 14: byte(i >> 8), 15: byte(i)}),
		}
		w.nodes[name] = n
	}
	w.settle(b)
	return w
}

// BenchmarkSettled is a plan in which nothing changes.
func BenchmarkSettled(b *testing.B) {
	in := cluster(b, 5000).input()
	b.ReportAllocs()
	for b.Loop() {
		out := Compute(in)
		if len(out.MeshNodes) != 5000 || len(Diff(in.Blocks, out.Blocks)) != 0 {
			b.Fatal("the cluster is not settled")
		}
	}
}

// BenchmarkAddedNode is the plan that claims the blocks of one more node.
func BenchmarkAddedNode(b *testing.B) {
	w := cluster(b, 5000)
	w.addNode("node-x", "default")
	in := w.input()
	b.ReportAllocs()
	for b.Loop() {
		if changes := Diff(in.Blocks, Compute(in).Blocks); len(changes) != 2 {
			b.Fatalf("changes %v", changes)
		}
	}
}

// BenchmarkFromNothing is the plan that claims the blocks of all nodes at once.
func BenchmarkFromNothing(b *testing.B) {
	in := cluster(b, 5000).input()
	in.Blocks, in.MeshNodes = nil, nil
	b.ReportAllocs()
	for b.Loop() {
		if got := len(Compute(in).Blocks); got != 10000 {
			b.Fatalf("%d blocks", got)
		}
	}
}
