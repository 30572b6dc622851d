//go:build netns

package filter_test

import (
	"testing"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/kernel/nft"
)

// TestAPodSendsOnceItIsKnown has a Pod that the table does not know yet, as before its CNI ADD answers.
func TestAPodSendsOnceItIsKnown(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll(port)
	in := input()
	pod1 := in.Pods[0]
	in.Pods = in.Pods[1:]
	l.apply(in)
	for _, to := range []pair{pod2Addr, nodeAddr, remoteAddr, farAddr} {
		l.refuse("pod1", pod1Addr, to, port, filter.CounterSpoofed)
	}
	k := l.open()
	defer func() { _ = k.Close() }()
	for range 2 {
		if err := k.AddElements(t.Context(), filter.PodElements(pod1)); err != nil {
			t.Fatal(err)
		}
	}
	l.expect("pod1", pod2Addr, port, "pod2", pod1Addr)
	l.expect("pod1", nodeAddr, port, "node", pod1Addr)
	l.expect("pod1", remoteAddr, port, "peer", pod1Addr)
	l.expect("pod1", farAddr, port, "outside", nodeAddr)
}

// TestARouteDoesNotMakeAnAddressAPods has more addresses routed to a Pod than the Pod was given, and the
// addresses of two Pods exchanged.
func TestARouteDoesNotMakeAnAddressAPods(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll(port)
	in := input()
	l.apply(in)
	l.address("pod1", "eth0", lostAddr)
	l.routes("weftp1", lostAddr)
	for _, to := range []pair{pod2Addr, nodeAddr, remoteAddr, farAddr} {
		l.refuse("pod1", lostAddr, to, port, filter.CounterSpoofed)
	}
	in.Pods[0].Link, in.Pods[1].Link = in.Pods[1].Link, in.Pods[0].Link
	l.apply(in)
	for _, to := range []pair{nodeAddr, farAddr} {
		l.refuse("pod1", pod1Addr, to, port, filter.CounterSpoofed)
		l.refuse("pod2", pod2Addr, to, port, filter.CounterSpoofed)
	}
}

// TestUpdateKeepsWhatWasAdded writes the table with one Pod, adds another's elements beside it, and lets
// an Update that knows of both find nothing to do, one that knows of the first take the second away.
func TestUpdateKeepsWhatWasAdded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	k := l.open()
	defer func() { _ = k.Close() }()
	if _, err := k.Subscribe(t.Context()); err != nil {
		t.Fatal(err)
	}
	both := input()
	one := input()
	one.Pods = one.Pods[:1]
	update := func(in filter.Input) nft.Change {
		c, err := k.Update(t.Context(), filter.Table(in))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	update(one)
	if err := k.AddElements(t.Context(), filter.PodElements(both.Pods[1])); err != nil {
		t.Fatal(err)
	}
	if c := update(both); !c.Empty() {
		t.Errorf("the update does\n%s", c)
	}
	if c := update(one); len(c.Elements) != 2 {
		t.Errorf("the update back does\n%s", c)
	}
	have, err := k.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c := nft.Diff(have, filter.Table(one)); !c.Empty() {
		t.Errorf("the kernel lacks\n%s", c)
	}
}
