//go:build linux && netns

package policy

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// narrow is the kernel's table, of which the sets of peers have room for one address only: for a second
// the kernel really refuses the set (ENFILE).
type narrow struct {
	*nft.Kernel
	on      atomic.Bool
	refused atomic.Int32
}

func (n *narrow) bound(s *state.Set) {
	if n.on.Load() && strings.HasPrefix(s.Name, "pods") {
		s.Size = 1
	}
}

func (n *narrow) note(err error) error {
	if errors.Is(err, unix.ENFILE) {
		n.refused.Add(1)
	}
	return err
}

func (n *narrow) Apply(ctx context.Context, c nft.Change) error {
	for i := range c.Sets {
		n.bound(&c.Sets[i])
	}
	for i := range c.Elements {
		n.bound(&c.Elements[i].Set)
	}
	return n.note(n.Kernel.Apply(ctx, c))
}

func (n *narrow) Ensure(ctx context.Context, want state.Table) (nft.Change, error) {
	want.Sets = slices.Clone(want.Sets)
	for i := range want.Sets {
		n.bound(&want.Sets[i])
	}
	done, err := n.Kernel.Ensure(ctx, want)
	return done, n.note(err)
}

// serve answers at port 80 of a Pod, both families.
func (l *lab) serve(p labPod) {
	l.Helper()
	tcp := listen(l, p.ns, func() (*net.TCPListener, error) { return net.ListenTCP("tcp", &net.TCPAddr{Port: 80}) })
	l.Cleanup(func() { _ = tcp.Close() })
	go serveTCP(tcp)
}

// TestRefusedByTheKernel: where the kernel refuses a set, the Pod that it is for is closed, also to those
// whom its policy allows; others are not concerned, and new ones start. For as long as that lasts the
// loop is not ready and its report names the Pod and the kernel's error, between two attempts too.
func TestRefusedByTheKernel(t *testing.T) {
	l := newLab(t)
	front := &narrow{Kernel: l.table}
	l.front = front
	good, bad := l.makePod("prod", "good", 10), l.makePod("prod", "bad", 11)
	friend, second, stranger := l.makePod("prod", "friend", 12), l.makePod("prod", "friend", 13), l.makePod("prod", "stranger", 14)
	l.cluster.setPods(good.Pod, bad.Pod, friend.Pod, second.Pod, stranger.Pod)
	l.cluster.setMissing()
	l.start()
	for _, p := range []labPod{good, bad, friend, second, stranger} {
		l.add(p)
	}
	l.serve(good)
	l.serve(bad)
	reaches := func(from, to labPod) bool {
		t.Helper()
		open, err := l.reaches(from, to, 80)
		if err != nil {
			t.Error(err)
		}
		return open
	}
	if !reaches(stranger, bad) || !reaches(friend, bad) {
		t.Fatal("without a policy the Pod is not open")
	}
	front.on.Store(true)
	l.cluster.setPolicy(snapshot.NetworkPolicy{Namespace: "prod", Name: "friends", Types: []string{"Ingress"},
		PodSelector: snapshot.Selector{MatchLabels: bad.Labels},
		Ingress:     []snapshot.NetworkPolicyRule{{Peers: []snapshot.NetworkPolicyPeer{{PodSelector: &snapshot.Selector{MatchLabels: friend.Labels}}}}}})
	l.eventually("the kernel's refusal", func() bool { r, _ := l.loop.Report(); return len(r.Shut) > 0 })
	amiss := func() {
		t.Helper()
		r, _ := l.loop.Report()
		if !slices.Equal(r.Shut, []string{"prod/bad-11"}) || !errors.Is(r.Err, unix.ENFILE) || l.loop.Ready() == nil {
			t.Errorf("report %+v, ready: %v", r, l.loop.Ready())
		}
	}
	amiss()
	if reaches(stranger, bad) || reaches(friend, bad) {
		t.Error("the Pod whose rules the kernel refuses is open")
	}
	if !reaches(stranger, good) {
		t.Error("another Pod is closed")
	}
	late := l.makePod("prod", "late", 15)
	l.cluster.setPods(late.Pod)
	l.add(late)
	l.serve(late)
	if !reaches(stranger, late) {
		t.Error("a Pod that is added meanwhile is closed")
	}
	before := front.refused.Load()
	l.eventually("two more attempts", func() bool { amiss(); return front.refused.Load() >= before+2 })
	if reaches(friend, bad) {
		t.Error("an attempt has opened the Pod")
	}
	front.on.Store(false)
	l.eventually("readiness", func() bool { r, _ := l.loop.Report(); return len(r.Shut) == 0 && l.loop.Ready() == nil })
	if !reaches(friend, bad) || reaches(stranger, bad) {
		t.Error("the policy is not in force once the kernel takes it")
	}
}
