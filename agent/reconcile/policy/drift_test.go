//go:build linux

package policy

import (
	"testing"

	"golang.org/x/sys/unix"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
)

// TestOwnChangeIsNoDrift: a change of ours that falls together with a look at the whole table, as each
// resync is one and each loss of events, is not taken for somebody else's.
func TestOwnChangeIsNoDrift(t *testing.T) {
	w := newWorld(t)
	turn := func(what string, drift int) {
		t.Helper()
		if err := w.loop.turn(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if w.counts.drift != drift {
			t.Errorf("%s: counted %d foreign changes, want %d", what, w.counts.drift, drift)
		}
	}
	a, b := webPod("a", "10.0.0.1"), webPod("b", "10.0.0.2")
	w.plugin.add(attachment(a))
	w.plugin.add(attachment(b))
	w.loop.moved.Store(true)
	turn("the first pass", 0)

	w.cluster.setPods(a)
	w.cluster.setPolicy(denyAll("deny"))
	w.loop.foreign.Store(true)
	turn("a policy and a resync", 0)
	if w.leads(attachment(a)) == "" {
		t.Error("the Pod is open")
	}
	w.cluster.setPods(b)
	w.table.refusePatches(unix.ENOMEM)
	turn("a patch that the kernel had no memory for", 0)
	w.table.refusePatches(nil)
	if to := w.leads(attachment(b)); to != w.leads(attachment(a)) {
		t.Errorf("packets to the second Pod go to %q", to)
	}
	w.loop.foreign.Store(true)
	turn("a resync alone", 0)

	destroy := func() {
		t.Helper()
		if err := w.table.Fake.Apply(t.Context(), nft.Delete("inet", desired.TableName)); err != nil {
			t.Fatal(err)
		}
	}
	destroy()
	w.loop.foreign.Store(true)
	turn("a deletion that was heard of", 1)
	destroy()
	w.cluster.setPolicy(denyAll("another"))
	turn("a deletion that a patch has met", 2)
	ingress, _ := mustTable(t, w).Set("ingress")
	if err := w.table.Fake.Apply(t.Context(), nft.Change{Family: "inet", Name: desired.TableName,
		Elements: []nft.ElementChange{{Set: headOf(ingress), Delete: ingress.Elements[:1]}}}); err != nil {
		t.Fatal(err)
	}
	w.cluster.deletePolicy(denyAll("another"))
	w.loop.foreign.Store(true)
	turn("a deletion beside a change of ours", 3)
	if w.leads(attachment(a)) == "" || w.leads(attachment(b)) == "" {
		t.Error("a Pod is open")
	}
}

func mustTable(t *testing.T, w *world) state.Table {
	t.Helper()
	have, ok := w.table.Table()
	if !ok {
		t.Fatal("there is no table")
	}
	return have
}

func headOf(s state.Set) state.Set {
	s.Elements = nil
	return s
}
