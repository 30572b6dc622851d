//go:build linux && netns

package nft

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// TestRefusedSecondStageLeavesNothing : where the kernel does not take what leads to new chains, those are gone, too.
func TestRefusedSecondStageLeavesNothing(t *testing.T) {
	ns := nstest.New(t)
	var k *Kernel
	var err error
	ns.Do(t, func() { k, err = NewTable("weftnet-test") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	if _, err := k.Ensure(t.Context(), standing()); err != nil {
		t.Fatal(err)
	}
	c := diffTables(standing(), exchanged("c"))
	for i := range c.Elements {
		if c.Elements[i].Set.Name == "ways" {
			c.Elements[i].Delete = []state.Element{{Key: link("nobody")}}
		}
	}
	if len(c.stages()) != 2 {
		t.Fatalf("the change has not two stages:\n%s", c)
	}
	if err := k.Apply(t.Context(), c); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the kernel says %v", err)
	}
	o, err := k.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c := Diff(o, standing()); !c.Empty() {
		t.Errorf("the refused change has left something; to undo:\n%s", c)
	}
	if _, err := k.Ensure(t.Context(), exchanged("c")); err != nil {
		t.Fatal(err)
	}
	if o, err = k.Observe(t.Context()); err != nil || !Diff(o, exchanged("c")).Empty() {
		t.Errorf("the change is not in force: %v", err)
	}
}
