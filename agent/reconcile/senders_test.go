//go:build linux

package reconcile

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/filter"
)

func sender(i int) filter.Pod {
	return filter.Pod{Link: fmt.Sprintf("weftp%d", i), Addresses: []netip.Addr{
		netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 2)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:244:1::%x", i+2)),
	}}
}

func (f *fakePods) setSenders(change func([]filter.Pod) []filter.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Senders = change(slices.Clone(f.state.Senders))
}

func (b *bench) senders() int {
	t, _ := b.table.Table()
	four, _ := t.Set("pods4")
	six, _ := t.Set("pods6")
	if len(four.Elements) != len(six.Elements) {
		return -1
	}
	return len(four.Elements)
}

// TestAllowedPodsStay adds many Pods at once while the loop turns over and over: none is taken for a
// leftover, and those whose ADD fails in the end leave nothing behind.
func TestAllowedPodsStay(t *testing.T) {
	const many = 60
	pods := &fakePods{changed: make(chan struct{}, 1)}
	b := withDevice(t, func(c *Config) { c.Pods = pods })
	b.source.set(cluster(1, 1, 2))
	b.until("readiness", b.ready)
	var work sync.WaitGroup
	for i := range many {
		work.Go(func() {
			pods.setSenders(func(s []filter.Pod) []filter.Pod { return append(s, sender(i)) })
			if err := b.loop.AllowPod(t.Context(), sender(i)); err != nil {
				t.Error(err)
			}
			b.loop.wake(KindSnapshot)
		})
	}
	work.Wait()
	if got := b.senders(); got != many {
		t.Errorf("%d Pods may send, want %d", got, many)
	}
	pods.setSenders(func(s []filter.Pod) []filter.Pod { return s[:many/2] })
	if err := b.loop.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.senders(); got != many/2 {
		t.Errorf("%d Pods may send, want %d", got, many/2)
	}
}

// TestAllowedThenGone has an ADD that fails after its Pod was allowed: what the loop wants is what it
// wanted before, and still it has something to take away.
func TestAllowedThenGone(t *testing.T) {
	pods := &fakePods{changed: make(chan struct{}, 1)}
	b := withDevice(t, func(c *Config) { c.Pods = pods })
	b.source.set(cluster(1, 1))
	b.until("readiness", b.ready)
	if err := b.loop.AllowPod(t.Context(), sender(1)); err != nil {
		t.Fatal(err)
	}
	if err := b.loop.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.senders(); got != 0 {
		t.Errorf("%d Pods may send, want none", got)
	}
}

// TestAllowedWithoutTheTable has somebody delete the table at that moment.
func TestAllowedWithoutTheTable(t *testing.T) {
	pods := &fakePods{changed: make(chan struct{}, 1)}
	b := withDevice(t, func(c *Config) { c.Pods = pods })
	b.source.set(cluster(1, 1))
	b.until("readiness", b.ready)
	if err := b.table.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	pods.setSenders(func([]filter.Pod) []filter.Pod { return []filter.Pod{sender(1)} })
	if err := b.loop.AllowPod(t.Context(), sender(1)); err != nil {
		t.Fatal(err)
	}
	if _, exists := b.table.Table(); !exists || b.senders() != 1 {
		t.Errorf("the table exists: %v, with %d Pods that may send", exists, b.senders())
	}
}
